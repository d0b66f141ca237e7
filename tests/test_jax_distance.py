"""The JAX column's rows and biases: every way to the same integers, roundings, gradients, transforms and meshes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posenc.jax_impl.inputs as jax_inputs
from posenc import Alibi, SwinIndex, T5Bias, TransformerXLIndex
from posenc.jax_impl import bias, pairs, rows
from posenc.spec import exact
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run
from tests.test_jax_transforms import bits, compilations

LIMIT = 2**31


@dataclass(frozen=True)
class Crafted:
    """Runs of every kind, far apart: constant, rising and falling ones, and such without rows."""

    count: int

    def plan(self):
        firsts = [(i - self.count // 2) * 2**25 - 3 for i in range(self.count)]
        kinds = [(7, 0), (9, 3), (2**27, -2), (None, 0)]
        runs = [Run(first, *kinds[i % 4]) for i, first in enumerate(firsts)]
        return DistancePlan(axes=((Run(LEAST_DISTANCE, 5), *runs, Run(runs[-1].first + 9, 4)),), rows=2**30, heads=None)


FAR = [0, 1, -1, 7, LIMIT - 1, 1 - LIMIT, 2**30, -(2**30) - 5]
T5 = T5Bias(3, bidirectional=True)
SWIN = SwinIndex(2, (3, 4))
PLACES = np.array(SWIN.positions())
OUTSIDE = np.array([[0, 0], [1, 5], [4, 5]])
# few runs, a table, each run compared with, and a search
SPECS = {"xl": TransformerXLIndex(2**30, shortest=-3), "t5": T5, "crafted": Crafted(40), "fine": Crafted(80)}
SHAPES = {  # evenly spaced alike, in other steps, and not at all; few distances and many
    "ranges": (range(70, 0, -1), range(-9, 80)),
    "steps": (range(0, 300, 3), range(-30, 600, 3)),
    "packed": (np.r_[0:40, 0:30], np.r_[0:40, 0:30]),
    "far": (FAR, FAR),
    "scattered": (np.random.default_rng(2).integers(1 - LIMIT, LIMIT, 60), FAR + list(range(60))),
}


def weights(spec, dtype="float32"):
    return np.random.default_rng(3).standard_normal(spec.weight_shape).astype(np.float32).astype(jnp.dtype(dtype))


def numbers(spec, queries, keys):
    """The definition, distance by distance."""
    plan = spec.plan()
    distances = np.array(keys, np.int64) - (0 if plan.anchored else np.array(queries, np.int64)[:, None])
    each, where = np.unique(np.broadcast_to(distances, (len(queries), len(keys))), return_inverse=True)
    return np.array([plan.number((0,), (int(d),)) for d in each])[where]


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_the_same_integers_everywhere(name):
    spec = SPECS[name]
    for shape in SHAPES.values():
        np.testing.assert_array_equal(rows(spec, *shape), numbers(spec, *shape))
    queries, keys = (np.concatenate([np.array(SHAPES[name][part]) for name in ("far", "scattered")]) for part in (0, 1))
    expected, arrays = numbers(spec, queries, keys), [jnp.asarray(p, jnp.int32) for p in (queries, keys)]
    traced = jax.jit(rows, static_argnums=0)
    np.testing.assert_array_equal(traced(spec, *arrays), expected)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(traced(spec, queries, arrays[1]), expected)
    for given in SHAPES["ranges"], SHAPES["steps"], (range(4, 5, 2**40), range(0)):
        np.testing.assert_array_equal(jax.jit(lambda given=given: rows(spec, *given))(), rows(spec, *given))


def test_windows_batches_and_blocks_in_parts_are_the_whole(monkeypatch):
    queries, keys = np.arange(2 * 3 * 5).reshape(2, 3, 5) ** 2, np.arange(3 * 90).reshape(1, 3, 90)
    calls = [partial(bias, Alibi(12, form=f), *SHAPES[s]) for f in ("symmetric", "anchored") for s in SHAPES]
    whole = [bits(call()) for call in calls]
    monkeypatch.setattr(pairs, "ENTRIES", 2**10)
    assert [bits(call()) for call in calls] == whole
    for size in (2**15, 2**8):  # several batch rows at a time, and parts of one
        monkeypatch.setattr(pairs, "BLOCK", size)
        np.testing.assert_array_equal(rows(T5, queries, keys), jax.jit(rows)(T5, queries, keys))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_near_a_midpoint_are_decided_exactly(dtype, monkeypatch):
    asked, unwatched = [], Alibi.value
    monkeypatch.setattr(Alibi, "value", lambda self, *given: (asked.append(given), unwatched(self, *given))[1])
    precision, otherwise = exact.FORMATS[dtype].precision, 0
    # halfway between two numbers of the format, below 1; and between subnormal ones
    middles = [(2 * odd + 1) * 2.0 ** -(precision + 1) for odd in range(2**precision)[3::7][-9:]]
    middles += [(2 * odd + 1) * 2.0**-25 for odd in (5, 100, 801)] if dtype == "float16" else []
    for spec in [Alibi.causal(1, max_bias=-math.log2(middle / 3)) for middle in middles]:
        del asked[:]
        got = float(bias(spec, [0], [3, 4], dtype=dtype)[0, 0, 0])
        assert (asked, got) == ([(3, 0, dtype)], unwatched(spec, 3, 0, dtype))
        otherwise += got != exact.round_to(Fraction(3 * 2**-spec.max_bias), dtype)
    assert otherwise  # what plain float64 says of such numbers
    del asked[:]
    bias(Alibi.causal(8), range(500), range(500), dtype=dtype)  # powers of two: nothing to decide
    assert not asked


@pytest.mark.parametrize("form", ["causal", "symmetric", "anchored"])
def test_fused_slopes_are_within_the_bound(form, monkeypatch):
    spec, (queries, keys) = Alibi(12, form=form), (np.array(FAR, np.int32), np.array([*FAR, *range(-40, 40)], np.int32))
    expected = np.asarray(bias(spec, queries, keys, dtype="float64"))
    single = jax.jit(bias)(spec, queries, keys)
    assert (np.abs(np.asarray(single).astype(np.float64) - expected) <= 2.0**-22 * np.abs(expected)).all()
    assert not np.signbit(single[expected == 0]).any()
    ones = np.abs(np.asarray(single)[:, 0, FAR.index(1)])
    np.testing.assert_array_equal(ones, np.array(spec.slopes(), np.float32))
    half = jax.jit(lambda q, k: bias(spec, q, k, dtype="bfloat16"))(queries, keys)
    assert bits(half) == bits(single.astype("bfloat16"))
    with jax.enable_x64(True):
        double = jax.jit(lambda q, k: bias(spec, q, k, dtype="float64"))(queries, keys)
    assert (np.abs(np.asarray(double) - expected) <= np.spacing(np.abs(expected))).all()
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)  # as on an accelerator
    assert bits(bias(spec, jnp.asarray(queries), jnp.asarray(keys))) == bits(single)


def test_a_pair_outside_the_window_is_refused_or_nan(monkeypatch):
    table, first = jnp.asarray(weights(SWIN)), SWIN.plan().number((0, 0), (0, 0))
    expected = [[SWIN.plan().number(q, k) for k in PLACES.tolist()] for q in PLACES.tolist()]
    np.testing.assert_array_equal(jax.jit(rows)(SWIN, PLACES, PLACES), expected)
    assert jax.jit(rows)(SWIN, PLACES[:1], OUTSIDE).tolist() == [[first, -1, -1]]
    pull = jax.vjp(jax.jit(lambda w, q: bias(SWIN, q, OUTSIDE, weights=w)), table, PLACES[:1])
    assert np.isnan(pull[0]).tolist() == [[[False, True, True]]] * 2
    gradient = np.asarray(pull[1](jnp.ones((2, 1, 3)))[0])
    assert gradient.sum() == gradient[first].sum() == 2
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)  # as on an accelerator
    assert rows(SWIN, jnp.asarray(PLACES[:1]), OUTSIDE).tolist() == [[first, -1, -1]]


@pytest.mark.parametrize("mode", [lambda f: f, jax.jit, jax.grad], ids=["host", "trace", "gradient"])
def test_values_that_are_known_are_checked_in_a_trace_too(mode):
    """Lists, ranges and NumPy arrays; of one pair the first axis is named, of several the first in row-major order."""
    table, line = jnp.asarray(weights(SWIN)), SwinIndex(1, (4,))
    sentence = r"^{}.key_positions: expected distances to the query from -{} to {} on axis {}, received {}\b"
    calls = {
        "rows": lambda w, k: rows(SWIN, PLACES, k) + w[0, 0],
        "bias": lambda w, k: bias(SWIN, PLACES, k, weights=w),
    }
    for keys, axis, reach, received in ((OUTSIDE.tolist(), 1, 3, 5), (OUTSIDE[::2], 0, 2, 4)):
        for where, call in calls.items():
            with pytest.raises(ValueError, match=sentence.format(where, reach, reach, axis, received)):
                mode(lambda w, call=call, keys=keys: call(w, keys).sum())(table)
    with pytest.raises(ValueError, match=sentence.format("rows", 3, 3, 0, 4)):
        mode(lambda w: (rows(line, range(3), range(2, 6)) + w[0, 0]).sum())(table)
    inside = mode(lambda w: (calls["bias"](w, PLACES) + calls["rows"](w, SWIN.positions())).sum())(table)
    assert np.isfinite(inside).all()


@pytest.mark.parametrize("given", ["float64", "float32", "bfloat16", "float16"])
def test_weights_are_moved_bit_for_bit(given):
    table = weights(T5, given)
    table[3:5] = [[np.inf, np.nan, -0.0]] * 2
    table[5, 0] = jnp.finfo(given).smallest_subnormal
    expected = bits(np.moveaxis(table[numbers(T5, range(-3, 30), range(40))], -1, 0))
    assert bits(bias(T5, range(-3, 30), range(40), weights=table, dtype=given)) == expected
    with jax.enable_x64(given == "float64"):
        traced = jax.jit(lambda w: bias(T5, range(-3, 30), range(40), weights=w, dtype=given))(table)
    assert bits(traced) == expected


@pytest.mark.parametrize(("dtype", "tie"), [("bfloat16", 1 + 2.0**-8), ("float16", 1 + 2.0**-11)])
def test_float64_weights(dtype, tie):
    above = np.full(T5.weight_shape, tie + 2.0**-40)  # float32, on the way, would see a tie
    with jax.enable_x64(True):
        traced = jax.jit(lambda w: bias(T5, [0], [0], weights=w, dtype=dtype))(above)
    assert float(traced[0, 0, 0]) == exact.round_to(Fraction(tie + 2.0**-40), dtype) > 1
    off = "received float64 in a trace while jax_enable_x64 is off"
    with pytest.raises(ValueError, match=rf"^bias.weights: .* {off}"):
        jax.jit(lambda q: bias(T5, q, [1], weights=above, dtype=dtype))(jnp.arange(2))
    with pytest.raises(ValueError, match=rf"^bias.dtype: .* {off}"):
        jax.grad(lambda w: bias(T5, [1], [1], weights=w, dtype="float64").sum())(jnp.zeros(T5.weight_shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_sums_over_pairs(dtype):
    queries, keys, table = range(40), range(-9, 60), jnp.asarray(weights(T5, dtype))
    n = numbers(T5, queries, keys)
    incoming = np.random.default_rng(4).integers(0, 4, (3, *n.shape))  # sums of which float32 holds, not bfloat16
    expected = np.zeros(T5.weight_shape)
    np.add.at(expected, n.ravel(), incoming.reshape(3, -1).T)
    for transform, given in ((lambda f: f, (queries, keys)), (jax.jit, (jnp.arange(40), jnp.arange(-9, 60)))):
        function = transform(lambda w, given=given: bias(T5, *given, weights=w, dtype=dtype))
        gradient = jax.vjp(function, table)[1](jnp.asarray(incoming, dtype))[0]
        np.testing.assert_array_equal(gradient, expected.astype(jnp.dtype(dtype)))
        assert bits(jax.jvp(function, (table,), (table,))[1]) == bits(function(table))


def test_second_derivatives_and_batched_weights():
    small, keys = T5Bias(2, bidirectional=False, buckets=4, max_distance=5), range(9)
    table, n = jnp.asarray(weights(small)), numbers(small, range(9), keys)
    curvature = jax.jit(jax.hessian(lambda w: (bias(small, range(9), keys, weights=w) ** 2).sum() / 2))(table)
    np.testing.assert_array_equal(curvature.reshape(8, 8), np.diag(np.bincount(n.ravel(), minlength=4).repeat(2)))
    several = jnp.stack([table, -table])
    mapped = jax.vmap(lambda w, q: bias(small, q[None], keys, weights=w), in_axes=(0, None))(several, jnp.int32(4))
    assert bits(mapped[1]) == bits(bias(small, [4], keys, weights=-table))
    mapped = jax.vmap(lambda w: bias(small, range(9), keys, weights=w))(several)
    assert bits(mapped[0]) == bits(bias(small, range(9), keys, weights=table))


def test_nothing_is_compiled_while_decoding(caplog):
    table, traces = jnp.asarray(weights(T5)), []

    @jax.jit
    def step(spec, table, query):
        traces.append(1)
        return bias(spec, query, range(64), weights=table), bias(Alibi.causal(4), query, [7]), rows(T5, query, [3])

    for position in (0, 5, 2**30, -7):
        got, _, row = step(T5Bias(3, bidirectional=True), table, jnp.array([position]))
        assert bits(got) == bits(bias(T5, [position], range(64), weights=table))
        assert row.tolist() == rows(T5, [position], [3]).tolist()
    assert len(traces) == 1
    on_host = [lambda n=n: (bias(T5, [n], range(n), weights=table), rows(T5, range(n), [n])) for n in (5, 80)]
    on_host[0]()
    assert compilations(caplog, on_host[1]) == 0


def test_nothing_is_folded_and_strict_modes_are_clean():
    table = jnp.asarray(weights(T5))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for call in (
            lambda w: bias(T5, range(9000), range(9000), weights=w, dtype="bfloat16"),
            lambda w: bias(Alibi.symmetric(3), range(9000), range(9000)) + w[0, 0],
            lambda w: rows(SPECS["fine"], w.astype(np.int32), range(9000)),
            lambda w: rows(T5, w.astype(np.int32), range(9000)),
        ):
            assert len(jax.jit(call).lower(table).as_text()) < 50_000
    query, key = jax.export.symbolic_shape("query, key")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, query), (key,))]
    exported = jax.export.export(jax.jit(lambda q, k: bias(T5, q, k, weights=table)))(*shapes)
    given = jnp.arange(6).reshape(2, 3) * 9, jnp.arange(5)
    assert bits(exported.call(*given)) == bits(bias(T5, *given, weights=table))


def test_numpy_weights_may_be_written_to_after_the_call():
    spec, wrong = T5Bias(2**8, buckets=2**12, max_distance=2**13, bidirectional=False), 0
    for _ in range(6):
        table = np.ones(spec.weight_shape, np.float32)
        result = jax.vmap(lambda q, table=table: bias(spec, q[None], [0, 1], weights=table))(jnp.arange(9))
        table[...] = 7  # the owner's right: the call has returned
        wrong += float(result.max()) != 1
    assert not wrong


def test_attention_of_jax_with_masks():
    q, k, v = np.random.default_rng(6).uniform(-1, 1, (3, 2, 9, 3, 8)).astype(np.float32)
    table, positions = jnp.asarray(weights(T5)).clip(-1, 1), np.array([[0], [11]]) + np.arange(9)
    padding = (np.arange(9) < np.array([9, 6])[:, None])[:, None, None]

    @jax.jit
    def attend(table, positions):
        scores = bias(T5, positions, positions, weights=table) + bias(Alibi.causal(3), positions, positions)
        return jax.nn.dot_product_attention(q, k, v, bias=scores, mask=jnp.asarray(padding), is_causal=True)

    def plain(allowed):
        """In float64, `(B, T, N, H)`."""
        own = np.asarray(bias(T5, positions, positions, weights=table, dtype="float64"))
        slopes = np.asarray(bias(Alibi.causal(3), positions, positions, dtype="float64"))
        p = np.exp(np.einsum("btnh,bsnh->bnts", q, k, dtype=np.float64) / math.sqrt(8) + own + slopes) * allowed
        return np.einsum("bnts,bsnh->btnh", p / p.sum(-1, keepdims=True), v)

    expected = plain(padding & np.tri(9, dtype=bool))
    # scores below 2^4 of at most 2^4 roundings, so weights and, with |v| <= 1, outputs within 2^-16 and a little
    assert np.abs(attend(table, positions) - expected).max() < 2.0**-15
    assert min(np.abs(plain(other) - expected).max() for other in (padding, np.tri(9))) > 2.0**-5


MESH = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from posenc import Alibi, T5Bias
from posenc.jax_impl import bias, rows
from posenc.positions import contiguous, zigzag

spec, alibi = T5Bias(4, bidirectional=True), Alibi.causal(4)
table, keys = np.arange(128, dtype=np.float32).reshape(32, 4), jnp.arange(64, dtype=jnp.int32)
incoming = np.random.default_rng(0).integers(-3, 4, (4, 64, 64)).astype(np.float32)
collective = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
plain = [lambda w, q: rows(spec, q, keys), lambda w, q: bias(spec, q, keys, weights=w)]
plain.append(lambda w, q: bias(alibi, q, keys))
wholes = [np.asarray(jax.jit(function)(table, np.arange(64))) for function in plain]

def seen(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled(*arguments), bool(collective.search(compiled.as_text()))

def pulled(w, q, c):
    return jax.vjp(lambda w: bias(spec, q, keys, weights=w), w)[1](c)[0]

for kind, layout in ((AxisType.Auto, contiguous), (AxisType.Explicit, zigzag)):
    order = np.concatenate([list(layout(64, rank=rank, ranks=4)) for rank in range(4)]).astype(np.int32)
    assert (order != np.arange(64)).any() == (layout is zigzag)
    gradient = pulled(jnp.asarray(table), order, jnp.asarray(incoming))
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        there = [NamedSharding(mesh, spec) for spec in (P(None, "model"), P("data"), P("model", "data"))]
        weights, queries, cotangents = map(jax.device_put, (table, order, incoming), there)
        for function, whole, lead in zip(plain, wholes, ([], ["model"], [None])):
            got, moved = seen(function, weights, queries)
            assert not moved and got.sharding.is_equivalent_to(NamedSharding(mesh, P(*lead, "data")), got.ndim)
            assert (np.asarray(got) == whole[..., order, :]).all()
        got, moved = seen(pulled, weights, queries, cotangents)
        assert moved and (np.asarray(got) == np.asarray(gradient)).all()
        eager = bias(spec, queries, keys, weights=weights)
        assert (np.asarray(eager) == wholes[1][..., order, :]).all()
        shared = jax.shard_map(plain[1], in_specs=(P(), P("data")), out_specs=P(None, "data", None))
        assert (np.asarray(jax.jit(shared)(table, queries)) == wholes[1][..., order, :]).all()
print(len(jax.devices()))
"""


def test_sharded_queries_have_the_rows_and_biases_of_the_whole():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (0, "8\n"), run.stderr


def test_peak_memory_is_little_more_than_the_result(monkeypatch):
    def peak(function, *arguments):
        tracemalloc.start()
        size = function(*arguments).nbytes
        grown = tracemalloc.get_traced_memory()[1] / size
        tracemalloc.stop()
        return grown

    scattered = np.r_[0 : 2**10, 0 : 2**10]
    assert peak(rows, T5, scattered, scattered) < 1.25
    assert peak(bias, Alibi.causal(32), [2**17 - 1], range(2**17)) < 1.25
    monkeypatch.setattr(pairs, "BLOCK", 2**40)
    monkeypatch.setattr(pairs, "ENTRIES", 2**40)
    assert peak(rows, T5, scattered, scattered) > 2  # all at once
