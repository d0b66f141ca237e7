"""Sinusoidal encodings of one position axis: transformers, fairseq, Whisper, diffusion timesteps."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from posenc.spec import checks, exact
from posenc.spec.plan import Layout, PhasePlan

GREATEST_DIM = 2**20
LEAST_FREQUENCY = 2.0**-64
GREATEST_FREQUENCY = 2.0**14


@dataclass(frozen=True, slots=True)
class Sinusoidal:
    """Sines and cosines of a position at geometrically spaced frequencies.

    Of an integer or real position p, with n = floor(dim / 2) pairs, pair j = 0 ... n-1 has

        angle_j   = position_scale * (p + position_offset) * frequency_j                        [radians]
        e_j       = j / (n - denominator_shift),  and e_0 = 0
        frequency_j = min_timescale^-1 * (base / min_timescale)^(-e_j)      timescale_rule "geometric"
        frequency_j = min_timescale    * (base / min_timescale)^(-e_j)      timescale_rule "tensor2tensor"

    and contributes the channels `output_scale * sin(angle_j)` and `output_scale * cos(angle_j)`.

    Parameters
    ----------
    dim : width of the encoding, from 2 to 2^20. An odd width needs `pad="zero"`.
    layout : order of the channels. `interleaved` sin_0 cos_0 sin_1 cos_1 ... (Vaswani et al.); `sin_cos` all sines,
        then all cosines (tensor2tensor, fairseq, Whisper, DDPM); `cos_sin` all cosines first (Stable Diffusion).
        No default.
    denominator_shift : what is taken from n in the exponent's denominator, < n where n > 1: 0 in the paper, 1 in
        tensor2tensor and its descendants, any number in diffusers (`downscale_freq_shift`). No default. A single pair
        has the first frequency, whatever the shift (tensor2tensor's own guard; others divide by zero).
    base : > 0. The timescale, in units of position per radian, that pair `n - denominator_shift` would have.
    min_timescale : > 0. The timescale of pair 0.
    timescale_rule : `geometric`, timescales run from `min_timescale` towards `base`. `tensor2tensor`, as published
        there: the frequencies are *multiplied* by `min_timescale`. The two agree where it is 1, the default.
    position_offset : an integer added to every position: fairseq's first token stands in row `padding_idx + 1`.
    position_scale : > 0, 1,000 in many flow-matching models.
    output_scale : from 2^-20 to 2^20, multiplies every channel: `(2 / dim) ** 0.5` in MLX, `dim ** -0.5` elsewhere.
    pad : `"zero"` appends a zero channel to an odd `dim`; None refuses an odd one. The paper is silent.
    padding_position : the position (before the offset) whose encoding is zero in every channel; None: no such position.

    Float parameters mean the shortest decimal that names them. Every frequency, times `position_scale`, lies from 2^-64
    to 2^14 radians per unit of position; within these bounds the numerical contract holds.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.5. Named conventions, with source and
    deviation each: `vaswani`, `tensor2tensor`, `fairseq`, `whisper`, `ddpm`, `diffusers`.
    """

    dim: int
    _: KW_ONLY
    layout: Layout
    denominator_shift: float
    base: float = 10000.0
    min_timescale: float = 1.0
    timescale_rule: Literal["geometric", "tensor2tensor"] = "geometric"
    position_offset: int = 0
    position_scale: float = 1.0
    output_scale: float = 1.0
    pad: Literal["zero"] | None = None
    padding_position: int | None = None

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        settle("dim", checks.integer("Sinusoidal.dim", self.dim, minimum=2, maximum=GREATEST_DIM))
        settle("layout", checks.choice("Sinusoidal.layout", self.layout, ("interleaved", "sin_cos", "cos_sin")))
        rules = ("geometric", "tensor2tensor")
        settle("timescale_rule", checks.choice("Sinusoidal.timescale_rule", self.timescale_rule, rules))
        settle("pad", checks.choice("Sinusoidal.pad", self.pad, ("zero", None)))
        if self.dim % 2 and self.pad is None:
            raise checks.SpecError(
                f"Sinusoidal.dim: expected an even integer (or Sinusoidal(..., pad='zero')), received {self.dim}"
            )
        for name in ("base", "min_timescale", "position_scale"):
            settle(name, checks.number(f"Sinusoidal.{name}", getattr(self, name)))
        settle("output_scale", checks.number("Sinusoidal.output_scale", self.output_scale, low=2.0**-20, high=2.0**20))
        settle("denominator_shift", _shift(self.denominator_shift, self.pairs))
        limit = checks.POSITION_LIMIT
        settle("position_offset", checks.integer("Sinusoidal.position_offset", self.position_offset, limit=limit))
        if self.padding_position is not None:
            padding = checks.integer("Sinusoidal.padding_position", self.padding_position, limit=limit)
            settle("padding_position", padding)
        self._refuse_extreme_frequencies()

    @property
    def pairs(self) -> int:
        """Number of frequencies, `dim // 2`."""
        return self.dim // 2

    def plan(self) -> PhasePlan:
        """Lower to phase increments, in exact arithmetic; the last few results are kept."""
        return _plan(self)

    def value(self, position: int | float, channel: int, dtype: str = "float32") -> float:
        """The encoding of one position (a float is the exact real it is) in one channel, correctly rounded to `dtype`.

        Slow exact arithmetic, independent of the plan: the yardstick of the tests, and what a backend asks where
        float64 cannot decide a rounding. Returns the float that equals the rounded value. Raises SpecError for what is
        no finite number or no output dtype, IndexError for a channel that is not there.
        """
        channel = checks.integer("Sinusoidal.value.channel", channel)
        checks.choice("Sinusoidal.value.dtype", dtype, checks.OUTPUT_DTYPES)
        exactly = checks.exact_position("Sinusoidal.value", position)
        if not 0 <= channel < self.dim:
            raise IndexError(f"Sinusoidal.value: expected a channel from 0 to {self.dim - 1}, received {channel}")
        if channel == 2 * self.pairs or exactly == self.padding_position:
            return 0.0
        return _value(self, exactly, channel, dtype)

    @classmethod
    def vaswani(cls, dim: int, *, base: float = 10000.0) -> Sinusoidal:
        """The paper: interleaved, exponent 2j/dim. Vaswani et al. 2017, section 3.5.

        The authors' own code computes something else: see `tensor2tensor`.
        """
        return cls(dim, layout="interleaved", denominator_shift=0.0, base=base)

    @classmethod
    def tensor2tensor(
        cls, dim: int, *, base: float = 10000.0, min_timescale: float = 1.0, position_offset: int = 0
    ) -> Sinusoidal:
        """`get_timing_signal_1d` as published: sines first, exponent j/(n - 1), zero channel for an odd width.

        `base` is its `max_timescale`, `position_offset` its `start_index`. It multiplies by `min_timescale` where the
        meaning of a timescale asks for a division; for that use `timescale_rule="geometric"`. Source:
        tensor2tensor/layers/common_attention.py. MaxText's `PositionalEmbedding` is the same.
        """
        return cls(
            dim,
            layout="sin_cos",
            denominator_shift=1.0,
            base=base,
            min_timescale=min_timescale,
            timescale_rule="tensor2tensor",
            position_offset=position_offset,
            pad=_zero_if_odd(dim),
        )

    @classmethod
    def fairseq(cls, dim: int, *, padding_idx: int = 1) -> Sinusoidal:
        """fairseq: sines first, exponent j/(n - 1); the first token, position 0, stands in row `padding_idx + 1`.

        Row `padding_idx`, which padding tokens read, is zero: here that is position -1. Source:
        fairseq/modules/sinusoidal_positional_embedding.py. M2M-100, XGLM, Speech2Text and others copy it.
        """
        offset = checks.integer("Sinusoidal.fairseq.padding_idx", padding_idx, minimum=0) + 1
        return cls(
            dim,
            layout="sin_cos",
            denominator_shift=1.0,
            position_offset=offset,
            padding_position=-1,
            pad=_zero_if_odd(dim),
        )

    @classmethod
    def whisper(cls, dim: int, *, base: float = 10000.0) -> Sinusoidal:
        """Whisper's `sinusoids`: sines first, exponent j/(n - 1), even widths only. Source: whisper/model.py."""
        return cls(dim, layout="sin_cos", denominator_shift=1.0, base=base)

    @classmethod
    def ddpm(cls, dim: int) -> Sinusoidal:
        """Diffusion timesteps of the DDPM code: sines first, exponent j/(n - 1), zero channel for an odd width.

        Ho et al. 2020 (arXiv 2006.11239), appendix B; hojonathanho/diffusion, diffusion_tf/nn.py.
        """
        return cls(dim, layout="sin_cos", denominator_shift=1.0, pad=_zero_if_odd(dim))

    @classmethod
    def diffusers(
        cls,
        dim: int,
        *,
        layout: Literal["sin_cos", "cos_sin"],
        denominator_shift: float,
        base: float = 10000.0,
        position_scale: float = 1.0,
    ) -> Sinusoidal:
        """`get_timestep_embedding` of diffusers: exponent j/(n - shift), zero channel for an odd width.

        `layout="cos_sin"` is its `flip_sin_to_cos=True`, `denominator_shift` its `downscale_freq_shift`, `base` its
        `max_period`, `position_scale` its `scale`. No default for the first two: the function's own (sines first,
        shift 1) is not what Stable Diffusion, SDXL, DiT and Flux use (cosines first, shift 0). Source:
        diffusers/models/embeddings.py.
        """
        checks.choice("Sinusoidal.diffusers.layout", layout, ("sin_cos", "cos_sin"))
        return cls(
            dim,
            layout=layout,
            denominator_shift=denominator_shift,
            base=base,
            position_scale=position_scale,
            pad=_zero_if_odd(dim),
        )

    def _spacing(self) -> tuple[Fraction, Fraction, Fraction]:
        """First frequency times `position_scale`, the ratio's base, and the exponent's step (<= 0)."""
        least = exact.shortest(self.min_timescale)
        first = least if self.timescale_rule == "tensor2tensor" else 1 / least
        denominator = self.pairs - exact.shortest(self.denominator_shift)
        step = 0 if self.pairs == 1 else -1 / denominator
        return first * exact.shortest(self.position_scale), exact.shortest(self.base) / least, Fraction(step)

    def _frequency(self, pair: int, digits: int) -> Fraction:
        """frequency_j without `position_scale`, to nearly `digits` digits."""
        first, ratio_base, step = self._spacing()
        return first / exact.shortest(self.position_scale) * Fraction(exact.power(ratio_base, step * pair, digits))

    def _refuse_extreme_frequencies(self) -> None:
        first, ratio_base, step = self._spacing()
        begin = math.log2(first.numerator) - math.log2(first.denominator)
        ratio = math.log2(ratio_base.numerator) - math.log2(ratio_base.denominator)
        for exponent in (begin, begin + ratio * float(step) * (self.pairs - 1)):
            if not math.log2(LEAST_FREQUENCY) <= exponent <= math.log2(GREATEST_FREQUENCY):
                raise checks.SpecError(
                    "Sinusoidal.base: expected base, min_timescale and position_scale that keep every frequency from "
                    f"2^-64 to 2^14 radians per unit of position, received one of 2^{exponent:.1f}"
                )


def _shift(value: object, pairs: int) -> float:
    where = "Sinusoidal.denominator_shift"
    try:
        shift = checks.real(value)
    except (TypeError, ValueError, OverflowError):
        shift = math.nan
    if not math.isfinite(shift) or (pairs > 1 and shift >= pairs):
        raise checks.SpecError(f"{where}: expected a number below dim // 2 = {pairs}, received {checks.shown(value)}")
    return shift + 0.0  # -0.0 and 0.0 are one number


def _zero_if_odd(dim: object) -> Literal["zero"] | None:
    """The padding of the conventions that append a zero channel to an odd width."""
    return "zero" if checks.integer("Sinusoidal.dim", dim, minimum=2) % 2 else None


@lru_cache(maxsize=64)
def _plan(spec: Sinusoidal) -> PhasePlan:
    first, ratio_base, step = spec._spacing()
    return PhasePlan(
        dim=spec.dim,
        layout=spec.layout,
        increments=exact.increments(first, ratio_base, step, spec.pairs),
        offset=spec.position_offset,
        magnitude=spec.output_scale,
        padding_position=spec.padding_position,
    )


@lru_cache(maxsize=8192)
def _value(spec: Sinusoidal, position: Fraction, channel: int, dtype: str) -> float:
    """`Sinusoidal.value` of checked arguments; a batch may ask for the same position many times."""
    if spec.layout == "interleaved":
        pair, cosine = divmod(channel, 2)
    else:
        half, pair = divmod(channel, spec.pairs)
        cosine = half ^ (spec.layout == "cos_sin")
    units = (position + spec.position_offset) * exact.shortest(spec.position_scale)

    def turns(bits: int) -> tuple[int, int]:
        if units == 0:
            return 0, 0
        digits = bits // 3 + 20
        radians = spec._frequency(pair, digits)
        scaled = units * Fraction(radians) * (1 << bits) / Fraction(2 * exact.pi(2 * bits + 80), 1 << (2 * bits + 80))
        error = abs(scaled) * Fraction(1, 10 ** (digits - 8))
        return round(scaled), 2 + int(error)

    scale = exact.shortest(spec.output_scale)
    return exact.rounded_wave(turns, bool(cosine), lambda _: scale, dtype)
