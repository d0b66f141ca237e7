"""Rotation of queries and keys by a table: one fused kernel, in a trace or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from posenc.jax_impl import inputs
from posenc.jax_impl.formats import UNSIGNED
from posenc.jax_impl.phase import F32, F64, NO_FLOAT64, Table, x64
from posenc.spec import checks
from posenc.spec.plan import RotarySpec, RotationPlan, rotation_plan

Product = Callable[[jax.Array, jax.Array], jax.Array]


def rotate(
    spec: RotarySpec, x: ArrayLike, table: Table | tuple[ArrayLike, ArrayLike], *, head_axis: int | None
) -> jax.Array:
    """Queries or keys turned by a table, with one rounding, in a new array: `x.shape`, `x.dtype`.

    The same bits in a trace and outside, compiled or not, and whatever the split. On a CPU XLA takes subnormal numbers,
    but for float16, for zero; channels that are not rotary keep every bit.
    """
    plan = rotation_plan("rotate", spec)
    array = inputs.read_x("rotate", x, plan.head_dim)
    axis = checks.head_axis("rotate", head_axis, array.ndim)
    cos, sin = inputs.read_table("rotate", table, plan.pairs)
    leading = [a for a in range(array.ndim - 1) if a != axis]
    shape = tuple(array.shape[a] for a in leading)
    if not checks.table_fits(cos.shape[:-1], shape):
        raise checks.table_shape_error("rotate", shape, cos.shape[:-1])
    if array.dtype == F64 and not x64() and (inputs.staged() or any(isinstance(a, Tracer) for a in (array, cos, sin))):
        raise checks.x_dtype_error("rotate", NO_FLOAT64)
    served = leading[len(leading) - cos.ndim + 1 :]
    added = tuple(a for a in range(array.ndim - 1) if a not in served)
    with jax.enable_x64(x64() or F64 in (array.dtype, cos.dtype)):
        result: jax.Array = _rotated(array, cos, sin, plan, added, _apart(plan, array.shape))
    return result


def _apart(plan: RotationPlan, shape: tuple[int, ...]) -> int | None:
    """An axis of x whose first index is to be computed apart, and joined last.

    XLA on a CPU goes through x once for every part that is joined last: for u' and v', over all rows, or else for one
    row and the rest. Not where an axis may be sharded: to take it apart would move data between devices.
    """
    alone = jax.device_count() == 1 and jax.default_backend() == "cpu"
    if not alone or (plan.writes == "interleaved" and 2 * plan.pairs == plan.head_dim):
        return None
    return next((axis for axis, size in enumerate(shape[:-1]) if isinstance(size, int) and size > 1), None)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _rotated(
    x: jax.Array, cos: jax.Array, sin: jax.Array, plan: RotationPlan, added: tuple[int, ...], apart: int | None
) -> jax.Array:
    """`added`: the axes of x that the table lacks."""
    wide = F64 if x.dtype == F64 else F32
    cos, sin = (jnp.expand_dims(part.astype(wide), added) for part in (cos, sin))
    result: jax.Array = _turned(plan, apart, x, cos, sin)
    return result


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _turned(plan: RotationPlan, apart: int | None, x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    # taken apart and joined as integers: XLA on a CPU moves bfloat16 through float32, and a NaN would lose its bits
    unsigned = UNSIGNED[x.dtype.itemsize]

    def rows(bits: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        products = _products(plan, _unfused, lax.bitcast_convert_type(bits, x.dtype), cos, sin)
        return _rows(plan, bits, [lax.bitcast_convert_type(part, unsigned) for part in products])

    given = lax.bitcast_convert_type(x, unsigned), cos, sin
    if apart is None:
        joined = rows(*given)
    else:
        first, others = ([_piece(array, apart, *ends) for array in given] for ends in ((0, 1), (1, None)))
        joined = jnp.concatenate([rows(*first), rows(*others)], axis=apart)
    return lax.bitcast_convert_type(joined.reshape(x.shape), x.dtype)


def _piece(array: jax.Array, axis: int, start: int, stop: int | None) -> jax.Array:
    return array if array.shape[axis] == 1 else lax.slice_in_dim(array, start, stop, axis=axis)


@partial(_turned.defjvp, symbolic_zeros=True)
def _turned_jvp(
    plan: RotationPlan, apart: int | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Linear in x and in the table; by plain products, which can be transposed."""
    moved = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

    def of(*values: jax.Array) -> jax.Array:
        x, cos, sin = (dict(enumerate(primals)) | dict(zip(moved, values, strict=True))).values()
        return _rows(plan, x, _products(plan, jnp.multiply, x, cos, sin)).reshape(x.shape)

    _, tangent = jax.jvp(of, [primals[i] for i in moved], [tangents[i] for i in moved])
    return _turned(plan, apart, *primals), tangent


def _products(plan: RotationPlan, times: Product, x: jax.Array, cos: jax.Array, sin: jax.Array) -> list[jax.Array]:
    """The rotary channels of the result, in one part or two, in order."""
    pairs, lead, halves = plan.pairs, x.shape[:-1], plan.reads == "half"
    block = x[..., plan.start : plan.start + 2 * pairs]
    wide = block.reshape(*lead, *((2, pairs) if halves else (pairs, 2))).astype(cos.dtype)
    u, v = (wide[..., 0, :], wide[..., 1, :]) if halves else (wide[..., 0], wide[..., 1])
    turned = [(times(u, cos) - times(v, sin)).astype(x.dtype), (times(v, cos) + times(u, sin)).astype(x.dtype)]
    return turned if plan.writes == "half" else [jnp.stack(turned, axis=-1).reshape(*lead, 2 * pairs)]


def _rows(plan: RotationPlan, x: jax.Array, turned: list[jax.Array]) -> jax.Array:
    """All channels, in rows of a common width: joined along the last axis, XLA would compute them first, then copy."""
    parts = [x[..., : plan.start], *turned, x[..., plan.start + 2 * plan.pairs :]]
    common = math.gcd(*(part.shape[-1] for part in parts))
    rows = [part.reshape(*part.shape[:-1], part.shape[-1] // common, common) for part in parts if part.shape[-1]]
    return jnp.concatenate(rows, axis=-2)


def _unfused(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a * b`, the sign of a put on last: compilers fuse a product into a sum, where and when they like, but not this.

    So the bits depend neither on the shape of what is compiled nor on what is compiled with it.
    """
    unsigned = UNSIGNED[a.dtype.itemsize]
    bits = lax.bitcast_convert_type(a, unsigned)
    sign = bits & unsigned(1 << (8 * a.dtype.itemsize - 1))
    product = lax.bitcast_convert_type(bits ^ sign, a.dtype) * b
    return lax.bitcast_convert_type(lax.bitcast_convert_type(product, unsigned) ^ sign, a.dtype)
