"""Encodings rounded correctly (clause N1): blocks of float64 values, the check of each, and what decides the rest.

Errors, for a magnitude m that multiplies every value. Angle addition, in units of 2^-53: anchors 0.51, their product
2 sqrt(2) * 0.51 and 1.25 of roundings, a second product sqrt(2) * (2.7 + 0.51) + 1.25, and 2 from m: below 8; `Check`
assumes 16, times m. Direct values: 2^-52 of the value from `waves`, 2^-52 of it from m, and m |p + offset| 2^-126
because increments are rounded to 2^-128 turn: below 2^-50 of the value, plus that. A value whose rounding such an error
could change is computed directly; where that cannot decide either, the specification computes it exactly. Zero is next
to a rounding boundary: pairs that do not turn, and many positions at the origin, are left out and written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl import addition
from posenc.numpy_impl.formats import Check, differ, narrow
from posenc.numpy_impl.inputs import DTYPES
from posenc.numpy_impl.waves import Float64, waves
from posenc.numpy_impl.words import AT_A_TIME, Int64, parts, phases, turning
from posenc.spec.plan import PhasePlan, PhaseSpec


def encode_integers(spec: PhaseSpec, plan: PhasePlan, p: range | Int64, name: str) -> NDArray[Any]:
    """`(n,)` -> `(n, dim)`, correctly rounded; float64 within 4 units in the last place and 2^-62."""
    p = _as_range(p)
    out, moving = _empty(spec, plan, len(p), name)
    origin = None if isinstance(p, range) or len(p) < addition.FEWEST else p == -plan.offset
    alone = origin is not None and bool(origin.all())
    if origin is not None and origin.any():
        p = np.where(origin, p[origin.argmin()], p)  # another position stands in
    if moving.pairs and not alone:
        job = _Job(spec, moving, p, out, *channels(plan, 0, moving.pairs))
        blocks = addition.blocks(moving, p, fine=name == "float64")
        if blocks is None:
            job.direct()
        else:
            job.checked(blocks)
    if origin is not None and origin.any():
        _rest(spec, plan, out, origin, 0)
    return out


class _Job(NamedTuple):
    """Which encoding, of the pairs that turn, at which positions, to write to which channels of what."""

    spec: PhaseSpec
    plan: PhasePlan
    p: range | Int64
    out: NDArray[Any]
    sine: slice
    cosine: slice

    def direct(self) -> None:
        p = np.asarray(self.p, np.int64)
        numbers = np.arange(self.out.shape[1])
        for part in parts(len(p), self.plan.pairs):
            w = waves(phases(self.plan, p[part]))
            for where, value in ((self.sine, w.sine), (self.cosine, w.cosine)):
                self.out[part, where] = self._decide(value, p[part, None], numbers[where])

    def checked(self, blocks: Iterator[tuple[slice, Float64]]) -> None:
        """Blocks of angle addition, and direct values where their errors could matter."""
        check = Check(self.out.dtype.name, self.plan.magnitude)
        scratch = np.empty((0, 0))
        doubtful: list[tuple[Int64, Int64]] = []
        for rows, block in blocks:
            if self.plan.layout == "interleaved":
                flags = check(block, self.out[rows, : 2 * self.plan.pairs])
            else:
                scratch = scratch if len(scratch) >= len(block) else np.empty(block.shape, self.out.dtype)
                flags = check(block, scratch[: len(block)])
                for where, first in ((self.sine, 0), (self.cosine, 1)):
                    self.out[rows, where] = scratch[: len(block), first::2]
            if flags is not None:
                row, column = flags.nonzero()
                doubtful.append((row + rows.start, column))
                if sum(len(row) for row, _ in doubtful) >= AT_A_TIME:
                    self._recompute(doubtful)
                    doubtful.clear()
        if doubtful:
            self._recompute(doubtful)

    def _recompute(self, doubtful: list[tuple[Int64, Int64]]) -> None:
        """Direct values in place of some, given by row and by column of a block."""
        numbers = np.arange(self.out.shape[1])
        numbers = np.stack((numbers[self.sine], numbers[self.cosine]), axis=1).reshape(-1)
        rows, columns = (np.concatenate(indices) for indices in zip(*doubtful, strict=True))
        for part in parts(len(rows), 1):
            row, column = rows[part], columns[part]
            p = self.p.start + self.p.step * row if isinstance(self.p, range) else self.p[row]
            w = waves(phases(self.plan, p, column >> 1))
            value = np.where(column & 1, w.cosine, w.sine)
            self.out[row, numbers[column]] = self._decide(value, p, numbers[column])

    def _decide(self, value: Float64, p: Int64, channel: Int64) -> NDArray[Any]:
        """Direct values without magnitude, rounded; `p` and `channel` broadcast to their shape."""
        name = self.out.dtype.name
        value = value * self.plan.magnitude
        if name == "float64":
            return value
        doubt = np.abs(value) * 2.0**-50 + np.abs(p + self.plan.offset) * (self.plan.magnitude * 2.0**-126)
        rounded, undecided = differ(value - doubt, value + doubt, name)
        if undecided.any():
            p, channel = np.broadcast_to(p, value.shape), np.broadcast_to(channel, value.shape)
            for index in zip(*undecided.nonzero(), strict=True):
                at = int(p[index])
                # the magnitude itself may lie between two neighbours; it is what all cosines of the origin are
                number = int(channel[index]) if at + self.plan.offset else int(self.cosine.start)
                rounded[index] = self.spec.value(at, number, name)
        return rounded


def encode_floats(spec: PhaseSpec, plan: PhasePlan, p: Float64, name: str) -> NDArray[Any]:
    """`(n,)` -> `(n, dim)`, within half a unit of the dtype and 2^-48."""
    out, moving = _empty(spec, plan, len(p), name)
    sine, cosine = channels(plan, 0, moving.pairs)
    for part in parts(len(p), max(1, moving.pairs)):
        w = waves(phases(moving, p[part]))
        out[part, sine], out[part, cosine] = (narrow(value * plan.magnitude, name) for value in (w.sine, w.cosine))
    return out


def channels(plan: PhasePlan, first: int, last: int) -> tuple[slice, slice]:
    """Which channels are the sines of pairs `first` to `last`, and which the cosines."""
    if plan.layout == "interleaved":
        return slice(2 * first, 2 * last, 2), slice(2 * first + 1, 2 * last, 2)
    n = plan.pairs
    lower, upper = slice(first, last), slice(n + first, n + last)
    return (lower, upper) if plan.layout == "sin_cos" else (upper, lower)


def _empty(spec: PhaseSpec, plan: PhasePlan, n: int, name: str) -> tuple[NDArray[Any], PhasePlan]:
    """Where to write, the channels that are everywhere the same in place; and the plan of the pairs that turn."""
    out = np.empty((n, plan.dim), DTYPES[name])
    out[:, 2 * plan.pairs :] = 0
    moving = turning(plan)
    if moving.pairs < plan.pairs:
        _rest(spec, plan, out, slice(None), moving.pairs)
    return out, moving


def _rest(spec: PhaseSpec, plan: PhasePlan, out: NDArray[Any], rows: slice | NDArray[np.bool_], first: int) -> None:
    """Phase zero, in some rows, of the pairs from `first` on: sine 0, and cosine the magnitude."""
    sine, cosine = channels(plan, first, plan.pairs)
    out[rows, sine] = 0
    out[rows, cosine] = spec.value(-plan.offset, cosine.start, out.dtype.name)


def _as_range(p: range | Int64) -> range | Int64:
    """An arithmetic progression in an array, as the range that it is."""
    if isinstance(p, range) or len(p) < addition.FEWEST:
        return p
    first, step = int(p[0]), int(p[1]) - int(p[0])
    if step == 0 or not (p[1:] - p[:-1] == step).all():
        return p
    return range(first, first + step * len(p), step)
