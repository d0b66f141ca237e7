"""Plans: what a specification lowers to. Integers and exactly rounded constants, and no framework.

Here those of phases and rotations; `distance_plan` and `row_plan` have the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

from posenc.spec import checks

Plan = TypeVar("Plan")
Layout = Literal["interleaved", "sin_cos", "cos_sin"]
Words = tuple[int, int, int, int]

PHASE_BITS = 128
FRACTION_BITS = 31
"""A float position is read as whole + k1 * 2^-31 + k2 * 2^-62 (see `PhasePlan`)."""


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """The phase of every pair, as integers; all that a backend needs to know of an encoding.

    **Phase of an integer position.** A phase is a fixed-point fraction of one turn, in units of 2^-128 turn:
    `phase[j] = ((p + offset) * increments[j]) mod 2^128`. Dropping whole turns is dropping high bits, so it is
    exact at every position. In 32-bit words, most significant first, it is `(t3, t2, t1, t0)`:

        t0 = p*w0 + o0;  t1 = p*w1 + o1 + (t0 >> 32);  t2 = p*w2 + o2 + (t1 >> 32);  t3 = p*w3 + o3 + (t2 >> 32)

    in signed 64-bit integers with an arithmetic shift, keeping 32 bits of each: `w` are the words of `words()`,
    `o` those of `offset_words()` (all zero where `offset` is 0); for |p| < 2^31 nothing overflows.

    **Phase of a float position.** `whole = trunc(p)`, `k1 = trunc((p - whole) * 2^31)`, and
    `k2 = trunc(((p - whole) * 2^31 - k1) * 2^31)`: each step is exact in the position's own dtype, float32 or
    float64, and each part has the sign of p. `phase[j]` is the sum modulo 2^128 of `whole` with `words(0)`,
    `k1` with `words(1)`, `k2` with `words(2)`, and the offset words once. What is cut
    off is below 2^-48 radian: 2^-62 of the greatest frequency.

    **Encoding.** Pair j has `magnitude * sin(2*pi*phase[j])` and `magnitude * cos(2*pi*phase[j])`. With n pairs the
    channels are, by `layout`: `interleaved` sin_0 cos_0 sin_1 cos_1 ...; `sin_cos` sin_0 ... sin_(n-1) cos_0 ...;
    `cos_sin` cos_0 ... cos_(n-1) sin_0 .... Where `dim` is 2n + 1 the last channel is zero. A position equal to
    `padding_position` (before `offset` is added) has zero in every channel.
    """

    dim: int
    layout: Layout
    increments: tuple[int, ...]
    """One a pair: turns per unit of position in units of 2^-128 turn, correctly rounded, whole turns kept.

    Negative where a rotation goes backwards, 0 for a pair that does not turn."""
    offset: int = 0
    magnitude: float = 1.0
    padding_position: int | None = None

    @property
    def pairs(self) -> int:
        return len(self.increments)

    def padding_bits(self, dtype: Literal["float32", "float64"]) -> int | None:
        """The bits of `padding_position` as a float, None if that format lacks it; zero also has those of -0.

        Where subnormal numbers are flushed, a comparison of floats would take them for zero; compiled by XLA, that of
        bits does so too.
        """
        if self.padding_position is None:
            return None
        form, bits = ("<f", "<I") if dtype == "float32" else ("<d", "<Q")
        packed = struct.pack(form, self.padding_position)
        (pattern,), (value,) = struct.unpack(bits, packed), struct.unpack(form, packed)
        return int(pattern) if value == self.padding_position else None

    def words(self, level: int = 0) -> tuple[Words, ...]:
        """Per pair, the four 32-bit words (most significant first) of the increment times 2^(-31*level)."""
        return tuple(split_words(increment >> (FRACTION_BITS * level)) for increment in self.increments)

    def offset_words(self) -> tuple[Words, ...]:
        """Per pair, the four 32-bit words (most significant first) of the phase of `offset`."""
        return tuple(split_words(self.offset * increment) for increment in self.increments)


def split_words(phase: int) -> Words:
    """The low 128 bits of `phase` as four 32-bit words, most significant first."""
    mask = 0xFFFFFFFF
    return (phase >> 96) & mask, (phase >> 64) & mask, (phase >> 32) & mask, phase & mask


PairLayout = Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """Which channels of a head are turned together; all that a backend needs to know of a rotation.

    A head has `head_dim` channels. Those from `start` to `start + 2 * pairs` are rotary, the others stay as they are.
    Counted from `start`, pair j of n reads, by `reads`, the channels u = j and v = n + j (`half`), or u = 2j and
    v = 2j + 1 (`interleaved`), and writes, to the channels that `writes` says in the same way,

        u' = u * cos_j - v * sin_j,    v' = v * cos_j + u * sin_j.
    """

    head_dim: int
    start: int
    pairs: int
    reads: PairLayout
    writes: PairLayout


@runtime_checkable
class PhaseSpec(Protocol):
    """A specification that lowers to a phase plan."""

    def plan(self) -> PhasePlan: ...

    def value(self, position: int | float, channel: int, dtype: str = "float32") -> float:
        """The correctly rounded value of one position in one channel of the plan, by slow exact arithmetic."""
        ...


@runtime_checkable
class RotarySpec(PhaseSpec, Protocol):
    """A specification of rotations. Its plan has the layout `cos_sin`: the cosines of the table, then its sines."""

    def rotation(self) -> RotationPlan: ...


def phase_plan(where: str, spec: object) -> PhasePlan:
    """The plan of any specification that has phases, or one sentence that says what was handed over instead."""
    plan = lowered(spec, PhasePlan)
    if plan is None:
        raise checks.SpecError(
            f"{where}.spec: expected a specification such as Sinusoidal.vaswani(512), received {checks.shown(spec)}"
        )
    return plan


def encoding_plan(where: str, spec: object) -> PhasePlan:
    """The plan of an encoding that is added to a model's input: not of a rotation."""
    plan = phase_plan(where, spec)
    if _offers(spec, "rotation"):
        raise checks.SpecError(
            f"{where}.spec: expected an encoding such as Sinusoidal.vaswani(512) (a rotation has table and rotate), "
            f"received {checks.shown(spec)}"
        )
    return plan


def table_plan(where: str, spec: object) -> PhasePlan:
    """The plan of a rotation's table of cosines and sines."""
    _check_rotary(where, spec)
    return phase_plan(where, spec)


def rotation_plan(where: str, spec: object) -> RotationPlan:
    """Which channels a rotation turns together."""
    _check_rotary(where, spec)
    plan: RotationPlan = spec.rotation()  # type: ignore[attr-defined]  # just checked
    return plan


def lowered(spec: object, kind: type[Plan]) -> Plan | None:
    """The plan of a specification, if it is of this kind."""
    plan = spec.plan() if _offers(spec, "plan") else None  # type: ignore[attr-defined]  # just asked
    return plan if isinstance(plan, kind) else None


def _offers(spec: object, method: str) -> bool:
    """Whether `spec`, no class, has this method: what `isinstance` asks of a protocol takes a hundred times as long."""
    return not isinstance(spec, type) and callable(getattr(spec, method, None))


def _check_rotary(where: str, spec: object) -> None:
    if not (_offers(spec, "rotation") and _offers(spec, "plan")):
        raise checks.SpecError(
            f"{where}.spec: expected a rotary specification such as Rope(128, base=10000.0, layout='half'), "
            f"received {checks.shown(spec)}"
        )
