"""What is right is nothing, what is weak cannot be told, and what is no pair of encodings is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from posenc import Alibi, Linear, Llama3, Rope, Sinusoidal, SpecError, T5Bias, Yarn
from posenc import numpy_impl as reference
from posenc.interop.comparison import Comparison, Different, compare
from tests.columns import every_host
from tests.wrong.ported import frequencies, rotated, sinusoid, table

pytestmark = pytest.mark.filterwarnings(r"error::RuntimeWarning:posenc\.interop\..*")

LLAMA3 = Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)
ROPES = [
    Rope(64, 10000.0, "half"),
    Rope(128, 500000.0, "half", scaling=LLAMA3),
    Rope(80, 1000000.0, "interleaved", rotary_dim=32),
    Rope(64, 10000.0, "half", scaling=Yarn(16.0, original_length=4096)),
    Rope(96, 10000.0, "interleaved_to_half", direction="negative", scaling=Linear(4.0)),
]
LONG = np.concatenate([np.arange(64), np.arange(131_040, 131_072)])


def single(f):
    """`positions -> (cos, sin)` with float32 frequencies, products and functions, as most libraries have it."""

    def made(p):
        angles = np.asarray(p, np.float32)[:, None] * f.astype(np.float32)
        return np.cos(angles), np.sin(angles)

    return made


# --- Nothing ---


@every_host
@pytest.mark.parametrize("rope", ROPES, ids=range(len(ROPES)))
def test_tables_of_every_column_are_the_same(host, rope):
    def received(p):
        return host.module.table(rope, host.array(p, "int32"))

    found = compare(lambda p: reference.table(rope, p), received, what="table")
    assert found.differences == ("nothing",)
    assert found.distance == 0
    found.assert_nothing()


@every_host
@pytest.mark.parametrize("rope", ROPES, ids=range(len(ROPES)))
def test_rotations_of_every_column_are_the_same(host, rope):
    def received(x, p):
        made = host.module.table(rope, host.array(p, "int32"))
        return host.module.rotate(rope, host.array(x, "float32"), made, head_axis=None)

    plain = rotated(table(np.array(rope.frequencies()), rope.magnitude), "half", 64)
    if rope == ROPES[0]:  # the others scale or turn other channels, which `plain` does not
        compare(plain, received, what="rotation", head_dim=64).assert_nothing()
    else:

        def expected(x, p):
            return reference.rotate(rope, x, reference.table(rope, p), head_axis=None)

        compare(expected, received, what="rotation", head_dim=rope.head_dim).assert_nothing()


@every_host
@pytest.mark.parametrize("spec", [Sinusoidal.vaswani(96), Sinusoidal.whisper(50), Sinusoidal.ddpm(33)], ids=range(3))
def test_encodings_of_every_column_are_the_same(host, spec):
    received = host.module.encode(spec, host.array(np.arange(700), "int32"))
    compare(reference.encode(spec, range(700)), received, what="encoding").assert_nothing()


@every_host
@pytest.mark.parametrize("spec", [Alibi.causal(12), Alibi.symmetric(6), Alibi.anchored(4)], ids=range(3))
def test_biases_of_every_column_are_the_same(host, spec):
    def received(q, k):
        return host.module.bias(spec, host.array(q, "int32"), host.array(k, "int32"))

    compare(lambda q, k: reference.bias(spec, q, k), received, what="bias").assert_nothing()


@every_host
@pytest.mark.parametrize("both", [True, False])
def test_buckets_of_every_column_are_the_same(host, both):
    spec = T5Bias(3, bidirectional=both)

    def received(q, k):
        return host.module.rows(spec, host.array(q, "int32"), host.array(k, "int32"))

    compare(lambda q, k: reference.rows(spec, q, k), received, what="bias").assert_nothing()


@pytest.mark.parametrize("base", [100.0, 10000.0, 500000.0, 1e6, 1e11])
@pytest.mark.parametrize("dim", [6, 64, 100, 256])
def test_angles_in_float32_are_the_same(dim, base):
    """Wrong by up to 1e-2 at position 131,071, and right."""
    exact = Rope(dim, base, "half")
    for positions in (None, LONG):
        found = compare(
            lambda p: reference.table(exact, p), single(frequencies(dim, base)), what="table", positions=positions
        )
        found.assert_nothing()
        assert found.distance > 0
        compare(
            single(frequencies(dim, base)), lambda p: reference.table(exact, p), what="table", positions=positions
        ).assert_nothing()


@pytest.mark.parametrize("base", [10000.0, 1e6])
def test_frequencies_by_an_exponential_in_float32_are_the_same(base):
    """`exp(-j * ln(base) / n)` is off by up to 9 units: the usual way of sinusoidal encodings."""
    j = np.arange(64, dtype=np.float32)
    by_exp = np.exp(j * np.float32(-np.log(base) / 64))
    compare(table(frequencies(128, base)), single(by_exp), what="table").assert_nothing()
    compare(single(1 / np.float32(base) ** (j / 64)), single(by_exp), what="table").assert_nothing()


def test_half_formats_of_both_are_the_same():
    """Two correct tables, each rounded to bfloat16: where they meet a tie they are a unit apart."""
    import ml_dtypes

    half = table(frequencies(64), dtype=ml_dtypes.bfloat16)

    def received(p):
        return tuple(part.astype(ml_dtypes.bfloat16) for part in single(frequencies(64))(p))

    found = compare(half, received, what="table")
    found.assert_nothing()
    assert found.distance > 0


def test_a_table_with_pairs_twice_is_that_with_pairs_once():
    once = table(frequencies(64))(np.arange(99))
    for twice in ([np.tile(part, 2) for part in once], [np.repeat(part, 2, axis=1) for part in once]):
        compare(once, twice, what="table").assert_nothing()
        compare(twice, once, what="table").assert_nothing()
        compare(twice, twice, what="table").assert_nothing()


def test_nothing_says_how_far_and_where():
    expected = sinusoid(32, 100)
    received = expected.copy()
    received[77, 5] += np.float32(2e-7)
    found = compare(expected, received, what="encoding")
    assert found.differences == ("nothing",)
    assert found.index == (77, 5)
    assert found.distance == float(received[77, 5]) - float(expected[77, 5])
    assert (found.expected, found.received, found.compared) == (expected[77, 5], received[77, 5], 3200)
    assert "position 77, channel 5" in str(found)


# --- How little is a difference ---


@pytest.mark.parametrize("position", [0, 20, 511])
@pytest.mark.parametrize("channel", [0, 31])
def test_one_number_is_a_difference(position, channel):
    expected = sinusoid(32, 512)
    received = expected.copy()
    received[position, channel] += 2e-6 + 2.0**-20 * position
    found = compare(expected, received, what="encoding")
    assert found.differences == ("unexplained",)
    assert found.index == (position, channel)


@pytest.mark.parametrize("share", [-1.01, -0.99, 0.99, 1.01])
@pytest.mark.parametrize("seed", range(20))
def test_the_bound_is_where_it_is_said_to_be(seed, share):
    expected = sinusoid(32, 512).astype(float)
    row, channel = np.random.default_rng(seed).integers((512, 32))
    received = expected.copy()
    received[row, channel] += 1e-3
    allowed = compare(expected, received, what="encoding").allowed
    received[row, channel] = expected[row, channel] + share * allowed
    found = compare(expected, received, what="encoding")
    assert found.differences == (("nothing",) if abs(share) < 1 else ("unexplained",))


def test_a_learned_number_may_not_move_at_all():
    expected = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    received = expected.copy()
    received[5, 7] = np.nextafter(received[5, 7], np.float32(9))
    found = compare(expected, received, what="encoding")
    assert found.differences == ("unexplained",)
    assert (found.index, found.tolerance) == ((5, 7), "equal numbers")
    compare(expected, received, what="encoding", tolerance=1e-6).assert_nothing()
    assert compare(expected, received, what="encoding", tolerance=1e-9).differences == ("unexplained",)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["encoding", "table", "bias"])
def test_what_is_not_finite_is_a_difference(what, number):
    expected = sinusoid(32, 64)
    received = expected.copy()
    received[3, 4] = number
    if what == "table":
        expected, received = (expected, expected), (received, expected)
    found = compare(expected, received, what=what)
    assert found.differences == ("unexplained",)
    assert found.index[-2:] == (3, 4)


@pytest.mark.parametrize("rows", [16, 64, 700])
@pytest.mark.parametrize("seed", range(20))
def test_noise_has_no_name(seed, rows):
    rng = np.random.default_rng(seed)
    one, other = rng.standard_normal((2, rows, 24))
    waves = sinusoid(24, rows)
    angles = np.exp(1j * rng.uniform(0, 7, (rows, 12)))
    circle = np.stack([angles.imag, angles.real], axis=-1).reshape(rows, 24)  # pairs of the right size
    for expected, received in (
        (one, other),
        (waves, other),
        (one, waves),
        (waves, circle),
        (waves, waves + 1e-3 * other),
    ):
        assert compare(expected, received, what="encoding").differences == ("unexplained",)
    assert compare((one, other), (other, one + 1), what="table").differences == ("unexplained",)
    assert compare(one, other, what="bias").differences == ("unexplained",)
    assert compare(np.rint(8 * one), np.rint(8 * other), what="bias").differences == ("unexplained",)


@pytest.mark.parametrize("rows", range(2, 8))
@pytest.mark.parametrize("seed", range(5))
def test_few_rows_fit_any_frequency_and_get_no_name(seed, rows):
    angles = np.exp(1j * np.random.default_rng(seed).uniform(0, 3, (rows, 12)))
    angles[0] = 1
    circle = np.stack([angles.imag, angles.real], axis=-1).reshape(rows, 24)
    assert compare(sinusoid(24, rows), circle, what="encoding").differences == ("unexplained",)


@pytest.mark.parametrize("keys", [1, 2, 3, 4])
def test_few_keys_get_no_name(keys):
    one, other = np.random.default_rng(keys).standard_normal((2, 5, 9, keys))
    assert compare(one, other, what="bias").differences == ("unexplained",)


def test_waves_that_are_not_even_get_no_name():
    """Another base, and far positions early and late in turn: the base alone does not say it."""
    positions = np.arange(600)
    late = table(frequencies(64, 5e5))(positions + 0.01 * (positions > 300) * (-1.0) ** positions)
    assert compare(table(frequencies(64)), late, what="table").differences == ("unexplained",)


# --- What cannot be told ---


def mixing(x, _):
    return x @ np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)


def still(x, _):
    return x


def flat(_):
    return np.ones(9)


def turned(layout):
    return rotated(table(frequencies(32)), layout, 32)


@pytest.mark.parametrize("other", ["half", "interleaved"])
def test_position_0_cannot_tell(other):
    found = compare(turned("half"), turned(other), what="rotation", head_dim=32, positions=[0])
    assert found.differences == ("cannot tell",)
    with pytest.raises(Different, match="cannot tell: no channel turns"):
        found.assert_nothing()


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_one_position_cannot_tell(base):
    for position in (0, 7):
        found = compare(table(frequencies(32)), table(frequencies(32, base)), what="table", positions=[position])
        assert found.differences == ("cannot tell",)
        assert f"position {position} alone" in found.explanation


@pytest.mark.parametrize("received", [np.zeros((9, 4)), np.ones((9, 4)), np.arange(36.0).reshape(9, 4)])
def test_equal_rows_cannot_tell(received):
    assert compare(np.zeros((9, 4)), received, what="encoding").differences == ("cannot tell",)
    assert compare(np.ones((3, 9, 4)), np.stack([received] * 3), what="bias").differences == ("cannot tell",)


def test_one_pair_cannot_tell():
    assert compare(np.ones((3, 1, 1)), np.ones((3, 1, 1)), what="bias").differences == ("cannot tell",)


def test_scattered_positions_name_no_base():
    """A frequency cannot be read from 0, 10, 20, ...: a turn more between two of them looks the same."""
    positions = np.arange(0, 5000, 10)
    for wrong in (frequencies(64, 5e5), frequencies(64) / 4):
        found = compare(table(frequencies(64)), table(wrong), what="table", positions=positions)
        assert found.differences == ("unexplained",)
    found = compare(table(frequencies(64)), table(frequencies(64), shift=10), what="table", positions=positions)
    assert found.differences == ("offset",)


def test_what_mixes_channels_is_no_rotation():
    right = rotated(table(frequencies(16)), "half", 16)
    found = compare(right, mixing, what="rotation", head_dim=16)
    assert found.differences == ("unexplained",)
    assert "depends on channels 0 to 15" in found.explanation
    with pytest.raises(SpecError, match=r"compare\.expected: expected a rotation"):
        compare(mixing, right, what="rotation", head_dim=16)
    found = compare(right, still, what="rotation", head_dim=16)
    assert found.differences == ("unexplained",)
    assert "no channel turns in the received" in found.explanation


# --- What is refused ---


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"what": "scores"}, "compare.what: expected"),
        ({"what": "encoding", "head_dim": 4}, "compare.head_dim: expected None with what='encoding', received 4"),
        ({"what": "rotation"}, "compare.head_dim: expected the width of x, received None"),
        ({"what": "encoding", "key_positions": [0]}, "compare.key_positions: expected None"),
        ({"what": "encoding", "tolerance": -1.0}, "compare.tolerance: expected a finite number >= 0, received -1.0"),
        ({"what": "encoding", "positions": [0, 0, 1]}, "compare.positions: expected ascending integers"),
        ({"what": "encoding", "positions": [0.5, 1.5]}, "compare.positions: expected ascending integers"),
        ({"what": "encoding", "positions": range(4)}, "compare.positions: expected 9, one a row, received 4"),
        ({"what": "encoding", "received": np.ones((9, 5))}, "compare.received: expected the width 4"),
        ({"what": "encoding", "received": np.ones(9)}, "compare.received: expected 2 axes, received the shape (9,)"),
        ({"what": "encoding", "received": "table"}, "compare.received: expected an array of real numbers"),
        ({"what": "encoding", "received": np.ones((9, 4)) * 1j}, "compare.received: expected an array of real numbers"),
        ({"what": "encoding", "received": flat}, "compare.received(positions): expected 2 axes"),
        ({"what": "table"}, "compare.expected: expected (cos, sin)"),
        ({"what": "rotation", "head_dim": 4}, "compare.expected: expected a function (x, positions) -> x'"),
        ({"what": "bias", "received": np.ones((9, 5))}, "compare.received: expected the shape (9, 4), received (9, 5)"),
        ({"what": "bias", "positions": range(4)}, "compare.positions: expected 9, one a row, received 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, sentence):
    given = {"expected": np.arange(36.0).reshape(9, 4), "received": np.arange(36.0).reshape(9, 4)} | arguments
    with pytest.raises(SpecError) as caught:
        compare(given.pop("expected"), given.pop("received"), **given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["encoding", "table", "bias"])
def test_what_is_expected_is_a_number(what):
    expected = sinusoid(32, 64)
    expected[3, 4] = np.nan
    with pytest.raises(SpecError, match=r"compare\.expected: expected (finite )?numbers, received NaN"):
        compare(*([(expected, expected)] * 2 if what == "table" else [expected] * 2), what=what)


def test_a_function_that_answers_another_shape_is_refused():
    def short(x, p):
        return x[:-1]

    with pytest.raises(SpecError, match="expected the shape"):
        compare(short, short, what="rotation", head_dim=8)


def test_a_comparison_is_a_value():
    found = compare(np.eye(4), np.eye(4), what="encoding")
    assert isinstance(found, Comparison)
    assert found == compare(np.eye(4), np.eye(4), what="encoding")
    assert found != replace(found, distance=1.0)
    assert found.difference == "nothing"
