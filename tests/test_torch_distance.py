"""rows and bias of the PyTorch column: values, rounding in doubt, traces, gradients, memory, and RelativeBias."""

from __future__ import annotations

import copy
import math
import pickle
import random
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jacfwd, jacrev, vmap

from posenc import (
    Alibi,
    DebertaBuckets,
    MusicTransformerIndex,
    ShawClip,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
    to_json,
)
from posenc.spec import exact
from posenc.torch_impl import bias, rows
from posenc.torch_impl.modules import RelativeBias
from posenc.torch_impl.words import traced_json

LIMIT = 2**31 - 1
HALVES = ("bfloat16", "float16")
T5 = T5Bias(2, buckets=8, max_distance=20, bidirectional=True)
SWIN = SwinIndex(2, (2, 3))
COORDINATES = torch.tensor(SWIN.positions())
SPECS = [
    T5,
    T5Bias(3, buckets=10, max_distance=2**30, bidirectional=False),
    T5Bias(1, buckets=512, max_distance=LIMIT, bidirectional=True, rule="t5x"),
    DebertaBuckets(clamped=False),
    ShawClip(3, 5),
    ShawClip(2**30 - 1),
    TransformerXLIndex(2**30 - 1, shortest=-5),
    MusicTransformerIndex(7, bidirectional=False),
]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{type(spec).__name__}-{spec.plan().rows}")
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)]


def some_positions(count, seed):
    draw = random.Random(seed)  # noqa: S311
    near, far = [draw.randint(-30, 30) for _ in range(count)], [draw.randint(-LIMIT, LIMIT) for _ in range(count)]
    return [LIMIT, -LIMIT, *near, *far]


# what is equally spaced is computed in another way, and so is what is large
POSITIONS = {
    "any": (some_positions(4, 1), some_positions(5, 2)),
    "ranges": (range(-3, 140), range(-60, 90)),
    "steps of -3": (range(30, -60, -3), range(2000, -100, -3)),
    "many": (some_positions(60, 3), some_positions(70, 4)),
    "nothing": ([], range(3)),
}


def numbers(plan, query, key):
    return torch.tensor([[plan.number((q,), (k,)) for k in key] for q in query], dtype=torch.int64).view(-1, len(key))


@every_spec
@pytest.mark.parametrize("name", POSITIONS)
def test_rows_are_those_of_the_plan(spec, name):
    query, key = POSITIONS[name]
    want = numbers(spec.plan(), query, key)
    got = rows(spec, query, key)
    assert got.dtype == torch.int32
    assert torch.equal(got.long(), want)
    both = torch.tensor([list(query), list(query)[::-1]], dtype=torch.int64)
    assert torch.equal(rows(spec, both, key).long(), torch.stack((want, want.flip(0))))
    assert torch.equal(vmap(lambda q: rows(spec, q, key))(both), rows(spec, both, key))
    one = torch.tensor([[*key]])
    assert torch.equal(rows(spec, both, one), rows(spec, both, key))


@pytest.mark.parametrize(
    ("spec", "backend"),
    [
        *((spec, "aot_eager") for spec in SPECS),
        *(pytest.param(spec, "inductor", marks=pytest.mark.inductor) for spec in (SPECS[1], SPECS[5], SPECS[7])),
    ],
)
def test_rows_of_a_trace_are_the_same(spec, backend):
    query, key = (torch.tensor(p) for p in POSITIONS["any"])
    run = torch.compile(lambda q, k: rows(spec, q, k), fullgraph=True, backend=backend)
    assert torch.equal(run(query, key), rows(spec, query, key))


def craft(dtype, seed):
    """A slope and an integer whose product float64 cannot tell from a midpoint of `dtype`."""
    draw = random.Random(seed)  # noqa: S311
    bits, limit = {"float32": (24, LIMIT), "bfloat16": (8, LIMIT), "float16": (11, 2**15)}[dtype]
    multiple = draw.randrange(2**10, limit)
    middle = draw.randrange(2 ** (bits - 1), 2**bits) + 0.5  # in units of the last place
    # a slope from 1/4 to 1: the decimal of a small exponent is close to the one that gives the midpoint
    exponent = math.log2(math.frexp(multiple / middle)[0]) + draw.choice((1, 2))
    return Alibi(1, form="causal", max_bias=max(exponent, 2.0**-10)), multiple * draw.choice((1, -1))


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_exact_arithmetic_decides_what_float64_cannot(dtype, monkeypatch):
    asked, value = [], Alibi.value
    monkeypatch.setattr(Alibi, "value", lambda *arguments: asked.append(arguments) or value(*arguments))
    for seed in range(60):
        spec, multiple = craft(dtype, seed)
        got = bias(spec, [0], [multiple, 1, 0], dtype=dtype).flatten()
        assert got.tolist() == [value(spec, n, 0, dtype) for n in (multiple, 1, 0)]
        assert not got[2].signbit()
    assert 50 <= len(asked) <= 60  # and for nothing else


@pytest.mark.parametrize("form", ["causal", "symmetric", "anchored"])
@pytest.mark.parametrize("heads", [8, 12, 5])
@pytest.mark.parametrize("dtype", ["float64", "float32", *HALVES])
def test_products_are_rounded_once(form, heads, dtype):
    spec = Alibi(heads, form=form, max_bias=8.0 if heads != 5 else 64.0)
    for query, key in POSITIONS.values():
        got = bias(spec, query, key, dtype=dtype)[:, :12, :40].double()
        n = numbers(spec.plan(), query, key)[:12, :40].tolist()
        want = torch.tensor([[[spec.value(m, h, dtype) for m in row] for row in n] for h in range(heads)]).double()
        if dtype == "float64":
            want = torch.tensor(
                [[[spec.value(m, h, dtype) for m in row] for row in n] for h in range(heads)], dtype=torch.float64
            )
            assert ((got - want.view_as(got)).abs() <= want.view_as(got).abs() * 2.0**-52).all()
        else:
            assert torch.equal(got, want.view_as(got))
            assert torch.equal(got.signbit(), want.view_as(got).signbit())


@pytest.mark.parametrize("backend", BACKENDS)
def test_slopes_in_a_trace_are_within_the_bound(backend):
    spec = Alibi.symmetric(12)
    run = torch.compile(
        lambda q, k: [bias(spec, q, k, dtype=name) for name in ("float64", "float32", *HALVES)],
        fullgraph=True,
        backend=backend,
    )
    query, key = (torch.tensor(p) for p in (some_positions(20, 5), some_positions(20, 6)))
    wide, short, *halves = run(query, key)
    exact = bias(spec, query, key, dtype="float64")
    assert ((wide - exact).abs() <= exact.abs() * 2.0**-51).all()  # either is within a unit in the last place
    assert ((short - exact).abs() <= exact.abs() * 2.0**-22).all()
    for half in halves:
        assert torch.equal(half, short.to(half.dtype))
    one = run(torch.tensor([0]), torch.tensor([1, -1]))[1][..., 0, 0]
    assert torch.equal(-one, torch.tensor(spec.slopes()))


def gathered(weights, n):
    return weights[n].movedim(-1, 0)


@pytest.mark.parametrize("dtype", ["float64", "float32", *HALVES])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_weights_are_read_and_rounded_once(dtype, needs_gradient):
    target = getattr(torch, dtype)
    for query, key in POSITIONS.values():
        n = numbers(T5.plan(), query, key)
        for name in ("float64", "float32", *HALVES):
            weights = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            # halfway between two numbers of bfloat16, but for what float32 does not hold
            weights[:, 0] = 1 + 2.0**-8 + 2.0**-40
            weights = weights.to(getattr(torch, name)).requires_grad_(needs_gradient)
            got = bias(T5, query, key, weights=weights, dtype=dtype)
            want = gathered(weights.detach(), n).to(target)
            if name == "float64" and dtype == "bfloat16":
                want[0] = 1 + 2.0**-7
            elif name == "float64" and dtype == "float16":
                want = gathered(torch.tensor(weights.detach().numpy().astype("float16")), n)
            assert got.dtype == target
            assert torch.equal(got, want)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("dtype", HALVES)
def test_what_rounds_to_zero_or_overflows_keeps_its_sign(dtype, backend):
    read = bias if backend is None else torch.compile(bias, fullgraph=True, backend=backend)
    spec, keys = T5Bias(1, buckets=16, bidirectional=False), range(0, -8, -1)  # the first rows one by one
    values = [1e-46, 2.0**-150, 2.0**-149, 0.0, 1e300, 3.4e38, math.inf, 65519.9999999]
    for sign in (1, -1):
        weights = torch.tensor([sign * value for value in values] * 2, dtype=torch.float64, requires_grad=True)
        got = read(spec, [0], keys, weights=weights.unsqueeze(1), dtype=dtype)[0, 0]
        want = [sign * (math.inf if v == math.inf else exact.round_to(Fraction(v), dtype)) for v in values]
        assert got.tolist() == want
        assert torch.equal(got.signbit(), torch.tensor(want).signbit())


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_pass_the_rounding_of_float64_in_a_trace(dtype):
    weights = torch.randn(2, 8, 2, dtype=torch.float64, requires_grad=True)

    def read(w):
        return vmap(lambda one: bias(T5, range(3), range(4), weights=one, dtype=dtype))(w)

    got = torch.compile(read, fullgraph=True, backend="aot_eager")(weights)
    assert torch.equal(got, read(weights))
    (gradient,) = torch.autograd.grad(got.sum(), weights)
    assert torch.equal(gradient, torch.autograd.grad(read(weights).sum(), weights)[0])
    assert gradient.any()


SIZES = [(8, 600), (600, 8), (128, 128), (130, 140), (300, 200)]


@pytest.mark.parametrize(("queries", "keys"), SIZES)
@pytest.mark.parametrize("heads", [1, 12])
def test_windows_are_contiguous_and_copied_at_once(heads, queries, keys):
    """By few operations, not by a row each: for 12 heads of 512 x 512 that took five times as long."""
    spec, slopes, batch = T5Bias(heads, bidirectional=True), Alibi.causal(heads), torch.arange(queries)
    weights = torch.randn(spec.weight_shape)
    want = gathered(weights, rows(spec, batch, range(keys)).long())
    for dtype in (torch.float32, torch.bfloat16):
        for given in (weights, weights.clone().requires_grad_()):
            with torch.autograd.profiler.profile() as profile:
                got = bias(spec, range(queries), range(keys), weights=given, dtype=dtype)
            assert sum(event.count for event in profile.key_averages() if event.key == "aten::copy_") < 20
            assert torch.equal(got, want.to(dtype))
            assert got.is_contiguous()
        product = bias(slopes, range(queries), range(keys), dtype=dtype)
        assert product.is_contiguous()
        several = torch.stack((batch, batch * 2, batch.flip(0)))
        for given in (weights, weights.clone().requires_grad_()):
            got = bias(spec, several, range(keys), weights=given, dtype=dtype)
            assert got.is_contiguous()
            assert torch.equal(got[0], want.to(dtype))
            assert torch.equal(got[2], want.to(dtype).flip(-2))
        assert torch.equal(bias(slopes, several, range(keys), dtype=dtype)[0], product)


PAIRS = [(range(4), range(5)), (range(9), range(3, 20)), ([[1, 5], [7, 0]], range(4)), ([[1]], [[3, 4], [9, 9]])]


@pytest.mark.parametrize(("query", "key"), PAIRS)
def test_gradients_of_weights(query, key):
    weights = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)

    def function(w):
        return bias(T5, query, key, weights=w, dtype=torch.float64)

    assert torch.autograd.gradcheck(function, weights, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, weights)
    assert torch.equal(jacfwd(function)(weights), jacrev(function)(weights))


@pytest.mark.parametrize("length", [2, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_summed_up_in_float32(dtype, length):
    """In bfloat16 a sum of ones ends at 256, and in float16 at 2,048."""
    pairs = 4096 // length * torch.bincount(rows(T5, range(length), range(length)).flatten(), minlength=8)
    batch = torch.arange(length).expand(4096 // length, length)

    def read(weights):
        return bias(T5, batch, range(length), weights=weights, dtype=dtype)

    for run in (read, torch.compile(read, backend="aot_eager")):
        weights = torch.ones(8, 2, dtype=dtype, requires_grad=True)
        run(weights).sum().backward()
        assert torch.equal(weights.grad, pairs.to(dtype).unsqueeze(1).expand(8, 2))


def test_gradients_for_each_of_a_batch():
    batch, weights = torch.tensor([[1, 2], [30, 4]]), torch.randn(8, 2)
    each = vmap(grad(lambda w, q: bias(T5, q, range(4), weights=w).sum()), in_dims=(None, 0))(weights, batch)
    for q, got in zip(batch, each, strict=True):
        count = torch.bincount(rows(T5, q, range(4)).flatten(), minlength=8)
        assert torch.equal(got, count.float().unsqueeze(1).expand(8, 2))


def test_a_pair_outside_the_window():
    sentence = r"key_positions: expected distances to the query from -2 to 2 on axis 1, received 4"
    apart, weights = COORDINATES * 2, torch.randn(SWIN.weight_shape)
    with pytest.raises(ValueError, match=f"rows.{sentence}"):
        rows(SWIN, COORDINATES, apart)
    with pytest.raises(ValueError, match=f"bias.{sentence}"):
        bias(SWIN, COORDINATES, apart, weights=weights)
    with pytest.raises(ValueError, match=f"rows.{sentence}"):
        vmap(lambda p: rows(SWIN, p, p * 2))(COORDINATES[None])
    with pytest.raises(ValueError, match="on axis 1, received -3"):
        rows(SWIN, [[[0, 0]], [[0, 3]]], [[0, 1], [0, 0]])
    run = torch.compile(lambda q, k: (rows(SWIN, q, k), bias(SWIN, q, k, weights=weights)), backend="aot_eager")
    found, read = run(COORDINATES, apart)
    want = torch.tensor([[SWIN.plan().number(q, k) for k in apart.tolist()] for q in COORDINATES.tolist()])
    assert torch.equal(found.long(), want)
    assert torch.equal(read.isnan(), (want < 0).expand(2, 6, 6))
    assert torch.equal(run(COORDINATES, COORDINATES)[1], bias(SWIN, COORDINATES, COORDINATES, weights=weights))


def test_one_graph_for_all_offsets_and_equal_specifications():
    counters.clear()
    weights = torch.randn(8, 2)
    run = torch.compile(lambda s, a, q, k: (bias(s, q, k, weights=weights), bias(a, q, k)), backend="aot_eager")
    for offset in (0, 3, 1000, LIMIT):
        spec, slopes = copy.copy(T5), Alibi.causal(3, max_bias=4 + 4)
        query = torch.tensor([[offset], [offset - 5]])
        read, product = run(spec, slopes, query, torch.arange(9))
        assert torch.equal(read, bias(T5, query, range(9), weights=weights))
        assert product.shape == (2, 3, 1, 9)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("spec", [*SPECS, SWIN, Alibi.anchored(5)])
def test_the_key_of_a_trace_is_the_canonical_text(spec):
    assert traced_json(spec) == to_json(spec)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_lengths(strict):
    module, lengths = RelativeBias(T5), ({0: torch.export.Dim("q")}, {0: torch.export.Dim("k")})
    arguments = torch.arange(4), torch.arange(6)
    run = torch.export.export(module, arguments, dynamic_shapes=lengths, strict=strict).module()
    assert torch.equal(run(torch.arange(30), torch.arange(2)), module(range(30), range(2)))


def on_meta(module):
    with torch.device("meta"):
        made = RelativeBias(module.spec)
    made.to_empty(device="cpu").load_state_dict(module.state_dict())
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m.half(),
        lambda m: m.double(),
        on_meta,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),  # noqa: S301
    ],
    ids=["as is", "half", "double", "meta", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("spec", [T5, SWIN, Alibi.causal(2)], ids=["t5", "swin", "alibi"])
def test_a_module_is_bias_of_its_weights(spec, change):
    module = RelativeBias(spec, std=0.5)
    weights = None if module.weights is None else module.weights.detach().clone()
    module = change(module)
    assert [*module.state_dict()] == ([] if weights is None else ["weights"])
    dtype = torch.float32 if weights is None else module.weights.dtype
    weights = weights if weights is None else weights.to(dtype)
    positions = COORDINATES if spec == SWIN else range(6)
    for given in (None, torch.bfloat16):
        got = module(positions, positions, dtype=given)
        assert torch.equal(got, bias(spec, positions, positions, weights=weights, dtype=given or dtype))
    assert repr(spec) in repr(module)


def test_initial_weights_are_normal():
    torch.manual_seed(0)
    weights = RelativeBias(T5Bias(64, buckets=128, bidirectional=True), std=0.25).weights
    # of 8,192 numbers the mean is within 5 * std / sqrt(8192), their deviation within 5 / sqrt(16384) of std
    assert abs(weights.mean()) < 5 * 0.25 / 8192**0.5
    assert abs(weights.std() / 0.25 - 1) < 5 / 16384**0.5
    assert RelativeBias(T5, dtype=torch.float64, device="meta").weights.dtype == torch.float64
    with pytest.raises(ValueError, match=r"RelativeBias.std: expected a finite number >= 0, received -1"):
        RelativeBias(T5, std=-1)
    with pytest.raises(ValueError, match=r"RelativeBias.spec: expected a specification of a bias"):
        RelativeBias(DebertaBuckets(clamped=True))


def results(weights):
    return [
        *(bias(s, range(60), range(80), dtype=d) for s in (Alibi.causal(12), Alibi.symmetric(5)) for d in HALVES),
        bias(Alibi.causal(12), range(60), range(80)),
        *(bias(T5, range(60), range(80), weights=weights, dtype=d) for d in ("float32", *HALVES)),
        rows(T5, range(60), range(80)),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_no_mode_changes_or_is_remembered(dtype):
    weights = torch.randn(8, 2, dtype=torch.float64)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        assert {type(r).__name__ for r in results(weights)} == {"FakeTensor"}
    with torch.device("meta"):
        assert all(r.device.type == "cpu" for r in results(weights))
        assert bias(Alibi.causal(3), torch.arange(3), range(4)).is_meta
        assert rows(T5, range(3), torch.arange(4)).is_meta
    want = results(weights)
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            got = results(weights)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


def test_a_million_keys_in_little_memory():
    code = """
import resource, torch
from posenc import Alibi
from posenc.torch_impl import bias
spec, position, keys = Alibi.causal(32), torch.tensor([2**20 - 1]), torch.arange(2**20)
bias(spec, position[:, None], keys[:8192])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = bias(spec, position, keys).nbytes / 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / size)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert float(run.stdout) < 1.25, run.stderr


ERRORS = [
    (lambda: rows(T5, [0.5], [1]), "rows.query_positions: expected integers, received float$"),
    (lambda: rows(T5, [1], math.nan), "rows.key_positions: expected integers, received float$"),
    (lambda: rows(T5, torch.ones(2), [1]), "rows.query_positions: expected integers, received float32"),
    (lambda: rows(T5, [1], torch.ones(2).bool()), "rows.key_positions: expected integers, received bool: a mask"),
    (lambda: rows(T5, [1], [2**31]), "rows.key_positions: expected integers of magnitude below 2.31, received 2147"),
    (lambda: rows(T5, 3, [1]), r"rows.query_positions: expected shape \(..., length\), received \(\)"),
    (lambda: rows(SWIN, range(3), [1]), r"rows.query_positions: expected shape \(..., length, 2\), received \(3,\)"),
    (lambda: rows(Alibi.causal(2), [1], [1]), "rows.spec: expected a specification with a table of rows"),
    (lambda: bias(ShawClip(2), [1], [1]), "bias.spec: expected a specification of a bias"),
    (lambda: bias(T5, [1], [1]), r"bias.weights: expected shape \(8, 2\), received None"),
    (lambda: bias(T5, [1], [1], weights=torch.ones(8)), r"bias.weights: expected shape \(8, 2\), received \(8,\)"),
    (lambda: bias(T5, [1], [1], weights=[1]), "bias.weights: expected an array of the framework, received list"),
    (lambda: bias(Alibi.causal(2), [1], [1], weights=torch.ones(8)), "bias.weights: expected None, as the slopes"),
    (lambda: bias(Alibi.causal(2), [1], [1], dtype="int8"), "bias.dtype: expected float64"),
    (lambda: bias(Alibi.causal(2), [[1], [2]], [[1]] * 3), r"bias.key_positions: expected leading axes \(2,\)"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TRACED = [
    *ERRORS[1:],
    (lambda: rows(SWIN, SWIN.positions(), [(0, 3)]), "rows.key_positions: .* on axis 1, received 3"),
    (lambda: bias(SwinIndex(1, (2,)), range(2), range(9), weights=torch.ones(3, 1)), "bias.key_.* 0, received 2"),
]


@pytest.mark.parametrize(("call", "message"), TRACED)
def test_refusals_in_a_trace(call, message):
    """The sentence is in what Dynamo says; without `fullgraph=True` it falls back to the eager call, which raises."""
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message.replace("$", "[^0-9]")):
        torch.compile(call, backend="eager", fullgraph=True)()
    with pytest.raises(ValueError, match=message):
        torch.compile(call, backend="eager")()
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match=message):
        call()


def test_pairs_of_a_window_that_python_knows_are_read_in_a_trace():
    weights = torch.randn(SWIN.weight_shape)
    places = SWIN.positions()
    run = torch.compile(lambda w: bias(SWIN, places, places, weights=w), fullgraph=True, backend="aot_eager")
    assert torch.equal(run(weights), bias(SWIN, COORDINATES, COORDINATES, weights=weights))
