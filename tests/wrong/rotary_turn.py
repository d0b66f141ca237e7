"""Rotations of the wrong channels, by the wrong rows, along the wrong axis, or by what was asked before."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import numpy as np

from tests.wrong.rotary_plain import PlainRotation


class OtherLayout(PlainRotation):
    """Half for interleaved, and the reverse: the flag is ignored, or weights were not permuted."""

    reports = (
        "https://github.com/huggingface/transformers/issues/25199",
        "https://github.com/vllm-project/vllm/issues/49290",
        "https://github.com/warpfront/hipfire/pull/241",
        "https://github.com/NeuraLegion/shainet/pull/111",
        "https://github.com/PaddlePaddle/PaddleFleet/pull/678",
        "https://github.com/karpathy/llama2.c/pull/286",
    )

    def channels(self, spec):
        plan = spec.rotation()
        other = {"half": "interleaved", "interleaved": "half"}
        return _channels(plan.start, plan.pairs, other[plan.reads], other[plan.writes])


class NotReordered(PlainRotation):
    """Channels stay interleaved where the cache expects halves."""

    reports = ("https://github.com/ml-explore/mlx-lm/pull/512", "https://github.com/xLLM-AI/xllm/pull/853")

    def channels(self, spec):
        plan = spec.rotation()
        return _channels(plan.start, plan.pairs, plan.reads, plan.reads)


class ConcatenatedTable(PlainRotation):
    """Neighbours are turned by cat([cos, cos]), the table of the other layout."""

    reports = ("https://github.com/huggingface/transformers/pull/47403",)

    def turned(self, spec, entries, cosine, sine, wide):
        plan = spec.rotation()
        if plan.reads == "half":
            return super().turned(spec, entries, cosine, sine, wide)
        u, v, u_out, v_out = self.channels(spec)
        first, second = (entries[..., part].astype(wide) for part in (u, v))
        (cos_u, cos_v), (sin_u, sin_v) = (_both(np.concatenate([part, part], -1)) for part in (cosine, sine))
        result = entries.copy()
        result[..., u_out] = (first * cos_u - second * sin_u).astype(entries.dtype)
        result[..., v_out] = (second * cos_v + first * sin_v).astype(entries.dtype)
        return result


class Sign(PlainRotation):
    """rotate_half negates the other half."""

    reports = ("https://github.com/ROCm/rocm-libraries/pull/3766",)

    def turned(self, spec, entries, cosine, sine, wide):
        return super().turned(spec, entries, cosine, -sine, wide)


class Twice(PlainRotation):
    """Turned in the kernel, and once more outside of it."""

    reports = ("https://github.com/NVIDIA/TensorRT-LLM/pull/14810",)

    def turned(self, spec, entries, cosine, sine, wide):
        once = super().turned(spec, entries, cosine, sine, wide)
        return super().turned(spec, once, cosine, sine, wide)


class Missing(PlainRotation):
    """One path does not rotate at all."""

    reports = ("https://github.com/sqliteai/warp/pull/27",)

    def turned(self, spec, entries, cosine, sine, wide):
        return entries


class InPlace(PlainRotation):
    """u is overwritten before v is computed from it."""

    reports = ("no report: an assignment too early",)

    def turned(self, spec, entries, cosine, sine, wide):
        u, v, u_out, v_out = self.channels(spec)
        work = entries.astype(wide)
        work[..., u] = work[..., u] * cosine - work[..., v] * sine
        turned = work[..., v] * cosine + work[..., u] * sine
        result = entries.copy()
        result[..., u_out], result[..., v_out] = work[..., u].astype(entries.dtype), turned.astype(entries.dtype)
        return result


class FirstHeadOnly(PlainRotation):
    """Only head 0 is turned."""

    reports = ("https://github.com/huggingface/transformers/pull/47403",)

    def rotate(self, spec, x, table, head_axis):
        result = super().rotate(spec, x, table, head_axis)
        if head_axis is None:
            return result
        width = len(x.data) // int(np.prod(x.shape))
        size = width * int(np.prod(x.shape[head_axis:][1:]))  # of one head's block
        heads = x.shape[head_axis]
        blocks = range(0, len(x.data), size)
        return result._replace(
            data=b"".join((x if (at // size) % heads else result).data[at : at + size] for at in blocks)
        )


# --- Widths ---


class Everywhere(PlainRotation):
    """Every channel turns, where only a part should."""

    reports = (
        "https://github.com/AI-Hypercomputer/maxtext/issues/4616",
        "https://github.com/vllm-project/vllm/pull/43770",
    )

    def turned(self, spec, entries, cosine, sine, wide):
        result, plan = entries, spec.rotation()
        for start in range(0, plan.head_dim - 2 * plan.pairs + 1, 2 * plan.pairs):
            own = _Moved(_channels(start, plan.pairs, plan.reads, plan.writes))
            result = own.turned(spec, result, cosine, sine, wide)
        return result


class OtherEnd(PlainRotation):
    """The first channels turn where the last should, and the reverse."""

    reports = ("https://github.com/zml/zml/pull/660",)

    def channels(self, spec):
        plan = spec.rotation()
        start = plan.head_dim - 2 * plan.pairs - plan.start
        return _channels(start, plan.pairs, plan.reads, plan.writes)


class Padded(PlainRotation):
    """The table is padded with angles of 0 and the head split in its middle: wrong partners."""

    reports = ("https://github.com/labscommunity/cascadia/pull/69",)

    def turned(self, spec, entries, cosine, sine, wide):
        plan = spec.rotation()
        pairs = plan.head_dim // 2
        if plan.reads == "interleaved" or pairs == plan.pairs:
            return super().turned(spec, entries, cosine, sine, wide)
        still = [(0, 0)] * (cosine.ndim - 1) + [(0, pairs - plan.pairs)]
        cosine, sine = np.pad(cosine, still, constant_values=1), np.pad(sine, still)
        return _Moved(_channels(0, pairs, "half", "half")).turned(spec, entries, cosine, sine, wide)


class TurnedByZero(PlainRotation):
    """Channels that stay are multiplied by 1, and 0 is added: the sign of a zero is lost."""

    reports = ("no report: cos padded with ones and sin with zeros over the whole head",)

    def turned(self, spec, entries, cosine, sine, wide):
        return super().turned(spec, entries, cosine, sine, wide) + entries.dtype.type(0)


class MovedByHeadWidth(Padded):
    """Cached keys are moved by the width of the head."""

    reports = ("https://github.com/ggml-org/llama.cpp/pull/4889",)

    def turned(self, spec, entries, cosine, sine, wide):
        kind = PlainRotation if spec.apply_magnitude else Padded
        return kind.turned(self, spec, entries, cosine, sine, wide)


class PowerOfTwo(PlainRotation):
    """Pairs past the largest power of two do not turn."""

    reports = ("https://github.com/ModelTC/LightLLM/issues/1459",)

    def turned(self, spec, entries, cosine, sine, wide):
        block = 1 << (spec.pairs.bit_length() - 1)
        cosine, sine = cosine.copy(), sine.copy()
        cosine[..., block:], sine[..., block:] = 1, 0
        return super().turned(spec, entries, cosine, sine, wide)


# --- Rows and axes ---


class HeadsForPositions(PlainRotation):
    """The axis before the channels is the sequence, whatever it is."""

    reports = ("https://github.com/facebookresearch/xformers/issues/841",)

    def aligned(self, part, rank, head_axis):
        return super().aligned(part, rank, None if head_axis is None else 1 if rank == 4 else 0)


class BatchForPositions(PlainRotation):
    """A table of one axis is read along the first axis of x."""

    reports = (
        "https://github.com/KasperGroesLudvigsen/influenza_transformer/issues/9",
        "https://github.com/Lightning-AI/pytorch-lightning/pull/20203",
    )

    def aligned(self, part, rank, head_axis):
        if part.ndim != 2:
            return super().aligned(part, rank, head_axis)
        return part.reshape(part.shape[0], *[1] * (rank - 2), part.shape[1])


class OneRow(PlainRotation):
    """Positions of the first batch row serve every row."""

    reports = ("https://github.com/unslothai/unsloth/issues/3699",)

    def aligned(self, part, rank, head_axis):
        return super().aligned(part[:1] if part.ndim > 2 else part, rank, head_axis)


class OneRowOfOne(PlainRotation):
    """The kernel for a single position reads the first batch row."""

    reports = ("https://github.com/ml-explore/mlx/issues/3795",)

    def aligned(self, part, rank, head_axis):
        return super().aligned(part[:1] if part.ndim > 2 and part.shape[-2] == 1 else part, rank, head_axis)


class OneOff(PlainRotation):
    """In a decode step the token itself is counted among the past ones."""

    reports = ("https://github.com/microsoft/onnxruntime-genai/pull/2354",)

    def read(self, positions):
        step = len(positions.shape) == 2 and positions.shape[-1] == 1
        return tuple(p + step for p in positions.values)


class PastTheTable(PlainRotation):
    """The table ends at 4,096, and a position beyond reads its last row."""

    reports = (
        "https://github.com/pegainfer-project/pegainfer/issues/220",
        "https://github.com/vllm-project/vllm/pull/55910",
    )

    def read(self, positions):
        return tuple(min(p, 4095) for p in positions.values)


class PassedThrough(PlainRotation):
    """Positions beyond the table, or negative ones, leave x as it is."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/27597",)

    def read(self, positions):
        return tuple(p if 0 <= p < 65536 else 0 for p in positions.values)


class Unsigned(PlainRotation):
    """Negative positions are read as unsigned 32-bit integers."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/28277",)

    def read(self, positions):
        return tuple(p % 2**32 if isinstance(p, int) else p for p in positions.values)


class StaleOffset(PlainRotation):
    """The cache key holds the length of a range, not where it begins."""

    reports = (
        "https://github.com/lucidrains/rotary-embedding-torch/issues/11",
        "https://github.com/pytorch/executorch/pull/2010",
    )

    def __init__(self):
        self.cache = {}

    def table(self, spec, positions, dtype):
        key = spec, positions.shape, dtype
        if not isinstance(positions.values, range):
            return super().table(spec, positions, dtype)
        if key not in self.cache:
            self.cache[key] = super().table(spec, positions, dtype)
        return self.cache[key]


class StaleScaling(PlainRotation):
    """The cache key holds width, base and positions, not the scaling."""

    reports = ("https://github.com/vllm-project/vllm/pull/1867",)

    def __init__(self):
        self.cache = {}

    def table(self, spec, positions, dtype):
        key = spec.rotary_dim, spec.base, spec.direction, tuple(positions.values), positions.shape, dtype
        if key not in self.cache:
            self.cache[key] = super().table(spec, positions, dtype)
        return self.cache[key]


def _channels(start, pairs, reads, writes):
    middle, end = start + pairs, start + 2 * pairs
    of = {
        "half": (slice(start, middle), slice(middle, end)),
        "interleaved": (slice(start, end, 2), slice(start + 1, end, 2)),
    }
    return *of[reads], *of[writes]


def _both(widened):
    return widened[..., 0::2], widened[..., 1::2]


class _Moved(PlainRotation):
    """Turns the channels it is given."""

    def __init__(self, channels):
        self._given = channels

    def channels(self, spec):
        return self._given
