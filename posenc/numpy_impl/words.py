"""Phases as integers.

A phase is held as two 64-bit integers, `high` and `low`: units of 2^-64 and of 2^-128 turn, modulo one turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.spec.plan import FRACTION_BITS, PhasePlan, Words

Int64 = NDArray[np.int64]
Phase = tuple[Int64, Int64]

AT_A_TIME = 2**11
"""Phases computed in one go: their many temporaries stay in the cache, and cost no memory to speak of."""


class Increments(NamedTuple):
    """Phase increments of the pairs: `(pairs,)` each; `high` and `low` join two words, w1 and w0 stay apart."""

    high: Int64
    low: Int64
    w1: Int64
    w0: Int64

    def take(self, pair: Int64 | slice) -> Increments:
        return Increments(*(array[pair] for array in self))


def _increments(words: tuple[Words, ...]) -> Increments:
    w3, w2, w1, w0 = np.array(words, dtype=np.int64).reshape(-1, 4).T
    result = Increments(w3 << 32 | w2, w1 << 32 | w0, w1.copy(), w0.copy())
    for array in result:
        array.setflags(write=False)
    return result


@lru_cache(maxsize=32)
def turning(plan: PhasePlan) -> PhasePlan:
    """The plan without its last pairs where those do not turn; no rule has such pairs elsewhere."""
    last = max((pair + 1 for pair, increment in enumerate(plan.increments) if increment), default=0)
    return plan if last == plan.pairs else replace(plan, dim=2 * last, increments=plan.increments[:last])


@lru_cache(maxsize=32)
def increments(plan: PhasePlan, level: int = 0) -> Increments:
    """The increments times 2^(-31*level), read-only."""
    return _increments(plan.words(level))


@lru_cache(maxsize=32)
def offset(plan: PhasePlan) -> Phase:
    """The phases of the plan's offset, read-only."""
    words = _increments(plan.offset_words())
    return words.high, words.low


def phases(plan: PhasePlan, p: NDArray[Any], pair: Int64 | None = None) -> Phase:
    """The phases at `p + offset`: of every pair `(n,)` -> `(n, pairs)`, or of one each `(n,)` -> `(n,)`."""
    where = slice(None) if pair is None else pair
    column = p[:, None] if pair is None else p
    if p.dtype == np.int64:
        result = product(column, increments(plan).take(where))
    else:
        levels = (product(part, increments(plan, level).take(where)) for level, part in enumerate(_three(column)))
        result = reduce(total, levels)
    if plan.offset:
        high, low = offset(plan)
        result = total(result, (high[where], low[where]))
    return result


def _three(p: NDArray[np.float64]) -> Iterator[Int64]:
    """The whole and the two binary fractions of 31 bits; every step is exact."""
    for _ in range(3):
        part = np.trunc(p)
        yield part.astype(np.int64)
        p = np.ldexp(p - part, FRACTION_BITS)


def product(p: Int64, by: Increments) -> Phase:
    """`p` times the increments, |p| < 2^31; the shapes broadcast."""
    carry = p * by.w0
    carry >>= 32
    carry += p * by.w1
    carry >>= 32  # floor(p * low / 2^64), also for p < 0: the shifts are arithmetic
    carry += p * by.high
    return carry, p * by.low


def total(a: Phase, b: Phase) -> Phase:
    """The sum of two phases."""
    low = a[1] + b[1]
    carry = low.view(np.uint64) < a[1].view(np.uint64)
    return a[0] + b[0] + carry, low


def parts(n: int, width: int) -> Iterator[slice]:
    """Cut `n` rows of `width` phases each into pieces of about `AT_A_TIME` phases."""
    rows = max(1, AT_A_TIME // width)
    return (slice(first, first + rows) for first in range(0, n, rows))
