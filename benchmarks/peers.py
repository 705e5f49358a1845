"""Recall, bytes and speed of vqindex and its peers on one data set, in one process, turn by turn.

    python benchmarks/peers.py --data FILE.hdf5 [--bits 1 2 4] [--threads 1] [--only ...] [--graphs] [--plot]
    python benchmarks/peers.py --synthetic 1000000 768

In every round each index has one turn with all queries in a call and one turn with a query per call, so that a
disturbance of the machine affects all indexes. Ratios to turbovec are taken within a round. Appends one JSON line per
index to results/peers.jsonl. benchmarks/README.md defines the values.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex_bench.compare import unit
from vqindex_bench.contest import MODES, THREAD_VARIABLES, Data, contenders_of, measure
from vqindex_bench.data_files import read_file
from vqindex_bench.peer_plot import plot_peers
from vqindex_bench.peers import CENTERED, DEFAULT, OURS, PEERS, Settings
from vqindex_cli.output import show_table
from vqindex_datasets import exact_neighbors

F32 = NDArray[np.float32]
K = 10
ALL = {**OURS, **CENTERED, **PEERS}
GRAPHS = [name for name, peer in PEERS.items() if peer.is_graph]


def pin(threads: int) -> None:
    """Restart this script on exactly `threads` processors with thread pools of that size, unless it runs so already.

    Libraries read the size of their pools when they are loaded, so setting it now would be too late. The processors are
    the last ones that the process may use; `taskset` selects others.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise SystemExit(f"{threads} threads asked for; this process may use {len(allowed)} processors")
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if len(allowed) == threads and all(os.environ.get(name) == value for name, value in variables.items()):
        return
    os.sched_setaffinity(0, allowed[-threads:])
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


def mixture(n: int, dim: int, queries: int, seed: int) -> tuple[F32, F32]:
    """Draw unit rows (n, dim) and queries (queries, dim) from one mixture of Gaussians, in bounded memory.

    A cluster has about 1,000 rows. Centers and noise have a power-law spectrum (i ** -0.5) in a random basis, as
    embeddings do, so that the neighbors of a query are hard to distinguish within its cluster.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    basis, triangle = np.linalg.qr(rng.standard_normal((dim, dim)))
    spectrum = np.arange(1, dim + 1) ** -0.5
    shape = (spectrum[:, None] * (basis * np.sign(np.diag(triangle))).T).astype(np.float32)
    centers = rng.standard_normal((max(2, n // 1000), dim), dtype=np.float32)
    drawn = np.empty((n + queries, dim), np.float32)
    for start in range(0, len(drawn), 16384):
        block = drawn[start : start + 16384]
        noise = rng.standard_normal(block.shape, dtype=np.float32)
        block[:] = unit((centers[rng.integers(len(centers), size=len(block))] + noise) @ shape)
    return drawn[:n], drawn[n:]


def read_data(args: argparse.Namespace) -> Data:
    """Return unit rows, unit queries and the true neighbors."""
    if args.synthetic:
        n, dim = args.synthetic
        rows, queries = mixture(n, dim, args.queries, seed=0)
        return Data(f"mixture-{n}-{dim}", rows, queries, exact_neighbors(rows, queries, K, "angular")[0], "cosine")
    data = read_file(args.data, K, rows=args.rows, queries=args.queries)
    if data.metric != "cosine":
        raise SystemExit(f"{args.data.name} has metric {data.metric}; not all peers here have it")
    return data


def key_value(text: str) -> tuple[str, Any]:
    """Parse ``name=value``; the value is a Python literal, or else a string."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}; expected name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="ann-benchmarks file, angular")
    source.add_argument("--synthetic", type=int, nargs=2, metavar=("N", "D"), help="mixture of Gaussians on the sphere")
    parser.add_argument("--rows", type=int, help="only the first rows of the file; true neighbors are computed")
    parser.add_argument("--queries", type=int, default=1000, help="first queries of the file; the batch")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", nargs="+", choices=list(ALL), help="these kinds only")
    parser.add_argument("--skip", nargs="+", choices=list(ALL), default=[], help="all but these kinds")
    parser.add_argument("--opq", action="store_true", help="also OPQ, which trains for minutes")
    parser.add_argument(
        "--graphs", action="store_true", help="also faiss HNSW and hnswlib, which take minutes to build"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=0.3, help="least length of a turn")
    parser.add_argument("--search-args", type=key_value, nargs="+", default=[], metavar="NAME=VALUE", help="for ours")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if min(args.rounds, args.threads, args.queries) < 1:
        parser.error("--rounds, --threads and --queries start at 1")
    return args


def say(text: str) -> None:
    print(text, flush=True)


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Build, search and time all indexes; return one line per index, in JSON types."""
    settings = Settings(K, args.threads, search_args=dict(args.search_args))
    names = args.only or [*OURS, *DEFAULT, *(["faiss-opq"] if args.opq else []), *(GRAPHS if args.graphs else [])]
    contenders = contenders_of([ALL[name] for name in names if name not in args.skip], args.bits)
    lines = measure(
        contenders,
        read_data(args),
        settings,
        rounds=args.rounds,
        seconds=args.turn_seconds,
        skip=say,
        note=say,
    )
    ours = {peer.label for peer in (*OURS.values(), *CENTERED.values())}
    extra = {"search_args": dict(settings.search_args)}
    return [{"benchmark": "peers", **line, **(extra if line["index"] in ours else {})} for line in lines]


def show(lines: list[dict[str, Any]]) -> None:
    def ratio(line: dict[str, Any], mode: str) -> str:
        value = line[f"{mode}_ratio_to_turbovec"]
        return f"{value['median']:.2f} ({value['q1']:.2f}..{value['q3']:.2f})" if value else "-"

    def rate(line: dict[str, Any], mode: str) -> str:
        value = line[f"{mode}_qps"]
        return f"{value['median']:,.0f} ({value['q1']:,.0f}..{value['q3']:,.0f})"

    show_table(
        ("index", "bits", "bytes", "recall@10", "1@1", "build s", "batch q/s", "/turbovec", "single q/s", "/turbovec"),
        [
            (
                *(line[name] for name in ("index", "bits", "bytes_per_vector")),
                *(line[name] for name in ("recall_at_k", "recall_1_at_1", "build_seconds")),
                *(cell(line, mode) for mode in MODES for cell in (rate, ratio)),
            )
            for line in lines
        ],
    )


def main() -> None:
    args = parse()
    pin(args.threads)
    lines = measure_all(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "peers.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show(lines)
    if args.plot and lines:
        many = "" if args.threads == 1 else f"-{args.threads}threads"
        plot_peers(args.out / f"peers-{lines[0]['data']}{many}.png", lines)


if __name__ == "__main__":
    main()
