"""Answers that depend on what was asked before, on the wrong axis, or on the sign of the position."""

from __future__ import annotations

import numpy as np

from posenc.conformance.protocol import Positions
from tests.wrong.plain import Plain, answer, numpy_dtype


class StaleBase(Plain):
    """The cache key holds the width and the positions, not the base: the first base asked for is the base."""

    reports = ("https://github.com/meta-pytorch/torchtune/issues/1341",)

    def __init__(self):
        self.cache = {}

    def values(self, spec, positions):
        key = (spec.dim, spec.layout, positions.shape, positions.values[-1])
        if key not in self.cache:
            self.cache[key] = super().values(spec, positions)
        return self.cache[key]


class StaleOffset(StaleBase):
    """The cache key holds the length, not where it begins: every range gets the rows of the first one."""

    reports = ("https://github.com/lucidrains/rotary-embedding-torch/issues/11",)

    def values(self, spec, positions):
        if not isinstance(positions.values, range):
            return Plain.values(self, spec, positions)
        key = (spec, positions.shape)
        if key not in self.cache:
            self.cache[key] = Plain.values(self, spec, positions)
        return self.cache[key]


class StaleLength(Plain):
    """After a long call a short one gets frequencies that were stretched for the long one, and never restored."""

    reports = ("https://github.com/huggingface/transformers/issues/25306",)

    def __init__(self):
        self.longest = 64

    def values(self, spec, positions):
        if not isinstance(positions.values, range):
            return super().values(spec, positions)
        self.longest = max(self.longest, len(positions.values))
        stretched = [p * 64 / self.longest if len(positions.values) <= 64 else p for p in positions.values]
        return Plain.values(self, spec, Positions.of(stretched, "float64"))


class TwoRoundings(Plain):
    """The sum is rounded to float32, and then to the format of x."""

    reports = ("https://github.com/ROCm/rocm-libraries/pull/3766",)

    def add(self, spec, x, positions):
        if x.dtype in ("float64", "float32"):
            return super().add(spec, x, positions)
        wide = np.frombuffer(x.data, numpy_dtype(x.dtype)).astype(np.float32)
        total = super().add(spec, x._replace(dtype="float32", data=wide.tobytes()), positions)
        return answer(np.frombuffer(total.data, np.float32).astype(numpy_dtype(x.dtype)).reshape(x.shape))


class BatchAxis(Plain):
    """Row b of a batch-first input gets the encoding of position b."""

    reports = (
        "https://github.com/Lightning-AI/pytorch-lightning/pull/20203",
        "https://github.com/KasperGroesLudvigsen/influenza_transformer/issues/9",
    )

    def add(self, spec, x, positions):
        if positions is None and len(x.shape) > 2:
            inner = [1] * (len(x.shape) - 2)
            positions = Positions("integer", (x.shape[0], *inner), range(x.shape[0]))
        return super().add(spec, x, positions)


class OnePositionRow(Plain):
    """Positions of the first batch row are used for every row."""

    reports = ("https://github.com/unslothai/unsloth/issues/3699",)

    def add(self, spec, x, positions):
        if positions is not None and len(positions.shape) > 1:
            last = positions.shape[-1]
            positions = Positions("integer", (last,), positions.values[:last])
        return super().add(spec, x, positions)


class Clamped(Plain):
    """Negative positions read row 0: the bounds check clamps them."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/27597",)

    def read(self, positions):
        return tuple(max(p, 0) for p in positions.values)


class Unsigned(Plain):
    """Negative positions are read as unsigned 32-bit integers."""

    reports = ("https://github.com/microsoft/onnxruntime/pull/28277",)

    def read(self, positions):
        return tuple(p % 2**32 if isinstance(p, int) else p for p in positions.values)
