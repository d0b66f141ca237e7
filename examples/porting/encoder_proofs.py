"""Three proofs that the port of an encoder has the same outputs: a batch for the port, each document for transformers.

A proof lays documents out; tokens of the port are in the order of the documents then, and `alone` has as many rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from shared import rows
from transformers import PreTrainedModel

from posenc.positions import packed, padded


class Batch(NamedTuple):
    """`(rows, length)` integers each, and which tokens are real: document by document, in the order of documents."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    real: np.ndarray


Ported = Callable[[Batch], np.ndarray]
"""A port as a function: logits or hidden states, `(rows, length, ...)`."""


def in_rectangle(documents: Sequence[np.ndarray], side: str) -> Batch:
    """Each document in a row of its own, filled up to the longest on the left or on the right."""
    lengths = [len(document) for document in documents]
    positions = rows(padded(lengths, side=side))  # type: ignore[arg-type]  # is checked there
    real = rows(padded(lengths, side=side, padding=-1)) >= 0  # type: ignore[arg-type]
    tokens = np.zeros_like(positions)
    tokens[real] = np.concatenate(documents)
    return Batch(tokens, positions, real.astype(np.int32), real)


def in_one_row(documents: Sequence[np.ndarray]) -> Batch:
    """All documents one behind another."""
    lengths = [len(document) for document in documents]
    tokens, segments = np.concatenate(documents), np.repeat(np.arange(len(documents), dtype=np.int32), lengths)
    return Batch(tokens[None], rows([packed(lengths)]), segments[None], np.ones((1, sum(lengths)), bool))


PROOFS: dict[str, Callable[[Sequence[np.ndarray]], Batch]] = {
    "right padding": partial(in_rectangle, side="right"),
    "left padding": partial(in_rectangle, side="left"),
    "packed documents": in_one_row,
}


@torch.inference_mode()
def expected(model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """What transformers makes of `(rows, length)` tokens: logits, or hidden states of a model without a head."""
    output = model(torch.from_numpy(tokens).long(), None if mask is None else torch.from_numpy(mask).long())
    result: np.ndarray = output[0].numpy()
    return result


def alone(model: PreTrainedModel, documents: Sequence[np.ndarray]) -> np.ndarray:
    """What it makes of each document, one behind another."""
    return np.concatenate([expected(model, document[None])[0] for document in documents])
