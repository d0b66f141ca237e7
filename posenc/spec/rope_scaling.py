"""Scaling rules of rotary embeddings: how a model's frequencies are changed to reach further than it was trained.

With d rotary channels and base b, the unscaled frequency of pair j = 0 ... d/2 - 1 is theta_j = b^(-2j/d) radians per
unit of position. A rule says which frequency a pair has instead, and by which magnitude cosines and sines are
multiplied. Every decision in a rule (a floor, a clamp, a comparison) is taken in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

from posenc.spec import checks, exact

Real = Callable[[int], Fraction]
"""A real number: given digits, a fraction within a relative 10^-digits of it."""

Band = tuple[Fraction, Fraction]
"""Turns within the original length: interpolated below the first, kept above the second."""

ONE: Real = lambda digits: Fraction(1)  # noqa: E731, ARG005 - the simplest of its kind


class Unscaled(NamedTuple):
    """What a rule starts from: rotary channels, base, and the length that `Rope.at_length` was given."""

    dim: int
    base: Fraction
    length: int | None

    def frequency(self, pair: int, digits: int) -> Fraction:
        return Fraction(exact.power(self.base, Fraction(-2 * pair, self.dim), digits + 4))


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What every rule can say of itself."""

    needs_length: ClassVar[bool] = False

    def _settle(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen for everyone else

    def _where(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _numbers(self, *names: str) -> None:
        for name in names:
            self._settle(**{name: checks.number(self._where(name), getattr(self, name))})

    def _length(self, name: str) -> None:
        limit = checks.POSITION_LIMIT
        self._settle(**{name: checks.integer(self._where(name), getattr(self, name), minimum=1, limit=limit)})

    def _factor(self) -> None:
        """An extension is at least 1; a smaller one would shrink the context."""
        given = self.factor  # type: ignore[attr-defined]  # its rules have one
        try:
            factor = checks.number(self._where("factor"), given)
        except checks.SpecError:
            factor = 0.0
        if factor < 1:
            raise checks.SpecError(
                f"{self._where('factor')}: expected a finite number >= 1, received {checks.shown(given)}"
            )
        self._settle(factor=factor)

    def check(self, origin: Unscaled) -> None:
        """Refuse a width or a base for which the rule has no meaning."""

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        """Radians per unit of position of one pair, within a relative 10^-digits."""
        raise NotImplementedError

    def magnitude(self, origin: Unscaled) -> Real:  # noqa: ARG002 - others need it
        """What cosines and sines are multiplied by; 1 where a rule says nothing else."""
        return ONE

    def least_length(self, length: int) -> int | None:  # noqa: ARG002 - others need it
        """The least length with the same frequencies as `length`; None where no length matters."""
        return None

    def extremes(self, origin: Unscaled) -> range:
        """Pairs among which the highest and the lowest frequency are."""
        return range(0, origin.dim // 2, max(1, origin.dim // 2 - 1))


@dataclass(frozen=True, slots=True)
class Linear(_Scaling):
    """Position interpolation: theta_j / factor. Chen et al. 2023 (arXiv 2306.15595), equations 3 and 4.

    factor : >= 1.
    """

    factor: float

    def __post_init__(self) -> None:
        self._factor()

    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        return origin.frequency(pair, digits) / exact.shortest(self.factor)


@dataclass(frozen=True, slots=True)
class Ntk(_Scaling):
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
class DynamicNtk(_Scaling):
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
class Yarn(_Scaling):
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
            self._settle(attention_factor=_magnitude(self._where("attention_factor"), self.attention_factor))
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
            return lambda digits: _temperature(self.factor, 1.0, digits) * given
        above, below = self.mscale, self.mscale_all_dim
        if self.magnitude_rule == "deepseek":
            above, below = 1.0 if above is None else above, below or 0.0
        elif not above or not below:
            above, below = 1.0, 0.0
        if above == below:
            return ONE
        return lambda digits: _temperature(self.factor, above, digits) / _temperature(self.factor, below, digits)

    def softmax_factor(self, digits: int) -> Fraction:
        """What scores are multiplied by, besides 1 / sqrt(width)."""
        return _temperature(self.factor, self.mscale_all_dim or 0.0, digits) ** 2 if self.scale_softmax else Fraction(1)


@dataclass(frozen=True, slots=True)
class YarnPaper(_Scaling):
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
        return _by_turns(origin.frequency, pair, digits, self, band)

    def magnitude(self, origin: Unscaled) -> Real:  # noqa: ARG002 - others need it
        return lambda digits: _temperature(self.factor, 1.0, digits)


@dataclass(frozen=True, slots=True)
class Llama3(_Scaling):
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
        return _by_turns(origin.frequency, pair, digits, self, band)


@dataclass(frozen=True, slots=True)
class LongRope(_Scaling):
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
                self._settle(**{name: _magnitude(self._where(name), getattr(self, name))})
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


@dataclass(frozen=True, slots=True)
class Proportional(_Scaling):
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


def _magnitude(where: str, value: object) -> float:
    return checks.number(where, value, low=2.0**-20, high=2.0**20)


def _refuse_a_single_pair(kind: str, origin: Unscaled) -> None:
    if origin.dim == 2:
        raise checks.SpecError(f"Rope.rotary_dim: expected an integer >= 4 with {kind}, received 2")


def _ntk(origin: Unscaled, alpha: Fraction, pair: int, digits: int) -> Fraction:
    """(b * alpha^(d / (d - 2)))^(-2j/d), as two powers whose exponents are exact."""
    stretched = Fraction(exact.power(alpha, Fraction(-2 * pair, origin.dim - 2), digits + 4))
    return origin.frequency(pair, digits) * stretched


def _temperature(factor: float, m: float, digits: int) -> Fraction:
    """g(m) = 0.1 m ln(factor) + 1."""
    if factor == 1 or m == 0:
        return Fraction(1)
    return exact.shortest(m) / 10 * exact.logarithm(exact.shortest(factor), digits + 4) + 1


def _by_turns(
    unscaled: Callable[[int, int], Fraction], pair: int, digits: int, rule: YarnPaper | Llama3, band: Band
) -> Fraction:
    """Interpolated below `band`, kept above it, blended linearly in turns within the original length.

    The blend is continuous, so that a comparison which rounding decides cannot change the result.
    """
    guard = digits + 40
    frequency = unscaled(pair, guard)
    turns = rule.original_length * frequency / exact.two_pi(guard)
    low, high = band
    kept = min(max((turns - low) / (high - low), Fraction(0)), Fraction(1))
    return frequency * ((1 - kept) / exact.shortest(rule.factor) + kept)


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
