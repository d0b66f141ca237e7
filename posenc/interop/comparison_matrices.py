"""Comparisons of matrices: encodings, and tables of cosines and sines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from posenc.interop import comparison_inputs as inputs
from posenc.interop.comparison_case import EQUAL, FLOAT32, Case, Tolerance, extended, unit
from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_layouts import Seen, undoubled
from posenc.interop.comparison_why import Encoding, bounds, seen_table, why
from posenc.interop.comparison_words import Cause, things
from posenc.spec.checks import SpecError

_TRANSPOSED = Cause("layout", "rows and columns are swapped")


def encodings(expected: Any, received: Any, positions: Any, tolerance: Tolerance) -> Case:
    """`(length, dim)` each."""
    e, r = inputs.source("compare.expected", expected, 2), inputs.source("compare.received", received, 2)
    transposed = not callable(e) and not callable(r) and e.shape == r.shape[::-1] != r.shape
    if transposed and not callable(r):
        r = r.T
    places = inputs.places(
        "compare.positions", positions, max((len(x) for x in (e, r) if not callable(x)), default=None)
    )
    left, right = _asked("compare.expected", e, places), _asked("compare.received", r, places)
    if left.values.shape[1] != right.values.shape[1]:
        widths = f"the width {left.values.shape[1]}, as the expected, received {right.values.shape[1]}"
        raise SpecError(f"compare.received: expected {widths}")
    case = matrices(left, right, tolerance, wavy=False, axes=("position", "channel"))
    if transposed:
        return extended(case, _TRANSPOSED)
    if case.found is None and left.values.shape == right.values.shape[::-1]:
        turned = matrices(left, replace(right, values=right.values.T), tolerance, wavy=False, axes=case.axes)
        if turned.found == ():
            return replace(extended(turned, _TRANSPOSED), received=right.values)
    return case


def _asked(where: str, source: inputs.Source, places: inputs.Positions) -> Encoding:
    if callable(source):
        return Encoding(inputs.array(f"{where}(positions)", source(places), 2), places.astype(float))
    return Encoding(source, places[: len(source)].astype(float))


def tables(expected: Any, received: Any, positions: Any, tolerance: Tolerance) -> Case:
    """Pairs of cosines and sines."""
    given = [
        (where, one if callable(one) else inputs.table(where, one))
        for where, one in (("compare.expected", expected), ("compare.received", received))
    ]
    lengths = {len(one[0]) for _, one in given if not callable(one)}
    if len(lengths) > 1:
        raise SpecError(f"compare.received: expected as many rows as expected has, received {sorted(lengths)}")
    places = inputs.places("compare.positions", positions, max(lengths, default=None))
    e_given, r_given = (
        inputs.table(f"{where}(positions)", one(places)) if callable(one) else one for where, one in given
    )
    (e_name, *e_once), (r_name, *r_once) = undoubled(*e_given), undoubled(*r_given)
    layout = []
    if e_name != r_name and "pairs" not in (e_name, r_name):
        layout = [Cause("layout", f"expected {e_name}, received {r_name} (how pairs stand twice in a row)")]
    alike = e_given[0].shape == r_given[0].shape and "pairs" in (e_name, r_name)  # as wide, and not both twice
    e, r = (e_given, r_given) if alike else (tuple(e_once), tuple(r_once))
    pairs = e[0].shape[1], r[0].shape[1]
    least = min(pairs)
    left, right = (
        Encoding(np.concatenate([part[:, :least] for part in one], axis=1), places.astype(float), seen_table)
        for one in (e, r)
    )
    case = matrices(left, right, tolerance, wavy=True, axes=("position", "column of cosines, then sines"))
    if pairs[0] != pairs[1]:
        return replace(case, found=(Cause("layout", f"{pairs[0]} pairs expected, {pairs[1]} received"),))
    if layout:  # what differs is seen where every pair stands twice
        whole = [np.concatenate(one, axis=1) for one in (e_given, r_given)]
        case = replace(case, expected=whole[0], received=whole[1], allowed=_twice(case.allowed, e_name))
    return extended(case, *layout)


def _twice(bounds: Float64, name: str) -> Float64:
    """Of cosines and sines whose pairs stand twice."""
    parts = np.split(bounds, 2, axis=1)
    return np.concatenate([np.tile(x, 2) if name == "half" else np.repeat(x, 2, axis=1) for x in parts], axis=1)


def matrices(e: Encoding, r: Encoding, tolerance: Tolerance, *, wavy: bool, axes: tuple[str, ...] = ()) -> Case:
    """Two matrices at their positions; of equal lengths unless tables were given whole."""
    if not np.isfinite(e.values).all():
        raise SpecError("compare.expected: expected finite numbers, received NaN or infinity")
    found = e.seen()
    bound = FLOAT32 if found is not None or wavy else EQUAL
    allowed = bounds(e.values, e.positions, found, wavy=wavy)
    if tolerance is not None:
        allowed, bound = np.full(allowed.shape, float(tolerance)), f"{tolerance:g}, as given"
    n = min(len(e.values), len(r.values))
    if bound is FLOAT32:
        allowed = allowed + unit(e.values, r.values)
    told = _explained(e, r, allowed, found)
    if len(e.values) != len(r.values) and told is not None:
        more = f"{len(e.values)} rows expected, {len(r.values)} received" + ("" if told else f", the first {n} agree")
        last = told[-1]._replace(text=f"{told[-1].text} ({more})") if told else Cause("unexplained", more)
        told = (*told[:-1], last)
    places = e.positions[:n].astype(int)
    return Case(e.values[:n], r.values[:n], allowed[:n], axes, (places,), told, bound, _weak(e))


def _explained(e: Encoding, r: Encoding, allowed: Float64, found: Seen | None) -> tuple[Cause, ...] | None:
    """Why they differ; a few rows that are zero in one alone are said, and the others looked at."""
    if not np.isfinite(r.values).all():
        row, _ = np.argwhere(~np.isfinite(r.values))[0]
        return (Cause("unexplained", f"position {r.positions[row]:.0f} of the received has NaN or infinity"),)
    if len(e.values) == len(r.values):
        full = [(one.values != 0).any(axis=1) for one in (e, r)]
        odd = np.flatnonzero(full[0] != full[1])
        if 0 < len(odd) <= len(full[0]) // 4:
            rest = full[0] == full[1]
            left, right = (replace(one, values=one.values[rest], positions=one.positions[rest]) for one in (e, r))
            told = why(left, right, allowed[rest], left.seen())
            if told is not None:
                whose = "received" if full[0][odd[0]] else "expected"
                text = f"{things('row', odd)} of the {whose} {'is' if len(odd) == 1 else 'are'} zero, not of the other"
                return (*told, Cause("unexplained", text + ("" if told else "; all others agree")))
    return why(e, r, allowed, found)


def _weak(e: Encoding) -> str:
    if len(e.values) > 1:
        return "all rows of the expected are equal" if (e.values == e.values[0]).all() else ""
    at = int(e.positions[0])
    return f"position {at} alone was compared" + ("" if at else ", where no rotation turns anything")
