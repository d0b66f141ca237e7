"""Plans of learned tables: which row a position reads, and by which weights a table is resized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from posenc.spec import checks
from posenc.spec.plan import lowered


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which row of a table `(rows, dim)` a position reads; all that a backend needs to know of a learned encoding.

    A position p from `low` to `high` reads row p + `offset`, times `scale`: the product of float32 numbers
    (float64 for float64), the scale as the nearest one, rounded to float32 and then to the dtype of the weights; where
    `scale` is 1, the row itself.
    Other positions have no row: refused on the host, NaN in every channel in a trace or on an accelerator, and no
    gradient. The row of `frozen_position` is read like any other, but no gradient reaches it through it.
    """

    rows: int
    dim: int
    offset: int
    low: int
    high: int
    frozen_position: int | None
    scale: float


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """How a table `(rows, dim)` is resized; all that a backend needs to know of a resampler.

    The first `kept` rows are copied bit for bit. The others are a grid of shape `grid`, row-major, and become one of
    shape `shape`, one axis after the other, the first axis first: with the float64 numbers x of the grid,

        y[o] = (...(weights[o][0] * x[index[o][0]] + weights[o][1] * x[index[o][1]]) + ...) along the axis

    for every output o of that axis: each product and each sum is rounded once to float64, taps in ascending order. The
    result is rounded once to the dtype of the table. An axis whose size stays, and whose every weight would be 1, has
    None in place of its taps and is copied.
    """

    rows: int
    dim: int
    kept: int
    grid: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[Taps | None, ...]


@dataclass(frozen=True, slots=True)
class Taps:
    """For every output of an axis the same number of taps: `index` into the inputs, `weights` correctly rounded.

    Where an output has fewer, the last ones have weight 0: they fill up, and are not added.
    """

    index: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]


@runtime_checkable
class RowSpec(Protocol):
    """A specification of a learned table."""

    @property
    def weight_shape(self) -> tuple[int, int]: ...

    def plan(self) -> RowPlan: ...

    def resizing(self, shape: object, method: object) -> ResizePlan: ...


def row_plan(where: str, spec: object) -> RowPlan:
    """The plan of a learned table."""
    plan = lowered(spec, RowPlan)
    if plan is None:
        raise checks.SpecError(
            f"{where}.spec: expected a specification of a learned table such as Learned(512, 768), "
            f"received {checks.shown(spec)}"
        )
    return plan


def resize_plan(where: str, spec: object, shape: object, method: object) -> ResizePlan:
    """How a learned table is resized to `shape`."""
    row_plan(where, spec)
    plan: ResizePlan = spec.resizing(shape, method)  # type: ignore[attr-defined]  # just checked
    return plan
