"""How order.py and order_training.py report: tables, a progress line, plots."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from posenc import Sinusoidal


def table(title: str, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Print rows in columns as wide as their widest entry."""
    lines = [head, *[tuple(f"{c:.4g}" if isinstance(c, float) else str(c) for c in row) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  " + "  ".join(cells), flush=True)


def progress(what: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{what}: {done}/{total}", end=end, file=sys.stderr, flush=True)


def smooth(runs: list[dict], what: str, window: int = 25) -> np.ndarray:
    """The mean over the seeds, then over a sliding window of steps."""
    curve = np.mean([r[what] for r in runs], axis=0)
    window = min(window, len(curve))
    return np.convolve(curve, np.ones(window) / window, "valid")


def draw(results: dict, folder: Path) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    from posenc.numpy_impl import encode

    folder.mkdir(parents=True, exist_ok=True)
    colours = ["#56B4E9", "#E69F00", "#009E73", "#D55E00", "#000000", "#999999"]  # apart for colour-blind eyes too
    mpl.rc("axes", prop_cycle=mpl.cycler(color=colours))
    figures = {}
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    heat = axes.imshow(encode(Sinusoidal.vaswani(64), range(100)), cmap="RdBu", aspect="auto", interpolation="nearest")
    axes.set(xlabel="channel (sine, cosine, sine, cosine, ...)", ylabel="position", title="Sinusoidal.vaswani(64)")
    figure.colorbar(heat)
    figures["encoding"] = figure
    if "naive" in results:
        runs, lengths, trained = (results["naive"][key] for key in ("runs", "lengths", "trained"))
        figures["training"], curves = plt.subplots(2, len(runs), figsize=(10, 5.5), layout="constrained")
        figures["lengths"], shares = plt.subplots(1, len(runs), figsize=(10, 3.3), layout="constrained", sharey=True)
        for (loss, norm), right, (setup, kinds) in zip(curves.T, shares, runs.items(), strict=True):
            for kind, seeds in kinds.items():
                loss.plot(smooth(seeds, "loss"), label=kind)
                norm.semilogy(smooth(seeds, "norm"))
                right.plot(lengths, np.mean([s["accuracy"] for s in seeds], axis=0), marker=".", label=kind)
            right.axvline(trained, color="grey", linestyle=":")
            loss.set(title=setup, ylabel="loss")
            norm.set(xlabel="step", ylabel="gradient norm")
            right.set(title=setup, xlabel="length (trained left of the line)", ylim=(-0.03, 1.03))
        shares[0].set_ylabel("share of right answers")
        for name, axes in (("training", curves[0, 0]), ("lengths", shares[0])):
            figures[name].legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(kinds))
    if "probes" in results:
        found = results["probes"]
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for name, values in found["accuracy"].items():
            axes.plot(found["widths"], values, marker="o", label=name, linestyle=":" if "alone" in name else "-")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="dim", ylabel="share right", title="What a linear probe reads from word vector + encoding")
        axes.set_xticks(found["widths"], [str(w) for w in found["widths"]])
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        figures["probes"] = figure
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=80)
        with Image.open(paths[-1]) as image:
            small = image.convert("RGB").quantize(64)  # a third of the bytes, and nobody sees the difference
        small.save(paths[-1], optimize=True)
    return paths
