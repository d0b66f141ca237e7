"""Every column and variant on the vectors, and against one another on specifications and positions drawn at random."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posenc import Sinusoidal, SpecError
from posenc.conformance.cases import INTEGERS, PHASE, families
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, Answer, Positions
from posenc.conformance.run import asked
from posenc.spec.exact import round_to
from tests.columns import MATRIX, OTHERS, REFERENCE, TRACED, every_host, numpy_dtype, parameter, subject
from tests.groups import group_of, phases_of, same_bits

FAMILIES = {vectors.family: vectors.groups for vectors in families()}
CELLS = [
    (column, family, dtype)
    for column in MATRIX
    for family in FAMILIES
    for dtype in (*INTEGERS, *DTYPES)
    if any(asked(column, group, dtype) for group in FAMILIES[family])
]


@pytest.mark.parametrize(("column", "family", "dtype"), [parameter(*cell) for cell in CELLS])
def test_the_vectors(column, family, dtype):
    groups = [group for group in FAMILIES[family] if asked(column, group, dtype)]
    found = [v.disagreement for group in groups for v in judge(subject(column), column.mode, group, dtype)]
    assert len(found) >= sum(len(group.cases) for group in groups)
    assert [str(disagreement) for disagreement in found if disagreement is not None] == []


@pytest.mark.parametrize("column", MATRIX, ids=lambda column: column.name)
def test_every_column_is_asked_for_every_family_in_every_dtype_it_has(column):
    cells = {(family, dtype) for own, family, dtype in CELLS if own is column}
    phases = {(family, PHASE) for family in ("sinusoidal", "rope")}
    rows = {(family, "rows") for family in ("t5", "relative")[column.tier == 1 :]}  # one is enough where seconds count
    encodings = {(family, dtype) for family in ("sinusoidal", "rope") for dtype in column.dtypes}
    biases = {
        (family, dtype) for family in ("alibi", "t5", "learned") for dtype in column.dtypes if dtype in column.aside
    }
    assert cells - {("relative", dtype) for dtype in column.dtypes} == phases | rows | encodings | biases


def test_the_matrix_has_every_host_and_every_variant_that_needs_no_accelerator():
    always = ["numpy", "torch", "torch:compile", "jax", "jax:jit", "tf", "tf:function", "tf:xla"]
    assert [name for name in always if name not in {column.name for column in MATRIX}] == []


# --- Specifications and positions at random ---


@st.composite
def specs(draw):
    """Few widths, so that frameworks that compile by shape do so a few times only; all else at random."""
    dim = draw(st.sampled_from([2, 7, 16]))
    positive = st.floats(1e-2, 1e2)
    try:
        return Sinusoidal(
            dim,
            layout=draw(st.sampled_from(["interleaved", "sin_cos", "cos_sin"])),
            denominator_shift=draw(st.sampled_from([0.0, 0.5, -1.0, 1.0]) if dim > 2 else st.just(0.0)),
            base=draw(st.sampled_from([10000.0, 500000.0, 100.0, 2.0]) | st.floats(0.5, 1e7)),
            min_timescale=draw(st.just(1.0) | positive),
            timescale_rule=draw(st.sampled_from(["geometric", "tensor2tensor"])),
            position_offset=draw(st.sampled_from([0, 0, 2, -70001]) | st.integers(1 - 2**31, 2**31 - 1)),
            position_scale=draw(st.sampled_from([1.0, 1.0, 1000.0]) | positive),
            output_scale=draw(st.sampled_from([1.0, 1.0, 0.125]) | positive),
            pad="zero" if dim % 2 else None,
            padding_position=draw(st.sampled_from([None, None, -1, 0, 5])),
        )
    except SpecError:
        assume(False)


SMALL = st.integers(-300, 300)
WHOLE = SMALL | st.integers(1 - 2**31, 2**31 - 1) | st.sampled_from([2**24 + 1, 2**31 - 1, 1 - 2**31, 65537])
PLACES = st.lists(WHOLE, min_size=6, max_size=6)
FLOATS = {"min_value": -(2.0**31), "max_value": 2.0**31, "exclude_min": True, "exclude_max": True, "width": 32}
MOMENTS = st.lists(st.floats(**FLOATS), min_size=6, max_size=6)
NORMAL = st.floats(**FLOATS, allow_subnormal=False)  # XLA takes subnormal numbers for zero, as devices do


@OTHERS
@settings(max_examples=25)
@given(specs(), PLACES)
def test_hosts_give_identical_bits(host, spec, places):
    for dtype in DTYPES[1:]:
        expected = REFERENCE.module.encode(spec, places, dtype=dtype)
        same_bits(host, expected, host.module.encode(spec, places, dtype=dtype), f"{spec}, {places}, {dtype}")


@every_host
@settings(max_examples=25)
@given(specs(), PLACES, st.integers(0, 5))
def test_hosts_are_correctly_rounded(host, spec, places, row):
    """A row of each answer against exact arithmetic; float64 within its own bound."""
    for dtype in DTYPES:
        for verdict in judge(_Called(host), REFERENCE_MODE, group_of(spec, places, rows=[row]), dtype):
            assert verdict.disagreement is None


@every_host
@settings(max_examples=15)
@given(specs(), MOMENTS, st.integers(0, 5), st.sampled_from(["float32", "float64"]))
def test_hosts_keep_the_bound_at_float_positions(host, spec, moments, row, position_dtype):
    group = group_of(spec, moments, position_dtype, rows=[row])
    for dtype in DTYPES[1:]:  # the truth of this group has float64 accuracy only
        for verdict in judge(_Called(host), REFERENCE_MODE, group, dtype):
            assert verdict.disagreement is None


@OTHERS
@settings(max_examples=25)
@given(specs(), PLACES, MOMENTS)
def test_hosts_give_identical_phases(host, spec, places, moments):
    for positions in (places, moments, np.array(moments, np.float32)):
        expected = np.asarray(REFERENCE.module.phase(spec, positions), np.int64)
        own = host.array(positions, "float32") if isinstance(positions, np.ndarray) else positions
        _, shape, data = host.read(host.module.phase(spec, own))
        got = np.frombuffer(data, np.uint32 if host.name == "jax" else np.int64).reshape(shape).astype(np.int64)
        if got.shape != expected.shape or (got != expected).any():
            raise Disagreement(f"{spec}, {positions}", str(got.tolist()), str(expected.tolist()))


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=4)
@given(specs(), PLACES, st.sampled_from(DTYPES[1:]))
def test_traced_variants_keep_the_bounds_and_the_phases(column, spec, places, dtype):
    group = group_of(spec, places)
    for kind, what in ((group, dtype), (phases_of(spec, places), PHASE)):
        for verdict in judge(subject(column), column.mode, kind, what):
            assert verdict.disagreement is None


@pytest.mark.parametrize("column", [parameter(column) for column in TRACED])
@settings(max_examples=2)
@given(specs(), st.lists(NORMAL, min_size=6, max_size=6))
def test_traced_variants_keep_the_bounds_at_float_positions(column, spec, moments):
    for verdict in judge(subject(column), column.mode, group_of(spec, moments, "float32"), "float32"):
        assert verdict.disagreement is None


REFERENCE_MODE = next(column.mode for column in MATRIX if column.name == REFERENCE.name)


class _Called:
    """A host column as a subject that is handed Python numbers, or an array of float32."""

    def __init__(self, host):
        self.host = host

    def encode(self, spec, positions, dtype):
        values = list(positions.values)
        own = self.host.array(values, "float32") if positions.dtype == "float32" else values
        return Answer(*self.host.read(self.host.module.encode(spec, own, dtype=dtype)))


# --- Tables: ranges, chunks, and what was asked before ---


@OTHERS
@settings(max_examples=15)
@given(
    st.sampled_from([10000.0, 500000.0, 37.5]),
    st.integers(-(2**31) + 5000, 2**31 - 5000),
    st.sampled_from([1, -1, 2, 7]),
    st.integers(500, 600),
)
def test_hosts_give_identical_tables(host, base, start, step, length):
    spec = Sinusoidal.vaswani(16, base=base)
    rows = range(start, start + step * length, step)
    for dtype in DTYPES[1:]:
        expected = REFERENCE.module.encode(spec, rows, dtype=dtype)
        same_bits(host, expected, host.module.encode(spec, rows, dtype=dtype), f"{spec}, {rows}, {dtype}")


@every_host
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_table_is_its_rows_whatever_was_asked_before(host, dtype):
    """Long, then short, then another base, another start, another dtype, and the first one again."""
    spec, other = Sinusoidal.vaswani(16), Sinusoidal.vaswani(16, base=500000.0)
    width = 16 * numpy_dtype(dtype).itemsize

    def table(spec, rows):
        return host.read(host.module.encode(spec, rows, dtype=dtype))[2]

    long = table(spec, range(2048))
    assert table(spec, range(64)) == long[: 64 * width]
    assert table(spec, list(range(64))) == long[: 64 * width]
    assert table(other, range(64)) != long[: 64 * width]
    assert table(spec, range(1000, 1064)) == long[1000 * width : 1064 * width]
    assert table(spec, range(2047, -1, -1))[: 8 * width] == table(spec, [2047 - k for k in range(8)])
    assert table(other, range(64)) == table(other, list(range(64)))
    host.module.encode(spec, range(2048), dtype="float64")
    assert table(Sinusoidal.vaswani(16), range(2048)) == long
    row = np.frombuffer(long[1999 * width : 2000 * width], numpy_dtype(dtype)).astype(float).tolist()
    assert row == [spec.value(1999, channel, dtype) for channel in range(16)]


# --- add ---

ENTRIES = st.floats(-300, 300, width=16) | st.floats(-60000, 60000, width=16) | st.sampled_from([0.0, -0.0, 257.0])


def sums(host, spec, x, positions, dtype):
    narrow = np.array(x).astype(numpy_dtype(dtype))
    entries = host.array(narrow if host.name != "torch" else narrow.astype(float), dtype)
    before = host.read(entries)
    result = host.module.add(spec, entries, positions)
    assert host.read(entries) == before  # never writes into x
    return result


@OTHERS
@settings(max_examples=20)
@given(specs(), st.data())
def test_hosts_add_to_identical_bits(host, spec, data):
    shape = (2, 3, spec.dim)
    x = np.array(data.draw(st.lists(ENTRIES, min_size=6 * spec.dim, max_size=6 * spec.dim))).reshape(shape)
    given_ = data.draw(st.sampled_from([None, (3,), (2, 1), (2, 3), (1, 3), ()]))
    positions = None
    if given_ is not None:
        count = int(np.prod(given_, dtype=int))
        positions = np.array(data.draw(st.lists(WHOLE, min_size=count, max_size=count))).reshape(given_).tolist()
    for dtype in DTYPES[1:]:
        expected = sums(REFERENCE, spec, x, positions, dtype)
        same_bits(host, expected, sums(host, spec, x, positions, dtype), f"{spec}, {positions}, {dtype}")


@every_host
@pytest.mark.parametrize("dtype", DTYPES[1:])
@settings(max_examples=15)
@given(specs(), st.lists(ENTRIES, min_size=7, max_size=7), WHOLE)
def test_a_sum_is_rounded_once(host, dtype, spec, x, position):
    x = np.resize(np.array(x).astype(numpy_dtype(dtype)).astype(float), (1, spec.dim))
    got = np.frombuffer(host.read(sums(host, spec, x, [position], dtype))[2], numpy_dtype(dtype)).astype(float)
    waves = [spec.value(position, channel, "float32") for channel in range(spec.dim)]
    expected = [round_to(Fraction(a) + Fraction(e), dtype) for a, e in zip(x[0].tolist(), waves, strict=True)]
    assert got.tolist() == expected


@every_host
def test_without_positions_the_last_axis_but_one_counts(host):
    spec = Sinusoidal.fairseq(6)
    x = np.arange(2 * 5 * 3 * 6).reshape(2, 5, 3, 6) % 11 - 5.0
    whole = host.read(sums(host, spec, x, None, "float32"))
    assert whole == host.read(sums(host, spec, x, range(3), "float32"))
    assert whole == host.read(sums(host, spec, x, [[[0, 1, 2]]], "float32"))
    assert whole != host.read(sums(host, spec, x, [[[0]], [[1]]], "float32"))


@every_host
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nans_of_x_stay(host, dtype):
    x = np.array([[np.inf, -np.inf, np.nan, 1.0]])
    got = np.frombuffer(host.read(sums(host, Sinusoidal.vaswani(4), x, [3], dtype))[2], numpy_dtype(dtype)).astype(
        float
    )
    assert got[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(got[2])
    assert np.isfinite(got[3])


# --- The comparisons of this file are shown wrong answers ---


def test_one_wrong_bit_is_seen_and_named():
    right = REFERENCE.module.encode(Sinusoidal.vaswani(4), [1, 2], dtype="float32")
    same_bits(REFERENCE, right, right.copy(), "a copy")
    wrong = right.copy()
    wrong.view(np.int32)[1, 2] ^= 1
    with pytest.raises(Disagreement, match="one bit, entry 6: expected 3ca3d43e, received 3ca3d43f"):
        same_bits(REFERENCE, right, wrong, "one bit")
    with pytest.raises(Disagreement, match=r"\('float32', \(8,\)\)"):
        same_bits(REFERENCE, right, right.reshape(8), "shape")
    with pytest.raises(Disagreement, match="float64"):
        same_bits(REFERENCE, right, right.astype(np.float64), "dtype")


def test_a_group_made_here_catches_what_the_vectors_catch():
    from tests.wrong.formula import Base
    from tests.wrong.plain import Plain

    group = group_of(Sinusoidal.vaswani(16, base=500.0), [1, 2, 300])
    phases = phases_of(group.spec, [1, 2, 300])
    assert all(v.disagreement is None for v in judge(Plain(), REFERENCE_MODE, group, "float32"))
    assert all(v.disagreement is not None for v in judge(Base(), REFERENCE_MODE, group, "float32"))
    assert all(v.disagreement is None for v in judge(Plain(), REFERENCE_MODE, phases, PHASE))
    shifted = phases_of(group.spec, [2, 3, 301])
    assert all(v.disagreement is not None for v in judge(_Shifted(), REFERENCE_MODE, shifted, PHASE))


class _Shifted:
    def phase(self, spec, positions):
        from tests.wrong.plain import Plain

        return Plain().phase(spec, Positions.of([p - 1 for p in positions.values]))
