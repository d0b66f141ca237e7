"""One comparison, on its way to being told: the numbers side by side and why they differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from posenc.interop.comparison_formats import Float64, half_unit, shared
from posenc.interop.comparison_inputs import Positions
from posenc.interop.comparison_words import Cause, causes


@dataclass(frozen=True)
class Case:
    """Numbers side by side, what each may be off by, and why they differ (None: unexplained)."""

    expected: Float64
    received: Float64
    allowed: Float64
    axes: tuple[str, ...]
    positions: tuple[Positions, ...]
    """Of the first axes; of the last ones for a bias, which has heads before."""
    found: tuple[Cause, ...] | None
    bound: str
    """How `allowed` was derived."""
    weak: str = ""
    """Why nothing can be told, if so."""

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Positions in place of indices."""
        first = 1 if self.axes[0] == "head" else 0
        known = {first + axis: one for axis, one in enumerate(self.positions)}
        return tuple(int(known[axis][i]) if axis in known else i for axis, i in enumerate(index))


Tolerance = float | None
FLOAT32 = "what angles in float32 may be off by"
EQUAL = "equal numbers"


def extended(case: Case, *layout: Cause) -> Case:
    """The case with a layout that was seen before; one that is unexplained stays so."""
    if not layout or case.found is None:
        return case
    rest = [cause for cause in case.found if cause.name != "layout"]
    texts = [*(one.text for one in layout), *(one.text for one in case.found if one.name == "layout")]
    return replace(case, found=causes(Cause("layout", ", and ".join(texts)), *rest))


def unit(e: Float64, r: Float64) -> Float64:
    """One unit of a half format that both are in, where `e` is: correct numbers may be rounded to either side."""
    for name in shared(e, r):
        return 2 * half_unit(e, name)
    return np.zeros_like(e)
