"""What a checkpoint has, by name: the shape and the dtype of every tensor, whatever it is stored in."""

from __future__ import annotations

from typing import NamedTuple

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Names of safetensors and of NumPy with ml_dtypes, of what both have."""


class Entry(NamedTuple):
    """One tensor; `dtype` is a name of NumPy or ml_dtypes."""

    shape: tuple[int, ...]
    dtype: str
