"""Exact arithmetic with the standard library alone: pi, powers, phase increments, correct rounding.

Nothing here is a float until it is rounded, once, from an interval that is known to hold the real value. Where the
interval straddles a rounding boundary it is computed again, narrower (Ziv's strategy); it ends, because the values
in question are transcendental unless their argument is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from posenc.spec.plan import PHASE_BITS


class Format(NamedTuple):
    """A binary floating-point format: bits of significand, exponent of the least subnormal, of the overflow."""

    precision: int
    least: int
    overflow: int


FORMATS = {
    "float64": Format(53, -1074, 1024),
    "float32": Format(24, -149, 128),
    "bfloat16": Format(8, -133, 128),
    "float16": Format(11, -24, 16),
}


def shortest(value: float) -> Fraction:
    """The shortest decimal that names this float, which is what a float parameter of a specification means."""
    return Fraction(repr(float(value)))


def round_to(value: Fraction, dtype: str) -> float:
    """`value` correctly rounded (nearest, ties to even) to `dtype`, as the float that equals the result."""
    precision, least, overflow = FORMATS[dtype]
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < _power_of_two(exponent):
        exponent -= 1  # now 2^exponent <= magnitude < 2^(exponent + 1)
    unit = max(exponent - precision + 1, least)
    units = round(magnitude / _power_of_two(unit))  # Python rounds a Fraction to even
    if units.bit_length() + unit > overflow:
        return math.inf if value > 0 else -math.inf  # as a float `value` may not exist
    return math.copysign(math.ldexp(units, unit), value)


def round_interval(low: Fraction, high: Fraction, dtype: str) -> float | None:
    """What every value in the interval rounds to, or None where they differ."""
    a, b = round_to(low, dtype), round_to(high, dtype)
    same = a == b and math.copysign(1, a) == math.copysign(1, b)
    return a if same else None


@lru_cache(maxsize=8)
def pi(bits: int) -> int:
    """floor(pi * 2^bits) or one less: Machin, 16 atan(1/5) - 4 atan(1/239), in integers."""
    guard = bits + 32

    def arctan_inverse(n: int) -> int:
        term = (1 << guard) // n
        total, k = term, 1
        while term:
            term //= -n * n
            k += 2
            total += term // k
        return total

    return (16 * arctan_inverse(5) - 4 * arctan_inverse(239)) >> 32


def context(digits: int) -> Context:
    """A decimal context of its own: nothing is read from, or left in, the thread's."""
    return Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN)


def decimal(value: Fraction, digits: int) -> Decimal:
    return context(digits).divide(Decimal(value.numerator), Decimal(value.denominator))


def power(base: Fraction, exponent: Fraction, digits: int) -> Decimal:
    """`base ** exponent` (base > 0) to nearly `digits` significant digits."""
    # the exponential amplifies the relative error of its argument by the argument, below 10^6 here
    wide = context(digits + 12)
    logarithm = wide.ln(decimal(base, digits + 12))
    return wide.exp(wide.multiply(decimal(exponent, digits + 12), logarithm))


def logarithm(value: Fraction, digits: int) -> Fraction:
    """ln(value), value > 0, within 10^-digits of the larger of 1 and itself."""
    wide = context(digits + 12)
    return Fraction(wide.ln(decimal(value, digits + 12)))


def square_root(value: Fraction, digits: int) -> Fraction:
    wide = context(digits + 4)
    return Fraction(wide.sqrt(decimal(value, digits + 4)))


def two_pi(digits: int) -> Fraction:
    """2 pi to `digits` digits."""
    return Fraction(2 * pi(4 * digits), 1 << 4 * digits)


def increment(frequency: Callable[[int], Fraction]) -> int:
    """round(frequency / (2 pi) * 2^128); `frequency(digits)` is within a relative 10^-digits of it, or exactly 0."""
    digits = 60
    while True:
        value: Fraction = frequency(digits) / two_pi(digits + 10) * 2**PHASE_BITS
        doubt = value * Fraction(4, 10**digits)
        nearest = round(value)
        if round(value - doubt) == nearest == round(value + doubt):
            return nearest
        digits *= 2


def rounded(value: Callable[[int], Fraction], dtype: str) -> float:
    """A real number correctly rounded; `value(digits)` is within a relative 10^-digits of it."""
    digits = 60
    while True:
        middle = value(digits)
        doubt = abs(middle) * Fraction(2, 10**digits)
        result = round_interval(middle - doubt, middle + doubt, dtype)
        # a rational one may stand on a boundary for ever: then more digits say the same, and it is what it seems
        if result is not None or value(2 * digits) == middle:
            return round_to(middle, dtype) if result is None else result
        digits *= 2


def increments(first: Fraction, ratio_base: Fraction, step: Fraction, pairs: int) -> tuple[int, ...]:
    """round(first * ratio_base^(step * j) / (2 pi) * 2^128) for j < pairs: radians to units of 2^-128 turn."""
    digits = 90
    while True:
        result = _increments(first, ratio_base, step, pairs, digits)
        if result is not None:
            return result
        digits *= 2


def _increments(
    first: Fraction, ratio_base: Fraction, step: Fraction, pairs: int, digits: int
) -> tuple[int, ...] | None:
    """One attempt at `digits` digits, or None where a value lies too close to a half to be rounded."""
    wide = context(digits)
    ratio = power(ratio_base, step, digits)
    value = decimal(first / two_pi(digits) * 2**PHASE_BITS, digits)
    half = Decimal("0.5")
    doubt = context(digits).scaleb(Decimal(pairs + 10), -digits)  # relative, one unit a step and a few more
    result = []
    for _ in range(pairs):
        nearest = value.to_integral_value(context=wide)
        gap = abs(half - abs(wide.subtract(value, nearest)))
        if gap <= wide.multiply(value, doubt):
            return None
        result.append(int(nearest))
        value = wide.multiply(value, ratio)
    return tuple(result)


def sine_and_cosine(angle: int, bits: int) -> tuple[int, int]:
    """sin and cos of `angle * 2^-bits` radians, |angle| <= pi/4, as fixed point with an error below `bits` units."""
    square = angle * angle >> bits
    cosine, sine = 0, 0
    even, odd, k = 1 << bits, angle, 0
    while even or odd:
        cosine, sine = cosine + even, sine + odd
        even = -(even * square >> bits) // ((2 * k + 1) * (2 * k + 2))
        odd = -(odd * square >> bits) // ((2 * k + 2) * (2 * k + 3))
        k += 1
    return sine, cosine


def rounded_wave(
    turns: Callable[[int], tuple[int, int]], cosine: bool, scale: Callable[[int], Fraction], dtype: str
) -> float:
    """`scale * sin` (or cos) of an angle, correctly rounded to `dtype`.

    `turns(bits)` gives the angle in units of 2^-bits turn, and a bound of its error in the same unit; `scale(digits)`
    is within a relative 10^-digits of the scale.
    """
    bits = 256
    while True:
        phase, error = turns(bits)
        if phase == 0 and error == 0:
            return rounded(scale, dtype) if cosine else 0.0
        quarter = 1 << (bits - 2)
        quadrant = (phase + quarter // 2) // quarter
        angle = (phase - quadrant * quarter) * pi(bits) >> (bits - 1)
        sine, cosine_value = sine_and_cosine(angle, bits)
        quadrant += cosine
        value = (sine, cosine_value, -sine, -cosine_value)[quadrant % 4]
        # an angle error times 2 pi, the series, the product with pi, and the scale's error of 2^-bits
        margin = 7 * error + bits + 10
        multiple = scale(bits // 3)
        low, high = (multiple * Fraction(value + sign * margin, 1 << bits) for sign in (-1, 1))
        result = round_interval(low, high, dtype)
        if result is not None:
            return result
        bits *= 2


def _power_of_two(exponent: int) -> Fraction:
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def root(value: int, degree: int) -> int:
    """The greatest integer n with n^degree <= value, for value >= 0 and roots below 2^64."""
    if value == 0:
        return 0
    nearly: int = round(2 ** (math.log2(value) / degree))  # within 10^-13 of itself or so
    nearly = ((degree - 1) * nearly + value // nearly ** (degree - 1)) // degree  # Newton: within one or two units
    while nearly**degree > value:
        nearly -= 1
    while (nearly + 1) ** degree <= value:
        nearly += 1
    return nearly


def root_ceiling(value: int, degree: int) -> int:
    """The least integer n with n^degree >= value, for value > 0."""
    return root(value - 1, degree) + 1
