"""A T5 encoder-decoder in Flax nnx that takes its positions from posenc; `port_t5.py` fills it from PyTorch.

T5 1.1 as transformers has it: norms without mean and bias, scores that are not scaled, a gated GELU, and one table of
biases for all layers of the encoder, another for those of the decoder, none between the two.

`B` is the batch, `S` the tokens of the source, `T` those of the target, `R` the slots of the decoder's cache. Positions
are integers; masks are True where a query, the axis before the last, sees a key, the last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from posenc import T5Bias
from posenc.jax_impl import bias

Cache = dict[str, Any]


class Attention(nnx.Module):
    def __init__(self, dim: int, heads: int, channels: int, *, rngs: nnx.Rngs) -> None:
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.heads = heads
        self.q, self.k, self.v = (linear(dim, heads * channels) for _ in range(3))
        self.o = linear(heads * channels, dim)

    def keys(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values, `(B, K, heads, channels)`."""
        return self._split(self.k(x)), self._split(self.v(x))

    def __call__(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, biases: jax.Array | None = None
    ) -> jax.Array:
        scores = jnp.einsum("bqhc,bkhc->bhqk", self._split(self.q(x)), keys)
        if biases is not None:
            scores = scores + biases
        weights = nnx.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, values)
        return self.o(mixed.reshape(*mixed.shape[:2], -1))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class FeedForward(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.gate, self.up, self.down = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.gelu(self.gate(x), approximate=True) * self.up(x))


class Block(nnx.Module):
    """A layer of the encoder, or with `cross` of the decoder, which has a cache."""

    def __init__(self, dim: int, heads: int, channels: int, hidden: int, *, cross: bool, rngs: nnx.Rngs) -> None:
        norm = partial(nnx.RMSNorm, dim, epsilon=1e-6, rngs=rngs)
        self.attention_norm, self.attention = norm(), Attention(dim, heads, channels, rngs=rngs)
        if cross:
            self.cross_norm, self.cross = norm(), Attention(dim, heads, channels, rngs=rngs)
        self.feed_norm, self.feed = norm(), FeedForward(dim, hidden, rngs=rngs)

    def encode(self, x: jax.Array, mask: jax.Array, biases: jax.Array) -> jax.Array:
        y = self.attention_norm(x)
        x = x + self.attention(y, *self.attention.keys(y), mask, biases)
        return x + self.feed(self.feed_norm(x))

    def decode(
        self, x: jax.Array, mask: jax.Array, biases: jax.Array, cache: Cache, at: jax.Array, encoded_mask: jax.Array
    ) -> tuple[jax.Array, Cache]:
        y = self.attention_norm(x)
        own = tuple(map(partial(_written, at=at), cache["own"], self.attention.keys(y)))
        x = x + self.attention(y, *own, mask, biases)
        x = x + self.cross(self.cross_norm(x), *cache["encoded"], encoded_mask)
        return x + self.feed(self.feed_norm(x)), {**cache, "own": own}


class Stack(nnx.Module):
    """The layers of one side, the norm behind them, and the biases that they share: `(heads, buckets)`, as in t5x."""

    def __init__(self, spec: T5Bias, layers: int, dim: int, channels: int, hidden: int, **options: Any) -> None:
        self.spec = spec
        start = nnx.initializers.normal(dim**-0.5)(options["rngs"].params(), spec.weight_shape[::-1])
        self.bias = nnx.Param(start)
        self.blocks = nnx.List([Block(dim, spec.heads, channels, hidden, **options) for _ in range(layers)])
        self.norm = nnx.RMSNorm(dim, epsilon=1e-6, rngs=options["rngs"])

    def biases(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        return bias(self.spec, query_positions, key_positions, weights=self.bias[...].T)


class T5(nnx.Module):
    """`model(source, positions, mask, target, target_positions, target_mask, encoded_mask)` returns logits.

    encoder, decoder : what the distances mean on either side.
    tied : whether the logits are products with the embedding: in T5 1.0; 1.1 has a matrix of its own.
    scaled : whether what they are computed from is multiplied by `dim ** -0.5`: in 1.0.
    """

    def __init__(
        self, encoder: T5Bias, decoder: T5Bias, *, vocabulary: int, dim: int, channels: int, hidden: int, layers: int,
        tied: bool, scaled: bool, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.dim, self.scaled = dim, scaled
        self.embedding = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.encoder = Stack(encoder, layers, dim, channels, hidden, cross=False, rngs=rngs)
        self.decoder = Stack(decoder, layers, dim, channels, hidden, cross=True, rngs=rngs)
        self.head = None if tied else nnx.Linear(dim, vocabulary, use_bias=False, rngs=rngs)

    def __call__(
        self, source: jax.Array, positions: jax.Array, mask: jax.Array,
        target: jax.Array, target_positions: jax.Array, target_mask: jax.Array, encoded_mask: jax.Array,
    ) -> jax.Array:  # fmt: skip
        cache = self.start(self.encode(source, positions, mask), target.shape[1])
        return self.decode(target, target_positions, target_mask, cache, encoded_mask)[0]

    def encode(self, tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        """Tokens and positions `(B, S)`, mask `(B, S, S)` -> `(B, S, dim)`; what has one row serves all."""
        x, biases = self.embedding(tokens), self.encoder.biases(positions, positions)
        for block in self.encoder.blocks:
            x = block.encode(x, mask[:, None], biases)
        return self.encoder.norm(x)

    def start(self, encoded: jax.Array, room: int) -> Cache:
        """The cache of `room` slots before the first token of the target."""
        batch, dtype = encoded.shape[0], encoded.dtype
        layers = []
        for block in self.decoder.blocks:
            keys, values = block.cross.keys(encoded)
            empty = jnp.zeros((batch, room, *keys.shape[2:]), dtype)
            layers.append({"own": (empty, empty), "encoded": (keys, values)})
        return {"at": jnp.int32(0), "positions": jnp.zeros((batch, room), jnp.int32), "layers": layers}

    def decode(
        self, tokens: jax.Array, positions: jax.Array, mask: jax.Array, cache: Cache, encoded_mask: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """The next tokens and their positions `(B, T)`, masks `(B, T, R)` and `(B, T, S)` -> logits and the cache.

        The tokens get the next free slots. What `mask` has to exclude are those behind a token, empty ones among them:
        `jnp.arange(R) <= cache["at"] + jnp.arange(T)[:, None]`, and what else it is not to see.
        """
        at, x = cache["at"], self.embedding(tokens)
        seen = _written(cache["positions"], jnp.broadcast_to(positions, tokens.shape), at)
        biases, layers = self.decoder.biases(positions, seen), []
        for block, old in zip(self.decoder.blocks, cache["layers"], strict=True):
            x, new = block.decode(x, mask[:, None], biases, old, at, encoded_mask[:, None])
            layers.append(new)
        x = self.decoder.norm(x) * (self.dim**-0.5 if self.scaled else 1)
        logits = self.embedding.attend(x) if self.head is None else self.head(x)
        return logits, {"at": at + tokens.shape[1], "positions": seen, "layers": layers}


def _written(slots: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(slots, new, at, axis=1)
