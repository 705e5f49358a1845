"""Tails: how fast the scores of a query decay near its best results, learned from the results themselves.

Let the true scores of a query near its best ones have a density proportional to exp(-lambda t). Then so do their
estimates, with the same lambda. Of ranks r below M in an exponential tail, rank r is (1/r + ... + 1/(M - 1)) / lambda
above rank M on average. The best fifth of the ranks is left out, since near-duplicates would make the tail look longer
than it is. Where a wide gap divides the results, those above it are no tail of what is below: a row does not get there
by luck.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.top_k import TopK

__all__ = ["Tails", "fewest_ranks", "signed"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_FEWEST_RANKS, _FEWEST_RANKS_ONE_BIT = 10, 20  # results that a tail is learned from; errors of one bit are large
_MOST_RANKS = 20  # of a long list only the best results: the decay grows with the score
_SKIPPED = 5  # the best fifth of the ranks
_GAP = 10.0  # least width of a gap, in medians of spacings times ranks; in an exponential tail 3 % of lists have one
_GAP_ERRORS = 2.0  # and in errors
_FEWEST_BELOW = 4  # results that the decay below a gap is learned from


def fewest_ranks(bits: int) -> int:
    """Return how many results a search must find so that intervals are known, for codes of `bits` bits."""
    return _FEWEST_RANKS_ONE_BIT if bits == 1 else _FEWEST_RANKS


def signed(scores: F32, ascending: bool) -> F64:
    """Return scores as float64 of which larger is better; `ascending` says that lower ones were."""
    wide = scores.astype(np.float64)
    return -wide if ascending else wide


class Tails(NamedTuple):
    """How the scores of each query decay. All arrays have shape (nq,); scores are the engine's, larger is better.

    Attributes
    ----------
    rates : ndarray of float64
        lambda of all results; infinite where many have the same score, NaN where too few rows were found.
    gaps, widths : ndarray of float64
        Lowest score above the widest gap between results, and its width; NaN and 0 without one.
    above, below : ndarray of float64
        lambda of the results above the gap, 0 where they are few, and of those below it.
    """

    rates: F64
    gaps: F64
    widths: F64
    above: F64
    below: F64

    @classmethod
    def of(cls, found: TopK, *, ascending: bool) -> Tails:
        """Return the tails of results; `ascending` says that lower scores are better."""
        scores, counts = signed(found.scores, ascending), np.count_nonzero(found.rows >= 0, axis=1)
        nothing = np.full(len(scores), np.nan)
        tails = cls(nothing, nothing.copy(), np.zeros(len(scores)), nothing.copy(), nothing.copy())
        for count in np.unique(counts).tolist():
            if count >= _FEWEST_RANKS:
                at = np.flatnonzero(counts == count)
                tails._learn(at, scores[at, :count])
        return tails

    def _learn(self, at: I64, scores: F64) -> None:
        """Learn the tails of some queries from full lists of results."""
        best = scores[:, :_MOST_RANKS]
        self.rates[at] = _rates(best)
        # In an exponential tail rank times spacing has the same distribution for all ranks.
        excess = np.arange(1, best.shape[1]) * (best[:, :-1] - best[:, 1:])
        gap = np.argmax(excess, axis=1)
        is_gap = excess.max(axis=1) > _GAP * np.median(excess, axis=1)
        for last in np.unique(gap[is_gap]).tolist():
            here = np.flatnonzero(is_gap & (gap == last))
            some = scores[here]
            self.gaps[at[here]] = some[:, last]
            self.widths[at[here]] = some[:, last] - some[:, last + 1]
            self.above[at[here]] = _rates(some[:, : last + 1]) if last + 1 >= _FEWEST_RANKS else 0.0
            if some.shape[1] - last > _FEWEST_BELOW:
                self.below[at[here]] = _rates(some[:, last + 1 : last + 1 + _MOST_RANKS])

    def rates_of(self, scores: F64, errors: F64) -> F64:
        """Return lambda of results with some scores and errors, all of shape (nq, k).

        A gap divides them only if it is wider than errors are.
        """
        rate, gap, width, above, below = (column[:, None] for column in self)
        divided = np.where(scores >= gap, above, below)
        return np.where(width > _GAP_ERRORS * errors, divided, rate)


@lru_cache(maxsize=256)
def _ranks_of(count: int) -> tuple[int, float]:
    """Return the first rank of a tail, counted from 0, and its expected mean excess times n / (n - 1)."""
    first, last = count // _SKIPPED, count - 1
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count))])
    excess = harmonic[last] - harmonic[first:last]
    # The inverse of a mean of n excesses is too large by n / (n - 1) on average.
    return first, float(excess.mean()) * (1.0 - 1.0 / excess.size)


def _rates(scores: F64) -> F64:
    """Return lambda of each query from scores (nq, m), best first."""
    first, expected = _ranks_of(scores.shape[1])
    excess = scores[:, first:-1].mean(axis=1) - scores[:, -1]
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(excess > 0, expected / excess, np.inf)
