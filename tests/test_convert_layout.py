"""`posenc convert-layout`: equal logits, bytes that stay, complete files or none, and one line where it refuses."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open

from posenc import SpecError, __version__, cli
from posenc.interop import checkpoint_layout
from posenc.interop.attention_config import attention_by_layer
from posenc.interop.safetensors_header import BITS, CheckpointError, read_header

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
}
ATTENTION = "model.layers.{}.self_attn."
HALF_TO_INTERLEAVED = [0, 4, 1, 5, 2, 6, 3, 7]  # of a head of eight channels


def names(layers=2):
    """A Llama of `layers` layers: names and shapes in the order in which they stand in the file."""
    shapes = {"model.embed_tokens.weight": (11, 32)}
    for layer in range(layers):
        for name, rows in (("k_proj", 16), ("o_proj", 32), ("q_proj", 32), ("v_proj", 16)):
            shapes[f"{ATTENTION.format(layer)}{name}.weight"] = (rows, 32)
    return shapes


def write(path, shapes, metadata=None, dtype="F16", seed=0):
    """A safetensors file of random bytes, by the words of the format."""
    entries, begin = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.random.default_rng(seed).bytes(begin))
    return path


def read(path):
    """Names to rows of bytes, and the metadata."""
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    rows = {t.name: np.frombuffer(data[t.begin : t.end], np.uint8).reshape(t.shape[0], -1) for t in header.tensors}
    return rows, header.metadata


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


@pytest.fixture
def convert(monkeypatch, capsys, config):
    """Run the command; exit code, standard output, standard error."""

    def call(source, target, *options, to="interleaved", config=config):
        arguments = [str(source), str(target), "--config", str(config), "--to", to, *options]
        monkeypatch.setattr(sys, "argv", ["posenc", "convert-layout", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        written = capsys.readouterr()
        return exit_.value.code or 0, written.out, written.err

    return call


def refused(result, message):
    code, out, err = result
    assert message in err
    assert (code, out, err.count("\n"), err.startswith("posenc: ")) == (2, "", 1, True)


def test_queries_and_keys_move_and_nothing_else(convert, tmp_path):
    source = write(tmp_path / "in.safetensors", names(), {"format": "pt", "note": "ä"})
    code, out, err = convert(source, tmp_path / "out.safetensors")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Permuted 4 tensors, now interleaved:",
        "  'model.layers.{0-1}.self_attn.k_proj.weight'",
        "  'model.layers.{0-1}.self_attn.q_proj.weight'",
        "Copied 5 tensors. The config is not changed.",
    ]
    before, after = read(source)[0], read(tmp_path / "out.safetensors")[0]
    assert list(before) == list(after)
    for name in before:
        moved = "q_proj" in name or "k_proj" in name
        channels = HALF_TO_INTERLEAVED if moved else range(8)
        rows = [head + channel for head in range(0, len(before[name]), 8) for channel in channels]
        assert np.array_equal(after[name], before[name][rows] if moved else before[name])
    metadata = {"format": "pt", "note": "ä", "posenc.layout": "interleaved", "posenc.version": __version__}
    with safe_open(tmp_path / "out.safetensors", "np") as file:  # the reference reader agrees
        assert file.metadata() == metadata
        assert set(file.keys()) == set(before)
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", "out.safetensors", "config.json"}


@pytest.mark.parametrize("dtype", ["F64", "BF16", "F8_E4M3", "I8", "F4"])
def test_there_and_back_is_byte_identical_but_for_the_metadata(convert, tmp_path, dtype):
    source = write(tmp_path / "in.safetensors", names(), dtype=dtype)
    assert convert(source, tmp_path / "there.safetensors")[0] == 0
    assert convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", to="half")[0] == 0
    there, back = (tmp_path / f"{name}.safetensors" for name in ("there", "back"))
    tail = source.read_bytes()[read_header(source).data_start :]
    assert back.read_bytes()[read_header(back).data_start :] == tail
    assert there.read_bytes()[read_header(there).data_start :] != tail
    assert read_header(back).tensors == read_header(source).tensors
    assert dict(read_header(back).metadata) == {"posenc.layout": "half", "posenc.version": __version__}
    assert read_header(back).data_start % 8 == 0


def test_a_second_time_is_refused(convert, tmp_path):
    source = write(tmp_path / "in.safetensors", names())
    there = tmp_path / "there.safetensors"
    refused(
        convert(source, there, to="half"), "expected weights that are not half yet, received half ones, as the config"
    )
    assert convert(source, there)[0] == 0
    refused(convert(there, tmp_path / "twice"), "received interleaved ones, as the file records")
    refused(convert(there, tmp_path / "twice", "--from", "half"), "expected --from interleaved, which the file records")
    refused(convert(source, tmp_path / "x", "--from", "interleaved"), "received interleaved ones, as was said")
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize("to", ["half", "interleaved"])
def test_names_of_meta_need_a_word(convert, tmp_path, to):
    """Meta's own files are interleaved where the config of the same model says half."""
    shapes = {f"layers.0.attention.{name}.weight": (rows, 32) for name, rows in (("wq", 32), ("wk", 16), ("wv", 16))}
    source = write(tmp_path / "in.safetensors", shapes)
    refused(convert(source, tmp_path / "out", to=to), "expected --from half or --from interleaved with names like wq")
    present = "half" if to == "interleaved" else "interleaved"
    assert convert(source, tmp_path / "out", "--from", present, to=to)[0] == 0
    assert read_header(tmp_path / "out").metadata["posenc.layout"] == to


def test_a_model_type_that_is_not_known_needs_a_word(convert, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(LLAMA | {"model_type": "internlm2"}))
    shapes = {"model.layers.0.attention.wqkv.weight": (64, 3), "model.layers.0.attention.wo.weight": (3, 32)}
    source = write(tmp_path / "in.safetensors", shapes)
    refused(convert(source, tmp_path / "out", config=other), "expected --from half or --from interleaved, since posenc")
    assert convert(source, tmp_path / "out", "--from", "half", config=other)[0] == 0
    rows, moved = read(source)[0], read(tmp_path / "out")[0]
    q_q_k_v = [HALF_TO_INTERLEAVED] * 3 + [range(8)]  # for each of two key heads
    order = [8 * head + channel for head in range(8) for channel in q_q_k_v[head % 4]]
    assert np.array_equal(
        moved["model.layers.0.attention.wqkv.weight"], rows["model.layers.0.attention.wqkv.weight"][order]
    )


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", (96, 32), "no known name"),
        ("model.layers.0.cross_attn.q_proj.weight", (32, 32), "no known name"),
        ("model.layers.0.self_attn.indexer.wk.weight", (8, 32), "no known part of the attention of 'llama'"),
        ("model.layers.0.self_attn.qkv_proj.weight", (64, 32), "no known part"),
        ("model.layers.0.self_attn.scaling", (8,), "no known part"),
        ("model.layers.0.self_attn.q_proj.qweight", (4, 32), "32 in all, received 'qweight' of [4, 32]"),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", (1, 1, 2), "4 heads of 8 rows"),
        ("model.layers.0.self_attn.q_proj.weight", (64, 32), "32 in all, received 'weight' of [64, 32]"),
        ("model.layers.0.self_attn.k_proj.weight", (32, 32), "16 in all, received 'weight' of [32, 32]"),
        ("model.layers.1.self_attn.k_proj.weight", (16, 32), "layers.1.self_attn.v_proj.weight' beside it"),
        ("model.layers.0.self_attn.q_norm.weight", (16,), "expected 8 or 32 channels, received 'weight' of [16]"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(convert, tmp_path, name, shape, reason):
    source = write(tmp_path / "in.safetensors", names(1) | {name: shape})
    result = convert(source, tmp_path / "out")
    refused(result, name)
    assert reason in result[2]
    assert not (tmp_path / "out").exists()
    assert convert(source, tmp_path / "out", "--keep", name)[0] == 0  # unless it is said that it is none
    assert np.array_equal(read(tmp_path / "out")[0][name], read(source)[0][name])


def test_names_that_differ_in_numbers_are_one(convert, tmp_path):
    vision = {f"visual.blocks.{layer}.attn.{name}.weight": (8, 4) for layer in range(3) for name in ("q", "k")}
    source = write(tmp_path / "in.safetensors", names() | vision)
    _, _, err = convert(source, tmp_path / "out")
    assert "'visual.blocks.{0-2}.attn.q.weight' (no known name" in err
    refused(convert(source, tmp_path / "out", "--keep", "visul.*"), "expected a pattern that some tensor has")
    assert convert(source, tmp_path / "out", "--keep", "visual.*")[0] == 0


def test_nothing_to_do_is_refused(convert, tmp_path):
    source = write(tmp_path / "in.safetensors", {"lm_head.weight": (4, 4)})
    refused(convert(source, tmp_path / "out"), "expected query or key projections, received none")


def shards(folder, **metadata):
    folder.mkdir()
    parts = [dict(list(names().items())[:4]), dict(list(names().items())[4:])]
    files = {f"model-0000{index + 1}-of-00002.safetensors": part for index, part in enumerate(parts)}
    for seed, (file, part) in enumerate(files.items()):
        write(folder / file, part, {"format": "pt", **metadata.get(f"m{seed}", {})}, seed=seed)
    weight_map = {name: file for file, part in files.items() for name in part}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2)
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


@pytest.mark.parametrize("source", ["", "model.safetensors.index.json"])
def test_shards(convert, tmp_path, source):
    folder = shards(tmp_path / "in")
    assert convert(folder / source, tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in folder.iterdir())
    index = "model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (folder / index).read_bytes()
    for file in sorted(folder.glob("*.safetensors")):
        (before, _), (after, metadata) = read(file), read(tmp_path / "out" / file.name)
        assert metadata["posenc.layout"] == "interleaved"
        assert {name for name in before if not np.array_equal(before[name], after[name])} == {
            name for name in before if "q_proj" in name or "k_proj" in name
        }
    refused(convert(tmp_path / "out", tmp_path / "twice"), "as the file records")
    assert convert(tmp_path / "out", tmp_path / "back", to="half")[0] == 0
    for file in sorted(folder.glob("*.safetensors")):
        before, back = read(file)[0], read(tmp_path / "back" / file.name)[0]
        assert all(np.array_equal(before[name], back[name]) for name in before)


def test_shards_that_do_not_fit_together(convert, tmp_path):
    mixed = shards(tmp_path / "mixed", m0={"posenc.layout": "interleaved"})
    refused(
        convert(mixed, tmp_path / "out", to="half"), "expected files of one layout, received some of ['None', 'inter"
    )
    index = shards(tmp_path / "in") / "model.safetensors.index.json"
    record = json.loads(index.read_text())
    for change, message in (
        (
            {"lm_head.weight": "model-00001-of-00002.safetensors"},
            "model-00001-of-00002.safetensors lacks 'lm_head.weight'",
        ),
        ({"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}, "has 'model.embed_tokens.weight'"),
        ({"x": "../in.safetensors"}, "expected an index whose weight_map names .safetensors files beside it"),
        ({"x": 3}, "expected an index whose weight_map names"),
        ({"x": "\x1b[2J.safetensors"}, "expected an index whose weight_map names"),
        ({"\x1b[2J": "model-00001-of-00002.safetensors"}, r"lacks '\x1b[2J'"),
        ({"x": "model-00003-of-00003.safetensors"}, "No such file"),
    ):
        index.write_text(json.dumps(record | {"weight_map": record["weight_map"] | change}))
        refused(convert(index, tmp_path / "out"), message)
    index.write_text(json.dumps(record)[:-1] + ', "weight_map": {}}')
    refused(convert(index, tmp_path / "out"), "expected JSON, received 'weight_map' twice in one object")
    index.unlink()
    refused(convert(tmp_path / "in", tmp_path / "out"), "expected a folder with one *.safetensors.index.json or one")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_one_file(convert, tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "model.safetensors", names())
    assert convert(tmp_path / "in", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def bytes_of(text, rest):
    return struct.pack("<Q", len(text)) + text + rest


def damaged(*, text=lambda text: text, rest=lambda rest: rest, **entries):
    """A file with another header, as text or as JSON, or other bytes behind it."""

    def make(path):
        data = write(path, names(1)).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = data[8 : 8 + length]
        if entries:
            header = json.dumps(json.loads(header) | entries).encode()
        path.write_bytes(bytes_of(text(header), rest(data[8 + length :])))

    return make


def embedding(**values):
    """Other values for the tensor that stands first."""
    return damaged(
        **{"model.embed_tokens.weight": {"dtype": "F16", "shape": [11, 32], "data_offsets": [0, 704]} | values}
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "expected a safetensors file, whose first 8 bytes"),
        (lambda path: path.write_bytes(b"PK\x03\x04" * 99), "expected a safetensors file, whose first 8 bytes"),
        (
            lambda path: path.write_bytes(struct.pack("<Q", 10**8 + 1) + bytes(99)),
            "at most 100000000, received a file of",
        ),
        (lambda path: path.write_bytes(struct.pack("<Q", 100) + bytes(99)), "expected a safetensors file, whose first"),
        (damaged(rest=lambda rest: rest[:-1]), "as its header says, received one of"),
        (damaged(rest=lambda rest: rest + b"x"), "as its header says, received one of"),
        (damaged(text=lambda text: text[:-1]), "expected a header of JSON in UTF-8"),
        (damaged(text=lambda text: text.replace(b"embed", b"\xff\xfe")), "expected a header of JSON in UTF-8"),
        (damaged(text=lambda text: text and b"[" * 200_000), "expected a header of JSON in UTF-8"),
        (damaged(text=lambda text: text and b'{"a": ' + b"9" * 5000 + b"}"), "expected a header of JSON in UTF-8"),
        (damaged(text=lambda text: b" " + text), "expected a header that is a JSON object"),
        (damaged(text=lambda text: text and b"[1]"), "expected a header that is a JSON object"),
        (damaged(text=lambda text: text.replace(b"o_proj", b"q_proj")), "q_proj.weight' twice in one object"),
        (damaged(text=lambda text: text.replace(b'"dtype"', b'"dtype": "F16", "dtype"', 1)), "'dtype' twice"),
        (damaged(__metadata__={"a": 1}), "__metadata__: expected an object of strings"),
        (damaged(__metadata__=["a"]), "__metadata__: expected an object of strings"),
        (damaged(x=1), "'x': expected an object of dtype, shape and data_offsets"),
        (damaged(**{"\x1b[2J": 1}), r"'\x1b[2J': expected an object of dtype, shape and data_offsets"),
        (damaged(**{"\ud800": 1}), r"expected names and metadata in Unicode, received '\ud800'"),
        (damaged(__metadata__={"a": "\udc00"}), r"expected names and metadata in Unicode, received '\udc00'"),
        (embedding(more=1), "expected an object of dtype, shape and data_offsets"),
        (embedding(dtype="F12"), "expected a dtype from F4"),
        (embedding(dtype=["F16"]), "expected a dtype from F4"),
        (embedding(shape=[11, 33]), "expected 5808 bits, for F16 of the shape [11, 33]"),
        (embedding(shape=[-11, -32]), "expected a shape and two offsets"),
        (embedding(shape=[11.0, 32]), "expected a shape and two offsets"),
        (embedding(shape=[True, 352]), "expected a shape and two offsets"),
        (embedding(shape=[2**62] * 65), "expected a shape and two offsets"),
        (embedding(shape=[2**62] * 64), "bits, for F16 of the shape"),
        (embedding(data_offsets=[704, 0]), "expected a shape and two offsets"),
        (embedding(data_offsets=[0, 704, 704]), "expected a shape and two offsets"),
        (embedding(data_offsets=[1, 705]), "expected its bytes to begin at 0"),
        (embedding(shape=[10, 32], data_offsets=[0, 640]), "they leave a gap"),
        (embedding(shape=[12, 32], data_offsets=[0, 768]), "they overlap"),
        (embedding(data_offsets=[10**12, 10**12 + 704]), "expected its bytes to begin at 0"),
    ],
)
def test_broken_files_are_one_line(convert, tmp_path, make, message):
    make(tmp_path / "in.safetensors")
    refused(convert(tmp_path / "in.safetensors", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_one_line(convert, tmp_path, config):
    source = write(tmp_path / "in.safetensors", names())
    held = source.read_bytes()
    refused(convert(source, source), "expected a name that does not exist yet: nothing is overwritten")
    refused(convert(source, tmp_path / "out", to="neox"), "'neox' is not one of 'half', 'interleaved'")
    refused(convert(source, tmp_path / "out", "--from", "meta"), "'meta' is not one of 'half', 'interleaved'")
    refused(convert(tmp_path / "absent", tmp_path / "out"), "No such file")
    refused(convert(source, tmp_path / "no" / "out"), "No such file")
    refused(convert(source, tmp_path / "out", config=source), "expected JSON in in.safetensors")
    refused(convert(source, tmp_path / "out", config=tmp_path / "absent.json"), "absent.json")
    for change, message in (
        ({"num_attention_heads": 5}, "hidden_size"),
        ({"num_key_value_heads": 1.5}, "convert_layout.num_key_value_heads: expected an integer >= 1"),
        ({"num_key_value_heads": 4}, "4 heads of 8 rows, 32 in all, received 'weight' of [16, 32]"),
        ({"rope_theta": -1}, "rope_theta"),
    ):
        config.write_text(json.dumps(LLAMA | change))
        refused(convert(source, tmp_path / "out"), message)
    assert source.read_bytes() == held
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", "config.json"}


def test_help_lists_the_layouts(convert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = convert("in", "out", "--help")
    assert (code, out.count("half|interleaved")) == (0, 2)


def test_a_config_or_an_index_that_is_too_long(convert, tmp_path, config):
    folder = shards(tmp_path / "in")
    for path in (config, folder / "model.safetensors.index.json"):
        held = path.read_text()
        path.write_text(" " * 10**8 + held)
        refused(convert(folder, tmp_path / "out"), f"received {10**8 + len(held)} bytes, more than 100000000")
        path.write_text(held)


@pytest.mark.parametrize("kind", ["qkv_\x1b[2J.weight", "self_attn.q_proj.\x1b[2J", "self_attn.q_norm.\x1b[2J"])
def test_names_do_not_reach_the_terminal_as_they_are(convert, tmp_path, kind):
    source = write(tmp_path / "in.safetensors", names(1) | {f"model.layers.0.{kind}": (3, 4)})
    refused(convert(source, tmp_path / "out"), repr(f"model.layers.0.{kind}"))
    assert convert(source, tmp_path / "out")[2].strip().isprintable()


def test_a_composite_has_the_heads_of_its_text():
    """As `from_config` reads it: those at the top may be of the vision part."""
    attention = attention_by_layer({"model_type": "llava", "num_attention_heads": 16, "text_config": LLAMA})(0)
    assert (attention.model_type, attention.heads, attention.key_heads) == ("llama", 4, 2)


MOONSHINE = {"model_type": "moonshine", "hidden_size": 32, "partial_rotary_factor": 0.5, "rope_theta": 10000.0}
MOONSHINE |= {"decoder_num_attention_heads": 4, "decoder_num_key_value_heads": 2}


def test_heads_of_a_decoder_beside_an_encoder():
    same = {"encoder_num_attention_heads": 4, "encoder_num_key_value_heads": 2}
    for config in (MOONSHINE, MOONSHINE | same):
        attention = attention_by_layer(config)(0)
        assert (attention.heads, attention.key_heads, attention.plan.head_dim) == (4, 2, 8)
    for name in same:  # layers of one number have one number of heads here
        with pytest.raises(SpecError, match=f"^convert_layout.{name}: expected what decoder"):
            attention_by_layer(MOONSHINE | same | {name: 1})


def test_memory_is_bounded_by_one_head(convert, tmp_path):
    """A file of 200 MB, most of it a hole: 128 MB that are copied, 64 MB of queries in 4 heads."""
    width = 2**20
    shapes = {"lm_head.weight": (128, width), "model.layers.0.self_attn.q_proj.weight": (64, width)}
    shapes |= {"model.layers.0.self_attn.k_proj.weight": (8, width), "model.layers.0.self_attn.v_proj.weight": (8, 1)}
    source = write(tmp_path / "in.safetensors", dict.fromkeys(shapes, (0, 0)))
    entries, begin = {}, 0
    for name, shape in shapes.items():
        size = shape[0] * shape[1]
        entries[name] = {"dtype": "I8", "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(entries).encode()
    with source.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begin)
    config = tmp_path / "wide.json"
    config.write_text(json.dumps(LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8}))
    tracemalloc.start()
    try:
        code, _, _ = convert(source, tmp_path / "out", config=config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 0
    assert (tmp_path / "out").stat().st_size > begin > 200 * 10**6
    head = 8 * width
    assert peak < 4 * head  # what is read, what it was joined to, and the same of the head before


def interrupt(after):
    def announce(count):
        announce.left -= count
        if announce.left < 0:
            raise KeyboardInterrupt

    announce.left = after
    return announce


@pytest.mark.parametrize("after", [0, 1000, 5000])
@pytest.mark.parametrize("folder", [False, True])
def test_an_interrupted_run_leaves_nothing(tmp_path, config, after, folder):
    source = shards(tmp_path / "in") if folder else write(tmp_path / "in", names())
    prepared = checkpoint_layout.prepare(source, attention_by_layer(LLAMA), to="interleaved", by_config="half")
    with pytest.raises(KeyboardInterrupt):
        prepared.write(tmp_path / "out", interrupt(after))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "config.json"}
    prepared.write(tmp_path / "out")
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        prepared.write(tmp_path / "out")


@pytest.mark.parametrize("folder", [False, True])
def test_what_others_have_beside_it_stays(tmp_path, folder):
    """Names that a process of this number could have left: of a folder and of a file."""
    source = shards(tmp_path / "in") if folder else write(tmp_path / "in", names())
    prepared = checkpoint_layout.prepare(source, attention_by_layer(LLAMA), to="interleaved", by_config="half")
    one, two = (tmp_path / f".{name}.{os.getpid()}" for name in ("one", "two"))
    one.mkdir()
    (one / "theirs").touch()
    two.write_text("theirs")
    for name in ("one", "two"):
        prepared.write(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "one", "two", one.name, two.name}
    assert (one / "theirs").exists()
    assert two.read_text() == "theirs"


def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    source, target = write(tmp_path / "in", names()), tmp_path / "out"
    prepared = checkpoint_layout.prepare(source, attention_by_layer(LLAMA), to="interleaved", by_config="half")
    look = os.path.lexists

    def late(path):
        """It is made right after somebody looked a second time, or when it is linked."""
        late.looks += 1
        answer = look(path)
        if late.looks == 2:
            target.write_text("theirs")
        return answer

    late.looks = 0
    link = os.link

    def linked(*names):
        target.write_text("theirs")
        link(*names)

    monkeypatch.setattr(os.path, "lexists", late)
    monkeypatch.setattr(os, "link", linked)
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        prepared.write(target)
    assert target.read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    source = write(tmp_path / "in", names())
    prepared = checkpoint_layout.prepare(source, attention_by_layer(LLAMA), to="interleaved", by_config="half")
    prepared.write(tmp_path / "linked")
    monkeypatch.setattr(os, "link", refuse)
    prepared.write(tmp_path / "renamed")
    assert (tmp_path / "renamed").read_bytes() == (tmp_path / "linked").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "linked", "renamed"}


def test_reports_are_written_beside_what_others_have(tmp_path):
    other = tmp_path / f".check.xml.{os.getpid()}"
    other.write_text("theirs")
    cli._write(tmp_path / "check.xml", "ours")
    (tmp_path / "usual").touch()
    assert (other.read_text(), (tmp_path / "check.xml").read_text()) == ("theirs", "ours")
    assert (tmp_path / "check.xml").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(UnicodeEncodeError):
        cli._write(tmp_path / "check.xml", "\ud800")
    assert {path.name for path in tmp_path.iterdir()} == {"check.xml", "usual", other.name}
    assert (tmp_path / "check.xml").read_text() == "ours"


def test_a_file_that_shrinks_meanwhile_leaves_nothing(tmp_path):
    source = write(tmp_path / "in", names())
    prepared = checkpoint_layout.prepare(source, attention_by_layer(LLAMA), to="interleaved", by_config="half")
    os.truncate(source, source.stat().st_size - 10)
    with pytest.raises(CheckpointError, match="the file has changed"):
        prepared.write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 2), ("SIGTERM", 15)])
def test_a_signal_leaves_nothing(tmp_path, config, name, number):
    """In the middle of a real run, on a terminal: the exit code of the signal, no traceback, nothing left."""
    source = write(tmp_path / "in.safetensors", names())
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it, and hands that down
from rich.console import Console
from posenc import cli
from posenc.interop import checkpoint_layout
read, seen = checkpoint_layout._read, []
def slow(*arguments):
    seen.append(1)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.{name})
    return read(*arguments)
checkpoint_layout._read = slow
sys.argv = ["posenc", "convert-layout", {str(source)!r}, {str(tmp_path / "out")!r}, "--config", {str(config)!r}]
sys.argv += ["--to", "interleaved"]
cli.main()
"""
    surroundings = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=surroundings)
    assert run.returncode in (128 + number, -number)
    assert "converting" in run.stderr
    assert "Traceback" not in run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", "config.json"}
