"""The reference backend: slow, obvious NumPy. Tests compare every kernel with it.

The sums of an int16 query with integer levels are float64 matrix products. Every partial sum is an integer below 2^53,
so the sums are exact in any order that BLAS chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..center import Centering
from ..codes.bitplanes import StoredRows, join_rows, put_rows
from ..codes.codec import Codec
from ..codes.encoded import Encoded, Queries
from ..codes.estimator import Scaled, flush, integer_query, l2_from_ip, renormalized_variance, stderr, sum64, to_scaled
from ..codes.graph import BATCH, LinkRule
from ..codes.packing import pack, unpack
from ..codes.sign_bound import MAX_DIM as SIGN_BOUND_DIM
from ..codes.sign_bound import SignBoundTerms, bounds, quantile, sign_query
from ..codes.top_k import RangeHits, TopK, Walked, merge_top_k
from ..codes.trellis import Trellis, trellis_values, viterbi
from ..rows.bitmap import bits_of
from ..rows.graph import Graph, pack_links, unpack_links
from ..rows.request import SearchRequest
from ..rows.segment import Segment
from ..underflow import ignoring_underflow
from .protocol import Finder
from .reference_graph import GraphRows, walk

__all__ = ["ReferenceBackend", "squares_of"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

_CACHE_VALUES = 2**17  # float32 values of a block to encode, which fits the second-level cache
_SCORES = 2**23  # most scores in memory during a search


def _ldexp(values: F64, shift: NDArray[np.int32]) -> F64:
    result: F64 = np.ldexp(values, shift)
    return result


def squares_of(levels: NDArray[Any]) -> F64:
    """Return the sums of squares of integer levels (n, d), exact."""
    wide: NDArray[np.int64] = levels.astype(np.int32 if levels.dtype == np.int8 else np.int64)
    sums: F64 = np.einsum("ij,ij->i", wide, wide).astype(np.float64)
    return sums


class ReferenceBackend:
    """Encode and scan with NumPy."""

    name = "reference"

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.spec = codec.spec
        self.ascending = self.spec.metric == "l2"

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """All steps."""
        return ("encode", "prepare", "search")

    @property
    def walks(self) -> bool:
        """Whether the code has a graph: codecs with a second projection have none."""
        return not self.codec.has_sketch

    # ---- encode

    def adopt(self, array: object) -> None:
        """Return None: the host is its only device."""

    def encode(self, vectors: F32) -> Encoded:
        """Encode finite float32 vectors of shape (n, d)."""
        n = vectors.shape[0]
        codes = np.empty((n, self.spec.code_bytes), np.uint8)
        rescale = np.empty(n, np.float32)
        norm = np.empty(n, np.float32) if self.spec.stores_norm else None
        step = max(1, _CACHE_VALUES // self.spec.dim)
        for start in range(0, n, step):
            at = slice(start, start + step)
            codes[at], rescale[at], block_norm = self._encode_block(vectors[at])
            if norm is not None:
                norm[at] = block_norm
        return Encoded(codes, rescale, norm)

    def _encode_block(self, vectors: F32) -> tuple[NDArray[np.uint8], F32, F32]:
        codec = self.codec
        x = to_scaled(vectors)
        y = codec.rotation.forward(x.columns)
        scale = np.sqrt(x.norm2 / self.spec.dim).astype(np.float32)
        if codec.trellis is not None:
            codes, rescale = self._encode_trellis(x, y, scale, codec.trellis)
        else:
            cells = np.zeros(y.shape, np.uint8)
            for threshold in codec.codebook.thresholds:
                cells += y > threshold * scale
            if codec.has_sketch:
                codes, rescale = self._encode_sketched(x, y, scale, cells)
            else:
                codes = pack(np.ascontiguousarray(cells.T), self.spec.bits)
                rescale = self._rescale_of(x, y, codec.codebook.levels[cells])
        return codes, rescale, flush(_ldexp(np.sqrt(x.norm2), x.shift))

    def _encode_sketched(
        self, x: Scaled, y: F32, scale: F32, cells: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], F32]:
        """Return codes and rescales of the codecs that store signs of a second projection of the residual."""
        codec = self.codec
        residual = y - codec.codebook.values[cells] * scale
        signs = codec.sketch.forward(residual) > 0
        if self.spec.codec == "qjl":
            codes = pack(np.ascontiguousarray(signs.T).astype(np.uint8), 1)
        else:
            codes = pack(np.ascontiguousarray((2 * cells + signs).T.astype(np.uint8)), self.spec.bits)
        if codec.renormalized:
            plus_minus = signs.astype(np.float32) * 2 - 1
            decoded = codec.codebook.levels[cells] + codec.beta * codec.sketch.inverse(plus_minus)
            return codes, self._rescale_of(x, y, decoded)
        # QJL of the residual: sqrt(pi/2) / m |r| (arXiv 2406.03482, Definition 3.1)
        wide = residual.astype(np.float64)
        gamma = np.sqrt(sum64(wide * wide)) * (math.sqrt(math.pi / 2) / codec.signs)
        return codes, self._in_metric_units(x, gamma)

    def _encode_trellis(self, x: Scaled, y: F32, scale: F32, trellis: Trellis) -> tuple[NDArray[np.uint8], F32]:
        """Return codes and rescales of the trellis codec."""
        fields = self._search_trellis(trellis_values(y, scale, trellis.step), trellis)
        levels = trellis.table[trellis.windows(fields)].T
        return pack(trellis.swapped(fields), self.spec.bits), self._rescale_of(x, y, levels)

    def _search_trellis(self, values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
        """Return the fields (n, warmup_fields + d) of values (d, n); faster backends override this step."""
        return viterbi(values, trellis)

    def _in_metric_units(self, x: Scaled, values: F64) -> F32:
        """Convert lengths of the scaled domain to the vectors' scale, for cosine to multiples of |x|."""
        if self.spec.metric == "cosine":
            return flush(np.divide(values, np.sqrt(x.norm2), out=np.zeros_like(values), where=x.norm2 > 0))
        return flush(_ldexp(values, x.shift))

    def _rescale_of(self, x: Scaled, y: F32, decoded: NDArray[np.generic]) -> F32:
        if not self.codec.renormalized:
            return self._in_metric_units(x, np.sqrt(x.norm2) * np.float64(self.codec.cell_scale))
        dot = sum64(y.astype(np.float64) * decoded.astype(np.float64))
        positive = dot > 0
        if self.spec.metric == "cosine":
            return flush(np.divide(np.sqrt(x.norm2), dot, out=np.zeros_like(dot), where=positive))
        return flush(_ldexp(np.divide(x.norm2, dot, out=np.zeros_like(dot), where=positive), x.shift))

    def finder(
        self, centering: Centering, segments: Sequence[Segment], graph: Graph | None, live: U64 | None
    ) -> Finder | None:
        """Return None: the steps are taken one by one."""
        return None

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout, from row `start` on."""
        put_rows(self.spec, rows, into, start)

    # ---- decode

    def _levels(self, codes: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return the integer levels of the cells, shape (n, d)."""
        if self.codec.index_bits == 0:
            return np.zeros((len(codes), self.spec.dim), np.int8)
        fields = unpack(codes, self.spec.fields, self.spec.bits)
        if self.codec.trellis is not None:
            trellis = self.codec.trellis
            at: NDArray[Any] = trellis.windows(trellis.swapped(fields))
        else:
            at = fields >> 1 if self.codec.has_sketch else fields
        levels: NDArray[np.generic] = self.codec.codebook.levels[at]
        return levels

    def _signs(self, codes: NDArray[np.uint8]) -> NDArray[np.signedinteger[Any]]:
        """Return the signs +-1 of the second projection, shape (n, m)."""
        if self.spec.codec == "qjl":
            bits = unpack(codes, self.codec.signs, 1).astype(np.int8)
        else:
            bits = (unpack(codes, self.spec.dim, self.spec.bits) & 1).astype(np.int8)
        return 2 * bits - 1

    def _weights(self, rows: Encoded) -> tuple[F32, F32]:
        """Return the weights of a row's two sums, code_weight and sketch_weight, each of shape (n,)."""
        codec = self.codec
        if not codec.has_sketch:
            return rows.rescale, rows.rescale
        if codec.renormalized:
            return rows.rescale, rows.rescale * codec.beta
        if rows.norm is not None:
            return rows.norm * codec.cell_scale, rows.rescale
        # For cosine all vectors have norm 1, except zero vectors, whose rescale is 0.
        return np.where(rows.rescale > 0, codec.cell_scale, np.float32(0)), rows.rescale

    def _rotated(self, rows: Encoded) -> F32:
        """Return P xhat, with <Pq, P xhat> = estimate, shape (d, n)."""
        code_weight, sketch_weight = self._weights(rows)
        rotated: F32 = self._levels(rows.codes).T.astype(np.float32) * code_weight
        if self.codec.has_sketch:
            signs = np.ascontiguousarray(self._signs(rows.codes).T.astype(np.float32))
            rotated += self.codec.sketch.inverse(signs) * sketch_weight
        return rotated

    def decode(self, rows: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""
        return np.ascontiguousarray(self.codec.rotation.inverse(self._rotated(rows)).T)

    # ---- search

    @ignoring_underflow
    def prepare(self, queries: F32) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d)."""
        x = to_scaled(queries)
        norm = np.sqrt(x.norm2)
        y = self.codec.rotation.forward(x.columns)

        def quantize(columns: F32) -> tuple[NDArray[np.int16], F32]:
            whole, step = integer_query(columns)
            return whole, self._in_metric_units(x, step)

        code, code_scale = quantize(y)
        sketch, sketch_scale = quantize(self.codec.sketch.forward(y)) if self.codec.has_sketch else (None, None)
        return Queries(code, code_scale, sketch, sketch_scale, self._in_metric_units(x, norm))

    def _sums(self, queries: NDArray[np.int16], levels: NDArray[Any]) -> F32:
        """Return the exact sums (nq, n) of int16 queries (nq, m) and integer levels (n, m), rounded to float32 once."""
        return (queries.astype(np.float64) @ levels.T.astype(np.float64)).astype(np.float32)

    def _inner_products(self, queries: Queries, rows: Encoded) -> F32:
        code_weight, sketch_weight = self._weights(rows)
        total = np.zeros((queries.code_query.shape[0], rows.rows), np.float32)
        if self.codec.index_bits:
            sums = self._sums(queries.code_query, self._levels(rows.codes))
            total = sums * queries.code_scale[:, None] * code_weight
        if queries.sketch_query is not None and queries.sketch_scale is not None:
            sums = self._sums(queries.sketch_query, self._signs(rows.codes))
            total = total + sums * queries.sketch_scale[:, None] * sketch_weight
        return total

    def scores(self, queries: Queries, rows: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""
        ip = self._inner_products(queries, rows)
        if self.ascending and rows.norm is not None:
            return l2_from_ip(ip, rows.norm, queries.norm)
        return ip

    def stderr(self, queries: Queries, rows: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n), for queries at right angles to the rows."""
        error = stderr(queries.norm[:, None], self._variance(rows)[None, :])
        return error * np.float32(2) if self.ascending else error

    def _variance(self, rows: Encoded, squares: F64 | None = None) -> F64:
        """Return the variance of estimates for a unit query; `squares` are sums of squared levels if they are known."""
        codec, d = self.codec, self.spec.dim
        norm = np.ones(rows.rows) if rows.norm is None else rows.norm.astype(np.float64)
        if codec.renormalized:
            if codec.has_sketch:
                wide = self._rotated(rows).astype(np.float64)
                return renormalized_variance(d, sum64(wide * wide), norm)
            squares = squares_of(self._levels(rows.codes)) if squares is None else squares
            return renormalized_variance(d, rows.rescale.astype(np.float64) ** 2 * squares, norm)
        if codec.spec.codec == "turboquant-mse":
            # The variance around the bias: the error has energy D = mse, and D^2 of it is parallel to x.
            mse = codec.codebook.mse
            return np.where(rows.rescale > 0, norm**2 * mse * (1.0 - mse) / max(d - 1, 1), 0.0)
        # variance pi/2 / m |r|^2, and rescale = sqrt(pi/2) / m |r|
        return rows.rescale.astype(np.float64) ** 2 * codec.signs

    @ignoring_underflow
    def row_errors(self, segments: Sequence[Segment], rows: I64) -> tuple[F64, F64]:
        """Return the standard errors of some rows' scores for unit queries at right angles to them, and the norms."""
        errors, norms = np.empty(rows.size), np.ones(rows.size)
        step, first_row = max(1, _SCORES // self.spec.dim), 0
        for segment in segments:
            here = np.flatnonzero((rows >= first_row) & (rows < first_row + segment.rows))
            for start in range(0, here.size, step):
                at = here[start : start + step]
                variance, norm = self._row_variance(segment.stored, rows[at] - first_row)
                errors[at] = np.sqrt(np.maximum(variance, 0.0)) * (2.0 if self.ascending else 1.0)
                norms[at] = 1.0 if norm is None else norm
            first_row += segment.rows
        return errors, norms

    def _row_variance(self, stored: StoredRows, at: I64) -> tuple[F64, F32 | None]:
        """Return the variance of some stored rows' estimates, and their norms."""
        rows = join_rows(self.spec, stored, at)
        return self._variance(rows), rows.norm

    @ignoring_underflow
    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query, best first."""
        request, k = request.without_removed(segments), request.k
        size = max(1, min(1024, _SCORES // (4 * max(1, k))))
        found = [
            self._search_batch(request.select(slice(start, start + size)), segments)
            for start in range(0, request.count, size)
        ]
        return TopK.of_queries(found) if found else TopK.empty(0, k, ascending=self.ascending)

    def _search_batch(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        nq, k = request.count, request.k
        best = _Best.none(nq, k)
        step = max(k, _SCORES // max(nq, 512))
        for first_row, rank_scores, scores in self._scored(request, segments, step):
            best = best.merged(rank_scores, scores, first_row)
        scores = np.float32(0) - best.scores if self.ascending else best.scores
        found = TopK(scores, best.rows, best.rank_scores, np.zeros(nq, np.int64))
        return merge_top_k([found], k, ascending=self.ascending)

    def _scored(self, request: SearchRequest, segments: Sequence[Segment], step: int) -> Iterator[tuple[int, F32, F32]]:
        """Yield the first row, rank scores and scores, (nq, rows), of `step` rows at a time; larger is better."""
        first_row = 0
        words = (None,) * len(segments) if request.selection is None else request.selection.words
        for segment, selected in zip(segments, words, strict=True):
            bits = None if selected is None else np.atleast_2d(bits_of(selected, segment.rows))
            for start in range(0, segment.rows, step):
                rows = join_rows(self.spec, segment.stored, slice(start, start + step))
                scores = self._signed(self.scores(request.queries, rows))
                rank_scores = scores
                if request.confidence < 1 and self.has_sign_bound:
                    bounds = self._bounds(request.queries, rows, quantile(request.confidence))
                    rank_scores = np.minimum(scores, self._signed(bounds))
                if bits is not None:  # rows that are not selected rank like empty places
                    rank_scores = np.where(bits[:, start : start + step], rank_scores, np.float32(-np.inf))
                yield first_row + start, rank_scores, scores
            first_row += segment.rows

    @ignoring_underflow
    def walk(self, request: SearchRequest, segments: Sequence[Segment], graph: Graph) -> Walked:
        """Return the k best rows that walks of the graph find."""
        rows = GraphRows(self.spec, self._levels, segments)
        return Walked(*walk(rows, request, graph, self._scores_of, self.ascending))

    def _scores_of(self, request: SearchRequest, rows: Encoded) -> F32:
        return self.scores(request.queries, rows)

    def link(
        self, segments: Sequence[Segment], links: NDArray[np.uint8], first: int, last: int, rule: LinkRule
    ) -> None:
        """Link rows [first, last) to the graph of the rows before them; `links`, packed, are changed in place."""
        rows, unpacked = GraphRows(self.spec, self._levels, segments, last), unpack_links(links, rule.slots)
        for start in range(first, last, BATCH):
            rows.link(unpacked, start, min(start + BATCH, last), rule)
        links[:] = pack_links(unpacked, links.shape[1] // rule.slots)

    def relink(self, segments: Sequence[Segment], links: U8, live: U64, rule: LinkRule) -> None:
        """Give rows that link to removed rows other links; `links`, packed, are changed in place."""
        unpacked = unpack_links(links, rule.slots)
        GraphRows(self.spec, self._levels, segments, len(links)).relink(unpacked, live, rule)
        links[:] = pack_links(unpacked, links.shape[1] // rule.slots)

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows that are better than the request's thresholds."""
        request = request.without_removed(segments)
        none = np.empty(0, np.int64)
        found = [(none, none, np.empty(0, np.float32))]
        for start in range(0, request.count, 1024):
            batch = request.select(slice(start, start + 1024))
            assert batch.thresholds is not None
            thresholds = self._signed(batch.thresholds)[:, None]
            for first_row, rank_scores, scores in self._scored(batch, segments, _SCORES // 1024):
                query, column = np.nonzero(rank_scores > thresholds)
                found.append((query + start, column + first_row, scores[query, column]))
        query, rows, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        scores = np.float32(0) - scores if self.ascending else scores
        return RangeHits.of_unsorted(query, scores, rows, request.count, ascending=self.ascending)

    @cached_property
    def has_sign_bound(self) -> bool:
        """Whether searches of this code use the sign bound for a confidence below 1."""
        return self.spec.has_sign_bits and self.spec.dim <= SIGN_BOUND_DIM

    def _signed(self, scores: F32) -> F32:
        """Return scores, or negated distances, so that higher is better."""
        return -scores if self.ascending else scores

    def _bounds(self, queries: Queries, rows: Encoded, z: float) -> F32:
        """Return the bounds of the scores from the rows' signs (sign_bound.py), shape (nq, n)."""
        c, rounding_error2 = sign_query(queries.code_query)
        signs = unpack(rows.codes, self.spec.fields, self.spec.bits)[:, self.spec.warmup_fields :] >> (
            self.spec.bits - 1
        )
        sums = self._sums(c.astype(np.int16), 2 * signs.astype(np.int8) - 1)
        terms = SignBoundTerms.of(self.spec.dim, self.codec.sign_correlation)
        ip = bounds(terms, z, sums, rounding_error2, queries.code_scale, queries.norm, rows.norm)
        if self.ascending and rows.norm is not None:
            return l2_from_ip(ip, rows.norm, queries.norm)
        return ip


class _Best(NamedTuple):
    """The k best rows of every query so far, best rank score first; all arrays have shape (nq, k)."""

    rank_scores: F32
    scores: F32
    rows: I64

    @classmethod
    def none(cls, nq: int, k: int) -> _Best:
        """Return empty lists."""
        worst = np.full((nq, k), -np.inf, np.float32)
        return cls(worst, worst.copy(), np.full((nq, k), -1, np.int64))

    def merged(self, rank_scores: F32, scores: F32, first_row: int) -> _Best:
        """Return the lists with new rows, whose numbers are higher, merged in; ties keep the lower row."""
        k = self.rank_scores.shape[1]
        threshold = self.rank_scores[:, -1]
        if np.any(self.rows[:, -1] < 0) and rank_scores.shape[1] > k:
            # Some list has empty places: its threshold is the k-th best of the new rows, and rows equal to it pass.
            kth = np.partition(rank_scores, rank_scores.shape[1] - k, axis=1)[:, rank_scores.shape[1] - k]
            threshold = np.maximum(threshold, np.nextafter(kth, np.float32(-np.inf)))
        query, column = np.nonzero(rank_scores > threshold[:, None])
        if query.size == 0:
            return self
        old_query, old_place = np.nonzero(self.rows >= 0)
        all_query = np.concatenate([old_query, query])
        rank_score = np.concatenate([self.rank_scores[old_query, old_place], rank_scores[query, column]])
        score = np.concatenate([self.scores[old_query, old_place], scores[query, column]])
        row = np.concatenate([self.rows[old_query, old_place], column + first_row])
        order = np.lexsort((row, -rank_score, all_query))
        all_query = all_query[order]
        place = np.arange(all_query.size) - np.searchsorted(all_query, all_query)
        keep = place < k
        at, source = (all_query[keep], place[keep]), order[keep]
        best = _Best(self.rank_scores.copy(), self.scores.copy(), self.rows.copy())
        best.rank_scores[at], best.scores[at], best.rows[at] = rank_score[source], score[source], row[source]
        return best
