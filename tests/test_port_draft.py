"""Drafts: what a config says of positions is filled in, and what nobody has said is left undecided, never guessed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from posenc import Learned, Rope, SpecError, T5Bias
from posenc.interop.checkpoints import Entry, Move, Plan, Rotary, Rows, apply, draft
from posenc.interop.port_draft import drafted
from posenc.interop.positional_tensors import Plain
from posenc.interop.safetensors_header import CheckpointError

LLAMA = {
    "model_type": "llama",
    "head_dim": 8,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
ATTENTION = "model.layers.{layer}.self_attn"
ROPE = Rope(8, base=500_000.0, layout="half")


def llama(layers=3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (11, 32), "model.norm.weight": (32,)}
    for layer in range(layers):
        for name, rows in (("q", 32), ("k", 16), ("v", 16)):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (rows, 32)
        shapes[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = (4,)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


MOVES = [
    Move("model.embed_tokens.weight", "embed.embedding"),
    *(Move(f"{ATTENTION}.{n}_proj.weight", f"layers.{{layer}}.{n}.kernel", axes=(1, 0)) for n in "qkv"),
]


def test_the_config_says_what_is_turned():
    plan = draft(llama(), MOVES, config=LLAMA, target_layout="interleaved")
    assert [move.rotary for move in plan.moves] == [
        None,
        Rotary(ROPE, to="interleaved", heads=4),
        Rotary(ROPE, to="interleaved", heads=2),
        None,
    ]
    assert [move.axes for move in plan.moves] == [move.axes for move in MOVES]
    assert plan.left_out["model.norm.weight"] == "undecided"
    assert plan.left_out["model.layers.{layer}.self_attn.rotary_emb.inv_freq"].startswith("computed")


def test_undecided_is_refused_until_it_is_edited():
    source, target = llama(), {"embed.embedding": np.zeros((11, 32), np.float32), "norm.scale": np.zeros(32, "f4")}
    plan = draft(source, MOVES[:1], config=LLAMA, target=target)
    assert plan.kept == {"norm.scale": "undecided"}
    with pytest.raises(
        CheckpointError, match=r"'model.norm.weight', .*expected a move, or a reason in left_out"
    ) as caught:
        apply(plan, source, target)
    assert "'norm.scale': expected a move, or a reason in kept, received 'undecided'" in str(caught.value)
    record = json.loads(plan.to_json())
    record["left_out"] = dict.fromkeys(record["left_out"], "not needed here")
    record["kept"] = {}
    record["moves"].append({"source": "model.norm.weight", "target": "norm.scale"})
    del record["left_out"]["model.norm.weight"]
    made = apply(Plan.from_json(json.dumps(record)), source, target)
    np.testing.assert_array_equal(made["norm.scale"], source["model.norm.weight"])


def test_layers_that_differ_get_moves_of_their_own():
    config = LLAMA | {
        "model_type": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }
    plan = draft(llama(), MOVES, config=config)
    queries = [move for move in plan.moves if ".q_proj." in move.source]
    assert [move.source for move in queries] == [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)]
    assert [move.target for move in queries] == [f"layers.{n}.q.kernel" for n in range(3)]
    assert [move.rotary.spec.base for move in queries] == [10000.0, 1000000.0, 10000.0]


def test_tables_and_what_only_looks_positional():
    t5 = {
        "model_type": "t5", "num_heads": 6, "d_kv": 4, "d_model": 8, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "num_layers": 1,
    }  # fmt: skip
    attention = "encoder.block.0.layer.0.SelfAttention"
    source = {
        f"{attention}.q.weight": np.zeros((24, 8), np.float32),
        f"{attention}.relative_attention_bias.weight": np.zeros((32, 6), np.float32),
    }
    plan = draft(source, [Move(name, name) for name in source], config=t5)
    spec = T5Bias(6, buckets=32, max_distance=128, bidirectional=True)
    assert plan.moves[0].plain == "t5 turns no queries and keys"
    assert plan.moves[1].rows == Rows(spec, spec)


def test_what_is_said_has_precedence():
    said = Rotary(ROPE, to="half", heads=4)
    moves = [Move(f"{ATTENTION}.q_proj.weight", "q.{layer}", rotary=said)]
    assert draft(llama(), moves, config=LLAMA, target_layout="interleaved").moves[0].rotary == said


OTHER = Rope(8, base=10000.0, layout="half")
LEARNED = Rows(Learned(32, 32))


@pytest.mark.parametrize(
    "said",
    [
        {"rotary": Rotary(OTHER, to="half", heads=4)},
        {"rotary": Rotary(ROPE, to="half", heads=2)},
        {"rotary": Rotary(ROPE, to="half", heads=4, axis=-2)},
        {"rotary": Rotary(replace(ROPE, layout="interleaved"), to="interleaved", heads=4)},
        {"plain": "not turned"},
        {"rows": LEARNED},
    ],
)
def test_a_move_that_contradicts_the_config_is_refused(said):
    moves = [Move(f"{ATTENTION}.q_proj.weight", "q.{layer}", **said)]
    with pytest.raises(
        SpecError, match=r"draft.moves: expected Rotary\(.* for 'model.layers.0.self_attn.q_proj.weight'"
    ):
        draft(llama(), moves, config=LLAMA)
    known = {moves[0].source: said.get("rotary") or said.get("rows") or Plain(said["plain"])}
    assert draft(llama(), moves, config=LLAMA, known=known).moves[0] == moves[0]


def test_names_that_a_config_does_not_know_are_said_by_the_moves():
    kernels = {"layers.0.q.kernel": np.zeros((32, 4, 8), np.float32)}
    turned = Rotary(replace(ROPE, layout="interleaved"), to="half", heads=4, axis=(1, 2))
    moves = [
        Move("layers.{layer}.q.kernel", f"{ATTENTION}.q_proj.weight", rotary=turned, axes=(1, 2, 0), shape=(32, 32))
    ]
    assert draft(kernels, moves, config=LLAMA).moves == tuple(moves)


def test_weights_that_were_permuted_are_said_to_be():
    plan = draft(llama(), MOVES, config=LLAMA, source_layout="interleaved", target_layout="half")
    assert plan.moves[1].rotary == Rotary(Rope(8, base=500_000.0, layout="interleaved"), to="half", heads=4)


def test_an_unknown_family_is_told():
    source = {"body.0.pos_table": np.zeros((16, 4), np.float32)}
    moves = [Move("body.{layer}.pos_table", "p.{layer}")]
    config = {"model_type": "of_mine"}
    with pytest.raises(SpecError, match=r"'body.0.pos_table': expected a tensor that is known of model_type 'of_mine'"):
        draft(source, moves, config=config)
    spec = Learned(16, 4)
    plan = draft(source, moves, config=config, known={"body.{layer}.pos_table": Rows(spec, spec)})
    assert plan.moves[0].rows == Rows(spec, spec)
    assert draft(source, moves, config=config, known={"body.{layer}.pos_table": Plain("why")}).moves[0].plain == "why"


def test_a_pattern_of_what_is_left_fits_nothing_else():
    source = {f"layers.{n}.w": np.zeros(1, np.float32) for n in range(4)}
    plan = draft(source, [Move("layers.2.w", "w")])
    assert plan.left_out == dict.fromkeys(("layers.0.w", "layers.1.w", "layers.3.w"), "undecided")
    assert draft(source, []).left_out == {"layers.{layer}.w": "undecided"}


def test_the_time_grows_with_the_number_of_tensors():
    """2,000 moves with a name in each took 49 s; 10,000 take 0.1 s."""
    source = {f"layers.{n}.{k}.weight": Entry((4,), "float32") for n in range(200) for k in range(50)}
    begun = time.process_time()
    plan = drafted(source, [Move(name, name) for name in list(source)[:-1]], target=source)
    assert list(plan.left_out) == list(plan.kept) == ["layers.199.49.weight"]
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"moves": ["a"]}, "draft.moves[0]: expected Move(...), received 'a'"),
        ({"moves": [], "target_layout": "sideways"}, "draft.target_layout: expected 'half', 'interleaved' or None"),
        (
            {"moves": [], "source_layout": "half"},
            "draft.config: expected one where source_layout is said, received None",
        ),
        ({"moves": [], "known": {}}, "draft.config: expected one where known is said, received None"),
    ],
)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(SpecError) as caught:
        draft({"a": np.zeros(1)}, **arguments)
    assert sentence in str(caught.value)
