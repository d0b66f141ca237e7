"""Rotation of queries and keys by a table of cosines and sines.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import raw_ops

from posenc.spec import checks
from posenc.spec.plan import RotarySpec, RotationPlan, rotation_plan
from posenc.tf_impl import inputs
from posenc.tf_impl.inputs import Shape, Tensor
from posenc.tf_impl.phase import as_written


@as_written
def rotate(spec: RotarySpec, x: Any, table: Any, *, head_axis: int | None) -> Tensor:
    """Queries or keys turned by a table, with one rounding, in a new array: `x.shape`, `x.dtype`.

    Subnormal numbers are taken for zero, as everywhere in TensorFlow; channels that stay are copied as they are.
    Differentiable in x and in the table.
    """
    plan = rotation_plan("rotate", spec)
    x = inputs.read_x("rotate", x, plan.head_dim)
    if x.shape.rank is None:
        raise checks.x_shape_error("rotate", plan.head_dim, None)
    heads = checks.head_axis("rotate", head_axis, x.shape.rank)
    cos, sin = _read_table(plan, table)
    check_fit(tuple(x.shape), heads, tuple(cos.shape[:-1]))
    if heads is not None and cos.shape.rank >= x.shape.rank - heads:
        cos, sin = (tf.expand_dims(part, heads - x.shape.rank) for part in (cos, sin))
    wide = tf.float64 if x.dtype == tf.float64 else tf.float32
    if cos.dtype != wide:
        cos, sin = tf.cast(cos, wide), tf.cast(sin, wide)
    width = 2 * plan.pairs
    if width == plan.head_dim:
        return _turned(plan, x, cos, sin)
    before, turning, after = tf.split(x, [plan.start, width, plan.head_dim - width - plan.start], -1)
    return tf.concat([before, _turned(plan, turning, cos, sin), after], -1)


def check_fit(x: Shape, heads: int | None, positions: Shape) -> None:
    """Refuse a table whose position axes, as far as they are known, are not those of `x`."""
    lead = tuple(size for axis, size in enumerate(x[:-1]) if axis != heads)
    if not checks.table_fits(*inputs.agreed(positions, lead)):
        raise checks.table_shape_error("rotate", lead, positions)


def _read_table(plan: RotationPlan, table: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines of one dtype and one shape `(*P, pairs)`."""

    parts = checks.table_parts("rotate", plan.pairs, table)
    try:
        if not all(hasattr(part, "dtype") for part in parts):
            raise TypeError
        cos, sin = (tf.convert_to_tensor(part) for part in parts)
    except (TypeError, ValueError):
        raise checks.table_kind_error("rotate", plan.pairs, *parts) from None
    shapes = tuple(None if part.shape.rank is None else tuple(part.shape) for part in (cos, sin))
    checks.check_table("rotate", plan.pairs, (cos.dtype.name, sin.dtype.name), shapes)
    shape = cos.shape
    if not (shape.is_fully_defined() and sin.shape.is_fully_defined()):
        # together, because an axis of one of them that turns out to be 1 must not be spread
        both = tf.ensure_shape(tf.stack([cos, sin]), [2, *shape[:-1], plan.pairs])
        cos, sin = tf.unstack(both)
    return cos, sin


def _turned(plan: RotationPlan, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary channels, turned. Both forms have the same bits where each operation is rounded: all but in XLA.

    Raw operations, because for a step of decoding TensorFlow's wrappers take longer than the work.
    """
    # compiled by XLA the second form takes less time, except where neighbours are exchanged without a conversion
    exchange = tf.executing_eagerly() or (plan.reads == "interleaved" and x.dtype == cos.dtype)
    form = _exchanged if exchange and plan.reads == plan.writes else _paired
    return tf.cast(form(plan, tf.cast(x, cos.dtype), cos, sin), x.dtype)


def _exchanged(plan: RotationPlan, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every channel and the other one of its pair, times tables of all channels: the fewest passes over memory."""
    sines = [raw_ops.Neg(x=sin), sin]
    if plan.reads == "half":
        # not axis -1: of that, tape.jacobian makes the axis of the batch, without a word
        other = raw_ops.Roll(input=x, shift=plan.pairs, axis=x.shape.rank - 1)
        cosine, sine = raw_ops.ConcatV2(values=[cos, cos], axis=-1), raw_ops.ConcatV2(values=sines, axis=-1)
        return raw_ops.AddV2(x=raw_ops.Mul(x=x, y=cosine), y=raw_ops.Mul(x=other, y=sine))
    pairs = _reshaped(x, x, [plan.pairs, 2])
    other = raw_ops.ReverseV2(tensor=pairs, axis=tf.constant([-1]))
    cosine, sine = raw_ops.Pack(values=[cos, cos], axis=-1), raw_ops.Pack(values=sines, axis=-1)
    turned = raw_ops.AddV2(x=raw_ops.Mul(x=pairs, y=cosine), y=raw_ops.Mul(x=other, y=sine))
    return _reshaped(turned, x, [2 * plan.pairs])


def _paired(plan: RotationPlan, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The definition, on channels u and v of their own: one fusion of XLA."""
    sizes, axis = ([2, plan.pairs], -2) if plan.reads == "half" else ([plan.pairs, 2], -1)
    u, v = raw_ops.Unpack(value=_reshaped(x, x, sizes), num=2, axis=axis)
    turned = raw_ops.Pack(values=[u * cos - v * sin, v * cos + u * sin], axis=-2 if plan.writes == "half" else -1)
    return _reshaped(turned, x, [2 * plan.pairs])


def _reshaped(tensor: Tensor, like: Tensor, sizes: list[int]) -> Tensor:
    """`tensor` with the axes of `like` but for the last, which become `sizes`; it fails if a table was wider than x."""
    shape = [*like.shape.as_list()[:-1], *sizes]
    if None not in shape:
        return raw_ops.Reshape(tensor=tensor, shape=tf.constant(shape))
    return tf.ensure_shape(tf.reshape(tensor, tf.concat([tf.shape(like)[:-1], sizes], 0)), shape)
