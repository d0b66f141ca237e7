"""The judge is shown biases and rows, right and wrong: each mechanism is caught by the case that hunts it."""

from __future__ import annotations

import inspect
import math
import struct
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import pytest

from posenc.conformance.bounds import N1, N2, N2_ACCELERATOR, limit
from posenc.conformance.cases import ROWS, vectors
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, Positions, decoded, unit
from tests.wrong import distance_buckets, distance_positions, distance_rows, distance_slopes
from tests.wrong.distance_plain import PlainDistance, PlainT5
from tests.wrong.learned_plain import PlainTable

FAMILIES = {family: vectors(family).groups for family in ("alibi", "t5", "relative")}
CASES = {case.id: (group, case) for groups in FAMILIES.values() for group in groups for case in group.cases}


class Wrong(NamedTuple):
    subject: type[PlainDistance]
    dtype: str
    case: str
    flag: str
    before: str = ""
    """A case that is asked first, where the subject remembers."""


WRONG = [
    Wrong(distance_slopes.Geometric, "float32", "alibi.causal.bias/0001", "HeadSplit"),
    Wrong(distance_slopes.Geometric, "float32", "alibi.causal.bias/0011", "HeadSplit"),
    Wrong(distance_slopes.ExponentFromZero, "float32", "alibi.causal.bias/0007", "Slopes"),
    Wrong(distance_slopes.EveryRankFirst, "float32", "alibi.causal.bias/0007", "Slopes"),
    Wrong(distance_slopes.NotSliced, "float32", "alibi.causal.bias/0001", "HeadSplit"),
    Wrong(distance_slopes.NextPowerCut, "float32", "alibi.causal.bias/0009", "HeadSplit"),
    Wrong(distance_slopes.CachedSlopes, "float32", "alibi.max_bias.bias/0001", "MaxBias", "alibi.causal.bias/0001"),
    Wrong(distance_slopes.MaxBiasIgnored, "float32", "alibi.max_bias.bias/0001", "MaxBias"),
    Wrong(distance_slopes.Sign, "float32", "alibi.causal.bias/0001", "Causal"),
    Wrong(distance_slopes.OffByOne, "float32", "alibi.causal.bias/0014", "Anchor"),
    Wrong(distance_slopes.OffByOne, "float32", "alibi.decode.bias/0001", "Decode"),
    Wrong(distance_slopes.LastRowForAll, "float32", "alibi.causal.bias/0014", "Anchor"),
    Wrong(distance_slopes.Anchored, "float32", "alibi.causal.bias/0001", "Causal"),
    Wrong(distance_slopes.CountedFromQuery, "float32", "alibi.anchored.bias/0001", "Anchored"),
    Wrong(distance_slopes.OneDirection, "float32", "alibi.symmetric.bias/0001", "Symmetric"),
    Wrong(distance_slopes.NegativeZero, "float32", "alibi.symmetric.bias/0001", "ZeroSign"),
    Wrong(distance_slopes.Wrapped, "float32", "alibi.causal.far.bias/0001", "FarApart"),
    Wrong(distance_slopes.NarrowDistances, "bfloat16", "alibi.neighbours.bias/0001", "Collide"),
    Wrong(distance_slopes.NarrowDistances, "float16", "alibi.neighbours.bias/0002", "Collide"),
    Wrong(distance_slopes.NarrowSlopes, "float32", "alibi.causal.bias/0009", "Slopes"),
    Wrong(distance_slopes.Float32Powers, "float32", "alibi.causal.bias/0009", "Slopes"),
    Wrong(distance_slopes.Float32Product, "float32", "alibi.causal.far.bias/0001", "FarApart"),
    Wrong(distance_slopes.Float64Unchecked, "float32", "alibi.midpoint.bias/0002", "MidpointFloat32"),
    Wrong(distance_slopes.Float64Unchecked, "bfloat16", "alibi.midpoint.bias/0027", "MidpointBfloat16"),
    Wrong(distance_slopes.Float64Unchecked, "float16", "alibi.midpoint.bias/0033", "MidpointFloat16"),
    Wrong(distance_slopes.TwoRoundings, "bfloat16", "alibi.double_rounding.bias/0001", "DoubleRounding"),
    Wrong(distance_slopes.TwoRoundings, "float16", "alibi.double_rounding.bias/0007", "DoubleRounding"),
    Wrong(distance_slopes.Float64Powers, "bfloat16", "alibi.max_bias.bias/0007", "RationalSlope"),
    Wrong(distance_slopes.TiesAwayFromZero, "bfloat16", "alibi.tie.bias/0001", "Tie"),
    Wrong(distance_slopes.TiesAwayFromZero, "float16", "alibi.tie.bias/0001", "Tie"),
    Wrong(distance_slopes.TiesAwayFromZero, "float32", "alibi.tie.bias/0001", "Tie"),
    Wrong(distance_slopes.Clamped, "float16", "alibi.overflow.bias/0001", "Overflow"),
    Wrong(distance_slopes.Flushed, "float16", "alibi.underflow.bias/0001", "Underflow"),
    Wrong(distance_buckets.AlwaysBothSides, ROWS, "t5.default/0006", "Causal"),
    Wrong(distance_buckets.NeverBothSides, ROWS, "t5.default/0001", "Bidirectional"),
    Wrong(distance_buckets.QueryMinusKey, ROWS, "t5.default/0001", "Sign"),
    Wrong(distance_buckets.NotLimited, ROWS, "t5.default/0002", "LastBucket"),
    Wrong(distance_buckets.Float64Logarithm, ROWS, "t5.edge/0001", "Float64Bucket"),
    Wrong(distance_buckets.LowLogarithm, ROWS, "t5.default/0002", "Tie"),
    Wrong(distance_buckets.LowLogarithm, ROWS, "t5.edge/0013", "Float32Bucket"),
    Wrong(distance_buckets.HalfRoundedUp, ROWS, "t5.buckets/0003", "Buckets"),
    Wrong(distance_buckets.Rounded, ROWS, "t5.default/0002", "Tie"),
    Wrong(distance_buckets.NoEpsilon, ROWS, "t5.epsilon/0002", "Epsilon"),
    Wrong(distance_buckets.Epsilon, ROWS, "t5.epsilon/0001", "Epsilon"),
    Wrong(distance_buckets.EveryRankFirst, "float32", "t5.default.bias/0001", "HeadOrder"),
    Wrong(distance_buckets.Transposed, "float32", "t5.square.bias/0001", "HeadOrder"),
    Wrong(distance_buckets.EveryRankFirst, "float32", "relative.swin.bias/0001", "HeadOrder"),
    Wrong(distance_buckets.FirstRowForAll, "float32", "alibi.shape.bias/0002", "OwnPositions"),
    Wrong(distance_buckets.FirstRowForAll, ROWS, "relative.shaw/0005", "OwnPositions"),
    Wrong(distance_buckets.WeightsClamped, "float16", "t5.rounding.bias/0002", "Overflow"),
    Wrong(distance_buckets.DroppedInDecoding, "float32", "t5.decode.bias/0002", "Decode"),
    Wrong(distance_buckets.DecodesFromZero, ROWS, "t5.decode/0001", "Decode"),
    Wrong(distance_buckets.FirstRowForAll, ROWS, "t5.shape/0001", "OwnPositions"),
    Wrong(distance_buckets.WeightsDtype, "float32", "t5.dtype.bias/0001", "WeightDtype"),
    Wrong(distance_buckets.ThroughFloat32, "bfloat16", "t5.rounding.bias/0001", "OneRounding"),
    Wrong(distance_buckets.ThroughFloat32, "float16", "t5.rounding.bias/0001", "OneRounding"),
    Wrong(distance_rows.ThreeTimesWindow, ROWS, "relative.swin/0010", "ThreeAxes"),
    Wrong(distance_rows.OtherAxis, ROWS, "relative.swin/0001", "NotSquare"),
    Wrong(distance_rows.KeyMinusQuery, ROWS, "relative.swin/0001", "Bijection"),
    Wrong(distance_rows.PlacesInWindow, ROWS, "relative.swin/0002", "Moved"),
    Wrong(distance_rows.OutsideWindow, ROWS, "relative.swin/0027", "OutsideWindow"),
    Wrong(distance_rows.ShawSign, ROWS, "relative.shaw/0001", "Sign"),
    Wrong(distance_rows.OneLimit, ROWS, "relative.shaw/0003", "Asymmetric"),
    Wrong(distance_rows.Unclipped, ROWS, "relative.shaw/0001", "Clip"),
    Wrong(distance_rows.DebertaSign, ROWS, "relative.deberta/0001", "Sign"),
    Wrong(distance_rows.NotClamped, ROWS, "relative.deberta/0001", "Clamped"),
    Wrong(distance_rows.AlwaysClamped, ROWS, "relative.deberta/0008", "Deployed"),
    Wrong(distance_rows.Floored, ROWS, "relative.deberta/0001", "Ceiling"),
    Wrong(distance_rows.LastRowCut, ROWS, "relative.transformer_xl/0007", "Shift"),
    Wrong(distance_rows.CausalShift, ROWS, "relative.transformer_xl/0007", "BothDirections"),
    Wrong(distance_rows.CausalShift, ROWS, "relative.transformer_xl/0001", "Triangle"),
    Wrong(distance_rows.MemoryForgotten, ROWS, "relative.transformer_xl/0002", "Memory"),
    Wrong(distance_rows.AbsolutePositions, ROWS, "relative.transformer_xl/0007", "BothDirections"),
    Wrong(distance_rows.OtherEnd, ROWS, "relative.music/0003", "Skew"),
    Wrong(distance_rows.Limited, ROWS, "relative.transformer_xl/0010", "NoRow"),
    Wrong(distance_positions.Bfloat16Positions, "float32", "alibi.causal.bias/0015", "PastBfloat16"),
    Wrong(distance_positions.Bfloat16Positions, ROWS, "t5.edge/0007", "PastBfloat16"),
    Wrong(distance_positions.Bfloat16Positions, ROWS, "relative.swin/0002", "PastBfloat16"),
    Wrong(distance_positions.Float16Positions, "float32", "alibi.causal.bias/0015", "PastFloat16"),
    Wrong(distance_positions.Float16Positions, ROWS, "t5.default/0005", "PastFloat16"),
    Wrong(distance_positions.Float16Positions, ROWS, "relative.swin/0002", "PastFloat16"),
    Wrong(distance_positions.Float32Positions, "float32", "alibi.causal.far.bias/0001", "PastFloat32"),
    Wrong(distance_positions.Float32Positions, ROWS, "t5.decode/0005", "PastFloat32"),
    Wrong(distance_positions.Float32Positions, ROWS, "relative.shaw/0023", "PastFloat32"),
    Wrong(distance_positions.BelowZeroClamped, "float32", "alibi.causal.bias/0015", "NegativePosition"),
    Wrong(distance_positions.BelowZeroClamped, ROWS, "t5.default/0002", "NegativePosition"),
    Wrong(distance_positions.BelowZeroClamped, ROWS, "relative.swin/0002", "NegativePosition"),
    Wrong(distance_positions.Int16Positions, ROWS, "t5.default/0005", "LongContext"),
    Wrong(distance_positions.Bfloat16Distances, "float32", "alibi.causal.bias/0015", "LongContext"),
    Wrong(distance_positions.Bfloat16Distances, ROWS, "relative.shaw/0023", "LongContext"),
    Wrong(distance_positions.EndsExcluded, "float32", "alibi.causal.far.bias/0001", "GreatestPosition"),
    Wrong(distance_positions.EndsExcluded, ROWS, "t5.default/0005", "GreatestPosition"),
    Wrong(distance_positions.EndsExcluded, ROWS, "relative.shaw/0002", "GreatestPosition"),
    Wrong(distance_positions.LeadingAxesExchanged, "float32", "alibi.shape.bias/0006", "Shape"),
    Wrong(distance_positions.LeadingAxesExchanged, ROWS, "t5.shape/0006", "Shape"),
    Wrong(distance_positions.LeadingAxesExchanged, ROWS, "relative.swin/0026", "Shape"),
    Wrong(distance_positions.DiagonalOfSquare, "float32", "alibi.progression.bias/0001", "Progression"),
    Wrong(distance_positions.DiagonalOfSquare, ROWS, "t5.progression/0001", "Progression"),
    Wrong(distance_positions.DiagonalOfSquare, ROWS, "relative.shaw/0007", "Progression"),
    Wrong(distance_positions.DiagonalFromZero, "float32", "alibi.progression.bias/0001", "Progression"),
    Wrong(distance_positions.DiagonalFromZero, ROWS, "t5.progression/0005", "Progression"),
    Wrong(distance_positions.DiagonalFromZero, ROWS, "relative.shaw/0014", "Progression"),
]


def disagreement(subject, identifier, dtype, mode=N1):
    """What the judge says of one case."""
    group, _ = CASES[identifier]
    (found,) = (v for v in judge(subject, mode, group, dtype) if v.case.id == identifier)
    return found.disagreement


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.subject.__name__}-{w.case}-{w.dtype}")
def test_a_wrong_bias_is_caught_by_the_case_that_hunts_it(wrong):
    subject = wrong.subject()
    if wrong.before:
        assert disagreement(subject, wrong.before, wrong.dtype) is None
    found = disagreement(subject, wrong.case, wrong.dtype)
    assert isinstance(found, Disagreement)
    assert found.where.startswith(wrong.case)
    assert wrong.flag in CASES[wrong.case][1].flags
    right = PlainT5 if issubclass(wrong.subject, PlainT5) else PlainDistance
    assert disagreement(right(), wrong.case, wrong.dtype) is None  # so it is this step that is wrong


def test_every_wrong_bias_is_tried_and_says_where_it_comes_from():
    kinds = {
        kind
        for module in (distance_slopes, distance_buckets, distance_rows, distance_positions)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, PlainDistance) and vars(kind).get("reports")
    }
    assert kinds == {wrong.subject for wrong in WRONG}
    for kind in kinds:
        assert all(report.startswith(("https://", "no report: ")) for report in kind.reports), kind


@pytest.mark.parametrize("family", FAMILIES)
def test_every_flag_has_a_wrong_bias_that_it_catches(family):
    """What a model does with a bias is not among them: one in the cross-attention of T5, as in PEB-305 of the reports
    (https://github.com/guillaume-be/rust-bert/pull/171), is the right answer to a question that should not be asked.
    """
    hunted = {wrong.flag for wrong in WRONG if wrong.case.startswith(family)}
    used = {flag for group in FAMILIES[family] for case in group.cases for flag in case.flags}
    assert used - hunted == set()


def small(group, size):
    """Whether exact arithmetic, one pair after the other, is quick enough."""
    return all(math.prod(case.shape) <= size for case in group.cases)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", [N1, N2], ids=lambda mode: mode.name)
def test_plain_rows_and_biases_are_right(family, mode):
    """On the host, and, with -1 and NaN for a refusal, as a trace."""
    asked = [group for group in FAMILIES[family] if small(group, 5000 if group.kind == ROWS else 600)]
    assert len(asked) >= 50
    plain = (PlainT5 if family == "t5" else PlainDistance)(refuses=mode is N1)
    for group in asked:
        for dtype in [ROWS] if group.kind == ROWS else group.dtypes[:: 1 if mode is N1 else 2]:
            assert [str(v.disagreement) for v in judge(plain, mode, group, dtype) if v.disagreement] == []


# --- Answers that lie ---


class Liar(PlainDistance):
    """The truth, after `change`."""

    def __init__(self, change, *, refuses=True):
        super().__init__(refuses=refuses)
        self.change = change

    def rows(self, *question):
        return self.change(super().rows(*question))

    def bias(self, *question):
        return self.change(super().bias(*question))


def put(index, number):
    return lambda a: a._replace(data=a.data[: index * len(number)] + number + a.data[(index + 1) * len(number) :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a._replace(dtype="int64", data=a.data * 2), "expected one of int32, received an array of int64"),
        (lambda a: a._replace(shape=(6, 3, 2)), "expected shape (6, 6), received shape (6, 3, 2)"),
        (lambda a: a._replace(data=a.data[:-4]), "expected 144 bytes, received 140 bytes"),
        (put(7, struct.pack("<i", 6)), "entry 7: expected row 7, received 6; allowed: identical rows"),
        (put(7, struct.pack("<i", -1)), "entry 7: expected row 7, received -1"),
    ],
    ids=["dtype", "shape", "short", "row", "no-row"],
)
@pytest.mark.parametrize("mode", [N1, N2, N2_ACCELERATOR], ids=lambda mode: str(mode.has_float64) + mode.name)
def test_lying_rows_are_caught(change, message, mode):
    assert disagreement(PlainDistance(), "relative.swin/0001", ROWS, mode) is None
    found = disagreement(Liar(change), "relative.swin/0001", ROWS, mode)
    assert str(found).startswith("relative.swin/0001")
    assert message in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a._replace(shape=(7, 6, 3)), "expected shape (6, 3, 7), received shape (7, 6, 3)"),
        (put(3, struct.pack("<f", -0.0)), "entry 3, float32: expected 0.0 (0x0), received -0.0 (0x80000000)"),
        (put(3, struct.pack("<f", 1e-38)), "entry 3, float32: expected 0.0 (0x0)"),
        (put(2, struct.pack("<f", 2.0**-26 - 0.25)), "expected -0.25 (0xbe800000), received"),
        (put(2, struct.pack("<f", float("nan"))), "expected -0.25 (0xbe800000), received nan"),
        (put(0, struct.pack("<f", float("-inf"))), "expected -0.75 (0xbf400000), received -inf"),
    ],
    ids=["shape", "sign-of-zero", "next-to-zero", "slope", "nan", "infinity"],
)
@pytest.mark.parametrize("mode", [N1, N2], ids=lambda mode: mode.name)
def test_a_lying_bias_is_caught(change, message, mode):
    """In a trace, too: 0 is exact, and so is the slope itself."""
    found = disagreement(Liar(change), "alibi.causal.bias/0014", "float32", mode)
    assert str(found).startswith("alibi.causal.bias/0014")
    assert message in str(found)


def test_what_overflows_is_infinite():
    _, case = CASES["alibi.overflow.bias/0001"]
    index = next(i for i, truth in zip(case.channels, case.truth, strict=True) if truth < -100000)
    for mode in (N1, N2):
        assert disagreement(PlainDistance(), case.id, "float16", mode) is None
        for word in (0xFBFF, 0x7C00, 0xFC01):  # the least finite one, the other infinity, a NaN
            found = disagreement(Liar(put(index, word.to_bytes(2, "little"))), case.id, "float16", mode)
            assert f"entry {index}, float16: expected -inf (0xfc00)" in str(found)


OUTSIDE = [identifier for identifier, (_, case) in CASES.items() if case.outside]


@pytest.mark.parametrize("identifier", OUTSIDE)
def test_a_pair_outside_is_refused_on_the_host_and_has_no_row_in_a_trace(identifier):
    group, case = CASES[identifier]
    dtype = ROWS if group.kind == ROWS else "float32"
    assert disagreement(PlainDistance(), identifier, dtype) is None
    assert disagreement(PlainDistance(refuses=False), identifier, dtype, N2) is None
    unrefused = disagreement(PlainDistance(refuses=False), identifier, dtype)
    assert "expected a ValueError or an IndexError, received an array of shape" in str(unrefused)
    with pytest.raises(ValueError, match="no common window"):
        disagreement(PlainDistance(), identifier, dtype, N2)  # a trace does not look at values
    index = next(i for i, word in zip(case.channels, case.expected[dtype], strict=True) if word == -1)
    row_0 = Liar(put(index, bytes(4)), refuses=False)
    assert "NaN" in str(disagreement(row_0, identifier, dtype, N2)).replace("row -1", "NaN")


def test_there_are_pairs_outside_of_both_kinds():
    assert {CASES[identifier][0].kind for identifier in OUTSIDE} == {ROWS, "bias"}


LOOKUPS = {case.id: (group, case) for group in vectors("learned").groups for case in group.cases if case.outside}


class Changed:
    """A subject, every answer of which is changed."""

    def __init__(self, right, change):
        self.right, self.change = right, change

    def __getattr__(self, name):
        return lambda *question: self.change(lambda: getattr(self.right, name)(*question))


def busy(_):
    raise ValueError("no memory")


def ones(answered):
    """All bits set, where there is an answer."""
    answer = answered()
    return answer._replace(data=b"\xff" * len(answer.data))


@pytest.mark.parametrize("identifier", [*OUTSIDE, *LOOKUPS])
def test_a_refusal_for_another_reason_is_none(identifier):
    """What is left without the positions outside is asked, and judged as any question."""
    group, case = (CASES | LOOKUPS)[identifier]
    own = replace(group, cases=(case,))
    dtype = ROWS if group.kind == ROWS else "float32"
    right = PlainTable() if group.kind == "lookup" else PlainDistance()
    (verdict,) = judge(right, N1, own, dtype)
    assert (verdict.case, verdict.disagreement) == (case, None)
    (verdict,) = judge(Changed(right, busy), N1, own, dtype)
    nothing_left = identifier == "learned.roberta.lookup/0002"  # its one position is outside
    assert (verdict.disagreement is None) == nothing_left
    if not nothing_left:
        sentence = f"{identifier}, inside: expected an answer, as nothing is outside, received ValueError: no memory"
        assert str(verdict.disagreement) == sentence
        (verdict,) = judge(Changed(right, ones), N1, own, dtype)
        assert verdict.disagreement.where.startswith(f"{identifier}, inside, entry 0")


@pytest.mark.parametrize("kind", [ROWS, "bias"])
def test_what_is_left_of_a_batch_is_of_its_first_row(kind):
    """Leading axes, which no vector outside has: two rows, the second of which is all outside."""
    _, case = CASES["relative.swin/0027" if kind == ROWS else "relative.swin.bias/0002"]
    group = next(group for group in FAMILIES["relative"] if group.kind == kind and case in group.cases)
    query, key = (
        Positions("integer", (2, *places.shape), [*places.values, *(70000 + 9 * k for k in range(len(places.values)))])
        for places in (case.query, case.key)
    )
    dtype = ROWS if kind == ROWS else "float32"
    words = case.expected[dtype]
    both = replace(case, query=query, key=key, shape=(2, *case.shape), channels=tuple(range(2 * len(words))))
    both = replace(both, expected={dtype: (*words, *(-1 for _ in words))})
    assert [v.disagreement for v in judge(PlainDistance(), N1, replace(group, cases=(both,)), dtype)] == [None]
    (verdict,) = judge(Changed(PlainDistance(), busy), N1, replace(group, cases=(both,)), dtype)
    assert "inside: expected an answer" in str(verdict.disagreement)


# --- Bounds ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_those_of_the_contract(dtype):
    group, case = CASES["alibi.causal.far.bias/0001"]
    slope = group.spec.plan().slopes
    entry = next(i for i, truth in enumerate(case.truth) if 1000 < truth < 60000)
    truth = float(case.truth[entry])
    one = Fraction(unit(truth, dtype))
    by_mode = [limit(group, case, entry, dtype, mode)[0] for mode in (N1, N2, N2_ACCELERATOR)]
    two_roundings = Fraction(truth) / 2**22
    if dtype == "float64":
        assert by_mode == [one, one, two_roundings]
    else:
        half = one / 2 if dtype in ("bfloat16", "float16") else 0
        assert by_mode == [0, two_roundings + half, two_roundings + half]
    zero = case.truth.index(0)
    assert {limit(group, case, zero, dtype, mode) for mode in (N1, N2)} == {(0, "identical bits")}
    group, case = CASES["alibi.causal.bias/0001"]  # distances -1 and -3 of 6 heads
    assert abs(case.truth[0]) == Fraction(slope[0].float32) / 2
    assert (limit(group, case, 0, dtype, N2)[0] == 0) == (dtype == "float32")
    assert limit(group, case, 1, dtype, N2)[0] > 0


def test_the_bounds_hold_where_they_say():
    """Steps from -3/4, which has half the unit that 2^-22 of it has."""
    index, (_, case) = 1, CASES["alibi.causal.bias/0001"]
    expected = case.expected["float32"][index]
    assert decoded(expected, "float32") == -0.75
    for steps, allowed in ((3, True), (-3, True), (4, False), (-4, False)):
        moved = Liar(put(index, (expected + steps).to_bytes(4, "little")))
        assert (disagreement(moved, case.id, "float32", N2) is None) == allowed
        assert disagreement(moved, case.id, "float32").distance.units == abs(steps)


@pytest.mark.parametrize("mode", [N1, N2, N2_ACCELERATOR], ids=lambda mode: str(mode.has_float64) + mode.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_biases_of_weights_are_identical_bits(mode, dtype):
    group, case = CASES["t5.default.bias/0001"]
    assert limit(group, case, 0, dtype, mode) == (0, "identical bits")
    word = (case.expected[dtype][0] + 1).to_bytes({"float64": 8, "float32": 4}.get(dtype, 2), "little")
    found = disagreement(Liar(put(0, word)), case.id, dtype, mode)
    assert found.limit == "identical bits"
