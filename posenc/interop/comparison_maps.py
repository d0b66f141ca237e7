"""Two matrices, and a matrix whose rows and channels come from another: what is searched for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_formats import HALVES, Float64, formats

Indices = NDArray[np.intp]
_SAMPLE = 48


@dataclass(frozen=True, slots=True)
class Map:
    """The expected matrix's rows (-1: it has none) and channels, in the received order, and what they are times."""

    rows: Indices
    columns: Indices
    factors: Float64
    slack: float = 0.0
    """What one more rounding, and the doubt of a factor, add to the bounds, relative."""


@dataclass(frozen=True)
class Matrices:
    """`(length, width)` each, at integer positions; `bounds` is what the expected one's numbers may be off by."""

    expected: Float64
    received: Float64
    bounds: Float64
    places: Float64
    """Positions of the expected rows, ascending."""
    own: Float64
    """Positions of the received rows."""
    orders: tuple[tuple[str, Indices], ...] = ()
    """Orders of channels that have a name."""

    @cached_property
    def narrow(self) -> tuple[tuple[str, str], ...]:
        """Formats that one of the two is in, and the other is not, with what that means."""
        e, r = formats(self.expected), formats(self.received)
        if self.bounds.any():  # which have room for float32 already
            e, r = (tuple(name for name in one if name in HALVES) for one in (e, r))
        rounded = [(name, f"values are those of the expected rounded to {name}") for name in r if name not in e]
        back = [(name, f"the expected values are those of the received rounded to {name}") for name in e]
        return (*rounded, *(one for one in back if one[0] not in r))

    @cached_property
    def same(self) -> Map:
        """Nothing changed."""
        width = self.expected.shape[1]
        return Map(self.shifted(0), np.arange(width), np.ones(width))

    def shifted(self, k: float) -> Indices:
        """For each received row, the expected one that stands `k` positions further."""
        near = np.minimum(np.searchsorted(self.places, self.own + k), len(self.places) - 1)
        return np.where(self.places[near] == self.own + k, near, -1)

    def taken(self, map_: Map, rows: Indices) -> tuple[Float64, Float64]:
        """The numbers that the map says, of some rows that it has, and their bounds."""
        at = map_.rows[rows][:, None], map_.columns
        values = self.expected[at] * map_.factors
        return values, self.bounds[at] * np.abs(map_.factors) + map_.slack * np.abs(values)


def sample(rows: Indices) -> Indices:
    """Some of them, first and evenly."""
    return rows[:: -(-len(rows) // _SAMPLE)]
