"""The JAX column's learned tables: lookups and resizing, traced or not, their gradients, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import posenc.jax_impl.inputs as jax_inputs
from posenc import Learned, Rope, Sinusoidal, T5Bias
from posenc.jax_impl import add, bias, learned, lookup, resize, rotate, table
from posenc.spec import exact, resampling
from tests.test_jax_transforms import bits, compilations

FROZEN, SCALED = Learned.fairseq(10, 6), Learned(10, 6, offset=2, padding="row", output_scale=0.3)
PATCHES = Learned.patches((3, 5), 4, tokens=2)
DTYPES = ("float64", "float32", "bfloat16", "float16")
HALF = {dtype: 2.0 ** -exact.FORMATS[dtype].precision for dtype in DTYPES}
"""Half a unit in the last place, by the value, at most."""


def weights(spec, dtype="float32"):
    return np.random.default_rng(5).standard_normal(spec.weight_shape).astype(np.float32).astype(jnp.dtype(dtype))


def expected_rows(spec, table, positions):
    """Of positions that have a row."""
    chosen = table[np.asarray(positions) + spec.offset]
    wide = np.float64 if table.dtype == np.float64 else np.float32
    return chosen if spec.output_scale == 1 else (chosen.astype(wide) * wide(spec.output_scale)).astype(table.dtype)


@pytest.mark.parametrize("spec", [FROZEN, SCALED], ids=["frozen", "scaled"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lookups_are_rows_of_the_table(spec, dtype, monkeypatch):
    monkeypatch.setattr(learned, "BLOCK", 16)  # more rows than one block
    table = weights(spec, dtype)
    if spec is FROZEN:
        table[3] = [np.inf, np.nan, -0.0, *[float(jnp.finfo(dtype).smallest_subnormal)] * 3]
    where = [[-1, 0, 9], [1, 1, 1]]
    result = lookup(spec, table, where)
    assert (result.dtype, result.shape) == (dtype, (2, 3, 6))
    assert bits(result) == bits(expected_rows(spec, table, where))
    with jax.enable_x64(dtype == "float64"):
        for given in (np.array(where), np.arange(6, dtype=np.uint8), range(-1, 9, 3)):
            traced = jax.jit(lambda w, given=given: lookup(spec, w, given))(table)
            assert bits(traced) == bits(expected_rows(spec, table, np.array(given, np.int64)))


@pytest.mark.parametrize("spec", [FROZEN, SCALED, PATCHES], ids=["frozen", "scaled", "patches"])
def test_a_position_outside_is_refused_or_nan(spec, monkeypatch):
    table, low, high = weights(spec), spec.plan().low, spec.plan().high
    expected = rf"^lookup.positions: expected integers from {low} to {high}, received "
    for mode in (lambda f: f, jax.jit, jax.vmap):  # in a trace, too, what is no traced array is known
        for given, wrong in (
            ([0, high + 1, low - 1], high + 1),
            (range(3, low - 2, -1), low - 1),
            (low - 7, low - 7),
            (np.array([[low, 99]]), 99),
            (jnp.array(99), 99),
        ):
            with pytest.raises(ValueError, match=rf"{expected}{wrong}\b"):
                mode(lambda w, given=given: lookup(spec, w, given))(jnp.stack([table]) if mode is jax.vmap else table)
    far = {
        np.int8: [low - 1, high + 1, -128, 127],
        np.uint8: [high + 1, 255],
        np.int32: [low - 1, high + 1, 2**31 - 1, -(2**31), -1 - spec.offset],
        np.uint32: [high + 1, 2**31, 2**32 - 1, 2**32 - max(spec.offset, 1)],
        np.int64: [2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63)],
        np.uint64: [2**32, 2**64 - 1],
    }
    with jax.enable_x64(True):
        for kind, outside in far.items():
            traced = np.asarray(jax.jit(lookup)(spec, table, np.array([0, *outside, high], kind)))
            assert np.isnan(traced).all(axis=-1).tolist() == [False] + [True] * len(outside) + [False]
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)  # as on an accelerator
    assert np.isnan(lookup(spec, jnp.asarray(table), jnp.array([low, high + 1]))).all(axis=-1).tolist() == [False, True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("spec", [FROZEN, SCALED], ids=["frozen", "scaled"])
def test_gradients_of_lookups(spec, dtype):
    table, positions = jnp.asarray(weights(spec, dtype)), np.r_[[-1, 0, 0, 9], np.full(600, 4), [-1]]
    incoming = jnp.asarray(np.random.default_rng(6).integers(0, 3, (605, 6)), dtype)  # sums past those of bfloat16
    expected, scale = np.zeros(spec.weight_shape, np.float32), np.float32(spec.output_scale)
    np.add.at(expected, positions + spec.offset, np.asarray(incoming).astype(np.float32))
    if spec is FROZEN:
        expected[1] = 0
    for transform, given in (
        (lambda f: f, positions.tolist()),
        (jax.jit, positions),
        (lambda f: f, jnp.asarray(positions)),
    ):
        function = transform(lambda w, given=given: lookup(spec, w, given))
        gradient = np.asarray(jax.vjp(function, table)[1](incoming)[0]).astype(np.float64)
        # 600 products and sums in float32, once rounded
        limit = np.abs(expected * scale) * (601 * HALF["float32"] * (spec is SCALED) + HALF[dtype] * 1.01)
        assert (np.abs(gradient - expected.astype(np.float64) * scale) <= limit).all()
    outside = np.array([0, 10, -2])
    traced = jax.jit(lambda w, p: lookup(spec, w, p))
    out, pull = jax.vjp(lambda w: traced(w, outside), table)
    assert np.isnan(out).any(axis=-1).tolist() == [False, True, True]
    gradient = np.asarray(pull(jnp.full((3, 6), jnp.nan, dtype).at[0].set(1))[0]).astype(np.float32)
    assert np.flatnonzero(gradient.any(axis=-1)).tolist() == [spec.offset]  # nothing of the others, not even their NaN


def test_higher_derivatives_and_batches():
    table = jnp.asarray(weights(FROZEN))
    curvature = jax.jit(jax.hessian(lambda w: (lookup(FROZEN, w, [-1, 3, 3]) ** 3).sum()))(table).reshape(72, 72)
    expected = np.zeros((12, 6), np.float32)
    expected[5] = 2 * 6 * table[5]
    # the product of 6 and an entry, and the sum of two, in any order
    np.testing.assert_allclose(curvature, np.diag(expected.ravel()), rtol=4 * HALF["float32"] * 2, atol=0)
    several = jnp.stack([table, -table])
    assert bits(jax.vmap(lambda w: lookup(FROZEN, w, [4]))(several)[1]) == bits(lookup(FROZEN, -table, [4]))
    assert bits(jax.vmap(lambda p: lookup(FROZEN, table, p))(jnp.arange(5))) == bits(lookup(FROZEN, table, range(5)))


def test_flags_compilations_and_float64(caplog):
    table, wide = jnp.asarray(weights(FROZEN)), weights(FROZEN, "float64")
    traced = jax.jit(lookup)
    traced(FROZEN, table, jnp.array([3]))
    assert compilations(caplog, lambda: traced(Learned.fairseq(10, 6), table, jnp.array([8]))) == 0
    assert compilations(caplog, lambda: [lookup(FROZEN, table, range(n)) for n in (3, 5, 9)]) == 0
    assert compilations(caplog, lambda: traced(Learned.opt(10, 6), table, jnp.array([8]))) > 0
    shape, method = (4, 6), "torch_bicubic"
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert jax.jit(lambda w: lookup(FROZEN, w, range(9)))(table).shape == (9, 6)
        for dtype in ("float32", "bfloat16"):
            table_of = jax.jit(lambda w: resize(PATCHES, w, shape, method=method))
            assert table_of(weights(PATCHES, dtype)).shape == (26, 4)
    off = "received float64 in a trace while jax_enable_x64 is off"
    with pytest.raises(ValueError, match=rf"^lookup.weights: .* {off}"):
        traced(FROZEN, table, jnp.array([1])), jax.jit(lambda p: lookup(FROZEN, wide, p))(jnp.array([1]))
    with pytest.raises(ValueError, match=rf"^resize.weights: .* {off}"):
        jax.jit(lambda: resize(PATCHES, weights(PATCHES, "float64"), shape, method=method))()
    assert (
        lookup(FROZEN, wide, 1).dtype
        == resize(PATCHES, weights(PATCHES, "float64"), shape, method=method).dtype
        == "float64"
    )
    single = resize(PATCHES, weights(PATCHES), shape, method=method)
    fused = jax.jit(lambda w: resize(PATCHES, w, shape, method=method))
    before = bits(fused(weights(PATCHES)))
    with jax.enable_x64(True):
        assert bits(resize(PATCHES, weights(PATCHES), shape, method=method)) == bits(single)
        assert bits(fused(weights(PATCHES))) == before


def resampled(spec, table, shape, method):
    """In Fractions, and what is added up at most: `(prod(shape), dim)` each."""
    grid = np.array(
        [[Fraction(v) for v in row] for row in table[spec.tokens + spec.offset :].astype(float).tolist()], object
    )
    grid = grid.reshape(*spec.grid, -1)
    bound = abs(grid)
    for axis, (n, m) in enumerate(zip(spec.grid, shape, strict=True)):
        rows = [[row.get(i, Fraction(0)) for i in range(n)] for row in resampling.weights(n, m, method)]
        matrix = np.array(rows, object)
        grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
        bound = np.moveaxis(np.tensordot(abs(matrix), bound, (1, axis)), 0, axis)
    return (a.reshape(-1, spec.dim).astype(float) for a in (grid, bound))


@pytest.mark.parametrize("method", resampling.METHODS)
def test_resized_tables_are_within_the_bound(method, monkeypatch):
    shape, call = (4, 7), partial(resize, PATCHES, shape=(4, 7), method=method)
    for dtype in ("float32", "bfloat16"):
        table = weights(PATCHES, dtype)
        expected, _ = resampled(PATCHES, table, shape, method)
        got = jax.jit(call)(table)
        assert bits(got[:2]) == bits(table[:2])
        limit = 7 * 2.0**-22 * np.abs(table[2:].astype(float)).max(axis=0)
        limit = limit + HALF[dtype] * np.abs(expected) * (dtype == "bfloat16")
        assert (np.abs(np.asarray(got[2:]).astype(float) - expected) <= limit).all()
    whole = bits(call(table))
    monkeypatch.setattr(learned, "BLOCK", 8)  # a few rows and channels at a time
    assert bits(call(table)) == whole


def test_resizing_of_float64_in_a_trace_and_one_rounding_to_half():
    for shape in ((4, 6), (1, 1)):
        table = weights(PATCHES, "float64")
        with jax.enable_x64(True):
            got = jax.jit(lambda w, shape=shape: resize(PATCHES, w, shape, method="jax_cubic"))(table)
        expected, bound = resampled(PATCHES, table, shape, "jax_cubic")
        # 2 * (5 + 2) roundings, as above, or fewer
        assert (np.abs(np.asarray(got[2:]) - expected) <= 16 * HALF["float64"] * bound).all()
    line = Learned(2, 1)
    for dtype, tie in (("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        # halfway between these two lies a tie but for what float32 does not see
        table = np.array([[1.0], [1 + 2 * tie]]).astype(jnp.dtype(dtype))
        low = np.array([[1.0], [2.0**-24 + 2.0**-30]]).astype(jnp.dtype(dtype))
        for given in (table, low):
            for shape in (1, 3, 5):
                got = resize(line, given, (shape,), method="torch_bicubic")
                x = [Fraction(v) for v in given.astype(float)[:, 0].tolist()]
                sums = [sum(x[i] * w for i, w in row.items()) for row in resampling.weights(2, shape, "torch_bicubic")]
                assert np.asarray(got).astype(float)[:, 0].tolist() == [exact.round_to(s, dtype) for s in sums]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_finite_stays_where_it_is_read(dtype):
    table, shape = weights(PATCHES, dtype), (6, 10)
    table[0], table[2] = np.nan, np.inf
    for call in (resize, jax.jit(resize, static_argnums=(0, 2), static_argnames="method")):
        got = np.asarray(call(PATCHES, table, shape, method="torch_bilinear")).astype(np.float32)
        finite = np.isfinite(got[2:].reshape(6, 10, 4)).all(axis=-1)
        reads = [
            [0 in row for row in resampling.weights(n, m, "torch_bilinear")] for n, m in zip((3, 5), shape, strict=True)
        ]
        assert (finite == ~np.outer(*reads)).all()
        assert np.isnan(got[:2]).all(axis=-1).tolist() == [True, False]
        same = call(PATCHES, table, (3, 5), method="torch_bilinear")
        assert bits(same) == bits(table)


def test_taps_that_only_fill_up_are_not_read_in_a_trace():
    spec = Learned(3, 1)
    for last, method in ((np.inf, "tf_bilinear"), (-np.inf, "jax_linear"), (-0.0, "torch_bilinear")):
        table = jnp.array([[1.0], [2.0], [last]])
        got, pull = jax.vjp(jax.jit(partial(resize, spec, shape=(5,), method=method)), table)
        assert bits(got[-1]) == bits(table[-1])
        (gradient,) = pull(jnp.zeros((5, 1)).at[-1].set(np.inf))
        assert gradient.ravel().tolist() == [0, 0, np.inf]


@pytest.mark.parametrize("method", ["torch_bicubic", "jax_linear", "tf_bicubic"])
def test_resizing_is_differentiated_as_the_matrix_that_it_is(method, monkeypatch):
    monkeypatch.setattr(learned, "UNROLLED", 2)  # a loop over taps, as over very many
    shape, table = (2, 7), jnp.asarray(weights(PATCHES))
    function = jax.jit(lambda w: resize(PATCHES, w, shape, method=method))
    axes = [resampling.weights(n, m, method) for n, m in zip((3, 5), shape, strict=True)]
    matrix = np.zeros((16, 17))
    matrix[:2, :2] = np.eye(2)
    for o, i in product(range(14), range(15)):
        matrix[2 + o, 2 + i] = axes[0][o // 7].get(i // 5, 0) * axes[1][o % 7].get(i % 5, 0)
    for jacobian in (jax.jacfwd, jax.jacrev):
        found = np.asarray(jax.jit(jacobian(function))(table))
        # products of two weights, of which few are added up
        np.testing.assert_allclose(found[:, 1, :, 1], matrix, rtol=0, atol=8 * HALF["float32"])
        assert not found[:, 0, :, 1].any()
    curvature = jax.jit(jax.hessian(lambda w: (function(w)[:, 0] ** 2).sum() / 2))(table)[:, 0, :, 0]
    # 16 products, each of two such
    np.testing.assert_allclose(curvature, matrix.T @ matrix, rtol=0, atol=16 * 16 * HALF["float32"])


class Owner(nnx.Module):
    def __init__(self, values):
        self.weights = nnx.Param(values)


ROPE = Rope(6, 1e4, "half")
TURNS = table(ROPE, range(3))
OWNED = {  # shapes of what may be a parameter, and what takes it
    "lookup": (FROZEN.weight_shape, lambda w: lookup(FROZEN, w, [3, -1])),
    "resize": (PATCHES.weight_shape, lambda w: resize(PATCHES, w, (4, 6), method="jax_cubic")),
    "bias": ((32, 3), lambda w: bias(T5Bias(3, bidirectional=True), range(4), range(9), weights=w)),
    "add": ((3, 6), lambda x: add(Sinusoidal.vaswani(6), x)),
    "rotate": ((3, 6), lambda x: rotate(ROPE, x, TURNS, head_axis=None)),
}


@pytest.mark.parametrize("name", OWNED)
def test_parameters_of_flax_are_arrays(name):
    shape, call = OWNED[name]
    values = jnp.asarray(np.random.default_rng(7).standard_normal(shape), jnp.float32)
    owner = Owner(values)
    assert bits(call(owner.weights)) == bits(call(nnx.Param(np.asarray(values)))) == bits(call(values))
    assert bits(nnx.jit(call)(owner.weights)) == bits(jax.jit(call)(values))
    gradient = nnx.jit(nnx.grad(lambda owner: (call(owner.weights) ** 2).sum()))(owner)["weights"]
    assert bits(gradient[...]) == bits(jax.jit(jax.grad(lambda w: (call(w) ** 2).sum()))(values))
    with pytest.raises(ValueError, match=rf"^{name}\.(weights|x): expected .*, received int32$"):
        call(nnx.Param(jnp.ones(shape, jnp.int32)))


def test_variables_of_flax_are_positions_and_tables():
    cursor, w = nnx.Variable(jnp.array([3, 0])), jnp.asarray(weights(FROZEN))
    assert bits(lookup(FROZEN, w, cursor)) == bits(nnx.jit(lookup)(FROZEN, w, cursor)) == bits(w[cursor[...] + 2])
    x, owned = jnp.ones((3, 6)), tuple(map(nnx.Variable, TURNS))
    turned = bits(rotate(ROPE, x, TURNS, head_axis=None))
    assert bits(nnx.jit(lambda owned: rotate(ROPE, x, owned, head_axis=None))(owned)) == turned


MESH = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from posenc import Learned
from posenc.jax_impl import lookup, resize

spec = Learned.patches((4, 4), 8, tokens=0)
table = np.arange(128, dtype=np.float32).reshape(16, 8)
where = np.arange(32, dtype=np.int32).reshape(4, 8) % 16
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        weights = jax.device_put(table, NamedSharding(mesh, P(None, "model")))
        positions = jax.device_put(where, NamedSharding(mesh, P("data")))
        got = jax.jit(lookup)(spec, weights, positions)
        assert got.sharding.is_equivalent_to(NamedSharding(mesh, P("data", None, "model")), 3), got.sharding
        assert (np.asarray(got) == table[where]).all()
        assert (np.asarray(lookup(spec, weights, positions)) == table[where]).all()
        assert len(lookup(spec, weights, range(4)).devices()) == 8
        gradient = jax.jit(jax.grad(lambda w: (lookup(spec, w, positions) * 2).sum()))(weights)
        assert (np.asarray(gradient) == 4).all()
        whole = jax.jit(lambda w: resize(spec, w, (3, 5), method="jax_cubic"))
        np.testing.assert_array_equal(whole(weights), whole(jnp.asarray(table)))
third = jax.devices()[3]
assert lookup(spec, nnx.Param(jax.device_put(table, third)), range(4)).devices() == {third}
assert lookup(spec, table, nnx.Variable(jax.device_put(where, third))).devices() == {third}
print(len(jax.devices()))
"""


def test_sharded_tables_and_positions():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (0, "8\n"), run.stderr
