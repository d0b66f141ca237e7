"""Compare published attention biases and relative rows with posenc, each as it is documented.

    python tools/bias_peers.py

Runs in an environment of its own (`make peers`). Rows are integers and have to be the same, and so have biases that are
read from a table, bit for bit. A multiple of an ALiBi slope in float32 agrees where it is within 2^-22 of the exact
product, relatively: half a unit each for a power, a reciprocal, the slope and the product. Printed are how many numbers
were compared, how many differ by more, and the worst difference as a part of the bound.

What differs has an entry in docs/differences.md, and what has an entry must differ.
"""

from __future__ import annotations

import sys

import alibi_packages as alibi
import peer_environment  # noqa: F401 - before the packages
import row_packages as row
import t5_packages as t5
import torch
from peer_modules import model, without_torchvision
from peer_report import Peer, report

HF = "transformers"
ONE, LAST = range(1), range(alibi.LENGTH - 1, alibi.LENGTH)
LAST_FOUR = range(alibi.LENGTH - 4, alibi.LENGTH)
BOTH, ENCODER = (True, False), (True,)


def prophetnet(d: torch.Tensor, both: bool, count: int, furthest: int) -> object:
    return model("prophetnet", "compute_relative_buckets")(count, furthest, d, both)


T5_FAMILIES: list[tuple[str, t5.Bucket, tuple[bool, ...]]] = [
    ("T5", t5.static("t5", "T5Attention"), BOTH),
    ("mT5", t5.static("mt5", "MT5Attention"), BOTH),
    ("umT5", t5.umt5, BOTH),
    ("LongT5", t5.static("longt5", "LongT5Attention"), BOTH),
    ("LongT5, local", t5.static("longt5", "LongT5LocalAttention"), BOTH),
    ("LongT5, transient global", t5.static("longt5", "LongT5TransientGlobalAttention"), BOTH),
    ("Pix2Struct", t5.static("pix2struct", "Pix2StructTextAttention"), BOTH),
    ("Pop2Piano", t5.static("pop2piano", "Pop2PianoAttention"), BOTH),
    ("Switch Transformers", t5.static("switch_transformers", "SwitchTransformersAttention"), BOTH),
    ("UDOP", t5.static("udop", "UdopAttention"), BOTH),
    ("LayoutLMv2", model("layoutlmv2", "relative_position_bucket"), BOTH),
    ("LayoutLMv3", t5.method("layoutlmv3", "LayoutLMv3Encoder"), BOTH),
    ("PP-DocLayoutV2", t5.method("pp_doclayout_v2", "PPDocLayoutV2ReadingOrderEncoder"), BOTH),
    ("MPNet", lambda d, _, *rest: model("mpnet", "MPNetEncoder").relative_position_bucket(d, *rest), ENCODER),
    (
        "CPM-Ant",
        lambda d, _, *rest: model("cpmant", "CpmAntSegmentPositionEmbedding")._position_bucket(None, d, *rest),
        ENCODER,
    ),
    ("ProphetNet", prophetnet, BOTH),
    ("WavLM", t5.wavlm, ENCODER),
]
T5_MODULES = [
    ("t5", "T5Attention", "T5Config"),
    ("mt5", "MT5Attention", "MT5Config"),
    ("umt5", "UMT5Attention", "UMT5Config"),
    ("longt5", "LongT5Attention", "LongT5Config"),
    ("pop2piano", "Pop2PianoAttention", "Pop2PianoConfig"),
    ("switch_transformers", "SwitchTransformersAttention", "SwitchTransformersConfig"),
    ("udop", "UdopAttention", "UdopConfig"),
]
EDGE = "T5 buckets that begin at a whole number"

PEERS = [
    Peer(
        HF,
        "BLOOM, 1 to 128 heads",
        alibi.biases("anchored", alibi.hugging_alibi("bloom"), ONE),
        f"{HF}: BLOOM's slopes",
    ),
    Peer(HF, "BLOOM, padded", alibi.padded_bloom),
    Peer(
        HF, "Falcon", alibi.biases("anchored", alibi.hugging_alibi("falcon"), ONE), f"{HF}: Falcon's ALiBi is computed"
    ),
    Peer(
        HF,
        "MPT",
        alibi.biases("causal", lambda heads: model("mpt", "build_mpt_alibi_tensor")(heads, alibi.LENGTH), LAST),
    ),
    Peer("keras-hub", "AlibiBias", alibi.biases("causal", alibi.keras_alibi, LAST)),
    Peer(
        "keras-hub",
        "AlibiBias, bfloat16",
        alibi.biases("causal", alibi.keras_alibi_bfloat16, LAST, bound=alibi.BFLOAT16),
    ),
    Peer("keras-hub", "Falcon", alibi.biases("anchored", alibi.keras_falcon, ONE)),
    Peer("x-transformers", "AlibiPositionalBias", alibi.biases("symmetric", alibi.x_alibi(), LAST_FOUR)),
    Peer(
        "x-transformers",
        "AlibiPositionalBias, bfloat16",
        alibi.biases("symmetric", alibi.x_alibi(torch.bfloat16), LAST_FOUR, bound=alibi.BFLOAT16),
    ),
    Peer("mlx", "ALiBi", alibi.biases("symmetric", alibi.mlx_alibi(), LAST_FOUR)),
    Peer(
        "mlx",
        "ALiBi, bfloat16",
        alibi.biases("symmetric", alibi.mlx_alibi("bfloat16"), LAST_FOUR, bound=alibi.BFLOAT16),
    ),
    Peer(
        "curated-transformers",
        "AttentionLinearBiases, causal",
        alibi.biases("causal", alibi.curated_alibi(causal=True), LAST),
        "curated-transformers: ALiBi slopes",
    ),
    Peer(
        "curated-transformers",
        "AttentionLinearBiases",
        alibi.biases("symmetric", alibi.curated_alibi(causal=False), range(64), range(64)),
        "curated-transformers: ALiBi slopes",
    ),
    *(Peer(HF, f"{name}, buckets", t5.t5_rows(bucket, t5.BUCKETS, both)) for name, bucket, both in T5_FAMILIES),
    Peer(HF, "T5, buckets at edges", t5.t5_rows(T5_FAMILIES[0][1], t5.EDGES), f"{HF}: {EDGE}"),
    Peer(HF, "ProphetNet, 320 of 8192", t5.t5_rows(prophetnet, [(320, 8192)]), f"{HF}: {EDGE}"),
    Peer("keras-hub", "T5, buckets", t5.t5_rows(t5.keras_t5, t5.BUCKETS)),
    Peer("keras-hub", "T5, buckets at edges", t5.t5_rows(t5.keras_t5, t5.EDGES), f"keras-hub: {EDGE}"),
    Peer("x-transformers", "T5, buckets", t5.t5_rows(t5.x_t5, t5.BUCKETS)),
    Peer("x-transformers", "T5, buckets at edges", t5.t5_rows(t5.x_t5, t5.EDGES), f"x-transformers: {EDGE}"),
    Peer("torchtune", "T5 encoder", t5.torchtune_t5(t5.BUCKETS)),
    Peer("torchtune", "T5 encoder, buckets at edges", t5.torchtune_t5(t5.EDGES), f"torchtune: {EDGE}"),
    *(
        Peer(
            HF, f"{owner}, {'decoder' if decoder else 'encoder'}", t5.t5_bias(family, owner, settings, decoder=decoder)
        )
        for family, owner, settings in T5_MODULES
        for decoder in (False, True)
    ),
    Peer(
        HF,
        "Pix2StructTextAttention",
        t5.t5_bias("pix2struct", "Pix2StructTextAttention", "Pix2StructTextConfig", decoder=True),
    ),
    Peer(HF, "LongT5LocalAttention", t5.long_t5("LongT5LocalAttention")),
    Peer(HF, "LongT5TransientGlobalAttention", t5.long_t5("LongT5TransientGlobalAttention")),
    Peer(HF, "MPNetEncoder", t5.mpnet_bias),
    Peer(HF, "WavLMAttention", t5.wavlm_bias),
    Peer(HF, "UDOP, RelativePositionBias1D", t5.udop_bias),
    Peer(HF, "LayoutLMv3Encoder", t5.layoutlmv3_bias),
    Peer("keras-hub", "T5MultiHeadAttention, encoder", t5.keras_t5_bias(decoder=False)),
    Peer("keras-hub", "T5MultiHeadAttention, decoder", t5.keras_t5_bias(decoder=True)),
    Peer("x-transformers", "RelativePositionBias", t5.x_t5_bias(causal=False)),
    Peer("x-transformers", "RelativePositionBias, causal", t5.x_t5_bias(causal=True)),
    Peer(
        "x-transformers",
        "RelativePositionBias as T5's",
        t5.x_t5_bias(causal=False, scale=1.0),
        "x-transformers: T5 biases are multiplied",
    ),
    Peer(HF, "DeBERTa v2, buckets", row.deberta_rows(row.deberta_hugging("deberta_v2"))),
    Peer(
        HF,
        "DeBERTa v2, as the authors' code",
        row.deberta_rows(row.deberta_hugging("deberta_v2"), clamped=True),
        f"{HF}: DeBERTa's distances",
    ),
    Peer(HF, "SEW-D, buckets", row.deberta_rows(row.deberta_hugging("sew_d"))),
    Peer(HF, "DeBERTa v2, content to position", row.deberta_attention("c2p")),
    Peer(HF, "DeBERTa v2, position to content", row.deberta_attention("p2c")),
    Peer("keras-hub", "DeBERTa v3, buckets", row.deberta_rows(row.deberta_keras)),
    Peer(HF, "Swin, bias", row.swin_bias),
    Peer(HF, "Donut Swin, rows", row.swin_rows(row.hugging_swin("donut/donut_swin", "DonutSwinSelfAttention"))),
    Peer(
        HF,
        "MaskFormer Swin, rows",
        row.swin_rows(row.hugging_swin("maskformer/maskformer_swin", "MaskFormerSwinSelfAttention")),
    ),
    Peer(HF, "CLAP, rows", row.swin_rows(row.hugging_swin("clap", "ClapAudioSelfAttention"))),
    Peer(HF, "BEiT, rows", row.swin_rows(row.hugging_beit("beit", "BeitRelativePositionBias"))),
    Peer(
        HF,
        "Data2Vec, rows",
        row.swin_rows(row.hugging_beit("data2vec/data2vec_vision", "Data2VecVisionRelativePositionBias")),
    ),
    Peer("keras-hub", "Swin, rows of squares", row.swin_rows(row.keras_swin, row.WINDOWS[:3])),
    Peer("keras-hub", "Swin, rows", row.swin_rows(row.keras_swin), "keras-hub: a Swin window that is no square"),
    Peer("timm", "RelPosBias", row.timm_swin_bias),
    Peer(
        "timm",
        "Swin, rows",
        row.swin_rows(lambda w: without_torchvision("timm.models.swin_transformer").get_relative_position_index(*w)),
    ),
    Peer(
        "timm",
        "BEiT, rows",
        row.swin_rows(
            lambda w: without_torchvision("timm.layers").gen_relative_position_index(w, class_token=True)[1:, 1:]
        ),
    ),
    Peer(
        HF, "Wav2Vec2-BERT, relative_key", row.shaw("wav2vec2_bert", "Wav2Vec2BertSelfAttention", "Wav2Vec2BertConfig")
    ),
    Peer(HF, "XLNet, rel_shift", row.xlnet_shift),
    Peer("keras-hub", "XLNet, rel_shift", row.keras_xlnet_shift),
    Peer(HF, "Parakeet, rel_shift", row.conformer_shift("parakeet", "ParakeetEncoderAttention", "_rel_shift")),
    Peer(
        HF,
        "FastSpeech2Conformer, shift",
        row.conformer_shift("fastspeech2_conformer", "FastSpeech2ConformerAttention", "shift_relative_position_tensor"),
    ),
    Peer(HF, "Gemma 4 audio, rel_shift", row.gemma_shift),
]


if __name__ == "__main__":
    sys.exit(1 if report(PEERS) else 0)
