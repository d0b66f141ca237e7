"""Correctly rounded encodings on the host.

Positions, doubts and the result live in NumPy; the arithmetic is in kernels of a few fixed shapes, in float64 on the
CPU device, so that no length is ever compiled for. Two methods:

- directly: the sine of a 128-bit phase is wrong by at most 1 ulp (2^-52 of itself); the product with the magnitude adds
  2^-53, and as much again the decimal that the magnitude stands for: 2^-51 in all. `DIRECT` is twice that.
- by angle addition, where positions are evenly spaced: sin(a + b) = sin a cos b + cos a sin b. A product is wrong by
  2^-51 (its factors), 2^-53 (itself) and 2^-52 (the magnitude), and the sum by 2^-53 more: below 2^-50 of
  |sin a cos b| + |cos a sin b|. `TURNED` is that and a quarter, in `addition`.

An increment is rounded to 2^-129 turn, so a phase is wrong by up to |p + offset| 2^-126 radian: below 2^-93
(`ABSOLUTE` is twice that), and 2^-59 of an angle of at least 2^-67 |p + offset|.

A value that rounds differently when moved by its error either way is in doubt. Rows that angle addition leaves in doubt
go to the direct method, single values that this leaves in doubt go to `spec.value`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posenc.jax_impl import inputs, waves, words
from posenc.jax_impl.addition import EVENLY_SPACED, constants, pieces, turn, wide
from posenc.jax_impl.formats import judged
from posenc.jax_impl.inputs import Array, HostArray
from posenc.spec.plan import PhasePlan, PhaseSpec

DIRECT = 2.0**-50


def phase(plan: PhasePlan, positions: range | HostArray) -> HostArray:
    """`(*P,)` -> `(*P, pairs, 3)`."""
    (out,), rows = _empty(inputs.shape(positions), 1, (plan.pairs, 3), np.dtype(np.uint32))
    with _on_cpu():
        for piece, parts in pieces(_array(positions).reshape(-1)):
            result = words.upper(parts, wide(words.pair_words(plan)), wide(words.pair_offset(plan)))
            rows[piece, 0] = np.asarray(result)[: piece.stop - piece.start, : plan.pairs]
    return out


def encode(
    spec: PhaseSpec, plan: PhasePlan, positions: range | HostArray, dtype: np.dtype[Any], count: int = 1
) -> list[HostArray]:
    """`(*P,)` -> the channels in `count` arrays `(*P, dim / count)`."""
    arrays, rows = _empty(inputs.shape(positions), count, (plan.dim // count,), dtype)
    with _on_cpu():
        if isinstance(positions, range) and len(positions) >= EVENLY_SPACED and dtype != np.float64:
            index = turn(constants(plan, _still(spec, plan, dtype)), positions, rows)
        else:
            index = np.arange(len(rows))
        if len(index):
            _fill(spec, plan, _array(positions).reshape(-1)[index], rows, index)
    if plan.padding_position is not None:
        rows[inputs.is_padding(_array(positions).reshape(-1), plan)] = 0
    return arrays


def _fill(spec: PhaseSpec, plan: PhasePlan, positions: HostArray, rows: HostArray, index: HostArray) -> None:
    """Write the encodings of `positions` to `rows[index]`, directly."""
    still = _still(spec, plan, rows.dtype)
    channels = constants(plan, still)
    moving = channels.words[0].any(axis=0)
    for piece, parts in pieces(positions):
        reach = np.abs(parts[0].astype(np.float64) + plan.offset) * 2.0**-67
        answer = _direct(waves.float64(parts, channels), reach, moving, rows.dtype)
        values, doubts = (np.asarray(array)[: piece.stop - piece.start, : plan.dim] for array in answer)
        rows[index[piece]] = values.reshape(-1, *rows.shape[1:])
        if len(parts) == 1 and rows.dtype != np.float64:
            row, channel = doubts.nonzero()
            keys = [*zip(parts[0][row, 0].tolist(), channel.tolist(), strict=True)]
            if plan.layout == "cos_sin":  # at no angle all pairs are alike
                keys = [(p, c if p + plan.offset else c - c % plan.pairs) for p, c in keys]
            exactly = {key: spec.value(*key, rows.dtype.name) for key in set(keys)}
            if keys:
                rows[(index[piece.start + row], *divmod(channel, rows.shape[2]))] = [exactly[key] for key in keys]


def _still(spec: PhaseSpec, plan: PhasePlan, dtype: np.dtype[Any]) -> float:
    """The cosine of a pair that does not turn: asked for once, where every position would be in doubt."""
    cosines = words.channels(plan).quarter != 0
    still = cosines & ~words.channels(plan).words[0].any(axis=0)
    return spec.value(0, int(np.argmax(still)), dtype.name) if still.any() else plan.magnitude


@partial(jax.jit, static_argnums=3)
def _direct(
    wave: tuple[jax.Array, jax.Array], reach: Array, moving: Array, dtype: np.dtype[Any]
) -> tuple[jax.Array, jax.Array]:
    """Values rounded to `dtype`, and which of them are in doubt; what does not move never is."""
    value, angle = wave
    rounded, doubts = judged(value, jnp.abs(value) * np.float64(DIRECT), dtype)
    return rounded, doubts | ((angle < reach) & moving[None])


@contextmanager
def _on_cpu() -> Iterator[None]:
    """Computing on the CPU device with 64-bit types, whatever the caller's defaults are."""
    device = jax.local_devices(backend="cpu")[0]
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_device(device))
        stack.enter_context(jax.transfer_guard("allow"))
        if not jax.sharding.get_abstract_mesh().empty:  # a jitted kernel would be spread over the caller's mesh
            stack.enter_context(jax.set_mesh(jax.sharding.Mesh(np.array([device]), ("host",))))
        yield


def _array(positions: range | HostArray) -> HostArray:
    return inputs.numbered(positions) if isinstance(positions, range) else positions


def _empty(
    shape: tuple[int, ...], count: int, each: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[list[HostArray], HostArray]:
    """`count` arrays `(*shape, *each)`, and a view of them all, `(n, count, *each)`."""
    rows = int(np.prod(shape))
    size = rows * int(np.prod(each)) * dtype.itemsize
    apart = size + -size % 64
    whole = inputs.aligned(count * apart).reshape(count, apart)[:, :size].view(dtype)
    return [array.reshape(*shape, *each) for array in whole], whole.reshape(count, rows, *each).swapaxes(0, 1)
