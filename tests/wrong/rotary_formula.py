"""Other rotations than the specification says: base, width, direction, and every scaling rule but YaRN misread."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np

from posenc import DynamicNtk, Llama3, LongRope, Ntk, Proportional
from tests.wrong.rotary_plain import Frequencies, PlainRotation, theta


class Misread(PlainRotation, ABC):
    """Builds the table of another specification than it was given."""

    @abstractmethod
    def misread(self, spec):
        """The specification that is read."""

    def increments(self, spec):
        return self.misread(spec).plan().increments

    def magnitude(self, spec, half):
        return self.misread(spec).magnitude


class MisreadRule(Misread, ABC):
    """Reads other parameters of one scaling rule."""

    rule: type

    def misread(self, spec):
        if not isinstance(spec.scaling, self.rule):
            return spec
        return replace(spec, scaling=replace(spec.scaling, **self.instead(spec.scaling)))

    @abstractmethod
    def instead(self, scaling):
        """The parameters that it reads otherwise."""


class ScalingIgnored(Misread):
    """The configured scaling is parsed and never used, or the unscaled frequencies are returned."""

    reports = (
        "https://github.com/huggingface/transformers/pull/32330",
        "https://github.com/lablup/mlxcel/issues/1340",
        "https://github.com/sbryngelson/ANEForge/pull/58",
    )

    def misread(self, spec):
        return replace(spec, scaling=None, length=None)


class Base(Misread):
    """10,000 is written into the code; the configured base is never read."""

    reports = (
        "https://github.com/huggingface/candle/pull/3746",
        "https://github.com/sgl-project/SpecForge/issues/265",
        "https://github.com/THUDM/slime/pull/1720",
    )

    def misread(self, spec):
        return replace(spec, base=10000.0)


class Direction(Misread):
    """The angle is positive, whatever the model was trained with."""

    reports = ("no report: nanochat turns by the negative angle, and most code by the positive one",)

    def misread(self, spec):
        return replace(spec, direction="positive")


class MagnitudeTwice(Misread):
    """Cached keys that are moved get the magnitude a second time."""

    reports = ("https://github.com/ggml-org/llama.cpp/pull/17945",)

    def misread(self, spec):
        return replace(spec, apply_magnitude=True)


class HeadWidth(Frequencies):
    """Exponents over the width of the head, where only a part of it turns."""

    reports = ("https://github.com/pie-project/pie/pull/603", "https://github.com/huggingface/transformers/pull/48652")

    def frequencies(self, spec):
        return theta(spec, spec.head_dim)


class DerivedWidth(Frequencies):
    """The width is hidden_size / heads, 160, where the configuration says 128."""

    reports = (
        "https://github.com/huggingface/candle/issues/2358",
        "https://github.com/huggingface/transformers/pull/32495",
    )

    def frequencies(self, spec):
        return theta(spec, spec.rotary_dim * 1.25)


# --- NTK ---


class NtkWithoutExponent(Frequencies):
    """The base is multiplied by the factor itself."""

    reports = ("no report: the ntk_factor of diffusers, read in its code",)

    def frequencies(self, spec):
        ntk = isinstance(spec.scaling, Ntk)
        return theta(spec, base=spec.base * spec.scaling.factor) if ntk else super().frequencies(spec)


class NtkDividesAll(Frequencies):
    """Every frequency is divided by factor^(d / (d - 2)), the first one too."""

    reports = ("no report: dynamic scaling of keras-hub, measured",)

    def frequencies(self, spec):
        if not isinstance(spec.scaling, Ntk):
            return super().frequencies(spec)
        return theta(spec) / spec.scaling.factor ** (spec.rotary_dim / (spec.rotary_dim - 2))


class DynamicStatic(Misread):
    """Frequencies are those of factor * original_length at every length."""

    reports = ("https://github.com/vllm-project/vllm/issues/41236",)

    def misread(self, spec):
        if not isinstance(spec.scaling, DynamicNtk):
            return spec
        return spec.at_length(int(spec.scaling.factor * spec.scaling.original_length))


class DynamicStateful(Misread):
    """Frequencies of the longest sequence seen stay."""

    reports = (
        "https://github.com/huggingface/transformers/issues/25306",
        "https://github.com/huggingface/transformers/pull/27227",
    )

    def __init__(self):
        self.longest = 1

    def misread(self, spec):
        if not isinstance(spec.scaling, DynamicNtk):
            return spec
        self.longest = max(self.longest, spec.length)
        return spec.at_length(self.longest)


class DynamicBelow(Frequencies):
    """Up to the original length alpha is 0.96 instead of 1: an empirical polynomial."""

    reports = ("https://github.com/theroyallab/tabbyAPI/pull/18",)

    def frequencies(self, spec):
        d = spec.rotary_dim
        short = isinstance(spec.scaling, DynamicNtk) and spec.length <= spec.scaling.original_length
        return theta(spec, base=spec.base * 0.96 ** (d / (d - 2))) if short else super().frequencies(spec)


class DynamicInSteps(Frequencies):
    """The dynamic rule of Qwen: alpha is 2^ceil(log2(n / original) + 1) - 1."""

    reports = ("https://github.com/InternLM/lmdeploy/issues/536",)

    def frequencies(self, spec):
        d, scaling = spec.rotary_dim, spec.scaling
        if not isinstance(scaling, DynamicNtk) or spec.length <= scaling.original_length:
            return super().frequencies(spec)
        alpha = 2 ** math.ceil(math.log2(spec.length / scaling.original_length) + 1) - 1
        return theta(spec, base=spec.base * alpha ** (d / (d - 2)))


# --- Llama 3 ---


class Llama3Factor(MisreadRule):
    """The factor is 8, which is that of Llama 3.1."""

    reports = ("https://github.com/meta-llama/llama-models/issues/241",)
    rule = Llama3

    def instead(self, scaling):
        return {"factor": 8.0}


class Llama3Bands(Frequencies):
    """The three bands in float64, with one step that subclasses change; right where float64 is."""

    def frequencies(self, spec):
        if not isinstance(spec.scaling, Llama3):
            return super().frequencies(spec)
        s, kept = spec.scaling, theta(spec)
        turns = s.original_length * kept / (2 * np.pi)
        share = np.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0, 1)
        return self.blended(kept, kept / s.factor, share)

    def blended(self, kept, interpolated, share):
        return (1 - share) * interpolated + share * kept


class Llama3Exchanged(Llama3Bands):
    """Long wavelengths are kept, and short ones divided."""

    reports = ("no report: the comparison the wrong way round",)

    def blended(self, kept, interpolated, share):
        return share * interpolated + (1 - share) * kept


class Llama3Wavelengths(Llama3Bands):
    """Between the bands wavelengths are blended, not frequencies."""

    reports = ("no report: the mean of wavelengths for that of frequencies",)

    def blended(self, kept, interpolated, share):
        return 1 / ((1 - share) / interpolated + share / kept)


class Llama3Unblended(Llama3Bands):
    """Between the bands nothing is blended: kept or divided."""

    reports = ("no report: two branches where there are three",)

    def blended(self, kept, interpolated, share):
        return np.where(share > 0, kept, interpolated)


# --- LongRoPE, proportional ---


class AlwaysLong(Misread):
    """The long factors serve every length: chosen by the allocated context."""

    reports = ("https://github.com/ggml-org/llama.cpp/issues/24823",)

    def misread(self, spec):
        own = spec.scaling
        return spec.at_length(own.original_length + 1) if isinstance(own, LongRope) else spec


class AlwaysShort(Misread):
    """The short factors serve every length."""

    reports = ("https://github.com/vllm-project/vllm/pull/27431",)

    def misread(self, spec):
        return spec.at_length(1) if isinstance(spec.scaling, LongRope) else spec


class LongRopeMagnitude(PlainRotation):
    """The magnitude is that of YaRN, 0.1 ln(s) + 1."""

    reports = ("no report: one attention factor for both rules",)

    def magnitude(self, spec, half):
        s = getattr(spec.scaling, "factor", None)
        return 0.1 * math.log(s) + 1 if isinstance(spec.scaling, LongRope) and s else spec.magnitude


class PartialForProportional(Frequencies):
    """A share of the pairs turns: exponents over that share, as in a partial rotation."""

    reports = ("https://github.com/zml/zml/pull/660",)

    def frequencies(self, spec):
        if not isinstance(spec.scaling, Proportional):
            return super().frequencies(spec)
        turning = spec.scaling.turning(spec.rotary_dim)
        own = theta(spec, 2 * turning) / spec.scaling.factor
        return np.where(np.arange(spec.pairs) < turning, own, 0)


class ProportionalEverywhere(Frequencies):
    """Every pair turns: the fraction is not read."""

    reports = ("https://github.com/vllm-project/vllm/pull/43770",)

    def frequencies(self, spec):
        shared = isinstance(spec.scaling, Proportional)
        return theta(spec) / spec.scaling.factor if shared else super().frequencies(spec)
