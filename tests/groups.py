"""Groups of vectors made in a test by exact arithmetic, for any specification; and the comparison with an answer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np

from posenc.conformance.cases import NAN, PHASE, ROWS, Case, Group, Weights
from posenc.conformance.judge import Disagreement, judge
from posenc.conformance.protocol import DTYPES, Positions, decoded, encoded
from posenc.spec.exact import round_to
from tests.columns import REFERENCE, numpy_dtype


def same_bits(host, expected, received, what):
    """The first entry that differs, named."""
    wanted, got = REFERENCE.read(expected), host.read(received)
    if wanted[:2] != got[:2]:
        raise Disagreement(what, str(got[:2]), str(wanted[:2]))
    if wanted[2] != got[2]:
        width = numpy_dtype(wanted[0]).itemsize
        index = next(i for i, (a, b) in enumerate(zip(wanted[2], got[2], strict=True)) if a != b) // width
        bits = [data[index * width : (index + 1) * width][::-1].hex() for data in (got[2], wanted[2])]
        raise Disagreement(f"{what}, entry {index}", *bits, limit="identical bits")


def agree(subject, mode, group, dtype):
    """Every case of a group is answered, and rightly."""
    verdicts = list(judge(subject, mode, group, dtype))
    assert [str(v.disagreement) for v in verdicts if v.disagreement is not None] == []
    assert len(verdicts) == len(group.cases)


def array_of(host, answer):
    """What the judge hands over, as an array of a framework."""
    entries = np.frombuffer(answer.data, numpy_dtype(answer.dtype)).reshape(answer.shape)
    return host.array(entries.astype(float) if host.name == "torch" else entries, answer.dtype)


def group_of(spec, positions, dtype="integer", rows=None, kind="encode"):
    """Encodings, or tables (cosines, then sines); `rows` are the ones judged."""
    channels = tuple(range(spec.plan().dim))
    cases = []
    for row, position in enumerate(positions):
        chosen = channels if rows is None or row in rows else ()
        values = {fmt: [spec.value(position, channel, fmt) for channel in chosen] for fmt in DTYPES}
        expected = {fmt: tuple(pattern(value, fmt) for value in own) for fmt, own in values.items()}
        truth = tuple(map(Fraction, values["float64"]))  # wrong by 2^-53 of itself, where the least limit is 2^-24
        cases.append(Case(f"{spec}, {position}", (), chosen, expected, truth, position))
    return Group(kind, "random", spec, 1, tuple(cases), dtype)


def phases_of(spec, positions):
    plan = spec.plan()
    pairs = tuple(range(spec.pairs))
    cases = tuple(
        Case(
            f"{spec}, {p}",
            (),
            pairs,
            {PHASE: tuple((p + plan.offset) * w % 2**128 >> 32 for w in plan.increments)},
            (),
            p,
        )
        for p in positions
    )
    return Group(PHASE, "random", spec, 1, cases)


def pattern(value, dtype):
    return int.from_bytes(encoded([value], dtype), "little")


def rotations_of(spec, x, table, head_axis, dtype):
    """One rotation by a table given, in Fractions: `x` is an array of `dtype`, `table` two Answers."""
    plan = spec.rotation()
    step = {"half": (1, plan.pairs), "interleaved": (2, 1)}
    axes = [axis for axis in range(x.ndim - 1) if head_axis is None or axis != head_axis % x.ndim]
    own = table.cos.shape[:-1]
    truth = [Fraction(value) for value in x.astype(float).flatten().tolist()]
    entries = list(truth)
    for row, index in enumerate(itertools.product(*map(range, x.shape[:-1]))):
        at = [min(index[axis], size - 1) for axis, size in zip(axes[len(axes) - len(own) :], own, strict=True)]
        place = int(np.ravel_multi_index(at, own)) if own else 0
        start = row * plan.head_dim + plan.start
        for pair in range(plan.pairs):
            cosine, sine = (Fraction(decoded(half.pattern(place * plan.pairs + pair), half.dtype)) for half in table)
            (one, gap), (to, gap_out) = step[plan.reads], step[plan.writes]
            u, v = entries[start + one * pair], entries[start + one * pair + gap]
            truth[start + to * pair] = u * cosine - v * sine
            truth[start + to * pair + gap_out] = v * cosine + u * sine
    expected = {dtype: tuple(pattern(round_to(value, dtype), dtype) for value in truth)}
    values = tuple(map(float, entries))
    name = f"{spec}, x {x.shape}, heads {head_axis}, table {table.cos.shape} of {table.cos.dtype}"
    case = Case(name, (), tuple(range(x.size)), expected, tuple(truth), shape=x.shape, x=values)
    return Group("rotate", "random", spec, 1, (replace(case, head_axis=head_axis, table=table),), dtypes=(dtype,))


def given_positions(values):
    """Nested lists, or a range, as a question has them; coordinates are an axis more."""
    if isinstance(values, range):
        return Positions.of(values)
    array = np.array(values, np.int64)
    return Positions("integer", array.shape, tuple(array.flatten().tolist()))


def numbers_of(spec, query, key):
    """n of every pair by the definition of the plan, `(*B, Q, K)`."""
    plan = spec.plan()
    axes = len(plan.axes)
    q, k = (np.array(list(x.values), np.int64).reshape(x.shape if axes > 1 else (*x.shape, 1)) for x in (query, key))
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k))
    found = np.empty((*lead, q.shape[-2], k.shape[-2]), np.int64)
    for index in np.ndindex(*found.shape):
        *row, place, at = index
        found[index] = plan.number(q[(*row, place)].tolist(), k[(*row, at)].tolist())
    return found


def rows_of(spec, query, key):
    """The rows of two sets of positions."""
    query, key = map(given_positions, (query, key))
    found = numbers_of(spec, query, key)
    expected = {ROWS: tuple(found.flatten().tolist())}
    case = Case(f"{spec}, {query}, {key}", (), tuple(range(found.size)), expected, shape=found.shape)
    case = replace(case, query=query, key=key, outside=spec.plan().strict and bool((found < 0).any()))
    return Group(ROWS, "random", spec, 1, (case,))


def bias_of(spec, query, key, dtype, weights=None):
    """The bias of two sets of positions: `weights` is an array of a dtype; its numbers are rounded once."""
    query, key = map(given_positions, (query, key))
    found = numbers_of(spec, query, key)
    shape = (*found.shape[:-2], spec.heads, *found.shape[-2:])
    expected, truth = [], []
    for index in np.ndindex(*shape):
        head, n = index[-3], int(found[(*index[:-3], *index[-2:])])
        if weights is None:
            expected.append(pattern(spec.value(n, head, dtype), dtype))
            truth.append(Fraction(spec.value(n, head, "float64")))
        else:
            value = round_to(Fraction(float(weights[n, head])), dtype)
            expected.append(NAN if n < 0 else pattern(value, dtype))
    case = Case(f"{spec}, {query}, {key}", (), tuple(range(len(expected))), {dtype: tuple(expected)}, tuple(truth))
    case = replace(case, query=query, key=key, shape=shape, outside=NAN in expected)
    if weights is not None:
        kind = Weights(weights.dtype.name, weights.shape, tuple(weights.astype(float).flatten().tolist()))
        case = replace(case, weights=kind)
    return Group("bias", "random", spec, 1, (case,), dtypes=(dtype,))
