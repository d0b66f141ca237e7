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
from posenc.interop.positional_tensors import Holding, LeftOut, positional_tensors
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
    held = {} if config is None else positional_tensors(config, source, known=known, layout=source_layout)
    plain = [move for move in moves if move.rotary is None and move.rows is None and move.plain is None]
    made: list[Move] = []
    for move in moves:
        names = [name for name in source if tensor_patterns.matched(move.source, name) is not None]
        holdings = {name: held.get(name) for name in names}
        if move not in plain or not any(holdings.values()):
            made.append(move)
        elif len(set(holdings.values())) == 1:
            made.append(_told(move, holdings[names[0]], target_layout))
        else:  # layers that differ, each by its own name
            made += [_told(_single(move, name), holding, target_layout) for name, holding in holdings.items()]
    left = [name for name in source if not any(tensor_patterns.matched(m.source, name) is not None for m in moves)]
    reasons = {name: holding.reason if isinstance(holding := held.get(name), LeftOut) else UNDECIDED for name in left}
    filled = set[str]()
    for move in moves:
        numbers = (tensor_patterns.matched(move.source, name) for name in source)
        filled |= {tensor_patterns.written(move.target, each) for each in numbers if each is not None}
    kept = dict.fromkeys((name for name in target or () if name not in filled), UNDECIDED)
    return Plan(made, left_out=_patterns(reasons, source), kept=_patterns(kept, target or ()))


def _told(move: Move, holding: Holding | None, layout: Layout | None) -> Move:
    """The move with what the config says of its tensors."""
    if holding is None:
        return move
    if isinstance(holding, Rotary):
        return replace(move, rotary=replace(holding, to=layout or holding.to))
    if isinstance(holding, Rows):
        return replace(move, rows=holding)
    return replace(move, plain=holding.reason)


def _single(move: Move, name: str) -> Move:
    numbers = tensor_patterns.matched(move.source, name) or {}
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
        fitting = [name for name in every if tensor_patterns.matched(pattern, name) is not None]
        found |= dict.fromkeys([pattern] if len(fitting) == len(names) else map("".join, names), reason)
    return found
