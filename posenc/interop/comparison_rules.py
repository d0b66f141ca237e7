"""What makes frequencies differ: another base, a scaling rule, or their rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posenc.interop.comparison_bands import bands
from posenc.interop.comparison_formats import HALVES, Float64, rounded
from posenc.interop.comparison_waves import Waves
from posenc.interop.comparison_words import Cause, number, things, times


class Line(NamedTuple):
    """Frequencies that fall by the same factor from pair to pair: `first * exp(-step * j)`."""

    first: float
    step: float

    def base(self, denominator: float) -> float:
        """That of exponents j / denominator."""
        return float(np.exp(min(self.step * denominator, 700.0)))


def geometric(f: Float64, doubt: Float64, slack: float = 0.0) -> Line | None:
    """The line on which all logarithms of frequencies are; None if they are on none."""
    if len(f) < 2 or (f <= 4 * doubt).any():
        return None
    j = np.arange(len(f))
    slope, start = np.polyfit(j, np.log(f), 1, w=f / (doubt + slack * f))
    away = np.abs(np.log(f) - start - slope * j)
    return Line(float(np.exp(start)), -float(slope)) if (away <= 2 * (doubt / f + slack)).all() else None


def relation(expected: Waves, received: Waves) -> list[Cause]:
    """Why frequencies differ; no cause where they are the same as far as can be told."""
    fe, fr = expected.frequencies, received.frequencies
    doubt = expected.doubt + received.doubt
    if (np.abs(fe - fr) <= doubt).all():
        return []
    for name in HALVES:
        near = [rounded(fe * (1 + side * 2.0**-18), name) for side in (-1, 1)]
        if (np.minimum(*(np.abs(fr - one) for one in near)) <= doubt).all():
            return [Cause("dtype", f"angles are those of frequencies rounded to {name}")]
        back = [rounded(fr * (1 + side * 2.0**-18), name) for side in (-1, 1)]
        if (np.minimum(*(np.abs(fe - one) for one in back)) <= doubt).all():
            return [Cause("dtype", f"the expected angles are those of frequencies rounded to {name}")]
    for name in HALVES:
        step = 2.0 ** -(8 if name == "bfloat16" else 11)
        exact = np.abs(fr - rounded(fr, name)) <= received.doubt
        if len(fr) > 4 and (received.doubt < 0.05 * step * fr).all() and exact.all():
            found = _unrounded(fe, fr, expected.doubt, received.doubt, step)
            return [*found, Cause("dtype", f"angles are those of frequencies rounded to {name}")]
    return _unrounded(fe, fr, expected.doubt, received.doubt, 0.0)


def _unrounded(fe: Float64, fr: Float64, de: Float64, dr: Float64, slack: float) -> list[Cause]:
    still = (fr <= 2 * dr) & (fe > 4 * (de + dr))
    woken = (fe <= 2 * de) & (fr > 4 * (de + dr))
    if still.any() or woken.any():
        which, whose = (still, "received") if still.any() else (woken, "expected")
        text = (
            f"{things('pair', np.flatnonzero(which))} of the {whose} {'stands' if which.sum() == 1 else 'stand'} still"
        )
        rest = ~(still | woken)
        same = not rest.any() or (np.abs(fe - fr)[rest] <= (de + dr)[rest]).all()
        return [Cause("scaling", text + (", as in p-RoPE" if same else ", and others turn at another speed"))]
    sure = (fe > 4 * de) & (fr > 4 * dr)
    if not sure.any():
        return [Cause("scaling", f"frequencies differ, by up to {np.abs(fe - fr).max():.3g} radians per position")]
    ratio, error = fr[sure] / fe[sure], (de / fe + dr / fr)[sure] + slack
    middle = float(np.average(ratio, weights=1 / error**2))
    if (np.abs(ratio / middle - 1) <= error).all():
        how = f"positions {'divided' if middle < 1 else 'multiplied'} by {number(max(middle, 1 / middle))}"
        return [Cause("scaling", f"angles are {times(middle)} the expected ones (linear: {how})")]
    line_e, line_r = geometric(fe, de), geometric(fr, dr, slack)
    if line_e and line_r and sure.all():
        return _bases(line_e, line_r, len(fe), float(error.max()))
    if sure.all():
        banded = bands(fe, fr, error)
        if banded:
            return [banded]
        return _two(fe, fr, de, dr, slack) or [_free(ratio)]
    return [_free(ratio)]


def _bases(e: Line, r: Line, pairs: int, error: float) -> list[Cause]:
    """Both are geometric: another base, or other exponents."""
    whole = pairs - 1 if pairs > 1 and not _round(e.base(pairs)) and _round(e.base(pairs - 1)) else pairs
    base_e, base_r = e.base(whole), r.base(whole)
    same = abs(np.log(base_e)) / r.step if r.step > 0 and base_e > 1 else 0.0
    nearest = round(same)
    text = f"{number(base_e)} expected, {number(base_r)} received"
    if nearest and abs(same - nearest) < 1e-3 and {nearest, whole} == {pairs, pairs - 1}:
        text = f"exponents are j / {nearest} of {number(base_e)}, expected j / {whole} (as base {number(base_r)})"
    elif nearest and abs(same - nearest) < 1e-3 and not _round(base_r):
        text += f", which over a width of {2 * nearest} in place of {2 * whole} is {number(base_e)}"
    last = float(np.exp((r.step - e.step) * (pairs - 1)))
    if not _round(base_r) and _round(last) and last > 1 and "width" not in text and "exponents" not in text:
        text += f", by which the last pair is slower by {number(last)} (NTK)"
    found = [Cause("base", text)]
    if abs(r.first / e.first - 1) > max(error, 1e-5):
        found.append(Cause("scaling", f"angles of pair 0 are {times(r.first / e.first)} the expected ones"))
    return found


def _round(value: float) -> bool:
    """Whether it is a number of two digits and noughts."""
    return abs(value - float(f"{value:.2g}")) <= 1e-4 * value


def _two(fe: Float64, fr: Float64, de: Float64, dr: Float64, slack: float) -> list[Cause]:
    """Another base and a scaling rule: what the fast pairs of each say is its base."""
    leads = []
    for f, doubt in ((fe, de), (fr, dr)):
        counts = [h for h in range(3, len(f) + 1) if geometric(f[:h], doubt[:h], slack)]
        line = geometric(f[: max(counts)], doubt[: max(counts)], slack) if counts else None
        if line is None:
            return []
        leads.append((line, line.first * np.exp(-line.step * np.arange(len(f)))))
    (line_e, plain_e), (line_r, plain_r) = leads
    if abs(line_r.step / line_e.step - 1) < 1e-4:
        return []
    found = _bases(line_e, line_r, len(fe), 1e-4)
    share_e, share_r = fe / plain_e, fr / plain_r
    scaled = bands(share_e, share_r, 2e-3, plain_r if share_r[-1] < share_e[-1] else plain_e)
    return [*found[:1], scaled] if scaled and len(found) == 1 else []


def _free(ratio: Float64) -> Cause:
    least, most = float(ratio.min()), float(ratio.max())
    text = f"frequencies are from {number(least)} to {number(most)} times the expected, by no rule known here"
    return Cause("scaling", text)
