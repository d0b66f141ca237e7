"""What a table of sines and cosines is made of: the frequency, magnitude and first phase of every pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_formats import Float64

Complex = NDArray[np.complex128]
LEAST_ROWS = 8
"""Fewer rows fit any frequency that one likes."""
_GREATEST_REST = 0.125
"""Radians: what float32 angles may be off by at position 2^20, beyond which anything would fit."""
_GREATEST_OFFSET = 4096
_STRETCH = 64


class Fit(NamedTuple):
    """Pair j is `magnitudes[j] * exp(i * (frequencies[j] * p + phases[j]))`, frequencies from -pi to pi."""

    frequencies: Float64
    phases: Float64
    magnitudes: Float64
    doubt: Float64
    """Of each frequency, in radians per position."""
    noise: float
    middle: Float64
    """The positions about which each line was fitted, from where its phase was taken to position 0."""


@dataclass(frozen=True)
class Waves:
    """Pairs of a sine and a cosine of `direction * frequencies[j] * (p + offset)`, times `magnitudes[j]`.

    `swapped` says that the sine stands where the cosine was taken to be. Frequencies are >= 0 and less than pi: what
    turns faster looks like something slower at whole positions.
    """

    frequencies: Float64
    magnitudes: Float64
    doubt: Float64
    swapped: bool
    direction: int
    offset: int
    noise: float


def allowed(frequencies: Float64, magnitudes: Any, positions: Float64) -> Float64:
    """`(positions, pairs)`: how far two correct tables may be apart, angles in float32 in one, other or both.

    A frequency in float32 is wrong by up to 1.8 units of 2^-23 where it is a power, and by 0.7 units for each unit of
    its logarithm where it is `exp(-j * step)`; the product with a position adds half a unit. Both tables may do so,
    which is 2^-22 * (2.5 + 0.7 |ln f|) of the angle f * p. Sines and cosines themselves, up to 2.4 units in
    TensorFlow, and the magnitude are within 2^-21.
    """
    part = 2.5 + 0.7 * np.abs(np.log(np.maximum(frequencies, 1e-30)))
    angle = np.abs(positions)[:, None] * (frequencies * part)
    bound: Float64 = (2.0**-22 * angle + 2.0**-21) * magnitudes
    return bound


def waves(z: Complex, positions: Float64, noise: float = 0.0) -> Waves | None:
    """Of cosine + i * sine, `(length, pairs)`; `noise` is what rounding to a narrow format adds, relative.

    None where these are not such waves, or rows are too few, or no two stand at consecutive positions.
    """
    found = fit(z, positions, noise)
    return None if found is None else _named(found)


def fit(z: Complex, positions: Float64, noise: float = 0.0) -> Fit | None:
    """The waves, whatever their phases at position 0."""
    order = np.argsort(positions, kind="stable")
    z, p = z[order], positions[order]
    if len(p) < LEAST_ROWS or not np.isfinite(z).all() or (np.diff(p) <= 0).any() or (p != np.rint(p)).any():
        return None
    sizes = np.abs(z)
    magnitudes = sizes.mean(axis=0)
    if (magnitudes == 0).any() or (np.abs(sizes - magnitudes) > (2.0**-19 + 2 * noise) * magnitudes).any():
        return None
    speeds, reach = _speeds(z, p)
    if reach == 0:
        return None
    speeds, phases, rest, middle = _lines(z, p, speeds, noise)
    limit = np.minimum(2 * allowed(np.abs(speeds), 1.0, p), _GREATEST_REST) + 2 * noise
    if (np.abs(rest) > limit).any():
        return None
    far = 2.0**-23 * np.abs(speeds) * np.abs(p).min()  # of float32 angles that far from position 0
    doubt = 2.0**-19 * np.abs(speeds) + (2.0**-20 + far + 4 * noise) / reach
    return Fit(speeds, phases, magnitudes, doubt, noise, np.abs(middle))


def _speeds(z: Complex, p: Float64) -> tuple[Float64, float]:
    """Radians per position, from ever longer distances: each must not be in doubt by half a turn; the longest."""
    speeds, reach, apart = np.zeros(z.shape[1]), 0.0, 1.0
    while True:
        second = np.minimum(np.searchsorted(p, p + apart), len(p) - 1)
        first = np.flatnonzero(p[second] == p + apart)
        if len(first):
            turn = np.angle((z[second[first]] * z[first].conj()).sum(axis=0))
            rest = turn - speeds * apart
            speeds, reach = speeds + (rest - 2 * np.pi * np.rint(rest / (2 * np.pi))) / apart, apart
        elif apart == 1:
            return speeds, 0.0
        longer = p[np.searchsorted(p, p[0] + 2 * apart) :][:1] - p[0]
        if not len(longer) or longer[0] > _STRETCH * reach:
            return speeds, reach
        apart = float(longer[0])


def _lines(z: Complex, p: Float64, speeds: Float64, noise: float) -> tuple[Float64, ...]:
    """Lines through the angles: float32 is right near position 0, and wrong in proportion far from it."""
    rest = z * np.exp(-1j * p[:, None] * speeds)
    phases = np.angle(rest.sum(axis=0))
    angles = np.angle(rest * np.exp(-1j * phases))
    weights = 1 / (1 + np.abs(p)[:, None] * np.abs(speeds) / (1 + noise * 2.0**21)) ** 2
    total = weights.sum(axis=0)
    middle = (weights * p[:, None]).sum(axis=0) / total
    away = p[:, None] - middle
    slopes = (weights * away * angles).sum(axis=0) / (weights * away**2).sum(axis=0)
    rise = (weights * angles).sum(axis=0) / total - slopes * middle
    return speeds + slopes, phases + rise, angles - rise - slopes * p[:, None], middle


def _named(found: Fit) -> Waves | None:
    """Which of sine and cosine comes first, which way positions run, and where they begin."""
    sure = np.abs(found.frequencies) > 2 * found.doubt
    signs = np.unique(np.sign(found.frequencies[sure]))
    if len(signs) != 1:
        return None
    way, f = int(signs[0]), np.abs(found.frequencies)
    most = _GREATEST_OFFSET if len(f) > 2 else 64 // (3 - len(f)) ** 2
    offsets = np.array(sorted(range(-most, most + 1), key=abs), float)
    for swapped, direction in ((False, way), (True, -way)) if way > 0 else ((True, 1), (False, -1)):
        at_zero = np.pi / 2 - found.phases if swapped else found.phases
        rest = at_zero - direction * offsets[:, None] * f
        rest -= 2 * np.pi * np.rint(rest / (2 * np.pi))
        close = 2.0**-17 + 4 * found.noise + (np.abs(offsets)[:, None] + found.middle) * found.doubt
        right = np.flatnonzero((np.abs(rest) <= close).all(axis=1))
        if len(right):
            offset = int(offsets[right[0]])
            return Waves(f, found.magnitudes, found.doubt, swapped, direction, offset, found.noise)
    return None
