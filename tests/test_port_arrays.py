"""States in memory: names, bits and structure, in PyTorch, JAX, TensorFlow and NumPy."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from flax import nnx

from posenc import Learned, Rope
from posenc.interop.checkpoints import apply
from posenc.interop.contents import Entry
from posenc.interop.layouts import permute
from posenc.interop.port_arrays import apply_in_memory, as_entries, as_numpy, flattened, like
from posenc.interop.port_check import steps
from posenc.interop.port_moves import Move, Rotary, Rows
from posenc.interop.port_plan import Plan
from posenc.interop.safetensors_header import CheckpointError


def bits(dtype, count=240):
    """Every kind of number, NaNs with payloads among them: counted bytes."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    counted = np.arange(count * dtype.itemsize, dtype=np.uint32) * 2654435761 >> 11
    return (counted.astype(np.uint8) & (1 if dtype.kind == "b" else 255)).view(dtype).reshape(-1)


def same(received, expected):
    assert type(received) is np.ndarray
    assert received.dtype == expected.dtype
    assert received.shape == expected.shape
    assert received.tobytes() == expected.tobytes()


IN_TORCH = [
    "float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "complex64",
    "complex128",
]  # fmt: skip


def in_torch(array):
    """By the bytes alone."""
    plain = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8)
    return plain.view(getattr(torch, array.dtype.name)).reshape(array.shape)


def of_torch(tensor):
    """Its bytes, C order, by another way than through NumPy's dtypes."""
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", IN_TORCH)
def test_torch_bit_for_bit(dtype):
    array = bits(dtype).reshape(4, 5, 12)
    tensor = in_torch(array)
    same(as_numpy(tensor), array)
    assert as_entries({"a": tensor}) == {"a": Entry((4, 5, 12), dtype)}
    same(as_numpy(tensor.permute(2, 0, 1)[1::2]), array.transpose(2, 0, 1)[1::2])
    same(as_numpy(tensor[2, 3, 4]), np.array(array[2, 3, 4]))
    same(as_numpy(tensor[:0]), array[:0])
    assert np.shares_memory(as_numpy(tensor), as_numpy(tensor.view(60, 4)))  # nothing is copied
    for part in (array, np.array(array[1, 1, 1]), array[:0], array.transpose(2, 0, 1)):
        state = {"x": torch.zeros(part.shape, dtype=tensor.dtype)}
        result = like(state, {"x": part})["x"]
        assert result.dtype == tensor.dtype
        assert tuple(result.shape) == part.shape
        assert of_torch(result) == part.tobytes()


def test_torch_views_and_parameters():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    same(as_numpy(weight.T), np.arange(6, dtype=np.float32).reshape(2, 3).T)
    same(as_numpy(weight[:1].expand(4, 3)), np.tile(np.arange(3, dtype=np.float32), (4, 1)))
    turned = torch.tensor([1 + 2j, 3j]).conj()
    same(as_numpy(turned), np.conj(np.array([1 + 2j, 3j], np.complex64)))
    same(as_numpy(turned.imag), np.array([-2, -3], np.float32))
    result = like({"weight": weight}, {"weight": np.ones((2, 3), np.float32)})["weight"]
    assert result.requires_grad
    assert not like({"w": weight.detach()}, {"w": np.ones((2, 3), np.float32)})["w"].requires_grad
    assert weight[1, 2] == 5


@pytest.mark.parametrize(
    "dtype", [name for name in IN_TORCH if name not in ("float64", "int64", "uint64", "complex128")]
)
def test_jax_bit_for_bit(dtype):
    array = bits(dtype).reshape(4, 5, 12)
    (result,) = like([jnp.zeros((4, 5, 12), array.dtype)], {"0": array})
    assert isinstance(result, jax.Array)
    assert result.dtype == array.dtype
    same(np.asarray(result), array)
    same(as_numpy(result), array)
    assert as_entries({"a": result}) == {"a": Entry((4, 5, 12), dtype)}
    same(as_numpy(result[3, 4, 5]), np.array(array[3, 4, 5]))
    same(as_numpy(result.T), array.T)


def test_jax_float64_needs_x64():
    array = bits("float64")
    with jax.enable_x64(True):
        state = {"a": jnp.zeros(240)}
        same(as_numpy(like(state, {"a": array})["a"]), array)
    sentence = "apply: expected jax_enable_x64 for float64, received float32 without it"
    with pytest.raises(CheckpointError, match=f"^{sentence}$"):
        like(state, {"a": array})


def test_jax_arrays_stay_on_their_devices():
    (device,) = jax.devices("cpu")[:1]
    fixed, free = jax.device_put(jnp.ones(3), device), jnp.ones(3)
    state = like({"fixed": fixed, "free": free}, {name: np.zeros(3, np.float32) for name in ("fixed", "free")})
    assert (state["fixed"].committed, state["free"].committed) == (True, False)
    assert state["fixed"].sharding == fixed.sharding


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int8", "int64", "bool", "complex64"])
def test_tensorflow_and_keras(dtype):
    array = bits(dtype).reshape(8, 30)
    for made in (tf.constant, tf.Variable):
        tensor = made(array)
        same(as_numpy(tensor), array)
        assert as_entries({"a": tensor}) == {"a": Entry((8, 30), dtype)}
        result = like({"a": tensor}, {"a": array[::-1]})["a"]
        assert isinstance(result, tf.Tensor)
        same(result.numpy(), np.ascontiguousarray(array[::-1]))
    if dtype not in ("bool", "complex64"):
        variable = keras.Variable(array, dtype=dtype, trainable=False)
        same(as_numpy(variable), array)
        assert as_entries({"a": variable}) == {"a": Entry((8, 30), dtype)}
        same(as_numpy(like({"a": variable}, {"a": array[::-1]})["a"]), np.ascontiguousarray(array[::-1]))


def test_numpy_arrays_are_taken_as_they_are():
    array = bits("float8_e5m2").reshape(15, 16)[::2, 1:]
    assert np.shares_memory(as_numpy(array), array)
    same(as_numpy(array), array)
    same(as_numpy(np.float32(2)), np.array(2, np.float32))
    assert like({"a": array}, {"a": array.copy()})["a"].tobytes() == array.tobytes()


NO_NUMBERS = [
    (lambda: torch.ones(3).to_sparse(), "a sparse tensor"),
    (lambda: torch.ones(2, 2).to_sparse_csr(), "a sparse tensor"),
    (lambda: torch.ones(3, device="meta"), "a meta tensor"),
    (lambda: torch.empty(2, dtype=torch.float4_e2m1fn_x2), "one of torch.float4_e2m1fn_x2"),
    (lambda: jax.random.key(0), "one of key<fry>"),
    (lambda: jax.ShapeDtypeStruct((2,), "float32"), "one of object"),
    (lambda: tf.constant(["a"]), "one of object"),
    (lambda: tf.sparse.from_dense([[1.0]]), "a SparseTensor"),
    (lambda: np.array([{}]), "one of object"),
    (lambda: np.array(["text"]), "one of <U4"),
    (lambda: np.zeros(2, "V2"), "one of |V2"),
    (lambda: np.array(["2020-01-01"], "datetime64[D]"), "one of datetime64[D]"),
]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(("make", "received"), NO_NUMBERS, ids=[received for _, received in NO_NUMBERS])
def test_what_holds_no_numbers_is_refused_by_name(make, received):
    sentence = f"'layer.weight': expected a dense array of numbers, received {received}"
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        as_numpy(make(), "layer.weight")


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantised_tensors_are_refused():
    tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match=r"^'array': expected a dense array of numbers, received a quantised"):
        as_numpy(tensor)


class Pair(NamedTuple):
    left: object
    right: object


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embedding = nnx.Embed(5, 4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, use_bias=False, rngs=rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


NAMES = ["dropout.rngs.count", "dropout.rngs.key", "embedding.embedding", "layers.0.kernel", "layers.1.kernel"]


def test_names():
    one = np.ones(1)
    assert list(flattened("state", {"b.c": one, "a": one})) == ["b.c", "a"]
    nested = {"layers": [{"q": one}, {"q": {3: one}}], "pair": Pair(one, (one, None)), "empty": {}}
    assert list(flattened("state", nested)) == ["layers.0.q", "layers.1.q.3", "pair.left", "pair.right.0"]
    state = nnx.state(Model(nnx.Rngs(0)))
    assert sorted(flattened("state", state)) == NAMES
    assert sorted(flattened("state", {"model": state})) == [f"model.{name}" for name in NAMES]
    assert sorted(flattened("state", nnx.to_pure_dict(state))) == NAMES
    assert sorted(flattened("state", nnx.state(Model(nnx.Rngs(0)), nnx.Param))) == NAMES[2:]
    assert as_entries(flattened("state", state))["dropout.rngs.key"] == Entry((), "key<fry>")
    abstract = nnx.state(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))
    assert as_entries(flattened("state", abstract)) == as_entries(flattened("state", state))
    linear = torch.nn.Linear(3, 2, device="meta")
    assert as_entries(flattened("state", linear.state_dict()))["weight"] == Entry((2, 3), "float32")


def test_names_do_not_depend_on_what_is_loaded(monkeypatch):
    nested = {"layers": [{"q": np.ones(1)}], "pair": Pair(np.ones(1), None)}
    names = list(flattened("state", nested))
    monkeypatch.delitem(sys.modules, "jax")
    assert list(flattened("state", nested)) == names == ["layers.0.q", "pair.left"]
    with pytest.raises(CheckpointError, match=r"^state: 'a': expected arrays by name, received int$"):
        flattened("state", {"a": 3})


REFUSED = [
    (lambda: Model(nnx.Rngs(0)), "expected a state, such as nnx.state(model), received the model Model"),
    (lambda: torch.nn.Linear(1, 1), "expected a state, such as model.state_dict(), received the model Linear"),
    (
        lambda: keras.Sequential([keras.layers.Dense(1)]),
        "expected the path of a file that save or save_weights wrote, for `port`, received the model Sequential",
    ),
    (lambda: np.ones(3), "expected arrays by name, received one array, ndarray"),
    (lambda: 3, "expected arrays by name, received int"),
    (lambda: {"a": [{"b": 1.5}]}, "'a.0.b': expected arrays by name, received float"),
    (lambda: nnx.State({"a": {"b": "x"}}), "'a.b': expected arrays by name, received str"),
    (
        lambda: {"a": {"b": np.ones(1)}, "a.b": np.ones(1)},
        "expected names that differ, received two arrays called 'a.b'",
    ),
    (lambda: {0: np.ones(1), "0": np.ones(1)}, "expected names that differ, received two arrays called '0'"),
    (lambda: {True: np.ones(1)}, "'': expected keys of text or integers, received True"),
    (lambda: {"a": {(1,): np.ones(1)}}, "'a': expected keys of text or integers, received (1,)"),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_state_is_refused(make, sentence):
    with pytest.raises(CheckpointError, match=f"^source: {re.escape(sentence)}$"):
        flattened("source", make())


def test_a_state_dict_is_one_again():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    weight = np.array([[1, 2], [3, 4], [5, 6]], ml_dtypes.bfloat16)
    result = like(state, {"0.weight": weight})
    assert type(result) is OrderedDict
    assert list(result) == list(state)
    assert result._metadata == state._metadata
    assert result["0.bias"] is state["0.bias"]
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    model.load_state_dict(result)
    assert model[0].weight.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_state_of_nnx_is_one_again():
    model = Model(nnx.Rngs(0))
    state = nnx.state(model)
    kept = as_numpy(flattened("state", state)["embedding.embedding"]).copy()
    kernel = np.arange(16, dtype=np.float32).reshape(4, 4)
    result = like(state, {"layers.1.kernel": kernel})
    assert type(result) is type(state)
    assert not np.array_equal(as_numpy(flattened("state", state)["layers.1.kernel"]), kernel)
    nnx.update(model, result)
    assert np.array_equal(model.layers[1].kernel[...], kernel)
    assert np.array_equal(model.embedding.embedding[...], kept)
    assert flattened("state", result)["dropout.rngs.key"] is flattened("state", state)["dropout.rngs.key"]


def test_nested_states_keep_their_kinds():
    one, two = np.ones(1), np.zeros(1)
    state = {"list": [one, None], "pair": Pair(one, (one,)), "jax": {"a": jnp.ones(1, jnp.bfloat16)}}
    result = like(state, {"list.0": two, "pair.right.0": two, "jax.a": np.zeros(1, ml_dtypes.bfloat16)})
    assert result["list"] == [two, None]
    assert type(result["pair"]) is Pair
    assert result["pair"].left is one
    assert result["pair"].right == (two,)
    assert isinstance(result["jax"]["a"], jax.Array)
    assert state["list"][0] is state["pair"].left is one
    with pytest.raises(
        CheckpointError, match=r"^apply: expected tensors of the target on a device, received meta tensor"
    ):
        like({"a": torch.ones(1, device="meta")}, {"a": np.ones(1, np.float32)})


ROPE = Rope(4, base=1e4, layout="half")
PLAN = Plan(
    (
        Move("layers.{layer}.q_proj.weight", "layers.{layer}.q.kernel",
             rotary=Rotary(ROPE, to="interleaved", heads=2), axes=(1, 0), shape=(3, 2, 4), dtype="bfloat16"),
        Move("wpe.weight", "positions", rows=Rows(Learned.opt(6, 3), Learned(5, 3))),
        Move("step", "step"),
    ),
    left_out={"norm.weight": "not used"},
    kept={"head": "new", "rngs.key": "of dropout"},
)  # fmt: skip
SOURCE = {
    "layers.0.q_proj.weight": bits("float64", 24).reshape(8, 3).view(np.uint64) % 1000 / 7,
    "layers.1.q_proj.weight": np.random.default_rng(0).standard_normal((8, 3)),
    "wpe.weight": bits("float16", 24).reshape(8, 3),
    "step": np.array(7, np.int32),
    "norm.weight": np.ones(3, np.float32),
}


def expected():
    """The same by `permute` and NumPy; a float64 is rounded to the nearest of bfloat16's two neighbours."""
    result = {"positions": SOURCE["wpe.weight"][2:7], "step": SOURCE["step"]}
    for layer in range(2):
        weight = permute(ROPE, SOURCE[f"layers.{layer}.q_proj.weight"], to="interleaved", heads=2)
        single = weight.T.reshape(3, 2, 4).astype(np.float32)
        assert ((single.view(np.uint32) & 0xFFFF) != 0x8000).all()  # no float32 is a tie: rounding twice is once
        result[f"layers.{layer}.q.kernel"] = single.astype(ml_dtypes.bfloat16)
    return result


def target(library):
    ones = {"torch": torch.ones, "jax": jnp.ones, "numpy": np.ones}[library]
    dtype = {"torch": torch, "jax": jnp, "numpy": np}[library]
    half = ml_dtypes.bfloat16 if library == "numpy" else dtype.bfloat16
    layers = [{"q": {"kernel": ones((3, 2, 4), dtype=half)}} for _ in range(2)]
    state = {"layers": layers, "positions": ones((5, 3), dtype=dtype.float16), "step": ones((), dtype=dtype.int32)}
    return {**state, "head": ones(2, dtype=dtype.float32), "rngs": {"key": jax.random.key(3)}}


@pytest.mark.parametrize("of", ["torch", "jax", "numpy"])
@pytest.mark.parametrize("to", ["torch", "jax", "numpy", None])
def test_a_port_in_memory(of, to):
    made = {
        "torch": in_torch,
        "jax": lambda array: array if array.dtype == np.float64 else jnp.asarray(array),  # no x64
        "numpy": np.copy,
    }[of]
    source = {name: made(array) for name, array in SOURCE.items()}
    state = None if to is None else target(to)
    plan = PLAN if to else Plan(PLAN.moves, left_out=PLAN.left_out)
    there = None if to is None else as_entries(flattened("target", state))
    result = apply_in_memory(steps(plan, as_entries(flattened("source", source)), there), source, state)
    if to is None:
        flat = result
    else:
        flat = flattened("result", result)
        assert list(flat) == list(flattened("target", state))
        assert flat["head"] is state["head"]
        assert flat["rngs.key"] is state["rngs"]["key"]
        assert all(bool((layer["q"]["kernel"] == 1).all()) for layer in state["layers"])
        assert {type(array) for name, array in flat.items() if name != "rngs.key"} == {type(state["head"])}
    for name, array in expected().items():
        same(as_numpy(flat[name]), np.ascontiguousarray(array).reshape(array.shape))
    for name, array in SOURCE.items():  # what was handed over has not changed
        same(as_numpy(source[name]), array)


def test_the_result_shares_no_memory_with_the_source():
    source = {"a": torch.ones(2, 3)}
    step = steps(Plan((Move("a", "b"),)), as_entries(source))
    for result in (apply_in_memory(step, source), apply_in_memory(step, source, {"b": torch.zeros(2, 3)})):
        result["b"][0] = 5
        assert source["a"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_random_key_cannot_be_moved():
    source = {"key": jax.random.key(0)}
    step = steps(Plan((Move("key", "key"),)), as_entries(source))
    with pytest.raises(CheckpointError, match=r"^'key': expected a dense array of numbers, received one of key<fry>$"):
        apply_in_memory(step, source)


def tied() -> tuple[torch.nn.Module, Plan]:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    return model, Plan([Move("e", "0.weight"), Move("h", "1.weight")])


def test_tied_weights_get_the_same_numbers_or_none():
    model, plan = tied()
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    made = apply(plan, {"e": rows, "h": rows.copy()}, model.state_dict())
    model.load_state_dict(made)
    assert (model[0].weight.detach().numpy() == rows).all()
    with pytest.raises(
        CheckpointError, match=r"the same numbers for '0.weight' and '1.weight', which share their memory"
    ):
        apply(plan, {"e": rows, "h": rows + 1}, model.state_dict())


def test_what_is_kept_and_tied_to_what_is_filled_is_filled():
    model, _ = tied()
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    model.load_state_dict(
        apply(Plan([Move("e", "0.weight")], kept={"1.weight": "tied"}), {"e": rows}, model.state_dict())
    )
    assert (model[1].weight.detach().numpy() == rows).all()
