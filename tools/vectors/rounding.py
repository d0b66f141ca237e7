"""Correct rounding of reals that are known to `DIGITS` digits, in integers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from mpmath import mp, mpf

DIGITS = 80  # 2^31 * 2^14 radians cost 14 of them, a crafted midpoint 16 more
FORMATS = {"float64": (53, -1074, 1024, 64), "float32": (24, -149, 128, 32)}
FORMATS |= {"bfloat16": (8, -133, 128, 16), "float16": (11, -24, 16, 16)}


def exact(number: Fraction | int) -> Any:
    number = Fraction(number)
    return mpf(number.numerator) / number.denominator


def named(value: float) -> Any:
    """The shortest decimal that names a float: what a parameter of a specification means."""
    return mpf(repr(float(value)))


def fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def bits(value: Fraction, dtype: str) -> int:
    """The pattern of `value` in `dtype`, rounded to nearest, ties to even; the sign of a value is kept by its zero."""
    precision, least, overflow, width = FORMATS[dtype]
    sign = int(value < 0) << (width - 1)
    value = abs(value)
    if value == 0:
        return 0
    exponent = least
    while value >= Fraction(2) ** (exponent + precision):
        exponent += max(1, math.floor(math.log2(value)) - exponent - precision)
    units, rest = divmod(value / Fraction(2) ** exponent, 1)
    units += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and units % 2)
    if units.bit_length() + exponent > overflow:
        raise OverflowError(f"{float(value)} does not fit {dtype}")
    # a significand that fills up carries into the exponent field by itself
    return sign + int(units) + ((exponent - least) << (precision - 1))


def number(pattern: int, dtype: str) -> Fraction:
    """The finite number that a pattern stands for."""
    precision, least, _, width = FORMATS[dtype]
    sign, magnitude = divmod(pattern, 1 << (width - 1))
    field, units = divmod(magnitude, 1 << (precision - 1))
    if field:
        units, field = units + (1 << (precision - 1)), field - 1
    return (-1) ** sign * units * Fraction(2) ** (least + field)


def pattern(value: Any, dtype: str) -> str:
    """Hexadecimal pattern of a real that is known to `DIGITS` digits."""
    real = fraction(value)
    # the digits left after the argument was reduced; a short binary fraction is no result of it, and exact
    doubt = abs(real) / 10**55 if real.numerator.bit_length() > 128 else Fraction(0)
    low, high = bits(real - doubt, dtype), bits(real + doubt, dtype)
    if low != high:
        raise ArithmeticError(f"{DIGITS} digits do not decide the rounding of {value} to {dtype}")
    return f"{low:0{FORMATS[dtype][3] // 4}x}"


def decimal(value: Any) -> str:
    return str(mp.nstr(value, 40, strip_zeros=False)) if value else "0"


def nearest(value: Any) -> int:
    return int(mp.floor(value + mpf("0.5")))
