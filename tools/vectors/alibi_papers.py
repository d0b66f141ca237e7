"""Slopes of ALiBi, each written twice: the published code first, the paper or another code second."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import mpf

from vectors.pairs_book import power

Slopes = list[Any]


def get_slopes(n: int, max_bias: Fraction) -> Slopes:
    """get_slopes of ofirpress/attention_with_linear_biases, fairseq/models/transformer.py; there max_bias is 8."""

    def get_slopes_power_of_2(n: int) -> Slopes:
        # start = 2**(-2**-(log2(n) - 3)), ratio = start
        return [power(2, -max_bias / n * (i + 1)) for i in range(n)]

    if n & (n - 1) == 0:
        return get_slopes_power_of_2(n)
    closest_power_of_2 = 2 ** math.floor(math.log2(n))
    more = get_slopes(2 * closest_power_of_2, max_bias)[0::2]
    return get_slopes_power_of_2(closest_power_of_2) + more[: n - closest_power_of_2]


def gen_slopes(n_heads: int, alibi_bias_max: Fraction) -> Slopes:
    """gen_slopes of mosaicml/llm-foundry, models/layers/attention.py."""
    rounded = 2 ** math.ceil(math.log2(n_heads))
    m = [(i + 1) * (alibi_bias_max / rounded) for i in range(rounded)]
    slopes = [1 / power(2, exponent) for exponent in m]
    if rounded != n_heads:
        slopes = slopes[1::2] + slopes[::2]
    return slopes[:n_heads]


@lru_cache
def slopes(heads: int, max_bias: float) -> Slopes:
    """Both routes; they differ in their last digits at most."""
    bias = Fraction(repr(float(max_bias)))
    one, other = get_slopes(heads, bias), gen_slopes(heads, bias)
    if len(one) != heads or any(abs(a / b - 1) > mpf(10) ** -70 for a, b in zip(one, other, strict=True)):
        raise ArithmeticError(f"two routes to the slopes of {heads} heads differ")
    return one


def causal(query: int, key: int) -> int:
    """m (j - i): EleutherAI/gpt-neox, megatron/model/positional_embeddings.py, AliBi: `-(i - j)`, masked ahead."""
    return key - query


def symmetric(query: int, key: int) -> int:
    """-m |i - j|: lucidrains/x-transformers, AlibiPositionalBias.get_bias; ml-explore/mlx, nn.ALiBi."""
    return -abs(key - query)


def anchored(query: int, key: int) -> int:  # noqa: ARG001 - that is what it is
    """m j: the paper's code, `slopes * torch.arange(maxpos)`; transformers, BLOOM, build_alibi_tensor."""
    return key


FORMS: dict[str, Callable[[int, int], int]] = {"causal": causal, "symmetric": symmetric, "anchored": anchored}
