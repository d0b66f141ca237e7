"""The integer n of every pair of positions, on the host: runs, tables and searches; progressions, windows and blocks.

NumPy fills the result block by block, so that nothing else of its size is ever in memory. What a trace or an
accelerator computes instead is in `words`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from posenc.jax_impl import formats, inputs
from posenc.jax_impl.inputs import Array, HostArray
from posenc.spec import weight_checks
from posenc.spec.distance_plan import NO_ROW, DistancePlan, Run

BLOCK, ENTRIES = 2**15, 2**19
"""Pairs looked at in one go, and entries of all heads, unless heads are very many."""
OFTEN = 8
"""Pairs of one distance from which it pays to compute once what belongs to it."""
WORTHWHILE = 2**12
"""Pairs from which it pays to ask whether positions are evenly spaced."""
MISSING = -(2**40)
"""On an axis, where a distance has no row: with this, no sum is a row."""

Write = Callable[[HostArray, HostArray], None]
"""Of numbers `(n, q, k)` to their place `(n, heads, q, k)`."""
Number = Callable[[list[HostArray]], HostArray]
"""Of distances `(n, q, k)` on each axis to numbers."""


class Pair(NamedTuple):
    """int32 positions of queries and keys, `(*B, length, axes)` each, and the leading axes of their pairs."""

    query: Array
    key: Array
    lead: tuple[int, ...]

    def known(self) -> bool:
        """Whether their values are; in a trace they may be, too."""
        return isinstance(self.query, np.ndarray) and isinstance(self.key, np.ndarray)

    def on_device(self) -> tuple[Array, Array]:
        return inputs.native(self.query), inputs.native(self.key)


class _Axis(NamedTuple):
    """An axis of a plan, and the numbers of all distances from `least` on, where these occur often."""

    runs: tuple[Run, ...]
    least: int
    table: HostArray | None


def filled(where: str, plan: DistancePlan, pair: Pair, write: Write, heads: int, dtype: np.dtype[Any]) -> HostArray:
    """What is written of every pair, `(*B, heads, Q, K)`; where the plan is strict, one without a row is refused."""
    size = heads, pair.query.shape[-2], pair.key.shape[-2]
    shape = math.prod(pair.lead), *size
    array = inputs.aligned(math.prod(shape) * dtype.itemsize).view(dtype)
    _fill(where, plan, pair, write, array.reshape(shape))
    return array.reshape(*pair.lead, *size)


def check(where: str, plan: DistancePlan, pair: Pair) -> None:
    """Refuse what `filled` refuses."""
    shape = math.prod(pair.lead), 1, pair.query.shape[-2], pair.key.shape[-2]
    _fill(where, plan, pair, lambda *_: None, np.broadcast_to(np.int32(0), shape))


def _fill(where: str, plan: DistancePlan, pair: Pair, write: Write, out: HostArray) -> None:
    batch, heads, queries, keys = out.shape
    if not out.size:
        return
    if plan.anchored and queries > 1:  # what holds for one query holds for all
        _fill(where, plan, pair._replace(query=pair.query[..., :1, :]), write, out[:, :, :1])
        out[:, :, 1:] = out[:, :, :1]
        return
    # positions by axis, and which row of them a row of the batch has
    query, key = (np.moveaxis(np.asarray(a).reshape(-1, *a.shape[-2:]), -1, 0) for a in pair[:2])
    counts = [np.arange(math.prod(a.shape[:-2])).reshape(a.shape[:-2]) for a in pair[:2]]
    of_query, of_key = (np.broadcast_to(count, pair.lead).reshape(-1) for count in counts)
    query = np.zeros_like(query) if plan.anchored else query
    axes = [_axis(runs, q, k, out.size // heads) for runs, q, k in zip(plan.axes, query, key, strict=True)]
    number: Number = partial(_numbers, where, plan, axes)
    if plan.rows is None and axes[0].table is not None:
        number, write = _tabulated(axes[0], write, heads, out.dtype)
    evenly = len(axes) == 1 and not plan.strict and min(queries, keys) >= OFTEN and queries * keys >= WORTHWHILE
    for some in [range(n, n + 1) for n in range(batch)] if evenly else [range(batch)]:
        q, k = query[0, of_query[some[0]]], key[0, of_key[some[0]]]
        if evenly and (step := _step(q)) is not None and step == _step(k):
            _copy(number, int(k[0]) - int(q[-1]), step, write, out[some[0]])
            continue
        for n, i, j in _blocks(some, heads, queries, keys):
            q, k = query[:, of_query[n], i, None], key[:, of_key[n], None, j]
            write(number([np.subtract(b, a, dtype=np.int64) for a, b in zip(q, k, strict=True)]), out[n, :, i, j])


def _blocks(batch: range, heads: int, queries: int, keys: int) -> Iterator[tuple[slice, slice, slice]]:
    """In row-major order."""
    pairs = max(min(BLOCK, ENTRIES // heads), 2**8)
    k = min(keys, pairs)
    q = min(queries, max(pairs // k, 1))
    n = max(pairs // (q * k), 1) if q == queries else 1
    for start in range(batch.start, batch.stop, n):
        for first in range(0, queries, q):
            for left in range(0, keys, k):
                yield slice(start, min(start + n, batch.stop)), slice(first, first + q), slice(left, left + k)


def _copy(number: Number, first: int, step: int, write: Write, out: HostArray) -> None:
    """Fill `(heads, Q, K)` where a distance is that of the pair before, up or left: `first` is that of the last query.

    Of every head one line of distances is enough, from which each query has a window.
    """
    heads, queries, keys = out.shape
    size = max(queries, ENTRIES // heads)
    for start in range(0, keys, size):
        stop = min(start + size, keys)
        line = np.empty((1, heads, 1, stop - start + queries - 1), out.dtype)
        write(number([first + step * np.arange(start, stop + queries - 1)[None, None]]), line)
        for head, values in enumerate(bits(line[0, :, 0])):
            (width,) = values.strides
            windows = as_strided(values[queries - 1 :], (queries, stop - start), (-width, width))
            bits(out[head])[:, start:stop] = windows


def _step(positions: HostArray) -> int | None:
    """The distance from each position to the next, if it is the same."""
    steps = np.subtract(positions[1:], positions[:-1], dtype=np.int64)
    return int(steps[0]) if (steps == steps[0]).all() else None


def _axis(runs: tuple[Run, ...], query: HostArray, key: HostArray, pairs: int) -> _Axis:
    least, greatest = int(key.min()) - int(query.max()), int(key.max()) - int(query.min())
    if runs[0].step == 0 and len(runs) > 1:  # before the second run, and from the last one on, nothing changes
        least, greatest = max(least, runs[1].first - 1), max(greatest, runs[1].first - 1)
    if runs[-1].step == 0:
        least, greatest = min(least, runs[-1].first), min(greatest, runs[-1].first)
    often = (greatest - least + 1) * OFTEN <= pairs
    return _Axis(runs, least, _searched(runs, np.arange(least, greatest + 1)) if often else None)


def _tabulated(axis: _Axis, write: Write, heads: int, dtype: np.dtype[Any]) -> tuple[Number, Write]:
    """The products of all distances, once: what is left is to select them."""
    assert axis.table is not None  # noqa: S101  # just asked
    products = np.empty((1, heads, 1, len(axis.table)), dtype)
    write(axis.table[None, None], products)
    return lambda distances: distances[0] - axis.least, partial(select, products[0, :, 0])


def _numbers(where: str, plan: DistancePlan, axes: list[_Axis], distances: list[HostArray]) -> HostArray:
    each = [
        _searched(axis.runs, d) if axis.table is None else axis.table.take(d - axis.least, mode="clip")
        for axis, d in zip(axes, distances, strict=True)
    ]
    if plan.rows is None:
        return each[0]
    total = sum(each[1:], start=each[0])
    missing = total < MISSING // 2
    if not missing.any():
        return total
    if plan.strict:
        pair = np.unravel_index(np.argmax(missing), missing.shape)
        axis = next(a for a, numbers in enumerate(each) if numbers[pair] == MISSING)
        raise weight_checks.distance_error(where, axis, *plan.bounds(axis), int(distances[axis][pair]))
    return np.where(missing, NO_ROW, total)


def _searched(runs: tuple[Run, ...], distances: HostArray) -> HostArray:
    """By searching the run of each distance."""
    firsts, numbers, steps = np.array(
        [(run.first, MISSING if run.number is None else run.number, run.step) for run in runs], np.int64
    ).T
    if len(runs) == 1:
        return np.asarray(numbers + steps * (distances - firsts))
    index = firsts.searchsorted(distances, side="right") - 1
    result: HostArray = numbers[index] + steps[index] * (distances - firsts[index])
    return result


def select(columns: HostArray, numbers: HostArray, out: HostArray) -> None:
    """Numbers -> entries of `(heads, rows)`, moved as integers; NaN where there is no row."""
    missing = numbers == NO_ROW
    for head, column in enumerate(bits(columns)):
        np.take(column, numbers, out=bits(out[:, head]), mode="clip")
    if missing.any():
        out.swapaxes(0, 1)[:, missing] = np.nan


def bits(array: HostArray) -> HostArray:
    return array.view(formats.UNSIGNED[array.dtype.itemsize])
