"""Published resamplers of learned tables, and of each what posenc has by the method that it follows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peer_modules import without_torchvision
from peer_report import Array, Compare, Pair

from posenc import Learned
from posenc.numpy_impl import resize

DIM = 8
RNG = np.random.default_rng(0)
GRID, PATCH = 7, 16
SHAPES = [(7, 7), (5, 9), (14, 14), (24, 24), (3, 3), (8, 7), (49, 1)]


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


def random(rows: int) -> Array:
    return RNG.normal(size=(rows, DIM)).astype(np.float32)


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
