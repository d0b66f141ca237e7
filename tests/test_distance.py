"""What holds of rows and biases in every host column: the same integers, the same bits, the same sentences."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from posenc import (
    Alibi,
    DebertaBuckets,
    Learned,
    MusicTransformerIndex,
    ShawClip,
    Sinusoidal,
    SpecError,
    SwinIndex,
    T5Bias,
    TransformerXLIndex,
)
from posenc.positions import cached, contiguous, packed, padded, zigzag
from posenc.spec import exact
from tests.buckets import t5_buckets, t5_parameters
from tests.columns import OTHERS, REFERENCE, Host, every_host, numpy_dtype

T5 = T5Bias(3, bidirectional=True)
ALIBI = Alibi.causal(12)
INDICES = {
    "t5": T5,
    "t5 causal": T5Bias(3, buckets=36, max_distance=512, bidirectional=False),
    "t5 far": T5Bias(3, buckets=64, max_distance=2**30, bidirectional=True),
    "shaw": ShawClip(4),
    "shaw asymmetric": ShawClip(64, 8),
    "shaw of one row": ShawClip(0),
    "deberta": DebertaBuckets(16, 100, clamped=True),
    "deberta deployed": DebertaBuckets(16, 100, clamped=False),
    "transformer-xl": TransformerXLIndex.causal(20),
    "transformer-xl far": TransformerXLIndex(2**30, shortest=1 - 2**30),
    "music": MusicTransformerIndex(20, bidirectional=False),
    "music bidirectional": MusicTransformerIndex(20, bidirectional=True),
}
every_index = pytest.mark.parametrize("spec", INDICES.values(), ids=INDICES.keys())
FORMS = [Alibi.causal(12), Alibi.symmetric(8), Alibi.anchored(6, max_bias=4.5)]
every_form = pytest.mark.parametrize("spec", FORMS, ids=lambda spec: spec.form)
HALF = ("float32", "bfloat16", "float16")
FAR = [0, 1, 2, 15, 16, 17, 255, 257, 2049, 65537, 2**24 + 1, -1, -4097, 2**31 - 1, 1 - 2**31, 2**30 + 3]


def numbers(spec: Any, query: Any, key: Any) -> np.ndarray:
    """The definition, pair by pair, of positions `(Q,)` and `(K,)`, or `(Q, axes)` and `(K, axes)`."""
    plan = spec.plan()
    points = [[p if isinstance(p, tuple) else (p,) for p in positions] for positions in (query, key)]
    return np.array([[plan.number(q, k) for k in points[1]] for q in points[0]])


def kinds(host: Host, positions: list[int]) -> dict[str, Any]:
    """The same positions as everything that a caller may have."""
    made = {
        "list": positions,
        "tuple": tuple(positions),
        "numpy int64": np.array(positions, np.int64),
        "numpy big-endian": np.array(positions, ">i8"),
        "int32": host.array(positions, "int32"),
    }
    if host.name != "jax":
        made["int64"] = host.array(positions, "int64")
    return made


# --- Rows ---


@every_host
@every_index
def test_rows_by_the_definition(host, spec):
    expected = numbers(spec, FAR, FAR)
    for query in kinds(host, FAR).values():
        got = host.numpy(host.module.rows(spec, query, FAR))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected)


@every_host
@every_index
@pytest.mark.parametrize(
    ("query", "key"),
    [
        (range(40), range(40)),
        (range(5, 6), range(70)),
        (range(3, 30, 3), range(-9, 50, 3)),
        (range(30, 0, -1), range(30)),
        (range(2**31 - 9, 2**31), range(1 - 2**31, 20 - 2**31)),
        (range(0), range(4)),
        (range(4), range(0)),
        (range(7, 8), range(7, 8)),
        (range(0, 100, 50), range(99, 0, -49)),
    ],
    ids=str,
)
def test_rows_of_ranges(host, spec, query, key):
    expected = numbers(spec, query, key).reshape(len(query), len(key))
    np.testing.assert_array_equal(host.numpy(host.module.rows(spec, query, key)), expected)
    np.testing.assert_array_equal(host.numpy(host.module.rows(spec, list(query), list(key))), expected)


@every_host
def test_rows_of_several_batch_rows_are_those_of_each(host):
    lengths = [5, 9, 1]
    tokens = padded(lengths, side="left")
    steps = cached(lengths, 2)
    for query, key in ((tokens, tokens), (steps, tokens), (steps, range(11)), (range(3), tokens)):
        whole = host.numpy(host.module.rows(T5, query, key))
        for index in range(3):
            own = [p if isinstance(p, range) else p[index] for p in (query, key)]
            np.testing.assert_array_equal(whole[index], numbers(T5, *own))


@every_host
def test_rows_of_sizes_of_one(host):
    one, many = host.array([[7, 8]], "int32"), host.array([[0, 1, 2]] * 4, "int32")
    expected = np.broadcast_to(numbers(T5, [7, 8], [0, 1, 2]), (4, 2, 3))
    np.testing.assert_array_equal(host.numpy(host.module.rows(T5, one, many)), expected)
    np.testing.assert_array_equal(
        host.numpy(host.module.rows(T5, many, one)), numbers(T5, [0, 1, 2], [7, 8])[None].repeat(4, 0)
    )


@every_host
@every_index
def test_cached_decoding_and_shards_are_parts_of_the_whole(host, spec):
    whole = host.numpy(host.module.rows(spec, range(64), range(64)))
    for past in (0, 1, 31, 63):
        np.testing.assert_array_equal(host.numpy(host.module.rows(spec, cached(past, 1), range(64))), whole[past:][:1])
    for rank in range(4):
        for shard in (contiguous(64, rank=rank, ranks=4), zigzag(64, rank=rank, ranks=4)):
            np.testing.assert_array_equal(host.numpy(host.module.rows(spec, shard, range(64))), whole[list(shard)])
    documents = packed([20, 44])
    np.testing.assert_array_equal(
        host.numpy(host.module.rows(spec, documents, documents)), whole[np.ix_(documents, documents)]
    )


@every_host
@pytest.mark.parametrize("window", [(7, 7), (3, 5), (2, 3, 4), (6,)], ids=str)
def test_rows_of_windows(host, window):
    spec = SwinIndex(3, window)
    tokens = spec.positions()
    expected = numbers(spec, tokens, tokens)
    np.testing.assert_array_equal(host.numpy(host.module.rows(spec, tokens, tokens)), expected)
    arrays = host.array(tokens, "int32")
    np.testing.assert_array_equal(host.numpy(host.module.rows(spec, arrays, tokens[:1])), expected[:, :1])
    batch = host.array([tokens, tokens[::-1]], "int32")
    got = host.numpy(host.module.rows(spec, batch, tokens))
    np.testing.assert_array_equal(got, [expected, expected[::-1]])
    assert len(np.unique(expected)) == spec.row_count


PARAMETERS = t5_parameters(2000)


@every_host
@pytest.mark.parametrize("part", range(4))
def test_buckets_of_two_thousand_specifications(host, part):
    wrong = []
    for spec in PARAMETERS[part::4]:
        got = host.numpy(host.module.rows(spec, range(1), range(-10_000, 10_001)))
        wrong += [spec] * int((got != t5_buckets(spec, 10_000)).any())
    assert wrong == []


# --- Slopes ---


@every_host
@pytest.mark.parametrize("dtype", HALF)
def test_slopes_of_every_number_of_heads(host, dtype):
    for heads in range(1, 257):
        spec = Alibi.causal(heads)
        got = host.numpy(host.module.bias(spec, [1], [0, 2], dtype=dtype)).astype(np.float64)
        np.testing.assert_array_equal(got[:, 0], [[-slope, slope] for slope in spec.slopes(dtype)])


def close_calls(spec: Alibi, dtype: str) -> list[int]:
    """Multiples whose product with some slope lies next to a midpoint of two numbers of `dtype`: found by search."""
    precision = exact.FORMATS[dtype].precision
    multiples = np.arange(1, 2**17, dtype=np.int64)
    found: list[int] = []
    for high, low, _ in spec.plan().slopes:
        mantissa, _ = np.frexp(multiples * (high + low))
        scaled = mantissa * 2.0 ** (precision + 1)
        gap = np.abs(scaled - np.rint(scaled / 2 - 0.5) * 2 - 1)
        found += [int(n) for n in multiples[np.argsort(gap, kind="stable")[:3]]]
    return sorted(set(found))


@every_host
@every_form
@pytest.mark.parametrize("dtype", HALF)
def test_biases_are_correctly_rounded(host, spec, dtype):
    near = close_calls(spec, dtype)
    multiples = [*near, *(-n for n in near), *FAR, *range(-300, 300)]
    got = host.numpy(host.module.bias(spec, [0], multiples, dtype=dtype))
    assert got.dtype == numpy_dtype(dtype)
    products = [spec.plan().number((0,), (n,)) for n in multiples]
    expected = [[[spec.value(n, head, dtype) for n in products]] for head in range(spec.heads)]
    np.testing.assert_array_equal(got.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@every_host
@every_form
def test_biases_in_float64_are_within_a_unit(host, spec):
    multiples = [*FAR, *range(-300, 300)]
    got = host.numpy(host.module.bias(spec, [0], multiples, dtype="float64"))
    products = [spec.plan().number((0,), (n,)) for n in multiples]
    expected = np.array([[[spec.value(n, head, "float64") for n in products]] for head in range(spec.heads)])
    assert (np.abs(got - expected) <= np.spacing(np.abs(expected))).all()


def hardest(spec: Alibi, head: int, count: int = 8) -> list[int]:
    """Multiples from 2^31 to 2^32 whose product comes closest to a midpoint of float32: within 2^-53 of it or so.

    With products in units of float32, modulo 1 and in 64 bits, each n = a + 65536 * b is a sum of two residues, and for
    every b the best a is found among the sorted ones.
    """
    high, low, _ = spec.plan().slopes[head]
    slope = Fraction(high) + Fraction(low)
    found = []
    for exponent in range(-40, 40):
        least, end = (Fraction(2) ** (exponent + side) / slope for side in (0, 1))
        if end <= 2**31 or least >= 2**32:
            continue
        step = int(slope / Fraction(2) ** (exponent - 23) * 2**64) % 2**64
        residues = np.arange(2**16, dtype=np.uint64) * np.uint64(step)
        order = np.argsort(residues)
        blocks = np.arange(2**15, 2**16, dtype=np.uint64) << np.uint64(16)
        wanted = np.uint64(2**63) - blocks * np.uint64(step)
        place = np.searchsorted(residues[order], wanted) % 2**16
        gaps = np.abs((residues[order[place]] - wanted).astype(np.int64))
        for block in np.argsort(gaps)[:count]:
            n = int(blocks[block]) + int(order[place[block]])
            found += [n] * (least < n < end)
    return found


@every_host
@pytest.mark.parametrize("head", [8, 9, 10, 11])
def test_what_float64_cannot_decide(host, head):
    spec = Alibi.causal(12)
    multiples = hardest(spec, head)
    high, low, _ = spec.plan().slopes[head]
    nearest = [high * n + low * n for n in multiples]
    assert any(np.float64(np.float32(s)) != spec.value(n, head) for s, n in zip(nearest, multiples, strict=True))
    origin = 1 - 2**31
    got = host.numpy(host.module.bias(spec, [origin], [n + origin for n in multiples]))[head, 0]
    np.testing.assert_array_equal(got.astype(np.float64), [spec.value(n, head) for n in multiples])


@every_host
@every_form
def test_biases_of_parts_are_parts_of_the_whole(host, spec):
    whole = host.numpy(host.module.bias(spec, range(64), range(64)))
    assert whole.shape == (spec.heads, 64, 64)
    for past in (0, 1, 63):
        step = host.numpy(host.module.bias(spec, cached(past, 1), range(64)))
        np.testing.assert_array_equal(step, whole[:, past : past + 1])
    shard = zigzag(64, rank=1, ranks=4)
    np.testing.assert_array_equal(host.numpy(host.module.bias(spec, shard, range(64))), whole[:, list(shard)])
    tokens = padded([5, 9], side="left")
    both = host.numpy(host.module.bias(spec, tokens, tokens))
    assert both.shape == (2, spec.heads, 9, 9)
    for index, row in enumerate(tokens):
        np.testing.assert_array_equal(both[index], whole[np.ix_(range(spec.heads), row, row)])


def test_the_forms_differ_by_what_a_softmax_removes():
    causal, symmetric, anchored = (
        REFERENCE.module.bias(Alibi(8, form=form), range(9), range(9), dtype="float64")
        for form in ("causal", "symmetric", "anchored")
    )
    mask = np.tril(np.ones((9, 9), bool))
    np.testing.assert_array_equal(causal[:, mask], symmetric[:, mask])
    shift = (anchored - causal)[:, :, :1]
    np.testing.assert_allclose(anchored - causal, np.broadcast_to(shift, causal.shape), atol=2**-50)
    assert (causal[:, mask] <= 0).all()
    assert (np.diagonal(causal, axis1=1, axis2=2) == 0).all()


@OTHERS
@every_form
@pytest.mark.parametrize("dtype", ["float64", *HALF])
def test_biases_have_the_same_bits(host, spec, dtype):
    for query, key in ((range(50), range(-70, 90)), (FAR, FAR), (padded([3, 8], side="right"), range(8))):
        expected = REFERENCE.read(REFERENCE.module.bias(spec, query, key, dtype=dtype))
        assert host.read(host.module.bias(spec, query, key, dtype=dtype)) == expected


# --- Weights ---


def table(shape: tuple[int, int], dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(numpy_dtype(dtype))


@every_host
@pytest.mark.parametrize("dtype", ["float64", *HALF])
def test_a_bias_is_the_weight_itself(host, dtype):
    weights = table(T5.weight_shape, dtype)
    rows = numbers(T5, range(40), range(60))
    given = host.array(weights.astype(np.float64), dtype)
    got = host.numpy(host.module.bias(T5, range(40), range(60), weights=given, dtype=dtype))
    assert got.tobytes() == np.ascontiguousarray(weights[rows].transpose(2, 0, 1)).tobytes()
    tokens = padded([5, 9], side="left")
    got = host.numpy(host.module.bias(T5, tokens, tokens, weights=given, dtype=dtype))
    for index, row in enumerate(tokens):
        expected = np.ascontiguousarray(weights[numbers(T5, row, row)].transpose(2, 0, 1))
        assert np.ascontiguousarray(got[index]).tobytes() == expected.tobytes()


@every_host
@pytest.mark.parametrize("dtype", HALF)
def test_weights_are_rounded_once(host, dtype):
    """A float64 just above a midpoint, which float32 would put upon it."""
    weights = np.full(T5.weight_shape, 1.0)
    unit = 2.0 ** (1 - exact.FORMATS[dtype].precision)
    weights[0] = 1 + unit / 2 + 2.0**-40
    weights[1] = 1 + unit / 2
    given = host.array(weights, "float64")
    got = host.numpy(host.module.bias(T5, [0, 1], [0], weights=given, dtype=dtype)).astype(np.float64)
    expected = [1 + unit, 1.0]
    np.testing.assert_array_equal(got[:, :, 0], [expected] * 3)


@every_host
def test_a_bias_of_windows(host):
    spec = SwinIndex(3, (2, 5))
    weights = table(spec.weight_shape, "float32")
    tokens = spec.positions()
    got = host.numpy(host.module.bias(spec, tokens, tokens, weights=host.array(weights, "float32")))
    np.testing.assert_array_equal(got, weights[numbers(spec, tokens, tokens)].transpose(2, 0, 1))


@every_host
def test_float32_is_the_default_dtype(host):
    weights = host.array(np.ones(T5.weight_shape), "float64")
    assert host.numpy(host.module.bias(T5, [0], [0], weights=weights)).dtype == np.float32
    assert host.numpy(host.module.bias(ALIBI, [0], [0])).dtype == np.float32


@every_host
@pytest.mark.parametrize("spec", [T5, ALIBI, TransformerXLIndex.causal(4)], ids=["t5", "alibi", "xl"])
def test_nothing_is_written_into(host, spec):
    positions = np.arange(8)
    kept = positions.copy()
    host.module.rows(spec, positions, positions) if spec is not ALIBI else host.module.bias(spec, positions, positions)
    np.testing.assert_array_equal(positions, kept)


# --- Sentences ---

ONES = np.ones((32, 3))


def refused(host: Host, name: str, *arguments: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=rf"^{name}\.") as caught:
        getattr(host.module, name)(*arguments, **options)
    return str(caught.value)


@every_host
@pytest.mark.parametrize(
    ("query", "key", "sentence"),
    [
        ([0.5], [0], "rows.query_positions: expected integers, received float"),
        ([math.nan], [0], "rows.query_positions: expected integers, received float"),
        ([0], [2.0**40], "rows.key_positions: expected integers, received float"),
        ([0], [0.5, 1], "rows.key_positions: expected integers, received float"),
        ([True], [0], "rows.query_positions: expected integers, received bool: a mask is not a position"),
        ([0], [2**31], "rows.key_positions: expected integers of magnitude below 2^31, received 2147483648"),
        (range(2**31 + 1), [0], "rows.query_positions: expected integers of magnitude below 2^31, received 2147483648"),
        (3, [0], "rows.query_positions: expected shape (..., length), received ()"),
        ([0], 3, "rows.key_positions: expected shape (..., length), received ()"),
        ([[0], [1, 2]], [0], "rows.query_positions: expected rows of one length, received [[0], [1, 2]]"),
        (
            [[0], [1]],
            [[0], [1], [2]],
            "rows.key_positions: expected leading axes (2,), as the query positions have, or none, received (3,)",
        ),
        (
            [[0], [1]],
            [[[0], [1]], [[0], [1]]],
            "rows.key_positions: expected leading axes (2,), as the query positions have, or none, received (2, 2)",
        ),
    ],
)
def test_positions_that_cannot_be(host, query, key, sentence):
    said = refused(host, "rows", T5, query, key)
    assert said == sentence
    weights = host.array(ONES, "float32")
    said = refused(host, "bias", T5, query, key, weights=weights)
    assert said == sentence.replace("rows.", "bias.", 1)


@every_host
@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_arrays_of_positions_that_cannot_be(host, dtype):
    why = {
        "float16": ", which holds integers exactly only up to 2,048",
        "bool": ": a mask is not a position",
        "float32": "",
    }[dtype]
    said = refused(host, "rows", T5, host.array([0, 1], dtype), [0])
    assert said == f"rows.query_positions: expected integers, received {dtype}{why}"


@every_host
def test_coordinates_that_cannot_be(host):
    spec = SwinIndex(3, (2, 5))
    tokens = spec.positions()
    assert refused(host, "rows", spec, range(4), tokens) == (
        "rows.query_positions: expected shape (..., length, 2), received (4,)"
    )
    assert refused(host, "rows", spec, tokens, [(0, 0, 0)]) == (
        "rows.key_positions: expected shape (..., length, 2), received (1, 3)"
    )
    assert refused(host, "rows", spec, [(0, 0), (1, 0)], [(0, 4), (0, 5), (3, 0)]) == (
        "rows.key_positions: expected distances to the query from -4 to 4 on axis 1, received 5"
    )
    weights = host.array(np.ones(spec.weight_shape), "float32")
    assert refused(host, "bias", spec, [(0, 0)], [(2, 0)], weights=weights) == (
        "bias.key_positions: expected distances to the query from -1 to 1 on axis 0, received 2"
    )


@every_host
def test_weights_that_cannot_be(host):
    def said(weights: Any, spec: Any = T5) -> str:
        return refused(host, "bias", spec, [0], [0], weights=weights)

    assert said(None) == "bias.weights: expected shape (32, 3), received None"
    assert said(host.array(ONES.T, "float32")) == "bias.weights: expected shape (32, 3), received (3, 32)"
    assert said(host.array(ONES[0], "float32")) == "bias.weights: expected shape (32, 3), received (3,)"
    assert said(host.array(ONES, "int32")) == (
        "bias.weights: expected float64, float32, bfloat16 or float16, received int32"
    )
    assert said([[1.0] * 3] * 32) == "bias.weights: expected an array of the framework, received list"
    kind = type(host.array(ONES, "float32")).__name__
    assert said(host.array(ONES, "float32"), ALIBI) == (
        f"bias.weights: expected None, as the slopes are fixed, received an object of type {kind}"
    )


@every_host
def test_specifications_and_dtypes_that_cannot_be(host):
    for spec in (Sinusoidal.vaswani(8), ALIBI, Learned(4, 4), "t5"):
        with pytest.raises(
            SpecError, match=r"rows\.spec: expected a specification with a table of rows such as T5Bias"
        ):
            host.module.rows(spec, [0], [0])
    for spec in (Sinusoidal.vaswani(8), ShawClip(4), Learned(4, 4), "t5"):
        with pytest.raises(SpecError, match=r"bias\.spec: expected a specification of a bias such as Alibi\.causal"):
            host.module.bias(spec, [0], [0])
    assert refused(host, "bias", ALIBI, [0], [0], dtype="int32") == (
        "bias.dtype: expected float64, float32, bfloat16 or float16, received 'int32'"
    )


@every_host
def test_a_bias_is_refused_by_encode_and_the_other_way_round(host):
    for name, arguments in (("encode", ([0],)), ("table", ([0],)), ("phase", ([0],))):
        with pytest.raises(SpecError, match=rf"{name}\.spec: expected"):
            getattr(host.module, name)(ALIBI, *arguments)
