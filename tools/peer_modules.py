"""Classes and functions of published packages by name, and the weights that they hold."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np


def model(family: str, name: str) -> Any:
    """A class or function of a family of transformers, `folder/family` where its folder has another name."""
    folder, _, file = family.partition("/")
    return getattr(importlib.import_module(f"transformers.models.{folder}.modeling_{file or folder}"), name)


def config(family: str, name: str, **options: Any) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{family}.configuration_{family}"), name)(**options)


def small(owner: Any, settings: str = "", **options: Any) -> Any:
    """The configuration that a class is annotated with, or named, with those of the options that it has."""
    annotated = inspect.signature(owner.__init__).parameters["config"].annotation
    if settings:
        annotated = getattr(sys.modules[owner.__module__], settings)
    made = annotated()
    for name, value in options.items():
        old = getattr(made, name, None)
        if hasattr(made, name):
            setattr(made, name, [value] * 2 if isinstance(old, list | tuple) and len(old) == 2 else value)
    return made


def table(embedding: Any) -> np.ndarray:
    """The weights of a `torch.nn.Embedding`."""
    return embedding.weight.detach().numpy()


class _Nothing(type):
    """An empty class, in which every name is an empty class."""

    def __getattr__(cls, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Absent(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> _Nothing:
        return _Nothing.__getattr__(_Nothing, name)


class _Absence:
    """Finds torchvision, and nothing in it."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def without_torchvision(name: str) -> Any:
    """A module that imports torchvision and uses nothing of it here: PyPI's wheel needs a CUDA build of PyTorch."""
    absence = _Absence()
    sys.meta_path.insert(0, absence)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(absence)
        for found in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[found]  # others ask whether it is there
