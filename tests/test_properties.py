"""What mathematics says of sinusoidal encodings, whatever computes them; shown on the NumPy column."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from posenc import Sinusoidal
from posenc.numpy_impl import encode, phase
from posenc.spec import exact

positions = st.integers(-(2**31) + 1, 2**31 - 1)
specs = st.builds(
    Sinusoidal,
    st.integers(1, 24).map(lambda pairs: 2 * pairs),
    layout=st.sampled_from(["interleaved", "sin_cos", "cos_sin"]),
    denominator_shift=st.sampled_from([0.0, 0.5]),
    base=st.floats(2.0, 1e8),
    position_scale=st.sampled_from([1.0, 0.001, 1000.0]),
    output_scale=st.sampled_from([1.0, 0.125, 0.075, 3.0]),
)


def waves(spec: Sinusoidal, p: object, dtype: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sines and cosines `(*P, pairs)`, whatever the layout."""
    e = encode(spec, p, dtype=dtype).astype(np.float64)
    if spec.layout == "interleaved":
        return e[..., ::2], e[..., 1::2]
    first, second = e[..., : spec.pairs], e[..., spec.pairs :]
    return (first, second) if spec.layout == "sin_cos" else (second, first)


@given(specs, st.lists(positions, min_size=1, max_size=8), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_channels_are_bounded_by_the_scale(spec: Sinusoidal, p: list[int], dtype: str) -> None:
    # rounding is monotonic, so the bound is the rounded scale itself, with no tolerance
    assert np.abs(encode(spec, p, dtype=dtype)).max() <= exact.round_to(exact.shortest(spec.output_scale), dtype)


@given(specs, st.lists(positions, min_size=1, max_size=8))
def test_every_pair_has_the_norm_of_the_scale(spec: Sinusoidal, p: list[int]) -> None:
    sine, cosine = waves(spec, p, "float64")
    # 4 units in the last place of each channel, 2^-50 of it, hence 2^-49 of the square, and three roundings of it
    np.testing.assert_allclose((sine**2 + cosine**2) / spec.output_scale**2, 1, rtol=0, atol=2.0**-49 + 2.0**-51)


@given(specs, positions, st.integers(-(2**20), 2**20))
def test_a_shift_of_position_is_a_rotation_of_every_pair(spec: Sinusoidal, p: int, shift: int) -> None:
    p = max(-(2**30), min(2**30, p))
    scale = spec.output_scale
    (s, c), (ds, dc), (sine, cosine) = (waves(spec, q, "float64") for q in (p, shift, p + shift))
    # three factors within 2^-50 and a few roundings
    bound = {"rtol": 0, "atol": scale * 2.0**-47}
    np.testing.assert_allclose((s * dc + c * ds) / scale, sine, **bound)
    np.testing.assert_allclose((c * dc - s * ds) / scale, cosine, **bound)


def test_a_rotation_by_another_shift_would_be_seen() -> None:
    spec = Sinusoidal.vaswani(8)
    (s, c), (ds, dc), (sine, _) = (waves(spec, q, "float64") for q in (1000, 10, 1011))
    assert np.abs(s * dc + c * ds - sine).min() > 2.0**-47


@given(specs, positions, st.sampled_from(["float64", "float32", "bfloat16", "float16"]))
def test_sines_are_odd_and_cosines_even(spec: Sinusoidal, p: int, dtype: str) -> None:
    (s, c), (minus_s, minus_c) = waves(spec, p, dtype), waves(spec, -p, dtype)
    if dtype == "float64":  # within 4 units of the same value
        np.testing.assert_allclose([s, c], [-minus_s, minus_c], rtol=2.0**-49, atol=2.0**-61)
    else:  # rounding to nearest even is symmetric
        np.testing.assert_array_equal([s, c], [-minus_s, minus_c])


@given(specs, st.integers(-(2**30), 2**30), st.integers(-(2**30) + 1, 2**30 - 1))
def test_phases_add(spec: Sinusoidal, p: int, q: int) -> None:
    def whole(at: int) -> list[int]:
        return [(int(a) << 64) + (int(b) << 32) + int(c) for a, b, c in phase(spec, at)]

    for a, b, both in zip(whole(p), whole(q), whole(p + q), strict=True):
        assert (both - a - b) % 2**96 in (0, 1)  # the carry of the word that is not shown


@given(specs)
def test_frequencies_decrease(spec: Sinusoidal) -> None:
    increments = spec.plan().increments
    assert all(slow < fast for fast, slow in pairwise(increments))


def test_the_first_million_positions_have_distinct_phases() -> None:
    # 64 bits of the fastest pair alone, one radian per unit of position, which these specifications share
    specs = Sinusoidal.vaswani(512), Sinusoidal.tensor2tensor(64), Sinusoidal.vaswani(128, base=500_000.0)
    fastest = Sinusoidal.vaswani(2)
    assert {spec.plan().increments[0] for spec in specs} == set(fastest.plan().increments)
    words = phase(fastest, range(1_000_000))[:, 0]
    assert len(np.unique(words[:, 0] << 32 | words[:, 1])) == 1_000_000


def test_the_first_million_float32_rows_are_distinct() -> None:
    # the fastest and the slowest of four pairs already tell them apart
    rows = encode(Sinusoidal.vaswani(8), range(1_000_000))
    assert len(np.unique(rows.view(np.uint64)[:, [0, 3]].copy().view("V16"))) == 1_000_000


def test_repeated_rows_would_be_seen() -> None:
    """An eighth of a turn, nearly, for each position: eight rows, and what float16 sees of the drift at the zeros."""
    spec = Sinusoidal(2, layout="interleaved", denominator_shift=0.0, position_scale=0.7853981633974483)
    rows = encode(spec, range(1000), dtype="float16")
    assert len(np.unique(rows[1:].copy().view(np.uint32))) <= 16
