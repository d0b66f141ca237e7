"""Models of transformers before and after a conversion: the same logits from an implementation of the other layout."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
import transformers
from transformers.utils import logging

from posenc.interop.attention_config import attention_by_layer, layout_by_config
from posenc.interop.checkpoint_layout import prepare

SMALL = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
LATENT = SMALL | {
    "num_key_value_heads": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 8,
}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
DBRX = {
    "d_model": 64, "n_heads": 8, "n_layers": 2, "max_seq_len": 64, "vocab_size": 64, "pad_token_id": 0,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 2, "moe_top_k": 1},
}  # fmt: skip
CODEGEN = {"vocab_size": 64, "n_positions": 64, "n_ctx": 64, "n_embd": 64, "n_layer": 2, "n_head": 8, "rotary_dim": 4}


def interleaved(q, k, cos, sin, *_, **__):
    """An implementation of its own, of channels 2j and 2j + 1; `cos` and `sin` as transformers has them for `half`."""
    n = cos.shape[-1] // 2
    cos, sin = cos[:, None, :, :n], sin[:, None, :, :n]

    def turn(x):
        u, v = x[..., 0 : 2 * n : 2], x[..., 1 : 2 * n : 2]
        return torch.cat([torch.stack([u * cos - v * sin, v * cos + u * sin], -1).flatten(-2), x[..., 2 * n :]], -1)

    return turn(q), turn(k)


def half(x, sin, cos):
    """An implementation of its own, of channels j and n + j; called as CodeGen does, with heads after positions."""
    n = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    u, v = x[..., :n], x[..., n : 2 * n]
    return torch.cat([u * cos - v * sin, v * cos + u * sin, x[..., 2 * n :]], -1)


def half_of_repeated(q, k, cos, sin, *_, **__):
    """The same, called as Cohere does, with every cosine twice in a row."""
    cos, sin = cos[..., 0::2], sin[..., 0::2]
    return tuple(half(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in (q, k))


@pytest.mark.parametrize(
    ("name", "settings", "implementation"),
    [
        ("llama", GROUPED, interleaved),  # 8 heads, 2 key heads
        ("qwen3", GROUPED | {"head_dim": 8}, interleaved),  # norms of one head's channels
        ("olmo2", GROUPED, interleaved),  # norms of all heads' channels
        ("phi3", GROUPED | {"rope_parameters": PARTIAL}, interleaved),  # q | k | v
        ("dbrx", DBRX, interleaved),
        ("gpt_neox", SMALL | {"rotary_pct": 0.5}, interleaved),  # [q k v] of each head, with biases
        ("falcon", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}, interleaved),
        ("falcon", SMALL | {"multi_query": True}, interleaved),
        ("persimmon", SMALL, interleaved),  # and norms with biases
        ("stablelm", GROUPED | {"partial_rotary_factor": 0.5, "qk_layernorm": True}, interleaved),  # head by head
        ("codegen", CODEGEN, half),  # four blocks of q, v, k
        ("cohere", GROUPED | {"use_qk_norm": True}, half_of_repeated),  # norms (heads, head_dim)
        ("minicpm3", LATENT, interleaved),
        ("deepseek_v3", LATENT | {"first_k_dense_replace": 2}, None),  # its config tells the layout
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_logits_are_the_same(tmp_path, monkeypatch, name, settings, implementation):
    """Computed in float64 but for norms and tables, in float32: sums in another order differ by some of its units."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = transformers.AutoConfig.for_model(name, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter == 1))  # also norms are not all ones
    model.save_pretrained(tmp_path / "in")
    record = json.loads((tmp_path / "in" / "config.json").read_text())
    by_config = layout_by_config(record)
    to = "half" if by_config == "interleaved" else "interleaved"
    prepare(tmp_path / "in", attention_by_layer(record), to=to, by_config=by_config).write(tmp_path / "out")
    shutil.copy(tmp_path / "in" / "config.json", tmp_path / "out")

    def logits(folder):
        read = type(model).from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
        if implementation is None and folder.name == "out":
            read.config.rope_interleave = False
        with torch.no_grad():
            return read(input_ids=torch.arange(24).reshape(2, 12) + 3).logits

    expected, forgotten = logits(tmp_path / "in"), None
    if implementation is not None:
        forgotten = logits(tmp_path / "out")
        function = "apply_rotary_pos_emb"
        monkeypatch.setattr(sys.modules[type(model).__module__], function, implementation)
    received = logits(tmp_path / "out")
    scale = expected.abs().max()
    assert (received - expected).abs().max() <= 2**-17 * scale  # 2^7 units of float32
    assert forgotten is None or (forgotten - expected).abs().max() > 2**-7 * scale
