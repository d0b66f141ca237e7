"""Rows of relative tables that another pair should read: windows, clipping, buckets, shifts."""

# ruff: noqa: ARG002 - a step takes what any of its variants needs
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from posenc import DebertaBuckets, MusicTransformerIndex, ShawClip, SwinIndex, TransformerXLIndex
from posenc.spec.distance_plan import NO_ROW
from tests.wrong.distance_plain import PlainDistance


class Window(PlainDistance):
    """Swin's index with another radix: of the axes behind the one that is counted."""

    def row(self, spec, q, k):
        if not isinstance(spec, SwinIndex) or super().row(spec, q, k) == NO_ROW:
            return super().row(spec, q, k)
        query, key = (x if isinstance(x, tuple) else (x,) for x in (q, k))
        shifted = [a - b + size - 1 for a, b, size in zip(query, key, spec.window, strict=True)]
        return sum(digit * radix for digit, radix in zip(shifted, self.radices(spec.window), strict=True))

    def radices(self, window):
        return [math.prod(2 * size - 1 for size in window[axis + 1 :]) for axis in range(len(window))]


class ThreeTimesWindow(Window):
    """3 * w - 1 for the first of three axes."""

    reports = ("https://github.com/282857341/nnFormer/issues/46",)

    def radices(self, window):
        found = super().radices(window)
        return [3 * window[1] - 1, *found[1:]] if len(window) == 3 else found


class OtherAxis(Window):
    """The radix of an axis is its own width: offsets of a window that is not square share rows."""

    reports = ("https://github.com/LitingLin/SwinTrack/issues/25",)

    def radices(self, window):
        return [math.prod(2 * size - 1 for size in window[axis:-1]) for axis in range(len(window))]


class KeyMinusQuery(PlainDistance):
    """Swin's offsets the other way round: a point reflection of the table."""

    reports = ("no report: the sign of Shaw in the formula of Swin",)

    def row(self, spec, q, k):
        return super().row(spec, k, q) if isinstance(spec, SwinIndex) else super().row(spec, q, k)


class PlacesInWindow(PlainDistance):
    """The index is gathered by the places of tokens in a list, not by their coordinates."""

    reports = ("https://github.com/LitingLin/SwinTrack/issues/25",)

    def numbers(self, spec, q, k):
        if isinstance(spec, SwinIndex) and len(spec.window) > 1:
            places = np.array(spec.positions())
            size = len(places)
            q, k = (places[np.arange(x[..., 0].size).reshape(x[..., 0].shape) % size] for x in (q, k))
        return super().numbers(spec, q, k)


class OutsideWindow(PlainDistance):
    """Tokens that share no window read the row of the nearest offset."""

    reports = ("no report: `clip` of an index",)

    def row(self, spec, q, k):
        if not isinstance(spec, SwinIndex):
            return super().row(spec, q, k)
        query, key = (x if isinstance(x, tuple) else (x,) for x in (q, k))
        offsets = [max(min(a - b, size - 1), 1 - size) for a, b, size in zip(query, key, spec.window, strict=True)]
        return super().row(spec, tuple(offsets), (0,) * len(offsets))


# --- Clipping ---


class ShawSign(PlainDistance):
    """Query minus key, as the `relative_key` of older BERT code has it."""

    reports = ("no report: two signs in one library",)

    def row(self, spec, q, k):
        return super().row(spec, k, q) if isinstance(spec, ShawClip) else super().row(spec, q, k)


class OneLimit(PlainDistance):
    """The limit behind the query is that ahead of it, too."""

    reports = ("no report: an asymmetric clip read as a symmetric one",)

    def row(self, spec, q, k):
        if not isinstance(spec, ShawClip):
            return super().row(spec, q, k)
        return min(max(k - q, -spec.left), spec.left) + spec.left


class Unclipped(PlainDistance):
    """A negative index counts from the end of the table, one past the end is the last row."""

    reports = ("no report: how arrays of Python and JAX are indexed",)

    def row(self, spec, q, k):
        if not isinstance(spec, ShawClip):
            return super().row(spec, q, k)
        return min((k - q + spec.left) % (2**32), spec.row_count - 1)


# --- DeBERTa ---


class Deberta(PlainDistance):
    """Changes one step of DeBERTa's buckets."""

    def row(self, spec, q, k):
        if not isinstance(spec, DebertaBuckets):
            return super().row(spec, q, k)
        return self.bucket(spec, q, k)

    def bucket(self, spec, q, k):
        return super().row(spec, q, k)


class DebertaSign(Deberta):
    """Key minus query: the rows of two sides are exchanged."""

    reports = ("no report: the sign of T5 in the formula of DeBERTa",)

    def bucket(self, spec, q, k):
        return super().bucket(spec, k, q)


class NotClamped(Deberta):
    """The deployed code where the specification has the authors'."""

    reports = ("no report: transformers and microsoft/DeBERTa differ beyond the greatest distance",)

    def bucket(self, spec, q, k):
        return super().bucket(replace(spec, clamped=False), q, k)


class AlwaysClamped(Deberta):
    """The authors' code where the specification has the deployed one."""

    reports = ("no report: transformers and microsoft/DeBERTa differ beyond the greatest distance",)

    def bucket(self, spec, q, k):
        return super().bucket(replace(spec, clamped=True), q, k)


class Floored(Deberta):
    """The logarithm is truncated, as T5 does it."""

    reports = ("no report: the floor of T5 in the formula of DeBERTa",)

    def bucket(self, spec, q, k):
        r, mid = q - k, spec.buckets // 2
        if spec.clamped:
            r = max(min(r, spec.max_distance - 1), 1 - spec.max_distance)
        if abs(r) > mid:
            share = math.log(abs(r) / mid) / math.log((spec.max_distance - 1) / mid) * (mid - 1)
            r = int(math.copysign(mid + math.floor(share + 1e-9), r))
        return max(0, min(r + spec.buckets, 2 * spec.buckets - 1))


# --- Shifts ---


class Shifted(PlainDistance):
    """The rows of Transformer-XL by a shift of the whole matrix, for queries that are the last of the keys."""

    def numbers(self, spec, q, k):
        if not isinstance(spec, TransformerXLIndex) or q.ndim > 2 or spec.row_count > 2**10:
            return super().numbers(spec, q, k)
        probe = np.tile(self.probe(spec, q.size, k.size), (q.size, 1))
        padded = np.pad(probe, ((0, 0), (1, 0)), constant_values=NO_ROW)
        return self.cut(padded.reshape(-1, q.size)).reshape(probe.shape)[:, : k.size]

    def probe(self, spec, queries, keys):
        """The rows of R that are multiplied with the queries, in its order."""
        return np.arange(spec.row_count)

    def cut(self, view):
        return view[1:]


class LastRowCut(Shifted):
    """`[:-1]` in place of `[1:]`: every distance is off by a row."""

    reports = ("https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/185",)

    def cut(self, view):
        return view[:-1]


class CausalShift(Shifted):
    """The shift of a causal model in both directions: what it leaves above the diagonal is another row's."""

    reports = ("https://github.com/ZhengkunTian/OpenTransformer/issues/25",)

    def probe(self, spec, queries, keys):
        return np.arange(spec.longest - keys + 1, spec.longest + 1)


class MemoryForgotten(PlainDistance):
    """R begins at the length of the segment, not of segment and memory."""

    reports = ("https://github.com/TensorSpeech/TensorFlowASR/issues/161",)

    def numbers(self, spec, q, k):
        found = super().numbers(spec, q, k)
        if not isinstance(spec, TransformerXLIndex):
            return found
        return np.where(found < 0, found, found - spec.longest + q.shape[-2] - 1)


class AbsolutePositions(PlainDistance):
    """A relative encoding in name: the rows are those of the key's own position."""

    reports = ("https://github.com/wenet-e2e/wenet/issues/1611",)

    def row(self, spec, q, k):
        if not isinstance(spec, TransformerXLIndex) or not 0 <= k < spec.row_count:
            return super().row(spec, q, k)
        return k


class OtherEnd(PlainDistance):
    """The first row of E is distance 0."""

    reports = ("no report: the order of Transformer-XL reversed",)

    def row(self, spec, q, k):
        found = super().row(spec, q, k)
        if not isinstance(spec, MusicTransformerIndex) or found == NO_ROW:
            return found
        return spec.row_count - 1 - found


class Limited(PlainDistance):
    """A distance beyond the table reads its nearest row."""

    reports = ("no report: `clamp_len` where there is none",)

    def row(self, spec, q, k):
        found = super().row(spec, q, k)
        if not isinstance(spec, TransformerXLIndex | MusicTransformerIndex) or found != NO_ROW:
            return found
        first = super().row(spec, 0, 0)  # where distance 0 is
        ahead = (k > q) == isinstance(spec, MusicTransformerIndex) or first == NO_ROW
        return spec.row_count - 1 if ahead else 0
