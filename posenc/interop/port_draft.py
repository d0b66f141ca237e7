"""A first plan, to be read and edited: what a config says of positions is filled in, what nobody said is undecided."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from posenc.interop import tensor_patterns
from posenc.interop.contents import Entry
from posenc.interop.port_moves import LAYOUTS, Move, Rotary, Rows
from posenc.interop.port_plan import UNDECIDED, Plan
from posenc.interop.positional_tensors import Holding, LeftOut, Plain, positional_tensors
from posenc.spec import SpecError, checks

Layout = Literal["half", "interleaved"]


def drafted(
    source: Mapping[str, Entry],
    moves: Iterable[Move],
    *,
    config: object = None,
    source_layout: Layout | None = None,
    target_layout: Layout | None = None,
    target: Mapping[str, Entry] | None = None,
    known: Mapping[str, Holding] | None = None,
) -> Plan:
    """`draft` of contents that have been read."""
    moves = list(moves)
    for number, move in enumerate(moves):
        if not isinstance(move, Move):
            raise SpecError(f"draft.moves[{number}]: expected Move(...), received {checks.shown(move)}")
    said = {"source_layout": source_layout, "target_layout": target_layout}
    for name, layout in said.items():
        checks.choice(f"draft.{name}", layout, (*LAYOUTS, None))
    for name, value in (said | {"known": known}).items():
        if config is None and value is not None:
            raise SpecError(f"draft.config: expected one where {name} is said, received None")
    held = {} if config is None else _held(config, source, moves, known, source_layout)
    made: list[Move] = []
    moved, filled = set[str](), set[str]()
    for move in moves:
        names = tensor_patterns.matching(move.source, source)
        moved.update(names)
        filled |= {tensor_patterns.written(move.target, each) for each in names.values()}
        holdings = {name: held.get(name) for name in names}
        said_already = move.rotary is not None or move.rows is not None or move.plain is not None
        if said_already:
            for name, holding in holdings.items():
                _check_said(move, name, holding)
        if said_already or not any(holdings.values()):
            made.append(move)
        elif len(set(holdings.values())) == 1:
            made.append(_told(move, next(iter(holdings.values())), target_layout))
        else:  # layers that differ, each by its own name
            singles = {name: _single(move, name, numbers) for name, numbers in names.items()}
            made += [_told(singles[name], holding, target_layout) for name, holding in holdings.items()]
    left = [name for name in source if name not in moved]
    reasons = {name: holding.reason if isinstance(holding := held.get(name), LeftOut) else UNDECIDED for name in left}
    kept = dict.fromkeys((name for name in target or () if name not in filled), UNDECIDED)
    return Plan(made, left_out=_patterns(reasons, source), kept=_patterns(kept, target or ()))


def _held(
    config: object,
    source: Mapping[str, Entry],
    moves: Iterable[Move],
    known: Mapping[str, Holding] | None,
    layout: Layout | None,
) -> dict[str, Holding]:
    """What the config says of the tensors; of names that it does not know, such as Flax's, what the moves say."""
    try:
        return positional_tensors(config, source, known=known, layout=layout)
    except SpecError:
        told = {move.source: holding for move in moves if (holding := _said(move)) is not None}
        if not told:
            raise
        return positional_tensors(config, source, known=told | dict(known or {}), layout=layout)


def _said(move: Move) -> Holding | None:
    return move.rotary or move.rows or (Plain(move.plain) if move.plain is not None else None)


def _check_said(move: Move, name: str, holding: Holding | None) -> None:
    """Refuse a move that says something else than the config; `known` has precedence over the config."""
    said = _said(move)
    if isinstance(holding, Rotary) and isinstance(said, Rotary):
        differ = replace(said, to=holding.to) != holding
    elif isinstance(holding, Rows) and isinstance(said, Rows):
        differ = (said.source, said.axis) != (holding.source, holding.axis)
    else:  # what a config computes may be carried, and so may what no specification says
        differ = isinstance(holding, Rotary | Rows | Plain) and type(said) is not type(holding)
    if differ:
        raise SpecError(
            f"draft.moves: expected {holding} for {name!r:.200}, as the config has it, or that it is in known, "
            f"received {said}"
        )


def _told(move: Move, holding: Holding | None, layout: Layout | None) -> Move:
    """The move with what the config says of its tensors."""
    if holding is None:
        return move
    if isinstance(holding, Rotary):
        return replace(move, rotary=replace(holding, to=layout or holding.to))
    if isinstance(holding, Rows):
        return replace(move, rows=holding)
    return replace(move, plain=holding.reason)


def _single(move: Move, name: str, numbers: Mapping[str, int]) -> Move:
    return replace(move, source=name, target=tensor_patterns.written(move.target, numbers))


def _patterns(reasons: Mapping[str, str], every: Collection[str]) -> dict[str, str]:
    """Names that differ in their numbers alone as one pattern, where they have one reason and no other name fits."""
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for name, reason in reasons.items():
        texts = re.split(r"(?<=[._/])(\d+)(?=[._/]|$)", name)  # a number in every second place
        groups.setdefault(("{}".join(texts[::2]), reason), []).append(texts)
    found: dict[str, str] = {}
    for (_, reason), names in groups.items():
        words = iter(["layer", *(f"number_{place}" for place in range(2, len(names[0])))])
        columns = zip(*names, strict=True)
        pattern = "".join(texts[0] if len(set(texts)) == 1 else f"{{{next(words)}}}" for texts in columns)
        fitting = tensor_patterns.matching(pattern, every)
        found |= dict.fromkeys([pattern] if len(fitting) == len(names) else map("".join, names), reason)
    return found
