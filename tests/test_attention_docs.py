"""What docs/attention.md and docs/learned.md show runs as it stands, and what they list is so."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from posenc import Alibi, Learned, SwinIndex, T5Bias
from posenc.numpy_impl import bias, lookup
from posenc.spec.resampling import METHODS, weights

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("attention", "learned")}
BLOCKS = {
    f"{name}-{number}": block
    for name, text in PAGES.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
}


def run(block: str) -> None:
    torch.manual_seed(0)
    page = sys.modules["page"] = ModuleType("page")  # where Dynamo looks for what a block defines
    try:
        exec(compile(block, "page.md", "exec"), page.__dict__)  # noqa: S102  # the page's own code
    finally:
        del sys.modules["page"]


def parameter(name: str, block: str) -> Any:
    return pytest.param(block, id=name, marks=[pytest.mark.inductor] if "torch.compile" in block else [])


@pytest.mark.parametrize("block", [parameter(*item) for item in BLOCKS.items()])
def test_the_pages_run(block: str) -> None:
    run(block)


WRONG = [
    # a mask alone, or a bias alone
    ("attn_mask=torch.where(seen, added, -torch.inf)", "attn_mask=seen"),
    ("bias=added[None], mask=seen, scale=1.0", "mask=seen, scale=1.0"),
    ("bias=added[None], mask=seen)", "bias=added[None])"),
    # a query that is counted from 0 behind a cache
    ("relative([5], range(6))", "relative([0], range(6))"),
    ("tokens, positions[5:], positions", "tokens, positions[:1], positions"),
    ("bias(spec, cached(lengths, 1)", "bias(spec, [[5], [5]]"),
    # one term less, or read by the wrong side
    (" + of_rows @ on_values", ""),
    ("((q + v) @ r.mT).gather", "((q + u) @ r.mT).gather"),
    ("row.T.expand(2, -1, -1)).mT", "row.expand(2, -1, -1)).mT"),
    ("pad(q @ table.T, (1, 0))", "pad(q @ table.T, (0, 1))"),
    # another row, another function
    ("assert (rows == weights[:16])", "assert (rows == weights[2:18])"),
    ("Learned.roberta(512, 768)", "Learned.opt(512, 768)"),
    (
        'larger = resize(spec, weights, (24, 24), method="torch_bicubic")',
        'larger = resize(spec, weights, (24, 24), method="torch_bicubic_antialias")',
    ),
    ('table, (24, 24), method="torch_bicubic")', 'table, (24, 24), method="torch_bicubic_antialias")'),
    ('side="right", padding=-1', 'side="right"'),
    # key minus query; weights that a model does not own, or that have no gradient
    ("places[:, None] - places + 6", "places - places[:, None] + 6"),
    ("bias=relative(positions, positions)", "bias=relative(range(6), range(6))"),
    ("weights=self.buckets[...]", "weights=jax.lax.stop_gradient(self.buckets[...])"),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_a_wrong_block_is_seen(right: str, wrong: str) -> None:
    (block,) = (block for block in BLOCKS.values() if right in block)
    with pytest.raises(AssertionError):
        run(block.replace(right, wrong))


# --- The tables


def cells(page: str, heading: str) -> Iterator[list[str]]:
    """The rows of the first table below a heading."""
    part = PAGES[page].split(f"## {heading}\n")[1].split("|---|\n")[1].split("\n\n")[0]
    for line in part.splitlines():
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_conventions() -> None:
    listed = list(cells("learned", "Which row position 0 reads"))
    assert len(listed) == 8
    for call, count, first, padding, _ in listed:
        spec = eval(call.strip("`"))  # noqa: S307  # the page's own code
        rows, dim = spec.weight_shape
        assert rows == int(count)
        numbered = np.repeat(np.arange(rows, dtype=np.float32)[:, None], dim, axis=1)
        scale = dim**-0.5 if "dim ** -0.5" in first else 1
        assert lookup(spec, numbered + 1, 0)[0] == (int(first.split()[1].strip(",")) + 1) * scale
        before = re.match(r"-1: row (\d+), (zero, never trained|trained like others)$", padding)
        if before is None:
            assert padding in ("counted like others", "none")
            with pytest.raises(ValueError, match="received -1"):
                lookup(spec, numbered, -1)
        else:
            assert lookup(spec, numbered, -1)[0] == int(before[1])
            assert (spec.plan().frozen_position == -1) == (before[2] == "zero, never trained")


def test_the_table_of_methods() -> None:
    assert {row[0].strip("`") for row in cells("learned", "Resizing")} == set(METHODS)


def test_methods_that_are_one_function() -> None:
    """Of the exact weights, for sizes that grow and that shrink."""
    sizes = [(14, 24), (16, 5), (37, 16), (7, 5), (2, 15), (9, 9), (64, 13), (1, 3), (4, 1)]
    same: dict[str, list[str]] = {}
    for method in METHODS:
        same.setdefault(repr([weights(n, m, method) for n, m in sizes]), []).append(method)
    listed = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^- (`.*)$", PAGES["learned"], re.M)]
    assert sorted(map(sorted, listed)) == sorted(sorted(group) for group in same.values() if len(group) > 1)


def test_positions_of_roberta() -> None:
    """The line of the page has the rows of transformers, where padding is 1."""
    tokens = torch.tensor([[0, 31414, 2, 1, 1], [0, 31414, 232, 328, 2], [1, 1, 0, 9, 2]])
    mask = (tokens != 1).long()
    (line,) = re.findall(r"^positions = (mask.*?)  #", PAGES["learned"], re.M)
    positions = eval(line, {"mask": mask})  # noqa: S307  # the page's own code
    own = RobertaEmbeddings.create_position_ids_from_input_ids(tokens, 1)
    assert torch.equal(positions + Learned.roberta(512, 768).offset, own)


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "BERT": lambda: transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=1)),
    "RoBERTa": lambda: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(num_hidden_layers=1, max_position_embeddings=514)
    ),
    "OPT": lambda: transformers.OPTForCausalLM(transformers.OPTConfig(num_hidden_layers=1)),
    "BART": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(encoder_layers=1, decoder_layers=1)
    ),
    "GPT-2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1)),
    "ViT": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=1)),
    "CLIP": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config={"num_hidden_layers": 1})
    ),
    "DINOv2": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(num_hidden_layers=1, image_size=518)
    ),
    "T5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(num_layers=1)),
}
ROWS = [row for page in PAGES for row in cells(page, "Weights of a checkpoint")]


def check_weights(state: dict[str, Tensor], row: list[str]) -> None:
    """The row names a tensor that has the shape of its specification once it is treated as the row says."""
    _, name, call, treatment = row
    spec: Learned | T5Bias | SwinIndex = eval(call.strip("`"))  # noqa: S307  # the page's own code
    taken = {"as it is": lambda table: table, "`[0]`: a batch axis of one": lambda table: table[0]}[treatment]
    assert tuple(taken(state[name.strip("`")]).shape) == spec.weight_shape


@pytest.mark.parametrize("model", MODELS)
def test_the_weights_of_transformers(model: str) -> None:
    with torch.device("meta"):
        state = MODELS[model]().state_dict()
    named = [row for row in ROWS if row[0].split(",")[0] == model]
    for row in named:
        check_weights(state, row)
    tables = [name for name in state if re.search(r"posit|wpe|relative", name)]
    assert sorted(tables) == sorted(row[1].strip("`") for row in named)  # and there are no others


def test_the_weights_of_swin(tmp_path: Path) -> None:
    """Of a file: transformers has another name in memory."""
    config = transformers.SwinConfig(depths=[1], num_heads=[3], embed_dim=12)
    transformers.SwinForImageClassification(config).save_pretrained(tmp_path)
    (row,) = (row for row in ROWS if row[0] == "Swin")
    check_weights(load_file(tmp_path / "model.safetensors"), row)
    assert {row[0].split(",")[0] for row in ROWS} == {*MODELS, "Swin"}


def test_keras_takes_a_bias_for_a_mask() -> None:
    attention = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    added = bias(Alibi.causal(2), range(5), range(5))[None]
    output = attention(x, x, attention_mask=added)
    np.testing.assert_array_equal(output, attention(x, x, attention_mask=added != 0))
    assert np.abs(output - attention(x, x)).max() > 1e-3
