"""A T5 encoder-decoder in Keras on TensorFlow that takes its positions from posenc; `port_t5.py` fills it from PyTorch.

T5 1.1 as transformers has it: norms without mean and bias, scores that are not scaled, a gated GELU, and one table of
biases for all layers of the encoder, another for those of the decoder, none between the two.

`B` is the batch, `S` the tokens of the source, `T` those of the target, `R` the slots of the decoder's cache. Positions
are integers; masks are True where a query, the axis before the last, sees a key, the last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from posenc import T5Bias
from posenc.tf_impl.layers import RelativeBias

Tensor = Any
Cache = dict[str, Any]


def built(layer: layers.Layer, shape: tuple[int | None, ...]) -> layers.Layer:
    """The layer with its weights, so that a model has them all before its first call."""
    layer.build(shape)
    return layer


def linear(inputs: int, outputs: int) -> layers.Layer:
    return built(layers.Dense(outputs, use_bias=False), (None, inputs))


def norm(dim: int) -> layers.Layer:
    return built(layers.RMSNormalization(epsilon=1e-6), (None, dim))


class Attention(layers.Layer):
    def __init__(self, dim: int, heads: int, channels: int, **options: Any) -> None:
        super().__init__(**options)
        self.heads, self.channels = heads, channels
        self.q, self.k, self.v = (linear(dim, heads * channels) for _ in range(3))
        self.o = linear(heads * channels, dim)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, `(B, K, heads, channels)`."""
        return self._split(self.k(x)), self._split(self.v(x))

    def call(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, biases: Tensor | None = None) -> Tensor:
        scores = ops.einsum("bqhc,bkhc->bhqk", self._split(self.q(x)), keys)
        if biases is not None:
            scores = scores + biases
        weights = ops.softmax(ops.where(mask, scores, scores.dtype.min))
        mixed = ops.einsum("bhqk,bkhc->bqhc", weights, values)
        return self.o(ops.reshape(mixed, (*ops.shape(mixed)[:2], self.heads * self.channels)))

    def _split(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (*ops.shape(x)[:2], self.heads, self.channels))


class FeedForward(layers.Layer):
    def __init__(self, dim: int, hidden: int, **options: Any) -> None:
        super().__init__(**options)
        self.gate, self.up, self.down = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def call(self, x: Tensor) -> Tensor:
        return self.down(ops.gelu(self.gate(x), approximate=True) * self.up(x))


class Block(layers.Layer):
    """A layer of the encoder, or with `cross` of the decoder, which has a cache."""

    def __init__(self, dim: int, heads: int, channels: int, hidden: int, *, cross: bool, **options: Any) -> None:
        super().__init__(**options)
        self.attention_norm, self.attention = norm(dim), Attention(dim, heads, channels)
        if cross:
            self.cross_norm, self.cross = norm(dim), Attention(dim, heads, channels)
        self.feed_norm, self.feed = norm(dim), FeedForward(dim, hidden)

    def encode(self, x: Tensor, mask: Tensor, biases: Tensor) -> Tensor:
        y = self.attention_norm(x)
        x = x + self.attention(y, *self.attention.keys(y), mask, biases)
        return x + self.feed(self.feed_norm(x))

    def decode(
        self, x: Tensor, mask: Tensor, biases: Tensor, cache: Cache, at: Tensor, encoded_mask: Tensor
    ) -> tuple[Tensor, Cache]:
        y = self.attention_norm(x)
        own = tuple(map(partial(_written, at=at), cache["own"], self.attention.keys(y)))
        x = x + self.attention(y, *own, mask, biases)
        x = x + self.cross(self.cross_norm(x), *cache["encoded"], encoded_mask)
        return x + self.feed(self.feed_norm(x)), {**cache, "own": own}


class Stack(layers.Layer):
    """The layers of one side, the norm behind them, and the biases that they share."""

    def __init__(self, spec: T5Bias, layers: int, dim: int, channels: int, hidden: int, *, cross: bool) -> None:
        super().__init__()
        self.biases = RelativeBias(spec, std=dim**-0.5)
        self.blocks = [Block(dim, spec.heads, channels, hidden, cross=cross) for _ in range(layers)]
        self.norm = norm(dim)


class T5(keras.Model):
    """`model(source, positions, mask, target, target_positions, target_mask, encoded_mask)` returns logits.

    encoder, decoder : what the distances mean on either side.
    tied : whether the logits are products with the embedding: in T5 1.0; 1.1 has a matrix of its own.
    scaled : whether what they are computed from is multiplied by `dim ** -0.5`: in 1.0.
    """

    def __init__(
        self, encoder: T5Bias, decoder: T5Bias, *, vocabulary: int, dim: int, channels: int, hidden: int, layers: int,
        tied: bool, scaled: bool, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.dim, self.scaled = dim, scaled
        self.embedding = built(keras.layers.Embedding(vocabulary, dim), ())
        self.encoder = Stack(encoder, layers, dim, channels, hidden, cross=False)
        self.decoder = Stack(decoder, layers, dim, channels, hidden, cross=True)
        self.head = None if tied else linear(dim, vocabulary)
        self.built = True

    def call(
        self, source: Tensor, positions: Tensor, mask: Tensor,
        target: Tensor, target_positions: Tensor, target_mask: Tensor, encoded_mask: Tensor,
    ) -> Tensor:  # fmt: skip
        cache = self.start(self.encode(source, positions, mask), ops.shape(target)[1])
        return self.decode(target, target_positions, target_mask, cache, encoded_mask)[0]

    def encode(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Tokens and positions `(B, S)`, mask `(B, S, S)` -> `(B, S, dim)`; what has one row serves all."""
        x, biases = self.embedding(tokens), self.encoder.biases(positions, positions)
        for block in self.encoder.blocks:
            x = block.encode(x, mask[:, None], biases)
        return self.encoder.norm(x)

    def start(self, encoded: Tensor, room: int) -> Cache:
        """The cache of `room` slots before the first token of the target."""
        batch, caches = ops.shape(encoded)[0], []
        for block in self.decoder.blocks:
            keys, values = block.cross.keys(encoded)
            empty = ops.zeros((batch, room, *keys.shape[2:]), keys.dtype)
            caches.append({"own": (empty, empty), "encoded": (keys, values)})
        return {"at": tf.constant(0), "positions": ops.zeros((batch, room), "int32"), "layers": caches}

    def decode(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache, encoded_mask: Tensor
    ) -> tuple[Tensor, Cache]:
        """The next tokens and their positions `(B, T)`, masks `(B, T, R)` and `(B, T, S)` -> logits and the cache.

        The tokens get the next free slots. What `mask` has to exclude are those behind a token, empty ones among them:
        `ops.arange(R) <= cache["at"] + ops.arange(T)[:, None]`, and what else it is not to see.
        """
        at, x = cache["at"], self.embedding(tokens)
        seen = _written(cache["positions"], ops.broadcast_to(positions, ops.shape(tokens)), at)
        biases, caches = self.decoder.biases(positions, seen), []
        for block, old in zip(self.decoder.blocks, cache["layers"], strict=True):
            x, new = block.decode(x, mask[:, None], biases, old, at, encoded_mask[:, None])
            caches.append(new)
        x = self.decoder.norm(x) * (self.dim**-0.5 if self.scaled else 1)
        logits = x @ ops.transpose(self.embedding.embeddings) if self.head is None else self.head(x)
        return logits, {"at": at + ops.shape(tokens)[1], "positions": seen, "layers": caches}


def _written(slots: Tensor, new: Tensor, at: Tensor) -> Tensor:
    return ops.slice_update(slots, (0, at) + (0,) * (len(slots.shape) - 2), new)
