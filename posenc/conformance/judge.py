"""The verdict: is an answer what the specification says, within the contract?

Nothing here returns a bool. A comparison raises `Disagreement`, with case, index, what came, what was expected and
how far apart they are, or returns the distance it measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple, TypeVar

from posenc.conformance.bounds import Mode, distances, learned, limit, phases, rotary
from posenc.conformance.cases import NAN, PHASE, ROWS, Case, Group
from posenc.conformance.protocol import WIDTHS, Answer, Positions, Subject, Table, decoded, encoded, ordinal

Part = TypeVar("Part")


class Distance(NamedTuple):
    """How far an answer is from the expected one (units in the last place) and from the true value."""

    units: int = 0
    error: float = 0.0
    share: float = 0.0
    """The error in units of what is allowed, where that is not identical bits."""
    bounded: bool = False
    """Whether anything but identical bits was allowed."""

    def worst(self, other: Distance) -> Distance:
        return Distance(
            max(self.units, other.units),
            max(self.error, other.error),
            max(self.share, other.share),
            self.bounded or other.bounded,
        )


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
    """Of an answer, or of either half of a table."""
    row: int = 0

    @property
    def width(self) -> int:
        """Entries of one row; of a sum or a rotation, which is judged whole, all of them."""
        return self.shape[-1] if self.group.of_one_call else math.prod(self.shape)


class Verdict(NamedTuple):
    """What became of one case."""

    case: Case
    distance: Distance
    disagreement: Disagreement | None


def judge(subject: Subject, mode: Mode, group: Group, dtype: str) -> Iterator[Verdict]:
    """Ask `subject` for one group, and give one verdict a case; `dtype` is `phase` or `rows` for groups of those.

    What the subject raises is passed on, where it is not the refusal that a case asks for: that it fails is for the
    caller to report.
    """
    if not group.of_one_call:
        for case in group.cases:
            if case.outside and mode.name == "N1":
                yield _refusal(subject, mode, group, case, dtype)
            else:
                yield verdict(Question(group, case, mode, dtype, case.shape), _entries(subject, group, case, dtype))
        return
    positions = group.positions()
    answer: Answer | Table
    spec = phases(group)
    if group.kind == PHASE:
        tail: tuple[int, ...] = (spec.plan().pairs, 3)
        answer = subject.phase(spec, positions)
    elif group.kind == "table":
        tail = (spec.plan().pairs,)
        answer = subject.table(rotary(group), positions, dtype)
    else:
        tail = (spec.plan().dim,)
        answer = subject.encode(spec, positions, dtype)
    for index, case in enumerate(group.cases):
        question = Question(group, case, mode, dtype, (*positions.shape, *tail), group.row(index))
        yield verdict(question, answer)


def _entries(subject: Subject, group: Group, case: Case, dtype: str) -> Answer:
    """The answer to a case that is asked for by itself."""
    if group.kind in (ROWS, "bias"):
        query, key = _given(case, case.query), _given(case, case.key)
        if group.kind == ROWS:
            return subject.rows(distances(group), query, key)
        weights = None if case.weights is None else case.weights.answer(dtype)
        return subject.bias(distances(group), query, key, weights, dtype)
    if group.kind in ("lookup", "resize"):
        table_ = _given(case, case.weights).answer(dtype)
        if group.kind == "lookup":
            return subject.lookup(learned(group), table_, _given(case, case.positions))
        return subject.resize(learned(group), table_, case.target, _given(case, case.method))
    x = Answer(dtype, case.shape, encoded(case.x, dtype))
    if group.kind == "add":
        return subject.add(phases(group), x, case.positions)
    table, spec = case.table, rotary(group)
    if table is None:
        table = subject.table(spec, _given(case, case.positions), "float64" if dtype == "float64" else "float32")
    return subject.rotate(spec, x, table, case.head_axis)


def _given(case: Case, part: Part | None) -> Part:
    if part is None:
        raise ValueError(f"{case.id}: a part of the question is missing")
    return part


def _refusal(subject: Subject, mode: Mode, group: Group, case: Case, dtype: str) -> Verdict:
    """Of a question that has no answer on the host: it is refused, and because of what is outside.

    The sentence is not judged. That nothing else is refused is: what the question is without the positions outside
    has to be answered, and rightly.
    """
    try:
        answer = _entries(subject, group, case, dtype)
    except (ValueError, IndexError):
        own = _inside(group, case, dtype)
        if not own.channels:
            return Verdict(case, Distance(), None)
        try:
            found = verdict(Question(group, own, mode, dtype, own.shape), _entries(subject, group, own, dtype))
        except (ValueError, IndexError) as error:
            wrong = Disagreement(own.id, f"{type(error).__name__}: {error}", "an answer, as nothing is outside")
            return Verdict(case, Distance(), wrong)
        return found._replace(case=case)
    got = f"an array of shape {tuple(answer.shape)}"
    return Verdict(case, Distance(), Disagreement(case.id, got, "a ValueError or an IndexError"))


def _inside(group: Group, case: Case, dtype: str) -> Case:
    """The positions of a lookup that have a row; or one query, in the first row of a batch, with the keys it has."""
    words = case.expected[dtype]  # rows that are not there and NaNs are the same number
    if group.kind == "lookup":
        places, dim = _given(case, case.positions), case.shape[-1]
        kept = [k for k in range(len(places.values)) if words[k * dim] != NAN]
        entries = [k * dim + channel for k in kept for channel in range(dim)]
        own = replace(case, positions=_taken(places, 1, kept), shape=(len(kept), dim))
    else:
        (queries, keys), heads = case.shape[-2:], case.shape[-3:-2] if group.kind == "bias" else ()
        rows = [[k for k in range(keys) if words[q * keys + k] != NAN] for q in range(queries)]
        q = max(range(queries), key=lambda q: len(rows[q]))
        entries = [(head * queries + q) * keys + k for head in range(math.prod(heads)) for k in rows[q]]
        axes = len(distances(group).plan().axes)
        query, key = (_taken(_given(case, x), axes, n) for x, n in ((case.query, [q]), (case.key, rows[q])))
        own = replace(case, query=query, key=key, shape=(*heads, 1, len(rows[q])))
    expected = {dtype: tuple(words[entry] for entry in entries)}
    return replace(own, id=f"{case.id}, inside", channels=tuple(range(len(entries))), expected=expected, outside=False)


def _taken(places: Positions, axes: int, chosen: Sequence[int]) -> Positions:
    """Some positions, the first of a batch being 0."""
    values = [int(places.values[k * axes + axis]) for k in chosen for axis in range(axes)]
    return Positions(places.dtype, (len(chosen), axes) if axes > 1 else (len(chosen),), values)


def verdict(question: Question, answer: Answer | Table) -> Verdict:
    """The verdict on one case; a disagreement is kept in it, for the report to count."""
    worst = Distance()
    try:
        parts = check_form(question, answer)
        for entry in range(len(question.case.channels)):
            if question.dtype == PHASE:
                worst = worst.worst(check_words(question, parts[0], entry))
            elif question.dtype == ROWS:
                check_row(question, parts[0], entry)
            else:
                part, column = divmod(question.case.channels[entry], question.width)
                pattern = parts[part].pattern(question.row * question.width + column)
                worst = worst.worst(check_value(question, pattern, entry))
    except Disagreement as disagreement:
        return Verdict(question.case, disagreement.distance or worst, disagreement)
    return Verdict(question.case, worst, None)


def check_form(question: Question, answer: Answer | Table) -> tuple[Answer, ...]:
    """Refuse an answer of another dtype, shape or length than the question asks for; its arrays, one or two."""
    where = question.case.id
    dtypes = {PHASE: ("int64", "uint32"), ROWS: ("int32",)}.get(question.dtype, (question.dtype,))
    if isinstance(answer, Table) != (question.group.kind == "table"):
        expected = "Table(cos, sin)" if question.group.kind == "table" else "one array"
        raise Disagreement(where, type(answer).__name__, expected)
    parts = tuple(answer) if isinstance(answer, Table) else (answer,)
    for part in parts:
        if part.dtype not in dtypes:
            raise Disagreement(where, f"an array of {part.dtype}", f"one of {' or '.join(dtypes)}")
        if tuple(part.shape) != question.shape:
            raise Disagreement(where, f"shape {tuple(part.shape)}", f"shape {question.shape}")
        size = math.prod(question.shape) * WIDTHS[part.dtype]
        if len(part.data) != size:
            raise Disagreement(where, f"{len(part.data)} bytes", f"{size} bytes")
    return parts


def check_words(question: Question, answer: Answer, entry: int) -> Distance:
    """Phase words are the same integers in every column and mode."""
    pair = question.case.channels[entry]
    first = 3 * (question.row * question.shape[-2] + pair)
    got = [answer.pattern(first + k) for k in range(3)]
    whole = question.case.expected[PHASE][entry]
    expected = [whole >> 64, whole >> 32 & 0xFFFFFFFF, whole & 0xFFFFFFFF]
    if got != expected:
        raise Disagreement(f"{question.case.id}, pair {pair}", f"{got}", f"words {expected}", limit="identical words")
    return Distance()


def check_row(question: Question, answer: Answer, entry: int) -> None:
    """Rows are the same integers in every column and mode."""
    index, expected = question.case.channels[entry], question.case.expected[ROWS][entry]
    got = answer.pattern(index)
    got -= (got >> 31) << 32
    if got != expected:
        raise Disagreement(f"{question.case.id}, entry {index}", str(got), f"row {expected}", limit="identical rows")


def check_value(question: Question, got: int, entry: int) -> Distance:
    """The pattern of one value against the contract; the distance, where it is allowed."""
    group, case, mode, dtype = question.group, question.case, question.mode, question.dtype
    channel, expected = case.channels[entry], case.expected[dtype][entry]
    where = f"{case.id}, {'channel' if group.of_one_call else 'entry'} {channel}, {dtype}"
    value = decoded(got, dtype)
    if expected == NAN:
        if not math.isnan(value):
            raise Disagreement(where, f"{value!r} ({got:#x})", "NaN")
        return Distance()
    wanted = decoded(expected, dtype)
    shown = f"{value!r} ({got:#x})", f"{wanted!r} ({expected:#x})"
    if got != expected and not (math.isfinite(value) and (case.truth or math.isfinite(wanted))):
        raise Disagreement(where, *shown)
    allowed, formula = limit(group, case, entry, dtype, mode)
    if not math.isfinite(value) or (not allowed and got == expected):
        wide = case.expected.get("float64")  # not there where what is expected is a copy
        if wide is None or not math.isfinite(value):
            return Distance(bounded=bool(allowed))
        return Distance(0, abs(value - decoded(wide[entry], "float64")))
    error = abs(Fraction(value) - (case.truth[entry] if case.truth else Fraction(wanted)))
    units, share = abs(ordinal(got, dtype) - ordinal(expected, dtype)), float(error / allowed) if allowed else 0.0
    distance = Distance(units, float(error), share, bounded=bool(allowed))
    if error > allowed or not allowed:
        raise Disagreement(where, *shown, distance, formula)
    return distance
