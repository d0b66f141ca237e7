"""The exact weights of resamplers against the libraries that they are named after, and against wrong kernels."""

from __future__ import annotations

import importlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from posenc import Learned
from posenc.conformance.judge import Disagreement
from posenc.spec import resampling
from posenc.spec.resampling import METHODS, Resampler

GRIDS = [
    ((14, 14), (24, 24)),
    ((16, 16), (5, 20)),
    ((37, 37), (16, 16)),
    ((7, 5), (9, 13)),
    ((5, 7), (3, 2)),
    ((6, 10), (11, 4)),
    ((24, 24), (14, 14)),
    ((9, 4), (9, 7)),
    ((2, 3), (15, 29)),
    ((32, 33), (31, 34)),
    ((13, 64), (1, 13)),
    ((8, 12), (4, 24)),
]
"""Square and not, up and down and both at once, odd and even, an axis that stays, and one that becomes 1."""

DINO_SIZES = [(n, m) for n in (7, 14, 16, 37) for m in (1, 2, 5, 13, 16, 24, 31, 37, 60)]
every_grid = pytest.mark.parametrize(
    ("grid", "shape"), GRIDS, ids=["x".join(map(str, g)) + "-" + "x".join(map(str, s)) for g, s in GRIDS]
)


def table(grid, dtype="float64"):
    """A grid of two channels that no symmetry of a wrong kernel leaves alone."""
    seed = grid[0] * 1009 + grid[1]
    return np.random.default_rng(seed).standard_normal((*grid, 2)).astype(dtype)


def matrix(n, m, method):
    rows = np.zeros((m, n))
    for output, row in enumerate(resampling.weights(n, m, method)):
        for tap, weight in row.items():
            rows[output, tap] = float(weight)
    return rows


def expected(x, shape, method):
    """The exact weights, rounded to float64, along both axes."""
    first, second = (matrix(n, m, method) for n, m in zip(x.shape[:2], shape, strict=True))
    return np.einsum("an,bm,nmc->abc", first, second, x.astype(np.float64))


def compare(what, received, wanted, limit):
    """The share of the limit that the worst entry takes; a disagreement where it is more."""
    received = np.asarray(received, np.float64)
    if received.shape != wanted.shape:
        raise Disagreement(what, str(received.shape), str(wanted.shape))
    error = np.abs(received - wanted)
    at = np.unravel_index(error.argmax(), error.shape)
    if not error[at] <= limit:
        raise Disagreement(f"{what}{list(map(int, at))}", repr(received[at]), repr(wanted[at]), limit=f"{limit:.3g}")
    return error[at] / limit


def float32_bound(x, shape):
    """n * 2^-22 * max|x|: libraries round a coordinate of size n in float32, and both axes have one."""
    return max(*x.shape[:2], *shape) * 2.0**-22 * float(np.abs(x).max())


# --- PyTorch ---

TORCH = [name for name in METHODS if name.startswith("torch_")]


def by_torch(x, shape, method):
    import torch

    name = method.removesuffix("_align_corners").removesuffix("_antialias").removeprefix("torch_")
    tensor = torch.from_numpy(x).permute(2, 0, 1)[None]
    options = {"antialias": "_antialias" in method, "align_corners": "_align_corners" in method}
    resized = torch.nn.functional.interpolate(tensor, size=shape, mode=name, **options)
    return resized[0].permute(1, 2, 0).numpy()


@every_grid
@pytest.mark.parametrize("method", TORCH)
def test_torch_methods_are_those_of_torch(method, grid, shape):
    x = table(grid)
    compare(method, by_torch(x, shape, method), expected(x, shape, method), 1e-12)
    x = table(grid, "float32")
    compare(method, by_torch(x, shape, method), expected(x, shape, method), float32_bound(x, shape))


def test_an_axis_of_size_one_is_repeated():
    """PyTorch 2.13 reads the wrong rows of an antialiased input one wide, so it is asked for equal columns."""
    for method in TORCH:
        x = table((4, 1))
        wanted = expected(x, (8, 1), method)
        for copies in (2, 3):
            wide = by_torch(np.repeat(x, copies, axis=1), (8, copies), method)
            compare(method, wide, np.repeat(wanted, copies, axis=1), 1e-12)
    for method in METHODS:
        assert resampling.weights(1, 3, method) == ({0: 1},) * 3


def by_dino(x, shape, dtype="float64"):
    """As DINO calls it: `interpolate_pos_encoding`, vision_transformer.py; the size comes from the factor."""
    import torch

    tensor = torch.from_numpy(x.astype(dtype)).permute(2, 0, 1)[None]
    factors = tuple((m + 0.1) / n for n, m in zip(x.shape[:2], shape, strict=True))
    resized = torch.nn.functional.interpolate(tensor, scale_factor=factors, mode="bicubic")
    return resized[0].permute(1, 2, 0).numpy()


@every_grid
def test_dino_is_torch_with_a_factor_a_tenth_too_large(grid, shape):
    x = table(grid)
    wanted = expected(x, shape, "dino_bicubic")
    compare("dino", by_dino(x, shape), wanted, 1e-12)
    x = table(grid, "float32")
    wanted = expected(x, shape, "dino_bicubic")
    compare("dino", by_dino(x, shape, "float32"), wanted, float32_bound(x, shape))


@pytest.mark.parametrize(("n", "m"), DINO_SIZES)
def test_dino_at_other_sizes(n, m):
    x = table((n, n))
    compare("dino", by_dino(x, (m, n)), expected(x, (m, n), "dino_bicubic"), 1e-12)


def test_dino_returns_a_table_of_unchanged_shape():
    """DINO returns early where the numbers of patches agree; one axis that stays is resampled none the less."""
    assert resampling.taps((5, 5), (5, 5), "dino_bicubic") == (None, None)
    first, second = resampling.taps((5, 5), (5, 6), "dino_bicubic")
    assert first is not None
    assert second is not None


# --- JAX ---

JAX = [name for name in METHODS if name.startswith("jax_")]


def by_jax(x, shape, method):
    import jax

    name = method.removeprefix("jax_").removesuffix("_no_antialias")
    out = (*shape, x.shape[-1])
    if x.dtype == np.float64:
        with jax.enable_x64(True):
            return np.asarray(jax.image.resize(x, out, name, antialias="no_antialias" not in method))
    return np.asarray(jax.image.resize(x, out, name, antialias="no_antialias" not in method))


@every_grid
@pytest.mark.parametrize("method", JAX)
def test_jax_methods_are_those_of_jax(method, grid, shape):
    x = table(grid)
    compare(method, by_jax(x, shape, method), expected(x, shape, method), 1e-12)
    x = table(grid, "float32")
    compare(method, by_jax(x, shape, method), expected(x, shape, method), float32_bound(x, shape))


# --- TensorFlow and Keras, which compute in float32 ---

TF = [name for name in METHODS if name.startswith("tf_")]


def by_tensorflow(x, shape, method):
    import tensorflow as tf

    name = method.removeprefix("tf_").removesuffix("_antialias")
    return tf.image.resize(x, shape, method=name, antialias=method.endswith("_antialias")).numpy()


def by_keras(x, shape, method):
    keras = importlib.import_module("keras")
    assert keras.backend.backend() == "tensorflow"
    name = method.removeprefix("tf_").removesuffix("_antialias")
    options = {"interpolation": name, "antialias": method.endswith("_antialias"), "data_format": "channels_last"}
    return np.asarray(keras.ops.image.resize(x, shape, **options))


@every_grid
@pytest.mark.parametrize("library", [by_tensorflow, by_keras])
@pytest.mark.parametrize("method", TF)
def test_tensorflow_methods_are_those_of_tensorflow(method, library, grid, shape):
    x = table(grid, "float32")
    compare(method, library(x, shape, method), expected(x, shape, method), float32_bound(x, shape))


# --- Exactness ---

SIZES = [(n, m) for n in (1, 2, 3, 5, 14, 16, 37, 64) for m in (1, 2, 3, 7, 13, 16, 24, 64, 101)]


@pytest.mark.parametrize("method", METHODS)
def test_rational_weights_sum_to_exactly_one(method):
    for n, m in SIZES:
        rows = resampling.weights(n, m, method)
        assert len(rows) == m
        for row in rows:
            assert sum(row.values()) == 1
            assert all(isinstance(weight, Fraction) and weight for weight in row.values())
            assert all(0 <= tap < n for tap in row)
        if n == m and not METHODS[method].enlarged:
            assert rows == tuple({output: 1} for output in range(m))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "tf_bicubic"])
def test_weights_are_mirrored_but_where_a_library_is_lopsided(method):
    """With corners under antialias, centres are still offset by half; DINO's factor is a tenth too large."""
    resampler, mirrored = METHODS[method], True
    for n, m in SIZES:
        if m > 1:  # with corners a single output is the first input
            rows = resampling.weights(n, m, method)
            turned = [{n - 1 - tap: weight for tap, weight in row.items()} for row in reversed(rows)]
            mirrored = mirrored and list(rows) == turned
    assert mirrored != (resampler.enlarged or (resampler.corners and resampler.antialias))


@pytest.mark.parametrize("method", METHODS)
def test_taps_are_the_weights_correctly_rounded(method):
    spec = Learned.patches((5, 3), 1)
    plan = spec.resizing((3, 8), method)
    for axis, n, m in zip(plan.axes, (5, 3), (3, 8), strict=True):
        for row, index, factors in zip(resampling.weights(n, m, method), axis.index, axis.weights, strict=True):
            assert list(index[: len(row)]) == sorted(row)
            assert factors == tuple(float(row[tap]) for tap in sorted(row)) + (0.0,) * (len(factors) - len(row))
            assert set(index[len(row) :]) <= {index[len(row) - 1]}


# --- The comparisons are shown wrong kernels ---

WRONG = [
    ("torch_bilinear", {"kernel": "cubic"}),
    ("torch_bilinear", {"corners": True}),
    ("torch_bilinear", {"antialias": True}),
    ("torch_bilinear_align_corners", {"corners": False}),
    ("torch_bilinear_antialias", {"antialias": False}),
    ("torch_bilinear_antialias", {"replicate": True}),
    ("torch_bilinear_antialias_align_corners", {"corners": False}),
    ("torch_bicubic", {"sharpness": Fraction(-1, 2)}),
    ("torch_bicubic", {"kernel": "linear"}),
    ("torch_bicubic", {"replicate": False}),
    ("torch_bicubic", {"corners": True}),
    ("torch_bicubic", {"antialias": True}),
    ("torch_bicubic", {"enlarged": True}),
    ("torch_bicubic_align_corners", {"corners": False}),
    ("torch_bicubic_antialias", {"sharpness": Fraction(-3, 4)}),
    ("torch_bicubic_antialias", {"replicate": True}),
    ("torch_bicubic_antialias", {"antialias": False}),
    ("torch_bicubic_antialias_align_corners", {"corners": False}),
    ("torch_bicubic_antialias_align_corners", {"antialias": False}),
    ("jax_linear", {"antialias": False}),
    ("jax_linear", {"replicate": True}),
    ("jax_linear_no_antialias", {"antialias": True}),
    ("jax_cubic", {"sharpness": Fraction(-3, 4)}),
    ("jax_cubic", {"replicate": True}),
    ("jax_cubic", {"antialias": False}),
    ("jax_cubic_no_antialias", {"table": True}),
    ("jax_cubic_no_antialias", {"replicate": True}),
    ("tf_bilinear", {"corners": True}),
    ("tf_bilinear", {"antialias": True}),
    ("tf_bilinear_antialias", {"antialias": False}),
    ("tf_bicubic", {"table": False}),
    ("tf_bicubic", {"sharpness": Fraction(-3, 4)}),
    ("tf_bicubic_antialias", {"antialias": False}),
    ("dino_bicubic", {"enlarged": False}),
    ("dino_bicubic", {"sharpness": Fraction(-1, 2)}),
]


def library(method):
    if method == "dino_bicubic":
        return lambda x, shape, _: by_dino(x, shape, x.dtype)
    return {"torch": by_torch, "jax": by_jax, "tf": by_tensorflow}[method.split("_")[0]]


@pytest.mark.parametrize(
    ("method", "change"), WRONG, ids=lambda v: v if isinstance(v, str) else "-".join(f"{k}={w}" for k, w in v.items())
)
def test_a_wrong_kernel_is_seen_on_some_grid(method, change, monkeypatch):
    assert isinstance(METHODS[method], Resampler)
    grids = [GRIDS[0], GRIDS[3], GRIDS[4], GRIDS[5]]
    for changed in (False, True):
        if changed:
            monkeypatch.setitem(METHODS, method, replace(METHODS[method], **change))
        found = []
        for grid, shape in grids:
            x = table(grid, "float32")
            try:
                compare(method, library(method)(x, shape, method), expected(x, shape, method), float32_bound(x, shape))
            except Disagreement as disagreement:
                found.append(disagreement)
        assert bool(found) == changed


def test_a_wrong_share_of_the_bound_is_seen():
    x = table((5, 7))
    wanted = expected(x, (3, 2), "torch_bicubic")
    moved = wanted.copy()
    moved[2, 1, 0] += 2e-12
    with pytest.raises(Disagreement, match=r"\[2, 1, 0\]"):
        compare("moved", moved, wanted, 1e-12)
    with pytest.raises(Disagreement, match="nan"):
        compare("nan", wanted * np.nan, wanted, 1e-12)
    with pytest.raises(Disagreement, match="expected \\(3, 2, 2\\)"):
        compare("short", wanted[:2], wanted, 1e-12)
