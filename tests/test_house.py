"""The rules of the house: floors, laziness, and four columns with one face. Each checker is shown a violation."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import posenc

ROOT = Path(posenc.__file__).parent
COLUMNS = ("numpy_impl", "torch_impl", "jax_impl", "tf_impl")
SHELLS = {"torch_impl": "modules", "tf_impl": "layers"}
OWN_FILES = {"torch_impl": {"modules.py", "attention.py"}, "tf_impl": {"layers.py", "attention.py"}}
"""What a framework has of its own: its shells, and where its attention takes a bias."""
FRAMEWORKS = {"numpy", "ml_dtypes", "torch", "jax", "jaxlib", "tensorflow", "keras"}
OWN_FRAMEWORKS = {
    "numpy_impl": {"numpy", "ml_dtypes"},
    "torch_impl": {"torch"},
    "jax_impl": {"jax", "numpy", "ml_dtypes"},
    "tf_impl": {"tensorflow", "keras", "numpy", "ml_dtypes"},
}
ON_ARRAYS = re.compile(
    r"interop/(tensor_files|tensor_source|npz_files|keras_\w+|port_\w+|comparison\w*|checkpoints)\.py"
)
"""Files of interop that work on arrays: NumPy's and its column's. Keras's files are h5py's."""
FLOORS = {
    "spec": 0,
    "positions": 1,
    **dict.fromkeys(COLUMNS, 1),
    "interop": 2,
    "conformance": 3,
    "cli": 4,
    "__main__": 5,
}


class Violation(AssertionError):
    """A rule of the house that a file breaks."""


def imports(source: str) -> set[str]:
    """Every module named by an import statement, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def check_floor(module: str, source: str) -> None:
    """`module` is a path below posenc, such as `torch_impl/phase.py`; imports point down, never sideways."""
    home = module.split("/", maxsplit=1)[0].removesuffix(".py")
    allowed = sys.stdlib_module_names | {"posenc"}
    if home in COLUMNS:
        allowed = allowed | OWN_FRAMEWORKS[home]
    if ON_ARRAYS.fullmatch(module):
        allowed = allowed | {"numpy", "ml_dtypes", "h5py"}
    for name in imports(source):
        top = name.split(".")[0]
        if home in (*COLUMNS, "spec", "positions", "interop", "__init__") and top not in allowed:
            raise Violation(f"{module} imports {name}")
        if top != "posenc" or home == "__init__":
            continue
        target = name.split(".")[1] if "." in name else ""
        if target not in FLOORS:
            target = "spec"  # the names that the package itself exports come from there
        if home == "interop" and target in COLUMNS and not (target == "numpy_impl" and ON_ARRAYS.fullmatch(module)):
            raise Violation(f"{module} imports {name}")
        if target != home and FLOORS[target] >= FLOORS[home]:
            raise Violation(f"{module} (floor {FLOORS[home]}) imports {name} (floor {FLOORS[target]})")


MODULES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    check_floor(module, (ROOT / module).read_text())


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("spec/plan.py", "import numpy"),
        ("spec/plan.py", "from posenc.numpy_impl import encode"),
        ("torch_impl/phase.py", "from posenc.numpy_impl.phase import encode"),
        ("torch_impl/phase.py", "def f():\n    import numpy as np"),
        ("jax_impl/phase.py", "import torch"),
        ("numpy_impl/phase.py", "from posenc.conformance import judge"),
        ("conformance/judge.py", "from posenc import cli"),
        ("interop/checkpoint_layout.py", "import numpy"),
        ("interop/layouts.py", "from posenc.numpy_impl import encode"),
        ("interop/port_blocks.py", "from posenc.torch_impl import encode"),
        ("interop/port_blocks.py", "import torch"),
        ("interop/checkpoints.py", "from posenc.conformance import judge"),
    ],
)
def test_the_floor_checker_sees_a_violation(module, line):
    with pytest.raises(Violation):
        check_floor(module, line)


def loaded_by(statement: str) -> set[str]:
    """Top-level names in `sys.modules` after `statement` in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import posenc, posenc.spec", FRAMEWORKS | {"typer", "rich", "mpmath"}),
        ("import posenc.numpy_impl", FRAMEWORKS - OWN_FRAMEWORKS["numpy_impl"]),
        (
            "import posenc.torch_impl, posenc.torch_impl.modules, posenc.torch_impl.attention",
            {"jax", "tensorflow", "keras"},
        ),
        ("import posenc.jax_impl", {"torch", "tensorflow", "keras"}),
        ("import posenc.tf_impl, posenc.tf_impl.layers, posenc.tf_impl.attention", {"torch"}),
        ("import posenc.cli, posenc.conformance.run, posenc.conformance.report", FRAMEWORKS | {"h5py"}),
        ("import posenc.interop.checkpoints", FRAMEWORKS - {"numpy", "ml_dtypes"} | {"h5py"}),
    ],
)
def test_imports_are_lazy(statement, absent):
    assert not loaded_by(statement) & absent


def test_the_laziness_checker_sees_a_violation():
    assert loaded_by("import posenc\nimport numpy") & FRAMEWORKS == {"numpy"}


def files(column: str) -> set[str]:
    return {path.name for path in (ROOT / column).glob("*.py")} - OWN_FILES.get(column, set())


def check_same(what: dict[str, object]) -> None:
    """Every column has what the first one has."""
    (reference, expected), *others = what.items()
    for column, value in others:
        if value != expected:
            raise Violation(f"{reference} has {expected}, {column} has {value}")


def public(column: str) -> dict[str, object]:
    module = __import__(f"posenc.{column}", fromlist=["__all__"])
    return {name: getattr(module, name) for name in module.__all__}


def face(function: object) -> list[tuple[str, str, str]]:
    """Names, kinds and defaults of the parameters, a default dtype by its name."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind.name, dtype_name(p.default)) for p in parameters]


def dtype_name(default: object) -> str:
    found = re.search(r"(float32|float64|bfloat16|float16)", f"{default!r} {getattr(default, '__name__', '')}")
    return found.group(1) if found else repr(default)


def test_columns_have_the_same_files():
    check_same({column: files(column) for column in COLUMNS})


def test_columns_have_the_same_names():
    check_same({column: sorted(public(column)) for column in COLUMNS})


@pytest.mark.parametrize("name", ["add", "bias", "encode", "lookup", "phase", "resize", "rotate", "rows", "table"])
def test_columns_have_the_same_parameters(name):
    check_same({column: face(public(column)[name]) for column in COLUMNS})


def test_the_column_checker_sees_a_violation():
    def encode(spec, positions, *, dtype="float64"):
        return spec, positions, dtype

    def renamed(spec, position, *, dtype="float32"):
        return spec, position, dtype

    reference = face(public("numpy_impl")["encode"])
    for other in (encode, renamed):
        with pytest.raises(Violation):
            check_same({"numpy_impl": reference, "other": face(other)})
    with pytest.raises(Violation):
        check_same({"numpy_impl": files("numpy_impl"), "other": files("numpy_impl") - {"phase.py"}})


@pytest.mark.parametrize("module", ["posenc", "posenc.spec", *(f"posenc.{column}" for column in COLUMNS)])
def test_all_is_what_there_is(module):
    check_all(__import__(module, fromlist=["__all__"]))


def check_all(module: object) -> None:
    """`__all__` names each public function and class of the module once, every one with a docstring of its own."""
    own = {name for name, value in vars(module).items() if inspect.isroutine(value) or inspect.isclass(value)}
    listed = [name for name in module.__all__ if name != "__version__"]
    if sorted(listed) != sorted(name for name in own if not name.startswith("_")):
        raise Violation(f"{module.__name__} lists {listed} and has {own}")
    for name in listed:
        if not vars(module)[name].__doc__:
            raise Violation(f"{module.__name__}.{name} has no docstring")


def test_the_checker_of_all_sees_a_violation():
    for listed in (["Sinusoidal"], [*posenc.__all__, "Cosine"], [*posenc.__all__, "Sinusoidal"]):
        fake = types.ModuleType("fake")
        vars(fake).update(vars(posenc) | {"__all__": listed})
        with pytest.raises(Violation):
            check_all(fake)


def test_columns_have_the_same_table():
    check_same({column: public(column)["Table"]._fields for column in COLUMNS})


@pytest.mark.parametrize("name", ["SinusoidalEncoding", "RotaryEmbedding", "RelativeBias", "LearnedEncoding"])
def test_shells_have_the_same_parameters(name):
    shells = {}
    for column, module in SHELLS.items():
        shell = getattr(__import__(f"posenc.{column}.{module}", fromlist=[name]), name)
        call = shell.forward if column == "torch_impl" else shell.call
        # Keras layers take a name and a dtype, PyTorch modules with parameters a device and a dtype
        own = [p for p in face(shell.__init__) if p[1] != "VAR_KEYWORD" and p[0] not in ("device", "dtype")]
        shells[column] = own, face(call)
    check_same(shells)


@pytest.mark.parametrize(
    ("column", "framework", "sentence"),
    [
        ("numpy_impl", "numpy", "posenc.numpy_impl needs NumPy: pip install 'posenc[numpy]'"),
        ("torch_impl", "torch", "posenc.torch_impl needs PyTorch: pip install 'posenc[torch]'"),
        ("jax_impl", "jax", "posenc.jax_impl needs JAX: pip install 'posenc[jax]'"),
        ("tf_impl", "tensorflow", "posenc.tf_impl needs TensorFlow: pip install 'posenc[tf]'"),
    ],
)
def test_a_missing_framework_is_one_sentence(column, framework, sentence):
    hide = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {framework!r}:\n"
        f"            raise ModuleNotFoundError('No module', name={framework!r})\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"import posenc.{column}\n"
    )
    run = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == f"ModuleNotFoundError: {sentence}"
    assert "During handling" not in run.stderr


def test_a_broken_framework_is_not_called_missing(tmp_path):
    (tmp_path / "torch.py").write_text("import no_such_part_of_torch\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import posenc.torch_impl"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'no_such_part_of_torch'" in run.stderr
    assert "pip install" not in run.stderr


def test_the_version_is_that_of_the_package():
    assert importlib.metadata.version("posenc") == posenc.__version__
