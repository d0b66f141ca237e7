"""Which specifications and positions the vectors of sinusoidal encodings hold."""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from vectors.book import Book, record
from vectors.papers import fairseq, geometric, moved, scaled, tensor2tensor, timestep, vaswani, whisper
from vectors.rounding import DIGITS, named
from vectors.worst import crafted, double_roundings, midpoint, near_zeros

INTEGERS = [0, 1, 2, 3, 17, 255, 256, 257, 511, 2047, 2048, 2049, 8191, 65535, 65536, 65537, 131071, 1000003]
INTEGERS += [2**24 - 1, 2**24, 2**24 + 1, 2**30 + 7, 2**31 - 1, -1, -2, -257, -2049, -65537, -(2**24) - 1, 1 - 2**31]
FEW = [0, 1, 257, 500, 2049, 65537, 2**24 + 1, 2**31 - 1, -1, -999, -65537]
MOMENTS = [
    "0.5",
    "-0.5",
    "1",
    "998.3897",
    "-998.3897",
    "0.9983897",
    "12345.678",
    "8388607.5",
    "2147483520",
    "1e-6",
    "1e-30",
]

PAPER = "Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, section 3.5"
T2T = "tensor2tensor/layers/common_attention.py, get_timing_signal_1d"
FAIRSEQ = "fairseq/modules/sinusoidal_positional_embedding.py; fairseq/utils.py, make_positions"
WHISPER = "openai/whisper, whisper/model.py, sinusoids"
DDPM = "hojonathanho/diffusion, diffusion_tf/nn.py; Ho et al. 2020, arXiv 2006.11239, appendix B"
DIFFUSERS = "huggingface/diffusers, models/embeddings.py, get_timestep_embedding"
MLX = "ml-explore/mlx, python/mlx/nn/layers/positional_encoding.py, SinusoidalPositionalEncoding"


def compose() -> Book:
    book = Book("sinusoidal")
    with mp.workdps(DIGITS):
        papers(book)
        timesteps(book)
        variations(book)
        worst(book)
        phases(book)
        sums(book)
    return book


def papers(book: Book) -> None:
    for dim in (2, 6, 64, 512, 1024):
        flags = ["SinglePair"] if dim == 2 else ["PaperDenominator", "Interleaved"]
        call = ("vaswani", {"dim": dim})
        points = FEW if dim in (2, 1024) else INTEGERS
        spec = record(dim, "interleaved", 0)
        book.encode(
            "vaswani", spec, vaswani(dim), [PAPER], points, flags=flags, constructor=call, tier=1 if dim == 64 else 3
        )
    for base in (500000.0, 100.0, 1e6):
        call = ("vaswani", {"dim": 64, "base": base})
        spec = record(64, "interleaved", 0, base=base)
        value = vaswani(64, base)
        book.encode("vaswani", spec, value, [PAPER], INTEGERS, flags=["OtherBase"], constructor=call)

    for dim, least, start in ((64, 1.0, 0), (512, 1.0, 0), (7, 1.0, 3), (6, 4.0, 0), (2, 1.0, 0)):
        flags = ["CodeDenominator", "SinesFirst"]
        flags += ["OddWidth", "PositionOffset"] if dim == 7 else []
        flags += ["TimescaleRule"] if least != 1 else []
        arguments = {"dim": dim, "min_timescale": least, "position_offset": start}
        shape = {"min_timescale": least, "timescale_rule": "tensor2tensor", "position_offset": start}
        value = tensor2tensor(dim, 1e4, least, start)
        points = INTEGERS if dim == 64 else FEW
        spec = record(dim, "sin_cos", 1, **shape)
        call = ("tensor2tensor", arguments)
        book.encode(
            "tensor2tensor", spec, value, [T2T], points, flags=flags, constructor=call, tier=2 if dim == 7 else 3
        )

    for dim, index in ((64, 1), (7, 0), (512, 1)):
        spec = record(dim, "sin_cos", 1, position_offset=index + 1, padding_position=-1)
        flags = ["CodeDenominator", "PositionOffset"] + (["OddWidth"] if dim % 2 else [])
        call = ("fairseq", {"dim": dim, "padding_idx": index})
        points = INTEGERS if dim == 64 else FEW
        value = fairseq(dim, index)
        book.encode(
            "fairseq", spec, value, [FAIRSEQ], points, flags=flags, constructor=call, tier=2 if dim == 64 else 3
        )

    for dim, base in ((64, 10000.0), (512, 10000.0), (6, 500000.0)):
        call = ("whisper", {"dim": dim, "base": base})
        flags = ["CodeDenominator", "SinesFirst"] + (["OtherBase"] if base != 10000 else [])
        spec = record(dim, "sin_cos", 1, base=base)
        book.encode("whisper", spec, whisper(dim, base), [WHISPER], FEW, flags=flags, constructor=call)


def timesteps(book: Book) -> None:
    for dim in (64, 7):
        spec, value, call = record(dim, "sin_cos", 1), timestep(dim, 1, False), ("ddpm", {"dim": dim})
        flags = ["CodeDenominator", "SinesFirst"] + (["OddWidth"] if dim % 2 else [])
        book.encode("ddpm", spec, value, [DDPM], FEW, flags=flags, constructor=call)
        for dtype in ("float32", "float64"):
            book.encode("ddpm", spec, value, [DDPM], MOMENTS, dtype=dtype, flags=flags, constructor=call)

    for dim, layout, shift, scale in (
        (320, "cos_sin", 0.0, 1.0),
        (64, "cos_sin", 0.5, 1.0),
        (64, "cos_sin", 0.0, 1000.0),
        (7, "sin_cos", 1.0, 1.0),
    ):
        spec = record(dim, layout, shift, position_scale=scale)
        value = timestep(dim, shift, layout == "cos_sin", scale)
        call = (
            "diffusers",
            {"dim": dim, "layout": layout, "denominator_shift": shift, "position_scale": scale},
        )
        flags = ["CosinesFirst"] if layout == "cos_sin" else ["SinesFirst"]
        flags += ["OddWidth"] if dim % 2 else []
        flags += ["FractionalShift"] if shift == 0.5 else ["PaperDenominator"] if shift == 0 else ["CodeDenominator"]
        flags += ["PositionScale"] if scale != 1 else []
        book.encode(
            "diffusers", spec, value, [DIFFUSERS], FEW, flags=flags, constructor=call, tier=2 if dim == 320 else 3
        )
        for dtype in ("float32", "float64"):
            tier = 1 if scale != 1 and dtype == "float32" else 3
            book.encode(
                "diffusers", spec, value, [DIFFUSERS], MOMENTS, dtype=dtype, flags=flags, constructor=call, tier=tier
            )


def variations(book: Book) -> None:
    """What no single publication covers: scales, offsets past 2^31, the two timescale rules side by side."""
    for dim, factor in ((64, 0.125), (6, (2 / 6) ** 0.5), (512, 512**-0.5)):
        spec = record(dim, "sin_cos", 1, base=10000.0, output_scale=factor)
        value = scaled(whisper(dim), factor)
        book.encode("scaled", spec, value, [MLX], FEW, flags=["OutputScale"], tier=2 if dim == 6 else 3)
        if dim == 6:
            book.encode("scaled", spec, value, [MLX], MOMENTS, dtype="float64", flags=["OutputScale"])
    for offset in (2**31 - 1, -70000):
        spec = record(6, "interleaved", 0, position_offset=offset)
        value = moved(vaswani(6), offset)
        book.encode("offset", spec, value, [PAPER], INTEGERS, flags=["PositionOffset"])
    spec = record(6, "interleaved", 0, position_offset=2**31 - 1)
    value = moved(vaswani(6), 2**31 - 1)
    book.encode("offset", spec, value, [PAPER], MOMENTS, dtype="float32", flags=["PositionOffset"])
    spec = record(6, "sin_cos", 1, min_timescale=4.0)
    value = geometric(6, 10000.0, 4.0, 1)
    book.encode("geometric", spec, value, ["posenc.Sinusoidal, timescale_rule geometric"], FEW, flags=["TimescaleRule"])
    spec = record(64, "interleaved", 0, padding_position=7)
    value = vaswani(64)
    for rows in (range(4096), range(100000, 104096), range(4096, -4096, -2), range(64)):
        inside = [p for p in (0, 1, 7, 63, 255, 257, 2047, 2049, 4095, -4094) if p in rows]
        inside += [p for p in (100000, 100001, 102047, 104095) if p in rows]
        book.encode(
            "table",
            spec,
            lambda p, channel: mpf(0) if p == 7 else value(p, channel),
            [PAPER],
            inside,
            rows=rows,
            flags=["Table"],
        )


def worst(book: Book) -> None:
    """Values that float64 cannot round, and values next to zero."""
    for base in (10000.0, 500000.0):
        spec, value = record(64, "interleaved", 0, base=base), vaswani(64, base)
        cases: list[int | str | tuple[int, list[int]]] = []
        for pair in (0, 1, 5, 12, 20, 25):
            frequency = named(base) ** (-mpf(2 * pair) / 64)
            for cosine in (False, True):
                cases += [(p, [2 * pair + cosine]) for p in near_zeros(frequency, cosine, 2)]
        book.encode("near_zero", spec, value, [PAPER], cases, flags=["NearZero"])

    for dtype in ("bfloat16", "float16"):
        spec, found = record(64, "interleaved", 0), double_roundings(64, dtype, 3)
        book.encode("double_rounding", spec, vaswani(64), [PAPER], found, flags=["DoubleRounding"])

    targets = [("float32", "0.3141", "MidpointFloat32"), ("float32", "0.0007", "MidpointFloat32")]
    targets += [("bfloat16", "0.7421", "MidpointBfloat16"), ("bfloat16", "0.013", "MidpointBfloat16")]
    targets += [("float16", "0.5772", "MidpointFloat16"), ("float16", "0.000003", "MidpointFloat16")]
    for index, (dtype, near, flag) in enumerate(targets):
        for odd, above in ((False, True), (True, False)):  # where a tie to even would go the other way
            cosine = index % 2 == 0 and odd
            target = midpoint(dtype, near, odd)
            p, base = crafted(target, 3001 + 1009 * index, cosine, above)
            channel = 2 + cosine
            spec, value = record(4, "interleaved", 0, base=base), vaswani(4, base)
            around = [(p, [channel]), (-p, [channel])]
            book.encode("midpoint", spec, value, [PAPER], around, flags=[flag])
            if near == "0.3141":
                rows = range(p - 2048, p + 2048)
                book.encode("midpoint", spec, value, [PAPER], [(p, [channel])], rows=rows, flags=[flag, "Table"])


def phases(book: Book) -> None:
    spec = record(64, "interleaved", 0)

    def paper(j: int) -> Any:
        return mpf(10000) ** (-mpf(2 * j) / 64)

    book.phase("vaswani", spec, paper, [0, 1, 13, 31], INTEGERS, tier=1)
    for dtype in ("float32", "float64"):
        book.phase("vaswani", spec, paper, [0, 1, 13, 31], MOMENTS, dtype=dtype)
    spec = record(320, "cos_sin", 0, position_scale=1000.0)

    def flow(j: int) -> Any:
        return 1000 * mpf(10000) ** (-mpf(j) / 160)

    book.phase("diffusers", spec, flow, [0, 7, 159], FEW)
    book.phase("diffusers", spec, flow, [0, 7, 159], MOMENTS, dtype="float32")
    spec = record(64, "sin_cos", 1, position_offset=2, padding_position=-1)

    def code(j: int) -> Any:
        return mp.exp(-j * mp.log(10000) / 31)

    book.phase("fairseq", spec, code, [0, 1, 31], INTEGERS, tier=2)
    spec = record(6, "interleaved", 0, position_offset=2**31 - 1)

    def three(j: int) -> Any:
        return mpf(10000) ** (-mpf(2 * j) / 6)

    book.phase("offset", spec, three, [0, 1, 2], INTEGERS)
    book.phase("offset", spec, three, [0, 1, 2], MOMENTS, dtype="float64")


def sums(book: Book) -> None:
    """`add`: two batch rows, positions of their own, and sums that only one rounding gets right."""
    pool = ["0.5", "-1.25", "3", "0.0078125", "-0.75", "100", "-0.21875", "1.9921875", "-6.5", "0"]

    def entries(count: int, step: int) -> list[str]:
        return [pool[(step * i + i // 7) % len(pool)] for i in range(count)]

    spec = record(6, "interleaved", 0)
    book.add("vaswani", spec, vaswani(6), [PAPER], (2, 3, 6), x=entries(36, 1), flags=["BatchAxis"], tier=1)
    book.add("vaswani", spec, vaswani(6), [PAPER], (2, 2, 6), x=entries(24, 3), flags=["BatchAxis"])
    book.add("vaswani", spec, vaswani(6), [PAPER], (3, 1, 2, 6), x=entries(36, 7), flags=["BatchAxis"])
    left = ([2, 3], [0, 0, 1, 70000, 70001, 70002])
    flags = ["BatchAxis", "OwnPositions"]
    book.add("vaswani", spec, vaswani(6), [PAPER], (2, 3, 6), x=entries(36, 3), positions=left, flags=flags)
    column = ([2, 1], [5, 2**24 + 1])
    book.add("vaswani", spec, vaswani(6), [PAPER], (2, 3, 6), x=entries(36, 9), positions=column, flags=flags)
    spec = record(4, "sin_cos", 1, position_offset=2, padding_position=-1)
    padded = ([4], [-1, -1, 0, 1])
    flags = ["OwnPositions", "PaddingRow", "PositionOffset"]
    book.add("fairseq", spec, fairseq(4), [FAIRSEQ], (4, 4), x=entries(16, 1), positions=padded, flags=flags)
    # an encoding just beside one half puts the float32 sum on a midpoint of the narrow formats
    for half, column_x in (
        ("0.500001", ["128", "-128", "1024", "1032"]),
        ("0.499999", ["129", "-129", "131", "-1032"]),
    ):
        base = float((1 / mp.asin(mpf(half))) ** 2)
        spec, x = record(4, "interleaved", 0, base=base), [n for entry in column_x for n in ("0", "0", entry, "0")]
        one = ([1], [1])
        book.add("vaswani", spec, vaswani(4, base), [PAPER], (4, 4), x=x, positions=one, flags=["OneRounding"])
