"""The sum of x and its encoding, rounded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl import formats
from posenc.jax_impl.inputs import Array


def fused(x: Array, encoding: jax.Array) -> jax.Array:
    """In float32 (float64 for float64), then one cast."""
    return jnp.asarray(x.astype(encoding.dtype) + _with_axes(x.ndim, encoding)).astype(x.dtype)


@jax.jit
def exact(x: jax.Array, encoding: jax.Array) -> jax.Array:
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
        lost = jnp.where(formats.is_subnormal(x), jnp.where(jnp.signbit(x), np.float32(-1), np.float32(1)), lost)
    bits = lax.bitcast_convert_type(total, np.int32)
    towards = jnp.where((lost > np.float32(0)) == (total > np.float32(0)), np.int32(1), np.int32(-1))
    inexact = (jnp.abs(lost) > np.float32(0)) & ((bits & np.int32(1)) == np.int32(0))
    odd = lax.bitcast_convert_type(jnp.where(inexact, bits + towards, bits), np.float32)
    return _unflushed(x, encoding, odd.astype(x.dtype))


def _unflushed(x: jax.Array, encoding: jax.Array, total: jax.Array) -> jax.Array:
    """The sum, or x itself where it is subnormal and the encoding zero; chosen as integers, which nothing flushes."""
    unsigned = formats.UNSIGNED[x.dtype.itemsize]
    kept = formats.is_subnormal(x) & (encoding == encoding.dtype.type(0))
    bits = jnp.where(kept, lax.bitcast_convert_type(x, unsigned), lax.bitcast_convert_type(total, unsigned))
    return lax.bitcast_convert_type(bits, x.dtype)


def _with_axes(axes: int, encoding: jax.Array) -> jax.Array:
    return encoding.reshape((1,) * (axes - encoding.ndim) + encoding.shape)
