"""What the vectors of rotary embeddings say about themselves, and what each of their flags hunts."""

from vectors import notes
from vectors.notes import note

ABOUT = [
    "Vectors of rotary position embeddings, for implementations in any language. They are in the public domain.",
    notes.FILE,
    notes.group("posenc.Rope"),
    "`frequencies`, `magnitude`, `softmax_factor`: what the specification comes to, in radians per position of every "
    "pair: 40 significant digits, and correctly rounded to float64. Given with the first group of a specification; an "
    "implementation that fails should compare these first. The sign of a rotation backwards is not in them.",
    "kind table: cosines and sines of `position`, times the magnitude. With n pairs, `channels` 0 to n-1 are the "
    "cosines of pairs 0 to n-1, n to 2n-1 their sines: the true value in 40 significant digits (`decimal`), and its "
    "correctly rounded bit pattern in four formats.",
    notes.PATTERNS,
    notes.bounds("the magnitude"),
    notes.PHASES,
    "kind rotate: `x` (row-major decimals, exact in every format of `dtypes`) of `shape`, turned by the `table` "
    "given: cosines and sines (`cos`, `sin`) of its own `shape`, row-major bit patterns of its `dtype`. `decimal` is "
    "the exact result on this table. `head_axis` is the axis of the heads in x, null where there is none; the axes of "
    "the table but the last are those of x without heads and channels, or the last of them, or none; a 1 serves every "
    "index.",
    "kind turn: the same from `positions`, row-major `values` of a `shape`, instead of a table: `decimal` is the exact "
    "rotation.",
    f"{notes.DTYPES} Channels that do not turn are copied, bit for bit. Products in float32 (float64 for float64) and "
    "one rounding at the end keep the error of a rotation below 2^-22 (2^-51) * magnitude * max(|u|, |v|) plus half "
    "a unit, on the table given.",
    *notes.POSITIONS,
    notes.TIER,
    "`constructor`: the method of posenc.Rope (`name`, with `arguments`), of the specification `of` where one is "
    "given, that must give this one.",
    notes.PARAMETERS,
]

SHARED = ["NegativePosition", "PastBfloat16", "PastFloat16", "LongContext", "PastFloat32", "GreatestPosition"]
SHARED += ["NearZero", "MidpointFloat32", "MidpointBfloat16", "MidpointFloat16", "OtherBase"]

NOTES = {name: notes.NOTES[name] for name in SHARED} | {
    "SinglePair": note("a formula divides by d - 2, or by pairs - 1", "NaN or an exception at two channels"),
    "FractionalPosition": note("float positions are truncated", "interpolated positions collide"),
    "Table": note(
        "a table over a whole range is wrong in single rows, or is the table of an earlier call",
        "answers depend on what was asked before",
        "lucidrains/rotary-embedding-torch/issues/11",
    ),
    "PartialWidth": note(
        "exponents are over the head's width instead of the rotary one, or every channel turns",
        "quality falls with the length of the context",
        "pie-project/pie/pull/603",
        "vllm-project/vllm/pull/43770",
        "AI-Hypercomputer/maxtext/issues/4616",
    ),
    "StillPairs": note(
        "a proportional rotation is taken for a partial one, or still pairs for the last channels of the head",
        "wrong partners, and exponents over another width",
        "zml/zml/pull/660",
        "labscommunity/cascadia/pull/69",
    ),
    "Direction": note("the angle's sign is not read", "cached keys turn the wrong way"),
    "LinearFactor": note(
        "the factor of position interpolation is parsed, and never used",
        "positions look larger by the factor",
        "lablup/mlxcel/issues/1340",
    ),
    "NtkExponent": note(
        "the base is multiplied by the factor without the exponent d / (d - 2), or frequencies are divided by it",
        "every frequency is off",
        "huggingface/diffusers/blob/main/src/diffusers/models/embeddings.py",
    ),
    "DynamicLength": note(
        "the base does not depend on the length, or on the longest one seen",
        "short prompts answer differently after long ones",
        "vllm-project/vllm/issues/41236",
        "huggingface/transformers/issues/25306",
        "InternLM/lmdeploy/issues/536",
    ),
    "DynamicBelow": note(
        "the rule is applied below the original length, where it shrinks the base, or a long call leaves its traces",
        "short prompts are encoded otherwise than in training",
        "theroyallab/tabbyAPI/pull/18",
        "huggingface/transformers/issues/25306",
    ),
    "YarnRamp": note(
        "the ramp is linear in turns, blends wavelengths, has its ends exchanged, or scales inside the power",
        "frequencies within the ramp are off by a factor of up to three",
        "apache/tvm/pull/18576",
        "jquesnelle/yarn/issues/24",
        "pytorch/torchtitan/pull/3787",
    ),
    "YarnTruncate": note(
        "the ends of the ramp are not rounded to integers",
        "frequencies within the ramp are off",
        "keras-team/keras-hub/pull/2981",
    ),
    "YarnNoTruncate": note(
        "the ends of the ramp are rounded to integers where truncate is false",
        "gpt-oss answers worse",
        "vllm-project/vllm/pull/28244",
    ),
    "YarnHighClamp": note(
        "the ramp's upper end is clamped to the last pair instead of d - 1, or the original length cut to 16 bits",
        "the last pairs are interpolated in full",
        "jingyaogong/minimind/issues/602",
        "panbanda/higgs/pull/31",
    ),
    "YarnLowClamp": note("the lower end of the ramp is not clamped to 0", "the first pairs are interpolated"),
    "YarnEqualBetas": note(
        "a ramp of width 0 divides by zero, or gets another width than 1/1000", "NaN, or another step"
    ),
    "YarnPaperRamp": note(
        "the ramp is that of the published code", "frequencies within the ramp are off", "jquesnelle/yarn/issues/24"
    ),
    "YarnMagnitude": note(
        "the magnitude is missing, squared, or multiplies only one of cosine and sine",
        "logits are off by a constant factor",
        "ml-explore/mlx-lm/pull/1507",
        "ggml-org/llama.cpp/pull/17945",
    ),
    "MagnitudeRatio": note(
        "mscale or mscale_all_dim is not read",
        "logits are off by a constant factor",
        "turboderp-org/exllamav3/issues/259",
    ),
    "MagnitudeDeepseek": note("an absent mscale_all_dim makes mscale count for nothing", "1.3689 instead of 1.2608"),
    "MagnitudeTransformers": note("mscale counts although mscale_all_dim is absent", "1.2608 instead of 1.3689"),
    "AttentionFactor": note(
        "attention_factor is not read",
        "a magnitude of 1.4159 where the configuration asks for 1",
        "vllm-project/vllm/pull/46280",
        "ml-explore/mlx-lm/pull/1507",
    ),
    "AttentionProduct": note(
        "attention_factor replaces the magnitude that it should multiply",
        "logits are off by a constant factor",
        "ggml-org/llama.cpp/pull/17945",
    ),
    "FactorOne": note("a magnitude other than 1 where nothing is extended", "logits are off by a constant factor"),
    "LongRopeShort": note(
        "the long factors serve every length",
        "short prompts are encoded otherwise than in training",
        "ggml-org/llama.cpp/issues/24823",
    ),
    "LongRopeLong": note(
        "the short factors serve every length", "long prompts fall apart", "vllm-project/vllm/pull/27431"
    ),
    "LongRopeSwitch": note(
        "the long factors begin at the original length instead of one past it",
        "wrong at one length",
        "unslothai/unsloth/pull/10681",
    ),
    "LongRopeMagnitude": note("the magnitude is that of YaRN, or missing, or of the other list", "logits are off"),
    "Llama3Bands": note(
        "the scaling is not applied, or kept and divided bands are exchanged",
        "plausible up to some hundred tokens",
        "huggingface/transformers/pull/32330",
        "chrishayuk/larql/pull/407",
    ),
    "Llama3Blend": note(
        "between the bands, wavelengths are blended instead of frequencies, or nothing is",
        "a few pairs turn at another speed",
        "sbryngelson/ANEForge/pull/58",
    ),
    "Llama3Factor": note(
        "the factor is 8 whatever the configuration says",
        "degradation around 80,000 tokens",
        "meta-llama/llama-models/issues/241",
    ),
    "Half": note(
        "pairs are neighbours where they stand half a head apart",
        "text from the first token on; position 0 hides it",
        "huggingface/transformers/issues/25199",
        "warpfront/hipfire/pull/241",
        "NeuraLegion/shainet/pull/111",
    ),
    "Interleaved": note(
        "pairs stand half a head apart where they are neighbours, or have the table of the other layout",
        "text from the first token on; position 0 hides it",
        "vllm-project/vllm/issues/49290",
        "huggingface/transformers/pull/47403",
    ),
    "InterleavedToHalf": note(
        "channels are not reordered, or are reordered twice",
        "queries and keys agree with one another, and not with cached keys",
        "ml-explore/mlx-lm/pull/512",
    ),
    "HeadAxis": note(
        "the axis of the heads is taken for that of the positions",
        "every head turns by its own index",
        "facebookresearch/xformers/issues/841",
    ),
    "NoHeadAxis": note("an axis of heads is assumed where there is none", "batch rows turn by their index"),
    "EqualSizes": note(
        "a table is broadcast along the wrong axis where sizes happen to agree",
        "silent, and only at some shapes",
        "Blaizzy/mlx-vlm/pull/1883",
        "KasperGroesLudvigsen/influenza_transformer/issues/9",
    ),
    "OwnPositions": note(
        "positions of the first batch row serve every row",
        "padded and cached rows turn as if they began at 0",
        "unslothai/unsloth/issues/3699",
    ),
    "OnePosition": note(
        "the kernel for a single position reads the wrong rows, or the position is one off",
        "right in prefill, wrong from the first generated token on",
        "ml-explore/mlx/issues/3795",
        "microsoft/onnxruntime-genai/pull/2354",
    ),
    "GroupedKeys": note("keys are taken to have as many heads as queries", "wrong, or a crash, with grouped keys"),
    "WideHead": note(
        "channels past the largest power of two are not turned",
        "silent at widths such as 80 and 96",
        "ModelTC/LightLLM/issues/1459",
    ),
    "OddHeadDim": note("a head of odd width is split in the middle", "an exception or shifted channels"),
    "PassThrough": note(
        "channels outside the rotary width are turned by an angle of 0, or not returned",
        "the sign of a zero is lost; infinities become NaN",
        "labscommunity/cascadia/pull/69",
    ),
    "TableShape": note(
        "a table without batch axis, or of one row, is not broadcast", "an exception, or one row for all"
    ),
    "TableDtype": note(
        "the table is rounded to the format of x, or x to that of the table", "as coarse as the coarser one"
    ),
    "NarrowArithmetic": note(
        "products are taken in bfloat16 or float16",
        "errors of several units",
        "mlc-ai/mlc-llm/pull/2449",
        "huggingface/transformers/pull/29285",
    ),
    "Rerotation": note(
        "cached keys are moved by the head's width instead of the rotary one, or get the magnitude twice",
        "text falls apart after a context shift",
        "ggml-org/llama.cpp/pull/4889",
        "ggml-org/llama.cpp/pull/17945",
    ),
}
