"""YaRN misread: the ends of its ramp, the ramp itself, and the magnitude by another rule."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from posenc import Yarn, YarnPaper
from tests.wrong.rotary_formula import Misread, MisreadRule
from tests.wrong.rotary_plain import Frequencies, PlainRotation, theta

# --- The ramp ---


class YarnTruncated(MisreadRule):
    """The ends of the ramp are always integers."""

    reports = ("https://github.com/vllm-project/vllm/pull/28244", "https://github.com/apache/tvm/pull/18576")
    rule = Yarn

    def instead(self, scaling):
        return {"truncate": True}


class YarnNotTruncated(MisreadRule):
    """The ends of the ramp are never integers: the default of truncate is False."""

    reports = ("https://github.com/keras-team/keras-hub/pull/2981",)
    rule = Yarn

    def instead(self, scaling):
        return {"truncate": False}


class SixteenBits(MisreadRule):
    """The original length saturates at 32,767."""

    reports = ("https://github.com/panbanda/higgs/pull/31",)
    rule = Yarn

    def instead(self, scaling):
        return {"original_length": min(scaling.original_length, 32767)}


class PaperForCode(Misread):
    """The paper's ramp, linear in turns, where the checkpoint has the code's."""

    reports = ("no report: jquesnelle/yarn answers questions about the two ramps in its issues",)

    def misread(self, spec):
        own = spec.scaling
        if not isinstance(own, Yarn) or own.beta_fast == own.beta_slow:
            return spec
        paper = YarnPaper(own.factor, original_length=own.original_length, alpha=own.beta_slow, beta=own.beta_fast)
        return replace(spec, scaling=paper)

    def magnitude(self, spec, half):
        return spec.magnitude


class CodeForPaper(Misread):
    """The code's ramp, linear in the index of the pair, where the specification has the paper's."""

    reports = ("no report: every published package has this ramp only",)

    def misread(self, spec):
        own = spec.scaling
        if not isinstance(own, YarnPaper):
            return spec
        code = Yarn(own.factor, original_length=own.original_length, beta_fast=own.beta, beta_slow=own.alpha)
        return replace(spec, scaling=code)


class YarnRamp(Frequencies):
    """The ramp of the code in float64, with one step that subclasses change; right where float64 is."""

    def frequencies(self, spec):
        if not isinstance(spec.scaling, Yarn):
            return super().frequencies(spec)
        d, s = spec.rotary_dim, spec.scaling
        fast, slow = self.betas(s)
        ends = [d * math.log(s.original_length / (r * 2 * math.pi)) / (2 * math.log(spec.base)) for r in (fast, slow)]
        low, high = (math.floor(ends[0]), math.ceil(ends[1])) if s.truncate else ends
        low, high = self.clamped(low, high, d)
        ramp = np.clip((np.arange(spec.pairs) - low) / self.width(low, high), 0, 1)
        return self.blended(theta(spec), self.interpolated(spec), ramp)

    def betas(self, scaling):
        return scaling.beta_fast, scaling.beta_slow

    def clamped(self, low, high, d):
        return max(low, 0), min(high, d - 1)

    def width(self, low, high):
        return high - low if high != low else 0.001

    def interpolated(self, spec):
        return theta(spec) / spec.scaling.factor

    def blended(self, kept, interpolated, ramp):
        return interpolated * ramp + kept * (1 - ramp)


class YarnClamp(YarnRamp):
    """The upper end of the ramp is clamped to the last pair."""

    reports = ("https://github.com/jingyaogong/minimind/issues/602",)

    def clamped(self, low, high, d):
        return max(low, 0), min(high, d // 2 - 1)


class YarnLowUnclamped(YarnRamp):
    """The lower end of the ramp may be negative."""

    reports = ("no report: the clamp is never reached at an original length of 4,096",)

    def clamped(self, low, high, d):
        return low, min(high, d - 1)


class YarnWidth(YarnRamp):
    """A ramp that ends before it begins has the width 1/1000, instead of one of width 0."""

    reports = ("no report: max(high - low, 0.001) in keras-hub and ggml, read in their code",)

    def width(self, low, high):
        return max(high - low, 0.001)


class YarnBetas(YarnRamp):
    """beta_fast and beta_slow are exchanged."""

    reports = ("https://github.com/pytorch/torchtitan/pull/3787",)

    def betas(self, scaling):
        return scaling.beta_slow, scaling.beta_fast


class YarnInsidePower(YarnRamp):
    """The factor stands inside the power: 1 / (factor * base)^e."""

    reports = ("https://github.com/apache/tvm/pull/18576",)

    def interpolated(self, spec):
        return theta(spec, base=spec.base * spec.scaling.factor)


class YarnWavelengths(YarnRamp):
    """Within the ramp wavelengths are blended, not frequencies."""

    reports = ("no report: the mean of wavelengths for that of frequencies",)

    def blended(self, kept, interpolated, ramp):
        return 1 / (ramp / interpolated + (1 - ramp) / kept)


# --- Magnitudes ---


class MagnitudeMissing(PlainRotation):
    """Cosines and sines have magnitude 1."""

    reports = ("https://github.com/ml-explore/mlx-lm/pull/1507",)

    def magnitude(self, spec, half):
        return 1.0


class MagnitudeSquared(PlainRotation):
    """The magnitude is applied twice: in the table, and in the kernel."""

    reports = ("https://github.com/ggml-org/llama.cpp/pull/17945", "https://github.com/guoqingbao/xinfer/pull/329")

    def magnitude(self, spec, half):
        return spec.magnitude**2


class MagnitudeOfCosines(PlainRotation):
    """Only cosines have the magnitude."""

    reports = ("no report: one of two assignments forgotten",)

    def magnitude(self, spec, half):
        return spec.magnitude if half == "cos" else 1.0


class AttentionFactorDropped(MisreadRule):
    """The key attention_factor is not among those that are read."""

    reports = ("https://github.com/vllm-project/vllm/pull/46280", "https://github.com/ml-explore/mlx-lm/pull/1507")
    rule = Yarn

    def instead(self, scaling):
        return {"attention_factor": None}


class MscaleDropped(MisreadRule):
    """mscale and mscale_all_dim are not read."""

    reports = ("https://github.com/turboderp-org/exllamav3/issues/259",)
    rule = Yarn

    def instead(self, scaling):
        return {"mscale": None, "mscale_all_dim": None, "magnitude_rule": scaling.magnitude_rule and "transformers"}


class OtherMagnitudeRule(MisreadRule):
    """The rule of transformers for DeepSeek's, and the reverse: an absent or zero mscale_all_dim tells them apart."""

    reports = ("https://github.com/ggml-org/llama.cpp/pull/17945",)
    rule = Yarn

    def instead(self, scaling):
        other = {"transformers": "deepseek", "deepseek": "transformers"}
        return {} if scaling.attention_factor else {"magnitude_rule": other.get(scaling.magnitude_rule)}


class AttentionFactorReplaces(MisreadRule):
    """attention_factor replaces the magnitude that it multiplies."""

    reports = ("https://github.com/ggml-org/llama.cpp/pull/17945",)
    rule = Yarn

    def instead(self, scaling):
        return {"magnitude_rule": scaling.magnitude_rule and "transformers"}
