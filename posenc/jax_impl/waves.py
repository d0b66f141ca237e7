"""Sines of phases, in float32 and in float64.

No product that must be exact needs more bits than its format has, so a compiler that fuses multiplications into
additions, as XLA does, changes nothing that matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl.inputs import Array, HostArray
from posenc.jax_impl.words import QUARTER, Channels, channels, phases, rows
from posenc.spec.plan import PhasePlan

# minimax on |x| <= pi/4, highest power first: 1.8e-9 and 1e-10 of absolute error
SHORT_SINE = (-1.9495547167025506e-4, 8.331977762281895e-3, -0.16666650772094727)
SHORT_COSINE = (2.4438346372335218e-5, -1.3887366512790322e-3, 4.166664555668831e-2)
# those of fdlibm
SINE = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
    -1.66666666666666324348e-01,
)
COSINE = (
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)
TWO_PI = tuple(float.fromhex(piece) for piece in ("0x1.921fbp+2", "0x1.5110bp-20", "0x1.18469898cc517p-42"))
"""In pieces of 21 bits, and the rest."""


@partial(jax.jit, static_argnums=1)
def float32(parts: tuple[Array, ...], plan: PhasePlan) -> jax.Array:
    """Parts `(*P, 1)` -> `(*P, dim)`, from phases of three words: wrong by less than 2^-23 of the magnitude."""
    constants, axes = channels(plan), parts[0].ndim
    offset = None if constants.offset is None else constants.offset[:3]
    words = phases(parts, constants.words[:, :3], offset)
    (quarter,), (scale,) = rows(constants.quarter[None], axes), rows(constants.scale[None], axes)
    return _sine32([words[0] + quarter, *words[1:]], np.asarray(scale))


@jax.jit
def float64(parts: tuple[Array, ...], constants: Channels) -> tuple[jax.Array, jax.Array]:
    """Parts `(*P, 1)` -> `(*P, dim)`, and the angles left within an eighth of a turn. Needs x64."""
    axes = parts[0].ndim
    words = phases(parts, constants.words, constants.offset)
    (quarter,), (scale,) = rows(constants.quarter[None], axes), rows(constants.scale[None], axes)
    value, angle = _sine64([words[0] + quarter, *words[1:]])
    return value * scale, angle


def _sine32(phase: Sequence[Array], scale: HostArray) -> jax.Array:
    quadrant = (phase[0] + (QUARTER >> np.uint32(1))) >> np.uint32(30)
    rest = lax.bitcast_convert_type(phase[0] - (quadrant << np.uint32(30)), np.int32)
    # the head keeps 12 bits, to be multiplied by 12 bits of the radians in a unit, exactly
    head = (rest + np.int32(1 << 17)) & np.int32(-1 << 18)
    tail = _f32(rest - head) + _f32(phase[1]) * np.float32(2.0**-32)

    def angle(unit: HostArray) -> tuple[jax.Array, jax.Array]:
        upper = (unit.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
        exact = _f32(head) * upper
        more = _f32(head) * _f32(unit - upper) + tail * _f32(unit)
        total = exact + more
        return total, (exact - total) + more

    unit = np.full_like(scale, 2 * np.pi / 2.0**32)
    x, x_error = angle(unit)
    # the scaled angle is computed anew: to scale the sine would round it once more
    scaled, scaled_error = angle(unit * scale)
    upper_scale = _f32(scale)
    square = x * x
    cubic = _polynomial(square, SHORT_SINE) * square * x
    sine = scaled + (cubic * upper_scale + scaled_error)
    quartic = _polynomial(square, SHORT_COSINE) * square * square
    less = quartic - (np.float32(0.5) * square + x * x_error)
    cosine = upper_scale + (less * upper_scale + _f32(scale - upper_scale))
    value = jnp.where((quadrant & np.uint32(1)) != np.uint32(0), cosine, sine)
    # exact; what divides, XLA computes once, and not again for every head or batch row that it is used in
    return value / jnp.where((quadrant & np.uint32(2)) != np.uint32(0), np.float32(-1), np.float32(1))


def _sine64(phase: Sequence[Array]) -> tuple[jax.Array, jax.Array]:
    """The sine of a phase of four words to 1 ulp, and the angle left, from 0 to pi/4."""
    u64 = np.uint64
    t3, t2, t1, t0 = (word.astype(u64) for word in phase)
    upper, lower = (t3 << u64(32)) | t2, (t1 << u64(32)) | t0
    quadrant = (upper + u64(1 << 61)) >> u64(62)
    upper = upper - (quadrant << u64(62))
    negative = upper >= u64(1 << 63)
    upper = jnp.where(negative, ~upper + (lower == u64(0)).astype(u64), upper)
    lower = jnp.where(negative, ~lower + u64(1), lower)
    # shift the leading one to the top: so the angle has 64 significant bits, however small it is
    short = upper == u64(0)
    upper, lower = jnp.where(short, lower, upper), jnp.where(short, u64(0), lower)
    places = jnp.minimum(lax.clz(upper), u64(63))
    upper = (upper << places) | ((lower >> u64(1)) >> (u64(63) - places))
    exponent = u64(1023) - places - jnp.where(short, u64(64), u64(0))
    power = lax.bitcast_convert_type(exponent << u64(52), np.float64)
    x, y = (part * power for part in _radians(upper))
    sine, cosine = _sine_and_cosine(x, y)
    value = jnp.where((quadrant & u64(1)) != u64(0), cosine, jnp.where(negative, -sine, sine))
    return value / jnp.where((quadrant & u64(2)) != u64(0), np.float64(-1), np.float64(1)), x


def _radians(fraction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`fraction * 2^-64` turns in radians, in two terms; the products of 32 and 21 bits are exact."""
    c1, c2, c3 = (np.float64(piece) for piece in TWO_PI)
    high = (fraction >> np.uint64(32)).astype(np.float64) * np.float64(2.0**-32)
    low = (fraction & np.uint64(0xFFFFFFFF)).astype(np.float64) * np.float64(2.0**-64)
    first = high * c1
    second = (high * c2 + low * c1) + (high * c3 + low * c2)
    total = first + second
    return total, (first - total) + second


def _sine_and_cosine(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of x + y, with |x| <= pi/4 and y below an ulp of x: to 1 ulp each."""
    half, one = np.float64(0.5), np.float64(1)
    z = x * x
    v = z * x
    sine = x - ((z * (half * y - v * _polynomial(z, SINE[:-1])) - y) - v * np.float64(SINE[-1]))
    w = one - half * z
    cosine = w + (((one - w) - half * z) + (z * (z * _polynomial(z, COSINE)) - x * y))
    return sine, cosine


def _polynomial(z: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """By Horner, highest power first."""
    result: jax.Array = z.dtype.type(coefficients[0]) * z + z.dtype.type(coefficients[1])
    for coefficient in coefficients[2:]:
        result = result * z + z.dtype.type(coefficient)
    return result


def _f32(array: Any) -> Any:
    return array.astype(np.float32)
