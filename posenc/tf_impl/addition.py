"""N1 of arithmetic progressions: sin(a + b) = sin a cos b + cos a sin b, from directly computed anchors.

A value is off by 2 * 2^-52 from its anchors, 2^-52 from products and sum and 2^-52 from the magnitude. Where v - e and
v + e round alike with e = 2^-49 magnitude, twice that, so does the real value; rows where a value does not, about ten
of 32,768, are left to the direct path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec.plan import PhasePlan
from posenc.tf_impl.formats import nearest
from posenc.tf_impl.inputs import Array, Tensor
from posenc.tf_impl.waves import channels, wave64
from posenc.tf_impl.words import phase_words, plan_words

DOUBT = 2.0**-49
BLOCK = 2**20
"""Values of a block, which is all that is held besides the result."""


class Rows:
    """Tables that are filled in place, so that no second one is ever held; where there are two, channels are halved."""

    def __init__(self, rows: int, plan: PhasePlan, dtype: Any, tables: int) -> None:
        shape = [rows, plan.dim // tables]
        self.tables = [tf.raw_ops.Empty(shape=shape, dtype=dtype) for _ in range(tables)]

    def put(self, rows: Array, blocks: Sequence[Tensor]) -> None:
        for table, block in zip(self.tables, blocks, strict=True):
            tf.raw_ops.InplaceUpdate(x=table, i=tf.constant(rows, tf.int32), v=block)


def steps_of(plan: PhasePlan) -> int:
    """Rows that share an anchor: a power of two, fewer where rows are wide."""
    return 1 << max(3, min(7, (BLOCK // plan.dim).bit_length() - 1))


@lru_cache(maxsize=64)
def scales(plan: PhasePlan, rest: float | None) -> Array:
    """`(2, pairs)`: what each pair is multiplied by, and the relative error of its values.

    A pair that does not turn has the value `rest`, already rounded, at every position. It is in no doubt: none of its
    values may be asked for one by one.
    """
    still = np.array([increment == 0 for increment in plan.increments])
    if rest is None or math.isinf(rest):  # an infinite one would make a sine of zero a NaN
        rest = plan.magnitude
    return np.array([np.where(still, rest, plan.magnitude), np.where(still, 0.0, DOUBT)])


def progression(plan: PhasePlan, rest: float | None, rows: range, dtype: Any, tables: int) -> tuple[Rows, Array]:
    """`(n, dim)` of an arithmetic progression, and which of its rows are not certain."""
    total, steps = len(rows), steps_of(plan)
    group = max(1, BLOCK // plan.dim * tables // steps)
    kernel = _progression_kernel(dtype, plan.dim // tables, group, steps)
    inner = replace(plan, offset=0)
    sine, cosine = _anchors(inner, np.arange(steps, dtype=np.int64) * rows.step)
    c, s = channels(plan, cosine, cosine, tables), channels(plan, sine, sine, tables)
    scale, relative = scales(plan, rest)
    error = tf.constant(relative * plan.magnitude)
    doubt = channels(plan, error, error, tables)  # the zero channel of an odd width is certain
    result, again = Rows(total, plan, dtype, tables), [np.zeros(0, np.int64)]
    for start in range(0, total, group * steps):
        stop = min(start + group * steps, total)
        ahead = start // (group * steps) % 8
        if ahead == 0:  # anchors of eight blocks in one call; past the end they repeat
            firsts = np.full(8 * group, rows[start], np.int64)
            some = rows[start : start + 8 * group * steps : steps]
            firsts[: len(some)] = some
            sine, cosine = (wave * scale for wave in _anchors(plan, firsts))
            a = [tf.split(part, 8) for part in channels(plan, sine, cosine, tables)]
            b = [tf.split(part, 8) for part in channels(plan, cosine, -sine, tables)]
        blocks = [kernel(a[i][ahead], b[i][ahead], c[i], s[i], doubt[i])[: stop - start] for i in range(tables)]
        result.put(np.arange(start, stop), blocks)
        again += [
            np.flatnonzero(tf.math.is_nan(block).numpy().any(-1)) + start
            for block in blocks
            if not np.isfinite(float(tf.reduce_sum(block)))
        ]
    return result, np.unique(np.concatenate(again))


def _anchors(plan: PhasePlan, positions: Array) -> tuple[Tensor, Tensor]:
    """Sines and cosines `(n, pairs)`."""
    sine, cosine = _anchor_kernel()(tf.constant(positions), tf.constant(plan_words(plan)))
    return sine, cosine


@lru_cache(maxsize=1)
def _anchor_kernel() -> Callable[..., Any]:
    def kernel(positions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return wave64(phase_words(words, positions))[:2]

    signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([4, 4, None], tf.int64)]
    return concrete(kernel, signature, jit=False)


@lru_cache(maxsize=64)
def _progression_kernel(dtype: Any, dim: int, anchors: int, steps: int) -> Callable[..., Any]:
    """Channels `a * c + b * s` rounded to `dtype`, NaN where that is not certain."""

    def kernel(a: Tensor, b: Tensor, c: Tensor, s: Tensor, doubt: Tensor) -> Tensor:
        value = tf.reshape(a[:, None] * c + b[:, None] * s, [anchors * steps, dim])
        low, high = nearest(value - doubt, dtype), nearest(value + doubt, dtype)
        certain = low == high
        if dtype == tf.float16:
            certain &= tf.abs(value) >= doubt  # else the sign of a zero is not
        return tf.cast(tf.where(certain, low, np.float32("nan")), dtype)

    signature = [tf.TensorSpec([n, dim], tf.float64) for n in (anchors, anchors, steps, steps)]
    signature.append(tf.TensorSpec([dim], tf.float64))
    return concrete(kernel, signature, jit=True)


def concrete(kernel: Callable[..., Any], signature: list[Any], *, jit: bool) -> Callable[..., Any]:
    """A kernel traced now, not at its first call: TensorFlow warns of functions that are traced often."""
    function = tf.function(kernel, input_signature=signature, jit_compile=jit, autograph=False)
    traced: Callable[..., Any] = function.get_concrete_function()
    return traced
