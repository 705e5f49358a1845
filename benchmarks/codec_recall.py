"""Recall and encoding speed of every codec at equal bits, over seeds of the rotation.

    python benchmarks/codec_recall.py DATA.hdf5 [--bits 1 2 3 4] [--codecs trellis ...] [--queries N] [--seeds 3]

Writes one JSON line per codec and width to codec-recall.jsonl. Recall is without re-ranking.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from paper_recall import load, spread

import vqindex
from vqindex_bench.contest import machine
from vqindex_cli.output import show_table
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

CODECS: dict[str, dict[str, Any]] = {
    "turboquant-prod": {},
    "turboquant-prod gaussian": {"sketch": "gaussian"},
    "turboquant-mse": {"codec": "turboquant-mse"},
    "trellis": {"codec": "trellis"},
    "turboquant-prod centered": {"center": "mean"},
    "trellis centered": {"codec": "trellis", "center": "mean"},
}


def one_run(train: np.ndarray, test: np.ndarray, truth: np.ndarray, index: vqindex.VQIndex) -> dict[str, float]:
    """Build and search once; return recall and encoding speed."""
    start = time.perf_counter()
    index.add(train)
    seconds = time.perf_counter() - start
    found = index.search(test, 10).ids
    return {
        "recall_at_10": recall_at_k(found, truth, 10),
        "recall_1_at_1": recall_1_at_k(found, truth, 1),
        "recall_1_at_10": recall_1_at_k(found, truth, 10),
        "vectors_per_second": len(train) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    train, test, truth, metric = load(args.data, args.rows, args.queries)
    head = {"benchmark": "codec_recall", "data": args.data.stem, "n": len(train), "dim": train.shape[1]}
    head |= {"queries": len(test), "metric": metric, "vqindex": vqindex.__version__, "date": time.strftime("%Y-%m-%d")}
    lines = []
    for bits in args.bits:
        for label in args.codecs:
            runs, size = [], 0
            for seed in range(args.seeds):
                index = vqindex.VQIndex(train.shape[1], bits, metric, seed=seed, **CODECS[label])
                runs.append(one_run(train, test, truth, index))
                size = index.stats()["bytes_per_vector"]
            values = {name: spread([run[name] for run in runs]) for name in runs[0]}
            lines.append({**head, **machine(), "codec": label, "bits": bits, "bytes_per_vector": size, **values})
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "codec-recall.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show_table(
        ("codec", "bits", "bytes", "recall@10", "(min..max)", "1@1", "1@10", "vectors/s"),
        [
            (
                r["codec"],
                r["bits"],
                r["bytes_per_vector"],
                r["recall_at_10"]["median"],
                f"{r['recall_at_10']['min']:.4f}..{r['recall_at_10']['max']:.4f}",
                r["recall_1_at_1"]["median"],
                r["recall_1_at_10"]["median"],
                r["vectors_per_second"]["median"],
            )
            for r in lines
        ],
    )


if __name__ == "__main__":
    main()
