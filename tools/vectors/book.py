"""Groups and cases: what is written of a value, and the numbering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from mpmath import mp, mpf

from vectors.papers import Value
from vectors.rounding import FORMATS, bits, decimal, exact, nearest, number, pattern


def record(dim: int, layout: str, shift: float, **changed: Any) -> dict[str, Any]:
    """The canonical JSON object of a specification: every field, in the order of its definition."""
    spec: dict[str, Any] = {"schema": 1, "family": "sinusoidal", "dim": dim, "layout": layout}
    spec |= {"denominator_shift": float(shift), "base": 10000.0, "min_timescale": 1.0, "timescale_rule": "geometric"}
    spec |= {"position_offset": 0, "position_scale": 1.0, "output_scale": 1.0, "pad": "zero" if dim % 2 else None}
    spec |= {"padding_position": None}
    if not changed.keys() <= spec.keys():
        raise KeyError(f"not fields of a specification: {sorted(changed.keys() - spec.keys())}")
    return spec | changed


def chosen(dim: int) -> list[int]:
    """All channels of a narrow encoding; of a wide one both ends and the middle of each half."""
    half = dim // 2
    if dim <= 8:
        return list(range(dim))
    return sorted({0, 1, 2, 3, half // 2, half - 2, half - 1, half, half + 1, half + half // 2 + 1, dim - 2, dim - 1})


def position_flags(p: Fraction) -> list[str]:
    size = abs(p)
    flags = ["NegativePosition"] if p < 0 else []
    for limit, flag in ((256, "PastBfloat16"), (2048, "PastFloat16"), (65536, "LongContext"), (2**24, "PastFloat32")):
        if size > limit:
            flags.append(flag)
    return [*flags, "GreatestPosition"] if size == 2**31 - 1 else flags


class Book:
    """Collects the groups of one family and numbers their cases."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.groups: list[dict[str, Any]] = []
        self.counters: dict[str, int] = {}

    def identifier(self, name: str) -> str:
        self.counters[name] = self.counters.get(name, 0) + 1
        return f"{self.family}.{name}/{self.counters[name]:04d}"

    def group(self, kind: str, name: str, spec: dict[str, Any], sources: Sequence[str], **more: Any) -> dict[str, Any]:
        group = {"kind": kind, "variant": f"{self.family}.{name}", "spec": spec, "sources": list(sources), **more}
        self.groups.append(group | {"cases": []})
        return self.groups[-1]

    def encode(
        self,
        name: str,
        spec: dict[str, Any],
        value: Value,
        sources: Sequence[str],
        positions: Iterable[int | str | tuple[int, list[int]]],
        *,
        dtype: str = "integer",
        flags: Sequence[str] = (),
        rows: range | None = None,
        constructor: tuple[str, dict[str, Any]] | None = None,
        tier: int = 3,
    ) -> None:
        """One group of encodings: a position, or a position and its channels, a case."""
        more: dict[str, Any] = {"tier": tier, "position_dtype": dtype}
        if rows is not None:
            more["range"] = [rows.start, rows.stop, rows.step]
        if constructor:
            more["constructor"] = {"name": constructor[0], "arguments": constructor[1]}
        group = self.group("encode", name, spec, sources, **more)
        for item in positions:
            position, channels = item if isinstance(item, tuple) else (item, chosen(spec["dim"]))
            real, fields = read_position(position, dtype)
            values = [value(exact(real), channel) for channel in channels]
            own = ["PaddingRow"] if real == spec["padding_position"] else []
            own += ["FractionalPosition"] if real.denominator > 1 else []
            case: dict[str, Any] = {"id": self.identifier(name), "flags": [*flags, *own, *position_flags(real)]}
            case |= fields | {"channels": channels, "decimal": [decimal(v) for v in values]}
            group["cases"].append(case | {fmt: [pattern(v, fmt) for v in values] for fmt in FORMATS})

    def phase(
        self,
        name: str,
        spec: dict[str, Any],
        frequency: Callable[[int], Any],
        pairs: Sequence[int],
        positions: Iterable[int | str],
        *,
        dtype: str = "integer",
        tier: int = 3,
    ) -> None:
        """One group of phases: the upper three 32-bit words of (p + offset) * increment mod 2^128."""
        source = "posenc.spec.plan.PhasePlan"
        group = self.group("phase", f"{name}.phase", spec, [source], tier=tier, position_dtype=dtype)
        increments = {j: nearest(frequency(j) / (2 * mp.pi) * mpf(2) ** 128) for j in pairs}
        for position in positions:
            real, fields = read_position(position, dtype)
            levels, rest = [], real
            for _ in range(3):  # whole, then twice 31 bits of the fraction, each with the sign of the position
                levels.append(math.trunc(rest))
                rest = (rest - math.trunc(rest)) * 2**31
            words = []
            for j in pairs:
                total = spec.get("position_offset", 0) * increments[j]
                total += sum(part * (increments[j] >> 31 * level) for level, part in enumerate(levels))
                words.append(f"{total % 2**128 >> 32:024x}")
            case = {"id": self.identifier(f"{name}.phase"), "flags": position_flags(real)} | fields
            group["cases"].append(case | {"pairs": list(pairs), "words": words})

    def add(
        self,
        name: str,
        spec: dict[str, Any],
        value: Value,
        sources: Sequence[str],
        shape: tuple[int, ...],
        *,
        x: Sequence[str],
        positions: tuple[list[int], list[int]] | None = None,
        flags: Sequence[str] = (),
        tier: int = 3,
    ) -> None:
        """One case of `add`: every entry of x (decimals that all dtypes hold) plus the encoding of its row.

        `positions` are a shape and row-major values; without them row r of the last axis but one has position r.
        """
        group = self.group("add", f"{name}.add", spec, sources, tier=tier)
        dim = spec["dim"]
        if positions is None:
            row_positions = [row % shape[-2] for row in range(len(x) // dim)]
        else:
            row_positions = broadcast(*positions, list(shape[:-1]))
        case: dict[str, Any] = {"id": self.identifier(f"{name}.add"), "flags": list(flags), "shape": list(shape)}
        case["positions"] = None if positions is None else {"shape": positions[0], "values": positions[1]}
        case |= {"x": list(x), "decimal": []} | {fmt: [] for fmt in FORMATS}
        for index, entry in enumerate(map(Fraction, x)):
            wave = value(mpf(row_positions[index // dim]), index % dim)
            case["decimal"].append(decimal(exact(entry) + wave))
            for fmt in FORMATS:
                own = "float64" if fmt == "float64" else "float32"
                total = entry + number(int(pattern(wave, own), 16), own)
                case[fmt].append(f"{bits(total, fmt):0{FORMATS[fmt][3] // 4}x}")
                if number(bits(entry, fmt), fmt) != entry:
                    raise ValueError(f"{entry} is no {fmt}")
        group["cases"].append(case)


def broadcast(shape: list[int], values: list[int], target: list[int]) -> list[int]:
    shape = [1] * (len(target) - len(shape)) + shape
    result = []
    for flat in range(math.prod(target)):
        index, stride, left = 0, 1, flat
        for size, full in zip(reversed(shape), reversed(target), strict=True):
            left, digit = divmod(left, full)
            index += stride * (digit if size > 1 else 0)
            stride *= size
        result.append(values[index])
    return result


def read_position(position: int | str, dtype: str) -> tuple[Fraction, dict[str, Any]]:
    """An integer, or a decimal rounded to `dtype`: the exact real, and how a case writes it."""
    if dtype == "integer":
        return Fraction(position), {"position": position}
    real = number(bits(Fraction(position), dtype), dtype)
    return real, {"position": float(real).hex(), "position_decimal": decimal(exact(real))}
