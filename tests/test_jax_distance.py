"""The JAX column's rows and biases: every way to the same integers, roundings, gradients, transforms and meshes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import posenc.jax_impl.inputs as jax_inputs
from posenc import Alibi, DebertaBuckets, MusicTransformerIndex, ShawClip, SwinIndex, T5Bias, TransformerXLIndex
from posenc.jax_impl import bias, distance, rows
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
SPECS = {
    "t5": T5,
    "t5 far": T5Bias(2, bidirectional=True, max_distance=LIMIT - 1),
    "t5 far, fine": T5Bias(2, bidirectional=False, buckets=128, max_distance=2**30),
    "deberta": DebertaBuckets(clamped=False),
    "shaw": ShawClip(5, 2),
    "shaw of one row": ShawClip(0),
    "music": MusicTransformerIndex(7, bidirectional=False),
    "xl": TransformerXLIndex(2**30, shortest=-3),
    "crafted": Crafted(40),
    "crafted, fine": Crafted(80),
}
SWIN = SwinIndex(2, (3, 4))
SHAPES = {  # evenly spaced alike, in other steps, and not at all; few distances and many
    "ranges": (range(70, 0, -1), range(-9, 80)),
    "steps": (range(0, 300, 3), range(-30, 600, 3)),
    "mixed steps": (range(0, 300, 3), range(90)),
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
def test_rows_are_the_same_integers_everywhere(name, monkeypatch):
    spec = SPECS[name]
    for queries, keys in SHAPES.values():
        assert rows(spec, queries, keys).dtype == jnp.int32
        np.testing.assert_array_equal(rows(spec, queries, keys), numbers(spec, queries, keys))
    queries, keys = (np.concatenate([np.array(shape[part]) for shape in SHAPES.values()]) for part in (0, 1))
    expected, arrays = numbers(spec, queries, keys), [jnp.asarray(p, jnp.int32) for p in (queries, keys)]
    traced = jax.jit(rows, static_argnums=0)
    np.testing.assert_array_equal(traced(spec, *arrays), expected)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(traced(spec, queries, arrays[1]), expected)
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)  # as on an accelerator
    np.testing.assert_array_equal(rows(spec, *arrays), expected)


def test_ranges_in_a_trace():
    for queries, keys in ((range(70, 0, -7), range(-9, 80)), (range(4, 5, 2**40), range(0))):
        traced = jax.jit(lambda queries=queries, keys=keys: rows(T5, queries, keys))()
        np.testing.assert_array_equal(traced, rows(T5, queries, keys))


def test_batches_are_laid_out_as_numpy_broadcasts(monkeypatch):
    queries, keys = np.arange(2 * 3 * 5).reshape(2, 3, 5) ** 2, np.arange(3 * 90).reshape(1, 3, 90)
    whole = np.array([[numbers(T5, q, k) for q, k in zip(row, keys[0], strict=True)] for row in queries])
    for size in (2**15, 2**8):  # several batch rows at a time, and parts of one
        monkeypatch.setattr(distance, "BLOCK", size)
        np.testing.assert_array_equal(rows(T5, queries, keys), whole)
        np.testing.assert_array_equal(
            rows(T5, queries, keys[0, 0]), [[numbers(T5, q, keys[0, 0]) for q in r] for r in queries]
        )
    np.testing.assert_array_equal(jax.jit(rows)(T5, queries, keys), whole)
    for call in (rows, jax.jit(rows)):
        assert call(T5, np.zeros((2, 0), int), np.zeros((1, 4), int)).shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("form", ["causal", "symmetric", "anchored"])
def test_slopes_times_integers(form, dtype, monkeypatch):
    monkeypatch.setattr(distance, "ENTRIES", 2**10)  # windows are copied in several parts
    spec = Alibi(12, form=form)
    for shape in ("ranges", "packed", "far"):
        queries, keys = SHAPES[shape]
        n = numbers(spec, queries, keys).tolist()
        expected = np.array([[[spec.value(i, h, dtype) for i in row] for row in n] for h in range(12)])
        got = bias(spec, queries, keys, dtype=dtype)
        assert got.dtype == dtype
        got = np.asarray(got).astype(np.float64)
        if dtype == "float64":
            assert (np.abs(got - expected) <= np.spacing(np.abs(expected))).all()
        else:
            np.testing.assert_array_equal(got, expected)
        assert not np.signbit(got[expected == 0]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_near_a_midpoint_are_decided_exactly(dtype, monkeypatch):
    asked, unwatched = [], Alibi.value
    monkeypatch.setattr(Alibi, "value", lambda self, *given: (asked.append(given), unwatched(self, *given))[1])
    precision, otherwise = exact.FORMATS[dtype].precision, 0
    # halfway between two numbers of the format, below 1; and between subnormal ones
    odds = range(2 ** (precision - 1) + 3, 2**precision, 2**precision // 19)
    middles = [(2 * odd + 1) * 2.0 ** -(precision + 1) for odd in odds]
    middles += [(2 * odd + 1) * 2.0**-25 for odd in (5, 100, 801)] if dtype == "float16" else []
    for middle in middles:
        spec = Alibi.causal(1, max_bias=-math.log2(middle / 3))
        del asked[:]
        got = float(bias(spec, [0], [3, 4], dtype=dtype)[0, 0, 0])
        assert asked == [(3, 0, dtype)]
        assert got == unwatched(spec, 3, 0, dtype)
        otherwise += got != exact.round_to(Fraction(3 * 2**-spec.max_bias), dtype)
    assert otherwise  # what plain float64 says of such numbers
    del asked[:]
    bias(Alibi.causal(8), range(500), range(500), dtype=dtype)  # powers of two: nothing to decide
    bias(Alibi.causal(12), range(500), range(500))
    assert not asked


@pytest.mark.parametrize("form", ["causal", "symmetric", "anchored"])
def test_fused_slopes_are_within_the_bound(form, monkeypatch):
    spec, (queries, keys) = Alibi(12, form=form), (np.array(FAR, np.int32), np.array([*FAR, *range(-40, 40)], np.int32))
    expected = np.asarray(bias(spec, queries, keys, dtype="float64"))
    bias_of = jax.jit(bias)
    single = bias_of(spec, queries, keys)
    assert (np.abs(np.asarray(single).astype(np.float64) - expected) <= 2.0**-22 * np.abs(expected)).all()
    assert not np.signbit(single[expected == 0]).any()
    one = np.abs(np.asarray(bias_of(spec, np.array([0]), np.array([1]))))[:, 0, 0]
    np.testing.assert_array_equal(one, np.array(spec.slopes(), np.float32))
    for dtype in ("bfloat16", "float16"):
        half = jax.jit(lambda q, k, dtype=dtype: bias(spec, q, k, dtype=dtype))(queries, keys)
        assert bits(half) == bits(single.astype(dtype))
    with jax.enable_x64(True):
        double = jax.jit(lambda q, k: bias(spec, q, k, dtype="float64"))(queries, keys)
        assert bits(bias_of(spec, queries, keys)) == bits(single)
    assert (np.abs(np.asarray(double) - expected) <= np.spacing(np.abs(expected))).all()
    monkeypatch.setattr(jax_inputs, "on_host", lambda _: False)
    assert bits(bias(spec, jnp.asarray(queries), jnp.asarray(keys))) == bits(single)


def test_a_pair_outside_the_window_is_refused_or_nan():
    places, table = np.array(SWIN.positions()), weights(SWIN)
    assert bits(rows(SWIN, SWIN.positions(), SWIN.positions())) == bits(rows(SWIN, places, places))
    plan, outside = SWIN.plan(), np.array([[0, 0], [1, 5], [4, 5]])
    expected = np.array([[plan.number(q, k) for k in places.tolist()] for q in places.tolist()])
    for call in (rows, jax.jit(rows)):
        np.testing.assert_array_equal(call(SWIN, places, places), expected)
    for where, call in (("rows", rows), ("bias", lambda *given: bias(*given, weights=table))):
        with pytest.raises(
            ValueError, match=rf"^{where}.key_positions: expected .* from -3 to 3 on axis 1, received 5"
        ):
            call(SWIN, places, outside)
    with pytest.raises(ValueError, match="on axis 0, received 4"):  # of one pair the first axis
        jax.grad(lambda w: bias(SWIN, places, outside[::2], weights=w).sum())(jnp.asarray(table))
    traced = jax.jit(rows)(SWIN, places[:1], outside)
    assert traced.tolist() == [[plan.number((0, 0), (0, 0)), -1, -1]]
    pull = jax.vjp(jax.jit(lambda w: bias(SWIN, places[:1], outside, weights=w)), jnp.asarray(table))
    assert np.isnan(pull[0]).tolist() == [[[False, True, True]]] * 2
    gradient = np.asarray(pull[1](jnp.ones((2, 1, 3)))[0])
    assert gradient.sum() == gradient[plan.number((0, 0), (0, 0))].sum() == 2


@pytest.mark.parametrize("given", ["float64", "float32", "bfloat16", "float16"])
def test_weights_are_moved_bit_for_bit_and_rounded_once(given):
    table = weights(T5, given)
    table[3:5] = [[np.inf, np.nan, -0.0]] * 2
    table[5, 0] = jnp.finfo(given).smallest_subnormal
    n = numbers(T5, range(-3, 30), range(40))
    for queries in (range(-3, 30), [*range(-3, 29), 29]):
        assert bits(bias(T5, queries, range(40), weights=table, dtype=given)) == bits(np.moveaxis(table[n], -1, 0))
    with jax.enable_x64(given == "float64"):
        traced = jax.jit(lambda w: bias(T5, range(-3, 30), range(40), weights=w, dtype=given))(table)
        assert bits(traced) == bits(np.moveaxis(table[n], -1, 0))


@pytest.mark.parametrize(("dtype", "tie"), [("bfloat16", 1 + 2.0**-8), ("float16", 1 + 2.0**-11)])
def test_float64_weights(dtype, tie):
    above = np.full(T5.weight_shape, tie + 2.0**-40)  # float32, on the way, would see a tie
    with jax.enable_x64(True):
        traced = jax.jit(lambda w: bias(T5, [0], [0], weights=w, dtype=dtype))(above)
    for got in (traced, bias(T5, [0], [0], weights=above, dtype=dtype)):
        assert float(got[0, 0, 0]) == exact.round_to(Fraction(tie + 2.0**-40), dtype) > 1
    assert bias(T5, [0], [0], weights=above, dtype="float64").dtype == jnp.float64
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
    arrays = jnp.arange(40), jnp.arange(-9, 60)
    for given in ((queries, keys), arrays):
        for transform in (lambda f: f, jax.jit):
            function = transform(lambda w, given=given: bias(T5, *given, weights=w, dtype=dtype))
            gradient = jax.vjp(function, table)[1](jnp.asarray(incoming, dtype))[0]
            np.testing.assert_array_equal(gradient, expected.astype(jnp.dtype(dtype)))
            moved = jax.jvp(function, (table,), (table,))[1]
            assert bits(moved) == bits(function(table))
    traced = jax.jit(jax.grad(lambda w, q: bias(T5, q, keys, weights=w).sum()))(table, arrays[0])
    np.testing.assert_array_equal(
        traced, np.bincount(n.ravel(), minlength=32)[:, None].repeat(3, 1).astype(jnp.dtype(dtype))
    )


def test_second_derivatives_and_batched_weights():
    small, keys = T5Bias(2, bidirectional=False, buckets=4, max_distance=5), range(9)
    table = jnp.asarray(weights(small))
    n = numbers(small, range(9), keys)
    for transform in (lambda f: f, jax.jit):
        square = transform(lambda w: (bias(small, range(9), keys, weights=w) ** 2).sum() / 2)
        hessian = np.asarray(jax.hessian(square)(table)).reshape(8, 8)
        np.testing.assert_array_equal(hessian, np.diag(np.bincount(n.ravel(), minlength=4).repeat(2)))
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
        return (
            bias(spec, query, range(64), weights=table),
            bias(Alibi.causal(4), query, range(64)),
            rows(T5, query, [3]),
        )

    for position in (0, 5, 2**30, -7):
        t5, alibi, row = step(T5Bias(3, bidirectional=True), table, jnp.array([position]))
        assert bits(t5) == bits(bias(T5, [position], range(64), weights=table))
        assert row.tolist() == rows(T5, [position], [3]).tolist()
        assert alibi.shape == (4, 1, 64)
    assert len(traces) == 1
    step(T5Bias(3, bidirectional=False), table, jnp.array([1]))
    assert len(traces) == 2
    on_host = [lambda n=n: (bias(T5, [n], range(n), weights=table), rows(T5, range(n), [n])) for n in (5, 80)]
    on_host[0]()
    assert compilations(caplog, on_host[1]) == 0
    assert compilations(caplog, lambda: jax.jit(lambda n: rows(T5, n, [4]))(jnp.arange(13))) > 0


def test_nothing_is_folded_and_strict_modes_are_clean():
    table = jnp.asarray(weights(T5))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for call in (
            lambda w: bias(T5, range(9000), range(9000), weights=w, dtype="bfloat16"),
            lambda w: bias(Alibi.symmetric(3), range(9000), range(9000)) + w[0, 0],
            lambda w: rows(SPECS["t5 far, fine"], w.astype(np.int32), range(9000)),
            lambda w: rows(SPECS["deberta"], w.astype(np.int32), range(9000)),
        ):
            assert len(jax.jit(call).lower(table).as_text()) < 50_000
    query, key = jax.export.symbolic_shape("query, key")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, query), (key,))]
    exported = jax.export.export(jax.jit(lambda q, k: bias(T5, q, k, weights=table)))(*shapes)
    given = jnp.arange(6).reshape(2, 3) * 9, jnp.arange(5)
    assert bits(exported.call(*given)) == bits(bias(T5, *given, weights=table))


def test_numpy_weights_may_be_written_to_after_the_call():
    spec, wrong = T5Bias(2**8, buckets=2**12, max_distance=2**13, bidirectional=False), 0
    for _ in range(10):
        table = np.ones(spec.weight_shape, np.float32)
        result = jax.vmap(lambda q, table=table: bias(spec, q[None], [0, 1], weights=table))(jnp.arange(9))
        table[...] = 7  # the owner's right: the call has returned
        wrong += float(result.max()) != 1
    assert not wrong


def attended(q, k, v, scores_bias, allowed, incoming):
    """Attention in float64 NumPy, `(B, T, N, H)`, and its gradient with respect to the bias."""
    q, k, v, incoming = (np.asarray(a, np.float64).transpose(0, 2, 1, 3) for a in (q, k, v, incoming))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + np.asarray(scores_bias, np.float64)
    scores = np.where(allowed, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    passed = incoming @ v.swapaxes(-1, -2)
    return (p @ v).transpose(0, 2, 1, 3), p * (passed - (p * passed).sum(-1, keepdims=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("jitted", [False, True])
def test_attention_of_jax_with_masks(causal, jitted):
    batch, length, heads, width = 2, 9, 3, 8
    q, k, v, incoming = np.random.default_rng(6).uniform(-1, 1, (4, batch, length, heads, width)).astype(np.float32)
    table, starts = jnp.asarray(weights(T5)).clip(-1, 1), np.array([[0], [11]])
    positions = starts + np.arange(length)
    padding = np.arange(length) < np.array([length, 6])[:, None]
    allowed = padding[:, None, None] & (np.tri(length, dtype=bool) | (not causal))
    mode = jax.jit if jitted else lambda f: f
    given = {"mask": jnp.asarray(padding[:, None, None]), "is_causal": causal}

    @mode
    def attend(table, positions, alibi):
        scores = bias(T5, positions, positions, weights=table) + alibi
        return jax.nn.dot_product_attention(q, k, v, bias=scores, **given)

    alibi = bias(Alibi.causal(heads), positions, positions)
    whole = np.asarray(bias(T5, positions, positions, weights=table), np.float64) + np.asarray(alibi, np.float64)
    expected, slope = attended(q, k, v, whole, allowed, incoming)
    got, pull = jax.vjp(lambda w: attend(w, positions, alibi), table)
    # scores below 2^4 of at most 2^4 roundings, so weights and, with |v| <= 1, outputs within 2^-16 and a little
    assert np.abs(got - expected).max() < 2.0**-15
    gradient = np.zeros(T5.weight_shape)
    n = np.asarray(rows(T5, positions, positions))
    np.add.at(gradient, n, np.moveaxis(slope, 1, -1))
    # of p * (passed - mean), |passed| <= 8, a query's sum is within 24 times 2^-16; there are 18 queries
    limit = 18 * 24 * 2.0**-16
    assert np.abs(pull(jnp.asarray(incoming))[0] - gradient).max() < limit < np.abs(gradient).max() / 2**6
    unmasked, _ = attended(q, k, v, whole, True, incoming)
    assert np.abs(unmasked - expected).max() > 2.0**-5


MESH = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from posenc import Alibi, T5Bias
from posenc.jax_impl import bias, rows
from posenc.positions import contiguous, zigzag

spec, alibi = T5Bias(4, bidirectional=True), Alibi.causal(4)
table = np.arange(128, dtype=np.float32).reshape(32, 4)
keys = jnp.arange(64, dtype=jnp.int32)
incoming = jnp.asarray(np.random.default_rng(0).integers(-3, 4, (4, 64, 64)), jnp.float32)
collective = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
plain = [lambda w, q: rows(spec, q, keys), lambda w, q: bias(spec, q, keys, weights=w)]
plain.append(lambda w, q: bias(alibi, q, keys))

def seen(function, *arguments):
    jitted = jax.jit(function)
    return jitted(*arguments), bool(collective.search(jitted.lower(*arguments).compile().as_text()))

for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    for layout in (contiguous, zigzag):
        order = np.concatenate([list(layout(64, rank=rank, ranks=4)) for rank in range(4)])
        assert (order != np.arange(64)).any() == (layout is zigzag)
        with jax.set_mesh(mesh):
            queries = jax.device_put(order.astype(np.int32), NamedSharding(mesh, P("data")))
            for columns in (None, "model"):
                weights = jax.device_put(table, NamedSharding(mesh, P(None, columns)))
                for function, lead in zip(plain, ([], [columns], [None])):
                    whole = np.asarray(jax.jit(function)(table, order))
                    got, moved = seen(function, weights, queries)
                    assert not moved and got.sharding.is_equivalent_to(NamedSharding(mesh, P(*lead, "data")), got.ndim)
                    assert (np.asarray(got) == whole).all()
                    there = P(*lead, "data", None)
                    shared = jax.shard_map(function, in_specs=(P(None, columns), P("data")), out_specs=there)
                    if columns is None:
                        assert (np.asarray(jax.jit(shared)(weights, queries)) == whole).all()
                pull = lambda w, q, c: jax.vjp(lambda w: bias(spec, q, keys, weights=w), w)[1](c)[0]
                there = jax.device_put(incoming, NamedSharding(mesh, P(columns, "data")))
                got, moved = seen(pull, weights, queries, there)
                assert moved and (np.asarray(got) == np.asarray(pull(jnp.asarray(table), order, incoming))).all()
            eager = bias(spec, queries, keys, weights=weights)
            assert (np.asarray(eager) == np.asarray(bias(spec, order, range(64), weights=table))).all()
print(len(jax.devices()))
"""


def test_sharded_queries_have_the_rows_and_biases_of_the_whole():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (0, "8\n"), run.stderr


MEMORY = r"""
import pathlib, re, resource
from posenc import Alibi, T5Bias
from posenc.jax_impl import bias, rows
import jax.numpy as jnp

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss counts what the parent had, too
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def grown(work):
    before = peak()
    result = work().block_until_ready()
    return (peak() - before) / result.nbytes

bias(Alibi.causal(32), [5], range(9)), rows(T5Bias(1, bidirectional=True), [0, 5], range(9))
keys = list(range(2**12)) * 2
print(grown(lambda: rows(T5Bias(1, bidirectional=True), keys[:4000], keys)))
print(grown(lambda: bias(Alibi.causal(32), [2**20 - 1], range(2**20))))
print(grown(lambda: bias(Alibi.causal(32), [2**20 - 1], range(2**20 + 2**19)) * jnp.float32(2)))
"""


def test_peak_memory_is_little_more_than_the_result():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    *ours, with_a_copy = map(float, run.stdout.split())
    # what was freed before is used again, so that of the second a part is not seen; nor of two arrays at a time
    assert max(ours) < 1.25
    assert with_a_copy > 1.25
