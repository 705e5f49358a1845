"""Reproduce the recall figure and the indexing-time table of arXiv 2504.19874 (figure 5, table 2) against faiss PQ.

    python benchmarks/paper_recall.py DATA.hdf5 [--bits 2 4] [--rows N] [--queries N] [--seeds 3] [--out FOLDER]

DATA is an ann-benchmarks file (`vqindex datasets fetch glove-100`). Writes one JSON line per index to
paper-recall.jsonl and the figure to paper-recall-NAME.png. Recall 1@k is the share of queries whose true nearest
neighbor is among the first k, k = 1 .. 64, without re-ranking. Values of vqindex are median, minimum and maximum over
several seeds of the rotation; PQ trains with its own fixed seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import vqindex
from vqindex_bench.compare import OURS, Built, build_faiss_pq, build_ours
from vqindex_bench.contest import machine
from vqindex_bench.plots import plot_recall_curves
from vqindex_cli.output import show_table
from vqindex_datasets import exact_knn, load_annbench
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

KS = (1, 2, 4, 8, 16, 32, 64)


def load(path: Path, rows: int | None, queries: int | None) -> tuple[Any, ...]:
    """Return train, test, true neighbors and metric; for a subset the neighbors are computed."""
    data = load_annbench(path)
    with data.train as source:
        train = np.asarray(source.read(0, rows), np.float32)
    test = data.test[:queries]
    if len(train) == data.n:
        return train, test, data.neighbors[:queries], data.metric
    return train, test, exact_knn(train, test, max(KS), data.metric)[0], data.metric


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def measure(builds: list[Built], test: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return recall and build times over several builds of one index: median, minimum, maximum."""
    found = [built.search(test, max(KS)) for built in builds]
    return {
        "index": builds[0].label,
        "bits": builds[0].bits,
        "bytes_per_vector": builds[0].bytes_per_vector,
        "runs": len(builds),
        "recall_1_at_k": {str(k): spread([recall_1_at_k(f, truth, k) for f in found]) for k in KS},
        "recall_at_10": spread([recall_at_k(f, truth, 10) for f in found]),
        "train_seconds": spread([b.train_seconds for b in builds]),
        "build_seconds": spread([b.build_seconds for b in builds]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-faiss", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    train, test, truth, metric = load(args.data, args.rows, args.queries)
    head = {
        "benchmark": "paper_recall",
        "data": args.data.stem,
        "n": len(train),
        "dim": train.shape[1],
        "queries": len(test),
        "metric": metric,
        "vqindex": vqindex.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **machine(),
    }
    rows = []
    for bits in args.bits:
        for label in OURS:
            builds = [build_ours(label, train, bits, metric, seed=seed) for seed in range(args.seeds)]
            rows.append(measure(builds, test, truth))
        if not args.no_faiss:
            rows.append(measure([build_faiss_pq(train, bits, metric)], test, truth))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "paper-recall.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({**head, **row}) + "\n")
    curves = {(r["index"], r["bits"]): [r["recall_1_at_k"][str(k)]["median"] for k in KS] for r in rows}
    title = f"{args.data.stem}: {len(train):,} vectors of {train.shape[1]} dimensions"
    plot_recall_curves(args.out / f"paper-recall-{args.data.stem}.png", title, KS, curves)
    show_table(
        ("index", "bits", "bytes", *(f"1@{k}" for k in KS), "recall@10", "(min..max)", "build s"),
        [
            (
                r["index"],
                r["bits"],
                r["bytes_per_vector"],
                *(r["recall_1_at_k"][str(k)]["median"] for k in KS),
                r["recall_at_10"]["median"],
                f"{r['recall_at_10']['min']:.4f}..{r['recall_at_10']['max']:.4f}",
                r["build_seconds"]["median"],
            )
            for r in rows
        ],
    )


if __name__ == "__main__":
    main()
