"""Compare published attention biases and relative rows with posenc, each as it is documented.

    python tools/bias_peers.py

Runs in an environment of its own (`make peers`). Rows are integers and have to be the same, and so have biases that are
read from a table, bit for bit. A multiple of an ALiBi slope in float32 agrees where it is within 2^-22 of the exact
product, relatively: half a unit each for a power, a reciprocal, the slope and the product. Printed are how many numbers
were compared, how many differ by more, and the worst difference as a part of the bound.

What differs has an entry in docs/differences.md, and what has an entry must differ.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile

os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="posenc-peers-"))  # Keras writes a file there
os.environ.setdefault("KERAS_BACKEND", "torch")  # loaded anyway
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import bias_packages as p
import differences
import numpy as np
import torch
from bias_packages import Peer

HF = "transformers"
ONE, LAST = range(1), range(p.LENGTH - 1, p.LENGTH)
LAST_FOUR = range(p.LENGTH - 4, p.LENGTH)
BOTH, ENCODER = (True, False), (True,)


def prophetnet(d: torch.Tensor, both: bool, count: int, furthest: int) -> object:
    return p.model("prophetnet", "compute_relative_buckets")(count, furthest, d, both)


T5_FAMILIES: list[tuple[str, p.Bucket, tuple[bool, ...]]] = [
    ("T5", p.static("t5", "T5Attention"), BOTH),
    ("mT5", p.static("mt5", "MT5Attention"), BOTH),
    ("umT5", p.umt5, BOTH),
    ("LongT5", p.static("longt5", "LongT5Attention"), BOTH),
    ("LongT5, local", p.static("longt5", "LongT5LocalAttention"), BOTH),
    ("LongT5, transient global", p.static("longt5", "LongT5TransientGlobalAttention"), BOTH),
    ("Pix2Struct", p.static("pix2struct", "Pix2StructTextAttention"), BOTH),
    ("Pop2Piano", p.static("pop2piano", "Pop2PianoAttention"), BOTH),
    ("Switch Transformers", p.static("switch_transformers", "SwitchTransformersAttention"), BOTH),
    ("UDOP", p.static("udop", "UdopAttention"), BOTH),
    ("LayoutLMv2", p.model("layoutlmv2", "relative_position_bucket"), BOTH),
    ("LayoutLMv3", p.method("layoutlmv3", "LayoutLMv3Encoder"), BOTH),
    ("PP-DocLayoutV2", p.method("pp_doclayout_v2", "PPDocLayoutV2ReadingOrderEncoder"), BOTH),
    ("MPNet", lambda d, _, *rest: p.model("mpnet", "MPNetEncoder").relative_position_bucket(d, *rest), ENCODER),
    (
        "CPM-Ant",
        lambda d, _, *rest: p.model("cpmant", "CpmAntSegmentPositionEmbedding")._position_bucket(None, d, *rest),
        ENCODER,
    ),
    ("ProphetNet", prophetnet, BOTH),
    ("WavLM", p.wavlm, ENCODER),
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
    Peer(HF, "BLOOM, 1 to 128 heads", p.alibi("anchored", p.hugging_alibi("bloom"), ONE), f"{HF}: BLOOM's slopes"),
    Peer(HF, "BLOOM, padded", p.padded_bloom),
    Peer(HF, "Falcon", p.alibi("anchored", p.hugging_alibi("falcon"), ONE), f"{HF}: Falcon's ALiBi is computed"),
    Peer(HF, "MPT", p.alibi("causal", lambda heads: p.model("mpt", "build_mpt_alibi_tensor")(heads, p.LENGTH), LAST)),
    Peer("keras-hub", "AlibiBias", p.alibi("causal", p.keras_alibi, LAST)),
    Peer(
        "keras-hub",
        "AlibiBias, bfloat16",
        p.alibi("causal", p.keras_alibi_bfloat16, LAST, bound=p.BFLOAT16),
    ),
    Peer("keras-hub", "Falcon", p.alibi("anchored", p.keras_falcon, ONE)),
    Peer("x-transformers", "AlibiPositionalBias", p.alibi("symmetric", p.x_alibi(), LAST_FOUR)),
    Peer(
        "x-transformers",
        "AlibiPositionalBias, bfloat16",
        p.alibi("symmetric", p.x_alibi(torch.bfloat16), LAST_FOUR, bound=p.BFLOAT16),
    ),
    Peer("mlx", "ALiBi", p.alibi("symmetric", p.mlx_alibi(), LAST_FOUR)),
    Peer("mlx", "ALiBi, bfloat16", p.alibi("symmetric", p.mlx_alibi("bfloat16"), LAST_FOUR, bound=p.BFLOAT16)),
    Peer(
        "curated-transformers",
        "AttentionLinearBiases, causal",
        p.alibi("causal", p.curated_alibi(causal=True), LAST),
        "curated-transformers: ALiBi slopes",
    ),
    Peer(
        "curated-transformers",
        "AttentionLinearBiases",
        p.alibi("symmetric", p.curated_alibi(causal=False), range(64), range(64)),
        "curated-transformers: ALiBi slopes",
    ),
    *(Peer(HF, f"{name}, buckets", p.t5_rows(bucket, p.BUCKETS, both)) for name, bucket, both in T5_FAMILIES),
    Peer(HF, "T5, buckets at edges", p.t5_rows(T5_FAMILIES[0][1], p.EDGES), f"{HF}: {EDGE}"),
    Peer(HF, "ProphetNet, 320 of 8192", p.t5_rows(prophetnet, [(320, 8192)]), f"{HF}: {EDGE}"),
    Peer("keras-hub", "T5, buckets", p.t5_rows(p.keras_t5, p.BUCKETS)),
    Peer("keras-hub", "T5, buckets at edges", p.t5_rows(p.keras_t5, p.EDGES), f"keras-hub: {EDGE}"),
    Peer("x-transformers", "T5, buckets", p.t5_rows(p.x_t5, p.BUCKETS)),
    Peer("x-transformers", "T5, buckets at edges", p.t5_rows(p.x_t5, p.EDGES), f"x-transformers: {EDGE}"),
    Peer("torchtune", "T5 encoder", p.torchtune_t5(p.BUCKETS)),
    Peer("torchtune", "T5 encoder, buckets at edges", p.torchtune_t5(p.EDGES), f"torchtune: {EDGE}"),
    *(
        Peer(HF, f"{owner}, {'decoder' if decoder else 'encoder'}", p.t5_bias(family, owner, settings, decoder=decoder))
        for family, owner, settings in T5_MODULES
        for decoder in (False, True)
    ),
    Peer(
        HF,
        "Pix2StructTextAttention",
        p.t5_bias("pix2struct", "Pix2StructTextAttention", "Pix2StructTextConfig", decoder=True),
    ),
    Peer(HF, "LongT5LocalAttention", p.long_t5("LongT5LocalAttention")),
    Peer(HF, "LongT5TransientGlobalAttention", p.long_t5("LongT5TransientGlobalAttention")),
    Peer(HF, "MPNetEncoder", p.mpnet_bias),
    Peer(HF, "WavLMAttention", p.wavlm_bias),
    Peer(HF, "UDOP, RelativePositionBias1D", p.udop_bias),
    Peer(HF, "LayoutLMv3Encoder", p.layoutlmv3_bias),
    Peer("keras-hub", "T5MultiHeadAttention, encoder", p.keras_t5_bias(decoder=False)),
    Peer("keras-hub", "T5MultiHeadAttention, decoder", p.keras_t5_bias(decoder=True)),
    Peer("x-transformers", "RelativePositionBias", p.x_t5_bias(causal=False)),
    Peer("x-transformers", "RelativePositionBias, causal", p.x_t5_bias(causal=True)),
    Peer(
        "x-transformers",
        "RelativePositionBias as T5's",
        p.x_t5_bias(causal=False, scale=1.0),
        "x-transformers: T5 biases are multiplied",
    ),
    Peer(HF, "DeBERTa v2, buckets", p.deberta_rows(p.deberta_hugging("deberta_v2"))),
    Peer(
        HF,
        "DeBERTa v2, as the authors' code",
        p.deberta_rows(p.deberta_hugging("deberta_v2"), clamped=True),
        f"{HF}: DeBERTa's distances",
    ),
    Peer(HF, "SEW-D, buckets", p.deberta_rows(p.deberta_hugging("sew_d"))),
    Peer(HF, "DeBERTa v2, content to position", p.deberta_attention("c2p")),
    Peer(HF, "DeBERTa v2, position to content", p.deberta_attention("p2c")),
    Peer("keras-hub", "DeBERTa v3, buckets", p.deberta_rows(p.deberta_keras)),
    Peer(HF, "Swin, bias", p.swin_bias),
    Peer(HF, "Donut Swin, rows", p.swin_rows(p.hugging_swin("donut/donut_swin", "DonutSwinSelfAttention"))),
    Peer(
        HF,
        "MaskFormer Swin, rows",
        p.swin_rows(p.hugging_swin("maskformer/maskformer_swin", "MaskFormerSwinSelfAttention")),
    ),
    Peer(HF, "CLAP, rows", p.swin_rows(p.hugging_swin("clap", "ClapAudioSelfAttention"))),
    Peer(HF, "BEiT, rows", p.swin_rows(p.hugging_beit("beit", "BeitRelativePositionBias"))),
    Peer(
        HF,
        "Data2Vec, rows",
        p.swin_rows(p.hugging_beit("data2vec/data2vec_vision", "Data2VecVisionRelativePositionBias")),
    ),
    Peer("keras-hub", "Swin, rows of squares", p.swin_rows(p.keras_swin, p.WINDOWS[:3])),
    Peer("keras-hub", "Swin, rows", p.swin_rows(p.keras_swin), "keras-hub: a Swin window that is no square"),
    Peer("timm", "RelPosBias", p.timm_swin_bias),
    Peer(
        "timm",
        "Swin, rows",
        p.swin_rows(lambda w: p.without_torchvision("timm.models.swin_transformer").get_relative_position_index(*w)),
    ),
    Peer(
        "timm",
        "BEiT, rows",
        p.swin_rows(
            lambda w: p.without_torchvision("timm.layers").gen_relative_position_index(w, class_token=True)[1:, 1:]
        ),
    ),
    Peer(HF, "Wav2Vec2-BERT, relative_key", p.shaw("wav2vec2_bert", "Wav2Vec2BertSelfAttention", "Wav2Vec2BertConfig")),
    Peer(HF, "XLNet, rel_shift", p.xlnet_shift),
    Peer("keras-hub", "XLNet, rel_shift", p.keras_xlnet_shift),
    Peer(HF, "Parakeet, rel_shift", p.conformer_shift("parakeet", "ParakeetEncoderAttention", "_rel_shift")),
    Peer(
        HF,
        "FastSpeech2Conformer, shift",
        p.conformer_shift("fastspeech2_conformer", "FastSpeech2ConformerAttention", "shift_relative_position_tensor"),
    ),
    Peer(HF, "Gemma 4 audio, rel_shift", p.gemma_shift),
]


def compare(peer: Peer) -> tuple[int, int, float]:
    """How many numbers were compared, how many are further apart than the bound, and the worst part of it."""
    torch.manual_seed(0)  # the tables of a package
    count = outside = 0
    worst = 0.0
    for received, exact, bound in peer.compare():
        array = np.asarray(received.detach() if isinstance(received, torch.Tensor) else received, np.float64)
        if array.shape != exact.shape:
            sys.exit(f"{peer.package} {peer.name}: received shape {array.shape}, expected {exact.shape}")
        distance = np.abs(array - exact)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(distance == 0, 0, distance / bound)
        part[np.isnan(part)] = np.inf
        count, outside, worst = count + part.size, outside + int((part > 1).sum()), max(worst, float(part.max()))
    return count, outside, worst


def report(peers: list[Peer]) -> int:
    """Print a line for each and count what is not as docs/differences.md says."""
    entries = differences.entries()
    failed = 0
    print(f"{'package':23}{'version':9}{'what':42}{'compared':>12}{'outside':>12}{'worst':>8}  of bound")
    for peer in peers:
        count, outside, worst = compare(peer)
        named = [entry.title for entry in entries if peer.entry and entry.title.startswith(peer.entry)]
        verdict = f"   differs: {named[0] if named else 'no entry in docs/differences.md'}" if outside else ""
        if bool(outside) != bool(named):
            failed += 1
            verdict = verdict or f"   agrees, and its entry has to go: {named[0]}"
        shown = f"{worst:.2f}" if worst < 1000 else f"{worst:.0e}"
        version = importlib.metadata.version(peer.package)
        print(f"{peer.package:23}{version:9}{peer.name:42}{count:12,}{outside:12,}{shown:>8}{verdict}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(1 if report(PEERS) else 0)
