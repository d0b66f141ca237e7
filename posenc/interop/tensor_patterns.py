"""Patterns of tensor names: `layers.{layer}.weight` stands for as many tensors as a checkpoint has of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping

from posenc.spec import checks

_FIELD = re.compile(r"\{(?P<word>[a-z][a-z0-9_]*)(?P<suffix>:suffix)?\}")
_AMBIGUOUS = re.compile(r"\}[0-9]*\{[a-z0-9_]*\}|:suffix\}[0-9]*\{")
_NUMBER = "0|[1-9][0-9]*"
EXPECTED = "text such as 'layers.{layer}.weight', with numbers as {word}, or as {word:suffix} for '', '_1', '_2', ..."


def fields(where: str, pattern: object) -> frozenset[str]:
    """The words of a pattern; SpecError where it is none."""
    if not isinstance(pattern, str) or not pattern or re.search(r"[{}*]", _FIELD.sub("", pattern)):
        raise checks.SpecError(f"{where}: expected {EXPECTED}, received {checks.shown(pattern)}")
    words = [match["word"] for match in _FIELD.finditer(pattern)]
    if len(set(words)) < len(words):
        raise checks.SpecError(f"{where}: expected every word once, received {checks.shown(pattern)}")
    if _AMBIGUOUS.search(pattern):
        raise checks.SpecError(
            f"{where}: expected words with other text than digits between them, as '12' is 1 and 2, or 12, received "
            f"{checks.shown(pattern)}"
        )
    return frozenset(words)


def matched(pattern: str, name: str) -> dict[str, int] | None:
    """The number that each word of the pattern has in `name`; None where the name is another."""
    found = _compiled(pattern).fullmatch(name)
    return None if found is None else _numbers(found)


def matching(pattern: str, names: Collection[str]) -> dict[str, dict[str, int]]:
    """Those of `names` that the pattern stands for, in their order, each with the numbers of its words."""
    if "{" not in pattern:  # plans of thousands of moves name one tensor in each
        return {pattern: {}} if pattern in names else {}
    fitting = _compiled(pattern).fullmatch
    found = ((name, fitting(name)) for name in names)
    return {name: _numbers(match) for name, match in found if match is not None}


def written(pattern: str, numbers: Mapping[str, int]) -> str:
    """The name for these numbers: `layers.{layer}` with 3 is `layers.3`, `block{layer:suffix}` with 0 is `block`."""

    def text(field: re.Match[str]) -> str:
        number = numbers[field["word"]]
        if not field["suffix"]:
            return str(number)
        return f"_{number}" if number else ""

    return _FIELD.sub(text, pattern)


def _numbers(found: re.Match[str]) -> dict[str, int]:
    return {word: int(text or 0) for word, text in found.groupdict().items()}


@functools.lru_cache(maxsize=2**12)
def _compiled(pattern: str) -> re.Pattern[str]:
    text, end = "", 0
    for field in _FIELD.finditer(pattern):
        text += re.escape(pattern[end : field.start()])
        # 0 has no suffix, and no number a leading 0, so that a name and its numbers are one to one
        text += f"(?:_(?P<{field['word']}>[1-9][0-9]*))?" if field["suffix"] else f"(?P<{field['word']}>{_NUMBER})"
        end = field.end()
    return re.compile(text + re.escape(pattern[end:]))
