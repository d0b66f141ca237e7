"""The TensorFlow column: eagerly, in `tf.function`, and compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from posenc import tf_impl
from posenc.conformance.protocol import Answer, Positions, Table
from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec

tf.get_logger().setLevel("ERROR")  # each question is a function of its own: TensorFlow would call that retracing


class Tf:
    """`posenc.tf_impl`; `compiled` is what each function passes through first."""

    def __init__(self, compiled: Callable[[Any], Any] | None = None) -> None:
        self._compiled = compiled
        self._last: tuple[Hashable, Any] = None, None

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        return _answer(self._call(lambda p: tf_impl.phase(spec, p), self._array(positions)))

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        kind = tf.as_dtype(dtype)
        return _answer(self._call(lambda p: tf_impl.encode(spec, p, dtype=kind), self._array(positions)))

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        entries = self._entries(x)
        if positions is None:
            return _answer(self._call(lambda e: tf_impl.add(spec, e), entries))
        return _answer(self._call(lambda e, p: tf_impl.add(spec, e, p), entries, self._array(positions)))

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        kind = tf.as_dtype(dtype)
        waves = self._call(lambda p: tf_impl.table(spec, p, dtype=kind), self._array(positions))
        return Table(*map(_answer, waves))

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        def turned(e: Any, c: Any, s: Any) -> Any:
            return tf_impl.rotate(spec, e, tf_impl.Table(c, s), head_axis=head_axis)

        return _answer(self._call(turned, self._entries(x), *map(self._entries, table)))

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        places = self._array(query), self._array(key)
        return self._answer_of(("rows", spec), lambda q, k: tf_impl.rows(spec, q, k), *places)

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        def biases(q: Any, k: Any, w: Any = None) -> Any:
            return tf_impl.bias(spec, q, k, weights=w, dtype=tf.as_dtype(dtype))

        own = () if weights is None else (self._entries(weights),)
        return self._answer_of(("bias", spec, dtype), biases, self._array(query), self._array(key), *own)

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        arguments = self._entries(weights), self._array(positions)
        return self._answer_of(("lookup", spec), lambda w, p: tf_impl.lookup(spec, w, p), *arguments)

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        def resized(w: Any) -> Any:
            return tf_impl.resize(spec, w, shape, method=method)

        return self._answer_of(("resize", spec, shape, method), resized, self._entries(weights))

    def _answer_of(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> Answer:
        """What the function of the last question answers, where it is the same one: it is compiled."""
        if self._compiled is None:
            return _answer(self._call(function, *arguments))
        if self._last[0] != key:
            self._last = key, self._compiled(function)
        return _answer(self._last[1](*arguments))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with tf.device(None if self._compiled else "CPU:0"):
            return (self._compiled(function) if self._compiled else function)(*arguments)

    def _entries(self, x: Answer) -> Any:
        with tf.device(None if self._compiled else "CPU:0"):
            return tf.reshape(tf.io.decode_raw(x.data, tf.as_dtype(x.dtype)), x.shape)

    def _array(self, positions: Positions) -> Any:
        values = positions.values
        if isinstance(values, range):
            return tf.range(values.start, values.stop, values.step, tf.int64) if self._compiled else values
        dtype = tf.int64 if positions.dtype == "integer" else tf.as_dtype(positions.dtype)
        with tf.device(None if self._compiled else "CPU:0"):  # else a GPU, where there is one
            return tf.reshape(tf.constant(values, dtype), positions.shape)


def host() -> Tf:
    return Tf()


def function() -> Tf:
    return Tf(lambda call: tf.function(call, autograph=False))


def xla() -> Tf:
    return Tf(lambda call: tf.function(call, autograph=False, jit_compile=True))


def _answer(result: Any) -> Answer:
    array = result.numpy()
    return Answer(result.dtype.name, tuple(array.shape), array.tobytes())
