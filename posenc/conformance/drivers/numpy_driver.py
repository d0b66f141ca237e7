"""The NumPy column."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from posenc import numpy_impl
from posenc.conformance.protocol import Answer, Positions, Table
from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec


class Host:
    """`posenc.numpy_impl`, as it is called."""

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        return answer(numpy_impl.phase(spec, array(positions)))

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        return answer(numpy_impl.encode(spec, array(positions), dtype=dtype))

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        return answer(numpy_impl.add(spec, tensor(x), None if positions is None else array(positions)))

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        return Table(*map(answer, numpy_impl.table(spec, array(positions), dtype=dtype)))

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        pair = numpy_impl.Table(*map(tensor, table))
        return answer(numpy_impl.rotate(spec, tensor(x), pair, head_axis=head_axis))

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        return answer(numpy_impl.rows(spec, array(query), array(key)))

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        own = None if weights is None else tensor(weights)
        return answer(numpy_impl.bias(spec, array(query), array(key), weights=own, dtype=dtype))

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        return answer(numpy_impl.lookup(spec, tensor(weights), array(positions)))

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        return answer(numpy_impl.resize(spec, tensor(weights), shape, method=method))


def array(positions: Positions) -> Any:
    """A range stays one: it has a path of its own."""
    if isinstance(positions.values, range):
        return positions.values
    dtype = "int64" if positions.dtype == "integer" else positions.dtype
    return np.array(positions.values, dtype).reshape(positions.shape)


def tensor(x: Answer) -> Any:
    kind = ml_dtypes.bfloat16 if x.dtype == "bfloat16" else x.dtype
    return np.frombuffer(x.data, kind).reshape(x.shape)


def answer(result: Any) -> Answer:
    result = np.asarray(result)
    return Answer(result.dtype.name, result.shape, result.tobytes())
