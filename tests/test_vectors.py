"""The vector file: made by its generator, honest about itself, and in agreement with the specification."""

from __future__ import annotations

import ast
import copy
import json
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import pytest

from posenc import Sinusoidal, from_json, to_json
from posenc.conformance.cases import PHASE, sinusoidal
from posenc.conformance.protocol import DTYPES, encoded
from posenc.spec.exact import round_to

ROOT = Path(__file__).parent.parent
VECTORS = files("posenc.conformance") / "vectors"
FILE = json.loads((VECTORS / "sinusoidal.json").read_text(encoding="utf-8"))
LIMIT = 2_000_000


def run_generator(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "make_vectors.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_generator_makes_this_very_file():
    done = run_generator("--check")
    assert done.returncode == 0, done.stderr


def test_the_generator_sees_one_changed_digit(tmp_path):
    for part in ("tools", "posenc/conformance/vectors"):
        for source in (ROOT / part).rglob("*"):
            if source.suffix in (".py", ".json"):
                copied = tmp_path / source.relative_to(ROOT)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_bytes(source.read_bytes())
    spoilt = tmp_path / "posenc" / "conformance" / "vectors" / "sinusoidal.json"
    text = spoilt.read_text(encoding="utf-8")
    spoilt.write_text(text.replace("0.841470984807896506", "0.841470984807896507", 1), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "tools" / "make_vectors.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "first difference at line" in done.stderr


def test_the_generator_imports_mpmath_and_nothing_of_posenc():
    names = set()
    for source in [ROOT / "tools" / "make_vectors.py", *(ROOT / "tools" / "vectors").glob("*.py")]:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"mpmath", "vectors"}


def lint(record):
    """Everything the file says about itself, checked; AssertionError says what is not so."""
    cases = [case for group in record["groups"] for case in group["cases"]]
    repeated = [name for name, count in Counter(case["id"] for case in cases).items() if count > 1]
    assert not repeated, f"ids used twice: {repeated}"
    used = {flag for case in cases for flag in case["flags"]}
    assert not used - record["notes"].keys(), f"flags that are not explained: {used - record['notes'].keys()}"
    assert not record["notes"].keys() - used, f"flags that nothing uses: {record['notes'].keys() - used}"
    values = sum(len(case.get("words", case.get("decimal", []))) for case in cases)
    counts = {"groups": len(record["groups"]), "cases": len(cases), "values": values}
    assert record["counts"] == counts, f"counts are {counts}"
    for group in record["groups"]:
        for case in group["cases"]:
            assert case["id"].startswith(group["variant"] + "/"), case["id"]
            width = len(case["x"]) if group["kind"] == "add" else len(case.get("channels", case.get("pairs", [])))
            if group["kind"] == "phase":
                assert [len(word) for word in case["words"]] == [24] * width, case["id"]
                continue
            assert len(case["decimal"]) == width > 0, case["id"]
            for dtype, digits in zip(DTYPES, (16, 8, 4, 4), strict=True):
                assert [len(word) for word in case[dtype]] == [digits] * width, case["id"]
            for number in case["decimal"]:
                significant = number.lower().split("e")[0].replace(".", "").lstrip("-0")
                assert len(significant) >= 34 or float(number) in (0, int(float(number))), (case["id"], number)


def test_the_file_is_honest_about_itself():
    lint(FILE)
    assert len((VECTORS / "sinusoidal.json").read_bytes()) < LIMIT
    assert (FILE["family"], FILE["license"]) == ("sinusoidal", "CC0-1.0")
    assert "CC0 1.0 Universal" in (VECTORS / "LICENSE").read_text(encoding="utf-8")
    assert all(note["bugType"] and note["effect"] for note in FILE["notes"].values())


def repeat_an_id(record):
    record["groups"][0]["cases"][1]["id"] = record["groups"][0]["cases"][0]["id"]


def use_an_unknown_flag(record):
    record["groups"][0]["cases"][0]["flags"].append("Unheard")


def explain_an_unused_flag(record):
    record["notes"]["Idle"] = {"bugType": "none", "effect": "none", "links": []}


def miscount(record):
    record["counts"]["cases"] += 1


def lose_a_value(record):
    record["groups"][0]["cases"][0]["float32"].pop()


def shorten_a_decimal(record):
    record["groups"][0]["cases"][1]["decimal"][0] = "0.8414709848"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (repeat_an_id, "ids used twice"),
        (use_an_unknown_flag, "not explained"),
        (explain_an_unused_flag, "nothing uses"),
        (miscount, "counts are"),
        (lose_a_value, "sinusoidal.vaswani/0001"),
        (shorten_a_decimal, "0.8414709848"),
    ],
)
def test_the_linter_sees_what_is_wrong(spoil, complaint):
    record = copy.deepcopy(FILE)
    spoil(record)
    with pytest.raises(AssertionError, match=complaint):
        lint(record)


@pytest.mark.parametrize("group", FILE["groups"], ids=lambda group: group["cases"][0]["id"])
def test_specifications_are_canonical_and_named_conventions_give_them(group):
    text = json.dumps(group["spec"])
    spec = from_json(text)
    assert to_json(spec) == text
    if "constructor" in group:
        named = group["constructor"]
        assert getattr(Sinusoidal, named["name"])(**named["arguments"]) == spec


def test_every_named_convention_has_vectors():
    used = {group["constructor"]["name"] for group in FILE["groups"] if "constructor" in group}
    assert used == {name for name, member in vars(Sinusoidal).items() if isinstance(member, classmethod)}


def test_the_vectors_go_where_others_stop():
    groups = [group for group in sinusoidal().groups if group.kind == "encode"]
    positions = {case.position for group in groups for case in group.cases}
    integers = {p for p in positions if isinstance(p, int)}
    for limit in (256, 2048, 65536, 2**24):
        assert {limit + 1, -limit - 1} & integers, limit
    assert {2**31 - 1, 1 - 2**31} <= integers
    assert any(p < 0 and p != int(p) for p in positions)
    assert {group.position_dtype for group in groups} == {"integer", "float32", "float64"}
    assert {group.spec.dim for group in groups} >= {2, 6, 7, 64, 320, 512, 1024}
    assert {group.spec.base for group in groups} >= {100.0, 10000.0, 500000.0, 1e6}


@pytest.mark.parametrize("group", sinusoidal().groups, ids=lambda group: group.cases[0].id)
def test_mpmath_and_the_exact_arithmetic_of_the_specification_agree(group):
    """Two independent routes to the same bits: the papers' formulas in mpmath, `Sinusoidal` in integers."""
    if group.kind == "add":
        check_sums(group)
        return
    for case in group.cases:
        if group.kind == PHASE:
            assert case.expected[PHASE] == tuple(phase(group.spec, case.position, pair) for pair in case.channels), (
                case.id
            )
            continue
        for dtype in DTYPES[: 4 if group.spec.dim < 64 else 2]:
            values = [group.spec.value(case.position, channel, dtype) for channel in case.channels]
            width = len(encoded([0.0], dtype))
            expected = b"".join(pattern.to_bytes(width, "little") for pattern in case.expected[dtype])
            assert encoded(values, dtype) == expected, (case.id, dtype)


def phase(spec, position, pair):
    """The rule of `PhasePlan`, in Python integers."""
    plan = spec.plan()
    increment = plan.increments[pair]
    if isinstance(position, int):
        total = position * increment
    else:
        whole = math.trunc(position)
        first = math.trunc((position - whole) * 2**31)
        second = math.trunc(((position - whole) * 2**31 - first) * 2**31)
        total = whole * increment + first * (increment >> 31) + second * (increment >> 62)
    return (total + plan.offset * increment) % 2**128 >> 32


def check_sums(group):
    for case in group.cases:
        rows = math.prod(case.shape[:-1])
        places = [row % case.shape[-2] for row in range(rows)] if case.positions is None else case.positions.values
        repeat = rows // len(places)  # given positions are whole here, or broadcast along the last axis
        for index, x in enumerate(case.x):
            place = places[index // group.spec.dim // repeat]
            for dtype in DTYPES:
                wide = "float64" if dtype == "float64" else "float32"
                wave = Fraction(group.spec.value(place, index % group.spec.dim, wide))
                expected = encoded([round_to(Fraction(x) + wave, dtype)], dtype)
                assert case.expected[dtype][index] == int.from_bytes(expected, "little"), (case.id, index, dtype)
