"""The specification of rotary embeddings: every scaling rule against its formula, decisions at their edges, JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import pickle
import time
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posenc import (
    DynamicNtk,
    Linear,
    Llama3,
    LongRope,
    Ntk,
    Proportional,
    Rope,
    Sinusoidal,
    SpecError,
    Yarn,
    YarnPaper,
    from_json,
    to_json,
)
from posenc.spec import exact
from posenc.spec.plan import RotationPlan, encoding_plan, rotation_plan, table_plan
from posenc.spec.rope_scaling import SCALINGS

mp = mpmath.mp.clone()
mp.dps = 60


# --- The formulas, typed again ---


def theta(d, base):
    return [mp.mpf(base) ** (mp.mpf(-2 * j) / d) for j in range(d // 2)]


def ntk(d, base, alpha):
    return theta(d, mp.mpf(base) * mp.mpf(alpha) ** (mp.mpf(d) / (d - 2)))


def yarn(d, base, s, length, fast=32, slow=1, truncate=True):
    def dim(r):
        return d * mp.log(length / (2 * mp.pi * mp.mpf(r))) / (2 * mp.log(base))

    low, high = dim(fast), dim(slow)
    if truncate:
        low, high = mp.floor(low), mp.ceil(high)
    low, high = max(low, mp.mpf(0)), min(high, mp.mpf(d - 1))
    if low == high:
        high += mp.mpf(1) / 1000
    ramp = [min(max((j - low) / (high - low), mp.mpf(0)), mp.mpf(1)) for j in range(d // 2)]
    return [t / s * r + t * (1 - r) for t, r in zip(theta(d, base), ramp, strict=True)]


def yarn_paper(d, base, s, length, alpha=1, beta=32):
    result = []
    for t in theta(d, base):
        turns = length / (2 * mp.pi / t)
        gamma = mp.mpf(0) if turns < alpha else mp.mpf(1) if turns > beta else (turns - alpha) / (beta - alpha)
        result.append((1 - gamma) * t / s + gamma * t)
    return result


def llama3(d, base, s, length, low, high):
    result = []
    for t in theta(d, base):
        wavelength = 2 * mp.pi / t
        if wavelength < mp.mpf(length) / high:
            result.append(t)
        elif wavelength > mp.mpf(length) / low:
            result.append(t / s)
        else:
            smooth = (length / wavelength - low) / (mp.mpf(high) - low)
            result.append((1 - smooth) * t / s + smooth * t)
    return result


SHORT = tuple(1 + j / 8 for j in range(16))
LONG = tuple(1 + j * 1.5 for j in range(16))
LLAMA31 = Llama3(8, original_length=8192, low_freq_factor=1, high_freq_factor=4)
SUNK = LongRope(SHORT, LONG, original_length=4096, factor=32)

FREQUENCIES = [
    ("paper", Rope(64, 1e4, "interleaved"), theta(64, 1e4)),
    ("long base", Rope(128, 1e11, "half"), theta(128, 1e11)),
    ("partial", Rope.partial(80, 0.4, base=1e4, layout="half"), theta(32, 1e4)),
    ("linear", Rope(64, 1e4, "half", scaling=Linear(2.5)), [t / 2.5 for t in theta(64, 1e4)]),
    ("ntk", Rope(128, 1e4, "half", scaling=Ntk(8)), ntk(128, 1e4, 8)),
    ("dynamic, short", Rope(64, 1e4, "half", scaling=DynamicNtk(2, original_length=512), length=512), theta(64, 1e4)),
    (
        "dynamic, one longer",
        Rope(64, 1e4, "half", scaling=DynamicNtk(2, original_length=512), length=513),
        ntk(64, 1e4, mp.mpf(2) * 513 / 512 - 1),
    ),
    (
        "yarn, Llama 2",
        Rope(128, 1e4, "half", scaling=Yarn(16, original_length=4096)),
        yarn(128, 1e4, 16, 4096),
    ),
    (
        "yarn, gpt-oss",
        Rope(64, 1.5e5, "half", scaling=Yarn(32, original_length=4096, truncate=False)),
        yarn(64, 1.5e5, 32, 4096, truncate=False),
    ),
    (
        "yarn, upper end past the last pair",
        Rope(64, 1e4, "half", scaling=Yarn(8, original_length=131072)),
        yarn(64, 1e4, 8, 131072),
    ),
    (
        "yarn, upper end clamped",
        Rope(8, 2.0, "half", scaling=Yarn(8, original_length=131072)),
        yarn(8, 2.0, 8, 131072),
    ),
    (
        "yarn, lower end clamped",
        Rope(64, 1e4, "half", scaling=Yarn(4, original_length=64)),
        yarn(64, 1e4, 4, 64),
    ),
    (
        "yarn, whole ramp below",
        Rope(64, 1e4, "half", scaling=Yarn(4, original_length=1)),
        yarn(64, 1e4, 4, 1),
    ),
    (
        "yarn, equal betas",
        Rope(128, 5e4, "half", scaling=Yarn(32, original_length=4096, beta_fast=1, beta_slow=1)),
        yarn(128, 5e4, 32, 4096, 1, 1),
    ),
    (
        "yarn, equal betas, a step",
        Rope(128, 5e4, "half", scaling=Yarn(32, original_length=4096, beta_fast=1, beta_slow=1, truncate=False)),
        yarn(128, 5e4, 32, 4096, 1, 1, truncate=False),
    ),
    (
        "yarn of the paper",
        Rope(128, 1e4, "half", scaling=YarnPaper(16, original_length=4096)),
        yarn_paper(128, 1e4, 16, 4096),
    ),
    ("Llama 3.1", Rope(128, 5e5, "half", scaling=LLAMA31), llama3(128, 5e5, 8, 8192, 1, 4)),
    (
        "longrope, short",
        Rope(32, 1e4, "half", scaling=SUNK, length=4096),
        [t / mp.mpf(f) for t, f in zip(theta(32, 1e4), SHORT, strict=True)],
    ),
    (
        "longrope, long",
        Rope(32, 1e4, "half", scaling=SUNK, length=4097),
        [t / mp.mpf(f) for t, f in zip(theta(32, 1e4), LONG, strict=True)],
    ),
    (
        "proportional",
        Rope(512, 1e6, "half", scaling=Proportional(0.25)),
        [t if j < 64 else mp.mpf(0) for j, t in enumerate(theta(512, 1e6))],
    ),
    (
        "proportional, floor",
        Rope(64, 1e6, "half", scaling=Proportional(0.3, factor=2)),
        [t / 2 if j < 9 else mp.mpf(0) for j, t in enumerate(theta(64, 1e6))],
    ),
]
named = pytest.mark.parametrize(("spec", "expected"), [row[1:] for row in FREQUENCIES], ids=[r[0] for r in FREQUENCIES])


@named
def test_frequencies_are_correctly_rounded(spec, expected):
    assert spec.frequencies() == tuple(float(value) for value in expected)


@named
def test_increments_are_correctly_rounded(spec, expected):
    increments = [int(mp.nint(value / (2 * mp.pi) * mp.mpf(2) ** 128)) for value in expected]
    assert list(spec.plan().increments) == increments
    back = dataclasses.replace(spec, direction="negative")
    assert list(back.plan().increments) == [-increment for increment in increments]


def test_a_wrong_formula_is_seen():
    paper = Rope(128, 1e4, "half", scaling=YarnPaper(16, original_length=4096))
    assert paper.frequencies() != tuple(float(value) for value in yarn(128, 1e4, 16, 4096))
    assert max(float(b) / a for a, b in zip(paper.frequencies(), yarn(128, 1e4, 16, 4096), strict=True)) > 3


G = {m: mp.mpf(m) / 10 * mp.log(40) + 1 for m in ("1", "0.707", "0.5")}
MAGNITUDES = [
    (Linear(4), 1),
    (LLAMA31, 1),
    (Yarn(40, original_length=4096), G["1"]),
    (Yarn(1, original_length=4096), 1),
    (Yarn(40, original_length=4096, attention_factor=1.25, magnitude_rule="transformers"), 1.25),
    (Yarn(40, original_length=4096, attention_factor=1.25, magnitude_rule="product"), G["1"] * 1.25),
    (Yarn(40, original_length=4096, mscale=0.707, magnitude_rule="transformers"), G["1"]),
    (Yarn(40, original_length=4096, mscale=0.707, mscale_all_dim=0, magnitude_rule="transformers"), G["1"]),
    (
        Yarn(40, original_length=4096, mscale=0.707, mscale_all_dim=0.5, magnitude_rule="transformers"),
        G["0.707"] / G["0.5"],
    ),
    (
        Yarn(40, original_length=4096, mscale=2, mscale_all_dim=1, attention_factor=3, magnitude_rule="transformers"),
        3,
    ),
    (Yarn(40, original_length=4096, mscale=0.707, magnitude_rule="deepseek"), G["0.707"]),
    (Yarn(40, original_length=4096, mscale_all_dim=0.707, magnitude_rule="deepseek"), G["1"] / G["0.707"]),
    (Yarn(40, original_length=4096, mscale=1, mscale_all_dim=1, magnitude_rule="deepseek"), 1),
    (YarnPaper(40, original_length=4096), G["1"]),
]


@pytest.mark.parametrize(("scaling", "expected"), MAGNITUDES, ids=[str(index) for index in range(len(MAGNITUDES))])
def test_magnitudes(scaling, expected):
    spec = Rope(64, 1e4, "half", scaling=scaling)
    assert spec.magnitude == float(mp.mpf(expected))
    assert spec.value(0, 0, "float64") == spec.magnitude
    assert dataclasses.replace(spec, apply_magnitude=False).magnitude == 1


LONGROPE_MAGNITUDES = [
    ({"factor": 32}, mp.sqrt(1 + mp.log(32) / mp.log(4096)), None),
    ({"extended_length": 131072}, mp.sqrt(1 + mp.log(32) / mp.log(4096)), None),
    ({"extended_length": 10000}, mp.sqrt(1 + mp.log(mp.mpf(10000) / 4096) / mp.log(4096)), None),
    ({"extended_length": 4000}, 1, None),
    ({"factor": 32, "magnitude_rule": "yarn"}, mp.log(32) / 10 + 1, None),
    ({"attention_factor": 1.19}, mp.mpf("1.19"), None),
    ({"short_mscale": 1.1, "long_mscale": 1.25}, mp.mpf("1.1"), mp.mpf("1.25")),
    ({}, 1, None),
]


@pytest.mark.parametrize(("fields", "short", "long"), LONGROPE_MAGNITUDES, ids=[str(r[0]) for r in LONGROPE_MAGNITUDES])
def test_longrope_magnitudes(fields, short, long):
    spec = Rope(32, 1e4, "half", scaling=LongRope(SHORT, LONG, original_length=4096, **fields))
    assert spec.at_length(1).magnitude == float(mp.mpf(short))
    assert spec.at_length(5000).magnitude == float(mp.mpf(short if long is None else long))


def test_the_softmax_factor_is_a_value_of_the_spec():
    deepseek = Yarn(40, original_length=4096, mscale=1, mscale_all_dim=1, magnitude_rule="deepseek", scale_softmax=True)
    assert Rope(64, 1e4, "interleaved", scaling=deepseek).softmax_factor == float(G["1"] ** 2)
    without = dataclasses.replace(deepseek, scale_softmax=False)
    assert Rope(64, 1e4, "interleaved", scaling=without).softmax_factor == 1
    assert Rope(64, 1e4, "interleaved").softmax_factor == 1


# --- The definition of a table, by another route than the plan's ---


@pytest.mark.parametrize("position", [0, 1, -5, 131071, 2**31 - 1, 0.5, 998.3897])
@pytest.mark.parametrize("direction", ["positive", "negative"])
def test_values_are_those_of_the_definition(position, direction):
    spec = Rope(16, 1e4, "half", scaling=Yarn(40, original_length=64), direction=direction)
    sign = -1 if direction == "negative" else 1
    for pair, frequency in enumerate(yarn(16, 1e4, 40, 64)):
        angle = sign * mp.mpf(position) * frequency
        assert spec.value(position, pair, "float64") == float(G["1"] * mp.cos(angle))
        assert spec.value(position, 8 + pair, "float64") == float(G["1"] * mp.sin(angle))


def test_a_transcendental_magnitude_is_rounded_once():
    wrong = 0
    for odd in range(1000001, 1000101, 2):
        midpoint = 1 + odd * 2.0**-24  # of two float32 neighbours
        spec = Rope(2, 1e4, "half", scaling=Yarn(math.exp(10 * (midpoint - 1)), original_length=64))
        exactly = mp.log(mp.mpf(repr(spec.scaling.factor))) / 10 + 1
        assert spec.magnitude == midpoint  # to float64, but one side of it in truth
        expected = midpoint + math.copysign(2.0**-24, exactly - midpoint)
        assert spec.value(0, 0) == expected
        wrong += exact.round_to(Fraction(spec.magnitude), "float32") != expected
    assert wrong > 10  # rounded twice, that many come out wrong


def test_pairs_that_do_not_turn_are_exact():
    spec = Rope(64, 1e4, "half", scaling=Proportional(0.5))
    assert spec.plan().increments[16:] == (0,) * 16
    assert spec.value(12345, 31) == 1
    assert spec.value(12345, 63) == 0


# --- Which channels ---


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        (Rope(8, 1e4, "half"), RotationPlan(8, 0, 4, "half", "half")),
        (Rope(8, 1e4, "interleaved"), RotationPlan(8, 0, 4, "interleaved", "interleaved")),
        (Rope(8, 1e4, "interleaved_to_half"), RotationPlan(8, 0, 4, "interleaved", "half")),
        (Rope(9, 1e4, "half", rotary_dim=4), RotationPlan(9, 0, 2, "half", "half")),
        (Rope(8, 1e4, "half", rotary_dim=6, rotary_channels="last"), RotationPlan(8, 2, 3, "half", "half")),
    ],
)
def test_rotation_plans(spec, plan):
    assert spec.rotation() == plan
    assert rotation_plan("rotate", spec) == plan


def test_rerotation_turns_what_is_already_turned():
    spec = Rope(8, 1e4, "interleaved_to_half", rotary_dim=4, scaling=Yarn(40, original_length=64))
    again = spec.rerotation()
    assert (again.layout, again.magnitude, again.frequencies()) == ("half", 1, spec.frequencies())
    assert again.rerotation() == again


@pytest.mark.parametrize(
    ("head_dim", "fraction", "rotary"),
    [(128, 0.4, None), (64, 0.4, None), (80, 0.4, 32), (128, 0.25, 32), (100, 0.58, 58)],
)
def test_partial_widths_are_the_floor_of_the_exact_decimal(head_dim, fraction, rotary):
    # 100 * 0.58 is 57.99999999999999 in binary64
    if rotary is None:
        with pytest.raises(SpecError, match=r"Rope\.partial\.fraction: expected one for which floor"):
            Rope.partial(head_dim, fraction, base=1e4, layout="half")
    else:
        assert Rope.partial(head_dim, fraction, base=1e4, layout="half").rotary_dim == rotary


# --- Lengths ---


def test_at_length_is_pure_and_says_what_matters():
    dynamic = Rope(64, 1e4, "half", scaling=DynamicNtk(2, original_length=512))
    assert dynamic.at_length(600).at_length(100) == dynamic.at_length(100) == dynamic.at_length(512)
    assert dynamic.at_length(513) != dynamic.at_length(512)
    long = Rope(32, 1e4, "half", scaling=SUNK)
    assert long.at_length(4097) == long.at_length(131072) != long.at_length(4096) == long.at_length(1)
    plain = Rope(64, 1e4, "half", scaling=LLAMA31)
    assert plain.at_length(10**6) is plain


@pytest.mark.parametrize("call", [Rope.plan, Rope.frequencies, lambda spec: spec.value(0, 0)])
def test_a_length_has_to_be_said(call):
    with pytest.raises(SpecError, match=r"Rope\.length: expected a length, by spec\.at_length\(n\), with LongRope"):
        call(Rope(32, 1e4, "half", scaling=SUNK))


# --- Refusals ---

REFUSED = [
    (lambda: Rope(7, 1e4, "half"), "Rope.head_dim: expected an even integer >= 2, received 7"),
    (lambda: Rope(0, 1e4, "half"), "Rope.head_dim: expected an integer >= 2, received 0"),
    (lambda: Rope(2**17, 1e4, "half"), "Rope.head_dim: expected an integer <= 65536, received 131072"),
    (lambda: Rope(8, -1, "half"), "Rope.base: expected a finite number > 0, received -1"),
    (
        lambda: Rope(8, 1e4, "neox"),
        "Rope.layout: expected 'half', 'interleaved' or 'interleaved_to_half', received 'neox'",
    ),
    (
        lambda: Rope(8, 1e4, "half", rotary_dim=5),
        "Rope.rotary_dim: expected an even integer from 2 to head_dim = 8, received 5",
    ),
    (
        lambda: Rope(8, 1e4, "half", rotary_dim=10),
        "Rope.rotary_dim: expected an even integer from 2 to head_dim = 8, received 10",
    ),
    (lambda: Rope(8, 1e4, "half", length=3), "Rope.length: expected None unless the scaling is DynamicNtk or LongRope"),
    (lambda: Rope(8, 1e4, "half", scaling="yarn"), "Rope.scaling: expected None or one of Linear, Ntk"),
    (lambda: Rope(8, 1e4, "half", apply_magnitude=1), "Rope.apply_magnitude: expected True or False, received 1"),
    (lambda: Rope(64, 1e30, "half"), "received one of 2^-96.5"),
    (lambda: Rope(8, 1e4, "half", scaling=Linear(2.0**63)), "received one of 2^-73.0"),
    (
        lambda: Rope(8, 1e4, "half", scaling=Yarn(4, original_length=64, mscale=1e9, magnitude_rule="deepseek")),
        "Rope.scaling: expected one whose magnitude lies from 2^-20 to 2^20",
    ),
    (lambda: Linear(0.5), "Linear.factor: expected a finite number >= 1, received 0.5"),
    (lambda: Linear(True), "Linear.factor: expected a finite number >= 1, received True"),
    (lambda: Rope(2, 1e4, "half", scaling=Ntk(2)), "Rope.rotary_dim: expected an integer >= 4 with Ntk, received 2"),
    (
        lambda: Rope(2, 1e4, "half", scaling=DynamicNtk(2, original_length=8)),
        "Rope.rotary_dim: expected an integer >= 4 with DynamicNtk, received 2",
    ),
    (
        lambda: DynamicNtk(2, original_length=0),
        "DynamicNtk.original_length: expected an integer >= 1 of magnitude below 2",
    ),
    (
        lambda: Rope(8, 1, "half", scaling=Yarn(4, original_length=64)),
        "Rope.base: expected a number > 1 with Yarn, received 1.0",
    ),
    (
        lambda: Yarn(4, original_length=64, beta_fast=1, beta_slow=2),
        "Yarn.beta_fast: expected a number >= beta_slow = 2.0, received 1.0",
    ),
    (lambda: Yarn(4, original_length=64, beta_fast=0), "Yarn.beta_fast: expected a finite number > 0, received 0"),
    (lambda: Yarn(4, original_length=64, truncate="no"), "Yarn.truncate: expected True or False, received 'no'"),
    (
        lambda: Yarn(4, original_length=64, mscale=1),
        "Yarn.magnitude_rule: expected 'transformers', 'deepseek' or 'product' where mscale is given, received None",
    ),
    (
        lambda: Yarn(4, original_length=64, attention_factor=2, magnitude_rule="deepseek"),
        "Yarn.attention_factor: expected None where magnitude_rule is 'deepseek', received 2.0",
    ),
    (
        lambda: Yarn(4, original_length=64, mscale=-1, magnitude_rule="deepseek"),
        "Yarn.mscale: expected a finite number >= 0, received -1",
    ),
    (
        lambda: YarnPaper(4, original_length=64, alpha=32),
        "YarnPaper.alpha: expected a number below beta = 32.0, received 32.0",
    ),
    (
        lambda: Llama3(8, original_length=64, low_freq_factor=4, high_freq_factor=4),
        "Llama3.low_freq_factor: expected a number below high_freq_factor = 4.0, received 4.0",
    ),
    (
        lambda: Rope(8, 1e4, "half", scaling=SUNK),
        "LongRope.short_factors: expected one number a pair, 4, received 16",
    ),
    (
        lambda: LongRope((1, 0), (1, 1), original_length=64),
        "LongRope.short_factors[1]: expected a finite number > 0, received 0",
    ),
    (
        lambda: LongRope("12", (1, 1), original_length=64),
        "LongRope.short_factors: expected a sequence of finite numbers > 0, received '12'",
    ),
    (
        lambda: LongRope((1,), (1,), original_length=64, factor=2, attention_factor=1),
        "LongRope.attention_factor: expected at most one of factor, extended_length, attention_factor",
    ),
    (
        lambda: LongRope((1,), (1,), original_length=64, short_mscale=1),
        "LongRope.short_mscale: expected short_mscale and long_mscale together, received 1.0 and None",
    ),
    (lambda: LongRope((1,), (1,), original_length=1, factor=2), "LongRope.original_length: expected an integer >= 2"),
    (lambda: Proportional(0), "Proportional.fraction: expected a number > 0 and <= 1, received 0"),
    (lambda: Proportional(1.5), "Proportional.fraction: expected a number > 0 and <= 1, received 1.5"),
    (lambda: Rope(8, 1e4, "half").at_length(0), "Rope.at_length.length: expected an integer >= 1 of magnitude below 2"),
    (lambda: encoding_plan("encode", Rope(8, 1e4, "half")), "encode.spec: expected an encoding such as Sinusoidal"),
    (lambda: table_plan("table", Sinusoidal.vaswani(8)), "table.spec: expected a rotary specification such as Rope("),
    (lambda: rotation_plan("rotate", Rope), "rotate.spec: expected a rotary specification such as Rope("),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_refusals_are_one_sentence(call, sentence):
    with pytest.raises(SpecError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# --- JSON, equality ---

lengths = st.integers(1, 10**6)
factors = st.floats(1, 1e3)
scalings = st.one_of(
    st.none(),
    st.builds(Linear, factors),
    st.builds(Ntk, factors),
    st.builds(DynamicNtk, factors, original_length=lengths),
    st.builds(
        Yarn,
        factors,
        original_length=lengths,
        beta_fast=st.floats(4, 64),
        beta_slow=st.floats(0.5, 4),
        truncate=st.booleans(),
        mscale=st.none() | st.floats(0, 2),
        mscale_all_dim=st.none() | st.floats(0, 2),
        magnitude_rule=st.sampled_from(["transformers", "deepseek"]),
        scale_softmax=st.booleans(),
    ),
    st.builds(YarnPaper, factors, original_length=lengths),
    st.builds(Llama3, factors, original_length=lengths, low_freq_factor=st.just(1), high_freq_factor=st.floats(2, 9)),
    st.builds(LongRope, st.just(SHORT), st.just(LONG), original_length=st.integers(2, 9999), factor=factors),
    st.builds(Proportional, st.floats(0.1, 1), factor=factors),
)
ropes = st.builds(
    Rope,
    st.integers(32, 40),
    st.floats(100, 1e7),
    st.sampled_from(["half", "interleaved", "interleaved_to_half"]),
    rotary_dim=st.just(32),
    rotary_channels=st.sampled_from(["first", "last"]),
    direction=st.sampled_from(["positive", "negative"]),
    scaling=scalings,
    apply_magnitude=st.booleans(),
)


@given(ropes, lengths)
def test_json_round_trip_and_stable_text(spec, length):
    for each in (spec, spec.at_length(length)):
        text = to_json(each)
        again = from_json(text)
        assert again == each
        assert hash(again) == hash(each)
        assert to_json(again) == text
        assert pickle.loads(pickle.dumps(each)) == each  # noqa: S301 - our own bytes


@given(ropes, lengths, st.integers(-(2**31) + 1, 2**31 - 1), st.integers(0, 15))
@settings(max_examples=60)
def test_plan_and_value_agree(spec, length, position, pair):
    spec = spec.at_length(length)
    phase = Fraction(position * spec.plan().increments[pair] % 2**128, 2**128)
    angle = 2 * mp.pi * mp.mpf(phase.numerator) / phase.denominator
    assert spec.value(position, pair, "float64") == pytest.approx(float(spec.magnitude * mp.cos(angle)), abs=1e-15)
    assert spec.value(position, 16 + pair, "float64") == pytest.approx(float(spec.magnitude * mp.sin(angle)), abs=1e-15)


def test_canonical_text_does_not_drift():
    text = to_json(Rope(8, 1e4, "half", scaling=Linear(4)))
    assert text == (
        '{"schema": 1, "family": "rope", "head_dim": 8, "base": 10000.0, "layout": "half", "rotary_dim": 8, '
        '"rotary_channels": "first", "direction": "positive", "scaling": {"rule": "Linear", "factor": 4.0}, '
        '"apply_magnitude": true, "length": null}'
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scaling": 3}, "Rope.scaling: expected null or a JSON object, received 3"),
        ({"scaling": {"factor": 4}}, "Rope.scaling.rule: expected 'Linear', 'Ntk'"),
        ({"scaling": {"rule": "Linear"}}, "Linear.factor: expected this key"),
        ({"scaling": {"rule": "Linear", "factor": 4, "beta": 1}}, "Linear: expected the keys factor, received 'beta'"),
        ({"scaling": {"rule": ["Linear"], "factor": 4}}, "Rope.scaling.rule: expected 'Linear', 'Ntk'"),
        ({"theta": 3}, "Rope: expected the keys head_dim, base,"),
    ],
)
def test_json_refuses_by_name(change, sentence):
    record = json.loads(to_json(Rope(8, 1e4, "half"))) | change
    with pytest.raises(SpecError) as caught:
        from_json(json.dumps(record))
    assert sentence in str(caught.value)


def test_every_rule_can_be_named():
    assert set(SCALINGS) == {type(spec.scaling).__name__ for _, spec, _ in FREQUENCIES if spec.scaling is not None}


def test_equal_specifications_are_equal():
    assert Rope(8, 10000, "half") == Rope(8, 1e4, "half", rotary_dim=8, rotary_channels="last")
    assert hash(Rope(8, 10000, "half")) == hash(Rope(8, 1e4, "half", rotary_dim=8))
    assert LongRope([1, 2], [3, 4], original_length=8) == LongRope((1.0, 2.0), (3.0, 4.0), original_length=8)


def test_lowering_is_quick():
    begin = time.perf_counter()
    for base in range(10001, 10006):
        Rope(128, base, "half", scaling=LLAMA31).plan()
    assert time.perf_counter() - begin < 0.5  # 10 ms each; a slow machine is not the question


def test_an_enumeration_of_strings_is_a_string():
    class Layout(enum.StrEnum):
        HALF = "half"

    spec = Rope(8, 1e4, Layout.HALF)
    assert spec == Rope(8, 1e4, "half")
    assert type(spec.layout) is str  # what a compiled function writes out
    assert "Layout" not in to_json(spec)


def test_a_value_at_a_huge_integer():
    angle = mpmath.mp.clone()
    angle.dps = 460
    expected = float(angle.cos(angle.mpf(10) ** 400))
    assert Rope(2, 1e4, "half").value(10**400, 0, "float64") == expected
    assert abs(Rope(2, 1e4, "half").value(10**4000, 0)) <= 1
    assert abs(Sinusoidal.vaswani(2).value(10**4000, 1)) <= 1
