"""Weights of resamplers, as the libraries' code has them: kernels at the distances of the inputs, in fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from vectors.rounding import bits, number

Row = list[Fraction]
"""The weight of every input, of one output."""
HALF = Fraction(1, 2)


def weights(method: str, n: int, m: int) -> list[Row]:
    """Rows of m outputs by n inputs."""
    if method == "tf_bicubic":
        return [tensorflow_table(n, m, x) for x in range(m)]
    if method == "dino_bicubic":
        # aten/src/ATen/native/UpSample.h: a scale_factor that is given is used as it is; dino asks for (m + 0.1) / n
        return [torch_taps(Fraction(10 * n, 10 * m + 1), n, x, cubic=True, corners=False) for x in range(m)]
    library, kind, *options = method.split("_")
    cubic, corners = "cubic" in kind, "corners" in options
    if library == "torch":
        scale = area_pixel_compute_scale(n, m, corners)
        if "antialias" in options:
            return [torch_antialias(scale, n, x, cubic=cubic) for x in range(m)]
        return [torch_taps(scale, n, x, cubic=cubic, corners=corners) for x in range(m)]
    if method == "tf_bilinear":
        return [tensorflow_bilinear(n, m, x) for x in range(m)]
    antialias = "antialias" in options if library == "tf" else "no" not in options
    return compute_weight_mat(n, m, keys_cubic if cubic else triangle, antialias=antialias)


# --- aten/src/ATen/native/UpSample.h, native/cpu/UpSampleKernel.cpp ---


def area_pixel_compute_scale(n: int, m: int, corners: bool) -> Fraction:
    if corners:
        return Fraction(n - 1, m - 1) if m > 1 else Fraction(0)
    return Fraction(n, m)


def torch_taps(scale: Fraction, n: int, x: int, *, cubic: bool, corners: bool) -> Row:
    """Two or four taps; those beyond the edge repeat it."""
    real = scale * x if corners else scale * (x + HALF) - HALF
    if not cubic:
        real = max(real, Fraction(0))
    index = math.floor(real)
    t = real - index
    if cubic:
        a = Fraction(-3, 4)
        coefficients = [convolution2(t + 1, a), convolution1(t, a), convolution1(1 - t, a), convolution2(2 - t, a)]
        first = index - 1
    else:
        coefficients, first = [1 - t, t], index
    row = [Fraction(0)] * n
    for k, coefficient in enumerate(coefficients):
        row[max(min(first + k, n - 1), 0)] += coefficient
    return row


def convolution1(x: Fraction, a: Fraction) -> Fraction:
    return ((a + 2) * x - (a + 3)) * x * x + 1


def convolution2(x: Fraction, a: Fraction) -> Fraction:
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def torch_antialias(scale: Fraction, n: int, x: int, *, cubic: bool) -> Row:
    """_compute_indices_min_size_weights_aa, which is Pillow's: a window of the inputs, divided by its sum."""
    support = max(scale, Fraction(1)) * (2 if cubic else 1)
    inverse = 1 / scale if scale >= 1 else Fraction(1)
    centre = scale * (x + HALF)
    first = max(math.trunc(centre - support + HALF), 0)
    size = min(math.trunc(centre + support + HALF), n) - first
    window = [(keys_cubic if cubic else triangle)((j + first - centre + HALF) * inverse) for j in range(size)]
    row = [Fraction(0)] * n
    for j, weight in enumerate(window):
        row[first + j] = weight / sum(window)
    return row


def triangle(x: Fraction) -> Fraction:
    return max(1 - abs(x), Fraction(0))


def keys_cubic(x: Fraction) -> Fraction:
    x, a = abs(x), Fraction(-1, 2)
    return convolution1(x, a) if x < 1 else convolution2(x, a) if x < 2 else Fraction(0)


# --- jax/_src/image/scale.py; tensorflow/core/kernels/image/scale_and_translate_op.cc is the same ---


def compute_weight_mat(n: int, m: int, kernel: Callable[[Fraction], Fraction], *, antialias: bool) -> list[Row]:
    inverse = Fraction(n, m)
    spread = max(inverse, Fraction(1)) if antialias else Fraction(1)
    rows = []
    for x in range(m):
        sample = (x + HALF) * inverse - HALF
        row = [kernel((sample - k) / spread) for k in range(n)]
        rows.append([weight / sum(row) for weight in row])
    return rows


# --- tensorflow/core/kernels/image/resize_bilinear_op.cc and resize_bicubic_op.cc ---


def tensorflow_bilinear(n: int, m: int, x: int) -> Row:
    sample = (x + HALF) * Fraction(n, m) - HALF
    lower, upper = max(math.floor(sample), 0), min(math.ceil(sample), n - 1)
    row = [Fraction(0)] * n
    row[lower] += 1 - (sample - math.floor(sample))
    row[upper] += sample - math.floor(sample)
    return row


def tensorflow_table(n: int, m: int, x: int) -> Row:
    """GetWeightsAndIndices with use_keys_cubic and half pixel centers; the table's entries without their rounding."""
    scale = single(Fraction(n, m))
    at = single(single((x + HALF) * scale) - HALF)
    index = math.floor(at)
    offset = nearest_even(single(at - index) * 1024)
    a = Fraction(-1, 2)
    near = [convolution1(Fraction(k, 1024), a) for k in (offset, 1024 - offset)]
    far = [convolution2(Fraction(k, 1024) + 1, a) for k in (offset, 1024 - offset)]
    row = [Fraction(0)] * n
    for k, weight in zip(range(index - 1, index + 3), (far[0], near[0], near[1], far[1]), strict=True):
        if 0 <= k < n:
            row[k] = weight
    return [weight / sum(row) for weight in row]


def single(value: Fraction) -> Fraction:
    return number(bits(value, "float32"), "float32")


def nearest_even(value: Fraction) -> int:
    units, rest = divmod(value, 1)
    return int(units) + (rest > HALF or (rest == HALF and units % 2 == 1))
