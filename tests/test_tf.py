"""The TensorFlow column: inputs, refusals, tracing, addition, gradients and memory. Roundings: test_tf_rounding.py."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from posenc import Sinusoidal, SpecError
from posenc.spec import exact
from posenc.tf_impl import add, encode, phase

MODES = {"function": {}, "xla": {"jit_compile": True}}
HALVES = ["bfloat16", "float16"]
DTYPES = ["float64", "float32", *HALVES]
PAPER = Sinusoidal.vaswani(16)
FAIRSEQ = Sinusoidal.fairseq(17)
over_modes = pytest.mark.parametrize("mode", MODES)


def traced(mode, call, *specs):
    return tf.function(call, input_signature=specs, autograph=False, **MODES[mode])


def numbers(tensor):
    """A flat list of Python floats, each equal to its element."""
    return tf.cast(tensor, tf.float64).numpy().reshape(-1).tolist()


@over_modes
def test_one_trace_serves_every_length(mode):
    traces = []

    def call(x, positions):
        traces.append(x.shape)
        return add(FAIRSEQ, add(FAIRSEQ, x), positions)

    f = traced(mode, call, tf.TensorSpec([None, None, 17]), tf.TensorSpec([None], tf.int32))
    for batch, length in ((1, 3), (2, 5), (3, 0)):
        x, p = tf.ones([batch, length, 17]), np.arange(length) - 1
        got, expected = f(x, p), add(FAIRSEQ, add(FAIRSEQ, x), p)
        assert got.shape == expected.shape
        # two sums, each with an encoding within 2^-23 and a rounding, by 2^-23, of a value below 4
        assert np.abs(got - expected).max(initial=0) <= 2 * (2.0**-23 + 2.0**-23)
    assert len(traces) == 1


def test_positions_of_every_kind_give_the_same_bits():
    expected = encode(PAPER, range(100)).numpy()
    integers = [tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64, tf.uint64]
    tensors = [tf.cast(tf.range(100), dtype) for dtype in [*integers, tf.float32, tf.float64]]
    others = [list(range(100)), np.arange(100, dtype=np.uint32), tf.Variable(tf.range(100)), list(tf.range(100))]
    for positions in [*tensors, *others]:
        assert (encode(PAPER, positions).numpy() == expected).all()
    # the rows of a batch, and the same again as a range that runs backwards
    assert (encode(PAPER, tf.reshape(tf.range(100), [2, 50])).numpy() == expected.reshape(2, 50, 16)).all()
    assert (encode(PAPER, range(99, -1, -1)).numpy() == expected[::-1]).all()
    for one in (7, np.int16(7), tf.constant(7), tf.constant(7, tf.uint64)):
        assert (encode(PAPER, one).numpy() == expected[7]).all()
    for options in MODES.values():
        words = tf.function(lambda *ps: [phase(PAPER, p) for p in ps], autograph=False, **options)(*tensors)
        assert all((w == phase(PAPER, range(100))).numpy().all() for w in words)


@pytest.mark.parametrize(
    ("positions", "shape"),
    [(3, ()), ([], (0,)), ([[1, 2]], (1, 2)), (range(5, 5), (0,)), (np.zeros((2, 0, 3), int), (2, 0, 3))],
)
def test_shapes(positions, shape):
    spec = Sinusoidal.tensor2tensor(9)
    for dtype in DTYPES:
        result = encode(spec, positions, dtype=dtype)
        assert (result.shape, result.dtype.name) == ((*shape, 9), dtype)
    assert phase(spec, positions).shape == (*shape, 4, 3)
    inside = tf.function(lambda: (phase(spec, positions), encode(spec, positions)), autograph=False)()
    assert [tuple(t.shape) for t in inside] == [(*shape, 4, 3), (*shape, 9)]


REFUSED = {
    "float16, which holds integers exactly only up to 2,048": tf.zeros([2], tf.float16),
    "bfloat16, which holds integers exactly only up to 256": tf.zeros([2], tf.bfloat16),
    "bool: a mask is not a position": tf.zeros([2], tf.bool),
    "complex64": tf.zeros([2], tf.complex64),
    "string": tf.constant(["1"]),
    "str": "1",
    "RaggedTensor": tf.ragged.constant([[1], [2, 3]]),
    "SparseTensor": tf.sparse.from_dense([0, 1]),
}


@pytest.mark.parametrize("received", REFUSED)
def test_refused_dtypes_of_positions(received):
    calls = {"phase": lambda p: phase(PAPER, p), "encode": lambda p: encode(PAPER, p)}
    calls["add"] = lambda p: add(PAPER, tf.zeros([2, 16]), p)
    for name, call in calls.items():
        message = f"^{name}.positions: expected integers, float32 or float64, received {received}$"
        for run in (call, tf.function(call, autograph=False)):
            with pytest.raises(ValueError, match=message):
                run(REFUSED[received])


@pytest.mark.parametrize(
    ("positions", "received"),
    [
        (tf.constant([0, 2**40, -(2**50)], tf.int64), "1099511627776"),
        (tf.constant([-(2**63)], tf.int64), "-9223372036854775808"),
        (tf.constant([[1.5, -math.inf], [math.nan, 0.0]]), "-inf"),
        ([math.nan], "nan"),
        (range(2**31 + 1), "2147483648"),
    ],
)
def test_refused_values_of_positions(positions, received):
    message = f"^encode.positions: expected finite numbers of magnitude below 2\\^31, received {received}$"
    with pytest.raises(ValueError, match=message):
        encode(PAPER, positions)


@pytest.mark.parametrize(
    ("dtype", "received"), [(tf.int32, "int32"), ("float8", "'float8'"), (None, "None"), (1, "1"), (True, "True")]
)
def test_refused_output_dtypes(dtype, received):
    message = f"^encode.dtype: expected float64, float32, bfloat16 or float16, received {received}$"
    with pytest.raises(ValueError, match=message):
        encode(PAPER, 0, dtype=dtype)


def test_add_refuses_in_the_agreed_order():
    mask = tf.zeros([3], tf.bool)
    with pytest.raises(SpecError, match=r"^add\.spec: expected a specification such as Sinusoidal"):
        add(4, tf.zeros([3, 5], tf.int64), mask)
    wrong = {"int64": tf.zeros([3, 5], tf.int64), "RaggedTensor": tf.ragged.constant([[1.0]]), "object": object()}
    for received, x in wrong.items():
        with pytest.raises(ValueError, match=rf"^add\.x: expected float64, .* or float16, received {received}$"):
            add(PAPER, x, mask)
    for x in (tf.zeros([3, 5]), tf.zeros([])):
        with pytest.raises(ValueError, match=r"^add\.x: expected shape \(\.\.\., 16\), received \("):
            add(PAPER, x, mask)
    with pytest.raises(
        ValueError, match=r"^add\.x: expected shape \(\.\.\., length, 16\) where no positions are given"
    ):
        add(PAPER, tf.zeros([16]))
    with pytest.raises(ValueError, match=r"^add\.positions: .* a mask"):
        add(PAPER, tf.zeros([2, 16]), mask)
    for shape in ([3, 2], [1, 3, 2], [2, 3, 1, 1], [3]):
        with pytest.raises(
            ValueError, match=r"^add\.positions: expected a shape that broadcasts to \(1, 2\), received"
        ):
            add(PAPER, tf.zeros([1, 2, 16]), tf.zeros(shape, tf.int32))


@over_modes
def test_shapes_known_late_are_refused_late(mode):
    f = traced(mode, lambda x, p: add(PAPER, x, p), tf.TensorSpec([None, 16]), tf.TensorSpec([None], tf.int32))
    assert f(tf.zeros([3, 16]), [7]).shape == (3, 16)
    with pytest.raises(tf.errors.InvalidArgumentError):
        f(tf.zeros([1, 16]), [7, 8, 9])
    with pytest.raises(ValueError, match=r"broadcasts to \(None, 2\), received \(None, 3\)$"):
        traced(mode, lambda x, p: add(PAPER, x, p), tf.TensorSpec([None, 2, 16]), tf.TensorSpec([None, 3], tf.int32))(
            tf.zeros([1, 2, 16]), [[1, 2, 3]]
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rounds_the_exact_sum_once(dtype):
    rng, wide = np.random.default_rng(5), "float64" if dtype == "float64" else "float32"
    x = tf.cast(rng.normal(size=(3, 40, 17)) * 2.0 ** rng.integers(-26, 14, (3, 40, 17)), dtype)
    before = numbers(x)
    for positions in (None, np.arange(40) * 1000, [[5], [6], [-1]], 2.5):
        e = encode(FAIRSEQ, range(40) if positions is None else positions, dtype=wide)
        terms = zip(before, numbers(tf.broadcast_to(e, x.shape)), strict=True)
        got = add(FAIRSEQ, x, positions)
        assert (got.shape, got.dtype) == (x.shape, x.dtype)
        assert numbers(got) == [exact.round_to(Fraction(a) + Fraction(b), dtype) for a, b in terms]
    assert numbers(x) == before


@pytest.mark.parametrize("dtype", HALVES)
def test_add_decides_sums_that_rest_on_a_tie(dtype):
    even = 2.0 ** exact.FORMATS[dtype].precision / 2  # its last place is 1, so it is a half away from the next number
    x = tf.constant([[even], [-even], [even + 1], [-even - 1]], dtype) * tf.ones([1, 2], dtype)
    plain = []
    for excess in (2.0**-24, -(2.0**-25)):  # less than float32 sees next to x
        half = 0.5 + excess
        spec = Sinusoidal(2, layout="interleaved", denominator_shift=0.0, min_timescale=1 / math.asin(half))
        e = tf.broadcast_to(encode(spec, 1), [4, 2])
        assert e[0, 0] == half
        terms = zip(numbers(x), numbers(e), strict=True)
        assert numbers(add(spec, x, 1)) == [exact.round_to(Fraction(a) + Fraction(b), dtype) for a, b in terms]
        plain.append(numbers(tf.cast(tf.cast(x, tf.float32) + e, dtype)) == numbers(add(spec, x, 1)))
    assert plain == [False, False]
    for special in (math.inf, -math.inf, math.nan):
        assert str(numbers(add(spec, tf.constant([[special] * 2], dtype)))) == str([special] * 2)


@pytest.mark.parametrize("mode", ["eager", *MODES])
def test_the_gradient_is_the_incoming_one(mode):
    def gradient(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = add(PAPER, x, tf.range(6.0))
        return tape.gradient(y, x, upstream)

    run = gradient if mode == "eager" else tf.function(gradient, autograph=False, **MODES[mode])
    for dtype in DTYPES:
        x, upstream = (tf.cast(np.random.default_rng(k).normal(size=(2, 6, 16)), dtype) for k in (7, 8))
        got = run(x, upstream)
        assert got.dtype == x.dtype
        assert numbers(got) == numbers(upstream)


def test_encodings_are_constants():
    for run in (lambda f: f, lambda f: tf.function(f, autograph=False)):
        positions = tf.Variable([1.5, 2.5])
        with tf.GradientTape() as tape:
            y = run(lambda p: encode(PAPER, p))(positions)
        assert tape.gradient(y, positions) is None


def test_results_do_not_depend_on_history():
    x = tf.random.normal([2, 600, 128])
    spec = Sinusoidal.vaswani(128)  # wide enough for the compiled kernels

    def results():
        return [
            encode(spec, range(600)).numpy(),
            encode(spec, np.arange(600)[:, None]).numpy()[:, 0],
            add(spec, x).numpy(),
        ]

    expected = results()
    with tf.Graph().as_default():
        assert not hasattr(encode(spec, range(600)), "numpy")
    tf.keras.backend.clear_session()
    tf.config.run_functions_eagerly(True)
    try:
        plain = results()
    finally:
        tf.config.run_functions_eagerly(False)
    with tf.GradientTape(), tf.device("CPU:0"):
        taped = results()
    for a, b, c in zip(expected, plain, taped, strict=True):
        assert (a == b).all()
        assert (a == c).all()


def test_a_table_takes_a_tenth_more_than_itself():
    # the high-water mark of getrusage is inherited from the parent on Linux, that of /proc is not
    code = (
        "import resource, sys, posenc\nfrom posenc.tf_impl import encode\nspec = posenc.Sinusoidal.vaswani(1024)\n"
        "def peak():\n    if sys.platform != 'linux': return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "encode(spec, range(2048)), encode(spec, [1, 2, 4])  # compiles the kernels\n"
        "before = peak()\ntable = encode(spec, range(65536))\nprint((peak() - before) / 2**28)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < 1.1


@pytest.mark.parametrize("shape", [[None, None, None], None])
def test_a_width_that_is_unknown_must_fit_in_the_end(shape):
    total = tf.function(lambda x: add(Sinusoidal.vaswani(8), x), input_signature=[tf.TensorSpec(shape)])
    assert total(tf.zeros((2, 3, 8))).shape == (2, 3, 8)
    for width in (1, 7):
        with pytest.raises(tf.errors.InvalidArgumentError):
            total(tf.zeros((2, 3, width)))
