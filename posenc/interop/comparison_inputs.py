"""What is compared: arrays of any library, or what callables answer, as float64; and at which positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenc.interop.comparison_formats import Float64
from posenc.interop.port_libraries import as_numpy, library
from posenc.spec.checks import SpecError, shown

Positions = NDArray[np.int64]
Source = Float64 | Callable[..., Any]

_LENGTHS = (2048, 8192, 65536, 131072)
RUN = 520
"""From 0 on: past 256 and 512, where bfloat16 no longer has every integer."""
PAIRS = 320
"""Queries and keys of a bias: past T5's greatest distance, and past 256."""


def spread() -> Positions:
    """Positions that tell conventions apart: a run from 0, and runs about 2,048, 8,192, 65,536 and up to 131,071."""
    runs = [range(RUN), *(range(length - 9, length + 8) for length in _LENGTHS[:-1]), range(131_056, 131_072)]
    return np.concatenate([np.asarray(run, np.int64) for run in runs])


def source(where: str, given: Any, rank: int | None) -> Source:
    """A callable as it is, anything else as an array of `rank` axes."""
    return given if callable(given) and not hasattr(given, "shape") else array(where, given, rank)


def array(where: str, given: Any, rank: int | None = None) -> Float64:
    """Float64 numbers of an array of NumPy, PyTorch, JAX or TensorFlow, or of nested lists."""
    try:
        numbers = as_numpy(given) if library(given) else np.asarray(given)
        if numbers.dtype.kind not in "biufV":
            raise TypeError
        result = numbers.astype(np.float64)
    except (TypeError, ValueError):
        raise SpecError(f"{where}: expected an array of real numbers, received {shown(given)}") from None
    if rank is not None and result.ndim != rank:
        raise SpecError(f"{where}: expected {rank} axes, received the shape {result.shape}")
    return result


def table(where: str, given: Any) -> tuple[Float64, Float64]:
    """Cosines and sines, of one shape `(length, pairs)` each."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise SpecError(f"{where}: expected (cos, sin), received {shown(given)}")
    cos, sin = (array(f"{where}[{k}]", part) for k, part in enumerate(given))
    if cos.ndim == 3 and cos.shape[0] == 1:
        cos, sin = cos[0], sin[0] if sin.ndim == 3 else sin
    if cos.shape != sin.shape or cos.ndim != 2:
        raise SpecError(f"{where}: expected two arrays (length, pairs), received {cos.shape} and {sin.shape}")
    return cos, sin


def places(where: str, given: Any, length: int | None) -> Positions:
    """Positions as integers that ascend; without any, the rows of a table, or `spread`."""
    if given is None:
        return spread() if length is None else np.arange(length)
    found = np.asarray(given)
    if (
        found.ndim != 1
        or found.dtype.kind not in "iu"
        or not len(found)
        or (np.diff(found.astype(np.int64)) <= 0).any()
    ):
        raise SpecError(f"{where}: expected ascending integers, received {shown(given)}")
    if length is not None and len(found) != length:
        raise SpecError(f"{where}: expected {length}, one a row, received {len(found)}")
    return found.astype(np.int64)


def pairs_at(where: str, given: Any, length: int | None) -> Positions:
    """Positions of queries or keys."""
    return np.arange(PAIRS if length is None else length) if given is None else places(where, given, length)
