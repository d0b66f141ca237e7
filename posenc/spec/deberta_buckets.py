"""DeBERTa's relative positions: exact near by, logarithmic buckets far away, as rows of its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import pairwise

from posenc.spec import checks, exact
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

GREATEST_BUCKETS = 2**12


@dataclass(frozen=True, slots=True)
class DebertaBuckets:
    """Which of 2 * `buckets` rows of relative embeddings a query and a key read, in DeBERTa v2 and v3.

    With r = i - j, query minus key, m = `buckets` / 2 and M = `max_distance`,

        bucket(r) = r                                                                       for |r| <= m
        bucket(r) = sign(r) * (m + ceil((m - 1) * ln(|r| / m) / ln((M - 1) / m)))           for |r| > m
        row       = min(max(bucket(r) + buckets, 0), 2 * buckets - 1)

    where, if `clamped`, r is first limited to -(M - 1) ... M - 1. The ceiling is that of the real number, found by
    comparing integers. The same row serves content-to-position and position-to-content attention.

    Parameters
    ----------
    buckets : an even integer from 4 to 4,096; `position_buckets` of a configuration. 256 in the published models.
    max_distance : an integer > m + 1, below 2^31; `max_relative_positions`, where that is -1 the longest input. 512.
    clamped : True as in the authors' later code; False as in their first release, transformers and keras-hub. No
        default. They differ from distance M on, only for keys far ahead of the query: row 1, and, further on, row 0.

    Raises
    ------
    SpecError : in one sentence, which field, what it expects and what it received.

    Sources
    -------
    He et al. 2020 (arXiv 2006.03654), section 3.1, without the logarithm; microsoft/DeBERTa, DeBERTa/deberta/
    da_utils.py, `make_log_bucket_position`; transformers, models/deberta_v2/modeling_deberta_v2.py.
    """

    buckets: int = 256
    max_distance: int = 512
    _: KW_ONLY
    clamped: bool

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else

        where = "DebertaBuckets.buckets"
        settle("buckets", checks.integer(where, self.buckets, minimum=4, maximum=GREATEST_BUCKETS))
        if self.buckets % 2:
            raise checks.SpecError(f"{where}: expected an even integer, received {self.buckets}")
        limit = checks.POSITION_LIMIT
        settle("max_distance", checks.integer("DebertaBuckets.max_distance", self.max_distance, minimum=1, limit=limit))
        if self.max_distance <= self.buckets // 2 + 1:
            raise checks.SpecError(
                f"DebertaBuckets.max_distance: expected an integer > {self.buckets // 2 + 1}, one more than the "
                f"distances with a row of their own, received {self.max_distance}"
            )
        checks.boolean("DebertaBuckets.clamped", self.clamped)

    @property
    def row_count(self) -> int:
        """Rows of the table of relative embeddings."""
        return 2 * self.buckets

    def plan(self) -> DistancePlan:
        """Lower to the first distance of every row, in integers; the last few results are kept."""
        return _plan(self)


@lru_cache(maxsize=64)
def _plan(spec: DebertaBuckets) -> DistancePlan:
    top = spec.row_count - 1
    runs = [Run(LEAST_DISTANCE, top)]
    firsts = list(_firsts(spec))
    # keys behind the query come first: the distance of the plan is -r
    ends = [first - 1 for first, _ in firsts[1:]]
    runs += [
        Run(-end, min(spec.buckets + bucket, top))
        for (_, bucket), end in reversed(list(zip(firsts[:-1], ends, strict=True)))
    ]
    runs += [Run(first, max(spec.buckets - bucket, 0)) for first, bucket in firsts[1:]]
    merged = [runs[0]]
    merged += [run for last, run in pairwise(runs) if run.number != last.number]
    return DistancePlan(axes=(tuple(merged),), rows=spec.row_count, heads=None)


def _firsts(spec: DebertaBuckets) -> Iterator[tuple[int, int]]:
    """`(first |r|, |bucket|)` of one side, in ascending order, up to the last one that changes a row."""
    middle, widest = spec.buckets // 2, spec.max_distance - 1
    parts = middle - 1
    yield from ((distance, distance) for distance in range(middle + 1))
    # past middle + parts = buckets - 1 there is one more row, 0, on one side; clamped, it is not reached
    for part in range(1, parts + (1 if spec.clamped else 2)):
        # bucket middle + part begins one past the greatest n with (n / middle)^parts <= (widest / middle)^(part - 1)
        yield exact.root(widest ** (part - 1) * middle ** (parts - part + 1), parts) + 1, middle + part
