"""Which slopes and distances the vectors of ALiBi hold."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from mpmath import mp

from vectors.alibi_papers import FORMS, slopes
from vectors.alibi_worst import crafted, near_midpoints, twice_rounded
from vectors.pairs_book import PairsBook
from vectors.rounding import DIGITS

PAPER = "Press et al. 2021, Train Short, Test Long, arXiv 2108.12409, section 3"
CODE = "ofirpress/attention_with_linear_biases, fairseq/models/transformer.py, get_slopes"
MPT = "mosaicml/llm-foundry, models/layers/attention.py, gen_slopes"
NEOX = "EleutherAI/gpt-neox, megatron/model/positional_embeddings.py, AliBi"
BOTH = "lucidrains/x-transformers, AlibiPositionalBias; ml-explore/mlx, nn.ALiBi"
BLOOM = "huggingface/transformers, models/bloom/modeling_bloom.py, build_alibi_tensor"
SOURCES = {"causal": [PAPER, CODE, NEOX], "symmetric": [CODE, BOTH], "anchored": [CODE, BLOOM]}
FORM_FLAG = {"causal": "Causal", "symmetric": "Symmetric", "anchored": "Anchored"}

LAST = 2**31 - 1
FAR = [0, 1, -1, 256, 257, 2047, 2049, 65537, -70001, 2**24 + 1, -(2**24) - 3, LAST, -LAST]


def record(heads: int, form: str, max_bias: float = 8.0) -> dict[str, Any]:
    """The canonical JSON object of a specification."""
    return {"schema": 1, "family": "alibi", "heads": heads, "form": form, "max_bias": float(max_bias)}


class AlibiBook(PairsBook):
    """Collects groups of ALiBi."""

    def alibi(
        self, name: str, heads: int, form: str, questions: Sequence[tuple[Any, Any]], max_bias: float = 8.0, **more: Any
    ) -> None:
        flags = [FORM_FLAG[form], *(["HeadSplit"] if heads & (heads - 1) else []), *more.pop("flags", [])]
        flags += ["MaxBias"] if max_bias != 8 and "MaxBias" not in flags else []
        sources = SOURCES[form] + ([MPT] if max_bias != 8 else [])
        spec, own = record(heads, form, max_bias), slopes(heads, max_bias)
        heads_ = more.pop("only", None)
        if name in (form, "max_bias"):
            more["constructor"] = {"name": form, "arguments": {"heads": heads, "max_bias": max_bias}}
        self.slopes(name, spec, own, FORMS[form], sources, questions, heads=heads_, flags=flags, **more)


def compose() -> PairsBook:
    book = AlibiBook("alibi")
    with mp.workdps(DIGITS):
        all_slopes(book)
        forms(book)
        distances(book)
        shapes(book)
        worst(book)
    return book


def all_slopes(book: AlibiBook) -> None:
    """Every slope of many numbers of heads: at distances that leave it as it is, and that make a multiple of it."""
    for heads in (6, 1, 2, 3, 5, 7, 8, 10, 12, 16, 40, 71, 112):
        at = [0, 2, 5] if heads == 8 else [4, 2]
        book.alibi("causal", heads, "causal", [([5], at)], flags=["Slopes"])
    for max_bias in (16.0, 4.0, 7.3, 0.075, 64.0, 2.0**-10):
        book.alibi("max_bias", 6, "causal", [([5], [4, 2])], max_bias, flags=["Slopes"])
    # the exponent of head 4 of 8 is 1.6 * 5 / 8, which is 1: a tie, though no other slope is a power of two
    rational = [([0], [-(2**24) - 1, 257, 259, 2049, 2**25 + 6])]
    book.alibi("max_bias", 8, "causal", rational, 1.6, only=[3, 4, 5], flags=["RationalSlope", "Tie"])


def forms(book: AlibiBook) -> None:
    """Keys behind the query, at it and ahead of it, in one matrix that is not square."""
    for form in FORMS:
        book.alibi(form, 6, form, [([3, 4, 5], [0, 1, 2, 3, 4, 5, 6])], flags=["ZeroSign", "Anchor"])
        book.alibi(form, 12, form, [([3, -700], [70000, 0, -1, -700])], only=[0, 7, 8, 11], flags=["ZeroSign"])


def distances(book: AlibiBook) -> None:
    """Past every precision, and as far as positions go."""
    for form in FORMS:
        for heads, only in ((12, [0, 8, 10]), (8, [0, 7])):
            pairs = [(q, k) for q in range(len(FAR)) for k in range(len(FAR)) if (q + 2 * k) % 3 == 0]
            # with slopes that are no powers of two: the others leave nothing to round
            tier = {"causal": 1, "anchored": 2}.get(form, 3) if heads == 12 else 3
            book.alibi(f"{form}.far", heads, form, [(FAR, FAR)], only=only, pairs=pairs, flags=["FarApart"], tier=tier)
    book.alibi("neighbours", 12, "causal", [([300], list(range(40, 48)))], only=[0, 1, 8, 11], flags=["Collide"])
    book.alibi(
        "neighbours", 16, "causal", [([70000], [0, 1, 2, 67950, 67951, 67952])], flags=["Collide"], only=[0, 3, 15]
    )
    halves = [([0], [-257, -259, -2049, -2051, -(2**24) - 1, -(2**24) - 3, 2**25 + 2, 2**25 + 6])]
    book.alibi("tie", 8, "causal", halves, only=[0, 1, 7], flags=["Tie"])
    # 65,504 is the greatest float16: from 65,520 on there is none
    edge = [([0], [-131039, -131040, -131041, -(2**20), 131039, 131040]), ([-LAST], [LAST, 2**30])]
    book.alibi("overflow", 8, "causal", edge, only=[0, 1], flags=["Overflow"])
    book.alibi("overflow", 6, "symmetric", edge, only=[0, 4], flags=["Overflow"])
    small = [([0], [-1, -2, -3, -5, -1000, 70000, -(2**24) - 1])]
    for max_bias in (24.0, 32.0, 64.0):
        book.alibi("underflow", 12, "causal", small, max_bias, only=[5, 7, 11], flags=["Underflow"])


def shapes(book: AlibiBook) -> None:
    """Positions a row: padded on the left, packed, cached, of another length; and in progressions."""
    padded = [[-2, -1, 0, 1], [0, 1, 2, 3]]
    packed = [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    for form in FORMS:
        questions = [(padded, padded), (packed, [0, 1, 2, 3]), ([[3, 9]], padded), (padded, [[5, 700, -3]])]
        questions += [([[700], [12]], [range_(690, 5), range_(9, 5)]), ([[[1], [2]], [[3], [5]]], [[[0, 9]], [[2, 4]]])]
        book.alibi("shape", 6, form, questions, only=[0, 4, 5], flags=["Shape"])
    book.alibi("shape", 6, "symmetric", questions[2:3], only=[0, 4, 5], tier=2, flags=["Shape"])
    book.alibi("decode", 10, "causal", [([700], range(701))], pairs=[(0, 0), (0, 699), (0, 700)], flags=["Decode"])
    far = [([65537], range(65538))]
    book.alibi("decode", 3, "causal", far, pairs=[(0, 0), (0, 4096), (0, 65537)], flags=["Decode"])
    corners = [(0, 0), (0, 59), (39, 0), (39, 59), (20, 28), (17, 41)]
    for form in FORMS:
        questions = [(range(100, 140), range(60)), (range(0, 120, 3), range(0, 180, 3)), (range(39, -1, -1), range(60))]
        questions += [(range(40), range(0, 120, 2)), (range_(-100, 40), range_(2**24, 60))]
        questions += [(range_(0, 40), range_(59, 60, -1))]
        book.alibi("progression", 6, form, questions, pairs=corners, only=[0, 5], flags=["Progression"])
    corners, large = [(0, 0), (0, 299), (199, 0), (199, 299), (100, 128)], [(range(100, 300), range(300))]
    book.alibi("progression", 3, "symmetric", large, pairs=corners, only=[0, 2], flags=["Progression"])


def range_(start: int, count: int, step: int = 1) -> list[int]:
    """A progression that is handed over as an array."""
    return list(range(start, start + step * count, step))


def worst(book: AlibiBook) -> None:
    """Products that float64 cannot round, and products that are rounded twice."""
    for heads, max_bias in ((12, 8.0), (112, 8.0), (10, 7.3), (6, 9.9)):
        for head, distance in near_midpoints(slopes(heads, max_bias), "float32", 5):
            flags = ["MidpointFloat32"]
            book.alibi("midpoint", heads, "causal", [behind(distance)], max_bias, only=[head], flags=flags)
    flag = {"float32": "MidpointFloat32", "bfloat16": "MidpointBfloat16", "float16": "MidpointFloat16"}
    for dtype, distance in (("float32", 20000003), ("float32", 3000000019), ("bfloat16", 1003), ("float16", 50021)):
        for odd, above in ((False, True), (True, False), (False, False), (True, True)):
            max_bias = crafted(distance, Fraction(1, 128), dtype, odd=odd, above=above)
            (query, (key,)), own = behind(distance), [flag[dtype]]
            book.alibi("midpoint", 128, "causal", [(query, [key])], max_bias, only=[0], flags=own)
            if odd == above:  # one among many
                among, rows = [(0, 0)], [(query, range(key, key + 300))]
                book.alibi("midpoint", 128, "symmetric", rows, max_bias, only=[0], pairs=among, flags=own)
    for dtype, max_bias, head in (
        ("bfloat16", 8.0, 8),
        ("bfloat16", 8.0, 10),
        ("float16", 40.0, 10),
        ("float16", 40.0, 11),
    ):
        for distance in twice_rounded(slopes(12, max_bias)[head], dtype, 2**26 + 12345, 3):
            own = ["DoubleRounding"]
            book.alibi("double_rounding", 12, "causal", [behind(distance)], max_bias, only=[head], flags=own)
    # a product with a power of two is exact: it is float32 that ends one bit before the rounding boundary
    for distance, head in ((2**31 + 2**23 + 1, 0), (2**31 + 2**24 + 2**23 - 1, 3), (2**31 + 2**20 + 1, 3)):
        book.alibi("double_rounding", 8, "causal", [behind(distance)], 32.0, only=[head], flags=["DoubleRounding"])


def behind(distance: int) -> tuple[list[int], list[int]]:
    """A query, and a key that far behind it, where either may not be as far from 0."""
    return [distance // 2], [distance // 2 - distance]
