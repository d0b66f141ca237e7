"""What is refused, and in which words: where, what was expected, what was received.

Every column raises these sentences, so that a mistake reads the same in four frameworks.
"""

from __future__ import annotations

import importlib
import math
import operator
import reprlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

OUTPUT_DTYPES = ("float64", "float32", "bfloat16", "float16")
POSITION_LIMIT = 2**31

_BOOLEANS = ("bool", "bool_")  # Python's, and NumPy's under two names
_WHY_NOT_A_POSITION = {
    "float16": ", which holds integers exactly only up to 2,048",
    "bfloat16": ", which holds integers exactly only up to 256",
    "bool": ": a mask is not a position",
}


class SpecError(ValueError):
    """A specification that cannot be: the message names the field, what it expects and what it got."""


def shown(value: object) -> str:
    """`repr`, short enough for one line, of anything at all."""
    try:
        return reprlib.repr(value)
    except Exception:  # a foreign __repr__ may raise whatever it likes
        return f"a {type(value).__name__}"


def integer(
    where: str, value: object, *, minimum: int | None = None, maximum: int | None = None, limit: int | None = None
) -> int:
    """`value` as an int: booleans and floats are refused, NumPy integers are not."""
    expected = "an integer"
    if minimum is not None:
        expected += f" >= {minimum}"
    if limit is not None:
        expected += f" of magnitude below {limit}"
    try:
        if type(value).__name__ in _BOOLEANS:
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError is the question
    except TypeError:
        raise SpecError(f"{where}: expected {expected}, received {shown(value)}") from None
    if (minimum is not None and number < minimum) or (limit is not None and abs(number) >= limit):
        raise SpecError(f"{where}: expected {expected}, received {shown(value)}")
    if maximum is not None and number > maximum:
        raise SpecError(f"{where}: expected an integer <= {maximum}, received {shown(value)}")
    return number


def sizes(where: str, value: object, *, maximum: int) -> tuple[int, ...]:
    """A sequence of positive integers, at least one."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise SpecError(f"{where}: expected a sequence of integers >= 1, received {shown(value)}")
    return tuple(integer(f"{where}[{axis}]", size, minimum=1, maximum=maximum) for axis, size in enumerate(value))


def number(where: str, value: object, *, low: float | None = None, high: float | None = None) -> float:
    """`value` as a finite float > 0, within `low` and `high` where they are given."""
    expected = "a finite number > 0"
    if low is not None and high is not None:
        expected = f"a number from {low!r} to {high!r}"
    try:
        result = real(value)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"{where}: expected {expected}, received {shown(value)}") from None
    fits = math.isfinite(result) and result > 0
    if not fits or (low is not None and result < low) or (high is not None and result > high):
        raise SpecError(f"{where}: expected {expected}, received {shown(value)}")
    return result


def boolean(where: str, value: object) -> None:
    if value is not True and value is not False:
        raise SpecError(f"{where}: expected True or False, received {shown(value)}")


def non_negative(where: str, value: object) -> float:
    """`value` as a finite float >= 0."""
    try:
        result = real(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not (math.isfinite(result) and result >= 0):
        raise SpecError(f"{where}: expected a finite number >= 0, received {shown(value)}")
    return result + 0.0  # -0.0 and 0.0 are one number


def fraction(where: str, value: object) -> float:
    """`value` as a float > 0 and <= 1."""
    try:
        result = real(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not 0 < result <= 1:
        raise SpecError(f"{where}: expected a number > 0 and <= 1, received {shown(value)}")
    return result


def numbers(where: str, values: object) -> tuple[float, ...]:
    """A sequence of finite floats > 0, as a tuple."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise SpecError(f"{where}: expected a sequence of finite numbers > 0, received {shown(values)}")
    return tuple(number(f"{where}[{index}]", value) for index, value in enumerate(values))


def exact_position(where: str, position: object) -> Fraction:
    """A position as the exact number it is, also where it is a scalar of another library."""
    try:
        index = getattr(position, "__index__", None)
        return Fraction(real(position) if index is None else integer("position", position))
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"{where}.position: expected a finite number, received {shown(position)}") from None


def real(value: object) -> float:
    """`value` as a float; TypeError for booleans and strings, which Python would convert."""
    if type(value).__name__ in _BOOLEANS or not (isinstance(value, int | float) or hasattr(value, "__float__")):
        raise TypeError
    return float(value)


def choice(where: str, value: object, options: Sequence[str | None]) -> str | None:
    """The option that equals `value`, as a plain string also where that is a member of an enumeration of strings."""
    for option in options:
        if value is option or (isinstance(value, str) and value == option):
            return option
    *others, last = (repr(option) for option in options)
    names = f"{', '.join(others)} or {last}" if others else last
    raise SpecError(f"{where}: expected {names}, received {shown(value)}")


def framework(column: str, module: str, name: str, extra: str) -> None:
    """Import `module`, or say in one sentence how to install it."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # a broken installation is not a missing one
            raise
        message = f"{column} needs {name}: pip install 'posenc[{extra}]'"
        raise ModuleNotFoundError(message, name=module) from None


def position_dtype_error(where: str, received: str) -> ValueError:
    """`where`: a function, whose `positions` may be floats; or a function and its argument that takes integers only."""
    argument, kinds = _argument(where, "integers", "integers, float32 or float64")
    return ValueError(f"{argument}: expected {kinds}, received {received}{_WHY_NOT_A_POSITION.get(received, '')}")


def position_value_error(where: str, received: float) -> ValueError:
    """`where`: as in `position_dtype_error`."""
    argument, kinds = _argument(where, "integers", "finite numbers")
    return ValueError(f"{argument}: expected {kinds} of magnitude below 2^31, received {shown(received)}")


def _argument(where: str, integers: str, numbers: str) -> tuple[str, str]:
    return (where, integers) if "." in where else (f"{where}.positions", numbers)


def position_shards_error(where: str) -> ValueError:
    return ValueError(
        f"{_argument(where, '', '')[0]}: expected an array that this process can read, received one with shards on "
        "other processes: call it inside jax.jit"
    )


def output_dtype_error(where: str, received: object) -> ValueError:
    return ValueError(f"{where}.dtype: expected float64, float32, bfloat16 or float16, received {received}")


def output_dtype_name(where: str, dtype: object) -> str | None:
    """An output dtype by its name, which every column takes; None for what a framework has to read.

    None and Python's types are refused: `float` is 64 bits in one framework and 32 in another.
    """
    if not (dtype is None or isinstance(dtype, str) or any(dtype is kind for kind in (bool, int, float, complex))):
        return None
    if dtype not in OUTPUT_DTYPES:
        raise output_dtype_error(where, shown(dtype))
    return str(dtype)


def x_dtype_error(where: str, received: str) -> ValueError:
    return ValueError(f"{where}.x: expected float64, float32, bfloat16 or float16, received {received}")


def x_shape_error(where: str, dim: int, shape: Sequence[int | None] | None) -> ValueError:
    """`shape`: None where not even the number of axes is known."""
    received = "one of an unknown number of axes" if shape is None else shape_text(shape)
    return ValueError(f"{where}.x: expected shape (..., {dim}), received {received}")


def x_rank_error(where: str, dim: int, shape: Sequence[int | None]) -> ValueError:
    return ValueError(
        f"{where}.x: expected shape (..., length, {dim}) where no positions are given, received {shape_text(shape)}"
    )


def positions_shape_error(where: str, expected: Sequence[int | None], received: Sequence[int | None]) -> ValueError:
    return ValueError(
        f"{where}.positions: expected a shape that broadcasts to {shape_text(expected)}, "
        f"received {shape_text(received)}"
    )


def head_axis(where: str, value: object, rank: int) -> int | None:
    """The axis of the heads in an array of `rank` axes, counted from the front; None: there is none.

    The last axis holds the channels of a head, and cannot be it.
    """
    if value is None:
        return None
    try:
        axis = integer(where, value)
    except SpecError:
        axis = rank
    axis = axis + rank if axis < 0 else axis
    if not 0 <= axis < rank - 1:
        raise ValueError(
            f"{where}.head_axis: expected None or an axis of x other than the last, received {shown(value)} "
            f"for an x of {rank} axes"
        )
    return axis


def layer_head_axis(where: str, value: object) -> int | None:
    """What a layer is built with, before there is an x whose axes could be counted."""
    try:
        return None if value is None else integer(where, value)
    except SpecError:
        raise ValueError(f"{where}.head_axis: expected None or an integer, received {shown(value)}") from None


def one_position_error(where: str, length: int) -> ValueError:
    """For a layer: `rotate` itself takes one position for all tokens, as it is needed to move cached keys."""
    return ValueError(f"{where}.positions: expected a position for each of {length} tokens, received one for all")


def table_parts(where: str, pairs: int, table: object) -> tuple[Any, Any]:
    """Cosines and sines of a Table or of another pair, whatever they are."""
    if not isinstance(table, tuple | list):
        raise _table_form_error(where, pairs, type(table).__name__)
    if len(table) != 2:
        raise _table_form_error(where, pairs, f"{type(table).__name__} of {len(table)}")
    return table[0], table[1]


def table_kind_error(where: str, pairs: int, cos: object, sin: object) -> ValueError:
    """What a framework says of two parts that are not both arrays of its own."""
    return _table_form_error(where, pairs, f"{type(cos).__name__} and {type(sin).__name__}")


def check_table(
    where: str, pairs: int, dtypes: tuple[str, str], shapes: tuple[Sequence[int | None] | None, ...]
) -> None:
    """Two arrays of one float dtype and one shape `(*P, pairs)`; a size of None is not known yet, and may be any."""
    if dtypes[0] != dtypes[1] or dtypes[0] not in OUTPUT_DTYPES:
        raise _table_form_error(where, pairs, f"{dtypes[0]} and {dtypes[1]}")
    cos, sin = shapes
    if cos is None or sin is None:
        raise _table_form_error(where, pairs, "shapes of an unknown number of axes")
    alike = len(cos) == len(sin) > 0 and (cos == sin or all(_may_equal(a, b) for a, b in zip(cos, sin, strict=True)))
    if not (alike and _may_equal(cos[-1], pairs) and _may_equal(sin[-1], pairs)):
        raise _table_form_error(where, pairs, f"shapes {shape_text(cos)} and {shape_text(sin)}")


def _may_equal(a: int | None, b: int | None) -> bool:
    return a is None or b is None or a == b


def _table_form_error(where: str, pairs: int, received: str) -> ValueError:
    return ValueError(
        f"{where}.table: expected Table(cos, sin), two arrays of one float dtype and one shape (*P, {pairs}), "
        f"received {received}"
    )


def table_shape_error(where: str, lead: Sequence[int | None], received: Sequence[int | None]) -> ValueError:
    """`lead`: the axes of x but for the heads and the channels; `received`: those of the table but for the pairs."""
    allowed = (
        "()" if not lead else f"(), {shape_text(lead[-1:])}" + (f" or {shape_text(lead)}" if len(lead) > 1 else "")
    )
    return ValueError(
        f"{where}.table: expected position axes {allowed}, or 1 in place of a size, received {shape_text(received)}"
    )


def table_fits(shape: Sequence[int], lead: Sequence[int]) -> bool:
    """Whether position axes `shape` may serve an x of axes `lead`, head and channel axes left out.

    No axis (one position), one axis (shared by all batch rows), or every axis; fewer would line up with the wrong ones
    wherever sizes happen to agree. A size is that of x, or 1.
    """
    return len(shape) in (0, 1, len(lead)) and broadcasts(shape, lead)


def shape_text(shape: Sequence[int | None]) -> str:
    """As Python writes a tuple; None is a size that is not known yet."""
    inner = ", ".join("None" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to exactly `target`."""
    if len(shape) > len(target):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False))


class PositionList(NamedTuple):
    """Python numbers, checked: row-major `values` of `shape`, `integral` if none is a float."""

    shape: tuple[int, ...]
    values: list[int] | list[float]
    integral: bool


def position_list(where: str, positions: object) -> PositionList | None:
    """Read a number or a (nested) list or tuple of numbers; None for a range, an array or anything else."""
    if not isinstance(positions, bool | int | float | list | tuple):
        return None
    shape: list[int] = []
    level: list[object] = [positions]
    while level and isinstance(level[0], list | tuple):
        size = len(level[0])
        if not all(isinstance(item, list | tuple) and len(item) == size for item in level):
            raise _ragged_error(where, positions)
        shape.append(size)
        level = [inner for item in level for inner in item]  # type: ignore[attr-defined]  # just checked
    values = [_position(where, item, positions) for item in level]
    integral = not any(isinstance(value, float) for value in values)
    if not integral and "." in where:  # the argument takes integers only
        raise position_dtype_error(where, "float")
    for value in values:
        if not abs(value) < POSITION_LIMIT:  # also NaN
            raise position_value_error(where, value)
    exact = [int(v) for v in values] if integral else [float(v) for v in values]
    return PositionList(tuple(shape), exact, integral)


def _ragged_error(where: str, positions: object) -> ValueError:
    argument, _ = _argument(where, "", "")
    return ValueError(f"{argument}: expected rows of one length, received {shown(positions)}")


def _position(where: str, item: object, positions: object) -> int | float:
    """One entry of a list: a Python number, or a framework's scalar of a dtype that positions may have."""
    name = type(item).__name__
    if isinstance(item, list | tuple):
        raise _ragged_error(where, positions)
    if isinstance(item, float) or name in ("float32", "float64"):
        return float(item)  # type: ignore[arg-type]  # NumPy's scalars, by name: nothing is imported here
    try:
        if name in _BOOLEANS:
            raise TypeError
        return operator.index(item)  # type: ignore[arg-type]  # the TypeError is the question
    except (TypeError, AttributeError):  # an array of several numbers, or of floats, has an __index__ that fails
        raise position_dtype_error(where, name) from None


def position_range(where: str, positions: range) -> range:
    """Refuse a range that leaves the 31 bits of a position; what is returned has start, stop and step below 2^33."""
    if not positions:
        return range(0)
    for end in (positions[0], positions[-1]):
        if abs(end) >= POSITION_LIMIT:
            raise position_value_error(where, end)
    if len(positions) == 1:  # its step leads nowhere
        return range(positions[0], positions[0] + 1)
    return range(positions[0], positions[-1] + (1 if positions.step > 0 else -1), positions.step)
