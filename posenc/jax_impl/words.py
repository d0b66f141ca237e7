"""Phases, and integers of distances, in unsigned 32-bit words: JAX has no wider integer unless x64 is on.

Phases by channel, not by pair: a cosine is the sine of a phase with a quarter turn added, and the zero channel of an
odd width is the sine of a phase that stays zero. So no value is ever moved from one channel to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl.formats import taken
from posenc.jax_impl.inputs import Array, HostArray
from posenc.spec.distance_plan import NO_ROW, DistancePlan, Run
from posenc.spec.plan import PhasePlan

QUARTER = np.uint32(1 << 30)
"""A quarter turn, in the most significant word."""
FEW_RUNS, SOME_RUNS = 4, 64
"""Each of so many is compared with; of more, a table is read, or, of more again, a search made."""
GREATEST_TABLE = 2**16


class Channels(NamedTuple):
    """A plan by channel: what kernels take as arrays, so that specs of one width share a compiled kernel."""

    words: Array
    """`(3, 4, dim)`: the increments of the three levels of a position, most significant word first."""
    offset: Array | None
    """`(4, dim)`, or None where the plan has no offset."""
    quarter: Array
    """`(dim,)`: `QUARTER` in the channels of a cosine."""
    scale: Array
    """`(dim,)` in float64: the magnitude, and zero in the zero channel of an odd width."""


@lru_cache(maxsize=32)
def channels(plan: PhasePlan) -> Channels:
    pair, cosine = np.arange(plan.pairs), np.arange(2)
    if plan.layout == "interleaved":
        pair, cosine = np.repeat(pair, 2), np.tile(cosine, plan.pairs)
    else:
        pair, cosine = np.tile(pair, 2), np.repeat(cosine ^ (plan.layout == "cos_sin"), plan.pairs)
    zeros = (0, plan.dim - 2 * plan.pairs)
    return Channels(
        np.pad(pair_words(plan)[..., pair], ((0, 0), (0, 0), zeros)),
        np.pad(pair_offset(plan)[:, pair], ((0, 0), zeros)) if plan.offset else None,
        np.pad(cosine.astype(np.uint32) * QUARTER, zeros),
        np.pad(np.full(2 * plan.pairs, plan.magnitude), zeros),
    )


@lru_cache(maxsize=32)
def pair_words(plan: PhasePlan) -> HostArray:
    """`(3, 4, pairs)`: the increments of the three levels of a position."""
    return np.array([plan.words(level) for level in range(3)], np.uint32).transpose(0, 2, 1)


@lru_cache(maxsize=32)
def pair_offset(plan: PhasePlan) -> HostArray:
    """`(4, pairs)`."""
    return np.array(plan.offset_words(), np.uint32).T


@jax.jit
def upper(parts: tuple[Array, ...], increments: Array, offset: Array | None) -> jax.Array:
    """Parts `(*P, 1)` -> `(*P, pairs, 3)`: the upper three of all four words."""
    return jnp.stack(phases(parts, increments, offset)[:3], axis=-1)


def phases(parts: Sequence[Array], words: Array, offset: Array | None) -> list[Array]:
    """Words of the phase, most significant first: parts `(*P, 1)` and words `(3, n, C)` -> n arrays `(*P, C)`."""
    axes = parts[0].ndim
    total = _product(parts[0], rows(words[0], axes))
    for level in range(1, len(parts)):
        total = _sum(total, _product(parts[level], rows(words[level], axes)))
    return total if offset is None else _sum(total, rows(offset, axes))


def rows(array: Array, axes: int) -> list[Array]:
    """Rows `(C,)` of `(n, C)`, each with as many axes as the positions: nothing is broadcast by rank."""
    return [array[i].reshape((1,) * (axes - 1) + array.shape[1:]) for i in range(array.shape[0])]


def _product(position: Array, words: Sequence[Array]) -> list[Array]:
    negative = position < np.int32(0)
    unsigned = lax.bitcast_convert_type(position, np.uint32)
    result: list[Array] = []
    carry: Array | None = None
    for word in reversed(words):
        low = unsigned * word
        # read as unsigned, a negative position is 2^32 too large, and its product one word too large up here
        high = _high(unsigned, word) - jnp.where(negative, word, np.uint32(0))
        if carry is not None:
            low = low + carry
            # high and carry are signed: what the carry lacks above is its sign
            high = high + (low < carry).astype(np.uint32) - (carry >> np.uint32(31))
        result.append(low)
        carry = high
    return result[::-1]


def _high(a: Array, b: Array) -> Array:
    """The upper word of a product, by 16-bit halves."""
    half, mask = np.uint32(16), np.uint32(0xFFFF)
    a1, a0, b1, b0 = a >> half, a & mask, b >> half, b & mask
    middle = a1 * b0 + (a0 * b0 >> half)
    other = a0 * b1 + (middle & mask)
    return a1 * b1 + (middle >> half) + (other >> half)


def _sum(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    result: list[Array] = []
    carry: Array | np.uint32 = np.uint32(0)
    for x, y in zip(reversed(a), reversed(b), strict=True):
        partial = x + y
        total = partial + carry
        carry = (partial < x).astype(np.uint32) + (total < partial).astype(np.uint32)
        result.append(total)
    return result[::-1]


# --- distances ---


class Distance(NamedTuple):
    """An integer d with |d| < 2^32: whether it is negative, and d modulo 2^32."""

    negative: jax.Array
    low: jax.Array


def distances(plan: DistancePlan, query: Array, key: Array) -> list[Distance]:
    """Of each axis of int32 positions `(*B, Q, axes)` and `(*B, K, axes)`: `(*B, Q, K)`."""
    rank = max(query.ndim, key.ndim)
    query, key = (jnp.asarray(a).reshape((1,) * (rank - a.ndim) + a.shape) for a in (query, key))
    if plan.anchored:
        query = query & np.int32(0)
    result = []
    for axis in range(len(plan.axes)):
        q, k = jnp.expand_dims(query[..., axis], -1), jnp.expand_dims(key[..., axis], -2)
        low = lax.bitcast_convert_type(k, np.uint32) - lax.bitcast_convert_type(q, np.uint32)
        result.append(Distance(k < q, low))
    return result


def numbers(plan: DistancePlan, query: Array, key: Array) -> jax.Array:
    """Rows of pairs, in int32; `NO_ROW` where they have none."""
    none = _word(NO_ROW)
    each = [_number(*of_axis) for of_axis in zip(plan.axes, distances(plan, query, key), strict=True)]
    total, missing = each[0], each[0] == none
    for number in each[1:]:
        total, missing = total + number, missing | (number == none)
    return lax.bitcast_convert_type(jnp.where(missing, none, total), np.int32)


def by_runs(runs: Sequence[Run], distance: Distance) -> jax.Array:
    """The number of the last run that begins no later, modulo 2^32, by comparing with each."""
    result = jnp.full_like(distance.low, _word(NO_ROW))
    for run in runs:
        number: Array | np.uint32 = _word(NO_ROW)
        if run.number is not None:
            number = _word(run.number - run.step * run.first) + _word(run.step) * distance.low
        result = jnp.where(at_least(distance, run.first), number, result)
    return result


def at_least(distance: Distance, first: int) -> jax.Array:
    above = distance.low >= _word(first)
    return above & ~distance.negative if first >= 0 else above | ~distance.negative


def _number(runs: tuple[Run, ...], distance: Distance) -> jax.Array:
    if len(runs) <= FEW_RUNS:
        return by_runs(runs, distance)
    # nothing changes from the last run on, nor before the second one
    least, greatest = runs[1].first - 1, runs[-1].first
    place = jnp.where(at_least(distance, least), distance.low - _word(least), np.uint32(0))
    place = jnp.where(at_least(distance, greatest), _word(greatest - least), place)
    if greatest - least < GREATEST_TABLE:
        return taken(_table(runs), place.astype(np.int32), 0)
    if len(runs) <= SOME_RUNS:
        return by_runs(runs, distance)
    firsts, first_numbers, steps = _constants(runs)
    index = jnp.zeros_like(place, np.int32)
    for bit in reversed(range((len(runs) - 1).bit_length())):
        further = index + np.int32(1 << bit)
        inside = further < np.int32(len(runs))
        there = taken(firsts, jnp.where(inside, further, np.int32(0)), 0)
        index = jnp.where(inside & (there <= place), further, index)
    return taken(first_numbers, index, 0) + taken(steps, index, 0) * (place - taken(firsts, index, 0))


@lru_cache(maxsize=32)
def _table(runs: tuple[Run, ...]) -> HostArray:
    """The numbers of all distances from one before the second run to the last run."""
    least, end = runs[1].first - 1, runs[-1].first + 1
    table = np.full(end - least, NO_ROW, np.int64)
    for run, after in zip(runs, [*(run.first for run in runs[1:]), end], strict=True):
        if run.number is not None:
            these = np.arange(max(run.first, least), after)
            table[these - least] = run.number + run.step * (these - run.first)
    return table.astype(np.uint32)


def _constants(runs: tuple[Run, ...]) -> list[HostArray]:
    """First places, counted from one before the second run, their numbers, and steps."""
    least = runs[1].first - 1
    firsts = [0] + [run.first - least for run in runs[1:]]
    first_numbers = [NO_ROW if run.number is None else run.number for run in runs]
    steps = [0 if run.number is None else run.step for run in runs]
    return [np.array([value % 2**32 for value in column], np.uint32) for column in (firsts, first_numbers, steps)]


def _word(value: int) -> np.uint32:
    return np.uint32(value % 2**32)
