"""What the judge and an implementation say to one another: numbers in, bytes out.

Nothing here needs NumPy, or any framework; a third party's implementation joins by answering the calls of a family:
`phase`, `encode` and `add` for encodings, `phase`, `table` and `rotate` for rotations, `rows` and `bias` for what
depends on a distance, `lookup` and `resize` for learned tables. A question that has no answer on the host, such as a
position outside a table, is refused with a ValueError or an IndexError; what is left of it without that position is
answered.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.exact import FORMATS
from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.spec.resampling import Method
from posenc.spec.row_plan import RowSpec

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "uint32": 4, "int32": 4}
DTYPES = ("float64", "float32", "bfloat16", "float16")


class Answer(NamedTuple):
    """An array as bytes: row-major, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def pattern(self, index: int) -> int:
        """The bits of entry `index` in row-major order."""
        width = WIDTHS[self.dtype]
        return int.from_bytes(self.data[index * width : (index + 1) * width], "little")


class Table(NamedTuple):
    """Cosines and sines, each `(*P, pairs)` of one dtype."""

    cos: Answer
    sin: Answer


class Positions(NamedTuple):
    """Positions of one `dtype`: "integer", "float32" or "float64"; a range has the shape of its length."""

    dtype: str
    shape: tuple[int, ...]
    values: Sequence[int] | Sequence[float]

    @classmethod
    def of(cls, values: Sequence[int] | Sequence[float], dtype: str = "integer") -> Positions:
        return cls(dtype, (len(values),), values)


class Subject(Protocol):
    """An implementation under test, in one way of running it."""

    def phase(self, spec: PhaseSpec, positions: Positions) -> Answer:
        """The upper three words of the phases, `(*P, pairs, 3)` int64 or uint32."""
        ...

    def encode(self, spec: PhaseSpec, positions: Positions, dtype: str) -> Answer:
        """The encodings, `(*P, dim)` of `dtype`."""
        ...

    def add(self, spec: PhaseSpec, x: Answer, positions: Positions | None) -> Answer:
        """`x` plus its encoding, shape and dtype of `x`."""
        ...

    def table(self, spec: RotarySpec, positions: Positions, dtype: str) -> Table:
        """Cosines and sines, `(*P, pairs)` each, of `dtype`."""
        ...

    def rotate(self, spec: RotarySpec, x: Answer, table: Table, head_axis: int | None) -> Answer:
        """`x` turned by the table, shape and dtype of `x`; the table may be of another dtype."""
        ...

    def rows(self, spec: DistanceSpec, query: Positions, key: Positions) -> Answer:
        """The row of every pair, `(*B, Q, K)` int32."""
        ...

    def bias(self, spec: DistanceSpec, query: Positions, key: Positions, weights: Answer | None, dtype: str) -> Answer:
        """The bias of every head and pair, `(*B, heads, Q, K)` of `dtype`; the weights may be of another dtype."""
        ...

    def lookup(self, spec: RowSpec, weights: Answer, positions: Positions) -> Answer:
        """The rows of a learned table, `(*P, dim)`, dtype of `weights`."""
        ...

    def resize(self, spec: RowSpec, weights: Answer, shape: tuple[int, ...], method: Method) -> Answer:
        """A learned table whose grid has another shape, `(rows, dim)`, dtype of `weights`."""
        ...


class NotRun(Exception):
    """A column cannot run here; the message is the reason, which the report prints."""


def encoded(values: Sequence[float], dtype: str) -> bytes:
    """Values that `dtype` holds exactly, as little-endian bytes."""
    if dtype == "bfloat16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    letter = {"float64": "d", "float32": "f", "float16": "e"}[dtype]
    return struct.pack(f"<{len(values)}{letter}", *values)


def decoded(pattern: int, dtype: str) -> float:
    """The float that a bit pattern stands for."""
    if dtype == "bfloat16":
        pattern, dtype = pattern << 16, "float32"
    letter = {"float64": "d", "float32": "f", "float16": "e"}[dtype]
    (value,) = struct.unpack(f"<{letter}", pattern.to_bytes(WIDTHS[dtype], "little"))
    return float(value)


def ordinal(pattern: int, dtype: str) -> int:
    """Where a pattern stands among all numbers of its format; both zeros stand at 0."""
    sign = 1 << (8 * WIDTHS[dtype] - 1)
    return -(pattern ^ sign) if pattern & sign else pattern


def unit(value: float, dtype: str) -> float:
    """The distance of neighbours in `dtype` at `value`."""
    precision, least, _ = FORMATS[dtype]
    exponent = math.frexp(value)[1] - precision if value else least
    return math.ldexp(1.0, max(exponent, least))
