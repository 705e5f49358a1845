"""The engines of graph.py: how each is built, saved, loaded and searched, and what its bytes are.

An engine is loaded from the folder in which it was saved, so it can be built once, by a process that measures only
that. Rows and queries are unit vectors, and the metric is inner product, or cosine where an engine has no other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex_bench.peers import UnavailableError, need, to_int8

__all__ = ["EFFORTS", "ENGINES", "Engine", "Knob", "Search", "ours"]

F32 = NDArray[np.float32]
Knob = Mapping[str, Any]
Sweep = tuple[Knob, ...]
K = 10
EFFORTS = (10, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 128, 160, 205, 262, 335, 429, 549, 703, 900, 1400, 2200)
_LINKS, _BUILDING_EF = 16, 200  # of HNSW: links of the upper levels, and ef while building


class Search(NamedTuple):
    """An engine at one setting of its knob.

    ``batch`` takes prepared queries (nq, d), ``one`` a single one (1, d), in the form that costs the engine least per
    call; both return row numbers.
    """

    batch: Callable[[Any], NDArray[Any]]
    one: Callable[[Any], NDArray[Any]]


class Engine:
    """A kind of index. A subclass builds, saves, loads, and searches at a knob.

    Attributes
    ----------
    label : str
        Name in results.
    sweeps : tuple of tuple of dict
        Settings of the knob: each inner tuple by ascending effort, one for each choice of other parameters.
    counted : str
        What `bytes_of` counts.
    built_as : str or None
        Name of an engine whose saved index this one loads.
    """

    label: str
    built_as: str | None = None
    sweeps: tuple[Sweep, ...]
    counted = "its saved files"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.index: Any = None

    def build(self, rows: F32) -> dict[str, float]:
        """Build from rows (n, d); may return parts of the time, by name."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path, rows: F32) -> None:
        raise NotImplementedError

    def at(self, knob: Knob) -> Search:
        """Set the knob, and return the searches."""
        raise NotImplementedError

    def prepare(self, queries: F32) -> Any:
        """Convert queries to the engine's type; not timed."""
        return queries

    def bytes_of(self, folder: Path, rows: F32) -> dict[str, float]:
        """Return bytes a vector: all, and parts if they are known."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {"all": sum(path.stat().st_size for path in files) / len(rows)}

    def scored(self, queries: F32, knob: Knob) -> float | None:
        """Return how many codes a query scores, on average; None if the engine does not say."""
        return None

    def instruction_sets(self) -> str:
        """Return what is known about the instructions it was compiled for and uses."""
        return "not known"


def _sweep(name: str, values: tuple[int, ...] = EFFORTS, **fixed: Any) -> Sweep:
    return tuple({name: value, **fixed} for value in values)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what C++ code prints to the standard output nowhere."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _compiled_for(module: Any) -> str:
    """Return the widest registers that occur in a compiled module, by its disassembly."""
    file = getattr(module, "__file__", None)
    if file is None or shutil.which("objdump") is None:
        return "not known"
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=False
    ).stdout
    return "AVX-512" if "%zmm" in text else "AVX or AVX2" if "%ymm" in text else "no AVX"


class Hnswlib(Engine):
    label = "hnswlib"
    sweeps = (_sweep("ef"),)
    counted = "its file, which is its memory: float32 vectors, links, labels"

    def build(self, rows: F32) -> dict[str, float]:
        self.index = need("hnswlib").Index(space="ip", dim=rows.shape[1])
        self.index.init_index(max_elements=len(rows), ef_construction=_BUILDING_EF, M=_LINKS)
        self.index.add_items(rows, num_threads=self.threads)
        return {}

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index"))

    def load(self, folder: Path, rows: F32) -> None:
        self.index = need("hnswlib").Index(space="ip", dim=rows.shape[1])
        self.index.load_index(str(folder / "index"))

    def at(self, knob: Knob) -> Search:
        self.index.set_ef(knob["ef"])
        threads = self.threads

        def search(queries: F32) -> NDArray[Any]:
            found: NDArray[Any] = self.index.knn_query(queries, K, num_threads=threads)[0]
            return found

        return Search(search, search)

    def instruction_sets(self) -> str:
        return f"compiled on installation, with {_compiled_for(need('hnswlib'))} instructions"


class _Faiss(Engine):
    def _factory(self, n: int, d: int) -> Any:
        raise NotImplementedError

    def build(self, rows: F32) -> dict[str, float]:
        faiss = need("faiss")
        faiss.omp_set_num_threads(self.threads)
        self.index = self._factory(*rows.shape)
        self.index.train(rows)
        self.index.add(rows)
        return {}

    def save(self, folder: Path) -> None:
        need("faiss").write_index(self.index, str(folder / "index"))

    def load(self, folder: Path, rows: F32) -> None:
        faiss = need("faiss")
        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.read_index(str(folder / "index"))

    def _search(self, queries: F32) -> NDArray[Any]:
        found: NDArray[Any] = self.index.search(queries, K)[1]
        return found

    def instruction_sets(self) -> str:
        return f"chosen at run time: {need('faiss').get_compile_options().strip()}"


class FaissHnsw(_Faiss):
    label = "faiss HNSW32"
    sweeps = (_sweep("ef"),)
    counted = "its file: float32 vectors and links"

    def _factory(self, n: int, d: int) -> Any:
        faiss = need("faiss")
        index = faiss.index_factory(d, "HNSW32", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILDING_EF
        return index

    def at(self, knob: Knob) -> Search:
        self.index.hnsw.efSearch = knob["ef"]
        return Search(self._search, self._search)


class FaissRabitq(_Faiss):
    """Cells of 4-bit RaBitQ codes, with exact scores of a shortlist from float16 rows."""

    label = "faiss IVF-RaBitQ"
    sweeps = tuple(_sweep("nprobe", (2, 4, 8, 16, 32, 64, 128, 256, 512), k_factor=factor) for factor in (2, 4, 10))
    counted = "its file: codes, cells, and float16 rows"

    def _factory(self, n: int, d: int) -> Any:
        faiss = need("faiss")
        cells = 2 ** round(np.log2(4 * n**0.5))
        return faiss.index_factory(d, f"RR,IVF{cells},RaBitQfs4,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT)

    def at(self, knob: Knob) -> Search:
        faiss = need("faiss")
        self.index.k_factor = knob["k_factor"]
        faiss.extract_index_ivf(faiss.downcast_index(self.index.base_index)).nprobe = knob["nprobe"]
        return Search(self._search, self._search)


class Usearch(Engine):
    dtype = "f16"
    label = "usearch f16"
    sweeps = (_sweep("ef"),)
    counted = "its file: float16 vectors, links, keys"

    def _new(self, d: int) -> Any:
        return need("usearch.index").Index(
            ndim=d,
            metric="ip" if self.dtype == "f16" else "cos",
            dtype=self.dtype,
            connectivity=_LINKS,
            expansion_add=128,
            enable_key_lookups=False,
        )

    def build(self, rows: F32) -> dict[str, float]:
        self.index = self._new(rows.shape[1])
        self.index.add(np.arange(len(rows)), self.prepare(rows), threads=self.threads)
        return {}

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def load(self, folder: Path, rows: F32) -> None:
        self.index = self._new(rows.shape[1])
        self.index.load(str(folder / "index"))

    def prepare(self, queries: F32) -> Any:
        return queries.astype(np.float16)

    def at(self, knob: Knob) -> Search:
        self.index.expansion_search = knob["ef"]

        def search(queries: Any) -> NDArray[Any]:
            found: NDArray[Any] = self.index.search(queries, K, threads=self.threads).keys
            return found

        return Search(search, search)

    def instruction_sets(self) -> str:
        return f"chosen at run time: {self.index.hardware_acceleration}"


class UsearchI8(Usearch):
    dtype = "i8"
    label = "usearch i8"
    counted = "its file: int8 vectors, links, keys"

    def prepare(self, queries: F32) -> Any:
        return to_int8(queries)


class Glass(Engine):
    """HNSW over 8-bit codes; `refine` rescores candidates from float16 rows."""

    label = "glass SQ8U"
    refine = ""
    sweeps = (_sweep("ef"),)
    counted = "links (its file) and 8-bit codes"

    def build(self, rows: F32) -> dict[str, float]:
        glass = need("glass")
        glass.set_num_threads(self.threads)
        with _quiet():
            self.index = glass.Index("HNSW", "IP", "SQ8U", 2 * _LINKS, _BUILDING_EF).build(rows)
        return {}

    def save(self, folder: Path) -> None:
        with _quiet():
            self.index.save(str(folder / "index"))

    def load(self, folder: Path, rows: F32) -> None:
        glass = need("glass")
        glass.set_num_threads(self.threads)
        with _quiet():
            graph = glass.Graph(str(folder / "index"))
            self.index = glass.Searcher(graph, np.ascontiguousarray(rows), "IP", "SQ8U", self.refine)
            self.index.set_ef(64)
            self.index.optimize(self.threads)

    def at(self, knob: Knob) -> Search:
        self.index.set_ef(knob["ef"])
        return Search(
            lambda queries: np.asarray(self.index.batch_search(queries, K, self.threads)[0]),
            lambda query: np.asarray(self.index.search(query[0], K)[0]),
        )

    def bytes_of(self, folder: Path, rows: F32) -> dict[str, float]:
        links, d = super().bytes_of(folder, rows)["all"], rows.shape[1]
        return {"all": links + d * (3 if self.refine else 1), "links": links}

    def instruction_sets(self) -> str:
        return f"compiled with {_compiled_for(need('glass'))} instructions (pyglass-portable)"


class GlassRefined(Glass):
    label = "glass SQ8U + f16"
    built_as = "glass"
    refine = "FP16"
    counted = "links (its file), 8-bit codes and float16 rows"


class SymphonyQG(Engine):
    """A graph whose rows hold 1-bit codes of their neighbors; `bits` of the rows' own vectors, 0 for float32."""

    bits = 0
    label = "SymphonyQG f32"
    sweeps = (_sweep("ef"),)
    counted = "its file: links, codes of neighbors, float32 rows"

    def build(self, rows: F32) -> dict[str, float]:
        self.index = need("rabitqlib").SymqgIndex(rows.shape[1], 32, "ip", self.bits)
        self.index.build(rows, _BUILDING_EF, self.threads)
        return {}

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def load(self, folder: Path, rows: F32) -> None:
        self.index = need("rabitqlib").SymqgIndex.load(str(folder / "index"))

    def at(self, knob: Knob) -> Search:
        def search(queries: F32) -> NDArray[Any]:
            found: NDArray[Any] = self.index.search_batch(queries, K, knob["ef"], self.threads)[0]
            return found

        def one(query: F32) -> NDArray[Any]:
            found: NDArray[Any] = self.index.search(query, K, knob["ef"], self.threads)[0]
            return found

        return Search(search, one)

    def instruction_sets(self) -> str:
        return f"chosen at run time, up to {_compiled_for(need('rabitqlib._rabitqlib'))}"


class SymphonyQG8(SymphonyQG):
    bits = 8
    label = "SymphonyQG 8 bits"
    counted = "its file: links, codes of neighbors, 8-bit rows"


class Scann(Engine):
    """Cells, 4-bit anisotropic codes, and exact scores of a shortlist."""

    label = "ScaNN"
    sweeps = tuple(
        _sweep("leaves", (2, 3, 5, 8, 12, 20, 32, 50, 80, 130, 200, 320), shortlist=shortlist)
        for shortlist in (30, 100, 300)
    )
    counted = "its saved files: codes, cells, and float32 rows"

    def build(self, rows: F32) -> dict[str, float]:
        scann = need("scann")
        n = len(rows)
        builder = scann.scann_ops_pybind.builder(rows, K, "dot_product")
        builder.set_n_training_threads(self.threads)
        builder = builder.tree(
            num_leaves=round(2 * n**0.5), num_leaves_to_search=20, training_sample_size=min(n, 250_000)
        )
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
        return {}

    def save(self, folder: Path) -> None:
        self.index.serialize(str(folder))

    def load(self, folder: Path, rows: F32) -> None:
        self.index = need("scann").scann_ops_pybind.load_searcher(str(folder))
        self.index.set_num_threads(self.threads)

    def at(self, knob: Knob) -> Search:
        known = {"leaves_to_search": knob["leaves"], "pre_reorder_num_neighbors": knob["shortlist"]}
        many = self.index.search_batched if self.threads == 1 else self.index.search_batched_parallel
        return Search(
            lambda queries: np.asarray(many(queries, final_num_neighbors=K, **known)[0]),
            lambda query: np.asarray(self.index.search(query[0], final_num_neighbors=K, **known)[0]),
        )


class Svs(Engine):
    """Vamana over float16 rows: its codes (LVQ, LeanVec) refuse processors that are not Intel's."""

    label = "SVS Vamana f16"
    sweeps = (_sweep("window"),)
    counted = "its saved files: float16 rows and links"

    def build(self, rows: F32) -> dict[str, float]:
        svs = need("svs")
        parameters = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128)
        self.index = svs.Vamana.build(parameters, rows.astype(np.float16), svs.DistanceType.MIP, self.threads)
        return {}

    def save(self, folder: Path) -> None:
        self.index.save(*(str(folder / part) for part in ("config", "graph", "data")))

    def load(self, folder: Path, rows: F32) -> None:
        svs = need("svs")
        parts = (str(folder / part) for part in ("config", "graph", "data"))
        config, graph, data = parts
        loader = svs.VectorDataLoader(data, svs.DataType.float16, dims=rows.shape[1])
        self.index = svs.Vamana(
            config,
            svs.GraphLoader(graph),
            loader,
            svs.DistanceType.MIP,
            query_type=svs.DataType.float16,
            num_threads=self.threads,
        )

    def prepare(self, queries: F32) -> Any:
        return queries.astype(np.float16)

    def at(self, knob: Knob) -> Search:
        self.index.search_window_size = knob["window"]

        def search(queries: Any) -> NDArray[Any]:
            found: NDArray[Any] = self.index.search(queries, K)[0]
            return found

        return Search(search, search)

    def instruction_sets(self) -> str:
        return f"chosen at run time, up to {_compiled_for(need('svs._svs'))}"


class Ours(Engine):
    """Our index with a graph: codes of `codec` and `bits`, and kept vectors of a type, or none, for the rerank."""

    codec: str | None = None
    bits = 4
    keep: str | None = "f16"
    counted = "codes with scalars, links, and kept vectors"

    def new(self, dim: int) -> Any:
        """Return an empty index."""
        options = {} if self.codec is None else {"codec": self.codec}
        try:
            index = vqindex.VQIndex(dim, self.bits, "cosine", keep_vectors=self.keep, **options)
        except vqindex.InvalidInputError as error:
            raise UnavailableError(str(error)) from None
        if not hasattr(index, "build_graph"):
            raise UnavailableError("this vqindex has no graph")
        return index

    def build(self, rows: F32) -> dict[str, float]:
        begin = time.process_time()
        self.index = self.new(rows.shape[1])
        self.index.add(rows)
        added = time.process_time()
        self.index.build_graph(32)
        return {"add_cpu_seconds": added - begin, "link_cpu_seconds": time.process_time() - added}

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index.vqi", overwrite=True)

    def load(self, folder: Path, rows: F32) -> None:
        self.index = vqindex.VQIndex.load(folder / "index.vqi")

    def at(self, knob: Knob) -> Search:
        search = self.index.search
        arguments = {"threads": self.threads, **knob}
        return Search(
            lambda queries: search(queries, K, **arguments).ids,
            lambda query: search(query[0], K, **arguments).ids,
        )

    def scored(self, queries: F32, knob: Knob) -> float | None:
        found = self.index.search(queries, K, explain=True, threads=self.threads, **knob)
        return float(np.mean(found.explanation.scored))

    def bytes_of(self, folder: Path, rows: F32) -> dict[str, float]:
        known = self.index.stats()
        links = float(known["link_bytes"])
        kept = float({None: 0, "f32": 4, "f16": 2, "int8": 1}[self.keep] * rows.shape[1])
        kept += 4 if self.keep == "int8" else 0
        return {"all": known["bytes_per_vector"] + links + kept, "codes and links": known["bytes_per_vector"] + links}

    def instruction_sets(self) -> str:
        from vqindex.backends.cpu import chosen_isa

        return f"chosen at run time: {chosen_isa()}"


class Flat(Ours):
    """Our index without a graph: a scan of all rows, with the same codes and rerank."""

    sweeps = (_sweep("oversample", (1, 2, 3, 6), rerank=True),)
    label = "vqindex scan"

    def build(self, rows: F32) -> dict[str, float]:
        self.index = vqindex.VQIndex(rows.shape[1], self.bits, "cosine", keep_vectors=self.keep)
        self.index.add(rows)
        return {}

    def scored(self, queries: F32, knob: Knob) -> float | None:
        return None

    def bytes_of(self, folder: Path, rows: F32) -> dict[str, float]:
        known = self.index.stats()["bytes_per_vector"]
        return {"all": known + 2.0 * rows.shape[1], "codes and links": known}


def ours(name: str) -> type[Ours]:
    """Return our engine of a name such as ``ours-prod4-f16`` or ``ours-trellis2-none``."""
    try:
        _, codes, keep = name.split("-")
        codec = {"prod": None, "trellis": "trellis", "mse": "turboquant-mse"}[codes[:-1]]
        bits, kept = int(codes[-1]), {"none": None}.get(keep, keep)
    except (ValueError, KeyError):
        raise ValueError(f"engine {name!r}; expected ours-CODEC+BITS-KEPT, as ours-prod4-f16") from None
    sweeps = (_sweep("effort"),)
    if kept:
        # A walk keeps as many rows as the shortlist is long, so less effort changes nothing.
        sweeps = tuple(
            _sweep("effort", tuple(e for e in EFFORTS if e >= K * over), rerank=True, oversample=over)
            for over in (2, 4, 8)
        )
    members = {"codec": codec, "bits": bits, "keep": kept, "label": f"vqindex {codes}, {keep}", "sweeps": sweeps}
    return type(f"Ours{codes.title()}", (Ours,), members)


ENGINES: dict[str, type[Engine]] = {
    "hnswlib": Hnswlib,
    "faiss-hnsw": FaissHnsw,
    "usearch-f16": Usearch,
    "usearch-i8": UsearchI8,
    "glass": Glass,
    "glass-f16": GlassRefined,
    "symqg": SymphonyQG,
    "symqg-8": SymphonyQG8,
    "scann": Scann,
    "svs": Svs,
    "faiss-rabitq": FaissRabitq,
    "flat": Flat,
}
"""Engines by their names on the command line; `ours` makes more."""
