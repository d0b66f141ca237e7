"""A Llama of transformers, carried to Flax nnx and to Keras, and the proof: `python examples/porting/port_decoder.py`.

The checkpoint is what `save_pretrained` writes, and the rotation is read from its config.json. transformers runs these
weights in the layout `half`: they stay so for Keras (decoder_keras.py), from file to file, and are permuted for nnx
(decoder_nnx.py), which runs them `interleaved`, in memory. What becomes of which tensor is in decoder_plans.py, and
decoder_proofs.py has the model and what is held against what.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from decoder_plans import plan_keras, plan_nnx, sizes
from decoder_proofs import BAR, PROOFS, SCALINGS, ExactAngles, Ported, build, rotating_by  # torch, before TensorFlow
from transformers import LlamaConfig

from posenc import Rope
from posenc.interop.checkpoints import Plan, apply, port
from posenc.interop.huggingface import from_config


def port_nnx(folder: Path, config: LlamaConfig, rope: Rope, plan: Plan) -> Ported:
    """A new model that turns by `rope`, with the state that the plan makes of the checkpoint."""
    from decoder_nnx import Decoder
    from flax import nnx

    model = Decoder(rope, **sizes(config), rngs=nnx.Rngs(0))
    nnx.update(model, apply(plan, folder, nnx.state(model, nnx.Param)))
    traced: list[tuple[int, ...]] = []

    @nnx.jit
    def step(model: Decoder, tokens: Any, *rest: Any) -> Any:
        traced.append(tokens.shape)
        return model(tokens, *rest)

    return Ported(model, partial(step, model), traced)


def port_keras(folder: Path, config: LlamaConfig, rope: Rope, plan: Plan) -> Ported:
    """A new model that turns by `rope`, with a file of weights that the plan makes of the checkpoint."""
    import tensorflow as tf
    from decoder_keras import Decoder

    model = Decoder(rope, **sizes(config))
    model(tf.zeros((1, 1), tf.int32), positions=tf.zeros((1, 1), tf.int32))  # makes the variables
    with tempfile.TemporaryDirectory() as scratch:
        template, out = Path(scratch, "template.weights.h5"), Path(scratch, "out.weights.h5")
        model.save_weights(template)
        port(plan, folder, out, template=template)
        model.load_weights(out)
    traced: list[tuple[int, ...]] = []

    @tf.function
    def step(tokens: Any, positions: Any, segments: Any, cache: Any) -> Any:
        traced.append(tuple(tokens.shape))
        return model(tokens, positions=positions, segments=segments, cache=cache)

    return Ported(model, step, traced)


class Target(NamedTuple):
    layout: str
    plan: Callable[..., Plan]
    port: Callable[..., Ported]


TARGETS = {"nnx": Target("interleaved", plan_nnx, port_nnx), "Keras": Target("half", plan_keras, port_keras)}


def report(scaling: str, proofs: Iterable[str] = PROOFS) -> float:
    """Ports the model with this scaling, prints plans and differences, and returns the greatest."""
    reference, ports = build(scaling), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference.save_pretrained(folder)
        rope = from_config(folder)
        print(f"\n{rope}")
        for framework, target in TARGETS.items():
            plan = target.plan(reference.config, rope)
            print(f"\n{framework}\n{plan}")
            ports.append(target.port(folder, reference.config, replace(rope, layout=target.layout), plan))
    columns = [*TARGETS, *(f"{framework}, exact angles" for framework in TARGETS)]
    print("\ngreatest difference ", *(f"{column:>20}" for column in columns))
    differences = []
    for proof in proofs:
        found = []
        for rotation in (reference.model.rotary_emb, ExactAngles(rope)):
            with rotating_by(rotation, reference):
                found += [PROOFS[proof](reference, ported) for ported in ports]
        print(f"{proof:20}", *(f"{each:20.1e}" for each in found))
        differences += found[: len(ports)]
    return float(np.max(differences))  # NaN if there is one


def main() -> None:
    worst = float(np.max([report(scaling) for scaling in SCALINGS]))
    print(f"\ngreatest of all {worst:.1e}, allowed {BAR:.0e}")
    if not worst <= BAR:
        raise SystemExit("the ports differ from transformers")


if __name__ == "__main__":
    main()
