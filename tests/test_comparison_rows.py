"""Ports of sinusoidal and learned tables, of weights and of biases that went wrong are named."""

from __future__ import annotations

import numpy as np
import pytest

from posenc.interop.comparison import Different, compare
from tests.wrong.ported import BIASES, ENCODINGS, OF_HEADS


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
