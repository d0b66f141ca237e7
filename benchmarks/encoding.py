"""Encodings of 32,768 positions in 1,024 channels, as ratios to the usual float32 formula of the same framework.

The usual formula is sin(position * frequency) and cos(position * frequency), stacked, all in float32, as one would
write it there (NumPy's in its fastest form, which writes in place: 0.62 of the time of `out[:, 0::2] = np.sin(angle)`);
ours is the default call, with its rounding check.
"""

from __future__ import annotations

from collections.abc import Callable

from timing import extra_memory, fastest

LENGTH, DIM = 32768, 1024
BARS = {
    "numpy encode": 1.2,
    "numpy encode / copy": 7.0,
    "torch encode": 0.9,
    "jax encode": 0.9,
    "tf encode": 0.8,
    "jax:jit add": 0.9,
    "torch:inductor add": 0.9,
    "tf:xla add": 1.0,
    "torch one position, microseconds": 100.0,
    **{f"{name} extra memory / result": 0.1 for name in ("numpy", "torch", "jax", "tf")},
    **{f"{name} time at 10x length": 11.0 for name in ("numpy", "torch", "jax", "tf")},
}


def measure(name: str, encode: Callable[[range], object], usual: Callable[[int], object]) -> dict[str, float]:
    memory = extra_memory(lambda: encode(range(LENGTH)), lambda: encode(range(LENGTH // 8)), LENGTH * DIM * 4)
    ours, theirs = fastest(lambda: encode(range(LENGTH)), lambda: usual(LENGTH))
    (long,) = fastest(lambda: encode(range(10 * LENGTH)), repeats=2)
    return {
        f"{name} encode": ours / theirs,
        f"{name} time at 10x length": long / ours,
        f"{name} extra memory / result": memory,
    }


def bench_numpy() -> dict[str, float]:
    import numpy as np

    from posenc import Sinusoidal
    from posenc.numpy_impl import encode

    spec = Sinusoidal.vaswani(DIM)
    frequency = (10000.0 ** (-np.arange(0, DIM, 2) / DIM)).astype(np.float32)

    def usual(length: int) -> np.ndarray:
        angle = np.arange(length, dtype=np.float32)[:, None] * frequency
        out = np.empty((length, DIM), np.float32)
        np.sin(angle, out=out[:, 0::2])
        np.cos(angle, out=out[:, 1::2])
        return out

    results = measure("numpy", lambda positions: encode(spec, positions), usual)
    x = usual(LENGTH)
    ours, copy = fastest(lambda: encode(spec, range(LENGTH)), x.copy)
    return results | {"numpy encode / copy": ours / copy}


def bench_torch() -> dict[str, float]:
    import torch

    from posenc import Sinusoidal
    from posenc.torch_impl import add, encode

    torch.set_num_threads(1)
    spec = Sinusoidal.vaswani(DIM)
    frequency = 10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float32) / DIM)

    def usual(length: int) -> torch.Tensor:
        angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
        return torch.stack((torch.sin(angle), torch.cos(angle)), -1).reshape(length, DIM)

    results = measure("torch", lambda positions: encode(spec, positions), usual)
    x = torch.randn(LENGTH, DIM)
    ours = torch.compile(lambda x: add(spec, x), fullgraph=True, dynamic=True)
    theirs = torch.compile(lambda x: x + usual(x.shape[0]), fullgraph=True, dynamic=True)
    compiled, compiled_usual = fastest(lambda: ours(x), lambda: theirs(x))
    small = Sinusoidal.vaswani(512)
    (one,) = fastest(lambda: [encode(small, 4095) for _ in range(100)])
    return results | {
        "torch:inductor add": compiled / compiled_usual,
        "torch one position, microseconds": one * 1e4,
    }


def bench_jax() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from posenc import Sinusoidal
    from posenc.jax_impl import add, encode

    spec = Sinusoidal.vaswani(DIM)
    frequency = 10000.0 ** (-jnp.arange(0, DIM, 2, dtype=jnp.float32) / DIM)

    def usual(length: int) -> jax.Array:
        angle = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency
        return jnp.stack((jnp.sin(angle), jnp.cos(angle)), -1).reshape(length, DIM)

    results = measure(
        "jax", lambda positions: encode(spec, positions).block_until_ready(), lambda n: usual(n).block_until_ready()
    )
    x = jax.random.normal(jax.random.key(0), (LENGTH, DIM))
    ours, theirs = jax.jit(lambda x: add(spec, x)), jax.jit(lambda x: x + usual(x.shape[0]))
    jitted, jitted_usual = fastest(lambda: ours(x).block_until_ready(), lambda: theirs(x).block_until_ready())
    return results | {"jax:jit add": jitted / jitted_usual}


def bench_tf() -> dict[str, float]:
    import tensorflow as tf

    from posenc import Sinusoidal
    from posenc.tf_impl import add, encode

    spec = Sinusoidal.vaswani(DIM)
    frequency = 10000.0 ** (-tf.range(0, DIM, 2, dtype=tf.float32) / DIM)

    def usual(length: int) -> tf.Tensor:
        angle = tf.range(length, dtype=tf.float32)[:, None] * frequency
        return tf.reshape(tf.stack((tf.sin(angle), tf.cos(angle)), -1), (length, DIM))

    results = measure("tf", lambda positions: encode(spec, positions), usual)
    x = tf.random.normal((LENGTH, DIM))
    ours = tf.function(lambda x: add(spec, x), jit_compile=True)
    theirs = tf.function(lambda x: x + usual(x.shape[0]), jit_compile=True)
    compiled, compiled_usual = fastest(lambda: ours(x), lambda: theirs(x))
    return results | {"tf:xla add": compiled / compiled_usual}


BENCHES = {"numpy": bench_numpy, "torch": bench_torch, "jax": bench_jax, "tf": bench_tf}
