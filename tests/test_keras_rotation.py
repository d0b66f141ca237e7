"""The Keras layer of rotary embeddings: policies, positions, masks, configurations, saving, exporting and training."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from posenc import Rope, Yarn, to_json
from posenc.tf_impl import rotate, table
from posenc.tf_impl.layers import RotaryEmbedding

SPEC = Rope(8, 10000.0, "interleaved", rotary_dim=6, scaling=Yarn(4.0, original_length=64))
POLICIES = {
    "float32": "float32",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
    "float64": "float64",
    "bfloat16": "bfloat16",
}
Q = np.random.default_rng(0).normal(size=(2, 4, 5, 8)).astype(np.float32)
K = np.random.default_rng(1).normal(size=(2, 2, 5, 8)).astype(np.float32)
ROWS = np.array([[0, 0, 1, 2, 3], [70001, 70002, 70003, 70004, 70005]])
over_policies = pytest.mark.parametrize("policy", POLICIES)


def check_bits(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if not (a.numpy() == b.numpy()).all():
            raise AssertionError(f"expected the bits of {b}, got {a}")


def rotated(policy, positions, q=Q, k=K):
    """What the layer is to return: both turned by one table, in the policy's compute dtype."""
    dtype = POLICIES[policy]
    t = table(SPEC, positions, dtype="float64" if dtype == "float64" else "float32")
    return [rotate(SPEC, tf.cast(x, dtype), t, head_axis=1) for x in (q, k)]


def model_of(policy):
    inputs = keras.Input((4, None, 8)), keras.Input((2, None, 8)), keras.Input((None,), dtype="int32")
    return keras.Model(inputs, RotaryEmbedding(SPEC, head_axis=1, dtype=policy)(*inputs))


def test_the_checker_sees_one_unit():
    one = tf.constant([1.0])
    with pytest.raises(AssertionError, match="expected the bits"):
        check_bits([one], [one + 2.0**-23])


@over_policies
def test_a_layer_is_one_table_and_two_rotations(policy):
    layer = RotaryEmbedding(SPEC, head_axis=1, dtype=policy)
    for given in (ROWS, tf.constant(ROWS), range(7, 12), np.arange(7, 12), [7, 8, 9, 10, 11], ROWS.tolist()):
        check_bits(layer(Q, K, given), rotated(policy, given))
        check_bits(layer(Q, k=K, positions=given), rotated(policy, given))
    # float positions keep their own dtype: as bfloat16, 1,000.25 would be refused, and cast it would be 1,000
    fractions = np.linspace(1000.25, 1004.75, 5, dtype=np.float32)
    for given in (fractions, tf.constant(fractions)):
        check_bits(layer(Q, K, given), rotated(policy, fractions))
    assert not layer.weights


def test_what_rotate_and_table_refuse_is_refused():
    layer, symbols = RotaryEmbedding(SPEC, head_axis=1), [keras.Input(x.shape[1:], 2) for x in (Q, K)]
    for message, call in {
        r"rotate\.x: expected float64, .*, received int32": lambda: layer(tf.zeros([2, 4, 5, 8], tf.int32), K, ROWS),
        r"table\.positions: expected integers, .*, received float16": lambda: layer(Q, K, tf.zeros([5], tf.float16)),
        r"rotate\.x: expected shape \(\.\.\., 8\), received \(2, 2, 5, 6\)": lambda: layer(Q, K[..., :6], ROWS),
        r"rotate\.x: expected shape \(\.\.\., 8\), received \(2, 4, 5, 6\)": lambda: layer(
            keras.Input((4, 5, 6), 2), symbols[1], ROWS
        ),
        r"rotate\.table: expected position axes .*, received \(4,\)": lambda: layer(Q, K, range(4)),
        r"rotate\.table: expected position axes .*, received \(2, 6\)": lambda: layer(*symbols, np.zeros((2, 6), int)),
        r"rotate\.head_axis: expected None or": lambda: RotaryEmbedding(SPEC, head_axis=3)(*symbols, ROWS),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@over_policies
def test_a_layer_survives_its_configuration_copies_and_pickles(policy):
    layer = RotaryEmbedding(SPEC, head_axis=1, dtype=policy, name="rope")
    config = layer.get_config()
    assert (config["spec"], config["head_axis"]) == (to_json(SPEC), 1)
    for again in (
        RotaryEmbedding.from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)),
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),  # noqa: S301 - our own bytes
    ):
        assert (again.spec, again.head_axis, again.name, again.dtype_policy.name) == (SPEC, 1, "rope", policy)
        check_bits(again(Q, K, ROWS), rotated(policy, ROWS))
    assert keras.saving.get_registered_name(RotaryEmbedding) == "posenc>RotaryEmbedding"


@over_policies
def test_shapes_are_known_before_values(policy):
    model = model_of(policy)
    shapes = [(None, 4, None, 8), (None, 2, None, 8)]
    assert [(x.shape, x.dtype) for x in model.outputs] == [(shape, POLICIES[policy]) for shape in shapes]
    layer = RotaryEmbedding(SPEC, head_axis=-2)
    assert layer.compute_output_shape((3, None, 4, None), (3, 7, 2, 8), (None,)) == ((3, None, 4, 8), (3, 7, 2, 8))
    check_bits(model([Q, K, ROWS]), rotated(policy, ROWS))


def test_masks_pass_through_each_from_its_own_tensor():
    ids = [np.array([[4, 0, 7], [1, 2, 0]]), np.array([[5, 5, 0], [0, 0, 3]])]
    embeddings = [keras.layers.Embedding(10, 8, mask_zero=True) for _ in ids]
    pooling = keras.layers.GlobalAveragePooling1D()  # leaves masked tokens out only if it is handed the mask

    def network(*tokens):
        turned = RotaryEmbedding(SPEC, head_axis=None)(
            *(embed(t) for embed, t in zip(embeddings, tokens, strict=True)), np.arange(3)
        )
        return [*turned, *(pooling(x) for x in turned)]

    tokens = [keras.Input((None,), dtype="int32") for _ in ids]
    for *values, first, second in (keras.Model(tokens, network(*tokens))(ids), network(*ids)):
        for value, mean, own in zip(values, (first, second), ids, strict=True):
            expected = [value.numpy()[row][own[row] != 0].mean(0) for row in range(2)]
            np.testing.assert_allclose(mean, expected, rtol=2.0**-20, atol=2.0**-20)
            assert not np.allclose(mean, value.numpy().mean(1), atol=0.001)


@over_policies
def test_saved_models_give_the_same_bits(policy, tmp_path):
    model_of(policy).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for length in (5, 3):
        parts = Q[:, :, :length], K[:, :, :length]
        check_bits(loaded([*parts, ROWS[:, :length]]), rotated(policy, ROWS[:, :length], *parts))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_exported_models_serve_every_batch_and_length(policy, tmp_path):
    model, dtype = model_of(policy), POLICIES[policy]
    model.export(tmp_path / "exported", verbose=False)
    serve = tf.saved_model.load(tmp_path / "exported").serve
    signature = [tf.TensorSpec([None] * 4), tf.TensorSpec([None] * 4), tf.TensorSpec([None, None], tf.int32)]

    @tf.function(input_signature=signature, autograph=False)
    def in_a_graph(q, k, positions):
        t = table(SPEC, positions)
        return [rotate(SPEC, tf.cast(x, dtype), t, head_axis=1) for x in (q, k)]

    for batch, length in ((2, 5), (1, 3)):
        inputs = Q[:batch, :, :length], K[:batch, :, :length], ROWS[:batch, :length].astype(np.int32)
        check_bits(serve(tuple(map(tf.constant, inputs))), in_a_graph(*inputs))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_sees_through_the_layer(jit_compile):
    inputs, positions = keras.Input((None, 8)), keras.Input((None,), dtype="int32")
    dense = keras.layers.Dense(8, use_bias=False, kernel_initializer="identity")
    q, k = RotaryEmbedding(SPEC, head_axis=None)(dense(inputs), inputs, positions)
    model = keras.Model([inputs, positions], q - k)  # zero, while the kernel is the identity
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    x, target = Q[:, 0], K[:, 0]
    model.fit([x, ROWS], target, batch_size=2, verbose=0)
    # the gradient of the mean square is -2 X^T (the target turned back) / X.size: the rotation's transpose
    back = np.zeros_like(target, np.float64)
    for channel in range(8):
        one = np.zeros_like(target)
        one[..., channel] = 1
        turned = rotate(SPEC, one, table(SPEC, ROWS), head_axis=None).numpy().astype(np.float64)
        back[..., channel] = (turned * target).sum(-1)
    expected = np.eye(8) + 2 * x.reshape(-1, 8).T.astype(np.float64) @ back.reshape(-1, 8) / x.size
    # ten products of numbers below 16, in float32
    np.testing.assert_allclose(dense.kernel, expected, rtol=0, atol=2.0**-19)
    assert np.abs(expected - np.eye(8)).max() > 0.01
