"""Run the code of docs/differences.md: every entry must print what the page says, under the version that it names.

    python tools/differences.py

Runs in an environment of its own (`make peers`). Each piece of code has a namespace of its own, in this process: to
import the packages takes longer than all else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import peer_environment  # noqa: F401 - before the packages

PAGE = Path(__file__).resolve().parent.parent / "docs" / "differences.md"
CLASSES = ("acknowledged upstream", "differs from its documentation", "convention", "precision")
HEADING = re.compile(r"^## ", re.MULTILINE)
FACTS = re.compile(r"\n\n(?P<package>[\w-]+) (?P<version>[\w.]+) · (?P<kind>[a-z ]+)\n\n")
CODE = re.compile(r"```python\n(?P<code>.+?)```\n\n```text\n(?P<output>.+?)```\n\Z", re.DOTALL)


class Entry(NamedTuple):
    """One difference: its heading, the package and its version, the class, code and what the code prints."""

    title: str
    package: str
    version: str
    kind: str
    code: str
    output: str


def entries() -> list[Entry]:
    """Every entry of the page; an error where one has another form."""
    found = []
    for text in HEADING.split(PAGE.read_text(encoding="utf-8"))[1:]:
        title, facts, code = text.split("\n")[0], FACTS.search(text), CODE.search(text.rstrip() + "\n")
        if facts is None or code is None or facts["kind"] not in CLASSES:
            sys.exit(f"docs/differences.md: {title}: expected package, version and class, then code and its output")
        found.append(Entry(title, *facts.groups(), *code.groups()))
    return found


def wrong(entry: Entry) -> str:
    """What the page says and is no longer so; nothing if all of it is."""
    version = importlib.metadata.version(entry.package)
    if version != entry.version:
        return f"the page says {entry.package} {entry.version}, installed is {version}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            namespace: dict[str, Any] = {"__name__": "entry"}
            exec(compile(entry.code, entry.title, "exec"), namespace)  # noqa: S102 - the code of our own page
    except Exception:
        return traceback.format_exc()
    return "" if printed.getvalue() == entry.output else f"expected\n{entry.output}received\n{printed.getvalue()}"


def check(found: list[Entry]) -> int:
    """Run every entry, print what is wrong, and count it."""
    failed = 0
    for entry in found:
        message = wrong(entry)
        failed += bool(message)
        if message:
            print(f"docs/differences.md: {entry.title}: {message}")
    print(f"docs/differences.md: {len(found) - failed} of {len(found)} entries are as the page says")
    return failed


if __name__ == "__main__":
    sys.exit(1 if check(entries()) else 0)
