"""Phases in unsigned 32-bit words: JAX has no wider integer unless x64 is on.

By channel, not by pair: a cosine is the sine of a phase with a quarter turn added, and the zero channel of an odd width
is the sine of a phase that stays zero. So no value is ever moved from one channel to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl.inputs import Array, HostArray
from posenc.spec.plan import PhasePlan

QUARTER = np.uint32(1 << 30)
"""A quarter turn, in the most significant word."""


class Channels(NamedTuple):
    """A plan by channel: what kernels take as arrays, so that specs of one width share a compiled kernel."""

    words: Array
    """`(3, 4, dim)`: the increments of the three levels of a position, most significant word first."""
    offset: Array | None
    """`(4, dim)`, or None where the plan has no offset."""
    quarter: Array
    """`(dim,)`: `QUARTER` in the channels of a cosine."""
    scale: Array
    """`(dim,)` in float64: the magnitude, and zero in the zero channel of an odd width."""


@lru_cache(maxsize=32)
def channels(plan: PhasePlan) -> Channels:
    pair, cosine = np.arange(plan.pairs), np.arange(2)
    if plan.layout == "interleaved":
        pair, cosine = np.repeat(pair, 2), np.tile(cosine, plan.pairs)
    else:
        pair, cosine = np.tile(pair, 2), np.repeat(cosine ^ (plan.layout == "cos_sin"), plan.pairs)
    zeros = (0, plan.dim - 2 * plan.pairs)
    return Channels(
        np.pad(pair_words(plan)[..., pair], ((0, 0), (0, 0), zeros)),
        np.pad(pair_offset(plan)[:, pair], ((0, 0), zeros)) if plan.offset else None,
        np.pad(cosine.astype(np.uint32) * QUARTER, zeros),
        np.pad(np.full(2 * plan.pairs, plan.magnitude), zeros),
    )


@lru_cache(maxsize=32)
def pair_words(plan: PhasePlan) -> HostArray:
    """`(3, 4, pairs)`: the increments of the three levels of a position."""
    return np.array([plan.words(level) for level in range(3)], np.uint32).transpose(0, 2, 1)


@lru_cache(maxsize=32)
def pair_offset(plan: PhasePlan) -> HostArray:
    """`(4, pairs)`."""
    return np.array(plan.offset_words(), np.uint32).T


@jax.jit
def upper(parts: tuple[Array, ...], increments: Array, offset: Array | None) -> jax.Array:
    """Parts `(*P, 1)` -> `(*P, pairs, 3)`: the upper three of all four words."""
    return jnp.stack(phases(parts, increments, offset)[:3], axis=-1)


def phases(parts: Sequence[Array], words: Array, offset: Array | None) -> list[Array]:
    """Words of the phase, most significant first: parts `(*P, 1)` and words `(3, n, C)` -> n arrays `(*P, C)`."""
    axes = parts[0].ndim
    total = _product(parts[0], rows(words[0], axes))
    for level in range(1, len(parts)):
        total = _sum(total, _product(parts[level], rows(words[level], axes)))
    return total if offset is None else _sum(total, rows(offset, axes))


def rows(array: Array, axes: int) -> list[Array]:
    """Rows `(C,)` of `(n, C)`, each with as many axes as the positions: nothing is broadcast by rank."""
    return [array[i].reshape((1,) * (axes - 1) + array.shape[1:]) for i in range(array.shape[0])]


def _product(position: Array, words: Sequence[Array]) -> list[Array]:
    negative = position < np.int32(0)
    unsigned = lax.bitcast_convert_type(position, np.uint32)
    result: list[Array] = []
    carry: Array | None = None
    for word in reversed(words):
        low = unsigned * word
        # read as unsigned, a negative position is 2^32 too large, and its product one word too large up here
        high = _high(unsigned, word) - jnp.where(negative, word, np.uint32(0))
        if carry is not None:
            low = low + carry
            # high and carry are signed: what the carry lacks above is its sign
            high = high + (low < carry).astype(np.uint32) - (carry >> np.uint32(31))
        result.append(low)
        carry = high
    return result[::-1]


def _high(a: Array, b: Array) -> Array:
    """The upper word of a product, by 16-bit halves."""
    half, mask = np.uint32(16), np.uint32(0xFFFF)
    a1, a0, b1, b0 = a >> half, a & mask, b >> half, b & mask
    middle = a1 * b0 + (a0 * b0 >> half)
    other = a0 * b1 + (middle & mask)
    return a1 * b1 + (middle >> half) + (other >> half)


def _sum(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    result: list[Array] = []
    carry: Array | np.uint32 = np.uint32(0)
    for x, y in zip(reversed(a), reversed(b), strict=True):
        partial = x + y
        total = partial + carry
        carry = (partial < x).astype(np.uint32) + (total < partial).astype(np.uint32)
        result.append(total)
    return result[::-1]
