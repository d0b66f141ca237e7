"""What a scaling rule of rotary embeddings is, and what several of them share.

With d rotary channels and base b, the unscaled frequency of pair j = 0 ... d/2 - 1 is theta_j = b^(-2j/d) radians per
unit of position. A rule says which frequency a pair has instead, and by which magnitude cosines and sines are
multiplied. Every decision in a rule (a floor, a clamp, a comparison) is taken in exact arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple

from posenc.spec import checks, exact

Real = Callable[[int], Fraction]
"""A real number: given digits, a fraction within a relative 10^-digits of it."""

Band = tuple[Fraction, Fraction]
"""Turns within the original length: interpolated below the first, kept above the second."""

ONE: Real = lambda digits: Fraction(1)  # noqa: E731, ARG005 - the simplest of its kind


class Unscaled(NamedTuple):
    """What a rule starts from: rotary channels, base, and the length that `Rope.at_length` was given."""

    dim: int
    base: Fraction
    length: int | None

    def frequency(self, pair: int, digits: int) -> Fraction:
        return Fraction(exact.power(self.base, Fraction(-2 * pair, self.dim), digits + 4))


@dataclass(frozen=True, slots=True)
class ScalingRule(ABC):
    """What every rule can say of itself."""

    needs_length: ClassVar[bool] = False

    def _settle(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen for everyone else

    def _where(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _numbers(self, *names: str) -> None:
        for name in names:
            self._settle(**{name: checks.number(self._where(name), getattr(self, name))})

    def _length(self, name: str) -> None:
        limit = checks.POSITION_LIMIT
        self._settle(**{name: checks.integer(self._where(name), getattr(self, name), minimum=1, limit=limit)})

    def _factor(self) -> None:
        """An extension is at least 1; a smaller one would shrink the context."""
        given = self.factor  # type: ignore[attr-defined]  # its rules have one
        try:
            factor = checks.number(self._where("factor"), given)
        except checks.SpecError:
            factor = 0.0
        if factor < 1:
            raise checks.SpecError(
                f"{self._where('factor')}: expected a finite number >= 1, received {checks.shown(given)}"
            )
        self._settle(factor=factor)

    def check(self, origin: Unscaled) -> None:  # noqa: B027 - most have a meaning everywhere
        """Refuse a width or a base for which the rule has no meaning."""

    @abstractmethod
    def frequency(self, origin: Unscaled, pair: int, digits: int) -> Fraction:
        """Radians per unit of position of one pair, within a relative 10^-digits."""

    def magnitude(self, origin: Unscaled) -> Real:  # noqa: ARG002 - others need it
        """What cosines and sines are multiplied by; 1 where a rule says nothing else."""
        return ONE

    def least_length(self, length: int) -> int | None:  # noqa: ARG002 - others need it
        """The least length with the same frequencies as `length`; None where no length matters."""
        return None

    def extremes(self, origin: Unscaled) -> range:
        """Pairs among which the highest and the lowest frequency are."""
        return range(0, origin.dim // 2, max(1, origin.dim // 2 - 1))


def read_magnitude(where: str, value: object) -> float:
    return checks.number(where, value, low=2.0**-20, high=2.0**20)


def temperature(factor: float, m: float, digits: int) -> Fraction:
    """g(m) = 0.1 m ln(factor) + 1."""
    if factor == 1 or m == 0:
        return Fraction(1)
    return exact.shortest(m) / 10 * exact.logarithm(exact.shortest(factor), digits + 4) + 1


def by_turns(origin: Unscaled, pair: int, digits: int, *, factor: float, original_length: int, band: Band) -> Fraction:
    """Interpolated below `band`, kept above it, blended linearly in turns within the original length.

    The blend is continuous, so that a comparison which rounding decides cannot change the result.
    """
    guard = digits + 40
    frequency = origin.frequency(pair, guard)
    turns = original_length * frequency / exact.two_pi(guard)
    low, high = band
    kept = min(max((turns - low) / (high - low), Fraction(0)), Fraction(1))
    return frequency * ((1 - kept) / exact.shortest(factor) + kept)
