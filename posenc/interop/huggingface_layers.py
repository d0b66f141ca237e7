"""Which rotation each layer type of a configuration of transformers has, in both shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from posenc.interop.huggingface_families import (
    GLOBAL_HEAD_DIM,
    LISTS_LAYERS,
    NO_ROTATION,
    OLDER_THETAS,
    SCALED_BY_DEFAULT,
    SCALES_BOTH,
    SWITCHES,
    TURNS_ONLY,
)
from posenc.interop.huggingface_notices import DefaultAssumed, refuse, tell
from posenc.interop.huggingface_record import BASES, FRACTIONS, LIMIT, Record
from posenc.spec import SpecError, checks

Said = tuple[str, object] | None


class Layer(NamedTuple):
    """The rotation of one layer type."""

    where: str
    given: dict[str, Any] | None
    """Its rope parameters, without those that are None; None: no rotation."""
    nested: bool
    head_dim: int | None = None
    """Where layer types have heads of their own."""
    names: Mapping[str, str] = MappingProxyType({})
    """Of keys that stand elsewhere than in the rope parameters."""
    null: tuple[str, ...] = ()
    """Keys that are None."""

    def named(self, key: str) -> str:
        return self.names.get(key, f"{self.where}.{key}")

    def missing(self, key: str) -> str:
        """What was received of a key that is not in `given`."""
        return "None" if key in self.null else "no such key"


def layers_of(record: Record) -> dict[str | None, Layer]:
    """The rotation of every layer type that has one of its own; of None where there is one alone."""
    if record.model_type in NO_ROTATION or _switched_off(record):
        return {None: Layer(record.where, None, False)}
    new, old = (_rope_dict(record, key) for key in ("rope_parameters", "rope_scaling"))
    if new and old and new != old:
        refuse(f"{record.where}.rope_scaling", "what rope_parameters says, or no such key", old)
    key, given = ("rope_parameters", new) if new else ("rope_scaling", old)
    where = f"{record.where}.{key}"
    if any(isinstance(value, Mapping) for value in given.values()):
        return _nested(record, where, given)
    if record.model_type in OLDER_THETAS and not new:
        return _by_older_thetas(record, where, given)
    if record.model_type == "deepseek_v4":
        return _deepseek_v4(record, where, given)
    if record.family is not None and record.family.theta is None:
        raise SpecError(
            f"{record.where}.rope_parameters: expected a dict of one dict for each layer type, received "
            f"{checks.shown(given)}{'' if given else record.remedy}"
        )
    if not given and record.first(BASES) is None:
        _refuse_silence(record)
    return _listed(record, _filled(record, where, given, False))


def _switched_off(record: Record) -> bool:
    if record.model_type not in SWITCHES:
        return False
    key, on, off, default = SWITCHES[record.model_type]
    value = record.values.get(key, default)
    if value not in (*on, *off) or (isinstance(value, int) and not isinstance(value, bool)):
        refuse(f"{record.where}.{key}", " or ".join(repr(item) for item in (*on, *off)), value)
    return value in off


def _rope_dict(record: Record, key: str) -> dict[str, Any]:
    value = record.values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        refuse(f"{record.where}.{key}", "a dict or null", value)
    for name in value:
        if not isinstance(name, str):
            refuse(f"{record.where}.{key}", "keys that are strings", name)
    return dict(value)


def _refuse_silence(record: Record) -> None:
    if record.family is None or record.model_type in SCALED_BY_DEFAULT:
        raise SpecError(
            f"{record.where}.rope_parameters: expected a dict, or rope_scaling or rope_theta, of model_type "
            f"{record.model_type!r}, received none of them{record.remedy}"
        )


def _filled(
    record: Record, where: str, given: Mapping[str, Any], nested: bool, theta: Said = None, fraction: Said = None
) -> Layer:
    """A layer type with base and fraction, from wherever the configuration has them.

    `theta`, `fraction`: what stands for `rope_theta` and `partial_rotary_factor` of the configuration itself.
    """
    said = {name: value for name, value in given.items() if value is not None}
    inner, names = where.removeprefix(f"{record.where}."), {}
    for key, (first, *others), instead in (
        ("rope_theta", BASES, theta),
        ("partial_rotary_factor", FRACTIONS, fraction),
    ):
        outside = [instead or (first, record.values.get(first)), *((name, record.values.get(name)) for name in others)]
        value = record.one([(f"{inner}.{key}", said.get(key)), *outside])
        if key not in said and (value is not None or inner == "rope_scaling"):
            names[key] = f"{record.where}.{next((name for name, item in outside if item is not None), key)}"
        if value is not None:
            said[key] = value
    return Layer(where, said, nested, names=names, null=tuple(key for key in given if given[key] is None))


def _nested(record: Record, where: str, given: Mapping[str, Any]) -> dict[str | None, Layer]:
    outer = {key: record.values.get(key) for key in ("rope_theta", "partial_rotary_factor")}
    layers: dict[str | None, Layer] = {}
    for name, value in given.items():
        inner = f"{where}.{name}"
        if value is None:
            layers[name] = Layer(inner, None, True)
            continue
        if not isinstance(value, Mapping):
            refuse(inner, "a dict or null, as for every layer type beside it", value)
        for key in value:
            if not isinstance(key, str):
                refuse(inner, "keys that are strings", key)
        own = [(key, value.get(key) if value.get(key) is not None else outer[key]) for key in outer]
        layers[name] = _filled(record, inner, value, True, *own)._replace(head_dim=_own_head_dim(record, name))
    _check_other_bases(record, layers)
    for key, value in outer.items():
        said = [layer.given.get(key) for layer in layers.values() if layer.given is not None]
        if value is not None and value not in said:
            refuse(f"{record.where}.{key}", f"that of a layer type, {checks.shown(said)}", value)
    return layers


def _check_other_bases(record: Record, layers: dict[str | None, Layer]) -> None:
    """What the older shape says of a layer type, besides rope_theta, may stand beside the newer, but not against it."""
    older = dict(
        zip(("full_attention", "sliding_attention"), OLDER_THETAS.get(record.model_type, ())[:2], strict=False)
    )
    older |= {"compress": "compress_rope_theta"} if record.model_type == "deepseek_v4" else {}
    for name, key in older.items():
        layer, value = layers.get(str(name)), record.values.get(str(key))
        if key != "rope_theta" and value is not None and layer is not None and layer.given is not None:
            record.one([(f"rope_parameters.{name}.rope_theta", layer.given.get("rope_theta")), (str(key), value)])


def _own_head_dim(record: Record, name: str) -> int | None:
    """The head size of a layer type, where layers have heads of different sizes."""
    if name == "full_attention" and record.values.get("global_head_dim") is not None:
        return checks.integer(
            f"{record.where}.global_head_dim", record.values["global_head_dim"], minimum=2, limit=LIMIT
        )
    if name == "full_attention" and record.model_type in GLOBAL_HEAD_DIM and "per_layer_config" not in record.values:
        tell(DefaultAssumed, f"{record.where}.global_head_dim: absent; the default of transformers is taken, 512")
        return 512
    table, types = record.values.get("per_layer_config"), record.values.get("layer_types")
    if not isinstance(table, Mapping) or not isinstance(types, list | tuple):
        return None
    own: dict[int, object] = {}
    for index, entry in table.items():
        if isinstance(entry, Mapping) and entry.get("head_dim") is not None and str(index).isdecimal():
            own[int(str(index))] = entry["head_dim"]
    sizes = [own.get(index) for index, kind in enumerate(types) if kind == name]
    if not any(size is not None for size in sizes):
        return None
    where = f"{record.where}.per_layer_config.head_dim"
    if any(size != sizes[0] for size in sizes):
        refuse(where, f"one head size for all layers of type {name}", sizes)
    return checks.integer(where, sizes[0], minimum=2, limit=LIMIT)


def _by_older_thetas(record: Record, where: str, given: Mapping[str, Any]) -> dict[str | None, Layer]:
    """Two bases beside one scaling, as in the first configurations of Gemma 3, ModernBERT and OLMo 3."""
    *keys, full, local = OLDER_THETAS[record.model_type]
    layers: dict[str | None, Layer] = {}
    for name, key, default in (("full_attention", keys[0], full), ("sliding_attention", keys[1], local)):
        theta = record.values.get(key)
        if theta is None:
            theta = default
            tell(DefaultAssumed, f"{record.where}.{key}: absent; the default of transformers is taken, {default:g}")
        own = given if name == "full_attention" or record.model_type in SCALES_BOTH else {}
        layers[name] = _filled(record, where, own, True, (key, theta))
    return _ordered(record, layers)


def _deepseek_v4(record: Record, where: str, given: Mapping[str, Any]) -> dict[str | None, Layer]:
    """One base without scaling; another, with it, for layers that compress their keys."""
    bases = {"rope_theta": 1e4, "compress_rope_theta": 1.6e5}
    for key, default in bases.items():
        if record.values.get(key) is None:
            tell(DefaultAssumed, f"{record.where}.{key}: absent; the default of transformers is taken, {default:g}")
        else:
            bases[key] = record.values[key]
    compress = dict(given)
    if "yarn" in (given.get("rope_type"), given.get("type")) and given.get("attention_factor") is None:
        compress["attention_factor"] = 1.0
    return {
        "main": _filled(record, where, {}, True, ("rope_theta", bases["rope_theta"])),
        "compress": _filled(record, where, compress, True, ("compress_rope_theta", bases["compress_rope_theta"])),
    }


def _ordered(record: Record, layers: dict[str | None, Layer]) -> dict[str | None, Layer]:
    """In the order in which the configuration lists its layers, and only those that it has."""
    listed = record.values.get("layer_types")
    if not isinstance(listed, list | tuple):
        return layers
    names = [name for name in dict.fromkeys(item for item in listed if isinstance(item, str)) if name in layers]
    return {name: layers[name] for name in names} or layers


def _listed(record: Record, layer: Layer) -> dict[str | None, Layer]:
    """One rotation for all layers, or for those that a model's own rule says."""
    name, none = record.model_type, layer._replace(given=None)
    if name in TURNS_ONLY:
        every = name in ("exaone4", "exaone_moe", "kolibri1") and record.values.get("sliding_window", 0) is None
        if every:
            return {None: layer}
        _refuse_dense_prefix(record)
        kinds = ("sliding_attention", "full_attention")
        return _ordered(record, {kind: layer if kind in TURNS_ONLY[name] else none for kind in kinds})
    if name not in LISTS_LAYERS:
        return {None: layer}
    key = LISTS_LAYERS[name]
    listed = record.values.get(key)
    if listed is not None and not isinstance(listed, list | tuple):
        refuse(f"{record.where}.{key}", "a list, layer by layer", listed)
    if key == "no_rope_layers":
        return {f"{key}={flag}": layer if flag else none for flag in _flags(record, key, listed or (1, 0))}
    if key == "rope_scaling_layers":
        return _scaled_layers(record, layer, key, listed)
    return _layer_thetas(record, layer, key, listed)


def _refuse_dense_prefix(record: Record) -> None:
    kinds = record.values.get("mlp_layer_types")
    listed = isinstance(kinds, list | tuple) and "dense" in kinds
    dense = listed or bool(record.values.get("first_k_dense_replace"))
    if (
        record.model_type == "cohere2_moe"
        and dense
        and record.values.get("prefix_dense_sliding_window_pattern", 1) == 1
    ):
        refuse(
            f"{record.where}.prefix_dense_sliding_window_pattern",
            "another number beside dense layers, whose rotation is not that of their layer type with it",
            1,
        )


def _flags(record: Record, key: str, listed: Iterable[object]) -> list[int]:
    flags = list(dict.fromkeys(checks.integer(f"{record.where}.{key}", flag) for flag in listed))
    for flag in flags:
        if flag not in (0, 1):
            refuse(f"{record.where}.{key}", "a list of 0 (no rotation) and 1", flag)
    return flags


def _scaled_layers(record: Record, layer: Layer, key: str, listed: Iterable[object] | None) -> dict[str | None, Layer]:
    if listed is None or layer.given is None:
        return {None: layer}
    plain = {name: value for name, value in layer.given.items() if name in ("rope_theta", "partial_rotary_factor")}
    indices = {checks.integer(f"{record.where}.{key}", index, minimum=0) for index in listed}
    count = record.values.get("num_hidden_layers")
    every = isinstance(count, int) and count <= len(indices) and indices >= set(range(count))
    layers: dict[str | None, Layer] = {"scaled": layer} if indices else {}
    return layers if every and layers else layers | {"unscaled": layer._replace(given=plain)}


def _layer_thetas(record: Record, layer: Layer, key: str, listed: Iterable[object] | None) -> dict[str | None, Layer]:
    """A base for each layer, 0 for none; without a list all have the one base, or in Muse some have none."""
    if layer.given is None or (listed is None and record.model_type.startswith("granite")):
        return {None: layer}
    outer = layer.given.get("rope_theta", record.family.theta if record.family else None)
    layers: dict[str | None, Layer] = {}
    for theta in (outer, 0) if listed is None else listed:
        base = checks.non_negative(f"{record.where}.{key}", theta)
        if base and base != outer and record.model_type.startswith("muse"):
            refuse(f"{record.where}.{key}", f"0 or the base of the model, {outer!r}, which alone it reads", theta)
        given = layer.given | {"rope_theta": theta}
        layers[f"{key}={base:.12g}"] = layer._replace(given=given if base else None)
    return layers or {None: layer}
