"""What the model code of transformers does with a configuration, by its `model_type`: facts, and no code.

`tools/model_walk.py` checks every row against the installed transformers; docs/models.md is what it found.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Layout = Literal["half", "interleaved", "interleaved_to_half"]


def _named(names: str) -> frozenset[str]:
    return frozenset(names.split())


class Family(NamedTuple):
    """How one `model_type` turns its queries and keys."""

    layout: Layout
    theta: float | None
    """The base where the configuration names none; None: it has to name one for each layer type."""
    fraction: float | None
    """The rotary fraction where the configuration names none; None: the whole head turns, whatever it names."""


_HALF: tuple[tuple[float | None, float | None, str], ...] = (
    (
        1e4,
        None,
        "afmoe arcee aria_text chameleon clvp_encoder dbrx deepseek_ocr2_encoder deepseek_ocr2_text dia_decoder "
        "dia_encoder diffllama doge dots1 esm esmc eurobert exaone4 exaone_moe falcon falcon_h1 flint gemma gemma2 "
        "gradium_phonon_tts granite granite4_vision_text granite_docling_text granite_swa granitemoe granitemoe_swa "
        "granitemoehybrid granitemoeshared higgs_audio_v2 hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v4 hyperclovax "
        "idefics internlm3 iquestcoder jais2 jetmoe kolibri1 kyutai_speech_to_text lasr_encoder llama mimi "
        "mimi_decoder mimi_encoder minicpm3 ministral ministral3 mistral molmo2_text moshi muse_glimmer_text "
        "muse_spark_text nanochat neucodec olmo olmo2 olmo_hybrid olmoe pocket_tts pocket_tts_audio_tokenizer "
        "pocket_tts_audio_tokenizer_decoder pocket_tts_audio_tokenizer_encoder qwen2 qwen2_moe qwen3 qwen3_moe "
        "qwen3_omni_moe_talker_code_predictor seamless_m4t seed_oss starcoder2 t5_gemma_module timesfm2_5 "
        "unlimited_ocr_text vaultgemma voxtral_realtime_encoder voxtral_realtime_text wav2vec2-bert "
        "wav2vec2-conformer xcodec2 zamba2",
    ),
    (1e3, None, "nomic_bert"),
    (2e4, None, "jina_embeddings_v3"),
    (1.5e5, None, "gpt_oss"),
    (1.6e5, None, "gte"),
    (5e5, None, "bitnet csm csm_depth_decoder_model evolla flex_olmo mllama_text_model muse_glimmer_assistant olmo3"),
    (1e6, None, "cwm emu3_text_model lfm2 lfm2_moe minimax mixtral phimoe"),
    (2e6, None, "smollm3"),
    (11_158_840.0, None, "hy_v3"),
    (1.2e7, None, "apertus"),
    (1e4, 0.25, "gpt_neox qwen3_next stablelm"),
    (
        1e4,
        0.5,
        "bamba dots3_note_audio_encoder glm4_moe glmasr_encoder nemotron nemotron3_5_transcribe_asr_audio "
        "nemotron3_5_transcribe_word_timestamp nemotron3_diarization_audio persimmon phi recurrent_gemma",
    ),
    (1e4, 1.0, "gpt_neox_japanese phi3 phi4_multimodal"),
    (1e6, 1.0, "solar_open"),
    (5e6, 1.0, "minimax_m2 minimax_m3_vl_text"),
    (
        None,
        None,
        "beam embedding_gemma2_text gemma3_text gemma3n_text gemma4_text gemma4_unified_text lfm3 modernbert "
        "modernbert-decoder t5gemma2_decoder t5gemma2_text ultrabert",
    ),
    (None, 1.0, "diffusion_gemma_text laguna mellum step3p5 zaya"),
    (None, 0.334, "mimo_v2_flash"),
)
_INTERLEAVED: tuple[tuple[float | None, float | None, str], ...] = (
    (1e4, None, "blt_patcher cohere2 cohere2_moe deepseek_v2 roformer"),
    (2e4, None, "pe_audio_encoder pe_audio_video_encoder pe_video_encoder"),
    (1e5, None, "helium"),
    (1.5e5, None, "openai_privacy_filter"),
    (5e5, None, "blt_global_transformer blt_local_decoder blt_local_encoder cohere ernie4_5 ernie4_5_moe llama4_text"),
    (1e4, 0.5, "glm glm4"),
    (1e4, 0.8, "moonshine_streaming"),
    (1e4, 0.9, "moonshine"),
    (1e4, 1.0, "codegen gptj"),
    (None, 0.125, "deepseek_v4"),
)
_INTERLEAVED_TO_HALF: tuple[tuple[float | None, float | None, str], ...] = (
    (1e4, None, "axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa mistral4 qwen2_5_omni_dit youtu"),
    (6e6, None, "bailing_hybrid"),
    (1e7, None, "longcat_flash"),
    (None, None, "dots3_note_text"),
)
_LAYOUTS: tuple[tuple[Layout, tuple[tuple[float | None, float | None, str], ...]], ...] = (
    ("half", _HALF),
    ("interleaved", _INTERLEAVED),
    ("interleaved_to_half", _INTERLEAVED_TO_HALF),
)
FAMILIES: dict[str, Family] = {
    name: Family(layout, theta, fraction)
    for layout, groups in _LAYOUTS
    for theta, fraction, names in groups
    for name in names.split()
}

NEGATIVE = _named("nanochat")
"""Turn by the negative angle."""

LAST = _named("deepseek_v4")
"""Turn the last channels of a head."""

FIXED_BASE = _named("clvp_encoder codegen gptj roformer")
"""Have the base 10,000 in their code, where no configuration can change it."""

ROTARY_HEAD = _named(
    "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm_moe_dsa hy_v4 "
    "longcat_flash minicpm3 mistral4 youtu"
)
"""Multi-head latent attention: what turns is a tensor of its own, of `qk_rope_head_dim` channels."""

SCALES_SOFTMAX = ROTARY_HEAD - {"dots3_note_text"}
"""Multiply scores by g(mscale_all_dim)^2 with YaRN (`Rope.softmax_factor`)."""

SAYS_INTERLEAVED = _named("axk1 deepseek_v3 glm4_moe_lite mistral4 youtu")
"""Have `rope_interleave`: True, the default, is interleaved_to_half, False is half."""

ALPHA = _named("hunyuan_v1_dense hunyuan_v1_moe")
"""Read `alpha` of the type `dynamic`: `Ntk`, at every length."""

READS_ROTARY_DIM = _named("codegen gptj minimax_m2")
"""Have the rotary width as a number of channels, `rotary_dim`."""

QUERY_SCALE = _named("ministral3 mistral4")
"""Read `llama_4_scaling_beta`, which multiplies queries and is no rotation."""

TURNS_ONLY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("afmoe", "cohere2", "cohere2_moe", "exaone4", "exaone_moe", "kolibri1"), ("sliding_attention",))
}
"""Layer types with a rotation, where the others have none; the last three only if there is a `sliding_window`."""

LISTS_LAYERS: dict[str, str] = {
    "granite_swa": "layer_rope_theta",
    "granitemoe_swa": "layer_rope_theta",
    "llama4_text": "no_rope_layers",
    "molmo2_text": "rope_scaling_layers",
    "muse_glimmer_text": "layer_rope_theta",
    "muse_spark_text": "layer_rope_theta",
    "smollm3": "no_rope_layers",
}
"""Have a list, layer by layer, that says which rotation a layer has."""

OLDER_THETAS: dict[str, tuple[str, str, float, float]] = {
    **dict.fromkeys(
        ("gemma3_text", "gemma3n_text", "t5gemma2_decoder", "t5gemma2_text"),
        ("rope_theta", "rope_local_base_freq", 1e6, 1e4),
    ),
    "modernbert": ("global_rope_theta", "local_rope_theta", 1.6e5, 1e4),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta", 1.6e5, 1e4),
    "olmo3": ("rope_theta", "rope_theta", 5e5, 5e5),
}
"""In the older shape: the keys of the bases of `full_attention` and `sliding_attention`, and their defaults."""

SCALES_BOTH = _named("modernbert modernbert-decoder")
"""In the older shape `rope_scaling` is for both layer types; elsewhere in `OLDER_THETAS` for `full_attention` alone."""

SWITCHES: dict[str, tuple[str, tuple[object, ...], tuple[object, ...], object]] = {
    "clvp_encoder": ("use_rotary_embedding", (True,), (False,), True),
    "esm": ("position_embedding_type", ("rotary",), ("absolute",), "absolute"),
    "falcon": ("alibi", (False,), (True,), False),
    "granitemoehybrid": ("position_embedding_type", ("rope",), (None, "nope"), None),
    "seamless_m4t": ("position_embeddings_type", ("rotary",), (None, "relative"), "relative"),
    "wav2vec2-bert": ("position_embeddings_type", ("rotary",), (None, "relative", "relative_key"), "relative_key"),
    "wav2vec2-conformer": ("position_embeddings_type", ("rotary",), (None, "relative"), "relative"),
    "zamba2": ("use_mem_rope", (True,), (False,), False),
}
"""A key that turns rotation on or off: its name, the values that do each, and its default."""

BESIDES: dict[str, str] = {
    "clvp_encoder": "values are turned, too",
    "deepseek_v4": "values are turned, too, and the output of attention is turned back",
    "qwen2_5_omni_dit": "only the first head is turned",
    **dict.fromkeys(
        ("seamless_m4t", "wav2vec2-bert", "wav2vec2-conformer"),
        "the input of the query and key projections is turned, head by head, and not their output",
    ),
}
"""What the model does with the rotation that a specification cannot say."""

NO_ROTATION = _named("jamba kimi_linear nemotron_h")
"""Have none, although their configuration or their code speaks of one."""

OWN_KEYS: dict[str, tuple[str, ...]] = {
    "deepseek_v4": ("compress_rope_theta", "qk_rope_head_dim"),
    "gemma4_text": ("global_head_dim",),
    "gemma4_unified_text": ("global_head_dim",),
    "roformer": ("rotary_value",),
    "seamless_m4t": ("rotary_embedding_base",),
    "wav2vec2-bert": ("rotary_embedding_base",),
    "wav2vec2-conformer": ("rotary_embedding_base",),
}
"""Keys about rotation that only these read, besides those of the tables above."""

SEVERAL_AXES = _named(
    "cohere_compass_text cohere_compass_vision cosmos3_edge_text dinov3_vit dots3_note_vision_encoder edgetam_video "
    "efficientloftr eomt_dinov3 ernie4_5_vl_moe_text ernie4_5_vl_moe_vision exaone4_5_vision gemma4_vision "
    "glm4v_moe_text glm4v_moe_vision glm4v_text glm4v_vision glm5_next_vision glm_image_text glm_ocr_text "
    "glm_ocr_vision hunyuan_vl_text inkling2_vision kimi_k25_vision lfm3_vl_vision lightglue llama4_vision_model "
    "minimax_m3_vl_vision mlcd_vision_model muse_glimmer_vision muse_spark_vision musicflamingo neomme "
    "paddleocr_vl_text paddleocr_vl_vision pixtral qwen2_5_omni_talker qwen2_5_omni_text qwen2_5_omni_vision_encoder "
    "qwen2_5_vl_text qwen2_5_vl_vision qwen2_vl_text qwen2_vl_vision qwen3_5_moe_text qwen3_5_moe_vision qwen3_5_text "
    "qwen3_5_vision qwen3_omni_moe_talker_text qwen3_omni_moe_text qwen3_omni_moe_vision_encoder qwen3_vl_moe_text "
    "qwen3_vl_moe_vision qwen3_vl_text qwen3_vl_vision qwen4_exp_text qwen4_exp_vision sam2_video sam3_tracker_video "
    "sam3_vit_model sapiens2 step3p5_vision video_llama_3_vision vjepa2"
)
"""Read more than one position axis (time, height, width)."""

SCALED_BY_DEFAULT = _named(
    "apertus cwm gpt_oss higgs_audio_v2 ministral3 mistral4 muse_spark_text openai_privacy_filter"
)
"""Have a rule of their own where a configuration says nothing at all, which is read as a mistake here."""

LEARNED = _named("mistral_large4_text")
"""Multiply their frequencies by weights."""

_HEAD_DIMS: tuple[tuple[int, str], ...] = (
    (
        64,
        "gpt_oss muse_spark_text neucodec openai_privacy_filter qwen2_5_omni_dit voxtral_realtime_encoder xcodec2",
    ),
    (80, "timesfm2_5"),
    (
        128,
        "afmoe beam cohere2_moe cwm dia_decoder dia_encoder ernie4_5 flint glm glm4 helium higgs_audio_v2 hrm_text "
        "hy_v3 internlm3 iquestcoder kolibri1 laguna lfm3 llama4_text mellum minimax_m2 minimax_m3_vl_text ministral3 "
        "molmo2_text muse_glimmer_assistant muse_glimmer_text pe_audio_encoder pe_audio_video_encoder "
        "pe_video_encoder qwen3 qwen3_omni_moe_talker_code_predictor seed_oss solar_open step3p5 zaya",
    ),
    (192, "mimo_v2_flash"),
    (
        256,
        "diffusion_gemma_text embedding_gemma2_text gemma gemma2 gemma3_text gemma3n_text gemma4_text "
        "gemma4_unified_text qwen3_next t5_gemma_module t5gemma2_decoder t5gemma2_text vaultgemma",
    ),
    (512, "deepseek_v4"),
)
HEAD_DIM: dict[str, int] = {name: size for size, names in _HEAD_DIMS for name in names.split()}
"""The head size where the configuration names none; elsewhere it is the hidden size by the heads."""

GLOBAL_HEAD_DIM = _named("diffusion_gemma_text embedding_gemma2_text gemma4_text gemma4_unified_text")
"""Have heads of 512 channels in layers of `full_attention`, where the configuration says nothing else."""

ORIGINAL_LENGTH: dict[str, int] = {"phi3": 4096, "phi4_multimodal": 4096}
"""`original_max_position_embeddings` where the configuration has none; elsewhere it is `max_position_embeddings`."""

NOT_ATTENTION = _named("conv dense linear_attention mamba moe recurrent sparse")
"""Entries of `layer_types` without queries and keys."""

ALSO_ABOUT_ROTATION = _named(
    "initial_context_length is_neox_style mrope_interleaved mrope_section no_rope_layer_interval nope_layer_interval "
    "nope_layers position_interpolation use_mrope xdrope_section"
)
"""Keys about rotation by whose names one would not know."""

SAYS_ROPE = ("pos_emb", "position_embedding_type", "position_embeddings_type")
"""Keys that may say 'rope' or 'rotary', which is so without them, or None."""

INITIAL_LENGTH = _named("gpt_oss openai_privacy_filter")
"""Have `initial_context_length`, which is `original_max_position_embeddings` once more."""
