"""The frequencies of one table: a base, and a scaling that slows down slow pairs, as Llama 3 and YaRN do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posenc.interop.comparison_formats import Float64

_LEAST = 1.2
"""Of factors, which are 2 to 40: one pair that is a little slower is none."""


class Line(NamedTuple):
    """Frequencies that fall by the same factor from pair to pair: `first * exp(-step * j)`."""

    first: float
    step: float
    spread: Float64
    """`(2, 2)`: the covariance of the slope of the logarithm and of the logarithm at pair 0."""

    def base(self, denominator: float) -> float:
        """That of exponents j / denominator."""
        return float(np.exp(min(self.step * denominator, 700.0)))

    def at(self, pairs: int) -> tuple[Float64, Float64]:
        """The frequencies, and what each is in doubt, relative."""
        j = np.stack([np.arange(pairs), np.ones(pairs)])
        doubt = 3 * np.sqrt(np.maximum((j * (self.spread @ j)).sum(axis=0), 0.0))
        return self.first * np.exp(-self.step * np.arange(pairs)), doubt


class Banded(NamedTuple):
    """`share * plain + (1 - share) * plain / factor`, of which `plain` is on a line; factor 1 where that is all.

    The share is 1 for pairs before `head`, 0 from `tail` on, and falls between them: linear in the frequency by Llama
    3, in the number of the pair by YaRN, whose `ends` are the pairs (or parts of one) where it does.
    """

    line: Line
    plain: Float64
    factor: float
    head: int
    tail: int
    share: Float64
    doubt: Float64
    """Of the share."""
    llama: bool
    ends: tuple[float, float] | None

    @property
    def rule(self) -> str:
        """What it may be called."""
        return "Llama 3" if not self.ends else "Llama 3 or YaRN" if self.llama else "YaRN"


def geometric(f: Float64, doubt: Float64, slack: float = 0.0, first: int = 0) -> Line | None:
    """The line on which all logarithms of frequencies are, of pairs `first` and on; None if they are on none."""
    if len(f) < 2 or (f <= 4 * doubt).any():
        return None
    j, weights = first + np.arange(len(f)), f / (doubt + slack * f)
    (slope, start), spread = np.polyfit(j, np.log(f), 1, w=weights, cov="unscaled")
    away = np.abs(np.log(f) - start - slope * j)
    return Line(float(np.exp(start)), -float(slope), spread) if (away <= 2 / weights).all() else None


def banded(f: Float64, doubt: Float64, slack: float = 0.0) -> Banded | None:
    """The frequencies before such a scaling: the slow pairs say the base, or, where they are few, the fast ones."""
    n, error = len(f), doubt / f + slack
    line = geometric(f, doubt, slack)
    if line is not None:
        return Banded(line, line.at(n)[0], 1.0, n, n, np.ones(n), np.zeros(n), True, (n, n))
    for t in range(1, n - 2):
        line = geometric(f[t:], doubt[t:], slack, t)
        if line is not None:  # pair 0 is a fast one
            spread = np.zeros((2, 2))
            spread[0, 0], spread[1, 1] = line.spread[0, 0], error[0] ** 2
            found = _undone(f, error, Line(float(f[0]), line.step, spread), line)
            if found is not None:
                return found
    for h in range(n - 1, 2, -1):
        line = geometric(f[:h], doubt[:h], slack)
        if line is not None:  # the last pair is a slow one
            return _undone(f, error, line, line._replace(first=float(f[-1] * np.exp(line.step * (n - 1)))))
    return None


def _undone(f: Float64, error: Float64, line: Line, slow: Line) -> Banded | None:
    """With the lines of fast pairs and of slow ones; `error` is relative."""
    n = len(f)
    (plain, doubt), (least, of_least) = line.at(n), slow.at(n)
    factor, doubt, of_least = line.first / slow.first, doubt + error, of_least + error
    if factor < _LEAST or (f > plain * (1 + doubt)).any() or (f < least * (1 - of_least)).any():
        return None
    is_fast, is_slow = f >= plain * (1 - doubt), f <= least * (1 + of_least)
    head, tail = int(np.argmin(is_fast)), n - int(np.argmin(is_slow[::-1]))
    if not 0 < head <= tail < n:
        return None
    share = np.clip((f - least) / (plain - least), 0, 1)
    share[:head], share[tail:] = 1, 0
    return ruled(line, plain, factor, (head, tail), share, 2 * (doubt + of_least) * factor / (factor - 1))


def ruled(
    line: Line, plain: Float64, factor: float, band: tuple[int, int], share: Float64, doubt: Float64
) -> Banded | None:
    """With the rules that the shares are of; None if they are of none."""
    (head, tail), j = band, np.arange(len(share))
    llama = linear([plain], [share], [doubt], [band]) is not None
    ends: tuple[float, float] | None = (head - 1.0, float(tail))
    if (np.abs(share - np.clip((tail - j) / (tail - head + 1), 0, 1)) > doubt).any():  # not of whole pairs
        ends = linear([-j.astype(float)], [share], [doubt], [band]) if tail - head > 1 else None
        ends = ends and (-ends[1], -ends[0])
    return Banded(line, plain, factor, head, tail, share, doubt, llama, ends) if llama or ends else None


def linear(
    x: list[Float64], share: list[Float64], away: list[Float64], bands: list[tuple[int, int]]
) -> tuple[float, float] | None:
    """Where one function of x, the same for all, is 0 and 1 that is linear between; None if there is none."""
    within = [np.arange(*band) for band in bands]
    at, y, doubt = (
        np.concatenate([part[some] for part, some in zip(parts, within, strict=True)]) for parts in (x, share, away)
    )
    least = min(float(part[head - 1]) for part, (head, _) in zip(x, bands, strict=True))
    most = max((float(part[tail]) for part, (_, tail) in zip(x, bands, strict=True) if tail < len(part)), default=-1e9)
    if most >= least:
        return None
    if not len(at):
        return most, least
    if np.ptp(at) <= 1e-4 * np.abs(at).max():  # one point: any line that is not too flat
        flat = np.ptp(y) <= 2 * doubt.max() and most < at[0] < least
        slope = max((1 - y[0]) / (least - at[0]), y[0] / (at[0] - most)) if flat else 0.0
        return (float(at[0] - y[0] / slope), float(at[0] + (1 - y[0]) / slope)) if slope else None
    slope, start = np.polyfit(at, y, 1, w=1 / doubt)
    if slope <= 0 or (np.abs(start + slope * at - y) > 2 * doubt).any():
        return None
    zero, one = -start / slope, (1 - start) / slope
    room = 4 * float(doubt.max()) / slope
    return (float(zero), float(one)) if most <= zero + room and one - room <= least else None
