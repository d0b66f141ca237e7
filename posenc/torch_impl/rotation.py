"""rotate: queries and keys turned by a table of cosines and sines.

u * cos - v * sin is two products and a sum, each rounded. A fused multiply-add would be used or not by where a vector
loop ends; without it bits are the same under any split. Half precision is widened first, and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, unflatten
from torch.autograd import forward_ad

from posenc.spec import checks, from_json
from posenc.spec.plan import PairLayout, RotarySpec, rotation_plan
from posenc.torch_impl.inputs import CPU, read_table, read_x
from posenc.torch_impl.words import trace_key

_transforms = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_CHUNK = 1 << 16  # channels at a time for each thread: the temporaries stay in the cache


class _Turn(NamedTuple):
    """A rotation plan; `back`: its transpose, by the negative angle."""

    head_dim: int
    start: int
    pairs: int
    reads: PairLayout
    writes: PairLayout
    back: bool = False

    def transposed(self) -> _Turn:
        return self._replace(reads=self.writes, writes=self.reads, back=not self.back)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What stays before the rotary channels, these, and what stays behind them."""
        end = self.start + 2 * self.pairs
        return x[..., : self.start], x[..., self.start : end], x[..., end:]


class _Read(NamedTuple):
    """What the checks of `rotate` found."""

    turn: _Turn
    head: int | None
    gap: int
    """Where the table lacks the axis of the heads, counted from the end; 0: nowhere."""
    wide: torch.dtype | None
    """What the table has to be converted to."""


def rotate(spec: RotarySpec, x: Tensor, table: tuple[Tensor, Tensor], *, head_axis: int | None) -> Tensor:
    """Queries or keys turned by a table, with one rounding, in a new array: `x.shape`, `x.dtype`.

    On the device of x, to which the table is taken. Differentiable in x and in the table.
    """
    traced = torch.compiler.is_compiling()
    if traced:
        found = _read(_traced_turn(trace_key("rotate", spec, rotary=True)), x, table, head_axis)
    else:
        found = _read_again(spec, x, table, head_axis)
    turn, head, gap, wide = found
    cos, sin = table
    if wide or not (x.is_cpu and cos.is_cpu and sin.is_cpu):
        cos, sin = (t.to(x.device, wide or t.dtype) for t in (cos, sin))
    if gap:
        cos, sin = cos.unsqueeze(gap), sin.unsqueeze(gap)
    return _formula(x, cos, sin, turn) if traced else _rotated(x, cos, sin, turn, head)


def _read_again(spec: RotarySpec, x: Tensor, table: tuple[Tensor, Tensor], head_axis: int | None) -> _Read:
    """`_read`, once for all arguments that are alike: a decode step should not wait for checks."""
    if head_axis is not None and type(head_axis) is not int:  # an array may be one axis now, and another later
        return _read(_turn_of(spec), x, table, head_axis)
    try:
        cos, sin = table
        kind = type(head_axis), type(table), x.dtype, cos.dtype, sin.dtype
        key = spec, head_axis, kind, x.shape, cos.shape, sin.shape
        found = _passed.get(key)
    except (TypeError, ValueError, AttributeError):  # no pair, no tensors, or nothing that can be hashed
        return _read(_turn_of(spec), x, table, head_axis)
    if found is None:
        found = _read(_turn_of(spec), x, table, head_axis)
        if len(_passed) >= _MOST_PASSED:
            _passed.clear()
        _passed[key] = found
    return found


_MOST_PASSED = 1024
_passed: dict[tuple[Any, ...], _Read] = {}


def _read(turn: _Turn, x: Tensor, table: tuple[Tensor, Tensor], head_axis: int | None) -> _Read:
    read_x("rotate", x, turn.head_dim, ())
    head = checks.head_axis("rotate", head_axis, x.dim())
    cos, _ = read_table("rotate", table, turn.pairs)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return _Read(turn, head, _gap(x.shape, cos.shape, head), None if cos.dtype == wide else wide)


def _gap(shape: Sequence[int], table_shape: Sequence[int], head: int | None) -> int:
    lead = [size for axis, size in enumerate(shape[:-1]) if axis != head]
    own = table_shape[:-1]
    # an `in` that asks a tuple of symbols is answered wrongly by torch.compile (2.13)
    fits = all(a == 1 or a == b for a, b in zip(reversed(own), reversed(lead), strict=False))  # noqa: PLR1714 - as above
    if len(own) not in (0, 1, len(lead)) or len(own) > len(lead) or not fits:
        raise checks.table_shape_error("rotate", lead, own)
    if head is None or all(size == 1 for size in own):
        return 0
    behind = len(shape) - 2 - head
    return -2 - behind if len(own) > behind else 0


def _turn_of(spec: RotarySpec) -> _Turn:
    plan = rotation_plan("rotate", spec)
    return _Turn(plan.head_dim, plan.start, plan.pairs, plan.reads, plan.writes)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _traced_turn(key: str) -> _Turn:
    return _turn_of(from_json(key))  # type: ignore[arg-type]  # the key is that of a rotation


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, turn: _Turn, head: int | None) -> Tensor:
    if _watched(x, cos, sin):
        return _formula(x, cos, sin, turn)
    if x.requires_grad and torch.is_grad_enabled():
        result: Tensor = _Rotation.apply(x, cos, sin, turn, head)  # type: ignore[no-untyped-call]
        return result
    return _turned(x, cos, sin, turn, head)


def _watched(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether more than a gradient with respect to x depends on seeing each operation."""
    return (
        not (type(x) is type(cos) is type(sin) is Tensor)
        or ((cos.requires_grad or sin.requires_grad) and torch.is_grad_enabled())
        or _transforms()
        or forward_ad._current_level >= 0
        or _modes() > 0
        or _tracing() is not None
    )


class _Rotation(torch.autograd.Function):
    """Linear in x, and its gradient is the transposed rotation: nothing of x is kept."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor, turn: _Turn, head: int | None) -> Tensor:
        return _turned(x, cos, sin, turn, head)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        _, cos, sin, ctx.turn, ctx.head = inputs
        ctx.save_for_backward(cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        turn, (grad,) = ctx.turn.transposed(), grads
        # what torch.autograd batches (is_grads_batched) is no transform of torch.func
        special = torch._C._functorch.is_legacy_batchedtensor(grad) or torch.compiler.is_compiling()
        result = _formula(grad, cos, sin, turn) if special else _rotated(grad, cos, sin, turn, ctx.head)
        return result, None, None, None, None


def _formula(x: Tensor, cos: Tensor, sin: Tensor, turn: _Turn) -> Tensor:
    """For compilers and transforms: no view is written to, and Inductor makes one loop of it."""
    whole = 2 * turn.pairs == turn.head_dim
    before, part, behind = (x, x, x) if whole else turn.split(x)
    sin = -sin if turn.back else sin
    split = (2, turn.pairs) if turn.reads == "half" else (turn.pairs, 2)
    pairs = part.to(cos.dtype).reshape(*part.shape[:-1], *split)
    if turn.reads == turn.writes == "half":
        # a stack of two halves would be compiled into scalar loops where x is in half precision
        sign = torch.arange(-1, 2, 2, dtype=cos.dtype, device=cos.device).unsqueeze(-1)
        turned = pairs * cos.unsqueeze(-2) + pairs.flip(-2) * (sin.unsqueeze(-2) * sign)
    else:
        u, v = pairs.unbind(-2 if turn.reads == "half" else -1)
        turned = torch.stack((u * cos - v * sin, v * cos + u * sin), -2 if turn.writes == "half" else -1)
    turned = turned.reshape(part.shape).to(x.dtype)
    return turned if whole else joined(before, turned, behind)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, turn: _Turn, head: int | None) -> Tensor:
    if not x.is_cpu:
        return _formula(x, cos, sin, turn)
    whole = 2 * turn.pairs == turn.head_dim
    if x.numel() <= _CHUNK:
        if whole:
            return _at_once(x, cos, sin, turn)
        before, part, behind = turn.split(x)
        return joined(before, _at_once(part, cos, sin, turn), behind)
    result = torch.empty_like(x)
    into = result
    if not whole:
        before, x, behind = turn.split(x)
        new_before, into, new_behind = turn.split(result)
        new_before.copy_(before)
        new_behind.copy_(behind)
    missing = [1] * (x.dim() - cos.dim())
    cos, sin = cos.view(*missing, *cos.shape), sin.view(*missing, *sin.shape)
    order = [axis for axis in range(x.dim() - 1) if axis != head] + ([] if head is None else [head])
    limit = _CHUNK * torch.get_num_threads()
    scratch = torch.empty(4, max(limit // 2, turn.pairs), dtype=cos.dtype, device=CPU)
    _fill(x, into, cos, sin, turn, order, limit, scratch)
    return result


def joined(*parts: Tensor, axis: int = -1) -> Tensor:
    kind = parts[0].device.type
    # meta tensors have no autocast, and are refused where it is asked for
    if parts[0].dtype == torch.float32 or kind == "meta" or not torch.is_autocast_enabled(kind):
        return torch.cat(parts, axis)
    with torch.autocast(kind, enabled=False):  # which joins no tensors of the half precision that is not its own
        return torch.cat(parts, axis)


def _at_once(x: Tensor, cos: Tensor, sin: Tensor, turn: _Turn) -> Tensor:
    """In few operations: a decode step is dispatch and little else."""
    _, _, pairs, reads, writes, back = turn
    same = x.dtype == cos.dtype
    wide = x if same else x.float()
    minus, plus = (sin, -sin) if back else (-sin, sin)
    if reads == writes == "interleaved":
        u, v = unflatten(wide, -1, (pairs, 2)).unbind(-1)
        cos, sin, swapped = _interleaved(cos, cos), _interleaved(minus, plus), _interleaved(v, u)
    else:
        if reads == "interleaved":
            wide = unflatten(wide, -1, (pairs, 2)).transpose(-1, -2).flatten(-2)
        cos, sin = torch.cat((cos, cos), -1), torch.cat((minus, plus), -1)
        swapped = wide.roll(pairs, -1)
    # only what was widened is surely no view of x
    turned = swapped.mul_(sin).add_(wide * cos if same else wide.mul_(cos))
    if writes == "interleaved" != reads:
        turned = unflatten(turned, -1, (2, pairs)).transpose(-1, -2).flatten(-2)
    if same:
        return turned
    return turned.bfloat16() if x.dtype == torch.bfloat16 else turned.half()


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    """As complex numbers have them, which are written faster than a stack."""
    both = torch.complex(first, second)
    return both.view(first.dtype) if both.stride(-1) == 1 else torch.view_as_real(both).flatten(-2)


def _fill(
    x: Tensor, result: Tensor, cos: Tensor, sin: Tensor, turn: _Turn, order: list[int], limit: int, scratch: Tensor
) -> None:
    """Write into `result`, a block of about `limit` channels at a time, all heads of a position together."""
    axis = next((axis for axis in order if x.shape[axis] > 1), None) if x.numel() > limit else None
    if axis is None:
        _fill_block(x, result, cos, sin, turn, scratch)
        return
    size = max(1, x.shape[axis] * limit // x.numel())
    parts = [torch.split(t, size, axis) for t in (x, result)]
    for t in (cos, sin):
        parts.append(torch.split(t, size, axis) if t.shape[axis] > 1 else (t,) * len(parts[0]))
    for xs, results, coss, sins in zip(*parts, strict=True):
        _fill(xs, results, coss, sins, turn, order, limit, scratch)


def _fill_block(x: Tensor, result: Tensor, cos: Tensor, sin: Tensor, turn: _Turn, scratch: Tensor) -> None:
    u, v = _as_pairs(x, turn.pairs, turn.reads).unbind(-2)
    to_u, to_v = _as_pairs(result, turn.pairs, turn.writes).unbind(-2)
    dense_u, dense_v, product, other = scratch[:, : u.numel()].view(4, *u.shape).unbind(0)
    if turn.reads == "interleaved" or x.dtype != cos.dtype:
        u, v = dense_u.copy_(u), dense_v.copy_(v)
    direct = turn.writes == "half" and x.dtype == cos.dtype
    signs = (torch.add, torch.sub) if turn.back else (torch.sub, torch.add)
    for own, partner, into, sum_of in ((u, v, to_u, signs[0]), (v, u, to_v, signs[1])):
        turned = into if direct else product
        torch.mul(own, cos, out=turned)
        torch.mul(partner, sin, out=other)
        sum_of(turned, other, out=turned)
        if not direct:
            into.copy_(turned)


def _as_pairs(x: Tensor, pairs: int, layout: PairLayout) -> Tensor:
    """A view `(..., 2, pairs)`: u, then v."""
    return unflatten(x, -1, (2, pairs)) if layout == "half" else unflatten(x, -1, (pairs, 2)).transpose(-1, -2)
