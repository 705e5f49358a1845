"""Pairs: all pairs of rows whose scores are better than a threshold, with a stated probability for each.

Rows are queries, block by block, for a range search among later rows. Its thresholds are so low that no pair is lost
that could be returned. Each pair it finds is then decided by itself.

* With kept vectors, exact scores decide. The thresholds allow for the errors of the codes.
* Otherwise decoded rows are the queries, and ``code_angles.py`` turns each product into an estimate of the cosine, its
  error e, and the lowest cosine that it is compatible with.

Selection. Pairs are returned because their estimates are high, so estimates are too high on average (``intervals.py``).
Near the threshold, let the number of pairs per unit of score be proportional to exp(-lambda t). An estimate is then
too high by lambda e^2 on average, and both the estimate and its bound are lowered by that. lambda is learned from the
pairs of evenly spaced rows with all others. Pairs whose correction is above `MOST_SHIFT` errors are not returned:
luck alone would explain them.

Equal rows. A thousand equal vectors have half a million pairs. Each row is therefore paired with the first of the rows
that equal it, and only these first rows take part in the search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import DEFAULT_CONFIDENCE, as_level, as_threads
from ..codes.codec import Codec
from ..codes.encoded import Queries
from ..errors import InvalidInputError
from ..result import Pairs
from ..rows.bitmap import WORD, full, of_rows, rows_of
from ..rows.filters import Filter
from ..rows.originals import Originals
from ..rows.request import SearchRequest, Selection
from ..underflow import ignoring_underflow
from .code_angles import CodeAngles
from .equal_rows import first_equal
from .intervals import MOST_SHIFT
from .rerank import exact_scores

if TYPE_CHECKING:
    from .searcher import Searcher

__all__ = ["Geometry", "check_codec", "near_pairs", "selected_rows"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Progress = Callable[[int, int], object]

_FOUND = 0.999  # chance that the codes of a pair with kept vectors pass the range search
_SAMPLE, _SAMPLE_BLOCK = 2048, 64  # rows from which the decay of scores is learned; at a time
_WINDOWS = (3.0, 6.0, 12.0)  # widths around the threshold, in errors
_ENOUGH = 1000  # pairs in a window
_USUAL = 0.9  # most cosine of a pair at the threshold of metric ip: pairs of longer vectors have lower ones
_LEAST_BLOCK, _MOST_BLOCK, _HITS = 16, 1024, 2**22  # rows of a block, and hits above which blocks get smaller
_ROWS, _VALUES = 2**16, 2**22  # rows, and coordinates, at a time
_SLACK = 1e-6  # for float32 sums


class Geometry(NamedTuple):
    """The lengths of all rows of an index, removed ones included, as its engine sees them.

    Attributes
    ----------
    metric : one of {"ip", "cosine", "l2"}
        Metric of the engine.
    norms : ndarray of float64, shape (rows,)
        |x|; 1 for cosine.
    lengths : ndarray of float64, shape (rows,)
        Length of the decoded vector; 0 for rows that decode to zero.
    """

    metric: str
    norms: F64
    lengths: F64

    @classmethod
    def of(cls, searcher: Searcher) -> Geometry:
        """Return the lengths of a searcher's rows."""
        backend, rows = searcher.encoder.backend, searcher.contents.rows
        metric, segments = searcher.encoder.centering.engine_spec.metric, rows.segments()
        norms, lengths = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), _ROWS):
            at = np.arange(start, min(start + _ROWS, len(rows)))
            errors, norms[at] = backend.row_errors(segments, at)
            errors = errors / (2.0 if backend.ascending else 1.0)
            lengths[at] = np.sqrt(norms[at] ** 2 + errors**2 * max(rows.dim - 1, 0))
            lengths[at[rows.gather(at).rescale == 0]] = 0.0
        return cls(metric, norms, lengths)

    def slope(self, i: I64, j: I64) -> F64:
        """Return the change of the score of pairs, larger is better, with their cosine."""
        if self.metric == "cosine":
            return np.ones(i.size)
        return self.norms[i] * self.norms[j] * (2.0 if self.metric == "l2" else 1.0)

    def scores(self, cosines: F64, i: I64, j: I64) -> F64:
        """Return the scores of pairs, larger is better, for their cosines."""
        scores = self.slope(i, j) * cosines
        return scores - self.norms[i] ** 2 - self.norms[j] ** 2 if self.metric == "l2" else scores

    def code_cosines(self, found: F32, query_norms: F32, i: I64, j: I64) -> F64:
        """Return C of pairs (``code_angles.py``) for the engine's scores of decoded row i with row j."""
        products, lengths = found.astype(np.float64), self.lengths[j]
        if self.metric == "l2":
            products = (self.norms[j] ** 2 + query_norms.astype(np.float64) ** 2 - products) / 2
        if self.metric != "cosine":
            lengths = lengths * self.lengths[i]
        return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def check_codec(searcher: Searcher) -> None:
    """Raise InvalidInputError for codecs whose decoded vectors have errors that are not at right angles to them."""
    spec = searcher.encoder.centering.engine_spec
    if not Codec(spec).renormalized:
        sketch = "" if spec.sketch == "none" else f" with sketch {spec.sketch!r}"
        raise InvalidInputError(
            f"the codec is {spec.codec!r}{sketch}; expected 'trellis', or 'turboquant-prod' with sketch 'shared' or "
            "'orthogonal', to compare rows with each other"
        )


def selected_rows(searcher: Searcher, filter: Any) -> I64:
    """Return the rows that one filter selects, ascending."""
    rows = len(searcher.contents.rows)
    batches = list(Filter(filter, searcher.contents.ids, 1).batches(rows))
    words = full(rows) if batches[0][1] is None else batches[0][1]
    return rows_of(words if words.ndim == 1 else words[0], rows)


def near_pairs(
    searcher: Searcher,
    threshold: Any,
    confidence: Any,
    *,
    filter: Any,
    threads: int | None,
    progress: Progress | None,
) -> Iterator[Pairs]:
    """Return an iterator over blocks of pairs; arguments as of `VQIndex.near_pairs`, which are checked at once."""
    check_codec(searcher)
    level, threads = as_level("confidence", confidence), as_threads(threads)
    if level < 0.5:
        raise InvalidInputError(f"confidence is {confidence!r}; expected at least 0.5")
    metric = searcher.encoder.centering.spec.metric
    is_number = isinstance(threshold, int | float | np.integer | np.floating) and not isinstance(threshold, bool)
    if not is_number or not 0 < threshold < (1 if metric == "cosine" else math.inf):
        expected = "above 0 and below 1" if metric == "cosine" else "above 0"
        raise InvalidInputError(f"threshold is {threshold!r}; expected a number {expected} for metric {metric!r}")
    return _PairScan(searcher, float(threshold), level, threads, progress).blocks(selected_rows(searcher, filter))


@dataclass(eq=False)
class _PairScan:
    """One search for pairs."""

    searcher: Searcher
    threshold: float
    level: float
    threads: int | None
    progress: Progress | None

    @ignoring_underflow
    def _start(self, rows: I64) -> tuple[I64, I64]:
        """Prepare the search; return the rows that take part, and the first row that equals each of them."""
        encoder, contents = self.searcher.encoder, self.searcher.contents
        self.geometry = Geometry.of(self.searcher)
        if encoder.centering.zero_norm is not None:  # the score of zero vectors is not known
            rows = rows[self.geometry.norms[rows] != encoder.centering.zero_norm]
        firsts = first_equal(contents, rows)
        goal = encoder.centering.thresholds(np.full(1, self.threshold, np.float32))[0]
        self.goal = -float(goal) if encoder.backend.ascending else float(goal)
        norms, lengths = self.geometry.norms[rows], self.geometry.lengths[rows]
        is_some = lengths > 0
        self.ratios = norms[is_some] / lengths[is_some] if is_some.any() else np.ones(1)
        self.most_norm = float(norms.max(initial=0.0))
        self.least_length = float(lengths[is_some].min(initial=1.0 if self.geometry.metric == "cosine" else np.inf))
        self.angles = CodeAngles.of(encoder.backend, contents.rows.dim)
        self.z = NormalDist().inv_cdf(self.level)
        self.rate = 0.0
        if contents.originals is None:
            self.rate = self._rate(rows[firsts == rows])
        return rows, firsts

    def blocks(self, rows: I64) -> Iterator[Pairs]:
        """Yield the pairs of rows, block by block."""
        rows, firsts = self._start(rows)
        for start in range(0, rows.size, _ROWS):
            part = slice(start, start + _ROWS)
            is_later = firsts[part] != rows[part]
            pairs = self._equal(firsts[part][is_later], rows[part][is_later])
            if pairs.first.size:
                yield pairs
        rows = rows[firsts == rows]
        step, start = min(max(2**24 // max(1, rows.size), _LEAST_BLOCK), _MOST_BLOCK), 0
        while start < rows.size:
            i, j, found, norms = self._scan(rows[start : start + step], rows, self.goal, self.z)
            later = j > i
            pairs = self._decided(i[later], j[later], found[later], norms[later])
            start += step
            if i.size > _HITS:
                step = max(step // 2, _LEAST_BLOCK)
            elif i.size < _HITS // 4:
                step = min(2 * step, _MOST_BLOCK)
            if self.progress is not None:
                self.progress(min(start, rows.size), rows.size)
            if pairs.first.size:
                yield pairs

    # ---- finding

    @ignoring_underflow
    def _scan(self, at: I64, rows: I64, goal: float, z: float, *, later: bool = True) -> tuple[I64, I64, F32, F32]:
        """Return pairs of rows `at` with others, the engine's scores, and the norms of the queries.

        Pairs whose scores may be above `goal` are found; with `later`, all of them are later than the first of `at`.
        """
        encoder, contents = self.searcher.encoder, self.searcher.contents
        queries = self._queries(at)
        words = of_rows(rows, len(contents.rows))
        if later:
            words[: int(at[0]) // WORD] = 0
        segments = contents.rows.segments()
        selection = Selection.of(words, [segment.rows for segment in segments])
        thresholds = self._thresholds(at, queries, goal, z)
        request = SearchRequest(queries, 0, thresholds, DEFAULT_CONFIDENCE, self.threads, selection)
        hits = encoder.backend.range_search(request, segments)
        counts = np.diff(hits.lims)
        return np.repeat(at, counts), hits.rows, hits.scores, np.repeat(queries.norm, counts)

    def _queries(self, at: I64) -> Queries:
        """Return rows as queries: their kept vectors, or what their codes decode to."""
        encoder, contents = self.searcher.encoder, self.searcher.contents
        if contents.originals is not None:
            return encoder.prepare(contents.originals.gather(at))
        return encoder.backend.prepare(encoder.backend.decode(contents.rows.gather(at)))

    def _thresholds(self, at: I64, queries: Queries, goal: float, z: float) -> F32:
        """Return thresholds for the engine's scores that lose no pair above `goal`, shape (m,)."""
        norms = self.geometry.norms[at]
        if self.searcher.contents.originals is not None:
            limits = self._exact_limits(norms, goal)
        else:
            limits = self._code_limits(norms, goal, z)
            if self.geometry.metric == "l2":  # the query's norm is that of the decoded vector
                limits = limits - (queries.norm.astype(np.float64) ** 2 - norms**2)
        slack = np.abs(limits) + ((norms + 1.0) ** 2 if self.geometry.metric == "l2" else 0.0)
        limits = limits - np.where(np.isfinite(slack), _SLACK * slack, 0.0)
        return (-limits if self.geometry.metric == "l2" else limits).astype(np.float32)

    def _exact_limits(self, norms: F64, goal: float) -> F64:
        """Return limits of the scores of exact queries: `goal` less the errors that codes may have there."""
        dim = self.searcher.contents.rows.dim
        excess = max(float((self.ratios**-2).max()) - 1.0, 0.0)
        error = NormalDist().inv_cdf(_FOUND) * math.sqrt(excess / max(dim - 1, 1))  # for unit vectors at right angles
        if self.geometry.metric == "l2":
            # |a| |b| sin(angle) is at most |a| |a - b|.
            return goal - 2.0 * error * norms * math.sqrt(max(-goal, 0.0))
        most = np.full(norms.shape, 1.0) if self.geometry.metric == "cosine" else norms * self.most_norm
        with np.errstate(all="ignore"):
            sine = np.sqrt(np.maximum(1.0 - (goal / most) ** 2, 0.0))
        return np.where(most > 0, goal - error * most * sine, np.inf)

    def _code_limits(self, norms: F64, goal: float, z: float) -> F64:
        """Return limits of the products of decoded queries (see the head of ``code_angles.py``).

        A pair is returned if C is above limits(c) for the cosine c at which its score is `goal`. Its product is
        C |a| |b| / (ratio of a * ratio of b), where ratios are those of norms to lengths.
        """
        cosines, limits = self.angles.cosines, self.angles.limits(z)
        most, least = float(self.ratios.max()) ** 2, float(self.ratios.min()) ** 2
        if self.geometry.metric == "cosine":
            return np.full(norms.shape, np.interp(goal, cosines, limits) * self.least_length)
        if self.geometry.metric == "ip":
            cosines, limits = cosines[cosines > 0], limits[cosines > 0]
            ratio = np.minimum.accumulate((limits / (cosines * most))[::-1])[::-1]
            with np.errstate(all="ignore"):
                lowest = np.where(norms > 0, goal / (norms * self.most_norm), np.inf)
            at = np.maximum(np.searchsorted(cosines, np.minimum(lowest, 1.0), side="right") - 1, 0)
            return np.where(lowest <= 1.0, goal * ratio[at], np.inf)
        far = -goal
        loss = np.maximum(cosines - np.where(limits > 0, limits / most, limits / least), 0.0)
        loss = np.maximum.accumulate(loss[::-1])[::-1]
        with np.errstate(all="ignore"):
            lowest = np.nan_to_num(np.sqrt(1.0 - far / norms**2), nan=-1.0, neginf=-1.0)
        at = np.maximum(np.searchsorted(cosines, lowest, side="right") - 1, 0)
        return goal - 2.0 * norms * (norms + math.sqrt(far)) * loss[at]

    # ---- deciding

    @ignoring_underflow
    def _rate(self, rows: I64) -> float:
        """Return lambda: how fast the number of pairs falls with their scores around the threshold.

        For exp(-lambda t), the numbers of pairs in a window below the threshold and in one above it have the ratio
        exp(lambda width). The narrowest of three windows is taken that has enough pairs.
        """
        at = rows[:: max(1, -(-rows.size // _SAMPLE))]
        windows = self._window(at) * np.array(_WINDOWS)
        if self.geometry.metric != "l2":  # negative scores are of no interest
            windows = np.minimum(windows, self.goal)
        if not windows[0] > 0:
            return 0.0
        below, above = np.zeros(windows.size, np.int64), np.zeros(windows.size, np.int64)
        for start in range(0, at.size, _SAMPLE_BLOCK):
            some = at[start : start + _SAMPLE_BLOCK]
            i, j, found, norms = self._scan(some, rows, self.goal - windows[-1], 0.0, later=False)
            i, j, found, norms = (column[i != j] for column in (i, j, found, norms))
            scores = self.geometry.scores(self.angles.estimate(self.geometry.code_cosines(found, norms, i, j)), i, j)
            over = scores - self.goal
            for number, window in enumerate(windows):
                below[number] += np.count_nonzero((over > -window) & (over <= 0))
                above[number] += np.count_nonzero((over > 0) & (over <= window))
        enough = np.flatnonzero(below + above >= _ENOUGH)
        chosen = int(enough[0]) if enough.size else windows.size - 1
        return max(math.log((2 * below[chosen] + 1) / (2 * above[chosen] + 1)) / float(windows[chosen]), 0.0)

    def _window(self, at: I64) -> float:
        """Return the error of a score near the threshold, for rows with usual norms."""
        square = float(np.median(self.geometry.norms[at])) ** 2 if at.size else 1.0
        slope, cosine = 1.0, self.goal
        if self.geometry.metric == "ip":
            slope = max(square, self.goal / _USUAL)
            cosine = self.goal / slope
        elif self.geometry.metric == "l2":
            slope, cosine = 2.0 * square, 1.0 + self.goal / (2.0 * square) if square else 0.0
        mean = np.interp(max(cosine, 0.0), self.angles.cosines, self.angles.means)
        return slope * float(self.angles.error(np.array([mean]))[0])

    @ignoring_underflow
    def _decided(self, i: I64, j: I64, found: F32, norms: F32) -> Pairs:
        """Return the pairs that are better than the threshold."""
        if self.searcher.contents.originals is not None:
            return self._exact(self.searcher.contents.originals, i, j)
        return self._sure(self.geometry.code_cosines(found, norms, i, j), i, j)

    @ignoring_underflow
    def _equal(self, i: I64, j: I64) -> Pairs:
        """Return those of some pairs of equal rows that are better than the threshold."""
        if self.searcher.contents.originals is not None:
            return self._exact(self.searcher.contents.originals, i, j)
        return self._sure(np.where(self.geometry.lengths[i] > 0, 1.0, 0.0), i, j)

    def _sure(self, code_cosines: F64, i: I64, j: I64) -> Pairs:
        """Return pairs that are better than the threshold with the confidence that was asked for."""
        slope, error = self.geometry.slope(i, j), self.angles.error(code_cosines)
        rate = self.rate * slope
        shift = rate * error * error
        middle, low = self.angles.estimate(code_cosines) - shift, self.angles.bound(code_cosines, self.z) - shift
        scores, bounds = self.geometry.scores(middle, i, j), self.geometry.scores(low, i, j)
        is_near = (bounds > self.goal) & ((rate * error <= MOST_SHIFT) | (slope == 0))
        return self._pairs(i[is_near], j[is_near], *map(self._public, (scores[is_near], bounds[is_near])))

    def _public(self, scores: F64) -> F32:
        """Return scores of the index for scores of the engine, of which larger is better."""
        with np.errstate(over="ignore"):
            found = (np.maximum(-scores, 0.0) if self.searcher.encoder.backend.ascending else scores).astype(np.float32)
        return self.searcher.encoder.centering.scores(found)

    def _exact(self, originals: Originals, i: I64, j: I64) -> Pairs:
        """Return the pairs whose exact scores are better than the threshold."""
        metric, step = self.searcher.encoder.centering.spec.metric, max(1, _VALUES // originals.dim)
        scores = np.empty(i.size, np.float32)
        for start in range(0, i.size, step):
            at = slice(start, start + step)
            scores[at] = exact_scores(metric, originals.gather(i[at]), originals.gather(j[at])[:, None])[:, 0]
        is_near = scores < self.threshold if metric == "l2" else scores > self.threshold
        return self._pairs(i[is_near], j[is_near], scores[is_near], scores[is_near])

    def _pairs(self, i: I64, j: I64, scores: F32, bounds: F32) -> Pairs:
        """Return pairs by their ids, in the order of their rows."""
        order, ids = np.lexsort((j, i)), self.searcher.contents.ids
        return Pairs(ids.ids(i[order]), ids.ids(j[order]), scores[order], bounds[order])
