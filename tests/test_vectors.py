"""The vector files: made by their generator, honest about themselves, and in agreement with the specification."""

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

from posenc import Alibi, Llama3, Rope, Yarn, YarnPaper, from_json, to_json
from posenc.conformance.cases import FAMILIES, PHASE, vectors
from posenc.conformance.protocol import DTYPES, decoded, encoded
from posenc.spec import serialise
from posenc.spec.exact import round_to

ROOT = Path(__file__).parent.parent
VECTORS = files("posenc.conformance") / "vectors"
FILES = {family: json.loads((VECTORS / f"{family}.json").read_text(encoding="utf-8")) for family in FAMILIES}
LIMIT, LIMIT_OF_ALL = 1_500_000, 5_000_000
every_file = pytest.mark.parametrize("family", FILES)
GROUPS = [pytest.param(group, id=group["cases"][0]["id"]) for record in FILES.values() for group in record["groups"]]


def run_generator(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "make_vectors.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_generator_makes_these_very_files():
    done = run_generator("--check")
    assert done.returncode == 0, done.stderr


def test_the_generator_sees_one_changed_digit(tmp_path):
    for part in ("tools", "posenc/conformance/vectors"):
        for source in (ROOT / part).rglob("*"):
            if source.suffix in (".py", ".json"):
                copied = tmp_path / source.relative_to(ROOT)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_bytes(source.read_bytes())
    somewhere = {"sinusoidal": "0.841470984807896506", "rope": "0.540302305868139717", "alibi": "0.7071067811865475244"}
    somewhere |= {"t5": '"rows":[0,17', "relative": '"rows":[7,6', "learned": '"numerators":[1,-1'}
    for family, digits in somewhere.items():
        spoilt = tmp_path / "posenc" / "conformance" / "vectors" / f"{family}.json"
        text = spoilt.read_text(encoding="utf-8")
        assert digits in text
        spoilt.write_text(text.replace(digits, digits[:-1] + "8", 1), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "tools" / "make_vectors.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for family in FILES:
        assert f"{family}.json is not what tools/make_vectors.py makes: first difference at line" in done.stderr


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
    about = " ".join(record["about"])
    keys = keys_of(record | {"notes": list(record["notes"].values())})
    unnamed = sorted(key for key in keys if f"`{key}`" not in about)
    assert not unnamed, f"keys that `about` does not name: {unnamed}"
    values = sum(
        len(next(case[name] for name in ("words", "rows", "decimal", *DTYPES) if name in case)) for case in cases
    )
    counts = {"groups": len(record["groups"]), "cases": len(cases), "values": values}
    assert record["counts"] == counts, f"counts are {counts}"
    for group in record["groups"]:
        for case in group["cases"]:
            assert case["id"].startswith(group["variant"] + "/"), case["id"]
            lint_case(group, case)
        for name in ("frequencies", "magnitude", "softmax_factor"):
            if name in group:
                count = group["spec"]["rotary_dim"] // 2 if name == "frequencies" else 1
                assert [len(word) for word in group[name]["float64"]] == [16] * count, (group["variant"], name)
                lint_decimals(group["variant"], group[name]["decimal"])


def keys_of(record):
    """Every key that a reader of the file meets; those inside a specification are documented with its class."""
    if isinstance(record, list):
        return set().union(*map(keys_of, record))
    if not isinstance(record, dict):
        return set()
    inside = [value for key, value in record.items() if key not in ("spec", "arguments", "of")]
    return set(record).union(*map(keys_of, inside))


def lint_case(group, case):
    """As many words of every kind as the question has answers, each of the width of its format."""
    kind, size = group["kind"], math.prod(case.get("shape", []))
    if kind == "phase":
        assert [len(word) for word in case["words"]] == [24] * len(case["pairs"]), case["id"]
        return
    if kind in ("encode", "table"):
        size = len(case["channels"])
    for name in ("query", "key", "weights"):
        own = case.get(name) or {}
        if "shape" in own:
            numbers = own["numerators" if name == "weights" else "values"]
            assert len(numbers) == math.prod(own["shape"]), (case["id"], name)
    if kind == "rows":
        assert len(case["rows"]) == size > 0, case["id"]
        return
    if "entries" in case:
        assert case["entries"] == sorted(set(case["entries"])), case["id"]
        assert 0 <= case["entries"][0] <= case["entries"][-1] < size, case["id"]
        size = len(case["entries"])
    assert size > 0, case["id"]
    for dtype in group.get("dtypes", DTYPES):
        assert [len(word) for word in case[dtype] if word != "nan"] == [DIGITS[dtype]] * (size - nans(case)), case["id"]
    if kind == "resize" or (kind not in ("lookup", "bias")) or "weights" not in case:
        assert len(case["decimal"]) == size, case["id"]
        lint_decimals(case["id"], case["decimal"])
    if "table" in case:
        entries = math.prod(case["table"]["shape"])
        for part in (case["table"]["cos"], case["table"]["sin"]):
            assert [len(word) for word in part] == [DIGITS[case["table"]["dtype"]]] * entries, case["id"]


def nans(case):
    """How many NaNs are expected: the same in every format, and only outside."""
    found = {case[dtype].count("nan") for dtype in DTYPES if dtype in case}
    assert len(found) == 1, case["id"]
    assert found == {0} or case.get("outside"), case["id"]
    return found.pop()


DIGITS = dict(zip(DTYPES, (16, 8, 4, 4), strict=True))


def lint_decimals(name, decimals):
    for number in decimals:
        significant = number.lower().split("e")[0].replace(".", "").lstrip("-0")
        assert len(significant) >= 34 or float(number) in (0, int(float(number))), (name, number)


@every_file
def test_a_file_is_honest_about_itself(family):
    record = FILES[family]
    lint(record)
    assert len((VECTORS / f"{family}.json").read_bytes()) < LIMIT
    assert (record["family"], record["license"]) == (family, "CC0-1.0")
    assert "CC0 1.0 Universal" in (VECTORS / "LICENSE").read_text(encoding="utf-8")
    assert all(note["bugType"] and note["effect"] for note in record["notes"].values())
    least = 1 if family == "sinusoidal" else 2
    assert all(len(group["sources"]) >= least for group in record["groups"] if group["kind"] != "phase")


def test_all_files_together_are_small():
    assert sum(len((VECTORS / f"{family}.json").read_bytes()) for family in FILES) < LIMIT_OF_ALL
    assert {path.name for path in VECTORS.iterdir()} == {"LICENSE", *(f"{family}.json" for family in FILES)}


def repeat_an_id(record):
    record["groups"][0]["cases"][1]["id"] = record["groups"][0]["cases"][0]["id"]


def use_an_unknown_flag(record):
    record["groups"][0]["cases"][0]["flags"].append("Unheard")


def explain_an_unused_flag(record):
    record["notes"]["Idle"] = {"bugType": "none", "effect": "none", "links": []}


def miscount(record):
    record["counts"]["cases"] += 1


def add_a_key(record):
    record["groups"][0]["cases"][0]["unit"] = "radian"


def leave_out_an_explanation(record):
    record["about"] = [line for line in record["about"] if "`words`" not in line]


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
        (add_a_key, r"does not name: \['unit'\]"),
        (leave_out_an_explanation, r"does not name: \['pairs', 'words'\]"),
        (lose_a_value, "sinusoidal.vaswani/0001"),
        (shorten_a_decimal, "0.8414709848"),
    ],
)
def test_the_linter_sees_what_is_wrong(spoil, complaint):
    record = copy.deepcopy(FILES["sinusoidal"])
    spoil(record)
    with pytest.raises(AssertionError, match=complaint):
        lint(record)


def lose_a_row(record):
    next(g for g in record["groups"] if g["kind"] == "rows")["cases"][0]["rows"].pop()


def lose_a_numerator(record):
    next(g for g in record["groups"] if g["kind"] == "bias")["cases"][0]["weights"]["numerators"].pop()


def lose_a_position(record):
    next(g for g in record["groups"] if g["kind"] == "rows")["cases"][0]["query"]["values"].pop()


def expect_a_nan(record):
    next(g for g in record["groups"] if g["kind"] == "bias")["cases"][0]["float32"][0] = "nan"


def expect_nans_inside(record):
    case = next(g for g in record["groups"] if g["kind"] == "bias")["cases"][0]
    for dtype in DTYPES:
        case[dtype][0] = "nan"


@pytest.mark.parametrize("spoil", [lose_a_row, lose_a_numerator, lose_a_position, expect_a_nan, expect_nans_inside])
def test_the_linter_sees_what_is_wrong_with_rows_and_biases(spoil):
    record = copy.deepcopy(FILES["t5"])
    spoil(record)
    record["counts"]["values"] -= spoil is lose_a_row  # which is seen without the count, too
    with pytest.raises(AssertionError, match=r"t5\."):
        lint(record)


@pytest.mark.parametrize(
    ("name", "place"),
    [("magnitude", ("magnitude", "float64", 0)), ("frequencies", ("frequencies", "float64", 3))],
)
def test_the_linter_sees_a_word_cut_short(name, place):
    record = copy.deepcopy(FILES["rope"])
    key, dtype, index = place
    group = next(group for group in record["groups"] if name in group and len(group[key][dtype]) > index)
    group[key][dtype][index] = group[key][dtype][index][:-1]
    with pytest.raises(AssertionError, match=name):
        lint(record)


def made(group):
    """The specification that a named convention, or a method of another specification, gives."""
    constructor = group["constructor"]
    owner = serialise.FAMILIES[group["spec"]["family"]]
    if "of" in constructor:
        owner = from_json(json.dumps(constructor["of"]))
    return getattr(owner, constructor["name"])(**constructor["arguments"])


@pytest.mark.parametrize("group", GROUPS)
def test_specifications_are_canonical_and_named_conventions_give_them(group):
    text = json.dumps(group["spec"])
    spec = from_json(text)
    assert to_json(spec) == text
    if "constructor" in group:
        assert made(group) == spec


def test_every_named_convention_has_vectors():
    used = {
        (group["spec"]["family"], group["constructor"]["name"])
        for record in FILES.values()
        for group in record["groups"]
        if "constructor" in group
    }
    named = {
        (family, name)
        for family, kind in serialise.FAMILIES.items()
        for name, member in vars(kind).items()
        if isinstance(member, classmethod)
    }
    assert used == named | {("rope", "at_length"), ("rope", "rerotation")}


def test_a_switch_at_the_original_length_instead_of_one_past_it_is_seen():
    """The mechanism of https://github.com/unslothai/unsloth/pull/10681: < for <=."""
    seen = set()
    for group in FILES["rope"]["groups"]:
        if "LongRopeSwitch" in group["cases"][0]["flags"] and group["kind"] == "table":
            length, scaling = group["constructor"]["arguments"]["length"], group["spec"]["scaling"]
            early = made(group | {"constructor": group["constructor"] | {"arguments": {"length": length + 1}}})
            assert (early == from_json(json.dumps(group["spec"]))) == (length != scaling["original_length"])
            seen.add(length - scaling["original_length"])
    assert seen == {0, 1}


# --- What a specification comes to ---

FREQUENCY_ANCHORS = [  # published with the reference material: specification, pair, 60 digits
    (Rope(128, 10000.0, "interleaved"), 63, "0.000115478198468945817966648288729550828156694804147961112997743"),
    (Rope(64, 150000.0, "half"), 31, "0.00000967523656998148599637130146826847237239836644368099112170872"),
    (
        LLAMA2 := Rope(128, 10000.0, "half", scaling=Yarn(16.0, original_length=4096)),
        20,
        "0.0562341325190349080394951039776481231468251043098691664081689",
    ),
    (LLAMA2, 33, "0.00460043546785034718437621128691997177905525447277281791780254"),
    (LLAMA2, 46, "0.0000833450895102077516047457322059581932759792477977731870830969"),
    (
        OSS := Rope(64, 150000.0, "half", scaling=Yarn(32.0, original_length=4096, truncate=False)),
        8,
        "0.0508132748154614736280205243378477571752688616576878112586002",
    ),
    (OSS, 17, "0.000129318701245062720607860761283893019526312708153803743121282"),
    (
        V3 := Rope(64, 10000.0, "half", scaling=Yarn(40.0, original_length=4096), apply_magnitude=False),
        10,
        "0.0562341325190349080394951039776481231468251043098691664081689",
    ),
    (V3, 23, "0.0000333380358040831006418982928823832773103916991191092748332387"),
    (
        PAPER := Rope(128, 10000.0, "half", scaling=YarnPaper(16.0, original_length=4096)),
        21,
        "0.048321729215016306207449366387841084109236270293064625545907",
    ),
    (PAPER, 45, "0.0000964259154583358442099318259504848431695601765217842948037425"),
    (
        LLAMA3 := Rope(
            128, 500000.0, "half", scaling=Llama3(8.0, original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)
        ),
        28,
        "0.00321144599475259101854348885419029762004283807370916422550405",
    ),
    (LLAMA3, 30, "0.00137189356776113816039970442819460204491850800909113004415135"),
    (LLAMA3, 35, "0.0000955621235396468301986839671827029663257870579785903899877115"),
]


@pytest.mark.parametrize(("spec", "pair", "digits"), FREQUENCY_ANCHORS)
def test_golden_frequencies_are_among_the_vectors(spec, pair, digits):
    (group,) = (g for g in FILES["rope"]["groups"] if "frequencies" in g and from_json(json.dumps(g["spec"])) == spec)
    assert abs(Fraction(group["frequencies"]["decimal"][pair]) / Fraction(digits) - 1) < Fraction(1, 10**39)
    assert spec.frequencies()[pair] == round_to(Fraction(digits), "float64")


def test_other_golden_numbers_are_among_the_vectors():
    ntk = next(g for g in FILES["rope"]["groups"] if g["variant"] == "rope.ntk")
    base = Fraction("82684.6226405622184362596980443389099960724881694496434275786")
    last = Fraction(ntk["frequencies"]["decimal"][63])  # base ** (-126 / 128)
    assert abs(last**64 * base**63 - 1) < Fraction(1, 10**36)
    (deepseek,) = (
        g
        for g in FILES["rope"]["groups"]
        if g["variant"] == "rope.magnitude"
        and (own := g["spec"]["scaling"])["mscale_all_dim"] == 0
        and own["magnitude_rule"] == "deepseek"
    )
    assert deepseek["magnitude"]["decimal"][0] == "1.260803777405855296611668617820370716203"
    plain = Rope(128, 10000.0, "interleaved")
    (row,) = (
        c
        for g in FILES["rope"]["groups"]
        if from_json(json.dumps(g["spec"])) == plain and g["kind"] == "table"
        for c in g["cases"]
        if c["position"] == 131071
    )
    assert row["decimal"][row["channels"].index(1)] == "-0.9782709129364522375046512843389275285931"


SLOPE_ANCHORS = [  # published with the reference material: heads, head, 60 digits
    (12, 8, "0.70710678118654752440084436210484903928483593768847403658834"),
    (12, 10, "0.176776695296636881100211090526212259821208984422118509147085"),
    (112, 64, "0.957603280698573646936305635147915443925138206555701073545551"),
]


@pytest.mark.parametrize(("heads", "head", "digits"), SLOPE_ANCHORS)
def test_golden_slopes_are_among_the_vectors(heads, head, digits):
    spec = Alibi.causal(heads)
    (case,) = next(g for g in vectors("alibi").groups if g.spec == spec and g.variant == "alibi.causal.bias").cases
    assert case.shape == (heads, 1, 2)
    assert (list(case.query.values), list(case.key.values)) == ([5], [4, 2])
    assert abs(case.truth[2 * head] / Fraction(digits) + 1) < Fraction(1, 10**39)  # distance -1
    assert abs(case.truth[2 * head + 1] / Fraction(digits) + 3) < Fraction(1, 10**38)


BUCKET_ANCHORS = {  # published with the reference material: where each bucket of one side begins
    True: [*range(9), 12, 16, 23, 32, 46, 64, 91],
    False: [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113],
}


@pytest.mark.parametrize("bidirectional", BUCKET_ANCHORS)
def test_golden_buckets_are_among_the_vectors(bidirectional):
    firsts = BUCKET_ANCHORS[bidirectional]
    (rows,) = (
        case.expected["rows"]
        for group in vectors("t5").groups
        if group.variant == "t5.default" and group.spec.bidirectional == bidirectional
        for case in group.cases
        if case.key.values == range(-300, 301)
    )
    side = [sum(first <= distance for first in firsts) - 1 for distance in range(301)]
    assert list(rows[300::-1]) == side
    assert list(rows[301:]) == ([16 + bucket for bucket in side[1:]] if bidirectional else [0] * 300)


@pytest.mark.parametrize(
    "group", [g for g in FILES["rope"]["groups"] if "frequencies" in g], ids=lambda g: g["cases"][0]["id"]
)
def test_frequencies_and_magnitudes_are_those_of_mpmath_correctly_rounded(group):
    spec = from_json(json.dumps(group["spec"]))
    for own, name in (
        (spec.frequencies(), "frequencies"),
        ((spec.magnitude,), "magnitude"),
        ((spec.softmax_factor,), "softmax_factor"),
    ):
        assert [decoded(int(word, 16), "float64") for word in group[name]["float64"]] == list(own)


def test_the_vectors_go_where_others_stop():
    encodings = [group for group in vectors("sinusoidal").groups if group.kind == "encode"]
    assert {group.spec.dim for group in encodings} >= {2, 6, 7, 64, 320, 512, 1024}
    assert {group.spec.base for group in encodings} >= {100.0, 10000.0, 500000.0, 1e6}
    tables = [group for group in vectors("rope").groups if group.kind == "table"]
    assert {group.spec.head_dim for group in tables} >= {2, 4, 6, 7, 12, 16, 64, 80, 96, 128, 256}
    assert {group.spec.base for group in tables} >= {100.0, 10000.0, 150000.0, 500000.0, 1e6, 1e11}
    check_positions(encodings)
    check_positions(tables)


def test_biases_and_rows_go_where_others_stop():
    slopes = vectors("alibi").groups
    assert {group.spec.heads for group in slopes} >= {1, 3, 5, 6, 7, 10, 12, 40, 112}
    assert {group.spec.max_bias for group in slopes} >= {8.0, 16.0, 7.3, 0.075, 64.0, 2.0**-10}
    assert {group.spec.form for group in slopes} == {"causal", "symmetric", "anchored"}
    rows = [*vectors("t5").groups, *vectors("relative").groups]
    windows = [group.spec.window for group in rows if group.spec.plan().strict]
    assert any(len(set(window)) > 1 for window in windows)
    assert {len(window) for window in windows} == {1, 2, 3}
    assert {group.spec.clamped for group in rows if hasattr(group.spec, "clamped")} == {True, False}
    for groups in (slopes, rows):
        cases = [case for group in groups for case in group.cases]
        places = {p for case in cases for own in (case.query, case.key) for p in own.values}
        for limit in (256, 2048, 65536, 2**24):
            assert any(limit < abs(p) <= 2 * limit for p in places), limit
        assert {2**31 - 1, 1 - 2**31} <= places
        assert {len(case.query.shape) for case in cases} >= {1, 2, 3}
        assert any(case.query.shape[0] == 1 < case.key.shape[0] for case in cases if len(case.query.shape) > 1)
        steps = {case.query.values.step for case in cases if isinstance(case.query.values, range)}
        assert {-1, 1} < steps


def check_positions(groups):
    positions = {case.position for group in groups for case in group.cases}
    integers = {p for p in positions if isinstance(p, int)}
    for limit in (256, 2048, 65536, 2**24):
        assert {limit + 1, -limit - 1} & integers, limit
    assert {2**31 - 1, 1 - 2**31} <= integers
    assert any(p < 0 and p != int(p) for p in positions)
    assert {group.position_dtype for group in groups} == {"integer", "float32", "float64"}


def test_rotations_have_every_shape_that_a_weak_vector_lacks():
    groups = [group for group in vectors("rope").groups if group.kind in ("rotate", "turn")]
    shapes = {(case.shape, case.head_axis) for group in groups for case in group.cases}
    heads = [(shape, axis) for shape, axis in shapes if axis is not None and len(shape) == 4]
    assert {axis for _, axis in heads} >= {0, 1, 2}
    assert any(len({shape[0], shape[1], shape[2]}) == 3 for shape, _ in heads)  # nothing agrees by chance
    assert any(len({shape[0], shape[1], shape[2]}) == 1 for shape, _ in heads)  # everything does
    assert {len(shape) for shape, _ in shapes} >= {1, 3, 4, 5}
    assert {(2, 4, 1, 8), (2, 2, 1, 8), (2, 1, 1, 8)} <= {shape for shape, _ in shapes}  # grouped keys
    rows = {len(case.positions.shape) for group in groups for case in group.cases if case.positions is not None}
    assert rows >= {0, 1, 2, 3}
    assert {group.spec.layout for group in groups} == {"half", "interleaved", "interleaved_to_half"}
    assert {group.spec.rotary_channels for group in groups} == {"first", "last"}
    assert any(group.spec.magnitude != 1 for group in groups)
    assert any(not group.spec.apply_magnitude for group in groups)


@pytest.mark.parametrize(
    "group", [*vectors("sinusoidal").groups, *vectors("rope").groups], ids=lambda group: group.cases[0].id
)
def test_mpmath_and_the_exact_arithmetic_of_the_specification_agree(group):
    """Two independent routes to the same bits: the papers' formulas in mpmath, the specification in integers."""
    if group.kind == "add":
        check_sums(group)
        return
    if group.kind in ("rotate", "turn"):
        check_rotations(group)
        return
    for case in group.cases:
        if group.kind == PHASE:
            assert case.expected[PHASE] == tuple(phase(group.spec, case.position, pair) for pair in case.channels), (
                case.id
            )
            continue
        for dtype in DTYPES[: 4 if group.spec.plan().dim < 64 else 2]:
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


def check_rotations(group):
    """On a table given in Fractions; by positions as near as float64 cosines and sines can say."""
    plan = group.spec.rotation()
    for case in group.cases:
        leads = [axis for axis in range(len(case.shape) - 1) if axis != (case.head_axis or 0) % len(case.shape)]
        leads = list(range(len(case.shape) - 1)) if case.head_axis is None else leads
        own = case.table.cos.shape[:-1] if case.table else case.positions.shape
        for flat, expected in enumerate(case.truth):
            row, channel = divmod(flat, plan.head_dim)
            places = dict(zip(leads, index_of(row, case.shape[:-1], leads), strict=True))
            at = [min(places[axis], size - 1) for axis, size in zip(leads[len(leads) - len(own) :], own, strict=True)]
            entry = sum(place * math.prod(own[k + 1 :]) for k, place in enumerate(at))
            pair, part = divmod(channel - plan.start, 2)
            if plan.writes == "half":
                part, pair = divmod(channel - plan.start, plan.pairs)
            if not 0 <= channel - plan.start < 2 * plan.pairs:
                exact, slack = Fraction(case.x[flat]), 0
            else:
                step = (2, 1) if plan.reads == "interleaved" else (1, plan.pairs)
                start = row * plan.head_dim + plan.start + step[0] * pair
                u, v = Fraction(case.x[start]), Fraction(case.x[start + step[1]])
                cosine, sine = entries(group, case, entry, pair)
                exact = v * cosine + u * sine if part else u * cosine - v * sine
                slack = 0 if case.table else Fraction(abs(u) + abs(v)) * Fraction(group.spec.magnitude) / 2**52
            assert abs(expected - exact) <= slack + abs(exact) / 10**38, (case.id, flat)
            for dtype, patterns in case.expected.items():
                value = round_to(exact if case.table else expected, dtype)
                assert decoded(patterns[flat], dtype) == value, (case.id, flat, dtype)


def index_of(row, shape, leads):
    """The place of a row along each of the axes in `leads`."""
    return [row // math.prod(shape[axis + 1 :]) % shape[axis] for axis in leads]


def entries(group, case, entry, pair):
    if case.table:
        index = entry * group.spec.pairs + pair
        return [Fraction(decoded(half.pattern(index), half.dtype)) for half in case.table]
    place = case.positions.values[entry]
    return [Fraction(group.spec.value(place, pair + half * group.spec.pairs, "float64")) for half in (0, 1)]
