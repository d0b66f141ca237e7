"""`posenc port`: what it says it does, one line where it refuses, and nothing left where it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from posenc import Learned, Rope, cli
from posenc.interop import json_text, port_files
from posenc.interop.port_moves import told
from posenc.interop.port_plan import Move, Plan, Rotary, Rows

HALF = Rope(head_dim=8, base=10000.0, layout="half")
HALF_TO_INTERLEAVED = [0, 4, 1, 5, 2, 6, 3, 7]
ROTARY = Rotary(HALF, to="interleaved", heads=2)
MOVES = (
    Move("layers.{n}.q_proj.weight", "blocks/block{n:suffix}/q/vars/0", rotary=ROTARY, axes=(1, 0), dtype="bfloat16"),
    Move("positions.weight", "positions/vars/0", rows=Rows(Learned(6, 4, offset=2), Learned(6, 4))),
)
PLAN = Plan(MOVES, left_out={"lm_head.{part}": "tied"}, kept={"step/vars/{n}": "counts steps"})


@pytest.fixture
def folder(tmp_path):
    """A checkpoint, a file of a target, and plans for a target that has something to keep and for none."""
    rng = np.random.default_rng(0)
    tensors = {f"layers.{n}.q_proj.weight": rng.normal(size=(16, 5)).astype(np.float32) for n in range(3)}
    tensors |= {"positions.weight": rng.normal(size=(8, 4)).astype(np.float32), "lm_head.0": np.zeros(3)}
    save_file(tensors, tmp_path / "in.safetensors")
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for n in range(3):
            name = f"blocks/block{f'_{n}' if n else ''}/q/vars/0"
            file.create_dataset(name, data=np.zeros((5, 16), "V2")).attrs["dtype"] = "bfloat16"
        file["positions/vars/0"] = np.zeros((6, 4), np.float32)
        file["step/vars/0"] = np.int64(7)
    (tmp_path / "plan.json").write_text(PLAN.to_json())
    (tmp_path / "bare.json").write_text(Plan(MOVES, left_out=PLAN.left_out).to_json())
    return tmp_path


THERE = {"in.safetensors", "model.weights.h5", "plan.json", "bare.json"}


@pytest.fixture
def call(monkeypatch, capsys, folder):
    """Run the command in the folder; exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["posenc", "port", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        written = capsys.readouterr()
        return exit_.value.code or 0, written.out, written.err

    return run


def refused(result, message):
    code, out, err = result
    assert message in err
    assert (code, out, err.count("\n"), err.startswith("posenc: ")) == (2, "", 1, True)


LISTING = """\
4 tensors are moved:
  'layers.{0-2}.q_proj.weight' -> 'blocks/block/q/vars/0', 'blocks/block_{1-2}/q/vars/0': \
float32 [16, 5] -> bfloat16 [5, 16], half to interleaved, 2 heads of 8, axes [1, 0], to bfloat16
  'positions.weight' -> 'positions/vars/0': float32 [8, 4] -> float32 [6, 4], \
"""


def test_it_says_what_it_does(call, folder):
    code, out, err = call("plan.json", "in.safetensors", "out.weights.h5", "--template", "model.weights.h5")
    assert (code, err) == (0, "")
    assert out.startswith(LISTING)
    assert out.splitlines()[2].endswith(f"-> float32 [6, 4], {told(MOVES[1])[0]}")
    assert out.splitlines()[3:] == [
        "1 tensor is left out:",
        "  'lm_head.0': tied",
        "1 tensor is kept:",
        "  'step/vars/0': counts steps",
        "Written: 'out.weights.h5'",
    ]
    tensors = load_file(folder / "in.safetensors")
    with h5py.File(folder / "out.weights.h5") as file:
        assert file["step/vars/0"][()] == 7
        assert np.array_equal(file["positions/vars/0"], tensors["positions.weight"][2:])
        for n, name in enumerate(("block", "block_1", "block_2")):
            rows = tensors[f"layers.{n}.q_proj.weight"].reshape(2, 8, 5)[:, HALF_TO_INTERLEAVED].reshape(16, 5)
            high = file[f"blocks/{name}/q/vars/0"][:].view(np.uint16).astype(np.uint32) << 16
            assert np.abs(high.view(np.float32) - rows.T).max() <= 2**-8 * np.abs(rows).max()  # half a unit of bfloat16
    assert {path.name for path in folder.iterdir()} == THERE | {"out.weights.h5"}


def test_a_dry_run_writes_nothing(call, folder):
    wet = call("plan.json", "in.safetensors", "out.weights.h5", "--template", "model.weights.h5")
    os.unlink(folder / "out.weights.h5")
    arguments = ("plan.json", "in.safetensors", "out.weights.h5", "--template", "model.weights.h5", "--dry-run")
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out.splitlines() == [*wet[1].splitlines()[:-1], "Nothing was written."]
    assert {path.name for path in folder.iterdir()} == THERE
    refused(call("plan.json", "in.safetensors", "out.npz", "--dry-run"), "'step/vars/{n}'")  # whatever is wrong is said
    refused(call("bare.json", "in.safetensors", "in.safetensors", "--dry-run"), "nothing is overwritten")
    for place in ("no/out.npz", "bare.json/out.npz"):
        for more in ((), ("--dry-run",)):
            refused(
                call("bare.json", "in.safetensors", place, *more), f"{place}: expected a folder that exists and can"
            )


def test_without_a_template(call, folder):
    code, out, err = call("bare.json", "in.safetensors", "out.safetensors")
    assert (code, err, "kept" in out) == (0, "", False)
    assert load_file(folder / "out.safetensors")["blocks/block_2/q/vars/0"].shape == (5, 16)


def test_what_is_wrong_is_one_line(call, folder):
    held = {name: (folder / name).read_bytes() for name in THERE}
    (folder / "m.pt").write_bytes(b"\x80\x02}q\x00.")
    wrong = json.loads(PLAN.to_json())
    for change, message in (
        ({"schema": 2}, "x.json: Plan.schema: expected 1, received 2"),
        ({"extra": 1}, "x.json: Plan: expected the keys schema, specs, moves, left_out, kept, received 'extra'"),
        (
            {"moves": [{"source": "a"}]},
            "x.json: Plan.moves[0].target: expected this key, received an object without it",
        ),
    ):
        (folder / "x.json").write_text(json.dumps(wrong | change))
        refused(call("x.json", "in.safetensors", "out.npz"), message)
    (folder / "x.json").write_bytes(b"\xff")
    refused(call("x.json", "in.safetensors", "out.npz"), "x.json: 'utf-8' codec can't decode byte 0xff")
    with (folder / "x.json").open("wb") as file:
        file.truncate(json_text.GREATEST + 1)
    refused(call("x.json", "in.safetensors", "out.npz"), "x.json: expected a plan of at most 100000000 bytes")
    os.unlink(folder / "x.json")
    refused(call("absent.json", "in.safetensors", "out.npz"), "No such file or directory: 'absent.json'")
    refused(call("bare.json", "absent.npz", "out.safetensors"), "absent.npz: expected a file or folder on this machine")
    refused(call("bare.json", "m.pt", "out.npz"), "received a pickle or what may be one")
    refused(call("bare.json", "in.safetensors", "out.npz"), "received bfloat16, which .npz does not have")
    refused(call("bare.json", "in.safetensors", "out.weights.h5"), "expected a template in .weights.h5 or .keras")
    refused(
        call("bare.json", "in.safetensors", "out.pt"), "expected a name that ends in .safetensors, .npz, .weights.h5"
    )
    refused(call("bare.json", "model.weights.h5", "out.npz"), "port: ")
    refused(call("bare.json"), "Missing argument 'IN'")
    os.unlink(folder / "m.pt")
    assert held == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_names_do_not_reach_the_terminal_as_they_are(call, folder):
    save_file({"\x1b[2J": np.zeros(2)}, folder / "odd.safetensors")
    refused(call("bare.json", "odd.safetensors", "out.npz"), r"'\x1b[2J'")
    (folder / "odd.json").write_text(Plan((Move("\x1b[2J", "\x1b[1J"),)).to_json())
    code, out, _ = call("odd.json", "odd.safetensors", "out.safetensors")
    assert (code, r"'\x1b[2J' -> '\x1b[1J'" in out, "\x1b" in out) == (0, True, False)


def hidden(name, *arguments):
    """The command in an interpreter that cannot import `name`."""
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
sys.argv = ["posenc", *{[str(each) for each in arguments]!r}]
from posenc import cli
cli.main()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["numpy", "ml_dtypes", "h5py"])
def test_what_is_missing_is_said_with_the_way_to_install_it(folder, name):
    arguments = [folder / "plan.json", folder / "in.safetensors", folder / "out.weights.h5"]
    run = hidden(name, "port", *arguments, "--template", folder / "model.weights.h5")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"posenc: posenc port needs {name}: pip install 'posenc[interop]'\n"
    assert hidden(name, "port", "--help").returncode == 0
    assert {path.name for path in folder.iterdir()} == THERE


def test_files_of_others_need_no_h5py(folder):
    run = hidden("h5py", "port", folder / "bare.json", folder / "in.safetensors", folder / "out.safetensors")
    assert (run.returncode, run.stderr) == (0, "")
    assert (folder / "out.safetensors").exists()


def test_the_other_commands_load_nothing_for_it():
    code = "import sys\nfrom posenc import cli\nsys.argv = ['posenc', {}]\ntry: cli.main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('numpy', 'ml_dtypes', 'h5py') if name in sys.modules])"
    for arguments in ("'--help'", "'port', '--help'", "'--version'"):
        run = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("target", ["out.safetensors", "out.weights.h5"])
@pytest.mark.parametrize(("name", "number"), [("SIGINT", 2), ("SIGTERM", 15)])
def test_a_signal_leaves_nothing(folder, name, number, target):
    """In the middle of a real run, on a terminal: the exit code of the signal, no traceback, nothing left."""
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it, and hands that down
from posenc import cli
from posenc.interop import port_files
blocks, seen = port_files.blocks, []
def slow(*arguments):
    seen.append(1)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.{name})
    yield from blocks(*arguments)
port_files.blocks = slow
sys.argv = ["posenc", "port", *sys.argv[1:]]
cli.main()
"""
    terminal = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    names = [str(folder / each) for each in ("plan.json", "in.safetensors", target, "model.weights.h5")]
    command = [sys.executable, "-c", code, *names[:3], "--template", names[3]]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=terminal)
    assert run.returncode in (128 + number, -number)
    assert "porting" in run.stderr
    assert "Traceback" not in run.stderr
    assert {path.name for path in folder.iterdir()} == THERE


def test_compressed_files_are_unpacked_beside_the_target_and_leave_nothing(call, folder, monkeypatch):
    with zipfile.ZipFile(folder / "packed.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "model.weights.h5", "model.weights.h5")
    folders = []
    made = port_files.tensor_files.open_source
    monkeypatch.setattr(
        port_files.tensor_files, "open_source", lambda path, scratch: folders.append(scratch) or made(path, scratch)
    )
    (folder / "to").mkdir()
    back = Plan(
        (Move("positions/vars/0", "p", plain="a table as it is"),),
        left_out={"step/vars/0": "x", "blocks/block{n:suffix}/q/vars/0": "x"},
    )
    (folder / "back.json").write_text(back.to_json())
    assert call("back.json", "packed.keras", "to/out.npz")[0] == 0
    assert [path.name for path in folders] == ["to"]
    assert [path.name for path in (folder / "to").iterdir()] == ["out.npz"]


def test_help_says_what_it_takes(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = call("--help")
    assert code == 0
    for word in ("PLAN.json", "IN", "OUT", "--template", "--dry-run", "pickles are never opened"):
        assert word in out
