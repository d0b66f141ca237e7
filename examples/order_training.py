"""The parts of order.py that train: the naive ways against the sinusoidal encoding, and what a step costs."""

from __future__ import annotations

import statistics
import time

import torch
from order_report import progress, table
from torch import nn
from torch.nn import functional as F  # noqa: N812 the name every PyTorch program uses

from posenc import Sinusoidal

KINDS = ("none", "raw index", "index / length", "sinusoidal")
VOCABULARY, TRAINED, LENGTHS = 16, 24, (6, 12, 18, 24, 30, 36, 48, 64, 96)
# Which of two marked words stands first (2 answers), and which word stands before this one (16 answers).
SETUPS = {"who is first, 1 layer": ("first", 1, 600), "previous word, 1 layer": ("previous", 1, 600)}
SETUPS["previous word, 2 layers"] = ("previous", 2, 1200)


class Model(nn.Module):
    """Word vectors, a signal of order, the paper's encoder layers (no mask, no dropout), a linear head."""

    def __init__(self, kind: str, layers: int, dim: int = 32, heads: int = 2):
        super().__init__()
        self.kind, self.spec = kind, Sinusoidal.vaswani(dim)
        self.embedding = nn.Embedding(VOCABULARY, dim)
        layer = [nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, batch_first=True) for _ in range(layers)]
        self.layers, self.head = nn.Sequential(*layer), nn.Linear(dim, VOCABULARY)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(signalled(self.kind, self.spec, self.embedding(words))))


def signalled(kind: str, spec: Sinusoidal, x: torch.Tensor) -> torch.Tensor:
    from posenc.torch_impl import add

    if kind == "none":
        return x
    if kind == "sinusoidal":
        return add(spec, x)
    index = torch.arange(1.0, x.shape[-2] + 1)[:, None]
    return x + (index if kind == "raw index" else index / x.shape[-2])


def batch(task: str, count: int, length: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    if task == "previous":
        words = torch.randint(VOCABULARY, (count, length), generator=random)
        return words, words[:, :-1]
    words = torch.randint(2, VOCABULARY, (count, length), generator=random)
    places = torch.rand(count, length, generator=random).argsort(1)[:, :2]
    words.scatter_(1, places, torch.tensor([[0, 1]]).expand(count, 2))  # word 0 is the cat, word 1 the mouse
    return words, (places[:, :1] < places[:, 1:]).long()


def answers(task: str, model: Model, words: torch.Tensor) -> torch.Tensor:
    logits = model(words)
    return logits[:, 1:] if task == "previous" else logits[..., :2].mean(1, keepdim=True)


def train(kind: str, task: str, layers: int, steps: int, *, seed: int, evaluated: int) -> dict:
    torch.manual_seed(seed)
    model, random = Model(kind, layers), torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses, norms = [], []
    for _ in range(steps):
        length = int(torch.randint(4, TRAINED + 1, (), generator=random))
        words, right = batch(task, 64, length, random)
        loss = F.cross_entropy(answers(task, model, words).flatten(0, 1), right.flatten())
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters()])))
        losses.append(loss.item())
        optimiser.step()
    accuracy = []
    with torch.no_grad():
        for length in LENGTHS:
            words, right = batch(task, evaluated, length, random)
            accuracy.append((answers(task, model, words).argmax(-1) == right).float().mean().item())
    return {"loss": losses, "norm": norms, "accuracy": accuracy}


def naive(quick: bool) -> dict:
    spec, seeds = Sinusoidal.vaswani(32), 1 if quick else 3
    zero = torch.zeros(1000, 32)
    word = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    ranges = {}
    for kind in KINDS[1:]:
        exact = signalled(kind, spec, zero)
        lost = (signalled(kind, spec, word).bfloat16().float() - exact - word).abs().max().item()
        place3 = [signalled(kind, spec, zero[:length])[2, 1].item() for length in (5, 10, 20)]
        steps = [signalled(kind, spec, zero[:length])[2:4].diff(dim=0).norm().item() for length in (10, 1000)]
        ranges[kind] = {"low": exact.min().item(), "high": exact.max().item(), "lost": lost, "place3": place3}
        ranges[kind]["steps"] = steps
    table(
        "What is added: range over 1,000 places; first channel of the third word in sentences of 5, 10 and 20 words;\n"
        "distance of the third and fourth words' signals in 10 and 1,000 words; largest error of word + signal in\n"
        "bfloat16 (a word's channels have variance 1)",
        ("signal", "least", "greatest", "3rd of 5", "of 10", "of 20", "step, 10", "1,000", "bfloat16 error"),
        [(k, r["low"], r["high"], *r["place3"], *r["steps"], r["lost"]) for k, r in ranges.items()],
    )
    runs: dict[str, dict[str, list[dict]]] = {}
    setups = {s: (t, n, 20 if quick else steps) for s, (t, n, steps) in SETUPS.items()}
    done, total = 0, len(setups) * len(KINDS) * seeds
    for setup, (task, layers, steps) in setups.items():
        for kind in KINDS:
            runs.setdefault(setup, {})[kind] = []
            for seed in range(seeds):
                progress("training", done, total)
                runs[setup][kind].append(train(kind, task, layers, steps, seed=seed, evaluated=20 if quick else 250))
                done += 1
    progress("training", done, total)

    def between(values: list[float], form: str) -> str:
        return f"{min(values):{form}} - {max(values):{form}}"

    for setup, (_, _, steps) in setups.items():
        rows: list[tuple[object, ...]] = []
        for kind, results in runs[setup].items():
            seen = [statistics.mean(r["accuracy"][:4]) for r in results]
            longer = [statistics.mean(r["accuracy"][4:7]) for r in results]
            last = [statistics.mean(r["loss"][-50:]) for r in results]
            norms = (
                [statistics.mean(r["norm"][:20]) for r in results],
                [statistics.median(r["norm"]) for r in results],
                [max(r["norm"]) for r in results],
            )
            shares = (between(v, ".3f") for v in (seen, longer, [r["accuracy"][-1] for r in results], last))
            rows.append((kind, *shares, *(between(v, ".3g") for v in norms)))
        table(
            f"{setup}: trained on lengths 4 to {TRAINED}, {steps} steps, {seeds} seeds (least - greatest);\n"
            "share of right answers by length, final loss, gradient norm in the first 20 steps, median, largest",
            ("signal", "length <= 24", "30 to 48", "96", "loss", "norm, first", "median", "largest"),
            rows,
        )
    return {"ranges": ranges, "runs": runs, "lengths": LENGTHS, "trained": TRAINED}


def cost(quick: bool) -> dict:
    """Time of a training step, arms interleaved; "none again" does what "none" does."""
    count, length, dim, repeats = (4, 32, 64, 3) if quick else (8, 128, 256, 40)
    words = torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))
    arms = {}
    for name in ("none", "none again", "sinusoidal"):
        torch.manual_seed(0)
        model = Model(name.split()[0], 2, dim, 4)
        arms[name] = (model, torch.optim.Adam(model.parameters(), 1e-4))
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 2):
        order = list(arms)[repeat % 3 :] + list(arms)[: repeat % 3]  # nobody always comes after the same arm
        for name in order:
            model, optimiser = arms[name]
            begin = time.perf_counter()
            optimiser.zero_grad()
            F.cross_entropy(model(words).flatten(0, 1), words.flatten()).backward()
            optimiser.step()
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - begin)
        progress("timing", repeat + 1, repeats + 2)
    model, alone = arms["sinusoidal"][0], []
    x = model.embedding(words).detach()
    for _ in range(repeats):
        begin = time.perf_counter()
        signalled("sinusoidal", model.spec, x)
        alone.append(time.perf_counter() - begin)
    least = {name: min(values) for name, values in seconds.items()} | {"add alone": min(alone)}
    rows: list[tuple[object, ...]] = []
    for name in arms:
        rounds = [s / none for s, none in zip(seconds[name], seconds["none"], strict=True)]
        low, middle, high = statistics.quantiles(rounds, n=4)
        shares = (least[name] / least["none"], middle, low, high)
        rows.append((name, f"{1e3 * least[name]:.2f}", *(f"{share:.3f}" for share in shares)))
    table(
        f"A training step: 2 layers, {count} x {length} words of width {dim}, one thread; {repeats} rounds, in each\n"
        "of which every row takes a step; the second row does the same as the first: it measures the noise",
        ("signal", "least ms", "ratio of least", "median ratio in a round", "lower quartile", "upper quartile"),
        rows,
    )
    share = least["add alone"] / least["none"]
    print(f"  `add` alone, forwards: {1e3 * least['add alone']:.3f} ms, {share:.2%} of the least step without it")
    return {"least": least, "seconds": seconds}
