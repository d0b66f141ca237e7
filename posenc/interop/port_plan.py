"""Plans of a port: every tensor of the source and of the target is accounted for. Said, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from posenc.interop import json_text, tensor_patterns
from posenc.interop.port_moves import Move, Rotary, Rows, check_reason, told
from posenc.spec import SpecError, checks
from posenc.spec.serialise import from_json, to_json

__all__ = ["Move", "Plan", "Rotary", "Rows"]

SCHEMA = 1
UNDECIDED = "undecided"
"""The reason of a draft for what nobody has said yet; a plan that has it is not carried out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole port: every tensor of the source is moved or left out, every one of the target is filled or kept.

    Parameters
    ----------
    moves : in any order; a source may be moved twice (tied weights), a target is filled once.
    left_out : patterns of source names that are not carried, with the reason.
    kept : patterns of target names that stay as the target has them, with the reason.

    `Plan.from_json(plan.to_json()) == plan`, and the text is meant to be read and edited. `print(plan)` is a summary.
    """

    moves: Sequence[Move]
    _: KW_ONLY
    left_out: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.moves, list | tuple) or not all(isinstance(move, Move) for move in self.moves):
            raise SpecError(f"Plan.moves: expected a sequence of Move(...), received {checks.shown(self.moves)}")
        object.__setattr__(self, "moves", tuple(self.moves))
        for name in ("left_out", "kept"):
            reasons = getattr(self, name)
            if not isinstance(reasons, Mapping):
                raise SpecError(f"Plan.{name}: expected reasons by pattern, received {checks.shown(reasons)}")
            for pattern, reason in reasons.items():
                tensor_patterns.fields(f"Plan.{name}", pattern)
                check_reason(f"Plan.{name}[{pattern!r}]", reason)
            object.__setattr__(self, name, dict(reasons))

    def to_json(self) -> str:
        """The plan as JSON, a line for each specification and move; what has its default is not written."""
        specs: dict[Any, str] = {}
        moves = [_written(move, specs) for move in self.moves]
        parts = [
            f'"schema": {SCHEMA}',
            _lines('"specs": {', [f"{_text(name)}: {to_json(spec)}" for spec, name in specs.items()], "}"),
            _lines('"moves": [', [_text(move) for move in moves], "]"),
            _lines('"left_out": {', [f"{_text(name)}: {_text(why)}" for name, why in self.left_out.items()], "}"),
            _lines('"kept": {', [f"{_text(name)}: {_text(why)}" for name, why in self.kept.items()], "}"),
        ]
        return "{\n  " + ",\n  ".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote; SpecError, by name, for keys that are unknown, missing, repeated or wrong."""
        if not isinstance(text, str):
            raise SpecError(f"Plan.from_json: expected JSON text, received {checks.shown(text)}")
        try:
            record = json_text.parse(text.encode())
        except ValueError as error:
            raise SpecError(f"Plan.from_json: expected JSON, received {error}") from None
        values = _members("Plan", record, ("schema", "specs", "moves", "left_out", "kept"), ("schema", "moves"))
        schema = values.pop("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise SpecError(f"Plan.schema: expected {SCHEMA}, received {checks.shown(schema)}")
        moves = values.pop("moves")
        if not isinstance(moves, list):
            raise SpecError(f"Plan.moves: expected a list, received {checks.shown(moves)}")
        specs = values.pop("specs", {})
        if not isinstance(specs, dict):
            raise SpecError(f"Plan.specs: expected specifications by name, received {checks.shown(specs)}")
        named = {name: _spec(f"Plan.specs[{name!r:.200}]", spec) for name, spec in specs.items()}
        return cls(tuple(_move(number, move, named) for number, move in enumerate(moves)), **values)

    def __str__(self) -> str:
        lines = [f"{move.source} -> {move.target}{''.join(f', {text}' for text in told(move))}" for move in self.moves]
        lines += [f"{pattern}: left out, {reason}" for pattern, reason in self.left_out.items()]
        lines += [f"{pattern}: kept, {reason}" for pattern, reason in self.kept.items()]
        return "\n".join(lines)


def _lines(first: str, members: list[str], last: str) -> str:
    return first + ("\n    " + ",\n    ".join(members) + "\n  " if members else "") + last


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _written(part: Move | Rotary | Rows, specs: dict[Any, str]) -> dict[str, Any]:
    """A part of a plan without what has its default; specifications by a name, which `specs` gets."""
    record: dict[str, Any] = {}
    for one in fields(part):
        said = getattr(part, one.name) if one.name != "_" else one.default
        if isinstance(said, Rotary | Rows):
            record[one.name] = _written(said, specs)
        elif isinstance(part, Rows) and one.name == "target" and part.target == part.source:
            continue
        elif one.name in _SPECS.get(type(part), ()):
            record[one.name] = _name(said, specs)
        elif said != one.default:
            record[one.name] = said
    return record


_SPECS: dict[type, tuple[str, ...]] = {Rotary: ("spec",), Rows: ("source", "target")}


def _name(spec: Any, specs: dict[Any, str]) -> str:
    if spec not in specs:
        family = json.loads(to_json(spec))["family"]
        alike = sum(name == family or name.startswith(f"{family}_") for name in specs.values())
        specs[spec] = f"{family}_{alike + 1}" if alike else family
    return specs[spec]


def _members(where: str, record: Any, names: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise SpecError(f"{where}: expected a JSON object, received {checks.shown(record)}")
    for name in record:
        if name not in names:
            raise SpecError(f"{where}: expected the keys {', '.join(names)}, received {checks.shown(name)}")
    for name in needed:
        if name not in record:
            raise SpecError(f"{where}.{name}: expected this key, received an object without it")
    return record


def _move(number: int, record: Any, specs: Mapping[str, Any]) -> Move:
    where = f"Plan.moves[{number}]"
    values = _members(where, record, tuple(one.name for one in fields(Move) if one.name != "_"), ("source", "target"))
    try:
        for name, kind in (("rotary", Rotary), ("rows", Rows)):
            if values.get(name) is not None:
                values[name] = _part(kind, values[name], specs)
        return Move(**values)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _part(kind: type[Any], record: Any, specs: Mapping[str, Any]) -> Any:
    names = tuple(one.name for one in fields(kind) if one.name != "_")
    needed = ("spec", "to", "heads") if kind is Rotary else ("source",)
    values = _members(kind.__name__, record, names, needed)
    for name in set(_SPECS[kind]) & set(values):
        if not isinstance(values[name], str) or values[name] not in specs:
            received = checks.shown(values[name])
            raise SpecError(f"{kind.__name__}.{name}: expected a name of Plan.specs, received {received}")
        values[name] = specs[values[name]]
    return kind(**values)


def _spec(where: str, record: Any) -> Any:
    try:
        return from_json(json.dumps(record))
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
