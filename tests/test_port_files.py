"""Ports from file to file: every pair of formats bit for bit, what other readers make of them, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import struct
import subprocess
import sys
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from posenc import Rope, SpecError, __version__
from posenc.interop import port_files
from posenc.interop.checkpoints import apply, contents
from posenc.interop.keras_writing import boxes
from posenc.interop.port_files import port, prepared
from posenc.interop.port_plan import Move, Plan, Rotary
from posenc.interop.safetensors_header import CheckpointError, read_header
from posenc.interop.tensor_files import open_source

FORMATS = (".safetensors", ".npz", ".weights.h5", ".keras")
KERAS = (".weights.h5", ".keras")
WHERE = "layers/{}/vars/{}"
HALF = Rope(head_dim=8, base=10000.0, layout="half")


def model(seed):
    """A model of Keras with weights in three dtypes, and an optimizer that keeps state."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    parts = [layers.Dense(5), layers.Dense(3, dtype="bfloat16"), layers.Dense(2, dtype="float16")]
    made = keras.Sequential([keras.Input((4,)), *parts])
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of two models with different numbers: `source` and `template`, in the four formats."""
    folder = tmp_path_factory.mktemp("saved")
    for seed, name in enumerate(("source", "template")):
        made = model(seed)
        made.save_weights(folder / f"{name}.weights.h5")
        made.save(folder / f"{name}.keras")
        arrays = held(folder / f"{name}.weights.h5")
        save_file(arrays, folder / f"{name}.safetensors", {"format": "np"})
        np.savez(folder / f"{name}.npz", **{key: widened(array) for key, array in arrays.items()})
    return folder


def held(path):
    """Every tensor of a file by name, in memory."""
    with open_source(path) as source:
        return {name: np.array(source.read(name)) for name in source.entries}


def widened(array):
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def same(expected, received):
    assert set(expected) == set(received)
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (received[name].dtype, received[name].shape)
        assert array.tobytes() == received[name].tobytes(), name


def all_of(*, narrow=None, wide=None):
    """A plan that moves everything to the same name; the layer in bfloat16 by a cast, if there is to be one."""
    narrowed = [WHERE.format("dense_1", "{i}"), *(f"optimizer/vars/{i}" for i in (6, 7, 8, 9))]
    rest = [WHERE.format(layer, "{i}") for layer in ("dense", "dense_2")]
    rest += [f"optimizer/vars/{i}" for i in (*range(6), *range(10, 14))]
    cast = {"dtype": narrow or wide}
    return Plan((*(Move(name, name) for name in rest), *(Move(name, name, **cast) for name in narrowed)))


def template(saved, suffix):
    return {"template": saved / f"template{suffix}"} if suffix in KERAS else {}


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_there_and_back_is_bit_identical(saved, tmp_path, first, second):
    """NumPy's files have no bfloat16: it goes there as float32, which has every one of its numbers."""
    there, back = tmp_path / f"there{second}", tmp_path / f"back{first}"
    wide, narrow = ("float32" if suffix == ".npz" else None for suffix in (second, first))
    to = "bfloat16" if first == ".npz" and second != ".npz" else wide
    port(all_of(narrow=to), saved / f"source{first}", there, **template(saved, second))
    narrow = narrow or ("bfloat16" if second == ".npz" else None)
    port(all_of(narrow=narrow), there, back, **template(saved, first))
    same(held(saved / f"source{first}"), held(back))
    if ".npz" not in (first, second):
        same(held(saved / f"source{first}"), held(there))
    assert {path.name for path in tmp_path.iterdir()} == {there.name, back.name}


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_readers_agree(saved, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    expected = held(saved / "source.safetensors")
    port(
        all_of(narrow="float32" if suffix == ".npz" else None),
        saved / "source.keras",
        path,
        template=saved / f"template{suffix}",
    )
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            same({name: widened(array) for name, array in expected.items()}, dict(file))
    elif suffix == ".safetensors":
        import safetensors.torch

        same(expected, load_file(path))
        tensors = safetensors.torch.load_file(path)
        assert tensors["layers/dense_1/vars/0"].dtype == torch.bfloat16
        sizes = [array.dtype.itemsize for array in (expected[t.name] for t in read_header(path).tensors)]
        assert sizes == sorted(sizes, reverse=True)
        assert dict(read_header(path).metadata) == {"format": "np", "posenc.version": __version__}
    else:
        wanted = model(0)
        received = model(1)
        if suffix == ".keras":
            received = keras.saving.load_model(path)
        else:
            received.load_weights(path)
        for one, other in zip(wanted.weights, received.weights, strict=True):
            assert keras.ops.convert_to_numpy(one).tobytes() == keras.ops.convert_to_numpy(other).tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_kept_is_what_the_template_has(saved, tmp_path, suffix):
    moved = Move(WHERE.format("dense", "{i}"), WHERE.format("dense", "{i}"))
    others = {"optimizer/vars/{i}": "fresh", WHERE.format("dense_1", "{i}"): "b", WHERE.format("dense_2", "{i}"): "c"}
    source = saved / "source.npz"
    steps = port(
        Plan((moved,), left_out=others, kept=others),
        source,
        tmp_path / f"out{suffix}",
        template=saved / f"template{suffix}",
    )
    assert {step.target for step in steps} == {WHERE.format("dense", i) for i in range(2)}
    expected = held(saved / f"template{suffix}") | {step.target: held(source)[step.source] for step in steps}
    same(expected, held(tmp_path / f"out{suffix}"))
    with pytest.raises(CheckpointError, match="expected a target that has the tensors to be kept, received none"):
        port(Plan((moved,), left_out=others, kept=others), source, tmp_path / "none.npz")


def test_files_of_a_template_in_a_keras_archive_stay(saved, tmp_path):
    packed = tmp_path / "packed.keras"
    with zipfile.ZipFile(saved / "template.keras") as old, zipfile.ZipFile(packed, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
        new.writestr("assets/layers/words.txt", "one\ntwo\n", zipfile.ZIP_DEFLATED)
    port(all_of(), saved / "source.safetensors", tmp_path / "out.keras", template=packed)
    port(all_of(), saved / "source.safetensors", tmp_path / "out.weights.h5", template=packed)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(tmp_path / "out.keras") as new:
        assert new.testzip() is None
        assert new.namelist() == old.namelist()
        assert all(old.read(name) == new.read(name) for name in old.namelist() if name != "model.weights.h5")
        assert new.getinfo("model.weights.h5").compress_type == zipfile.ZIP_STORED
        assert new.getinfo("assets/layers/words.txt").compress_type == zipfile.ZIP_DEFLATED
    for name in ("out.keras", "out.weights.h5"):
        same(held(saved / "source.safetensors"), held(tmp_path / name))
    same(held(saved / "template.keras"), held(packed))  # read though it is compressed


ARRAYS = {
    "c": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3, 2**40), np.float32),
    "scalar": np.array(2.5, np.float16),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_are_read_as_numpy_reads_them(tmp_path, save):
    save(tmp_path / "in.npz", **ARRAYS)
    same(ARRAYS, held(tmp_path / "in.npz"))
    plan = Plan(tuple(Move(name, f"new.{name}") for name in ARRAYS))
    for target in ("out.npz", "out.safetensors"):
        port(plan, tmp_path / "in.npz", tmp_path / target)
        same({f"new.{name}": array for name, array in ARRAYS.items()}, held(tmp_path / target))
    assert {path.name for path in tmp_path.iterdir()} == {"in.npz", "out.npz", "out.safetensors"}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        same({f"new.{name}": array for name, array in ARRAYS.items()}, dict(file))


def test_datasets_are_read_however_they_are_stored(tmp_path):
    """Behind bytes of a user, compressed, in the header, and where nothing was ever written."""
    array = np.random.default_rng(0).normal(size=(70, 33)).astype(ml_dtypes.bfloat16)
    path = tmp_path / "in.weights.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, options in (("plain", {}), ("packed", {"chunks": (8, 5), "compression": "gzip"})):
            file.create_dataset(f"a/{name}", data=array, **options).attrs["dtype"] = "bfloat16"
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        compact = h5py.h5d.create(file["a"].id, b"compact", h5py.h5t.NATIVE_FLOAT, space, layout)
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.float32([1, 2, 3]))
        file.create_dataset("a/never", shape=(300, 400), dtype="f4", fillvalue=7.0)
        file.create_dataset("a/scalar", data=np.float64(3))
        file.create_dataset("a/empty", shape=(0, 4), dtype="i8")
    expected = {"a/plain": array, "a/packed": array, "a/compact": np.float32([1, 2, 3]), "a/scalar": np.array(3.0)}
    expected |= {"a/never": np.full((300, 400), 7, np.float32), "a/empty": np.zeros((0, 4), np.int64)}
    same(expected, held(path))
    plan = Plan(tuple(Move(name, name) for name in expected))
    port(plan, path, tmp_path / "mid.safetensors")
    port(plan, tmp_path / "mid.safetensors", tmp_path / "out.weights.h5", template=path)
    same(expected, held(tmp_path / "out.weights.h5"))


@given(shape=st.lists(st.integers(1, 5), max_size=4).map(tuple), cuts=st.lists(st.integers(0, 625), max_size=4))
def test_boxes_are_what_is_between_two_places_in_order(shape, cuts):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    places = sorted({0, array.size, *(cut for cut in cuts if cut < array.size)})
    for start, stop in itertools.pairwise(places):
        parts = list(boxes(shape, start, stop))
        assert all(array[box].shape == size for box, size in parts)
        assert np.concatenate([array[box].ravel() for box, _ in parts]).tolist() == list(range(start, stop))
        assert len(parts) <= max(1, 2 * len(shape) - 1)


def shards(folder, *records):
    """One tensor a file, and an index."""
    folder.mkdir()
    names = {f"t{i}": f"m-{i}.safetensors" for i in range(len(records))}
    for (name, file), metadata in zip(names.items(), records, strict=True):
        save_file({name: np.full((3,), 5.0)}, folder / file, metadata)
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_shards_become_one_file(tmp_path):
    folder = shards(tmp_path / "in", None, {"a": "b"})
    plan = Plan((Move("t{i}", "t{i}"),))
    for number, source in enumerate((folder, folder / "m.safetensors.index.json", str(folder))):
        port(plan, source, tmp_path / f"{number}.npz")
        assert set(held(tmp_path / f"{number}.npz")) == {"t0", "t1"}
    mixed = shards(tmp_path / "mixed", {"posenc.layout": "half"}, None)
    with pytest.raises(CheckpointError, match="expected files of one layout, received differing ones"):
        port(plan, mixed, tmp_path / "out.npz")
    (folder / "m.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="expected a folder with one"):
        port(plan, folder, tmp_path / "out.npz")


def turned(to="interleaved", spec=HALF, name="q"):
    return Move(name, name, rotary=Rotary(spec, to=to, heads=2))


def test_the_layout_is_recorded_and_held_against_the_plan(tmp_path):
    rows = np.arange(16)[:, None] * np.ones(3)
    save_file({"q": rows, "k": rows}, tmp_path / "in.safetensors")
    both = Plan((turned(), turned(name="k")))
    port(both, tmp_path / "in.safetensors", tmp_path / "once.safetensors")
    metadata = read_header(tmp_path / "once.safetensors").metadata
    assert metadata == {"posenc.layout": "interleaved", "posenc.version": __version__}
    assert held(tmp_path / "once.safetensors")["q"][:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    message = "once.safetensors: expected weights that are half, as the plan says, but it records interleaved"
    with pytest.raises(CheckpointError, match=message):
        port(both, tmp_path / "once.safetensors", tmp_path / "twice.safetensors")
    message = "half.safetensors: expected weights that become interleaved, as the plan says, but it records half"
    save_file({"q": rows, "k": rows}, tmp_path / "half.safetensors", {"posenc.layout": "half"})
    with pytest.raises(CheckpointError, match=message):
        port(both, tmp_path / "in.safetensors", tmp_path / "x.npz", template=tmp_path / "half.safetensors")
    # two layouts are none, and where nothing turns the record goes along
    other = Move("k", "k", rotary=Rotary(Rope(8, base=100.0, layout="half"), to="half", heads=2))
    port(Plan((turned(), other)), tmp_path / "in.safetensors", tmp_path / "two.safetensors")
    assert read_header(tmp_path / "two.safetensors").metadata == {"posenc.version": __version__}
    plain = Plan(tuple(Move(name, name, plain="stays") for name in "qk"))
    port(plain, tmp_path / "once.safetensors", tmp_path / "same.safetensors")
    assert read_header(tmp_path / "same.safetensors").metadata == metadata


def refused(path, message):
    with pytest.raises(CheckpointError) as error:
        held(path)
    text = str(error.value)
    assert message in text
    assert (text.startswith(str(path)), text.count("\n")) == (True, 0)


def test_files_that_are_not_of_keras_are_one_sentence(saved, tmp_path):
    for name, content, message in (
        ("a.weights.h5", b"", "expected an HDF5 file, received"),
        ("a.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "expected an HDF5 file, received"),
        ("a.weights.h5", (saved / "source.weights.h5").read_bytes()[:-1], "expected an HDF5 file, received"),
        ("a.keras", b"", "expected a zip archive, received"),
        ("a.keras", (saved / "source.weights.h5").read_bytes(), "expected a zip archive, received"),
        ("a.keras", (saved / "source.npz").read_bytes(), "expected a member 'model.weights.h5', received layers/"),
        ("a.weights.json", b"{}", "expected Keras weights in one file, received an index of shards"),
        ("a.h5", b"", "expected a safetensors file, an index or a folder of one, .npz, .weights.h5 or .keras"),
        ("a", b"", "received a name without a suffix"),
        ("a.msgpack", b"", "received a pickle or what may be one"),
        ("a.safetensors", b"", "expected a safetensors file"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, message)
    with pytest.raises(FileNotFoundError), open_source(tmp_path / "absent.npz"):
        pass


def test_targets_that_cannot_be_are_refused_first(saved, tmp_path):
    arrays = {"b": np.zeros(2, ml_dtypes.bfloat16), "f": np.zeros(2, ml_dtypes.float8_e5m2)}
    save_file(arrays, tmp_path / "in.safetensors")
    np.savez(tmp_path / "in.npz", z=np.zeros(2, np.complex128))
    b, f = Plan((Move("b", "b"),), left_out={"f": "x"}), Plan((Move("f", "f"),), left_out={"b": "x"})
    odd = Plan((Move("b", "\ud800"), Move("f", "f")))
    reserved = Plan((Move("b", "__metadata__"), Move("f", "f")))
    evil = tmp_path / "evil.keras"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../evil", "")
    source = tmp_path / "in.safetensors"
    there = sorted(path.name for path in tmp_path.iterdir())
    for plan, source_, target, template_, message in (
        (b, source, "o.npz", None, "or dtype='float32' in the move, or a target in safetensors, received bfloat16"),
        (f, source, "o.npz", None, "received float8_e5m2, which .npz does not have"),
        (Plan((Move("z", "z"),)), tmp_path / "in.npz", "o.safetensors", None, "received complex128"),
        (odd, source, "o.safetensors", None, r"expected names in Unicode but __metadata__, received '\\ud800'"),
        (reserved, source, "o.safetensors", None, "received '__metadata__'"),
        (b, source, "o.weights.h5", None, "expected a template in .weights.h5 or .keras, saved from the model"),
        (
            b,
            source,
            "o.keras",
            None,
            "expected a template in .keras, saved from the model that is to read it, received",
        ),
        (b, source, "o.keras", saved / "template.weights.h5", "received 'template.weights.h5'"),
        (b, source, "o.keras", evil, "expected config.json, metadata.json, model.weights.h5 and assets, received"),
        (b, source, "o.weights.h5", saved / "template.weights.h5", "expected a name that the target has"),
        (b, source, "o.pt", None, "expected a name that ends in .safetensors, .npz, .weights.h5, .keras, received"),
        (b, source, "o", None, "expected a name that ends in"),
        (b, source, "in.npz", None, "expected a name that does not exist yet"),
        (Plan(()), source, "o.npz", None, "expected a move or a reason in left_out"),
    ):
        with pytest.raises(CheckpointError, match=message):
            port(plan, source_, tmp_path / target, template=template_)
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    with pytest.raises(ValueError, match=r"port.plan: expected Plan\(...\), received 'plan'"):
        port("plan", source, tmp_path / "o.npz")


@pytest.mark.parametrize("after", [0, 100])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_port_leaves_nothing(saved, tmp_path, suffix, after, error):
    before = {path: path.read_bytes() for path in saved.iterdir()}
    left = [after]

    def announce(count):
        left[0] -= count
        if left[0] < 0:
            raise error

    plan = all_of(narrow="float32" if suffix == ".npz" else None)
    target = tmp_path / f"out{suffix}"
    with pytest.raises(error):
        port(plan, saved / "source.keras", target, announce=announce, **template(saved, suffix))
    assert list(tmp_path.iterdir()) == []
    seen = []
    steps = port(plan, saved / "source.keras", target, announce=seen.append, **template(saved, suffix))
    with prepared(plan, saved / "source.keras", tmp_path / f"dry{suffix}", **template(saved, suffix)) as ready:
        assert (ready.size, ready.steps) == (sum(seen), steps)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        port(plan, saved / "source.keras", target, **template(saved, suffix))
    assert before == {path: path.read_bytes() for path in saved.iterdir()}


FULL = """
import resource, sys
from posenc.interop.port_files import port
from posenc.interop.port_plan import Plan
limit, plan, source, target, template = *sys.argv[1:], *[None] * (6 - len(sys.argv))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    port(Plan.from_json(plan), source, target, template=template)
except OSError as error:
    print("refused", error)
"""


def apart(code, *arguments):
    """What a program with limits of its own prints."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    return run.stdout.strip() or run.stderr


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_nothing(saved, tmp_path, suffix):
    """Writing past a limit of the process fails as it does past the end of a disk."""
    plan = all_of(narrow="float32" if suffix == ".npz" else None)
    arguments = [plan.to_json(), str(saved / "source.safetensors"), str(tmp_path / f"out{suffix}")]
    arguments += [str(saved / f"template{suffix}")] * (suffix in KERAS)
    for limit in ("9000", "24500") if suffix == ".keras" else ("600", "1900"):
        said = apart(FULL, limit, *arguments)
        assert said.startswith("refused")
        assert suffix in KERAS or said.endswith(f"File too large: {str(tmp_path / f'out{suffix}')!r}")
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_within_a_dataset_leaves_nothing(tmp_path):
    """The template has not claimed the room that its dataset needs: HDF5 finds out as it writes, and as it closes."""
    save_file({"w": np.ones((1000, 70), np.float32)}, tmp_path / "in.safetensors")
    with h5py.File(tmp_path / "template.weights.h5", "w") as file:
        file.create_dataset("w", shape=(1000, 70), dtype="f4")
    names = [str(tmp_path / name) for name in ("in.safetensors", "out.weights.h5", "template.weights.h5")]
    assert apart(FULL, "100000", Plan((Move("w", "w"),)).to_json(), *names).startswith("refused")
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", "template.weights.h5"}


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_a_full_disk_is_no_fault_of_what_is_unpacked_there(tmp_path, suffix):
    """It was reported as damage of the source, and killed the process where the disk had no room for a whole map."""
    values, target = np.zeros((500, 1000), np.float32), str(tmp_path / "out.safetensors")
    source = tmp_path / f"in{suffix}"
    with h5py.File(tmp_path / "in.weights.h5", "w") as file:
        file.create_dataset("w", data=values, chunks=(100, 1000), compression=None if suffix == ".keras" else "gzip")
    if suffix == ".keras":
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "in.weights.h5", "model.weights.h5")
    if suffix == ".npz":
        np.savez_compressed(source, w=values)
    there = sorted(tmp_path.iterdir())
    said = apart(FULL, "1000000", Plan((Move("w", "w"),)).to_json(), str(source), target)
    assert said.startswith("refused [Errno 27] File too large")
    assert sorted(tmp_path.iterdir()) == there


def test_a_file_that_shrinks_meanwhile_leaves_nothing(saved, tmp_path):
    source = tmp_path / "in.safetensors"
    source.write_bytes((saved / "source.safetensors").read_bytes())
    with prepared(all_of(), source, tmp_path / "out.safetensors") as ready:
        os.truncate(source, source.stat().st_size - 10)
        with pytest.raises(CheckpointError, match="it has changed"):
            ready.write()
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_results_that_are_too_short_are_not_written(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(port_files, "blocks", lambda *_: iter(()))
    with pytest.raises(CheckpointError, match="more bytes, received none"):
        port(all_of(), saved / "source.safetensors", tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def mutated(data, seed):
    """A file cut off, or with some bytes changed: single ones, sizes at their limits, parts of elsewhere."""
    draw = random.Random(seed)  # noqa: S311
    data = bytearray(data)
    if draw.random() < 0.2:
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice([1, 2, 8])):
        place, other = draw.randrange(len(data)), draw.randrange(len(data))
        words = (bytes([draw.randrange(256)]), b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", data[other : other + 8])
        word = draw.choice(words)
        data[place : place + len(word)] = word
    return bytes(data)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_refused_or_read(saved, tmp_path, suffix):
    """Nothing but CheckpointError and OSError comes out; what is read without either has the entries that it says."""
    original = (saved / f"source{suffix}").read_bytes()
    outcomes = []
    path = tmp_path / f"in{suffix}"
    for seed in range(400):
        path.write_bytes(mutated(original, seed))
        try:
            with open_source(path, tmp_path) as source:
                for name, entry in source.entries.items():
                    array = source.read(name)
                    assert array.shape == entry.shape
                    if array.nbytes < 2**20:
                        array.tobytes()
            outcomes.append("read")
        except (CheckpointError, OSError) as error:
            outcomes.append("two lines" if "\n" in str(error) else "refused")
    assert {"read", "refused"} == set(outcomes)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


LIMIT = 200 * 2**20
STREAMED = """
import json, resource, sys
from posenc.interop import port_files
from posenc.interop.checkpoints import apply, contents
from posenc.interop.port_plan import Move, Plan
source, target, template, whole = json.loads(sys.argv[1])
if whole:
    def blocks(step, array):
        import numpy as np
        yield np.ascontiguousarray(np.array(array).transpose(step.move.axes)).reshape(-1)
    port_files.blocks = blocks
with open("/proc/self/status") as status:
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + %d, used + %d))
try:
    port_files.port(Plan((Move("w", "w", axes=(1, 0)),)), source, target, template=template)
except MemoryError:
    print("memory")
else:
    print("written")
""" % (LIMIT, LIMIT)  # noqa: UP031 - braces stay as they are
ROWS, COLUMNS = 2**13, 2**13 + 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """256 MiB in one tensor, most of it a hole, with numbers at the ends and in between; and a template for it."""
    folder = tmp_path_factory.mktemp("large")
    size = ROWS * COLUMNS * 4
    text = json.dumps({"w": {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, size]}}).encode()
    with (folder / "in.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + size)
    with open_source(folder / "in.safetensors") as source:
        offset = read_header(folder / "in.safetensors").data_start
        assert source.entries["w"].shape == (ROWS, COLUMNS)
    array = np.memmap(folder / "in.safetensors", np.float32, "r+", offset, (ROWS, COLUMNS))
    for number, place in enumerate(PLACES, 1):
        array[place] = number
    array.flush()
    with h5py.File(folder / "template.weights.h5", "w") as file:
        file.create_dataset("w", shape=(COLUMNS, ROWS), dtype="f4")
    yield folder
    for path in folder.iterdir():
        path.unlink()


PLACES = ((0, 0), (1, 2), (ROWS - 1, 0), (ROWS // 2 + 1, COLUMNS // 3), (ROWS - 1, COLUMNS - 1))


@pytest.mark.parametrize(
    ("target", "whole"), [("o.safetensors", False), ("o.npz", False), ("o.weights.h5", False), ("o.safetensors", True)]
)
def test_a_tensor_larger_than_memory(large, tmp_path, target, whole):
    """Within 200 MiB more than the imports take, of one of 256: transposed, which fails where it is read whole."""
    assert ROWS * COLUMNS * 4 > LIMIT
    template_ = str(large / "template.weights.h5") if target.endswith("h5") else None
    arguments = json.dumps([str(large / "in.safetensors"), str(tmp_path / target), template_, whole])
    assert apart(STREAMED, arguments) == ("memory" if whole else "written")
    assert [path.name for path in tmp_path.iterdir()] == ([] if whole else [target])
    if not whole:
        with open_source(tmp_path / target) as source:
            array = source.read("w")
            assert array.shape == (COLUMNS, ROWS)
            assert [array[column, row] for row, column in PLACES] == [1, 2, 3, 4, 5]
        (tmp_path / target).unlink()


@pytest.mark.parametrize("name", ["source", "target", "template"])
def test_what_is_no_path_is_refused_by_name(name, tmp_path):
    paths = {"source": tmp_path, "target": tmp_path / "out.npz", "template": None} | {name: {"a": np.zeros(1)}}
    with pytest.raises(
        SpecError, match=rf"port.{name}: expected a path, as states in memory are for apply, received dict"
    ):
        port(Plan([Move("a", "b")]), paths["source"], paths["target"], template=paths["template"])


def test_a_name_of_no_file_is_said_so(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"gpt2: expected a file or folder on this machine, received a name of none"
    ):
        port(Plan([Move("a", "b")]), "gpt2", tmp_path / "out.npz")
    with pytest.raises(CheckpointError, match=r"contents.checkpoint: expected a file or folder on this machine"):
        contents("gpt2")
    with pytest.raises(
        CheckpointError, match=r"apply.target: expected a state in memory, as files are written by port"
    ):
        apply(Plan([Move("a", "b")]), {"a": np.zeros(1)}, tmp_path / "out.npz")
