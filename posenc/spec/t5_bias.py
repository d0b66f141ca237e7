"""T5's relative attention bias: buckets of distances, exact near by and logarithmic far away."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from posenc.spec import checks, exact
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

GREATEST_BUCKETS = 2**12
_EPSILON_BITS = 23
"""T5X adds 2^-23, the epsilon of float32."""


@dataclass(frozen=True, slots=True)
class T5Bias:
    """One learned number for each head and each bucket of distances, added to the attention scores.

    A query at position i and a key at position j, both integers, have the bias `weights[bucket(j - i), h]` in head h.
    With d = j - i, a side of s = `buckets` / 2 (bidirectional) or s = `buckets`, and e = floor(s / 2) exact buckets,

        bucket(d) = far(|d|) + s * [d > 0]     bidirectional
        bucket(d) = far(max(-d, 0))            otherwise: all keys behind the query share bucket 0

        far(n) = n                                                                    for n < e
        far(n) = min(e + floor((s - e) * ln(n / e) / ln(max_distance / e)), s - 1)    for n >= e        rule "exact"

    `rule="t5x"` has n / e + 2^-23 in place of n / e in the first logarithm. The floor is that of the real number, in
    either rule: the least n of each bucket is found by comparing integers.

    Parameters
    ----------
    heads : number of heads, >= 1.
    buckets : number of buckets, from 2 to 4,096; an even number >= 4 if bidirectional. 32 in the paper.
    max_distance : from this distance on everything is in the last bucket; an integer > e, below 2^31. 128 in the paper.
    bidirectional : True in an encoder, False in a decoder. No default. Cross-attention in T5 has no bias.
    rule : `exact`, or `t5x`.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    Raffel et al. 2019 (arXiv 1910.10683), section 2.1, in words. Formula: tensorflow/mesh, mesh_tensorflow/transformer/
    transformer_layers.py, `_relative_position_bucket`; rule `t5x`: google/flaxformer, components/attention/
    relative_position_biases.py. Deviations in the world: logarithms in floating point, which put a distance that
    begins a bucket into the one below: 10, 20 and 80 of 10 buckets a side and 160 in float64, others in float32.
    """

    heads: int
    _: KW_ONLY
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool
    rule: Literal["exact", "t5x"] = "exact"

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        settle("heads", checks.integer("T5Bias.heads", self.heads, minimum=1))
        checks.boolean("T5Bias.bidirectional", self.bidirectional)
        least = 4 if self.bidirectional else 2
        settle("buckets", checks.integer("T5Bias.buckets", self.buckets, minimum=least, maximum=GREATEST_BUCKETS))
        if self.bidirectional and self.buckets % 2:
            raise checks.SpecError(
                f"T5Bias.buckets: expected an even integer where bidirectional, received {self.buckets}"
            )
        limit = checks.POSITION_LIMIT
        settle("max_distance", checks.integer("T5Bias.max_distance", self.max_distance, minimum=1, limit=limit))
        if self.max_distance <= self.exact_distances:
            raise checks.SpecError(
                f"T5Bias.max_distance: expected an integer > {self.exact_distances}, the distances with a bucket of "
                f"their own, received {self.max_distance}"
            )
        settle("rule", checks.choice("T5Bias.rule", self.rule, ("exact", "t5x")))

    @property
    def exact_distances(self) -> int:
        """e: how many distances, from 0, have a bucket of their own."""
        return self.buckets // 4 if self.bidirectional else self.buckets // 2

    @property
    def row_count(self) -> int:
        """Rows of the table: the buckets."""
        return self.buckets

    @property
    def weight_shape(self) -> tuple[int, int]:
        """`(buckets, heads)`, as PyTorch's T5 has it; T5X stores the transpose."""
        return self.buckets, self.heads

    def plan(self) -> DistancePlan:
        """Lower to the first distance of every bucket, in integers; the last few results are kept."""
        return _plan(self)


@lru_cache(maxsize=64)
def _plan(spec: T5Bias) -> DistancePlan:
    firsts = _firsts(spec)
    last = firsts[-1]
    runs = [Run(LEAST_DISTANCE, last[1])]
    # behind the query, from afar: a bucket ends where, seen from the query, it begins
    for (_, bucket), (further, _) in reversed(list(pairwise(firsts))):
        runs.append(Run(1 - further, bucket))
    if not spec.bidirectional:
        return DistancePlan(axes=(tuple(runs),), rows=spec.buckets, heads=spec.heads)
    side = spec.buckets // 2
    runs += [Run(first, side + bucket) for first, bucket in firsts[1:]]
    return DistancePlan(axes=(tuple(runs),), rows=spec.buckets, heads=spec.heads)


def _firsts(spec: T5Bias) -> list[tuple[int, int]]:
    """`(first distance, bucket)` of one side, in ascending order; a bucket that no distance reaches is left out."""
    side = spec.buckets // 2 if spec.bidirectional else spec.buckets
    whole = spec.exact_distances
    parts = side - whole
    firsts = {distance: distance for distance in range(whole)}
    firsts[whole] = whole
    for part in range(1, parts):
        # (n / whole)^parts >= (max_distance / whole)^part, in integers
        least = spec.max_distance**part * whole ** (parts - part)
        if spec.rule == "exact":
            distance = exact.root_ceiling(least, parts)
        else:  # (n + whole * epsilon)^parts >= least
            scaled = exact.root_ceiling(least << _EPSILON_BITS * parts, parts)
            distance = -((whole - scaled) >> _EPSILON_BITS)
        firsts[max(distance, whole)] = whole + part  # of buckets that begin together the last one counts
    return sorted(firsts.items())
