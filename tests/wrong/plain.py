"""A plain implementation in NumPy: exact phases, float64 sines, one rounding, no check of it.

The wrong ones change one step of it. What `Plain` gets right and they get wrong is due to that step.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

import ml_dtypes
import numpy as np

from posenc.conformance.protocol import Answer, Positions
from posenc.spec import Sinusoidal

TURN = 1 << 128


class Plain:
    """Right, up to the rounding of float64 values."""

    reports: ClassVar[tuple[str, ...]] = ()

    def phase(self, spec, positions):
        words = np.array([[split(phase) for phase in row] for row in phases(spec, *self.read(positions))], np.int64)
        return answer(words.reshape(*positions.shape, spec.pairs, 3))

    def encode(self, spec, positions, dtype):
        return answer(self.round(self.values(spec, positions), dtype).reshape(*positions.shape, spec.dim))

    def add(self, spec, x, positions):
        entries = np.frombuffer(x.data, numpy_dtype(x.dtype)).reshape(x.shape)
        positions = positions or Positions.of(range(x.shape[-2]))
        wide = "float64" if x.dtype == "float64" else "float32"
        wave = self.round(self.values(spec, positions), wide).reshape(*positions.shape, spec.dim)
        # float64 holds every sum of a narrow number and a float32 here exactly
        return answer(self.round(entries.astype(np.float64) + wave, x.dtype))

    def values(self, spec, positions):
        """The encoding in float64, `(rows, dim)`."""
        sine, cosine = self.waves(spec, positions)
        rows = np.zeros((len(sine), spec.dim))
        n = spec.pairs
        if spec.layout == "interleaved":
            rows[:, 0 : 2 * n : 2], rows[:, 1 : 2 * n : 2] = sine, cosine
        elif spec.layout == "sin_cos":
            rows[:, :n], rows[:, n : 2 * n] = sine, cosine
        else:
            rows[:, :n], rows[:, n : 2 * n] = cosine, sine
        rows *= spec.output_scale
        if spec.padding_position is not None:
            rows[[p == spec.padding_position for p in positions.values]] = 0
        return rows

    def waves(self, spec, positions):
        return exact_waves(spec, *self.read(positions))

    def read(self, positions):
        """The positions as exact numbers, and where they are counted from."""
        return tuple(positions.values)

    def round(self, values, dtype):
        return once(values, dtype)


def once(values, dtype):
    """Float64 to `dtype` in one rounding: NumPy's own, but for bfloat16, which ml_dtypes reaches through float32."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float64).view(np.int64)
        shift = 52 - 7
        bits = bits + (1 << (shift - 1)) - 1 + (bits >> shift & 1) & ~((1 << shift) - 1)
        values = bits.view(np.float64)
    return values.astype(numpy_dtype(dtype))


def numpy_dtype(dtype):
    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


def answer(array):
    return Answer(array.dtype.name, array.shape, array.tobytes())


def split(phase):
    return phase >> 96, phase >> 64 & 0xFFFFFFFF, phase >> 32 & 0xFFFFFFFF


@lru_cache(maxsize=256)
def _increments(spec: Sinusoidal):
    return spec.plan().increments


def phases(spec, *positions):
    """Of every position and pair, in units of 2^-128 turn."""
    increments = _increments(spec)
    for position in positions:
        whole, first, second = levels(position)
        whole += spec.position_offset
        yield [(whole * w + first * (w >> 31) + second * (w >> 62)) % TURN for w in increments]


def levels(position):
    """A position in units of 1, 2^-31 and 2^-62, as PhasePlan reads it."""
    if isinstance(position, int):
        return position, 0, 0
    parts, rest = [], Fraction(position)
    for _ in range(3):
        parts.append(math.trunc(rest))
        rest = (rest - parts[-1]) * 2**31
    return parts


def exact_waves(spec, *positions):
    """Sines and cosines in float64: the nearest quarter turn is taken from the phase as an integer."""
    rows = [[quarter(phase) for phase in row] for row in phases(spec, *positions)]
    turns = np.array(rows, dtype=np.float64).reshape(len(rows), spec.pairs, 2)
    quadrant, angle = turns[..., 0].astype(int), turns[..., 1] * (2 * np.pi / TURN)
    return tuple(np.choose((quadrant + k) % 4, waves(angle)) for k in (0, 1))


def quarter(phase):
    quadrant = (phase + TURN // 8) // (TURN // 4)
    return quadrant, float(phase - quadrant * (TURN // 4))


def waves(angle):
    return np.sin(angle), np.cos(angle), -np.sin(angle), -np.cos(angle)
