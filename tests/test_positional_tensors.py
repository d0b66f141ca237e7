"""What `positional_tensors` says of whole checkpoints of transformers, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from small_models import entries, listed, small_config, small_model
from transformers import AutoConfig, AutoModelForCausalLM

from posenc import Learned, Rope, SpecError, T5Bias
from posenc.interop.attention_config import attention_by_layer, layout_by_config
from posenc.interop.checkpoint_layout import prepare
from posenc.interop.contents import Entry
from posenc.interop.huggingface import ConfigWarning, DefaultAssumed
from posenc.interop.layouts import permute
from posenc.interop.port_moves import Rotary, Rows
from posenc.interop.port_step import looks_positional
from posenc.interop.positional_families import TABLES
from posenc.interop.positional_rows import DEFAULTS
from posenc.interop.positional_tensors import LeftOut, Plain, Unspecified, positional_tensors

GROUPED = {"num_key_value_heads": 2, "head_dim": 6}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6,
    "v_head_dim": 8,
}  # fmt: skip
ROTARY = {
    "codegen": {"rotary_dim": 4, "n_embd": 32},
    "cohere": {"num_key_value_heads": 2, "use_qk_norm": True, "hidden_size": 24},
    "deepseek_v3": LATENT | {"first_k_dense_replace": 2},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "hidden_size": 24},
    "gemma3_text": GROUPED,
    "glm": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neox": {"rotary_pct": 1.0},
    "gptj": {"rotary_dim": 4},
    "llama": GROUPED,
    "minicpm3": LATENT,
    "mistral": GROUPED,
    "olmo2": {"num_key_value_heads": 2},
    "persimmon": {"hidden_size": 32},
    "phi": {"hidden_size": 32},
    "phi3": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": GROUPED,
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "stablelm": {"num_key_value_heads": 2, "hidden_size": 32, "qk_layernorm": True, "partial_rotary_factor": 0.5},
}
PARTS = {name for name in TABLES if name.endswith(("_text_model", "_vision_model", "_qformer"))} - set(
    listed("aimv2_text_model chinese_clip_vision_model clip_text_model clip_vision_model siglip2_vision_model")
    + listed("siglip_vision_model")
) | set(listed("bridgetower clap_audio_model flava_image_model"))
"""Have no automatic class of their own."""


@pytest.mark.parametrize("model_type", ROTARY)
def test_rotary(tmp_path, model_type):
    """The same permutation as that of `convert_layout`, after which logits are those of the other layout."""
    config = small_config(model_type, **ROTARY[model_type])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "in")
    record = json.loads((tmp_path / "in" / "config.json").read_text())
    by_config = layout_by_config(record)
    to = "half" if by_config == "interleaved" else "interleaved"
    conversion = prepare(tmp_path / "in", attention_by_layer(record), to=to, by_config=by_config)
    conversion.write(tmp_path / "out")
    before, after = (torch_state(tmp_path / name) for name in ("in", "out"))
    found = positional_tensors(record, {name: Entry(tuple(x.shape), "float32") for name, x in before.items()})
    turned = {name: held for name, held in found.items() if isinstance(held, Rotary)}
    assert set(turned) == set(conversion.permuted)
    for name, held in turned.items():
        assert held.to == by_config
        moved = permute(held.spec, before[name], to=to, heads=held.heads, axis=held.axis)
        assert torch.equal(moved, after[name])
        assert not torch.equal(moved, before[name])


def torch_state(folder):
    return load_file(folder / "model.safetensors")


def test_rotations_are_those_of_the_layer():
    gemma = small_config("gemma3_text", **GROUPED, num_hidden_layers=6)
    found = positional_tensors(gemma, entries(small_model(gemma)))
    for number, kind in enumerate(gemma.layer_types):
        held = found[f"layers.{number}.self_attn.k_proj.weight"]
        assert held == Rotary(Rope(6, gemma.rope_parameters[kind]["rope_theta"], "half"), to="half", heads=2)
    assert len(set(gemma.layer_types)) == 2
    smol = small_config("smollm3", **ROTARY["smollm3"])
    found = positional_tensors(smol, entries(small_model(smol)))
    assert isinstance(found["layers.0.self_attn.q_proj.weight"], Rotary)
    assert isinstance(found["layers.1.self_attn.q_proj.weight"], Plain)
    deepseek = small_config("deepseek_v3", **ROTARY["deepseek_v3"])
    found = positional_tensors(deepseek, entries(small_model(deepseek)))
    query, key = (found[f"layers.0.self_attn.{name}.weight"] for name in ("q_b_proj", "kv_a_proj_with_mqa"))
    assert (query.spec.head_dim, query.heads, query.to) == (10, 4, "interleaved")
    assert (key.spec.head_dim, key.heads, key.spec.rotary_dim, key.spec.rotary_channels) == (20, 1, 4, "last")
    assert isinstance(found["layers.0.self_attn.kv_b_proj.weight"], Plain)
    fused = small_config("phi3", **ROTARY["phi3"])
    found = positional_tensors(fused, entries(small_model(fused)))
    assert found["layers.0.self_attn.qkv_proj.weight"].heads == (True,) * 6 + (False,) * 2


@pytest.mark.parametrize("model_type", sorted(TABLES.keys() - PARTS))
def test_everything_that_looks_positional_is_told(model_type):
    config = small_config(model_type)
    contents = entries(small_model(config))
    found = positional_tensors(config, contents)
    assert list(found) == [name for name in contents if name in found]
    assert not [name for name, entry in contents.items() if looks_positional(name, entry.shape) and name not in found]
    wider = re.compile(r"(?<!com)pos(?!t|e)|(?<![a-z])rel_|wpe|freq|alibi|sinusoid|distance|rotary|bias_table|time_emb")
    assert not [name for name in contents if wider.search(name) and name not in found]


@pytest.mark.parametrize(
    "model_type",
    listed(
        "altclip blip blip-2 chinese_clip clap clip clipseg flava git groupvit idefics3 instructblip llava metaclip_2 "
        "owlv2 owlvit paligemma qwen2_audio siglip siglip2 smolvlm voxtral"
    ),
)
def test_parts(model_type):
    """Each by its own config: two towers with tables, or one with queries and keys that are turned."""
    config = small_config(model_type)
    found = positional_tensors(config, entries(small_model(config)))
    learned = [held.source for held in found.values() if isinstance(held, Rows) and isinstance(held.source, Learned)]
    turned = [name for name, held in found.items() if isinstance(held, Rotary)]
    assert len(learned) + bool(turned) == {"clap": 1, "instructblip": 3}.get(model_type, 2)
    assert all(name.startswith(("language_model", "text_model")) for name in turned)


BERT = {"model_type": "bert", "max_position_embeddings": 30, "hidden_size": 24}
TABLE = "bert.embeddings.position_embeddings.weight"


def told(config, **shapes):
    return positional_tensors(config, {name: Entry(shape, "float32") for name, shape in shapes.items()})


def test_names_of_older_files():
    """With the prefix of a model with a head, and what newer versions do not store."""
    spec = Learned(30, 24)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    shapes = {TABLE: (30, 24), "bert.embeddings.position_ids": (1, 30), query: (24, 24), "cls.predictions.bias": (50,)}
    found = told(BERT, **shapes)
    assert list(found) == [TABLE, "bert.embeddings.position_ids", query]
    assert found[TABLE] == Rows(spec, spec)
    assert isinstance(found["bert.embeddings.position_ids"], LeftOut)
    assert found[query] == Plain("bert turns no queries and keys")
    gpt2 = {"model_type": "gpt2", "n_positions": 30, "n_embd": 24}
    masks = {"h.0.attn.bias": (1, 1, 30, 30), "h.0.attn.masked_bias": ()}
    assert all(isinstance(held, LeftOut) for held in told(gpt2, **masks).values())
    assert len(told(gpt2, **masks)) == 2
    llama = small_config("llama", **GROUPED).to_dict()
    assert isinstance(told(llama, **{"model.layers.0.self_attn.rotary_emb.inv_freq": (3,)}).popitem()[1], LeftOut)
    esm = small_config("esm", position_embedding_type="rotary").to_dict()
    found = told(esm, **{"esm.embeddings.position_embeddings.weight": (30, 24)})
    assert found == {"esm.embeddings.position_embeddings.weight": LeftOut("not read: rotary")}
    t5 = small_config("t5").to_dict()
    cross = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    assert found.keys().isdisjoint(told(t5, **{cross: (32, 4)}))
    assert isinstance(told(t5, **{cross: (32, 4)})[cross], LeftOut)
    swin = small_config("swin").to_dict()
    index = "swin.encoder.layers.0.blocks.0.attention.self.relative_position_"
    found = told(swin, **{f"{index}index": (9, 9), f"{index}bias_table": (25, 2)})
    assert isinstance(found[f"{index}index"], LeftOut)
    assert found[f"{index}bias_table"].source.window == (3, 3)


def test_what_has_no_specification():
    beit = {"model_type": "beit"}
    assert isinstance(
        told(beit, **{"encoder.relative_position_bias.relative_position_bias_table": (28, 4)}).popitem()[1], Unspecified
    )
    deberta = {"model_type": "deberta-v2", "position_buckets": -1}
    assert isinstance(told(deberta, **{"encoder.rel_embeddings.weight": (60, 24)}).popitem()[1], Unspecified)


def refused(match, *arguments, **options):
    with pytest.raises(SpecError, match=match):
        positional_tensors(*arguments, **options)


def test_refused():
    def there(*names):
        return {name: Entry((30, 24), "float32") for name in names}

    refused(
        r"'bert.embeddings.position_embeddings.weight': expected 30 rows of 24 numbers along axis 0, received the "
        r"shape \(28, 24\), where the config says Learned\(length=30",
        BERT,
        {TABLE: Entry((28, 24), "float32")},
    )
    new, query, value = {"model_type": "new"}, *(f"layers.0.self_attn.{name}_proj.weight" for name in "qv")
    square = {name: Entry((24, 24), "float32") for name in (query, value)}
    unknown = "expected a tensor that is known of model_type"
    refused(
        f"'blocks.{{0-1}}.rel_pos', 'pos_embed': {unknown} 'new'",
        new,
        there("blocks.0.rel_pos", "blocks.1.rel_pos", "pos_embed"),
    )
    refused(f"'encoder.embed_positions.weight': {unknown} 'bert'", BERT, there("encoder.embed_positions.weight"))
    understood = "expected a rotation that is understood, or what it is in known="
    refused(f"'{query}': {understood}", new, square)
    refused(
        r"config.max_position_embeddings: expected this key, received none \(the config",
        {"model_type": "bert"},
        there(TABLE),
    )
    refused(
        "config.hidden_size: expected an integer >= 1 .*, received '24'", BERT | {"hidden_size": "24"}, there(TABLE)
    )
    tower = {"model_type": "new", "vision_config": {"model_type": "vit"}, "text_config": BERT}
    refused(f"'fusion.self_attn.q_proj.weight': {understood}", tower, {"fusion.self_attn.q_proj.weight": square[query]})
    refused("several axes", {"model_type": "qwen2_vl_text"}, square)
    roberta = BERT | {"model_type": "roberta", "pad_token_id": 40}
    refused("config.max_position_embeddings: expected more than 41 rows", roberta, there(TABLE))
    llama = small_config("llama", **GROUPED).to_dict()
    refused(
        "'decoder.vision.k_proj.weight': no known name of a query or key", llama, there("decoder.vision.k_proj.weight")
    )
    refused(f"{query}': expected a weight or bias of 4 heads of 6 rows, 24 in all", llama, there(query, value))
    nope = small_config("gemma3_text", **GROUPED).to_dict() | {"layer_types": None}
    refused(
        r"which of (\w+, )?sliding_attention(, \w+)? layer 0 is, received None",
        nope,
        {query: Entry((24, 24), "float32"), value: Entry((12, 24), "float32")},
    )
    heads = {"model_type": "qwen2_5_omni_dit", "rope_theta": 1e4, "num_attention_heads": 4, "head_dim": 6}
    refused("is all, received 'qwen2_5_omni_dit': only the first head is turned", heads, square)


def test_known():
    spec, layers = Learned(30, 24), {f"blocks.{layer}.rel_pos": Entry((30, 24), "float32") for layer in range(2)}
    config = {"model_type": "new"}
    held = Rows(spec, spec)
    assert positional_tensors(config, layers, known={"blocks.{layer}.rel_pos": held}) == dict.fromkeys(layers, held)
    refused(r"known\['pos'\]: expected a pattern that a tensor has", config, layers, known={"pos": held})
    refused(r"known\['blocks.0.rel_pos'\]: expected Rows", config, layers, known={"blocks.0.rel_pos": "plain"})
    two = {"blocks.0.rel_pos": held, "blocks.{layer}.rel_pos": Plain("none")}
    refused("expected one meaning of 'blocks.0.rel_pos', received two", config, layers, known=two)


def test_layout():
    """Of a model that is not known, and of weights that were permuted."""
    config = {"model_type": "new", "rope_theta": 1e4, "hidden_size": 24, "num_attention_heads": 4}
    names = [f"layers.0.self_attn.{name}_proj.weight" for name in "qkv"]
    contents = {name: Entry((24, 24), "bfloat16") for name in names}
    refused("layout", config, contents)
    found = positional_tensors(config, contents, layout="interleaved")
    assert found[names[0]] == Rotary(Rope(6, 1e4, "interleaved"), to="interleaved", heads=4)
    assert list(found) == names[:2]


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_defaults(model_type):
    default = AutoConfig.for_model(model_type).to_dict()
    for key, value in DEFAULTS[model_type].items():
        assert default[key] == value


def test_default_is_told():
    t5 = {"model_type": "t5", "num_heads": 4, "relative_attention_num_buckets": 32}
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    with pytest.warns(DefaultAssumed, match="relative_attention_max_distance: absent; .*, 128"):
        found = told(t5, **{name: (32, 4)})
    spec = T5Bias(4, bidirectional=True)
    assert found == {name: Rows(spec, spec)}
    assert issubclass(DefaultAssumed, ConfigWarning)
