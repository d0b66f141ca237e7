"""Lookups of the wrong rows: offsets, padding, positions outside the table, and scales."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import numpy as np

from posenc import Sinusoidal
from tests.wrong.learned_plain import PlainTable
from tests.wrong.plain import numpy_dtype

# --- Offsets ---


class OffsetForgotten(PlainTable):
    """Position p reads row p."""

    reports = (
        "https://github.com/huggingface/transformers/issues/20761",
        "https://github.com/EleutherAI/gpt-neox/pull/650",
    )

    def row(self, spec, place):
        row = super().row(spec, place)
        return None if row is None else max(row - spec.offset, 0)


class OffsetTwice(PlainTable):
    """Positions that count from padding_idx + 1 are handed to a table that adds its offset."""

    reports = ("https://github.com/facebookresearch/fairseq/issues/1497",)

    def row(self, spec, place):
        row = super().row(spec, place)
        return None if row is None else min(row + spec.offset, spec.length + spec.offset - 1)


class PaddingIndex(PlainTable):
    """The first token reads row padding_idx, one before its own."""

    reports = (
        "https://github.com/facebookresearch/fairseq/issues/123",
        "https://github.com/takase/control-length/issues/7",
        "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/99",
    )

    def row(self, spec, place):
        row = super().row(spec, place)
        return row if row is None or spec.padding is None or place < 0 else row - 1


class AlwaysTwo(PlainTable):
    """The offset is 2 whatever padding_idx is."""

    reports = ("https://github.com/huggingface/transformers/issues/15292",)

    def row(self, spec, place):
        row = super().row(spec, place)
        rows = spec.length + spec.offset
        return row if row is None or spec.padding is None or place < 0 else min(place + 2, rows - 1)


class RowsWithoutOffset(PlainTable):
    """The table has as many rows as positions: the last ones have none."""

    reports = ("https://github.com/huggingface/transformers/issues/8077",)

    def row(self, spec, place):
        row = super().row(spec, place)
        return None if row is None or row >= spec.length else row


class LastRefused(PlainTable):
    """The last position is taken for one past the end."""

    reports = ("https://github.com/asyml/texar-pytorch/pull/187",)

    def row(self, spec, place):
        return None if place == spec.length - 1 else super().row(spec, place)


# --- Padding ---


class PaddingZero(PlainTable):
    """Padding tokens get zeros, whatever stands in their row."""

    reports = ("no report: the initial values of that row, taken for the values",)

    def read(self, spec, table, row, place):
        return table[row] * (place >= 0)


class PaddingCounted(PlainTable):
    """Padding tokens are counted from the first one on: positions are the places in the row."""

    reports = (
        "https://github.com/huggingface/transformers/issues/22161",
        "https://github.com/tloen/alpaca-lora/issues/315",
        "https://github.com/huggingface/transformers/issues/29419",
    )

    def places(self, spec, shape, values):
        return [i % shape[-1] for i in range(len(values))] if len(shape) > 1 else values


class PaddingGoesOn(PlainTable):
    """Padding behind the tokens goes on counting, and so does what is generated after it."""

    reports = ("https://github.com/huggingface/transformers/pull/48161",)

    def places(self, spec, shape, values):
        for i, place in enumerate(values[1:], 1):
            if place == -1 and i % shape[-1]:
                values[i] = values[i - 1] + 1
        return values


class EveryOffsetHasPadding(PlainTable):
    """Position -1 is admitted wherever there is a row before the first."""

    reports = ("no report: the bound is that of the table's rows",)

    def row(self, spec, place):
        return place + spec.offset if -min(spec.offset, 1) <= place < spec.length else None


# --- Positions ---


class FirstRow(PlainTable):
    """Positions of the first batch row serve every row."""

    reports = ("https://github.com/unslothai/unsloth/issues/3699",)

    def places(self, spec, shape, values):
        return [values[i % shape[-1]] for i in range(len(values))] if shape else values


class WrongAxis(PlainTable):
    """Offsets of batch rows are added along the axis of the tokens, where the sizes agree."""

    reports = ("https://github.com/Blaizzy/mlx-vlm/pull/1883",)

    def places(self, spec, shape, values):
        if len(shape) != 2 or shape[0] != shape[1]:
            return values
        return np.array(values).reshape(shape).T.flatten().tolist()


class PackedOn(PlainTable):
    """Positions go on from document to document."""

    reports = (
        "https://github.com/allenai/OLMo-core/pull/591",
        "https://github.com/huggingface/nanoVLM/issues/201",
    )

    def places(self, spec, shape, values):
        last = shape[-1] if shape else 1
        return [values[i - i % last] + i % last if place >= 0 else place for i, place in enumerate(values)]


class Contiguous(PlainTable):
    """Positions are counted from the first one on: how many rows are kept, not where they stand."""

    reports = ("https://github.com/rajveer43/VeloxQuant-MLX/issues/389",)

    def places(self, spec, shape, values):
        return [min(values[0] + i, spec.length - 1) for i in range(len(values))] if len(shape) == 1 else values


class TableOfCall(PlainTable):
    """The table is cut to the length of the call, and then indexed by position."""

    reports = ("https://github.com/astramind-ai/Mixture-of-depths/issues/8",)

    def places(self, spec, shape, values):
        self.count = shape[-1] if shape else 1
        return values

    def row(self, spec, place):
        row = super().row(spec, place)
        return row if row is None or place < self.count or self.count == 1 else None


class StepFromZero(PlainTable):
    """A generated token has position 0: the length of what came before is not added."""

    reports = ("https://github.com/OpenNMT/OpenNMT-tf/pull/498",)

    def places(self, spec, shape, values):
        return [0] * len(values) if shape and shape[-1] == 1 else values


class StepOneOff(PlainTable):
    """The length of what came before counts the generated token too."""

    reports = (
        "https://github.com/microsoft/onnxruntime-genai/pull/2354",
        "https://github.com/skyzh/tiny-llm/pull/46",
    )

    def places(self, spec, shape, values):
        one = shape and shape[-1] == 1
        return [min(place + 1, spec.length - 1) for place in values] if one else values


class RangeFromZero(PlainTable):
    """The rows are `table[:length]` where they should be `table[start : start + length]`."""

    reports = ("https://github.com/pytorch/executorch/pull/2010",)

    def places(self, spec, shape, values):
        return list(range(len(values))) if values == list(range(values[0], values[0] + len(values))) else values


class StaleRange(PlainTable):
    """The cache key holds the length, not where the range begins."""

    reports = ("https://github.com/lucidrains/rotary-embedding-torch/issues/11",)

    def __init__(self, **options):
        super().__init__(**options)
        self.cache = {}

    def lookup(self, spec, weights, positions):
        if not isinstance(positions.values, range):
            return super().lookup(spec, weights, positions)
        key = (spec, weights.dtype, len(positions.values))
        if key not in self.cache:
            self.cache[key] = super().lookup(spec, weights, positions)
        return self.cache[key]


class RingBuffer(PlainTable):
    """Positions are those of a buffer that begins again when it is full."""

    reports = (
        "https://github.com/Blaizzy/mlx-vlm/pull/1748",
        "https://github.com/ml-explore/mlx-examples/issues/1000",
    )

    def places(self, spec, shape, values):
        return [place % 256 if place >= 0 else place for place in values]


class Bfloat16Positions(PlainTable):
    """Positions are cast to bfloat16: from 256 on, neighbours collide."""

    reports = ("https://github.com/huggingface/transformers/issues/28685",)
    narrow = "bfloat16"

    def places(self, spec, shape, values):
        dtype = numpy_dtype(self.narrow)
        return [int(np.float32(place).astype(dtype)) if abs(place) < 2**15 else place for place in values]


class Float16Positions(Bfloat16Positions):
    """Positions are cast to float16: from 2,048 on, neighbours collide."""

    reports = ("https://github.com/NVIDIA/Megatron-LM/issues/535",)
    narrow = "float16"


class ScalarAxis(PlainTable):
    """A position without axes is given one."""

    reports = ("no report: atleast_1d",)

    def lookup(self, spec, weights, positions):
        found = super().lookup(spec, weights, positions)
        return found if positions.shape else found._replace(shape=(1, spec.dim))


class TokensForgotten(PlainTable):
    """The first patch has position 0: class and register tokens are not counted."""

    reports = ("no report: the class token is put in front after the encoding was looked up",)

    def row(self, spec, place):
        row = super().row(spec, place)
        return row if row is None or place < spec.tokens else row - spec.tokens


# --- Outside the table ---


class Clamped(PlainTable):
    """Whatever lies outside reads the nearest row, as JAX gathers."""

    reports = ("no report: indexing in JAX",)

    def row(self, spec, place):
        low = 0 if spec.padding is None else -1
        return min(max(place, low), spec.length - 1) + spec.offset


class ClampedBelow(PlainTable):
    """What lies below reads row 0, as if its position were 0."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/27597",)

    def row(self, spec, place):
        return spec.offset if place < (0 if spec.padding is None else -1) else super().row(spec, place)


class FromTheEnd(PlainTable):
    """A negative row counts from the end of the table, as NumPy's does."""

    reports = ("no report: an index of -1",)

    def row(self, spec, place):
        row, rows = place + spec.offset, spec.length + spec.offset
        return row % rows if -rows <= row < rows else None


class BoundOfRows(PlainTable):
    """The row is compared with the table after the offset was added: positions below 0 read what stands before."""

    reports = ("no report: 0 <= p + offset",)

    def row(self, spec, place):
        return place + spec.offset if 0 <= place + spec.offset < spec.length + spec.offset else None


class Modulo(PlainTable):
    """Positions past the end begin again at 0."""

    reports = ("https://github.com/pytorch/torchtitan/pull/2849",)

    def row(self, spec, place):
        return super().row(spec, place % spec.length if place >= spec.length else place)


class Zeros(PlainTable):
    """Rows past the end are zeros: what stands in memory behind the table, or what a gather gives on a device."""

    reports = (
        "https://github.com/pegainfer-project/pegainfer/issues/220",
        "https://github.com/microsoft/onnxruntime/pull/28277",
    )

    def row(self, spec, place):
        row = super().row(spec, place)
        return -1 if row is None and place >= spec.length else row

    def read(self, spec, table, row, place):
        return table[row] if row >= 0 else np.zeros_like(table[0])


class Overflow(PlainTable):
    """The offset is added in 32 bits, and only then compared: past the greatest integer is before the table."""

    reports = ("no report: int32 in place of a comparison before the sum",)

    def row(self, spec, place):
        row = (place + spec.offset + 2**31) % 2**32 - 2**31
        return max(row, 0) if place > spec.length and row < spec.length else super().row(spec, place)


class Answers(PlainTable):
    """The host answers NaN where it should refuse."""

    reports = ("no report: a check that the trace cannot make is left out everywhere",)

    def __init__(self, **options):
        super().__init__(refuses=False)


# --- Scales ---


class ScaleForgotten(PlainTable):
    """The row itself."""

    reports = ("https://github.com/SamLynnEvans/Transformer/issues/10",)

    def scaled(self, spec, found):
        return found


class ScaleTwice(PlainTable):
    """Scaled in the table, and once more where it is added."""

    reports = ("https://github.com/Kyubyong/transformer/issues/132",)

    def scaled(self, spec, found):
        return super().scaled(spec, super().scaled(spec, found))


class ScaleDivides(PlainTable):
    """The row is divided by the scale: it was meant for the other side."""

    reports = ("https://github.com/nicklashansen/dreamer4/pull/4",)

    def scaled(self, spec, found):
        return (found.astype(np.float64) / spec.output_scale).astype(found.dtype)


class ScaleNarrow(PlainTable):
    """The scale is rounded to the dtype of the table first."""

    reports = ("no report: weights * scale in the dtype of the weights",)

    def scaled(self, spec, found):
        return (found.astype(np.float64) * float(found.dtype.type(spec.output_scale))).astype(found.dtype)


class TwoEncodings(PlainTable):
    """A second encoding is added to the rows."""

    reports = (
        "https://github.com/EleutherAI/gpt-neox/pull/147",
        "https://github.com/speechbrain/speechbrain/pull/1892",
    )

    def read(self, spec, table, row, place):
        wave = Sinusoidal.tensor2tensor(spec.dim)
        return table[row] + np.array([wave.value(place, channel) for channel in range(spec.dim)], table.dtype)
