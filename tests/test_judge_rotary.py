"""The judge is shown rotations, right and wrong: each mechanism of a report is caught, by the case that hunts it."""

from __future__ import annotations

import inspect
import struct
from fractions import Fraction
from typing import NamedTuple

import pytest

from posenc.conformance.bounds import N1, N2, N2_ACCELERATOR, limit
from posenc.conformance.cases import PHASE, vectors
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, Answer, Table, decoded, encoded
from posenc.spec.exact import round_to
from tests.wrong import rotary_formula, rotary_precision, rotary_turn, rotary_yarn
from tests.wrong.rotary_plain import Frequencies, PlainRotation

VECTORS = vectors("rope")
CASES = {case.id: (group, case) for group in VECTORS.groups for case in group.cases}


class Wrong(NamedTuple):
    subject: type[PlainRotation]
    dtype: str
    case: str
    flag: str
    remembers: bool = False


WRONG = [
    Wrong(rotary_formula.ScalingIgnored, "float32", "rope.llama3/0002", "Llama3Bands"),
    Wrong(rotary_formula.ScalingIgnored, "float32", "rope.linear/0002", "LinearFactor"),
    Wrong(rotary_formula.Base, "float32", "rope.core/0064", "OtherBase"),
    Wrong(rotary_formula.Direction, "float32", "rope.negative/0002", "Direction"),
    Wrong(rotary_formula.MagnitudeTwice, "float32", "rope.magnitude/0043", "Rerotation"),
    Wrong(rotary_formula.HeadWidth, "float32", "rope.partial/0002", "PartialWidth"),
    Wrong(rotary_formula.DerivedWidth, "float32", "rope.core/0016", "LongContext"),
    Wrong(rotary_formula.NtkWithoutExponent, "float32", "rope.ntk/0002", "NtkExponent"),
    Wrong(rotary_formula.NtkDividesAll, "float32", "rope.ntk/0002", "NtkExponent"),
    Wrong(rotary_formula.DynamicStatic, "float32", "rope.dynamic/0020", "DynamicBelow"),
    Wrong(rotary_formula.DynamicStateful, "float32", "rope.dynamic/0020", "DynamicBelow", remembers=True),
    Wrong(rotary_formula.DynamicBelow, "float32", "rope.dynamic/0020", "DynamicBelow"),
    Wrong(rotary_formula.DynamicInSteps, "float32", "rope.dynamic/0002", "DynamicLength"),
    Wrong(rotary_yarn.YarnTruncated, "float32", "rope.yarn/0012", "YarnNoTruncate"),
    Wrong(rotary_yarn.YarnNotTruncated, "float32", "rope.yarn/0002", "YarnTruncate"),
    Wrong(rotary_yarn.SixteenBits, "float32", "rope.yarn.clamp/0001", "YarnHighClamp"),
    Wrong(rotary_yarn.PaperForCode, "float32", "rope.yarn/0002", "YarnRamp"),
    Wrong(rotary_yarn.CodeForPaper, "float32", "rope.yarn.paper/0002", "YarnPaperRamp"),
    Wrong(rotary_yarn.YarnClamp, "float32", "rope.yarn.clamp/0001", "YarnHighClamp"),
    Wrong(rotary_yarn.YarnLowUnclamped, "float32", "rope.yarn.clamp/0013", "YarnLowClamp"),
    Wrong(rotary_yarn.YarnWidth, "float32", "rope.yarn.step/0013", "YarnEqualBetas"),
    Wrong(rotary_yarn.YarnBetas, "float32", "rope.yarn/0002", "YarnRamp"),
    Wrong(rotary_yarn.YarnInsidePower, "float32", "rope.yarn/0002", "YarnRamp"),
    Wrong(rotary_yarn.YarnWavelengths, "float32", "rope.yarn/0002", "YarnRamp"),
    Wrong(rotary_yarn.MagnitudeMissing, "float32", "rope.yarn/0001", "YarnMagnitude"),
    Wrong(rotary_yarn.MagnitudeSquared, "float32", "rope.yarn/0001", "YarnMagnitude"),
    Wrong(rotary_yarn.MagnitudeOfCosines, "float32", "rope.yarn/0002", "YarnMagnitude"),
    Wrong(rotary_yarn.AttentionFactorDropped, "float32", "rope.magnitude/0025", "AttentionFactor"),
    Wrong(rotary_yarn.MscaleDropped, "float32", "rope.magnitude/0001", "MagnitudeRatio"),
    Wrong(rotary_yarn.OtherMagnitudeRule, "float32", "rope.magnitude/0004", "MagnitudeDeepseek"),
    Wrong(rotary_yarn.OtherMagnitudeRule, "float32", "rope.magnitude/0007", "MagnitudeTransformers"),
    Wrong(rotary_yarn.AttentionFactorReplaces, "float32", "rope.magnitude/0031", "AttentionProduct"),
    Wrong(rotary_formula.Llama3Factor, "float32", "rope.llama3/0012", "Llama3Factor"),
    Wrong(rotary_formula.Llama3Exchanged, "float32", "rope.llama3/0002", "Llama3Bands"),
    Wrong(rotary_formula.Llama3Wavelengths, "float32", "rope.llama3/0002", "Llama3Blend"),
    Wrong(rotary_formula.Llama3Unblended, "float32", "rope.llama3/0002", "Llama3Blend"),
    Wrong(rotary_formula.AlwaysLong, "float32", "rope.longrope/0014", "LongRopeShort"),
    Wrong(rotary_formula.AlwaysShort, "float32", "rope.longrope/0002", "LongRopeLong"),
    Wrong(rotary_formula.LongRopeMagnitude, "float32", "rope.longrope/0001", "LongRopeMagnitude"),
    Wrong(rotary_formula.PartialForProportional, "float32", "rope.proportional/0002", "StillPairs"),
    Wrong(rotary_formula.ProportionalEverywhere, "float32", "rope.proportional/0002", "StillPairs"),
    Wrong(rotary_precision.Bfloat16Frequencies, "float32", "rope.core/0008", "PastBfloat16"),
    Wrong(rotary_precision.EmptyFrequencies, "float32", "rope.core/0114", "SinglePair"),
    Wrong(rotary_precision.IteratedFrequencies, "float32", "rope.core/0016", "LongContext"),
    Wrong(rotary_precision.Float32Phase, "float32", "rope.core/0016", "LongContext"),
    Wrong(rotary_precision.Bfloat16Positions, "float32", "rope.core/0008", "PastBfloat16"),
    Wrong(rotary_precision.Tf32Positions, "float32", "rope.core/0012", "PastFloat16"),
    Wrong(rotary_precision.NarrowTable, "float32", "rope.table/0002", "Table"),
    Wrong(rotary_precision.TableOfX, "bfloat16", "rope.given.rotate/0001", "NarrowArithmetic"),
    Wrong(rotary_precision.NarrowProducts, "bfloat16", "rope.given.rotate/0001", "NarrowArithmetic"),
    Wrong(rotary_precision.NarrowProducts, "float16", "rope.given.rotate/0001", "NarrowArithmetic"),
    Wrong(rotary_precision.SingleProducts, "float64", "rope.given.rotate/0002", "NarrowArithmetic"),
    Wrong(rotary_precision.DoubleRounding, "bfloat16", "rope.midpoint/0021", "MidpointBfloat16"),
    Wrong(rotary_turn.OtherLayout, "float32", "rope.axes.turn/0001", "Half"),
    Wrong(rotary_turn.OtherLayout, "float32", "rope.axes.turn/0003", "Interleaved"),
    Wrong(rotary_turn.NotReordered, "float32", "rope.axes.turn/0005", "InterleavedToHalf"),
    Wrong(rotary_turn.ConcatenatedTable, "float32", "rope.axes.turn/0003", "Interleaved"),
    Wrong(rotary_turn.Sign, "float32", "rope.axes.turn/0001", "Half"),
    Wrong(rotary_turn.Twice, "float32", "rope.axes.turn/0003", "Interleaved"),
    Wrong(rotary_turn.Missing, "float32", "rope.axes.turn/0016", "NoHeadAxis"),
    Wrong(rotary_turn.InPlace, "float32", "rope.axes.turn/0001", "Half"),
    Wrong(rotary_turn.FirstHeadOnly, "float32", "rope.axes.turn/0001", "HeadAxis"),
    Wrong(rotary_turn.Everywhere, "float32", "rope.partial.turn/0001", "PartialWidth"),
    Wrong(rotary_turn.OtherEnd, "float32", "rope.partial.turn/0001", "PassThrough"),
    Wrong(rotary_turn.Padded, "float32", "rope.partial.turn/0001", "PassThrough"),
    Wrong(rotary_turn.TurnedByZero, "float32", "rope.partial.turn/0001", "PassThrough"),
    Wrong(rotary_turn.MovedByHeadWidth, "float32", "rope.rerotation.turn/0001", "Rerotation"),
    Wrong(rotary_turn.PowerOfTwo, "float32", "rope.axes.turn/0019", "WideHead"),
    Wrong(rotary_turn.HeadsForPositions, "float32", "rope.axes.turn/0008", "EqualSizes"),
    Wrong(rotary_turn.BatchForPositions, "float32", "rope.axes.turn/0007", "EqualSizes"),
    Wrong(rotary_turn.OneRow, "float32", "rope.axes.turn/0001", "OwnPositions"),
    Wrong(rotary_turn.OneRowOfOne, "float32", "rope.decode.turn/0001", "OnePosition"),
    Wrong(rotary_turn.OneOff, "float32", "rope.decode.turn/0001", "OnePosition"),
    Wrong(rotary_turn.PastTheTable, "float32", "rope.core/0016", "LongContext"),
    Wrong(rotary_turn.PassedThrough, "float32", "rope.core/0024", "NegativePosition"),
    Wrong(rotary_turn.Unsigned, "float32", "rope.core/0024", "NegativePosition"),
    Wrong(rotary_turn.StaleOffset, "float32", "rope.table/0008", "Table", remembers=True),
    Wrong(rotary_turn.StaleScaling, "float32", "rope.yarn/0001", "YarnMagnitude", remembers=True),
]


def disagreement(subject, identifier, dtype, *, remembers=False):
    """What the judge says of one case, after the tables before it where the subject remembers."""
    wanted, _ = CASES[identifier]
    for group in VECTORS.groups:
        if group is wanted:
            (found,) = (v for v in judge(subject, N1, group, dtype) if v.case.id == identifier)
            return found.disagreement
        if remembers and group.kind == "table" and group.position_dtype == "integer":
            list(judge(subject, N1, group, dtype))
    raise KeyError(identifier)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.subject.__name__}-{w.case.removeprefix('rope.')}-{w.dtype}")
def test_a_wrong_rotation_is_caught_by_the_case_that_hunts_it(wrong):
    found = disagreement(wrong.subject(), wrong.case, wrong.dtype, remembers=wrong.remembers)
    assert isinstance(found, Disagreement)
    assert found.where.startswith(wrong.case)
    assert wrong.flag in CASES[wrong.case][1].flags
    right = Frequencies if issubclass(wrong.subject, Frequencies) else PlainRotation
    assert disagreement(right(), wrong.case, wrong.dtype) is None  # so it is this step that is wrong


def test_every_wrong_rotation_is_tried_and_says_where_it_comes_from():
    kinds = {
        kind
        for module in (rotary_formula, rotary_yarn, rotary_precision, rotary_turn)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, PlainRotation) and "reports" in vars(kind)
    }
    assert kinds == {wrong.subject for wrong in WRONG}
    for kind in kinds:
        assert all(report.startswith(("https://", "no report: ")) for report in kind.reports), kind


@pytest.mark.parametrize("dtype", [PHASE, *DTYPES])
def test_a_plain_rotation_is_right_but_where_float64_cannot_round(dtype):
    wrong = set()
    for group in VECTORS.groups:
        if (group.kind == PHASE) == (dtype == PHASE) and (dtype == PHASE or dtype in group.dtypes):
            wrong |= {v.case.id.split("/")[0] for v in judge(PlainRotation(), N1, group, dtype) if v.disagreement}
    assert wrong == ({"rope.midpoint"} if dtype in DTYPES[1:] else set())


# --- Tables ---


class Truth:
    """Answers in exact arithmetic, slowly."""

    def table(self, spec, positions, dtype):
        pairs, parts = spec.pairs, []
        for half in (0, 1):
            values = [spec.value(p, half * pairs + j, dtype) for p in positions.values for j in range(pairs)]
            parts.append(Answer(dtype, (*positions.shape, pairs), encoded(values, dtype)))
        return Table(*parts)

    def rotate(self, spec, x, table, head_axis):  # noqa: ARG002 - one position has no axis
        """The exact rotation of rows that all have the one position of the table, rounded once."""
        plan, pairs = spec.rotation(), spec.pairs
        entries = [Fraction(decoded(x.pattern(i), x.dtype)) for i in range(len(x.data) // WIDTH[x.dtype])]
        cosine, sine = ([Fraction(decoded(t.pattern(j), t.dtype)) for j in range(pairs)] for t in table)
        result = list(entries)
        for row in range(0, len(entries), plan.head_dim):
            for j in range(pairs):
                a, b = row + plan.start + j, row + plan.start + pairs + j
                u, v = entries[a], entries[b]
                result[a], result[b] = u * cosine[j] - v * sine[j], v * cosine[j] + u * sine[j]
        return Answer(x.dtype, x.shape, encoded([round_to(value, x.dtype) for value in result], x.dtype))


WIDTH = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
SMALL = [g for g in VECTORS.groups if g.kind == "table" and g.rows is None and len(g.cases) * g.spec.pairs <= 60]
ONE_POSITION = [CASES["rope.shape.rotate/0004"][0], CASES["rope.shape.rotate/0005"][0], CASES["rope.axes.turn/0018"][0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_judge_accepts_the_truth(dtype):
    assert len(SMALL) >= 30
    for group in [*SMALL, *ONE_POSITION]:
        if dtype in group.dtypes:
            assert [v.disagreement for v in judge(Truth(), N1, group, dtype)] == [None] * len(group.cases)


class Liar(Truth):
    """The truth, after `change`."""

    def __init__(self, change):
        self.change = change

    def table(self, spec, positions, dtype):
        return self.change(super().table(spec, positions, dtype))


PAIR, _ = CASES["rope.core/0113"]  # two channels: row 0 is cos 0, sin 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.cos, "expected Table(cos, sin), received Answer"),
        (lambda t: Table(t.sin, t.cos), "channel 0, float32: expected 1.0 (0x3f800000), received 0.0"),
        (lambda t: t._replace(sin=t.sin._replace(dtype="float64")), "expected one of float32, received an array of"),
        (lambda t: t._replace(sin=t.sin._replace(shape=(10, 2))), "expected shape (10, 1), received shape (10, 2)"),
        (lambda t: t._replace(cos=t.cos._replace(data=t.cos.data[:-4])), "expected 40 bytes, received 36 bytes"),
        (
            lambda t: t._replace(sin=t.sin._replace(data=struct.pack("<f", -0.0) + t.sin.data[4:])),
            "channel 1, float32: expected 0.0 (0x0), received -0.0",
        ),
        (
            lambda t: t._replace(cos=t.cos._replace(data=struct.pack("<f", float("nan")) + t.cos.data[4:])),
            "received nan",
        ),
    ],
    ids=["one-array", "exchanged", "dtype", "shape", "short", "sign-of-zero", "nan"],
)
def test_a_lying_table_is_caught(change, message):
    assert next(judge(Truth(), N1, PAIR, "float32")).disagreement is None
    found = next(judge(Liar(change), N1, PAIR, "float32")).disagreement
    assert str(found).startswith("rope.core/0113")
    assert message in str(found)


def test_an_array_for_a_table_and_a_table_for_an_array_are_refused():
    group, _ = CASES["rope.given.rotate/0001"]

    class Two(PlainRotation):
        def rotate(self, *question):
            return Table(super().rotate(*question), super().rotate(*question))

    (verdict,) = judge(Two(), N1, group, "float32")
    assert "expected one array, received Table" in str(verdict.disagreement)


# --- Rotations ---


class Pushed(PlainRotation):
    """The plain rotation with one entry moved by some units in the last place."""

    def __init__(self, index, steps):
        self.index, self.steps = index, steps

    def rotate(self, spec, x, table, head_axis):
        answer = super().rotate(spec, x, table, head_axis)
        width = WIDTH[x.dtype]
        word = (answer.pattern(self.index) + self.steps).to_bytes(width, "little")
        return answer._replace(data=answer.data[: self.index * width] + word + answer.data[(self.index + 1) * width :])


@pytest.mark.parametrize("mode", [N1, N2])
@pytest.mark.parametrize("identifier", ["rope.given.rotate/0001", "rope.axes.turn/0001"])
def test_the_bounds_of_rotations_hold_where_they_say(identifier, mode):
    """An entry of about max(|u|, |v|): float32 may be 2 units off on a given table, and not 8; bfloat16 not 1."""
    group, case = CASES[identifier]
    index = next(i for i, value in enumerate(case.truth) if 64 < abs(value) < 128 and i % group.spec.head_dim)
    for steps, dtype, allowed in ((2, "float32", True), (40, "float32", False), (2, "bfloat16", False)):
        (verdict,) = judge(Pushed(index, steps), mode, group, dtype)
        assert (verdict.disagreement is None) == allowed, (steps, dtype)
        if not allowed:
            assert f"entry {index}" in verdict.disagreement.where
            assert "half a unit" in verdict.disagreement.limit


@pytest.mark.parametrize("dtype", DTYPES)
def test_copied_channels_are_identical_bits(dtype):
    group, case = CASES["rope.partial.turn/0005"]
    for index in range(4, 7):  # 4 of 7 channels turn
        (verdict,) = judge(Pushed(index, 1), N2, group, dtype)
        assert verdict.disagreement.limit == "identical bits"
        assert limit(group, case, index, dtype, N2) == (0, "identical bits")


def test_bounds_are_those_of_the_contract():
    group, case = CASES["rope.shape.rotate/0001"]
    u, v = case.x[0], case.x[4]
    magnitude, reach = Fraction(group.spec.magnitude), max(abs(u), abs(v))
    allowed, formula = limit(group, case, 0, "float32", N1)
    half_unit = allowed - magnitude * Fraction(reach) / 2**22
    assert half_unit in {Fraction(1, 2**k) for k in range(15, 40)}
    assert formula == f"2^-22 * {float(magnitude):g} * {reach:g} + half a unit"
    group, case = CASES["rope.axes.turn/0001"]
    by_mode = [limit(group, case, 0, "float64", mode)[0] for mode in (N1, N2, N2_ACCELERATOR)]
    assert by_mode[0] == by_mode[1] < Fraction(1, 2**48)
    assert by_mode[2] > Fraction(1, 2**24)
