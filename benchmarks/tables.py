"""Learned tables, as ratios to what the same framework offers for them.

Lookup: 32 batch rows of 512 positions in a table of 512 x 768 float32, against the framework's own embedding. Resize:
the table of a ViT, a class token and 14 x 14 patches of 768 channels in float32, to 24 x 24, against the framework's
own bicubic. NumPy has none: its peer is SciPy's spline zoom of the grid (`scipy.ndimage.zoom`, order 3), another
function and the nearest there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from timing import fastest

BARS = {
    **{f"{name} lookup": 1.5 for name in ("numpy", "torch", "jax", "tf")},
    **{f"{name} lookup": 1.3 for name in ("torch:inductor", "jax:jit", "tf:xla")},
    **{f"{name} resize": 4.0 for name in ("numpy", "torch", "jax")},
    "tf resize": 6.0,  # five passes of eager float64 against one float32 kernel
}


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    mine, usual = fastest(ours, theirs)
    return mine / usual


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table, positions, and the table of a ViT."""
    random = np.random.default_rng(0)
    text, image = (random.standard_normal((rows, 768), np.float32) for rows in (512, 197))
    return text, random.integers(0, 512, (32, 512), np.int32), image


def specifications() -> tuple[object, object]:
    from posenc import Learned

    return Learned(512, 768), Learned.patches((14, 14), 768)


def bench_numpy() -> dict[str, float]:
    from scipy.ndimage import zoom

    from posenc.numpy_impl import lookup, resize

    text, vit = specifications()
    table, positions, image = arrays()
    grid = image[1:].reshape(14, 14, 768)
    return {
        "numpy lookup": ratio(lambda: lookup(text, table, positions), lambda: table[positions]),
        "numpy resize": ratio(
            lambda: resize(vit, image, (24, 24), method="torch_bicubic"),
            lambda: zoom(grid, (24 / 14, 24 / 14, 1), order=3),
        ),
    }


def bench_torch() -> dict[str, float]:
    import torch
    from torch.nn import functional

    from posenc.torch_impl import lookup, resize

    torch.set_num_threads(1)
    text, vit = specifications()
    table, positions, image = (torch.tensor(array) for array in arrays())

    def usual(weights: torch.Tensor) -> torch.Tensor:
        grid = weights[1:].reshape(1, 14, 14, 768).permute(0, 3, 1, 2)
        large = functional.interpolate(grid, size=(24, 24), mode="bicubic").permute(0, 2, 3, 1).reshape(-1, 768)
        return torch.cat((weights[:1], large))

    def own(weights: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return lookup(text, weights, p)

    def theirs(weights: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return functional.embedding(p, weights)

    compiled = [torch.compile(f, fullgraph=True) for f in (own, theirs)]
    return {
        "torch lookup": ratio(lambda: own(table, positions), lambda: theirs(table, positions)),
        "torch resize": ratio(lambda: resize(vit, image, (24, 24), method="torch_bicubic"), lambda: usual(image)),
        "torch:inductor lookup": ratio(lambda: compiled[0](table, positions), lambda: compiled[1](table, positions)),
    }


def bench_jax() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from posenc.jax_impl import lookup, resize

    text, vit = specifications()
    table, positions, image = (jnp.asarray(array) for array in arrays())

    def usual(weights: jax.Array) -> jax.Array:
        large = jax.image.resize(weights[1:].reshape(14, 14, 768), (24, 24, 768), "cubic").reshape(-1, 768)
        return jnp.concatenate((weights[:1], large))

    def own(weights: jax.Array, p: jax.Array) -> jax.Array:
        return lookup(text, weights, p)

    def theirs(weights: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.take(weights, p, axis=0)

    compiled = [jax.jit(f) for f in (own, theirs)]
    wait = jax.block_until_ready
    return {
        "jax lookup": ratio(lambda: wait(own(table, positions)), lambda: wait(theirs(table, positions))),
        "jax resize": ratio(lambda: wait(resize(vit, image, (24, 24), method="jax_cubic")), lambda: wait(usual(image))),
        "jax:jit lookup": ratio(
            lambda: wait(compiled[0](table, positions)), lambda: wait(compiled[1](table, positions))
        ),
    }


def bench_tf() -> dict[str, float]:
    import tensorflow as tf

    from posenc.tf_impl import lookup, resize

    text, vit = specifications()
    table, positions, image = (tf.constant(array) for array in arrays())

    def usual(weights: tf.Tensor) -> tf.Tensor:
        large = tf.image.resize(tf.reshape(weights[1:], (1, 14, 14, 768)), (24, 24), "bicubic")
        return tf.concat((weights[:1], tf.reshape(large, (-1, 768))), 0)

    def own(weights: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        return lookup(text, weights, p)

    def theirs(weights: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        return tf.nn.embedding_lookup(weights, p)

    compiled = [tf.function(f, jit_compile=True) for f in (own, theirs)]
    return {
        "tf lookup": ratio(lambda: own(table, positions), lambda: theirs(table, positions)),
        "tf resize": ratio(lambda: resize(vit, image, (24, 24), method="tf_bicubic"), lambda: usual(image)),
        "tf:xla lookup": ratio(lambda: compiled[0](table, positions), lambda: compiled[1](table, positions)),
    }


BENCHES = {"numpy": bench_numpy, "torch": bench_torch, "jax": bench_jax, "tf": bench_tf}
