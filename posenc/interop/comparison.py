"""What differs between two positional encodings, position by position: layout, offset, base, scaling, sign or dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from posenc.interop.comparison_bias import biases
from posenc.interop.comparison_case import Case
from posenc.interop.comparison_matrices import encodings, tables
from posenc.interop.comparison_rotations import rotations
from posenc.interop.comparison_words import CAUSES
from posenc.spec import checks

__all__ = ["Comparison", "Different", "compare"]

What = Literal["encoding", "table", "rotation", "bias"]
Difference = Literal["nothing", "layout", "offset", "base", "scaling", "sign", "dtype", "unexplained", "cannot tell"]


class Different(AssertionError):
    """Two encodings that are not the same, or of which it cannot be told."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        super().__init__(str(comparison))


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `print(comparison)` says it in a few sentences.

    Parameters
    ----------
    what : which kind of encoding was compared.
    differences : `("nothing",)`, or every cause there is: two or three of `layout`, `offset`, `base`, `scaling`, `sign`
        and `dtype` where they come together. `unexplained`: they differ, and by no cause that is known here.
        `cannot tell`: what was compared is alike, or not, for reasons that would hide any of them.
    explanation : one clause for each, with numbers.
    index : where they are furthest apart: position (query and key) and channel; of a bias head, query and key.
    expected, received, distance : there. allowed : how far apart correct ones may be there.
    compared : how many numbers.
    tolerance : what `allowed` is, in words.
    """

    what: What
    differences: tuple[Difference, ...]
    explanation: str
    index: tuple[int, ...]
    where: str
    expected: float
    received: float
    distance: float
    allowed: float
    compared: int
    tolerance: str

    @property
    def difference(self) -> Difference:
        """The first of `differences`."""
        return self.differences[0]

    def assert_nothing(self) -> None:
        """Raise `Different`, an AssertionError that says what differs, unless that is nothing."""
        if self.differences != ("nothing",):
            raise Different(self)

    def __str__(self) -> str:
        apart = f"expected {self.expected:.9g}, received {self.received:.9g}, {self.distance:.3g} apart"
        return (
            f"{self.explanation}. Furthest apart at {self.where}: {apart}, where {self.allowed:.3g} is allowed "
            f"({self.tolerance}). Compared: {self.compared} numbers."
        )


def compare(
    expected: Any,
    received: Any,
    *,
    what: What,
    positions: Any = None,
    key_positions: Any = None,
    head_dim: int | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Compare two implementations or two tables, and say what differs.

    Parameters
    ----------
    expected, received : arrays of NumPy, PyTorch (any dtype, with or without gradient), JAX, TensorFlow, or functions
        that return them; one may be an array and the other a function. Functions get NumPy arrays. By `what`:

        `encoding` : `(length, dim)`, row i for position i; or `positions -> (length, dim)`. Sinusoidal and learned
            tables, and weights: a layout permutes the rows of a projection. A sinusoidal table is known from eight
            rows, of which two follow one another; what is shorter has to be equal.
        `table` : `(cos, sin)`, each `(length, pairs)`, or with every pair twice, `(length, head_dim)`, one half after
            the other or side by side; or `positions -> (cos, sin)`.
        `rotation` : `(x, positions) -> x'` for float32 `(length, head_dim)` and int64 `(length,)`, of which some come
            more than once. What turns q and k together: `lambda x, p: turn(x[None, None], x[None, None], p)[0][0, 0]`.
        `bias` : `(*heads, queries, keys)`, or `(query_positions, key_positions) -> (*heads, queries, keys)`. Integers
            are bucket numbers.
    positions : ascending integers, at which functions are asked, and where the rows of arrays stand. By default rows
        count from 0, and functions are asked at 0 to 519, at runs about 2,048, 8,192 and 65,536, and up to 131,071; a
        bias at queries and keys 0 to 319. Frequencies are read from positions that follow one another: without such a
        run a base or a scaling is not named. Queries, for a bias.
    key_positions : keys, for a bias; by default those of the queries.
    head_dim : the width of x, for a rotation.
    tolerance : how far apart numbers may be and agree. None: as the dtype and the formula have it. Learned tables and
        biases have to be equal, ALiBi to 2^-19 of itself (a slope in float32 has been measured 9 units off). Sines and
        cosines may be off by what correct float32 angles f * p are,

            magnitude * (2^-22 * (2.5 + 0.7 |ln f|) * f * |p| + 2^-21),

        which grows with the position, so that 131,071 agrees and a missing rotation of slow pairs at position 10 does
        not (`posenc.interop.comparison_waves.allowed` derives it). Frequencies of pi and more a position look slower.
        Two of one half format may be one unit apart besides.

    Raises SpecError for what is no such pair. A difference is no error: `compare(...).assert_nothing()` makes it one.
    """
    checks.choice("compare.what", what, ("encoding", "table", "rotation", "bias"))
    if (key_positions is not None) > (what == "bias"):
        raise checks.SpecError(f"compare.key_positions: expected None with what={what!r}, received a value")
    if (head_dim is not None) != (what == "rotation"):
        expected_ = "the width of x" if what == "rotation" else f"None with what={what!r}"
        raise checks.SpecError(f"compare.head_dim: expected {expected_}, received {checks.shown(head_dim)}")
    if tolerance is not None:
        tolerance = checks.non_negative("compare.tolerance", tolerance)
    if head_dim is not None:
        width = checks.integer("compare.head_dim", head_dim, minimum=1)
        case = rotations(expected, received, positions, width, tolerance)
    elif what == "bias":
        case = biases(expected, received, positions, key_positions, tolerance)
    else:
        case = (encodings if what == "encoding" else tables)(expected, received, positions, tolerance)
    return _told(what, case)


def _told(what: What, case: Case) -> Comparison:
    with np.errstate(invalid="ignore"):
        apart = np.where(case.expected == case.received, 0.0, np.abs(case.expected - case.received))
    index = np.unravel_index(int(np.argmax(np.nan_to_num(apart, nan=np.inf))), apart.shape)
    at = tuple(int(i) for i in index)
    differences, explanation = _causes(case, float(apart[index]))
    return Comparison(
        what=what,
        differences=differences,
        explanation=explanation,
        index=at,
        where=", ".join(f"{axis} {i}" for axis, i in zip(case.axes, case.place(at), strict=True)),
        expected=float(case.expected[index]),
        received=float(case.received[index]),
        distance=float(apart[index]),
        allowed=float(case.allowed[index]),
        compared=case.expected.size,
        tolerance=case.bound,
    )


def _causes(case: Case, apart: float) -> tuple[tuple[Difference, ...], str]:
    if case.weak and apart == 0:
        return ("cannot tell",), f"cannot tell: {case.weak}; the numbers are equal"
    if case.weak:
        return ("cannot tell",), f"cannot tell: {case.weak}; the numbers are up to {apart:.3g} apart"
    if case.found is None:
        return ("unexplained",), f"unexplained: the numbers are up to {apart:.3g} apart, by no cause that is known here"
    if not case.found:
        return ("nothing",), f"nothing differs: the numbers are at most {apart:.3g} apart"
    names = {cause.name for cause in case.found}
    differences = tuple(name for name in CAUSES if name in names)
    return differences, "; ".join(f"{cause.name}: {cause.text}" for cause in case.found)  # type: ignore[return-value]
