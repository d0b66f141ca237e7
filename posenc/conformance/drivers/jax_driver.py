"""The JAX column: on the host, under `jax.jit`, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from posenc import jax_impl
from posenc.conformance.protocol import Answer, NotRun, Positions, Table
from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec


class Jax:
    """`posenc.jax_impl`; `compiled` is what each function passes through first, `device` where its arrays lie."""

    def __init__(self, compiled: Callable[[Any], Any] = lambda function: function, device: Any = None) -> None:
        self._compiled, self._device = compiled, device
        self._last: tuple[Hashable, Callable[..., Any]] = None, compiled

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        return _answer(self._compiled(lambda p: jax_impl.phase(spec, p))(self._array(positions)))

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        return _answer(self._compiled(lambda p: jax_impl.encode(spec, p, dtype=dtype))(self._array(positions)))

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        entries = self._entries(x)
        if positions is None:
            return _answer(self._compiled(lambda e: jax_impl.add(spec, e))(entries))
        return _answer(self._compiled(lambda e, p: jax_impl.add(spec, e, p))(entries, self._array(positions)))

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        waves = self._compiled(lambda p: jax_impl.table(spec, p, dtype=dtype))(self._array(positions))
        return Table(*map(_answer, waves))

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        turned = self._compiled(lambda e, c, s: jax_impl.rotate(spec, e, jax_impl.Table(c, s), head_axis=head_axis))
        return _answer(turned(self._entries(x), *map(self._entries, table)))

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        places = self._array(query), self._array(key)
        return self._answer_of(("rows", spec), lambda q, k: jax_impl.rows(spec, q, k), *places)

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        def biases(q: Any, k: Any, w: Any = None) -> Any:
            return jax_impl.bias(spec, q, k, weights=w, dtype=dtype)

        own = () if weights is None else (self._entries(weights),)
        return self._answer_of(("bias", spec, dtype), biases, self._array(query), self._array(key), *own)

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        arguments = self._entries(weights), self._array(positions)
        return self._answer_of(("lookup", spec), lambda w, p: jax_impl.lookup(spec, w, p), *arguments)

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        def resized(w: Any) -> Any:
            return jax_impl.resize(spec, w, shape, method=method)

        return self._answer_of(("resize", spec, shape, method), resized, self._entries(weights))

    def _answer_of(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> Answer:
        """What the function of the last question answers, where it is the same one: it is compiled."""
        if self._last[0] != key:
            self._last = key, self._compiled(function)
        return _answer(self._last[1](*arguments))

    def _entries(self, x: Answer) -> Any:
        kind = ml_dtypes.bfloat16 if x.dtype == "bfloat16" else x.dtype
        return self._put(np.frombuffer(x.data, kind).reshape(x.shape))

    def _array(self, positions: Positions) -> Any:
        if isinstance(positions.values, range) and (self._device is None or self._device.platform == "cpu"):
            return positions.values
        # without x64 JAX has no 64-bit integers, and positions need none
        dtype = "int32" if positions.dtype == "integer" else positions.dtype
        return self._put(np.array(positions.values, dtype).reshape(positions.shape))

    def _put(self, array: Any) -> Any:
        # as NumPy arrays, 64-bit floats reach the host path with x64 off
        if array.dtype == np.float64:
            return array
        return jax.device_put(array, self._device) if self._device is not None else jnp.asarray(array)


def host() -> Jax:
    return Jax(device=jax.local_devices(backend="cpu")[0])  # the default device may be an accelerator


def jit() -> Jax:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        traced = jax.jit(function)
        # a range cannot be traced: what a caller traces is an array
        return lambda *arguments: traced(
            *(jnp.arange(a.start, a.stop, a.step) if isinstance(a, range) else a for a in arguments)
        )

    return Jax(compiled)


def gpu() -> Jax:
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        raise NotRun("no GPU") from None
    return Jax(device=device)


def _answer(result: Any) -> Answer:
    result = np.asarray(result)
    return Answer(result.dtype.name, result.shape, result.tobytes())
