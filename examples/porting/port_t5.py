"""A T5 of transformers, carried to Flax nnx and to Keras, and the proof: `python examples/porting/port_t5.py`.

The checkpoint is what `save_pretrained` writes. It goes to nnx (t5_nnx.py) in memory, with its tables of biases
transposed, as t5x has them, and to Keras (t5_keras.py) from file to file. t5_plans.py says what becomes of every
tensor, t5_proofs.py has what is held against what. It takes about 40 seconds of one CPU core.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch  # noqa: F401 - before TensorFlow: the other order has crashed
from t5_plans import plan_keras, plan_nnx, sizes, specifications
from t5_proofs import LENGTH, PROOFS, Ported, at_once, build, greatest, whole
from transformers.utils.logging import disable_progress_bar

from posenc import T5Bias
from posenc.interop.checkpoints import Plan, apply, port

BAR = 2e-5
"""How far apart logits may be; those here go up to 10."""


def port_nnx(folder: Path, plan: Plan, specs: tuple[T5Bias, T5Bias], options: dict[str, Any]) -> Ported:
    """A new model with the state that the plan makes of the checkpoint."""
    from flax import nnx
    from t5_nnx import T5

    model = T5(*specs, **options, rngs=nnx.Rngs(0))
    fill_nnx(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @nnx.jit
    def decode(model: T5, tokens: Any, *rest: Any) -> Any:
        traced.append(tokens.shape)
        return model.decode(tokens, *rest)

    return Ported(model, partial(nnx.jit(T5.encode), model), model.start, partial(decode, model), traced)


def fill_nnx(model: Any, checkpoint: Any, plan: Plan) -> None:
    from flax import nnx

    nnx.update(model, apply(plan, checkpoint, nnx.state(model, nnx.Param)))


def port_keras(folder: Path, plan: Plan, specs: tuple[T5Bias, T5Bias], options: dict[str, Any]) -> Ported:
    """A new model with a file of weights that the plan makes of the checkpoint."""
    import tensorflow as tf
    from t5_keras import T5

    model = T5(*specs, **options)
    fill_keras(model, folder, plan)
    traced: list[tuple[int, ...]] = []

    @tf.function
    def decode(tokens: Any, *rest: Any) -> Any:
        traced.append(tuple(tokens.shape))
        return model.decode(tokens, *rest)

    return Ported(model, tf.function(model.encode), model.start, decode, traced)


def fill_keras(model: Any, folder: Path, plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        template, out = Path(scratch, "template.weights.h5"), Path(scratch, "out.weights.h5")
        model.save_weights(template)
        port(plan, folder, out, template=template)
        model.load_weights(out)


class Target(NamedTuple):
    """How to port to a framework."""

    plan: Callable[..., Plan]
    port: Callable[..., Ported]
    fill: Callable[..., None]


TARGETS = {"nnx": Target(plan_nnx, port_nnx, fill_nnx), "Keras": Target(plan_keras, port_keras, fill_keras)}


def report(proofs: Collection[str] = tuple(PROOFS)) -> float:
    """Print both plans and what the proofs find; the greatest difference of all."""
    reference = build(tied=False)
    config, specs, options = reference.config, specifications(reference.config), sizes(reference.config, tied=False)
    ports, every = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference.save_pretrained(folder)
        for framework, target in TARGETS.items():
            plan = target.plan(config, tied=False)
            print(f"To {framework}:\n{plan}\n")
            ports[framework] = target.port(folder, plan, specs, options)

    def line(what: str, found: dict[str, float]) -> None:
        print(f"{what:20}", *(f"{name} {difference:.1e}" for name, difference in found.items()), sep="  ")

    print("greatest difference from the logits of transformers")
    for proof in proofs:
        found = {framework: PROOFS[proof](reference, ported) for framework, ported in ports.items()}
        every += found.values()
        line(proof, found)
    if "2,048 positions" in proofs:
        exact = copy.deepcopy(reference).double()
        found = {framework: whole(exact, ported) for framework, ported in ports.items()}
        own = greatest((at_once(exact, LENGTH), at_once(reference, LENGTH)))
        line("from its float64", found | {"its float32": own})
    return float(np.max(every))


def main() -> None:
    disable_progress_bar()
    # On the processor in all three: a GPU may round the products of attention to TF32.
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"] = "", "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"] = "3", "0"  # both quieten it
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KERAS_HOME"] = scratch  # importing Keras writes a settings file
        worst = report()
    print(f"\ngreatest of all {worst:.1e}, allowed {BAR:.0e}")
    if not worst <= BAR:
        raise SystemExit("the ports differ from transformers")


if __name__ == "__main__":
    main()
