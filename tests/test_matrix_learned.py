"""Lookups and resized tables of every column and variant, for tables, positions and shapes drawn at random."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posenc import Learned
from posenc.conformance.bounds import N1, N2
from posenc.conformance.cases import NAN, Case, Group, Weights, vectors
from posenc.conformance.judge import judge
from posenc.conformance.protocol import DTYPES, Answer, Positions, encoded
from posenc.conformance.run import asked
from posenc.spec import resampling
from posenc.spec.exact import round_to
from posenc.spec.resampling import METHODS
from tests.columns import MATRIX, TRACED, every_host, numpy_dtype, parameter, subject
from tests.groups import agree, array_of, pattern
from tests.wrong import learned_rows, resized
from tests.wrong.learned_plain import PlainTable

# --- Questions, and what exact arithmetic says of them ---


def exact_rows(spec, values, shape, positions, dtype):
    """A group of one lookup: `positions` are row-major integers, outside of the table too."""
    wide = "float64" if dtype == "float64" else "float32"
    scale = Fraction(round_to(Fraction(repr(spec.output_scale)), wide))
    low, expected = 0 if spec.padding is None else -1, []
    for place in positions:
        first = (place + spec.offset) * spec.dim
        if not low <= place < spec.length:
            expected += [NAN] * spec.dim
        elif spec.output_scale == 1:
            expected += [pattern(value, dtype) for value in values[first : first + spec.dim]]
        else:
            products = (Fraction(value) * scale for value in values[first : first + spec.dim])
            expected += [pattern(round_to(Fraction(round_to(p, wide)), dtype), dtype) for p in products]
    places = Positions.of(positions) if isinstance(positions, range) else Positions("integer", shape, positions)
    weights = Weights(None, spec.weight_shape, tuple(values))
    name = f"{spec}, {shape}, {positions}"
    case = Case(name, (), tuple(range(len(expected))), {dtype: tuple(expected)}, shape=(*shape, spec.dim))
    case = replace(case, positions=places, weights=weights, outside=NAN in expected)
    return Group("lookup", "random", spec, 1, (case,), dtypes=(dtype,))


def exact_table(spec, values, target, method, dtype):
    """A group of one resizing: exact rationals, and beside them the float64 numbers that the plan states."""
    kept = (spec.offset + spec.tokens) * spec.dim
    grid = spec.grid or (spec.length - spec.tokens,)
    exact = {(*index, c): Fraction(values[kept + i]) for i, (*index, c) in enumerate(np.ndindex(*grid, spec.dim))}
    floats = {place: float(value) for place, value in exact.items()}
    sizes = [*grid, spec.dim]
    for axis, m in enumerate(target):
        if METHODS[method].enlarged and grid == target:
            break
        rows = resampling.weights(sizes[axis], m, method)
        sizes[axis] = m
        lines = [
            (place, [((*place[:axis], tap, *place[axis + 1 :]), rows[place[axis]][tap]) for tap in sorted(row)])
            for place in np.ndindex(*sizes)
            for row in [rows[place[axis]]]
        ]
        exact = {place: sum((weight * exact[at] for at, weight in taps), Fraction(0)) for place, taps in lines}
        floats = {place: summed([float(weight) * floats[at] for at, weight in taps]) for place, taps in lines}
    order = list(np.ndindex(*sizes))
    truth = [*map(Fraction, values[:kept]), *(exact[place] for place in order)]
    numbers = [*values[:kept], *(floats[place] for place in order)]
    expected = tuple(pattern(round_to(Fraction(value), dtype), dtype) for value in numbers)
    shape = (len(truth) // spec.dim, spec.dim)
    case = Case(f"{spec}, {target}, {method}", (), tuple(range(len(truth))), {dtype: expected}, tuple(truth))
    case = replace(case, shape=shape, weights=Weights(None, spec.weight_shape, tuple(values)))
    case = replace(case, target=tuple(target), method=method)
    return Group("resize", "random", spec, 1, (case,), dtypes=(dtype,))


def summed(terms):
    """One after the other: `sum` has compensated since Python 3.12."""
    return list(itertools.accumulate(terms))[-1]


ENTRIES = st.integers(-127, 127).map(lambda n: n / 32)
"""Normal numbers of every format, or 0."""


@st.composite
def lookups(draw, shapes=((6,), (2, 3), (), (2, 1, 3))):
    """Few widths and shapes, so that what compiles does so a few times only; all else at random."""
    offset = draw(st.integers(0, 3))
    padding = draw(st.sampled_from(["row", "frozen", None] if offset else [None]))
    scale = draw(st.sampled_from([1.0, 1.0, 0.1, 2**-0.5]))
    spec = Learned(5, 2, offset=offset, padding=padding, output_scale=scale)
    values = draw(st.lists(ENTRIES, min_size=2 * (5 + offset), max_size=2 * (5 + offset)))
    shape = draw(st.sampled_from(shapes))
    inside = st.integers(0 if padding is None else -1, 4)
    outside = st.sampled_from([5, -1, -2, -4, 2**31 - 1, 1 - 2**31]) | st.integers(1 - 2**31, 2**31 - 1)
    places = inside if draw(st.booleans()) else inside | outside
    positions = draw(st.lists(places, min_size=math.prod(shape), max_size=math.prod(shape)))
    return spec, values, shape, positions, draw(st.sampled_from(DTYPES))


SHAPES = [((2, 3), (3, 5)), ((3, 2), (2, 2)), ((4, 4), (2, 8)), ((5,), (3,)), ((1, 3), (2, 1)), ((2, 2, 2), (1, 3, 2))]


@st.composite
def resizings(draw, shapes=SHAPES, methods=tuple(METHODS)):
    grid, target = draw(st.sampled_from(shapes))
    offset, tokens = draw(st.sampled_from([(0, 0), (0, 1), (2, 0), (1, 2)]))
    length = tokens + math.prod(grid)
    spec = Learned(length, 2, offset=offset, tokens=tokens, grid=grid if len(grid) > 1 else None)
    values = draw(st.lists(ENTRIES, min_size=2 * (length + offset), max_size=2 * (length + offset)))
    return spec, values, target, draw(st.sampled_from(methods)), draw(st.sampled_from(DTYPES))


# --- Every column ---


class Called:
    """A host column as a subject that is handed Python numbers, or arrays of its own."""

    def __init__(self, host, *, arrays=False):
        self.host, self.arrays = host, arrays

    def lookup(self, spec, weights, positions):
        places = positions.values
        if not isinstance(places, range):
            places = np.array(places, np.int64).reshape(positions.shape)
            places = self.host.array(places, "int32") if self.arrays else places.tolist()
        return Answer(*self.host.read(self.host.module.lookup(spec, array_of(self.host, weights), places)))

    def resize(self, spec, weights, shape, method):
        return Answer(
            *self.host.read(self.host.module.resize(spec, array_of(self.host, weights), shape, method=method))
        )


@every_host
@settings(max_examples=40)
@given(lookups(), st.booleans())
def test_hosts_read_the_rows_bit_for_bit(host, question, arrays):
    agree(Called(host, arrays=arrays), N1, exact_rows(*question), question[-1])


@every_host
@settings(max_examples=15)
@given(lookups(), st.integers(0, 4), st.sampled_from([1, 2, -1]))
def test_hosts_read_the_rows_of_ranges(host, question, start, step):
    spec, values, _, _, dtype = question
    rows = range(start, start + 4 * step, step)
    agree(Called(host), N1, exact_rows(spec, values, (len(rows),), rows, dtype), dtype)


@every_host
@settings(max_examples=40)
@given(resizings())
def test_hosts_resize_bit_for_bit(host, question):
    agree(Called(host), N1, exact_table(*question), question[-1])


@every_host
@settings(max_examples=10)
@given(resizings(), st.permutations(range(5)))
def test_a_channel_is_resized_alike_wherever_it_stands(host, question, order):
    """Of five channels, in any order and alone: no sum depends on how many are taken together."""
    spec, values, target, method, dtype = question
    one = np.resize(np.array(values), (spec.weight_shape[0], 5))
    called = Called(host)

    def answered(columns):
        weights = Answer(dtype, columns.shape, encoded(columns.flatten().tolist(), dtype))
        found = called.resize(replace(spec, dim=columns.shape[1]), weights, target, method)
        return np.frombuffer(found.data, numpy_dtype(dtype)).reshape(found.shape)

    whole = answered(one)
    assert answered(one[:, list(order)]).tobytes() == whole[:, list(order)].tobytes()
    assert answered(one[:, :1]).tobytes() == whole[:, :1].tobytes()


FAR = Learned(5, 2, offset=2, padding="frozen")
FAR_PLACES = [-1, 4, 5, -2, 2**31 - 1, 1 - 2**31]


# Examples are few, and of one shape: each may compile.
@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=3)
@example((FAR, [n / 32 for n in range(1, 15)], (6,), FAR_PLACES, "float32"))
@given(lookups(shapes=((6,),)))
def test_traced_variants_read_the_rows_bit_for_bit(column, question):
    dtype = question[-1] if question[-1] in column.dtypes else "float32"
    agree(subject(column), column.mode, exact_rows(*question[:-1], dtype), dtype)


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=3)
@given(resizings(shapes=SHAPES[:2]))
def test_traced_variants_keep_the_bound_of_resized_tables(column, question):
    dtype = question[-1] if question[-1] in column.dtypes else "float32"
    agree(subject(column), column.mode, exact_table(*question[:-1], dtype), dtype)


@pytest.mark.parametrize("column", MATRIX, ids=lambda column: column.name)
def test_every_column_is_asked_for_lookups_and_for_resized_tables(column):
    kinds = {
        (group.kind, dtype) for group in vectors("learned").groups for dtype in DTYPES if asked(column, group, dtype)
    }
    assert kinds == {(kind, dtype) for kind in ("lookup", "resize") for dtype in column.dtypes if dtype in column.aside}


# --- The vectors, and the groups made here, say the same; and are shown wrong answers ---


@pytest.mark.parametrize("group", vectors("learned").groups, ids=lambda group: group.cases[0].id)
def test_the_generator_and_the_exact_arithmetic_of_the_specification_agree(group):
    """Two independent routes to the same bits: libraries' code in the generator, the specification here."""
    for case, dtype in itertools.product(group.cases, group.dtypes):
        if group.kind == "lookup":
            shape, places = case.positions.shape, case.positions.values
            (own,) = exact_rows(group.spec, case.weights.values, shape, places, dtype).cases
            assert own.outside == case.outside
        else:
            (own,) = exact_table(group.spec, case.weights.values, case.target, case.method, dtype).cases
            assert len(own.truth) == len(case.truth)
            for mine, given_ in zip(own.truth, case.truth, strict=True):
                assert abs(mine - given_) <= abs(mine) / 10**38
        assert (own.shape, own.expected[dtype]) == (case.shape, case.expected[dtype]), case.id


def test_groups_made_here_catch_what_the_vectors_catch():
    values = [n / 32 for n in range(1, 15)]
    rows = exact_rows(FAR, values, (3,), [-1, 0, 4], "float32")
    agree(PlainTable(), N1, rows, "float32")
    for wrong in (learned_rows.OffsetForgotten, learned_rows.PaddingIndex, learned_rows.PaddingZero):
        assert all(v.disagreement for v in judge(wrong(), N1, rows, "float32"))
    far = exact_rows(FAR, values, (6,), FAR_PLACES, "float32")
    agree(PlainTable(), N1, far, "float32")
    agree(PlainTable(refuses=False), N2, far, "float32")
    for wrong in (learned_rows.Clamped, learned_rows.Overflow, learned_rows.BoundOfRows):
        assert all(v.disagreement for v in judge(wrong(refuses=False), N2, far, "float32"))
    assert all(v.disagreement for v in judge(learned_rows.Answers(), N1, far, "float32"))
    scaled = exact_rows(replace(FAR, output_scale=0.1), values, (2,), [0, 3], "float16")
    agree(PlainTable(), N1, scaled, "float16")
    for wrong in (learned_rows.ScaleForgotten, learned_rows.ScaleNarrow):
        assert all(v.disagreement for v in judge(wrong(), N1, scaled, "float16"))
    spec = Learned.patches((2, 3), 2)
    values = [(n * n % 23 - 9) / 32 for n in range(14)]
    for dtype in DTYPES:
        table = exact_table(spec, values, (3, 2), "torch_bicubic", dtype)
        agree(PlainTable(), N1, table, dtype)
        agree(PlainTable(), N2, table, dtype)
        for wrong in (resized.KeysForTorch, resized.Transposed, resized.WidthFirst, resized.Corners):
            assert all(v.disagreement for v in judge(wrong(), N2, table, dtype))
    table = exact_table(spec, values, (3, 5), "torch_bicubic", "float64")
    for wrong in (resized.InFloat32, resized.LastAxisFirst, resized.TapsDescending):
        assert all(v.disagreement for v in judge(wrong(), N1, table, "float64"))
