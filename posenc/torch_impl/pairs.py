"""The integer n of every pair of positions: what a plan gives to that, and how many pairs have it computed at once.

On the host it is computed in blocks that stay in the cache. Where queries and keys are equally spaced, a row of the
result is the one above it, moved by one: what Q + K - 1 distances have is computed once, and copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from posenc.spec import from_json
from posenc.spec.distance_plan import NO_ROW, DistanceSpec, Run
from posenc.torch_impl import inputs
from posenc.torch_impl.inputs import CPU
from posenc.torch_impl.words import MAKERS, Constant, uploaded

_GREATEST_TABLE = 1 << 16
_CHAIN = 4  # runs that are told apart one by one
_CHUNK = 1 << 17  # numbers at a time: the temporaries stay in the cache
_LEAST = 1 << 14  # pairs of one batch row: below, rows are taken together
_LEAST_ALONE = 1 << 12  # pairs of the only one: below, to ask for equal spaces costs what it saves
_LEAST_WINDOW = 8  # queries or keys
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_FAR = -(1 << 40)  # in place of a row on one of several axes: no sum with it is a row

Kind = Literal["table", "runs", "slopes", "slopes32"]
Get = Callable[[Kind], Tensor]
Constants = Callable[[torch.device], Get]
Values = Callable[[Sequence[Tensor], Tensor], None]
"""Of distances `(*S,)`, a tensor an axis, writes what each head has: `(heads, *S)`."""


class Axis(NamedTuple):
    """How a distance becomes a number: by a table, by runs told apart one by one, or by a search among many runs."""

    how: Literal["table", "chain", "search"]
    start: int
    """Where its part of the constant begins; of a table, less the first distance there."""
    low: int
    """The first and the last distance of the table, or index of the runs."""
    high: int
    runs: tuple[Run, ...]
    """Where `how` is `chain`."""


class Facts(NamedTuple):
    """A plan without what may be long."""

    axes: tuple[Axis, ...]
    rows: int | None
    heads: int | None
    anchored: bool
    strict: bool
    gaps: bool
    """Whether a pair may have no row."""
    none: int
    """What stands for no row on one axis."""


# --- What a plan gives ---


def facts(spec: DistanceSpec) -> Facts:
    return _facts(spec)  # type: ignore[arg-type]  # specifications are hashable


@lru_cache(maxsize=64)
def _facts(spec: DistanceSpec) -> Facts:
    plan = spec.plan()
    axes: list[Axis] = []
    entries = runs_before = 0
    for runs in plan.axes:
        low, high = (runs[1].first - 1, runs[-1].first) if len(runs) > 1 else (0, -1)
        # where n is no row, it changes behind the last run, and may before the second
        if plan.rows is not None and 0 <= high - low < _GREATEST_TABLE:
            axes.append(Axis("table", entries - low, low, high, ()))
            entries += high - low + 1
        elif len(runs) <= _CHAIN:
            axes.append(Axis("chain", 0, 0, 0, runs))
        else:
            axes.append(Axis("search", runs_before, runs_before, runs_before + len(runs) - 1, ()))
            runs_before += len(runs)
    gaps = any(run.number is None for runs in plan.axes for run in runs)
    none = NO_ROW if len(plan.axes) == 1 else _FAR
    return Facts(tuple(axes), plan.rows, plan.heads, plan.anchored, plan.strict, gaps, none)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_facts(key: str) -> Facts:
    return facts(from_json(key))  # type: ignore[arg-type]  # the key is that of a distance plan


def constants_on(spec: DistanceSpec, device: torch.device) -> Get:
    if device.type == "cpu":
        return lambda kind: _constant(spec, kind).tensor(CPU)  # type: ignore[arg-type]  # hashable
    return lambda kind: _on_device(spec, kind, str(device))  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _on_device(spec: DistanceSpec, kind: Kind, device: str) -> Tensor:
    return uploaded(_constant(spec, kind), device)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _constant(spec: DistanceSpec, kind: Kind) -> Constant:
    """`table`: the numbers of all axes that have one. `runs` `(3, runs)`: first, number, step of the axes searched.

    `slopes` `(2, heads)`: their two parts in float64. `slopes32` `(heads,)`: float32.
    """
    plan, fact = spec.plan(), facts(spec)
    if kind == "slopes32":
        return Constant((len(plan.slopes),), array("f", [slope.float32 for slope in plan.slopes]))
    if kind == "slopes":
        parts = [[slope.high for slope in plan.slopes], [slope.low for slope in plan.slopes]]
        return Constant((2, len(plan.slopes)), array("d", parts[0] + parts[1]))
    if kind == "runs":
        found = [run for axis, runs in zip(fact.axes, plan.axes, strict=True) if axis.how == "search" for run in runs]
        numbers = [fact.none if run.number is None else run.number for run in found]
        flat = [run.first for run in found] + numbers + [run.step for run in found]
        return Constant((3, len(found)), array("q", flat))
    entries = array("i" if len(plan.axes) == 1 else "q")
    for axis, runs in zip(fact.axes, plan.axes, strict=True):
        for run, end in zip(runs, [run.first for run in runs[1:]] + [axis.high + 1], strict=True):
            first = max(run.first, axis.low)
            for distance in range(first, end) if axis.how == "table" else ():
                entries.append(fact.none if run.number is None else run.number + run.step * (distance - run.first))
    return Constant((len(entries),), entries)


MAKERS |= {
    "table": lambda key: _constant(from_json(key), "table"),
    "runs": lambda key: _constant(from_json(key), "runs"),
    "slopes": lambda key: _constant(from_json(key), "slopes"),
    "slopes32": lambda key: _constant(from_json(key), "slopes32"),
}


# --- Distances and numbers ---


def distances(fact: Facts, query: Tensor, key: Tensor) -> list[Tensor]:
    """`(*B, Q, A)` and `(*B, K, A)` -> `(*B, Q, K)` for each axis."""
    if fact.anchored:
        query = torch.zeros_like(query)
    return [k.unsqueeze(-2) - q.unsqueeze(-1) for q, k in zip(query.unbind(-1), key.unbind(-1), strict=True)]


def number(fact: Facts, distances: Sequence[Tensor], get: Get) -> Tensor:
    """n of every pair, from what it has on each axis."""
    numbers = [_number_on(axis, fact.none, d, get) for axis, d in zip(fact.axes, distances, strict=True)]
    if len(numbers) == 1:
        return numbers[0]
    total = sum(numbers[1:], numbers[0])
    return total.clamp(min=NO_ROW) if fact.gaps else total


def _number_on(axis: Axis, none: int, distance: Tensor, get: Get) -> Tensor:
    if axis.how == "table":
        return _look(get("table"), distance.clamp(axis.low, axis.high) + axis.start)
    if axis.how == "chain":
        found = _along(axis.runs[0], none, distance)
        for run in axis.runs[1:]:
            found = torch.where(distance >= run.first, _along(run, none, distance), found)
        return found
    firsts, numbers, steps = get("runs").unbind(0)
    if distance.dim() == 0:  # a score function, into which an index that is used twice would be written twice
        found = numbers[axis.low]
        for at in range(axis.low + 1, axis.high + 1):
            there = numbers[at] + steps[at] * (distance - firsts[at])
            found = torch.where(distance >= firsts[at], there, found)
        return found
    if torch.compiler.is_compiling():
        index = _search(axis, firsts, distance)
    else:
        index = torch.searchsorted(firsts[axis.low : axis.high + 1], distance, right=True) + (axis.low - 1)
    return _look(numbers, index) + _look(steps, index) * (distance - _look(firsts, index))


def _search(axis: Axis, firsts: Tensor, distance: Tensor) -> Tensor:
    """The last run that begins there or before, by what a compiler can fuse."""
    index = torch.full_like(distance, axis.low)
    for bit in reversed(range((axis.high - axis.low).bit_length())):
        further = (index + (1 << bit)).clamp(max=axis.high)
        index = torch.where(_look(firsts, further) <= distance, further, index)
    return index


def _along(run: Run, none: int, distance: Tensor) -> Tensor:
    if run.number is None:
        return torch.full_like(distance, none)
    rest = run.number - run.step * run.first
    moved = distance if run.step == 1 else distance * run.step
    return moved + rest if rest else moved


def _look(table: Tensor, index: Tensor) -> Tensor:
    if index.dim() == 0 or torch.compiler.is_compiling():
        return table[index]
    return table.index_select(0, index.reshape(-1)).view(index.shape)  # half the time


# --- The host ---


def filled(fact: Facts, query: Tensor, key: Tensor, heads: int, dtype: torch.dtype, values: Values) -> Tensor:
    """`(*B, Q, A)` and `(*B, K, A)` -> `(*B, heads, Q, K)`."""
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])  # type: ignore[no-untyped-call]
    shape = (*lead, heads, query.shape[-2], key.shape[-2])
    if lead.numel() == 1 and shape[-2] * shape[-1] >= _LEAST_ALONE:
        step = step_of(fact, query, key)
        if step is not None:
            return windows(_lines(spread(query, key, step), heads, dtype, values), *shape[-2:]).view(shape)
    result = torch.empty(shape, dtype=dtype, device=CPU)
    if result.numel():
        query, key = (p.expand(*lead, *p.shape[-2:]).reshape(-1, *p.shape[-2:]) for p in (query, key))
        _fill(fact, query, key, result.view(-1, *result.shape[-3:]), values)
    return result


def _fill(fact: Facts, query: Tensor, key: Tensor, result: Tensor, values: Values) -> None:
    count, heads, queries, keys = result.shape
    pairs = max(1, _CHUNK // heads)
    if queries * keys >= _LEAST:
        for q, k, into in zip(query, key, result, strict=True):
            if not _fill_lines(fact, q, k, into, values):
                columns = min(keys, pairs)
                _fill_blocks(fact, q[None], k[None], into[None], values, (1, max(1, pairs // columns), columns))
        return
    _fill_blocks(fact, query, key, result, values, (max(1, min(count, pairs // (queries * keys))), queries, keys))


def _fill_blocks(
    fact: Facts, query: Tensor, key: Tensor, result: Tensor, values: Values, sizes: tuple[int, int, int]
) -> None:
    ends = result.shape[0], result.shape[2], result.shape[3]
    starts = [range(0, end, size) for end, size in zip(ends, sizes, strict=True)]
    for at in product(*starts):
        b, q, k = (slice(start, start + size) for start, size in zip(at, sizes, strict=True))
        values(distances(fact, query[b, q], key[b, k]), result[b, :, q, k].movedim(1, 0))


def _fill_lines(fact: Facts, query: Tensor, key: Tensor, result: Tensor, values: Values) -> bool:
    """Write `(heads, Q, K)` of `(Q, 1)` and `(K, 1)`, if they are so that each distance is met again and again."""
    heads, queries, keys = result.shape
    if fact.anchored and queries > 1:
        size = max(1, _CHUNK // heads)
        for first in range(0, keys, size):
            part = _lines(key[first : first + size, 0], heads, result.dtype, values)
            result[..., first : first + size] = part.unsqueeze(1)
        return True
    step = step_of(fact, query, key)
    if step is None:
        return False
    windows(_lines(spread(query, key, step), heads, result.dtype, values), queries, keys, result)
    return True


def _lines(found: Tensor, heads: int, dtype: torch.dtype, values: Values) -> Tensor:
    """What distances `(N,)` have: `(heads, N)`."""
    lines = torch.empty(heads, *found.shape, dtype=dtype, device=CPU)
    size = max(1, _CHUNK // heads)
    for first in range(0, found.shape[0], size):
        values([found[first : first + size]], lines[:, first : first + size])
    return lines


def windows(lines: Tensor, queries: int, keys: int, into: Tensor | None = None) -> Tensor:
    """Each row begins one further to the left, the last at 0: `(heads, Q + K - 1)` -> `(heads, Q, K)`, contiguous."""
    if into is None and (queries >= keys or not lines.is_cpu):  # of fewer queries the result would have them innermost
        return lines.unfold(-1, keys, 1).flip(-2)
    bits = _BITS[lines.element_size()]  # autocast looks at the floating numbers that are stacked
    moved = lines.view(bits).unfold(-1, keys, 1).unbind(-2)
    return torch.stack(moved[::-1], -2, out=None if into is None else into.view(bits)).view(lines.dtype)


def step_of(fact: Facts, query: Tensor, key: Tensor) -> int | None:
    """The step that equally spaced queries and keys, `(..., Q, 1)` and `(..., K, 1)`, share, if there are many."""
    if (
        len(fact.axes) > 1
        or fact.anchored
        or query.is_meta
        or min(query.shape[-2], key.shape[-2]) < _LEAST_WINDOW
        or inputs.wrapped(query)
        or inputs.wrapped(key)
    ):
        return None
    q, k = query.flatten(), key.flatten()
    step = int(q[1] - q[0])
    return step if bool((q.diff() == step).all() and (k.diff() == step).all()) else None


def spread(query: Tensor, key: Tensor, step: int) -> Tensor:
    """The distances that equally spaced positions have, from that of the last query and the first key on."""
    count = query.shape[-2] + key.shape[-2] - 1
    first = int(key.flatten()[0] - query.flatten()[-1])
    return torch.arange(count, dtype=torch.int64, device=query.device) * step + first
