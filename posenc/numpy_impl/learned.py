"""Learned tables: the rows that positions read, and tables resized to another grid.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posenc.numpy_impl.formats import converted
from posenc.numpy_impl.inputs import as_array, name_of, read_positions, read_weights
from posenc.numpy_impl.waves import Float64
from posenc.spec import weight_checks
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec, Taps, resize_plan, row_plan

AT_A_TIME = 2**15
"""Values that are scaled or resampled at a time: with their temporaries they stay in the second-level cache."""
NARROWEST = 8
"""Channels resampled together at least: fewer would read a line of the cache several times."""


def lookup(spec: RowSpec, weights: ArrayLike, positions: ArrayLike | range) -> NDArray[Any]:
    """The rows that positions read, `(*P,)` -> `(*P, dim)`, in a new array of the dtype of `weights`.

    `weights` of shape `spec.weight_shape`; positions are integers, and those that have no row are refused.
    """
    plan = row_plan("lookup", spec)
    array = read_weights("lookup", weights, (plan.rows, plan.dim))
    shape, p = read_positions("lookup.positions", positions)
    p = as_array(p)
    outside = (p < plan.low) | (p > plan.high)
    if outside.any():
        raise weight_checks.row_position_error("lookup", plan.low, plan.high, int(p[outside.argmax()]))
    out: NDArray[Any] = array[p + plan.offset]
    if plan.scale != 1:
        wide: Any = np.float64 if array.itemsize == 8 else np.float32
        rows = max(1, AT_A_TIME // plan.dim)
        with np.errstate(all="ignore"):
            for first in range(0, len(out), rows):
                part = out[first : first + rows]
                part[...] = part.astype(wide) * wide(plan.scale)
    return out.reshape(*shape, plan.dim)


def resize(spec: RowSpec, weights: ArrayLike, shape: Sequence[int], *, method: Method) -> NDArray[Any]:
    """The table with another grid, `(rows, dim)` -> `(kept + prod(shape), dim)`: in float64, and rounded once.

    `weights` of shape `spec.weight_shape`; `shape` has a size for every axis of the grid of `spec`.
    """
    plan = resize_plan("resize", spec, shape, method)
    array = read_weights("resize", weights, (plan.rows, plan.dim))
    name = name_of(array.dtype)
    out = np.empty((plan.kept + math.prod(plan.shape), plan.dim), array.dtype)
    out[: plan.kept] = array[: plan.kept]
    grid, result = array[plan.kept :], out[plan.kept :]
    width = max(NARROWEST, 2 * AT_A_TIME // max(len(grid), len(result)))
    # infinities and NaN reach what reads them, in silence; so does what the dtype cannot hold
    with np.errstate(all="ignore"):
        for first in range(0, plan.dim, width):
            channels = slice(first, first + width)
            x = grid[:, channels].astype(np.float64).reshape(*plan.grid, -1)
            for axis, taps in enumerate(plan.axes):
                x = x if taps is None else _along(axis, taps, x)
            result[:, channels] = converted(x.reshape(len(result), -1), name)
    return out


def _along(axis: int, taps: Taps, x: Float64) -> Float64:
    """One axis resampled; each product and each sum is rounded once, taps in ascending order."""
    x = x.swapaxes(0, axis)
    index = np.array(taps.index)
    weights = np.array(taps.weights).reshape(*index.shape, *(1,) * (x.ndim - 1))
    result = np.empty((len(index), *x.shape[1:]))
    outputs = max(1, AT_A_TIME // max(1, result[0].size))
    for first in range(0, len(index), outputs):
        part = slice(first, first + outputs)
        total = np.multiply(weights[part, 0], x[index[part, 0]], out=result[part])
        for tap in range(1, index.shape[1]):
            # an output with fewer taps has weights of 0 in place of those it lacks: 0 times infinity is not added
            some = weights[part, tap].reshape(-1).nonzero()[0]
            if len(some) == len(total):
                total += weights[part, tap] * x[index[part, tap]]
            else:
                total[some] += weights[part, tap][some] * x[index[part, tap][some]]
    return result.swapaxes(0, axis)
