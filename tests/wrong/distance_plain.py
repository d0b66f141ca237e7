"""Plain rows and biases in Python: one pair after the other, in exact arithmetic.

The wrong ones change one step of it. What `PlainDistance` gets right and they get wrong is due to that step.
"""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import numpy as np

from posenc import T5Bias
from posenc.conformance.protocol import Answer, encoded
from posenc.spec import exact
from tests.wrong.plain import numpy_dtype


class PlainDistance:
    """Right: `refuses` as a host has to, or else with -1 and NaN where there is no row, as a trace has to."""

    reports: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, refuses=True):
        self.refuses = refuses

    def rows(self, spec, query, key):
        found = self.found(spec, query, key)
        return Answer("int32", found.shape, found.astype("<i4").tobytes())

    def bias(self, spec, query, key, weights, dtype):
        if weights is None:
            q, k = pairs(spec, query, key)
            multiples = self.table(self.multiple, spec, q, k)
            heads = self.heads(spec)
            values = [self.products(spec, int(n), heads, dtype) for n in multiples.flat]
            by_head = np.moveaxis(np.array(values, np.float64).reshape(*multiples.shape, heads), -1, -3)
        else:
            found, table = self.found(spec, query, key), self.weights(spec, array(weights))
            by_head = np.moveaxis(np.where(found[..., None] < 0, np.nan, table[found]), -1, -3)
            by_head = np.vectorize(lambda value: self.narrowed(value, dtype), otypes=[np.float64])(by_head)
        return Answer(dtype, by_head.shape, encoded(by_head.flatten().tolist(), dtype))

    def found(self, spec, query, key):
        numbers = self.numbers(spec, *pairs(spec, query, key))
        if self.refuses and spec.plan().strict and (numbers < 0).any():
            raise ValueError("a pair is in no common window")
        return numbers

    # --- The steps ---

    def numbers(self, spec, q, k):
        """Of `(*B, Q, 1)` and `(*B, 1, K)` positions, `(*B, Q, K)` rows."""
        return self.table(self.row, spec, q, k)

    def row(self, spec, q, k):
        return spec.plan().number(q if isinstance(q, tuple) else (q,), k if isinstance(k, tuple) else (k,))

    def multiple(self, spec, q, k):
        """What the slopes are multiplied by."""
        return {"causal": k - q, "symmetric": -abs(k - q), "anchored": k}[spec.form]

    def heads(self, spec):
        return spec.heads

    def products(self, spec, n, heads, dtype):
        return [spec.value(n, head, dtype) for head in range(heads)]

    def weights(self, spec, table):
        return table.astype(np.float64)

    def narrowed(self, value, dtype):
        if not np.isfinite(value) or value == 0:
            return value
        return exact.round_to(Fraction(value), dtype)

    def table(self, rule, spec, q, k):
        """A rule of two positions, at every pair."""
        axes = len(spec.plan().axes)
        shape = np.broadcast_shapes(q.shape, k.shape)
        q, k = np.broadcast_to(q, shape), np.broadcast_to(k, shape)
        if axes > 1:
            shape = shape[:-1]
            at = [(tuple(q[index].tolist()), tuple(k[index].tolist())) for index in np.ndindex(shape)]
        else:
            at = zip(q.flatten().tolist(), k.flatten().tolist(), strict=True)
        return np.array([rule(spec, *pair) for pair in at], object).reshape(shape).astype(np.int64)


class PlainT5(PlainDistance):
    """The buckets of T5, in the steps of the published code; other rows are right."""

    def row(self, spec, q, k):
        if not isinstance(spec, T5Bias):
            return super().row(spec, q, k)
        bucket, n, side = 0, -self.distance(q, k), spec.buckets
        if self.bidirectional(spec):
            side //= 2
            bucket += side if n < 0 else 0
            n = abs(n)
        else:
            n = max(n, 0)
        whole = side // 2
        return bucket + (n if n < whole else self.limited(whole + self.logarithm(spec, n, side), side))

    def distance(self, q, k):
        return k - q

    def bidirectional(self, spec):
        return spec.bidirectional

    def logarithm(self, spec, n, side):
        """floor((side - e) * ln(n / e) / ln(max_distance / e)), by comparison of rationals."""
        whole = side // 2
        parts = side - whole
        ratio = Fraction(n, whole) + self.epsilon(spec)
        power, last, k = ratio**parts, Fraction(spec.max_distance, whole), 0
        while k < parts and last ** (k + 1) <= power:
            k += 1
        return k

    def epsilon(self, spec):
        return Fraction(1, 2**23) if spec.rule == "t5x" else 0

    def limited(self, bucket, side):
        return min(bucket, side - 1)


def pairs(spec, query, key):
    """Positions with an axis of 1 for the others: `(*B, Q, 1)` and `(*B, 1, K)`, coordinates behind."""
    axis = -1 if len(spec.plan().axes) == 1 else -2
    q, k = (np.array(list(places.values), np.int64).reshape(places.shape) for places in (query, key))
    rank = max(q.ndim, k.ndim)
    q, k = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (q, k))
    return np.expand_dims(q, axis), np.expand_dims(k, axis - 1)


def array(of):
    return np.frombuffer(of.data, numpy_dtype(of.dtype)).reshape(of.shape)
