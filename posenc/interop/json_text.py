"""JSON that comes from elsewhere: of limited size, and with every key once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

GREATEST = 100_000_000  # bytes; the limit of the reference implementation of safetensors for its headers


class RepeatedKeyError(ValueError):
    """A key that one object has twice; Python would keep the last, other readers the first."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r:.200} twice in one object")
        self.key = key


def read(path: Path) -> Any:
    """The value in a file; ValueError, which says what was received, where that is no JSON or too much of it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > GREATEST:
            raise ValueError(f"{size} bytes, more than {GREATEST}")
        return parse(file.read())


def parse(text: bytes) -> Any:
    """The value that `text`, in UTF-8, stands for; ValueError where it stands for none."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("brackets that are nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RepeatedKeyError(name)
            seen.add(name)
    return record
