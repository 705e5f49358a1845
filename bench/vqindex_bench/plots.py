"""The recall plot of the demo and of the paper benchmark."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["has_matplotlib", "plot_recall_curves"]

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
