"""Checkpoints from one framework to another, by a plan that says what becomes of every tensor and of its positions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from posenc.interop.contents import Entry
from posenc.interop.port_arrays import apply_in_memory, as_entries, flattened
from posenc.interop.port_check import Step, steps
from posenc.interop.port_draft import drafted
from posenc.interop.port_files import port
from posenc.interop.port_plan import Move, Plan, Rotary, Rows
from posenc.interop.positional_tensors import Holding
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_files import open_source
from posenc.spec import SpecError, checks

__all__ = [
    "CheckpointError",
    "Entry",
    "Move",
    "Plan",
    "Rotary",
    "Rows",
    "Step",
    "apply",
    "contents",
    "draft",
    "port",
]


def contents(checkpoint: Any) -> dict[str, Entry]:
    """What a checkpoint has: the shape and dtype of every tensor by name.

    `checkpoint`: the path of a file (safetensors, an index of them, `.npz`, Keras `.weights.h5` or `.keras`) or of a
    folder with one; or a state in memory: a `state_dict`, arrays by name, nested dicts and lists of arrays, a Flax
    `nnx.State`. Names of a state are its keys joined by dots, `layers.0.query.kernel`; those of a Keras file are the
    paths in it, `layers/dense_1/vars/0`. Raises CheckpointError for what is none of them; a pickle is never opened.
    """
    with _opened("contents.checkpoint", checkpoint) as (entries, _):
        return dict(entries)


def draft(
    source: Any,
    moves: Iterable[Move],
    *,
    config: object = None,
    source_layout: Literal["half", "interleaved"] | None = None,
    target_layout: Literal["half", "interleaved"] | None = None,
    target: Any = None,
    known: Mapping[str, Holding] | None = None,
) -> Plan:
    """A first plan: `moves`, with what the model's config says of positions. It is meant to be read and edited.

    `moves` say what cannot be known: which tensor becomes which, and how kernels are transposed. By `config` (a dict,
    a config.json, its folder, a config object of transformers) those of queries and keys get their `rotary`, position
    and bias tables their `rows`, and what only looks positional its `plain`; what the config computes is left out.
    `target_layout` is the pair layout that weights get, None that which they have; `source_layout` the one they have,
    where the config does not tell. The rows of tables stay as they are, which an edit of `rows` changes. `known` says
    by patterns what tensors of an unknown family are (`posenc.interop.positional_tensors`).

    Tensors of the source that no move names are left out as `undecided`, and so are those of `target`, where it is
    given, kept; a plan with anything undecided is refused by `apply` and `port`.

    `source` and `target` as of `contents`. Raises SpecError for a config that contradicts the tensors.
    """
    layouts = {"source_layout": source_layout, "target_layout": target_layout}
    with contextlib.ExitStack() as stack:
        read, _ = stack.enter_context(_opened("draft.source", source))
        there = None if target is None else stack.enter_context(_opened("draft.target", target))[0]
        return drafted(read, moves, config=config, **layouts, target=there, known=known)


def apply(plan: Plan, source: Any, target: Any = None) -> Any:
    """A new state like `target`, filled from `source` as `plan` says; without a target NumPy arrays by name.

    `source` is a path or a state, as of `contents`, `target` a state: what comes back has its structure, and arrays of
    its library on its devices; of an `nnx.State` it is one, for `nnx.update(model, ...)`. Neither of the two changes.
    Raises CheckpointError with all that does not fit, before anything is made.
    """
    if not isinstance(plan, Plan):
        raise SpecError(f"apply.plan: expected Plan(...), received {checks.shown(plan)}")
    if isinstance(target, str | os.PathLike):
        raise CheckpointError("apply.target: expected a state in memory, as files are written by port, received a path")
    there = None if target is None else as_entries(flattened("apply.target", target))
    with _opened("apply.source", source) as (entries, arrays):
        made: Any = apply_in_memory(steps(plan, entries, there), arrays, target)
        return made


@contextlib.contextmanager
def _opened(where: str, checkpoint: Any) -> Iterator[tuple[Mapping[str, Entry], Mapping[str, Any]]]:
    if isinstance(checkpoint, str | os.PathLike):
        if not Path(checkpoint).exists():
            raise CheckpointError(f"{where}: expected a file or folder on this machine, received {str(checkpoint)!r}")
        with open_source(Path(checkpoint)) as file:
            yield file.entries, _Read(file)
    else:
        arrays = flattened(where, checkpoint)
        yield as_entries(arrays), arrays


class _Read(dict[str, Any]):
    """Tensors of a file by name, read when they are asked for."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file = file

    def __missing__(self, name: str) -> Any:
        return self.file.read(name)
