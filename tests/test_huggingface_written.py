"""Specifications as configurations of transformers, and back."""

from __future__ import annotations

import dataclasses
import json

import pytest

from posenc import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Rope, SpecError, Yarn, YarnPaper
from posenc.interop.huggingface import (
    from_config,
    to_config,
)
from tests.configs import SIZES

pytestmark = pytest.mark.filterwarnings("ignore::posenc.interop.huggingface_notices.ConfigWarning")

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
