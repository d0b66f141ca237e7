"""What makes frequencies differ: another base, a scaling rule, or their rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_bands import Banded, Line, banded, geometric
from posenc.interop.comparison_formats import HALVES, Float64, rounded
from posenc.interop.comparison_scalings import same_rule, told
from posenc.interop.comparison_waves import Waves
from posenc.interop.comparison_words import Cause, number, things, times

_NEAR = 0.1
"""Of logarithms: bases this near are not told where a scaling of any factors may be behind them."""


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
    odd = still | woken
    if odd.any() and (np.abs(fe - fr)[~odd] <= (de + dr)[~odd]).all():
        return [Cause("scaling", _stand(still, woken) + ", as in p-RoPE")]
    sure = (fe > 4 * de) & (fr > 4 * dr)
    if not sure.any():
        return [Cause("scaling", f"frequencies differ, by up to {np.abs(fe - fr).max():.3g} radians per position")]
    ratio, error = fr[sure] / fe[sure], (de / fe + dr / fr)[sure] + slack
    middle = float(np.average(ratio, weights=1 / error**2))
    if not odd.any() and (np.abs(ratio / middle - 1) <= error).all():
        return [_linear(middle)]
    m = int(sure.sum())
    if sure[:m].all():  # pairs behind these stand still in both, or turn too little to be told apart
        e, r = _of_sure(fe, de, 0.0), _of_sure(fr, dr, slack)
        if e and r and _as_told(e, fe, de) and _as_told(r, fr, dr):
            return _of_both(e, r, len(fe), ratio, float(error.min()))
        line = geometric(ratio, error * ratio)
        far = line is not None and abs(np.log(line.base(len(fe)))) > _NEAR
        if line is not None and far and m > 3 and not odd.any() and abs(line.first - 1) <= 1e-4:  # by LongRope, say
            text = f"the received one is {number(line.base(len(fe)))} times the expected, behind the same scaling"
            return [Cause("base", text)]
    if odd.any():
        return [Cause("scaling", _stand(still, woken) + ", and others turn at another speed")]
    return [_free(ratio)]


def _stand(still: NDArray[np.bool_], woken: NDArray[np.bool_]) -> str:
    which, whose = (still, "received") if still.any() else (woken, "expected")
    return f"{things('pair', np.flatnonzero(which))} of the {whose} {'stands' if which.sum() == 1 else 'stand'} still"


def _of_sure(f: Float64, doubt: Float64, slack: float) -> Banded | None:
    first = int(np.argmin(np.append(f > 4 * doubt, False)))
    return banded(f[:first], doubt[:first], slack) if first > 1 else None


def _as_told(one: Banded, f: Float64, doubt: Float64) -> bool:
    """Whether slow pairs, which are in doubt, are where the others say."""
    n = len(one.plain)
    slowest = np.full(len(f), one.share[-1] + (1 - one.share[-1]) / one.factor) * one.line.at(len(f))[0]
    still = (f[n:] <= 2 * doubt[n:]).all()
    return bool(still or (np.abs(f - slowest)[n:] <= 4 * doubt[n:]).all())


def _of_both(e: Banded, r: Banded, pairs: int, ratio: Float64, error: float) -> list[Cause]:
    """Two bases, or two scalings, or both."""
    scaled = e.factor != 1 or r.factor != 1
    apart = abs(r.line.step - e.line.step) > max(1e-4 * e.line.step, 3 * (e.line.spread + r.line.spread)[0, 0] ** 0.5)
    found = _bases(e.line, r.line, pairs, error) if apart else []
    if not (apart or scaled):
        return [_linear(r.line.first / e.line.first)]
    if not apart and (e.head, e.tail, number(e.factor)) == (r.head, r.tail, number(r.factor)):
        return [_free(ratio)]  # by less than can be told of either
    if not scaled:
        return found
    if not apart or not same_rule(e, r):
        return [*found, Cause("scaling", told(e, r))]
    base, *rest = found
    slower = number(max(e.factor, r.factor))
    return [Cause("base", f"{base.text}, behind a scaling that both have (slow pairs slower by {slower})"), *rest]


def _linear(ratio: float) -> Cause:
    how = f"positions {'divided' if ratio < 1 else 'multiplied'} by {number(max(ratio, 1 / ratio))}"
    return Cause("scaling", f"angles are {times(ratio)} the expected ones (linear: {how})")


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


def _free(ratio: Float64) -> Cause:
    least, most = float(ratio.min()), float(ratio.max())
    text = f"frequencies are from {number(least)} to {number(most)} times the expected, by no rule known here"
    return Cause("scaling", text)
