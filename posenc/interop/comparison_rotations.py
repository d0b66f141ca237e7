"""The comparison of rotations: which channels they turn together, then by which angles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from posenc.interop import comparison_inputs as inputs
from posenc.interop.comparison_case import EQUAL, Case, Tolerance, extended, unit
from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_layouts import noise
from posenc.interop.comparison_matrices import matrices
from posenc.interop.comparison_probing import NoRotation, Rotation, Turned, probed
from posenc.interop.comparison_waves import fit
from posenc.interop.comparison_why import Encoding, seen_table
from posenc.interop.comparison_words import Cause
from posenc.spec.checks import SpecError

_PAIRED = (
    "the two channels of a pair have different angles, as where the table of one layout meets the pairs of another"
)


def rotations(expected: Any, received: Any, positions: Any, head_dim: int, tolerance: Tolerance) -> Case:
    """Functions `(x, positions) -> x'` of `(length, head_dim)`."""
    places = inputs.places("compare.positions", positions, None)
    ours, theirs = _asked("compare.expected", expected, head_dim), _asked("compare.received", received, head_dim)
    e, e_parts = probed("compare.expected", ours, head_dim, places)
    x = np.random.default_rng(0).standard_normal((len(places), head_dim)).astype(np.float32)
    outputs = ours(x, places), theirs(x, places)
    flat = np.full(outputs[0].shape, tolerance or 0.0)
    plain = Case(*outputs, flat, ("position", "channel"), (places,), None, EQUAL)
    if not np.isfinite(outputs[1]).all():
        return replace(plain, found=(Cause("unexplained", "the received has NaN or infinity"),))
    try:
        r, r_parts = probed("compare.received", theirs, head_dim, places)
    except NoRotation as error:
        cause = Cause("unexplained", str(error).removeprefix("compare.received: "))
        return replace(plain, found=(cause,))
    e, e_parts = _oriented(None, e, e_parts, places)
    r, r_parts = _oriented(e, r, r_parts, places)
    layout = [] if _same(e, r) else [Cause("layout", f"expected {e.layout}, received {r.layout}{_example(e, r)}")]
    counts = len(e.reads), len(r.reads)
    if not any(counts):
        agree = bool((np.abs(outputs[0] - outputs[1]) <= flat).all())
        weak = "no channel turns at the positions that were compared"
        return replace(plain, found=() if agree else None, weak=weak)
    if not all(counts):
        whose, other = ("received", "expected") if counts[0] else ("expected", "received")
        text = f"no channel turns in the {whose}, {max(counts)} pairs do in the {other}"
        return replace(plain, found=(Cause("unexplained", text),))
    if counts[0] != counts[1]:
        return replace(plain, found=tuple(layout))
    return _turns(plain, e, (e_parts, r_parts), x, tolerance, layout)


def _turns(
    plain: Case, e: Turned, given: tuple[Float64, Float64], x: Any, tolerance: Tolerance, layout: list[Cause]
) -> Case:
    """By which angles pairs are turned, where both turn as many."""
    places = plain.positions[0].astype(float)
    parts = [one.reshape(len(places), 4, -1) for one in given]
    proper = [_proper(one) for one in parts]
    if all(proper):
        left, right = (Encoding(one[:, ::2].reshape(len(places), -1), places, seen_table) for one in parts)
    else:
        left, right = (Encoding(one.reshape(len(places), -1), places, _nothing) for one in parts)
    inner = matrices(left, right, tolerance, wavy=True)
    if inner.found and proper[0] and not proper[1]:
        told = tuple(one._replace(text=_PAIRED) if one.name == "layout" else one for one in inner.found)
        inner = replace(inner, found=told)
    allowed = plain.allowed if tolerance is not None else _outputs(e, inner.allowed, plain, x)
    found = extended(inner, *layout).found
    if found == () and not (np.abs(plain.expected - plain.received) <= allowed).all():
        found = None
    return replace(plain, allowed=allowed, found=found, bound=inner.bound, weak=inner.weak)


def _oriented(e: Turned | None, r: Turned, parts: Float64, places: inputs.Positions) -> tuple[Turned, Float64]:
    """With (v, u) in place of (u, v) where the expected has it so; of other pairs where a few turn the other way.

    Which of two channels comes first is no more than a name.
    """
    one = parts.reshape(len(places), 4, -1)
    pairs = [tuple(row) for row in np.concatenate([r.reads, r.writes], axis=1).tolist()]
    known = set() if e is None else {tuple(row) for row in np.concatenate([e.reads, e.writes], axis=1).tolist()}
    turn = np.array([(v, u, d, c) in known for u, v, c, d in pairs], bool)
    other = ~turn & np.array([pair not in known for pair in pairs], bool)
    found = fit(one[:, 0] + 1j * one[:, 2], places.astype(float), noise(parts)) if _proper(one) else None
    if found is not None:
        ways = np.sign(found.frequencies) * (np.abs(found.frequencies) > 2 * found.doubt)
        few = -1 if ways[other].sum() >= 0 else 1
        if (ways[other] == -few).any():
            turn |= other & (ways == few)
    if not turn.any():
        return r, parts
    reads, writes = (np.where(turn[:, None], x[:, ::-1], x) for x in (r.reads, r.writes))
    # the cosines of both change places, as do the sines, which change their signs besides
    both = np.where(turn, np.array([[1], [1], [-1], [-1]]) * one[:, [1, 0, 3, 2]], one)
    return r._replace(reads=reads, writes=writes), both.reshape(parts.shape)


def _asked(where: str, function: Any, head_dim: int) -> Rotation:
    if not callable(function):
        raise SpecError(f"{where}: expected a function (x, positions) -> x', received {type(function).__name__}")

    def rotation(x: Any, positions: Any) -> Float64:
        answer = inputs.array(f"{where}(x, positions)", function(x, positions))
        if answer.size != x.size or answer.shape[-1] != head_dim:
            raise SpecError(f"{where}(x, positions): expected the shape {x.shape}, received {answer.shape}")
        return answer.reshape(x.shape)

    return rotation


def _outputs(e: Turned, allowed: Float64, plain: Case, x: Any) -> Float64:
    """What rotated numbers may be off by: both products by the table's bound, and their rounding by 2^-22."""
    spread, largest = np.zeros(plain.expected.shape), np.abs(x).max()
    worst = allowed.reshape(len(x), -1, len(e.reads)).max(axis=1)
    for column in range(2):
        spread[:, e.writes[:, column]] = 2 * worst * largest + 2.0**-22 * np.abs(plain.expected).max()
    return spread + unit(plain.expected, plain.received)


def _proper(parts: Float64) -> bool:
    """Whether both channels of a pair have the same cosine and the same sine."""
    away = np.abs(parts[:, ::2] - parts[:, 1::2]).max(initial=0.0)
    return bool(away <= 2.0**-20 * np.abs(parts).max(initial=0.0))


def _nothing(values: Float64, positions: Float64) -> None:  # noqa: ARG001 - what is no rotation has no waves
    return None


def _same(e: Turned, r: Turned) -> bool:
    return all(a.shape == b.shape and (a == b).all() for a, b in zip(e, r, strict=True))


def _example(e: Turned, r: Turned) -> str:
    """What becomes of the first pair, where that is not said by the names."""
    if e.layout != r.layout or not len(r.reads):
        return ""
    for a, b, c, d in zip(e.reads.tolist(), r.reads.tolist(), e.writes.tolist(), r.writes.tolist(), strict=False):
        if (a, c) != (b, d):
            return f" (channels {b} to {d}, expected {a} to {c})"
    return " (other channels are moved)"
