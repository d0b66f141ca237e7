"""Rows of tables that are ported, against plans asked pair by pair and positions one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posenc import (
    DebertaBuckets,
    Learned,
    MusicTransformerIndex,
    ShawClip,
    SpecError,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
)
from posenc.interop.port_moves import Rows
from posenc.interop.port_rows import source_rows
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

REACH = 60
"""Beyond it no plan below changes."""


def expected_by_distance(rows):
    """The rows by the definition, one pair after the other; None where there is no answer."""
    source, target = rows.source.plan(), rows.target.plan()
    if (source.heads, len(source.axes)) != (target.heads, len(target.axes)):
        return None
    if rows.source == rows.target:
        return list(range(source.rows))
    reach = REACH if len(source.axes) == 1 else 5
    origin = (0,) * len(source.axes)
    result = [-1] * target.rows
    for key in product(range(-reach, reach + 1), repeat=len(source.axes)):
        row, other = target.number(origin, key), source.number(origin, key)
        if row < 0:
            continue
        if other < 0 or result[row] not in (-1, other):
            return None
        result[row] = other
    return None if -1 in result and rows.fill is None else result


def agree(rows, expected):
    if expected is None:
        with pytest.raises(SpecError, match=r"^Rows\.[a-z]+: expected [^\n]+, received [^\n]+$"):
            source_rows(rows)
        return
    result = source_rows(rows)
    assert result.dtype == np.int64
    assert result.tolist() == expected


def by_distance():
    small = st.integers(0, 9)
    return st.one_of(
        st.builds(ShawClip, small, small),
        small.flatmap(lambda n: st.builds(TransformerXLIndex, st.just(n), shortest=st.integers(-9, n))),
        st.builds(MusicTransformerIndex, st.integers(1, 9), bidirectional=st.booleans()),
        st.builds(DebertaBuckets, st.sampled_from((4, 6)), st.integers(5, 30), clamped=st.booleans()),
    )


@settings(max_examples=500)
@given(by_distance(), by_distance(), st.sampled_from((None, "zeros")))
def test_rows_follow_every_distance(source, target, fill):
    rows = Rows(source, target, fill=fill)
    agree(rows, expected_by_distance(rows))


def t5():
    rule = st.sampled_from(("exact", "t5x"))
    small = st.integers(2, 10), st.integers(10, 40)
    return st.one_of(
        st.builds(T5Bias, st.just(2), buckets=small[0], max_distance=small[1], bidirectional=st.just(False), rule=rule),
        st.builds(
            T5Bias,
            st.sampled_from((2, 3)),
            buckets=st.sampled_from((4, 8, 10)),
            max_distance=small[1],
            bidirectional=st.just(True),
            rule=rule,
        ),
        st.builds(SwinIndex, st.just(2), st.tuples(st.integers(1, 5))),
    )


@settings(max_examples=300)
@given(t5(), t5(), st.sampled_from((None, "zeros")))
def test_rows_of_biases_follow_every_distance(source, target, fill):
    rows = Rows(source, target, fill=fill)
    agree(rows, expected_by_distance(rows))


WINDOWS = [(3,), (1, 1), (2, 3), (3, 2), (3, 3), (4, 3), (2, 2, 2), (2, 2, 1)]


@pytest.mark.parametrize(("source", "target"), [*product(WINDOWS, WINDOWS)], ids=str)
def test_every_window_inside_another(source, target):
    rows = Rows(SwinIndex(2, source), SwinIndex(2, target))
    inside = len(source) == len(target) and all(a >= b for a, b in zip(source, target, strict=True))
    expected = expected_by_distance(rows)
    assert (expected is not None) == inside
    agree(rows, expected)


def test_swin_by_hand():
    """The middle 3 x 1 offsets of 5 x 3: row (dh + 1) is (dh + 2) * 3 + (dw + 1)."""
    assert source_rows(Rows(SwinIndex(4, (3, 2)), SwinIndex(4, (2, 1)))).tolist() == [4, 7, 10]


def test_two_signs():
    """Shaw counts key minus query up, Transformer-XL query minus key down: the same order, and Swin the reverse."""
    shaw, xl = ShawClip(16), TransformerXLIndex(16, shortest=-16)
    assert source_rows(Rows(shaw, xl)).tolist() == list(range(33))
    assert source_rows(Rows(shaw, SwinIndexAlone(17))).tolist() == list(range(32, -1, -1))
    assert source_rows(Rows(MusicTransformerIndex(5, bidirectional=True), ShawClipInside(2))).tolist() == [
        2,
        3,
        4,
        5,
        6,
    ]


@dataclass(frozen=True)
class SwinIndexAlone:
    """Swin's runs on one axis without heads: query minus key."""

    size: int

    def plan(self):
        return replace(SwinIndex(1, (self.size,)).plan(), heads=None)


@dataclass(frozen=True)
class ShawClipInside:
    """Shaw's rows of the distances within `size` alone."""

    size: int

    def plan(self):
        runs = (Run(LEAST_DISTANCE, None), Run(-self.size, 0, 1), Run(self.size + 1, None))
        return DistancePlan(axes=(runs,), rows=2 * self.size + 1, heads=None)


@dataclass(frozen=True)
class Rectangle:
    """Rows of the distances from -1 to 1 on one axis and from 0 to `size` - 1 on another, row by row."""

    size: int

    def plan(self):
        first = (Run(LEAST_DISTANCE, None), Run(-1, 0, self.size), Run(2, None))
        second = (Run(LEAST_DISTANCE, None), Run(0, 0, 1), Run(self.size, None))
        return DistancePlan(axes=(first, second), rows=3 * self.size, heads=None)


@dataclass(frozen=True)
class AnchoredClip:
    """Rows of key positions from 0 to 3, whatever the query is."""

    def plan(self):
        runs = (Run(LEAST_DISTANCE, 0), Run(0, 0, 1), Run(3, 3))
        return DistancePlan(axes=(runs,), rows=4, heads=None, anchored=True)


SENTENCES = [
    (
        Rows(
            T5Bias(8, buckets=64, max_distance=693, bidirectional=False),
            T5Bias(8, buckets=64, max_distance=693, bidirectional=False, rule="t5x"),
        ),
        "Rows.target: expected one row of the source for row 36 of the target, "
        "received row 36 at distance -51 and row 35 at distance -47",
    ),
    (
        Rows(TransformerXLIndex(16, shortest=-16), ShawClip(16)),
        "Rows.target: expected distances that the source has rows for, received distance -17, "
        "which reads row 0 of the target",
    ),
    (
        Rows(SwinIndex(2, (2, 2)), SwinIndex(2, (2, 3))),
        "Rows.target: expected distances that the source has rows for, received distance (-1, -2), "
        "which reads row 14 of the target",
    ),
    (
        Rows(Rectangle(2), Rectangle(4)),
        "Rows.target: expected distances that the source has rows for, received distance (-1, 2), "
        "which reads row 2 of the target",
    ),
    (
        Rows(T5Bias(8, bidirectional=True), T5Bias(12, bidirectional=True)),
        "Rows.target: expected the heads of the source, 8, received 12",
    ),
    (
        Rows(SwinIndex(2, (2, 2)), SwinIndex(2, (2, 2, 1))),
        "Rows.target: expected the number of axes of the source, 2, received 3",
    ),
    (
        Rows(ShawClip(3), AnchoredClip()),
        "Rows.target: expected the anchor of the source, the query, received the key alone",
    ),
    (
        Rows(DebertaBuckets(4, 9, clamped=False), DebertaBuckets(4, 10, clamped=True)),
        "Rows.target: expected one row of the source for row 1 of the target, "
        "received row 1 at distance 3 and row 0 at distance 9",
    ),
    (
        Rows(T5Bias(2, bidirectional=True), T5Bias(2, bidirectional=True, rule="t5x")),
        "Rows.fill: expected 'zeros', as row 16 of the target is one that nothing reads, received None",
    ),
    (
        Rows(Learned(8, 4), T5Bias(4, bidirectional=True)),
        "Rows.target: expected rows that are read by position, as the source's, received "
        "T5Bias(heads=4, buckets=32, max_distance=128, bidirectional=True, rule='exact')",
    ),
    (
        Rows(ShawClip(4), Learned(9, 4)),
        "Rows.target: expected rows that are read by distance, as the source's, received "
        "Learned(length=9, dim=4, offset=0, padding=None, grid=None, tokens=0, output_scale=1.0)",
    ),
    (Rows(Learned(8, 4), Learned(8, 5)), "Rows.target: expected the dim of the source, 4, received 5"),
    (
        Rows(Learned(8, 4), Learned(8, 4, output_scale=0.5)),
        "Rows.target: expected the output_scale of the source, 1.0, received 0.5",
    ),
    (
        Rows(Learned.patches((4, 4), 4), Learned.patches((4, 2), 4)),
        "Rows.target: expected the grid of the source, (4, 4), received (4, 2); `resize` changes a grid",
    ),
    (Rows(Learned(8, 4), Learned(8, 4, tokens=1)), "Rows.target: expected the tokens of the source, 0, received 1"),
    (
        Rows(Learned.opt(8, 4), Learned.opt(9, 4), fill="zeros"),
        "Rows.target: expected positions up to 7, the last that the source has, received 8 too, "
        "whose row would have to be trained",
    ),
    (
        Rows(Learned(8, 4), Learned.bart(8, 4)),
        "Rows.fill: expected 'zeros', as row 0 of the target is one that nothing reads, received None",
    ),
    (
        Rows(Learned.bart(8, 4), Learned.opt(8, 4)),
        "Rows.fill: expected 'zeros', as the source has no row for position -1, that of padding tokens, received None",
    ),
    (
        Rows(ShawClip(2**23), ShawClip(2**23)),
        "Rows.target: expected at most 16777216 rows, received 16777217",
    ),
    (Rows(Learned(2**25, 1), Learned(2**25, 1)), "Rows.target: expected at most 16777216 rows, received 33554432"),
]


@pytest.mark.parametrize(("rows", "sentence"), SENTENCES, ids=[f"{rows.target!r:.40}" for rows, _ in SENTENCES])
def test_refusals(rows, sentence):
    with pytest.raises(SpecError, match=f"^{re.escape(sentence)}$"):
        source_rows(rows)


def test_a_range_of_a_billion_rows_is_no_list():
    """2^30 rows that are read: refused in an instant, or cut down to those of a small table."""
    huge = ShawClip(2**29)
    with pytest.raises(SpecError, match=r"at distance -536870913 and row 1 at distance -536870911$"):
        source_rows(Rows(huge, DebertaBuckets(clamped=True)))
    assert source_rows(Rows(huge, TransformerXLIndex.bidirectional(3))).tolist() == list(range(2**29 - 2, 2**29 + 3))


def expected_by_position(rows):
    """The rows by the definition of `Learned`, one position after the other; None where there is no answer."""
    source, target = rows.source, rows.target
    alike = all(getattr(source, name) == getattr(target, name) for name in ("dim", "grid", "tokens", "output_scale"))
    if not alike or target.length > source.length:
        return None
    result = list(range(target.offset)) if source.offset == target.offset else [-1] * target.offset
    for position in range(target.length):
        result.append(position + source.offset)
    if target.padding is not None:
        result[target.offset - 1] = source.offset - 1 if source.padding is not None else -1
    return None if -1 in result and rows.fill is None else result


@st.composite
def learned(draw):
    offset = draw(st.integers(0, 4))
    return Learned(
        draw(st.integers(4, 8)),
        draw(st.sampled_from((3, 3, 3, 4))),
        offset=offset,
        padding=draw(st.sampled_from((None, "row", "frozen"))) if offset else None,
        tokens=draw(st.sampled_from((0, 0, 0, 2))),
        output_scale=draw(st.sampled_from((1.0, 1.0, 1.0, 0.5))),
    )


@settings(max_examples=500)
@given(learned(), learned(), st.sampled_from((None, "zeros")))
def test_rows_follow_every_position(source, target, fill):
    rows = Rows(source, target, fill=fill)
    agree(rows, expected_by_position(rows))


def test_known_offsets():
    """RoBERTa (rows from 2, padding in row 1), OPT (rows from 2, padding in row 1), BERT (rows from 0)."""
    roberta, opt, bert = Learned.roberta(6, 4), Learned.opt(6, 4), Learned(4, 4)
    assert source_rows(Rows(roberta, bert)).tolist() == [2, 3, 4, 5]
    assert source_rows(Rows(roberta, opt)).tolist() == list(range(8))
    assert source_rows(Rows(bert, Learned.roberta(4, 4), fill="zeros")).tolist() == [-1, -1, 0, 1, 2, 3]
    fairseq = Learned.fairseq(6, 4, padding_idx=4)
    assert source_rows(Rows(roberta, fairseq, fill="zeros")).tolist() == [-1, -1, -1, -1, 1, 2, 3, 4, 5, 6, 7]
    patches = Learned.patches((2, 3), 4)
    assert source_rows(Rows(patches, patches)).tolist() == list(range(7))
