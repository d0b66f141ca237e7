"""Rounding once to an output format, where frameworks round float64 to half precision twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 15  # values at a time: the temporaries stay in the cache


def round_to(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """float64, or float32, to `dtype` with one rounding."""
    if wide.dtype == torch.float32 or dtype in (torch.float64, torch.float32):
        return wide.to(dtype)
    short = wide.to(torch.float32)
    return narrow(short, wide - short, dtype)


def narrow(short: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """The real number `short + error`, whose float32 is `short`, rounded once to a half-precision `dtype`."""
    return odd(short, error).to(dtype)


def odd(short: Tensor, error: Tensor) -> Tensor:
    """The real number `short + error`, whose nearest is `short`, rounded to odd: never a midpoint of a shorter format.

    That is its truncation, with the last bit set where it is not the number itself. Signs are compared by their bits:
    where `short` is zero, it is the zero of the sign of what was lost.
    """
    bits = _signed_bits(short)
    inexact = (error.abs() > 0).to(bits.dtype)  # a NaN is not, as where `short` is infinite
    signs = _signed_bits(error) >> 8 * error.element_size() - 1
    inward = (bits >> 8 * short.element_size() - 1) ^ signs.to(bits.dtype)  # -1 where the signs differ
    return (inward * inexact + bits | inexact).view(short.dtype)


def _signed_bits(values: Tensor) -> Tensor:
    return values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32 if values.dtype == torch.float32 else torch.int16)


def add_once(x: Tensor, e: Tensor) -> Tensor:
    """`x` plus `e` of a longer format, rounded once to the dtype of x; linear in both."""
    shape = torch.broadcast_shapes(x.shape, e.shape)  # type: ignore[no-untyped-call]
    x, e = x.expand(shape), e.expand(shape)
    if torch.compiler.is_compiling():
        wide = x.to(e.dtype)
        total = wide + e
        return round_once(total, x.dtype, error=_lost(wide.detach(), e.detach(), total.detach()))
    result: Tensor = _AddOnce.apply(x, e)  # type: ignore[no-untyped-call]
    return result


def _lost(a: Tensor, b: Tensor, total: Tensor) -> Tensor:
    """What the sum of a and b lacks, exactly."""
    rest = total - a
    return (a - (total - rest)) + (b - rest)


def _add_into(x: Tensor, e: Tensor, result: Tensor) -> None:
    if x.is_cpu and x.numel() > _CHUNK and x.dim() > 1:
        rows = _CHUNK * x.shape[0] // x.numel()
        parts = [torch.split(t, rows) if rows else t.unbind() for t in (x, e, result)]
        for part in zip(*parts, strict=True):
            _add_into(*part)
        return
    wide = x.to(e.dtype)
    total = wide + e
    result.copy_(round_to(odd(total, _lost(wide, e, total)), x.dtype))


class _AddOnce(torch.autograd.Function):
    """Of two tensors of one shape."""

    @staticmethod
    def forward(x: Tensor, e: Tensor) -> Tensor:
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _add_into(x, e, result)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int | None, int | None], x: Tensor, e: Tensor) -> tuple[Tensor, int]:
        x, e = (t.unsqueeze(0) if at is None else t.movedim(at, 0) for t, at in zip((x, e), in_dims, strict=True))
        return add_once(x, e), 0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        return grads[0], grads[0].to(ctx.dtype) if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(_: Any, *tangents: Any) -> Any:
        return tangents[0] + tangents[1].to(tangents[0].dtype)


def round_once(wide: Tensor, dtype: torch.dtype, *, error: Tensor | None = None) -> Tensor:
    """`wide` with one rounding to `dtype`, differentiable; in a trace also the real number `wide + error`, as `odd`."""
    twice = wide.dtype == torch.float64 and dtype in (torch.bfloat16, torch.float16)
    if torch.compiler.is_compiling():  # Dynamo follows no function that has a forward mode
        if error is not None:
            wide = _moved(wide, odd(wide.detach(), error))
        if twice:
            short = wide.detach().to(torch.float32)
            wide = _moved(wide, odd(short, wide.detach() - short).to(torch.float64))
    elif twice:
        result: Tensor = _RoundOnce.apply(wide, dtype)  # type: ignore[no-untyped-call]
        return result
    return wide.to(dtype)


def _moved(wide: Tensor, near: Tensor) -> Tensor:
    """The value of `near`, with the gradient of `wide`; without a sum where they are equal, as zeros and infinities."""
    return torch.where(near == wide, wide, near + (wide - wide.detach()))


class _RoundOnce(torch.autograd.Function):
    """float64 to half precision; a gradient passes as that of a conversion does."""

    @staticmethod
    def forward(wide: Tensor, dtype: torch.dtype) -> Tensor:
        return round_to(wide, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        ctx.dtype = inputs[1]

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int, None], wide: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
        return round_once(wide, dtype), in_dims[0]

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(torch.float64), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].to(ctx.dtype)
