"""A decoder of the Llama kind in Flax nnx that takes its rotation and its positions from posenc.

RMS norm, grouped keys, a gated feed-forward layer, and an embedding that may serve as the head. Copy it and change it.

- Positions are an argument. `table(rope, positions)` is made once for a call, and every layer turns its queries and
  keys by it: whatever `posenc.positions` lays out (padded, packed, cached) needs no other code here. What a scaling
  rule does to the magnitude (YaRN, LongRoPE) is in the table.
- A token attends to itself and to the tokens of its own segment that stand before it in the row. Padding is a segment,
  and each packed document is one.
- The cache goes in and comes out, and its size does not change: a step of decoding is compiled once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from posenc import Rope
from posenc.jax_impl import Table, rotate, table


class Pair(NamedTuple):
    """Of one layer, keys that are turned already and values: `(batch, capacity, key_heads, head_dim)`."""

    keys: jax.Array
    values: jax.Array


class Cache(NamedTuple):
    """The first `length` slots of every row are written, and `segments`, `(batch, capacity)`, says what they belong to.

    Tokens beyond the capacity would overwrite the last ones: a compiled function cannot refuse them.
    """

    layers: tuple[Pair, ...]
    segments: jax.Array
    length: jax.Array


class Attention(nnx.Module):
    def __init__(self, rope: Rope, dim: int, heads: int, key_heads: int, *, rngs: nnx.Rngs) -> None:
        self.rope = rope
        self.q = nnx.LinearGeneral(dim, (heads, rope.head_dim), use_bias=False, rngs=rngs)
        self.k = nnx.LinearGeneral(dim, (key_heads, rope.head_dim), use_bias=False, rngs=rngs)
        self.v = nnx.LinearGeneral(dim, (key_heads, rope.head_dim), use_bias=False, rngs=rngs)
        self.out = nnx.LinearGeneral((heads, rope.head_dim), dim, axis=(-2, -1), use_bias=False, rngs=rngs)

    def __call__(
        self, x: jax.Array, angles: Table, allowed: jax.Array, past: Pair | None, slot: jax.Array
    ) -> tuple[jax.Array, Pair]:
        q = rotate(self.rope, self.q(x), angles, head_axis=-2)
        k = rotate(self.rope, self.k(x), angles, head_axis=-2)
        v = self.v(x)
        if past is not None:
            k = jax.lax.dynamic_update_slice(past.keys, k, (0, slot, 0, 0))
            v = jax.lax.dynamic_update_slice(past.values, v, (0, slot, 0, 0))
        return self.out(jax.nn.dot_product_attention(q, k, v, mask=allowed)), Pair(k, v)


class FeedForward(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.gate = nnx.Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    def __init__(
        self, rope: Rope, dim: int, hidden: int, heads: int, key_heads: int, eps: float, *, rngs: nnx.Rngs
    ) -> None:
        self.attention_norm = nnx.RMSNorm(dim, epsilon=eps, rngs=rngs)
        self.attention = Attention(rope, dim, heads, key_heads, rngs=rngs)
        self.feed_forward_norm = nnx.RMSNorm(dim, epsilon=eps, rngs=rngs)
        self.feed_forward = FeedForward(dim, hidden, rngs=rngs)

    def __call__(
        self, x: jax.Array, angles: Table, allowed: jax.Array, past: Pair | None, slot: jax.Array
    ) -> tuple[jax.Array, Pair]:
        attended, present = self.attention(self.attention_norm(x), angles, allowed, past, slot)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x)), present


class Decoder(nnx.Module):
    """`Decoder(rope, ...)(tokens, positions, segments=None, cache=None) -> (logits, cache)`."""

    def __init__(
        self,
        rope: Rope,
        *,
        vocabulary: int,
        dim: int,
        hidden: int,
        layers: int,
        heads: int,
        key_heads: int,
        eps: float,
        tied: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.rope, self.key_heads = rope, key_heads
        self.embedding = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.layers = nnx.List([Layer(rope, dim, hidden, heads, key_heads, eps, rngs=rngs) for _ in range(layers)])
        self.final_norm = nnx.RMSNorm(dim, epsilon=eps, rngs=rngs)
        self.head = None if tied else nnx.Linear(dim, vocabulary, use_bias=False, rngs=rngs)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `capacity` tokens of each of `batch` rows."""
        shape = (batch, capacity, self.key_heads, self.rope.head_dim)
        empty = tuple(Pair(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.layers)
        return Cache(empty, jnp.zeros((batch, capacity), jnp.int32), jnp.zeros((), jnp.int32))

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array | None = None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """Logits `(batch, length, vocabulary)`, and the cache with these tokens in it.

        tokens : `(batch, length)`; with a cache, those that come next.
        positions : `(batch, length)`, or `(length,)` where all rows have the same.
        segments : `(batch, length)` integers; None: one document a row without padding. Where rows are padded, 0 at
            padding and 1 at tokens, those that are decoded too; of packed documents 1, 2, 3, ...
        """
        segments = jnp.ones_like(tokens) if segments is None else segments
        if cache is None:
            slot, seen = jnp.zeros((), jnp.int32), segments
        else:
            slot, seen = cache.length, jax.lax.dynamic_update_slice(cache.segments, segments, (0, cache.length))
        own = slot + jnp.arange(tokens.shape[1])
        before = jnp.arange(seen.shape[1]) <= own[:, None]  # by slots of the row, whatever the positions are
        allowed = (before & (seen[:, None, :] == segments[:, :, None]))[:, None]
        angles = table(self.rope, positions)

        x, present = self.embedding(tokens), []
        for number, layer in enumerate(self.layers):
            past = None if cache is None else cache.layers[number]
            x, pair = layer(x, angles, allowed, past, slot)
            present.append(pair)
        x = self.final_norm(x)
        logits = self.embedding.attend(x) if self.head is None else self.head(x)
        if cache is not None:
            cache = Cache(tuple(present), seen, slot + tokens.shape[1])
        return logits, cache
