"""What the vectors of learned tables say about themselves, and what each of their flags hunts."""

from vectors import notes
from vectors.notes import note

ABOUT = [
    "Vectors of learned position tables: rows that are looked up, and tables that are resized; for implementations in "
    "any language. They are in the public domain.",
    notes.FILE,
    notes.group("posenc.Learned", ", each of which is one call"),
    "`weights`: a table of `shape`, the numbers `numerators` * 2^-`power`, row-major, exact in every format of "
    "`dtypes`.",
    "`positions`: row-major integers (`values`) of a `shape`, or a `range` [start, stop, step]. `shape` is that of the "
    "answer.",
    notes.PATTERNS,
    "kind lookup: the rows that `positions` read, as bit patterns in four formats. Position p reads row p + offset; "
    "with a scale the product is taken in float32 (float64 for float64), the scale rounded to it, and rounded once to "
    "the format.",
    "`outside`: true where a position has no row. An implementation that can should refuse such a call; one that "
    "cannot, as on an accelerator, should answer NaN (`nan`) in every channel of that row, and the others as usual.",
    "kind resize: the table after its grid was resized to `target` by `method`; posenc.spec.resampling says what each "
    "method equals. `decimal` is the result of exact rational weights, in 40 significant digits. The bit patterns are "
    "those of float64 arithmetic: the weights rounded to float64, one axis after the other, the first one first, each "
    "product and each sum rounded, taps in ascending order, and one rounding to the format at the end.",
    "A resized table in float32 arithmetic should be within n * 2^-22 (in float64 arithmetic of another order, within "
    "n * 2^-51) of the largest number of the channel, where n is the greatest size of grid or target, and half a unit "
    "of a narrower format. Rows before the grid are copied, and rows that are looked up are these very bits "
    "everywhere.",
    notes.DTYPES,
    notes.TIER,
    "`constructor`: the method of posenc.Learned (`name`, with `arguments`) that must give this specification.",
    notes.PARAMETERS,
]

_METHODS = {
    "TorchBilinear": ("lines between half-pixel centres, the edge repeated", "corners, or another kernel"),
    "TorchBilinearAlignCorners": ("align_corners=True", "half-pixel centres"),
    "TorchBilinearAntialias": ("antialias=True, which stretches the kernel where the grid shrinks", "no antialias"),
    "TorchBilinearAntialiasAlignCorners": ("antialias and align_corners together", "one of the two"),
    "TorchBicubic": ("a = -0.75, the edge repeated", "a = -0.5, renormalised edges, or antialias"),
    "TorchBicubicAlignCorners": ("a = -0.75 and align_corners=True", "half-pixel centres"),
    "TorchBicubicAntialias": ("a = -0.5, as antialias has it in PyTorch", "a = -0.75, or no antialias"),
    "TorchBicubicAntialiasAlignCorners": ("antialias and align_corners together", "one of the two"),
    "JaxLinear": ("antialias, which is JAX's default", "no antialias"),
    "JaxLinearNoAntialias": ("no antialias", "antialias"),
    "JaxCubic": ("a = -0.5 and antialias", "a = -0.75, or no antialias"),
    "JaxCubicNoAntialias": ("a = -0.5, weights beyond the edge dropped", "PyTorch's kernel and edges"),
    "TfBilinear": ("no antialias", "antialias, or corners"),
    "TfBilinearAntialias": ("antialias", "no antialias"),
    "TfBicubic": ("a kernel read from a table of 1,024 entries a unit", "the kernel itself"),
    "TfBicubicAntialias": ("a = -0.5 and antialias", "the table, or PyTorch's kernel"),
    "DinoBicubic": ("the ratio is n / (m + 0.1)", "n / m"),
}
_LINKS = {
    "TorchBilinearAlignCorners": ["facebookresearch/dinov2/issues/468"],
    "TorchBicubicAlignCorners": ["facebookresearch/dinov2/issues/468"],
    "TorchBilinearAntialias": ["openvinotoolkit/openvino.genai/pull/4444"],
    "TorchBicubicAntialias": ["openvinotoolkit/openvino.genai/pull/4444"],
    "DinoBicubic": ["facebookresearch/dino/issues/8"],
}

NOTES = {name: notes.NOTES[name] for name in ("PastBfloat16", "PastFloat16", "DoubleRounding")} | {
    "Plain": note("an offset is added where the table has none", "the first token has the second row"),
    "OffsetRows": note(
        "the offset is forgotten, added twice, or not counted among the rows of the table",
        "every token has the row of another one, or the last ones have none",
        "huggingface/transformers/issues/20761",
        "EleutherAI/gpt-neox/pull/650",
        "huggingface/transformers/issues/15292",
        "huggingface/transformers/issues/8077",
        "facebookresearch/fairseq/issues/1497",
    ),
    "PaddingIdx": note(
        "the first token stands in row padding_idx, padding_idx + 2, or 2 whatever padding_idx is",
        "every token has its neighbour's row",
        "facebookresearch/fairseq/issues/123",
        "takase/control-length/issues/7",
        "jadore801120/attention-is-all-you-need-pytorch/issues/99",
    ),
    "PaddingRow": note(
        "the row of padding tokens is not admitted, is read as zeros, or is the last row of the table",
        "an exception, or another number at padding",
    ),
    "NoPaddingRow": note("position -1 reads a row that no position has", "silent, where it is a mistake"),
    "PaddedLeft": note(
        "padding tokens are counted",
        "tokens have later rows than in training; answers depend on the batch",
        "huggingface/transformers/issues/22161",
        "tloen/alpaca-lora/issues/315",
        "huggingface/transformers/issues/29419",
    ),
    "PaddedRight": note(
        "padding tokens are counted, and the next token gets the row of the padded length",
        "tokens have later rows than in training",
        "huggingface/transformers/pull/48161",
    ),
    "Packed": note(
        "positions do not begin again with each document",
        "later documents have later rows",
        "allenai/OLMo-core/pull/591",
        "huggingface/nanoVLM/issues/201",
    ),
    "Gaps": note(
        "positions are taken to be contiguous, or a table to be as long as the call",
        "wrong rows, or an exception",
        "astramind-ai/Mixture-of-depths/issues/8",
        "rajveer43/VeloxQuant-MLX/issues/389",
    ),
    "OwnPositions": note(
        "positions of the first batch row serve every row",
        "padded and cached rows are encoded as if they began at 0",
        "unslothai/unsloth/issues/3699",
    ),
    "EqualSizes": note(
        "positions are read along the wrong axis where sizes agree",
        "silent, at some shapes",
        "Blaizzy/mlx-vlm/pull/1883",
    ),
    "OnePosition": note(
        "the position of a generated token is one off, or begins again at 0",
        "right in prefill, wrong from the first generated token on",
        "microsoft/onnxruntime-genai/pull/2354",
        "OpenNMT/OpenNMT-tf/pull/498",
        "skyzh/tiny-llm/pull/46",
    ),
    "Offset": note(
        "a range is taken to begin at 0, or its rows are those of an earlier call of its length",
        "answers depend on what was asked before",
        "lucidrains/rotary-embedding-torch/issues/11",
        "pytorch/executorch/pull/2010",
    ),
    "Scalar": note("a position without axes is refused, or given one", "an exception, or another shape"),
    "LastPosition": note(
        "the last position is refused, or the token after it asked for",
        "an exception at full length",
        "asyml/texar-pytorch/pull/187",
        "huggingface/transformers/issues/15292",
    ),
    "PastTheEnd": note(
        "a position past the table reads its last row, its first ones, zeros, or what stands behind it in memory",
        "silent, where it is a mistake",
        "pegainfer-project/pegainfer/issues/220",
        "microsoft/onnxruntime/pull/28277",
    ),
    "BelowZero": note(
        "a negative position reads row 0, or counts from the end",
        "silent, where it is a mistake",
        "microsoft/onnxruntime/pull/27597",
    ),
    "FarOutside": note(
        "position plus offset overflows 32 bits, and comes back as a row", "silent, where it is a mistake"
    ),
    "Scale": note(
        "the scale is forgotten, applied twice, or divided by",
        "positions weigh too much or too little beside the tokens",
        "SamLynnEvans/Transformer/issues/10",
        "Kyubyong/transformer/issues/132",
        "nicklashansen/dreamer4/pull/4",
    ),
    "ScaleInFloat32": note(
        "the scale, or the product, is rounded to the narrow format first", "errors of a unit or two"
    ),
    "ClassToken": note(
        "rows of class and register tokens are resampled with the patches, dropped, or read as patches",
        "the class token is a mixture; patches have their neighbour's row",
    ),
    "NotSquare": note(
        "the grid is taken to be square: both axes have the factor or the size of a square root",
        "another size, or a stretched table",
        "facebookresearch/dino/issues/8",
        "facebookresearch/dinov2/issues/506",
    ),
    "Axes": note(
        "height and width are exchanged, in the table or in the target",
        "a transposed table, silent where the sizes multiply to the same",
        "facebookresearch/mae/issues/18",
        "leondgarse/keras_cv_attention_models/issues/26",
    ),
    "Channels": note("channels are taken for an axis of the grid", "rows are mixed with channels"),
    "Up": note("the resized table is not used", "the old rows, zeros, or an exception", "clip-vil/CLIP-ViL/issues/13"),
    "Down": note(
        "antialias is missing where the grid shrinks, or applied where the method has none",
        "differences of the size of the table",
        "openvinotoolkit/openvino.genai/pull/4444",
    ),
    "UpAndDown": note(
        "one factor serves both axes, or antialias is decided for both together",
        "differences of the size of the table",
        "openvinotoolkit/openvino.genai/pull/4444",
    ),
    "Unchanged": note("a table of unchanged shape is resampled", "DINO's has a factor that is not 1"),
    "OneAxisStays": note("an axis that stays is not resampled although its factor is not 1", "DINO's differs"),
    "SameCount": note(
        "a table is returned as it is where the number of patches agrees",
        "rows of another grid",
    ),
    "OneAxis": note("a table of one axis is refused, or taken for a square", "an exception, or another function"),
    "ThreeAxes": note("only two axes are resized", "an exception, or another function"),
    "SizeOne": note("corners of a single output or input divide by zero", "NaN, or zeros"),
    "FactorFloor": note("the size is the floor of n times a rounded factor", "one patch too few"),
    "Digits": note(
        "sums in bfloat16 or float32, fused, or in another order",
        "errors of some units in bfloat16; elsewhere other bits, within the bound",
    ),
}
NOTES |= {
    name: note(
        f"the method's {own} is not followed, but {other}", "another function of the table", *_LINKS.get(name, [])
    )
    for name, (own, other) in _METHODS.items()
}
