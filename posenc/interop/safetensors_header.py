"""The header of a safetensors file, read strictly: what it says of offsets and sizes is not taken on trust.

The safetensors library does not serve here: its writers take whole tensors, all of a file at once, and so cannot stream
to a file; and it puts names and metadata into an order of its own.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from posenc.interop import json_text

METADATA = "__metadata__"
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class CheckpointError(ValueError):
    """A file that cannot be read or converted; the message says which and why, in one sentence."""


class Tensor(NamedTuple):
    """One entry of the header; `begin` and `end` count bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """Tensors in the order of their bytes, the JSON object that named them, and where the bytes begin."""

    tensors: tuple[Tensor, ...]
    entries: Mapping[str, Any]
    data_start: int

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.entries.get(METADATA) or {}

    def with_metadata(self, added: Mapping[str, str]) -> bytes:
        """The header again, in the order it had, with more metadata."""
        entries = {METADATA: {}, **self.entries}  # keeps its place where there is one, else comes first
        entries[METADATA] = {**self.metadata, **added}
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors stay aligned
        return struct.pack("<Q", len(text)) + text


def read_header(path: Path) -> Header:
    """The header of the file at `path`; CheckpointError where any part of it is not as the format says."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= json_text.GREATEST or 8 + length > size:
            raise CheckpointError(
                f"{path}: expected a safetensors file, whose first 8 bytes are the length of its header, at most "
                f"{json_text.GREATEST}, received a file of {size} bytes that begins with {start!r}"
            )
        text = file.read(length)
    entries = _parse(path, text)
    tensors = [_tensor(path, name, entry) for name, entry in entries.items() if name != METADATA]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    expected = 0
    for tensor in tensors:
        if tensor.begin != expected:
            what = "overlap" if tensor.begin < expected else "leave a gap"
            raise CheckpointError(
                f"{path}: {tensor.name!r:.200}: expected its bytes to begin at {expected}, where the one before ends, "
                f"received {tensor.begin}: they {what}"
            )
        expected = tensor.end
    if 8 + length + expected != size:
        raise CheckpointError(
            f"{path}: expected a file of {8 + length + expected} bytes, as its header says, received one of {size}"
        )
    return Header(tuple(tensors), entries, 8 + length)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json_text.parse(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a header of JSON in UTF-8, received {error}") from None
    if not isinstance(entries, dict) or not text.startswith(b"{"):
        raise CheckpointError(f"{path}: expected a header that is a JSON object, received {type(entries).__name__}")
    metadata = entries.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: {METADATA}: expected an object of strings, received something else")
    for word in (*entries, *metadata, *metadata.values()):
        try:
            word.encode()
        except UnicodeEncodeError:  # JSON can say half of a pair of surrogates
            raise CheckpointError(f"{path}: expected names and metadata in Unicode, received {word!r:.200}") from None
    return entries


def _tensor(path: Path, name: str, entry: object) -> Tensor:
    where = f"{path}: {name!r:.200}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected an object of dtype, shape and data_offsets, received something else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{where}: expected a dtype from {', '.join(BITS)}, received {dtype!r}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: expected a shape and two offsets, received {shape!r:.80} and {offsets!r:.80}")
    bits = math.prod(shape) * BITS[dtype]
    begin, end = offsets
    if bits != 8 * (end - begin):
        raise CheckpointError(
            f"{where}: expected {bits} bits, for {dtype} of the shape {shape}, received the bytes {begin} to {end}"
        )
    return Tensor(name, dtype, tuple(shape), begin, end)


def _counts(values: object) -> bool:
    """Whether this is a list of sizes: of not too many integers from 0 to 2^63 - 1."""
    return (
        isinstance(values, list)
        and len(values) <= 64
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )
