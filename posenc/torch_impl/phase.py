"""phase, encode, add, table: what a specification has at positions, as tensors.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from posenc.spec.plan import PhaseSpec, RotarySpec
from posenc.torch_impl import inputs
from posenc.torch_impl.addition import encode_range, encode_values
from posenc.torch_impl.formats import add_once
from posenc.torch_impl.inputs import CPU, arange, on_host
from posenc.torch_impl.rounded import arrange, padded
from posenc.torch_impl.waves import float_phase, fused_phase, phase_words, short_wave, wide_phase, wide_waves
from posenc.torch_impl.words import (
    Facts,
    checked_facts,
    facts,
    is_padding,
    trace_key,
    traced_facts,
    traced_words,
    words,
)


class Table(NamedTuple):
    """Cosines and sines of a rotation, each `(*P, pairs)`, times the magnitude of its specification."""

    cos: Tensor
    sin: Tensor


def phase(spec: PhaseSpec, positions: Any) -> Tensor:
    """The upper three 32-bit words of every phase, int64, most significant first: `(*P,)` -> `(*P, pairs, 3)`."""
    if inputs.traced():
        key = trace_key("phase", spec)
        values = inputs.read_traced_positions("phase", positions)
        return _phase(values, traced_words(key, "phase", str(values.device)))
    checked_facts("phase", spec)
    found = inputs.read_positions("phase", positions)
    if isinstance(found, range):
        found = arange(found)
    device = found.device
    if device.type == "cpu":
        return on_host("phase", found, lambda p: _phase(p, words(spec, "phase", device)))
    return _phase(found, words(spec, "phase", device))


def encode(spec: PhaseSpec, positions: Any, *, dtype: torch.dtype | str = torch.float32) -> Tensor:
    """Encoding vectors, `(*P,)` -> `(*P, dim)`.

    Correctly rounded where the positions are on the CPU and nothing is traced. Inside torch.compile and torch.export,
    and on accelerators, a fused float32 formula on the device of the positions, within 2^-23 of the magnitude (float64
    is then computed in float64 on a CPU, and widened from float32 elsewhere).
    """
    if inputs.traced():
        key = trace_key("encode", spec, rotary=False)
    else:
        key = None
        checked_facts("encode", spec, rotary=False)
    return _read_and_encode("encode", spec, key, positions, dtype)


def table(spec: RotarySpec, positions: Any, *, dtype: torch.dtype | str = torch.float32) -> Table:
    """Cosines and sines for `rotate`, `(*P,)` -> `(*P, pairs)` twice: rounded as `encode` rounds, where it does.

    One table serves every layer, and queries and keys alike.
    """
    if inputs.traced():
        key = trace_key("table", spec, rotary=True)
        pairs = traced_facts(key).pairs
    else:
        key, pairs = None, checked_facts("table", spec, rotary=True).pairs
    waves = _read_and_encode("table", spec, key, positions, dtype)
    return Table(waves[..., :pairs], waves[..., pairs:])


def add(spec: PhaseSpec, x: Tensor, positions: Any = None) -> Tensor:
    """`x` plus its encoding, rounded once to the dtype of x: `(..., dim)` -> `(..., dim)`, on the device of x.

    Without positions they are `range(x.shape[-2])`. The gradient with respect to x passes unchanged.
    """
    if inputs.traced():
        key = trace_key("add", spec, rotary=False)
        inputs.read_x("add", x, traced_facts(key).dim, positions)
        if positions is None:
            found = torch.arange(x.shape[-2], dtype=torch.int64, device=x.device)
        else:
            found = inputs.read_traced_positions("add", positions).to(x.device)
            inputs.check_broadcast("add", x, found.shape)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return (x.to(wide) + _traced(key, found, wide)).to(x.dtype)
    inputs.read_x("add", x, checked_facts("add", spec, rotary=False).dim, positions)
    given = range(x.shape[-2]) if positions is None else inputs.read_positions("add", positions)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs.check_broadcast("add", x, (len(given),) if isinstance(given, range) else given.shape)
    encoding = _encode("add", spec, given, wide, x.device)
    if x.dtype == wide:
        return x + encoding
    if x.device.type != "cpu":
        return (x.to(wide) + encoding).to(x.dtype)
    return add_once(x, encoding)


def _read_and_encode(where: str, spec: PhaseSpec, key: str | None, positions: Any, dtype: object) -> Tensor:
    """`encode` of a specification that is checked; `key`: that of a trace."""
    target = inputs.read_dtype(where, dtype)
    if key is not None:
        return _traced(key, inputs.read_traced_positions(where, positions), target)
    found = inputs.read_positions(where, positions)
    return _encode(where, spec, found, target, found.device if isinstance(found, Tensor) else CPU)


def _encode(where: str, spec: PhaseSpec, positions: Tensor | range, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(positions, range):
        if device.type == "cpu":
            return encode_range(spec, positions, dtype)
        positions = arange(positions, device)
    if positions.device.type == "cpu" and device.type == "cpu":
        return on_host(where, positions, lambda p: encode_values(spec, p, dtype))
    if device.type != "cpu":
        positions = positions.to(device, non_blocking=True)
    return fused(facts(spec), positions, words(spec, "fused", positions.device)).to(dtype)


def _phase(positions: Tensor, constants: Tensor) -> Tensor:
    return torch.stack(phase_words(positions.unsqueeze(-1), constants)[:3], -1)


def _traced(key: str, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Without checks and without a look at values: float64 in float64 on a CPU, everything else in float32."""
    fact, device = traced_facts(key), str(positions.device)
    if dtype != torch.float64 or positions.device.type != "cpu":
        return fused(fact, positions, traced_words(key, "fused", device)).to(dtype)
    if positions.is_floating_point():
        sine, cosine = wide_waves(*float_phase(positions.unsqueeze(-1), traced_words(key, "phase", device)), exact=True)
    else:
        sine, cosine = wide_waves(*wide_phase(positions.unsqueeze(-1), traced_words(key, "wide", device)), exact=True)
    return _without_padding(fact, positions, padded(fact, arrange(fact, sine, cosine) * fact.magnitude))


def fused(fact: Facts, positions: Tensor, constants: Tensor) -> Tensor:
    """`(*P,)` -> `(*P, dim)` in float32."""
    turns, fraction = fused_phase(positions.unsqueeze(-1), constants)
    return _without_padding(fact, positions, short_wave(turns, fraction, fact.factor, fact.excess))


def _without_padding(fact: Facts, positions: Tensor, encoding: Tensor) -> Tensor:
    if fact.padding_position is None:
        return encoding
    return torch.where(is_padding(fact, positions).unsqueeze(-1), 0.0, encoding)
