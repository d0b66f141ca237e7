"""The public functions: phases, encodings, and their sum with `x`.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from posenc.spec.plan import PhasePlan, PhaseSpec, phase_plan
from posenc.tf_impl import formats, inputs, rounded, waves, words
from posenc.tf_impl.inputs import Positions, Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def _as_written(function: Function) -> Function:
    """Keep AutoGraph out: it has nothing to convert here, and takes a second over it in a process's first trace."""
    result: Function = tf.autograph.experimental.do_not_convert(function)
    return result


@_as_written
def phase(spec: PhaseSpec, positions: object) -> Tensor:
    """`(*P,)` -> `(*P, pairs, 3)` int64: the upper three 32-bit words of the phase, most significant first."""
    plan = phase_plan("phase", spec)
    read = inputs.read_positions("phase", positions)
    if tf.executing_eagerly() and not tf.is_tensor(read):
        with tf.device("CPU:0"):
            return _phase(plan, read)
    return _phase(plan, read)


@_as_written
def encode(spec: PhaseSpec, positions: object, *, dtype: Any = tf.float32) -> Tensor:
    """`(*P,)` -> `(*P, dim)`: correctly rounded for positions on the host, fused in a graph or on an accelerator."""
    plan = phase_plan("encode", spec)
    dtype = inputs.read_dtype("encode", dtype)
    return _encoded(spec, plan, inputs.read_positions("encode", positions), dtype)


@_as_written
def add(spec: PhaseSpec, x: Any, positions: object = None) -> Tensor:
    """`x` plus the encoding of its positions (None: 0, 1, 2, ... along axis -2), rounded once to `x.dtype`."""
    plan = phase_plan("add", spec)
    x = inputs.read_x("add", x, plan, rows=positions is None)
    host = tf.executing_eagerly() and inputs.on_host(x)
    read: Positions
    if positions is not None:
        read = inputs.read_positions("add", positions)
        inputs.check_broadcast("add", read, x)
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


def _phase(plan: PhasePlan, positions: Positions) -> Tensor:
    return tf.stack(words.phase_words(words.plan_words(plan), inputs.as_tensor(positions))[:3], -1)


def _encoded(spec: PhaseSpec, plan: PhasePlan, positions: Positions, dtype: Any) -> Tensor:
    if tf.executing_eagerly() and not tf.is_tensor(positions):
        with tf.device("CPU:0"):
            return rounded.encoded(spec, plan, positions, dtype)
    return waves.fused(plan, inputs.as_tensor(positions), dtype)
