"""Which distances and tables the vectors of T5's bias hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mpmath import mp

from vectors.pairs_book import PairsBook, Table
from vectors.rounding import DIGITS, FORMATS
from vectors.t5_papers import Rule

PAPER = "Raffel et al. 2019, arXiv 1910.10683, section 2.1"
MESH = "tensorflow/mesh, mesh_tensorflow/transformer/transformer_layers.py, _relative_position_bucket"
T5X = "google/flaxformer, components/attention/relative_position_biases.py"

LAST = 2**31 - 1
FAR = [0, 1, -1, 257, -2049, 65537, -70001, 2**24 + 1, -(2**24) - 3, LAST, -LAST]
SIDES = (True, False)


def record(heads: int, rule: Rule) -> dict[str, Any]:
    """The canonical JSON object of a specification."""
    spec = {"schema": 1, "family": "t5_bias", "heads": heads, "buckets": rule.buckets}
    spec |= {"max_distance": rule.max_distance, "bidirectional": rule.bidirectional, "rule": rule.rule}
    return spec


class T5Book(PairsBook):
    """Collects groups of T5's bias."""

    def t5(self, name: str, rule: Rule, questions: Sequence[tuple[Any, Any]], **more: Any) -> None:
        self.rows(name, record(8, rule), rule.bucket, _sources(rule), questions, flags=_flags(rule, more), **more)

    def bias(self, name: str, rule: Rule, table: Table, questions: Sequence[tuple[Any, Any]], **more: Any) -> None:
        spec, flags = record(table.shape[1], rule), _flags(rule, more)
        self.weights(name, spec, rule.bucket, _sources(rule), table, questions, flags=flags, **more)


def _sources(rule: Rule) -> list[str]:
    return [PAPER, T5X if rule.rule == "t5x" else MESH]


def _flags(rule: Rule, more: dict[str, Any]) -> list[str]:
    return ["Bidirectional" if rule.bidirectional else "Causal", *more.pop("flags", [])]


def both(distances: Iterable[int], around: int = 1) -> list[int]:
    """Each of the distances and its neighbours, behind and ahead."""
    return sorted({sign * (d + step) for d in distances for step in range(-around, around + 1) for sign in (1, -1)})


def compose() -> PairsBook:
    book = T5Book("t5")
    with mp.workdps(DIGITS):
        defaults(book)
        edges(book)
        shapes(book)
        weights(book)
    return book


def defaults(book: T5Book) -> None:
    """All near distances, and the ties of the usual buckets."""
    for side in SIDES:
        rule = Rule(32, 128, side)
        few = [([5, 300], [0, 5, 6, 13, 21, 37, 69, 133, 300, 317, 428])]
        book.t5("default", rule, few, flags=["Sign", "Tie", "LastBucket"], tier=2 if side else 3)
        book.t5("default", rule, [([0], range(-300, 301))], flags=["Sign", "Tie", "LastBucket"])
        book.t5("default", rule, [([0], range(10))], flags=["Sign"])
        ties = [([0], both([8, 16, 23, 32, 46, 64, 91, 113, 128, 129, 200, 10000]))]
        book.t5("default", rule, ties, flags=["Tie", "LastBucket"])
        book.t5("default", rule, [(FAR, FAR)], flags=["LastBucket"])


def edges(book: T5Book) -> None:
    """Distances that floating point puts into the bucket below or above, and buckets that are hard to divide."""
    wrong = [(10, 160, [10, 20, 80]), (20, 320, [20, 40, 160]), (36, 32, [24]), (40, 640, [40, 80, 320])]
    wrong += [(54, 64, [36]), (36, 512, [96]), (16, 800, [80])]
    for number, (side, greatest, distances) in enumerate(wrong):
        for bidirectional in SIDES:
            rule = Rule(side * (1 + bidirectional), greatest, bidirectional)
            flags = ["Float64Bucket"] if number < 5 else ["Float32Bucket"]
            book.t5("edge", rule, [([0], both([*distances, greatest]))], flags=flags)
    for side, greatest, distance in ((64, 693, 47), (32, 155501, 282), (64, 16463, 13545), (128, 1386, 94)):
        for bidirectional in SIDES:
            found = []
            for name in ("exact", "t5x"):
                rule = Rule(side * (1 + bidirectional), greatest, bidirectional, name)
                found.append(rule.bucket(distance, 0))
                book.t5("epsilon", rule, [([0], both([distance]))], flags=["Epsilon"])
            if found[1] != found[0] + 1:
                raise ArithmeticError(f"the epsilon decides nothing at {distance} of {side} and {greatest}")
    for name in ("exact", "t5x"):
        book.t5("epsilon", Rule(32, 128, True, name), [([0], both([16, 32, 64, 128]))], flags=["Epsilon", "Tie"])
    uneven = [(2, 2, False), (2, 1000, False), (3, 50, False), (4, 2, True), (4, 128, True), (6, 4, True)]
    uneven += [(33, 128, False), (32, 17, False), (32, 9, True), (32, 20, True), (32, LAST, True), (2, LAST, False)]
    uneven += [(512, 2**20, True), (320, 800, True)]
    for buckets, greatest, bidirectional in uneven:
        keys = both([0, 1, 2, 3, 5, 9, 17, 40, 128, 900, 65537, 2**24 + 1, greatest - 2])
        keys = [key for key in keys if abs(key) <= LAST]
        tier = 2 if (buckets, greatest) == (32, LAST) else 3  # too far for a table of all distances
        book.t5(
            "buckets", Rule(buckets, greatest, bidirectional), [([0], keys)], flags=["Buckets", "LastBucket"], tier=tier
        )


def shapes(book: T5Book) -> None:
    """Positions a row: padded on the left, packed, cached; and in progressions."""
    padded, packed = [[-2, -1, 0, 40], [0, 1, 20, 300]], [[0, 1, 2, 0, 1], [0, 40, 0, 1, 200]]
    for side in SIDES:
        rule = Rule(32, 128, side)
        questions = [(padded, padded), (packed, [0, 1, 20, 300]), ([[3, 90]], padded), (padded, [[5, 700, -3]])]
        questions += [([[700], [120]], [list(range(690, 702)), list(range(112, 124))])]
        questions += [([[[1], [200]], [[3], [5]]], [[[0, 90]], [[2, 40]]])]
        book.t5("shape", rule, questions, flags=["Shape"])
        if not side:
            book.t5("shape", rule, questions[1:2], flags=["Shape"], tier=2)
        book.t5("decode", rule, [([700], range(701)), ([[40], [7]], range(41))], flags=["Decode"])
        steps = [(range(20, 60), range(60)), (range(0, 60, 3), range(0, 90, 3)), (range(39, -1, -1), range(50))]
        steps += [(range(30), range(0, 120, 2)), (list(range(-20, 20)), list(range(2**24, 2**24 + 30)))]
        steps += [(list(range(30)), list(range(29, -1, -1)))]
        book.t5("progression", rule, steps, flags=["Progression"])
    for side in SIDES:  # a long way in, where float32 has every other integer
        book.t5("decode", Rule(32, 128, side), [([2**24 + 41], range(2**24 + 1, 2**24 + 44))], flags=["Decode"])


def weights(book: T5Book) -> None:
    """Numbers of a table, in every dtype: each is rounded once."""
    questions = [([3, 4, 5], [0, 1, 4, 5, 30, 300])]
    for side, heads in ((True, 6), (False, 5)):
        rule = Rule(32, 128, side)
        single = table("float32", (32, heads), 23)
        book.bias("default", rule, single, questions, flags=["HeadOrder", "Sign"], tier=1 if side else 3)
        rows = [([[700], [12]], [[0, 690, 700], [3, 11, 12]]), ([700], list(range(690, 701)))]
        book.bias("decode", rule, single, rows, flags=["Decode", "HeadOrder"], tier=3)
    square = Rule(6, 40, True)  # as many rows as heads: a transposed table has the same shape
    book.bias("square", square, table("float32", (6, 6), 23), questions, flags=["HeadOrder"])
    for dtype in ("bfloat16", "float16", "float64"):
        book.bias("dtype", square, table(dtype, (6, 3), 6), questions, flags=["WeightDtype"])
    keys = [([0], [0, -1, -5, -39, 1, 5, 50])]
    for dtype, power, widths in (("float64", 50, (8, 11, 24)), ("float32", 23, (8, 11))):
        numerators = [number for width in widths for number in halves(power, width)]
        if dtype == "float32":  # 65,504 is the greatest float16: from 65,520 on there is none
            numerators += [number << power for number in (70000, -65520, 65519, -65504, 0, 0, 0, 0)]
        flags = ["OneRounding"] + (["Overflow"] if dtype == "float32" else [])
        book.bias("rounding", square, Table(dtype, (6, 4), numerators, power), keys, flags=flags)


def halves(power: int, width: int) -> list[int]:
    """Next to 1, halfway between numbers of `width` bits, and one bit beyond, which a step in between loses."""
    middles = [(1 << power) + (odd << power - width + 1) + (1 << power - width) for odd in (0, 1)]
    return [sign * (middle + last) for middle in middles for sign in (1, -1) for last in (0, 1)]


def table(dtype: str, shape: tuple[int, int], power: int) -> Table:
    """Numbers of no order that fill the significand of the dtype."""
    limit, state, numerators = 2 ** FORMATS[dtype][0], 20240229, []
    for _ in range(shape[0] * shape[1]):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        numerators.append((state >> 11) % (2 * limit - 1) - limit + 1)
    return Table(dtype, shape, numerators, power)
