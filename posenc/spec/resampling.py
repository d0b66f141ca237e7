"""The resamplers by which tables of patches are resized, each named by what it equals, in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from posenc.spec import exact
from posenc.spec.row_plan import Taps

Method = Literal[
    "torch_bilinear",
    "torch_bilinear_align_corners",
    "torch_bilinear_antialias",
    "torch_bilinear_antialias_align_corners",
    "torch_bicubic",
    "torch_bicubic_align_corners",
    "torch_bicubic_antialias",
    "torch_bicubic_antialias_align_corners",
    "jax_linear",
    "jax_linear_no_antialias",
    "jax_cubic",
    "jax_cubic_no_antialias",
    "tf_bilinear",
    "tf_bilinear_antialias",
    "tf_bicubic",
    "tf_bicubic_antialias",
    "dino_bicubic",
]

TORCH_SHARPNESS = Fraction(-3, 4)
KEYS_SHARPNESS = Fraction(-1, 2)
_TABLE = 1024
"""Entries of a unit in TensorFlow's table of the cubic kernel."""

_RADIUS = {"linear": 1, "cubic": 2}

Weights = dict[int, Fraction]
"""Of one output, by input."""


@dataclass(frozen=True, slots=True)
class Resampler:
    """A kernel, what becomes of taps beyond the edge, and how the sizes of an axis give its coordinates.

    Output o of m stands at `ratio * (o + 1/2) - 1/2` of n inputs, with ratio = n / m; where `corners`, at
    `o * (n - 1) / (m - 1)` (`antialias` keeps the first form, with that ratio). Inputs are weighted by the kernel at
    their distance, which with `antialias` is divided by the ratio where that is greater than 1. Beyond the edge the
    first and the last input are repeated (`replicate`), or nothing is there and the other weights are divided by their
    sum.
    """

    kernel: Literal["linear", "cubic"]
    sharpness: Fraction = KEYS_SHARPNESS
    """Of the cubic kernel: its slope at 1, often called a."""
    antialias: bool = False
    replicate: bool = False
    corners: bool = False
    table: bool = False
    """Whether positions are those of TensorFlow's table: rounded in float32, then to 1/1024."""
    enlarged: bool = False
    """Whether the ratio is n / (m + 1/10), and a table of unchanged shape is returned as it is."""


_TORCH = {
    f"torch_{name}{'_antialias' * smooth}{'_align_corners' * corners}": Resampler(
        kernel,  # type: ignore[arg-type]  # one of the two
        KEYS_SHARPNESS if smooth else TORCH_SHARPNESS,
        antialias=smooth,
        replicate=not smooth,
        corners=corners,
    )
    for name, kernel in (("bilinear", "linear"), ("bicubic", "cubic"))
    for smooth in (False, True)
    for corners in (False, True)
}

METHODS: dict[str, Resampler] = {
    # torch.nn.functional.interpolate(size=...), in float64; antialias and align_corners as they are called there
    **_TORCH,
    # jax.image.resize(method="linear" or "cubic"); antialias is its default
    "jax_linear": Resampler("linear", antialias=True),
    "jax_linear_no_antialias": Resampler("linear"),
    "jax_cubic": Resampler("cubic", antialias=True),
    "jax_cubic_no_antialias": Resampler("cubic"),
    # tf.image.resize; antialias=False is its default; keras.ops.image.resize on TensorFlow is the same
    "tf_bilinear": Resampler("linear", replicate=True),
    "tf_bilinear_antialias": Resampler("linear", antialias=True),
    "tf_bicubic": Resampler("cubic", table=True),
    "tf_bicubic_antialias": Resampler("cubic", antialias=True),
    # DINO and DINOv2: torch's bicubic with scale_factor=(m + 0.1) / n, so that the floor of the size is m
    "dino_bicubic": Resampler("cubic", TORCH_SHARPNESS, replicate=True, enlarged=True),
}


def taps(grid: tuple[int, ...], shape: tuple[int, ...], method: str) -> tuple[Taps | None, ...]:
    """The taps of every axis."""
    resampler = METHODS[method]
    if resampler.enlarged and grid == shape:
        return (None,) * len(grid)
    return tuple(_axis(n, m, method) for n, m in zip(grid, shape, strict=True))


def weights(n: int, m: int, method: str) -> tuple[Weights, ...]:
    """For every one of m outputs the exact weights of n inputs, none of them 0: rational numbers with sum 1."""
    resampler = METHODS[method]
    rows: list[Weights] = []
    seen: dict[Fraction, Weights] = {}
    for output in range(m):
        centre, reach = _place(resampler, n, m, output)
        whole = math.floor(centre)
        inner = math.floor(centre - reach) >= 0 and math.ceil(centre + reach) < n and not resampler.table
        if inner and centre - whole in seen:  # far from the edges only the fraction of an input counts
            rows.append({tap + whole: weight for tap, weight in seen[centre - whole].items()})
            continue
        rows.append(_normal(_weights(resampler, n, m, output)))
        if inner:
            seen[centre - whole] = {tap - whole: weight for tap, weight in rows[-1].items()}
    return tuple(rows)


@lru_cache(maxsize=64)
def _axis(n: int, m: int, method: str) -> Taps | None:
    rows = weights(n, m, method)
    if n == m and all(row == {output: 1} for output, row in enumerate(rows)):
        return None
    count = max(len(row) for row in rows)
    index, factors = [], []
    for row in rows:
        taken = sorted(row)
        filled = taken + [taken[-1]] * (count - len(taken))
        index.append(tuple(filled))
        factors.append(tuple(exact.round_to(row[i], "float64") for i in taken) + (0.0,) * (count - len(taken)))
    return Taps(tuple(index), tuple(factors))


def _place(resampler: Resampler, n: int, m: int, output: int) -> tuple[Fraction, Fraction]:
    """Where an output stands among the inputs, and how far it reaches to either side."""
    ratio = Fraction(n, m)
    if resampler.enlarged:
        ratio = n / (m + Fraction(1, 10))
    if resampler.corners:
        ratio = Fraction(n - 1, m - 1) if m > 1 else Fraction(0)
    if resampler.corners and not resampler.antialias:
        centre = ratio * output
    else:
        centre = ratio * (output + Fraction(1, 2)) - Fraction(1, 2)
        if resampler.replicate and resampler.kernel == "linear":
            centre = max(centre, Fraction(0))
    return centre, _RADIUS[resampler.kernel] * (max(ratio, Fraction(1)) if resampler.antialias else Fraction(1))


def _weights(resampler: Resampler, n: int, m: int, output: int) -> Weights:
    """What the kernel gives the inputs of one output: their sum need not be 1."""
    if resampler.table:
        return _from_table(resampler, n, m, output)
    centre, reach = _place(resampler, n, m, output)
    kernel, spread = _kernel(resampler), reach / _RADIUS[resampler.kernel]
    row: Weights = {}
    for tap in range(math.floor(centre - reach), math.ceil(centre + reach) + 1):
        weight = kernel(abs(tap - centre) / spread)
        inside = min(max(tap, 0), n - 1)
        if weight and (resampler.replicate or tap == inside):
            row[inside] = row.get(inside, Fraction(0)) + weight
    return row


def _normal(row: Weights) -> Weights:
    total = sum(row.values())
    return {tap: weight / total for tap, weight in row.items() if weight}


def _from_table(resampler: Resampler, n: int, m: int, output: int) -> Weights:
    """Float32 decides the entry of the table, and is followed here; what stands in it is exact."""
    kernel = _kernel(resampler)
    ratio = exact.round_to(Fraction(n, m), "float32")
    scaled = exact.round_to(Fraction(output + 0.5) * Fraction(ratio), "float32")
    place = Fraction(exact.round_to(Fraction(scaled) - Fraction(1, 2), "float32"))
    whole = math.floor(place)
    entry = Fraction(round(exact.round_to(place - whole, "float32") * _TABLE), _TABLE)  # ties to even, as lrint
    taps_ = {tap: kernel(abs(entry - (tap - whole))) for tap in range(whole - 1, whole + 3)}
    return {tap: weight for tap, weight in taps_.items() if weight and 0 <= tap < n}


def _kernel(resampler: Resampler) -> Callable[[Fraction], Fraction]:
    """A kernel of the distance; it ends at its radius."""
    if resampler.kernel == "linear":
        return lambda x: max(1 - x, Fraction(0))
    a = resampler.sharpness

    def cubic(x: Fraction) -> Fraction:
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return ((x - 5) * x + 8) * x * a - 4 * a if x < 2 else Fraction(0)

    return cubic
