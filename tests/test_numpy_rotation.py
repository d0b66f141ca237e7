"""Rotations in NumPy against their definition, exactly; tables are in test_numpy_table.py."""

import math
import tracemalloc
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import Rope, Sinusoidal, SpecError, Yarn
from posenc.numpy_impl import Table, add, encode, rotate, rotation, table
from posenc.spec import exact

DTYPES = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LAYOUTS = ("half", "interleaved", "interleaved_to_half")
RNG = np.random.default_rng(22)


def scaled(factor: float) -> Yarn:
    """A rule that leaves frequencies as they are, and has this magnitude."""
    return Yarn(1.0, original_length=4096, attention_factor=factor, magnitude_rule="transformers")


def joined(t: Table) -> np.ndarray:
    return np.concatenate(t, axis=-1)


def by_definition(spec: Rope, x: np.ndarray, c: list[Fraction], s: list[Fraction]) -> list[Fraction]:
    """One head at one position, exactly."""
    n, start = spec.pairs, spec.head_dim - 2 * spec.pairs if spec.rotary_channels == "last" else 0
    half = [(start + j, start + n + j) for j in range(n)]
    neighbours = [(start + 2 * j, start + 2 * j + 1) for j in range(n)]
    old = [Fraction(float(value)) for value in x]
    new = list(old)
    reads, writes = (half if spec.layout == "half" else neighbours), (neighbours if spec.layout == LAYOUTS[1] else half)
    for j, ((u, v), (a, b)) in enumerate(zip(reads, writes, strict=True)):
        new[a] = old[u] * c[j] - old[v] * s[j]
        new[b] = old[v] * c[j] + old[u] * s[j]
    return new


CASES = [((2, 3, 5), 1, (5,)), ((2, 5, 3), 2, (2, 5)), ((2, 5, 3), -2, (2, 1)), ((3, 5), 0, (1,)), ((3, 5), None, ())]
CASES += [((), None, ()), ((4,), 0, ()), ((1, 3, 1), 1, (1, 1)), ((2, 2, 3, 4), 2, (2, 1, 4)), ((2, 0, 3), 1, (3,))]


@pytest.fixture(params=[rotation.TILE, 2**5])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "TILE", request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "head_axis", "p"), CASES, ids=map(str, CASES))
@pytest.mark.usefixtures("tile")
def test_rotate_follows_the_definition(
    shape: tuple[int, ...], head_axis: int | None, p: tuple[int, ...], layout: str, dtype: str
) -> None:
    rng = np.random.default_rng(22)
    spec = Rope(9, 1e4, layout, rotary_dim=6, rotary_channels=rng.choice(["first", "last"]), scaling=scaled(1.375))
    x = rng.normal(size=(*shape, 9)).astype(DTYPES[dtype])
    t = table(spec, rng.integers(-(2**31) + 1, 2**31, p), dtype=rng.choice(list(DTYPES)))
    kept = x.copy(), joined(t)
    x.flags.writeable = t.cos.flags.writeable = t.sin.flags.writeable = False
    got = rotate(spec, x, t, head_axis=head_axis)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    assert not np.shares_memory(got, x)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(joined(t), kept[1])
    wide = np.float64 if dtype == "float64" else np.float32
    precision, least, _ = exact.FORMATS[dtype]
    heads = head_axis % x.ndim if head_axis is not None else None
    for index in np.ndindex(shape):
        lead = [i for axis, i in enumerate(index) if axis != heads]
        row = tuple(0 if size == 1 else i for size, i in zip(p, lead[len(lead) - len(p) :], strict=True))
        c, s = ([Fraction(float(value)) for value in part[row].astype(wide)] for part in t)
        largest = max(abs(float(value)) for value in x[index])
        for value, true in zip(got[index], by_definition(spec, x[index], c, s), strict=True):
            unit = Fraction(2.0 ** max(math.frexp(float(true))[1] - precision, least))
            # two products and their sum round: 1.5 * 2^-24 * magnitude * (|u| + |v|) in float32
            bound = Fraction(2.0 ** (-51 if dtype == "float64" else -22) * 1.375 * largest) + unit / 2
            assert abs(Fraction(float(value)) - true) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bits_do_not_depend_on_shape_split_or_strides(
    layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Rope(22, 1e4, layout, rotary_dim=18, rotary_channels="last")
    x = RNG.normal(size=(2, 5, 70, 22)).astype(DTYPES[dtype])
    t = table(spec, RNG.integers(0, 10**6, (2, 70)))
    whole = rotate(spec, x, t, head_axis=1)
    bits = whole.view("u1")
    # one rounding of float32 products that are rounded themselves: no fused multiply-add
    wide = x[0, 0, 0, 4:].astype(np.float64 if dtype == "float64" else np.float32)
    u, v = (wide[:9], wide[9:]) if layout == "half" else (wide[::2], wide[1::2])
    c, s = t.cos[0, 0].astype(wide.dtype), t.sin[0, 0].astype(wide.dtype)
    turned = (u * c - v * s).astype(x.dtype)
    np.testing.assert_array_equal(whole[0, 0, 0, 4::2] if layout == "interleaved" else whole[0, 0, 0, 4:13], turned)
    for size in (1, 36, 500, 2**40):
        monkeypatch.setattr(rotation, "TILE", size)
        np.testing.assert_array_equal(rotate(spec, x, t, head_axis=1).view("u1"), bits)
        swapped = rotate(spec, x.transpose(0, 2, 1, 3), t, head_axis=2)
        np.testing.assert_array_equal(np.ascontiguousarray(swapped.transpose(0, 2, 1, 3)).view("u1"), bits)
        apart = [
            rotate(spec, x[:, :, i : i + 1], Table(t.cos[:, i : i + 1], t.sin[:, i : i + 1]), head_axis=1)
            for i in range(70)
        ]
        np.testing.assert_array_equal(np.concatenate(apart, axis=2).view("u1"), bits)
        odd = np.zeros((2, 5, 140, 25), x.dtype)[:, :, ::-2, 2:24]
        odd[...] = x
        np.testing.assert_array_equal(rotate(spec, odd, (t.cos, t.sin), head_axis=-3).view("u1"), bits)
    if dtype != "bfloat16":
        other = rotate(spec, x.astype(x.dtype.newbyteorder()), t, head_axis=1)
        np.testing.assert_array_equal(other.astype(x.dtype).view("u1"), bits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("tile")
def test_other_channels_pass_bit_for_bit_and_nothing_warns(dtype: str) -> None:
    spec = Rope(12, 1e4, "half", rotary_dim=8, rotary_channels="last", scaling=scaled(2.0**20))
    x = np.random.default_rng(23).integers(0, 256, (40, 12 * np.dtype(DTYPES[dtype]).itemsize), np.uint8)
    x = x.view(DTYPES[dtype])  # infinities, NaN of every payload, subnormal numbers
    x[:, 4:8] = np.inf, -np.inf, np.nan, np.finfo(np.float16).max
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        got = rotate(spec, x, table(spec, range(40)), head_axis=None)
    np.testing.assert_array_equal(got[:, :4].view("u1"), np.ascontiguousarray(x[:, :4]).view("u1"))
    np.testing.assert_array_equal(got.view("u1"), rotate(spec, x, table(spec, range(40)), head_axis=None).view("u1"))
    assert not np.isfinite(got[:, 4:7].astype(np.float64)).any()


def test_float16_subnormal_results_are_rounded_once() -> None:
    x = np.arange(1024, dtype=np.uint16).view(np.float16).reshape(32, 32)
    spec = Rope(32, 1e4, "half", scaling=scaled(1.375))
    got = rotate(spec, x, table(spec, [0] * 32), head_axis=None)
    assert got.reshape(-1).tolist() == [exact.round_to(Fraction(float(v)) * 11 / 8, "float16") for v in x.reshape(-1)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_beside_the_result_is_bounded(layout: str, dtype: str) -> None:
    spec = Rope(128, 1e4, layout)
    x, t = np.zeros((8, 4096, 128), DTYPES[dtype]), table(spec, range(4096))
    tracemalloc.start()
    result = rotate(spec, x, t, head_axis=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.15 * result.nbytes


def test_refused_in_the_agreed_order() -> None:
    spec = Rope(8, 1e4, "half", rotary_dim=6)
    x, t = np.zeros((2, 4, 3, 8)), table(spec, range(3))
    rotary = r"expected a rotary specification such as Rope\(128, base=10000.0, layout='half'\), received "
    for call in (lambda: table(Sinusoidal.vaswani(8), True), lambda: rotate(Rope, None, None, head_axis=9)):
        with pytest.raises(SpecError, match=rf"^(table|rotate)\.spec: {rotary}"):
            call()
    for call in (lambda: encode(spec, True), lambda: add(spec, None)):
        with pytest.raises(SpecError, match=r"^(encode|add)\.spec: expected an encoding such as Sinusoidal.vaswani"):
            call()
    for positions, message in ((True, "received bool: a mask"), (2**31, "magnitude below 2\\^31"), (None, "NoneType")):
        with pytest.raises(ValueError, match=rf"^table\.positions: expected .*{message}"):
            table(spec, positions)
    with pytest.raises(
        ValueError, match=r"^table\.dtype: expected float64, float32, bfloat16 or float16, received int"
    ):
        table(spec, 0, dtype=np.int32)
    for wrong in (np.zeros((3, 7), int), [0.0] * 8):
        with pytest.raises(ValueError, match=r"^rotate\.x: expected float64, .*, received (int64|list)$"):
            rotate(spec, wrong, None, head_axis=9)
    for shape in ((), (3, 6)):
        with pytest.raises(ValueError, match=r"^rotate\.x: expected shape \(\.\.\., 8\), received "):
            rotate(spec, np.zeros(shape), None, head_axis=9)
    for axis in (3, -1, 4, -5, True, 1.0, "1"):
        with pytest.raises(ValueError, match=r"^rotate\.head_axis: expected None or an axis of x other than the last"):
            rotate(spec, x, None, head_axis=axis)
    with pytest.raises(ValueError, match=r"^rotate\.table: expected Table\(cos, sin\), .*received ndarray$"):
        rotate(spec, x, t.cos, head_axis=1)
    for shape in ((2,), (4,), (3, 3), (1, 2, 3), (2, 4, 3)):
        with pytest.raises(ValueError, match=r"^rotate\.table: expected position axes \(\), \(3,\) or \(2, 3\), or 1"):
            rotate(spec, x, Table(*np.zeros((2, *shape, 3))), head_axis=1)
