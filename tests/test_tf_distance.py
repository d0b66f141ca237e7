"""Rows and biases of the TensorFlow column: values in every mode, hard roundings, gradients, tracing and memory."""

import gc
import itertools
import subprocess
import sys
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from posenc import Alibi, DebertaBuckets, MusicTransformerIndex, ShawClip, SwinIndex, T5Bias, TransformerXLIndex
from posenc.spec import exact
from posenc.tf_impl import bias, pairs, rows, slopes

MODES = {"function": {}, "xla": {"jit_compile": True}}
over_modes = pytest.mark.parametrize("mode", MODES)
DTYPES = ["float64", "float32", "bfloat16", "float16"]
END = 2**31 - 1
TABLES = {
    "t5": T5Bias(3, bidirectional=True),
    "t5x": T5Bias(2, buckets=10, max_distance=40, bidirectional=False, rule="t5x"),
    "t5 far": T5Bias(4, buckets=64, max_distance=2**30, bidirectional=True),
    "deberta": DebertaBuckets(16, 2**30, clamped=False),
    "shaw": ShawClip(3, 5),
    "one row": ShawClip(0),
    "xl far": TransformerXLIndex(2**30, shortest=-5),
    "music": MusicTransformerIndex(6, bidirectional=True),
}
SLOPES = {"causal": Alibi.causal(12), "symmetric": Alibi.symmetric(5, max_bias=21.5), "anchored": Alibi.anchored(8)}
PLACES = {
    "ranges": (range(-3, 40, 3), range(20, -30, -3)),
    "steps": (range(0, 12, 4), range(5, 80, 6)),
    "far": (np.array([0, 1, -5, END, -END, 100]), np.array([4, -END, END, 0, -1, 2, 8])),
    "decoding": ([70_000], range(69_980, 70_001)),
    "batch": (np.arange(6).reshape(2, 3) * 9, [[1, 2, 3, 4], [7, 9, -3, 10**6]]),
    "batch of queries": ([[[5], [10**6]]], range(4)),
    "batch of keys": (range(2), np.array([[0, 1], [10**9, 5], [3, -4]])),
    "one row of queries": ([[1, 2]], [[0, 1, 2], [10, 11, 13]]),
    "nothing": (range(0), range(3)),
}
over_places = pytest.mark.parametrize("place", PLACES)


def as_array(positions):
    return np.array(list(positions) if isinstance(positions, range) else positions, np.int64)


def numbers(spec, query, key):
    """What the plan says, one pair after the other."""
    q, k = as_array(query), as_array(key)
    lead = np.broadcast_shapes(q.shape[:-1], k.shape[:-1])
    q, k = (np.broadcast_to(p, (*lead, p.shape[-1])) for p in (q, k))
    result = np.zeros((*lead, q.shape[-1], k.shape[-1]), np.int64)
    plan = spec.plan()
    for *b, i, j in np.ndindex(result.shape):
        result[(*b, i, j)] = plan.number([int(q[(*b, i)])], [int(k[(*b, j)])])
    return result


def check_bits(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if got.tobytes() != expected.tobytes():
        wrong = np.argwhere(~((got == expected) & (np.signbit(got) == np.signbit(expected))))
        place = tuple(wrong[0]) if len(wrong) else ()
        raise AssertionError(f"entry {place}: got {got[place]}, expected {expected[place]}")


def exactly(spec, n, dtype):
    """Correctly rounded products of every head with `n`, `(*B, heads, Q, K)`."""
    found = [[spec.value(m, head, dtype) for m in n.reshape(-1).tolist()] for head in range(spec.heads)]
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return np.moveaxis(np.array(found, np.float64).reshape(spec.heads, *n.shape), 0, -3).astype(kind)


def traced(mode, call, *specs):
    return tf.function(call, input_signature=specs, autograph=False, **MODES[mode])


def test_the_checker_sees_one_unit_and_the_sign_of_zero():
    for got, expected in ((1 + 2.0**-23, 1.0), (-0.0, 0.0)):
        with pytest.raises(AssertionError, match="entry"):
            check_bits(np.float32([2.0, got]), np.float32([2.0, expected]))


@over_places
@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_rows_are_those_of_the_plan(spec, place):
    check_bits(rows(spec, *PLACES[place]), numbers(spec, *PLACES[place]).astype(np.int32))


@over_places
@pytest.mark.parametrize("spec", SLOPES.values(), ids=SLOPES)
def test_slopes_are_correctly_rounded(spec, place):
    n = numbers(spec, *PLACES[place])
    for dtype in DTYPES[1:]:
        check_bits(bias(spec, *PLACES[place], dtype=dtype), exactly(spec, n, dtype))
    wide, truth = bias(spec, *PLACES[place], dtype="float64").numpy(), exactly(spec, n, "float64")
    assert (np.abs(wide - truth) <= np.spacing(np.abs(truth))).all()


@over_places
def test_values_do_not_depend_on_how_a_result_is_filled(place, monkeypatch):
    t5, alibi = TABLES["t5 far"], SLOPES["causal"]
    weights = tf.random.stateless_normal(t5.weight_shape, [1, 2])
    calls = [lambda: rows(t5, *PLACES[place]), lambda: bias(alibi, *PLACES[place])]
    calls.append(lambda: bias(t5, *PLACES[place], weights=weights))
    expected = [call() for call in calls]
    monkeypatch.setattr(pairs, "BLOCK", 1)  # pairs of a block: one head, one query, half of the keys
    monkeypatch.setattr(pairs, "LONGEST", -(2**40))  # no line of distances
    monkeypatch.setattr(slopes, "BLOCK", 1)
    for call, whole in zip(calls, expected, strict=True):
        check_bits(call(), whole)


# the product lies so near the middle of two float32 numbers that the float64 sum of both parts rounds to the wrong one
HARD = [(Alibi.causal(16), 1295743693, 4), (Alibi.causal(12), 1295743693, 9)]
HARD += [(Alibi.causal(16, max_bias=1.0), n, head) for n, head in ((121445459, 10), (242890918, 10), (390332761, 12))]


@pytest.fixture
def asked(monkeypatch):
    """The integers and heads of which `Alibi.value` was asked."""
    pairs, value = set(), Alibi.value

    def counted(self, multiple, head, dtype="float32"):
        pairs.add((multiple, head))
        return value(self, multiple, head, dtype)

    monkeypatch.setattr(Alibi, "value", counted)
    return pairs


@pytest.mark.parametrize(("spec", "n", "head"), HARD)
def test_what_float64_cannot_decide_is_asked(spec, n, head, asked):
    slope = spec.plan().slopes[head]
    for query, key, multiple in ((0, n, n), (n, 0, -n)):
        got = bias(spec, [query], [key]).numpy()[head, 0, 0]
        assert (multiple, head) in asked
        assert got == spec.value(multiple, head) != np.float32(slope.high * multiple + slope.low * multiple)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_halves_are_asked_wherever_they_are(dtype, asked, monkeypatch):
    spec, (precision, least, _) = SLOPES["symmetric"], exact.FORMATS[dtype]
    monkeypatch.setattr(slopes, "UNITS", 2 ** (46 - precision))  # a 128th of a unit: there are some
    got, near = bias(spec, [0], range(1, 3000), dtype=dtype), set()
    for n, (head, slope) in itertools.product(range(1, 3000), enumerate(spec.plan().slopes)):
        value = slope.high * n + slope.low * n
        place = max(np.frexp(value)[1] - precision, least)
        if slope.low and abs(value * 2.0**-place % 1 - 0.5) < 1 / 129:
            near.add((-n, head))
    assert near
    assert near <= asked
    check_bits(got, exactly(spec, -np.arange(1, 3000)[None], dtype))


@over_modes
@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_traced_rows_are_the_same_integers_at_every_edge(mode, spec):
    f = traced(mode, lambda q, k: rows(spec, q, k), *[tf.TensorSpec([None], tf.int64)] * 2)
    edges = {run.first + d for run in spec.plan().axes[0] for d in (-1, 0, 1)}
    at_edges = [0], np.array(sorted(edge for edge in edges if abs(edge) <= END))
    for q, k in (at_edges, PLACES["far"], map(as_array, PLACES["nothing"])):
        check_bits(f(q, k), numbers(spec, q, k).astype(np.int32))


@over_modes
@pytest.mark.parametrize("dtype", DTYPES)
def test_traced_slopes_keep_their_bound(mode, dtype):
    def call(q, k):
        return [bias(spec, q, k, dtype=dtype) for spec in SLOPES.values()]

    f = traced(mode, call, *[tf.TensorSpec([None], tf.int64)] * 2)
    for place in ("far", "decoding"):
        q, k = map(as_array, PLACES[place])
        for values, spec in zip(f(q, k), SLOPES.values(), strict=True):
            got, truth = values.numpy().astype(np.float64), exactly(spec, numbers(spec, q, k), "float64")
            bound = np.abs(truth) * 2.0 ** (-52 if dtype == "float64" else -22)
            if dtype in DTYPES[2:]:  # half a unit, of a value that may be off already
                precision, least, _ = exact.FORMATS[dtype]
                bound += 2.0 ** np.maximum(np.frexp(truth)[1] - precision, least) / 2 * (1 + 2.0**-20)
            small = np.abs(truth) < (65504 if dtype == "float16" else np.inf)
            assert (np.abs(got - truth)[small] <= bound[small]).all()
            assert np.isinf(got[~small]).all()
    for values, spec in zip(f([0], [1, -1]), SLOPES.values(), strict=True):
        assert (np.abs(values[:, 0, 0]) == np.array(spec.slopes(dtype), values.dtype.as_numpy_dtype)).all()


@over_modes
@pytest.mark.parametrize("shape", [[None, None], None])
def test_one_trace_serves_every_batch_and_length(mode, shape):
    spec, alibi, count = TABLES["t5"], SLOPES["symmetric"], []
    weights = tf.random.stateless_normal(spec.weight_shape, [1, 2])

    def call(q, k, w):
        count.append(1)
        return rows(spec, q, k), bias(spec, q, k, weights=w), bias(alibi, q, k)

    specs = [tf.TensorSpec(shape, tf.int32)] * 2 + [tf.TensorSpec([None, None])]
    if shape is None and mode == "xla":
        specs[:2] = [tf.TensorSpec([None, 1, None], tf.int32)] * 2  # XLA needs the number of axes
    f = traced(mode, call, *specs)
    for batch, queries, offset in ((2, 3, 0), (1, 1, 1000), (3, 1, 2000), (2, 0, 0)):
        q = np.arange(batch * queries, dtype=np.int32).reshape(batch, queries) + offset
        k = np.arange(batch * 5, dtype=np.int32).reshape(batch, 5) * 300
        parts = [x[:, None] if specs[0].shape.rank == 3 else x for x in (q, k)]
        n, of_t5, of_alibi = f(*parts, weights)
        check_bits(tf.reshape(n, (batch, queries, 5)), rows(spec, q, k))
        check_bits(tf.reshape(of_t5, (batch, 3, queries, 5)), bias(spec, q, k, weights=weights))
        host = bias(alibi, q, k)
        assert (np.abs(tf.reshape(of_alibi, host.shape) - host) <= 2.0**-22 * np.abs(host)).all()
    assert len(count) == 1


def test_weights_are_copied_bit_for_bit_or_rounded_once():
    spec = T5Bias(2, buckets=4, max_distance=8, bidirectional=True)
    n = numbers(spec, range(6), range(6))
    one = 1 + 2.0**-8 + 2.0**-40  # by way of float32 it would round to 1 in bfloat16
    small = [1.5 * 2.0**-24 - 2.0**-64, 1.5 * 2.0**-133 - 2.0**-173]  # and these to two units of a half format
    values = np.array([[-0.0, np.inf], small, [-(2.0**-140), 65520.0], [one, 1 + 2.0**-11 + 2.0**-40]])
    for dtype in DTYPES:
        for source in (tf.float64, tf.as_dtype(dtype)):
            with np.errstate(over="ignore"):
                table = tf.constant(values.astype(source.as_numpy_dtype))
            for places in (
                (range(6), range(6)),
                ([list(range(6))], range(6)),
                (np.arange(6), [5, 0, 4, 1, 3, 2]),
            ):
                got = bias(spec, *places, weights=table, dtype=dtype).numpy()
                own = numbers(spec, *places)
                if source.name == dtype:
                    check_bits(got, np.moveaxis(table.numpy()[own], -1, -3))
                    continue
                truth = [[exact.round_to(Fraction(v), dtype) if np.isfinite(v) else v for v in row] for row in values]
                rounded = np.array(truth)
                rounded[0, 0] = -0.0
                check_bits(got.astype(np.float64), np.moveaxis(rounded[own], -1, -3))
    assert n.max() == 3


SWIN = SwinIndex(3, (3, 2))


def test_pairs_outside_a_window_are_refused_or_nan():
    places, weights = SWIN.positions(), tf.random.stateless_normal(SWIN.weight_shape, [3, 4])
    n = [[SWIN.plan().number(q, k) for k in places] for q in places]
    check_bits(rows(SWIN, places, places), np.int32(n))
    check_bits(bias(SWIN, places, places, weights=weights), np.moveaxis(weights.numpy()[np.array(n)], -1, 0))
    outside = [(1, 1), (0, 0), (2, 2), (3, 0)]
    for name, call in {"rows": rows, "bias": lambda *p: bias(*p, weights=weights)}.items():
        message = rf"^{name}\.key_positions: expected distances to the query from -1 to 1 on axis 1, received 2$"
        with pytest.raises(ValueError, match=message):
            call(SWIN, places, outside)
    for mode in MODES:
        f = traced(
            mode,
            lambda k: (rows(SWIN, places, k), bias(SWIN, places, k, weights=weights)),
            tf.TensorSpec((4, 2), tf.int32),
        )
        got, values = f(outside)
        expected = np.int32([[SWIN.plan().number(q, k) for k in outside] for q in places])
        check_bits(got, expected)
        assert (expected == -1).any()
        assert (np.isnan(values) == (expected == -1)).all()


@over_modes
def test_positions_that_are_known_in_a_graph_are_checked(mode):
    weights = tf.zeros(SWIN.weight_shape)

    def asked(name, key):  # of an argument, default or not, tf.function makes a tensor
        return lambda: rows(SWIN, [(0, 0)], key) if name == "rows" else bias(SWIN, [(0, 0)], key, weights=weights)

    for outside in ([(1, 1), (0, 0), (2, 2)], np.array([(0, 2)]), np.array([[(0, 0)], [(2, 2)]], np.int32)):
        for name in ("rows", "bias"):
            message = rf"^{name}\.key_positions: expected distances to the query from -1 to 1 on axis 1, received 2$"
            with pytest.raises(ValueError, match=message):
                tf.function(asked(name, outside), autograph=False, **MODES[mode])()


@pytest.mark.parametrize("mode", ["eager", *MODES])
@pytest.mark.parametrize(
    ("query", "key", "lead"),
    [
        ((0, 3), (4,), (0,)),
        ((3,), (0, 4), (0,)),
        ((1, 0), (0, 4), (0,)),
        ((2, 0), (4,), (2,)),
        ((2, 3), (2, 0), (2,)),
        ((0,), (0,), ()),
        ((0, 2, 3), (0, 1, 4), (0, 2)),
    ],
)
def test_windows_without_pairs_are_empty(mode, query, key, lead):
    q, k = (np.zeros((*shape, 2), np.int64) for shape in (query, key))
    weights = tf.zeros(SWIN.weight_shape)

    def call():
        return rows(SWIN, q, k), bias(SWIN, q, k, weights=weights)

    n, b = call() if mode == "eager" else tf.function(call, autograph=False, **MODES[mode])()
    assert n.shape == (*lead, query[-1], key[-1])
    assert b.shape == (*lead, 3, query[-1], key[-1])


def test_positions_of_no_axis_are_refused():
    t5, weights = TABLES["t5"], tf.zeros(TABLES["t5"].weight_shape)
    for scalar in (tf.constant(3), tf.Variable(3, dtype=tf.int64), np.int32(3), np.array(3), 3):
        for places, argument in (((scalar, [0]), "query_positions"), (([0], scalar), "key_positions")):
            for name, call in {"rows": rows, "bias": lambda *p, **o: bias(*p, weights=weights, **o)}.items():
                message = rf"^{name}\.{argument}: expected shape \(\.\.\., length\), received \(\)$"
                with pytest.raises(ValueError, match=message):
                    call(t5, *places)


def test_floats_and_weights_of_another_kind_are_refused():
    t5 = TABLES["t5"]
    for places in (0.5, [0.5], [[0, 1.0]], np.float64(2)):
        with pytest.raises(ValueError, match=r"^rows\.query_positions: expected integers, received float$"):
            rows(t5, places, [0])
    wrong = {"list": [[1.0] * 3] * 32, "SparseTensor": tf.sparse.from_dense(tf.ones(t5.weight_shape)), "str": "w"}
    wrong["RaggedTensor"] = tf.ragged.constant([[1.0, 2.0, 3.0]] * 32)
    for kind, weights in wrong.items():
        with pytest.raises(ValueError, match=rf"^bias\.weights: expected an array of the framework, received {kind}$"):
            bias(t5, [0], [0], weights=weights)
    for weights, dtype in ((np.ones((32, 3), int), "int64"), (np.ones((32, 3), object), "object")):
        with pytest.raises(ValueError, match=rf"^bias\.weights: expected float64, .* or float16, received {dtype}$"):
            bias(t5, [0], [0], weights=weights)


@pytest.fixture
def strict():
    """Every floating-point flag of NumPy and every warning is an error."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_does_not_warn(dtype, strict):
    spec = T5Bias(1, buckets=4, max_distance=8, bidirectional=True)
    signalling = np.array([0x7C01] * 4, np.uint16).view(np.float16)[:, None]
    for weights, number in ((np.full((4, 1), 1e-310), 1e-310), (np.full((4, 1), -1e300), -1e300)):
        got = bias(spec, range(3), range(2), weights=weights, dtype=dtype).numpy()
        expected = exact.round_to(Fraction(number), dtype) if dtype == "float64" or number > 0 else -np.inf
        if number > 0 or dtype in ("float64", "float16"):
            assert (got.astype(np.float64) == expected).all()
    assert tf.reduce_all(tf.math.is_nan(bias(spec, range(3), range(2), weights=signalling, dtype=dtype)))
    far = bias(Alibi.causal(12, max_bias=40.0), [0], [END, -END, 1], dtype=dtype)
    assert far.shape == (12, 1, 3)


@pytest.mark.parametrize("mode", ["eager", *MODES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_gradient_of_a_row_is_the_sum_over_its_pairs(mode, dtype):
    spec, q, k = TABLES["t5"], np.arange(300)[:, None] % 7 + np.arange(4), np.arange(300)[:, None] + np.arange(5)
    n = numbers(spec, q, k)
    weights = tf.cast(tf.random.stateless_normal(spec.weight_shape, [1, 2]), dtype)
    factor = tf.constant(1 + n % 3, dtype)[:, None]  # small integers, whose sums are exact in float32 alone

    def first(w, f, q, k):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(tf.cast(bias(spec, q, k, weights=w, dtype=dtype) * f, tf.float64))
        return tape.gradient(loss, w)

    def second(w, f, q, k):
        with tf.GradientTape() as tape:
            tape.watch(w)
            b = bias(spec, q, k, weights=w, dtype=dtype)
            with tf.GradientTape() as inner:
                inner.watch(w)
                square = bias(spec, q, k, weights=w, dtype=dtype) ** 2 * f
            part = tf.reduce_sum(inner.gradient(square, w) * 4)
        del b
        return tape.gradient(part, w)

    expected = np.zeros(spec.weight_shape)
    np.add.at(expected, n.reshape(-1), np.repeat((1 + n % 3).reshape(-1, 1), spec.heads, 1))
    for call, truth in ((first, expected), (second, 8 * expected)):
        if mode == "eager":
            got = call(weights, factor, q, k)
        else:
            got = tf.function(call, autograph=False, **MODES[mode])(weights, factor, tf.constant(q), tf.constant(k))
        check_bits(got, truth.astype(weights.dtype.as_numpy_dtype))
    assert expected.max() > 256  # where bfloat16 stops counting


@over_modes
def test_pairs_without_a_row_have_no_gradient(mode):
    def call(w, k):
        with tf.GradientTape() as tape:
            tape.watch(w)
            total = tf.reduce_sum(bias(SWIN, [(0, 0)], k, weights=w))
        return tape.gradient(total, w)

    got = traced(mode, call, tf.TensorSpec(SWIN.weight_shape), tf.TensorSpec([None, 2], tf.int32))(
        tf.ones(SWIN.weight_shape), [(0, 0), (2, 2), (3, 0)]
    )
    expected = np.zeros(SWIN.weight_shape, np.float32)
    expected[SWIN.plan().number((0, 0), (0, 0))] = 1
    check_bits(got, expected)


def test_forward_mode_jacobians_and_vectorised_maps():
    spec = TABLES["t5"]
    weights, tangent = (tf.random.stateless_normal(spec.weight_shape, [s, 2]) for s in (1, 5))

    def call(w):
        return bias(spec, range(3), range(4), weights=w)

    for run in (call, tf.function(call)):
        with tf.autodiff.ForwardAccumulator(weights, tangent) as forward:
            result = run(weights)
        check_bits(forward.jvp(result), call(tangent))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            result = run(weights)
        jacobian = tape.jacobian(result, weights).numpy()
        check_bits(np.einsum("hqkrg,rg->hqk", jacobian, weights.numpy()), call(weights))
    check_bits(tf.vectorized_map(call, tf.stack([weights, tangent]))[1], call(tangent))


def test_results_own_their_memory_and_do_not_depend_on_history():
    spec, weights = SLOPES["causal"], tf.Variable(tf.ones(TABLES["t5"].weight_shape))
    first = [bias(spec, range(70), range(70)), bias(TABLES["t5"], range(70), range(70), weights=weights)]
    before = [x.numpy().copy() for x in first]
    weights.assign(weights * 2)
    second = bias(TABLES["t5"], range(70), range(70), weights=weights)
    tf.config.run_functions_eagerly(True)
    try:
        with tf.device("CPU:0"), tf.GradientTape():
            check_bits(bias(spec, range(70), range(70)), before[0])
    finally:
        tf.config.run_functions_eagerly(False)
    gc.collect()
    for x, y in zip(first, before, strict=True):
        check_bits(x, y)
    check_bits(second, 2 * before[1])
    with tf.Graph().as_default():
        assert not hasattr(bias(spec, range(3), range(3)), "numpy")


def test_memory_is_that_of_the_result():
    heads, keys = 32, 2**20
    # the high-water mark of getrusage is inherited from the parent on Linux, that of /proc is not
    code = (
        "import resource, sys, numpy as np, posenc\nfrom posenc.tf_impl import bias, rows\n"
        f"spec = posenc.Alibi.causal({heads})\nt5 = posenc.T5Bias(8, bidirectional=True)\n"
        "def peak():\n    if sys.platform != 'linux': return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "q = np.sort(np.random.default_rng(0).integers(0, 10**9, 8192))\n"
        "bias(spec, [1], range(5)), rows(t5, q[:9], q[:9])\n"
        f"before = peak()\nx = bias(spec, [{keys - 1}], range({keys}))\n"
        f"print((peak() - before) / ({heads} * {keys} * 4))\ndel x\n"
        "before = peak()\nx = rows(t5, q, q)\nprint((peak() - before) / 2**28)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(0.4 < float(line) < 1.25 for line in run.stdout.split())
