"""Compare published learned tables, and how they are resized, with posenc.

    python tools/learned_peers.py

Runs in an environment of its own (`make peers`). A row of a table is a copy, and has to be the same, bit for bit, and
so has the gradient that it passes on. A table resized in float32 agrees where every number is within

    n * 2^-22 * max |x|,  n the greatest size of the grid before and after

of the one that posenc has: libraries round the coordinates of the grid in float32. Another resampler is thousands of
times that apart. Printed are how many numbers were compared, how many differ by more, and the worst part of the bound.

What differs has an entry in docs/differences.md, and what has an entry must differ.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="posenc-peers-"))  # Keras writes a file there
os.environ.setdefault("KERAS_BACKEND", "torch")  # loaded anyway
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import torch
from bias_packages import Array, Compare, Pair, Peer, config, model, table, without_torchvision
from bias_peers import report

from posenc import Learned
from posenc.numpy_impl import lookup, resize

HF = "transformers"
DIM = 8
RNG = np.random.default_rng(0)

# --- rows

MASK = np.array([[1] * 9, [0] * 4 + [1] * 5, [1] * 6 + [0] * 3])
"""Tokens that are no padding: none is, on the left, on the right."""
COUNTED = MASK.cumsum(-1) * MASK - 1
"""Positions that count them; -1 at padding."""


def learned(family: str, name: str, spec: Callable[[int, int], Learned]) -> Compare:
    """A module that is called with tokens: of a prompt, and of two tokens behind seven."""

    def compare() -> Iterator[Pair]:
        module = model(family, name)(20, DIM)
        by_shape = "input_ids_shape" in inspect.signature(module.forward).parameters
        for past, length in ((0, 9), (7, 2)):
            tokens = torch.Size((2, length)) if by_shape else torch.zeros(2, length, dtype=torch.long)
            positions = np.arange(past, past + length)[None].repeat(2, 0)
            exact = lookup(spec(20, DIM), table(module), positions)
            yield Pair(module(tokens, past).detach().expand(exact.shape), exact)

    return compare


def opt() -> Iterator[Pair]:
    module = model("opt", "OPTLearnedPositionalEmbedding")(20, DIM)
    yield from _with_gradient(module, module(torch.tensor(MASK)), Learned.opt(20, DIM), COUNTED)
    received = module(torch.ones(1, 9, dtype=torch.long), 7).detach()
    yield Pair(received, lookup(Learned.opt(20, DIM), table(module), np.arange(7, 9)[None]))


def roberta(family: str, owner: str, settings: str, by: str = "") -> Compare:
    """The module's table at the positions that its function counts, where 1 is the padding token."""

    def compare() -> Iterator[Pair]:
        embeddings = model(family, owner)
        options = small(embeddings, settings, max_position_embeddings=22, pad_token_id=1, vocab_size=30)
        module = embeddings(options)
        count = model(family, by) if by else embeddings.create_position_ids_from_input_ids
        arguments = () if by or not _is_method(embeddings) else (module,)
        tokens = torch.tensor(np.where(MASK, 5, 1))
        received = module.position_embeddings(count(*arguments, tokens, 1))
        spec = (
            Learned.roberta(20, DIM)
            if module.position_embeddings.padding_idx == 1
            else Learned(20, DIM, offset=2, padding="row")
        )
        yield from _with_gradient(module.position_embeddings, received, spec, COUNTED)

    return compare


def _is_method(owner: Any) -> bool:
    return not isinstance(inspect.getattr_static(owner, "create_position_ids_from_input_ids"), staticmethod)


def _with_gradient(embedding: Any, received: torch.Tensor, spec: Learned, positions: Array) -> Iterator[Pair]:
    """Rows; then the gradient of their sum: how often each was read, and 0 where it is frozen."""
    yield Pair(received.detach(), lookup(spec, table(embedding), positions))
    received.sum().backward()
    plan = spec.plan()
    read = positions.reshape(-1)
    counts = np.bincount(read[read != plan.frozen_position] + plan.offset, minlength=plan.rows)
    yield Pair(embedding.weight.grad, np.repeat(counts[:, None], DIM, 1))


def bert() -> Iterator[Pair]:
    module = model("bert", "BertEmbeddings")(config("bert", "BertConfig", hidden_size=DIM, max_position_embeddings=20))
    received = module.position_embeddings(module.position_ids[:, :9]).detach()
    yield Pair(received, lookup(Learned(20, DIM), table(module.position_embeddings), np.arange(9)[None]))


def keras_positions() -> Iterator[Pair]:
    from keras_hub.layers import PositionEmbedding

    layer = PositionEmbedding(20, initializer="normal")
    x = torch.zeros(2, 9, DIM)
    layer.build(x.shape)
    weights = np.asarray(layer.position_embeddings.value.detach())
    positions = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 19], range(9)])
    yield Pair(layer(x, start_index=7).detach(), lookup(Learned(20, DIM), weights, np.arange(7, 16)[None].repeat(2, 0)))
    yield Pair(layer(x, positions=torch.tensor(positions)).detach(), lookup(Learned(20, DIM), weights, positions))


def x_positions(dtype: torch.dtype) -> Compare:
    """Rows times dim^-0.5."""

    def compare() -> Iterator[Pair]:
        from ml_dtypes import bfloat16
        from x_transformers.x_transformers import AbsolutePositionalEmbedding

        module = AbsolutePositionalEmbedding(48, 20).to(dtype)
        weights = module.emb.weight.detach().float().numpy().astype(np.float32 if dtype == torch.float32 else bfloat16)
        exact = lookup(Learned(20, 48, output_scale=48**-0.5), weights, np.arange(7, 16))
        yield Pair(module(torch.zeros(1, 9, 48), offset=7).detach().float(), exact.astype(np.float64))

    return compare


# --- resizing

GRID, PATCH = 7, 16
SHAPES = [(7, 7), (5, 9), (14, 14), (24, 24), (3, 3), (8, 7), (49, 1)]


def small(owner: Any, settings: str = "", **options: Any) -> Any:
    """The configuration that a class is annotated with, or named, made small."""
    annotated = inspect.signature(owner.__init__).parameters["config"].annotation
    if settings:
        annotated = getattr(sys.modules[owner.__module__], settings)
    made = annotated()
    options = {"hidden_size": DIM, "image_size": GRID * PATCH, "patch_size": PATCH, "num_attention_heads": 2} | options
    options |= {"use_absolute_position_embeddings": True, "use_absolute_embeddings": True, "embed_dim": DIM}
    for name, value in options.items():
        old = getattr(made, name, None)
        if hasattr(made, name):
            setattr(made, name, [value] * 2 if isinstance(old, list | tuple) and len(old) == 2 else value)
    return made


def resized(
    weights: Array,
    tokens: int,
    method: str,
    make: Callable[[tuple[int, int]], Any],
    *,
    grid: tuple[int, ...] = (GRID, GRID),
    shapes: list[Any] = SHAPES,
) -> Iterator[Pair]:
    spec = Learned.patches(grid, weights.shape[1], tokens=tokens)
    for shape in shapes:
        exact = resize(spec, weights, shape, method=method)
        with torch.no_grad():
            received = np.asarray(make(shape)).reshape(exact.shape)
        yield Pair(received, exact, np.float64(max(*grid, *shape) * 2.0**-22 * np.abs(weights).max()))


def vision(family: str, owner: str, tokens: int = 1, method: str = "torch_bicubic", settings: str = "") -> Compare:
    """`interpolate_pos_encoding` of a module made from a small configuration."""

    def compare() -> Iterator[Pair]:
        cls = model(family, owner)
        module = cls(small(cls, settings))
        held = getattr(module, "position_embeddings", None)
        held = module.position_embedding if held is None else held
        held = torch.nn.init.normal_(held.weight if isinstance(held, torch.nn.Embedding) else held)
        weights = held.detach().numpy().reshape(-1, DIM)

        def make(shape: tuple[int, int]) -> Any:
            patches = torch.zeros(1, tokens + shape[0] * shape[1], DIM)
            return module.interpolate_pos_encoding(patches, shape[0] * PATCH, shape[1] * PATCH)

        yield from resized(weights, tokens, method, make)

    return compare


def random(rows: int) -> Array:
    return RNG.normal(size=(rows, DIM)).astype(np.float32)


def held(
    family: str,
    name: str,
    tokens: int,
    method: str,
    make: Callable[[Any, torch.Tensor], Callable[..., Any]],
    shapes: list[Any] = SHAPES,
) -> Compare:
    """A function or method that is handed a table: `make` of it and the table, called with a shape."""

    def compare() -> Iterator[Pair]:
        weights = random(tokens + GRID**2)
        owner, _, attribute = name.partition(".")
        function = getattr(model(family, owner), attribute) if attribute else model(family, owner)
        yield from resized(weights, tokens, method, make(function, torch.tensor(weights)[None]), shapes=shapes)

    return compare


def siglip2(function: Any, weights: torch.Tensor) -> Callable[..., Any]:
    grid = weights.reshape(GRID, GRID, DIM)
    return lambda shape: function(grid, torch.tensor([shape]), shape[0] * shape[1])


def sam(function: Any, weights: torch.Tensor) -> Callable[..., Any]:
    place = SimpleNamespace(pos_embed=weights.reshape(1, GRID, GRID, DIM))
    return lambda shape: function(place, *shape)


def hiera(function: Any, weights: torch.Tensor) -> Callable[..., Any]:
    place = SimpleNamespace(patch_stride=(PATCH, PATCH))
    return lambda shape: function(
        place, torch.zeros(1, shape[0] * shape[1], DIM), weights, shape[0] * PATCH, shape[1] * PATCH
    )


def radio() -> Iterator[Pair]:
    """Resized to a square, of which an image that is no square takes a corner."""
    cls = model("radio", "RadioPatchEmbeddings")
    weights = random(GRID**2)
    place = SimpleNamespace(position_embedding=torch.tensor(weights)[None], max_rows=GRID, max_cols=GRID)
    for shape in SHAPES:
        side = max(shape)
        square = resize(Learned.patches((GRID, GRID), DIM, tokens=0), weights, (side, side), method="torch_bilinear")
        exact = square.reshape(side, side, DIM)[: shape[0], : shape[1]].reshape(1, -1, DIM)
        received = cls._interpolate_position_embedding(place, shape, torch.float32)
        yield Pair(received, exact, np.float64(max(GRID, side) * 2.0**-22 * np.abs(weights).max()))


def qwen(mode: str, method: str, *, corners: bool) -> Compare:
    """Taps and weights that Qwen3-VL and others gather their table by."""

    def compare() -> Iterator[Pair]:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights as taps

        weights = random(GRID**2)

        def make(shape: tuple[int, int]) -> Any:
            index, factors = taps(
                torch.tensor([[1, *shape]]), GRID, mode=mode, align_corners=corners, spatial_merge_size=1
            )
            return (torch.tensor(weights)[index] * factors[..., None]).sum(-2)

        yield from resized(weights, 0, method, make)

    return compare


def keras_dinov2(*, antialias: bool) -> Compare:
    """On Keras's PyTorch."""

    def compare() -> Iterator[Pair]:
        from keras_hub.src.models.dinov2.dinov2_layers import DINOV2Embedding

        weights = random(1 + GRID**2)

        def make(shape: tuple[int, int]) -> Any:
            return DINOV2Embedding._interpolate_position_embeddings(
                torch.tensor(weights)[None], 14, (GRID * 14, GRID * 14), (shape[0] * 14, shape[1] * 14), antialias
            )

        yield from resized(weights, 1, "torch_bicubic_antialias" if antialias else "torch_bicubic", make)

    return compare


KERAS = {
    "torch": {
        ("bilinear", False): "torch_bilinear",
        ("bilinear", True): "torch_bilinear_antialias",
        ("bicubic", False): "torch_bicubic",
        ("bicubic", True): "torch_bicubic_antialias",
    },
    "jax": {
        ("bilinear", False): "jax_linear_no_antialias",
        ("bilinear", True): "jax_linear",
        ("bicubic", False): "jax_cubic_no_antialias",
        ("bicubic", True): "jax_cubic",
    },
    "tensorflow": {
        ("bilinear", False): "tf_bilinear",
        ("bilinear", True): "tf_bilinear_antialias",
        ("bicubic", False): "tf_bicubic",
        ("bicubic", True): "tf_bicubic_antialias",
    },
}


def keras_resize(backend: str, methods: dict[tuple[str, bool], str]) -> Compare:
    """What `keras.ops.image.resize` calls on a backend, which need not be the one that Keras runs on."""

    def compare() -> Iterator[Pair]:
        function = importlib.import_module(f"keras.src.backend.{backend}.image").resize
        weights = random(GRID**2)
        image = weights.reshape(1, GRID, GRID, DIM)
        place = torch.tensor(image) if backend == "torch" else image
        for (name, smooth), method in methods.items():
            options = {"interpolation": name, "antialias": smooth, "data_format": "channels_last"}
            yield from resized(weights, 0, method, lambda s, o=options: function(place, s, **o), shapes=SHAPES[:-1])

    return compare


def timm_resample(method: str, grid: tuple[int, int], **options: Any) -> Compare:
    def compare() -> Iterator[Pair]:
        resample = without_torchvision("timm.layers").resample_abs_pos_embed
        weights = random(2 + grid[0] * grid[1])
        place = torch.tensor(weights)[None]

        def make(shape: tuple[int, int]) -> Any:
            return resample(place, list(shape), old_size=list(grid), num_prefix_tokens=2, **options)

        yield from resized(weights, 2, method, make, grid=grid)

    return compare


def timm_vit() -> Iterator[Pair]:
    """A model made for one size, whose checkpoint is of another."""
    module = without_torchvision("timm.models.vision_transformer").VisionTransformer(
        img_size=GRID * PATCH, patch_size=PATCH, embed_dim=DIM, depth=0, num_heads=1, dynamic_img_size=True
    )
    weights = torch.nn.init.normal_(module.pos_embed).detach().numpy()[0]

    def make(shape: tuple[int, int]) -> Any:
        return module._pos_embed(torch.zeros(1, *shape, DIM)) - torch.cat(
            (module.cls_token, torch.zeros(1, shape[0] * shape[1], DIM)), 1
        )

    torch.nn.init.zeros_(module.cls_token)
    yield from resized(weights, 1, "torch_bicubic_antialias", make)


def torchtune_clip() -> Iterator[Pair]:
    module = without_torchvision("torchtune.models.clip._position_embeddings")
    change = module.TiledTokenPositionalEmbedding._resize_local_position_embedding
    weights = random(1 + GRID**2)
    squares = [(7, 7), (3, 3), (14, 14), (24, 24)]
    yield from resized(
        weights, 1, "torch_bilinear_align_corners", lambda s: change(torch.tensor(weights), s[0]), shapes=squares
    )


def mae_decoder(*, grid: tuple[int, ...], shapes: list[Any]) -> Compare:
    """Called with 36 patches and a class token."""

    def compare() -> Iterator[Pair]:
        weights = random(1 + GRID**2)
        place = SimpleNamespace(decoder_pos_embed=torch.tensor(weights)[None])
        method_ = model("vit_mae", "ViTMAEDecoder").interpolate_pos_encoding
        yield from resized(
            weights, 1, "torch_bicubic", lambda _: method_(place, torch.zeros(1, 37, DIM)), grid=grid, shapes=shapes
        )

    return compare


def vit_oblong() -> Iterator[Pair]:
    """A model of images that are no squares, at its own size."""
    cls = model("vit", "ViTEmbeddings")
    module = cls(config("vit", "ViTConfig", hidden_size=DIM, num_attention_heads=2, image_size=(32, 128)))
    weights = torch.nn.init.normal_(module.position_embeddings).detach().numpy()[0]
    yield from resized(
        weights,
        1,
        "torch_bicubic",
        lambda _: module.interpolate_pos_encoding(torch.zeros(1, 17, DIM), 32, 128),
        grid=(2, 8),
        shapes=[(2, 8)],
    )


OFFSET_2 = [
    ("bart", "BartLearnedPositionalEmbedding"),
    ("mbart", "MBartLearnedPositionalEmbedding"),
    ("mvp", "MvpLearnedPositionalEmbedding"),
    ("plbart", "PLBartLearnedPositionalEmbedding"),
    ("trocr", "TrOCRLearnedPositionalEmbedding"),
]
NO_OFFSET = [
    ("blenderbot", "BlenderbotLearnedPositionalEmbedding"),
    ("blenderbot_small", "BlenderbotSmallLearnedPositionalEmbedding"),
    ("bigbird_pegasus", "BigBirdPegasusLearnedPositionalEmbedding"),
    ("led", "LEDLearnedPositionalEmbedding"),
]
BY_FUNCTION = "create_position_ids_from_input_ids"
AS_ROBERTA = [
    ("roberta", "RobertaEmbeddings", "RobertaConfig"),
    ("camembert", "CamembertEmbeddings", "CamembertConfig"),
    ("xlm_roberta", "XLMRobertaEmbeddings", "XLMRobertaConfig"),
    ("xlm_roberta_xl", "XLMRobertaXLEmbeddings", "XLMRobertaXLConfig"),
    ("roberta_prelayernorm", "RobertaPreLayerNormEmbeddings", "RobertaPreLayerNormConfig"),
    ("xmod", "XmodEmbeddings", "XmodConfig"),
    ("clap", "ClapTextEmbeddings", "ClapTextConfig"),
    ("longformer", "LongformerEmbeddings", "LongformerConfig", BY_FUNCTION),
    ("luke", "LukeEmbeddings", "LukeConfig", BY_FUNCTION),
    ("mpnet", "MPNetEmbeddings", "MPNetConfig", BY_FUNCTION),
]
VISION: list[tuple[Any, ...]] = [
    ("vit", "ViTEmbeddings"),
    ("vit_msn", "ViTMSNEmbeddings"),
    ("vit_mae", "ViTMAEEmbeddings"),
    ("deit", "DeiTEmbeddings", 2),
    ("dinov2", "Dinov2Embeddings"),
    ("dinov2_with_registers", "Dinov2WithRegistersEmbeddings", 1, "torch_bicubic_antialias"),
    ("rf_detr", "RfDetrDinov2Embeddings", 1, "torch_bicubic_antialias"),
    ("pixio", "PixioEmbeddings", 8),
    ("beit", "BeitEmbeddings"),
    ("data2vec/data2vec_vision", "Data2VecVisionEmbeddings"),
    ("clip", "CLIPVisionEmbeddings"),
    ("altclip", "AltCLIPVisionEmbeddings"),
    ("chinese_clip", "ChineseCLIPVisionEmbeddings"),
    ("clipseg", "CLIPSegVisionEmbeddings"),
    ("metaclip_2", "MetaClip2VisionEmbeddings"),
    ("x_clip", "XCLIPVisionEmbeddings"),
    ("git", "GitVisionEmbeddings"),
    ("kosmos2", "Kosmos2VisionEmbeddings"),
    ("owlvit", "OwlViTVisionEmbeddings"),
    ("owlv2", "Owlv2VisionEmbeddings"),
    ("bridgetower", "BridgeTowerVisionEmbeddings"),
    ("blip", "BlipVisionEmbeddings"),
    ("blip_2", "Blip2VisionEmbeddings"),
    ("instructblip", "InstructBlipVisionEmbeddings"),
    ("instructblipvideo", "InstructBlipVideoVisionEmbeddings"),
    ("flava", "FlavaImageEmbeddings"),
    ("internvl", "InternVLVisionEmbeddings"),
    ("qianfan_ocr", "QianfanOCRVisionEmbeddings"),
    ("groupvit", "GroupViTVisionEmbeddings", 0),
    ("ijepa", "IJepaEmbeddings", 0),
    ("siglip", "SiglipVisionEmbeddings", 0),
    ("granite_docling", "GraniteDoclingVisionEmbeddings", 0),
    ("janus", "JanusVisionEmbeddings", 0),
    ("step3p7", "Step3p7VisionEmbeddings", 0, "torch_bilinear"),
    ("tipsv2", "Tipsv2VisionEmbeddings", 1, "torch_bilinear_antialias"),
    ("swin", "SwinEmbeddings", 0, "torch_bicubic", "SwinConfig"),
]


def direct(f: Any, weights: torch.Tensor) -> Callable[..., Any]:
    return lambda shape: f(None, weights, *shape)


def seggpt(f: Any, weights: torch.Tensor) -> Callable[..., Any]:
    place = SimpleNamespace(position_embeddings=weights)
    return lambda shape: torch.cat((weights[0, :1], f(place, *shape).reshape(-1, DIM)))


def perceiver(f: Any, weights: torch.Tensor) -> Callable[..., Any]:
    return lambda shape: f(SimpleNamespace(_num_channels=DIM), weights[0], *shape)


def videoprism(f: Any, weights: torch.Tensor) -> Callable[..., Any]:
    place = SimpleNamespace(position_embeddings=weights, patch_size=(1, 1))
    return lambda shape: f(place, torch.zeros(1, shape[0] * shape[1], DIM), *shape)


INTERPOLATE = "interpolate_pos_encoding"
SIGLIP2 = "siglip2", "Siglip2VisionEmbeddings.resize_positional_embeddings", 0, "torch_bilinear_antialias", siglip2
HELD: list[tuple[str, tuple[Any, ...]]] = [
    ("SigLIP2", (*SIGLIP2, SHAPES[:-1])),
    (
        "DeepSeek-OCR 2",
        ("deepseek_ocr2", f"DeepseekOcr2SamVisionEncoder.{INTERPOLATE}", 0, "torch_bicubic_antialias", sam),
    ),
    ("Hiera", ("hiera", f"HieraEmbeddings.{INTERPOLATE}", 0, "torch_bicubic", hiera)),
    ("SegGPT", ("seggpt", f"SegGptEmbeddings.{INTERPOLATE}", 1, "torch_bicubic", seggpt)),
    (
        "Perceiver",
        ("perceiver", f"PerceiverTrainablePositionEncoding.{INTERPOLATE}", 0, "torch_bicubic", perceiver),
    ),
    ("DPT", ("dpt", "DPTViTEmbeddings._resize_pos_embed", 1, "torch_bilinear", direct)),
    ("DPT, hybrid", ("dpt", "DPTViTHybridEmbeddings._resize_pos_embed", 1, "torch_bilinear", direct)),
    (
        "VideoPrism, spatial",
        ("videoprism", f"VideoPrismSpatialEmbeddings.{INTERPOLATE}", 0, "torch_bilinear_antialias", videoprism),
    ),
]
SMOOTH = "torch_bicubic_antialias"

PEERS = [
    Peer(HF, "OPT", opt),
    *(Peer(HF, owner, learned(family, owner, Learned.bart)) for family, owner in OFFSET_2),
    *(Peer(HF, owner, learned(family, owner, Learned)) for family, owner in NO_OFFSET),
    *(Peer(HF, details[1], roberta(*details)) for details in AS_ROBERTA),
    Peer(HF, "BERT", bert),
    Peer("keras-hub", "PositionEmbedding", keras_positions),
    Peer("x-transformers", "AbsolutePositionalEmbedding", x_positions(torch.float32)),
    Peer("x-transformers", "AbsolutePositionalEmbedding, bf16", x_positions(torch.bfloat16)),
    *(Peer(HF, details[1], vision(*details)) for details in VISION),
    *(Peer(HF, name, held(*details)) for name, details in HELD),
    Peer(HF, "SigLIP2, one column", held(*SIGLIP2, SHAPES[-1:]), f"{HF}: SigLIP2's table of one column"),
    Peer(HF, "C-RADIO", radio),
    Peer(HF, "Qwen3-VL, bilinear", qwen("bilinear", "torch_bilinear_align_corners", corners=True)),
    Peer(HF, "vision_utils, bilinear", qwen("bilinear", "torch_bilinear", corners=False)),
    Peer(HF, "vision_utils, bicubic", qwen("bicubic", "torch_bicubic", corners=False)),
    Peer(
        HF,
        "DINOv2, as the authors' code",
        vision("dinov2", "Dinov2Embeddings", 1, "dino_bicubic"),
        f"{HF}: DINOv2's table",
    ),
    Peer(HF, "ViT, images of 32 x 128", vit_oblong, f"{HF}: a table of an oblong"),
    Peer(HF, "ViTMAE, decoder, one axis", mae_decoder(grid=(49,), shapes=[(36,)])),
    Peer(HF, "ViTMAE, decoder", mae_decoder(grid=(7, 7), shapes=[(6, 6)]), f"{HF}: ViTMAE's decoder"),
    Peer("keras-hub", "DINOv2", keras_dinov2(antialias=False)),
    Peer("keras-hub", "DINOv2, antialias", keras_dinov2(antialias=True)),
    Peer("keras", "resize on PyTorch", keras_resize("torch", KERAS["torch"])),
    Peer("keras", "resize on JAX", keras_resize("jax", KERAS["jax"])),
    Peer("keras", "resize on TensorFlow", keras_resize("tensorflow", KERAS["tensorflow"])),
    Peer(
        "keras",
        "bicubic on JAX as on PyTorch",
        keras_resize("jax", {("bicubic", False): "torch_bicubic"}),
        "keras-hub: DINOv2's table depends",
    ),
    Peer("timm", "resample_abs_pos_embed", timm_resample(SMOOTH, (7, 7))),
    Peer("timm", "resample_abs_pos_embed, 4 x 9", timm_resample(SMOOTH, (4, 9))),
    Peer(
        "timm",
        "resample_abs_pos_embed, bilinear",
        timm_resample("torch_bilinear", (7, 7), interpolation="bilinear", antialias=False),
    ),
    Peer("timm", "VisionTransformer", timm_vit),
    Peer("torchtune", "TiledTokenPositionalEmbedding", torchtune_clip),
]


if __name__ == "__main__":
    sys.exit(1 if report(PEERS) else 0)
