"""T5's and DeBERTa's buckets by the published formulas, in exact rational arithmetic and nothing of the library's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from random import Random

import numpy as np

from posenc import T5Bias


def first_true(low: int, high: int, test: Callable[[int], bool]) -> int:
    """The least n in low ... high with test(n), high if there is none below it; the test goes over once."""
    return low + bisect_left(range(low, high), True, key=test)


@cache
def t5_buckets(spec: T5Bias, reach: int) -> np.ndarray:
    """The bucket of every distance from -reach to reach."""
    side = spec.buckets // 2 if spec.bidirectional else spec.buckets
    whole = side // 2
    parts = side - whole
    epsilon = Fraction(1, 2**23) if spec.rule == "t5x" else 0
    far = np.minimum(np.arange(reach + 1), whole)
    for part in range(1, parts):
        # floor(parts * ln(n / whole) / ln(max_distance / whole)) >= part, without a logarithm
        least = Fraction(spec.max_distance, whole) ** part
        far[first_true(whole, reach + 1, lambda n, t=least: (Fraction(n, whole) + epsilon) ** parts >= t) :] += 1
    behind = far[::-1]
    ahead = far[1:] + side if spec.bidirectional else np.zeros(reach, int)
    return np.concatenate((behind, ahead))


def t5_parameters(count: int) -> list[T5Bias]:
    """`count` different specifications: common ones, those that logarithms in float64 misplace, and others."""
    known = [(b, m, True) for b, m in ((20, 160), (40, 320), (72, 32), (80, 640), (108, 64), (32, 128), (32, 800))]
    known += [(32, 128, False), (36, 512, False), (10, 160, False), (2, 2, False), (4, 2, True), (64, 17000, False)]
    chosen = {T5Bias(1, buckets=b, max_distance=m, bidirectional=both) for b, m, both in known}
    random = Random(3)  # noqa: S311 - the same parameters in every run
    while len(chosen) < count:
        both = random.random() < 0.5
        buckets = random.randrange(4, 129, 2) if both else random.randrange(2, 97)
        whole = buckets // 4 if both else buckets // 2
        distance = whole + 1 + int(2 ** random.uniform(0, 15))
        if random.random() < 0.3:
            distance = whole * random.choice((2, 4, 8, 16, 27, 64))  # ratios with ties
        rule = random.choice(("exact", "exact", "t5x"))
        if distance > whole:
            chosen.add(T5Bias(1, buckets=buckets, max_distance=distance, bidirectional=both, rule=rule))
    return sorted(chosen, key=repr)


def deberta_rows(buckets: int, max_distance: int, reach: int, *, clamped: bool) -> np.ndarray:
    """The row of every query minus key from -reach to reach."""
    middle, widest = buckets // 2, max_distance - 1
    rows = []
    for r in range(-reach, reach + 1):
        limited = min(max(r, -widest), widest) if clamped else r
        size = bucket = abs(limited)
        if size > middle:
            # the least k with (size / middle)^(middle - 1) <= (widest / middle)^k
            power = Fraction(size, middle) ** (middle - 1)
            ratio = Fraction(widest, middle)
            bucket = middle + first_true(1, 4 * buckets, lambda k, p=power, t=ratio: p <= t**k)
        rows.append(min(max((bucket if limited >= 0 else -bucket) + buckets, 0), 2 * buckets - 1))
    return np.array(rows)
