"""The attention of every layer, by a model's config: how many heads, and which of their channels are turned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from posenc.interop.huggingface import ConfigWarning, from_config, layer_types
from posenc.interop.huggingface_notices import refuse
from posenc.interop.huggingface_record import HEADS, LIMIT, Record
from posenc.interop.projections import Attention
from posenc.spec import Rope, RotationPlan, SpecError, checks
from posenc.spec.plan import PairLayout

_HEADS = (*HEADS, "encoder_num_attention_heads")  # Moonshine's encoder turns too: only with the heads of its decoder
_KEY_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "kv_n_heads",
    "multi_query_group_num",
    "decoder_num_key_value_heads",
    "encoder_num_key_value_heads",
)


def layout_by_config(config: Mapping[str, Any]) -> PairLayout | None:
    """The layout of the weights that belong to a config; None where posenc does not know its `model_type`."""
    attention_by_layer(config)  # raises whatever else is wrong with it
    try:
        specs = _ropes(config, layout=None).values()
    except SpecError:
        return None
    return next((spec.rotation().reads for spec in specs if spec is not None), None)


def attention_by_layer(config: Mapping[str, Any]) -> Callable[[int], Attention]:
    """What the layer of a number has. Raises SpecError for a config that does not say it."""
    ropes = _ropes(config, layout="half")  # the layout changes nothing here
    record = Record("convert_layout", config)
    heads = _count(record, "num_attention_heads", record.said(_HEADS))
    key_heads = _key_heads(record, heads)
    latent = record.values.get("kv_lora_rank") or 0
    if record.values.get("rotary_value"):
        refuse(f"{record.where}.rotary_value", "false, since values would be turned too", True)

    def layer(number: int) -> Attention:
        spec = _rope(ropes, record, number)
        plan = None if spec is None else _latent_plan(spec, record) if latent else spec.rotation()
        return Attention(record.model_type, plan, heads, key_heads, latent)

    return layer


def _ropes(config: Mapping[str, Any], layout: PairLayout | None) -> dict[str | None, Rope | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # they are about angles
        names = layer_types(config) or (None,)
        return {name: from_config(config, layer_type=name, layout=layout) for name in names}


def _rope(ropes: Mapping[str | None, Rope | None], record: Record, number: int) -> Rope | None:
    """The rotation of a layer. Where only angles differ any will do: queries and keys are permuted in the same way."""
    kind, flag = (_entry(record.values.get(key), number) for key in ("layer_types", "no_rope_layers"))
    for name in (kind, f"no_rope_layers={flag}"):
        if name in ropes:
            return ropes[name]
    if isinstance(kind, str) and ("linear" in kind or "attention" not in kind):
        return None
    turning = [spec for spec in ropes.values() if spec is not None]
    if len({spec.rotation() for spec in turning}) > 1:
        refuse(f"{record.where}.layer_types", f"one of {', '.join(map(str, ropes))} for layer {number}", kind)
    return turning[0] if turning else None


def _entry(values: Any, number: int) -> Any:
    return values[number] if isinstance(values, list) and number < len(values) else None


def _latent_plan(spec: Rope, record: Record) -> RotationPlan:
    """Of a query's head in multi-head latent attention: the channels that turn are the last ones."""
    rotary, unturned = record.values.get("qk_rope_head_dim"), record.values.get("qk_nope_head_dim")
    plan = spec.rotation()
    if rotary != 2 * plan.pairs:
        refuse(f"{record.where}.qk_rope_head_dim", f"{2 * plan.pairs}, what turns", rotary)
    unturned = checks.integer(f"{record.where}.qk_nope_head_dim", unturned, minimum=0, limit=LIMIT)
    return RotationPlan(unturned + 2 * plan.pairs, unturned, plan.pairs, plan.reads, plan.writes)


def _key_heads(record: Record, heads: int) -> int:
    values = record.values
    if record.model_type == "falcon" and not values.get("new_decoder_architecture"):
        return 1 if values.get("multi_query", True) else heads  # num_kv_heads is written and not used
    if record.model_type == "chatglm" and not values.get("multi_query_attention"):
        refuse(f"{record.where}.multi_query_attention", "true with chatglm", values.get("multi_query_attention"))
    attention = values.get("attn_config")  # DBRX
    inner = attention.get("kv_n_heads") if isinstance(attention, Mapping) else None
    said = record.one([*((name, values.get(name)) for name in _KEY_HEADS), ("attn_config.kv_n_heads", inner)])
    return _count(record, _KEY_HEADS[0], heads if said is None else said)


def _count(record: Record, name: str, value: object) -> int:
    return checks.integer(f"{record.where}.{name}", value, minimum=1, limit=LIMIT)
