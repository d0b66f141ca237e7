"""What the tensors of a checkpoint are called: where they stand, whether they may be queries or keys, and summaries."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from posenc.interop.safetensors_header import Tensor

_CONTAINERS = (
    "model|transformer|language_model|text_model|gpt_neox|gpt_neox_japanese|roformer|esm|bert|nomic_bert|encoder|"
    "decoder|base_model|module|backbone"
)
_LAYER = re.compile(rf"((?:{_CONTAINERS})\.)*(?:layers|layer|h|blocks)\.(?P<layer>\d+)\.(?P<rest>.+)")
_ATTENTION = re.compile(
    r"(?:norm_attn_norm\.)?(?:self_attn|attn|self_attention|attention\.self|attention)\.(?P<leaf>(?!self\.).+)"
)
_TOKENS = {"q", "k", "qk", "kq", "kv", "qkv", "wq", "wk", "wkv", "wqkv", "query", "queries", "key", "keys"}
_PARTS = ("qkv", "query", "c_attn", "w_pack", "att_proj", "in_proj_weight", "in_proj_bias")
_LISTED = 20


class Place(NamedTuple):
    """The layer of the language model that a tensor is in, and its name within the attention, or None."""

    layer: int
    leaf: str | None


def place(name: str) -> Place | None:
    """Where a tensor stands; None where that is no known part of a language model."""
    layer = _LAYER.fullmatch(name)
    attention = layer and _ATTENTION.fullmatch(layer["rest"])
    return Place(int(layer["layer"]), attention["leaf"] if attention else None) if layer else None


def suspicious(tensor: Tensor) -> bool:
    """Whether this may be a query or key projection by its name; a single number has no channels to permute."""
    name = tensor.name.lower()
    if set(tensor.shape) <= {1}:
        return False
    return bool(_TOKENS & set(re.split(r"[._\d]+", name))) or any(part in name for part in _PARTS)


def summary(names: Collection[str]) -> dict[str, str]:
    """Names that differ in their numbers alone as one, `layers.{0-31}.q_proj`, with an example of each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    result = {}
    for common, (example, *others) in groups.items():
        columns = zip(*(re.findall(r"\d+", name) for name in (example, *others)), strict=True)
        parts = common.split("#")
        numbers = [*map(_range, columns), ""]
        result["".join(part + number for part, number in zip(parts, numbers, strict=True))] = example
    return result


def listed(complaints: Mapping[str, Collection[str]]) -> str:
    """What is said of names, as one text: at most 20 groups of them for each."""
    parts = []
    for about, names in complaints.items():
        groups = [f"{name!r:.200}" for name in summary(dict.fromkeys(names))]
        more = f" and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
        parts.append(f"{', '.join(groups[:_LISTED])}{more}: {about}")
    return "; ".join(parts)


def _range(numbers: tuple[str, ...]) -> str:
    values = sorted({int(number) for number in numbers})
    if len(values) == 1:
        return numbers[0]
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}-{values[-1]}}}"
    return "{" + ",".join(map(str, values)) + "}"
