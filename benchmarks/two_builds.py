"""Two builds of vqindex beside each other, turn by turn, to see whether a change made anything slower.

    python benchmarks/two_builds.py --other OTHER/.venv/bin/python [--data FILE.hdf5] [--rows 60000] [--rounds 15]

Each build runs in a process of its own, on one processor, and holds the same indexes. In each round every index takes
a turn in one build and then in the other, so a disturbance of the machine falls on both; which build begins changes
from round to round. A turn measures the processor time of the process: encoding rows, a batch of queries in one call,
eight queries a call, and queries one at a time, each with one thread. Ratios are taken within a round, this build over
the other, and given as median and quartiles. Scores and ids of both builds must be equal. Writes a JSON line per index
and step to results/two_builds.jsonl, which replaces the line of the same step and pair of commits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex_bench.contest import machine
from vqindex_bench.data_files import read_file
from vqindex_cli.output import show_table

INDEXES: list[tuple[str, int]] = [
    ("turboquant-prod", 1),
    ("turboquant-prod", 2),
    ("turboquant-prod", 4),
    ("trellis", 2),
    ("trellis", 4),
]
STEPS = ("encode", "batch", "few", "single")
IDENTITY = ("codec", "bits", "step", "build", "other", "cpu", "data")

# Run by the interpreter of each build: reads an order a line, "codec bits step", and answers with seconds and a digest.
WORKER = """
import hashlib, json, os, sys, time
import numpy as np, vqindex
processor, rows_file, queries_file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.sched_setaffinity(0, {processor})
rows, queries = np.load(rows_file), np.load(queries_file)
indexes = {}
print(json.dumps({"file": vqindex.__file__}), flush=True)
for line in sys.stdin:
    codec, bits, step = line.split()
    if (codec, bits) not in indexes:
        indexes[codec, bits] = vqindex.VQIndex(rows.shape[1], int(bits), "cosine", codec=codec)
        indexes[codec, bits].add(rows)
    index = indexes[codec, bits]
    parts = []
    begin = time.process_time()
    if step == "encode":
        fresh = vqindex.VQIndex(rows.shape[1], int(bits), "cosine", codec=codec)
        fresh.add(rows[: len(rows) // 4])
        seconds = time.process_time() - begin
        parts = [fresh.estimate(queries[:8], np.arange(256))]
    elif step == "batch":
        parts = list(index.search(queries, 10, threads=1))
        seconds = time.process_time() - begin
    else:
        calls = queries[:32] if step == "single" else queries[: len(queries) // 8 * 8].reshape(-1, 8, rows.shape[1])
        found = [index.search(call, 10, threads=1) for call in calls]
        seconds = time.process_time() - begin
        parts = [array for result in found for array in result]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]
    print(json.dumps({"seconds": seconds, "digest": digest}), flush=True)
"""


class Worker:
    """A build in a process of its own."""

    def __init__(self, python: str, processor: int, rows: Path, queries: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-c", WORKER, str(processor), str(rows), str(queries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=rows.parent,  # not a checkout, whose package would come before the installed one
        )
        self.folder = Path(self._answer()["file"]).parent

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a build ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self, codec: str, bits: int, step: str) -> tuple[float, str]:
        """Measure one step; returns seconds of processor time and a digest of the results."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{codec} {bits} {step}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["digest"]

    def commit(self) -> str:
        """Return the commit of the build's checkout, or the folder's name without one."""
        found = subprocess.run(
            ["git", "-C", str(self.folder), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True
        )
        return found.stdout.strip() or self.folder.parent.name

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def read(args: argparse.Namespace) -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
    """Return the data's name, unit rows and queries."""
    if args.data is None:
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((args.rows + args.queries, args.dim), dtype=np.float32)
        return f"gaussian-{args.rows}-{args.dim}", rows[: args.rows], rows[args.rows :]
    data = read_file(args.data, 10, rows=args.rows, queries=args.queries)
    return args.data.stem, np.asarray(data.rows, np.float32), np.asarray(data.queries, np.float32)


def measure(this: Worker, other: Worker, rounds: int) -> dict[tuple[str, int, str], list[tuple[float, float]]]:
    """Return seconds of both builds for each index and step, round by round; the first round warms up."""
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for codec, bits in INDEXES:
            for step in STEPS:
                order = (this, other) if number % 2 else (other, this)
                turns = {worker: worker.turn(codec, bits, step) for worker in order}
                if turns[this][1] != turns[other][1]:
                    raise SystemExit(f"{codec}, {bits} bits, {step}: the builds' results differ")
                if number:
                    found.setdefault((codec, bits, step), []).append((turns[this][0], turns[other][0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, help="Python interpreter of the other build's environment")
    parser.add_argument("--data", type=Path, help="a file with rows and queries; without it Gaussian rows")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=384, help="of Gaussian rows")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processor", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    name, rows, queries = read(args)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "rows.npy", Path(folder) / "queries.npy"
        for file, array in zip(files, (rows, queries), strict=True):
            np.save(file, array)
        workers = [Worker(python, args.processor, *files) for python in (sys.executable, args.other)]
        try:
            found = measure(workers[0], workers[1], args.rounds)
            commits = [worker.commit() for worker in workers]
        finally:
            for worker in workers:
                worker.end()
    lines: list[dict[str, Any]] = []
    for (codec, bits, step), pairs in found.items():
        ratios = [this / other for this, other in pairs]
        low, median, high = (float(f"{value:.4g}") for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
        ours = float(f"{np.median([this for this, _ in pairs]):.4g}")
        lines.append(
            {
                "codec": codec,
                "bits": bits,
                "step": step,
                "data": name,
                "n": len(rows),
                "dim": rows.shape[1],
                "ratio": median,
                "quartiles": [low, high],
                "rounds": len(pairs),
                "cpu_seconds": ours,
                "build": commits[0],
                "other": commits[1],
                **machine(),
            }
        )
    show_table(
        ("codec", "bits", "step", "this / other", "quartiles"),
        [(line["codec"], line["bits"], line["step"], line["ratio"], line["quartiles"]) for line in lines],
    )
    path = args.out / "two_builds.jsonl"
    old = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    new = {tuple(line[field] for field in IDENTITY) for line in lines}
    kept = [line for line in old if tuple(line[field] for field in IDENTITY) not in new]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *lines]))


if __name__ == "__main__":
    main()
