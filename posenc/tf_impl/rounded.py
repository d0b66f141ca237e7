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
from posenc.tf_impl.addition import DOUBT, Rows, concrete, progression, scales, steps_of
from posenc.tf_impl.formats import nearest
from posenc.tf_impl.inputs import Array, Tensor, as_array
from posenc.tf_impl.waves import channels, wave64
from posenc.tf_impl.words import phase_words, plan_words

SMALL = 2**15
"""Values up to which one graph serves every shape; above it XLA compiles blocks of a few fixed sizes."""
BLOCK = 2**17
"""Values of a block, which is all that is held besides the result."""


def encoded(spec: PhaseSpec, plan: PhasePlan, positions: range | Array, dtype: Any, tables: int = 1) -> list[Tensor]:
    """`(*P,)` host positions -> one tensor `(*P, dim)`, or two of half the channels, correctly rounded for integers."""
    rest = _rest(spec, plan, dtype) if 0 in plan.increments else None
    rows = positions if isinstance(positions, range) else _as_range(positions)
    if rows is not None and dtype != tf.float64 and len(rows) * plan.dim > SMALL and len(rows) >= 4 * steps_of(plan):
        result, again = progression(plan, rest, rows, dtype, tables)
        if plan.padding_position is not None and plan.padding_position in rows:
            again = np.union1d(again, [rows.index(plan.padding_position)])
        if len(again):
            result.put(again, _direct(spec, plan, rest, again * rows.step + rows.start, dtype, tables))
        return result.tables
    positions = as_array(positions)
    shape = [*positions.shape, plan.dim // tables]
    return [tf.reshape(part, shape) for part in _direct(spec, plan, rest, positions.reshape(-1), dtype, tables)]


def _rest(spec: PhaseSpec, plan: PhasePlan, dtype: Any) -> float:
    """The cosine of a phase of zero, rounded: every cosine at position `-offset`, and that of a pair that is still."""
    return spec.value(-plan.offset, {"interleaved": 1, "sin_cos": plan.pairs, "cos_sin": 0}[plan.layout], dtype.name)


def _as_range(positions: Array) -> range | None:
    if positions.ndim != 1 or positions.dtype.kind != "i" or len(positions) < 2:
        return None
    step = int(positions[1]) - int(positions[0])
    if step == 0 or not (np.diff(positions) == step).all():
        return None
    return range(int(positions[0]), int(positions[-1]) + (1 if step > 0 else -1), step)


def _direct(
    spec: PhaseSpec, plan: PhasePlan, rest: float | None, positions: Array, dtype: Any, tables: int
) -> list[Tensor]:
    """`(n,)` -> `(n, dim)` in one or two tensors, each value from its own phase."""
    total = len(positions)
    compiled = total * plan.dim > SMALL
    size = 1 << (max(1, min(total, BLOCK // plan.dim)) - 1).bit_length() if compiled else max(total, 1)
    shape = (size, plan.pairs) if compiled else (None, None)
    kernel = _direct_kernel(tf.as_dtype(positions.dtype), dtype, *shape)
    words, scale = tf.constant(plan_words(plan)), tf.constant(scales(plan, rest))
    result = Rows(total, plan, dtype, tables) if total > size else None
    blocks = [tf.zeros([0, plan.dim // tables], dtype)] * tables
    for start in range(0, total, size):
        chunk = positions[start : start + size]
        padded = np.zeros(size, positions.dtype)
        padded[: len(chunk)] = chunk
        sine, cosine, doubtful, any_doubtful = kernel(
            tf.constant(padded), words, scale, tf.constant(plan.offset, tf.int64)
        )
        if size > len(chunk):
            sine, cosine = sine[: len(chunk)], cosine[: len(chunk)]
        if any_doubtful:
            sine, cosine = _decided(spec, plan, chunk, sine, cosine, doubtful.numpy()[: len(chunk)])
        blocks = channels(plan, sine, cosine, tables)
        if plan.padding_position is not None:
            blocks = [tf.where((chunk == plan.padding_position)[:, None], tf.zeros((), dtype), b) for b in blocks]
        if result is not None:
            result.put(np.arange(start, start + len(chunk)), blocks)
    return blocks if result is None else result.tables


def _decided(
    spec: PhaseSpec, plan: PhasePlan, positions: Array, sine: Tensor, cosine: Tensor, doubtful: Array
) -> tuple[Tensor, Tensor]:
    """Sine and cosine of every doubtful pair computed exactly; those of a phase of zero once for all."""
    resting = positions == -plan.offset
    if (doubtful & resting[:, None]).any():  # the magnitude itself is close to a tie, and padding has many such rows
        cosine = tf.where(resting[:, None], tf.cast(_rest(spec, plan, cosine.dtype), cosine.dtype), cosine)
        sine = tf.where(resting[:, None], tf.zeros((), sine.dtype), sine)
    where = np.argwhere(doubtful & ~resting[:, None])
    results = []
    for wave, is_sine in ((sine, True), (cosine, False)):
        asked = [(int(positions[row]), _channel(plan, pair, is_sine)) for row, pair in where.tolist()]
        values = [spec.value(position, channel, wave.dtype.name) for position, channel in asked]
        exact = tf.cast(tf.constant(values, tf.float64), wave.dtype)
        results.append(tf.tensor_scatter_nd_update(wave, where, exact))
    return results[0], results[1]


def _channel(plan: PhasePlan, pair: int, sine: bool) -> int:
    if plan.layout == "interleaved":
        return 2 * pair + (not sine)
    return pair + plan.pairs * (sine == (plan.layout == "cos_sin"))


@lru_cache(maxsize=64)
def _direct_kernel(positions: Any, dtype: Any, rows: int | None, pairs: int | None) -> Callable[..., Any]:
    """Sines, cosines, which pairs of them are not certain, and whether any is; compiled where the shape is given."""

    def kernel(p: Tensor, words: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sine, cosine, angle = wave64(phase_words(words, p))
        both = tf.stack([sine, cosine]) * scale[0]
        if dtype == tf.float64 or not positions.is_integer:  # no claim of correct rounding
            rounded = tf.cast(nearest(both, dtype), dtype)
            return rounded[0], rounded[1], tf.zeros([1, 1], tf.bool), tf.constant(False)
        low, high = nearest(both - both * scale[1], dtype), nearest(both + both * scale[1], dtype)
        near_zero = angle < tf.abs(tf.cast(p + offset, tf.float64))[:, None] * (scale[1] * 2.0**-72 / DOUBT)
        doubtful = tf.reduce_any(low != high, 0) | near_zero
        low = tf.cast(low, dtype)
        return low[0], low[1], doubtful, tf.reduce_any(doubtful)

    spec = tf.TensorSpec
    signature = [
        spec([rows], positions), spec([4, 4, pairs], tf.int64), spec([2, pairs], tf.float64), spec([], tf.int64),
    ]  # fmt: skip
    return concrete(kernel, signature, jit=rows is not None)
