"""The verdict: is an answer what the specification says, within the contract?

Nothing here returns a bool. A comparison raises `Disagreement`, with case, index, what came, what was expected and
how far apart they are, or returns the distance it measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from posenc.conformance.cases import PHASE, Case, Group
from posenc.conformance.protocol import WIDTHS, Answer, Subject, decoded, encoded, ordinal, unit
from posenc.spec.exact import FORMATS


class Mode(NamedTuple):
    """Which clause of the contract holds: N1 on the host; N2 traced or on an accelerator."""

    name: str
    has_float64: bool = True
    """Whether float64 output has float64 accuracy: not on accelerators."""


N1 = Mode("N1")
N2 = Mode("N2")
N2_ACCELERATOR = Mode("N2", has_float64=False)


class Distance(NamedTuple):
    """How far an answer is from the expected one (units in the last place) and from the true value."""

    units: int = 0
    error: float = 0.0
    share: float = 0.0
    """The error in units of what is allowed, where that is not identical bits."""

    def worst(self, other: Distance) -> Distance:
        return Distance(max(self.units, other.units), max(self.error, other.error), max(self.share, other.share))


class Disagreement(AssertionError):
    """An answer that is not what the specification says."""

    def __init__(self, where: str, got: str, expected: str, distance: Distance | None = None, limit: str = "") -> None:
        self.where, self.got, self.expected, self.distance, self.limit = where, got, expected, distance, limit
        message = f"{where}: expected {expected}, received {got}"
        if distance is not None:
            message += f": {distance.units} units in the last place, {distance.error:.3g} from the true value"
        super().__init__(message + (f"; allowed: {limit}" if limit else ""))


class Question(NamedTuple):
    """What was asked, and where in the answer its case is read."""

    group: Group
    case: Case
    mode: Mode
    dtype: str
    shape: tuple[int, ...]
    row: int = 0


class Verdict(NamedTuple):
    """What became of one case."""

    case: Case
    distance: Distance
    disagreement: Disagreement | None


def judge(subject: Subject, mode: Mode, group: Group, dtype: str) -> Iterator[Verdict]:
    """Ask `subject` for one group, and give one verdict a case; `dtype` is `phase` for groups of phases.

    What the subject raises is passed on: that it fails is for the caller to report.
    """
    if group.kind == "add":
        for case in group.cases:
            x = Answer(dtype, case.shape, encoded(case.x, dtype))
            yield verdict(Question(group, case, mode, dtype, case.shape), subject.add(group.spec, x, case.positions))
        return
    positions = group.positions()
    if group.kind == PHASE:
        tail: tuple[int, ...] = (group.spec.pairs, 3)
        answer = subject.phase(group.spec, positions)
    else:
        tail = (group.spec.dim,)
        answer = subject.encode(group.spec, positions, dtype)
    for index, case in enumerate(group.cases):
        question = Question(group, case, mode, dtype, (*positions.shape, *tail), group.row(index))
        yield verdict(question, answer)


def verdict(question: Question, answer: Answer) -> Verdict:
    """The verdict on one case; a disagreement is kept in it, for the report to count."""
    worst = Distance()
    check = check_words if question.dtype == PHASE else check_value
    try:
        check_form(question, answer)
        for entry in range(len(question.case.channels)):
            worst = worst.worst(check(question, answer, entry))
    except Disagreement as disagreement:
        return Verdict(question.case, disagreement.distance or worst, disagreement)
    return Verdict(question.case, worst, None)


def check_form(question: Question, answer: Answer) -> None:
    """Refuse an answer of another dtype, shape or length than the question asks for."""
    where = question.case.id
    dtypes = ("int64", "uint32") if question.dtype == PHASE else (question.dtype,)
    if answer.dtype not in dtypes:
        raise Disagreement(where, f"an array of {answer.dtype}", f"one of {' or '.join(dtypes)}")
    if tuple(answer.shape) != question.shape:
        raise Disagreement(where, f"shape {tuple(answer.shape)}", f"shape {question.shape}")
    size = math.prod(question.shape) * WIDTHS[answer.dtype]
    if len(answer.data) != size:
        raise Disagreement(where, f"{len(answer.data)} bytes", f"{size} bytes")


def check_words(question: Question, answer: Answer, entry: int) -> Distance:
    """Phase words are the same integers in every column and mode."""
    pair = question.case.channels[entry]
    first = 3 * (question.row * question.group.spec.pairs + pair)
    got = [answer.pattern(first + k) for k in range(3)]
    whole = question.case.expected[PHASE][entry]
    expected = [whole >> 64, whole >> 32 & 0xFFFFFFFF, whole & 0xFFFFFFFF]
    if got != expected:
        raise Disagreement(f"{question.case.id}, pair {pair}", f"{got}", f"words {expected}", limit="identical words")
    return Distance()


def check_value(question: Question, answer: Answer, entry: int) -> Distance:
    """One value against the contract; the distance, where it is allowed."""
    group, case, mode, dtype = question.group, question.case, question.mode, question.dtype
    channel = case.channels[entry]
    got, expected = answer.pattern(question.row * group.spec.dim + channel), case.expected[dtype][entry]
    value, wanted = decoded(got, dtype), decoded(expected, dtype)
    where = f"{case.id}, {'entry' if group.kind == 'add' else 'channel'} {channel}, {dtype}"
    if not math.isfinite(value):
        raise Disagreement(where, f"{value!r} ({got:#x})", f"{wanted!r} ({expected:#x})")
    if mode.name == "N1" and dtype != "float64" and group.position_dtype == "integer":
        if got == expected:
            return Distance(0, abs(value - decoded(case.expected["float64"][entry], "float64")))
        limit, formula = Fraction(0), "identical bits"
    else:
        limit, formula = bound(group, float(case.truth[entry]), dtype, mode)
    error = abs(Fraction(value) - case.truth[entry])
    distance = Distance(
        abs(ordinal(got, dtype) - ordinal(expected, dtype)), float(error), float(error / limit) if limit else 0.0
    )
    if error > limit or not limit:
        raise Disagreement(where, f"{value!r} ({got:#x})", f"{wanted!r} ({expected:#x})", distance, formula)
    return distance


def bound(group: Group, truth: float, dtype: str, mode: Mode) -> tuple[Fraction, str]:
    """How far from the true value an answer may be, and the formula."""
    whole = group.position_dtype == "integer"
    magnitude = group.spec.output_scale
    if mode.name == "N1" or (dtype == "float64" and mode.has_float64):
        if whole:  # units of the encoding; in `add` it is at most the magnitude
            widest = magnitude if group.kind == "add" else truth
            limit, formula = Fraction(4 * unit(widest, dtype)) + Fraction(1, 2**62), "4 units + 2^-62"
        else:
            limit = Fraction(unit(truth, dtype)) / 2 + Fraction(magnitude) / 2**48
            formula = f"half a unit + 2^-48 * {magnitude:g}"
    else:
        power = 23 if whole else 22
        limit, formula = Fraction(magnitude) / 2**power, f"2^-{power} * {magnitude:g}"
        if FORMATS[dtype].precision < FORMATS["float32"].precision:
            limit += _half_unit(truth, limit, dtype)
            formula += " + half a unit"
    if group.kind == "add":  # the sum itself is rounded: in float32 (float64) first, where that is not the output
        limit += _half_unit(truth, limit, "float64" if dtype == "float64" else "float32")
        formula += " + half a unit of the sum"
    return limit, formula


def _half_unit(truth: float, slack: Fraction, dtype: str) -> Fraction:
    """Half a unit at the largest magnitude that is rounded: the slack may carry it into the next binade."""
    return Fraction(unit(abs(truth) + float(slack), dtype)) / 2
