"""Rotary embeddings, as their sources write them: each rule in two ways, by two sources, which have to agree."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp, mpf

from vectors.rope_rules import RULES, plain, plain_exponential
from vectors.rounding import named

Spec = dict[str, Any]


class Rotary(NamedTuple):
    """What a specification comes to: radians per position of each pair, and what cosines and sines are multiplied by.

    The sign of a rotation backwards is in `value`, not in the frequencies.
    """

    frequencies: list[Any]
    magnitude: Any
    softmax: Any
    sign: int

    def value(self, p: Any, channel: int) -> Any:
        """Channels 0 to n-1 are cosines, n to 2n-1 sines."""
        half, pair = divmod(channel, len(self.frequencies))
        angle = self.sign * p * self.frequencies[pair]
        return self.magnitude * (mp.sin if half else mp.cos)(angle) if angle else self.magnitude * (1 - half)


def rotary(spec: Spec) -> Rotary:
    """By both sources; ArithmeticError if they say different things."""
    d, base, rule = spec["rotary_dim"], named(spec["base"]), spec["scaling"]
    first, second = RULES[rule["rule"]] if rule else (plain, plain_exponential)
    options = {name: _real(name, value) for name, value in (rule or {}).items() if name != "rule"} | {
        "n": spec["length"]
    }
    frequencies = first(d, base, **options)
    for j, (a, b) in enumerate(zip(frequencies, second(d, base, **options), strict=True)):
        if abs(a - b) > abs(a) * mpf(10) ** -70:
            raise ArithmeticError(f"two sources disagree about pair {j} of {spec}")
    magnitude, softmax = MAGNITUDES.get((rule or {}).get("rule"), unscaled)(**options)
    sign = -1 if spec["direction"] == "negative" else 1
    return Rotary(frequencies, magnitude if spec["apply_magnitude"] else mpf(1), softmax, sign)


def _real(name: str, value: Any) -> Any:
    """A float is the decimal that names it; everything else is what it is."""
    if isinstance(value, list):
        return [named(entry) for entry in value]
    if name == "fraction":
        return Fraction(repr(value))  # of which a floor is taken
    return named(value) if isinstance(value, float) else value


# --- Magnitudes, and what attention scores are to be multiplied by ---


def unscaled(**_: Any) -> tuple[Any, Any]:
    return mpf(1), mpf(1)


def get_mscale(scale: Any, mscale: Any) -> Any:
    """yarn_get_mscale of DeepSeek-V3, modeling_deepseek.py; with mscale 1, arXiv 2309.00071, equation 22."""
    return mpf(1) if scale <= 1 else mscale * mp.log(scale) / 10 + 1


def yarn_magnitude(
    factor: Any,
    mscale: Any,
    mscale_all_dim: Any,
    attention_factor: Any,
    magnitude_rule: str | None,
    scale_softmax: bool,
    **_: Any,
) -> tuple[Any, Any]:
    if magnitude_rule == "deepseek":  # DeepseekV3YarnRotaryEmbedding: mscale=1, mscale_all_dim=0
        above, below = (1 if mscale is None else mscale), mscale_all_dim or 0
        magnitude = get_mscale(factor, above) / get_mscale(factor, below)
    elif magnitude_rule == "product":  # vLLM, YaRNScalingRotaryEmbedding: yarn_get_mscale(scaling_factor) * attn_factor
        magnitude = get_mscale(factor, 1) * (1 if attention_factor is None else attention_factor)
    elif attention_factor is not None:  # transformers, _compute_yarn_parameters, and so down to the end
        magnitude = attention_factor
    elif mscale and mscale_all_dim:
        magnitude = get_mscale(factor, mscale) / get_mscale(factor, mscale_all_dim)
    else:
        magnitude = get_mscale(factor, 1)
    softmax = get_mscale(factor, mscale_all_dim or 0) ** 2 if scale_softmax else mpf(1)  # DeepseekV3Attention
    return magnitude, softmax


def longrope_magnitude(
    original_length: int,
    factor: Any,
    extended_length: int | None,
    attention_factor: Any,
    short_mscale: Any,
    long_mscale: Any,
    magnitude_rule: str,
    n: int,
    **_: Any,
) -> tuple[Any, Any]:
    """sqrt(1 + ln(s) / ln(original)): microsoft/LongRoPE, rope/longrope.py. As a quotient of two logarithms here."""
    if short_mscale is not None:  # vLLM, phi3_long_rope_scaled_rope.py
        return (long_mscale if n > original_length else short_mscale), mpf(1)
    if attention_factor is not None:
        return attention_factor, mpf(1)
    scale = mpf(extended_length) / original_length if extended_length is not None else factor
    if scale is None or scale <= 1:
        return mpf(1), mpf(1)
    if magnitude_rule == "yarn":
        return get_mscale(scale, 1), mpf(1)
    return mp.sqrt(mp.log(scale * original_length) / mp.log(original_length)), mpf(1)


def temperature(factor: Any, **_: Any) -> tuple[Any, Any]:
    return get_mscale(factor, 1), mpf(1)


MAGNITUDES = {"Yarn": yarn_magnitude, "YarnPaper": temperature, "LongRope": longrope_magnitude}
