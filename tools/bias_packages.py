"""Published biases and rows by distance, and of each what posenc has under the specification that it follows."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from posenc import Alibi, DebertaBuckets, ShawClip, SwinIndex, T5Bias, TransformerXLIndex
from posenc.numpy_impl import bias, rows

Array = np.ndarray


class Pair(NamedTuple):
    """What a package returns, what posenc has, and how far they may be apart: 0 where every bit has to be the same."""

    received: Any
    exact: Array
    bound: Array | float = 0.0


Compare = Callable[[], Iterator[Pair]]


class Peer(NamedTuple):
    """A published implementation, and how it is compared."""

    package: str
    name: str
    compare: Compare
    entry: str = ""
    """How the entry of docs/differences.md on it begins, where it differs."""


def model(family: str, name: str) -> Any:
    """A class or function of a family of transformers, `folder/family` where its folder has another name."""
    folder, _, file = family.partition("/")
    return getattr(importlib.import_module(f"transformers.models.{folder}.modeling_{file or folder}"), name)


def config(family: str, name: str, **options: Any) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{family}.configuration_{family}"), name)(**options)


class _Nothing(type):
    """An empty class, in which every name is an empty class."""

    def __getattr__(cls, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Absent(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> _Nothing:
        return _Nothing.__getattr__(_Nothing, name)


class _Absence:
    """Finds torchvision, and nothing in it."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def without_torchvision(name: str) -> Any:
    """A module that imports torchvision and uses nothing of it here: PyPI's wheel needs a CUDA build of PyTorch."""
    absence = _Absence()
    sys.meta_path.insert(0, absence)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(absence)
        for found in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[found]  # others ask whether it is there


# --- ALiBi

HEADS = range(1, 129)
LENGTH = 512
SLOPES = 2.0**-22
"""Relative: half a unit each for a power, a reciprocal, a slope and its product."""
BFLOAT16 = (1 + 2.0**-8) ** 3 - 1
"""Relative: half a unit each for a slope, a distance and their product."""


def alibi(
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


# --- T5

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


def table(embedding: Any) -> Array:
    return embedding.weight.detach().numpy()


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


# --- DeBERTa: query minus key

SPANS = [(4, 8), (16, 32), (32, 128), (128, 512), (256, 512), (256, 1024), (512, 2048)]


def deberta_rows(bucket: Callable[[torch.Tensor, int, int], Any], *, clamped: bool = False) -> Compare:
    """Clipped to the table as both attentions do."""

    def compare() -> Iterator[Pair]:
        for count, furthest in SPANS:
            distances = np.array(DISTANCES)
            received = np.clip(np.asarray(bucket(torch.tensor(distances), count, furthest)) + count, 0, 2 * count - 1)
            yield Pair(received, rows(DebertaBuckets(count, furthest, clamped=clamped), [0], -distances)[0])

    return compare


def deberta_attention(kind: str) -> Compare:
    """The module with unit queries and keys, and rows that hold their number: scores are the rows that are read."""

    def compare() -> Iterator[Pair]:
        for count, furthest, length in ((16, 32, 100), (256, 512, 700)):
            options = {"relative_attention": True, "position_buckets": count, "max_relative_positions": furthest}
            options |= {"hidden_size": 1, "num_attention_heads": 1, "share_att_key": True, "pos_att_type": [kind]}
            module = model("deberta_v2", "DisentangledSelfAttention")(
                config("deberta_v2", "DebertaV2Config", **options)
            )
            for projection in (module.query_proj, module.key_proj):
                torch.nn.init.ones_(projection.weight)
                torch.nn.init.zeros_(projection.bias)
            ones, numbers = torch.ones(1, length, 1), torch.arange(2.0 * count)[:, None]
            scores = module.disentangled_attention_bias(ones, ones, None, numbers, 1).detach()[0]
            spec = DebertaBuckets(count, furthest, clamped=False)
            yield Pair(scores, rows(spec, range(length), range(length)))

    return compare


def deberta_hugging(family: str) -> Callable[[torch.Tensor, int, int], Any]:
    return model(family, "make_log_bucket_position")


def deberta_keras(d: torch.Tensor, count: int, furthest: int) -> Any:
    from keras_hub.src.models.deberta_v3.disentangled_self_attention import DisentangledSelfAttention

    place = SimpleNamespace(bucket_size=count, max_position_embeddings=furthest)
    return DisentangledSelfAttention._make_log_bucket_position(place, d)


# --- Swin

WINDOWS = [(1, 1), (7, 7), (12, 12), (3, 5), (8, 1)]


def swin_rows(make: Callable[[tuple[int, int]], Any], windows: list[tuple[int, int]] = WINDOWS) -> Compare:
    def compare() -> Iterator[Pair]:
        for window in windows:
            spec = SwinIndex(3, window)
            exact = rows(spec, spec.positions(), spec.positions())
            yield Pair(np.asarray(make(window)).reshape(exact.shape), exact)

    return compare


def hugging_swin(family: str, owner: str) -> Callable[[tuple[int, int]], Any]:
    return lambda window: model(family, owner).create_relative_position_index(SimpleNamespace(window_size=window))


def hugging_beit(family: str, owner: str) -> Callable[[tuple[int, int]], Any]:
    """Without the class token, which has three rows of its own."""
    return lambda window: model(family, owner).generate_relative_position_index(window)[1:, 1:]


def swin_bias() -> Iterator[Pair]:
    for window in WINDOWS:
        module = model("swin", "SwinRelativePositionBias")(4, window)
        torch.nn.init.normal_(module.relative_position_bias_table)
        yield _windowed(window, module.relative_position_bias_table, module()[0])


def timm_swin_bias() -> Iterator[Pair]:
    for window in WINDOWS:
        module = without_torchvision("timm.layers").RelPosBias(window, 4)
        torch.nn.init.normal_(module.relative_position_bias_table)
        yield _windowed(window, module.relative_position_bias_table, module.get_bias()[0])


def _windowed(window: tuple[int, int], weights: torch.Tensor, received: torch.Tensor) -> Pair:
    spec = SwinIndex(4, window)
    return Pair(received.detach(), bias(spec, spec.positions(), spec.positions(), weights=weights.detach().numpy()))


def keras_swin(window: tuple[int, int]) -> Any:
    from keras_hub.src.models.swin_transformer.swin_transformer_layers import get_relative_position_index

    return get_relative_position_index(*window)


# --- rows read by the distance itself


def shaw(family: str, owner: str, settings: str) -> Compare:
    """Scores of unit queries and rows that hold their number, times the scale of a head of width 1."""

    def compare() -> Iterator[Pair]:
        for left, right, length in ((64, 8, 200), (3, 5, 20)):
            options = {"left_max_position_embeddings": left, "right_max_position_embeddings": right}
            options |= {"hidden_size": 1, "num_attention_heads": 1, "position_embeddings_type": "relative_key"}
            module = model(family, owner)(config(family, settings, **options))
            module.distance_embedding.weight.data = torch.arange(left + right + 1.0)[:, None]
            ones = torch.ones(1, 1, length, 1)
            received = model(family, "_apply_relative_key_position_encoding")(module, ones, ones)[1].detach()[0, 0]
            yield Pair(received, rows(ShawClip(left, right), range(length), range(length)))

    return compare


def shifted(spec: TransformerXLIndex, queries: range, keys: range, shift: Callable[[torch.Tensor], Any]) -> Pair:
    """Scores that hold the number of their row, where a pair has one; the shift leaves the others undefined."""
    scores = torch.arange(float(spec.row_count)).expand(1, 1, len(queries), -1).contiguous()
    exact = rows(spec, queries, keys)
    received = np.asarray(shift(scores)).reshape(exact.shape)
    return Pair(np.where(exact < 0, -1, received), exact)


MEMORIES = [(0, 9), (7, 5)]
"""Positions before the new ones, and the new ones."""


def xlnet(shift: Callable[[torch.Tensor, int], Any], memory: int, new: int) -> Pair:
    spec = TransformerXLIndex(memory + new, shortest=1 - new)
    total = memory + new
    return shifted(spec, range(memory, total), range(total), lambda scores: shift(scores, total))


def xlnet_shift() -> Iterator[Pair]:
    shift = model("xlnet", "XLNetRelativeAttention").rel_shift_bnij
    yield from (xlnet(shift, *sizes) for sizes in MEMORIES)


def keras_xlnet_shift() -> Iterator[Pair]:
    from keras_hub.src.models.xlnet.relative_attention import _rel_shift

    yield from (xlnet(_rel_shift, *sizes) for sizes in MEMORIES)


def conformer_shift(family: str, owner: str, name: str) -> Compare:
    def compare() -> Iterator[Pair]:
        for length in (1, 2, 50):
            spec = TransformerXLIndex.bidirectional(length)
            yield shifted(
                spec,
                range(length),
                range(length),
                lambda x, n=length: getattr(model(family, owner), name)(None, x)[..., :n],
            )

    return compare


def gemma_shift() -> Iterator[Pair]:
    """Blocks of queries; `left` keys stand before each block, and distances from `left` down have rows."""
    attention = model("gemma4", "Gemma4AudioAttention")
    for block, left, count in ((12, 12, 13), (4, 6, 9)):
        context = block + left
        spec = TransformerXLIndex(left, shortest=left + 1 - count)
        shift = partial(attention._rel_shift, SimpleNamespace(context_size=context))
        yield shifted(spec, range(left, context), range(context), lambda scores, f=shift: f(scores[:, :, None]))
