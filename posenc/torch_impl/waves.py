"""From positions to phases in integers, from phases to sines and cosines: float64 to check bits, float32 to fuse.

Phases are integers modulo one turn. The nearest quarter turn is taken from them as an integer; only the remainder, at
most an eighth of a turn, becomes floating point, in two terms. So the size of a position costs no precision.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from posenc.spec import exact

_TURN = Fraction(exact.pi(256), 1 << 255)  # 2 pi


def _head(value: Fraction, bits: int) -> float:
    """`value` cut to its first `bits` bits, so that products with short integers are exact."""
    mantissa, exponent = math.frexp(float(value))
    return math.ldexp(math.floor(mantissa * 2**bits), exponent - bits)


def wide_phase(positions: Tensor, words: Tensor, *, offset: bool = True) -> tuple[Tensor, Tensor]:
    """The phase of integers as its high 64 bits and its low ones, both signed: `high * 2^64 + low`.

    `positions` `(*P, 1)` with words `(2, 4, pairs)`, or `(N,)` with words `(2, 4, N)`.
    """
    w, o = words.view(2, 4, *[1] * (positions.dim() - 1), -1).unbind(0)
    p0, p1, low, high = (torch.addcmul(o, w, positions) if offset else w * positions).unbind(0)
    carry = (p0 >> 32).add_(p1).bitwise_right_shift_(32)
    return carry.add_(high).sub_(low >> 63), low


def integer_words(positions: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(*P, 1)` -> the four words of `positions * increment`, most significant first, without an offset."""
    t0 = positions * words[3]
    t1 = positions * words[2] + (t0 >> 32)
    t2 = positions * words[1] + (t1 >> 32)
    t3 = positions * words[0] + (t2 >> 32)
    return t3 & 0xFFFFFFFF, t2 & 0xFFFFFFFF, t1 & 0xFFFFFFFF, t0 & 0xFFFFFFFF


def levels(positions: Tensor) -> tuple[Tensor, ...]:
    """What a float position is as integers: whole, 2^-31 and 2^-62, exactly, each with its sign."""
    whole = positions.trunc()
    rest = (positions - whole) * 2.0**31
    first = rest.trunc()
    second = ((rest - first) * 2.0**31).trunc()
    return whole.to(torch.int64), first.to(torch.int64), second.to(torch.int64)


def phase_words(positions: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(*P, 1)`, integers or floats, with words `(4, 4, pairs)` -> the four words of the phase, offset included."""
    parts = levels(positions) if positions.is_floating_point() else (positions,)
    t3, t2, t1, t0 = integer_words(parts[0], words[0])
    for part, level in zip(parts[1:], (1, 2), strict=False):
        u3, u2, u1, u0 = integer_words(part, words[level])
        t3, t2, t1, t0 = t3 + u3, t2 + u2, t1 + u1, t0 + u0
    t0 = t0 + words[3, 3]
    t1 = t1 + words[3, 2] + (t0 >> 32)
    t2 = t2 + words[3, 1] + (t1 >> 32)
    t3 = t3 + words[3, 0] + (t2 >> 32)
    return t3 & 0xFFFFFFFF, t2 & 0xFFFFFFFF, t1 & 0xFFFFFFFF, t0 & 0xFFFFFFFF


def float_phase(positions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """As `wide_phase`, from `phase_words`."""
    t3, t2, t1, t0 = phase_words(positions, words)
    low = (t1 << 32) | t0
    return ((t3 << 32) | t2) - (low >> 63), low


def fused_phase(positions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """`(*P, 1)` with words `(4, 3, dim)` -> every channel's phase: turns times 2^32 (any integer), and 32 bits more."""
    parts = levels(positions) if positions.is_floating_point() else (positions,)
    turns, fraction = words[3, 0], words[3, 1]
    for part, (w3, w2, w1) in zip(parts, words, strict=False):
        t2 = part * w2 + ((part * w1) >> 32)
        turns = turns + (part * w3 + (t2 >> 32))
        fraction = fraction + (t2 & 0xFFFFFFFF)
    return turns + (fraction >> 32), fraction & 0xFFFFFFFF


class _Units(NamedTuple):
    """Radians in a unit of the leading integer, `head + tail`, and in a unit of the following one."""

    head: float
    tail: float
    next: float


def _units(bits: int, following: int, short: int) -> _Units:
    head = _head(_TURN / 2**bits, short)
    return _Units(head, float(_TURN / 2**bits - Fraction(head)), float(_TURN / 2**following))


_WIDE, _SHORT = _units(64, 128, 29), _units(18, 50, 8)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constant(short: bool) -> _Units:
    """A float read from a module may become an input of a compiled graph; what this returns does not."""
    return _SHORT if short else _WIDE


def wide_waves(high: Tensor, low: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """Sine and cosine in float64 of the phases `high * 2^-64 + low * 2^-128` turn (signed int64).

    Relative error below 3 * 2^-53 if `exact`, below 5 * 2^-53 otherwise, of which the library's sine takes 2 * 2^-53.
    """
    unit = _constant(False)
    turned = high + (1 << 61)
    rest = (turned & ((1 << 62) - 1)).sub_(1 << 61)
    if exact:
        # 24 bits times 29 bits is exact in float64; what is left is 2^-24 of it
        head = rest.to(torch.float32)
        tail = (rest - head.to(torch.int64)).to(torch.float64) * (unit.head + unit.tail)
        head = head.to(torch.float64)
        tail = tail + head * unit.tail + low.to(torch.float64) * unit.next
        exact_head = head * unit.head
        angle = exact_head + tail
        error = (exact_head - angle) + tail
        sine, cosine = torch.sin(angle), torch.cos(angle)
        sine, cosine = sine + error * cosine, cosine - error * sine
    else:
        angle = rest.to(torch.float64).mul_(unit.head + unit.tail).add_(low, alpha=unit.next)
        sine, cosine = torch.sin(angle), torch.cos(angle)
    # bit 62 of the phase swaps the two, bit 63 is the sign of the sine and, a quarter turn on, of the cosine
    odd = (turned & (1 << 62)) != 0
    first, second = torch.where(odd, cosine, sine), torch.where(odd, sine, cosine)
    return _signed(first, turned), _signed(second, turned + (1 << 62))


def _signed(wave: Tensor, phase: Tensor) -> Tensor:
    return (phase & -(1 << 63)).bitwise_xor_(wave.view(torch.int64)).view(torch.float64)


def short_wave(turns: Tensor, fraction: Tensor, factor: float, excess: float) -> Tensor:
    """`scale * sine` in float32, within 2^-23 * scale, of `turns * 2^-32 + fraction * 2^-64` turn (int64).

    `factor` is float32(scale), `factor * (1 + excess)` the scale: the excess rides in the small terms, where it costs
    no rounding. No library sine: those of compiled float32 differ by framework and miss the bound.
    """
    unit = _constant(True)
    quadrant = (turns + (1 << 29)) >> 30
    rest = turns - (quadrant << 30)
    short = rest >> 14
    head = short.to(torch.float32)
    tail = (((rest - (short << 14)) << 18) + (fraction >> 14)).to(torch.float32)
    exact_head = head * unit.head
    correction = head * unit.tail + tail * unit.next
    x = exact_head + correction
    x_error = (exact_head - x) + correction
    square = x * x
    # the polynomials of Cephes for |x| <= pi/4
    cubic = square * ((-1.9515295891e-4 * square + 8.3321608736e-3) * square - 1.6666654611e-1)
    fourth = square * square * ((2.443315711809948e-5 * square - 1.388731625493765e-3) * square + 4.166664568298827e-2)
    sine = x + (x_error + x * (cubic + excess))
    cosine = 1.0 - (0.5 * square - ((fourth - x * x_error) + excess))
    wave = torch.where((quadrant & 1) != 0, cosine, sine)
    wave = torch.where((quadrant & 2) != 0, -wave, wave)
    return wave if factor == 1.0 else wave * factor
