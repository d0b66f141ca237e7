"""The right rotation in too few bits: frequencies, positions, tables, products."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.wrong.plain import numpy_dtype
from tests.wrong.rotary_plain import Frequencies, PlainRotation


class Bfloat16Frequencies(Frequencies):
    """The buffer of frequencies is cast with the model."""

    reports = (
        "https://github.com/huggingface/transformers/issues/25681",
        "https://github.com/NVIDIA-NeMo/Automodel/pull/2549",
        "https://github.com/okoge-kaz/llm-recipes/pull/6",
        "https://github.com/sgl-project/sglang-jax/issues/1472",
    )

    def frequencies(self, spec):
        return np.array(super().frequencies(spec)).astype(ml_dtypes.bfloat16).astype(float)


class EmptyFrequencies(Frequencies):
    """The buffer was never filled: built on the meta device, and not computed again."""

    reports = (
        "https://github.com/Synthyra/FastPLMs/pull/47",
        "https://github.com/huggingface/transformers/issues/48892",
        "https://github.com/pytorch/torchtitan/issues/4783",
    )

    def frequencies(self, spec):
        return np.full(spec.pairs, 6.93e-18)


class IteratedFrequencies(Frequencies):
    """Each frequency is the one before times a ratio, in float32."""

    reports = ("no report: ggml, measured: 0.17 at position 1,048,576",)

    def frequencies(self, spec):
        if spec.scaling is not None:
            return super().frequencies(spec)
        ratio = np.float32(spec.base ** (-2 / spec.rotary_dim))
        return np.cumprod(np.array([1, *[ratio] * (spec.pairs - 1)], np.float32)).astype(float)


class Float32Phase(PlainRotation):
    """Position times frequency is rounded to float32."""

    reports = ("no report: 28 of 28 packages, measured: 5e-2 at position 1,000,000",)

    def cos_sin(self, spec, places):
        sign = -1 if spec.direction == "negative" else 1
        frequencies = np.array(self.frequencies(spec)).astype(np.float32)
        angles = sign * np.array(places, np.float64).astype(np.float32)[:, None] * frequencies
        return np.cos(angles.astype(float)), np.sin(angles.astype(float))


class Bfloat16Positions(PlainRotation):
    """Positions are cast to the compute dtype, or autocast with the product."""

    reports = (
        "https://github.com/keras-team/keras-hub/issues/1494",
        "https://github.com/huggingface/transformers/pull/29285",
        "https://github.com/huggingface/transformers/issues/28685",
        "https://github.com/EleutherAI/gpt-neox/pull/1016",
    )

    def read(self, positions):
        return tuple(np.array(positions.values, np.float64).astype(ml_dtypes.bfloat16).astype(float).tolist())


class Tf32Positions(PlainRotation):
    """The product of positions and frequencies is a matrix product in TF32: 11 bits of the position are left."""

    reports = (
        "https://github.com/huggingface/transformers/issues/48428",
        "https://github.com/thinking-machines-lab/batch_invariant_ops/issues/23",
        "https://github.com/NVIDIA/Megatron-LM/issues/535",
    )

    def read(self, positions):
        fraction, exponent = np.frexp(np.array(positions.values, np.float64))
        return tuple(np.ldexp(np.round(fraction * 2**11), exponent - 11).tolist())


class NarrowTable(PlainRotation):
    """Cosines and sines are kept in bfloat16, the dtype of the model."""

    reports = ("https://github.com/EleutherAI/gpt-neox/issues/1003",)

    def round(self, values, dtype):
        return super().round(super().round(values, "bfloat16").astype(float), dtype)


class TableOfX(PlainRotation):
    """Cosines and sines are rounded to the format of x before they turn it."""

    reports = ("https://github.com/huggingface/transformers/pull/29285",)

    def turned(self, spec, entries, cosine, sine, wide):
        cosine, sine = (part.astype(entries.dtype).astype(wide) for part in (cosine, sine))
        return super().turned(spec, entries, cosine, sine, wide)


class NarrowProducts(PlainRotation):
    """Products and sums are in the format of x."""

    reports = ("https://github.com/mlc-ai/mlc-llm/pull/2449", "https://github.com/ROCm/rocm-libraries/pull/3766")

    def arithmetic(self, dtype):
        return numpy_dtype(dtype)


class SingleProducts(PlainRotation):
    """Products are in float32, float64 queries or not."""

    reports = ("no report: .float() before the rotation, as Meta's Llama has it",)

    def arithmetic(self, dtype):
        return np.float32


class DoubleRounding(PlainRotation):
    """Narrow formats are reached through float32, as frameworks cast: two roundings."""

    reports = ("no report: the cast from float64 in ml_dtypes, PyTorch, TensorFlow and JAX, measured",)

    def round(self, values, dtype):
        return values.astype(np.float32).astype(numpy_dtype(dtype)) if dtype != "float64" else values
