"""How one matrix may come from another: rows shifted, channels in another order, signs, one factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from posenc.interop.comparison_formats import HALVES, Float64
from posenc.interop.comparison_maps import Indices, Map, Matrices, sample
from posenc.interop.comparison_words import Cause, number, things


def moves(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    """Each cause, and the map with it."""
    for name, order in given.orders:
        columns = before.columns[order]
        yield Cause("layout", f"{name} ({_channel(columns)})"), replace(before, columns=columns)
    for move in (_offsets, _turned, _factor, _signs, _columns, _rows):
        yield from move(given, before)


def _offsets(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    if before.rows is not given.same.rows:
        return
    anchors = sample(np.arange(len(given.received)))[::10]
    values = given.expected[:, before.columns] * before.factors
    near = np.abs(values @ given.received[anchors].T) / np.maximum(np.linalg.norm(values, axis=1), 1e-300)[:, None]
    shifts = given.places[near.argmax(axis=0)] - given.own[anchors]
    for k in sorted({int(k) for k in shifts} - {0}, key=abs):
        text = f"received row p is expected row p {'+' if k > 0 else '-'} {abs(k)}"
        yield Cause("offset", text), replace(before, rows=given.shifted(k))


def _turned(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    last = given.own[0] + given.own[-1]
    if before.rows is not given.same.rows or not np.array_equal(given.places, last - given.own[::-1]):
        return
    text = f"rows run the other way, row p is expected row {last:.0f} - p"
    yield Cause("sign", text), replace(before, rows=before.rows[::-1])


def _factor(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    rows, values = _known(given, before)
    if not len(rows) or not (total := np.abs(values).sum()):
        return
    factor = float(np.abs(given.received[rows]).sum() / total)
    if np.isfinite(factor) and factor and abs(factor - 1) > (2.0**-17 if given.bounds.any() else 2.0**-20):
        text = f"values are {number(factor)} times the expected (magnitude, or attention factor)"
        slack = 2.0**-11 if any(name in HALVES for name, _ in given.narrow) else 2.0**-20
        yield Cause("scaling", text), replace(before, factors=before.factors * factor, slack=slack)


def _signs(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    rows, values = _known(given, before)
    signs = np.where((values * given.received[rows]).sum(axis=0) < 0, -1.0, 1.0)
    negated = np.flatnonzero(signs < 0)
    if not len(negated):
        return
    text = "values are negated" if len(negated) == len(signs) else f"{things('channel', negated)} are negated"
    zero = np.flatnonzero(given.places == 0)
    if len(zero) and not given.expected[zero[0], before.columns][negated].any() and len(negated) > len(signs) // 2 - 1:
        text = "sines are negated, positions run the other way"
    yield Cause("sign", text), replace(before, factors=before.factors * signs)


def _columns(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    """Channels by rank: equal columns have equal sums, whatever their order; signs may differ."""
    rows, values = _known(given, before)
    weights = np.random.default_rng(0).standard_normal(len(rows))
    columns = before.columns[_ranked(np.abs(weights @ values), np.abs(weights @ given.received[rows]))]
    if (columns != before.columns).any():
        text = f"channels are in another order ({_channel(columns)})"
        yield Cause("layout", text), replace(before, columns=columns)


def _rows(given: Matrices, before: Map) -> Iterator[tuple[Cause, Map]]:
    if before.rows is not given.same.rows or len(given.places) != len(given.own):
        return
    weights = np.random.default_rng(1).standard_normal(len(before.columns))
    values = given.expected[:, before.columns] * before.factors
    rows = _ranked(values @ weights, given.received @ weights)
    if (moved := np.flatnonzero(rows != before.rows)).size:
        text = f"row {moved[0]} of the received is row {rows[moved[0]]} of the expected"
        yield Cause("layout", f"rows are in another order{_grid(rows)} ({text})"), replace(before, rows=rows)


def _grid(rows: Indices) -> str:
    """Whether the rows are those of a grid, read by columns."""
    for height in range(2, len(rows) // 2 + 1):
        if len(rows) % height == 0 and (np.arange(len(rows)).reshape(height, -1).T.ravel() == rows).all():
            return f", of a grid of {height} by {len(rows) // height} its columns come first"
    return ""


def _known(given: Matrices, before: Map) -> tuple[Indices, Float64]:
    rows = sample(np.flatnonzero(before.rows >= 0))
    return rows, given.taken(before, rows)[0]


def _ranked(expected: Float64, received: Float64) -> Indices:
    order = np.empty(len(received), np.intp)
    order[np.argsort(received, kind="stable")] = np.argsort(expected, kind="stable")
    return order


def _channel(columns: Indices) -> str:
    moved = np.flatnonzero(columns != np.arange(len(columns)))
    first = moved[0] if len(moved) else 0
    return f"channel {first} of the received is channel {columns[first]} of the expected"
