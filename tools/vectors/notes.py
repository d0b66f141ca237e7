"""What the vector file says about itself, and what each of its flags hunts."""

FILE = (
    "The file: `schema` is the version of its layout, `version` that of the vectors, `family` and `license` are "
    "theirs, `about` is this text; `counts` says how many `groups`, `cases` and `values` there are. `notes` has for "
    "every flag the mistake that it hunts (`bugType`), what comes of it (`effect`) and reports of it (`links`)."
)


def group(documented: str, more: str = "") -> str:
    """The sentence on what every group and every case has."""
    return (
        f"A group has a `kind`, a name (`variant`), a specification (`spec`: every field of posenc's canonical JSON; "
        f"{documented} documents them), `sources`, which are the papers and the code that its numbers follow, and "
        f"`cases`{more}. A case has an `id`, which is never reused, and `flags`, which are explained in `notes`."
    )


PATTERNS = (
    "`float64`, `float32`, `bfloat16`, `float16`: bit patterns in these formats, hexadecimal, most significant digit "
    "first."
)
DTYPES = "`dtypes`: the formats in which a group should be asked (all four where it does not say)."
TIER = "`tier`: 1, a minimum for variants that compile for seconds; 2, for those that compile quickly; 3, the rest."
PHASES = (
    "kind phase: the upper 96 bits of the 128-bit phase of each pair of `pairs`, in fractions of a turn, as posenc's "
    "PhasePlan defines it: `words` has 24 hexadecimal digits a pair. They are the same integers everywhere."
)
POSITIONS = [
    "`position_dtype`: `integer`, or the float format of the positions, which are then hexadecimal floats and mean "
    "exactly the number they are; `position_decimal` is that number in decimal digits.",
    "`range` of a group: [start, stop, step]; an implementation should be asked for the whole range in one call, and "
    "judged on the rows of the cases.",
]
PARAMETERS = "A float parameter means the shortest decimal that names it."


def bounds(magnitude: str) -> str:
    """The sentence on how far from the true value an answer may be."""
    return (
        "At integer positions an implementation on the host should give these very bits in float32, bfloat16 and "
        "float16, and in float64 be within 4 units in the last place plus 2^-62; at float positions, within half a "
        f"unit plus 2^-48 * m, where m is {magnitude}. One in float32 arithmetic, as in a trace or on an accelerator, "
        "should be within 2^-23 * m at integer positions and 2^-22 * m at float ones, plus half a unit of a narrower "
        "format."
    )


ABOUT = [
    "Vectors of sinusoidal positional encodings, for implementations in any language. They are in the public domain.",
    FILE,
    group("posenc.Sinusoidal"),
    "kind encode: the encoding of `position` in each channel of `channels`: its true value in 40 significant digits "
    "(`decimal`), and its correctly rounded bit pattern in four formats.",
    PATTERNS,
    PHASES,
    "kind add: `x` (row-major decimals, exact in all four formats) of `shape` plus its encoding, which is rounded to "
    "float32 (float64 for float64) first; the sum is rounded once. `decimal` is x plus the true encoding. Without "
    "`positions` the position is the index in the last axis but one; given ones, row-major `values` of a `shape`, "
    "broadcast against shape[:-1].",
    bounds("the output scale") + " A sum may be off by half a unit of itself in float32 (float64) more.",
    *POSITIONS,
    TIER,
    "`constructor`: the named convention of posenc (`name`, with `arguments`) that must give this very specification.",
    PARAMETERS,
]


def note(bug: str, effect: str, *links: str) -> dict[str, object]:
    return {"bugType": bug, "effect": effect, "links": [f"https://github.com/{link}" for link in links]}


NOTES = {
    "PaperDenominator": note(
        "the exponent's denominator is dim/2 - 1 where the specification says dim/2",
        "all but the first pair have another frequency",
        "kohya-ss/sd-scripts/pull/1187",
        "huggingface/diffusers/pull/12791",
    ),
    "CodeDenominator": note(
        "the exponent's denominator is dim/2 where the specification says dim/2 - 1",
        "all but the first pair have another frequency",
        "hojonathanho/diffusion/issues/15",
        "tensorflow/tensor2tensor/pull/177",
    ),
    "FractionalShift": note(
        "the denominator's shift is truncated to an integer", "all but the first pair have another frequency"
    ),
    "Interleaved": note(
        "channels are all sines, then all cosines, instead of interleaved",
        "a permutation of the channels, which trained weights do not forgive",
        "tatp22/multidim-positional-encoding/issues/20",
        "wenet-e2e/wenet/pull/2141",
    ),
    "SinesFirst": note(
        "channels are interleaved instead of all sines, then all cosines",
        "a permutation of the channels",
        "facebookresearch/fairseq/issues/4648",
        "allenai/allennlp/issues/2993",
    ),
    "CosinesFirst": note(
        "sines and cosines are exchanged",
        "the model receives another embedding; nothing fails",
        "flashinfer-ai/flashinfer/pull/3819",
        "huggingface/diffusers/issues/3981",
    ),
    "SinglePair": note("division by zero where there is one pair", "NaN or an exception at two channels"),
    "OddWidth": note(
        "the zero channel of an odd width is missing or misplaced",
        "an exception or shifted channels",
        "codertimo/BERT-pytorch/issues/78",
        "gc-os-ai/pyaptamer/issues/607",
    ),
    "OtherBase": note(
        "the base is not read and 10,000 used",
        "short inputs look plausible, long ones do not",
        "huggingface/candle/pull/3746",
        "meta-pytorch/torchtune/issues/1341",
    ),
    "TimescaleRule": note(
        "frequencies are divided by min_timescale where the published code multiplies, or the reverse",
        "every frequency is off by min_timescale squared; invisible at 1",
    ),
    "PositionOffset": note(
        "the first token does not stand in row padding_idx + 1, or an offset is applied twice or not at all",
        "every row is another row",
        "facebookresearch/fairseq/issues/123",
        "huggingface/transformers/issues/20761",
    ),
    "PaddingRow": note(
        "the row of padding tokens is not zero, or the wrong row is zero",
        "padding carries a position",
        "jadore801120/attention-is-all-you-need-pytorch/issues/99",
        "takase/control-length/issues/7",
    ),
    "PositionScale": note(
        "the scale of the positions is dropped or rounded to the output's format",
        "timesteps from 0 to 1 are all alike",
        "modelscope/DiffSynth-Studio/pull/1025",
    ),
    "OutputScale": note(
        "the scale of the output is dropped or applied twice",
        "norms are off",
        "nicklashansen/dreamer4/pull/4",
    ),
    "FractionalPosition": note(
        "a float timestep is truncated, or cast to a narrower format",
        "998.39 becomes 1000 in bfloat16: an error of 1.6 radians",
        "modelscope/DiffSynth-Studio/pull/1025",
    ),
    "NegativePosition": note(
        "negative positions are clamped, wrapped, or read as unsigned",
        "the sign of the sines is lost",
        "microsoft/onnxruntime/pull/27597",
    ),
    "PastBfloat16": note(
        "positions pass through bfloat16, which holds integers exactly up to 256",
        "neighbours collide",
        "huggingface/transformers/issues/28685",
        "EleutherAI/gpt-neox/pull/1016",
    ),
    "PastFloat16": note(
        "positions pass through float16 or TF32, which hold integers exactly up to 2,048",
        "neighbours collide",
        "NVIDIA/Megatron-LM/issues/535",
        "huggingface/transformers/issues/48428",
    ),
    "LongContext": note(
        "position times frequency is rounded to float32",
        "a phase error of position * 2^-24 radians",
        "Modalities/modalities/pull/462",
    ),
    "PastFloat32": note(
        "positions pass through float32, which holds integers exactly up to 2^24",
        "neighbours collide",
        "HorizonRobotics/alf/pull/268",
    ),
    "GreatestPosition": note("an intermediate product overflows", "wrong at the ends of the 32-bit range only"),
    "NearZero": note(
        "the phase has too few bits: float64 products, or fixed-point phases of 64 or 96 bits",
        "values next to zero have no correct digit, and round wrongly",
    ),
    "MidpointFloat32": note(
        "a float64 value is rounded to float32 unchecked",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "MidpointBfloat16": note(
        "a float64 value is rounded to bfloat16 unchecked",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "MidpointFloat16": note(
        "a float64 value is rounded to float16 unchecked, or subnormals are mishandled",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "DoubleRounding": note(
        "a value reaches bfloat16 or float16 through float32 and is rounded twice",
        "one unit off where float32 lands on a rounding boundary of the narrow format",
    ),
    "Table": note(
        "a table over a whole range is wrong in single rows, or is the table of an earlier call",
        "answers depend on what was asked before",
        "lucidrains/rotary-embedding-torch/issues/11",
        "huggingface/transformers/issues/25306",
    ),
    "BatchAxis": note(
        "the batch axis is taken for the sequence axis",
        "all positions of a sequence have the encoding of the batch index",
        "Lightning-AI/pytorch-lightning/pull/20203",
        "KasperGroesLudvigsen/influenza_transformer/issues/9",
    ),
    "OwnPositions": note(
        "positions per batch row are ignored",
        "padded and cached rows are encoded as if they began at 0",
        "unslothai/unsloth/issues/3699",
    ),
    "OneRounding": note(
        "the sum is rounded to float32 and then to the narrow format",
        "one unit off where the float32 sum is a midpoint of the narrow format",
    ),
}
