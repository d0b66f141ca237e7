"""Weights of Keras, `.weights.h5` or those in a `.keras` archive, as sources of a port.

Names are the paths of datasets. bfloat16 is opaque bytes with the attribute `dtype`, as Keras writes it. Links out of
the file, to other files and to other places, are refused and not followed.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.interop import keras_weights
from posenc.interop.contents import Entry
from posenc.interop.port_libraries import named_dtype
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import Source, checked, mapped, refusing, reserved, size

_GREATEST_CHUNK = 2**28  # bytes: what HDF5 decompresses at once is in memory
_EXPANSION = 1000  # at most, of what is stored: what compresses better is a file made to fill the disk
ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError, MemoryError)
"""What h5py raises where a file is damaged."""


@contextlib.contextmanager
def opened(path: Path, scratch: Path | None = None) -> Iterator[Source]:
    """The datasets of a Keras file by their paths; `scratch` is the folder for what has to be decompressed."""
    library = keras_weights.h5py()
    with keras_weights.weights(path, scratch) as place:
        with refusing(str(path), "an HDF5 file", *ERRORS):
            file = library.File(keras_weights.Window(*place), "r")
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
    dtype = dataset.dtype
    if dataset.shape is None or dtype.kind not in "biufcV":
        raise CheckpointError(f"{where}: expected an array of numbers, received {dtype} of the shape {dataset.shape}")
    name = dtype.name if dtype.kind != "V" else _opaque(where, dataset)
    if not dtype.isnative or dataset.id.get_type() != library.h5t.py_create(dtype, logical=True):
        raise CheckpointError(f"{where}: expected {name} as NumPy has it here, received another type or order of bytes")
    found = checked(where, dataset.shape, name)
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


def _opaque(where: str, dataset: Any) -> str:
    """What the bytes are that HDF5 has no type for: Keras writes bfloat16 so, and says it in an attribute.

    That there is one is enough, as no other dtype of two bytes is written so: HDF5 hangs on text that is damaged.
    """
    if dataset.dtype.itemsize != 2 or "dtype" not in dataset.attrs:
        raise CheckpointError(
            f"{where}: expected numbers, or two opaque bytes with an attribute dtype, which are bfloat16, received "
            f"{dataset.dtype.itemsize} opaque bytes" + ", as Keras writes every float8" * (dataset.dtype.itemsize == 1)
        )
    return "bfloat16"


def _read(dataset: Any, found: Entry, place: keras_weights.Weights, where: str, scratch: Path | None) -> NDArray[Any]:
    offset, dtype = dataset.id.get_offset(), named_dtype(found.dtype)
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
        reserved(file, size(found))
        result = np.memmap(file, named_dtype(found.dtype), "r+", 0, found.shape)
        for box in dataset.iter_chunks():
            result[box] = np.asarray(dataset[box]).view(result.dtype)
        return result
