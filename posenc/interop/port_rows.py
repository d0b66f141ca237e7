"""Which row of one table each row of another gets, decided by their plans for every position or distance at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from posenc.interop.port_moves import Rows
from posenc.spec import SpecError
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run, rows_plan
from posenc.spec.plan import lowered
from posenc.spec.row_plan import RowPlan

GREATEST_ROWS = 2**24
FILLED = -1
"""In place of the row of a source: the row has none, and is filled."""
Numbers = NDArray[np.int64]


def source_rows(rows: Rows) -> Numbers:
    """For every row of the target the row of the source that it gets, `(rows,)`; `FILLED` where `rows.fill` applies.

    Raises SpecError where a row of the target would need a row that the source does not have, or several of them.
    """
    learned = lowered(rows.source, RowPlan), lowered(rows.target, RowPlan)
    if None not in learned:
        return _by_position(rows, *learned)  # type: ignore[arg-type]  # just checked
    if learned != (None, None):
        kind = "position" if learned[1] is None else "distance"
        raise SpecError(f"Rows.target: expected rows that are read by {kind}, as the source's, received {rows.target}")
    return _by_distance(rows, rows_plan("Rows.source", rows.source), rows_plan("Rows.target", rows.target))


def _by_position(rows: Rows, source: RowPlan, target: RowPlan) -> Numbers:
    for name in ("dim", "output_scale", "grid", "tokens"):
        _check_same(name, *(getattr(spec, name, None) for spec in (rows.source, rows.target)))
    _check_same("scale", source.scale, target.scale)  # of a specification that has another name for it
    _check_count(target.rows)
    if target.high > source.high:
        raise SpecError(
            f"Rows.target: expected positions up to {source.high}, the last that the source has, received "
            f"{source.high + 1} too, whose row would have to be trained"
        )
    if target.low < source.low and rows.fill is None:
        raise SpecError(
            f"Rows.fill: expected 'zeros', as the source has no row for position {target.low}, that of padding tokens, "
            "received None"
        )
    result = np.arange(target.rows)
    result += source.offset - target.offset
    read = target.offset + target.low
    if source.offset != target.offset:
        if read and rows.fill is None:
            raise _unread_error(0)
        result[:read] = FILLED
    result[read : target.offset + max(target.low, source.low)] = FILLED
    return result


def _check_same(name: str, source: object, target: object) -> None:
    if source != target:
        resized = "; `resize` changes a grid" if name == "grid" else ""
        raise SpecError(f"Rows.target: expected the {name} of the source, {source}, received {target}{resized}")


def _check_count(rows: int) -> None:
    if rows > GREATEST_ROWS:
        raise SpecError(f"Rows.target: expected at most {GREATEST_ROWS} rows, received {rows}")


def _unread_error(row: int) -> SpecError:
    return SpecError(
        f"Rows.fill: expected 'zeros', as row {row} of the target is one that nothing reads, received None"
    )


def _by_distance(rows: Rows, source: DistancePlan, target: DistancePlan) -> Numbers:
    _check_same("heads", source.heads, target.heads)
    _check_same("number of axes", len(source.axes), len(target.axes))
    _check_same("anchor", *("the key alone" if plan.anchored else "the query" for plan in (source, target)))
    assert target.rows is not None  # noqa: S101  # rows_plan has seen it
    _check_count(target.rows)
    if rows.source == rows.target:
        return np.arange(target.rows)
    axes = [_numbers(*runs) for runs in zip(source.axes, target.axes, strict=True)]
    shape = tuple(len(distances) for distances, _, _ in axes)
    wanted, had = (_sums([axis[which] for axis in axes]) for which in (2, 1))

    def at(place: np.intp) -> str:
        numbers = [int(axis[0][i]) for axis, i in zip(axes, np.unravel_index(place, shape), strict=True)]
        return f"distance {numbers[0] if len(numbers) == 1 else tuple(numbers)}"

    lacking = had < 0
    if lacking.any():
        place = lacking.argmax()
        raise SpecError(
            f"Rows.target: expected distances that the source has rows for, received {at(place)}, "
            f"which reads row {wanted[place]} of the target"
        )
    result = np.full(target.rows, FILLED)
    result[wanted] = had
    differing = result[wanted] != had
    if differing.any():
        place = differing.argmax()
        row = wanted[place]
        other = ((wanted == row) & ~differing).argmax()
        first, second = (f"row {had[i]} at {at(i)}" for i in sorted((place, other)))
        raise SpecError(
            f"Rows.target: expected one row of the source for row {row} of the target, received {first} and {second}"
        )
    unread = result == FILLED
    if unread.any() and rows.fill is None:
        raise _unread_error(int(unread.argmax()))
    return result


def _numbers(source: tuple[Run, ...], target: tuple[Run, ...]) -> tuple[Numbers, Numbers, Numbers]:
    """Distances along one axis, and what the source and the target have there; none where the target has no row.

    Of distances between which nothing changes there is one, so that long runs cost nothing. NONE: no row.
    """
    firsts = sorted({run.first for run in (*source, *target)})
    parts = [np.empty((3, 0), np.int64)]
    for first, end in pairwise([*firsts, firsts[-1] + 1]):  # from the last one on nothing changes
        (had, moving), (wanted, step) = (_linear(runs, first) for runs in (source, target))
        if wanted is None:
            continue
        # where only the source's row changes, two distances show that there is no answer
        count = end - first if step else min(end - first, 2 if moving else 1)
        places = np.arange(count)
        rows = np.full(count, _NONE) if had is None else had + moving * places
        shown = end - 1 if first == LEAST_DISTANCE else first  # below every distance is none that could be named
        parts.append(np.stack([shown + places, rows, wanted + step * places]))
    distances, had_rows, wanted_rows = np.concatenate(parts, axis=1)
    return distances, had_rows, wanted_rows


_NONE = -(2**40)
"""Stays negative in a sum with the rows of other axes."""


def _linear(runs: tuple[Run, ...], distance: int) -> tuple[int | None, int]:
    """The number at a distance where no run begins before the next one, and what it grows by from there on."""
    run = next(run for run in reversed(runs) if run.first <= distance)
    if run.number is None:
        return None, 0
    return run.number + run.step * (distance - run.first), run.step


def _sums(numbers: list[Numbers]) -> Numbers:
    """The sum over the axes for every combination, `(combinations,)`, the last axis fastest."""
    total = np.zeros(1, np.int64)
    for of_axis in numbers:
        total = np.add.outer(total, of_axis).reshape(-1)
    return total
