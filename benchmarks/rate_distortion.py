"""Draw distortion over rate for a Gaussian coordinate: scalar codes, E8, the trellis, and Shannon's bound.

    python benchmarks/rate_distortion.py [--out docs]

Scalar values are computed (`vqindex.codes.codebook`, d = 16384). This script measures the shipped trellis. It reads E8
and the other windows, with the best tables found, from results/trellis-choices.jsonl (`trellis_choices.py e8 windows`).
Trellis values are those of long rows: they exclude 64 coordinates at both ends of a sequence, whose errors are smaller.
Distances to the bound 4^-b are in decibels.

Writes rate-distortion.png and rate-distortion.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from trellis_lab import EDGE

from vqindex.backends.registry import make_backend
from vqindex.codes.codebook import embedded, lloyd_max
from vqindex.codes.codec import Codec
from vqindex.codes.trellis import MAX_BITS, Trellis, trellis_values
from vqindex.spec import IndexSpec

ROWS, LENGTH = 1024, 2048
CHOICES = Path(__file__).parent / "results" / "trellis-choices.jsonl"
LINES = {
    "Lloyd-Max": "#4f5d75",
    "embedded (default codec)": "#c1666b",
    "E8 (ball, nested from 3 bits)": "#8d6a9f",
    "trellis as shipped": "#0b6e4f",
}
WINDOWS = {6: "#b8d8c8", 8: "#86bfa4", 9: "#5fa386", 10: "#e0a458", 12: "#b5651d"}


def trellis_distortion(bits: int) -> float:
    """Return the mean squared error on Gaussian sequences over their energy."""
    trellis = Trellis.of(bits)
    backend: Any = make_backend(Codec(IndexSpec(LENGTH, bits, codec="trellis")))
    y = np.random.default_rng(bits).standard_normal((LENGTH, ROWS)).astype(np.float32)
    fields = backend._search_trellis(trellis_values(y, np.ones(ROWS, np.float32), trellis.step), trellis)
    error = y - (trellis.table[trellis.windows(fields)] * np.float32(trellis.step)).T
    y, error = y[EDGE:-EDGE], error[EDGE:-EDGE]
    return float((error.astype(np.float64) ** 2).mean() / (y.astype(np.float64) ** 2).mean())


def measured() -> list[tuple[str, int, int | None, float]]:
    """Return the points of trellis-choices.jsonl: code, bits, window, distortion."""
    found = []
    for line in map(json.loads, CHOICES.read_text().splitlines()):
        if line["experiment"] == "e8" and line["shape"] == ("ball" if line["bits"] <= 2 else "nested"):
            found.append((list(LINES)[2], line["bits"], None, line["mse"]))
        if line["experiment"] == "windows" and not line["shipped"]:
            found.append(("trellis", line["bits"], line["window"], line["mse_inner"]))
    return sorted(found, key=lambda point: (point[0], point[1], point[2] or 0))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the distance to the bound over the bits, for all codes, and for the trellis by window."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.2), width_ratios=(3, 2))
    for code, color in LINES.items():
        points = [(r["bits"], r["db_above_bound"]) for r in rows if r["code"] == code]
        ours = code == "trellis as shipped"
        left.plot(*zip(*points, strict=True), marker="o", label=code, color=color, linewidth=2.5 if ours else 1.5)
        if ours:
            right.plot(*zip(*points, strict=True), "o", markersize=12, markerfacecolor="none", color=color, label=code)
    left.annotate("Shannon's bound: no code of any kind", (4.6, 0.06))
    left.set(xlabel="bits per coordinate", ylabel="distortion above the bound, dB", xticks=range(1, 9))
    left.set_title("all codes", fontsize=11)
    for window, color in WINDOWS.items():
        points = [(r["bits"], r["db_above_bound"]) for r in rows if r["code"] == "trellis" and r["window"] == window]
        label = f"window of {window} bits"
        right.plot(*zip(*points, strict=True), marker="o", markersize=5, linewidth=1.2, color=color, label=label)
    right.set(xlabel="bits per coordinate", xticks=range(1, 5), xlim=(0.8, 4.3))
    right.set_title("the trellis by its window, tables from structured starts", fontsize=11)
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=1)
        axis.set_ylim(-0.02 * axis.get_ylim()[1], 1.75 if axis is right else None)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.53))
    right.legend(frameon=False, loc="upper left", ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    args = parser.parse_args()
    scalar, prefix, _, ours = LINES
    points: list[tuple[str, int, int | None, float]] = []
    points += [(scalar, bits, None, lloyd_max(16384, bits).mse) for bits in range(1, 9)]
    points += [(prefix, bits, None, embedded(16384, bits).mse) for bits in range(1, 9)]
    points += [(ours, bits, Trellis.of(bits).window, trellis_distortion(bits)) for bits in range(1, MAX_BITS + 1)]
    rows = []
    for code, bits, window, mse in points + measured():
        row = {"code": code, "bits": bits, "mse": mse, "bound": 4.0**-bits}
        row |= {"db_above_bound": 10 * math.log10(mse * 4**bits)}
        rows.append(row if window is None else row | {"window": window})
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rate-distortion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(rows, args.out / "rate-distortion.png")
    for row in rows:
        print(f"{row['code']:30s} {row['bits']} bits  mse {row['mse']:.6f}  {row['db_above_bound']:.2f} dB above")


if __name__ == "__main__":
    main()
