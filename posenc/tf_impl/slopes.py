"""Slopes times integers, correctly rounded on the host.

`high * n` is exact in float64, so that its sum with `low * n` is off by little more than half a unit in its last place.
Within eight units of a boundary, where the real number may round to either side, `spec.value` is asked, once for each
integer and head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec.distance_plan import DistancePlan, SlopeSpec
from posenc.spec.exact import FORMATS
from posenc.tf_impl.formats import rounded_array
from posenc.tf_impl.inputs import Array

UNITS = 8
BLOCK = 2**15
"""Products of a block, small enough for a cache."""


def products(spec: SlopeSpec, plan: DistancePlan, numbers: Array, heads: range, dtype: Any) -> Array:
    """Integers `(n,)`, as float64 -> `(heads, n)` in a NumPy array of `dtype`."""
    result = np.empty((len(heads), len(numbers)), dtype.as_numpy_dtype)
    width = max(1, min(BLOCK, len(numbers)))
    height = max(1, BLOCK // width)
    for start in range(0, len(numbers), width):
        n = numbers[start : start + width]
        for first in range(0, len(heads), height):
            few = heads[first : first + height]
            high, low = (np.array([[plan.slopes[head][part]] for head in few]) for part in (0, 1))
            value = high * n
            value += low * n
            block = rounded_array(value, dtype)
            if dtype != tf.float64 and low.any():  # without a second part the product is exact
                doubtful = _near_boundary(value, dtype)
                if doubtful.any():
                    _decide(spec, block, n, few, doubtful & (low != 0), dtype.name)
            result[first : first + height, start : start + width] = block
    return result


def _near_boundary(value: Array, dtype: Any) -> Array:
    """Where float64 values are within some units of the middle between two numbers of `dtype`."""
    precision, least, _ = FORMATS[dtype.name]
    half = 1 << (52 - precision)
    near: Array = ((value.view(np.int64) + (UNITS - half)) & (2 * half - 1)) <= 2 * UNITS
    if dtype == tf.float16:  # the others have no subnormal product
        size = np.abs(value)
        parts = size * 2.0**-least
        middle = np.abs(parts - np.floor(parts) - 0.5) <= UNITS * 2.0 ** (precision - 53)
        near = np.where(size < 2.0 ** (least + precision - 1), middle, near)
    return near


def _decide(spec: SlopeSpec, block: Array, numbers: Array, heads: range, doubtful: Array, dtype: str) -> None:
    """Fill in what float64 could not decide."""
    known: dict[tuple[int, int], float] = {}
    for row, column in np.argwhere(doubtful).tolist():
        asked = int(numbers[column]), heads[row]
        if asked not in known:
            known[asked] = spec.value(*asked, dtype)
        block[row, column] = known[asked]  # a number of this dtype: nothing is rounded
