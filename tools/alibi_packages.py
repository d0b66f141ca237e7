"""Published ALiBi biases, and of each what posenc has under the specification that it follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peer_modules import model
from peer_report import Compare, Pair

from posenc import Alibi
from posenc.numpy_impl import bias

HEADS = range(1, 129)
LENGTH = 512
SLOPES = 2.0**-22
"""Relative: half a unit each for a power, a reciprocal, a slope and its product."""
BFLOAT16 = (1 + 2.0**-8) ** 3 - 1
"""Relative: half a unit each for a slope, a distance and their product."""


def biases(
    form: str, make: Callable[[int], Any], queries: range, keys: range = range(LENGTH), *, bound: float = SLOPES
) -> Compare:
    """`make`: of a number of heads, `(heads, queries, keys)` or what has that many elements."""

    def compare() -> Iterator[Pair]:
        for heads in HEADS:
            exact = bias(Alibi(heads, form=form), queries, keys, dtype=np.float64)
            yield Pair(np.asarray(make(heads)).reshape(exact.shape), exact, bound * np.abs(exact))

    return compare


def hugging_alibi(family: str) -> Callable[[int], Any]:
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    return lambda heads: model(family, "build_alibi_tensor")(mask, heads, torch.float32)


def padded_bloom() -> Iterator[Pair]:
    """Keys count the tokens that are no padding; padding itself is at 0."""
    mask = torch.tensor([[0] * 5 + [1] * 95, [1] * 40 + [0] * 60])
    received = model("bloom", "build_alibi_tensor")(mask, 8, torch.float32).reshape(2, 8, 1, 100)
    positions = np.maximum(mask.numpy().cumsum(-1) - 1, 0) * mask.numpy()
    exact = bias(Alibi.anchored(8), [0], positions, dtype=np.float64)
    yield Pair(received, exact, SLOPES * np.abs(exact))


def keras_alibi(heads: int) -> Any:
    from keras_hub.layers import AlibiBias

    return AlibiBias()(np.zeros((1, heads, 1, LENGTH), np.float32))


def keras_alibi_bfloat16(heads: int) -> Any:
    from keras_hub.layers import AlibiBias

    return AlibiBias(dtype="bfloat16")(torch.zeros(1, heads, 1, LENGTH, dtype=torch.bfloat16)).float()


def keras_falcon(heads: int) -> Any:
    from keras_hub.src.models.falcon.falcon_transformer_decoder import FalconTransformerDecoder

    layer = FalconTransformerDecoder(num_attention_heads=heads, intermediate_dim=4)
    return layer._build_alibi_tensor(heads, np.ones((1, LENGTH)))


def mlx_alibi(kind: str = "float32") -> Callable[[int], Any]:
    def make(heads: int) -> Any:
        import mlx.core
        import mlx.nn

        scores = mlx.core.zeros((1, heads, 4, LENGTH), getattr(mlx.core, kind))
        return np.asarray(mlx.nn.ALiBi()(scores, offset=LENGTH - 4).astype(mlx.core.float32))

    return make


def x_alibi(dtype: torch.dtype = torch.float32) -> Callable[[int], Any]:
    def make(heads: int) -> Any:
        from x_transformers.x_transformers import AlibiPositionalBias

        return AlibiPositionalBias(heads).to(dtype)(4, LENGTH).float()

    return make


def curated_alibi(*, causal: bool) -> Callable[[int], Any]:
    def make(heads: int) -> Any:
        from curated_transformers.layers.attention import AttentionLinearBiases

        module = AttentionLinearBiases(n_attention_heads=heads, is_causal=causal, is_inverted=False)
        return module.calculate_biases(LENGTH if causal else 64)

    return make
