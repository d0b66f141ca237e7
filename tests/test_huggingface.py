"""Configurations of transformers, read: their shapes, their layers, what may surprise; nothing else is raised."""

from __future__ import annotations

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

from posenc import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Rope, SpecError, Yarn
from posenc.interop.huggingface import (
    DefaultAssumed,
    LeftToTheModel,
    MeaningChanged,
    from_config,
    layer_types,
)
from posenc.interop.huggingface_families import FAMILIES, GLOBAL_HEAD_DIM, HEAD_DIM, ORIGINAL_LENGTH, ROTARY_HEAD
from tests.configs import GEMMA3, LISTS, LLAMA, LLAMA3, MSCALE, SIZES, YARN, llama, scaled

pytestmark = pytest.mark.filterwarnings("ignore::posenc.interop.huggingface_notices.ConfigWarning")

PLAIN = Rope(128, 5e5, "half")


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
