"""Which tables the vectors of rotary embeddings hold."""

from __future__ import annotations

from typing import Any

from mpmath import mp

from vectors.groups import INTEGERS, MOMENTS
from vectors.rope_book import RopeBook, record, rule
from vectors.rope_papers import Spec, rotary
from vectors.rope_turns import rotations
from vectors.rounding import DIGITS
from vectors.worst import crafted, midpoint, near_zeros

FEW = [0, 1, 257, 4095, 65537, 131071, 2**24 + 1, 2**31 - 1, -1, -2049]
LEAST = [1, 4095, 131071, -65537]

ROFORMER = "Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2 and equation 34"
HF = "huggingface/transformers, src/transformers/modeling_rope_utils.py"
PI = "Chen et al. 2023, position interpolation, arXiv 2306.15595, equations 3 and 4"
YARN = "Peng et al. 2023, YaRN, arXiv 2309.00071, section 3"
YARN_CODE = "jquesnelle/yarn, scaled_rope/LlamaYaRNScaledRotaryEmbedding.py"
NTK_CODE = "jquesnelle/yarn, scaled_rope/LlamaNTKScaledRotaryEmbedding.py"
DYNAMIC_CODE = "jquesnelle/yarn, scaled_rope/LlamaDynamicScaledRotaryEmbedding.py"
DEEPSEEK = "deepseek-ai/DeepSeek-V3, modeling_deepseek.py"
VLLM = "vllm-project/vllm, vllm/model_executor/layers/rotary_embedding"
LLAMA = "meta-llama/llama-models, models/llama3/model.py, apply_scaling"
LONGROPE = "Ding et al. 2024, LongRoPE, arXiv 2402.13753, section 3"
LONGROPE_CODE = "microsoft/LongRoPE, rope/longrope.py"
P_ROPE = "Barbero et al. 2024, arXiv 2410.06205"
NEOX = "EleutherAI/gpt-neox, megatron/model/positional_embeddings.py"
NANOCHAT = "karpathy/nanochat, nanochat/gpt.py"


def compose() -> RopeBook:
    book = RopeBook()
    with mp.workdps(DIGITS):
        core(book)
        interpolated(book)
        yarns(book)
        yarn_magnitudes(book)
        longropes(book)
        by_wavelength(book)
        worst(book)
        phases(book)
        rotations(book)
    return book


def core(book: RopeBook) -> None:
    sources = [ROFORMER, HF]
    book.table("core", record(64, 10000, "half"), sources, INTEGERS)
    spec = record(128, 10000, "interleaved")
    book.table("core", spec, sources, FEW, pairs=[0, 1, 21, 42, 62, 63])
    for dtype in ("float32", "float64"):
        book.table("core", record(64, 10000, "half"), sources, MOMENTS, pairs=[0, 1, 31], dtype=dtype)
    for base, head_dim in ((150000, 64), (500000, 128), (1e6, 96), (1e11, 32), (100, 6), (10000, 2)):
        flags = ["OtherBase"] if base != 10000 else ["SinglePair"]
        book.table("core", record(head_dim, base, "half"), sources, FEW, flags=flags)
    for head_dim, rotary_dim, end, fraction in (
        (256, 64, "first", 0.25),
        (80, 32, "first", 0.4),
        (64, 48, "last", 0.75),
        (7, 4, "first", 0.6),
    ):
        spec = record(head_dim, 10000, "half", rotary_dim=rotary_dim, rotary_channels=end)
        given = {"head_dim": head_dim, "fraction": fraction, "base": 10000.0, "layout": "half"}
        made = {"name": "partial", "arguments": given | {"rotary_channels": end}}
        book.table("partial", spec, [NEOX, HF], FEW, flags=["PartialWidth"], constructor=made)
    spec = record(16, 100000, "half", direction="negative")
    book.table("negative", spec, [ROFORMER, NANOCHAT], INTEGERS, pairs=[0, 3, 7], flags=["Direction"])
    book.table("negative", spec, [ROFORMER, NANOCHAT], MOMENTS, pairs=[0, 7], dtype="float64", flags=["Direction"])
    spec = record(16, 500000, "interleaved")
    for rows in (range(4096), range(100000, 104096), range(4096, -4096, -2), range(64)):
        inside = [p for p in (0, 1, 7, 63, 257, 2049, 4095, -4094, 100001, 104095) if p in rows]
        book.table("table", spec, [ROFORMER, HF], inside, pairs=[0, 3, 7], rows=rows, flags=["Table"])


def interpolated(book: RopeBook) -> None:
    for factor, head_dim, base in ((8.0, 64, 1e6), (2.5, 6, 10000)):
        spec = record(head_dim, base, "half", scaling=rule("Linear", factor=factor))
        book.table("linear", spec, [PI, HF], FEW, flags=["LinearFactor"])
    for factor, head_dim in ((8.0, 128), (1.7, 12)):
        spec = record(head_dim, 10000, "half", scaling=rule("Ntk", factor=factor))
        book.table("ntk", spec, [NTK_CODE, YARN], FEW, flags=["NtkExponent"])
    scaling = rule("DynamicNtk", factor=4.0, original_length=2048)
    for length in (16384, 2049, 3000, 2048, 512):  # a long one first: what remembers it gets the others wrong
        spec = record(64, 10000, "half", scaling=scaling, length=length if length > 2048 else 1)
        flags = ["DynamicLength"] if length > 2048 else ["DynamicBelow"]
        made = {"name": "at_length", "arguments": {"length": length}, "of": spec | {"length": None}}
        points = FEW if length in (16384, 2048) else LEAST
        book.table("dynamic", spec, [DYNAMIC_CODE, HF], points, flags=flags, constructor=made)
    for fraction, factor, head_dim in ((0.25, 1.0, 64), (0.3, 8.0, 20)):
        spec = record(head_dim, 1e6, "half", scaling=rule("Proportional", fraction=fraction, factor=factor))
        points = INTEGERS if head_dim == 64 else FEW
        pairs = [0, 7, 8, 31] if head_dim == 64 else [0, 2, 3, 9]
        tier = 2 if head_dim == 20 else 3
        book.table("proportional", spec, [P_ROPE, HF], points, pairs=pairs, flags=["StillPairs"], tier=tier)


def combined() -> Spec:
    """A little of everything, for variants that are asked one question only."""
    scaling = rule("Yarn", factor=5.5, original_length=777, beta_fast=7.25)
    more = {"rotary_dim": 12, "rotary_channels": "last", "direction": "negative"}
    return record(16, 10000, "interleaved", scaling=scaling, **more)


def yarns(book: RopeBook) -> None:
    """Ramps: by floors and ceilings or not, clamped at either end, of one step."""
    llama2 = {"factor": 16.0, "original_length": 4096}
    book.table(
        "yarn",
        record(128, 10000, "half", scaling=rule("Yarn", **llama2)),
        [YARN_CODE, HF],
        FEW,
        pairs=[0, 20, 21, 33, 45, 46],
        flags=["YarnRamp", "YarnTruncate", "YarnMagnitude"],
    )
    oss = {"factor": 32.0, "original_length": 4096, "truncate": False}
    book.table(
        "yarn",
        record(64, 150000, "half", scaling=rule("Yarn", **oss)),
        ["openai/gpt-oss, gpt_oss/torch/model.py", HF],
        FEW,
        pairs=[0, 8, 9, 13, 17, 18],
        flags=["YarnRamp", "YarnNoTruncate", "YarnMagnitude"],
    )
    qwen = {"factor": 4.0, "original_length": 32768}
    spec = record(128, 1e6, "half", scaling=rule("Yarn", **qwen))
    book.table("yarn", spec, ["QwenLM/Qwen3, README", HF], LEAST, pairs=[23, 24, 31, 39, 40], flags=["YarnTruncate"])
    for length, truncate, pairs, flag in (
        (131072, True, [21, 22, 28, 31], "YarnHighClamp"),  # 21 and 35: 31 is inside the ramp
        (131072, False, [21, 22, 28, 31], "YarnHighClamp"),
        (163840, True, [22, 28, 31], "YarnHighClamp"),
        (64, True, [0, 1, 5, 8, 9], "YarnLowClamp"),  # -4 and 9
        (64, False, [0, 1, 5, 8, 9], "YarnLowClamp"),
    ):
        scaling = rule("Yarn", factor=8.0, original_length=length, truncate=truncate)
        spec = record(64, 10000, "half", scaling=scaling)
        book.table("yarn.clamp", spec, [YARN_CODE, HF], LEAST, pairs=pairs, flags=[flag])
    for truncate, length in ((True, 4096), (False, 4096), (True, 6), (False, 6)):  # the last two end at or below 0
        scaling = rule("Yarn", factor=32.0, original_length=length, beta_fast=1.0, truncate=truncate)
        spec = record(64, 50000, "interleaved", scaling=scaling)
        sources = ["moonshotai/Kimi-K2-Instruct, config.json", YARN_CODE]
        book.table("yarn.step", spec, sources, LEAST, pairs=[0, 1, 18, 19, 20, 21], flags=["YarnEqualBetas"])
    spec = record(12, 10000, "half", scaling=rule("Yarn", factor=5.5, original_length=777, beta_fast=7.25))
    book.table("yarn", spec, [YARN_CODE, HF], LEAST, flags=["YarnRamp"])
    sources, flags = [YARN_CODE, NANOCHAT], ["PartialWidth", "Direction", "YarnRamp", "YarnMagnitude"]
    book.table("combined", combined(), sources, INTEGERS, pairs=[0, 2, 3, 5], flags=flags, tier=1)
    spec = record(128, 10000, "half", scaling=rule("YarnPaper", **llama2))
    flags = ["YarnPaperRamp", "YarnMagnitude"]
    sources = [YARN, "the same by wavelength, as in " + LLAMA]
    book.table("yarn.paper", spec, sources, FEW, pairs=[0, 20, 21, 33, 45, 46], flags=flags)


def yarn_magnitudes(book: RopeBook) -> None:
    """Cosine and sine have the frequencies of DeepSeek-V3; the magnitude is by each rule, of each parameter."""
    pairs = [0, 10, 16]
    common: dict[str, Any] = {"factor": 40.0, "original_length": 4096}
    for options, flags in (
        (
            {"mscale": 1.0, "mscale_all_dim": 1.0, "magnitude_rule": "deepseek", "scale_softmax": True},
            ["MagnitudeRatio"],
        ),
        ({"mscale": 0.707, "mscale_all_dim": 0.0, "magnitude_rule": "deepseek"}, ["MagnitudeDeepseek"]),
        ({"mscale": 0.707, "mscale_all_dim": 0.0, "magnitude_rule": "transformers"}, ["MagnitudeTransformers"]),
        ({"mscale": 0.707, "magnitude_rule": "deepseek"}, ["MagnitudeDeepseek"]),
        ({"mscale": 0.707, "magnitude_rule": "transformers"}, ["MagnitudeTransformers"]),
        ({"mscale": 1.0, "mscale_all_dim": 0.8, "magnitude_rule": "transformers"}, ["MagnitudeRatio"]),
        ({"mscale": 1.0, "mscale_all_dim": 0.8, "magnitude_rule": "deepseek"}, ["MagnitudeRatio"]),
        ({"mscale_all_dim": 0.8, "magnitude_rule": "deepseek"}, ["MagnitudeRatio"]),
        ({"attention_factor": 1.0, "magnitude_rule": "transformers"}, ["AttentionFactor"]),
        ({"attention_factor": 1.4158883, "magnitude_rule": "transformers"}, ["AttentionFactor"]),
        ({"attention_factor": 0.75, "magnitude_rule": "product"}, ["AttentionProduct"]),
        ({"magnitude_rule": "deepseek"}, ["YarnMagnitude"]),
        ({"magnitude_rule": "product"}, ["YarnMagnitude"]),
        ({"factor": 1.0}, ["FactorOne"]),
    ):
        spec = record(64, 10000, "interleaved_to_half", scaling=rule("Yarn", **common | options))
        sources = [DEEPSEEK, HF] if options.get("magnitude_rule") != "product" else [f"{VLLM}/yarn_scaling_rope.py", HF]
        book.table("magnitude", spec, sources, [0, 1, 131071], pairs=pairs, flags=flags)
    spec = record(64, 10000, "half", scaling=rule("Yarn", **common), apply_magnitude=False)
    whole = spec | {"layout": "interleaved_to_half", "apply_magnitude": True}
    made = {"name": "rerotation", "arguments": {}, "of": whole}
    book.table("magnitude", spec, [YARN_CODE, HF], LEAST, pairs=pairs, flags=["Rerotation"], constructor=made)


SHORT = [1.0, 1.02, 1.03, 1.05, 1.08, 1.1, 1.45, 2.3]
LONG = [1.0, 1.0751, 1.2599, 1.8, 6.95, 18.3, 38.7, 64.5]


def longropes(book: RopeBook) -> None:
    for options, flags in (
        ({"factor": 32.0}, ["LongRopeMagnitude"]),
        ({"extended_length": 131072}, ["LongRopeMagnitude"]),
        ({"extended_length": 131072, "magnitude_rule": "yarn"}, ["LongRopeMagnitude"]),
        ({"attention_factor": 1.19}, ["AttentionFactor"]),
        ({"short_mscale": 1.1, "long_mscale": 1.243163121016122}, ["LongRopeMagnitude"]),
        ({"extended_length": 2048}, ["FactorOne"]),
        ({}, []),
    ):
        scaling = rule("LongRope", short_factors=SHORT, long_factors=LONG, original_length=4096, **options)
        for length in (4097, 131072, 4096, 100):
            if length in (131072, 100) and options.get("factor") != 32.0:
                continue
            spec = record(16, 10000, "half", scaling=scaling, length=4097 if length > 4096 else 1)
            made = {"name": "at_length", "arguments": {"length": length}, "of": spec | {"length": None}}
            own = ["LongRopeLong"] if length > 4096 else ["LongRopeShort"]
            own += ["LongRopeSwitch"] if length in (4096, 4097) else []
            points = FEW if options.get("factor") and length < 5000 else [1, 131071]
            book.table("longrope", spec, [LONGROPE, LONGROPE_CODE], points, flags=[*own, *flags], constructor=made)


def by_wavelength(book: RopeBook) -> None:
    common = {"original_length": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for head_dim, factor, pairs in ((128, 8.0, [0, 28, 29, 30, 35, 63]), (64, 32.0, [0, 14, 15, 16, 17, 18, 31])):
        spec = record(head_dim, 500000, "half", scaling=rule("Llama3", factor=factor, **common))
        book.table("llama3", spec, [LLAMA, HF], FEW, pairs=pairs, flags=["Llama3Bands", "Llama3Blend", "Llama3Factor"])
    scaling = rule("Llama3", factor=2.5, original_length=100, low_freq_factor=0.5, high_freq_factor=6.25)
    spec = record(12, 500, "interleaved", scaling=scaling)
    book.table("llama3", spec, [LLAMA, HF], LEAST, flags=["Llama3Blend"])


def worst(book: RopeBook) -> None:
    """Values that float64 cannot round, and values next to zero, with a magnitude that is no power of two."""
    kept = {"factor": 40.0, "original_length": 10**9}  # so long that pair 1 of 4 channels keeps its frequency
    for base in (10000.0, 500000.0):
        spec = record(64, base, "half", scaling=rule("Yarn", **kept))
        own, cases = rotary(spec), []
        for pair in (0, 1, 5, 12):
            for cosine in (False, True):
                channel = pair + (0 if cosine else 32)
                cases += [(p, [channel]) for p in near_zeros(own.frequencies[pair], cosine, 2)]
        book.table("near_zero", spec, [YARN_CODE, HF], cases, flags=["NearZero"])

    targets = [("float32", "0.3141", "MidpointFloat32"), ("float32", "0.0007", "MidpointFloat32")]
    targets += [("float32", "1.2345", "MidpointFloat32"), ("bfloat16", "0.013", "MidpointBfloat16")]
    targets += [("bfloat16", "1.17", "MidpointBfloat16"), ("float16", "0.000003", "MidpointFloat16")]
    targets += [("float16", "1.3", "MidpointFloat16")]
    magnitude = mp.log(40) / 10 + 1
    for index, (dtype, near, flag) in enumerate(targets):
        for odd, above in ((False, True), (True, False)):  # where a tie to even would go the other way
            cosine = index % 2 == 0 and odd
            target = midpoint(dtype, near, odd)
            p, base = crafted(target, 3001 + 1009 * index, cosine, above, magnitude)
            channel = 1 if cosine else 3
            for layout, direction in (("half", "positive"), ("interleaved", "negative")):
                spec = record(4, base, layout, scaling=rule("Yarn", **kept), direction=direction)
                around = [(p, [channel]), (-p, [channel])]
                if direction == "positive" or near == "1.2345":
                    book.table("midpoint", spec, [YARN_CODE, HF], around, flags=[flag])
            if near == "0.3141":
                rows = range(p - 2048, p + 2048)
                spec = record(4, base, "half", scaling=rule("Yarn", **kept))
                book.table("midpoint", spec, [YARN_CODE, HF], [(p, [channel])], rows=rows, flags=[flag, "Table"])
    for dtype, even in (("bfloat16", 1 + 2.0**-8), ("float16", 1 + 3 * 2.0**-11), ("float32", 1 + 2.0**-24)):
        # at position 0 a cosine is the magnitude, and this one is halfway between two numbers
        name = {"float32": "MidpointFloat32", "bfloat16": "MidpointBfloat16", "float16": "MidpointFloat16"}[dtype]
        scaling = rule("Yarn", **kept, attention_factor=even, magnitude_rule="transformers")
        spec = record(4, 10000, "half", scaling=scaling)
        book.table("midpoint", spec, [HF, ROFORMER], [0, 1], flags=[name, "AttentionFactor"])


def phases(book: RopeBook) -> None:
    def frequency(spec: Spec) -> Any:
        own = rotary(spec)
        return lambda pair: own.sign * own.frequencies[pair]

    spec = record(64, 10000, "half")
    book.phase("core", spec, frequency(spec), [0, 1, 13, 31], INTEGERS)
    # the same questions as in `table`: one compilation answers both
    book.phase("combined", combined(), frequency(combined()), [0, 2, 3, 5], INTEGERS, tier=1)
    spec = record(6, 1e6, "half", direction="negative")
    for dtype in ("float32", "float64"):
        book.phase("negative", spec, frequency(spec), [0, 1, 2], MOMENTS, dtype=dtype)
    spec = record(20, 1e6, "half", scaling=rule("Proportional", fraction=0.3, factor=8.0))
    book.phase("proportional", spec, frequency(spec), [0, 2, 3, 9], FEW, tier=2)
    oss = rule("Yarn", factor=32.0, original_length=4096, truncate=False)
    spec = record(64, 150000, "half", scaling=oss)
    book.phase("yarn", spec, frequency(spec), [0, 8, 9, 13, 17, 18, 31], FEW)
    llama = rule("Llama3", factor=32.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)
    spec = record(64, 500000, "half", scaling=llama)
    book.phase("llama3", spec, frequency(spec), [0, 14, 15, 16, 17, 18, 31], FEW)
