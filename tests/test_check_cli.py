"""`posenc check` as its users and their CI see it: table, JSON, JUnit, exit codes, and one line where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from posenc import Alibi, Rope, T5Bias, __version__, cli
from posenc.conformance import columns, report
from posenc.conformance.bounds import N1
from posenc.conformance.cases import FAMILIES, INTEGERS
from posenc.conformance.columns import COLUMNS, Column, column
from posenc.conformance.protocol import DTYPES, NotRun
from tests.wrong import distance_buckets, distance_rows, distance_slopes, learned_rows, resized
from tests.wrong.formula import Layout
from tests.wrong.rotary_turn import OtherLayout

WRONG = Column("wrong", "order", N1, "tests.test_check_cli:Order", tier=1)
ABSENT = Column("absent", "", N1, "absent_framework.driver:host")
NO_DEVICE = Column("numpy", "tpu", N1, "tests.test_check_cli:no_device")
BROKEN = Column("broken", "", N1, "tests.test_check_cli:broken")
INTERRUPTED = Column("interrupted", "", N1, "tests.test_check_cli:interrupted")
CRASHING = Column("crashing", "", N1, "tests.test_check_cli:Crashing", tier=1)


def interrupted():
    raise KeyboardInterrupt


def no_device():
    raise NotRun("no TPU")


def broken():
    raise OSError("libframework.so: cannot open\nshared object file")


class Crashing:
    def phase(self, *question):
        raise RuntimeError(f"{len(question)} arguments and no memory")

    encode = add = table = rotate = rows = bias = lookup = resize = phase


class Order:
    """Channels, pairs, query and key, and the axes of a grid, in the other order."""

    def __init__(self):
        encoding, rotation = Layout(), OtherLayout()
        self.encode, self.add, self.table, self.rotate = encoding.encode, encoding.add, rotation.table, rotation.rotate
        self.phase = lambda spec, positions: (rotation if isinstance(spec, Rope) else encoding).phase(spec, positions)
        self.lookup, self.resize = learned_rows.OffsetForgotten().lookup, resized.Transposed().resize
        self.distances = distance_slopes.Sign(), distance_buckets.QueryMinusKey(), distance_rows.KeyMinusQuery()

    def rows(self, spec, *question):
        return self.distances[1 if isinstance(spec, T5Bias) else 2].rows(spec, *question)

    def bias(self, spec, *question):
        slopes, buckets, window = self.distances
        return (slopes if isinstance(spec, Alibi) else buckets if isinstance(spec, T5Bias) else window).bias(
            spec, *question
        )


@pytest.fixture
def posenc(monkeypatch, capsys):
    """Run the command over a list of columns; exit code, standard output, standard error."""

    def call(*arguments, listed=COLUMNS):
        monkeypatch.setattr(columns, "COLUMNS", tuple(listed))
        monkeypatch.setattr(sys, "argv", ["posenc", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        written = capsys.readouterr()
        return exit_.value.code, written.out, written.err

    return call


def test_a_conformant_column(posenc):
    code, out, err = posenc("check", "--column", "numpy")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split("  ")[0] == "family"
    assert [name for name in report.HEADER if name not in lines[0]] == []
    for family in FAMILIES:
        integers = {"sinusoidal": ["phase"], "rope": ["phase"], "t5": ["rows"], "relative": ["rows"]}.get(family, [])
        rows = [line for line in lines if line.split()[0] == family]
        assert [line.split()[3] for line in rows] == [*integers, *DTYPES]
        assert all(line.endswith("conformant") and "not" not in line for line in rows)
        assert all((" of the bound" in line) == (family == "rope") for line in rows if "phase" not in line)
        for line in rows:  # float positions have a bound in every format, as has float64 where it is computed
            dtype = line.split()[3]
            bounded = family in ("sinusoidal", "rope") or (family == "alibi" and dtype == "float64")
            assert ("  identical  " in line) == (dtype in INTEGERS or not bounded)
            assert (" ulp" in line) == ("identical" not in line)
            assert " 0 ulp" in line or "identical" in line or dtype == "float64"
    assert [line.split()[0] for line in lines[1:-1]] == sorted(
        (line.split()[0] for line in lines[1:-1]), key=FAMILIES.index
    )
    assert lines[-1].startswith("numpy conforms in ")


def test_a_traced_column_shows_the_share_of_a_bound_where_there_is_one(posenc):
    code, out, _ = posenc("check", "--column", "jax:jit")
    assert code == 0
    for family, _, _, dtype, _, *distance in (line.split() for line in out.splitlines()[1:-1]):
        if dtype in INTEGERS or family in ("t5", "relative"):
            assert distance == ["identical", "conformant"]
        else:
            assert distance[1:] == ["of", "the", "bound", "conformant"]


def test_a_wrong_column_is_named_with_the_case(posenc):
    code, out, _ = posenc("check", listed=[column("numpy"), WRONG])
    assert code == 1
    assert (
        "wrong:order: sinusoidal.vaswani/0042, channel 1, float64: expected 1.0 (0x3ff0000000000000), received 0.0"
        in out
    )
    distances = {
        (line.split()[0], line.split()[3]): line for line in out.splitlines() if line.split()[1:2] == ["wrong"]
    }
    assert "  not identical  " in distances["relative", "rows"]
    assert " ulp  " in distances["sinusoidal", "float32"]
    report_ = report_of(posenc, WRONG)
    for what in (
        "rope.given.rotate/0001, entry 0, float32: expected ",
        "relative.swin/0001, entry 1: expected row 6, received 8",
    ):
        assert f"wrong:order: {what}" in report_
    assert "Failed: wrong:order (not conformant)." in out


def report_of(posenc, wrong):
    _, out, _ = posenc("check", "--json", listed=[wrong])
    complaints = [text for result in json.loads(out)["results"] for text in result["disagreements"]]
    return "\n".join(f"{wrong.name}: {text}" for text in complaints)


def test_json_and_junit_say_the_same(posenc, tmp_path):
    file = tmp_path / "check.xml"
    code, out, _ = posenc("check", "--json", "--junit", str(file), listed=[column("numpy"), WRONG, NO_DEVICE])
    record = json.loads(out)
    suite = ET.parse(file).getroot()  # noqa: S314 - our own file
    assert code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["check.xml"]  # nothing beside it
    assert record["posenc"] == __version__
    assert {name: len(own["sha256"]) for name, own in record["vectors"].items()} == dict.fromkeys(FAMILIES, 64)
    verdicts = {(r["family"], r["column"], r["variant"], r["dtype"]): r["verdict"] for r in record["results"]}
    assert len(verdicts) == len(record["results"])
    for family in record["vectors"]:
        assert verdicts[family, "numpy", "host", "float32"] == "conformant"
        assert verdicts[family, "wrong", "order", "rows" if family == "relative" else "float32"] == "not conformant"
        assert verdicts[family, "numpy", "tpu", None] == "not run"
    assert suite.get("tests") == str(len(record["results"]))
    failed = {(case.get("classname"), case.get("name")) for case in suite if case.find("failure") is not None}
    expected = [(family, dtype) for family in ("sinusoidal", "alibi", "t5", "learned") for dtype in DTYPES]
    expected += [("rope", dtype) for dtype in DTYPES[1:]]  # the one rotation of tier 1 is asked in these
    expected.append(("relative", "rows"))
    assert failed == {(family, f"wrong:order {dtype}") for family, dtype in expected}
    assert suite.get("failures") == str(len(expected))
    skipped = [case for case in suite if case.find("skipped") is not None]
    assert [case.get("classname") for case in skipped] == list(FAMILIES)
    assert {case.find("skipped").get("message") for case in skipped} == {"no TPU"}
    first = next(case for case in suite if case.find("failure") is not None).find("failure").get("message")
    assert first == next(r["disagreements"][0] for r in record["results"] if r["disagreements"])


def test_what_is_not_installed_is_a_row_that_says_so(posenc):
    code, out, _ = posenc("check", listed=[column("numpy"), ABSENT, NO_DEVICE])
    assert code == 0
    assert "not run: not installed: pip install 'posenc[absent]'" in out
    assert "not run: no TPU" in out


def test_what_was_asked_for_and_cannot_start_is_a_failure(posenc):
    code, out, _ = posenc("check", "--column", "numpy", "--column", "absent", listed=[column("numpy"), ABSENT])
    assert code == 1
    assert "Failed: absent (not run)." in out


def test_nothing_ran(posenc):
    code, out, _ = posenc("check", listed=[ABSENT, NO_DEVICE])
    assert code == 3
    assert out.splitlines()[-1] == "Nothing ran."


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (BROKEN, "broken: broken does not start: OSError: libframework.so: cannot open shared object file"),
        (
            CRASHING,
            "crashing: sinusoidal.vaswani.phase/0001 and its group: RuntimeError: 2 arguments and no memory",
        ),
    ],
)
def test_what_breaks_is_a_verdict_and_no_traceback(posenc, listed, message):
    code, out, err = posenc("check", listed=[listed, column("numpy")])
    assert code == 1
    assert message in out
    assert "Traceback" not in out + err
    assert "sinusoidal  numpy" in out  # the others still ran


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "No such command 'chek'"),
        (["check", "--nope"], "No such option: --nope"),
        (
            ["check", "--column", "nmupy"],
            "--column: expected a column from numpy, torch, torch:compile, torch:inductor",
        ),
        (["check", "--junit", "/nowhere/at/all.xml"], "--junit: expected a file in a folder that can be written"),
        (["check", "--column", "numpy", "--junit", "{folder}"], "posenc: "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(posenc, tmp_path, arguments, message):
    code, _, err = posenc(*(argument.format(folder=tmp_path) for argument in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("posenc: ")
    assert err.count("\n") == 1


def test_an_interruption_is_no_traceback(posenc):
    code, out, err = posenc("check", listed=[INTERRUPTED])
    assert code == 130
    assert "Traceback" not in out + err


def test_version_and_help(posenc):
    assert posenc("--version") == (0, f"posenc {__version__}\n", "")
    code, out, _ = posenc()
    assert code == 2
    assert "check" in out


def run(code, **environment):
    surroundings = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=surroundings)


def test_a_terminal_gets_a_table_and_sees_what_is_running():
    code = "import sys; from posenc.cli import main; sys.argv = ['posenc', 'check', '--column', 'numpy']; main()"
    done = run(code, FORCE_COLOR="1", TERM="xterm", COLUMNS="200")
    assert done.returncode == 0
    assert "\x1b[32msinusoidal" in done.stdout  # conformant rows are green
    assert "numpy: rope" in done.stderr


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_the_command_says_how_to_install_it(module):
    done = run(f"import sys; sys.modules[{module!r}] = None; from posenc.cli import main; main()")
    assert done.stderr == "the posenc command needs typer and rich: pip install 'posenc[cli]'\n"
    assert (done.returncode, done.stdout) == (3, "")


def test_the_judge_needs_the_standard_library_alone():
    """And PyTorch is judged without NumPy, which its wheel does not require."""
    code = """
import sys
for name in ("numpy", "ml_dtypes", "typer", "rich"):
    sys.modules[name] = None
from posenc.conformance import cases, columns, report, run
heavy = {"torch", "jax", "tensorflow", "keras"} & sys.modules.keys()
results = list(run.check([columns.column("torch")], cases.families()))
print(heavy, report.exit_code(results))
"""
    done = run(code)
    assert done.stdout == "set() 0\n", done.stderr


def test_tensorflow_is_quiet_and_does_not_write_keras_settings(tmp_path):
    code = "import sys; from posenc.cli import main; sys.argv = ['posenc', 'check', '--column', 'tf:xla']; main()"
    done = run(code, HOME=str(tmp_path), TF_CPP_MIN_LOG_LEVEL="3")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / ".keras").exists()


def test_what_a_file_holds_cannot_move_the_cursor(posenc, tmp_path):
    rope = {"rope_parameters": {"full\x1b[31m": {"rope_theta": 1e4, "bad": 1}}}
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4} | rope
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = str(tmp_path)
    arguments = ("--config", f"{folder}/config.json", "--to", "interleaved")
    code, _, err = posenc("convert-layout", folder, f"{folder}/out", *arguments)
    assert code == 2
    assert "\x1b" not in err
    assert r"full\x1b[31m" in err
