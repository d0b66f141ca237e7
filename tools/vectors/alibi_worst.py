"""Products of a slope and an integer next to a rounding boundary, or rounded twice, by search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from mpmath import mp, mpf

from vectors.rounding import FORMATS, bits, exact, fraction, nearest, number
from vectors.worst import midpoint


def near_midpoints(slopes: Sequence[Any], dtype: str, count: int) -> list[tuple[int, int]]:
    """The heads and distances below 2^32 whose product is, for its size, nearest to a rounding boundary of `dtype`.

    Twice the product in units of the last place is a multiple of the slope; its convergents are searched.
    """
    precision = FORMATS[dtype][0]
    found: dict[int, tuple[Any, int]] = {}
    for head, slope in enumerate(slopes):
        if fraction(slope).numerator.bit_length() < 128:
            continue  # a power of two
        for scale in range(1, 24):
            multiple = slope * mpf(2) ** -scale
            for top, bottom in convergents(multiple, 2**32):
                if top % 2 and 2**precision <= top < 2 ** (precision + 1):
                    found.setdefault(bottom, (abs(bottom * multiple / top - 1), head))
    nearest_ = sorted((gap, head, distance) for distance, (gap, head) in found.items())
    return [(head, distance) for _, head, distance in nearest_[:count]]


def convergents(value: Any, limit: int) -> Iterator[tuple[int, int]]:
    """The fractions that continue value's, as long as the denominator is below the limit."""
    before, top, bottom_before, bottom = 1, int(mp.floor(value)), 0, 1
    rest = value - mp.floor(value)
    while bottom < limit:
        yield top, bottom
        rest = 1 / rest
        step = int(mp.floor(rest))
        rest -= step
        before, top = top, step * top + before
        bottom_before, bottom = bottom, step * bottom + bottom_before


def crafted(distance: int, step: Fraction, dtype: str, *, odd: bool, above: bool) -> float:
    """A max_bias with which distance * 2^(-max_bias * step) is beyond a midpoint by less than 2^-56 of itself.

    float64 takes the product for the midpoint. The midpoint is above an odd or an even number.
    """
    for near in itertools.count():
        target = midpoint(dtype, f"{distance * 0.99 * (1 - near / 4096):.17g}", odd)
        around = float(mp.log(distance / exact(target), 2) / exact(step))
        for candidate in (math.nextafter(around, 0), around, math.nextafter(around, math.inf)):
            value = distance * mpf(2) ** (-mpf(repr(candidate)) * exact(step))
            gap = value / exact(target) - 1
            if 0 < (gap if above else -gap) < mpf(2) ** -56:
                return candidate
    raise ArithmeticError("no double puts a product next to a midpoint")


def twice_rounded(slope: Any, dtype: str, start: int, count: int) -> list[int]:
    """Distances from `start` on whose product reaches `dtype` through float32 with the wrong result."""
    found: list[int] = []
    size = 2 ** FORMATS[dtype][0]
    for part in range(size):
        value = exact(Fraction(start)) * slope * (1 + mpf(part) / size)
        low = bits(fraction(value), dtype)
        target = (number(low, dtype) + number(low + 1, dtype)) / 2
        distance = nearest(exact(target) / slope)
        product = fraction(distance * slope)
        single = number(bits(product, "float32"), "float32")
        if distance not in found and single == target != product and bits(single, dtype) != bits(product, dtype):
            found.append(distance)
        if len(found) == count:
            return found
    raise ArithmeticError("too few products are rounded twice")
