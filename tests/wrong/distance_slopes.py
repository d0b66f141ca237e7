"""ALiBi with other slopes, other distances, or fewer digits."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np

from posenc.conformance.protocol import DTYPES, unit
from posenc.spec import exact
from tests.wrong.distance_plain import PlainDistance


class OtherSlopes(PlainDistance):
    """Has slopes of its own, in float64: wrong ones differ by far more."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def slopes(self, spec):
        return [spec.value(1, head, "float64") for head in range(spec.heads)]

    def products(self, spec, n, heads, dtype):
        if spec not in self.known:
            self.known[spec] = self.slopes(spec)
        return [self.product(n, slope, dtype) if n else 0.0 for slope in self.known[spec]]

    def product(self, n, slope, dtype):
        return exact.round_to(n * Fraction(slope), dtype)


# --- Slopes ---


class Geometric(OtherSlopes):
    """One geometric sequence for any number of heads."""

    reports = (
        "https://github.com/ml-explore/mlx/pull/3071",
        "https://github.com/baichuan-inc/Baichuan2/issues/225",
    )

    def slopes(self, spec):
        return [2.0 ** (-spec.max_bias * (head + 1) / spec.heads) for head in range(spec.heads)]


class ExponentFromZero(OtherSlopes):
    """The first head is number 0 in the exponent: its slope is 1."""

    reports = ("https://github.com/paiml/aprender/pull/2143",)

    def slopes(self, spec):
        whole = 1 << (spec.heads.bit_length() - 1)
        return [slope * 2.0 ** (spec.max_bias / whole) for slope in super().slopes(spec)]


class EveryRankFirst(OtherSlopes):
    """Two ranks share the heads, and each takes the slopes from the first one on."""

    reports = (
        "https://github.com/bigscience-workshop/Megatron-DeepSpeed/issues/227",
        "https://github.com/flashinfer-ai/flashinfer/issues/1606",
    )

    def slopes(self, spec):
        first = super().slopes(spec)[: (spec.heads + 1) // 2]
        return (first * 2)[: spec.heads]


class NotSliced(PlainDistance):
    """The slopes of the next power of two, all of them."""

    reports = ("https://github.com/huggingface/transformers/pull/28380",)

    def heads(self, spec):
        return 1 << (spec.heads - 1).bit_length()

    def products(self, spec, n, heads, dtype):
        return super().products(replace(spec, heads=heads), n, heads, dtype)


class NextPowerCut(PlainDistance):
    """The slopes of the next power of two, the last ones cut off."""

    reports = ("https://github.com/huggingface/transformers/pull/28380",)

    def products(self, spec, n, heads, dtype):
        return super().products(replace(spec, heads=1 << (heads - 1).bit_length()), n, heads, dtype)


class CachedSlopes(PlainDistance):
    """What was computed once for this many heads stands for all instances."""

    reports = ("https://github.com/ml-explore/mlx/pull/3071",)

    def __init__(self):
        super().__init__()
        self.kept = {}

    def products(self, spec, n, heads, dtype):
        first = self.kept.setdefault(heads, spec)
        return super().products(replace(first, form=spec.form), n, heads, dtype)


class MaxBiasIgnored(PlainDistance):
    """8 is written into the code."""

    reports = ("no report: `alibi_bias_max` of MPT, read by few",)

    def products(self, spec, n, heads, dtype):
        return super().products(replace(spec, max_bias=8.0), n, heads, dtype)


# --- Distances ---


class Sign(PlainDistance):
    """Query minus key: far keys get the greater score."""

    reports = ("https://github.com/meta-pytorch/attention-gym/pull/86",)

    def multiple(self, spec, q, k):
        return -super().multiple(spec, q, k) if spec.form == "causal" else super().multiple(spec, q, k)


class OffByOne(PlainDistance):
    """The length of the context is taken for the position of the query: the bias there is not 0."""

    reports = ("https://github.com/vllm-project/vllm/pull/945",)

    def multiple(self, spec, q, k):
        return super().multiple(spec, q + 1, k)


class LastRowForAll(PlainDistance):
    """Every query has the bias of the last one, which a causal softmax does not see."""

    reports = ("https://github.com/mosaicml/llm-foundry/issues/186",)

    def table(self, rule, spec, q, k):
        return super().table(rule, spec, np.broadcast_to(q[..., -1:, :], q.shape), k)


class Anchored(PlainDistance):
    """The key's position where the form counts from the query: the same to a softmax over whole rows."""

    reports = ("https://github.com/mosaicml/llm-foundry/issues/186",)

    def multiple(self, spec, q, k):
        return k


class OneDirection(PlainDistance):
    """Keys ahead of the query get a bonus in attention that sees both sides."""

    reports = ("no report: issue 5 of ofirpress/attention_with_linear_biases asks what is meant",)

    def multiple(self, spec, q, k):
        return k if spec.form == "anchored" else k - q


class CountedFromQuery(PlainDistance):
    """Key minus query where the form counts from position 0: the same to a softmax over whole rows."""

    reports = ("https://github.com/mosaicml/llm-foundry/issues/186",)

    def multiple(self, spec, q, k):
        return k - q if spec.form == "anchored" else super().multiple(spec, q, k)


class NegativeZero(PlainDistance):
    """-m * |0| is -0.0."""

    reports = ("no report: `-abs(distance) * slopes` in floating point",)

    def products(self, spec, n, heads, dtype):
        return super().products(spec, n, heads, dtype) if n else [-0.0] * heads


class Wrapped(PlainDistance):
    """The difference of two positions is a 32-bit integer."""

    reports = ("no report: int32 position ids, subtracted as they are",)

    def multiple(self, spec, q, k):
        n = super().multiple(spec, q, k)
        return (n + 2**31) % 2**32 - 2**31


# --- Digits ---


class NarrowDistances(OtherSlopes):
    """Slopes times arange, all of it in the dtype of the model."""

    reports = ("https://github.com/bigscience-workshop/Megatron-DeepSpeed/pull/101",)

    def product(self, n, slope, dtype):
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype).type
        with np.errstate(over="ignore", under="ignore"):
            return float(kind(slope) * kind(n))


class NarrowSlopes(OtherSlopes):
    """The slopes are a buffer, which was cast with the module, and back."""

    reports = ("https://github.com/Dao-AILab/flash-attention/issues/845",)

    def slopes(self, spec):
        return spec.slopes("float16")


class Float32Powers(OtherSlopes):
    """Powers of a base that was rounded to float32, in float32, as BLOOM has them: up to 9 units off."""

    reports = ("no report: `build_alibi_tensor` of transformers, in 118 of 128 numbers of heads",)

    def slopes(self, spec):
        whole = 1 << (spec.heads.bit_length() - 1)
        first = self.powers(spec.max_bias / whole, range(1, whole + 1))
        return [*first, *self.powers(spec.max_bias / 2 / whole, range(1, 2 * (spec.heads - whole), 2))]

    def powers(self, step, exponents):
        base = np.float32(2.0**-step)
        return [float(np.power(base, np.float32(exponent))) for exponent in exponents]


class Float32Product(OtherSlopes):
    """The rounded slope times the rounded distance, in float32: what suffices in a trace only."""

    reports = ("no report: `slopes[:, None, None] * (k - q)`",)

    def product(self, n, slope, dtype):
        return exact.round_to(Fraction(float(np.float32(slope) * np.float32(n))), dtype)


class Float64Unchecked(OtherSlopes):
    """A float64 product, rounded once: one step short of certain."""

    reports = ("no report: rounding that is hoped for",)

    def product(self, n, slope, dtype):
        return exact.round_to(Fraction(n * slope), dtype)


class Float64Powers(OtherSlopes):
    """Powers of a base that was rounded to float64, as the paper's code has them: none is a power of two any more."""

    reports = ("no report: `start * ratio**i` of attention_with_linear_biases",)

    def slopes(self, spec):
        base = 2.0 ** (-spec.max_bias / spec.heads)
        return [base ** (head + 1) for head in range(spec.heads)]


class TiesAwayFromZero(OtherSlopes):
    """A product halfway between two numbers goes to the greater one, as `round` of C has it."""

    reports = ("no report: rounding by adding half a unit",)

    def product(self, n, slope, dtype):
        value = n * Fraction(slope)
        nearest = exact.round_to(value, dtype)
        if math.isfinite(nearest) and abs(value) - abs(Fraction(nearest)) == Fraction(unit(nearest, dtype)) / 2:
            return nearest + math.copysign(unit(nearest, dtype), nearest)
        return nearest


class TwoRoundings(PlainDistance):
    """Half precision is reached through float32."""

    reports = ("no report: `.to(torch.float32).to(torch.bfloat16)`",)

    def products(self, spec, n, heads, dtype):
        single = super().products(spec, n, heads, "float32" if dtype in DTYPES[2:] else dtype)
        return [exact.round_to(Fraction(value), dtype) if value else value for value in single]


class Clamped(PlainDistance):
    """The greatest float16 stands for what is beyond it."""

    reports = ("no report: `torch.finfo(dtype).min` as the least bias",)

    def products(self, spec, n, heads, dtype):
        values = super().products(spec, n, heads, dtype)
        return [math.copysign(65504.0, value) if math.isinf(value) else value for value in values]


class Flushed(PlainDistance):
    """Subnormal results are zero, without a sign."""

    reports = ("no report: flush to zero",)

    def products(self, spec, n, heads, dtype):
        least = 2.0**-14 if dtype == "float16" else 0.0
        return [value if abs(value) >= least and value else 0.0 for value in super().products(spec, n, heads, dtype)]
