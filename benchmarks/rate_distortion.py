"""Draw distortion over rate for a Gaussian coordinate: scalar codes, the trellis, and Shannon's bound.

    python benchmarks/rate_distortion.py [--out docs]

Scalar values are computed (`vqindex.codebook`, d = 16384). Trellis values are measured here on Gaussian sequences with
the shipped tables. Distances to the bound 4^-b are shown in decibels. Writes rate-distortion.png and
rate-distortion.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from vqindex.backend import make_backend
from vqindex.codebook import embedded, lloyd_max
from vqindex.codec import Codec
from vqindex.spec import IndexSpec
from vqindex.trellis import MAX_BITS, Trellis, trellis_values

ROWS, LENGTH = 1024, 2048


def trellis_distortion(bits: int) -> float:
    """Mean squared error on Gaussian sequences over their energy."""
    trellis = Trellis.of(bits)
    backend: Any = make_backend(Codec(IndexSpec(LENGTH, bits, codec="trellis")))
    y = np.random.default_rng(bits).standard_normal((LENGTH, ROWS)).astype(np.float32)
    fields = backend._search_trellis(trellis_values(y, np.ones(ROWS, np.float32), trellis.step), trellis)
    error = y - (trellis.table[trellis.windows(fields)] * np.float32(trellis.step)).T
    return float((error.astype(np.float64) ** 2).mean() / (y.astype(np.float64) ** 2).mean())


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the distance to the bound over the bits."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for code, colour in {"Lloyd-Max": "#4f5d75", "embedded (default)": "#c1666b", "trellis": "#0b6e4f"}.items():
        points = [(r["bits"], r["db_above_bound"]) for r in rows if r["code"] == code]
        axis.plot(*zip(*points, strict=True), marker="o", label=code, color=colour)
    axis.axhline(0, color="black", linewidth=1)
    axis.annotate("Shannon's bound: no code of any kind", (1, 0.04))
    axis.set(xlabel="bits per coordinate", ylabel="distortion above the bound, dB", xticks=range(1, 9))
    axis.set_ylim(-0.1, None)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    args = parser.parse_args()
    points = [("Lloyd-Max", bits, lloyd_max(16384, bits).mse) for bits in range(1, 9)]
    points += [("embedded (default)", bits, embedded(16384, bits).mse) for bits in range(1, 9)]
    points += [("trellis", bits, trellis_distortion(bits)) for bits in range(1, MAX_BITS + 1)]
    rows = [
        {"code": code, "bits": bits, "mse": mse, "bound": 4.0**-bits, "db_above_bound": 10 * math.log10(mse * 4**bits)}
        for code, bits, mse in points
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rate-distortion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(rows, args.out / "rate-distortion.png")
    for row in rows:
        print(f"{row['code']:20s} {row['bits']} bits  mse {row['mse']:.6f}  {row['db_above_bound']:.2f} dB above")


if __name__ == "__main__":
    main()
