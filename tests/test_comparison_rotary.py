"""Ports of rotary tables and rotations that went wrong are named; what is right is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from posenc import Rope, Yarn
from posenc.interop.comparison import Different, compare
from tests.wrong.ported import HALF, ROTARY, frequencies, llama3, rotated, sinusoid, table, yarn

pytestmark = pytest.mark.filterwarnings(r"error::RuntimeWarning:posenc\.interop\..*")

WIDTHS = (16, 64, 80, 128)
FAR = np.arange(2000, 2064)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("port", ROTARY, ids=str)
def test_a_wrong_port_is_named(port, width):
    expected, received, how = port.make(width, np.random.default_rng(width))
    found = compare(expected, received, **how)
    assert found.differences == port.differences, str(found)
    assert port.says in found.explanation
    assert found.distance > found.allowed
    with pytest.raises(Different, match=f"{port.differences[0]}: "):
        found.assert_nothing()


def single(f, dtype=np.float32):
    """Angles in float32, as most libraries have them."""

    def made(p):
        angles = np.asarray(p, np.float32)[:, None] * f.astype(np.float32)
        return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)

    return made


@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_base_is_named_far_from_position_0(width, scaled):
    """Where float32 angles are wrong by 1e-4, and slow pairs hardly turn within the 64 rows."""
    right, wrong = frequencies(width), frequencies(width, 5e5)
    if scaled:
        right, wrong = llama3(right, original=256), llama3(wrong, original=256)
    for one, other in ((right, wrong), (wrong, right)):
        found = compare(single(one), single(other), what="table", positions=FAR)
        assert found.differences == ("base",), str(found)


def test_a_base_is_named_where_slow_pairs_turn_too_little_to_be_told():
    """Rounded to bfloat16, and 300 rows: pairs slower than 1e-4 say nothing."""
    found = compare(
        single(frequencies(64), HALF), single(frequencies(64, 5e5), HALF), what="table", positions=range(300)
    )
    assert found.differences == ("base",), str(found)


@pytest.mark.parametrize("width", [6, 10, 18])
def test_odd_counts_of_pairs_in_the_wrong_layout_have_no_wrong_sign(width):
    """Half of a pair's channels change places with another's: (v, u) in place of (u, v) is no sign."""
    order = np.arange(width).reshape(2, -1).T.ravel()
    right = rotated(table(frequencies(width)), "half", width)
    back = rotated(table(-frequencies(width)), "half", width)

    def wrong(x, p, turn=right):
        return turn(x[:, order], p)[:, np.argsort(order)]

    for one, other in ((right, wrong), (wrong, right)):
        assert compare(one, other, what="rotation", head_dim=width).differences == ("layout",)
    compare(wrong, wrong, what="rotation", head_dim=width).assert_nothing()
    found = compare(right, lambda x, p: wrong(x, p, back), what="rotation", head_dim=width)
    assert found.differences == ("layout", "sign")


@pytest.mark.parametrize("width", [20, 96, 256])
@pytest.mark.parametrize("positions", [range(64), FAR])
def test_pairs_in_another_order_have_no_other_magnitude_by_rounding(positions, width):
    """Slow pairs are rounded to bfloat16 to the same side in all rows."""
    slow, n = yarn(frequencies(width, 5e5), width, 5e5, 4, 512), width // 2
    for order in (np.roll(np.arange(n), 5), np.arange(n)[::-1], np.arange(n) ^ (n > 10)):
        meant, wrong = (table(f, 0.1 * np.log(4) + 1, dtype=HALF) for f in (slow, slow[order]))
        found = compare(meant, wrong, what="table", positions=positions)
        assert found.differences == (("layout",) if (order != np.arange(n)).any() else ("nothing",)), str(found)


@pytest.mark.parametrize("length", [300, 500])
def test_positions_that_start_again_are_no_offset(length):
    """The last rows alone are those of p - 256."""
    found = compare(sinusoid(32, length), sinusoid(32, 256)[np.arange(length) % 256], what="encoding")
    assert found.differences == ("unexplained",)
    rows = np.random.default_rng(0).standard_normal((length, 32)).astype(np.float32)
    assert compare(rows, rows[np.arange(length) % 256], what="encoding").differences == ("unexplained",)


@pytest.mark.parametrize("base", [1e4, 1e6, 5e6])
@pytest.mark.parametrize("truncate", [True, False])
def test_a_base_is_named_behind_yarn_wherever_its_band_ends(base, truncate):
    """Of 5e6 the band ends at pair 12.005 where it is not rounded to a whole one."""
    rule = Yarn(4.0, original_length=2048, truncate=truncate)
    right, wrong = (table(np.array(Rope(64, b, "half", scaling=rule).frequencies(), float)) for b in (1e7, base))
    for one, other in ((right, wrong), (wrong, right)):
        assert compare(one, other, what="table").differences == ("base",)


@pytest.mark.parametrize(("width", "base", "rows"), [(16, 5e5, 16), (128, 1e6, 16), (64, 1e4, 64)])
def test_a_pair_that_is_a_little_slower_is_no_base(width, base, rows):
    for pair in range(width // 2):
        wrong = frequencies(width, base)
        wrong[pair] *= 1.01
        found = compare(table(frequencies(width, base)), table(wrong), what="table", positions=range(rows))
        # the slowest pairs turn by less within these rows than two correct tables may be apart
        assert found.differences in {("scaling",), ("unexplained",), ("nothing",)}, str(found)
        assert found.differences == ("scaling",) or pair > width // 4
        assert (found.differences == ("nothing",)) == (found.distance <= found.allowed)


def test_a_factor_that_is_said_is_not_1():
    found = compare(sinusoid(32, 64), sinusoid(32, 64) * np.float32(1 + 1e-5), what="encoding")
    assert found.differences == ("scaling",)
    assert "values are 1.00001 times" in found.explanation


@pytest.mark.parametrize("rows", [40, 59, 126])
@pytest.mark.parametrize("width", [6, 10, 64])
def test_rows_that_are_late_have_no_name_where_float32_angles_are_worst(rows, width):
    """At 2^20, where those may be off by 1/8: a speed that fits all rows by half a radian is none."""
    positions = 2**20 + np.arange(rows)
    late = table(frequencies(width))(positions + (np.arange(rows) > rows // 2))
    found = compare(table(frequencies(width)), late, what="table", positions=positions)
    assert found.differences == ("unexplained",), str(found)


def test_one_column_that_is_a_little_greater_is_no_factor_of_all():
    positions = 1000 + np.arange(64)
    cos, sin = table(frequencies(64))(positions)
    for column in range(32):
        greater = cos * (1 + 1e-4 * (np.arange(32) == column))
        found = compare((cos, sin), (greater, sin), what="table", positions=positions)
        assert "values are" not in found.explanation
        assert (found.differences == ("nothing",)) <= (found.distance <= found.allowed)
