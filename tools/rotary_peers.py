"""Compare published rotary embeddings with posenc, each under the specification that it is documented to follow.

    python tools/rotary_peers.py [--length 16384]

Runs in an environment of its own (`make peers`). A peer turns three heads at positions 0, 1, 2, ...: pairs (1, 0) and
(0, 1), which show its table, and random ones. With e the relative error that its float32 formula may give a frequency,

    e = (2 + ln(base) / 2) * 2^-24, plus what the steps of a scaling rule add (`frequency_bound`)

(an exponent rounded, a power, a reciprocal), it agrees where a table's element is within

    magnitude * (position * frequency * (e + 2^-24) + 2^-22)

of the exact one (the product rounded; a sine, a magnitude and their roundings), an element of a turned pair (u, v)
within that times |u| + |v|, plus 2^-22 * magnitude * max(|u|, |v|), and a frequency that is kept within e. What is
printed are the worst differences as parts of these bounds; a wrong convention is thousands of times them.

What differs has an entry in docs/differences.md, and what has an entry must differ.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import peer_environment  # noqa: F401 - before the packages
import torch
from differences import entries
from peer_report import verdict
from rotary_packages import DIM, PEERS, Array, Peer

from posenc import DynamicNtk, Llama3, Ntk, Rope, Yarn
from posenc.numpy_impl import rotate, table

ROUNDING = 2.0**-24
SMALL = 2.0**-22
"""A sine, a magnitude, a product and a sum: a few roundings of numbers up to 1."""


def array(value: Any) -> Array:
    """Any framework's array, as float64."""
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, np.float64)


def frequency_bound(spec: Rope, *, exponential: bool = False) -> Array:
    """Per pair, e: the relative error of a frequency computed in float32.

    Where a scaling rule blends theta_j with theta_j / factor, a share of the former that is wrong by w makes the
    frequency wrong by theta_j * (1 - 1 / factor) * w.
    """
    scaling, pairs = spec.scaling, spec.pairs
    frequency = np.array(spec.frequencies())
    base = spec.base
    if isinstance(scaling, Ntk | DynamicNtk):  # the base that the rule makes
        base = frequency[-1] ** (-pairs / (pairs - 1))
    units = np.full(pairs, 2 + math.log(base) / 2)
    if exponential:  # a logarithm, a quotient and a product make the exponent
        units = 2 + 3 * math.log(base) * np.arange(pairs) / pairs
    if scaling is not None:
        units += 2  # a factor or a changed base, rounded, and the product with it
    if isinstance(scaling, Llama3 | Yarn):
        theta = spec.base ** (-np.arange(pairs) / pairs)
        step = theta * (1 - 1 / scaling.factor)
        share = (frequency - theta / scaling.factor) / step
        if isinstance(scaling, Llama3):  # (turns - low) / (high - low), of turns that are as wrong as theta_j
            turns = scaling.original_length * theta / (2 * math.pi)
            wrong = (units + 3) * turns / (scaling.high_freq_factor - scaling.low_freq_factor)
        else:  # 1 - (j - low) / (high - low), of ends up to `pairs` that are integers or wrong by 4 roundings each
            wrong = 2 + (0 if scaling.truncate else 8 * pairs * -np.diff(share, append=share[-1]).min())
        units += 2 + np.where((share > 1e-9) & (share < 1 - 1e-9), step * wrong / frequency, 0)
    return units * ROUNDING


def sides(layout: str, pairs: int) -> tuple[slice, slice]:
    """The channels u and v of all pairs."""
    if layout == "interleaved":
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    return slice(0, pairs), slice(pairs, 2 * pairs)


@lru_cache(maxsize=4)  # one specification serves several peers that stand together
def exact(spec: Rope, length: int) -> tuple[Array, Array]:
    """Three heads, and as posenc turns them."""
    plan = spec.rotation()
    q = np.random.default_rng(0).normal(size=(3, length, DIM)).astype(np.float32)
    q[:2, :, : 2 * plan.pairs] = 0
    for head, side in enumerate(sides(plan.reads, plan.pairs)):
        q[head, :, side] = 1
    return q, rotate(spec, q.astype(np.float64), table(spec, range(length), dtype=np.float64), head_axis=0)


def compare(peer: Peer, length: int) -> tuple[float, tuple[float, ...]]:
    """The worst difference of the table; then, as parts of their bounds, that of frequencies, table and turned pairs.

    The first part is NaN where a peer keeps no frequencies.
    """
    spec = peer.spec.at_length(length)
    plan = spec.rotation()
    q, ours = exact(spec, length)
    turn, kept = peer.make(length)
    difference = np.abs(array(turn(q)) - ours)

    frequencies = np.array(spec.frequencies())
    e = frequency_bound(spec, exponential=peer.exponential)
    of_table = spec.magnitude * (np.arange(length)[:, None] * frequencies * (e + ROUNDING) + SMALL)
    u, v = (np.abs(q[2, :, side]) for side in sides(plan.reads, plan.pairs))
    of_turned = of_table * (u + v) + SMALL * spec.magnitude * np.maximum(u, v)

    parts = [math.nan, 0.0, 0.0]
    for side in sides(plan.writes, plan.pairs):
        parts[1] = max(parts[1], float((difference[:2, :, side] / of_table).max()))
        parts[2] = max(parts[2], float((difference[2, :, side] / of_turned).max()))
    if difference[..., 2 * plan.pairs :].any():  # these do not turn, and are copies
        parts[2] = math.inf
    if kept is not None:
        parts[0] = float((np.abs(array(kept) - frequencies) / (e * np.maximum(frequencies, 2.0**-64))).max())
    return float(difference[:2].max()), tuple(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=16384)
    length = parser.parse_args().length
    known = entries()
    failed = 0
    print(f"{'package':23}{'version':9}{'what':34}{'worst':>8}{'frequency':>12}{'table':>9}{'turned':>9}  of bound")
    for peer in PEERS:
        worst, parts = compare(peer, length)
        as_said, remark = verdict(known, peer.entry, differs=any(part > 1 for part in parts))
        failed += not as_said
        shown = ("-" if math.isnan(part) else f"{part:.2f}" if part < 1000 else f"{part:.0e}" for part in parts)
        version = importlib.metadata.version(peer.package)
        row = "".join(text.rjust(width) for text, width in zip(shown, (12, 9, 9), strict=True))
        print(f"{peer.package:23}{version:9}{peer.name:34}{worst:8.1e}{row}{remark}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
