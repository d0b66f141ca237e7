"""Files of tensors as sources of a port, by their format, and safetensors as a target. Pickles are refused."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.interop import checkpoint_files, json_text, keras_files, npz_files
from posenc.interop.checkpoint_layout import RECORD
from posenc.interop.contents import DTYPES
from posenc.interop.port_check import Step
from posenc.interop.port_libraries import named_dtype
from posenc.interop.safetensors_header import METADATA, CheckpointError, read_header
from posenc.interop.tensor_source import Source, checked, mapped, size

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".msgpack")
_FORMATS = "a safetensors file, an index or a folder of one, .npz, .weights.h5 or .keras"
_CODES = {name: code for code, name in DTYPES.items()}


@contextlib.contextmanager
def open_source(path: Path | str, scratch: Path | None = None) -> Iterator[Source]:
    """The tensors of a file: safetensors (also an index of shards, or a folder), `.npz`, `.weights.h5` or `.keras`.

    Nothing but headers is read before a tensor is sliced; what is compressed goes to a temporary file in the folder
    `scratch` (None: the system's). Raises CheckpointError for pickles, other formats, and files that are not what
    their format says.
    """
    path = Path(path)
    _refuse_pickles(path)
    if path.name.endswith(".npz"):
        opened = npz_files.opened(path, scratch)
    elif path.name.endswith((".weights.h5", ".keras")):
        opened = keras_files.opened(path, scratch)
    elif path.name.endswith(".weights.json"):
        raise CheckpointError(f"{path}: expected Keras weights in one file, received an index of shards of them")
    elif path.is_dir() or path.name.endswith((".safetensors", ".json")):
        opened = _safetensors(path)
    else:
        path.stat()  # OSError where it does not exist
        raise CheckpointError(f"{path}: expected {_FORMATS}, received {path.suffix or 'a name without a suffix'}")
    with opened as source:
        yield source


def _refuse_pickles(path: Path) -> None:
    """By their content as well: some are called as if they were something else."""
    if path.is_dir():
        return
    with path.open("rb") as file:
        start = file.read(9)
        # safetensors may begin with these two bytes, and then has its header from the ninth on
        pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[8:] != b"{"
        if start[:4] == b"PK\x03\x04":
            # an archive that is damaged is refused by what opens it as its format, with a better sentence
            with contextlib.suppress(zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
                pickled = any(Path(name).name == "data.pkl" for name in zipfile.ZipFile(file).namelist())
    if pickled or path.name.endswith(_PICKLES):
        raise CheckpointError(
            f"{path}: expected {_FORMATS}, received a pickle or what may be one, which runs code as it is read and is "
            "never unpickled here: load it where it comes from and save its state_dict by safetensors.torch.save_file"
        )


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Source]:
    index, paths = checkpoint_files.files(path)
    headers = {each: read_header(each) for each in paths}
    if index is not None:
        checkpoint_files.check_index(index, headers)
    if len({header.metadata.get(RECORD) for header in headers.values()}) > 1:
        raise CheckpointError(f"{path}: expected files of one layout, received differing ones in {RECORD}")
    entries, places = {}, {}
    with contextlib.ExitStack() as stack:
        for each, header in headers.items():
            file = stack.enter_context(each.open("rb"))
            for tensor in header.tensors:
                where = f"{each}: {tensor.name!r:.200}"
                dtype = DTYPES.get(tensor.dtype, tensor.dtype)
                entries[tensor.name] = checked(where, tensor.shape, dtype)
                places[tensor.name] = file, where, header.data_start + tensor.begin

        def read(name: str) -> NDArray[Any]:
            file, where, offset = places[name]
            return mapped(file, where, entries[name], offset)

        metadata = {key: text for header in headers.values() for key, text in header.metadata.items()}
        yield Source(entries, metadata, read)


def check_steps(target: Path, steps: Sequence[Step]) -> None:
    """Refuse, before anything is written, what a safetensors file cannot hold."""
    for step in steps:
        if step.after.dtype not in _CODES:
            raise CheckpointError(
                f"{target}: {step.target!r:.200}: expected a dtype of safetensors, received {step.after.dtype}"
            )
        if step.target == METADATA or any("\ud800" <= character <= "\udfff" for character in step.target):
            raise CheckpointError(f"{target}: expected names in Unicode but {METADATA}, received {step.target!r:.200}")


def write(
    path: Path,
    steps: Sequence[Step],
    pieces: Callable[[Step], Iterator[NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    """The results of `steps` as a new safetensors file at `path`; `pieces` gives each as flat arrays, in C order."""
    # the order of the reference implementation: what has the largest items comes first and is aligned
    ordered = sorted(steps, key=lambda step: (-named_dtype(step.after.dtype).itemsize, step.target))
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    begin = 0
    for step in ordered:
        end = begin + size(step.after)
        code, shape = _CODES[step.after.dtype], list(step.after.shape)
        entries[step.target] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > json_text.GREATEST:
        raise CheckpointError(f"{path}: expected a header of at most {json_text.GREATEST} bytes, received {len(text)}")
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for step in ordered:
            for piece in pieces(step):
                file.write(piece.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
