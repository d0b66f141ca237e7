"""A configuration of transformers as a record of keys: both shapes, by layer type, no key about rotation unread."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posenc.interop.huggingface_families import (
    FAMILIES,
    LEARNED,
    LISTS_LAYERS,
    OLDER_THETAS,
    OWN_KEYS,
    ROTARY_HEAD,
    SAYS_INTERLEAVED,
    SEVERAL_AXES,
    SWITCHES,
)
from posenc.interop.huggingface_notices import refuse
from posenc.spec import SpecError, checks

ABOUT_ROTATION = re.compile(r"(?<![a-z])(rope|theta|ntk)|rotary|rotate|yarn|mscale|alibi", re.IGNORECASE)
GENERAL = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_dim",
)
NOT_ABOUT_ROTATION = ("no_rope_layer_interval",)  # from which no_rope_layers was made
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "speech_encoder_attention_heads",
    "decoder_num_attention_heads",
)
HEAD_DIMS = ("head_dim", "attention_head_dim", "kv_channels")
LIMIT = 2**31
"""Of sizes and lengths: floats hold them, and products of two."""
BASES = ("rope_theta", "rotary_emb_base", "rotary_embedding_base")
FRACTIONS = ("partial_rotary_factor", "rotary_pct")
LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len")


def load(where: str, config: object) -> dict[str, Any]:
    """A dict, an object with `to_dict`, a JSON file, or a directory with a config.json."""
    if isinstance(config, str | os.PathLike):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        try:
            config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _once(where, pairs))
        except (ValueError, RecursionError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"{where}: expected JSON in {path.name}, received {error}") from None
    elif not isinstance(config, Mapping) and callable(getattr(config, "to_dict", None)):
        config = config.to_dict()  # type: ignore[attr-defined]  # just asked
    if not isinstance(config, Mapping):
        refuse(where, "a dict, a configuration object, a JSON file or a directory that holds config.json", config)
    return dict(config)


def _once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise SpecError(f"{where}.{repeated}: expected the key once, received it twice")
    return record


class Record:
    """One configuration, at the level where its rotation is said."""

    def __init__(self, where: str, config: object) -> None:
        self.values = load(where, config)
        self.where = where
        for _ in range(4):  # composite models hold their language model in a configuration of its own
            inner = self.values.get("text_config")
            if self._known() or not isinstance(inner, Mapping):
                break
            for key in self._about_rotation():
                refuse(f"{self.where}.{key}", "it in text_config, where the rotation is said", self.values[key])
            self.values, self.where = dict(inner), f"{self.where}.text_config"
        self.family = FAMILIES.get(self.model_type)
        self._refuse_unknown()

    @property
    def model_type(self) -> str:
        name = self.values.get("model_type")
        return name if isinstance(name, str) else ""

    def _known(self) -> bool:
        return self.model_type in FAMILIES or self.model_type in SEVERAL_AXES or self.model_type in LEARNED

    def _about_rotation(self) -> list[str]:
        said = [key for key, value in self.values.items() if value is not None and isinstance(key, str)]
        return [key for key in said if ABOUT_ROTATION.search(key) and key not in NOT_ABOUT_ROTATION]

    def _refuse_unknown(self) -> None:
        name = self.model_type
        if name in SEVERAL_AXES:
            refuse(
                f"{self.where}.model_type", "a model of one position axis (several axes are not supported yet)", name
            )
        if name in LEARNED:
            refuse(f"{self.where}.model_type", "a model whose frequencies the configuration says, not weights", name)
        own = (*GENERAL, *OWN_KEYS.get(name, ()))
        own += (LISTS_LAYERS[name],) if name in LISTS_LAYERS else ()
        own += OLDER_THETAS[name][:2] if name in OLDER_THETAS else ()
        own += (SWITCHES[name][0],) if name in SWITCHES else ()
        own += ("rope_interleave",) if name in SAYS_INTERLEAVED else ()
        own += ("qk_rope_head_dim",) if name in ROTARY_HEAD or self.family is None else ()
        for key in self._about_rotation():
            if key not in own:
                refuse(
                    f"{self.where}.{key}", f"a key about rotation that {name or 'every model'!r} has", self.values[key]
                )
        for key in ("position_embedding_type", "position_embeddings_type"):
            value = self.values.get(key)
            if value is not None and not (name in SWITCHES and SWITCHES[name][0] == key):
                checks.choice(f"{self.where}.{key}", value, ("rope", "rotary", None))

    def first(self, names: Iterable[str]) -> tuple[str, Any] | None:
        """The first of some names of one thing that is said."""
        return next(((name, self.values[name]) for name in names if self.values.get(name) is not None), None)

    def said(self, names: Iterable[str]) -> Any:
        """What is said under any of several names, which may not contradict one another; None: nothing."""
        return self.one((name, self.values.get(name)) for name in names)

    def one(self, names: Iterable[tuple[str, Any]]) -> Any:
        """What may be said in several places: None if in none, and the same wherever it is."""
        said = [(name, value) for name, value in names if value is not None]
        for name, value in said[1:]:
            if value != said[0][1]:
                refuse(f"{self.where}.{name}", f"what {said[0][0]} says, {checks.shown(said[0][1])}", value)
        return said[0][1] if said else None

    def head_dim(self) -> int:
        """Channels of a head; said, or else the hidden size by the heads."""
        said = self.first(HEAD_DIMS)
        if said is not None:
            return checks.integer(f"{self.where}.{said[0]}", said[1], minimum=2, limit=LIMIT)
        hidden, heads = self.said(HIDDEN), self.said(HEADS)
        if hidden is None or heads is None:
            refuse(f"{self.where}.head_dim", "it, or hidden_size and num_attention_heads", None)
        size = checks.integer(f"{self.where}.hidden_size", hidden, minimum=1, limit=LIMIT)
        count = checks.integer(f"{self.where}.num_attention_heads", heads, minimum=1, limit=LIMIT)
        if size % count:
            refuse(f"{self.where}.hidden_size", f"a multiple of the {count} heads where head_dim is absent", size)
        return size // count

    def longest(self) -> Any:
        """`max_position_embeddings`, by any of its names."""
        return self.said((*LONGEST, *(("model_max_length",) if self.model_type == "bailing_hybrid" else ())))
