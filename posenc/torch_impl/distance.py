"""rows, bias: what pairs of positions have by their distance, as tensors; and the tables that biases are read from.

The integer n of every pair is that of `pairs.py`; here are the arguments, and lookups in weights with their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn.functional import embedding
from torch.utils._python_dispatch import _disable_current_modes

from posenc.spec import from_json, weight_checks
from posenc.spec.distance_plan import DistanceSpec, SlopeSpec, bias_plan, rows_plan
from posenc.torch_impl import inputs, pairs
from posenc.torch_impl.formats import round_once
from posenc.torch_impl.inputs import CPU, pairs_on_host, plain
from posenc.torch_impl.pairs import Constants, Facts, Get, constants_on
from posenc.torch_impl.slopes import Multiplier
from posenc.torch_impl.words import DISTANCES, is_one_of, refuse, traced_constant, traced_json


class Known(NamedTuple):
    """Positions that Python knows in a trace: their values, row-major, and their shape with the axis of coordinates."""

    values: Sequence[int]
    shape: tuple[int, ...]


class Read(NamedTuple):
    """The specification and the positions, `(*B, Q, A)` and `(*B, K, A)` on one device, of A axes each."""

    fact: Facts
    query: Tensor
    key: Tensor
    constants: Constants
    known: tuple[Known | None, Known | None]


def rows(spec: DistanceSpec, query_positions: Any, key_positions: Any) -> Tensor:
    """The table row of every pair, int32, -1 where it has none: `(*B, Q)` and `(*B, K)` -> `(*B, Q, K)`.

    On the device of the positions; the same integers there and in a trace, where a strict plan refuses only what Python
    knows: numbers, ranges and lists.
    """
    read = read_pairs("rows", spec, query_positions, key_positions)
    if inputs.traced():
        check_strict("rows", spec, read)
        found = pairs.distances(read.fact, read.query, read.key)
        return pairs.number(read.fact, found, read.constants(read.query.device)).to(torch.int32)
    return rows_of("rows", spec, read.fact, read.query, read.key)


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
    float32 at least. Contiguous on a CPU where nothing is traced; elsewhere heads may be innermost in memory.
    """
    read = read_pairs("bias", spec, query_positions, key_positions)
    fact, query, key = read.fact, read.query, read.key
    table, target = read_table("bias", fact, weights), inputs.read_dtype("bias", dtype)
    if inputs.traced() or (table is None and query.device.type != "cpu"):
        if inputs.traced():
            check_strict("bias", spec, read)
        device = query.device if table is None else table.device
        return _at_once(fact, query.to(device), key.to(device), table, target, read.constants(device))
    if table is not None:
        return _from_table(spec, fact, query, key, table, target)
    return pairs_on_host("bias", lambda q, k: _sloped(spec, fact, q, k, target), query, key)  # type: ignore[arg-type]


# --- Reading ---


def _read_spec(where: str, spec: object) -> tuple[Facts, Constants]:
    """The facts of what may be no specification, or not one that `rows`, or `bias`, takes."""
    check = rows_plan if where == "rows" else bias_plan
    if not inputs.traced():
        check(where, spec)
        return pairs.facts(spec), lambda device: constants_on(spec, device)  # type: ignore[arg-type]  # just checked
    if not is_one_of(spec, DISTANCES):
        refuse(check, where, spec)
    key = traced_json(spec)
    fact = pairs.traced_facts(key)
    if (fact.rows if where == "rows" else fact.heads) is None:
        refuse(check, where, spec)
    return fact, lambda device: lambda kind: traced_constant(kind, key, str(device))


def read_pairs(where: str, spec: object, query_positions: Any, key_positions: Any) -> Read:
    fact, constants = _read_spec(where, spec)
    given: list[Tensor] = []
    known: list[Sequence[int] | None] = []
    for name, positions in (("query_positions", query_positions), ("key_positions", key_positions)):
        found: Tensor | range
        if inputs.traced():
            found, values = inputs.read_traced_integers(f"{where}.{name}", positions)
        else:
            found, values = inputs.read_integers(f"{where}.{name}", positions), None
        given.append(inputs.arange(found) if isinstance(found, range) else found)
        known.append(values)
    query, key = given
    device = key.device if query.device.type == "cpu" else query.device
    query, key = _shaped(where, len(fact.axes), query.to(device), key.to(device))
    sides = [None if v is None else Known(v, p.shape) for v, p in zip(known, (query, key), strict=True)]
    return Read(fact, query, key, constants, (sides[0], sides[1]))


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


# --- Rows, and pairs without one ---


def rows_of(where: str, spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor) -> Tensor:
    """`rows` of positions `(*B, Q, A)` and `(*B, K, A)`, where nothing is traced."""
    if query.device.type != "cpu":
        return pairs.number(fact, pairs.distances(fact, query, key), constants_on(spec, query.device)).to(torch.int32)
    return pairs_on_host(where, lambda q, k: _host_rows(where, spec, fact, q, k), query, key)


def _host_rows(where: str, spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor) -> Tensor:
    get = constants_on(spec, CPU)

    def numbered(found: Sequence[Tensor], into: Tensor) -> None:
        into[0] = pairs.number(fact, found, get)

    result = pairs.filled(fact, query, key, 1, torch.int32, numbered).squeeze(-3)
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


def check_strict(where: str, spec: DistanceSpec, read: Read) -> None:
    """Refuse a pair without a row, where that is a mistake and both positions are known."""
    if not read.fact.strict:
        return
    if not inputs.traced():
        if read.query.device.type == "cpu":
            rows_of(where, spec, read.fact, read.query, read.key)
        return
    given: list[object] = []
    for side in read.known:
        if side is None:
            return
        values = side.values
        if isinstance(values, range):
            values = range(plain(values.start), plain(values.stop), plain(values.step))
        else:
            values = [plain(value) for value in values]
        given += [values, tuple([plain(size) for size in side.shape])]
    sentence = inputs.said(_rows_again, where, traced_json(spec), *given)
    if sentence is not None:
        raise ValueError(sentence)


def _rows_again(where: str, key: str, *given: Any) -> None:
    """`rows_of` of plain tensors, whatever mode is on."""
    spec: Any = from_json(key)
    with _disable_current_modes(), temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        query, key_positions = (
            torch.tensor([*values], dtype=torch.int64, device=CPU).view(shape)
            for values, shape in (given[:2], given[2:])
        )
        rows_of(where, spec, pairs.facts(spec), query, key_positions)


# --- Slopes and weights ---


def _sloped(spec: SlopeSpec, fact: Facts, query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    slopes, get = spec.plan().slopes, constants_on(spec, CPU)
    multiply = Multiplier(spec, slopes, dtype)

    def multiplied(found: Sequence[Tensor], into: Tensor) -> None:
        multiply(pairs.number(fact, found, get), into)

    return pairs.filled(fact, query, key, len(slopes), dtype, multiplied)


def _columns(table: Tensor, index: Tensor) -> Tensor:
    """`(heads, N)` by an index `(*S,)` -> `(heads, *S)`."""
    return table.index_select(1, index.reshape(-1)).view(table.shape[0], *index.shape)


def _from_table(
    spec: DistanceSpec, fact: Facts, query: Tensor, key: Tensor, weights: Tensor, dtype: torch.dtype
) -> Tensor:
    if query.device.type != "cpu":
        query, key = query.to(weights.device), key.to(weights.device)
        if weights.device.type != "cpu":
            return _at_once(fact, query, key, weights, dtype, constants_on(spec, weights.device))
    simple = not (inputs.needs_operations(weights) or inputs.wrapped(query) or inputs.wrapped(key) or fact.strict)
    get = constants_on(spec, CPU)
    if simple and weights.is_cpu:
        table = round_once(weights.detach().t().contiguous(), dtype)

        def read(found: Sequence[Tensor], into: Tensor) -> None:
            into.copy_(_columns(table, pairs.number(fact, found, get)))

        return pairs.filled(fact, query, key, table.shape[0], dtype, read)
    wide = weights.t() if weights.dtype == torch.float64 else weights.t().to(torch.float32)
    step = None if query.dim() > 2 or key.dim() > 2 else pairs.step_of(fact, query, key)
    if step is not None:
        n = pairs.number(fact, [pairs.spread(query, key, step)], get).to(weights.device)
        sizes = query.shape[-2], key.shape[-2]
        window = pairs.windows if sizes[0] >= sizes[1] else _Windows.apply
        return round_once(window(_columns(wide, n), *sizes), dtype)
    n = rows_of("bias", spec, fact, query, key).to(weights.device)
    return round_once(_columns(wide, n), dtype).movedim(0, -3).contiguous()


class _Windows(torch.autograd.Function):
    """`pairs.windows` of fewer queries than keys: the gradient is summed up by one operation and not row by row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(lines: Tensor, queries: int, keys: int) -> Tensor:
        return pairs.windows(lines, queries, keys)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        ctx.shape, ctx.sizes = inputs[0].shape, inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = torch.ops.aten.unfold_backward(grads[0].flip(-2), ctx.shape, len(ctx.shape) - 1, ctx.sizes[1], 1)
        return total, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return pairs.windows(tangents[0], *ctx.sizes)


# --- Traces and accelerators ---


def _at_once(fact: Facts, query: Tensor, key: Tensor, weights: Tensor | None, dtype: torch.dtype, get: Get) -> Tensor:
    n = pairs.number(fact, pairs.distances(fact, query, key), get)
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
