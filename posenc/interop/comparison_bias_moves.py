"""How one bias may come from another: its numbers changed, or those of other heads, pairs, distances or rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from posenc.interop import comparison_bias_values as values
from posenc.interop.comparison_bias_values import Step
from posenc.interop.comparison_distance import Pairs, at_distance, of_distance
from posenc.interop.comparison_formats import HALVES, Float64, rounded
from posenc.interop.comparison_maps import Indices
from posenc.interop.comparison_words import Cause

_GREATEST_SHIFT = 64


def moves(e: Float64, allowed: Float64, pairs: Pairs, names: Iterable[str]) -> Iterator[Step]:
    """Each cause of these names, the expected numbers with it, and what they may be off by."""
    for name, move in _MOVES:
        if name in names:
            yield from move(e, allowed, pairs)


def _directions(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    cause = Cause("sign", "the bias of (q, k) is the expected one of (k, q)")
    if pairs.swapped is not None and pairs.swapped.shape == e.shape:
        yield cause, pairs.swapped, np.full(e.shape, allowed.max())
    elif np.array_equal(pairs.query, pairs.key):
        yield cause, np.swapaxes(e, 1, 2), np.swapaxes(allowed, 1, 2)
    elif (found := of_distance(e, pairs)) is not None:
        yield cause, at_distance(*found, pairs.query[:, None] - pairs.key), np.full(e.shape, allowed.max())


def _heads(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    if len(e) < 2:
        return
    known = np.isfinite(e).all(axis=0) & np.isfinite(pairs.received).all(axis=0)
    weights = np.random.default_rng(0).standard_normal(int(known.sum()))
    order = np.empty(len(e), np.intp)
    order[np.argsort(pairs.received[:, known] @ weights)] = np.argsort(e[:, known] @ weights)
    moved = np.flatnonzero(order != np.arange(len(e)))
    if len(moved):
        text = f"head {moved[0]} of the received is head {order[moved[0]]} of the expected"
        yield Cause("layout", f"heads are in another order ({text})"), e[order], allowed[order]


def _shifted(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    ours, theirs = of_distance(e, pairs), of_distance(pairs.received, pairs)
    if ours is None or theirs is None:
        return
    distances, by = ours
    for k in sorted((k for k in range(-_GREATEST_SHIFT, _GREATEST_SHIFT + 1) if k), key=abs):
        values = at_distance(distances, by, distances + k)
        known = np.isfinite(values).all(axis=0) & np.isfinite(theirs[1]).all(axis=0)
        close = np.abs(values[:, known] - theirs[1][:, known]) <= np.abs(values[:, known]) * 2.0**-7
        if known.any() and close.all():
            text = f"the bias of distance k - q = d is the expected one of d {'+' if k > 0 else '-'} {abs(k)}"
            wanted = pairs.key - pairs.query[:, None] + k
            yield Cause("offset", text), at_distance(distances, by, wanted), np.full(e.shape, allowed.max())
            return


def _windows(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    """Queries and keys of a grid, read the other way."""
    count = e.shape[1]
    if not np.array_equal(pairs.query, pairs.key) or (np.diff(pairs.query) != 1).any():
        return
    if of_distance(e[:1], pairs) is not None:
        return  # a row of tokens, not a grid
    for height in range(2, count // 2 + 1):
        if count % height == 0:
            order = np.arange(count).reshape(height, -1).T.ravel()
            text = f"the axes of a window of {height} by {count // height} are swapped"
            at = np.ix_(np.arange(len(e)), order, order)
            yield Cause("layout", text), e[at], allowed[at]


def _narrow(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    for name in HALVES:
        at = []
        for places in (pairs.query, pairs.key):
            wanted = rounded(places, name).astype(np.int64)
            near: Indices = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
            at.append((near, places[near] == wanted))
        if any((places != places[one[0]]).any() for places, one in zip((pairs.query, pairs.key), at, strict=True)):
            known = at[0][1][:, None] & at[1][1]
            values = np.where(known, e[:, at[0][0]][:, :, at[1][0]], np.nan)
            yield (
                Cause("dtype", f"the bias is that of positions rounded to {name}"),
                values,
                np.full(e.shape, allowed.max()),
            )
        found = of_distance(e, pairs)
        if found is not None:
            wanted = rounded(pairs.key - pairs.query[:, None], name).astype(np.int64)
            values = at_distance(*found, wanted)
            yield (
                Cause("dtype", f"the bias is that of distances rounded to {name}"),
                values,
                np.full(e.shape, allowed.max()),
            )


def _rows(e: Float64, allowed: Float64, pairs: Pairs) -> Iterator[Step]:
    """A table of the same rows in another order: pairs that share a row do so in both."""
    if not (np.isfinite(e).all() and np.isfinite(pairs.received).all()):
        return
    weights = np.random.default_rng(0).standard_normal(len(e))[:, None, None]
    ours, theirs = ((weights * part).sum(axis=0).ravel() for part in (e, pairs.received))
    values, first, where = np.unique(ours, return_index=True, return_inverse=True)
    if len(values) < 2 or len(values) > len(ours) // 2:
        return
    there = theirs[first]
    order = np.minimum(np.searchsorted(values, there), len(values) - 1)
    found = values[order] == there  # a row that no pair reads in the expected is not known
    if (there[where] != theirs).any() or 4 * found.sum() < 3 * len(found) or len(np.unique(there)) < len(there):
        return
    at = np.flatnonzero(found & (order != np.arange(len(values))))
    if len(at):
        q, k = np.unravel_index(int(first[at[0]]), e.shape[1:])
        text = f"query {pairs.query[q]} and key {pairs.key[k]} have the row of another pair"
        rows = np.where(found, e.reshape(len(e), -1)[:, first[order]], np.nan)
        yield (
            Cause("layout", f"rows of the table are in another order ({text})"),
            rows[:, where].reshape(e.shape),
            allowed,
        )


_MOVES = (
    ("sign", values.negated),
    ("sign", _directions),
    ("sign", values.ahead),
    ("offset", _shifted),
    ("layout", _heads),
    ("scaling", values.factors),
    ("offset", values.constants),
    ("layout", _windows),
    ("dtype", _narrow),
    ("layout", _rows),
)
