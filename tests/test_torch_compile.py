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
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, fullgraph=True, dynamic=True, backend=backend, **options)


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
    spec, run = SPECS["vaswani"], compiled(add, backend)
    for count, length in enumerate((7, 8, 300, 1, 2, 0, 33, 1, 0)):
        x = torch.zeros(2, length, 16)
        got = run(equal(spec) if count % 2 else spec, x)
        torch.testing.assert_close(got, add(spec, x), rtol=0, atol=2.0**-23)
    assert graphs() <= 3
    other = Sinusoidal.vaswani(16, base=500.0)
    torch.testing.assert_close(run(other, x := torch.zeros(2, 9, 16)), add(other, x), rtol=0, atol=2.0**-23)
    assert graphs() <= 4


def test_one_graph_for_all_offsets():
    spec = SPECS["fairseq"]
    run = compiled(lambda x, offset: add(spec, x, torch.arange(x.shape[-2]) + offset))
    x = torch.zeros(2, 9, 17)
    for offset in (5, 6, 1000, LIMIT - 100, -3):
        want = add(spec, x, range(offset, offset + 9))
        torch.testing.assert_close(run(x, offset), want, rtol=0, atol=2.0**-23)
    assert graphs() == 1


@every_spec
def test_phases_are_the_same_integers(spec):
    run = compiled(lambda p: phase(spec, p))
    for positions in (positions_of(50), positions_of(50).double() * 0.37):
        assert torch.equal(run(positions), phase(spec, positions))


@every_spec
@every_backend
def test_the_fused_bound(spec, backend):
    run = compiled(lambda p: encode(spec, p), backend)
    for positions, bound in ((positions_of(2000), 2.0**-23), (positions_of(2000).double() * 0.37, 2.0**-22)):
        got = run(positions)
        assert got.dtype == torch.float32
        assert (got - encode(spec, positions, dtype=torch.float64)).abs().max() <= bound * spec.output_scale


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [("float64", "aot_eager"), ("float16", "aot_eager"), ("bfloat16", "aot_eager"), ("float64", BACKENDS[1].values[0])],
)
def test_other_output_dtypes(dtype, backend):
    spec, positions = SPECS["scaled"], positions_of(200)
    run = compiled(lambda p: encode(spec, p, dtype=dtype), backend)
    for values in (positions, positions.double() * 0.37):
        got, want = run(values), encode(spec, values, dtype=torch.float64)
        assert str(got.dtype) == f"torch.{dtype}"
        unit = {"float64": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
        bound = want.abs() * unit + 2.0**-22 * spec.output_scale
        if dtype == "float64":
            bound = torch.tensor([[8 * math.ulp(v) + 2.0**-61 for v in row] for row in want.tolist()])
        assert (got - want).abs().le(bound).all()


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
    assert sum(node.op == "placeholder" for node in nodes) <= 2  # x, perhaps its symbolic length


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


@every_spec
def test_the_key_of_a_trace_is_the_canonical_text(spec):
    assert trace_key("encode", spec) == to_json(spec)


LENGTH = torch.export.Dim("length", min=2)
POSITIONS = torch.arange(7)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("given", [(), (POSITIONS,)], ids=["from x", "positions"])
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
    program = torch.onnx.export(module, arguments, dynamo=True, dynamic_shapes=shapes, verbose=False)
    run = onnx.reference.ReferenceEvaluator(program.model_proto)
    names = [value.name for value in program.model_proto.graph.input]
    for positions in (torch.arange(2), positions_of(300)):
        x = torch.zeros(2, len(positions), 17)
        (got,) = run.run(None, dict(zip(names, (x.numpy(), positions.numpy()), strict=True)))
        error = torch.from_numpy(got) - encode(spec, positions, dtype=torch.float64)
        assert error.abs().max() <= 2.0**-23
