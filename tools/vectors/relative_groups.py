"""Which pairs the vectors of relative tables hold: Swin, Shaw, DeBERTa, Transformer-XL, Music Transformer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from mpmath import mp

from vectors.pairs_book import PairsBook
from vectors.relative_papers import NO_ROW, Deberta, Matrix, Music, Shaw, Swin, TransformerXl
from vectors.rounding import DIGITS
from vectors.t5_groups import both, table

SHAW = ["Shaw et al. 2018, arXiv 1803.02155, section 3.2"]
SHAW += ["tensor2tensor/layers/common_attention.py, _generate_relative_positions_matrix"]
DEBERTA = ["He et al. 2020, arXiv 2006.03654, section 3.1"]
DEBERTA += ["microsoft/DeBERTa, DeBERTa/deberta/da_utils.py, make_log_bucket_position"]
DEPLOYED = [DEBERTA[0], "huggingface/transformers, models/deberta_v2/modeling_deberta_v2.py"]
SWIN = ["Liu et al. 2021, arXiv 2103.14030, equation 4"]
SWIN += ["microsoft/Swin-Transformer, models/swin_transformer.py, relative_position_index"]
XL = [
    "Dai et al. 2019, arXiv 1901.02860, appendix B",
    "kimiyoung/transformer-xl, pytorch/mem_transformer.py, _rel_shift",
]
XLNET = [XL[0], "zihangdai/xlnet, modeling.py, relative_positional_encoding and rel_shift"]
CONFORMER = [XL[0], "espnet, nets/pytorch_backend/transformer/attention.py, RelPositionMultiHeadedAttention.rel_shift"]
MUSIC = ["Huang et al. 2018, arXiv 1809.04281, section 3.4.1"]
MUSIC += ["tensor2tensor/layers/common_attention.py, _relative_position_to_absolute_position_masked, _unmasked"]

LAST = 2**31 - 1
FAR = [0, 1, -1, 257, -2049, 65537, -70001, 2**24 + 1, -(2**24) - 3, LAST, -LAST]
PADDED = [[-2, -1, 0, 40], [0, 1, 20, 300]]
CACHED = ([[700], [12]], [list(range(690, 702)), list(range(12))])


def record(family: str, **fields: Any) -> dict[str, Any]:
    """The canonical JSON object of a specification; the fields are given in the order of its definition."""
    return {"schema": 1, "family": family} | fields


def compose() -> PairsBook:
    book = PairsBook("relative")
    with mp.workdps(DIGITS):
        swin(book)
        shaw(book)
        deberta(book)
        transformer_xl(book)
        music(book)
    return book


# --- Swin ---


def swin(book: PairsBook) -> None:
    """Whole windows, or from their corners; square ones, others, and three axes."""
    for window, tier in (((2, 3), 1), ((3, 2), 3), ((7, 7), 3), ((2, 3, 4), 3), ((4, 4, 4), 3), ((1, 5), 3), ((5,), 3)):
        rule, spec = Swin(window), record("swin_index", heads=3, window=list(window))
        tokens = cells(window)
        flags = (
            ["Bijection"] + (["NotSquare"] if len(set(window)) > 1 else []) + (["ThreeAxes"] if len(window) > 2 else [])
        )
        book.rows("swin", spec, rule.row, SWIN, [(tokens, tokens)], flags=flags, tier=tier)
        moved = cells(window, 1000, -70000, 2**24)
        book.rows("swin", spec, rule.row, SWIN, [(moved[1:3], moved), (moved, moved[-1:])], flags=[*flags, "Moved"])
    for window in ((12, 12), (8, 7, 7), (3, 40)):
        rule, spec = Swin(window), record("swin_index", heads=3, window=list(window))
        tokens = cells(window)
        corners = [tokens[0], tokens[window[-1] - 1], tokens[-1]]
        book.rows("swin", spec, rule.row, SWIN, [(corners, tokens)], flags=["Bijection"])
    rule, spec = Swin((2, 3)), record("swin_index", heads=3, window=[2, 3])
    rows = [cells((2, 3)), cells((2, 3), 5, -9)]
    book.rows("swin", spec, rule.row, SWIN, [(rows, rows), ([[(0, 1)], [(6, -9)]], rows)], flags=["Shape"])
    beyond = [([(0, 0)], [(0, 0), (0, 3), (2, 0), (-2, 0), (1, -3), (1, 2), (LAST, 0), (0, -LAST)])]
    book.rows("swin", spec, rule.row, SWIN, beyond, flags=["OutsideWindow"], outside=True)
    line = record("swin_index", heads=3, window=[5])
    far = [([0, 100], [0, 4, 100]), ([-LAST], [LAST, -LAST]), (range(6), range(6))]
    book.rows("swin", line, Swin((5,)).row, SWIN, far, flags=["OutsideWindow"], outside=True)
    for window, heads in (((2, 3), 4), ((3, 2), 3), ((2, 3, 4), 3)):
        rule, own = Swin(window), record("swin_index", heads=heads, window=list(window))
        numbers = table("float32", (math.prod(2 * size - 1 for size in window), heads), 23)
        tokens = cells(window)
        pairs = [(tokens, tokens)] if len(window) < 3 else [(tokens[3:5], tokens)]
        book.weights("swin", own, rule.row, SWIN, numbers, pairs, flags=["HeadOrder", "NotSquare"])
        if window == (2, 3):
            more = {"flags": ["OutsideWindow"], "tier": 2, "outside": True}
            book.weights("swin", own, rule.row, SWIN, numbers, [([(0, 0)], [(0, 0), (0, 3), (-2, 0), (1, 2)])], **more)


def cells(window: Sequence[int], *first: int) -> list[Any]:
    """The tokens of a window, row by row, the first of which has the coordinates given, or zeros."""
    start = first or (0,) * len(window)
    found = [tuple(map(sum, zip(start, cell, strict=False))) for cell in itertools.product(*map(range, window))]
    return found if len(window) > 1 else [cell[0] for cell in found]


# --- Shaw ---


def shaw(book: PairsBook) -> None:
    for left, right in ((20, 20), (64, 8), (3, 3), (0, 0), (4, 0), (0, 5), (2**30, 2**30 - 1)):
        rule, spec = Shaw(left, right), record("shaw_clip", left=left, right=right)
        keys = [key for key in both([0, 1, 7, 8, 9, 20, 63, 64, 65, 300, left, right]) if abs(key) <= LAST]
        flags = ["Sign", "Clip"] + (["Asymmetric"] if left != right else [])
        book.rows("shaw", spec, rule.row, SHAW, [([0], keys), (FAR, FAR)], flags=flags)
        if left in (3, 64):
            steps = [
                (range(20, 60), range(80)),
                (range(0, 40, 2), range(0, 60, 2)),
                (range(19, -1, -1), list(range(20))),
            ]
            book.rows("shaw", spec, rule.row, SHAW, [(PADDED, PADDED), CACHED], flags=flags)
            book.rows("shaw", spec, rule.row, SHAW, steps, flags=[*flags, "Progression"])


# --- DeBERTa ---


def deberta(book: PairsBook) -> None:
    for buckets, greatest in ((256, 512), (32, 128), (6, 9), (4, 10), (8, 6), (10, LAST), (256, 2**20), (64, 35)):
        for clamped in (True, False):
            rule = Deberta(buckets, greatest, clamped)
            fields = {"buckets": buckets, "max_distance": greatest, "clamped": clamped}
            spec, sources = record("deberta_buckets", **fields), DEBERTA if clamped else DEPLOYED
            near = [buckets // 2, buckets // 2 + 1, buckets, greatest - 1, greatest, 2 * greatest, 10**6, 0, 3]
            keys = [key for key in both(near) if abs(key) <= LAST]
            flags, usual = ["Sign", "Clamped" if clamped else "Deployed"], (buckets, greatest) == (256, 512)
            book.rows("deberta", spec, rule.row, sources, [([0], keys)], flags=[*flags, "Ceiling"])
            book.rows("deberta", spec, rule.row, sources, [(FAR, FAR)], flags=flags)
            if usual:
                questions = [([0], range(-600, 601)), (PADDED, PADDED), CACHED]
                book.rows("deberta", spec, rule.row, sources, questions, flags=[*flags, "Ceiling"])
                steps = [(range(20, 50), range(40)), (range(0, 900, 30), range(0, 600, 30))]
                book.rows("deberta", spec, rule.row, sources, steps, flags=[*flags, "Progression"])


# --- Transformer-XL and its kin ---


def transformer_xl(book: PairsBook) -> None:
    """The published shifts over a whole matrix, and positions that no shift knows."""
    shifts = [(4, 0, 5, 5, XL), (6, 0, 3, 7, XL), (0, 0, 1, 1, XL), (9, 0, 1, 10, XL), (7, -2, 3, 7, XLNET)]
    shifts += [(5, -4, 5, 5, XLNET), (4, -4, 5, 5, CONFORMER), (11, -11, 12, 12, CONFORMER)]
    for longest, shortest, queries, keys, sources in shifts:
        rule = TransformerXl(longest, shortest)
        spec = record("transformer_xl_index", longest=longest, shortest=shortest)
        first = keys - queries
        alike(rule.by_shift(queries, keys), [[rule.row(first + q, k) for k in range(keys)] for q in range(queries)])
        flags = ["Shift"] + (["Memory"] if first else []) + (["BothDirections"] if shortest < 0 else ["Triangle"])
        tier = 2 if (longest, keys) == (6, 7) else 3
        question, more = [(range(first, keys), range(keys))], {}
        if shortest in (0, -longest):
            name = "causal" if shortest == 0 else "bidirectional"
            more["constructor"] = {"name": name, "arguments": {"length": longest + 1}}
        book.rows("transformer_xl", spec, rule.row, sources, question, flags=flags, tier=tier, **more)
    for longest, shortest in ((511, 0), (300, -300), (2**30, 1 - 2**30), (70000, -8)):
        rule = TransformerXl(longest, shortest)
        spec = record("transformer_xl_index", longest=longest, shortest=shortest)
        keys = both([0, 1, 8, 299, 300, 301, 511, 512, 70000, longest], 1)
        questions = [([0], keys), (FAR, FAR), (PADDED, PADDED), CACHED]
        book.rows("transformer_xl", spec, rule.row, XL, questions, flags=["Shift", "NoRow"], tier=3)


def music(book: PairsBook) -> None:
    for length in (1, 5, 12):
        for bidirectional in (False, True):
            rule = Music(length, bidirectional)
            spec = record("music_transformer_index", length=length, bidirectional=bidirectional)
            alike(rule.by_skewing(), [[rule.row(q, k) for k in range(length)] for q in range(length)])
            flags = ["Skew", "BothDirections" if bidirectional else "Triangle"]
            question = [(range(length), range(length))]
            book.rows("music", spec, rule.row, MUSIC, question, flags=flags)
    for length, bidirectional in ((300, False), (300, True), (2**30, True)):
        rule = Music(length, bidirectional)
        spec = record("music_transformer_index", length=length, bidirectional=bidirectional)
        keys = both([0, 1, 299, 300, 301, length - 1], 1)
        questions = [([0], keys), (FAR, FAR), (PADDED, PADDED), CACHED]
        book.rows("music", spec, rule.row, MUSIC, questions, flags=["Skew", "NoRow"])


def alike(shifted: Matrix, rows: Matrix) -> None:
    """The shift where it is defined: the rest is what was left over."""
    for one, other in zip(shifted, rows, strict=True):
        if any(b not in (NO_ROW, a) for a, b in zip(one, other, strict=True)):
            raise ArithmeticError(f"the published shift gives {one} where the formula gives {other}")
