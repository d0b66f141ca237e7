"""Projections between the pair layouts: exact row maps, exact inverses, equal scores, in four frameworks."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch

from posenc import Rope, SpecError
from posenc.interop.layouts import concatenated, grouped, permute
from posenc.numpy_impl import rotate, table

COUNTS = [(32, 4), (32, 8), (8, 1), (6, 3), (4, 4)]  # 64 with 8 would hide a wrong head count
FULL = Rope(8, base=1e4, layout="half")
WHOLE_AND_PARTIAL = [
    FULL,
    Rope(12, base=1e4, layout="half", rotary_dim=6),
    Rope(9, base=1e4, layout="half", rotary_dim=4, rotary_channels="last"),
]


def other(spec):
    return dataclasses.replace(spec, layout="interleaved" if spec.layout == "half" else "half")


def pair_of(spec, channel):
    """(pair, whether it is v) of a channel of a head, or the channel itself where it stays; by the definition."""
    start = spec.head_dim - spec.rotary_dim if spec.rotary_channels == "last" else 0
    place = channel - start
    if not 0 <= place < spec.rotary_dim:
        return channel
    return (place % spec.pairs, place >= spec.pairs) if spec.layout == "half" else (place // 2, place % 2 == 1)


def expected_rows(spec, heads):
    """The rows that a projection of `heads` heads has in the other layout, each named by its number in this one."""
    where = {pair_of(spec, channel): channel for channel in range(spec.head_dim)}
    channels = [where[pair_of(other(spec), channel)] for channel in range(spec.head_dim)]
    return [head * spec.head_dim + channel for head in range(heads) for channel in channels]


def numbered(rows, width=2, dtype=np.int64):
    """Row i is filled with i."""
    return np.repeat(np.arange(rows), width).reshape(rows, width).astype(dtype)


@pytest.mark.parametrize("spec", [*WHOLE_AND_PARTIAL, *map(other, WHOLE_AND_PARTIAL)], ids=repr)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_every_row_goes_where_the_definition_says(spec, counts):
    for heads in counts:
        weights = numbered(heads * spec.head_dim)
        kept = weights.copy()
        there = permute(spec, weights, to=other(spec).layout, heads=heads)
        assert there[:, 0].tolist() == there[:, 1].tolist() == expected_rows(spec, heads)
        assert np.array_equal(permute(other(spec), there, to=spec.layout, heads=heads), weights)
        assert np.array_equal(weights, kept)
        assert not np.shares_memory(there, weights)


def llama_cpp_3364(weights, heads, key_heads):
    """Half to interleaved as llama.cpp had it: `n_head //= n_head_kv` where the key heads were meant."""
    count = heads // key_heads
    return weights.reshape(count, 2, len(weights) // count // 2, -1).swapaxes(1, 2).reshape(weights.shape)


@pytest.mark.parametrize("counts", [*COUNTS[:4], (64, 8)], ids=str)
def test_the_row_maps_see_the_wrong_head_count(counts):
    heads, key_heads = counts
    spec = Rope(32, base=1e4, layout="half")
    weights = numbered(key_heads * 32)
    right = expected_rows(spec, key_heads)
    hidden = counts == (64, 8)
    assert (llama_cpp_3364(weights, heads, key_heads)[:, 0].tolist() == right) is hidden
    assert permute(spec, weights, to="interleaved", heads=key_heads)[:, 0].tolist() == right


def test_it_is_the_permutation_of_the_conversion_script_of_llama():
    """Which goes from Meta's interleaved rows to those of transformers, and was checked on the real weights."""
    heads, width = 6, 5
    weights = np.arange(heads * 8 * width).reshape(heads * 8, width)
    script = weights.reshape(heads, 8 // 2, 2, width).swapaxes(1, 2).reshape(heads * 8, width)
    assert np.array_equal(permute(other(FULL), weights, to="half", heads=heads), script)


@pytest.mark.parametrize("spec", WHOLE_AND_PARTIAL, ids=repr)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_scores_are_sums_of_the_same_products(spec, counts):
    """With small integers the projections are exact, so that the products are equal to the last bit."""
    random = np.random.default_rng(3)
    length, width, start = 5, 7, 4090
    x = random.integers(-4, 5, (length, width)).astype(np.float32)
    t = table(spec, range(start, start + length))
    for heads in counts:
        weights, bias, norm = (
            random.integers(-8, 9, shape).astype(np.float32)
            for shape in [(heads * spec.head_dim, width), (heads * spec.head_dim,), (spec.head_dim,)]
        )

        def turned(spec, weights, bias, norm, heads=heads):
            q = (x @ weights.T + bias).reshape(length, heads, spec.head_dim) * norm
            return rotate(spec, q, t, head_axis=1)

        to = other(spec).layout
        permuted = permute(spec, weights, to=to, heads=heads), permute(spec, bias, to=to, heads=heads)
        before = turned(spec, weights, bias, norm)
        after = turned(other(spec), *permuted, permute(spec, norm, to=to, heads=1))
        products, permuted_products = (np.sort(q[:, None] * q[None], axis=-1) for q in (before, after))
        assert np.array_equal(products, permuted_products)
        assert not np.array_equal(before, after)
        forgotten = turned(other(spec), weights, bias, norm)  # and weights that stay behind are seen
        assert not np.array_equal(products, np.sort(forgotten[:, None] * forgotten[None], axis=-1))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_fused_projections(counts):
    heads, key_heads = counts
    q, k, v = (numbered(count * 8) + 1000 * index for index, count in enumerate((heads, key_heads, key_heads)))
    new_q, new_k = (permute(FULL, a, to="interleaved", heads=n) for a, n in ((q, heads), (k, key_heads)))
    joined, new_joined = np.concatenate([q, k, v]), np.concatenate([new_q, new_k, v])
    form = concatenated(heads, key_heads)
    assert np.array_equal(permute(FULL, joined, to="interleaved", heads=form), new_joined)
    assert np.array_equal(permute(other(FULL), new_joined, to="half", heads=form), joined)

    def by_group(q, k, v):
        """As Falcon and InternLM2 read it: (key_heads, heads / key_heads + 2, head_dim)."""
        parts = [a.reshape(key_heads, -1, 8, 2) for a in (q, k, v)]
        return np.concatenate(parts, axis=1).reshape(-1, 2)

    form = grouped(heads, key_heads)
    assert np.array_equal(permute(FULL, by_group(q, k, v), to="interleaved", heads=form), by_group(new_q, new_k, v))


def test_gpt_neox_has_query_key_and_value_of_every_head():
    """`qkv.view(..., heads, 3 * head_dim)`, split in three."""
    weights = numbered(3 * 3 * 8).reshape(3, 3, 8, 2)
    there = permute(FULL, weights.reshape(-1, 2), to="interleaved", heads=grouped(3, 3)).reshape(3, 3, 8, 2)
    rows = expected_rows(FULL, 1)
    assert np.array_equal(there[:, :2], weights[:, :2, rows])
    assert np.array_equal(there[:, 2], weights[:, 2])


def test_the_axis_of_other_frameworks():
    weights = numbered(4 * 8, 3)
    there = permute(FULL, weights, to="interleaved", heads=4)
    assert np.array_equal(permute(FULL, weights.T, to="interleaved", heads=4, axis=1), there.T)
    assert np.array_equal(permute(FULL, weights.T, to="interleaved", heads=4, axis=-1), there.T)
    apart = permute(FULL, weights.T.reshape(3, 4, 8), to="interleaved", heads=4, axis=(1, 2))
    assert np.array_equal(apart, there.T.reshape(3, 4, 8))
    bias = permute(FULL, weights[:, 0].reshape(4, 8), to="interleaved", heads=4, axis=(-2, -1))
    assert np.array_equal(bias, there[:, 0].reshape(4, 8))


NUMPY = [np.dtype(name) for name in ("float64", "float32", "float16", "int8", "uint8", "int32")]
NUMPY += [np.dtype(t) for t in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4)]
MAKERS = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.from_numpy(a.view(np.uint8)).view(getattr(torch, a.dtype.name)),
    "jax": jnp.asarray,
    "tf": tf.constant,
    "keras": lambda a: keras.Variable(a, dtype=a.dtype.name),
}
LACKING = {("torch", "int4"), ("tf", "int4"), ("keras", "int4"), ("jax", "float64")}


@pytest.mark.parametrize(
    ("framework", "dtype"),
    [(name, dtype) for name in MAKERS for dtype in NUMPY if (name, dtype.name) not in LACKING],
    ids=str,
)
def test_every_dtype_is_kept_bit_for_bit(framework, dtype):
    """All patterns of 8 and of 16 bits: every NaN, infinities, subnormal numbers, both zeros."""
    scattered = np.arange(2**16, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # odd: every low half once
    weights = scattered.astype(f"uint{8 * dtype.itemsize}").view(dtype).reshape(16, -1)
    if dtype.name == "int4":
        weights = (numbered(16) % 8 - 4).astype(dtype)
    made = MAKERS[framework](weights)
    there = permute(FULL, made, to="interleaved", heads=2)
    back = permute(other(FULL), there, to="half", heads=2)

    def bits(array):
        if isinstance(array, torch.Tensor):
            return array.contiguous().view(torch.uint8).numpy().tobytes()
        return np.asarray(array).tobytes()

    assert str(there.dtype).removeprefix("torch.").removeprefix("<dtype: '").rstrip("'>") == dtype.name
    assert bits(there) == weights[expected_rows(FULL, 2)].tobytes()
    assert bits(back) == bits(made) == weights.tobytes()


def test_under_compilers():
    weights = numbered(16).astype(np.float32)
    expected = weights[expected_rows(FULL, 2)]

    def there(array):
        return permute(FULL, array, to="interleaved", heads=2)

    compiled = torch.compile(there, backend="aot_eager", fullgraph=True)
    assert np.array_equal(compiled(torch.from_numpy(weights)), expected)
    assert np.array_equal(jax.jit(there)(weights), expected)
    assert np.array_equal(tf.function(there, jit_compile=True)(tf.constant(weights)), expected)


def test_torch_parameters_and_views():
    parameter = torch.nn.Parameter(torch.arange(32.0).reshape(2, 16))
    there = permute(FULL, parameter.T, to="interleaved", heads=2)
    assert torch.equal(there, parameter.T[expected_rows(FULL, 2)])
    assert permute(FULL, parameter[:0], to="interleaved", heads=2, axis=1).shape == (0, 16)
    assert permute(FULL, torch.empty(16, 3, device="meta"), to="interleaved", heads=2).shape == (16, 3)


def there(spec=FULL, weights=np.zeros((16, 3)), **arguments):  # noqa: B008 - nothing writes into it
    return permute(spec, weights, **{"to": "interleaved", "heads": 2} | arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: there(to="half"), "permute.to: expected 'interleaved', since weights of a specification with layout="),
        (lambda: there(other(FULL)), "permute.to: expected 'half', since weights of a specification with layout="),
        (
            lambda: there(Rope(8, 1e4, "interleaved_to_half")),
            "permute.to: expected 'half', since weights of a specification with layout='interleaved_to_half' are "
            "already interleaved, received 'interleaved'",
        ),
        (lambda: there(to="neox"), "permute.to: expected 'half' or 'interleaved', received 'neox'"),
        (
            lambda: there(heads=4),
            "permute.weights: expected 4 heads of 8 channels, 32 in all, along axis 0, received the shape (16, 3)",
        ),
        (lambda: there(weights=np.zeros((17, 3))), "permute.weights: expected 2 heads of 8 channels, 16 in all, along"),
        (lambda: there(axis=1), "permute.weights: expected 2 heads of 8 channels, 16 in all, along axis 1, received"),
        (lambda: there(axis=2), "permute.axis: expected an axis of the shape (16, 3), received 2"),
        (lambda: there(axis=True), "permute.axis: expected an integer, received True"),
        (
            lambda: there(axis=(0, 1)),
            "permute.weights: expected 2 heads and 8 channels along the axes (0, 1), received",
        ),
        (lambda: there(weights=np.zeros((8, 8)), heads=8, axis=(1, 1)), "permute.weights: expected 8 heads and 8 "),
        (lambda: there(weights=np.zeros((3, 8)), heads=grouped(1, 1), axis=(0, 1)), "permute.axis: expected one axis"),
        (lambda: there(heads=0), "permute.heads: expected an integer >= 1, received 0"),
        (lambda: there(heads=2.0), "permute.heads: expected an integer >= 1, received 2.0"),
        (lambda: there(heads=(2, 2)), "permute.heads: expected an integer >= 1, or True or False for every head, rec"),
        (lambda: there(heads="ab"), "permute.heads: expected an integer >= 1, or True or False for every head, rec"),
        (lambda: there(weights=[[0.0]] * 16), "permute.weights: expected an array of NumPy, PyTorch, JAX or Tensor"),
        (lambda: there("half"), "permute.spec: expected a rotary specification such as Rope(128"),
        (lambda: grouped(32, 5), "grouped.key_heads: expected one that divides 32 heads, received 5"),
        (lambda: concatenated(4, 8), "concatenated.key_heads: expected one that divides 4 heads, received 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, message):
    with pytest.raises(SpecError) as refusal:
        call()
    assert str(refusal.value).startswith(message)


def test_a_second_application_is_seen_where_the_specification_is_carried_along():
    with pytest.raises(SpecError, match="already interleaved"):
        there(dataclasses.replace(FULL, layout="interleaved"), there())


def test_the_code_of_its_page_runs():
    page = (Path(__file__).parent.parent / "docs" / "layouts.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(block, "layouts.md", "exec"), names)  # noqa: S102  # the page's own code
    assert names["rope"].layout == "interleaved"
    for name, heads in (("wq", 4), ("wk", 2), ("k_norm", 1)):
        assert names[name].reshape(8 * heads, -1)[:, 0].tolist() == expected_rows(FULL, heads)


def test_nothing_is_imported():
    code = "import sys, posenc.interop.layouts; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "posenc.interop.layouts" in loaded
    assert not {"numpy", "torch", "jax", "tensorflow", "keras"} & set(loaded)
