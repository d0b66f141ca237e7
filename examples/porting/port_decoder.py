"""A Llama of transformers, carried to Flax nnx and to Keras, and the proof: `python examples/porting/port_decoder.py`.

The checkpoint is what `save_pretrained` writes, and the rotation is read from its config.json. transformers runs these
weights in the layout `half`: they stay so for Keras (decoder_keras.py), from file to file, and are permuted for nnx
(decoder_nnx.py), which runs them `interleaved`, in memory. decoder_plans.py says what becomes of every tensor,
decoder_proofs.py has the model and what is held against what.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from decoder_plans import plan_keras, plan_nnx, sizes
from decoder_proofs import PROOFS, SCALINGS, Ported, build, turned_by  # torch, before TensorFlow
from shared import fill_keras, fill_nnx, prove, say
from transformers import LlamaConfig

from posenc import Rope
from posenc.interop.checkpoints import Plan
from posenc.interop.huggingface import from_config


def port_nnx(folder: Path, config: LlamaConfig, rope: Rope, plan: Plan) -> Ported:
    """A new model that turns by `rope`, filled in memory from the checkpoint in `folder`."""
    from decoder_nnx import Decoder
    from flax import nnx

    model = nnx.eval_shape(lambda: Decoder(rope, **sizes(config), rngs=nnx.Rngs(0)))  # shapes: no random numbers
    fill_nnx(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @nnx.jit
    def step(model: Decoder, tokens: Any, *rest: Any) -> Any:
        traced.append(tokens.shape)
        return model(tokens, *rest)

    return Ported(model, partial(step, model), traced)


def port_keras(folder: Path, config: LlamaConfig, rope: Rope, plan: Plan) -> Ported:
    """A new model that turns by `rope`, filled from file to file."""
    import tensorflow as tf
    from decoder_keras import Decoder

    model = Decoder(rope, **sizes(config))
    model(tf.zeros((1, 1), tf.int32), positions=tf.zeros((1, 1), tf.int32))  # makes the variables
    fill_keras(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @tf.function
    def step(tokens: Any, positions: Any, segments: Any, cache: Any) -> Any:
        traced.append(tuple(tokens.shape))
        return model(tokens, positions=positions, segments=segments, cache=cache)

    return Ported(model, step, traced)


class Target(NamedTuple):
    """How to port to a framework, and the layout of its channels."""

    layout: str
    plan: Callable[..., Plan]
    port: Callable[..., Ported]


TARGETS = {"nnx": Target("interleaved", plan_nnx, port_nnx), "Keras": Target("half", plan_keras, port_keras)}


def report(scaling: str, proofs: Collection[str] = tuple(PROOFS)) -> float:
    """Print both plans and what the proofs find of the model with this scaling; the greatest difference of all."""
    reference, ports, every = build(scaling), {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference.save_pretrained(folder)
        rope = from_config(folder)
        for framework, target in TARGETS.items():
            plan = target.plan(reference.config, rope)
            print(f"Llama with {scaling} to {framework}:\n{plan}\n")
            ports[framework] = target.port(folder, reference.config, replace(rope, layout=target.layout), plan)
    print(f"Llama with {scaling}: greatest difference from the logits of transformers")
    exact = turned_by(rope, reference)
    for proof in proofs:
        found = {framework: PROOFS[proof](reference, ported) for framework, ported in ports.items()}
        every += found.values()
        say(proof, found)
        say("  by exact angles", {framework: PROOFS[proof](exact, ported) for framework, ported in ports.items()})
    print()
    return float(np.max(every))


def main() -> None:
    prove(__doc__, [partial(report, scaling) for scaling in SCALINGS])


if __name__ == "__main__":
    main()
