"""Build the wheel, install it with one extra into an empty environment, and use that column there.

    python tools/test_extras.py numpy jax

No other framework may be loaded by the column, and the columns that are not installed answer with one sentence. With
`interop` a checkpoint is carried from format to format.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "posenc" / "conformance" / "vectors"
COLUMNS = {
    "numpy": "numpy_impl",
    "torch": "torch_impl",
    "jax": "jax_impl",
    "tf": "tf_impl",
    "interop": "numpy_impl",
}
NEEDS = {  # what a column may load: its framework and what that brings
    "numpy": {"numpy", "ml_dtypes"},
    "interop": {"numpy", "ml_dtypes"},
    "torch": {"torch", "numpy"},
    "jax": {"jax", "numpy", "ml_dtypes"},
    "tf": {"tensorflow", "keras", "numpy", "ml_dtypes"},
}

USE = """
import importlib, importlib.metadata, sys
from fractions import Fraction
from posenc import Alibi, Learned, Rope, Sinusoidal, T5Bias
from posenc.spec.exact import round_to
from posenc.spec.resampling import weights

extra, column, needs = sys.argv[1], sys.argv[2], set(sys.argv[3].split(","))
module = importlib.import_module(f"posenc.{column}")
spec = Sinusoidal.vaswani(16)
values = module.encode(spec, range(-2, 3))
flat = [float(x) for row in values for x in row]
exact = [spec.value(p, c) for p in range(-2, 3) for c in range(16)]
assert flat == exact, "not the correctly rounded values"
assert [float(x) for row in module.add(spec, values) for x in row] != flat
words = [[int(w) for w in row] for row in module.phase(spec, 1)]
assert words == [list(w[:3]) for w in spec.plan().words()], words
rope = Rope(16, base=10000.0, layout="half")
table = module.table(rope, range(-2, 3))
turned = [float(x) for part in table for row in part for x in row]
exact = [rope.value(p, c + j) for c in (0, 8) for p in range(-2, 3) for j in range(8)]
assert turned == exact, "not the correctly rounded table"
assert [float(x) for row in module.rotate(rope, values, table, head_axis=None) for x in row] != flat

alibi, queries, keys = Alibi.causal(12), range(4), range(6)
pairs = [((q,), (k,)) for q in queries for k in keys]
biases = [float(x) for head in module.bias(alibi, queries, keys) for row in head for x in row]
exact = [alibi.value(alibi.plan().number(q, k), head) for head in range(12) for q, k in pairs]
assert biases == exact, "not the correctly rounded biases"
t5 = T5Bias(2, bidirectional=True)
numbers = [int(n) for row in module.rows(t5, queries, keys) for n in row]
assert numbers == [t5.plan().number(q, k) for q, k in pairs], "not the numbers of the rows"
own = [[float(x) for x in row] for row in values]
found = [[float(x) for x in row] for row in module.lookup(Learned(5, 16), values, [4, 0, 2])]
assert found == [own[4], own[0], own[2]], "not the rows of the table"
patches = Learned.patches((4,), 16, tokens=1)
resized = [[float(x) for x in row] for row in module.resize(patches, values, (8,), method="torch_bilinear")]
sums = [[sum(float(w) * own[1 + tap][c] for tap, w in sorted(output.items())) for c in range(16)]
        for output in weights(4, 8, "torch_bilinear")]
assert resized == [own[0], *([round_to(Fraction(x), "float32") for x in row] for row in sums)], "not the resized table"

frameworks = {"numpy", "ml_dtypes", "torch", "jax", "tensorflow", "keras"}
stray = (frameworks & {name.partition(".")[0] for name in sys.modules}) - needs
assert not stray, f"{column} loads {stray}"
packages = {"numpy_impl": "numpy", "torch_impl": "torch", "jax_impl": "jax", "tf_impl": "tensorflow"}
for other, package in packages.items():
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        try:
            importlib.import_module(f"posenc.{other}")
        except ModuleNotFoundError as error:
            assert f"posenc.{other} needs" in str(error) and "pip install 'posenc[" in str(error), error
        else:
            raise AssertionError(f"posenc.{other} works without {package}")
print(f"posenc[{extra}]: {len(flat + turned + biases)} values right, no other framework loaded")
"""

PORT = """
import sys, tempfile
from pathlib import Path
import h5py
import numpy as np
from posenc import Rope
from posenc.interop.checkpoints import Move, Plan, Rotary, apply, port

folder = Path(tempfile.mkdtemp())
rows = np.arange(16 * 4, dtype=np.float32).reshape(16, 4)
turned = Rotary(Rope(8, base=10000.0, layout="half"), to="interleaved", heads=2)
plan = Plan([Move("q_proj.weight", "q/vars/0", rotary=turned, axes=(1, 0))])
expected = rows[[0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]].T
assert (apply(plan, {"q_proj.weight": rows})["q/vars/0"] == expected).all()
np.savez(folder / "in.npz", **{"q_proj.weight": rows})
with h5py.File(folder / "fresh.weights.h5", "w") as file:
    file["q/vars/0"] = np.zeros((4, 16), np.float32)
port(plan, folder / "in.npz", folder / "out.safetensors")
port(plan, folder / "in.npz", folder / "out.weights.h5", template=folder / "fresh.weights.h5")
with h5py.File(folder / "out.weights.h5") as file:
    assert (file["q/vars/0"][()] == expected).all()
again = Plan([Move("q/vars/0", "q", plain="as it is")])
assert (apply(again, folder / "out.safetensors")["q"] == expected).all()
print("posenc[interop]: carried from .npz to .safetensors and .weights.h5")
"""


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=tempfile.gettempdir())


def build(folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("posenc-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    vectors = (path for path in VECTORS.iterdir() if path.suffix == ".json" or path.name == "LICENSE")
    for path in (ROOT / "posenc" / "py.typed", *sorted(vectors)):
        name = path.relative_to(ROOT).as_posix()
        if name not in names:
            sys.exit(f"test_extras: the wheel lacks {name}")
    return wheel


def main(extras: list[str]) -> None:
    unknown = [extra for extra in extras if extra not in COLUMNS]
    if unknown or not extras:
        sys.exit(f"test_extras: expected some of {', '.join(COLUMNS)}, received {' '.join(extras) or 'nothing'}")
    with tempfile.TemporaryDirectory(prefix="posenc-extras-") as scratch:
        wheel = build(Path(scratch))
        for extra in extras:
            home = Path(scratch) / extra
            venv.create(home, with_pip=True)
            python = home / "bin" / "python"
            pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
            run(*pip, "--constraint", ROOT / "constraints.txt", f"posenc[{extra}] @ {wheel.as_uri()}")
            run(python, "-c", USE, extra, COLUMNS[extra], ",".join(NEEDS[extra]))
            if extra == "interop":
                run(python, "-c", PORT)


if __name__ == "__main__":
    main(sys.argv[1:])
