"""The four host columns as users call them: the module, and how its arrays are made and read."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from posenc.conformance.bounds import N2_ACCELERATOR
from posenc.conformance.columns import COLUMNS, Column
from posenc.conformance.drivers.torch_driver import compiler
from posenc.conformance.protocol import Subject


@dataclass(frozen=True)
class Host:
    """One framework's column; NumPy arrays become its own, and the other way round."""

    name: str

    @property
    def module(self) -> Any:
        return importlib.import_module(f"posenc.{self.name}_impl")

    def array(self, values: Any, dtype: str) -> Any:
        """An array of the framework; a dtype that JAX lacks without x64 is a NumPy array there."""
        if self.name == "torch":
            import torch

            return torch.tensor(values, dtype=getattr(torch, dtype))
        if self.name == "tf":
            import tensorflow as tf

            return tf.constant(np.array(values, numpy_dtype(dtype)))
        array = np.array(values, numpy_dtype(dtype))
        if self.name == "jax" and array.dtype.itemsize < 8:
            import jax.numpy as jnp

            return jnp.asarray(array)
        return array

    def read(self, result: Any) -> tuple[str, tuple[int, ...], bytes]:
        """dtype, shape and bytes."""
        if self.name == "torch":
            import torch

            array = result.view(torch.int16).numpy() if result.dtype == torch.bfloat16 else result.numpy()
            return str(result.dtype).removeprefix("torch."), tuple(result.shape), array.tobytes()
        array = np.asarray(result)
        return array.dtype.name, array.shape, array.tobytes()

    def numpy(self, result: Any) -> np.ndarray:
        """The same as an array in its own dtype, which for bfloat16 is that of ml_dtypes."""
        dtype, shape, data = self.read(result)
        return np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)

    def framework(self) -> Any:
        """The package whose arrays these are."""
        return importlib.import_module({"tf": "tensorflow"}.get(self.name, self.name))


def numpy_dtype(dtype: str) -> Any:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


REFERENCE = Host("numpy")
HOSTS = tuple(Host(column.framework) for column in COLUMNS if column.mode.name == "N1")
every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
OTHERS = pytest.mark.parametrize("host", [host for host in HOSTS if host != REFERENCE], ids=lambda host: host.name)


# --- The matrix: every column and variant that runs here ---


def listed() -> tuple[list[Column], list[str]]:
    """The columns that the matrix has to run, and one line for each that it does not have.

    Only what this machine lacks is left out: a device, or what Inductor compiles with, unless POSENC_REQUIRE_INDUCTOR
    is 1. A framework that is missing is an error of the tests that ask for it.
    """
    import torch

    accelerators = {
        "torch": torch.cuda.is_available,
        "jax": lambda: any(device.platform == "gpu" for device in importlib.import_module("jax").devices()),
    }
    chosen, left_out = [], []
    for column in COLUMNS:
        if column.mode == N2_ACCELERATOR and not accelerators[column.framework]():
            left_out.append(f"{column.name}: not run: no GPU")
        elif column.name == "torch:inductor" and not (compiler() or os.environ.get("POSENC_REQUIRE_INDUCTOR") == "1"):
            left_out.append(f"{column.name}: not run: no C++ compiler, or no Python headers")
        else:
            chosen.append(column)
    return chosen, left_out


MATRIX, LEFT_OUT = listed()
TRACED = [column for column in MATRIX if column.mode.name == "N2" and column.variant != "inductor"]


@cache
def subject(column: Column) -> Subject:
    """One a process: what a compiled variant has compiled once it need not compile for the next dtype."""
    return column.start()


def parameter(column: Column, *values: Any) -> Any:
    marks = [pytest.mark.inductor] if column.variant == "inductor" else []
    return pytest.param(column, *values, id="-".join([column.name, *map(str, values)]), marks=marks)
