"""RotaryEmbedding, refusals, modes and traces of rotations in PyTorch."""

from __future__ import annotations

import copy
import io
import pickle
import weakref

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

from posenc import DynamicNtk, Llama3, LongRope, Proportional, Rope, Sinusoidal, SpecError, Yarn, to_json
from posenc.torch_impl import add, encode, modules, rotate, table
from posenc.torch_impl import words as words_module
from posenc.torch_impl.modules import RotaryEmbedding
from posenc.torch_impl.words import trace_key

YARN = Yarn(16.0, original_length=4096)
SPEC = Rope(16, 10000.0, "half", scaling=YARN)
POSITIONS = torch.tensor([[3, 4, -1], [100, 2**31 - 1, 0]])
Q, K = (torch.randn(2, heads, 3, 16, generator=torch.Generator().manual_seed(1)) for heads in (4, 2))
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def both(q, k, t):
    return rotate(SPEC, q, t, head_axis=1), rotate(SPEC, k, t, head_axis=1)


def same(got, want):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(got, want, strict=True))


def on_meta(module):
    with torch.device("meta"):
        made = RotaryEmbedding(SPEC, head_axis=1)
    made.to_empty(device="cpu").load_state_dict(module.state_dict(), strict=True)
    return made


CHANGES = {
    "as is": lambda module: module,
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "double": lambda module: module.double(),
    "meta": on_meta,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),  # noqa: S301
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_module_is_table_and_rotate_whatever_is_done_to_it(change):
    used = RotaryEmbedding(SPEC, head_axis=1)
    used(Q, K, POSITIONS)
    module = change(used)
    assert (module in modules._last) == (module is used)
    for dtypes in ((torch.float32, torch.float32), (torch.bfloat16, torch.float16), (torch.float32, torch.float64)):
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        q, k = Q.to(dtypes[0]), K.to(dtypes[1])
        for positions in (POSITIONS, POSITIONS, range(3), [1, 2, 3], POSITIONS[0].double() / 3):
            assert same(module(q, k, positions), both(q, k, table(SPEC, positions, dtype=wide)))
    assert not module.state_dict()
    assert not [*module.parameters(), *module.buffers()]
    assert set(vars(module)) - set(vars(torch.nn.Module())) == {"spec", "head_axis"}
    assert repr(SPEC) in repr(module)
    assert "head_axis=1" in repr(module)


def test_the_kept_table_leaves_no_trace():
    module, positions = RotaryEmbedding(SPEC, head_axis=-3), POSITIONS.clone()
    with torch.inference_mode():
        module(Q, K, positions)
    leaf = Q.clone().requires_grad_()
    module(leaf, K, positions)[0].sum().backward()
    first = modules._last[module].table
    module(Q, K, positions.clone())
    assert modules._last[module].table is first
    positions.numpy()[0, 0] = 11  # behind the back of torch
    assert same(module(Q, K, positions.int()), both(Q, K, table(SPEC, positions)))
    assert same(module(Q, K, positions), both(Q, K, table(SPEC, positions)))
    other = Rope(16, 500.0, "half")
    module.spec = other
    assert torch.equal(module(Q, K, positions)[0], rotate(other, Q, table(other, positions), head_axis=1))
    vmap(lambda q, p: module(q, q, p))(Q, positions)
    assert type(modules._last[module].table.cos) is torch.Tensor
    assert not torch._C._functorch.is_functorch_wrapped_tensor(modules._last[module].table.cos)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_default_dtypes_and_autocast_change_nothing(dtype):
    def results():
        return [r for x in (Q, Q.bfloat16()) for r in (*table(SPEC, POSITIONS), rotate(SPEC, x, t, head_axis=1))]

    t = table(SPEC, POSITIONS)
    want = results()
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert same(results(), want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_devices_and_fake_tensors():
    t = table(SPEC, POSITIONS)
    assert rotate(SPEC, Q.to("meta"), t, head_axis=1).is_meta
    assert all(r.is_meta for r in RotaryEmbedding(SPEC, head_axis=1)(Q.to("meta"), K.to("meta"), POSITIONS))
    with torch.device("meta"):
        assert same(both(Q, K, table(SPEC, POSITIONS)), both(Q, K, t))
    with FakeTensorMode():
        made = RotaryEmbedding(SPEC, head_axis=1)(torch.ones(2, 4, 3, 16), torch.ones(2, 2, 3, 16), torch.arange(3))
        assert [tuple(r.shape) for r in made] == [(2, 4, 3, 16), (2, 2, 3, 16)]
    assert same(both(Q, K, table(SPEC, POSITIONS)), both(Q, K, t))


def test_words_on_accelerators_are_held_for_compiled_graphs_only():
    """Each length of a DynamicNtk is a specification of its own: what a decode loop leaves behind is bounded."""
    rope, device = Rope(8, 1e6, "half", scaling=DynamicNtk(8.0, original_length=64)), torch.device("meta")
    held = len(vars(words_module._held))
    lengths = [rope.at_length(length) for length in range(65, 165)]
    kept = [weakref.ref(words_module.words(spec, "fused", device)) for spec in lengths]
    assert words_module.words(lengths[-1], "fused", device) is kept[-1]()
    assert [there() is not None for there in kept] == [False] * 36 + [True] * 64
    assert len(vars(words_module._held)) == held


T = table(SPEC, range(3))
FORM = r"rotate.table: expected Table\(cos, sin\), two arrays of one float dtype and one shape \(\*P, 8\), received "
AXES = r"rotate.table: expected position axes \(\), \(3,\) or \(2, 3\), or 1 in place of a size, received "
ERRORS = [
    (lambda: table(Sinusoidal.vaswani(8), [1]), "table.spec: expected a rotary specification such as Rope"),
    (lambda: table(Rope, [1]), "table.spec: expected a rotary specification"),
    (lambda: table(Rope(8, 9.0, "half", scaling=DynamicNtk(2.0, original_length=9)), 1), "Rope.length: expected a len"),
    (lambda: encode(SPEC, [1]), r"encode.spec: expected an encoding such as .* \(a rotation has table and rotate\)"),
    (lambda: add(SPEC, Q), "add.spec: expected an encoding such as Sinusoidal"),
    (lambda: modules.SinusoidalEncoding(SPEC), "SinusoidalEncoding.spec: expected an encoding such as"),
    (lambda: table(SPEC, [2**31]), "table.positions: expected finite numbers of magnitude below 2.31, received 2147"),
    (lambda: table(SPEC, [True]), "table.positions: expected integers, float32 or float64, received bool"),
    (lambda: table(SPEC, 1, dtype="int8"), "table.dtype: expected float64, float32, bfloat16 or float16, received"),
    (lambda: rotate([], Q, T, head_axis=1), r"rotate.spec: expected a rotary specification .* received \[\]"),
    (lambda: rotate(SPEC, Q.int(), T, head_axis=1), "rotate.x: expected float64, .* received int32"),
    (lambda: rotate(SPEC, Q.numpy(), T, head_axis=1), "rotate.x: expected float64, .* received ndarray"),
    (
        lambda: rotate(SPEC, Q[..., :4], 3, head_axis=9),
        r"rotate.x: expected shape \(..., 16\), received \(2, 4, 3, 4\)",
    ),
    (lambda: rotate(SPEC, Q, 3, head_axis=3), "rotate.head_axis: expected None or an axis of x other than the last"),
    (lambda: rotate(SPEC, Q, T, head_axis=True), "rotate.head_axis: expected None or .* received True for an x of 4"),
    (lambda: rotate(SPEC, Q, T, head_axis=[1]), r"rotate.head_axis: expected None or .* received \[1\]"),
    (lambda: rotate(SPEC, Q, 3, head_axis=1), f"{FORM}int"),
    (lambda: rotate(SPEC, Q, (T[0].numpy(), T[1]), head_axis=1), f"{FORM}ndarray and Tensor"),
    (lambda: rotate(SPEC, Q, table(SPEC, range(4)), head_axis=1), rf"{AXES}\(4,\)"),
    (lambda: rotate(SPEC, Q, table(SPEC, [[1, 2, 3]] * 4), head_axis=1), rf"{AXES}\(4, 3\)"),
    (lambda: rotate(SPEC, Q, table(SPEC, [[[1]]]), head_axis=1), rf"{AXES}\(1, 1, 1\)"),
    (lambda: rotate(SPEC, Q[None], table(SPEC, POSITIONS), head_axis=2), r"rotate.table: .* received \(2, 3\)"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_refusals(call, message):
    rotate(SPEC, Q, T, head_axis=1)  # what passes once must not let others pass
    with pytest.raises((ValueError, SpecError), match=message):
        call()


def compiled(function, backend="aot_eager", *, dynamic=False):
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize(
    ("backend", "layout", "dtype", "backward"),
    [
        ("aot_eager", "half", torch.float32, True),
        ("aot_eager", "interleaved", torch.float64, True),
        ("aot_eager", "interleaved_to_half", torch.float16, True),
        pytest.param("inductor", "half", torch.bfloat16, False, marks=pytest.mark.inductor),
        pytest.param("inductor", "interleaved", torch.float32, True, marks=pytest.mark.inductor),
    ],
)
def test_compiled_rotations_have_the_bits_of_eager_ones(backend, layout, dtype, backward):
    """Also the gradient, and any split."""
    spec = Rope(40, 10000.0, layout, rotary_dim=38, rotary_channels="last")
    run = compiled(lambda x, t: rotate(spec, x, t, head_axis=2), backend, dynamic=True)
    x, t = torch.randn(2, 33, 3, 40).to(dtype), table(spec, range(33), dtype="float64")
    leaves = x.clone().requires_grad_(backward), x.clone().requires_grad_(backward)
    outs = run(leaves[0], t), rotate(spec, leaves[1], t, head_axis=2)
    assert torch.equal(*outs)
    if backward:
        for out in outs:
            out.backward(x)
        assert torch.equal(leaves[0].grad, leaves[1].grad)
    parts = zip(leaves[0].split(11, 1), *[a.split(11) for a in t], strict=True)
    assert torch.equal(torch.cat([run(p, (c, s)) for p, c, s in parts], 1), outs[1])


@every_backend
def test_a_decode_loop_is_one_graph(backend):
    module = RotaryEmbedding(SPEC, head_axis=1)
    run = compiled(module, backend, dynamic=None)
    for step in (4095, 4096, 2**24 + 1):
        q, k, positions = Q[:1, :, :1], K[:1, :, :1], torch.tensor([[step]])
        for got, want, x in zip(run(q, k, positions), module(q, k, positions), (q, k), strict=True):
            # the table of a trace errs by 2^-23, twice; either rotation by 2^-22
            assert (got - want).abs().max() <= 2.0**-20 * SPEC.magnitude * x.abs().max()
    assert graphs() == 1


def test_equal_specifications_and_lengths_share_graphs():
    run = compiled(lambda spec, x, p: rotate(spec, x, table(spec, p), head_axis=1), dynamic=True)
    for length in (7, 8, 300):
        spec = Rope(16, 10000.0, "half", scaling=Yarn(16.0, original_length=4096))
        x, p = torch.randn(2, 3, length, 16), torch.arange(length) * 10
        want = rotate(spec, x, table(spec, p), head_axis=1)
        assert (run(spec, x, p) - want).abs().max() <= 2.0**-20 * SPEC.magnitude * x.abs().max()
    assert graphs() == 1


KEYS = [
    SPEC,
    Rope(
        16, 500000.0, "interleaved", rotary_dim=8, rotary_channels="last", direction="negative", apply_magnitude=False
    ),
    Rope(4, 1e4, "half", scaling=LongRope((1.0, 3.5), (2.0, 1e9), original_length=99, factor=8.0), length=9),
    Rope(8, 1e6, "interleaved_to_half", scaling=Proportional(0.5)),
    Rope(8, 1e6, "half", scaling=Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)),
    Rope(8, 1e6, "half", scaling=DynamicNtk(8.0, original_length=8192)).at_length(10000),
]


@pytest.mark.parametrize("spec", KEYS)
def test_the_key_of_a_trace_is_the_canonical_text(spec):
    assert trace_key("table", spec, rotary=True) == to_json(spec)


@pytest.mark.parametrize("spec", KEYS[1:4])
def test_tables_in_a_trace(spec):
    positions = torch.tensor([0, 1, -1, 2**24 + 1, 1 - 2**31])
    waves = zip(compiled(lambda p: table(spec, p))(positions), table(spec, positions, dtype="float64"), strict=True)
    for got, want in waves:
        assert (got - want).abs().max() <= 2.0**-23 * spec.magnitude


def test_refusals_in_a_trace():
    for call, message in (
        (lambda x: table(Sinusoidal.vaswani(8), x), "table.spec: expected a rotary specification"),
        (lambda x: rotate(SPEC, x, T, head_axis=3), "rotate.head_axis: expected None or an axis"),
        (lambda x: rotate(SPEC, x[..., 1:], T, head_axis=1), r"rotate.x: expected shape \(..., 16\)"),
        (lambda x: rotate(SPEC, x, (T[0], 3), head_axis=1), f"{FORM}Tensor and int"),
        (lambda x: rotate(SPEC, x, (T[0][:2], T[1][:2]), head_axis=1), rf"{AXES}\(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            torch.compile(call, backend="eager")(Q)


def test_export_with_a_dynamic_length():
    module, length = RotaryEmbedding(SPEC, head_axis=1), torch.export.Dim("length", min=2)
    shapes = ({2: length}, {2: length}, {1: length})
    exported = torch.export.export(module, (Q, K, POSITIONS), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    run = torch.export.load(file).module()
    q, k, p = Q.repeat(1, 1, 50, 1), K.repeat(1, 1, 50, 1), POSITIONS.repeat(1, 50)
    for got, want, x in zip(run(q, k, p), module(q, k, p), (q, k), strict=True):
        assert (got - want).abs().max() <= 2.0**-20 * SPEC.magnitude * x.abs().max()
