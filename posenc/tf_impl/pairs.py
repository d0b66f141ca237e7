"""The integer n of every pair of positions: runs, tables of runs, search and distances.

In a graph or on an accelerator pairs are computed one by one. On the host the values of all distances are computed
once, as a line, and copied from there into the result, which is filled in place; in blocks where there is no line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.lib.stride_tricks import as_strided

from posenc.spec.distance_plan import NO_ROW, DistancePlan, Run
from posenc.tf_impl import inputs
from posenc.tf_impl.inputs import Array, Pairs, Tensor

Values = Callable[[Array, range], Array]
"""Integers of a plan, `(n,)`, those of slopes as float64, and some heads -> `(heads, n)`."""

ALIGNMENT = 64
"""Of a tensor's memory, in bytes."""
LINE = 2**16
"""The longest table of rows by distance that is made of a plan."""
LONGEST = 2**20
"""The longest line of distances, but for progressions, which need no longer one than they have positions."""
BLOCK = 2**18
"""Pairs of a block, which is all that is held besides the result."""
FEW = 4
"""Runs that are compared with one after the other."""
_NONE = -(2**40)
"""Of a pair without a row: below zero, whatever is added to it."""


# --- Integers of a plan: the definition, in int64 tensors ---


def numbers_of(plan: DistancePlan, query: Tensor, key: Tensor) -> Tensor:
    """`(*B, Q, K)` int64."""
    parts = zip(*(_coordinates(positions, len(plan.axes)) for positions in (query, key)), strict=True)
    return _number(plan, [_distance(plan, q, k) for q, k in parts])


def _coordinates(positions: Tensor, axes: int) -> list[Tensor]:
    """`(*B, n)` positions, or `(*B, n, axes)` of several axes, one axis after the other."""
    return [positions] if axes == 1 else [positions[..., axis] for axis in range(axes)]


def _distance(plan: DistancePlan, query: Tensor, key: Tensor) -> Tensor:
    q = query[..., :, None]
    return key[..., None, :] - (tf.zeros_like(q) if plan.anchored else q)


def _number(plan: DistancePlan, distances: Sequence[Tensor]) -> Tensor:
    total = tf.add_n([_part(runs, d) for runs, d in zip(plan.axes, distances, strict=True)])
    return tf.maximum(total, NO_ROW) if has_holes(plan) else total


def _part(runs: tuple[Run, ...], d: Tensor) -> Tensor:
    """What one axis adds."""
    if len(runs) <= FEW:
        first, *others = ((run.first, *_linear(run)) for run in runs)
        result = first[1] + first[2] * d
        for start, number, step in others:
            result = tf.where(d >= start, number + step * d, result)
        return result
    table = _table(runs)
    if table is not None:
        return tf.gather(tf.constant(table, tf.int64), _place(runs, d))
    run = _run_of(runs, d)
    number, step = (tf.gather(tf.constant(column, tf.int64), run) for column in zip(*map(_linear, runs), strict=True))
    return number + step * d


def _run_of(runs: tuple[Run, ...], d: Tensor) -> Tensor:
    """The number of the run of a distance, by halves: what XLA makes of `tf.searchsorted` looks at every run."""
    bits = (len(runs) - 1).bit_length()
    firsts = np.full(2**bits, np.iinfo(np.int64).max)
    firsts[: len(runs)] = [run.first for run in runs]
    run = tf.zeros_like(d, tf.int32)
    for bit in reversed(range(bits)):
        further = run + 2**bit
        run = tf.where(tf.gather(tf.constant(firsts), further) <= d, further, run)
    return run


def _linear(run: Run) -> tuple[int, int]:
    """`a, b`: at distance d the run has a + b * d."""
    return (_NONE, 0) if run.number is None else (run.number - run.step * run.first, run.step)


@lru_cache(maxsize=64)
def _table(runs: tuple[Run, ...]) -> Array | None:
    """The numbers from the last distance of the first run to the first one of the last; None where they are many."""
    low, high = runs[1].first - 1, runs[-1].first
    if high - low >= LINE or runs[0].step or runs[-1].step:
        return None
    lines = [(_linear(run), end.first - max(run.first, low)) for run, end in pairwise((*runs, Run(high + 1, None)))]
    d = np.arange(low, high + 1)
    a, b = (np.repeat([line[part] for line, _ in lines], [count for _, count in lines]) for part in (0, 1))
    return np.asarray(a + b * d)


def _place(runs: tuple[Run, ...], d: Tensor) -> Tensor:
    """Where in the table of these runs a distance is; never outside."""
    low, high = (tf.constant(end, tf.int64) for end in (runs[1].first - 1, runs[-1].first))
    return tf.cast(tf.minimum(tf.maximum(d, low), high) - low, tf.int32)


def has_holes(plan: DistancePlan) -> bool:
    return any(run.number is None for runs in plan.axes for run in runs)


def rows_or_places(plan: DistancePlan, query: Tensor, key: Tensor) -> tuple[Tensor, Array | None]:
    """`(*B, Q, K)` int32: rows of a table; or, where the second is not None, places in it, which has the rows."""
    if len(plan.axes) == 1 and len(plan.axes[0]) > FEW:
        table = _table(plan.axes[0])
        if table is not None:
            line = np.maximum(table, NO_ROW).astype(np.int32)
            return _place(plan.axes[0], _distance(plan, query, key)), line
    return tf.cast(numbers_of(plan, query, key), tf.int32), None


# --- On the host, in place ---


def filled(plan: DistancePlan, pairs: Pairs, heads: int, dtype: Any, values: Values) -> Tensor:
    """`(*B, heads, Q, K)`."""
    assert pairs.arrays is not None  # noqa: S101 - they are on the host
    query, key = pairs.arrays
    result = _buffer([*pairs.lead, heads, query.shape[1], key.shape[1]], dtype)
    flat = result.reshape(len(query), *result.shape[-3:])
    _fill(plan, flat, np.zeros_like(query) if plan.anchored else query, key, values)
    tensor = tf.experimental.dlpack.from_dlpack(result.__dlpack__())
    return tf.bitcast(tensor, dtype) if tensor.dtype != dtype else tensor


def _buffer(shape: Any, dtype: Any) -> Array:
    """Memory that a tensor can take over: aligned, or it would be copied; bfloat16, which DLPack lacks, as uint16."""
    kind = np.dtype(np.uint16 if dtype == tf.bfloat16 else dtype.as_numpy_dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


def _fill(plan: DistancePlan, out: Array, query: Array, key: Array, values: Values) -> None:
    """`(B, heads, Q, K)` from positions `(B, Q)` and `(B, K)`, or with their axes last."""
    batch, heads, queries, keys = out.shape
    if out.size == 0:
        return
    pairs = batch * queries * keys
    if len(plan.axes) == 1 and max(queries, keys) <= BLOCK:
        paces = _paces(query[0], key[0]) if batch == 1 else None
        unit = 1 if paces is None else math.gcd(*paces) or 1
        distances = range(int(key.min() - query.max()), int(key.max() - query.min()) + 1, unit)
        longest = 1024 + min(2 * pairs, LONGEST + 2 * (queries + keys))
        for line in (distances, _within(plan.axes[0], distances)):
            if len(line) <= longest:
                _fill_from_line(plan, out, query, key, line, values, windows=line is distances)
                return
    if (out.size <= BLOCK and max(queries, keys) <= BLOCK) or pairs == 1:
        parts = (_coordinates(positions, len(plan.axes)) for positions in (query, key))
        n = _host_numbers(plan, [k[:, None] - q[:, :, None] for q, k in zip(*parts, strict=True)])
        block = values(n.reshape(-1), range(heads)).view(out.dtype)
        out[...] = block.reshape(heads, batch, queries, keys).swapaxes(0, 1)
        return
    axis, size = (0, batch) if batch > 1 else (2, queries) if queries > keys else (3, keys)
    for half in (slice(size // 2), slice(size // 2, size)):
        q = query[half] if axis == 0 else query[:, half] if axis == 2 else query
        k = key[half] if axis == 0 else key[:, half] if axis == 3 else key
        _fill(plan, out[(slice(None),) * axis + (half,)], q, k, values)


def _within(runs: tuple[Run, ...], distances: range) -> range:
    """Those of the distances at which something may change; before and behind them nothing does."""
    if runs[0].step or runs[-1].step:
        return distances
    low, high = runs[1].first - 1, runs[-1].first
    first = min(max(distances[0], low), high)
    return range(first, max(min(distances[-1], high), first) + 1)


def _fill_from_line(
    plan: DistancePlan, out: Array, query: Array, key: Array, distances: range, values: Values, *, windows: bool
) -> None:
    """By copying from the values of all distances: whole windows of them where positions are progressions."""
    batch, heads, queries, keys = out.shape
    low, unit, length = distances.start, distances.step, max(1, BLOCK // keys)
    n = _host_numbers(plan, [inputs.as_array(distances)])
    group = max(1, BLOCK // len(n))
    paces = [_paces(query[b], key[b]) if windows else None for b in range(batch)]
    for first in range(0, heads, group):
        some = slice(first, min(first + group, heads))
        line = values(n, range(some.start, some.stop)).view(out.dtype)
        for b in range(batch):
            pace = paces[b]
            if pace is not None:
                size = line.itemsize
                ahead = line[:, (int(key[b, 0] - query[b, 0]) - low) // unit :]
                strides = (line.strides[0], -pace[0] // unit * size, pace[1] // unit * size)
                out[b, some] = as_strided(ahead, (len(line), queries, keys), strides)
                continue
            for start in range(0, queries, length):
                index = key[b] - (query[b, start : start + length, None] + low)
                for of_head, target in zip(line, out[b, some], strict=True):
                    of_head.take(index, out=target[start : start + length], mode="clip")


def _host_numbers(plan: DistancePlan, distances: list[Array]) -> Array:
    """Integers of a plan; those of slopes as float64, which holds them exactly."""
    n: Array = _number(plan, [tf.constant(d, tf.int64) for d in distances]).numpy()
    return n.astype(np.float64) if plan.rows is None else n


def _paces(query: Array, key: Array) -> tuple[int, int] | None:
    """The steps of two progressions, 0 of one position alone; None where one of them is none."""
    steps = []
    for positions in (query, key):
        step = int(positions[1] - positions[0]) if len(positions) > 1 else 0
        if len(positions) > 2 and not (np.diff(positions) == step).all():
            return None
        steps.append(step)
    return steps[0], steps[1]
