"""Ports that went wrong, in plain NumPy: what was meant, what came out, and what has to be said about it."""

# ruff: noqa: ARG005 - a port takes what any of them needs
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

HALF = ml_dtypes.bfloat16


class Port(NamedTuple):
    """`make(size, rng)` gives what was meant, what came out, and how to compare them."""

    name: str
    differences: tuple[str, ...]
    says: str
    make: Callable[[Any, np.random.Generator], tuple[Any, Any, dict[str, Any]]]
    report: str = "no report"

    def __str__(self):
        return self.name


# --- Rotary tables and rotations ---


def frequencies(dim, base=10000.0, denominator=None):
    n = dim // 2
    return base ** (-np.arange(n) / (denominator or n))


def llama3(f, factor=8.0, original=8192):
    share = np.clip((original * f / (2 * np.pi) - 1) / 3, 0, 1)
    return f * (share + (1 - share) / factor)


def yarn(f, dim, base=10000.0, factor=16.0, original=4096):
    low, high = (dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base)) for turns in (32, 1))
    low, high = max(np.floor(low), 0), min(np.ceil(high), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    return f * (ramp / factor + 1 - ramp)


def factors(dim):
    """As LongRope has them, one a pair."""
    return 1 + 40 * np.random.default_rng(dim).random(dim // 2)


def table(f, magnitude=1.0, shift=0, dtype=np.float32, positions=None, angle=None, frequency=None):
    """`positions -> (cos, sin)`; angles in float64 unless a dtype is said for a step."""

    def made(p):
        p = np.asarray(p) + shift
        p = p.astype(positions).astype(float) if positions else p.astype(float)
        a = p[:, None] * (f.astype(frequency).astype(float) if frequency else f)
        a = a.astype(angle).astype(float) if angle else a
        return tuple((magnitude * part).astype(dtype) for part in (np.cos(a), np.sin(a)))

    return made


def rotated(made, layout, dim, width=None, channels=slice(None)):
    """`(x, positions) -> x'` in float32, by the table `made`."""
    width = width or dim
    u, v = (np.arange(width // 2), width // 2 + np.arange(width // 2))
    if layout == "interleaved":
        u, v = 2 * np.arange(width // 2), 2 * np.arange(width // 2) + 1

    def turn(x, positions):
        cos, sin = made(positions)
        part, result = x[:, channels][:, :width], x.astype(np.float32).copy()
        turned = np.empty(part.shape, np.float32)
        turned[:, u] = part[:, u] * cos - part[:, v] * sin
        turned[:, v] = part[:, v] * cos + part[:, u] * sin
        result[:, np.arange(dim)[channels][:width]] = turned
        return result

    return turn


def tables(right, wrong, **options):
    """A pair of frequencies and options for `table`."""

    def make(dim, rng):
        return table(right(dim)), table(wrong(dim), **options), {"what": "table"}

    return make


def of_tables(change):
    def make(dim, rng):
        meant = table(frequencies(dim))
        return meant, lambda p: change(*meant(p)), {"what": "table"}

    return make


def doubled(first, second, base=10000.0):
    """Each pair twice: the halves concatenated, or repeated."""
    ways = {"half": lambda part: np.tile(part, 2), "interleaved": lambda part: np.repeat(part, 2, axis=1)}

    def make(dim, rng):
        parts = table(frequencies(dim))(np.arange(300)), table(frequencies(dim, base))(np.arange(300))
        e, r = (tuple(ways[way](part) for part in both) for way, both in zip((first, second), parts, strict=True))
        return e, r, {"what": "table"}

    return make


def turns(wrong, layout="half", **options):
    """A rotation of half pairs, and another made by `wrong(dim)`."""

    def make(dim, rng):
        meant = rotated(table(frequencies(dim)), layout, dim)
        return meant, wrong(dim, **options), {"what": "rotation", "head_dim": dim}

    return make


def _weights(dim):
    """Weights in the layout `interleaved`, and a model that turns halves, seen from the channels before the port."""
    order = np.arange(dim).reshape(2, -1).T.ravel()
    turn = rotated(table(frequencies(dim)), "half", dim)
    return lambda x, p: turn(x[:, order], p)[:, np.argsort(order)]


def _permuted(dim):
    """The weights were in this layout already: their channels are permuted a second time."""
    order = np.arange(dim).reshape(2, -1).T.ravel()
    turn = rotated(table(frequencies(dim)), "half", dim)
    return lambda x, p: turn(x[:, order], p)


def _mixed(dim):
    """`rotate_half` with a table that repeats each pair."""
    made = table(frequencies(dim))

    def turn(x, p):
        cos, sin = (np.repeat(part, 2, axis=1) for part in made(p))
        return x * cos + np.concatenate([-x[:, dim // 2 :], x[:, : dim // 2]], axis=1) * sin

    return turn


def _partial(layout="half", channels=slice(None), denominator=None):
    def make(dim, rng):
        width = 2 * (dim // 4)
        meant = rotated(table(frequencies(width)), "half", dim, width)
        other = rotated(table(frequencies(width, denominator=denominator and dim // 2)), layout, dim, width, channels)
        return meant, other, {"what": "rotation", "head_dim": dim}

    return make


def _full(dim, rng):
    width = 2 * (dim // 4)
    meant = rotated(table(frequencies(width)), "half", dim, width)
    return meant, rotated(table(frequencies(dim)), "half", dim), {"what": "rotation", "head_dim": dim}


def _bf16(turn):
    return lambda x, p: turn(x, p).astype(HALF)


REPORT = "https://github.com/"
ROTARY = [
    Port(
        "base_500000",
        ("base",),
        "10000 expected, 500000 received",
        tables(frequencies, lambda d: frequencies(d, 5e5)),
        REPORT + "huggingface/candle/pull/3746",
    ),
    Port("base_1000000", ("base",), "1000000 received", tables(frequencies, lambda d: frequencies(d, 1e6))),
    Port(
        "base_not_read",
        ("base",),
        "1000000 expected, 10000 received",
        tables(lambda d: frequencies(d, 1e6), frequencies),
    ),
    Port("head_dim_derived", ("base",), "a width of", tables(frequencies, lambda d: frequencies(d, 1e4, d // 2 + 3))),
    Port(
        "denominator_less_1",
        ("base",),
        "exponents are j /",
        tables(frequencies, lambda d: frequencies(d, 1e4, d // 2 - 1)),
    ),
    Port("linear", ("scaling",), "1/4 of", tables(frequencies, lambda d: frequencies(d) / 4)),
    Port("linear_missing", ("scaling",), "8 times", tables(lambda d: frequencies(d) / 8, frequencies)),
    Port(
        "ntk",
        ("base",),
        "slower by 4",
        tables(frequencies, lambda d: frequencies(d, 1e4 * 4 ** (d / (d - 2)))),
        REPORT + "huggingface/transformers/issues/25306",
    ),
    Port(
        "llama3_missing",
        ("scaling",),
        "faster by 8",
        tables(lambda d: llama3(frequencies(d, 5e5)), lambda d: frequencies(d, 5e5)),
        REPORT + "chrishayuk/larql/pull/407",
    ),
    Port(
        "llama3_factor",
        ("scaling",),
        "slower by 32, expected by 8",
        tables(lambda d: llama3(frequencies(d, 5e5)), lambda d: llama3(frequencies(d, 5e5), 32.0)),
        REPORT + "meta-llama/llama-models/issues/241",
    ),
    Port("yarn_missing", ("scaling",), "faster by 16", tables(lambda d: yarn(frequencies(d), d), frequencies)),
    Port(
        "base_and_llama3",
        ("base", "scaling"),
        "slower by 8",
        tables(frequencies, lambda d: llama3(frequencies(d, 5e5))),
    ),
    Port(
        "base_behind_llama3",
        ("base",),
        "500000 expected, 10000 received, behind a scaling that both have",
        tables(lambda d: llama3(frequencies(d, 5e5), original=256), lambda d: llama3(frequencies(d), original=256)),
    ),
    Port(
        "base_behind_yarn",
        ("base",),
        "10000 expected, 500000 received, behind a scaling that both have",
        tables(lambda d: yarn(frequencies(d), d, 1e4, 4, 512), lambda d: yarn(frequencies(d, 5e5), d, 5e5, 4, 512)),
    ),
    Port(
        "base_behind_longrope",
        ("base",),
        "50 times the expected, behind the same scaling",
        tables(lambda d: frequencies(d) / factors(d), lambda d: frequencies(d, 5e5) / factors(d)),
    ),
    Port(
        "base_and_no_llama3",
        ("base", "scaling"),
        "are faster by 8",
        tables(lambda d: llama3(frequencies(d, 5e5), original=256), frequencies),
    ),
    Port(
        "base_and_no_yarn",
        ("base", "scaling"),
        "are faster by 4",
        tables(lambda d: yarn(frequencies(d), d, 1e4, 4, 512), lambda d: frequencies(d, 5e5)),
    ),
    Port(
        "short_yarn_missing",
        ("scaling",),
        "faster by 4",
        tables(lambda d: yarn(frequencies(d), d, 1e4, 4, 512), frequencies),
    ),
    Port(
        "llama3_in_place_of_yarn",
        ("scaling",),
        "received: ",
        tables(lambda d: yarn(frequencies(d), d), lambda d: llama3(frequencies(d))),
    ),
    Port("base_and_linear", ("base", "scaling"), "1/4 of", tables(frequencies, lambda d: frequencies(d, 5e5) / 4)),
    Port(
        "magnitude",
        ("scaling",),
        "1.1386 times",
        tables(frequencies, frequencies, magnitude=0.1 * np.log(4) + 1),
        REPORT + "vllm-project/vllm/pull/46280",
    ),
    Port("offset", ("offset",), "row p + 1", tables(frequencies, frequencies, shift=1)),
    Port("decode_offset", ("offset",), "row p - 1", tables(frequencies, frequencies, shift=-1)),
    Port("prompt_offset", ("offset",), "row p + 37", tables(frequencies, frequencies, shift=37)),
    Port(
        "offset_and_base", ("offset", "base"), "row p + 2", tables(frequencies, lambda d: frequencies(d, 5e5), shift=2)
    ),
    Port(
        "bfloat16_table",
        ("dtype",),
        "rounded to bfloat16",
        tables(frequencies, frequencies, dtype=HALF),
        REPORT + "EleutherAI/gpt-neox/pull/1003",
    ),
    Port("float16_table", ("dtype",), "rounded to float16", tables(frequencies, frequencies, dtype=np.float16)),
    Port(
        "bfloat16_inv_freq",
        ("dtype",),
        "frequencies rounded to bfloat16",
        tables(frequencies, frequencies, frequency=HALF),
        REPORT + "NVIDIA-NeMo/Automodel/pull/2549",
    ),
    Port(
        "float16_inv_freq",
        ("dtype",),
        "frequencies rounded to float16",
        tables(frequencies, frequencies, frequency=np.float16),
    ),
    Port(
        "bfloat16_positions",
        ("dtype",),
        "positions rounded to bfloat16",
        tables(frequencies, frequencies, positions=HALF),
        REPORT + "huggingface/transformers/issues/28685",
    ),
    Port("bfloat16_angles", ("dtype",), "angles are rounded to bfloat16", tables(frequencies, frequencies, angle=HALF)),
    Port(
        "bfloat16_all",
        ("dtype",),
        "positions and frequencies",
        tables(frequencies, frequencies, dtype=HALF, angle=HALF, positions=HALF, frequency=HALF),
    ),
    Port(
        "bfloat16_and_base",
        ("base", "dtype"),
        "500000 received",
        tables(frequencies, lambda d: frequencies(d, 5e5), dtype=HALF),
    ),
    Port("sines_negated", ("sign",), "sines are negated", of_tables(lambda c, s: (c, -s))),
    Port("sines_first", ("layout",), "swapped", of_tables(lambda c, s: (s, c))),
    Port("pairs_reversed", ("layout",), "another order", of_tables(lambda c, s: (c[:, ::-1], s[:, ::-1]))),
    Port("half_as_interleaved", ("layout",), "expected half, received interleaved", doubled("half", "interleaved")),
    Port("interleaved_as_half", ("layout",), "expected interleaved, received half", doubled("interleaved", "half")),
    Port("layout_and_base", ("layout", "base"), "received interleaved", doubled("half", "interleaved", 5e5)),
    Port(
        "rotation_interleaved",
        ("layout",),
        "expected half, received interleaved",
        turns(lambda d: rotated(table(frequencies(d)), "interleaved", d)),
        REPORT + "huggingface/transformers/issues/25199",
    ),
    Port("weights_interleaved", ("layout",), "pairs are in another order", turns(_weights)),
    Port("permuted_twice", ("layout",), "written to", turns(_permuted), REPORT + "ggml-org/llama.cpp/pull/3364"),
    Port("mixed_layouts", ("layout",), "different angles", turns(_mixed), REPORT + "labscommunity/cascadia/pull/69"),
    Port(
        "rotation_backwards",
        ("sign",),
        "positions run the other way",
        turns(lambda d: rotated(table(-frequencies(d)), "half", d)),
    ),
    Port(
        "rotation_offset", ("offset",), "row p + 1", turns(lambda d: rotated(table(frequencies(d), shift=1), "half", d))
    ),
    Port(
        "rotation_layout_and_offset",
        ("layout", "offset"),
        "row p - 1",
        turns(lambda d: rotated(table(frequencies(d), shift=-1), "interleaved", d)),
    ),
    Port(
        "rotation_layout_and_sign",
        ("layout", "sign"),
        "received interleaved",
        turns(lambda d: rotated(table(-frequencies(d)), "interleaved", d)),
    ),
    Port(
        "rotation_bfloat16", ("dtype",), "bfloat16", turns(lambda d: _bf16(rotated(table(frequencies(d)), "half", d)))
    ),
    Port("rotary_width_whole", ("layout",), "received half", _full, REPORT + "lablup/mlxcel/issues/1340"),
    Port("rotary_channels_late", ("layout",), "received half on channels 1", _partial(channels=slice(1, None))),
    Port("partial_interleaved", ("layout",), "received interleaved", _partial("interleaved")),
    Port("partial_denominators", ("base",), "base", _partial(denominator=True), "no report: pie 603"),
]


# --- Sinusoidal and learned tables, weights ---


def sinusoid(dim, length=600, layout="interleaved", shift=0, base=10000.0, denominator=None, dtype=np.float32):
    f = frequencies(dim, base, denominator)
    angles = (np.arange(length) + shift)[:, None] * f
    first, second = np.sin(angles), np.cos(angles)
    if "cos_first" in layout or layout == "cos_sin":
        first, second = second, first
    parts = np.stack([first, second], axis=-1 if layout.startswith("interleaved") else 1)
    return parts.reshape(length, -1).astype(dtype)


def sinusoids(right, wrong):
    def make(dim, rng):
        return sinusoid(dim, **right), sinusoid(dim, **wrong), {"what": "encoding"}

    return make


def learned(change, rows=512):
    """Trained rows, and what became of them."""

    def make(dim, rng):
        rows_ = rng.standard_normal((rows + 2, dim)).astype(np.float32)
        expected, received = change(rows_, rng)
        return expected, received, {"what": "encoding"}

    return make


def _grid(rows, rng):
    patches = rows[: 12 * 20]
    return patches, patches.reshape(12, 20, -1).swapaxes(0, 1).reshape(240, -1)


def _projection(rows, rng):
    """Rows of a query projection of 4 heads of 128, half to interleaved."""
    heads = rows[:512].reshape(4, 2, 64, -1)
    return rows[:512], heads.swapaxes(1, 2).reshape(512, -1)


def _zero_row(rows, rng):
    empty = rows.copy()
    empty[1] = 0
    return rows, empty


def _square(rows, rng):
    n = min(rows.shape)
    return rows[:n, :n], rows[:n, :n].T.copy()


ENCODINGS = [
    Port(
        "sin_cos",
        ("layout",),
        "expected interleaved, received sin_cos",
        sinusoids({}, {"layout": "sin_cos"}),
        REPORT + "facebookresearch/fairseq/issues/4648",
    ),
    Port(
        "cos_sin",
        ("layout",),
        "expected sin_cos, received cos_sin",
        sinusoids({"layout": "sin_cos"}, {"layout": "cos_sin"}),
        REPORT + "flashinfer-ai/flashinfer/issues/3819",
    ),
    Port("interleaved", ("layout",), "expected sin_cos, received interleaved", sinusoids({"layout": "sin_cos"}, {})),
    Port("cosines_first", ("layout",), "cosines first", sinusoids({}, {"layout": "interleaved_cos_first"})),
    Port(
        "transposed", ("layout",), "rows and columns", lambda d, rng: (sinusoid(d), sinusoid(d).T, {"what": "encoding"})
    ),
    Port(
        "denominator_less_1",
        ("base",),
        "exponents are j /",
        lambda d, rng: (sinusoid(d), sinusoid(d, denominator=d // 2 - 1), {"what": "encoding"}),
        REPORT + "kohya-ss/sd-scripts/issues/1187",
    ),
    Port(
        "layout_and_denominator",
        ("layout", "base"),
        "received sin_cos",
        lambda d, rng: (sinusoid(d), sinusoid(d, layout="sin_cos", denominator=d // 2 - 1), {"what": "encoding"}),
    ),
    Port("padding_offset", ("offset",), "row p + 2", sinusoids({}, {"shift": 2})),
    Port("layout_and_offset", ("layout", "offset"), "row p - 1", sinusoids({}, {"shift": -1, "layout": "sin_cos"})),
    Port("sinusoid_base", ("base",), "10000 expected, 100 received", sinusoids({}, {"base": 100.0})),
    Port("sinusoid_bfloat16", ("dtype",), "of the expected rounded to bfloat16", sinusoids({}, {"dtype": HALF})),
    Port(
        "layout_and_float16", ("layout", "dtype"), "float16", sinusoids({}, {"dtype": np.float16, "layout": "cos_sin"})
    ),
    Port(
        "descending",
        ("sign",),
        "run the other way",
        lambda d, rng: (sinusoid(d), sinusoid(d)[::-1], {"what": "encoding"}),
    ),
    Port(
        "opt_offset",
        ("offset",),
        "row p + 2",
        learned(lambda rows, rng: (rows[:-2], rows[2:])),
        REPORT + "google-research/bert/issues/190",
    ),
    Port("roberta_offset", ("offset",), "row p - 2", learned(lambda rows, rng: (rows[2:], rows[:-2]))),
    Port("roberta_whole", ("offset",), "512 rows expected, 514 received", learned(lambda rows, rng: (rows[2:], rows))),
    Port("one_row_off", ("offset",), "row p - 1", learned(lambda rows, rng: (rows[1:-1], rows[:-2]))),
    Port("learned_bfloat16", ("dtype",), "bfloat16", learned(lambda rows, rng: (rows, rows.astype(HALF)))),
    Port("learned_float16", ("dtype",), "float16", learned(lambda rows, rng: (rows, rows.astype(np.float16)))),
    Port(
        "offset_and_bfloat16",
        ("offset", "dtype"),
        "row p + 1",
        learned(lambda rows, rng: (rows[:-1], rows[1:].astype(HALF))),
    ),
    Port("scaled", ("scaling",), "values are 16 times", learned(lambda rows, rng: (rows, rows * np.float32(16)))),
    Port(
        "scaled_unevenly",
        ("scaling",),
        "times the expected",
        learned(lambda rows, rng: (rows, rows * np.float32(rows.shape[1] ** 0.5 * 1.7))),
    ),
    Port("negated", ("sign",), "values are negated", learned(lambda rows, rng: (rows, -rows))),
    Port("grid_by_columns", ("layout",), "a grid of 12 by 20", learned(_grid)),
    Port("projection_permuted", ("layout",), "row 1 of the received is row 64", learned(_projection)),
    Port(
        "channels_permuted",
        ("layout",),
        "another order",
        learned(lambda rows, rng: (rows, rows[:, rng.permutation(rows.shape[1])])),
    ),
    Port(
        "channels_half",
        ("layout",),
        "from half to interleaved",
        learned(lambda rows, rng: (rows, rows.reshape(len(rows), 2, -1).swapaxes(1, 2).reshape(rows.shape))),
    ),
    Port("square_transposed", ("layout",), "rows and columns", learned(_square)),
    Port("padding_row_zero", ("unexplained",), "row 1 of the received is zero", learned(_zero_row)),
    Port(
        "other_weights",
        ("unexplained",),
        "no cause",
        learned(lambda rows, rng: (rows, rng.standard_normal(rows.shape).astype(np.float32))),
    ),
]


# --- Biases ---


def slopes(heads):
    whole = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8 * (h + 1) / whole) for h in range(whole)]
    return np.array(first + [2.0 ** (-4 * (2 * h + 1) / whole) for h in range(heads - whole)])


def alibi(m, form=lambda d: d, cast=np.int64, dtype=np.float32):
    def bias(q, k):
        q, k = (x.astype(cast).astype(np.int64) for x in (q, k))
        return (m[:, None, None] * form(k - q[:, None])).astype(dtype)

    return bias


def bucket(distance, buckets=32, most=128, both=True):
    side = buckets // 2 if both else buckets
    n = np.abs(distance) if both else np.maximum(-distance, 0)
    exact = side // 2
    far = np.floor(np.log(np.maximum(n, 1) / exact) / np.log(most / exact) * (side - exact) + 1e-9)
    return np.where(n < exact, n, np.minimum(exact + far, side - 1)).astype(int) + side * (both and distance > 0)


def t5(wrong, weights=True, both=True):
    """Buckets, or the numbers of a trained table in them; `wrong(distance)` and the table of `(buckets, heads)`."""

    def make(heads, rng):
        table_ = rng.standard_normal((32, heads)).astype(np.float32)

        def of(rule, rows=table_):
            def bias(q, k):
                found = rule(k - q[:, None])
                return np.moveaxis(rows[found], -1, 0) if weights else found

            return bias

        return of(lambda d: bucket(d, both=both)), wrong(of, table_), {"what": "bias"}

    return make


def slopes_of(wrong, right=alibi):
    def make(heads, rng):
        return right(slopes(heads)), wrong(slopes(heads)), {"what": "bias"}

    return make


def window(height, width, rows, *, swapped=False, way=1):
    """Swin's bias of a window: `(tokens, tokens, heads)` rows of a table, heads first."""
    y, x = np.divmod(np.arange(height * width), width)
    dy, dx = (way * (part[:, None] - part) for part in (y, x))
    dy, dx = dy + height - 1, dx + width - 1
    found = dx * (2 * height - 1) + dy if swapped else dy * (2 * width - 1) + dx
    return np.moveaxis(rows[found], -1, 0)


def windows(height, width, **options):
    def make(heads, rng):
        rows = rng.standard_normal(((2 * height - 1) * (2 * width - 1), heads)).astype(np.float32)
        return window(height, width, rows), window(height, width, rows, **options), {"what": "bias"}

    return make


def _heads_and_direction(heads, rng):
    expected, received, how = windows(5, 6, way=-1)(heads, rng)
    return expected, received[::-1], how


def _heads_last(heads, rng):
    right = alibi(slopes(heads))(np.arange(30), np.arange(40))
    return right, np.moveaxis(right, 0, 2), {"what": "bias"}


def geometric(m):
    return 2.0 ** (-8 * np.arange(1, len(m) + 1) / len(m))


BIASES = [
    Port(
        "t5_direction",
        ("sign",),
        "(k, q)",
        t5(lambda of, rows: of(lambda d: bucket(-d))),
        REPORT + "dmlc/gluon-nlp/pull/1470",
    ),
    Port("t5_direction_of_buckets", ("sign",), "(k, q)", t5(lambda of, rows: of(lambda d: bucket(-d)), weights=False)),
    Port(
        "t5_direction_causal",
        ("sign",),
        "(k, q)",
        t5(lambda of, rows: of(lambda d: bucket(-d, both=False)), weights=False, both=False),
    ),
    Port(
        "t5_one_side",
        ("sign",),
        "share one bucket in the received",
        t5(lambda of, rows: of(lambda d: bucket(d, both=False))),
    ),
    Port(
        "t5_both_sides",
        ("sign",),
        "share one bucket in the expected",
        t5(lambda of, rows: of(bucket), weights=False, both=False),
    ),
    Port(
        "t5_buckets",
        ("scaling",),
        "15 buckets up to 91 expected, 7",
        t5(lambda of, rows: of(lambda d: bucket(d, 16)), weights=False),
    ),
    Port("t5_max_distance", ("scaling",), "other bounds", t5(lambda of, rows: of(lambda d: bucket(d, most=256)))),
    Port("t5_offset", ("offset",), "d + 1", t5(lambda of, rows: of(lambda d: bucket(d + 1)))),
    Port("t5_rows_reversed", ("layout",), "rows of the table", t5(lambda of, rows: of(bucket, rows[::-1]))),
    Port(
        "t5_rows_shifted", ("layout",), "rows of the table", t5(lambda of, rows: of(bucket, np.roll(rows, 1, axis=0)))
    ),
    Port("t5_bfloat16", ("dtype",), "bfloat16", t5(lambda of, rows: of(bucket, rows.astype(HALF)))),
    Port(
        "t5_direction_and_bfloat16",
        ("sign", "dtype"),
        "(k, q)",
        t5(lambda of, rows: of(lambda d: bucket(-d), rows.astype(HALF))),
    ),
    Port(
        "t5_other_weights",
        ("unexplained",),
        "no cause",
        t5(lambda of, rows: of(bucket, np.random.default_rng(7).standard_normal(rows.shape))),
    ),
    Port("t5_direction_and_offset", ("offset", "sign"), "(k, q)", t5(lambda of, rows: of(lambda d: bucket(3 - d)))),
    Port("swin_direction", ("sign",), "(k, q)", windows(7, 7, way=-1)),
    Port(
        "swin_axes",
        ("layout",),
        "axes of a window of 7 by 7",
        windows(7, 7, swapped=True),
        REPORT + "huggingface/pytorch-image-models/pull/2541",
    ),
    Port("swin_axes_of_oblong", ("layout",), "rows of the table", windows(4, 6, swapped=True)),
    Port(
        "noise",
        ("unexplained",),
        "no cause",
        lambda heads, rng: (
            alibi(slopes(heads)),
            lambda q, k: rng.standard_normal((heads, len(q), len(k))),
            {"what": "bias"},
        ),
    ),
    Port(
        "alibi_sign",
        ("sign",),
        "negated",
        slopes_of(lambda m: alibi(-m)),
        REPORT + "meta-pytorch/attention-gym/pull/86",
    ),
    Port("alibi_symmetric", ("sign",), "symmetric", slopes_of(lambda m: alibi(m, lambda d: -np.abs(d)))),
    Port(
        "alibi_anchored",
        ("offset",),
        "softmax",
        slopes_of(lambda m: lambda q, k: (m[:, None, None] * (k + 0 * q[:, None])).astype(np.float32)),
    ),
    Port("alibi_bfloat16", ("dtype",), "bfloat16", slopes_of(lambda m: alibi(m, dtype=HALF))),
    Port("alibi_positions", ("dtype",), "positions rounded to bfloat16", slopes_of(lambda m: alibi(m, cast=HALF))),
    Port("alibi_doubled", ("scaling",), "2 times", slopes_of(lambda m: alibi(2 * m))),
    Port("alibi_offset", ("offset",), "d - 1", slopes_of(lambda m: alibi(m, lambda d: d - 1))),
]
OF_HEADS = [
    Port(
        "alibi_geometric",
        ("scaling",),
        "other slopes",
        slopes_of(lambda m: alibi(geometric(m))),
        REPORT + "bigscience-workshop/Megatron-DeepSpeed/issues/227",
    ),
    Port("alibi_geometric_and_sign", ("scaling", "sign"), "negated", slopes_of(lambda m: alibi(-geometric(m)))),
    Port("alibi_heads_reversed", ("layout",), "heads are in another order", slopes_of(lambda m: alibi(m[::-1]))),
    Port(
        "t5_heads_rolled",
        ("layout",),
        "heads are in another order",
        t5(lambda of, rows: of(bucket, np.roll(rows, 1, axis=1))),
    ),
    Port(
        "t5_heads_and_direction",
        ("layout", "sign"),
        "heads",
        t5(lambda of, rows: of(lambda d: bucket(-d), rows[:, ::-1])),
    ),
    Port(
        "swin_heads_and_direction",
        ("layout", "sign"),
        "heads",
        _heads_and_direction,
    ),
    Port(
        "heads_last",
        ("layout",),
        "axes are in another order",
        _heads_last,
    ),
]
