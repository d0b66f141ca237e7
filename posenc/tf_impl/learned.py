"""Learned tables: the rows that positions read, and their resizing.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec import weight_checks
from posenc.spec.resampling import Method
from posenc.spec.row_plan import ResizePlan, RowPlan, RowSpec, Taps, resize_plan, row_plan
from posenc.tf_impl import inputs
from posenc.tf_impl.formats import rounded, rounded_array
from posenc.tf_impl.inputs import Array, Tensor
from posenc.tf_impl.phase import as_written


@as_written
def lookup(spec: RowSpec, weights: Any, positions: object) -> Tensor:
    """`(rows, dim)`, `(*P,)` -> `(*P, dim)` in the dtype of the weights, bit for bit where they are not scaled.

    In a graph subnormal numbers times a scale are taken for zero. Differentiable in the weights, densely.
    """
    plan = row_plan("lookup", spec)
    weights = inputs.read_weights("lookup", weights, (plan.rows, plan.dim))
    read = inputs.read_positions("lookup.positions", positions)
    known = not tf.is_tensor(read)
    if known:
        check_rows(plan, read)
    return _rows(plan, weights, inputs.as_tensor(read), known)


@as_written
def resize(spec: RowSpec, weights: Any, shape: Sequence[int], *, method: Method) -> Tensor:
    """`(rows, dim)` -> `(kept + prod(shape), dim)` in the dtype of the weights, by float64 arithmetic everywhere.

    In a graph subnormal numbers are taken for zero, except in rows that are kept. Differentiable in the weights.
    """
    plan = resize_plan("resize", spec, shape, method)
    weights = inputs.read_weights("resize", weights, (plan.rows, plan.dim))
    if all(taps is None for taps in plan.axes):
        return tf.identity(weights)
    if tf.executing_eagerly() and inputs.on_host(weights):
        return _resized_on_host(plan, weights)
    value = tf.cast(weights[plan.kept :], tf.float64)
    for before, taps, size, after in _axes(plan):
        value = _resampled(tf.reshape(value, [before, size, after]), taps)
    new = rounded(tf.reshape(value, [-1, plan.dim]), weights.dtype)
    return tf.concat([weights[: plan.kept], new], 0)


def check_rows(plan: RowPlan, positions: range | Array) -> None:
    """Refuse the first position outside the table."""
    if isinstance(positions, range):
        # of a range that begins inside, the first one outside is the first one past an end
        inside = len(range(positions.start, plan.high + 1 if positions.step > 0 else plan.low - 1, positions.step))
        begins = not positions or plan.low <= positions[0] <= plan.high
        if not begins or inside < len(positions):
            raise weight_checks.row_position_error("lookup", plan.low, plan.high, positions[inside if begins else 0])
        return
    outside = (positions < plan.low) | (positions > plan.high)
    if outside.any():
        raise weight_checks.row_position_error("lookup", plan.low, plan.high, positions[outside][0].item())


def _rows(plan: RowPlan, weights: Tensor, positions: Tensor, known: bool) -> Tensor:
    """`(*P, dim)`; no index that leaves the table, as devices differ in what they make of it.

    `known`: the positions were at hand, and are inside.
    """
    wide = tf.float64 if weights.dtype == tf.float64 else tf.float32
    scale = None if plan.scale == 1 else tf.constant(plan.scale, wide)
    inside = None if known else (positions >= plan.low) & (positions <= plan.high)
    index = positions if inside is None else tf.where(inside, positions, plan.low)
    index = tf.cast(index + plan.offset, tf.int32)

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # as TensorFlow is
    def read(weights: Tensor) -> tuple[Tensor, Any]:
        if scale is not None and known and tf.executing_eagerly() and inputs.on_host(weights):
            table, places = np.asarray(weights), np.asarray(index)
            if places.size < plan.rows:
                return tf.constant(_scaled(table[places], plan.scale)), gradient
            return tf.gather(tf.constant(_scaled(table, plan.scale)), index), gradient
        result = tf.gather(weights, index)
        if scale is not None:
            result = tf.cast(tf.cast(result, wide) * scale, weights.dtype)
        if inside is not None:
            result = tf.where(inside[..., None], result, tf.constant(math.nan, weights.dtype))
        return result, gradient

    def gradient(upstream: Tensor) -> Tensor:
        """The sum over all positions of a row, in at least float32."""
        part = tf.cast(upstream, wide)
        if scale is not None:
            part *= scale
        reads = inside
        if plan.frozen_position is not None:
            thawed = positions != plan.frozen_position
            reads = thawed if reads is None else reads & thawed
        if reads is not None:
            part = tf.where(reads[..., None], part, tf.zeros((), wide))
        return tf.cast(summed_rows(part, index, (plan.rows, plan.dim)), weights.dtype)

    return read(weights)


def _scaled(rows: Array, scale: float) -> Array:
    """Their product with a scale, which for NumPy has subnormal numbers."""
    wide = np.dtype(np.float64 if rows.dtype == np.float64 else np.float32)
    with np.errstate(all="ignore"):  # of what is not finite, or has no place in the dtype
        product: Array = rows.astype(wide) * np.array(scale, wide)
        return product.astype(rows.dtype)


def summed_rows(values: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """Values `(*P, n)` added up to `shape`, `(rows, n)`, by their `(*P,)` index, each below `rows`."""
    return tf.math.unsorted_segment_sum(tf.reshape(values, [-1, shape[1]]), tf.reshape(index, [-1]), shape[0])


def _axes(plan: ResizePlan) -> Iterator[tuple[int, Taps, int, int]]:
    """Of every axis that is resampled: numbers before it, its taps, its size, and numbers behind it."""
    before, after = 1, math.prod(plan.grid) * plan.dim
    for taps, size, wanted in zip(plan.axes, plan.grid, plan.shape, strict=True):
        after //= size
        if taps is not None:
            yield before, taps, size, after
        before *= wanted


def _resampled(value: Tensor, taps: Taps) -> Tensor:
    """`(before, n, after)` -> `(before, m, after)`: tap after tap, every product and every sum rounded."""
    total: Any = None
    for index, weights in zip(np.transpose(taps.index), np.transpose(taps.weights), strict=True):
        # not along axis 0, where the gradient would be sparse
        product = tf.gather(value, index.astype(np.int32), axis=1) * tf.constant(weights[:, None], tf.float64)
        added = product if total is None else total + product
        total = added if weights.all() else tf.where((weights != 0)[:, None], added, total)
    return total


def _resized_on_host(plan: ResizePlan, weights: Tensor) -> Tensor:
    """The same, output after output, so that nothing is gathered."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # as TensorFlow is
    def resized(weights: Tensor) -> tuple[Tensor, Any]:
        table = np.asarray(weights)
        with np.errstate(all="ignore"):  # of what is not finite
            value = table[plan.kept :].astype(np.float64)
            for before, taps, size, after in _axes(plan):
                value = _resampled_array(value.reshape(before, size, after), taps)
        new = rounded_array(value.reshape(-1, plan.dim), weights.dtype)
        return tf.constant(np.concatenate([table[: plan.kept], new])), gradient

    def gradient(upstream: Tensor) -> Tensor:
        """The transpose of each axis, in any order."""
        value = tf.cast(upstream[plan.kept :], tf.float64)
        shape = list(plan.shape)
        for axis, (taps, size) in enumerate(zip(plan.axes, plan.grid, strict=True)):
            if taps is not None:
                sizes = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]) * plan.dim]
                value = _given_back(tf.reshape(value, sizes), taps, size)
                shape[axis] = size
        old = tf.cast(tf.reshape(value, [-1, plan.dim]), weights.dtype)
        return tf.concat([upstream[: plan.kept], old], 0)

    return resized(weights)


def _given_back(value: Tensor, taps: Taps, size: int) -> Tensor:
    """`(before, m, after)` -> `(before, n, after)`: the transpose, from every output to the inputs that it read.

    No matrix: its zeros would spread what is not finite.
    """
    weights = np.array(taps.weights)
    output, tap = weights.nonzero()
    before, _, after = value.shape
    # not along axis 0, where a second gradient would be sparse
    product = tf.gather(value, output, axis=1) * tf.constant(weights[output, tap, None])
    place = size * np.arange(before)[:, None] + np.array(taps.index)[output, tap]
    total = tf.math.unsorted_segment_sum(tf.reshape(product, [-1, after]), place.reshape(-1), before * size)
    return tf.reshape(total, [before, size, after])


def _resampled_array(x: Array, taps: Taps) -> Array:
    """`(before, n, after)` -> `(before, m, after)`."""
    result = np.empty((x.shape[0], len(taps.index), x.shape[2]))
    for output, (index, factors) in enumerate(zip(taps.index, taps.weights, strict=True)):
        total = x[:, index[0]] * factors[0]
        for place, factor in zip(index[1:], factors[1:], strict=True):
            if factor != 0:  # others only fill up
                total += x[:, place] * factor
        result[:, output] = total
    return result
