"""Layouts of channels: of encodings, of tables with every pair twice, and of heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from posenc.interop.comparison_formats import Float64, formats
from posenc.interop.comparison_maps import Indices
from posenc.interop.comparison_waves import Complex, Waves, waves

NOISE = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
NAMES = {
    ("neighbours", False): "interleaved",
    ("halves", False): "sin_cos",
    ("neighbours", True): "interleaved with cosines first",
    ("halves", True): "cos_sin",
}


class Seen(NamedTuple):
    """The waves of an encoding, and which channels are a pair: `neighbours` or `halves`."""

    waves: Waves
    pairing: str

    @property
    def layout(self) -> str:
        """interleaved, sin_cos, cos_sin, ..."""
        return NAMES[self.pairing, self.waves.swapped]

    def channel(self, pair: int, cosine: bool) -> int:
        """Where the sine or cosine of a pair stands."""
        second = cosine != self.waves.swapped
        return 2 * pair + second if self.pairing == "neighbours" else second * len(self.waves.frequencies) + pair


def noise(values: Float64) -> float:
    """What the narrowest format that has all values adds to them, relative."""
    return max((NOISE.get(name, 0.0) for name in formats(values)), default=0.0)


def pairings(encoding: Float64) -> Iterator[tuple[str, Complex]]:
    """The second channel of each pair + i * the first, a cosine and a sine where the layout is the usual one."""
    n = encoding.shape[1] // 2
    yield "neighbours", encoding[:, 1 : 2 * n : 2] + 1j * encoding[:, 0 : 2 * n : 2]
    if n > 1:
        yield "halves", encoding[:, n : 2 * n] + 1j * encoding[:, :n]


def seen(encoding: Float64, positions: Float64) -> Seen | None:
    """The layout and waves of an encoding; None where it is no such thing, or rows are too few."""
    if encoding.shape[1] < 2 or (encoding.shape[1] % 2 and encoding[:, -1].any()):
        return None
    blur = noise(encoding)
    for pairing, z in pairings(encoding):
        found = waves(z, positions, blur)
        if found is not None:
            return Seen(found, pairing)
    return None


def orders(width: int) -> tuple[tuple[str, Indices], ...]:
    """Orders of channels that have a name: received channel c is expected channel order[c]."""
    if width % 2 or width < 4:
        return ()
    n = width // 2
    zipped = np.arange(width).reshape(2, n).T.ravel()
    halved = np.arange(width).reshape(n, 2).T.ravel()
    swapped = np.roll(np.arange(width), n)
    named = {
        "channels are in another order, as from half to interleaved": zipped,
        "channels are in another order, as from interleaved to half": halved,
        "the halves of the channels are swapped": swapped,
        "neighbouring channels are swapped": np.arange(width) ^ 1,
    }
    return tuple(named.items())


def undoubled(cos: Float64, sin: Float64) -> tuple[str, Float64, Float64]:
    """A table with every pair once; how it was twice: `half` (concatenated), `interleaved` (repeated) or `pairs`."""
    n = cos.shape[1] // 2
    if cos.shape[1] % 2 == 0 and n:
        if all((part[:, :n] == part[:, n:]).all() for part in (cos, sin)):
            return "half", cos[:, :n], sin[:, :n]
        if all((part[:, ::2] == part[:, 1::2]).all() for part in (cos, sin)):
            return "interleaved", cos[:, ::2], sin[:, ::2]
    return "pairs", cos, sin
