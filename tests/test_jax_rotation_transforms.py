"""The JAX column's rotation under transforms, splits, flags, export and meshes; what is compiled, and how often."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posenc import Rope, Sinusoidal, Yarn
from posenc.jax_impl import Table, add, rotate, table
from tests.test_jax_transforms import FLAGS, bits, compilations

SPEC = Rope(12, 1e4, "half", scaling=Yarn(4.0, original_length=64))
OTHERS = [
    Rope(18, 1e4, "interleaved", rotary_dim=10, rotary_channels="last"),
    Rope(20, 1e4, "interleaved_to_half", rotary_dim=16, direction="negative"),
]


def heads(spec: Rope, lengths: tuple = (2, 3, 37), dtype: str = "float32") -> jax.Array:
    x = np.random.default_rng(5).standard_normal((*lengths, spec.head_dim))
    return jnp.asarray(x.astype(np.float32)).astype(dtype)


def turn(spec: Rope, x: jax.Array, t: Table) -> jax.Array:
    return rotate(spec, x, t, head_axis=-3)


def part(t: Table, rows: object) -> Table:
    return Table(t.cos[rows], t.sin[rows])


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [(SPEC, "float32"), (OTHERS[0], "float32"), (OTHERS[1], "bfloat16")],
    ids=["half", "interleaved", "both"],
)
def test_every_split_and_mode_gives_the_same_bits(spec, dtype, monkeypatch):
    x, t = np.asarray(heads(spec, dtype=dtype)), Table(*map(np.asarray, table(spec, range(65536, 65573))))
    whole = turn(spec, x, t)
    for mode in (turn, jax.jit(turn, static_argnums=0)):
        for size in (1, 16):  # the last one shorter
            steps = [mode(spec, x[:, :, i : i + size], part(t, slice(i, i + size))) for i in range(0, 37, size)]
            assert bits(np.concatenate(steps, axis=2)) == bits(whole)
        assert bits(mode(spec, x[1, 1:2], t)) == bits(whole[1, 1:2])

    def one(x, cos, sin):
        return turn(spec, x[:, :, None], (cos[None], sin[None]))[:, :, 0]

    assert bits(jax.vmap(one, in_axes=(2, 0, 0), out_axes=2)(x, *t)) == bits(whole)
    _, scanned = jax.lax.scan(lambda carry, row: (carry, one(*row)), 0, (np.moveaxis(x, 2, 0), *t))
    assert bits(np.moveaxis(scanned, 0, 2)) == bits(whole)
    monkeypatch.setattr(jax, "device_count", lambda: 2)  # where x may be sharded, it is compiled otherwise
    assert bits(turn(spec, x, t)) == bits(whole)
    # with other work before and after, which a compiler would fuse with the products
    two, one_more = x.dtype.type(2), x.dtype.type(1)
    around = jax.jit(lambda x, t: turn(spec, x * two, t) - one_more)
    assert bits(around(x, t)) == bits(whole * two - one_more)


def operations(compiled: jax.stages.Compiled) -> list[str]:
    entry = compiled.as_text().partition("ENTRY")[2]
    return [name for name in re.findall(r"= \S+ ([\w-]+)\(", entry) if name not in ("parameter", "bitcast")]


def concatenated(x: jax.Array, t: Table) -> jax.Array:
    u, v = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([u * t.cos - v * t.sin, v * t.cos + u * t.sin], axis=-1)


@pytest.mark.parametrize("layout", ["half", "interleaved", "interleaved_to_half"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_fusion_without_temporaries(layout, dtype, monkeypatch):
    for dim, width, devices in ((128, 128, 1), (128, 40, 1), (128, 128, 2)):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        spec = Rope(dim, 1e4, layout, rotary_dim=width)
        x, t = jnp.zeros((1, 4, 512, dim), dtype), table(spec, range(512))
        forward = jax.jit(lambda x, t, spec=spec: turn(spec, x, t))
        pull = jax.jit(lambda x, t, spec=spec: jax.vjp(lambda x: turn(spec, x, t), x)[1](x))
        for function in (forward, pull) if dim == width else (forward,):
            compiled = function.lower(x, t).compile()
            assert operations(compiled) == ["fusion"]
            assert compiled.memory_analysis().temp_size_in_bytes == 0
    x, t = jnp.zeros((1, 4, 512, 128)), table(Rope(128, 1e4, "half"), range(512))
    assert operations(jax.jit(concatenated).lower(x, t).compile()) != ["fusion"]


def test_what_is_shared_by_heads_or_batch_rows_is_computed_once():
    spec, encoding = Rope(64, 1e4, "half"), Sinusoidal.vaswani(64)
    x, positions = jnp.zeros((2, 16, 64, 64)), jnp.arange(64, dtype=jnp.int32)
    turned = jax.jit(lambda x, p: turn(spec, x, table(spec, p))).lower(x, positions).compile()
    added = jax.jit(lambda x: add(encoding, x)).lower(x).compile()
    for compiled in (turned, added):  # a fusion of its own, not one with what uses it
        assert operations(compiled).count("fusion") == 2


def test_no_compilation_over_decode_steps_nor_for_equal_specs(caplog):
    def step(position: int) -> None:
        spec = Rope(12, 1e4, "half", scaling=Yarn(4.0, original_length=64))
        turn(spec, q, table(spec, [position]))

    q = heads(SPEC, (1, 4, 1))
    step(0)
    assert compilations(caplog, lambda: [step(position) for position in (1, 2, 2**30)]) == 0
    assert compilations(caplog, lambda: turn(SPEC, q[:, :3], table(SPEC, [0]))) > 0


def test_specs_and_tables_are_pytrees_and_traced_once():
    traces = []

    @jax.jit
    def whole(holder, x, positions):
        traces.append(1)
        return turn(holder["spec"], x, table(holder["spec"], positions))

    x, positions = heads(SPEC), jnp.arange(37, dtype=jnp.int32)
    leaves, tree = jax.tree.flatten((SPEC, table(SPEC, 1)))
    assert len(leaves) == 2
    assert jax.tree.unflatten(tree, leaves)[0] == SPEC
    results = [
        whole({"spec": Rope(12, 1e4, "half", scaling=Yarn(4.0, original_length=64))}, x, positions + k) for k in (0, 9)
    ]
    assert len(traces) == 1
    whole({"spec": Rope(12, 1e4, "half", scaling=Yarn(8.0, original_length=64))}, x, positions)
    assert len(traces) == 2
    closed = jax.jit(lambda x, p: turn(SPEC, x, table(SPEC, p)))
    static = jax.jit(lambda spec, x, p: turn(spec, x, table(spec, p)), static_argnums=0)
    assert bits(closed(x, positions)) == bits(static(SPEC, x, positions)) == bits(results[0])


def test_gradients_are_the_transposed_rotation():
    # the matrix of the rotation of one position, from its columns; its layout is not its own transpose's
    spec = OTHERS[1]
    t, eye = table(spec, [1234], dtype="float64"), np.eye(spec.head_dim)
    matrix = np.asarray(rotate(spec, eye, t, head_axis=None)).T
    with jax.enable_x64(True):
        x, y, moved = (jnp.asarray(np.random.default_rng(k).standard_normal((5, spec.head_dim))) for k in range(3))
        ct, (dt, du) = jnp.asarray(moved[::-1]), (jnp.cos(part) for part in t)

        def turned(x, cos, sin):
            return rotate(spec, x, (cos, sin), head_axis=None)

        out, pull = jax.vjp(turned, x, *t)
        dx, dcos, dsin = pull(ct)
        np.testing.assert_allclose(out, x @ matrix.T, rtol=0, atol=1e-14)
        np.testing.assert_allclose(dx, ct @ matrix, rtol=0, atol=1e-14)
        # bilinear: the derivative by the table is the rotation by another table, without the channels that stay
        _, tangent = jax.jvp(turned, (x, *t), (moved, dt, du))
        still = turned(x, *(0 * part for part in t))
        expected = turned(moved, *t) + turned(x, dt, du) - still
        np.testing.assert_allclose(tangent, expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose((dcos * dt + dsin * du).sum(), (ct * (turned(x, dt, du) - still)).sum(), rtol=1e-12)
        loss = lambda x: (turned(x, *t) ** 3 * y).sum()  # noqa: E731
        numbers = jax.grad(lambda x: jax.grad(loss)(x).sum())(x)
        np.testing.assert_allclose(numbers, jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1], rtol=1e-9, atol=1e-9)
        by_row = jax.vmap(jax.grad(lambda x, y: (turned(x, *part(t, 0)) ** 3 * y).sum()))(x, y)
        np.testing.assert_allclose(by_row, jax.jit(jax.grad(loss))(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_in_half_precision_are_rounded_once(dtype):
    x, t = heads(SPEC, dtype=dtype), table(SPEC, range(37))
    ct = x[::-1]
    (got,) = jax.vjp(lambda x: turn(SPEC, x, t), x)[1](ct)
    back = turn(SPEC, ct.astype(jnp.float32), Table(t.cos, -t.sin))
    assert got.dtype == x.dtype
    unit = 2.0**-7 if dtype == "bfloat16" else 2.0**-10  # a last place of either, where a fused product moves a tie
    error = np.abs(np.asarray(got, np.float32) - np.asarray(back.astype(dtype), np.float32))
    assert (error <= unit * np.abs(back) + 2.0**-24).all()


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_change_no_bit(flag):
    x, t, rows = heads(SPEC), table(SPEC, range(37)), table(SPEC, np.arange(74).reshape(2, 37), dtype="bfloat16")
    positions = jnp.arange(37, dtype=jnp.int32)
    wide = table(SPEC, range(37), dtype="float64")
    calls = [
        lambda: turn(SPEC, x, t),
        lambda: turn(SPEC, x, wide),
        lambda: turn(SPEC, x, rows),
        lambda: jax.jit(lambda x: turn(SPEC, x, wide))(x),
        lambda: jax.vjp(lambda x: turn(SPEC, x, t), x)[1](x)[0],
    ]
    if flag == "no jit":  # each operation by itself, and so the gradient without fused products
        calls = calls[:2]
    else:
        calls += [lambda: table(SPEC, positions).sin, lambda: jax.jit(table)(SPEC, positions).sin]
    before = [call() for call in calls]
    with ExitStack() as stack:
        for context in FLAGS[flag]:
            stack.enter_context(context())
        after = [call() for call in calls]
    assert [(array.dtype, bits(array)) for array in after] == [(array.dtype, bits(array)) for array in before]


def test_export_shapes_and_donation():
    batch, length = jax.export.symbolic_shape("batch, length")
    x, t = heads(SPEC), table(SPEC, range(37))
    shapes = (
        jax.ShapeDtypeStruct((batch, 3, length, 12), jnp.float32),
        Table(*[jax.ShapeDtypeStruct((length, 6), jnp.float32)] * 2),
    )
    exported = jax.export.export(jax.jit(lambda x, t: turn(SPEC, x, t)))(*shapes)
    again = jax.export.deserialize(exported.serialize(vjp_order=1))
    assert bits(again.call(x, t)) == bits(turn(SPEC, x, t))
    assert jax.eval_shape(lambda x: turn(SPEC, x, t), x).shape == x.shape
    donated = jax.jit(lambda x: turn(SPEC, x, t), donate_argnums=0)
    assert bits(donated(x + 0)) == bits(turn(SPEC, x, t))


MESH = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from posenc import Rope
from posenc.jax_impl import rotate, table

spec = Rope(16, 1e4, "half", rotary_dim=8)
x = np.random.default_rng(0).standard_normal((8, 4, 16, 16)).astype(np.float32)
where = np.arange(128, dtype=np.int32).reshape(8, 16)
collective = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
turn = lambda x, t: rotate(spec, x, t, head_axis=1)
expected = np.asarray(turn(x, table(spec, where)))

def check(function, *arguments):
    jitted = jax.jit(function)
    assert not collective.search(jitted.lower(*arguments).compile().as_text())
    return jitted(*arguments)

for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        for axes in (("data", "model", None), (None, "model", "data"), ("model", None, "data")):
            there, along = NamedSharding(mesh, P(*axes, None)), NamedSharding(mesh, P(axes[0], axes[2]))
            sx, sp = jax.device_put(x, there), jax.device_put(where, along)
            st = jax.tree.map(lambda part: jax.device_put(part, along), table(spec, where))
            for got in (check(turn, sx, st), turn(sx, st)):
                assert got.sharding.is_equivalent_to(there, 4), got.sharding
                assert (np.asarray(got) == expected).all()
            got = check(lambda x, p: turn(x, table(spec, p)), sx, sp)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
            got = check(lambda x, t: jax.vjp(lambda x: turn(x, t), x)[1](x)[0], sx, st)
            assert got.sharding.is_equivalent_to(there, 4), got.sharding
            specs = P(*axes, None), P(axes[0], axes[2])
            mapped = jax.shard_map(turn, mesh=mesh, in_specs=specs, out_specs=specs[0])
            assert (np.asarray(check(mapped, sx, st)) == expected).all()
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
