"""T5's bias in other buckets, by other logarithms, or with another head's numbers."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from posenc import T5Bias
from posenc.conformance.protocol import encoded
from tests.wrong.distance_plain import PlainDistance, PlainT5

# --- Signs and sides ---


class AlwaysBothSides(PlainT5):
    """The buckets are halved and the sign is looked at, whatever the flag says."""

    reports = ("https://github.com/lucidrains/x-transformers/pull/10",)

    def row(self, spec, q, k):
        return super().row(spec, q, k) if spec.buckets % 2 == 0 and spec.buckets >= 4 else 0

    def bidirectional(self, spec):
        return True


class NeverBothSides(PlainT5):
    """The flag is read nowhere: all keys ahead share bucket 0."""

    reports = ("no report: a decoder's bias in an encoder",)

    def bidirectional(self, spec):
        return False


class QueryMinusKey(PlainT5):
    """The relative position is the query's less the key's."""

    reports = ("https://github.com/dmlc/gluon-nlp/pull/1470",)

    def distance(self, q, k):
        return q - k


# --- Logarithms ---


class NotLimited(PlainT5):
    """The bucket of a far distance is what the logarithm says."""

    reports = ("https://github.com/huggingface/candle/pull/1312",)

    def logarithm(self, spec, n, side):
        whole = side // 2
        return int(math.log(n / whole) / math.log(spec.max_distance / whole) * (side - whole) + 1e-9)

    def limited(self, bucket, side):
        return bucket


class Float64Logarithm(PlainT5):
    """Logarithms in float64, truncated: 11 distances in five configurations are one bucket too low."""

    reports = ("no report: found by a sweep over 1,860 configurations",)

    def logarithm(self, spec, n, side):
        whole = side // 2
        return int(math.log(n / whole) / math.log(spec.max_distance / whole) * (side - whole))


class LowLogarithm(PlainT5):
    """A float32 logarithm that is one unit too low, as on an accelerator: edges move by one."""

    reports = ("https://github.com/ml-explore/mlx-examples/pull/113",)

    def logarithm(self, spec, n, side):
        whole = side // 2
        log = np.nextafter(np.log(np.float32(n / whole)), np.float32(-1))
        scale = (side - whole) / np.log(np.float32(spec.max_distance / whole))
        return int(np.float32(log) * np.float32(scale))


class Rounded(PlainT5):
    """The logarithm is rounded to the nearest bucket."""

    reports = ("https://github.com/ml-explore/mlx-examples/pull/113",)

    def logarithm(self, spec, n, side):
        whole = side // 2
        return round(math.log(n / whole) / math.log(spec.max_distance / whole) * (side - whole))


class NoEpsilon(PlainT5):
    """Rule t5x without its 2^-23."""

    reports = ("no report: flaxformer and mesh differ",)

    def epsilon(self, spec):
        return 0


class Epsilon(PlainT5):
    """2^-23 where the rule is exact."""

    reports = ("no report: flaxformer and mesh differ",)

    def epsilon(self, spec):
        return Fraction(1, 2**23)


class HalfRoundedUp(PlainT5):
    """Of an odd number of buckets the greater half is exact."""

    reports = ("no report: `(num_buckets + 1) // 2`",)

    def row(self, spec, q, k):
        n = q - k
        if not isinstance(spec, T5Bias) or spec.bidirectional or n <= 0:
            return super().row(spec, q, k)
        whole = -(-spec.buckets // 2)
        if n < whole or whole >= spec.max_distance:
            return min(n, spec.buckets - 1)
        share = math.log(n / whole) / math.log(spec.max_distance / whole)
        return min(whole + int(share * (spec.buckets - whole) + 1e-9), spec.buckets - 1)


# --- Heads, and decoding ---


class EveryRankFirst(PlainDistance):
    """Two ranks share the heads, and each reads the numbers of the first half."""

    reports = ("https://github.com/OpenNMT/CTranslate2/pull/1714",)

    def weights(self, spec, table):
        heads = table.shape[1]
        first = np.tile(table[:, : (heads + 1) // 2], 2)[:, :heads]
        return super().weights(spec, first)


class Transposed(PlainDistance):
    """Weights as T5X stores them, `(heads, buckets)`, are read as they lie."""

    reports = ("no report: a port that reshapes where it should transpose",)

    def weights(self, spec, table):
        return super().weights(spec, table.reshape(table.shape[::-1]).T)


class DroppedInDecoding(PlainDistance):
    """Where there is one query and a cache, there is no bias."""

    reports = ("https://github.com/NVIDIA/TensorRT-LLM/pull/13870",)

    def bias(self, spec, query, key, weights, dtype):
        answer = super().bias(spec, query, key, weights, dtype)
        if answer.shape[-2] > 1 or answer.shape[-1] == 1:
            return answer
        return answer._replace(data=encoded([0.0] * math.prod(answer.shape), dtype))


class DecodesFromZero(PlainDistance):
    """One query is taken for the first one, whatever its position is."""

    reports = ("https://github.com/NVIDIA/TensorRT-LLM/pull/13870",)

    def numbers(self, spec, q, k):
        if q.shape[-2] == 1 and k.shape[-1] > 1 and isinstance(spec, T5Bias):
            q = np.zeros_like(q)
        return super().numbers(spec, q, k)


class FirstRowForAll(PlainDistance):
    """One row of positions stands for the batch."""

    reports = ("no report: `position_ids[0]`",)

    def table(self, rule, spec, q, k):
        axes = len(spec.plan().axes)
        rank = 2 if axes == 1 else 3
        q, k = (np.broadcast_to(x[(slice(0, 1),) * (x.ndim - rank)], x.shape) for x in (q, k))
        return super().table(rule, spec, q, k)


class WeightsDtype(PlainDistance):
    """The answer has the dtype of the weights."""

    reports = ("no report: `weights[rows]` and no more",)

    def bias(self, spec, query, key, weights, dtype):
        return super().bias(spec, query, key, weights, dtype if weights is None else weights.dtype)


class ThroughFloat32(PlainDistance):
    """Weights reach the dtype of the answer through float32."""

    reports = ("no report: `.float()` before everything",)

    def narrowed(self, value, dtype):
        return super().narrowed(super().narrowed(value, "float32"), dtype)


class WeightsClamped(PlainDistance):
    """The greatest float16 stands for what is beyond it."""

    reports = ("no report: `torch.finfo(dtype).min` as the least bias",)

    def narrowed(self, value, dtype):
        found = super().narrowed(value, dtype)
        return math.copysign(65504.0, found) if math.isinf(found) else found
