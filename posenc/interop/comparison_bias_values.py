"""How the numbers of one bias may come from those of another at the same places: signs, factors, constants."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from posenc.interop.comparison_distance import Pairs
from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_words import Cause, number, things

_FEWEST_KEYS = 4
"""A row of one key is any other plus a number."""

Step = tuple[Cause, Float64, Float64]
"""A cause, the expected numbers with it, and what they may be off by."""


def negated(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:  # noqa: ARG001 - as the others
    yield Cause("sign", "values are negated"), -e, allowed


def ahead(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    distance = pairs.key - pairs.query[:, None]
    for side, where in ((distance > 0, "ahead of"), (distance < 0, "behind")):
        if side.any() and not side.all():
            text = f"values of keys {where} the query are negated (symmetric in one, and not in the other)"
            yield Cause("sign", text), np.where(side, -e, e), allowed


def factors(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    known = np.isfinite(e).all(axis=0) & np.isfinite(pairs.received).all(axis=0)
    total = (e[:, known] ** 2).sum(axis=1)
    if not known.any() or (total == 0).any():
        return
    factors = (e[:, known] * pairs.received[:, known]).sum(axis=1) / total
    off = np.flatnonzero(np.abs(factors - 1) > 2.0**-18)
    if not len(off) or (factors <= 0).any():
        return
    text = f"values are {number(float(factors[0]))} times the expected"
    if np.ptp(factors) > 2.0**-18 * factors.max():
        values = f"{number(float(factors[off].min()))} to {number(float(factors[off].max()))}"
        text = f"values of {things('head', off)} are {values} times the expected (other slopes)"
    scaled = e * factors[:, None, None]
    yield Cause("scaling", text), scaled, np.maximum(allowed, np.where(np.isfinite(e), np.abs(scaled), 0) * 2.0**-18)


def constants(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    if e.shape[2] < _FEWEST_KEYS:
        return
    with np.errstate(invalid="ignore"):
        rest = pairs.received - e
    known = np.isfinite(rest)
    constant = np.where(known, rest, 0.0).sum(axis=2, keepdims=True) / np.maximum(known.sum(axis=2, keepdims=True), 1)
    if constant.any():
        text = "the row of each query is the expected one plus a number, which softmax removes"
        if np.ptp(constant) == 0:
            text = (
                f"values are the expected ones {'+' if constant.flat[0] > 0 else '-'} {number(abs(constant.flat[0]))}"
            )
        spread = 2.0**-22 * (np.abs(constant) + np.where(np.isfinite(e), np.abs(e), 0.0))
        yield Cause("offset", text), e + constant, 2 * allowed + spread
