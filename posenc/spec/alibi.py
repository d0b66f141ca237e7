"""ALiBi: attention with linear biases."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from posenc.spec import checks, exact
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run, Slope

Form = Literal["causal", "symmetric", "anchored"]

GREATEST_HEADS = 2**12
_HIGH_BITS = 21
_RUNS = {
    "causal": (Run(LEAST_DISTANCE, LEAST_DISTANCE, 1),),
    "symmetric": (Run(LEAST_DISTANCE, LEAST_DISTANCE, 1), Run(0, 0, -1)),
    "anchored": (Run(LEAST_DISTANCE, LEAST_DISTANCE, 1),),
}


@dataclass(frozen=True, slots=True)
class Alibi:
    """A bias that grows linearly with the distance of query and key, with one slope a head.

    With c the greatest power of two that is no greater than `heads`, head h = 0 ... heads-1 has the slope

        m_h = 2^(-max_bias * (h + 1) / c)                          for h < c
        m_h = 2^(-max_bias * (2 * (h - c) + 1) / (2 * c))          for h >= c: every other slope of 2c heads

    and a query at position i, a key at position j, both integers, have the bias

        m_h * (j - i)     form "causal": 0 at the query, negative before it, positive behind it, where a mask belongs
        -m_h * |j - i|    form "symmetric"
        m_h * j           form "anchored" at position 0: the causal one plus m_h * i, one number a row. Softmax over the
                          keys of a row removes it; rounding does not, so it is a form of its own.

    Parameters
    ----------
    heads : number of heads, from 1 to 4,096.
    form : `causal`, `symmetric` or `anchored`. No default.
    max_bias : from 2^-10 to 64; the exponent of the last of c heads, as the shortest decimal that names the float. 8 in
        the paper.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Press et al. 2021, Train Short, Test Long (arXiv 2108.12409), section 3, for powers of two. The rule for other
    numbers of heads stands in its code only: fairseq/models/transformer.py, `get_slopes`, of ofirpress/
    attention_with_linear_biases. `max_bias` is MPT's `alibi_bias_max`. Who uses which form: `causal`, `symmetric`,
    `anchored`. Deviations in the world: 2^(-8h/heads) for every number of heads; a bias that is divided with the
    scores by sqrt(head_dim) (Falcon).
    """

    heads: int
    _: KW_ONLY
    form: Form
    max_bias: float = 8.0

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        settle("heads", checks.integer("Alibi.heads", self.heads, minimum=1, maximum=GREATEST_HEADS))
        settle("form", checks.choice("Alibi.form", self.form, tuple(_RUNS)))
        settle("max_bias", checks.number("Alibi.max_bias", self.max_bias, low=2.0**-10, high=64.0))

    @classmethod
    def causal(cls, heads: int, *, max_bias: float = 8.0) -> Alibi:
        """m * (j - i): GPT-NeoX, keras-hub; MPT, whose last query has it, shifts the other rows by a constant each."""
        return cls(heads, form="causal", max_bias=max_bias)

    @classmethod
    def symmetric(cls, heads: int, *, max_bias: float = 8.0) -> Alibi:
        """-m * |j - i|, for attention in both directions: x-transformers, MLX, OpenNMT-py."""
        return cls(heads, form="symmetric", max_bias=max_bias)

    @classmethod
    def anchored(cls, heads: int, *, max_bias: float = 8.0) -> Alibi:
        """m * j, of the key alone: the paper's own code, BLOOM, Falcon. Positions of keys count from 0 in each row."""
        return cls(heads, form="anchored", max_bias=max_bias)

    @property
    def weight_shape(self) -> None:
        """None: slopes are fixed."""
        return

    def slopes(self, dtype: str = "float32") -> tuple[float, ...]:
        """The slope of every head, correctly rounded to `dtype`, as the float that equals it."""
        checks.choice("Alibi.slopes.dtype", dtype, checks.OUTPUT_DTYPES)
        return tuple(_value(self.max_bias, exponent, 1, dtype) for exponent in _steps(self.heads))

    def plan(self) -> DistancePlan:
        """Lower to slopes in two parts, in exact arithmetic; the last few results are kept."""
        return _plan(self)

    def value(self, multiple: int, head: int, dtype: str = "float32") -> float:
        """The correctly rounded product of `multiple` and the slope of a head.

        Slow exact arithmetic, independent of the plan: the yardstick of the tests, and what a backend asks where
        float64 cannot decide a rounding. Raises SpecError for what is no integer or no output dtype, IndexError for a
        head that is not there.
        """
        multiple = checks.integer("Alibi.value.multiple", multiple)
        head = checks.integer("Alibi.value.head", head)
        checks.choice("Alibi.value.dtype", dtype, checks.OUTPUT_DTYPES)
        if not 0 <= head < self.heads:
            raise IndexError(f"Alibi.value: expected a head from 0 to {self.heads - 1}, received {head}")
        return _value(self.max_bias, _steps(self.heads)[head], multiple, dtype)


@lru_cache(maxsize=64)
def _steps(heads: int) -> tuple[Fraction, ...]:
    """Per head, what `max_bias` is multiplied by: the slope is 2^(-max_bias * step)."""
    whole = 1 << (heads.bit_length() - 1)
    return tuple(
        Fraction(head + 1, whole) if head < whole else Fraction(2 * (head - whole) + 1, 2 * whole)
        for head in range(heads)
    )


def _slope(max_bias: float, step: Fraction, digits: int) -> Fraction:
    """2^(-max_bias * step), exactly where that is rational."""
    exponent = exact.shortest(max_bias) * step
    if exponent.denominator == 1:
        return Fraction(1, 1 << exponent.numerator)
    return Fraction(exact.power(Fraction(2), -exponent, digits))


@lru_cache(maxsize=8192)
def _value(max_bias: float, step: Fraction, multiple: int, dtype: str) -> float:
    if multiple == 0:
        return 0.0
    return exact.rounded(lambda digits: multiple * _slope(max_bias, step, digits), dtype)


@lru_cache(maxsize=64)
def _plan(spec: Alibi) -> DistancePlan:
    return DistancePlan(
        axes=(_RUNS[spec.form],),
        rows=None,
        heads=spec.heads,
        slopes=tuple(_parts(spec.max_bias, step) for step in _steps(spec.heads)),
        anchored=spec.form == "anchored",
    )


@lru_cache(maxsize=8192)
def _parts(max_bias: float, step: Fraction) -> Slope:
    """One slope of a plan; other numbers of heads have many of the same."""
    slope = _slope(max_bias, step, 60)
    unit = Fraction(2) ** (_exponent(slope) - _HIGH_BITS + 1)
    high = round(slope / unit) * unit
    return Slope(float(high), exact.round_to(slope - high, "float64"), _value(max_bias, step, 1, "float32"))


def _exponent(value: Fraction) -> int:
    """floor(log2(value)) for 0 < value <= 1."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1
