"""Ports from file to file: tensor by tensor and block by block, to a file that is complete or does not exist."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from posenc import __version__
from posenc.interop import checkpoint_files, json_text, keras_writing, npz_files, tensor_files
from posenc.interop.checkpoint_layout import RECORD
from posenc.interop.port_blocks import blocks
from posenc.interop.port_check import Step, steps
from posenc.interop.port_moves import Move
from posenc.interop.port_plan import Plan
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import Source, size
from posenc.spec import SpecError, checks

Announce = Callable[[int], object]
_TARGETS = (".safetensors", ".npz", ".weights.h5", ".keras")
_KEPT = Move("kept", "kept", plain="of the target")


class Port(NamedTuple):
    """A port that has been checked through and can be written, while its files are open."""

    steps: tuple[Step, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    source: Source
    template: Source | None
    template_path: Path | None
    target: Path
    metadata: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all tensors that are written."""
        return sum(size(step.after) for step in (*self.steps, *self._copied))

    @property
    def _copied(self) -> Sequence[Step]:
        """Steps that copy what is kept; a target of Keras has it already, as a copy of the template."""
        if self.template is None or self.target.name.endswith((".weights.h5", ".keras")):
            return ()
        entries = self.template.entries
        return [Step(_KEPT, name, name, entries[name], entries[name]) for name in self.kept]

    def check(self) -> None:
        """Refuse what the format of the target cannot hold, and a folder that it cannot be written in."""
        checkpoint_files.check_new(self.target)
        if not self.target.parent.is_dir() or not os.access(self.target.parent, os.W_OK | os.X_OK):
            raise CheckpointError(f"{self.target}: expected a folder that exists and can be written in, received none")
        every = (*self.steps, *self._copied)
        if self.target.name.endswith(".safetensors"):
            tensor_files.check_steps(self.target, every)
        elif self.target.name.endswith(".npz"):
            npz_files.check_steps(self.target, every)

    def write(self, announce: Announce = lambda _: None) -> None:
        """Write the target, complete or not at all; what exists is never replaced. `announce` gets counts of bytes."""

        def pieces(step: Step) -> Iterator[NDArray[Any]]:
            source = self.template if step.move is _KEPT and self.template is not None else self.source
            left = size(step.after)
            for piece in blocks(step, source.read(step.source)):
                yield piece
                left -= piece.nbytes
                announce(piece.nbytes)
            if left:
                raise CheckpointError(f"{self.target}: {step.target!r:.200}: expected {left} more bytes, received none")

        every = (*self.steps, *self._copied)
        checkpoint_files.check_new(self.target)
        with _naming(self.target), checkpoint_files.beside(self.target) as beside:
            if self.target.name.endswith(".safetensors"):
                tensor_files.write(beside, every, pieces, self.metadata)
            elif self.target.name.endswith(".npz"):
                npz_files.write(beside, every, pieces)
            elif self.template_path is not None:
                keras_writing.write(beside, self.template_path, every, pieces)
            checkpoint_files.sync(beside)


def port(
    plan: Plan,
    source: Path | str,
    target: Path | str,
    *,
    template: Path | str | None = None,
    announce: Announce = lambda _: None,
) -> tuple[Step, ...]:
    """Write `target` from the tensors of `source` as `plan` says, and give what was done to each.

    `source` is a safetensors file, an index of shards or a folder with one of them, an `.npz`, a `.weights.h5` or a
    `.keras` file. The format of `target` is that of its suffix: one of the same but a single file, which must not exist
    yet. `template` is a file saved from the target model, needed for `.weights.h5` and `.keras`, which become copies of
    it with other numbers: the plan is held against its names, shapes and dtypes, and `plan.kept` is copied from it.

    Streamed: tensors may be larger than memory. What fails or is interrupted leaves nothing behind, and the other files
    are as they were. `announce` gets counts of bytes, as they are written. Raises CheckpointError for files that cannot
    be read and for a plan that does not fit them, with all that does not, before anything is written.
    """
    with prepared(plan, source, target, template=template) as ready:
        ready.write(announce)
        return ready.steps


def read_plan(path: Path) -> Plan:
    """The plan in a file of JSON; SpecError, with the name of the file, where it has none."""
    with path.open("rb") as file:
        text = file.read(json_text.GREATEST + 1)
    if len(text) > json_text.GREATEST:
        raise SpecError(f"{path}: expected a plan of at most {json_text.GREATEST} bytes, received a longer one")
    try:
        return Plan.from_json(text.decode())
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


@contextlib.contextmanager
def prepared(
    plan: Plan, source: Path | str, target: Path | str, *, template: Path | str | None = None
) -> Iterator[Port]:
    """A `port` that has been checked as far as it can be without writing, which `write` then does."""
    if not isinstance(plan, Plan):
        raise SpecError(f"port.plan: expected Plan(...), received {checks.shown(plan)}")
    for name, path in (("source", source), ("target", target), ("template", template)):
        if not isinstance(path, str | os.PathLike) and not (path is None and name == "template"):
            received = type(path).__name__
            raise SpecError(f"port.{name}: expected a path, as states in memory are for apply, received {received}")
        if name != "target" and path is not None and not Path(path).exists():
            raise CheckpointError(f"{path}: expected a file or folder on this machine, received a name of none")
    target, filled = Path(target), None if template is None else Path(template)
    if not target.name.endswith(_TARGETS):
        raise CheckpointError(f"{target}: expected a name that ends in {', '.join(_TARGETS)}, received {target.name!r}")
    checkpoint_files.check_new(target)
    if target.name.endswith((".weights.h5", ".keras")):
        keras_writing.check_template(target, filled)
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(tensor_files.open_source(source, target.parent))
        there = None if filled is None else stack.enter_context(tensor_files.open_source(filled, target.parent))
        made = tuple(steps(plan, read.entries, None if there is None else there.entries))
        moved, given = {step.source for step in made}, {step.target for step in made}
        kept = () if there is None else tuple(name for name in there.entries if name not in given)
        left_out = tuple(name for name in read.entries if name not in moved)
        metadata = _metadata(Path(source), made, read, filled, there)
        ready = Port(made, kept, left_out, read, there, filled, target, metadata)
        ready.check()
        yield ready


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """What the system says of a full disk, with the name of the file that has no room."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from None


def _metadata(
    path: Path, made: Sequence[Step], source: Source, template: Path | None, there: Source | None
) -> dict[str, str]:
    """Of a target in safetensors: what the template says, and the layout where it is one."""
    recorded, rotaries = source.metadata.get(RECORD), [step.move.rotary for step in made if step.move.rotary]
    for rotary in rotaries:
        reads = rotary.spec.rotation().reads
        if recorded not in (None, reads):
            raise CheckpointError(
                f"{path}: expected weights that are {reads}, as the plan says, but it records {recorded}"
            )
    layouts: set[str] = {rotary.to for rotary in rotaries} or ({recorded} if recorded else set())
    metadata = {} if there is None else dict(there.metadata)
    expected = metadata.pop(RECORD, None)
    if expected is not None and rotaries and layouts != {expected}:
        raise CheckpointError(
            f"{template}: expected weights that become {' and '.join(sorted(layouts))}, as the plan says, but it "
            f"records {expected}"
        )
    if len(layouts) == 1:
        (metadata[RECORD],) = layouts
    return metadata | {"posenc.version": __version__}
