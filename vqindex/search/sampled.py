"""Sampled recall: the recall that a codec will have on n vectors, from exact scores of queries with a sample of m.

Nothing is encoded. The error of a codec's score of a pair is normal noise of deviation
    f sqrt((|q|^2 |x|^2 - <q, x>^2) D / ((1 - D) (d - 1))),
with D the codec's distortion, f = 2 for squared distances and 1 for products, and q and x less the center, if there is
one. So the recall inside the sample is measured with noise in the place of codes.

From m to n. The k best of n vectors lie as deep in the distribution of scores as the j = k m / n best of the sample. So
recall is measured for the best 1, 2, 4, ... rows of the sample, and each value is turned into the noise a in units of
the tail's decay, which does not depend on the number of rows (``swaps.py``). log a is then a smooth curve over
log(m / j), and the recall for k of n follows from its value at log(n / k). Where j is at least 2, that value lies
between measured ones. Otherwise a straight line through the values of the best rows leads there.

Range. The ends of a range have four parts: the scatter among queries, by the bootstrap; the error of the noise model;
that of the line, for each doubling; and how far measured values are from it. The lower end takes no credit for a line
that falls. Where the best row of the sample does worse than the line, as in tight clusters of which a sample has few
rows each, the lower end goes on from the best row, and the difference makes the range wider.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..underflow import ignoring_underflow
from .swaps import noise_of, share_of

__all__ = ["TIMES", "Depths", "Sampled"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TIMES = (1, 4, 16, 64)  # lengths of shortlists in multiples of the number of results
_LINE = (1, 2, 4, 8)  # numbers of best rows that a line goes through
_CANDIDATES, _CANDIDATES_OF = 2048, 128  # rows of a query that get noise, at least, and in multiples of the best rows
_RANKINGS = 2000  # noisy rankings over all queries, at least
_VALUES = 2**24  # scores at a time
_COUNTED = 64  # up to so many places, counting takes less time than sorting
_RESAMPLES = 100
_QUANTILE = 0.05  # of the bootstrap
_MARGIN, _MARGIN_OF_DOUBLING = 0.05, 0.02  # of log a; benchmarks/honesty.py measures plans with them
_STEEPEST = 0.3  # change of log a for a doubling that a line may have
_SAME = 1e-5  # squared distance, relative to the squared lengths, of a vector that is the query itself


class Depths(NamedTuple):
    """Where the k best of n vectors lie among the best rows of a sample.

    Attributes
    ----------
    k : int
        Number of results.
    place : float
        k m / n.
    levels : ndarray of int64, shape (L,)
        Numbers of best rows that recall is measured for, ascending.
    """

    k: int
    place: float
    levels: I64

    @classmethod
    def of(cls, rows: int, n: int, k: int) -> Depths:
        """Return the depths for a sample of `rows` of `n` vectors."""
        place = k * rows / n
        first = math.floor(place + 1e-9)
        return cls(k, place, np.array(_LINE if first < _LINE[1] else (first, first + 1)))

    @property
    def best(self) -> int:
        """Number of best rows that are looked at."""
        return int(self.levels[-1])

    def bounds(self, shares: F64) -> F64:
        """Return the lower and the upper end of the recall on n vectors for each length of a shortlist, (times, 2).

        Parameters
        ----------
        shares : ndarray of float64, shape (times, nq, L)
            Shares of the best rows of the sample that shortlists have, for each length in `TIMES`, query and level.
        """
        count = shares.shape[1]
        resamples = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), _RESAMPLES) / count
        means = resamples @ shares
        logs = np.empty_like(means)
        for t, times in enumerate(TIMES):
            for i, level in enumerate(self.levels.tolist()):
                most = 1.0 - 0.5 / (count * level)  # no sample shows that nothing is missing
                logs[t, :, i] = noise_of(level, times, np.minimum(means[t, :, i], most))
        weights = np.sqrt(self.levels) / np.sqrt(self.levels).sum()
        worse, better, margin = self._at_target(logs[0], weights)
        # Where queries differ, the worst of them decide about long shortlists: their noise seems to be larger.
        more = (logs - logs[0]) @ weights
        ends = np.empty((len(TIMES), 2))
        for t, times in enumerate(TIMES):
            low = np.quantile(worse + more[t], 1 - _QUANTILE) + margin
            high = np.quantile(better + more[t], _QUANTILE) - margin
            ends[t] = share_of(self.k, times, np.array([low, high]))
        # Longer shortlists have more. Where hardly a query tells how many, those of shorter ones are a lower end.
        return np.maximum.accumulate(ends, axis=0)

    def _at_target(self, logs: F64, weights: F64) -> tuple[F64, F64, float]:
        """Return the highest and the lowest log a for k of n from those of the levels, (resamples, L), and a margin."""
        depths, target = -np.log2(self.levels), -math.log2(self.place)
        centered = depths - depths @ weights
        slope = (logs - (logs @ weights)[:, None]) @ (weights * centered) / (weights @ centered**2)
        start = logs @ weights - slope * (depths @ weights)
        if len(self.levels) < len(_LINE):  # between two levels
            return start + slope * target, start + slope * target, _MARGIN
        fitted = start[:, None] + slope[:, None] * depths
        misfit = float(np.abs((logs - fitted).mean(axis=0)).mean())
        beyond, start = max(0.0, target), start + slope * min(0.0, target)
        slope = np.clip(slope, -_STEEPEST, _STEEPEST)
        margin = _MARGIN + _MARGIN_OF_DOUBLING * beyond + misfit
        worse = start + np.maximum(slope, 0.0) * beyond
        # Of a cluster that has few rows in the sample, the best row tells more than the others.
        steep = np.clip(logs[:, 0] - logs[:, 1], 0.0, _STEEPEST)
        worse = np.maximum(worse, logs[:, 0] + steep * target)
        margin += max(0.0, float((logs[:, 0] - fitted[:, 0]).mean()))
        return worse, start + slope * beyond, margin


class Sampled(NamedTuple):
    """The best rows of a sample for each query, with exact scores. Arrays have shape (nq, S).

    Attributes
    ----------
    scores : ndarray of float32
        Exact scores, larger is better, best first; -inf for rows that don't count.
    spreads : ndarray of float32
        f sqrt(|q|^2 |x|^2 - <q, x>^2).
    """

    scores: F32
    spreads: F32

    @classmethod
    @ignoring_underflow
    def of(cls, sample: F32, queries: F32 | None, picked: I64, metric: str, *, centered: bool, best: int) -> Sampled:
        """Score queries against a sample. A vector that equals the query doesn't count.

        Parameters
        ----------
        sample : ndarray of float32, shape (m, dim)
            Vectors.
        queries : ndarray of float32, shape (nq, dim), or None
            Queries; None takes rows of the sample, which are no results of their own.
        picked : ndarray of int64, shape (p,)
            Which queries, or rows of the sample, to use.
        metric : str
            Of the index.
        centered : bool
            Whether the index has the mean as its center.
        best : int
            How many best rows are looked at.
        """
        rows, asked = sample, (sample if queries is None else queries)[picked]
        if metric == "cosine":
            rows, asked = _unit(rows), _unit(asked)
        else:  # lengths of all orders are squared, and no ranking depends on the unit
            unit = np.float32(max(np.abs(rows).max(initial=0.0), np.abs(asked).max(initial=0.0)) or 1.0)
            rows, asked = rows / unit, asked / unit
        if centered:
            center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            rows, asked = rows - center, asked - center
        length = min(len(rows), max(_CANDIDATES, _CANDIDATES_OF * best))
        lengths, is_distance = np.einsum("nd,nd->n", rows, rows), metric == "l2" or centered
        step, parts = max(1, _VALUES // len(rows)), []
        for start in range(0, len(asked), step):
            some = slice(start, start + step)
            own = picked[some] if queries is None else None
            parts.append(_scored(rows, lengths, asked[some], own, length, is_distance=is_distance))
        scores, spreads = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(scores, spreads)

    def shares(self, distortion: float, dim: int, levels: I64) -> F64:
        """Return the shares of best rows in noisy shortlists, (times, nq, levels), for the distortion of a codec."""
        nq, width = self.scores.shape
        deviation = np.float32(math.sqrt(distortion / (1.0 - distortion) / max(dim - 1, 1)))
        # The same noise for all codecs, so that their order does not depend on it.
        rng, best = np.random.default_rng(0), int(levels[-1])
        found, draws = np.zeros((len(TIMES), nq, len(levels))), max(1, -(-_RANKINGS // nq))
        for _ in range(draws):
            noisy = self.scores + deviation * self.spreads * rng.standard_normal((nq, width), dtype=np.float32)
            places = _places(noisy, best)
            for i, times in enumerate(TIMES):
                for j, level in enumerate(levels.tolist()):
                    found[i, :, j] += (places[:, :level] < times * level).mean(axis=1)
        return np.asarray(found / draws)


def _scored(rows: F32, lengths: F32, asked: F32, own: I64 | None, length: int, *, is_distance: bool) -> tuple[F32, F32]:
    """Return the scores and spreads of the best `length` rows, (nq, length) each; `lengths` are |x|^2."""
    products, sizes = asked @ rows.T, np.einsum("nd,nd->n", asked, asked)[:, None]
    scores = 2 * products - lengths if is_distance else products.copy()
    sums = lengths + sizes
    scores[sums - 2 * products <= np.float32(_SAME) * sums] = -np.inf
    if own is not None:
        scores[np.arange(len(own)), own] = -np.inf
    best = np.argpartition(-scores, length - 1, axis=1)[:, :length]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, 1)
    scores, products = np.take_along_axis(scores, best, 1), np.take_along_axis(products, best, 1)
    spreads = np.sqrt(np.maximum(lengths[best] * sizes - products * products, 0))
    return scores, 2 * spreads if is_distance else spreads


def _places(noisy: F32, best: int) -> I64:
    """Return the places of the first `best` rows in the order of their noisy scores, (nq, best)."""
    if best > _COUNTED:
        return np.asarray(np.argsort(np.argsort(-noisy, axis=1), axis=1)[:, :best])
    return np.stack([np.count_nonzero(noisy > noisy[:, i : i + 1], axis=1) for i in range(best)], axis=1)


def _unit(vectors: F32) -> F32:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: F32 = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0).astype(np.float32)
    return unit
