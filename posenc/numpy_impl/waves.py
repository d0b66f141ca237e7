"""The float64 sines and cosines of phases, with what a float64 leaves out. No library sine is asked."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl.words import Phase
from posenc.spec import exact

Float64 = NDArray[np.float64]


class Waves(NamedTuple):
    """Sine and cosine, each a float64 and the small tail that it leaves out."""

    sine: Float64
    sine_tail: Float64
    cosine: Float64
    cosine_tail: Float64


# 2 pi * 2^-64 as 26 bits and the rest, so that a product of the head with 26 bits is exact
_TURN = 2 * math.pi * 2.0**-64
_TURN_HEAD = math.ldexp(round(math.ldexp(_TURN, 87)), -87)
_TURN_TAIL = float(Fraction(2 * exact.pi(192), 1 << 256) - Fraction(_TURN_HEAD))
_TO_33 = 1.5 * 2.0**19  # adding and subtracting it rounds to a multiple of 2^-33
_TO_26 = 1.5 * 2.0**26


@lru_cache(maxsize=1)
def _table() -> tuple[Float64, Float64]:
    """sin(2 pi k / 256), k = 0 ... 319: a multiple of 2^-26, and the rest."""
    bits = 160
    octant = [exact.sine_and_cosine(k * exact.pi(bits) >> 7, bits) for k in range(33)]
    quarter = [s for s, _ in octant] + [c for _, c in octant[-2::-1]]
    half = quarter + quarter[-2:0:-1]
    sines = half + [-s for s in half]
    sines += sines[:64]
    heads = [round(Fraction(s, 1 << bits - 26)) for s in sines]
    tails = [(s - (head << bits - 26)) / (1 << bits) for s, head in zip(sines, heads, strict=True)]
    return np.array(heads) * 2.0**-26, np.array(tails)


def waves(phase: Phase) -> Waves:
    """Sine and cosine of phases.

    The phase is the nearest 256th of a turn K plus a rest x, |x| <= 2 pi / 512; with u = cos x - 1, v = sin x - x

        sin(K + x) = S + (C x + (S u + C v)),   cos(K + x) = C + (-S x + (C u - S v)).

    S, C and x are split in heads and tails so that the products of the heads are exact. The sum of value and tail errs
    by less than 2^-64, and by less than 2^-52 of the value: next to a zero S is 0 and C is 1, and x keeps its
    relative precision.
    """
    high, low = phase
    high = high - (low >> 63)  # `low` is signed from here on
    k = (high + (1 << 55)) >> 56
    rest = high - (k << 56)
    coarse = (rest + (1 << 28)) >> 29 << 29
    fine = (rest - coarse) + low * 2.0**-64
    head = coarse * _TURN_HEAD  # exact: 27 bits times 26
    x_head = (head + _TO_33) - _TO_33
    x_tail = (head - x_head) + (coarse * _TURN_TAIL + fine * _TURN)
    x = x_head + x_tail
    square = x * x
    u = square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720)))
    v = x_tail + x * square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040)))
    heads, tails = _table()
    k &= 255
    s_head, s_tail = heads[k], tails[k]
    k += 64
    c_head, c_tail = heads[k], tails[k]
    s, c = s_head + s_tail, c_head + c_tail
    return Waves(
        *_sum(s_head, c_head * x_head, (s_tail + c_tail * x_head) + (s * u + c * v)),
        *_sum(c_head, s_head * -x_head, (c_tail - s_tail * x_head) + (c * u - s * v)),
    )


def _sum(large: Float64, small: Float64, tail: Float64) -> tuple[Float64, Float64]:
    """`large + small + tail` as a float64 and its tail, where |small| <= |large| or large is 0."""
    head = large + small
    tail = (small - (head - large)) + tail
    value = head + tail
    return value, tail - (value - head)


def split(value: Float64, tail: Float64) -> tuple[Float64, Float64]:
    """The same sum as a multiple of 2^-26 and the rest: products of such heads, and sums of two, are exact."""
    head = (value + _TO_26) - _TO_26
    return head, (value - head) + tail
