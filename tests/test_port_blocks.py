"""Moves of one tensor in blocks, against plain NumPy on the whole of it, bit for bit."""

from __future__ import annotations

import io
import math
import re
import struct
import tracemalloc

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posenc import DebertaBuckets, Learned, Rope, ShawClip, T5Bias
from posenc.interop import port_blocks
from posenc.interop.contents import Entry
from posenc.interop.layouts import concatenated, grouped
from posenc.interop.port_blocks import blocks
from posenc.interop.port_moves import Move, Rotary, Rows
from posenc.interop.port_step import Step, after, sizes
from posenc.interop.safetensors_header import CheckpointError
from posenc.spec.distance_plan import LEAST_DISTANCE, DistancePlan, Run

FLOATS = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", *FLOATS,
]  # fmt: skip


def made(shape, dtype, seed=0):
    """Random bits, NaNs with payloads and infinities among them; of a boolean 0 and 1."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = math.prod(shape) * dtype.itemsize
    bits = np.random.default_rng(seed).integers(0, 2 if dtype.kind == "b" else 256, count, dtype=np.uint8)
    return bits.view(dtype).reshape(shape)


def step_of(array, *, name=None, **move):
    before = Entry(array.shape, name or array.dtype.name)
    made_by = Move("from", "to", **move)
    rows = None if made_by.rows is None else sizes(made_by.rows)
    return Step(made_by, "from", "to", before, after(made_by, before, rows))


def joined(step, array):
    """The whole result; its blocks are flat and of the dtype that the step says."""
    pieces = list(blocks(step, array))
    assert all(piece.ndim == 1 and piece.size and piece.dtype.name == step.after.dtype for piece in pieces)
    if not pieces:
        assert 0 in step.after.shape
        return np.empty(step.after.shape, made((0,), step.after.dtype).dtype)
    return np.concatenate(pieces).reshape(step.after.shape)


def same(received, expected):
    """Equal shapes, dtypes and bytes."""
    assert received.shape == expected.shape
    assert received.dtype == expected.dtype
    assert received.tobytes() == expected.tobytes()


class Sequential:
    """What a file lets one read: one slab without steps; it counts the slabs and the bytes."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read, self.times = array, array.shape, array.dtype, 0, 0

    def __getitem__(self, key):
        if self.array.ndim:
            for one, size in zip(key, self.shape, strict=True):
                assert type(one) is slice
                assert one.step is None
                assert 0 <= one.start < one.stop <= size
        result = self.array[key]
        self.read += result.nbytes
        self.times += 1
        return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks")


STORES = ["array", "fortran", "strided", "memmap", "big endian", "hdf5", "hdf5 in chunks"]


def stored(how, array, folder):
    """The same numbers in another container."""
    if how == "array":
        return array
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    if how == "big endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "memmap":
        path = folder / "array.npy"
        np.save(path, array.view(f"u{array.itemsize}"))
        return np.load(path, mmap_mode="r").view(array.dtype)
    file = h5py.File(io.BytesIO(), "w")
    chunks = {"chunks": (2,) * array.ndim} if how == "hdf5 in chunks" else {}
    data = array.view(f"V{array.itemsize}") if array.dtype == ml_dtypes.bfloat16 else array
    return file.create_dataset("a", data=data, **chunks)


@pytest.mark.parametrize("how", STORES)
@pytest.mark.parametrize("limit", [2, 24, 100, 2**20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int64"])
def test_containers_and_sizes(how, limit, dtype, folder, monkeypatch):
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", limit)
    monkeypatch.setattr(port_blocks, "TRANSPOSED_BYTES", limit)
    array = made((3, 5, 4), dtype)
    if how == "big endian" and dtype == "bfloat16":
        array = array.view(np.uint16)  # ml_dtypes has one byte order
    rows = Rows(ShawClip(2), ShawClip(1, 2), axis=1)
    for move, expected in [
        ({}, array),
        ({"axes": (2, 0, 1)}, array.transpose(2, 0, 1)),
        ({"axes": (1, 0, 2), "shape": (15, 4)}, array.transpose(1, 0, 2).reshape(15, 4)),
    ]:
        source = stored(how, array, folder)
        same(joined(step_of(array, **move), source), np.ascontiguousarray(expected))
    with pytest.raises(ValueError, match="for row 0 of the target"):
        step_of(array, rows=rows)
    rows = Rows(ShawClip(2), Window(-1, 2), axis=1)
    step = step_of(array, rows=rows, axes=(1, 2, 0))
    same(joined(step, stored(how, array, folder)), np.ascontiguousarray(array[:, 1:].transpose(1, 2, 0)))


class Window:
    """Rows of the distances from `low` to `high`, without heads; `reverse`: the greatest first."""

    def __init__(self, low, high, *, reverse=False):
        count = high - low + 1
        of_low, step = (count - 1, -1) if reverse else (0, 1)
        runs = (Run(LEAST_DISTANCE, None), Run(low, of_low, step), Run(high + 1, None))
        self._plan = DistancePlan(axes=(runs,), rows=count, heads=None)

    def plan(self):
        return self._plan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (3, 0, 2), (6, 1, 3), (2, 3, 4, 5)], ids=str)
def test_bits_are_moved(dtype, shape, monkeypatch):
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", 48)
    monkeypatch.setattr(port_blocks, "TRANSPOSED_BYTES", 48)
    array = made(shape, dtype)
    source = Sequential(array)
    same(joined(step_of(array), source), array)
    assert source.read == array.nbytes
    source = Sequential(array)
    backwards = tuple(reversed(range(len(shape))))
    same(joined(step_of(array, axes=backwards), source), np.ascontiguousarray(array.T).reshape(array.T.shape))
    assert source.read == array.nbytes


@st.composite
def cases(draw):
    """A tensor, a table of rows along one axis of it, an order of axes and a limit."""
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] = draw(st.integers(1, 9))
    low = draw(st.integers(0, shape[axis] - 1))
    high = draw(st.integers(low, shape[axis] - 1))
    reverse = draw(st.booleans())
    axes = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from(DTYPES))
    limit = draw(st.sampled_from([1, 16, 40, 64, 200, 2**24]))
    return tuple(shape), axis, range(low, high + 1), reverse, tuple(axes), dtype, limit


@settings(max_examples=600)
@given(cases())
def test_rows_and_axes(case):
    shape, axis, window, reverse, axes, dtype, limit = case
    array = made(shape, dtype)
    target = Window(window[0], window[-1], reverse=reverse)
    rows = Rows(Window(0, shape[axis] - 1), target, axis=axis)
    places = list(reversed(window)) if reverse else list(window)
    expected = np.ascontiguousarray(np.stack([array[at(array, axis, i)] for i in places], axis).transpose(axes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port_blocks, "PIECE_BYTES", limit)
        patch.setattr(port_blocks, "TRANSPOSED_BYTES", limit)
        source = Sequential(array)
        pieces = list(blocks(step_of(array, rows=rows, axes=axes), source))
    assert all(piece.nbytes <= max(limit, array.itemsize) for piece in pieces)
    assert b"".join(piece.tobytes() for piece in pieces) == expected.tobytes()
    assert source.read <= array.nbytes  # nothing is read twice where a row is wanted once


def at(array, axis, index):
    return (*(slice(None),) * (axis % array.ndim), index)


def test_rows_that_are_filled_and_doubled(monkeypatch):
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", 20)
    array = made((4, 3), "bfloat16")
    rows = Rows(Learned(4, 3), Learned.fairseq(3, 3, padding_idx=0), fill="zeros")
    expected = np.concatenate([np.zeros((1, 3), array.dtype), array[:3]])
    same(joined(step_of(array, rows=rows), Sequential(array)), expected)
    table = made((8, 64), "float32")  # of t5x: heads first
    rows = Rows(
        T5Bias(8, buckets=64, max_distance=300, bidirectional=True),
        T5Bias(8, buckets=64, max_distance=300, bidirectional=True, rule="t5x"),
        axis=1,
        fill="zeros",
    )
    expected = table.copy()
    expected[:, 32] = 0  # the bucket of key - query = +0, which no distance has
    same(joined(step_of(table, rows=rows), Sequential(table)), expected)
    same(joined(step_of(table, rows=rows, axes=(1, 0)), table), np.ascontiguousarray(expected.T))
    ends = made((9, 2), "int16")
    source = Sequential(ends)
    same(joined(step_of(ends, rows=Rows(Window(-4, 4), Ends())), source), ends[[8, 0]])
    assert source.read == 2 * ends[0].nbytes
    buckets = made((8, 2), "float16")
    rows = Rows(DebertaBuckets(4, 9, clamped=True), DebertaBuckets(4, 9, clamped=False))
    same(joined(step_of(buckets, rows=rows), Sequential(buckets)), buckets[[1, 1, 2, 3, 4, 5, 6, 7]])


class Ends:
    """Of the distances from -4 to 4 the last and the first: rows that lie far apart."""

    def plan(self):
        firsts = [(LEAST_DISTANCE, None), (-4, 1), (-3, None), (4, 0), (5, None)]
        runs = tuple(Run(first, number) for first, number in firsts)
        return DistancePlan(axes=(runs,), rows=2, heads=None)


ROPES = [
    Rope(8, base=1e4, layout="half"),
    Rope(8, base=1e4, layout="interleaved"),
    Rope(8, base=1e4, layout="interleaved_to_half"),
    Rope(12, base=1e4, layout="half", rotary_dim=6),
    Rope(9, base=1e4, layout="interleaved", rotary_dim=4, rotary_channels="last"),
]


def channels(spec, to):
    """For each channel of a head in the layout `to` that of the source, by the pairs of the two."""
    start = spec.head_dim - spec.rotary_dim if spec.rotary_channels == "last" else 0
    n = spec.rotary_dim // 2
    half = [start + c for c in range(2 * n)]
    side_by_side = [start + c for j in range(n) for c in (j, n + j)]  # where half has what stands at 2j, 2j + 1
    is_half = spec.layout == "half"
    if is_half == (to == "half"):
        rotary = half
    elif is_half:
        rotary = side_by_side
    else:
        rotary = [half[side_by_side.index(c)] for c in half]
    return [*range(start), *rotary, *range(start + 2 * n, spec.head_dim)]


@pytest.mark.parametrize("limit", [1, 50, 400, 2**24])
@pytest.mark.parametrize("to", ["half", "interleaved"])
@pytest.mark.parametrize("spec", ROPES, ids=lambda spec: f"{spec.layout} {spec.rotary_dim}")
def test_channels_of_heads(spec, to, limit, monkeypatch):
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", limit)
    monkeypatch.setattr(port_blocks, "TRANSPOSED_BYTES", limit)
    of_head, width = channels(spec, to), spec.head_dim
    heads = [h * width + c for h in range(3) for c in of_head]
    weights = made((3 * width, 5), "float32")
    source = Sequential(weights)
    same(joined(step_of(weights, rotary=Rotary(spec, to=to, heads=3)), source), weights[heads])
    of_blocks = -(-len(weights) // max(1, limit // weights[0].nbytes))
    assert source.times == of_blocks or limit < 400  # gaps are read too, where they are not most of it
    bias = made((3 * width,), "bfloat16")
    same(joined(step_of(bias, rotary=Rotary(spec, to=to, heads=3)), Sequential(bias)), bias[heads])
    kernel = made((5, 3 * width), "float16")
    step = step_of(kernel, rotary=Rotary(spec, to=to, heads=3, axis=-1), axes=(1, 0))
    same(joined(step, Sequential(kernel)), np.ascontiguousarray(kernel[:, heads].T))
    apart = made((5, 3, width), "float32")
    step = step_of(apart, rotary=Rotary(spec, to=to, heads=3, axis=(1, 2)), axes=(1, 2, 0), shape=(3 * width, 5))
    expected = apart[:, :, of_head].transpose(1, 2, 0).reshape(3 * width, 5)
    same(joined(step, Sequential(apart)), np.ascontiguousarray(expected))
    for fused in (concatenated(4, 2), grouped(4, 2)):
        weights = made((8 * width, 2), "int8")
        order = [h * width + c for h, turns in enumerate(fused) for c in (of_head if turns else range(width))]
        step = step_of(weights, rotary=Rotary(spec, to=to, heads=fused))
        same(joined(step, Sequential(weights)), weights[order])


def grid(name):
    """Every finite number of a 16-bit format in ascending order, and the parity of its bits; -0 is left out."""
    values = np.arange(2**16, dtype=np.uint16).view(FLOATS[name])
    with np.errstate(invalid="ignore"):  # NaNs that signal
        numbers = values.astype(np.float64)
    finite = np.isfinite(numbers) & ((numbers != 0) | ~np.signbit(numbers))
    order = np.argsort(numbers[finite])
    return numbers[finite][order], values.view(np.uint16)[finite][order] & 1


def nearest(value, name):
    """The nearest numbers of a 16-bit format, ties to even, by searching in all of them."""
    values, odd = grid(name)
    above = np.searchsorted(values, value).clip(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    # both distances are exact where it matters: the formats have far fewer bits than float64
    up = (high - value < value - low) | ((high - value == value - low) & (odd[above] == 0))
    return np.copysign(np.where(up, high, low), value)


def hard(name):
    """Numbers on, beside and between those of a format and their midpoints, beside which float32 sees a tie."""
    values, _ = grid(name)
    middle = (values[1:] + values[:-1]) / 2  # exact
    near = [middle * (1 + e) for e in (0.0, 2.0**-40, -(2.0**-40), 2.0**-52, -(2.0**-52))]
    tiny = np.array([2.0**-24, 2.0**-25, 2.0**-26, 3 * 2.0**-26, 2.0**-133, 2.0**-134, 2.0**-150, 5e-324, 0.0])
    random = np.random.default_rng(1).standard_normal(20_000) * 2.0 ** np.arange(-30, 10).repeat(500)
    return np.concatenate([values, *near, tiny, -tiny, random])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_float64_is_rounded_once(name):
    numbers = hard(name)
    assert (np.float32(numbers).astype(FLOATS[name]).astype(np.float64) != nearest(numbers, name)).sum() > 10_000
    result = joined(step_of(numbers, dtype=name), numbers)
    same(result.astype(np.float64), nearest(numbers, name))


@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "bfloat16"), ("float32", "float16"), ("bfloat16", "float16"), ("float16", "bfloat16")],
)
def test_other_casts_are_rounded_once(source, target):
    with np.errstate(over="ignore"):
        numbers = np.concatenate([hard(target), hard("float16")]).astype(FLOATS[source])
    greatest = float(ml_dtypes.finfo(FLOATS[target]).max)
    numbers = numbers[np.abs(numbers.astype(np.float64)) <= greatest]
    result = joined(step_of(numbers, dtype=target), numbers)
    same(result.astype(np.float64), nearest(numbers.astype(np.float64), target))


def test_float64_to_float32_is_rounded_as_c_does():
    numbers = np.concatenate([hard("float16"), np.random.default_rng(2).standard_normal(1000) * 1e-40])
    expected = np.array([struct.unpack("f", struct.pack("f", number))[0] for number in numbers.tolist()], np.float32)
    same(joined(step_of(numbers, dtype="float32"), numbers), expected)


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_casts_keep_to_their_blocks(source, target, monkeypatch):
    """What is handed over stays as it is, also where small numbers are settled first; blocks count what is wider."""
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", 64)
    numbers = (np.random.default_rng(3).standard_normal(100) * 1e-5).astype(FLOATS[source])
    kept = numbers.copy()
    pieces = list(blocks(step_of(numbers, dtype=target), numbers))
    same(numbers, kept)
    assert max(piece.nbytes for piece in pieces) <= 64
    assert max(piece.size for piece in pieces) <= 64 // kept.itemsize


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_special_numbers(source, target):
    special = np.array([math.nan, math.inf, -math.inf, -0.0, 0.0, -1.5], FLOATS[source])
    result = joined(step_of(special, dtype=target), special).astype(np.float64)
    same(result[1:], special[1:].astype(np.float64))
    assert math.isnan(result[0])
    same(joined(step_of(special, dtype=source), special), special)


@pytest.mark.parametrize(
    ("source", "target", "number", "greatest"),
    [
        ("float64", "float32", 2.0**128 - 2.0**103, 2.0**128 - 2.0**104),
        ("float64", "bfloat16", 2.0**128 - 2.0**119, 2.0**128 - 2.0**120),
        ("float64", "float16", 65520.0, 65504.0),
        ("float32", "bfloat16", float(np.float32(3.4e38)), 2.0**128 - 2.0**120),
        ("float32", "float16", -65520.0, -65504.0),
        ("bfloat16", "float16", 65536.0, 65504.0),
    ],
)
def test_a_number_that_becomes_infinite_is_named(source, target, number, greatest, monkeypatch):
    monkeypatch.setattr(port_blocks, "TRANSPOSED_BYTES", 32)
    array = np.zeros((4, 6), FLOATS[source])
    array[0, 0], array[1, 1] = math.inf, math.nan
    array[2, 4] = array[3, 5] = FLOATS[source](number)
    shown = str(array[2, 4])
    sentence = f"'from': expected numbers that {target} can hold, received {shown}, which would be at (4, 0, 2) of 'to'"
    step = step_of(array, axes=(1, 0), shape=(6, 1, 4), dtype=target)
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        list(blocks(step, array))
    just = np.full(3, np.nextafter(np.float64(number), 0), np.float64)
    if source == "float64":
        same(joined(step_of(just, dtype=target), just), np.full(3, greatest, FLOATS[target]))


@pytest.mark.parametrize(
    ("source", "target"), [("int64", "float32"), ("float8_e4m3fn", "float32"), ("float32", "int8")]
)
def test_other_casts_are_refused(source, target):
    array = made((2,), source)
    step = Step(Move("from", "to"), "from", "to", Entry((2,), source), Entry((2,), target))
    received = re.escape(f"received {source} to {target}")
    with pytest.raises(CheckpointError, match=rf"^'from': expected one of float64, .*float16 for a cast, {received}$"):
        list(blocks(step, array))


@pytest.mark.parametrize(
    "move",
    [{}, {"axes": (1, 0)}, {"dtype": "bfloat16"}, {"rotary": Rotary(ROPES[0], to="interleaved", heads=256, axis=1)}],
    ids=str,
)
def test_memory_is_that_of_a_few_blocks(move, folder, monkeypatch):
    """32 MiB in blocks of 1 MiB: at most a slab, its turned copy, and the cast with float64's own two temporaries."""
    monkeypatch.setattr(port_blocks, "PIECE_BYTES", 2**20)
    monkeypatch.setattr(port_blocks, "TRANSPOSED_BYTES", 2**20)
    path = folder / "large.npy"
    np.save(path, np.zeros((4096, 2048), np.float32))
    array = np.load(path, mmap_mode="r")
    step = step_of(array, **move)
    tracemalloc.start()
    for block in blocks(step, array):
        assert block.nbytes <= 2**20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20


def test_blocks_of_a_plain_array_are_views():
    array = made((4, 5), "float32")
    (block,) = blocks(step_of(array), array)
    assert np.shares_memory(block, array)
