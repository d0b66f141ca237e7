"""lookup, resize: tables of learned rows, as tensors."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from posenc.spec import exact, from_json, weight_checks
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

    Where positions are on an accelerator, and in a trace, one outside the table has NaN in every channel.
    Differentiable in the weights: the gradient is dense, and summed up in float32 at least.
    """
    traced = inputs.traced()
    plan = row_facts("lookup", spec, traced=traced)
    weights = inputs.read_weights("lookup", weights, (plan.rows, plan.dim))
    read = inputs.read_traced_integers if traced else inputs.read_integers
    return read_rows("lookup", plan, weights, read("lookup.positions", positions), traced=traced)


def resize(spec: RowSpec, weights: Tensor, shape: tuple[int, ...], *, method: str) -> Tensor:
    """The table of `spec.resized(shape)`, in the dtype of the weights: `(rows, dim)` -> `(kept + prod(shape), dim)`.

    In float64, with one rounding at the end, where the weights are on the CPU, also in a trace; in float32 elsewhere.
    Linear in the weights, and differentiable.
    """
    if inputs.traced():
        if not is_one_of(spec, TABLES) or not isinstance(shape, tuple) or not isinstance(method, str):
            _refuse("resize", spec, shape, method)
        key = f"{traced_json(spec)}|{json_value(shape)}|{method}"
        sizes = _traced_sizes(key)
        if sizes is None:
            _refuse("resize", spec, shape, method)
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
        _refuse(where, spec)
    found: Rows = _traced_rows(traced_json(spec))
    return found


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse(where: str, spec: object, *resizing: object) -> None:
    """Raise what the arguments deserve: outside a trace, which would follow the exact arithmetic of a plan."""
    if resizing:
        resize_plan(where, spec, *resizing)
    row_plan(where, spec)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _traced_rows(key: str) -> Rows:
    return _rows_of("lookup", from_json(key))


def _rows_of(where: str, spec: object) -> Rows:
    plan = row_plan(where, spec)
    scale = exact.round_to(Fraction(plan.scale), "float32")
    return Rows(plan.rows, plan.dim, plan.offset, plan.low, plan.high, plan.frozen_position, plan.scale, scale)


def read_rows(where: str, plan: Rows, weights: Tensor, positions: Tensor | range, *, traced: bool) -> Tensor:
    """What positions read, on the device of the weights; they are as `read_integers` returns them."""
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
    """Rows as they are, or half precision in float32, where a gradient has to be summed up or a scale is to come."""
    frozen = None if plan.frozen is None else plan.frozen + plan.offset
    compiled, half = torch.compiler.is_compiling(), weights.dtype in _HALVES
    if not (compiled or inputs.needs_operations(weights)):
        taken = embedding(index, weights)
        return taken.to(torch.float32) if half and plan.scale != 1 else taken
    # a tangent is not kept from a row by its index alone
    apart = frozen is not None and (compiled or inputs.has_tangents())
    padding = None if apart else frozen
    if half and not compiled:
        taken = _Widened.apply(weights, index, padding)  # type: ignore[no-untyped-call]
    else:
        taken = embedding(index, weights.to(torch.float32) if half else weights, padding)
    return torch.where(index.eq(frozen or 0).unsqueeze(-1), taken.detach(), taken) if apart else taken


class _Widened(torch.autograd.Function):
    """Rows of a table in half precision, in float32: the gradient is rounded once, and no table is widened."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, index: Tensor, padding: int | None) -> Tensor:  # noqa: ARG004 - for the gradient
        return embedding(index, weights).to(torch.float32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        weights, index, padding = inputs
        ctx.rows, ctx.dtype, ctx.padding = weights.shape[0], weights.dtype, -1 if padding is None else padding
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        total = torch.ops.aten.embedding_dense_backward(grads[0], index, ctx.rows, ctx.padding, False)
        return total.to(ctx.dtype), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (index,) = ctx.saved_tensors
        return embedding(index, tangents[0]).to(torch.float32)


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


def _sizes(plan: ResizePlan) -> _Sizes:
    taps = tuple(0 if axis is None else len(axis.index[0]) for axis in plan.axes)
    return _Sizes(plan.rows, plan.dim, plan.kept, plan.grid, plan.shape, taps)


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
            index, factors = get("inputs", axis), get("factors", axis).to(wide)
            x = _along(x, axis, index, factors.view(*factors.shape, *[1] * (x.dim() - 1 - axis)))
    grid = round_once(x, weights.dtype).reshape(-1, sizes.dim)
    return joined(weights[: sizes.kept], grid, axis=0) if sizes.kept else grid


def _along(x: Tensor, axis: int, index: Tensor, factors: Tensor) -> Tensor:
    """Each product and each sum rounded once: no fused multiply-add, whose bits would be those of one column."""
    taps = [x.index_select(axis, tap) * factor for tap, factor in zip(index.unbind(0), factors.unbind(0), strict=True)]
    return sum(taps[1:], taps[0])
