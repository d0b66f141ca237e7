"""Tables of rotations in NumPy: the specification's exact values, the slow path entered where only it can decide."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from posenc import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Rope, Yarn, YarnPaper
from posenc.numpy_impl import Table, phase, rounded, table, waves
from posenc.spec import exact
from posenc.spec.plan import PhasePlan, RotationPlan

DTYPES = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
NARROW = ("float32", "bfloat16", "float16")


def scaled(factor: float) -> Yarn:
    """A rule that leaves frequencies as they are, and has this magnitude."""
    return Yarn(1.0, original_length=4096, attention_factor=factor, magnitude_rule="transformers")


SPECS = {
    "plain": Rope(8, 10_000.0, "half"),
    "backwards": Rope(8, 500_000.0, "interleaved", direction="negative"),
    "first": Rope(10, 1e6, "half", rotary_dim=6),
    "last": Rope(9, 1e11, "interleaved", rotary_dim=6, rotary_channels="last"),
    "linear": Rope(8, 10_000.0, "half", scaling=Linear(3.0)),
    "ntk": Rope(8, 10_000.0, "half", scaling=Ntk(4.0)),
    "dynamic": Rope(8, 10_000.0, "half", scaling=DynamicNtk(2.0, original_length=1024)).at_length(5000),
    "yarn": Rope(8, 10_000.0, "half", direction="negative", scaling=Yarn(40.0, original_length=4096)),
    "paper": Rope(8, 10_000.0, "half", scaling=YarnPaper(16.0, original_length=4096)),
    "long": Rope(
        4, 1e4, "half", scaling=LongRope((1.0, 1.5), (4.0, 64.0), original_length=4096, factor=32.0)
    ).at_length(9000),
    "llama": Rope(8, 5e5, "half", scaling=Llama3(8.0, original_length=8192, low_freq_factor=1, high_freq_factor=4)),
    "at rest": Rope(16, 1e6, "half", scaling=Proportional(0.25, factor=2.0)),
    "all at rest": Rope(8, 1e6, "half", scaling=Proportional(0.1)),
    "small": Rope(8, 1e15, "half", scaling=scaled(2.0**-20)),
    "large": Rope(8, 1e15, "half", scaling=scaled(2.0**20)),
}
RNG = np.random.default_rng(21)
POSITIONS = {
    "few": [0, 1, -1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31) + 1],
    "far": [0] * 9 + RNG.integers(-(2**31) + 1, 2**31, 90).tolist(),
    "range": range(-150, 900),
    "padded": [0] * 70 + list(range(200)) + [0] * 30 + list(range(-90, 260)),
    "origin": [0] * 80,
}


def joined(t: Table) -> np.ndarray:
    return np.concatenate(t, axis=-1)


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_tables_are_correctly_rounded(spec: Rope, positions: list[int] | range) -> None:
    rng = np.random.default_rng(len(positions))
    for dtype in NARROW:
        t = table(spec, positions, dtype=dtype)
        assert t.cos.shape == t.sin.shape == (len(positions), spec.pairs)
        assert t.cos.dtype == t.sin.dtype == DTYPES[dtype]
        got = joined(t)
        rows = [positions.index(0), *rng.integers(0, len(positions), 20)]
        for row, channel in itertools.product(rows, rng.integers(0, 2 * spec.pairs, 3)):
            expected, value = spec.value(positions[row], int(channel), dtype), float(got[row, channel])
            assert (value, math.copysign(1, value)) == (expected, math.copysign(1, expected)), (positions[row], channel)
    wide = joined(table(spec, positions, dtype="float64"))
    for row, channel in zip(rng.integers(0, len(positions), 40), rng.integers(0, 2 * spec.pairs, 40), strict=True):
        expected = spec.value(positions[row], int(channel), "float64")  # rounded itself: half a unit
        assert abs(wide[row, channel] - expected) <= 3.5 * np.spacing(abs(expected)) + 2.0**-62


@pytest.mark.parametrize("spec", [SPECS["yarn"], SPECS["at rest"], SPECS["all at rest"]])
def test_tables_at_float_positions_are_within_half_a_unit(spec: Rope) -> None:
    positions = RNG.normal(size=40) * 10.0 ** RNG.integers(-9, 9, 40)
    got = joined(table(spec, positions))
    for row, channel in itertools.product(range(40), range(2 * spec.pairs)):
        value = Fraction(spec.value(float(positions[row]), channel, "float64"))  # errs by 2^-53 of the magnitude
        unit = 2.0 ** max(math.frexp(value)[1] - 24, -149)
        bound = Fraction(unit) / 2 + Fraction(spec.magnitude) * (Fraction(1, 2**48) + Fraction(1, 2**53))
        assert abs(Fraction(float(got[row, channel])) - value) <= bound


class Counting:
    """A specification that notes for which values it is asked."""

    def __init__(self, spec: Rope, answer: Callable[[float], float] = lambda value: value) -> None:
        self.spec, self.answer, self.asked = spec, answer, list[tuple[int, int]]()

    def plan(self) -> PhasePlan:
        return self.spec.plan()

    def rotation(self) -> RotationPlan:
        return self.spec.rotation()

    def value(self, position: float, channel: int, dtype: str = "float32") -> float:
        self.asked.append((int(position), channel))
        return self.answer(self.spec.value(position, channel, dtype))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("p", "positions"), [(-4321, [-4321]), (-4321, range(-5000, -4000)), (4321, [0, 4321, 1] * 90)]
)
def test_midpoints_are_decided_exactly_with_a_magnitude(dtype: str, p: int, positions: list[int] | range) -> None:
    """Bases whose pair 1 has a sine that, times the magnitude, lies within 1e-16 of the middle of two neighbours."""
    precision, factor = exact.FORMATS[dtype].precision, 1.375
    wrong_in_float64 = asked = 0
    for k in range(1, 2 ** (precision - 1), max(1, 2 ** (precision - 1) // 24)):
        target = 0.5 + (k + 0.5) * 2.0**-precision
        base = (p / math.asin(target / factor)) ** 2
        spec = Counting(Rope(4, base, "half", scaling=scaled(factor)))
        got = joined(table(spec, positions, dtype=dtype))[positions.index(p)]
        expected = [spec.spec.value(p, channel, dtype) for channel in range(4)]
        assert got.tolist() == expected
        asked += (p, 3) in spec.asked
        assert len(set(spec.asked)) <= 3  # the slow path is for values that nothing else decides
        naive = factor * math.sin(p * base**-0.5)
        wrong_in_float64 += exact.round_to(Fraction(naive), dtype) != expected[3]
    assert asked >= 20
    assert wrong_in_float64 >= 3  # so this test can fail
    lying = Counting(spec.spec, lambda value: value + 100)
    assert joined(table(lying, positions, dtype=dtype))[positions.index(p), 3] > 90


def test_phase_zero_is_decided_once() -> None:
    """Pairs that do not turn and padding: sine +0, cosine the magnitude, here in the middle of two neighbours."""
    for dtype, factor in (("bfloat16", 1 + 2.0**-8), ("float16", 1 + 2.0**-11), ("float32", 1 + 2.0**-24)):
        for positions in ([0] * 500 + list(range(900)), [-3, 7, 0], range(-300, 300), [0] * 70):
            spec = Counting(Rope(32, 1e4, "half", scaling=scaled(factor)), answer=lambda _: 7.0)
            t = table(spec, positions, dtype=dtype)
            assert (t.cos[np.array(positions) == 0] == 7).all()
            assert not t.sin[np.array(positions) == 0].view("u1").any()
            assert set(spec.asked) == {(0, 0)}  # the first cosine stands for all
    still = Counting(Rope(32, 1e6, "half", scaling=Proportional(0.5)))
    t = table(still, np.arange(5000, 0, -1) ** 2)
    assert (t.cos[:, 8:] == 1).all()
    assert not t.sin[:, 8:].view("u1").any()
    assert still.asked == [(0, 8)]


def test_padding_costs_what_other_positions_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sines of the origin are next to a rounding boundary, and would be computed one by one."""
    one_by_one: list[int] = []

    def counted(phases: tuple[np.ndarray, np.ndarray]) -> waves.Waves:
        one_by_one.append(phases[0].size)
        return waves.waves(phases)

    monkeypatch.setattr(rounded, "waves", counted)
    table(SPECS["yarn"], [0] * 4000 + list(range(1, 1000)))
    assert sum(one_by_one) < 40


def test_shapes_of_tables() -> None:
    spec = SPECS["first"]
    for positions, shape in ((3, ()), ([], (0,)), (range(5), (5,)), (np.zeros((2, 0, 3), int), (2, 0, 3))):
        for dtype in DTYPES:
            t = table(spec, positions, dtype=dtype)
            assert (t.cos.shape, t.sin.shape, t.cos.dtype.name) == ((*shape, 3), (*shape, 3), dtype)
        np.testing.assert_array_equal(phase(spec, positions).shape, (*shape, 3, 3))
    rows = table(spec, [[5, 6], [0, 1]])
    np.testing.assert_array_equal(rows.sin[1], table(spec, range(2)).sin)
