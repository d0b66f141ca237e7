"""The plans of port_t5.py: what becomes of every tensor of a T5, and of its two tables of biases."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from transformers import T5Config

from posenc import T5Bias
from posenc.interop.checkpoints import Move, Plan, Rows

SIDES = ("encoder", "decoder")
PLAIN = "T5 turns no channels"


def specifications(config: T5Config) -> tuple[T5Bias, T5Bias]:
    """What distances mean in the encoder, which looks both ways, and in the decoder."""
    buckets, furthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    of = partial(T5Bias, config.num_heads, buckets=buckets, max_distance=furthest)
    return of(bidirectional=True), of(bidirectional=False)


def plan_nnx(config: T5Config) -> Plan:
    """Kernels `(inputs, outputs)`, and biases `(heads, buckets)`."""
    moves = [
        Move(theirs, f"{ours}.{kind}", plain=plain(ours), axes=(1, 0) if kind == "kernel" else None)
        for theirs, ours, kind in names(config)
    ]
    for side, spec in zip(SIDES, specifications(config), strict=True):
        moves.append(Move(table(side), f"{side}.bias", rows=Rows(spec, spec), axes=(1, 0)))
    return Plan(moves)


def plan_keras(config: T5Config) -> Plan:
    """Kernels `(inputs, outputs)`, and biases `(buckets, heads)` as they are, under the names that Keras gives."""
    moves = []
    for theirs, ours, kind in names(config):
        path = ours.replace("blocks.{layer}", "blocks/block{layer:suffix}").replace(".", "/")
        moves.append(Move(theirs, f"{path}/vars/0", plain=plain(ours), axes=(1, 0) if kind == "kernel" else None))
    for side, spec in zip(SIDES, specifications(config), strict=True):
        moves.append(Move(table(side), f"{side}/biases/vars/0", rows=Rows(spec, spec)))
    return Plan(moves)


def names(config: T5Config) -> Iterator[tuple[str, str, str]]:
    """In transformers, in the ports, and what it is there; without the tables of biases."""
    yield "shared.weight", "embedding", "embedding"
    for side in SIDES:
        theirs, ours = f"{side}.block.{{layer}}.layer", f"{side}.blocks.{{layer}}"
        parts = [("SelfAttention", "attention")]
        parts += [("EncDecAttention", "cross")] if side == "decoder" else []
        for number, (part, own) in enumerate(parts):
            yield f"{theirs}.{number}.layer_norm.weight", f"{ours}.{own}_norm", "scale"
            for leaf in "qkvo":
                yield f"{theirs}.{number}.{part}.{leaf}.weight", f"{ours}.{own}.{leaf}", "kernel"
        yield f"{theirs}.{len(parts)}.layer_norm.weight", f"{ours}.feed_norm", "scale"
        for leaf, own in (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down")):
            yield f"{theirs}.{len(parts)}.DenseReluDense.{leaf}.weight", f"{ours}.feed.{own}", "kernel"
        yield f"{side}.final_layer_norm.weight", f"{side}.norm", "scale"
    if not tied(config):
        yield "lm_head.weight", "head", "kernel"


def table(side: str) -> str:
    return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def plain(ours: str) -> str | None:
    return PLAIN if ours.endswith((".q", ".k")) else None


def tied(config: T5Config) -> bool:
    """Whether it is T5 1.0: transformers says `tie_word_embeddings` of every T5, and keeps here what its file said."""
    return bool(config.scale_decoder_outputs)


def sizes(config: T5Config) -> dict[str, Any]:
    """What both models are constructed from, beside the specifications."""
    return {
        "vocabulary": config.vocab_size,
        "dim": config.d_model,
        "channels": config.d_kv,
        "hidden": config.d_ff,
        "layers": config.num_layers,
        "tied": tied(config),
        "scaled": tied(config),
    }
