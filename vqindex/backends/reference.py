"""The reference backend: slow, obvious NumPy, the oracle every kernel is tested against.

Sums of an int16 query with integer levels are taken as float64 matrix products: every partial sum is an integer
below 2^53, so they are exact whatever order BLAS chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import StoredRows, join_rows, put_rows
from ..codes.codec import Codec
from ..codes.encoded import Encoded, Queries
from ..codes.estimator import Scaled, flush, integer_query, l2_from_ip, renormalized_variance, stderr, sum64, to_scaled
from ..codes.packing import pack, unpack
from ..codes.sign_bound import MAX_DIM as SIGN_BOUND_DIM
from ..codes.sign_bound import SignBoundTerms, bounds, quantile, sign_query
from ..codes.trellis import Trellis, trellis_values, viterbi
from ..rows.bitmap import Allowed, bits_of, queries_of

__all__ = ["ReferenceBackend"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_CACHE_VALUES = 2**17  # float32 values of an encode block: its passes stay in the second-level cache
_SCORES = 2**23  # scores held at a time while searching


def _ldexp(values: F64, shift: NDArray[np.int32]) -> F64:
    result: F64 = np.ldexp(values, shift)
    return result


class ReferenceBackend:
    """Encode and scan with NumPy."""

    name = "reference"

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.spec = codec.spec
        self._ascending = self.spec.metric == "l2"

    # ---- encode

    def adopt(self, array: object) -> None:
        """Return None: the host is its only device."""

    def encode(self, vectors: F32) -> Encoded:
        """Encode finite float32 vectors of shape (n, d)."""
        n = vectors.shape[0]
        codes = np.empty((n, self.spec.code_bytes), np.uint8)
        factor = np.empty(n, np.float32)
        norm = np.empty(n, np.float32) if self.spec.stores_norm else None
        step = max(1, _CACHE_VALUES // self.spec.dim)
        for start in range(0, n, step):
            at = slice(start, start + step)
            codes[at], factor[at], block_norm = self._encode_block(vectors[at])
            if norm is not None:
                norm[at] = block_norm
        return Encoded(codes, factor, norm)

    def _encode_block(self, vectors: F32) -> tuple[NDArray[np.uint8], F32, F32]:
        codec = self.codec
        x = to_scaled(vectors)
        y = codec.rotation.forward(x.columns)
        scale = np.sqrt(x.norm2 / self.spec.dim).astype(np.float32)
        if codec.trellis is not None:
            codes, factor = self._encode_trellis(x, y, scale, codec.trellis)
        else:
            cells = np.zeros(y.shape, np.uint8)
            for threshold in codec.codebook.thresholds:
                cells += y > threshold * scale
            if codec.has_sketch:
                codes, factor = self._encode_sketched(x, y, scale, cells)
            else:
                codes = pack(np.ascontiguousarray(cells.T), self.spec.bits)
                factor = self._factor(x, y, codec.codebook.levels[cells])
        return codes, factor, flush(_ldexp(np.sqrt(x.norm2), x.shift))

    def _encode_sketched(
        self, x: Scaled, y: F32, scale: F32, cells: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], F32]:
        """Codes and factors of the codecs that store signs of a second projection of the residual."""
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
            return codes, self._factor(x, y, decoded)
        # QJL of the residual: sqrt(pi/2) / m |r| (arXiv 2406.03482, Definition 3.1)
        wide = residual.astype(np.float64)
        gamma = np.sqrt(sum64(wide * wide)) * (math.sqrt(math.pi / 2) / codec.signs)
        return codes, self._rescaled(x, gamma)

    def _encode_trellis(self, x: Scaled, y: F32, scale: F32, trellis: Trellis) -> tuple[NDArray[np.uint8], F32]:
        """Codes and factors of the trellis codec."""
        fields = self._search_trellis(trellis_values(y, scale, trellis.step), trellis)
        levels = trellis.table[trellis.windows(fields)].T
        return pack(trellis.swapped(fields), self.spec.bits), self._factor(x, y, levels)

    def _search_trellis(self, values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
        """Encode values of shape (d, n) into fields (n, lead + d); a step that faster backends replace."""
        return viterbi(values, trellis)

    def _rescaled(self, x: Scaled, values: F64) -> F32:
        """Turn lengths of the scaled domain into those of the metric: |x| units, or for cosine parts of |x|."""
        if self.spec.metric == "cosine":
            return flush(np.divide(values, np.sqrt(x.norm2), out=np.zeros_like(values), where=x.norm2 > 0))
        return flush(_ldexp(values, x.shift))

    def _factor(self, x: Scaled, y: F32, decoded: NDArray[np.generic]) -> F32:
        if not self.codec.renormalized:
            return self._rescaled(x, np.sqrt(x.norm2) * np.float64(self.codec.cell_scale))
        dot = sum64(y.astype(np.float64) * decoded.astype(np.float64))
        positive = dot > 0
        if self.spec.metric == "cosine":
            return flush(np.divide(np.sqrt(x.norm2), dot, out=np.zeros_like(dot), where=positive))
        return flush(_ldexp(np.divide(x.norm2, dot, out=np.zeros_like(dot), where=positive), x.shift))

    def put(self, rows: Encoded, block: StoredRows, start: int) -> None:
        """Write code rows into the stored layout, from row `start` of a block on."""
        put_rows(self.spec, rows, block, start)

    # ---- decode

    def _levels(self, codes: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Integer levels of the cells, shape (n, d)."""
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
        """Signs +-1 of the second projection, shape (n, m)."""
        if self.spec.codec == "qjl":
            bits = unpack(codes, self.codec.signs, 1).astype(np.int8)
        else:
            bits = (unpack(codes, self.spec.dim, self.spec.bits) & 1).astype(np.int8)
        return 2 * bits - 1

    def _weights(self, block: Encoded) -> tuple[F32, F32]:
        """Per-row weights (lead, tail) of the two sums."""
        codec = self.codec
        if not codec.has_sketch:
            return block.rescale, block.rescale
        if codec.renormalized:
            return block.rescale, block.rescale * codec.beta
        if block.norm is not None:
            return block.norm * codec.cell_scale, block.rescale
        # Cosine: unit vectors, but a zero vector (factor 0) stays zero.
        return np.where(block.rescale > 0, codec.cell_scale, np.float32(0)), block.rescale

    def _rotated(self, block: Encoded) -> F32:
        """P xhat, with <Pq, P xhat> = estimate, shape (d, n)."""
        lead, tail = self._weights(block)
        rotated: F32 = self._levels(block.codes).T.astype(np.float32) * lead
        if self.codec.has_sketch:
            signs = np.ascontiguousarray(self._signs(block.codes).T.astype(np.float32))
            rotated += self.codec.sketch.inverse(signs) * tail
        return rotated

    def decode(self, block: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""
        return np.ascontiguousarray(self.codec.rotation.inverse(self._rotated(block)).T)

    # ---- search

    def prepare(self, queries: F32) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d)."""
        x = to_scaled(queries)
        norm = np.sqrt(x.norm2)
        y = self.codec.rotation.forward(x.columns)

        def quantize(columns: F32) -> tuple[NDArray[np.int16], F32]:
            whole, step = integer_query(columns)
            return whole, self._rescaled(x, step)

        lead, lead_scale = quantize(y)
        tail, tail_scale = quantize(self.codec.sketch.forward(y)) if self.codec.has_sketch else (None, None)
        return Queries(lead, lead_scale, tail, tail_scale, self._rescaled(x, norm))

    def _sums(self, queries: NDArray[np.int16], levels: NDArray[Any]) -> F32:
        """Exact integer sums (nq, n) of int16 queries (nq, m) with integer levels (n, m), rounded to float32 once."""
        return (queries.astype(np.float64) @ levels.T.astype(np.float64)).astype(np.float32)

    def _inner_products(self, queries: Queries, block: Encoded) -> F32:
        lead, tail = self._weights(block)
        total = np.zeros((queries.code_query.shape[0], block.rows), np.float32)
        if self.codec.index_bits:
            sums = self._sums(queries.code_query, self._levels(block.codes))
            total = sums * queries.code_scale[:, None] * lead
        if queries.sketch_query is not None and queries.sketch_scale is not None:
            sums = self._sums(queries.sketch_query, self._signs(block.codes))
            total = total + sums * queries.sketch_scale[:, None] * tail
        return total

    def scores(self, queries: Queries, block: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""
        ip = self._inner_products(queries, block)
        if self._ascending and block.norm is not None:
            return l2_from_ip(ip, block.norm, queries.norm)
        return ip

    def stderr(self, queries: Queries, block: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n)."""
        codec, d = self.codec, self.spec.dim
        norm = np.ones(block.rows) if block.norm is None else block.norm.astype(np.float64)
        if codec.renormalized:
            wide = self._rotated(block).astype(np.float64)
            variance = renormalized_variance(d, sum64(wide * wide), norm)
        elif codec.spec.codec == "turboquant-mse":
            # The scatter around its bias: the error has energy D, of which D^2 lies along x.
            mse = codec.codebook.mse
            variance = norm**2 * mse * (1.0 - mse) / max(d - 1, 1)
        else:  # variance pi/2 / m |r|^2, and factor = sqrt(pi/2) / m |r|
            variance = block.rescale.astype(np.float64) ** 2 * codec.signs
        error = stderr(queries.norm[:, None], variance[None, :])
        return error * np.float32(2) if self._ascending else error

    def search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        k: int,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[F32, I64]:
        """Return the k best scores and rows, (nq, k), best first."""
        nq = queries.code_query.shape[0]
        best = Best.none(nq, k)
        at_once = max(1, min(1024, _SCORES // (4 * k)))
        for start in range(0, nq, at_once):
            at = slice(start, start + at_once)
            part = queries.select(at)
            none = Best.none(len(part.code_query), k)
            found = self._search_part(part, blocks, none, confidence, queries_of(allowed, at))
            best.scores[at], best.rows[at] = found.scores, found.rows
        order = np.lexsort((best.rows, -best.scores))
        scores, rows = np.take_along_axis(best.scores, order, axis=1), np.take_along_axis(best.rows, order, axis=1)
        return (np.float32(0) - scores if self._ascending else scores), rows

    def _search_part(
        self, queries: Queries, blocks: Sequence[StoredRows], best: Best, confidence: float, allowed: Allowed | None
    ) -> Best:
        nq, k = best.rows.shape
        step = max(k, _SCORES // max(nq, 512))
        for first_row, keys, scores in self._pieces(queries, blocks, step, confidence, allowed):
            best = best.merged(keys, scores, first_row)
        return best

    def _pieces(
        self, queries: Queries, blocks: Sequence[StoredRows], step: int, confidence: float, allowed: Allowed | None
    ) -> Iterator[tuple[int, F32, F32]]:
        """Yield first row, keys and scores (nq, rows), higher ones better, of `step` rows at a time."""
        offset = 0
        for block, words in zip(blocks, allowed or [None] * len(blocks), strict=True):
            bits = None if words is None else np.atleast_2d(bits_of(words, block.rows))
            for start in range(0, block.rows, step):
                piece = join_rows(self.spec, block, slice(start, start + step))
                scores = self._signed(self.scores(queries, piece))
                keys = scores
                if confidence < 1 and self.has_sign_bound:
                    keys = np.minimum(scores, self._signed(self._bounds(queries, piece, quantile(confidence))))
                if bits is not None:  # the key of a row that is out is that of no row
                    keys = np.where(bits[:, start : start + step], keys, np.float32(-np.inf))
                yield offset + start, keys, scores
            offset += block.rows

    def range_search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        thresholds: F32,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[I64, F32, I64]:
        """Return lims, scores and rows of what is better than the thresholds (nq,)."""
        nq = len(queries.code_query)
        none = np.empty(0, np.int64)
        found = [(none, none, np.empty(0, np.float32))]
        bars = self._signed(thresholds)
        for start in range(0, nq, 1024):
            at = slice(start, start + 1024)
            part, step = queries.select(at), _SCORES // 1024
            for first_row, keys, scores in self._pieces(part, blocks, step, confidence, queries_of(allowed, at)):
                query, column = np.nonzero(keys > bars[at, None])
                found.append((query + start, column + first_row, scores[query, column]))
        query, rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((rows, -scores, query))
        lims = np.searchsorted(query[order], np.arange(nq + 1))
        scores = scores[order]
        return lims.astype(np.int64), (np.float32(0) - scores if self._ascending else scores), rows[order]

    @property
    def has_sign_bound(self) -> bool:
        """Whether a confidence below 1 changes how this code is searched."""
        return self.spec.has_sign_bits and self.spec.dim <= SIGN_BOUND_DIM

    def _signed(self, scores: F32) -> F32:
        """Scores, or distances with the sign that makes higher ones better."""
        return -scores if self._ascending else scores

    def _bounds(self, queries: Queries, block: Encoded, z: float) -> F32:
        """Bounds of the scores by the rows' signs (sign_bound.py), shape (nq, n)."""
        c, left = sign_query(queries.code_query)
        signs = unpack(block.codes, self.spec.fields, self.spec.bits)[:, self.spec.warmup_fields :] >> (
            self.spec.bits - 1
        )
        sums = self._sums(c.astype(np.int16), 2 * signs.astype(np.int8) - 1)
        terms = SignBoundTerms.of(self.spec.dim, self.codec.sign_correlation)
        ip = bounds(terms, z, sums, left, queries.code_scale, queries.norm, block.norm)
        if self._ascending and block.norm is not None:
            return l2_from_ip(ip, block.norm, queries.norm)
        return ip


class Best(NamedTuple):
    """The k best rows so far by key, best first, of every query: keys, scores and rows, each (nq, k)."""

    keys: F32
    scores: F32
    rows: I64

    @classmethod
    def none(cls, nq: int, k: int) -> Best:
        """Return lists without a row."""
        worst = np.full((nq, k), -np.inf, np.float32)
        return cls(worst, worst.copy(), np.full((nq, k), -1, np.int64))

    def merged(self, keys: F32, scores: F32, first_row: int) -> Best:
        """Merge new, higher rows into the lists; ties keep the lower row."""
        k = self.keys.shape[1]
        bar = self.keys[:, -1]
        if np.any(self.rows[:, -1] < 0) and keys.shape[1] > k:
            # Some list is not full yet: its bar is the k-th best of this block, ties of it included.
            kth = np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k]
            bar = np.maximum(bar, np.nextafter(kth, np.float32(-np.inf)))
        query, column = np.nonzero(keys > bar[:, None])
        if query.size == 0:
            return self
        old_query, old_place = np.nonzero(self.rows >= 0)
        all_query = np.concatenate([old_query, query])
        key = np.concatenate([self.keys[old_query, old_place], keys[query, column]])
        score = np.concatenate([self.scores[old_query, old_place], scores[query, column]])
        row = np.concatenate([self.rows[old_query, old_place], column + first_row])
        order = np.lexsort((row, -key, all_query))
        all_query = all_query[order]
        place = np.arange(all_query.size) - np.searchsorted(all_query, all_query)
        keep = place < k
        at, kept = (all_query[keep], place[keep]), order[keep]
        best = Best(self.keys.copy(), self.scores.copy(), self.rows.copy())
        best.keys[at], best.scores[at], best.rows[at] = key[kept], score[kept], row[kept]
        return best
