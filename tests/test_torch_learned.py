"""lookup and resize of the PyTorch column: values, traces, gradients, and LearnedEncoding."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import get_type_hints

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.functional import interpolate

from posenc import Learned, T5Bias, to_json
from posenc.spec import resampling
from posenc.torch_impl import add, encode, lookup, phase, resize
from posenc.torch_impl import table as rotary_table
from posenc.torch_impl.formats import round_to
from posenc.torch_impl.modules import LearnedEncoding
from posenc.torch_impl.words import traced_json

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)]
PLAIN = Learned(6, 3)
FROZEN = Learned.fairseq(6, 3)
SCALED = Learned(6, 3, offset=2, padding="row", output_scale=1.7)
PATCHES = Learned.patches((3, 4), 2)
SPECS = {"plain": PLAIN, "frozen": FROZEN, "scaled": SCALED}
every_table = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def table(spec, dtype=torch.float32, *, requires_grad=False):
    shape, generator = spec.weight_shape, torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)


def rows_of(spec, weights, positions):
    """The definition, one by one."""
    taken = weights[torch.tensor(positions, dtype=torch.int64) + spec.offset]
    if spec.output_scale == 1:
        return taken
    wide = torch.float64 if weights.dtype == torch.float64 else torch.float32
    return (taken.to(wide) * torch.tensor(spec.output_scale, dtype=wide)).to(weights.dtype)


@every_table
@every_dtype
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_rows_are_read(spec, dtype, needs_gradient):
    weights = table(spec, dtype, requires_grad=needs_gradient)
    for positions in (5, [0, 3, 5], [[1], [2]], []):
        got = lookup(spec, weights, positions)
        assert got.dtype == dtype
        assert torch.equal(got, rows_of(spec, weights, positions))
        assert torch.equal(lookup(spec, weights, torch.tensor(positions, dtype=torch.int32)), got)
    assert torch.equal(lookup(spec, weights, range(4, -1, -2)), rows_of(spec, weights, [4, 2, 0]))
    got = lookup(spec, weights, range(6))
    assert got.untyped_storage().data_ptr() != weights.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("spec", "dtype", "backend"),
    [
        *product(SPECS.values(), DTYPES, ["aot_eager"]),
        pytest.param(FROZEN, torch.bfloat16, "inductor", marks=pytest.mark.inductor),
        pytest.param(SCALED, torch.float32, "inductor", marks=pytest.mark.inductor),
    ],
)
def test_outside_the_table_is_nan_in_a_trace(spec, dtype, backend):
    low = spec.plan().low
    inside, outside = [0, low, 5, 2], [low - 1, 6, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, -(2**62)]
    weights = table(spec, dtype, requires_grad=True)
    read = torch.compile(lambda w, p: lookup(spec, w, p), fullgraph=True, backend=backend)
    got = read(weights, torch.tensor(inside + outside))
    assert torch.equal(got[:4], lookup(spec, weights, inside))
    assert got[4:].isnan().all()
    (gradient,) = torch.autograd.grad(got, weights, torch.ones_like(got))
    (wanted,) = torch.autograd.grad(lookup(spec, weights, inside), weights, torch.ones_like(got[:4]))
    assert torch.equal(gradient, wanted)


def test_outside_the_table_is_refused_on_the_host():
    weights, positions = table(PLAIN), torch.tensor([[0, 5], [6, -1]])
    for read in (lookup, vmap(lookup, in_dims=(None, None, 0))):
        with pytest.raises(ValueError, match=r"lookup.positions: expected integers from 0 to 5, received 6"):
            read(PLAIN, weights, positions)
    assert torch.equal(lookup(FROZEN, table(FROZEN), [-1])[0], table(FROZEN)[1])


@every_dtype
def test_no_gradient_and_no_tangent_through_a_frozen_position(dtype):
    weights, positions = table(FROZEN, dtype, requires_grad=True), torch.tensor([-1, 0, 0, -1, 3])
    want = torch.tensor([0, 0, 2, 0, 0, 1, 0, 0]).to(dtype).unsqueeze(1).expand(8, 3)
    lookup(FROZEN, weights, positions).sum().backward()
    assert torch.equal(weights.grad, want)
    plain, ones = weights.detach(), torch.ones(8, 3, dtype=dtype)
    tangent = jvp(lambda w: lookup(FROZEN, w, positions), (plain,), (ones,))[1]
    assert torch.equal(tangent, (positions != -1).to(dtype).unsqueeze(1).expand(5, 3))
    assert torch.equal(grad(lambda w: lookup(FROZEN, w, positions).sum())(plain), want)
    each = vmap(grad(lambda w, p: lookup(FROZEN, w, p).sum()), in_dims=(None, 0))(plain, positions)
    assert torch.equal(each.sum(0), want)
    two = vmap(lambda w, p: lookup(FROZEN, w, p))(torch.stack((plain, 2 * plain)), positions[:2])
    assert torch.equal(two, torch.stack((plain[1], 2 * plain[2])))


@every_table
def test_gradients_of_tables(spec):
    weights = table(spec, torch.float64, requires_grad=True)

    def function(w):
        return lookup(spec, w, [[0, 2], [5, 0]])

    assert torch.autograd.gradcheck(function, weights, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, weights)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_gradients_are_summed_up_in_float32(dtype, compiled):
    """In bfloat16 a sum of ones ends at 256, and in float16 at 2,048."""
    weights, positions = table(PLAIN, dtype, requires_grad=True), torch.zeros(5000, dtype=torch.int64)
    read = torch.compile(lookup, backend="aot_eager") if compiled else lookup
    read(PLAIN, weights, positions).sum().backward()
    assert torch.equal(weights.grad[0], torch.full((3,), 5000).to(dtype))
    again = table(PLAIN, dtype, requires_grad=True)
    (first,) = torch.autograd.grad(lookup(PLAIN, again, [1, 1]).pow(2).sum(), again, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), again)
    assert torch.equal(second[1], torch.full((3,), 4).to(dtype))


# --- resize ---

GRIDS = [((3, 4), (5, 2)), ((14, 14), (24, 24)), ((7, 5), (3, 9)), ((6,), (13,)), ((2, 3, 2), (3, 3, 5))]


def resized(spec, weights, shape, method):
    """The plan's formula in Python's float64, tap by tap."""
    plan = spec.resizing(shape, method)
    grid = dict(zip(product(*map(range, plan.grid)), weights[plan.kept :].double().tolist(), strict=True))
    sizes = list(plan.grid)
    for axis, taps in enumerate(plan.axes):
        sizes[axis] = plan.shape[axis]
        if taps is None:
            continue
        made = {}
        for at in product(*map(range, sizes)):
            total = None
            for tap, factor in zip(taps.index[at[axis]], taps.weights[at[axis]], strict=True):
                terms = [factor * x for x in grid[(*at[:axis], tap, *at[axis + 1 :])]]
                total = terms if total is None else [a + b for a, b in zip(total, terms, strict=True)]
            made[at] = total
        grid = made
    values = [grid[at] for at in product(*map(range, plan.shape))]
    return torch.cat((weights[: plan.kept], round_to(torch.tensor(values, dtype=torch.float64), weights.dtype)))


def test_methods_are_annotated():
    assert get_type_hints(resize)["method"] == resampling.Method


@pytest.mark.parametrize("method", ["torch_bilinear", "torch_bicubic_antialias", "jax_cubic", "tf_bicubic"])
@pytest.mark.parametrize(("grid", "shape"), GRIDS)
def test_resizing_is_the_formula_of_the_plan_to_the_last_bit(grid, shape, method):
    spec = Learned.patches(grid, 2)
    for dtype in DTYPES:
        for requires_grad in (False, True):
            weights = table(spec, dtype, requires_grad=requires_grad)
            got = resize(spec, weights, shape, method=method)
            assert got.shape == spec.resized(shape).weight_shape
            assert torch.equal(got, resized(spec, weights.detach(), shape, method))


@pytest.mark.parametrize("method", [name for name in resampling.METHODS if name.startswith("torch")])
@pytest.mark.parametrize(("grid", "shape"), GRIDS[:3])
def test_resizing_equals_pytorch(grid, shape, method):
    spec = Learned.patches(grid, 8)
    mode, *rest = method.removeprefix("torch_").split("_")
    weights = table(spec, torch.float64)
    image = weights[1:].T.reshape(1, 8, *grid)
    want = interpolate(
        image, size=shape, mode=mode, align_corners="align" in rest, antialias="antialias" in rest
    ).flatten(2)[0]
    got = resize(spec, weights, shape, method=method)
    assert torch.equal(got[0], weights[0])
    assert (got[1:].T - want).abs().max() <= 1e-12
    short = resize(spec, weights.float(), shape, method=method)
    # inputs and outputs are rounded; the weights of an axis have an absolute sum below 3/2
    assert (short - got).abs().max() <= 2 * 1.5**2 * 2.0**-24 * weights.abs().max()


@pytest.mark.parametrize("method", ["torch_bicubic", "jax_linear", "dino_bicubic"])
def test_gradients_of_resizing(method):
    weights = table(PATCHES, torch.float64, requires_grad=True)

    def function(w):
        return resize(PATCHES, w, (5, 2), method=method)

    assert torch.autograd.gradcheck(function, weights, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, weights)
    stacked = torch.stack((weights.detach(), 2 * weights.detach()))
    assert torch.equal(vmap(function)(stacked)[1], function(stacked[1]))
    assert torch.equal(jacrev(function)(stacked[0]), jacfwd(function)(stacked[0]))


def test_what_is_not_finite_stays_where_it_is_read():
    weights = torch.zeros(13, 2)
    weights[0], weights[12, 1] = torch.nan, torch.inf
    got = resize(PATCHES, weights, (6, 8), method="torch_bilinear")
    assert got[0].isnan().all()
    exact = [len(row) == 1 and 3 not in row for row in resampling.weights(4, 8, "torch_bilinear")]
    assert got[1:, 0].isfinite().all()
    assert got[1:, 1].view(6, 8)[:, torch.tensor(exact)].isfinite().all()
    assert got[1:9, 1].isfinite().all()  # the first row of patches is far from the last one


@pytest.mark.parametrize("backend", BACKENDS)
def test_resizing_in_a_trace(backend):
    run = torch.compile(
        lambda weights, size: [resize(PATCHES, w, (size, 2), method="torch_bicubic") for w in weights],
        fullgraph=True,
        backend=backend,
    )
    weights = [table(PATCHES, dtype, requires_grad=dtype == torch.float32) for dtype in DTYPES]
    for size in (5, 3):
        for w, got in zip(weights, run(weights, size), strict=True):
            want, n = resize(PATCHES, w, (size, 2), method="torch_bicubic"), 5
            unit = {torch.float64: 2.0**-50, torch.float32: n * 2.0**-22, torch.bfloat16: 2.0**-7}.get(
                w.dtype, 2.0**-10
            )
            assert ((got - want).abs() <= unit * w.detach().abs().max()).all()
    run(weights, 5)[1].sum().backward()
    compiled, weights[1].grad = weights[1].grad, None
    resize(PATCHES, weights[1], (5, 2), method="torch_bicubic").sum().backward()
    torch.testing.assert_close(compiled, weights[1].grad, rtol=0, atol=10 * 2.0**-22)


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        *product(DTYPES[2:], [None, "aot_eager"]),
        pytest.param(torch.bfloat16, "inductor", marks=pytest.mark.inductor),
    ],
)
def test_half_precision_tables_that_need_a_gradient(dtype, backend):
    def run(w, size):
        return resize(PATCHES, w, [size, 2], method="torch_bicubic")

    read = run if backend is None else torch.compile(run, fullgraph=True, backend=backend)
    weights = table(PATCHES, dtype, requires_grad=True)
    for size in (5, 6, 7)[: 1 if backend == "inductor" else 3]:
        got, want = read(weights, size), resize(PATCHES, weights, (size, 2), method="torch_bicubic")
        assert torch.equal(got, want)
        gradients = [torch.autograd.grad(y.pow(2).sum(), weights)[0] for y in (got, want)]
        assert torch.equal(*gradients)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_what_rounds_to_zero_is_zero(backend):
    read = resize if backend is None else torch.compile(resize, fullgraph=True, backend=backend)
    spec = Learned.patches((14, 14), 1, tokens=0)
    weights = torch.zeros(196, 1, dtype=torch.bfloat16)
    weights[90] = 2.0**-133  # times a weight below 2^-17 it is too small for float32
    for sign in (1, -1):
        got = read(spec, sign * weights, (120, 125), method="torch_bicubic")
        assert torch.equal(got, resized(spec, sign * weights, (120, 125), "torch_bicubic"))
        assert got.isfinite().all()


def test_taps_that_only_fill_up_are_not_read_in_a_trace():
    spec, run = Learned(3, 1), torch.compile(resize, fullgraph=True, backend="aot_eager")
    for last, method in ((torch.inf, "tf_bilinear"), (-torch.inf, "jax_linear"), (-0.0, "torch_bilinear")):
        weights = torch.tensor([[1.0], [2.0], [last]], requires_grad=True)
        got = run(spec, weights, (5,), method=method)
        assert got[-1].item() == last
        assert got[-1].signbit() == weights[-1].signbit()
        (gradient,) = torch.autograd.grad(got[[0, -1]].sum(), weights)
        assert gradient.isfinite().all()


# --- LearnedEncoding ---


def on_meta(module):
    with torch.device("meta"):
        made = LearnedEncoding(module.spec)
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
@every_dtype
def test_a_module_adds_its_rows(change, dtype):
    module = LearnedEncoding(FROZEN, std=0.5)
    assert not module.weights[1].any()
    assert module.weights.count_nonzero() == 21
    weights = module.weights.detach().clone()
    module = change(module)
    assert [*module.state_dict()] == ["weights"]
    weights, x = weights.to(module.weights.dtype), torch.randn(2, 5, 3).to(dtype)
    wide = torch.float64 if torch.float64 in (dtype, weights.dtype) else torch.float32
    for positions in (None, torch.tensor([[-1, -1, 0, 1, 2], [3, 4, 5, 0, 1]]), [0, 1, 2, 3, 4]):
        rows = lookup(FROZEN, weights, range(5) if positions is None else positions)
        got = module(x, positions)
        assert got.dtype == dtype
        want = x.to(wide) + rows.to(wide)
        assert torch.equal(got, round_to(want, dtype) if wide == torch.float64 else want.to(dtype))
    assert repr(FROZEN) in repr(module)
    module(x, [-1, 0, 1, 2, 3]).sum().backward()
    assert not module.weights.grad[1].any()
    assert module.weights.grad[2:6].all()
    module.reset_parameters()
    assert not module.weights[1].any()


ONCE = [
    (torch.bfloat16, torch.float32, 2.0**-8 + 2.0**-31, 1 + 2.0**-7),
    (torch.float16, torch.float32, 2.0**-11 + 2.0**-34, 1 + 2.0**-10),
    (torch.float32, torch.float64, 2.0**-24 + 2.0**-60, 1 + 2.0**-23),
    (torch.bfloat16, torch.float64, 2.0**-8 + 2.0**-59, 1 + 2.0**-7),
    (torch.float16, torch.float64, 2.0**-11 - 2.0**-62, 1.0),
    (torch.bfloat16, torch.float32, 2.0**25 + 2.0**17, 2.0**25 + 2.0**18),
    (torch.bfloat16, torch.bfloat16, 2.0**-8, 1.0),
    (torch.float64, torch.float32, 2.0**-30, 1 + 2.0**-30),
]


@pytest.mark.parametrize(
    ("dtype", "wide", "weight", "want", "backend"),
    [
        *((*numbers, backend) for numbers, backend in product(ONCE, [None, "aot_eager"])),
        *(pytest.param(*numbers, "inductor", marks=pytest.mark.inductor) for numbers in ONCE[2:4]),
    ],
)
def test_sums_are_rounded_once(dtype, wide, weight, want, backend):
    module = LearnedEncoding(PLAIN, dtype=wide)
    torch.nn.init.constant_(module.weights, weight)
    run = module if backend is None else torch.compile(module, fullgraph=True, backend=backend)
    x = torch.ones(2, 5, 3, dtype=dtype, requires_grad=True)
    for sign in (1, -1):
        with torch.no_grad():
            module.weights.mul_(-1 if sign < 0 else 1)
        got = run(x * sign)
        assert got.dtype == dtype
        assert torch.equal(got, torch.full_like(x, sign * want))
    got.sum().backward()
    assert torch.equal(x.grad, -torch.ones_like(x))
    assert torch.equal(module.weights.grad[:5], torch.full((5, 3), 2, dtype=wide))
    if backend is None:
        given = module.weights.detach(), x.detach()
        ones = tuple(torch.ones_like(t) for t in given)
        got, tangent = jvp(lambda w, y: functional_call(module, {"weights": w}, (y,)), given, ones)
        assert torch.equal(tangent, torch.full_like(got, 2))
        each = vmap(lambda y: functional_call(module, {"weights": given[0]}, (y,)))(given[1])
        assert torch.equal(each, got)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_sums_that_are_not_finite(dtype, backend):
    module = LearnedEncoding(PLAIN, dtype=torch.float64)
    torch.nn.init.constant_(module.weights, torch.finfo(dtype).max)
    run = module if backend is None else torch.compile(module, fullgraph=True, backend=backend)
    x = torch.tensor([torch.inf, torch.nan, torch.finfo(dtype).max], dtype=dtype)
    assert torch.equal(run(x, 0).nan_to_num(nan=1), torch.tensor([torch.inf, 1, torch.inf]).to(dtype).nan_to_num())
    torch.nn.init.constant_(module.weights, -torch.inf)
    assert torch.equal(run(x, 0).isnan(), torch.tensor([True, True, False]))


@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_rows_are_read_bit_for_bit(dtype):
    bits = torch.tensor([0x7F81, -0x7D, 0x7FA1], dtype=torch.int16).expand(6, 3)  # NaNs that signal, with payloads
    weights = bits.clone().view(dtype)
    for given in (weights, weights.clone().requires_grad_()):
        assert torch.equal(lookup(PLAIN, given, [1, 5]).detach().view(torch.int16), bits[:2])


def test_one_position_for_several_tokens():
    module = LearnedEncoding(PLAIN)
    for run in (module, torch.compile(module, backend="aot_eager")):
        with pytest.raises(ValueError, match=r"LearnedEncoding.positions: .* each of 4 tokens, received one for all"):
            run(torch.zeros(2, 4, 3), 5)
        assert torch.equal(run(torch.zeros(2, 1, 3), 5)[1], module.weights[5:])
        assert torch.equal(run(torch.zeros(3), torch.tensor(5)), module.weights[5])


def test_three_graphs_for_all_lengths():
    counters.clear()
    module = LearnedEncoding(Learned(100, 4))
    run = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (7, 90, 1, 2, 0, 33):
        x = torch.randn(2, length, 4)
        assert torch.equal(run(x), module(x))
    assert counters["stats"]["unique_graphs"] <= 3
    exported = torch.export.export(module, (torch.zeros(2, 7, 4),), dynamic_shapes=({1: torch.export.Dim("n", min=2)},))
    x = torch.randn(2, 50, 4)
    assert torch.equal(exported.module()(x), module(x))


def test_specifications_with_tuples_in_a_trace():
    counters.clear()
    weights = table(PATCHES)
    run = torch.compile(lookup, fullgraph=True, backend="aot_eager")
    for spec in (PATCHES, Learned.patches((3, 4), 2), PATCHES):
        assert torch.equal(run(spec, weights, torch.tensor([12, 0])), weights[[12, 0]])
    assert counters["stats"]["unique_graphs"] == 1
    for spec in (PATCHES, FROZEN, SCALED):
        assert traced_json(spec) == to_json(spec)


def results():
    module = LearnedEncoding(PATCHES, dtype=torch.bfloat16)
    module.load_state_dict({"weights": table(PATCHES, torch.bfloat16)})
    return [
        *(resize(PATCHES, table(PATCHES, dtype), (5, 7), method="jax_cubic") for dtype in DTYPES),
        *(lookup(SCALED, table(SCALED, dtype), range(5)) for dtype in DTYPES),
        module(table(Learned(3, 2), torch.float16)),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_no_mode_changes_or_is_remembered(dtype):
    with FakeTensorMode():
        weights = torch.zeros(13, 2)
        assert resize(PATCHES, weights, (5, 9), method="tf_bicubic").shape == (46, 2)
        assert LearnedEncoding(PATCHES)(torch.zeros(2, 3, 2)).shape == (2, 3, 2)
    meta = torch.zeros(13, 2, device="meta", dtype=torch.bfloat16)
    assert resize(PATCHES, meta, (5, 9), method="tf_bicubic").is_meta
    assert lookup(PATCHES, meta, range(3)).is_meta
    assert LearnedEncoding(PATCHES, device="meta")(torch.zeros(2, 3, 2, device="meta")).is_meta
    want = results()
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            got = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


X, WEIGHTS, PATCHED = torch.zeros(2, 5, 3), table(PLAIN), table(PATCHES)
ERRORS = [
    (
        lambda: lookup(T5Bias(2, bidirectional=True), X[0], 1),
        "lookup.spec: expected a specification of a learned table",
    ),
    (lambda: lookup(PLAIN, [[0.0] * 3] * 6, 1), "lookup.weights: expected an array of the framework, received list"),
    (lambda: resize(PLAIN, None, (3,), method="jax_cubic"), "resize.weights: expected an array .* received NoneType"),
    (
        lambda: lookup(PLAIN, torch.nn.Embedding(6, 3), 1),
        "lookup.weights: expected an array of the framework, received Embedding",
    ),
    (lambda: lookup(PLAIN, X[0].int(), 1), "lookup.weights: expected float64, .* received int32"),
    (lambda: lookup(PLAIN, X, 1), r"lookup.weights: expected shape \(6, 3\), received \(2, 5, 3\)"),
    (lambda: lookup(PLAIN, WEIGHTS, X[0]), "lookup.positions: expected integers, received float32"),
    (lambda: lookup(PLAIN, WEIGHTS, [2**31]), "lookup.positions: expected integers of magnitude below 2.31"),
    (lambda: lookup(PLAIN, WEIGHTS, [0, 9, -1]), "lookup.positions: expected integers from 0 to 5, received 9"),
    (lambda: resize(PATCHES, WEIGHTS, (2, 2), method="jax_cubic"), r"resize.weights: expected shape \(13, 2\)"),
    (lambda: resize(PATCHES, PATCHED, (2,), method="jax_cubic"), "resize.shape: expected 2 sizes"),
    (lambda: resize(PATCHES, PATCHED, [2, True], method="jax_cubic"), r"resize.shape\[1\]: expected .* received True"),
    (lambda: resize(PATCHES, PATCHED, 2, method="jax_cubic"), "resize.shape: expected a sequence"),
    (lambda: resize(PATCHES, PATCHED, (2, 2), method="cubic"), "resize.method: expected 'torch_bilinear'"),
    (lambda: resize(1, PATCHED, (2, 2), method="cubic"), "resize.spec: expected a specification of a learned"),
    (lambda: LearnedEncoding(PLAIN)(torch.zeros(7, 3)), "LearnedEncoding.positions: expected integers from 0 to 5"),
    (lambda: LearnedEncoding(PLAIN)(X, [1, 2]), r"LearnedEncoding.positions: expected a shape that .* \(2, 5\)"),
    (lambda: LearnedEncoding(PLAIN)(X[..., 1:]), r"LearnedEncoding.x: expected shape \(..., 3\)"),
    (lambda: LearnedEncoding(PLAIN, std="x"), "LearnedEncoding.std: expected a finite number >= 0"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


OUTSIDE = "positions: expected integers from 0 to 5, received"
MODULE = LearnedEncoding(PLAIN)
TRACED = [
    *(error for error in ERRORS if not any(text in error[1] for text in ("Embedding", "LearnedEncoding"))),
    *((lambda p=p: lookup(PLAIN, WEIGHTS, p), f"lookup.{OUTSIDE} 6") for p in (6, [[0], [6]], range(0, 9, 2))),
    (lambda: lookup(PLAIN, WEIGHTS, range(5, -9, -2)), f"lookup.{OUTSIDE} -1"),
    (lambda: lookup(PLAIN, WEIGHTS, 2**31), "lookup.positions: expected integers of magnitude below 2.31"),
    (lambda: lookup(PLAIN, WEIGHTS, [1, 1.0]), "lookup.positions: expected integers, received float"),
    (lambda: MODULE(torch.zeros(7, 3)), f"LearnedEncoding.{OUTSIDE} 6"),
    (lambda: MODULE(X, [0, 1, 2, 3, 9]), f"LearnedEncoding.{OUTSIDE} 9"),
    (lambda: encode(PLAIN, [1]), "encode.spec: expected a specification such as Sinusoidal.vaswani"),
    (lambda: add(PLAIN, X), "add.spec: expected a specification such as Sinusoidal.vaswani"),
    (lambda: rotary_table(PLAIN, [1]), "table.spec: expected a rotary specification such as Rope"),
    (lambda: phase(None, [1]), "phase.spec: expected a specification such as Sinusoidal.vaswani"),
]


@pytest.mark.parametrize(("call", "message"), TRACED)
def test_refusals_in_a_trace(call, message):
    """The sentence is in what Dynamo says; without `fullgraph=True` it falls back to the eager call, which raises."""
    with pytest.raises(torch._dynamo.exc.Unsupported, match=message):
        torch.compile(call, backend="eager", fullgraph=True)()
    with pytest.raises(ValueError, match=message) as caught:
        torch.compile(call, backend="eager")()
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # one traceback


def test_a_number_that_became_a_symbol_is_checked():
    counters.clear()
    run = torch.compile(lambda p: lookup(PLAIN, WEIGHTS, p), fullgraph=True, backend="aot_eager")
    for position in (2, 3, 4, 5):
        assert torch.equal(run(position), WEIGHTS[position])
        assert torch.equal(run(range(position, position - 3, -1)), WEIGHTS[position - 2 : position + 1].flip(0))
    assert counters["stats"]["unique_graphs"] == 4
    for outside in (7, range(3, 9), range(8, 2, -1)):
        with pytest.raises(torch._dynamo.exc.Unsupported, match=f"lookup.{OUTSIDE} [678]'"):
            run(outside)
    assert torch.equal(run(1), WEIGHTS[1])
