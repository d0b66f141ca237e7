"""Model configurations of Hugging Face transformers as rotary specifications, and back. Imports no transformers."""

from __future__ import annotations

import math
from typing import Any

from posenc.interop.huggingface_families import NOT_ATTENTION, Layout
from posenc.interop.huggingface_layers import Layer, layers_of
from posenc.interop.huggingface_notices import ConfigWarning, DefaultAssumed, LeftToTheModel, MeaningChanged, refuse
from posenc.interop.huggingface_record import Record
from posenc.interop.huggingface_rope import built
from posenc.interop.huggingface_writing import write_scaling
from posenc.spec import Proportional, Rope, checks

__all__ = [
    "ConfigWarning",
    "DefaultAssumed",
    "LeftToTheModel",
    "MeaningChanged",
    "from_config",
    "layer_types",
    "to_config",
]


def from_config(config: object, *, layer_type: str | None = None, layout: Layout | None = None) -> Rope | None:
    """The rotation of a model by its configuration; None: the layer has no rotary embedding.

    `config`: a dict, a JSON file, a directory that holds config.json, or an object with `to_dict()`; of a composite
    model its `text_config` is read, for another part hand over that part. Both shapes are read: `rope_parameters`, and
    the older `rope_scaling` with `rope_theta` and the like. A head is what turns: with multi-head latent attention the
    separate tensor of `qk_rope_head_dim` channels.

    `layer_type`: one of `layer_types(config)`; needed where these do not all have the same rotation. Where they do, any
    entry of the configuration's own `layer_types` may be said, too; one without attention has no rotation.

    `layout`: needed where `model_type` is not in the table of posenc. Where it is, a layout that is said has
    precedence: for weights that were permuted, which leaves the configuration as it was.

    Frequencies that depend on the length of the sequence (`DynamicNtk`, `LongRope`) need it before a table can be
    made: `from_config(config).at_length(n)`.

    A file may leave out what is the default of its class in transformers: where that is not known here, it is refused,
    and the configuration object, which has it, can be handed over instead.

    A name that is no file or folder on this machine is refused: a hub name is not looked up.

    Raises SpecError, by the name of the key, for whatever is said about the rotation and cannot be honoured: an unknown
    type or key, a missing one, values out of range, two that contradict each other, several position axes. What was
    honoured, but may surprise, is a warning: `MeaningChanged`, `DefaultAssumed` or `LeftToTheModel`.
    """
    record = Record("from_config", config)
    layer = _chosen(record, layer_type)
    if layer.given is None:
        return None
    return built(record, layer, layout)


def layer_types(config: object) -> tuple[str, ...]:
    """What `layer_type` may be, in the order of the configuration; () where all layers are alike.

    These are the keys of a nested `rope_parameters`, the layer types of a model in which some have no rotation, or,
    where a list decides layer by layer, the list and the entry, such as `no_rope_layers=1`.
    """
    return tuple(name for name in layers_of(Record("layer_types", config)) if name is not None)


def to_config(spec: Rope) -> dict[str, Any]:
    """The keys of a configuration of transformers >= 5 that say `spec`: `from_config(to_config(spec) | more) == spec`.

    `more` is `model_type`, which alone says layout, direction and whether softmax is scaled, or `layout` may be said.
    SpecError names what no configuration can say: a `length`, rotary channels that are the last, YarnPaper, and other
    magnitudes than those of transformers.
    """
    if not isinstance(spec, Rope):
        refuse("to_config", "a Rope", spec)
    if spec.length is not None:
        expected = "None: a configuration is for every length; use dataclasses.replace(spec, length=None)"
        refuse("to_config.length", expected, spec.length)
    if spec.rotary_channels != "first":
        refuse("to_config.rotary_channels", "'first'", spec.rotary_channels)
    if not spec.apply_magnitude:
        refuse("to_config.apply_magnitude", "True", spec.apply_magnitude)
    said, outside = write_scaling(spec.scaling)
    said["rope_theta"] = spec.base
    width = 2 * spec.pairs
    if width < spec.head_dim:
        if isinstance(spec.scaling, Proportional):
            refuse("to_config.rotary_dim", f"head_dim = {spec.head_dim} with Proportional", width)
        said["partial_rotary_factor"] = _fraction(width, spec.head_dim)
    return {"head_dim": spec.head_dim, "rope_parameters": said} | outside


def _fraction(width: int, head_dim: int) -> float:
    """The least float for which int(head_dim * fraction) is the width."""
    fraction = width / head_dim
    return fraction if int(head_dim * fraction) == width else math.nextafter(fraction, 1.0)


def _chosen(record: Record, layer_type: object) -> Layer:
    layers = layers_of(record)
    where = f"{record.where}.layer_type"
    first, *others = layers.values()
    alike = all(other.given == first.given and other.head_dim == first.head_dim for other in others)
    if layer_type is None:
        if not alike:
            checks.choice(where, layer_type, tuple(layers))
        return first
    listed = record.values.get("layer_types")
    known = isinstance(layer_type, str) and isinstance(listed, list | tuple) and layer_type in listed
    if known and alike and layer_type not in layers:
        return first._replace(given=None) if layer_type in NOT_ATTENTION else first
    if None in layers:
        refuse(where, "None: all layers have one rotation", layer_type)
    checks.choice(where, layer_type, tuple(layers))
    return layers[str(layer_type)]
