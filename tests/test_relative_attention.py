"""How attention uses `rows`: Shaw, Transformer-XL, XLNet, Conformer, DeBERTa, Music Transformer and Swin.

Every example computes scores from the rows of posenc, and the same scores as published: by the module of transformers,
or by the authors' function typed from their code. Everything is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    DebertaV2Config,
    SwinConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2ConformerConfig,
    XLNetConfig,
    XLNetModel,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.swin.modeling_swin import SwinAttention, SwinRelativePositionBias
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerRelPositionalEmbedding,
    Wav2Vec2ConformerSelfAttention,
)

from posenc import (
    DebertaBuckets,
    MusicTransformerIndex,
    ShawClip,
    Sinusoidal,
    SwinIndex,
    TransformerXLIndex,
    numpy_impl,
    torch_impl,
)
from posenc.torch_impl.modules import RelativeBias

HEADS, DEPTH = 2, 12
DIM = HEADS * DEPTH
LIMIT = 4e-11
"""A score is three sums of 12 products at most, whose magnitudes sum to less than 100: two computations of it differ by
less than 2 * 3 * 12 * 100 * 2^-53 / sqrt(12) < 2.4e-13. A softmax makes twice that of it, and values below 8 and a last
projection, whose weights sum to less than 10, make 160 times that of it. A wrong row makes 0.3 and more."""

Rows = Callable[[object, object, object], Tensor]
"""`rows` of a column, as an int64 tensor, which is what PyTorch indexes with."""


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, every parameter a sample of its own."""
    for seed, parameter in enumerate(module.double().eval().parameters()):
        parameter.data = numbers(100 + seed, *parameter.shape) * (0.3 if parameter.dim() > 1 else 1.0)
    return module.requires_grad_(False)


def close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=0, atol=LIMIT)


def read(products: Tensor, row: Tensor) -> Tensor:
    """`products` `(..., Q, rows)` of every query with every row -> `(..., Q, K)`, at the row of each key.

    Never forms Q x K x depth. Where there is no row the number of row 0 stands, which a mask has to exclude.
    """
    return products.gather(-1, row.clamp(min=0).expand(*products.shape[:-1], -1))


def heads_of(x: Tensor) -> Tensor:
    """`(length, DIM)` -> `(heads, length, depth)`."""
    return x.unflatten(-1, (HEADS, DEPTH)).transpose(0, 1)


def merged(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(-2)


# --- Shaw et al.: rows of two tables are added to keys and values


def shaw(rows: Rows) -> None:
    """tensor2tensor, `dot_product_attention_relative`: queries are the last of the keys."""
    queries, keys, k = 7, 11, 3
    q, key, value = (numbers(seed, HEADS, n, DEPTH) for seed, n in ((1, queries), (2, keys), (3, keys)))
    on_keys, on_values = numbers(4, 2 * k + 1, DEPTH), numbers(5, 2 * k + 1, DEPTH)

    spec = ShawClip(k)
    row = rows(spec, range(keys - queries, keys), range(keys))
    scores = (q @ key.mT + read(q @ on_keys.T, row)) / math.sqrt(DEPTH)
    weights = scores.softmax(-1)
    # the weights of all keys that share a row, summed: (heads, Q, rows)
    of_rows = weights.new_zeros(HEADS, queries, spec.row_count).scatter_add(-1, row.expand_as(weights), weights)
    output = weights @ value + of_rows @ on_values

    # _generate_relative_positions_matrix and _relative_attention_inner
    range_vec_k = torch.arange(keys)
    range_vec_q = range_vec_k[-queries:]
    final_mat = (range_vec_k[None, :] - range_vec_q[:, None]).clamp(-k, k) + k
    assert torch.equal(row, final_mat)
    scaled = q * DEPTH**-0.5
    logits = scaled @ key.mT + (scaled.transpose(0, 1) @ on_keys[final_mat].mT).transpose(0, 1)
    own = logits.softmax(-1)
    close(weights, own)
    close(output, own @ value + (own.transpose(0, 1) @ on_values[final_mat]).transpose(0, 1))


def shaw_asymmetric(rows: Rows) -> None:
    """Wav2Vec2-BERT, which has Shaw's term of the keys, with another limit on each side."""
    length, left, right = 9, 4, 2
    config = Wav2Vec2BertConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=left,
        right_max_position_embeddings=right,
        attn_implementation="eager",
    )
    module = filled(Wav2Vec2BertSelfAttention(config))
    x = numbers(6, length, DIM)

    q, key, value = (heads_of(linear(x)) for linear in (module.linear_q, module.linear_k, module.linear_v))
    row = rows(ShawClip(left, right), range(length), range(length))
    weights = ((q @ key.mT + read(q @ module.distance_embedding.weight.T, row)) / math.sqrt(DEPTH)).softmax(-1)
    output, own = module(x[None])
    close(weights, own[0])
    close(module.linear_out(merged(weights @ value)), output[0])


# --- Transformer-XL and its descendants: (q + u) k + (q + v) (W_R R)


def transformer_xl(rows: Rows) -> None:
    """kimiyoung/transformer-xl, `RelPartialLearnableMultiHeadAttn` and `_rel_shift`, with a memory."""
    memory, new = 5, 6
    length = memory + new
    q, key = numbers(7, HEADS, new, DEPTH), numbers(8, HEADS, length, DEPTH)
    u, v, projection = numbers(9, HEADS, 1, DEPTH), numbers(10, HEADS, 1, DEPTH), numbers(11, DIM, DIM) * 0.3
    encoding = Sinusoidal(DIM, layout="sin_cos", denominator_shift=0)
    relative = torch_impl.encode(encoding, range(length - 1, -1, -1), dtype=torch.float64)  # the furthest comes first
    r = heads_of(relative @ projection.T)

    row = rows(TransformerXLIndex.causal(length), range(memory, length), range(length))
    scores = ((q + u) @ key.mT + read((q + v) @ r.mT, row)) / math.sqrt(DEPTH)
    seen = row >= 0
    assert torch.equal(seen, torch.ones(new, length, dtype=torch.bool).tril(memory))  # what a causal mask leaves

    def rel_shift(x: Tensor) -> Tensor:  # (qlen, klen, bsz, n_head)
        zero_pad = x.new_zeros(x.size(0), 1, *x.size()[2:])
        x_padded = torch.cat([zero_pad, x], dim=1)
        x_padded = x_padded.view(x.size(1) + 1, x.size(0), *x.size()[2:])
        return x_padded[1:].view_as(x)

    w_head_q, w_head_k, r_head_k = (x.transpose(0, 1) for x in (q, key, r))
    r_w_bias, r_r_bias = u[:, 0], v[:, 0]
    ac = torch.einsum("ibnd,jbnd->ijbn", (w_head_q + r_w_bias)[:, None], w_head_k[:, None])
    bd = torch.einsum("ibnd,jnd->ijbn", (w_head_q + r_r_bias)[:, None], r_head_k)
    own = ((ac + rel_shift(bd)) * DEPTH**-0.5)[:, :, 0].permute(2, 0, 1)
    close(scores[:, seen], own[:, seen])
    assert (own[:, ~seen] != scores[:, ~seen]).any()  # the triangle that the shift leaves undefined


def xlnet(rows: Rows) -> None:
    """XLNet in both directions, with a memory; its R begins one further away than any key is."""
    memory, new = 4, 6
    length = memory + new
    config = XLNetConfig(vocab_size=3, d_model=DIM, n_layer=1, n_head=HEADS, d_inner=4, attn_type="bi")
    model = XLNetModel(config)
    encoding = Sinusoidal(DIM, layout="sin_cos", denominator_shift=0)
    relative = torch_impl.encode(encoding, range(length, -new, -1), dtype=torch.float64)
    own_relative = model.relative_positional_encoding(new, length)[:, 0]
    # its phases are float32 products of float32 frequencies
    np.testing.assert_allclose(own_relative.numpy(), relative.numpy(), rtol=0, atol=length * 2**-22)

    attention = filled(model.layer[0].rel_attn)
    x = numbers(12, length, DIM)
    q, key, value = (torch.einsum("ih,hnd->nid", x, w) for w in (attention.q, attention.k, attention.v))
    q = q[:, memory:]
    r = torch.einsum("ih,hnd->nid", relative, attention.r)
    u, v = attention.r_w_bias[:, None], attention.r_r_bias[:, None]
    row = rows(TransformerXLIndex(length, shortest=1 - new), range(memory, length), range(length))
    assert row.min() == 1  # row 0, the distance `length`, is of no pair
    scores = ((q + u) @ key.mT + read((q + v) @ r.mT, row)) / math.sqrt(DEPTH)
    weights = scores.softmax(-1)

    published = (part.transpose(0, 1)[:, None] for part in (q, key, value, r))  # (length, batch, heads, depth)
    output, own = attention.rel_attn_core(*published, output_attentions=True)
    close(weights, own[:, :, 0].permute(2, 0, 1))
    close((weights @ value).transpose(0, 1), output[:, 0])


def conformer(rows: Rows) -> None:
    """Wav2Vec2-Conformer: R of 2 * length - 1 distances, and no memory."""
    length = 8
    config = Wav2Vec2ConformerConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        position_embeddings_type="relative",
        max_source_positions=20,
        attn_implementation="eager",
    )
    module = filled(Wav2Vec2ConformerSelfAttention(config))
    x = numbers(13, length, DIM)
    positions = range(length - 1, -length, -1)
    relative = torch_impl.encode(Sinusoidal.vaswani(DIM), positions, dtype=torch.float64)
    own_relative = Wav2Vec2ConformerRelPositionalEmbedding(config)(x[None])[0]
    np.testing.assert_allclose(own_relative.numpy(), relative.numpy(), rtol=0, atol=length * 2**-22)

    q, key, value = (heads_of(linear(x)) for linear in (module.linear_q, module.linear_k, module.linear_v))
    r = heads_of(module.linear_pos(relative))
    row = rows(TransformerXLIndex.bidirectional(length), range(length), range(length))
    u, v = module.pos_bias_u[:, None], module.pos_bias_v[:, None]
    weights = (((q + u) @ key.mT + read((q + v) @ r.mT, row)) / math.sqrt(DEPTH)).softmax(-1)
    output, own = module(x[None], relative_position_embeddings=relative[None])
    close(weights, own[0])
    close(module.linear_out(merged(weights @ value)), output[0])


# --- DeBERTa: content to position and position to content


def deberta(rows: Rows) -> None:
    """transformers, `disentangled_attention_bias`: beyond `max_distance` it does not clamp."""
    length, buckets, furthest = 40, 8, 24
    for shared in (True, False):
        config = DebertaV2Config(
            hidden_size=DIM,
            num_attention_heads=HEADS,
            relative_attention=True,
            position_buckets=buckets,
            max_relative_positions=furthest,
            pos_att_type=["c2p", "p2c"],
            share_att_key=shared,
        )
        module = filled(DisentangledSelfAttention(config))
        x, relative = numbers(14, length, DIM), numbers(15, 2 * buckets, DIM)
        of_keys = module.key_proj if shared else module.pos_key_proj
        of_queries = module.query_proj if shared else module.pos_query_proj

        q, key, value = (heads_of(linear(x)) for linear in (module.query_proj, module.key_proj, module.value_proj))
        position_key, position_query = heads_of(of_keys(relative)), heads_of(of_queries(relative))
        row = rows(DebertaBuckets(buckets, furthest, clamped=False), range(length), range(length))
        content_to_position = read(q @ position_key.mT, row)
        position_to_content = read(key @ position_query.mT, row.T).mT  # the row of the same pair, read by its key
        scale = math.sqrt(3 * DEPTH)  # 6 exactly: transformers takes the root in float32
        bias = (content_to_position + position_to_content) / scale
        weights = (q @ key.mT / scale + bias).softmax(-1)

        close(bias, module.disentangled_attention_bias(q, key, None, relative, 3))
        everything = torch.ones(1, 1, length, length)
        output, own = module(x[None], everything, output_attentions=True, rel_embeddings=relative)
        close(weights, own[0])
        close(merged(weights @ value), output[0])


# --- Music Transformer: skewing


def music_transformer(rows: Rows) -> None:
    """tensor2tensor, `_relative_position_to_absolute_position_masked` and `_unmasked`."""
    length = 9
    q = numbers(16, HEADS, length, DEPTH)
    table = numbers(17, length, DEPTH)
    row = rows(MusicTransformerIndex(length, bidirectional=False), range(length), range(length))
    seen = row >= 0
    assert torch.equal(seen, torch.ones(length, length, dtype=torch.bool).tril())
    products = q @ table.T
    skewed = torch.nn.functional.pad(products, (1, 0)).view(HEADS, length + 1, length)[:, 1:]
    close(read(products, row)[:, seen], skewed[:, seen])

    table = numbers(18, 2 * length - 1, DEPTH)
    row = rows(MusicTransformerIndex(length, bidirectional=True), range(length), range(length))
    products = q @ table.T
    flat = torch.nn.functional.pad(products, (0, 1)).view(HEADS, 2 * length * length)
    padded = torch.nn.functional.pad(flat, (0, length - 1)).view(HEADS, length + 1, 2 * length - 1)
    close(read(products, row), padded[:, :length, length - 1 :])


# --- Swin: a bias of two axes


def swin(rows: Rows) -> None:
    window = (3, 4)
    spec = SwinIndex(HEADS, window)
    module = filled(SwinRelativePositionBias(HEADS, window))
    row = rows(spec, spec.positions(), spec.positions())
    assert torch.equal(row.flatten(), module.relative_position_index)
    assert torch.equal(module.relative_position_bias_table[row].permute(2, 0, 1), module()[0])


EXAMPLES = {f.__name__: f for f in (shaw, shaw_asymmetric, transformer_xl, xlnet, conformer, deberta)}
EXAMPLES |= {f.__name__: f for f in (music_transformer, swin)}
every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def in_numpy(spec: object, queries: object, keys: object) -> Tensor:
    return torch.from_numpy(numpy_impl.rows(spec, queries, keys)).long()


def in_torch(spec: object, queries: object, keys: object) -> Tensor:
    return torch_impl.rows(spec, queries, keys).long()


@every_example
@pytest.mark.parametrize("rows", [in_numpy, in_torch], ids=["numpy", "torch"])
def test_scores_from_rows_are_the_published_ones(example: Callable[[Rows], None], rows: Rows) -> None:
    example(rows)


@every_example
def test_query_minus_key_is_seen(example: Callable[[Rows], None]) -> None:
    with pytest.raises(AssertionError):
        example(lambda spec, queries, keys: in_numpy(spec, keys, queries).T)


@pytest.mark.parametrize("example", [f for name, f in EXAMPLES.items() if name != "swin"])
def test_queries_counted_from_one_are_seen(example: Callable[[Rows], None]) -> None:
    with pytest.raises(AssertionError):
        example(lambda spec, queries, keys: in_numpy(spec, [p + 1 for p in queries], keys))


@torch.no_grad()
def test_swin_attention_with_the_bias_and_the_mask_of_shifted_windows() -> None:
    """`RelativeBias` in place of the module of transformers, in plain attention."""
    side, windows = 4, 3
    tokens = side * side
    config = SwinConfig(attn_implementation="sdpa")  # the eager one has a float32 softmax
    module = filled(SwinAttention(config, DIM, HEADS, side))
    x = numbers(19, windows, tokens, DIM)
    blocked = torch.rand(windows, tokens, tokens, generator=torch.Generator().manual_seed(20)) < 0.3
    blocked &= ~torch.eye(tokens, dtype=torch.bool)
    mask = torch.zeros(windows, tokens, tokens, dtype=torch.float64).masked_fill(blocked, -100.0)  # Swin's own number

    spec = SwinIndex(HEADS, (side, side))
    bias = RelativeBias(spec, dtype=torch.float64)
    bias.load_state_dict({"weights": module.relative_position_bias.relative_position_bias_table})
    q, key, value = (
        linear(x).unflatten(-1, (HEADS, DEPTH)).transpose(1, 2)
        for linear in (module.q_proj, module.k_proj, module.v_proj)
    )
    scores = q @ key.mT / math.sqrt(DEPTH) + bias(spec.positions(), spec.positions()) + mask[:, None]
    output = scores.softmax(-1) @ value
    close(module.o_proj(output.transpose(1, 2).flatten(-2)), module(x, mask)[0])
