"""Which few causes make one matrix of another."""

from __future__ import annotations

import numpy as np

from posenc.interop.comparison_formats import half_unit
from posenc.interop.comparison_maps import Map, Matrices, sample
from posenc.interop.comparison_matrix_moves import moves
from posenc.interop.comparison_words import Cause, causes

_FEWEST = 3
"""Rows that have to be left of a shifted table."""


def explained(given: Matrices, depth: int = 2) -> tuple[Cause, ...] | None:
    """The fewest causes, at most `depth` and rounding, after which all rows are as expected; None: there are none."""
    frontier: list[tuple[tuple[Cause, ...], Map]] = [((), given.same)]
    found = agreement(given, given.same)
    if found is not None:
        return found
    for _ in range(depth):
        following = []
        for told, before in frontier:
            for cause, after in moves(given, before):
                if cause.name in {one.name for one in told}:
                    continue
                found = agreement(given, after)
                if found is not None:
                    return causes(*told, cause, *found)
                following.append(((*told, cause), after))
        frontier = following
    return None


def agreement(given: Matrices, map_: Map) -> tuple[Cause, ...] | None:
    """No cause where all rows agree, rounding where that is all, None where they do not."""
    rows = np.flatnonzero(map_.rows >= 0)
    if len(rows) < min(_FEWEST, len(given.received)):
        return None
    for part in (sample(rows), rows):
        values, bounds = given.taken(map_, part)
        away = np.abs(given.received[part] - values) - bounds
        names = [(name, text) for name, text in given.narrow if (away <= half_unit(values, name)).all()]
        plain = bool((away <= 0).all())
        if not plain and not names:
            return None
    if len(rows) < len(given.received) and ((values == values[0]).all() or _stayed(given, map_)):
        return None  # equal rows fit any shift
    return () if plain else (Cause("dtype", names[0][1]),)


def _stayed(given: Matrices, map_: Map) -> bool:
    """Whether rows that a shift has no others for are where they were: positions that start again, say."""
    rest = np.flatnonzero((map_.rows < 0) & (given.same.rows >= 0))
    stay = Map(given.same.rows, map_.columns, map_.factors, map_.slack)
    values, bounds = given.taken(stay, rest)
    return bool(4 * (np.abs(given.received[rest] - values) <= bounds).all(axis=1).sum() > len(rest) > 1)
