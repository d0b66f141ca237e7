"""The same weights by another way: what an interpolant is asked to be, where, and what it makes of one input alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

Row = list[Fraction]
Sequence = Callable[[int], Fraction]
HALF = Fraction(1, 2)
UNITS = 1024


class Interpolant(NamedTuple):
    """What is known of a resampler before any of its code is read."""

    slope: Fraction | None
    """A curve has at every input this times the difference of the two beside it; None: lines from input to input."""
    smooth: bool = False
    """Whether the response to one input is stretched when there are fewer outputs than inputs."""
    constant_ends: bool = False
    """Whether the first and last input go on for ever; otherwise only inputs count, and a constant stays one."""
    anchor: str = "edges"
    """What is mapped to what: `edges` of the grids, `corners` (centres of the first and the last), `left` edges, with
    the ratio of the corners, or `tenth`: the far edge of the outputs lies a tenth further out."""
    table: bool = False


CATMULL_ROM, TORCH = HALF, Fraction(3, 4)
INTERPOLANTS = {
    "torch_bilinear": Interpolant(None, constant_ends=True),
    "torch_bilinear_align_corners": Interpolant(None, constant_ends=True, anchor="corners"),
    "torch_bilinear_antialias": Interpolant(None, smooth=True),
    "torch_bilinear_antialias_align_corners": Interpolant(None, smooth=True, anchor="left"),
    "torch_bicubic": Interpolant(TORCH, constant_ends=True),
    "torch_bicubic_align_corners": Interpolant(TORCH, constant_ends=True, anchor="corners"),
    "torch_bicubic_antialias": Interpolant(CATMULL_ROM, smooth=True),
    "torch_bicubic_antialias_align_corners": Interpolant(CATMULL_ROM, smooth=True, anchor="left"),
    "jax_linear": Interpolant(None, smooth=True),
    "jax_linear_no_antialias": Interpolant(None),
    "jax_cubic": Interpolant(CATMULL_ROM, smooth=True),
    "jax_cubic_no_antialias": Interpolant(CATMULL_ROM),
    "tf_bilinear": Interpolant(None, constant_ends=True),
    "tf_bilinear_antialias": Interpolant(None, smooth=True),
    "tf_bicubic": Interpolant(CATMULL_ROM, table=True),
    "tf_bicubic_antialias": Interpolant(CATMULL_ROM, smooth=True),
    "dino_bicubic": Interpolant(TORCH, constant_ends=True, anchor="tenth"),
}


def weights(method: str, n: int, m: int) -> list[Row]:
    """Rows of m outputs by n inputs."""
    own, rows = INTERPOLANTS[method], []
    for output in range(m):
        at, step = place(own.anchor, n, m, output)
        if own.table:
            at = in_table(n, m, output)
        stretch = max(step, Fraction(1)) if own.smooth else Fraction(1)
        row = []
        for tap in range(n):
            if own.smooth:
                row.append(curve(own.slope, lambda k: Fraction(k == 0), (at - tap) / stretch))
            else:
                ends = n if own.constant_ends else 0
                row.append(curve(own.slope, alone(tap, ends), at))
        total = sum(row)
        if own.constant_ends and total != 1:
            raise ArithmeticError(f"{method}, {n} to {m}: a constant becomes {total}")
        rows.append([weight / total for weight in row])
    return rows


def alone(tap: int, ends: int) -> Sequence:
    """1 at one input, 0 at all others; `ends`: how many inputs there are, the outer of which go on, or 0."""
    return lambda k: Fraction((min(max(k, 0), ends - 1) if ends else k) == tap)


def curve(slope: Fraction | None, f: Sequence, x: Fraction) -> Fraction:
    """The value at x of the curve through f: between neighbours a line, or the cubic that has their slopes.

    The cubic comes of its conditions by divided differences with each end taken twice.
    """
    i = math.floor(x)
    t = x - i
    rise = f(i + 1) - f(i)
    if slope is None:
        return f(i) + t * rise
    left, right = (slope * (f(k + 1) - f(k - 1)) for k in (i, i + 1))
    second = rise - left
    third = (right - rise) - second
    return f(i) + t * (left + t * (second + (t - 1) * third))


def place(anchor: str, n: int, m: int, output: int) -> tuple[Fraction, Fraction]:
    """Where an output stands among the inputs, and how far it is to the next: the line through two points."""
    low, high = (-HALF, -HALF), (m - HALF, n - HALF)
    if anchor == "tenth":
        high = (m + Fraction(1, 10) - HALF, n - HALF)
    if anchor in ("corners", "left"):
        low, high = (Fraction(0), Fraction(0)), (Fraction(m - 1), Fraction(n - 1))
    step = (high[1] - low[1]) / (high[0] - low[0]) if high[0] != low[0] else Fraction(0)
    if anchor == "left":
        low = (-HALF, -HALF)
    return low[1] + (output - low[0]) * step, step


def in_table(n: int, m: int, output: int) -> Fraction:
    """The place of an output as TensorFlow's table of 1,024 entries a unit has it, by machine floats.

    Every intermediate is exact in float64 before it is rounded to float32.
    """
    ratio = _float32(n / m)
    at = _float32(_float32((output + 0.5) * ratio) - 0.5)
    return math.floor(at) + Fraction(round(_float32(at - math.floor(at)) * UNITS), UNITS)


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)
