"""Reading arguments: positions, dtypes and x, refused with the sentences of `posenc.spec.checks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.symbolic_shapes import guard_or_false, guard_scalar
from torch.utils.dlpack import from_dlpack

from posenc.spec import checks, weight_checks

_OUTPUT = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
_FLOATS = (torch.float32, torch.float64)
CPU = torch.device("cpu")


def traced() -> bool:
    """Whether this runs inside torch.compile or torch.export, or under a FakeTensorMode, where no value is known."""
    return torch.compiler.is_compiling() or isinstance(torch.empty(0, device=CPU), FakeTensor)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def said(function: Callable[..., object], *arguments: object) -> str | None:
    """The sentence of the error that a function returns or raises; None if there is none.

    To a trace it is a constant: it could not follow how a value is shown, nor the exact arithmetic of a plan.
    """
    try:
        result = function(*arguments)
    except ValueError as error:
        result = error
    return str(result) if isinstance(result, ValueError) else None


def read_dtype(where: str, dtype: object) -> torch.dtype:
    if dtype in _OUTPUT and isinstance(dtype, torch.dtype):
        return dtype
    name = checks.output_dtype_name(where, dtype)
    named = dtype if name is None else getattr(torch, name)
    if not isinstance(named, torch.dtype):
        raise checks.output_dtype_error(where, checks.shown(dtype))
    if named not in _OUTPUT:
        raise checks.output_dtype_error(where, dtype_name(named))
    return named


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_x(where: str, x: object, dim: int, positions: object) -> None:
    if not isinstance(x, Tensor):
        raise checks.x_dtype_error(where, type(x).__name__)
    if x.dtype not in _OUTPUT:
        raise checks.x_dtype_error(where, dtype_name(x.dtype))
    if x.dim() == 0 or x.shape[-1] != dim:
        raise checks.x_shape_error(where, dim, x.shape)
    if positions is None and x.dim() < 2:
        raise checks.x_rank_error(where, dim, x.shape)


def check_broadcast(where: str, x: Tensor, shape: Any) -> None:
    """Positions of this shape have to broadcast to the axes of x but the last."""
    # an `in` that asks a tuple of symbols is answered wrongly by torch.compile (2.13)
    pairs = zip(reversed(shape), reversed(x.shape[:-1]), strict=False)
    if len(shape) >= x.dim() or not all(a == 1 or a == b for a, b in pairs):  # noqa: PLR1714 - as above
        raise checks.positions_shape_error(where, x.shape[:-1], shape)


def read_table(where: str, table: object, pairs: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines: two tensors of one float dtype and one shape `(*P, pairs)`."""
    cos, sin = checks.table_parts(where, pairs, table)
    if not isinstance(cos, Tensor) or not isinstance(sin, Tensor):
        raise checks.table_kind_error(where, pairs, cos, sin)
    checks.check_table(where, pairs, (dtype_name(cos.dtype), dtype_name(sin.dtype)), (cos.shape, sin.shape))
    return cos, sin


def read_weights(where: str, weights: object, shape: tuple[int, int]) -> Tensor:
    if not isinstance(weights, Tensor):
        raise weight_checks.weights_kind_error(where, weights)
    if weights.dtype not in _OUTPUT:
        raise weight_checks.weights_dtype_error(where, dtype_name(weights.dtype))
    if weights.dim() != 2 or weights.shape[0] != shape[0] or weights.shape[1] != shape[1]:
        raise weight_checks.weights_shape_error(where, shape, weights.shape)
    return weights


def needs_operations(weights: Tensor) -> bool:
    """Whether something follows the operations on `weights`: a gradient, a tangent, a transform, a mode, a compiler."""
    return (
        type(weights) not in (Tensor, torch.nn.Parameter)
        or (weights.requires_grad and torch.is_grad_enabled())
        or has_tangents()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
    )


def has_tangents() -> bool:
    """Whether something could carry a tangent, or a transform of torch.func stands around."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def wrapped(tensor: Tensor) -> bool:
    """Whether a torch.func transform stands around `tensor`."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def read_positions(where: str, positions: object) -> Tensor | range:
    """Positions of an allowed dtype: integers as int64, floats and ranges as they are; on the host of allowed value."""
    if isinstance(positions, Tensor):
        return _checked(where, positions)
    if isinstance(positions, range):
        return checks.position_range(where, positions)
    if type(positions) is int and abs(positions) < checks.POSITION_LIMIT:  # a decode step should not wait for a list
        return torch.tensor(positions, dtype=torch.int64, device=CPU)
    numbers = checks.position_list(where, positions)
    if numbers is not None:
        dtype = torch.int64 if numbers.integral else torch.float64
        return torch.tensor(numbers.values, dtype=dtype, device=CPU).view(numbers.shape)
    return _checked(where, _foreign(where, positions))


def read_traced_positions(where: str, positions: object) -> Tensor:
    """`read_positions` inside a trace, where Python integers may be symbols."""
    if isinstance(positions, Tensor):
        return _typed(where, positions)
    if isinstance(positions, range):
        return arange(positions)
    if isinstance(positions, torch.SymInt) or (isinstance(positions, int) and not isinstance(positions, bool)):
        return torch.full((), positions, dtype=torch.int64, device=CPU)  # type: ignore[arg-type]
    numbers = checks.position_list(where, positions)
    if numbers is None:
        raise checks.position_dtype_error(where, type(positions).__name__)
    dtype = torch.int64 if numbers.integral else torch.float64
    return torch.tensor(numbers.values, dtype=dtype, device=CPU).view(numbers.shape)


def read_integers(where: str, positions: object) -> Tensor | range:
    """`read_positions` of an argument that takes integers only; `where` names it."""
    if not isinstance(positions, Tensor | range | bool | int | float | list | tuple):
        positions = _foreign(where, positions)
    _refuse_floats(where, positions)
    found = read_positions(where, positions)
    if isinstance(found, Tensor) and found.is_floating_point():  # a list of another library's scalars
        raise checks.position_dtype_error(where, "float")
    return found


def read_traced_integers(where: str, positions: object) -> tuple[Tensor, Sequence[int] | None]:
    """`read_integers` inside a trace; also, row-major, the values that Python knows, which are checked."""
    _refuse_floats(where, positions)
    known: Sequence[int] | None = None
    if isinstance(positions, range):
        known = positions
    elif isinstance(positions, list | tuple):
        numbers = checks.position_list(where, positions)
        if numbers is not None and not numbers.integral:
            raise checks.position_dtype_error(where, "float")
        known = None if numbers is None else numbers.values  # type: ignore[assignment]  # integers, as just checked
    elif isinstance(positions, int | torch.SymInt) and not isinstance(positions, bool):
        known = [positions]  # type: ignore[list-item]  # a symbol counts as an integer
    outside = None if known is None else first_outside(known, 1 - checks.POSITION_LIMIT, checks.POSITION_LIMIT - 1)
    if outside is not None:
        raise ValueError(said(checks.position_value_error, where, outside))
    return read_traced_positions(where, positions), known


def first_outside(known: Sequence[int], low: int, high: int) -> int | None:
    """The first of known positions that is not from `low` to `high`; the ends of a range may be symbols."""
    if not isinstance(known, range):
        for position in known:
            if _outside(position, low, high):
                return plain(position)
        return None
    first, step = known.start, known.step
    count = (known.stop - first + step - (1 if step > 0 else -1)) // step  # no len, which would ask for numbers
    if count <= 0:
        return None
    inside = 0 if _outside(first, low, high) else ((high if step > 0 else low) - first) // step + 1
    return plain(first + inside * step) if guard_or_false(inside < count) else None


def plain(value: int) -> int:
    """The number that a symbol stands for, on which the trace then depends."""
    return int(guard_scalar(value))


def _outside(position: int, low: int, high: int) -> bool:
    """False also for a symbol of which nothing is known."""
    return bool(guard_or_false(position < low) or guard_or_false(position > high))


def _refuse_floats(where: str, positions: object) -> None:
    if isinstance(positions, Tensor):
        if positions.dtype in _FLOATS:
            raise checks.position_dtype_error(where, dtype_name(positions.dtype))
    elif _has_floats(positions):
        raise checks.position_dtype_error(where, "float")


def _has_floats(positions: object) -> bool:
    if isinstance(positions, list | tuple):
        return any([_has_floats(item) for item in positions])  # noqa: C419 - a generator would be traced as such
    return isinstance(positions, float)


def arange(positions: range, device: torch.device = CPU) -> Tensor:
    return torch.arange(positions.start, positions.stop, positions.step, dtype=torch.int64, device=device)


def check_values(where: str, positions: Tensor, given: Tensor | None = None) -> None:
    """Refuse NaN, infinities and magnitudes of 2^31 or more, naming the first in row-major order, as it was given."""
    if positions.numel() == 0:
        return
    if positions.is_floating_point():
        good = positions.abs() < checks.POSITION_LIMIT  # NaN is not
        if good.all():
            return
    else:
        least, greatest = (end.item() for end in torch.aminmax(positions))
        if least > -checks.POSITION_LIMIT and greatest < checks.POSITION_LIMIT:
            return
        good = (positions > -checks.POSITION_LIMIT) & (positions < checks.POSITION_LIMIT)
    first = int((~good).flatten().nonzero()[0])
    raise checks.position_value_error(where, (positions if given is None else given).flatten()[first].item())


def _checked(where: str, given: Tensor) -> Tensor:
    positions = _typed(where, given)
    if positions.device.type == "cpu" and not wrapped(positions):
        check_values(where, positions, given)
    return positions


def _typed(where: str, positions: Tensor) -> Tensor:
    if positions.dtype in _FLOATS or positions.dtype == torch.int64:
        return positions
    if positions.dtype not in _INTEGERS:
        raise checks.position_dtype_error(where, dtype_name(positions.dtype))
    if positions.dtype == torch.uint64:
        # int64 would wrap to small numbers what is far too large: keep it too large
        wide = positions.to(torch.int64)
        return torch.where(wide < 0, torch.iinfo(torch.int64).max, wide)
    return positions.to(torch.int64)


def _foreign(where: str, positions: Any) -> Tensor:
    """An array of another library, copied: NumPy's by its interface, others by DLPack."""
    try:
        if hasattr(positions, "__array_interface__"):
            # native byte order and positive strides, which is all that torch reads
            order = positions.dtype.newbyteorder("=")
            return torch.tensor(positions.astype(order, order="C"), device=CPU)
        if hasattr(positions, "__dlpack__"):
            return from_dlpack(positions)
    except (TypeError, ValueError, RuntimeError, BufferError):
        pass
    name = getattr(getattr(positions, "dtype", None), "name", type(positions).__name__)
    raise checks.position_dtype_error(where, str(name))


def on_host(where: str, positions: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function(positions)`, seeing plain tensors also where torch.func stands around them."""
    if not wrapped(positions):
        return function(positions)
    result: Tensor = _Unwrapped.apply(where, function, positions)  # type: ignore[no-untyped-call]
    return result


class _Unwrapped(torch.autograd.Function):
    """A constant of integer nature: no tangent, no gradient; a mapped axis is an axis of positions like any other."""

    @staticmethod
    def forward(where: str, function: Callable[[Tensor], Tensor], positions: Tensor) -> Tensor:
        check_values(where, positions)
        return function(positions)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(_: Any, in_dims: tuple[Any, ...], where: str, function: Any, positions: Tensor) -> tuple[Tensor, int]:
        return on_host(where, _checked(where, positions.movedim(in_dims[2], 0)), function), 0

    @staticmethod
    def backward(_: Any, *__: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def jvp(_: Any, *__: Any) -> None:
        return None


Pairs = Callable[[Tensor, Tensor], Tensor]
"""Of the positions of queries and keys, `(*B, Q)` and `(*B, K)`, or with one more axis each, that of coordinates."""


def pairs_on_host(where: str, function: Pairs, query: Tensor, key: Tensor) -> Tensor:
    """`function(query, key)` as `on_host` has it."""
    if not (wrapped(query) or wrapped(key)):
        check_values(f"{where}.query_positions", query)
        check_values(f"{where}.key_positions", key)
        return function(query, key)
    result: Tensor = _UnwrappedPairs.apply(where, function, query, key)  # type: ignore[no-untyped-call]
    return result


class _UnwrappedPairs(torch.autograd.Function):
    """As `_Unwrapped`; a mapped axis is the first of the leading axes."""

    forward = staticmethod(pairs_on_host)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch passes three
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(_: Any, in_dims: tuple[Any, ...], where: str, function: Pairs, *both: Tensor) -> tuple[Tensor, int]:
        query, key = (
            t.unsqueeze(0) if at is None else t.movedim(at, 0) for t, at in zip(both, in_dims[2:], strict=True)
        )
        rank = max(query.dim(), key.dim())
        query, key = (t.reshape(t.shape[0], *[1] * (rank - t.dim()), *t.shape[1:]) for t in (query, key))
        return pairs_on_host(where, function, query, key), 0

    @staticmethod
    def backward(_: Any, *__: Tensor) -> tuple[None, ...]:
        return None, None, None, None

    @staticmethod
    def jvp(_: Any, *__: Any) -> None:
        return None
