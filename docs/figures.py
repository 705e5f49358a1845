"""Draw the figures of the documentation, each for light and for dark pages.

    python docs/figures.py FOLDER

The script computes all values with the library, most of them from the word vectors that ship with it (GloVe,
20,000 x 100).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import vqindex
from vqindex.arguments import DEFAULT_CONFIDENCE
from vqindex.codes.codebook import embedded, lloyd_max
from vqindex.codes.codec import Codec
from vqindex.codes.sign_bound import SignBoundTerms, quantile
from vqindex.codes.trellis import Trellis
from vqindex.spec import IndexSpec
from vqindex_datasets import load_annbench, sample_path
from vqindex_datasets.recall import recall_at_k

F32 = NDArray[np.float32]


class Look(NamedTuple):
    """Colors of a page."""

    ink: str
    faint: str
    blue: str
    red: str
    green: str
    amber: str


LOOKS = {
    "light": Look("#24292f", "#8b949e", "#3b5bdb", "#c92a2a", "#0b7a55", "#b35c00"),
    "dark": Look("#d5d9e0", "#737b87", "#91a7ff", "#ff8787", "#63e6be", "#ffc078"),
}


@cache
def words() -> tuple[F32, F32, NDArray[np.int64]]:
    """Return unit rows (n, d), unit queries (nq, d) and the true neighbors (nq, 100) of the shipped sample."""
    data = load_annbench(sample_path())
    with data.train as source:
        rows = source.read()
    queries = data.test
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries)]
    return unit[0], unit[1], np.asarray(data.neighbors)


@cache
def index_of(bits: int, **options: Any) -> vqindex.VQIndex:
    """Return an index of the sample."""
    index = vqindex.VQIndex(dim=words()[0].shape[1], bits=bits, metric="cosine", **options)
    index.add(words()[0])
    return index


def rotation(figure: Figure, look: Look) -> None:
    """Draw the coordinates of four different vectors, before and after the rotation."""
    d = 1536
    t = np.arange(d)
    spikes = np.zeros(d)
    spikes[np.random.default_rng(1).choice(d, 20, replace=False)] = 1
    vectors = {"a wave": np.sin(t / 40), "20 ones": spikes, "decay": np.exp(-t / 150), "steps": np.sign(np.sin(t / 97))}
    columns = np.array([x / np.linalg.norm(x) for x in vectors.values()], np.float32).T
    rotated = Codec(IndexSpec(d)).rotation.forward(columns)
    left, right = figure.subfigures(1, 2)
    colors = (look.blue, look.red, look.green, look.amber)
    axes = right.subplots()
    pairs = zip(left.subplots(4, 1, sharex=True), vectors, columns.T, rotated.T, colors, strict=True)
    for row, name, before, after, color in pairs:
        row.plot(before, color=color, lw=0.9)
        row.set(xticks=[], yticks=[], xlim=(0, d))
        row.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.hist(after * np.sqrt(d), bins=40, range=(-4, 4), density=True, histtype="step", lw=1.2, color=color)
    u = np.linspace(-4, 4, 200)
    axes.plot(u, np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi), color=look.ink, lw=1.4, ls="--")
    left.suptitle(f"{d:,} coordinates of four vectors", fontsize=10)
    axes.set(title="the same, rotated; dashed: normal", xlabel="rotated coordinate x sqrt(d)", xlim=(-4, 4), yticks=[])


def cells(figure: Figure, look: Look) -> None:
    """Draw the quantizer of 2 bits, and that of 1 bit with a sign bit of the residual."""
    u = np.linspace(-3.4, 3.4, 400)
    density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    books = (lloyd_max(1024, 2), embedded(1024, 2))
    titles = ("Lloyd-Max, 2 bits", "1 bit, then the sign of the residual")
    for axes, book, title in zip(figure.subplots(1, 2, sharey=True), books, titles, strict=True):
        axes.plot(u, density, color=look.ink, lw=1.2)
        for i, limit in enumerate(book.thresholds):
            inner = title.startswith("1") and i != 1
            axes.axvline(limit, color=look.amber if inner else look.blue, lw=1.2, ls=":" if inner else "-")
        values = book.values
        axes.plot(values, np.interp(values, u, density), "o", color=look.green)
        for code, value in enumerate(values):
            axes.text(value, -0.045, f"{code:02b}", ha="center", color=look.green, family="monospace")
        axes.set(
            title=f"{title}: error {book.mse:.4f}", ylim=(-0.07, 0.44), yticks=[], xlabel="rotated coordinate x sqrt(d)"
        )


def sketches(figure: Figure, look: Look) -> None:
    """Draw the errors of estimated cosines of queries and their nearest neighbors, with 2 bits."""
    rows, queries, truth = words()
    kinds = (
        ("turboquant-mse: biased", {"codec": "turboquant-mse"}, look.amber),
        ("prod as printed: unbiased, noisy", {"sketch": "gaussian"}, look.red),
        ("default: unbiased", {}, look.blue),
        ("trellis: unbiased", {"codec": "trellis"}, look.green),
    )
    exact = np.einsum("qd,qd->q", queries, rows[truth[:, 0]])
    axes = figure.subplots()
    for label, options, color in kinds:
        index = index_of(2, **options)
        guess = [index.estimate(query, near[:1])[0] for query, near in zip(queries, truth, strict=True)]
        error = np.array(guess) - exact
        label = f"{label}: {error.mean():+.3f} ± {error.std():.3f}"
        axes.hist(error, bins=70, range=(-0.25, 0.25), histtype="step", lw=1.6, color=color, label=label)
    axes.axvline(0, color=look.faint, lw=0.8)
    axes.set(xlabel="estimated cosine - cosine, at each query's nearest neighbor", yticks=[], xlim=(-0.25, 0.25))
    axes.legend(frameon=False, loc="upper left", fontsize=8)


def trellis(figure: Figure, look: Look) -> None:
    """Draw how the windows of a row's bits look up levels."""
    code = Trellis.of(2)
    bits = np.random.default_rng(4).integers(0, 2, 8 + 2 * 4)
    axes = figure.subplots()
    for i, bit in enumerate(bits):
        axes.text(i + 0.5, 0.5, str(bit), ha="center", va="center", family="monospace", fontsize=13, color=look.ink)
        axes.add_patch(mpl.patches.Rectangle((i, 0.1), 1, 0.8, fill=False, ec=look.faint, lw=0.7))
    levels = code.table.astype(np.float32) * np.float32(code.step)
    for t, color in enumerate((look.blue, look.red, look.green, look.amber)):
        begin, low = 2 * t, -0.25 - 0.62 * t
        window = int("".join(map(str, bits[begin : begin + 8][::-1])), 2)
        axes.plot([begin + 0.1, begin + code.window - 0.1], [low, low], color=color, lw=4, solid_capstyle="butt")
        axes.plot([begin + 6.1, begin + code.window - 0.1], [low + 0.12] * 2, color=color, lw=1.2)
        text = f"window {t}: {window:3d}, level {levels[window]:+.2f}"
        axes.text(len(bits) + 0.4, low, text, va="center", color=color, family="monospace", fontsize=9)
    axes.set(xlim=(-0.2, len(bits) + 7.5), ylim=(-2.5, 1.2))
    axes.axis("off")
    axes.set_title("2 bits, window of 8: two new bits per coordinate, with the six bits before them", fontsize=10)


def scan(figure: Figure, look: Look) -> None:
    """Draw the estimates for one query from the sign bits of all rows, and the rows whose other bits are read."""
    rows, queries, _ = words()
    d, query, k = rows.shape[1], queries[0], 10
    index = index_of(4)
    rotate = index._codec.rotation.forward
    signs = np.where(rotate(np.ascontiguousarray(rows.T)) > 0, 1.0, -1.0)
    by_signs = np.sqrt(np.pi / (2 * d)) * (rotate(query[:, None])[:, 0] @ signs)
    width = quantile(DEFAULT_CONFIDENCE) * np.sqrt(SignBoundTerms.of(d).sign_variance)
    score = index.estimate(query, np.arange(len(rows)))
    threshold = np.sort(score)[-k]
    read = by_signs + width > threshold
    axes = figure.subplots()
    axes.scatter(by_signs[~read], score[~read], s=2, color=look.faint, rasterized=True, lw=0)
    axes.scatter(by_signs[read], score[read], s=4, color=look.blue, rasterized=True, lw=0)
    best = np.argsort(-score)[:k]
    axes.scatter(by_signs[best], score[best], s=16, color=look.red, lw=0)
    axes.axhline(threshold, color=look.red, lw=0.9)
    axes.axvline(threshold - width, color=look.blue, lw=0.9)
    axes.set(xlabel="estimate from the sign bits alone", ylabel="score from all 4 bits")
    axes.set_title(
        f"{read.sum():,} of {len(rows):,} rows need their other bits (blue); red: the {k} results", fontsize=10
    )


def recall(figure: Figure, look: Look) -> None:
    """Draw recall by bits, as measured, and as expected from the noise of the scores alone."""
    rows, queries, truth = words()
    k, widths = 10, np.arange(1, 9)
    exact = np.sort(queries @ rows.T, axis=1)[:, ::-1][:, :2000].astype(np.float64)  # others can't reach the first k
    noise = np.random.default_rng(0).standard_normal(exact.shape)
    measured, expected = [], []
    for bits in widths:
        index = index_of(int(bits))
        measured.append(recall_at_k(index.search(queries, k, confidence=1).ids, truth, k))
        loss = index.stats()["expected_mse"]
        # Only the component of the query orthogonal to the vector contributes to the error of a score.
        spread = np.sqrt(loss / (1 - loss) / (rows.shape[1] - 1) * (1 - exact**2))
        first = np.argpartition(-(exact + spread * noise), k, axis=1)[:, :k]
        expected.append((first < k).mean())
    axes = figure.subplots()
    axes.plot(widths, expected, "--", color=look.amber, label="expected from the noise")
    axes.plot(widths, measured, "o-", color=look.blue, label="measured")
    for bits, value in zip(widths, measured, strict=True):
        axes.annotate(f"{value:.2f}", (bits, value), (0, -14), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="bits per coordinate", ylabel=f"recall@{k}", ylim=(0, 1.03))
    axes.legend(frameon=False, loc="lower right")


FIGURES: dict[str, tuple[Callable[[Figure, Look], None], tuple[float, float]]] = {
    "rotation": (rotation, (7.5, 3.0)),
    "cells": (cells, (7.5, 2.8)),
    "sketches": (sketches, (7.5, 3.2)),
    "trellis": (trellis, (7.5, 2.2)),
    "scan": (scan, (7.5, 3.6)),
    "recall": (recall, (7.5, 3.4)),
}


def draw(folder: Path) -> None:
    """Write NAME-light.svg and NAME-dark.svg of every figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for shade, look in LOOKS.items():
        ink = {f"{what}.color": look.ink for what in ("text", "xtick", "ytick")}
        style = {**ink, "axes.edgecolor": look.faint, "axes.labelcolor": look.ink, "axes.titlesize": 10}
        with mpl.rc_context({**style, "svg.hashsalt": "vqindex", "axes.spines.top": False, "axes.spines.right": False}):
            for name, (paint, size) in FIGURES.items():
                figure = Figure(size, layout="constrained")
                paint(figure, look)
                target = folder / f"{name}-{shade}.svg"
                figure.savefig(target, transparent=True, dpi=150, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
