"""The Keras layer: policies, positions, masks, configurations, saving, exporting, training and TFLite."""

import importlib
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from posenc import Sinusoidal, to_json
from posenc.tf_impl import add, encode
from posenc.tf_impl.layers import SinusoidalEncoding

SPEC = Sinusoidal.fairseq(16)
POLICIES = {
    "float32": "float32",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
    "float64": "float64",
    "bfloat16": "bfloat16",
}
X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
over_policies = pytest.mark.parametrize("policy", POLICIES)


def check_bits(got, expected):
    assert got.dtype == expected.dtype
    assert tf.convert_to_tensor(got).shape == expected.shape
    if not (got.numpy() == expected.numpy()).all():
        raise AssertionError(f"expected the bits of {expected}, got {got}")


def model_of(policy):
    inputs = keras.Input((None, 16))
    return keras.Model(inputs, SinusoidalEncoding(SPEC, dtype=policy)(inputs))


def test_the_checker_sees_one_unit():
    one = tf.constant([1.0])
    with pytest.raises(AssertionError, match="expected the bits"):
        check_bits(one, one + 2.0**-23)


@over_policies
def test_a_layer_is_add_in_the_compute_dtype(policy):
    layer = SinusoidalEncoding(SPEC, dtype=policy)
    x = tf.cast(X, POLICIES[policy])
    check_bits(layer(X), add(SPEC, x))
    # float positions keep their own dtype: as bfloat16, 1,000.25 would be refused, and cast it would be 1,000
    positions = np.linspace(1000.25, 1004.75, 5, dtype=np.float32)
    for given in (positions, tf.constant(positions), positions.tolist()):
        check_bits(layer(X, given), add(SPEC, x, positions))
    for given in (range(7, 12), np.arange(7, 12), tf.range(7, 12)):
        check_bits(layer(X, given), add(SPEC, x, range(7, 12)))
        check_bits(layer(X, positions=given), add(SPEC, x, range(7, 12)))
    assert not layer.weights


def test_what_add_refuses_is_refused():
    layer = SinusoidalEncoding(SPEC)
    with pytest.raises(ValueError, match="expected float64, float32, bfloat16 or float16, received int32"):
        layer(tf.zeros([2, 5, 16], tf.int32))
    with pytest.raises(ValueError, match="expected integers, float32 or float64, received float16, which holds"):
        layer(X, tf.zeros([5], tf.float16))
    for x in (keras.Input((5, 8)), X[..., :8]):
        with pytest.raises(ValueError, match=r"add\.x: expected shape \(\.\.\., 16\), received \("):
            layer(x)
    with pytest.raises(ValueError, match=r"SinusoidalEncoding\.spec: expected a specification such as Sinusoidal"):
        SinusoidalEncoding(16)


@over_policies
def test_configurations_carry_the_canonical_text(policy):
    layer = SinusoidalEncoding(SPEC, dtype=policy, name="positions")
    config = layer.get_config()
    assert config["spec"] == to_json(SPEC)
    for again in (
        SinusoidalEncoding.from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)),
    ):
        assert (again.spec, again.name, again.dtype_policy.name) == (SPEC, "positions", policy)
    assert keras.saving.get_registered_name(SinusoidalEncoding) == "posenc>SinusoidalEncoding"


@over_policies
def test_shapes_are_known_before_values(policy):
    layer = SinusoidalEncoding(SPEC, dtype=policy)
    result = layer(keras.Input((None, 16)), keras.Input((None,), dtype="int32"))
    assert (result.shape, result.dtype) == ((None, None, 16), POLICIES[policy])
    assert layer.compute_output_shape((3, None, 16)) == (3, None, 16)
    assert layer.compute_output_shape((3, 7, None)) == (3, 7, 16)


def test_a_mask_passes_through():
    tokens, positions = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(10, 16, mask_zero=True)(tokens)
    pooled = keras.layers.GlobalAveragePooling1D()
    ids = np.array([[4, 0, 7], [1, 2, 0]])
    for inputs, call in (([tokens], (embedded,)), ([tokens, positions], (embedded, positions))):
        encoded = SinusoidalEncoding(SPEC)(*call)
        model = keras.Model(inputs, [encoded, pooled(encoded)])
        values, means = model([ids, np.broadcast_to(np.arange(3), (2, 3))][: len(inputs)])
        # the pooling layer leaves masked tokens out only if it was handed the mask
        expected = [values.numpy()[row][ids[row] != 0].mean(0) for row in range(2)]
        np.testing.assert_allclose(means, expected, rtol=2.0**-20, atol=2.0**-20)
        assert not np.allclose(means, values.numpy().mean(1), atol=0.01)


@over_policies
def test_saved_models_give_the_same_bits(policy, tmp_path):
    model = model_of(policy)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for length in (5, 3):
        check_bits(loaded(X[:, :length]), model(X[:, :length]))
        check_bits(loaded(X[:, :length]), add(SPEC, tf.cast(X[:, :length], POLICIES[policy])))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_exported_models_serve_every_length(policy, tmp_path):
    model, dtype = model_of(policy), POLICIES[policy]
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, tmp_path / "saved")
    serve = tf.saved_model.load(tmp_path / "exported").serve
    signature = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    in_a_graph = tf.function(lambda x: add(SPEC, x), input_signature=[tf.TensorSpec([None, None, 16], dtype)])
    for length in (5, 3):
        x = X[:, :length]
        served = [serve(x), *signature(tf.constant(x)).values()]
        for got in served:
            check_bits(got, in_a_graph(tf.cast(x, dtype)))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_sees_through_the_layer(jit_compile):
    inputs = keras.Input((None, 16))
    dense = keras.layers.Dense(16, use_bias=False, kernel_initializer="identity")
    model = keras.Model(inputs, SinusoidalEncoding(SPEC)(dense(inputs)))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    target = encode(SPEC, range(5)).numpy() + np.zeros_like(X)
    # y - target is X times the kernel: the gradient of its mean square is 2 X^T X / X.size
    model.fit(X, target, batch_size=2, verbose=0)
    rows = X.reshape(-1, 16).astype(np.float64)
    expected = np.eye(16) - 2 * rows.T @ rows / X.size
    # ten products of numbers below 8, in float32, and the encoding's 2^-22 that y and the target do not share
    np.testing.assert_allclose(dense.kernel, expected, rtol=0, atol=2.0**-20)


def test_tflite_folds_the_table_of_a_static_length():
    length = 12
    f = tf.function(lambda x: add(SPEC, x), input_signature=[tf.TensorSpec([1, length, 16])])
    content = tf.lite.TFLiteConverter.from_concrete_functions([f.get_concrete_function()]).convert()
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, length, 16), np.float32))
    interpreter.invoke()
    table = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    assert np.abs(table - encode(SPEC, range(length), dtype="float64").numpy()).max() <= 2.0**-23


SENTENCE = (
    "posenc.tf_impl.layers: expected Keras on the TensorFlow backend, received the backend {!r}: use "
    "the functions of posenc.jax_impl or posenc.torch_impl in a layer of your own"
)


def test_another_keras_backend_is_refused(tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "import posenc.tf_impl.layers"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == "ImportError: " + SENTENCE.format("jax")


def test_the_refusal_names_the_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.delitem(sys.modules, "posenc.tf_impl.layers")
    with pytest.raises(ImportError, match=re.escape(SENTENCE.format("torch"))):
        importlib.import_module("posenc.tf_impl.layers")
