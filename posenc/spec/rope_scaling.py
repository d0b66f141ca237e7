"""Scaling rules of rotary embeddings: how a model's frequencies are changed to reach further than it was trained.

`scaling_rule` says what a rule is; `yarn` and `long_rope` have the longer ones.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Any, ClassVar

from posenc.spec import checks, exact
from posenc.spec.long_rope import LongRope
from posenc.spec.scaling_rule import ScalingRule, Unscaled, by_turns
from posenc.spec.yarn import Yarn, YarnPaper


@dataclass(frozen=True, slots=True)
class Linear(ScalingRule):
    """Position interpolation: theta_j / factor. Chen et al. 2023 (arXiv 2306.15595), equations 3 and 4.

    factor : >= 1.
    """

    factor: float

    def __post_init__(self) -> None:
        self._factor()

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        return origin.frequency(pair, digits) / exact.shortest(self.factor)


@dataclass(frozen=True, slots=True)
class Ntk(ScalingRule):
    """NTK-aware interpolation: the base becomes b * factor^(d / (d - 2)), so that the last pair has theta / factor.

    Published by bloc97 in 2023; Peng et al. 2023 (arXiv 2309.00071), section 3.1. It is the `ntk_alpha` of HunYuan
    (`rope_type: dynamic` with `alpha`), whatever the length. Not the same: the `ntk_factor` of diffusers multiplies
    the base by the factor itself, which is a plain Rope with that base.

    factor : >= 1. Needs at least two pairs.
    """

    factor: float

    def __post_init__(self) -> None:
        self._factor()

    def check(self, origin: Unscaled) -> None:
        _refuse_a_single_pair("Ntk", origin)

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        return _ntk(origin, exact.shortest(self.factor), pair, digits)


@dataclass(frozen=True, slots=True)
class DynamicNtk(ScalingRule):
    """NTK-aware interpolation that grows with the length n of the sequence: `spec.at_length(n)`.

    Up to n = original_length frequencies are unscaled. Beyond, the base becomes
    b * (factor * n / original_length - (factor - 1))^(d / (d - 2)).

    Published by emozilla in 2023; transformers, `_compute_dynamic_ntk_parameters`. There the frequencies stay those of
    the longest sequence seen; here they depend on n alone. vLLM takes them at n = factor * original_length for every
    sequence: `spec.at_length(factor * original_length)`.

    factor : >= 1. original_length : the length that the model was trained for. Needs at least two pairs.
    """

    needs_length: ClassVar[bool] = True

    factor: float
    _: KW_ONLY
    original_length: int

    def __post_init__(self) -> None:
        self._factor()
        self._length("original_length")

    def check(self, origin: Unscaled) -> None:
        _refuse_a_single_pair("DynamicNtk", origin)

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        length = origin.length or 0
        if length <= self.original_length:
            return origin.frequency(pair, digits)
        factor = exact.shortest(self.factor)
        return _ntk(origin, factor * length / self.original_length - (factor - 1), pair, digits)

    def least_length(self, length: int) -> int | None:
        return length if length > self.original_length else 1


@dataclass(frozen=True, slots=True)
class Llama3(ScalingRule):
    """Llama 3.1: by wavelength, long ones are interpolated, short ones kept, a blend between.

        r_j = original_length * theta_j / (2 pi),   w_j = (r_j - low) / (high - low), clamped to 0 ... 1
        frequency_j = (1 - w_j) * theta_j / factor + w_j * theta_j

    The published code compares wavelengths 2 pi / theta_j with original_length / high and original_length / low, which
    is the same. Source: meta-llama/llama-models, models/llama3/model.py, `apply_scaling`; the paper has no formula.

    factor : >= 1: 8 in Llama 3.1, 32 in Llama 3.2. original_length : 8192 in both.
    low_freq_factor, high_freq_factor : 0 < low < high: 1 and 4 in both.
    """

    factor: float
    _: KW_ONLY
    original_length: int
    low_freq_factor: float
    high_freq_factor: float

    def __post_init__(self) -> None:
        self._factor()
        self._length("original_length")
        self._numbers("low_freq_factor", "high_freq_factor")
        if self.low_freq_factor >= self.high_freq_factor:
            raise checks.SpecError(
                f"Llama3.low_freq_factor: expected a number below high_freq_factor = {self.high_freq_factor!r}, "
                f"received {self.low_freq_factor!r}"
            )

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        band = exact.shortest(self.low_freq_factor), exact.shortest(self.high_freq_factor)
        return by_turns(origin, pair, digits, factor=self.factor, original_length=self.original_length, band=band)


@dataclass(frozen=True, slots=True)
class Proportional(ScalingRule):
    """p-RoPE: the first k = floor(fraction * d / 2) pairs turn, at the full width's frequencies; the others stay.

        frequency_j = theta_j / factor   for j < k,    0 otherwise

    Not a partial rotation: exponents are over the full width, and with the half layout the still channels stand in the
    middle of each half. Barbero et al. 2024 (arXiv 2410.06205); Gemma 4's global layers; transformers,
    `_compute_proportional_rope_parameters`.

    fraction : > 0, <= 1. factor : >= 1.
    """

    fraction: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        self._factor()
        self._settle(fraction=checks.fraction(self._where("fraction"), self.fraction))

    def turning(self, dim: int) -> int:
        """k, the number of pairs that turn."""
        return int(exact.shortest(self.fraction) * dim // 2)

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        turns = pair < self.turning(origin.dim)
        return origin.frequency(pair, digits) / exact.shortest(self.factor) if turns else Fraction(0)

    def extremes(self, origin: Unscaled) -> range:
        return range(0, self.turning(origin.dim), max(1, self.turning(origin.dim) - 1))


Scaling = Linear | Ntk | DynamicNtk | Yarn | YarnPaper | LongRope | Llama3 | Proportional
SCALINGS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Linear, Ntk, DynamicNtk, Yarn, YarnPaper, LongRope, Llama3, Proportional)
}


def _refuse_a_single_pair(kind: str, origin: Unscaled) -> None:
    if origin.dim == 2:
        raise checks.SpecError(f"Rope.rotary_dim: expected an integer >= 4 with {kind}, received 2")


def _ntk(origin: Unscaled, alpha: Fraction, pair: int, digits: int) -> Fraction:
    """(b * alpha^(d / (d - 2)))^(-2j/d), as two powers whose exponents are exact."""
    stretched = Fraction(exact.power(alpha, Fraction(-2 * pair, origin.dim - 2), digits + 4))
    return origin.frequency(pair, digits) * stretched
