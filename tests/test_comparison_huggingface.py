"""Positions of transformers are those of posenc, and its own switches are named when they are wrong."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, SwinConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.cohere.modeling_cohere import CohereRotaryEmbedding
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as turn_neighbours
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.swin.modeling_swin import SwinModel
from transformers.models.t5.modeling_t5 import T5Attention

from posenc import Alibi, Llama3, Rope, SwinIndex, T5Bias, Yarn
from posenc import torch_impl as posenc_torch
from posenc.interop.comparison import compare
from tests.test_comparison import LONG

pytestmark = pytest.mark.filterwarnings(r"error::RuntimeWarning:posenc\.interop\..*")

SCALINGS = {
    "default": (None, {"rope_type": "default"}),
    "llama3": (
        Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    "yarn": (
        Yarn(16.0, original_length=4096),
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096},
    ),
}


def llama(scaling, base, head_dim=64, kind=LlamaRotaryEmbedding):
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters=SCALINGS[scaling][1] | {"rope_theta": base},
    )
    module = kind(config)

    def table(positions):
        cos, sin = module(torch.zeros(1), torch.as_tensor(positions)[None])
        return cos[0], sin[0]

    return table


def exact(scaling, base, head_dim=64):
    rope = Rope(head_dim, base, "half", scaling=SCALINGS[scaling][0])
    return lambda positions: posenc_torch.table(rope, torch.as_tensor(positions))


@pytest.mark.parametrize("positions", [None, LONG], ids=["spread", "long"])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_tables_of_llama_are_those_of_posenc(scaling, base, positions):
    theirs, ours = llama(scaling, base), exact(scaling, base)
    found = compare(theirs, ours, what="table", positions=positions)
    found.assert_nothing()
    assert 0 < found.distance < 2e-2
    compare(ours, theirs, what="table", positions=positions).assert_nothing()


@pytest.mark.parametrize(
    ("expected", "received", "name", "words"),
    [
        (("default", 10000.0), ("default", 500000.0), "base", "10000 expected, 500000 received"),
        (("llama3", 500000.0), ("default", 500000.0), "scaling", "faster by 8"),
        (("default", 10000.0), ("yarn", 10000.0), "scaling", "as by YaRN, and values are 1.2773 times"),
    ],
)
def test_configurations_of_llama_are_named(expected, received, name, words):
    found = compare(exact(*expected), llama(*received), what="table")
    assert found.differences == (name,)
    assert words in found.explanation


def rotation(table, turn, layout="half"):
    def turned(x, positions):
        cos, sin = (part[None] for part in table(positions))
        q = torch.as_tensor(x)[None, None]
        return turn(q, q, cos, sin)[0][0, 0]

    return turned


@pytest.mark.parametrize(
    ("theirs", "layout"),
    [
        (rotation(llama("default", 10000.0), apply_rotary_pos_emb), "half"),
        (rotation(llama("default", 10000.0, kind=CohereRotaryEmbedding), turn_neighbours), "interleaved"),
    ],
    ids=["llama", "cohere"],
)
def test_rotations_are_those_of_posenc_in_their_layout(theirs, layout):
    for ours in ("half", "interleaved"):
        rope = Rope(64, 10000.0, ours)

        def expected(x, positions, rope=rope):
            made = posenc_torch.table(rope, torch.as_tensor(positions))
            return posenc_torch.rotate(rope, torch.as_tensor(x), made, head_axis=None)

        found = compare(expected, theirs, what="rotation", head_dim=64)
        assert found.differences == (("nothing",) if ours == layout else ("layout",)), str(found)


@pytest.mark.parametrize("both", [True, False])
def test_buckets_of_t5_are_those_of_posenc(both):
    def theirs(q, k):
        distance = torch.as_tensor(k)[None, :] - torch.as_tensor(q)[:, None]
        return T5Attention._relative_position_bucket(distance, bidirectional=both, num_buckets=32, max_distance=128)

    def ours(q, k):
        return posenc_torch.rows(T5Bias(1, bidirectional=both), torch.as_tensor(q), torch.as_tensor(k))

    compare(theirs, ours, what="bias").assert_nothing()
    found = compare(theirs, lambda q, k: ours(k, q).T, what="bias")
    assert found.differences == ("sign",)


@pytest.mark.parametrize("heads", [8, 12])
def test_slopes_of_bloom_are_those_of_posenc(heads):
    length = 300
    theirs = build_alibi_tensor(torch.ones(1, length), heads, torch.float32).expand(heads, length, length)
    ours = posenc_torch.bias(Alibi.anchored(heads), torch.arange(length), torch.arange(length))
    compare(theirs, ours, what="bias").assert_nothing()


def test_rows_of_bert_are_equal_in_bits_or_named():
    config = BertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    rows = BertModel(config).embeddings.position_embeddings.weight
    compare(rows, rows.detach().clone(), what="encoding").assert_nothing()
    assert compare(rows, rows.bfloat16(), what="encoding").differences == ("dtype",)
    assert compare(rows[:-1], rows[1:].bfloat16(), what="encoding").differences == ("offset", "dtype")


def test_windows_of_swin_are_those_of_posenc():
    model = SwinModel(SwinConfig(image_size=56, embed_dim=12, depths=[1], num_heads=[3], window_size=7))
    index = next(value for name, value in model.named_buffers() if name.endswith("relative_position_index"))
    grid = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij"), dim=-1).reshape(-1, 2)
    ours = posenc_torch.rows(SwinIndex(1, window=(7, 7)), grid, grid)
    compare(index.reshape(49, 49), ours, what="bias").assert_nothing()
    assert compare(index.reshape(49, 49), ours.T, what="bias").differences == ("sign",)
