"""What the vector files of biases and relative tables say about themselves, and what each of their flags hunts."""

from vectors.notes import DTYPES, FILE, PARAMETERS, PATTERNS, TIER, group, note
from vectors.notes import NOTES as SHARED

CONSTRUCTOR = (
    "`constructor`: the method of the class (`name`, with `arguments`) that must give this very specification."
)
COMMON = [
    FILE,
    group("the class that it names"),
    "Every case is one question: `query` and `key` are positions, row-major `values` of `shape` (`(*B, length)`, or "
    "`(*B, length, axes)`), or a `range` [start, stop, step]; leading axes are the same, or 1, or one side has none. "
    "`shape` is that of the whole answer.",
    PATTERNS,
    DTYPES,
    TIER,
]
ROWS = (
    "kind rows: `(*B, Q, K)` integers (`rows`), the row of a table that each pair reads; -1 where it has none. All of "
    "them are given; they are the same integers everywhere."
)
OUTSIDE = (
    "`outside`: true where a pair has no row and that is a mistake: positions on the host are refused; what is given "
    "is the answer where values cannot be looked at, in a trace or on an accelerator."
)
WEIGHTS = (
    "kind bias: `(*B, heads, Q, K)` numbers of `weights`, which has `numerators` * 2^-`power` in rows of `shape`, "
    "exact in its `dtype`: each is rounded once to the format of the answer, and all bit patterns are given; "
    "`nan` is any NaN. They are these very bits everywhere, in a trace and on an accelerator, too."
)
SLOPES = (
    "kind bias: `(*B, heads, Q, K)` slopes times integers: of each entry of `entries` (flat indices; without it, of "
    "all) the true value in 40 significant digits (`decimal`), and its correctly rounded bit pattern in four formats."
)
BOUNDS = (
    "An implementation on the host should give these very bits in float32, bfloat16 and float16, and in float64 be "
    "within one unit in the last place. One that rounds slope and product to float32, as in a trace or on an "
    "accelerator, should be within 2^-22 of the value, plus half a unit of a narrower format; in float32 distance 1 is "
    "then the slope itself, correctly rounded. Distance 0 is +0.0 everywhere."
)

ALIBI_ABOUT = [
    "Vectors of ALiBi, for implementations in any language. They are in the public domain.",
    SLOPES,
    BOUNDS,
    *COMMON,
    CONSTRUCTOR,
    PARAMETERS,
]
T5_ABOUT = [
    "Vectors of T5's relative attention bias, for implementations in any language. They are in the public domain.",
    ROWS,
    WEIGHTS,
    *COMMON,
]
RELATIVE_ABOUT = [
    "Vectors of relative tables (Swin, Shaw, DeBERTa, Transformer-XL and its kin, Music Transformer), for "
    "implementations in any language. They are in the public domain.",
    ROWS,
    WEIGHTS,
    OUTSIDE,
    *COMMON,
    CONSTRUCTOR,
]

POSITIONS = {name: SHARED[name] for name in ("PastBfloat16", "PastFloat16", "PastFloat32", "GreatestPosition")}
POSITIONS |= {
    "NegativePosition": note(
        "positions before 0 are clamped, wrapped, or read as unsigned",
        "pairs of which one stands before 0 are taken to be nearer, or farther, than they are",
    ),
    "LongContext": note("distances pass through a format of 16 bits", "neighbours collide"),
    "OwnPositions": note(
        "positions of a batch row are ignored, or those of the first row stand for all",
        "padded, packed and cached rows are biased as if they began at 0",
        "NVIDIA/TensorRT-LLM/pull/13870",
    ),
    "Shape": note("leading axes of queries and keys are exchanged or dropped", "another row's bias"),
    "Progression": note(
        "equal distances are computed once and copied along the wrong diagonal",
        "right on short or square inputs that begin at 0 in both, wrong elsewhere",
    ),
    "Decode": note(
        "one query is taken for the first of a sequence, or gets no bias at all",
        "right in training, wrong with a cache",
        "NVIDIA/TensorRT-LLM/pull/13870",
        "vllm-project/vllm/pull/945",
    ),
}

ALIBI_NOTES = POSITIONS | {
    "Slopes": note(
        "the exponents of the slopes begin at 0, or those of another rank are taken",
        "every head attends as another one should",
        "paiml/aprender/pull/2143",
        "bigscience-workshop/Megatron-DeepSpeed/issues/227",
        "flashinfer-ai/flashinfer/issues/1606",
    ),
    "HeadSplit": note(
        "2^(-8h/n) where n is no power of two, or the slopes of the next one cut off",
        "all slopes are off, by up to five times; 8, 16 and 32 heads do not show it",
        "ml-explore/mlx/pull/3071",
        "huggingface/transformers/pull/28380",
        "baichuan-inc/Baichuan2/issues/225",
    ),
    "MaxBias": note("the greatest exponent is not read and 8 used", "all slopes are off"),
    "RationalSlope": note(
        "a slope that is a power of two is computed as if it were none", "ties are broken by an error of 2^-53"
    ),
    "Causal": note(
        "query minus key where the form says key minus query",
        "far keys get more weight than near ones",
        "meta-pytorch/attention-gym/pull/86",
    ),
    "Symmetric": note(
        "keys ahead of the query get a bonus", "attention in both directions sees one", "ml-explore/mlx/pull/3071"
    ),
    "Anchored": note(
        "the bias is counted from the query where the form counts from position 0, or the reverse",
        "a constant a row, which softmax hides and rounding does not",
        "mosaicml/llm-foundry/issues/186",
    ),
    "Anchor": note(
        "the bias at the query itself is not 0: the length is taken for the last position",
        "a constant a row",
        "vllm-project/vllm/pull/945",
    ),
    "ZeroSign": note("distance 0 gives -0.0", "bits differ where values are equal"),
    "FarApart": note("a difference of 33 bits overflows, or passes through float32", "far keys get a bonus"),
    "Collide": note(
        "slopes, distances or their product are computed in the output's half precision",
        "neighbouring keys get the same bias, or slopes are off in the third digit",
        "bigscience-workshop/Megatron-DeepSpeed/pull/101",
        "Dao-AILab/flash-attention/issues/845",
    ),
    "Tie": note("a tie is rounded away from zero, or to zero", "one unit off"),
    "Overflow": note(
        "what is beyond the greatest float16 is clamped, or rounded to it", "finite where rounding gives an infinity"
    ),
    "Underflow": note("small products are flushed to zero, or lose their sign", "wrong in float16 only"),
    "MidpointFloat32": note(
        "slope times distance is computed in float32 or float64 and rounded unchecked",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "MidpointBfloat16": note(
        "a float64 product is rounded to bfloat16 unchecked",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "MidpointFloat16": note(
        "a float64 product is rounded to float16 unchecked",
        "one unit off where float64 cannot tell the side of a rounding boundary",
    ),
    "DoubleRounding": note(
        "a product reaches bfloat16 or float16 through float32 and is rounded twice",
        "one unit off where float32 lands on a rounding boundary of the narrow format",
    ),
}

HEAD_ORDER = note(
    "weights are read as (heads, rows), or those of another rank's heads are taken",
    "every head has another's numbers",
    "OpenNMT/CTranslate2/pull/1714",
)

T5_NOTES = POSITIONS | {
    "Bidirectional": note(
        "the flag is not read, or its halves are exchanged",
        "keys ahead share the buckets of those behind",
        "ml-explore/mlx-examples/pull/113",
    ),
    "Causal": note(
        "keys ahead of the query are not in bucket 0, or the buckets are halved",
        "half of the table is never read",
        "lucidrains/x-transformers/pull/10",
    ),
    "Sign": note(
        "query minus key where it is key minus query",
        "the future has the past's bias",
        "dmlc/gluon-nlp/pull/1470",
        "lucidrains/x-transformers/pull/10",
    ),
    "Tie": note(
        "the logarithm is one unit too small, or rounded where it is truncated",
        "distances that begin a bucket are in the one below: 16, 32 and 64 of the usual ones",
        "ml-explore/mlx-examples/pull/113",
    ),
    "LastBucket": note(
        "far distances are not limited to the last bucket",
        "an index past the table, or the other half of it",
        "huggingface/candle/pull/1312",
    ),
    "Float64Bucket": note("logarithms are in float64", "11 distances in five configurations are one bucket too low"),
    "Float32Bucket": note(
        "logarithms are those of another library's float32", "single distances are one bucket too low"
    ),
    "Epsilon": note(
        "2^-23 is added in the logarithm, or is not", "distances just below a boundary are in the bucket above it"
    ),
    "Buckets": note(
        "half of the buckets is rounded the wrong way, or a bucket that no distance reaches shifts the others",
        "wrong for odd, few or many buckets",
    ),
    "HeadOrder": HEAD_ORDER,
    "WeightDtype": note("the answer has the dtype of the weights", "another dtype than was asked for"),
    "OneRounding": note(
        "weights reach the output's format through float32", "one unit off where float32 lands on a rounding boundary"
    ),
    "Overflow": note("weights beyond float16 are clamped", "finite where rounding gives an infinity"),
}

RELATIVE_NOTES = {name: text for name, text in POSITIONS.items() if name != "Decode"} | {
    "Bijection": note(
        "two offsets share a row, or one has two: a wrong radix, or sides exchanged",
        "a table that is partly unused",
        "282857341/nnFormer/issues/46",
        "LitingLin/SwinTrack/issues/25",
    ),
    "NotSquare": note("the radix is that of the other axis", "right on square windows"),
    "ThreeAxes": note(
        "the first axis has the radix of two axes", "rows past the table, or shared", "282857341/nnFormer/issues/46"
    ),
    "Moved": note("the index is one of places in a fixed window", "wrong for coordinates that do not begin at 0"),
    "OutsideWindow": note(
        "pairs that are in no common window read the row of other ones", "a wrong bias where there should be an error"
    ),
    "HeadOrder": HEAD_ORDER,
    "Sign": note("query minus key where it is key minus query, or the reverse", "the future has the past's embeddings"),
    "Clip": note("far distances wrap or are not limited", "an index past the table"),
    "Asymmetric": note("one limit is used on both sides", "rows are shifted by the difference"),
    "Clamped": note(
        "distances beyond the greatest are not limited, as in the deployed code", "row 0 where it is row 1"
    ),
    "Deployed": note(
        "distances beyond the greatest are limited, which the deployed code does not", "row 1 where it is row 0"
    ),
    "Ceiling": note(
        "the logarithm is truncated, or computed in floating point: the greatest distance is a tie",
        "far distances are one row off",
    ),
    "Shift": note(
        "the shifted matrix loses its last row in place of its first, or is computed for one direction",
        "every distance is off by one, or wrong above the diagonal",
        "labmlai/annotated_deep_learning_paper_implementations/issues/185",
        "ZhengkunTian/OpenTransformer/issues/25",
    ),
    "Memory": note(
        "the length of the memory is left out of the longest distance",
        "every distance is off by the memory",
        "TensorSpeech/TensorFlowASR/issues/161",
    ),
    "BothDirections": note(
        "keys ahead have no distances of their own, or those of keys behind",
        "the upper triangle is wrong, the lower one is right",
        "ZhengkunTian/OpenTransformer/issues/25",
        "wenet-e2e/wenet/issues/1611",
    ),
    "Triangle": note(
        "what a shift leaves above the diagonal is taken for rows", "masked values look valid, and are another row's"
    ),
    "NoRow": note("distances beyond the table wrap or are limited", "far keys read rows of near ones"),
    "Skew": note("the table is read from its other end", "near and far are exchanged"),
}
