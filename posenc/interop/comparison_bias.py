"""The comparison of biases `(*heads, queries, keys)`, and of bucket numbers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.interop import comparison_inputs as inputs
from posenc.interop.comparison_bias_moves import moves
from posenc.interop.comparison_case import EQUAL, Case, Tolerance, extended
from posenc.interop.comparison_distance import Pairs, buckets
from posenc.interop.comparison_formats import HALVES, Float64, formats, half_unit
from posenc.interop.comparison_words import CAUSES, Cause, causes
from posenc.spec.checks import SpecError

_ALL = 64
SLOPES = "2^-19 of each number, which slopes in float32 may be off by"


def biases(expected: Any, received: Any, positions: Any, key_positions: Any, tolerance: Tolerance) -> Case:
    """By pairs of a query and a key."""
    given = [
        (name, inputs.source(f"compare.{name}", one, None))
        for name, one in (("expected", expected), ("received", received))
    ]
    sizes = [one.shape for _, one in given if not callable(one)]
    for size in sizes:
        if len(size) < 2:
            raise SpecError(f"compare.expected: expected (*heads, queries, keys), received the shape {size}")
    query = inputs.pairs_at("compare.positions", positions, sizes[0][-2] if sizes else None)
    if key_positions is None and positions is not None and (not sizes or sizes[0][-1] == len(query)):
        key_positions = query
    key = inputs.pairs_at("compare.key_positions", key_positions, sizes[0][-1] if sizes else None)
    e, r = (
        inputs.array(f"compare.{name}(positions, key_positions)", one(query, key)) if callable(one) else one
        for name, one in given
    )
    layout: list[Cause] = []
    if np.isnan(e).any():
        raise SpecError("compare.expected: expected numbers, received NaN")
    if e.shape != r.shape:
        r, layout = _moved_axes(e, r)
    shape = (-1, len(query), len(key))
    if e.shape[-2:] != shape[1:]:
        raise SpecError(f"compare.expected: expected (*heads, {len(query)}, {len(key)}), received the shape {e.shape}")
    e, r = e.reshape(shape), r.reshape(shape)
    other = given[0][1]
    swapped = None
    if callable(other) and not np.array_equal(query, key):
        swapped = inputs.array("compare.expected(key_positions, positions)", other(key, query))
        swapped = np.swapaxes(swapped.reshape(-1, len(key), len(query)), 1, 2)
    sloped = _sloped(e, query, key)
    bound = SLOPES if sloped else EQUAL
    allowed = np.where(np.isfinite(e), np.abs(e), 0.0) * 2.0**-19 if sloped else np.zeros(e.shape)
    if tolerance is not None:
        allowed, bound = np.full(e.shape, float(tolerance)), f"{tolerance:g}, as given"
    pairs = Pairs(r, query, key, swapped)
    found = _found(e, pairs, allowed)
    finite = e[np.isfinite(e)]
    weak = "all numbers of the expected are equal" if finite.size and (finite == finite[0]).all() else ""
    if len(query) == len(key) == 1:
        weak = "one pair of a query and a key was compared"
    case = Case(e, r, allowed, ("head", "query", "key"), (query, key), found, bound, weak)
    return extended(case, *layout)


def _moved_axes(e: Float64, r: Float64) -> tuple[Float64, list[Cause]]:
    """Heads behind the pairs, say."""
    if e.ndim == r.ndim:
        for order in permutations(range(e.ndim)):
            if r.transpose(order).shape == e.shape:
                text = f"axes are in another order, {r.shape} received in place of {e.shape}"
                return r.transpose(order), [Cause("layout", text)]
    if e.size == r.size and e.shape[-2:] == r.shape[-2:]:
        return r.reshape(e.shape), []
    raise SpecError(f"compare.received: expected the shape {e.shape}, received {r.shape}")


def _sloped(e: Float64, query: inputs.Positions, key: inputs.Positions) -> bool:
    """Whether each head is a number times the distance, its absolute value, or the key: ALiBi."""
    distance = (key - query[:, None]).astype(float)
    known = np.asarray(np.isfinite(e).all(axis=0))
    if not _line(e[e.any(axis=(1, 2))][:1], distance, key, known):
        return False  # most biases are none, and have many heads
    return _line(e, distance, key, known) and bool((e[:, known] != np.rint(e[:, known])).any() or len(e) > 1)


def _line(e: Float64, distance: Float64, key: inputs.Positions, known: NDArray[np.bool_]) -> bool:
    for form in (distance, np.abs(distance), np.broadcast_to(key.astype(float), distance.shape)):
        x = form[known]
        if not x.any():
            continue
        slopes = (e[:, known] @ x) / (x @ x)
        if (np.abs(e[:, known] - slopes[:, None] * x) <= 2.0**-8 * np.abs(slopes[:, None] * x)).all() and slopes.any():
            return True
    return False


def _found(e: Float64, pairs: Pairs, allowed: Float64) -> tuple[Cause, ...] | None:
    """Two causes, or one; of many pairs they are looked for among some, and then held against all."""
    at = [_some(len(places)) for places in (pairs.query, pairs.key)]
    if all(len(some) == len(places) for some, places in zip(at, (pairs.query, pairs.key), strict=True)):
        return _why(e, pairs, allowed, 2, CAUSES)
    block = np.ix_(np.arange(len(e)), *at)
    swapped = None if pairs.swapped is None else pairs.swapped[block]
    part = Pairs(pairs.received[block], pairs.query[at[0]], pairs.key[at[1]], swapped)
    among = _why(e[block], part, allowed[block], 2, CAUSES)
    found = None if among is None else _why(e, pairs, allowed, 2, [cause.name for cause in among])
    return _why(e, pairs, allowed, 1, CAUSES) if found is None else found


def _some(length: int) -> NDArray[np.intp]:
    """The first, some about 256, and the last of them."""
    if length <= _ALL:
        return np.arange(length)
    return np.unique(np.concatenate([np.arange(40), np.arange(250, min(length, 266)), np.arange(length - 8, length)]))


def _why(e: Float64, pairs: Pairs, allowed: Float64, depth: int, names: Iterable[str]) -> tuple[Cause, ...] | None:
    """The fewest causes after which all pairs agree."""
    r = formats(pairs.received)
    narrow = tuple(name for name in r if name not in formats(e) and (name in HALVES or not allowed.any()))
    frontier: list[tuple[tuple[Cause, ...], Float64, Float64]] = [((), e, allowed)]
    found = _agreement(e, pairs.received, allowed, narrow)
    if found is not None:
        return found
    for _ in range(depth):
        following = []
        for told, values, bounds in frontier:
            for cause, after, limits in moves(values, bounds, pairs, names):
                if cause.name in {one.name for one in told}:
                    continue
                found = _agreement(after, pairs.received, limits, narrow)
                if found is not None and not _vacuous(e, after, pairs.received, allowed, narrow):
                    return causes(*told, cause, *found)
                following.append(((*told, cause), after, limits))
        frontier = following
    return buckets(e, pairs)


def _vacuous(e: Float64, after: Float64, received: Float64, allowed: Float64, narrow: tuple[str, ...]) -> bool:
    """Whether causes have left out what differs, and nothing else: a sign and an order that undo one another."""
    left = np.isnan(after)
    return bool(left.any()) and _agreement(np.where(left, np.nan, e), received, allowed, narrow) is not None


def _agreement(
    values: Float64, received: Float64, allowed: Float64, narrow: tuple[str, ...]
) -> tuple[Cause, ...] | None:
    """As for matrices; numbers that are not known (NaN) are left out, if enough are."""
    every: tuple[slice, ...] = (slice(None),) * 3
    few = (slice(0, None, -(-len(values) // 2)), slice(0, None, -(-values.shape[1] // 8)), slice(None))
    for part in (few, every):
        v, r, bounds = values[part], received[part], allowed[part]
        known = ~np.isnan(v)
        with np.errstate(invalid="ignore"):
            away = np.where((v == r) | ~known, 0.0, np.abs(v - r)) - bounds
        names = [name for name in narrow if (away <= np.where(known, half_unit(v, name), 0.0)).all()]
        plain = bool((away <= 0).all())
        if not plain and not names:
            return None
    count = int(known.sum())
    if count < v.size and (count < 16 or count * 16 < v.size or np.ptp(v[known]) == 0):
        return None
    return () if plain else (Cause("dtype", f"values are those of the expected rounded to {names[0]}"),)
