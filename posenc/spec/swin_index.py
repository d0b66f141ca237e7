"""Swin Transformer's relative position bias: one number a head for every offset inside a window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from posenc.spec import checks
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

GREATEST_WINDOW = 2**14


@dataclass(frozen=True, slots=True)
class SwinIndex:
    """Rows of Swin v1's table: a mixed-radix number of the offsets on each axis, query minus key.

    With a window of M_0 x M_1 x ... tokens and the coordinates a (query) and b (key) of two of them,

        row = sum over the axes x of (a_x - b_x + M_x - 1) * product over the later axes y of (2 * M_y - 1)

    which for a square of two axes is (dh + M - 1) * (2M - 1) + dw + M - 1. The bias of head h is `weights[row, h]`.
    Positions are coordinates, `(..., length, axes)`; `positions()` has those of one window, row by row. Tokens that are
    M_x or more apart on an axis are not in one window: a mistake, which is refused on the host and has row -1, bias
    NaN, in a trace.

    Parameters
    ----------
    heads : number of heads, >= 1.
    window : tokens on each axis, each from 1 to 16,384: two in Swin, three in Video Swin.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Liu et al. 2021 (arXiv 2103.14030), equation 4; microsoft/Swin-Transformer, models/swin_transformer.py. Deviations:
    BEiT and its kin append three rows for a class token; Swin v2 has a small network in place of the table.
    """

    heads: int
    window: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", checks.integer("SwinIndex.heads", self.heads, minimum=1))
        object.__setattr__(self, "window", checks.sizes("SwinIndex.window", self.window, maximum=GREATEST_WINDOW))
        if self.row_count > checks.POSITION_LIMIT:
            raise checks.SpecError(f"SwinIndex.window: expected at most 2^31 offsets, received {self.window}")

    @property
    def row_count(self) -> int:
        """Rows of the table: one for every offset."""
        return math.prod([2 * size - 1 for size in self.window])  # a list, as torch.compile traces no generator here

    @property
    def weight_shape(self) -> tuple[int, int]:
        """`(offsets, heads)`."""
        return self.row_count, self.heads

    def positions(self) -> list[int] | list[tuple[int, ...]]:
        """The coordinates of all tokens of a window, row by row: the last axis runs fastest; of one axis, integers."""
        if len(self.window) == 1:
            return list(range(self.window[0]))
        return list(product(*(range(size) for size in self.window)))

    def plan(self) -> DistancePlan:
        """Lower to runs of distances on each axis."""
        axes, radix = [], self.row_count
        for size in self.window:
            radix //= 2 * size - 1
            # the distance of the plan is key minus query: the greatest offset comes first
            axes.append((Run(LEAST_DISTANCE, None), Run(1 - size, (2 * size - 2) * radix, -radix), Run(size, None)))
        return DistancePlan(axes=tuple(axes), rows=self.row_count, heads=self.heads, strict=True)
