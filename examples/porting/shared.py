"""What the scripts here share: how a model is filled, tokens, how far apart outputs are, and how a script ends."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from posenc.interop.checkpoints import Plan, apply, port

BAR = 2e-5
"""How far apart the outputs of transformers and of a port may be, in float32."""


def fill_nnx(model: Any, checkpoint: Path, plan: Plan) -> None:
    """Give a model, which may have shapes alone, its new state, made in memory."""
    from flax import nnx

    nnx.update(model, apply(plan, checkpoint, nnx.state(model, nnx.Param)))


def fill_keras(model: Any, checkpoint: Path, plan: Plan) -> None:
    """Give a model that has its variables its new weights, by way of a file."""
    with tempfile.TemporaryDirectory() as scratch:
        template, out = Path(scratch, "template.weights.h5"), Path(scratch, "out.weights.h5")
        model.save_weights(template)
        port(plan, checkpoint, out, template=template)
        model.load_weights(out)


def some_tokens(*shape: int, seed: int = 1) -> np.ndarray:
    """Of a vocabulary of 256."""
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.int32)


def rows(ids: Any) -> np.ndarray:
    """What `posenc.positions` lays out, as an array."""
    return np.array([list(row) for row in ids], np.int32)


def greatest(*pairs: tuple[Any, Any]) -> float:
    """How far apart the two of a pair are at most; NaN where there is one."""
    return float(np.max([np.abs(np.asarray(expected) - np.asarray(received)).max() for expected, received in pairs]))


def say(what: str, found: Mapping[str, float]) -> None:
    """A line of a report."""
    print(f"{what:20}", *(f"{name} {difference:.1e}" for name, difference in found.items()), sep="  ")


def prove(description: str, reports: Iterable[Callable[[], float]]) -> None:
    """A script: every report, each of which returns its greatest difference. SystemExit if one is greater than BAR."""
    argparse.ArgumentParser(description=description.partition("\n")[0]).parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(
            # on the processor in all three: a GPU may round the products of attention to TF32
            CUDA_VISIBLE_DEVICES="",
            JAX_PLATFORMS="cpu",
            KERAS_BACKEND="tensorflow",
            KERAS_HOME=home,  # importing Keras writes a settings file
            TF_CPP_MIN_LOG_LEVEL="3",  # this and the next quieten it
            TF_ENABLE_ONEDNN_OPTS="0",
        )
        worst = float(np.max([report() for report in reports]))
    print(f"\ngreatest of all {worst:.1e}, allowed {BAR:.0e}")
    if not worst <= BAR:
        raise SystemExit("the ports differ from transformers")
