"""Rows and biases by the distance of a query and a key.

On the host NumPy fills the result, in blocks; in a trace or on an accelerator it is one kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from posenc.jax_impl import formats, inputs, pairs, slopes, words
from posenc.jax_impl.inputs import Array, HostArray
from posenc.jax_impl.pairs import Pair, Write
from posenc.jax_impl.phase import F32, F64, NO_FLOAT64, Positions, x64
from posenc.spec import checks, weight_checks
from posenc.spec.distance_plan import NO_ROW, DistancePlan, DistanceSpec, Run, SlopeSpec, bias_plan, rows_plan


def rows(spec: DistanceSpec, query_positions: Positions, key_positions: Positions) -> jax.Array:
    """Rows `(*B, Q, K)` in int32 of positions `(*B, Q)` and `(*B, K)`, or with coordinates last.

    The same integers on the host, in a trace and on an accelerator.
    """
    plan = rows_plan("rows", spec)
    pair = _read("rows", plan, query_positions, key_positions)
    if pair.known() and not inputs.staged():
        return inputs.adopted(_host_rows("rows", plan, pair), query_positions, key_positions)
    _check("rows", plan, pair)
    result: jax.Array = _fused_rows(*pair.on_device(), plan)
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
    if inputs.staged() or any(isinstance(array, Tracer) for array in (table, pair.query, pair.key)):
        if table is not None and table.dtype == F64 and not x64():
            raise weight_checks.weights_dtype_error("bias", NO_FLOAT64)
        if target == F64 and not x64():
            raise checks.output_dtype_error("bias", NO_FLOAT64)
    on_host = pair.known() and not inputs.staged()
    if on_host and (table is None or inputs.readable(table)):
        result = _host_bias(spec, plan, pair, table, target)
        return inputs.adopted(result, table, query_positions, key_positions)
    with jax.enable_x64(x64() or F64 in (target, None if table is None else table.dtype)):
        if table is None:
            fused: jax.Array = _fused_slopes(*pair.on_device(), plan, target)
        elif on_host:
            fused = _weighed(table, _host_rows("bias", plan, pair), plan, target)
        else:
            _check("bias", plan, pair)
            fused = _fused_weights(inputs.native(table), *pair.on_device(), plan, target)
    return fused


def _read(where: str, plan: DistancePlan, query: object, key: object) -> Pair:
    names, count = (f"{where}.query_positions", f"{where}.key_positions"), len(plan.axes)
    given = [inputs.read_integers(name, value) for name, value in zip(names, (query, key), strict=True)]
    for name, positions in zip(names, given, strict=True):
        shape = inputs.shape(positions)
        if len(shape) < (1 if count == 1 else 2) or (count > 1 and shape[-1] != count):
            raise weight_checks.pair_shape_error(name, count, shape)
    leads = [inputs.shape(positions)[: -1 if count == 1 else -2] for positions in given]
    lead: Any = weight_checks.pair_lead(where, *leads)
    arrays: list[Array] = []
    for positions in given:
        if isinstance(positions, range):  # in a trace no constant, unless its values are asked for: a window is small
            counted = inputs.staged() and not plan.strict
            array: Array = inputs.counted(positions) if counted else inputs.numbered(positions).astype(np.int32)
        else:
            known = isinstance(positions, np.ndarray)
            array = positions if known else lax.convert_element_type(positions, np.int32)
        arrays.append(array[..., None] if count == 1 else array)
    return Pair(arrays[0], arrays[1], lead)


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


def _check(where: str, plan: DistancePlan, pair: Pair) -> None:
    """Refuse a pair without a row where nothing is computed on the host, but the values are known."""
    if plan.strict and pair.known():
        pairs.check(where, plan, pair)


def _host_rows(where: str, plan: DistancePlan, pair: Pair) -> HostArray:
    def write(numbers: HostArray, out: HostArray) -> None:
        out[:, 0] = numbers

    return pairs.filled(where, plan, pair, write, 1, np.dtype(np.int32))[..., 0, :, :]


def _host_bias(
    spec: DistanceSpec, plan: DistancePlan, pair: Pair, table: Array | None, target: np.dtype[Any]
) -> HostArray:
    def multiply(numbers: HostArray, out: HostArray) -> None:
        alone = numbers.shape[:2] == (1, 1)
        products = out[0, :, 0] if alone else np.empty((out.shape[1], numbers.size), target)
        slopes.multiply(cast("SlopeSpec", spec), plan, numbers.reshape(-1), products)
        if not alone:
            out[...] = products.reshape(-1, *numbers.shape).swapaxes(0, 1)

    write: Write = multiply
    if table is not None:
        write = partial(pairs.select, formats.narrowed(np.asarray(table), target).T.copy())
    return pairs.filled("bias", plan, pair, write, plan.heads or 0, target)
