"""Biases as score functions of `torch.nn.attention.flex_attention`, which never forms heads x Q x K of them.

`scaled_dot_product_attention` takes `bias` as its `attn_mask`; where that is too large, or on an accelerator:

    scores = score_mod(Alibi.causal(8), query_positions, key_positions)
    out = torch.compile(flex_attention, fullgraph=True)(q, k, v, score_mod=scores, block_mask=mask)

On a CPU flex_attention has no backward (2.13): it raises where queries, keys or values need a gradient. Train there by
`scaled_dot_product_attention`. Compiled again and again, for one score function after the other, it reaches the
recompile limit and, without `fullgraph=True`, falls back to the eager form, which does form all scores;
`torch._dynamo.reset()` begins anew. One compiled function serves all positions of the same shapes: they are tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from posenc.spec.distance_plan import DistanceSpec
from posenc.torch_impl import distance, pairs

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def score_mod(
    spec: DistanceSpec,
    query_positions: Any,
    key_positions: Any,
    *,
    weights: Tensor | None = None,
    device: torch.device | str | None = None,
) -> ScoreMod:
    """`(score, batch, head, query_index, key_index) -> score` plus the bias: positions `(Q,)`, `(K,)` or `(B, ...)`.

    The bias is computed for each score in float32: float32 slope times n, or `weights[n, head]`. Tensors are read on
    `device`; None: that of the weights, or of the positions. A leading axis of 1, and none, serve every batch row.

    n is read from a table of up to 2^16 distances. Where the runs of a plan span more, as those of a T5 bias with a
    greater `max_distance` do, each score compares its distance with the first of every run, one after the other.
    """
    read = distance.read_pairs("score_mod", spec, query_positions, key_positions)
    fact, query, key = read.fact, read.query, read.key
    table = distance.read_table("score_mod", fact, weights)
    distance.check_strict("score_mod", spec, read)
    at = (query if table is None else table).device if device is None else torch.device(device)
    query, key = _one_batch("query_positions", query.to(at)), _one_batch("key_positions", key.to(at))
    get = read.constants(at)
    slopes = get("slopes32") if table is None else table.to(at)
    hows = [axis.how for axis in fact.axes]
    entries = get("table") if "table" in hows else slopes
    many = get("runs") if "search" in hows else slopes

    def scored(score: Tensor, batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
        q, k = _at(query, batch, query_index), _at(key, batch, key_index)
        distances = [b if fact.anchored else b - a for a, b in zip(q, k, strict=True)]
        n = pairs.number(fact, distances, lambda kind: entries if kind == "table" else many)
        if table is None:
            return score + slopes[head] * n.to(torch.float32)
        found = slopes[n.clamp(min=0), head].to(torch.float32)
        return score + (torch.where(n >= 0, found, torch.nan) if fact.gaps else found)

    return scored


def _one_batch(name: str, positions: Tensor) -> Tensor:
    """`(L, A)` or `(B, L, A)`, dense: a compiled function is compiled again for other strides, as slices have."""
    if positions.dim() > 3:
        raise ValueError(f"score_mod.{name}: expected one leading axis or none, received {positions.dim() - 2}")
    dense = positions.contiguous()
    return dense.squeeze(0) if dense.dim() == 3 and dense.shape[0] == 1 else dense


def _at(positions: Tensor, batch: Tensor, index: Tensor) -> list[Tensor]:
    """The coordinates of one position."""
    at = (index,) if positions.dim() == 2 else (batch, index)
    return [positions[(*at, axis)] for axis in range(positions.shape[-1])]
