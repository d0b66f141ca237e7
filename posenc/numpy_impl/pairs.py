"""The integer n of every pair of positions, and arrays filled with what it becomes.

n depends on the distance alone. Where distances are few against the pairs, everything is computed once a distance, in a
table that pairs are copied from: one that runs along a progression of keys, and backwards along one of queries, as a
window with strides. Elsewhere it is computed in blocks of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from posenc.numpy_impl.inputs import Pair
from posenc.numpy_impl.words import Int64
from posenc.spec import weight_checks
from posenc.spec.distance_plan import NO_ROW, DistancePlan, Run

BLOCK = 2**15
"""Pairs computed at a time: their temporaries stay in the second-level cache, and cost no memory to speak of."""
FEW = 2**12
"""Values below which a copy of a window takes longer than picking them one by one."""
SHORT = 32
"""The same of the length of its rows."""
WIDEST = 2**16
"""Distances from the first change to the last one up to which each has its own entry of a table."""
_NOWHERE = -(2**40)

Write = Callable[[Int64, NDArray[Any]], None]
"""Writes what the numbers `(..., Q, K)` of some pairs become into an array `(..., channels, Q, K)`."""


class _Numbers:
    """n of some pairs from their distances on each axis."""

    def __init__(self, plan: DistancePlan) -> None:
        self.axes = [_axis(runs) for runs in plan.axes]
        self.partial = any(run.number is None for runs in plan.axes for run in runs)

    def __call__(self, distances: list[Int64]) -> Int64:
        n = self.axes[0](distances[0])
        for axis, d in zip(self.axes[1:], distances[1:], strict=True):
            n += axis(d)
        if self.partial:
            n[n < _NOWHERE // 2] = NO_ROW
        return n


@lru_cache(maxsize=64)
def _axis(runs: tuple[Run, ...]) -> Callable[[Int64], Int64]:
    """What an axis has at distances: the number of the last run that does not begin behind them, or `_NOWHERE`."""
    firsts, steps = (
        np.array(column, np.int64) for column in zip(*((run.first, run.step) for run in runs), strict=True)
    )
    offsets = np.array([_NOWHERE if run.number is None else run.number for run in runs], np.int64) - steps * firsts
    if len(runs) == 1:
        return lambda d: offsets[0] + steps[0] * d

    def search(d: Int64) -> Int64:
        run = firsts.searchsorted(d, side="right") - 1
        n: Int64 = offsets[run] + steps[run] * d
        return n

    low, high = runs[min(1, len(runs) - 1)].first - 1, runs[-1].first
    if high - low > WIDEST or steps[0] or steps[-1]:
        return search
    entries: Int64 = search(np.arange(low, high + 1))
    return lambda d: entries.take(d - low, mode="clip")


def check_distances(where: str, plan: DistancePlan, pair: Pair) -> None:
    """Refuse the first pair without a row, where that is a mistake."""
    if not plan.strict or not (pair.query.size and pair.key.size):
        return
    bounds = [plan.bounds(axis) for axis in range(len(plan.axes))]
    q, k = (p.reshape(-1, len(bounds)) for p in (pair.query, pair.key))
    least, greatest = k.min(0) - q.max(0), k.max(0) - q.min(0)
    if all(low <= a and b <= high for (low, high), a, b in zip(bounds, least, greatest, strict=True)):
        return
    for _, distances in _blocks(pair):
        outside = np.stack([(d < low) | (d > high) for (low, high), d in zip(bounds, distances, strict=True)], axis=-1)
        if outside.any():
            first, axis = divmod(int(outside.argmax()), len(bounds))
            raise weight_checks.distance_error(where, axis, *bounds[axis], int(distances[axis].reshape(-1)[first]))


def _blocks(pair: Pair) -> Iterator[tuple[tuple[slice, ...], list[Int64]]]:
    """Pieces of `(*lead, Q, K)` in row-major order, and the distances in them on each axis."""
    q, k = (
        p if p.shape[:-2] == pair.lead else np.broadcast_to(p, (*pair.lead, *p.shape[-2:]))
        for p in (pair.query, pair.key)
    )
    for cut in _cuts((*pair.lead, q.shape[-2], k.shape[-2])):
        some_q, some_k = q[cut[:-1]], k[cut[:-2] + cut[-1:]]
        yield cut, [some_k[..., None, :, axis] - some_q[..., :, None, axis] for axis in range(q.shape[-1])]


def _cuts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    room, cuts = BLOCK, []
    for size in reversed(shape):
        step = max(1, min(size, room))
        room //= step
        cuts.append([slice(first, first + step) for first in range(0, size, step)])
    return product(*reversed(cuts))


def fill(plan: DistancePlan, pair: Pair, out: NDArray[Any], write: Write) -> None:
    """What every pair has, into `(*lead, channels, Q, K)`."""
    if not out.size:
        return
    if plan.anchored and out.shape[-2] >= 8:  # all rows are one row
        row = np.empty_like(out[..., :1, :])
        fill(plan, pair._replace(query=pair.query[..., :1, :]), row, write)
        out[...] = row
        return
    numbers = _Numbers(plan)
    if _by_distance(numbers, pair, out, write):
        return
    for cut, distances in _blocks(pair):
        write(numbers(distances), out[(*cut[:-2], slice(None), *cut[-2:])])


def _by_distance(numbers: _Numbers, pair: Pair, out: NDArray[Any], write: Write) -> bool:
    """The same from a table `(channels, distances)`; False where it would be no small part of the result."""
    *lead, count, queries, keys = out.shape
    pairs = out.size // count
    q, k = pair.query, pair.key
    if 64 * (q.size + k.size) > out.size:
        return False
    axes = tuple(range(q.ndim - 1))
    last, first = q.max(axes), k.min(axes)
    q, k = last - q, k - first
    unit = np.maximum(np.gcd(np.gcd.reduce(q.reshape(-1, len(last))), np.gcd.reduce(k.reshape(-1, len(last)))), 1)
    q //= unit
    k //= unit
    sizes = (q.max(axes) + k.max(axes) + 1).tolist()
    entries = math.prod(sizes)
    if 8 * entries > pairs:
        return False
    # the distances of all axes as one number, in which the last axis runs fastest
    radix = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    q, k = (np.broadcast_to(p @ radix, (*lead, p.shape[-2])) for p in (q, k))
    table = np.empty((count, entries), out.dtype)
    for begin in range(0, entries, BLOCK):
        part = slice(begin, min(begin + BLOCK, entries))
        steps = np.unravel_index(np.arange(part.start, part.stop), sizes)
        distances = [step * unit[axis] + (first[axis] - last[axis]) for axis, step in enumerate(steps)]
        write(numbers(distances)[None], table[:, None, part])
    if count * queries * keys < 16 * FEW:  # looking for progressions in one batch row after another takes longer
        _pick(table, q, k, out)
        return True
    for index in np.ndindex(*lead):
        if not _copy_windows(table, q[index], k[index], out[index]):
            _pick(table, q[index], k[index], out[index])
    return True


def _pick(table: NDArray[Any], q: Int64, k: Int64, out: NDArray[Any]) -> None:
    """`out[..., i, j] = table[:, q[..., i] + k[..., j]]`, one by one."""
    for cut in _cuts((*out.shape[:-3], *out.shape[-2:])):
        index = q[cut[:-1]][..., :, None] + k[cut[:-2] + cut[-1:]][..., None, :]
        part = out[(*cut[:-2], slice(None), *cut[-2:])]
        for channel, values in enumerate(table):
            values.take(index, out=part[..., channel, :, :], mode="clip")


def _copy_windows(table: NDArray[Any], q: Int64, k: Int64, out: NDArray[Any]) -> bool:
    """The same by windows, one for each pair of progressions; False where these are too many."""
    most = out.size // FEW
    upward, along = _progressions(q, most), _progressions(k, most)
    if not 0 < len(upward) * len(along) <= most or len(along) * SHORT > len(k):
        return False
    across, entry = table.strides
    for i, i_end, i_step in upward:
        for j, j_end, j_step in along:
            shape, strides = (len(table), i_end - i, j_end - j), (across, i_step * entry, j_step * entry)
            out[:, i:i_end, j:j_end] = as_strided(table[:, q[i] + k[j] :], shape, strides)
    return True


def _progressions(p: Int64, most: int) -> list[tuple[int, int, int]]:
    """First index, end and step of the arithmetic progressions that `p` consists of; none if they are more than `most`.

    A step between two of them belongs to neither.
    """
    steps = np.diff(p, append=p[-1:])
    turns = np.flatnonzero(steps[1:-1] != steps[:-2]) + 1
    if len(turns) > 2 * most:
        return []
    result, first = [], 0
    for last in (*turns.tolist(), len(p) - 1):
        if last > first or first == len(p) - 1:
            result.append((first, last + 1, int(steps[first])))
            first = last + 1
    return result
