"""What becomes of the tensors of a Llama of transformers in decoder_nnx.py and decoder_keras.py."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig

from posenc import Rope
from posenc.interop.checkpoints import Move, Plan, Rotary


def sizes(config: LlamaConfig) -> dict[str, Any]:
    """What both decoders are constructed from, beside the rotation."""
    return {
        "vocabulary": config.vocab_size,
        "dim": config.hidden_size,
        "hidden": config.intermediate_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "key_heads": config.num_key_value_heads,
        "eps": config.rms_norm_eps,
        "tied": config.tie_word_embeddings,
    }


def plan_nnx(config: LlamaConfig, rope: Rope, *, to: str = "interleaved") -> Plan:
    """Kernels whose heads have an axis of their own, and whose channels are in the layout `to`."""
    dim, heads, key_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    theirs, ours = "model.layers.{layer}", "layers.{layer}"
    q, k = (Rotary(rope, to=to, heads=count) for count in (heads, key_heads))
    queries, keys = (dim, heads, rope.head_dim), (dim, key_heads, rope.head_dim)
    kernel = (1, 0)  # PyTorch's weights are (outputs, inputs)
    moves = [
        Move("model.embed_tokens.weight", "embedding.embedding"),
        Move(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.scale"),
        Move(f"{theirs}.self_attn.q_proj.weight", f"{ours}.attention.q.kernel", rotary=q, axes=kernel, shape=queries),
        Move(f"{theirs}.self_attn.k_proj.weight", f"{ours}.attention.k.kernel", rotary=k, axes=kernel, shape=keys),
        Move(f"{theirs}.self_attn.v_proj.weight", f"{ours}.attention.v.kernel", axes=kernel, shape=keys),
        Move(
            f"{theirs}.self_attn.o_proj.weight", f"{ours}.attention.out.kernel", axes=kernel, shape=(*queries[1:], dim)
        ),
        Move(f"{theirs}.post_attention_layernorm.weight", f"{ours}.feed_forward_norm.scale"),
        Move(f"{theirs}.mlp.gate_proj.weight", f"{ours}.feed_forward.gate.kernel", axes=kernel),
        Move(f"{theirs}.mlp.up_proj.weight", f"{ours}.feed_forward.up.kernel", axes=kernel),
        Move(f"{theirs}.mlp.down_proj.weight", f"{ours}.feed_forward.down.kernel", axes=kernel),
        Move("model.norm.weight", "final_norm.scale"),
    ]
    head = Move("lm_head.weight", "head.kernel", axes=kernel)
    return Plan(moves if config.tie_word_embeddings else [*moves, head])


def plan_keras(config: LlamaConfig, rope: Rope, *, to: str = "half") -> Plan:
    """Kernels `(inputs, outputs)` under the names that Keras gives in its files."""
    theirs, ours = "model.layers.{layer}", "blocks/block{layer:suffix}"
    q, k = (Rotary(rope, to=to, heads=count) for count in (config.num_attention_heads, config.num_key_value_heads))
    kernel = (1, 0)  # PyTorch's weights are (outputs, inputs)
    moves = [
        Move("model.embed_tokens.weight", "embedding/vars/0"),
        Move(f"{theirs}.input_layernorm.weight", f"{ours}/attention_norm/vars/0"),
        Move(f"{theirs}.self_attn.q_proj.weight", f"{ours}/attention/q/vars/0", rotary=q, axes=kernel),
        Move(f"{theirs}.self_attn.k_proj.weight", f"{ours}/attention/k/vars/0", rotary=k, axes=kernel),
        Move(f"{theirs}.self_attn.v_proj.weight", f"{ours}/attention/v/vars/0", axes=kernel),
        Move(f"{theirs}.self_attn.o_proj.weight", f"{ours}/attention/out/vars/0", axes=kernel),
        Move(f"{theirs}.post_attention_layernorm.weight", f"{ours}/feed_forward_norm/vars/0"),
        Move(f"{theirs}.mlp.gate_proj.weight", f"{ours}/feed_forward/gate/vars/0", axes=kernel),
        Move(f"{theirs}.mlp.up_proj.weight", f"{ours}/feed_forward/up/vars/0", axes=kernel),
        Move(f"{theirs}.mlp.down_proj.weight", f"{ours}/feed_forward/down/vars/0", axes=kernel),
        Move("model.norm.weight", "final_norm/vars/0"),
    ]
    head = Move("lm_head.weight", "head/vars/0", axes=kernel)
    return Plan(moves if config.tie_word_embeddings else [*moves, head])
