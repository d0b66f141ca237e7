"""Two scalings of slow pairs: whether they are one rule behind two bases, and how they differ."""

from __future__ import annotations

import numpy as np

from posenc.interop.comparison_bands import Banded, linear, ruled
from posenc.interop.comparison_words import number, things

_SAME = 1e-4
"""Relative: bases and factors that are nearer than this are not told apart."""


def same_rule(e: Banded, r: Banded) -> bool:
    """Whether one scaling makes both of their bases: a factor, and where it begins and ends."""
    e, r = _unreached(e, r.factor), _unreached(r, e.factor)
    doubt = _SAME + float(e.doubt.min() + r.doubt.min())
    if abs(e.factor / r.factor - 1) > doubt and 1 not in (e.factor, r.factor):  # one may be too fast to be slowed down
        return False
    if e.llama and r.llama:
        both = (e, r)
        points = [one.plain for one in both], [one.share for one in both], [one.doubt for one in both]
        if linear(*points, [(one.head, one.tail) for one in both]) is not None:
            return True
    if e.ends is None or r.ends is None:
        return False
    # YaRN begins at the pair floor(low / step) and ends at ceil(high / step), of one low and high for all bases
    low, high = ((_turned(e, end, way), _turned(r, end, way)) for end, way in ((0, 1), (1, -1)))
    return all(max(a[0], b[0]) <= min(a[1], b[1]) + 1e-3 for a, b in (low, high))


def told(e: Banded, r: Banded) -> str:
    """How two scalings differ."""
    if e.factor == 1:
        return _pairs(r, "slower")
    if r.factor == 1:
        return _pairs(e, "faster")
    if (e.head, e.tail) == (r.head, r.tail):
        return _pairs(r, "slower", f", expected by {number(e.factor)}")
    return f"expected: {_pairs(e, 'slower')}; received: {_pairs(r, 'slower')}"


def _unreached(one: Banded, factor: float) -> Banded:
    """Of a last pair that may be within the band, where the factor is a greater one."""
    if one.tail < len(one.share) - 1 or not 1 < one.factor < factor:
        return one
    share = (one.share + (1 - one.share) / one.factor - 1 / factor) / (1 - 1 / factor)
    return ruled(one.line, one.plain, factor, (one.head, len(share)), share, one.doubt) or one


def _turned(one: Banded, end: int, way: int) -> tuple[float, float]:
    """Between which logarithms of a frequency an end of YaRN's band was, before it was rounded to a pair."""
    step, at = one.line.step, one.ends[end] if one.ends else 0.0
    if one.factor == 1:
        return ((at - 1) * step if way > 0 else -np.inf, np.inf)
    if abs(at - round(at)) > 1e-3:
        return at * step, at * step
    at = round(at)
    return -np.inf if at == 0 else min(at, at + way) * step, max(at, at + way) * step


def _pairs(one: Banded, word: str, expected: str = "") -> str:
    slow, between = range(one.tail, len(one.share)), range(one.head, one.tail)
    text = f"{things('pair', slow)} {'are' if len(slow) > 1 else 'is'} {word} by {number(one.factor)}{expected}"
    return text + (f", {things('pair', between)} by something between" if between else "") + f", as by {one.rule}"
