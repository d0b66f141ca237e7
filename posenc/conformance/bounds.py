"""The contract in numbers: how far an answer may be from the true value, for every kind of question."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, TypeVar

from posenc.conformance.cases import Case, Group
from posenc.conformance.protocol import unit
from posenc.spec import (
    Alibi,
    DebertaBuckets,
    Learned,
    MusicTransformerIndex,
    Rope,
    ShawClip,
    Sinusoidal,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
)
from posenc.spec.distance_plan import DistanceSpec
from posenc.spec.exact import FORMATS

Kind = TypeVar("Kind")


class Mode(NamedTuple):
    """Which clause of the contract holds: N1 on the host; N2 traced or on an accelerator."""

    name: str
    has_float64: bool = True
    """Whether float64 output has float64 accuracy: not on accelerators."""


N1 = Mode("N1")
N2 = Mode("N2")
N2_ACCELERATOR = Mode("N2", has_float64=False)

IDENTICAL = Fraction(0), "identical bits"

_PHASES: tuple[type[Sinusoidal | Rope], ...] = (Sinusoidal, Rope)
_DISTANCES: tuple[type[DistanceSpec], ...] = (
    Alibi,
    T5Bias,
    SwinIndex,
    ShawClip,
    DebertaBuckets,
    TransformerXLIndex,
    MusicTransformerIndex,
)


def limit(group: Group, case: Case, entry: int, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far one entry may be from the true value, 0 where its bits are given; and the formula."""
    if not case.truth:  # copied, or one product of floats that every mode rounds alike
        return IDENTICAL
    truth = float(case.truth[entry])
    if group.kind in ("rotate", "turn"):
        reach = _reach(group, case, case.channels[entry])
        return IDENTICAL if reach is None else rotation_bound(group, truth, dtype, mode, reach)
    if group.kind == "bias":
        return slope_bound(truth, dtype, mode, unit_distance=_unit_distance(group, case, entry))
    if group.kind == "resize":
        return resize_bound(group, case, entry, dtype, mode)
    if mode.name == "N1" and dtype != "float64" and group.position_dtype == "integer":
        return IDENTICAL
    return bound(group, truth, dtype, mode)


def bound(group: Group, truth: float, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far from the true value an encoding, an entry of a table or a sum may be, and the formula."""
    whole = group.position_dtype == "integer"
    magnitude = phases(group).plan().magnitude
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
    magnitude, power = rotary(group).plan().magnitude, FORMATS[wide].precision - 2
    allowed, formula = Fraction(magnitude) * reach / 2**power, f"2^-{power} * {magnitude:g} * {float(reach):g}"
    if group.kind == "turn":
        own, of_table = _table_bound(magnitude, wide, mode)
        allowed += 2 * own * reach
        formula += f" + 2 * {float(reach):g} * ({of_table})"
    return allowed + _half_unit(truth, allowed, dtype), formula + " + half a unit"


def slope_bound(truth: float, dtype: str, mode: Mode, *, unit_distance: bool) -> tuple[Fraction, str]:
    """A slope times an integer: float64 to one unit; else correctly rounded, or, traced, two float32 roundings.

    Zero is exact, and in float32 so is the slope itself, at distance 1.
    """
    if truth == 0 or (mode.name == "N1" and dtype != "float64") or (unit_distance and dtype == "float32"):
        return IDENTICAL
    if dtype == "float64" and mode.has_float64:
        return Fraction(unit(truth, dtype)), "1 unit"
    return _narrowed(truth, abs(Fraction(truth)) / 2**22, "2^-22 of the value", dtype)


def resize_bound(group: Group, case: Case, entry: int, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """n * 2^-22 (2^-51 in float64) of the largest input of the channel; n is the greatest size of grid or target.

    Rows that are kept are copied. On the host the order of the sums is given, and with it their bits.
    """
    spec = learned(group)
    dim = spec.weight_shape[1]
    plan = spec.resizing(case.target, case.method)
    if mode.name == "N1" or entry < plan.kept * dim:
        return IDENTICAL
    if case.weights is None:
        raise TypeError(f"{case.id}: expected the numbers of a table, received none")
    widest = max(abs(Fraction(x)) for x in case.weights.values[plan.kept * dim + entry % dim :: dim])
    longest = max(*plan.grid, *plan.shape)
    power = FORMATS["float64" if dtype == "float64" and mode.has_float64 else "float32"].precision - 2
    allowed = longest * widest / 2**power
    return _narrowed(float(case.truth[entry]), allowed, f"{longest} * 2^-{power} * {float(widest):g}", dtype)


def _narrowed(truth: float, allowed: Fraction, formula: str, dtype: str) -> tuple[Fraction, str]:
    """With one rounding more, where the output has fewer digits than float32."""
    if FORMATS[dtype].precision < FORMATS["float32"].precision:
        return allowed + _half_unit(truth, allowed, dtype), f"{formula} + half a unit"
    return allowed, formula


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


def _unit_distance(group: Group, case: Case, entry: int) -> bool:
    """Whether one entry of a bias is a slope itself: that of distance 2 is twice as large."""
    slopes = distances(group).plan().slopes
    head = case.channels[entry] // (case.shape[-1] * case.shape[-2]) % len(slopes)
    return abs(case.truth[entry]) < 1.5 * slopes[head].float32


def _half_unit(truth: float, slack: Fraction, dtype: str) -> Fraction:
    """Half a unit at the largest magnitude that is rounded: the slack may carry it into the next binade."""
    return Fraction(unit(abs(truth) + float(slack), dtype)) / 2


def phases(group: Group) -> Sinusoidal | Rope:
    return _of(group, _PHASES, "phases")


def rotary(group: Group) -> Rope:
    return _of(group, (Rope,), "rotations")


def distances(group: Group) -> DistanceSpec:
    return _of(group, _DISTANCES, "distances")


def learned(group: Group) -> Learned:
    return _of(group, (Learned,), "a learned table")


def _of(group: Group, kinds: tuple[type[Kind], ...], what: str) -> Kind:
    """The specification of a group, where it is of a kind that its questions have."""
    if not isinstance(group.spec, kinds):
        raise TypeError(f"{group.variant}: expected a specification of {what}, received {group.spec!r}")
    return group.spec
