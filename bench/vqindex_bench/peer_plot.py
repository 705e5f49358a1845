"""The figure of `bench`: recall over speed and over bytes, with a marker and a label per index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .pareto import PANELS, Panel, frontier

__all__ = ["plot_peers"]

# By the beginning of the label; the first that fits.
_COLORS = {
    "vqindex": "#0b6e4f",
    "turbovec": "#c1364b",
    "faiss HNSW": "#2f62c4",
    "faiss": "#4f5d75",
    "usearch": "#7a5195",
    "ScaNN": "#d07a00",
    "hnswlib": "#1a9bb5",
}
_MARKERS = {1: "v", 2: "o", 3: "^", 4: "s", 8: "D", 32: "P"}
_Point = tuple[float, float, str, str, tuple[float, float]]  # rate, recall, label, color, quartiles of the rate
_MOST_RECALL = 0.9995  # the logit scale has no 1
# Positions of a label relative to its marker, in points, nearest first.
_PLACES = [
    (r * np.cos(a), r * np.sin(a)) for r in (8, 16, 28, 42, 60, 80) for a in np.linspace(0, 2 * np.pi, 16, False)
]


def _place_labels(figure: Any, axis: Any, points: Sequence[_Point]) -> None:
    """Write each label at the nearest position in the panel where it covers no marker, spread or other label."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    inside = axis.get_window_extent(renderer)
    around = 5 * figure.dpi / 72
    occupied = []
    for x, y, _, _, spread in points:
        marker = axis.transData.transform((x, y))
        occupied.append(Bbox([marker - around, marker + around]))
        occupied.append(Bbox(axis.transData.transform([(end, y) for end in spread])).padded(2))
    for x, y, text, color, _ in points:
        thread = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
        style = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": color, "arrowprops": thread}
        for dx, dy in _PLACES:
            side = "left" if dx > 1 else "right" if dx < -1 else "center"
            note = axis.annotate(text, (x, y), (dx, dy), ha=side, **style)
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)  # without the thread to the marker
            within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if within and not any(box.overlaps(other) for other in occupied):
                occupied.append(box)
                break
            note.remove()
        else:
            print(f"no free place in the figure for the label {text!r}")


def _panel(figure: Any, axis: Any, lines: Sequence[dict[str, Any]], panel: Panel) -> None:
    points = []
    for line in lines:
        color = next((c for library, c in _COLORS.items() if line["index"].startswith(library)), "#4f5d75")
        value, recall = panel.value(line), min(max(line["recall_at_k"], 1 - _MOST_RECALL), _MOST_RECALL)
        axis.plot(panel.spread(line), [recall, recall], color=color, linewidth=1, alpha=0.6)
        axis.plot(value, recall, _MARKERS.get(line["bits"], "o"), markersize=6, color=color)
        points.append((value, recall, f"{line['index']}: {line['bits']}", color, panel.spread(line)))
    best = [points[i] for i in frontier(lines, panel)]
    axis.plot([p[0] for p in best], [p[1] for p in best], color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    recalls = [point[1] for point in points]
    rates = [point[0] for point in points]
    axis.set_xscale("log")
    axis.set_yscale("logit")
    odds = np.array([min(recalls), max(recalls)]) / (1 - np.array([min(recalls), max(recalls)])) * [0.7, 1.5]
    axis.set_ylim(*(odds / (1 + odds)))
    axis.set_xlim(min(rates) / 2.5, max(rates) * 2.5)
    ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_yticks([], minor=True)
    axis.set_ylim(*(odds / (1 + odds)))  # ticks outside must not widen it
    axis.set_xlabel(panel.label)
    axis.set_ylabel(f"recall@{lines[0]['k']}")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    _place_labels(figure, axis, points)


def plot_peers(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Draw recall over the speed of batches, of single queries, and over bytes, and save it as an image.

    The dashed line is the Pareto frontier.

    Parameters
    ----------
    path : Path
        Image to write; the format follows the suffix.
    lines : sequence of dict
        Result of `contest.measure`, at least one line.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    head = lines[0]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(8 * len(PANELS), 8), dpi=120)
    threads = f"{head['threads']} thread" + ("s" if head["threads"] > 1 else "")
    where = f"{head['data']}: {head['n']:,} x {head['dim']}, {head['metric']}, {threads}, {head['cpu']}"
    figure.suptitle(f"{where}; number = bits, line = quartiles over rounds")
    figure.subplots_adjust(left=0.035, right=0.99, bottom=0.07, top=0.9, wspace=0.12)  # labels are placed in pixels
    for axis, panel in zip(axes, PANELS, strict=True):
        axis.set_title(f"{panel.title}: {panel.details}")
        _panel(figure, axis, lines, panel)
    figure.savefig(path)
    plt.close(figure)
