"""Which learned tables, positions, shapes and resamplers the vectors hold."""

from __future__ import annotations

from typing import Any

from mpmath import mp

from vectors.learned_book import LearnedBook, counted, make_positions, opt_rows, patches, record
from vectors.resize_conditions import INTERPOLANTS
from vectors.rounding import DIGITS

BERT = "Devlin et al. 2018, arXiv 1810.04805, section 3.2; transformers, models/bert/modeling_bert.py, BertEmbeddings"
GPT2 = "openai/gpt-2, src/model.py, positions_for"
FAIRSEQ = "fairseq/modules/learned_positional_embedding.py; fairseq/utils.py, make_positions"
ROBERTA = "transformers, models/roberta/modeling_roberta.py, create_position_ids_from_input_ids"
OPT = "transformers, models/opt/modeling_opt.py, OPTLearnedPositionalEmbedding"
BART = "transformers, models/bart/modeling_bart.py, BartLearnedPositionalEmbedding"
SCALED = "lucidrains/x-transformers, x_transformers/x_transformers.py, AbsolutePositionalEmbedding"
VIT = "Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.1"

TORCH = "pytorch/pytorch, aten/src/ATen/native/UpSample.h and native/cpu/UpSampleKernel.cpp"
JAX = "jax-ml/jax, jax/_src/image/scale.py, compute_weight_mat"
TF = {
    "tf_bilinear": "tensorflow/tensorflow, core/kernels/image/resize_bilinear_op.cc",
    "tf_bicubic": "tensorflow/tensorflow, core/kernels/image/resize_bicubic_op.cc, GetWeightsAndIndices",
    "tf_bilinear_antialias": "tensorflow/tensorflow, core/kernels/image/scale_and_translate_op.cc",
    "tf_bicubic_antialias": "tensorflow/tensorflow, core/kernels/image/scale_and_translate_op.cc",
}
DINO = "facebookresearch/dinov2, dinov2/models/vision_transformer.py, interpolate_pos_encoding"
KEYS = "Keys 1981, Cubic convolution interpolation for digital image processing, IEEE TASSP 29(6), equation 15"
AFFINE = "the line or cubic through the neighbours, with their slopes"


def compose() -> LearnedBook:
    book = LearnedBook()
    with mp.workdps(DIGITS):
        plain(book)
        padded(book)
        scaled(book)
        for method in INTERPOLANTS:
            grids(book, method)
        roundings(book)
    return book


# --- Lookups ---


def plain(book: LearnedBook) -> None:
    ask = book.lookups("plain", record(8, 2), [BERT, GPT2])
    ask([8], range(8), "Plain")
    ask([], [7], "LastPosition", "Scalar")
    ask([2, 3], [0, 1, 2, 5, 6, 7], "OwnPositions")
    ask([3, 3], [0, 1, 2, 3, 4, 5, 5, 6, 7], "OwnPositions", "EqualSizes")
    ask([1, 8], [0, 1, 2, 0, 1, 0, 1, 2], "Packed")
    ask([3], [0, 3, 7], "Gaps")
    ask([2, 5], [1, 1, 0, 1, 2, 0, 1, 2, 3, 4], "PaddedLeft")
    ask([2, 2, 2], [7, 0, 1, 6, 5, 2, 3, 4], "OwnPositions")
    ask([2, 1], [3, 6], "OnePosition", "OwnPositions")
    ask([4], range(4), "Plain")
    ask([4], range(3, 7), "Offset")
    ask([3], [7, 8, 0], "PastTheEnd")
    ask([3], [0, -1, 1], "BelowZero")
    ask([2], [2**31 - 1, 0], "PastTheEnd", "FarOutside")
    ask([2], [1 - 2**31, 0], "BelowZero", "FarOutside")
    ask = book.lookups("offset", record(4, 2, offset=1), [GPT2, FAIRSEQ])
    ask([4], range(4), "OffsetRows")
    ask([2], [0, -1], "BelowZero", "NoPaddingRow")
    ask = book.lookups("long", record(2100, 2), [BERT, GPT2])
    ask([6], [255, 256, 257, 2047, 2049, 2098], "PastBfloat16", "PastFloat16")
    call = {"constructor": {"name": "patches", "arguments": {"grid": [2, 3], "dim": 2, "tokens": 1}}}
    ask = book.lookups("patches", patches((2, 3), 2, 1), [VIT, DINO], **call)
    ask([7], range(7), "ClassToken")
    ask([2], [6, 7], "PastTheEnd")
    ask = book.lookups("registers", patches((2, 2), 2, 5), [VIT, DINO])
    ask([9], range(9), "ClassToken")


def padded(book: LearnedBook) -> None:
    for pad in (1, 0, 4):
        call: dict[str, Any] = {"name": "fairseq", "arguments": {"length": 6, "dim": 2, "padding_idx": pad}}
        spec, more = record(6, 2, offset=pad + 1, padding="frozen"), {"constructor": call}
        if pad == 1:  # one case with every answer that a trace can give, for variants that compile for seconds
            ask = book.lookups("fairseq", spec, [FAIRSEQ, ROBERTA], tier=1, **more)
            ask([2, 4], [-1, 0, 1, 5, 6, 2**31 - 1, 1 - 2**31, 2], "PastTheEnd", "BelowZero", "FarOutside")
        ask = book.lookups("fairseq", spec, [FAIRSEQ, ROBERTA], **more)
        # the example of facebookresearch/fairseq/issues/123 first, each with a row of another length
        for flag, tokens in (
            ("PaddedLeft", [[pad, pad, 15, 13, 16, 17], [14, 15, 16, 17, 18, 19]]),
            ("PaddedRight", [[15, 13, 16, 17, pad, pad], [14, pad, pad, pad, pad, pad]]),
        ):
            masks = [[int(token != pad) for token in row] for row in tokens]
            rows = list(make_positions(tokens, pad))
            ask([2, 6], counted(masks), flag, "PaddingRow", "PaddingIdx", rows=rows)
        ask([1], [5], "LastPosition", "OffsetRows")
        ask([2], [-1, -2], "BelowZero")
    call = {"name": "roberta", "arguments": {"length": 512, "dim": 2}}
    spec = record(512, 2, offset=2, padding="frozen")
    ask = book.lookups("roberta", spec, [ROBERTA, FAIRSEQ], constructor=call)
    ask([5], [0, 1, 510, 511, -1], "LastPosition", "PaddingRow", "OffsetRows")
    ask([1], [512], "PastTheEnd")
    call = {"name": "opt", "arguments": {"length": 6, "dim": 3}}
    ask = book.lookups("opt", record(6, 3, offset=2, padding="row"), [OPT, FAIRSEQ], constructor=call)
    for flag, masks in (
        ("PaddedLeft", [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]),
        ("PaddedRight", [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]),
    ):
        ask([2, 5], counted(masks), flag, "PaddingRow", "OffsetRows", rows=list(opt_rows(masks)))
    ask = book.lookups("opt", record(6, 3, offset=2, padding="row"), [OPT, FAIRSEQ], constructor=call)
    for past in (3, 5):  # past_key_values_length
        ask([1], [past], "OnePosition", "OffsetRows", *(["LastPosition"] if past == 5 else []), rows=[past + 2])
    ask([2], [-1, -2], "BelowZero")
    ask([2], [5, 6], "PastTheEnd")
    call = {"name": "bart", "arguments": {"length": 6, "dim": 2}}
    ask = book.lookups("bart", record(6, 2, offset=2), [BART, FAIRSEQ], constructor=call)
    ask([2, 4], [*range(2, 6)] * 2, "OffsetRows", "LastPosition", rows=[*range(4, 8)] * 2)
    ask([2], [-1, 0], "BelowZero", "NoPaddingRow")
    ask([2], [5, 6], "PastTheEnd")


def scaled(book: LearnedBook) -> None:
    ask = book.lookups("scale", record(5, 3, output_scale=3**-0.5), [SCALED, BERT], tier=2)
    ask([5], range(5), "Scale")
    for scale, flags in ((0.1, ["Scale", "ScaleInFloat32"]), (512**0.5, ["Scale", "ScaleInFloat32"])):
        ask = book.lookups("scale", record(5, 2, offset=2, padding="row", output_scale=scale), [SCALED, OPT])
        ask([2, 3], [0, 1, 2, -1, 3, 4], *flags)
    for scale in (2.0**-20, 2.0**20):  # past the normal numbers of float16
        more = {"dtypes": ["float64", "float32", "bfloat16"]}
        ask = book.lookups("scale", record(3, 2, offset=1, output_scale=scale), [SCALED, FAIRSEQ], **more)
        ask([3], range(3), "Scale")


# --- Resizing ---


def grids(book: LearnedBook, method: str) -> None:
    library, kind, *options = method.split("_")
    sources = [{"torch": TORCH, "jax": JAX, "dino": DINO}.get(library) or TF[method]]
    sources.append(KEYS if kind in ("cubic", "bicubic") and library != "torch" else AFFINE)
    name = {"torch": "Torch", "jax": "Jax", "tf": "Tf", "dino": "Dino"}[library]
    own = [name + "".join(map(str.capitalize, [kind, *options]))]

    def resize(spec: dict[str, Any], *targets: tuple[tuple[int, ...], list[str]], **more: Any) -> None:
        book.resize(method, spec, sources, [(shape, [*own, *flags]) for shape, flags in targets], **more)

    tier = 1 if method == "torch_bicubic" else 3
    resize(patches((3, 2), 2 if tier < 3 else 1, 1), ((4, 5), ["NotSquare", "ClassToken", "Up"]), tier=tier)
    if method in ("torch_bilinear", "torch_bilinear_antialias", "torch_bicubic_antialias"):
        resize(patches((16, 16), 1, 1), ((5, 20), ["UpAndDown", "Axes", "ClassToken", "Digits"]))
    else:
        resize(patches((8, 6), 1, 1), ((3, 9), ["UpAndDown", "Axes", "ClassToken", "Digits"]))
    resize(patches((5, 4), 2, 5), ((3, 2), ["NotSquare", "ClassToken", "Down", "Channels"]))
    resize(patches((2, 3), 2, 0), ((2, 3), ["Unchanged"]), ((2, 5), ["OneAxisStays"]), ((3, 2), ["SameCount", "Axes"]))
    resize(patches((4, 4), 1, 1), ((2, 8), ["SameCount", "Axes", "UpAndDown"]))
    for n, m in ((14, 24), (37, 16), *(((11, 15), (11, 13)) if "antialias" not in method else ())):
        flags = ["OneAxis", "Up" if m > n else "Down", *(["FactorFloor"] if n == 11 else [])]
        resize(record(n, 1), ((m,), flags))
    resize(patches((1, 4), 1, 0), ((3, 1), ["SizeOne"]), ((1, 1), ["SizeOne"]))
    resize(record(1, 2), ((3,), ["SizeOne", "OneAxis"]))
    resize(record(5, 1, offset=2, padding="row", tokens=1), ((7,), ["OffsetRows", "ClassToken", "OneAxis"]))
    if method in ("torch_bicubic", "jax_linear", "tf_bicubic_antialias"):
        resize(patches((2, 3, 4), 1, 1), ((3, 2, 3), ["ThreeAxes", "Axes"]))


def roundings(book: LearnedBook) -> None:
    """Halfway between two numbers of the narrow format but for what float32 cannot hold beside them."""
    # 3/4 * a + 1/4 * b: the first part is such a midpoint, a tie of which would go the other way than b
    for fmt, odd, power in (("bfloat16", 129, 30), ("float16", 1025, 14)):
        book.resize(
            "torch_bilinear",
            patches((2, 2), 1, 0),
            [TORCH, AFFINE],
            [((4, 2), ["DoubleRounding", "TorchBilinear"])],
            dtypes=["float64", "float32", fmt],
            numerators=[odd << power, odd + 2 << power, -1, 1],
            power=power,
        )
