"""The JAX column against the specification: roundings, fused bounds, arguments. Transforms are in their own file."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posenc.jax_impl.inputs as jax_inputs
from posenc import Sinusoidal
from posenc.jax_impl import encode, phase
from posenc.spec import exact

LIMIT = 2**31
EDGES = [0, 1, -1, 2**24 + 1, 2**24 - 1, -(2**24) - 1, LIMIT - 1, 1 - LIMIT]
SPECS = {
    "vaswani": Sinusoidal.vaswani(16),
    "fairseq": Sinusoidal.fairseq(17),
    "far": Sinusoidal(
        16, layout="cos_sin", denominator_shift=0.5, base=1e15, position_offset=1 - LIMIT, output_scale=0.3
    ),
    "scaled": Sinusoidal(
        17, layout="sin_cos", denominator_shift=1.0, pad="zero", position_scale=1000.0, output_scale=1e-4
    ),
}
HALVES = ("bfloat16", "float16")


def positions(count: int) -> np.ndarray:
    return np.array(EDGES + np.random.default_rng(1).integers(1 - LIMIT, LIMIT, count).tolist())


def values(spec: Sinusoidal, where: list, dtype: str) -> np.ndarray:
    return np.array([[spec.value(p, channel, dtype) for channel in range(spec.dim)] for p in where])


def exactly(array: jax.Array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def assert_same_bits(got: jax.Array, expected: np.ndarray) -> None:
    """Equal numbers, and zeros of equal signs."""
    wide = exactly(got)
    np.testing.assert_array_equal(wide, expected)
    np.testing.assert_array_equal(np.signbit(wide), np.signbit(expected))


def test_the_bit_checker_sees_a_wrong_bit_and_a_wrong_sign():
    right = np.array([0.0, 1.0])
    for wrong in ([0.0, 1.0 - 2.0**-24], [-0.0, 1.0]):
        with pytest.raises(AssertionError):
            assert_same_bits(jnp.array(wrong, jnp.float32), right)


def words(plan, where: list) -> np.ndarray:
    """The phases of real positions by exact fractions, as the plan words it."""
    result = []
    for p in where:
        rest, parts = Fraction(p), []
        for _ in range(3):
            parts.append(math.trunc(rest))
            rest = (rest - parts[-1]) * 2**31
        levels = [(w, w >> 31, w >> 62) for w in plan.increments]
        units = [sum(a * b for a, b in zip(parts, level, strict=True)) + plan.offset * level[0] for level in levels]
        result.append([[u >> shift & 0xFFFFFFFF for shift in (96, 64, 32)] for u in units])
    return np.array(result, np.uint32)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_phases_are_the_words_of_the_plan(name, dtype):
    where = positions(60) if dtype == "int32" else positions(30) * np.float64(2.0**-30) ** np.linspace(0, 2, 38)
    where = where.astype(dtype)
    expected = words(SPECS[name].plan(), where.tolist())
    for got in (phase(SPECS[name], where), jax.jit(lambda: phase(SPECS[name], where))()):
        assert got.dtype == jnp.uint32
        np.testing.assert_array_equal(got, expected)
    if dtype != "float64":
        np.testing.assert_array_equal(jax.jit(phase)(SPECS[name], where), expected)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_host_values_are_correctly_rounded(name, dtype):
    where = positions(12)
    assert_same_bits(encode(SPECS[name], where, dtype=dtype), values(SPECS[name], where.tolist(), dtype))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("steps", [range(-700, 701), range(1 - LIMIT, LIMIT, 2**21 - 1), range(10**6, 0, -577)])
def test_angle_addition_has_the_bits_of_the_direct_method(name, dtype, steps):
    turned, direct = encode(SPECS[name], steps, dtype=dtype), encode(SPECS[name], np.array(steps), dtype=dtype)
    assert_same_bits(turned, exactly(direct))
    assert_same_bits(turned[-2:], values(SPECS[name], list(steps[-2:]), dtype))


@pytest.mark.parametrize("name", SPECS)
def test_float64_is_within_four_ulp(name):
    where = positions(12)
    got = encode(SPECS[name], where, dtype="float64")
    assert got.dtype == jnp.float64
    expected = values(SPECS[name], where.tolist(), "float64")
    assert (np.abs(exactly(got) - expected) <= 4 * np.spacing(np.abs(expected)) + 2.0**-62).all()


def test_direct_values_are_within_one_ulp():
    # what the windows of the doubts are derived from; the expected values are rounded themselves
    where = positions(100)
    expected = values(SPECS["vaswani"], where.tolist(), "float64")
    got = exactly(encode(SPECS["vaswani"], where, dtype="float64"))
    assert (np.abs(got - expected) <= np.spacing(np.abs(expected))).all()


def midpoints(dtype: str) -> list[tuple[float, Fraction]]:
    """Halfway points of a format within the sine's range, and where they lie within a step of it."""
    precision, least, _ = exact.FORMATS[dtype]
    unit = Fraction(1, 2**precision)
    found = [(2 * k + 1) * unit / 2 for k in range(2 ** (precision - 1) + 3, 2**precision, 2**precision // 13)]
    if dtype == "float16":  # among subnormal numbers, too
        found += [Fraction(2 * k + 1, 2) * Fraction(2) ** least for k in (5, 100, 801)]
    return [float(m) for m in found]


def crafted(middle: float, position: int) -> Sinusoidal:
    """sin(position * base^-1/2), channel 2, lies as near to `middle` as a double for a base allows."""
    return Sinusoidal.vaswani(4, base=(position / math.asin(middle)) ** 2)


@pytest.fixture
def asked(monkeypatch):
    """The positions and channels for which the exact value was asked."""
    calls = []
    unwatched = Sinusoidal.value

    def value(self, position, channel, dtype="float32"):
        calls.append((position, channel))
        return unwatched(self, position, channel, dtype)

    monkeypatch.setattr(Sinusoidal, "value", value)
    return calls


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_crafted_midpoints_are_decided_exactly(dtype, asked):
    decided_otherwise = 0
    for middle in midpoints(dtype):
        spec = crafted(middle, 5)
        for steps in (5, range(-1019, 1500, 1), range(5 - 700 * 3, 5000, 3)):
            asked.clear()
            got = encode(spec, steps, dtype=dtype)
            assert (5, 2) in asked
            assert len(asked) < 8
            row = got if steps == 5 else got[steps.index(5)]
            expected = spec.value(5, 2, dtype)
            assert float(row[2]) == expected
        # what plain float64 would say, were there no doubt
        decided_otherwise += exact.round_to(Fraction(math.sin(5 * spec.base**-0.5)), dtype) != expected
    assert decided_otherwise


def test_ordinary_values_ask_for_nothing_exact(asked):
    encode(SPECS["fairseq"], range(-20000, 20000))
    encode(SPECS["fairseq"], np.arange(1000))
    assert not asked


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_positions_on_the_host(name, kind):
    spec = SPECS[name]
    where = np.array([0.5, -0.25, 1e-3, 1234.5678, -98765.4321, 2.0**30 + 0.5, 3.0, -1.0, 1e-30], kind)
    expected = values(spec, where.tolist(), "float64")
    for dtype in ("float32", "float16"):
        got = exactly(encode(spec, where, dtype=dtype))
        precision, least, _ = exact.FORMATS[dtype]
        half = np.maximum(np.spacing(np.abs(expected)) * 2.0 ** (53 - precision), 2.0**least) / 2
        # half a unit of the format, and what the three levels of a position cut off
        assert (np.abs(got - expected) <= half + 2.0**-48 * spec.output_scale).all()


@pytest.mark.parametrize(("name", "jit"), [*((name, True) for name in SPECS), ("fairseq", False)])
def test_fused_values_are_within_the_bound(name, jit, monkeypatch):
    spec = SPECS[name]
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)  # as on an accelerator
    where = jnp.array(positions(3000 if jit else 30), jnp.int32)
    with jax.disable_jit(not jit):
        got = jax.jit(encode)(spec, where)
        floating = jax.jit(encode)(spec, where.astype(jnp.float32) / 4096)
    wide = encode(spec, where, dtype="float64")
    monkeypatch.undo()
    expected = exactly(encode(spec, where, dtype="float64"))
    assert np.abs(exactly(got) - expected).max() <= 2.0**-23 * spec.output_scale
    assert (np.abs(exactly(wide) - expected) <= 4 * np.spacing(np.abs(expected)) + 2.0**-62).all()
    expected = exactly(encode(spec, where.astype(jnp.float32) / 4096, dtype="float64"))
    assert np.abs(exactly(floating) - expected).max() <= 2.0**-22 * spec.output_scale


def test_fused_small_angles_keep_their_relative_precision():
    spec, where = Sinusoidal.whisper(16, base=1e10), np.arange(1, 40, dtype=np.int32)
    sines = exactly(jax.jit(encode)(spec, where))[:, 4:8]  # of angles below 1e-4
    np.testing.assert_allclose(sines, exactly(encode(spec, where, dtype="float64"))[:, 4:8], rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_fused_halves_round_once_more(dtype):
    spec, where = SPECS["far"], jnp.arange(500, dtype=jnp.int32)
    encode_half = jax.jit(lambda p: encode(spec, p, dtype=dtype))
    np.testing.assert_array_equal(encode_half(where), jax.jit(encode)(spec, where).astype(dtype))


def test_positions_of_every_kind():
    spec = SPECS["fairseq"]
    expected = np.asarray(encode(spec, [[0, 1, 2], [3, 4, 5]]))
    given = np.arange(6).reshape(2, 3)
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4", "float32", ">f8"):
        np.testing.assert_array_equal(encode(spec, given.astype(dtype)), expected, err_msg=dtype)
    for dtype in (jnp.int8, jnp.uint8, jnp.int32, jnp.uint32, jnp.float32):
        np.testing.assert_array_equal(encode(spec, jnp.array(given, dtype)), expected, err_msg=str(dtype))
        assert jax.jit(encode)(spec, jnp.array(given, dtype)).shape == (2, 3, 17)
    np.testing.assert_array_equal(encode(spec, range(6)), expected.reshape(6, 17))
    np.testing.assert_array_equal(encode(spec, range(5, -1, -1))[::-1], expected.reshape(6, 17))
    np.testing.assert_array_equal(encode(spec, range(4, 5, 2**70)), expected[1:, 1])
    np.testing.assert_array_equal(encode(spec, np.int64(4)), expected[1, 1])
    np.testing.assert_array_equal(encode(spec, 4.0), expected[1, 1])
    for empty, shape in (([], (0,)), (range(0), (0,)), (np.zeros((2, 0, 3), np.int64), (2, 0, 3))):
        assert encode(spec, empty, dtype=jnp.bfloat16).shape == (*shape, 17)
        assert phase(spec, empty).shape == (*shape, 8, 3)
        assert jax.jit(lambda empty=empty: encode(spec, empty))().shape == (*shape, 17)


def test_padding_is_a_row_of_zeros_and_only_that():
    spec = Sinusoidal(8, layout="sin_cos", denominator_shift=1.0, padding_position=2**24 + 1)
    near = np.array([2.0**24, 2.0**24 + 1, 2.0**24 + 2, 2.0**24 + 1.5])
    for where in (near[:3].astype(np.int32), near):
        for got in (encode(spec, where), jax.jit(lambda where=where: encode(spec, where))()):
            assert np.any(got != 0, axis=-1).tolist() == [True, False, True, True][: len(where)]
    # float32 cannot hold that position: its neighbour is not taken for it
    assert np.any(jax.jit(encode)(spec, near.astype(np.float32)[:1]) != 0)
    table = encode(SPECS["fairseq"], range(-1, 5000))
    assert not np.any(table[0])
    assert not np.signbit(table[0]).any()
    np.testing.assert_array_equal(table[1:], encode(SPECS["fairseq"], range(5000)))
