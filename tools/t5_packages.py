"""Published T5 buckets and biases, and of each what posenc has under the specification that it follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer_modules import config, model, table
from peer_report import Compare, Pair

from posenc import T5Bias
from posenc.numpy_impl import bias, rows

DISTANCES = sorted(
    {*range(-10000, 10001)} | {sign * (2**k + e) for k in range(13, 31) for e in (-1, 0, 1) for sign in (1, -1)}
)
BUCKETS = [(4, 20), (16, 64), (32, 100), (32, 128), (32, 256), (36, 512), (40, 160), (64, 256), (80, 640), (320, 800)]
"""Buckets and greatest distances: those of published models, and some whose edges are whole numbers."""
EDGES = [(72, 50), (72, 100)]
"""Parameters with edges at whole numbers that logarithms in float32 miss, bidirectional or not."""
Bucket = Callable[[torch.Tensor, bool, int, int], Any]
"""Of distances, direction, buckets and greatest distance."""


def t5_rows(bucket: Bucket, parameters: list[tuple[int, int]], directions: tuple[bool, ...] = (True, False)) -> Compare:
    def compare() -> Iterator[Pair]:
        for both in directions:
            for count, furthest in parameters:
                spec = T5Bias(1, buckets=count, max_distance=furthest, bidirectional=both)
                yield Pair(bucket(torch.tensor(DISTANCES), both, count, furthest), rows(spec, [0], DISTANCES)[0])

    return compare


def static(family: str, owner: str) -> Bucket:
    return lambda d, both, count, furthest: model(family, owner)._relative_position_bucket(
        d, bidirectional=both, num_buckets=count, max_distance=furthest
    )


def method(family: str, owner: str, name: str = "relative_position_bucket") -> Bucket:
    return lambda d, both, count, furthest: getattr(model(family, owner), name)(None, d, both, count, furthest)


def umt5(d: torch.Tensor, both: bool, count: int, furthest: int) -> Any:
    place = SimpleNamespace(
        relative_attention_num_buckets=count, relative_attention_max_distance=furthest, is_decoder=not both
    )
    return model("umt5", "UMT5Attention")._relative_position_bucket(place, d)


def wavlm(d: torch.Tensor, _: bool, count: int, furthest: int) -> Any:
    return model("wavlm", "WavLMAttention")._relative_positions_bucket(
        SimpleNamespace(num_buckets=count, max_distance=furthest), d
    )


def keras_t5(d: torch.Tensor, both: bool, count: int, furthest: int) -> Any:
    from keras_hub.src.models.t5.t5_multi_head_attention import T5MultiHeadAttention

    return T5MultiHeadAttention._relative_position_bucket(
        d, bidirectional=both, num_buckets=count, max_distance=furthest
    )


def x_t5(d: torch.Tensor, both: bool, count: int, furthest: int) -> Any:
    from x_transformers.x_transformers import RelativePositionBias

    return RelativePositionBias._relative_position_bucket(d, causal=not both, num_buckets=count, max_distance=furthest)


def torchtune_t5(parameters: list[tuple[int, int]]) -> Compare:
    def compare() -> Iterator[Pair]:
        from torchtune.models.t5._encoder import T5EncoderRelativePositionBias

        for count, furthest in parameters:
            module = T5EncoderRelativePositionBias(count, furthest, 3, 300)
            spec = T5Bias(3, buckets=count, max_distance=furthest, bidirectional=True)
            yield Pair(module().detach()[0], bias(spec, range(300), range(300), weights=table(module.embedding)))

    return compare


def t5_bias(family: str, owner: str, settings: str, *, decoder: bool) -> Compare:
    """The module's own bias: of a prompt, and of its fourth token with a cache."""

    def compare() -> Iterator[Pair]:
        options = {"is_decoder": decoder, "num_heads": 4, "d_model": 16, "d_kv": 4}
        if family == "pix2struct":
            options = {"num_heads": 4, "hidden_size": 16, "d_kv": 4}
        module = model(family, owner)(config(family, settings, **options), True, layer_idx=0)
        count, furthest = module.relative_attention_num_buckets, module.relative_attention_max_distance
        spec = T5Bias(4, buckets=count, max_distance=furthest, bidirectional=not decoder)
        weights = table(module.relative_attention_bias)
        for past, queries, keys in ((0, 300, 300), (299, 1, 300)):
            received = module.compute_bias(queries, keys, past_seen_tokens=past).detach()[0]
            yield Pair(received, bias(spec, range(past, past + queries), range(keys), weights=weights))

    return compare


def long_t5(owner: str) -> Compare:
    """Blocks of queries; their keys are one block before them, their own and one behind."""

    def compare() -> Iterator[Pair]:
        options = {"is_decoder": False, "num_heads": 4, "d_model": 16, "d_kv": 4}
        module = model("longt5", owner)(config("longt5", "LongT5Config", **options), has_relative_attention_bias=True)
        spec = T5Bias(4, bidirectional=True)
        exact = bias(spec, range(128, 256), range(384), weights=table(module.relative_attention_bias))
        yield Pair(module.compute_bias(128).detach()[0, 0], exact)

    return compare


def mpnet_bias() -> Iterator[Pair]:
    encoder = model("mpnet", "MPNetEncoder")(config("mpnet", "MPNetConfig", num_hidden_layers=0))
    spec = T5Bias(12, bidirectional=True)
    exact = bias(spec, range(300), range(300), weights=table(encoder.relative_attention_bias))
    yield Pair(encoder.compute_position_bias(torch.zeros(1, 300, 1)).detach()[0], exact)


def wavlm_bias() -> Iterator[Pair]:
    module = model("wavlm", "WavLMAttention")(embed_dim=16, num_heads=4, num_buckets=320, max_distance=800)
    spec = T5Bias(4, buckets=320, max_distance=800, bidirectional=True)
    exact = bias(spec, range(1000), range(1000), weights=table(module.rel_attn_embed))
    yield Pair(module.compute_bias(1000, 1000).detach(), exact)


def udop_bias() -> Iterator[Pair]:
    module = model("udop", "RelativePositionBias1D")(num_heads=4)
    exact = bias(T5Bias(4, bidirectional=True), range(300), range(300), weights=table(module.relative_attention_bias))
    yield Pair(module(torch.ones(1, 300)).detach()[0], exact)


def layoutlmv3_bias() -> Iterator[Pair]:
    settings = config("layoutlmv3", "LayoutLMv3Config", num_hidden_layers=0, num_attention_heads=4, hidden_size=16)
    encoder = model("layoutlmv3", "LayoutLMv3Encoder")(settings)
    positions = torch.tensor([[*range(2, 100), 1, 1]])  # RoBERTa's, with padding
    spec = T5Bias(4, buckets=settings.rel_pos_bins, max_distance=settings.max_rel_pos, bidirectional=True)
    weights = np.ascontiguousarray(table(encoder.rel_pos_bias).T)
    yield Pair(encoder._cal_1d_pos_emb(positions), bias(spec, positions.numpy(), positions.numpy(), weights=weights))


def keras_t5_bias(*, decoder: bool) -> Compare:
    def compare() -> Iterator[Pair]:
        from keras_hub.src.models.t5.t5_multi_head_attention import T5MultiHeadAttention

        layer = T5MultiHeadAttention(
            is_decoder=decoder, hidden_dim=16, key_value_dim=4, num_heads=4, dropout=0, use_relative_attention_bias=True
        )
        spec = T5Bias(4, bidirectional=not decoder)
        weights = np.asarray(layer.relative_attention_bias.value.detach())
        for past, queries, keys in ((0, 300, 300), (299, 1, 300)):
            received = layer.compute_bias(queries, keys, past).detach()[0]
            yield Pair(received, bias(spec, range(past, past + queries), range(keys), weights=weights))

    return compare


def x_t5_bias(*, causal: bool, scale: float = 8.0) -> Compare:
    """Its bias is that factor times T5's, a power of two here; queries are the last of the keys."""

    def compare() -> Iterator[Pair]:
        from x_transformers.x_transformers import RelativePositionBias

        module = RelativePositionBias(scale=8.0, causal=causal, heads=4)
        spec = T5Bias(4, bidirectional=not causal)
        exact = bias(spec, range(100, 300), range(300), weights=table(module.relative_attention_bias))
        yield Pair(module(200, 300).detach(), np.float32(scale) * exact)

    return compare
