"""YaRN as it is deployed, and as the paper has it: scaling rules of rotary embeddings."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from posenc.spec import checks, exact
from posenc.spec.scaling_rule import ONE, Real, ScalingRule, Unscaled, by_turns, read_magnitude, temperature


@dataclass(frozen=True, slots=True)
class Yarn(ScalingRule):
    """YaRN as it is deployed: a ramp that is linear in the index of the pair.

        dim(r) = d * ln(original_length / (2 pi r)) / (2 ln b)
        low    = max(dim(beta_fast), 0),  high = min(dim(beta_slow), d - 1);  low = high: high + 1/1000
        ramp_j = (j - low) / (high - low), clamped to 0 ... 1
        frequency_j = theta_j / factor * ramp_j + theta_j * (1 - ramp_j)

    where `truncate` takes floor(dim(beta_fast)) and ceil(dim(beta_slow)). Every deployed checkpoint uses this ramp; the
    paper's own is `YarnPaper`, and differs by a factor of up to 3. With g(m) = 0.1 m ln(factor) + 1, or 1 where factor
    is 1, the magnitude of cosines and sines is g(1), unless one of the next three fields is given; then libraries
    disagree, and `magnitude_rule` has to say whose rule it is:

        "transformers"  attention_factor if given, else g(mscale) / g(mscale_all_dim) if both are given and not 0,
                        else g(1)
        "deepseek"      g(mscale) / g(mscale_all_dim); absent ones are 1 and 0. The released code of DeepSeek-V2 and
                        -V3, vLLM's `deepseek_yarn`, mlx-lm. attention_factor must be absent
        "product"       g(1) * attention_factor. vLLM's `yarn` and llama.cpp with their `attn_factor`. The others must
                        be absent

    factor : >= 1. original_length : the length that the model was trained for, >= 1.
    beta_fast, beta_slow : > 0, turns within the original length: pairs that turn more often than beta_fast keep their
        frequency, those below beta_slow are interpolated. beta_fast >= beta_slow.
    truncate : whether the ends of the ramp are integers. gpt-oss was trained without.
    mscale, mscale_all_dim, attention_factor : see above. attention_factor > 0, the others >= 0.
    scale_softmax : DeepSeek's attention: scores are multiplied by g(mscale_all_dim)^2 besides (`Rope.softmax_factor`).

    Sources: Peng et al. 2023 (arXiv 2309.00071); jquesnelle/yarn, scaled_rope/LlamaYaRNScaledRotaryEmbedding.py.
    Deviations: some clamp `high` at d/2 - 1; some keep high - low at least 1/1000 instead of adding it.
    """

    factor: float
    _: KW_ONLY
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    magnitude_rule: Literal["transformers", "deepseek", "product"] | None = None
    scale_softmax: bool = False

    def __post_init__(self) -> None:
        self._factor()
        self._length("original_length")
        self._numbers("beta_fast", "beta_slow")
        if self.beta_fast < self.beta_slow:
            raise checks.SpecError(
                f"Yarn.beta_fast: expected a number >= beta_slow = {self.beta_slow!r}, received {self.beta_fast!r}"
            )
        for name in ("truncate", "scale_softmax"):
            checks.boolean(self._where(name), getattr(self, name))
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                self._settle(**{name: checks.non_negative(self._where(name), getattr(self, name))})
        if self.attention_factor is not None:
            self._settle(attention_factor=read_magnitude(self._where("attention_factor"), self.attention_factor))
        rules = ("transformers", "deepseek", "product", None)
        self._settle(magnitude_rule=checks.choice(self._where("magnitude_rule"), self.magnitude_rule, rules))
        self._check_magnitude_rule()

    def _check_magnitude_rule(self) -> None:
        given = [n for n in ("mscale", "mscale_all_dim", "attention_factor") if getattr(self, n) is not None]
        needs = {"deepseek": ("attention_factor",), "product": ("mscale", "mscale_all_dim")}
        if given and self.magnitude_rule is None:
            raise checks.SpecError(
                f"Yarn.magnitude_rule: expected 'transformers', 'deepseek' or 'product' where {given[0]} is given, "
                "received None"
            )
        for name in needs.get(self.magnitude_rule or "", ()):
            if name in given:
                raise checks.SpecError(
                    f"Yarn.{name}: expected None where magnitude_rule is {self.magnitude_rule!r}, "
                    f"received {getattr(self, name)!r}"
                )

    def check(self, origin: Unscaled) -> None:
        if origin.base <= 1:
            raise checks.SpecError(f"Rope.base: expected a number > 1 with Yarn, received {float(origin.base)!r}")

    @lru_cache(maxsize=64)  # noqa: B019 - a frozen value, and few of them
    def ramp_range(self, origin: Unscaled, digits: int) -> tuple[Fraction, Fraction]:
        """low and high, where the ramp begins and ends."""
        low = _ramp_end(origin, self.original_length, exact.shortest(self.beta_fast), digits, -self.truncate)
        high = _ramp_end(origin, self.original_length, exact.shortest(self.beta_slow), digits, int(self.truncate))
        low, high = max(low, Fraction(0)), min(high, Fraction(origin.dim - 1))
        return low, high + Fraction(1, 1000) if low == high else high

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        guard = digits + 40  # the ramp may be steep, and what is kept of a frequency small
        low, high = self.ramp_range(origin, guard)
        ramp = min(max((pair - low) / (high - low), Fraction(0)), Fraction(1))
        return origin.frequency(pair, guard) * (ramp / exact.shortest(self.factor) + 1 - ramp)

    def magnitude(self, origin: Unscaled) -> Real:  # noqa: ARG002 - others need it
        if self.attention_factor is not None:
            given = exact.shortest(self.attention_factor)
            if self.magnitude_rule == "transformers":
                return lambda _: given
            return lambda digits: temperature(self.factor, 1.0, digits) * given
        above, below = self.mscale, self.mscale_all_dim
        if self.magnitude_rule == "deepseek":
            above, below = 1.0 if above is None else above, below or 0.0
        elif not above or not below:
            above, below = 1.0, 0.0
        if above == below:
            return ONE
        return lambda digits: temperature(self.factor, above, digits) / temperature(self.factor, below, digits)

    def softmax_factor(self, digits: int) -> Fraction:
        """What scores are multiplied by, besides 1 / sqrt(width)."""
        return temperature(self.factor, self.mscale_all_dim or 0.0, digits) ** 2 if self.scale_softmax else Fraction(1)


@dataclass(frozen=True, slots=True)
class YarnPaper(ScalingRule):
    """YaRN as the paper has it: a ramp that is linear in r_j, the turns of pair j within the original length.

        r_j = original_length * theta_j / (2 pi)
        gamma_j = (r_j - alpha) / (beta - alpha), clamped to 0 ... 1
        frequency_j = (1 - gamma_j) * theta_j / factor + gamma_j * theta_j,    magnitude 0.1 ln(factor) + 1

    No deployed checkpoint uses it: see `Yarn`. Peng et al. 2023 (arXiv 2309.00071), section 3.2 and equation 22.

    factor : >= 1. original_length : the length that the model was trained for. 0 < alpha < beta.
    """

    factor: float
    _: KW_ONLY
    original_length: int
    alpha: float = 1.0
    beta: float = 32.0

    def __post_init__(self) -> None:
        self._factor()
        self._length("original_length")
        self._numbers("alpha", "beta")
        if self.alpha >= self.beta:
            raise checks.SpecError(
                f"YarnPaper.alpha: expected a number below beta = {self.beta!r}, received {self.alpha!r}"
            )

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        band = exact.shortest(self.alpha), exact.shortest(self.beta)
        return by_turns(origin, pair, digits, factor=self.factor, original_length=self.original_length, band=band)

    def magnitude(self, origin: Unscaled) -> Real:  # noqa: ARG002 - others need it
        return lambda digits: temperature(self.factor, 1.0, digits)


def _ramp_end(origin: Unscaled, length: int, turns: Fraction, digits: int, rounded: int) -> Fraction:
    """dim(turns) of `Yarn`, its floor (rounded = -1), or its ceiling (1)."""
    while True:
        wide = digits + 30  # d / ln b may be as large as 10^22
        logarithm = exact.logarithm(length / (turns * exact.two_pi(wide)), wide)
        value = origin.dim * logarithm / (2 * exact.logarithm(origin.base, wide))
        if not rounded:
            return value
        doubt = Fraction(1, 10**digits) * (1 + abs(value))
        below, above = (value - doubt) // 1, (value + doubt) // 1
        if below == above:  # it is irrational, pi is in it: enough digits decide
            return Fraction(below + (rounded > 0))
        digits *= 2
