"""The PyTorch column in a trace: few graphs, phases identical, errors within the fused bound, exports that run."""

from __future__ import annotations

import io
import math

import onnx.reference
import pytest
import torch
from torch._dynamo.utils import counters

from posenc import Sinusoidal, to_json
from posenc.torch_impl import add, encode, phase
from posenc.torch_impl.modules import SinusoidalEncoding
from posenc.torch_impl.words import trace_key

LIMIT = 2**31 - 1
SPECS = {
    "vaswani": Sinusoidal.vaswani(16),
    "fairseq": Sinusoidal.fairseq(17),
    "scaled": Sinusoidal(12, layout="cos_sin", denominator_shift=0.5, output_scale=1.9999999, position_offset=-7),
}
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(function, backend="aot_eager", *, dynamic=False):
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)


def graphs():
    return counters["stats"]["unique_graphs"]


def positions_of(count):
    generator = torch.Generator().manual_seed(1)
    edges = torch.tensor([0, 1, -1, 2**24 + 1, -(2**24) - 1, LIMIT, -LIMIT])
    return torch.cat((edges, torch.randint(-LIMIT, LIMIT, (count,), generator=generator)))


def equal(spec):
    """A new specification with every field equal."""
    made = type(spec)(**{name: getattr(spec, name) for name in spec.__dataclass_fields__ if name != "_"})
    assert made is not spec
    return made


@every_backend
def test_three_graphs_for_all_lengths_and_equal_specifications(backend):
    spec, run = SPECS["scaled"], compiled(add, backend, dynamic=True)
    for count, length in enumerate((7, 8, 300, 1, 2, 0, 33, 1, 0)):
        x = torch.zeros(2, length, spec.dim)
        exact = encode(spec, range(length), dtype=torch.float64)
        error = run(equal(spec) if count % 2 else spec, x) - exact
        assert not error.numel() or error.abs().max() <= 2.0**-23 * spec.output_scale
    assert graphs() <= 3


def test_one_graph_for_all_offsets():
    spec = SPECS["fairseq"]
    run = compiled(lambda x, offset: add(spec, x, torch.arange(x.shape[-2]) + offset), dynamic=True)
    x = torch.zeros(2, 9, 17)
    for offset in (5, 6, 1000, LIMIT - 100, -3):
        want = add(spec, x, range(offset, offset + 9))
        torch.testing.assert_close(run(x, offset), want, rtol=0, atol=2.0**-23)
    assert graphs() == 1


def everything(spec, positions):
    dtypes = ("float64", "float32", "bfloat16", "float16")
    return phase(spec, positions), *[encode(spec, positions, dtype=dtype) for dtype in dtypes]


def check_everything(spec, positions, got):
    """Equal phases, and each output dtype within its bound."""
    words, *encodings = got
    assert torch.equal(words, phase(spec, positions))
    want, bound = encode(spec, positions, dtype=torch.float64), spec.output_scale * 2.0**-23
    if positions.is_floating_point():
        bound *= 2
    for encoding, unit in zip(encodings[1:], (0.0, 2.0**-8, 2.0**-11), strict=True):
        assert (encoding.double() - want).abs().le(want.abs() * unit + bound).all(), encoding.dtype
    units = torch.tensor([[8 * math.ulp(v) + 2.0**-61 for v in row] for row in want.tolist()], dtype=torch.float64)
    assert (encodings[0] - want).abs().le(units).all()
    assert [e.dtype for e in encodings] == [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("name", "floats", "backend"),
    [
        ("vaswani", False, "aot_eager"),
        ("fairseq", True, "aot_eager"),
        ("scaled", False, "aot_eager"),
        pytest.param("scaled", False, "inductor", marks=pytest.mark.inductor),
    ],
)
def test_phases_and_bounds(name, floats, backend):
    spec, positions = SPECS[name], positions_of(500).double() * 0.37 if floats else positions_of(500)
    check_everything(spec, positions, compiled(lambda p: everything(spec, p), backend)(positions))


def test_the_bound_checker_sees_a_wrong_value():
    spec, positions = SPECS["vaswani"], positions_of(5)
    for index in range(5):
        got = list(everything(spec, positions))
        check_everything(spec, positions, got)
        got[index] = got[index].clone()
        got[index].view(-1)[3] += 1
        with pytest.raises(AssertionError):
            check_everything(spec, positions, got)


def test_specifications_side_by_side():
    """Two of them in one graph, the second use of one, and another one in the same code."""
    first, second = SPECS["vaswani"], Sinusoidal.vaswani(16, base=500.0)
    run = compiled(lambda x, one, two: (add(one, x), add(two, x), add(one, x, x[:, 0])))
    x = torch.arange(5.0).unsqueeze(-1).expand(5, 16)
    for one, two in ((first, second), (second, first)):
        for got, want in zip(run(x, one, two), (add(one, x), add(two, x), add(one, x, x[:, 0])), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=2.0**-20)  # the unit of a sum near 5, and the bound


def test_a_first_use_under_torch_func_leaves_plain_tensors():
    spec, x = Sinusoidal.vaswani(26), torch.zeros(3, 26)
    gradient = torch.func.grad(lambda z: add(spec, z).sum())
    with torch.inference_mode():
        compiled(lambda z: add(spec, z))(x)
    assert torch.equal(compiled(gradient)(x), torch.ones_like(x))
    leaf = x.clone().requires_grad_()
    compiled(lambda z: add(spec, z) * 2)(leaf).sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(x, 2))


def test_nothing_outside_the_arguments_matters():
    spec, positions = SPECS["vaswani"], positions_of(50)
    want = compiled(lambda p: encode(spec, p))(positions)
    torch._dynamo.reset()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = compiled(lambda p: encode(spec, p))(positions)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, want)


def test_gradients_and_vmap_in_a_trace():
    spec = SPECS["vaswani"]
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(2, 5, 16, dtype=dtype, requires_grad=True)
        (compiled(lambda z: add(spec, z))(x) * 2).sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 2))
    positions = positions_of(3).view(2, 5)
    got = compiled(torch.vmap(lambda p: encode(spec, p)))(positions)
    torch.testing.assert_close(got, encode(spec, positions), rtol=0, atol=2.0**-23)


def test_padding_and_python_positions():
    spec = Sinusoidal(8, layout="sin_cos", denominator_shift=1.0, padding_position=3)
    run = compiled(lambda p: (encode(spec, p), encode(spec, [3, 4.5]), encode(spec, 3), encode(spec, range(2, 5))))
    array, floats, one, three = run(torch.tensor([3, 4]))
    assert not array[0].any()
    assert not floats[0].any()
    assert not one.any()
    torch.testing.assert_close(three, encode(spec, range(2, 5)), rtol=0, atol=2.0**-23)
    torch.testing.assert_close(floats, encode(spec, [3, 4.5]), rtol=0, atol=2.0**-22)


def test_a_plan_of_4096_pairs_is_one_constant():
    """A Python integer an increment would be a guard each, and minutes to compile."""
    seen = []

    def backend(graph, _):
        seen.append(graph)
        return graph.forward

    spec, x = Sinusoidal.vaswani(8192), torch.zeros(3, 8192)
    got = compiled(lambda z: add(spec, z), backend)(x)
    torch.testing.assert_close(got, add(spec, x), rtol=0, atol=2.0**-23)
    nodes = list(seen[-1].graph.nodes)
    assert len(nodes) < 150
    assert sum(node.op == "placeholder" for node in nodes) <= 3  # x, the words, perhaps a symbolic length


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: encode(SPECS["vaswani"], x.half()),
            "encode.positions: expected integers, .* received float16, which",
        ),
        (lambda x: encode(SPECS["vaswani"], x > 0), "encode.positions: expected integers, .* received bool: a mask"),
        (lambda x: encode(SPECS["vaswani"], x, dtype=torch.int32), "encode.dtype: expected float64, .* received int32"),
        (lambda x: add(SPECS["vaswani"], x), r"add.x: expected shape \(..., 16\), received \(2, 3\)"),
        (lambda x: add(SPECS["vaswani"], x.int()), "add.x: expected float64, .* received int32"),
    ],
)
def test_refusals_in_a_trace(call, message):
    with pytest.raises(ValueError, match=message):
        torch.compile(call, backend="eager")(torch.zeros(2, 3))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_key_of_a_trace_is_the_canonical_text(spec):
    assert trace_key("encode", spec) == to_json(spec)


LENGTH = torch.export.Dim("length", min=2)
POSITIONS = torch.arange(7)


@pytest.mark.parametrize(("strict", "given"), [(False, ()), (True, (POSITIONS,))], ids=["from x", "strict, positions"])
def test_export_with_a_dynamic_length(strict, given):
    spec = SPECS["fairseq"]
    module, shapes = SinusoidalEncoding(spec), ({1: LENGTH}, {0: LENGTH})[: 1 + len(given)]
    exported = torch.export.export(module, (torch.zeros(2, 7, 17), *given), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    run = torch.export.load(file).module()
    for length in (2, 7, 300):
        arguments = (torch.zeros(2, length, 17), *[torch.arange(length) - 9 for _ in given])
        torch.testing.assert_close(run(*arguments), module(*arguments), rtol=0, atol=2.0**-23)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_with_a_dynamic_length():
    spec = SPECS["fairseq"]
    module = SinusoidalEncoding(spec)
    arguments = (torch.zeros(2, 7, 17), POSITIONS)
    shapes = ({1: LENGTH}, {0: LENGTH})
    program = torch.onnx.export(module.eval(), arguments, dynamo=True, dynamic_shapes=shapes, verbose=False)
    run = onnx.reference.ReferenceEvaluator(program.model_proto)
    names = [value.name for value in program.model_proto.graph.input]
    for positions in (torch.arange(2), positions_of(300)):
        x = torch.zeros(2, len(positions), 17)
        (got,) = run.run(None, dict(zip(names, (x.numpy(), positions.numpy()), strict=True)))
        error = torch.from_numpy(got) - encode(spec, positions, dtype=torch.float64)
        assert error.abs().max() <= 2.0**-23
