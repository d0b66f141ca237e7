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

from posenc.conformance.protocol import DTYPES, Positions
from posenc.spec import Sinusoidal, from_json

PHASE = "phase"


@dataclass(frozen=True, slots=True)
class Case:
    """What is expected of one position (kinds encode and phase), or of one sum (kind add).

    Entry i of `expected[dtype]` is the bit pattern of channel (or pair, or flat index) `channels[i]`, and
    `truth[i]` its true value to 40 digits; for phases the pattern has 96 bits.
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


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one specification that are asked for together."""

    kind: str
    variant: str
    spec: Sinusoidal
    tier: int
    """1 and 2 are enough for variants that compile each question."""
    cases: tuple[Case, ...]
    position_dtype: str = "integer"
    rows: range | None = None

    def positions(self) -> Positions:
        """The positions of the one call, kinds encode and phase."""
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


@lru_cache(maxsize=1)
def sinusoidal() -> Vectors:
    """The vectors of sinusoidal encodings."""
    data = (files("posenc.conformance") / "vectors" / "sinusoidal.json").read_bytes()
    record = json.loads(data)
    groups = tuple(_group(group) for group in record["groups"])
    return Vectors(record["family"], record["version"], hashlib.sha256(data).hexdigest(), groups)


def _group(record: dict[str, Any]) -> Group:
    read = {"encode": _encode, "phase": _phase, "add": _add}[record["kind"]]
    return Group(
        kind=record["kind"],
        variant=record["variant"],
        spec=from_json(json.dumps(record["spec"])),
        tier=record["tier"],
        cases=tuple(read(case) for case in record["cases"]),
        position_dtype=record.get("position_dtype", "integer"),
        rows=range(*record["range"]) if "range" in record else None,
    )


def _encode(record: dict[str, Any]) -> Case:
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
        positions=None if given is None else Positions("integer", tuple(given["shape"]), given["values"]),
    )


def _patterns(record: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {dtype: tuple(int(word, 16) for word in record[dtype]) for dtype in DTYPES}


def _position(value: int | str) -> int | float:
    return float.fromhex(value) if isinstance(value, str) else value
