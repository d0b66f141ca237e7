"""Timing and memory on a shared machine: calls take turns, and the fastest run of each counts."""

from __future__ import annotations

import time
from collections.abc import Callable

REPEATS = 9


def fastest(*calls: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Seconds of the fastest run of each call, the calls taking turns."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for index, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - begin)
    return best


def resident(field: str) -> int:
    """Bytes of a memory field of this process, such as VmRSS."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def extra_memory(call: Callable[[], object], warm: Callable[[], object], size: int) -> float:
    """Peak resident memory of `call` beyond its result of `size` bytes, as a part of it; the first large of a process.

    What `warm`, a small call, compiles or keeps is not the call's.
    """
    warm()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = resident("VmRSS")
    kept = call()
    peak = resident("VmHWM")
    del kept
    return (peak - before) / size - 1
