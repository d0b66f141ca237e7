"""LongRoPE: a scaling rule of rotary embeddings with a factor for every pair."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from posenc.spec import checks, exact
from posenc.spec.scaling_rule import ONE, Real, ScalingRule, Unscaled, read_magnitude


@dataclass(frozen=True, slots=True)
class LongRope(ScalingRule):
    """LongRoPE: every pair has a factor of its own, found by search; another list for long sequences.

        frequency_j = theta_j / short_factors[j]     at_length(n), n <= original_length
        frequency_j = theta_j / long_factors[j]      at_length(n), n >  original_length

    The magnitude, at any length, is 1 unless said by one of

        factor s           sqrt(1 + ln s / ln original_length), "su" in Phi-3; 0.1 ln s + 1 if magnitude_rule is "yarn"
        extended_length    the same with s = extended_length / original_length
        attention_factor   itself
        short_mscale and long_mscale    one for each list of factors (Phi-3.5-MoE)

    where s <= 1 gives 1.

    short_factors, long_factors : > 0, one a pair. original_length : >= 1, where factor or extended_length is given
    >= 2.

    Ding et al. 2024 (arXiv 2402.13753), section 3; microsoft/LongRoPE, rope/longrope.py; transformers,
    `_compute_longrope_parameters`. Deviations: vLLM chooses the list once, by the longest sequence it may serve;
    mlx-lm has the long one only. The paper's first tokens without interpolation are not part of it.
    """

    needs_length: ClassVar[bool] = True

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    _: KW_ONLY
    original_length: int
    factor: float | None = None
    extended_length: int | None = None
    attention_factor: float | None = None
    short_mscale: float | None = None
    long_mscale: float | None = None
    magnitude_rule: Literal["longrope", "yarn"] = "longrope"

    def __post_init__(self) -> None:
        for name in ("short_factors", "long_factors"):
            self._settle(**{name: checks.numbers(self._where(name), getattr(self, name))})
        self._length("original_length")
        if self.factor is not None:
            self._numbers("factor")
        if self.extended_length is not None:
            self._length("extended_length")
        for name in ("attention_factor", "short_mscale", "long_mscale"):
            if getattr(self, name) is not None:
                self._settle(**{name: read_magnitude(self._where(name), getattr(self, name))})
        rules = ("longrope", "yarn")
        self._settle(magnitude_rule=checks.choice(self._where("magnitude_rule"), self.magnitude_rule, rules))
        if (self.short_mscale is None) != (self.long_mscale is None):
            raise checks.SpecError(
                "LongRope.short_mscale: expected short_mscale and long_mscale together, "
                f"received {self.short_mscale!r} and {self.long_mscale!r}"
            )
        ways = ("factor", "extended_length", "attention_factor", "short_mscale")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) > 1:
            raise checks.SpecError(
                f"LongRope.{given[1]}: expected at most one of factor, extended_length, attention_factor and "
                f"short_mscale with long_mscale, received {given[0]} too"
            )
        if given and given[0] in ("factor", "extended_length") and self.original_length == 1:
            raise checks.SpecError(f"LongRope.original_length: expected an integer >= 2 with {given[0]}, received 1")

    def check(self, origin: Unscaled) -> None:
        for name in ("short_factors", "long_factors"):
            if len(getattr(self, name)) != origin.dim // 2:
                raise checks.SpecError(
                    f"LongRope.{name}: expected one number a pair, {origin.dim // 2}, "
                    f"received {len(getattr(self, name))}"
                )

    def _is_long(self, origin: Unscaled) -> bool:
        return (origin.length or 0) > self.original_length

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        factors = self.long_factors if self._is_long(origin) else self.short_factors
        return origin.frequency(pair, digits) / exact.shortest(factors[pair])

    def magnitude(self, origin: Unscaled) -> Real:
        if self.short_mscale is not None and self.long_mscale is not None:
            own = exact.shortest(self.long_mscale if self._is_long(origin) else self.short_mscale)
            return lambda _: own
        if self.attention_factor is not None:
            given = exact.shortest(self.attention_factor)
            return lambda _: given
        if self.extended_length is not None:
            ratio = Fraction(self.extended_length, self.original_length)
        elif self.factor is not None:
            ratio = exact.shortest(self.factor)
        else:
            return ONE
        if ratio <= 1:
            return ONE
        if self.magnitude_rule == "yarn":
            return lambda digits: 1 + exact.logarithm(ratio, digits) / 10
        whole = Fraction(self.original_length)
        return lambda digits: exact.square_root(
            1 + exact.logarithm(ratio, digits + 4) / exact.logarithm(whole, digits + 4), digits + 4
        )

    def least_length(self, length: int) -> int | None:
        return self.original_length + 1 if length > self.original_length else 1

    def extremes(self, origin: Unscaled) -> range:
        return range(origin.dim // 2)
