"""The NumPy column: inputs, refusals, phases, shapes, addition and memory. Roundings are in test_numpy_rounding.py."""

import math
import subprocess
import sys
import tracemalloc
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import Sinusoidal, SpecError
from posenc.numpy_impl import add, encode, phase
from posenc.spec import exact

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = {"bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}
SHIFTED = Sinusoidal(9, layout="sin_cos", denominator_shift=1.0, position_offset=-(2**31) + 1, pad="zero")
EDGES = [0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31) + 1]


def words(phase_in_units: int) -> list[int]:
    return [phase_in_units >> shift & 0xFFFFFFFF for shift in (96, 64, 32)]


@pytest.mark.parametrize("spec", [Sinusoidal.vaswani(8), SHIFTED, Sinusoidal.fairseq(8)])
def test_phases_are_the_integers_of_the_plan(spec: Sinusoidal) -> None:
    plan = spec.plan()
    positions = EDGES + np.random.default_rng(1).integers(-(2**31) + 1, 2**31, 200).tolist()
    got = phase(spec, positions)
    assert got.dtype == np.int64
    assert got.tolist() == [[words((p + plan.offset) * w) for w in plan.increments] for p in positions]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phases_of_float_positions_follow_the_three_level_rule(dtype: type) -> None:
    rng = np.random.default_rng(2)
    positions = np.concatenate([rng.normal(0, 10.0**k, 40) for k in range(-12, 9)] + [[0.5, -0.5, 2.0**-62, -0.0]])
    positions = positions.astype(dtype)
    plan = SHIFTED.plan()
    expected = []
    for p in positions.tolist():
        sign, rest = (-1 if p < 0 else 1), abs(Fraction(p))
        parts = []
        for _ in range(3):
            parts.append(sign * math.floor(rest))
            rest = (rest - math.floor(rest)) * 2**31
        units = [sum(part * (w >> 31 * level) for level, part in enumerate(parts)) for w in plan.increments]
        expected.append([words(plan.offset * w + u) for w, u in zip(plan.increments, units, strict=True)])
    assert phase(SHIFTED, positions).tolist() == expected


def test_positions_of_every_kind_give_the_same_bits() -> None:
    spec = Sinusoidal.vaswani(16)
    expected = encode(spec, range(100))
    for dtype in "bBhHiIlLqQ":
        np.testing.assert_array_equal(encode(spec, np.arange(100, dtype=dtype)), expected)
    np.testing.assert_array_equal(encode(spec, np.arange(100, dtype=">i4")), expected)
    np.testing.assert_array_equal(encode(spec, list(range(100))), expected)
    np.testing.assert_array_equal(encode(spec, range(99, -1, -1)), expected[::-1])
    np.testing.assert_array_equal(encode(spec, np.arange(200)[::2].reshape(2, 50)).reshape(100, 16)[:50], expected[::2])
    for p in (7, np.int16(7), np.array(7), np.uint64(7)):
        np.testing.assert_array_equal(encode(spec, p), expected[7])
    # integral floats have no fraction, and the phases of integers
    np.testing.assert_array_equal(encode(spec, np.arange(100, dtype=np.float32)), expected)


@pytest.mark.parametrize(
    ("positions", "shape"),
    [(3, ()), ([], (0,)), ([[1, 2, 3]], (1, 3)), (range(5, 5), (0,)), (np.zeros((2, 0, 3), np.int32), (2, 0, 3))],
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_shapes_and_dtypes(positions: object, shape: tuple[int, ...], dtype: str) -> None:
    spec = Sinusoidal.tensor2tensor(5)
    result = encode(spec, positions, dtype=dtype)
    assert (result.shape, result.dtype.name) == ((*shape, 5), dtype)
    assert phase(spec, positions).shape == (*shape, 2, 3)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros(2, np.float16), "integers, float32 or float64, received float16, which holds integers exactly only"),
        (np.zeros(2, BFLOAT16), "integers, float32 or float64, received bfloat16, which holds integers exactly only"),
        (np.zeros(2, bool), "integers, float32 or float64, received bool: a mask is not a position"),
        (np.zeros(2, complex), "integers, float32 or float64, received complex128"),
        (True, "integers, float32 or float64, received bool: a mask is not a position"),
        ("12", "integers, float32 or float64, received str"),
        (None, "integers, float32 or float64, received NoneType"),
        ([[1], [2, 3]], r"rows of one length, received \[\[1\], \[2, 3\]\]"),
        (2**31, "finite numbers of magnitude below 2\\^31, received 2147483648"),
        (range(-(2**31), 0), "finite numbers of magnitude below 2\\^31, received -2147483648"),
        (np.array([[1, 2], [2**40, -(2**50)]]), "finite numbers of magnitude below 2\\^31, received 1099511627776"),
        (np.array([2**63 + 5], np.uint64), "finite numbers of magnitude below 2\\^31, received 9223372036854775813"),
        (np.array([1.5, -np.inf, np.nan]), "finite numbers of magnitude below 2\\^31, received -inf"),
        (np.array([5, -(2**31)], np.int32), "finite numbers of magnitude below 2\\^31, received -2147483648"),
        (np.array([np.nan], np.float32), "finite numbers of magnitude below 2\\^31, received nan"),
    ],
)
def test_refused_positions(positions: object, message: str) -> None:
    spec = Sinusoidal.vaswani(4)
    for name, call in (("phase", phase), ("encode", encode)):
        with pytest.raises(ValueError, match=f"^{name}.positions: expected {message}"):
            call(spec, positions)
    if positions is None:  # which means something to `add`
        return
    with pytest.raises(ValueError, match=f"^add.positions: expected {message}"):
        add(spec, np.zeros((2, 4)), positions)


@pytest.mark.parametrize("dtype", [np.int32, None, "float8", "longdouble", float.fromhex])
def test_refused_output_dtypes(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"^encode.dtype: expected float64, float32, bfloat16 or float16, received \S"):
        encode(Sinusoidal.vaswani(4), 0, dtype=dtype)


def test_accepted_output_dtypes() -> None:
    for dtype, name in (
        (np.float64, "float64"),
        (np.dtype(">f4"), "float32"),
        (BFLOAT16, "bfloat16"),
        (np.half, "float16"),
    ):
        assert encode(Sinusoidal.vaswani(4), 0, dtype=dtype).dtype.name == name


def test_add_refuses_in_the_agreed_order() -> None:
    spec = Sinusoidal.vaswani(4)
    bad = np.ones(3, bool)
    for call in (lambda: phase(4, bad), lambda: encode(4, bad, dtype=int), lambda: add(4, np.zeros(4, int), bad)):
        with pytest.raises(SpecError, match=r"^(phase|encode|add)\.spec: expected a specification such as Sinusoidal"):
            call()
    with pytest.raises(ValueError, match=r"^add\.x: expected float64, float32, bfloat16 or float16, received int64"):
        add(spec, np.zeros((3, 5), np.int64), bad)
    with pytest.raises(ValueError, match=r"^add\.x: expected float64, .*, received list"):
        add(spec, [[0.0] * 4], bad)
    for shape in ((3, 5), ()):
        with pytest.raises(ValueError, match=r"^add\.x: expected shape \(\.\.\., 4\), received "):
            add(spec, np.zeros(shape), bad)
    with pytest.raises(ValueError, match=r"^add\.x: expected shape \(\.\.\., length, 4\) where no positions are given"):
        add(spec, np.zeros(4))
    with pytest.raises(ValueError, match=r"^add\.positions: .* a mask"):
        add(spec, np.zeros((2, 4)), bad)
    for shape in ((3, 2), (1, 3, 2), (2, 3, 1, 1)):
        with pytest.raises(
            ValueError, match=r"^add\.positions: expected a shape that broadcasts to \(2, 3\), received"
        ):
            add(spec, np.zeros((2, 3, 4)), np.zeros(shape, int))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("lead", "positions"),
    [
        ((), 7),
        ((3,), None),
        ((2, 5), None),
        ((70, 2), None),
        ((2, 5), np.arange(10).reshape(2, 5) * 1000 - 3000),
        ((2, 5), np.array([[-1], [1 << 20]])),
        ((2, 5), range(5, 0, -1)),
        ((1, 1), range(4, 5)),
        ((2, 5), 0.25),
        ((0, 5), None),
        ((5, 0), [[0]]),
    ],
)
@pytest.mark.parametrize("block", [None, 48])
def test_add_rounds_the_exact_sum_once(
    dtype: str, lead: tuple[int, ...], positions: object, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block:
        module = sys.modules["posenc.numpy_impl.phase"]
        monkeypatch.setattr(module, "ENCODED", block)
        monkeypatch.setattr(module, "ADDED", block // 2)
    spec = Sinusoidal.fairseq(8)
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(*lead, 8)) * 2.0 ** rng.integers(-30, 10, (*lead, 8))).astype(HALVES.get(dtype, dtype))
    before = x.copy()
    result = add(spec, x, positions)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(x, before)
    wide = "float64" if dtype == "float64" else "float32"
    encoding = encode(spec, range(lead[-1]) if positions is None else positions, dtype=wide)
    encoding = np.broadcast_to(encoding, x.shape)
    triples = zip(x.reshape(-1), encoding.reshape(-1), result.reshape(-1), strict=True)
    for a, e, got in triples:
        assert float(got) == exact.round_to(Fraction(float(a)) + Fraction(float(e)), dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_add_decides_float32_sums_that_rest_on_a_midpoint(dtype: str) -> None:
    """Sums within 2^-40 of a midpoint of the narrow format: two plain roundings get half of them wrong."""
    spec = Sinusoidal(2, layout="interleaved", denominator_shift=0.0)
    encoding = encode(spec, range(1, 4000))
    e = encoding.astype(np.float64)
    x = np.empty_like(encoding, dtype=HALVES[dtype])
    # |x| = 1024 |e| or more: the encoding falls below the last place of x, and its last bits below that of the float32
    last = {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    power = 2.0 ** np.ceil(np.log2(np.abs(e) / last * 2))
    x[...] = power * np.random.default_rng(4).choice([-1.0, 1.0, 1.5], e.shape)
    got = add(spec, x, range(1, 4000))
    exact_sums = [
        exact.round_to(Fraction(float(a)) + Fraction(float(b)), dtype)
        for a, b in zip(x.reshape(-1), encoding.reshape(-1), strict=True)
    ]
    np.testing.assert_array_equal(got.reshape(-1).astype(np.float64), exact_sums)


def test_add_decides_midpoints_between_float16_subnormals() -> None:
    """2^-15 + 2^-25 and a little more: in float32 the little is lost, and the tie would go to the even 2^-15."""
    little = Sinusoidal(4, layout="interleaved", denominator_shift=0.0, base=(2.0**25 * (1 - 2.0**-20)) ** 2)
    more, less = encode(little, [1, -1])[:, 2]
    assert 2.0**-25 < more == -less < 2.0**-25 * (1 + 2.0**-19)
    x = np.array([[0, 0, 2.0**-15, 0], [0, 0, 2.0**-15 + 2.0**-24, 0]], np.float16)
    assert add(little, x, [1, -1])[:, 2].tolist() == [2.0**-15 + 2.0**-24, 2.0**-15]


def test_add_passes_infinities_and_nan_on_in_silence() -> None:
    spec = Sinusoidal.vaswani(4)
    for dtype in (np.float32, np.float16, BFLOAT16):
        x = np.array([[np.inf, -np.inf, np.nan, 1.0]], dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = add(spec, x).astype(np.float64)
        np.testing.assert_array_equal(result, [[np.inf, -np.inf, np.nan, 2.0]])


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_results_do_not_depend_on_the_error_state(scale: float) -> None:
    spec = Sinusoidal(8, layout="interleaved", denominator_shift=0.0, base=1e18, output_scale=scale)
    for positions in (range(2000), [3, -4], [0.5]):
        for dtype in ("float64", "float32", "bfloat16", "float16"):
            quiet = encode(spec, positions, dtype=dtype)
            with np.errstate(all="raise"):
                loud = encode(spec, positions, dtype=dtype)
                add(spec, np.zeros((len(positions), 8), HALVES.get(dtype, dtype)), positions)
            np.testing.assert_array_equal(loud.view("u1"), quiet.view("u1"))


@pytest.mark.parametrize("positions", [range(30_000), np.random.default_rng(5).integers(0, 30_000, 30_000)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_memory_beside_the_result_is_bounded(positions: object, dtype: str) -> None:
    spec = Sinusoidal.vaswani(1024)
    spec.plan()
    encode(spec, 0, dtype=dtype)
    tracemalloc.start()
    result = encode(spec, positions, dtype=dtype)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * result.nbytes


def test_memory_is_bounded_where_every_value_is_in_doubt() -> None:
    # float16 subnormals all are; 16 bytes to remember each of them would be eight times the result
    spec = Sinusoidal(1024, layout="sin_cos", denominator_shift=0.0, output_scale=2.0**-16)
    tracemalloc.start()
    result = encode(spec, range(4000), dtype="float16")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * result.nbytes


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(40_000, 512), (5, 8_000, 512), (40_000, 1, 512)])
def test_add_makes_at_most_one_extra_copy(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, HALVES.get(dtype, dtype))
    positions = np.arange(shape[0])[:, None] if shape[1] == 1 else None
    tracemalloc.start()
    add(Sinusoidal.vaswani(512), x, positions)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * x.nbytes


def test_a_missing_ml_dtypes_is_one_sentence() -> None:
    code = "import sys; sys.modules['ml_dtypes'] = None; import posenc.numpy_impl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ModuleNotFoundError: posenc.numpy_impl needs ml_dtypes: pip install 'posenc[numpy]'"
