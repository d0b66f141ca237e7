"""SinusoidalEncoding, modes that must leave no trace, and torch.func: results depend on the arguments alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from posenc import Sinusoidal, SpecError
from posenc.torch_impl import add, encode, phase
from posenc.torch_impl.modules import SinusoidalEncoding

SPEC = Sinusoidal.fairseq(16)
X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
POSITION_ROWS = [[3, 4, -1, 7, 8], [100, 2**31 - 1, -5, 0, 1]]
POSITIONS = torch.tensor(POSITION_ROWS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])


def on_meta(module):
    with torch.device("meta"):
        made = SinusoidalEncoding(SPEC)
    made.to_empty(device="cpu").load_state_dict(module.state_dict(), strict=True)
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module,
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.double(),
        lambda module: module.to(dtype=torch.float16),
        on_meta,
        copy.deepcopy,
        lambda module: pickle.loads(pickle.dumps(module)),  # noqa: S301
    ],
    ids=["as is", "half", "bfloat16", "double", "to", "meta", "deepcopy", "pickle"],
)
@every_dtype
def test_a_module_is_add_whatever_is_done_to_it(change, dtype):
    module = change(SinusoidalEncoding(SPEC))
    x = X.to(dtype)
    assert torch.equal(module(x), add(SPEC, x))
    assert torch.equal(module(x, POSITIONS), add(SPEC, x, POSITIONS))
    assert not module.state_dict()
    assert not [*module.parameters(), *module.buffers()]
    assert not any(isinstance(value, torch.Tensor) for value in vars(module).values())
    assert repr(SPEC) in repr(module)


def test_a_module_needs_a_specification():
    with pytest.raises(
        SpecError, match=r"SinusoidalEncoding.spec: expected a specification such as Sinusoidal.* received 16"
    ):
        SinusoidalEncoding(16)


def results(spec):
    """Everything that could depend on a mode, on the host; x in every dtype."""
    tables = [encode(spec, range(70), dtype=name) for name in ("float64", "float32", "bfloat16", "float16")]
    sums = [add(spec, table) for table in tables]
    return [*tables, *sums, encode(spec, [[0.5, -3.25]]), phase(spec, [1, -2]), encode(spec, POSITION_ROWS)]


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_default_dtypes_and_autocast_change_nothing(default_dtype, dtype):
    want = results(SPEC)
    default_dtype(dtype)
    with torch.autocast("cpu", dtype=dtype if dtype != torch.float64 else torch.bfloat16):
        got = results(SPEC)
    assert [r.dtype for r in got] == [r.dtype for r in want]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def fake(dim):
    with FakeTensorMode():
        made = results(Sinusoidal.vaswani(dim))
    assert {type(r).__name__ for r in made} == {"FakeTensor"}
    assert [r.shape[:-1] for r in made[:-3]] == [(70,)] * 8
    assert {r.shape[-1] for r in made} == {dim, 3}


def meta(dim):
    spec = Sinusoidal.vaswani(dim)
    with torch.device("meta"):
        assert encode(spec, range(70)).device.type == "cpu"
        assert encode(spec, torch.arange(4)).is_meta
        assert add(spec, torch.ones(3, dim)).is_meta
        assert add(spec, torch.ones(3, dim), [1, 2, 3]).is_meta
        assert phase(spec, torch.ones(3)).is_meta


def inference(dim):
    with torch.inference_mode():
        results(Sinusoidal.vaswani(dim))


def transforms(dim):
    spec = Sinusoidal.vaswani(dim)
    vmap(grad(lambda x: add(spec, x).sum()))(torch.ones(2, 70, dim))
    vmap(lambda p: (encode(spec, p), phase(spec, p)))(POSITIONS)


@pytest.mark.parametrize(("mode", "dim"), [(fake, 18), (meta, 20), (inference, 22), (transforms, 24)])
def test_the_first_use_in_a_mode_poisons_no_cache(mode, dim):
    mode(dim)
    spec = Sinusoidal.vaswani(dim)
    x = torch.zeros(70, dim, requires_grad=True)
    add(spec, x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    for result in results(spec):
        assert type(result) is torch.Tensor
        assert result.device.type == "cpu"
        assert not result.is_inference()
    value = torch.tensor([[spec.value(p, c) for c in range(dim)] for p in (0, 69)])
    assert torch.equal(encode(spec, range(70))[[0, 69]], value)


@every_dtype
def test_gradients_pass_unchanged(dtype):
    x, two = X.to(dtype), torch.full_like(X, 2, dtype=dtype)
    leaf = x.clone().requires_grad_()
    (add(SPEC, leaf, POSITIONS) * 2).sum().backward()
    assert torch.equal(leaf.grad, two)
    out, tangent = jvp(lambda z: add(SPEC, z), (x,), (two,))
    assert torch.equal(out, add(SPEC, x))
    assert torch.equal(tangent, two)
    assert torch.equal(vmap(grad(lambda z, p: (add(SPEC, z, p) * 2).sum()))(x, POSITIONS), two)
    for jacobian in (jacfwd, jacrev):
        assert torch.equal(jacobian(lambda z: add(SPEC, z))(x[0, :2]).view(32, 32), torch.eye(32, dtype=dtype))
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda z: add(SPEC, z), (leaf,), check_forward_ad=True)


def test_encodings_are_constants():
    positions = POSITIONS.double().requires_grad_()
    assert not encode(SPEC, positions).requires_grad
    assert not add(SPEC, X, positions).requires_grad
    zero = torch.zeros_like(positions)
    assert torch.equal(grad(lambda p: encode(SPEC, p).sum())(positions.detach()), zero)
    assert torch.equal(vmap(grad(lambda p: encode(SPEC, p).sum()))(positions.detach()), zero)
    assert not jvp(lambda p: encode(SPEC, p), (positions.detach(),), (zero + 1,))[1].any()


@every_dtype
def test_vmap_has_the_bits_of_a_loop(dtype):
    x, want = X.to(dtype), encode(SPEC, POSITIONS, dtype=dtype)
    assert torch.equal(vmap(lambda p: encode(SPEC, p, dtype=dtype))(POSITIONS), want)
    assert torch.equal(vmap(lambda p: encode(SPEC, p, dtype=dtype), in_dims=1, out_dims=1)(POSITIONS), want)
    assert torch.equal(vmap(vmap(lambda p: encode(SPEC, p, dtype=dtype)))(POSITIONS), want)
    assert torch.equal(vmap(lambda p: phase(SPEC, p))(POSITIONS), phase(SPEC, POSITIONS))
    assert torch.equal(vmap(lambda z: add(SPEC, z))(x), add(SPEC, x))
    assert torch.equal(vmap(lambda z: add(SPEC, z), in_dims=2)(x.movedim(0, 2)), add(SPEC, x))
    assert torch.equal(vmap(lambda z, p: add(SPEC, z, p))(x, POSITIONS), add(SPEC, x, POSITIONS))
    assert torch.equal(vmap(lambda p: add(SPEC, x[0], p))(POSITIONS), add(SPEC, x[0].expand(2, 5, 16), POSITIONS))


def test_vmap_checks_values():
    with pytest.raises(ValueError, match=r"encode.positions: expected finite numbers .* received nan"):
        vmap(lambda p: encode(SPEC, p))(torch.tensor([[0.0], [float("nan")]]))
