"""Learned tables in NumPy: rows bit for bit, and resizing by its definition, in all dtypes."""

import itertools
import math
import tracemalloc
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import Learned, SpecError
from posenc.numpy_impl import learned, lookup, resize
from posenc.spec import exact, resampling

DTYPES = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
RNG = np.random.default_rng(41)


def table(spec: Learned, dtype: str, scale: float = 1.0) -> np.ndarray:
    return (RNG.normal(size=spec.weight_shape) * scale).astype(DTYPES[dtype])


# --- lookup


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("spec", "positions"),
    [
        (Learned(9, 5), 3),
        (Learned(9, 5), range(9)),
        (Learned(9, 5), range(8, -1, -3)),
        (Learned(9, 5), []),
        (Learned(9, 5, offset=4), np.arange(8, dtype=np.uint8).reshape(2, 1, 4)),
        (Learned.fairseq(9, 5), [[0, 1, -1], [8, -1, -1]]),
        (Learned.opt(9, 5), np.array([-1, 8], ">i2")),
        (Learned.bart(9, 5), np.int64(8)),
    ],
)
def test_lookup_reads_rows_bit_for_bit(spec: Learned, positions: object, dtype: str) -> None:
    weights = table(spec, dtype)
    weights.view(f"u{weights.itemsize}")[spec.offset + 8] |= 2 ** (8 * weights.itemsize - 1) - 1  # NaN of two signs
    got = lookup(spec, weights, positions)
    p = np.asarray(positions, int)
    assert (got.shape, got.dtype) == ((*p.shape, 5), weights.dtype)
    assert got.tobytes() == weights[p + spec.offset].tobytes()
    assert not np.shares_memory(got, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [2**15, 11])
def test_scaled_rows_are_rounded_once(dtype: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "AT_A_TIME", block)
    spec = Learned(9, 5, output_scale=5**-0.5)
    weights = table(spec, dtype)
    scale = spec.output_scale if dtype == "float64" else float(np.float32(spec.output_scale))
    wide = "float64" if dtype == "float64" else "float32"
    got = lookup(spec, weights, [8, 0, 3, 3])
    for row, p in zip(got, [8, 0, 3, 3], strict=True):
        for value, weight in zip(row, weights[p], strict=True):
            product = exact.round_to(Fraction(float(weight)) * Fraction(scale), wide)
            assert float(value) == exact.round_to(Fraction(product), dtype)


def test_layouts_of_weights_do_not_matter() -> None:
    spec = Learned.patches((3, 3), 6)
    weights = table(spec, "float32")
    looked, resized = lookup(spec, weights, range(10)), resize(spec, weights, (5, 2), method="jax_cubic")
    strided = np.zeros((20, 12), np.float32)
    strided[::2, ::2] = weights
    for other in (np.asfortranarray(weights), weights.astype(">f4"), strided[::2, ::2]):
        other.setflags(write=False)
        np.testing.assert_array_equal(lookup(spec, other, range(10)), looked)
        np.testing.assert_array_equal(resize(spec, other, (5, 2), method="jax_cubic"), resized)


@pytest.mark.parametrize(
    ("spec", "positions", "message"),
    [
        (Learned(9, 5), [[0, 9], [-1, 10]], r"positions: expected integers from 0 to 8, received 9$"),
        (Learned(9, 5, offset=3), range(-1, 4), r"positions: expected integers from 0 to 8, received -1$"),
        (Learned.opt(9, 5), np.int8(-2), r"positions: expected integers from -1 to 8, received -2$"),
        (Learned(9, 5), 2**31, r"positions: expected integers of magnitude below 2\^31, received 2147483648$"),
        (Learned(9, 5), 1.0, r"positions: expected integers, received float$"),
        (Learned(9, 5), np.array([np.inf], np.float16), r"positions: expected integers, received float16, which holds"),
        (Learned(9, 5), np.array([True]), r"positions: expected integers, received bool: a mask is not a position$"),
    ],
)
def test_refused_positions(spec: Learned, positions: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^lookup\.{message}"):
        lookup(spec, table(spec, "float32"), positions)


def test_refused_in_the_agreed_order() -> None:
    spec = Learned.patches((2, 2), 3)
    for weights, message in (
        (None, "expected an array of the framework, received NoneType"),
        ([[0.0]], "expected an array of the framework, received list"),
        (spec, "expected an array of the framework, received Learned"),
        (np.zeros((3, 5), int), "expected float64, float32, bfloat16 or float16, received int64"),
    ):
        with pytest.raises(ValueError, match=rf"^lookup\.weights: {message}$"):
            lookup(spec, weights, 99.5)
        with pytest.raises(ValueError, match=rf"^resize\.weights: {message}$"):
            resize(spec, weights, (3, 3), method="jax_cubic")
        with pytest.raises(SpecError, match=r"^resize\.shape: expected 2 sizes"):
            resize(spec, weights, (9,), method="jax_cubic")
    with pytest.raises(ValueError, match=r"^lookup\.weights: expected shape \(5, 3\), received \(3, 5\)$"):
        lookup(spec, np.zeros((3, 5)), 99.5)


# --- resize

SIZES = [((4, 4), (7, 3)), ((5,), (2,)), ((1, 6), (3, 6)), ((3, 2, 4), (2, 5, 4)), ((6, 5), (1, 9))]


def by_definition(spec: Learned, channel: list[float], shape: tuple[int, ...], method: str) -> list[float]:
    """One channel, one number after another; Python's floats are float64, and it fuses nothing."""
    plan = spec.resizing(shape, method)
    sizes = list(plan.grid)
    x = dict(zip(itertools.product(*map(range, sizes)), channel, strict=True))
    for axis, taps in enumerate(plan.axes):
        if taps is None:
            continue
        sizes[axis] = shape[axis]
        y = {}
        for at in itertools.product(*map(range, sizes)):
            index, weights = taps.index[at[axis]], taps.weights[at[axis]]
            terms = [w * x[(*at[:axis], i, *at[axis + 1 :])] for i, w in zip(index, weights, strict=True) if w]
            total = terms[0]
            for term in terms[1:]:
                total += term
            y[at] = total
        x = y
    return list(x.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", resampling.METHODS)
@pytest.mark.parametrize("block", [2**15, 13])
def test_resize_follows_the_definition(method: str, dtype: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "AT_A_TIME", block)
    monkeypatch.setattr(learned, "NARROWEST", 2)
    for grid, shape in SIZES:
        spec = Learned(2 + math.prod(grid), 5, offset=1, tokens=2, grid=grid)
        weights = table(spec, dtype)
        got = resize(spec, weights, shape, method=method)
        assert (got.shape, got.dtype) == ((3 + math.prod(shape), 5), weights.dtype)
        assert got[:3].tobytes() == weights[:3].tobytes()
        for channel in (0, 4):
            wide = by_definition(spec, weights[3:, channel].astype(np.float64).tolist(), shape, method)
            expected = wide if dtype == "float64" else [exact.round_to(Fraction(v), dtype) for v in wide]
            assert got[3:, channel].astype(np.float64).tolist() == expected


@pytest.mark.parametrize("method", resampling.METHODS)
@pytest.mark.parametrize(("grid", "shape"), SIZES, ids=map(str, SIZES))
def test_resize_is_the_exact_sum(method: str, grid: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Within (2 * taps + 1) units of 2^-53 an axis of what the absolute weights make of the greatest value."""
    spec = Learned(math.prod(grid), 1, grid=grid)
    plan = spec.resizing(shape, method)
    kept = [taps is None for taps in plan.axes]
    weights = [
        [{o: Fraction(1)} for o in range(n)] if same else resampling.weights(n, m, method)
        for n, m, same in zip(grid, shape, kept, strict=True)
    ]
    w = table(spec, "float64")
    x = dict(zip(itertools.product(*map(range, grid)), map(Fraction, w[:, 0].tolist()), strict=True))
    got = resize(spec, w, shape, method=method)[:, 0]
    for at, value in zip(itertools.product(*map(range, shape)), got.tolist(), strict=True):
        taps = [axis[o] for axis, o in zip(weights, at, strict=True)]
        places = list(itertools.product(*taps))
        factors = [math.prod(axis[i] for axis, i in zip(taps, place, strict=True)) for place in places]
        total = sum(f * x[place] for f, place in zip(factors, places, strict=True))
        roundings = sum(2 * len(axis) + 1 for axis in taps)
        bound = roundings * sum(map(abs, factors)) * max(map(abs, x.values())) / 2**53
        assert abs(Fraction(value) - total) <= bound


def test_the_result_is_rounded_once() -> None:
    """A quarter of 1 + 2^-8 + 2^-40 is beside a midpoint of bfloat16, and on it in float32; likewise in float16."""
    spec = Learned.patches((2, 2), 1, tokens=0)
    for dtype, bits in (("bfloat16", 8), ("float16", 11)):
        weights = np.array([[1.0], [2.0**-bits], [2.0**-24], [0]])
        if dtype == "bfloat16":
            weights[2] = 2.0**-40
        got = resize(spec, weights.astype(DTYPES[dtype]), (3, 3), method="torch_bilinear_align_corners")
        assert float(got[4, 0]) == 0.25 + 2.0 ** (-bits - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", resampling.METHODS)
def test_what_is_not_finite_reaches_what_reads_it(method: str, dtype: str) -> None:
    spec = Learned.patches((6,), 2)
    taps = spec.resizing((9,), method).axes[0]
    read = [
        [i for i, w in zip(index, weights, strict=True) if w]
        for index, weights in zip(*(taps.index, taps.weights), strict=True)
    ]
    for place in range(6):
        weights = table(spec, dtype)
        weights[1 + place, 0], weights[1 + place, 1] = np.nan, np.inf
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            got = resize(spec, weights, (9,), method=method)[1:].astype(np.float64)
        hit = [place in some for some in read]
        assert np.isnan(got[:, 0]).tolist() == hit
        # one infinity only: what reads it is infinite, also where taps fill up a row
        assert np.isinf(got[:, 1]).tolist() == hit


@pytest.mark.parametrize("method", resampling.METHODS)
def test_an_unchanged_grid_stays_as_it_is(method: str) -> None:
    spec = Learned.patches((3, 4), 5)
    for dtype in DTYPES:
        weights = table(spec, dtype)
        got = resize(spec, weights, (3, 4), method=method)
        if all(axis is None for axis in spec.resizing((3, 4), method).axes):
            assert got.tobytes() == weights.tobytes()
        assert not np.shares_memory(got, weights)


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_beside_the_result_is_bounded(dtype: str) -> None:
    spec = Learned(4096, 512, output_scale=0.5)
    weights = np.ones(spec.weight_shape, DTYPES[dtype])
    p = RNG.integers(0, 4096, 8_000)
    taps = spec.resizing((6000,), "torch_bicubic")
    for call, most in (
        (lambda: lookup(spec, weights, p), 1.2),
        (lambda: resize(spec, weights, taps.shape, method="torch_bicubic"), 1.6),
    ):
        tracemalloc.start()
        result = call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most * result.nbytes
