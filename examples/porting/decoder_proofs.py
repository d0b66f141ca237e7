"""A small Llama of transformers, and four proofs that a port of it has the same logits.

Its weights are random, its keys grouped, its scaling that of Llama 3 or YaRN. A proof returns the greatest difference
of logits, in float32, between transformers and a port that was given the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posenc import Rope, positions
from posenc.torch_impl import table

LENGTH = 2048
BAR = 2e-5
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


@contextmanager
def rotating_by(rotation: torch.nn.Module, reference: LlamaForCausalLM) -> Iterator[None]:
    own, reference.model.rotary_emb = reference.model.rotary_emb, rotation
    try:
        yield
    finally:
        reference.model.rotary_emb = own


def whole(reference: LlamaForCausalLM, ported: Ported) -> float:
    """2,048 tokens at once."""
    tokens, ids = some_tokens(1, LENGTH), rows([range(LENGTH)])
    received, _ = ported.step(tokens, ids, np.ones_like(tokens), None)
    return greatest((logits(reference, tokens, ids), received))


def cached(reference: LlamaForCausalLM, ported: Ported, *, off_by: int = 0) -> float:
    """24 tokens behind 2,024, one by one; of transformers all at once, and one by one behind a cache of its own."""
    prompt = LENGTH - 24
    tokens, behind = some_tokens(1, LENGTH), positions.cached(prompt, 24)
    ids = rows([[*range(prompt), *behind]])
    received = decoded(ported, tokens, ids + off_by * (ids >= prompt), np.ones_like(tokens), prompt)
    with torch.no_grad():
        past = reference(torch.tensor(tokens[:, :prompt]), use_cache=True).past_key_values
        steps = [reference(torch.tensor(tokens[:, at : at + 1]), past_key_values=past).logits for at in behind]
    own = np.concatenate([step.numpy() for step in steps], 1)
    return greatest((logits(reference, tokens, ids), received), (own, received[:, prompt:]))


def left_padded(reference: LlamaForCausalLM, ported: Ported) -> float:
    """Rows of 601, 408 and 77 tokens padded on the left, and 8 more: at once and one by one. Only tokens count."""
    lengths = [601, 408, 77]
    ids = np.concatenate((rows(positions.padded(lengths, side="left")), rows(positions.cached(lengths, 8))), 1)
    segments = np.int32(rows(positions.padded([n + 8 for n in lengths], side="left", padding=-1)) >= 0)
    tokens, mask = some_tokens(*ids.shape), torch.tensor(segments)
    own = logits(reference, tokens, ids, attention_mask=mask)[segments == 1]
    at_once = np.asarray(ported.step(tokens, ids, segments, None)[0])
    one_by_one = decoded(ported, tokens, ids, segments, max(lengths))
    return greatest(*((own, received[segments == 1]) for received in (at_once, one_by_one)))


def packed(reference: LlamaForCausalLM, ported: Ported) -> float:
    """Documents of 901, 700 and 447 tokens in one row; transformers gets each of them alone."""
    lengths = [901, 700, 447]
    tokens, ids = some_tokens(1, LENGTH), rows([positions.packed(lengths)])
    segments = np.repeat(np.arange(1, 4, dtype=np.int32), lengths)[None]
    received = np.asarray(ported.step(tokens, ids, segments, None)[0])
    documents = [segments[0] == number for number in (1, 2, 3)]
    return greatest(*((logits(reference, tokens[:, one], ids[:, one]), received[:, one]) for one in documents))


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


def decoded(ported: Ported, tokens: np.ndarray, ids: np.ndarray, segments: np.ndarray, prompt: int) -> np.ndarray:
    """Logits of a port that is given the first `prompt` tokens at once and the others one by one, with its cache."""
    cache, parts = ported.model.cache(*tokens.shape), []
    for part in (slice(prompt), *(slice(at, at + 1) for at in range(prompt, tokens.shape[1]))):
        received, cache = ported.step(tokens[:, part], ids[:, part], segments[:, part], cache)
        parts.append(np.asarray(received))
    return np.concatenate(parts, 1)


def some_tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=shape, dtype=np.int32)


def rows(ids: Any) -> np.ndarray:
    return np.array([list(row) for row in ids], np.int32)


def greatest(*pairs: tuple[np.ndarray, Any]) -> float:
    """The greatest difference; NaN where there is one."""
    return float(np.max([np.abs(expected - np.asarray(received)).max() for expected, received in pairs]))
