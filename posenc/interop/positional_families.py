"""Where models of transformers keep positions in their tensors, by `model_type`: facts of their code.

tests/test_positional_tensors.py holds every row against the installed transformers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from posenc.interop.positional_rows import (
    Builder,
    absolute,
    buckets,
    deberta,
    fairseq,
    left_out,
    left_out_if,
    patches,
    plain,
    shaw,
    spectrogram,
    square,
    unspecified,
    video,
    window,
)


class Table(NamedTuple):
    """Tensors whose names end in `names`, and what they hold."""

    names: re.Pattern[str]
    build: Builder


def _rows(*tables: tuple[str, Builder]) -> tuple[Table, ...]:
    return tuple(Table(re.compile(rf"(?:.*\.)?{names}"), build) for names, build in tables)


_LENGTH, _DIM = "max_position_embeddings", "hidden_size"
_WORDS = r"embeddings\.position_embeddings\.weight"
_PATCHES = r"embeddings\.position_embeddings"
_CLIP = r"embeddings\.position_embedding\.weight"
_BOX = r"(?:layout_)?embeddings\.[xyhw]_position_embeddings\.weight"
_SIDES = r"(?P<side>encoder|decoder)\.embed_positions\.weights?"
_FORMULA = "computed: sines and cosines of the position"
_SINES = left_out(_FORMULA)
_PROJECTED = plain("projects rows of positions, and has none")
_GATE = plain("belongs to the gate of a bias, and is no table")
_CONVOLUTION = _rows(
    (r"encoder\.pos_conv_embed\..+", unspecified("a convolution over time, which stands for positions"))
)
_T5 = _rows(
    (r"EncDecAttention\.relative_attention_bias\.weight", left_out("not read: cross attention has no bias")),
    (
        r"(?P<side>encoder|decoder)\.block\.\d+\.layer\.0\.(?:Local|TransientGlobal)?SelfAttention\."
        r"(?:global_)?relative_attention_bias\.weight",
        buckets("num_heads", "relative_attention_num_buckets", "relative_attention_max_distance"),
    ),
)
_STAGE = r"(?:audio_)?encoder\.layers\.(?P<stage>\d+)\.blocks\.\d+\.attention\.(?:self|relative_position_bias)\."
_BIAS = "relative_position_bias_table"
_NETWORK = unspecified("a small network from distances to biases (Swin v2), and no table")
_BEIT = _rows(
    (_PATCHES, patches(1)),
    (_BIAS, unspecified("Swin's table, and three rows more: to, from and of the class token")),
)
_ROW_AND_BOX = _rows((_WORDS, absolute(_LENGTH, _DIM)), (_BOX, absolute("max_2d_position_embeddings", _DIM)))

_TABLES: tuple[tuple[str, tuple[Table, ...]], ...] = (
    # learned, position p reads row p
    (
        "align_text_model bert bert-generation big_bird blip_text_model chinese_clip_text_model dpr ernie "
        "flava_text_model fnet git instructblip_qformer instructblipvideo_qformer lxmert "
        "megatron-bert mobilebert roc_bert splinter tapas",
        _rows((_WORDS, absolute(_LENGTH, _DIM))),
    ),
    ("albert convbert electra squeezebert", _rows((_WORDS, absolute(_LENGTH, "embedding_size")))),
    ("rembert", _rows((_WORDS, absolute(_LENGTH, "input_embedding_size")))),
    ("visual_bert", _rows((r"embeddings\.(?:visual_)?position_embeddings\.weight", absolute(_LENGTH, _DIM)))),
    ("distilbert", _rows((_WORDS, left_out_if("sinusoidal_pos_embds", True, _FORMULA, absolute(_LENGTH, "dim"))))),
    (
        "flaubert xlm",
        _rows(
            (
                r"position_embeddings\.weight",
                left_out_if("sinusoidal_embeddings", True, _FORMULA, absolute(_LENGTH, "emb_dim")),
            )
        ),
    ),
    ("gpt-sw3 gpt2 gpt_bigcode imagegpt", _rows((r"wpe\.weight", absolute("n_positions", "n_embd")))),
    ("openai-gpt", _rows((r"positions_embed\.weight", absolute("n_positions", "n_embd")))),
    ("gpt_neo", _rows((r"wpe\.weight", absolute(_LENGTH, _DIM)))),
    ("bigbird_pegasus blenderbot blenderbot-small", _rows((_SIDES, absolute(_LENGTH, "d_model")))),
    ("led", _rows((_SIDES, absolute("max_{side}_position_embeddings", "d_model")))),
    ("layoutlm", _ROW_AND_BOX),
    # learned, with an offset
    (
        "altclip_text_model bridgetower_text_model camembert clap_text_model data2vec-text longformer roberta "
        "roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod",
        _rows((_WORDS, fairseq(_LENGTH, _DIM))),
    ),
    (
        "esm",
        _rows(
            (_WORDS, left_out_if("position_embedding_type", "rotary", "not read: rotary", fairseq(_LENGTH, _DIM))),
        ),
    ),
    (
        "mpnet",
        _rows(
            (_WORDS, fairseq(_LENGTH, _DIM, padding_idx=1)),
            (
                r"encoder\.relative_attention_bias\.weight",
                buckets("num_attention_heads", "relative_attention_num_buckets", 128),
            ),
        ),
    ),
    ("mra nystromformer yoso", _rows((_WORDS, absolute(_LENGTH, _DIM, offset=2)))),
    ("bart mbart mvp plbart", _rows((_SIDES, absolute(_LENGTH, "d_model", offset=2)))),
    ("biogpt", _rows((r"embed_positions\.weight", absolute(_LENGTH, _DIM, offset=2)))),
    ("opt", _rows((r"embed_positions\.weight", absolute(_LENGTH, _DIM, offset=2, padding="row")))),
    (
        "trocr",
        _rows(
            (
                r"embed_positions\.(?:weights?|_float_tensor)",
                left_out_if("use_learned_position_embeddings", False, _FORMULA, absolute(_LENGTH, "d_model", offset=2)),
            )
        ),
    ),
    # boxes on a page
    (
        "layoutlmv3",
        _rows(
            (_WORDS, fairseq(_LENGTH, _DIM)),
            (
                r"embeddings\.[xy]_position_embeddings\.weight",
                absolute("max_2d_position_embeddings", "coordinate_size"),
            ),
            (r"embeddings\.[hw]_position_embeddings\.weight", absolute("max_2d_position_embeddings", "shape_size")),
            (r"pos_embed", patches(1, image="input_size")),
            (r"encoder\.rel_pos_bias\.weight", buckets("num_attention_heads", "rel_pos_bins", "max_rel_pos", axis=1)),
            (
                r"encoder\.rel_pos_[xy]_bias\.weight",
                buckets("num_attention_heads", "rel_2d_pos_bins", "max_rel_2d_pos", axis=1),
            ),
        ),
    ),
    (
        "lilt",
        _rows(
            (
                r"layout_embeddings\.box_position_embeddings\.weight",
                fairseq(_LENGTH, _DIM, divisor="channel_shrink_ratio"),
            ),
            (_WORDS, fairseq(_LENGTH, _DIM)),
            (_BOX, absolute("max_2d_position_embeddings", _DIM, divisor=6)),
        ),
    ),
    # buckets of distances
    ("longt5 mt5 pop2piano switch_transformers t5 umt5", _T5),
    (
        "deberta deberta-v2",
        _rows(
            (
                _WORDS,
                left_out_if(
                    "position_biased_input", False, "not read: position_biased_input is false", absolute(_LENGTH, _DIM)
                ),
            ),
            (r"encoder\.rel_embeddings\.weight", deberta),
            (r"attention\.self\.pos_(?:q_|key_|query_)?proj\..+", _PROJECTED),
        ),
    ),
    (
        "wavlm",
        _CONVOLUTION
        + _rows(
            (r"gru_rel_pos_.+", _GATE),
            (r"rel_attn_embed\.weight", buckets("num_attention_heads", "num_buckets", "max_bucket_distance")),
        ),
    ),
    (
        "wav2vec2-conformer",
        _CONVOLUTION
        + _rows(
            (r"pos_bias_[uv]", unspecified("Transformer-XL's u and v, beside encodings that are computed")),
            (r"linear_pos\..+", _PROJECTED),
        ),
    ),
    ("wav2vec2-bert", _rows((r"distance_embedding\.weight", shaw))),
    # patches
    ("vit dpt flava_image_model vit_msn", _rows((_PATCHES, patches(1)))),
    ("dinov2 dinov2_with_registers", _rows((_PATCHES, patches(1)))),
    ("deit", _rows((_PATCHES, patches(2)))),
    ("ijepa groupvit_vision_model", _rows((_PATCHES, patches(0)))),
    ("vitdet", _rows((_PATCHES, patches(1, image="pretrain_image_size")))),
    ("vit_mae", _rows((r"(?:position_embeddings|decoder_pos_embed)", _SINES))),
    ("videomae", _rows((r"position_embeddings", _SINES))),
    ("vivit", _rows((_PATCHES, video))),
    (
        "timesformer",
        _rows((_PATCHES, patches(1)), (r"embeddings\.time_embeddings", absolute("num_frames", _DIM, axis=1))),
    ),
    ("audio-spectrogram-transformer", _rows((_PATCHES, spectrogram))),
    ("vilt", _rows((r"text_embeddings\.position_embeddings\.weight", absolute(_LENGTH, _DIM)), (_PATCHES, patches(1)))),
    (
        "blip_2_vision_model blip_vision_model instructblip_vision_model instructblipvideo_vision_model",
        _rows((r"embeddings\.position_embedding", patches(1))),
    ),
    (
        "altclip_vision_model bridgetower_vision_model chinese_clip_vision_model clip_vision_model "
        "clipseg_vision_model git_vision_model metaclip_2_vision_model owlv2_vision_model owlvit_vision_model "
        "xclip_vision_model",
        _rows((_CLIP, patches(1, axis=0))),
    ),
    ("idefics_vision", _rows((_CLIP, patches(1, dim="embed_dim", axis=0)))),
    (
        "idefics2_vision idefics3_vision siglip_vision_model smolvlm_vision",
        _rows((_CLIP, patches(0, axis=0))),
    ),
    ("siglip2_vision_model", _rows((_CLIP, square))),
    (
        "aimv2_text_model clip_text_model clipseg_text_model groupvit_text_model metaclip_2_text_model "
        "owlv2_text_model owlvit_text_model siglip2_text_model siglip_text_model xclip_text_model",
        _rows((_CLIP, absolute(_LENGTH, _DIM))),
    ),
    # windows
    ("swin", _rows((_PATCHES, patches(0, dim="embed_dim")), (_STAGE + _BIAS, window("window_size", "num_heads")))),
    ("donut-swin maskformer-swin", _rows((_STAGE + _BIAS, window("window_size", "num_heads")))),
    ("clap_audio_model", _rows((_STAGE + _BIAS, window("window_size", "num_attention_heads")))),
    (
        "swin2sr swinv2",
        _rows(
            (r"continuous_position_bias_mlp\..+", _NETWORK),
            (r"relative_coords_table", left_out("computed: distances within a window")),
        ),
    ),
    ("beit data2vec-vision", _BEIT),
    # sines and cosines, in old files or in new ones
    (
        "fsmt m2m_100 marian nllb-moe pegasus pegasus_x speech_to_text",
        _rows((_SIDES, _SINES), (r"embed_positions\._float_tensor", _SINES)),
    ),
    ("xglm", _rows((r"embed_positions\.(?:weights|_float_tensor)", _SINES))),
    # Whisper's encoder, but for its formula: the numbers come from the file
    ("qwen2_audio_encoder", _rows((r"embed_positions\.weight", absolute("max_source_positions", "d_model")))),
    (
        "audioflamingo3_encoder voxtral_encoder",
        _rows((r"embed_positions\.weight", absolute("max_source_positions", _DIM))),
    ),
    (
        "whisper",
        _rows(
            (r"encoder\.embed_positions\.weight", _SINES),
            (r"decoder\.embed_positions\.weight", absolute("max_target_positions", "d_model")),
        ),
    ),
    ("roformer", _rows((r"encoder\.embed_positions\.weight", _SINES))),
    # nothing but a convolution, or nothing
    ("data2vec-audio hubert sew unispeech unispeech-sat wav2vec2", _CONVOLUTION),
    ("blip-2 instructblip instructblipvideo", _rows((r"query_tokens", plain("trained queries, which are not turned")))),
    ("blip_2_qformer bloom bridgetower ctrl flava mpt", ()),
)
TABLES: dict[str, tuple[Table, ...]] = {name: tables for names, tables in _TABLES for name in names.split()}

ANYWHERE = _rows(
    (r"(?:original_)?inv_freq", left_out("computed: the frequencies of a rotation")),
    (
        r"(?:rotary_emb|rotary_embeddings|rotary_pos_emb|rope)\..*(?:cos|sin)_cached",
        left_out("computed: a table of a rotation"),
    ),
    (r"(?:char_)?position_ids", left_out("computed: the numbers from 0 on")),
    (r"relative_position_index", left_out("computed: the rows that pairs of a window read")),
    (r"(?:attn|attention)\.(?:masked_bias|causal_mask)", left_out("computed: a part of the causal mask")),
)
"""Buffers of files from older versions, in many families."""
MASK = re.compile(r"(?:.*\.)?(?:attn|attention|self_attn)\.bias")
"""The causal mask of old files of GPT-2 and its kin, where its shape is (1, 1, length, length)."""

PARTS: dict[str, str] = {
    "text_config": r"(?:text_model|language_model|text_backbone)",
    "vision_config": r"(?:vision_model|vision_tower|visual|image_encoder)",
    "image_config": "image_model",
    "audio_config": r"(?:audio_model|audio_tower)",
    "qformer_config": "qformer",
    "encoder": "encoder",
    "decoder": "decoder",
}
"""What the tensors of a part are called, by the key that has its own config; outer parts come first in a name."""
