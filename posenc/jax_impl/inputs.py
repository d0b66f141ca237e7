"""Reading arguments: what is refused, and which path the rest takes.

The type of what `positions` returns says the path: a `range` or a NumPy array is on the host and gets correctly
rounded values; a `jax.Array` is traced, or on an accelerator, and gets fused code.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from posenc.spec import checks, weight_checks
from posenc.spec.plan import FRACTION_BITS, PhasePlan

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_POSITIONS = (*_INTEGERS, "float32", "float64")
_NAMES = {jnp.dtype(name): name for name in checks.OUTPUT_DTYPES}

HostArray = np.ndarray[Any, Any]
Array = jax.Array | HostArray


def staged() -> bool:
    """Whether an operation called now would be recorded in a trace instead of run."""
    return isinstance(lax.iota(np.int32, 1), jax.core.Tracer)


def on_host(array: Array) -> bool:
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())


def plain(given: Any) -> Any:
    """The array in an object that `jnp.asarray` takes for one, such as a parameter of Flax."""
    convert = None if isinstance(given, jax.Array) else getattr(given, "__jax_array__", None)
    return given if convert is None else convert()


def read_positions(where: str, given: object) -> range | Array:
    """A checked range, or integers as int32, float32 or float64 of any shape, on the host if it can be."""
    array = _read(where, given, _POSITIONS)
    if not isinstance(array, jax.Array) or jnp.issubdtype(array.dtype, np.floating):
        return array
    return lax.convert_element_type(array, np.int32)


def read_integers(where: str, given: object) -> range | Array:
    """A checked range, or integers of any shape: int32 on the host, as they are elsewhere. `where` has a dot."""
    return _read(where, given, _INTEGERS)


def _read(where: str, given: Any, dtypes: tuple[str, ...]) -> range | Array:
    if isinstance(given, range):
        return checks.position_range(where, given)
    numbers = checks.position_list(where, given)
    if numbers is not None:
        if not numbers.integral and "float64" not in dtypes:
            raise checks.position_dtype_error(where, "float")
        return np.array(numbers.values, np.int32 if numbers.integral else np.float64).reshape(numbers.shape)
    given = plain(given)
    if not isinstance(given, jax.Array):
        if not hasattr(given, "__array__"):
            raise checks.position_dtype_error(where, type(given).__name__)
        given = np.asarray(given)
    if given.dtype.name not in dtypes:
        raise checks.position_dtype_error(where, given.dtype.name)
    if isinstance(given, jax.Array):
        if not on_host(given):
            return given
        if not given.is_fully_addressable:
            raise checks.position_shards_error(where)
        given = jax.device_get(given)
    return _checked(where, np.asarray(given))


def _checked(where: str, array: HostArray) -> HostArray:
    limit = checks.POSITION_LIMIT
    floating = array.dtype.kind == "f"
    if floating or array.dtype.itemsize >= 4:
        wrong = ~((array < limit) & (array > -limit))  # a NaN is wrong too
        if wrong.any():
            raise checks.position_value_error(where, array[wrong][0].item())
    return array.astype(array.dtype.name if floating else np.int32, copy=False)


def read_dtype(where: str, dtype: Any) -> np.dtype[Any]:
    """One of the four output dtypes, however it is named."""
    name = checks.output_dtype_name(where, dtype)
    try:
        result: np.dtype[Any] = jnp.dtype(name or dtype)
    except TypeError:
        raise checks.output_dtype_error(where, checks.shown(dtype)) from None
    if result.name not in checks.OUTPUT_DTYPES:
        raise checks.output_dtype_error(where, result.name)
    return result.newbyteorder("=")


def read_x(where: str, given: object, dim: int) -> Array:
    array = plain(given)
    if not isinstance(array, jax.Array | np.ndarray):
        raise checks.x_dtype_error(where, type(given).__name__)
    array = native(array)
    if array.dtype not in _NAMES:
        raise checks.x_dtype_error(where, array.dtype.name)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise checks.x_shape_error(where, dim, array.shape)
    return array


def read_weights(where: str, given: object, shape: tuple[int, int]) -> Array:
    """An array of one of the four dtypes, not copied."""
    array = plain(given)
    if not isinstance(array, jax.Array | np.ndarray):
        raise weight_checks.weights_kind_error(where, given)
    array = native(array, copy=False)
    if array.dtype not in _NAMES:
        raise weight_checks.weights_dtype_error(where, array.dtype.name)
    if array.shape != shape:
        raise weight_checks.weights_shape_error(where, shape, array.shape)
    return array


def readable(array: Array) -> bool:
    """Whether NumPy may work on it: on one CPU device, as what is spread over several is to stay there."""
    return on_host(array) and (isinstance(array, np.ndarray) or len(array.devices()) == 1)


def read_table(where: str, given: object, pairs: int) -> tuple[Array, Array]:
    """Two arrays of one shape `(*P, pairs)` and one float dtype."""
    parts = [plain(part) for part in checks.table_parts(where, pairs, given)]
    if not all(isinstance(part, jax.Array | np.ndarray) for part in parts):
        raise checks.table_kind_error(where, pairs, *parts)
    cos, sin = (native(part) for part in parts)
    checks.check_table(where, pairs, (_name(cos.dtype), _name(sin.dtype)), (cos.shape, sin.shape))
    return cos, sin


def _name(dtype: np.dtype[Any]) -> str:
    """Asking NumPy for it takes longer than all else that is asked of a table."""
    return _NAMES.get(dtype) or dtype.name


def native(given: Array, *, copy: bool = True) -> Array:
    """NumPy's arrays are copied: JAX may read their memory after the call, when its owner writes there again."""
    return given if isinstance(given, jax.Array) else given.astype(given.dtype.newbyteorder("="), copy=copy)


def aligned(size: int) -> HostArray:
    """So many bytes, with the 64 bytes of alignment that let JAX adopt an array without a copy."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def adopted(array: HostArray, *given: object) -> jax.Array:
    """A NumPy array that nobody else holds, as a JAX array without a copy where the device is a CPU.

    `given`: what it was made from; the result goes where the first of them is committed to.
    """
    device = None
    for source in map(plain, given):
        if isinstance(source, jax.Array) and source.committed and len(source.devices()) == 1:
            (device,) = source.devices()
            break
    with jax.enable_x64(True):
        result: jax.Array = jax.device_put(array, device, may_alias=True)
    return result


def shape(positions: range | Array) -> tuple[int, ...]:
    """NumPy would make an array of a range to ask it."""
    return (len(positions),) if isinstance(positions, range) else positions.shape


def numbered(given: range) -> HostArray:
    """The integers of a range, on the host."""
    step = given.step if len(given) > 1 else 1  # a lone position's step may exceed any integer type
    return (given.start if given else 0) + step * np.arange(len(given), dtype=np.int64)


def counted(given: range) -> jax.Array:
    """Those of a range in a trace, without a constant, modulo 2^32: positions fit, but a step to nowhere need not."""
    step, start = (np.uint32(number % 2**32).astype(np.int32) for number in (given.step, given.start))
    return start + step * jnp.arange(len(given), dtype=np.int32)


def split(positions: Array) -> tuple[Array, ...]:
    """The int32 parts of positions, one for each level: one of integers, three of floats."""
    xp: Any = np if isinstance(positions, np.ndarray) else jnp
    if not jnp.issubdtype(positions.dtype, np.floating):
        return (positions.astype(np.int32),)
    parts, rest = [], positions
    for _ in range(3):
        whole = xp.trunc(rest)
        parts.append(whole.astype(np.int32))
        rest = (rest - whole) * positions.dtype.type(2.0**FRACTION_BITS)
    return tuple(parts)


def is_padding(positions: Any, plan: PhasePlan) -> Any:
    """Where a position is the one without an encoding, of `(*P,)` -> `(*P,)`; floats are compared by their bits."""
    if positions.dtype.kind != "f":
        return positions.astype(np.int32) == plan.padding_position
    wide = positions.dtype.itemsize == 8
    wanted = plan.padding_bits("float64" if wide else "float32")
    bits = positions.view(np.uint64 if wide else np.uint32)
    if wanted is None:  # no position of this dtype
        return bits.astype(np.bool_) & np.False_
    kind = bits.dtype.type
    return bits << kind(1) == kind(0) if wanted == 0 else bits == kind(wanted)  # -0.0 is a zero too
