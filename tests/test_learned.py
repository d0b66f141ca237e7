"""Learned tables: the specification, and what holds of lookup and resize in every host column."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from posenc import Alibi, Learned, Sinusoidal, SpecError, from_json, to_json
from posenc.positions import cached, padded
from posenc.spec import exact, resampling
from posenc.spec.row_plan import RowPlan, row_plan
from tests.columns import OTHERS, REFERENCE, Host, every_host, numpy_dtype

PLAIN = Learned(6, 4)
VIT = Learned.patches((3, 5), 4)
SPECS = {
    "plain": PLAIN,
    "fairseq": Learned.fairseq(6, 4),
    "fairseq, padding_idx 3": Learned.fairseq(6, 4, padding_idx=3),
    "opt": Learned.opt(6, 4),
    "bart": Learned.bart(6, 4),
    "vit": VIT,
    "registers": Learned.patches((2, 3), 4, tokens=5),
    "scaled": Learned(6, 4, output_scale=4**-0.5),
    "scaled by what float32 rounds": Learned(6, 4, offset=2, output_scale=0.1),
}
every_table = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
DTYPES = ("float64", "float32", "bfloat16", "float16")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_method = pytest.mark.parametrize("method", resampling.METHODS)
GRIDS = [((3, 5), (7, 4)), ((3, 5), (3, 5)), ((3, 5), (2, 11)), ((4, 1), (2, 3)), ((8, 8), (5, 3))]


def made(spec: Learned, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(spec.weight_shape).astype(numpy_dtype(dtype))


def given(host: Host, weights: np.ndarray) -> Any:
    return host.array(weights.astype(np.float64), weights.dtype.name)


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Dtype, shape and bits."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == np.ascontiguousarray(expected).tobytes()


# --- The specification ---


def test_rows_of_the_conventions():
    """First row in use, number of rows and positions, as the published models have them."""
    for spec, first, rows in (
        (Learned(512, 768), 0, 512),
        (Learned.roberta(512, 768), 2, 514),
        (Learned.fairseq(1024, 8, padding_idx=0), 1, 1025),
        (Learned.opt(2048, 768), 2, 2050),
        (Learned.bart(1024, 8), 2, 1026),
        (Learned.patches((14, 14), 768), 0, 197),
        (Learned.patches((16, 16), 768, tokens=5), 0, 261),
    ):
        plan = spec.plan()
        assert (plan.offset, plan.rows, spec.weight_shape) == (first, rows, (rows, spec.dim))
        assert plan.high == spec.length - 1 == rows - first - 1
    assert Learned.roberta(512, 768).plan() == RowPlan(514, 768, 2, -1, 511, -1, 1.0)
    assert Learned.opt(512, 768).plan() == RowPlan(514, 768, 2, -1, 511, None, 1.0)
    assert Learned.bart(512, 768).plan() == RowPlan(514, 768, 2, 0, 511, None, 1.0)


def test_a_resized_specification():
    assert Learned.patches((14, 14), 8).resized((24, 16)) == Learned.patches((24, 16), 8)
    assert Learned.opt(10, 8).resized((25,)) == Learned.opt(25, 8)


@every_table
def test_json_there_and_back(spec):
    assert from_json(to_json(spec)) == spec
    assert hash(from_json(to_json(spec))) == hash(spec)
    assert isinstance(json.loads(to_json(spec))["grid"], list | None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Learned(0, 8), "Learned.length: expected an integer >= 1, received 0"),
        (lambda: Learned(8, 0), "Learned.dim: expected an integer >= 1, received 0"),
        (lambda: Learned(8.0, 8), "Learned.length: expected an integer >= 1, received 8.0"),
        (lambda: Learned(8, 8, offset=-1), "Learned.offset: expected an integer >= 0, received -1"),
        (
            lambda: Learned(8, 8, padding="row"),
            "Learned.offset: expected an integer >= 1 where padding has a row, received 0",
        ),
        (
            lambda: Learned(8, 8, padding="zero"),
            "Learned.padding: expected 'row', 'frozen' or None, received 'zero'",
        ),
        (lambda: Learned(8, 8, tokens=8), "Learned.tokens: expected an integer below the length 8, received 8"),
        (
            lambda: Learned(197, 8, grid=(14, 14)),
            "Learned.grid: expected sizes whose product is 197, the length less the tokens, received (14, 14)",
        ),
        (lambda: Learned.patches((), 8), "Learned.patches.grid: expected a sequence of integers >= 1, received ()"),
        (lambda: Learned.patches(14, 8), "Learned.patches.grid: expected a sequence of integers >= 1, received 14"),
        (lambda: VIT.resized((4,)), "Learned.resized.shape: expected 2 sizes, as the grid (3, 5) has, received (4,)"),
        (lambda: VIT.resized((4, 0)), "Learned.resized.shape[1]: expected an integer >= 1, received 0"),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(SpecError) as caught:
        build()
    assert str(caught.value) == message


@pytest.mark.parametrize("wrong", [Sinusoidal.vaswani(8), Alibi.causal(8), None, Learned, 512])
def test_a_table_of_what_has_none(wrong):
    with pytest.raises(SpecError, match=r"lookup\.spec: expected a specification of a learned table such as Learned"):
        row_plan("lookup", wrong)


# --- Lookup ---


def looked_up(spec: Learned, weights: np.ndarray, positions: Any) -> np.ndarray:
    """The definition: one product, in float32 unless the weights are float64, one rounding."""
    rows = weights[np.asarray(positions) + spec.offset]
    if spec.output_scale == 1:
        return rows
    wide = np.float64 if weights.dtype == np.float64 else np.float32
    return (rows.astype(wide) * wide(spec.output_scale)).astype(weights.dtype)


@every_host
@every_table
@every_dtype
def test_a_position_reads_its_row(host, spec, dtype):
    weights = made(spec, dtype)
    first = spec.plan().low
    for positions in (
        range(first, spec.length),
        [spec.length - 1, first, first],
        3,
        np.array([[0, 1], [5, 2]]),
        host.array([[0, 1], [5, first]], "int32"),
        [],
        range(0),
    ):
        got = host.numpy(host.module.lookup(spec, given(host, weights), positions))
        listed = list(positions) if isinstance(positions, range) else np.asarray(positions)
        expected = looked_up(spec, weights, np.asarray(listed, np.int64))
        same(got, expected.reshape(*np.shape(listed), spec.dim))


@every_host
def test_padded_and_cached_batches(host):
    spec = Learned.roberta(9, 4)
    weights = made(spec, "float32")
    tokens = padded([5, 9, 1], side="right")
    same(host.numpy(host.module.lookup(spec, given(host, weights), tokens)), weights[np.array(tokens) + 2])
    steps = cached([4, 8, 0], 1)
    same(host.numpy(host.module.lookup(spec, given(host, weights), steps)), weights[np.array(steps) + 2])
    # transformers counts from row padding_idx + 1 = 2 and gives padding row 1
    ids = np.array([[1, 1, 5, 3, 6, 7], [5, 3, 1, 1, 1, 1]])
    mask = ids != 1
    counted = np.cumsum(mask, 1) * mask
    same(host.numpy(host.module.lookup(spec, given(host, weights), counted - 1)), weights[counted + 1])


@every_host
@every_table
def test_outside_the_table_is_an_error(host, spec):
    weights = given(host, made(spec, "float32"))
    low, high = spec.plan().low, spec.length - 1
    for positions, received in (
        ([0, low - 1], low - 1),
        ([0, high + 1, -99], high + 1),
        (range(high + 2), high + 1),
        (2**31 - 1, 2**31 - 1),
        (host.array([[high], [high + 7]], "int32"), high + 7),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
            host.module.lookup(spec, weights, positions)
        assert str(caught.value) == f"lookup.positions: expected integers from {low} to {high}, received {received}"


@every_host
@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ([0.5], "expected integers, received float"),
        (np.array([1.0], np.float32), "expected integers, received float32"),
        ([True], "expected integers, received bool: a mask is not a position"),
        ([2**31], "expected integers of magnitude below 2^31, received 2147483648"),
        ([[0], [0, 1]], "expected rows of one length, received [[0], [0, 1]]"),
    ],
)
def test_positions_that_cannot_be(host, positions, sentence):
    with pytest.raises(ValueError, match=r"^lookup\.positions: ") as caught:
        host.module.lookup(PLAIN, given(host, made(PLAIN, "float32")), positions)
    said = str(caught.value)
    assert said == f"lookup.positions: {sentence}"


@every_host
@pytest.mark.parametrize("name", ["lookup", "resize"])
def test_weights_that_cannot_be(host, name):
    arguments = {"lookup": ([0],), "resize": ((2, 2),)}[name]
    options = {"lookup": {}, "resize": {"method": "jax_linear"}}[name]

    def said(weights: Any) -> str:
        with pytest.raises(ValueError, match=rf"^{name}\.weights: ") as caught:
            getattr(host.module, name)(VIT, weights, *arguments, **options)
        return str(caught.value)

    wide = np.ones((16, 4))
    assert said(host.array(wide[:15], "float32")) == f"{name}.weights: expected shape (16, 4), received (15, 4)"
    assert said(host.array(wide[None], "float32")) == f"{name}.weights: expected shape (16, 4), received (1, 16, 4)"
    sentence = "expected float64, float32, bfloat16 or float16, received"
    assert said(host.array(wide, "int32")) == f"{name}.weights: {sentence} int32"
    assert said(None) == f"{name}.weights: expected an array of the framework, received NoneType"
    assert said([[1.0] * 4] * 16) == f"{name}.weights: expected an array of the framework, received list"


# --- Resize ---


def resized(spec: Learned, weights: np.ndarray, shape: tuple[int, ...], method: str) -> np.ndarray:
    """The definition, tap by tap, in float64; the exact weights are those of the specification."""
    kept = spec.offset + spec.tokens
    grid = spec.grid or (spec.length - spec.tokens,)
    x = weights[kept:].astype(np.float64).reshape(*grid, spec.dim)
    if resampling.METHODS[method].enlarged and grid == shape:
        return weights
    for axis, (n, m) in enumerate(zip(grid, shape, strict=True)):
        outputs = []
        for row in resampling.weights(n, m, method):
            total: Any = None
            for tap in sorted(row):
                term = np.take(x, tap, axis=axis) * float(row[tap])
                total = term if total is None else total + term
            outputs.append(total)
        x = np.stack(outputs, axis)
    # NumPy would round to float32 first
    rounded = [exact.round_to(Fraction(value), weights.dtype.name) for value in x.flat]
    return np.concatenate((weights[:kept], np.reshape(rounded, (-1, spec.dim)).astype(weights.dtype)))


@every_host
@every_method
def test_resized_tables(host, method):
    for grid, shape in GRIDS:
        spec = Learned.patches(grid, 2, tokens=1)
        for dtype in ("float64", "float32", "bfloat16"):
            weights = made(spec, dtype)
            got = host.numpy(host.module.resize(spec, given(host, weights), shape, method=method))
            expected = resized(spec, weights, shape, method)
            assert got.shape == spec.resized(shape).weight_shape
            assert got.dtype == weights.dtype
            np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


@OTHERS
@every_method
@every_dtype
def test_resized_tables_have_the_same_bits(host, method, dtype):
    spec = Learned.patches((6, 5), 3, tokens=2)
    weights = made(spec, dtype)
    for shape in ((9, 4), (6, 5), (2, 13), (1, 1)):
        expected = REFERENCE.module.resize(spec, given(REFERENCE, weights), shape, method=method)
        got = host.module.resize(spec, given(host, weights), shape, method=method)
        assert host.read(got) == REFERENCE.read(expected)


@every_host
@every_dtype
def test_tokens_are_copied_and_an_unchanged_grid_is(host, dtype):
    weights = made(VIT, dtype)
    weights[0] = [np.inf, -np.inf, -0.0, 3e-5]
    for method in resampling.METHODS:
        got = host.numpy(host.module.resize(VIT, given(host, weights), (4, 7), method=method))
        assert got[0].tobytes() == weights[0].tobytes()
    for method in ("torch_bicubic", "torch_bilinear_align_corners", "jax_cubic", "tf_bicubic", "dino_bicubic"):
        same(host.numpy(host.module.resize(VIT, given(host, weights), (3, 5), method=method)), weights)


@every_host
def test_tables_of_one_axis(host):
    spec = Learned.opt(7, 3)
    weights = made(spec, "float32")
    for method, shape in product(("torch_bilinear", "jax_cubic", "torch_bicubic_align_corners"), ((13,), (4,))):
        got = host.numpy(host.module.resize(spec, given(host, weights), shape, method=method))
        np.testing.assert_array_equal(got, resized(spec, weights, shape, method))


@every_host
def test_what_is_not_finite_stays_where_it_is_read(host):
    spec = Learned.patches((8, 8), 1, tokens=0)
    weights = made(spec, "float32")
    weights[9] = np.nan
    got = host.numpy(host.module.resize(spec, given(host, weights), (5, 12), method="torch_bicubic"))
    reads = [[1 in row for row in resampling.weights(8, m, "torch_bicubic")] for m in (5, 12)]
    np.testing.assert_array_equal(np.isnan(got).reshape(5, 12), np.outer(*reads))


@every_host
def test_taps_that_only_fill_up_are_not_read(host):
    """At an edge the last tap is repeated with weight 0: times infinity it would be no number, and -0 would be lost."""
    spec = Learned(3, 1)
    for last, method in ((np.inf, "tf_bilinear"), (-np.inf, "jax_linear"), (-0.0, "torch_bilinear")):
        weights = np.array([[1.0], [2.0], [last]], np.float32)
        got = host.numpy(host.module.resize(spec, given(host, weights), (5,), method=method))
        assert got[-1].tobytes() == weights[-1].tobytes()


@every_host
def test_shapes_and_methods_that_cannot_be(host):
    weights = given(host, made(VIT, "float32"))

    def said(shape: Any, method: Any) -> str:
        with pytest.raises(SpecError) as caught:
            host.module.resize(VIT, weights, shape, method=method)
        return str(caught.value)

    assert said((4,), "jax_cubic") == "resize.shape: expected 2 sizes, as the grid (3, 5) has, received (4,)"
    assert said(4, "jax_cubic") == "resize.shape: expected a sequence of integers >= 1, received 4"
    assert said((4, -1), "jax_cubic") == "resize.shape[1]: expected an integer >= 1, received -1"
    assert said((4, 4), "bicubic").startswith("resize.method: expected 'torch_bilinear', ")
    assert said((4, 4), "bicubic").endswith(" or 'dino_bicubic', received 'bicubic'")
    with pytest.raises(SpecError, match=r"resize\.spec: expected a specification of a learned table"):
        host.module.resize(Alibi.causal(8), weights, (4, 4), method="jax_cubic")


@every_method
def test_exact_weights_sum_to_one(method):
    for n, m in ((14, 24), (14, 9), (5, 20), (37, 16), (1, 4), (4, 1), (7, 7)):
        for row in resampling.weights(n, m, method):
            assert sum(row.values()) == Fraction(1)
            assert set(row) <= set(range(n))
