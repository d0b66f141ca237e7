"""Reading positions, dtypes and `x`, and refusing what they cannot be."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from posenc.spec import checks

Tensor: TypeAlias = Any  # TensorFlow ships no usable types
Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int | None, ...]
Positions: TypeAlias = "range | Array | Tensor"
"""On the host a range, or an int64 or float64 array, checked; otherwise a tensor: int64, float32 or float64."""


def on_host(tensor: Tensor) -> bool:
    """Whether an eager tensor's memory is the CPU's."""
    return "CPU" in tensor.backing_device


def read_positions(where: str, positions: Any) -> Positions:
    """Positions on the host where they are at hand, else the tensor; values are checked where they are at hand."""
    if isinstance(positions, range):
        return checks.position_range(where, positions)
    listed = checks.position_list(where, positions)
    if listed is not None:
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
        return _checked(where, positions.numpy())
    return tf.cast(positions, tf.int64) if positions.dtype.is_integer else positions


def as_tensor(positions: Positions) -> Tensor:
    """Positions as a tensor of the device or graph that is current: int64, float32 or float64."""
    if isinstance(positions, range):
        first, step = tf.constant(positions.start, tf.int64), tf.constant(positions.step, tf.int64)
        return first + step * tf.range(len(positions), dtype=tf.int64)
    return tf.convert_to_tensor(positions)


def _position_dtype(where: str, name: str) -> None:
    integer = name.removeprefix("u") in ("int8", "int16", "int32", "int64")
    if not integer and name not in ("float32", "float64"):
        raise checks.position_dtype_error(where, name)


def _checked(where: str, positions: Array) -> Array:
    _position_dtype(where, positions.dtype.name)
    limit = checks.POSITION_LIMIT
    bad = ~((positions > -limit) & (positions < limit))  # not abs: the least int64 has none, and NaN must be caught
    if bad.any():
        raise checks.position_value_error(where, positions[bad][0].item())
    return positions.astype(np.int64 if positions.dtype.kind in "iu" else np.float64, copy=False)


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


def check_broadcast(where: str, positions: Positions, x: Tensor) -> None:
    """Refuse positions whose shape, as far as it is known, cannot broadcast to `x.shape[:-1]`."""
    shape = (
        (len(positions),) if isinstance(positions, range) else tuple(positions.shape) if _ranked(positions) else None
    )
    if shape is None or x.shape.rank is None:
        return
    target = tuple(x.shape[:-1])
    if not checks.broadcasts(*agreed(shape, target)):
        raise checks.positions_shape_error(where, target, shape)


def agreed(shape: Shape, target: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both shapes with sizes where none is known: one that may be any agrees with whatever stands opposite."""
    known = tuple(1 if n is None else n for n in shape)
    opposite = (1,) * (len(target) - len(known)) + known[max(0, len(known) - len(target)) :]
    return known, tuple(o if n is None else n for n, o in zip(target, opposite, strict=True))


def _ranked(positions: Any) -> bool:
    return isinstance(positions, np.ndarray) or positions.shape.rank is not None
