"""The JAX column under transforms, flags, meshes and accelerators; memory, and the Flax example."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posenc.jax_impl.inputs as jax_inputs
from posenc import Sinusoidal
from posenc.jax_impl import add, encode, phase

SPEC = Sinusoidal.fairseq(17)
EXAMPLES = Path(__file__).parent.parent / "examples"


def bits(array: jax.Array) -> bytes:
    return np.asarray(array).tobytes()


def test_a_specification_is_a_static_pytree():
    leaves, tree = jax.tree.flatten({"spec": SPEC, "x": 1})
    assert leaves == [1]
    assert jax.tree.unflatten(tree, leaves)["spec"] == SPEC
    assert jax.jit(lambda holder, p: encode(holder["spec"], p))({"spec": SPEC}, jnp.arange(3)).shape == (3, 17)


def test_one_trace_for_all_offsets_and_equal_specs():
    traces = []

    @jax.jit
    def shifted(spec, x, offset):
        traces.append(offset)
        return add(spec, x, offset + jnp.arange(4, dtype=jnp.int32))

    x = jnp.zeros((2, 4, 17))
    for offset in (0, 1, -5, 2**30):
        got = shifted(Sinusoidal.fairseq(17), x, offset)
        expected = encode(SPEC, range(offset, offset + 4))
        np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=0, atol=2.0**-23)
    assert len(traces) == 1
    shifted(Sinusoidal.fairseq(17, padding_idx=2), x, 0)
    assert len(traces) == 2


def compilations(caplog, work) -> int:
    caplog.clear()
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        work()
    return sum(record.getMessage().startswith("Compiling") for record in caplog.records)


def test_no_length_is_compiled_for_on_the_host(caplog):
    for length in (3, 20, 129, 1500):
        encode(SPEC, range(length))
    lengths = [range(1), range(31), range(7, 999), np.arange(200).reshape(2, 100), range(9, 3000, 2)]
    assert compilations(caplog, lambda: [encode(SPEC, where) for where in lengths]) == 0
    assert compilations(caplog, lambda: encode(Sinusoidal.vaswani(40), range(5))) == 0
    assert compilations(caplog, lambda: jax.jit(encode)(SPEC, jnp.arange(11))) > 0


def test_vmap_scan_and_whole_give_the_same_bits():
    where = jnp.arange(12, dtype=jnp.int32) - 3
    whole = jax.jit(encode)(SPEC, where)
    rows = [
        jax.vmap(lambda p: encode(SPEC, p))(where),
        jax.jit(jax.vmap(lambda p: encode(SPEC, p)))(where),
        jax.lax.scan(lambda carry, p: (carry, encode(SPEC, p)), 0, where)[1],
        jnp.stack([jax.jit(encode)(SPEC, p) for p in where]),
    ]
    assert {bits(row) for row in rows} == {bits(whole)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients(dtype):
    x = jnp.ones((2, 5, 17), dtype)
    incoming = jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape).astype(dtype)
    for function in (lambda x: add(SPEC, x), lambda x: add(SPEC, x, [1, 2, 3, 4, -1]), jax.jit(lambda x: add(SPEC, x))):
        _, pull = jax.vjp(function, x)
        assert bits(pull(incoming)[0]) == bits(incoming)
    slope = jax.grad(lambda p: encode(SPEC, p).sum())(jnp.array([0.5, 1.5], jnp.float32))
    assert not slope.any()


FLAGS = {
    "x64": [lambda: jax.enable_x64(True)],
    "strict": [lambda: jax.numpy_dtype_promotion("strict"), lambda: jax.numpy_rank_promotion("raise")],
    "watched": [lambda: jax.debug_nans(True), lambda: jax.debug_infs(True), lambda: jax.transfer_guard("disallow")],
    "no jit": [jax.disable_jit],
}


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_change_no_bit(flag):
    whole, real, x, half = jax.device_put(
        (
            np.arange(6, dtype=np.int32) - 2,
            np.linspace(-9, 9, 6, dtype=np.float32),
            np.ones((2, 6, 17), np.float32),
            np.ones((2, 6, 17), jnp.bfloat16),
        )
    )
    calls = [lambda: encode(SPEC, whole), lambda: phase(SPEC, whole), lambda: add(SPEC, half)]
    if flag != "no jit":  # then nothing is traced, and these give the bits of the host
        calls += [
            lambda: encode(SPEC, [0.5, 3.25], dtype="bfloat16"),
            lambda: encode(SPEC, range(1100)),
            lambda: add(SPEC, x),
            lambda: jax.jit(encode)(SPEC, whole),
            lambda: jax.jit(encode)(SPEC, real),
            lambda: jax.jit(add)(SPEC, half, whole),
            lambda: jax.jit(phase)(SPEC, whole),
            lambda: jax.jit(lambda x: encode(SPEC, [0.5, 3.25, 0, 1, -1, 9]) + x[0])(x),
        ]
    before = [call() for call in calls]
    with ExitStack() as stack:
        for context in FLAGS[flag]:
            stack.enter_context(context())
        after = [call() for call in calls]
    assert [array.dtype for array in after] == [array.dtype for array in before]
    assert [bits(array) for array in after] == [bits(array) for array in before]


def test_float64_in_a_trace():
    with jax.enable_x64(True):
        where = jnp.arange(50, dtype=jnp.int64) * 7
        got = jax.jit(lambda p: encode(SPEC, p, dtype="float64"))(where)
        summed = jax.jit(add)(SPEC, jnp.ones((50, 17), jnp.float64), where / 2)
    assert bits(got) == bits(encode(SPEC, np.arange(50) * 7, dtype="float64"))
    expected = 1 + np.asarray(encode(SPEC, np.arange(50) * 3.5, dtype="float64"))
    assert np.abs(np.asarray(summed) - expected).max() <= 2.0**-51
    with pytest.raises(ValueError, match="received float64 in a trace while jax_enable_x64 is off"):
        jax.jit(lambda p: encode(SPEC, p, dtype="float64"))(jnp.arange(3))


def test_accelerators_get_the_fused_path(monkeypatch):
    where, x = jnp.arange(6, dtype=jnp.int32), jnp.zeros((400, 17))
    rounded = add(SPEC, x)
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)
    assert bits(encode(SPEC, where)) == bits(jax.jit(encode)(SPEC, where))
    assert bits(add(SPEC, x)) == bits(jax.jit(add)(SPEC, x)) != bits(rounded)
    assert bits(phase(SPEC, where)) == bits(jax.jit(phase)(SPEC, where))
    assert encode(SPEC, where, dtype="float64").dtype == jnp.float64
    assert add(SPEC, np.zeros((6, 17)), where).dtype == jnp.float64
    fused = encode(SPEC, where * 1009)
    assert bits(fused) != bits(encode(SPEC, np.arange(6) * 1009))  # NumPy positions are on the host


def test_positions_of_other_processes_are_refused(monkeypatch):
    where = jnp.arange(6)
    monkeypatch.setattr(type(where), "is_fully_addressable", property(lambda _: False))
    with pytest.raises(ValueError, match=r"^encode.positions: expected an array that this process can read, received"):
        encode(SPEC, where)


def test_results_stay_on_the_device_of_committed_positions():
    (device,) = jax.local_devices(backend="cpu")[:1]
    assert encode(SPEC, jax.device_put(jnp.arange(3), device)).committed
    assert not encode(SPEC, jnp.arange(3)).committed


def test_inside_a_trace_nothing_is_folded():
    spec = Sinusoidal.vaswani(64)
    for function in (lambda: encode(spec, range(100_000)), lambda: add(spec, jnp.zeros((100_000, 64)))):
        assert len(jax.jit(function).lower().as_text()) < 200_000

    def outside():
        with jax.ensure_compile_time_eval():
            return encode(spec, range(100))

    assert bits(jax.jit(outside)()) == bits(encode(spec, range(100)))


def test_export_with_symbolic_shapes():
    batch, length = jax.export.symbolic_shape("batch, length")
    exported = jax.export.export(jax.jit(lambda x: add(SPEC, x)))(
        jax.ShapeDtypeStruct((batch, length, 17), jnp.float32)
    )
    x = jnp.ones((2, 5, 17))
    assert bits(exported.call(x)) == bits(jax.jit(add)(SPEC, x))


MESH = """
import itertools, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from posenc import Sinusoidal
from posenc.jax_impl import add, encode, phase, rounded

spec = Sinusoidal.fairseq(16)
x, where = jnp.ones((8, 32, 16)), jnp.arange(256, dtype=jnp.int32).reshape(8, 32) - 9
collective = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")

def check(function, *arguments):
    jitted = jax.jit(function)
    assert not collective.search(jitted.lower(*arguments).compile().as_text())
    return jitted(*arguments)

for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        for axes in ((None, "data", None), ("data", None, "model")):
            there, along = NamedSharding(mesh, P(*axes)), NamedSharding(mesh, P(*axes[:2]))
            sx, sp = jax.device_put(x, there), jax.device_put(where, along)
            for got in (check(lambda x: add(spec, x), sx), check(lambda x, p: add(spec, x, p), sx, sp)):
                assert got.sharding.is_equivalent_to(there, 3), got.sharding
            for result in (encode, phase):
                got = check(lambda p: result(spec, p), sp)
                assert got.sharding.is_equivalent_to(NamedSharding(mesh, P(*axes[:2])), got.ndim), got.sharding
            assert add(spec, sx).sharding.is_equivalent_to(there, 3)
            assert (np.asarray(encode(spec, sp)) == np.asarray(encode(spec, where))).all()
        with rounded._on_cpu():  # an unplaced argument of a jitted function would go to the whole mesh
            assert len(jax.jit(lambda x: x + 1)(np.arange(3)).devices()) == 1
        sx = jax.device_put(x, NamedSharding(mesh, P("data")))
        try:
            check(lambda x: jax.sharding.reshard(x.sum(0), P()) if kind is AxisType.Explicit else x.sum(0), sx)
        except AssertionError:
            print("seen")
assert len(jax.devices()) == 8
"""


def test_meshes_of_eight_devices_need_no_collective():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    # the checker saw the collective of a sum in both kinds of mesh
    assert (run.returncode, run.stdout) == (0, "seen\nseen\n"), run.stderr


MEMORY = r"""
import pathlib, re, resource
from posenc import Sinusoidal
from posenc.jax_impl import encode

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss counts what the parent had, too
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

spec = Sinusoidal.vaswani(1024)
encode(spec, range(2048)).block_until_ready()
before = peak()
result = encode(spec, range(32768)).block_until_ready()
print((peak() - before) / result.nbytes)
copies = [(result + n).block_until_ready() for n in (1, 2)]
print((peak() - before) / result.nbytes)
"""


def test_peak_memory_is_little_more_than_the_result():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    ours, with_two_copies = map(float, run.stdout.split())
    assert ours < 1.1
    assert with_two_copies > 2.5


def test_the_flax_example_runs(capsys):
    example = runpy.run_path(str(EXAMPLES / "flax_nnx.py"))
    example["main"]()
    assert "shape (2, 8, 64)" in capsys.readouterr().out
    model = example["Encoder"](100, 64, 4, rngs=example["nnx"].Rngs(0))
    tokens = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
    whole, shifted = example["encode"](model, tokens), example["encode"](model, tokens, 3)
    assert jnp.abs(whole - shifted).max() > 1e-3
    embedded = model.embedding(tokens)
    x = add(model.positions, embedded, range(3, 11))
    # float32 sums over 64 channels and 8 tokens, twice
    np.testing.assert_allclose(shifted, x + model.attention(x), rtol=0, atol=1e-5)
