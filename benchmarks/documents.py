"""Documents beside Chroma and LanceDB in one process: adding, one durable addition, opening, and filtered searches.

    pip install chromadb lancedb
    python benchmarks/documents.py --rows 60000 --dim 384 [--threads 1] [--folder FOLDER]

Rows and queries are a mixture of Gaussians; every document has a text of twelve words, a year `y` of 25, one of ten
languages, and one of n / 50 authors. A question is a kind of filter. Each search has one query, asks for ten documents
and returns their texts and metadata. "new" filters differ in every call, so that no answer to an earlier one helps;
"same" filters repeat. In every round each store has one turn per question. LanceDB scans all vectors, which is its way
without an index; `--lance-index` makes one. Lines hold wall times of calls, and the processor time of a call by turns,
which tells more on a machine that does other things. Appends a JSON line per store and question to
results/documents.jsonl.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import K, mixture, pin

from vqindex import documents
from vqindex_bench.contest import machine, quartiles, versions
from vqindex_cli.output import show_table

F32 = NDArray[np.float32]
Where = dict[str, Any]
BATCH = 5000  # documents of one call that adds
SINGLES = 20  # documents that are added one by one
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da")

# Each kind of filter: a function of a number, which makes the filter another one, and its meaning.
QUESTIONS: dict[str, tuple[Callable[[int], Where | None], Callable[[dict[str, NDArray[Any]], int], Any]]] = {
    "none": (lambda i: None, lambda m, i: np.ones(len(m["y"]), bool)),
    "y > 3": (lambda i: {"y": {"$gt": 3 + i / 1e4}}, lambda m, i: m["y"] > 3),
    "y >= 5 and lang": (
        lambda i: {"$and": [{"y": {"$gt": 5 - 1 / (i + 2)}}, {"lang": "de"}]},
        lambda m, i: (m["y"] >= 5) & (m["lang"] == "de"),
    ),
    "y < 5 or lang": (
        lambda i: {"$or": [{"y": {"$lt": 5 - 1 / (i + 2)}}, {"lang": "fr"}]},
        lambda m, i: (m["y"] < 5) | (m["lang"] == "fr"),
    ),
    "author != one": (lambda i: {"author": {"$ne": f"a{i}"}}, lambda m, i: m["author"] != f"a{i}"),
    "author == one": (lambda i: {"author": f"a{i}"}, lambda m, i: m["author"] == f"a{i}"),
}


class Store(ABC):
    """One contender, in a folder of its own."""

    label: str

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Open the store, or make it."""

    @abstractmethod
    def close(self) -> None:
        """Forget the store, so that `open` reads it from disk."""

    @abstractmethod
    def add(self, ids: list[str], texts: list[str], rows: F32, metadata: list[Where]) -> None:
        """Add documents; they are on disk afterwards."""

    @abstractmethod
    def search(self, query: F32, where: Where | None) -> list[str]:
        """Return the ids of the best documents, which are read with their texts and metadata."""

    def finish(self) -> None:
        """Do what a store wants done after its documents were added."""
        return


class Ours(Store):
    """`vqindex.documents`, with 4 bits per coordinate."""

    label = "vqindex.documents"

    def open(self) -> None:
        self._store = documents.open(self.folder, center="mean")

    def close(self) -> None:
        self._store.close()

    def add(self, ids: list[str], texts: list[str], rows: F32, metadata: list[Where]) -> None:
        self._store.add(texts, rows, metadata=metadata, ids=ids)

    def search(self, query: F32, where: Where | None) -> list[str]:
        return [hit.id for hit in self._store.search(query, K, where=where)]


class Reranked(Ours):
    """The same, with vectors of 16 bits per coordinate that score the best candidates again."""

    label = "vqindex.documents, reranked"

    def open(self) -> None:
        self._store = documents.open(self.folder, center="mean", keep_vectors="f16")

    def search(self, query: F32, where: Where | None) -> list[str]:
        return [hit.id for hit in self._store.search(query, K, where=where, rerank=True)]


class Chroma(Store):
    """Chroma, with its graph (HNSW)."""

    label = "chromadb"

    def open(self) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        self._client = chromadb.PersistentClient(str(self.folder), settings)
        self._docs = self._client.get_or_create_collection("docs", metadata={"hnsw:space": "cosine"})

    def close(self) -> None:
        from chromadb.api.shared_system_client import SharedSystemClient

        del self._docs, self._client
        SharedSystemClient.clear_system_cache()

    def add(self, ids: list[str], texts: list[str], rows: F32, metadata: list[Where]) -> None:
        self._docs.add(ids, rows, metadata, texts)  # type: ignore[arg-type]

    def search(self, query: F32, where: Where | None) -> list[str]:
        found: Any = self._docs.query(query[None], n_results=K, where=where)
        return list(found["ids"][0])


class Lance(Store):
    """LanceDB, with indexes of the metadata."""

    label = "lancedb"
    with_index = False

    def open(self) -> None:
        import lancedb
        import pyarrow as pa

        self._base = lancedb.connect(str(self.folder))
        fields = {"id": pa.string(), "text": pa.string(), "vector": pa.list_(pa.float32(), self.dim)}
        fields |= {"y": pa.float64(), "lang": pa.string(), "author": pa.string()}
        self._docs = self._base.create_table("docs", schema=pa.schema(fields.items()), exist_ok=True)

    def close(self) -> None:
        del self._docs, self._base

    def add(self, ids: list[str], texts: list[str], rows: F32, metadata: list[Where]) -> None:
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), self.dim)
        columns = {name: [each[name] for each in metadata] for name in ("y", "lang", "author")}
        self._docs.add(pa.table({"id": ids, "text": texts, "vector": vectors, **columns}))

    def finish(self) -> None:
        from lancedb.index import Bitmap, BTree

        for name, kind in (("y", BTree), ("lang", Bitmap), ("author", BTree)):
            self._docs.create_index(name, config=kind())
        if self.with_index:
            self._docs.create_index(metric="cosine")
        self._docs.optimize()

    def search(self, query: F32, where: Where | None) -> list[str]:
        found = self._docs.search(query).distance_type("cosine").limit(K)
        if where is not None:
            found = found.where(_sql(where), prefilter=True)
        return list(found.select(["id", "text", "y", "lang", "author", "_distance"]).to_arrow()["id"].to_pylist())


KINDS: tuple[type[Store], ...] = (Ours, Reranked, Chroma, Lance)


def _sql(where: Where) -> str:
    """Return a filter of this benchmark in LanceDB's language."""
    if "$and" in where or "$or" in where:
        ((name, parts),) = where.items()
        return f" {name[1:].upper()} ".join(f"({_sql(part)})" for part in parts)
    ((field, condition),) = where.items()
    symbol, value = next(iter(condition.items())) if isinstance(condition, dict) else ("$eq", condition)
    text = f"'{value}'" if isinstance(value, str) else repr(value)
    return f"{field} {({'$eq': '=', '$ne': '!=', '$gt': '>', '$lt': '<'})[symbol]} {text}"


def documents_of(n: int) -> tuple[list[str], list[Where], dict[str, NDArray[Any]]]:
    """Return texts and metadata of n documents, and the metadata as columns."""
    rng = np.random.default_rng(1)
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(each) for each in words[np.minimum(rng.zipf(1.3, (n, 12)), len(words)) - 1].tolist()]
    columns = {
        "y": rng.integers(0, 25, n),
        "lang": np.array(LANGUAGES)[rng.integers(0, len(LANGUAGES), n)],
        "author": np.char.add("a", rng.integers(0, max(2, n // 50), n).astype(str)),
    }
    values = {name: column.tolist() for name, column in columns.items()}
    return texts, [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)], columns


def fill(store: Store, texts: list[str], rows: F32, metadata: list[Where]) -> float:
    """Add all documents and return the seconds."""
    start = time.perf_counter()
    for at in range(0, len(rows), BATCH):
        end = min(at + BATCH, len(rows))
        store.add([f"d{i}" for i in range(at, end)], texts[at:end], rows[at:end], metadata[at:end])
    store.finish()
    return time.perf_counter() - start


def timed(call: Callable[[int], object], count: int) -> tuple[list[float], float]:
    """Return the milliseconds of each call, and the mean of their processor time."""
    taken, spent = [], time.process_time()
    for i in range(count):
        before = time.perf_counter()
        call(i)
        taken.append(1e3 * (time.perf_counter() - before))
    return taken, 1e3 * (time.process_time() - spent) / count


def truths(name: str, queries: F32, rows: F32, columns: dict[str, NDArray[Any]]) -> list[set[str]]:
    """Return the ids of the true ten best for each query with a filter of a question."""
    _, mask = QUESTIONS[name]
    scores = queries @ rows.T  # of unit rows
    found = []
    for i in range(len(queries)):
        allowed = np.flatnonzero(mask(columns, i))
        best = allowed[np.argsort(-scores[i, allowed], kind="stable")[:K]]
        found.append({f"d{row}" for row in best})
    return found


def recall(store: Store, name: str, queries: F32, truth: list[set[str]]) -> float:
    """Return the share of the true ten best that searches with the filters of a question find."""
    make, _ = QUESTIONS[name]
    found = [set(store.search(query, make(i))) for i, query in enumerate(queries)]
    return float(np.mean([len(mine & best) / len(best) for mine, best in zip(found, truth, strict=True)]))


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows, queries = mixture(args.rows, args.dim, args.queries + SINGLES, seed=0)
    queries, single_rows = queries[: args.queries], queries[args.queries :]
    texts, metadata, columns = documents_of(args.rows)
    kinds = [kind for kind in KINDS if kind.label in args.stores]
    stores, built = [], {}
    for kind in kinds:
        store = kind(folder / kind.label, args.dim)
        built[store.label] = fill(store, texts, rows, metadata)
        print(f"{store.label}: added in {built[store.label]:.1f} s", flush=True)
        stores.append(store)
    truth = {name: truths(name, queries[:50], rows, columns) for name in QUESTIONS}
    facts: dict[str, dict[str, Any]] = {
        store.label: {
            "add_s": float(f"{built[store.label]:.4g}"),
            "bytes": sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()),
            "recall_at_10": {name: recall(store, name, queries[:50], truth[name]) for name in QUESTIONS},
        }
        for store in stores
    }
    taken: dict[tuple[str, str, str], list[float]] = {}
    used: dict[tuple[str, str, str], list[float]] = {}
    for number in range(args.rounds):
        for name, (make, _) in QUESTIONS.items():
            for kind in ("new", "same"):
                for store in stores:
                    first = number * args.queries + 100  # after those that `recall` asked
                    filters = [make(first + i if kind == "new" else 0) for i in range(args.queries)]
                    pairs = list(zip(queries, filters, strict=True))
                    milliseconds, processor = timed(lambda i: store.search(*pairs[i]), args.queries)  # noqa: B023
                    taken.setdefault((store.label, name, kind), []).extend(milliseconds)
                    used.setdefault((store.label, name, kind), []).append(processor)
        print(f"round {number + 1} of {args.rounds}", flush=True)
    for store in stores:
        facts[store.label] |= opened_and_added(store, args, queries, single_rows)
    head = {"benchmark": "documents", "data": f"mixture-{args.rows}-{args.dim}", "n": args.rows, "dim": args.dim}
    head |= {"k": K, "threads": args.threads, "rounds": args.rounds, "queries": args.queries}
    packages = {name: version(name) for name in ("chromadb", "lancedb") if name in args.stores}
    run = {"versions": {**versions(), **packages}, "date": time.strftime("%Y-%m-%d"), **machine()}
    lines = []
    for store in stores:
        for name in QUESTIONS:
            line = {
                **head,
                "store": store.label,
                "question": name,
                "recall_at_10": facts[store.label]["recall_at_10"][name],
            }
            for kind in ("new", "same"):
                line[f"{kind}_ms"] = quartiles(np.array(taken[store.label, name, kind]))
                line[f"{kind}_cpu_ms"] = quartiles(np.array(used[store.label, name, kind]))
            lines.append({**line, **run})
        rest = {name: value for name, value in facts[store.label].items() if name != "recall_at_10"}
        lines.append({**head, "store": store.label, **rest, **run})
    return lines


def opened_and_added(store: Store, args: argparse.Namespace, queries: F32, rows: F32) -> dict[str, Any]:
    """Measure opening with a first search, and additions of one document."""

    def reopen(i: int) -> None:
        store.open()
        store.search(queries[i], None)

    opened = []
    for i in range(args.rounds):
        store.close()
        opened += timed(lambda _, i=i: reopen(i), 1)[0]  # type: ignore[misc]
    one = {"y": 1, "lang": "en", "author": "late"}
    added, _ = timed(lambda i: store.add([f"late{i}"], ["a late document"], rows[i : i + 1], [one]), SINGLES)
    found = store.search(rows[0], {"author": "late"})
    if "late0" not in found:
        raise SystemExit(f"{store.label} does not find a document that was added: {found}")
    return {"open_and_search_ms": quartiles(np.array(opened)), "add_one_ms": quartiles(np.array(added))}


def show(lines: list[dict[str, Any]]) -> None:
    asked = [line for line in lines if "question" in line]
    times = ("new_ms", "new_cpu_ms", "same_ms", "same_cpu_ms")
    show_table(
        ("store", "question", "recall@10", "new filter, ms", "cpu", "same filter, ms", "cpu"),
        [(x["store"], x["question"], x["recall_at_10"], *(x[name]["median"] for name in times)) for x in asked],
    )
    show_table(
        ("store", "add all, s", "MB", "add one, ms", "open and search, ms"),
        [
            (x["store"], x["add_s"], x["bytes"] / 1e6, x["add_one_ms"]["median"], x["open_and_search_ms"]["median"])
            for x in lines
            if "add_s" in x
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100, help="searches of a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stores", nargs="+", default=[kind.label for kind in KINDS])
    parser.add_argument("--lance-index", action="store_true", help="make an IVF_PQ index in LanceDB")
    parser.add_argument("--folder", type=Path, help="where the stores lie; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if min(args.rounds, args.threads, args.rows, args.dim) < 1 or args.queries < 50:
        parser.error("--rounds, --threads, --rows and --dim start at 1, --queries at 50")
    if args.rows < 50 * (args.rounds * args.queries + 100):
        parser.error("--rows are at least 50 * (rounds * queries + 100), so that every filter finds some author")
    pin(args.threads)
    Lance.with_index = args.lance_index
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        lines = measure(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "documents.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    show(lines)


if __name__ == "__main__":
    main()
