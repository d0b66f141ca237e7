"""Configurations that several tests start from."""

from __future__ import annotations

SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 8192}
LISTS = {"short_factor": [1 + j / 8 for j in range(32)], "long_factor": [2 + j for j in range(32)]}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 1024,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
MSCALE = {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 131072}


def llama(**keys):
    return {**LLAMA, "rope_theta": 5e5, **keys}


def scaled(**keys):
    return llama(rope_scaling=keys)


GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
