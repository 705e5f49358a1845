"""Time of commit, remove and open of a store, beside the corresponding calls of turbovec and faiss.

    python benchmarks/store.py --rows 1000000 --dim 128 --bits 4 --only vqindex,turbovec,faiss

Every index has the same rows with ids in no order. In each round every index has a turn: it adds 100 vectors and makes
them durable, removes 100 ids one by one and makes that durable, and is opened again from disk and answers a first
query. A disturbance of the machine therefore affects all indexes. faiss has no incremental save: it writes its whole
file, which is then synced, as the others do. Prints one JSON line for each index, with medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex_bench.contest import machine, versions

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Vqindex:
    """A store."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        self.folder = folder / "store"
        self.index = vqindex.open(self.folder, "a", dim=dim, bits=bits)

    def add(self, x: F32, ids: I64) -> None:
        self.index.add(x, ids)

    def remove(self, id: int) -> None:
        self.index.remove([id])

    def durable(self) -> None:
        self.index.commit()

    def reopen(self) -> Callable[[F32], Any]:
        opened = vqindex.open(self.folder)
        return lambda q: opened.search(q, 10).ids


class Turbovec:
    """An IdMapIndex, synced."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        import turbovec

        self.made_by, self.path = turbovec.IdMapIndex, str(folder / "index.tvim")
        self.index = turbovec.IdMapIndex(dim, bits)

    def add(self, x: F32, ids: I64) -> None:
        self.index.add_with_ids(x, ids.astype(np.uint64))

    def remove(self, id: int) -> None:
        assert self.index.remove(id)

    def durable(self) -> None:
        self.index.sync(self.path)

    def reopen(self) -> Callable[[F32], Any]:
        opened = self.made_by.load(self.path)
        return lambda q: opened.search(q, 10)[1]


class Faiss:
    """A scalar quantizer of 4, 6 or 8 bits, with ids; its file is written as a whole and synced."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        import faiss

        self.faiss, self.path = faiss, str(folder / "index.faiss")
        self.index = faiss.index_factory(dim, f"IDMap2,SQ{max(4, bits)}", faiss.METRIC_INNER_PRODUCT)

    def add(self, x: F32, ids: I64) -> None:
        if not self.index.is_trained:
            self.index.train(x[:10_000])
        self.index.add_with_ids(x, ids)

    def remove(self, id: int) -> None:
        self.index.remove_ids(np.array([id]))

    def durable(self) -> None:
        self.faiss.write_index(self.index, self.path + ".tmp")
        with open(self.path + ".tmp", "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path + ".tmp", self.path)

    def reopen(self) -> Callable[[F32], Any]:
        opened = self.faiss.read_index(self.path)
        return lambda q: opened.search(q, 10)[1]


KINDS = {"vqindex": Vqindex, "turbovec": Turbovec, "faiss": Faiss}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def mixture(rows: int, dim: int, seed: int) -> Iterator[F32]:
    """Yield rows of unit length in batches, so that a large index needs no copy of its vectors."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 100_000):
        x = rng.standard_normal((min(100_000, rows - start), dim), dtype=np.float32)
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def ids_from(start: int, count: int) -> I64:
    """Return distinct ids in no order."""
    return np.arange(start, start + count) * 2654435761 % 2**40


def built(name: str, folder: Path, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return an index of all rows, on disk, and the seconds of the first save."""
    index, done = KINDS[name](folder, args.dim, args.bits), 0
    for x in mixture(args.rows, args.dim, 0):
        index.add(x, ids_from(done, len(x)))
        done += len(x)
    return index, {"first_commit_s": seconds(index.durable)[0]}


def turn(index: Any, number: int, removed: list[int], args: argparse.Namespace) -> dict[str, list[float]]:
    """Run the turn of one index in a round; return the seconds of each step."""
    x = next(mixture(args.batch, args.dim, 2 + number))
    ids = ids_from(args.rows + number * args.batch, args.batch)
    times = {
        "add": [seconds(lambda: index.add(x, ids))[0]],
        "commit_added": [seconds(index.durable)[0]],
        "remove": [seconds(lambda i=i: index.remove(i))[0] for i in removed],
        "commit_removed": [seconds(index.durable)[0]],
    }
    opened, search = seconds(index.reopen)
    return {**times, "open": [opened], "first_query": [seconds(lambda: search(x[:1]))[0]]}


def measure(names: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(dir=args.where))
    try:
        made = {}
        for name in names:
            (folder / name).mkdir()
            try:
                made[name] = built(name, folder / name, args)
            except ImportError as error:
                print(f"{name} is skipped: {error}")
        shares = np.random.default_rng(1).permutation(args.rows)[: args.rounds * args.batch]
        times: dict[str, dict[str, list[float]]] = {name: {} for name in made}
        for number, removed in enumerate(shares.reshape(args.rounds, args.batch)):
            ids = (removed * 2654435761 % 2**40).tolist()
            for name, (index, _) in made.items():
                for what, values in turn(index, number, ids, args).items():
                    times[name].setdefault(what, []).extend(values)
        head = {"benchmark": "store", "rows": args.rows, "dim": args.dim, "bits": args.bits}
        head |= {"rounds": args.rounds, "batch": args.batch}
        run = {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}
        lines = []
        for name, (_, first) in made.items():
            size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
            line = {**head, "index": name, "bytes": size, **first}
            for what, values in times[name].items():
                line |= {f"{what}_s": statistics.median(values), f"{what}_s_max": max(values)}
            lines.append({**line, **run})
        return lines
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--only", default="vqindex,turbovec,faiss")
    parser.add_argument("--where", type=Path, default=Path(), help="folder on the disk to be measured")
    parser.add_argument("--results", type=Path, help="file to append the lines to")
    args = parser.parse_args()
    for report in measure(args.only.split(","), args):
        line = json.dumps({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in report.items()})
        print(line, flush=True)
        if args.results is not None:
            with args.results.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
