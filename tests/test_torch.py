"""The PyTorch column outside a trace: bits, phases, arguments, and the fused kernel run on CPU tensors."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from posenc import Sinusoidal, SpecError
from posenc.spec import exact
from posenc.torch_impl import add, encode, phase
from posenc.torch_impl.inputs import CPU
from posenc.torch_impl.phase import fused
from posenc.torch_impl.words import facts, words

LIMIT = 2**31 - 1
SPECS = {
    "vaswani": Sinusoidal.vaswani(16),
    "fairseq": Sinusoidal.fairseq(17),
    "offset": Sinusoidal(20, layout="cos_sin", denominator_shift=0.5, base=5e5, output_scale=0.3, position_offset=-7),
    "farthest": Sinusoidal(16, layout="sin_cos", denominator_shift=0.0, position_offset=LIMIT, output_scale=1.9999999),
    "small": Sinusoidal(9, layout="interleaved", denominator_shift=0.0, pad="zero", output_scale=2.0**-20),
    "padded": Sinusoidal(16, layout="cos_sin", denominator_shift=1.0, padding_position=5, position_scale=1000.0),
    "between floats": Sinusoidal(16, layout="sin_cos", denominator_shift=0.0, output_scale=0.6796875298),
    "slowest": Sinusoidal(8, layout="interleaved", denominator_shift=1.0, base=2.0**63),
}
EDGES = [0, 1, -1, 5, 7, -7, 1000, 2**24 + 1, -(2**24) - 1, LIMIT, -LIMIT]
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def positions_of(count):
    generator = torch.Generator().manual_seed(1)
    return EDGES + torch.randint(-LIMIT, LIMIT, (count,), generator=generator).tolist()


def expected(spec, positions, dtype):
    rows = [[spec.value(p, channel, dtype) for channel in range(spec.dim)] for p in positions]
    return torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(positions), spec.dim)


def assert_same(got, want):
    """Equal values and equal signs, also of zero."""
    torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=0)
    assert torch.equal(got.signbit(), want.signbit())


@every_spec
@every_dtype
def test_integers_are_correctly_rounded(spec, dtype):
    positions = positions_of(8)
    assert_same(encode(spec, positions, dtype=dtype), expected(spec, positions, dtype))


@every_dtype
@pytest.mark.parametrize(
    "positions",
    [range(-700, 1900), range(1000, -1000, -3), range(-LIMIT, LIMIT, 2**24 + 3), range(LIMIT - 65, LIMIT)],
    ids=["many blocks", "down", "whole width", "far"],
)
@pytest.mark.parametrize("name", ["vaswani", "fairseq", "offset", "small", "padded"])
def test_a_range_has_the_bits_of_single_positions(name, positions, dtype):
    spec, values = SPECS[name], torch.tensor(list(positions))
    table = encode(spec, positions, dtype=dtype)
    # 32 positions are too few for angle addition
    assert_same(table, torch.cat([encode(spec, few, dtype=dtype) for few in values.split(32)]))
    assert_same(encode(spec, values.expand(2, -1), dtype=dtype), table.expand(2, *table.shape))


def midpoint_spec(dtype, position, layout):
    """Pair 1 has the sine of `position` within 1e-16 of a midpoint of `dtype`: float64 cannot tell on which side."""
    unit = 2.0 ** -exact.FORMATS[dtype].precision  # between 0.5 and 1
    midpoint = 0.625 + unit / 2
    return Sinusoidal(4, layout=layout, denominator_shift=0.0, base=(position / math.asin(midpoint)) ** 2)


@every_dtype
@pytest.mark.parametrize("layout", ["interleaved", "sin_cos", "cos_sin"])
@pytest.mark.parametrize("positions", [[1237], range(900, 1300)], ids=["direct", "range"])
def test_midpoints_reach_exact_arithmetic(monkeypatch, dtype, layout, positions):
    spec, asked, value = midpoint_spec(dtype, 1237, layout), [], Sinusoidal.value
    monkeypatch.setattr(Sinusoidal, "value", lambda self, *args: (asked.append(args), value(self, *args))[1])
    row = encode(spec, positions, dtype=dtype)[list(positions).index(1237)]
    channel = {"interleaved": 2, "sin_cos": 1, "cos_sin": 3}[layout]
    assert (1237, channel, dtype) in asked
    assert len(asked) <= 2
    assert row[channel].item() == value(spec, 1237, channel, dtype)


@every_spec
def test_float64_is_within_four_units(spec):
    positions = positions_of(8)
    got, want = encode(spec, positions, dtype=torch.float64), expected(spec, positions, "float64")
    units = torch.tensor([[4 * math.ulp(v) + 2.0**-62 for v in row] for row in want.tolist()], dtype=torch.float64)
    assert (got - want).abs().le(units).all()


@every_spec
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_positions_are_the_reals_they_are(spec, dtype):
    positions = torch.tensor([0.0, -0.0, 0.3, -0.7, 12345.678, -1e-9, 2.0**31 - 128, -1999999.9], dtype=dtype)
    for output, unit in (("float32", 2.0**-24), ("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        got = encode(spec, positions, dtype=output).double()
        want = expected(spec, positions.tolist(), "float64")
        assert (got - want).abs().le(want.abs() * unit + 2.0**-25 * (output == "float16") + 2.0**-48).all()


@every_spec
def test_phase_words(spec):
    plan = spec.plan()
    integers = torch.tensor(positions_of(4))
    want = [[(p + plan.offset) * w % 2**128 >> 32 for w in plan.increments] for p in integers.tolist()]
    words_of = [[[v >> 64, v >> 32 & 0xFFFFFFFF, v & 0xFFFFFFFF] for v in row] for row in want]
    assert phase(spec, integers).tolist() == words_of
    assert phase(spec, integers).dtype == torch.int64
    floats = torch.tensor([0.3, -0.7, 12345.678, -(2.0**-70), 1.5 * 2**30])
    sums = []
    for p in floats.tolist():
        whole, rest = math.trunc(p), Fraction(p) - math.trunc(p)
        k1 = math.trunc(rest * 2**31)
        parts = whole, k1, math.trunc((rest * 2**31 - k1) * 2**31)
        levels = [sum(k * (w >> 31 * level) for level, k in enumerate(parts)) for w in plan.increments]
        sums.append([(v + plan.offset * w) % 2**128 for v, w in zip(levels, plan.increments, strict=True)])
    words_of = [[[v >> 96, v >> 64 & 0xFFFFFFFF, v >> 32 & 0xFFFFFFFF] for v in row] for row in sums]
    assert phase(spec, floats).tolist() == phase(spec, floats.double()).tolist() == words_of


@every_spec
def test_the_fused_kernel_on_cpu_tensors(spec):
    scale = facts(spec).magnitude
    integers = torch.tensor(positions_of(60000))
    for positions, bound in ((integers, 2.0**-23), (integers.double() * 0.37, 2.0**-22)):
        got = fused(facts(spec), positions, words(spec, "fused", CPU))
        assert got.dtype == torch.float32
        assert (got - encode(spec, positions, dtype=torch.float64)).abs().max() <= bound * scale


@every_dtype
@pytest.mark.parametrize("shape", [(3, 70, 16), (2, 3000, 16), (0, 16), (2, 0, 16)])
def test_add_rounds_the_exact_sum(dtype, shape):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).to(getattr(torch, dtype))
    before = x.clone()
    got = add(SPECS["vaswani"], x)
    assert got.dtype == x.dtype
    assert torch.equal(x, before)
    table = encode(SPECS["vaswani"], range(shape[-2])).expand(shape)
    assert got.flatten().tolist() == rounded_sums(x.flatten(), table.flatten(), dtype)


def rounded_sums(x, e, dtype):
    sums = zip(x.tolist(), e.tolist(), strict=True)
    return [exact.round_to(Fraction(a) + Fraction(b), dtype) for a, b in sums]


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 16), ("float16", 13)])
def test_add_rounds_once(dtype, bits):
    """Sums that float32 rounds onto a midpoint of the shorter format: rounding them again would go astray."""
    spec, x = Sinusoidal.vaswani(64), torch.ones(8192, 64, dtype=getattr(torch, dtype))
    table = encode(spec, range(8192))
    sums = x.float() + table
    delicate = (sums.view(torch.int32) & ((1 << bits) - 1) == 1 << (bits - 1)) & (sums.double() != x.double() + table)
    want = rounded_sums(x[delicate], table[delicate], dtype)
    assert add(spec, x)[delicate].tolist() == want
    assert sums[delicate].to(x.dtype).tolist() != want  # what this test is for


def test_add_keeps_infinities_and_nan():
    x = torch.tensor([[math.inf, -math.inf, math.nan, -0.0]] * 2).half()
    got = add(Sinusoidal.vaswani(4), x)
    assert got[0, :2].tolist() == [math.inf, -math.inf]
    assert got[0, 2].isnan()


def test_positions_of_every_kind():
    spec = SPECS["offset"]
    want = encode(spec, [[1, 2, 3], [40, 50, 60]])
    integers = torch.tensor([[1, 2, 3], [40, 50, 60]])
    for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float32", "float64"):
        assert torch.equal(encode(spec, integers.to(getattr(torch, name))), want)
        array = integers.numpy().astype(name)
        array.flags.writeable = False
        assert torch.equal(encode(spec, array), want)
        assert torch.equal(encode(spec, array[::-1].astype(array.dtype.newbyteorder(">"))), want.flip(0))
    assert torch.equal(encode(spec, np.int64(2)), want[0, 1])
    assert torch.equal(encode(spec, ((1, 2, 3), (40, 50, 60.0))), want)
    assert torch.equal(encode(spec, range(1, 4)), want[0])
    assert torch.equal(encode(spec, range(3, 0, -1)), want[0].flip(0))
    assert torch.equal(encode(spec, integers.T), want.transpose(0, 1))
    assert encode(spec, 7).shape == (20,)
    for empty in ([], range(0), torch.empty(0, dtype=torch.int32), np.zeros((0,))):
        assert encode(spec, empty, dtype="float16").shape == (0, 20)
        assert phase(spec, empty).shape == (0, 10, 3)
    assert encode(spec, torch.empty(2, 0)).shape == (2, 0, 20)


def test_add_with_positions():
    spec, x = SPECS["vaswani"], torch.zeros(2, 3, 4, 16)
    for positions in (torch.tensor(5), [[1], [2], [3]], torch.arange(24).view(2, 3, 4)):
        assert torch.equal(add(spec, x, positions), encode(spec, positions).expand(x.shape))
    assert torch.equal(add(spec, x), add(spec, x, range(4)))


SPEC = SPECS["vaswani"]
X = torch.zeros(2, 3, 16)
WHY = "expected integers, float32 or float64, received"
VALUE = "expected finite numbers of magnitude below 2^31, received"
ERRORS = [
    (lambda: encode(3, [1]), "encode.spec: expected a specification such as Sinusoidal.vaswani"),
    (lambda: add(Sinusoidal, X), "add.spec: expected a specification such as Sinusoidal"),
    (lambda: phase({}, 1), "phase.spec: expected a specification such as Sinusoidal"),
    (lambda: encode(SPEC, X.half()), f"encode.positions: {WHY} float16, which holds integers exactly only up to 2,048"),
    (lambda: phase(SPEC, X.bfloat16()), f"phase.positions: {WHY} bfloat16, which holds"),
    (lambda: add(SPEC, X, X.bool()), f"add.positions: {WHY} bool: a mask is not a position"),
    (lambda: encode(SPEC, np.zeros(2, np.complex64)), f"encode.positions: {WHY} complex64"),
    (lambda: encode(SPEC, np.array(["a"])), f"encode.positions: {WHY} str"),
    (lambda: encode(SPEC, "abc"), f"encode.positions: {WHY} str"),
    (lambda: encode(SPEC, True), f"encode.positions: {WHY} bool"),
    (lambda: encode(SPEC, [1, math.nan, 2**40]), f"encode.positions: {VALUE} nan"),
    (lambda: phase(SPEC, torch.tensor([[0.0, 1.0], [-math.inf, math.nan]])), f"phase.positions: {VALUE} -inf"),
    (lambda: encode(SPEC, torch.tensor([1, 2**31, -(2**40)])), f"encode.positions: {VALUE} 2147483648"),
    (lambda: encode(SPEC, torch.tensor([3, -(2**31)], dtype=torch.int32)), f"encode.positions: {VALUE} -2147483648"),
    (lambda: encode(SPEC, range(5, 2**31 + 1)), f"encode.positions: {VALUE} 2147483648"),
    (lambda: encode(SPEC, np.array([2**64 - 1], np.uint64)), f"encode.positions: {VALUE} 18446744073709551615"),
    (lambda: encode(SPEC, 1, dtype=torch.int32), "encode.dtype: expected float64, float32, bfloat16 or float16, rec"),
    (lambda: encode(SPEC, 1, dtype="float8"), "encode.dtype: expected float64, .* received 'float8'"),
    (lambda: encode(SPEC, 1, dtype=np.float32), "encode.dtype: expected float64, .* received <class"),
    (lambda: add(SPEC, X.int()), "add.x: expected float64, float32, bfloat16 or float16, received int32"),
    (lambda: add(SPEC, X.numpy()), "add.x: expected float64, .* received ndarray"),
    (lambda: add(SPEC, X[..., :3]), r"add.x: expected shape \(..., 16\), received \(2, 3, 3\)"),
    (lambda: add(SPEC, X[0, 0, 0]), r"add.x: expected shape \(..., 16\), received \(\)"),
    (lambda: add(SPEC, X[0, 0]), r"add.x: expected shape \(..., length, 16\) where no positions are given, received"),
    (lambda: add(SPEC, X, [1, 2]), r"add.positions: expected a shape that broadcasts to \(2, 3\), received \(2,\)"),
    (lambda: add(SPEC, X[:1], [[1], [2]]), r"add.positions: expected a shape that broadcasts to \(1, 3\), received"),
    (lambda: add(SPEC, X, torch.zeros(1, 2, 3)), r"add.positions: expected a shape that broadcasts to \(2, 3\)"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_refusals(call, message):
    with pytest.raises((ValueError, SpecError), match=message.replace("^", r"\^")):
        call()


def test_without_numpy_and_in_little_memory():
    program = """
import resource, sys, warnings
sys.modules["numpy"] = None
warnings.simplefilter("ignore")
import torch
from posenc import Sinusoidal
from posenc.torch_impl import add, encode, phase
spec = Sinusoidal.vaswani(1024)
encode(spec, range(4096)), add(spec, torch.zeros(3, 1024).half()), phase(spec, [1, 2.5])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = encode(spec, range(40000)).nbytes / 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / size)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 1.1, result.stdout
