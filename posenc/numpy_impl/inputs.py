"""Positions, dtypes and arrays as they are handed over, read or refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from posenc.spec import checks

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
    """Integers, float32 or float64 of any shape: a number, nested lists, a range, or what has `__array__`."""
    if isinstance(positions, range):
        return Positions((len(positions),), checks.position_range(where, positions))
    numbers = checks.position_list(where, positions)
    if numbers is not None:
        return Positions(numbers.shape, np.array(numbers.values, np.int64 if numbers.integral else np.float64))
    if not hasattr(positions, "__array__"):
        raise checks.position_dtype_error(where, type(positions).__name__)
    array = np.asarray(positions)
    flat = array.reshape(-1)
    wide: np.dtype[Any]
    if array.dtype.kind in "iu":
        outside = (flat >= checks.POSITION_LIMIT) | (flat <= -checks.POSITION_LIMIT)
        wide = np.dtype(np.int64)
    elif array.dtype.name in ("float32", "float64"):
        outside = ~(np.abs(flat) < checks.POSITION_LIMIT)  # NaN is outside too
        wide = np.dtype(np.float64)
    else:
        raise checks.position_dtype_error(where, array.dtype.name)
    if outside.any():
        raise checks.position_value_error(where, flat[outside.argmax()].item())
    return Positions(array.shape, flat.astype(wide, copy=False))


def read_dtype(where: str, dtype: object) -> str:
    """The name of an output dtype."""
    name = checks.output_dtype_name(where, dtype)
    if name is not None:
        return name
    try:
        found = np.dtype(dtype).name  # type: ignore[call-overload]  # the TypeError is the question
    except TypeError:
        raise checks.output_dtype_error(where, checks.shown(dtype)) from None
    if found not in DTYPES:
        raise checks.output_dtype_error(where, found)
    return str(found)


def read_x(where: str, x: object, dim: int) -> NDArray[Any]:
    """The array that is added to or turned, one of the four dtypes, `(..., dim)`."""
    if not hasattr(x, "__array__"):
        raise checks.x_dtype_error(where, type(x).__name__)
    array = np.asarray(x)
    name = _name(array.dtype)
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
    checks.check_table(where, pairs, (_name(cos.dtype), _name(sin.dtype)), (cos.shape, sin.shape))
    if not checks.table_fits(cos.shape[:-1], lead):
        raise checks.table_shape_error(where, lead, cos.shape[:-1])
    return cos, sin


def _name(dtype: np.dtype[Any]) -> str:
    """Of the four, in either byte order, and of any other; asking NumPy for a name takes longer than a sum."""
    return _NAMES.get(dtype) or dtype.name
