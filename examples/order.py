"""Why order needs a signal: a real run, about three minutes on two CPU cores.

python examples/order.py                                 every part, as tables
python examples/order.py --part probes                   one of sentences, naive, probes, cost
python examples/order.py --images docs/images            the plots as well
python examples/order.py --json numbers.json             every number of the tables, and the curves

Needs the four frameworks and, for the plots, matplotlib. `docs/why.md` tells the story around the numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch  # before TensorFlow: the other order has crashed
from order_report import draw, progress, table
from order_training import KINDS, Model, cost, naive
from torch.nn import functional as F  # noqa: N812 the name every PyTorch program uses

from posenc import Sinusoidal

SENTENCES = ("The cat chased the mouse", "The mouse chased the cat")
DIM, HEADS = 32, 4


def ingredients() -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[tuple[str, int, int]]]:
    """Word ids `(2, 5)`, word vectors, the four weights of an attention layer, and which word pairs with which."""
    words = [sentence.lower().split() for sentence in SENTENCES]  # "The" and "the" are one word
    vocabulary = sorted(set(words[0]))
    ids = np.array([[vocabulary.index(word) for word in sentence] for sentence in words], np.int32)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(vocabulary), DIM), np.float32)
    weights = [rng.standard_normal((DIM, DIM), np.float32) / np.float32(math.sqrt(DIM)) for _ in range(4)]
    # The first "the" stands beside the first of the other sentence, the second beside the second.
    places = [[(w, s[:i].count(w)) for i, w in enumerate(s)] for s in words]
    pairs = [(key[0], i, places[1].index(key)) for i, key in enumerate(places[0])]
    return ids, vectors, weights, pairs


def in_numpy(spec, ids, vectors, *weights):
    from posenc.numpy_impl import add

    wq, wk, wv, wo = weights
    x = vectors[ids]
    x = x if spec is None else add(spec, x)
    q, k, v = ((x @ w).reshape(*ids.shape, HEADS, -1) for w in (wq, wk, wv))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(DIM // HEADS)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", share, v).reshape(x.shape) @ wo


def in_torch(spec, ids, vectors, *weights):
    from posenc.torch_impl import add

    wq, wk, wv, wo = map(torch.from_numpy, weights)
    x = F.embedding(torch.from_numpy(ids), torch.from_numpy(vectors))
    x = x if spec is None else add(spec, x)
    q, k, v = ((x @ w).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (wq, wk, wv))
    return (F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ wo).numpy()


def in_jax(spec, ids, vectors, *weights):
    import jax
    import jax.numpy as jnp

    from posenc.jax_impl import add

    wq, wk, wv, wo = map(jnp.asarray, weights)
    x = jnp.take(jnp.asarray(vectors), jnp.asarray(ids), axis=0)
    x = x if spec is None else add(spec, x)
    q, k, v = ((x @ w).reshape(*ids.shape, HEADS, -1) for w in (wq, wk, wv))
    return np.asarray(jax.nn.dot_product_attention(q, k, v).reshape(x.shape) @ wo)


def in_keras(spec, ids, vectors, *weights):
    import keras
    import tensorflow as tf

    from posenc.tf_impl import add

    wq, wk, wv, wo = map(tf.constant, weights)
    x = tf.gather(tf.constant(vectors), tf.constant(ids))
    x = x if spec is None else add(spec, x)
    q, k, v = (tf.reshape(x @ w, (*ids.shape, HEADS, -1)) for w in (wq, wk, wv))
    return (tf.reshape(keras.ops.dot_product_attention(q, k, v), x.shape) @ wo).numpy()


FRAMEWORKS = {"NumPy": in_numpy, "PyTorch": in_torch, "JAX": in_jax, "TensorFlow/Keras": in_keras}


def sentences(_quick: bool) -> dict:
    ids, vectors, weights, pairs = ingredients()
    differences: dict[str, dict[str, list[float]]] = {}
    outputs = []
    for done, (name, attention) in enumerate(FRAMEWORKS.items()):
        progress("attention", done, len(FRAMEWORKS))
        differences[name] = {}
        for label, spec in (("without", None), ("with", Sinusoidal.vaswani(DIM))):
            out = attention(spec, ids, vectors, *weights)
            outputs += [out] if spec else []
            differences[name][label] = [float(np.abs(out[0, i] - out[1, j]).max()) for _, i, j in pairs]
    progress("attention", len(FRAMEWORKS), len(FRAMEWORKS))
    spread = float(np.ptp(np.stack(outputs), axis=0).max())
    numpy = differences["NumPy"]
    table(
        f"Self-attention on {SENTENCES[0]!r} and {SENTENCES[1]!r}: largest difference of a word's vector (NumPy)",
        ("word", "place", "place", "without encoding", "with encoding"),
        [(w, i, j, numpy["without"][n], numpy["with"][n]) for n, (w, i, j) in enumerate(pairs)],
    )
    table(
        "The same in four frameworks, largest over the words",
        ("framework", "without encoding", "with encoding"),
        [(name, max(d["without"]), f"{max(d['with']):.7f}") for name, d in differences.items()],
    )
    print(f"  largest difference between two frameworks, of any number that attention returned: {spread:.2g}")
    return {"differences": differences, "spread": spread}


def probe(x: np.ndarray, label: np.ndarray, held: np.ndarray, classes: int, ridge: float) -> np.ndarray:
    """A least-squares map from vectors to one-hot labels, fitted where not `held`; what it answers where `held`."""
    fitted, one_hot = x[~held], np.eye(classes)[label[~held]]
    centre, prior = fitted.mean(0), one_hot.mean(0)
    gram = (fitted - centre).T @ (fitted - centre) + ridge * len(fitted) * np.eye(x.shape[1])
    solution = np.linalg.solve(gram, (fitted - centre).T @ (one_hot - prior))
    return ((x[held] - centre) @ solution + prior).argmax(1)


def probes(quick: bool) -> dict:
    from posenc.numpy_impl import encode

    count, places = 200, 50
    widths = (64, 256) if quick else (16, 32, 64, 128, 256, 512)
    word, place = (g.ravel() for g in np.meshgrid(np.arange(count), np.arange(places), indexing="ij"))
    found: dict[str, list[float]] = {}
    for done, dim in enumerate(widths):
        progress("probes", done, len(widths))
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((count, dim))[word]
        signal = encode(Sinusoidal.vaswani(dim), range(places)).astype(np.float64)[place]
        new_word = (rng.permutation(count) < count // 5)[word]
        new_place = (rng.permutation(places) < places // 5)[place]
        new_pair = rng.random(len(word)) < 0.2
        # A new word is noise of variance 1 to a probe for the place; a ridge of 1 says so to the fit.
        for name, x, label, held, ridge in (
            ("word, at new places", vectors + signal, word, new_place, 1e-6),
            ("place, of known words", vectors + signal, place, new_pair, 1e-6),
            ("place, of new words", vectors + signal, place, new_word, 1.0),
            ("word, from the encoding alone", signal, word, new_place, 1e-6),
            ("place, from the word alone", vectors, place, new_word, 1e-6),
        ):
            answer = probe(x, label, held, count if label is word else places, ridge)
            found.setdefault(name, []).append(float((answer == label[held]).mean()))
            if name == "place, of new words":
                near = np.abs(answer - place[held]) <= 1
                found.setdefault("place, of new words, +-1", []).append(float(near.mean()))
    progress("probes", len(widths), len(widths))
    chance = {name: 1 / (count if name.startswith("word") else places) for name in found}
    chance["place, of new words, +-1"] = (3 * places - 2) / places**2
    table(
        f"Linear probes on word vector + encoding, {count} words at {places} places, share right on held-out samples",
        ("what is read, dim", *map(str, widths), "chance"),
        [(name, *[f"{v:.3f}" for v in values], f"{chance[name]:.3f}") for name, values in found.items()],
    )
    models = {kind: Model(kind, 1) for kind in KINDS}
    parameters = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
    learned = parameters["none"] + 512 * models["none"].embedding.embedding_dim
    table(
        "Parameters of the model of the training part",
        ("signal", "parameters"),
        [*parameters.items(), ("a learned table of 512 places, for comparison", learned)],
    )
    return {"widths": widths, "accuracy": found, "chance": chance, "parameters": parameters}


PARTS = {"sentences": sentences, "naive": naive, "probes": probes, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description="Why order needs a signal: a real run.")
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all", help="what to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; training numbers mean nothing")
    parser.add_argument("--images", type=Path, metavar="DIR", help="write the plots there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KERAS_HOME"] = scratch  # importing Keras writes a settings file
        os.environ["KERAS_BACKEND"] = "tensorflow"
        # On the processor in all four: a GPU may round the products of attention to TF32.
        os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"] = "", "cpu"
        os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"] = "3", "0"  # both quieten it
        results = {n: part(options.quick) for n, part in PARTS.items() if options.part in (n, "all")}
        if options.images:
            print("\nplots:", *draw(results, options.images))
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
