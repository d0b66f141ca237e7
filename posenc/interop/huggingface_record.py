"""A configuration of transformers as a record of keys: both shapes, by layer type, no key about rotation unread."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posenc.interop import json_text
from posenc.interop.huggingface_families import (
    ALSO_ABOUT_ROTATION,
    FAMILIES,
    HEAD_DIM,
    INITIAL_LENGTH,
    LEARNED,
    LISTS_LAYERS,
    OLDER_THETAS,
    OWN_KEYS,
    ROTARY_HEAD,
    SAYS_INTERLEAVED,
    SAYS_ROPE,
    SEVERAL_AXES,
    SWITCHES,
)
from posenc.interop.huggingface_notices import REMEDY, DefaultAssumed, refuse, tell
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
FORMS = "a dict, a configuration object, a JSON file or a directory that holds config.json"
LIMIT = 2**31
"""Of sizes and lengths: floats hold them, and products of two."""
BASES = ("rope_theta", "rotary_emb_base", "rotary_embedding_base")
FRACTIONS = ("partial_rotary_factor", "rotary_pct")
LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len")


def load(where: str, config: object) -> dict[str, Any]:
    """A dict, an object with `to_dict`, a JSON file, or a directory with a config.json."""
    if isinstance(config, str | os.PathLike):
        path = _file(where, config)
        try:
            config = json_text.read(path)
        except json_text.RepeatedKeyError as error:
            raise SpecError(f"{where}.{error.key}: expected the key once, received it twice") from None
        except ValueError as error:
            raise SpecError(f"{where}: expected JSON in {path.name}, received {error}") from None
    elif isinstance(config, type):
        raise SpecError(f"{where}: expected {FORMS}, received the class {config.__name__}, and not an object of it")
    elif not isinstance(config, Mapping) and callable(getattr(config, "to_dict", None)):
        config = config.to_dict()  # type: ignore[attr-defined]  # just asked
    if not isinstance(config, Mapping):
        if hasattr(config, "config"):
            raise SpecError(f"{where}: expected {FORMS}, received {type(config).__name__} (hand over its .config)")
        refuse(where, FORMS, config)
    return dict(config)


def _file(where: str, config: str | os.PathLike[str]) -> Path:
    path = Path(config)
    try:
        path = path / "config.json" if path.is_dir() else path
        there = path.exists()
    except (OSError, ValueError):  # too long for a name, or with a character that no name has
        there = False
    if not there:
        refuse(where, "a file or folder on this machine (a hub name is not looked up)", config)
    return path


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
        if self.values.get("use_mrope") is False:
            said.remove("use_mrope")
        return [key for key in said if ABOUT_ROTATION.search(key) or key in ALSO_ABOUT_ROTATION]

    def _refuse_unknown(self) -> None:
        name = self.model_type
        if name in SEVERAL_AXES:
            refuse(
                f"{self.where}.model_type", "a model of one position axis (several axes are not supported yet)", name
            )
        if name in LEARNED:
            refuse(f"{self.where}.model_type", "a model whose frequencies the configuration says, not weights", name)
        known = repr(name or "every model")
        own = (*GENERAL, *OWN_KEYS.get(name, ()))
        own += (LISTS_LAYERS[name],) if name in LISTS_LAYERS else ()
        own += OLDER_THETAS[name][:2] if name in OLDER_THETAS else ()
        own += (SWITCHES[name][0],) if name in SWITCHES else ()
        own += ("no_rope_layer_interval",) if "no_rope_layers" in own else ()  # of which that list was made
        own += ("initial_context_length",) if name in INITIAL_LENGTH else ()
        own += ("rope_interleave",) if name in SAYS_INTERLEAVED else ()
        own += ("qk_rope_head_dim",) if name in ROTARY_HEAD or self.family is None else ()
        for key in self._about_rotation():
            if key not in own:
                one = "one position axis (several axes are not supported yet)"
                expected = one if "mrope" in key or "xdrope" in key else f"a key about rotation that {known} has"
                refuse(f"{self.where}.{key}", expected, self.values[key])
        for key in SAYS_ROPE:
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
        if self.model_type in HEAD_DIM and not any(key in self.values for key in HEAD_DIMS):
            size = HEAD_DIM[self.model_type]
            tell(DefaultAssumed, f"{self.where}.head_dim: absent; the default of transformers is taken, {size}")
            return size
        hidden, heads = self.said(HIDDEN), self.said(HEADS)
        if hidden is None or heads is None:
            expected = "it, or hidden_size and num_attention_heads"
            raise SpecError(f"{self.where}.head_dim: expected {expected}, received None{self.remedy}")
        size = checks.integer(f"{self.where}.hidden_size", hidden, minimum=1, limit=LIMIT)
        count = checks.integer(f"{self.where}.num_attention_heads", heads, minimum=1, limit=LIMIT)
        if size % count:
            refuse(f"{self.where}.hidden_size", f"a multiple of the {count} heads where head_dim is absent", size)
        return size // count

    @property
    def remedy(self) -> str:
        """What helps where a key is absent whose default is not known here."""
        return REMEDY if self.family is not None else ""

    def longest(self) -> Any:
        """`max_position_embeddings`, by any of its names."""
        return self.said((*LONGEST, *(("model_max_length",) if self.model_type == "bailing_hybrid" else ())))
