"""docs/porting.md runs as it stands, from its first block to its last, and its mistakes would be seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "porting.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
EXAMPLES = ROOT / "examples" / "porting"


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in {path.stem for path in EXAMPLES.glob("*.py")}:
        sys.modules.pop(name, None)


def run(blocks: list[str], capsys) -> str:
    names = {"__name__": "porting"}
    for block in blocks:
        exec(compile(block, "porting.md", "exec"), names)  # noqa: S102  # the page's own code
    return capsys.readouterr().out


def test_the_page_runs_and_prints_what_it_says(capsys):
    printed = run(BLOCKS, capsys)
    shown = re.search(r"```text\n(.*?)```", TEXT, re.DOTALL).group(1)
    for line in shown.splitlines():
        assert line in printed
    comments = re.findall(r"^# (.*?)$", "\n".join(BLOCKS), re.MULTILINE)
    assert " ".join(comments) in printed.replace("\n", " ")


WRONG = [
    # a model in the other layout than its weights, weights in the other layout than their model, positions
    ('    replace(rope, layout="interleaved"),', "    rope,"),
    ('config=folder, target_layout="interleaved"', "config=folder"),
    ("jnp.arange(512)", "2 * jnp.arange(512)"),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_a_mistake_is_seen_by_the_forward_pass(right, wrong, capsys):
    assert sum(block.count(right) for block in BLOCKS) == 1
    with pytest.raises(AssertionError):
        run([block.replace(right, wrong) for block in BLOCKS], capsys)


@pytest.mark.parametrize("script", ["port_decoder.py", "port_t5.py", "port_encoder.py"])
def test_the_scripts_start_and_say_what_they_do(script, tmp_path):
    command = [sys.executable, str(EXAMPLES / script), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Flax nnx and to Keras" in " ".join(run.stdout.split())
