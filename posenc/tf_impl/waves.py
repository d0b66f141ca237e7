"""Sine and cosine of phases: a float64 kernel to about one unit in the last place, and a float32 kernel for fusion.

Both split the phase in integers, so that every floating-point piece is exact from the start. Compensated float
arithmetic is what graph optimisers reassociate: Grappler turns `c - (x + y)` into `(c - y) - x` for a constant c.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec import exact
from posenc.spec.plan import PhasePlan
from posenc.tf_impl.inputs import Tensor
from posenc.tf_impl.words import Phase, float_parts, phase_words, plan_words, shifted

_TWO_PI = Fraction(2 * exact.pi(256), 1 << 256)
_HIGH = float(round(_TWO_PI * 2**23)) / 2**23  # 26 bits: the product with 26 bits of phase is exact
_LOW = float(_TWO_PI - Fraction(_HIGH))
_WHOLE = float(_TWO_PI)

# fdlibm's minimax polynomials on |angle| <= pi/4, 2^-58 of sine and cosine
_SINE64 = (
    -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COSINE64 = (
    4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
# minimax on the same interval with three terms: 1.8e-9 and 9.5e-11 absolute
_SINE32 = (-0.16666650669231645, 0.008331978660574337, -0.00019495635972341092)
_COSINE32 = (0.04166664686659241, -0.001388736752263774, 2.4438452302283374e-05)


def wave64(phase: Phase) -> tuple[Tensor, Tensor, Tensor]:
    """Sine, cosine and |angle to the nearest quarter turn|, float64, of four words; relative error below 2^-52.

    The remainder's magnitude is an integer h of 61 bits and a fraction l of 63. h becomes a double f and an integer
    rest; f is cut in 26 and 27 bits, so that the angle is `head`, an exact product, plus `tail` < 2^-25 of it.
    """
    t3, t2, t1, t0 = phase
    quarters = shifted(t3 + 2**29, 30)
    top = t3 - quarters * 2**30
    negative = shifted(top, 63)  # all ones or none; a one's complement misses by 2^-128 turn
    h = (top * 2**32 + t2) ^ negative
    low = (t1 * 2**31 + shifted(t0, 1)) ^ (negative & (2**63 - 1))
    f = tf.cast(h, tf.float64)
    rest = tf.cast(h - tf.cast(f, tf.int64), tf.float64) + tf.cast(low, tf.float64) * 2.0**-63
    f26 = tf.bitcast(tf.bitcast(f, tf.int64) & -(2**27), tf.float64)
    head = f26 * (_HIGH * 2.0**-64)
    tail = f26 * (_LOW * 2.0**-64) - ((f26 - f) - rest) * (_WHOLE * 2.0**-64)
    x = head + tail
    y = tail - (x - head)
    z = x * x
    s1, *more = _SINE64
    v = z * x
    sine = x - ((z * (0.5 * y - v * _horner(more, z)) - y) - v * s1)
    cosine = 1.0 - x * (0.5 * x - (v * _horner(_COSINE64, z) - y))
    sine = tf.where(negative < 0, -sine, sine)
    swap = (quarters & 1) == 1
    sine, cosine = tf.where(swap, cosine, sine), tf.where(swap, sine, cosine)
    sine = tf.where((quarters & 2) != 0, -sine, sine)
    cosine = tf.where(((quarters + 1) & 2) != 0, -cosine, cosine)
    return sine, cosine, x


def _horner(coefficients: Any, z: Tensor) -> Tensor:
    *rest, total = coefficients
    for c in reversed(rest):
        total = c + z * total
    return total


def channels(plan: PhasePlan, sine: Tensor, cosine: Tensor, tables: int) -> list[Tensor]:
    """`(*P, pairs)` sines and cosines -> one tensor of `(*P, dim)` channels, or two: those of a rotation."""
    return [arranged(plan, sine, cosine)] if tables == 1 else [cosine, sine]


def arranged(plan: PhasePlan, sine: Tensor, cosine: Tensor) -> Tensor:
    """`(*P, pairs)` sines and cosines -> `(*P, dim)` channels in the plan's layout, a zero last where dim is odd."""
    pair = (cosine, sine) if plan.layout == "cos_sin" else (sine, cosine)
    both = tf.stack(pair, -1 if plan.layout == "interleaved" else -2)
    lead = sine.shape[:-1] if sine.shape.is_fully_defined() else tf.shape(sine)[:-1]
    flat = tf.reshape(both, tf.concat([lead, [2 * plan.pairs]], 0))
    if plan.dim % 2 == 0:
        return flat
    return tf.concat([flat, tf.zeros(tf.concat([lead, [1]], 0), flat.dtype)], -1)


def wave32(plan: PhasePlan, positions: Tensor) -> tuple[Tensor, Tensor]:
    """`(*P,)` -> `(*P, pairs)` sines and cosines times the magnitude, float32, to 2^-23 of it.

    The phase is kept to 64 bits, where the product wraps as it should. Its remainder to the nearest quarter turn times
    2*pi is an integer again, and splits into a float32 and a rest below 2^-25 before any float is computed with.
    The last subtraction is from a selected value: from a constant a graph optimiser would reassociate it. In units of
    2^-23 its rounding is 0.5 at most, and the rounded terms of what is subtracted add up to 0.42.
    """
    levels = plan_words(plan)[:, 0] << 32 | plan_words(plan)[:, 1]
    parts = [positions] if positions.dtype.is_integer else float_parts(positions)
    phase = parts[0][..., None] * levels[0]
    for part, level in zip(parts[1:], levels[1:], strict=False):
        phase += part[..., None] * level
    if plan.offset:
        phase += levels[3]
    ahead = phase + 2**61
    quarters = tf.cast(shifted(ahead, 62), tf.int32)
    remainder = shifted((ahead & (2**62 - 1)) - 2**61, 32)
    magnitude = exact.shortest(plan.magnitude)
    one = float(np.float32(plan.magnitude))
    head, tail = _split(remainder, Fraction(1))
    high, low = (head, tail) if magnitude == 1 else _split(remainder, magnitude)
    square = head * head
    s1, s2, s3 = _SINE32
    c1, c2, c3 = (one * c for c in _COSINE32)
    sine = high * (square * (-s1 - square * (s2 + square * s3))) - low
    cosine = head * (head * (0.5 * one - square * (c1 + square * (c2 + square * c3))) + one * tail)
    if magnitude != one:
        cosine -= float(magnitude - Fraction(one))
    swap = (quarters & 1) == 1
    results = []
    for turned, a, b, a_less, b_less in ((quarters, one, high, cosine, sine), (quarters + 1, high, one, sine, cosine)):
        value = tf.where(swap, a, b) - tf.where(swap, a_less, b_less)
        results.append(tf.where((turned & 2) != 0, -value, value))
    return results[0], results[1]


def _split(remainder: Tensor, factor: Fraction) -> tuple[Tensor, Tensor]:
    """`remainder` in units of 2^-32 turn, times 2*pi*factor, as a float32 and the float32 of what that leaves."""
    scale = 33 - math.ceil(math.log2(_TWO_PI * factor))
    product = remainder * round(_TWO_PI * factor * Fraction(2) ** scale)
    high = tf.cast(product, tf.float32)
    low = tf.cast(product - tf.cast(high, tf.int64), tf.float32)
    return high * 2.0 ** (-32 - scale), low * 2.0 ** (-32 - scale)


def fused_waves(plan: PhasePlan, positions: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    """`(*P,)` -> `(*P, pairs)` sines and cosines, float64 where that is asked for and float32 elsewhere."""
    if dtype != tf.float64:
        return wave32(plan, positions)
    sine, cosine, _ = wave64(phase_words(plan_words(plan), positions))
    return sine * plan.magnitude, cosine * plan.magnitude


def fused(plan: PhasePlan, positions: Tensor, dtype: Any) -> Tensor:
    """`(*P,)` -> `(*P, dim)` in a graph or on an accelerator."""
    value = arranged(plan, *fused_waves(plan, positions, dtype))
    if plan.padding_position is not None:
        value = tf.where(_is_padding(plan, positions)[..., None], tf.zeros((), value.dtype), value)
    return tf.cast(value, dtype)


def _is_padding(plan: PhasePlan, positions: Tensor) -> Tensor:
    """Where a position is the one without an encoding; floats are compared by their bits."""
    if positions.dtype.is_integer:
        return positions == tf.constant(plan.padding_position, positions.dtype)
    wide = positions.dtype == tf.float64
    wanted = plan.padding_bits("float64" if wide else "float32")
    bits = tf.bitcast(positions, tf.int64 if wide else tf.int32)
    if wanted is None:
        return tf.zeros_like(bits, tf.bool)
    if wanted == 0:
        return bits + bits == 0  # -0.0 too
    negative = wanted >> (63 if wide else 31)
    return bits == tf.constant(wanted - (negative << (64 if wide else 32)), bits.dtype)
