"""Rows and biases in NumPy by every path, the exact path where only it can decide, and what is computed and held.

What is asked of all columns is in test_distance.py.
"""

import math
import tracemalloc
import warnings
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import (
    Alibi,
    DebertaBuckets,
    MusicTransformerIndex,
    ShawClip,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
)
from posenc.numpy_impl import bias, distance, pairs, rows, slopes
from posenc.spec import exact
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, DistanceSpec, Run, Slope

DTYPES = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
NARROW = ("float32", "bfloat16", "float16")
SPECS = {
    "t5": T5Bias(3, bidirectional=True),
    "t5 far": T5Bias(2, buckets=10, max_distance=2**30, bidirectional=False),
    "deberta": DebertaBuckets(16, 80, clamped=False),
    "shaw": ShawClip(7, 3),
    "shaw none": ShawClip(0),
    "xl": TransformerXLIndex(40, shortest=-9),
    "music far": MusicTransformerIndex(2**30, bidirectional=False),
    "causal": Alibi.causal(3),
    "symmetric": Alibi.symmetric(3, max_bias=2.5),
    "anchored": Alibi.anchored(3),
}
RNG = np.random.default_rng(31)
FAR = RNG.integers(-(2**31) + 1, 2**31, (2, 50))
POSITIONS = {
    "ranges": (range(90), range(-20, 140)),
    "one query": (range(300, 301), range(400)),
    "steps": (range(0, 2100, 21), range(2100, -7, -7)),
    "one place": ([[5] * 40], [5] * 60),
    "packed": ([*range(40), *range(50)], [*range(40), *range(50)]),
    "padded": (np.array([[0] * 20 + [*range(60)], [*range(80)]]), np.array([[0] * 20 + [*range(60)], [*range(80)]])),
    "cached": (np.array([[70], [9], [0]]), range(90)),
    "shuffled": (RNG.permutation(70), RNG.integers(-50, 90, (3, 80))),
    "far": (FAR, FAR[:1, ::-1]),
    "crossed": (np.arange(120).reshape(1, 2, 60), np.arange(240).reshape(2, 2, 60)),
}


@pytest.fixture(params=["blocks", "small blocks", "windows"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays take all three ways: in blocks, several blocks to an array, and by windows."""
    if request.param == "small blocks":
        monkeypatch.setattr(pairs, "BLOCK", 37)
        monkeypatch.setattr(slopes, "AT_A_TIME", 75)
    if request.param == "windows":
        monkeypatch.setattr(pairs, "FEW", 64)
        monkeypatch.setattr(pairs, "SHORT", 2)


def each(q: object, k: object) -> tuple[np.ndarray, np.ndarray]:
    """Positions of every pair, `(*B, Q, K)` each."""
    q, k = np.asarray(q)[..., :, None], np.asarray(k)[..., None, :]
    return tuple(np.broadcast_arrays(q, k))


@pytest.mark.parametrize(("q", "k"), POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.usefixtures("path")
def test_every_pair_has_the_number_of_the_plan(spec: DistanceSpec, q: object, k: object) -> None:
    plan, (each_q, each_k) = spec.plan(), each(q, k)
    distances, back = np.unique(each_k - (0 if plan.anchored else each_q), return_inverse=True)
    numbers = [plan.number([0], [int(d)]) for d in distances]
    n = np.array(numbers)[back].reshape(each_q.shape)
    if plan.rows is not None:
        got = rows(spec, q, k)
        assert (got.dtype, got.shape) == (np.int32, n.shape)
        np.testing.assert_array_equal(got, n)
    if plan.slopes:
        got = bias(spec, q, k, dtype="float64")
        assert got.shape == (*n.shape[:-2], 3, *n.shape[-2:])
        for head, slope in enumerate(plan.slopes):
            np.testing.assert_array_equal(got[..., head, :, :], slope.high * n + slope.low * n)
    elif plan.heads is not None:
        weights = RNG.normal(size=spec.weight_shape).astype(np.float32)
        np.testing.assert_array_equal(bias(spec, q, k, weights=weights), np.moveaxis(weights[n], -1, -3))


@pytest.mark.parametrize("window", [(5,), (3, 4), (2, 3, 2)])
@pytest.mark.usefixtures("path")
def test_coordinates_of_a_window(window: tuple[int, ...]) -> None:
    spec = SwinIndex(2, window)
    p = np.array(spec.positions()).reshape(-1, len(window))
    expected = [[spec.plan().number(a.tolist(), b.tolist()) for b in p] for a in p]
    q, k = (array if len(window) > 1 else array[..., 0] for array in (np.stack((p, p[::-1])), np.stack((p + 0, p))))
    got = rows(spec, q, k)
    np.testing.assert_array_equal(got, [expected, expected[::-1]])
    moved = np.array([-(2**31) + 1, 2**31 - 9]).reshape(-1, *(1,) * (q.ndim - 1))
    np.testing.assert_array_equal(rows(spec, q + moved, k + moved), got)


@pytest.mark.parametrize("block", [2**15, 7])
def test_the_first_pair_outside_a_window_is_named(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", block)
    spec = SwinIndex(1, (3, 4))
    q, k = np.zeros((2, 5, 2), int), np.zeros((2, 6, 2), int)
    q[1, 1:] = 1
    k[1, 4] = -3, 5
    k[1, 5] = 9, 0
    message = r"\.key_positions: expected distances to the query from -2 to 2 on axis 0, received -3$"
    with pytest.raises(ValueError, match="^rows" + message):
        rows(spec, q, k)
    with pytest.raises(ValueError, match="^bias" + message):
        bias(spec, q, k, weights=np.zeros(spec.weight_shape))
    k[1, 4, 0] = -2
    with pytest.raises(ValueError, match=r"from -3 to 3 on axis 1, received 5$"):
        rows(spec, q, k)
    # batch rows far from one another, and each within a window
    q, k = q[:, :1], k[:, :1] + 2
    q[1], k[1] = 50, 52
    assert (rows(spec, q, k) >= 0).all()


def test_positions_of_every_kind_have_the_same_rows() -> None:
    spec = SPECS["t5"]
    expected = rows(spec, range(30), range(40))
    for dtype in "bBhHiIlLqQ":
        np.testing.assert_array_equal(rows(spec, np.arange(30, dtype=dtype), np.arange(40, dtype=">i4")), expected)
    np.testing.assert_array_equal(rows(spec, tuple(range(30)), np.arange(80)[::2][:40] // 2), expected)
    assert rows(spec, [], [[1], [2]]).shape == (2, 0, 1)
    assert bias(spec, np.zeros((0, 3), int), range(4), weights=np.zeros(spec.weight_shape)).shape == (0, 3, 3, 4)


def test_refused_in_the_agreed_order() -> None:
    spec = SPECS["t5"]
    bad = {"weights": np.zeros((3, 32), int), "dtype": int}
    for q, k, message in (
        (np.array([np.nan], np.float32), 0, r"query_positions: expected integers, received float32$"),
        ([0], [0.5, 2**30], r"key_positions: expected integers, received float$"),
        (np.zeros((2, 3), int), [[2**31]], r"key_positions: expected integers of magnitude below 2\^31, received"),
        (0, 0, r"query_positions: expected shape \(\.\.\., length\), received \(\)$"),
        (np.zeros((2, 3), int), np.zeros((3, 3), int), r"key_positions: expected leading axes \(2,\)"),
        ([0], [0], "weights: expected float64, float32, bfloat16 or float16, received int64$"),
    ):
        with pytest.raises(ValueError, match=rf"^bias\.{message}"):
            bias(spec, q, k, **bad)
    with pytest.raises(ValueError, match=r"^bias\.dtype: "):
        bias(spec, [0], [0], weights=np.zeros((32, 3)), dtype=int)


# --- slopes times integers


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("spec", [Alibi.causal(2, max_bias=48.0), Alibi.symmetric(3, max_bias=0.3)])
def test_the_smallest_and_the_largest_slopes(spec: Alibi, dtype: str) -> None:
    """Down to what float16 rounds to zero, and on to what it rounds to infinity."""
    n = np.array([*range(300), *RNG.integers(300, 2**24, 100), 2**31 - 2, 2**31 - 1])
    q = [1 - 2**31]
    got = bias(spec, q, np.concatenate((n, n + 2**31 - 1)) + q, dtype=dtype)[:, 0].astype(np.float64)
    sign = -1 if spec.form == "symmetric" else 1
    multiples = [sign * m for m in (*n.tolist(), *(n + 2**31 - 1).tolist())]
    assert got.tolist() == [[spec.value(m, head, dtype) for m in multiples] for head in range(spec.heads)]


class Counting:
    """A specification that counts how often it is asked for an exact value, and may answer wrongly."""

    def __init__(self, spec: Alibi, answer: Callable[[float], float] = lambda value: value) -> None:
        self.spec, self.answer, self.asked = spec, answer, list[tuple[int, int]]()

    def plan(self) -> DistancePlan:
        return self.spec.plan()

    def value(self, multiple: int, head: int, dtype: str = "float32") -> float:
        self.asked.append((multiple, head))
        return self.answer(self.spec.value(multiple, head, dtype))


def crafted(dtype: str) -> list[tuple[Alibi, int]]:
    """Slopes whose second one times n lies within 2^-52 of the middle of two neighbours: 2^-max_bias = middle / n."""
    precision = exact.FORMATS[dtype].precision
    found = []
    for n in (2**precision + 1, 3 * 2**precision + 5, 7 * 2**precision + 3):
        for part in range(3, 60, 4):
            middle = (2**precision + 2 * part + 1) * 2.0 ** (-precision - 1)
            spec = Alibi.causal(2, max_bias=-math.log2(middle / n))
            if abs(spec.value(n, 1, "float64") - middle) <= middle * 2.0**-52:
                found.append((spec, n))
    return found[:6]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("products", [2**15, 64])
def test_the_exact_path_decides_beside_midpoints(dtype: str, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes, "AT_A_TIME", products)
    cases = crafted(dtype)
    assert len(cases) == 6
    for spec, n in cases:
        # what is undecided for n is for 2n
        for q, k, undecided in (
            ([0], [n, 1, 2 * n, n], {n, 2 * n}),
            (range(100), range(n - 60, n + 80), {n}),
        ):
            counting, lying = Counting(spec), Counting(spec, lambda value: 2 * value)
            got, wrong = (bias(asked, q, k, dtype=dtype).astype(np.float64) for asked in (counting, lying))
            assert {(m, 1) for m in undecided} <= set(counting.asked)
            assert len(counting.asked) == len(set(counting.asked))
            each_q, each_k = each(q, k)
            for m in undecided:
                exactly = spec.value(m, 1, dtype)
                assert set(got[1][each_k - each_q == m].tolist()) == {exactly}
                assert set(wrong[1][each_k - each_q == m].tolist()) == {2 * exactly}


def test_an_exact_product_is_rounded_once_and_asks_nobody() -> None:
    """2^-1 ... 2^-8 have no low part; 257 is a midpoint of bfloat16, and float32 loses the little above 2^24 + 2^16."""
    counting = Counting(Alibi.causal(8))
    n = [257, 259, 2**24 + 2**16 + 1, 2**30 + 2**22 + 1, 2**30 + 2**22 - 1, 2**31 - 1, 65519, 65521, 131039, 131041]
    for dtype in NARROW:
        got = bias(counting, [0], n, dtype=dtype)
        for head in range(8):
            expected = [exact.round_to(Fraction(m, 2 << head), dtype) for m in n]
            assert got[head, 0].astype(np.float64).tolist() == expected
    assert counting.asked == []


# --- weights


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_weights_are_rounded_once(source: str, target: str) -> None:
    spec = T5Bias(4, bidirectional=False)
    weights = RNG.normal(size=(32, 4)) * 2.0 ** RNG.integers(-20, 20, (32, 4))
    # beside midpoints of bfloat16 and float16, normal and subnormal, by less than float32 holds; overflow; zeros
    weights[:8, 0] = np.array([1 + 2.0**-8, 1 + 2.0**-11, 5 * 2.0**-134, 5 * 2.0**-25, 65520, 2.0**128, -0.0, 1]) * (
        1 + 2.0**-40
    )
    weights[8:11, 0] = np.inf, -np.inf, 2.0**-150
    weights[11:13, 0] = np.array([0x7FF0000000000001, -1], np.int64).view(np.float64)
    with np.errstate(all="ignore"):
        weights = weights.astype(DTYPES[source])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = bias(spec, range(500), range(500), weights=weights, dtype=target)
    read = rows(spec, range(500), range(500))
    assert got.dtype == DTYPES[target]
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        wide, values = weights.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(wide)
    expected = wide.copy()
    expected[finite] = [exact.round_to(Fraction(v), target) for v in wide[finite].tolist()]
    expected = np.moveaxis(expected[read], -1, 0)
    np.testing.assert_array_equal(values, expected)
    if source == target:
        assert got.tobytes() == np.moveaxis(weights[read], -1, 0).tobytes()


def test_layouts_of_weights_do_not_matter() -> None:
    spec = T5Bias(4, bidirectional=True)
    weights = RNG.normal(size=(32, 4)).astype(np.float32)
    expected = bias(spec, range(80), range(90), weights=weights)
    strided = np.zeros((64, 8), np.float32)
    strided[::2, ::2] = weights
    for other in (np.asfortranarray(weights), weights.astype(">f4"), strided[::2, ::2]):
        other.setflags(write=False)
        np.testing.assert_array_equal(bias(spec, range(80), range(90), weights=other), expected)


class Windowed:
    """Three rows for the distances 0 to 2, and none for others."""

    def plan(self) -> DistancePlan:
        runs = (Run(LEAST_DISTANCE, None), Run(0, 0, 1), Run(3, None))
        return DistancePlan(axes=(runs,), rows=3, heads=2)


@pytest.mark.parametrize("length", [4, 400])
def test_a_pair_without_a_row_has_a_bias_of_nan(length: int) -> None:
    got = bias(Windowed(), range(length), range(length), weights=np.arange(6.0).reshape(3, 2))
    expected = np.full((2, length, length), np.nan)
    for row in range(3):
        i = np.arange(length - row)
        expected[:, i, i + row] = [[2 * row], [2 * row + 1]]
    np.testing.assert_array_equal(got, expected)


class Everywhere:
    """The same row for every distance."""

    def plan(self) -> DistancePlan:
        return DistancePlan(axes=((Run(LEAST_DISTANCE, 2),),), rows=3, heads=None)


def test_an_axis_of_one_run() -> None:
    np.testing.assert_array_equal(rows(Everywhere(), [0, 9], range(-3, 3)), np.full((2, 6), 2))


# --- what is computed, and what is held


def test_progressions_cost_one_value_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    multiples = distance.multiples

    def counted(spec: object, parts: tuple[Slope, ...], name: str) -> pairs.Write:
        write = multiples(spec, parts, name)
        return lambda n, out: (computed.append(n.size), write(n, out))[1]

    monkeypatch.setattr(distance, "multiples", counted)
    monkeypatch.setattr(pairs, "_pick", None)  # not called: everything is a window
    packed = np.concatenate([np.arange(300), np.arange(500)])
    for q, k, most in (
        (range(600), range(100, 800), 1300),
        (np.arange(600) * 10**6, range(0, 700 * 10**6, 10**6), 1300),
        (packed, packed[None], 1000),
    ):
        computed.clear()
        bias(Alibi.causal(2), q, k)
        assert sum(computed) <= most
    assert pairs._progressions(packed, 9) == [(0, 300, 1), (300, 800, 1)]
    computed.clear()
    bias(Alibi.anchored(2), RNG.permutation(900), RNG.permutation(900))
    assert sum(computed) == 900


def test_few_keys_take_all_heads_at_once_and_exact_heads_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rounded = slopes._rounded

    def counted(real: np.ndarray, below: np.ndarray, above: np.ndarray | None, name: str, out: np.ndarray) -> object:
        calls.append((below.size, real.size, above is None))
        return rounded(real, below, above, name, out)

    monkeypatch.setattr(slopes, "_rounded", counted)
    bias(Alibi.causal(32), [1000], range(1001))
    assert calls == [(32, 1001, False)]
    calls.clear()
    bias(Alibi.causal(12), [0], range(2**15))
    assert calls == [(1, 2**15, head < 8) for head in range(12)]


FAR_APART = np.random.default_rng(32).integers(-(2**31) + 1, 2**31, 1500)


@pytest.mark.parametrize(
    ("spec", "q", "k", "dtype"),
    [
        (Alibi.causal(32), [2**19 - 1], range(2**19), "float32"),
        (Alibi.causal(32), [2**18 - 1], range(2**18), "float16"),
        (Alibi.causal(16), range(700), range(700), "float32"),
        (Alibi.causal(16), FAR_APART[:900], FAR_APART, "float32"),
        (Alibi.causal(16), FAR_APART[:900] >> 14, FAR_APART >> 14, "float32"),
        (Alibi.anchored(16), range(3), range(2**17), "float32"),
        (T5Bias(16, bidirectional=True), FAR_APART[:900], FAR_APART, "float32"),
        (T5Bias(16, bidirectional=True), range(900), range(900), "float32"),
        (T5Bias(16, bidirectional=True), range(2000), range(2000), None),
        (T5Bias(16, bidirectional=True), FAR_APART, FAR_APART, None),
        (SwinIndex(16, (40, 40)), np.array(SwinIndex(1, (40, 40)).positions()), None, None),
    ],
)
def test_memory_beside_the_result_is_bounded(spec: DistanceSpec, q: object, k: object, dtype: str | None) -> None:
    k = q if k is None else k
    rows_or_bias = (lambda: rows(spec, q, k)) if dtype is None else (lambda: bias(spec, q, k, weights=weights))
    weights = None if isinstance(spec, Alibi) else np.zeros(spec.weight_shape, np.float32)
    spec.plan()
    tracemalloc.start()
    result = rows_or_bias()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * result.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_error_state(dtype: str) -> None:
    spec, q, k = Alibi.causal(3, max_bias=30.0), range(50), [*range(40), 2**31 - 1, -(2**31) + 1]
    quiet = bias(spec, q, k, dtype=dtype)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        loud = bias(spec, q, k, dtype=dtype)
    assert loud.tobytes() == quiet.tobytes()
    assert np.isinf(quiet).any() == (dtype == "float16")
