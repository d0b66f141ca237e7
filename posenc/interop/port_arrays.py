"""States in memory, a `state_dict`, nested dicts or a JAX pytree: their arrays by name, and new states alike."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.interop.contents import Entry
from posenc.interop.port_blocks import blocks
from posenc.interop.port_libraries import as_library, as_numpy, entry, library, memory, named_dtype
from posenc.interop.port_step import Step
from posenc.interop.safetensors_header import CheckpointError
from posenc.spec import checks

__all__ = ["apply_in_memory", "as_entries", "as_numpy", "flattened", "like"]

Path = tuple[str, ...]
_MODELS = {
    "keras": ("Layer", "the path of a file that save or save_weights wrote, for `port`"),
    "torch": ("Module", "a state, such as model.state_dict()"),
    "flax": ("Module", "a state, such as nnx.state(model)"),
}


def flattened(where: str, state: Any) -> dict[str, Any]:
    """The arrays of a state by name, as they are: the keys on the way to each, joined by dots.

    Of what nnx keeps in variables the last key, `value`, is left away. `where` names the argument in what is raised:
    CheckpointError for models, for what is no array, and for two arrays that have one name.
    """
    for kind in type(state).__mro__:
        name, expected = _MODELS.get(kind.__module__.split(".")[0], (None, ""))
        if kind.__name__ == name:
            raise CheckpointError(f"{where}: expected {expected}, received the model {type(state).__name__}")
    if library(state) is not None:
        raise CheckpointError(f"{where}: expected arrays by name, received one array, {type(state).__name__}")
    flat: dict[str, Any] = {}

    def add(name: str, array: Any) -> Any:
        if name in flat:
            raise CheckpointError(f"{where}: expected names that differ, received two arrays called {name!r:.200}")
        flat[name] = array
        return array

    _mapped(where, state, (), add)
    return flat


def as_entries(arrays: Mapping[str, Any]) -> dict[str, Entry]:
    """Shapes and dtypes of arrays by name, also of such that hold no numbers: meta tensors, random keys."""
    return {name: entry(array) for name, array in arrays.items()}


def like(state: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """A new state with the structure of `state`, and arrays of its libraries, on their devices, made of `arrays`.

    What `arrays` lacks is taken from `state` itself, the same objects. Nothing in `state` changes.
    """

    def filled(name: str, array: Any) -> Any:
        return as_library(arrays[name], array) if name in arrays else array

    return _mapped("target", state, (), filled)


def apply_in_memory(steps: Iterable[Step], source: Mapping[str, Any], target: Any = None) -> Any:
    """What the steps make of arrays by name: a state like `target`, or where that is None NumPy arrays by name."""
    made = {}
    for step in steps:
        array = source[step.source]
        if library(array) is not None:
            array = as_numpy(array, step.source)
        result = np.empty(step.after.shape, named_dtype(step.after.dtype))
        flat, start = result.reshape(-1), 0
        for block in blocks(step, array):
            flat[start : start + block.size] = block
            start += block.size
        made[step.target] = result
    return made if target is None else like(target, made | _tied(flattened("apply.target", target), made))


def _tied(target: Mapping[str, Any], made: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What kept tensors get that share their memory with filled ones, as tied weights do: loading would mix them up."""
    places: dict[Any, list[str]] = {}
    for name, array in target.items():
        place = memory(array)
        if place is not None:
            places.setdefault(place, []).append(name)
    tied: dict[str, NDArray[Any]] = {}
    for names in places.values():
        filled = [name for name in names if name in made]
        for other in filled[1:]:
            if made[other].tobytes() != made[filled[0]].tobytes():
                raise CheckpointError(
                    f"apply.target: expected the same numbers for {filled[0]!r:.200} and {other!r:.200}, which share "
                    "their memory (tied weights), received two that differ"
                )
        tied |= {name: made[filled[0]] for name in names if filled and name not in made}
    return tied


def _mapped(where: str, node: Any, path: Path, function: Callable[[str, Any], Any]) -> Any:
    """A new node with what `function` makes of each array and its name."""
    if library(node) is not None:
        return function(".".join(path), node)
    if node is None:
        return None

    def below(key: str, child: Any) -> Any:
        return _mapped(where, child, (*path, key), function)

    if isinstance(node, dict):
        result = copy.copy(node)  # of a state_dict with its order and its metadata
        for key, child in node.items():
            result[key] = below(_key(where, path, key), child)
        return result
    if isinstance(node, list):
        return [below(str(index), child) for index, child in enumerate(node)]
    if isinstance(node, tuple):
        names = getattr(node, "_fields", None)
        children = [below(str(names[i] if names else i), child) for i, child in enumerate(node)]
        return type(node)(*children) if names else tuple(children)
    return _mapped_by_jax(where, node, path, function)


def _mapped_by_jax(where: str, node: Any, path: Path, function: Callable[[str, Any], Any]) -> Any:
    """The same of what JAX knows as a pytree: `nnx.State`, other registered classes."""
    jax = sys.modules.get("jax")
    if jax is None:
        raise _kind_error(where, path, node)
    leaves, structure = jax.tree_util.tree_flatten_with_path(node)
    made = []
    for keys, leaf in leaves:
        names = [*path, *map(_text, keys)]
        if library(leaf) is None:
            raise _kind_error(where, (*names,), leaf)
        if type(keys[-1]).__name__ == "GetAttrKey" and names[-1] == "value":
            names.pop()
        made.append(function(".".join(names), leaf))
    return structure.unflatten(made)


def _kind_error(where: str, path: Path, received: object) -> CheckpointError:
    name = f"{'.'.join(path)!r:.200}: " if path else ""
    return CheckpointError(f"{where}: {name}expected arrays by name, received {type(received).__name__}")


def _key(where: str, path: Path, key: object) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise CheckpointError(
            f"{where}: {'.'.join(path)!r:.200}: expected keys of text or integers, received {checks.shown(key)}"
        )
    return str(key)


def _text(key: Any) -> str:
    """One key of a path of JAX: of a mapping, a sequence, an attribute, or a number of a node without names."""
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)
