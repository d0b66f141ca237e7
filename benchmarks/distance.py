"""Rows and biases by distance, as ratios to what is usual in the same framework and run.

Rows: T5 buckets of 8,192 x 8,192 pairs of consecutive positions, in units of the time of filling that int32 array; and
of two left-padded batch rows of 2,048, whose positions are no progression.

Biases of 16 heads and 2,048 x 2,048 pairs in float32, as ratios to the usual formulas: `slopes * (key - query)` in
float32 for ALiBi; for T5 the bucket of every pair by float32 logarithms, the embedding of these, and the heads moved to
the front, as `transformers` has it. The long row is ALiBi of 32 heads, one query and 1,048,576 keys: its memory beyond
the result, and its time as a ratio to the usual formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import extra_memory, fastest

LONG, HEADS, LENGTH, KEYS = 8192, 16, 2048, 2**20
NAMES = ("numpy", "torch", "jax", "tf")
COMPILED = ("torch:inductor", "jax:jit", "tf:xla")
BARS = {
    **{f"{name} t5 rows / filling": 4.0 for name in NAMES},
    **{f"{name} t5 rows, padded / filling": 16.0 for name in NAMES},
    **{f"{name} alibi": 1.5 for name in NAMES},
    **{f"{name} t5 bias": 1.0 for name in NAMES},
    **{f"{name} alibi of 2^20 keys": 2.5 for name in NAMES},
    "tf alibi of 2^20 keys": 4.5,
    **{f"{name} alibi of 2^20 keys, extra memory / result": 0.25 for name in NAMES},
    **{f"{name} alibi": 1.5 for name in COMPILED},
    **{f"{name} t5 bias": 1.0 for name in COMPILED},
}


def padded() -> list[list[int]]:
    from posenc.positions import padded as rows

    return rows([LENGTH, LENGTH // 3], side="left")


def measure(
    name: str,
    module: Any,
    fill: Callable[[tuple[int, ...]], object],
    usual: dict[str, Callable[..., object]],
    done: Callable[[Any], object],
    weights: Any,
    positions: Any,
) -> dict[str, float]:
    """The eager rows of one framework; `done` waits for an array, `positions` are 2,048 in an array of its own."""
    from posenc import Alibi, T5Bias

    t5, alibi, wide = T5Bias(HEADS, bidirectional=True), Alibi.causal(HEADS), Alibi.causal(32)
    far = range(KEYS - 1, KEYS)
    memory = extra_memory(
        lambda: done(module.bias(wide, far, range(KEYS))), lambda: done(module.bias(wide, [9], range(4096))), KEYS * 128
    )

    def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
        mine, other = fastest(lambda: done(ours()), lambda: done(theirs()), repeats=5)
        return mine / other

    batch = np.array(padded(), np.int32)
    return {
        f"{name} t5 rows / filling": ratio(
            lambda: module.rows(t5, range(LONG), range(LONG)), lambda: fill((LONG, LONG))
        ),
        f"{name} t5 rows, padded / filling": ratio(
            lambda: module.rows(t5, batch, batch), lambda: fill((2, LENGTH, LENGTH))
        ),
        f"{name} alibi": ratio(
            lambda: module.bias(alibi, range(LENGTH), range(LENGTH)),
            lambda: usual["alibi"](positions, positions, HEADS),
        ),
        f"{name} t5 bias": ratio(
            lambda: module.bias(t5, range(LENGTH), range(LENGTH), weights=weights),
            lambda: usual["t5"](positions, positions, weights),
        ),
        f"{name} alibi of 2^20 keys": ratio(
            lambda: module.bias(wide, far, range(KEYS)),
            lambda: usual["alibi"](usual["range"](far), usual["range"](range(KEYS)), 32),
        ),
        f"{name} alibi of 2^20 keys, extra memory / result": memory,
    }


def compiled(
    name: str,
    module: Any,
    compile_: Callable[[Callable[..., Any]], Callable[..., Any]],
    usual: dict[str, Callable[..., object]],
    done: Callable[[Any], object],
    weights: Any,
    positions: Any,
) -> dict[str, float]:
    from posenc import Alibi, T5Bias

    t5, alibi = T5Bias(HEADS, bidirectional=True), Alibi.causal(HEADS)
    pairs = {
        f"{name} alibi": (lambda p: module.bias(alibi, p, p), lambda p: usual["alibi"](p, p, HEADS), (positions,)),
        f"{name} t5 bias": (
            lambda p, w: module.bias(t5, p, p, weights=w),
            lambda p, w: usual["t5"](p, p, w),
            (positions, weights),
        ),
    }
    figures = {}
    for row, (own, other, arguments) in pairs.items():
        ours, theirs = compile_(own), compile_(other)
        mine, usual_time = fastest(
            lambda f=ours, a=arguments: done(f(*a)), lambda f=theirs, a=arguments: done(f(*a)), repeats=5
        )
        figures[row] = mine / usual_time
    return figures


def slopes(heads: int) -> np.ndarray:
    return (2.0 ** (-8 * np.arange(1, heads + 1) / heads)).astype(np.float32)


def made_weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, HEADS), np.float32)


def bench_numpy() -> dict[str, float]:
    from posenc import numpy_impl

    def alibi(q: np.ndarray, k: np.ndarray, heads: int) -> np.ndarray:
        return slopes(heads)[:, None, None] * (k[None] - q[:, None]).astype(np.float32)

    def t5(q: np.ndarray, k: np.ndarray, weights: np.ndarray) -> np.ndarray:
        relative = k[None] - q[:, None]
        side = np.where(relative > 0, 16, 0)
        n = np.abs(relative)
        with np.errstate(divide="ignore"):
            far = 8 + (np.log(n.astype(np.float32) / 8) / math.log(16) * 8).clip(0).astype(np.int64)
        bucket = side + np.where(n < 8, n, np.minimum(far, 15))
        return np.ascontiguousarray(weights[bucket].transpose(2, 0, 1))

    usual = {"alibi": alibi, "t5": t5, "range": lambda r: np.arange(r.start, r.stop)}
    return measure(
        "numpy",
        numpy_impl,
        lambda shape: np.full(shape, 7, np.int32),
        usual,
        lambda x: x,
        made_weights(),
        np.arange(LENGTH),
    )


def bench_torch() -> dict[str, float]:
    import torch

    from posenc import torch_impl

    torch.set_num_threads(1)

    def alibi(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
        return torch.tensor(slopes(heads))[:, None, None] * (k[None] - q[:, None]).float()

    def t5(q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        relative = k[None] - q[:, None]
        side = (relative > 0).long() * 16
        n = relative.abs()
        far = 8 + (torch.log(n.float() / 8) / math.log(16) * 8).long()
        bucket = side + torch.where(n < 8, n, far.clamp(max=15))
        return torch.nn.functional.embedding(bucket, weights).permute(2, 0, 1).contiguous()

    usual = {"alibi": alibi, "t5": t5, "range": lambda r: torch.arange(r.start, r.stop)}
    weights, positions = torch.tensor(made_weights()), torch.arange(LENGTH)
    figures = measure(
        "torch",
        torch_impl,
        lambda shape: torch.full(shape, 7, dtype=torch.int32),
        usual,
        lambda x: x,
        weights,
        positions,
    )
    return figures | compiled(
        "torch:inductor",
        torch_impl,
        lambda f: torch.compile(f, fullgraph=True),
        usual,
        lambda x: x,
        weights,
        positions,
    )


def bench_jax() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from posenc import jax_impl

    def alibi(q: jax.Array, k: jax.Array, heads: int) -> jax.Array:
        return slopes(heads)[:, None, None] * (k[None] - q[:, None]).astype(np.float32)

    def t5(q: jax.Array, k: jax.Array, weights: jax.Array) -> jax.Array:
        relative = k[None] - q[:, None]
        side = jnp.where(relative > 0, 16, 0)
        n = jnp.abs(relative)
        far = 8 + (jnp.log(n.astype(np.float32) / 8) / math.log(16) * 8).astype(np.int32)
        bucket = side + jnp.where(n < 8, n, jnp.minimum(far, 15))
        return jnp.transpose(weights[bucket], (2, 0, 1))

    usual = {"alibi": alibi, "t5": t5, "range": lambda r: jnp.arange(r.start, r.stop)}
    weights, positions = jnp.asarray(made_weights()), jnp.arange(LENGTH)
    figures = measure(
        "jax", jax_impl, lambda shape: jnp.full(shape, 7, np.int32), usual, jax.block_until_ready, weights, positions
    )
    return figures | compiled("jax:jit", jax_impl, jax.jit, usual, jax.block_until_ready, weights, positions)


def bench_tf() -> dict[str, float]:
    import tensorflow as tf

    from posenc import tf_impl

    def alibi(q: tf.Tensor, k: tf.Tensor, heads: int) -> tf.Tensor:
        return slopes(heads)[:, None, None] * tf.cast(k[None] - q[:, None], tf.float32)

    def t5(q: tf.Tensor, k: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        relative = k[None] - q[:, None]
        side = tf.where(relative > 0, 16, 0)
        n = tf.abs(relative)
        far = 8 + tf.cast(tf.math.log(tf.maximum(tf.cast(n, tf.float32), 1) / 8) / math.log(16) * 8, tf.int32)
        bucket = side + tf.where(n < 8, n, tf.minimum(far, 15))
        return tf.transpose(tf.gather(weights, bucket), (2, 0, 1))

    usual = {"alibi": alibi, "t5": t5, "range": lambda r: tf.range(r.start, r.stop)}
    weights, positions = tf.constant(made_weights()), tf.range(LENGTH)
    figures = measure("tf", tf_impl, lambda shape: tf.fill(shape, 7), usual, lambda x: x, weights, positions)
    return figures | compiled(
        "tf:xla", tf_impl, lambda f: tf.function(f, jit_compile=True), usual, lambda x: x, weights, positions
    )


BENCHES = {"numpy": bench_numpy, "torch": bench_torch, "jax": bench_jax, "tf": bench_tf}
