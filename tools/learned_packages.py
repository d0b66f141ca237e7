"""Published learned tables, and of each the rows that posenc reads under the specification that it follows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peer_modules import config, model, small, table
from peer_report import Array, Compare, Pair

from posenc import Learned
from posenc.numpy_impl import lookup

DIM = 8
MASK = np.array([[1] * 9, [0] * 4 + [1] * 5, [1] * 6 + [0] * 3])
"""Tokens that are no padding: none is, on the left, on the right."""
COUNTED = MASK.cumsum(-1) * MASK - 1
"""Positions that count them; -1 at padding."""


def learned(family: str, name: str, spec: Callable[[int, int], Learned]) -> Compare:
    """A module that is called with tokens: of a prompt, and of two tokens behind seven."""

    def compare() -> Iterator[Pair]:
        module = model(family, name)(20, DIM)
        by_shape = "input_ids_shape" in inspect.signature(module.forward).parameters
        for past, length in ((0, 9), (7, 2)):
            tokens = torch.Size((2, length)) if by_shape else torch.zeros(2, length, dtype=torch.long)
            positions = np.arange(past, past + length)[None].repeat(2, 0)
            exact = lookup(spec(20, DIM), table(module), positions)
            yield Pair(module(tokens, past).detach().expand(exact.shape), exact)

    return compare


def opt() -> Iterator[Pair]:
    module = model("opt", "OPTLearnedPositionalEmbedding")(20, DIM)
    yield from _with_gradient(module, module(torch.tensor(MASK)), Learned.opt(20, DIM), COUNTED)
    received = module(torch.ones(1, 9, dtype=torch.long), 7).detach()
    yield Pair(received, lookup(Learned.opt(20, DIM), table(module), np.arange(7, 9)[None]))


def roberta(family: str, owner: str, settings: str, by: str = "") -> Compare:
    """The module's table at the positions that its function counts, where 1 is the padding token."""

    def compare() -> Iterator[Pair]:
        embeddings = model(family, owner)
        sizes = {"hidden_size": DIM, "num_attention_heads": 2, "max_position_embeddings": 22, "vocab_size": 30}
        module = embeddings(small(embeddings, settings, pad_token_id=1, **sizes))
        count = model(family, by) if by else embeddings.create_position_ids_from_input_ids
        arguments = () if by or not _is_method(embeddings) else (module,)
        tokens = torch.tensor(np.where(MASK, 5, 1))
        received = module.position_embeddings(count(*arguments, tokens, 1))
        spec = (
            Learned.roberta(20, DIM)
            if module.position_embeddings.padding_idx == 1
            else Learned(20, DIM, offset=2, padding="row")
        )
        yield from _with_gradient(module.position_embeddings, received, spec, COUNTED)

    return compare


def _is_method(owner: Any) -> bool:
    return not isinstance(inspect.getattr_static(owner, "create_position_ids_from_input_ids"), staticmethod)


def _with_gradient(embedding: Any, received: torch.Tensor, spec: Learned, positions: Array) -> Iterator[Pair]:
    """Rows; then the gradient of their sum: how often each was read, and 0 where it is frozen."""
    yield Pair(received.detach(), lookup(spec, table(embedding), positions))
    received.sum().backward()
    plan = spec.plan()
    read = positions.reshape(-1)
    counts = np.bincount(read[read != plan.frozen_position] + plan.offset, minlength=plan.rows)
    yield Pair(embedding.weight.grad, np.repeat(counts[:, None], DIM, 1))


def bert() -> Iterator[Pair]:
    module = model("bert", "BertEmbeddings")(config("bert", "BertConfig", hidden_size=DIM, max_position_embeddings=20))
    received = module.position_embeddings(module.position_ids[:, :9]).detach()
    yield Pair(received, lookup(Learned(20, DIM), table(module.position_embeddings), np.arange(9)[None]))


def keras_positions() -> Iterator[Pair]:
    from keras_hub.layers import PositionEmbedding

    layer = PositionEmbedding(20, initializer="normal")
    x = torch.zeros(2, 9, DIM)
    layer.build(x.shape)
    weights = np.asarray(layer.position_embeddings.value.detach())
    positions = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 19], range(9)])
    yield Pair(layer(x, start_index=7).detach(), lookup(Learned(20, DIM), weights, np.arange(7, 16)[None].repeat(2, 0)))
    yield Pair(layer(x, positions=torch.tensor(positions)).detach(), lookup(Learned(20, DIM), weights, positions))


def x_positions(dtype: torch.dtype) -> Compare:
    """Rows times dim^-0.5."""

    def compare() -> Iterator[Pair]:
        from ml_dtypes import bfloat16
        from x_transformers.x_transformers import AbsolutePositionalEmbedding

        module = AbsolutePositionalEmbedding(48, 20).to(dtype)
        weights = module.emb.weight.detach().float().numpy().astype(np.float32 if dtype == torch.float32 else bfloat16)
        exact = lookup(Learned(20, 48, output_scale=48**-0.5), weights, np.arange(7, 16))
        yield Pair(module(torch.zeros(1, 9, 48), offset=7).detach().float(), exact.astype(np.float64))

    return compare
