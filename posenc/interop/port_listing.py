"""What a port does, in lines: tensors that differ in their numbers alone are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posenc.interop import tensor_patterns
from posenc.interop.contents import Entry
from posenc.interop.port_moves import told
from posenc.interop.port_plan import Plan
from posenc.interop.port_step import Step
from posenc.interop.tensor_names import summary


def listing(plan: Plan, steps: Sequence[Step], left_out: Sequence[str], kept: Sequence[str]) -> list[str]:
    """The lines: every move with shapes and dtypes before and after, then what is left out and what is kept."""
    groups: dict[tuple[int, Entry, Entry], list[Step]] = {}
    for step in steps:
        groups.setdefault((id(step.move), step.before, step.after), []).append(step)
    lines = [_title(len(steps), "moved")]
    for (_, before, after), group in groups.items():
        what = _shown(before) if before == after else f"{_shown(before)} -> {_shown(after)}"
        names = (_names([step.source for step in group]), _names([step.target for step in group]))
        lines.append(f"  {' -> '.join(names)}: {', '.join([what, *told(group[0].move)])}")
    return lines + _reasons("left out", left_out, plan.left_out) + _reasons("kept", kept, plan.kept)


def _title(count: int, what: str) -> str:
    return f"{count} tensor is {what}:" if count == 1 else f"{count} tensors are {what}:"


def _shown(entry: Entry) -> str:
    return f"{entry.dtype} {list(entry.shape)}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"{name!r:.200}" for name in summary(names))


def _reasons(what: str, names: Sequence[str], reasons: Mapping[str, str]) -> list[str]:
    lines, there = [], dict.fromkeys(names)
    for pattern, reason in reasons.items():
        found = list(tensor_patterns.matching(pattern, there))
        lines += [f"  {_names(found)}: {reason}"] if found else []
    return [_title(len(names), what), *lines] if names else []
