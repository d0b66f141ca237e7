"""Rounding once to an output format, where frameworks round float64 to half precision twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 15  # values at a time: the temporaries stay in the cache


def round_to(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 to `dtype` with one rounding."""
    if dtype in (torch.float64, torch.float32):
        return wide.to(dtype)
    short = wide.to(torch.float32)
    return narrow(short, wide - short, dtype)


def narrow(short: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """The real number `short + error`, whose float32 is `short`, rounded once to a half-precision `dtype`.

    Rounding to odd first: an inexact float32 is never taken for a midpoint of the shorter format.
    """
    bits = short.view(torch.int32)
    positive = error > 0
    outward = torch.where(positive == (short > 0), 1, -1).to(torch.int32)
    inexact = (positive | (error < 0)) & ((bits & 1) == 0)  # a NaN is neither
    return torch.where(inexact, bits + outward, bits).view(torch.float32).to(dtype)


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32 if values.dtype == torch.float32 else torch.int16)


def _add_once(x: Tensor, e: Tensor, result: Tensor) -> None:
    if x.numel() > _CHUNK and x.dim() > 1:
        rows = _CHUNK * x.shape[0] // x.numel()
        parts = [torch.split(t, rows) if rows else t.unbind() for t in (x, e, result)]
        for part in zip(*parts, strict=True):
            _add_once(*part)
        return
    short = x.to(torch.float32)
    total = short + e
    rest = total - short
    result.copy_(narrow(total, (short - (total - rest)) + (e - rest), x.dtype))


class AddOnce(torch.autograd.Function):
    """Half-precision `x` plus float32 `e`, rounded once; linear in x."""

    @staticmethod
    def forward(x: Tensor, e: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(x.shape, e.shape)  # type: ignore[no-untyped-call]
        x, e = x.expand(shape), e.expand(shape)
        result = torch.empty(shape, dtype=x.dtype, device=x.device)
        _add_once(x, e, result)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int | None, int | None], x: Tensor, e: Tensor) -> tuple[Tensor, int]:
        first = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.unsqueeze(0)
        if in_dims[1] is not None:
            e = e.movedim(in_dims[1], 0)
            e = e.view(e.shape[0], *[1] * (first.dim() - e.dim()), *e.shape[1:])
        result: Tensor = AddOnce.apply(first, e)  # type: ignore[no-untyped-call]
        return result, 0

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None

    @staticmethod
    def jvp(_: Any, *tangents: Any) -> Any:
        return tangents[0].clone()


def round_once(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """`round_to`, differentiable."""
    if wide.dtype == torch.float64 and dtype in (torch.bfloat16, torch.float16):
        result: Tensor = _RoundOnce.apply(wide, dtype)  # type: ignore[no-untyped-call]
        return result
    return wide.to(dtype)


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
