"""Query and key projections between the pair layouts `interleaved` and `half`: a permutation of their output channels.

Queries and keys whose channels are permuted in the same way, turned in the layout that reads them so, have the same
products in another order, and so the same attention scores. Values and outputs do not change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from posenc.spec import checks
from posenc.spec.plan import PairLayout, PhaseSpec, RotationPlan, rotation_plan

__all__ = ["concatenated", "grouped", "permute"]

Array = TypeVar("Array")
_LAYOUTS = ("half", "interleaved")


def permute(
    spec: PhaseSpec,
    weights: Array,
    *,
    to: Literal["half", "interleaved"],
    heads: int | Sequence[bool],
    axis: int | tuple[int, int] = 0,
) -> Array:
    """A projection, bias or norm of a model that uses `spec`, for one that uses it with the layout `to`.

    `spec` has the present layout (`interleaved_to_half` reads interleaved weights): what is already in the layout `to`
    is refused, and `dataclasses.replace(spec, layout=to)` is the specification of the result. `weights` is an array of
    NumPy, PyTorch, JAX or TensorFlow; the result is a new one of the same dtype, with the same values elsewhere.

    `axis` holds the channels, `heads * head_dim` of them: 0 in PyTorch and in safetensors, the last one of a kernel
    `(D, heads * head_dim)` of JAX or Keras; where heads have an axis of their own, `(D, heads, head_dim)`, it is
    `(1, 2)`, both axes. `heads` is the number of heads of *this* array: of keys for a key projection, 1 for a norm over
    one head. For a fused projection it says head by head which are queries or keys: `concatenated`, `grouped`.

    Raises SpecError for sizes that do not fit: a head count is never guessed.
    """
    plan = rotation_plan("permute", spec)
    checks.choice("permute.to", to, _LAYOUTS)
    if plan.reads == to:
        other = _LAYOUTS[to == "half"]
        raise checks.SpecError(
            f"permute.to: expected {other!r}, since weights of a specification with layout={_layout(spec)!r} are "
            f"already {to}, received {to!r}"
        )
    turned = _turned(heads)
    shape = _shape(weights)
    if isinstance(axis, tuple):
        channels = _heads_apart(shape, axis, turned, plan.head_dim)
        apart: Array = _gather(weights, head_order(plan, to), channels)
        return apart
    channels = _axis(axis, shape)
    if shape[channels] != len(turned) * plan.head_dim:
        raise checks.SpecError(
            f"permute.weights: expected {len(turned)} heads of {plan.head_dim} channels, {len(turned) * plan.head_dim} "
            f"in all, along axis {axis}, received the shape {shape}"
        )
    result: Array = _gather(weights, order(plan, to, turned), channels)
    return result


def concatenated(heads: int, key_heads: int) -> tuple[bool, ...]:
    """A fused projection of all query heads, then all key heads, then all value heads (Phi-3, DBRX, ModernBERT)."""
    heads, key_heads = _head_counts("concatenated", heads, key_heads)
    return (True,) * (heads + key_heads) + (False,) * key_heads


def grouped(heads: int, key_heads: int) -> tuple[bool, ...]:
    """A fused projection that has, for every key head, its query heads, the key and the value (Falcon, InternLM2).

    With as many key heads as heads it is GPT-NeoX's: query, key and value of every head.
    """
    heads, key_heads = _head_counts("grouped", heads, key_heads)
    return ((True,) * (heads // key_heads + 1) + (False,)) * key_heads


def head_order(plan: RotationPlan, to: PairLayout) -> tuple[int, ...]:
    """For every channel of a head in the layout `to`, the channel of the other layout that comes to stand there."""
    pairs, start = plan.pairs, plan.start
    if to == "interleaved":
        rotary = [start + half * pairs + pair for pair in range(pairs) for half in (0, 1)]
    else:
        rotary = [start + 2 * pair + odd for odd in (0, 1) for pair in range(pairs)]
    return (*range(start), *rotary, *range(start + 2 * pairs, plan.head_dim))


def order(plan: RotationPlan, to: PairLayout, turned: Sequence[bool]) -> tuple[int, ...]:
    """`head_order` of consecutive heads, of which those that are not `turned` stay as they are."""
    of_head = {True: head_order(plan, to), False: tuple(range(plan.head_dim))}
    return tuple(head * plan.head_dim + channel for head, turns in enumerate(turned) for channel in of_head[turns])


def _turned(heads: int | Sequence[bool]) -> tuple[bool, ...]:
    if not isinstance(heads, Sequence):
        return (True,) * checks.integer("permute.heads", heads, minimum=1)
    if isinstance(heads, str) or not heads or any(turns is not True and turns is not False for turns in heads):
        raise checks.SpecError(
            f"permute.heads: expected an integer >= 1, or True or False for every head, received {checks.shown(heads)}"
        )
    return tuple(heads)


def _head_counts(where: str, heads: int, key_heads: int) -> tuple[int, int]:
    heads = checks.integer(f"{where}.heads", heads, minimum=1)
    key_heads = checks.integer(f"{where}.key_heads", key_heads, minimum=1)
    if heads % key_heads:
        raise checks.SpecError(f"{where}.key_heads: expected one that divides {heads} heads, received {key_heads}")
    return heads, key_heads


def _heads_apart(shape: tuple[int, ...], axes: tuple[int, ...], turned: tuple[bool, ...], head_dim: int) -> int:
    """The axis of the channels, counted from the front, where heads have one of their own."""
    if len(axes) != 2 or not all(turned):
        raise checks.SpecError(
            "permute.axis: expected one axis, or two for an array of query or key heads alone: heads and channels, "
            f"received {axes}"
        )
    heads, channels = (_axis(one, shape) for one in axes)
    if heads == channels or (shape[heads], shape[channels]) != (len(turned), head_dim):
        raise checks.SpecError(
            f"permute.weights: expected {len(turned)} heads and {head_dim} channels along the axes {axes}, "
            f"received the shape {shape}"
        )
    return channels


def _axis(axis: int, shape: tuple[int, ...]) -> int:
    axis = checks.integer("permute.axis", axis)
    if not -len(shape) <= axis < len(shape):
        raise checks.SpecError(f"permute.axis: expected an axis of the shape {shape}, received {axis}")
    return axis % len(shape)


def _shape(weights: object) -> tuple[int, ...]:
    if _library(weights) is None:
        raise checks.SpecError(
            "permute.weights: expected an array of NumPy, PyTorch, JAX or TensorFlow, "
            f"received {type(weights).__module__}.{type(weights).__qualname__}"
        )
    return tuple(weights.shape)  # type: ignore[attr-defined]  # what arrays of the five have


def _library(weights: object) -> str | None:
    for kind in type(weights).__mro__:
        library = kind.__module__.split(".")[0]
        if library in ("torch", "tensorflow", "keras", "jax", "jaxlib", "numpy") and hasattr(weights, "shape"):
            return library
    return None


def _gather(weights: Any, indices: tuple[int, ...], axis: int) -> Any:
    """`weights` along `axis` in the order of `indices`, by the library that made them, which is therefore loaded."""
    library = _library(weights)
    if library == "keras":
        return _gather(weights.value, indices, axis)
    if library == "tensorflow":
        tf = sys.modules["tensorflow"]
        return tf.gather(tf.convert_to_tensor(weights), indices, axis=axis)  # variables lack kernels for some dtypes
    if library != "torch":
        # the default of JAX passes small floats through float32, which changes NaNs
        return weights.take(sys.modules["numpy"].asarray(indices, "int32"), axis=axis, mode="clip")
    torch = sys.modules["torch"]
    return weights.index_select(axis, torch.tensor(indices, device=weights.device))


def _layout(spec: object) -> str:
    return str(getattr(spec, "layout", "?"))
