"""Rounding to the float formats of weights, and the formats in which all numbers of an array are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

FORMATS = {"bfloat16": (8, -133, 2.0**128), "float16": (11, -24, 65520.0), "float32": (24, -149, 2.0**128)}
"""Significant bits, the exponent of the least number, and what is rounded to infinity."""
HALVES = ("bfloat16", "float16")


def rounded(values: Any, name: str) -> Float64:
    """Float64 numbers rounded once, to nearest and even, to `bfloat16`, `float16` or `float32`."""
    values = np.asarray(values, np.float64)
    step = _step(values, name)
    result = np.ldexp(np.rint(np.ldexp(values, -step)), step)
    beyond = np.abs(result) >= FORMATS[name][2]
    return np.asarray(np.where(beyond, np.copysign(np.inf, values), result) if beyond.any() else result, np.float64)


def half_unit(values: Float64, name: str) -> Float64:
    """How far a number may be from the nearest one of the format."""
    return np.ldexp(0.5, _step(values, name))


def formats(values: Float64) -> tuple[str, ...]:
    """The formats that have all of these numbers, the narrowest first; NaN and infinity are in each."""
    values = values[np.isfinite(values)]
    few = values.ravel()[:: max(1, values.size // 4096)]
    return tuple(name for name in FORMATS if all((rounded(part, name) == part).all() for part in (few, values)))


def shared(e: Float64, r: Float64) -> tuple[str, ...]:
    """The half formats that both are in."""
    both = set(formats(e)) & set(formats(r))
    return tuple(name for name in HALVES if name in both)


def _step(values: Float64, name: str) -> NDArray[np.int32]:
    """The exponent of the distance between numbers of the format, where `values` are."""
    bits, least, _ = FORMATS[name]
    exponents: NDArray[np.int32] = np.frexp(np.where(np.isfinite(values), values, 0.0))[1]
    return np.maximum(exponents - bits, least)
