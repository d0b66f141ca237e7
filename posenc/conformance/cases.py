"""Reading the vector files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from posenc.conformance.protocol import DTYPES, Answer, Positions, Table, encoded
from posenc.spec import from_json
from posenc.spec.resampling import Method
from posenc.spec.serialise import Spec

PHASE, ROWS = "phase", "rows"
INTEGERS = (PHASE, ROWS)
"""What is asked for in place of a dtype where the answers are integers."""
NAN = -1
"""The expected pattern of any NaN."""


class Weights(NamedTuple):
    """The numbers of a table, exact in `dtype`; None: in the dtype that is asked for."""

    dtype: str | None
    shape: tuple[int, ...]
    values: tuple[float, ...]

    def answer(self, dtype: str) -> Answer:
        """The table as an array; `dtype` is the one that is asked for."""
        return Answer(self.dtype or dtype, self.shape, encoded(self.values, self.dtype or dtype))


@dataclass(frozen=True, slots=True)
class Case:
    """What is expected of one position (kinds encode, table, phase), or of one call (the other kinds).

    Entry i of `expected[dtype]` is the bit pattern of channel (or pair, or flat index) `channels[i]`, and
    `truth[i]` its true value to 40 digits; for phases the pattern has 96 bits, rows are the integers themselves. A
    channel of a table is a cosine, or past those a sine. `rotate` is asked with `table`, `turn` with the table of
    `positions`; `rows` and `bias` with `query` and `key`; `resize` with `target` and `method`. `shape` is that of the
    answer. Where `outside`, the host has to refuse, and what is expected holds in a trace.
    """

    id: str
    flags: tuple[str, ...]
    channels: tuple[int, ...]
    expected: Mapping[str, tuple[int, ...]]
    truth: tuple[Fraction, ...] = ()
    position: int | float = 0
    shape: tuple[int, ...] = ()
    x: tuple[float, ...] = ()
    positions: Positions | None = None
    head_axis: int | None = None
    table: Table | None = None
    query: Positions | None = None
    key: Positions | None = None
    weights: Weights | None = None
    target: tuple[int, ...] = ()
    method: Method | None = None
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one specification that are asked for together."""

    kind: str
    variant: str
    spec: Spec
    tier: int
    """1 and 2 are enough for variants that compile each question."""
    cases: tuple[Case, ...]
    position_dtype: str = "integer"
    rows: range | None = None
    dtypes: tuple[str, ...] = DTYPES
    """Those that the cases say something of."""

    @property
    def of_one_call(self) -> bool:
        """Whether all cases are read in one answer: each is a position."""
        return self.kind in ("encode", "table", PHASE)

    @property
    def integers(self) -> str:
        """What stands in place of a dtype, where the answers are integers."""
        return self.kind if self.kind in INTEGERS else ""

    def positions(self) -> Positions:
        """The positions of the one call."""
        if self.rows is not None:
            return Positions.of(self.rows)
        return Positions.of([case.position for case in self.cases], self.position_dtype)

    def row(self, index: int) -> int:
        """The row of the answer that case `index` speaks of."""
        return index if self.rows is None else self.rows.index(int(self.cases[index].position))


@dataclass(frozen=True, slots=True)
class Vectors:
    """One file of vectors."""

    family: str
    version: str
    digest: str
    groups: tuple[Group, ...]


FAMILIES = ("sinusoidal", "rope", "alibi", "t5", "relative", "learned")


def families() -> tuple[Vectors, ...]:
    """The vectors of every family."""
    return tuple(map(vectors, FAMILIES))


@lru_cache
def vectors(family: str) -> Vectors:
    """The vectors of one family."""
    data = (files("posenc.conformance") / "vectors" / f"{family}.json").read_bytes()
    record = json.loads(data)
    groups = tuple(_group(group) for group in record["groups"])
    return Vectors(record["family"], record["version"], hashlib.sha256(data).hexdigest(), groups)


def _group(record: dict[str, Any]) -> Group:
    read = _READERS[record["kind"]]
    return Group(
        kind=record["kind"],
        variant=record["variant"],
        spec=from_json(json.dumps(record["spec"])),
        tier=record["tier"],
        cases=tuple(read(case) for case in record["cases"]),
        position_dtype=record.get("position_dtype", "integer"),
        rows=range(*record["range"]) if "range" in record else None,
        dtypes=tuple(record.get("dtypes", DTYPES)),
    )


def _row(record: dict[str, Any]) -> Case:
    """One position: channels, or the phases of pairs, which are words."""
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(record["pairs" if "words" in record else "channels"]),
        {PHASE: tuple(map(_pattern, record["words"]))} if "words" in record else _patterns(record),
        _truth(record),
        _position(record["position"]),
    )


def _whole(record: dict[str, Any]) -> Case:
    """A sum or a rotation: an answer of the shape of `x`."""
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(range(len(record["x"]))),
        _patterns(record),
        _truth(record),
        shape=tuple(record["shape"]),
        x=tuple(float(entry) for entry in record["x"]),
        positions=_positions(record.get("positions")),
        head_axis=record.get("head_axis"),
        table=_table(record["table"]) if "table" in record else None,
    )


def _pairs(record: dict[str, Any]) -> Case:
    """Rows, or biases: those have bits, of all entries or of those named."""
    size = math.prod(record["shape"])
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(record.get("entries", range(size))),
        {ROWS: tuple(record["rows"])} if "rows" in record else _patterns(record),
        _truth(record),
        shape=tuple(record["shape"]),
        query=_positions(record["query"]),
        key=_positions(record["key"]),
        weights=_weights(record.get("weights")),
        outside=record.get("outside", False),
    )


def _learned(record: dict[str, Any]) -> Case:
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(range(math.prod(record["shape"]))),
        _patterns(record),
        _truth(record),
        shape=tuple(record["shape"]),
        positions=_positions(record.get("positions")),
        weights=_weights(record["weights"]),
        target=tuple(record.get("target", ())),
        method=record.get("method"),
        outside=record.get("outside", False),
    )


_READERS = {"encode": _row, "table": _row, PHASE: _row, "add": _whole, "rotate": _whole, "turn": _whole}
_READERS |= {ROWS: _pairs, "bias": _pairs, "lookup": _learned, "resize": _learned}


def _table(record: dict[str, Any]) -> Table:
    shape = tuple(record["shape"])
    cosine, sine = (b"".join(bytes.fromhex(word)[::-1] for word in record[name]) for name in ("cos", "sin"))
    return Table(Answer(record["dtype"], shape, cosine), Answer(record["dtype"], shape, sine))


def _positions(record: dict[str, Any] | None) -> Positions | None:
    if record is None:
        return None
    if "range" in record:
        return Positions.of(range(*record["range"]))
    return Positions("integer", tuple(record["shape"]), record["values"])


def _weights(record: dict[str, Any] | None) -> Weights | None:
    if record is None:
        return None
    values = tuple(math.ldexp(numerator, -record["power"]) for numerator in record["numerators"])
    return Weights(record.get("dtype"), tuple(record["shape"]), values)


def _patterns(record: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {dtype: tuple(map(_pattern, record[dtype])) for dtype in DTYPES if dtype in record}


def _pattern(word: str) -> int:
    return NAN if word == "nan" else int(word, 16)


def _truth(record: dict[str, Any]) -> tuple[Fraction, ...]:
    return tuple(Fraction(0 if number == "nan" else number) for number in record.get("decimal", ()))


def _position(value: int | str) -> int | float:
    return float.fromhex(value) if isinstance(value, str) else value
