"""A plain rotation in NumPy: exact phases, float64 sines, one rounding; products in float32 or float64.

The wrong ones change one step of it. What `PlainRotation` gets right and they get wrong is due to that step.
"""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

from fractions import Fraction

import numpy as np

from posenc.conformance.protocol import Table
from posenc.spec import exact
from tests.wrong.plain import TURN, Plain, answer, levels, numpy_dtype, quarter, split, waves


class PlainRotation(Plain):
    """Right, up to the rounding of float64 values."""

    def phase(self, spec, positions):
        words = np.array([[split(phase) for phase in row] for row in self.phases(spec, self.read(positions))], np.int64)
        return answer(words.reshape(*positions.shape, spec.pairs, 3))

    def table(self, spec, positions, dtype):
        shape = (*positions.shape, spec.pairs)
        cosine, sine = self.cos_sin(spec, self.read(positions))
        both = (cosine * self.magnitude(spec, "cos"), sine * self.magnitude(spec, "sin"))
        return Table(*(answer(self.round(part, dtype).reshape(shape)) for part in both))

    def rotate(self, spec, x, table, head_axis):
        entries, (cosine, sine) = array(x), map(array, table)
        cosine, sine = (self.aligned(part, entries.ndim, head_axis) for part in (cosine, sine))
        wide = self.arithmetic(x.dtype)
        return answer(self.turned(spec, entries, cosine.astype(wide), sine.astype(wide), wide))

    # --- The steps ---

    def frequencies(self, spec):
        """Radians per position, exactly enough; a direction's sign is not in them."""
        return [exact.rounded(spec._frequency(pair), "float64") for pair in range(spec.pairs)]

    def increments(self, spec):
        """Turns per position in units of 2^-128; None where `frequencies` say something else."""
        return spec.plan().increments

    def magnitude(self, spec, half):
        return spec.magnitude

    def phases(self, spec, places):
        for place in places:
            whole, first, second = levels(place)
            yield [(whole * w + first * (w >> 31) + second * (w >> 62)) % TURN for w in self.increments(spec)]

    def cos_sin(self, spec, places):
        rows = [[quarter(phase) for phase in row] for row in self.phases(spec, places)]
        turns = np.array(rows, dtype=np.float64).reshape(len(rows), spec.pairs, 2)
        quadrant, angle = turns[..., 0].astype(int), turns[..., 1] * (2 * np.pi / TURN)
        sine, cosine = (np.choose((quadrant + k) % 4, waves(angle)) for k in (0, 1))
        return cosine, sine

    def arithmetic(self, dtype):
        return np.float64 if dtype == "float64" else np.float32

    def aligned(self, part, rank, head_axis):
        """With an axis of 1 where the heads are, and in front."""
        if head_axis is not None and part.ndim > 1:
            behind = rank - 2 - head_axis % rank  # axes of positions that come after the heads
            if part.ndim - 1 >= behind:
                part = np.expand_dims(part, part.ndim - 1 - behind)
        return part

    def channels(self, spec):
        """u, v, and where they are written, as slices of a head."""
        plan = spec.rotation()
        end = plan.start + 2 * plan.pairs
        middle = plan.start + plan.pairs
        halves = slice(plan.start, middle), slice(middle, end)
        neighbours = slice(plan.start, end, 2), slice(plan.start + 1, end, 2)
        of = {"half": halves, "interleaved": neighbours}
        return *of[plan.reads], *of[plan.writes]

    def turned(self, spec, entries, cosine, sine, wide):
        u, v, u_out, v_out = self.channels(spec)
        first, second = (entries[..., part].astype(wide) for part in (u, v))
        result = entries.copy()
        result[..., u_out] = (first * cosine - second * sine).astype(entries.dtype)
        result[..., v_out] = (second * cosine + first * sine).astype(entries.dtype)
        return result


class Frequencies(PlainRotation):
    """Has frequencies of its own, in float64: wrong ones differ by far more."""

    def increments(self, spec):
        sign = -1 if spec.direction == "negative" else 1
        turns = (Fraction(float(f)) / exact.two_pi(40) * TURN for f in self.frequencies(spec))
        return [sign * round(turn) for turn in turns]


def array(of):
    return np.frombuffer(of.data, numpy_dtype(of.dtype)).reshape(of.shape)


def theta(spec, width=None, base=None):
    """base^(-2j / width) in float64."""
    return (base or spec.base) ** (-2.0 * np.arange(spec.pairs) / (width or spec.rotary_dim))
