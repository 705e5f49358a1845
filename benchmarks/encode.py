"""Encoding speed of every codec on synthetic rows.

    python benchmarks/encode.py [--rows 1000000] [--dim 128] [--bits 1 2 3 4] [--codecs trellis ...] [--repeats 3]

Rows are Gaussian and seeded. A build is `VQIndex.add` of all rows in one call: checks, rotation, trellis search,
rescales, and the stored layout. Writes one JSON line per codec and width to results/encode.jsonl, which replaces the
line of the same codec, width and shape. A line has vectors per second and seconds, each as median, minimum and maximum
over the repeats; the number of processors that the process may use; and `load`, the machine's load average of one
minute before the first build, which includes other programs and earlier builds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from codec_recall import CODECS
from paper_recall import spread

import vqindex
from vqindex.backends.cpu import chosen_isa, cpu_count
from vqindex_bench.contest import machine
from vqindex_cli.output import show_table

IDENTITY = ("codec", "bits", "n", "dim")


def builds(rows: np.ndarray, bits: int, settings: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Build several times, each time with another rotation."""
    load, seconds, size = os.getloadavg()[0], [], 0
    for seed in range(repeats):
        index = vqindex.VQIndex(rows.shape[1], bits, seed=seed, **settings)
        start = time.perf_counter()
        index.add(rows)
        seconds.append(time.perf_counter() - start)
        size = index.stats()["bytes_per_vector"]
    speed = spread([len(rows) / s for s in seconds])
    return {
        "bytes_per_vector": size,
        "runs": repeats,
        "load": load,
        "seconds": spread(seconds),
        "vectors_per_second": speed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((args.rows, args.dim), np.float32)
    head = {"benchmark": "encode", "data": "gaussian", "n": args.rows, "dim": args.dim, "metric": "ip"}
    head |= {"vqindex": vqindex.__version__, "date": time.strftime("%Y-%m-%d"), **machine()}
    head |= {"isa": chosen_isa(), "processors": cpu_count()}
    lines = [
        {**head, "codec": label, "bits": bits, **builds(rows, bits, CODECS[label], args.repeats)}
        for bits in args.bits
        for label in args.codecs
    ]
    path = args.out / "encode.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    old = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    new = {tuple(line[name] for name in IDENTITY) for line in lines}
    others = [line for line in old if tuple(line[name] for name in IDENTITY) not in new]
    path.write_text("".join(json.dumps(line) + "\n" for line in others + lines))
    show_table(
        ("codec", "bits", "bytes", "seconds", "vectors/s", "(min..max)", "load"),
        [
            (
                r["codec"],
                r["bits"],
                r["bytes_per_vector"],
                r["seconds"]["median"],
                r["vectors_per_second"]["median"],
                f"{r['vectors_per_second']['min']:,.0f}..{r['vectors_per_second']['max']:,.0f}",
                r["load"],
            )
            for r in lines
        ],
    )


if __name__ == "__main__":
    main()
