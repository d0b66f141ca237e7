"""Rows and biases of pairs of positions: their arguments, and what the number of a pair becomes.

What goes in, and what is refused: `help(posenc)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from posenc.numpy_impl.formats import converted
from posenc.numpy_impl.inputs import DTYPES, Pair, read_dtype, read_pair, read_weights
from posenc.numpy_impl.pairs import check_distances, fill
from posenc.numpy_impl.slopes import multiples
from posenc.numpy_impl.words import Int64
from posenc.spec import weight_checks
from posenc.spec.distance_plan import DistancePlan, DistanceSpec, bias_plan, rows_plan


def rows(spec: DistanceSpec, query_positions: ArrayLike | range, key_positions: ArrayLike | range) -> NDArray[np.int32]:
    """Which row every pair reads, `(*B, Q)` and `(*B, K)` -> `(*B, Q, K)`; -1 where it has none.

    Positions are integers, with a last axis of coordinates where `spec` has several.
    """
    plan = rows_plan("rows", spec)
    pair = _read("rows", plan, query_positions, key_positions)
    check_distances("rows", plan, pair)
    out = np.empty((*pair.lead, 1, pair.query.shape[-2], pair.key.shape[-2]), np.int32)

    def number(n: Int64, out: NDArray[Any]) -> None:
        out[..., 0, :, :] = n

    fill(plan, pair, out, number)
    return out[..., 0, :, :]


def bias(
    spec: DistanceSpec,
    query_positions: ArrayLike | range,
    key_positions: ArrayLike | range,
    *,
    weights: ArrayLike | None = None,
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    """What is added to the scores of every pair, `(*B, Q)` and `(*B, K)` -> `(*B, heads, Q, K)`, rounded once.

    Positions are integers, as in `rows`; `weights` of shape `spec.weight_shape`, None where that is None.
    """
    plan = bias_plan("bias", spec)
    pair = _read("bias", plan, query_positions, key_positions)
    table = _table(plan, weights)
    name = read_dtype("bias", dtype)
    check_distances("bias", plan, pair)
    out = np.empty((*pair.lead, plan.heads or 0, pair.query.shape[-2], pair.key.shape[-2]), DTYPES[name])
    # infinity is what float16 has for a far key, and for a large weight
    with np.errstate(all="ignore"):
        if table is None:
            fill(plan, pair, out, multiples(spec, plan.slopes, name))  # type: ignore[arg-type]  # its plan has slopes
        else:
            columns = converted(table, name)

            def weight(n: Int64, out: NDArray[Any]) -> None:
                for head, column in enumerate(columns):
                    out[..., head, :, :] = column.take(n, mode="wrap")  # -1 is the entry behind all rows

            fill(plan, pair, out, weight)
    return out


def _read(where: str, plan: DistancePlan, query: object, key: object) -> Pair:
    pair = read_pair(where, len(plan.axes), query, key)
    if plan.anchored:  # every query stands at 0
        return pair._replace(query=np.broadcast_to(np.int64(0), (*(1,) * len(pair.lead), *pair.query.shape[-2:])))
    return pair


def _table(plan: DistancePlan, weights: object) -> NDArray[Any] | None:
    """`(rows, heads)` -> `(heads, rows + 1)`, NaN behind the last row; None for slopes."""
    if plan.rows is None or plan.heads is None:
        if weights is not None:
            raise weight_checks.no_weights_error("bias", weights)
        return None
    shape = plan.rows, plan.heads
    if weights is None:
        raise weight_checks.weights_shape_error("bias", shape, None)
    table = read_weights("bias", weights, shape)
    return np.concatenate((table.T, np.full((plan.heads, 1), np.nan, table.dtype)), axis=1)
