"""Time and memory of the columns, one thread, as ratios to the usual formula in the same framework and run.

    python benchmarks/bench.py [numpy torch jax tf] [--json FILE]

`encoding.py`, `rotation.py`, `distance.py` and `tables.py` say what is measured. Each framework runs in processes of
its own, pinned to one core. Ours and the usual formula are timed in turn and the ratio is that of the fastest runs: the
machine is shared, and a minimum is what noise spoils least. Exit code 1: a figure is above its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile

import distance
import encoding
import rotation
import tables

TOPICS = {"encoding": encoding, "rotation": rotation, "distance": distance, "tables": tables}
FRAMEWORKS = tuple(encoding.BENCHES)
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def run(topic: str, name: str) -> dict[str, float]:
    """The figures of one framework, from a process of its own."""
    with tempfile.TemporaryDirectory() as home:
        command = (sys.executable, __file__, "--inside", f"{topic}:{name}")
        environment = os.environ | ONE_THREAD | {"KERAS_HOME": home}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    *remarks, last = output.decode().splitlines()
    print(*(remark for remark in remarks if remark.startswith("#")), sep="\n", end="\n" if remarks else "", flush=True)
    figures: dict[str, float] = json.loads(last)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*FRAMEWORKS, []]  # Python 3.11 looks for what "*" gives without arguments among them
    parser.add_argument("frameworks", nargs="*", choices=choices, metavar="framework", help="default: all four")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        topic, name = arguments.inside.split(":")
        print(json.dumps(TOPICS[topic].BENCHES[name]()))
        return
    figures: dict[str, float] = {}
    bars = {row: bar for topic in TOPICS.values() for row, bar in topic.BARS.items()}
    for topic in TOPICS:
        for name in arguments.frameworks or FRAMEWORKS:
            for row, value in run(topic, name).items():
                figures[row] = value
                verdict = "ok" if value <= bars[row] else "ABOVE"
                print(f"{row:50} {value:8.3f}   at most {bars[row]:g}   {verdict}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=2)
    sys.exit(1 if any(value > bars[row] for row, value in figures.items()) else 0)


if __name__ == "__main__":
    main()
