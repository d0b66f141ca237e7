"""A slope times an integer: rounded once from the real number on the host, in float32 in a trace.

On the host, with the slope in two parts: `high * n` is exact in float64, `low * n` is wrong by 2^-53 of itself, thus by
2^-74 of the product, and the slope by 2^-72 of it. So the sum is wrong by hardly more than half of its last unit, and
a product that rounds differently is within one unit of a boundary. `WINDOW` is twice that. Where `low` is zero the
product is exact, and rounded right as it is.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posenc.jax_impl.formats import narrowed
from posenc.jax_impl.inputs import HostArray
from posenc.spec.distance_plan import DistancePlan, Run, SlopeSpec

WINDOW = 2
BLOCK = 2**14
"""Products computed at a time."""
_DROPPED = {"float32": 29, "bfloat16": 45, "float16": 42}
"""Bits of a float64 that a format lacks."""


def multiply(spec: SlopeSpec, plan: DistancePlan, numbers: HostArray, out: HostArray) -> None:
    """Numbers `(N,)` -> `(heads, N)`, correctly rounded to the dtype of `out` (float64: within one unit)."""
    high, low = (np.array([slope[part] for slope in plan.slopes])[:, None] for part in (0, 1))
    columns = max(min(len(numbers), BLOCK), 1)
    heads = min(max(BLOCK // columns, 1), len(high))
    memory = np.empty((2, heads, columns))
    for start in range(0, len(numbers), columns):
        wide = numbers[start : start + columns].astype(np.float64)
        for first in range(0, len(high), heads):
            some = slice(first, min(first + heads, len(high)))
            product, spare = memory[:, : some.stop - first, : len(wide)]
            np.multiply(high[some], wide, out=product)
            whole = not low[some].any()
            if not whole:
                product += np.multiply(low[some], wide, out=spare)
            if out.dtype.name == "bfloat16":
                out[some, start : start + columns] = narrowed(product, out.dtype)
            else:
                with np.errstate(over="ignore", under="ignore"):
                    out[some, start : start + columns] = product
            for head, n in [] if whole or out.dtype == np.float64 else _doubtful(product, spare, out.dtype):
                if low[first + head]:
                    at = first + head, start + n
                    out[at] = spec.value(int(numbers[start + n]), first + head, out.dtype.name)


def _doubtful(product: HostArray, spare: HostArray, dtype: np.dtype[Any]) -> list[list[int]]:
    """Which float64 numbers are within `WINDOW` units of a value halfway between two of `dtype`."""
    if dtype == np.float16:  # units of the least binade are those of the subnormal numbers below it
        product = np.abs(product)
        np.add(product, 2.0**-14, out=product, where=product < 2.0**-14)
    dropped = _DROPPED[dtype.name]
    bits = np.subtract(product.view(np.int64), (1 << (dropped - 1)) - WINDOW, out=spare.view(np.int64))
    bits &= (1 << dropped) - 1
    return [] if bits.min() > 2 * WINDOW else np.argwhere(bits <= 2 * WINDOW).tolist()


def signed(runs: tuple[Run, ...]) -> list[tuple[Run, bool]]:
    """The runs, cut where n changes its sign: each with whether n is negative, and giving its magnitude."""
    result = []
    ends = [run.first for run in runs[1:]] + [2**32]
    for run, end in zip(runs, ends, strict=True):
        number, step = run.number or 0, run.step
        firsts = [run.first]
        if step:  # the first distance with n >= 0, or, falling, with n < 0
            turn = run.first + (-(number // step) if step > 0 else number // -step + 1)
            firsts += [turn] * (run.first < turn < end)
        for first in firsts:
            n = number + step * (first - run.first)
            result.append((Run(first, abs(n), -step if n < 0 else step), n < 0))
    return result


def fused(plan: DistancePlan, magnitude: jax.Array, negative: jax.Array, target: np.dtype[Any]) -> jax.Array:
    """Integers `(*B, Q, K)`, their uint32 magnitudes and signs -> `(*B, heads, Q, K)`: in float32, then one cast.

    In float64 for float64. Zero is positive.
    """
    wide = np.dtype(np.float64) if target == np.float64 else np.dtype(np.float32)
    size = magnitude.astype(wide)
    number = jnp.expand_dims(jnp.where(negative, -size, size), -3)
    shape = (1,) * (number.ndim - 3) + (len(plan.slopes), 1, 1)

    def part(name: str) -> HostArray:
        return np.array([getattr(slope, name) for slope in plan.slopes], wide).reshape(shape)

    if wide == np.float64:
        return jnp.asarray(part("high") * number + part("low") * number)
    return jnp.asarray(part("float32") * number).astype(target)
