"""Multiples of slopes on the host, correctly rounded: an interval in float64, exact where it holds a boundary.

In units of 2^-53 an end of the interval, `n * end`, errs by 3 of itself, one for each rounding of the slope, of the end
and of the product: `_ERROR` is 4. Where a slope is its 21 leading bits the product itself is exact in float64, and
float32 rounds it once. Half precision is rounded by way of float32, so that the interval is wider by half a unit of
that; what it leaves open is decided with one rounding of a better product.

Slopes that differ by a power of two, of which 32 heads have four kinds, are computed once: their products differ by
that power, rounded too, but for float16, whose exponents end where these products do not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from posenc.spec.distance_plan import Slope, SlopeSpec
from posenc.torch_impl.formats import bits, round_to
from posenc.torch_impl.inputs import CPU, dtype_name

_ERROR = 2.0**-51
_HALF_UNIT = 2.0**-24 + 2.0**-48  # of float32


class _Part(NamedTuple):
    """Equally spaced heads whose slopes are `factors` times that of one of the kinds."""

    kind: int
    heads: slice
    factors: list[float]


class Multiplier:
    """Called with `(*S,)` integers below 2^32 it writes their products with all slopes: `(heads, *S)`."""

    def __init__(self, spec: SlopeSpec, slopes: tuple[Slope, ...], dtype: torch.dtype) -> None:
        self._spec, self._dtype = spec, dtype
        self._heads, parts = _kinds(slopes, dtype != torch.float16)
        self._parts = [(kind, part, torch.tensor(factors, dtype=dtype, device=CPU)) for kind, part, factors in parts]
        pairs = torch.tensor([slopes[head][:2] for head in self._heads], dtype=torch.float64, device=CPU)
        self._high, self._low = pairs.unsqueeze(-1).unbind(1)
        slope = self._high + self._low
        self._error = _ERROR * (self._low != 0).to(torch.float64)
        error = self._error if dtype == torch.float32 else _ERROR + _HALF_UNIT
        self._ends = slope + slope * error, slope - slope * error

    def __call__(self, multiples: Tensor, into: Tensor) -> None:
        found = self._products(multiples.reshape(-1)).view(-1, *multiples.shape)
        for kind, part, factors in self._parts:
            torch.mul(found[kind], factors.view(-1, *[1] * multiples.dim()), out=into[part])

    def _products(self, multiples: Tensor) -> Tensor:
        """`(N,)` integers -> `(kinds, N)`."""
        n = multiples.to(torch.float64)
        if self._dtype == torch.float64:
            return n * self._high + n * self._low
        upper, lower = ((n * end).to(self._dtype) for end in self._ends)
        if not torch.equal(upper, lower):
            kinds, columns = (bits(upper) != bits(lower)).nonzero(as_tuple=True)
            upper[kinds, columns] = self._decided(kinds, multiples[columns])
        return upper

    def _decided(self, kinds: Tensor, multiples: Tensor) -> Tensor:
        """`(N,)` kinds and integers: their products."""
        n, high, low = multiples.to(torch.float64), self._high[kinds, 0], self._low[kinds, 0]
        wide = n * high + n * low
        margin = wide * self._error[kinds, 0]
        upper, lower = round_to(wide + margin, self._dtype), round_to(wide - margin, self._dtype)
        for index in (bits(upper) != bits(lower)).nonzero().flatten().tolist():
            head = self._heads[int(kinds[index])]
            upper[index] = self._spec.value(int(multiples[index]), head, dtype_name(self._dtype))
        return upper


@lru_cache(maxsize=64)
def _kinds(slopes: tuple[Slope, ...], scaled: bool) -> tuple[list[int], list[_Part]]:
    """One head of every kind, and who shares it."""
    alike: dict[tuple[float, float], list[int]] = {}
    for head, (high, low, _) in enumerate(slopes):
        fraction, exponent = math.frexp(high)
        alike.setdefault((fraction, math.ldexp(low, -exponent)) if scaled else (high, head), []).append(head)
    parts = []
    for kind, heads in enumerate(alike.values()):
        step = heads[1] - heads[0] if len(heads) > 1 else 1
        even = heads == list(range(heads[0], heads[-1] + 1, step))
        for several in [heads] if even else [[head] for head in heads]:
            factors = [slopes[head].high / slopes[heads[0]].high for head in several]
            parts.append(_Part(kind, slice(several[0], several[-1] + 1, step), factors))
    return [heads[0] for heads in alike.values()], parts
