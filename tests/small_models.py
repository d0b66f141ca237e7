"""Models of transformers from their configs, made small, with weights that are all different."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from posenc.interop.contents import Entry

_SIZES = {
    24: "hidden_size d_model dim emb_dim n_embd embedding_size input_embedding_size projection_dim embed_dim "
    "output_hidden_size",
    2: "num_hidden_layers encoder_layers decoder_layers num_layers num_decoder_layers n_layer n_layers "
    "num_encoder_layers num_frames",
    4: "num_attention_heads encoder_attention_heads decoder_attention_heads n_head n_heads num_heads patch_size "
    "attention_heads num_conv_pos_embedding_groups attention_window",
    16: "intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff dim_feedforward hidden_dim n_inner ffn_dim",
    50: "vocab_size",
    30: "max_position_embeddings n_positions max_source_positions max_target_positions "
    "max_encoder_position_embeddings max_decoder_position_embeddings",
    40: "max_2d_position_embeddings",
    20: "image_size input_size pretrain_image_size",
    6: "d_kv coordinate_size head_dim shape_size",
    3: "pad_token_id padding_idx window_size",
    1: "bos_token_id eos_token_id decoder_start_token_id",
}
_SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
_STAGES = {"num_heads": [2, 4], "depths": [1, 1], "image_size": 48}
_MORE: dict[str, dict[str, Any]] = {
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    "esm": {"vocab_size": 50, "pad_token_id": 3, "mask_token_id": 4},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 2},
    "lilt": {"channel_shrink_ratio": 2},
    "opt": {"word_embed_proj_dim": 24},
    "swinv2": _STAGES,
    "swin": _STAGES,
    "donut-swin": _STAGES,
    "maskformer-swin": _STAGES,
}
_CLASSES = {
    "aimv2_text_model": "aimv2.modeling_aimv2:Aimv2TextModel",
    "idefics2_vision": "idefics2.modeling_idefics2:Idefics2VisionTransformer",
    "idefics_vision": "idefics.vision:IdeficsVisionTransformer",
    "pop2piano": "pop2piano.modeling_pop2piano:Pop2PianoForConditionalGeneration",
    "trocr": "trocr.modeling_trocr:TrOCRForCausalLM",
}
"""Which have no automatic class."""


def listed(names: str) -> list[str]:
    return names.split()


def small_config(model_type: str, **more: Any) -> Any:
    """The default config with small sizes; `more` are keys, of parts too."""
    made = AutoConfig.for_model(
        model_type, **_small(AutoConfig.for_model(model_type)) | _MORE.get(model_type, {}) | more
    )
    made.pad_token_id = 3
    return made


def _small(config: Any) -> dict[str, Any]:
    said = config.to_dict()
    sizes = {name: size for name, size in _SMALL.items() if type(said.get(name)) is int}
    parts = {name: _small(part) for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
    return sizes | parts


def small_model(config: Any, *, seed: int = 0, filled: bool = True) -> Any:
    """In evaluation; not `filled` it is as its own code makes it, with zeros where that has them."""
    logging.set_verbosity_error()
    torch.manual_seed(seed)
    if config.model_type in _CLASSES:
        path, _, name = _CLASSES[config.model_type].partition(":")
        model = getattr(importlib.import_module(f"transformers.models.{path}"), name)(config)
    else:
        model = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if filled and parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def entries(model: Any) -> dict[str, Entry]:
    return {name: Entry(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in model.state_dict().items()}


def called(model: Any, mask: torch.Tensor) -> Any:
    """The model with whatever it takes: tokens, padded where `mask` is 0, boxes, images of 20 by 20, sounds."""
    config, kind = model.config, model.config.model_type
    tokens = torch.arange(mask.numel()).reshape(mask.shape) % 40 + 6
    tokens[mask == 0] = 1 if kind == "mpnet" else 3
    corner = torch.arange(2 * mask.numel()).reshape(*mask.shape, 2) % 19
    given = {
        "input_ids": tokens,
        "attention_mask": mask,
        "decoder_input_ids": tokens,
        "decoder_attention_mask": mask,
        "bbox": torch.cat([corner, corner + torch.tensor([7, 11])], -1),
        "visual_feats": torch.ones(2, 3, 2048),
        "visual_pos": torch.ones(2, 3, 4),
        "input_features": torch.ones(2, getattr(config, "num_mel_bins", 80), 60),
        "input_features_mask": torch.ones(2, 60).long(),
        "pixel_values": torch.ones(2, 3, 20, 20),
    }
    if kind in ("vivit", "timesformer"):
        given["pixel_values"] = torch.ones(2, 2, 3, 20, 20)
    if kind in ("swin", "donut-swin", "maskformer-swin"):
        given["pixel_values"] = torch.ones(2, 3, 48, 48)
    if kind == "siglip2_vision_model":
        given |= {"pixel_values": torch.ones(2, 25, 48), "pixel_attention_mask": torch.ones(2, 25).long()}
        given |= {"spatial_shapes": torch.tensor([[5, 5], [5, 5]])}
    if kind == "audio-spectrogram-transformer":
        given["input_values"] = torch.ones(2, config.max_length, config.num_mel_bins)
    if kind == "wav2vec2-bert":
        given |= {"input_features": torch.ones(2, 9, config.feature_projection_input_dim)}
    if kind == "wavlm":
        given |= {"input_values": torch.ones(2, 3200), "attention_mask": torch.ones(2, 3200).long()}
    if kind == "pop2piano":
        del given["input_features"]
    if kind == "xmod":
        model.set_default_language("en_XX")
    takes = inspect.signature(model.forward).parameters
    images = "input_ids" not in takes or kind in ("vilt", "layoutlmv3")
    unused = (
        {"pixel_values"}
        if not images
        else {"attention_mask"}
        if "input_ids" not in takes and kind != "wavlm"
        else set()
    )
    return model(**{name: x for name, x in given.items() if name in takes and name not in unused})
