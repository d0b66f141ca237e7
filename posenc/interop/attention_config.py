"""The attention of every layer, by a model's config: how many heads, and which of their channels are turned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from posenc.interop.huggingface import ConfigWarning, from_config, layer_types
from posenc.interop.projections import Attention
from posenc.interop.safetensors_header import CheckpointError
from posenc.spec import Rope, RotationPlan, SpecError
from posenc.spec.plan import PairLayout

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "multi_query_group_num")


def layout_by_config(config: Mapping[str, Any]) -> PairLayout | None:
    """The layout of the weights that belong to a config; None where posenc does not know its `model_type`."""
    attention_by_layer(config)  # raises whatever else is wrong with it
    try:
        specs = _ropes(config, layout=None).values()
    except SpecError:
        return None
    return next((spec.rotation().reads for spec in specs if spec is not None), None)


def attention_by_layer(config: Mapping[str, Any]) -> Callable[[int], Attention]:
    """What the layer of a number has. Raises SpecError or CheckpointError for a config that does not say it."""
    ropes = _ropes(config, layout="half")  # the layout changes nothing here
    text = _text(config)
    model_type = str(text.get("model_type", ""))
    heads = _count(text, _HEADS)
    key_heads = _key_heads(model_type, text, heads)
    latent = text.get("kv_lora_rank") or 0
    if text.get("rotary_value"):
        raise CheckpointError("config.rotary_value: expected false, since values would be turned too, received true")

    def layer(number: int) -> Attention:
        spec = _rope(ropes, text, number)
        plan = None if spec is None else _latent_plan(spec, text) if latent else spec.rotation()
        return Attention(model_type, plan, heads, key_heads, latent)

    return layer


def _ropes(config: Mapping[str, Any], layout: PairLayout | None) -> dict[str | None, Rope | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # they are about angles
        names = layer_types(config) or (None,)
        return {name: from_config(config, layer_type=name, layout=layout) for name in names}


def _rope(ropes: Mapping[str | None, Rope | None], text: Mapping[str, Any], number: int) -> Rope | None:
    """The rotation of a layer. Where only angles differ any will do: queries and keys are permuted in the same way."""
    kind, flag = (_entry(text.get(key), number) for key in ("layer_types", "no_rope_layers"))
    for name in (kind, f"no_rope_layers={flag}"):
        if name in ropes:
            return ropes[name]
    if isinstance(kind, str) and ("linear" in kind or "attention" not in kind):
        return None
    turning = [spec for spec in ropes.values() if spec is not None]
    if len({spec.rotation() for spec in turning}) > 1:
        raise CheckpointError(f"config.layer_types: expected one of {', '.join(map(str, ropes))} for layer {number}")
    return turning[0] if turning else None


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that is about text."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and not any(name in config for name in _HEADS) else config


def _entry(values: Any, number: int) -> Any:
    return values[number] if isinstance(values, list) and number < len(values) else None


def _latent_plan(spec: Rope, text: Mapping[str, Any]) -> RotationPlan:
    """Of a query's head in multi-head latent attention: the channels that turn are the last ones."""
    rotary, unturned = text.get("qk_rope_head_dim"), text.get("qk_nope_head_dim")
    plan = spec.rotation()
    if type(unturned) is not int or unturned < 0 or rotary != 2 * plan.pairs:
        raise CheckpointError(
            f"config: expected qk_nope_head_dim, and qk_rope_head_dim = {2 * plan.pairs}, received {unturned}, {rotary}"
        )
    return RotationPlan(unturned + 2 * plan.pairs, unturned, plan.pairs, plan.reads, plan.writes)


def _key_heads(model_type: str, text: Mapping[str, Any], heads: int) -> int:
    if model_type == "falcon" and not text.get("new_decoder_architecture"):
        return 1 if text.get("multi_query", True) else heads  # num_kv_heads is written and not used
    if model_type == "chatglm" and not text.get("multi_query_attention"):
        raise CheckpointError("config.multi_query_attention: expected true with chatglm, received none")
    attention = text.get("attn_config")  # DBRX
    return _count({**text, **attention} if isinstance(attention, Mapping) else text, _KEY_HEADS, heads)


def _count(config: Mapping[str, Any], names: tuple[str, ...], default: int | None = None) -> int:
    name, value = next(((name, config[name]) for name in names if config.get(name) is not None), (names[0], default))
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.{name}: expected an integer >= 1, received {value!r}")
    return value
