"""Weights of Keras as targets of a port: a file that was saved from the model, with other numbers in its datasets.

What Keras reads besides them (names of groups, attributes, the config) stays as it was saved.
"""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from posenc.interop import checkpoint_files, keras_files, keras_weights, zip_members
from posenc.interop.port_check import Step
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_source import COPIED, refusing

Pieces = Callable[[Step], Iterator[NDArray[Any]]]
Box = tuple[slice, ...]
_TEXTS = ("config.json", "metadata.json")


def check_template(target: Path, template: Path | None) -> None:
    """Refuse, before anything is written, a target for which there is no file of its model."""
    archive = target.name.endswith(".keras")
    needed = (".keras",) if archive else (".weights.h5", ".keras")
    if template is None or not template.name.endswith(needed):
        received = "none" if template is None else repr(template.name)
        raise CheckpointError(
            f"{target}: expected a template in {' or '.join(needed)}, saved from the model that is to read it, "
            f"received {received}"
        )
    if archive:
        with zip_members.opened(template) as members:
            for name in members.members:
                parts = name.split("/")
                if name not in (*_TEXTS, keras_weights.WEIGHTS) and (
                    parts[0] != "assets" or ".." in parts or "\\" in name
                ):
                    raise CheckpointError(
                        f"{template}: expected {', '.join(_TEXTS)}, {keras_weights.WEIGHTS} and assets, "
                        f"received {name!r:.200}"
                    )


def write(path: Path, template: Path, steps: Sequence[Step], pieces: Pieces) -> None:
    """The template as a new file at `path`, with the results of `steps`; what comes between is in the same folder."""
    archive = path.name.endswith(".keras")
    weights = path.with_name(f".{path.name}.h5") if archive else path
    with keras_weights.weights(template, path.parent) as place, weights.open("xb") as file:
        keras_weights.copied(place, file)
    _overwrite(weights, template, steps, pieces)
    if archive:
        _pack(path, template, weights)
    checkpoint_files.sync(path)


def _overwrite(weights: Path, template: Path, steps: Sequence[Step], pieces: Pieces) -> None:
    library = keras_weights.h5py()
    with refusing(str(template), "an HDF5 file that can be written", *keras_files.ERRORS):
        file = library.File(weights, "r+")
    try:
        found = keras_files.datasets(library, str(template), file)
        for step in steps:
            where = f"{template}: {step.target!r:.200}"
            dataset = found.get(step.target)
            if dataset is None or keras_files.entry(library, where, dataset) != step.after:
                raise CheckpointError(f"{where}: expected {step.after}, received another dataset: the file has changed")
            start = 0
            for piece in pieces(step):
                _fill(dataset, step.after.shape, start, piece)
                start += piece.size
    finally:
        _close(file)


def _fill(dataset: Any, shape: tuple[int, ...], start: int, piece: NDArray[Any]) -> None:
    done = 0
    for box, size in boxes(shape, start, start + piece.size):
        count = math.prod(size)
        dataset[box] = piece[done : done + count].reshape(size).view(dataset.dtype)
        done += count


def _close(file: Any) -> None:
    try:
        file.close()
    except RuntimeError as error:  # what HDF5 had not written yet and cannot write now: the disk is full
        raise OSError(str(error)) from None


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[Box, tuple[int, ...]]]:
    """The elements `start` to `stop` in C order of an array of `shape` as boxes, and the shape of each."""
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    inner = shape[1:]
    row = math.prod(inner)
    first, last = -(-start // row), stop // row
    if first > last:
        yield from _within(inner, last, start - last * row, stop - last * row)
        return
    yield from _within(inner, first - 1, start - (first - 1) * row, row)
    if first < last:
        yield (slice(first, last), *(slice(0, n) for n in inner)), (last - first, *inner)
    yield from _within(inner, last, 0, stop - last * row)


def _within(inner: tuple[int, ...], index: int, start: int, stop: int) -> Iterator[tuple[Box, tuple[int, ...]]]:
    for box, shape in boxes(inner, start, stop):
        yield (slice(index, index + 1), *box), (1, *shape)


def _pack(path: Path, template: Path, weights: Path) -> None:
    with zip_members.opened(template) as source, zipfile.ZipFile(path, "x") as archive:
        for name, info in source.members.items():
            member = zipfile.ZipInfo(name, info.date_time)
            if name == keras_weights.WEIGHTS:
                with weights.open("rb") as file, archive.open(member, "w", force_zip64=True) as written:
                    shutil.copyfileobj(file, written, COPIED)
                continue
            member.compress_type = info.compress_type
            where = f"{template}: {name!r:.200}"
            with refusing(where, "a member that can be read", *zip_members.ERRORS), source.open(name) as file:
                if info.is_dir():
                    archive.writestr(member, b"")
                    continue
                with archive.open(member, "w", force_zip64=True) as written:
                    shutil.copyfileobj(file, written, COPIED)
