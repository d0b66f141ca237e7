"""Rotations in the TensorFlow column: arithmetic, axes, refusals, tracing, splits and gradients."""

import re

import numpy as np
import pytest
import tensorflow as tf

from posenc import Rope, Sinusoidal, SpecError
from posenc.tf_impl import Table, encode, rotate, table
from tests.test_tf_tables import DTYPES, MODES, SPECS, check_bits, check_within, over_modes, over_specs, run, unit


def pair(layout, plan, j):
    u, v = (j, plan.pairs + j) if layout == "half" else (2 * j, 2 * j + 1)
    return plan.start + u, plan.start + v


def defined(spec, x, cos, sin):
    """The definition, in the arithmetic of `x`: every product and every sum is rounded to its dtype."""
    plan, result = spec.rotation(), x.copy()
    for j in range(plan.pairs):
        (u, v), (a, b) = pair(plan.reads, plan, j), pair(plan.writes, plan, j)
        result[..., a] = x[..., u] * cos[..., j] - x[..., v] * sin[..., j]
        result[..., b] = x[..., v] * cos[..., j] + x[..., u] * sin[..., j]
    return result


@over_modes
@over_specs
def test_a_rotation_is_its_definition(spec, mode):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 5, spec.head_dim)) * 10.0 ** rng.integers(-3, 4, (2, 3, 5, 1))
    pos = rng.integers(-9999, 9999, (2, 5))

    for dtype in DTYPES:
        wide = dtype == "float64"
        given, kind = tf.cast(x, dtype), np.float64 if wide else np.float32
        t = table(spec, pos, dtype="float64" if wide else "float32")
        got = run(mode, lambda x, t: rotate(spec, x, t, head_axis=1))(given, t)
        assert (got.dtype, got.shape) == (given.dtype, given.shape)
        values, cos, sin = (np.asarray(tf.cast(a, kind)) for a in (given, t.cos[:, None], t.sin[:, None]))
        expected = defined(spec, *(a.astype(np.float64) for a in (values, cos, sin)))
        bound = 2.0 ** (-50 if wide else -22) * spec.magnitude * np.abs(values).max(-1, keepdims=True)
        check_within(got, expected, bound + unit(np.abs(expected) + bound, dtype) / 2)
        if mode != "xla":  # which fuses products and sums
            check_bits(got, tf.cast(defined(spec, values, cos, sin), dtype))


@over_modes
def test_channels_that_stay_are_copied_bit_for_bit(mode):
    for dtype, kind in (("float32", "int32"), ("bfloat16", "int16"), ("float16", "int16"), ("float64", "int64")):
        bits = np.frombuffer(np.random.default_rng(3).bytes(560), kind).reshape(-1, 5, 7)  # subnormal numbers and NaNs
        x = tf.bitcast(tf.constant(bits), dtype)
        y = run(mode, lambda x: rotate(SPECS["last"], x, table(SPECS["last"], range(5)), head_axis=0))(x)
        same = tf.bitcast(y, kind).numpy() == bits
        if (mode, dtype) == ("xla", "bfloat16"):  # whose copies have one NaN
            same |= np.isnan(x.numpy().astype(np.float32))
        assert same[..., :3].all()


@pytest.mark.parametrize(
    ("shape", "head_axis", "places"),
    [
        ((), None, [()]),
        ((5,), None, [(), (1,), (5,)]),
        ((3,), 0, [()]),
        ((3, 5), -3, [(), (5,)]),
        ((5, 3), 1, [(5,), (1,)]),
        ((2, 5, 3), 2, [(), (5,), (2, 5), (1, 5), (2, 1)]),
        ((2, 5, 3), -2, [(2, 5)]),
        ((3, 2, 5), 0, [(5,), (2, 5)]),
        ((2, 3, 4, 5), 1, [(5,), (2, 4, 5), (1, 4, 1)]),
        ((2, 3, 4, 5), 2, [(2, 3, 5), (2, 1, 1)]),
        ((2, 4, 5), None, [(5,), (2, 4, 5)]),
        ((0, 3, 5), 1, [(5,), (0, 5), (1, 5)]),
        ((2, 0, 5), 1, [(5,), (2, 5)]),
        ((2, 3, 0), 1, [(0,), (2, 0), ()]),
    ],
)
def test_axes(shape, head_axis, places):
    spec, rng = SPECS["half"], np.random.default_rng(4)
    x = rng.normal(size=(*shape, 8)).astype(np.float32)
    heads = None if head_axis is None else head_axis % x.ndim
    lead = [n for axis, n in enumerate(shape) if axis != heads]

    def call(x, cos, sin):
        return rotate(spec, x, Table(cos, sin), head_axis=head_axis)

    for place in places:
        t = table(spec, rng.integers(0, 999, place))
        spread = [np.broadcast_to(part, (*lead, 4)) for part in t]
        if heads is not None:
            spread = [np.expand_dims(part, heads) for part in spread]
        check_bits(call(x, *t), defined(spec, x, *spread))
        signature = [tf.TensorSpec([None] * x.ndim), tf.TensorSpec([None] * (len(place) + 1))]
        unknown = tf.function(call, [*signature, signature[1]], autograph=False)
        check_bits(unknown(x, *t), defined(spec, x, *spread))


def test_tables_of_every_dtype():
    spec, x = SPECS["half"], np.random.default_rng(5).normal(size=(5, 8)).astype(np.float32)
    for dtype in DTYPES:
        t = table(spec, range(5), dtype=dtype)
        expected = rotate(spec, x, [tf.cast(part, tf.float32) for part in t], head_axis=None)
        for form in (t, list(t), [tf.Variable(part) for part in t], [part.numpy() for part in t]):
            check_bits(rotate(spec, x, form, head_axis=None), expected)


def test_refusals_in_the_agreed_order():
    spec, good, x = SPECS["half"], table(SPECS["half"], range(5)), tf.zeros([2, 3, 5, 8])
    cos, sin = good

    def refused(message, *arguments, head_axis=1, kind=ValueError):
        for call in (rotate, tf.function(rotate, autograph=False)):
            with pytest.raises(kind, match="^" + re.escape(message) + ".*$"):
                call(*arguments, head_axis=head_axis)

    refused("rotate.spec: expected a rotary specification such as Rope", Sinusoidal.vaswani(8), 1, 2, kind=SpecError)
    for wrong in (tf.zeros([5, 7], tf.int32), tf.ragged.constant([[1.0]]), "x"):
        refused("rotate.x: expected float64, float32, bfloat16 or float16, received", spec, wrong, 2)
    for wrong in (tf.zeros([2, 5, 7]), tf.zeros([])):
        refused("rotate.x: expected shape (..., 8), received (", spec, wrong, 2, head_axis=9)
    for axis in (3, -1, 4, -5, True, 1.0):
        refused("rotate.head_axis: expected None or an axis of x other than the last", spec, x, 2, head_axis=axis)
    form = "rotate.table: expected Table(cos, sin), two arrays of one float dtype and one shape (*P, 4), received "
    refused(form, spec, x, [1.0, 2.0])
    refused(form, spec, x, (cos,))
    refused(form, spec, x, tf.stack(good))
    refused(form + "float32 and float64", spec, x, (cos, tf.cast(sin, tf.float64)))
    refused(form + "int32 and int32", spec, x, [tf.cast(part, tf.int32) for part in good])
    refused(form + "shapes (5, 4) and (4, 4)", spec, x, (cos, sin[1:]))
    refused(form + "shapes (5, 3) and (5, 3)", spec, x, (cos[:, 1:], sin[:, 1:]))
    refused(form + "shapes () and ()", spec, x, (cos[0, 0], sin[0, 0]))
    for place in ((3,), (3, 5), (2, 3, 5), (1, 1, 5), (2, 4)):
        message = "rotate.table: expected position axes (), (5,) or (2, 5), or 1 in place of a size, received ("
        refused(message, spec, x, table(spec, np.zeros(place, int)))
    for call in (encode, table):
        with pytest.raises(SpecError, match=rf"^{call.__name__}\.spec: expected"):
            call(spec if call is encode else Sinusoidal.vaswani(8), 0)


@pytest.mark.parametrize("mode", ["function", "xla"])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_sizes_that_were_unknown_are_checked_in_the_end(layout, mode):
    spec = Rope(8, 10000.0, layout)
    unknown = [tf.TensorSpec([None, None, None, None]), *[tf.TensorSpec([None, None])] * 2]
    call = tf.function(lambda x, c, s: rotate(spec, x, (c, s), head_axis=1), unknown, autograph=False, **MODES[mode])
    assert call.get_concrete_function().structured_outputs.shape.as_list() == [None, None, None, 8]
    assert call(tf.ones([2, 3, 5, 8]), tf.ones([1, 4]), tf.ones([1, 4])).shape == (2, 3, 5, 8)
    for x, cos, sin in (
        ((2, 3, 1, 8), (5, 4), (5, 4)),  # a table for more positions than x has
        ((2, 3, 5, 8), (3, 4), (3, 4)),
        ((2, 3, 5, 8), (5, 1), (5, 1)),
        ((2, 3, 5, 8), (1, 4), (5, 4)),
        ((2, 3, 5, 1), (5, 4), (5, 4)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(tf.ones(x), tf.ones(cos), tf.ones(sin))
    unranked = tf.function(lambda x: rotate(spec, x, 0, head_axis=1), [tf.TensorSpec(None)], autograph=False)
    with pytest.raises(
        ValueError, match=r"^rotate\.x: expected shape \(\.\.\., 8\), received one of an unknown number"
    ):
        unranked(tf.ones([5, 8]))
    for shape, received in ((None, "of an unknown number of axes"), ([None, 3], "(None, 3) and (None, 3)")):
        vague = tf.function(
            lambda c: rotate(spec, tf.ones([5, 8]), (c, c), head_axis=None), [tf.TensorSpec(shape)], autograph=False
        )
        with pytest.raises(ValueError, match=rf"^rotate\.table: expected .*, received shapes {re.escape(received)}$"):
            vague(tf.ones([5, 3]))


@over_modes
@pytest.mark.parametrize("layout", ["half", "interleaved", "interleaved_to_half"])
def test_any_split_gives_the_same_bits(layout, mode):
    traces = []

    def call(x, t, head_axis=1):
        traces.append(x.shape)
        return rotate(Rope(38, 10000.0, layout, rotary_dim=34), x, t, head_axis=head_axis)  # wide enough for vectors

    rotated = run(mode, call)
    for dtype in ("float32", "float64"):  # in a half dtype the last rounding would hide most differences
        x = tf.cast(np.random.default_rng(6).normal(size=(2, 3, 13, 38)), dtype)
        t = table(
            Rope(38, 10000.0, layout, rotary_dim=34), range(7, 20), dtype="float64" if dtype == "float64" else "float32"
        )
        whole = rotated(x, t)
        del traces[:]
        for rows in np.split(np.arange(13), [1, 2, 6]):
            part = slice(rows[0], rows[-1] + 1)
            check_bits(rotated(x[:, :, part], Table(t.cos[part], t.sin[part])), whole[:, :, part])
        if mode != "eager":
            assert len(traces) == 3  # one a shape: none for a new position, nor for an equal specification
        check_bits(rotated(x[1:, 2:], t), whole[1:, 2:])
        check_bits(rotated(x[0], t, head_axis=0), whole[0])


@over_modes
def test_gradients_are_the_transpose(mode):
    for spec in (SPECS["yarn"], SPECS["llama3"], SPECS["last"]):
        rng = np.random.default_rng(7)
        x, upstream = (rng.normal(size=(2, 3, 5, spec.head_dim)) for _ in range(2))
        t = table(spec, range(5), dtype="float64")

        def gradients(x, cos, sin, upstream):
            with tf.GradientTape() as outer:
                outer.watch([x, cos, sin])
                with tf.GradientTape() as tape:
                    tape.watch([x, cos, sin])
                    y = rotate(spec, x, (cos, sin), head_axis=1)  # noqa: B023 - called at once
                    cube = tf.reduce_sum(y * y * y * upstream)
                first = tape.gradient(cube, [x, cos, sin])
            return [y, *first, outer.gradient(first[0], x, output_gradients=upstream)]

        y, gx, gcos, gsin, second = (a.numpy() for a in run(mode, gradients)(*map(tf.constant, (x, *t, upstream))))
        # the rotation is linear in x, and in the table: its matrix, column by column
        unit_rows = np.broadcast_to(np.eye(spec.head_dim)[:, None, None, None], (spec.head_dim, *x.shape))
        matrix = np.stack(
            [defined(spec, e.copy(), *(np.asarray(part)[:, None][:, 0] for part in t)) for e in unit_rows]
        )
        outer = 3 * y * y * upstream
        tolerance = {"rtol": 0, "atol": 2.0**-44 * np.abs(outer).max()}  # thirty float64 operations on numbers below it
        np.testing.assert_allclose(gx, (matrix * outer).sum(-1).transpose(1, 2, 3, 0), **tolerance)
        along = (matrix * upstream.transpose(3, 0, 1, 2)[..., None]).sum(0)  # the rotation of upstream
        expected = (matrix * (6 * y * upstream * along)).sum(-1).transpose(1, 2, 3, 0)
        np.testing.assert_allclose(second, expected, rtol=0, atol=2.0**-44 * np.abs(6 * y * upstream * along).max())
        plan = spec.rotation()
        for j in range(plan.pairs):
            (u, v), (a, b) = pair(plan.reads, plan, j), pair(plan.writes, plan, j)
            cosine = (outer[..., a] * x[..., u] + outer[..., b] * x[..., v]).sum((0, 1))
            sine = (outer[..., b] * x[..., u] - outer[..., a] * x[..., v]).sum((0, 1))
            for got, wanted in ((gcos[:, j], cosine), (gsin[:, j], sine)):
                np.testing.assert_allclose(got, wanted, rtol=0, atol=2.0**-42 * np.abs(outer).max())


@over_specs
def test_forward_mode_jacobians_and_vectorised_maps(spec):
    x = tf.constant(np.random.default_rng(8).normal(size=(3, 5, spec.head_dim)))
    t = table(spec, range(5), dtype="float64")
    expected = rotate(spec, x, t, head_axis=0)
    with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
        y = rotate(spec, x, t, head_axis=0)
    check_bits(accumulator.jvp(y), expected)
    check_bits(tf.vectorized_map(lambda row: rotate(spec, row, t, head_axis=None), x), expected)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rotate(spec, x, t, head_axis=0)
    jacobian = tape.jacobian(y, x)
    check_within(tf.tensordot(jacobian, x, 3), expected, 2.0**-48)  # products of numbers below 4, two of them not zero
