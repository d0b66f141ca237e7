"""The specifications of biases and rows by distance: slopes, buckets and indices against their formulas."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posenc import (
    Alibi,
    DebertaBuckets,
    MusicTransformerIndex,
    ShawClip,
    Sinusoidal,
    SpecError,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
    from_json,
    to_json,
)
from posenc.spec import exact
from posenc.spec.distance_plan import LEAST_DISTANCE, NO_ROW, bias_plan, rows_plan
from tests.buckets import deberta_rows, t5_buckets, t5_parameters

mp = mpmath.mp.clone()
mp.dps = 60

SPECS = (
    Alibi.causal(12),
    Alibi.symmetric(8),
    Alibi.anchored(6, max_bias=4.5),
    T5Bias(8, bidirectional=True),
    T5Bias(8, buckets=36, max_distance=512, bidirectional=False, rule="t5x"),
    SwinIndex(4, (7, 3)),
    SwinIndex(2, (2, 3, 4)),
    ShawClip(4),
    ShawClip(64, 8),
    DebertaBuckets(8, 20, clamped=True),
    DebertaBuckets(8, 20, clamped=False),
    TransformerXLIndex.causal(9),
    TransformerXLIndex(9, shortest=-4),
    MusicTransformerIndex(9, bidirectional=False),
    MusicTransformerIndex(9, bidirectional=True),
)
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: to_json(spec)[24:-1])


# --- ALiBi ---


def published_slopes(heads):
    """`get_slopes` of the paper's code, with exact powers."""

    def of_power_of_two(n):
        return [mp.power(2, mp.mpf(-8 * (h + 1)) / n) for h in range(n)]

    if heads & (heads - 1) == 0:
        return of_power_of_two(heads)
    whole = 2 ** (len(f"{heads:b}") - 1)
    return of_power_of_two(whole) + of_power_of_two(2 * whole)[0::2][: heads - whole]


def rational(value):
    """A positive number of mpmath as it stands."""
    digits, exponent = value.man_exp
    return digits * Fraction(2) ** exponent


@pytest.mark.parametrize("heads", range(1, 257))
def test_slopes_are_correctly_rounded(heads):
    published = [rational(slope) for slope in published_slopes(heads)]
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        assert Alibi.causal(heads).slopes(dtype) == tuple(exact.round_to(slope, dtype) for slope in published)


def test_slopes_of_twelve_heads_are_the_golden_ones():
    slopes = Alibi.causal(12).slopes()
    assert [slopes[8].hex(), slopes[10].hex()] == ["0x1.6a09e60000000p-1", "0x1.6a09e60000000p-3"]
    assert Alibi.causal(112).slopes()[64].hex() == "0x1.ea4afa0000000p-1"
    assert Alibi.causal(6).slopes() == (0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125)


def test_one_geometric_sequence_for_any_number_of_heads_is_seen_to_be_wrong():
    naive = [2.0 ** (-8 * (h + 1) / 6) for h in range(6)]
    assert max(abs(a / b - 1) for a, b in zip(naive, Alibi.causal(6).slopes(), strict=True)) > 0.5


@pytest.mark.parametrize("spec", SPECS[:3], ids=lambda spec: spec.form)
def test_the_two_parts_of_a_slope(spec):
    for head, (high, low, narrow) in enumerate(spec.plan().slopes):
        step = Fraction(head + 1, 8) if head < 8 else Fraction(2 * (head - 8) + 1, 16)
        if spec.heads == 6:
            step = Fraction(head + 1, 4) if head < 4 else Fraction(2 * (head - 4) + 1, 8)
        slope = rational(mp.power(2, -mp.mpf(spec.max_bias) * step.numerator / step.denominator))
        assert abs(Fraction(high) + Fraction(low) - slope) <= slope / 2**72
        assert Fraction(high).numerator.bit_length() <= 21
        assert narrow == exact.round_to(slope, "float32")


@given(st.integers(1 - 2**32, 2**32 - 1), st.integers(0, 11), st.sampled_from(["float64", "float32", "bfloat16"]))
@settings(deadline=None)
def test_the_value_of_a_bias_is_correctly_rounded(multiple, head, dtype):
    slope = rational(published_slopes(12)[head])
    assert Alibi.causal(12).value(multiple, head, dtype) == exact.round_to(slope * multiple, dtype)


def test_what_a_bias_multiplies():
    pairs = [(5, 0), (5, 5), (5, 9), (-3, 7), (0, 2**31 - 1), (2**31 - 1, 1 - 2**31)]
    for q, k in pairs:
        for form, number in (("causal", k - q), ("symmetric", -abs(k - q)), ("anchored", k)):
            assert Alibi(8, form=form).plan().number((q,), (k,)) == number


# --- T5 ---


PARAMETERS = t5_parameters(2000)


@pytest.mark.parametrize("part", range(8))
def test_buckets_of_every_distance(part):
    wrong = []
    for spec in PARAMETERS[part::8]:
        (runs,) = spec.plan().axes
        firsts = np.array([run.first for run in runs])
        numbers = np.array([run.number for run in runs])
        assert not any(run.step for run in runs)
        distances = np.arange(-10_000, 10_001)
        got = numbers[np.searchsorted(firsts, distances, side="right") - 1]
        wrong += [spec] * int((got != t5_buckets(spec, 10_000)).any())
    assert wrong == []


def test_the_check_of_buckets_sees_float64():
    spec = T5Bias(1, buckets=20, max_distance=160, bidirectional=True)
    n = np.arange(1, 10_001)
    with_logarithms = np.where(n < 5, n, np.minimum(5 + (np.log(n / 5) / np.log(160 / 5) * 5).astype(int), 9))
    assert set(n[with_logarithms != t5_buckets(spec, 10_000)[:10_000][::-1]]) == {10, 20, 80}


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_buckets_are_the_golden_runs(direction):
    golden = {
        "bidirectional": [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91],
        "causal": [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113],
    }[direction]
    plan = T5Bias(8, bidirectional=direction == "bidirectional").plan()
    for bucket, first in enumerate(golden):
        assert plan.number((0,), (-first,)) == bucket
        if first:
            assert plan.number((0,), (1 - first,)) == bucket - 1
            assert plan.number((0,), (first,)) == (16 + bucket if direction == "bidirectional" else 0)
    assert plan.number((7,), (7 - 2**31,)) == len(golden) - 1


def test_the_epsilon_of_t5x_decides_just_below_an_edge():
    plain, t5x = (
        T5Bias(1, buckets=64, max_distance=3224, bidirectional=False, rule=rule).plan() for rule in ("exact", "t5x")
    )
    assert [plan.number((371,), (0,)) for plan in (plain, t5x)] == [48, 49]
    assert [n for n in range(5000) if plain.number((n,), (0,)) != t5x.number((n,), (0,))] == [371]
    edge = Fraction(3224, 32) ** 17
    assert Fraction(371, 32) ** 32 < edge <= (Fraction(371, 32) + Fraction(1, 2**23)) ** 32


# --- DeBERTa, Shaw, Transformer-XL, Music Transformer, Swin ---


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(256, 512), (32, 128), (8, 20), (8, 4000), (4, 4), (64, 300)])
def test_rows_of_deberta(buckets, max_distance, clamped):
    reach = 3 * min(max_distance, 700)
    plan = DebertaBuckets(buckets, max_distance, clamped=clamped).plan()
    got = [plan.number((r,), (0,)) for r in range(-reach, reach + 1)]
    np.testing.assert_array_equal(got, deberta_rows(buckets, max_distance, reach, clamped=clamped))


def test_deberta_as_deployed_differs_far_behind_the_query_only():
    paper, deployed = (DebertaBuckets(clamped=clamped).plan() for clamped in (True, False))
    differing = [r for r in range(-3000, 3001) if paper.number((r,), (0,)) != deployed.number((r,), (0,))]
    # the key is 512 or more ahead: r = query - key
    assert differing == list(range(-3000, -511))
    assert (paper.number((-512,), (0,)), deployed.number((-512,), (0,))) == (1, 0)


def test_indices_by_their_formulas():
    for i in range(-12, 13):
        for j in range(-12, 13):
            assert ShawClip(4).plan().number((i,), (j,)) == min(max(j - i, -4), 4) + 4
            assert ShawClip(6, 2).plan().number((i,), (j,)) == min(max(j - i, -6), 2) + 6
            assert ShawClip(0).plan().number((i,), (j,)) == 0
            xl = TransformerXLIndex(9, shortest=-4).plan().number((i,), (j,))
            assert xl == (9 - (i - j) if -4 <= i - j <= 9 else NO_ROW)
            causal = TransformerXLIndex.causal(9).plan().number((i,), (j,))
            assert causal == (8 - (i - j) if 0 <= i - j <= 8 else NO_ROW)
            both = TransformerXLIndex.bidirectional(9).plan().number((i,), (j,))
            assert both == (8 - (i - j) if abs(i - j) <= 8 else NO_ROW)
            music = MusicTransformerIndex(9, bidirectional=False).plan().number((i,), (j,))
            assert music == (8 + j - i if -8 <= j - i <= 0 else NO_ROW)
            music = MusicTransformerIndex(9, bidirectional=True).plan().number((i,), (j,))
            assert music == (8 + j - i if abs(j - i) <= 8 else NO_ROW)


@pytest.mark.parametrize("window", [(7, 7), (3, 5), (1, 4), (4, 4, 4), (5,)])
def test_swin_has_one_row_for_every_offset(window):
    spec = SwinIndex(3, window)
    plan, tokens = spec.plan(), spec.positions()
    rows = {}
    points = [token if isinstance(token, tuple) else (token,) for token in tokens]
    for a in points:
        for b in points:
            offset = tuple(x - y for x, y in zip(a, b, strict=True))
            rows.setdefault(offset, set()).add(plan.number(a, b))
    found = [row for numbers in rows.values() for row in numbers]
    assert sorted(found) == list(range(spec.row_count))
    assert spec.weight_shape == (spec.row_count, 3)


def test_swin_by_its_code():
    """`coords[:, :, None] - coords[:, None, :]`, shifted, the first axis times 2 * window - 1."""
    height, width = 3, 5
    coords = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).reshape(2, -1)
    down, right = coords[:, :, None] - coords[:, None, :]
    index = (down + height - 1) * (2 * width - 1) + right + width - 1
    spec = SwinIndex(1, (height, width))
    tokens = spec.positions()
    np.testing.assert_array_equal([[spec.plan().number(a, b) for b in tokens] for a in tokens], index)
    assert spec.plan().number((0, 0), (0, 5)) == NO_ROW


# --- Plans and JSON ---


@every_spec
def test_runs_are_in_order(spec):
    for runs in spec.plan().axes:
        firsts = [run.first for run in runs]
        assert firsts[0] == LEAST_DISTANCE
        assert firsts == sorted(set(firsts))
        if spec.plan().rows is not None:
            assert runs[0].step == runs[-1].step == 0


@every_spec
def test_json_there_and_back(spec):
    assert from_json(to_json(spec)) == spec
    assert hash(from_json(to_json(spec))) == hash(spec)
    for name in json.loads(to_json(spec)):
        record = json.loads(to_json(spec))
        del record[name]
        with pytest.raises(SpecError, match=name):
            from_json(json.dumps(record))


@every_spec
def test_equal_specifications_are_one_plan(spec):
    assert dataclasses.replace(spec) == spec
    assert spec.plan() == from_json(to_json(spec)).plan()


@pytest.mark.parametrize("wrong", [Sinusoidal.vaswani(8), None, "T5", T5Bias, Alibi.causal(8)])
def test_rows_of_what_has_none(wrong):
    with pytest.raises(SpecError, match=r"rows\.spec: expected a specification with a table of rows such as T5Bias"):
        rows_plan("rows", wrong)


@pytest.mark.parametrize("wrong", [Sinusoidal.vaswani(8), None, ShawClip(4), DebertaBuckets(clamped=True)])
def test_the_bias_of_what_has_none(wrong):
    with pytest.raises(SpecError, match=r"bias\.spec: expected a specification of a bias such as Alibi\.causal\(8\)"):
        bias_plan("bias", wrong)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Alibi.causal(0), "Alibi.heads: expected an integer >= 1, received 0"),
        (lambda: Alibi.causal(5000), "Alibi.heads: expected an integer <= 4096, received 5000"),
        (lambda: Alibi.causal(True), "Alibi.heads: expected an integer >= 1, received True"),
        (lambda: Alibi(8, form="paper"), "Alibi.form: expected 'causal', 'symmetric' or 'anchored', received 'paper'"),
        (
            lambda: Alibi.causal(8, max_bias=0),
            "Alibi.max_bias: expected a number from 0.0009765625 to 64.0, received 0",
        ),
        (lambda: T5Bias(0, bidirectional=True), "T5Bias.heads: expected an integer >= 1, received 0"),
        (lambda: T5Bias(8, buckets=-32, bidirectional=True), "T5Bias.buckets: expected an integer >= 4, received -32"),
        (
            lambda: T5Bias(8, buckets=31, bidirectional=True),
            "T5Bias.buckets: expected an even integer where bidirectional, received 31",
        ),
        (
            lambda: T5Bias(8, buckets=32, max_distance=16, bidirectional=False),
            "T5Bias.max_distance: expected an integer > 16, the distances with a bucket of their own, received 16",
        ),
        (lambda: T5Bias(8, bidirectional=1), "T5Bias.bidirectional: expected True or False, received 1"),
        (lambda: T5Bias(8, bidirectional=True, rule="hf"), "T5Bias.rule: expected 'exact' or 't5x', received 'hf'"),
        (lambda: SwinIndex(4, 7), "SwinIndex.window: expected a sequence of integers >= 1, received 7"),
        (lambda: SwinIndex(4, (7, 0)), "SwinIndex.window[1]: expected an integer >= 1, received 0"),
        (lambda: ShawClip(-1), "ShawClip.left: expected an integer >= 0, received -1"),
        (lambda: ShawClip(4, -1), "ShawClip.right: expected an integer >= 0, received -1"),
        (
            lambda: DebertaBuckets(7, clamped=True),
            "DebertaBuckets.buckets: expected an even integer, received 7",
        ),
        (
            lambda: DebertaBuckets(256, 129, clamped=True),
            "DebertaBuckets.max_distance: expected an integer > 129, one more than the distances with a row of their "
            "own, received 129",
        ),
        (
            lambda: TransformerXLIndex(3, shortest=4),
            "TransformerXLIndex.shortest: expected an integer <= 3, the longest, received 4",
        ),
        (
            lambda: ShawClip(2**30, 2**30),
            "ShawClip.right: expected at most 2^31 rows, received 1073741824, which makes 2147483649",
        ),
        (
            lambda: TransformerXLIndex(2**30, shortest=-(2**30)),
            "TransformerXLIndex.shortest: expected at most 2^31 rows, received -1073741824, which makes 2147483649",
        ),
        (
            lambda: MusicTransformerIndex(0, bidirectional=True),
            "MusicTransformerIndex.length: expected an integer >= 1, received 0",
        ),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(SpecError) as caught:
        build()
    assert str(caught.value) == message


def test_the_bounds_that_a_sentence_names_are_taken():
    for bound in (2.0**-10, 64.0):
        with pytest.raises(SpecError, match=str(bound)):
            Alibi.causal(8, max_bias=0)
        assert Alibi.causal(8, max_bias=bound).max_bias == bound


def test_conventions_have_no_default():
    for kind, arguments in ((Alibi, (8,)), (T5Bias, (8,)), (DebertaBuckets, ()), (TransformerXLIndex, (8,))):
        with pytest.raises(TypeError, match="missing 1 required keyword-only argument"):
            kind(*arguments)
