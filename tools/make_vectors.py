"""Write the conformance vectors, from the papers and with mpmath alone: nothing of posenc is imported here.

`python tools/make_vectors.py` writes one file a family into `posenc/conformance/vectors`; `--check` compares them, byte
for byte, with what would be written, and names the first line that differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vectors import (
    alibi_groups,
    groups,
    learned_groups,
    learned_notes,
    notes,
    pair_notes,
    relative_groups,
    rope_groups,
    rope_notes,
    t5_groups,
)
from vectors.book import Book
from vectors.rounding import FORMATS

FOLDER = Path(__file__).parent.parent / "posenc" / "conformance" / "vectors"
FAMILIES = {
    "sinusoidal": (groups.compose, notes.ABOUT, notes.NOTES),
    "rope": (rope_groups.compose, rope_notes.ABOUT, rope_notes.NOTES),
    "alibi": (alibi_groups.compose, pair_notes.ALIBI_ABOUT, pair_notes.ALIBI_NOTES),
    "t5": (t5_groups.compose, pair_notes.T5_ABOUT, pair_notes.T5_NOTES),
    "relative": (relative_groups.compose, pair_notes.RELATIVE_ABOUT, pair_notes.RELATIVE_NOTES),
    "learned": (learned_groups.compose, learned_notes.ABOUT, learned_notes.NOTES),
}


def text(family: str, compose: Callable[[], Book], about: list[str], notes: dict[str, Any]) -> str:
    """The file: one case a line."""
    groups = compose().groups
    cases = [case for group in groups for case in group["cases"]]
    values = sum(map(entries, cases))
    head = {"schema": 1, "version": "1.0.0", "family": family, "license": "CC0-1.0", "about": about}
    head |= {"counts": {"groups": len(groups), "cases": len(cases), "values": values}, "notes": notes}
    lines = [f'  "{key}": {json.dumps(value, indent=1)},' for key, value in head.items()]
    blocks = []
    for group in groups:
        own = {key: value for key, value in group.items() if key != "cases"}
        rows = ",\n".join(f"      {json.dumps(case, separators=(',', ':'))}" for case in group["cases"])
        blocks.append(f'    {json.dumps(own)[:-1]}, "cases": [\n{rows}\n    ]}}')
    return "\n".join(["{", *lines, '  "groups": [', ",\n".join(blocks), "  ]", "}", ""])


def entries(case: dict[str, Any]) -> int:
    """How many values a case gives."""
    return next(len(case[name]) for name in ("words", "rows", "decimal", *FORMATS) if name in case)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args(arguments).check
    differ = 0
    for family, parts in FAMILIES.items():
        path, made = FOLDER / f"{family}.json", text(family, *parts)
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8")
            continue
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        if kept == made:
            continue
        pairs = zip(kept.split("\n"), made.split("\n"), strict=False)
        line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), "the shorter file's end")
        print(f"{path.name} is not what tools/make_vectors.py makes: first difference at line {line}", file=sys.stderr)
        differ = 1
    return differ


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
