"""Rounding to the four formats, bit by bit where XLA's own conversion rounds twice or flushes; sums rounded once.

And entries taken from a table, which are moved as integers: XLA on a CPU moves bfloat16 through float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl.inputs import Array, HostArray

UNSIGNED: dict[int, Any] = {8: np.uint64, 4: np.uint32, 2: np.uint16}
"""By the size of a float, the integer that holds its bits."""


def judged(value: jax.Array, error: jax.Array, dtype: np.dtype[Any]) -> tuple[jax.Array, jax.Array]:
    """float64 values rounded to `dtype`, and where the error leaves that in doubt; the sign of a zero counts."""
    unsigned = UNSIGNED[dtype.itemsize]
    low, high = (lax.bitcast_convert_type(narrow(moved, dtype), unsigned) for moved in (value - error, value + error))
    return narrow(value, dtype), low != high


def narrow(value: jax.Array, dtype: np.dtype[Any]) -> jax.Array:
    """Rounded once. On the way to 16 bits lies float32: what is inexact there is made odd, so that no tie appears."""
    if dtype.itemsize >= 4:
        return value.astype(dtype)
    bits = lax.bitcast_convert_type(value, np.uint64)
    below = np.uint64((1 << 29) - 1)
    odd = ((bits & below) != np.uint64(0)).astype(np.uint64) << np.uint64(29)
    return lax.bitcast_convert_type((bits & ~below) | odd, np.float64).astype(np.float32).astype(dtype)


def narrowed(values: HostArray, dtype: np.dtype[Any]) -> HostArray:
    """NumPy's, rounded once, subnormal numbers too."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if values.dtype.itemsize < 8 or dtype.name != "bfloat16":
            return values.astype(dtype, copy=False)
        # from float64 by way of float32: where that is halfway between two bfloat16, only the value says which is next
        near = values.astype(np.float32)
        bits = near.view(np.int32)
        tie = (bits & np.int32(0xFFFF)) == np.int32(0x8000)
        if tie.any():
            bits[tie] += (np.sign(np.abs(values[tie]) - np.abs(near[tie]))).astype(np.int32)
        return near.astype(dtype)


def taken(table: Array, index: jax.Array, axis: int) -> jax.Array:
    """Entries of an axis, which becomes those of the index; where that or the table is sharded, so is the result."""
    array = jnp.asarray(table)
    specs = [jax.typeof(a).sharding.spec for a in (array, index)]
    parts = (*specs[0][:axis], *specs[1], *specs[0][axis + 1 :])
    placed: Any = None if all(part is None for part in parts) else jax.P(*parts)  # type: ignore[no-untyped-call]
    where = (*(slice(None),) * axis, index)
    result: jax.Array = array.at[where].get(mode="promise_in_bounds", out_sharding=placed)
    return result


def as_bits(array: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(array, UNSIGNED[array.dtype.itemsize])


def nan_bits(dtype: np.dtype[Any]) -> Any:
    return np.array(np.nan, dtype).view(UNSIGNED[dtype.itemsize])[()]


def is_subnormal(x: jax.Array) -> jax.Array:
    """What XLA's arithmetic on a CPU takes for zero."""
    unsigned = UNSIGNED[x.dtype.itemsize]
    magnitude = lax.bitcast_convert_type(x, unsigned) << unsigned(1)
    least = jnp.finfo(x.dtype).tiny.view(unsigned) << unsigned(1)
    result: jax.Array = (magnitude != unsigned(0)) & (magnitude < least)
    return result


def fused_sum(x: Array, encoding: jax.Array) -> jax.Array:
    """In float32 (float64 for float64), then one cast."""
    return jnp.asarray(x.astype(encoding.dtype) + _with_axes(x.ndim, encoding)).astype(x.dtype)


@jax.jit
def exact_sum(x: jax.Array, encoding: jax.Array) -> jax.Array:
    """The exact sum rounded once to the dtype of x."""
    encoding = _with_axes(x.ndim, encoding)
    wide = x.astype(encoding.dtype)
    total = wide + encoding
    if x.dtype == encoding.dtype:
        return _unflushed(x, encoding, total)
    # what the sum lost, by two-sum; an inexact sum is made odd, so that the cast sees on which side of a tie it lies
    added = total - wide
    lost = (wide - (total - added)) + (encoding - added)
    if x.dtype != np.float16:  # a subnormal float16 is a normal float32; a subnormal bfloat16 was flushed, and lost
        lost = jnp.where(is_subnormal(x), jnp.where(jnp.signbit(x), np.float32(-1), np.float32(1)), lost)
    bits = lax.bitcast_convert_type(total, np.int32)
    towards = jnp.where((lost > np.float32(0)) == (total > np.float32(0)), np.int32(1), np.int32(-1))
    inexact = (jnp.abs(lost) > np.float32(0)) & ((bits & np.int32(1)) == np.int32(0))
    odd = lax.bitcast_convert_type(jnp.where(inexact, bits + towards, bits), np.float32)
    return _unflushed(x, encoding, odd.astype(x.dtype))


def _unflushed(x: jax.Array, encoding: jax.Array, total: jax.Array) -> jax.Array:
    """The sum, or x itself where it is subnormal and the encoding zero; chosen as integers, which nothing flushes."""
    unsigned = UNSIGNED[x.dtype.itemsize]
    kept = is_subnormal(x) & (encoding == encoding.dtype.type(0))
    bits = jnp.where(kept, lax.bitcast_convert_type(x, unsigned), lax.bitcast_convert_type(total, unsigned))
    return lax.bitcast_convert_type(bits, x.dtype)


def _with_axes(axes: int, encoding: jax.Array) -> jax.Array:
    return encoding.reshape((1,) * (axes - encoding.ndim) + encoding.shape)
