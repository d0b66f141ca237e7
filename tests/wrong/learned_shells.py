"""Layers around a learned table whose numbers are right, and whose life is not: training, casts, loading."""

from __future__ import annotations

import torch


class PlainShell(torch.nn.Module):
    """Right: one parameter, `weights`, whose frozen row is zero and stays so."""

    reports: tuple[str, ...] = ()

    def __init__(self, spec, **factory):
        super().__init__()
        self.spec = spec
        self.weights = torch.nn.Parameter(torch.empty(spec.weight_shape, **factory))
        self.reset_parameters()

    def reset_parameters(self):
        torch.nn.init.normal_(self.weights, std=0.02)
        if self.spec.padding == "frozen":
            with torch.no_grad():
                self.weights[self.spec.offset - 1] = 0

    def forward(self, x, positions=None):
        if positions is None:
            positions = torch.arange(x.shape[-2])
        return x + self.rows(positions)

    def rows(self, positions):
        found = self.weights[positions + self.spec.offset]
        frozen = (positions == -1)[..., None] if self.spec.padding == "frozen" else torch.tensor(False)
        return torch.where(frozen, found.detach(), found)


class FrozenTrained(PlainShell):
    """The gradient of padding tokens reaches the frozen row."""

    reports = ("https://github.com/extropic-ai/sparse-transformers/pull/3",)

    def rows(self, positions):
        return self.weights[positions + self.spec.offset]


class FrozenDecayed(PlainShell):
    """No gradient, but the row starts like the others: the decay of AdamW moves what it does not train."""

    reports = ("https://github.com/extropic-ai/sparse-transformers/pull/3",)

    def reset_parameters(self):
        torch.nn.init.normal_(self.weights, std=0.02)


class NothingTrained(PlainShell):
    """Positions are constants: the table is never trained."""

    reports = ("no report: no_grad around the lookup",)

    def rows(self, positions):
        return super().rows(positions).detach()


class PositionsKept(PlainShell):
    """Positions are a buffer of the state: a checkpoint has a key more, or lacks one."""

    reports = (
        "https://github.com/karpathy/llama2.c/issues/266",
        "https://github.com/meta-pytorch/gpt-fast/issues/42",
        "https://github.com/huggingface/transformers/pull/35255",
        "https://github.com/EleutherAI/gpt-neox/pull/1168",
        "https://github.com/aws-neuron/neuronx-nemo-megatron/pull/21",
    )

    def __init__(self, spec, **factory):
        super().__init__(spec, **factory)
        self.register_buffer("positions", torch.arange(spec.length, device=factory.get("device")))


class PositionsCast(PlainShell):
    """Positions are a buffer of floats, which a cast of the model rounds."""

    reports = ("https://github.com/NVIDIA/Megatron-LM/issues/535",)

    def __init__(self, spec, **factory):
        super().__init__(spec, **factory)
        self.register_buffer("places", torch.arange(spec.length, dtype=torch.float32), persistent=False)

    def forward(self, x, positions=None):
        return super().forward(x, self.places[: x.shape[-2]].long() if positions is None else positions)


class EmptyPositions(PlainShell):
    """Positions are a buffer that is not saved, and not made again after `to_empty`."""

    reports = (
        "https://github.com/huggingface/transformers/issues/48892",
        "https://github.com/pytorch/torchtitan/issues/4783",
        "https://github.com/Synthyra/FastPLMs/pull/47",
        "https://github.com/sgl-project/SpecForge/pull/703",
    )

    def __init__(self, spec, **factory):
        super().__init__(spec, **factory)
        places = torch.arange(spec.length, device=factory.get("device"))
        self.register_buffer("places", places, persistent=False)

    def to_empty(self, *, device, recurse=True):
        emptied = super().to_empty(device=device, recurse=recurse)
        self.places.zero_()  # what an empty tensor may hold
        return emptied

    def forward(self, x, positions=None):
        return super().forward(x, self.places[: x.shape[-2]] if positions is None else positions)


class FrozenForgotten(PlainShell):
    """The frozen row is zeroed when the layer is made, and not when its values are drawn again."""

    reports = ("https://github.com/benjiyaya/HeartMuLa_ComfyUI/issues/93",)

    def __init__(self, spec, **factory):
        super().__init__(spec, **factory)
        PlainShell.reset_parameters(self)

    def reset_parameters(self):
        torch.nn.init.normal_(self.weights, std=0.02)


class LoadedElsewhere(PlainShell):
    """A table that is loaded is kept under another name: what the model reads stays zero."""

    reports = ("https://github.com/clip-vil/CLIP-ViL/issues/13",)

    def load_state_dict(self, state, strict=True):  # noqa: ARG002 - torch has it
        self.weight = state["weights"]
        with torch.no_grad():
            self.weights.zero_()


class InputScaled(PlainShell):
    """The input is multiplied by sqrt(dim), here and where it was embedded."""

    reports = (
        "https://github.com/SamLynnEvans/Transformer/issues/10",
        "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/138",
    )

    def forward(self, x, positions=None):
        return super().forward(x * x.shape[-1] ** 0.5, positions)


class AddedTwice(PlainShell):
    """The encoding is added to the input, and once more to the output."""

    reports = (
        "https://github.com/speechbrain/speechbrain/pull/1892",
        "https://github.com/EleutherAI/gpt-neox/pull/147",
    )

    def forward(self, x, positions=None):
        return super().forward(super().forward(x, positions), positions)
