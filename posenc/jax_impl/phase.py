"""The public functions: a plan turned into arrays.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from posenc.jax_impl import formats, inputs, rounded, waves, words
from posenc.jax_impl.inputs import Array
from posenc.spec import checks
from posenc.spec.plan import PhasePlan, PhaseSpec, RotarySpec, encoding_plan, phase_plan, table_plan

Positions = ArrayLike | range | list[Any] | tuple[Any, ...]

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
NO_FLOAT64 = "float64 in a trace while jax_enable_x64 is off"


def phase(spec: PhaseSpec, positions: Positions) -> jax.Array:
    """Phases `(*P,)` -> `(*P, pairs, 3)` in uint32: the upper three of four words, most significant first."""
    plan = phase_plan("phase", spec)
    given = inputs.read_positions("phase", positions)
    if not isinstance(given, jax.Array) and not inputs.staged():
        return inputs.adopted(rounded.phase(plan, given), positions)
    result: jax.Array = words.upper(_parts(given), words.pair_words(plan), words.pair_offset(plan))
    return result


def encode(spec: PhaseSpec, positions: Positions, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Encodings `(*P,)` -> `(*P, dim)`: correctly rounded from positions on the host, fused in a trace.

    float64 is returned with x64 off, too; only a trace without x64 has to refuse it.
    """
    (result,) = _values("encode", spec, encoding_plan("encode", spec), positions, dtype, 1)
    return result


class Table(NamedTuple):
    """Cosines and sines of a rotation, each `(*P, pairs)`, times the magnitude of its specification."""

    cos: jax.Array
    sin: jax.Array


def table(spec: RotarySpec, positions: Positions, *, dtype: DTypeLike = jnp.float32) -> Table:
    """Tables `(*P,)` -> two of `(*P, pairs)`, for `rotate`: exact, fused, or float64 where `encode` is."""
    return Table(*_values("table", spec, table_plan("table", spec), positions, dtype, 2))


def add(spec: PhaseSpec, x: ArrayLike, positions: Positions | None = None) -> jax.Array:
    """`x` plus its encoding: `(*B, dim)` and positions that broadcast to `(*B,)` -> `x.shape`, `x.dtype`.

    Without positions these are `range(x.shape[-2])`: on the host if x is there.
    """
    plan = encoding_plan("add", spec)
    array = inputs.read_x("add", x, plan.dim)
    traced = isinstance(array, Tracer) or isinstance(inputs.plain(positions), Tracer) or inputs.staged()
    target = F64 if array.dtype == F64 else F32
    if traced and target == F64 and not x64():
        raise checks.x_dtype_error("add", NO_FLOAT64)
    if positions is not None:
        given = inputs.read_positions("add", positions)
        if not checks.broadcasts(inputs.shape(given), array.shape[:-1]):
            raise checks.positions_shape_error("add", array.shape[:-1], inputs.shape(given))
    elif array.ndim < 2:
        raise checks.x_rank_error("add", plan.dim, array.shape)
    elif traced or not inputs.on_host(array):
        given = jnp.arange(array.shape[-2], dtype=np.int32)
    else:
        given = range(array.shape[-2])
    with jax.enable_x64(x64() or target == F64):
        if traced or isinstance(given, jax.Array):
            return formats.fused_sum(array, _fused(plan, given, target))
        (encoding,) = rounded.encode(spec, plan, given, target)
        result: jax.Array = formats.exact_sum(array, inputs.adopted(encoding, None))
    return result


def _values(
    where: str, spec: PhaseSpec, plan: PhasePlan, positions: Positions, dtype: DTypeLike, count: int
) -> list[jax.Array]:
    """All channels, in `count` arrays."""
    target = inputs.read_dtype(where, dtype)
    given = inputs.read_positions(where, positions)
    traced = isinstance(given, Tracer) or inputs.staged()
    if traced and target == F64 and not x64():
        raise checks.output_dtype_error(where, NO_FLOAT64)
    if not traced and not isinstance(given, jax.Array):
        return [inputs.adopted(array, positions) for array in rounded.encode(spec, plan, given, target, count)]
    fused = _fused(plan, given, target)
    with jax.enable_x64(x64() or target == F64):
        return jnp.split(fused, count, axis=-1)


def _fused(plan: PhasePlan, given: range | Array, target: np.dtype[Any]) -> jax.Array:
    """Encodings of any positions, without a look at a value."""
    with jax.enable_x64(x64() or target == F64):
        if isinstance(given, range):
            given = inputs.counted(given)
        parts = _parts(given)
        if target == F64:
            result: jax.Array = waves.float64(parts, words.channels(plan))[0]
        else:
            result = waves.float32(parts, plan).astype(target)
        if plan.padding_position is None:
            return result
        padding = inputs.is_padding(given, plan)
        return jnp.where(jnp.expand_dims(padding, -1), target.type(0), result)


def x64() -> bool:
    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]  # JAX declares its flags at run time


def _parts(given: range | Array) -> tuple[Array, ...]:
    """The int32 parts `(*P, 1)` of positions."""
    positions = inputs.counted(given) if isinstance(given, range) else given
    return tuple(part[..., None] for part in inputs.split(positions))
