"""One tensor of a port as it will be written: moved in blocks, so that it may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from posenc.interop.layouts import head_order, order
from posenc.interop.port_libraries import named_dtype
from posenc.interop.port_moves import CASTS, Move
from posenc.interop.port_rows import FILLED, source_rows
from posenc.interop.port_step import Step
from posenc.interop.safetensors_header import CheckpointError
from posenc.numpy_impl.formats import narrow, settle

PIECE_BYTES = 2**24
"""Of a block, before or after the cast, whichever is more; three or four of them are in memory at a time."""
TRANSPOSED_BYTES = 2**26
"""The same where axes change places: a file is read once for each block then, page by page."""
Range = tuple[int, int]
Block = NDArray[Any]


class Sliced(Protocol):
    """What blocks are read from: `np.ndarray`, `np.memmap`, `h5py.Dataset`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


def blocks(step: Step, array: Sliced) -> Iterator[Block]:
    """The tensor that `step` makes of `array`, in C order, as flat arrays of the dtype of `step.after`; none if empty.

    Each has at most `TRANSPOSED_BYTES`, but for a single number. They may share memory with `array`, and are to be read
    only. Nothing but a cast looks at the numbers: everything else moves bits. Raises CheckpointError where a finite
    number becomes infinite in the narrower dtype.
    """
    before, after, move = step.before, step.after, step.move
    if before.dtype != after.dtype and not {before.dtype, after.dtype} <= set(CASTS):
        raise CheckpointError(
            f"{step.source!r:.200}: expected one of {', '.join(CASTS)} for a cast, "
            f"received {before.dtype} to {after.dtype}"
        )
    axis, order_there = _gathered(move, before.shape)
    shape = list(before.shape)
    if order_there is not None:
        shape[axis] = len(order_there)
    axes = move.axes or tuple(range(len(shape)))
    source, target = named_dtype(before.dtype), named_dtype(after.dtype)
    most = PIECE_BYTES if axes == tuple(range(len(shape))) else TRANSPOSED_BYTES
    most //= max(source.itemsize, target.itemsize)
    start = 0
    for box in _boxes([shape[one] for one in axes], most):
        ranges = [box[axes.index(one)] for one in range(len(shape))]
        slab = _bits(_read(array, ranges, axis, order_there, source), source)
        flat = np.ascontiguousarray(slab.transpose(axes)).reshape(-1).view(source)
        yield flat if source == target else _cast(step, flat, start)
        start += flat.size


def _gathered(move: Move, shape: tuple[int, ...]) -> tuple[int, NDArray[np.int64] | None]:
    """Along which axis of the source what is read for each place of the result; None: everything, as it comes."""
    axis, there = 0, None
    if move.rows is not None:
        axis, there = move.rows.axis % len(shape), source_rows(move.rows)
    elif move.rotary is not None:
        rotary, plan = move.rotary, move.rotary.spec.rotation()
        channels = rotary.axis if isinstance(rotary.axis, int) else rotary.axis[1]
        axis = channels % len(shape)
        if plan.reads != rotary.to:
            turned = (True,) * rotary.heads if isinstance(rotary.heads, int) else rotary.heads
            apart = isinstance(rotary.axis, tuple)
            there = np.array(head_order(plan, rotary.to) if apart else order(plan, rotary.to, turned), np.int64)
    if there is not None and np.array_equal(there, np.arange(shape[axis])):
        there = None
    return axis, there


def _boxes(shape: list[int], most: int) -> Iterator[list[Range]]:
    """Ranges of each axis that follow one another in C order, of at most `most` numbers."""
    if 0 in shape:
        return
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    whole = [(0, size) for size in shape[axis:]]
    if not axis:
        yield whole
        return
    count = max(1, most // inner)
    for outer in np.ndindex(*shape[: axis - 1]):
        for first in range(0, shape[axis - 1], count):
            yield [*((i, i + 1) for i in outer), (first, min(first + count, shape[axis - 1])), *whole]


def _read(
    array: Sliced, ranges: list[Range], axis: int, there: NDArray[np.int64] | None, dtype: np.dtype[Any]
) -> Block:
    """A slab of the source, its places along `axis` already those of the result."""
    if there is None:
        return _slab(array, ranges)
    wanted = there[slice(*ranges[axis])]
    needed = np.unique(wanted[wanted != FILLED])
    shape = [end - first for first, end in ranges]
    if not needed.size:
        return np.zeros(shape, dtype)
    # what lies far apart is read in parts: files have no lists of indices
    parts = np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1)
    if needed[-1] - needed[0] < 2 * needed.size:
        parts = [np.arange(needed[0], needed[-1] + 1)]
    slabs = [_slab(array, [*ranges[:axis], (part[0], part[-1] + 1), *ranges[axis + 1 :]]) for part in parts]
    slab = slabs[0] if len(slabs) == 1 else np.concatenate(slabs, axis)
    places = np.searchsorted(np.concatenate(parts), wanted)
    result = _bits(slab, dtype).take(places, axis, mode="clip")
    result[(*(slice(None),) * axis, wanted == FILLED)] = 0
    return result


def _slab(array: Sliced, ranges: list[Range]) -> Block:
    read = np.asarray(array[tuple(slice(int(first), int(end)) for first, end in ranges) if ranges else ...])
    return read.astype(read.dtype.newbyteorder("="), copy=False)


def _bits(block: Block, dtype: np.dtype[Any]) -> Block:
    """The same memory as unsigned integers: no copy of these can touch a NaN, and 8-bit floats are copied as fast."""
    return block.view(f"u{dtype.itemsize}") if dtype.itemsize in (1, 2, 4, 8) else block


def _cast(step: Step, block: Block, start: int) -> Block:
    """Each number rounded once to the dtype of the result; NaN stays NaN. `start`: the place of the first."""
    name = step.after.dtype
    dtype = named_dtype(name)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are looked for, NaNs are allowed to signal
        if block.itemsize == 8:
            result = narrow(block, name)
        elif name == "float16":
            single = block.astype(np.float32)
            settle(single)  # NumPy takes five times longer where the result is subnormal
            result = single.astype(dtype)
        else:
            result = block.astype(np.float32, copy=False).astype(dtype, copy=False)
        narrower = ml_dtypes.finfo(dtype).max < ml_dtypes.finfo(block.dtype).max
        if narrower and (infinite := np.isinf(result)).any() and (infinite & np.isfinite(block)).any():
            place = int((infinite & np.isfinite(block)).argmax())
            index = tuple(int(i) for i in np.unravel_index(start + place, step.after.shape))
            raise CheckpointError(
                f"{step.source!r:.200}: expected numbers that {name} can hold, "
                f"received {block[place]!s}, which would be at {index} of {step.target!r:.200}"
            )
    return result
