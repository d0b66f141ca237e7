"""Queries and keys of a checkpoint of transformers that are turned, each with the rotation of its layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from posenc.interop.attention_config import attention_by_layer
from posenc.interop.contents import DTYPES, Entry
from posenc.interop.huggingface import from_config, layer_types
from posenc.interop.huggingface_families import BESIDES, LISTS_LAYERS, Layout
from posenc.interop.huggingface_record import Record
from posenc.interop.port_moves import Rotary
from posenc.interop.positional_rows import Plain, Settings
from posenc.interop.projections import Attention, NotUnderstood, Projection, projection
from posenc.interop.safetensors_header import BITS, Tensor
from posenc.interop.tensor_names import place, suspicious
from posenc.spec import Rope, RotationPlan, SpecError

_BYTES = {DTYPES[name]: BITS[name] // 8 for name in DTYPES}


def as_tensor(name: str, entry: Entry) -> Tensor:
    """As if it were alone in a file of safetensors."""
    return Tensor(name, entry.dtype, entry.shape, 0, math.prod(entry.shape) * _BYTES.get(entry.dtype, 1))


class Rotation:
    """The rotations of one config, which is read when the first tensor asks for them."""

    def __init__(self, settings: Settings, layout: Layout | None) -> None:
        self._settings, self._layout = settings, layout
        self._attention: Callable[[int], Attention] | None = None
        self._ropes: dict[str | None, Rope | None] = {}
        self._refused = ""

    def holding(self, name: str, entry: Entry, names: Collection[str]) -> Rotary | Plain | None:
        """What a tensor is to a rotation, None: nothing; raises NotUnderstood."""
        tensor = as_tensor(name, entry)
        self._read()
        if self._attention is None:
            if suspicious(tensor):
                raise NotUnderstood(
                    f"expected a rotation that is understood, or what it is in known=, received {self._refused}"
                )
            return None
        found = projection(tensor, self._attention, names)
        if found is not None:
            return self._rotary(found, name, entry)
        return Plain("its channels are not turned") if suspicious(tensor) else None

    def _read(self) -> None:
        """The config, once; a model without queries and keys needs none, so that a refusal waits for one of them."""
        if self._attention is not None or self._refused:
            return
        values = self._settings.values
        try:
            self._attention = attention_by_layer(values)
            names = layer_types(values) or (None,)
            self._ropes = {name: from_config(values, layer_type=name, layout=self._layout) for name in names}
        except SpecError as error:
            self._attention, self._refused = None, str(error)

    def _rotary(self, found: Projection, name: str, entry: Entry) -> Rotary:
        record = Record(self._settings.where, self._settings.values)
        if record.model_type in BESIDES:
            only = f"expected a model in which the rotation of queries and keys is all, received {record.model_type!r}"
            raise NotUnderstood(f"{only}: {BESIDES[record.model_type]}")
        at = place(name)
        spec = self._of_layer(record, at.layer if at is not None else 0)
        if _channels(spec.rotation()) != _channels(found.plan):  # in multi-head latent attention the last ones turn
            width = 2 * found.plan.pairs
            spec = replace(spec, head_dim=found.plan.head_dim, rotary_dim=width, rotary_channels="last")
        count = len(found.turned)
        heads = count if all(found.turned) else tuple(found.turned)
        axis = (0, 1) if entry.shape == (count, spec.head_dim) else 0  # norms of heads that have an axis
        return Rotary(spec, to=_layout(spec), heads=heads, axis=axis)

    def _of_layer(self, record: Record, number: int) -> Rope:
        """Unlike a permutation of channels, a specification needs the angles of exactly this layer."""
        turning = {spec for spec in self._ropes.values() if spec is not None}
        spec = turning.pop() if len(turning) == 1 else self._ropes.get(_layer_type(record, number))
        if spec is None:
            names = ", ".join(map(str, self._ropes))
            raise NotUnderstood(
                f"expected layer_types, or the list of the model, to say which of {names} layer {number} is, "
                f"received {_layer_type(record, number)!r}"
            )
        return spec


def _layer_type(record: Record, number: int) -> str | None:
    """By the names of `layer_types`."""
    key = LISTS_LAYERS.get(record.model_type, "layer_types")
    listed = record.values.get(key)
    if not isinstance(listed, list | tuple):
        return None
    if key == "rope_scaling_layers":
        return "scaled" if number in listed else "unscaled"
    if number >= len(listed):
        return None
    said = listed[number]
    if key == "layer_types":
        return said if isinstance(said, str) else None
    return f"{key}={said:.12g}" if isinstance(said, int | float) else None


def _channels(plan: RotationPlan) -> tuple[int, int, int]:
    return plan.head_dim, plan.start, plan.pairs


def _layout(spec: Rope) -> Literal["half", "interleaved"]:
    """Of the weights."""
    return "half" if spec.rotation().reads == "half" else "interleaved"
