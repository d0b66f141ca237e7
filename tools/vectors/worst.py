"""Worst cases, by search: values next to zero, next to a rounding boundary, and rounded twice."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

from mpmath import mp

from vectors.rounding import FORMATS, bits, exact, named, number


def near_zeros(frequency: Any, cosine: bool, count: int) -> list[int]:
    """Positions below 2^31 whose sine (cosine) is nearest to zero: convergents of frequency / pi (times two)."""
    rest = frequency / mp.pi * (2 if cosine else 1)
    before, last, numerator_before, numerator = 0, 1, 1, int(mp.floor(rest))
    found = []
    while last < 2**31:
        if (numerator % 2 or not cosine) and last > 1:
            found.append(last)
        rest = 1 / (rest - mp.floor(rest))
        step = int(mp.floor(rest))
        before, last = last, step * last + before
        numerator_before, numerator = numerator, step * numerator + numerator_before
    return found[-count:]


def crafted(
    target: Fraction, seed: int, cosine: bool = False, above: bool = True, magnitude: Any = 1
) -> tuple[int, float]:
    """A position and a base for which magnitude * sin(p / sqrt(base)) is beyond `target` by less than 2^-57 of it.

    That is pair 1 of dim 4; float64 takes the value for `target` itself.
    """
    angle = (mp.acos if cosine else mp.asin)(exact(target) / magnitude)
    near = exact(abs(target)) / 2**57
    for p in range(seed, seed + 977 * 2000, 977):
        base = float((p / angle) ** 2)
        for candidate in (math.nextafter(base, 0), base, math.nextafter(base, math.inf)):
            value = magnitude * (mp.cos if cosine else mp.sin)(p / mp.sqrt(named(candidate)))
            gap = value - exact(target) if above else exact(target) - value
            if 0 < gap < near:
                return p, candidate
    raise ArithmeticError(f"no double puts a value next to {target}")


def double_roundings(d: int, dtype: str, count: int) -> list[tuple[int, list[int]]]:
    """The first positions, and channels, whose value reaches `dtype` through float32 with the wrong result.

    The search is in float64, for the vectors of the paper at base 10000; what it finds is computed like any other.
    """
    cut = 24 - FORMATS[dtype][0]
    found = []
    for p in range(3, 65536):
        for pair in range(1, 13):
            value = math.sin(p * 10000.0 ** (-2 * pair / d))
            (through,) = struct.unpack("<I", struct.pack("<f", value))
            if through & ((1 << cut) - 1) != 1 << (cut - 1):
                continue
            (single,) = struct.unpack("<f", struct.pack("<I", through))
            odd = through >> cut & 1
            if abs(single) > 2**-13 and single != value and odd == (abs(single) > abs(value)):
                found.append((p, [2 * pair]))
                if len(found) == count:
                    return found
    raise ArithmeticError("too few double roundings below 65,536")


def midpoint(dtype: str, near: str, odd: bool) -> Fraction:
    """Halfway between two neighbours in `dtype` close to a decimal, above an odd or an even significand."""
    low = bits(Fraction(near), dtype)
    low += (low % 2) != odd
    return (number(low, dtype) + number(low + 1, dtype)) / 2
