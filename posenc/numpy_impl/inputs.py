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
_KNOWN = frozenset(DTYPES.values())


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
    if not _known(array.dtype):
        raise checks.x_dtype_error(where, array.dtype.name)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise checks.x_shape_error(where, dim, array.shape)
    return array


def read_table(where: str, table: object, pairs: int, lead: tuple[int, ...]) -> list[NDArray[Any]]:
    """Cosines and sines, `(*P, pairs)` each, for an `x` of axes `lead` besides heads and channels."""
    if not isinstance(table, tuple | list):
        raise checks.table_form_error(where, pairs, type(table).__name__)
    if len(table) != 2:
        raise checks.table_form_error(where, pairs, f"a {type(table).__name__} of {len(table)}")
    if not all(hasattr(part, "__array__") for part in table):
        raise checks.table_form_error(where, pairs, " and ".join(type(part).__name__ for part in table))
    parts = [np.asarray(part) for part in table]
    if parts[0].dtype != parts[1].dtype or not _known(parts[0].dtype):
        raise checks.table_form_error(where, pairs, " and ".join(part.dtype.name for part in parts))
    shapes = [part.shape for part in parts]
    if shapes[0] != shapes[1] or not shapes[0] or shapes[0][-1] != pairs:
        raise checks.table_form_error(where, pairs, " and ".join(map(str, shapes)))
    if not checks.table_fits(shapes[0][:-1], lead):
        raise checks.table_shape_error(where, lead, shapes[0][:-1])
    return parts


def _known(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of the four, in either byte order; asking NumPy for a name takes longer than a sum."""
    return dtype in _KNOWN or dtype.name in DTYPES
