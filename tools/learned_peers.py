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

import sys

import learned_packages as rows
import peer_environment  # noqa: F401 - before the packages
import resize_models as models
import resize_packages as resize
import torch
from peer_report import Peer, report

from posenc import Learned

HF = "transformers"
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
SMOOTH = "torch_bicubic_antialias"

PEERS = [
    Peer(HF, "OPT", rows.opt),
    *(Peer(HF, owner, rows.learned(family, owner, Learned.bart)) for family, owner in OFFSET_2),
    *(Peer(HF, owner, rows.learned(family, owner, Learned)) for family, owner in NO_OFFSET),
    *(Peer(HF, details[1], rows.roberta(*details)) for details in AS_ROBERTA),
    Peer(HF, "BERT", rows.bert),
    Peer("keras-hub", "PositionEmbedding", rows.keras_positions),
    Peer("x-transformers", "AbsolutePositionalEmbedding", rows.x_positions(torch.float32)),
    Peer("x-transformers", "AbsolutePositionalEmbedding, bf16", rows.x_positions(torch.bfloat16)),
    *(Peer(HF, details[1], models.vision(*details)) for details in models.VISION),
    *(Peer(HF, name, models.held(*details)) for name, details in models.HELD),
    Peer(
        HF,
        "SigLIP2, one column",
        models.held(*models.SIGLIP2, resize.SHAPES[-1:]),
        f"{HF}: SigLIP2's table of one column",
    ),
    Peer(HF, "C-RADIO", models.radio),
    Peer(HF, "Qwen3-VL, bilinear", models.qwen("bilinear", "torch_bilinear_align_corners", corners=True)),
    Peer(HF, "vision_utils, bilinear", models.qwen("bilinear", "torch_bilinear", corners=False)),
    Peer(HF, "vision_utils, bicubic", models.qwen("bicubic", "torch_bicubic", corners=False)),
    Peer(
        HF,
        "DINOv2, as the authors' code",
        models.vision("dinov2", "Dinov2Embeddings", 1, "dino_bicubic"),
        f"{HF}: DINOv2's table",
    ),
    Peer(HF, "ViT, images of 32 x 128", models.vit_oblong, f"{HF}: a table of an oblong"),
    Peer(HF, "ViTMAE, decoder, one axis", models.mae_decoder(grid=(49,), shapes=[(36,)])),
    Peer(HF, "ViTMAE, decoder", models.mae_decoder(grid=(7, 7), shapes=[(6, 6)]), f"{HF}: ViTMAE's decoder"),
    Peer("keras-hub", "DINOv2", resize.keras_dinov2(antialias=False)),
    Peer("keras-hub", "DINOv2, antialias", resize.keras_dinov2(antialias=True)),
    Peer("keras", "resize on PyTorch", resize.keras_resize("torch", resize.KERAS["torch"])),
    Peer("keras", "resize on JAX", resize.keras_resize("jax", resize.KERAS["jax"])),
    Peer("keras", "resize on TensorFlow", resize.keras_resize("tensorflow", resize.KERAS["tensorflow"])),
    Peer(
        "keras",
        "bicubic on JAX as on PyTorch",
        resize.keras_resize("jax", {("bicubic", False): "torch_bicubic"}),
        "keras-hub: DINOv2's table depends",
    ),
    Peer("timm", "resample_abs_pos_embed", resize.timm_resample(SMOOTH, (7, 7))),
    Peer("timm", "resample_abs_pos_embed, 4 x 9", resize.timm_resample(SMOOTH, (4, 9))),
    Peer(
        "timm",
        "resample_abs_pos_embed, bilinear",
        resize.timm_resample("torch_bilinear", (7, 7), interpolation="bilinear", antialias=False),
    ),
    Peer("timm", "VisionTransformer", resize.timm_vit),
    Peer("torchtune", "TiledTokenPositionalEmbedding", resize.torchtune_clip),
]


if __name__ == "__main__":
    sys.exit(1 if report(PEERS) else 0)
