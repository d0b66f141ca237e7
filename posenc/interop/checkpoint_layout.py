"""Checkpoints in safetensors from one pair layout to the other: streamed, one head at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple

from posenc import __version__
from posenc.interop import checkpoint_files
from posenc.interop.layouts import head_order
from posenc.interop.projections import Attention, NotUnderstood, Projection, projection
from posenc.interop.safetensors_header import CheckpointError, Header, Tensor, read_header
from posenc.interop.tensor_names import summary
from posenc.spec.plan import PairLayout

RECORD = "posenc.layout"
_CHUNK = 2**22
Announce = Callable[[int], object]


class Shard(NamedTuple):
    """One file: its header, and what is to be permuted in it."""

    path: Path
    header: Header
    projections: Mapping[str, Projection]


class Conversion(NamedTuple):
    """A conversion that has been checked through and can be written."""

    shards: tuple[Shard, ...]
    index_file: Path | None
    folder: bool
    to: PairLayout

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.end - tensor.begin for shard in self.shards for tensor in shard.header.tensors)

    @property
    def permuted(self) -> tuple[str, ...]:
        """Names of the tensors that are permuted; every other one is copied byte for byte."""
        return tuple(name for shard in self.shards for name in shard.projections)

    @property
    def copied(self) -> int:
        """How many tensors are copied."""
        return sum(len(shard.header.tensors) for shard in self.shards) - len(self.permuted)

    def write(self, target: Path, announce: Announce = lambda _: None) -> None:
        """Write `target`, complete or not at all; what exists is never replaced. `announce` gets counts of bytes."""
        checkpoint_files.check_new(target)
        with checkpoint_files.beside(target) as beside:
            if self.folder:
                beside.mkdir()
                for shard in self.shards:
                    _write_shard(shard, beside / shard.path.name, self.to, announce)
                if self.index_file is not None:
                    shutil.copyfile(self.index_file, beside / self.index_file.name)
                    checkpoint_files.sync(beside / self.index_file.name)
                checkpoint_files.sync(beside)
            else:
                _write_shard(self.shards[0], beside, self.to, announce)


def prepare(
    source: Path,
    attention: Callable[[int], Attention],
    *,
    to: PairLayout,
    by_config: PairLayout | None,
    said: PairLayout | None = None,
    keep: Collection[str] = (),
) -> Conversion:
    """Read and check the headers of `source`: a file, an index of shards, or a folder that has one of them.

    `attention` describes each layer. The layout that the weights have is the one that the files record, else the one
    that is `said`, else that of the config; what is in the layout `to` is refused. `keep` are patterns (`visual.*`) of
    tensors to be copied though they look like projections. Raises CheckpointError, which names the tensors that look
    like projections and are not understood.
    """
    index, paths = checkpoint_files.files(source)
    headers = {path: read_header(path) for path in paths}
    if index is not None:
        checkpoint_files.check_index(index, headers)
    names = frozenset(tensor.name for header in headers.values() for tensor in header.tensors)
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CheckpointError(f"{source}: expected a pattern that some tensor has, received {pattern!r}")
    _check_present(source, headers, to, by_config, said)
    unknown: dict[str, str] = {}
    shards = []
    for path, header in headers.items():
        found: dict[str, Projection] = {}
        for tensor in header.tensors:
            if any(fnmatchcase(tensor.name, pattern) for pattern in keep):
                continue
            try:
                what = projection(tensor, attention, names)
            except NotUnderstood as reason:
                unknown[tensor.name] = str(reason)
                continue
            if what is not None:
                found[tensor.name] = what
        shards.append(Shard(path, header, found))
    if unknown:
        listed = [f"{name!r:.200} ({unknown[example]})" for name, example in summary(unknown).items()]
        more = [f"and {len(listed) - 20} more"] if len(listed) > 20 else []
        raise CheckpointError(
            f"{source}: expected projections that are known, and --keep for tensors that are none, received "
            + ", ".join(listed[:20] + more)
        )
    if not any(shard.projections for shard in shards):
        raise CheckpointError(f"{source}: expected query or key projections, received none")
    return Conversion(tuple(shards), index, source.is_dir() or index is not None, to)


def _check_present(
    source: Path, headers: Mapping[Path, Header], to: PairLayout, by_config: PairLayout | None, said: PairLayout | None
) -> None:
    records = {header.metadata.get(RECORD) for header in headers.values()}
    if len(records) > 1:
        raise CheckpointError(f"{source}: expected files of one layout, received some of {sorted(map(str, records))}")
    (recorded,) = records
    if recorded not in (None, "half", "interleaved"):
        raise CheckpointError(f"{source}: expected the layout half or interleaved in {RECORD}, received {recorded!r}")
    if recorded is not None and said not in (None, recorded):
        raise CheckpointError(f"{source}: expected --from {recorded}, which the file records, received {said}")
    if not (recorded or said or by_config):
        raise CheckpointError(
            f"{source}: expected --from half or --from interleaved, since posenc does not know the model_type of the "
            "config, received neither"
        )
    meta = any(".attention.wq." in f".{tensor.name}" for header in headers.values() for tensor in header.tensors)
    if meta and by_config == "half" and not recorded and not said:
        # Meta's own files are interleaved, the same weights in transformers half: permuting twice would go unnoticed
        raise CheckpointError(f"{source}: expected --from half or --from interleaved with names like wq, received none")
    if (recorded or said or by_config) == to:
        why = "the file records" if recorded else "was said" if said else "the config implies"
        raise CheckpointError(f"{source}: expected weights that are not {to} yet, received {to} ones, as {why}")


def _write_shard(shard: Shard, target: Path, to: PairLayout, announce: Announce) -> None:
    with shard.path.open("rb") as source, target.open("xb") as file:
        file.write(shard.header.with_metadata({RECORD: to, "posenc.version": __version__}))
        source.seek(shard.header.data_start)
        for tensor in shard.header.tensors:
            blocks = _blocks(source, shard.path, tensor, shard.projections.get(tensor.name), to)
            for block in blocks:
                file.write(block)
                announce(len(block))
        file.flush()
        os.fsync(file.fileno())


def _blocks(source: BinaryIO, path: Path, tensor: Tensor, found: Projection | None, to: PairLayout) -> Iterator[bytes]:
    size = tensor.end - tensor.begin
    if found is None:
        for start in range(0, size, _CHUNK):
            yield _read(source, path, min(_CHUNK, size - start))
        return
    channels = head_order(found.plan, to)
    row = size // (len(found.turned) * found.plan.head_dim)
    for turns in found.turned:
        head = memoryview(_read(source, path, row * found.plan.head_dim))
        yield b"".join([head[channel * row : (channel + 1) * row] for channel in channels]) if turns else bytes(head)


def _read(source: BinaryIO, path: Path, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise CheckpointError(f"{path}: expected {size} more bytes, received {len(data)}: the file has changed")
    return data
