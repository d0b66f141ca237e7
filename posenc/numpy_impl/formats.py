"""Rounding float64 values to an output format, and whether a small error could have changed the result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.numpy_impl.inputs import DTYPES
from posenc.numpy_impl.waves import Float64

# of a float32: the bits below the last place of the narrower format, and those bits at a midpoint
_MIDPOINTS = {"bfloat16": (0xFFFF, 0x8000), "float16": (0x1FFF, 0x1000)}
# below it float16 is subnormal and has other midpoints; float32, and a midpoint, are finer than an error of 2^-49
_LEAST = {"bfloat16": 0.0, "float16": 2.0**-14}
_FINEST = 2.0**-24
_LEAST_BFLOAT16 = 2.0**-126


def narrow(value: Float64, name: str) -> NDArray[Any]:
    """Round to the dtype, once: a float64 goes to bfloat16 by way of float32, and would be rounded twice."""
    if name == "bfloat16":
        bits = value.view(np.int64)
        bits = bits + ((1 << 44) - 1) + (bits >> 45 & 1)
        bits &= -1 << 45
        rounded: Float64 = bits.view(np.float64)
        plain = np.abs(value) >= _LEAST_BFLOAT16  # not where NaN
        if not plain.all():
            # adding 2^-81 rounds to the grid of 2^-133; the bits of a NaN would overflow, or become those of infinity
            settled = np.copysign((np.abs(value) + 2.0**-81) - 2.0**-81, value)
            rounded = np.where(plain, rounded, settled)
        return rounded.astype(np.float32).astype(DTYPES[name])
    if name == "float16":
        # NumPy takes 100 times longer over a conversion that underflows: these are on the grid of 2^-24 before it
        small = np.abs(value) < _LEAST["float16"]
        value = np.where(small, np.copysign((np.abs(value) + 2.0**28) - 2.0**28, value), value)
    return value.astype(DTYPES[name], copy=False)


def converted(array: NDArray[Any], name: str) -> NDArray[Any]:
    """An array of one of the four dtypes in another, rounded once; itself where nothing changes."""
    if array.dtype == DTYPES[name]:
        return array
    if array.itemsize == 8:
        return narrow(np.ascontiguousarray(array, np.float64), name)
    return array.astype(np.float32).astype(DTYPES[name])


def settle(single: NDArray[np.float32]) -> None:
    """Round what float16 holds as subnormal numbers, in place: the conversion is slow unless it is exact."""
    small = np.abs(single) < _LEAST["float16"]
    if small.any():  # looking for places in an array of several axes takes 10 times longer
        places = small.nonzero()
        some = single[places]
        single[places] = np.copysign((np.abs(some) + np.float32(0.5)) - np.float32(0.5), some)


def differ(low: Float64, high: Float64, name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """`low` rounded, and where it is not what `high` rounds to; zeros of two signs differ."""
    a, b = narrow(low, name), narrow(high, name)
    bits = f"u{a.itemsize}"
    return a, a.view(bits) != b.view(bits)


def midpoints(single: NDArray[np.float32], name: str) -> NDArray[np.bool_]:
    """Which float32 values lie halfway between two neighbours of bfloat16 or float16."""
    mask, half = _MIDPOINTS[name]
    found: NDArray[np.bool_] = (single.view(np.uint32) & mask) == half
    if name == "float16":
        subnormal = np.abs(single) < _LEAST[name]
        found[subnormal] = np.abs(np.fmod(single[subnormal] * 2.0**25, 2)) == 1
    return found


class Check:
    """Rounds blocks whose values err by less than 2^-49 times the magnitude that they are multiplied by."""

    def __init__(self, name: str, magnitude: float) -> None:
        self.name, self.magnitude, self.doubt = name, magnitude, magnitude * 2.0**-49
        self._reserve((0, 0))

    def _reserve(self, shape: tuple[int, ...]) -> None:
        self.single, self.other = np.empty((2, *shape), np.float32)
        self.flags, self.more = np.empty((2, *shape), np.bool_)

    def __call__(self, block: Float64, out: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Round `block`, which is destroyed, into `out`; where the result is in doubt, None for nowhere."""
        if len(block) > len(self.flags):
            self._reserve(block.shape)
        if self.magnitude != 1:
            block *= self.magnitude
        n = len(block)
        single, flags = self.single[:n], self.flags[:n]
        if self.name == "float64":
            out[...] = block
            if self.magnitude <= 1:
                return None
            # a large magnitude enlarges the absolute error: below 2^-9 of it that would be more than 4 units
            np.less(np.abs(block, out=block), self.magnitude * 2.0**-9, out=flags)
            return flags if flags.any() else None
        if self.name == "float32":
            block -= self.doubt
            single[...] = block
            block += 2 * self.doubt
            out[...] = block
            np.not_equal(single, out, out=flags)
        else:
            # rounded twice, by way of float32: that is once, unless the float32 is a midpoint
            single[...] = block
            mask, half = _MIDPOINTS[self.name]
            bits = np.bitwise_and(single.view(np.uint32), mask, out=self.other[:n].view(np.uint32))
            np.equal(bits, half, out=flags)
            least = max(_LEAST[self.name], _FINEST * self.magnitude)
            flags |= np.less(np.abs(single, out=self.other[:n]), least, out=self.more[:n])
            single[flags] = 0  # to be computed anew, and slow to convert where they underflow
            out[...] = single
        return flags if flags.any() else None
