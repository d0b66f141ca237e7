"""`torch.nn` shells around one specification. They own no tensors: nothing to cast, to move, to save or to lose."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from posenc.spec import checks
from posenc.spec.plan import PhaseSpec, RotarySpec, encoding_plan, table_plan
from posenc.torch_impl.inputs import traced
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
