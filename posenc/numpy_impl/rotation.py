"""Queries and keys turned by a table: products in float32, in float64 for float64, and one rounding.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posenc.numpy_impl.formats import settle
from posenc.numpy_impl.inputs import DTYPES, read_table, read_x
from posenc.numpy_impl.phase import Table
from posenc.spec import checks
from posenc.spec.plan import PairLayout, RotarySpec, RotationPlan, rotation_plan

TILE = 2**15
"""Values of `x` turned at a time: with cosines, sines and products they stay in the second-level cache."""


def rotate(
    spec: RotarySpec, x: ArrayLike, table: Table | tuple[ArrayLike, ArrayLike], *, head_axis: int | None
) -> NDArray[Any]:
    """Queries or keys turned by a table, with one rounding, in a new array: `x.shape`, `x.dtype`."""
    plan = rotation_plan("rotate", spec)
    array = read_x("rotate", x, plan.head_dim)
    axis = checks.head_axis("rotate", head_axis, array.ndim)
    lead = tuple(size for index, size in enumerate(array.shape[:-1]) if index != axis)
    cos, sin = (_aligned(part, array.ndim, axis) for part in read_table("rotate", table, plan.pairs, lead))
    result = np.empty(array.shape, array.dtype)
    start, stop = plan.start, plan.start + 2 * plan.pairs
    if stop - start < plan.head_dim:
        result[..., :start], result[..., stop:] = array[..., :start], array[..., stop:]
    source, target = _paired(array[..., start:stop], plan.reads), _paired(result[..., start:stop], plan.writes)
    turn = _at_once if target.size <= TILE else _in_tiles
    # infinities and NaN pass in silence, and so does a result that float16 cannot hold
    with np.errstate(all="ignore"):
        turn(plan, source, cos, sin, target)
    return result


def _aligned(part: NDArray[Any], rank: int, axis: int | None) -> NDArray[Any]:
    """A part of the table with an axis for each one of `x`, of size 1 where it does not vary."""
    shape = (1,) * (rank - part.ndim - (axis is not None)) + part.shape
    return part.reshape(shape if axis is None else (*shape[:axis], 1, *shape[axis:]))


def _paired(array: NDArray[Any], layout: PairLayout) -> NDArray[Any]:
    """`(..., 2 * pairs)` -> `(..., 2, pairs)`, a view: the channels u, then the channels v."""
    lead, pairs = array.shape[:-1], array.shape[-1] // 2
    return array.reshape(*lead, 2, pairs) if layout == "half" else array.reshape(*lead, pairs, 2).swapaxes(-1, -2)


def _wide(x: NDArray[Any]) -> np.dtype[Any]:
    """What products are taken in."""
    wide: np.dtype[Any] = DTYPES["float64" if x.itemsize == 8 else "float32"]
    return wide


def _round(value: NDArray[Any], out: NDArray[Any]) -> None:
    if out.dtype == np.float16:
        settle(value)
    out[...] = value


def _at_once(
    plan: RotationPlan,  # noqa: ARG001 - the parameters of `_in_tiles`
    x: NDArray[Any],
    cos: NDArray[Any],
    sin: NDArray[Any],
    out: NDArray[Any],
) -> None:
    u, v, c, s = (part.astype(_wide(x), copy=False) for part in (x[..., 0, :], x[..., 1, :], cos, sin))
    _round(u * c - v * s, out[..., 0, :])
    _round(v * c + u * s, out[..., 1, :])


def _in_tiles(plan: RotationPlan, x: NDArray[Any], cos: NDArray[Any], sin: NDArray[Any], out: NDArray[Any]) -> None:
    tile = _Tile(plan, _wide(x))
    for where, parts in _cuts(x.shape[:-2], cos.shape[:-1], max(1, TILE // (2 * plan.pairs))):
        tile.take(cos[where], sin[where])
        source, target = x[where], out[where]
        for part in parts:
            tile.turn(source[part], target[part])


Cut = tuple[slice, ...]


def _cuts(shape: tuple[int, ...], table: tuple[int, ...], rows: int) -> Iterator[tuple[Cut, Iterator[Cut]]]:
    """Pieces along the axes where the table varies, and of each its parts along the others, at most `rows` rows."""
    varying, others = [], []
    for size, own in zip(reversed(shape), reversed(table), strict=True):
        step = max(1, min(size, rows))
        rows //= step
        cuts = [slice(first, first + step) for first in range(0, size, step)]
        varying.append(cuts if own > 1 else [slice(None)])
        others.append([slice(None)] if own > 1 else cuts)
    return ((where, product(*reversed(others))) for where in product(*reversed(varying)))


class _Tile:
    """Turns parts by one piece of a table at a time, in buffers that are used again.

    u * cos - v * sin is taken as u * cos + v * (-sin), which has the same bits: one sum then serves all channels.
    """

    def __init__(self, plan: RotationPlan, wide: np.dtype[Any]) -> None:
        self.plan, self.wide = plan, wide
        self.buffers: dict[str, NDArray[Any]] = {}

    def take(self, cos: NDArray[Any], sin: NDArray[Any]) -> None:
        shape = (*cos.shape[:-1], 2, cos.shape[-1])
        self.cos, self.sin = self._buffer("cos", shape), self._buffer("sin", shape)
        self.cos[..., 0, :] = self.cos[..., 1, :] = cos
        self.sin[..., 1, :] = sin
        np.negative(self.sin[..., 1, :], out=self.sin[..., 0, :])

    def turn(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        reads, writes = self.plan.reads, self.plan.writes
        if x.dtype != self.wide:  # in the order in which it lies: conversions are slow in steps
            x = self._copy("wide", x, reads)
        if reads != writes:
            x = self._copy("ordered", x, writes)
        total = out if out.dtype == self.wide else self._buffer("total", x.shape)
        crossed = self._buffer("crossed", x.shape)
        np.multiply(x, self.cos, out=total)
        if writes == "half":
            np.multiply(x[..., ::-1, :], self.sin, out=crossed)
        else:  # in one call the innermost loop would be the two channels of a pair
            np.multiply(x[..., 1, :], self.sin[..., 0, :], out=crossed[..., 0, :])
            np.multiply(x[..., 0, :], self.sin[..., 1, :], out=crossed[..., 1, :])
        np.add(total, crossed, out=total)
        if total is not out:
            _round(total, out)

    def _copy(self, name: str, x: NDArray[Any], layout: PairLayout) -> NDArray[Any]:
        copy = self._buffer(name, x.shape, layout)
        copy[...] = x
        return copy

    def _buffer(self, name: str, shape: tuple[int, ...], layout: PairLayout | None = None) -> NDArray[Any]:
        """`shape` is `(..., 2, pairs)`; the first one that is asked for is the largest along every axis."""
        if name not in self.buffers:
            flat = np.empty((*shape[:-2], 2 * shape[-1]), self.wide)
            self.buffers[name] = _paired(flat, layout or self.plan.writes)
        buffer = self.buffers[name]
        return buffer if buffer.shape == shape else buffer[tuple(map(slice, shape))]
