"""Files that are none, are damaged or do harm: one sentence each, and no pickle is ever opened."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch

from posenc.interop.port_files import port
from posenc.interop.port_plan import Move, Plan
from posenc.interop.safetensors_header import CheckpointError
from posenc.interop.tensor_files import open_source


def held(path):
    """Every tensor of a file by name, in memory."""
    with open_source(path) as source:
        return {name: np.array(source.read(name)) for name in source.entries}


class Run:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.ckpt", "m.pkl", "m.pickle", "m.safetensors", "m.npz"])
def test_pickles_are_never_opened(tmp_path, name, protocol):
    path = tmp_path / name
    for content in (pickle.dumps(Run(tmp_path / "ran"), protocol), b"anything"):
        path.write_bytes(content)
        if content != b"anything" or name not in ("m.safetensors", "m.npz"):
            refused(path, "received a pickle or what may be one, which runs code as it is read and is never unpickled")
    torch.save({"w": torch.zeros(2)}, path)
    refused(path, "safetensors.torch.save_file")
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    refused(path, "safetensors.torch.save_file")
    assert not (tmp_path / "ran").exists()


def test_a_header_that_begins_like_a_pickle_is_none(tmp_path):
    """640 bytes of header: the file begins with 80 02."""
    entry = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    text = json.dumps(entry).encode().ljust(640)
    (tmp_path / "in.safetensors").write_bytes(struct.pack("<Q", 640) + text + b"\x07")
    assert (tmp_path / "in.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert held(tmp_path / "in.safetensors")["a"].tolist() == [7]


def refused(path, message):
    with pytest.raises(CheckpointError) as error:
        held(path)
    text = str(error.value)
    assert message in text
    assert (text.startswith(str(path)), text.count("\n")) == (True, 0)


def npy(array=None, header=None, version=b"\x01\x00"):
    """An array in NumPy's format, or one with this header."""
    text = (header or repr({"descr": "<f4", "fortran_order": False, "shape": (2,)})).encode()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + (bytes(8) if array is None else array)


def member(name="a.npy", content=None, **options):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, npy() if content is None else content, **options)

    return make


def savez(**arrays):
    return lambda path: np.savez(path, **arrays)


def header(**values):
    return member(content=npy(header=repr({"descr": "<f4", "fortran_order": False, "shape": (2,)} | values)))


def twice(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy())


def changed(find, replacement, make=None):
    """The file with other bytes, as many."""

    def change(path):
        (make or member())(path)
        data = path.read_bytes()
        assert find in data
        assert len(find) == len(replacement)
        path.write_bytes(data.replace(find, replacement))

    return change


def encrypted(path):
    member()(path)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "expected a zip archive, received"),
        (lambda path: path.write_bytes(b"PK\x03\x04" * 30), "expected a zip archive, received"),
        (savez(a=np.array([{}], object)), "'a.npy': expected numbers, received Python objects, pickled"),
        (savez(a=np.zeros(2, ml_dtypes.bfloat16)), "received |V2: NumPy's files have no bfloat16"),
        (savez(a=np.zeros(2, "i4,f4")), "expected a dtype that says what its bytes are"),
        (savez(a=np.zeros(2, [("名", "i4")])), "received bytes that begin b'\\x93NUMPY\\x03\\x00'"),
        (savez(a=np.zeros(2, ">f4")), "expected numbers in the byte order of this machine, received '>f4'"),
        (savez(a=np.zeros(2, "U3")), "expected a dtype of NumPy's numbers, bfloat16 or float8, received '<U3'"),
        (savez(a=np.zeros(2, "M8[s]")), "received '<M8[s]'"),
        (savez(a=np.zeros(2, np.longdouble)), "expected a dtype of NumPy's numbers"),
        (member("a.txt"), "expected members that are arrays, *.npy, received 'a.txt'"),
        (member("folder/", b""), "expected members that are arrays"),
        (twice, "expected every name once"),
        (encrypted, "is encrypted, password required"),
        (member(content=b"not one"), "received bytes that begin b'not one'"),
        (member(content=b""), "received bytes that begin b''"),
        (member(content=npy(header="{" * 300)), "expected an array in NumPy's format, received"),
        (member(content=npy(header="(" * 9_999, version=b"\x02\x00")), "expected an array in NumPy's format"),
        (member(content=b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "expected a header of 10000 bytes at most"),
        (header(shape=(3,)), "as its header says, received"),
        (header(shape=(-1, -2)), "expected the shape of an array, received (-1, -2)"),
        (header(shape=(2**62, 2**62)), "expected the shape of an array"),
        (header(shape=(0, 2**62, 2**62)), "expected the shape of an array"),
        (header(shape=(1,) * 40 + (2,)), "expected the shape of an array"),
        (header(shape=("a",)), "expected an array in NumPy's format, received shape is not valid"),
        (header(descr="<f3"), "expected an array in NumPy's format, received"),
        (header(more=1), "expected an array in NumPy's format, received Header does not contain the correct keys"),
        (changed(bytes(8), b"\x01" + bytes(7)), "received Bad CRC-32"),
        (changed(b"\x07" * 9, b"\x08" * 9, savez(a=np.r_[np.zeros(2**16, "u1"), np.full(9, 7, "u1")])), "Bad CRC-32"),
        (
            lambda path: member(compress_type=zipfile.ZIP_DEFLATED)(path) or damage(path, 60),
            "expected",
        ),
    ],
)
def test_broken_npz_files_are_one_sentence(tmp_path, make, message):
    make(tmp_path / "in.npz")
    refused(tmp_path / "in.npz", message)


def damage(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_names_with_paths_are_names(tmp_path):
    """Nothing is extracted to where a member says."""
    member("../../a.npy")(tmp_path / "in.npz")
    assert set(held(tmp_path / "in.npz")) == {"../../a"}
    with pytest.raises(CheckpointError, match="expected names that a zip archive can have, received"):
        port(Plan((Move("../../a", "../../a"),)), tmp_path / "in.npz", tmp_path / "out.npz")
    port(Plan((Move("../../a", "a"),)), tmp_path / "in.npz", tmp_path / "out.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"in.npz", "out.npz"}


def dataset(**options):
    return lambda file: file.create_dataset("a", **options)


def external(file):
    file.create_dataset("a", shape=(2,), dtype="u1", external=[("/etc/passwd", 0, 2)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (2,))
    file.create_virtual_dataset("a", layout)


def linked(link):
    def make(file):
        file["b"] = np.zeros(2)
        file["a"] = file[link] if isinstance(link, str) else link

    return make


def attribute(data, text):
    def make(file):
        file.create_dataset("a", data=data).attrs["dtype"] = text

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (linked(h5py.SoftLink("/b")), "'a': expected no links, received SoftLink"),
        (linked(h5py.ExternalLink("other.h5", "/b")), "'a': expected no links, received ExternalLink"),
        (linked("b"), "'b': expected one name for it, received several"),
        (linked("/"), "'a': expected one name for it, received several"),
        (linked(np.dtype("f4")), "'a': expected a dataset, received a type of its own"),
        (
            linked(h5py.Empty("f4")),
            "'a': expected an array of numbers, received float32 of the shape None",
        ),
        (external, "'a': expected a dataset in this file, received one whose bytes are elsewhere"),
        (virtual, "'a': expected a dataset in this file"),
        (dataset(data="text"), "'a': expected an array of numbers, received object"),
        (dataset(data=np.zeros(2, "S3")), "'a': expected an array of numbers, received |S3"),
        (dataset(data=np.zeros(2, "i4,f4")), "'a': expected numbers, or two opaque bytes"),
        (dataset(data=np.zeros(2, ">f4")), "received another type or order of bytes"),
        (dataset(data=np.zeros(2, ml_dtypes.bfloat16)), "received 2 opaque bytes"),
        (attribute(np.zeros(2, "V4"), "bfloat16"), "received 4 opaque bytes"),
        (dataset(data=np.zeros(2, ml_dtypes.float8_e4m3fn)), "received 1 opaque bytes, as Keras writes every float8"),
        (dataset(shape=(2**30, 2), dtype="f4", chunks=(2**20, 2)), "more than compression makes up"),
        (dataset(shape=(2**27,), dtype="f4", chunks=(2**27,)), "expected chunks of at most 268435456 bytes"),
    ],
)
def test_what_no_file_of_keras_has_is_refused(tmp_path, make, message):
    path = tmp_path / "in.weights.h5"
    with h5py.File(path, "w") as file:
        make(file)
    refused(path, message)


@pytest.mark.parametrize(("dtype", "size"), [("F4", 1), ("F6_E2M3", 3), ("F6_E3M2", 3)])
def test_numbers_that_share_bytes_are_refused(tmp_path, dtype, size):
    count = 8 * size // int(dtype[1])
    text = json.dumps({"a": {"dtype": dtype, "shape": [count], "data_offsets": [0, size]}}).encode()
    (tmp_path / "in.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    refused(
        tmp_path / "in.safetensors", f"'a': expected a dtype of NumPy's numbers, bfloat16 or float8, received '{dtype}'"
    )
