"""Rows of tables and biases by the distance of query and key: what is asked, and weights with their gradients.

What goes in, and what is refused: `help(posenc)`. The integers of the pairs come from `pairs.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec import weight_checks
from posenc.spec.distance_plan import DistancePlan, DistanceSpec, bias_plan, rows_plan
from posenc.tf_impl import inputs, slopes
from posenc.tf_impl.formats import rounded, rounded_array
from posenc.tf_impl.inputs import Array, Pairs, Tensor
from posenc.tf_impl.learned import summed_rows
from posenc.tf_impl.pairs import filled, has_holes, numbers_of, rows_or_places
from posenc.tf_impl.phase import as_written


@as_written
def rows(spec: DistanceSpec, query_positions: object, key_positions: object) -> Tensor:
    """`(*B, Q)`, `(*B, K)` -> `(*B, Q, K)` int32, the same integers everywhere."""
    plan = rows_plan("rows", spec)
    pairs = inputs.read_pairs("rows", len(plan.axes), query_positions, key_positions)
    if pairs.arrays is not None and plan.strict:
        inputs.check_distances("rows", plan, *pairs.arrays)
    return _rows(plan, pairs)


@as_written
def bias(
    spec: DistanceSpec,
    query_positions: object,
    key_positions: object,
    *,
    weights: Any = None,
    dtype: Any = tf.float32,
) -> Tensor:
    """`(*B, Q)`, `(*B, K)` -> `(*B, heads, Q, K)`, which is no mask; weights `(rows, heads)` where the plan has rows.

    Slopes: correctly rounded on the host, fused in a graph or on an accelerator. Weights: copied bit for bit, or
    rounded once where `dtype` is another one, which in a graph takes subnormal numbers for zero; differentiable.
    """
    plan = bias_plan("bias", spec)
    pairs = inputs.read_pairs("bias", len(plan.axes), query_positions, key_positions)
    heads: int = plan.heads  # type: ignore[assignment]  # bias_plan has seen to it
    if plan.rows is None:
        if weights is not None:
            raise weight_checks.no_weights_error("bias", weights)
    elif weights is None:
        raise weight_checks.weights_shape_error("bias", (plan.rows, heads), None)
    else:
        weights = inputs.read_weights("bias", weights, (plan.rows, heads))
    dtype = inputs.read_dtype("bias", dtype)
    if pairs.arrays is not None and plan.strict:
        inputs.check_distances("bias", plan, *pairs.arrays)
    if plan.rows is not None:
        return _weighted(plan, pairs, weights, dtype)
    if not pairs.on_host:
        return _sloped(plan, numbers_of(plan, *pairs.tensors()), dtype)

    def products(numbers: Array, some: range) -> Array:
        return slopes.products(spec, plan, numbers, some, dtype)  # type: ignore[arg-type]  # its plan has slopes

    with tf.device("CPU:0"):
        return filled(plan, pairs, heads, dtype, products)


def _sloped(plan: DistancePlan, numbers: Tensor, dtype: Any) -> Tensor:
    n = numbers[..., None, :, :]
    if dtype == tf.float64:
        high, low = (np.array([slope[part] for slope in plan.slopes])[:, None, None] for part in (0, 1))
        wide = tf.cast(n, tf.float64)
        return high * wide + low * wide
    slope = np.array([slope.float32 for slope in plan.slopes], np.float32)[:, None, None]
    return tf.cast(slope * tf.cast(n, tf.float32), dtype)


def _rows(plan: DistancePlan, pairs: Pairs) -> Tensor:
    if pairs.on_host:
        with tf.device("CPU:0"):
            result = filled(plan, pairs, 1, tf.int32, lambda numbers, _: numbers.astype(np.int32)[None])
            return tf.squeeze(result, -3)
    index, line = rows_or_places(plan, *pairs.tensors())
    return index if line is None else tf.gather(tf.constant(line), index)


def _weighted(plan: DistancePlan, pairs: Pairs, weights: Tensor, dtype: Any) -> Tensor:
    """`(*B, heads, Q, K)` of weights `(rows, heads)`."""
    count, heads = weights.shape
    wide = tf.float64 if tf.float64 in (weights.dtype, dtype) else tf.float32

    def find() -> tuple[Tensor, Array | None]:
        return (_rows(plan, pairs), None) if pairs.on_host else rows_or_places(plan, *pairs.tensors())

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # as TensorFlow is
    def read(weights: Tensor) -> tuple[Tensor, Any]:
        if pairs.on_host and inputs.on_host(weights):
            return _copied(plan, pairs, weights, dtype), gradient
        table = rounded(weights, dtype)
        if has_holes(plan):  # pairs without a row read one more
            table = tf.concat([table, tf.fill([1, heads], tf.constant(math.nan, dtype))], 0)
        index, line = find()
        if line is None:
            index = tf.where(index < 0, count, index) if has_holes(plan) else index
        else:
            table = tf.gather(table, np.where(line < 0, count, line))
        return _transposed(tf.gather(table, index), (2, 0, 1)), gradient

    def gradient(upstream: Tensor) -> Tensor:
        """The sum over the pairs of a row, in at least float32."""
        index, line = find()
        total = _transposed(tf.cast(upstream, wide), (1, 2, 0))
        if line is not None:
            total, index = summed_rows(total, index, (len(line), heads)), tf.constant(line)
        total = summed_rows(total, tf.where(index < 0, count, index), (count + 1, heads))
        return tf.cast(total[:count], weights.dtype)

    return read(weights)


def _transposed(x: Tensor, order: tuple[int, int, int]) -> Tensor:
    """The last three axes in another order."""
    before = (tf.rank(x) if x.shape.rank is None else x.shape.rank) - 3
    return tf.transpose(x, tf.concat([tf.range(before), [before + axis for axis in order]], 0))


def _copied(plan: DistancePlan, pairs: Pairs, weights: Tensor, dtype: Any) -> Tensor:
    """`(*B, heads, Q, K)` of weights `(rows, heads)`."""
    table = rounded_array(np.asarray(weights), dtype)
    columns = np.vstack([table, np.full_like(table[:1], math.nan)]).T.copy()  # pairs without a row read the last one

    def values(numbers: Array, heads: range) -> Array:
        found: Array = columns[heads.start : heads.stop].take(np.where(numbers < 0, len(table), numbers), 1)
        return found

    with tf.device("CPU:0"):
        return filled(plan, pairs, len(columns), dtype, values)
