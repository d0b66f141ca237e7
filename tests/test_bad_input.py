"""What Sinusoidal and Rope, and the functions that take them, refuse: one sentence, the same in all four columns.

What else is refused stands with what is not: `rotate` in test_rotation.py, biases and rows in test_biases.py and
test_distance.py, learned tables in test_learned.py.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posenc import (
    DynamicNtk,
    Linear,
    Llama3,
    LongRope,
    Ntk,
    Proportional,
    Rope,
    Sinusoidal,
    SpecError,
    Yarn,
    YarnPaper,
    from_json,
    to_json,
)
from posenc.conformance.protocol import DTYPES
from posenc.spec.checks import shown
from tests.columns import HOSTS, every_host

SPEC = Sinusoidal.vaswani(4)


# --- Specifications ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 7}, "Sinusoidal.dim: expected an even integer (or Sinusoidal(..., pad='zero')), received 7"),
        ({"dim": 0}, "Sinusoidal.dim: expected an integer >= 2, received 0"),
        ({"dim": -4}, "Sinusoidal.dim: expected an integer >= 2, received -4"),
        ({"dim": 4.0}, "Sinusoidal.dim: expected an integer >= 2, received 4.0"),
        ({"dim": "4"}, "Sinusoidal.dim: expected an integer >= 2, received '4'"),
        ({"dim": True}, "Sinusoidal.dim: expected an integer >= 2, received True"),
        ({"base": 0.0}, "Sinusoidal.base: expected a finite number > 0, received 0.0"),
        ({"base": -10000.0}, "Sinusoidal.base: expected a finite number > 0, received -10000.0"),
        ({"base": math.nan}, "Sinusoidal.base: expected a finite number > 0, received nan"),
        ({"base": math.inf}, "Sinusoidal.base: expected a finite number > 0, received inf"),
        ({"base": "10000"}, "Sinusoidal.base: expected a finite number > 0, received '10000'"),
        ({"layout": "zip"}, "Sinusoidal.layout: expected 'interleaved', 'sin_cos' or 'cos_sin', received 'zip'"),
        ({"denominator_shift": 2}, "Sinusoidal.denominator_shift: expected a number below dim // 2 = 2, received 2"),
    ],
)
def test_a_specification_that_cannot_be(arguments, message):
    with pytest.raises(SpecError) as caught:
        Sinusoidal(**{"dim": 4, "layout": "interleaved", "denominator_shift": 0} | arguments)
    assert str(caught.value) == message


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.fractions(),
    st.decimals(),
    st.just(np.float32(1.5)),
    st.just(np.int64(3)),
    st.just(np.ones(2)),
    st.just(object()),
    st.just(int),
)
REASONABLE = {
    "dim": st.integers(-2, 64),
    "layout": st.sampled_from(["interleaved", "sin_cos", "cos_sin"]),
    "denominator_shift": st.one_of(st.integers(-2, 3), st.floats(-2, 4)),
    "base": st.floats(0.5, 1e8),
    "min_timescale": st.floats(0.1, 100),
    "timescale_rule": st.sampled_from(["geometric", "tensor2tensor"]),
    "position_offset": st.integers(-(2**32), 2**32),
    "position_scale": st.floats(1e-3, 1e4),
    "output_scale": st.floats(1e-7, 1e7),
    "pad": st.sampled_from([None, "zero"]),
    "padding_position": st.one_of(st.none(), st.integers(-(2**32), 2**32)),
}
EXTREME = st.one_of(ANYTHING, st.sampled_from([5e-324, 1.7e308, 2.0**1023, 10**400, -(10**400), 2**31, 0, -0.0]))


def outcome(call):
    """What `call` returns, or None and the one line of its SpecError; nothing else is caught."""
    try:
        return call(), ""
    except SpecError as error:
        message = str(error)
    lines = message.splitlines()
    return None, lines[0] if len(lines) == 1 else f"more than one line: {lines}"


@settings(max_examples=400)
@given(st.fixed_dictionaries({name: st.one_of(value, EXTREME) for name, value in REASONABLE.items()}))
def test_malformed_specifications_give_spec_errors_and_nothing_else(arguments):
    spec, message = outcome(lambda: Sinusoidal(**arguments))
    if spec is None:
        assert message.startswith("Sinusoidal.")
        return
    assert from_json(to_json(spec)) == spec
    if spec.dim <= 4096:
        assert len(spec.plan().increments) == spec.pairs


@settings(max_examples=300)
@given(st.sampled_from(sorted(REASONABLE)), EXTREME)
@example("dim", 10**400)
@example("base", 5e-324)
@example("layout", [])
@example("padding_position", 1.0)
def test_one_malformed_field_is_named(name, value):
    arguments = {"dim": 8, "layout": "sin_cos", "denominator_shift": 1.0} | {name: value}
    spec, message = outcome(lambda: Sinusoidal(**arguments))
    # frequencies are the business of three fields and the shift: the sentence says so, under the name of base
    assert spec is not None or message.startswith((f"Sinusoidal.{name}: ", "Sinusoidal.base: expected base, min_times"))


@pytest.mark.parametrize("constructor", ["vaswani", "tensor2tensor", "fairseq", "whisper", "ddpm"])
@given(EXTREME)
@settings(max_examples=60)
def test_named_conventions_refuse_in_the_same_way(constructor, dim):
    spec, message = outcome(lambda: getattr(Sinusoidal, constructor)(dim))
    assert message.startswith("Sinusoidal.") if spec is None else spec.dim == dim


REASONABLE_ROPE = {
    "head_dim": st.integers(0, 64),
    "base": st.floats(0.5, 1e8),
    "layout": st.sampled_from(["half", "interleaved", "interleaved_to_half"]),
    "rotary_dim": st.none() | st.integers(0, 64),
    "rotary_channels": st.sampled_from(["first", "last"]),
    "direction": st.sampled_from(["positive", "negative"]),
    "scaling": st.sampled_from([None, Linear(2.0), DynamicNtk(2.0, original_length=64), Yarn(4.0, original_length=9)]),
    "apply_magnitude": st.booleans(),
    "length": st.none() | st.integers(0, 10**6),
}
REASONABLE_SCALINGS = {
    Linear: {"factor": st.floats(1, 100)},
    Ntk: {"factor": st.floats(1, 100)},
    DynamicNtk: {"factor": st.floats(1, 100), "original_length": st.integers(1, 9999)},
    Yarn: {
        "factor": st.floats(1, 100),
        "original_length": st.integers(1, 9999),
        "beta_fast": st.floats(2, 64),
        "beta_slow": st.floats(0.1, 2),
        "truncate": st.booleans(),
        "mscale": st.none() | st.floats(0, 2),
        "mscale_all_dim": st.none() | st.floats(0, 2),
        "attention_factor": st.none() | st.floats(0.5, 2),
        "magnitude_rule": st.sampled_from(["transformers", "deepseek", "product", None]),
        "scale_softmax": st.booleans(),
    },
    YarnPaper: {
        "factor": st.floats(1, 100),
        "original_length": st.integers(1, 9999),
        "alpha": st.floats(0.1, 2),
        "beta": st.floats(2.5, 64),
    },
    LongRope: {
        "short_factors": st.just([1.0] * 4),
        "long_factors": st.just([2.0] * 4),
        "original_length": st.integers(2, 9999),
        "factor": st.none() | st.floats(1, 99),
        "extended_length": st.none() | st.integers(1, 99999),
        "attention_factor": st.none() | st.floats(0.5, 2),
        "short_mscale": st.none() | st.floats(0.5, 2),
        "long_mscale": st.none() | st.floats(0.5, 2),
        "magnitude_rule": st.sampled_from(["longrope", "yarn"]),
    },
    Llama3: {
        "factor": st.floats(1, 100),
        "original_length": st.integers(1, 9999),
        "low_freq_factor": st.floats(0.5, 2),
        "high_freq_factor": st.floats(2.5, 8),
    },
    Proportional: {"fraction": st.floats(0.1, 1), "factor": st.floats(1, 100)},
}


@settings(max_examples=300)
@given(st.fixed_dictionaries({name: st.one_of(value, EXTREME) for name, value in REASONABLE_ROPE.items()}))
def test_malformed_ropes_give_spec_errors_and_nothing_else(arguments):
    spec, message = outcome(lambda: Rope(**arguments))
    if spec is None:
        assert message.startswith("Rope.")
        return
    assert from_json(to_json(spec)) == spec
    if spec.scaling is None:
        assert len(spec.plan().increments) == spec.pairs


@pytest.mark.parametrize("kind", REASONABLE_SCALINGS, ids=lambda kind: kind.__name__)
@settings(max_examples=80)
@given(st.data())
def test_malformed_scalings_give_spec_errors_and_nothing_else(kind, data):
    fields = REASONABLE_SCALINGS[kind]
    arguments = data.draw(st.fixed_dictionaries({name: st.one_of(v, v, v, EXTREME) for name, v in fields.items()}))
    scaling, message = outcome(lambda: kind(**arguments))
    if scaling is None:
        assert message.startswith(f"{kind.__name__}.")
        return
    spec, message = outcome(lambda: Rope(8, 1e4, "half", scaling=scaling))
    if spec is None:
        assert message.startswith(("Rope.", f"{kind.__name__}."))
    else:
        assert from_json(to_json(spec)) == spec
        assert len(spec.at_length(100).plan().increments) == spec.pairs


# --- JSON ---

CANONICAL = json.loads(to_json(Sinusoidal.fairseq(64)))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=40), JSON_VALUES.map(json.dumps), ANYTHING))
@example("[" * 100000)
@example('{"schema": 1, "schema": 1}')
@example("1" * 5000)
@example("NaN")
@example("\ud800")
@example("")
def test_malformed_json_gives_spec_errors_and_nothing_else(text):
    with pytest.raises(SpecError) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*CANONICAL, "extra", ""]), JSON_VALUES, min_size=1, max_size=3), st.booleans())
def test_changed_json_is_read_as_what_it_says_or_refused(changes, remove):
    record = {name: value for name, value in CANONICAL.items() if not remove or name not in changes}
    record |= {} if remove else changes
    spec, _ = outcome(lambda: from_json(json.dumps(record)))
    assert spec is None or json.loads(to_json(spec)) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, "Sinusoidal.dim: expected an integer >= 2, received None"),
        ({"dimension": 4}, "received 'dimension'"),
        ({"schema": 2}, "from_json.schema: expected 1, received 2"),
    ],
)
def test_json_is_refused_by_name(change, message):
    with pytest.raises(SpecError) as caught:
        from_json(json.dumps(CANONICAL | change))
    assert message in str(caught.value)


# --- Positions, dtypes and x, in every column ---

FUNCTIONS = ("phase", "encode", "add")


def call(host, function, positions):
    if function == "add":
        return host.module.add(SPEC, host.array(np.zeros((1, 4)), "float32"), positions)
    return getattr(host.module, function)(SPEC, positions)


def refusal(call_):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        call_()
    return str(caught.value)


@every_host
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("dtype", "why"),
    [
        ("float16", ", which holds integers exactly only up to 2,048"),
        ("bfloat16", ", which holds integers exactly only up to 256"),
        ("bool", ": a mask is not a position"),
        ("complex64", ""),
    ],
)
def test_positions_of_a_dtype_that_cannot_hold_them(host, function, dtype, why):
    message = f"{function}.positions: expected integers, float32 or float64, received {dtype}{why}"
    assert refusal(lambda: call(host, function, host.array([1], dtype))) == message


@every_host
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("value", "received"),
    [
        (2**31, "2147483648"),
        (-(2**31), "-2147483648"),
        (10**30, "1" + "0" * 30),
        (2.0**31, "2147483648.0"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_positions_that_are_too_large_or_no_number(host, function, value, received):
    message = f"{function}.positions: expected finite numbers of magnitude below 2^31, received {received}"
    assert refusal(lambda: call(host, function, [value])) == message
    assert refusal(lambda: call(host, function, value)) == message
    if isinstance(value, float):
        for dtype in ("float32", "float64"):
            assert refusal(lambda d=dtype: call(host, function, host.array([0.0, value], d))) == message
    elif abs(value) < 2**63:
        assert refusal(lambda: call(host, function, host.array([0, value], "int64"))) == message
        assert refusal(lambda: call(host, function, range(value, value + 1))) == message


@every_host
def test_the_first_offending_position_is_named(host):
    positions = host.array([[1, 2**40], [-(2**35), 5]], "int64")
    assert refusal(lambda: host.module.encode(SPEC, positions)).endswith(f"received {2**40}")
    unsigned = host.array([2**64 - 1], "uint64")
    assert refusal(lambda: host.module.encode(SPEC, unsigned)).endswith(f"received {2**64 - 1}")


@every_host
@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([1, True], "expected integers, float32 or float64, received bool: a mask is not a position"),
        (False, "expected integers, float32 or float64, received bool: a mask is not a position"),
        (["1"], "expected integers, float32 or float64, received str"),
        ([None], "expected integers, float32 or float64, received NoneType"),
        ([1j], "expected integers, float32 or float64, received complex"),
        ([[1, 2], [3]], "expected rows of one length, received [[1, 2], [3]]"),
        ([1, [2]], "expected rows of one length, received [1, [2]]"),
        ("12", "expected integers, float32 or float64, received str"),
        ({1: 2}, "expected integers, float32 or float64, received dict"),
        (object, "expected integers, float32 or float64, received type"),
    ],
    ids=repr,
)
def test_positions_that_are_none(host, positions, message):
    assert refusal(lambda: host.module.encode(SPEC, positions)) == f"encode.positions: {message}"
    assert refusal(lambda: host.module.phase(SPEC, positions)) == f"phase.positions: {message}"


@every_host
@pytest.mark.parametrize(
    ("dtype", "received"),
    [
        ("int32", "'int32'"),
        ("f4", "'f4'"),
        ("float8", "'float8'"),
        ("", "''"),
        (7, "7"),
        (None, "None"),
        (float, "<class 'float'>"),
    ],
)
def test_output_dtypes_that_are_none(host, dtype, received):
    sentence = "encode.dtype: expected float64, float32, bfloat16 or float16, received "
    assert refusal(lambda: host.module.encode(SPEC, 1, dtype=dtype)) == f"{sentence}{received}"


@every_host
@pytest.mark.parametrize(
    ("dtype", "shape", "positions", "message"),
    [
        ("int32", (3, 4), None, "add.x: expected float64, float32, bfloat16 or float16, received int32"),
        ("bool", (3, 4), None, "add.x: expected float64, float32, bfloat16 or float16, received bool"),
        ("complex64", (3, 4), None, "add.x: expected float64, float32, bfloat16 or float16, received complex64"),
        ("float32", (3, 6), None, "add.x: expected shape (..., 4), received (3, 6)"),
        ("float32", (4, 1), [0], "add.x: expected shape (..., 4), received (4, 1)"),
        ("float32", (), None, "add.x: expected shape (..., 4), received ()"),
        ("float32", (4,), None, "add.x: expected shape (..., length, 4) where no positions are given, received (4,)"),
        ("float32", (2, 3, 4), [0, 1], "add.positions: expected a shape that broadcasts to (2, 3), received (2,)"),
        ("float32", (3, 4), [[0, 1, 2]], "add.positions: expected a shape that broadcasts to (3,), received (1, 3)"),
        ("float32", (1, 4), [0, 1], "add.positions: expected a shape that broadcasts to (1,), received (2,)"),
        ("int32", (3, 6), "no", "add.x: expected float64, float32, bfloat16 or float16, received int32"),
        ("float32", (3, 6), "no", "add.x: expected shape (..., 4), received (3, 6)"),
    ],
    ids=repr,
)
def test_x_that_does_not_fit(host, dtype, shape, positions, message):
    x = host.array(np.zeros(shape), dtype)
    assert refusal(lambda: host.module.add(SPEC, x, positions)) == message


@every_host
@pytest.mark.parametrize("spec", [None, 4, "vaswani", {"dim": 4}, Sinusoidal], ids=repr)
def test_what_is_no_specification(host, spec):
    for function in FUNCTIONS:
        with pytest.raises(SpecError) as caught:
            getattr(host.module, function)(spec, host.array(np.zeros((1, 4)), "float32"))
        sentence = f"{function}.spec: expected a specification such as Sinusoidal.vaswani(512), received {shown(spec)}"
        assert str(caught.value) == sentence


# --- Allowed: nothing at all ---


@every_host
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("positions", "shape"),
    [([], (0,)), (range(0), (0,)), (range(5, 5), (0,)), ([[], []], (2, 0)), ((), (0,))],
    ids=repr,
)
def test_empty_positions_give_an_empty_result(host, positions, shape, dtype):
    assert host.read(host.module.encode(SPEC, positions, dtype=dtype)) == (dtype, (*shape, 4), b"")
    assert host.read(host.module.phase(SPEC, positions))[1:] == ((*shape, 2, 3), b"")


@every_host
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 3, 4)])
def test_an_empty_x_gives_an_empty_result(host, shape, dtype):
    x = host.array(np.zeros(shape), dtype)
    assert host.read(host.module.add(SPEC, x)) == (dtype, shape, b"")
    empty = host.array(np.zeros(shape[:-1]), "int64")
    assert host.read(host.module.add(SPEC, x, empty)) == (dtype, shape, b"")


@every_host
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_every_integer_dtype_is_read_as_the_integers_it_holds(host, dtype):
    limit = min(np.iinfo(dtype).max, 2**31 - 1)
    values = [0, 1, limit] + ([-1, max(np.iinfo(dtype).min, 1 - 2**31)] if dtype[0] == "i" else [])
    assert host.read(host.module.encode(SPEC, host.array(values, dtype))) == host.read(host.module.encode(SPEC, values))


def test_there_are_four_columns_to_compare():
    assert [host.name for host in HOSTS] == ["numpy", "torch", "jax", "tf"]


@every_host
def test_the_dtype_is_looked_at_before_the_positions(host):
    assert refusal(lambda: host.module.encode(SPEC, "no", dtype="no")).startswith("encode.dtype: ")


@every_host
@pytest.mark.parametrize(
    "positions", [range(4, 5, 2**70), range(2**70, 2**70), range(2**70, 0), range(3, -(2**40), -(2**41))]
)
def test_ranges_of_any_size_that_hold_small_positions(host, positions):
    for result in (host.module.encode(SPEC, positions), host.module.phase(SPEC, positions)):
        assert tuple(result.shape)[:1] == (len(positions),)
    expected = host.read(host.module.encode(SPEC, list(positions)))
    assert host.read(host.module.encode(SPEC, positions)) == expected


@every_host
@pytest.mark.parametrize("entry", [np.array([1, 2]), np.array(1.5), np.float16(1), np.bool_(True)], ids=repr)
def test_lists_of_what_is_no_position(host, entry):
    assert refusal(lambda: host.module.encode(SPEC, [entry])).startswith("encode.positions: expected integers, float32")


@every_host
@pytest.mark.parametrize("x", [[[0.0] * 4] * 2, 1.0])
def test_x_is_an_array(host, x):
    sentence = "add.x: expected float64, float32, bfloat16 or float16, received "
    assert refusal(lambda: host.module.add(SPEC, x)) == sentence + type(x).__name__


@every_host
def test_an_enormous_position_is_shown_short(host):
    assert len(refusal(lambda: host.module.encode(SPEC, 10**5000))) < 150
