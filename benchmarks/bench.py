"""Time and memory of the columns, one thread, as ratios to the usual float32 formula in the same framework and run.

    python benchmarks/bench.py [numpy torch jax tf] [--json FILE]

Each framework runs in a process of its own, pinned to one core. The usual formula is
sin(position * frequency) and cos(position * frequency), stacked, all in float32, as one would write it there (NumPy's
in its fastest form, which writes in place: 0.62 of the time of `out[:, 0::2] = np.sin(angle)`);
ours is the default call, with its rounding check. The two are timed in turn and the ratio is that of the fastest runs:
the machine is shared, and a minimum is what noise spoils least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

LENGTH, DIM, REPEATS = 32768, 1024, 9
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


def fastest(*calls: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Seconds of the fastest run of each call, the calls taking turns."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for index, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - begin)
    return best


def extra_memory(encode: Callable[[range], object]) -> float:
    """Peak resident memory of a call beyond its result, as a part of the result; the first large call of a process."""
    encode(range(LENGTH // 8))  # what is compiled or kept once is not the call's
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = _resident("VmRSS")
    kept = encode(range(LENGTH))
    peak = _resident("VmHWM")
    del kept
    return (peak - before) / (LENGTH * DIM * 4) - 1


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(name: str, encode: Callable[[range], object], usual: Callable[[int], object]) -> dict[str, float]:
    memory = extra_memory(encode)
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
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def run(name: str) -> dict[str, float]:
    """The figures of one framework, from a process of its own."""
    with tempfile.TemporaryDirectory() as home:
        command = (sys.executable, __file__, "--inside", name)
        environment = os.environ | ONE_THREAD | {"KERAS_HOME": home}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="*", choices=[*BENCHES, []], help="default: all four")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("--inside", choices=BENCHES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(BENCHES[arguments.inside]()))
        return
    figures: dict[str, float] = {}
    print(f"{LENGTH} x {DIM} float32, one thread, fastest of {REPEATS}", flush=True)
    for name in arguments.frameworks or BENCHES:
        for row, value in run(name).items():
            figures[row] = value
            verdict = "ok" if value <= BARS[row] else "ABOVE"
            print(f"{row:34} {value:8.3f}   at most {BARS[row]:g}   {verdict}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=2)
    sys.exit(1 if any(value > BARS[row] for row, value in figures.items()) else 0)


if __name__ == "__main__":
    main()
