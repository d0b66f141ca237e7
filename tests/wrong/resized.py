"""Tables resized to the wrong shape, along the wrong axes, with the wrong kernel, or in too few digits."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from fractions import Fraction

import numpy as np

from posenc.spec.resampling import KEYS_SHARPNESS, METHODS, TORCH_SHARPNESS
from tests.wrong.learned_plain import PlainTable, array
from tests.wrong.plain import answer, numpy_dtype, once

# --- Shapes and axes ---


class SquareRoot(PlainTable):
    """Both axes have the factor sqrt(patches / positions)."""

    reports = ("https://github.com/facebookresearch/dino/issues/8",)

    def target(self, spec, shape):
        grid = self.grid(spec)
        factor = math.sqrt(math.prod(shape) / math.prod(grid))
        return [int(n * factor) for n in grid]


class SquareGrid(PlainTable):
    """The table's grid is taken to be a square of int(sqrt(N)), and what is left over dropped."""

    reports = ("https://github.com/facebookresearch/dinov2/issues/506",)

    def grid(self, spec):
        own = super().grid(spec)
        return (math.isqrt(math.prod(own)),) * 2 if len(own) == 2 else own


class Transposed(PlainTable):
    """The table is written column by column: width comes first."""

    reports = ("https://github.com/facebookresearch/mae/issues/18",)

    def resize(self, spec, weights, shape, method):
        resized = super().resize(spec, weights, shape, method)
        if len(shape) != 2 or resized is weights:
            return resized
        kept, rows = self.kept(spec), array(resized)
        columns = rows[kept:].reshape(*shape, spec.dim).swapaxes(0, 1).reshape(-1, spec.dim)
        return answer(np.concatenate([rows[:kept], columns]))


class WidthFirst(PlainTable):
    """The shape is read as (width, height)."""

    reports = ("https://github.com/leondgarse/keras_cv_attention_models/issues/26",)

    def target(self, spec, shape):
        return shape[::-1]


class ChannelsForRows(PlainTable):
    """(1, N, dim) is viewed as (1, dim, height, width) without a permutation."""

    reports = ("no report: view in place of permute",)

    def resize(self, spec, weights, shape, method):
        table, kept, grid = array(weights), self.kept(spec), self.grid(spec)
        mixed = table[kept:].reshape(spec.dim, *grid).transpose(*range(1, len(grid) + 1), 0).reshape(-1, spec.dim)
        mixed = np.concatenate([table[:kept], mixed])
        return super().resize(spec, answer(mixed), shape, method)


class TokensResampled(PlainTable):
    """Rows of class and register tokens are resampled with the patches of a table of one axis."""

    reports = ("no report: the whole table is interpolated",)

    def kept(self, spec):
        return spec.offset

    def grid(self, spec):
        return super().grid(spec) if spec.grid else (spec.length,)

    def target(self, spec, shape):
        return shape if spec.grid else (shape[0] + spec.tokens,)


class TokensDropped(PlainTable):
    """The resized table has no rows for class and register tokens."""

    reports = ("no report: the kept rows are not put back",)

    def resize(self, spec, weights, shape, method):
        resized, kept = array(super().resize(spec, weights, shape, method)), self.kept(spec)
        return answer(resized[kept:])


class OffsetResampled(TokensResampled):
    """Rows before that of position 0 are resampled like positions."""

    reports = ("no report: the whole table is interpolated",)

    def kept(self, spec):
        return 0

    def grid(self, spec):
        return PlainTable.grid(self, spec) if spec.grid else (spec.length + spec.offset,)

    def target(self, spec, shape):
        return shape if spec.grid else (shape[0] + spec.tokens + spec.offset,)


class NotUsed(PlainTable):
    """The resized table is stored under another name: the model reads zeros."""

    reports = ("https://github.com/clip-vil/CLIP-ViL/issues/13",)

    def rounded(self, values, dtype):
        return super().rounded(values, dtype) * 0


class SameCount(PlainTable):
    """A table is returned as it is where the number of patches agrees."""

    reports = ("no report: counts are compared, and not shapes",)

    def early(self, spec, shape, method):
        return math.prod(self.grid(spec)) == math.prod(shape)


class StaysUnread(PlainTable):
    """An axis whose size stays is not resampled, whatever its factor."""

    reports = ("no report: sizes are compared one by one",)

    def along(self, values, axis, m, method):
        return values if values.shape[axis] == m else super().along(values, axis, m, method)


class UnchangedResampled(PlainTable):
    """A table of unchanged shape is resampled with a factor that is not 1."""

    reports = ("no report: DINO's return for unchanged sizes is left out",)

    def early(self, spec, shape, method):
        return False


class FactorFloor(PlainTable):
    """The size is the floor of n times a factor m / n that was rounded."""

    reports = ("no report: what DINO's tenth works round",)

    def target(self, spec, shape):
        return [math.floor(n * (m / n)) for n, m in zip(self.grid(spec), shape, strict=True)]


class TwoAxes(PlainTable):
    """Only the last two axes of three are resized."""

    reports = ("no report: a function for images",)

    def axes(self, shape):
        return super().axes(shape)[-2:]


# --- Kernels ---


class Kernel(PlainTable, ABC):
    """Another resampler than the one asked for."""

    @abstractmethod
    def change(self, own):
        """What is exchanged in the one asked for."""

    def resampler(self, method):
        own = METHODS[method]
        return replace(own, **self.change(own))


class NoAntialias(Kernel):
    """The kernel is not stretched where the grid shrinks."""

    reports = ("https://github.com/openvinotoolkit/openvino.genai/pull/4444",)

    def change(self, own):
        return {"antialias": False}


class Antialias(Kernel):
    """The kernel is stretched where the method has no antialias: a default of JAX, and not of PyTorch."""

    reports = ("no report: the default of another framework",)

    def change(self, own):
        return {"antialias": True, "replicate": False}


class Corners(Kernel):
    """align_corners where it is not asked for."""

    reports = ("https://github.com/facebookresearch/dinov2/issues/468",)

    def change(self, own):
        return {"corners": True}


class NoCorners(Kernel):
    """No align_corners where it is asked for."""

    reports = ("https://github.com/facebookresearch/dinov2/issues/468",)

    def change(self, own):
        return {"corners": False}


class Linear(Kernel):
    """Bilinear for bicubic."""

    reports = ("no report: the argument mode left at its default",)

    def change(self, own):
        return {"kernel": "linear"}


class Cubic(Kernel):
    """Bicubic for bilinear."""

    reports = ("no report: the mode of another model",)

    def change(self, own):
        return {"kernel": "cubic"}


class KeysForTorch(Kernel):
    """a = -0.5 for -0.75: the cubic of JAX, TensorFlow and Pillow for PyTorch's."""

    reports = ("no report: the kernel of another framework",)

    def change(self, own):
        return {"sharpness": KEYS_SHARPNESS}


class TorchForKeys(Kernel):
    """a = -0.75 for -0.5."""

    reports = ("no report: the kernel of another framework",)

    def change(self, own):
        return {"sharpness": TORCH_SHARPNESS}


class EdgesRepeated(Kernel):
    """The edge is repeated where weights beyond it should be dropped."""

    reports = ("no report: the edges of another framework",)

    def change(self, own):
        return {"replicate": True}


class EdgesDropped(Kernel):
    """Weights beyond the edge are dropped where the edge should be repeated."""

    reports = ("no report: the edges of another framework",)

    def change(self, own):
        return {"replicate": False}


class NoTable(Kernel):
    """The cubic itself, where TensorFlow reads a table of 1,024 entries."""

    reports = ("no report: the kernel of the documentation",)

    def change(self, own):
        return {"table": False}


class SizeForFactor(Kernel):
    """DINO's tenth is forgotten: the ratio of the sizes for the factor."""

    reports = ("no report: size= in place of scale_factor=, as in DINOv2 with registers",)

    def change(self, own):
        return {"enlarged": False}


class EdgesLost(PlainTable):
    """Weights beyond the edge are dropped, and the others not divided by their sum."""

    reports = ("no report: zeros beyond the edge",)

    def weights(self, n, m, method):
        from posenc.spec.resampling import _weights

        return [_weights(self.resampler(method), n, m, output) for output in range(m)]


class OneFactor(PlainTable):
    """Both axes have the factor of the first: antialias is decided for both together."""

    reports = ("no report: one scale for height and width",)

    def resize(self, spec, weights, shape, method):
        self.ratio = Fraction(self.grid(spec)[0], shape[0])
        return super().resize(spec, weights, shape, method)

    def weights(self, n, m, method):
        own = self.resampler(method)
        shrinks = replace(own, antialias=own.antialias and self.ratio > 1)
        self.resampler = lambda _: shrinks
        try:
            return super().weights(n, m, method)
        finally:
            del self.resampler


# --- Digits ---


class InBfloat16(PlainTable):
    """A table in bfloat16 is resized in bfloat16."""

    reports = ("no report: timm casts to float32 first for this reason",)

    def resize(self, spec, weights, shape, method):
        self.own = numpy_dtype(weights.dtype)
        return super().resize(spec, weights, shape, method)

    def arithmetic(self):
        return self.own


class InFloat32(PlainTable):
    """Sums in float32: within the bound of a trace, but not the bits of the host."""

    reports = ("no report: the arithmetic of the libraries",)

    def arithmetic(self):
        return np.float32


class TwoRoundings(PlainTable):
    """The result reaches a narrow format through float32."""

    reports = ("https://github.com/ROCm/rocm-libraries/pull/3766",)

    def rounded(self, values, dtype):
        return once(values.astype(np.float32).astype(np.float64), dtype) if dtype != "float64" else values


class LastAxisFirst(PlainTable):
    """The axes are resized in the other order: other roundings."""

    reports = ("no report: torch's antialias takes the width first",)

    def axes(self, shape):
        return super().axes(shape)[::-1]


class Fused(PlainTable):
    """Products and sums are fused: one rounding where two are stated."""

    reports = ("no report: contraction by a compiler",)

    def along(self, values, axis, m, method):
        values = np.moveaxis(values, axis, 0)
        lines = []
        for row in self.weights(len(values), m, method):
            taps = [(Fraction(float(row[tap])), tap) for tap in self.order(row)]
            line = []
            for place in np.ndindex(values.shape[1:]):
                total = 0.0
                for weight, tap in taps:
                    total = float(Fraction(total) + weight * Fraction(float(values[tap][place])))
                line.append(total)
            lines.append(np.array(line).reshape(values.shape[1:]))
        return np.moveaxis(np.array(lines), 0, axis)


class TapsDescending(PlainTable):
    """The sum begins with the last tap: other roundings."""

    reports = ("no report: another order of a sum",)

    def order(self, row):
        return sorted(row, reverse=True)
