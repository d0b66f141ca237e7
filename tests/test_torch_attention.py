"""Biases where PyTorch's attention takes them: each way is the plain computation, with causal and padding masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from posenc import Alibi, DebertaBuckets, SwinIndex, T5Bias, positions
from posenc.torch_impl import bias
from posenc.torch_impl.attention import score_mod
from posenc.torch_impl.modules import RelativeBias

HEADS, WIDTH = 3, 16
SPECS = {
    "causal": Alibi.causal(HEADS),
    "symmetric": Alibi.symmetric(HEADS),
    "anchored": Alibi.anchored(HEADS),
    "t5": T5Bias(HEADS, buckets=8, max_distance=12, bidirectional=True),
}
FAR = T5Bias(HEADS, buckets=6, max_distance=2**30, bidirectional=True)  # too far for a table: told apart run by run
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
LENGTHS = [12, 7]


def weights_of(spec):
    if spec.weight_shape is None:
        return None
    return torch.randn(spec.weight_shape, generator=torch.Generator().manual_seed(3))


def inputs(queries, keys, dtype=torch.float32):
    generator = torch.Generator().manual_seed(queries * 100 + keys)
    shapes = (2, HEADS, queries, WIDTH), (2, HEADS, keys, WIDTH), (2, HEADS, keys, WIDTH)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


class Case:
    """A left-padded batch, at its prompt or `new` tokens later, of which the last `queries` are asked.

    Behind its keys is room for `free` more. Positions of the second row go up by 3, or one row could pass for another:
    softmax sees no constant.
    """

    def __init__(self, new, queries, free=0):
        keys = max(LENGTHS) + new
        rows = torch.tensor(positions.padded([length + new for length in LENGTHS], side="left"))
        rows = rows * torch.tensor([[1], [3]])
        self.query_positions = rows[:, keys - queries :]
        self.key_positions = torch.nn.functional.pad(rows, (0, free))
        real = torch.arange(keys) >= torch.tensor([[keys - length - new] for length in LENGTHS])
        self.asked = real[:, keys - queries :]
        self.inputs = inputs(queries, keys + free)
        causal = self.key_positions[:, None, :] <= self.query_positions[:, :, None]
        self.allowed = causal & torch.nn.functional.pad(real, (0, free))[:, None, :]

    def mask(self):
        return torch.zeros(self.allowed.shape).masked_fill(~self.allowed, -math.inf).unsqueeze(1)

    def block_mask(self):
        allowed, (_, _, queries, keys) = self.allowed, (*self.inputs[0].shape[:3], self.inputs[1].shape[2])
        return create_block_mask(lambda b, _, q, k: allowed[b, q, k], 2, None, queries, keys, device="cpu")

    def check(self, got, spec, weights, *, unit=2.0**-24, shift=0.0):
        """Against the definition in float64.

        Scores err by `WIDTH` products and their sums, and by the bias, its sum and its mask; a weight of the softmax by
        twice that, and by an exponential and a sum over the keys, for which 8 units and one each are allowed; a result
        by the sum of the products with the values. `shift` makes a wrong answer.
        """
        q, k, v = (x.double() for x in self.inputs)
        added = bias(spec, self.query_positions, self.key_positions, weights=weights, dtype=torch.float64) + shift
        scores = q @ k.mT / WIDTH**0.5 + added
        want = torch.softmax(scores.masked_fill(~self.allowed.unsqueeze(1), -math.inf), -1) @ v
        keys = k.shape[-2]
        products = (q.abs() @ k.abs().mT).max() / WIDTH**0.5
        error = (WIDTH + 2) * products + 4 * added.abs().max()
        bound = unit * (2 * error + 2 * keys + 8) * v.abs().max()
        asked = self.asked[:, None, :, None]
        difference = torch.where(asked, got.double() - want, 0).abs().max()
        assert bound < 1e-3 or unit > 2.0**-24
        assert difference <= bound, (difference, bound)


PROMPT, CHUNK, ONE = (0, 12), (2, 2), (3, 1)
every_case = pytest.mark.parametrize("case", [PROMPT, CHUNK, ONE], ids=["prompt", "chunk", "one"])


@every_spec
@every_case
def test_scaled_dot_product_attention_takes_a_bias(spec, case):
    found, weights = Case(*case), weights_of(spec)
    module = RelativeBias(spec)
    if weights is not None:
        module.load_state_dict({"weights": weights})
    added = module(found.query_positions, found.key_positions) + found.mask()
    got = scaled_dot_product_attention(*found.inputs, attn_mask=added)
    found.check(got, spec, weights)
    with pytest.raises(AssertionError):
        found.check(got, spec, weights, shift=torch.linspace(0, 0.01, found.inputs[1].shape[2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_spec
def test_half_precision_queries_take_a_bias_of_theirs_or_of_float32(spec, dtype):
    found, weights = Case(*PROMPT), weights_of(spec)
    found.inputs = [x.to(dtype) for x in found.inputs]
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    for name in (dtype, torch.float32):
        added = bias(spec, found.query_positions, found.key_positions, weights=weights, dtype=name)
        got = scaled_dot_product_attention(*found.inputs, attn_mask=added + found.mask().to(name))
        assert got.dtype == dtype
        found.check(got, spec, weights, unit=unit)
    with pytest.raises(RuntimeError, match="Expected attn_mask dtype to be bool or float or to match query dtype"):
        scaled_dot_product_attention(*found.inputs, attn_mask=added.double())


def test_gradients_of_weights_through_scaled_dot_product_attention():
    found, spec = Case(*PROMPT), SPECS["t5"]
    q, k, v = (x.double() for x in found.inputs)
    gradients = []
    for plain in (False, True):
        weights = weights_of(spec).double().requires_grad_()
        given = bias(spec, found.query_positions, found.key_positions, weights=weights, dtype=torch.float64)
        given = given.masked_fill(~found.allowed.unsqueeze(1), -math.inf)
        got = (
            torch.softmax(q @ k.mT / WIDTH**0.5 + given, -1) @ v
            if plain
            else scaled_dot_product_attention(q, k, v, attn_mask=given)
        )
        torch.where(found.asked[:, None, :, None], got, 0).square().sum().backward()
        gradients.append(weights.grad)
    assert gradients[0].abs().max() > 0.1
    # 288 pairs, each with a gradient of some hundred operations on numbers below 100
    torch.testing.assert_close(*gradients, rtol=0, atol=288 * 100 * 100 * 2.0**-53)


class Small(torch.nn.Module):
    """Attention of tokens by what they hold, and by a bias."""

    def __init__(self, spec):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, HEADS * WIDTH)
        self.bias = RelativeBias(spec)
        self.out = torch.nn.Linear(HEADS * WIDTH, 5)

    def forward(self, tokens):
        x = self.embedding(tokens).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
        places = range(tokens.shape[1])
        mixed = scaled_dot_product_attention(x, x, x, attn_mask=self.bias(places, places))
        return self.out(mixed.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_module_with_a_bias_learns_to_look_one_token_back(backend):
    """What a token is told by the one before it no attention without positions can know."""
    torch.manual_seed(0)
    losses = {}
    for name, spec in (("bias", SPECS["t5"]), ("slopes of 0.0001", Alibi.causal(HEADS, max_bias=40.0))):
        module = Small(spec)
        run = module if backend is None else torch.compile(module, backend=backend)
        optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(60):
            tokens = torch.randint(0, 5, (16, 12))
            loss = torch.nn.functional.cross_entropy(run(tokens)[:, 1:].flatten(0, 1), tokens[:, :-1].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[name] = loss.item()
    assert losses["bias"] < 0.5
    assert losses["slopes of 0.0001"] > 1.0


# --- flex_attention ---


@pytest.mark.parametrize("spec", [*SPECS.values(), FAR], ids=[*SPECS, "far"])
@every_case
def test_flex_attention_takes_a_score_function(spec, case):
    """Not compiled by Inductor: the same function, and all scores at once."""
    found, weights = Case(*case), weights_of(spec)
    scores = score_mod(spec, found.query_positions, found.key_positions, weights=weights)
    run = torch.compile(flex_attention, backend="eager", fullgraph=True)
    got = run(*found.inputs, score_mod=scores, block_mask=found.block_mask())
    found.check(got, spec, weights)
    with pytest.raises(AssertionError):
        found.check(got, spec, weights, shift=torch.linspace(0, 0.01, found.inputs[1].shape[2]))


STEPS = [(1, 1, 7), (2, 1, 6), (8, 1, 0)]


@pytest.mark.inductor
@pytest.mark.parametrize(
    ("name", "cases"),
    [*((name, [PROMPT]) for name in SPECS), ("causal", STEPS), ("t5", STEPS)],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}",
)
def test_compiled_flex_attention(name, cases):
    """One graph for all steps of decoding into a cache that has room for them."""
    counters.clear()
    spec, run = SPECS[name], torch.compile(flex_attention, fullgraph=True)
    weights = weights_of(spec)
    for case in cases:
        found = Case(*case)
        scores = score_mod(spec, found.query_positions, found.key_positions, weights=weights)
        found.check(run(*found.inputs, score_mod=scores, block_mask=found.block_mask()), spec, weights)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("spec", [SPECS["t5"], SPECS["causal"]], ids=["t5", "causal"])
def test_decoding_does_not_recompile(spec, inside):
    counters.clear()
    weights, (q, k, v) = weights_of(spec), inputs(1, 32)

    def attend(q, k, v, query, key):
        return flex_attention(q, k, v, score_mod=score_mod(spec, query, key, weights=weights))

    run = torch.compile(attend if inside else flex_attention, backend="eager", fullgraph=True)
    for past in (3, 9, 31):
        query, key = torch.tensor([[past], [past - 2]]), torch.arange(32)
        if inside:
            got = run(q, k, v, query, key)
        else:
            got = run(q, k, v, score_mod=score_mod(spec, query, key, weights=weights))
        want = scaled_dot_product_attention(q, k, v, attn_mask=bias(spec, query, key, weights=weights))
        # each is within 2^-24 * (2 * (18 * 16 + 4 * 31) + 72) * 4 of the definition, for products below 16
        torch.testing.assert_close(got, want, rtol=0, atol=2 * 4 * (2 * (18 * 16 + 4 * 31) + 72) * 2.0**-24)
    assert counters["stats"]["unique_graphs"] == 1


def test_windows_have_coordinates():
    spec = SwinIndex(HEADS, (2, 4))
    places, weights, (q, k, v) = torch.tensor(spec.positions()), weights_of(spec), inputs(8, 8)
    run = torch.compile(flex_attention, backend="eager", fullgraph=True)
    got = run(q, k, v, score_mod=score_mod(spec, places, places[None], weights=weights))
    want = scaled_dot_product_attention(q, k, v, attn_mask=bias(spec, places, places, weights=weights))
    torch.testing.assert_close(got, want, rtol=0, atol=2 * 4 * (2 * (18 * 16 + 4 * 4) + 24) * 2.0**-24)


def test_flex_attention_has_no_backward_on_a_cpu():
    """PyTorch's own limit, which the docstring of `score_mod` names: here it is seen when it falls."""
    q, k, v = (x.requires_grad_() for x in inputs(4, 4))
    with pytest.raises(NotImplementedError, match="backward"):
        flex_attention(q, k, v, score_mod=score_mod(SPECS["causal"], range(4), range(4)))


ERRORS = [
    (lambda: score_mod(DebertaBuckets(clamped=True), [1], [1]), "score_mod.spec: expected a specification of a bias"),
    (lambda: score_mod(FAR, [1.5], [1]), "score_mod.query_positions: expected integers, received float$"),
    (lambda: score_mod(FAR, [1], 1), r"score_mod.key_positions: expected shape \(..., length\), received \(\)"),
    (lambda: score_mod(FAR, [1], [1]), r"score_mod.weights: expected shape \(6, 3\), received None"),
    (lambda: score_mod(FAR, [1], [[[1]]], weights=torch.ones(6, 3)), "score_mod.key_positions: expected one leading"),
    (lambda: score_mod(FAR, [[1], [2]], [[1]] * 3), r"score_mod.key_positions: expected leading axes \(2,\)"),
    (lambda: score_mod(SPECS["causal"], [1], [1], weights=torch.ones(3)), "score_mod.weights: expected None"),
    (
        lambda: score_mod(SwinIndex(1, (2,)), [0], [2], weights=torch.ones(3, 1)),
        "score_mod.key_positions: expected distances to the query from -1 to 1 on axis 0, received 2",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_pair_outside_the_window_is_refused_in_a_trace():
    spec, weights, (q, k, v) = SwinIndex(HEADS, (2,)), torch.ones(3, HEADS), inputs(2, 2)

    def attend(q, k, v, keys):
        return flex_attention(q, k, v, score_mod=score_mod(spec, range(2), keys, weights=weights))

    run = torch.compile(attend, backend="eager", fullgraph=True)
    assert run(q, k, v, range(2)).isfinite().all()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"score_mod.key_positions: .* axis 0, received 2"):
        run(q, k, v, range(1, 3))
