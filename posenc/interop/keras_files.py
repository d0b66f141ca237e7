"""Weights of Keras, `.weights.h5` or those in a `.keras` archive, as sources of a port.

Names are the paths of datasets. bfloat16 is opaque bytes with the attribute `dtype`, as Keras writes it. Links out of
the file, to other files and to other places, are refused and not followed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop import zip_members
from posenc.interop.contents import Entry
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import Source, array_dtype, checked, mapped, refusing, size
from posenc.spec import checks

WEIGHTS = "model.weights.h5"
_GREATEST_CHUNK = 2**28  # bytes: what HDF5 decompresses at once is in memory
_EXPANSION = 1000  # at most, of what is stored: what compresses better is a file made to fill the disk
ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError, MemoryError)
"""What h5py raises where a file is damaged."""


class Window(io.RawIOBase):
    """A part of a file as a file: a member of an archive that is not compressed."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.length}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.length - self.position))
        self.file.seek(self.start + self.position)
        data = self.file.read(count)
        if len(data) != len(buffer):  # HDF5 would take what is missing from memory as it finds it
            raise OSError(f"expected {len(buffer)} bytes at {self.position}, received {len(data)}")
        buffer[:] = data
        self.position += count
        return count


class Weights(NamedTuple):
    """Where the HDF5 file is: in `file` from `start` on."""

    file: IO[bytes]
    start: int
    length: int


def h5py() -> Any:
    """The library, or how to install it in one sentence."""
    checks.framework("posenc.interop", "h5py", "h5py", "interop")
    return importlib.import_module("h5py")


@contextlib.contextmanager
def weights(path: Path, scratch: Path | None) -> Iterator[Weights]:
    """The HDF5 file at `path`, or the one in the archive there, decompressed in the folder `scratch` if need be."""
    if not path.name.endswith(".keras"):
        with path.open("rb") as file:
            yield Weights(file, 0, os.fstat(file.fileno()).st_size)
        return
    with zip_members.opened(path) as archive:
        if WEIGHTS not in archive.members:
            raise CheckpointError(f"{path}: expected a member {WEIGHTS!r}, received {', '.join(archive.members):.200}")
        start = archive.start(WEIGHTS)
        length = archive.members[WEIGHTS].file_size
        if start is not None:
            yield Weights(archive.file, start, length)
            return
        with archive.spooled(WEIGHTS, scratch) as spool:
            yield Weights(spool, 0, length)


@contextlib.contextmanager
def opened(path: Path, scratch: Path | None = None) -> Iterator[Source]:
    """The datasets of a Keras file by their paths; `scratch` is the folder for what has to be decompressed."""
    library = h5py()
    with weights(path, scratch) as place:
        with refusing(str(path), "an HDF5 file", *ERRORS):
            file = library.File(Window(*place), "r")
        try:
            found = datasets(library, str(path), file)
            with refusing(str(path), "datasets", *ERRORS):
                entries = {name: entry(library, f"{path}: {name!r:.200}", each) for name, each in found.items()}

            def read(name: str) -> NDArray[Any]:
                where = f"{path}: {name!r:.200}"
                with refusing(where, "a dataset that can be read", *ERRORS):
                    return _read(found[name], entries[name], place, where, scratch)

            yield Source(entries, {}, read)
        finally:
            file.close()


def datasets(library: Any, where: str, file: Any) -> dict[str, Any]:
    """Every dataset by its path; CheckpointError for links that lead elsewhere, or twice to one place."""
    found: dict[str, Any] = {}
    seen, pending = set(), [("", file)]
    with refusing(where, "groups and datasets", *ERRORS):
        while pending:
            path, member = pending.pop()
            address = library.h5o.get_info(member.id).addr
            if address in seen:
                raise CheckpointError(f"{where}: {path!r:.200}: expected one name for it, received several")
            seen.add(address)
            if isinstance(member, library.Dataset):
                found[path] = member
            elif not isinstance(member, library.Group):
                raise CheckpointError(f"{where}: {path!r:.200}: expected a dataset, received a type of its own")
            else:
                pending += [(each, member[name]) for name, each in reversed(_children(library, where, path, member))]
    return found


def _children(library: Any, where: str, path: str, group: Any) -> list[tuple[str, str]]:
    """Names in a group and their paths, none of which is a link that is followed elsewhere."""
    names = [(name, f"{path}/{name}" if path else name) for name in group]
    for name, each in names:
        link = type(group.get(name, getlink=True))
        if link is not library.HardLink:
            raise CheckpointError(f"{where}: {each!r:.200}: expected no links, received {link.__name__}")
    return names


def entry(library: Any, where: str, dataset: Any) -> Entry:
    """Shape and dtype of a dataset; CheckpointError where its bytes are no numbers of NumPy in its order."""
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f"{where}: expected a dataset in this file, received one whose bytes are elsewhere")
    dtype, said = dataset.dtype, dataset.attrs.get("dtype")
    if dataset.shape is None or dtype.kind not in "biufcV":
        raise CheckpointError(f"{where}: expected an array of numbers, received {dtype} of the shape {dataset.shape}")
    name = str(said) if dtype.kind == "V" else dtype.name
    if dtype.kind == "V" and not name.startswith(("bfloat16", "float8")):
        raise CheckpointError(f"{where}: expected an attribute dtype that says what {dtype} is, received {said!r:.80}")
    if str(said or name) != name or dataset.id.get_type() != library.h5t.py_create(dtype, logical=True):
        raise CheckpointError(f"{where}: expected {name} as NumPy has it here, received another type or order of bytes")
    found = checked(where, dataset.shape, name)
    if array_dtype(name).itemsize != dtype.itemsize:
        raise CheckpointError(f"{where}: expected {name}, received {dtype.itemsize} bytes for each number")
    stored = dataset.id.get_storage_size()
    if size(found) > max(_EXPANSION * stored, 2**32):
        raise CheckpointError(
            f"{where}: expected {size(found)} bytes, received {stored}, more than compression makes up"
        )
    if dataset.chunks and math.prod(dataset.chunks) * dtype.itemsize > _GREATEST_CHUNK:
        raise CheckpointError(
            f"{where}: expected chunks of at most {_GREATEST_CHUNK} bytes, received chunks of {dataset.chunks}"
        )
    return found


def _read(dataset: Any, found: Entry, place: Weights, where: str, scratch: Path | None) -> NDArray[Any]:
    offset, dtype = dataset.id.get_offset(), array_dtype(found.dtype)
    if not size(found):
        return np.empty(found.shape, dtype)
    if offset is not None and dataset.id.get_storage_size() == size(found):
        if offset + size(found) > place.length:
            raise CheckpointError(f"{where}: expected bytes in the file, received some from {offset} on")
        return mapped(place.file, where, found, place.start + offset)
    if dataset.chunks is None:
        # compact and small, or never written
        first = np.asarray(dataset[tuple(slice(0, 1) for _ in found.shape)]).view(dtype)
        return np.asarray(dataset[()]).view(dtype) if size(found) < 2**16 else np.broadcast_to(first, found.shape)
    return _unpacked(dataset, found, scratch)


def _unpacked(dataset: Any, found: Entry, scratch: Path | None) -> NDArray[Any]:
    """A temporary file of what is stored in chunks, each of them read once."""
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.truncate(size(found))
        result = np.memmap(file, array_dtype(found.dtype), "r+", 0, found.shape)
        for box in dataset.iter_chunks():
            result[box] = np.asarray(dataset[box]).view(result.dtype)
        return result
