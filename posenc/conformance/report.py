"""Results as a table, as JSON, and as JUnit XML."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any
from xml.etree import ElementTree as ET

from posenc import __version__
from posenc.conformance.cases import Vectors
from posenc.conformance.run import CONFORMANT, NOT_RUN, Result

HEADER = ("family", "column", "variant", "dtype", "cases", "worst distance", "verdict")


def row(result: Result) -> tuple[str, ...]:
    """One line of the table, under `HEADER`."""
    names = result.family, result.column.framework, result.column.variant or "host"
    if result.reason:
        return (*names, "", "", "", f"{NOT_RUN}: {result.reason}")
    return (*names, result.dtype, str(result.cases), _distance(result), result.verdict)


def _distance(result: Result) -> str:
    if not result.cases:
        return ""
    if not result.bounded:
        return "not identical" if result.disagreements else "identical"
    if result.column.mode.name != "N1":
        return f"{_share(result):.2f} of the bound"
    turned = f", turned {result.worst_turned.share:.2f} of the bound" if result.worst_turned.share else ""
    return f"{result.worst.units} ulp{turned}"


def _share(result: Result) -> float:
    return max(result.worst.share, result.worst_at_floats.share, result.worst_turned.share)


def table(results: Sequence[Result]) -> str:
    """The table as plain text, each column as wide as it needs to be."""
    rows = [HEADER, *(row(result) for result in results)]
    widths = [max(len(line[k]) for line in rows) for k in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in rows)


def summary(results: Sequence[Result]) -> str:
    """The last line: how many columns agree, and what that means."""
    ran = [result for result in results if result.verdict != NOT_RUN]
    columns = {result.column.name for result in ran}
    failed = list(dict.fromkeys(f"{result.column.name} ({result.verdict})" for result in results if result.failed))
    if failed:
        return f"Failed: {', '.join(failed)}."
    if not ran:
        return "Nothing ran."
    cases = sum(result.cases for result in ran)
    bits = sorted({result.column.name for result in ran if result.column.mode.name == "N1"})
    names = f"{len(columns)} columns and variants conform" if len(columns) > 1 else f"{ran[0].column.name} conforms"
    text = f"{names} in {cases:,} cases."
    if len(bits) > 1:
        text += (
            f" {', '.join(bits)} agree to the last bit on encodings, tables, biases and learned tables in float32, "
            "bfloat16 and float16 at integer positions."
        )
    return text


def complaints(results: Sequence[Result]) -> dict[str, list[str]]:
    """By column, what it got wrong."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.disagreements:
            found.setdefault(result.column.name, []).extend(result.disagreements)
    return found


def exit_code(results: Sequence[Result]) -> int:
    """0 conformant, 1 not, 3 nothing ran."""
    if any(result.failed for result in results):
        return 1
    return 0 if any(result.verdict == CONFORMANT for result in results) else 3


def as_json(results: Sequence[Result], families: Sequence[Vectors]) -> str:
    """Everything, for machines."""
    return json.dumps(
        {"schema": 2, **_surroundings(families), "results": [_record(result) for result in results]}, indent=1
    )


def _record(result: Result) -> dict[str, Any]:
    return {
        "family": result.family,
        "column": result.column.framework,
        "variant": result.column.variant or "host",
        "mode": result.column.mode.name,
        "dtype": result.dtype or None,
        "cases": result.cases,
        "worst_units": result.worst.units,
        "worst_error": result.worst.error,
        "worst_share_of_bound": _share(result),
        "verdict": result.verdict,
        "reason": result.reason or None,
        "disagreements": result.disagreements,
        "seconds": round(result.seconds, 3),
    }


def _surroundings(families: Sequence[Vectors]) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in ("numpy", "ml_dtypes", "torch", "jax", "tensorflow", "keras"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "posenc": __version__,
        "vectors": {own.family: {"version": own.version, "sha256": own.digest} for own in families},
        "python": platform.python_version(),
        "machine": f"{sys.platform} {platform.machine()}",
        "frameworks": versions,
    }


def as_junit(results: Sequence[Result]) -> str:
    """JUnit XML: one test case a row of the table."""
    suite = ET.Element("testsuite", name="posenc check", tests=str(len(results)))
    suite.set("failures", str(sum(result.failed for result in results)))
    suite.set("skipped", str(sum(result.verdict == NOT_RUN and not result.failed for result in results)))
    suite.set("time", f"{sum(result.seconds for result in results):.3f}")
    for result in results:
        name = f"{result.column.name} {result.dtype}".strip()
        case = ET.SubElement(suite, "testcase", classname=result.family, name=name, time=f"{result.seconds:.3f}")
        if result.failed:
            complaints = result.disagreements or [result.reason or "no case was asked"]
            ET.SubElement(case, "failure", message=complaints[0]).text = "\n".join(complaints)
        elif result.reason:
            ET.SubElement(case, "skipped", message=result.reason)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
