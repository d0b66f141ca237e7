"""How the models of transformers resize their learned tables, and of each what posenc has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peer_modules import config, model, small
from peer_report import Compare, Pair
from resize_packages import DIM, GRID, PATCH, SHAPES, random, resized

from posenc import Learned
from posenc.numpy_impl import resize

SIZES = {
    "hidden_size": DIM,
    "embed_dim": DIM,
    "num_attention_heads": 2,
    "image_size": GRID * PATCH,
    "patch_size": PATCH,
    "use_absolute_position_embeddings": True,
    "use_absolute_embeddings": True,
}


def vision(family: str, owner: str, tokens: int = 1, method: str = "torch_bicubic", settings: str = "") -> Compare:
    """`interpolate_pos_encoding` of a module made from a small configuration."""

    def compare() -> Iterator[Pair]:
        cls = model(family, owner)
        module = cls(small(cls, settings, **SIZES))
        held = getattr(module, "position_embeddings", None)
        held = module.position_embedding if held is None else held
        held = torch.nn.init.normal_(held.weight if isinstance(held, torch.nn.Embedding) else held)
        weights = held.detach().numpy().reshape(-1, DIM)

        def make(shape: tuple[int, int]) -> Any:
            patches = torch.zeros(1, tokens + shape[0] * shape[1], DIM)
            return module.interpolate_pos_encoding(patches, shape[0] * PATCH, shape[1] * PATCH)

        yield from resized(weights, tokens, method, make)

    return compare


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
