"""Rounding to an output format, once: float64 values, and the sum of an encoding and `x`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from posenc.spec.exact import FORMATS
from posenc.tf_impl.inputs import Array, Tensor


def nearest(value: Tensor, dtype: Any) -> Tensor:
    """float64 rounded once to `dtype`, held as float32: a cast to a half format would round to float32 on its way."""
    if dtype in (tf.float64, tf.float32):
        return tf.cast(value, dtype)
    drop = 53 - FORMATS[dtype.name].precision
    bits = tf.bitcast(value, tf.int64)
    odd = tf.bitwise.right_shift(bits, tf.constant(drop, tf.int64)) & 1
    rounded = tf.bitcast((bits + (2 ** (drop - 1) - 1) + odd) & -(2**drop), tf.float64)
    if dtype == tf.float16:
        rounded = tf.where(tf.abs(value) < 2.0**-14, tf.round(value * 2.0**24) * 2.0**-24, rounded)
    return tf.cast(rounded, tf.float32)


def rounded(value: Tensor, dtype: Any) -> Tensor:
    """A float tensor rounded once to `dtype`, from any other; the gradient passes through, in the dtype of `value`."""
    if value.dtype != tf.float64 or dtype in (tf.float64, tf.float32):
        return tf.cast(value, dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # as TensorFlow is
    def once(value: Tensor) -> tuple[Tensor, Any]:
        return tf.cast(nearest(value, dtype), dtype), lambda upstream: tf.cast(upstream, tf.float64)

    return once(value)


def rounded_array(value: Array, dtype: Any) -> Array:
    """A float array on the host rounded once to `dtype`; where TensorFlow takes subnormal numbers for zero, NumPy does
    not."""
    kind = dtype.as_numpy_dtype
    with np.errstate(all="ignore"):
        if value.dtype != np.float64 or dtype in (tf.float64, tf.float32):
            return value.astype(kind, copy=False)
        precision, least, _ = FORMATS[dtype.name]
        drop = 53 - precision
        bits = np.ascontiguousarray(value).view(np.int64)
        result = ((bits + (2 ** (drop - 1) - 1) + (bits >> drop & 1)) & -(2**drop)).view(np.float64)
        small = np.abs(value) < 2.0 ** (least + precision - 1)
        if small.any():
            result = np.where(small, np.rint(value * 2.0**-least) * 2.0**least, result)
        exact: Array = np.where(np.isnan(value), value, result).astype(np.float32).astype(kind)
        return exact


def summed(x: Tensor, encoding: Tensor) -> Tensor:
    """`x + encoding` with one rounding to `x.dtype`, of tensors on the host."""
    lost = _is_flushed(x)
    total = x + encoding if x.dtype == encoding.dtype else narrowed_sum(x, encoding, lost)
    return total if lost is None else tf.where(lost & (encoding == 0), x, total)


def narrowed_sum(x: Tensor, encoding: Tensor, lost: Tensor | None = None) -> Tensor:
    """`x + encoding`, which has a wider dtype, with one rounding to `x.dtype`; `lost`: of bfloat16, as below."""
    wide = tf.cast(x, encoding.dtype)
    total = wide + encoding
    # round to odd what the wider dtype cannot hold: then the cast rounds as if it had seen the exact sum
    fixed, e = tf.stop_gradient(total), tf.stop_gradient(wide)
    virtual = fixed - e
    error = (e - (fixed - virtual)) + (tf.stop_gradient(encoding) - virtual)
    bits = tf.bitcast(fixed, tf.int64 if fixed.dtype == tf.float64 else tf.int32)
    if lost is not None:
        error = tf.where(lost, tf.where(tf.bitcast(x, tf.int16) < 0, -1.0, 1.0), error)
    one = tf.ones((), bits.dtype)
    away = tf.where((error > 0) == (fixed > 0), one, -one)
    nudge = tf.math.is_finite(error) & (error != 0) & ((bits & 1) == 0)
    odd = tf.bitcast(tf.where(nudge, bits + away, bits), fixed.dtype)
    return rounded(total + tf.where(nudge, odd - fixed, tf.zeros_like(fixed)), x.dtype)


def summed_arrays(x: Array, encoding: Array, dtype: Any) -> Array:
    """`x + encoding` of one shape with one rounding to `dtype`, that of `x`; with subnormal numbers."""
    wide = np.dtype(np.float64 if np.float64 in (x.dtype, encoding.dtype) else np.float32)
    with np.errstate(all="ignore"):
        a, b = x.astype(wide, copy=False), encoding.astype(wide, copy=False)
        total: Array = a + b
        if x.dtype == wide:
            return total
        virtual = total - a
        error = (a - (total - virtual)) + (b - virtual)
        bits: Any = total.view(np.int64 if wide == np.float64 else np.int32)
        # round to odd, as above
        nudge = np.isfinite(error) & (error != 0) & ((bits & 1) == 0)
        bits += np.where(nudge, np.where((error > 0) == (total > 0), 1, -1), 0).astype(bits.dtype)
    return rounded_array(total, dtype)


def _is_flushed(x: Tensor) -> Tensor | None:
    """Where `x` is a subnormal number, which TensorFlow's sums take for zero; None for nowhere."""
    if x.dtype == tf.float16:  # an ordinary number in float32
        return None
    kind = {2: tf.int16, 4: tf.int32, 8: tf.int64}[x.dtype.size]
    precision = FORMATS[x.dtype.name].precision
    magnitude = tf.bitcast(x, kind) & tf.constant(kind.max, kind)
    lost = (magnitude != 0) & (magnitude < tf.constant(1 << (precision - 1), kind))
    return lost if tf.reduce_any(lost) else None
