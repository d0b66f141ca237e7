"""A small T5 of transformers, and four proofs that a port of it has the same logits.

A proof returns the greatest difference of logits, in float32, between transformers and a port that was given the same
tokens. transformers counts distances by the place in the row, the port by explicit positions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from shared import greatest, rows, some_tokens
from transformers import T5Config, T5ForConditionalGeneration

from posenc import positions

LENGTH = 2048
DOCUMENTS = ((901, 700, 447), (300, 900, 848))
"""Tokens of the sources and of the targets that are packed."""


class Ported(NamedTuple):
    """A port, and its methods, compiled. traced : shapes of tokens that `decode` was compiled for."""

    model: Any
    encode: Callable[..., Any]
    start: Callable[..., Any]
    decode: Callable[..., Any]
    traced: list[tuple[int, ...]]


def build(*, tied: bool, seed: int = 0) -> T5ForConditionalGeneration:
    """T5 1.1 with a head of its own, or `tied` to its embedding and scaled, as T5 1.0 is."""
    config = T5Config(
        vocab_size=256,
        d_model=64,
        d_kv=16,
        d_ff=160,
        num_layers=2,
        num_heads=6,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=tied,
    )
    model = T5ForConditionalGeneration(config).eval()
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.d_model))
    random = torch.Generator().manual_seed(seed)
    for name, weights in model.named_parameters():
        numbers = torch.randn(weights.shape, generator=random)
        if weights.ndim == 1:  # norms begin as 1: a port that forgot them would be right
            weights.data = 1 + 0.1 * numbers
        elif "shared" in name:
            weights.data = numbers
        elif "relative_attention_bias" in name:
            weights.data = BIAS * numbers
        else:
            # scores are not divided by sqrt(d_kv): the queries are, so that products have a deviation of 1
            gain = config.d_kv**-0.5 if name.endswith("Attention.q.weight") else 2 if "lm_head" in name else 1
            weights.data = gain * numbers / weights.shape[1] ** 0.5
    return model


BIAS = 2.0
"""The deviation of the biases: where scores have one of 1, positions count for more than words."""


def whole(reference: T5ForConditionalGeneration, ported: Ported, *, length: int = LENGTH) -> float:
    """2,048 tokens of the source and of the target at once."""
    return greatest((at_once(reference, length), received(ported, length, prompt=length)))


def cached(reference: T5ForConditionalGeneration, ported: Ported, *, length: int = LENGTH) -> float:
    """24 tokens behind 2,024, one by one; of transformers all at once, and one by one behind a cache of its own."""
    steps = received(ported, length, prompt=length - 24)
    return greatest((at_once(reference, length), steps), (one_by_one(reference, length), steps))


def left_padded(reference: T5ForConditionalGeneration, ported: Ported) -> float:
    """Sources of 601, 408 and 77 tokens, targets of 50, 301 and 200: at once, and the last 8 one by one.

    Both are padded on the left, and only tokens count.
    """
    lengths, new = [601, 408, 77], [50, 301, 200]
    ids, target_ids = (rows(positions.padded(each, side="left")) for each in (lengths, new))
    real, target_real = (rows(positions.padded(each, side="left", padding=-1)) >= 0 for each in (lengths, new))
    source, target = some_tokens(*ids.shape), some_tokens(*target_ids.shape, seed=2)
    own = logits(
        reference,
        source,
        target,
        attention_mask=torch.tensor(real),
        decoder_attention_mask=torch.tensor(target_real),
    )
    encoded = ported.encode(source, ids, real[:, None] & everything(max(lengths)))
    mask = causal(max(new)) & target_real[:, None]
    runs = [decoded(ported, encoded, target, target_ids, mask, real[:, None], prompt) for prompt in (max(new), 293)]
    return greatest(*((own[target_real], run[target_real]) for run in runs))


def packed(reference: T5ForConditionalGeneration, ported: Ported) -> float:
    """Sources of 901, 700 and 447 tokens in one row, targets of 300, 900 and 848; transformers gets each alone."""
    ids, target_ids = (rows([positions.packed(each)]) for each in DOCUMENTS)
    document, target_document = (np.repeat(np.arange(3), each)[None] for each in DOCUMENTS)
    source, target = source_and_target(LENGTH)
    encoded = ported.encode(source, ids, same(document, document))
    mask = causal(LENGTH) & same(target_document, target_document)
    row = decoded(ported, encoded, target, target_ids, mask, same(target_document, document), LENGTH)
    return greatest((alone(reference), row))


PROOFS = {
    "2,048 positions": whole,
    "cached decoding": cached,
    "left padding": left_padded,
    "packed documents": packed,
}


def logits(reference: T5ForConditionalGeneration, source: np.ndarray, target: np.ndarray, **more: Any) -> np.ndarray:
    """What transformers returns."""
    with torch.no_grad():
        return reference(torch.tensor(source), decoder_input_ids=torch.tensor(target), **more).logits.numpy()


@lru_cache(maxsize=4)
def at_once(reference: T5ForConditionalGeneration, length: int) -> np.ndarray:
    """What transformers returns of `source_and_target(length)`; kept, as several proofs ask for it."""
    return logits(reference, *source_and_target(length))


@lru_cache(maxsize=4)
def one_by_one(reference: T5ForConditionalGeneration, length: int) -> np.ndarray:
    """The same, but the last 24 tokens of the target one by one behind the cache of transformers; kept."""
    source, target = (torch.tensor(tokens) for tokens in source_and_target(length))
    prompt = length - 24
    with torch.no_grad():
        out = reference(source, decoder_input_ids=target[:, :prompt], use_cache=True)
        states, past, parts = (out.encoder_last_hidden_state,), out.past_key_values, [out.logits]
        for token in target[:, prompt:].split(1, dim=1):
            out = reference(encoder_outputs=states, decoder_input_ids=token, past_key_values=past, use_cache=True)
            parts.append(out.logits)
    return torch.cat(parts, 1).numpy()


@lru_cache(maxsize=4)
def alone(reference: T5ForConditionalGeneration) -> np.ndarray:
    """What it returns of each of DOCUMENTS alone, one behind another; kept."""
    parts = (
        np.split(row[0], np.cumsum(each)[:-1]) for row, each in zip(source_and_target(LENGTH), DOCUMENTS, strict=True)
    )
    return np.concatenate([logits(reference, *(part[None] for part in pair)) for pair in zip(*parts, strict=True)], 1)


def received(ported: Ported, length: int, *, prompt: int) -> np.ndarray:
    """What a port returns of `source_and_target(length)`, with the first `prompt` tokens of the target at once."""
    (source, target), ids = source_and_target(length), rows([range(length)])
    encoded = ported.encode(source, ids, everything(length))
    return decoded(ported, encoded, target, ids, causal(length), everything(length), prompt)


def decoded(
    ported: Ported,
    encoded: Any,
    tokens: np.ndarray,
    ids: np.ndarray,
    mask: np.ndarray,
    encoded_mask: np.ndarray,
    prompt: int,
) -> np.ndarray:
    """Logits of a port that is given the first `prompt` tokens at once and the others one by one, with its cache."""
    length = tokens.shape[1]
    cache, parts = ported.start(encoded, length), []
    encoded_mask = np.broadcast_to(encoded_mask, (len(tokens), length, encoded_mask.shape[-1]))
    for part in (slice(prompt), *(slice(at, at + 1) for at in range(prompt, length))):
        some, cache = ported.decode(tokens[:, part], ids[:, part], mask[:, part], cache, encoded_mask[:, part])
        parts.append(np.asarray(some))
    return np.concatenate(parts, 1)


def everything(length: int) -> np.ndarray:
    return np.ones((1, length, length), bool)


def causal(length: int) -> np.ndarray:
    return np.tri(length, dtype=bool)[None]


def same(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Whether they are of one document."""
    return query[:, :, None] == key[:, None, :]


def source_and_target(length: int) -> tuple[np.ndarray, np.ndarray]:
    return some_tokens(1, length), some_tokens(1, length, seed=2)
