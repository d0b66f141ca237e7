"""Arrays of NumPy, PyTorch, JAX and TensorFlow as NumPy's, bit for bit, and back; none of the four is imported here."""

from __future__ import annotations

import math
import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from posenc.interop.contents import Entry
from posenc.interop.safetensors_header import CheckpointError

_LIBRARIES = ("torch", "tensorflow", "keras", "jax", "jaxlib", "numpy")


def library(value: object) -> str | None:
    """Whose array `value` is; None where it is none of them."""
    for kind in type(value).__mro__:
        home = kind.__module__.split(".")[0]
        if home in _LIBRARIES and hasattr(value, "shape") and hasattr(value, "dtype"):
            return "jax" if home == "jaxlib" else home
    return None


def entry(array: Any) -> Entry:
    """Its shape and the name of its dtype: random keys of JAX have one such as `key<fry>`."""
    dtype = array.dtype
    return Entry(tuple(int(size) for size in array.shape), getattr(dtype, "name", None) or str(dtype).split(".")[-1])


def as_numpy(array: Any, name: str = "array") -> NDArray[Any]:
    """The array as NumPy's, with the same bits; a copy only where its memory is out of NumPy's reach.

    It is to be read: what it came from may change with it. bfloat16 and 8-bit floats get the dtypes of ml_dtypes.
    Raises CheckpointError, with `name`, for what holds no numbers, or not as an array: sparse, quantised and meta
    tensors, random keys, objects, strings.
    """
    home = library(array)
    if home == "keras":
        return as_numpy(array.value, name)
    if home == "torch":
        result = _from_torch(array, name)
    elif home == "tensorflow" and hasattr(array, "numpy"):
        result = array.numpy()
    elif home == "numpy" or (home == "jax" and not _is_key(array)):
        result = np.asarray(array)
    else:
        raise _unread_error(name, f"a {type(array).__name__}" if home != "jax" else f"one of {array.dtype}")
    result = np.asarray(result)
    if result.dtype.kind not in "biufcV" or result.dtype.type is np.void:
        raise _unread_error(name, f"one of {result.dtype}")
    return result


def as_library(array: NDArray[Any], like: Any) -> Any:
    """`array` as an array of the library of `like`, on its device; it may use the memory of `array`.

    Raises CheckpointError where `like` is on no device, or JAX does not hold the dtype while x64 is off.
    """
    home = library(like)
    if home == "keras":
        return as_library(array, like.value)
    if home == "torch":
        return _to_torch(array, like)
    if home == "tensorflow":
        return sys.modules["tensorflow"].constant(array)
    if home != "jax":
        return array
    jax = sys.modules["jax"]
    held = jax.dtypes.canonicalize_dtype(array.dtype)
    if held != array.dtype:
        raise CheckpointError(f"apply: expected jax_enable_x64 for {array.dtype}, received {held} without it")
    return jax.device_put(array, like.sharding if getattr(like, "committed", True) else None)


def memory(array: Any) -> Any:
    """Where the numbers of a mutable array are, the same for two that are tied; None where that does not matter."""
    if not math.prod(array.shape):
        return None
    kind = library(array)
    if kind == "torch" and array.device.type != "meta" and array.layout == sys.modules["torch"].strided:
        return array.data_ptr(), array.stride(), tuple(array.shape), str(array.dtype)
    if kind == "numpy":
        return array.ctypes.data, array.strides, array.shape, str(array.dtype)
    return None


def named_dtype(name: str) -> np.dtype[Any]:
    """The dtype that an `Entry` names, of NumPy or ml_dtypes; TypeError for others."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of ml_dtypes."""
    return hasattr(ml_dtypes, dtype.name)


def _is_key(array: Any) -> bool:
    jax = sys.modules["jax"]
    return bool(jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key))


def _from_torch(tensor: Any, name: str) -> Any:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        kind = "quantised" if tensor.is_quantized else "meta" if tensor.device.type == "meta" else "sparse"
        raise _unread_error(name, f"a {kind} tensor")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        dtype = named_dtype(entry(tensor).dtype)
    except TypeError:
        raise _unread_error(name, f"one of {tensor.dtype}") from None
    if _is_extended(dtype):  # PyTorch does not hand these over
        return plain.view(getattr(torch, f"uint{8 * dtype.itemsize}")).numpy().view(dtype)
    return plain.numpy()


def _to_torch(array: NDArray[Any], like: Any) -> Any:
    torch = sys.modules["torch"]
    if like.device.type == "meta":
        raise CheckpointError("apply: expected tensors of the target on a device, received meta tensors")
    dtype = getattr(torch, array.dtype.name)
    bits = array.view(f"u{array.itemsize}") if _is_extended(array.dtype) else array
    return torch.from_numpy(bits).view(dtype).to(like.device).requires_grad_(like.requires_grad)


def _unread_error(name: str, received: str) -> CheckpointError:
    return CheckpointError(f"{name!r:.200}: expected a dense array of numbers, received {received}")
