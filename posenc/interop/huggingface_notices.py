"""What is refused of a configuration, and what is told of one that is honoured."""

from __future__ import annotations

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


def refuse(where: str, expected: str, received: object) -> NoReturn:
    raise SpecError(f"{where}: expected {expected}, received {checks.shown(received)}")


def tell(kind: type[ConfigWarning], sentence: str) -> None:
    warnings.warn(sentence, kind, stacklevel=2)
