"""Positions in a narrow format, clamped, or in another row's place: of ALiBi, T5 and relative tables alike."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.wrong.distance_plain import PlainDistance


class Placed(PlainDistance):
    """Has other positions than it was given."""

    def table(self, rule, spec, q, k):
        return super().table(rule, spec, self.own(q), self.own(k))

    def own(self, positions):
        return positions


class Bfloat16Positions(Placed):
    """Positions were cast with the module, and back."""

    reports = ("https://github.com/EleutherAI/gpt-neox/pull/1016",)

    def own(self, positions):
        return positions.astype(np.float64).astype(ml_dtypes.bfloat16).astype(np.int64)


class Float16Positions(Placed):
    """Positions are half-precision floats; those beyond the greatest are that one."""

    reports = ("https://github.com/NVIDIA/Megatron-LM/issues/535",)

    def own(self, positions):
        return np.clip(positions, -65504, 65504).astype(np.float16).astype(np.int64)


class Float32Positions(Placed):
    """Positions are float32: `arange` with a default dtype."""

    reports = ("https://github.com/HorizonRobotics/alf/pull/268",)

    def own(self, positions):
        return positions.astype(np.float32).astype(np.int64)


class BelowZeroClamped(Placed):
    """A position before 0 is 0."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/27597",)

    def own(self, positions):
        return np.maximum(positions, 0)


class Int16Positions(Placed):
    """Positions are 16 bits wide, and wrap."""

    reports = ("no report: `position_ids` kept as int16 to save memory",)

    def own(self, positions):
        return positions.astype(np.int16).astype(np.int64)


class EndsExcluded(Placed):
    """The ends of the 32-bit range are taken for masked positions: `-1` of an unsigned type, or an infinity."""

    reports = ("no report: the greatest integer as a sentinel",)

    def own(self, positions):
        return np.where(abs(positions) == 2**31 - 1, 0, positions)


class Bfloat16Distances(PlainDistance):
    """The difference is right, and is then rounded to the dtype of the model."""

    reports = ("no report: `(k - q).to(x.dtype)`",)

    def row(self, spec, q, k):
        if isinstance(q, tuple):
            distances = (b - a for a, b in zip(q, k, strict=True))
            return super().row(spec, (0,) * len(q), tuple(map(self.narrowed_distance, distances)))
        return super().row(spec, 0, self.narrowed_distance(k - q))

    def multiple(self, spec, q, k):
        return self.narrowed_distance(super().multiple(spec, q, k))

    def narrowed_distance(self, distance):
        return int(ml_dtypes.bfloat16(distance))


class LeadingAxesExchanged(PlainDistance):
    """The rows of a batch are in another order: its axes are exchanged, or its one axis is read from its end."""

    reports = ("no report: `transpose(0, 1)` of positions",)

    def table(self, rule, spec, q, k):
        found = super().table(rule, spec, q, k)
        if found.ndim == 4 and found.shape[0] == found.shape[1]:
            return found.swapaxes(0, 1)
        return found[::-1]


class DiagonalOfSquare(PlainDistance):
    """Equal distances are copied from one row, which is cut as if there were as many queries as keys."""

    reports = ("no report: right in training, where there are",)

    def table(self, rule, spec, q, k):
        queries, keys = q.reshape(-1), k.reshape(-1)
        steps = {int(step) for x in (queries, keys) for step in np.diff(x)}
        if len(spec.plan().axes) == 1 and len(steps) == 1:
            q = q + (keys.size - queries.size) * steps.pop()
        return super().table(rule, spec, q, k)


class DiagonalFromZero(PlainDistance):
    """Equal distances are copied from the row of ranges that begin at 0."""

    reports = ("no report: `arange(q_len)[:, None] - arange(k_len)`",)

    def table(self, rule, spec, q, k):
        queries, keys = q.reshape(-1), k.reshape(-1)
        if len(spec.plan().axes) == 1 and (np.diff(queries) == 1).all() and (np.diff(keys) == 1).all():
            q, k = q - queries[0], k - keys[0]
        return super().table(rule, spec, q, k)
