"""The judge is shown right answers, and wrong ones of every kind: each is caught, and by the case that hunts it."""

from __future__ import annotations

import inspect
import struct
from fractions import Fraction
from typing import NamedTuple

import pytest

from posenc.conformance.bounds import N1, N2, bound
from posenc.conformance.cases import PHASE, vectors
from posenc.conformance.judge import Disagreement, Question, check_value, judge
from posenc.conformance.protocol import DTYPES, Answer, decoded, encoded, ordinal, unit
from tests.wrong import formula, precision, state
from tests.wrong.plain import Plain

VECTORS = vectors("sinusoidal")
CASES = {case.id: group for group in VECTORS.groups for case in group.cases}


class Wrong(NamedTuple):
    subject: type[Plain]
    dtype: str
    case: str
    flag: str
    remembers: bool = False


WRONG = [
    Wrong(formula.Denominator, "float32", "sinusoidal.diffusers/0002", "PaperDenominator"),
    Wrong(formula.Denominator, "float32", "sinusoidal.whisper/0003", "CodeDenominator"),
    Wrong(formula.Layout, "float32", "sinusoidal.vaswani/0014", "Interleaved"),
    Wrong(formula.Layout, "float32", "sinusoidal.tensor2tensor/0002", "SinesFirst"),
    Wrong(formula.Order, "float32", "sinusoidal.diffusers/0001", "CosinesFirst"),
    Wrong(formula.Offset, "float32", "sinusoidal.fairseq/0001", "PositionOffset"),
    Wrong(formula.Base, "float32", "sinusoidal.vaswani/0119", "OtherBase"),
    Wrong(formula.Padding, "float16", "sinusoidal.fairseq/0024", "PaddingRow"),
    Wrong(formula.PaddingRowZero, "float32", "sinusoidal.vaswani/0001", "SinglePair"),
    Wrong(precision.Float32Phase, "float32", "sinusoidal.vaswani/0057", "LongContext"),
    Wrong(precision.Float64Angle, "float32", "sinusoidal.near_zero/0006", "NearZero"),
    Wrong(precision.Phase64, "float32", "sinusoidal.near_zero/0002", "NearZero"),
    Wrong(precision.Bfloat16Positions, "bfloat16", "sinusoidal.vaswani/0019", "PastBfloat16"),
    Wrong(precision.Float16Positions, "float32", "sinusoidal.vaswani/0023", "PastFloat16"),
    Wrong(precision.Float32Positions, "float32", "sinusoidal.vaswani/0032", "PastFloat32"),
    Wrong(precision.TruncatedPositions, "float32", "sinusoidal.ddpm/0015", "FractionalPosition"),
    Wrong(precision.DoubleRounding, "bfloat16", "sinusoidal.double_rounding/0001", "DoubleRounding"),
    Wrong(precision.DoubleRounding, "float16", "sinusoidal.double_rounding/0004", "DoubleRounding"),
    Wrong(state.StaleBase, "float32", "sinusoidal.vaswani/0119", "OtherBase", remembers=True),
    Wrong(state.StaleOffset, "float32", "sinusoidal.table/0010", "Table", remembers=True),
    Wrong(state.StaleLength, "float32", "sinusoidal.table/0019", "Table", remembers=True),
    Wrong(state.TwoRoundings, "bfloat16", "sinusoidal.vaswani.add/0006", "OneRounding"),
    Wrong(state.TwoRoundings, "float16", "sinusoidal.vaswani.add/0006", "OneRounding"),
    Wrong(state.BatchAxis, "float32", "sinusoidal.vaswani.add/0001", "BatchAxis"),
    Wrong(state.OnePositionRow, "float32", "sinusoidal.vaswani.add/0004", "OwnPositions"),
    Wrong(state.Clamped, "float32", "sinusoidal.vaswani/0035", "NegativePosition"),
    Wrong(state.Unsigned, "float32", "sinusoidal.vaswani/0035", "NegativePosition"),
]


def disagreement(subject, identifier, dtype, *, remembers=False):
    """What the judge says of one case, after the groups before it where the subject remembers."""
    for group in VECTORS.groups:
        if group is CASES[identifier]:
            (found,) = (v for v in judge(subject, N1, group, dtype) if v.case.id == identifier)
            return found.disagreement
        if remembers and group.kind == "encode" and group.position_dtype == "integer":
            list(judge(subject, N1, group, dtype))
    raise KeyError(identifier)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.subject.__name__}-{w.case.split('.')[1]}-{w.dtype}")
def test_a_wrong_implementation_is_caught_by_the_case_that_hunts_it(wrong):
    found = disagreement(wrong.subject(), wrong.case, wrong.dtype, remembers=wrong.remembers)
    assert isinstance(found, Disagreement)
    assert found.where.startswith(wrong.case)
    (case,) = (case for case in CASES[wrong.case].cases if case.id == wrong.case)
    assert wrong.flag in case.flags
    assert disagreement(Plain(), wrong.case, wrong.dtype) is None  # so it is this step that is wrong


@pytest.mark.parametrize(
    ("identifier", "dtype"),
    [
        ("sinusoidal.midpoint/0001", "float32"),
        ("sinusoidal.midpoint/0003", "float32"),  # in a table
        ("sinusoidal.midpoint/0011", "bfloat16"),
        ("sinusoidal.midpoint/0020", "float16"),
    ],
)
def test_float64_rounded_unchecked_is_caught_at_the_midpoints(identifier, dtype):
    assert disagreement(Plain(), identifier, dtype).distance.units == 1


def test_every_wrong_implementation_is_tried_and_says_where_it_comes_from():
    kinds = {
        kind
        for module in (formula, precision, state)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Plain) and kind.reports
    }
    assert kinds == {wrong.subject for wrong in WRONG}
    for kind in kinds:
        assert all(report.startswith(("https://", "no report: ")) for report in kind.reports), kind


class Truth:
    """Answers in exact arithmetic, slowly."""

    def encode(self, spec, positions, dtype):
        values = [spec.value(p, channel, dtype) for p in positions.values for channel in range(spec.dim)]
        return Answer(dtype, (*positions.shape, spec.dim), encoded(values, dtype))


SMALL = [g for g in VECTORS.groups if g.kind == "encode" and g.rows is None and len(g.cases) * g.spec.dim <= 80]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_judge_accepts_the_truth(dtype):
    assert len(SMALL) >= 15
    for group in SMALL:
        for verdict in judge(Truth(), N1, group, dtype):
            assert verdict.disagreement is None


class Liar(Truth):
    """The truth, after `change`."""

    def __init__(self, change):
        self.change = change

    def encode(self, spec, positions, dtype):
        return self.change(super().encode(spec, positions, dtype))


def put(answer, index, number):
    width = len(answer.data) // (answer.shape[0] * answer.shape[1])
    data = bytearray(answer.data)
    data[index * width : (index + 1) * width] = number
    return answer._replace(data=bytes(data))


def next_float(answer, index, steps):
    pattern = answer.pattern(index)
    return put(answer, index, (pattern + steps).to_bytes(4, "little"))


PAIR = CASES["sinusoidal.vaswani/0001"]  # dim 2, the few positions: row 0 is sin 0, cos 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a._replace(dtype="float64"), "expected one of float32, received an array of float64"),
        (lambda a: a._replace(shape=a.shape[::-1]), "expected shape (11, 2), received shape (2, 11)"),
        (lambda a: a._replace(shape=(1, *a.shape)), "received shape (1, 11, 2)"),
        (lambda a: a._replace(data=a.data[:-4]), "expected 88 bytes, received 84 bytes"),
        (lambda a: a._replace(data=b""), "received 0 bytes"),
        (lambda a: a._replace(data=a.data * 2), "received 176 bytes"),
        (
            lambda a: put(a, 1, struct.pack("<f", float("nan"))),
            "channel 1, float32: expected 1.0 (0x3f800000), received nan",
        ),
        (lambda a: put(a, 1, struct.pack("<f", float("inf"))), "received inf"),
        (
            lambda a: next_float(a, 1, 1),
            "received 1.0000001192092896 (0x3f800001): 1 units in the last place, 1.19e-07",
        ),
        (lambda a: put(a, 0, struct.pack("<f", -0.0)), "expected 0.0 (0x0), received -0.0 (0x80000000): 0 units"),
    ],
    ids=["dtype", "shape", "rank", "short", "empty", "long", "nan", "infinity", "one-unit", "sign-of-zero"],
)
def test_a_lying_answer_is_caught(change, message):
    verdict = next(judge(Liar(change), N1, PAIR, "float32"))
    with pytest.raises(Disagreement) as caught:
        raise verdict.disagreement
    assert str(caught.value).startswith("sinusoidal.vaswani/0001")
    assert message in str(caught.value)


def test_what_a_subject_raises_reaches_the_caller():
    def crash(answer):
        raise ZeroDivisionError(f"a single pair, {answer.shape}")

    with pytest.raises(ZeroDivisionError, match="a single pair"):
        list(judge(Liar(crash), N1, PAIR, "float32"))


def test_one_wrong_bit_of_a_phase_is_caught():
    group = CASES["sinusoidal.vaswani.phase/0005"]

    class Off(Plain):
        def phase(self, spec, positions):
            answer = super().phase(spec, positions)
            data = bytearray(answer.data)
            data[8 * (3 * spec.pairs * 4 + 2)] ^= 1  # the third word of pair 0 in row 4
            return answer._replace(data=bytes(data))

    assert [v.disagreement for v in judge(Plain(), N1, group, PHASE)] == [None] * len(group.cases)
    (found,) = (v.disagreement for v in judge(Off(), N2, group, PHASE) if v.disagreement)
    assert found.where == "sinusoidal.vaswani.phase/0005, pair 0"
    assert found.limit == "identical words"


@pytest.mark.parametrize(
    ("dtype", "mode", "inside", "outside"),
    [("float64", N1, 3, 5), ("float64", N2, 3, 5), ("float32", N2, 1, 4)],
)
def test_the_bounds_hold_where_they_say(dtype, mode, inside, outside):
    """Steps of one unit from cos(-1) = 0.54, whose unit in float32 is 2^-24; the expected value is rounded itself."""
    group = PAIR
    row = next(i for i, case in enumerate(group.cases) if case.position == -1)
    case = group.cases[row]
    expected = case.expected[dtype][1]

    question = Question(group, case, mode, dtype, (row + 1, 2), row)
    for steps in (inside, -inside):
        assert check_value(question, expected + steps, 1).units == inside
    for steps in (outside, -outside):
        with pytest.raises(Disagreement, match=f"{outside} units in the last place"):
            check_value(question, expected + steps, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_scale_with_the_magnitude_and_add_one_rounding(dtype):
    scaled = CASES["sinusoidal.scaled/0001"]
    assert scaled.spec.output_scale == 0.125
    limit, formula_text = bound(scaled, 0.1, dtype, N2)
    if dtype == "float64":
        assert limit == 4 * Fraction(unit(0.1, dtype)) + Fraction(1, 2**62)
    else:
        rounding = 0 if dtype == "float32" else Fraction(unit(0.1, dtype)) / 2
        assert limit == Fraction(1, 2**26) + rounding
        assert "0.125" in formula_text


def test_patterns_and_ordinals():
    assert decoded(0x3F80, "bfloat16") == 1.0
    assert encoded([1.0, -2.0], "bfloat16") == b"\x80\x3f\x00\xc0"
    assert ordinal(0x8000, "float16") == ordinal(0x0000, "float16") == 0
    assert ordinal(0x8001, "float16") == -1
    assert unit(0.0, "float16") == 2.0**-24
    assert unit(1.0, "float32") == 2.0**-23
    assert unit(0.99, "float32") == 2.0**-24
