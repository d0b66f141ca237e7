"""Where the weights of a Keras file are: the file itself, or a member of a `.keras` archive."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from posenc.interop import zip_members
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import COPIED
from posenc.spec import checks

WEIGHTS = "model.weights.h5"


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


def copied(place: Weights, file: IO[bytes]) -> None:
    """Write the HDF5 file at `place` into another one."""
    place.file.seek(place.start)
    left = place.length
    while left and (data := place.file.read(min(left, COPIED))):
        left -= file.write(data)


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
