"""Rotations of `(1, 32, 4096, 128)` queries, as ratios to the usual formula of the same framework, dtype and run.

The usual formula is q * cos + rotate_half(q) * sin, where rotate_half exchanges the halves and negates one, cos and sin
have all 128 channels and the dtype of q, as `transformers` has it, and nothing of it is computed beforehand but cos
and sin. Interleaved rotations are compared with it too. A decode step turns q of `(1, 32, 1, 128)` and k of
`(1, 8, 1, 128)`, given the table. Tables are made outside of what is timed.

The unit of the rows "fastest peer" is the fastest published rotation that is installed: transformers is, and `make
peers` makes an environment with the others (`.venv-peers/bin/python benchmarks/bench.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from timing import fastest

SHAPE = (1, 32, 4096, 128)
BARS = {
    "numpy rotate half float32": 1.0,
    "torch rotate half float32": 0.45,
    "torch rotate half bfloat16": 0.7,
    "torch rotate interleaved float32": 0.6,
    "torch rotate interleaved bfloat16": 0.8,
    "torch rotate half float32, differentiable": 0.45,
    "torch rotate half bfloat16, differentiable": 0.7,
    "torch rotate interleaved float32, differentiable": 0.6,
    "torch rotate interleaved bfloat16, differentiable": 0.8,
    "torch:inductor rotate half float32": 0.6,
    "torch:inductor rotate half bfloat16": 0.6,
    "torch decode step / fastest peer": 1.2,
    "torch rotate / fastest peer": 1.0,
    "torch rotate time at 8x length, to 2^20": 8.8,
    "jax:jit rotate half float32": 0.5,
    "jax:jit rotate half bfloat16": 0.5,
    "jax:jit rotate / equinox": 1.0,
    "jax:jit rotate time at 8x length, to 2^20": 8.8,
    "tf rotate half float32": 1.6,
    "tf:xla rotate half float32": 0.6,
    "tf:xla rotate half bfloat16": 0.6,
}


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    mine, usual = fastest(ours, theirs)
    return mine / usual


def specifications() -> tuple[Any, Any]:
    from posenc import Rope

    return Rope(128, 10000.0, "half"), Rope(128, 10000.0, "interleaved")


def bench_numpy() -> dict[str, float]:
    import numpy as np

    from posenc.numpy_impl import rotate, table

    half, _ = specifications()
    q = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    t = table(half, range(SHAPE[2]))
    cos, sin = (np.concatenate((part, part), -1) for part in t)

    def usual() -> np.ndarray:
        turned = np.concatenate((-q[..., 64:], q[..., :64]), -1)
        return q * cos + turned * sin

    return {"numpy rotate half float32": ratio(lambda: rotate(half, q, t, head_axis=1), usual)}


def bench_torch() -> dict[str, float]:
    import torch

    from posenc.torch_impl import rotate, table

    torch.set_num_threads(1)
    half, interleaved = specifications()
    t = table(half, range(SHAPE[2]))

    def usual(q: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return q * cos + torch.cat((-q[..., 64:], q[..., :64]), -1) * sin

    def turn(q: torch.Tensor, t: Any, spec: Any = half) -> torch.Tensor:
        return rotate(spec, q, t, head_axis=1)

    def forward(dtype: torch.dtype) -> dict[str, float]:
        name = str(dtype).removeprefix("torch.")
        q = torch.randn(SHAPE).to(dtype)
        cos, sin = (torch.cat((part, part), -1).to(dtype) for part in t)
        compiled, compiled_usual = (torch.compile(call, fullgraph=True) for call in (turn, usual))
        return {
            f"torch rotate half {name}": ratio(lambda: turn(q, t), lambda: usual(q, cos, sin)),
            f"torch rotate interleaved {name}": ratio(lambda: turn(q, t, interleaved), lambda: usual(q, cos, sin)),
            f"torch:inductor rotate half {name}": ratio(lambda: compiled(q, t), lambda: compiled_usual(q, cos, sin)),
        }

    def backward(dtype: torch.dtype) -> dict[str, float]:
        q, grad = torch.randn(SHAPE).to(dtype).requires_grad_(), torch.randn(SHAPE).to(dtype)
        cos, sin = (torch.cat((part, part), -1).to(dtype) for part in t)

        def both(call: Callable[[], torch.Tensor]) -> None:
            q.grad = None
            call().backward(grad)

        return {
            f"torch rotate {spec.layout} {str(dtype).removeprefix('torch.')}, differentiable": ratio(
                lambda spec=spec: both(lambda: turn(q, t, spec)), lambda: both(lambda: usual(q, cos, sin))
            )
            for spec in (half, interleaved)
        }

    figures = {}
    for dtype in (torch.float32, torch.bfloat16):
        figures |= forward(dtype) | backward(dtype)
    return figures | _torch_peers(turn, half) | _torch_length(turn, half)


def _torch_length(turn: Callable[..., Any], spec: Any) -> dict[str, float]:
    import torch

    from posenc.torch_impl import table

    calls = []
    for length in (2**17, 2**20):
        q, t = torch.randn(1, 1, length, 128), table(spec, range(length))
        calls.append(lambda q=q, t=t: turn(q, t, spec))
    short, long = fastest(*calls, repeats=4)
    return {"torch rotate time at 8x length, to 2^20": long / short}


def _torch_peers(turn: Callable[..., Any], spec: Any) -> dict[str, float]:
    """Published rotations of a table that is given, those that are installed."""
    import torch

    from posenc.torch_impl import table

    figures = {}
    with torch.no_grad():
        for row, length, repeats in (("decode step", 1, 2000), ("rotate", SHAPE[2], 9)):
            q, k = torch.randn(1, 32, length, 128), torch.randn(1, 8, length, 128)
            t = table(spec, range(4095, 4095 + length))
            peers = _torch_rotations(q, k, t)
            ours, *others = fastest(
                lambda q=q, k=k, t=t: (turn(q, t, spec), turn(k, t, spec)), *peers.values(), repeats=repeats
            )
            for name, seconds in zip(peers, others, strict=True):
                print(f"# torch {row}, q and k: {name} {seconds * 1e6:.1f} us, ours {ours * 1e6:.1f} us")
            figures[f"torch {row} / fastest peer"] = ours / min(others)
    return figures


def _torch_rotations(q: Any, k: Any, t: Any) -> dict[str, Callable[[], object]]:
    """Rotations of q and k by a ready table: that of transformers, and of what else is installed."""
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = (torch.cat((part, part), -1)[None] for part in t)
    rotations: dict[str, Callable[[], object]] = {"transformers": lambda: apply_rotary_pos_emb(q, k, cos, sin)}
    for package in ("diffusers", "litgpt", "curated_transformers"):
        if not find_spec(package):
            print(f"# not compared: {package} is not installed")
    if find_spec("diffusers"):
        from diffusers.models.embeddings import apply_rotary_emb

        table = cos[0], sin[0]
        rotations["diffusers"] = lambda: [apply_rotary_emb(x, table, use_real_unbind_dim=-2) for x in (q, k)]
    if find_spec("litgpt"):
        from litgpt.model import apply_rope

        rotations["litgpt"] = lambda: [apply_rope(x, cos, sin) for x in (q, k)]
    if find_spec("curated_transformers") and q.shape[2] > 1:
        from curated_transformers.layers.embeddings import RotaryEmbeddings

        module = RotaryEmbeddings(q.shape[3], seq_len=q.shape[2])
        rotations["curated-transformers"] = lambda: [module(x) for x in (q, k)]
    return rotations


def bench_jax() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from posenc.jax_impl import rotate, table

    half, _ = specifications()
    t = table(half, range(SHAPE[2]))
    figures = {}

    @jax.jit
    def usual(q: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        return q * cos + jnp.concatenate((-q[..., 64:], q[..., :64]), -1) * sin

    ours = jax.jit(lambda q, t: rotate(half, q, t, head_axis=1))
    for dtype in (jnp.float32, jnp.bfloat16):
        q = jax.random.normal(jax.random.key(0), SHAPE).astype(dtype)
        wide = [jnp.concatenate((part, part), -1).astype(dtype) for part in t]
        figures[f"jax:jit rotate half {jnp.dtype(dtype).name}"] = ratio(
            lambda q=q: ours(q, t).block_until_ready(), lambda q=q, w=wide: usual(q, *w).block_until_ready()
        )
    if find_spec("equinox"):
        import equinox

        q = jax.random.normal(jax.random.key(0), SHAPE)
        peer = jax.jit(jax.vmap(jax.vmap(equinox.nn.RotaryPositionalEmbedding(SHAPE[3]))))
        own = ratio(lambda: ours(q, t).block_until_ready(), lambda: peer(q).block_until_ready())
        figures["jax:jit rotate / equinox"] = own
    calls = []
    for length in (2**17, 2**20):
        q, rows = jax.numpy.ones((1, 1, length, 128)), table(half, range(length))
        calls.append(lambda q=q, rows=rows: ours(q, rows).block_until_ready())
    short, long = fastest(*calls, repeats=4)
    return figures | {"jax:jit rotate time at 8x length, to 2^20": long / short}


def bench_tf() -> dict[str, float]:
    import tensorflow as tf

    from posenc.tf_impl import rotate, table

    half, _ = specifications()
    t = table(half, range(SHAPE[2]))
    figures = {}

    def usual(q: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor) -> tf.Tensor:
        return q * cos + tf.concat((-q[..., 64:], q[..., :64]), -1) * sin

    def ours(q: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor) -> tf.Tensor:
        return rotate(half, q, (cos, sin), head_axis=1)

    compiled, compiled_usual = (tf.function(call, jit_compile=True) for call in (ours, usual))
    for dtype in (tf.float32, tf.bfloat16):
        q = tf.cast(tf.random.normal(SHAPE), dtype)
        wide = [tf.cast(tf.concat((part, part), -1), dtype) for part in t]
        if dtype == tf.float32:
            figures["tf rotate half float32"] = ratio(lambda q=q: ours(q, *t), lambda q=q, w=wide: usual(q, *w))
        figures[f"tf:xla rotate half {dtype.name}"] = ratio(
            lambda q=q: compiled(q, *t), lambda q=q, w=wide: compiled_usual(q, *w)
        )
    return figures


BENCHES = {"numpy": bench_numpy, "torch": bench_torch, "jax": bench_jax, "tf": bench_tf}
