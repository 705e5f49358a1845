"""VQIndex: the class that users work with. It connects the rooms; math, files and kernels are in other modules."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arguments import as_file_path, as_path
from .arrays import VectorSource
from .backends.protocol import Backend
from .backends.registry import Device, make_backend, warn_of_numpy_steps
from .center import Centering
from .changes import ChangeLock
from .codes.codec import Codec
from .encoder import Encoder
from .errors import BackendError, InvalidInputError
from .linking import as_rule, compacted, copied, linked, trimmed
from .model_checks import ModelChecks
from .residuals import OffsetWatch
from .result import RangeResult, SearchResult
from .row_queries import RowQueries
from .rows.contents import Contents
from .rows.graph import Curve, Graph
from .rows.ids import IdBatch, IdMap
from .rows.originals import Kind, Originals, as_kind
from .rows.row_store import RowStore
from .search.completeness import complete_search
from .search.expected import expected_recall
from .search.searcher import Searcher
from .search.tuning import measure
from .spec import CodecName, IndexSpec, Metric, RotationName, SketchName

if TYPE_CHECKING:
    from .file_format import FileContents, Identity

__all__ = ["IndexState", "VQIndex"]

_OWN = frozenset({"_codec", "_state", "_changes", "_saves", "_watch", "_meta", "_files"})  # attributes of a VQIndex


class _State(NamedTuple):
    encoder: Encoder
    contents: Contents
    filed_rows: int = 0
    files: Any = None
    changes: int = 0


class IndexState(_State):
    """An index at one moment. It never changes: a change makes another one, which the index takes by one assignment.

    Attributes
    ----------
    encoder : Encoder
        The backend and the center.
    contents : Contents
        Rows, ids and originals.
    filed_rows : int
        So many of the first rows are in files, or are being written. They keep their places (`Contents.trimmed`).
    files : object
        What a store knows about these files.
    changes : int
        How many changes led here.
    """

    @cached_property
    def searcher(self) -> Searcher:
        """What searches the index of this moment."""
        return Searcher(self.encoder, self.contents)


class VQIndex(RowQueries, ModelChecks):
    """An approximate nearest-neighbor index of quantized vectors that trains nothing.

    Parameters
    ----------
    dim : int
        Number of coordinates, 1 to 16384.
    bits : int, default 4
        Bits per coordinate, 1 to 8.
    metric : one of {"ip", "cosine", "l2"}, default "ip"
        What scores mean: inner product, cosine similarity (both: higher is better), or squared Euclidean distance
        (lower is better). All three go through the same unbiased inner-product estimate.
    codec : one of {"turboquant-prod", "turboquant-mse", "qjl", "trellis"}, default "turboquant-prod"
        TurboQuant-prod and -mse are arXiv 2504.19874, QJL is arXiv 2406.03482. ``"trellis"`` (1 to 4 bits) gives higher
        recall at the same bytes for a slower encoding.
    sketch : one of {"shared", "orthogonal", "gaussian"}, optional
        For turboquant-prod: the matrix that projects the residual before its signs are stored. ``"shared"`` (default)
        is the rotation itself, ``"gaussian"`` the paper's matrix.
    rotation : one of {"hadamard", "haar"}, default "hadamard"
        ``"haar"`` is a dense matrix, for fidelity tests.
    seed : int, default 0
        Seed of the rotation and the sketch.
    keep_vectors : one of {"f32", "f16", "int8"}, optional
        Keep the vectors too, as float32, float16, or int8 with a scale for each, so that ``search(..., rerank=True)``
        can compute exact scores of a shortlist. They take 4, 2 or 1 bytes per coordinate, in memory and in the file. A
        search of a memory-mapped index reads only the vectors of its shortlists.
    center : array-like of float, shape (dim,), or "mean", optional
        A point that is subtracted from vectors before they are encoded. Scores are those of the original vectors, and
        unbiased for any point; their errors are smaller if the point is near the vectors. ``"mean"`` is the mean of
        the vectors of the first `add` or `upsert`, which reads them twice; later calls do not change it. For cosine the
        point is subtracted from vectors divided by their norms, and a vector takes 4 more bytes. The metric ip has no
        center.
    graph : int, optional
        Most links of a row, 8 to 128, usually 32: the index has a graph, and a search walks it instead of scanning all
        rows (`build_graph`). The links take 3 bytes each, 4 from 2**24 - 1 rows on. Not for codec "qjl" and the
        sketches "orthogonal" and "gaussian".
    device : str, default "auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, or a backend's name. ``"auto"`` is the CPU unless the environment variable
        VQINDEX_BACKEND names another backend.

    Raises
    ------
    InvalidInputError
        If a parameter is out of range.
    BackendError
        If this machine or build has no backend for the device.

    Examples
    --------
    >>> import numpy as np, vqindex
    >>> vectors = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
    >>> index = vqindex.VQIndex(dim=64, bits=4, metric="cosine")
    >>> index.add(vectors)
    >>> scores, ids = index.search(vectors[:3], k=5)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        dim: int,
        bits: int = 4,
        metric: Metric = "ip",
        *,
        codec: CodecName = "turboquant-prod",
        sketch: SketchName | None = None,
        rotation: RotationName = "hadamard",
        seed: int = 0,
        keep_vectors: Kind | None = None,
        center: Any = None,
        graph: int | None = None,
        device: Device = "auto",
    ) -> None:
        spec, kind = IndexSpec(dim, bits, metric, codec, sketch, rotation, seed), as_kind(keep_vectors)
        rule = None if graph is None else as_rule("graph", graph, spec)
        originals = None if kind is None else Originals(spec.dim, kind)
        self._start(Centering.of(spec, center), device, originals, None if rule is None else Graph.empty(rule))

    @classmethod
    def _empty(cls, centering: Centering, device: str, graph: Graph | None = None) -> VQIndex:
        """Return an index without rows, to be given contents that were read."""
        index = cls.__new__(cls)
        index._start(centering, device, None, graph)
        return index

    def _start(
        self, centering: Centering, device: str, originals: Originals | None, graph: Graph | None = None
    ) -> None:
        self._codec = Codec(centering.engine_spec)
        backend = make_backend(self._codec, device)
        rows = RowStore(self._codec.spec, backend.put, records=graph is not None)
        contents = Contents(rows, IdMap(), originals, graph)
        self._state: IndexState = IndexState(Encoder(backend, centering), contents)
        warn_of_numpy_steps(backend, self._spec)
        self._changes = ChangeLock()
        self._saves = ChangeLock()  # held for a whole save, so that the last of several saves has the last word
        self._watch = OffsetWatch()
        self._meta: dict[str, Any] = {}
        # The files that it was loaded from or saved to, by their real paths; several where saves failed at the rename.
        self._files: dict[str, tuple[Identity, ...]] = {}

    @property
    def _encoder(self) -> Encoder:
        return self._state.encoder

    @property
    def _contents(self) -> Contents:
        return self._state.contents

    @_contents.setter
    def _contents(self, contents: Contents) -> None:
        self._state = self._state._replace(contents=contents)

    @property
    def _backend(self) -> Backend:
        return self._encoder.backend

    @property
    def _centering(self) -> Centering:
        return self._encoder.centering

    @property
    def _spec(self) -> IndexSpec:
        return self._centering.spec

    @property
    def _rows(self) -> RowStore:
        return self._contents.rows

    @property
    def _ids(self) -> IdMap:
        return self._contents.ids

    # ---- parameters and sizes

    @property
    def spec(self) -> IndexSpec:
        """The index's IndexSpec."""
        return self._spec

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._spec.dim

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return len(self._ids)

    @property
    def keep_vectors(self) -> str | None:
        """The type of the vectors kept for re-ranking: "f32", "f16", "int8", or None without them."""
        originals = self._contents.originals
        return None if originals is None else originals.kind

    @property
    def center(self) -> NDArray[np.float32] | None:
        """The point that is subtracted from vectors before they are encoded, read-only float32 of shape (dim,).

        None without a center, and with ``center="mean"`` before the first vectors are added.
        """
        return self._centering.vector

    @property
    def curve(self) -> Curve | None:
        """What `tune` measured: the agreement of walks with the scan of all rows. None before, and without a graph."""
        graph = self._contents.graph
        return None if graph is None else graph.curve

    @property
    def is_trained(self) -> bool:
        """Always True: there is nothing to train."""
        return True

    @property
    def changes(self) -> int:
        """How often vectors or the graph were changed since the index was made or opened.

        It grows with every call that changes anything, and only then. So it tells whether there is something to save.
        """
        return self._state.changes

    @property
    def meta(self) -> dict[str, Any]:
        """Notes in JSON types that are saved with the index: build times of the CLI, and what `set_canaries` notes."""
        return self._meta

    def to(self, device: Device) -> VQIndex:
        """Search and encode on another device from now on; codes and results are the same on all devices.

        Parameters
        ----------
        device : str
            As for the constructor. The first search on a GPU copies the rows to it; this call frees them.

        Returns
        -------
        VQIndex
            The index itself.

        Raises
        ------
        BackendError
            If this machine or build has no backend for the device. The index then stays on the old device.
        """
        backend = make_backend(self._codec, device)
        warn_of_numpy_steps(backend, self._spec)
        with self._changes.lock:
            before = self._state
            contents = before.contents._replace(rows=before.contents.rows.write_with(backend.put))
            self._take(before, contents, before.encoder._replace(backend=backend))
        return self

    def _take(
        self,
        before: IndexState,
        contents: Contents,
        encoder: Encoder | None = None,
        filed_rows: int | None = None,
    ) -> None:
        """Take the result of a change of a state; the caller holds the lock. What is None stays.

        Only the thread that holds the lock can have made another change since: in a signal handler, or because the
        caller's vectors or ids are objects that change the index when they are read.
        """
        if self._state is not before:
            raise InvalidInputError("the index was changed in the middle of another change; expected one at a time")
        old = before.contents
        is_change = contents.ids is not old.ids or contents.graph is not old.graph
        self._state = IndexState(
            before.encoder if encoder is None else encoder,
            contents,
            before.filed_rows if filed_rows is None else filed_rows,
            before.files,
            before.changes + is_change,
        )

    def train(self, vectors: Any = None) -> None:
        """Do nothing; the method exists so that code written for faiss runs unchanged.

        Parameters
        ----------
        vectors : object, optional
            Ignored.
        """

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        ids = self._ids  # of one moment, also while another thread changes the index
        if isinstance(id, str):
            return ids.string_ids is not None and bool(ids.find(ids.parse_ids([id]))[0] >= 0)
        if not isinstance(id, int | np.integer) or isinstance(id, bool) or ids.string_ids is not None:
            return False
        return bool(0 <= id < 2**63) and bool(ids.find(IdBatch(np.array([id], np.int64)))[0] >= 0)

    def __repr__(self) -> str:
        s = self._spec
        sketch = "" if s.sketch == "none" else f", sketch={s.sketch!r}"
        center = f", center=<{self._centering.describe()}>" if self._centering.on else ""
        return (
            f"VQIndex(dim={s.dim}, bits={s.bits}, metric={s.metric!r}, codec={s.codec!r}{sketch}{center}, "
            f"ntotal={self.ntotal}, backend={self._backend.name!r})"
        )

    @property
    def ids(self) -> NDArray[Any]:
        """All ids in the order in which vectors were added, int64 or str objects, shape (ntotal,)."""
        ids = self._ids
        return ids.ids(ids.live_rows())

    def stats(self) -> dict[str, Any]:
        """Return the spec, sizes in bytes, the backend, and the quantizer's expected error as a plain dict.

        ``numpy_steps`` lists which of "encode", "prepare" and "search" have no kernel on this backend for the codec.
        """
        return self._stats_of(self._state)

    def _stats_of(self, state: IndexState) -> dict[str, Any]:
        encoder, contents = state.encoder, state.contents
        spec, engine, originals = encoder.centering.spec, self._codec, contents.originals
        return {
            **spec.as_dict(),
            "ntotal": len(contents.ids),
            "backend": encoder.backend.name,
            "numpy_steps": list(encoder.backend.numpy_steps),
            "code_bytes": spec.sign_bytes + spec.row_bytes,
            "bytes_per_vector": contents.rows.bytes_per_row,
            "center": encoder.centering.describe(),
            "removed": contents.ids.rows_ever - len(contents.ids),
            "id_bytes": 0 if contents.ids.explicit is None else 8,
            "keep_vectors": None if originals is None else originals.kind,
            "links": None if contents.graph is None else contents.graph.slots,
            "linked": 0 if contents.graph is None else contents.graph.linked,
            "link_bytes": 0 if contents.graph is None else contents.graph.bytes_per_row,
            "vector_bytes": 0 if originals is None else originals.bytes_per_vector,
            "memory_bytes": contents.nbytes,
            "expected_mse": None if np.isnan(engine.expected_mse) else engine.expected_mse,
        }

    # ---- add

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Append vectors. They are encoded in chunks, so the input may be a memory map larger than memory.

        Parameters
        ----------
        vectors : array-like of shape (n, dim)
            Any float or integer dtype; NumPy, torch, CuPy, DLPack, h5py or nested lists. Arrays on the GPU of an index
            on device ``"cuda"`` are encoded there.
        ids : array-like of int or of str, shape (n,), optional
            Distinct ids, new to the index: integers from 0 to 2**63 - 1, or strings. Without ids vectors are numbered
            from 0 on, and no number is used twice. After a call with other ids, every vector needs one. The first ids
            decide whether the index has integers or strings; with strings all methods take and return strings.

        Raises
        ------
        InvalidInputError
            Wrong shape or dtype, a NaN or infinity (named by row and column), a norm of 2**62 or more (not for
            cosine), a coordinate that ``keep_vectors="f16"`` can't hold, or ids that are negative, repeated or already
            in the index. The index is then unchanged.

        Warns
        -----
        OffsetWarning
            If the mean of the first vectors, 64 or more, is more than twice as long as their spread around it (cosine
            and l2), and the index has no center. Scores then have large errors.
        """
        with self._changes.lock:
            before = self._state
            source = before.encoder.source(vectors)
            new_ids = None if ids is None else before.contents.ids.parse_ids(ids, source.rows)
            if source.rows:
                before.contents.ids.check_new(new_ids)
            self._append(before, source, new_ids)

    def _append(
        self,
        before: IndexState,
        source: VectorSource,
        new_ids: IdBatch | None,
        replaces: NDArray[np.int64] | None = None,
    ) -> None:
        """Encode and append vectors, and remove the rows they replace; the first vectors may set the center."""
        encoder, contents = before.encoder, before.contents
        if encoder.centering.pending:
            encoder = encoder._replace(centering=encoder.centering.settled(source))
        watch = self._watch if contents.ids.rows_ever < OffsetWatch.FEWEST else None
        batches = encoder.encode(source, contents.originals, watch)
        contents = contents.changed(batches, new_ids, source.rows, replaces)
        contents = linked(trimmed(contents, before.filed_rows, encoder.backend), encoder.backend)
        self._take(before, contents, encoder)

    def upsert(self, ids: Any, vectors: Any) -> None:
        """Add vectors, replacing those whose ids are in the index.

        Parameters
        ----------
        ids : array-like of int or of str, shape (n,)
            Distinct ids, as for `add`.
        vectors : array-like of shape (n, dim)
            As for `add`. A replaced vector is removed and the new one is the last row, also in the order of ties.

        Raises
        ------
        InvalidInputError
            As for `add`; the index is then unchanged.
        """
        with self._changes.lock:
            before = self._state
            source = before.encoder.source(vectors)
            new_ids = before.contents.ids.parse_ids(ids, source.rows)
            self._append(before, source, new_ids, before.contents.ids.find(new_ids))

    def remove(self, ids: Any) -> int:
        """Remove vectors; the ids and the order of all others stay.

        A call copies a bit for each vector, and does constant work for each id. Removed vectors leave memory once they
        outnumber the remaining ones, or by `compact`; `save` writes only the remaining vectors.

        Parameters
        ----------
        ids : array-like of int or of str, shape (m,), a set of ids, or a single id
            Ids; ids that are not in the index are ignored.

        Returns
        -------
        int
            Number of vectors that were removed.

        Raises
        ------
        InvalidInputError
            Negative ids, or ids of another kind than the index has. The index is then unchanged.
        """
        with self._changes.lock:
            before = self._state
            id_map = before.contents.ids
            contents = before.contents.without(id_map.find(id_map.parse_id_set(ids)))
            removed = len(id_map) - len(contents.ids)
            self._take(before, trimmed(contents, before.filed_rows, before.encoder.backend))
        return removed

    def compact(self) -> int:
        """Reclaim the memory of removed vectors; ids, their order and all results stay the same.

        Returns
        -------
        int
            Number of removed vectors whose memory was reclaimed.
        """
        with self._changes.lock:
            before = self._state
            id_map = before.contents.ids
            self._take(before, compacted(before.contents, before.encoder.backend), filed_rows=0)
        return id_map.rows_ever - len(id_map)

    # ---- graph

    def build_graph(self, links: int = 32, *, progress: Callable[[int, int], object] | None = None) -> None:
        """Link the rows, so that searches walk from row to row and score a small share of them.

        Links are made from the codes alone. Later rows join by themselves: searches score the newest rows,
        1,023 at most, until there are enough to link. The links depend on the rows and their order only, not on
        threads, processor, or the calls by which rows were added. The last incomplete batch of 512 rows stays unlinked.

        Parameters
        ----------
        links : int, default 32
            Most links of a row, 8 to 128. More links find more at equal effort, and take more memory and time.
        progress : callable, optional
            Called with the number of rows that are linked so far, and of all that will be.

        Raises
        ------
        InvalidInputError
            If `links` is out of range, or the codec has a second projection ("qjl"; sketches "orthogonal" and
            "gaussian"). The index is then unchanged.
        """
        with self._changes.lock:
            before = self._state
            rule = as_rule("links", links, self._spec)
            contents = before.contents.with_graph(Graph.empty(rule))
            self._take(before, linked(contents, before.encoder.backend, 0, progress))

    def drop_graph(self) -> None:
        """Remove the links. Searches scan all rows again."""
        with self._changes.lock:
            before = self._state
            self._take(before, before.contents.with_graph(None))

    def tune(self, queries: Any = None, k: int = 10, *, threads: int | None = None) -> Curve:
        """Measure how well walks of the graph agree with the scan of all rows, so that searches can ask for a recall.

        Parameters
        ----------
        queries : array-like of shape (nq, dim), optional
            Queries like those to come. By default decoded rows of the index stand for them; their own rows do not count
            as results.
        k : int, default 10
            Number of results to compare.
        threads : int, optional
            As for `search`.

        Returns
        -------
        Curve
            Agreement against effort. The index keeps it, also when it grows, and `save` writes it. Measure again after
            many vectors were added, or for other queries.

        Raises
        ------
        InvalidInputError
            If the index has no linked rows, if there are no queries, or if the graph is replaced meanwhile.
        """
        before = self._state
        curve = measure(before.encoder, before.contents, queries, k, threads)
        with self._changes.lock:
            state = self._state
            graph, measured = state.contents.graph, before.contents.graph
            if graph is None or measured is None or graph.rule != measured.rule:
                raise InvalidInputError("the graph was replaced while it was measured; expected tune() again")
            self._take(state, state.contents._replace(graph=graph._replace(curve=curve)))
        return curve

    # ---- copies

    def _more(self) -> dict[str, Any]:
        """Return the attributes that users and subclasses gave the index."""
        return {name: value for name, value in vars(self).items() if name not in _OWN}

    def _copied(self) -> VQIndex:
        encoder, contents, *_ = self._state
        index = type(self)._empty(encoder.centering, encoder.backend.name)
        copy = copied(contents, encoder.backend)
        index._contents = copy._replace(rows=copy.rows.write_with(index._backend.put))
        index._meta, index._files = deepcopy(self._meta), dict(self._files)
        return index

    def __deepcopy__(self, memo: dict[int, Any]) -> VQIndex:
        """Return an index of its own with the same vectors, ids and results."""
        memo[id(self)] = index = self._copied()
        vars(index).update(deepcopy(self._more(), memo))
        return index

    def __copy__(self) -> VQIndex:
        """Return an index of its own: two indexes never share what a change of one would change in the other."""
        index = self._copied()
        vars(index).update(self._more())
        return index

    def __reduce__(self) -> Any:
        """Pickle as the bytes of a ``.vqi`` file, which every later version reads."""
        from .file_format import to_bytes

        data = to_bytes(self._codec, self._file_contents())
        made = _from_pickle, (type(self), data, self._backend.name)
        return (*made, more) if (more := self._more()) else made

    def merge(self, other: VQIndex) -> None:
        """Add all vectors of another index, without encoding them again.

        If both indexes number their vectors automatically, the new ones get the next numbers; otherwise they keep
        their ids.

        Parameters
        ----------
        other : VQIndex
            An index with the same parameters, `center` and `keep_vectors` included; it is not changed.

        Raises
        ------
        InvalidInputError
            If the parameters differ, or an id of `other` is in this index. The index is then unchanged.
        """
        if hasattr(other, "__vqindex__"):  # an opened store has its index
            other = other.__vqindex__()
        if not isinstance(other, VQIndex):
            raise InvalidInputError(f"other is {other!r}; expected a VQIndex")
        with self._changes.lock:
            before, added = self._state, other._state
            ours, theirs = (
                {
                    **centering.spec.as_dict(),
                    "keep_vectors": None if contents.originals is None else contents.originals.kind,
                    "center": centering.describe(),
                }
                for (_, centering), contents, *_ in (before, added)
            )
            differ = [
                f"{name} is {theirs[name]!r} in the other index and {ours[name]!r} in this one"
                for name in ours
                if theirs[name] != ours[name]
            ]
            if differ or before.encoder.centering.text != added.encoder.centering.text:
                raise InvalidInputError(f"{'; '.join(differ)}; expected equal parameters")
            id_map, new = before.contents.ids, added.contents.ids
            rows = new.live_rows()
            ids = None if id_map.next_id is not None and new.next_id is not None else new.ids_of_rows(rows)
            id_map.check_new(ids)
            contents = before.contents.changed(added.contents.batches(rows), ids, rows.size)
            self._take(before, linked(contents, before.encoder.backend))

    # ---- search

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        filter: Any = None,
        rerank: Any = None,
        oversample: float | None = None,
        complete: float | None = None,
        strict: bool = False,
        threads: int | None = None,
        return_stderr: bool = False,
        return_interval: float | None = None,
        confidence: float | None = None,
        effort: int | None = None,
        recall: float | None = None,
        exact: bool = False,
        explain: bool = False,
    ) -> SearchResult:
        """Find the k best vectors for each query by a scan of the codes, or by walks of the graph if there is one.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            A 1-D query gives 1-D results. Queries on the GPU of an index on device ``"cuda"`` give results there, as
            arrays of their library.
        k : int, default 10
            Number of results; may exceed the number of vectors.
        filter : a mask, ids, or a list of these, optional
            The vectors that the search may return; the scan skips all others. One of

            * a bool mask of shape (ntotal,), in the order of `ids`; `vqindex.bitmap` of it, packed;
            * an allowlist: a set of ids, or ids of shape (m,); ids that are not in the index, and an empty list, allow
              nothing;
            * `vqindex.exclude(ids)`: all but these;
            * one of these for each query: an array of shape (nq, ...), or a list of nq filters (None for all vectors).
        rerank : bool, array-like of shape (n, dim), or callable, optional
            Source of the original vectors. The search computes the exact scores of a shortlist, the best
            ``oversample * k`` by their codes, and returns the best k of them. True reads the vectors of
            ``keep_vectors=``. Other sources are an array, memory map or h5py dataset whose row i is the vector with id
            i, or a function of ids (m,) that returns vectors (m, dim). Only vectors of shortlists are read.
        oversample : float, optional
            Length of the shortlist in multiples of k, by default 4; only with `rerank`.
        complete : float, optional
            A probability of at least 0.9, such as 0.99: each query reads as many vectors of `rerank` as it takes until
            its results are all of the k best with this probability (docs/intervals.md). The result's ``complete`` and
            ``reads`` are the probability that was reached and the number of vectors read. All rows are scanned, and not
            by a graph. Not with `oversample`.
        strict : bool, default False
            With `complete`: read by uncorrected errors, which is safe whatever the vectors are like, and takes more
            reads.
        threads : int, optional
            Most threads to use, 1 or more; by default as many as processors. Results do not depend on it.
        return_stderr : bool, default False
            Also return the standard error of every result's score over the random rotation. The result then unpacks as
            ``scores, ids, stderr``. It does not count that results were chosen for their scores. Not with `rerank`.
        return_interval : float, optional
            A probability, such as 0.95: the result's ``low`` and ``high`` are intervals that hold each result's exact
            score with this probability. They are corrected for selection: the best of many estimates are too good on
            average. NaN where that probability can't be promised (docs/intervals.md). Not with `rerank`.
        confidence : float, optional
            The scan computes an upper bound of every score from the row's sign bits, and reads the other bits only of
            rows whose bound could be among the k best. `confidence` is the one-sided confidence of the bound, above
            0.5 and by default 0.995: each true neighbor is missed with probability at most 1 - confidence, and the
            next-best vector takes its place. 1 scores every row. Codes without sign bits (``trellis`` of one bit,
            sketches other than ``"shared"``) always score every row. Walks of a graph score every row they visit.
        effort : int, optional
            For an index with a graph: how many rows a walk keeps while it looks for better ones, the ``ef`` of HNSW.
            More effort finds more of the best rows and takes longer. By default, after `tune`, the effort that finds 95
            % of the scan's results, and 128 otherwise; rows are scanned where that is estimated to take less time.
        recall : float, optional
            For an index with a graph that was tuned: the share of the scan's results to find on average, such as 0.95.
            For more results than `tune` compared, the effort grows in proportion.
            The search takes the effort from the curve that `tune` measured, or scans all rows where that is estimated
            to take less time for so many queries.
        exact : bool, default False
            Scan all rows, as without a graph.
        explain : bool, default False
            The result's ``explanation`` says which effort was used and how many rows were scored.

        Returns
        -------
        SearchResult
            ``scores`` float32 and ``ids`` int64, or objects (str), each (nq, k), best first. Ties go to the vector
            added first. Places without a result hold id -1 (None) and score -inf (+inf for l2).

        Raises
        ------
        InvalidInputError
            Wrong shape, a NaN or infinity, k or threads < 1, a confidence that is not above 0.5 and at most 1, a
            `return_interval` that is not between 0 and 1, a filter that does not fit the index, `rerank` without the
            vectors it needs, or `effort` or `recall` without a graph.
        """
        if complete is not None or strict is not False:
            return complete_search(
                self._state.searcher,
                queries,
                k,
                complete,
                strict=strict,
                filter=filter,
                rerank_from=rerank,
                threads=threads,
                confidence=confidence,
                others={
                    "oversample": oversample,
                    "return_stderr": return_stderr,
                    "return_interval": return_interval,
                    "effort": effort,
                    "recall": recall,
                    "explain": explain,
                },
            )
        arguments = k, oversample, threads, confidence, effort, exact, recall
        searcher = self._state.searcher
        return searcher.search(queries, filter, rerank, arguments, return_stderr, return_interval, explain)

    def range_search(
        self,
        queries: Any,
        threshold: Any,
        *,
        filter: Any = None,
        threads: int | None = None,
        confidence: float | None = None,
    ) -> RangeResult:
        """Find all vectors whose scores are better than a threshold, by a scan of the codes.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            Queries.
        threshold : float or array-like of float, shape (nq,)
            One for all queries, or one for each. Scores of results are strictly above it (ip, cosine) or below it (l2).
        filter, threads, confidence : as for search, optional
            As for `search`. With a confidence below 1, each vector that is better than the threshold is missed with
            probability at most 1 - confidence.

        Returns
        -------
        RangeResult
            ``lims`` int64 (nq + 1,), ``scores`` float32 and ``ids`` int64, or objects (str). The results of query i are
            ``[lims[i]:lims[i + 1]]``, best first; ties go to the vector added first. Memory is proportional to the
            results.

        Raises
        ------
        InvalidInputError
            As for `search`, or a threshold that is nan or of another shape.
        """
        return self._state.searcher.range_search(
            queries, threshold, filter=filter, threads=threads, confidence=confidence
        )

    def estimate_recall(
        self, queries: Any, k: int = 10, *, filter: Any = None, threads: int | None = None
    ) -> tuple[float, float]:
        """Estimate the recall of scans for queries, from the codes alone: no exact neighbors are needed.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            Queries like those to come; some hundred of them give a narrow range. Vectors of the index are no substitute
            for them: their recall differs by up to 0.03.
        k : int, default 10
            Number of results.
        filter, threads : as for search, optional
            As for `search`.

        Returns
        -------
        low, high : float
            The mean share of the k best vectors of a query that a search without `rerank` finds lies between them with
            about 95 % (docs/intervals.md). The walk of a graph finds less (`tune`).

        Raises
        ------
        InvalidInputError
            As for `search`, for no queries, or for the codec "turboquant-mse", whose scores are biased.
        """
        return expected_recall(self._state.searcher, queries, k, filter=filter, threads=threads)

    def estimate(self, queries: Any, ids: Any) -> NDArray[np.float32]:
        """Return the score of every query with every id of a list.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            Queries.
        ids : array-like of int or of str, shape (m,)
            Ids in the index.

        Returns
        -------
        ndarray of float32, shape (nq, m) or (m,)
            Equal, bit for bit, to the scores that `search` returns without `rerank`. The gaussian sketch is a dense
            product: its scores are equal only for the same batch of queries.

        Raises
        ------
        UnknownIdError
            If an id is not in the index.
        """
        return self._state.searcher.estimate(queries, ids)

    def reconstruct(self, ids: Any) -> NDArray[np.float32]:
        """Return approximate vectors xhat whose inner product with a query is the estimate: <q, xhat>.

        For cosine the direction is returned: an unbiased estimate of x / |x|.

        Parameters
        ----------
        ids : int, str, or array-like of these, shape (m,)
            Ids in the index.

        Returns
        -------
        ndarray of float32, shape (m, dim), or (dim,) for a single id
            An unbiased reconstruction is longer than x: |xhat|^2 is about |x|^2 / (1 - mse).

        Raises
        ------
        UnknownIdError
            If an id is not in the index.
        """
        single = isinstance(ids, int | np.integer | str)
        decoded = self._state.searcher.reconstruct([ids] if single else ids)
        return decoded[0] if single else decoded

    # ---- files

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index to one ``.vqi`` file, atomically: an old file stays until the new one is on disk.

        Removed vectors are not written: the file equals that of the compacted index.

        Two processes that load a file, change it and save it would lose the changes of the first. So an index, and its
        copies, remember which file they were loaded from or saved to. A save that finds another file at that path
        raises an error, and changes nothing. A pickle does not remember. A save to any other path replaces what is
        there.

        Parameters
        ----------
        path : str or path
            The file to write or replace. A symbolic link stays, and the file that it leads to is replaced.
        overwrite : bool, default False
            Replace the file also if another writer changed it since this index was loaded from it or saved to it.

        Raises
        ------
        OSError
            If the file can't be written; an old file at `path` is then unchanged.
        StoreError
            If another writer changed the file; it is unchanged.
        """
        from . import file_format  # here, since h5py is most of the time that importing vqindex would take

        path = as_file_path(path)
        real = os.path.realpath(path)
        with self._saves.lock:
            known = self._files.get(real, ())

            def publishing(identity: Identity) -> None:
                if known:
                    self._files[real] = (*known, identity)

            replaces = () if overwrite else known
            contents = self._file_contents()
            saved = file_format.write(path, self._codec, contents, replaces=replaces, publishing=publishing)
            self._files[real] = (saved,)

    def _file_contents(self) -> FileContents:
        """Return what a file of this moment holds, also while another thread changes the index."""
        from .file_format import FileContents

        encoder, contents, *_ = self._state
        contents = compacted(contents, encoder.backend)
        meta, graph = dict(self._meta), contents.graph
        return FileContents(encoder.centering, contents.segments(), meta, contents.ids.next_id, graph)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mmap: bool = False, verify: bool | None = None, device: Device = "auto"
    ) -> VQIndex:
        """Open a ``.vqi`` file.

        Parameters
        ----------
        path : str or path
            The file.
        mmap : bool, default False
            Map codes, scalars and originals instead of reading them; the time to open does not depend on the size.
            The map is of the file that was opened, also after a save replaces it. Other programs must replace the file
            too, and never change it in place.
        verify : bool, optional
            Check every block against its checksum, which reads the whole file. Default: True, or False with `mmap`.
            The header and the codebook are always checked.
        device : str, default "auto"
            As for the constructor.

        Returns
        -------
        VQIndex
            The index, with the backend of this machine.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        FileFormatError
            If the file is not an index, is truncated or damaged (the message names the block), of unknown version, or
            changed in place while it is read.
        """
        from . import file_format

        path = as_path(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is no .vqi file; vqindex.open opens a store", str(path))
        real = os.path.realpath(path)
        file = file_format.read(path, mmap=mmap, verify=not mmap if verify is None else verify)
        index = cls._of_file(file, device, is_mapped=mmap)
        if file.identity is not None:
            index._files[real] = (file.identity,)
        return index

    @classmethod
    def _of_file(cls, file: FileContents, device: str, *, is_mapped: bool = False) -> VQIndex:
        """Return an index that holds what was read from a file."""
        segment = file.segment
        index = cls._empty(file.centering, device, file.graph)
        index._rows.seal(segment.stored)
        ids = IdMap(segment.rows, segment.ids, file.next_id, segment.string_ids)
        contents = Contents(index._rows, ids, segment.originals, file.graph)
        index._state = index._state._replace(contents=contents, filed_rows=segment.rows if is_mapped else 0)
        index._meta = file.meta
        return index


def _from_pickle(kind: type[VQIndex], data: bytes, backend: str) -> VQIndex:
    """Return the index of a pickle, on the backend it had, or on the CPU where that backend can't be used."""
    from .file_format import read_bytes

    file = read_bytes(data)
    try:
        return kind._of_file(file, backend)
    except BackendError:
        return kind._of_file(file, "cpu")
