"""The CPU backend over the compiled extension: threads, and which instruction set; everything else is the reference.

Compiled so far, for codecs without a second projection: encoding, preparing queries, bringing rows into the stored
layout, and the search. Other steps run as in NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._native import Scanner, Tables, encode, prepare, split_rows, supported_isas, trellis_encode
from ..codes.bitplanes import StoredRows, put_scalars
from ..codes.codec import Codec
from ..codes.encoded import Encoded, Queries
from ..codes.rotation import Hadamard
from ..codes.sign_bound import SignBoundTerms, quantile
from ..codes.top_k import RangeHits, TopK
from ..codes.trellis import FRACTION, Trellis
from ..errors import BackendError
from ..rows.request import SearchRequest, Selection
from ..rows.segment import Segment
from .reference import ReferenceBackend

__all__ = ["NativeBackend", "chosen_isa", "cpu_count"]

_HITS = 2**23  # results held at a time while searching
_QUERIES = 2**14  # most queries of one compiled call, which looks for Ctrl-C between tiles of rows
_GATHER = 32  # rows met in a batch that cost as much as one that is gathered (gather.hpp)
_SMALL = 2**14  # values per thread under which a thread of NumPy calls costs more than it saves
# The same for threads of the compiled encoder: about 50 us of work.
_FEW_VALUES = 2**16
_FEW_TRELLIS_VALUES = 2**12

F32 = NDArray[np.float32]


def chosen_isa() -> str:
    """Return the instruction set to use: the widest, or what the environment variable VQINDEX_ISA names.

    Raises
    ------
    BackendError
        If VQINDEX_ISA is not the name of one that this machine has.
    """
    names = supported_isas()
    wanted = os.environ.get("VQINDEX_ISA") or names[-1]
    if wanted not in names:
        raise BackendError(f"VQINDEX_ISA is {wanted!r}; this machine has: {', '.join(names)}")
    return wanted


def cpu_count() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(values: int, few: int) -> int:
    """Return how many threads a call over so many values is worth, `few` of them being worth one."""
    return 1 if values < 2 * few else min(cpu_count(), values // few)


class NativeBackend(ReferenceBackend):
    """The reference with compiled steps; same bytes, same scores."""

    name = "native"

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self.isa = chosen_isa()
        # Of rows as they are stored, and of code rows; where there are no sign bits these are the same.
        self._scanner = None if codec.has_sketch else self._make_scanner(self.spec.has_sign_bits)
        by_parts = codec.trellis is not None and codec.trellis.has_signs
        self._decoder = None if codec.has_sketch or by_parts else self._make_scanner(False)
        self._sign_bound_terms = SignBoundTerms.of(self.spec.dim, codec.sign_correlation)

    def _make_scanner(self, signs: bool) -> Scanner:
        spec, trellis = self.spec, self.codec.trellis
        levels, tops = self.codec.codebook.levels, int(signs)
        if trellis is not None and signs:
            levels, tops = trellis.levels_by_bit_planes(), trellis.warmup_fields + 1
        window = levels.size.bit_length() - 1 - tops  # there is a level for every value of window and top bits
        return Scanner(spec.dim, spec.bits - signs, window, tops, levels.astype(np.int16), spec.metric, self.isa)

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """Steps without a compiled kernel: encoding by dense rotations, and all steps of codecs with a sketch."""
        compiled = self.spec.rotation == "hadamard" and not self.codec.has_sketch
        return (*(() if compiled else ("encode", "prepare")), *(() if self._scanner is not None else ("search",)))

    @cached_property
    def _tables(self) -> Tables | None:
        """Tables of the compiled encoder; None for codecs with a dense matrix or a second projection."""
        codec, rotation = self.codec, self.codec.rotation
        if not isinstance(rotation, Hadamard) or codec.has_sketch:
            return None
        tables = Tables(
            rotation.signs.astype(np.float32),
            rotation.source.astype(np.uint32),
            self.spec.bits,
            self.spec.metric == "cosine",
            codec.renormalized,
            float(codec.cell_scale),
        )
        trellis = codec.trellis
        if trellis is None:
            tables.set_codebook(codec.codebook.thresholds, codec.codebook.levels.astype(np.int16))
        else:
            grid = float(np.float32(FRACTION / trellis.step))
            tables.set_trellis(
                trellis.table, FRACTION, trellis.window, trellis.limit, trellis.gain, trellis.start_mask, grid
            )
        return tables

    def encode(self, vectors: F32) -> Encoded:
        """Encode finite float32 vectors of shape (n, d), a share of the rows on each processor."""
        if self._tables is None:
            return self._encode_shares(vectors)
        few = _FEW_TRELLIS_VALUES if self.codec.trellis is not None else _FEW_VALUES
        return Encoded(*encode(self._tables, np.ascontiguousarray(vectors), _threads(vectors.size, few), self.isa))

    def _encode_shares(self, vectors: F32) -> Encoded:
        """Encode with NumPy, a share of the rows on each processor."""
        # A pool per call is safe after fork.
        share = -(-len(vectors) // cpu_count())
        if share * self.spec.dim < _SMALL or share >= len(vectors):
            return super().encode(vectors)
        parts = [vectors[start : start + share] for start in range(0, len(vectors), share)]
        with ThreadPoolExecutor(len(parts)) as pool:
            done = list(pool.map(super().encode, parts))
        codes, rescales, norms = zip(*done, strict=True)
        norm = np.concatenate(norms) if self.spec.stores_norm else None
        return Encoded(np.concatenate(codes), np.concatenate(rescales), norm)

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout, from row `start` on."""
        if into.signs is None:
            super().put(rows, into, start)
            return
        spec, codes = self.spec, np.ascontiguousarray(rows.codes)
        split_rows(codes, spec.dim, spec.warmup_fields, spec.bits, start, into.signs, into.codes)
        put_scalars(rows, into, start)

    def prepare(self, queries: F32) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d)."""
        if self._tables is None:
            return super().prepare(queries)
        threads = _threads(queries.size, _FEW_VALUES)
        code_query, scale, norm = prepare(self._tables, np.ascontiguousarray(queries), threads, self.isa)
        return Queries(code_query, scale, None, None, norm)

    def _search_trellis(self, values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
        levels = trellis.table.astype(np.int16) * np.int16(FRACTION)
        limits = trellis.limit, trellis.gain, trellis.start_mask
        fields, starts = trellis_encode(
            np.ascontiguousarray(values.T), levels, trellis.bits, trellis.window, *limits, self.isa
        )
        shifts = np.arange(trellis.warmup_fields, dtype=np.uint16) * np.uint16(trellis.bits)
        first = starts[:, None] >> shifts & np.uint16(2**trellis.bits - 1)
        return np.concatenate([first.astype(np.uint8), fields], axis=1)

    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query, best first; the scan shares its work among the processors."""
        if self._scanner is None:
            return super().search(request, segments)
        stored, sign_bound = [segment.stored for segment in segments], self._sign_bound(request.confidence)
        found = []
        for some in self._calls(request, segments, _HITS // max(1, request.k)):
            queries, words = some.queries, self._words(some.selection)
            args = stored, queries.code_query, queries.code_scale, queries.norm
            threads = request.threads or cpu_count()
            found.append(TopK(*self._scanner.search(*args, request.k, sign_bound, threads, words)))
        return TopK.of_queries(found)

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows that are better than the thresholds; the scan shares its work among the processors."""
        if self._scanner is None:
            return super().range_search(request, segments)
        stored, sign_bound = [segment.stored for segment in segments], self._sign_bound(request.confidence)
        found = []
        for some in self._calls(request, segments, _QUERIES):
            queries, words = some.queries, self._words(some.selection)
            assert some.thresholds is not None
            args = stored, queries.code_query, queries.code_scale, queries.norm, self._signed(some.thresholds)
            threads = request.threads or cpu_count()
            found.append(RangeHits.of_counts(*self._scanner.range_search(*args, sign_bound, threads, words)))
        return RangeHits.of_queries(found)

    def _sign_bound(self, confidence: float) -> tuple[float, float, float, float] | None:
        return (*self._sign_bound_terms, quantile(confidence)) if confidence < 1 and self.has_sign_bound else None

    def _calls(self, request: SearchRequest, segments: Sequence[Segment], most: int) -> Iterator[SearchRequest]:
        """Yield what one compiled call after another searches for; at least one, also without queries."""
        at_once = 1 if self._is_sparse(request, segments) else max(1, min(_QUERIES, most))
        for start in range(0, max(1, request.count), at_once):
            yield request.select(slice(start, start + at_once))

    @staticmethod
    def _is_sparse(request: SearchRequest, segments: Sequence[Segment]) -> bool:
        """Whether filters leave each query so few rows that it scans its own rows alone in less time."""
        selection = request.selection
        if request.count < 2 or selection is None or not selection.is_per_query:
            return False
        rows = [segment.rows for segment in segments]
        return _GATHER * selection.pairs_selected(rows, request.count) < request.count * sum(rows)

    @staticmethod
    def _words(selection: Selection | None) -> list[NDArray[np.uint64] | None] | None:
        """Return words as the extension takes them: two-dimensional, one line if it is for all queries."""
        if selection is None:
            return None
        return [None if words is None else np.atleast_2d(words) for words in selection.words]

    def _levels(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        if self._decoder is None or self.codec.codebook.levels.dtype != np.int8:
            return super()._levels(codes)
        return self._decoder.decode(np.ascontiguousarray(codes), None)[:, : self.spec.dim]

    def _sums(self, queries: NDArray[np.int16], levels: NDArray[Any]) -> F32:
        if self._scanner is None or levels.dtype != np.int8 or levels.shape[1] != self.spec.dim:
            return super()._sums(queries, levels)
        return self._scanner.sums(queries, np.ascontiguousarray(levels))
