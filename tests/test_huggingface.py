"""Configurations of transformers: against its own code for families with different rules, and by shape without it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import posenc
from posenc import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Rope, SpecError, Yarn, YarnPaper
from posenc.interop.huggingface import (
    DefaultAssumed,
    LeftToTheModel,
    MeaningChanged,
    from_config,
    layer_types,
    to_config,
)
from posenc.interop.huggingface_families import FAMILIES, GLOBAL_HEAD_DIM, HEAD_DIM, ORIGINAL_LENGTH, ROTARY_HEAD

pytestmark = pytest.mark.filterwarnings("ignore::posenc.interop.huggingface_notices.ConfigWarning")

SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 8192}
LISTS = {"short_factor": [1 + j / 8 for j in range(32)], "long_factor": [2 + j for j in range(32)]}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 1024,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
MSCALE = {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}

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


# By shape, without transformers

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 131072}
PLAIN = Rope(128, 5e5, "half")


def llama(**keys):
    return {**LLAMA, "rope_theta": 5e5, **keys}


def scaled(**keys):
    return llama(rope_scaling=keys)


def test_no_transformers_is_imported():
    code = "import sys, posenc.interop.huggingface; print({'transformers', 'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "config",
    [
        llama(),
        llama(rope_scaling=None),
        llama(rope_scaling={"rope_type": "default"}),
        llama(rope_parameters={}),
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500000}},
        llama(rope_parameters={"rope_theta": 5e5}, rope_scaling={"rope_theta": 5e5}),
        llama(head_dim=128, hidden_size=5120),
        llama(head_dim=None),
        {"model_type": "llava", "text_config": llama()},
        SimpleNamespace(to_dict=llama),
    ],
)
def test_shapes_that_say_the_same(config):
    assert from_config(config) == PLAIN


def test_files_and_directories(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(llama(time_step_limit=[0.0, float("inf")])))
    for place in (path, str(path), tmp_path):
        assert from_config(place) == PLAIN
    path.write_text('{"rope_theta": 1, "rope_theta": 2}')
    with pytest.raises(SpecError, match=r"^from_config.rope_theta: expected the key once, received it twice$"):
        from_config(path)
    path.write_text("{")
    with pytest.raises(SpecError, match=r"^from_config: expected JSON in config.json, received "):
        from_config(path)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        (scaled(type="linear", factor=4), Linear(4.0)),
        (scaled(type="linear", rope_type="linear", factor=4.0), Linear(4.0)),
        (scaled(rope_type="dynamic", factor=2.0), DynamicNtk(2.0, original_length=131072)),
        (
            llama(
                rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
                max_position_embeddings=40960,
            ),
            Yarn(4.0, original_length=32768),  # the declared factor, and not 40960 / 32768
        ),
        (
            scaled(**{**MSCALE, "rope_theta": 5e5}),
            Yarn(
                40.0, original_length=2048, mscale=0.707, mscale_all_dim=1.0, magnitude_rule="transformers"
            ),  # no scale_softmax: not in this model
        ),
        (scaled(**LLAMA3), Llama3(8.0, original_length=1024, low_freq_factor=1.0, high_freq_factor=4.0)),
        (scaled(rope_type="proportional", partial_rotary_factor=0.25), Proportional(0.25)),
        (
            scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768, beta_fast=0),
            Yarn(4.0, original_length=32768),
        ),
    ],
)
def test_scalings(config, scaling):
    spec = from_config(config)
    assert (spec.scaling, spec.base) == (scaling, 5e5)


@pytest.mark.parametrize(
    ("config", "label", "expected"),
    [
        (
            {"model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 10000},
            None,
            Rope(64, 1e4, "half", rotary_dim=16),
        ),
        ({"model_type": "gptj", "rotary_dim": 16}, None, Rope(64, 1e4, "interleaved", rotary_dim=16)),
        (
            {"model_type": "minimax_m2", "rotary_dim": 32, "rope_theta": 5e6, "head_dim": 128},
            None,
            Rope(128, 5e6, "half", rotary_dim=32),
        ),
        (
            {"model_type": "modernbert", "global_rope_theta": 1.6e5, "local_rope_theta": 1e4},
            "sliding_attention",
            Rope(64, 1e4, "half"),
        ),
        (
            {"model_type": "hunyuan_v1_dense", "rope_theta": 1e4, "attention_head_dim": 128}
            | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0}},
            None,
            Rope(128, 1e4, "half", scaling=Ntk(1000.0)),
        ),
        (
            {"model_type": "gemma4_text", "head_dim": 256, "layer_types": ["full_attention", "sliding_attention"]}
            | {"per_layer_config": {"00": {"head_dim": 512}}}
            | {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            "full_attention",
            Rope(512, 1e6, "half"),
        ),
        (
            {"model_type": "mistral4", "head_dim": 192, "qk_rope_head_dim": 64, "rope_theta": 1e4}
            | {"rope_scaling": {"partial_rotary_factor": 1 / 3}},  # 192 * 0.333... is 64 as a float product alone
            None,
            Rope(64, 1e4, "interleaved_to_half"),
        ),
        ({"model_type": "dbrx", "n_heads": 4, "d_model": 512, "rope_theta": 1e4}, None, Rope(128, 1e4, "half")),
    ],
)
def test_other_names_of_the_same(config, label, expected):
    sizes = {} if "d_model" in config else {"hidden_size": 256, "num_attention_heads": 4}
    assert from_config({**sizes, **config}, layer_type=label) == expected


def test_longrope_has_its_magnitude_from_where_it_is_said():
    said = {**SIZES, "model_type": "phi3", "rope_theta": 1e4, "original_max_position_embeddings": 4096}
    lists = {"short_factors": tuple(LISTS["short_factor"]), "long_factors": tuple(LISTS["long_factor"])}
    for keys, expected in (
        ({}, {"extended_length": 8192}),
        ({"factor": 4.0}, {"factor": 4.0}),
        ({"factor": 4.0, "attention_factor": 1.5}, {"attention_factor": 1.5}),
    ):
        spec = from_config({**said, "rope_scaling": {"rope_type": "longrope", **LISTS, **keys}})
        assert spec.scaling == LongRope(**lists, original_length=4096, **expected)
        with pytest.raises(SpecError, match=r"^Rope.length: "):
            spec.frequencies()
        assert spec.at_length(4097).frequencies()[0] == 1 / LISTS["long_factor"][0]


GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}


def test_layer_types_have_their_own_base_and_scaling():
    assert layer_types(GEMMA3) == ("full_attention", "sliding_attention")
    assert layer_types({**GEMMA3, "layer_types": ["sliding_attention", "full_attention"]}) == (
        "sliding_attention",
        "full_attention",
    )
    assert from_config(GEMMA3, layer_type="full_attention") == Rope(64, 1e6, "half", scaling=Linear(8.0))
    assert from_config(GEMMA3, layer_type="sliding_attention") == Rope(64, 1e4, "half")
    sentence = r"^from_config.layer_type: expected 'full_attention' or 'sliding_attention', received "
    for label in (None, "global"):
        with pytest.raises(SpecError, match=sentence):
            from_config(GEMMA3, layer_type=label)
    with pytest.raises(SpecError, match=r"^from_config.layer_type: expected None: all layers have one rotation"):
        from_config(llama(), layer_type="full_attention")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**LLAMA, "model_type": "cohere2", "rope_theta": 1e4}, {"sliding_attention": True, "full_attention": False}),
        ({**LLAMA, "model_type": "smollm3", "rope_theta": 1e4, "no_rope_layers": [1, 0]}, {"no_rope_layers=1": True}),
        ({**LLAMA, "model_type": "beam", "rope_parameters": {"a": None, "b": {"rope_theta": 1e4}}}, {"a": False}),
        ({**LLAMA, "model_type": "exaone4", "rope_theta": 1e4, "sliding_window": None}, {None: True}),
        ({**LLAMA, "model_type": "falcon", "alibi": True}, {None: False}),
        ({**LLAMA, "model_type": "falcon", "alibi": False}, {None: True}),
        ({**LLAMA, "model_type": "esm", "rope_theta": 1e4}, {None: False}),
        (
            {**LLAMA, "model_type": "granitemoehybrid", "rope_theta": 1e4, "position_embedding_type": "rope"},
            {None: True},
        ),
        ({**LLAMA, "model_type": "jamba"}, {None: False}),
    ],
)
def test_layers_without_a_rotation(config, expected):
    for label, turns in expected.items():
        assert (from_config(config, layer_type=label) is not None) == turns
        assert label is None or label in layer_types(config)


def test_one_layer_type_needs_no_name():
    same = {"rope_type": "default", "rope_theta": 5e5}
    assert from_config({**LLAMA, "rope_parameters": {"full_attention": same, "sliding_attention": same}}) == PLAIN


def test_layouts_and_directions_by_model_type():
    def of(model_type, **keys):
        return from_config({**LLAMA, "model_type": model_type, "rope_theta": 1e4, **keys})

    assert of("cohere").layout == "interleaved"
    assert of("deepseek_v3", qk_rope_head_dim=64) == Rope(64, 1e4, "interleaved_to_half")
    assert of("deepseek_v3", qk_rope_head_dim=64, rope_interleave=False).layout == "half"
    assert of("nanochat").direction == "negative"
    assert from_config({**LLAMA, "model_type": "acme", "rope_theta": 1e4}, layout="interleaved").layout == "interleaved"
    assert from_config(llama(), layout="interleaved") == Rope(128, 5e5, "interleaved")  # weights were permuted
    v4 = from_config(
        {"model_type": "deepseek_v4", "head_dim": 512, "qk_rope_head_dim": 64, "rope_theta": 1e4}, layer_type="main"
    )
    assert (v4.rotary_channels, v4.rotary_dim, v4.layout) == ("last", 64, "interleaved")


def test_softmax_is_scaled_where_the_model_does_it():
    said = {**LLAMA, "qk_rope_head_dim": 64, "rope_parameters": MSCALE}
    once = 0.1 * math.log(40) + 1
    assert from_config({**said, "model_type": "deepseek_v3"}).softmax_factor == pytest.approx(once**2, rel=2.0**-50)


REFUSED = {
    "rope_scaling.rope_type: expected 'default', ": scaled(rope_type="linaer", factor=2.0),
    "rope_scaling.type: expected what rope_type says": scaled(rope_type="linear", type="yarn", factor=2.0),
    "rope_scaling: expected the keys rope_type, type, rope_theta, partial_rotary_factor, factor with rope_type 'linear'"
    ", received 'facter'": scaled(rope_type="linear", factor=2.0, facter=2.0),
    "rope_scaling: expected the keys rope_type, type, rope_theta, partial_rotary_factor with rope_type 'default', "
    "received 'facter'": scaled(facter=2.0),
    "rope_scaling.rope_type: expected it beside 'factor', received no such key": scaled(factor=2.0),
    "rope_scaling.rope_type: expected it beside 'alpha', received None": scaled(rope_type=None, alpha=2.0),
    "rope_scaling.factor: expected a finite number >= 1, received no such key": scaled(type="linear"),
    "rope_scaling.factor: expected a finite number >= 1, received None": scaled(type="linear", factor=None),
    "rope_scaling.factor: expected a finite number >= 1, received 0.5": scaled(type="linear", factor=0.5),
    "rope_scaling.factor: expected a finite number >= 1, received -8": scaled(type="dynamic", factor=-8),
    "rope_scaling.factor: expected a finite number >= 1, received '8.0'": scaled(
        **{**YARN, "rope_theta": 5e5, "factor": "8.0"}
    ),
    "rope_theta: expected a finite number > 0, received -1.0": {**llama(), "rope_theta": -1.0},
    "rope_theta: expected a finite number > 0, received '500000'": scaled(type="linear", factor=2.0)
    | {"rope_theta": "500000"},
    "rotary_emb_base: expected a finite number > 0, received '1'": {**LLAMA, "rotary_emb_base": "1"},
    "rope_parameters.rope_theta: expected a finite number > 0, received 'x'": {
        **LLAMA,
        "rope_parameters": {"rope_theta": "x"},
    },
    "rope_theta: expected base and scaling that keep every frequency": llama(rope_theta=1e30),
    "head_dim: expected an even integer >= 2, received 45": llama(head_dim=45),
    "rope_theta: expected what rope_parameters.rope_theta says, 10000.0, received 500000.0": llama(
        rope_parameters={"rope_theta": 1e4}
    ),
    "rope_scaling: expected what rope_parameters says": llama(
        rope_parameters={"rope_type": "default"}, rope_scaling={"type": "linear", "factor": 2}
    ),
    "rope_thetha: expected a key about rotation that 'llama' has": {**LLAMA, "rope_thetha": 1e4},
    "rope_scaling.mrope_section: expected one position axis": scaled(type="default", mrope_section=[16, 24, 24]),
    "rope_scaling.type: expected one position axis": scaled(type="mrope"),
    "rope_scaling.type: expected one position axis (several axes are not supported yet)": {
        **scaled(type="mrope", mrope_section=[16, 24, 24]),
        "model_type": "qwen2_vl",
    },
    "mrope_section: expected one position axis": llama(mrope_section=[16, 24, 24]),
    "use_mrope: expected one position axis": llama(use_mrope=True),
    "is_neox_style: expected a key about rotation that 'llama' has, received False": llama(is_neox_style=False),
    "no_rope_layer_interval: expected a key about rotation that 'llama' has": llama(no_rope_layer_interval=4),
    "nope_layers: expected a key about rotation that 'llama' has": llama(nope_layers=[3]),
    "position_interpolation: expected a key about rotation that 'llama' has": llama(position_interpolation=4),
    "initial_context_length: expected a key about rotation that 'llama' has": llama(initial_context_length=4096),
    "pos_emb: expected 'rope', 'rotary' or None, received 'alibi'": llama(pos_emb="alibi"),
    "initial_context_length: expected the original length of its rope parameters, 2048, received 4096": {
        **llama(initial_context_length=4096, rope_scaling={**YARN, "rope_theta": 5e5}),
        "model_type": "gpt_oss",
    },
    "rope_scaling.short_factor: expected a list of numbers, one a pair ('yarn' of phi3 is read as 'longrope', as "
    "transformers does), received no such key": {**scaled(type="yarn", factor=4.0), "model_type": "phi3"},
    "rope_scaling: expected the keys rope_type, type, rope_theta, partial_rotary_factor, short_factor, long_factor, "
    "original_max_position_embeddings, factor, attention_factor with rope_type 'longrope' ('yarn' of phi4_multimodal "
    "is read as 'longrope', as transformers does), received 'beta_fast'": {
        **scaled(type="yarn", factor=4.0, beta_fast=32),
        "model_type": "phi4_multimodal",
    },
    "model_type: expected a model of one position axis": {**llama(), "model_type": "qwen2_vl_text"},
    "model_type: expected a model whose frequencies": {**llama(), "model_type": "mistral_large4_text"},
    "partial_rotary_factor: expected 1: llama turns the whole head": llama(partial_rotary_factor=0.5),
    "rope_scaling.partial_rotary_factor: expected 1: llama turns the whole": scaled(partial_rotary_factor=0.5),
    "partial_rotary_factor: expected one for which the rotary width int(64 * fraction) is even": {
        **llama(partial_rotary_factor=0.4),
        "model_type": "phi",
        "head_dim": 64,
    },
    "rotary_pct: expected a number > 0 and <= 1, received 2": {**llama(rotary_pct=2), "model_type": "gpt_neox"},
    "hidden_size: expected a multiple of the 32 heads": llama(hidden_size=4100),
    "head_dim: expected it, or hidden_size and num_attention_heads": {"model_type": "llama", "rope_theta": 1e4},
    "layout: expected 'half' or 'interleaved', which the model_type 'acme'": {**llama(), "model_type": "acme"},
    "rope_parameters: expected a dict, or rope_scaling or rope_theta, of model_type 'bert'": {
        **LLAMA,
        "model_type": "bert",
    },
    "rope_parameters: expected a dict, or rope_scaling or rope_theta, of model_type 'gpt_oss'": {
        **LLAMA,
        "model_type": "gpt_oss",
    },
    "rope_scaling.original_max_position_embeddings: expected max_position_embeddings": scaled(
        type="dynamic", factor=2.0, original_max_position_embeddings=4096
    ),
    "rope_scaling.high_freq_factor: expected a finite number > 0, received no such key": scaled(
        **{key: value for key, value in LLAMA3.items() if key != "high_freq_factor"}
    ),
    "rope_scaling.low_freq_factor: expected a number below high_freq_factor": scaled(
        **{**LLAMA3, "low_freq_factor": 9}
    ),
    "rope_scaling.beta_fast: expected a number >= beta_slow": scaled(**{**YARN, "rope_theta": 5e5, "beta_fast": 0.5}),
    "rope_scaling: expected a dict or null, received [1]": llama(rope_scaling=[1]),
    "rope_parameters.rope_type: expected a dict or null, as for every layer type": llama(
        rope_parameters={"rope_type": "default", "full_attention": {}}
    ),
    "text_config.rope_theta: expected a finite number > 0, received 'x'": {"text_config": llama(rope_theta="x")},
    "rope_theta: expected it in text_config": {"rope_theta": 1e4, "text_config": llama()},
    "rope_theta: expected that of a layer type": llama(rope_parameters={"full_attention": {"rope_theta": 1e4}}),
    "position_embedding_type: expected 'rope', 'rotary' or None, received 'absolute'": llama(
        position_embedding_type="absolute"
    ),
    "alibi: expected False or True, received 'no'": {**LLAMA, "model_type": "falcon", "alibi": "no"},
    "rotary_dim: expected an even integer >= 2, received no such key": {**LLAMA, "model_type": "gptj"},
    "rope_theta: expected 10000, which gptj has in its code": {
        **llama(rotary_dim=64),
        "model_type": "gptj",
    },
    "rope_parameters: expected a dict of one dict for each layer type": {**llama(), "model_type": "laguna"},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(sentence):
    with pytest.raises(SpecError) as caught:
        from_config(REFUSED[sentence])
    assert str(caught.value).startswith(f"from_config.{sentence}") or "text_config" in sentence
    assert sentence.removeprefix("text_config.") in str(caught.value)


def test_a_base_is_named_by_the_key_that_says_it():
    with pytest.raises(SpecError, match=r"^from_config.rope_local_base_freq: expected a finite number > 0"):
        from_config({**GEMMA3, "rope_local_base_freq": "1"}, layer_type="sliding_attention")
    unknown = {**LLAMA, "model_type": "acme"}
    for rules, where in (
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_theta"),
        ({"rope_parameters": {"type": "linear", "factor": 2.0}}, "rope_parameters.rope_theta"),
        ({"rope_parameters": {"a": {"rope_type": "default"}}}, "rope_parameters.a.rope_theta"),
    ):
        sentence = rf"^from_config.{where}: expected a finite number > 0, received no such key$"
        with pytest.raises(SpecError, match=sentence):
            from_config({**unknown, **rules}, layout="half")


@pytest.mark.parametrize("name", ["short_factor", "long_factor"])
def test_a_wrong_number_of_factors_is_refused(name):
    said = {**SIZES, "model_type": "phi3", "rope_theta": 1e4}
    lists = {**LISTS, name: LISTS[name][:-1]}
    with pytest.raises(
        SpecError, match=rf"^from_config.rope_scaling.{name}: expected one number a pair, 32, received 31"
    ):
        from_config(
            {
                **said,
                "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096, "factor": 2, **lists},
            }
        )


class Model:
    """Of the form of a torch module with a configuration: printed over several lines."""

    config = SimpleNamespace(to_dict=llama)

    def __repr__(self):
        return "Model(\n  (layers)\n)"


class Configuration:
    def to_dict(self):
        return llama()


NO_CONFIGURATION = {
    "expected a dict, a configuration object, a JSON file or a directory that holds config.json, received ": {
        "3": 3,
        "None": None,
        "[('rope_theta', 10000.0)]": [("rope_theta", 1e4)],
        "Model (hand over its .config)": Model(),
        "the class Configuration, and not an object of it": Configuration,
    },
    "expected a file or folder on this machine (a hub name is not looked up), received ": {
        "'org/name'": "org/name",
        "'no\\x00name'": "no\0name",
        repr(Path("no/such/place")): Path("no/such/place"),
        repr(json.dumps(llama()))[:12]: json.dumps(llama()),
        "'{": "{" * 5000,
    },
}


@pytest.mark.parametrize(
    ("sentence", "received", "config"),
    [
        (sentence, received, config)
        for sentence, cases in NO_CONFIGURATION.items()
        for received, config in cases.items()
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(sentence, received, config):
    with pytest.raises(SpecError) as caught:
        from_config(config)
    assert str(caught.value).startswith(f"from_config: {sentence}{received}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"^from_config: expected a file or folder on this machine"):
        from_config(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "rope_theta": 1e4},
        {"text_config": {"model_type": "laguna", "hidden_size": 2048}},
        {"model_type": "gpt_oss", "head_dim": 64},
        {"model_type": "gptj", "n_embd": 256, "n_head": 4},
        {"model_type": "llama", "head_dim": 64, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"model_type": "deepseek_v3", "rope_theta": 1e4, "hidden_size": 7168, "num_attention_heads": 128},
    ],
)
def test_an_absent_key_without_a_known_default_has_a_remedy(config):
    with pytest.raises(
        SpecError, match=r" \(the configuration object of transformers has the default: hand that over\)$"
    ):
        from_config(config)


def test_head_sizes_that_a_file_leaves_out_are_those_of_the_classes_of_transformers():
    known = {kind.model_type: kind for kind in configuration_classes()}
    for name in FAMILIES:
        default = getattr(known[name], "head_dim", None)
        if name not in ROTARY_HEAD:
            assert HEAD_DIM.get(name) == (default if isinstance(default, int) else None), name
    for name in GLOBAL_HEAD_DIM:
        assert 512 in {entry.get("head_dim") for entry in known[name]().to_dict()["per_layer_config"].values()}
    for name, kind in known.items():
        assert ORIGINAL_LENGTH.get(name) == getattr(kind, "original_max_position_embeddings", None), name


def configuration_classes():
    """Of every family that is known here."""
    import transformers

    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/configuration_*.py")):
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for kind in vars(module).values():
            if getattr(kind, "__module__", None) == module.__name__ and getattr(kind, "model_type", None) in FAMILIES:
                yield kind


def test_a_head_size_that_gemma_leaves_out_is_no_quotient():
    said = {key: value for key, value in GEMMA3.items() if key != "head_dim"}
    for sizes in ({}, {"hidden_size": 3840, "num_attention_heads": 16}):  # 240
        text = {"model_type": "gemma3", "text_config": {**said, **sizes}}
        with pytest.warns(DefaultAssumed, match=r"^from_config.text_config.head_dim: absent; .* is taken, 256$"):
            assert from_config(text, layer_type="sliding_attention") == Rope(256, 1e4, "half")
    nested = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    gemma4 = {"model_type": "gemma4_text", "rope_parameters": nested}
    assert from_config(gemma4, layer_type="sliding_attention") == Rope(256, 1e4, "half")
    with pytest.warns(DefaultAssumed, match=r"^from_config.global_head_dim: absent; .* is taken, 512$"):
        assert from_config(gemma4, layer_type="full_attention") == Rope(512, 1e6, "half")


@pytest.mark.parametrize("model_type", ["phi3", "phi4_multimodal"])
def test_phi_was_trained_for_4096_positions_where_nothing_else_is_said(model_type):
    rules = {"type": "longrope", "attention_factor": 1.5, **LISTS}
    said = {**SIZES, "model_type": model_type, "rope_theta": 1e4, "max_position_embeddings": 131072}
    with pytest.warns(DefaultAssumed, match=r"^from_config.original_max_position_embeddings: absent; .* taken, 4096$"):
        assert from_config({**said, "rope_scaling": rules}).scaling.original_length == 4096
    rules["original_max_position_embeddings"] = 2048
    with pytest.warns(MeaningChanged, match=r"embeddings: 2048 is taken, as it is said; transformers takes 4096$"):
        assert from_config({**said, "rope_scaling": rules}).scaling.original_length == 2048


def test_a_warning_is_of_the_line_that_called():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # once for each line
        from_config(LLAMA)
        from_config(LLAMA)
    assert [Path(item.filename).name for item in caught] == [Path(__file__).name] * 2
    assert caught[0].lineno + 1 == caught[1].lineno


@pytest.mark.parametrize(
    "config",
    [
        llama(use_mrope=False, pos_emb="rope"),
        {**llama(no_rope_layers=[1], no_rope_layer_interval=4), "model_type": "smollm3"},
        {
            **llama(initial_context_length=2048, rope_scaling={**YARN, "rope_theta": 5e5}, head_dim=128),
            "model_type": "gpt_oss",
        },
    ],
)
def test_what_a_family_reads_and_what_is_so_anyhow_is_no_reason_to_refuse(config):
    assert from_config(config).base == 5e5


def test_every_entry_of_layer_types_may_be_said_where_all_are_alike():
    listed = ["full_attention", "sliding_attention", "conv"]
    for config in (
        llama(layer_types=listed),
        {**llama(no_rope_layers=[1], layer_types=listed), "model_type": "smollm3"},
    ):
        assert [from_config(config, layer_type=name) for name in listed] == [PLAIN, PLAIN, None]
        with pytest.raises(SpecError, match=r"^from_config.layer_type: expected "):
            from_config(config, layer_type="chunked_attention")
    two = {**llama(no_rope_layers=[1, 0], layer_types=listed), "model_type": "smollm3"}
    with pytest.raises(SpecError, match=r"^from_config.layer_type: expected 'no_rope_layers=1' or 'no_rope_layers=0'"):
        from_config(two, layer_type="full_attention")


SU = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64}


@pytest.mark.filterwarnings("default::posenc.interop.huggingface_notices.ConfigWarning")
@pytest.mark.parametrize(
    ("config", "kind", "match"),
    [
        (LLAMA, DefaultAssumed, "rope_theta: absent; the default of transformers for llama is taken, 10000"),
        ({**LLAMA, "model_type": "cohere"}, DefaultAssumed, "taken, 500000"),
        ({**llama(), "model_type": "gpt_neox"}, DefaultAssumed, "partial_rotary_factor: absent; .* taken, 0.25"),
        (scaled(**{**YARN, "rope_theta": 5e5, "beta_fast": 0}), MeaningChanged, "beta_fast: 0 is read as 32"),
        (
            llama(rope_parameters={"full_attention": {**YARN, "rope_theta": 5e5, "truncate": False}}),
            MeaningChanged,
            "truncate: read as it is said",
        ),
        (scaled(type="su", factor=2.0, original_max_position_embeddings=4096, **SU), MeaningChanged, "'su' is read as"),
        (scaled(**{**YARN, "rope_theta": 5e5, "attention_factor": 1.5}), MeaningChanged, "attention_factor: honoured"),
        (scaled(**{**MSCALE, "rope_theta": 5e5}), MeaningChanged, "mscale: honoured"),
        (
            scaled(**{**YARN, "rope_theta": 5e5, "mscale": 0.7}),
            MeaningChanged,
            "mscale: has no effect on the magnitude",
        ),
        (scaled(**{**YARN, "rope_theta": 5e5}), MeaningChanged, "factor: 4 is taken, as it is said"),
        (
            llama(original_max_position_embeddings=1024, rope_scaling={**YARN, "rope_theta": 5e5}),
            MeaningChanged,
            "original_max_position_embeddings: 1024 is taken, and not 2048",
        ),
        (
            scaled(type="longrope", original_max_position_embeddings=4096, **SU),
            MeaningChanged,
            "max_position_embeddings / original_max_position_embeddings, 131072/4096, decides the magnitude",
        ),
        (scaled(rope_type="yarn", factor=2.0), DefaultAssumed, "max_position_embeddings is taken, 131072"),
        (
            {
                **llama(rope_scaling={**YARN, "rope_theta": 5e5, "llama_4_scaling_beta": 0.1}),
                "model_type": "ministral3",
            },
            LeftToTheModel,
            "llama_4_scaling_beta: multiplies queries",
        ),
        (
            {**llama(rotary_embedding_base=5e5, position_embeddings_type="rotary"), "model_type": "wav2vec2-conformer"},
            LeftToTheModel,
            "the input of the query and key projections is turned",
        ),
    ],
)
def test_what_may_surprise_is_a_warning(config, kind, match):
    with pytest.warns(kind, match=match):
        from_config(config, layer_type="full_attention" if "full_attention" in str(config) else None)


def test_nothing_is_told_of_a_plain_configuration():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_config(scaled(**LLAMA3)).scaling is not None


# And back

FACTORS = {"short_factors": (1.0, 1.5), "long_factors": (2.0, 3.0)}
SAID = {
    "llama": [
        Rope(128, 5e5, "half"),
        Rope(128, 1e4, "half", scaling=Linear(4.0)),
        Rope(128, 1e4, "half", scaling=DynamicNtk(2.0, original_length=2048)),
        Rope(128, 1e4, "half", scaling=Yarn(4.0, original_length=2048)),
        Rope(128, 1e4, "half", scaling=Yarn(8.0, original_length=512, truncate=False, beta_fast=16.0, beta_slow=2.0)),
        Rope(
            128,
            1e4,
            "half",
            scaling=Yarn(4.0, original_length=99, attention_factor=1.25, magnitude_rule="transformers"),
        ),
        Rope(128, 5e5, "half", scaling=Llama3(8.0, original_length=99, low_freq_factor=1.0, high_freq_factor=4.0)),
        Rope(128, 5e5, "half", scaling=Proportional(0.25, 2.0)),
    ],
    "phi3": [
        Rope(4, 1e4, "half", scaling=LongRope(**FACTORS, original_length=4096, factor=32.0)),
        Rope(4, 1e4, "half", scaling=LongRope(**FACTORS, original_length=4096, extended_length=131072)),
        Rope(4, 1e4, "half", scaling=LongRope(**FACTORS, original_length=4096, attention_factor=1.19)),
        Rope(96, 1e4, "half", rotary_dim=32),
        Rope(3, 1e4, "half", rotary_dim=2),
    ],
    "phimoe": [
        Rope(4, 1e4, "half", scaling=LongRope(**FACTORS, original_length=64, short_mscale=1.125, long_mscale=1.25))
    ],
    "hunyuan_v1_dense": [Rope(128, 1e4, "half", scaling=Ntk(1000.0))],
    "nanochat": [Rope(128, 1e4, "half", direction="negative")],
    "glm": [Rope(128, 1e4, "interleaved", rotary_dim=64)],
    "deepseek_v3": [
        Rope(
            64,
            1e4,
            "interleaved_to_half",
            scaling=Yarn(
                40.0,
                original_length=4096,
                mscale=1.0,
                mscale_all_dim=1.0,
                magnitude_rule="transformers",
                scale_softmax=True,
            ),
        )
    ],
}


@pytest.mark.parametrize(("model_type", "spec"), [(name, spec) for name, specs in SAID.items() for spec in specs])
def test_to_config_is_read_back(model_type, spec):
    config = json.loads(json.dumps(to_config(spec) | {"model_type": model_type}))
    assert from_config(config) == spec


@pytest.mark.parametrize("width", range(2, 34, 2))
def test_every_width_has_a_fraction(width):
    for head_dim in (34, 96, 192, 250):
        spec = Rope(head_dim, 1e4, "half", rotary_dim=width)
        assert from_config(to_config(spec) | {"model_type": "phi"}) == spec


def test_transformers_reads_what_to_config_wrote():
    from transformers import PhiConfig
    from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

    spec = Rope(96, 5e5, "half", rotary_dim=32, scaling=Yarn(4.0, original_length=2048))
    rotary = PhiRotaryEmbedding(PhiConfig(**{**SIZES, **to_config(spec)}))
    assert rotary.inv_freq.tolist() == pytest.approx(spec.frequencies(), rel=(5 + 3 * 4 + 7) * 2**-24)
    assert rotary.attention_scaling == pytest.approx(spec.magnitude, rel=2**-50)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (Rope(8, 1e4, "half", scaling=YarnPaper(2.0, original_length=64)), "scaling"),
        (Rope(8, 1e4, "half", scaling=DynamicNtk(2.0, original_length=64)).at_length(99), "length"),
        (Rope(8, 1e4, "half", rotary_dim=4, rotary_channels="last"), "rotary_channels"),
        (Rope(8, 1e4, "half").rerotation(), "apply_magnitude"),
        (Rope(8, 1e4, "half", rotary_dim=4, scaling=Proportional(0.5)), "rotary_dim"),
        (Rope(4, 1e4, "half", scaling=LongRope(**FACTORS, original_length=64)), "scaling.factor"),
        (
            Rope(8, 1e4, "half", scaling=Yarn(2.0, original_length=64, mscale=1.0, magnitude_rule="deepseek")),
            "scaling.magnitude_rule",
        ),
        ({"rope_theta": 1e4}, None),
    ],
)
def test_to_config_names_what_it_cannot_say(spec, name):
    with pytest.raises(SpecError, match=f"^to_config.{name}: expected " if name else "^to_config: expected a Rope"):
        to_config(spec)


def test_to_config_says_how_to_leave_out_a_length():
    spec = Rope(8, 1e4, "half", scaling=DynamicNtk(2.0, original_length=64))
    with pytest.raises(SpecError, match=r"; use dataclasses.replace\(spec, length=None\), received 1$"):
        to_config(spec.at_length(5))
    assert to_config(dataclasses.replace(spec.at_length(5), length=None)) == to_config(spec)


# Whatever a dict holds

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([0, 1, 2, 64, 1e4]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
RULES = (
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "alpha": 2.0},
    MSCALE,
    {**YARN, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 1.0, "truncate": False},
    {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 64, **LISTS},
    {"rope_type": "longrope", "original_max_position_embeddings": 64, "short_mscale": 1.0, "long_mscale": 1.5, **LISTS},
    {**LLAMA3, "rope_theta": 1e4},
    {"rope_type": "proportional", "partial_rotary_factor": 0.5},
)
NAMES = ("llama", "phi3", "phimoe", "gemma3_text", "cohere2", "deepseek_v3", "deepseek_v4", "smollm3", "granite_swa")
TOP = {
    "head_dim": 64,
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 32,
    "qk_rope_head_dim": 64,
    "projection_dim": 64,
    "rope_local_base_freq": 1e4,
    "no_rope_layers": [0, 1],
    "layer_rope_theta": [0, 1e4],
    "rope_scaling_layers": [0],
    "rope_interleave": True,
    "layer_types": ["a", "b"],
    "per_layer_config": {"0": {"head_dim": 32}},
    "original_max_position_embeddings": 64,
    "position_embedding_type": "rotary",
    "text_config": {"rope_theta": 1e4},
}


@st.composite
def configs(draw):
    """One that could be, and up to three changes to it."""
    rule = dict(draw(st.sampled_from(RULES)))
    if draw(st.booleans()):
        rule[draw(st.sampled_from([*rule, "rope_theta", "factor", "mrope_section"]))] = draw(VALUES)
    shape = draw(st.sampled_from(["flat", "nested", "older"]))
    config = {
        **SIZES,
        "model_type": draw(st.sampled_from((*NAMES, "molmo2_text", "gptj", "hunyuan_v1_moe", "esm", ""))),
    }
    config["rope_scaling" if shape == "older" else "rope_parameters"] = {"a": rule} if shape == "nested" else rule
    for key in draw(st.lists(st.sampled_from([*TOP, *config]), max_size=3)):
        config[key] = draw(st.just(TOP.get(key, 64)) | VALUES)
    return config


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), VALUES, st.sampled_from([None, "half"]) | VALUES)
def test_no_dict_raises_anything_but_spec_error(config, label, layout):
    for name in (None, label):
        try:
            spec = from_config(config, layer_type=name, layout=layout)
            assert spec is None or isinstance(spec, Rope)
            assert all(isinstance(item, str) for item in layer_types(config))
        except SpecError:
            continue


@pytest.mark.parametrize(("head_dim", "fraction", "turning"), [(100, 0.58, 28), (200, 0.29, 28), (512, 0.25, 64)])
def test_pairs_of_a_proportional_rope_are_those_of_a_float_product(head_dim, fraction, turning):
    said = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": fraction}
    config = {"model_type": "gemma4_text", "global_head_dim": head_dim, "rope_parameters": {"full_attention": said}}
    assert int(fraction * head_dim // 2) == turning  # as transformers has it
    spec = from_config(config)
    assert sum(frequency > 0 for frequency in spec.frequencies()) == turning
