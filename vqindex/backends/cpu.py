"""The CPU backend, on the compiled extension. It chooses the instruction set and the number of threads.

For codecs without a second projection the extension encodes, prepares queries, writes the stored layout, and searches.
The reference runs all other steps, in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._native import Scanner, ScanRows, Tables, WalkRows, encode, prepare, split_rows, trellis_encode
from ..center import Centering
from ..codes.bitplanes import BLOCK_ROWS, StoredRows, has_whole_codes, put_scalars
from ..codes.codec import Codec
from ..codes.encoded import Encoded, Queries
from ..codes.graph import LinkRule
from ..codes.records import RecordLayout
from ..codes.rotation import Hadamard
from ..codes.sign_bound import SignBoundTerms, quantile
from ..codes.top_k import RangeHits, TopK, Walked, merge_top_k
from ..codes.trellis import FRACTION, Trellis
from ..native_calls import call_native, chosen_isa, cpu_count
from ..rows.graph import Graph
from ..rows.request import SearchRequest, Selection
from ..rows.segment import Segment
from .native_finder import NativeFinder, query_rules
from .reference import ReferenceBackend, squares_of

__all__ = ["NativeBackend", "chosen_isa", "cpu_count"]

_HITS = 2**23  # most results of one compiled call
_QUERIES = 2**14  # most queries of one compiled call; it checks for Ctrl-C between row tiles
_GATHER = 32  # gathering a row costs as much as scanning so many rows of a batch (gather.hpp)
_SMALL = 2**14  # least values per thread of NumPy calls; a thread of fewer costs more than it saves
# Least values per thread of the compiled encoder, about 50 us of work.
_FEW_VALUES = 2**16
_FEW_TRELLIS_VALUES = 2**12

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


def _threads(values: int, few: int) -> int:
    """Return the number of threads for a call over so many values, with at least `few` values per thread."""
    return 1 if values < 2 * few else min(cpu_count(), values // few)


class _Part(NamedTuple):
    """A search of segments in one layout: their scanner, and the number of their first row in the whole search."""

    scanner: Scanner
    first_row: int
    request: SearchRequest
    segments: Sequence[Segment]


class NativeBackend(ReferenceBackend):
    """The reference with compiled steps; it gives the same bytes and scores."""

    name = "native"

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self.isa = chosen_isa()
        # The scanner reads stored rows. The decoder reads packed code rows, which scalar codes also have in records.
        self._scanner = None if codec.has_sketch else self._make_scanner(self.spec.has_sign_bits)
        signed_trellis = codec.trellis is not None and codec.trellis.has_signs
        self._decoder = None if codec.has_sketch or signed_trellis else self._make_scanner(False)
        self._sign_bound_terms = SignBoundTerms.of(self.spec.dim, codec.sign_correlation)

    def _make_scanner(self, signs: bool) -> Scanner:
        spec, trellis = self.spec, self.codec.trellis
        levels, tops = self.codec.codebook.levels, int(signs)
        if trellis is not None and signs:
            levels, tops = trellis.levels_by_bit_planes(), trellis.warmup_fields + 1
        window = levels.size.bit_length() - 1 - tops  # `levels` has 2**(window + tops) entries
        return Scanner(spec.dim, spec.bits - signs, window, tops, levels.astype(np.int16), spec.metric, self.isa)

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """Steps without a compiled kernel: encoding with a dense rotation, and all steps of codecs with a sketch."""
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
        """Encode finite float32 vectors of shape (n, d); the processors share the rows."""
        if self._tables is None:
            return self._encode_shares(vectors)
        few = _FEW_TRELLIS_VALUES if self.codec.trellis is not None else _FEW_VALUES
        threads = _threads(vectors.size, few)
        return Encoded(*call_native(encode, self._tables, np.ascontiguousarray(vectors), threads, self.isa))

    def _encode_shares(self, vectors: F32) -> Encoded:
        """Encode with NumPy in threads, each with a share of the rows."""
        # A pool for each call is safe after a fork.
        share = -(-len(vectors) // cpu_count())
        if share * self.spec.dim < _SMALL or share >= len(vectors):
            return super().encode(vectors)
        shares = [vectors[start : start + share] for start in range(0, len(vectors), share)]
        try:
            with ThreadPoolExecutor(len(shares)) as pool:
                encoded = list(pool.map(super().encode, shares))
        except RuntimeError:  # there are no more threads, as in a daemon thread when the interpreter ends
            return super().encode(vectors)
        codes, rescales, norms = zip(*encoded, strict=True)
        norm = np.concatenate(norms) if self.spec.stores_norm else None
        return Encoded(np.concatenate(codes), np.concatenate(rescales), norm)

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout, from row `start` on."""
        if into.signs is None:
            super().put(rows, into, start)
            return
        spec, codes = self.spec, np.ascontiguousarray(rows.codes)
        fields, whole = (spec.dim, spec.warmup_fields, spec.bits), has_whole_codes(spec, into)
        sign_rows = None if whole or into.records is None else into.records[:, : spec.sign_bytes]
        call_native(split_rows, codes, *fields, start, into.signs, into.codes, whole, sign_rows)
        put_scalars(rows, into, start)

    def prepare(self, queries: F32) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d)."""
        if self._tables is None:
            return super().prepare(queries)
        threads = _threads(queries.size, _FEW_VALUES)
        prepared = call_native(prepare, self._tables, np.ascontiguousarray(queries), threads, self.isa)
        code_query, scale, norm = prepared
        return Queries(code_query, scale, None, None, norm)

    def _search_trellis(self, values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
        levels = trellis.table.astype(np.int16) * np.int16(FRACTION)
        limits = trellis.limit, trellis.gain, trellis.start_mask
        fields, starts = call_native(
            trellis_encode, np.ascontiguousarray(values.T), levels, trellis.bits, trellis.window, *limits, self.isa
        )
        shifts = np.arange(trellis.warmup_fields, dtype=np.uint16) * np.uint16(trellis.bits)
        first = starts[:, None] >> shifts & np.uint16(2**trellis.bits - 1)
        return np.concatenate([first.astype(np.uint8), fields], axis=1)

    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query, best first; threads share the scan."""
        if self._scanner is None:
            return super().search(request, segments)
        request, lists = request.without_removed(segments), []
        for part in self._parts(request, segments):
            found = self._search_part(part)
            if part.first_row:
                found = found._replace(rows=np.where(found.rows < 0, -1, found.rows + part.first_row))
            lists.append(found)
        return lists[0] if len(lists) == 1 else merge_top_k(lists, request.k, ascending=self.ascending)

    def _search_part(self, part: _Part) -> TopK:
        scanner, _, request, segments = part
        stored, sign_bound = [segment.stored for segment in segments], self._sign_bound(request.confidence)
        threads, found = request.threads or cpu_count(), []
        for batch in self._batches(request, segments, _HITS // max(1, request.k)):
            queries, words = batch.queries, None if batch.selection is None else self._words(batch.selection)
            args = stored, queries.code_query, queries.code_scale, queries.norm
            found.append(TopK(*call_native(scanner.search, *args, request.k, sign_bound, threads, words)))
        return TopK.of_queries(found)

    def walk(self, request: SearchRequest, segments: Sequence[Segment], graph: Graph) -> Walked:
        """Return the k best rows that walks of the graph find; threads share the queries."""
        scanner, records = self._graph_scanner, self._records(segments)
        if scanner is None or records is None:
            return super().walk(request, segments, graph)
        threads, entries, found = request.threads or cpu_count(), graph.entries(), []
        at_once = max(1, min(_QUERIES, _HITS // max(1, request.k)))
        for start in range(0, max(1, request.count), at_once):
            batch = request.select(slice(start, start + at_once))
            queries, selection = batch.queries, self._words(batch.selection)
            words = None if selection is None else selection[0]
            args = queries.code_query, queries.code_scale, queries.norm, batch.k, batch.effort
            scores, rows, scored, gave_up = call_native(
                scanner.walk,
                records,
                self._layout,
                graph.links,
                graph.slots,
                entries,
                *args,
                batch.budget,
                batch.need,
                threads,
                words,
                batch.hidden,
            )
            top_k = TopK(scores, rows, self._signed(scores), np.zeros(len(rows), np.int64))
            found.append(Walked(top_k, scored, gave_up))
        return Walked.of_queries(found)

    def finder(
        self, centering: Centering, segments: Sequence[Segment], graph: Graph | None, live: U64 | None
    ) -> NativeFinder | None:
        """Return what searches these rows in one call for few queries; None for codes that NumPy prepares."""
        if self._tables is None or any(segment.removed is not None for segment in segments):
            return None
        scanners = {self._scanner_of(segment.stored) for segment in segments} or {self._scanner}
        scanner = scanners.pop() if len(scanners) == 1 else None  # a scan has one, and so rows of one layout
        stored, selection = [segment.stored for segment in segments], None
        if live is not None:
            selection = self._words(Selection.of(live, [segment.rows for segment in segments]))
        terms = self._sign_bound_terms if self.has_sign_bound else None
        walker, records = self._graph_scanner, self._records(segments)
        scan = None if scanner is None else partial(ScanRows, scanner, stored, terms, selection)
        walk = None
        if graph is not None and walker is not None and records is not None:
            links = graph.links, graph.slots, graph.entries()
            walk = partial(WalkRows, walker, records, self._layout, *links, live)
        return NativeFinder(query_rules(self._tables, centering, self.isa), scan, walk)

    def link(self, segments: Sequence[Segment], links: U8, first: int, last: int, rule: LinkRule) -> None:
        """Link rows [first, last) to the graph of the rows before them; `links`, packed, are changed in place."""
        scanner, records = self._graph_scanner, self._records(segments)
        if scanner is None or records is None:
            super().link(segments, links, first, last, rule)
            return
        call_native(scanner.link, records, self._layout, links, first, last, rule, cpu_count())

    def relink(self, segments: Sequence[Segment], links: U8, live: U64, rule: LinkRule) -> None:
        """Give rows that link to removed rows other links; `links`, packed, are changed in place."""
        scanner, records = self._graph_scanner, self._records(segments)
        if scanner is None or records is None:
            super().relink(segments, links, live, rule)
            return
        call_native(scanner.relink, records, self._layout, links, live, rule, cpu_count())

    @property
    def _graph_scanner(self) -> Scanner | None:
        """The scanner that reads the codes of records: whole scalar codes, or a trellis beside its sign bits."""
        return self._scanner if self._decoder is None else self._decoder

    @cached_property
    def _layout(self) -> tuple[int, int, int, int, int, int]:
        *layout, norm_at = RecordLayout.of(self.spec)
        size, sign_bytes, code_at, code_bytes, rescale_at = layout
        return size, sign_bytes, code_at, code_bytes, rescale_at, -1 if norm_at is None else norm_at

    @staticmethod
    def _records(segments: Sequence[Segment]) -> list[NDArray[np.uint8]] | None:
        """Return the records of all rows; None where some segment has other rows."""
        records = []
        for segment in segments:
            if segment.stored.records is None:
                return None
            records.append(segment.stored.records)
        return records

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows that are better than the thresholds; threads share the scan."""
        if self._scanner is None:
            return super().range_search(request, segments)
        request = request.without_removed(segments)
        parts = self._parts(request, segments)
        lists = [self._range_search_part(part) for part in parts]
        if len(lists) == 1:
            return lists[0]
        query = np.concatenate([np.repeat(np.arange(request.count), np.diff(hits.lims)) for hits in lists])
        scores = np.concatenate([hits.scores for hits in lists])
        rows = np.concatenate([hits.rows + part.first_row for hits, part in zip(lists, parts, strict=True)])
        return RangeHits.of_unsorted(query, scores, rows, request.count, ascending=self.ascending)

    def _range_search_part(self, part: _Part) -> RangeHits:
        scanner, _, request, segments = part
        stored, sign_bound = [segment.stored for segment in segments], self._sign_bound(request.confidence)
        threads, found = request.threads or cpu_count(), []
        for batch in self._batches(request, segments, _QUERIES):
            queries, words = batch.queries, self._words(batch.selection)
            assert batch.thresholds is not None
            args = stored, queries.code_query, queries.code_scale, queries.norm, self._signed(batch.thresholds)
            hits = call_native(scanner.range_search, *args, sign_bound, threads, words)
            found.append(RangeHits.of_counts(*hits))
        return RangeHits.of_queries(found)

    def _parts(self, request: SearchRequest, segments: Sequence[Segment]) -> list[_Part]:
        """Divide a search of segments in several layouts into searches that one scanner makes."""
        scanners = [self._scanner_of(segment.stored) for segment in segments] or [self._scanner]
        parts, first_row, at = [], 0, 0
        for scanner, run in itertools.groupby(scanners):
            assert scanner is not None
            some = segments[at : at + len(list(run))]
            of_part = request
            if len(some) < len(segments) and request.selection is not None:
                of_part = replace(request, selection=Selection(request.selection.words[at : at + len(some)]))
            parts.append(_Part(scanner, first_row, of_part, some))
            first_row, at = first_row + sum(segment.rows for segment in some), at + len(some)
        return parts

    def _scanner_of(self, stored: StoredRows) -> Scanner | None:
        """Return the scanner that reads the codes of some stored rows."""
        return self._decoder if stored.signs is not None and has_whole_codes(self.spec, stored) else self._scanner

    def _sign_bound(self, confidence: float) -> tuple[float, float, float, float] | None:
        return (*self._sign_bound_terms, quantile(confidence)) if confidence < 1 and self.has_sign_bound else None

    def _batches(self, request: SearchRequest, segments: Sequence[Segment], most: int) -> list[SearchRequest]:
        """Return the requests of the compiled calls, at most `most` queries each; one request if it has no queries."""
        count = request.count
        if count < 2:
            return [request]
        size = 1 if self._is_sparse(request, segments) else max(1, min(_QUERIES, most))
        if count <= size:
            return [request]
        return [request.select(slice(start, start + size)) for start in range(0, count, size)]

    @staticmethod
    def _is_sparse(request: SearchRequest, segments: Sequence[Segment]) -> bool:
        """Whether filters select so few rows for each query that one call per query takes less time."""
        selection = request.selection
        if selection is None or not selection.is_per_query:
            return False
        rows = [segment.rows for segment in segments]
        return _GATHER * selection.pairs_selected(rows, request.count) < request.count * sum(rows)

    @staticmethod
    def _words(selection: Selection | None) -> list[NDArray[np.uint64] | None] | None:
        """Return words in the form of the extension, (nq, words), or (1, words) for all queries."""
        if selection is None:
            return None
        return [None if words is None else np.atleast_2d(words) for words in selection.words]

    def _row_variance(self, stored: StoredRows, at: I64) -> tuple[F64, F32 | None]:
        scanner = self._scanner_of(stored)
        if scanner is None or not self.codec.renormalized or self.codec.codebook.levels.dtype != np.int8:
            return super()._row_variance(stored, at)
        signs = None
        if stored.signs is not None and scanner is self._scanner:
            signs = np.ascontiguousarray(stored.signs[at // BLOCK_ROWS, :, at % BLOCK_ROWS])
        codes = np.ascontiguousarray(stored.codes[at])
        levels = call_native(scanner.decode, codes, signs)[:, : self.spec.dim]
        rows = Encoded(codes, stored.rescale[at], None if stored.norm is None else stored.norm[at])
        return self._variance(rows, squares_of(levels)), rows.norm

    def _levels(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        if self._decoder is None or self.codec.codebook.levels.dtype != np.int8:
            return super()._levels(codes)
        return call_native(self._decoder.decode, np.ascontiguousarray(codes), None)[:, : self.spec.dim]

    def _sums(self, queries: NDArray[np.int16], levels: NDArray[Any]) -> F32:
        if self._scanner is None or levels.dtype != np.int8 or levels.shape[1] != self.spec.dim:
            return super()._sums(queries, levels)
        return call_native(self._scanner.sums, queries, np.ascontiguousarray(levels))
