"""One layer type of a configuration of transformers as a `Rope`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from posenc.interop.huggingface_families import (
    ALPHA,
    BESIDES,
    FIXED_BASE,
    LAST,
    NEGATIVE,
    QUERY_SCALE,
    READS_ROTARY_DIM,
    ROTARY_HEAD,
    SAYS_INTERLEAVED,
    SCALES_SOFTMAX,
    Layout,
)
from posenc.interop.huggingface_layers import Layer
from posenc.interop.huggingface_notices import DefaultAssumed, LeftToTheModel, MeaningChanged, refuse, tell
from posenc.interop.huggingface_record import HEAD_DIMS, HEADS, LIMIT, Record
from posenc.interop.huggingface_scaling import Lengths, read_scaling
from posenc.spec import Proportional, Rope, SpecError, checks
from posenc.spec.rope_scaling import Scaling


def built(record: Record, layer: Layer, layout: Layout | None) -> Rope:
    """The rotation of `layer`, which has one."""
    name, given = record.model_type, dict(layer.given or {})
    scaling = _scaling(record, layer, given)
    layout = _layout(record, layout)
    head_dim, rotary_dim = _width(record, layer, given, scaling)
    if isinstance(scaling, Proportional):
        scaling = _floored(scaling, head_dim)
    base = checks.number(layer.named("rope_theta"), _base(record, layer, given))
    _tell_besides(record)
    try:
        return Rope(
            head_dim,
            base,
            layout,
            rotary_dim=rotary_dim,
            rotary_channels="last" if name in LAST else "first",
            direction="negative" if name in NEGATIVE else "positive",
            scaling=scaling,
        )
    except SpecError as error:
        keys = {  # what only the whole specification can refuse
            "LongRope.short_factors": layer.named("short_factor"),
            "LongRope.long_factors": layer.named("long_factor"),
            "Rope.base": layer.named("rope_theta"),
            "Rope.head_dim": f"{record.where}.head_dim",
            "Rope.scaling": layer.where,
        }
        field, colon, rest = str(error).partition(":")
        raise SpecError(f"{keys.get(field, field)}{colon}{rest}") from None


def _layout(record: Record, layout: Layout | None) -> Layout:
    where = f"{record.where}.layout"
    if layout is not None:
        checks.choice(where, layout, ("half", "interleaved", "interleaved_to_half"))
        return layout
    if record.family is None:
        refuse(where, f"'half' or 'interleaved', which the model_type {record.model_type!r} does not say here", None)
    if record.model_type not in SAYS_INTERLEAVED:
        return record.family.layout
    said = record.values.get("rope_interleave")
    if said is not None:
        checks.boolean(f"{record.where}.rope_interleave", said)
    return "half" if said is False else "interleaved_to_half"


def _scaling(record: Record, layer: Layer, given: dict[str, Any]) -> Scaling | None:
    name, key = record.model_type, "llama_4_scaling_beta"
    longest = record.longest()
    if name in QUERY_SCALE:
        if given.pop(key, None):
            tell(LeftToTheModel, f"{layer.where}.{key}: multiplies queries by a function of the position, in {name}")
        if longest is not None and given.get("max_position_embeddings") == longest:
            del given["max_position_embeddings"]  # once more what the configuration says
    lengths = Lengths(record.where, record.remedy, longest, record.values.get("original_max_position_embeddings"))
    scaling = read_scaling(layer, given, lengths, name, alpha=name in ALPHA, softmax=name in SCALES_SOFTMAX)
    initial = record.values.get("initial_context_length")
    original = getattr(scaling, "original_length", initial)
    if initial is not None and initial != original:
        refuse(
            f"{record.where}.initial_context_length", f"the original length of its rope parameters, {original}", initial
        )
    return scaling


def _base(record: Record, layer: Layer, given: dict[str, Any]) -> object:
    where, name, said = layer.named("rope_theta"), record.model_type, given.get("rope_theta")
    if name in FIXED_BASE:
        if said not in (None, 10_000):
            refuse(where, f"10000, which {name} has in its code", said)
        return 10_000
    if said is not None:
        return said
    default = record.family.theta if record.family is not None else None
    if default is None:
        received = f"{layer.missing('rope_theta')}{record.remedy}"
        raise SpecError(f"{where}: expected a finite number > 0, received {received}")
    tell(DefaultAssumed, f"{where}: absent; the default of transformers for {name} is taken, {default:g}")
    return default


def _width(record: Record, layer: Layer, given: dict[str, Any], scaling: Scaling | None) -> tuple[int, int | None]:
    """Channels of a head, and how many of them turn; None: all."""
    name, fraction = record.model_type, given.get("partial_rotary_factor")
    if name in ROTARY_HEAD or record.family is None:
        rotary = record.values.get("qk_rope_head_dim")
        if rotary is not None:
            rotary = checks.integer(f"{record.where}.qk_rope_head_dim", rotary, minimum=2, limit=LIMIT)
            _check_rotary_head(record, layer, rotary, scaling)
            return rotary, None
        if name in ROTARY_HEAD and record.first(HEAD_DIMS) is None:
            where = f"{record.where}.qk_rope_head_dim"
            raise SpecError(f"{where}: expected an integer >= 2, received no such key{record.remedy}")
    head_dim = record.head_dim() if layer.head_dim is None else layer.head_dim
    if name == "clvp_encoder":
        return head_dim, _clvp_width(record)
    dims = {key: record.values.get(key) for key in ("rotary_dim", "qk_rope_head_dim") if key in record.values}
    said = record.one(dims.items())
    if said is not None:
        key = next(key for key, value in dims.items() if value is not None)
        said = checks.integer(f"{record.where}.{key}", said, minimum=2, limit=LIMIT)
        if key == "rotary_dim" and name not in READS_ROTARY_DIM and said != head_dim:
            tell(MeaningChanged, f"{record.where}.{key}: read as it is said; transformers 5.23 does not read it")
    elif name in ("codegen", "gptj"):
        where = f"{record.where}.rotary_dim"
        raise SpecError(f"{where}: expected an even integer >= 2, received no such key{record.remedy}")
    if isinstance(scaling, Proportional):
        if said not in (None, head_dim):
            refuse(f"{record.where}.rotary_dim", f"head_dim = {head_dim} with rope_type 'proportional'", said)
        return head_dim, None
    whole = record.family is not None and record.family.fraction is None
    if whole:
        _refuse_part(record, layer, head_dim, fraction, said)
        return head_dim, None
    where = layer.named("partial_rotary_factor")
    if fraction is None:
        return head_dim, _default_width(record, where, head_dim) if said is None else said
    width = rotary_width(where, head_dim, fraction)
    if said not in (None, width):
        refuse(where, f"one that gives the rotary width {said}", fraction)
    return head_dim, width


def _floored(scaling: Proportional, head_dim: int) -> Proportional:
    """The rule that turns int(head_dim * fraction // 2) pairs, of a float product: the definition of transformers.

    That of the rule is the floor of an exact decimal, which 100 * 0.58 = 57.99999999999999 misses by one pair.
    """
    turning = int(scaling.fraction * head_dim // 2)
    if turning == scaling.turning(head_dim):
        return scaling
    return dataclasses.replace(scaling, fraction=(2 * turning + 1) / head_dim)  # between two floors


def rotary_width(where: str, head_dim: int, fraction: object) -> int:
    """int(head_dim * fraction) of a float product, which is the definition of transformers; even, or refused."""
    width = math.floor(head_dim * checks.fraction(where, fraction))
    if width % 2 or width < 2:
        refuse(where, f"one for which the rotary width int({head_dim} * fraction) is even and >= 2", fraction)
    return width


def _check_rotary_head(record: Record, layer: Layer, rotary: int, scaling: Scaling | None) -> None:
    """Multi-head latent attention: what turns is a tensor of its own, and a fraction, of whichever head, has to fit."""
    fraction, head = (layer.given or {}).get("partial_rotary_factor"), record.values.get("head_dim")
    if isinstance(scaling, Proportional):
        if head not in (None, rotary):
            refuse(f"{record.where}.head_dim", f"qk_rope_head_dim = {rotary} with rope_type 'proportional'", head)
        return
    if fraction is None:
        return
    where = layer.named("partial_rotary_factor")
    share, still = checks.fraction(where, fraction), record.values.get("qk_nope_head_dim")
    heads = [head, rotary, still + rotary if isinstance(still, int) else None]
    if not any(isinstance(size, int) and abs(size) < LIMIT and int(size * share) == rotary for size in heads):
        refuse(where, f"one that gives qk_rope_head_dim = {rotary}", fraction)


def _clvp_width(record: Record) -> int:
    width = checks.integer(
        f"{record.where}.projection_dim", record.values.get("projection_dim"), minimum=1, limit=LIMIT
    )
    heads = checks.integer(f"{record.where}.num_attention_heads", record.said(HEADS), minimum=1, limit=LIMIT)
    return max(width // (2 * heads), 32)


def _refuse_part(record: Record, layer: Layer, head_dim: int, fraction: object, rotary_dim: object) -> None:
    name = record.model_type
    if fraction is not None and fraction != 1:
        refuse(layer.named("partial_rotary_factor"), f"1: {name} turns the whole head", fraction)
    if rotary_dim not in (None, head_dim):
        refuse(f"{record.where}.rotary_dim", f"head_dim = {head_dim}: {name} turns the whole head", rotary_dim)


def _default_width(record: Record, where: str, head_dim: int) -> int | None:
    default = record.family.fraction if record.family is not None else 1.0
    if default is None or default == 1:
        return None
    tell(DefaultAssumed, f"{where}: absent; the default of transformers is taken, {default:g}")
    return rotary_width(where, head_dim, default)


def _tell_besides(record: Record) -> None:
    name = record.model_type
    if name in BESIDES:
        tell(LeftToTheModel, f"{record.where}.model_type: in {name} {BESIDES[name]}")
    if name == "roformer" and record.values.get("rotary_value"):
        tell(LeftToTheModel, f"{record.where}.rotary_value: values are turned, too")
