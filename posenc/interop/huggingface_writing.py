"""A scaling rule of posenc as rope parameters of transformers."""

from __future__ import annotations

from typing import Any

from posenc.interop.huggingface_notices import refuse
from posenc.spec import DynamicNtk, Linear, Llama3, LongRope, Ntk, Proportional, Yarn
from posenc.spec.rope_scaling import Scaling


def write_scaling(scaling: Scaling | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rope parameters that say `scaling`, and what stands outside of them. SpecError where there are none."""
    if scaling is None:
        return {"rope_type": "default"}, {}
    if isinstance(scaling, Linear):
        return {"rope_type": "linear", "factor": scaling.factor}, {}
    if isinstance(scaling, Ntk):
        return {"rope_type": "dynamic", "factor": 1.0, "alpha": scaling.factor}, {}
    if isinstance(scaling, DynamicNtk):
        outside = {"max_position_embeddings": scaling.original_length}
        return {"rope_type": "dynamic", "factor": scaling.factor}, outside
    if isinstance(scaling, Proportional):
        return {
            "rope_type": "proportional",
            "partial_rotary_factor": scaling.fraction,
            "factor": scaling.factor,
        }, {}
    if isinstance(scaling, Llama3):
        said = {"factor": scaling.factor, "original_max_position_embeddings": scaling.original_length}
        bands = {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        return {"rope_type": "llama3"} | said | bands, {}
    if isinstance(scaling, Yarn):
        return _written_yarn(scaling), {}
    if isinstance(scaling, LongRope):
        return _written_longrope(scaling)
    return refuse("to_config.scaling", "a rule that transformers has", scaling)


def _written_yarn(scaling: Yarn) -> dict[str, Any]:
    magnitudes = {name: getattr(scaling, name) for name in ("attention_factor", "mscale", "mscale_all_dim")}
    magnitudes = {name: value for name, value in magnitudes.items() if value is not None}
    rule = "transformers" if magnitudes else None
    if scaling.magnitude_rule != rule:
        refuse("to_config.scaling.magnitude_rule", f"{rule!r}, which is the only one there", scaling.magnitude_rule)
    if scaling.scale_softmax and not scaling.mscale_all_dim:
        refuse("to_config.scaling.scale_softmax", "False without mscale_all_dim", True)
    said = {"factor": scaling.factor, "original_max_position_embeddings": scaling.original_length}
    ramp = {name: getattr(scaling, name) for name in ("beta_fast", "beta_slow", "truncate")}
    return {"rope_type": "yarn"} | said | ramp | magnitudes


def _written_longrope(scaling: LongRope) -> tuple[dict[str, Any], dict[str, Any]]:
    said: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": list(scaling.short_factors),
        "long_factor": list(scaling.long_factors),
        "original_max_position_embeddings": scaling.original_length,
    }
    if scaling.magnitude_rule != "longrope":
        refuse("to_config.scaling.magnitude_rule", "'longrope'", scaling.magnitude_rule)
    if scaling.attention_factor is not None:
        return said | {"attention_factor": scaling.attention_factor}, {}
    if scaling.short_mscale is not None:
        return said | {"short_mscale": scaling.short_mscale, "long_mscale": scaling.long_mscale}, {}
    if scaling.extended_length is not None:
        return said, {"max_position_embeddings": scaling.extended_length}
    if scaling.factor is None or scaling.factor < 1:
        refuse("to_config.scaling.factor", "a number >= 1, or another of the fields that decide it", scaling.factor)
    return said | {"factor": scaling.factor}, {}
