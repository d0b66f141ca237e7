"""Keras' multi-head attention with a bias of the scores, which `keras.layers.MultiHeadAttention` does not take."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np

from posenc.spec.checks import framework

framework("posenc.tf_impl.attention", "keras", "Keras", "tf")

import keras  # noqa: E402 - the sentence about a missing framework comes first

from posenc.spec import checks  # noqa: E402 - as above
from posenc.tf_impl.inputs import Shape, Tensor  # noqa: E402 - as above


class _Biased(NamedTuple):
    """What goes in place of a mask, through the parent's hooks, to where scores are."""

    mask: Any
    bias: Tensor


@keras.saving.register_keras_serializable(package="posenc")
class BiasedMultiHeadAttention(keras.layers.MultiHeadAttention):  # type: ignore[misc]  # Keras ships no usable types
    """`keras.layers.MultiHeadAttention` whose call takes a `bias`, added to the scaled scores before the softmax.

    `bias` is `(heads, Q, K)` or `(batch, heads, Q, K)`, as `RelativeBias` makes it, and is cast to the layer's compute
    dtype. Masks hide keys as in the parent, and without a bias the layer is the parent, except that it refuses a mask
    of floats, of which the parent takes all but zero for True.
    """

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
        bias: Any = None,
    ) -> Any:
        self._check(query, value, attention_mask, bias)
        if bias is not None:
            attention_mask = _Biased(attention_mask, bias)
        return super().call(
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    def _check(self, query: Tensor, value: Tensor, mask: Any, bias: Any) -> None:
        """Refuse a bias in place of a mask, and what is no bias."""
        if mask is not None:
            dtype = keras.backend.standardize_dtype(mask.dtype if hasattr(mask, "dtype") else np.asarray(mask).dtype)
            if dtype != "bool" and "int" not in dtype:
                raise ValueError(
                    "BiasedMultiHeadAttention.attention_mask: expected a boolean or integer mask, received "
                    f"{dtype}: a bias is given as bias"
                )
        if bias is not None:
            if not (hasattr(bias, "dtype") and hasattr(bias, "shape")):
                raise ValueError(
                    f"BiasedMultiHeadAttention.bias: expected an array of the framework, received {type(bias).__name__}"
                )
            self._check_bias(tuple(query.shape), tuple(value.shape), tuple(bias.shape))

    def _check_bias(self, query: Shape, value: Shape, bias: Shape) -> None:
        """Refuse what would be broadcast in silence, as far as it is known."""
        expected = (query[0], self.num_heads, *query[1:-1], *value[1:-1])
        shape = (1, *bias) if len(bias) == len(expected) - 1 else bias
        pairs = zip(shape, expected, strict=False)
        if len(shape) != len(expected) or any(
            None not in (a, b) and a != b and (axis > 0 or a != 1) for axis, (a, b) in enumerate(pairs)
        ):
            raise ValueError(
                f"BiasedMultiHeadAttention.bias: expected shape {checks.shape_text(expected)}, or the same without the "
                f"first axis, received {checks.shape_text(bias)}"
            )

    def _compute_attention_mask(self, query: Tensor, value: Tensor, attention_mask: Any = None, **masks: Any) -> Any:
        if not isinstance(attention_mask, _Biased):
            return super()._compute_attention_mask(query, value, attention_mask=attention_mask, **masks)
        mask = super()._compute_attention_mask(query, value, attention_mask=attention_mask.mask, **masks)
        return _Biased(mask, attention_mask.bias)

    def _compute_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        **options: Any,
    ) -> Any:
        explicit = self.dropout > 0 or return_attention_scores or len(query.shape) != 4
        if explicit or not isinstance(attention_mask, _Biased):
            return super()._compute_attention(
                query, key, value, attention_mask, training, return_attention_scores, **options
            )
        mask, bias = attention_mask
        while mask is not None and len(mask.shape) < 4:
            mask = keras.ops.expand_dims(mask, -3)  # one for all heads
        output = keras.ops.dot_product_attention(
            query,
            key,
            value,
            bias=bias if len(bias.shape) == 4 else keras.ops.expand_dims(bias, 0),
            mask=mask,
            scale=self._inverse_sqrt_key_dim,
            flash_attention=self._flash_attention,
        )
        return output, None

    def _masked_softmax(self, attention_scores: Tensor, attention_mask: Any = None) -> Tensor:
        if isinstance(attention_mask, _Biased):
            attention_scores += keras.ops.cast(attention_mask.bias, attention_scores.dtype)
            attention_mask = attention_mask.mask
        return super()._masked_softmax(attention_scores, attention_mask)

    def compute_output_spec(self, *args: Any, **options: Any) -> Any:
        given = inspect.signature(self.call).bind(*args, **options).arguments
        bias = given.pop("bias", None)
        self._check(given["query"], given["value"], given.get("attention_mask"), bias)
        return super().compute_output_spec(**given)
