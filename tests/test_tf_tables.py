"""Tables of rotations in the TensorFlow column: correctly rounded on the host, within their bound where fused."""

import math

import numpy as np
import pytest
import tensorflow as tf

from posenc import Llama3, LongRope, Proportional, Rope, Yarn
from posenc.spec import exact
from posenc.tf_impl import Table, addition, rounded, table

MODES = {"eager": None, "function": {}, "xla": {"jit_compile": True}}
NARROW = ["float32", "bfloat16", "float16"]
DTYPES = ["float64", *NARROW]
SPECS = {
    "half": Rope(8, 10000.0, "half"),
    "yarn": Rope(6, 5e5, "interleaved", scaling=Yarn(40.0, original_length=64)),
    "llama3": Rope(
        10, 5e5, "interleaved_to_half", rotary_dim=6, direction="negative",
        scaling=Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "last": Rope(7, 1e6, "half", rotary_dim=4, rotary_channels="last", direction="negative"),
    "still": Rope(16, 1e6, "half", scaling=Proportional(0.25), direction="negative"),
}  # fmt: skip
EDGES = [0, 1, -1, 2**24 + 1, 1 - 2**24, 2**31 - 1, 1 - 2**31]
POSITIONS = EDGES + np.random.default_rng(0).integers(1 - 2**31, 2**31, 9).tolist()
over_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
over_modes = pytest.mark.parametrize("mode", MODES)


def run(mode, call):
    return call if mode == "eager" else tf.function(call, autograph=False, **MODES[mode])


def exactly(spec, positions, dtype):
    """`(positions, 2 * pairs)`: cosines, then sines."""
    return np.array([[spec.value(p, c, dtype) for c in range(2 * spec.pairs)] for p in positions])


def joined(result):
    return np.concatenate([tf.cast(part, tf.float64) for part in result], -1)


def check_bits(got, expected):
    got, expected = (np.asarray(tf.cast(array, tf.float64)) for array in (got, expected))
    wrong = np.argwhere((got != expected) | (np.signbit(got) != np.signbit(expected)))
    if len(wrong):
        index = tuple(wrong[0])
        raise AssertionError(f"index {index}: got {got[index]}, expected {expected[index]}")


def check_within(got, expected, bound):
    error = np.abs(np.asarray(tf.cast(got, tf.float64)) - expected)
    if not (error <= bound).all():
        raise AssertionError(f"off by {error.max()}, expected at most {np.max(bound)}")


def unit(value, dtype):
    precision, least, _ = exact.FORMATS[dtype]
    return 2.0 ** np.maximum(np.frexp(value)[1] - precision, least)


def test_the_checkers_see_one_unit_a_sign_and_a_nan():
    for got, expected in (([1 + 2.0**-23], [1.0]), ([-0.0], [0.0]), ([math.nan], [1.0])):
        with pytest.raises(AssertionError, match="index"):
            check_bits(got, expected)
    for got in (1 + 2.0**-21, math.nan):
        with pytest.raises(AssertionError, match="off by"):
            check_within([got], 1.0, 2.0**-22)


@over_specs
def test_tables_are_correctly_rounded(spec):
    for dtype in NARROW:
        result = table(spec, POSITIONS, dtype=dtype)
        assert isinstance(result, Table)
        assert result.cos.dtype == result.sin.dtype == tf.as_dtype(dtype)
        check_bits(joined(result), exactly(spec, POSITIONS, dtype))
    expected = exactly(spec, POSITIONS, "float64")
    check_within(joined(table(spec, POSITIONS, dtype="float64")), expected, 4 * unit(expected, "float64") + 2.0**-62)


@pytest.mark.parametrize("name", ["yarn", "still"])
def test_adding_angles_gives_the_bits_of_the_direct_path(name, monkeypatch):
    spec = SPECS[name]
    monkeypatch.setattr(addition, "BLOCK", 2**13)
    for rows, dtype in ((range(-3, 1997), "float32"), (range(2**31 - 1, 2**31 - 9000, -7), "float16")):
        monkeypatch.setattr(rounded, "SMALL", 0)
        whole = table(spec, rows, dtype=dtype)
        monkeypatch.setattr(rounded, "SMALL", 2**40)
        # in a column of its own no array is mistaken for a range
        check_bits(joined(whole), joined(table(spec, np.array(rows)[:, None], dtype=dtype))[:, 0])


@pytest.fixture
def asked(monkeypatch):
    """The positions of which `spec.value` was asked."""
    positions, value = [], Rope.value

    def counted(spec, position, channel, dtype="float32"):
        positions.append(position)
        return value(spec, position, channel, dtype)

    monkeypatch.setattr(Rope, "value", counted)
    return positions


@pytest.mark.parametrize("dtype", NARROW)
def test_what_float64_cannot_decide_is_asked(dtype, asked):
    p, rule = 1_000_003, LongRope([1.0, 1.0], [1.0, 1.0], original_length=4096, factor=32.0)
    magnitude = Rope(4, 100.0, "half", scaling=rule, length=1).magnitude  # a square root, and transcendental
    tie = 0.625 + 2.0 ** -(exact.FORMATS[dtype].precision + 1)
    spec = Rope(4, (p / math.asin(tie / magnitude)) ** 2, "half", scaling=rule, length=1)
    for rows in ([p - 1, p, p + 1], range(p - 9000 * 111, p + 1, 111)):
        result = joined(table(spec, rows, dtype=dtype))
        assert p in asked
        assert len(asked) < 20
        row = list(rows).index(p)
        check_bits(result[row : row + 1], exactly(spec, [p], dtype))
        del asked[:]


def test_pairs_and_positions_at_rest_are_asked_once(asked):
    still = SPECS["still"]
    for positions in (range(70_000), np.arange(70_000).reshape(2, -1)):
        cos, sin = table(still, positions)
        check_bits(cos[..., 2:], tf.ones_like(cos[..., 2:]))
        check_bits(sin[..., 2:], tf.zeros_like(sin[..., 2:]))
    # a magnitude midway between two bfloat16 is in doubt wherever the angle is zero: at every padded position
    midway = Rope(
        64,
        10000.0,
        "half",
        scaling=Yarn(1.0, original_length=64, attention_factor=1.00390625, magnitude_rule="transformers"),
    )
    cos, sin = table(midway, np.zeros((50, 50), int), dtype="bfloat16")
    check_bits(cos, tf.fill(cos.shape, midway.value(0, 0, "bfloat16")))
    check_bits(sin, tf.zeros_like(sin))
    assert len(asked) < 30


@pytest.mark.parametrize("mode", ["function", "xla"])
@over_specs
def test_fused_tables_are_within_their_bound(spec, mode):
    integers = np.concatenate([EDGES, np.arange(-300, 700), np.random.default_rng(1).integers(1 - 2**31, 2**31, 2000)])
    floats = (integers * 0.3).astype(np.float32)
    still = np.flatnonzero(np.array(spec.frequencies()) == 0)
    for positions, bound in ((integers, 2.0**-23 * spec.magnitude), (floats, 2.0**-22 * spec.magnitude)):
        expected = joined(table(spec, positions, dtype="float64"))
        for dtype, got in zip(
            NARROW, run(mode, lambda p: [table(spec, p, dtype=d) for d in NARROW])(positions), strict=True
        ):
            # one rounding more than float32, of a value that may lie a little above a power of two
            rounding = 0 if dtype == "float32" else unit(np.abs(expected) + bound, dtype) / 2
            check_within(joined(got), expected, bound + rounding)
            check_bits(joined(got)[:, still], np.ones((len(positions), len(still))))
            check_bits(joined(got)[:, still + spec.pairs], np.zeros((len(positions), len(still))))
