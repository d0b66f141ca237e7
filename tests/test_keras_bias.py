"""Biases in Keras: RelativeBias, attention that takes them, and both equal to the plain computation."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from posenc import Alibi, SwinIndex, T5Bias, to_json
from posenc.tf_impl import bias
from posenc.tf_impl.attention import BiasedMultiHeadAttention
from posenc.tf_impl.layers import RelativeBias

T5 = T5Bias(4, bidirectional=True)
SPECS = {"alibi": Alibi.causal(4), "t5": T5}
MODES = {"function": {}, "xla": {"jit_compile": True}}
over_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
over_modes = pytest.mark.parametrize("mode", ["eager", *MODES])
BATCH, QUERIES, KEYS, HEADS, WIDTH = 2, 5, 7, 4, 8
RNG = np.random.default_rng(0)
Q, K, V = (RNG.normal(size=(BATCH, n, HEADS, WIDTH)).astype(np.float32) for n in (QUERIES, KEYS, KEYS))
ROWS = np.array([[2, 3, 4, 5, 6], [300, 301, 302, 303, 304]]), np.arange(KEYS) + np.array([[0], [297]])
VALUES = RNG.normal(size=400).astype(np.float32)
PADDING = np.array([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]], bool)
CAUSAL = ROWS[1][:, None, :] <= ROWS[0][:, :, None]
MASKS = {
    "no mask": None,
    "causal": CAUSAL[:, None],
    "padding": np.broadcast_to(PADDING[:, None, None], (BATCH, 1, QUERIES, KEYS)),
    "both": CAUSAL[:, None] & PADDING[:, None, None],
}
# products of 8 and 7 numbers, a softmax and a sum, in float32, of numbers below 8
CLOSE = {"rtol": 0, "atol": 64 * 2.0**-23}


def run(mode, call):
    return call if mode == "eager" else tf.function(call, autograph=False, **MODES[mode])


def made(spec, *places):
    weights = None
    if spec.weight_shape is not None:
        weights = VALUES[: spec.weight_shape[0] * spec.weight_shape[1]].reshape(spec.weight_shape)
    return bias(spec, *places, weights=weights)


def plain(q, k, v, biases, mask):
    """softmax(q k^T / sqrt(d) + bias + mask) v, in float64; all of a row masked: not asked."""
    scores = np.einsum("bqhd,bkhd->bhqk", q, k, dtype=np.float64) / np.sqrt(q.shape[-1]) + np.asarray(
        biases, np.float64
    )
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", e / e.sum(-1, keepdims=True), v.astype(np.float64))


def check_close(got, expected):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), **CLOSE)


def test_the_checker_sees_a_bias_of_the_wrong_sign_a_missing_one_and_a_missing_mask():
    right = made(T5, *ROWS)
    expected = plain(Q, K, V, right, MASKS["both"])
    for wrong, mask in ((-right, "both"), (0 * right, "both"), (right[::-1], "both"), (right, "causal")):
        with pytest.raises(AssertionError):
            check_close(plain(Q, K, V, wrong, MASKS[mask]), expected)


@over_modes
@over_specs
@pytest.mark.parametrize("mask", MASKS)
def test_dot_product_attention_takes_the_bias(mode, spec, mask):
    def call(q, k, v, query, key):
        return keras.ops.dot_product_attention(q, k, v, bias=made(spec, query, key), mask=MASKS[mask])

    got = run(mode, call)(Q, K, V, *map(tf.constant, ROWS))
    check_close(got, plain(Q, K, V, made(spec, *ROWS), MASKS[mask]))


def attention(**options):
    layer = BiasedMultiHeadAttention(HEADS, WIDTH, **options)
    layer.build((BATCH, QUERIES, 6), (BATCH, KEYS, 6))
    return layer


X, Y = (RNG.normal(size=(BATCH, n, 6)).astype(np.float32) for n in (QUERIES, KEYS))


def projected(layer, query, value, biases, mask):
    """The layer's projections around the plain computation."""
    q, k, v = layer.query_dense(query).numpy(), layer.key_dense(value).numpy(), layer.value_dense(value).numpy()
    inner = plain(q, k, v, biases, mask)
    return np.einsum("bqhd,hde->bqe", inner, layer.output_dense.kernel.numpy()) + layer.output_dense.bias.numpy()


@over_modes
@over_specs
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scores", [False, True], ids=["fused", "scores"])
def test_the_layer_is_the_plain_computation(mode, spec, mask, scores):
    layer, biases = attention(), made(spec, *ROWS)
    given = None if MASKS[mask] is None else np.broadcast_to(MASKS[mask][:, 0], (BATCH, QUERIES, KEYS))

    def call(x, y, b):
        return layer(x, y, attention_mask=given, return_attention_scores=scores, bias=b)

    result = run(mode, call)(X, Y, biases)
    check_close(result[0] if scores else result, projected(layer, X, Y, biases, MASKS[mask]))
    shared = made(spec, range(QUERIES), range(KEYS))
    result = run(mode, call)(X, Y, shared)
    check_close(result[0] if scores else result, projected(layer, X, Y, shared[None], MASKS[mask]))
    if scores:
        check_close(np.sum(result[1], -1), np.ones((BATCH, HEADS, QUERIES)))


@over_modes
def test_causal_and_padding_masks_of_keras(mode):
    layer, biases = attention(), made(T5, range(KEYS), range(KEYS))
    causal = np.tril(np.ones((KEYS, KEYS), bool))

    def call(y, mask, b):
        return layer(y, y, value_mask=mask, use_causal_mask=True, bias=b)

    seen = causal & np.array([[1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0, 1]], bool)[:, None, None]
    check_close(run(mode, call)(Y, seen[:, 0, -1], biases), projected(layer, Y, Y, biases[None], seen))
    only = run(mode, lambda y, b: layer(y, y, use_causal_mask=True, bias=b))(Y, biases)
    check_close(only, projected(layer, Y, Y, biases[None], causal))


def test_without_a_bias_the_layer_is_its_parent():
    layer, parent = attention(), keras.layers.MultiHeadAttention(HEADS, WIDTH)
    parent.build((BATCH, QUERIES, 6), (BATCH, KEYS, 6))
    parent.set_weights(layer.get_weights())
    assert layer.get_config().keys() == parent.get_config().keys()
    for options in ({}, {"use_causal_mask": True}, {"attention_mask": CAUSAL}, {"return_attention_scores": True}):
        for got, expected in zip(
            tf.nest.flatten(layer(X, Y, **options)), tf.nest.flatten(parent(X, Y, **options)), strict=True
        ):
            assert (got == expected).numpy().all()
        zero = layer(X, Y, bias=tf.zeros((HEADS, QUERIES, KEYS)), **options)
        for got, expected in zip(tf.nest.flatten(zero), tf.nest.flatten(parent(X, Y, **options)), strict=True):
            check_close(got, expected)


def test_dropout_gates_and_other_axes_take_the_bias():
    biases = made(T5, *ROWS)
    layer = attention(dropout=0.5, seed=1)
    check_close(layer(X, Y, bias=biases), projected(layer, X, Y, biases, None))  # no dropout but in training
    dropped, scores = layer(X, Y, bias=biases, training=True, return_attention_scores=True)
    assert np.abs(dropped - layer(X, Y, bias=biases)).max() > 0.01
    check_close(np.sum(scores, -1), np.ones((BATCH, HEADS, QUERIES)))
    grid = BiasedMultiHeadAttention(HEADS, WIDTH, attention_axes=(1, 2))
    tokens = RNG.normal(size=(BATCH, 2, 3, 6)).astype(np.float32)
    swin = SwinIndex(HEADS, (2, 3))
    window = made(swin, swin.positions(), swin.positions())
    got = grid(tokens, tokens, bias=tf.reshape(window, (HEADS, 2, 3, 2, 3)))
    flat = tokens.reshape(BATCH, 6, 6)
    line = attention()
    line.set_weights(grid.get_weights())
    check_close(tf.reshape(got, flat.shape), line(flat, flat, bias=window))


def test_a_bias_that_would_be_spread_is_refused():
    layer = attention()
    for shape in ((5, 7), (1, 5, 7), (HEADS, 1, 7), (HEADS, 5, 1), (3, HEADS, 5, 7)):
        message = r"BiasedMultiHeadAttention\.bias: expected shape \(2, 4, 5, 7\), or the same without the first axis, "
        with pytest.raises(ValueError, match=message):
            layer(X, Y, bias=tf.zeros(shape))
        symbols = [keras.Input(x.shape[1:], 2) for x in (X, Y)]
        with pytest.raises(ValueError, match=message):
            layer(*symbols, bias=keras.Input(shape[1:], shape[0]))


def test_a_bias_in_place_of_a_mask_and_what_is_no_bias_are_refused():
    layer, biases = attention(), made(T5, range(QUERIES), range(KEYS))
    mask = np.ones((BATCH, QUERIES, KEYS))
    message = (
        r"BiasedMultiHeadAttention\.attention_mask: expected a boolean or integer mask, received float32: "
        r"a bias is given as bias"
    )
    for options in ({}, {"bias": biases}):
        for wrong in (mask.astype(np.float32), tf.ones(mask.shape)):
            with pytest.raises(ValueError, match=message):
                layer(X, Y, attention_mask=wrong, **options)
        for right in (mask.astype(bool), mask.astype(int), mask.astype(np.uint8), mask.astype(bool).tolist()):
            check_close(layer(X, Y, attention_mask=right, **options), layer(X, Y, **options))
    with pytest.raises(ValueError, match=message.replace("float32", "float64")):
        layer(X, Y, attention_mask=mask.tolist())
    symbols = [keras.Input(x.shape[1:], BATCH) for x in (X, Y)]
    with pytest.raises(ValueError, match=message):
        layer(*symbols, attention_mask=keras.Input(mask.shape[1:], BATCH))
    for wrong in (biases.numpy().tolist(), [biases]):
        for places in ((X, Y), symbols):
            with pytest.raises(
                ValueError, match=r"BiasedMultiHeadAttention\.bias: expected an array of the framework, received list"
            ):
                layer(*places, bias=wrong)
    assert (
        layer(*symbols, attention_mask=keras.Input(mask.shape[1:], BATCH, dtype="bool"), bias=biases).shape == X.shape
    )


# --- RelativeBias ---


def model_of(spec, policy="float32", masked=False):
    inputs, positions = keras.Input((None, 6)), keras.Input((None,), dtype="int32")
    x = keras.layers.Masking()(inputs) if masked else inputs
    layer = RelativeBias(spec, std=0.5, name="relative", dtype=policy)
    attend = BiasedMultiHeadAttention(HEADS, WIDTH, name="attend", dtype=policy)
    output = attend(x, x, bias=layer(positions, positions), use_causal_mask=True)
    return keras.Model([inputs, positions], output)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "float64", "bfloat16"])
def test_a_layer_is_bias_in_the_compute_dtype(policy):
    for spec in (*SPECS.values(), SwinIndex(2, (2, 2))):
        layer = RelativeBias(spec, std=0.5, dtype=policy)
        places = ROWS if not isinstance(spec, SwinIndex) else (spec.positions(),) * 2
        table = layer.table
        for dtype in (None, "float32", tf.float16):
            chosen = layer.compute_dtype if dtype is None else dtype
            weights = None if table is None else table.value
            expected = bias(spec, *places, weights=weights, dtype=chosen)
            got = layer(*places) if dtype is None else layer(*places, dtype=dtype)
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert (got == expected).numpy().all()
        if table is None:
            assert not layer.weights
        else:
            assert [(w.name, w.shape) for w in layer.weights] == [("weights", spec.weight_shape)]
            assert 0.2 < np.std(np.asarray(table, np.float64)) < 0.9
        config = layer.get_config()
        assert (config["spec"], config["std"]) == (to_json(spec), 0.5)
        assert RelativeBias.from_config(config).spec == spec
    with pytest.raises(ValueError, match=r"RelativeBias\.spec: expected a specification of a bias"):
        RelativeBias(4)
    with pytest.raises(ValueError, match=r"RelativeBias\.std: expected a finite number >= 0, received nan"):
        RelativeBias(T5, std=np.nan)


def test_shapes_are_known_before_values():
    layer = RelativeBias(T5, dtype="mixed_bfloat16")
    got = layer(keras.Input((None,), 3, dtype="int32"), range(9))
    assert (got.shape, got.dtype) == ((3, 4, None, 9), "bfloat16")
    assert layer.compute_output_shape((5,), (2, 7)) == (2, 4, 5, 7)
    for places in ((keras.Input((5,), 3), keras.Input((5,), 2)), (np.zeros((3, 5), int), np.zeros((2, 5), int))):
        with pytest.raises(ValueError, match=r"bias\.key_positions: expected leading axes \(3,\), as the query"):
            layer(*places)
    window = RelativeBias(SwinIndex(2, (2, 2)))
    assert window(keras.Input((4, 2), dtype="int32"), keras.Input((4, 2), dtype="int32")).shape == (None, 2, 4, 4)
    with pytest.raises(ValueError, match=r"bias\.query_positions: expected shape \(\.\.\., length, 2\), received"):
        window(keras.Input((4,), dtype="int32"), keras.Input((4, 2), dtype="int32"))


def test_positions_of_no_axis_are_refused_and_known_ones_checked_in_a_graph():
    layer, window = RelativeBias(T5), RelativeBias(SwinIndex(2, (2, 2)))
    for scalar in (tf.constant(3), tf.Variable(3), np.array(3), 3):
        with pytest.raises(
            ValueError, match=r"bias\.query_positions: expected shape \(\.\.\., length\), received \(\)"
        ):
            layer(scalar, [0])
    for outside in ([(0, 0), (0, 2)], np.array([(0, 0), (0, 2)])):
        with pytest.raises(ValueError, match=r"bias\.key_positions: expected distances .* on axis 1, received 2"):
            tf.function(functools.partial(window, [(0, 0)], outside), autograph=False)()


PLACES = np.arange(KEYS) + np.array([[0], [70_000]])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_models_survive_saving_copies_pickles_and_exports(policy, tmp_path):
    model = model_of(T5, policy, masked=True)
    data = Y * PADDING[..., None]
    expected = model([data, PLACES])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.Model.from_config(model.get_config())
    assert np.abs(np.float32(fresh([data, PLACES]) - expected)).max() > 0.01
    fresh.load_weights(tmp_path / "model.weights.h5")
    pickled = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    for again in (keras.saving.load_model(tmp_path / "model.keras"), fresh, copy.deepcopy(model), pickled):
        assert (again([data, PLACES]) == expected).numpy().all()
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    for batch, length in ((2, KEYS), (1, 3)):
        part = data[:batch, :length], PLACES[:batch, :length].astype(np.int32)
        got, own = np.float32(loaded.serve(list(map(tf.constant, part)))), np.float32(model([*part]))
        # a hundred roundings of numbers below 4, in a graph and one by one
        np.testing.assert_allclose(got, own, rtol=0, atol=4 * 100 * 2.0 ** (-24 if policy == "float32" else -11))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_moves_the_weights_along_their_gradient(jit_compile):
    model = model_of(T5)
    table, start = model.get_layer("relative").table, model.get_layer("relative").table.numpy().astype(np.float64)
    attend = model.get_layer("attend")
    q, k, v = (dense(Y).numpy() for dense in (attend.query_dense, attend.key_dense, attend.value_dense))
    kernel, offset = attend.output_dense.kernel.numpy(), attend.output_dense.bias.numpy()
    causal = np.tril(np.ones((KEYS, KEYS), bool))

    def loss(weights):
        # exact in float64: the buckets are those of the plan, looked up by hand
        buckets = [[[T5.plan().number([i], [j]) for j in row] for i in row] for row in PLACES.tolist()]
        inner = plain(q, k, v, np.moveaxis(weights[np.array(buckets)], -1, 1), causal)
        return np.mean((np.einsum("bqhd,hde->bqe", inner, kernel) + offset) ** 2)

    gradient = np.zeros_like(start)
    for entry in np.ndindex(start.shape):
        step = np.zeros_like(start)
        step[entry] = 2.0**-10
        gradient[entry] = (loss(start + step) - loss(start - step)) / 2.0**-9
    model.compile(keras.optimizers.SGD(64.0), "mse", jit_compile=jit_compile)
    model.fit([Y, PLACES], np.zeros_like(Y), batch_size=2, verbose=0)
    moved = (start - table.numpy()) / 64
    # central differences are off by 2^-20 third derivatives, and the gradient comes from some hundred float32 numbers
    np.testing.assert_allclose(moved, gradient, rtol=0, atol=2.0**-16 * np.abs(gradient).max() + 2.0**-26)
    assert (gradient[: T5.buckets // 2].any(1) == (np.arange(16) < KEYS)).all()
