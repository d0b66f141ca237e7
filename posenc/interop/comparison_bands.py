"""Scalings that keep fast pairs and slow down slow ones: Llama 3, YaRN."""

from __future__ import annotations

import numpy as np

from posenc.interop.comparison_formats import Float64
from posenc.interop.comparison_words import Cause, number, things


def bands(fe: Float64, fr: Float64, error: Float64 | float, plain: Float64 | None = None) -> Cause | None:
    """Fast pairs as they are, slow ones slower (or faster) by one factor, others between.

    Llama 3 is linear in the frequencies before scaling, `plain`, YaRN in the number of the pair.
    """
    word, ratio = ("slower", fe / fr) if fr[-1] < fe[-1] else ("faster", fr / fe)
    most, n = float(ratio[-1]), len(ratio)
    fast, slow = np.abs(ratio - 1) <= error, np.abs(ratio / most - 1) <= error
    head, tail = n if fast.all() else int(np.argmin(fast)), n - int(np.argmin(slow[::-1]))
    plateaus = head and tail < n and (head == tail or (head > 1 and tail < n - 1))  # a base has one pair of each
    if not plateaus or head > tail or (np.diff(ratio) < -2 * np.max(error) * most).any():
        return None
    text = f"{things('pair', range(tail, n))} {'are' if n - tail > 1 else 'is'} {word} by {number(most)}"
    if head == tail:
        return Cause("scaling", f"{text}, the others as expected")
    share = (1 / ratio[head:tail] - 1 / most) / (1 - 1 / most)
    plain = plain if plain is not None else fe if word == "slower" else fr
    by = "Llama 3 or YaRN"
    if tail - head >= 3:
        away = [float(np.abs(_rest(x[head:tail], share)).max()) for x in (plain, np.arange(n, dtype=float))]
        by = "Llama 3" if away[0] < 0.1 * away[1] else "YaRN" if away[1] < 0.1 * away[0] else by
    between = things("pair", range(head, tail))
    return Cause("scaling", f"{text}, {between} by something between, as by {by}")


def _rest(x: Float64, y: Float64) -> Float64:
    rest: Float64 = y - np.polyval(np.polyfit(x, y, 1), x)
    return rest
