"""Rows of relative tables, each found twice: as the published code finds them, and from the formula.

Positions are handed over query first. Where the code shifts or gathers a whole matrix, so does the first route.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

from mpmath import mp, mpf

Matrix = list[list[int]]
NO_ROW = -1


def agreed(one: int, other: int, what: object) -> int:
    if one != other:
        raise ArithmeticError(f"two routes to the row of {what} differ: {one} and {other}")
    return one


# --- Shaw ---


class Shaw(NamedTuple):
    """_generate_relative_positions_matrix of tensor2tensor/layers/common_attention.py, with two sides."""

    left: int
    right: int

    def row(self, query: int, key: int) -> int:
        distance_mat = key - query
        clipped = min(max(distance_mat, -self.left), self.right)
        last = self.left + self.right
        # a^K_{-left} ... a^K_{right}, in this order: arXiv 1803.02155, section 3.2
        behind, ahead = query - key >= self.left, key - query >= self.right
        listed = 0 if behind else last if ahead else last - (query + self.right - key)
        return agreed(clipped + self.left, listed, (self, query, key))


# --- DeBERTa ---


class Deberta(NamedTuple):
    """make_log_bucket_position of microsoft/DeBERTa, DeBERTa/deberta/da_utils.py, and the span around it."""

    buckets: int
    max_distance: int
    clamped: bool

    def row(self, query: int, key: int) -> int:
        relative = query - key
        if self.clamped:  # build_relative_position limits to +-(max_position - 1)
            relative = max(min(relative, self.max_distance - 1), 1 - self.max_distance)
        sign = (relative > 0) - (relative < 0)
        bucket = sign * log_bucket(abs(relative), self.buckets // 2, self.max_distance - 1)
        # torch.clamp(relative_pos + att_span, 0, att_span * 2 - 1)
        return max(0, min(bucket + self.buckets, 2 * self.buckets - 1))


@cache
def log_bucket(n: int, mid: int, widest: int) -> int:
    """ceil(log(n / mid) / log((max_position - 1) / mid) * (mid - 1)) + mid, and by comparison of integers."""
    if n <= mid:
        return n
    share = mp.log(mpf(n) / mid) / mp.log(mpf(widest) / mid) * (mid - 1)
    near = int(mp.nint(share))  # an integer is one in all digits but the last
    code = mid + (near if abs(share - near) < mpf(10) ** -40 else int(mp.ceil(share)))
    # the least k with (widest / mid)^k >= (n / mid)^(mid - 1)
    power, ratio = Fraction(n, mid) ** (mid - 1), Fraction(widest, mid)
    k = max(int(mp.floor(share)) - 1, 0)
    while ratio**k < power:
        k += 1
    return agreed(code, mid + k, (n, mid, widest))


# --- Swin ---


class Swin(NamedTuple):
    """relative_position_index of microsoft/Swin-Transformer, models/swin_transformer.py, for any number of axes."""

    window: tuple[int, ...]

    def row(self, query: Any, key: Any) -> int:
        """Coordinates, or integers where there is one axis."""
        if len(self.window) == 1:
            query, key = (query,), (key,)
        offsets = tuple(q - k for q, k in zip(query, key, strict=True))
        if any(abs(offset) >= size for offset, size in zip(offsets, self.window, strict=True)):
            return NO_ROW
        # relative_coords[:, :, 0] += Wh - 1, and so on; each axis times the 2 * W - 1 of those behind it
        relative = [offset + size - 1 for offset, size in zip(offsets, self.window, strict=True)]
        for axis in range(len(self.window) - 1):
            for behind in self.window[axis + 1 :]:
                relative[axis] *= 2 * behind - 1
        return agreed(sum(relative), numbering(self.window)[offsets], (self, query, key))


@cache
def numbering(window: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """Every offset in a window, in lexical order: B-hat of arXiv 2103.14030, row by row."""
    offsets = itertools.product(*(range(1 - size, size) for size in window))
    return {offset: number for number, offset in enumerate(offsets)}


# --- Transformer-XL, XLNet, Conformer ---


def rel_shift(x: Matrix) -> Matrix:
    """_rel_shift of kimiyoung/transformer-xl, pytorch/mem_transformer.py: pad, view, drop the first row, view."""
    rows, columns = len(x), len(x[0])
    padded = [entry for row in x for entry in (NO_ROW, *row)]
    view = [padded[start : start + rows] for start in range(0, len(padded), rows)]  # (columns + 1, rows)
    flat = [entry for row in view[1:] for entry in row]
    return [flat[start : start + columns] for start in range(0, len(flat), columns)]


def rel_shift_xlnet(x: Matrix, klen: int) -> Matrix:
    """rel_shift of zihangdai/xlnet, modeling.py: reshape, drop the first row, reshape, keep klen columns."""
    rows, columns = len(x), len(x[0])
    flat = [entry for row in x for entry in row][rows:]  # of shape (columns, rows), without its first row
    return [flat[start : start + columns - 1][:klen] for start in range(0, rows * (columns - 1), columns - 1)]


class TransformerXl(NamedTuple):
    """Which row of R, for the distances longest ... shortest of query minus key."""

    longest: int
    shortest: int

    def row(self, query: int, key: int) -> int:
        distance = query - key
        return self.longest - distance if self.shortest <= distance <= self.longest else NO_ROW

    def by_shift(self, queries: int, keys: int) -> Matrix:
        """Of the last `queries` of `keys` positions, by the shift that this R is made for; row r of R reads r."""
        count = self.longest - self.shortest + 1
        probe = [list(range(count)) for _ in range(queries)]
        if self.shortest == 0 and self.longest == keys - 1:
            return rel_shift(probe)
        if self.longest == keys:  # R of XLNet begins one distance further away
            return rel_shift_xlnet(probe, keys)
        # of Conformer: rel_shift, of which the first keys columns are kept
        return [row[:keys] for row in rel_shift(probe)]


# --- Music Transformer ---


def skewed(x: Matrix) -> Matrix:
    """_relative_position_to_absolute_position_masked of tensor2tensor/layers/common_attention.py: pad, reshape, cut."""
    length = len(x)
    padded = [entry for row in x for entry in (NO_ROW, *row)]
    reshaped = [padded[start : start + length] for start in range(0, len(padded), length)]  # (length + 1, length)
    return reshaped[1:]


def skewed_unmasked(x: Matrix) -> Matrix:
    """_relative_position_to_absolute_position_unmasked: a column, a view, length - 1 more, a view, and a cut."""
    length = len(x)
    flat = [entry for row in x for entry in (*row, NO_ROW)]
    flat += [NO_ROW] * (length - 1)
    wide = [flat[start : start + 2 * length - 1] for start in range(0, len(flat), 2 * length - 1)]
    return [row[length - 1 :] for row in wide[:length]]


class Music(NamedTuple):
    """Which row of E: the last one is distance 0, or the middle one."""

    length: int
    bidirectional: bool

    def row(self, query: int, key: int) -> int:
        distance = key - query
        top = self.length - 1 if self.bidirectional else 0
        return self.length - 1 + distance if -self.length < distance <= top else NO_ROW

    def by_skewing(self) -> Matrix:
        if self.bidirectional:
            return skewed_unmasked([list(range(2 * self.length - 1)) for _ in range(self.length)])
        return skewed([list(range(self.length)) for _ in range(self.length)])
