"""Encodings on the host, correctly rounded: float64, checked against rounding boundaries, exact where too close.

In units of 2^-53 a value is off by at most 7 of itself (the wave 5, the magnitude 1, the product with it 1), plus what
increments lack, |p| * 2^-129 turn: `_ERROR` is 8, `_INCREMENT_ERROR` a little more than the latter in radians.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from posenc.spec.plan import PhaseSpec
from posenc.torch_impl.formats import bits, round_to
from posenc.torch_impl.inputs import CPU, dtype_name
from posenc.torch_impl.waves import float_phase, wide_phase, wide_waves
from posenc.torch_impl.words import Facts, facts, is_padding, words

_ERROR = 2.0**-50
_INCREMENT_ERROR = 2.0**-126  # above 2 pi * 2^-129
_CHUNK = 1 << 14  # pairs at a time: the temporaries stay in the cache


def encode_directly(spec: PhaseSpec, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """`(N,)` -> `(N, dim)`, every value from its own phase."""
    fact = facts(spec)
    rows = max(1, _CHUNK // fact.pairs)
    count = positions.shape[0]
    if count <= rows:
        result = _block(spec, fact, positions, dtype)
    else:
        result = torch.empty(count, fact.dim, dtype=dtype, device=CPU)
        for first in range(0, count, rows):
            result[first : first + rows] = _block(spec, fact, positions[first : first + rows], dtype)
    if fact.padding_position is not None:
        result.masked_fill_(is_padding(fact, positions).unsqueeze(-1), 0)
    return result


def _block(spec: PhaseSpec, fact: Facts, positions: Tensor, dtype: torch.dtype) -> Tensor:
    column = positions.unsqueeze(-1)
    wide = arrange(fact, *waves_of(spec, column, exact=dtype == torch.float64))
    if fact.magnitude != 1.0:
        wide = wide * fact.magnitude
    checked = dtype != torch.float64 and not positions.is_floating_point()
    rounded = settled(spec, wide, column, None, dtype) if checked else round_to(wide, dtype)
    return padded(fact, hold_still(spec, rounded))


def hold_still(spec: PhaseSpec, encoding: Tensor) -> Tensor:
    """Write, in place, what pairs that do not turn have: computed once, and not once for every position."""
    if facts(spec).still:
        for begin, end, value in _still_values(spec, encoding.dtype):  # type: ignore[arg-type]  # hashable
            encoding.narrow(-1, begin, end - begin).fill_(value)
    return encoding


@lru_cache(maxsize=64)
def _still_values(spec: PhaseSpec, dtype: torch.dtype) -> list[tuple[int, int, float]]:
    return [(begin, end, spec.value(0, begin, dtype_name(dtype))) for begin, end in facts(spec).still]


def settled(spec: PhaseSpec, wide: Tensor, positions: Tensor, channels: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Direct values rounded to `dtype`, by exact arithmetic where their interval holds a boundary."""
    fact = facts(spec)
    phases = positions + fact.offset if fact.offset else positions
    margin = wide.abs().mul_(_ERROR).add_(phases.abs(), alpha=_INCREMENT_ERROR * fact.magnitude)
    for begin, end in fact.still if channels is None else ():
        margin.narrow(-1, begin, end - begin).zero_()  # nothing to settle: see `hold_still`
    upper, lower = round_to(wide + margin, dtype), round_to(wide - margin, dtype)
    # a float32 never underflows here, so that there is no zero whose sign a comparison of numbers would miss
    same = torch.equal(upper, lower) if dtype == torch.float32 else torch.equal(bits(upper), bits(lower))
    if not same:
        found = (bits(upper) != bits(lower)).nonzero()
        numbers = found[:, -1] if channels is None else channels[found[:, 0]]
        keys = [*zip(positions.flatten()[found[:, 0]].tolist(), numbers.tolist(), strict=True)]
        if fact.layout == "cos_sin":  # at no angle all pairs are alike
            keys = [(p, n if p + fact.offset else n - n % fact.pairs) for p, n in keys]
        exactly = {key: spec.value(*key, dtype_name(dtype)) for key in set(keys)}
        upper[found.unbind(-1)] = torch.tensor([exactly[key] for key in keys], dtype=dtype, device=CPU)
    return upper


def waves_of(spec: PhaseSpec, positions: Tensor, *, offset: bool = True, exact: bool = False) -> tuple[Tensor, Tensor]:
    """`(..., 1)` -> sines and cosines `(..., pairs)` in float64."""
    if positions.is_floating_point():
        return wide_waves(*float_phase(positions, words(spec, "phase", CPU)), exact=exact)
    return wide_waves(
        *wide_phase(positions, words(spec, "wide", CPU), offset=offset and facts(spec).offset != 0), exact=exact
    )


def arrange(fact: Facts, sine: Tensor, cosine: Tensor) -> Tensor:
    """Two values a pair, `(..., pairs)` each, in the order of the layout: `(..., 2 * pairs)`."""
    first, second = (cosine, sine) if fact.layout == "cos_sin" else (sine, cosine)
    if fact.layout == "interleaved":
        return torch.stack((first, second), -1).flatten(-2)
    return torch.cat((first, second), -1)


def padded(fact: Facts, encoding: Tensor) -> Tensor:
    """`(..., 2 * pairs)` -> `(..., dim)`: an odd width ends with zero."""
    return torch.nn.functional.pad(encoding, (0, 1)) if fact.dim > 2 * fact.pairs else encoding
