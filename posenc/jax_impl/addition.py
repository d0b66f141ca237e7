"""Long ranges by angle addition, in kernels of fixed shapes; `rounded` has the errors of both methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.jax_impl import inputs, waves, words
from posenc.jax_impl.formats import judged
from posenc.jax_impl.inputs import Array, HostArray
from posenc.jax_impl.words import Channels
from posenc.spec.plan import PhasePlan

TURNED = 1.25 * 2.0**-50
ABSOLUTE = 2.0**-92
SIZES = (4, 32, 128)
"""Rows of one kernel call; fewer are padded."""
WIDTH = 128
"""Channels of one kernel call are a multiple of this, padded likewise."""
BLOCK = SIZES[-1]
EVENLY_SPACED = 8 * BLOCK
"""Rows from which angle addition pays for its tables."""


def turn(channels: Channels, positions: range, rows: HostArray) -> HostArray:
    """Write all rows by angle addition; returns the index of those in doubt."""
    unit = channels._replace(offset=np.zeros_like(channels.offset), scale=np.sign(channels.scale))
    # the middle of a block is its anchor, so that the distance to it stays a position, whatever the step
    distances = positions.step * np.arange(-BLOCK // 2, BLOCK // 2)
    cosine = _table(distances, unit._replace(quarter=np.full_like(unit.quarter, words.QUARTER)))
    sine = _table(distances, unit._replace(quarter=np.zeros_like(unit.quarter)))
    slopes = channels._replace(quarter=channels.quarter + words.QUARTER)
    moving = channels.words[0].any(axis=0)
    floor = jax.device_put(np.where(moving, channels.scale, 0)[None] * ABSOLUTE)
    # the last block ends with the last row, and may repeat some of the block before
    starts = np.minimum(np.arange(0, len(rows), BLOCK), len(rows) - BLOCK)
    doubtful = [np.arange(0)]
    for first in range(0, len(starts), BLOCK):
        group = starts[first : first + BLOCK]
        anchors = positions.start + positions.step * (group + BLOCK // 2)
        tables = (_table(anchors, channels), cosine, _table(anchors, slopes), sine, floor)
        for k, start in enumerate(group.tolist()):
            block, doubts = _turned(np.int32(k), tables, rows.dtype)
            values = np.asarray(block)[:, : math.prod(rows.shape[1:])]
            rows[start : start + BLOCK] = values.reshape(BLOCK, *rows.shape[1:])
            doubtful.append(start + np.flatnonzero(np.asarray(doubts)))
    return np.unique(np.concatenate(doubtful))


def _table(positions: HostArray, channels: Channels) -> jax.Array:
    """Direct float64 values of at most `BLOCK` positions."""
    ((_, parts),) = pieces(positions)
    values: jax.Array = waves.float64(parts, channels)[0]
    return values


@lru_cache(maxsize=32)
def constants(plan: PhasePlan, still: float) -> Channels:
    """Of equal shapes for all plans of nearly equal width; the cosine of a pair that does not turn is `still`."""
    channels = words.channels(plan)
    moving = channels.words[0].any(axis=0)
    offset = np.zeros((4, plan.dim), np.uint32) if channels.offset is None else channels.offset
    scale = np.where(moving | (channels.quarter == 0), channels.scale, still)
    return Channels(wide(channels.words), wide(offset), wide(channels.quarter), wide(scale))


def wide(array: Array) -> HostArray:
    """Padded with channels of zero."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % WIDTH)])


@partial(jax.jit, static_argnums=2)
def _turned(k: Array, tables: tuple[Array, ...], dtype: np.dtype[Any]) -> tuple[jax.Array, jax.Array]:
    """Values of block k `(BLOCK, dim)`, and which of its rows are in doubt."""
    values, cosine, slopes, sine, floor = tables
    first = lax.dynamic_slice_in_dim(values, k, 1) * cosine
    second = lax.dynamic_slice_in_dim(slopes, k, 1) * sine
    error = (jnp.abs(first) + jnp.abs(second)) * np.float64(TURNED) + floor
    rounded, doubts = judged(first + second, error, dtype)
    return rounded, doubts.any(axis=-1)


def pieces(positions: HostArray) -> Iterator[tuple[slice, tuple[HostArray, ...]]]:
    """Positions `(n,)` in pieces of one size, each with its int32 parts `(size, 1)`, padded with zeros."""
    size = next((size for size in SIZES if len(positions) <= size), SIZES[-1])
    for start in range(0, len(positions), size):
        piece = slice(start, min(start + size, len(positions)))
        padding = (0, size - (piece.stop - piece.start))
        yield piece, tuple(np.pad(part, padding)[:, None] for part in inputs.split(positions[piece]))
