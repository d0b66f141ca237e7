"""The JAX column's tables and rotations against the specification; transforms are in their own file."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posenc import Linear, Llama3, LongRope, Proportional, Rope, Yarn
from posenc.jax_impl import Table, phase, rotate, rounded, table
from posenc.spec import exact

LIMIT = 2**31
EDGES = [0, 1, -1, 2**24 + 1, -(2**24) - 1, LIMIT - 1, 1 - LIMIT]
SPECS = {
    "plain": Rope(12, 1e4, "half"),
    "linear": Rope.partial(20, 0.4, base=5e5, layout="interleaved", scaling=Linear(4.0)),
    "yarn": Rope(16, 1e6, "interleaved_to_half", direction="negative", scaling=Yarn(4.0, original_length=512)),
    "llama": Rope(
        11,
        1e11,
        "half",
        rotary_dim=6,
        rotary_channels="last",
        scaling=Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "still": Rope(16, 1e6, "half", scaling=Proportional(0.25)),
    "long": Rope(
        8, 1e4, "interleaved", scaling=LongRope((1.0,) * 4, (1.5, 2.0, 3.0, 4.0), original_length=64, factor=32.0)
    ).at_length(65),
}
FLOATS = ("float64", "float32", "bfloat16", "float16")


def where(count: int) -> np.ndarray:
    return np.array(EDGES + np.random.default_rng(1).integers(1 - LIMIT, LIMIT, count).tolist())


def values(spec: Rope, positions: list, dtype: str) -> np.ndarray:
    return np.array([[spec.value(p, channel, dtype) for channel in range(2 * spec.pairs)] for p in positions])


def joined(got: Table) -> np.ndarray:
    return np.concatenate(got, axis=-1).astype(np.float64)


def assert_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal numbers, and zeros of equal signs."""
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", FLOATS[1:])
def test_host_tables_are_correctly_rounded(name, dtype):
    spec, positions = SPECS[name], where(9)
    got = table(spec, positions, dtype=dtype)
    assert [part.dtype.name for part in got] == [dtype] * 2
    assert_same_bits(joined(got), values(spec, positions.tolist(), dtype))
    for steps in (range(-700, 701), range(1 - LIMIT, LIMIT, 2**21 - 1)):  # angle addition
        turned, direct = table(spec, steps, dtype=dtype), table(spec, np.array(steps), dtype=dtype)
        assert_same_bits(joined(turned), joined(direct))
        assert_same_bits(joined(turned)[-2:], values(spec, list(steps[-2:]), dtype))


@pytest.mark.parametrize("name", SPECS)
def test_float64_tables_are_within_four_ulp(name):
    expected = values(SPECS[name], where(9).tolist(), "float64")
    got = joined(table(SPECS[name], where(9), dtype="float64"))
    assert (np.abs(got - expected) <= 4 * np.spacing(np.abs(expected)) + 2.0**-62).all()


@pytest.fixture
def asked(monkeypatch):
    """The positions and channels for which the exact value was asked."""
    calls = []
    unwatched = Rope.value

    def value(self, position, channel, dtype="float32"):
        calls.append((position, channel))
        return unwatched(self, position, channel, dtype)

    monkeypatch.setattr(Rope, "value", value)
    return calls


@pytest.mark.parametrize("dtype", FLOATS[1:])
def test_crafted_midpoints_are_decided_exactly(dtype, asked):
    magnitude, decided_otherwise = 1.1875, 0
    precision = exact.FORMATS[dtype].precision
    for k in range(2 ** (precision - 1) + 3, 2**precision, 2**precision // 13):
        middle = float(Fraction(2 * k + 1, 2 ** (precision + 1)))
        scaling = Yarn(1.0, original_length=64, attention_factor=magnitude, magnitude_rule="transformers")
        # magnitude * sin(5 * base^-1/2), channel 3, lies as near to `middle` as a double for a base allows
        spec = Rope(4, (5 / math.asin(middle / magnitude)) ** 2, "half", scaling=scaling)
        for steps in (5, range(-1019, 1500)):
            asked.clear()
            got = table(spec, steps, dtype=dtype).sin
            assert (5, 3) in asked
            assert len(asked) < 8
            expected = spec.value(5, 3, dtype)
            assert float((got if steps == 5 else got[1024])[1]) == expected
        plain = magnitude * math.sin(5 * spec.base**-0.5)
        decided_otherwise += exact.round_to(Fraction(plain), dtype) != expected
    assert decided_otherwise


@pytest.mark.parametrize("dtype", FLOATS[1:])
def test_pairs_that_do_not_turn_are_never_in_doubt(dtype, asked, monkeypatch):
    direct, unwatched = [], rounded._fill
    monkeypatch.setattr(rounded, "_fill", lambda *given: (direct.append(len(given[-1])), unwatched(*given)))
    for positions in (np.arange(-9, 500), range(1, 2000)):
        asked.clear()
        cos, sin = table(SPECS["still"], positions, dtype=dtype)
        assert len(asked) <= 2
        assert (cos[:, 2:] == 1).all()
        assert not np.asarray(sin)[:, 2:].view(np.uint8).any()  # +0.0
    assert sum(direct) < 509 + 100  # of the range, what angle addition leaves in doubt


@pytest.mark.parametrize("name", SPECS)
def test_fused_tables_are_within_the_bound(name):
    spec, positions = SPECS[name], where(3000)
    fused = jax.jit(table)(spec, jnp.array(positions, jnp.int32))
    error = np.abs(joined(fused) - joined(table(spec, positions, dtype="float64")))
    assert error.max() <= 2.0**-23 * spec.magnitude
    words = [[(p * increment) >> 96 & 0xFFFFFFFF for increment in spec.plan().increments] for p in positions.tolist()]
    np.testing.assert_array_equal(phase(spec, positions)[..., 0], np.array(words, np.uint32))
    still = [pair for pair, increment in enumerate(spec.plan().increments) if not increment]
    assert (fused.cos[:, still] == np.float32(spec.magnitude)).all()
    assert not np.asarray(fused.sin)[:, still].view(np.uint32).any()


def test_tables_of_float_positions():
    spec, real = SPECS["yarn"], where(300).astype(np.float32) / 4096
    exactly = joined(table(spec, real, dtype="float64"))
    error = np.abs(exactly[:20] - values(spec, real[:20].tolist(), "float64"))
    assert (error <= 2.0**-53 * spec.magnitude * 4 + 2.0**-48).all()
    assert np.abs(joined(jax.jit(table)(spec, real)) - exactly).max() <= 2.0**-22 * spec.magnitude


def channels(spec: Rope) -> tuple[list, list, list, list]:
    """Where u and v of every pair are read, and where u' and v' are written."""
    n = spec.pairs
    start = spec.head_dim - 2 * n if spec.rotary_channels == "last" else 0
    half = [start + j for j in range(n)], [start + n + j for j in range(n)]
    interleaved = [start + 2 * j for j in range(n)], [start + 2 * j + 1 for j in range(n)]
    reads = half if spec.layout == "half" else interleaved
    return *reads, *(interleaved if spec.layout == "interleaved" else half)


def turned(spec: Rope, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """By the definition: products and their sum, each rounded, and one rounding to the dtype of x."""
    wide = np.float64 if x.dtype == np.float64 else np.float32
    cos, sin = (np.asarray(part).astype(wide) for part in (cos, sin))
    read_u, read_v, write_u, write_v = channels(spec)
    u, v, out = x[..., read_u].astype(wide), x[..., read_v].astype(wide), x.copy()
    with np.errstate(all="ignore"):
        out[..., write_u], out[..., write_v] = u * cos - v * sin, v * cos + u * sin
    return out


def sample(shape: tuple, dtype: str, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape).astype(jnp.dtype(dtype))
    x.reshape(-1)[:2] = 0.0, -0.0
    return x


def assert_equal(got: jax.Array, expected: np.ndarray) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(np.asarray(got).astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rotations_have_the_bits_of_the_definition(name, dtype):
    spec = SPECS[name]
    for kind in FLOATS if (name, dtype) == ("plain", "float32") else ["float32"]:
        cos, sin = (np.asarray(part) for part in table(spec, where(6), dtype=kind))
        x = sample((2, 3, len(cos), spec.head_dim), dtype)
        before = [array.tobytes() for array in (x, cos, sin)]
        assert_equal(rotate(spec, x, Table(cos, sin), head_axis=1), turned(spec, x, cos, sin))
        assert [array.tobytes() for array in (x, cos, sin)] == before


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotations_are_within_the_bound(dtype):
    spec = SPECS["yarn"]
    cos, sin = (
        np.asarray(part) for part in table(spec, where(60), dtype="float64" if dtype == "float64" else "float32")
    )
    x = sample((len(cos), spec.head_dim), dtype)
    x[0, :3] = np.float16(3e-7)  # subnormal there
    got = np.asarray(rotate(spec, x, (cos, sin), head_axis=None)).astype(np.longdouble)
    read_u, read_v, *written = channels(spec)
    u, v = x[..., read_u].astype(np.longdouble), x[..., read_v].astype(np.longdouble)
    precision, least, _ = exact.FORMATS[dtype]
    for write, value in zip(written, (u * cos - v * sin, v * cos + u * sin), strict=True):
        half = np.maximum(np.abs(value) * 2.0**-precision, 2.0 ** (least - 1))
        bound = 2.0**-22 * spec.magnitude * np.maximum(np.abs(u), np.abs(v)) + half
        assert (np.abs(got[..., write] - value) <= bound).all()


@pytest.mark.parametrize("dtype", FLOATS[1:])
@pytest.mark.parametrize(
    ("layout", "dim", "width"), [("half", 128, 32), ("interleaved", 67, 32), ("interleaved_to_half", 20, 12)]
)
def test_other_channels_keep_every_bit(dtype, layout, dim, width):
    kind = {"float32": np.uint32}.get(dtype, np.uint16)
    bits = np.arange(0, 2**32, 2**32 // (dim * 700), np.uint64)[: dim * 700].reshape(700, dim)
    bits = (bits * 5 % 2**32 if dtype == "float32" else bits * 5 % 2**16).astype(kind)  # NaNs and subnormals among them
    for side, kept in (("first", slice(width, None)), ("last", slice(dim - width))):
        spec = Rope(dim, 1e4, layout, rotary_dim=width, rotary_channels=side)
        got = np.asarray(rotate(spec, bits.view(jnp.dtype(dtype)), table(spec, range(700)), head_axis=None))
        np.testing.assert_array_equal(got.view(kind)[:, kept], bits[:, kept])


ROPE = SPECS["plain"]
POSITIONS = np.array([[0, 5, -3], [9, 2**20, 7]])


@pytest.mark.parametrize(
    ("shape", "axis", "positions"),
    [
        ((2, 4, 3, 12), 1, POSITIONS),
        ((2, 3, 4, 12), 2, POSITIONS),
        ((2, 3, 4, 12), -2, POSITIONS[1]),
        ((4, 2, 3, 12), 0, POSITIONS[:, :1]),
        ((2, 3, 12), None, POSITIONS),
        ((2, 3, 12), 0, POSITIONS[:1, 0]),
        ((2, 5, 2, 3, 12), 1, np.array(7)),
        ((12,), None, np.array(7)),
        ((3, 12), 0, np.array(7)),
        ((2, 0, 3, 12), 1, POSITIONS),
        ((0, 4, 3, 12), 1, POSITIONS[:1]),
        ((2, 4, 0, 12), 1, POSITIONS[:, :0]),
    ],
)
def test_axes(shape, axis, positions):
    x = np.random.default_rng(4).standard_normal((*shape[:-1], 24)).astype(np.float32)[..., ::2]
    got = rotate(ROPE, x, table(ROPE, positions), head_axis=axis)
    front = x if axis is None else np.moveaxis(x, axis, 0)  # the heads before everything, or no heads
    cos, sin = (np.asarray(part) for part in table(ROPE, positions))
    whole = turned(ROPE, front, cos, sin)
    assert_equal(got, whole if axis is None else np.moveaxis(whole, 0, axis))


def scores(spec: Rope, q: np.ndarray, k: np.ndarray, at: int, against: int) -> np.ndarray:
    tables = (table(spec, positions) for positions in (at, against))
    q, k = (np.asarray(rotate(spec, x, t, head_axis=None)) for x, t in zip((q, k), tables, strict=True))
    return (q * k).sum(-1)


@pytest.mark.parametrize("name", ["plain", "linear", "still"])
def test_scores_depend_on_the_difference_only(name):
    spec = SPECS[name]
    q, k = np.random.default_rng(2).standard_normal((2, 50, spec.head_dim))
    norms = np.linalg.norm(q, axis=-1) * np.linalg.norm(k, axis=-1)
    reference = scores(spec, q, k, 17, 3)
    for shift in (0, 1, -20, 65536, 2**24, 2**24 + 1):
        assert (np.abs(scores(spec, q, k, 17 + shift, 3 + shift) - reference) <= 1e-7 * norms).all()
    assert (np.abs(scores(spec, q, k, 18, 3) - reference) > 1e-3 * norms).any()


@pytest.mark.parametrize("name", ["plain", "yarn", "llama"])
def test_cached_keys_turn_on_and_back(name):
    spec, x = SPECS[name], np.random.default_rng(3).standard_normal((40, SPECS[name].head_dim))
    again, old, new = spec.rerotation(), np.arange(40) + 65536, np.arange(40)[::-1] * 7

    def turn(rope, x, positions):
        return np.asarray(rotate(rope, x, table(rope, positions), head_axis=None))

    # an entry of a float32 table is wrong by 2^-25 of the magnitude's binade; a channel has two, in three rotations
    bound = 2.0**-22 * spec.magnitude * np.abs(x).max()
    assert np.abs(turn(again, turn(spec, x, old), new - old) - turn(spec, x, new)).max() <= bound
    assert np.abs(turn(again, turn(again, x, old), -old) - x).max() <= bound
    assert np.abs(turn(again, turn(again, x, old), -new) - x).max() > bound
