"""Learned absolute encodings: a table of trained rows, its offsets, and how it is resized."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import Literal

from posenc.spec import checks, resampling
from posenc.spec.resampling import Method
from posenc.spec.row_plan import ResizePlan, RowPlan

GREATEST_LENGTH = 2**30
GREATEST_DIM = 2**20


@dataclass(frozen=True, slots=True)
class Learned:
    """A table of trained rows, one for each position from 0 to `length` - 1, as `weights` of shape `weight_shape`.

    A position p reads row p + `offset` of `length` + `offset` rows, times `output_scale`. Any other position is outside
    the table: never clamped, never counted from the end; but for position -1, that of padding tokens, where `padding`
    admits it.

    Parameters
    ----------
    length : number of positions, >= 1; not of rows: a RoBERTa of 514 rows has 512.
    dim : width of a row, from 1 to 2^20.
    offset : rows before that of position 0: 2 in OPT and BART, padding_idx + 1 in fairseq and RoBERTa.
    padding : what position -1 reads. None: nothing, it is outside the table. `row`: row `offset` - 1, as any other.
        `frozen`: that row, through which no gradient passes; its initial values are zero.
    grid : of a table of patches, their number on each axis, such as (14, 14): the last `prod(grid)` positions, row by
        row. None: the positions behind `tokens` are a grid of one axis.
    tokens : positions before the patches, for class and register tokens: 1 in ViT. `resize` copies their rows. Tokens
        that have no row, as DINOv2's registers, are put between after the encoding was added.
    output_scale : from 2^-20 to 2^20: `dim ** -0.5` in x-transformers.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Gehring et al. 2017 (arXiv 1705.03122), section 3.1; Devlin et al. 2018 (arXiv 1810.04805), section 3.2; Dosovitskiy
    et al. 2020 (arXiv 2010.11929), section 3.1. Named conventions, with source each: `fairseq`, `roberta`, `opt`,
    `bart`, `patches`.
    """

    length: int
    dim: int
    _: KW_ONLY
    offset: int = 0
    padding: Literal["row", "frozen"] | None = None
    grid: tuple[int, ...] | None = None
    tokens: int = 0
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        settle("length", checks.integer("Learned.length", self.length, minimum=1, maximum=GREATEST_LENGTH))
        settle("dim", checks.integer("Learned.dim", self.dim, minimum=1, maximum=GREATEST_DIM))
        settle("padding", checks.choice("Learned.padding", self.padding, ("row", "frozen", None)))
        settle("offset", checks.integer("Learned.offset", self.offset, minimum=0, maximum=GREATEST_LENGTH))
        if self.padding is not None and not self.offset:
            raise checks.SpecError("Learned.offset: expected an integer >= 1 where padding has a row, received 0")
        settle("tokens", checks.integer("Learned.tokens", self.tokens, minimum=0))
        settle("output_scale", checks.number("Learned.output_scale", self.output_scale, low=2.0**-20, high=2.0**20))
        if self.tokens >= self.length:
            raise checks.SpecError(
                f"Learned.tokens: expected an integer below the length {self.length}, received {self.tokens}"
            )
        if self.grid is not None:
            settle("grid", checks.sizes("Learned.grid", self.grid, maximum=GREATEST_LENGTH))
            if math.prod(self.grid) != self.length - self.tokens:
                raise checks.SpecError(
                    f"Learned.grid: expected sizes whose product is {self.length - self.tokens}, the length less the "
                    f"tokens, received {self.grid}"
                )

    @classmethod
    def fairseq(cls, length: int, dim: int, *, padding_idx: int = 1) -> Learned:
        """fairseq: the first token reads row padding_idx + 1, padding tokens row padding_idx, which stays as it is.

        Of a token sequence, positions count the tokens that are no padding: `cumsum(mask) - 1`, and -1 at padding.
        Source: fairseq/modules/learned_positional_embedding.py.
        """
        row = checks.integer("Learned.fairseq.padding_idx", padding_idx, minimum=0, maximum=GREATEST_LENGTH - 1)
        return cls(length, dim, offset=row + 1, padding="frozen")

    @classmethod
    def roberta(cls, length: int, dim: int, *, padding_idx: int = 1) -> Learned:
        """RoBERTa in transformers, which is fairseq's: `length` is `max_position_embeddings` - padding_idx - 1.

        Source: transformers, models/roberta/modeling_roberta.py, `create_position_ids_from_input_ids`.
        """
        return cls.fairseq(length, dim, padding_idx=padding_idx)

    @classmethod
    def opt(cls, length: int, dim: int) -> Learned:
        """OPT: row p + 2, of `length` + 2 rows; padding tokens, at -1, read row 1, which is trained like the others.

        Source: transformers, models/opt/modeling_opt.py, `OPTLearnedPositionalEmbedding`.
        """
        return cls(length, dim, offset=2, padding="row")

    @classmethod
    def bart(cls, length: int, dim: int) -> Learned:
        """BART and mBART: row p + 2, of `length` + 2 rows; padding tokens are counted like the others.

        Source: transformers, models/bart/modeling_bart.py, `BartLearnedPositionalEmbedding`.
        """
        return cls(length, dim, offset=2)

    @classmethod
    def patches(cls, grid: tuple[int, ...], dim: int, *, tokens: int = 1) -> Learned:
        """A table of image patches behind `tokens` class and register tokens: ViT, DeiT, CLIP, DINOv2.

        Its positions are `range(tokens + prod(grid))`.
        """
        shape = checks.sizes("Learned.patches.grid", grid, maximum=GREATEST_LENGTH)
        before = checks.integer("Learned.patches.tokens", tokens, minimum=0)
        return cls(before + math.prod(shape), dim, grid=shape, tokens=before)

    @property
    def weight_shape(self) -> tuple[int, int]:
        """`(length + offset, dim)`."""
        return self.length + self.offset, self.dim

    def plan(self) -> RowPlan:
        """Lower to the row of a position."""
        return RowPlan(
            rows=self.length + self.offset,
            dim=self.dim,
            offset=self.offset,
            low=0 if self.padding is None else -1,
            high=self.length - 1,
            frozen_position=-1 if self.padding == "frozen" else None,
            scale=self.output_scale,
        )

    def resized(self, shape: tuple[int, ...]) -> Learned:
        """The specification of the table that `resize` makes: `shape` in place of the grid.

        Raises SpecError for another number of axes, or sizes below 1.
        """
        whole = _shape("Learned.resized", self._grid, shape)
        grid = None if self.grid is None else whole
        return replace(self, length=self.tokens + math.prod(whole), grid=grid)

    def resizing(self, shape: object, method: object) -> ResizePlan:
        """Lower to the weights of a resampler, in exact arithmetic; the last few results are kept."""
        name = checks.choice("resize.method", method, tuple(resampling.METHODS))
        return _resizing(self, _shape("resize", self._grid, shape), name)

    @property
    def _grid(self) -> tuple[int, ...]:
        return (self.length - self.tokens,) if self.grid is None else self.grid


def _shape(where: str, grid: tuple[int, ...], shape: object) -> tuple[int, ...]:
    result = checks.sizes(f"{where}.shape", shape, maximum=GREATEST_LENGTH)
    if len(result) != len(grid):
        raise checks.SpecError(
            f"{where}.shape: expected {len(grid)} sizes, as the grid {grid} has, received {checks.shown(shape)}"
        )
    return result


@lru_cache(maxsize=32)
def _resizing(spec: Learned, shape: tuple[int, ...], method: Method) -> ResizePlan:
    grid = spec._grid
    rows, dim = spec.weight_shape
    return ResizePlan(
        rows=rows,
        dim=dim,
        kept=spec.offset + spec.tokens,
        grid=grid,
        shape=shape,
        axes=resampling.taps(grid, shape, method),
    )
