"""Many positions by angle addition: sin(a + b) = sin a cos b + cos a sin b, from few exact anchors a and b.

A pair is one complex number. The outer anchor sin a + i cos a times the inner anchor cos b - i sin b is
sin(a + b) + i cos(a + b), which lies in memory as the two channels of the interleaved layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl.waves import Float64, split, waves
from posenc.numpy_impl.words import Int64, increments, parts, phases, product
from posenc.spec.plan import PhasePlan

Complex = NDArray[np.complex128]

TILE = 2**15  # values: with the operands of a product they stay in the second-level cache
FEWEST = 64  # positions below which anchors do not pay
CHUNK = 16  # outer anchors at a time, so that memory does not grow with the length


class Anchors(NamedTuple):
    """`(n, pairs)`; where errors must not add up, `head` lies on a grid of 2^-26 and `tail` is the rest."""

    head: Complex
    tail: Complex | None

    def rows(self, index: slice | Int64) -> Anchors:
        return Anchors(self.head[index], None if self.tail is None else self.tail[index])


def blocks(plan: PhasePlan, p: range | Int64, *, fine: bool) -> Iterator[tuple[slice, Float64]] | None:
    """Which rows, and their values `(rows, 2 * pairs)`, interleaved and without magnitude, in a buffer used again.

    Values err by less than 6 * 2^-53; with `fine`, by less than a unit in the last place plus 2^-62. None where the
    positions are too few or too far apart.
    """
    if len(p) < FEWEST:
        return None
    if isinstance(p, range):
        return _progression(plan, p, fine)
    least = int(p.min())
    span = int(p.max()) - least
    bits = (span.bit_length() + 1) // 2
    if (span >> bits) + (1 << bits) > len(p) // 64:  # all anchors are held, 16 or 32 bytes for each pair
        return None
    return _scattered(plan, p, least, bits, fine)


def _progression(plan: PhasePlan, p: range, fine: bool) -> Iterator[tuple[slice, Float64]]:
    rows = _rows(plan, fine)
    size = min(max(rows, 1 << len(p).bit_length() // 2), len(p) // 4)
    inner = _anchors(plan, np.arange(size, dtype=np.int64) * p.step, inner=True, fine=fine)
    tile = _Tile(plan, min(rows, size))
    for chunk, outer in _outer(plan, p[::size], fine):
        for low in range(0, size, rows):
            by = inner.rows(slice(low, low + rows))
            for i in range(len(outer.head)):
                first = (chunk + i) * size + low
                count = min(len(by.head), len(p) - first)
                if count > 0:
                    where = slice(first, first + count)
                    yield where, tile.product(outer.rows(slice(i, i + 1)), by.rows(slice(count)), count)


def _outer(plan: PhasePlan, p: range, fine: bool) -> Iterator[tuple[int, Anchors]]:
    """Anchors, `CHUNK` at a time: where they are many, by angle addition themselves."""
    around = np.arange(-(CHUNK // 2), CHUNK // 2, dtype=np.int64) * p.step
    by = None if fine or len(p) <= CHUNK else _anchors(plan, around, inner=True, fine=False)
    for first in range(0, len(p), CHUNK):
        some = p[first : first + CHUNK]
        if by is None:
            yield first, _anchors(plan, np.array(some, np.int64), inner=False, fine=fine)
        else:
            middle = len(some) // 2
            centre = _anchors(plan, np.array([some[middle]], np.int64), inner=False, fine=False)
            yield first, Anchors(centre.head * by.head[CHUNK // 2 - middle :][: len(some)], None)


def _scattered(plan: PhasePlan, p: Int64, least: int, bits: int, fine: bool) -> Iterator[tuple[slice, Float64]]:
    size = 1 << bits
    inner = _anchors(plan, np.arange(size, dtype=np.int64), inner=True, fine=fine)
    outer = _anchors(plan, np.arange(least, int(p.max()) + 1, size, dtype=np.int64), inner=False, fine=fine)
    rows = _rows(plan, fine)
    tile = _Tile(plan, rows)
    for first in range(0, len(p), rows):
        where = slice(first, min(first + rows, len(p)))
        distance = p[where] - least
        yield where, tile.product(outer.rows(distance >> bits), inner.rows(distance & size - 1), len(distance))


def _rows(plan: PhasePlan, fine: bool) -> int:
    """Rows of a block; with tails there are twice as many operands."""
    return max(1, TILE // (4 if fine else 2) // plan.pairs)


def _anchors(plan: PhasePlan, p: Int64, *, inner: bool, fine: bool) -> Anchors:
    shape = len(p), plan.pairs
    head = np.empty(shape, np.complex128)
    tail = np.empty(shape, np.complex128) if fine else None
    for part in parts(len(p), plan.pairs):
        phase = product(p[part, None], increments(plan)) if inner else phases(plan, p[part])
        s, s_tail, c, c_tail = waves(phase)
        if inner:
            s, s_tail, c, c_tail = c, c_tail, -s, -s_tail
        if tail is not None:
            (s, tail.real[part]), (c, tail.imag[part]) = split(s, s_tail), split(c, c_tail)
        head.real[part], head.imag[part] = s, c
    return Anchors(head, tail)


class _Tile:
    def __init__(self, plan: PhasePlan, rows: int) -> None:
        self.out, self.spare, self.more = np.empty((3, rows, plan.pairs), np.complex128)

    def product(self, outer: Anchors, inner: Anchors, rows: int) -> Float64:
        out = np.multiply(outer.head, inner.head, out=self.out[:rows])
        if outer.tail is not None and inner.tail is not None:
            # the product of the heads is exact; the other terms are 2^26 times smaller, and so are their roundings
            spare = np.multiply(outer.tail, inner.head, out=self.spare[:rows])
            spare += np.multiply(outer.head + outer.tail, inner.tail, out=self.more[:rows])
            out += spare
        return out.view(np.float64)
