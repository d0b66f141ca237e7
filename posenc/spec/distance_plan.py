"""Plans of what depends on a distance: which row of a table a pair of positions reads, or which multiple of a slope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from posenc.spec import checks
from posenc.spec.plan import lowered

LEAST_DISTANCE = -(2**32)
"""Below every distance of two positions."""
NO_ROW = -1
"""What `rows` has where a pair of positions has no row."""


class Run(NamedTuple):
    """Distances from `first` on, up to the next run: `number + step * (distance - first)`; None: no row."""

    first: int
    number: int | None
    step: int = 0


class Slope(NamedTuple):
    """A positive slope: `high + low` is within a relative 2^-72 of it.

    `high` has at most 21 significant bits, so that its product with an integer below 2^32 is exact in float64.
    `float32` is the slope correctly rounded to float32, for traced code.
    """

    high: float
    low: float
    float32: float


@dataclass(frozen=True, slots=True)
class DistancePlan:
    """An integer n for every pair of positions; all that a backend needs to know of a relative encoding.

    **Distance.** On each axis the distance of a pair is d = key - query, an integer with |d| < 2^32; where `anchored`,
    it is d = key. Each axis has its runs, in ascending order, the first from `LEAST_DISTANCE`: of the last run with
    first <= d, the axis has `number + step * (d - first)`, and n is the sum over the axes. Where one of them has None,
    the pair has no row: n is `NO_ROW`, -1. The last run of an axis has step 0, if n is a row: from its first distance
    on nothing changes, as nothing does below the second run.

    **Rows.** Where `rows` is not None, n is a row of a table of that many: an int32 of `rows(...)`, and, where `heads`
    is not None, the bias of head h is `weights[n, h]` of weights `(rows, heads)`; NaN where n is -1.

    **Slopes.** Where `rows` is None, the bias of head h is `slopes[h] * n`, |n| < 2^32.

    `strict`: a pair without a row is a mistake, and refused where the positions are on the host.
    """

    axes: tuple[tuple[Run, ...], ...]
    rows: int | None
    heads: int | None
    slopes: tuple[Slope, ...] = ()
    anchored: bool = False
    strict: bool = False

    def number(self, query: Sequence[int], key: Sequence[int]) -> int:
        """n of one pair of positions, each with one integer an axis: the definition, one by one."""
        total = 0
        for runs, q, k in zip(self.axes, query, key, strict=True):
            distance = k if self.anchored else k - q
            run = next(run for run in reversed(runs) if run.first <= distance)
            if run.number is None:
                return NO_ROW
            total += run.number + run.step * (distance - run.first)
        return total

    def bounds(self, axis: int) -> tuple[int, int]:
        """The least and the greatest distance that have a row on one axis, where `strict`."""
        runs = self.axes[axis]
        return runs[1].first, runs[-1].first - 1


@runtime_checkable
class DistanceSpec(Protocol):
    """A specification that lowers to a distance plan."""

    def plan(self) -> DistancePlan: ...


@runtime_checkable
class SlopeSpec(DistanceSpec, Protocol):
    """A specification whose plan has slopes."""

    def value(self, multiple: int, head: int, dtype: str = "float32") -> float:
        """The correctly rounded product of `multiple` and the slope of a head, by slow exact arithmetic."""
        ...


def rows_plan(where: str, spec: object) -> DistancePlan:
    """The plan of a specification that says which row of a table a pair reads."""
    plan = lowered(spec, DistancePlan)
    if plan is None or plan.rows is None:
        raise checks.SpecError(
            f"{where}.spec: expected a specification with a table of rows such as T5Bias(8, bidirectional=True), "
            f"received {checks.shown(spec)}"
        )
    return plan


def bias_plan(where: str, spec: object) -> DistancePlan:
    """The plan of a specification that has one number a head for every pair."""
    plan = lowered(spec, DistancePlan)
    if plan is None or plan.heads is None:
        raise checks.SpecError(
            f"{where}.spec: expected a specification of a bias such as Alibi.causal(8), received {checks.shown(spec)}"
        )
    return plan
