"""Rows and biases by the distance of a query and a key.

On the host NumPy fills the result, in blocks; in a trace or on an accelerator it is one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.stride_tricks import as_strided

from posenc.jax_impl import formats, inputs, slopes, words
from posenc.jax_impl.inputs import Array, HostArray
from posenc.jax_impl.phase import F32, F64, NO_FLOAT64, Positions, x64
from posenc.spec import checks, weight_checks
from posenc.spec.distance_plan import NO_ROW, DistancePlan, DistanceSpec, Run, SlopeSpec, bias_plan, rows_plan

BLOCK, ENTRIES = 2**15, 2**19
"""On the host: pairs looked at in one go, and entries of all heads, unless heads are very many."""
OFTEN = 8
"""Pairs of one distance from which it pays to compute once what belongs to it."""
WORTHWHILE = 2**12
"""Pairs from which it pays to ask whether positions are evenly spaced."""
MISSING = -(2**40)
"""On an axis, where a distance has no row: with this, no sum is a row."""


def rows(spec: DistanceSpec, query_positions: Positions, key_positions: Positions) -> jax.Array:
    """Rows `(*B, Q, K)` in int32 of positions `(*B, Q)` and `(*B, K)`, or with coordinates last.

    The same integers on the host, in a trace and on an accelerator.
    """
    plan = rows_plan("rows", spec)
    pair = _read("rows", plan, query_positions, key_positions)
    if pair.on_host:
        return inputs.adopted(_host_rows("rows", plan, pair), query_positions, key_positions)
    result: jax.Array = _fused_rows(*pair.arrays(), plan)
    return result


def bias(
    spec: DistanceSpec,
    query_positions: Positions,
    key_positions: Positions,
    *,
    weights: ArrayLike | None = None,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Biases `(*B, heads, Q, K)` of positions `(*B, Q)` and `(*B, K)`, or with coordinates last; never a mask.

    Slopes: correctly rounded on the host, fused in a trace. float64 is returned with x64 off, too, but not in a trace.
    """
    plan = bias_plan("bias", spec)
    pair = _read("bias", plan, query_positions, key_positions)
    table = None
    if plan.rows is not None:
        shape = (plan.rows, plan.heads or 0)
        if weights is None:
            raise weight_checks.weights_shape_error("bias", shape, None)
        table = inputs.read_weights("bias", weights, shape)
    elif weights is not None:
        raise weight_checks.no_weights_error("bias", weights)
    target = inputs.read_dtype("bias", dtype)
    if pair.traced or isinstance(table, Tracer):
        if table is not None and table.dtype == F64 and not x64():
            raise weight_checks.weights_dtype_error("bias", NO_FLOAT64)
        if target == F64 and not x64():
            raise checks.output_dtype_error("bias", NO_FLOAT64)
    if pair.on_host and (table is None or inputs.readable(table)):
        given = weights, query_positions, key_positions
        return inputs.adopted(_host_bias(spec, plan, pair, table, target), *given)
    with jax.enable_x64(x64() or F64 in (target, None if table is None else table.dtype)):
        if table is None:
            result: jax.Array = _fused_slopes(*pair.arrays(), plan, target)
        elif pair.on_host:
            result = _weighed(table, _host_rows("bias", plan, pair), plan, target)
        else:
            result = _fused_weights(inputs.native(table), *pair.arrays(), plan, target)
    return result


class _Pair(NamedTuple):
    """Positions of queries and keys, `(*B, length, axes)` each, int32 on the host or both in a trace."""

    query: Array
    key: Array
    lead: tuple[int, ...]
    on_host: bool
    traced: bool

    def arrays(self) -> tuple[Array, Array]:
        return self.query, self.key


def _read(where: str, plan: DistancePlan, query: object, key: object) -> _Pair:
    names, count = (f"{where}.query_positions", f"{where}.key_positions"), len(plan.axes)
    given = [inputs.read_integers(name, value) for name, value in zip(names, (query, key), strict=True)]
    for name, positions in zip(names, given, strict=True):
        shape = inputs.shape(positions)
        if len(shape) < (1 if count == 1 else 2) or (count > 1 and shape[-1] != count):
            raise weight_checks.pair_shape_error(name, count, shape)
    leads = [inputs.shape(positions)[: -1 if count == 1 else -2] for positions in given]
    lead: Any = weight_checks.pair_lead(where, *leads)
    staged = inputs.staged()
    on_host = not staged and not any(isinstance(positions, jax.Array) for positions in given)
    arrays: list[Array] = []
    for positions in given:
        if isinstance(positions, range):
            array: Array = inputs.numbered(positions).astype(np.int32) if not staged else inputs.counted(positions)
        elif isinstance(positions, np.ndarray):
            array = positions if on_host else positions.copy()
        else:
            array = lax.convert_element_type(positions, np.int32)
        arrays.append(array[..., None] if count == 1 else array)
    return _Pair(
        arrays[0], arrays[1], lead, on_host, staged or any(isinstance(positions, Tracer) for positions in given)
    )


# --- in a trace, or on an accelerator ---


@partial(jax.jit, static_argnums=2)
def _fused_rows(query: Array, key: Array, plan: DistancePlan) -> jax.Array:
    return words.numbers(plan, query, key)


@partial(jax.jit, static_argnums=(2, 3))
def _fused_slopes(query: Array, key: Array, plan: DistancePlan, target: np.dtype[Any]) -> jax.Array:
    (runs,), (distance,) = plan.axes, words.distances(plan, query, key)
    pieces = slopes.signed(runs)
    magnitude = words.by_runs([run for run, _ in pieces], distance)
    signs = words.by_runs([Run(run.first, int(negative)) for run, negative in pieces], distance)
    return slopes.fused(plan, magnitude, signs != np.uint32(0), target)


@partial(jax.jit, static_argnums=(3, 4))
def _fused_weights(
    weights: jax.Array, query: Array, key: Array, plan: DistancePlan, target: np.dtype[Any]
) -> jax.Array:
    result: jax.Array = _weighed(weights, words.numbers(plan, query, key), plan, target)
    return result


@partial(jax.jit, static_argnums=(2, 3))
def _weighed(weights: jax.Array, numbers: Array, plan: DistancePlan, target: np.dtype[Any]) -> jax.Array:
    """Rows `(*B, Q, K)` -> `(*B, heads, Q, K)`."""
    complete = all(run.number is not None for runs in plan.axes for run in runs)
    result: jax.Array = _entries(target, complete, weights, jnp.asarray(numbers))
    return result


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _entries(target: np.dtype[Any], complete: bool, weights: jax.Array, numbers: jax.Array) -> jax.Array:
    rounded = formats.narrow(weights, target) if weights.dtype == F64 else weights.astype(target)
    bits = _by_row(formats.as_bits(rounded), numbers, complete, formats.nan_bits(target))
    return lax.bitcast_convert_type(bits, target)


@_entries.defjvp
def _entries_jvp(
    target: np.dtype[Any], complete: bool, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    """Linear in the weights; transposed, it sums in at least float32."""
    (weights, numbers), (moved, _) = primals, tangents
    wide = F64 if F64 in (target, weights.dtype) else F32
    tangent = _by_row(moved.astype(wide), numbers, complete, wide.type(0)).astype(target)
    return _entries(target, complete, weights, numbers), tangent


def _by_row(table: jax.Array, numbers: jax.Array, complete: bool, otherwise: Any) -> jax.Array:
    if complete:
        entries = formats.taken(table.T, numbers, 1)
    else:
        missing = numbers == np.int32(NO_ROW)
        entries = formats.taken(table.T, jnp.where(missing, np.int32(0), numbers), 1)
        entries = jnp.where(missing[None], otherwise, entries)
    return jnp.moveaxis(entries, 0, -3)


# --- on the host ---

Write = Callable[[HostArray, HostArray], None]
"""Of numbers `(n, q, k)` to their place `(n, heads, q, k)`."""
Number = Callable[[list[HostArray]], HostArray]
"""Of distances `(n, q, k)` on each axis to numbers."""


class _Axis(NamedTuple):
    """An axis of a plan, and the numbers of all distances from `least` on, where these occur often."""

    runs: tuple[Run, ...]
    least: int
    table: HostArray | None


def _host_rows(where: str, plan: DistancePlan, pair: _Pair) -> HostArray:
    def write(numbers: HostArray, out: HostArray) -> None:
        out[:, 0] = numbers

    array, out = _empty(pair, 1, np.dtype(np.int32))
    _fill(where, plan, pair, write, out)
    return array[..., 0, :, :]


def _host_bias(
    spec: DistanceSpec, plan: DistancePlan, pair: _Pair, table: Array | None, target: np.dtype[Any]
) -> HostArray:
    def multiply(numbers: HostArray, out: HostArray) -> None:
        alone = numbers.shape[:2] == (1, 1)
        products = out[0, :, 0] if alone else np.empty((out.shape[1], numbers.size), target)
        slopes.multiply(cast("SlopeSpec", spec), plan, numbers.reshape(-1), products)
        if not alone:
            out[...] = products.reshape(-1, *numbers.shape).swapaxes(0, 1)

    array, out = _empty(pair, plan.heads or 0, target)
    write: Write = multiply
    if table is not None:
        write = partial(_select, formats.narrowed(np.asarray(table), target).T.copy())
    _fill("bias", plan, pair, write, out)
    return array


def _select(columns: HostArray, numbers: HostArray, out: HostArray) -> None:
    """Numbers -> entries of `(heads, rows)`, moved as integers; NaN where there is no row."""
    missing = numbers == NO_ROW
    for head, column in enumerate(_bits(columns)):
        np.take(column, numbers, out=_bits(out[:, head]), mode="clip")
    if missing.any():
        out.swapaxes(0, 1)[:, missing] = np.nan


def _bits(array: HostArray) -> HostArray:
    return array.view(formats.UNSIGNED[array.dtype.itemsize])


def _empty(pair: _Pair, heads: int, dtype: np.dtype[Any]) -> tuple[HostArray, HostArray]:
    """An array `(*B, heads, Q, K)`, and its view `(n, heads, Q, K)`."""
    size = heads, pair.query.shape[-2], pair.key.shape[-2]
    shape = math.prod(pair.lead), *size
    array = inputs.aligned(math.prod(shape) * dtype.itemsize).view(dtype)
    return array.reshape(*pair.lead, *size), array.reshape(shape)


def _fill(where: str, plan: DistancePlan, pair: _Pair, write: Write, out: HostArray) -> None:
    batch, heads, queries, keys = out.shape
    if not out.size:
        return
    if plan.anchored and queries > 1:  # what holds for one query holds for all
        _fill(where, plan, pair._replace(query=pair.query[..., :1, :]), write, out[:, :, :1])
        out[:, :, 1:] = out[:, :, :1]
        return
    # positions by axis, and which row of them a row of the batch has
    query, key = (np.moveaxis(np.asarray(a).reshape(-1, *a.shape[-2:]), -1, 0) for a in pair.arrays())
    counts = [np.arange(math.prod(a.shape[:-2])).reshape(a.shape[:-2]) for a in pair.arrays()]
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
        for head, values in enumerate(_bits(line[0, :, 0])):
            (width,) = values.strides
            windows = as_strided(values[queries - 1 :], (queries, stop - start), (-width, width))
            _bits(out[head])[:, start:stop] = windows


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
    return lambda distances: distances[0] - axis.least, partial(_select, products[0, :, 0])


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
