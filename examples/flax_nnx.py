"""A Flax nnx attention block with sinusoidal positions: `python examples/flax_nnx.py`.

The specification is a plain attribute: posenc.jax_impl registers it with JAX, so that it passes through `nnx.jit` as
part of the module, holds no array and appears in no checkpoint.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from posenc import Sinusoidal
from posenc.jax_impl import add


class Encoder(nnx.Module):
    def __init__(self, vocabulary: int, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.positions = Sinusoidal.vaswani(dim)
        self.embedding = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs)

    def __call__(self, tokens: jax.Array, offset: jax.Array | int = 0) -> jax.Array:
        """`(batch, length)` tokens, the first of them at position `offset` -> `(batch, length, dim)`."""
        positions = offset + jnp.arange(tokens.shape[-1], dtype=jnp.int32)
        x = add(self.positions, self.embedding(tokens), positions)
        return x + self.attention(x)


@nnx.jit
def encode(model: Encoder, tokens: jax.Array, offset: jax.Array | int = 0) -> jax.Array:
    return model(tokens, offset)


def main() -> None:
    model = Encoder(vocabulary=100, dim=64, heads=4, rngs=nnx.Rngs(0))
    tokens = jnp.full((2, 8), 7, dtype=jnp.int32)
    encoded = encode(model, tokens)
    print("one token, eight positions: distance of the first two rows", jnp.linalg.norm(encoded[0, 0] - encoded[0, 1]))
    print("shape", encoded.shape, "arrays in the state", len(jax.tree.leaves(nnx.state(model))))


if __name__ == "__main__":
    main()
