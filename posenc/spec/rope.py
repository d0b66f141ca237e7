"""Rotary position embeddings of one position axis (RoPE), with every scaling rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from posenc.spec import checks, exact
from posenc.spec.plan import PhasePlan, RotationPlan
from posenc.spec.rope_scaling import SCALINGS, Scaling
from posenc.spec.scaling_rule import Unscaled

GREATEST_HEAD_DIM = 2**16
LEAST_FREQUENCY = Fraction(1, 2**64)
GREATEST_FREQUENCY = Fraction(2**14)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotation of pairs of channels of queries and keys by angles proportional to the position.

    Of an integer or real position p, with d = `rotary_dim` and n = d / 2 pairs, pair j = 0 ... n-1 has

        theta_j = base^(-2j/d)                                               [radians per unit of position]
        angle_j = p * frequency_j,  frequency_j = theta_j unless `scaling` says otherwise
        cos_j = magnitude * cos(angle_j),  sin_j = magnitude * sin(angle_j)
        u' = u * cos_j - v * sin_j,  v' = v * cos_j + u * sin_j

    and the product of a query and a key so turned depends on the difference of their positions only.

    Parameters
    ----------
    head_dim : channels of a head, from 2 to 2^16. Even unless only some of them turn.
    base : > 0. No default: 10,000 in the paper, up to 10^11 in models, and a wrong one goes unnoticed.
    layout : which channels are u and v of pair j, among the rotary ones. `half`: j and n + j (GPT-NeoX, Llama in
        transformers). `interleaved`: 2j and 2j + 1 (the paper, GPT-J, Meta's Llama). `interleaved_to_half`: read as
        interleaved and written as half (DeepSeek-V3 in transformers). No default.
    rotary_dim : d, even, at most `head_dim`; None: all of it. The other channels stay as they are. Where a model gives
        it as a fraction, `Rope.partial` has the rule.
    rotary_channels : whether the rotary channels are the `first` or the `last` ones of a head.
    direction : `positive`, or `negative`: the angle is -p * frequency_j (nanochat). Scores are the same if queries and
        keys agree; cached keys are not.
    scaling : None, or a rule of `posenc`: Linear, Ntk, DynamicNtk, Yarn, YarnPaper, LongRope, Llama3, Proportional.
    apply_magnitude : False leaves cosines and sines without the magnitude of `scaling`.
    length : for DynamicNtk and LongRope, what `at_length` was given, or the least length with the same frequencies.
        Such a rope has no plan, and no table, before.

    Float parameters mean the shortest decimal that names them. Every frequency lies from 2^-64 to 2^14 radians per unit
    of position, or is 0; a magnitude lies from 2^-20 to 2^20; within these bounds the numerical contract holds.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Su et al. 2021, RoFormer (arXiv 2104.09864), equations 15 and 34. Scaling rules: each has its own.
    """

    head_dim: int
    base: float
    layout: Literal["half", "interleaved", "interleaved_to_half"]
    _: KW_ONLY
    rotary_dim: int | None = None
    rotary_channels: Literal["first", "last"] = "first"
    direction: Literal["positive", "negative"] = "positive"
    scaling: Scaling | None = None
    apply_magnitude: bool = True
    length: int | None = None

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        settle("head_dim", checks.integer("Rope.head_dim", self.head_dim, minimum=2, maximum=GREATEST_HEAD_DIM))
        settle("base", checks.number("Rope.base", self.base))
        settle("layout", checks.choice("Rope.layout", self.layout, ("half", "interleaved", "interleaved_to_half")))
        if self.rotary_dim is None and self.head_dim % 2:
            raise checks.SpecError(f"Rope.head_dim: expected an even integer >= 2, received {self.head_dim}")
        width = self.head_dim if self.rotary_dim is None else self.rotary_dim
        settle("rotary_dim", checks.integer("Rope.rotary_dim", width, minimum=2))
        if self._width % 2 or self._width > self.head_dim:
            raise checks.SpecError(
                f"Rope.rotary_dim: expected an even integer from 2 to head_dim = {self.head_dim}, "
                f"received {self.rotary_dim}"
            )
        settle("rotary_channels", checks.choice("Rope.rotary_channels", self.rotary_channels, ("first", "last")))
        if self._width == self.head_dim:
            settle("rotary_channels", "first")  # the same channels, and so an equal specification
        settle("direction", checks.choice("Rope.direction", self.direction, ("positive", "negative")))
        checks.boolean("Rope.apply_magnitude", self.apply_magnitude)
        if self.scaling is not None and not isinstance(self.scaling, tuple(SCALINGS.values())):
            names = ", ".join(SCALINGS)
            raise checks.SpecError(
                f"Rope.scaling: expected None or one of {names}, received {checks.shown(self.scaling)}"
            )
        if self.length is not None:
            length = checks.integer("Rope.length", self.length, minimum=1, limit=checks.POSITION_LIMIT)
            least = self.scaling.least_length(length) if self.scaling is not None else None
            if least is None:
                raise checks.SpecError(
                    f"Rope.length: expected None unless the scaling is DynamicNtk or LongRope, received {self.length}"
                )
            settle("length", least)
        if self.scaling is not None:
            self.scaling.check(self._origin())
        self._refuse_extremes()

    @classmethod
    def partial(
        cls,
        head_dim: int,
        fraction: float,
        *,
        base: float,
        layout: Literal["half", "interleaved", "interleaved_to_half"],
        rotary_channels: Literal["first", "last"] = "first",
        direction: Literal["positive", "negative"] = "positive",
        scaling: Scaling | None = None,
    ) -> Rope:
        """A rope on a fraction of each head: `rotary_dim` is floor(head_dim * fraction), of the exact decimal.

        That is `partial_rotary_factor` and `rotary_pct` of other libraries, which truncate a float product. An odd
        result is refused: libraries read it in different ways.
        """
        width = checks.integer("Rope.head_dim", head_dim, minimum=2)
        share = exact.shortest(checks.fraction("Rope.partial.fraction", fraction))
        rotary = int(width * share)
        if rotary % 2 or rotary < 2:
            raise checks.SpecError(
                "Rope.partial.fraction: expected one for which floor(head_dim * fraction) is even and >= 2, "
                f"received {checks.shown(fraction)}, which gives {rotary}"
            )
        return cls(
            width,
            base,
            layout,
            rotary_dim=rotary,
            rotary_channels=rotary_channels,
            direction=direction,
            scaling=scaling,
        )

    @property
    def pairs(self) -> int:
        """Number of pairs that are turned, `rotary_dim // 2`."""
        return self._width // 2

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by, rounded to float64; 1 unless the scaling says otherwise."""
        return exact.rounded(self._magnitude(), "float64")

    @property
    def softmax_factor(self) -> float:
        """What attention scores are to be multiplied by besides 1 / sqrt(width), rounded to float64.

        1, unless the scaling is a Yarn with `scale_softmax`. It is the model's part: nothing here applies it.
        """
        factor = getattr(self.scaling, "softmax_factor", None)
        return 1.0 if factor is None else exact.rounded(factor, "float64")

    def frequencies(self) -> tuple[float, ...]:
        """Radians per unit of position of every pair, each rounded to float64, without the direction's sign."""
        self._require_length()
        return tuple(exact.rounded(self._frequency(pair), "float64") for pair in range(self.pairs))

    def at_length(self, length: int) -> Rope:
        """The specification for a sequence of `length`, its highest position plus 1: a pure function of it.

        The same object unless the scaling depends on the length (DynamicNtk, LongRope). Lengths with the same
        frequencies give equal specifications. With DynamicNtk beyond the original length each length has a plan of its
        own, some milliseconds to make, and a compiled function a graph: step by step, take the length at which
        generation will end.
        """
        length = checks.integer("Rope.at_length.length", length, minimum=1, limit=checks.POSITION_LIMIT)
        needs = self.scaling is not None and self.scaling.needs_length
        return dataclasses.replace(self, length=length) if needs else self

    def rerotation(self) -> Rope:
        """The specification that turns keys which are already turned, by a difference of positions.

        `rotate(spec.rerotation(), k, table(spec.rerotation(), new - old), head_axis=...)` moves cached keys; magnitude
        and channel order are not applied a second time. Exact only where old and new positions have the same
        frequencies: the same `length`.
        """
        layout: Literal["half", "interleaved"] = "interleaved" if self.layout == "interleaved" else "half"
        return dataclasses.replace(self, layout=layout, apply_magnitude=False)

    def plan(self) -> PhasePlan:
        """Lower to phase increments, in exact arithmetic; the last few results are kept."""
        self._require_length()
        return _plan(self)

    def rotation(self) -> RotationPlan:
        """Which channels are turned together."""
        start = self.head_dim - self._width if self.rotary_channels == "last" else 0
        reads: Literal["half", "interleaved"] = "half" if self.layout == "half" else "interleaved"
        writes: Literal["half", "interleaved"] = "interleaved" if self.layout == "interleaved" else "half"
        return RotationPlan(self.head_dim, start, self.pairs, reads, writes)

    def value(self, position: int | float, channel: int, dtype: str = "float32") -> float:
        """One entry of the table of one position, correctly rounded to `dtype`.

        Channels 0 to n-1 are cos_0 to cos_(n-1), channels n to 2n-1 the sines. A float position is the exact real that
        it is. Slow exact arithmetic, independent of the plan. Raises SpecError for what is no finite number or no
        output dtype, IndexError for a channel that is not there.
        """
        self._require_length()
        channel = checks.integer("Rope.value.channel", channel)
        checks.choice("Rope.value.dtype", dtype, checks.OUTPUT_DTYPES)
        exactly = checks.exact_position("Rope.value", position)
        if not 0 <= channel < self._width:
            raise IndexError(f"Rope.value: expected a channel from 0 to {self._width - 1}, received {channel}")
        return _value(self, exactly, channel, dtype)

    @property
    def _width(self) -> int:
        """`rotary_dim`, which is an integer once it is settled."""
        return self.rotary_dim or 0

    def _origin(self) -> Unscaled:
        return Unscaled(self._width, exact.shortest(self.base), self.length)

    def _frequency(self, pair: int) -> Callable[[int], Fraction]:
        origin = self._origin()
        if self.scaling is None:
            return lambda digits: origin.frequency(pair, digits)
        scaling = self.scaling
        return lambda digits: scaling.frequency(origin, pair, digits)

    def _magnitude(self) -> Callable[[int], Fraction]:
        if self.scaling is None or not self.apply_magnitude:
            return lambda _: Fraction(1)
        return self.scaling.magnitude(self._origin())

    def _require_length(self) -> None:
        if self.scaling is not None and self.scaling.needs_length and self.length is None:
            raise checks.SpecError(
                f"Rope.length: expected a length, by spec.at_length(n), with {type(self.scaling).__name__}, "
                "received None"
            )

    def _refuse_extremes(self) -> None:
        origin = self._origin()
        pairs = range(0, self.pairs, max(1, self.pairs - 1)) if self.scaling is None else self.scaling.extremes(origin)
        for frequency in (self._frequency(pair)(10) for pair in pairs):
            if frequency and not LEAST_FREQUENCY <= frequency <= GREATEST_FREQUENCY:
                raise checks.SpecError(
                    "Rope.base: expected base and scaling that keep every frequency from 2^-64 to 2^14 radians per "
                    f"unit of position, received one of 2^{_log2(frequency):.1f}"
                )
        magnitude = self._magnitude()(10)
        if not Fraction(1, 2**20) <= magnitude <= 2**20:
            raise checks.SpecError(
                "Rope.scaling: expected one whose magnitude lies from 2^-20 to 2^20, "
                f"received one of 2^{_log2(magnitude):.1f}"
            )


def _log2(value: Fraction) -> float:
    return math.log2(value.numerator) - math.log2(value.denominator)


@lru_cache(maxsize=64)
def _plan(spec: Rope) -> PhasePlan:
    sign = -1 if spec.direction == "negative" else 1
    return PhasePlan(
        dim=2 * spec.pairs,
        layout="cos_sin",
        increments=tuple(sign * exact.increment(spec._frequency(pair)) for pair in range(spec.pairs)),
        magnitude=spec.magnitude,
    )


@lru_cache(maxsize=8192)
def _value(spec: Rope, position: Fraction, channel: int, dtype: str) -> float:
    """`Rope.value` of checked arguments; a batch may ask for the same position many times."""
    is_sine, pair = divmod(channel, spec.pairs)
    frequency = spec._frequency(pair)
    sign = -1 if spec.direction == "negative" else 1

    def turns(bits: int) -> tuple[int, int]:
        digits = bits // 3 + 20
        scaled = sign * position * frequency(digits) * (1 << bits) / exact.two_pi(digits)
        if scaled == 0:
            return 0, 0
        return round(scaled), 2 + int(abs(scaled) * Fraction(1, 10 ** (digits - 8)))

    return exact.rounded_wave(turns, not is_sine, spec._magnitude(), dtype)
