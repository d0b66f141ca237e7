"""table and rotate outside a trace: bits, every layout, dtype and shape, splits, gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from posenc import Linear, Llama3, LongRope, Proportional, Rope, Yarn
from posenc.spec import exact
from posenc.torch_impl import Table, rotate, rotation, table
from posenc.torch_impl.inputs import CPU
from posenc.torch_impl.phase import fused
from posenc.torch_impl.words import facts, words

LIMIT = 2**31 - 1
LLAMA3 = Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)
SPECS = {
    "plain": Rope(16, 10000.0, "half"),
    "negative": Rope(8, 500000.0, "interleaved", direction="negative", scaling=Linear(3.0)),
    "yarn": Rope(16, 10000.0, "half", scaling=Yarn(40.0, original_length=4096), direction="negative"),
    "llama3": Rope(20, 500000.0, "half", rotary_dim=16, scaling=LLAMA3),
    "still": Rope(16, 1e6, "half", scaling=Proportional(0.5)),
    "longrope": Rope(
        4, 1e4, "half", scaling=LongRope((1.0, 3.0), (2.0, 9.0), original_length=99, factor=8.0), length=9
    ),
}
EDGES = [0, 1, -1, 7, -1000, 2**24 + 1, LIMIT, -LIMIT]
FLOATS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)
every_layout = pytest.mark.parametrize("layout", ["half", "interleaved", "interleaved_to_half"])


def values(spec, positions, dtype):
    rows = [[spec.value(p, channel, dtype) for channel in range(2 * spec.pairs)] for p in positions]
    return torch.tensor(rows, dtype=torch.float64).split(spec.pairs, -1)


def assert_same(got, want):
    """Equal values and equal signs, also of zero."""
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=0)
        assert torch.equal(ours.signbit(), theirs.signbit())


@every_spec
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tables_are_correctly_rounded(spec, dtype):
    assert_same(table(spec, EDGES, dtype=dtype), values(spec, EDGES, dtype))
    long = table(spec, range(-70, 130), dtype=dtype)
    assert_same([t[60:80] for t in long], values(spec, range(-10, 10), dtype))
    assert_same(
        long, [torch.cat(t) for t in zip(*[table(spec, [p], dtype=dtype) for p in range(-70, 130)], strict=True)]
    )


@every_spec
def test_float64_and_float_positions(spec):
    for positions, bound in ((EDGES, 0.0), ([0.5, -3.25, 1e6 + 0.1], 2.0**-48 * spec.magnitude)):
        for got, want in zip(table(spec, positions, dtype="float64"), values(spec, positions, "float64"), strict=True):
            units = torch.tensor([[4 * math.ulp(v) + 2.0**-62 for v in row] for row in want.tolist()])
            assert (got - want).abs().le(units + bound).all()


@every_spec
def test_the_fused_kernel_on_cpu_tensors(spec):
    for positions, bound in ((torch.arange(-500, LIMIT, 2**20), 2.0**-23), (torch.arange(999) * 0.37, 2.0**-22)):
        got = fused(facts(spec), positions, words(spec, "fused", CPU))
        want = torch.cat(table(spec, positions, dtype="float64"), -1)
        assert (got - want).abs().max() <= bound * spec.magnitude


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("positions", [[1237], range(900, 1300)], ids=["direct", "range"])
def test_midpoints_reach_exact_arithmetic(monkeypatch, dtype, positions):
    """The sine of pair 1 is within 1e-16 of a midpoint between two floats, and so is the magnitude of pair 0."""
    unit = 2.0 ** -exact.FORMATS[dtype].precision
    midpoint, scale = 0.625 + unit / 2, 1 + unit
    base = (1237 / math.asin(midpoint / scale)) ** 2
    spec = Rope(
        4, base, "half", scaling=LongRope((1.0, 1.0), (1.0, 1.0), original_length=2, attention_factor=scale), length=1
    )
    asked, value = [], Rope.value
    monkeypatch.setattr(Rope, "value", lambda self, *args: (asked.append(args), value(self, *args))[1])
    row = table(spec, positions, dtype=dtype).sin[list(positions).index(1237)]
    assert (1237, 3, dtype) in asked
    assert len(asked) <= 3
    assert row[1].item() == value(spec, 1237, 3, dtype)
    assert table(spec, 0, dtype=dtype).cos.tolist() == [value(spec, 0, 0, dtype)] * 2


def test_still_pairs_cost_no_exact_arithmetic(monkeypatch):
    spec, asked, value = Rope(32, 3e5, "half", scaling=Proportional(0.25)), [], Rope.value
    monkeypatch.setattr(Rope, "value", lambda self, *args: (asked.append(args), value(self, *args))[1])
    for positions in (range(-500, 3000), [[5, 2**30, -77]], [0.5]):
        cos, sin = table(spec, positions)
        assert cos[..., 4:].eq(1).all()
        assert not sin[..., 4:].view(torch.int32).any()
    assert len(asked) <= 4


class HeldBack:
    """A rope of which pair 0 stands still, with a magnitude that float64 takes for a midpoint of float32."""

    def __init__(self):
        factors, attention = (1.0, 1.0), 1.0000000596046448
        scaling = LongRope(factors, factors, original_length=2, attention_factor=attention)
        self.rope = Rope(4, 100.0, "half", scaling=scaling, length=1)

    def plan(self):
        plan = self.rope.plan()
        return dataclasses.replace(plan, increments=(0, plan.increments[1]))

    def value(self, position, channel, dtype):
        return self.rope.value(0 if channel % 2 == 0 else position, channel, dtype)

    def rotation(self):
        return self.rope.rotation()


@pytest.mark.parametrize("positions", [[5, -9], range(-300, 900), [0.5]], ids=["direct", "range", "float"])
def test_still_pairs_have_the_rounded_magnitude(positions):
    cos, sin = table(HeldBack(), positions)
    assert cos[..., 0].eq(1 + 2.0**-23).all()
    assert not sin[..., 0].view(torch.int32).any()


def turned(spec, x, t, head):
    """The definition, channel by channel, in float64; `head`: the axis of the heads, from the front."""
    n, start = spec.pairs, 0 if spec.rotary_channels == "first" else spec.head_dim - 2 * spec.pairs
    lead = [size for axis, size in enumerate(x.shape[:-1]) if axis != head]
    cos, sin = (a.double().expand(*lead, n) for a in t)
    if head is not None:
        cos, sin = cos.unsqueeze(head), sin.unsqueeze(head)
    result = x.double().clone()
    for j in range(n):
        a, b = (j, n + j) if spec.layout == "half" else (2 * j, 2 * j + 1)
        to_a, to_b = (2 * j, 2 * j + 1) if spec.layout == "interleaved" else (j, n + j)
        u, v = x[..., start + a].double(), x[..., start + b].double()
        result[..., start + to_a] = u * cos[..., j] - v * sin[..., j]
        result[..., start + to_b] = v * cos[..., j] + u * sin[..., j]
    return result


def random(*shape, dtype="float32"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(getattr(torch, dtype))


SHAPES = [
    ((2, 3, 5), 1),
    ((2, 5, 3), -2),
    ((2, 5), None),
    ((), None),
    ((3,), 0),
    ((2, 0, 3), 2),
    ((0, 3, 5), 0),
    ((2, 2, 3, 4), 1),
]


def close(got, want, x):
    """The bound of the contract at magnitude 1: 2^-22 of the greatest channel (2^-51 in float64), half a unit of x."""
    dtype = str(x.dtype).removeprefix("torch.")
    products = 2 * FLOATS["float64" if dtype == "float64" else "float32"] * x.double().abs().max()
    return (
        (got.double() - want)
        .abs()
        .le(products + want.abs() * FLOATS[dtype] / 2 + 2.0**-25 * (dtype == "float16"))
        .all()
    )


@every_layout
@every_dtype
@pytest.mark.parametrize("block", [1 << 16, 32], ids=["at once", "by blocks"])
@pytest.mark.parametrize(("rotary_dim", "channels"), [(8, "first"), (4, "first"), (2, "last")])
def test_rotate_is_its_definition(monkeypatch, layout, dtype, block, rotary_dim, channels):
    monkeypatch.setattr(rotation, "_CHUNK", block)
    spec = Rope(8, 100.0, layout, rotary_dim=rotary_dim, rotary_channels=channels)
    for shape, head in SHAPES:
        x = random(*shape, 8, dtype=dtype)
        front = head if head is None else head % (len(shape) + 1)
        lead = [size for axis, size in enumerate(shape) if axis != front]
        for axes in {(), (1,) * len(lead), tuple(lead[-1:]), tuple(lead)}:
            t = table(
                spec,
                torch.arange(math.prod(axes)).view(axes) * 3 - 4,
                dtype="float64" if dtype == "float64" else "float32",
            )
            before, cos = x.clone(), t.cos.clone()
            got = rotate(spec, x, t, head_axis=head)
            assert (got.dtype, got.shape) == (x.dtype, x.shape)
            assert not x.numel() or close(got, turned(spec, x, t, front), x)
            views = (
                x.expand(2, *x.shape)[0],
                torch.stack((x, x), -1)[..., 0],
                x.mT.contiguous().mT if x.dim() > 1 else x,
            )
            for strided in views:
                assert torch.equal(rotate(spec, strided, t, head_axis=head), got)
            assert torch.equal(x, before)
            assert torch.equal(t.cos, cos)
            start = spec.head_dim - rotary_dim if channels == "last" else 0
            assert torch.equal(got[..., :start], x[..., :start])
            assert torch.equal(got[..., start + rotary_dim :], x[..., start + rotary_dim :])


@every_dtype
def test_the_checker_of_the_definition_sees_a_wrong_value(dtype):
    spec, x = SPECS["plain"], random(2, 3, 16, dtype=dtype)
    t = table(spec, [5, 6], dtype="float64")
    got = rotate(spec, x, t, head_axis=1)
    assert close(got, turned(spec, x, t, 1), x)
    wrong = rotate(spec, x, Table(t.cos, -t.sin), head_axis=1)
    assert not close(wrong, turned(spec, x, t, 1), x)
    assert not close(got + 4 * FLOATS[dtype] * x.abs().max(), turned(spec, x, t, 1), x)


@every_layout
@every_dtype
def test_the_same_bits_under_any_split(monkeypatch, layout, dtype):
    spec, x = Rope(12, 100.0, layout, rotary_dim=10), random(2, 3, 37, 12, dtype=dtype)
    t = table(spec, torch.arange(74).view(2, 37))
    whole = rotate(spec, x, t, head_axis=1)
    monkeypatch.setattr(rotation, "_CHUNK", 100)
    assert torch.equal(rotate(spec, x, t, head_axis=1), whole)
    assert torch.equal(rotate(spec, x.transpose(1, 2), t, head_axis=2).transpose(1, 2), whole)
    for step in (1, 5):
        parts = [
            rotate(spec, p, (c, s), head_axis=1)
            for p, c, s in zip(x.split(step, 2), *[a.split(step, 1) for a in t], strict=True)
        ]
        assert torch.equal(torch.cat(parts, 2), whole)
    heads = [rotate(spec, head, t, head_axis=None) for head in x.unbind(1)]
    assert torch.equal(torch.stack(heads, 1), whole)
    assert torch.equal(vmap(lambda z, c, s: rotate(spec, z, (c, s), head_axis=0))(x, *t), whole)
    assert torch.equal(vmap(lambda z: rotate(spec, z, t, head_axis=None), in_dims=1, out_dims=1)(x), whole)


def test_tables_of_every_dtype_and_kind():
    spec, x = SPECS["plain"], random(3, 16)
    for dtype in FLOATS:
        t = table(spec, range(3), dtype=dtype)
        want = rotate(spec, x, tuple(a.float() for a in t), head_axis=None)
        assert torch.equal(rotate(spec, x, t, head_axis=None), want)
        assert torch.equal(rotate(spec, x, [*t], head_axis=None), want)


@every_layout
@pytest.mark.parametrize("block", [1 << 16, 16], ids=["at once", "by blocks"])
def test_gradients_are_the_transpose(monkeypatch, layout, block):
    monkeypatch.setattr(rotation, "_CHUNK", block)
    spec = Rope(6, 100.0, layout, rotary_dim=4, scaling=Yarn(8.0, original_length=64))
    x, t = random(2, 2, 3, 6, dtype="float64").requires_grad_(), table(spec, [3, -1, 8], dtype="float64")
    inputs = x, *[a.clone().requires_grad_() for a in t]
    for arguments in ((x, *t), inputs):
        call = lambda z, c, s: rotate(spec, z, (c, s), head_axis=1)  # noqa: E731
        assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(call, arguments, check_batched_grad=True)
    one = lambda z: rotate(spec, z, t, head_axis=1)  # noqa: E731
    g, plain = torch.randn_like(x), x.detach()
    (own,) = torch.autograd.grad(one(x), x, g)
    assert torch.equal(own, grad(lambda z: (one(z) * g).sum())(plain))
    assert torch.equal(jvp(one, (plain,), (g,))[1], one(g))
    torch.testing.assert_close(jacrev(one)(plain), jacfwd(one)(plain), rtol=0, atol=0)
    assert torch.equal(vmap(grad(lambda z, h: (rotate(spec, z, t, head_axis=0) * h).sum()))(plain, g), own)
    half = plain.bfloat16().requires_grad_()
    (narrow,) = torch.autograd.grad(one(half), half, g.bfloat16())
    assert torch.equal(narrow, grad(lambda z: (one(z) * g.bfloat16()).sum())(half.detach()))


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("length", [5, 9000])
def test_autocast_leaves_a_partial_rotation_alone(own, dtype, length):
    spec, x = Rope(8, 1e4, "half", rotary_dim=4), torch.randn(2, length, 8).to(dtype)
    expected = rotate(spec, x, table(spec, range(length)), head_axis=None)
    with torch.autocast("cpu", dtype=own):
        for each in (x, x.clone().requires_grad_()):
            result = rotate(spec, each, table(spec, range(length)), head_axis=None)
            assert result.dtype == dtype
            assert torch.equal(result, expected)


def test_an_axis_that_changes_is_read_each_time():
    spec, axis, q = Rope(8, 1e4, "half"), torch.tensor(1), torch.randn(2, 5, 5, 8)
    t = table(spec, torch.arange(10).view(2, 5))
    first = rotate(spec, q, t, head_axis=axis)
    axis.fill_(2)
    second = rotate(spec, q, t, head_axis=axis)
    assert torch.equal(first, rotate(spec, q, t, head_axis=1))
    assert torch.equal(second, rotate(spec, q, t, head_axis=2))
