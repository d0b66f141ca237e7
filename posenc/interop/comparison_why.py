"""Why two encodings, or two tables of cosines and sines, differ: waves first, then rows and channels, then rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from posenc.interop.comparison_angles import narrow_angles
from posenc.interop.comparison_formats import Float64, formats, shared
from posenc.interop.comparison_frequencies import relation
from posenc.interop.comparison_layouts import Seen, noise, orders, pairings, seen
from posenc.interop.comparison_maps import Indices, Matrices
from posenc.interop.comparison_search import agreement, explained
from posenc.interop.comparison_waves import Waves, allowed, waves
from posenc.interop.comparison_words import Cause, causes, number, things


@dataclass(frozen=True)
class Encoding:
    """A matrix `(length, width)` at integer positions, ascending, and how its waves are found."""

    values: Float64
    positions: Float64
    look: Callable[[Float64, Float64], Seen | None] = seen

    def seen(self) -> Seen | None:
        return self.look(self.values, self.positions)


def seen_table(both: Float64, positions: Float64) -> Seen | None:
    """The waves of cosines and sines side by side."""
    n = both.shape[1] // 2
    found = waves(both[:, :n] + 1j * both[:, n:], positions, noise(both))
    return None if found is None else Seen(found, "table")


def bounds(values: Float64, positions: Float64, found: Seen | None, *, wavy: bool) -> Float64:
    """What each number may be off by: of waves as `allowed` derives it; of anything else (`wavy` False) nothing.

    Waves whose frequencies cannot be read, since positions do not follow one another, are taken to be the fastest.
    """
    if found is None:
        if not wavy:
            return np.zeros_like(values)
        size = np.abs(values).max(initial=0.0)
        return np.broadcast_to(allowed(np.ones(1), size, positions), values.shape)
    part = allowed(found.waves.frequencies, found.waves.magnitudes, positions)
    twice = np.repeat(part, 2, axis=1) if found.pairing == "neighbours" else np.tile(part, 2)
    rest = values.shape[1] - twice.shape[1]
    return np.pad(twice, ((0, 0), (0, rest)))


def why(expected: Encoding, received: Encoding, allowed_: Float64, found: Seen | None) -> tuple[Cause, ...] | None:
    """The causes, none where nothing differs; None: unexplained. `allowed_` belongs to the expected numbers."""
    named = orders(expected.values.shape[1]) if expected.look is seen else _table_orders(expected.values.shape[1])
    given = Matrices(expected.values, received.values, allowed_, expected.positions, received.positions, named)
    plain = agreement(given, given.same)
    if plain is not None:
        return plain
    other = received.seen() if found is not None else None
    if found is not None and other is not None:
        between = _waves(found, other, given)
        if between:
            return between
    told = explained(given)
    if told is None and found is not None:
        told = _rounded(found, received)
    return told


def _waves(e: Seen, r: Seen, given: Matrices) -> tuple[Cause, ...]:
    """What differs between two sets of waves."""
    found: list[Cause] = []
    if (e.pairing, e.waves.swapped) != (r.pairing, r.waves.swapped):
        found.append(Cause("layout", _layouts(e, r)))
    k, ends = r.waves.offset - e.waves.offset, int(given.own[0] + given.own[-1])
    turned = e.waves.direction != r.waves.direction
    mirrored = turned and r.waves.offset + e.waves.offset == -ends != 0
    if mirrored:
        found.append(Cause("sign", f"rows run the other way, row p is expected row {ends} - p"))
    elif k:
        found.append(Cause("offset", f"received row p is expected row p {'+' if k > 0 else '-'} {abs(k)}"))
    reordered = _reordered(e.waves, r.waves)
    found = _merged(found, reordered) if reordered else [*found, *relation(e.waves, r.waves)]
    order = (np.argsort(r.waves.frequencies), np.argsort(e.waves.frequencies)) if reordered else (slice(None),) * 2
    ratio = r.waves.magnitudes[order[0]] / e.waves.magnitudes[order[1]]
    noisy = e.waves.noise + r.waves.noise  # slow pairs are rounded to the same side in all rows
    doubt = 2.0**-19 + noisy
    if abs(ratio.mean() - 1) > 2.0**-19 + noisy * max(0.25, len(ratio) ** -0.5) or (np.abs(ratio - 1) > doubt).any():
        text = f"values are {number(float(ratio.mean()))} times the expected (magnitude, or attention factor)"
        if (np.abs(ratio / ratio.mean() - 1) > doubt).any():
            off = np.flatnonzero(np.abs(ratio - 1) > doubt)
            text = f"values of {things('pair', off)} are from {number(ratio.min())} to {number(ratio.max())} times"
        found = _merged(found, Cause("scaling", text))
    if turned and not mirrored:
        found.append(Cause("sign", "sines are negated, positions run the other way"))
    for name, text in given.narrow[: 0 if shared(given.expected, given.received) else 1]:
        found = _merged(found, Cause("dtype", text if not found else f"values are rounded to {name}"))
    return causes(*found)


def _reordered(e: Waves, r: Waves) -> Cause | None:
    """The same frequencies in another order."""
    ours, theirs = np.argsort(e.frequencies), np.argsort(r.frequencies)
    doubt = e.doubt[ours] + r.doubt[theirs]
    moved = np.flatnonzero(ours != theirs)
    if not len(moved) or (np.abs(e.frequencies[ours] - r.frequencies[theirs]) > doubt).any():
        return None
    if (np.abs(e.frequencies - r.frequencies) <= e.doubt + r.doubt).all():
        return None  # too alike to be told apart
    pair, there = int(theirs[moved[0]]), int(ours[moved[0]])
    return Cause("layout", f"pairs are in another order (pair {pair} of the received is pair {there} of the expected)")


def _merged(found: list[Cause], new: Cause) -> list[Cause]:
    """Two things of one name are said together."""
    for at, one in enumerate(found):
        if one.name == new.name:
            return [*found[:at], Cause(one.name, f"{one.text}, and {new.text}"), *found[at + 1 :]]
    return [*found, new]


def _layouts(e: Seen, r: Seen) -> str:
    if e.pairing == "table":
        return "cosines and sines are swapped"
    first, there = r.channel(0, cosine=False), e.channel(0, cosine=False)
    n = len(e.waves.frequencies)
    for pair in range(n):
        for cosine in (False, True):
            if r.channel(pair, cosine) == 1:
                first, there = 1, e.channel(pair, cosine)
    if first == there:
        first, there = r.channel(n - 1, cosine=False), e.channel(n - 1, cosine=False)
    where = f"channel {first} of the received is channel {there} of the expected"
    return f"expected {e.layout}, received {r.layout} ({where})"


def _rounded(e: Seen, received: Encoding) -> tuple[Cause, ...] | None:
    """Angles in a narrow format, in the layout of the expected or another."""
    values, p = received.values, received.positions
    narrow = formats(values)
    if e.pairing == "table":
        n = values.shape[1] // 2
        return narrow_angles(e.waves, values[:, :n] + 1j * values[:, n:], p, narrow)
    for pairing, z in pairings(values):
        for swapped in (False, True):
            other = Seen(replace(e.waves, swapped=swapped), pairing)
            found = narrow_angles(e.waves, z.imag + 1j * z.real if swapped else z, p, narrow)
            if found is not None:
                return causes(*found, *([] if other.layout == e.layout else [Cause("layout", _layouts(e, other))]))
    return None


def _table_orders(width: int) -> tuple[tuple[str, Indices], ...]:
    return (("cosines and sines are swapped", np.roll(np.arange(width), width // 2)),)
