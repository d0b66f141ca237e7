"""The specification: construction, named conventions, exact arithmetic, JSON."""

from __future__ import annotations

import json
import math
import time
from fractions import Fraction

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posenc import Sinusoidal, SpecError, from_json, to_json
from posenc.spec import exact, sinusoidal

DTYPES = ("float64", "float32", "bfloat16", "float16")

specs = st.builds(
    Sinusoidal,
    st.integers(1, 40).map(lambda n: 2 * n),
    layout=st.sampled_from(["interleaved", "sin_cos", "cos_sin"]),
    denominator_shift=st.sampled_from([0, 1, 0.5, -2]),
    base=st.floats(1.5, 1e7),
    min_timescale=st.sampled_from([1.0, 0.1, 3.0]),
    timescale_rule=st.sampled_from(["geometric", "tensor2tensor"]),
    position_offset=st.integers(-(2**31) + 1, 2**31 - 1),
    position_scale=st.sampled_from([1.0, 1000.0, 0.075]),
    output_scale=st.floats(2.0**-20, 2.0**20),
    padding_position=st.none() | st.integers(-5, 5),
)


@given(specs)
def test_json_round_trip_and_stable_text(spec):
    text = to_json(spec)
    again = from_json(text)
    assert again == spec
    assert hash(again) == hash(spec)
    assert to_json(again) == text


def test_canonical_text_does_not_drift():
    assert to_json(Sinusoidal.fairseq(8)) == (
        '{"schema": 1, "family": "sinusoidal", "dim": 8, "layout": "sin_cos", "denominator_shift": 1.0, '
        '"base": 10000.0, "min_timescale": 1.0, "timescale_rule": "geometric", "position_offset": 2, '
        '"position_scale": 1.0, "output_scale": 1.0, "pad": null, "padding_position": -1}'
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dim": None}, "Sinusoidal.dim: expected an integer >= 2, received None"),
        ({"dim": 8.0}, "Sinusoidal.dim: expected an integer >= 2, received 8.0"),
        ({"base": "1e4"}, "Sinusoidal.base: expected a finite number > 0, received '1e4'"),
        ({"schema": 2}, "from_json.schema: expected 1, received 2"),
        ({"schema": True}, "from_json.schema: expected 1, received True"),
        (
            {"family": "cosine"},
            "from_json.family: expected 'sinusoidal', 'rope', 'learned', 'alibi', 't5_bias', 'swin_index', "
            "'shaw_clip', 'deberta_buckets', 'transformer_xl_index' or 'music_transformer_index', received 'cosine'",
        ),
        ({"theta": 1}, "received 'theta'"),
        ({"layout": "zip"}, "Sinusoidal.layout: expected 'interleaved', 'sin_cos' or 'cos_sin', received 'zip'"),
    ],
)
def test_json_refuses_by_name(change, sentence):
    record = json.loads(to_json(Sinusoidal.vaswani(8))) | change
    with pytest.raises(SpecError) as caught:
        from_json(json.dumps(record))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("key", list(json.loads(to_json(Sinusoidal.vaswani(8)))))
def test_json_needs_every_key(key):
    record = json.loads(to_json(Sinusoidal.vaswani(8)))
    del record[key]
    with pytest.raises(SpecError, match=key):
        from_json(json.dumps(record))


def test_json_refuses_a_repeated_key():
    text = to_json(Sinusoidal.vaswani(8)).replace('"dim": 8', '"dim": 8, "dim": 16')
    with pytest.raises(SpecError, match="each key once, received 'dim' twice"):
        from_json(text)


def test_equal_numbers_make_equal_specs():
    whole = Sinusoidal(np.int64(8), layout="interleaved", denominator_shift=0, base=10000)
    assert whole == Sinusoidal.vaswani(8)
    assert to_json(whole) == to_json(Sinusoidal.vaswani(8))
    assert Sinusoidal(8, layout="interleaved", denominator_shift=-0.0) == Sinusoidal.vaswani(8)


@pytest.mark.parametrize("missing", ["layout", "denominator_shift"])
def test_no_default_where_the_world_has_two_conventions(missing):
    given_parameters = {"layout": "interleaved", "denominator_shift": 0.0}
    del given_parameters[missing]
    with pytest.raises(TypeError, match=missing):
        Sinusoidal(8, **given_parameters)
    with pytest.raises(TypeError, match=missing):
        Sinusoidal.diffusers(8, **given_parameters)


def published(position: int, dim: int, *, shift: float, first: float = 1.0, scale: float = 1.0, base: float = 1e4):
    """Sines and cosines of one position at 50 digits, typed from the published code."""
    with mpmath.workdps(50):
        pairs = dim // 2
        exponents = [mpmath.mpf(j) / (pairs - mpmath.mpf(shift)) if j else mpmath.mpf(0) for j in range(pairs)]
        angles = [mpmath.mpf(scale) * position * mpmath.mpf(first) * mpmath.mpf(base) ** -e for e in exponents]
        return [float(mpmath.sin(a)) for a in angles], [float(mpmath.cos(a)) for a in angles]


def joined(halves):
    first, second = halves
    return first + second


def zipped(sines, cosines):
    return [value for pair in zip(sines, cosines, strict=True) for value in pair]


CONVENTIONS = [
    ("vaswani", Sinusoidal.vaswani(16), lambda p: zipped(*published(p, 16, shift=0))),
    ("vaswani base", Sinusoidal.vaswani(16, base=5e5), lambda p: zipped(*published(p, 16, shift=0, base=5e5))),
    ("tensor2tensor", Sinusoidal.tensor2tensor(16), lambda p: joined(published(p, 16, shift=1))),
    (
        "tensor2tensor timescale, odd",
        Sinusoidal.tensor2tensor(17, min_timescale=4.0, position_offset=3),
        lambda p: [*joined(published(p + 3, 16, shift=1, first=4.0, base=2500)), 0.0],
    ),
    (
        "timescale divided",
        Sinusoidal(16, layout="sin_cos", denominator_shift=1, min_timescale=4.0),
        lambda p: joined(published(p, 16, shift=1, first=0.25, base=2500)),
    ),
    ("fairseq", Sinusoidal.fairseq(16), lambda p: joined(published(p + 2, 16, shift=1))),
    ("fairseq padding 4", Sinusoidal.fairseq(16, padding_idx=4), lambda p: joined(published(p + 5, 16, shift=1))),
    ("whisper", Sinusoidal.whisper(16), lambda p: joined(published(p, 16, shift=1))),
    ("ddpm odd", Sinusoidal.ddpm(17), lambda p: [*joined(published(p, 16, shift=1)), 0.0]),
    (
        "stable diffusion",
        Sinusoidal.diffusers(16, layout="cos_sin", denominator_shift=0, position_scale=1000),
        lambda p: joined(reversed(published(p, 16, shift=0, scale=1000))),
    ),
    (
        "diffusers half shift",
        Sinusoidal.diffusers(16, layout="sin_cos", denominator_shift=0.5),
        lambda p: joined(published(p, 16, shift=0.5)),
    ),
]


@pytest.mark.parametrize(("name", "spec", "formula"), CONVENTIONS, ids=[name for name, _, _ in CONVENTIONS])
@pytest.mark.parametrize("position", [0, 1, 257, 65537, -70000])
def test_named_conventions_are_the_published_formulas(name, spec, formula, position):
    assert [spec.value(position, channel, "float64") for channel in range(spec.dim)] == formula(position)


def test_fairseq_padding_row_is_zero_and_only_that_one():
    spec = Sinusoidal.fairseq(8)
    assert [spec.value(-1, channel) for channel in range(8)] == [0.0] * 8
    assert spec.value(-1, 0) != Sinusoidal.ddpm(8).value(1, 0)
    assert spec.value(0, 0, "float64") == math.sin(2)


def test_whisper_and_the_paper_refuse_an_odd_width():
    for constructor in (Sinusoidal.whisper, Sinusoidal.vaswani):
        with pytest.raises(
            SpecError, match=r"expected an even integer \(or Sinusoidal\(..., pad='zero'\)\), received 9"
        ):
            constructor(9)


def test_a_single_pair_has_the_first_frequency_whatever_the_shift():
    for shift in (0.0, 1.0, 0.5):
        spec = Sinusoidal(2, layout="sin_cos", denominator_shift=shift)
        assert spec.plan().increments == Sinusoidal.vaswani(2).plan().increments
    with pytest.raises(SpecError, match="expected a number below dim // 2 = 2, received 2"):
        Sinusoidal(4, layout="sin_cos", denominator_shift=2)


@pytest.mark.parametrize("dim", [2, 6, 64, 512, 8192])
@pytest.mark.parametrize("base", [10000.0, 500000.0, 3.7, 0.25])
def test_increments_are_correctly_rounded(dim, base):
    spec = Sinusoidal.vaswani(dim, base=base)
    with mpmath.workdps(80):
        for pair in {0, 1 % spec.pairs, spec.pairs // 2, spec.pairs - 1}:
            true = mpmath.mpf(repr(base)) ** (mpmath.mpf(-2 * pair) / dim) / (2 * mpmath.pi) * mpmath.mpf(2) ** 128
            assert spec.plan().increments[pair] == int(mpmath.nint(true))


def test_lowering_4096_channels_takes_less_than_100_ms():
    times = []
    for base in (10001.0, 10002.0, 10003.0):  # a plan is kept, so each base is new
        begin = time.perf_counter()
        Sinusoidal.vaswani(4096, base=base).plan()
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1


def test_one_value_is_the_same_at_every_precision_of_pi():
    digits = mpmath.mp.clone()
    digits.prec = 4000
    for bits in (64, 256, 1000, 3000):
        assert abs(exact.pi(bits) - int(digits.pi * digits.mpf(2) ** bits)) <= 1


@given(
    st.fractions() | st.floats(allow_nan=False, allow_infinity=False).map(Fraction),
    st.sampled_from(DTYPES),
)
def test_rounding_is_the_nearest_with_ties_to_even(value, dtype):
    rounded = exact.round_to(value, dtype)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if math.isinf(rounded):
        largest = Fraction(float(ml_dtypes.finfo(kind).max))
        assert abs(value) > largest
        return
    assert float(np.array(rounded).astype(kind)) == rounded  # representable
    with np.errstate(over="ignore"):
        up = float(np.nextafter(np.array(rounded, kind), np.array(np.inf, kind)))
        down = float(np.nextafter(np.array(rounded, kind), np.array(-np.inf, kind)))
    distance = abs(Fraction(rounded) - value)
    for other in (up, down):
        if math.isfinite(other):
            assert distance <= abs(Fraction(other) - value)
    if kind.itemsize == 8:
        assert rounded == float(value)


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(0, 31), st.sampled_from(DTYPES))
def test_value_is_the_formula_correctly_rounded(position, channel, dtype):
    spec = Sinusoidal.vaswani(32)
    with mpmath.workprec(400):
        angle = mpmath.mpf(position) * mpmath.mpf(10000) ** (mpmath.mpf(-2 * (channel // 2)) / 32)
        man, exponent = mpmath.frexp(mpmath.cos(angle) if channel % 2 else mpmath.sin(angle))
        true = Fraction(int(man * mpmath.mpf(2) ** 390)) * Fraction(2) ** (int(exponent) - 390)
    assert spec.value(position, channel, dtype) == exact.round_to(true, dtype)


def test_extreme_frequencies_are_refused_with_the_bound():
    with pytest.raises(SpecError, match=r"from 2\^-64 to 2\^14 radians per unit of position, received one of 2\^-66"):
        Sinusoidal(4, layout="interleaved", denominator_shift=1, base=2.0**66)
    assert Sinusoidal(4, layout="interleaved", denominator_shift=1, base=2.0**64).plan().increments[1] > 2**60
    assert sinusoidal.GREATEST_FREQUENCY == 2.0**14


@pytest.mark.parametrize("position", [None, "3", True, np.True_, math.nan, math.inf, [1], "x"])
def test_value_refuses_what_is_no_position(position):
    with pytest.raises(SpecError, match=r"Sinusoidal.value.position: expected a finite number, received"):
        Sinusoidal.vaswani(4).value(position, 0)


def test_value_takes_scalars_of_other_libraries():
    spec = Sinusoidal.vaswani(4)
    assert spec.value(np.int64(3), 0) == spec.value(3, 0) == spec.value(np.float32(3), 0)
    with pytest.raises(SpecError, match=r"Sinusoidal.value.dtype"):
        spec.value(3, 0, "bf16")
    with pytest.raises(IndexError, match=r"expected a channel from 0 to 3, received 4"):
        spec.value(3, 4)


def test_an_odd_width_may_be_any_integer():
    assert Sinusoidal.ddpm(np.int64(7)) == Sinusoidal.ddpm(7)
    with pytest.raises(SpecError, match=r"Sinusoidal.dim: expected an integer >= 2, received 7.0"):
        Sinusoidal.ddpm(7.0)


def test_padding_bits():
    plan = Sinusoidal.fairseq(4).plan()
    assert plan.padding_bits("float32") == 0xBF800000
    assert plan.padding_bits("float64") == 0xBFF0000000000000
    far = Sinusoidal(4, layout="sin_cos", denominator_shift=0, padding_position=2**24 + 1).plan()
    assert far.padding_bits("float32") is None
    assert far.padding_bits("float64") == 0x4170000010000000
