"""One tensor of a port: what its move makes of its shape and dtype, or why it does not fit."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from posenc.interop.contents import Entry
from posenc.interop.port_moves import CASTS, Move, Rotary, Rows
from posenc.interop.port_rows import source_rows
from posenc.interop.safetensors_header import Tensor
from posenc.interop.tensor_names import suspicious
from posenc.spec.distance_plan import rows_plan
from posenc.spec.plan import lowered
from posenc.spec.row_plan import RowPlan

_TABLES = re.compile(
    r"pos(ition(s|al)?)?_?(emb|enc|bias|table|weight)|(emb(ed|eddings?)?|enc(oding)?)_?pos(ition)?|\b(wpe|pe|pos)\b|"
    r"\bposition(s|al)?\b|(abs(olute)?|rel(ative)?)_(att|pos|emb|bias)|bias_table|distance_emb|learned_enc",
    re.IGNORECASE,
)


class Step(NamedTuple):
    """One tensor: its names in the source and in the target, and what it is before and after the move."""

    move: Move
    source: str
    target: str
    before: Entry
    after: Entry


class UnfitError(ValueError):
    """A tensor that its move does not fit; the message says how."""


def after(move: Move, before: Entry, rows: Sizes | None) -> Entry:
    """What becomes of a tensor; UnfitError where it does not fit its move."""
    shape = list(before.shape)
    if move.rotary is not None:
        _check_heads(move.rotary, before.shape)
    if move.rows is not None and rows is not None:
        axis = _axis(move.rows.axis, before.shape)
        width = math.prod(shape[:axis] + shape[axis + 1 :])
        if (shape[axis], width) != (rows.source, rows.width or width):
            text = f"{rows.source} rows" + (f" of {rows.width} numbers" if rows.width else "")
            raise UnfitError(f"expected {text} along axis {move.rows.axis}, received the shape {before.shape}")
        shape[axis] = rows.target
    if move.axes is not None:
        if len(move.axes) != len(shape):
            raise UnfitError(f"expected {len(move.axes)} axes, as the move has, received the shape {before.shape}")
        shape = [shape[axis] for axis in move.axes]
    if move.shape is not None:
        if math.prod(move.shape) != math.prod(shape):
            raise UnfitError(f"expected as many numbers as the shape {move.shape} has, received {tuple(shape)}")
        shape = list(move.shape)
    if move.dtype is not None and before.dtype not in CASTS:
        raise UnfitError(f"expected a floating dtype, to be cast to {move.dtype}, received {before.dtype}")
    return Entry(tuple(shape), move.dtype or before.dtype)


def _check_heads(rotary: Rotary, shape: tuple[int, ...]) -> None:
    count = rotary.heads if isinstance(rotary.heads, int) else len(rotary.heads)
    width = rotary.spec.head_dim
    if isinstance(rotary.axis, tuple):
        heads, channels = (_axis(axis, shape) for axis in rotary.axis)
        if heads == channels or (shape[heads], shape[channels]) != (count, width) or not isinstance(rotary.heads, int):
            raise UnfitError(f"expected {count} heads and {width} channels along {rotary.axis}, received {shape}")
    elif shape[_axis(rotary.axis, shape)] != count * width:
        raise UnfitError(
            f"expected {count} heads of {width} channels, {count * width} in all, along axis {rotary.axis}, "
            f"received the shape {shape}"
        )


def _axis(axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise UnfitError(f"expected an axis {axis}, received the shape {shape}")
    return axis % len(shape)


class Sizes(NamedTuple):
    """Rows before and after, and how wide one is, where the specification says it."""

    source: int
    target: int
    width: int | None


def sizes(rows: Rows) -> Sizes:
    """Raises SpecError where the rows of one specification cannot become those of the other."""
    target = len(source_rows(rows))
    learned = lowered(rows.source, RowPlan)
    if learned is not None:
        return Sizes(learned.rows, target, learned.dim)
    plan = rows_plan("Rows", rows.source)
    return Sizes(plan.rows or 0, target, plan.heads)


def looks_positional(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may hold positions, or channels that are turned, by its name."""
    dotted = name.replace("/", ".")
    return suspicious(Tensor(dotted, "", shape, 0, 0)) or bool(_TABLES.search(dotted))
