"""Encodings on the host: by angle addition where positions are equally spaced, every value checked.

In units of 2^-53: a wave below pi/4 is off by 3.6; a sum of two angles by sqrt 2 times the error of either plus 1.5 of
rounding, so 11.7 after the first addition, 23.1 after the second, and 28 of the magnitude with the magnitude's own and
the margin's rounding: `_ADDED_ERROR` is 32. A value is settled where both ends of its interval round to the same bits;
the others go to the direct path. Converting float64 to a half-precision format rounds twice; as that is monotonic, an
interval wider by half a unit of float32 is safe with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posenc.spec.plan import PhaseSpec
from posenc.torch_impl.formats import bits
from posenc.torch_impl.inputs import CPU, arange
from posenc.torch_impl.rounded import arrange, encode_directly, hold_still, settled, waves_of
from posenc.torch_impl.waves import wide_phase, wide_waves
from posenc.torch_impl.words import facts, words

_ADDED_ERROR = 2.0**-48
_HALF_UNIT = 2.0**-24 + 2.0**-48  # of float32, below 1
_TILE = 1 << 15  # channels: a tile and its tables stay in the cache
_LEAST_RANGE = 64
_LEAST_ROW = 1 << 17  # channels of a row among others: below, its tables would cost more than they save


def encode_range(spec: PhaseSpec, positions: range, dtype: torch.dtype) -> Tensor:
    """`(len(positions), dim)`: by angle addition where that can be checked and pays."""
    if len(positions) < _LEAST_RANGE or dtype == torch.float64:
        return encode_directly(spec, arange(positions), dtype)
    result = torch.empty(len(positions), facts(spec).dim, dtype=dtype, device=CPU)
    _fill(spec, positions, result)
    return result


def encode_values(spec: PhaseSpec, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """`(*P,)` -> `(*P, dim)`, of int64 or float positions; rows of equally spaced integers as ranges."""
    shape = (*positions.shape, facts(spec).dim)
    length = positions.shape[-1] if positions.dim() else 1
    least = max(_LEAST_RANGE, _LEAST_ROW // shape[-1] if positions.dim() > 1 else 0)
    if length < least or positions.is_floating_point() or dtype == torch.float64:
        return encode_directly(spec, positions.reshape(-1), dtype).view(shape)
    result = torch.empty(shape, dtype=dtype, device=CPU)
    for row, into in zip(positions.reshape(-1, length), result.view(-1, length, shape[-1]), strict=True):
        even = _as_range(row)
        if even is None:
            into.copy_(encode_directly(spec, row, dtype))
        else:
            _fill(spec, even, into)
    return result


def _as_range(row: Tensor) -> range | None:
    start, after, last = (int(row[index]) for index in (0, 1, -1))
    step = after - start
    if step == 0 or start + step * (row.shape[0] - 1) != last:
        return None
    found = range(start, last + (1 if step > 0 else -1), step)
    return found if torch.equal(row, arange(found)) else None


def _fill(spec: PhaseSpec, positions: range, result: Tensor) -> None:
    """Write the encodings into `(len(positions), dim)`: blocks to tiles, tiles to rows."""
    fact, step = facts(spec), positions.step
    width = 2 * fact.pairs
    result[:, width:] = 0
    rows = max(8, min(_TILE // width, 1 << (len(positions).bit_length() // 2)))
    tiles = max(1, min(32, len(positions) // (2 * rows)))  # half of the range at most: its steps must fit 31 bits
    near = waves_of(spec, arange(range(0, rows * step, step)).unsqueeze(-1), offset=False)
    near_own, near_other = arrange(fact, near[1], near[1]), arrange(fact, near[0], -near[0])
    middle = waves_of(spec, arange(range(0, tiles * rows * step, rows * step)).unsqueeze(-1), offset=False)
    far = waves_of(spec, arange(positions[:: tiles * rows]).unsqueeze(-1))
    half = result.dtype != torch.float32
    margin = torch.tensor(fact.magnitude * (_ADDED_ERROR + half * _HALF_UNIT), dtype=torch.float64, device=CPU)
    if fact.still:
        margin = margin.repeat(width)
        for first, last in fact.still:
            margin[first:last] = 0  # nothing to close
    wide = torch.empty(rows, width, dtype=torch.float64, device=CPU)
    lower = torch.empty(rows, width, dtype=result.dtype, device=CPU)
    for block in range(far[0].shape[0]):
        sine, cosine = _sum_of_angles(*middle, far[0][block], far[1][block])
        own, other = (arrange(fact, *waves) * fact.magnitude for waves in ((sine, cosine), (cosine, sine)))
        for index in range(tiles):
            begin = (block * tiles + index) * rows
            upper = result[begin : begin + rows, :width]
            count = upper.shape[0]
            if count == 0:
                break
            tile, low = wide[:count], lower[:count]
            torch.addcmul(margin, near_own[:count], own[index], out=tile).addcmul_(near_other[:count], other[index])
            upper.copy_(tile)
            low.copy_(tile.sub_(2 * margin))
            _close(spec, positions, begin, upper, low)
    hold_still(spec, result)
    if fact.padding_position is not None and fact.padding_position in positions:
        result[positions.index(fact.padding_position)] = 0


def _sum_of_angles(sine: Tensor, cosine: Tensor, other_sine: Tensor, other_cosine: Tensor) -> tuple[Tensor, Tensor]:
    return sine * other_cosine + cosine * other_sine, cosine * other_cosine - sine * other_sine


def _close(spec: PhaseSpec, positions: range, begin: int, upper: Tensor, low: Tensor) -> None:
    """Compute directly, in place, the values of a tile that its addition left open."""
    if upper.dtype == torch.float32:
        # the ends never cancel in a sum, as upper >= low; the sum is the fastest look at all of them
        gap = torch.sub(upper, low, out=low)
        if not gap.sum():
            return
        differ = gap != 0
    else:
        differ = bits(upper) != bits(low)
    rows, channels = differ.nonzero(as_tuple=True)
    where = positions.start + positions.step * (rows + begin)
    fact = facts(spec)
    if fact.layout == "interleaved":
        pairs, second = channels // 2, (channels & 1) != 0
    else:
        pairs, second = channels % fact.pairs, channels >= fact.pairs
    sine, cosine = wide_waves(*wide_phase(where, words(spec, "wide", CPU)[..., pairs]), exact=False)
    own, other = (cosine, sine) if fact.layout == "cos_sin" else (sine, cosine)
    wide = torch.where(second, other, own) * fact.magnitude
    upper[rows, channels] = settled(spec, wide, where, channels, upper.dtype)
