"""What is refused of a configuration, and what is told of one that is honoured."""

from __future__ import annotations

import inspect
import warnings
from typing import NoReturn

from posenc.spec import SpecError, checks


class ConfigWarning(UserWarning):
    """What a configuration says and a reader should know of."""


class MeaningChanged(ConfigWarning):
    """Other versions of transformers, or other libraries, read this key in another way."""


class DefaultAssumed(ConfigWarning):
    """The configuration does not say it; the default of transformers was taken."""


class LeftToTheModel(ConfigWarning):
    """It belongs to the model, and is no part of the rotation."""


REMEDY = " (the configuration object of transformers has the default: hand that over)"


def refuse(where: str, expected: str, received: object) -> NoReturn:
    raise SpecError(f"{where}: expected {expected}, received {checks.shown(received)}")


def tell(kind: type[ConfigWarning], sentence: str) -> None:
    """A warning that shows the line of the caller: of the first frame outside of posenc."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "posenc":
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, kind, stacklevel=level)
