"""lookup, resize: tables of learned rows, as tensors."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import guard_scalar
from torch.nn.functional import embedding

from posenc.spec import exact, from_json, weight_checks
from posenc.spec.resampling import Method
from posenc.spec.row_plan import ResizePlan, RowSpec, resize_plan, row_plan
from posenc.torch_impl import inputs
from posenc.torch_impl.formats import round_once
from posenc.torch_impl.rotation import joined
from posenc.torch_impl.words import (
    MAKERS,
    TABLES,
    Constant,
    is_one_of,
    json_value,
    refuse,
    traced_constant,
    traced_json,
)

_HALVES = (torch.bfloat16, torch.float16)


class Rows(NamedTuple):
    """A row plan, its scale also as float32."""

    rows: int
    dim: int
    offset: int
    low: int
    high: int
    frozen: int | None
    scale: float
    scale32: float


def lookup(spec: RowSpec, weights: Tensor, positions: Any) -> Tensor:
    """The rows that positions read, in the dtype of the weights and on their device: `(*P,)` -> `(*P, dim)`.

    Arrays of positions in a trace, and on an accelerator, may name a position outside the table: NaN in every channel.
    Differentiable in the weights: the gradient is dense, and summed up in float32 at least.
    """
    traced = inputs.traced()
    plan = row_facts("lookup", spec, traced=traced)
    weights = inputs.read_weights("lookup", weights, (plan.rows, plan.dim))
    return read_rows("lookup", plan, weights, read_positions("lookup", plan, positions, traced=traced), traced=traced)


def resize(spec: RowSpec, weights: Tensor, shape: Sequence[int], *, method: Method) -> Tensor:
    """The table of `spec.resized(shape)`, in the dtype of the weights: `(rows, dim)` -> `(kept + prod(shape), dim)`.

    In float64, with one rounding at the end, where the weights are on the CPU, also in a trace; in float32 elsewhere.
    Linear in the weights, and differentiable.
    """
    if inputs.traced():
        sizes, key = _traced_plan(spec, shape, method)
        device = str(inputs.read_weights("resize", weights, (sizes.rows, sizes.dim)).device)
        return _resized(sizes, weights, lambda kind, axis: traced_constant(kind, f"{axis}|{key}", device))
    plan = resize_plan("resize", spec, shape, method)
    weights = inputs.read_weights("resize", weights, (plan.rows, plan.dim))
    return _resized(_sizes(plan), weights, lambda kind, axis: _constant(plan, kind, axis).tensor(weights.device))


# --- Rows ---


def row_facts(where: str, spec: object, *, traced: bool) -> Rows:
    if not traced:
        return _rows_of(where, spec)
    if not is_one_of(spec, TABLES):
        refuse(row_plan, where, spec)
    found: Rows = _traced_rows(traced_json(spec))
    return found


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _traced_rows(key: str) -> Rows:
    return _rows_of("lookup", from_json(key))


def _rows_of(where: str, spec: object) -> Rows:
    plan = row_plan(where, spec)
    scale = exact.round_to(Fraction(plan.scale), "float32")
    return Rows(plan.rows, plan.dim, plan.offset, plan.low, plan.high, plan.frozen_position, plan.scale, scale)


def read_positions(where: str, plan: Rows, positions: Any, *, traced: bool) -> Tensor | range:
    """Positions for `read_rows`; of those in a trace what Python knows is checked."""
    if not traced:
        return inputs.read_integers(f"{where}.positions", positions)
    found, known = inputs.read_traced_integers(f"{where}.positions", positions)
    outside = None if known is None else inputs.first_outside(known, plan.low, plan.high)
    if outside is not None:
        raise ValueError(inputs.said(weight_checks.row_position_error, where, plan.low, plan.high, outside))
    return found


def read_rows(where: str, plan: Rows, weights: Tensor, positions: Tensor | range, *, traced: bool) -> Tensor:
    """What positions read, on the device of the weights; they are as `read_positions` returns them."""
    if isinstance(positions, range):
        positions = inputs.arange(positions)
    inside = None
    if traced or positions.device.type != "cpu":
        positions = positions.to(weights.device)
        inside = (positions >= plan.low) & (positions <= plan.high)
        index = positions.clamp(plan.low, plan.high) + plan.offset
    else:
        index = inputs.on_host(f"{where}.positions", positions, lambda p: _index(where, plan, p)).to(weights.device)
    taken = _taken(plan, weights, index)
    if inside is not None:
        taken = torch.where(inside.unsqueeze(-1), taken, torch.nan)
    if plan.scale != 1:
        taken = taken * (plan.scale if taken.dtype == torch.float64 else plan.scale32)
    return taken.to(weights.dtype)


def _index(where: str, plan: Rows, positions: Tensor) -> Tensor:
    if positions.numel():
        least, greatest = (int(end) for end in torch.aminmax(positions))
        if least < plan.low or greatest > plan.high:
            outside = (positions < plan.low) | (positions > plan.high)
            raise weight_checks.row_position_error(where, plan.low, plan.high, int(positions[outside][0]))
    return positions + plan.offset


def _taken(plan: Rows, weights: Tensor, index: Tensor) -> Tensor:
    """Rows as they are, or half precision in float32, where a scale is to come, or a compiler sums up a gradient."""
    frozen = None if plan.frozen is None else plan.frozen + plan.offset
    compiled, half = torch.compiler.is_compiling(), weights.dtype in _HALVES
    if not (compiled or inputs.needs_operations(weights)):
        taken = embedding(index, weights)
        return taken.to(torch.float32) if half and plan.scale != 1 else taken
    # a tangent is not kept from a row by its index alone
    apart = frozen is not None and (compiled or inputs.has_tangents())
    padding = None if apart else frozen
    if half and not compiled:
        taken = _Taken.apply(weights, index, padding, weights.dtype if plan.scale == 1 else torch.float32)  # type: ignore[no-untyped-call]
    else:
        taken = embedding(index, weights.to(torch.float32) if half else weights, padding)
    return torch.where(index.eq(frozen or 0).unsqueeze(-1), taken.detach(), taken) if apart else taken


class _Taken(torch.autograd.Function):
    """Rows of a table in half precision, bit for bit or in float32; the gradient is rounded once, no table widened."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, index: Tensor, padding: int | None, dtype: torch.dtype) -> Tensor:  # noqa: ARG004 - for the gradient
        return embedding(index, weights).to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        weights, index, padding, ctx.wide = inputs
        ctx.rows, ctx.dtype, ctx.padding = weights.shape[0], weights.dtype, -1 if padding is None else padding
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        wide = grads[0].to(torch.float32)
        total = torch.ops.aten.embedding_dense_backward(wide, index, ctx.rows, ctx.padding, False)
        return total.to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (index,) = ctx.saved_tensors
        return embedding(index, tangents[0]).to(ctx.wide)


# --- Resizing ---


class _Sizes(NamedTuple):
    """A resize plan without its weights."""

    rows: int
    dim: int
    kept: int
    grid: tuple[int, ...]
    shape: tuple[int, ...]
    taps: tuple[int, ...]
    """Of every axis; 0 where it is copied."""
    full: tuple[int, ...]
    """Of these, how many every output has; the others may only fill up."""


def _sizes(plan: ResizePlan) -> _Sizes:
    taps = tuple(0 if axis is None else len(axis.index[0]) for axis in plan.axes)
    full = tuple(0 if axis is None else min(sum(w != 0 for w in row) for row in axis.weights) for axis in plan.axes)
    return _Sizes(plan.rows, plan.dim, plan.kept, plan.grid, plan.shape, taps, full)


def _traced_plan(spec: RowSpec, shape: Any, method: object) -> tuple[_Sizes, str]:
    """In a trace: the sizes, and the key of the constants."""
    sizes, key, numbers = None, "", None
    if isinstance(shape, tuple | list):  # of symbols, perhaps
        numbers = [guard_scalar(n) if isinstance(n, int | torch.SymInt) else n for n in shape]
        shape = tuple(numbers) if isinstance(shape, tuple) else numbers
    integers = numbers is not None and all([isinstance(n, int) for n in numbers])  # noqa: C419 - for the trace
    if integers and is_one_of(spec, TABLES) and isinstance(method, str):
        key = f"{traced_json(spec)}|{json_value(tuple(shape))}|{method}"
        sizes = _traced_sizes(key)
    if sizes is None:
        refuse(resize_plan, "resize", spec, shape, method)
        raise ValueError("resize: expected in a trace a table of this library, a list or tuple of integers and a name")
    return sizes, key


def _plan_of(key: str) -> ResizePlan:
    spec, shape, method = key.rsplit("|", 2)
    sizes = tuple(int(size) for size in shape.strip("[]").split(",") if size)
    return resize_plan("resize", from_json(spec), sizes, method)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _traced_sizes(key: str) -> _Sizes | None:
    """None for what is refused: an exception would not be one of this function's caller."""
    try:
        return _sizes(_plan_of(key))
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _constant(plan: ResizePlan, kind: Literal["inputs", "factors"], axis: int) -> Constant:
    """`(taps, outputs)`: which inputs they are, and their weights."""
    taps = plan.axes[axis]
    if taps is None:
        raise AssertionError("an axis that is copied has no taps")
    rows = taps.index if kind == "inputs" else taps.weights
    flat = [value for tap in zip(*rows, strict=True) for value in tap]
    return Constant((len(rows[0]), len(rows)), array("q" if kind == "inputs" else "d", flat))


def _by_key(kind: Literal["inputs", "factors"]) -> Callable[[str], Constant]:
    def make(key: str) -> Constant:
        axis, rest = key.split("|", 1)
        return _constant(_plan_of(rest), kind, int(axis))

    return make


MAKERS |= {"inputs": _by_key("inputs"), "factors": _by_key("factors")}


def _resized(sizes: _Sizes, weights: Tensor, get: Callable[[Any, int], Tensor]) -> Tensor:
    wide = torch.float64 if weights.device.type == "cpu" else torch.float32
    x = weights[sizes.kept :].to(wide).reshape(*sizes.grid, sizes.dim)
    for axis, taps in enumerate(sizes.taps):
        if taps:
            factors = get("factors", axis)
            factors = factors.view(*factors.shape, *[1] * (x.dim() - 1 - axis))
            x = _along(x, axis, get("inputs", axis), factors.to(wide), sizes.full[axis])
    grid = round_once(x, weights.dtype).reshape(-1, sizes.dim)
    return joined(weights[: sizes.kept], grid, axis=0) if sizes.kept else grid


def _along(x: Tensor, axis: int, index: Tensor, factors: Tensor, full: int) -> Tensor:
    """Each product and each sum rounded once: no fused multiply-add, whose bits would be those of one column.

    From tap `full` on, those of factor 0 only fill up. In place of what they read -0.0 is added, which changes nothing:
    neither infinities nor zeros of either sign.
    """
    total = x.index_select(axis, index[0]) * factors[0]
    for tap in range(1, index.shape[0]):
        term = x.index_select(axis, index[tap]) * factors[tap]
        if tap >= full:
            unread = factors[tap] == 0
            if inputs.traced() or not x.is_cpu:
                term = torch.where(unread, -0.0, term)
            else:  # there are few: faster
                term.index_fill_(axis, unread.flatten().nonzero().flatten(), -0.0)
        total = total + term
    return total
