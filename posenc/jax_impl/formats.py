"""Rounding to the four formats, bit by bit where XLA's own conversion rounds twice or flushes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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


def is_subnormal(x: jax.Array) -> jax.Array:
    """What XLA's arithmetic on a CPU takes for zero."""
    unsigned = UNSIGNED[x.dtype.itemsize]
    magnitude = lax.bitcast_convert_type(x, unsigned) << unsigned(1)
    least = jnp.finfo(x.dtype).tiny.view(unsigned) << unsigned(1)
    result: jax.Array = (magnitude != unsigned(0)) & (magnitude < least)
    return result
