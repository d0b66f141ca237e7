"""A plan held against what is there: every tensor accounted for, and whatever does not fit said at once."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from posenc import Learned, Rope, ShawClip, T5Bias
from posenc.interop.contents import Entry
from posenc.interop.port_check import steps
from posenc.interop.port_plan import Move, Plan, Rotary, Rows
from posenc.interop.port_step import looks_positional
from posenc.interop.safetensors_header import CheckpointError

ROPE = Rope(8, base=10000.0, layout="half")
T5 = T5Bias(6, buckets=32, max_distance=128, bidirectional=True)
Q = Move(
    "layers.{n}.q_proj.weight",
    "blocks.{n}.query.kernel",
    rotary=Rotary(ROPE, to="interleaved", heads=4),
    axes=(1, 0),
    shape=(16, 4, 8),
)
PLAN = Plan(
    [
        Q,
        Move("layers.{n}.mlp.weight", "blocks.{n}.mlp.kernel", axes=(1, 0), dtype="bfloat16"),
        Move("positions.weight", "positions", rows=Rows(Learned.opt(30, 16), Learned(30, 16))),
        Move("relative_attention_bias.weight", "bias", rows=Rows(T5, T5), axes=(1, 0)),
        Move("ids", "ids"),
    ],
    left_out={"inv_freq": "computed"},
    kept={"rngs.count": "of dropout"},
)
SOURCE = {
    **{f"layers.{n}.q_proj.weight": Entry((32, 16), "float32") for n in range(3)},
    **{f"layers.{n}.mlp.weight": Entry((24, 16), "float32") for n in range(3)},
    "positions.weight": Entry((32, 16), "float32"),
    "relative_attention_bias.weight": Entry((32, 6), "float16"),
    "ids": Entry((1, 4), "int64"),
    "inv_freq": Entry((4,), "float32"),
}
TARGET = {
    **{f"blocks.{n}.query.kernel": Entry((16, 4, 8), "float32") for n in range(3)},
    **{f"blocks.{n}.mlp.kernel": Entry((16, 24), "bfloat16") for n in range(3)},
    "positions": Entry((30, 16), "float32"),
    "bias": Entry((6, 32), "float16"),
    "ids": Entry((1, 4), "int64"),
    "rngs.count": Entry((), "uint32"),
}


def refusal(plan, source, target) -> str:
    with pytest.raises(CheckpointError) as caught:
        steps(plan, source, target)
    return str(caught.value)


def test_every_tensor_gets_its_step():
    made = steps(PLAN, SOURCE, TARGET)
    assert {step.target: step.after for step in made} == {n: e for n, e in TARGET.items() if n != "rngs.count"}
    assert {step.source: step.before for step in made} == {n: e for n, e in SOURCE.items() if n != "inv_freq"}
    assert [step.source for step in made[:3]] == [f"layers.{n}.q_proj.weight" for n in range(3)]


def test_without_a_target_the_moves_alone_say_it():
    assert steps(replace(PLAN, kept={}), SOURCE) == steps(PLAN, SOURCE, TARGET)
    assert "'rngs.count': expected a target that has the tensors to be kept, received none" in refusal(
        PLAN, SOURCE, None
    )


def with_source(**entries):
    return PLAN, SOURCE | {name.replace("__", "."): Entry(*entry) for name, entry in entries.items()}, TARGET


def with_target(**entries):
    return PLAN, SOURCE, TARGET | {name.replace("__", "."): Entry(*entry) for name, entry in entries.items()}


def with_move(number, **changes):
    moves = list(PLAN.moves)
    moves[number] = replace(moves[number], **changes)
    return replace(PLAN, moves=moves), SOURCE, TARGET


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            with_source(norm__weight=((8,), "float32")),
            "port: 'norm.weight': expected a move or a reason in left_out for this tensor of the source, "
            "received neither",
        ),
        (
            with_target(norm__scale=((8,), "float32")),
            "port: 'norm.scale': expected a move or a reason in kept for this tensor of the target, received neither",
        ),
        (
            (replace(PLAN, left_out=PLAN.left_out | {"ids": "why"}), SOURCE, TARGET),
            "port: 'ids': expected to be moved or left out, received both",
        ),
        (
            (replace(PLAN, kept=PLAN.kept | {"ids": "why"}), SOURCE, TARGET),
            "port: 'ids': expected to be filled or kept, received both",
        ),
        (
            (replace(PLAN, left_out=PLAN.left_out | {"other.{n}": "why"}), SOURCE, TARGET),
            "port: 'other.{n}': expected a tensor of the source for left_out, received none",
        ),
        (
            (replace(PLAN, kept=PLAN.kept | {"other": "why"}), SOURCE, TARGET),
            "port: 'other': expected a tensor of the target for kept, received none",
        ),
        (
            (replace(PLAN, moves=[*PLAN.moves, Move("gone.{n}", "gone.{n}")]), SOURCE, TARGET),
            "port: 'gone.{n}': expected a tensor of the source for this move, received none",
        ),
        (
            (replace(PLAN, moves=[*PLAN.moves, Move("ids", "ids2")]), SOURCE, TARGET),
            "port: 'ids2': expected a name that the target has, received a move to it",
        ),
        (
            (replace(PLAN, moves=[*PLAN.moves, Move("ids", "ids")]), SOURCE, TARGET),
            "port: 'ids': expected one source for this target, received several",
        ),
        (
            with_move(0, rotary=None),
            "port: 'layers.{0-2}.q_proj.weight': expected rotary, rows or plain for what looks positional, "
            "received none of them",
        ),
        (
            with_move(0, rotary=Rotary(ROPE, to="half", heads=2)),
            "port: 'layers.{0-2}.q_proj.weight': expected 2 heads of 8 channels, 16 in all, along axis 0, "
            "received the shape (32, 16)",
        ),
        (
            with_move(0, rotary=Rotary(ROPE, to="half", heads=4, axis=2)),
            "port: 'layers.{0-2}.q_proj.weight': expected an axis 2, received the shape (32, 16)",
        ),
        (
            with_move(0, rotary=Rotary(ROPE, to="half", heads=4, axis=(0, 1))),
            "expected 4 heads and 8 channels along (0, 1), received (32, 16)",
        ),
        (
            with_move(0, shape=None),
            "port: 'blocks.{0-2}.query.kernel': expected the shape (16, 4, 8), which the target has, received (16, 32)",
        ),
        (with_move(0, shape=(16, 8, 8)), "expected as many numbers as the shape (16, 8, 8) has, received (16, 32)"),
        (with_move(0, axes=(0, 1, 2)), "expected 3 axes, as the move has, received the shape (32, 16)"),
        (
            with_move(1, dtype=None),
            "port: 'blocks.{0-2}.mlp.kernel': expected bfloat16, which the target has, or dtype='bfloat16' in the "
            "move, received float32",
        ),
        (
            with_move(4, dtype="float32"),
            "port: 'ids': expected a floating dtype, to be cast to float32, received int64",
        ),
        (
            with_move(2, rows=Rows(Learned(30, 16), Learned(30, 16))),
            "port: 'positions.weight': expected 30 rows of 16 numbers along axis 0, received the shape (32, 16)",
        ),
        (
            with_move(2, rows=Rows(Learned.opt(30, 16), Learned(31, 16))),
            "port: 'positions.weight': Rows.target: expected positions up to 29, the last that the source has, "
            "received 30 too, whose row would have to be trained",
        ),
        (
            with_source(relative_attention_bias__weight=((6, 32), "float16")),
            "port: 'relative_attention_bias.weight': expected 32 rows of 6 numbers along axis 0, "
            "received the shape (6, 32)",
        ),
        (
            with_target(positions=((32, 16), "float32")),
            "port: 'positions': expected the shape (32, 16), which the target has, received (30, 16)",
        ),
    ],
)
def test_what_does_not_fit_is_said(case, sentence):
    text = refusal(*case)
    assert sentence in text
    assert text.count(": expected") == 1, "and nothing that follows from it"


def test_everything_is_said_at_once():
    source = dict(SOURCE, extra=Entry((1,), "float32"))
    target = {name: entry for name, entry in TARGET.items() if name != "positions"} | {"more": Entry((1,), "float32")}
    text = refusal(PLAN, source, target)
    for name in ("'extra'", "'more'", "'positions'"):
        assert name in text
    assert "\n" not in text


def attention(**keys):
    """A query and a key of one layer; `keys` change what is said of the key."""
    said = {"spec": ROPE, "to": "interleaved", "heads": 2} | keys
    moves = [
        Move("q_proj", "q", rotary=Rotary(ROPE, to="interleaved", heads=4)),
        Move("k_proj", "k", rotary=Rotary(said.pop("spec"), **said)),
    ]
    return Plan(moves), {"q_proj": Entry((32, 16), "float32"), "k_proj": Entry((16, 16), "float32")}, None


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"to": "half"}, "expected the layout interleaved, which 'q_proj' gets, turned by the same angles"),
        ({"spec": replace(ROPE, layout="interleaved")}, "expected the layout half, which 'q_proj' has, turned by"),
    ],
)
def test_a_query_and_its_key_have_one_layout(keys, sentence):
    assert f"'k_proj': {sentence}" in refusal(*attention(**keys))


def test_the_parts_of_latent_attention_have_one_layout():
    """Their specifications differ in the channels beside the rotary ones."""
    spec = Rope(16, base=10000.0, layout="half", rotary_dim=8, rotary_channels="last")
    assert "'k_proj': expected the layout interleaved" in refusal(*attention(spec=spec, heads=1, to="half"))
    assert len(steps(*attention(spec=spec, heads=1))) == 2


def test_rotations_by_other_angles_may_have_another_layout():
    """The vision and the language part of one model."""
    assert len(steps(*attention(spec=replace(ROPE, base=100.0, layout="interleaved"), to="half"))) == 2


def test_undecided_is_undecided_however_it_is_written():
    plan = Plan([], left_out={"a": "Undecided "})
    assert "'a': expected a move, or a reason in left_out" in refusal(plan, {"a": Entry((1,), "float32")}, None)


@pytest.mark.parametrize("patterns", [True, False])
def test_the_time_grows_with_the_number_of_tensors(patterns):
    """20,000 of them took 37 s by 50 patterns, and take 0.8 s; named one by one 2,000 took 7 s, 20,000 take 0.2 s."""
    source = {f"layers.{n}.{k}.weight": Entry((4,), "float32") for n in range(400) for k in range(50)}
    names = [f"layers.{{n}}.{k}.weight" for k in range(50)] if patterns else list(source)
    begun = time.process_time()
    assert len(steps(Plan([Move(name, name) for name in names]), source, source)) == len(source)
    assert time.process_time() - begun < 10


def test_where_nothing_fits_one_sentence_says_so():
    text = refusal(replace(PLAN, kept={}), {f"a.{n}": Entry((1,), "float32") for n in range(9)}, None)
    assert text.startswith("port: expected moves whose sources are tensors of the source ('a.{0-8}', ...)")
    assert "exchanged" not in text
    assert text.count("expected") == 1
    text = refusal(replace(PLAN, moves=PLAN.moves[:-1]), TARGET, SOURCE)
    assert text.endswith("no move fits; the targets of its moves do: are source and target exchanged?")


def test_a_table_of_rows_of_any_width():
    plan = Plan([Move("rel", "rel", rows=Rows(ShawClip(4), ShawClip(4)))])
    assert steps(plan, {"rel": Entry((9, 5), "float32")})[0].after.shape == (9, 5)
    assert "expected 9 rows along axis 0" in refusal(plan, {"rel": Entry((8, 5), "float32")}, None)


def test_a_table_with_more_axes():
    plan = Plan([Move("pos_embed", "p", rows=Rows(Learned(197, 16), Learned(197, 16), axis=1), shape=(197, 16))])
    assert steps(plan, {"pos_embed": Entry((1, 197, 16), "float32")})[0].after.shape == (197, 16)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "encoder.layer.3.attention.self.key.bias",
        "gpt_neox.layers.2.attention.query_key_value.weight",
        "transformer.h.0.attn.c_attn.weight",
        "blocks/block_1/q/vars/0",
        "layers.0.query.kernel",
        "bert.embeddings.position_embeddings.weight",
        "embeddings.position_embedding.weight",
        "model.decoder.embed_positions.weight",
        "transformer.wpe.weight",
        "vit.embeddings.position_embeddings",
        "blocks.0.attn.relative_position_bias_table",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "deberta.encoder.rel_embeddings.weight",
        "visual.positional_embedding",
        "pos_embed",
        "position_embedding/vars/0",
        "distance_embedding.weight",
        "layers/learned_encoding/vars/0",
        "layers/relative_bias/vars/0",
        "positions",
        "pe",
        "bias_table",
        "absolute_position",
        "emb.positional",
    ],
)
def test_what_looks_positional(name):
    assert looks_positional(name, (8, 8))


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "lm_head.weight",
        "embeddings.LayerNorm.weight",
        "post_attention_layernorm.weight",
        "composition.weight",
        "cls.predictions.decoder.weight",
        "blocks/block_1/dense/vars/0",
    ],
)
def test_what_does_not(name):
    assert not looks_positional(name, (8, 8))
