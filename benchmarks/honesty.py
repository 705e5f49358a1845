"""Whether the numbers that searches state about themselves are right, on real data and a synthetic heavy-tailed set.

    python benchmarks/honesty.py EXPERIMENT [--data FILE.hdf5 ...] [--bits 1 2 3 4] [--queries 300] [--seeds 2]

coverage: how often the interval of each of the ten best results holds the result's exact score, at 68, 95 and 99 %.
    "before" is what a standard error alone gives: score +- z times that of a random pair, which is what searches
    returned before `return_interval`. "known" is the share of results that have an interval. The cost is the processor
    time of a batch of 1,000 queries with intervals over that without, by turns.

complete: how often `complete=` has found all of the ten best, and with how many reads, for cosine. "fixed" is the
    length of the one shortlist for all queries that is complete as often.

recall: what `estimate_recall` says, and the recall@10 of the same queries.

pairs: precision and recall of `near_pairs` against all pairs above a threshold of the cosine, and how often the bound
    of a pair holds. Also the processor time, and the memory that the call added to that of the process (on Linux).
plan: what `vqindex.plan` chooses for some targets from a sample of the vectors, for cosine. "recall" is the recall@10
    of that choice on all vectors, "best" the smallest choice that reaches the target, and "widths" by how many bits
    per coordinate the chosen vectors are longer than the best ones. Each range of the plan is compared with the
    recall, too.

Every setting is measured with several rotations (`--seeds`), and a JSON line for each is appended to
results/honesty.jsonl. The shipped sample of GloVe and the synthetic set are always measured; --data adds files.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.search.intervals import estimates_of
from vqindex_bench.contest import machine
from vqindex_cli.output import show_table
from vqindex_datasets import load_annbench, sample_path

F32 = NDArray[np.float32]

K = 10
LEVELS = (0.68, 0.95, 0.99)
BATCH = 1000
TURNS = 5
_PLACES = 5000  # a true neighbor behind so many estimates counts as this far
SETTINGS = (("cosine", None), ("cosine", "mean"), ("ip", None), ("l2", None), ("l2", "mean"))
CODECS = ("turboquant-prod", "trellis")
PAIRS = {"glove-100-sample": 0.8, "gcide-minilm-384-angular": 0.8, "heavy-tailed": 0.9}  # thresholds of cosines
ROUNDING = 1e-4  # of exact cosines in float32, and of kept vectors in float16
TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97)
SAMPLES = (4, 16)  # all vectors over those of the samples that plans are made from


class Data(NamedTuple):
    """Vectors and queries."""

    name: str
    rows: F32
    queries: F32


def heavy_tailed(rows: int = 50_000, queries: int = 1000, dim: int = 128) -> Data:
    """Draw clusters of power-law sizes whose members have distances of Student's t distribution from the centers."""
    rng = np.random.default_rng(3)
    clusters = 2000
    centers = rng.standard_normal((clusters, dim))
    sizes = 1.0 / np.arange(1, clusters + 1)

    def draw(n: int) -> F32:
        labels = rng.choice(clusters, n, p=sizes / sizes.sum())
        spread = np.sqrt(3.0 / rng.chisquare(3, n)) * rng.uniform(0.2, 1.2, n)
        return (centers[labels] + spread[:, None] * rng.standard_normal((n, dim))).astype(np.float32)

    return Data("heavy-tailed", draw(rows), draw(queries))


def load(path: Path) -> Data:
    """Return the vectors and queries of an ann-benchmarks file."""
    data = load_annbench(path)
    with data.train as source:
        return Data(path.stem, np.asarray(source.read(0, None), np.float32), np.asarray(data.test, np.float32))


def exact_scores(metric: str, data: Data, queries: F32, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact scores of results, (nq, k)."""
    found, q = data.rows[ids].astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return np.asarray(((found - q[:, None]) ** 2).sum(axis=2))
    products = np.einsum("qd,qkd->qk", q, found)
    if metric == "cosine":
        products /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(found, axis=2)
    return np.asarray(products)


def stated_before(index: vqindex.VQIndex, queries: F32) -> NDArray[np.float64]:
    """Return the standard errors of results as for pairs at right angles, (nq, K)."""
    searcher = index._state.searcher
    _, prepared, _ = searcher._prepare(queries)
    request = vqindex.rows.request.SearchRequest(prepared, K, None, 0.995, None)
    found = searcher._scan(request, None)
    errors = estimates_of(searcher.encoder, prepared, found, index._rows.segments())
    half = 0.5 if index.spec.metric == "cosine" and index.center is not None else 1.0
    return half * errors.slope * errors.sigma


def cost(index: vqindex.VQIndex, queries: F32) -> float:
    """Return the processor time of a batch with intervals over that of one without: the median over turns."""
    batch = np.resize(queries, (BATCH, queries.shape[1]))
    ratios = []
    for _ in range(TURNS + 1):
        seconds = []
        for how in ({}, {"return_interval": 0.95}):
            start = time.process_time()
            index.search(batch, K, **how)
            seconds.append(time.process_time() - start)
        ratios.append(seconds[1] / seconds[0])
    return float(np.median(ratios[1:]))  # the first turn warms up


def coverage(data: Data, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each setting."""
    queries = data.queries[: args.queries]
    for metric, center in SETTINGS:
        for codec in CODECS:
            for bits in args.bits:
                held: dict[str, dict[float, list[Any]]] = {"before": {}, "after": {}}
                known, luck, costs = [], [], []
                for seed in range(args.seeds):
                    index = vqindex.VQIndex(data.rows.shape[1], bits, metric, codec=codec, center=center, seed=seed)
                    index.add(data.rows)
                    errors = stated_before(index, queries)
                    for level in LEVELS:
                        result = index.search(queries, K, return_interval=level)
                        true = exact_scores(metric, data, queries, result.ids)
                        is_known = np.isfinite(result.low)
                        z = NormalDist().inv_cdf((1 + level) / 2)
                        held["before"].setdefault(level, []).append(np.abs(result.scores - true) <= z * errors)
                        is_held = (result.low <= true) & (true <= result.high)
                        held["after"].setdefault(level, []).append(is_held[is_known])
                    known.append(is_known.mean())
                    luck.append(((result.scores - true) / errors).mean() * (-1 if metric == "l2" else 1))
                    costs.append(cost(index, queries))
                shares = {
                    when: {str(level): float(np.concatenate([np.ravel(x) for x in found]).mean())
                           for level, found in levels.items()}
                    for when, levels in held.items()
                }  # fmt: skip
                yield {
                    "metric": metric, "center": center, "codec": codec, "bits": bits, **shares,
                    "known": float(np.mean(known)), "luck_in_standard_errors": float(np.mean(luck)),
                    "cost_ratio": float(np.median(costs)),
                }  # fmt: skip


def true_neighbors(data: Data, queries: F32) -> NDArray[np.int64]:
    """Return the K best rows of each query by cosine, (nq, K), in no order."""
    rows = data.rows / np.linalg.norm(data.rows, axis=1, keepdims=True)
    q = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return np.concatenate([np.argpartition(-(part @ rows.T), K, axis=1)[:, :K] for part in np.array_split(q, 10)])


def complete(data: Data, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each setting."""
    queries = data.queries[: args.queries]
    truth = np.sort(true_neighbors(data, queries), axis=1)
    for codec, center in (("turboquant-prod", None), ("trellis", "mean")):
        for bits in args.bits:
            held: dict[tuple[float, bool], list[Any]] = {}
            reads: dict[tuple[float, bool], list[Any]] = {}
            last = []  # place of the last true neighbor by estimates
            for seed in range(args.seeds):
                index = vqindex.VQIndex(data.rows.shape[1], bits, "cosine", codec=codec, center=center, seed=seed)
                index.add(data.rows)
                found = index.search(queries, min(_PLACES, len(data.rows))).ids
                places = [np.flatnonzero(np.isin(one, want)) for one, want in zip(found, truth, strict=True)]
                last += [int(place[-1]) + 1 if place.size == K else _PLACES for place in places]
                for how in ((0.9, False), (0.99, False), (0.99, True)):
                    result = index.search(queries, K, rerank=data.rows, complete=how[0], strict=how[1])
                    is_complete = (np.sort(result.ids, axis=1) == truth).all(axis=1)
                    held.setdefault(how, []).append(is_complete)
                    reads.setdefault(how, []).append(result.reads)
            for (chance, strict), found in held.items():
                shares, all_reads = np.concatenate(found), np.concatenate(reads[chance, strict])
                # Queries are the same in all rotations: the error is that over rotations of their mean.
                error = np.std([share.mean() for share in found], ddof=1) / np.sqrt(len(found))
                yield {
                    "metric": "cosine", "codec": codec, "center": center, "bits": bits, "complete": chance,
                    "strict": strict, "share": float(shares.mean()), "error": float(error),
                    "reads": float(all_reads.mean()), "reads_95": float(np.quantile(all_reads, 0.95)),
                    "fixed": int(np.quantile(last, shares.mean(), method="higher")),
                }  # fmt: skip


def recall(data: Data, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each setting."""
    queries = data.queries[: args.queries]
    truth = true_neighbors(data, queries)
    for codec in CODECS:
        for center in (None, "mean"):
            for bits in args.bits:
                true, low, high = [], [], []
                for seed in range(args.seeds):
                    index = vqindex.VQIndex(data.rows.shape[1], bits, "cosine", codec=codec, center=center, seed=seed)
                    index.add(data.rows)
                    found = index.search(queries, K).ids
                    true.append(np.mean([np.isin(one, want).mean() for one, want in zip(found, truth, strict=True)]))
                    for ends, end in zip((low, high), index.estimate_recall(queries, K), strict=True):
                        ends.append(end)
                yield {
                    "metric": "cosine", "codec": codec, "center": center, "bits": bits, "recall": float(np.mean(true)),
                    "low": float(np.mean(low)), "high": float(np.mean(high)),
                }  # fmt: skip


def memory_kb(*, reset: bool) -> int:
    """Return the most memory of the process since the last reset, in KiB; `reset` begins again with what it has now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def true_pairs(rows: F32, threshold: float) -> int:
    """Return the number of pairs of unit vectors with cosines above a threshold."""
    found = sum(int(np.count_nonzero(part @ rows.T > threshold)) for part in np.array_split(rows, len(rows) // 500 + 1))
    return (found - len(rows)) // 2


def pairs(data: Data, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each setting."""
    rows = data.rows / np.linalg.norm(data.rows, axis=1, keepdims=True)
    threshold = PAIRS[data.name]
    total = true_pairs(rows, threshold)
    for codec, kept in (*((codec, None) for codec in CODECS), ("turboquant-prod", "f16")):
        for bits in args.bits:
            right, held, returned, seconds, memory = [], [], [], [], []
            for seed in range(args.seeds):
                index = vqindex.VQIndex(rows.shape[1], bits, "cosine", codec=codec, seed=seed, keep_vectors=kept)
                index.add(data.rows)
                before = memory_kb(reset=True)
                start = time.process_time()
                found = vqindex.Pairs.joined(index.near_pairs(threshold))
                seconds.append(time.process_time() - start)
                memory.append(memory_kb(reset=False) - before)
                true = np.einsum("pd,pd->p", rows[found.first], rows[found.second])
                right.append(np.count_nonzero(true > threshold))
                held.append(np.count_nonzero(true >= found.bounds - ROUNDING))
                returned.append(true.size)
            yield {
                "metric": "cosine", "codec": codec, "keep_vectors": kept, "bits": bits, "threshold": threshold,
                "confidence": 0.95, "true_pairs": total, "returned": float(np.mean(returned)),
                "precision": sum(right) / max(sum(returned), 1), "recall": float(np.mean(right)) / total,
                "bound_holds": sum(held) / max(sum(returned), 1), "cpu_seconds": float(np.median(seconds)),
                "more_memory_mb": max(memory) / 1024,
            }  # fmt: skip


def measured(data: Data, truth: NDArray[np.int64], choice: vqindex.Choice, args: argparse.Namespace) -> float:
    """Return the recall of a choice of a plan over all vectors."""
    queries, recalls = data.queries[: args.queries], []
    for seed in range(args.seeds):
        index = vqindex.VQIndex(data.rows.shape[1], metric="cosine", seed=seed, **choice.parameters)
        index.add(data.rows)
        found = index.search(queries, K).ids
        recalls.append(np.mean([np.isin(one, want).mean() for one, want in zip(found, truth, strict=True)]))
    return float(np.mean(recalls))


def plan(data: Data, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each target, from samples of two sizes, with real queries and without."""
    truth, known = true_neighbors(data, data.queries[: args.queries]), {}
    for share in SAMPLES:
        sample = data.rows[np.random.default_rng(share).permutation(len(data.rows))[: len(data.rows) // share]]
        for queries in (data.queries[: args.queries], None):
            how = {"n": len(data.rows), "k": K, "queries": queries, "metric": "cosine"}
            start = time.process_time()
            found = vqindex.plan(sample, target_recall=0.5, **how)
            seconds = time.process_time() - start
            table = [one for one in found.table if not one.rerank and one.bits <= max(args.bits)]
            for one in table:
                if (one.codec, one.bits, one.center) not in known:
                    known[one.codec, one.bits, one.center] = measured(data, truth, one, args)
            recalls = [known[one.codec, one.bits, one.center] for one in table]
            errors = [(one.recall[0] - it, one.recall[1] - it) for one, it in zip(table, recalls, strict=True)]
            for target in TARGETS:
                best = next((one for one, it in zip(table, recalls, strict=True) if it >= target), None)
                chosen = next((one for one in table if one.recall[0] >= target), None)
                if best is None:
                    continue  # no choice among the measured ones reaches it
                line: dict[str, Any] = {
                    "metric": "cosine", "sample": len(sample), "real_queries": queries is not None, "target": target,
                    "best": f"{best.codec} {best.bits} {best.center}", "best_bytes": best.bytes_per_vector,
                    "chosen": None, "bytes": None, "recall": None, "widths": None,
                    "low_minus_recall": [min(e[0] for e in errors), float(np.mean([e[0] for e in errors]))],
                    "high_minus_recall": [min(e[1] for e in errors), float(np.mean([e[1] for e in errors]))],
                    "largest_low_minus_recall": max(e[0] for e in errors), "seconds": seconds,
                }  # fmt: skip
                if chosen is not None:
                    longer = chosen.bytes_per_vector - best.bytes_per_vector
                    line |= {
                        "chosen": f"{chosen.codec} {chosen.bits} {chosen.center}", "bytes": chosen.bytes_per_vector,
                        "recall": known[chosen.codec, chosen.bits, chosen.center],
                        "widths": 8 * longer / data.rows.shape[1],
                    }  # fmt: skip
                yield line


EXPERIMENTS = {"coverage": coverage, "complete": complete, "recall": recall, "pairs": pairs, "plan": plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--data", type=Path, nargs="+", default=[])
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of data sets")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for data in (load(sample_path()), *map(load, args.data), heavy_tailed()):
        if args.only and data.name not in args.only:
            continue
        head = {"benchmark": "honesty", "experiment": args.experiment, "data": data.name, "n": len(data.rows)}
        head |= {"dim": data.rows.shape[1], "queries": args.queries, "seeds": args.seeds, "k": K}
        found = []
        for line in EXPERIMENTS[args.experiment](data, args):
            found.append(line)
            with (args.out / "honesty.jsonl").open("a") as file:
                file.write(json.dumps({**head, **machine(), "date": time.strftime("%Y-%m-%d"), **line}) + "\n")
        print(data.name)
        show_table(tuple(found[0]), [tuple(str(value) for value in line.values()) for line in found])


if __name__ == "__main__":
    main()
