"""What a plan gives to this column: its scalars, and its words as int64 tensors.

Host words are cached as bytes, so that no mode (inference, fake or meta tensors, torch.func) is cached with them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_type_hints, overload

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import guard_scalar

from posenc.spec import DistancePlan, PhasePlan, Rope, RowPlan, Sinusoidal, checks, exact, from_json, to_json
from posenc.spec.plan import Layout, PhaseSpec, RotarySpec, encoding_plan, phase_plan, table_plan
from posenc.spec.rope_scaling import SCALINGS
from posenc.spec.serialise import FAMILIES, SCHEMA
from posenc.torch_impl.inputs import CPU, said

Kind = Literal["wide", "phase", "fused"]
_QUARTER_TURN = 1 << 30
_FAMILIES = tuple(FAMILIES.values())
_KINDS = tuple((family, kind, tuple(field.name for field in fields(kind))) for family, kind in FAMILIES.items())
_PLANS = {kind: get_type_hints(kind.plan)["return"] for kind in FAMILIES.values()}
DISTANCES = tuple(kind for kind, plan in _PLANS.items() if plan is DistancePlan)
TABLES = tuple(kind for kind, plan in _PLANS.items() if plan is RowPlan)
_RULES = tuple((rule, kind, tuple(field.name for field in fields(kind))) for rule, kind in SCALINGS.items())


class Facts(NamedTuple):
    """A plan without its increments, and its magnitude in float32: `factor * (1 + excess)`."""

    dim: int
    pairs: int
    layout: Layout
    offset: int
    magnitude: float
    factor: float
    excess: float
    padding_position: int | None
    padding_bits: tuple[int | None, int | None]
    """As float32 and as float64, signed (see `PhasePlan.padding_bits`)."""
    still: tuple[tuple[int, int], ...]
    """Runs of channels, from and to, of pairs that do not turn: every position has the same value there."""
    rotary: bool


def facts(spec: PhaseSpec) -> Facts:
    return _facts(spec)  # type: ignore[arg-type]  # specifications are hashable


@lru_cache(maxsize=64)
def _facts(spec: PhaseSpec) -> Facts:
    plan = phase_plan("facts", spec)
    factor = exact.round_to(Fraction(plan.magnitude), "float32")
    excess = float(Fraction(plan.magnitude) / Fraction(factor) - 1)
    bits = (_signed(plan.padding_bits("float32"), 32), _signed(plan.padding_bits("float64"), 64))
    padding = plan.padding_position, bits
    shape = plan.dim, plan.pairs, plan.layout, plan.offset
    return Facts(*shape, plan.magnitude, factor, excess, *padding, _still(plan), isinstance(spec, RotarySpec))


def _still(plan: PhasePlan) -> tuple[tuple[int, int], ...]:
    pairs = [increment == 0 for increment in plan.increments]
    waves = [(still, wave) for wave in (0, 1) for still in pairs]
    if plan.layout == "interleaved":
        waves = [(still, wave) for still in pairs for wave in (0, 1)]
    runs, begin = [], 0
    for (still, _), group in groupby(waves):
        end = begin + len(list(group))
        runs += [(begin, end)] if still else []
        begin = end
    return tuple(runs)


def checked_facts(where: str, spec: object, *, rotary: bool | None = None) -> Facts:
    """The facts of what may be no specification, or not of a rotation, or of one; None: either will do."""
    try:
        found = facts(spec)  # type: ignore[arg-type]  # asked below if it is none
        if rotary in (None, found.rotary):
            return found
        failure: Exception | None = None
    except (TypeError, ValueError) as error:
        failure = error
    # behind the clause, or this error would have come while that one was handled
    _check(rotary)(where, spec)
    raise failure or AssertionError(f"{where}: a specification of the right kind was refused")


def _check(rotary: bool | None) -> Callable[[str, object], object]:
    if rotary is None:
        return phase_plan
    return table_plan if rotary else encoding_plan


def refuse(check: Callable[..., object], where: str, spec: object, *arguments: object) -> None:
    """Raise what `check` says of a specification, and of what else it is given, in a trace too."""
    if not torch.compiler.is_dynamo_compiling():
        check(where, spec, *arguments)
        return
    # a specification that is made in the trace is none outside it
    key = traced_json(spec) if is_one_of(spec, _FAMILIES) else None
    sentence = said(_check_again, check, where, key, spec if key is None else None, *arguments)
    if sentence is not None:
        raise checks.SpecError(sentence)


def _check_again(check: Callable[..., object], where: str, key: str | None, spec: object, *arguments: object) -> object:
    return check(where, spec if key is None else from_json(key), *arguments)


def words(spec: PhaseSpec, kind: Kind, device: torch.device) -> Tensor:
    """The words of `kind`, int64, on `device`.

    `wide` `(2, 4, pairs)`: of increment and offset, the words 0 and 1, the low and the high 64 bits (signed).
    `phase` `(4, 4, pairs)`: of levels 0, 1, 2 and the offset, the words 3, 2, 1, 0.
    `fused` `(4, 3, dim)`: of levels 0, 1, 2 and the offset, the words 3, 2, 1 of every channel; a cosine is a sine
    a quarter turn ahead, so that no channel needs a partner.
    """
    if device.type == "cpu" or isinstance(torch.empty(0, device=CPU), FakeTensor):
        return _buffer(spec, kind).tensor(device)  # type: ignore[arg-type]
    return _on_device(spec, kind, str(device))  # type: ignore[arg-type]


def trace_key(where: str, spec: PhaseSpec, *, rotary: bool | None = None) -> str:
    """`traced_json` of a specification with phases."""
    kinds = (Sinusoidal, Rope) if rotary is None else (Rope,) if rotary else (Sinusoidal,)
    if not is_one_of(spec, kinds):
        refuse(_check(rotary), where, spec)
    return traced_json(spec)


def is_one_of(spec: object, kinds: tuple[type[Any], ...]) -> bool:
    return any([type(spec) is kind for kind in kinds])  # noqa: C419 - a generator would be traced as such


def traced_json(spec: object) -> str:
    """`to_json(spec)`, written so that torch.compile can trace it and guards each field by value."""
    for family, kind, names in _KINDS:
        if type(spec) is kind:
            values = [f', "{name}": {json_value(getattr(spec, name))}' for name in names]
            return f'{{"schema": {SCHEMA}, "family": "{family}"{"".join(values)}}}'
    return to_json(spec)  # type: ignore[arg-type]  # raises what a trace of any other specification deserves


def json_value(value: object) -> str:
    """One field of a specification, or a tuple of numbers, as `traced_json` writes it."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join([json_value(item) for item in value])}]"
    for rule, kind, names in _RULES:
        if type(value) is kind:
            values = [f', "{name}": {json_value(getattr(value, name))}' for name in names]
            return f'{{"rule": "{rule}"{"".join(values)}}}'
    # without this a number that changed once becomes a symbol, and no key
    return f"{guard_scalar(value)}"  # type: ignore[arg-type]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_facts(key: str) -> Facts:
    return facts(from_json(key))  # type: ignore[arg-type]  # the key is that of a specification with phases


def traced_words(key: str, kind: Kind, device: str) -> Tensor:
    """`words` of the specification of a key, in a trace."""
    return traced_constant(kind, key, device)


class Constant(NamedTuple):
    """A tensor that a plan gives, kept as bytes."""

    shape: tuple[int, ...]
    values: array[Any]

    def tensor(self, device: torch.device) -> Tensor:
        dtype = _DTYPES[self.values.typecode]
        if device.type == "cpu":
            return torch.frombuffer(self.values, dtype=dtype).view(self.shape)
        return torch.tensor(self.values.tolist(), dtype=dtype, device=device).view(self.shape)


_DTYPES = {"q": torch.int64, "i": torch.int32, "d": torch.float64, "f": torch.float32}
MAKERS: dict[str, Callable[[str], Constant]] = {}
"""What makes the constants of a kind from a key."""


def traced_constant(kind: str, key: str, device: str) -> Tensor:
    """A constant as one tensor that the graph reads: Python integers cost a guard each, and minutes to compile.

    Dynamo gets the name of an attribute: two constant tensors of one function would collide in AOTAutograd.
    """
    if torch.compiler.is_dynamo_compiling():
        found: Tensor = getattr(_held, _hold_by_key(kind, key, device))
        return found
    shape, values = MAKERS[kind](key)
    return torch.tensor(values.tolist(), dtype=_DTYPES[values.typecode], device=device).view(shape)


class _Held:
    """Tensors that compiled graphs read, and that live as long as the process does."""


_held = _Held()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _hold_by_key(kind: str, key: str, device: str) -> str:
    return _hold(kind, key, device)


@cache
def _hold(kind: str, key: str, device: str) -> str:
    """The name under which `_held` has a constant; the compiler limits how many graphs of a function there are."""
    there = uploaded(MAKERS[kind](key), device)
    torch._dynamo.mark_static(there)
    name = f"{kind}_{len(vars(_held))}"
    setattr(_held, name, there)
    return name


def uploaded(constant: Constant, device: str) -> Tensor:
    """A plain tensor, whatever mode is on."""
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        dtype = _DTYPES[constant.values.typecode]
        return torch.tensor(constant.values.tolist(), dtype=dtype, device=device).view(constant.shape)


@lru_cache(maxsize=64)
def _on_device(spec: PhaseSpec, kind: Kind, device: str) -> Tensor:
    return uploaded(_buffer(spec, kind), device)  # type: ignore[arg-type]


@lru_cache(maxsize=192)
def _buffer(spec: PhaseSpec, kind: Kind) -> Constant:
    plan = spec.plan()
    rows = _ROWS[kind](plan)
    flat = array("q", [value for row in rows for value in row])
    count = len(rows[0])
    return Constant({"wide": (2, 4, count), "phase": (4, 4, count), "fused": (4, 3, count)}[kind], flat)


def _wide(plan: PhasePlan) -> list[list[int]]:
    rows: list[list[int]] = []
    for parts in (plan.words(), plan.offset_words()):
        rows += [[w0 for _, _, _, w0 in parts], [w1 for _, _, w1, _ in parts]]
        rows += [[_signed(w1 << 32 | w0) for _, _, w1, w0 in parts], [_signed(w3 << 32 | w2) for w3, w2, _, _ in parts]]
    return rows


def _phase(plan: PhasePlan) -> list[list[int]]:
    parts = (plan.words(0), plan.words(1), plan.words(2), plan.offset_words())
    return [[word[index] for word in part] for part in parts for index in range(4)]


def _fused(plan: PhasePlan) -> list[list[int]]:
    rows = [_channels(plan, row, row) for row in _phase(plan)]
    ahead = [(word + _QUARTER_TURN) & 0xFFFFFFFF for word in _phase(plan)[12]]
    rows[12] = _channels(plan, _phase(plan)[12], ahead)
    return [row for index, row in enumerate(rows) if index % 4 != 3]


def _channels(plan: PhasePlan, sine: list[int], cosine: list[int]) -> list[int]:
    first, second = (cosine, sine) if plan.layout == "cos_sin" else (sine, cosine)
    if plan.layout == "interleaved":
        result = [word for pair in zip(first, second, strict=True) for word in pair]
    else:
        result = first + second
    return result + [0] * (plan.dim - 2 * plan.pairs)


@overload
def _signed(value: int, bits: int = 64) -> int: ...
@overload
def _signed(value: None, bits: int) -> None: ...
def _signed(value: int | None, bits: int = 64) -> int | None:
    return None if value is None else value - (value >> bits - 1 << bits)


def is_padding(fact: Facts, positions: Tensor) -> Tensor:
    """Where a position is the one without an encoding; floats are compared by their bits."""
    if not positions.is_floating_point():
        return positions.eq(fact.padding_position or 0)
    wide = positions.dtype == torch.float64
    wanted, bits = fact.padding_bits[wide], positions.view(torch.int64 if wide else torch.int32)
    if wanted is None:
        return torch.zeros_like(bits, dtype=torch.bool)
    return (bits << 1).eq(0) if wanted == 0 else bits.eq(wanted)  # -0.0 is a zero too


_ROWS = {"wide": _wide, "phase": _phase, "fused": _fused}
MAKERS |= {
    "wide": lambda key: _buffer(from_json(key), "wide"),
    "phase": lambda key: _buffer(from_json(key), "phase"),
    "fused": lambda key: _buffer(from_json(key), "fused"),
}
