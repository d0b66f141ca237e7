"""A decoder of the Llama kind in Keras on TensorFlow that takes its rotation and its positions from posenc.

RMS norm, grouped keys, a gated feed-forward layer, and an embedding that may serve as the head. Copy it and change it.

- Positions are an argument. `table(rope, positions)` is made once for a call, and every block turns its queries and
  keys by it: whatever `posenc.positions` lays out (padded, packed, cached) needs no other code here. What a scaling
  rule does to the magnitude (YaRN, LongRoPE) is in the table.
- A token attends to itself and to the tokens of its own segment that stand before it in the row. Padding is a segment,
  and each packed document is one.
- The cache goes in and comes out, and its size does not change: in a `tf.function` a step of decoding is traced once.

Weights in a file: `embedding/vars/0`, `blocks/block/attention/q/vars/0`, `blocks/block_1/attention/q/vars/0`, ...
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers, ops

from posenc import Rope
from posenc.tf_impl import Table, rotate, table


class Pair(NamedTuple):
    """Of one block, keys that are turned already and values: `(batch, capacity, key_heads, head_dim)`."""

    keys: tf.Tensor
    values: tf.Tensor


class Cache(NamedTuple):
    """The first `length` slots of every row are written, and `segments`, `(batch, capacity)`, says what they belong to.

    Tokens beyond the capacity would overwrite the last ones: a compiled function cannot refuse them.
    """

    blocks: tuple[Pair, ...]
    segments: tf.Tensor
    length: tf.Tensor


def linear(width: int) -> layers.Dense:
    return layers.Dense(width, use_bias=False)


class Attention(layers.Layer):
    def __init__(self, rope: Rope, dim: int, heads: int, key_heads: int, **options: Any) -> None:
        super().__init__(**options)
        self.rope = rope
        self.q, self.k, self.v = (linear(count * rope.head_dim) for count in (heads, key_heads, key_heads))
        self.out = linear(dim)

    def call(
        self, x: tf.Tensor, angles: Table, allowed: tf.Tensor, past: Pair | None, slot: tf.Tensor
    ) -> tuple[tf.Tensor, Pair]:
        batch, length = ops.shape(x)[:2]
        q, k, v = (ops.reshape(of(x), (batch, length, -1, self.rope.head_dim)) for of in (self.q, self.k, self.v))
        q, k = (rotate(self.rope, one, angles, head_axis=-2) for one in (q, k))
        if past is not None:
            k = ops.slice_update(past.keys, (0, slot, 0, 0), k)
            v = ops.slice_update(past.values, (0, slot, 0, 0), v)
        attended = ops.dot_product_attention(q, k, v, mask=allowed)
        return self.out(ops.reshape(attended, (batch, length, -1))), Pair(k, v)


class FeedForward(layers.Layer):
    def __init__(self, dim: int, hidden: int, **options: Any) -> None:
        super().__init__(**options)
        self.gate, self.up, self.down = linear(hidden), linear(hidden), linear(dim)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.down(ops.silu(self.gate(x)) * self.up(x))


class Block(layers.Layer):
    def __init__(
        self, rope: Rope, dim: int, hidden: int, heads: int, key_heads: int, eps: float, **options: Any
    ) -> None:
        super().__init__(**options)
        self.attention_norm = layers.RMSNormalization(epsilon=eps)
        self.attention = Attention(rope, dim, heads, key_heads)
        self.feed_forward_norm = layers.RMSNormalization(epsilon=eps)
        self.feed_forward = FeedForward(dim, hidden)

    def call(
        self, x: tf.Tensor, angles: Table, allowed: tf.Tensor, past: Pair | None, slot: tf.Tensor
    ) -> tuple[tf.Tensor, Pair]:
        attended, present = self.attention(self.attention_norm(x), angles=angles, allowed=allowed, past=past, slot=slot)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x)), present


class Decoder(keras.Model):
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
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rope, self.key_heads = rope, key_heads
        self.embedding = keras.layers.Embedding(vocabulary, dim)
        self.blocks = [Block(rope, dim, hidden, heads, key_heads, eps) for _ in range(layers)]
        self.final_norm = keras.layers.RMSNormalization(epsilon=eps)
        self.head = None if tied else linear(vocabulary)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `capacity` tokens of each of `batch` rows."""
        shape = (batch, capacity, self.key_heads, self.rope.head_dim)
        empty = tuple(Pair(tf.zeros(shape), tf.zeros(shape)) for _ in self.blocks)
        return Cache(empty, tf.zeros((batch, capacity), tf.int32), tf.zeros((), tf.int32))

    def call(
        self, tokens: tf.Tensor, positions: tf.Tensor, segments: tf.Tensor | None = None, cache: Cache | None = None
    ) -> tuple[tf.Tensor, Cache | None]:
        """Logits `(batch, length, vocabulary)`, and the cache with these tokens in it.

        tokens : `(batch, length)`; with a cache, those that come next.
        positions : `(batch, length)`, or `(length,)` where all rows have the same.
        segments : `(batch, length)` integers; None: one document a row without padding. Where rows are padded, 0 at
            padding and 1 at tokens, those that are decoded too; of packed documents 1, 2, 3, ...
        """
        segments = ops.ones_like(tokens) if segments is None else segments
        if cache is None:
            slot, seen = tf.zeros((), tf.int32), segments
        else:
            slot, seen = cache.length, ops.slice_update(cache.segments, (0, cache.length), segments)
        own = slot + ops.arange(ops.shape(tokens)[1], dtype="int32")
        before = ops.arange(ops.shape(seen)[1], dtype="int32") <= own[:, None]  # by slots, whatever the positions are
        allowed = (before & (seen[:, None, :] == segments[:, :, None]))[:, None]
        angles = table(self.rope, positions)

        x, present = self.embedding(tokens), []
        for number, block in enumerate(self.blocks):
            past = None if cache is None else cache.blocks[number]
            x, pair = block(x, angles=angles, allowed=allowed, past=past, slot=slot)
            present.append(pair)
        x = self.final_norm(x)
        logits = self.head(x) if self.head is not None else ops.matmul(x, ops.transpose(self.embedding.embeddings))
        if cache is not None:
            cache = Cache(tuple(present), seen, slot + ops.shape(tokens)[1])
        return logits, cache
