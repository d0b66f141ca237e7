"""Running columns over the vectors, and what came of it: one result a column, family and dtype."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from posenc.conformance.cases import INTEGERS, Group, Vectors
from posenc.conformance.columns import Column
from posenc.conformance.judge import Disagreement, Distance, judge
from posenc.conformance.protocol import DTYPES, NotRun, Subject

Announce = Callable[[str], None]
"""Told what is running."""

CONFORMANT, NOT_CONFORMANT, NOT_RUN = "conformant", "not conformant", "not run"


@dataclass(slots=True)
class Result:
    """What one column did on all its cases of one dtype (or on the phases, or the rows)."""

    family: str
    column: Column
    dtype: str
    cases: int = 0
    worst: Distance = field(default_factory=Distance)
    """At integer positions."""
    worst_at_floats: Distance = field(default_factory=Distance)
    """At float positions, where next to a zero one unit is next to nothing."""
    worst_turned: Distance = field(default_factory=Distance)
    """Of rotations, where that is so next to a difference that is zero."""
    disagreements: list[str] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""
    """Why it was not run."""
    required: bool = False
    """Whether that is a failure: the column was asked for by name."""

    @property
    def bounded(self) -> bool:
        """Whether anything but identical bits was allowed in any of the cases."""
        return self.worst.bounded or self.worst_at_floats.bounded or self.worst_turned.bounded

    @property
    def verdict(self) -> str:
        if self.reason:
            return NOT_RUN
        return NOT_CONFORMANT if self.disagreements or not self.cases else CONFORMANT

    @property
    def failed(self) -> bool:
        return self.required if self.reason else self.verdict == NOT_CONFORMANT


def check(
    columns: Iterable[Column],
    families: Sequence[Vectors],
    announce: Announce = lambda _: None,
    *,
    required: bool = False,
) -> Iterator[Result]:
    """One result a column, family and dtype, in order; a column that cannot start gives its families the reason."""
    for column in columns:
        announce(f"{column.name}: starting")
        try:
            subject = column.start()
        except NotRun as reason:
            for vectors in families:
                yield Result(vectors.family, column, "", reason=str(reason), required=required)
            continue
        except Exception as error:  # a broken installation is a verdict on this column, not the end of the others
            for vectors in families:
                yield Result(
                    vectors.family, column, "", disagreements=[f"{column.name} does not start: {_one_line(error)}"]
                )
            continue
        for vectors in families:
            announce(f"{column.name}: {vectors.family}")
            yield from _examine(subject, column, vectors)


def asked(column: Column, group: Group, dtype: str) -> bool:
    """Whether a column is asked for a group in this dtype."""
    if group.tier > column.tier or group.position_dtype not in column.position_dtypes:
        return False
    if group.integers or dtype in INTEGERS:
        return group.integers == dtype
    if dtype not in group.dtypes or dtype not in column.dtypes:
        return False
    return (group.of_one_call and group.position_dtype == "integer") or dtype in column.aside


def _examine(subject: Subject, column: Column, vectors: Vectors) -> list[Result]:
    """One result a dtype that the column is asked for; where that is none, one without a case, which is a failure."""
    dtypes = [d for d in (*INTEGERS, *DTYPES) if any(asked(column, group, d) for group in vectors.groups)]
    results = [Result(vectors.family, column, dtype) for dtype in dtypes or [""]]
    for group in vectors.groups:  # one after the other: what a specification comes to is kept for the next dtype
        for result in results:
            if asked(column, group, result.dtype):
                _ask(subject, group, result)
    return results


def _ask(subject: Subject, group: Group, result: Result) -> None:
    begin = time.perf_counter()
    result.cases += len(group.cases)
    try:
        for verdict in judge(subject, result.column.mode, group, result.dtype):
            if group.kind in ("rotate", "turn"):
                result.worst_turned = result.worst_turned.worst(verdict.distance)
            elif group.position_dtype == "integer":
                result.worst = result.worst.worst(verdict.distance)
            else:
                result.worst_at_floats = result.worst_at_floats.worst(verdict.distance)
            if verdict.disagreement is not None:
                result.disagreements.append(str(verdict.disagreement))
    except Exception as error:  # whatever a subject raises is its answer
        result.disagreements.append(f"{group.cases[0].id} and its group: {_one_line(error)}")
    result.seconds += time.perf_counter() - begin


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, Disagreement) else f"{type(error).__name__}: {text[:300]}"
