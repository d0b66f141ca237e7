"""Learned tables: rows by position, and tables resized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from posenc.jax_impl import formats, inputs
from posenc.jax_impl.inputs import HostArray
from posenc.jax_impl.phase import F32, F64, NO_FLOAT64, Positions, x64
from posenc.spec import weight_checks
from posenc.spec.resampling import Method
from posenc.spec.row_plan import ResizePlan, RowPlan, RowSpec, Taps, resize_plan, row_plan

BLOCK = 2**15
"""Numbers computed in one go on the host."""
NOTHING = -0.0
"""What a tap that only fills up adds: any number stays as it is, -0.0 too."""
UNROLLED = 16
"""Taps of a resampler that are compiled one by one; of more there is a loop."""


def lookup(spec: RowSpec, weights: ArrayLike, positions: Positions) -> jax.Array:
    """Rows of positions `(*P,)` -> `(*P, dim)`, in the dtype of the weights `(rows, dim)`.

    A position that has no row is refused; where it is itself traced or on an accelerator, its row is NaN.
    """
    plan = row_plan("lookup", spec)
    table = inputs.read_weights("lookup", weights, (plan.rows, plan.dim))
    traced = any(isinstance(given, Tracer) for given in (table, inputs.plain(positions))) or inputs.staged()
    if traced and table.dtype == F64 and not x64():
        raise weight_checks.weights_dtype_error("lookup", NO_FLOAT64)
    given = inputs.read_integers("lookup.positions", positions)
    if not isinstance(given, jax.Array):
        known = inputs.numbered(given) if isinstance(given, range) else given
        wrong = (known < plan.low) | (known > plan.high)
        if wrong.any():
            raise weight_checks.row_position_error("lookup", plan.low, plan.high, known[wrong][0].item())
        if not inputs.staged():
            given = known
            if inputs.readable(table):
                return inputs.adopted(_host_lookup(plan, np.asarray(table), known), table, positions)
    with jax.enable_x64(x64() or table.dtype == F64):
        if isinstance(given, range):
            given = inputs.counted(given)
        result: jax.Array = _looked_up(inputs.native(table), inputs.native(given), plan)
    return result


def resize(spec: RowSpec, weights: ArrayLike, shape: Sequence[int], *, method: Method) -> jax.Array:
    """A table `(rows, dim)` -> `(kept + prod(shape), dim)`, in its dtype: in float64, rounded once.

    In a trace or on an accelerator in float32, but for float64.
    """
    rows = row_plan("resize", spec)
    table = inputs.read_weights("resize", weights, (rows.rows, rows.dim))
    plan = resize_plan("resize", spec, shape, method)
    traced = isinstance(table, Tracer) or inputs.staged()
    if traced and table.dtype == F64 and not x64():
        raise weight_checks.weights_dtype_error("resize", NO_FLOAT64)
    if not traced and inputs.readable(table):
        return inputs.adopted(_host_resize(plan, np.asarray(table)), table)
    wide = F64 if table.dtype == F64 else F32
    taps = [None if t is None else (np.array(t.index, np.int32), np.array(t.weights, wide)) for t in plan.axes]
    with jax.enable_x64(x64() or table.dtype == F64):
        result: jax.Array = _resized(inputs.native(table), taps, plan.kept, plan.grid)
    return result


# --- lookup ---


def _host_lookup(plan: RowPlan, table: HostArray, positions: HostArray) -> HostArray:
    index = (positions + np.int64(plan.offset)).reshape(-1)
    size = len(index) * plan.dim * table.dtype.itemsize
    out = inputs.aligned(size).view(table.dtype).reshape(len(index), plan.dim)
    if plan.scale == 1:
        unsigned = formats.UNSIGNED[table.dtype.itemsize]
        np.take(table.view(unsigned), index, axis=0, out=out.view(unsigned), mode="clip")
    else:
        wide = F64 if table.dtype == F64 else F32
        rows = max(BLOCK // plan.dim, 1)
        for start in range(0, len(index), rows):
            piece = slice(start, start + rows)
            with np.errstate(all="ignore"):
                scaled: HostArray = table[index[piece]].astype(wide) * np.array(plan.scale, wide)
                out[piece] = scaled.astype(table.dtype)
    return out.reshape(*positions.shape, plan.dim)


@partial(jax.jit, static_argnums=2)
def _looked_up(weights: jax.Array, positions: jax.Array, plan: RowPlan) -> jax.Array:
    if positions.dtype.itemsize < 4:
        positions = positions.astype(np.int32)
    # compared as they are: a sum, or another type, might wrap around
    kind = positions.dtype.type
    low = kind(plan.low if positions.dtype.kind == "i" else max(plan.low, 0))
    inside = (positions >= low) & (positions <= kind(plan.high))
    moving = inside
    if plan.frozen_position is not None and positions.dtype.kind == "i":
        moving = inside & (positions != kind(plan.frozen_position))
    index = jnp.where(inside, positions, low).astype(np.int32) + np.int32(plan.offset)
    result: jax.Array = _rows(plan.scale, weights, index, (inside, moving))
    return result


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rows(scale: float, weights: jax.Array, index: jax.Array, masks: tuple[jax.Array, jax.Array]) -> jax.Array:
    """`masks`: which positions have a row, others NaN; and which of these a derivative."""
    dtype, wide = weights.dtype, F64 if weights.dtype == F64 else F32
    bits = formats.taken(formats.as_bits(weights), index, 0)
    if scale != 1:
        scaled = lax.bitcast_convert_type(bits, dtype).astype(wide) * wide.type(scale)
        bits = formats.as_bits(scaled.astype(dtype))
    return lax.bitcast_convert_type(jnp.where(masks[0][..., None], bits, formats.nan_bits(dtype)), dtype)


@_rows.defjvp
def _rows_jvp(scale: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    """Linear in the weights; transposed, it sums in at least float32."""
    (weights, index, (_, moving)), wide = primals, F64 if primals[0].dtype == F64 else F32
    tangent = formats.taken(tangents[0].astype(wide), index, 0) * wide.type(scale)
    tangent = jnp.where(moving[..., None], tangent, wide.type(0)).astype(weights.dtype)
    return _rows(scale, *primals), tangent


# --- resize ---


def _host_resize(plan: ResizePlan, table: HostArray) -> HostArray:
    count = plan.kept + math.prod(plan.shape)
    out = inputs.aligned(count * plan.dim * table.dtype.itemsize).view(table.dtype).reshape(count, plan.dim)
    out[: plan.kept] = table[: plan.kept]
    if all(taps is None for taps in plan.axes):
        out[plan.kept :] = table[plan.kept :]
        return out
    # by channels, which have nothing to do with one another: what lies between the axes stays in a cache
    channels = max(2 * BLOCK // math.prod(plan.shape), 64)
    with np.errstate(all="ignore"):
        for first in range(0, plan.dim, channels):
            some = slice(first, first + channels)
            grid = table[plan.kept :, some].astype(np.float64)
            count, before, after = grid.shape[1], 1, math.prod(plan.grid)
            for size, wanted, taps in zip(plan.grid, plan.shape, plan.axes, strict=True):
                after //= size
                if taps is not None:
                    grid = _along(grid.reshape(before, size, after * count), taps)
                before *= wanted
            result = grid.reshape(-1, count)
            out[plan.kept :, some] = formats.narrowed(result, table.dtype) if table.dtype.itemsize == 2 else result
    return out


def _along(grid: HostArray, taps: Taps) -> HostArray:
    """`(before, n, after)` -> `(before, m, after)`, taps in ascending order, each product and each sum rounded."""
    index, weights = np.array(taps.index), np.array(taps.weights)[:, :, None]
    before, _, after = grid.shape
    count = len(index)
    rows = min(max(BLOCK // after, 1), count)
    several = max(BLOCK // (rows * after), 1) if rows == count else 1
    out, spare = np.empty((before, count, after)), np.empty((several, rows, after))
    for left, start in product(range(0, before, several), range(0, count, rows)):
        some, piece = slice(left, left + several), slice(start, start + rows)
        total = out[some, piece]
        np.take(grid[some], index[piece, 0], axis=1, out=total, mode="clip")
        total *= weights[piece, 0]
        for tap in range(1, index.shape[1]):
            term = spare[: total.shape[0], : total.shape[1]]
            np.take(grid[some], index[piece, tap], axis=1, out=term, mode="clip")
            term *= weights[piece, tap]
            term[:, weights[piece, tap, 0] == 0] = NOTHING
            total += term
    return out


@partial(jax.jit, static_argnums=(2, 3))
def _resized(weights: jax.Array, taps: list[Any], kept: int, grid: tuple[int, ...]) -> jax.Array:
    result: jax.Array = _joined(kept, grid, weights, taps)
    return result


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _joined(kept: int, grid: tuple[int, ...], weights: jax.Array, taps: list[Any]) -> jax.Array:
    if all(tap is None for tap in taps):
        return weights
    # joined as integers, which keep every bit of the rows that are copied
    parts = [formats.as_bits(part) for part in (weights[:kept], _resampled(kept, grid, weights, taps))]
    return lax.bitcast_convert_type(jnp.concatenate(parts), weights.dtype)


@_joined.defjvp
def _joined_jvp(
    kept: int, grid: tuple[int, ...], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    (weights, taps), (moved, _) = primals, tangents
    tangent = jnp.concatenate([moved[:kept], _resampled(kept, grid, moved, taps)])
    return _joined(kept, grid, weights, taps), tangent


def _resampled(kept: int, grid: tuple[int, ...], weights: jax.Array, taps: list[Any]) -> jax.Array:
    """The rows behind those that are kept, one axis after the other."""
    wide = F64 if weights.dtype == F64 else F32
    array = weights[kept:].astype(wide).reshape(*grid, weights.shape[1])
    for axis, tap in enumerate(taps):
        if tap is not None:
            array = _weighted(array, axis, *(jnp.asarray(part.T) for part in tap))
    return array.reshape(-1, weights.shape[1]).astype(weights.dtype)


def _weighted(array: jax.Array, axis: int, index: jax.Array, factors: jax.Array) -> jax.Array:
    """One tap `(m,)` of all outputs after the other: XLA on a CPU is slow where it gathers all to sum them."""
    along = (1,) * axis + (-1,) + (1,) * (array.ndim - axis - 1)

    def further(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        factor = tap[1].reshape(along)
        nothing = factor.dtype.type(NOTHING)
        term = formats.taken(array, tap[0], axis) * factor
        return total + jnp.where(factor == factor.dtype.type(0), nothing, term), None

    first = formats.taken(array, index[0], axis) * factors[0].reshape(along)
    total, _ = lax.scan(further, first, (index[1:], factors[1:]), unroll=UNROLLED)
    return total
