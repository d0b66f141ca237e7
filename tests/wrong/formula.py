"""Another formula than the specification says: denominator, layout, order, offset, base, padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from tests.wrong.plain import Plain


class Misread(Plain, ABC):
    """Reads another specification than it was given."""

    @abstractmethod
    def misread(self, spec):
        """The specification that is read."""

    def values(self, spec, positions):
        return super().values(self.misread(spec), positions)


class Denominator(Misread):
    """dim/2 - 1 for dim/2, and the reverse: SDXL timesteps built with downscale_freq_shift 1 instead of 0."""

    reports = ("https://github.com/kohya-ss/sd-scripts/pull/1187",)

    def misread(self, spec):
        return replace(spec, denominator_shift=1 - spec.denominator_shift if spec.pairs > 1 else 0)


class Layout(Misread):
    """All sines, then all cosines, where the documentation says interleaved."""

    reports = ("https://github.com/tatp22/multidim-positional-encoding/issues/20",)

    def misread(self, spec):
        return replace(spec, layout={"interleaved": "sin_cos"}.get(spec.layout, "interleaved"))


class Order(Misread):
    """Sines and cosines exchanged: flip_sin_to_cos applied twice."""

    reports = ("https://github.com/flashinfer-ai/flashinfer/pull/3819",)

    def misread(self, spec):
        return replace(spec, layout={"cos_sin": "sin_cos", "sin_cos": "cos_sin"}.get(spec.layout, spec.layout))


class Offset(Misread):
    """Positions from 0 where fairseq's first token stands in row padding_idx + 1."""

    reports = ("https://github.com/facebookresearch/fairseq/issues/123",)

    def misread(self, spec):
        return replace(spec, position_offset=0)


class Base(Misread):
    """10,000 is written into the code; the configured base is never read."""

    reports = ("https://github.com/huggingface/candle/pull/3746",)

    def misread(self, spec):
        return replace(spec, base=10000.0)


class Padding(Misread):
    """The row of padding tokens has an encoding like any other."""

    reports = ("https://github.com/takase/control-length/issues/7",)

    def misread(self, spec):
        return replace(spec, padding_position=None)


class PaddingRowZero(Misread):
    """Position 0 is taken for padding, whatever the specification says."""

    reports = ("https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/99",)

    def misread(self, spec):
        return replace(spec, padding_position=0)
