"""Groups and cases of learned tables: rows that are looked up, and tables that are resized."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from vectors import resize_conditions, resize_kernels
from vectors.book import Book
from vectors.rounding import FORMATS, bits, decimal, exact, number

Spec = dict[str, Any]
Grid = tuple[int, ...]


def record(length: int, dim: int, **changed: Any) -> Spec:
    """The canonical JSON object of a specification: every field, in the order of its definition."""
    spec: Spec = {"schema": 1, "family": "learned", "length": length, "dim": dim, "offset": 0, "padding": None}
    spec |= {"grid": None, "tokens": 0, "output_scale": 1.0}
    if not changed.keys() <= spec.keys():
        raise KeyError(f"not fields of a specification: {sorted(changed.keys() - spec.keys())}")
    return spec | changed


def patches(grid: Grid, dim: int, tokens: int) -> Spec:
    return record(tokens + math.prod(grid), dim, grid=list(grid), tokens=tokens)


def numbered(rows: int, dim: int) -> list[int]:
    """Numerators that tell every row from every other, in its first two channels; none is 0."""
    tails = (numerator or 77 for numerator in scattered(rows * dim, 5))
    return [
        value
        for row in range(rows)
        for value in itertools.islice(itertools.chain([row % 125 + 1, -(row // 125) - 1][:dim], tails), dim)
    ]


def scattered(count: int, seed: int) -> list[int]:
    """Numerators of seven bits and a sign, in no order."""
    state, result = seed, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        result.append((state >> 16) % 255 - 127)
    return result


class LearnedBook(Book):
    """Collects lookups and resizings."""

    def __init__(self) -> None:
        super().__init__("learned")

    def lookups(self, name: str, spec: Spec, sources: Sequence[str], *, tier: int = 3, **more: Any) -> Lookups:
        """A group of lookups; the cases are added one by one."""
        name = f"{name}.lookup"
        return Lookups(self, name, self.group("lookup", name, spec, sources, tier=tier, **more), spec)

    def resize(
        self,
        method: str,
        spec: Spec,
        sources: Sequence[str],
        targets: Sequence[tuple[Grid, list[str]]],
        *,
        tier: int = 3,
        dtypes: Sequence[str] = tuple(FORMATS),
        numerators: list[int] | None = None,
        power: int = 5,
    ) -> None:
        """One group: the shapes that a table is resized to, and the flags of each."""
        name, own = f"{method}.resize", {"tier": tier}
        own |= {} if len(dtypes) == len(FORMATS) else {"dtypes": list(dtypes)}
        group = self.group("resize", name, spec, sources, **own)
        rows, dim = spec["length"] + spec["offset"], spec["dim"]
        numerators = numerators or scattered(rows * dim, rows)
        given = {"shape": [rows, dim], "numerators": numerators, "power": power}
        table = [read(numerator, power, dtypes) for numerator in numerators]
        grid = spec["grid"] or [spec["length"] - spec["tokens"]]
        kept = (spec["offset"] + spec["tokens"]) * dim
        for target, flags in targets:
            values, floats = table[:kept], [float(x) for x in table[:kept]]
            size = math.prod(target)
            columns = [resized(method, tuple(grid), target, table[kept + c :: dim]) for c in range(dim)]
            values += [columns[c][0][o] for o in range(size) for c in range(dim)]
            floats += [columns[c][1][o] for o in range(size) for c in range(dim)]
            case: dict[str, Any] = {"id": self.identifier(name), "flags": flags, "weights": given}
            case |= {"target": list(target), "method": method, "shape": [kept // dim + size, dim]}
            case |= {"decimal": [decimal(exact(value)) for value in values]}
            group["cases"].append(case | {fmt: [_word(value, fmt) for value in floats] for fmt in dtypes})


class Lookups:
    """One group of lookups."""

    def __init__(self, book: Book, name: str, group: dict[str, Any], spec: Spec) -> None:
        self.book, self.name, self.group, self.spec = book, name, group, spec

    def __call__(self, shape: Sequence[int], positions: Sequence[int] | range, *flags: str, rows: Any = None) -> None:
        """A case; `rows` are those that a published function makes of the tokens, -1 where there is none."""
        spec, dim = self.spec, self.spec["dim"]
        count, low = spec["length"] + spec["offset"], 0 if spec["padding"] is None else -1
        read_rows = [p + spec["offset"] if low <= p < spec["length"] else None for p in positions]
        if rows is not None and read_rows != list(rows):
            raise ArithmeticError(f"{self.name}: positions {positions} are rows {rows}")
        numerators, power = numbered(count, dim), 6
        given = {"range": [positions.start, positions.stop, positions.step]} if isinstance(positions, range) else {}
        given = given or {"shape": list(shape), "values": list(positions)}
        case: dict[str, Any] = {"id": self.book.identifier(self.name), "flags": list(flags)}
        case |= {"weights": {"shape": [count, dim], "numerators": numerators, "power": power}, "positions": given}
        case |= {"shape": [*shape, dim]} | ({"outside": True} if None in read_rows else {})
        for fmt in self.group.get("dtypes", FORMATS):
            case[fmt] = []
            for row in read_rows:
                own = [None] * dim if row is None else numerators[row * dim : (row + 1) * dim]
                case[fmt] += ["nan" if x is None else self._scaled(read(x, power, [fmt]), fmt) for x in own]
        self.group["cases"].append(case)

    def _scaled(self, value: Fraction, fmt: str) -> str:
        """The row itself; with a scale the product in float32 or float64, then one rounding."""
        wide = "float64" if fmt == "float64" else "float32"
        if self.spec["output_scale"] != 1:
            scale = number(bits(Fraction(Decimal(repr(self.spec["output_scale"]))), wide), wide)
            value = number(bits(value * scale, wide), wide)
        return f"{bits(value, fmt):0{FORMATS[fmt][3] // 4}x}"


def read(numerator: int, power: int, dtypes: Sequence[str]) -> Fraction:
    """A number that every format holds exactly, as a normal one."""
    value = Fraction(numerator, 2**power)
    for fmt in dtypes:
        precision, least, _, _ = FORMATS[fmt]
        if number(bits(value, fmt), fmt) != value or 0 < abs(value) < Fraction(2) ** (least + precision - 1):
            raise ValueError(f"{numerator} * 2^-{power} is no normal {fmt}")
    return value


def resized(method: str, grid: Grid, target: Grid, column: list[Fraction]) -> tuple[list[Fraction], list[float]]:
    """One channel: exactly; and as float64 arithmetic gives it, the first axis first, taps in ascending order."""
    values, floats, sizes = column, [float(x) for x in column], list(grid)
    for axis, m in enumerate(target):
        if method == "dino_bicubic" and grid == target:  # interpolate_pos_encoding returns early
            break
        rows = resize_kernels.weights(method, sizes[axis], m)
        if rows != resize_conditions.weights(method, sizes[axis], m):
            raise ArithmeticError(f"{method}, {sizes[axis]} to {m}: two ways to the weights differ")
        after, before = math.prod(sizes[axis + 1 :]), math.prod(sizes[:axis])
        lines = [
            slice((b * sizes[axis]) * after + a, (b + 1) * sizes[axis] * after, after)
            for b in range(before)
            for a in range(after)
        ]
        whole = [[_exact_sum(row, values[line]) for row in rows] for line in lines]
        single = [[_float_sum(row, floats[line]) for row in rows] for line in lines]
        order = [(b * after + a, o) for b in range(before) for o in range(m) for a in range(after)]
        values, floats = ([part[line][o] for line, o in order] for part in (whole, single))
        sizes[axis] = m
    return values, floats


def _exact_sum(row: list[Fraction], values: list[Fraction]) -> Fraction:
    return sum((w * x for w, x in zip(row, values, strict=True)), Fraction(0))


def _float_sum(row: list[Fraction], values: list[float]) -> float:
    """In Python floats, which never fuse; and once more in fractions, each step rounded."""
    taps = [(float(w), x) for w, x in zip(row, values, strict=True) if w]
    total, steps = taps[0][0] * taps[0][1], _round(Fraction(taps[0][0]) * Fraction(taps[0][1]))
    for w, x in taps[1:]:
        total = total + w * x
        steps = _round(steps + _round(Fraction(w) * Fraction(x)))
    if Fraction(total) != steps:
        raise ArithmeticError(f"{taps}: {total} and {steps}")
    return total


def _round(value: Fraction) -> Fraction:
    return number(bits(value, "float64"), "float64")


def _word(value: float, fmt: str) -> str:
    digits = FORMATS[fmt][3] // 4
    sign = 1 << (4 * digits - 1) if math.copysign(1, value) < 0 else 0
    return f"{bits(abs(Fraction(value)), fmt) | sign:0{digits}x}"


# --- Published functions that make rows of tokens ---


def make_positions(tokens: list[list[int]], padding_idx: int) -> Iterator[int]:
    """fairseq/utils.py: `(cumsum(mask, 1) * mask) + padding_idx`; transformers has it for RoBERTa."""
    for row in tokens:
        mask = [int(token != padding_idx) for token in row]
        for total, own in zip(itertools.accumulate(mask), mask, strict=True):
            yield total * own + padding_idx


def opt_rows(masks: list[list[int]]) -> Iterator[int]:
    """modeling_opt.py: `cumsum(mask) * mask - 1`, and 2 more inside the embedding."""
    for mask in masks:
        for total, own in zip(itertools.accumulate(mask), mask, strict=True):
            yield total * own - 1 + 2


def counted(masks: list[list[int]]) -> list[int]:
    """Positions of padded rows: tokens counted from 0, -1 at padding."""
    return [sum(mask[: i + 1]) - 1 if mask[i] else -1 for mask in masks for i in range(len(mask))]
