"""A T5 of transformers, carried to Flax nnx and to Keras, and the proof: `python examples/porting/port_t5.py`.

The checkpoint is what `save_pretrained` writes. It goes to nnx (t5_nnx.py) in memory, with its tables of biases
transposed, as t5x has them, and to Keras (t5_keras.py) from file to file. t5_plans.py says what becomes of every
tensor, t5_proofs.py has the model and what is held against what.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from shared import fill_keras, fill_nnx, greatest, prove, say
from t5_plans import plan_keras, plan_nnx, sizes, specifications
from t5_proofs import LENGTH, PROOFS, Ported, at_once, build, whole  # torch, before TensorFlow
from transformers import T5Config

from posenc import T5Bias
from posenc.interop.checkpoints import Plan


def port_nnx(folder: Path, config: T5Config, specs: tuple[T5Bias, T5Bias], plan: Plan) -> Ported:
    """A new model whose distances mean what `specs` say, filled in memory from the checkpoint in `folder`."""
    from flax import nnx
    from t5_nnx import T5

    model = nnx.eval_shape(lambda: T5(*specs, **sizes(config), rngs=nnx.Rngs(0)))  # shapes: no random numbers
    fill_nnx(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @nnx.jit
    def decode(model: T5, tokens: Any, *rest: Any) -> Any:
        traced.append(tokens.shape)
        return model.decode(tokens, *rest)

    return Ported(model, partial(nnx.jit(T5.encode), model), model.start, partial(decode, model), traced)


def port_keras(folder: Path, config: T5Config, specs: tuple[T5Bias, T5Bias], plan: Plan) -> Ported:
    """A new model whose distances mean what `specs` say, filled from file to file."""
    import tensorflow as tf
    from t5_keras import T5

    model = T5(*specs, **sizes(config))
    fill_keras(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @tf.function
    def decode(tokens: Any, *rest: Any) -> Any:
        traced.append(tuple(tokens.shape))
        return model.decode(tokens, *rest)

    return Ported(model, tf.function(model.encode), model.start, decode, traced)


class Target(NamedTuple):
    """How to port to a framework, and how to fill a model there again."""

    plan: Callable[..., Plan]
    port: Callable[..., Ported]
    fill: Callable[..., None]


TARGETS = {"nnx": Target(plan_nnx, port_nnx, fill_nnx), "Keras": Target(plan_keras, port_keras, fill_keras)}


def report(proofs: Collection[str] = tuple(PROOFS)) -> float:
    """Print both plans and what the proofs find; the greatest difference of all."""
    reference, ports, every = build(tied=False), {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference.save_pretrained(folder)
        for framework, target in TARGETS.items():
            plan = target.plan(reference.config)
            print(f"T5 to {framework}:\n{plan}\n")
            ports[framework] = target.port(folder, reference.config, specifications(reference.config), plan)
    print("T5: greatest difference from the logits of transformers")
    for proof in proofs:
        found = {framework: PROOFS[proof](reference, ported) for framework, ported in ports.items()}
        every += found.values()
        say(proof, found)
    if "2,048 positions" in proofs:
        exact = copy.deepcopy(reference).double()
        found = {framework: whole(exact, ported) for framework, ported in ports.items()}
        own = greatest((at_once(exact, LENGTH), at_once(reference, LENGTH)))
        say("  from its float64", found | {"its float32": own})
    return float(np.max(every))


def main() -> None:
    prove(__doc__, [report])


if __name__ == "__main__":
    main()
