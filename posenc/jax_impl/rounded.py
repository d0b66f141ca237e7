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
    out = _empty((*np.shape(positions), plan.pairs, 3), np.dtype(np.uint32))
    rows = out.reshape(-1, plan.pairs, 3)
    with _on_cpu():
        for piece, parts in pieces(_array(positions).reshape(-1)):
            result = words.upper(parts, wide(words.pair_words(plan)), wide(words.pair_offset(plan)))
            rows[piece] = np.asarray(result)[: piece.stop - piece.start, : plan.pairs]
    return out


def encode(spec: PhaseSpec, plan: PhasePlan, positions: range | HostArray, dtype: np.dtype[Any]) -> HostArray:
    """`(*P,)` -> `(*P, dim)`."""
    out = _empty((*np.shape(positions), plan.dim), dtype)
    rows = out.reshape(-1, plan.dim)
    with _on_cpu():
        if isinstance(positions, range) and len(positions) >= EVENLY_SPACED and dtype != np.float64:
            index = turn(plan, positions, rows)
        else:
            index = np.arange(len(rows))
        if len(index):
            _fill(spec, plan, _array(positions).reshape(-1)[index], rows, index)
    if plan.padding_position is not None:
        rows[inputs.is_padding(_array(positions).reshape(-1), plan)] = 0
    return out


def _fill(spec: PhaseSpec, plan: PhasePlan, positions: HostArray, rows: HostArray, index: HostArray) -> None:
    """Write the encodings of `positions` to `rows[index]`, directly."""
    channels = constants(plan)
    for piece, parts in pieces(positions):
        reach = np.abs(parts[0].astype(np.float64) + plan.offset) * 2.0**-67
        answer = _direct(waves.float64(parts, channels), reach, channels.scale, rows.dtype)
        values, doubts = (np.asarray(array)[: piece.stop - piece.start, : plan.dim] for array in answer)
        rows[index[piece]] = values
        if len(parts) == 1 and rows.dtype != np.float64:
            for row, channel in np.argwhere(doubts).tolist():
                rows[index[piece.start + row], channel] = spec.value(int(parts[0][row, 0]), channel, rows.dtype.name)


@partial(jax.jit, static_argnums=3)
def _direct(
    wave: tuple[jax.Array, jax.Array], reach: Array, scale: Array, dtype: np.dtype[Any]
) -> tuple[jax.Array, jax.Array]:
    """Values rounded to `dtype`, and which of them are in doubt; the zero channel never is."""
    value, angle = wave
    rounded, doubts = judged(value, jnp.abs(value) * np.float64(DIRECT), dtype)
    return rounded, doubts | ((angle < reach) & (scale[None] > np.float64(0)))


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
    if not isinstance(positions, range):
        return positions
    step = positions.step if len(positions) > 1 else 1  # a lone position's step may exceed any integer type
    return (positions.start if positions else 0) + step * np.arange(len(positions), dtype=np.int64)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """With the 64 bytes of alignment that let JAX adopt an array without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
