"""Members of a zip archive, `.npz` or `.keras`: by name, each once, and where the bytes of one are in the file."""

from __future__ import annotations

import contextlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import COPIED, refusing, spooled

_LOCAL_HEADER = 30
ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError, OSError,
    RuntimeError,  # a member that is encrypted
    NotImplementedError,  # a compression that zipfile does not know
)  # fmt: skip


class Archive(NamedTuple):
    """An open archive; what it says of itself is checked where it is used."""

    where: str
    file: IO[bytes]
    zip: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def open(self, name: str) -> IO[bytes]:
        """The bytes of a member as a stream, whose checksum is compared at its end."""
        with refusing(f"{self.where}: {name!r:.200}", "a member that can be read", *ERRORS):
            return self.zip.open(self.members[name])

    def spooled(self, name: str, folder: Path | None) -> IO[bytes]:
        """A temporary file with the bytes of a member."""
        where, info = f"{self.where}: {name!r:.200}", self.members[name]
        with refusing(where, "a member that can be read", *ERRORS), self.open(name) as member:
            file = spooled(member, folder)
        if file.tell() != info.file_size:
            raise CheckpointError(f"{where}: expected {info.file_size} bytes, received {file.tell()}")
        return file

    def start(self, name: str) -> int | None:
        """Where the bytes of a member are in the file, checked against their checksum; None: they are compressed."""
        info, where = self.members[name], f"{self.where}: {name!r:.200}"
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            return None
        with self.open(name) as member, refusing(where, "a member that can be read", *ERRORS):
            while member.read(COPIED):  # raises at the end where the checksum differs
                pass
        self.file.seek(info.header_offset)
        header = self.file.read(_LOCAL_HEADER)
        name, extra = struct.unpack("<HH", header[26:30])
        return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The zip archive at `path`; CheckpointError where it is none or has a name twice."""
    with path.open("rb") as file:
        with refusing(str(path), "a zip archive", *ERRORS):
            archive = zipfile.ZipFile(file)
        with archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise CheckpointError(f"{path}: expected every name once, received some twice")
            yield Archive(str(path), file, archive, members)
