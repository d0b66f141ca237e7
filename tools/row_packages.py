"""Published rows of relative tables: DeBERTa, Swin, Shaw, Transformer-XL; and of each what posenc has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer_modules import config, model, without_torchvision
from peer_report import Compare, Pair
from t5_packages import DISTANCES

from posenc import DebertaBuckets, ShawClip, SwinIndex, TransformerXLIndex
from posenc.numpy_impl import bias, rows

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
