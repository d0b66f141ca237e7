"""What a comparison with published packages is made of, and what docs/differences.md has to say of it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from differences import Entry, entries

Array = np.ndarray


class Pair(NamedTuple):
    """What a package returns, what posenc has, and how far they may be apart: 0 where every bit has to be the same."""

    received: Any
    exact: Array
    bound: Array | float = 0.0


Compare = Callable[[], Iterator[Pair]]


class Peer(NamedTuple):
    """A published implementation, and how it is compared."""

    package: str
    name: str
    compare: Compare
    entry: str = ""
    """How the entry of docs/differences.md on it begins, where it differs."""


def verdict(known: list[Entry], entry: str, *, differs: bool) -> tuple[bool, str]:
    """Whether a peer has an entry if and only if it differs, and what to print of it."""
    named = [found.title for found in known if entry and found.title.startswith(entry)]
    if differs:
        return bool(named), f"   differs: {named[0] if named else 'no entry in docs/differences.md'}"
    return not named, f"   agrees, and its entry has to go: {named[0]}" if named else ""


def compare(peer: Peer) -> tuple[int, int, float]:
    """How many numbers were compared, how many are further apart than the bound, and the worst part of it."""
    torch.manual_seed(0)  # the tables of a package
    count = outside = 0
    worst = 0.0
    for received, exact, bound in peer.compare():
        array = np.asarray(received.detach() if isinstance(received, torch.Tensor) else received, np.float64)
        if array.shape != exact.shape:
            sys.exit(f"{peer.package} {peer.name}: received shape {array.shape}, expected {exact.shape}")
        distance = np.abs(array - exact)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(distance == 0, 0, distance / bound)
        part[np.isnan(part)] = np.inf
        count, outside, worst = count + part.size, outside + int((part > 1).sum()), max(worst, float(part.max()))
    return count, outside, worst


def report(peers: list[Peer]) -> int:
    """Print a line for each and count what is not as docs/differences.md says."""
    known = entries()
    failed = 0
    print(f"{'package':23}{'version':9}{'what':42}{'compared':>12}{'outside':>12}{'worst':>8}  of bound")
    for peer in peers:
        count, outside, worst = compare(peer)
        as_said, remark = verdict(known, peer.entry, differs=outside > 0)
        failed += not as_said
        shown = f"{worst:.2f}" if worst < 1000 else f"{worst:.0e}"
        version = importlib.metadata.version(peer.package)
        print(f"{peer.package:23}{version:9}{peer.name:42}{count:12,}{outside:12,}{shown:>8}{remark}", flush=True)
    return failed
