"""Angles that were computed in a narrow format: positions, frequencies or their product rounded."""

from __future__ import annotations

from itertools import product

import numpy as np

from posenc.interop.comparison_formats import HALVES, Float64, half_unit, rounded
from posenc.interop.comparison_waves import Complex, Waves, allowed
from posenc.interop.comparison_words import Cause

_STEPS = ("positions", "frequencies")
_SAMPLE = 64


def narrow_angles(
    expected: Waves, received: Complex, positions: Float64, formats: tuple[str, ...]
) -> tuple[Cause, ...] | None:
    """Which rounding of the expected angles gives the received cosines + i * sines; `formats` are those they are in.

    What stands next to the middle between two numbers of the format may be rounded to either.
    """
    few = np.arange(0, len(positions), -(-len(positions) // _SAMPLE))
    for name in HALVES:
        same = (rounded(positions + expected.offset, name) == positions + expected.offset).all()
        for steps in sorted(product((False, True), repeat=3), key=sum)[1:]:
            if steps[0] and same:
                continue  # these positions are in the format
            if all(
                _fits(expected, received[rows], positions[rows], name, steps, formats)
                for rows in (few, np.arange(len(positions)))
            ):
                what = " and ".join(step for step, used in zip(_STEPS, steps, strict=False) if used)
                what = f"those of {what} rounded to {name}" if what else f"rounded to {name}"
                what += f", and rounded to {name} themselves" if steps[2] and any(steps[:2]) else ""
                also = f", and values to {name}" if name in formats else ""
                return (Cause("dtype", f"angles are {what}{also}"),)
    return None


def _fits(
    expected: Waves, received: Complex, positions: Float64, name: str, steps: tuple[bool, ...], formats: tuple[str, ...]
) -> bool:
    f, way, m = expected.frequencies, expected.direction, expected.magnitudes
    fits = np.zeros(received.shape, bool)
    bounds = allowed(f, m, positions)
    narrow = rounded(positions + expected.offset, name)
    if not np.isfinite(narrow).all():
        return False  # float16 ends at 65,504
    for side in (-1, 0, 1):
        nudge = 1 + side * 2.0**-18
        p = narrow if steps[0] else positions + expected.offset
        angles = p[:, None] * (rounded(f * nudge, name) if steps[1] else f)
        angles = rounded(angles * nudge, name) if steps[2] else angles
        away = [m * wave(way * angles) for wave in (np.cos, np.sin)]
        near = [
            np.abs(part - value) <= bounds + (half_unit(value, name) if name in formats else 0)
            for value, part in zip(away, (received.real, received.imag), strict=True)
        ]
        fits |= near[0] & near[1]
    return bool(fits.all())
