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
from ..codes.trellis import FRACTION, Trellis
from ..errors import BackendError
from ..rows.bitmap import Allowed, count, per_query, queries_of
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


def _pairs(blocks: Sequence[StoredRows], allowed: Allowed) -> list[tuple[StoredRows, NDArray[np.uint64] | None]]:
    return list(zip(blocks, allowed, strict=True))


class NativeBackend(ReferenceBackend):
    """The reference with compiled steps; same bytes, same scores."""

    name = "native"

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self.isa = chosen_isa()
        # Of rows as they are stored, and of code rows; where there is no sign plane these are the same.
        self._scanner = None if codec.has_sketch else self._make_scanner(self.spec.has_sign_bits)
        by_parts = codec.trellis is not None and codec.trellis.has_signs
        self._decoder = None if codec.has_sketch or by_parts else self._make_scanner(False)
        self._sign_bound_terms = SignBoundTerms.of(self.spec.dim, codec.sign_correlation)

    def _make_scanner(self, signs: bool) -> Scanner:
        spec, trellis = self.spec, self.codec.trellis
        levels, tops = self.codec.codebook.levels, int(signs)
        if trellis is not None and signs:
            levels, tops = trellis.levels_by_parts(), trellis.warmup_fields + 1
        window = levels.size.bit_length() - 1 - tops  # there is a level for every value of window and top bits
        return Scanner(spec.dim, spec.bits - signs, window, tops, levels.astype(np.int16), spec.metric, self.isa)

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
        codes, factors, norms = zip(*done, strict=True)
        norm = np.concatenate(norms) if self.spec.stores_norm else None
        return Encoded(np.concatenate(codes), np.concatenate(factors), norm)

    def put(self, rows: Encoded, block: StoredRows, start: int) -> None:
        """Write code rows into the stored layout, from row `start` of a block on."""
        if block.signs is None:
            super().put(rows, block, start)
            return
        spec, codes = self.spec, np.ascontiguousarray(rows.codes)
        split_rows(codes, spec.dim, spec.warmup_fields, spec.bits, start, block.signs, block.codes)
        put_scalars(rows, block, start)

    def prepare(self, queries: F32) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d)."""
        if self._tables is None:
            return super().prepare(queries)
        threads = _threads(queries.size, _FEW_VALUES)
        lead, scale, norm = prepare(self._tables, np.ascontiguousarray(queries), threads, self.isa)
        return Queries(lead, scale, None, None, norm)

    def _search_trellis(self, values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
        levels = trellis.table.astype(np.int16) * np.int16(FRACTION)
        limits = trellis.limit, trellis.gain, trellis.start_mask
        fields, starts = trellis_encode(
            np.ascontiguousarray(values.T), levels, trellis.bits, trellis.window, *limits, self.isa
        )
        shifts = np.arange(trellis.warmup_fields, dtype=np.uint16) * np.uint16(trellis.bits)
        first = starts[:, None] >> shifts & np.uint16(2**trellis.bits - 1)
        return np.concatenate([first.astype(np.uint8), fields], axis=1)

    def search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        k: int,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Return the k best scores and rows, (nq, k), best first; a share of the rows on each processor."""
        if self._scanner is None:
            return super().search(queries, blocks, k, confidence, threads, allowed)
        scores, rows = [], []
        sign_bound = self._sign_bound(confidence)
        for part, _, left in self._parts(queries, blocks, allowed, _HITS // k):
            found = self._scanner.search(
                blocks,
                part.code_query,
                part.code_scale,
                part.norm,
                k,
                sign_bound,
                threads or cpu_count(),
                left,
            )
            scores.append(found[0])
            rows.append(found[1])
        return (scores[0], rows[0]) if len(scores) == 1 else (np.concatenate(scores), np.concatenate(rows))

    def range_search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        thresholds: F32,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
        """Return lims, scores and rows of what is better than the thresholds; a share of the rows on each processor."""
        if self._scanner is None:
            return super().range_search(queries, blocks, thresholds, confidence, threads, allowed)
        sign_bound = self._sign_bound(confidence)
        found = [
            self._scanner.range_search(
                blocks,
                part.code_query,
                part.code_scale,
                part.norm,
                self._signed(thresholds[at]),
                sign_bound,
                threads or cpu_count(),
                left,
            )
            for part, at, left in self._parts(queries, blocks, allowed, _QUERIES)
        ]
        counts, scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), scores, rows

    def _sign_bound(self, confidence: float) -> tuple[float, float, float, float] | None:
        return (*self._sign_bound_terms, quantile(confidence)) if confidence < 1 and self.has_sign_bound else None

    def _parts(
        self, queries: Queries, blocks: Sequence[StoredRows], allowed: Allowed | None, most: int
    ) -> Iterator[tuple[Queries, slice, list[NDArray[np.uint64] | None] | None]]:
        """Yield the queries, where they are, and what they may find, for one compiled call after another."""
        nq = len(queries.code_query)
        if allowed is None and nq <= min(_QUERIES, most):
            yield queries, slice(0, nq), None
            return
        at_once = 1 if self._alone(nq, blocks, allowed) else max(1, min(_QUERIES, most))
        for start in range(0, max(1, nq), at_once):
            at = slice(start, start + at_once)
            part = queries if at_once >= nq else queries.select(at)
            yield part, at, self._allowed(queries_of(allowed, at), blocks)

    @staticmethod
    def _alone(nq: int, blocks: Sequence[StoredRows], allowed: Allowed | None) -> bool:
        """Whether filters per query leave so little that each query had better go through its own rows alone."""
        if nq < 2 or allowed is None or not per_query(allowed):
            return False
        left = 0
        for block, words in _pairs(blocks, allowed):
            left += nq * block.rows if words is None else count(words) * (nq if words.ndim == 1 else 1)
        return _GATHER * left < nq * sum(block.rows for block in blocks)

    @staticmethod
    def _allowed(allowed: Allowed | None, blocks: Sequence[StoredRows]) -> list[NDArray[np.uint64] | None] | None:
        """Words as the extension takes them: two-dimensional, one line if it is for all queries."""
        if allowed is None:
            return None
        return [None if words is None else np.atleast_2d(words) for _, words in _pairs(blocks, allowed)]

    def _levels(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        if self._decoder is None or self.codec.codebook.levels.dtype != np.int8:
            return super()._levels(codes)
        return self._decoder.decode(np.ascontiguousarray(codes), None)[:, : self.spec.dim]

    def _sums(self, queries: NDArray[np.int16], levels: NDArray[Any]) -> F32:
        if self._scanner is None or levels.dtype != np.int8 or levels.shape[1] != self.spec.dim:
            return super()._sums(queries, levels)
        return self._scanner.sums(queries, np.ascontiguousarray(levels))
