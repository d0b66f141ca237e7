"""The contract in numbers: how far an answer may be from the true value, for every kind of question."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from posenc.conformance.cases import Case, Group
from posenc.conformance.protocol import unit
from posenc.spec.exact import FORMATS
from posenc.spec.plan import RotarySpec


class Mode(NamedTuple):
    """Which clause of the contract holds: N1 on the host; N2 traced or on an accelerator."""

    name: str
    has_float64: bool = True
    """Whether float64 output has float64 accuracy: not on accelerators."""


N1 = Mode("N1")
N2 = Mode("N2")
N2_ACCELERATOR = Mode("N2", has_float64=False)


def limit(group: Group, case: Case, entry: int, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far one entry may be from the true value, 0 where its bits are given; and the formula."""
    truth = float(case.truth[entry])
    if group.kind in ("rotate", "turn"):
        reach = _reach(group, case, case.channels[entry])
        return (Fraction(0), "identical bits") if reach is None else rotation_bound(group, truth, dtype, mode, reach)
    if mode.name == "N1" and dtype != "float64" and group.position_dtype == "integer":
        return Fraction(0), "identical bits"
    return bound(group, truth, dtype, mode)


def bound(group: Group, truth: float, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far from the true value an encoding, an entry of a table or a sum may be, and the formula."""
    whole = group.position_dtype == "integer"
    magnitude = group.spec.plan().magnitude
    if mode.name == "N1" or (dtype == "float64" and mode.has_float64):
        if whole:  # units of the encoding; in `add` it is at most the magnitude
            widest = magnitude if group.kind == "add" else truth
            allowed, formula = Fraction(4 * unit(widest, dtype)) + Fraction(1, 2**62), "4 units + 2^-62"
        else:
            allowed = Fraction(unit(truth, dtype)) / 2 + Fraction(magnitude) / 2**48
            formula = f"half a unit + 2^-48 * {magnitude:g}"
    else:
        power = 23 if whole else 22
        allowed, formula = Fraction(magnitude) / 2**power, f"2^-{power} * {magnitude:g}"
        if FORMATS[dtype].precision < FORMATS["float32"].precision:
            allowed += _half_unit(truth, allowed, dtype)
            formula += " + half a unit"
    if group.kind == "add":  # the sum itself is rounded: in float32 (float64) first, where that is not the output
        allowed += _half_unit(truth, allowed, "float64" if dtype == "float64" else "float32")
        formula += " + half a unit of the sum"
    return allowed, formula


def rotation_bound(group: Group, truth: float, dtype: str, mode: Mode, reach: Fraction) -> tuple[Fraction, str]:
    """N3, on the table given; `reach` is max(|u|, |v|). In `turn` cosine and sine have an error of their own."""
    wide = "float64" if dtype == "float64" else "float32"
    magnitude, power = group.spec.plan().magnitude, FORMATS[wide].precision - 2
    allowed, formula = Fraction(magnitude) * reach / 2**power, f"2^-{power} * {magnitude:g} * {float(reach):g}"
    if group.kind == "turn":
        own, of_table = _table_bound(magnitude, wide, mode)
        allowed += 2 * own * reach
        formula += f" + 2 * {float(reach):g} * ({of_table})"
    return allowed + _half_unit(truth, allowed, dtype), formula + " + half a unit"


def _table_bound(magnitude: float, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far the largest entries of a table may be from the true ones."""
    if dtype == "float64" and mode.has_float64:
        return Fraction(4 * unit(magnitude, dtype)) + Fraction(1, 2**62), "4 units + 2^-62"
    if mode.name == "N1":
        return Fraction(unit(magnitude, dtype)) / 2, "half a unit"
    return Fraction(magnitude) / 2**23, f"2^-23 * {magnitude:g}"


def _reach(group: Group, case: Case, index: int) -> Fraction | None:
    """max(|u|, |v|) of the pair that is written to an entry, by its flat index; None for a channel that is copied."""
    plan = rotary(group).rotation()
    row, channel = divmod(index, plan.head_dim)
    channel -= plan.start
    if not 0 <= channel < 2 * plan.pairs:
        return None
    pair = channel // 2 if plan.writes == "interleaved" else channel % plan.pairs
    first, second = (2 * pair, 2 * pair + 1) if plan.reads == "interleaved" else (pair, plan.pairs + pair)
    start = row * plan.head_dim + plan.start
    return max(abs(Fraction(case.x[start + first])), abs(Fraction(case.x[start + second])))


def _half_unit(truth: float, slack: Fraction, dtype: str) -> Fraction:
    """Half a unit at the largest magnitude that is rounded: the slack may carry it into the next binade."""
    return Fraction(unit(abs(truth) + float(slack), dtype)) / 2


def rotary(group: Group) -> RotarySpec:
    if not isinstance(group.spec, RotarySpec):
        raise TypeError(f"{group.variant}: expected a specification of rotations, received {group.spec!r}")
    return group.spec
