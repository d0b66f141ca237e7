"""Clause N1 in NumPy: every value correctly rounded, and the slow path entered where only it can decide."""

import math
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import Sinusoidal
from posenc.numpy_impl import addition, encode
from posenc.numpy_impl.formats import differ
from posenc.numpy_impl.waves import waves
from posenc.spec import exact
from posenc.spec.plan import PhasePlan

NARROW = ("float32", "bfloat16", "float16")
SPECS = {
    "paper": Sinusoidal.vaswani(32),
    "fairseq": Sinusoidal.fairseq(16),
    "odd": Sinusoidal(17, layout="cos_sin", denominator_shift=0.5, base=500_000.0, pad="zero", padding_position=600),
    "offset": Sinusoidal(16, layout="sin_cos", denominator_shift=1.0, position_offset=2**31 - 1, output_scale=0.075),
    "small": Sinusoidal(16, layout="interleaved", denominator_shift=0.0, base=1e15, output_scale=2.0**-20),
    "large": Sinusoidal(16, layout="interleaved", denominator_shift=0.0, base=1e15, output_scale=2.0**20),
    "slow": Sinusoidal(16, layout="sin_cos", denominator_shift=0.0, base=1.8e19, min_timescale=3.0),
    "fast": Sinusoidal(16, layout="sin_cos", denominator_shift=0.0, position_scale=16384.0),
}
RNG = np.random.default_rng(11)
POSITIONS = {
    "few": [0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31) + 1],
    "far": RNG.integers(-(2**31) + 1, 2**31, 300).tolist(),
    "range": range(-200, 3000),
    "strided": range(2**31 - 1, -(2**31), -(2**20) - 1),
    "shuffled": RNG.integers(0, 700, 4000).tolist(),
}


def same(a: float, b: float) -> bool:
    return a == b and math.copysign(1, a) == math.copysign(1, b)


@pytest.fixture(params=[addition.TILE, 2**8])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks as well: many to a range, several to an anchor, the last ones incomplete."""
    monkeypatch.setattr(addition, "TILE", request.param)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.usefixtures("tile")
def test_every_value_is_correctly_rounded(spec: Sinusoidal, positions: list[int] | range, dtype: str) -> None:
    got = encode(spec, positions, dtype=dtype)
    rng = np.random.default_rng(len(positions))
    for row, channel in zip(rng.integers(0, len(positions), 80), rng.integers(0, spec.dim, 80), strict=True):
        expected = spec.value(positions[row], int(channel), dtype)
        assert same(float(got[row, channel]), expected), (positions[row], channel, got[row, channel], expected)


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.usefixtures("tile")
def test_float64_is_within_four_units(spec: Sinusoidal, positions: list[int] | range) -> None:
    got = encode(spec, positions, dtype="float64")
    rng = np.random.default_rng(len(positions))
    for row, channel in zip(rng.integers(0, len(positions), 80), rng.integers(0, spec.dim, 80), strict=True):
        expected = spec.value(positions[row], int(channel), "float64")
        # `expected` is rounded itself: half a unit
        assert abs(got[row, channel] - expected) <= 3.5 * np.spacing(abs(expected)) + 2.0**-62


@pytest.mark.parametrize("dtype", ["float64", *NARROW])
@pytest.mark.parametrize("source", [np.float32, np.float64])
@pytest.mark.parametrize("spec", [SPECS["fairseq"], SPECS["odd"]], ids=["fairseq", "odd"])
def test_float_positions_are_within_half_a_unit(spec: Sinusoidal, source: type, dtype: str) -> None:
    rng = np.random.default_rng(12)
    positions = (rng.normal(size=400) * 10.0 ** rng.integers(-9, 9, 400)).astype(source)
    positions[:3] = -1, 600, 0.5
    got = encode(spec, positions, dtype=dtype)
    precision, least, _ = exact.FORMATS[dtype]
    for row, channel in enumerate(rng.integers(0, spec.dim, 400)):
        value = spec.value(float(positions[row]), int(channel), "float64")  # errs by 2^-54 at most
        unit = 2.0 ** max(math.frexp(value)[1] - precision, least)
        bound = Fraction(unit) / 2 + Fraction(1, 2**48) + Fraction(1, 2**54)
        assert abs(Fraction(float(got[row, channel])) - Fraction(value)) <= bound


def test_the_bits_do_not_depend_on_the_path() -> None:
    spec = Sinusoidal.tensor2tensor(64, base=1e6)
    for dtype in NARROW:
        by_range = encode(spec, range(2000), dtype=dtype).view("u1")
        order = np.random.default_rng(13).integers(0, 2000, 8000)
        np.testing.assert_array_equal(encode(spec, order, dtype=dtype).view("u1"), by_range[order])
        few = np.concatenate([encode(spec, range(i, i + 40), dtype=dtype) for i in range(0, 2000, 40)])
        np.testing.assert_array_equal(few.view("u1"), by_range)


# --- crafted midpoints: pair 1 of dim 4 has frequency base^-1/2, so base = (p / asin(m))^2 puts its sine on m


class Counting:
    """A specification that counts how often it is asked for an exact value, and may answer wrongly."""

    def __init__(self, spec: Sinusoidal, answer: Callable[[float], float] = lambda value: value) -> None:
        self.spec, self.answer, self.asked = spec, answer, set[tuple[int, int]]()

    def plan(self) -> PhasePlan:
        return self.spec.plan()

    def value(self, position: float, channel: int, dtype: str = "float32") -> float:
        self.asked.add((int(position), channel))
        return self.answer(self.spec.value(position, channel, dtype))


def crafted(dtype: str, scale: float, p: int) -> list[Sinusoidal]:
    """Specifications whose sine at p, channel 2, lies within about 1e-16 of the middle of two `dtype` neighbours."""
    precision = exact.FORMATS[dtype].precision
    specs = []
    for k in range(1, 2 ** (precision - 1), max(1, 2 ** (precision - 1) // 24)):
        target = scale * (0.5 + (k + 0.5) * 2.0**-precision)
        base = (p / math.asin(target / scale)) ** 2
        specs.append(Sinusoidal(4, layout="interleaved", denominator_shift=0.0, base=base, output_scale=scale))
    return specs


PATHS = {
    "direct": (4321, [4321]),
    "range": (4321, range(4000, 5000)),
    "stride": (-4321 * 9, range(-9, -9 * 6000, -9)),
    "shuffled": (4321, np.random.default_rng(14).integers(4300, 4400, 3000).tolist()),
}


@pytest.mark.parametrize("scale", [1.0, 2.0**-7])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", NARROW)
def test_midpoints_are_decided_exactly(dtype: str, path: str, scale: float) -> None:
    p, positions = PATHS[path]
    asked = wrong_in_float64 = 0
    for spec in crafted(dtype, scale, p):
        counting = Counting(spec)
        row = encode(counting, positions, dtype=dtype)[positions.index(p)]
        expected = [spec.value(p, channel, dtype) for channel in range(4)]
        assert row.tolist() == expected
        asked += (p, 2) in counting.asked
        assert len(counting.asked) <= 2  # the slow path is for values that nothing else decides
        naive = scale * np.sin(p * spec.base**-0.5)
        wrong_in_float64 += exact.round_to(Fraction(float(naive)), dtype) != expected[2]
    assert asked >= 20
    assert wrong_in_float64 >= 3  # so this test can fail: correct float64 code without the check would


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_answer_is_what_is_returned(path: str) -> None:
    p, positions = PATHS[path]
    spec = Counting(crafted("float32", 1.0, p)[5], answer=lambda value: value + 100)
    assert encode(spec, positions)[positions.index(p), 2] > 90


@pytest.mark.parametrize("positions", [[4321], range(4000, 5000)], ids=["direct", "range"])
def test_midpoints_between_float16_subnormals(positions: list[int] | range) -> None:
    scale, p = 2.0**-15, 4321
    for k in range(256, 512, 8):
        base = (p / math.asin((k + 0.5) * 2.0**-24 / scale)) ** 2
        spec = Sinusoidal(4, layout="interleaved", denominator_shift=0.0, base=base, output_scale=scale)
        row = encode(spec, positions, dtype="float16")[positions.index(p)]
        assert row.tolist() == [spec.value(p, channel, "float16") for channel in range(4)]


def test_small_bfloat16_values_after_a_whole_turn() -> None:
    """One turn and about 2^-44: angle addition errs by more than the last place of a float32 there."""
    for k in range(400):
        p = 4100 + k
        base = (p / (2 * math.pi + 2.0**-44 * (1 + (k % 128 + 0.5) / 128))) ** 2
        spec = Sinusoidal(4, layout="interleaved", denominator_shift=0.0, base=base)
        row = encode(spec, range(4000, 5000), dtype="bfloat16")[p - 4000]
        assert row.tolist() == [spec.value(p, channel, "bfloat16") for channel in range(4)]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("positions", "offset"),
    [(range(-40, 40), 0), ([2**31 - 1 - 97 * i for i in range(40)], 0), (list(range(-20, 20)), 2**31 - 1)],
    ids=["range", "far", "offset"],
)
def test_where_the_rounding_of_the_increment_is_in_sight(positions: list[int] | range, offset: int, dtype: str) -> None:
    """A frequency within 5e-32 of pi, the quotient of two floats: 2^-128 turn is 2^-24 of the sine of p half turns."""
    spec = Sinusoidal(
        2,
        layout="interleaved",
        denominator_shift=0.0,
        position_scale=6134899525417045.0,
        min_timescale=1952799169684491.0,
        position_offset=offset,
    )
    got = encode(spec, positions, dtype=dtype)
    for row, p in enumerate(positions):
        assert all(same(float(got[row, channel]), spec.value(p, channel, dtype)) for channel in range(2))
    assert 0 < abs(spec.value(positions[1], 0)) < 1e-20


def test_zeros_of_two_signs_are_in_doubt() -> None:
    tiny = np.array([1e-30])
    assert differ(-tiny, tiny, "float16")[1].all()
    assert not differ(tiny, 2 * tiny, "float16")[1].any()


def test_two_roundings_would_be_seen() -> None:
    """The trap of the half formats: float64 to bfloat16 by way of float32, on the values of one crafted position."""
    wrong = 0
    for spec in crafted("bfloat16", 1.0, 4321):
        for nudge in (-(2.0**-30), 2.0**-30):
            value = float(np.sin(4321 * spec.base**-0.5)) + nudge
            twice = float(np.float64(value).astype(np.float32).astype(ml_dtypes.bfloat16))
            wrong += twice != exact.round_to(Fraction(value), "bfloat16")
    assert wrong > 10


def test_waves_keep_their_bounds() -> None:
    """Within 2^-64, tail included, and within 2^-52 of the value, at ordinary phases and next to multiples of 1/256."""
    rng = np.random.default_rng(15)
    near = (rng.integers(0, 256, 300) << 120) + [
        int(s) << int(k) for s, k in zip(rng.choice([-1, 1], 300), rng.integers(0, 119, 300), strict=True)
    ]
    phases = [int.from_bytes(rng.bytes(16), "big") for _ in range(300)] + [int(x) % 2**128 for x in near]
    high = np.array([x >> 64 for x in phases], np.uint64).view(np.int64)
    low = np.array([x & 2**64 - 1 for x in phases], np.uint64).view(np.int64)
    w = waves((high, low))
    bits = 400
    for i, x in enumerate(phases):
        quadrant = (x + 2**125) >> 126
        angle = ((x - (quadrant << 126)) * exact.pi(bits)) >> 127
        s, c = exact.sine_and_cosine(angle, bits)
        for turn, value, tail in ((0, w.sine, w.sine_tail), (1, w.cosine, w.cosine_tail)):
            true = Fraction((s, c, -s, -c)[(quadrant + turn) % 4], 2**bits)
            error = abs(Fraction(float(value[i])) + Fraction(float(tail[i])) - true)
            assert error < Fraction(1, 2**64)
            assert abs(Fraction(float(value[i])) - true) <= abs(true) / 2**52
