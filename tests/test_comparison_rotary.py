"""Ports of rotary tables and rotations that went wrong are named; what is right is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from posenc.interop.comparison import Different, compare
from tests.wrong.ported import ROTARY

WIDTHS = (16, 64, 80, 128)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("port", ROTARY, ids=str)
def test_a_wrong_port_is_named(port, width):
    expected, received, how = port.make(width, np.random.default_rng(width))
    found = compare(expected, received, **how)
    assert found.differences == port.differences, str(found)
    assert port.says in found.explanation
    assert found.distance > found.allowed
    with pytest.raises(Different, match=f"{port.differences[0]}: "):
        found.assert_nothing()
