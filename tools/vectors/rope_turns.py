"""Which rotations the vectors hold: layouts, axes, shapes of positions, widths, magnitudes."""

from __future__ import annotations

import math

from vectors.rope_book import NARROW, RopeBook, record, rule
from vectors.rounding import FORMATS

ROFORMER = "Su et al. 2021, RoFormer, arXiv 2104.09864, equations 12 and 34"
HALF = "EleutherAI/gpt-neox, megatron/model/positional_embeddings.py, rotate_half"
EVERY_TWO = "kingoflolz/mesh-transformer-jax, layers.py, rotate_every_two"
VIEWED = "deepseek-ai/DeepSeek-V3, modeling_deepseek.py, apply_rotary_pos_emb"
SHIFT = "ggml-org/llama.cpp, build_rope_shift"
CODE = {"half": HALF, "interleaved": EVERY_TWO, "interleaved_to_half": VIEWED}
FLAG = {"half": "Half", "interleaved": "Interleaved", "interleaved_to_half": "InterleavedToHalf"}

SINGLE = ("float32",)
"""Where it is the shape that matters."""
TWO = ("float32", "bfloat16")

OWN = ([2, 4], [0, 1, 700, 70001, -3, 4096, 2**24 + 1, 5])
POOL = ["0.5", "-1.25", "3", "0.0078125", "-0.75", "100", "-0.21875", "1.9921875", "-6.5", "2", "-0.40625"]


def entries(shape: tuple[int, ...], step: int) -> list[str]:
    """Decimals that every format holds, no two rows alike."""
    return [POOL[(step * i + i // 11) % len(POOL)] for i in range(math.prod(shape))]


def rotations(book: RopeBook) -> None:
    axes(book)
    widths(book)
    magnitudes(book)
    given_tables(book)


def axes(book: RopeBook) -> None:
    """Where the positions belong: every shape has an axis that a wrong one could be mistaken for."""
    shape: tuple[int, ...]
    for layout, code in CODE.items():
        spec, sources, flags = record(6, 10000, layout), [ROFORMER, code], [FLAG[layout], "HeadAxis", "OwnPositions"]
        shape = (2, 3, 4, 6)
        dtypes = tuple(FORMATS) if layout == "half" else SINGLE
        book.turn("axes", spec, sources, shape, 1, OWN, x=entries(shape, 1), flags=flags, dtypes=dtypes)
        shape = (2, 4, 3, 6)
        book.turn("axes", spec, sources, shape, 2, OWN, x=entries(shape, 3), flags=flags, dtypes=SINGLE)
    spec, sources, flags = record(4, 10000, "half"), [ROFORMER, HALF], ["EqualSizes", "HeadAxis"]
    row, column, shape = ([2], [7, 70001]), ([2, 1], [7, 70001]), (2, 2, 2, 4)
    for axis in (0, 1, 2):
        for positions in (row, column):
            book.turn("axes", spec, sources, shape, axis, positions, x=entries(shape, 5), flags=flags, dtypes=SINGLE)
    shape, flags = (2, 2, 3, 2, 4), ["HeadAxis", "OwnPositions"]
    many = ([2, 2, 3], [0, 1, 2, 300, 301, 302, -5, -4, -3, 65537, 65538, 65539])
    book.turn("axes", spec, sources, shape, 3, many, x=entries(shape, 7), flags=flags, dtypes=SINGLE)
    shape, four, three = (3, 4, 4), ([4], OWN[1][:4]), ([3], OWN[1][:3])
    for axis, positions in ((0, four), (-2, three)):
        book.turn("axes", spec, sources, shape, axis, positions, x=entries(shape, 2), flags=flags[:1], dtypes=SINGLE)
    for positions in (four, ([3, 4], [*OWN[1], 9, 8, 7, 6])):
        flags = ["NoHeadAxis"]
        book.turn("axes", spec, sources, shape, None, positions, x=entries(shape, 4), flags=flags, dtypes=SINGLE)
    scalar, x, flags = ([], [3000]), entries((4,), 1), ["NoHeadAxis"]
    book.turn("axes", spec, sources, (4,), None, scalar, x=x, flags=flags, dtypes=SINGLE)
    for heads in (4, 2, 1):  # queries, and fewer keys
        shape, step, wide = (2, heads, 1, 8), ([2, 1], [4095, 12]), record(8, 500000, "half")
        flags = ["OnePosition", "OwnPositions"] + (["GroupedKeys"] if heads < 4 else [])
        book.turn("decode", wide, sources, shape, 1, step, x=entries(shape, 3), flags=flags, dtypes=SINGLE)
    for shape, positions in (((1, 1, 2, 96), ([2], [4095, 131071])), ((2, 1, 80), ([2], [511, -70001]))):
        wide, flags = record(shape[-1], 1e6, "half"), ["WideHead"]
        book.turn("axes", wide, sources, shape, 1, positions, x=entries(shape, 3), flags=flags, dtypes=SINGLE)


def widths(book: RopeBook) -> None:
    """Channels that stay as they are, bit for bit, the sign of a zero included."""
    for head_dim, rotary_dim, end, layout in (
        (10, 4, "first", "half"),
        (10, 4, "last", "half"),
        (10, 4, "last", "interleaved"),
        (10, 6, "last", "interleaved_to_half"),
        (7, 4, "first", "interleaved"),
        (7, 2, "last", "half"),
    ):
        spec = record(head_dim, 10000, layout, rotary_dim=rotary_dim, rotary_channels=end)
        shape = (2, 2, 3, head_dim)
        x = entries(shape, 3)
        still = range(rotary_dim, head_dim) if end == "first" else range(head_dim - rotary_dim)
        for row in range(3):
            x[head_dim * row + still[row % len(still)]] = "-0"
        positions = ([2, 3], [1, 4095, 70001, -2, 65537, 0])
        flags = ["PassThrough", "PartialWidth", FLAG[layout]] + (["OddHeadDim"] if head_dim % 2 else [])
        sources = [ROFORMER, CODE[layout]]
        dtypes = tuple(FORMATS) if layout == "interleaved" and end == "first" else SINGLE
        book.turn("partial", spec, sources, shape, 1, positions, x=x, flags=flags, dtypes=dtypes)
        if end == "last" and layout != "half":
            at, tier = ([3], [1, 4095, 70001]), 2 if layout == "interleaved_to_half" else 3
            book.rotate("partial", spec, sources, shape, 1, at, x=x, flags=flags, tier=tier)
    spec, shape = record(12, 1e6, "half", scaling=rule("Proportional", fraction=0.5)), (2, 3, 12)
    sources, at = [HALF, "google-deepmind/gemma, gemma/gm/math/_positional_embeddings.py"], ([3], [1, 4095, 70001])
    x, flags = entries(shape, 3), ["StillPairs"]
    book.turn("proportional", spec, sources, shape, None, at, x=x, flags=flags, dtypes=SINGLE)


def magnitudes(book: RopeBook) -> None:
    ratio = {"mscale": 1.0, "mscale_all_dim": 0.8, "magnitude_rule": "deepseek"}
    scaling = rule("Yarn", factor=40.0, original_length=4096, **ratio)
    plain = rule("Yarn", factor=16.0, original_length=4096)
    shape, at, flags = (2, 2, 3, 8), ([2, 3], [1, 4095, 70001, -2, 65537, 0]), ["YarnMagnitude"]
    for layout, own in (("half", plain), ("interleaved_to_half", scaling)):
        spec, dtypes = record(8, 10000, layout, scaling=own), TWO if layout == "half" else SINGLE
        book.turn(
            "magnitude", spec, [VIEWED, CODE[layout]], shape, 1, at, x=entries(shape, 3), flags=flags, dtypes=dtypes
        )
    spec, flags = record(8, 100000, "half", direction="negative"), ["Direction"]
    sources = [ROFORMER, "karpathy/nanochat, nanochat/gpt.py"]
    book.turn("negative", spec, sources, shape, 1, at, x=entries(shape, 5), flags=flags, dtypes=SINGLE)
    # cached keys move by a difference of positions: by the rotary width, without magnitude, in the order they are in
    moves, x, flags = ([2, 1], [-512, 37]), entries(shape, 7), ["Rerotation"]
    for layout, own, rotary_dim in (("half", plain, 4), ("interleaved_to_half", scaling, 8), ("interleaved", None, 4)):
        whole = record(8, 10000, layout, scaling=own, rotary_dim=rotary_dim)
        after = "interleaved" if layout == "interleaved" else "half"
        moved = whole | {"layout": after, "apply_magnitude": False}
        made = {"name": "rerotation", "arguments": {}, "of": whole}
        sources = [ROFORMER, SHIFT]
        book.turn("rerotation", moved, sources, shape, 1, moves, x=x, flags=flags, constructor=made, dtypes=SINGLE)


def given_tables(book: RopeBook) -> None:
    at = ([2, 3], [1, 4095, 70001, -2, 65537, 0])
    shape: tuple[int, ...]
    for layout, tier, narrow in (("half", 1, NARROW), ("interleaved", 1, TWO), ("interleaved_to_half", 2, SINGLE)):
        spec, sources, flags = record(8, 10000, layout), [ROFORMER, CODE[layout]], [FLAG[layout], "NarrowArithmetic"]
        shape = (2, 2, 3, 8)
        book.rotate("given", spec, sources, shape, 1, at, x=entries(shape, 3), flags=flags, tier=tier, dtypes=narrow)
        if layout != "interleaved_to_half":
            shape, wide = (2, 3, 2, 8), "float64"
            own = {"table_dtype": wide, "dtypes": [wide], "tier": tier + 1}
            book.rotate("given", spec, sources, shape, 2, at, x=entries(shape, 5), flags=flags, **own)
    spec = record(8, 10000, "half", scaling=rule("Yarn", factor=16.0, original_length=4096))
    sources, shape, flags = [ROFORMER, HALF], (2, 2, 3, 8), ["TableShape", "YarnMagnitude"]
    for positions in (([3], at[1][:3]), ([1, 3], at[1][:3]), ([2, 1], at[1][:2]), ([1, 1], [70001]), ([], [70001])):
        book.rotate("shape", spec, sources, shape, 1, positions, x=entries(shape, 7), flags=flags, dtypes=SINGLE)
    shape, spec = (2, 3, 8), record(8, 10000, "half")
    for kind, dtypes in (("bfloat16", [*NARROW, "float64"]), ("float16", ["float32"]), ("float64", list(TWO))):
        x, at, flags = entries(shape, 9), ([3], [1, 700, 4095]), ["TableDtype"]
        book.rotate("dtype", spec, sources, shape, 0, at, x=x, flags=flags, table_dtype=kind, dtypes=dtypes)
