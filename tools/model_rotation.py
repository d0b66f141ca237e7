"""What the models of transformers compute, by their own code, and how far posenc is from it.

transformers computes in float32, so that it errs by

    frequency   e = (2 + ln(base) / 2) * 2^-24, relative: the exponent's rounding, a power, a quotient;
                a scaling adds three roundings, and a blend of two frequencies the error of its weight
    cosine      position * frequency * (e + 2^-24) + 2^-22, times the magnitude: the product's rounding, then those of
                the sine and of the magnitude
    rotated     (|u| + |v|) times that, plus 2^-22 * magnitude * (|u| + |v|) for its products and sum

and agrees where no value errs by more. A wrong convention is thousands of times the bound.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import PreTrainedConfig

from posenc import Llama3, Rope, Yarn
from posenc.interop.huggingface import from_config
from posenc.numpy_impl import rotate, table

ULP = 2.0**-24
POSITIONS = (0, 1, 2, 17, 63, 1000, 4095)
HEADS = 2


class Case(NamedTuple):
    """One rotary class with a configuration that it can be built from."""

    family: str
    name: str
    module: ModuleType
    config: type[PreTrainedConfig] | None
    """None: the class takes no configuration of a model."""


class Own(NamedTuple):
    """What the model's own code computes, in float64 for comparison."""

    frequencies: np.ndarray
    cos: np.ndarray
    """`(L, pairs)`"""
    sin: np.ndarray
    q: np.ndarray
    """`(1, heads, L, head_dim)`"""
    k: np.ndarray


class Agreement(NamedTuple):
    """The worst differences, each as a part of its bound, and the bounds."""

    frequency: float
    frequency_part: float
    table_part: float
    rotated: float
    rotated_part: float

    @property
    def agrees(self) -> bool:
        return max(self.frequency_part, self.table_part, self.rotated_part) <= 1


# The models' own code


def own(case: Case, config: PreTrainedConfig, label: str | None, q: np.ndarray, k: np.ndarray) -> Own:
    """Frequencies, table and rotated queries and keys `(1, heads, L, head_dim)` at `POSITIONS`."""
    special: dict[str, Callable[..., Own]] = {
        "clvp": _clvp,
        "codegen": _gptj,
        "gptj": _gptj,
        "roformer": _roformer,
        "seamless_m4t": _conformer,
        "wav2vec2_bert": _conformer,
        "wav2vec2_conformer": _conformer,
    }
    torch_q, torch_k = torch.from_numpy(q), torch.from_numpy(k)
    with torch.no_grad():
        if case.family in special:
            return special[case.family](case, config, torch_q, torch_k)
        return _usual(case, config, torch_q, torch_k, label)


def array(value: torch.Tensor) -> np.ndarray:
    return value.detach().to(torch.float64).numpy()


def _usual(case: Case, config: PreTrainedConfig, q: torch.Tensor, k: torch.Tensor, label: str | None) -> Own:
    kind = getattr(case.module, case.name)
    nested = "layer_type" in inspect.signature(kind.forward).parameters and label is not None
    rotary = kind(config, **({"scaled": label != "unscaled"} if case.family == "molmo2" else {}))
    positions = torch.tensor(POSITIONS)[None]
    out = rotary(torch.zeros(1, len(POSITIONS), 1), positions, **({"layer_type": label} if nested else {}))
    frequencies = array(getattr(rotary, f"{label}_inv_freq" if nested else "inv_freq"))
    if isinstance(out, torch.Tensor):
        return Own(frequencies, array(out.real)[0], array(out.imag)[0], *_complex(case, out, q, k))
    cos, sin = (_once(array(part)[0], frequencies.size) for part in out)
    return Own(frequencies, cos, sin, *_applied(case, config, *out, 2 * frequencies.size, q, k))


def _once(wide: np.ndarray, pairs: int) -> np.ndarray:
    """`(L, width)`, where a pair may stand twice, side by side or half a width apart -> `(L, pairs)`."""
    if wide.shape[-1] == pairs:
        return wide
    return wide[:, ::2] if (wide[:, ::2] == wide[:, 1::2]).all() else wide[:, :pairs]


def _applied(
    case: Case,
    config: PreTrainedConfig,
    cos: torch.Tensor,
    sin: torch.Tensor,
    width: int,
    q: torch.Tensor,
    k: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    if case.name == "Qwen2_5OmniDiTRotaryEmbedding":  # as its attention does, to the first head
        q, k = case.module.deinterleave_head_dim(q), case.module.deinterleave_head_dim(k)
    apply = getattr(case.module, "apply_rotary_pos_emb_interleave", None)
    if apply is None or not getattr(config, "rope_interleave", True) or case.name == "Dots3NoteAudioRotaryEmbedding":
        apply = case.module.apply_rotary_pos_emb
    keeps = re.search("_pass|nope", inspect.getsource(apply)) is not None
    parts = (q, k) if keeps else (q[..., :width], k[..., :width])
    if next(iter(inspect.signature(apply).parameters)) == "x":
        turned = tuple(apply(part, cos, sin) for part in parts)
    else:
        turned = apply(*parts, cos, sin)
    whole = turned if keeps else (torch.cat([t, x[..., width:]], -1) for t, x in zip(turned, (q, k), strict=True))
    a, b = whole
    return array(a), array(b)


def _complex(case: Case, out: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    if case.family == "llama4":  # `(B, L, H, D)`
        q, k = case.module.apply_rotary_emb(q.transpose(1, 2), k.transpose(1, 2), out)
        return array(q.transpose(1, 2)), array(k.transpose(1, 2))
    q, k = case.module.apply_rotary_emb(q, k, out)
    return array(q), array(k)


def _gptj(case: Case, config: PreTrainedConfig, q: torch.Tensor, k: torch.Tensor) -> Own:
    width = config.rotary_dim
    positions = torch.tensor(POSITIONS)
    sin, cos = case.module.create_sinusoidal_positions(max(POSITIONS) + 1, width)[positions][None].chunk(2, dim=-1)
    turned = []
    for part in (q, k):
        x = part.transpose(1, 2)
        x = torch.cat([case.module.apply_rotary_pos_emb(x[..., :width], sin, cos), x[..., width:]], -1)
        turned.append(array(x.transpose(1, 2)))
    return Own(_angles_of_one(sin[0, 1], cos[0, 1]), array(cos)[0], array(sin)[0], *turned)


def _roformer(case: Case, _: PreTrainedConfig, q: torch.Tensor, k: torch.Tensor) -> Own:
    embedding = case.module.RoFormerSinusoidalPositionalEmbedding(max(POSITIONS) + 1, q.shape[-1])
    rows = embedding.create_weight()[torch.tensor(POSITIONS)]
    sin, cos = rows.chunk(2, dim=-1)
    attention = case.module.RoFormerSelfAttention
    turned = attention.apply_rotary_position_embeddings(rows[None, None], q, k)
    return Own(_angles_of_one(sin[1], cos[1]), array(cos), array(sin), *map(array, turned))


def _angles_of_one(sin: torch.Tensor, cos: torch.Tensor) -> np.ndarray:
    """Frequencies of a table that keeps none: the angles of position 1."""
    return np.arctan2(array(sin), array(cos))


def _conformer(case: Case, config: PreTrainedConfig, q: torch.Tensor, k: torch.Tensor) -> Own:
    rotary = getattr(case.module, case.name)(config)
    size, count = q.shape[-1], len(POSITIONS)
    tables = rotary(torch.zeros(1, max(POSITIONS) + 1, 1))[:, list(POSITIONS)]
    attention = next(kind for kind in vars(case.module).values() if hasattr(kind, "_apply_rotary_embedding"))
    turned = []
    for part in (q, k):
        heads = part.shape[1]
        flat = part.transpose(1, 2).reshape(1, count, heads * size)
        x = attention._apply_rotary_embedding(SimpleNamespace(num_heads=heads, head_size=size), flat, tables)
        turned.append(array(x.view(1, count, heads, size).transpose(1, 2)))
    cos, sin = (_once(array(part).reshape(count, size), size // 2) for part in tables)
    return Own(array(rotary.inv_freq), cos, sin, *turned)


def _clvp(case: Case, config: PreTrainedConfig, q: torch.Tensor, k: torch.Tensor) -> Own:
    rotary = getattr(case.module, case.name)(config)
    angles = rotary(torch.zeros(1, max(POSITIONS) + 1, 1))[0]
    pairs, positions = rotary.inv_freq.numel(), torch.tensor(POSITIONS)
    width = 2 * pairs
    ids = positions[None]
    a, b, _ = case.module.apply_rotary_pos_emb(
        q[..., :width], k[..., :width], k[..., :width], angles.cos(), angles.sin(), ids
    )
    turned = (torch.cat([t, x[..., width:]], -1) for t, x in zip((a, b), (q, k), strict=True))
    chosen = angles[positions][:, :pairs]
    return Own(array(rotary.inv_freq), array(chosen.cos()), array(chosen.sin()), *map(array, turned))


# Comparison


def frequency_bounds(spec: Rope) -> np.ndarray:
    """What float32 may err by, relative, pair by pair."""
    dim, base, scaling = 2 * spec.pairs, spec.base, spec.scaling
    frequencies = np.array(spec.frequencies())
    plain = np.array([base ** (-2 * j / dim) for j in range(spec.pairs)])
    own_base = base if scaling is None or not frequencies[-1] else max(base, frequencies[-1] ** (-dim / (dim - 2 or 1)))
    bounds = np.full(spec.pairs, (2 + math.log(own_base) / 2) * ULP)
    if scaling is None:
        return bounds
    bounds += 3 * ULP
    ratio = np.divide(plain, frequencies, out=np.zeros_like(plain), where=frequencies > 0)
    if isinstance(scaling, Yarn):  # the weight of the blend has three roundings
        bounds += 3 * ULP * ratio
    if isinstance(scaling, Llama3):  # and here the error of a frequency besides
        band = scaling.high_freq_factor / (scaling.high_freq_factor - scaling.low_freq_factor)
        bounds += band * (4 + math.log(base) / 2) * ULP * ratio
    return bounds


def compare(spec: Rope, its: Own, q: np.ndarray, k: np.ndarray) -> Agreement:
    ours, bounds = np.array(spec.frequencies()), frequency_bounds(spec)
    sign = -1 if spec.direction == "negative" else 1
    moving = ours > 0
    if its.frequencies.shape != ours.shape or (its.frequencies[~moving] != 0).any():
        return Agreement(math.inf, math.inf, math.inf, math.inf, math.inf)
    relative = np.abs(its.frequencies[moving] / ours[moving] - 1)
    positions = np.array(POSITIONS)
    made = table(spec, positions, dtype="float64")
    magnitude = spec.magnitude
    wave = magnitude * (positions[:, None] * ours * (bounds + ULP) + 4 * ULP)
    parts = [np.abs(its.cos - made.cos) / wave]
    parts.append(np.abs(sign * its.sin - made.sin) / wave)
    worst, worst_part = 0.0, 0.0
    for x, turned in ((q, its.q), (k, its.k)):
        expected = rotate(spec, x.astype(np.float64), made, head_axis=1)
        allowed = _allowed(spec, x, wave + 4 * ULP * magnitude)
        difference = np.abs(turned - expected)
        worst = max(worst, float(difference.max()))
        part = np.divide(difference, allowed, out=np.where(difference > 0, np.inf, 0.0), where=allowed > 0)
        worst_part = max(worst_part, float(part.max()))
    return Agreement(
        float(relative.max()),
        float((relative / bounds[moving]).max()),
        float(max(part.max() for part in parts)),
        worst,
        worst_part,
    )


def _allowed(spec: Rope, x: np.ndarray, each: np.ndarray) -> np.ndarray:
    """The bound of every rotated value; 0 in channels that do not turn."""
    plan = spec.rotation()
    block = np.abs(x[..., plan.start : plan.start + 2 * plan.pairs].astype(np.float64))
    u, v = _pair(block, plan.reads)
    allowed = np.zeros(x.shape)
    target = allowed[..., plan.start : plan.start + 2 * plan.pairs]
    for part in _pair(target, plan.writes):
        part[...] = (u + v) * each
    return allowed


def _pair(x: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    half = x.shape[-1] // 2
    return (x[..., :half], x[..., half:]) if layout == "half" else (x[..., ::2], x[..., 1::2])


def checked(
    case: Case, config: PreTrainedConfig, said: dict[str, Any], label: str | None
) -> tuple[Rope, Agreement] | None:
    """posenc and transformers, from one configuration; None: no rotation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layout = None if said.get("model_type") else "half"
        spec = from_config(said, layer_type=label, layout=layout)
    if spec is None:
        return None
    spec = spec.at_length(max(POSITIONS) + 1)
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((1, n, len(POSITIONS), spec.head_dim), np.float32) for n in (HEADS, 1))
    return spec, compare(spec, own(case, _of_layer(config, said, label), label, q, k), q, k)


def _of_layer(config: PreTrainedConfig, said: dict[str, Any], label: str | None) -> PreTrainedConfig:
    """Where models hold one rotary embedding for each base: the configuration with that base."""
    if label is None or not label.startswith("layer_rope_theta="):
        return config
    theta = float(label.partition("=")[2])
    return type(config)(**{**said, "rope_parameters": {**said["rope_parameters"], "rope_theta": theta}})
