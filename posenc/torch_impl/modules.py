"""`torch.nn` shells around one specification. Fixed encodings own no tensors: nothing to cast, to move or to lose."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value

from posenc.spec import checks
from posenc.spec.distance_plan import DistanceSpec, bias_plan
from posenc.spec.plan import PhaseSpec, RotarySpec, encoding_plan, table_plan
from posenc.spec.row_plan import RowSpec, row_plan
from posenc.torch_impl import inputs
from posenc.torch_impl.distance import bias
from posenc.torch_impl.formats import add_once
from posenc.torch_impl.inputs import traced
from posenc.torch_impl.learned import read_positions, read_rows, row_facts
from posenc.torch_impl.phase import Table, add, table
from posenc.torch_impl.rotation import rotate

_KEPT = 1 << 24  # cosines of a table that is kept


class SinusoidalEncoding(torch.nn.Module):
    """`forward(x, positions=None)` is `add(spec, x, positions)`."""

    def __init__(self, spec: PhaseSpec) -> None:
        super().__init__()
        encoding_plan("SinusoidalEncoding", spec)
        self.spec = spec

    def forward(self, x: Tensor, positions: Any = None) -> Tensor:
        return add(self.spec, x, positions)

    def extra_repr(self) -> str:
        return repr(self.spec)


class RotaryEmbedding(torch.nn.Module):
    """`forward(q, k, positions)` is `rotate` of both by `table(spec, positions)`, in float64 where one of them is.

    Layers that share one module share its last table, which it knows again by the values of the positions on the host.
    """

    def __init__(self, spec: RotarySpec, *, head_axis: int | None) -> None:
        super().__init__()
        table_plan("RotaryEmbedding", spec)
        self.spec = spec
        self.head_axis = checks.layer_head_axis("RotaryEmbedding", head_axis)

    def forward(self, q: Tensor, k: Tensor, positions: Any) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if torch.float64 in (q.dtype, k.dtype) else torch.float32
        shared = table(self.spec, positions, dtype=wide) if traced() else self._table(positions, wide)
        turned = [rotate(self.spec, x, shared, head_axis=self.head_axis) for x in (q, k)]
        if shared.cos.dim() == 1:
            for x in (q, k):
                lengths = [
                    size for axis, size in enumerate(x.shape[:-1]) if self.head_axis not in (axis, axis - x.dim())
                ]
                if lengths and lengths[-1] > 1:
                    raise checks.one_position_error("RotaryEmbedding", lengths[-1])
        return turned[0], turned[1]

    def extra_repr(self) -> str:
        return f"{self.spec!r}, head_axis={self.head_axis}"

    def _table(self, positions: Any, dtype: torch.dtype) -> Table:
        plain = type(positions) in (int, range) or (type(positions) is Tensor and positions.is_cpu)
        if not plain or torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
            return table(self.spec, positions, dtype=dtype)
        inference = torch.is_inference_mode_enabled()
        last = _last.get(self)
        if last and last[:3] == (self.spec, dtype, inference) and _same(last.positions, positions):
            return last.table
        made = table(self.spec, positions, dtype=dtype)
        if made.cos.numel() <= _KEPT:
            copied = positions.detach().clone() if isinstance(positions, Tensor) else positions
            _last[self] = _Made(self.spec, dtype, inference, copied, made)
        return made


class RelativeBias(torch.nn.Module):
    """`forward(query_positions, key_positions)` is `bias(spec, ...)`, of the parameter `weights` where it has a table.

    `weights` `spec.weight_shape` are normal with standard deviation `std`: T5 has `d_model ** -0.5`, Swin 0.02. With
    slopes there are none, and the result is where the positions are. Its dtype is that of the weights, else float32.

    `scaled_dot_product_attention` takes a floating `attn_mask` of float32, or of the dtype of the queries, and no
    other: with half-precision queries `dtype=torch.float32` spares scores of a model in half precision a rounding.
    """

    weights: torch.nn.Parameter | None

    def __init__(
        self,
        spec: DistanceSpec,
        *,
        std: float = 0.02,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        plan = bias_plan("RelativeBias", spec)
        self.spec = spec
        self.std = checks.non_negative("RelativeBias.std", std)
        if plan.rows is None or plan.heads is None:
            self.register_parameter("weights", None)
        else:
            self.weights = torch.nn.Parameter(torch.empty(plan.rows, plan.heads, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weights is not None:
            torch.nn.init.normal_(self.weights, std=self.std)

    def forward(self, query_positions: Any, key_positions: Any, *, dtype: torch.dtype | str | None = None) -> Tensor:
        if dtype is None:
            dtype = torch.float32 if self.weights is None else self.weights.dtype
        return bias(self.spec, query_positions, key_positions, weights=self.weights, dtype=dtype)

    def extra_repr(self) -> str:
        return f"{self.spec!r}, std={self.std}"


class LearnedEncoding(torch.nn.Module):
    """`forward(x, positions=None)` is x plus the rows of `weights` that positions read, rounded once to `x.dtype`.

    Without positions they are `range(x.shape[-2])`. `weights` `spec.weight_shape` are normal with standard deviation
    `std`; the row of a frozen position is zero, and stays so.
    """

    def __init__(
        self,
        spec: RowSpec,
        *,
        std: float = 0.02,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        plan = row_plan("LearnedEncoding", spec)
        self.spec = spec
        self.std = checks.non_negative("LearnedEncoding.std", std)
        self.weights = torch.nn.Parameter(torch.empty(plan.rows, plan.dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.normal_(self.weights, std=self.std)
        plan = self.spec.plan()
        if plan.frozen_position is not None:
            with torch.no_grad():
                self.weights[plan.frozen_position + plan.offset].zero_()

    def forward(self, x: Tensor, positions: Any = None) -> Tensor:
        where, in_trace = "LearnedEncoding", traced()
        plan = row_facts(where, self.spec, traced=in_trace)
        inputs.read_x(where, x, plan.dim, positions)
        if positions is None and in_trace and not has_static_value(x.shape[-2]):
            found: Any = torch.arange(x.shape[-2], device=x.device)  # a range would make a number of the symbol
        else:
            given = range(x.shape[-2]) if positions is None else positions
            found = read_positions(where, plan, given, traced=in_trace)
        shape = (len(found),) if isinstance(found, range) else found.shape
        inputs.check_broadcast(where, x, shape)
        if len(shape) == 0 and x.dim() > 1 and x.shape[-2] > 1:
            raise checks.one_position_error(where, x.shape[-2])
        wide = torch.float64 if torch.float64 in (x.dtype, self.weights.dtype) else torch.float32
        rows = read_rows(where, plan, self.weights, found, traced=in_trace).to(wide)
        return x + rows if x.dtype == wide else add_once(x, rows)

    def extra_repr(self) -> str:
        return f"{self.spec!r}, std={self.std}"


class _Made(NamedTuple):
    spec: RotarySpec
    dtype: torch.dtype
    inference: bool
    """Tensors made in inference mode are of no use to a gradient."""
    positions: Tensor | int | range
    table: Table


# beside the modules, so that it is neither copied nor pickled with one
_last: WeakKeyDictionary[RotaryEmbedding, _Made] = WeakKeyDictionary()


def _same(kept: Any, positions: Any) -> bool:
    if type(kept) is not type(positions):
        return False
    if isinstance(positions, Tensor):
        return kept.dtype == positions.dtype and torch.equal(kept, positions)
    return bool(kept == positions)
