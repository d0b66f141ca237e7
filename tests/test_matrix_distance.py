"""Rows and biases of every column and variant, for specifications, positions and weights drawn at random."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from posenc import (
    Alibi,
    DebertaBuckets,
    MusicTransformerIndex,
    ShawClip,
    SpecError,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
)
from posenc.conformance.bounds import N1, N2
from posenc.conformance.cases import NAN, ROWS, vectors
from posenc.conformance.judge import judge
from posenc.conformance.protocol import DTYPES, Answer, decoded
from posenc.spec.exact import round_to
from tests.columns import TRACED, every_host, numpy_dtype, parameter, subject
from tests.groups import agree, array_of, bias_of, numbers_of, rows_of
from tests.wrong import distance_buckets, distance_rows, distance_slopes
from tests.wrong.distance_plain import PlainDistance

# --- Questions at random ---

LENGTHS = st.sampled_from([0, 1, 5, 300, 2**24 + 1, 2**30 - 1]) | st.integers(0, 2**30 - 1)
HEADS = st.sampled_from([1, 3, 6])


@st.composite
def t5s(draw):
    both = draw(st.booleans())
    buckets = draw(st.sampled_from([4, 6, 32, 20, 64]) | st.integers(4, 130).map(lambda n: n + n % 2)) + (not both)
    furthest = draw(st.sampled_from([2, 40, 128, 160, 2**31 - 1]) | st.integers(1, 2**20))
    furthest = max(furthest, buckets // (4 if both else 2) + 1)  # past the exact buckets
    rule = draw(st.sampled_from(["exact", "exact", "t5x"]))
    return T5Bias(draw(HEADS), buckets=buckets, max_distance=furthest, bidirectional=both, rule=rule)


@st.composite
def tables(draw):
    """Any specification of rows; those of windows are drawn apart, as their positions are coordinates."""
    try:
        return draw(
            st.one_of(
                t5s(),
                st.builds(ShawClip, LENGTHS, st.none() | LENGTHS),
                st.builds(
                    lambda half, n, c: DebertaBuckets(2 * half, n, clamped=c),
                    st.integers(2, 200),
                    st.sampled_from([512, 2**31 - 1]) | st.integers(4, 2**20),
                    st.booleans(),
                ),
                st.builds(lambda n, m: TransformerXLIndex(n, shortest=n - m), LENGTHS, LENGTHS),
                st.builds(lambda n, b: MusicTransformerIndex(n + 1, bidirectional=b), LENGTHS, st.booleans()),
            )
        )
    except SpecError:
        assume(False)


NEAR = st.integers(-40, 40)
ANY = NEAR | st.integers(1 - 2**31, 2**31 - 1) | st.sampled_from([0, 2**24 + 1, 2**31 - 1, 1 - 2**31, 65537, -300])
SHAPES = [
    ((3,), (4,)),
    ((1,), (5,)),
    ((2, 3), (4,)),
    ((3,), (2, 4)),
    ((2, 3), (2, 4)),
    ((2, 1), (1, 4)),
    ((2, 1, 2), (1, 3, 2)),
]
"""Of queries and of keys."""


def positions(draw, shape):
    count = int(np.prod(shape))
    return (
        np.array(draw(st.lists(draw(st.sampled_from([NEAR, ANY])), min_size=count, max_size=count)))
        .reshape(shape)
        .tolist()
    )


@st.composite
def pairs(draw, shapes=SHAPES):
    query, key = draw(st.sampled_from(shapes))
    return positions(draw, query), positions(draw, key)


STEPS = st.sampled_from([1, 1, 2, -1, 7])


@st.composite
def ranges(draw):
    """Two progressions, of one step or not; as a range or as an array."""
    found = []
    for length in draw(st.sampled_from([(1, 40), (12, 40), (40, 12), (30, 30)])):
        start, step = (
            draw(NEAR | st.integers(-(2**30), 2**30)),
            draw(STEPS) if not found else draw(st.just(found[0][1]) | STEPS),
        )
        found.append((range(start, start + step * length, step), step))
    return [list(rows) if draw(st.booleans()) else rows for rows, _ in found]


WINDOWS = [(2, 3), (3, 2), (1, 4), (2, 3, 2), (2, 1, 3)]


@st.composite
def windows(draw, shapes=SHAPES, inside=True):
    """Coordinates in one window, wherever it lies; or, of some pairs, in no common one."""
    window = draw(st.sampled_from(WINDOWS))
    first = draw(st.lists(ANY.filter(lambda p: abs(p) < 2**31 - 9), min_size=len(window), max_size=len(window)))
    reach = [size - 1 if inside else size + 1 for size in window]
    cell = st.tuples(*(st.integers(p, p + size) for p, size in zip(first, reach, strict=True)))
    query, key = draw(st.sampled_from(shapes))
    coordinates = []
    for shape in (query, key):
        count = int(np.prod(shape))
        drawn = np.array(draw(st.lists(cell, min_size=count, max_size=count)), np.int64)
        coordinates.append(drawn.reshape(*shape, len(window)).tolist())
    return SwinIndex(draw(HEADS), window), *coordinates


SLOPES = st.builds(
    lambda heads, form, b: Alibi(heads, form=form, max_bias=b),
    st.sampled_from([1, 2, 3, 5, 6, 8]),
    st.sampled_from(["causal", "symmetric", "anchored"]),
    st.sampled_from([8.0, 8.0, 1.6, 16.0]) | st.floats(0.01, 30),
)


def numbers(spec, dtype):
    """Weights of no order that fill the significand of their dtype."""
    count = spec.weight_shape[0] * spec.weight_shape[1]
    state = (np.arange(1, count + 1) * 2654435761 % 2**32 - 2**31) / 2**30
    return state.astype(numpy_dtype(dtype)).reshape(spec.weight_shape)


# --- Every column ---


class Called:
    """A host column as a subject that is handed Python numbers, or arrays of its own."""

    def __init__(self, host, *, arrays=False):
        self.host, self.arrays = host, arrays

    def rows(self, spec, query, key):
        return Answer(*self.host.read(self.host.module.rows(spec, *map(self.places, (query, key)))))

    def bias(self, spec, query, key, weights, dtype):
        own = None if weights is None else array_of(self.host, weights)
        places = map(self.places, (query, key))
        return Answer(*self.host.read(self.host.module.bias(spec, *places, weights=own, dtype=dtype)))

    def places(self, given_):
        if isinstance(given_.values, range):
            return given_.values
        values = np.array(given_.values, np.int64).reshape(given_.shape)
        return self.host.array(values, "int32") if self.arrays else values.tolist()


@every_host
@settings(max_examples=60)
@given(tables(), pairs() | ranges(), st.booleans())
def test_hosts_give_the_rows_of_the_definition(host, spec, places, arrays):
    agree(Called(host, arrays=arrays), N1, rows_of(spec, *places), ROWS)


@every_host
@settings(max_examples=20)
@given(windows() | windows(inside=False), st.booleans())
def test_hosts_give_the_rows_of_windows_and_refuse_others(host, question, arrays):
    agree(Called(host, arrays=arrays), N1, rows_of(*question), ROWS)


@every_host
@settings(max_examples=30)
@given(SLOPES, pairs() | ranges(), st.sampled_from(DTYPES))
def test_hosts_round_slopes_correctly(host, spec, places, dtype):
    agree(Called(host), N1, bias_of(spec, *places, dtype), dtype)


@every_host
@settings(max_examples=25)
@given(
    st.tuples(t5s(), pairs() | ranges()).map(lambda q: (q[0], *q[1])) | windows(),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
)
def test_hosts_round_weights_once(host, question, kind, dtype):
    spec, *places = question
    agree(Called(host), N1, bias_of(spec, *places, dtype, numbers(spec, kind)), dtype)


@every_host
@settings(max_examples=10)
@given(SLOPES, ranges(), st.sampled_from(DTYPES), st.integers(1, 11))
def test_a_bias_is_its_parts_bit_for_bit(host, spec, places, dtype, at):
    query, key = (list(x) for x in places)

    def answered(queries, keys):
        name, shape, data = host.read(host.module.bias(spec, queries, keys, dtype=dtype))
        return np.frombuffer(data, numpy_dtype(name)).reshape(shape)

    whole = answered(*places)
    parts = [answered(part, key) for part in (query[:at], query[at:]) if part]
    assert np.concatenate(parts, -2).tobytes() == whole.tobytes()
    parts = [answered(query, part) for part in (key[:at], key[at:])]
    assert np.concatenate(parts, -1).tobytes() == whole.tobytes()
    assert answered([query] * 2, key)[1].tobytes() == whole.tobytes()


# Examples are few, and of few shapes: each may compile.


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=4)
@example(T5Bias(2, max_distance=2**31 - 1, bidirectional=True), ([0, 5, 2**31 - 1], [1 - 2**31, -70000, 5, 2**24 + 1]))
@example(TransformerXLIndex(2**30, shortest=1 - 2**30), ([0, 5, 2**31 - 1], [1 - 2**31, 2**30, 4, 6]))
@given(tables(), pairs(SHAPES[:1]))
def test_traced_variants_give_the_rows_of_the_definition(column, spec, places):
    agree(subject(column), column.mode, rows_of(spec, *places), ROWS)


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=2)
@given(windows(SHAPES[4:5], inside=False))
def test_traced_variants_give_no_row_outside_a_window(column, question):
    agree(subject(column), column.mode, rows_of(*question), ROWS)


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=3)
@given(SLOPES, pairs(SHAPES[4:5]), st.sampled_from(DTYPES))
def test_traced_variants_keep_the_bound_of_slopes(column, spec, places, dtype):
    dtype = dtype if dtype in column.dtypes else "float32"
    agree(subject(column), column.mode, bias_of(spec, *places, dtype), dtype)


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=2)
@given(windows(SHAPES[2:3], inside=False), st.sampled_from(DTYPES[1:]))
def test_traced_variants_read_weights_bit_for_bit(column, question, dtype):
    spec, *places = question
    agree(subject(column), column.mode, bias_of(spec, *places, dtype, numbers(spec, "float32")), dtype)


# --- The vectors, and the groups made here, say the same; and are shown wrong answers ---


@pytest.mark.parametrize("family", ["alibi", "t5", "relative"])
def test_the_generator_and_the_exact_arithmetic_of_the_specification_agree(family):
    """Two independent routes to the same integers and bits: papers and published code in the generator, plans here."""
    for group in vectors(family).groups:
        for case in group.cases:
            found = numbers_of(group.spec, case.query, case.key)
            if group.kind == ROWS:
                assert case.expected[ROWS] == tuple(found.flatten().tolist()), case.id
                assert case.outside == (group.spec.plan().strict and bool((found < 0).any())), case.id
                continue
            heads = group.spec.heads
            assert case.shape == (*found.shape[:-2], heads, *found.shape[-2:]), case.id
            size = found.shape[-2] * found.shape[-1]
            for position, entry in enumerate(case.channels):
                head, n = entry // size % heads, int(found.flatten()[entry // size // heads * size + entry % size])
                check_entry(group, case, position, head, n)


def check_entry(group, case, position, head, n):
    for dtype in group.dtypes:
        word = case.expected[dtype][position]
        if case.weights is None:
            value = group.spec.value(n, head, dtype)
            assert decoded(word, dtype) == value, (case.id, position, dtype)
            assert np.signbit(decoded(word, dtype)) == np.signbit(value), (case.id, position, dtype)
        elif n < 0:
            assert word == NAN, (case.id, position, dtype)
        else:
            exact = Fraction(case.weights.values[n * case.weights.shape[1] + head])
            assert decoded(word, dtype) == round_to(exact, dtype), (case.id, position, dtype)
    if case.truth:
        nearest = group.spec.value(n, head, "float64")
        assert abs(Fraction(nearest) - case.truth[position]) <= abs(Fraction(nearest)) / 2**53, (case.id, position)


def test_groups_made_here_catch_what_the_vectors_catch():
    slopes = bias_of(Alibi.causal(6), [[3, 9]], [[0, 1], [5, 700]], "float32")
    agree(PlainDistance(), N1, slopes, "float32")
    for wrong in (distance_slopes.Geometric, distance_slopes.Sign, distance_slopes.Anchored, distance_slopes.NotSliced):
        assert all(v.disagreement for v in judge(wrong(), N1, slopes, "float32"))
    buckets = rows_of(T5Bias(2, buckets=20, max_distance=160, bidirectional=True), [0], [-10, -80, 20, 10000])
    agree(PlainDistance(), N1, buckets, ROWS)
    for wrong in (distance_buckets.Float64Logarithm, distance_buckets.QueryMinusKey, distance_buckets.NotLimited):
        assert all(v.disagreement for v in judge(wrong(), N1, buckets, ROWS))
    spec = SwinIndex(4, (2, 3))
    cells = [list(cell) for cell in spec.positions()]
    for group, dtype in (
        (rows_of(spec, cells, cells), ROWS),
        (bias_of(spec, cells, cells, "bfloat16", numbers(spec, "float32")), "bfloat16"),
    ):
        agree(PlainDistance(), N1, group, dtype)
        for wrong in (distance_rows.OtherAxis, distance_rows.KeyMinusQuery):
            assert all(v.disagreement for v in judge(wrong(), N1, group, dtype))
    transposed = bias_of(spec, cells, cells, "float32", numbers(spec, "float32"))
    assert all(v.disagreement for v in judge(distance_buckets.EveryRankFirst(), N1, transposed, "float32"))
    far = rows_of(spec, cells, [[9, 9], *cells[1:]])
    agree(PlainDistance(), N1, far, ROWS)
    agree(PlainDistance(refuses=False), N2, far, ROWS)
    assert all(v.disagreement for v in judge(distance_rows.OutsideWindow(), N1, far, ROWS))
    assert all(v.disagreement for v in judge(distance_rows.OutsideWindow(), N2, far, ROWS))
    (case,) = buckets.cases
    moved = replace(case, expected={ROWS: (case.expected[ROWS][0] + 1, *case.expected[ROWS][1:])})
    assert all(v.disagreement for v in judge(PlainDistance(), N1, replace(buckets, cases=(moved,)), ROWS))
