"""Groups and cases of rotary embeddings: tables, rotations by a given table, rotations by positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp, mpf

from vectors.book import Book, position_flags, read_position
from vectors.rope_papers import Spec, rotary
from vectors.rounding import FORMATS, bits, decimal, exact, number, pattern

NARROW = ("float32", "bfloat16", "float16")

RULE_FIELDS: dict[str, dict[str, Any]] = {
    "Linear": {"factor": None},
    "Ntk": {"factor": None},
    "DynamicNtk": {"factor": None, "original_length": None},
    "Yarn": {"factor": None, "original_length": None, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    | {"mscale": None, "mscale_all_dim": None, "attention_factor": None, "magnitude_rule": None}
    | {"scale_softmax": False},
    "YarnPaper": {"factor": None, "original_length": None, "alpha": 1.0, "beta": 32.0},
    "Llama3": {"factor": None, "original_length": None, "low_freq_factor": None, "high_freq_factor": None},
    "LongRope": {"short_factors": None, "long_factors": None, "original_length": None, "factor": None}
    | {"extended_length": None, "attention_factor": None, "short_mscale": None, "long_mscale": None}
    | {"magnitude_rule": "longrope"},
    "Proportional": {"fraction": None, "factor": 1.0},
}


def record(head_dim: int, base: float, layout: str, **changed: Any) -> Spec:
    """The canonical JSON object of a specification: every field, in the order of its definition."""
    spec: Spec = {"schema": 1, "family": "rope", "head_dim": head_dim, "base": float(base), "layout": layout}
    spec |= {"rotary_dim": head_dim, "rotary_channels": "first", "direction": "positive", "scaling": None}
    spec |= {"apply_magnitude": True, "length": None}
    return _changed(spec, changed)


def rule(name: str, **changed: Any) -> dict[str, Any]:
    """A scaling as that object has it."""
    return {"rule": name} | _changed(RULE_FIELDS[name], changed)


def _changed(fields: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    if not changed.keys() <= fields.keys():
        raise KeyError(f"not fields: {sorted(changed.keys() - fields.keys())}")
    return fields | changed


class Channels(NamedTuple):
    """Of one pair: where u and v are read in a head, and where they are written."""

    u: int
    v: int
    u_out: int
    v_out: int


def channels(spec: Spec) -> list[Channels]:
    d, n = spec["rotary_dim"], spec["rotary_dim"] // 2
    start = spec["head_dim"] - d if spec["rotary_channels"] == "last" else 0
    every_two = [(start + 2 * j, start + 2 * j + 1) for j in range(n)]  # rotate_every_two of GPT-J
    halves = [(start + j, start + n + j) for j in range(n)]  # rotate_half of GPT-NeoX
    reads = halves if spec["layout"] == "half" else every_two
    writes = every_two if spec["layout"] == "interleaved" else halves  # DeepSeek-V3 views pairs, and transposes
    return [Channels(*read, *write) for read, write in zip(reads, writes, strict=True)]


class RopeBook(Book):
    """Collects groups of rotations."""

    def __init__(self) -> None:
        super().__init__("rope")
        self.listed: list[Spec] = []

    def table(
        self,
        name: str,
        spec: Spec,
        sources: Sequence[str],
        positions: Iterable[int | str | tuple[int, list[int]]],
        *,
        pairs: Sequence[int] | None = None,
        dtype: str = "integer",
        flags: Sequence[str] = (),
        rows: range | None = None,
        constructor: dict[str, Any] | None = None,
        tier: int = 3,
    ) -> None:
        """One group of tables: a position, or a position and its channels, a case."""
        own = rotary(spec)
        more: dict[str, Any] = {"tier": tier, "position_dtype": dtype}
        if rows is not None:
            more["range"] = [rows.start, rows.stop, rows.step]
        if constructor:
            more["constructor"] = constructor
        if spec not in self.listed:  # once is enough
            self.listed.append(spec)
            more["frequencies"] = _numbers(own.frequencies)
            more["magnitude"], more["softmax_factor"] = _numbers([own.magnitude]), _numbers([own.softmax])
        group = self.group("table", name, spec, sources, **more)
        n = spec["rotary_dim"] // 2
        columns = [half + j for half in (0, n) for j in (chosen(n) if pairs is None else pairs)]
        for item in positions:
            position, asked = item if isinstance(item, tuple) else (item, columns)
            real, fields = read_position(position, dtype)
            values = [own.value(exact(real), channel) for channel in asked]
            extra = ["FractionalPosition"] if real.denominator > 1 else []
            case: dict[str, Any] = {"id": self.identifier(name), "flags": [*flags, *extra, *position_flags(real)]}
            case |= fields | {"channels": asked, "decimal": [decimal(v) for v in values]}
            group["cases"].append(case | {fmt: [pattern(v, fmt) for v in values] for fmt in FORMATS})

    def rotate(
        self,
        name: str,
        spec: Spec,
        sources: Sequence[str],
        shape: tuple[int, ...],
        head_axis: int | None,
        positions: tuple[list[int], list[int]],
        *,
        x: Sequence[str],
        flags: Sequence[str] = (),
        tier: int = 3,
        table_dtype: str = "float32",
        dtypes: Sequence[str] = NARROW,
    ) -> None:
        """One case of `rotate`: x by a given table, which is that of `positions`, rounded to `table_dtype`.

        What is expected is the exact result on this table, as it is.
        """
        own, n = rotary(spec), spec["rotary_dim"] // 2
        at = {p: [pattern(own.value(mpf(p), c), table_dtype) for c in range(2 * n)] for p in positions[1]}
        known = {p: [exact(number(int(word, 16), table_dtype)) for word in words] for p, words in at.items()}
        given = {"dtype": table_dtype, "shape": [*positions[0], n]}
        given |= {"cos": [word for p in positions[1] for word in at[p][:n]]}
        given |= {"sin": [word for p in positions[1] for word in at[p][n:]]}
        group = self.group("rotate", f"{name}.rotate", spec, sources, tier=tier, dtypes=list(dtypes))
        case: dict[str, Any] = {"id": self.identifier(f"{name}.rotate"), "flags": list(flags), "shape": list(shape)}
        case |= {"head_axis": head_axis, "table": given, "x": list(x)}
        group["cases"].append(case | _turned(spec, shape, head_axis, positions, x, known, dtypes))

    def turn(
        self,
        name: str,
        spec: Spec,
        sources: Sequence[str],
        shape: tuple[int, ...],
        head_axis: int | None,
        positions: tuple[list[int], list[int]],
        *,
        x: Sequence[str],
        flags: Sequence[str] = (),
        tier: int = 3,
        dtypes: Sequence[str] = tuple(FORMATS),
        constructor: dict[str, Any] | None = None,
    ) -> None:
        """One case of a table and a rotation by it: x turned by `positions`."""
        own, n = rotary(spec), spec["rotary_dim"] // 2
        known = {p: [own.value(mpf(p), channel) for channel in range(2 * n)] for p in positions[1]}
        more: dict[str, Any] = {"tier": tier, "dtypes": list(dtypes)}
        more |= {"constructor": constructor} if constructor else {}
        group = self.group("turn", f"{name}.turn", spec, sources, **more)
        far = max(positions[1], key=abs, default=0)
        case: dict[str, Any] = {"id": self.identifier(f"{name}.turn")}
        case |= {"flags": [*flags, *position_flags(Fraction(far))], "shape": list(shape), "head_axis": head_axis}
        case |= {"positions": {"shape": positions[0], "values": positions[1]}, "x": list(x)}
        group["cases"].append(case | _turned(spec, shape, head_axis, positions, x, known, dtypes))


def _numbers(values: list[Any]) -> dict[str, list[str]]:
    return {"decimal": [decimal(v) for v in values], "float64": [pattern(v, "float64") for v in values]}


def chosen(n: int) -> list[int]:
    """All pairs of few; of many both ends, and some between."""
    return list(range(n)) if n <= 4 else sorted({0, 1, n // 3, n // 2, n - 2, n - 1})


def _turned(
    spec: Spec,
    shape: tuple[int, ...],
    head_axis: int | None,
    positions: tuple[list[int], list[int]],
    x: Sequence[str],
    tables: dict[int, list[Any]],
    dtypes: Sequence[str],
) -> dict[str, list[str]]:
    """What becomes of x: u' + iv' = (u + iv)(cos + i sin), arXiv 2104.09864, equation 12; the rest is copied."""
    d, n = spec["head_dim"], spec["rotary_dim"] // 2
    if len(x) != math.prod(shape) or shape[-1] != d:
        raise ValueError(f"{len(x)} entries for shape {shape}")
    for entry, dtype in itertools.product(x, dtypes):
        if number(bits(Fraction(entry), dtype), dtype) != Fraction(entry):
            raise ValueError(f"{entry} is no {dtype}")
    decimals = [decimal(exact(Fraction(entry))) for entry in x]
    patterns = {dtype: [_copied(entry, dtype) for entry in x] for dtype in dtypes}
    for row, p in enumerate(_row_positions(shape, head_axis, positions)):
        for j, pair in enumerate(channels(spec)):
            u, v = (exact(Fraction(x[d * row + channel])) for channel in (pair.u, pair.v))
            turned = mp.mpc(u, v) * mp.mpc(tables[p][j], tables[p][n + j])
            for channel, value in ((pair.u_out, turned.real), (pair.v_out, turned.imag)):
                decimals[d * row + channel] = decimal(value)
                for dtype in dtypes:
                    patterns[dtype][d * row + channel] = pattern(value, dtype)
    return {"decimal": decimals, **patterns}


def _row_positions(
    shape: tuple[int, ...], head_axis: int | None, positions: tuple[list[int], list[int]]
) -> Iterator[int]:
    """Of every row of x in row-major order; the axes of positions are the last ones of x without heads and channels."""
    axes = [axis for axis in range(len(shape) - 1) if head_axis is None or axis != head_axis % len(shape)]
    own, values = positions
    for index in itertools.product(*(range(size) for size in shape[:-1])):
        at = [index[axis] for axis in axes][len(axes) - len(own) :]
        flat = 0
        for size, place in zip(own, at, strict=True):
            flat = flat * size + (place if size > 1 else 0)
        yield values[flat]


def _copied(entry: str, dtype: str) -> str:
    """The bits of an entry, and the sign of a zero."""
    digits = FORMATS[dtype][3] // 4
    sign = 1 << (4 * digits - 1) if entry.startswith("-0") and not float(entry) else 0
    return f"{bits(Fraction(entry), dtype) | sign:0{digits}x}"
