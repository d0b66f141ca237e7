"""N1: correctly rounded encodings on the host.

A float64 value v comes with a bound e of its error, here 2^-49 |v|: sine and cosine 2^-52, the magnitude and the
decimal that it stands for 2^-52 together, and the additions of the test itself. Where v - e and v + e round alike, so
does the real value. What is left is asked of `spec.value`, as are sines so near zero that the increments' own rounding
counts (an angle below 2^-72 of the position: no frequency is that low).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec.plan import PhasePlan, PhaseSpec
from posenc.tf_impl.addition import DOUBT, Rows, concrete, progression, steps_of
from posenc.tf_impl.formats import nearest
from posenc.tf_impl.inputs import Array, Tensor
from posenc.tf_impl.waves import arranged, wave64
from posenc.tf_impl.words import phase_words, plan_words

SMALL = 2**15
"""Values up to which one graph serves every shape; above it XLA compiles blocks of a few fixed sizes."""
BLOCK = 2**17
"""Values of a block, which is all that is held besides the result."""


def encoded(spec: PhaseSpec, plan: PhasePlan, positions: range | Array, dtype: Any) -> Tensor:
    """`(*P,)` host positions -> `(*P, dim)`, correctly rounded for integers."""
    rows = positions if isinstance(positions, range) else _as_range(positions)
    if rows is not None and dtype != tf.float64 and len(rows) * plan.dim > SMALL and len(rows) >= 4 * steps_of(plan):
        result, again = progression(plan, rows, dtype)
        if plan.padding_position is not None and plan.padding_position in rows:
            again = np.union1d(again, [rows.index(plan.padding_position)])
        if len(again):
            result.put(again, _direct(spec, plan, again * rows.step + rows.start, dtype))
        return result.table
    if isinstance(positions, range):
        positions = np.arange(len(positions), dtype=np.int64) * positions.step + positions.start
    return tf.reshape(_direct(spec, plan, positions.reshape(-1), dtype), [*positions.shape, plan.dim])


def _as_range(positions: Array) -> range | None:
    if positions.ndim != 1 or positions.dtype.kind != "i" or len(positions) < 2:
        return None
    step = int(positions[1]) - int(positions[0])
    if step == 0 or not (np.diff(positions) == step).all():
        return None
    return range(int(positions[0]), int(positions[-1]) + (1 if step > 0 else -1), step)


def _direct(spec: PhaseSpec, plan: PhasePlan, positions: Array, dtype: Any) -> Tensor:
    """`(n,)` -> `(n, dim)`, each value from its own phase."""
    total = len(positions)
    compiled = total * plan.dim > SMALL
    size = 1 << (max(1, min(total, BLOCK // plan.dim)) - 1).bit_length() if compiled else max(total, 1)
    shape = (size, plan.pairs) if compiled else (None, None)
    kernel = _direct_kernel(tf.as_dtype(positions.dtype), dtype, *shape)
    words, magnitude = tf.constant(plan_words(plan)), tf.constant(plan.magnitude, tf.float64)
    result = Rows(total, plan.dim, dtype) if total > size else None
    block = tf.zeros([0, plan.dim], dtype)
    for start in range(0, total, size):
        chunk = positions[start : start + size]
        padded = np.zeros(size, positions.dtype)
        padded[: len(chunk)] = chunk
        sine, cosine, doubtful, any_doubtful = kernel(
            tf.constant(padded), words, magnitude, tf.constant(plan.offset, tf.int64)
        )
        block = arranged(plan, sine, cosine)[: len(chunk)]
        if any_doubtful:
            block = _decided(spec, plan, chunk, block, doubtful.numpy()[: len(chunk)])
        if plan.padding_position is not None:
            block = tf.where((chunk == plan.padding_position)[:, None], tf.zeros((), dtype), block)
        if result is not None:
            result.put(np.arange(start, start + len(chunk)), block)
    return block if result is None else result.table


def _decided(spec: PhaseSpec, plan: PhasePlan, positions: Array, block: Tensor, doubtful: Array) -> Tensor:
    """The block with both channels of every doubtful pair computed exactly."""
    where = []
    for row, pair in np.argwhere(doubtful).tolist():
        channels = (2 * pair, 2 * pair + 1) if plan.layout == "interleaved" else (pair, plan.pairs + pair)
        where += [(row, channel) for channel in channels]
    if not where:
        return block
    values = [spec.value(int(positions[row]), channel, block.dtype.name) for row, channel in where]
    return tf.tensor_scatter_nd_update(block, where, tf.cast(tf.constant(values, tf.float64), block.dtype))


@lru_cache(maxsize=64)
def _direct_kernel(positions: Any, dtype: Any, rows: int | None, pairs: int | None) -> Callable[..., Any]:
    """Sines, cosines, which pairs of them are not certain, and whether any is; compiled where the shape is given."""

    def kernel(p: Tensor, words: Tensor, magnitude: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sine, cosine, angle = wave64(phase_words(words, p))
        both = tf.stack([sine, cosine]) * magnitude
        if dtype == tf.float64 or not positions.is_integer:  # no claim of correct rounding
            rounded = tf.cast(nearest(both, dtype), dtype)
            return rounded[0], rounded[1], tf.zeros([1, 1], tf.bool), tf.constant(False)
        low, high = nearest(both - both * DOUBT, dtype), nearest(both + both * DOUBT, dtype)
        near_zero = angle < tf.abs(tf.cast(p + offset, tf.float64))[:, None] * 2.0**-72
        doubtful = tf.reduce_any(low != high, 0) | near_zero
        low = tf.cast(low, dtype)
        return low[0], low[1], doubtful, tf.reduce_any(doubtful)

    spec = tf.TensorSpec
    signature = [
        spec([rows], positions), spec([4, 4, pairs], tf.int64), spec([], tf.float64), spec([], tf.int64),
    ]  # fmt: skip
    return concrete(kernel, signature, jit=rows is not None)
