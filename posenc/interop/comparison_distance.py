"""A bias at positions, and a bias as a function of the distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_inputs import Positions


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
