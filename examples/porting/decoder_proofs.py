"""A small Llama of transformers, and four proofs that a port of it has the same logits.

Its weights are random, its keys grouped, its scaling that of Llama 3 or YaRN. A proof returns the greatest difference
of logits, in float32, between transformers and a port that was given the same tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from shared import greatest, rows, some_tokens
from transformers import LlamaConfig, LlamaForCausalLM

from posenc import Rope, positions
from posenc.torch_impl import table

LENGTH = 2048
SCALINGS: dict[str, dict[str, Any]] = {
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 512},
}


class Ported(NamedTuple):
    """A port. step : `(tokens, positions, segments, cache) -> (logits, cache)`. traced : shapes it was compiled for."""

    model: Any
    step: Callable[..., Any]
    traced: list[tuple[int, ...]]


def build(scaling: str, seed: int = 0) -> LlamaForCausalLM:
    """The model; the one with Llama 3's scaling has its embedding for a head."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters=SCALINGS[scaling],
        tie_word_embeddings=scaling == "llama3",
    )
    model = LlamaForCausalLM(config).eval()
    random = torch.Generator().manual_seed(seed)
    for name, weights in model.named_parameters():
        numbers = torch.randn(weights.shape, generator=random)
        # Queries and keys of 0.7 make scores with a deviation of 0.5: sharper ones multiply the error of transformers'
        # own float32 angles, which is 1e-5 of the logits here, and more than 2e-5 where this is 1.
        gain = 0.7 if "q_proj" in name or "k_proj" in name else 1.0
        weights.data = 1 + 0.1 * numbers if weights.ndim == 1 else gain * numbers / weights.shape[1] ** 0.5
    model.tie_weights()
    return model


class ExactAngles(torch.nn.Module):
    """posenc's cosines and sines for transformers, to see how much of a difference is due to its own."""

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        self.rope = rope

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.cat((each, each), -1).to(x.dtype) for each in table(self.rope, position_ids))


def turned_by(rope: Rope, reference: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same model with exact angles."""
    exact = copy.deepcopy(reference)
    exact.model.rotary_emb = ExactAngles(rope)
    return exact


def whole(reference: LlamaForCausalLM, ported: Ported, *, length: int = LENGTH) -> float:
    """2,048 tokens at once."""
    return greatest((at_once(reference, length), received(ported, length)))


def cached(reference: LlamaForCausalLM, ported: Ported, *, length: int = LENGTH, off_by: int = 0) -> float:
    """24 tokens behind 2,024, one by one; of transformers all at once, and one by one behind a cache of its own."""
    prompt = length - 24
    ids = rows([[*range(prompt), *positions.cached(prompt, 24)]])
    tokens = some_tokens(*ids.shape)
    steps = decoded(ported, tokens, ids + off_by * (ids >= prompt), np.ones_like(tokens), prompt)
    return greatest((at_once(reference, length), steps), (one_by_one(reference, length), steps[:, prompt:]))


def left_padded(reference: LlamaForCausalLM, ported: Ported) -> float:
    """Rows of 601, 408 and 77 tokens padded on the left, and 8 more: at once and one by one. Only tokens count."""
    lengths = [601, 408, 77]
    ids = np.concatenate((rows(positions.padded(lengths, side="left")), rows(positions.cached(lengths, 8))), 1)
    segments = np.int32(rows(positions.padded([n + 8 for n in lengths], side="left", padding=-1)) >= 0)
    tokens, mask = some_tokens(*ids.shape), torch.tensor(segments)
    own = logits(reference, tokens, ids, attention_mask=mask)[segments == 1]
    runs = np.asarray(ported.step(tokens, ids, segments, None)[0]), decoded(ported, tokens, ids, segments, max(lengths))
    return greatest(*((own, run[segments == 1]) for run in runs))


def packed(reference: LlamaForCausalLM, ported: Ported) -> float:
    """Documents of 901, 700 and 447 tokens in one row; transformers gets each of them alone."""
    lengths = [901, 700, 447]
    tokens, ids = some_tokens(1, LENGTH), rows([positions.packed(lengths)])
    segments = np.repeat(np.arange(1, 4, dtype=np.int32), lengths)[None]
    row = np.asarray(ported.step(tokens, ids, segments, None)[0])
    documents = [segments[0] == number for number in (1, 2, 3)]
    return greatest(*((logits(reference, tokens[:, one], ids[:, one]), row[:, one]) for one in documents))


PROOFS = {
    "2,048 positions": whole,
    "cached decoding": cached,
    "left padding": left_padded,
    "packed documents": packed,
}


def logits(reference: LlamaForCausalLM, tokens: np.ndarray, ids: np.ndarray, **more: Any) -> np.ndarray:
    """What transformers returns."""
    with torch.no_grad():
        return reference(torch.tensor(tokens), position_ids=torch.tensor(ids), **more).logits.numpy()


@lru_cache(maxsize=4)
def at_once(reference: LlamaForCausalLM, length: int) -> np.ndarray:
    """What transformers returns of `some_tokens(1, length)`; kept, as several proofs ask for it."""
    return logits(reference, some_tokens(1, length), rows([range(length)]))


@lru_cache(maxsize=4)
def one_by_one(reference: LlamaForCausalLM, length: int) -> np.ndarray:
    """Of the last 24 of them, one by one behind the cache of transformers; kept."""
    tokens = torch.tensor(some_tokens(1, length))
    with torch.no_grad():
        past = reference(tokens[:, :-24], use_cache=True).past_key_values
        parts = [reference(token, past_key_values=past).logits for token in tokens[:, -24:].split(1, dim=1)]
    return torch.cat(parts, 1).numpy()


def received(ported: Ported, length: int) -> np.ndarray:
    """What a port returns of `some_tokens(1, length)`."""
    tokens = some_tokens(1, length)
    return np.asarray(ported.step(tokens, rows([range(length)]), np.ones_like(tokens), None)[0])


def decoded(ported: Ported, tokens: np.ndarray, ids: np.ndarray, segments: np.ndarray, prompt: int) -> np.ndarray:
    """Logits of a port that is given the first `prompt` tokens at once and the others one by one, with its cache."""
    cache, parts = ported.model.cache(*tokens.shape), []
    for part in (slice(prompt), *(slice(at, at + 1) for at in range(prompt, tokens.shape[1]))):
        some, cache = ported.step(tokens[:, part], ids[:, part], segments[:, part], cache)
        parts.append(np.asarray(some))
    return np.concatenate(parts, 1)
