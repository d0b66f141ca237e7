"""The one list of columns and variants. The tests, the command and the report read it; nothing else names them."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from posenc.conformance.bounds import N1, N2, N2_ACCELERATOR, Mode
from posenc.conformance.protocol import DTYPES, NotRun, Subject

_INTEGERS_AND_FLOATS = ("integer", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Column:
    """One implementation in one way of running it."""

    framework: str
    variant: str
    mode: Mode
    driver: str
    """Module and function that start it."""
    tier: int = 3
    """Groups up to this tier are asked for: each costs a compilation where the variant compiles."""
    dtypes: tuple[str, ...] = DTYPES
    position_dtypes: tuple[str, ...] = _INTEGERS_AND_FLOATS
    aside: tuple[str, ...] = DTYPES
    """Those of `dtypes` that everything but encodings and tables at integer positions is asked for in."""

    @property
    def name(self) -> str:
        return f"{self.framework}:{self.variant}" if self.variant else self.framework

    def start(self) -> Subject:
        """Import the framework and make the subject; NotRun says why that cannot be."""
        _quiet()
        module, function = self.driver.split(":")
        try:
            with _hushed():
                starter: Callable[[], Subject] = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            if error.name not in _PACKAGES.get(self.framework, (error.name,)):  # a defect, or a broken installation
                raise
            raise NotRun(f"not installed: pip install 'posenc[{self.framework}]'") from None
        return starter()


_PACKAGES = {"numpy": ("numpy", "ml_dtypes"), "torch": ("torch",), "jax": ("jax",), "tf": ("tensorflow",)}
_DRIVERS = "posenc.conformance.drivers"
_NARROW = DTYPES[1:]  # JAX has no float64 inside jit unless x64 is on
_TORCH, _JAX, _TF = (f"{_DRIVERS}.{name}_driver" for name in ("torch", "jax", "tf"))

COLUMNS = (
    Column("numpy", "", N1, f"{_DRIVERS}.numpy_driver:Host"),
    Column("torch", "", N1, f"{_TORCH}:host"),  # torch starts before tensorflow: the other order has crashed
    Column("torch", "compile", N2, f"{_TORCH}:aot_eager", tier=2),
    Column("torch", "inductor", N2, f"{_TORCH}:inductor", tier=1, aside=("float32", "bfloat16")),
    Column("torch", "cuda", N2_ACCELERATOR, f"{_TORCH}:cuda"),
    Column("jax", "", N1, f"{_JAX}:host"),
    Column("jax", "jit", N2, f"{_JAX}:jit", tier=2, dtypes=_NARROW, position_dtypes=("integer", "float32")),
    Column("jax", "gpu", N2_ACCELERATOR, f"{_JAX}:gpu", dtypes=_NARROW, position_dtypes=("integer", "float32")),
    Column("tf", "", N1, f"{_TF}:host"),
    Column("tf", "function", N2, f"{_TF}:function", tier=2),
    Column("tf", "xla", N2, f"{_TF}:xla", tier=2),
)


def column(name: str) -> Column:
    """The column of this name, such as `torch:inductor`; ValueError names those that exist."""
    for candidate in COLUMNS:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in COLUMNS)
    raise ValueError(f"expected a column from {names}, received {name!r}")


def _quiet() -> None:
    """Keep Keras from writing into the home folder, and TensorFlow from talking; both read this when imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "KERAS_HOME" not in os.environ:
        home = os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="posenc-keras-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on standard error: TensorFlow's libraries talk while they load, whatever the log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
