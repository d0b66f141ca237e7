"""What holds of rotations in every host column: the same tables, the same sentences, and what a rotation is for."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from posenc import Linear, Llama3, LongRope, Proportional, Rope, Sinusoidal, SpecError, Yarn
from posenc.spec import exact
from tests.columns import HOSTS, OTHERS, REFERENCE, Host, every_host

YARN = Yarn(40, original_length=64)
ROPES = {
    "half": Rope(16, 1e4, "half"),
    "interleaved": Rope(16, 5e5, "interleaved"),
    "interleaved_to_half": Rope(16, 1e4, "interleaved_to_half", scaling=Linear(3)),
    "partial": Rope(20, 1e4, "half", rotary_dim=12),
    "last": Rope(17, 1e4, "interleaved", rotary_dim=12, rotary_channels="last"),
    "negative": Rope(16, 1e6, "half", direction="negative"),
    "yarn": Rope(16, 1e4, "half", scaling=YARN),
    "llama3": Rope(16, 5e5, "half", scaling=Llama3(8, original_length=8192, low_freq_factor=1, high_freq_factor=4)),
    "longrope": Rope(
        16, 1e4, "half", scaling=LongRope([1.0] * 8, [4.5] * 8, original_length=4096, factor=32), length=9999
    ),
    "proportional": Rope(16, 1e6, "half", scaling=Proportional(0.25)),
}
every_rope = pytest.mark.parametrize("spec", ROPES.values(), ids=ROPES.keys())
POSITIONS = [0, 1, 2, 255, 257, 2049, 65537, -1, -4097, 2**24 + 1, 2**31 - 1, 1 - 2**31]
DTYPES = ("float64", "float32", "bfloat16", "float16")


def made(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def read(host: Host, result: Any) -> np.ndarray:
    """A result as float64, which holds every one of the four formats."""
    return host.numpy(result).astype(np.float64)


def pairs(spec: Rope) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each pair, the two channels that it reads and the two that it writes."""
    plan = spec.rotation()
    for j in range(plan.pairs):
        orders = {"half": [j, plan.pairs + j], "interleaved": [2 * j, 2 * j + 1]}
        reads, writes = ([plan.start + channel for channel in orders[order]] for order in (plan.reads, plan.writes))
        yield j, reads, writes


def turned(spec: Rope, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """The definition, for tables whose axes are already those of x; in more digits than float64 where there are any."""
    x, cos, sin = (array.astype(np.longdouble) for array in (x, cos, sin))
    out = x.copy()
    for j, (a, b), (c, d) in pairs(spec):
        out[..., c] = x[..., a] * cos[..., j] - x[..., b] * sin[..., j]
        out[..., d] = x[..., b] * cos[..., j] + x[..., a] * sin[..., j]
    return out


# --- Tables ---


@every_host
@every_rope
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_tables_are_correctly_rounded(host, spec, dtype):
    cos, sin = host.module.table(spec, POSITIONS, dtype=dtype)
    got = np.concatenate((read(host, cos), read(host, sin)), -1)
    expected = [[spec.value(p, channel, dtype) for channel in range(2 * spec.pairs)] for p in POSITIONS]
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@every_host
@every_rope
def test_long_ranges_have_the_same_rows(host, spec):
    # another route: angle addition from anchors
    long = host.module.table(spec, range(-40, 5000, 3))
    some = host.module.table(spec, list(range(-40, 5000, 3))[::97])
    for part, row in zip(long, some, strict=True):
        np.testing.assert_array_equal(read(host, part)[::97], read(host, row))


@every_host
def test_a_table_of_several_batch_rows_is_that_of_each(host):
    spec = ROPES["yarn"]
    rows = [[0, 1, 2, 3], [0, 0, 0, 1]]
    whole = host.module.table(spec, rows)
    for index, row in enumerate(rows):
        for part, own in zip(whole, host.module.table(spec, row), strict=True):
            np.testing.assert_array_equal(read(host, part)[index], read(host, own))


# --- Rotations ---


def bound(spec: Rope, x: np.ndarray, value: np.ndarray, dtype: str) -> np.ndarray:
    """N3 for each channel of `value`: 2^-22 * magnitude * max(|u|, |v|), 2^-51 for float64, and half a unit.

    Half a unit of what is rounded at the end is at most 2^-precision of it, or half the least subnormal number.
    """
    largest = np.zeros_like(x)
    for _, reads, writes in pairs(spec):
        largest[..., writes] = np.abs(x[..., reads]).max(-1, keepdims=True, initial=0)
    products = 2.0 ** (-51 if dtype == "float64" else -22) * spec.magnitude * largest
    precision, least, _ = exact.FORMATS[dtype]
    return products + np.maximum(2.0**-precision * (np.abs(value) + products), 2.0 ** (least - 1))


@every_host
@every_rope
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "head_axis"), [((2, 3, 4), 1), ((2, 4, 3), 2), ((4, 3), -2), ((2, 4), None)])
def test_rotations_are_those_of_the_definition(host, spec, dtype, shape, head_axis):
    x = host.array(made((*shape, spec.head_dim)), dtype)
    lead = list(shape)
    if head_axis is not None:
        del lead[head_axis if head_axis >= 0 else head_axis + 1]
    positions = np.arange(np.prod(lead)).reshape(lead) * 7 - 5
    table = host.module.table(spec, positions, dtype="float64" if dtype == "float64" else "float32")
    result = host.module.rotate(spec, x, table, head_axis=head_axis)
    assert host.read(result)[0] == dtype
    given = read(host, x)
    cos, sin = (read(host, part) for part in table)
    if head_axis is not None:
        axis = head_axis if head_axis >= 0 else head_axis + len(shape) + 1
        cos, sin = np.expand_dims(cos, axis), np.expand_dims(sin, axis)
    expected = turned(spec, given, cos, sin)
    assert (np.abs(read(host, result) - expected) <= bound(spec, given, expected, dtype)).all()
    plan = spec.rotation()
    still = [c for c in range(spec.head_dim) if not plan.start <= c < plan.start + 2 * plan.pairs]
    np.testing.assert_array_equal(read(host, result)[..., still], given[..., still])


def test_a_wrong_rotation_is_seen():
    spec, x = ROPES["half"], made((4, 16))
    angle = np.arange(4)[:, None] * np.array(spec.frequencies())
    right = turned(spec, x, np.cos(angle), np.sin(angle))
    for wrong in (
        turned(ROPES["interleaved"], x, np.cos(angle), np.sin(angle)),
        turned(spec, x, np.cos(angle), -np.sin(angle)),
        turned(spec, x, np.cos(angle), np.sin(angle) * 1.00001),
    ):
        assert (np.abs(wrong - right) > 2 * bound(spec, x, right, "float32")).any()


@OTHERS
@every_rope
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_have_the_same_bits(host, spec, dtype):
    """On one table, outside a trace on a CPU: separate products and a sum, and one rounding, in the same order."""
    x = read(REFERENCE, REFERENCE.array(made((2, 3, 4, spec.head_dim)), dtype))
    kind = "float64" if dtype == "float64" else "float32"
    positions = np.arange(8).reshape(2, 4) * 7 - 5
    t = [read(REFERENCE, part) for part in REFERENCE.module.table(spec, positions, dtype=kind)]
    results = [
        read(c, c.module.rotate(spec, c.array(x, dtype), [c.array(part, kind) for part in t], head_axis=1))
        for c in (REFERENCE, host)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(np.signbit(results[0]), np.signbit(results[1]))
    if dtype == "float32":  # products that are not rounded by themselves would be seen
        assert (results[0] != turned(spec, x, *(part[:, None] for part in t)).astype(np.float32)).any()


@every_host
@every_rope
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_split_gives_the_same_bits(host, spec, dtype):
    module, x = host.module, made((2, 5, 7, spec.head_dim))
    whole = read(host, module.rotate(spec, host.array(x, dtype), module.table(spec, range(7)), head_axis=1))
    steps = [
        read(host, module.rotate(spec, host.array(x[:, :, [p]], dtype), module.table(spec, [p]), head_axis=1))
        for p in (3, 0, 6, 1, 2, 5, 4)
    ]
    order = np.argsort([3, 0, 6, 1, 2, 5, 4])
    np.testing.assert_array_equal(np.concatenate([steps[i] for i in order], 2), whole)
    for head in range(5):
        one = module.rotate(spec, host.array(x[:, head], dtype), module.table(spec, range(7)), head_axis=None)
        np.testing.assert_array_equal(read(host, one), whole[:, head])
    for batch in range(2):
        one = module.rotate(spec, host.array(x[batch], dtype), module.table(spec, range(7)), head_axis=0)
        np.testing.assert_array_equal(read(host, one), whole[batch])


ROTATION = {"float32": 2.0**-21, "float64": 2.0**-48}
"""What one rotation by a table of its own dtype errs by, times the magnitude times the widest channel of x.

Products and their sum err by 2^-22 (2^-51), which is N3. Half a unit of a value, itself at most sqrt(2) times the
widest channel: sqrt(2) * 2^-24 (2^-53). Two entries of the table, each within half a unit (4 units): 2 * 2^-24
(2 * 8 * 2^-53). In all 7.5 * 2^-24 (21.5 * 2^-53), the 2^-62 of a float64 table included.
"""


@every_host
@every_rope
@pytest.mark.parametrize("dtype", ROTATION)
def test_rotating_back_undoes_it(host, spec, dtype):
    if spec.layout == "interleaved_to_half" or spec.magnitude != 1:
        spec = spec.rerotation()
    module, x = host.module, host.array(made((3, 9, spec.head_dim)), dtype)
    positions = np.arange(9) * 1000003
    there = module.rotate(spec, x, module.table(spec, positions, dtype=dtype), head_axis=0)
    back = module.rotate(spec, there, module.table(spec, -positions, dtype=dtype), head_axis=0)
    # a rotation makes channels, and the errors in them, at most sqrt(2) times as wide: so the second errs, and so the
    # error of the first is turned
    limit = 2 * 2**0.5 * ROTATION[dtype] * np.abs(read(host, x)).max(-1, keepdims=True)
    assert (np.abs(read(host, back) - read(host, x)) <= limit).all()
    assert (np.abs(read(host, there) - read(host, x)) > limit).any()


@every_host
@pytest.mark.parametrize("dtype", ROTATION)
@pytest.mark.parametrize("layout", ["half", "interleaved", "interleaved_to_half"])
@pytest.mark.parametrize("start", [0, 65536, 2**24])
def test_scores_depend_on_the_difference_only(host, start, layout, dtype):
    spec = Rope(128, 1e4, layout, direction="negative" if layout == "interleaved" else "positive")
    q, k = made((1, 128), 1), made((1, 128), 2)
    norms = np.linalg.norm(q) * np.linalg.norm(k)

    def score(m: int, n: int) -> float:
        both = []
        for x, p in ((q, m), (k, n)):
            t = host.module.table(spec, [p], dtype=dtype)
            both.append(read(host, host.module.rotate(spec, host.array(x, dtype), t, head_axis=None)))
        return float((both[0] * both[1]).sum())

    for distance in (0, 1, 17, 300):
        assert abs(score(start + distance, start) - score(distance, 0)) <= 1e-7 * norms
    assert abs(score(start + 18, start) - score(start + 17, start)) > 1e-4 * norms


@every_host
@every_rope
@pytest.mark.parametrize("dtype", ROTATION)
def test_cached_keys_move_by_a_difference(host, spec, dtype):
    module, k = host.module, host.array(made((2, 6, spec.head_dim)), dtype)
    old, new = np.arange(6), np.arange(6) * 7 + 1000
    again = spec.rerotation()
    cached = module.rotate(spec, k, module.table(spec, old, dtype=dtype), head_axis=0)
    moved = module.rotate(again, cached, module.table(again, new - old, dtype=dtype), head_axis=0)
    fresh = module.rotate(spec, k, module.table(spec, new, dtype=dtype), head_axis=0)
    # one rotation against two, of which each, as above, may cost sqrt(2) times its own error
    limit = (1 + 2 * 2**0.5) * ROTATION[dtype] * spec.magnitude * np.abs(read(host, k)).max(-1, keepdims=True)
    assert (np.abs(read(host, moved) - read(host, fresh)) <= limit).all()
    assert (np.abs(read(host, cached) - read(host, fresh)) > limit).any()


@every_host
def test_fewer_key_heads_zero_sizes_and_one_position(host):
    module, spec = host.module, ROPES["partial"]
    t = module.table(spec, range(4))
    for shape in ((2, 8, 4, 20), (2, 1, 4, 20), (0, 8, 4, 20), (2, 0, 4, 20)):
        assert host.read(module.rotate(spec, host.array(made(shape), "float32"), t, head_axis=1))[1] == shape
    empty = module.rotate(spec, host.array(made((2, 8, 0, 20)), "float32"), module.table(spec, []), head_axis=1)
    assert host.read(empty)[1] == (2, 8, 0, 20)
    single = module.rotate(spec, host.array(made((20,)), "float32"), module.table(spec, 5), head_axis=None)
    assert host.read(single)[1] == (20,)


# --- Sizes are checked ---


@every_host
@pytest.mark.parametrize(
    ("shape", "head_axis", "positions", "sentence"),
    [
        # H equals L, and B equals H: lined up with the wrong axis these would broadcast
        (
            (2, 4, 4, 16),
            None,
            (2, 4),
            "rotate.table: expected position axes (), (4,) or (2, 4, 4), or 1 in place of a size, received (2, 4)",
        ),
        (
            (3, 3, 5, 16),
            1,
            (3,),
            "rotate.table: expected position axes (), (5,) or (3, 5), or 1 in place of a size, received (3,)",
        ),
        (
            (3, 3, 1, 16),
            1,
            (3,),
            "rotate.table: expected position axes (), (1,) or (3, 1), or 1 in place of a size, received (3,)",
        ),
        (
            (2, 4, 5, 16),
            1,
            (2, 4),
            "rotate.table: expected position axes (), (5,) or (2, 5), or 1 in place of a size, received (2, 4)",
        ),
        (
            (1, 4, 1, 16),
            1,
            (2, 5),
            "rotate.table: expected position axes (), (1,) or (1, 1), or 1 in place of a size, received (2, 5)",
        ),
        ((5, 16), 0, (5,), "rotate.table: expected position axes (), or 1 in place of a size, received (5,)"),
        ((2, 4, 5, 15), 1, (5,), "rotate.x: expected shape (..., 16), received (2, 4, 5, 15)"),
        (
            (2, 4, 5, 16),
            3,
            (5,),
            "rotate.head_axis: expected None or an axis of x other than the last, received 3 for an x of 4 axes",
        ),
        (
            (2, 4, 5, 16),
            True,
            (5,),
            "rotate.head_axis: expected None or an axis of x other than the last, received True for an x of 4 axes",
        ),
    ],
)
def test_sizes_do_not_broadcast_by_accident(host, shape, head_axis, positions, sentence):
    spec = ROPES["half"]
    t = host.module.table(spec, np.arange(np.prod(positions)).reshape(positions))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
        host.module.rotate(spec, host.array(made(shape), "float32"), t, head_axis=head_axis)
    assert str(caught.value) == sentence


@every_host
def test_tables_that_are_none(host):
    spec, module = ROPES["half"], host.module
    x = host.array(made((5, 16)), "float32")
    cos, sin = module.table(spec, range(5))
    array, point = type(cos).__name__, host.array(1.0, "float32")
    integers = [host.array(np.ones((5, 8)), "int32")] * 2
    for received, wrong in {
        array: cos,
        "NoneType": None,
        "int": 3,
        "str": "cs",
        "tuple of 0": (),
        "tuple of 1": (cos,),
        "tuple of 3": (cos, sin, sin),
        "list of 3": [cos, sin, sin],
        f"{array} and int": (cos, 3),
        "NoneType and list": [None, [1.0]],
        "float32 and float64": (cos, module.table(spec, range(5), dtype="float64").sin),
        "int32 and int32": integers,
        "shapes (5, 8) and (4, 8)": (cos, sin[:4]),
        "shapes (5, 8) and (8,)": (cos, sin[0]),
        "shapes (5, 4) and (5, 4)": (cos[:, :4], sin[:, :4]),
        "shapes () and ()": (point, point),
    }.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
            module.rotate(spec, x, wrong, head_axis=None)
        assert str(caught.value) == (
            "rotate.table: expected Table(cos, sin), two arrays of one float dtype and one shape (*P, 8), "
            f"received {received}"
        )


def shell(framework: str) -> Any:
    module = {"torch": "posenc.torch_impl.modules", "tf": "posenc.tf_impl.layers"}[framework]
    return importlib.import_module(module).RotaryEmbedding


@pytest.mark.parametrize("framework", ["torch", "tf"])
@pytest.mark.parametrize(("shape", "head_axis"), [((2, 3, 16, 16), 1), ((2, 16, 3, 16), -2), ((2, 16, 16), None)])
def test_shells_refuse_one_position_for_all_tokens(framework, shape, head_axis):
    # `16` where `range(16)` is meant would turn every token by one angle: no signal of order is left
    layer, host = shell(framework)(ROPES["half"], head_axis=head_axis), next(h for h in HOSTS if h.name == framework)
    q = host.array(made(shape), "float32")
    with pytest.raises(ValueError, match="expected a position for each of 16 tokens, received one for all"):
        layer(q, q, 16)
    one = q[:, :, :1] if head_axis == 1 else q[:, :1]
    for part in layer(one, one, 16):  # a decode step of one row
        assert host.read(part)[1] == tuple(one.shape)


@pytest.mark.parametrize("framework", ["torch", "tf"])
def test_shells_refuse_what_they_are_built_with(framework):
    make, long = shell(framework), LongRope([1.0] * 8, [2.0] * 8, original_length=64)
    for spec, start in (
        (Sinusoidal.vaswani(16), "RotaryEmbedding.spec: expected a rotary specification such as Rope"),
        (Rope(16, 1e4, "half", scaling=long), "Rope.length: expected a length, by spec.at_length(n), with LongRope"),
    ):
        with pytest.raises(SpecError, match=f"^{re.escape(start)}"):
            make(spec, head_axis=1)
    for axis, received in (("x", "'x'"), (True, "True"), (1.0, "1.0"), ([1], "[1]")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
            make(ROPES["half"], head_axis=axis)
        assert str(caught.value) == f"RotaryEmbedding.head_axis: expected None or an integer, received {received}"
    for axis in (None, 1, -3, np.int64(2)):
        assert make(ROPES["half"], head_axis=axis).head_axis == axis


def test_columns_say_the_same_of_the_same():
    for name in ("Table", "rotate"):
        assert len({inspect.getdoc(getattr(host.module, name)).splitlines()[0] for host in HOSTS}) == 1


@every_host
def test_each_function_has_its_own_specifications(host):
    module, rope, sinusoidal = host.module, ROPES["half"], Sinusoidal.vaswani(16)
    x = host.array(made((5, 16)), "float32")
    for call in (lambda: module.encode(rope, range(5)), lambda: module.add(rope, x)):
        with pytest.raises(SpecError, match="expected an encoding such as Sinusoidal"):
            call()
    t = module.table(rope, range(5))
    for call in (lambda: module.table(sinusoidal, range(5)), lambda: module.rotate(sinusoidal, x, t, head_axis=None)):
        with pytest.raises(SpecError, match="expected a rotary specification such as Rope"):
            call()
    long = Rope(16, 1e4, "half", scaling=LongRope([1.0] * 8, [2.0] * 8, original_length=64))
    with pytest.raises(SpecError, match=r"Rope\.length: expected a length, by spec\.at_length\(n\), with LongRope"):
        module.table(long, range(5))


@every_host
@pytest.mark.parametrize("positions", [[0.5, 2**31], [True], ["one"], [[1, 2], [3]]])
def test_positions_are_refused_as_encode_refuses_them(host, positions):
    sentences = []
    for where, call in (
        ("encode", lambda: host.module.encode(Sinusoidal.vaswani(16), positions)),
        ("table", lambda: host.module.table(ROPES["half"], positions)),
    ):
        with pytest.raises(ValueError, match=rf"^{where}\.positions: expected") as caught:
            call()
        sentences.append(str(caught.value).removeprefix(where))
    assert sentences[0] == sentences[1]


@every_host
def test_nothing_is_written_into_what_is_given(host):
    spec, module = ROPES["last"], host.module
    for dtype in DTYPES:
        x = host.array(made((2, 5, 17)), dtype)
        t = module.table(spec, range(5))
        before = [host.read(part)[2] for part in (x, *t)]
        result = module.rotate(spec, x, t, head_axis=0)
        assert host.read(result)[2] != before[0]
        assert [host.read(part)[2] for part in (x, *t)] == before


def test_phases_of_a_negative_direction_are_those_of_minus_the_position():
    forward, back = ROPES["half"], Rope(16, 1e4, "half", direction="negative")
    for host in HOSTS:
        first, second = (host.read(host.module.phase(spec, p))[2] for spec, p in ((forward, -9), (back, 9)))
        assert first == second
    assert Fraction(back.plan().increments[0]) == -Fraction(forward.plan().increments[0])
