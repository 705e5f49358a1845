"""A builder for each index of `bench`. Each returns its bytes per vector and what they consist of.

For cosine, rows and queries are unit vectors. A builder raises `UnavailableError` without its library, width or metric.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vqindex

__all__ = [
    "CENTERED",
    "DEFAULT",
    "EFS",
    "OURS",
    "PEERS",
    "SLOW",
    "Built",
    "Peer",
    "Settings",
    "UnavailableError",
    "need",
    "ours",
    "to_int8",
]

F32 = NDArray[np.float32]
_CHUNK = 65536  # rows per conversion
_PACKAGES = {"faiss": "'vqindex[faiss]'"}  # what pip installs, if it has another name than the module
# Both graphs: links of a row on every level but the lowest, which has twice as many; and ef while building.
_LINKS, _BUILDING_EF = 16, 200

EFS = (16, 32, 64, 128, 256)
"""How many candidates a search of a graph keeps, by default; one line each."""


class UnavailableError(Exception):
    """An index that is not available; the message gives the reason."""


@dataclass(frozen=True)
class Settings:
    """Settings of all indexes of a run.

    Neighbors per query, threads, the metric (ip, cosine or l2), and keyword arguments for `VQIndex.search`.
    """

    k: int
    threads: int
    metric: str = "cosine"
    search_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """An index ready to search.

    ``prepare(queries)`` converts float32 queries (nq, d) to the library's form and is not timed. ``search(prepared)``
    returns row numbers (nq, k). ``counted`` says what ``bytes_per_vector`` consists of. ``at_ef`` is for graphs:
    ``at_ef(ef)`` is a search that keeps `ef` candidates, and ``search`` keeps k.
    """

    bytes_per_vector: float
    counted: str
    build_seconds: float
    search: Callable[[Any], NDArray[Any]]
    prepare: Callable[[F32], Any] = lambda queries: queries
    at_ef: Callable[[int], Callable[[Any], NDArray[Any]]] | None = None


@dataclass(frozen=True)
class Peer:
    """A kind of index: its label, its widths, and its builder, which takes rows (n, d), bits and settings.

    ``reference`` widths are built for any value of ``--bits``, to compare narrow codes with 8-bit scans and graphs over
    float32. A graph is built once and searched at several ef.
    """

    label: str
    widths: tuple[int, ...]
    build: Callable[[F32, int, Settings], Built]
    reference: tuple[int, ...] = ()
    is_graph: bool = False


def need(module: str) -> Any:
    """Import a module of a peer; raises `UnavailableError`, which names the package to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or package).partition(".")[0] != package:
            raise UnavailableError(f"{package} needs {error.name}, which is not installed") from None
        raise UnavailableError(f"{package} is not installed: pip install {_PACKAGES.get(package, package)}") from None
    except ImportError as error:
        raise UnavailableError(f"{module} can't be imported: {error}") from None


def _only(metrics: tuple[str, ...], settings: Settings) -> None:
    if settings.metric not in metrics:
        raise UnavailableError(f"no form here for metric {settings.metric}")


def ours(codec: str, **options: Any) -> Callable[[F32, int, Settings], Built]:
    """Return a builder of our index; `options` are arguments of `VQIndex`."""

    def build(rows: F32, bits: int, settings: Settings) -> Built:
        try:
            index = vqindex.VQIndex(rows.shape[1], bits, **{"metric": settings.metric, "codec": codec, **options})
        except vqindex.InvalidInputError as error:
            raise UnavailableError(str(error)) from None
        start = time.perf_counter()
        index.add(rows)
        seconds = time.perf_counter() - start
        size = index.stats()["bytes_per_vector"]
        counted = f"codes and {size - index.spec.code_bytes} bytes of scalars"
        args = {"threads": settings.threads, **settings.search_args}
        return Built(size, counted, seconds, lambda q: index.search(q, settings.k, **args).ids)

    return build


def _turbovec(rows: F32, bits: int, settings: Settings) -> Built:
    _only(("cosine",), settings)
    turbovec = need("turbovec")
    pad = -rows.shape[1] % 8

    def padded(block: F32) -> F32:
        return np.pad(block, ((0, 0), (0, pad))) if pad else block

    wide = padded(rows)
    start = time.perf_counter()
    index = turbovec.TurboQuantIndex(dim=wide.shape[1], bit_width=bits)
    index.add(wide)
    index.prepare()
    seconds = time.perf_counter() - start
    # A file grows by this size per row; codes of 3 bits are stored in 4 bits.
    size = wide.shape[1] * (4 if bits == 3 else bits) / 8 + 4
    counted = f"codes of {wide.shape[1]} coordinates (a multiple of 8) and a float32 scale"
    return Built(size, counted, seconds, lambda q: index.search(q, settings.k)[1], padded)


def _filled(index: Any, rows: F32, settings: Settings, counted: str) -> Built:
    """Train and fill a faiss index with the threads of `settings`."""
    faiss = need("faiss")
    faiss.omp_set_num_threads(settings.threads)
    start = time.perf_counter()
    index.train(rows)
    index.add(rows)
    seconds = time.perf_counter() - start
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return Built(float(inner.code_size), counted, seconds, lambda q: index.search(q, settings.k)[1])


def _factory(text: Callable[[int, int], str], counted: str) -> Callable[[F32, int, Settings], Built]:
    """Return a builder of the faiss index with factory string ``text(d, bits)``."""

    def build(rows: F32, bits: int, settings: Settings) -> Built:
        faiss = need("faiss")
        kind = faiss.METRIC_L2 if settings.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(rows.shape[1], text(rows.shape[1], bits), kind)
        return _filled(index, rows, settings, counted)

    return build


def _subquantizers(d: int, bits: int, each: int) -> int:
    """Return the number of sub-quantizers of `each` bits for `bits` per coordinate."""
    count, remainder = divmod(d * bits, each)
    if remainder or d % count:
        raise UnavailableError(f"{d * bits / each:g} sub-quantizers of {each} bits do not divide {d} dimensions")
    return count


def _pq(d: int, bits: int) -> str:
    # "np": no order of centroids for polysemous codes, which costs most of the training and changes no result.
    return f"PQ{_subquantizers(d, bits, 8)}x8np"


def _opq(d: int, bits: int) -> str:
    return f"OPQ{_subquantizers(d, bits, 8)}_{d},{_pq(d, bits)}"


def _pqfs(d: int, bits: int) -> str:
    return f"PQ{_subquantizers(d, bits, 4)}x4fs"


def _scalar(kind: str, counted: str) -> Callable[[F32, int, Settings], Built]:
    """Return a builder of faiss' scalar quantizer ``QT_{bits}bit_{kind}`` after a random rotation."""

    def build(rows: F32, bits: int, settings: Settings) -> Built:
        _only(("cosine", "ip"), settings)
        faiss = need("faiss")
        name = f"QT_{bits}bit_{kind}"
        if not hasattr(faiss.ScalarQuantizer, name):
            raise UnavailableError(f"this faiss has no {name}")
        d = rows.shape[1]
        inner = faiss.IndexScalarQuantizer(d, getattr(faiss.ScalarQuantizer, name), faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(d, d), inner)
        return _filled(index, rows, settings, counted)

    return build


def to_int8(rows: F32) -> NDArray[np.int8]:
    """Scale every row so that its largest magnitude is 127, and round; the scale does not change cosines."""
    out = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), _CHUNK):
        block = rows[start : start + _CHUNK]
        scale = 127 / np.maximum(np.abs(block).max(axis=1, keepdims=True), 1e-30)
        out[start : start + _CHUNK] = np.rint(block * scale)
    return out


def _usearch(rows: F32, bits: int, settings: Settings) -> Built:
    _only(("cosine",), settings)
    usearch = need("usearch.index")
    n, d = rows.shape
    start = time.perf_counter()
    # usearch's exact search over a matrix has a high cost per call, so this uses the exact scan of an index. The scan
    # does not use the index's graph, which is as small as possible. usearch's conversion from float32 to int8 scales by
    # the norm and uses few of the 8 bits, so rows are converted here.
    index = usearch.Index(ndim=d, metric="cos", dtype="i8", connectivity=2, expansion_add=1, enable_key_lookups=False)
    index.add(np.arange(n), to_int8(rows), threads=settings.threads)
    seconds = time.perf_counter() - start

    def search(queries: NDArray[np.int8]) -> NDArray[Any]:
        found = index.search(queries, settings.k, exact=True, threads=settings.threads)
        rows: NDArray[Any] = found.keys.astype(np.int64).reshape(len(queries), -1)
        return rows

    return Built(float(d), "int8 values only; keys and graph not counted", seconds, search, to_int8)


def _scann(rows: F32, bits: int, settings: Settings) -> Built:
    _only(("cosine",), settings)
    scann = need("scann")
    d = rows.shape[1]
    each = 4 // bits  # dimensions per block of 16 centers
    start = time.perf_counter()
    builder = scann.scann_ops_pybind.builder(rows, settings.k, "dot_product")
    builder.set_n_training_threads(settings.threads)
    index = builder.score_ah(each, anisotropic_quantization_threshold=0.2).build()
    seconds = time.perf_counter() - start
    index.set_num_threads(settings.threads)
    # The file has a byte for every 4-bit code, but the scan reads packed codes.
    size = -(-d // each) / 2

    def search(queries: F32) -> NDArray[Any]:
        several = settings.threads > 1 and len(queries) > 1
        found = index.search_batched_parallel(queries) if several else index.search_batched(queries)
        ids: NDArray[Any] = found[0].astype(np.int64)
        return ids

    return Built(size, "packed 4-bit codes", seconds, search)


def _faiss_hnsw(rows: F32, bits: int, settings: Settings) -> Built:
    faiss = need("faiss")
    faiss.omp_set_num_threads(settings.threads)
    kind = faiss.METRIC_L2 if settings.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    start = time.perf_counter()
    index = faiss.IndexHNSWFlat(rows.shape[1], _LINKS, kind)
    index.hnsw.efConstruction = _BUILDING_EF
    index.add(rows)
    seconds = time.perf_counter() - start
    # Links are int32, the places where a row's links begin 8 bytes, levels int32.
    graph = 4 * index.hnsw.neighbors.size() + 8 * index.hnsw.offsets.size() + 4 * index.hnsw.levels.size()

    def at_ef(ef: int) -> Callable[[F32], NDArray[Any]]:
        kept = faiss.SearchParametersHNSW(efSearch=ef)

        def search(queries: F32) -> NDArray[Any]:
            found: NDArray[Any] = index.search(queries, settings.k, params=kept)[1]
            return found

        return search

    size = 4.0 * rows.shape[1] + graph / len(rows)
    return Built(size, _GRAPH, seconds, at_ef(settings.k), at_ef=at_ef)


def _hnswlib(rows: F32, bits: int, settings: Settings) -> Built:
    hnswlib = need("hnswlib")
    n, d = rows.shape
    start = time.perf_counter()
    index = hnswlib.Index(space="l2" if settings.metric == "l2" else "ip", dim=d)
    index.init_index(max_elements=n, ef_construction=_BUILDING_EF, M=_LINKS)
    index.add_items(rows, num_threads=settings.threads)
    seconds = time.perf_counter() - start

    def at_ef(ef: int) -> Callable[[F32], NDArray[Any]]:
        def search(queries: F32) -> NDArray[Any]:
            index.set_ef(ef)
            try:
                labels = index.knn_query(queries, settings.k, num_threads=settings.threads)[0]
            except RuntimeError as error:  # also if the graph leads to fewer than k rows
                raise ValueError(f"hnswlib gives no {settings.k} neighbors at ef {ef}: {error}") from None
            found: NDArray[Any] = labels.astype(np.int64)
            return found

        return search

    # Its file is its memory, with 8 bytes of label per row.
    return Built(index.index_file_size() / n, f"{_GRAPH}, labels", seconds, at_ef(settings.k), at_ef=at_ef)


_GRAPH = "float32 vectors and links of the graph"
_SCALARS = "code_size: codes and scalars"
_CODES = "code_size: codes, no scalars"

OURS: dict[str, Peer] = {
    "prod": Peer("vqindex prod", tuple(range(1, 9)), ours("turboquant-prod")),
    "trellis": Peer("vqindex trellis", (1, 2, 3, 4), ours("trellis")),
}
"""Indexes of vqindex with default parameters."""

CENTERED: dict[str, Peer] = {
    f"{name}-centered": Peer(f"{peer.label} centered", peer.widths, ours(codec, center="mean"))
    for (name, peer), codec in zip(OURS.items(), ("turboquant-prod", "trellis"), strict=True)
}
"""Indexes of vqindex with ``center="mean"``."""

PEERS: dict[str, Peer] = {
    "turbovec": Peer("turbovec", (2, 3, 4), _turbovec),
    "faiss-pq": Peer("faiss PQ", (1, 2, 4), _factory(_pq, _CODES)),
    "faiss-opq": Peer("faiss OPQ", (1, 2, 4), _factory(_opq, _CODES)),
    "faiss-pqfs": Peer("faiss PQ fast-scan", (1, 2, 4), _factory(_pqfs, _CODES)),
    "faiss-rabitq": Peer(
        "faiss RaBitQ fast-scan", tuple(range(1, 9)), _factory(lambda d, b: f"RR,RaBitQfs{b}", _SCALARS)
    ),
    "faiss-sq": Peer("faiss SQ", (4, 6, 8), _factory(lambda d, b: f"SQ{b}", _CODES), reference=(8,)),
    "faiss-tq": Peer("faiss TurboQuant-prod", (2, 3, 4, 5), _scalar("tq", _SCALARS)),
    "faiss-tqmse": Peer("faiss TurboQuant-mse", (1, 2, 3, 4, 8), _scalar("tqmse", _CODES)),
    "usearch": Peer("usearch i8 exact", (8,), _usearch, reference=(8,)),
    "scann": Peer("ScaNN AH", (1, 2, 4), _scann),
    "hnsw": Peer("faiss HNSW", (32,), _faiss_hnsw, reference=(32,), is_graph=True),
    "hnswlib": Peer("hnswlib", (32,), _hnswlib, reference=(32,), is_graph=True),
}
"""Indexes of other libraries, by their names in ``--peers``."""

SLOW = ("faiss-opq", "hnsw", "hnswlib")
"""Peers that take minutes to build on large data: OPQ trains, and graphs link every row."""

DEFAULT = tuple(name for name in PEERS if name not in SLOW)
"""The peers of ``--peers all``: all but the slow ones."""
