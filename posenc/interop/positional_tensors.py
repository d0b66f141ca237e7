"""Which tensors of a checkpoint of transformers hold positions, and as what, by its config. Imports no transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from posenc.interop import tensor_patterns
from posenc.interop.contents import Entry
from posenc.interop.huggingface_families import FAMILIES, LEARNED, SEVERAL_AXES, Layout
from posenc.interop.huggingface_record import load
from posenc.interop.port_moves import Move, Rows
from posenc.interop.port_step import UnfitError, after, looks_positional, sizes
from posenc.interop.positional_families import ANYWHERE, MASK, PARTS, TABLES
from posenc.interop.positional_rotary import Rotation, as_tensor
from posenc.interop.positional_rows import Holding, LeftOut, Plain, Settings, Unspecified
from posenc.interop.projections import NotUnderstood
from posenc.interop.tensor_names import listed, suspicious
from posenc.spec import SpecError, checks

__all__ = ["Holding", "LeftOut", "Plain", "Unspecified", "positional_tensors"]

_UNKNOWN = (
    "expected a tensor that is known of model_type {!r}, or what it is in known=, received one that looks positional"
)


def positional_tensors(
    config: object,
    contents: Mapping[str, Entry],
    *,
    known: Mapping[str, Holding] | None = None,
    layout: Layout | None = None,
) -> dict[str, Holding]:
    """What the tensors hold that have to do with positions, or look as if, in the order of `contents`.

    config : a dict, a JSON file, a folder that holds config.json, or an object with `to_dict()`. The parts of a model
        of several are read by their own configs.
    contents : of the checkpoint, names as `state_dict` and safetensors have them: shapes and dtypes.
    known : what tensors hold by patterns of names (`layers.{layer}.rel_bias`), before anything else.
    layout : of the weights, where they were permuted or `model_type` is unknown; as in `from_config`.

    The result has, by name,

        Rows(spec, spec)       a table of trained rows, absolute or by distance
        Rotary(spec, ...)      a projection, bias or norm of queries or keys that are turned; they keep their layout
        LeftOut(reason)        what is no trained state: computed from the config, or not read
        Plain(reason)          what only looks positional: queries and keys of a model that turns none
        Unspecified(reason)    trained positions whose rows no specification says

    and nothing that neither is nor looks positional. Raises SpecError, with all names, where a tensor looks positional
    and is not understood, and where a shape is not that of the config, with both; and for a config that lacks a key.
    """
    values = load("positional_tensors.config", config)
    told = _told(contents, known or {})
    models: dict[str, _Model] = {}
    places: dict[str, tuple[_Model, str]] = {}
    for name in contents:
        part = _part(values, name)
        model = models.setdefault(part.settings.where, _Model(part.settings, layout))
        model.names.add(part.name)
        places[name] = (model, part.name)
    found: dict[str, Holding] = {}
    complaints: dict[str, list[str]] = {}
    for name, entry in contents.items():
        model, inner = places[name]
        try:
            holding = told[name] if name in told else model.holding(inner, entry)
        except NotUnderstood as reason:
            complaints.setdefault(str(reason), []).append(name)
            continue
        if holding is not None:
            found[name] = holding
    if complaints:
        raise SpecError(f"positional_tensors: {listed(complaints)}")
    return found


class _Model:
    """The tensors of one config, or of one part of it."""

    def __init__(self, settings: Settings, layout: Layout | None) -> None:
        self.settings, self.names = settings, set[str]()
        self._tables = TABLES.get(settings.model_type, ())
        turns = any(settings.model_type in families for families in (FAMILIES, SEVERAL_AXES, LEARNED))
        self._never_turns = settings.model_type in TABLES and not turns
        self._rotation = Rotation(settings, layout)
        self._built: dict[tuple[int, tuple[str | None, ...]], Holding] = {}

    def holding(self, name: str, entry: Entry) -> Holding | None:
        """Raises NotUnderstood."""
        for number, table in enumerate((*self._tables, *ANYWHERE)):
            match = table.names.fullmatch(name)
            if match is not None:
                key = number, match.groups()
                if key not in self._built:
                    self._built[key] = table.build(self.settings, match)
                _check(self._built[key], entry)
                return self._built[key]
        if MASK.fullmatch(name) and len(entry.shape) == 4:
            return LeftOut("computed: the causal mask")
        if self._never_turns:
            if suspicious(as_tensor(name, entry)):
                return Plain(f"{self.settings.model_type} turns no queries and keys")
        else:
            turned = self._rotation.holding(name, entry, self.names)
            if turned is not None:
                return turned
        if looks_positional(name, entry.shape):
            raise NotUnderstood(_UNKNOWN.format(self.settings.model_type))
        return None


class _Part(NamedTuple):
    """The config that a tensor belongs to, and its name there."""

    settings: Settings
    name: str


def _part(values: Mapping[str, Any], name: str) -> _Part:
    where = "positional_tensors.config"
    inner = True
    while inner:
        inner = False
        for key, prefix in PARTS.items():
            part = values.get(key)
            match = re.fullmatch(rf"(?:(?:model|module|base_model)\.)*{prefix}\.(?P<rest>.+)", name)
            if match is not None and isinstance(part, Mapping) and part.get("model_type"):
                values, name, where, inner = part, match["rest"], f"{where}.{key}", True
                break
    return _Part(Settings(where, values), name)


def _told(contents: Mapping[str, Entry], known: Mapping[str, Holding]) -> dict[str, Holding]:
    told: dict[str, Holding] = {}
    for pattern, holding in known.items():
        where = f"positional_tensors.known[{pattern!r:.200}]"
        tensor_patterns.fields(where, pattern)
        if not isinstance(holding, Holding):
            expected = "Rows(...), Rotary(...), LeftOut(reason), Plain(reason) or Unspecified(reason)"
            raise SpecError(f"{where}: expected {expected}, received {checks.shown(holding)}")
        names = tensor_patterns.matching(pattern, contents)
        if not names:
            raise SpecError(f"{where}: expected a pattern that a tensor has, received one that none has")
        for name in names:
            if told.setdefault(name, holding) != holding:
                raise SpecError(f"{where}: expected one meaning of {name!r:.200}, received two")
    return told


def _check(holding: Holding, entry: Entry) -> None:
    if isinstance(holding, Rows):
        try:
            after(Move("table", "table", rows=holding), entry, sizes(holding))
        except UnfitError as error:
            raise NotUnderstood(f"{error}, where the config says {holding.source!r}") from None
