"""The public functions but one: phases, encodings, encodings added to an array, and tables of rotations.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from posenc.numpy_impl.formats import midpoints
from posenc.numpy_impl.inputs import Positions, as_array, read_dtype, read_positions, read_x
from posenc.numpy_impl.rounded import encode_floats, encode_integers
from posenc.numpy_impl.words import parts, phases
from posenc.spec import checks
from posenc.spec.plan import PhasePlan, PhaseSpec, RotarySpec, encoding_plan, phase_plan, table_plan

ENCODED, ADDED = 2**21, 2**18
"""Values of `x` whose encoding is held at a time, and values that are added at a time."""


class Table(NamedTuple):
    """Cosines and sines of a rotation, each `(*P, pairs)`, times the magnitude of its specification."""

    cos: NDArray[Any]
    sin: NDArray[Any]


def phase(spec: PhaseSpec, positions: ArrayLike | range) -> NDArray[np.int64]:
    """The upper three 32-bit words of the phase, most significant first: `(*P,)` -> `(*P, pairs, 3)`."""
    plan = phase_plan("phase", spec)
    shape, p = read_positions("phase", positions)
    p = as_array(p)
    out = np.empty((len(p), plan.pairs, 3), np.int64)
    for part in parts(len(p), plan.pairs):
        high, low = phases(plan, p[part])
        for word, value in enumerate((high >> 32, high, low >> 32)):
            np.bitwise_and(value, 0xFFFFFFFF, out=out[part, :, word])
    return out.reshape(*shape, plan.pairs, 3)


def encode(spec: PhaseSpec, positions: ArrayLike | range, *, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Encoding vectors, `(*P,)` -> `(*P, dim)`, correctly rounded at integer positions."""
    plan = encoding_plan("encode", spec)
    name = read_dtype("encode", dtype)
    return _encode(spec, plan, read_positions("encode", positions), name)


def table(spec: RotarySpec, positions: ArrayLike | range, *, dtype: DTypeLike = np.float32) -> Table:
    """The cosines and sines that `rotate` takes, `(*P,)` -> `(*P, pairs)` each, correctly rounded at integers."""
    plan = table_plan("table", spec)
    name = read_dtype("table", dtype)
    both = _encode(spec, plan, read_positions("table", positions), name)
    return Table(both[..., : plan.pairs], both[..., plan.pairs :])


def _encode(spec: PhaseSpec, plan: PhasePlan, positions: Positions, name: str) -> NDArray[Any]:
    shape, p = positions
    # infinity is what a large magnitude rounds to in float16, and zero a small one
    with np.errstate(all="ignore"):
        if isinstance(p, range) or p.dtype == np.int64:
            out = encode_integers(spec, plan, p, name)
        else:
            out = encode_floats(spec, plan, p, name)
    padding = plan.padding_position
    if padding is not None and padding in p:
        out[p.index(padding) if isinstance(p, range) else p == padding] = 0
    return out.reshape(*shape, plan.dim)


def add(spec: PhaseSpec, x: ArrayLike, positions: ArrayLike | range | None = None) -> NDArray[Any]:
    """`x` plus its encoding, one rounding to `x.dtype`, in a new array: `(..., dim)` -> `(..., dim)`."""
    plan = encoding_plan("add", spec)
    array = read_x("add", x, plan.dim)
    lead = array.shape[:-1]
    if positions is not None:
        shape, p = read_positions("add", positions)
        if not checks.broadcasts(shape, lead):
            raise checks.positions_shape_error("add", lead, shape)
    elif lead:
        shape, p = lead[-1:], range(lead[-1])
    else:
        raise checks.x_rank_error("add", plan.dim, array.shape)
    shape = (1,) * (len(lead) - len(shape)) + shape
    name = "float64" if array.dtype.name == "float64" else "float32"
    result = np.empty(array.shape, array.dtype)
    # in blocks of the longest axis: what is held besides `x` and the result does not grow
    longest = max(lead, default=1)
    axis = lead.index(longest) if lead else 0
    varies = bool(lead) and shape[axis] > 1
    fixed = None if varies else _encode(spec, plan, Positions(shape, p), name)
    for outer in _blocks(range(longest), longest * ENCODED // max(1, array.size)):
        encoding = _encode(spec, plan, _cut(shape, p, _along(axis, outer)), name) if fixed is None else fixed
        for inner in _blocks(outer, longest * ADDED // max(1, array.size)):
            cut = _along(axis, inner) if lead else ()
            own = _along(axis, range(inner.start - outer.start, inner.stop - outer.start)) if varies else ()
            _add_rounded(array[cut], encoding[own], result[cut])
    return result


def _blocks(whole: range, length: int) -> Iterator[range]:
    step = max(1, length)
    return (whole[first : first + step] for first in range(0, len(whole), step))


def _along(axis: int, part: range) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(part.start, part.stop))


def _cut(shape: tuple[int, ...], p: range | NDArray[Any], cut: tuple[slice, ...]) -> Positions:
    if isinstance(p, range):  # only its last axis is longer than 1
        p = p[cut[-1]]
        return Positions((*shape[:-1], len(p)), p)
    p = p.reshape(shape)[cut]
    return Positions(p.shape, p.reshape(-1))


def _add_rounded(x: NDArray[Any], encoding: NDArray[Any], out: NDArray[Any]) -> None:
    """`out = x + encoding`, rounded once."""
    name = out.dtype.name
    if name in ("float64", "float32"):
        np.add(x, encoding, out=out)
        return
    with np.errstate(all="ignore"):
        single = x.astype(np.float32)
        total = single + encoding
        # a second rounding is wrong only where the first one came to rest on a midpoint, and was not exact
        index = midpoints(total, name).nonzero()
        a, b, s = single[index], np.broadcast_to(encoding, total.shape)[index], total[index]
        rest = (a - (s - (s - a))) + (b - (s - a))
        total[index] = np.where(rest == 0, s, np.nextafter(s, np.copysign(np.float32(np.inf), rest)))
        out[...] = total.astype(out.dtype)
