"""What the tensors of a checkpoint are called, and which of them are queries and keys.

A name that is not known is refused, not guessed: a projection that stays behind makes every score wrong, in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from posenc.interop.layouts import concatenated, grouped
from posenc.interop.safetensors_header import Tensor
from posenc.interop.tensor_names import place, suspicious
from posenc.spec.plan import RotationPlan


class NotUnderstood(ValueError):
    """A tensor that looks like a query or key projection and cannot be placed; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of one layer: `plan` is None where nothing is turned, `latent` the width of keys in MLA, or 0."""

    model_type: str
    plan: RotationPlan | None
    heads: int
    key_heads: int
    latent: int = 0


class Projection(NamedTuple):
    """Consecutive heads, or parts of a fused projection, of `plan.head_dim` rows; those that are `turned` permute."""

    plan: RotationPlan
    turned: Sequence[bool]


def _in_four(heads: int, key_heads: int) -> tuple[bool, ...]:
    """CodeGen's order, from its training on four cores: four blocks of queries, values and keys."""
    if heads % 4 or key_heads != heads:
        raise NotUnderstood(f"expected a number of heads that four divides, received {heads}")
    quarter = heads // 4
    return ((True,) * quarter + (False,) * quarter + (True,) * quarter) * 4


FUSED: dict[tuple[str, str], Callable[[int, int], tuple[bool, ...]]] = {
    ("phi3", "qkv_proj"): concatenated,
    ("dbrx", "Wqkv"): concatenated,
    ("modernbert", "Wqkv"): concatenated,
    ("nomic_bert", "Wqkv"): concatenated,
    ("baichuan", "W_pack"): concatenated,
    ("qwen", "c_attn"): concatenated,
    ("chatglm", "query_key_value"): concatenated,
    ("gpt_neox", "query_key_value"): grouped,
    ("gpt_neox_japanese", "query_key_value"): grouped,
    ("persimmon", "query_key_value"): grouped,
    ("fuyu", "query_key_value"): grouped,
    ("falcon", "query_key_value"): grouped,
    ("internlm2", "wqkv"): grouped,
    ("codegen", "qkv_proj"): _in_four,
}
GATED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
"""`q_proj` holds, head by head, a query and the gate of its output."""
LATENT = (
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2", "minicpm3", "mistral4",
    "youtu",
)  # fmt: skip
"""Multi-head latent attention: [unturned, turned] channels in a query's head, [latent, turned] in the keys' source."""
QUERIES = ("q_proj", "wq", "query")
KEYS = {"k_proj": "v_proj", "wk": "wv", "key": "value"}
"""And what values beside them are called: where there are none, keys are values too, and must not be permuted."""
QUERY_NORMS, KEY_NORMS = ("q_norm", "q_layernorm", "query_layernorm"), ("k_norm", "k_layernorm", "key_layernorm")
OTHERS = (
    "v_proj", "wv", "value", "v_norm", "o_proj", "out_proj", "wo", "Wo", "dense", "dense_bias", "c_proj", "output",
    "LayerNorm", "g_proj", "gate_proj", "sinks", "bias", "masked_bias", "embed_positions", "attn_sub_norm",
    "inner_attn_ln", "rotary_emb", "rotary_embeddings", "rotary_pos_emb", "rope",
)  # fmt: skip
"""Of values, outputs, masks and positions: no channel of a query or key."""
OTHERS_LATENT = ("q_a_proj", "q_a_layernorm", "kv_a_layernorm", "kv_b_proj")


def projection(tensor: Tensor, attention: Callable[[int], Attention], names: Collection[str]) -> Projection | None:
    """What is to be permuted in `tensor` of a checkpoint with these `names`, None where it is to be copied.

    Raises NotUnderstood.
    """
    found = place(tensor.name)
    if found is None or found.leaf is None:
        if suspicious(tensor) and (found is None or attention(found.layer).plan is not None):
            raise NotUnderstood("no known name of a query or key projection")
        return None
    result = _meaning(found.leaf, attention(found.layer), tensor)
    if result is not None:
        _check_shape(tensor, result, found.leaf)
        key, _, kind = found.leaf.partition(".")
        values = f"{tensor.name.removesuffix(found.leaf)}{KEYS.get(key)}.weight"
        if kind == "weight" and key in KEYS and values not in names:
            raise NotUnderstood(
                f"expected {values!r:.200} beside it, since keys that are values too must stay as they are"
            )
    return result


def _meaning(leaf: str, attention: Attention, tensor: Tensor) -> Projection | None:
    plan, latent = attention.plan, attention.latent
    name, _, kind = leaf.partition(".")
    if plan is None or set(tensor.shape) <= {1} or name in OTHERS or (latent and name in OTHERS_LATENT):
        return None
    heads, key_heads = (True,) * attention.heads, (True,) * attention.key_heads
    if latent and attention.model_type in LATENT:
        if name in ("q_b_proj", "q_proj"):
            return Projection(plan, heads)
        if name == "kv_a_proj_with_mqa":
            rotary = 2 * plan.pairs
            return Projection(RotationPlan(latent + rotary, latent, plan.pairs, plan.reads, plan.writes), (True,))
    elif not latent:
        if name in QUERIES:
            gated = attention.model_type in GATED and tensor.shape[0] == 2 * len(heads) * plan.head_dim
            return Projection(plan, (True, False) * len(heads) if gated else heads)
        if name in KEYS:
            return Projection(plan, key_heads)
        if name in QUERY_NORMS or name in KEY_NORMS:
            return _norm(plan, heads if name in QUERY_NORMS else key_heads, kind, tensor)
        if (attention.model_type, name) in FUSED:
            return Projection(plan, FUSED[attention.model_type, name](len(heads), len(key_heads)))
    raise NotUnderstood(f"no known part of the attention of {attention.model_type!r}")


def _norm(plan: RotationPlan, heads: Sequence[bool], kind: str, tensor: Tensor) -> Projection:
    """Of one head's channels, one for all heads or one each, or of the channels of all heads."""
    whole = len(heads) * plan.head_dim
    if re.fullmatch(r"(norms\.\d+\.)?(weight|bias)", kind):
        if tensor.shape == (plan.head_dim,):
            return Projection(plan, (True,))
        if tensor.shape in ((whole,), (len(heads), plan.head_dim)) and not kind.startswith("norms"):
            return Projection(plan, heads)
    raise NotUnderstood(f"expected {plan.head_dim} or {whole} channels, received {kind!r:.200} of {list(tensor.shape)}")


def _check_shape(tensor: Tensor, found: Projection, leaf: str) -> None:
    name, _, kind = leaf.partition(".")
    if name in QUERY_NORMS or name in KEY_NORMS:
        return
    ranks = {"weight": (2,), "bias": (1,), "weight_scale": (1, 2)}.get(kind, ())
    rows = len(found.turned) * found.plan.head_dim
    if len(tensor.shape) not in ranks or tensor.shape[0] != rows or (tensor.end - tensor.begin) % rows:
        raise NotUnderstood(
            f"expected a weight or bias of {len(found.turned)} heads of {found.plan.head_dim} rows, {rows} in all, "
            f"received {kind or name!r:.200} of {list(tensor.shape)}"
        )
