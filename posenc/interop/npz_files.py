"""`.npz` files as sources and targets of a port: every array is read and written piece by piece.

NumPy's own reader decompresses and reads whole arrays, and its writer takes them.
"""

from __future__ import annotations

import contextlib
import io
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop import zip_members
from posenc.interop.contents import Entry
from posenc.interop.port_check import Step
from posenc.interop.port_libraries import named_dtype
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import Source, checked, mapped, refusing, size

_GREATEST_HEADER = 10_000  # bytes, as of NumPy, which reads them all before it looks at how many they are
_SUFFIX = ".npy"


class _Array(NamedTuple):
    """What the header of a member says, and its length."""

    entry: Entry
    fortran: bool
    header: int


@contextlib.contextmanager
def opened(path: Path, scratch: Path | None = None) -> Iterator[Source]:
    """The arrays of an `.npz` file by their names; `scratch` is the folder for those that have to be decompressed."""
    with zip_members.opened(path) as archive:
        arrays = {}
        for name in archive.members:
            if not name.endswith(_SUFFIX):
                raise CheckpointError(f"{path}: expected members that are arrays, *.npy, received {name!r:.200}")
            with archive.open(name) as member:
                arrays[name.removesuffix(_SUFFIX)] = _array(f"{path}: {name!r:.200}", member)
            there, expected = archive.members[name].file_size, arrays[name.removesuffix(_SUFFIX)]
            if there != expected.header + size(expected.entry):
                raise CheckpointError(
                    f"{path}: {name!r:.200}: expected {expected.header + size(expected.entry)} bytes, as its header "
                    f"says, received {there}"
                )

        def read(name: str) -> NDArray[Any]:
            member, array = name + _SUFFIX, arrays[name]
            start = archive.start(member)
            file, start = (archive.spooled(member, scratch), 0) if start is None else (archive.file, start)
            where, begin = f"{path}: {member!r:.200}", start + array.header
            return mapped(file, where, array.entry, begin, order="F" if array.fortran else "C")

        yield Source({name: array.entry for name, array in arrays.items()}, {}, read)


def _array(where: str, member: IO[bytes]) -> _Array:
    errors = (*zip_members.ERRORS, SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError)
    with refusing(where, "an array in NumPy's format", *errors):
        start = member.read(8)
        if start not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):  # 3.0 is for names of fields
            raise CheckpointError(f"{where}: expected an array in NumPy's format, received bytes that begin {start!r}")
        count = 2 if start[6] == 1 else 4
        length = member.read(count)
        header = int.from_bytes(length, "little")
        if header > _GREATEST_HEADER:
            raise CheckpointError(
                f"{where}: expected a header of {_GREATEST_HEADER} bytes at most, received one of {header}"
            )
        parse = np.lib.format.read_array_header_1_0 if count == 2 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = parse(io.BytesIO(length + member.read(header)))
    if dtype.hasobject:
        raise CheckpointError(f"{where}: expected numbers, received Python objects, pickled, which are never unpickled")
    if dtype.kind == "V":
        raise CheckpointError(
            f"{where}: expected a dtype that says what its bytes are, received {dtype}: NumPy's files have no bfloat16 "
            "and no float8, so save float32, or save safetensors"
        )
    if not dtype.isnative:
        raise CheckpointError(f"{where}: expected numbers in the byte order of this machine, received {dtype.str!r}")
    name = dtype.name if dtype.kind in "biufc" else dtype.str
    return _Array(checked(where, shape, name), fortran, 8 + count + header)


def check_steps(target: Path, steps: Sequence[Step]) -> None:
    """Refuse, before anything is written, what an `.npz` file cannot hold."""
    for step in steps:
        if named_dtype(step.after.dtype).isbuiltin != 1:
            raise CheckpointError(
                f"{target}: {step.target!r:.200}: expected a dtype of NumPy, or dtype='float32' in the move, or a "
                f"target in safetensors, received {step.after.dtype}, which .npz does not have"
            )
        parts = step.target.split("/")
        if "\\" in step.target or not step.target.isprintable() or {"", ".", ".."} & set(parts) or ":" in parts[0]:
            raise CheckpointError(
                f"{target}: expected names that a zip archive can have, received {step.target!r:.200}"
            )


def write(path: Path, steps: Sequence[Step], pieces: Callable[[Step], Iterator[NDArray[Any]]]) -> None:
    """The results of `steps` as a new file at `path`, uncompressed; `pieces` gives each as flat arrays, in C order."""
    with zipfile.ZipFile(path, "x") as archive:
        for step in steps:
            # the date is fixed, so that equal tensors are equal files
            member = zipfile.ZipInfo(step.target + _SUFFIX, date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as file:
                descr = np.lib.format.dtype_to_descr(named_dtype(step.after.dtype))
                header = {"descr": descr, "fortran_order": False, "shape": step.after.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for piece in pieces(step):
                    file.write(piece.view(np.uint8).data)
