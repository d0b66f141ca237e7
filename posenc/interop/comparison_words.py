"""How causes are said: numbers, pairs, channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CAUSES = ("layout", "offset", "base", "scaling", "sign", "dtype", "unexplained", "cannot tell")
"""What may differ, in the order in which it is said."""


class Cause(NamedTuple):
    """One thing that differs: its name, and what is said of it."""

    name: str
    text: str


def number(value: float) -> str:
    """Five digits, or the three that are meant; so many that it is not 1 where it is not."""
    if 1e-7 < abs(value - 1) < 1e-3:
        return f"{value:.8g}"
    short = float(f"{value:.3g}")
    return f"{short if abs(value - short) <= 1e-4 * abs(short) else float(f'{value:.5g}'):.10g}"


def times(ratio: float) -> str:
    """`4 times` or `1/4 of`, as one says it."""
    return f"{number(ratio)} times" if ratio >= 1 or ratio < 0 else f"1/{number(1 / ratio)} of"


def runs(numbers: Iterable[int]) -> str:
    """`0 to 3, 8 and 12 to 15`."""
    spans: list[list[int]] = []
    for one in numbers:
        if spans and one == spans[-1][1] + 1:
            spans[-1][1] = one
        else:
            spans.append([one, one])
    told = [str(a) if a == b else f"{a} to {b}" for a, b in spans]
    if len(told) > 4:
        told = [*told[:3], f"{len(told) - 3} more"]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def things(name: str, numbers: Iterable[int]) -> str:
    """`pair 3` or `pairs 0 to 3`."""
    numbers = list(numbers)
    return f"{name}{'s' if len(numbers) > 1 else ''} {runs(numbers)}"


def causes(*found: Cause) -> tuple[Cause, ...]:
    """In the order in which they are said."""
    return tuple(sorted(found, key=lambda cause: CAUSES.index(cause.name)))
