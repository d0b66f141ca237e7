"""Learned tables in TensorFlow: rows in every mode, gradients, resizing, and the Keras layer that owns a table."""

import copy
import dataclasses
import pickle
import warnings
from fractions import Fraction

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch

from posenc import Learned, to_json
from posenc.spec import exact, resampling
from posenc.tf_impl import lookup, resize
from posenc.tf_impl.layers import LearnedEncoding

MODES = {"function": {}, "xla": {"jit_compile": True}}
over_modes = pytest.mark.parametrize("mode", MODES)
DTYPES = ["float64", "float32", "bfloat16", "float16"]
over_dtypes = pytest.mark.parametrize("dtype", DTYPES)
KINDS = {"bfloat16": ml_dtypes.bfloat16}
ROBERTA = Learned.roberta(6, 4)  # rows 2 to 7; position -1 reads row 1, which is frozen
OPT = Learned.opt(6, 4)
SCALED = Learned(6, 4, output_scale=0.3)


def random(shape, dtype, seed=0):
    return tf.cast(tf.random.stateless_normal(shape, [seed, 7], dtype=tf.float64), dtype)


def check_bits(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if got.tobytes() != expected.tobytes():
        raise AssertionError(f"expected the bits of {expected}, got {got}")


def traced(mode, call, *specs):
    return tf.function(call, input_signature=specs, autograph=False, **MODES[mode])


def test_the_checker_sees_one_unit_and_the_sign_of_zero():
    for got, expected in ((1 + 2.0**-23, 1.0), (-0.0, 0.0)):
        with pytest.raises(AssertionError, match="expected the bits"):
            check_bits(np.float32([got]), np.float32([expected]))


# --- Rows ---


@over_dtypes
def test_rows_on_the_host(dtype):
    for spec in (ROBERTA, OPT, Learned(6, 4)):
        weights = random(spec.weight_shape, dtype)
        for positions in (range(6), 3, [[0, 5], [2, 2]], tf.constant([4, 1]), np.uint8([1]), range(5, -1, -2), []):
            own = np.array(list(positions) if isinstance(positions, range) else positions, np.int64)
            check_bits(lookup(spec, weights, positions), weights.numpy()[own + spec.offset])
    values = np.array([[-0.0, 2.0**-149, np.inf, 1.5]] * 2).astype(KINDS.get(dtype, dtype))
    check_bits(lookup(Learned(2, 4), tf.Variable(values), [1]), values[:1])
    table = random((6, 4), dtype).numpy()
    wide = np.float64 if dtype == "float64" else np.float32
    check_bits(lookup(SCALED, table, range(6)), (table.astype(wide) * wide(0.3)).astype(table.dtype))


@pytest.mark.parametrize(
    ("spec", "positions", "received"),
    [
        (OPT, [[0, 3], [-2, 9]], "-2"),
        (Learned(6, 4), np.array([-1, 7]), "-1"),
        (Learned(6, 4), range(600), "6"),
        (OPT, range(4, -8, -3), "-2"),
        (OPT, range(9, 0, -1), "9"),
        (OPT, range(2**31 - 2), "6"),
        (OPT, np.array(6), "6"),
    ],
)
def test_positions_outside_a_table_are_refused_on_the_host(spec, positions, received):
    def call():
        return lookup(spec, tf.zeros(spec.weight_shape), positions)

    message = rf"^lookup\.positions: expected integers from {spec.plan().low} to 5, received {received}$"
    for run in (call, tf.function(call, autograph=False)):  # known when it is traced, too
        with pytest.raises(ValueError, match=message):
            run()


@over_modes
@over_dtypes
def test_traced_rows_are_nan_outside_the_table(mode, dtype):
    far = [2**63 - 1, -(2**63), 2**31, 2**31 - 3, -(2**31), 2**32, 6, -2]
    for spec in (ROBERTA, OPT, SCALED):
        weights = random(spec.weight_shape, dtype)
        shape = tf.TensorShape(None if mode == "function" else [None])  # XLA needs the number of axes
        specs = tf.TensorSpec([None, None], dtype), tf.TensorSpec(shape, tf.int64)
        f = traced(mode, lambda w, p, s=spec: lookup(s, w, p), *specs)
        got = f(weights, [0, *far, 5]).numpy().astype(np.float64)
        assert np.isnan(got[1:-1]).all()
        check_bits(got[[0, -1]], lookup(spec, weights, [0, 5]).numpy().astype(np.float64))
        if spec.padding:
            check_bits(f(weights, [-1]), weights.numpy()[[spec.offset - 1]])
        unsigned = traced(mode, lambda p, s=spec, w=weights: lookup(s, w, p), tf.TensorSpec([2], tf.uint64))
        assert np.isnan(unsigned([2**64 - 1, 2**63]).numpy().astype(np.float32)).all()


@pytest.mark.parametrize("mode", ["eager", *MODES])
@over_dtypes
def test_gradients_of_rows(mode, dtype):
    positions = np.concatenate([np.zeros(2000, int), [-1, 5, 3, 3]])
    inside = positions if mode == "eager" else np.concatenate([positions, [-7, 6]])
    factor = np.arange(len(inside)) % 3 + 1.0  # small integers, whose sums are exact in float32 alone

    def first(spec, w, p):
        with tf.GradientTape() as tape:
            tape.watch(w)
            rows = lookup(spec, w, p)
        return tape.gradient(rows, w, tf.cast(factor[:, None] + np.zeros(4), dtype))

    def second(spec, w, p):
        with tf.GradientTape() as tape:
            tape.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                square = tf.cast(lookup(spec, w, p), tf.float64) ** 2
                square = tf.where(tf.math.is_finite(square), square, 0.0) * factor[:, None]
            part = inner.gradient(square, w)
        return tape.gradient(part, w, tf.ones_like(part))

    for spec in (ROBERTA, OPT):
        expected = np.zeros(spec.weight_shape)
        reads = (inside >= (0 if spec is ROBERTA else -1)) & (inside <= 5)  # nothing through a frozen row
        np.add.at(expected, inside[reads] + spec.offset, factor[reads, None])
        weights = tf.ones(spec.weight_shape, dtype)
        for call, truth in ((first, expected), (second, 2 * expected)):
            options = MODES.get(mode, {})
            run = call if mode == "eager" else tf.function(call, autograph=False, **options)
            got = run(spec, weights, inside if mode == "eager" else tf.constant(inside))
            assert tf.is_tensor(got)  # dense
            check_bits(got, truth.astype(KINDS.get(dtype, dtype)))


@over_dtypes
def test_scaled_rows_on_the_host_have_subnormal_numbers(dtype):
    least = -1074 if dtype == "float64" else exact.FORMATS[dtype].least
    for number, scale in ((2.0 ** (least + 1), 2.0**20), (1.5 * 2.0 ** (least + 3), 0.25), (-(2.0**least), 4.0)):
        weights = tf.Variable(np.array([[number]]).astype(KINDS.get(dtype, dtype)))
        product = exact.round_to(Fraction(number) * Fraction(scale), dtype)
        with tf.GradientTape() as tape:
            got = lookup(Learned(1, 1, output_scale=scale), weights, [0])
        check_bits(got, np.array([[product]]).astype(got.numpy().dtype))
        with np.errstate(over="ignore"):  # 2^20 in float16
            check_bits(tape.gradient(got, weights), np.array([[scale]]).astype(got.numpy().dtype))
    for rows, positions in ((1, tf.constant(0)), (3, 0), (3, [0] * 4)):  # scaled before they are read, and after
        got = lookup(Learned(rows, 1, output_scale=2.0**20), tf.fill([rows, 1], 2.0**-127), positions)
        check_bits(got, np.full(got.shape, 2.0**-107, np.float32))


@pytest.mark.parametrize("name", ["lookup", "resize"])
def test_weights_of_another_kind_are_refused(name):
    def call(weights):
        return lookup(OPT, weights, [0]) if name == "lookup" else resize(OPT, weights, (5,), method="jax_linear")

    ones = np.ones(OPT.weight_shape, np.float32)
    others = [None, ones.tolist(), keras.layers.Embedding(8, 4), keras.Input((4,)), tf.sparse.from_dense(ones), "w"]
    for weights in (*others, torch.nn.Parameter(torch.ones(8, 4))):
        kind = type(weights).__name__
        with pytest.raises(
            ValueError, match=rf"^{name}\.weights: expected an array of the framework, received {kind}$"
        ):
            call(weights)
    with pytest.raises(ValueError, match=rf"^{name}\.weights: expected float64, .*, received int32$"):
        call(tf.ones(OPT.weight_shape, tf.int32))
    for weights in (ones, keras.Variable(ones)):
        check_bits(call(weights), call(tf.constant(ones)))


# --- Resizing ---

GRID = Learned.patches((3, 4), 5, tokens=2)


def exactly(spec, table, shape, method):
    """The float64 arithmetic of the plan, in Fractions rounded after every operation, then rounded to the dtype."""
    plan, dtype = spec.resizing(shape, method), table.dtype.name
    value = table[plan.kept :].astype(np.float64).reshape(*plan.grid, plan.dim)

    def once(x):
        return exact.round_to(x, "float64")

    for axis, taps in enumerate(plan.axes):
        if taps is None:
            continue
        x = np.moveaxis(value, axis, 0)
        outputs = []
        for index, weights in zip(taps.index, taps.weights, strict=True):
            flat = [x[i].reshape(-1).tolist() for i in index]
            totals = []
            for column in zip(*flat, strict=True):
                terms = [once(Fraction(w) * Fraction(v)) for w, v in zip(weights, column, strict=True)]
                total = terms[0]
                for term in terms[1:]:
                    total = once(Fraction(total) + Fraction(term))
                totals.append(total)
            outputs.append(np.array(totals).reshape(x.shape[1:]))
        value = np.moveaxis(np.array(outputs), 0, axis)
    rounded = [exact.round_to(Fraction(v), dtype) for v in value.reshape(-1).tolist()]
    return np.concatenate([table[: plan.kept], np.array(rounded).reshape(-1, plan.dim).astype(table.dtype)])


@over_dtypes
@pytest.mark.parametrize("method", ["torch_bicubic", "tf_bicubic", "jax_cubic", "torch_bilinear_align_corners"])
def test_resized_tables_have_the_bits_of_the_stated_arithmetic(method, dtype):
    weights = random(GRID.weight_shape, dtype)
    for shape in ((5, 3), (3, 4), (1, 7)):
        check_bits(resize(GRID, weights, shape, method=method), exactly(GRID, weights.numpy(), shape, method))
    # subnormal numbers, on the host like any other
    least = exact.FORMATS[dtype].least if dtype != "float64" else -900
    tiny = (weights.numpy().astype(np.float64) * 2.0 ** (least + 3)).astype(weights.dtype.as_numpy_dtype)
    tiny[tiny == 0] = 0  # a Fraction has no -0.0
    check_bits(resize(GRID, tf.constant(tiny), (5, 3), method=method), exactly(GRID, tiny, (5, 3), method))


@over_modes
@over_dtypes
def test_traced_resizing_keeps_its_bound(mode, dtype):
    weights = random(GRID.weight_shape, dtype)
    for method in ("dino_bicubic", "torch_bilinear_antialias"):
        f = traced(mode, lambda w, m=method: resize(GRID, w, (7, 2), method=m), tf.TensorSpec([None, 5], dtype))
        got, truth = f(weights).numpy(), exactly(GRID, weights.numpy(), (7, 2), method)
        check_bits(got[:2], weights.numpy()[:2])
        bound = 7 * 2.0**-22 * np.abs(weights.numpy().astype(np.float64)).max(0)
        if dtype in DTYPES[2:]:
            bound = bound + np.abs(truth.astype(np.float64)) * 2.0 ** -exact.FORMATS[dtype].precision
        assert (np.abs(got.astype(np.float64) - truth.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("mode", ["eager", *MODES])
@over_dtypes
def test_gradients_of_resizing(mode, dtype):
    method, shape = "torch_bicubic", (5, 3)
    upstream = random((2 + 15, 5), dtype, 1)

    def first(w, g):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = resize(GRID, w, shape, method=method)
        return tape.gradient(y, w, g)

    def second(w, g):  # of the square: twice the transpose times the matrix times g
        with tf.GradientTape() as tape:
            tape.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                square = resize(GRID, w, shape, method=method) ** 2
            part = inner.gradient(square, w)
        return tape.gradient(part, w, g)

    matrix = np.zeros((17, 14))
    matrix[:2, :2] = np.eye(2)
    one, two = (
        np.array([[float(row.get(i, 0)) for i in range(n)] for row in resampling.weights(n, m, method)])
        for n, m in ((3, 5), (4, 3))
    )
    matrix[2:, 2:] = np.kron(one, two)
    weights, other = random(GRID.weight_shape, dtype, 2), random(GRID.weight_shape, dtype, 3)
    options = MODES.get(mode, {})
    for call, given, truth in (
        (first, upstream, matrix.T @ upstream.numpy().astype(float)),
        (second, other, 2 * matrix.T @ matrix @ other.numpy().astype(float)),
    ):
        got = (call if mode == "eager" else tf.function(call, autograph=False, **options))(weights, given).numpy()
        # a few roundings of sums of up to 17 numbers, whose sizes add up to less than 32
        assert np.abs(got.astype(float) - truth).max() <= 32 * 2.0 ** (2 - exact.FORMATS[dtype].precision)


@pytest.mark.parametrize("mode", ["eager", *MODES])
def test_what_is_not_finite_stays_where_it_is_read(mode):
    table = random(GRID.weight_shape, "float32").numpy()
    table[0, 0], table[2 + 11, 1] = np.nan, np.inf  # a kept row, and the last corner of the grid
    for method in ("torch_bicubic", "jax_linear"):
        f = (
            (lambda w, m=method: resize(GRID, w, (6, 8), method=m))
            if mode == "eager"
            else tf.function(lambda w, m=method: resize(GRID, w, (6, 8), method=m), autograph=False, **MODES[mode])
        )
        got = f(tf.constant(table)).numpy()
        taps = GRID.resizing((6, 8), method).axes
        reads = [[size - 1 in row for row in axis.index] for axis, size in zip(taps, (3, 4), strict=True)]
        touched = np.zeros(got.shape, bool)
        touched[2:, 1] = np.outer(*reads).reshape(-1)
        touched[0, 0] = True
        assert (np.isfinite(got) == ~touched).all()
        assert not touched.all(0)[1]


@pytest.mark.parametrize("mode", ["eager", *MODES])
@over_dtypes
def test_taps_that_only_fill_up_are_not_read(mode, dtype):
    spec = Learned(3, 1)
    for last, method in ((np.inf, "tf_bilinear"), (-np.inf, "jax_linear"), (-0.0, "torch_bilinear")):
        weights = np.array([[1.0], [2.0], [last]]).astype(KINDS.get(dtype, dtype))

        def call(w, m=method):
            return resize(spec, w, (5,), method=m)

        f = call if mode == "eager" else traced(mode, call, tf.TensorSpec((3, 1), dtype))
        check_bits(f(tf.constant(weights)).numpy()[-1], weights[-1])


@pytest.mark.parametrize("mode", ["eager", *MODES])
def test_a_gradient_reaches_what_was_read_and_nothing_else(mode):
    spec = Learned(12, 1, grid=(12,))

    def call(w, g, s=spec, shape=(24,), m="torch_bilinear"):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = resize(s, w, shape, method=m)
        return tape.gradient(y, w, g)

    def run(*given):
        return (call if mode == "eager" else tf.function(call, autograph=False, **MODES[mode]))(*given).numpy()

    upstream = np.zeros((24, 1), np.float32)
    upstream[0] = np.nan
    assert np.isnan(run(tf.ones((12, 1)), tf.constant(upstream))).reshape(-1).tolist() == [True] + [False] * 11
    shape, method = (6, 8), "torch_bicubic"
    taps, upstream = GRID.resizing(shape, method).axes, np.ones((2 + 48, 5), np.float32)
    upstream[2 + 8 * 5 + 7, 3] = np.inf  # of output (5, 7)
    got = run(tf.ones(GRID.weight_shape), tf.constant(upstream), GRID, shape, method)
    read = [[i for i, w in zip(t.index[o], t.weights[o], strict=True) if w] for t, o in zip(taps, (5, 7), strict=True)]
    touched = np.zeros(got.shape, bool)
    touched[[2 + 4 * i + j for i in read[0] for j in read[1]], 3] = True
    assert (np.isfinite(got) == ~touched).all()
    assert not touched.all()


def test_jacobians_and_forward_mode_of_resizing_and_of_scaled_rows():
    weights, tangent = random(GRID.weight_shape, "float64", 4), random(GRID.weight_shape, "float64", 5)
    scaled = Learned.patches((3, 4), 5, tokens=2)
    scaled = dataclasses.replace(scaled, output_scale=0.5)
    for call in (
        lambda w: resize(GRID, w, (5, 3), method="torch_bicubic"),
        lambda w: lookup(scaled, w, [[0, 13], [2, 2]]),
    ):
        with tf.GradientTape(persistent=True) as tape, tf.autodiff.ForwardAccumulator(weights, tangent) as forward:
            tape.watch(weights)
            y = call(weights)
        jacobian = tf.reshape(tape.jacobian(y, weights), [tf.size(y), -1])
        product = tf.reshape(tf.linalg.matvec(jacobian, tf.reshape(tangent, [-1])), y.shape)
        # linear: both are the function of the tangent; sums of 17 numbers below 8, in another order
        for got in (product, forward.jvp(y)):
            np.testing.assert_allclose(got, call(tangent), rtol=0, atol=17 * 8 * 2.0**-52)


def test_numpy_does_not_warn():
    halves = np.array([0x7C01, 0x0001, 0x7BFF, 0xFE00] * 15, np.uint16).view(np.float16).reshape(12, 5)
    halves = np.concatenate([halves, halves[:2]])
    tables = [halves, np.full(GRID.weight_shape, 3e38, np.float32), np.full(GRID.weight_shape, 1e-45, np.float32)]
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for table in tables:
            resize(GRID, table, (5, 7), method="torch_bicubic")
            lookup(dataclasses.replace(GRID, output_scale=0.3), table, range(14))
            lookup(dataclasses.replace(GRID, output_scale=2.0**20), table, range(14))
        layer = LearnedEncoding(GRID, dtype="float16")
        layer.table.assign(halves)
        layer(halves)


# --- The layer ---

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
POLICIES = dict(zip(["mixed_bfloat16", "mixed_float16", *DTYPES], [*DTYPES[2:], *DTYPES], strict=True))
over_policies = pytest.mark.parametrize("policy", POLICIES)


@over_policies
def test_a_layer_adds_rows_with_one_rounding(policy, tmp_path):
    layer = LearnedEncoding(ROBERTA, std=0.5, dtype=policy)
    assert [(w.name, w.shape, w.dtype) for w in layer.weights] == [("weights", (8, 4), layer.variable_dtype)]
    table = layer.table.numpy().astype(np.float64)
    assert (table[1] == 0).all()
    assert 0.2 < np.delete(table, 1, 0).std() < 0.9
    x = tf.cast(X, POLICIES[policy])
    for positions in (None, range(1, 6), [[0, -1, 2, 3, 4], [5, 4, 3, 2, 1]], [3]):
        own = np.arange(5) if positions is None else np.array(positions)
        terms = zip(x.numpy().astype(float).flat, np.broadcast_to(table[own + 2], X.shape).flat, strict=True)
        expected = [exact.round_to(Fraction(a) + Fraction(b), POLICIES[policy]) for a, b in terms]
        kind = KINDS.get(POLICIES[policy], POLICIES[policy])
        check_bits(layer(X, positions), np.array(expected).reshape(X.shape).astype(kind))
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    pickled = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    for again in (keras.saving.load_model(tmp_path / "model.keras"), copy.deepcopy(model), pickled):
        check_bits(again(X[:, :3]), layer(X[:, :3]))
    config = layer.get_config()
    assert (config["spec"], config["std"]) == (to_json(ROBERTA), 0.5)
    fresh = keras.Model.from_config(model.get_config())
    fresh.load_weights(tmp_path / "model.weights.h5")
    check_bits(fresh(X), layer(X))
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    check_bits(loaded.serve(X[:1, :4]), tf.function(layer)(X[:1, :4]))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_layer_trains_but_for_its_frozen_row(jit_compile):
    inputs, positions = keras.Input((5, 4)), keras.Input((5,), dtype="int32")
    layer = LearnedEncoding(ROBERTA)
    model = keras.Model([inputs, positions], layer(inputs, positions))
    model.compile(keras.optimizers.SGD(20.0), "mse", jit_compile=jit_compile)
    before, own = layer.table.numpy(), np.array([[0, 1, 2, -1, -1], [0, 0, 1, 5, 2]])
    model.fit([X, own], np.zeros_like(X), batch_size=2, verbose=0)
    expected = before.astype(np.float64)
    np.subtract.at(expected, own + 2, 20 * 2 / X.size * (X + before[own + 2].astype(np.float64)))
    expected[1] = 0
    # six roundings at most of numbers below 16
    np.testing.assert_allclose(layer.table.numpy(), expected, rtol=0, atol=6 * 2.0**-20)
    assert (layer.table.numpy()[[0, 5, 6]] == before[[0, 5, 6]]).all()


def test_masks_pass_through_and_mistakes_are_refused():
    tokens = keras.layers.Embedding(9, 4, mask_zero=True)(np.array([[3, 0, 1]]))
    assert LearnedEncoding(OPT)(tokens)._keras_mask.numpy().tolist() == [[True, False, True]]
    layer = LearnedEncoding(OPT)
    for message, call in {
        r"LearnedEncoding\.x: expected shape \(\.\.\., 4\), received \(2, 5, 3\)": lambda: layer(X[..., :3]),
        r"LearnedEncoding\.x: expected shape \(\.\.\., 4\), received \(None, 5, 3\)": lambda: layer(
            keras.Input((5, 3))
        ),
        r"LearnedEncoding\.x: expected float64, .*, received int32": lambda: layer(tf.zeros([2, 5, 4], tf.int32)),
        r"LearnedEncoding\.positions: .* broadcasts to \(2, 5\), received \(4,\)": lambda: layer(X, range(4)),
        r"lookup\.positions: expected integers, received float32": lambda: layer(X, np.zeros(5, np.float32)),
        r"LearnedEncoding\.positions: expected a position for each of 5 tokens, received one for all": lambda: layer(
            X, 3
        ),
        r"LearnedEncoding\.positions: .* each of 5 tokens, received one": lambda: layer(X, tf.constant(3)),
        r"lookup\.positions: expected integers, received float": lambda: layer(X, [0.5]),
        r"LearnedEncoding\.spec: expected a specification of a learned table": lambda: LearnedEncoding(7),
        r"LearnedEncoding\.std: expected a finite number >= 0, received -1": lambda: LearnedEncoding(OPT, std=-1),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_subnormal_x_does_not_hide_the_gradient():
    layer = LearnedEncoding(Learned(1, 1), std=0.0)
    with tf.GradientTape() as tape:
        y = layer(tf.constant([[2.0**-149]]))
    check_bits(y, np.float32([[2.0**-149]]))
    check_bits(tape.gradient(y, layer.table.value), np.float32([[1]]))


class Mixed(keras.DTypePolicy):
    """Any compute dtype with any dtype of variables."""

    def _parse_name(self, name):
        return tuple(name.split("_with_"))


HARD = {
    ("float32", "float64"): [(1.0, 2.0**-24 + 2.0**-60), (1.0, -(2.0**-25) - 2.0**-70), (2.0**-149, 2.0**-150)],
    ("bfloat16", "float32"): [(1.0, 2.0**-8 + 2.0**-31), (2.0**-60, 1 + 2.0**-8), (-(2.0**-60), 1 + 2.0**-8)],
    ("bfloat16", "float64"): [(1.0, 2.0**-8 + 2.0**-60), (2.0**-100, 1 + 2.0**-8)],
    ("float16", "float64"): [(1.0, 2.0**-11 + 2.0**-60), (1.0, 2.0**-11 - 2.0**-60)],
    ("float16", "float32"): [(1.0, 2.0**-11 + 2.0**-34), (2.0**-24, 1 + 2.0**-11), (65504.0, 16.0 - 2.0**-19)],
    ("float64", "bfloat16"): [(1.0, 2.0**-60)],
    ("float32", "float16"): [(1.0, 2.0**-24), (1 + 2.0**-23, 2.0**-24)],
    ("float16", "bfloat16"): [(1.0, 2.0**-11 + 2.0**-18), (2.0**-24, 1 + 2.0**-7)],
    ("bfloat16", "float16"): [(1.0, 2.0**-8 + 2.0**-18), (2.0**-100, 2.0**-14)],
}


@pytest.mark.parametrize("mode", ["eager", *MODES])
@pytest.mark.parametrize(("compute", "variable"), HARD)
def test_a_sum_is_rounded_once_whatever_the_dtypes(mode, compute, variable):
    pairs = HARD[compute, variable]
    if mode != "eager":  # where subnormal numbers are taken for zero
        pairs = [pair for pair in pairs if min(map(abs, pair)) >= 2.0**-126]
    spec = Learned(len(pairs), 1)
    layer = LearnedEncoding(spec, dtype=Mixed(f"{compute}_with_{variable}"))
    x, w = (
        tf.constant(np.array(numbers)[:, None].astype(KINDS.get(dtype, dtype)))
        for numbers, dtype in zip(zip(*pairs, strict=True), (compute, variable), strict=True)
    )
    layer.table.assign(w)

    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, *tape.gradient(y, [x, layer.table.value])

    y, *gradients = call(x) if mode == "eager" else tf.function(call, autograph=False, **MODES[mode])(x)
    truth = [[exact.round_to(Fraction(a) + Fraction(b), compute)] for a, b in pairs]
    check_bits(y, np.array(truth).astype(KINDS.get(compute, compute)))
    for gradient, dtype in zip(gradients, (compute, variable), strict=True):
        check_bits(gradient, np.ones((len(pairs), 1)).astype(KINDS.get(dtype, dtype)))


def test_a_sum_on_the_host_has_subnormal_numbers():
    layer = LearnedEncoding(Learned(2, 1))
    layer.table.assign([[2.0**-149], [2.0**-140]])
    check_bits(layer(tf.constant([[2.0**-149], [0.0]])), np.float32([[2.0**-148], [2.0**-140]]))


@over_modes
def test_positions_that_are_known_in_a_graph_are_checked(mode):
    layer = LearnedEncoding(Learned(5, 4))
    x = tf.zeros([2, 6, 4])

    def at(positions):  # of an argument, default or not, tf.function makes a tensor
        return lambda x: layer(x, positions)

    for positions in (None, range(6), [0, 1, 2, 3, 4, 5], np.arange(6), np.array([[0, 5, -1, 0, 0, 0]])):
        with pytest.raises(ValueError, match=r"lookup\.positions: expected integers from 0 to 4, received 5"):
            tf.function(at(positions), autograph=False, **MODES[mode])(x)
    with pytest.raises(ValueError, match=r"^lookup\.positions: expected integers from 0 to 4, received 5$"):
        traced(mode, lambda w: lookup(layer.spec, w, np.array([4, 5])), tf.TensorSpec((5, 4))).get_concrete_function()
    f = traced(mode, layer, tf.TensorSpec([2, None, 4]))
    assert np.isnan(f(x)).any(-1).tolist() == [[False] * 5 + [True]] * 2


def test_a_symbolic_input_longer_than_the_table_is_refused_when_it_is_built(tmp_path):
    layer, x = LearnedEncoding(Learned(64, 32)), keras.Input((70, 32))
    for positions in (None, range(70), np.arange(70)):
        with pytest.raises(ValueError, match=r"lookup\.positions: expected integers from 0 to 63, received 64"):
            layer(x, positions)
    for message, positions in {
        r"LearnedEncoding\.positions: expected a position for each of 70 tokens, received one for all": 5,
        r"LearnedEncoding\.positions: .* broadcasts to \(None, 70\), received \(None, 69\)": keras.Input((69,)),
    }.items():
        with pytest.raises(ValueError, match=message):
            layer(x, positions)
    assert layer(keras.Input((None, 32))).shape == (None, None, 32)
    assert layer(keras.Input((64, 32))).shape == (None, 64, 32)
    inputs = keras.Input((3, 32))
    model = keras.Model(inputs, layer(inputs, np.array([63, 0, 5])))
    model.save(tmp_path / "model.keras")
    given = np.ones((1, 3, 32), np.float32)
    check_bits(keras.saving.load_model(tmp_path / "model.keras")(given), layer(given, [63, 0, 5]))
