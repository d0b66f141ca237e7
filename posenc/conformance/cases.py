"""Reading the vector files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from typing import Any

from posenc.conformance.protocol import DTYPES, Answer, Positions, Table
from posenc.spec import from_json
from posenc.spec.plan import PhaseSpec

PHASE = "phase"


@dataclass(frozen=True, slots=True)
class Case:
    """What is expected of one position (kinds encode, table, phase), one sum (add), one rotation (rotate, turn).

    Entry i of `expected[dtype]` is the bit pattern of channel (or pair, or flat index) `channels[i]`, and
    `truth[i]` its true value to 40 digits; for phases the pattern has 96 bits. A channel of a table is a cosine, or
    past those a sine. `rotate` is asked with `table`, `turn` with the table of `positions`.
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


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one specification that are asked for together."""

    kind: str
    variant: str
    spec: PhaseSpec
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


def families() -> tuple[Vectors, ...]:
    """The vectors of every family."""
    return sinusoidal(), rope()


def sinusoidal() -> Vectors:
    """The vectors of sinusoidal encodings."""
    return _read("sinusoidal.json")


def rope() -> Vectors:
    """The vectors of rotary embeddings."""
    return _read("rope.json")


@lru_cache
def _read(name: str) -> Vectors:
    data = (files("posenc.conformance") / "vectors" / name).read_bytes()
    record = json.loads(data)
    groups = tuple(_group(group) for group in record["groups"])
    return Vectors(record["family"], record["version"], hashlib.sha256(data).hexdigest(), groups)


def _group(record: dict[str, Any]) -> Group:
    readers = {"encode": _row, "table": _row, "phase": _phase, "add": _add, "rotate": _rotate, "turn": _rotate}
    read = readers[record["kind"]]
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
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(record["channels"]),
        _patterns(record),
        tuple(Fraction(number) for number in record["decimal"]),
        _position(record["position"]),
    )


def _phase(record: dict[str, Any]) -> Case:
    words = {PHASE: tuple(int(word, 16) for word in record["words"])}
    return Case(
        record["id"], tuple(record["flags"]), tuple(record["pairs"]), words, position=_position(record["position"])
    )


def _add(record: dict[str, Any]) -> Case:
    given = record["positions"]
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(range(len(record["x"]))),
        _patterns(record),
        tuple(Fraction(number) for number in record["decimal"]),
        shape=tuple(record["shape"]),
        x=tuple(float(entry) for entry in record["x"]),
        positions=_positions(given),
    )


def _rotate(record: dict[str, Any]) -> Case:
    return Case(
        record["id"],
        tuple(record["flags"]),
        tuple(range(len(record["x"]))),
        _patterns(record),
        tuple(Fraction(number) for number in record["decimal"]),
        shape=tuple(record["shape"]),
        x=tuple(float(entry) for entry in record["x"]),
        positions=_positions(record.get("positions")),
        head_axis=record["head_axis"],
        table=_table(record["table"]) if "table" in record else None,
    )


def _table(record: dict[str, Any]) -> Table:
    shape = tuple(record["shape"])
    cosine, sine = (b"".join(bytes.fromhex(word)[::-1] for word in record[name]) for name in ("cos", "sin"))
    return Table(Answer(record["dtype"], shape, cosine), Answer(record["dtype"], shape, sine))


def _positions(record: dict[str, Any] | None) -> Positions | None:
    return None if record is None else Positions("integer", tuple(record["shape"]), record["values"])


def _patterns(record: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {dtype: tuple(int(word, 16) for word in record[dtype]) for dtype in DTYPES if dtype in record}


def _position(value: int | str) -> int | float:
    return float.fromhex(value) if isinstance(value, str) else value
