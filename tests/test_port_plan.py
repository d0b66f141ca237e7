"""Plans of a port: what they may say, how they are written, and how a wrong one is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posenc import Alibi, Learned, Llama3, Rope, ShawClip, Sinusoidal, SpecError, SwinIndex, T5Bias, TransformerXLIndex
from posenc.interop import tensor_patterns
from posenc.interop.port_plan import Move, Plan, Rotary, Rows

LLAMA3 = Llama3(8, original_length=8192, low_freq_factor=1, high_freq_factor=4)
ROPE = Rope(16, base=500_000.0, layout="half", scaling=LLAMA3)
T5 = T5Bias(6, buckets=32, max_distance=128, bidirectional=True)
PLAN = Plan(
    [
        Move("embed.weight", "embed.embedding"),
        Move(
            "layers.{layer}.q_proj.weight",
            "blocks/block{layer:suffix}/q/vars/0",
            rotary=Rotary(ROPE, to="interleaved", heads=8),
            axes=(1, 0),
            shape=(64, 8, 16),
            dtype="bfloat16",
        ),
        Move("layers.{layer}.k_proj.weight", "k.{layer}", rotary=Rotary(ROPE, to="half", heads=2, axis=(1, 2))),
        Move("layers.{layer}.qkv.weight", "qkv.{layer}", rotary=Rotary(ROPE, to="half", heads=(True, False))),
        Move("positions.weight", "positions", rows=Rows(Learned.opt(510, 16), Learned(510, 16))),
        Move("other.weight", "other", rows=Rows(Learned(510, 16), Learned.opt(510, 16), fill="zeros")),
        Move("rel.weight", "rel", rows=Rows(T5, T5, axis=1)),
        Move("shaw.weight", "shaw", rows=Rows(ShawClip(8), TransformerXLIndex(8, shortest=-8))),
        Move("swin.weight", "swin", rows=Rows(SwinIndex(3, window=(7, 7)))),
        Move("encoder.q.weight", "encoder.q", plain="T5 turns no channels"),
    ],
    left_out={"layers.{layer}.rotary_emb.inv_freq": "computed from the specification"},
    kept={"rngs.count": "of dropout"},
)


def test_a_plan_comes_back_from_its_text():
    again = Plan.from_json(PLAN.to_json())
    assert again == PLAN
    assert again.to_json() == PLAN.to_json()


def test_the_text_is_one_line_a_move_with_each_specification_once():
    lines = PLAN.to_json().splitlines()
    record = json.loads(PLAN.to_json())
    assert sum(line.strip().startswith('{"source":') for line in lines) == len(PLAN.moves)
    assert list(record["specs"]) == [
        "rope", "learned", "learned_2", "t5_bias", "shaw_clip", "transformer_xl_index", "swin_index",
    ]  # fmt: skip
    assert record["moves"][0] == {"source": "embed.weight", "target": "embed.embedding"}
    assert record["moves"][8]["rows"] == {"source": "swin_index"}
    assert record["moves"][5]["rows"] == {"source": "learned_2", "target": "learned", "fill": "zeros"}


def test_an_edited_text_is_an_edited_plan():
    record = json.loads(PLAN.to_json())
    record["specs"]["rope"]["base"] = 10000.0
    edited = Plan.from_json(json.dumps(record))
    assert [move.rotary.spec.base for move in edited.moves if move.rotary] == [10000.0] * 3


def test_printed_a_plan_says_what_happens():
    text = str(PLAN)
    assert len(text.splitlines()) == len(PLAN.moves) + 2
    assert "half to interleaved, 8 heads of 16, axes [1, 0], shape [64, 8, 16], to bfloat16" in text
    assert "stays half, 1 of 2 heads of 16" in text
    assert (
        "rows of Learned(length=510, dim=16) to those of Learned(length=510, dim=16, offset=2, padding='row')" in text
    )
    assert "zeros where no position reads" in text
    assert "encoder.q.weight -> encoder.q, as it is (T5 turns no channels)" in text
    assert "rngs.count: kept, of dropout" in text


MOVE = {"source": "a", "target": "b"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": 2}, "Plan.schema: expected 1, received 2"),
        ({"schema": True}, "Plan.schema: expected 1, received True"),
        ({"moves": {}}, "Plan.moves: expected a list, received {}"),
        ({"mvoes": []}, "Plan: expected the keys schema, specs, moves, left_out, kept, received 'mvoes'"),
        ({"specs": []}, "Plan.specs: expected specifications by name, received []"),
        ({"specs": {"x": {}}}, "Plan.specs['x']: from_json.schema: expected 1, received 'no schema'"),
        ({"left_out": {"a": ""}}, "Plan.left_out['a']: expected a reason in words, received ''"),
        ({"kept": {"a": None}}, "Plan.kept['a']: expected a reason in words, received None"),
        ({"kept": ["a"]}, "Plan.kept: expected reasons by pattern, received ['a']"),
        ({"moves": [{"source": "a"}]}, "Plan.moves[0].target: expected this key, received an object without it"),
        (
            {"moves": [MOVE, MOVE | {"rotate": 1}]},
            "Plan.moves[1]: expected the keys source, target, rotary, rows, plain, axes, shape, dtype, "
            "received 'rotate'",
        ),
        (
            {"moves": [MOVE | {"dtype": "int8"}]},
            "Plan.moves[0]: Move.dtype: expected 'float64', 'float32', 'bfloat16', 'float16' or ",
        ),
        (
            {"moves": [MOVE | {"rotary": {"spec": "rope", "to": "half", "heads": 1}}]},
            "Plan.moves[0]: Rotary.spec: expected a name of Plan.specs, received 'rope'",
        ),
        ({"moves": [MOVE | {"rows": {"target": "x"}}]}, "Plan.moves[0]: Rows.source: expected this key"),
        ({"moves": [MOVE | {"rows": {"source": 1}}]}, "Rows.source: expected a name of Plan.specs, received 1"),
    ],
)
def test_a_wrong_text_is_refused_by_name(change, sentence):
    with pytest.raises(SpecError) as caught:
        Plan.from_json(json.dumps({"schema": 1, "moves": []} | change))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1, "schema": 1, "moves": []}', "[" * 10_000, "\ud800"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(SpecError, match=r"^Plan(\.from_json)?: expected"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Rotary("rope", to="half", heads=2), "Rotary.spec: expected a Rope, received 'rope'"),
        (lambda: Rotary(ROPE, to="other", heads=2), "Rotary.to: expected 'half' or 'interleaved', received 'other'"),
        (lambda: Rotary(ROPE, to="half", heads=0), "Rotary.heads: expected an integer >= 1, received 0"),
        (lambda: Rotary(ROPE, to="half", heads=()), "Rotary.heads: expected an integer >= 1, or True or False"),
        (lambda: Rotary(ROPE, to="half", heads=2, axis=(1, 2, 3)), "Rotary.axis: expected one axis, or two"),
        (lambda: Rows(T5, Alibi.causal(6)), "Rows.target: expected a specification of a table of rows"),
        (lambda: Rows(Sinusoidal.vaswani(8), T5), "Rows.source: expected a specification of a table of rows"),
        (lambda: Rows(T5, T5, fill="ones"), "Rows.fill: expected 'zeros' or None, received 'ones'"),
        (lambda: Move("a", "b", rows=T5), "Move.rows: expected Rows(...), received T5Bias("),
        (lambda: Move("a", "b", rotary=ROPE), "Move.rotary: expected Rotary(...), received Rope("),
        (
            lambda: Move("a", "b", rows=Rows(T5, T5), plain="why"),
            "Move.plain: expected one of rotary, rows and plain, received rows and plain",
        ),
        (lambda: Move("a", "b", plain=" "), "Move.plain: expected a reason in words, received ' '"),
        (lambda: Move("a", "b", axes=(1, 1)), "Move.axes: expected every axis once, such as (1, 0), received (1, 1)"),
        (lambda: Move("a", "b", axes=(1.0, 0.0)), "Move.axes[0]: expected an integer, received 1.0"),
        (lambda: Move("a", "b", axes=(True, False)), "Move.axes[0]: expected an integer, received True"),
        (lambda: Move("a", "b", axes=(1, None)), "Move.axes[1]: expected an integer, received None"),
        (lambda: Move("a", "b", axes="10"), "Move.axes: expected every axis once, such as (1, 0), received '10'"),
        (lambda: Move("a", "b", shape=(2, -1)), "Move.shape[1]: expected an integer >= 0, received -1"),
        (
            lambda: Move("a", "b", dtype="half"),
            "Move.dtype: expected 'float64', 'float32', 'bfloat16', 'float16' or None",
        ),
        (lambda: Move("a.{n}", "b"), "Move.target: expected the words of 'a.{n}', received 'b'"),
        (lambda: Move("a.{n", "b"), "Move.source: expected text such as 'layers.{layer}.weight'"),
        (lambda: Move("a.{n}{m}", "b.{m}.{n}"), "Move.source: expected words with other text than digits between them"),
        (lambda: Move("a.{n}0{m}", "b.{m}.{n}"), "Move.source: expected words with other text than digits between"),
        (lambda: Move("a{n:suffix}{m}", "b.{m}.{n}"), "Move.source: expected words with other text than digits"),
        (lambda: Move("a{n:suffix}{m:suffix}", "b.{m}.{n}"), "Move.source: expected words with other text than"),
        (lambda: Move("a.*", "b.*"), "Move.source: expected text such as 'layers.{layer}.weight'"),
        (lambda: Move("a.{n}.{n}", "b.{n}"), "Move.source: expected every word once, received 'a.{n}.{n}'"),
        (lambda: Plan(["a"]), "Plan.moves: expected a sequence of Move(...), received ['a']"),
    ],
)
def test_a_wrong_part_is_refused_in_one_sentence(make, sentence):
    with pytest.raises(SpecError) as caught:
        make()
    assert sentence in str(caught.value)


def test_rows_stay_unless_it_is_said():
    assert Rows(T5) == Rows(T5, T5)


def test_parts_are_equal_by_value_and_frozen():
    assert Rotary(ROPE, to="half", heads=[True]) == Rotary(ROPE, to="half", heads=(True,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.moves[0].source = "b"


@pytest.mark.parametrize(
    ("pattern", "name", "numbers"),
    [
        ("a.{n}.b", "a.12.b", {"n": 12}),
        ("a.{n}.b", "a.012.b", None),
        ("a.{n}.b", "a.x.b", None),
        ("a.{n}.b", "axn.1.b", None),
        ("a.{n}.b", "a.1xb", None),
        ("b{n:suffix}/q", "b/q", {"n": 0}),
        ("b{n:suffix}/q", "b_7/q", {"n": 7}),
        ("b{n:suffix}/q", "b_0/q", None),
        ("b{n:suffix}/q", "b_07/q", None),
        ("e.{n}.{m}", "e.1.2", {"n": 1, "m": 2}),
        ("e[{n}]", "e[1]", {"n": 1}),
    ],
)
def test_a_pattern_has_the_numbers_of_a_name(pattern, name, numbers):
    assert tensor_patterns.matched(pattern, name) == numbers


@given(numbers=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_names_and_numbers_are_one_to_one(numbers):
    said = dict(zip("nm", numbers, strict=True))
    for pattern in ("a.{n}.b.{m}", "a{n:suffix}/b{m:suffix}/v", "a{n:suffix}.{m}"):
        assert tensor_patterns.matched(pattern, tensor_patterns.written(pattern, said)) == said
