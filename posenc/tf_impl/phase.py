"""The public functions of phases: themselves, encodings, their sum with `x`, and tables of rotations.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from posenc.spec.plan import PhasePlan, PhaseSpec, RotarySpec, encoding_plan, phase_plan, table_plan
from posenc.tf_impl import formats, inputs, rounded, waves, words
from posenc.tf_impl.inputs import Positions, Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


class Table(NamedTuple):
    """Cosines and sines of a rotation, each `(*P, pairs)`, times the magnitude of its specification."""

    cos: Tensor
    sin: Tensor


def as_written(function: Function) -> Function:
    """Keep AutoGraph out: it has nothing to convert here, and takes a second over it in a process's first trace."""
    result: Function = tf.autograph.experimental.do_not_convert(function)
    return result


@as_written
def phase(spec: PhaseSpec, positions: object) -> Tensor:
    """`(*P,)` -> `(*P, pairs, 3)` int64: the upper three 32-bit words of the phase, most significant first."""
    plan = phase_plan("phase", spec)
    read = inputs.read_positions("phase", positions)
    if tf.executing_eagerly() and not tf.is_tensor(read):
        with tf.device("CPU:0"):
            return _phase(plan, read)
    return _phase(plan, read)


@as_written
def encode(spec: PhaseSpec, positions: object, *, dtype: Any = tf.float32) -> Tensor:
    """`(*P,)` -> `(*P, dim)`: correctly rounded for positions on the host, fused in a graph or on an accelerator."""
    plan = encoding_plan("encode", spec)
    dtype = inputs.read_dtype("encode", dtype)
    return _encoded(spec, plan, inputs.read_positions("encode", positions), dtype)


@as_written
def add(spec: PhaseSpec, x: Any, positions: object = None) -> Tensor:
    """`x` plus the encoding of its positions (None: 0, 1, 2, ... along axis -2), rounded once to `x.dtype`."""
    plan = encoding_plan("add", spec)
    x = inputs.read_x("add", x, plan.dim, rows=positions is None)
    host = tf.executing_eagerly() and inputs.on_host(x)
    read: Positions
    if positions is not None:
        read = inputs.read_positions("add", positions)
        inputs.check_broadcast("add", inputs.shape_of(read), inputs.shape_of(x))
    elif x.shape.rank is not None and x.shape[-2] is not None:
        read = range(x.shape[-2])
    else:
        read = tf.range(tf.cast(tf.shape(x)[-2], tf.int64))
    wide = tf.float64 if x.dtype == tf.float64 else tf.float32
    encoding = _encoded(spec, plan, read if host else inputs.as_tensor(read), wide)
    if host:
        return formats.summed(x, encoding)
    vague = positions is not None or x.shape.rank is None or x.shape[-1] is None
    if vague and not (x.shape.is_fully_defined() and encoding.shape.is_fully_defined()):
        encoding = tf.broadcast_to(encoding, tf.shape(x))  # fails where the encoding is the wider one
    return tf.cast(tf.cast(x, wide) + encoding, x.dtype)


@as_written
def table(spec: RotarySpec, positions: object, *, dtype: Any = tf.float32) -> Table:
    """`(*P,)` -> cosines and sines `(*P, pairs)`: correctly rounded for positions on the host, else fused."""
    plan = table_plan("table", spec)
    dtype = inputs.read_dtype("table", dtype)
    read = inputs.read_positions("table", positions)
    if tf.executing_eagerly() and not tf.is_tensor(read):
        with tf.device("CPU:0"):
            return Table(*rounded.encoded(spec, plan, read, dtype, tables=2))
    sine, cosine = waves.fused_waves(plan, inputs.as_tensor(read), dtype)
    return Table(tf.cast(cosine, dtype), tf.cast(sine, dtype))


def _phase(plan: PhasePlan, positions: Positions) -> Tensor:
    return tf.stack(words.phase_words(words.plan_words(plan), inputs.as_tensor(positions))[:3], -1)


def _encoded(spec: PhaseSpec, plan: PhasePlan, positions: Positions, dtype: Any) -> Tensor:
    if tf.executing_eagerly() and not tf.is_tensor(positions):
        with tf.device("CPU:0"):
            return rounded.encoded(spec, plan, positions, dtype)[0]
    return waves.fused(plan, inputs.as_tensor(positions), dtype)
