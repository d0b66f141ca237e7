"""Published rotary embeddings, and of each the specification that its own documentation says it implements."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from posenc import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Rope, Yarn
from posenc.numpy_impl import table

DIM = 128
Array = np.ndarray
Made = tuple[Callable[[Array], Any], Any]
"""What turns `(heads, length, DIM)` at positions 0, 1, ..., and its frequencies, or None where it keeps none."""


class Peer(NamedTuple):
    """A published implementation and the specification that it is documented to follow."""

    package: str
    name: str
    spec: Rope
    make: Callable[[int], Made]
    """Of a length: what the package makes."""
    entry: str = ""
    """How the entry of docs/differences.md on it begins, where it differs."""
    exponential: bool = False
    """Whether its frequencies are exp(-j ln(base) / n) rather than powers of the base."""


def keras_hub(kind: str = "RotaryEmbedding", **options: Any) -> Callable[[int], Made]:
    def make(_: int) -> Made:
        from keras_hub.layers import RotaryEmbedding
        from keras_hub.src.models.llama.llama_rotary_embedding import LlamaRotaryEmbedding
        from keras_hub.src.models.phi3.phi3_rotary_embedding import Phi3SuScaledRotaryEmbedding

        kinds = (RotaryEmbedding, LlamaRotaryEmbedding, Phi3SuScaledRotaryEmbedding)
        layer = {cls.__name__: cls for cls in kinds}[kind](**options)
        kept = layer._get_inverse_freq(DIM) if kind != "Phi3SuScaledRotaryEmbedding" else None
        return lambda q: layer(q[:, :, None])[:, :, 0], kept

    return make


def litgpt(*, interleave: bool = False, **options: Any) -> Callable[[int], Made]:
    def make(length: int) -> Made:
        from litgpt.model import apply_rope, apply_rope_interleave, build_rope_cache

        cos, sin = (part[None] for part in build_rope_cache(length, DIM, **options))
        turn = apply_rope_interleave if interleave else apply_rope
        return lambda q: turn(torch.from_numpy(q)[None], cos, sin)[0], None

    return make


def rotary_embedding_torch(**options: Any) -> Callable[[int], Made]:
    def make(length: int) -> Made:
        from rotary_embedding_torch import RotaryEmbedding

        module = RotaryEmbedding(DIM, cache_max_seq_len=length, **options)
        return lambda q: module.rotate_queries_or_keys(torch.from_numpy(q)), module.freqs / module.interpolate_factor

    return make


def x_transformers(width: int = DIM, **options: Any) -> Callable[[int], Made]:
    def make(length: int) -> Made:
        from x_transformers.x_transformers import RotaryEmbedding, apply_rotary_pos_emb

        module = RotaryEmbedding(width, **options)
        angles, _ = module(torch.arange(length))
        kept = module.inv_freq / module.interpolation_factor
        return lambda q: apply_rotary_pos_emb(torch.from_numpy(q)[None], angles)[0], kept

    return make


def diffusers(*, half: bool = False, real: bool = True, **options: Any) -> Callable[[int], Made]:
    def make(length: int) -> Made:
        from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed

        made = get_1d_rotary_pos_embed(DIM, length, use_real=real, repeat_interleave_real=not half, **options)
        if real:
            axis = -2 if half else -1
            return lambda q: apply_rotary_emb(torch.from_numpy(q)[None], made, use_real_unbind_dim=axis)[0], None
        return lambda q: apply_rotary_emb(torch.from_numpy(q.swapaxes(0, 1))[None], made[None], False)[0].swapaxes(
            0, 1
        ), None

    return make


def equinox(theta: float) -> Callable[[int], Made]:
    def make(_: int) -> Made:
        import jax
        from equinox.nn import RotaryPositionalEmbedding

        return jax.vmap(RotaryPositionalEmbedding(DIM, theta=theta)), None

    return make


def torchtune(where: str, name: str, **options: Any) -> Callable[[int], Made]:
    def make(length: int) -> Made:
        module = getattr(importlib.import_module(f"torchtune.{where}"), name)(DIM, max_seq_len=length, **options)
        return lambda q: module(torch.from_numpy(q.swapaxes(0, 1))[None])[0].swapaxes(0, 1), module.theta

    return make


def curated(fraction: float = 1.0) -> Callable[[int], Made]:
    def make(_: int) -> Made:
        from curated_transformers.layers.embeddings import QueryKeyRotaryEmbeddings

        module = QueryKeyRotaryEmbeddings(fraction=fraction, head_width=DIM)

        def turn(q: Array) -> Any:
            tensor = torch.from_numpy(q)[None]
            return module(query=tensor, key=tensor)[0][0]

        return turn, module.rotary_embeds.theta

    return make


def onnx(spec: Rope, **attributes: int) -> Callable[[int], Made]:
    """The reference evaluator of ai.onnx RotaryEmbedding-23. The caller brings the table: here it is posenc's."""

    def make(length: int) -> Made:
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        node = helper.make_node("RotaryEmbedding", ["x", "cos", "sin", "ids"], ["y"], **attributes)
        kinds = {"x": TensorProto.FLOAT, "cos": TensorProto.FLOAT, "sin": TensorProto.FLOAT, "ids": TensorProto.INT64}
        inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph([node], "rotary", inputs, outputs)
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))
        cos, sin = table(spec, range(length))
        feed = {"cos": cos, "sin": sin, "ids": np.arange(length)[None]}
        return lambda q: evaluator.run(None, {"x": q[None], **feed})[0][0], None

    return make


def mlx(name: str, **options: Any) -> Callable[[int], Made]:
    def make(_: int) -> Made:
        import mlx.core
        import mlx.nn
        from mlx_lm.models import rope_utils

        layer = getattr(mlx.nn if name == "RoPE" else rope_utils, name)(DIM, **options)
        periods = layer.get("_freqs")
        with np.errstate(divide="ignore"):
            kept = None if periods is None else 1 / np.asarray(periods)
        return lambda q: layer(mlx.core.array(q)[None])[0], kept

    return make


def rope(base: float = 10000.0, layout: str = "half", **options: Any) -> Rope:
    return Rope(DIM, base, layout, **options)  # type: ignore[arg-type]


I = "interleaved"  # noqa: E741
HALF, INTERLEAVED = rope(), rope(layout=I)
LLAMA3 = Llama3(8, original_length=8192, low_freq_factor=1, high_freq_factor=4)
YARN = Yarn(16, original_length=4096)
GPT_OSS = rope(150000.0, scaling=Yarn(32, original_length=4096, truncate=False))
SHORT, LONG = [1 + pair / 64 for pair in range(64)], [1 + pair / 2 for pair in range(64)]


def longrope(original_length: int) -> Rope:
    return rope(scaling=LongRope(tuple(SHORT), tuple(LONG), original_length=original_length, extended_length=2**17))


SU_KERAS = {"inverese_freq_short_factor": SHORT, "inverese_freq_long_factor": LONG, "max_sequence_length": 2**17}
SU_MLX = {"short_factor": SHORT, "long_factor": LONG, "max_position_embeddings": 2**17}
TUNE_3 = ("models.llama3_1", "Llama3ScaledRoPE")
LITGPT_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192}
LITGPT_YARN = {"factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_seq_len": 4096, "mscale": 1.0}
KERAS_3 = {
    "frequency_adjustment_factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "pretraining_sequence_length": 8192,
}
MLX_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

PEERS = [
    Peer("keras-hub", "RotaryEmbedding", HALF, keras_hub()),
    Peer("keras-hub", "linear, 4", rope(scaling=Linear(4)), keras_hub(scaling_factor=4.0)),
    Peer(
        "keras-hub",
        "dynamic, 4",
        rope(scaling=Ntk(4)),
        keras_hub(rope_type="dynamic", scaling_factor=4.0),
        "keras-hub: dynamic",
    ),
    Peer("keras-hub", "yarn, 16", rope(scaling=YARN), keras_hub(rope_type="yarn", scaling_factor=16.0)),
    Peer(
        "keras-hub",
        "yarn of gpt-oss",
        GPT_OSS,
        keras_hub(max_wavelength=150000, rope_type="yarn", scaling_factor=32.0, truncate=False),
    ),
    Peer(
        "keras-hub",
        "Llama 3.1",
        rope(500000.0, scaling=LLAMA3),
        keras_hub("LlamaRotaryEmbedding", max_wavelength=500000, **KERAS_3),
    ),
    Peer(
        "keras-hub",
        "Llama, position_scaling_factor 4",
        rope(scaling=Linear(4)),
        keras_hub("LlamaRotaryEmbedding", position_scaling_factor=4.0),
        "keras-hub: position_scaling_factor",
    ),
    Peer(
        "keras-hub",
        "Phi-3 su, short list",
        longrope(2**16),
        keras_hub("Phi3SuScaledRotaryEmbedding", pretraining_sequence_length=2**16, **SU_KERAS),
    ),
    Peer(
        "keras-hub",
        "Phi-3 su, long list",
        longrope(2**8),
        keras_hub("Phi3SuScaledRotaryEmbedding", pretraining_sequence_length=2**8, **SU_KERAS),
    ),
    Peer("litgpt", "build_rope_cache", HALF, litgpt()),
    Peer("litgpt", "rope_interleave", rope(layout="interleaved_to_half"), litgpt(interleave=True)),
    Peer("litgpt", "condense_ratio 4", rope(scaling=Linear(4)), litgpt(condense_ratio=4)),
    Peer("litgpt", "factor 8", rope(1e6, scaling=Linear(8)), litgpt(base=1000000, extra_config={"factor": 8.0})),
    Peer("litgpt", "Llama 3.1", rope(500000.0, scaling=LLAMA3), litgpt(base=500000, extra_config=LITGPT_3)),
    Peer("litgpt", "YaRN, 16", rope(scaling=YARN), litgpt(extra_config=LITGPT_YARN), "litgpt: YaRN interpolates"),
    Peer("rotary-embedding-torch", "RotaryEmbedding", INTERLEAVED, rotary_embedding_torch()),
    Peer(
        "rotary-embedding-torch",
        "interpolate_factor 4",
        rope(layout=I, scaling=Linear(4)),
        rotary_embedding_torch(interpolate_factor=4.0),
    ),
    Peer(
        "rotary-embedding-torch",
        "theta_rescale_factor 4",
        rope(layout=I, scaling=Ntk(4)),
        rotary_embedding_torch(theta_rescale_factor=4.0),
    ),
    Peer("x-transformers", "RotaryEmbedding", INTERLEAVED, x_transformers()),
    Peer("x-transformers", "first 32 channels", rope(layout=I, rotary_dim=32), x_transformers(32)),
    Peer(
        "x-transformers",
        "interpolation_factor 4",
        rope(layout=I, scaling=Linear(4)),
        x_transformers(interpolation_factor=4.0),
    ),
    Peer(
        "x-transformers",
        "base_rescale_factor 4",
        rope(layout=I, scaling=Ntk(4)),
        x_transformers(base_rescale_factor=4.0),
    ),
    Peer("diffusers", "interleaved", INTERLEAVED, diffusers()),
    Peer("diffusers", "half", HALF, diffusers(half=True)),
    Peer("diffusers", "complex", INTERLEAVED, diffusers(real=False)),
    Peer("diffusers", "frequencies in float64", INTERLEAVED, diffusers(freqs_dtype=torch.float64)),
    Peer("diffusers", "linear_factor 4", rope(layout=I, scaling=Linear(4)), diffusers(linear_factor=4.0)),
    Peer(
        "diffusers", "ntk_factor 4", rope(layout=I, scaling=Ntk(4)), diffusers(ntk_factor=4.0), "diffusers: ntk_factor"
    ),
    Peer("equinox", "RotaryPositionalEmbedding", HALF, equinox(10000.0)),
    Peer("equinox", "theta 500000 after 10000", rope(500000.0), equinox(500000.0), "equinox: theta"),
    Peer("torchtune", "RotaryPositionalEmbeddings", INTERLEAVED, torchtune("modules", "RotaryPositionalEmbeddings")),
    Peer("torchtune", "Llama 3.1", rope(500000.0, I, scaling=LLAMA3), torchtune(*TUNE_3, base=500000)),
    Peer("torchtune", "Phi-3", HALF, torchtune("models.phi3", "Phi3RotaryPositionalEmbeddings")),
    Peer("torchtune", "Qwen2", rope(1e6), torchtune("models.qwen2", "Qwen2RotaryPositionalEmbeddings")),
    Peer("curated-transformers", "QueryKeyRotaryEmbeddings", HALF, curated()),
    Peer("curated-transformers", "fraction 0.25", rope(rotary_dim=32), curated(0.25)),
    Peer("onnx", "RotaryEmbedding-23", HALF, onnx(HALF)),
    Peer("onnx", "interleaved", INTERLEAVED, onnx(INTERLEAVED, interleaved=1)),
    Peer("onnx", "rotary_embedding_dim 32", rope(rotary_dim=32), onnx(rope(rotary_dim=32), rotary_embedding_dim=32)),
    Peer("mlx", "RoPE", HALF, mlx("RoPE"), exponential=True),
    Peer("mlx", "RoPE, traditional", INTERLEAVED, mlx("RoPE", traditional=True), exponential=True),
    Peer("mlx", "RoPE, scale 1/4", rope(scaling=Linear(4)), mlx("RoPE", scale=0.25), exponential=True),
    Peer("mlx-lm", "Llama 3.1", rope(500000.0, scaling=LLAMA3), mlx("Llama3RoPE", base=500000.0, scaling_config=MLX_3)),
    Peer("mlx-lm", "YaRN, 16", rope(scaling=YARN), mlx("YarnRoPE", scaling_factor=16.0)),
    Peer(
        "mlx-lm",
        "dynamic, 4",
        rope(scaling=DynamicNtk(4, original_length=4096)),
        mlx("DynamicNTKScalingRoPE", max_position_embeddings=4096, traditional=False, base=10000.0, factor=4.0),
        exponential=True,
    ),
    Peer(
        "mlx-lm",
        "proportional",
        rope(1e6, scaling=Proportional(0.25)),
        mlx("ProportionalRoPE", rotated_dims=32, base=1e6),
    ),
    Peer(
        "mlx-lm", "su, long list", longrope(2**8), mlx("SuScaledRoPE", original_max_position_embeddings=2**8, **SU_MLX)
    ),
    Peer(
        "mlx-lm",
        "su, short list",
        longrope(2**16),
        mlx("SuScaledRoPE", original_max_position_embeddings=2**16, **SU_MLX),
        "mlx-lm: short_factor",
    ),
]
