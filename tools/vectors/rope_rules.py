"""Frequencies of every scaling rule, each written twice: the published code first, the paper or another code second.

A rule takes the rotary width `d`, the base, its own parameters by posenc's names, and `n`, the length of the sequence.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpmath import mp, mpf


def plain(d: int, base: Any, **_: Any) -> list[Any]:
    """1 / (base ** (2j / d)): transformers, modeling_rope_utils.py."""
    return [1 / base ** (mpf(2 * j) / d) for j in range(d // 2)]


def plain_exponential(d: int, base: Any, **_: Any) -> list[Any]:
    """theta_i = base^(-2(i - 1)/d), i = 1 ... d/2: arXiv 2104.09864, section 3.2.2."""
    return [mp.exp(-mpf(2 * (i - 1)) / d * mp.log(base)) for i in range(1, d // 2 + 1)]


def linear(d: int, base: Any, factor: Any, **_: Any) -> list[Any]:
    """inv_freq /= factor: transformers, _compute_linear_scaling_rope_parameters."""
    return [theta / factor for theta in plain(d, base)]


def interpolation(d: int, base: Any, factor: Any, **_: Any) -> list[Any]:
    """f(x, m L / L'): position 1 stands at 1 / factor. arXiv 2306.15595, equation 4."""
    position = 1 / factor
    return [position * theta for theta in plain_exponential(d, base)]


def ntk(d: int, base: Any, factor: Any, **_: Any) -> list[Any]:
    """base * alpha ** (dim / (dim - 2)): bloc97; jquesnelle/yarn, LlamaNTKScaledRotaryEmbedding.py."""
    return plain(d, base * factor ** (mpf(d) / (d - 2)))


def ntk_by_pair(d: int, base: Any, factor: Any, **_: Any) -> list[Any]:
    """Pair j slowed by factor^(2j / (d - 2)), the last one by the factor: arXiv 2309.00071, section 3.1."""
    return [theta * factor ** (-mpf(2 * j) / (d - 2)) for j, theta in enumerate(plain_exponential(d, base))]


def dynamic(d: int, base: Any, factor: Any, original_length: int, n: int, **_: Any) -> list[Any]:
    """base * ((factor * seq_len / max_position_embeddings) - (factor - 1)) ** (dim / (dim - 2)): transformers."""
    seq_len = max(n, original_length)
    alpha = (factor * seq_len / original_length) - (factor - 1)
    return plain(d, base * alpha ** (mpf(d) / (d - 2)))


def dynamic_by_pair(d: int, base: Any, factor: Any, original_length: int, n: int, **_: Any) -> list[Any]:
    """emozilla: nothing up to the trained length; beyond it alpha = 1 + factor * (excess share of the length)."""
    if n <= original_length:
        return plain_exponential(d, base)
    return ntk_by_pair(d, base, 1 + factor * (mpf(n) / original_length - 1))


def yarn(
    d: int, base: Any, factor: Any, original_length: int, beta_fast: Any, beta_slow: Any, truncate: bool, **_: Any
) -> list[Any]:
    """find_correction_range and linear_ramp_mask of jquesnelle/yarn, LlamaYaRNScaledRotaryEmbedding.py."""

    def find_correction_dim(num_rotations: Any) -> Any:
        return (d * mp.log(original_length / (num_rotations * 2 * mp.pi))) / (2 * mp.log(base))

    low, high = find_correction_dim(beta_fast), find_correction_dim(beta_slow)
    if truncate:
        low, high = mp.floor(low), mp.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += mpf(1) / 1000
    frequencies = []
    for j in range(d // 2):
        inv_freq_extrapolation = 1 / base ** (mpf(2 * j) / d)
        inv_freq_interpolation = 1 / (factor * base ** (mpf(2 * j) / d))
        inv_freq_mask = 1 - min(max((j - low) / (high - low), 0), 1)
        frequencies.append(inv_freq_interpolation * (1 - inv_freq_mask) + inv_freq_extrapolation * inv_freq_mask)
    return frequencies


def yarn_by_index(
    d: int, base: Any, factor: Any, original_length: int, beta_fast: Any, beta_slow: Any, truncate: bool, **_: Any
) -> list[Any]:
    """The same from the ends of the ramp: where base^(2j/d) has the wavelength of `turns` turns."""

    def end(turns: Any) -> Any:
        return mp.log(original_length / (2 * mp.pi * turns), base) * d / 2

    first, last = end(beta_fast), end(beta_slow)
    if truncate:
        first, last = -mp.ceil(-first), -mp.floor(-last)
    first, last = (0 if first < 0 else first), (d - 1 if last > d - 1 else last)
    width = last - first if last != first else mpf("0.001")
    shares = [max(mpf(0), min((j - first) / width, mpf(1))) for j in range(d // 2)]
    slowed = zip(plain_exponential(d, base), shares, strict=True)
    return [theta * (1 - share * (1 - 1 / mpf(factor))) for theta, share in slowed]


def by_parts(d: int, base: Any, factor: Any, original_length: int, alpha: Any, beta: Any, **_: Any) -> list[Any]:
    """h(theta) = (1 - gamma(r)) theta / s + gamma(r) theta, gamma a ramp in r: arXiv 2309.00071, section 3.2."""
    frequencies = []
    for theta in plain_exponential(d, base):
        r = original_length / (2 * mp.pi / theta)
        gamma = mpf(0) if r < alpha else mpf(1) if r > beta else (r - alpha) / (beta - alpha)
        frequencies.append((1 - gamma) * theta / factor + gamma * theta)
    return frequencies


def by_wavelength(
    d: int, base: Any, factor: Any, original_length: int, low_freq_factor: Any, high_freq_factor: Any, **_: Any
) -> list[Any]:
    """apply_scaling: meta-llama/llama-models, models/llama3/model.py."""
    low_freq_wavelen = original_length / low_freq_factor
    high_freq_wavelen = original_length / high_freq_factor
    frequencies = []
    for freq in plain(d, base):
        wavelen = 2 * mp.pi / freq
        if wavelen < high_freq_wavelen:
            frequencies.append(freq)
        elif wavelen > low_freq_wavelen:
            frequencies.append(freq / factor)
        else:
            smooth = (original_length / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor)
            frequencies.append((1 - smooth) * freq / factor + smooth * freq)
    return frequencies


def yarnpaper(d: int, base: Any, **options: Any) -> list[Any]:
    """The code for Llama 3 with other names: it is by parts, too."""
    names = {"low_freq_factor": options["alpha"], "high_freq_factor": options["beta"]}
    return by_wavelength(d, base, **options, **names)


def llama3(d: int, base: Any, **options: Any) -> list[Any]:
    """By parts, as transformers, MaxText and vLLM have it."""
    return by_parts(d, base, **options, alpha=options["low_freq_factor"], beta=options["high_freq_factor"])


def longrope(
    d: int, base: Any, short_factors: list[Any], long_factors: list[Any], original_length: int, n: int, **_: Any
) -> list[Any]:
    """1 / (ext_factors * base ** (2j / d)): microsoft/LongRoPE, rope/longrope.py; transformers."""
    ext_factors = long_factors if n > original_length else short_factors
    return [1 / (ext * base ** (mpf(2 * j) / d)) for j, ext in enumerate(ext_factors)]


def longrope_paper(
    d: int, base: Any, short_factors: list[Any], long_factors: list[Any], original_length: int, n: int, **_: Any
) -> list[Any]:
    """Position n / (lambda_i beta^i): arXiv 2402.13753, equation 1."""
    lambdas = short_factors if n <= original_length else long_factors
    return [1 / lam * theta for lam, theta in zip(lambdas, plain_exponential(d, base), strict=True)]


def proportional(d: int, base: Any, fraction: Fraction, factor: Any, **_: Any) -> list[Any]:
    """rope_angles = int(fraction * dim // 2), then zeros: transformers, _compute_proportional_rope_parameters."""
    rope_angles = int(fraction * d // 2)
    inv_freq_rotated = [1 / base ** (mpf(2 * j) / d) for j in range(rope_angles)]
    return [freq / factor for freq in inv_freq_rotated + [mpf(0)] * (d // 2 - rope_angles)]


def proportional_timescales(d: int, base: Any, fraction: Fraction, factor: Any, **_: Any) -> list[Any]:
    """Timescales base ** (2j / d), infinite past the share that turns: google-deepmind/gemma."""
    timescale = [base ** (mpf(2 * j) / d) if 2 * (j + 1) <= fraction * d else mp.inf for j in range(d // 2)]
    return [1 / (factor * scale) for scale in timescale]


RULES = {
    "Linear": (linear, interpolation),
    "Ntk": (ntk, ntk_by_pair),
    "DynamicNtk": (dynamic, dynamic_by_pair),
    "Yarn": (yarn, yarn_by_index),
    "YarnPaper": (by_parts, yarnpaper),
    "Llama3": (by_wavelength, llama3),
    "LongRope": (longrope, longrope_paper),
    "Proportional": (proportional, proportional_timescales),
}
