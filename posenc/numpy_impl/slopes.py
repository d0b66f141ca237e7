"""Slopes times integers, correctly rounded.

A slope lies between two float64 numbers, a little below it and a little above it, and what it gives lies between their
products. Where these round to the same that is the result; elsewhere the specification is asked. A slope without a low
part is exact, and so are its products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl.formats import differ, midpoints, settle
from posenc.numpy_impl.waves import Float64
from posenc.numpy_impl.words import Int64
from posenc.spec.distance_plan import Slope, SlopeSpec

AT_A_TIME = 2**15
"""Products computed at a time: with their temporaries they stay in the second-level cache."""
DOUBT = 2.0**-51
"""Of a slope: above 3 * 2^-53, for the roundings of the sum of its parts, of the bound and of the product."""
_INFINITE = 65520.0  # what float16 rounds to infinity


def multiples(spec: SlopeSpec, slopes: tuple[Slope, ...], name: str) -> Callable[[Int64, NDArray[Any]], None]:
    """What writes the slopes times integers `(..., Q, K)`, of magnitude below 2^32, into `(..., heads, Q, K)`.

    float64 is within 1 unit in the last place.
    """
    parts = _parts(slopes)

    def write(n: Int64, out: NDArray[Any]) -> None:
        real = n.astype(np.float64)[..., None, :, :]
        step = max(1, AT_A_TIME // n.size)
        for first in range(0, len(slopes), step):
            high, low, below, above = parts[:, first : first + step]
            some = out[..., first : first + step, :, :]
            if name == "float64":
                np.multiply(real, high, out=some)
                some += real * low
                continue
            near = _rounded(real, below, above if low.any() else None, name, some)
            if near is not None and near.any():
                *lead, head, q, k = np.unravel_index(np.flatnonzero(near), near.shape)
                few = n[(*lead, q, k)]
                rounded, undecided = differ(few * below[head, 0, 0], few * above[head, 0, 0], name)
                if undecided.any():
                    pairs = np.stack((few[undecided], first + head[undecided]))
                    asked, places = np.unique(pairs, axis=1, return_inverse=True)
                    rounded[undecided] = np.array([spec.value(m, h, name) for m, h in asked.T.tolist()])[places]
                some[near] = rounded

    return write


@lru_cache(maxsize=64)
def _parts(slopes: tuple[Slope, ...]) -> Float64:
    """high, low, and the bounds, which are the slope where it is exact: `(4, heads, 1, 1)`."""
    high, low, _ = np.array(slopes).T[:, :, None, None]
    doubt = DOUBT * (low != 0)
    return np.stack((high, low, (high + low) * (1 - doubt), (high + low) * (1 + doubt)))


def _rounded(
    real: Float64, below: Float64, above: Float64 | None, name: str, out: NDArray[Any]
) -> NDArray[np.bool_] | None:
    """Write products rounded; where that is not decided yet, None for nowhere.

    Halves are rounded twice, by way of float32: that is once, unless the float32 is a midpoint.
    """
    if name == "float32":
        out[...] = real * below
        if above is None:
            return None
        near: NDArray[np.bool_] = out != (real * above).astype(np.float32)
        return near
    single = (real * below).astype(np.float32)
    near = midpoints(single, name)
    if name == "float16":
        settle(single)
        far = np.abs(single) >= _INFINITE
        if far.any():  # NumPy takes 30 times longer over a conversion that overflows
            np.copyto(single, np.copysign(np.float32(np.inf), single), where=far)
    out[...] = single
    return near
