"""Recall, bytes and speed of vqindex and its peers on one data set, in one process, turn by turn.

    python benchmarks/peers.py --data FILE.hdf5 [--bits 1 2 4] [--threads 1] [--rounds 5] [--only ...] [--opq] [--plot]
    python benchmarks/peers.py --synthetic 1000000 768

Every round gives each index one turn with all queries in a call and one turn with a query per call, so a disturbance of
the machine falls on all of them; ratios to turbovec are taken within a round. Appends one JSON line per index to
results/peers.jsonl. benchmarks/README.md says what is counted.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper_recall import load, machine
from peer_indexes import DEFAULT, PEERS, Built, Settings, UnavailableError
from peer_plot import plot_peers

from vqindex.cpu import chosen_isa
from vqindex_cli.compare import unit
from vqindex_cli.output import show_table
from vqindex_datasets import exact_neighbors
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

F32 = NDArray[np.float32]
K = 10
SINGLE_CALLS = 200
MODES = ("batch", "single")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
PACKAGES = ("vqindex", "numpy", "turbovec", "faiss-cpu", "usearch", "numkong", "scann")


def pin(threads: int) -> None:
    """Restart this script with its thread pools limited and on exactly `threads` processors, unless it is so already.

    Pools read their size when a library is loaded, so setting it now is too late. Processors are the last ones of those
    that the process may use: `taskset` chooses others.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise SystemExit(f"{threads} threads asked for; this process may use {len(allowed)} processors")
    wanted = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if len(allowed) == threads and all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.sched_setaffinity(0, allowed[-threads:])
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def mixture(n: int, dim: int, queries: int, seed: int) -> tuple[F32, F32]:
    """Draw unit rows (n, dim) and queries (queries, dim) from one mixture of Gaussians, in bounded memory.

    About 1,000 rows a cluster; centres and noise have a power-law spectrum (i ** -0.5) in a random basis, as embeddings
    do, so the hard part of the search is within a cluster.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    basis, triangle = np.linalg.qr(rng.standard_normal((dim, dim)))
    spectrum = np.arange(1, dim + 1) ** -0.5
    shape = (spectrum[:, None] * (basis * np.sign(np.diag(triangle))).T).astype(np.float32)
    centres = rng.standard_normal((max(2, n // 1000), dim), dtype=np.float32)
    drawn = np.empty((n + queries, dim), np.float32)
    for start in range(0, len(drawn), 16384):
        block = drawn[start : start + 16384]
        noise = rng.standard_normal(block.shape, dtype=np.float32)
        block[:] = unit((centres[rng.integers(len(centres), size=len(block))] + noise) @ shape)
    return drawn[:n], drawn[n:]


def read_data(args: argparse.Namespace) -> tuple[str, F32, F32, NDArray[np.int64]]:
    """Return name, unit rows, unit queries and the true neighbours."""
    if args.synthetic:
        n, dim = args.synthetic
        rows, queries = mixture(n, dim, args.queries, seed=0)
        return f"mixture-{n}-{dim}", rows, queries, exact_neighbors(rows, queries, K, "angular")[0]
    rows, queries, truth, metric = load(args.data, args.rows, args.queries)
    if metric != "cosine":
        raise SystemExit(f"{args.data.name} has metric {metric}; all peers here share only cosine")
    return args.data.stem, unit(rows), unit(queries), truth


def build_all(
    names: Sequence[str], widths: Sequence[int], rows: F32, settings: Settings
) -> dict[tuple[str, int], Built]:
    """Build every index that can be had, narrow ones first; say which can't."""
    wanted = sorted({(b, name) for name in names for b in (*widths, *PEERS[name].reference)})
    order = list(PEERS)
    built: dict[tuple[str, int], Built] = {}
    for bits, name in sorted(wanted, key=lambda item: (item[0], order.index(item[1]))):
        peer = PEERS[name]
        try:
            if bits not in peer.widths:
                raise UnavailableError(f"no {bits}-bit form")
            built[name, bits] = peer.build(rows, bits, settings)
            print(f"built {peer.label} {bits} bits: {built[name, bits].build_seconds:.2f} s", flush=True)
        except UnavailableError as reason:
            print(f"skipped {peer.label} {bits} bits: {reason}", flush=True)
    return built


def turn(search: Callable[[Any], Any], blocks: Sequence[Any], seconds: float) -> tuple[float, float]:
    """Search all blocks, again until `seconds` have passed; return queries per second, and processor time over time."""
    done, start, used = 0, time.perf_counter(), time.process_time()
    while True:
        for block in blocks:
            search(block)
            done += len(block)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return done / elapsed, (time.process_time() - used) / elapsed


def run_rounds(
    built: dict[tuple[str, int], Built], queries: F32, rounds: int, seconds: float
) -> dict[tuple[str, int], dict[str, NDArray[np.float64]]]:
    """Give every index its turn, `rounds` times; return rates and processor shares, shape (rounds,), by mode."""
    blocks: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for key, index in built.items():
        ready = index.prepare(queries)
        one_each = [ready[i % len(queries)][None] for i in range(SINGLE_CALLS)]
        blocks[key] = {"batch": [ready], "single": one_each}
    measured: dict[tuple[str, int], dict[str, list[float]]] = {
        key: {name: [] for mode in MODES for name in (mode, f"{mode}_busy")} for key in built
    }
    for number in range(rounds):
        for mode in MODES:
            for key, index in built.items():
                rate, busy = turn(index.search, blocks[key][mode], seconds)
                measured[key][mode].append(rate)
                measured[key][f"{mode}_busy"].append(busy)
        print(f"round {number + 1} of {rounds} done", flush=True)
    return {key: {name: np.array(values) for name, values in of.items()} for key, of in measured.items()}


def quartiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return median and quartiles to four digits."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {name: float(f"{v:.4g}") for name, v in (("median", middle), ("q1", low), ("q3", high))}


def speed(
    rates: dict[tuple[str, int], dict[str, NDArray[np.float64]]], key: tuple[str, int]
) -> dict[str, dict[str, float] | None]:
    """Return queries per second, the ratio to turbovec at the same bits round by round, and how busy the turns were."""
    out: dict[str, dict[str, float] | None] = {}
    base = rates.get(("turbovec", key[1]))
    for mode in MODES:
        out[f"{mode}_qps"] = quartiles(rates[key][mode])
        out[f"{mode}_ratio_to_turbovec"] = quartiles(rates[key][mode] / base[mode]) if base else None
        out[f"{mode}_processors_used"] = quartiles(rates[key][f"{mode}_busy"])
    return out


def versions() -> dict[str, str]:
    """Return the version of every package, and which instruction sets ours and faiss run on."""
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    try:
        import faiss

        found["faiss options"] = faiss.get_compile_options().strip()
    except ImportError:
        pass
    return {**found, "vqindex isa": chosen_isa()}


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
    parser.add_argument("--rows", type=int, help="only the first rows of the file; truth is computed anew")
    parser.add_argument("--queries", type=int, default=1000, help="first queries of the file; the batch")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", nargs="+", choices=list(PEERS), help="these kinds only")
    parser.add_argument("--skip", nargs="+", choices=list(PEERS), default=[], help="all but these kinds")
    parser.add_argument("--opq", action="store_true", help="also OPQ, which trains for minutes")
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


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Build, search and time everything; one JSON-able line per index."""
    name, rows, queries, truth = read_data(args)
    settings = Settings(K, args.threads, dict(args.search_args))
    head = {"benchmark": "peers", "data": name, "n": len(rows), "dim": rows.shape[1], "metric": "cosine", "k": K}
    head |= {"queries": len(queries), "single_calls": SINGLE_CALLS, "threads": args.threads, "rounds": args.rounds}
    tail = {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}
    chosen = args.only or [*DEFAULT, *(["opq"] if args.opq else [])]
    built = build_all([name for name in chosen if name not in args.skip], args.bits, rows, settings)
    del rows
    recalls = {}
    for key, index in built.items():  # also the warm-up
        start = time.perf_counter()
        found = index.search(index.prepare(queries))
        recalls[key] = {"recall_at_10": recall_at_k(found, truth, K), "recall_1_at_1": recall_1_at_k(found, truth, 1)}
        label = f"{PEERS[key[0]].label} {key[1]} bits"
        print(
            f"{label}: recall@10 {recalls[key]['recall_at_10']:.4f} in {time.perf_counter() - start:.1f} s", flush=True
        )
    rates = run_rounds(built, queries, args.rounds, args.turn_seconds)
    lines = []
    for (peer, bits), index in built.items():
        mine: dict[str, Any] = {"index": PEERS[peer].label, "bits": bits, "bytes_per_vector": index.bytes_per_vector}
        mine |= {"counted": index.counted, **recalls[peer, bits], "build_seconds": float(f"{index.build_seconds:.4g}")}
        if peer in ("prod", "trellis"):
            mine["search_args"] = dict(settings.search_args)
        lines.append({**head, **mine, **speed(rates, (peer, bits)), **tail})
    return lines


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
                *(line[name] for name in ("recall_at_10", "recall_1_at_1", "build_seconds")),
                *(cell(line, mode) for mode in MODES for cell in (rate, ratio)),
            )
            for line in lines
        ],
    )


def main() -> None:
    args = parse()
    pin(args.threads)
    lines = measure(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "peers.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show(lines)
    if args.plot and lines:
        many = "" if args.threads == 1 else f"-{args.threads}threads"
        plot_peers(args.out / f"peers-{lines[0]['data']}{many}.png", lines)


if __name__ == "__main__":
    main()
