"""Groups and cases of what depends on a pair of positions: rows of tables, and biases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from vectors.book import Book, position_flags
from vectors.rounding import FORMATS, bits, decimal, exact, number, pattern

Row = Callable[[Any, Any], int]
"""What a pair of positions, query first, comes to: integers, or tuples of coordinates."""


class Places(NamedTuple):
    """Positions `(*B, length)`, or `(*B, length, axes)`, row-major."""

    shape: tuple[int, ...]
    values: Sequence[int]
    axes: int = 1

    @property
    def lead(self) -> tuple[int, ...]:
        return self.shape[: -1 if self.axes == 1 else -2]

    @property
    def length(self) -> int:
        return self.shape[len(self.lead)]

    def at(self, lead: Sequence[int], index: int) -> Any:
        """One position in the row that broadcasting to a place of the result gives."""
        row = 0
        for size, place in zip(self.lead, lead[len(lead) - len(self.lead) :], strict=True):
            row = row * size + (place if size > 1 else 0)
        first = (row * self.length + index) * self.axes
        return self.values[first] if self.axes == 1 else tuple(self.values[first : first + self.axes])

    def written(self) -> dict[str, Any]:
        if isinstance(self.values, range):
            return {"range": [self.values.start, self.values.stop, self.values.step]}
        return {"shape": list(self.shape), "values": list(self.values)}


def places(values: Any) -> Places:
    """A range, or nested lists of integers; coordinates are tuples."""
    if isinstance(values, range):
        return Places((len(values),), values)
    shape, flat = [len(values)], list(values)
    while isinstance(flat[0], list):
        shape.append(len(flat[0]))
        flat = [entry for row in flat for entry in row]
    if isinstance(flat[0], tuple):
        axes = len(flat[0])
        return Places((*shape, axes), [number_ for entry in flat for number_ in entry], axes)
    return Places(tuple(shape), flat)


class Pairs(NamedTuple):
    """Every query with every key of its row."""

    query: Places
    key: Places

    @property
    def lead(self) -> tuple[int, ...]:
        one, other = self.query.lead, self.key.lead
        return tuple(map(max, one, other)) if one and other else one or other

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.lead, self.query.length, self.key.length)

    def pair(self, batch: int, place: int, at: int) -> tuple[Any, Any]:
        """One query and one key; `batch` counts the rows of the leading axes."""
        rows = []
        for size in reversed(self.lead):
            batch, row = divmod(batch, size)
            rows.insert(0, row)
        return self.query.at(rows, place), self.key.at(rows, at)

    def places(self, pairs: Sequence[tuple[int, int]] | None = None) -> Iterator[tuple[int, int, int]]:
        """Of all pairs, or those given, in every row: row, place of the query, place of the key."""
        length, keys = self.query.length, self.key.length
        chosen = list(itertools.product(range(length), range(keys))) if pairs is None else sorted(pairs)
        return ((batch, *pair) for batch in range(math.prod(self.lead)) for pair in chosen)

    def all(self) -> Iterator[tuple[int, Any, Any]]:
        return ((place[0], *self.pair(*place)) for place in self.places())


class Table(NamedTuple):
    """Numbers of a table, numerator * 2^-power, in a dtype that holds them."""

    dtype: str
    shape: tuple[int, int]
    numerators: list[int]
    power: int

    def value(self, row: int, column: int) -> Fraction:
        return Fraction(self.numerators[row * self.shape[1] + column], 2**self.power)

    def written(self) -> dict[str, Any]:
        for numerator in self.numerators:
            value = Fraction(numerator, 2**self.power)
            if number(bits(value, self.dtype), self.dtype) != value:
                raise ValueError(f"{value} is no {self.dtype}")
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "numerators": self.numerators,
            "power": self.power,
        }


def word(value: Fraction, dtype: str) -> str:
    """The hexadecimal pattern of an exact number; an infinity where rounding overflows."""
    try:
        return f"{bits(value, dtype):0{FORMATS[dtype][3] // 4}x}"
    except OverflowError:
        return infinity(dtype, negative=value < 0)


def infinity(dtype: str, *, negative: bool) -> str:
    precision, _, _, width = FORMATS[dtype]
    found = (((1 << (width - precision)) - 1) << (precision - 1)) + (int(negative) << (width - 1))
    return f"{found:0{width // 4}x}"


class PairsBook(Book):
    """Collects groups of rows and biases."""

    def rows(
        self,
        name: str,
        spec: dict[str, Any],
        row: Row,
        sources: Sequence[str],
        questions: Sequence[tuple[Any, Any]],
        *,
        flags: Sequence[str] = (),
        tier: int = 3,
        outside: bool = False,
        **more: Any,
    ) -> None:
        """One group of rows, a case for every pair of query and key positions."""
        group = self.group("rows", name, spec, sources, tier=tier, **more)
        for query, key in questions:
            case, pairs = self._case(name, query, key, flags)
            case["shape"] = list(pairs.shape)
            case["rows"] = [row(q, k) for _, q, k in pairs.all()]
            group["cases"].append(case | ({"outside": True} if outside else {}))

    def slopes(
        self,
        name: str,
        spec: dict[str, Any],
        slopes: Sequence[Any],
        multiple: Row,
        sources: Sequence[str],
        questions: Sequence[tuple[Any, Any]],
        *,
        heads: Sequence[int] | None = None,
        pairs: Sequence[tuple[int, int]] | None = None,
        flags: Sequence[str] = (),
        tier: int = 3,
        dtypes: Sequence[str] = tuple(FORMATS),
        **more: Any,
    ) -> None:
        """One group of biases that are slopes times integers: of the heads and pairs named, or of all."""
        group = self.group("bias", f"{name}.bias", spec, sources, tier=tier, dtypes=list(dtypes), **more)
        for query, key in questions:
            case, asked = self._case(f"{name}.bias", query, key, flags)
            *lead, length, keys = asked.shape
            shape = case["shape"] = [*lead, len(slopes), length, keys]
            entries, values = [], []
            for batch, place, at in asked.places(pairs):
                whole = multiple(*asked.pair(batch, place, at))
                for head in range(len(slopes)) if heads is None else heads:
                    entries.append(((batch * len(slopes) + head) * length + place) * keys + at)
                    values.append(slopes[head] * whole)
            entries, values = map(list, zip(*sorted(zip(entries, values, strict=True)), strict=True))
            if len(entries) < math.prod(shape):
                case["entries"] = entries
            case["decimal"] = [decimal(value) for value in values]
            group["cases"].append(case | {dtype: [_slope_word(v, dtype) for v in values] for dtype in dtypes})

    def weights(
        self,
        name: str,
        spec: dict[str, Any],
        row: Row,
        sources: Sequence[str],
        table: Table,
        questions: Sequence[tuple[Any, Any]],
        *,
        flags: Sequence[str] = (),
        tier: int = 3,
        outside: bool = False,
        dtypes: Sequence[str] = tuple(FORMATS),
    ) -> None:
        """One group of biases that are numbers of a table, rounded once: whole answers."""
        group = self.group("bias", f"{name}.bias", spec, sources, tier=tier, dtypes=list(dtypes))
        heads = table.shape[1]
        for query, key in questions:
            case, asked = self._case(f"{name}.bias", query, key, flags)
            *lead, length, keys = asked.shape
            case["shape"], size = [*lead, heads, length, keys], length * keys
            found = [row(q, k) for _, q, k in asked.all()]
            case["weights"] = table.written()
            for dtype in dtypes:
                case[dtype] = [
                    "nan" if number_ < 0 else word(table.value(number_, head), dtype)
                    for start in range(0, len(found), size)
                    for head in range(heads)
                    for number_ in found[start : start + size]
                ]
            group["cases"].append(case | ({"outside": True} if outside else {}))

    def _case(self, name: str, query: Any, key: Any, flags: Sequence[str]) -> tuple[dict[str, Any], Pairs]:
        """What is written of a pair of positions, and its pairs."""
        asked = Pairs(places(query), places(key))
        own = pair_flags([*asked.query.values, *asked.key.values]) + (["OwnPositions"] if asked.lead else [])
        case = {"id": self.identifier(name), "flags": [*flags, *(flag for flag in own if flag not in flags)]}
        return case | {"query": asked.query.written(), "key": asked.key.written()}, asked


def _slope_word(value: Any, dtype: str) -> str:
    try:
        return pattern(value, dtype)
    except OverflowError:
        return infinity(dtype, negative=value < 0)


def pair_flags(values: Sequence[int]) -> list[str]:
    """What is passed by the positions of one question."""
    ends = [min(values), max(values)] if values else []
    return list(dict.fromkeys(flag for end in ends for flag in position_flags(Fraction(end))))


def power(base: int, exponent: Fraction) -> Any:
    """base^exponent, exactly where the exponent is an integer."""
    if exponent.denominator == 1:
        return exact(Fraction(base) ** int(exponent))
    return exact(Fraction(base)) ** exact(exponent)
