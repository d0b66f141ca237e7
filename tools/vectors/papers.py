"""The encodings, as their sources write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath import mp, mpf

from vectors.rounding import named

Value = Callable[[Any, int], Any]
"""`value(position, channel)`: an mpf from an exact position."""


def vaswani(d: int, base: float = 10000.0) -> Value:
    """PE(p, 2i) = sin(p / base^(2i/d)), PE(p, 2i+1) = cos(p / base^(2i/d)): arXiv 1706.03762, section 3.5."""

    def value(p: Any, channel: int) -> Any:
        i = channel // 2
        angle = p / named(base) ** (mpf(2 * i) / d)
        return mp.cos(angle) if channel % 2 else mp.sin(angle)

    return value


def halves(frequency: Callable[[int], Any], n: int, flip: bool = False) -> Value:
    """concat[sin(p f_j), cos(p f_j)], the other way round with `flip`; a channel past 2n is zero."""

    def value(p: Any, channel: int) -> Any:
        if channel == 2 * n:
            return mpf(0)
        half, j = divmod(channel, n)
        return (mp.sin, mp.cos)[half ^ flip](p * frequency(j))

    return value


def tensor2tensor(channels: int, max_ts: float = 1e4, min_ts: float = 1.0, start_index: int = 0) -> Value:
    """inv_j = min_ts * exp(-j * ln(max_ts / min_ts) / max(n - 1, 1)): get_timing_signal_1d."""
    n = channels // 2

    def inverse(j: int) -> Any:
        return named(min_ts) * mp.exp(-j * mp.log(named(max_ts) / named(min_ts)) / max(n - 1, 1))

    signal = halves(inverse, n)
    return lambda p, channel: signal(p + start_index, channel)


def fairseq(d: int, padding_idx: int = 1) -> Value:
    """exp(-j * ln(10000) / (half - 1)), first token in row padding_idx + 1, row padding_idx zero."""
    half = d // 2
    rows = halves(lambda j: mp.exp(-j * mp.log(10000) / (half - 1)), half)
    return lambda p, channel: mpf(0) if p == -1 else rows(p + padding_idx + 1, channel)


def whisper(channels: int, max_timescale: float = 10000.0) -> Value:
    """log(max_timescale) / (channels // 2 - 1), sines and cosines side by side: whisper/model.py, sinusoids."""
    increment = mp.log(named(max_timescale)) / (channels // 2 - 1)
    return halves(lambda j: mp.exp(-increment * j), channels // 2)


def timestep(d: int, shift: float, flip: bool, scale: float = 1.0, max_period: float = 10000.0) -> Value:
    """exp(-ln(max_period) * k / (half - shift)), arg = scale * t * that: get_timestep_embedding; DDPM has shift 1."""
    half = d // 2

    def frequency(k: int) -> Any:
        return named(scale) * mp.exp(-mp.log(named(max_period)) * k / (half - named(shift)))

    return halves(frequency, half, flip)


def geometric(d: int, base: float, least: float, shift: float) -> Value:
    """Timescales least * (base / least)^(j / (n - shift)), divided by: what the word timescale says."""
    n = d // 2
    return halves(lambda j: 1 / (named(least) * (named(base) / named(least)) ** (j / (n - named(shift)))), n)


def scaled(value: Value, factor: float) -> Value:
    return lambda p, channel: named(factor) * value(p, channel)


def moved(value: Value, offset: int) -> Value:
    return lambda p, channel: value(p + offset, channel)
