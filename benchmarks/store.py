"""Commit, remove and open of a store, beside turbovec's `sync` and `remove` and faiss's write_index and remove_ids.

    python benchmarks/store.py --rows 1000000 --dim 128 --bits 4 --only vqindex,turbovec,faiss

Every index holds the same rows with ids that follow no order. In each round every index has its turn: it adds 100
vectors and makes them durable, then removes 100 ids one by one and makes that durable, then is opened from disk beside
the one in use and answers a first query; so a disturbance of the machine falls on all of them. faiss has no incremental
save: it writes its whole file, which is then synced, as the others do. One JSON line for each index, with medians.
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
    """A scalar quantizer of as many bits (4, 6 or 8), with ids; its file is written whole and synced."""

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
    """Rows of unit length in parts, so that a large index needs no copy of its vectors."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 100_000):
        x = rng.standard_normal((min(100_000, rows - start), dim), dtype=np.float32)
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def ids_from(start: int, count: int) -> I64:
    """Distinct ids in no order."""
    return np.arange(start, start + count) * 2654435761 % 2**40


def built(name: str, folder: Path, given: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return an index of all rows, on disk, and how long the first save took."""
    index, done = KINDS[name](folder, given.dim, given.bits), 0
    for x in mixture(given.rows, given.dim, 0):
        index.add(x, ids_from(done, len(x)))
        done += len(x)
    return index, {"first_commit_s": seconds(index.durable)[0]}


def turn(index: Any, number: int, gone: list[int], given: argparse.Namespace) -> dict[str, list[float]]:
    """One index's turn of a round."""
    x = next(mixture(given.batch, given.dim, 2 + number))
    ids = ids_from(given.rows + number * given.batch, given.batch)
    times = {
        "add": [seconds(lambda: index.add(x, ids))[0]],
        "commit_added": [seconds(index.durable)[0]],
        "remove": [seconds(lambda i=i: index.remove(i))[0] for i in gone],
        "commit_removed": [seconds(index.durable)[0]],
    }
    opened, search = seconds(index.reopen)
    return {**times, "open": [opened], "first_query": [seconds(lambda: search(x[:1]))[0]]}


def measure(names: list[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(dir=given.where))
    try:
        made = {}
        for name in names:
            (folder / name).mkdir()
            try:
                made[name] = built(name, folder / name, given)
            except ImportError as error:
                print(f"{name} is left out: {error}")
        shares = np.random.default_rng(1).permutation(given.rows)[: given.rounds * given.batch]
        times: dict[str, dict[str, list[float]]] = {name: {} for name in made}
        for number, gone in enumerate(shares.reshape(given.rounds, given.batch)):
            wanted = (gone * 2654435761 % 2**40).tolist()
            for name, (index, _) in made.items():
                for what, values in turn(index, number, wanted, given).items():
                    times[name].setdefault(what, []).extend(values)
        head = {"benchmark": "store", "rows": given.rows, "dim": given.dim, "bits": given.bits}
        head |= {"rounds": given.rounds, "batch": given.batch}
        tail = {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}
        lines = []
        for name, (_, first) in made.items():
            size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
            line = {**head, "index": name, "bytes": size, **first}
            for what, values in times[name].items():
                line |= {f"{what}_s": statistics.median(values), f"{what}_s_max": max(values)}
            lines.append({**line, **tail})
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
    given = parser.parse_args()
    for report in measure(given.only.split(","), given):
        line = json.dumps({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in report.items()})
        print(line, flush=True)
        if given.results is not None:
            with given.results.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
