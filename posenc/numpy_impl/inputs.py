"""Positions, dtypes and arrays as they are handed over, read or refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from posenc.spec import checks, weight_checks

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Positions(NamedTuple):
    """Positions in row-major order and the shape they came in; `values` is a range, int64 or float64."""

    shape: tuple[int, ...]
    values: range | NDArray[Any]


def read_positions(where: str, positions: object) -> Positions:
    """Integers, float32 or float64 of any shape: a number, nested lists, a range, or what has `__array__`.

    Integers only where `where` names an argument, as `rows.key_positions` does.
    """
    floats = "." not in where
    if isinstance(positions, range):
        return Positions((len(positions),), checks.position_range(where, positions))
    numbers = checks.position_list(where, positions)
    if numbers is not None:
        if not (numbers.integral or floats):
            raise checks.position_dtype_error(where, "float")
        return Positions(numbers.shape, np.array(numbers.values, np.int64 if numbers.integral else np.float64))
    if not hasattr(positions, "__array__"):
        raise checks.position_dtype_error(where, type(positions).__name__)
    array = np.asarray(positions)
    flat = array.reshape(-1)
    wide: np.dtype[Any]
    if array.dtype.kind in "iu":
        outside = (flat >= checks.POSITION_LIMIT) | (flat <= -checks.POSITION_LIMIT)
        wide = np.dtype(np.int64)
    elif floats and array.dtype.name in ("float32", "float64"):
        outside = ~(np.abs(flat) < checks.POSITION_LIMIT)  # NaN is outside too
        wide = np.dtype(np.float64)
    else:
        raise checks.position_dtype_error(where, array.dtype.name)
    if outside.any():
        raise checks.position_value_error(where, flat[outside.argmax()].item())
    return Positions(array.shape, flat.astype(wide, copy=False))


def as_array(values: range | NDArray[Any]) -> NDArray[Any]:
    """Positions as an array: NumPy takes 40 times longer over a range that it has to count through."""
    if isinstance(values, range):
        return np.arange(values.start, values.stop, values.step, dtype=np.int64)
    return values


class Pair(NamedTuple):
    """Leading axes of a result; positions `(*lead, length, axes)`, with 1 in place of a size that does not vary."""

    lead: tuple[int, ...]
    query: NDArray[np.int64]
    key: NDArray[np.int64]


def read_pair(where: str, axes: int, query: object, key: object) -> Pair:
    """Positions of queries and keys, `(*B, length)`, or `(*B, length, axes)` where a position has several integers."""
    names = f"{where}.query_positions", f"{where}.key_positions"
    both = [read_positions(name, positions) for name, positions in zip(names, (query, key), strict=True)]
    behind = 1 if axes == 1 else 2
    for name, (shape, _) in zip(names, both, strict=True):
        if len(shape) < behind or (axes > 1 and shape[-1] != axes):
            raise weight_checks.pair_shape_error(name, axes, shape)
    leads = [shape[:-behind] for shape, _ in both]
    lead = tuple(size or 0 for size in weight_checks.pair_lead(where, *leads))
    aligned = (
        as_array(p).reshape(*(1,) * (len(lead) - len(own)), *own, shape[len(own)], axes)
        for own, (shape, p) in zip(leads, both, strict=True)
    )
    return Pair(lead, *aligned)


def read_weights(where: str, weights: object, shape: tuple[int, int]) -> NDArray[Any]:
    """Trained numbers, of one of the four dtypes."""
    if not hasattr(weights, "__array__"):
        raise weight_checks.weights_kind_error(where, weights)
    array = np.asarray(weights)
    name = name_of(array.dtype)
    if name not in DTYPES:
        raise weight_checks.weights_dtype_error(where, name)
    if array.shape != shape:
        raise weight_checks.weights_shape_error(where, shape, array.shape)
    return array


def read_dtype(where: str, dtype: object) -> str:
    """The name of an output dtype."""
    name = checks.output_dtype_name(where, dtype)
    if name is not None:
        return name
    try:
        found = name_of(np.dtype(dtype))  # type: ignore[call-overload]  # the TypeError is the question
    except TypeError:
        raise checks.output_dtype_error(where, checks.shown(dtype)) from None
    if found not in DTYPES:
        raise checks.output_dtype_error(where, found)
    return found


def read_x(where: str, x: object, dim: int) -> NDArray[Any]:
    """The array that is added to or turned, one of the four dtypes, `(..., dim)`."""
    if not hasattr(x, "__array__"):
        raise checks.x_dtype_error(where, type(x).__name__)
    array = np.asarray(x)
    name = name_of(array.dtype)
    if name not in DTYPES:
        raise checks.x_dtype_error(where, name)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise checks.x_shape_error(where, dim, array.shape)
    return array


def read_table(where: str, table: object, pairs: int, lead: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cosines and sines, `(*P, pairs)` each, for an `x` of axes `lead` besides heads and channels."""
    parts = checks.table_parts(where, pairs, table)
    if not all(hasattr(part, "__array__") for part in parts):
        raise checks.table_kind_error(where, pairs, *parts)
    cos, sin = (np.asarray(part) for part in parts)
    checks.check_table(where, pairs, (name_of(cos.dtype), name_of(sin.dtype)), (cos.shape, sin.shape))
    if not checks.table_fits(cos.shape[:-1], lead):
        raise checks.table_shape_error(where, lead, cos.shape[:-1])
    return cos, sin


def name_of(dtype: np.dtype[Any]) -> str:
    """Of the four, in either byte order, and of any other; asking NumPy for a name takes longer than a sum."""
    return _NAMES.get(dtype) or dtype.name
