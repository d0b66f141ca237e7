"""Biases as functions of the distance, and what differs between two that put it into buckets, as T5's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_inputs import Positions
from posenc.interop.comparison_words import Cause

_FEWEST = 8


@dataclass(frozen=True)
class Pairs:
    """The received bias `(heads, queries, keys)`, at positions; the expected one of (k, q), where it could be asked."""

    received: Float64
    query: Positions
    key: Positions
    swapped: Float64 | None = None


def of_distance(e: Float64, pairs: Pairs) -> tuple[Positions, Float64] | None:
    """`(heads, distances)` numbers by k - q, where all pairs of a distance have the same; None where they do not."""
    distance = pairs.key - pairs.query[:, None]
    values, first, where = np.unique(distance, return_index=True, return_inverse=True)
    flat = e.reshape(len(e), -1)
    by = flat[:, first]
    same = by[:, where.ravel()]
    return (values, by) if ((same == flat) | (np.isnan(same) & np.isnan(flat))).all() else None


def at_distance(values: Positions, by: Float64, wanted: Positions) -> Float64:
    """Numbers of those distances, NaN where there are none."""
    near = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    result: Float64 = np.where(values[near] == wanted, by[:, near], np.nan)
    return result


class Side(NamedTuple):
    """The buckets of distances 1, 2, 3, ... on one side, numbered as they come: 0, 1, 1, 2, 2, 2, ..."""

    numbers: NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.numbers[-1]) + 1

    def begins(self, number: int) -> int:
        """The first distance of a bucket."""
        return int(np.searchsorted(self.numbers, number)) + 1


def buckets(e: Float64, pairs: Pairs) -> tuple[Cause, ...] | None:
    """What differs between two functions that put distances into buckets; None where one of them does not."""
    ours, theirs = of_distance(e, pairs), of_distance(pairs.received, pairs)
    if ours is None or theirs is None or not _shared(ours[1], theirs[1]):
        return None
    sides = [[_side(*found, way) for way in (-1, 1)] for found in (ours, theirs)]
    if any(side is None for one in sides for side in one):
        return None
    (e_behind, e_ahead), (r_behind, r_ahead) = ([side for side in one if side is not None] for one in sides)
    for e_side, r_side, where in ((e_ahead, r_ahead, "ahead of"), (e_behind, r_behind, "behind")):
        if (e_side.total == 1) != (r_side.total == 1):
            one, other = ("received", "expected") if r_side.total == 1 else ("expected", "received")
            many = max(e_side.total, r_side.total)
            text = (
                f"keys {where} the query share one bucket in the {one} and have {many} in the {other} (bidirectional)"
            )
            return (Cause("sign", text),)
    for e_side, r_side, where in ((e_behind, r_behind, "behind"), (e_ahead, r_ahead, "ahead of")):
        apart = np.flatnonzero(e_side.numbers != r_side.numbers)
        if len(apart):
            at = int(apart[0])
            number = int(max(e_side.numbers[at], r_side.numbers[at]))
            whose = "expected" if e_side.numbers[at] == number else "received"
            text = (
                f"buckets of keys {where} the query have other bounds from distance {at + 1} on, where bucket {number} "
                f"of the {whose} begins: {_last(e_side)} expected, {_last(r_side)} received (number or max_distance)"
            )
            return (Cause("scaling", text),)
    return None


def _last(side: Side) -> str:
    return f"{side.total} buckets up to {side.begins(side.total - 1)}"


def _shared(e: Float64, r: Float64) -> bool:
    """Whether the received numbers are those of the expected, or bucket numbers themselves."""
    if all((part == np.rint(part)).all() for part in (e, r)):
        return True
    ours, theirs = ({tuple(column) for column in part.T.tolist()} for part in (e, r))
    return len(ours & theirs) >= 2 and 2 * len(ours & theirs) >= min(len(ours), len(theirs))


def _side(distances: NDArray[np.int64], by: Float64, way: int) -> Side | None:
    """Buckets that never come back and do not shrink to and fro: None otherwise, or where distances are few."""
    chosen = np.flatnonzero(distances * way > 0)[::way]
    steps = distances[chosen] * way
    if len(steps) < _FEWEST or (steps != np.arange(1, len(steps) + 1)).any():
        return None
    column = by[:, chosen].T
    new = np.concatenate([[False], (column[1:] != column[:-1]).any(axis=1)])
    numbers = np.cumsum(new).astype(np.int64)
    if len({tuple(row) for row in column.tolist()}) != numbers[-1] + 1 or numbers[-1] + 1 > 0.8 * len(steps):
        return None
    return Side(numbers)
