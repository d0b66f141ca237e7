"""`torch.nn` shells around one specification. They own no tensors: nothing to cast, to move, to save or to lose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posenc.spec.plan import PhaseSpec, phase_plan
from posenc.torch_impl.phase import add


class SinusoidalEncoding(torch.nn.Module):
    """`forward(x, positions=None)` is `add(spec, x, positions)`."""

    def __init__(self, spec: PhaseSpec) -> None:
        super().__init__()
        phase_plan("SinusoidalEncoding", spec)
        self.spec = spec

    def forward(self, x: Tensor, positions: Any = None) -> Tensor:
        return add(self.spec, x, positions)

    def extra_repr(self) -> str:
        return repr(self.spec)
