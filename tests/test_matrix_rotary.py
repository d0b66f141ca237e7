"""Tables and rotations of every column and variant, for ropes, positions and queries drawn at random."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posenc import (
    DynamicNtk,
    Linear,
    Llama3,
    LongRope,
    Ntk,
    Proportional,
    Rope,
    SpecError,
    Yarn,
    YarnPaper,
)
from posenc.conformance.bounds import N1
from posenc.conformance.cases import PHASE
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, Answer, Table, encoded
from tests.columns import OTHERS, REFERENCE, TRACED, every_host, numpy_dtype, parameter, subject
from tests.groups import agree, array_of, group_of, phases_of, rotations_of, same_bits

FACTORS = st.sampled_from([1.0, 4.0, 40.0]) | st.floats(1, 100)
LENGTHS = st.sampled_from([64, 4096, 131072]) | st.integers(2, 10**6)
OPTIONAL = st.none() | st.just(1.0) | st.floats(0.1, 2)


@st.composite
def yarns(draw):
    slow = draw(st.sampled_from([1.0]) | st.floats(0.01, 10))
    fast = slow * draw(st.sampled_from([1.0, 32.0]) | st.floats(1, 100))
    common = {"original_length": draw(LENGTHS), "beta_fast": fast, "beta_slow": slow, "truncate": draw(st.booleans())}
    rule = draw(st.sampled_from([None, "transformers", "deepseek", "product"]))
    own = {}
    if rule in ("transformers", "product"):
        own["attention_factor"] = draw(OPTIONAL)
    if rule in ("transformers", "deepseek"):
        own |= {"mscale": draw(OPTIONAL), "mscale_all_dim": draw(OPTIONAL)}
    return Yarn(draw(FACTORS), magnitude_rule=rule, **common, **own)


@st.composite
def longropes(draw, pairs):
    factors = st.lists(st.floats(0.5, 64), min_size=pairs, max_size=pairs)
    way = draw(st.sampled_from([{}, {"factor": 32.0}, {"extended_length": 131072}, {"attention_factor": 1.19}]))
    rule = draw(st.sampled_from(["longrope", "yarn"]))
    return LongRope(draw(factors), draw(factors), original_length=draw(LENGTHS), magnitude_rule=rule, **way)


def scalings(pairs):
    band = st.tuples(st.floats(0.1, 4), st.floats(1.1, 16)).map(lambda b: (b[0], b[0] * b[1]))
    return st.one_of(
        st.none(),
        st.builds(Linear, FACTORS),
        st.builds(Ntk, FACTORS),
        st.builds(DynamicNtk, FACTORS, original_length=LENGTHS),
        yarns(),
        st.builds(lambda f, n, b: YarnPaper(f, original_length=n, alpha=b[0], beta=b[1]), FACTORS, LENGTHS, band),
        st.builds(
            lambda f, n, b: Llama3(f, original_length=n, low_freq_factor=b[0], high_freq_factor=b[1]),
            FACTORS,
            LENGTHS,
            band,
        ),
        longropes(pairs),
        st.builds(Proportional, st.sampled_from([0.25, 0.5, 0.75, 1.0]), FACTORS),
    )


@st.composite
def ropes(draw):
    """Few widths, so that frameworks that compile by shape do so a few times only; all else at random."""
    head_dim, rotary_dim = draw(st.sampled_from([(4, 4), (8, 8), (8, 4), (7, 4)]))
    try:
        spec = Rope(
            head_dim,
            draw(st.sampled_from([10000.0, 500000.0, 1e6]) | st.floats(2, 1e8)),
            draw(st.sampled_from(["half", "interleaved", "interleaved_to_half"])),
            rotary_dim=rotary_dim,
            rotary_channels=draw(st.sampled_from(["first", "last"])),
            direction=draw(st.sampled_from(["positive", "negative"])),
            scaling=draw(scalings(rotary_dim // 2)),
            apply_magnitude=draw(st.sampled_from([True, True, False])),
        )
        return spec.at_length(draw(LENGTHS))
    except SpecError:
        assume(False)


SMALL = st.integers(-300, 300)
WHOLE = SMALL | st.integers(1 - 2**31, 2**31 - 1) | st.sampled_from([0, 2**24 + 1, 2**31 - 1, 1 - 2**31, 65537])
PLACES = st.lists(WHOLE, min_size=6, max_size=6)
FLOATS = {"min_value": -(2.0**31), "max_value": 2.0**31, "exclude_min": True, "exclude_max": True, "width": 32}
MOMENTS = st.lists(st.floats(**FLOATS), min_size=6, max_size=6)
NORMAL = st.floats(**FLOATS, allow_subnormal=False)  # XLA takes subnormal numbers for zero, as devices do


class Called:
    """A host column as a subject that is handed Python numbers, or arrays of its own."""

    def __init__(self, host):
        self.host = host

    def table(self, spec, positions, dtype):
        values = list(positions.values)
        own = self.host.array(values, "float32") if positions.dtype == "float32" else values
        return Table(*(Answer(*self.host.read(half)) for half in self.host.module.table(spec, own, dtype=dtype)))

    def rotate(self, spec, x, table, head_axis):
        pair = self.host.module.Table(*(array_of(self.host, half) for half in table))
        return Answer(*self.host.read(self.host.module.rotate(spec, array_of(self.host, x), pair, head_axis=head_axis)))


# --- Tables ---


@OTHERS
@settings(max_examples=25)
@given(ropes(), PLACES)
def test_hosts_give_identical_tables(host, spec, places):
    for dtype in DTYPES[1:]:
        expected, received = (h.module.table(spec, places, dtype=dtype) for h in (REFERENCE, host))
        for name in ("cos", "sin"):
            what = f"{name}, {spec}, {places}, {dtype}"
            same_bits(host, getattr(expected, name), getattr(received, name), what)


@every_host
@settings(max_examples=20)
@given(ropes(), PLACES, st.integers(0, 5))
def test_tables_are_correctly_rounded(host, spec, places, row):
    """A row of each answer against exact arithmetic; float64 within its own bound."""
    group = group_of(spec, places, rows=[row], kind="table")
    for dtype in DTYPES:
        agree(Called(host), N1, group, dtype)


@every_host
@settings(max_examples=10)
@given(ropes(), MOMENTS, st.integers(0, 5), st.sampled_from(["float32", "float64"]))
def test_tables_keep_the_bound_at_float_positions(host, spec, moments, row, position_dtype):
    group = group_of(spec, moments, position_dtype, rows=[row], kind="table")
    for dtype in DTYPES[1:]:  # the truth of this group has float64 accuracy only
        agree(Called(host), N1, group, dtype)


@OTHERS
@settings(max_examples=20)
@given(ropes(), PLACES, MOMENTS)
def test_hosts_give_identical_phases(host, spec, places, moments):
    for positions in (places, moments):
        expected = np.asarray(REFERENCE.module.phase(spec, positions), np.int64)
        _, shape, data = host.read(host.module.phase(spec, positions))
        got = np.frombuffer(data, np.uint32 if host.name == "jax" else np.int64).reshape(shape).astype(np.int64)
        if got.shape != expected.shape or (got != expected).any():
            raise Disagreement(f"{spec}, {positions}", str(got.tolist()), str(expected.tolist()))


@OTHERS
@settings(max_examples=10)
@given(ropes(), st.integers(-(2**31) + 5000, 2**31 - 5000), st.sampled_from([1, -1, 7]), st.integers(500, 600))
def test_hosts_give_identical_tables_of_ranges(host, spec, start, step, length):
    rows = range(start, start + step * length, step)
    for dtype in DTYPES[1:]:
        expected, received = (h.module.table(spec, rows, dtype=dtype) for h in (REFERENCE, host))
        for name in ("cos", "sin"):
            same_bits(host, getattr(expected, name), getattr(received, name), f"{name}, {spec}, {rows}, {dtype}")


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=2)
@given(ropes(), PLACES, st.sampled_from(DTYPES[1:]))
def test_traced_variants_keep_the_bounds_and_the_phases_of_tables(column, spec, places, dtype):
    agree(subject(column), column.mode, group_of(spec, places, kind="table"), dtype)
    agree(subject(column), column.mode, phases_of(spec, places), PHASE)


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=1)
@given(ropes(), st.lists(NORMAL, min_size=6, max_size=6))
def test_traced_variants_keep_the_bounds_of_tables_at_float_positions(column, spec, moments):
    agree(subject(column), column.mode, group_of(spec, moments, "float32", kind="table"), "float32")


# --- Rotations ---

ENTRIES = st.floats(-300, 300, width=16, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -0.5])
SHAPES = [
    ((2, 3, 4), 1, (2, 4)),
    ((2, 4, 3), 2, (4,)),
    ((2, 2, 2), 1, (2, 1)),
    ((2, 4), None, (1, 4)),
    ((3, 4), 0, (4,)),
    ((), None, ()),
]
"""Axes of x but the channels, that of the heads, and the axes of the table but the pairs."""


@st.composite
def questions(draw, shapes=SHAPES):
    """A rope, x, a table as the reference column gives it, and the axis of heads."""
    spec, (lead, head_axis, own) = draw(ropes()), draw(st.sampled_from(shapes))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(lead) * spec.head_dim
    x = np.resize(np.array(draw(st.lists(ENTRIES, min_size=11, max_size=11))), size)
    x = x.reshape(*lead, spec.head_dim).astype(numpy_dtype(dtype))
    places = np.array(draw(st.lists(WHOLE, min_size=math.prod(own), max_size=math.prod(own))), np.int64)
    kind = draw(st.sampled_from(["float64" if dtype == "float64" else "float32", "bfloat16"]))
    waves = REFERENCE.module.table(spec, places.reshape(own), dtype=kind)
    table = Table(*(Answer(*REFERENCE.read(half)) for half in waves))
    return spec, x, table, head_axis, dtype


@every_host
@settings(max_examples=20)
@given(questions())
def test_rotations_keep_the_bound(host, question):
    agree(Called(host), N1, rotations_of(*question), question[-1])


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=4)
@given(questions(SHAPES[:2]))
def test_traced_variants_keep_the_bound_of_rotations(column, question):
    dtype = question[-1] if question[-1] in column.dtypes else "float32"
    spec, x, table, head_axis, _ = question
    if dtype != question[-1] and table.cos.dtype == "float64":
        table = Table(*(narrowed(half) for half in table))
    agree(subject(column), column.mode, rotations_of(spec, x.astype(dtype), table, head_axis, dtype), dtype)


def narrowed(half):
    values = np.frombuffer(half.data, np.float64).astype(np.float32)
    return Answer("float32", half.shape, values.tobytes())


@every_host
@settings(max_examples=8)
@given(questions(SHAPES[:2]), st.sampled_from(["batch", "heads", "positions"]), st.integers(1, 2))
def test_a_rotation_is_its_parts_bit_for_bit(host, question, axis, at):
    spec, x, table, head_axis, dtype = question
    called = Called(host)

    def turned(part, own):
        given_ = Answer(dtype, part.shape, np.ascontiguousarray(part).tobytes())
        return np.frombuffer(called.rotate(spec, given_, own, head_axis).data, x.dtype).reshape(part.shape)

    whole = turned(x, table)
    own = {"batch": 0, "heads": head_axis, "positions": 3 - head_axis}[axis]
    at = min(at, x.shape[own] - 1)
    parts = []
    for part in (slice(None, at), slice(at, None)):
        index = [slice(None)] * x.ndim
        index[own] = part
        rows = {"batch": 0, "positions": len(table.cos.shape) - 2}.get(axis)
        if axis == "batch" and len(table.cos.shape) == 2:
            rows = None  # shared by all batch rows
        parts.append(turned(x[tuple(index)], table if rows is None else cut(table, rows, part)))
    joined = np.concatenate(parts, own)
    assert joined.tobytes() == whole.tobytes()


def cut(table, axis, part):
    index = [slice(None)] * len(table.cos.shape)
    index[axis] = part
    halves = []
    for half in table:
        entries = np.frombuffer(half.data, numpy_dtype(half.dtype)).reshape(half.shape)[tuple(index)]
        halves.append(Answer(half.dtype, entries.shape, np.ascontiguousarray(entries).tobytes()))
    return Table(*halves)


# --- The comparisons of this file are shown wrong answers ---


def test_groups_made_here_catch_what_the_vectors_catch():
    from tests.wrong.rotary_formula import ScalingIgnored
    from tests.wrong.rotary_plain import PlainRotation
    from tests.wrong.rotary_turn import HeadsForPositions, OtherLayout

    spec = Rope(8, 500.0, "half", scaling=Yarn(8.0, original_length=64))
    group = group_of(spec, [1, 2, 300], kind="table")
    agree(PlainRotation(), N1, group, "float32")
    assert all(v.disagreement is not None for v in judge(ScalingIgnored(), N1, group, "float32"))
    agree(PlainRotation(), N1, phases_of(spec, [1, 2, 300]), PHASE)
    assert all(v.disagreement for v in judge(ScalingIgnored(), N1, phases_of(spec, [1, 2, 300]), PHASE))
    x = np.arange(64, dtype=np.float32).reshape(2, 2, 2, 8)
    values = [spec.value(p, channel) for p in (3, 700) for channel in range(8)]
    table = Table(
        *(Answer("float32", (2, 4), encoded([*values[k : k + 4], *values[8 + k : 12 + k]], "float32")) for k in (0, 4))
    )
    for axis in (1, 2):
        rotation = rotations_of(spec, x, table, axis, "float32")
        agree(PlainRotation(), N1, rotation, "float32")
        (wrong,) = judge(OtherLayout(), N1, rotation, "float32")
        assert "entry 1, float32" in wrong.disagreement.where or "entry 0, float32" in wrong.disagreement.where
        (wrong,) = judge(HeadsForPositions(), N1, rotation, "float32")
        assert (wrong.disagreement is not None) == (axis == 2)
    (moved,) = rotations_of(spec, x, table, 1, "float32").cases
    other = replace(moved, truth=tuple(value + 1 for value in moved.truth))
    (verdict,) = judge(
        PlainRotation(), N1, replace(rotations_of(spec, x, table, 1, "float32"), cases=(other,)), "float32"
    )
    assert verdict.disagreement is not None
