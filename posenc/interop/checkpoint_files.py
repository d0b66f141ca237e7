"""The files of a checkpoint: one, or shards with an index; and new ones that are complete or do not exist."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from posenc.interop.safetensors_header import CheckpointError, Header


def files(source: Path) -> tuple[Path | None, list[Path]]:
    """The index, where there is one, and the files with tensors."""
    index = None
    if source.is_dir():
        indices = sorted(source.glob("*.safetensors.index*.json"))
        single = sorted(source.glob("*.safetensors"))
        if len(indices) > 1 or (not indices and len(single) != 1):
            found = ", ".join(path.name for path in indices or single) or "neither"
            raise CheckpointError(
                f"{source}: expected a folder with one *.safetensors.index.json or one *.safetensors, received {found}"
            )
        if not indices:
            return None, single
        (index,) = indices
    elif source.suffix == ".json":
        index = source
    if index is None:
        return None, [source]
    return index, [index.parent / name for name in dict.fromkeys(_weight_map(index).values())]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = all(name == os.path.basename(name) and name.endswith(".safetensors") for name in weights.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        plain = False
    if not plain or not weights:
        raise CheckpointError(f"{index}: expected an index whose weight_map names .safetensors files beside it")
    return dict(weights)


def check_index(index: Path, headers: Mapping[Path, Header]) -> None:
    there = [(tensor.name, path.name) for path, header in headers.items() for tensor in header.tensors]
    differing = set(there) ^ set(_weight_map(index).items())
    if differing:
        name, file = min(differing)
        missing = "has" if (name, file) in there else "lacks"
        raise CheckpointError(f"{index}: expected the tensors that are in its files, but {file} {missing} {name}")


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name beside `target`, which becomes `target` at the end, or is removed: a reader never sees half of it."""
    name = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield name
        if os.path.lexists(target):
            raise CheckpointError(f"{target}: expected a name that does not exist yet: nothing is overwritten")
        name.rename(target)
        sync(target.parent)
    except BaseException:  # also where it is interrupted
        if name.is_dir():
            shutil.rmtree(name)
        else:
            name.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until what was written to the file or folder `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
