"""Ports of sinusoidal and learned tables, of weights and of biases that went wrong are named."""

from __future__ import annotations

import numpy as np
import pytest

from posenc.interop.comparison import Different, compare
from tests.wrong.ported import BIASES, ENCODINGS, OF_HEADS, alibi, bucket, slopes

pytestmark = pytest.mark.filterwarnings(r"error::RuntimeWarning:posenc\.interop\..*")


def check_named(port, size):
    expected, received, how = port.make(size, np.random.default_rng(size))
    found = compare(expected, received, **how)
    assert found.differences == port.differences, str(found)
    assert port.says in found.explanation
    assert found.distance > found.allowed or port.name in ("transposed", "heads_last")  # equal once they are turned
    with pytest.raises(Different, match=f"{port.differences[0]}: "):
        found.assert_nothing()


@pytest.mark.parametrize("width", [6, 32, 100, 256])
@pytest.mark.parametrize("port", ENCODINGS, ids=str)
def test_a_wrong_encoding_is_named(port, width):
    check_named(port, width)


@pytest.mark.parametrize("heads", [1, 4, 12])
@pytest.mark.parametrize("port", BIASES, ids=str)
def test_a_wrong_bias_is_named(port, heads):
    check_named(port, heads)


@pytest.mark.parametrize("heads", [6, 12, 20])
@pytest.mark.parametrize("port", OF_HEADS, ids=str)
def test_wrong_heads_are_named(port, heads):
    check_named(port, heads)


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("length", [16, 20, 40])
def test_what_is_wrong_at_some_distances_has_no_name_that_leaves_them_out(heads, length):
    """A sign, and rows in the order that undoes it, would leave no more than what is wrong."""
    at = np.arange(length)
    expected = alibi(slopes(heads))(at, at)
    cut = np.where(at - at[:, None] < -length // 2, 0, expected)
    assert compare(expected, cut, what="bias").differences == ("unexplained",)
    rows = np.random.default_rng(heads).standard_normal((32, heads)).astype(np.float32)
    found = bucket(at - at[:, None])
    wrong = np.where(at - at[:, None] == 1, 31, found)
    expected, received = (np.moveaxis(rows[x], -1, 0) for x in (found, wrong))
    assert compare(expected, received, what="bias").differences == ("unexplained",)


@pytest.mark.parametrize("distance", [1, 8, 9, 15, -1, -8, -15, -40])
def test_one_distance_in_another_bucket_is_a_difference(distance):
    """Of bucket numbers: the first of a bucket in the one before, say."""
    at = np.arange(160)
    distances = at - at[:, None]
    found = bucket(distances)
    wrong = np.where(distances == distance, bucket(distances - np.sign(distance)), found)
    received = wrong if (wrong != found).any() else np.where(distances == distance, 15, found)
    assert compare(found, received, what="bias").differences in {("unexplained",), ("scaling",)}
