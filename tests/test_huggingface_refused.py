"""Configurations of transformers that cannot be honoured are refused, by the name of the key."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from posenc import SpecError
from posenc.interop.huggingface import (
    from_config,
)
from tests.configs import GEMMA3, LISTS, LLAMA, LLAMA3, SIZES, YARN, llama, scaled

pytestmark = pytest.mark.filterwarnings("ignore::posenc.interop.huggingface_notices.ConfigWarning")

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
