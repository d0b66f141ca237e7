"""Slopes times integers, correctly rounded.

`high * n` is exact in float64, and `low * n` some 2^21 times smaller: their sum errs by a relative 2^-52.9 at most.
Where that could change the rounding the specification is asked; where `low` is 0 there is no error to speak of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl.formats import differ, midpoints, narrow, settle
from posenc.numpy_impl.inputs import DTYPES
from posenc.numpy_impl.waves import Float64
from posenc.spec.distance_plan import Slope, SlopeSpec

DOUBT = 2.0**-51  # of the value: at most 4 units of float64, with the roundings of the bounds
_BELOW, _MIDDLE = (1 << 29) - 1, 1 << 28  # of a float64: the bits below the last place of a float32, and a midpoint's

_INFINITE = 65520.0  # what float16 rounds to infinity


def multiples(spec: SlopeSpec, slope: Slope, head: int, n: Float64, name: str) -> NDArray[Any]:
    """The slope of a head times integers below 2^32, in any shape; float64 within 1 unit in the last place."""
    value = n * slope.high
    if slope.low:
        value += n * slope.low
    if name == "float64":
        return value
    rounded, near = _rounded(value, name)
    if near.any():
        some = value[near]
        if slope.low:
            few, undecided = differ(some * (1 - DOUBT), some * (1 + DOUBT), name)
            if undecided.any():
                asked, places = np.unique(n[near][undecided], return_inverse=True)
                few[undecided] = np.array([spec.value(int(m), head, name) for m in asked])[places]
        else:
            few = narrow(some, name)
        rounded[near] = few
    return rounded


def _rounded(value: Float64, name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values rounded, and where that, or a small error of the value, may matter: next to midpoints.

    Halves are rounded twice, by way of float32: that is once, unless the float32 is a midpoint.
    """
    single = value.astype(np.float32)
    if name == "float32":
        rest = value.view(np.int64) + (_MIDDLE + 8)
        rest &= _BELOW
        return single, rest <= 16
    near = midpoints(single, name)
    if name == "float16":
        settle(single)
        # NumPy takes 30 times longer over a conversion that overflows
        np.copyto(single, np.copysign(np.float32(np.inf), single), where=np.abs(single) >= _INFINITE)
    return single.astype(DTYPES[name]), near
