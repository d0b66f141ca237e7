"""What a checkpoint is to a port: names, shapes, dtypes, and each tensor as an array that is read as it is sliced."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop.contents import DTYPES, Entry
from posenc.interop.port_libraries import named_dtype
from posenc.interop.safetensors_header import CheckpointError

COPIED = 2**22  # bytes of a file that are in memory while it is copied
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KNOWN = {*DTYPES.values(), "complex128"}


class Source(NamedTuple):
    """An open checkpoint.

    `entries` are in the order of the file, `metadata` is that of safetensors and else empty. `read` gives the array of
    a name, `entries[name].shape` and of that dtype: one to be read, which the file keeps while it is open.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    read: Callable[[str], NDArray[Any]]


def size(entry: Entry) -> int:
    """Bytes of a tensor."""
    return math.prod(entry.shape) * named_dtype(entry.dtype).itemsize


def checked(where: str, shape: tuple[int, ...], dtype: str) -> Entry:
    """An Entry; CheckpointError for a dtype that is not of numbers, or sizes that no array has."""
    if dtype not in _KNOWN:
        raise CheckpointError(f"{where}: expected a dtype of NumPy's numbers, bfloat16 or float8, received {dtype!r}")
    entry = Entry(tuple(shape), dtype)
    # NumPy multiplies the sizes that are not 0, of an array that has no elements too
    if any(n < 0 for n in shape) or size(entry._replace(shape=tuple(filter(None, shape)))) >= 2**63 or len(shape) > 32:
        raise CheckpointError(f"{where}: expected the shape of an array, received {shape!r:.200}")
    return entry


def mapped(file: IO[bytes], where: str, entry: Entry, offset: int, *, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """The tensor whose bytes begin at `offset`, which the system reads as they are looked at and may drop again."""
    there = os.fstat(file.fileno()).st_size
    if not 0 <= offset <= there - size(entry):
        raise CheckpointError(
            f"{where}: expected {size(entry)} bytes from {offset}, received a file of {there}: it has changed"
        )
    if not size(entry):
        return np.empty(entry.shape, named_dtype(entry.dtype))
    return np.memmap(file, named_dtype(entry.dtype), "r", offset, entry.shape, order)


def spooled(member: IO[bytes], folder: Path | None) -> IO[bytes]:
    """A copy of what is compressed or inside another file, without a name: it is gone as soon as nobody reads it."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller reads it
    shutil.copyfileobj(member, file, COPIED)
    file.flush()
    return file


def reserved(file: IO[bytes], length: int) -> None:
    """Make the file so long, on the disk: where a map of it finds no room there, the process is killed."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, length)
        return
    for start in range(0, length, COPIED):
        file.write(bytes(min(COPIED, length - start)))
    file.flush()


@contextlib.contextmanager
def refusing(where: str, expected: str, *errors: type[Exception]) -> Iterator[None]:
    """CheckpointError in one sentence for what a library says of a file that is not as its format says.

    A disk that is full is no fault of the file, and stays the OSError that it is.
    """
    try:
        yield
    except CheckpointError:
        raise
    except errors as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:  # where it was to be unpacked, not in the file
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{where}: expected {expected}, received {said:.300}") from None
