"""The right formula in too few bits: phases, positions, and roundings."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.wrong.plain import TURN, Plain, numpy_dtype


def frequencies(spec, dtype):
    turns = np.array([float(increment) for increment in spec.plan().increments]) / TURN
    return (turns * (2 * np.pi)).astype(dtype)


class Float32Phase(Plain):
    """Position times frequency is rounded to float32: an error of position * 2^-24 radians before the sine."""

    reports = ("https://github.com/Modalities/modalities/pull/462",)

    def waves(self, spec, positions):
        places = np.array(positions.values, np.float64) + spec.position_offset
        angles = places.astype(np.float32)[:, None] * frequencies(spec, np.float32)
        return np.sin(angles), np.cos(angles)


class Float64Angle(Plain):
    """Position times frequency in float64, a common oracle: no digit is right next to a zero of a large angle."""

    reports = ("https://github.com/ROCm/aiter/pull/627",)

    def waves(self, spec, positions):
        places = np.array(positions.values, np.float64) + spec.position_offset
        angles = places[:, None] * frequencies(spec, np.float64)
        return np.sin(angles), np.cos(angles)


class Phase64(Plain):
    """Increments of 64 bits: exact turns, but the error of the increment is multiplied by the position."""

    reports = ("no report: the obvious width for a fixed-point phase",)

    def waves(self, spec, positions):
        increments = [increment >> 64 for increment in spec.plan().increments]
        rows = []
        for p in self.read(positions):
            whole = int(p) + spec.position_offset
            part = p - int(p)
            rows.append([(whole * w + int(part * w)) % 2**64 for w in increments])
        turns = np.array(rows, np.uint64).reshape(len(rows), spec.pairs)
        angles = turns.astype(np.int64) * (2 * np.pi / 2.0**64)
        return np.sin(angles), np.cos(angles)


class Bfloat16Positions(Plain):
    """Positions are cast to the compute dtype: 8,190 and 8,191 both become 8,192."""

    reports = (
        "https://github.com/keras-team/keras-hub/issues/1494",
        "https://github.com/huggingface/transformers/issues/28685",
    )

    def read(self, positions):
        return tuple(np.array(positions.values, np.float64).astype(ml_dtypes.bfloat16).astype(float).tolist())


class Float16Positions(Plain):
    """Positions are cast to float16, or pass through TF32: exact up to 2,048."""

    reports = (
        "https://github.com/NVIDIA/Megatron-LM/issues/535",
        "https://github.com/huggingface/transformers/issues/48428",
    )

    def read(self, positions):
        values = np.array(positions.values, np.float64).clip(-65504, 65504)
        return tuple(values.astype(np.float16).astype(float).tolist())


class Float32Positions(Plain):
    """Positions are cast to float32: integers collide beyond 2^24."""

    reports = ("https://github.com/HorizonRobotics/alf/pull/268",)

    def read(self, positions):
        return tuple(np.array(positions.values, np.float64).astype(np.float32).astype(float).tolist())


class TruncatedPositions(Plain):
    """Float timesteps are read as integers."""

    reports = ("https://github.com/modelscope/DiffSynth-Studio/pull/1025",)

    def read(self, positions):
        return tuple(int(p) for p in positions.values)


class DoubleRounding(Plain):
    """Narrow formats are reached through float32, as frameworks cast: two roundings."""

    reports = ("no report: the cast from float64 in ml_dtypes, PyTorch, TensorFlow and JAX, measured",)

    def round(self, values, dtype):
        return values.astype(np.float32).astype(numpy_dtype(dtype)) if dtype != "float64" else values
