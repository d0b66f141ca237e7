"""An encoder of the BERT kind in Flax nnx, whose positions are a specification of posenc: learned or sinusoidal.

BERT and DistilBERT differ in their token types alone, which are optional here. `port_encoder.py` fills it with weights
from PyTorch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from posenc import Learned, Sinusoidal
from posenc.jax_impl import add, lookup


class Block(nnx.Module):
    """Attention, then two dense layers; a norm behind each of the two sums."""

    def __init__(self, dim: int, heads: int, hidden: int, epsilon: float, *, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(heads, dim, decode=False, keep_rngs=False, rngs=rngs)
        self.attention_norm = norm(dim, epsilon, rngs)
        self.up = nnx.Linear(dim, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, rngs=rngs)
        self.norm = norm(dim, epsilon, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`x` (batch, length, dim), `mask` (batch, 1, length, length), true where a query may read a key."""
        x = self.attention_norm(x + self.attention(x, mask=mask))
        return self.norm(x + self.down(gelu(self.up(x))))


class Head(nnx.Module):
    """Of masked language modelling; the last projection is the table of words again."""

    def __init__(self, vocabulary: int, dim: int, epsilon: float, *, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(dim, dim, rngs=rngs)
        self.norm = norm(dim, epsilon, rngs)
        self.bias = nnx.Param(jnp.zeros(vocabulary))

    def __call__(self, x: jax.Array, words: nnx.Embed) -> jax.Array:
        return words.attend(self.norm(gelu(self.dense(x)))) + self.bias[...]


class Encoder(nnx.Module):
    """Tokens -> their hidden states, or logits over the vocabulary where there is a head.

    spec : says how positions are encoded. `Learned(...)`: the table is the parameter `positions`; `Sinusoidal(...)`:
        there is nothing to train, to store or to port. posenc registers it with JAX as static, so that it is no array.
    types : number of token types, 0 for a model without them.
    """

    def __init__(
        self,
        spec: Learned | Sinusoidal,
        *,
        vocabulary: int,
        heads: int,
        hidden: int,
        depth: int,
        types: int = 0,
        head: bool = False,
        epsilon: float = 1e-12,
        rngs: nnx.Rngs,
    ) -> None:
        self.spec = spec
        self.words = nnx.Embed(vocabulary, spec.dim, rngs=rngs)
        self.types = nnx.Embed(types, spec.dim, rngs=rngs) if types else None
        if isinstance(spec, Learned):
            self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), spec.weight_shape))
        self.norm = norm(spec.dim, epsilon, rngs)
        self.layers = nnx.List([Block(spec.dim, heads, hidden, epsilon, rngs=rngs) for _ in range(depth)])
        self.head = Head(vocabulary, spec.dim, epsilon, rngs=rngs) if head else None

    def embed(self, tokens: jax.Array, positions: Any) -> jax.Array:
        """Words, types and positions, summed in BERT's order: every token is of type 0."""
        x = self.words(tokens)
        if self.types is not None:
            x = x + self.types(jnp.zeros_like(tokens))
        if isinstance(self.spec, Learned):
            return x + lookup(self.spec, self.positions[...], positions)
        return add(self.spec, x, positions)

    def __call__(self, tokens: jax.Array, positions: Any, segments: jax.Array) -> jax.Array:
        """`(batch, length)` integers each -> `(batch, length, dim)`, or `(batch, length, vocabulary)` with a head.

        positions : those of `posenc.positions.padded` or `packed`; one row of them serves every row of tokens.
        segments : the number of the document that a token is of. Tokens read those of their own: give padding a number
            that no document has.
        """
        mask = segments[:, None, :, None] == segments[:, None, None, :]
        x = self.norm(self.embed(tokens, positions))
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.head is None else self.head(x, self.words)


def norm(dim: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Flax's default takes the square of the mean from the mean of squares: a little further off, 5.0e-6 for 4.2e-6
    return nnx.LayerNorm(dim, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


@nnx.jit
def run(model: Encoder, tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
    return model(tokens, positions, segments)
