"""Buckets of T5, each found twice: the published code in many digits first, integers alone second."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

from mpmath import mp, mpf

from vectors.rounding import exact

EPSILON = Fraction(1, 2**23)
"""np.finfo(np.float32).eps, which T5X adds."""


class Rule(NamedTuple):
    """What the bucket of a distance depends on."""

    buckets: int
    max_distance: int
    bidirectional: bool
    rule: str = "exact"

    def bucket(self, query: int, key: int) -> int:
        """_relative_position_bucket of tensorflow/mesh, mesh_tensorflow/transformer/transformer_layers.py."""
        relative_position = key - query
        ret, n, side = 0, -relative_position, self.buckets
        if self.bidirectional:
            side //= 2
            ret += (n < 0) * side
            n = abs(n)
        else:
            n = max(n, 0)
        return ret + far(n, side, self.max_distance, self.rule)


@cache
def far(n: int, side: int, max_distance: int, rule: str) -> int:
    """The bucket on one side; ArithmeticError where the two routes differ."""
    max_exact = side // 2
    if n < max_exact:
        return n
    epsilon = EPSILON if rule == "t5x" else Fraction(0)
    ratio = Fraction(n, max_exact) + epsilon
    parts = side - max_exact
    share = mp.log(exact(ratio)) / mp.log(mpf(max_distance) / max_exact) * parts
    near = int(mp.nint(share))  # an integer is one in all digits but the last
    code = max_exact + (near if abs(share - near) < mpf(10) ** -40 else int(mp.floor(share)))
    one, other = min(code, side - 1), by_integers(ratio, side, max_distance)
    if one != other:
        raise ArithmeticError(f"two routes to the bucket of {n} differ: {one} and {other}")
    return one


def by_integers(ratio: Fraction, side: int, max_distance: int) -> int:
    """The greatest k with (max_distance / e)^k <= ratio^(side - e), by comparison of integers."""
    whole = side // 2
    parts = side - whole
    power, last = ratio**parts, Fraction(max_distance, whole)
    k, reached = 0, last
    while k < parts and reached <= power:
        k, reached = k + 1, reached * last
    return min(whole + k, side - 1)
