"""An encoder of the BERT kind in Keras, whose positions are a specification of posenc: learned or sinusoidal.

BERT and DistilBERT differ in their token types alone, which are optional here. `port_encoder.py` fills it with weights
from PyTorch. The model goes into a `.keras` file as it is: its specification is written as JSON.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from posenc import Learned, Sinusoidal
from posenc.spec.serialise import from_json, to_json
from posenc.tf_impl.layers import LearnedEncoding, SinusoidalEncoding


class Block(layers.Layer):
    """Attention, then two dense layers; a norm behind each of the two sums."""

    def __init__(self, dim: int, heads: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.split = layers.Reshape((-1, heads, dim // heads))
        self.query, self.key, self.value = (layers.Dense(dim) for _ in range(3))
        self.out = layers.Dense(dim)
        self.attention_norm = layers.LayerNormalization(epsilon=epsilon)
        self.up = layers.Dense(hidden, activation=gelu)
        self.down = layers.Dense(dim)
        self.norm = layers.LayerNormalization(epsilon=epsilon)

    def build(self, shape: tuple[int | None, ...]) -> None:
        for layer in (self.query, self.key, self.value, self.out, self.attention_norm, self.up, self.norm):
            layer.build(shape)
        self.down.build((*shape[:-1], self.up.units))

    def call(self, x: Any, mask: Any) -> Any:
        """`x` (batch, length, dim), `mask` (batch, 1, length, length), true where a query may read a key."""
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        read = ops.reshape(ops.dot_product_attention(q, k, v, mask=mask), ops.shape(x))
        x = self.attention_norm(x + self.out(read))
        return self.norm(x + self.down(self.up(x)))


class Embeddings(layers.Layer):
    """Words, types and positions, summed in BERT's order, and a norm: every token is of type 0."""

    def __init__(self, spec: Learned | Sinusoidal, vocabulary: int, types: int, epsilon: float) -> None:
        super().__init__()
        self.words = layers.Embedding(vocabulary, spec.dim)
        self.types = layers.Embedding(types, spec.dim) if types else None
        self.positions = (LearnedEncoding if isinstance(spec, Learned) else SinusoidalEncoding)(spec)
        self.norm = layers.LayerNormalization(epsilon=epsilon)

    def build(self, shape: tuple[int | None, ...]) -> None:
        for layer in (self.words, self.types):
            if layer is not None:
                layer.build(shape)
        self.norm.build((*shape, self.words.output_dim))

    def call(self, tokens: Any, positions: Any) -> Any:
        x = self.words(tokens)
        if self.types is not None:
            x = x + self.types(ops.zeros_like(tokens))
        return self.norm(self.positions(x, positions))


class Head(layers.Layer):
    """Of masked language modelling; the last projection is the table of words again."""

    def __init__(self, vocabulary: int, dim: int, epsilon: float) -> None:
        super().__init__()
        self.dense = layers.Dense(dim, activation=gelu)
        self.norm = layers.LayerNormalization(epsilon=epsilon)
        self.bias = self.add_weight(shape=(vocabulary,), initializer="zeros", name="bias")

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.dense.build(shape)
        self.norm.build(shape)

    def call(self, x: Any, words: Any) -> Any:
        return ops.matmul(self.norm(self.dense(x)), ops.transpose(words)) + self.bias


@keras.saving.register_keras_serializable(package="posenc_examples")
class Encoder(keras.Model):
    """Tokens -> their hidden states, or logits over the vocabulary where there is a head.

    spec : says how positions are encoded, or its JSON text. `Learned(...)`: the layer `embeddings.positions` owns the
        table; `Sinusoidal(...)`: there is nothing to train, to store or to port.
    types : number of token types, 0 for a model without them.
    """

    def __init__(
        self,
        spec: Learned | Sinusoidal | str,
        *,
        vocabulary: int,
        heads: int,
        hidden: int,
        depth: int,
        types: int = 0,
        head: bool = False,
        epsilon: float = 1e-12,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.spec = spec = from_json(spec) if isinstance(spec, str) else spec
        self.config = {"vocabulary": vocabulary, "heads": heads, "hidden": hidden, "depth": depth}
        self.config |= {"types": types, "head": head, "epsilon": epsilon}
        # Keras goes through attributes in alphabetical order, `layers`, which every model has, among them. In a file
        # layers that come before it have their own name, `embeddings/words`; after it a number, `layers/embedding_1`
        self.embeddings = Embeddings(spec, vocabulary, types, epsilon)
        self.blocks = [Block(spec.dim, heads, hidden, epsilon) for _ in range(depth)]
        self.head = Head(vocabulary, spec.dim, epsilon) if head else None

    def build(self, shape: Any = None) -> None:  # noqa: ARG002 - the weights do not depend on it
        self.embeddings.build((None, None))
        for layer in (*self.blocks, self.head):
            if layer is not None:
                layer.build((None, None, self.spec.dim))
        self.built = True

    def call(self, tokens: Any, positions: Any, segments: Any) -> Any:
        """`(batch, length)` integers each -> `(batch, length, dim)`, or `(batch, length, vocabulary)` with a head.

        positions : those of `posenc.positions.padded` or `packed`; one row of them serves every row of tokens.
        segments : the number of the document that a token is of. Tokens read those of their own: give padding a number
            that no document has.
        """
        mask = segments[:, None, :, None] == segments[:, None, None, :]
        x = self.embeddings(tokens, positions)
        for block in self.blocks:
            x = block(x, mask)
        return x if self.head is None else self.head(x, self.embeddings.words.embeddings)

    def get_config(self) -> dict[str, Any]:
        return {"spec": to_json(self.spec), **self.config}


def gelu(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=False)
