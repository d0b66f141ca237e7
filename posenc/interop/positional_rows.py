"""What a tensor holds of positions, and how the keys of a config say which rows it has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from posenc.interop.huggingface_notices import REMEDY, DefaultAssumed, refuse, tell
from posenc.interop.huggingface_record import LIMIT
from posenc.interop.port_moves import Rotary, Rows
from posenc.spec import DebertaBuckets, Learned, ShawClip, SpecError, SwinIndex, T5Bias, checks


class LeftOut(NamedTuple):
    """Not trained state: computed from the config, or in the file and read by no model. The reason of `left_out`."""

    reason: str


class Plain(NamedTuple):
    """Looks positional and has nothing to do with positions: moved as it is. The reason of `Move.plain`."""

    reason: str


class Unspecified(NamedTuple):
    """Trained positional state whose rows no specification says; as it is only where the target reads it alike."""

    reason: str


Holding = Rotary | Rows | LeftOut | Plain | Unspecified

_DEFAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("longt5 mt5 pop2piano switch_transformers t5 umt5", {"relative_attention_max_distance": 128}),
    ("camembert data2vec-text longformer roberta xlm-roberta xlm-roberta-xl", {"pad_token_id": 1}),
    ("mpnet", {"relative_attention_num_buckets": 32}),
    ("siglip_text_model", {"max_position_embeddings": 64, "hidden_size": 768}),
    ("siglip_vision_model", {"image_size": 224, "patch_size": 16, "hidden_size": 768}),
    ("blip_vision_model clip_vision_model", {"hidden_size": 768}),
    ("blip_text_model", {"max_position_embeddings": 512, "hidden_size": 768}),
    ("clip_text_model", {"max_position_embeddings": 77, "hidden_size": 512}),
)
DEFAULTS = {name: values for names, values in _DEFAULTS for name in names.split()}
"""What published files leave out, of the classes of transformers."""


class Settings:
    """The keys of one config, or of one part of it."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where, self.values = where, values
        name = values.get("model_type")
        self.model_type = name if isinstance(name, str) else ""

    def get(self, key: str) -> Any:
        """What is said, or the default of transformers where it is known here; None otherwise."""
        value = self.values.get(key)
        if value is None and key in DEFAULTS.get(self.model_type, {}):
            value = DEFAULTS[self.model_type][key]
            tell(DefaultAssumed, f"{self.where}.{key}: absent; the default of transformers is taken, {value}")
        return value

    def integer(self, key: str, *, minimum: int = 1) -> int:
        return checks.integer(f"{self.where}.{key}", self._there(key), minimum=minimum, limit=LIMIT)

    def sizes(self, key: str, count: int = 2) -> tuple[int, ...]:
        """One integer for every axis, or a list of one for each."""
        value = self._there(key)
        several = list(value) if isinstance(value, list | tuple) else [value] * count
        if len(several) != count:
            refuse(f"{self.where}.{key}", f"an integer, or {count}", value)
        return tuple(checks.integer(f"{self.where}.{key}", one, minimum=1, limit=LIMIT) for one in several)

    def of_stage(self, key: str, stage: int) -> int:
        value = self._there(key)
        if not isinstance(value, list | tuple) or stage >= len(value):
            refuse(f"{self.where}.{key}", f"a list that has an entry for stage {stage}", value)
        return checks.integer(f"{self.where}.{key}[{stage}]", value[stage], minimum=1, limit=LIMIT)

    def _there(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise SpecError(f"{self.where}.{key}: expected this key, received none{REMEDY}")
        return value


Builder = Callable[[Settings, re.Match[str]], Holding]


def same(spec: Any, axis: int = 0) -> Rows:
    """Rows that stay as they are."""
    return Rows(spec, spec, axis=axis)


def absolute(
    length: str, dim: str, *, divisor: int = 1, offset: int = 0, padding: Literal["row"] | None = None, axis: int = 0
) -> Builder:
    """A table of `length` positions behind `offset` rows; `{side}` in a key is that of the name."""

    def build(settings: Settings, name: re.Match[str]) -> Rows:
        positions = settings.integer(length.format(**name.groupdict()))
        width = settings.integer(dim) // divisor
        return same(Learned(positions, width, offset=offset, padding=padding), axis)

    return build


def fairseq(rows: str, dim: str, *, divisor: str = "", padding_idx: int | None = None) -> Builder:
    """A table of `rows` rows, of which position 0 reads the one behind that of padding."""

    def build(settings: Settings, _: re.Match[str]) -> Rows:
        padding = settings.integer("pad_token_id", minimum=0) if padding_idx is None else padding_idx
        length = settings.integer(rows) - padding - 1
        width = settings.integer(dim) // (settings.integer(divisor) if divisor else 1)
        if length < 1:
            refuse(f"{settings.where}.{rows}", f"more than {padding + 1} rows, as pad_token_id is {padding}", length)
        return same(Learned.roberta(length, width, padding_idx=padding))

    return build


def patches(tokens: int, *, image: str = "image_size", dim: str = "hidden_size", axis: int = 1) -> Builder:
    """A table of the patches of an image behind `tokens` others; `(1, rows, dim)` where `axis` is 1."""

    def build(settings: Settings, _: re.Match[str]) -> Rows:
        sides = zip(settings.sizes(image), settings.sizes("patch_size"), strict=True)
        grid = tuple(side // patch for side, patch in sides)
        return same(Learned.patches(grid, settings.integer(dim), tokens=tokens), axis)

    return build


def video(settings: Settings, _: re.Match[str]) -> Rows:
    """ViViT: tubelets behind a class token."""
    sizes = (settings.integer("num_frames"), *settings.sizes("image_size"))
    grid = tuple(size // part for size, part in zip(sizes, settings.sizes("tubelet_size", 3), strict=True))
    return same(Learned.patches(grid, settings.integer("hidden_size"), tokens=1), 1)


def spectrogram(settings: Settings, _: re.Match[str]) -> Rows:
    """The audio spectrogram transformer: overlapping patches of frequencies and times, behind two tokens."""
    axes = (("num_mel_bins", "frequency_stride"), ("max_length", "time_stride"))
    patch = settings.integer("patch_size")
    grid = tuple((settings.integer(size) - patch) // settings.integer(stride) + 1 for size, stride in axes)
    return same(Learned.patches(grid, settings.integer("hidden_size"), tokens=2), 1)


def square(settings: Settings, _: re.Match[str]) -> Rows:
    """SigLIP 2: a square of `num_patches`."""
    count = settings.integer("num_patches")
    side = math.isqrt(count)
    if side * side != count:
        refuse(f"{settings.where}.num_patches", "a square", count)
    return same(Learned.patches((side, side), settings.integer("hidden_size"), tokens=0))


def buckets(heads: str, count: str, furthest: str | int, *, axis: int = 0, decoder: bool = False) -> Builder:
    """T5's buckets: of a decoder those behind the query alone, where the name says `decoder` as its side."""

    def build(settings: Settings, name: re.Match[str]) -> Rows:
        forward = decoder or name.groupdict().get("side") == "decoder"
        most = furthest if isinstance(furthest, int) else settings.integer(furthest)
        spec = T5Bias(
            settings.integer(heads), buckets=settings.integer(count), max_distance=most, bidirectional=not forward
        )
        return same(spec, axis)

    return build


def window(size: str, heads: str) -> Builder:
    """Swin's windows, with heads by the stage of the name."""

    def build(settings: Settings, name: re.Match[str]) -> Rows:
        return same(SwinIndex(settings.of_stage(heads, int(name["stage"])), settings.sizes(size)))

    return build


def deberta(settings: Settings, _: re.Match[str]) -> Holding:
    """DeBERTa v2 and v3; without buckets, as in the first DeBERTa, every distance has a row, in descending order."""
    count = settings.get("position_buckets")
    if settings.model_type == "deberta" or not isinstance(count, int) or count < 1:
        return Unspecified(
            "a row for each clipped distance of query minus key, the order of which no specification has"
        )
    furthest = settings.get("max_relative_positions")
    if not isinstance(furthest, int) or furthest < 1:
        furthest = settings.integer("max_position_embeddings")
    return same(DebertaBuckets(count, furthest, clamped=False))


def shaw(settings: Settings, _: re.Match[str]) -> Rows:
    """Wav2Vec2-BERT."""
    sides = (settings.integer(f"{side}_max_position_embeddings", minimum=0) for side in ("left", "right"))
    return same(ShawClip(*sides))


def left_out(reason: str) -> Builder:
    return lambda _, __: LeftOut(reason)


def plain(reason: str) -> Builder:
    return lambda _, __: Plain(reason)


def unspecified(reason: str) -> Builder:
    return lambda _, __: Unspecified(reason)


def left_out_if(key: str, value: object, reason: str, otherwise: Builder) -> Builder:
    """`otherwise`, unless the config says `value`."""

    def build(settings: Settings, name: re.Match[str]) -> Holding:
        said = settings.get(key)
        return LeftOut(reason) if said == value and type(said) is type(value) else otherwise(settings, name)

    return build
