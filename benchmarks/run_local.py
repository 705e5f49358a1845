"""Run the modules for ann-benchmarks and VIBE as these suites do, without their containers.

    python benchmarks/run_local.py ann-benchmarks DATA.hdf5 [-k 10] [--runs 5] [--rows N] [--queries N] [--only prod]
    python benchmarks/run_local.py vibe DATA.hdf5

Both suites expand `config.yml` into definitions, build on one thread, and search one query at a time. They run each
definition in a container; this script runs it in a process on one processor. The fastest of `--runs` runs counts.
Recall is by distance: a result counts if it is at most 0.001 farther than the true k-th neighbor. Appends a JSON line
per point to results/SUITE.jsonl and draws recall over queries per second.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import types
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import yaml
from numpy.typing import NDArray

from vqindex_bench.contest import THREAD_VARIABLES, machine
from vqindex_bench.data_files import read_rows
from vqindex_cli.output import show_table
from vqindex_datasets import exact_neighbors, load_annbench

HERE = Path(__file__).parent
EPSILON = 1e-3


class Suite(NamedTuple):
    """The differences between the suites: folder, names of distances, positional dicts, memory, variables."""

    folder: Path
    package: str
    distances: dict[str, str]
    dicts_are_positional: bool
    memory: str
    variables: tuple[str, ...]


SUITES = {
    "ann-benchmarks": Suite(
        HERE / "ann_benchmarks", "ann_benchmarks", {"cosine": "angular", "l2": "euclidean"}, False, "rss", ()
    ),
    "vibe": Suite(
        HERE / "vibe", "vibe", {"cosine": "cosine", "l2": "euclidean", "ip": "ip"}, True, "uss", THREAD_VARIABLES
    ),
}


# ---- config.yml


def combinations(config: Any, positional: bool) -> list[list[Any]]:
    """Return every list of arguments; a list is a product, a dict one argument (ann-benchmarks) or several (VIBE)."""
    if isinstance(config, dict):
        choices = [
            [(name, v) for v in (value if isinstance(value, list) else [value])] for name, value in config.items()
        ]
        dicts = [dict(choice) for choice in product(*choices)]
        return [list(one.values()) for one in dicts] if positional else [[one] for one in dicts]
    return [list(choice) for choice in product(*(value if isinstance(value, list) else [value] for value in config))]


def definitions(suite: Suite, metric: str, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the runs: constructor arguments, and all query arguments for each index."""
    config = yaml.safe_load((suite.folder / "vqindex" / "config.yml").read_text())
    out = []
    for entry in config["float"]["any"]:
        for name, group in entry["run_groups"].items():
            if only and name not in only:
                continue
            for values in combinations(group["args"], suite.dicts_are_positional):
                arguments = [metric if arg == "@metric" else arg for arg in [*entry["base_args"], *values]]
                out.append(
                    {
                        "constructor": entry["constructor"],
                        "arguments": arguments,
                        "queries": combinations(group["query_args"], suite.dicts_are_positional),
                    }
                )
    return out


# ---- one definition, in a process of its own


def base_class(memory: str) -> type:
    """Return the base class of the suites' modules."""

    class BaseANN:
        def get_memory_usage(self) -> float:
            process = psutil.Process()
            return (process.memory_full_info().uss if memory == "uss" else process.memory_info().rss) / 1024

        def get_additional(self) -> dict[str, Any]:
            return {}

        def done(self) -> None:
            pass

        def __str__(self) -> str:
            return str(self.name)

    return BaseANN


def load_module(suite: Suite) -> Any:
    """Import the module as the suite does: ``PACKAGE.algorithms.vqindex.module``, with the suite's base class."""
    for name, path in (("", None), (".algorithms", suite.folder), (".algorithms.base", None)):
        package = types.ModuleType(suite.package + name)
        package.__path__ = [] if path is None else [str(path)]
        sys.modules[package.__name__] = package
    base = types.ModuleType(f"{suite.package}.algorithms.base.module")
    base.BaseANN = base_class(suite.memory)
    sys.modules[base.__name__] = base
    return importlib.import_module(f"{suite.package}.algorithms.vqindex.module")


def distances(metric: str, query: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distances of rows to a query as both suites define them."""
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(rows - query, axis=1)
    if metric == "ip":
        return -(rows @ query)
    return 1 - rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))


def run_queries(algorithm: Any, task: dict[str, Any], train: Any, test: Any, limits: Any) -> dict[str, Any]:
    """Search one query at a time, in several runs; return recall and the speed of the fastest run."""
    k = task["k"]
    best = np.inf
    for _ in range(task["runs"]):
        seconds = 0.0
        close = 0
        for query, limit in zip(test, limits, strict=True):
            start = time.perf_counter()
            found = algorithm.query(query, k)
            seconds += time.perf_counter() - start
            if len(found) != len(set(found.tolist())) or len(found) > k:
                raise AssertionError(f"{algorithm} returned {found}; expected at most {k} different rows")
            close += int((distances(task["metric"], query, train[found]) <= limit + EPSILON).sum())
        best = min(best, seconds / len(test))
    return {"name": str(algorithm), "recall": close / (k * len(test)), "qps": 1 / best, **algorithm.get_additional()}


def child(task: dict[str, Any]) -> None:
    """Build one index and measure it with all its query arguments; print a JSON line for each."""
    suite = SUITES[task["suite"]]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    with np.load(task["data"]) as data:
        train, test, limits = data["train"], data["test"], data["limits"]
    before_fit = train.tobytes() if task["check"] else b""
    algorithm = getattr(load_module(suite), task["constructor"])(*task["arguments"])
    before, start = algorithm.get_memory_usage(), time.time()
    algorithm.fit(train)
    built = {"build_seconds": time.time() - start, "index_kb": algorithm.get_memory_usage() - before}
    for query_arguments in task["queries"]:
        algorithm.set_query_arguments(*query_arguments)
        point = run_queries(algorithm, task, train, test, limits)
        print(json.dumps({"arguments": task["arguments"], "query_arguments": query_arguments, **point, **built}))
    if task["check"] and train.tobytes() != before_fit:
        raise AssertionError("fit or query changed the rows it was given")
    algorithm.done()


# ---- all definitions


def prepare(path: Path, k: int, rows: int | None, queries: int | None, to: Path) -> str:
    """Write rows, queries and distances of true k-th neighbors to a file for the processes; return the metric."""
    data = load_annbench(path)
    train = read_rows(path, "train", rows)
    test = data.test[:queries]
    if len(train) == data.n and data.gt_k >= k:
        limits = data.distances[: len(test), k - 1]
    else:
        name = {"cosine": "angular", "l2": "euclidean", "ip": "ip"}[data.metric]
        limits = exact_neighbors(train, test, k, name)[1][:, k - 1]
    np.savez(to, train=train, test=test, limits=limits)
    return data.metric


def run_all(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run every definition in its own process and return all points."""
    suite = SUITES[args.suite]
    metric = prepare(args.data, args.k, args.rows, args.queries, scratch)
    if metric not in suite.distances:
        raise SystemExit(f"{args.data.name} has metric {metric}; {args.suite} has {', '.join(suite.distances)}")
    points = []
    for definition in definitions(suite, suite.distances[metric], args.only):
        task = {**definition, "suite": args.suite, "data": str(scratch), "metric": metric}
        task |= {"k": args.k, "runs": args.runs, "check": args.check}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(task)]
        environment = {**os.environ, **dict.fromkeys(suite.variables, "1")}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        points += [json.loads(line) for line in done.stdout.splitlines()]
        print(f"{points[-1]['name']}: recall {points[-1]['recall']:.4f}", file=sys.stderr, flush=True)
    head = {"benchmark": args.suite, "data": args.data.stem, "rows": args.rows, "queries": args.queries, "k": args.k}
    head |= {"runs": args.runs, "date": time.strftime("%Y-%m-%d"), **machine()}
    return [{**head, **point} for point in points]


def plot(path: Path, points: list[dict[str, Any]]) -> None:
    """Draw recall over queries per second, a line for each index."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 6), dpi=120)
    for arguments in dict.fromkeys(json.dumps(point["arguments"]) for point in points):
        mine = sorted((p["recall"], p["qps"]) for p in points if json.dumps(p["arguments"]) == arguments)
        # As in the suites: only the points of the line that no other one dominates.
        best = [(r, q) for r, q in mine if not any(a >= r and b >= q and (a, b) != (r, q) for a, b in mine)]
        settings = [arg.values() if isinstance(arg, dict) else [arg] for arg in json.loads(arguments)[1:]]
        label = ", ".join(str(value) for values in settings for value in values)
        axis.plot(*zip(*best, strict=True), marker="o", markersize=4, label=label)
    axis.set_yscale("log")
    axis.set_xlabel(f"recall@{points[0]['k']} by distance")
    axis.set_ylabel("queries per second, one at a time")
    axis.set_title(f"{points[0]['benchmark']}: {points[0]['data']}, {points[0]['cpu']}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("data", type=Path, help="ann-benchmarks file")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, help="only the first rows; true neighbors are computed")
    parser.add_argument("--queries", type=int, help="only the first queries")
    parser.add_argument("--only", nargs="+", help="these run groups only")
    parser.add_argument("--check", action="store_true", help="also check that the module does not change its rows")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scratch = args.out / f".{args.suite}.{os.getpid()}.npz"
    try:
        points = run_all(args, scratch)
    finally:
        scratch.unlink(missing_ok=True)
    with (args.out / f"{args.suite}.jsonl").open("a") as file:
        file.writelines(json.dumps(point) + "\n" for point in points)
    plot(args.out / f"{args.suite}-{args.data.stem}.png", points)
    columns = ("name", "recall", "qps", "build_seconds", "index_kb", "bytes_per_vector")
    show_table(columns, [tuple(point[name] for name in columns) for point in points])


if __name__ == "__main__":
    main()
