"""rows, bias: what pairs of positions have by their distance, as tensors.

On the host it is computed in blocks that stay in the cache. Where queries and keys are equally spaced, a row of the
result is the one above it, moved by one: what Q + K - 1 distances have is computed once, and copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from posenc.spec import from_json, weight_checks
from posenc.spec.distance_plan import NO_ROW, DistanceSpec, Run, SlopeSpec, bias_plan, rows_plan
from posenc.torch_impl import inputs
from posenc.torch_impl.formats import round_once
from posenc.torch_impl.inputs import CPU, pairs_on_host
from posenc.torch_impl.slopes import Multiplier
from posenc.torch_impl.words import DISTANCES, MAKERS, Constant, is_one_of, traced_constant, traced_json, uploaded

_GREATEST_TABLE = 1 << 16
_CHAIN = 4  # runs that are told apart one by one
_CHUNK = 1 << 17  # numbers at a time: the temporaries stay in the cache
_LEAST = 1 << 14  # pairs of one batch row: below, rows are taken together
_LEAST_WINDOW = 8  # queries or keys
_SHORT = 1 << 12  # numbers: longer rows are copied one by one
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


def rows(spec: DistanceSpec, query_positions: Any, key_positions: Any) -> Tensor:
    """The table row of every pair, int32, -1 where it has none: `(*B, Q)` and `(*B, K)` -> `(*B, Q, K)`.

    On the device of the positions; the same integers there and in a trace, where a strict plan refuses nothing.
    """
    fact, query, key, constants = read("rows", spec, query_positions, key_positions)
    if inputs.traced():
        return number(fact, _distances(fact, query, key), constants(query.device)).to(torch.int32)
    return rows_of("rows", spec, fact, query, key)


def bias(
    spec: DistanceSpec,
    query_positions: Any,
    key_positions: Any,
    *,
    weights: Tensor | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> Tensor:
    """What is added to attention scores, never a mask: `(*B, Q)` and `(*B, K)` -> `(*B, heads, Q, K)`.

    On the device of the weights, or, where there are none, of the positions. Slopes are correctly rounded where the
    positions are on the CPU and nothing is traced; elsewhere within 2^-22 of the value (float64 is then computed in
    float64 on a CPU, and widened from float32 elsewhere). Differentiable in the weights, whose gradient is summed up in
    float32 at least.
    """
    fact, query, key, constants = read("bias", spec, query_positions, key_positions)
    table, target = read_table("bias", fact, weights), inputs.read_dtype("bias", dtype)
    if inputs.traced() or (table is None and query.device.type != "cpu"):
        device = query.device if table is None else table.device
        return _at_once(fact, query.to(device), key.to(device), table, target, constants(device))
    if table is not None:
        return _from_table(spec, fact, query, key, table, target)
    return pairs_on_host("bias", lambda q, k: _sloped(spec, fact, q, k, target), query, key)  # type: ignore[arg-type]


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


def _read_spec(where: str, spec: object) -> tuple[Facts, Constants]:
    """The facts of what may be no specification, or not one that `rows`, or `bias`, takes."""
    if not inputs.traced():
        (rows_plan if where == "rows" else bias_plan)(where, spec)
        return facts(spec), lambda device: _constants(spec, device)  # type: ignore[arg-type]  # just checked
    if not is_one_of(spec, DISTANCES):
        _refuse(where, spec)
    key = traced_json(spec)
    fact = traced_facts(key)
    if (fact.rows if where == "rows" else fact.heads) is None:
        _refuse(where, spec)
    return fact, lambda device: lambda kind: traced_constant(kind, key, str(device))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse(where: str, spec: object) -> None:
    """Raise what a specification deserves: outside a trace, which would follow the exact arithmetic of its plan."""
    (rows_plan if where == "rows" else bias_plan)(where, spec)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_facts(key: str) -> Facts:
    return facts(from_json(key))  # type: ignore[arg-type]  # the key is that of a distance plan


def _constants(spec: DistanceSpec, device: torch.device) -> Get:
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


# --- Reading ---


def read(where: str, spec: object, query: Any, key: Any) -> tuple[Facts, Tensor, Tensor, Constants]:
    """The specification and the positions, `(*B, Q, A)` and `(*B, K, A)` on one device, of A axes each."""
    fact, constants = _read_spec(where, spec)
    reading = inputs.read_traced_integers if inputs.traced() else inputs.read_integers
    given = reading(f"{where}.query_positions", query), reading(f"{where}.key_positions", key)
    query, key = (inputs.arange(p) if isinstance(p, range) else p for p in given)
    device = key.device if query.device.type == "cpu" else query.device
    query, key = _shaped(where, len(fact.axes), query.to(device), key.to(device))
    return fact, query, key, constants


def _shaped(where: str, axes: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of one axis get it, those of several have it."""
    for name, p in (("query_positions", query), ("key_positions", key)):
        if p.dim() < 1 or (axes > 1 and (p.dim() < 2 or p.shape[-1] != axes)):
            raise weight_checks.pair_shape_error(f"{where}.{name}", axes, p.shape)
    if axes == 1:
        query, key = query.unsqueeze(-1), key.unsqueeze(-1)
    lead, other = query.shape[:-2], key.shape[:-2]
    # an `in` that asks a tuple of symbols is answered wrongly by torch.compile (2.13)
    fits = all(a == b or a == 1 or b == 1 for a, b in zip(lead, other, strict=False))  # noqa: PLR1714 - as above
    if len(lead) and len(other) and (len(lead) != len(other) or not fits):
        weight_checks.pair_lead(where, lead, other)
    return query, key


def read_table(where: str, fact: Facts, weights: object) -> Tensor | None:
    """Weights of a table of rows; None where there are slopes."""
    if fact.rows is None or fact.heads is None:
        if weights is not None:
            raise weight_checks.no_weights_error(where, weights)
        return None
    if weights is None:
        raise weight_checks.weights_shape_error(where, (fact.rows, fact.heads), None)
    return inputs.read_weights(where, weights, (fact.rows, fact.heads))


# --- Distances and numbers ---


def _distances(fact: Facts, query: Tensor, key: Tensor) -> list[Tensor]:
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


def rows_of(where: str, spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor) -> Tensor:
    if query.device.type != "cpu":
        return number(fact, _distances(fact, query, key), _constants(spec, query.device)).to(torch.int32)
    return pairs_on_host(where, lambda q, k: _host_rows(where, spec, fact, q, k), query, key)


def _host_rows(where: str, spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor) -> Tensor:
    get = _constants(spec, CPU)

    def numbered(distances: Sequence[Tensor], into: Tensor) -> None:
        into[0] = number(fact, distances, get)

    result = _filled(fact, query, key, 1, torch.int32, numbered).squeeze(-3)
    if fact.strict and result.numel() and result.min() < 0:
        _refuse_first(where, spec, query, key, result)
    return result


def _refuse_first(where: str, spec: DistanceSpec, query: Tensor, key: Tensor, found: Tensor) -> None:
    """Raise what the first pair without a row deserves."""
    at = (found < 0).nonzero()[0]
    plan = spec.plan()
    one, other = (
        p.expand(*found.shape[:-2], *p.shape[-2:])[tuple(at[:-2])][at[side]].tolist()
        for p, side in ((query, -2), (key, -1))
    )
    for axis, (q, k) in enumerate(zip(one, other, strict=True)):
        low, high = plan.bounds(axis)
        if not low <= k - q <= high:
            raise weight_checks.distance_error(where, axis, low, high, k - q)


def _sloped(spec: SlopeSpec, fact: Facts, query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    slopes, get = spec.plan().slopes, _constants(spec, CPU)
    multiply = Multiplier(spec, slopes, dtype)

    def multiplied(distances: Sequence[Tensor], into: Tensor) -> None:
        multiply(number(fact, distances, get), into)

    return _filled(fact, query, key, len(slopes), dtype, multiplied)


def _columns(table: Tensor, index: Tensor) -> Tensor:
    """`(heads, N)` by an index `(*S,)` -> `(heads, *S)`."""
    return table.index_select(1, index.reshape(-1)).view(table.shape[0], *index.shape)


def _from_table(
    spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor, weights: Tensor, dtype: torch.dtype
) -> Tensor:
    if query.device.type != "cpu":
        query, key = query.to(weights.device), key.to(weights.device)
        if weights.device.type != "cpu":
            return _at_once(fact, query, key, weights, dtype, _constants(spec, weights.device))
    simple = not (inputs.needs_operations(weights) or inputs.wrapped(query) or inputs.wrapped(key) or fact.strict)
    get = _constants(spec, CPU)
    if simple and weights.is_cpu:
        table = round_once(weights.detach().t().contiguous(), dtype)

        def read(distances: Sequence[Tensor], into: Tensor) -> None:
            into.copy_(_columns(table, number(fact, distances, get)))

        return _filled(fact, query, key, table.shape[0], dtype, read)
    wide = weights.t() if weights.dtype == torch.float64 else weights.t().to(torch.float32)
    step = None if len(fact.axes) > 1 or query.dim() > 2 or key.dim() > 2 else _step(query, key)
    if step is not None:
        n = number(fact, [_spread(query, key, step)], get).to(weights.device)
        lines = _columns(wide, n)
        return round_once(lines.unfold(-1, key.shape[-2], 1).flip(-2), dtype)
    n = rows_of("bias", spec, fact, query, key).to(weights.device)
    return round_once(_columns(wide, n), dtype).movedim(0, -3)


def _filled(fact: Facts, query: Tensor, key: Tensor, heads: int, dtype: torch.dtype, values: Values) -> Tensor:
    """`(*B, Q, A)` and `(*B, K, A)` -> `(*B, heads, Q, K)`."""
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])  # type: ignore[no-untyped-call]
    result = torch.empty(*lead, heads, query.shape[-2], key.shape[-2], dtype=dtype, device=CPU)
    if result.numel():
        query, key = (p.expand(*lead, *p.shape[-2:]).reshape(-1, *p.shape[-2:]) for p in (query, key))
        _fill(fact, query, key, result.view(-1, *result.shape[-3:]), values)
    return result


def _fill(fact: Facts, query: Tensor, key: Tensor, result: Tensor, values: Values) -> None:
    count, heads, queries, keys = result.shape
    pairs = max(1, _CHUNK // heads)
    if queries * keys >= _LEAST:
        for q, k, into in zip(query, key, result, strict=True):
            if not (len(fact.axes) == 1 and _fill_windows(fact, q, k, into, values)):
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
        values(_distances(fact, query[b, q], key[b, k]), result[b, :, q, k].movedim(1, 0))


def _fill_windows(fact: Facts, query: Tensor, key: Tensor, result: Tensor, values: Values) -> bool:
    """Write `(heads, Q, K)` of `(Q, 1)` and `(K, 1)`, if they are so that each distance is met again and again."""
    heads, queries, keys = result.shape
    step = _step(query, key)
    if step is None and not (fact.anchored and queries > 1):
        return False
    columns = max(0 if fact.anchored else queries, _CHUNK // heads, 1)
    for first in range(0, keys, columns):
        part, into = key[first : first + columns], result[..., first : first + columns]
        width = part.shape[0]
        distances = part[:, 0] if fact.anchored else _spread(query, part, step or 0)
        lines = torch.empty(heads, *distances.shape, dtype=result.dtype, device=CPU)
        values([distances], lines)
        if fact.anchored:
            into.copy_(lines.unsqueeze(1))
            continue
        size = max(1, _SHORT // (heads * width))
        for begin in range(0, queries, size):
            end = min(begin + size, queries)
            moved = lines[:, queries - end : queries - 1 - begin + width].unfold(-1, width, 1)
            into[:, begin:end] = moved if size == 1 else moved.flip(-2)
    return True


def _step(query: Tensor, key: Tensor) -> int | None:
    """The step that equally spaced queries and keys, `(..., Q, 1)` and `(..., K, 1)`, share, if there are many."""
    if (
        query.is_meta
        or min(query.shape[-2], key.shape[-2]) < _LEAST_WINDOW
        or inputs.wrapped(query)
        or inputs.wrapped(key)
    ):
        return None
    q, k = query.flatten(), key.flatten()
    step = int(q[1] - q[0])
    return step if bool((q.diff() == step).all() and (k.diff() == step).all()) else None


def _spread(query: Tensor, key: Tensor, step: int) -> Tensor:
    """The distances that equally spaced positions have, from that of the last query and the first key on."""
    count = query.shape[-2] + key.shape[-2] - 1
    first = int(key.flatten()[0] - query.flatten()[-1])
    return torch.arange(count, dtype=torch.int64, device=query.device) * step + first


# --- Traces and accelerators ---


def _at_once(fact: Facts, query: Tensor, key: Tensor, weights: Tensor | None, dtype: torch.dtype, get: Get) -> Tensor:
    n = number(fact, _distances(fact, query, key), get)
    if weights is not None:
        wide = weights if weights.dtype == torch.float64 else weights.to(torch.float32)
        # rows are read whole, which compiles to vector loops; heads are the last axis in memory
        found = embedding(n.clamp(min=0) if fact.gaps else n, wide)
        if fact.gaps:
            found = torch.where((n >= 0).unsqueeze(-1), found, torch.nan)
        return round_once(found, dtype).movedim(-1, -3)
    n = n.unsqueeze(-3)
    if dtype == torch.float64 and n.device.type == "cpu":
        high, low = get("slopes")[:, :, None, None].unbind(0)
        return n * high + n * low
    return (n.to(torch.float32) * get("slopes32")[:, None, None]).to(dtype)
