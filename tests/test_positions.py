"""Position ids, exactly; and the code of docs/positions.md, which has the same values in three frameworks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from posenc import Rope
from posenc.numpy_impl import rotate, table
from posenc.positions import cached, contiguous, packed, padded, zigzag

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs" / "positions.md").read_text(), re.S)


def test_padded_rows_count_their_own_tokens() -> None:
    assert padded([3, 5, 0], side="left") == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]]
    assert padded([3, 5, 0], side="right") == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]]
    assert padded([2], length=4, side="left") == [[0, 0, 0, 1]]
    assert padded([], side="right") == []
    assert padded([1, 3], side="left", padding=-1) == [[-1, -1, 0], [0, 1, 2]]
    assert padded([1, 3], side="right", padding=-1) == [[0, -1, -1], [0, 1, 2]]
    rows = padded([4, 4], side="left")
    rows[0][0] = 9
    assert rows[1][0] == 0  # rows share nothing


def test_packed_documents_begin_at_zero() -> None:
    assert packed([3, 1, 1, 4]) == [0, 1, 2, 0, 0, 0, 1, 2, 3]
    assert packed([]) == []
    lengths = np.random.default_rng(1).integers(1, 9, 200).tolist()
    starts = [index for index, position in enumerate(packed(lengths)) if position == 0]
    assert np.diff([*starts, sum(lengths)]).tolist() == lengths


def test_cached_tokens_stand_behind_those_before_them() -> None:
    assert cached(5, 1) == range(5, 6)
    assert cached(0, 3) == range(3)
    assert cached([3, 0, 5], 2) == [[3, 4], [0, 1], [5, 6]]
    assert cached([7], 1) == [[7]]  # a batch of one row is a batch
    assert cached(2**31 - 2, 2)[-1] == 2**31 - 1
    # prompt, chunk and steps together are the whole sequence
    assert [*range(4), *cached(4, 3), *cached(7, 1), *cached(8, 1)] == list(range(9))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_continues_row_by_row(side: str) -> None:
    lengths = [2, 7, 4]
    prompt = padded(lengths, side=side)
    for step in range(3):
        new = cached([count + step for count in lengths], 1)
        for row, position, count in zip(prompt, new, lengths, strict=True):
            tokens = row[len(row) - count :] if side == "left" else row[:count]
            assert [*tokens, *range(count, count + step), *position] == list(range(count + step + 1))


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_together_hold_every_position_once(ranks: int) -> None:
    length = 6 * ranks
    pieces = [contiguous(length, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [position for piece in pieces for position in piece] == list(range(length))
    turns = [zigzag(length, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(position for piece in turns for position in piece) == list(range(length))
    # causal work, one unit for each earlier token, is the same on all ranks
    assert len({sum(piece) for piece in turns}) == len({len(piece) for piece in turns}) == 1
    for rank, piece in enumerate(turns):
        low, high = piece[:3], piece[3:]
        assert low == list(range(3 * rank, 3 * rank + 3))
        assert high == list(range(length - 3 * rank - 3, length - 3 * rank))


def test_ranks_by_example() -> None:
    assert zigzag(16, rank=0, ranks=2) == [0, 1, 2, 3, 12, 13, 14, 15]
    assert zigzag(16, rank=1, ranks=2) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert contiguous(16, rank=1, ranks=2) == range(8, 16)
    assert zigzag(0, rank=0, ranks=1) == []
    # two documents of four tokens, each cut: global indices 0, 3, 4, 7
    assert [4 * i + p for i in range(2) for p in zigzag(4, rank=0, ranks=2)] == [0, 3, 4, 7]


def test_tables_and_queries_of_the_ranks_are_those_of_the_whole() -> None:
    rope = Rope(16, 10_000.0, "half")
    q = np.random.default_rng(2).normal(size=(2, 3, 24, 16)).astype(np.float32)
    whole = table(rope, range(24))
    expected = rotate(rope, q, whole, head_axis=1)
    for cut in (contiguous, zigzag):
        together = np.full_like(q, np.nan)
        for rank in range(4):
            own = cut(24, rank=rank, ranks=4)
            t = table(rope, own)
            np.testing.assert_array_equal(t.cos, whole.cos[list(own)])
            np.testing.assert_array_equal(t.sin, whole.sin[list(own)])
            together[:, :, own] = rotate(rope, q[:, :, own], t, head_axis=1)
        np.testing.assert_array_equal(together, expected)


def test_padded_rows_have_the_bits_of_the_rows_alone() -> None:
    rope = Rope(16, 10_000.0, "interleaved")
    q = np.random.default_rng(3).normal(size=(2, 4, 5, 16)).astype(np.float32)
    both = rotate(rope, q, table(rope, padded([3, 5], side="left")), head_axis=1)
    alone = rotate(rope, q[:1, :, 2:], table(rope, range(3)), head_axis=1)
    np.testing.assert_array_equal(both[:1, :, 2:], alone)
    step = rotate(rope, q[:, :, :1], table(rope, cached([3, 5], 1)), head_axis=1)
    for row, p in enumerate((3, 5)):
        np.testing.assert_array_equal(step[row], rotate(rope, q[row, :, :1], table(rope, p), head_axis=0))


def test_integers_of_any_library() -> None:
    for values in (np.array([3, 5], np.uint8), torch.tensor([3, 5]), jnp.array([3, 5]), (3, 5), iter([3, 5])):
        assert cached(values, 1) == [[3], [5]]
    for scalar in (np.int32(3), np.array(3), torch.tensor(3), jnp.array(3)):
        assert cached(scalar, scalar) == range(3, 6)
        assert zigzag(np.int64(12), rank=scalar, ranks=np.array(6)) == [3, 8]
    # one row in an array is a row, although PyTorch takes it for an integer
    assert cached(torch.tensor([3]), 1) == cached(np.array([3]), 1) == [[3]]
    assert {type(p) for row in cached(np.array([3]), 2) for p in row} == {int}


REFUSED = {
    "padded.side: expected 'left' or 'right', received 'Left'": lambda: padded([1], side="Left"),
    "padded.length: expected an integer >= 5, the longest row, received 4": lambda: padded(
        [3, 5], length=4, side="left"
    ),
    "padded.lengths: expected a list of integers >= 0, received 5": lambda: padded(5, side="left"),
    "padded.lengths[1]: expected an integer >= 0 of magnitude below 2147483648, received -1": lambda: padded(
        [0, -1], side="left"
    ),
    "padded.lengths[0]: expected an integer >= 0 of magnitude below 2147483648, received True": lambda: padded(
        [True], side="left"
    ),
    "padded.lengths[0]: expected an integer >= 0 of magnitude below 2147483648, received [0, 1]": lambda: padded(
        [[0, 1]], side="left"
    ),
    # cumulative lengths
    "packed.lengths[0]: expected an integer >= 1 of magnitude below 2147483648, received 0": lambda: packed([0, 3, 4]),
    "packed.lengths: expected a list of integers >= 1, received '12'": lambda: packed("12"),
    "packed.lengths: expected a list of integers >= 1, received {3}": lambda: packed({3}),
    "cached.new: expected an integer >= 1 of magnitude below 2147483648, received 0": lambda: cached(5, 0),
    "cached.new: expected an integer >= 1 of magnitude below 2147483648, received [1, 2]": lambda: cached(5, [1, 2]),
    "cached.past: expected an integer >= 0 of magnitude below 2147483648, received -1": lambda: cached(-1, 1),
    "cached.past: expected an integer >= 0 of magnitude below 2147483648, received 5.0": lambda: cached(5.0, 1),
    "cached.past[0]: expected an integer >= 0 of magnitude below 2147483648, received 0.5": lambda: cached([0.5], 1),
    "cached.positions: expected finite numbers of magnitude below 2^31, received 2147483648": lambda: cached(
        [4, 2**31 - 1], 2
    ),
    "contiguous.length: expected a multiple of ranks = 3, received 16": lambda: contiguous(16, rank=0, ranks=3),
    "zigzag.length: expected a multiple of 2 * ranks = 4, received 18": lambda: zigzag(18, rank=0, ranks=2),
    "zigzag.rank: expected an integer from 0 to 1, received 2": lambda: zigzag(16, rank=2, ranks=2),
    "contiguous.rank: expected an integer >= 0 of magnitude below 2147483648, received -1": lambda: contiguous(
        16, rank=-1, ranks=2
    ),
    "zigzag.ranks: expected an integer >= 1 of magnitude below 2147483648, received 0": lambda: zigzag(
        16, rank=0, ranks=0
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_refusals(sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        REFUSED[sentence]()


@pytest.mark.parametrize("call", [lambda: padded([1]), lambda: zigzag(8, 0, 2), lambda: contiguous(8, rank=0)])
def test_there_is_no_default_side_rank_or_count(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


# --- docs/positions.md


def run(block: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "positions"}
    exec(compile(block, "positions.md", "exec"), namespace)  # noqa: S102  # the page's own code
    return namespace


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_page_runs(block: str) -> None:
    run(block)


def test_a_wrong_page_is_seen() -> None:
    with pytest.raises(AssertionError):
        run(BLOCKS[1].replace("packed([2, 2])", "packed([4])"))


def test_the_table_of_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "positions.md").read_text()
    rows = re.findall(r"^\| .*? \| `(.*?)` \| (.*?) \|$", page, re.M)
    assert len(rows) == 8
    for call, shown in rows:
        result = eval(call)  # noqa: S307  # the page's own code
        several = [row if isinstance(row, list) else [row] for row in result] if "and" in shown else [result]
        written = [text.strip("`").split() for text in shown.split(" and ")]
        if "..." in shown:
            written = [[str(n) for n in range(int(written[0][0]), int(written[0][-1]) + 1)]]
        assert written == [[str(n) for n in row] for row in several]


def in_torch(function: Callable[..., Any], *arguments: Any) -> Any:
    tensors = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    return torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors).numpy()


def in_jax(function: Callable[..., Any], *arguments: Any) -> Any:
    static = [i for i, a in enumerate(arguments) if isinstance(a, int)]
    return np.asarray(jax.jit(function, static_argnums=static)(*arguments))


def in_tf(function: Callable[..., Any], *arguments: Any) -> Any:
    import tensorflow as tf

    tensors = [tf.constant(a) if isinstance(a, np.ndarray) else a for a in arguments]
    graph, compiled = (tf.function(function, jit_compile=jit)(*tensors).numpy() for jit in (False, True))
    np.testing.assert_array_equal(graph, compiled)
    return graph


FRAMEWORKS = {"torch": in_torch, "jax": in_jax, "tensorflow": in_tf}


def check_traced(framework: str, block: str) -> None:
    """The functions of a block, compiled, have the values of `posenc.positions`."""
    functions, call = run(block), FRAMEWORKS[framework]

    def same(name: str, expected: Any, *arguments: Any) -> None:
        got = call(functions[name], *arguments)
        assert got.dtype in (np.int32, np.int64)
        np.testing.assert_array_equal(got, np.array(expected))

    for side, mask in (("left", [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]), ("right", [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])):
        same("from_mask", padded([3, 5], side=side), np.array(mask, np.int32))
    ids = np.repeat(np.array([[4, 1, 9, 0], [1, 2, 1, 7]], np.int32), [3, 1, 1, 4], axis=1)
    same("from_documents", [packed([3, 1, 1, 4])] * 2, ids)
    same("from_documents", packed([3, 1, 1, 4]), ids[0])
    same("from_cache", cached([3, 5, 0], 2), np.array([3, 5, 0], np.int32), 2)
    for rank in range(3):
        same("zigzag", zigzag(24, rank=rank, ranks=3), 24, rank, 3)
        same("zigzag", zigzag(24, rank=rank, ranks=3), 24, np.array(rank, np.int32), 3)  # a rank that is traced


def block_of(framework: str) -> str:
    (block,) = (block for block in BLOCKS if block.startswith(f"import {framework}"))
    return block


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_compiled_functions_have_the_same_values(framework: str) -> None:
    check_traced(framework, block_of(framework))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(mask.cumsum(-1) - 1) * mask", "(mask.cumsum(-1) - 1).clamp(min=0)"),
        ("(mask.cumsum(-1) - 1) * mask", "torch.arange(mask.shape[-1]) * mask"),
        (".cummax(-1).values", ".amax(-1, keepdim=True)"),
        ("past[:, None] +", "1 + past[:, None] +"),
        ("2 * ranks - 1 - rank", "2 * ranks - rank"),
    ],
)
def test_a_wrong_function_is_seen(right: str, wrong: str) -> None:
    block = block_of("torch")
    assert right in block
    with pytest.raises(AssertionError):
        check_traced("torch", block.replace(right, wrong))
