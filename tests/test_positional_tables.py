"""Positional tensors of transformers' models, found by their configs, against what the models themselves do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from small_models import called, entries, listed, small_config, small_model

from posenc import DebertaBuckets, Learned, ShawClip, SwinIndex, T5Bias
from posenc.interop.port_moves import Rows
from posenc.interop.positional_tensors import LeftOut, Unspecified, positional_tensors
from posenc.numpy_impl import bias, lookup, rows

LENGTH = 9
MASK = torch.tensor([[1] * LENGTH, [1] * 6 + [0] * 3])
COUNTED = (MASK.cumsum(-1) * MASK - 1).numpy()
"""Positions that count tokens which are no padding; -1 at padding."""
WORDS = listed(
    "aimv2_text_model albert bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small "
    "camembert clip_text_model convbert data2vec-text deberta deberta-v2 distilbert dpr electra ernie esm flaubert "
    "fnet git gpt-sw3 gpt2 gpt_bigcode gpt_neo imagegpt layoutlm layoutlmv3 led lilt longformer "
    "lxmert mbart megatron-bert mobilebert mpnet mra mvp nystromformer openai-gpt opt plbart rembert roberta "
    "roberta-prelayernorm roc_bert splinter squeezebert tapas trocr vilt visual_bert whisper xlm xlm-roberta "
    "xlm-roberta-xl xmod yoso"
)
PATCHES = listed(
    "chinese_clip_vision_model clip_vision_model idefics2_vision idefics3_vision idefics_vision siglip_vision_model "
    "smolvlm_vision"
)
"""Their tables are modules, read at the positions of all patches."""
ADDED = listed(
    "audio-spectrogram-transformer beit data2vec-vision deit dinov2 dinov2_with_registers ijepa vit vit_msn vivit"
)
"""Theirs are parameters, added in the module that has them, and nothing else is done there."""
READ = listed("dpt layoutlmv3 siglip2_vision_model swin timesformer vilt vitdet")
"""Theirs too, and more is done."""
MORE = {
    "audio-spectrogram-transformer": {"max_length": 30, "num_mel_bins": 20, "frequency_stride": 3, "time_stride": 2},
    "beit": {"use_absolute_position_embeddings": True, "use_relative_position_bias": True},
    "data2vec-vision": {"use_absolute_position_embeddings": True, "use_shared_relative_position_bias": True},
    "siglip2_vision_model": {"num_patches": 25},
    "swin": {"use_absolute_embeddings": True},
    "vivit": {"tubelet_size": [1, 4, 4], "image_size": 20},
}


def made(model_type, **more):
    config = small_config(model_type, **MORE.get(model_type, {}) | more)
    model = small_model(config)
    return model, positional_tensors(config, entries(model))


def tables(found, kind):
    return {
        name: held.source for name, held in found.items() if isinstance(held, Rows) and isinstance(held.source, kind)
    }


def outputs(model, names):
    """What each module that has one of these weights is given first, and what it returns, when the model is called."""
    received = {}

    def keep(name, given, output):
        received.setdefault(name, (given, output))

    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        module.register_forward_hook(lambda _, given, output, name=name: keep(name, given, output))
    with torch.no_grad():
        called(model, MASK)
    return received


def weights(model, name):
    return model.state_dict()[name].numpy()


def equal(received, exact):
    np.testing.assert_array_equal(*np.broadcast_arrays(np.asarray(received), exact))


@pytest.mark.parametrize("model_type", WORDS)
def test_words(model_type):
    model, found = made(model_type)
    modules = {
        name: spec for name, spec in tables(found, Learned).items() if re.search(r"^(?!.*(vis|image)).*weight$", name)
    }
    assert modules
    received = outputs(model, modules)
    for name, spec in modules.items():
        given, output = received[name]
        boxes = re.search(r"\.[xyhw]_position", name)  # of which the coordinates are given
        positions = given[0].numpy() if boxes else COUNTED if spec.padding else np.arange(LENGTH)
        equal(output[..., :LENGTH, :], lookup(spec, weights(model, name), positions))  # some fill up their windows


@pytest.mark.parametrize("model_type", PATCHES)
def test_patches(model_type):
    model, found = made(model_type)
    ((name, spec),) = tables(found, Learned).items()
    ((_, output),) = outputs(model, [name]).values()
    equal(output, lookup(spec, weights(model, name), range(spec.length)))


@pytest.mark.parametrize("model_type", ADDED)
def test_added(model_type):
    model, found = made(model_type)
    ((name, spec),) = tables(found, Learned).items()
    owner = model.get_submodule(name.rpartition(".")[0])
    for other, parameter in owner.named_parameters():
        if not name.endswith(other):
            parameter.data.zero_()
    ((_, output),) = outputs(model, [name]).values()
    output = output if isinstance(output, torch.Tensor) else output[0]
    exact = lookup(spec, weights(model, name)[0], range(spec.length))
    registers = output.shape[1] - len(exact)
    equal(output[:, : spec.tokens], exact[: spec.tokens])
    equal(output[:, spec.tokens + registers :], exact[spec.tokens :])


@pytest.mark.parametrize("model_type", READ)
def test_read(model_type):
    """Every row is read, as its gradient shows, but that of ViTDet's token; in which order, is not seen."""
    model, found = made(model_type)
    specs = {name: spec for name, spec in tables(found, Learned).items() if "position_embeddings.weight" not in name}
    output = called(model, MASK)[0]
    (output * torch.randn(output.shape)).sum().backward()
    for name, spec in specs.items():
        gradient = model.get_parameter(name).grad.reshape(-1, spec.dim)
        assert len(gradient) == spec.length
        assert bool(gradient[model_type == "vitdet" :].any(-1).all())


@pytest.mark.parametrize(
    "model_type", ["longt5", "mpnet", "mt5", "pop2piano", "switch_transformers", "t5", "umt5", "wavlm"]
)
def test_buckets(model_type):
    model, found = made(model_type)
    specs = {name: spec for name, spec in tables(found, T5Bias).items() if "Local" not in name}
    assert {spec.bidirectional for spec in specs.values()} == {True, False} - (
        {False} if model_type in ("mpnet", "wavlm") else {True} if model_type == "longt5" else set()
    )
    for name, (_, output) in outputs(model, specs).items():
        count = output.shape[0]
        equal(
            output.movedim(-1, 0),
            bias(specs[name], range(count), range(count), weights=weights(model, name)),
        )


def test_buckets_of_blocks():
    """LongT5's encoder: keys are one block before the queries', their own and one behind; or they are whole blocks."""
    model, found = made("longt5")
    (name,) = (name for name in tables(found, T5Bias) if "Local" in name)
    ((_, output),) = outputs(model, [name]).values()
    block = output.shape[0]
    exact = bias(found[name].source, range(block, 2 * block), range(3 * block), weights=weights(model, name))
    equal(output.movedim(-1, 0), exact)
    model, found = made("longt5", encoder_attention_type="transient-global", global_block_size=3)
    (name,) = (name for name in tables(found, T5Bias) if "global" in name)
    ((_, output),) = outputs(model, [name]).values()
    exact = bias(found[name].source, np.arange(LENGTH) // 3, range(3), weights=weights(model, name))
    equal(output[0].movedim(-1, 0), exact)


def test_buckets_on_a_page():
    model, found = made("layoutlmv3")
    specs = tables(found, T5Bias)
    boxes = torch.randint(0, 40, (2, LENGTH, 4))
    words = torch.tensor([range(4, 4 + LENGTH)])
    received = {
        "encoder.rel_pos_bias.weight": (words, model.encoder._cal_1d_pos_emb(words)),
        "x": (boxes[:, :, 0], None),
        "y": (boxes[:, :, 3], None),
    }
    both = model.encoder._cal_2d_pos_emb(boxes).detach().numpy()
    exact = {
        name: bias(spec, *[received.get(name, received.get(name[16]))[0].numpy()] * 2, weights=weights(model, name).T)
        for name, spec in specs.items()
    }
    equal(received["encoder.rel_pos_bias.weight"][1].detach(), exact.pop("encoder.rel_pos_bias.weight"))
    x, y = exact["encoder.rel_pos_x_bias.weight"], exact["encoder.rel_pos_y_bias.weight"]
    equal(both, x + y)
    assert len(exact) == 2


@pytest.mark.parametrize("model_type", ["swin", "donut-swin", "maskformer-swin", "clap"])
def test_windows(model_type):
    model, found = made(model_type)
    specs = tables(found, SwinIndex)
    assert len({spec.heads for spec in specs.values()}) > 1
    for name, spec in specs.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        read = rows(spec, spec.positions(), spec.positions())
        equal(owner.relative_position_index.reshape(read.shape), read)
        assert weights(model, name).shape == spec.weight_shape


def test_deberta():
    """Unit queries and keys, and rows that hold their number: scores are the rows that are read."""
    model, found = made("deberta-v2", hidden_size=1, num_attention_heads=1, share_att_key=True, pos_att_type=["c2p"])
    ((_, spec),) = tables(found, DebertaBuckets).items()
    attention = model.encoder.layer[0].attention.self
    for projection in (attention.query_proj, attention.key_proj):
        projection.weight.data.fill_(1)
        projection.bias.data.zero_()
    ones, numbers = torch.ones(1, 60, 1), torch.arange(float(spec.row_count))[:, None]
    scores = attention.disentangled_attention_bias(ones, ones, None, numbers, 1).detach()[0]
    equal(scores, rows(spec, range(60), range(60)))


def test_shaw():
    model, found = made("wav2vec2-bert", left_max_position_embeddings=5, right_max_position_embeddings=2)
    specs = tables(found, ShawClip)
    for name, (_, output) in outputs(model, specs).items():
        equal(output, weights(model, name)[rows(specs[name], range(LENGTH), range(LENGTH))])


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("clap", {}),
        ("distilbert", {"sinusoidal_pos_embds": True}),
        ("donut-swin", {}),
        ("fsmt", {}),
        ("marian", {}),
        ("mra", {}),
        ("pegasus", {}),
        ("roformer", {}),
        ("vit_mae", {}),
        ("whisper", {}),
        ("xlm", {"sinusoidal_embeddings": True}),
    ],
)
def test_computed(model_type, more):
    """What is left out is the same in every model of the config; what is moved is not."""
    config = small_config(model_type, **more)
    first, second = (small_model(config, seed=seed, filled=False).state_dict() for seed in (0, 1))
    found = positional_tensors(config, entries(small_model(config)))
    left_out = [name for name, held in found.items() if isinstance(held, LeftOut)]
    assert left_out
    assert all(torch.equal(first[name], second[name]) for name in left_out)
    moved = [name for name, held in found.items() if isinstance(held, Rows) and first[name].any()]  # Swin's are zeros
    assert not any(torch.equal(first[name], second[name]) for name in moved)


@pytest.mark.parametrize("model_type", ["audioflamingo3_encoder", "qwen2_audio_encoder", "voxtral_encoder"])
def test_frozen(model_type):
    """Whisper's sines, which these do not compute: two models of one config differ, and the rows are read."""
    model, found = made(model_type)
    ((name, spec),) = tables(found, Learned).items()
    other = small_model(model.config, seed=1).state_dict()[name]
    assert weights(model, name).shape == spec.weight_shape
    assert not torch.equal(other, model.state_dict()[name])
    with torch.no_grad():
        before = called(model, MASK)[0]
        model.get_parameter(name).copy_(other)
        assert not torch.equal(called(model, MASK)[0], before)


ENCODERS = listed(
    "albert beit bert clip_vision_model deberta deberta-v2 deit dinov2 distilbert electra ernie esm "
    "megatron-bert mpnet rembert roberta squeezebert vit xlm-roberta"
)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_nothing_is_missed(model_type):
    """Without what was found, an encoder does not see the order of its input; with it, it does."""
    model, found = made(model_type)
    model.double()
    positional = [name for name, held in found.items() if isinstance(held, Rows | Unspecified)]
    image = "pixel_values" in model.main_input_name
    order = torch.randperm(25 if image else LENGTH)

    def moved():
        if image:
            torch.manual_seed(1)
            patches = torch.randn(2, 3, 25, 4, 4, dtype=torch.float64)
            grid = [
                x.reshape(2, 3, 5, 5, 4, 4).transpose(3, 4).reshape(2, 3, 20, 20)
                for x in (patches, patches[:, :, order])
            ]
            first, second = (model(pixel_values=x)[0][:, -25:] for x in grid)
        else:
            tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH) + 6
            first, second = (model(input_ids=x)[0] for x in (tokens, tokens[:, order]))
        return float((first[:, order] - second).abs().max())

    with torch.no_grad():
        assert moved() > 2**-10
        for name in positional:
            model.get_parameter(name).zero_()
        assert moved() < 2**-20  # softmax in float32, of weights of at most 1: half a unit of 2^-24, and what follows
