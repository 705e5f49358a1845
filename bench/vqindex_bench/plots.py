"""The recall plot of the demo and of the paper benchmark, and that of plans."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import vqindex

__all__ = ["has_matplotlib", "plot_plan", "plot_recall_curves"]

_COLORS = {
    "vqindex default": "#0b6e4f",
    "vqindex trellis": "#e09f3e",
    "prod as in the paper": "#c1666b",
    "faiss": "#4f5d75",
}


def has_matplotlib() -> bool:
    """Whether matplotlib can be imported."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_recall_curves(
    path: Path, title: str, ks: Sequence[int], curves: Mapping[tuple[str, int], Sequence[float]]
) -> None:
    """Draw recall 1@k over k, one panel per bit width, and save it as an image.

    Parameters
    ----------
    path : Path
        Image to write; the format follows the suffix.
    title : str
        Heading.
    ks : sequence of int
        The k of each point.
    curves : mapping of (label, bits) to sequence of float
        Recall at each k.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    widths = sorted({bits for _, bits in curves})
    figure, axes = plt.subplots(1, len(widths), figsize=(5.2 * len(widths), 4.2), squeeze=False, sharey=True)
    for axis, bits in zip(axes[0], widths, strict=True):
        for (label, width), values in curves.items():
            if width == bits:
                color = next(c for name, c in _COLORS.items() if label.startswith(name))
                axis.plot(ks, values, marker="o", markersize=3.5, linewidth=1.8, label=label, color=color)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(ks), [str(k) for k in ks])
        axis.set_title(f"{bits} bits per coordinate")
        axis.set_xlabel("k")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="lower right", frameon=False)
    axes[0][0].set_ylabel("recall 1@k (true nearest among the first k)")
    axes[0][0].set_ylim(None, 1.005)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_plan(path: Path, plan: vqindex.Plan) -> None:
    """Draw the ranges of recall of a plan over bytes per vector, and save the figure as an image.

    Parameters
    ----------
    path : Path
        Image to write; the format follows the suffix.
    plan : Plan
        The plan.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.6))
    for codec, label in (("turboquant-prod", "vqindex default"), ("trellis", "vqindex trellis")):
        for center, marker in ((None, "o"), ("mean", "s")):
            some = [c for c in plan.table if (c.codec, c.center, c.rerank) == (codec, center, False)]
            if some:
                low, high = (np.array([c.recall[end] for c in some]) for end in (0, 1))
                errors = np.stack([(high - low) / 2] * 2)
                name = label.removeprefix("vqindex ") + (", center" if center else "")
                axis.errorbar([c.bytes_per_vector for c in some], (low + high) / 2, errors, marker=marker,
                              markersize=3.5, linewidth=1.2, capsize=2.5, label=name, color=_COLORS[label],
                              alpha=0.6 if center else 1.0)  # fmt: skip
    axis.axhline(plan.target_recall, color="#4f5d75", linewidth=1, linestyle="--")
    if plan.best is not None:
        axis.plot([plan.best.bytes_per_vector], [sum(plan.best.recall) / 2], "*", markersize=14, color="#c1666b",
                  label="best choice")  # fmt: skip
    axis.set_xlabel("bytes per vector")
    axis.set_ylabel(f"recall@{plan.k} to expect")
    axis.set_title(f"{plan.n:,} vectors of {plan.dim} dimensions, {plan.metric}")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
