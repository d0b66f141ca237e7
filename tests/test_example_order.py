"""examples/order.py shows what docs/why.md says: bare attention is blind to order, and addition keeps word and place.

Each check is shown answers it must refuse.
"""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ("NumPy", "PyTorch", "JAX", "TensorFlow/Keras")
PLOTS = ("encoding", "lengths", "probes", "training")
# Four products in a row, each of at most 32 terms whose roundings add up like a random walk: sqrt(32) * 2^-24 of
# the values on the way, which the largest score, 7.8, bounds by 8. That is 1.1e-5; what is seen is 1e-6 and less.
ROUNDING = 4 * math.sqrt(32) * 2.0**-24 * 8


def check_sentences(found: dict) -> None:
    differences = found["differences"]
    assert set(differences) == set(FRAMEWORKS)
    for name, of in differences.items():
        assert len(of["without"]) == len(of["with"]) == 5, name
        assert all(d < 1e-5 for d in of["without"]), (
            f"{name}: without an encoding the sentences differ: {of['without']}"
        )
        assert all(d > 0.01 for d in of["with"]), f"{name}: with an encoding a word stays the same: {of['with']}"
        apart = np.abs(np.subtract(of["with"], differences["NumPy"]["with"])).max()
        assert apart <= ROUNDING, f"{name}: its difference is {apart} from NumPy's"
    assert found["spread"] <= ROUNDING, f"frameworks return vectors that differ by {found['spread']}"


def check_probes(found: dict) -> None:
    accuracy, chance = ({k: v[-1] for k, v in found["accuracy"].items()}, found["chance"])
    assert accuracy["word, at new places"] > 0.99
    assert accuracy["place, of known words"] > 0.99
    assert accuracy["place, of new words"] > 10 * chance["place, of new words"]
    # A vector without the label gives one answer for all its held-out copies, and exactly one of them is right.
    for blind in ("word, from the encoding alone", "place, from the word alone"):
        assert accuracy[blind] == pytest.approx(chance[blind], rel=1e-12), blind
    assert len(set(found["parameters"].values())) == 1, "the encoding added parameters"


def check_plots(folder: Path) -> None:
    assert sorted(path.stem for path in folder.glob("*.png")) == list(PLOTS)
    for path in folder.glob("*.png"):
        assert path.stat().st_size < 80_000, f"{path.name} is larger than 80 kB"
        assert image.imread(path)[..., :3].std() > 0.05, f"{path.name} is blank"


def test_the_script_shows_what_the_page_says(tmp_path):
    images, numbers = tmp_path / "images", tmp_path / "numbers.json"
    command = [sys.executable, ROOT / "examples/order.py", "--quick", "--images", images, "--json", numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "probes: 2/2" in done.stderr.replace("\r", "\n"), "no sign of progress"
    results = json.loads(numbers.read_text())
    assert list(results) == ["sentences", "naive", "probes", "cost"]
    check_sentences(results["sentences"])
    check_probes(results["probes"])
    check_plots(images)
    for name, of in results["sentences"]["differences"].items():
        assert re.search(rf"{name} .* {max(of['with']):.7f}\n", done.stdout), f"no row for {name}"
    for kinds in results["naive"]["runs"].values():
        assert list(kinds) == ["none", "raw index", "index / length", "sinusoidal"]
        assert all(np.isfinite(run[what]).all() for runs in kinds.values() for run in runs for what in run)
    page = (ROOT / "docs/why.md").read_text()
    for difference in results["sentences"]["differences"]["NumPy"]["with"]:
        assert f"| {difference:.3f} |" in page, f"the page does not say {difference:.3f}"
    for kept in results["probes"]["accuracy"].values():
        assert f"| {kept[-1]:.3f} |" in page, f"the page does not say {kept[-1]:.3f}"
    assert f"{results['probes']['parameters']['sinusoidal']:,} parameters" in page
    low, high = (results["naive"]["ranges"]["sinusoidal"][end] for end in ("low", "high"))
    assert -1 <= low < 0 < high <= 1
    assert all(seconds > 0 for seconds in results["cost"]["least"].values())


def test_the_page_embeds_every_plot_and_they_are_there():
    check_plots(ROOT / "docs/images")
    embedded = re.findall(r"!\[[^]]+\]\(images/(\w+)\.png\)", (ROOT / "docs/why.md").read_text())
    assert sorted(embedded) == list(PLOTS)


RIGHT = {
    "sentences": {
        "differences": {name: {"without": [1e-7] * 5, "with": [0.4, 0.9, 0.5, 0.3, 0.6]} for name in FRAMEWORKS},
        "spread": 1e-6,
    },
    "probes": {
        "accuracy": {
            "word, at new places": [0.5, 1.0],
            "place, of known words": [0.5, 1.0],
            "place, of new words": [0.4, 0.8],
            "word, from the encoding alone": [0.005, 0.005],
            "place, from the word alone": [0.02, 0.02],
        },
        "chance": {
            "place, of new words": 0.02,
            "word, from the encoding alone": 0.005,
            "place, from the word alone": 0.02,
        },
        "parameters": {"none": 9584, "sinusoidal": 9584},
    },
}


def test_the_checks_accept_right_answers():
    check_sentences(RIGHT["sentences"])
    check_probes(RIGHT["probes"])


@pytest.mark.parametrize(
    ("part", "keys", "wrong"),
    [
        ("sentences", ("differences", "JAX", "without", 3), 2e-5),
        ("sentences", ("differences", "PyTorch", "with", 0), 0.4 + 2e-5),
        ("sentences", ("differences", "TensorFlow/Keras", "with", 2), 1e-7),
        ("sentences", ("differences", "NumPy", "with"), [0.4]),
        ("sentences", ("differences", "PyTorch", "without", 4), math.nan),
        ("sentences", ("spread",), 2e-5),
        ("sentences", ("spread",), math.nan),
        ("probes", ("accuracy", "word, at new places"), [1.0, 0.9]),
        ("probes", ("accuracy", "place, of known words"), [1.0, 0.02]),
        ("probes", ("accuracy", "place, of new words"), [0.8, 0.1]),
        ("probes", ("accuracy", "place, from the word alone"), [0.02, 0.03]),
        ("probes", ("accuracy", "word, from the encoding alone"), [0.005, 0.0]),
        ("probes", ("parameters", "sinusoidal"), 9585),
    ],
)
def test_a_wrong_answer_is_refused(part, keys, wrong):
    found = copy.deepcopy(RIGHT[part])
    *way, last = keys
    at = found
    for key in way:
        at = at[key]
    at[last] = wrong
    with pytest.raises(AssertionError):
        {"sentences": check_sentences, "probes": check_probes}[part](found)


@pytest.mark.parametrize("wrong", ["missing", "blank", "too large", "one too many"])
def test_a_wrong_plot_is_refused(tmp_path, wrong):
    noise = np.random.default_rng(0).random((400, 400, 3))
    good, bad = noise[:40, :40], {"blank": np.ones((40, 40, 3)), "too large": noise}.get(wrong)
    for name in PLOTS:
        image.imsave(tmp_path / f"{name}.png", good)
    check_plots(tmp_path)
    if wrong == "missing":
        (tmp_path / "probes.png").unlink()
    else:
        image.imsave(tmp_path / f"{'more' if wrong == 'one too many' else 'probes'}.png", good if bad is None else bad)
    with pytest.raises(AssertionError):
        check_plots(tmp_path)
