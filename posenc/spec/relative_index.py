"""Rows of relative embeddings that are read by the distance itself: Shaw, Transformer-XL, Music Transformer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from posenc.spec import checks
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

GREATEST_LENGTH = 2**30


@dataclass(frozen=True, slots=True)
class ShawClip:
    """Clipped distances of Shaw et al.: row = min(max(j - i, -left), right) + left, of left + right + 1 rows.

    i is the position of the query, j that of the key. In the paper left = right = k, and the rows of two tables, shared
    by all heads, are added to keys and values.

    Parameters
    ----------
    left : >= 0: how far behind the query keys still have a row of their own.
    right : >= 0: how far ahead of it; None: as far as `left`. Wav2Vec2-BERT has 64 and 8.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Shaw et al. 2018 (arXiv 1803.02155), section 3.2; tensor2tensor/layers/common_attention.py,
    `_generate_relative_positions_matrix`, k = 20. Deviation: the `relative_key` of older BERT code has i - j.
    """

    left: int
    right: int | None = None

    def __post_init__(self) -> None:
        for name in ("left", "right"):
            value = self.left if name == "right" and self.right is None else getattr(self, name)
            object.__setattr__(self, name, _length(f"ShawClip.{name}", value, minimum=0))
        _check_rows("ShawClip.right", self.row_count, self._right)

    @property
    def row_count(self) -> int:
        """Rows of the table."""
        return self.left + self._right + 1

    @property
    def _right(self) -> int:
        return self.left if self.right is None else self.right

    def plan(self) -> DistancePlan:
        """Lower to runs of distances."""
        between = (Run(-self.left, 0, 1),) if self.row_count > 1 else ()
        runs = (Run(LEAST_DISTANCE, 0), *between, Run(self._right, self.left + self._right))
        return DistancePlan(axes=(runs,), rows=self.row_count, heads=None)


@dataclass(frozen=True, slots=True)
class TransformerXLIndex:
    """Rows of Transformer-XL's R, whose row 0 is the furthest distance: row = longest - (i - j).

    i is the position of the query, j that of the key, and R encodes the distances longest, longest - 1, ..., shortest
    of query minus key, by `Sinusoidal(dim, layout="sin_cos", denominator_shift=0)` at these positions in the paper. A
    pair of another distance has no row: `rows` is -1 there, and what the published shift leaves there is undefined.

    Parameters
    ----------
    longest : >= 0: the greatest distance. With a memory of m tokens and n new ones it is m + n - 1; in XLNet, whose R
        begins one further away, m + n.
    shortest : <= `longest`: 0 where keys ahead of the query are masked (Transformer-XL); 1 - n in both directions
        (XLNet, and Conformer's R of 2n - 1 rows).

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Dai et al. 2019 (arXiv 1901.02860), section 3.3 and appendix B; kimiyoung/transformer-xl, pytorch/
    mem_transformer.py, `_rel_shift`; transformers, models/xlnet/modeling_xlnet.py, `relative_positional_encoding`.
    """

    longest: int
    _: KW_ONLY
    shortest: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", _length("TransformerXLIndex.longest", self.longest, minimum=0))
        shortest = checks.integer("TransformerXLIndex.shortest", self.shortest, limit=GREATEST_LENGTH + 1)
        if shortest > self.longest:
            raise checks.SpecError(
                f"TransformerXLIndex.shortest: expected an integer <= {self.longest}, the longest, received {shortest}"
            )
        object.__setattr__(self, "shortest", shortest)
        _check_rows("TransformerXLIndex.shortest", self.row_count, shortest)

    @classmethod
    def causal(cls, length: int) -> TransformerXLIndex:
        """Transformer-XL: R of `length` keys, distances length - 1 ... 0."""
        return cls(_length("TransformerXLIndex.causal.length", length, minimum=1) - 1, shortest=0)

    @classmethod
    def bidirectional(cls, length: int) -> TransformerXLIndex:
        """Conformer and others: R of 2 * length - 1 rows, distances length - 1 ... 1 - length."""
        longest = _length("TransformerXLIndex.bidirectional.length", length, minimum=1) - 1
        return cls(longest, shortest=-longest)

    @property
    def row_count(self) -> int:
        """Rows of R."""
        return self.longest - self.shortest + 1

    def plan(self) -> DistancePlan:
        """Lower to runs of distances."""
        return DistancePlan(axes=(_window(-self.longest, self.row_count, 1),), rows=self.row_count, heads=None)


@dataclass(frozen=True, slots=True)
class MusicTransformerIndex:
    """Rows of the Music Transformer's table E, whose last row (causal) is distance 0: row = length - 1 + (j - i).

    i is the position of the query, j that of the key. Causal, E has `length` rows and keys ahead of the query none:
    `rows` is -1 in the triangle that the published skewing leaves undefined. Bidirectional, E has 2 * length - 1 rows.
    So has a pair further apart than E reaches none.

    Parameters
    ----------
    length : >= 1: the distances 0 ... length - 1 have rows.
    bidirectional : False in the paper. No default.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Huang et al. 2018 (arXiv 1809.04281), section 3.4.1; tensor2tensor/layers/common_attention.py,
    `_relative_position_to_absolute_position_masked` and `_unmasked`.
    """

    length: int
    _: KW_ONLY
    bidirectional: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", _length("MusicTransformerIndex.length", self.length, minimum=1))
        checks.boolean("MusicTransformerIndex.bidirectional", self.bidirectional)

    @property
    def row_count(self) -> int:
        """Rows of E."""
        return 2 * self.length - 1 if self.bidirectional else self.length

    def plan(self) -> DistancePlan:
        """Lower to runs of distances."""
        return DistancePlan(axes=(_window(1 - self.length, self.row_count, 1),), rows=self.row_count, heads=None)


def _window(first: int, count: int, step: int) -> tuple[Run, ...]:
    """`count` distances from `first` on with a row each, 0, step, 2 * step, ...; none before and behind them."""
    return Run(LEAST_DISTANCE, None), Run(first, 0, step), Run(first + count, None)


def _check_rows(where: str, rows: int, value: int) -> None:
    """Rows are int32."""
    if rows > checks.POSITION_LIMIT:
        raise checks.SpecError(f"{where}: expected at most 2^31 rows, received {value}, which makes {rows}")


def _length(where: str, value: object, *, minimum: int) -> int:
    return checks.integer(where, value, minimum=minimum, maximum=GREATEST_LENGTH)
