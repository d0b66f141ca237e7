"""Position ids for the ways in which batches are laid out, as ranges and lists that every column takes.

    padded     rows of several lengths in one rectangle: `(B, length)`
    packed     several documents in one row: `(sum of lengths,)`
    cached     decoding behind tokens that were seen before: `(new,)` or `(B, new)`
    contiguous, zigzag    what one rank of a context-parallel group holds: `(length / ranks,)`

Positions are in tokens, from 0. An integer is a Python one, or a scalar of any library that Python takes for an index;
several are a list, a tuple, or a one-axis array that can be read: all of this is host code, and `docs/positions.md` has
the same results inside a compiled function. Refusals are ValueErrors of one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, SupportsIndex, overload

from posenc.spec import checks

__all__ = ["cached", "contiguous", "packed", "padded", "zigzag"]


def padded(
    lengths: Iterable[SupportsIndex],
    *,
    length: SupportsIndex | None = None,
    side: Literal["left", "right"],
    padding: SupportsIndex = 0,
) -> list[list[int]]:
    """Positions of rows that are filled up to one length: `(B, length)`; each row counts its own tokens from 0.

    Of row b, the first (`right`) or the last (`left`) `lengths[b]` entries are 0, 1, 2, ...; the others are padding,
    which the attention mask has to exclude.

    lengths : >= 0, the tokens of each row, padding not counted.
    length : of the rectangle, at least the longest row; None: that.
    side : where the padding is. No default: libraries, and their training and generation modes, differ.
    padding : position of padding tokens; -1 is what the tables of fairseq, RoBERTa and OPT have a row for.

    It is what transformers derives from an attention mask with `cumsum(-1) - 1`, but for the position of padding.
    """
    checks.choice("padded.side", side, ("left", "right"))
    counts = _counts("padded.lengths", lengths, minimum=0)
    longest = max(counts, default=0)
    width = longest if length is None else _count("padded.length", length, minimum=0)
    if width < longest:
        raise ValueError(f"padded.length: expected an integer >= {longest}, the longest row, received {width}")
    filled = checks.integer("padded.padding", padding, limit=checks.POSITION_LIMIT)
    if side == "left":
        return [[filled] * (width - count) + list(range(count)) for count in counts]
    return [list(range(count)) + [filled] * (width - count) for count in counts]


def packed(lengths: Iterable[SupportsIndex]) -> list[int]:
    """Positions of documents that stand one behind another in a row, `(sum of lengths,)`: each document begins at 0.

    lengths : >= 1, the tokens of each document. Not cumulative ones (`cu_seqlens`): those begin with 0 and are refused.

    Positions alone do not keep documents apart: the attention mask has to. Krell et al. 2021 (arXiv 2107.02027),
    section 3.2.
    """
    return [position for count in _counts("packed.lengths", lengths, minimum=1) for position in range(count)]


@overload
def cached(past: SupportsIndex, new: SupportsIndex) -> range: ...
@overload
def cached(past: Iterable[SupportsIndex], new: SupportsIndex) -> list[list[int]]: ...
def cached(past: SupportsIndex | Iterable[SupportsIndex], new: SupportsIndex) -> range | list[list[int]]:
    """Positions of `new` tokens behind `past` others: `(new,)` of one integer, `(B, new)` of one for each row.

    The first new token has position `past`, at decoding as at a chunk of a prompt or a draft.

    past : >= 0, the tokens of the sequence so far, whether or not a cache still holds them: without padding, and
        without the new ones. Of a padded batch it is the `lengths` that `padded` was given, for both sides.
    new : >= 1.
    """
    count = _count("cached.new", new, minimum=1)
    rows = _several(past)
    if rows is None:
        return _behind(_count("cached.past", past, minimum=0), count)
    return [list(_behind(seen, count)) for seen in _counts("cached.past", rows, minimum=0)]


def contiguous(length: SupportsIndex, *, rank: SupportsIndex, ranks: SupportsIndex) -> range:
    """Positions of the tokens that `rank` holds where a sequence is cut in `ranks` pieces: `(length / ranks,)`.

    length : of the whole sequence, a multiple of `ranks`. rank : from 0 to `ranks` - 1.
    """
    whole, own, count = _shard("contiguous", length, rank, ranks, pieces=1)
    size = whole // count
    return range(own * size, (own + 1) * size)


def zigzag(length: SupportsIndex, *, rank: SupportsIndex, ranks: SupportsIndex) -> list[int]:
    """Positions of the tokens that `rank` holds where causal attention is balanced: `(length / ranks,)`.

    The sequence is cut in 2 * `ranks` pieces, and rank r holds the pieces r and 2 * `ranks` - 1 - r, in this order.
    Positions are the indices of the tokens in the whole sequence as well.

    length : of the whole sequence, a multiple of 2 * `ranks`. rank : from 0 to `ranks` - 1.

    Megatron-LM, `get_batch_on_this_cp_rank`; Llama 3 (arXiv 2407.21783), section 3.3.2.
    """
    whole, own, count = _shard("zigzag", length, rank, ranks, pieces=2)
    size = whole // (2 * count)
    mirrored = 2 * count - 1 - own
    return [*range(own * size, (own + 1) * size), *range(mirrored * size, (mirrored + 1) * size)]


def _count(where: str, value: object, *, minimum: int) -> int:
    return checks.integer(where, value, minimum=minimum, limit=checks.POSITION_LIMIT)


def _several(values: object) -> list[object] | None:
    """What an axis holds, or None where there is none; arrays without one have `__iter__` too, and it fails."""
    if isinstance(values, str | bytes | dict | set | frozenset):
        return None
    try:
        return list(values)  # type: ignore[call-overload, no-any-return]  # the TypeError is the question
    except TypeError:
        return None


def _counts(where: str, values: object, *, minimum: int) -> list[int]:
    several = _several(values)
    if several is None:
        raise ValueError(f"{where}: expected a list of integers >= {minimum}, received {checks.shown(values)}")
    return [_count(f"{where}[{index}]", value, minimum=minimum) for index, value in enumerate(several)]


def _behind(past: int, new: int) -> range:
    if past + new > checks.POSITION_LIMIT:
        raise checks.position_value_error("cached", past + new - 1)
    return range(past, past + new)


def _shard(where: str, length: object, rank: object, ranks: object, *, pieces: int) -> tuple[int, int, int]:
    count = _count(f"{where}.ranks", ranks, minimum=1)
    own = _count(f"{where}.rank", rank, minimum=0)
    if own >= count:
        raise ValueError(f"{where}.rank: expected an integer from 0 to {count - 1}, received {own}")
    whole = _count(f"{where}.length", length, minimum=0)
    if whole % (pieces * count):
        factor = "ranks" if pieces == 1 else f"{pieces} * ranks"
        raise ValueError(f"{where}.length: expected a multiple of {factor} = {pieces * count}, received {whole}")
    return whole, own, count
