"""Configurations of transformers: families with different rules, against its own code."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

import posenc
from posenc import Linear
from posenc.interop.huggingface import (
    from_config,
)
from tests.configs import LISTS, LLAMA3, MSCALE, SIZES, YARN

pytestmark = pytest.mark.filterwarnings("ignore::posenc.interop.huggingface_notices.ConfigWarning")

OWN_CODE = {
    "llama": ("llama", "Llama", {}, None),
    "llama3": ("llama", "Llama", {"rope_parameters": LLAMA3}, None),
    "llama, dynamic": (
        "llama",
        "Llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            "max_position_embeddings": 2048,
        },
        None,
    ),
    "qwen2, yarn": ("qwen2", "Qwen2", {"rope_parameters": YARN}, None),
    "phi3, longrope": (
        "phi3",
        "Phi3",
        {
            "original_max_position_embeddings": 2048,
            "rope_scaling": {"type": "longrope", **LISTS},
            "rope_theta": 1e4,
            "pad_token_id": 0,
        },
        None,
    ),
    "gemma3, linear in global layers": (
        "gemma3",
        "Gemma3Text",
        {
            "head_dim": 64,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["full_attention", "sliding_attention"],
        },
        "full_attention",
    ),
    "gpt_neox, a quarter": ("gpt_neox", "GPTNeoX", {"rotary_pct": 0.25, "rotary_emb_base": 2e4}, None),
    "glm, interleaved half": ("glm", "Glm", {"head_dim": 64}, None),
    "cohere, interleaved": ("cohere", "Cohere", {"head_dim": None}, None),
    "deepseek_v3, yarn": ("deepseek_v3", "DeepseekV3", {"rope_parameters": MSCALE}, None),
    "deepseek_v3, half": ("deepseek_v3", "DeepseekV3", {"rope_interleave": False}, None),
    "deepseek_v4, the last channels": (
        "deepseek_v4",
        "DeepseekV4",
        {"rope_scaling": {**YARN, "type": "yarn"}, "compress_rope_theta": 40000.0},
        "compress",
    ),
    "gpt_oss, truncate false": ("gpt_oss", "GptOss", {"head_dim": 64}, None),
    "hunyuan, alpha": (
        "hunyuan_v1_dense",
        "HunYuanDenseV1",
        {"head_dim": 64, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1e3}},
        None,
    ),
    "gemma4, proportional": ("gemma4", "Gemma4Text", {}, "full_attention"),
    "nanochat, negative": ("nanochat", "NanoChat", {}, None),
    "mimo, a third": ("mimo_v2_flash", "MiMoV2Flash", {}, "sliding_attention"),
    "granite, a base for each layer": (
        "granite_swa",
        "GraniteSWA",
        {"layer_rope_theta": [10000.0, 0, 5e5], "num_hidden_layers": 3},
        "layer_rope_theta=500000",
    ),
    "molmo2, unscaled layers": (
        "molmo2",
        "Molmo2Text",
        {"head_dim": 64, "rope_scaling_layers": [0], "rope_parameters": YARN},
        "unscaled",
    ),
    "phimoe, its own magnitudes": (
        "phimoe",
        "Phimoe",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "original_max_position_embeddings": 4096,
                "short_mscale": 1.125,
                "long_mscale": 1.25,
                **LISTS,
            }
        },
        None,
    ),
}


@pytest.fixture(scope="module")
def tool():
    """`tools/model_rotation.py`: the models' own code, and the bounds within which it may differ."""
    path = Path(posenc.__file__).parent.parent / "tools" / "model_rotation.py"
    spec = importlib.util.spec_from_file_location("model_rotation", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_rotation"] = module
    spec.loader.exec_module(module)
    return module


def own_case(tool, name):
    family, prefix, keys, label = OWN_CODE[name]
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    configuration = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
    kind = getattr(configuration, f"{prefix}Config")
    names = [item for item in vars(modeling) if item.endswith("RotaryEmbedding") and "Vision" not in item]
    sizes = SIZES if family not in ("deepseek_v3", "deepseek_v4", "gemma4", "mimo_v2_flash") else {}
    config = kind(**{**sizes, **keys})
    return tool.Case(family, names[0], modeling, kind), config, label


@pytest.mark.parametrize("name", OWN_CODE)
def test_the_models_own_code_agrees(tool, name):
    case, config, label = own_case(tool, name)
    spec, agreement = tool.checked(case, config, config.to_dict(), label)
    assert agreement.agrees, (spec, agreement)


def test_gptj_agrees_by_its_functions(tool):
    from transformers.models.gptj import configuration_gptj, modeling_gptj

    config = configuration_gptj.GPTJConfig(n_embd=256, n_head=2, rotary_dim=64)
    case = tool.Case("gptj", "functions", modeling_gptj, None)
    spec, agreement = tool.checked(case, config, config.to_dict(), None)
    assert agreement.agrees
    assert (spec.layout, spec.head_dim, spec.rotary_dim) == ("interleaved", 128, 64)


@pytest.mark.parametrize(
    "wrong",
    [{"base": 10001.0}, {"layout": "interleaved"}, {"direction": "negative"}, {"scaling": Linear(1.001)}],
    ids=str,
)
def test_the_comparison_sees_a_wrong_specification(tool, wrong):
    case, config, _ = own_case(tool, "llama")
    spec = dataclasses.replace(from_config(config), **wrong)
    q = tool.np.random.default_rng(0).standard_normal((1, 2, len(tool.POSITIONS), spec.head_dim), "float32")
    its = tool.own(case, config, None, q, q)
    assert tool.compare(from_config(config), its, q, q).agrees
    assert not tool.compare(spec, its, q, q).agrees


def test_gpt_oss_keeps_the_ramp_as_it_is(tool):
    case, config, _ = own_case(tool, "gpt_oss, truncate false")
    spec, agreement = tool.checked(case, config, config.to_dict(), None)
    assert spec.scaling.truncate is False
    other = dataclasses.replace(spec, scaling=dataclasses.replace(spec.scaling, truncate=True))
    q = tool.np.zeros((1, 2, len(tool.POSITIONS), 64), "float32")
    assert tool.compare(other, tool.own(case, config, None, q, q), q, q).frequency > 0.1 > agreement.frequency
