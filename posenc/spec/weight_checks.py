"""What is refused of weights, and of positions that name rows: the sentences, the same in four columns."""

from __future__ import annotations

from collections.abc import Sequence

from posenc.spec.checks import shape_text, shown

Sizes = Sequence[int | None]
"""Sizes of axes; None: not known yet."""


def weights_dtype_error(where: str, received: str) -> ValueError:
    return ValueError(f"{where}.weights: expected float64, float32, bfloat16 or float16, received {received}")


def weights_kind_error(where: str, received: object) -> ValueError:
    """What is no array of the framework, or none that it takes for one."""
    return ValueError(f"{where}.weights: expected an array of the framework, received {type(received).__name__}")


def weights_shape_error(where: str, expected: Sequence[int], received: Sizes | None) -> ValueError:
    """`received`: None where no weights were given."""
    what = "None" if received is None else shape_text(received)
    return ValueError(f"{where}.weights: expected shape {shape_text(expected)}, received {what}")


def no_weights_error(where: str, received: object) -> ValueError:
    return ValueError(
        f"{where}.weights: expected None, as the slopes are fixed, received an object of type {type(received).__name__}"
    )


def pair_shape_error(where: str, axes: int, received: Sizes) -> ValueError:
    """Positions of queries or keys that lack the axis of their length, or have another number of coordinates.

    `where`: the function and its argument, such as `rows.query_positions`.
    """
    expected = "(..., length)" if axes == 1 else f"(..., length, {axes})"
    return ValueError(f"{where}: expected shape {expected}, received {shape_text(received)}")


def pair_lead(where: str, query: Sizes, key: Sizes) -> tuple[int | None, ...]:
    """The leading axes of a result from those of the query and the key positions.

    They are the same, or 1 where they differ, or one of the two has none: no other broadcasting.
    """
    if not query or not key:
        return tuple(key or query)
    pairs = list(zip(query, key, strict=False))
    if len(query) != len(key) or any(1 not in (a, b) and None not in (a, b) and a != b for a, b in pairs):
        raise ValueError(
            f"{where}.key_positions: expected leading axes {shape_text(query)}, as the query positions have, or none, "
            f"received {shape_text(key)}"
        )
    return tuple(b if a == 1 else a if b == 1 or b is None else b for a, b in pairs)


def distance_error(where: str, axis: int, low: int, high: int, received: int) -> ValueError:
    """A pair without a row, where that is a mistake."""
    return ValueError(
        f"{where}.key_positions: expected distances to the query from {low} to {high} on axis {axis}, "
        f"received {received}"
    )


def row_position_error(where: str, low: int, high: int, received: object) -> ValueError:
    return ValueError(f"{where}.positions: expected integers from {low} to {high}, received {shown(received)}")
