"""Specifications as JSON: one canonical text a specification, every field written, nothing guessed when read."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, NoReturn

from posenc.spec import checks
from posenc.spec.alibi import Alibi
from posenc.spec.deberta_buckets import DebertaBuckets
from posenc.spec.learned import Learned
from posenc.spec.relative_index import MusicTransformerIndex, ShawClip, TransformerXLIndex
from posenc.spec.rope import Rope
from posenc.spec.rope_scaling import SCALINGS
from posenc.spec.sinusoidal import Sinusoidal
from posenc.spec.swin_index import SwinIndex
from posenc.spec.t5_bias import T5Bias

SCHEMA = 1
Spec = (
    Sinusoidal
    | Rope
    | Learned
    | Alibi
    | T5Bias
    | SwinIndex
    | ShawClip
    | DebertaBuckets
    | TransformerXLIndex
    | MusicTransformerIndex
)
FAMILIES: dict[str, type[Spec]] = {
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "learned": Learned,
    "alibi": Alibi,
    "t5_bias": T5Bias,
    "swin_index": SwinIndex,
    "shaw_clip": ShawClip,
    "deberta_buckets": DebertaBuckets,
    "transformer_xl_index": TransformerXLIndex,
    "music_transformer_index": MusicTransformerIndex,
}


def to_json(spec: Spec) -> str:
    """The canonical text: the same for equal specifications, the fields in the order of their definition.

    Raises SpecError for anything that is not a specification.
    """
    for family, kind in FAMILIES.items():
        if type(spec) is kind:
            record = {"schema": SCHEMA, "family": family}
            record |= {field.name: _written(getattr(spec, field.name)) for field in fields(spec)}
            return json.dumps(record, allow_nan=False)
    raise checks.SpecError(f"to_json: expected a specification, received {checks.shown(spec)}")


def from_json(text: str) -> Spec:
    """The specification that `to_json` wrote; `from_json(to_json(spec)) == spec`.

    Raises SpecError, by name, for keys that are unknown, missing, repeated or of another type.
    """
    if not isinstance(text, str):
        raise checks.SpecError(f"from_json: expected JSON text, received {checks.shown(text)}")
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise checks.SpecError(f"from_json: expected JSON text, received {checks.shown(text)} ({error})") from None
    except ValueError as error:
        if isinstance(error, checks.SpecError):
            raise
        raise checks.SpecError(f"from_json: {error}") from None  # an integer of more digits than Python reads
    if not isinstance(record, dict):
        raise checks.SpecError(f"from_json: expected a JSON object, received {checks.shown(record)}")
    return _read(record)


def _read(record: dict[str, Any]) -> Spec:
    schema = record.get("schema", "no schema")
    if isinstance(schema, bool) or schema != SCHEMA or not isinstance(schema, int):
        raise checks.SpecError(f"from_json.schema: expected {SCHEMA}, received {checks.shown(schema)}")
    family = record.get("family", "no family")
    checks.choice("from_json.family", family, tuple(FAMILIES))
    values = _fields(FAMILIES[family], record, besides=("schema", "family"))
    if family == "rope":
        values["scaling"] = _read_scaling(values["scaling"])
    return FAMILIES[family](**values)


def _read_scaling(record: object) -> object:
    if record is None:
        return None
    if not isinstance(record, dict):
        raise checks.SpecError(f"Rope.scaling: expected null or a JSON object, received {checks.shown(record)}")
    rule = record.get("rule", "no rule")
    checks.choice("Rope.scaling.rule", rule, tuple(SCALINGS))
    return SCALINGS[rule](**_fields(SCALINGS[rule], record, besides=("rule",)))


def _written(value: Any) -> Any:
    """A scaling as an object that names its rule first; anything else as it is."""
    if type(value).__name__ not in SCALINGS:
        return value
    return {"rule": type(value).__name__} | {field.name: getattr(value, field.name) for field in fields(value)}


def _fields(kind: type[Any], record: dict[str, Any], besides: tuple[str, ...]) -> dict[str, Any]:
    """The values of every field of `kind`, by name: no other key, and none missing."""
    names = [field.name for field in fields(kind)]
    for name in record:
        if name not in names and name not in besides:
            raise checks.SpecError(
                f"{kind.__name__}: expected the keys {', '.join(names)}, received {checks.shown(name)}"
            )
    for name in names:
        if name not in record:
            raise checks.SpecError(f"{kind.__name__}.{name}: expected this key, received an object without it")
    return {name: record[name] for name in names}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise checks.SpecError(f"from_json: expected each key once, received {checks.shown(repeated)} twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise checks.SpecError(f"from_json: expected finite numbers, received {name}")
