"""Inputs on which a column was once wrong or slow, found by search."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from posenc import Sinusoidal
from posenc.spec import exact, sinusoidal
from tests.columns import every_host, numpy_dtype


@every_host
def test_a_subnormal_x_is_kept_and_breaks_no_tie(host):
    """Found by search: flushed sums, and a float16 subnormal taken for one that float32 flushes."""
    spec = Sinusoidal(4, layout="interleaved", denominator_shift=0, output_scale=0.0625)
    for dtype, entry in (("float32", 1e-40), ("bfloat16", 1e-40), ("float64", 1e-310), ("float16", 2.0**-20)):
        x = np.array([[entry, 2.0**-15, 0, 0]], numpy_dtype(dtype))
        name, shape, data = host.read(host.module.add(spec, host.array([[entry, 2.0**-15, 0, 0]], dtype)))
        result = np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)
        assert (name, result[0, 0]) == (dtype, x[0, 0])
        total = Fraction(float(x[0, 1])) + Fraction(1, 16)
        assert float(result[0, 1]) == exact.round_to(total, dtype)


@every_host
def test_float64_keeps_its_bound_under_a_large_magnitude(host):
    spec = Sinusoidal(64, layout="interleaved", denominator_shift=0, output_scale=2.0**20)
    data = host.read(host.module.encode(spec, range(-20, 43000), dtype="float64"))[2]
    table = np.frombuffer(data, np.float64).reshape(-1, 64)
    for position, channel in ((0, 0), (0, 40), (42222, 41), (22, 0), (355, 0), (710, 0)):
        expected = spec.value(position, channel, "float64")
        assert abs(table[position + 20, channel] - expected) <= 4 * np.spacing(abs(expected)) + 2.0**-62


@every_host
def test_a_position_that_float64_cannot_decide_is_decided_once(host, monkeypatch):
    """cos(2^-12) lies next to the middle of two float32 numbers."""
    questions = []
    sinusoidal._value.cache_clear()
    wave = exact.rounded_wave
    monkeypatch.setattr(exact, "rounded_wave", lambda *a: questions.append(a) or wave(*a))
    spec = Sinusoidal(64, layout="sin_cos", denominator_shift=0, base=65536)
    host.module.encode(spec, [1] * 50)
    assert 1 <= len(questions) <= 10
