"""Phases of positions as 32-bit words: the integer arithmetic of PhasePlan, in int64 tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from posenc.spec.plan import PhasePlan
from posenc.tf_impl.inputs import Tensor

Phase: TypeAlias = tuple[Tensor, ...]
"""Words of the phase, most significant first, each int64 in 0 .. 2^32 - 1 and of shape `(*P, pairs)`."""

_MASK = 0xFFFFFFFF


@lru_cache(maxsize=64)
def plan_words(plan: PhasePlan) -> np.ndarray[Any, Any]:
    """`(4, 4, pairs)` words, most significant first, of the increments at level 0, 1 and 2, and of the offset."""
    rows = [plan.words(0), plan.words(1), plan.words(2), plan.offset_words()]
    return np.array(rows, np.int64).transpose(0, 2, 1).copy()


def phase_words(words: Any, positions: Tensor) -> Phase:
    """The four words of the phase of `(*P,)` positions, of `plan_words` (see PhasePlan)."""
    if positions.dtype.is_integer:
        return _multiplied(positions[..., None], words[0], words[3])
    whole, k1, k2 = (part[..., None] for part in float_parts(positions))
    # each level may fill the 64 bits alone, so the three are added word by word
    fraction = _added(_multiplied(k1, words[1]), _multiplied(k2, words[2]))
    return _added(_multiplied(whole, words[0], words[3]), fraction)


def float_parts(positions: Tensor) -> list[Tensor]:
    """whole, k1 and k2 of float positions, each step exact in the positions' own dtype."""
    parts, rest = [], positions
    for _ in range(3):
        parts.append(tf.cast(rest, tf.int64))
        rest = (rest - tf.cast(parts[-1], positions.dtype)) * tf.constant(2.0**31, positions.dtype)
    return parts


def _multiplied(p: Tensor, words: Any, offsets: Any | None = None) -> Phase:
    result: list[Tensor] = []
    carry: Any = 0
    for i in (3, 2, 1, 0):
        t = p * words[i]
        if offsets is not None:
            t += offsets[i]
        if result:
            t += shifted(carry, 32)
        carry = t
        result.append(t & _MASK)
    return tuple(reversed(result))


def _added(a: Phase, b: Phase) -> Phase:
    result: list[Tensor] = []
    carry: Any = 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        t = x + y + carry
        carry = shifted(t, 32)
        result.append(t & _MASK)
    return tuple(reversed(result))


def shifted(x: Tensor, bits: int) -> Tensor:
    """An arithmetic shift to the right."""
    return tf.bitwise.right_shift(x, tf.constant(bits, x.dtype))
