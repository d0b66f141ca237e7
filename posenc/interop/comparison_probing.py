"""What a rotation does: which channels it turns together, and by which cosines and sines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_maps import Indices
from posenc.interop.comparison_words import runs, things
from posenc.spec.checks import SpecError

Rotation = Callable[[NDArray[np.float32], NDArray[np.int64]], Float64]
_PROBES = 6
_ZERO = 2.0**-40


class NoRotation(SpecError):
    """A function whose result mixes more channels than two."""


class Turned(NamedTuple):
    """Pair j of the result has `cos * x[u] - sin * x[v]` and `cos * x[v] + sin * x[u]`, in two channels each."""

    reads: Indices
    """`(pairs, 2)`: u and v."""
    writes: Indices
    """`(pairs, 2)`: the channels that have the two results."""
    still: Indices
    """Channels that stay as they are."""
    moved: Indices
    """`(channels, 2)`: what is another channel as it is, and which."""

    @property
    def layout(self) -> str:
        """half, interleaved, interleaved_to_half, with the width where some channels stay; or pairs."""
        if not len(self.reads):
            return "no pair that turns"
        n, first = len(self.reads), int(min(self.reads.min(), self.writes.min())) if len(self.reads) else 0
        pairs = {
            "half": np.stack([np.arange(n), n + np.arange(n)], axis=1),
            "interleaved": np.arange(2 * n).reshape(n, 2),
        }
        names = [next((k for k, v in pairs.items() if (part - first == v).all()), "") for part in self[:2]]
        name = names[0] if names[0] == names[1] else f"{names[0]}_to_{names[1]}"
        if not all(names):
            told = ", ".join(f"({u}, {v})" for u, v in self.reads[:3])
            written = ", ".join(f"({u}, {v})" for u, v in self.writes[:3])
            name = f"pairs {told}, ..." + (f" written to {written}, ..." if written != told else "")
        return name + (f" on {things('channel', sorted(self.reads.ravel().tolist()))}" if len(self.still) else "")


def probed(where: str, rotation: Rotation, width: int, positions: NDArray[np.int64]) -> tuple[Turned, Float64]:
    """The pairs, in the order of the channels that they are written to, and `(length, 4 * pairs)` numbers.

    Those are the cosines as the first and as the second of a pair have them, and the sines likewise: equal halves
    where it is a rotation. NoRotation, a SpecError, where a channel of the result depends on more than two of x.
    """
    few = positions[np.linspace(0, len(positions) - 1, min(_PROBES, len(positions))).astype(int)]
    unit = np.tile(np.eye(width, dtype=np.float32), (len(few), 1))
    answers = rotation(unit, np.repeat(few, width)).reshape(len(few), width, width)
    turned = _structure(where, np.moveaxis(answers, 1, 2))
    u, v = turned.reads.T
    first, second = turned.writes.T
    x = np.zeros((2, len(positions), width), np.float32)
    x[0][:, u], x[1][:, v] = 1, 1
    of_u, of_v = (rotation(part, positions) for part in x)
    return turned, np.concatenate([of_u[:, first], of_v[:, second], -of_v[:, first], of_u[:, second]], axis=1)


def _structure(where: str, matrices: Float64) -> Turned:
    """Of `(probes, result, x)` matrices."""
    width = matrices.shape[1]
    size = np.abs(matrices).max(axis=0)
    linked = size > _ZERO * max(float(size.max()), 1e-30)
    counts = linked.sum(axis=1)
    if (counts > 2).any():
        channel = int(np.argmax(counts > 2))
        raise NoRotation(
            f"{where}: expected a rotation, of which each channel of the result depends on at most two of x, "
            f"received one whose channel {channel} depends on channels {runs(np.flatnonzero(linked[channel]))}"
        )
    reads: list[tuple[int, int]] = []
    writes: list[tuple[int, int]] = []
    still: list[int] = []
    moved: list[tuple[int, int]] = []
    partner: dict[tuple[int, ...], list[int]] = {}
    for channel in range(width):
        sources = np.flatnonzero(linked[channel]).tolist()
        if len(sources) == 2:
            partner.setdefault(tuple(sources), []).append(channel)
        elif sources == [channel]:
            still.append(channel)
        else:
            moved.append((channel, sources[0] if sources else -1))
    for (a, b), channels in sorted(partner.items(), key=lambda item: item[1]):
        if len(channels) != 2:
            raise NoRotation(
                f"{where}: expected pairs of channels, received {len(channels)} results of channels {a}, {b}"
            )
        c, d = channels
        straight, crossed = (_improper(matrices, x, (c, d)) for x in ((a, b), (b, a)))
        u, v = (b, a) if crossed < 2.0**-7 * straight else (a, b)
        reads.append((u, v))
        writes.append((c, d))
    shape = (-1, 2)
    return Turned(
        np.array(reads, np.intp).reshape(shape),
        np.array(writes, np.intp).reshape(shape),
        np.array(still, np.intp),
        np.array(moved, np.intp).reshape(shape),
    )


def _improper(matrices: Float64, x: tuple[int, int], result: tuple[int, int]) -> float:
    """How far `result` is from a rotation of `x`, where that shows best."""
    (u, v), (c, d) = x, result
    cosines = np.abs(matrices[:, c, u] - matrices[:, d, v])
    sines = np.abs(matrices[:, c, v] + matrices[:, d, u])
    return float((cosines + sines).max())
