"""Speed of filtered searches by selectivity, and of removal, beside turbovec and faiss in one process.

    python benchmarks/filters.py --data FILE.hdf5 [--bits 4] [--shares 1 0.1 0.01] [--clustered] [--threads 1]
    python benchmarks/filters.py --synthetic 1000000 384

A filter is a list of ids, a share of all rows, the same for all queries. The rows are random, or consecutive with
--clustered. Recall is that among the selected rows. The time includes the conversion of the list, except for faiss,
whose selector is made before. In every round each index has one turn per share with all queries in a call and one with
a query per call, so that a disturbance of the machine affects all indexes. Speeds are also given as ratios to the same
index without a filter, within a round. Appends a JSON line per index and share to results/filters.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper_recall import load
from peers import K, mixture, pin

import vqindex
from vqindex_bench.compare import unit
from vqindex_bench.contest import machine, quartiles, turn, versions
from vqindex_cli.output import show_table
from vqindex_datasets import exact_neighbors
from vqindex_datasets.recall import recall_at_k

F32 = NDArray[np.float32]
SINGLES = 100
REMOVED = 200  # ids removed one by one


@dataclass(frozen=True)
class Filtered:
    """An index: ``made(None)`` returns its plain search, ``made(rows)`` its search with a filter of these rows."""

    label: str
    bytes_per_vector: float
    made: Callable[[NDArray[np.int64] | None], Callable[[F32], NDArray[Any]]]
    remove: Callable[[int], Any]


def ours(rows: F32, bits: int, codec: str, threads: int) -> Filtered:
    index = vqindex.VQIndex(rows.shape[1], bits, "cosine", codec=codec)
    index.add(rows, ids=np.arange(len(rows)))
    one = index.spec

    def made(allowed: NDArray[np.int64] | None) -> Callable[[F32], NDArray[Any]]:
        return lambda q: index.search(q, K, filter=allowed, threads=threads).ids

    return Filtered(f"vqindex {codec}", one.bytes_per_vector, made, lambda i: index.remove([i]))


def turbovec(rows: F32, bits: int) -> Filtered:
    import turbovec

    index = turbovec.IdMapIndex(dim=rows.shape[1], bit_width=bits)
    index.add_with_ids(rows, np.arange(len(rows), dtype=np.uint64))
    index.prepare()

    def made(allowed: NDArray[np.int64] | None) -> Callable[[F32], NDArray[Any]]:
        ids = None if allowed is None else allowed.astype(np.uint64)
        return lambda q: index.search(q, K, allowlist=ids)[1].astype(np.int64)

    return Filtered("turbovec allowlist", rows.shape[1] * bits / 8 + 4, made, index.remove)


def faiss_quantizer(rows: F32, bits: int, threads: int) -> Filtered:
    """Build faiss' scalar quantizer; its scan takes an IDSelector, unlike those of the fast-scan indexes."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(rows.shape[1], f"SQ{bits}", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)

    def made(allowed: NDArray[np.int64] | None) -> Callable[[F32], NDArray[Any]]:
        if allowed is None:
            return lambda q: index.search(q, K)[1]
        mask = np.zeros(len(rows), bool)
        mask[allowed] = True
        params = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))
        return lambda q: index.search(q, K, params=params)[1]

    return Filtered(
        f"faiss SQ{bits} IDSelectorBitmap",
        float(index.code_size),
        made,
        lambda i: index.remove_ids(np.array([i], np.int64)),
    )


def tried(label: str, build: Callable[[], Filtered]) -> list[Filtered]:
    """Build an index, or print why it is not available."""
    try:
        return [build()]
    except (ImportError, ValueError) as reason:
        print(f"skipped {label}: {reason}", flush=True)
        return []


def build_all(rows: F32, bits: int, threads: int) -> list[Filtered]:
    return [
        *tried("vqindex", lambda: ours(rows, bits, "turboquant-prod", threads)),
        *tried("vqindex trellis", lambda: ours(rows, bits, "trellis", threads)),
        *tried("turbovec", lambda: turbovec(rows, bits)),
        *tried("faiss", lambda: faiss_quantizer(rows, 4, threads)),
    ]


def sample_rows(n: int, share: float, clustered: bool) -> NDArray[np.int64]:
    count = max(1, round(share * n))
    if clustered:
        return np.arange(n // 3, n // 3 + count) % n
    return np.sort(np.random.default_rng(1).choice(n, count, replace=False))


def measure(args: argparse.Namespace, name: str, rows: F32, queries: F32) -> list[dict[str, Any]]:
    built = build_all(rows, args.bits, args.threads)
    plain = {index.label: index.made(None) for index in built}
    singles = [queries[i % len(queries)][None] for i in range(SINGLES)]
    head = {"benchmark": "filters", "data": name, "n": len(rows), "dim": rows.shape[1], "bits": args.bits, "k": K}
    head |= {"queries": len(queries), "threads": args.threads, "rounds": args.rounds, "clustered": args.clustered}
    run = {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}
    lines = []
    for share in args.shares:
        allowed = sample_rows(len(rows), share, args.clustered)
        truth = allowed[exact_neighbors(rows[allowed], queries, min(K, len(allowed)), "angular")[0]]
        filtered = {index.label: index.made(allowed) for index in built}
        rates: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(args.rounds):
            for mode, blocks in (("batch", [queries]), ("single", singles)):
                for index in built:
                    for kind, search in (("plain", plain[index.label]), ("filtered", filtered[index.label])):
                        rate, _ = turn(search, blocks, args.turn_seconds)
                        rates.setdefault((index.label, mode, kind), []).append(rate)
        for index in built:
            found = filtered[index.label](queries)
            line = {**head, "index": index.label, "bytes_per_vector": index.bytes_per_vector, "share": share}
            line["recall_at_10"] = recall_at_k(found, truth, min(K, len(allowed)))
            for mode in ("batch", "single"):
                with_filter = np.array(rates[index.label, mode, "filtered"])
                line[f"{mode}_qps"] = quartiles(with_filter)
                line[f"{mode}_ratio_to_unfiltered"] = quartiles(
                    with_filter / np.array(rates[index.label, mode, "plain"])
                )
            lines.append({**line, **run})
        print(f"share {share:g} done", flush=True)
    removed = np.random.default_rng(2).permutation(len(rows))[:REMOVED].tolist()
    for index in built:
        index.remove(removed[0])  # the first removal also builds tables
        start = time.perf_counter()
        for i in removed[1:]:
            index.remove(i)
        seconds = (time.perf_counter() - start) / (len(removed) - 1)
        lines.append({**head, "index": index.label, "remove_microseconds": float(f"{seconds * 1e6:.4g}"), **run})
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    def cells(line: dict[str, Any], mode: str) -> tuple[str, str]:
        return f"{line[f'{mode}_qps']['median']:,.0f}", f"{line[f'{mode}_ratio_to_unfiltered']['median']:.2f}"

    show_table(
        ("index", "share", "recall@10", "batch q/s", "/unfiltered", "single q/s", "/unfiltered"),
        [
            (line["index"], line["share"], line["recall_at_10"], *cells(line, "batch"), *cells(line, "single"))
            for line in lines
            if "share" in line
        ],
    )
    show_table(
        ("index", "remove one id, us"),
        [(line["index"], line["remove_microseconds"]) for line in lines if "remove_microseconds" in line],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="ann-benchmarks file, angular")
    source.add_argument("--synthetic", type=int, nargs=2, metavar=("N", "D"), help="mixture of Gaussians on the sphere")
    parser.add_argument("--rows", type=int, help="only the first rows of the file")
    parser.add_argument("--queries", type=int, default=200, help="the batch")
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4))
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 0.5, 0.2, 0.1, 0.03, 0.01, 0.001])
    parser.add_argument("--clustered", action="store_true", help="consecutive rows instead of random ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=0.3, help="least length of a turn")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if min(args.rounds, args.threads, args.queries) < 1 or not all(0 < share <= 1 for share in args.shares):
        parser.error("--rounds, --threads and --queries start at 1, shares are above 0 and at most 1")
    pin(args.threads)
    if args.synthetic:
        rows, queries = mixture(*args.synthetic, args.queries, seed=0)
        name = "mixture-{}-{}".format(*args.synthetic)
    else:
        rows, queries, _, metric = load(args.data, args.rows, args.queries)
        if metric != "cosine":
            raise SystemExit(f"{args.data.name} has metric {metric}; all peers here share only cosine")
        rows, queries, name = unit(rows), unit(queries), args.data.stem
    lines = measure(args, name, rows, queries)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "filters.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show(lines)


if __name__ == "__main__":
    main()
