"""The JAX column: what `add` returns, and what is refused in which words."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posenc import Rope, Sinusoidal, SpecError
from posenc.jax_impl import add, encode, phase, rotate, table
from posenc.spec import exact

SPEC = Sinusoidal.fairseq(17)


@pytest.mark.parametrize(("dtype", "half"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_add_rounds_the_exact_sum_once(dtype, half):
    # 1 + encoding lies above a halfway point by less than float32 sees
    spec = Sinusoidal.vaswani(4, base=(5 / math.asin(half * (1 + 2.0**-18))) ** 2)
    encoding = np.asarray(encode(spec, range(6))).astype(np.float64)
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    for value in (1.0, -1.0, -half, 3.0, 0.0, 20 * tiny, -tiny, 60000.0):
        x = np.full((6, 4), value, jnp.dtype(dtype))
        exact_sums = np.vectorize(lambda e, value=value: exact.round_to(Fraction(value) + Fraction(e), dtype))
        np.testing.assert_array_equal(np.asarray(add(spec, x)).astype(np.float64), exact_sums(encoding))
    twice = (jnp.float32(1) + encode(spec, range(6))).astype(dtype)
    assert twice[5, 2] != add(spec, jnp.ones((6, 4), dtype))[5, 2]


def test_add_of_what_is_not_finite():
    x = np.array([[np.inf, -np.inf, np.nan, 3e38]], np.float32)
    for dtype in ("float32", "bfloat16"):
        got = np.asarray(add(Sinusoidal.vaswani(4), x.astype(jnp.dtype(dtype)))).astype(np.float32)
        np.testing.assert_array_equal(got, x.astype(jnp.dtype(dtype)).astype(np.float32))


def test_add_broadcasts_positions_and_keeps_shapes_and_dtypes():
    x = np.random.default_rng(4).standard_normal((2, 3, 5, 17)).astype(np.float32)
    where = np.array([[[7], [8], [9]], [[0], [1], [2]]])
    for given, expected in ((None, range(5)), (where, where), (4, 4), (range(5), range(5))):
        for array in (x, jnp.asarray(x)):
            np.testing.assert_array_equal(add(SPEC, array, given), x + np.asarray(encode(SPEC, expected)))
    double = add(SPEC, x.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_array_equal(double, x.astype(np.float64) + np.asarray(encode(SPEC, range(5), dtype="float64")))
    assert add(SPEC, np.zeros((0, 5, 17), np.float16)).shape == (0, 5, 17)
    assert add(SPEC, jnp.zeros((4, 0, 17), jnp.bfloat16)).dtype == jnp.bfloat16
    assert add(SPEC, jnp.zeros(17), 3).shape == (17,)


X = np.zeros((2, 5, 17), np.float32)
REFUSALS = [
    (lambda: encode("vaswani", 1), SpecError, "encode.spec: expected a specification such as Sinusoidal.vaswani(512)"),
    (lambda: encode(SPEC, np.zeros(3, np.float16)), ValueError, "received float16, which holds integers exactly only"),
    (lambda: encode(SPEC, jnp.zeros(3, jnp.bfloat16)), ValueError, "received bfloat16, which holds"),
    (lambda: jax.jit(encode)(SPEC, jnp.zeros(3, jnp.bfloat16)), ValueError, "received bfloat16, which holds"),
    (lambda: jax.jit(encode)(SPEC, jnp.zeros(3, bool)), ValueError, "received bool: a mask is not a position"),
    (lambda: phase(SPEC, np.array(True)), ValueError, "phase.positions: expected integers, float32 or float64"),
    (lambda: encode(SPEC, "12"), ValueError, "encode.positions: expected integers, float32 or float64, received str"),
    (lambda: encode(SPEC, jax.random.key(0)), ValueError, "encode.positions: expected integers, float32 or float64"),
    (lambda: encode(SPEC, [[1, 2], [3]]), ValueError, "encode.positions: expected rows of one length"),
    (lambda: encode(SPEC, [1.0, np.nan]), ValueError, "finite numbers of magnitude below 2^31, received nan"),
    (lambda: encode(SPEC, jnp.array([1.0, -np.inf])), ValueError, "below 2^31, received -inf"),
    (lambda: encode(SPEC, np.array([5, 2**31, -(2**40)])), ValueError, "below 2^31, received 2147483648"),
    (lambda: encode(SPEC, np.array(2**63, np.uint64)), ValueError, f"below 2^31, received {2**63}"),
    (lambda: encode(SPEC, range(-(2**31), 0)), ValueError, "below 2^31, received -2147483648"),
    (
        lambda: encode(SPEC, 1, dtype="int32"),
        ValueError,
        "encode.dtype: expected float64, float32, bfloat16 or float16",
    ),
    (lambda: encode(SPEC, 1, dtype=None), ValueError, "encode.dtype: expected float64, float32, bfloat16 or float16"),
    (lambda: encode(SPEC, 1, dtype="half a float"), ValueError, "encode.dtype: expected float64, float32, bfloat16"),
    (
        lambda: add(SPEC, [[0.0] * 17]),
        ValueError,
        "add.x: expected float64, float32, bfloat16 or float16, received list",
    ),
    (
        lambda: add(SPEC, X.astype(int)),
        ValueError,
        "add.x: expected float64, float32, bfloat16 or float16, received int",
    ),
    (lambda: add(SPEC, X[..., :16], "12"), ValueError, "add.x: expected shape (..., 17), received (2, 5, 16)"),
    (lambda: jax.jit(add)(SPEC, X[..., :16]), ValueError, "add.x: expected shape (..., 17), received (2, 5, 16)"),
    (
        lambda: jax.vmap(lambda p: add(SPEC, X[0, 0].astype(float), p))(jnp.arange(3)),
        ValueError,
        "received float64 in a",
    ),
    (lambda: add(SPEC, X[0, 0]), ValueError, "add.x: expected shape (..., length, 17) where no positions are given"),
    (
        lambda: add(SPEC, X, [0, 1]),
        ValueError,
        "add.positions: expected a shape that broadcasts to (2, 5), received (2,)",
    ),
    (lambda: add(SPEC, X, np.zeros((1, 2, 5), int)), ValueError, "broadcasts to (2, 5), received (1, 2, 5)"),
    (lambda: jax.jit(add)(SPEC, X, jnp.zeros((3, 2, 5))), ValueError, "broadcasts to (2, 5), received (3, 2, 5)"),
]
ROPE = Rope(12, 1e4, "half")
Q = np.zeros((2, 4, 3, 12), np.float32)
GOOD = table(ROPE, range(3))
REFUSALS += [
    (lambda: encode(ROPE, 1), SpecError, "encode.spec: expected an encoding such as Sinusoidal.vaswani(512)"),
    (lambda: add(ROPE, Q), SpecError, "add.spec: expected an encoding such as Sinusoidal.vaswani(512)"),
    (lambda: table(Sinusoidal.vaswani(12), 1), SpecError, "table.spec: expected a rotary specification such as Rope("),
    (lambda: table(ROPE, 1, dtype="int8"), ValueError, "table.dtype: expected float64, float32, bfloat16 or float16"),
    (lambda: table(ROPE, jnp.zeros(3, bool)), ValueError, "table.positions: expected integers, float32 or float64"),
    (lambda: table(ROPE, [2**31]), ValueError, "table.positions: expected finite numbers of magnitude below 2^31"),
    (lambda: rotate("rope", Q, GOOD, head_axis=1), SpecError, "rotate.spec: expected a rotary specification"),
    (lambda: rotate(ROPE, Q.astype(int), 1, head_axis=9), ValueError, "rotate.x: expected float64, float32, bfloat16"),
    (lambda: rotate(ROPE, [0.0] * 12, 1, head_axis=9), ValueError, "bfloat16 or float16, received list"),
    (lambda: rotate(ROPE, Q[..., :11], 1, head_axis=9), ValueError, "rotate.x: expected shape (..., 12), received"),
    (lambda: rotate(ROPE, Q, 1, head_axis=3), ValueError, "rotate.head_axis: expected None or an axis of x other than"),
    (lambda: rotate(ROPE, Q, 1, head_axis=1), ValueError, "rotate.table: expected Table(cos, sin), two arrays of one"),
    (lambda: rotate(ROPE, Q, (*GOOD, 1), head_axis=1), ValueError, "one shape (*P, 6), received tuple of 3"),
    (lambda: rotate(ROPE, Q, (), head_axis=1), ValueError, "one shape (*P, 6), received tuple of 0"),
    (lambda: rotate(ROPE, Q, Q, head_axis=1), ValueError, "received ndarray"),
    (lambda: rotate(ROPE, Q, (GOOD.cos, GOOD.sin[:1]), head_axis=1), ValueError, "received shapes (3, 6) and (1, 6)"),
    (lambda: rotate(ROPE, Q, (GOOD.cos[:, :5],) * 2, head_axis=1), ValueError, "received shapes (3, 5) and (3, 5)"),
    (lambda: rotate(ROPE, Q, (GOOD.cos, Q[0, 0, :, :6].astype(float)), head_axis=1), ValueError, "32 and float64"),
    (lambda: rotate(ROPE, Q, (GOOD.cos.astype(int),) * 2, head_axis=1), ValueError, "received int32 and int32"),
    (lambda: rotate(ROPE, Q, table(ROPE, range(4)), head_axis=1), ValueError, "axes (), (3,) or (2, 3), or 1 in place"),
    (lambda: rotate(ROPE, Q, table(ROPE, range(2)), head_axis=1), ValueError, "of a size, received (2,)"),
    (lambda: rotate(ROPE, Q, table(ROPE, [[[1]]]), head_axis=1), ValueError, "received (1, 1, 1)"),
    (lambda: jax.jit(lambda t: rotate(ROPE, Q.astype(float), t, head_axis=1))(GOOD), ValueError, "float64 in a trace"),
    (lambda: jax.jit(lambda p: table(ROPE, p, dtype="float64"))(jnp.arange(3)), ValueError, "table.dtype: expected"),
]


@pytest.mark.parametrize("case", range(len(REFUSALS)))
def test_refusals_are_one_sentence(case):
    call, error, sentence = REFUSALS[case]
    with pytest.raises(error) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_arrays_may_be_written_to_after_the_call():
    spec, wrong = Rope(8, 1e4, "half"), 0
    t = table(spec, range(4000))
    for _ in range(10):
        x = np.ones((1, 16, 4000, 8), np.float32)
        result = rotate(spec, x, t, head_axis=1)
        x[...] = 7  # the owner's right: the call has returned
        wrong += float(result[0, 0, 0, 0]) != 1
    assert not wrong
