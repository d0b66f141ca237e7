"""The files of a checkpoint: one, or shards with an index; and new ones that are complete or do not exist."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from posenc.interop import json_text
from posenc.interop.safetensors_header import CheckpointError, Header


def files(source: Path) -> tuple[Path | None, list[Path]]:
    """The index, where there is one, and the files with tensors."""
    index = None
    if source.is_dir():
        indices = sorted(source.glob("*.safetensors.index*.json"))
        single = sorted(source.glob("*.safetensors"))
        if len(indices) > 1 or (not indices and len(single) != 1):
            found = ", ".join(repr(path.name) for path in indices or single) or "neither"
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
        weights = json_text.read(index)["weight_map"]
        plain = all(
            name == os.path.basename(name) and name.endswith(".safetensors") and name.isprintable()
            for name in weights.values()
        )
    except (KeyError, TypeError, AttributeError):
        plain = False
    except ValueError as error:
        raise CheckpointError(f"{index}: expected JSON, received {error}") from None
    if not plain or not weights:
        raise CheckpointError(f"{index}: expected an index whose weight_map names .safetensors files beside it")
    return dict(weights)


def check_index(index: Path, headers: Mapping[Path, Header]) -> None:
    there = [(tensor.name, path.name) for path, header in headers.items() for tensor in header.tensors]
    differing = set(there) ^ set(_weight_map(index).items())
    if differing:
        name, file = min(differing)
        missing = "has" if (name, file) in there else "lacks"
        raise CheckpointError(
            f"{index}: expected the tensors that are in its files, but {file} {missing} {name!r:.200}"
        )


def check_new(target: Path) -> None:
    if os.path.lexists(target):
        raise CheckpointError(f"{target}: expected a name that does not exist yet: nothing is overwritten")


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name in a new folder beside `target`, which becomes `target` at the end: a reader never sees half of it."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        name = Path(folder) / target.name
        yield name
        _become(name, target)
        sync(target.parent)


def _become(name: Path, target: Path) -> None:
    if name.is_file():
        with contextlib.suppress(OSError):  # `target` exists, which a rename would replace; or there are no links here
            os.link(name, target)
            return
    check_new(target)
    name.rename(target)


def sync(path: Path) -> None:
    """Wait until what was written to the file or folder `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
