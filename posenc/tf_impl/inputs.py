"""Reading positions, dtypes and `x`, and refusing what they cannot be."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from posenc.spec import checks, weight_checks
from posenc.spec.distance_plan import DistancePlan

Tensor: TypeAlias = Any  # TensorFlow ships no usable types
Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int | None, ...]
Positions: TypeAlias = "range | Array | Tensor"
"""On the host a range, or an int64 or float64 array, checked; otherwise a tensor: int64, float32 or float64."""


def on_host(tensor: Tensor) -> bool:
    """Whether an eager tensor's memory is the CPU's."""
    return "CPU" in tensor.backing_device


def read_positions(where: str, positions: Any) -> Positions:
    """Positions on the host where they are at hand, else the tensor; values are checked where they are at hand.

    A `where` that names the argument too, as in `rows.key_positions`, takes integers only.
    """
    if isinstance(positions, range):
        return checks.position_range(where, positions)
    listed = checks.position_list(where, positions)
    if listed is not None:
        if not listed.integral and "." in where:
            raise checks.position_dtype_error(where, "float")
        dtype = np.int64 if listed.integral else np.float64
        return np.array(listed.values, dtype).reshape(listed.shape)
    if isinstance(positions, tf.RaggedTensor | tf.SparseTensor | tf.IndexedSlices):
        raise checks.position_dtype_error(where, type(positions).__name__)
    if isinstance(positions, tf.Variable) or hasattr(positions, "__tf_tensor__"):
        positions = tf.convert_to_tensor(positions)
    if not tf.is_tensor(positions):
        if not hasattr(positions, "__array__"):
            raise checks.position_dtype_error(where, type(positions).__name__)
        return _checked(where, np.asarray(positions))
    _position_dtype(where, positions.dtype.name)
    if hasattr(positions, "numpy") and tf.executing_eagerly() and on_host(positions):
        return _checked(where, np.asarray(positions))
    if positions.dtype == tf.uint64:  # as int64 the greatest would be -1
        positions = tf.minimum(positions, tf.constant(2**62, tf.uint64))
    return tf.cast(positions, tf.int64) if positions.dtype.is_integer else positions


def as_tensor(positions: Positions) -> Tensor:
    """Positions as a tensor of the device or graph that is current: int64, float32 or float64."""
    if isinstance(positions, range):
        first, step = tf.constant(positions.start, tf.int64), tf.constant(positions.step, tf.int64)
        return first + step * tf.range(len(positions), dtype=tf.int64)
    return tf.convert_to_tensor(positions)


def _position_dtype(where: str, name: str) -> None:
    integer = name.removeprefix("u") in ("int8", "int16", "int32", "int64")
    if not integer and ("." in where or name not in ("float32", "float64")):
        raise checks.position_dtype_error(where, name)


def _checked(where: str, positions: Array) -> Array:
    _position_dtype(where, positions.dtype.name)
    limit = checks.POSITION_LIMIT
    bad = ~((positions > -limit) & (positions < limit))  # not abs: the least int64 has none, and NaN must be caught
    if bad.any():
        raise checks.position_value_error(where, positions[bad][0].item())
    return positions.astype(np.int64 if positions.dtype.kind in "iu" else np.float64, copy=False)


def as_array(positions: range | Array) -> Array:
    """Positions on the host as an array of integers or floats."""
    if isinstance(positions, range):
        return np.arange(positions.start, positions.stop, positions.step, dtype=np.int64)
    return positions


def shape_of(positions: Positions) -> Shape | None:
    """The shape of positions, or of `x`; None where not even the number of axes is known."""
    if isinstance(positions, range):
        return (len(positions),)
    return tuple(positions.shape) if _ranked(positions) else None


def read_dtype(where: str, dtype: object) -> Any:
    name = checks.output_dtype_name(where, dtype)
    try:
        if isinstance(dtype, int):
            raise TypeError  # TensorFlow would read it as the number of a dtype
        result = tf.as_dtype(name or dtype)
    except TypeError:
        raise checks.output_dtype_error(where, checks.shown(dtype)) from None
    if result.name not in checks.OUTPUT_DTYPES:
        raise checks.output_dtype_error(where, result.name)
    return result


def read_x(where: str, x: Any, dim: int, *, rows: bool = False) -> Tensor:
    """`x` as a dense tensor of shape (..., dim); `rows`: its second last axis must say the positions."""
    if isinstance(x, tf.RaggedTensor | tf.SparseTensor) or not hasattr(x, "dtype"):
        raise checks.x_dtype_error(where, type(x).__name__)
    try:
        x = tf.convert_to_tensor(x)
    except (TypeError, ValueError):
        raise checks.x_dtype_error(where, type(x).__name__) from None
    if x.dtype.name not in checks.OUTPUT_DTYPES:
        raise checks.x_dtype_error(where, x.dtype.name)
    if x.shape.rank is None:
        return x
    if x.shape.rank == 0 or x.shape[-1] not in (dim, None):
        raise checks.x_shape_error(where, dim, x.shape)
    if rows and x.shape.rank < 2:
        raise checks.x_rank_error(where, dim, x.shape)
    return x


def read_weights(where: str, weights: Any, shape: tuple[int, int]) -> Tensor:
    """Weights as a dense tensor of the shape that a specification has."""
    if isinstance(weights, tf.RaggedTensor | tf.SparseTensor | tf.IndexedSlices) or not hasattr(weights, "dtype"):
        raise weight_checks.weights_kind_error(where, weights)
    if isinstance(weights, np.ndarray) and weights.dtype.name not in checks.OUTPUT_DTYPES:
        raise weight_checks.weights_dtype_error(where, weights.dtype.name)  # also of what makes no tensor
    try:
        weights = tf.convert_to_tensor(weights)
    except (TypeError, ValueError, RuntimeError):  # the last from parameters of PyTorch
        raise weight_checks.weights_kind_error(where, weights) from None
    if weights.dtype.name not in checks.OUTPUT_DTYPES:
        raise weight_checks.weights_dtype_error(where, weights.dtype.name)
    if not weights.shape.is_compatible_with(shape):
        raise weight_checks.weights_shape_error(where, shape, tuple(weights.shape))
    return weights if weights.shape.is_fully_defined() else tf.ensure_shape(weights, shape)


def check_broadcast(where: str, shape: Shape | None, x: Shape | None) -> None:
    """Refuse positions whose shape, as far as it is known, cannot broadcast to that of `x` without its last axis."""
    if shape is not None and x is not None and not checks.broadcasts(*agreed(shape, x[:-1])):
        raise checks.positions_shape_error(where, x[:-1], shape)


def agreed(shape: Shape, target: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both shapes with sizes where none is known: one that may be any agrees with whatever stands opposite."""
    known = tuple(1 if n is None else n for n in shape)
    opposite = (1,) * (len(target) - len(known)) + known[max(0, len(known) - len(target)) :]
    return known, tuple(o if n is None else n for n, o in zip(target, opposite, strict=True))


def _ranked(positions: Any) -> bool:
    return isinstance(positions, np.ndarray) or positions.shape.rank is not None


class Pairs(NamedTuple):
    """Positions of queries and keys as they were read; where both are at hand also as arrays `(B, n)`, `(B, n, axes)`.

    `lead`: the leading axes of a result, as far as they are known.
    """

    query: Positions
    key: Positions
    lead: Shape
    arrays: tuple[Array, Array] | None

    @property
    def on_host(self) -> bool:
        """Whether the result is computed here and now, on the CPU."""
        return self.arrays is not None and tf.executing_eagerly()

    def tensors(self) -> tuple[Tensor, Tensor]:
        return as_tensor(self.query), as_tensor(self.key)


def read_pairs(where: str, axes: int, query: object, key: object) -> Pairs:
    """Positions of one length each, or of a length and `axes` coordinates, and of leading axes that fit."""
    names = f"{where}.query_positions", f"{where}.key_positions"
    q, k = (read_positions(name, given) for name, given in zip(names, (query, key), strict=True))
    shapes = shape_of(q), shape_of(k)
    tail = 1 if axes == 1 else 2
    for name, shape in zip(names, shapes, strict=True):
        if shape is not None and (len(shape) < tail or (tail == 2 and shape[-1] not in (axes, None))):
            raise weight_checks.pair_shape_error(name, axes, shape)
    if shapes[0] is None or shapes[1] is None:
        return Pairs(q, k, (), None)
    lead = weight_checks.pair_lead(where, shapes[0][:-tail], shapes[1][:-tail])
    if tf.is_tensor(q) or tf.is_tensor(k):
        return Pairs(q, k, lead, None)
    return Pairs(q, k, lead, (_rows_of(as_array(q), lead, tail), _rows_of(as_array(k), lead, tail)))


def _rows_of(positions: Array, lead: Shape, tail: int) -> Array:
    """`(B, ...)`: as many rows as `lead` says, and their last `tail` axes."""
    shape, known = positions.shape[-tail:], tuple(n or 0 for n in lead)
    return np.broadcast_to(positions, (*known, *shape)).reshape(math.prod(known), *shape)


def check_distances(where: str, plan: DistancePlan, query: Array, key: Array) -> None:
    """Refuse the first pair without a row, where that is a mistake."""
    if not (query.size and key.size):
        return
    shape = (*query.shape[:2], 1, -1)
    q, k = query.reshape(shape), key.reshape(*key.shape[:2], -1)
    low, high = np.transpose([plan.bounds(axis) for axis in range(len(plan.axes))])
    if ((k.min(1) - q.max((1, 2)) >= low) & (k.max(1) - q.min((1, 2)) <= high)).all():
        return
    for b, i in np.ndindex(q.shape[:2]):
        distance = k[b] - q[b, i]
        outside = (distance < low) | (distance > high)
        if outside.any():
            first, axis = np.argwhere(outside)[0]
            received = int(distance[first, axis])
            raise weight_checks.distance_error(where, int(axis), int(low[axis]), int(high[axis]), received)
