"""Expected recall: how many of the k best vectors a search finds, from the codes alone.

Each row is better than a threshold with a chance that its estimate tells (``intervals.py``). At the threshold that k
rows are expected to pass, the k best rows of the scan pass with an average chance that is the expected recall. Chances
are corrected for selection here, too; uncorrected ones give a recall that is .01 to .07 too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import DEFAULT_CONFIDENCE, MAX_K, as_count, as_threads
from ..errors import InvalidInputError
from ..rows.filters import Filter
from ..rows.request import SearchRequest
from ..underflow import ignoring_underflow
from .intervals import MOST_SHIFT, Odds, estimates_of
from .tails import Tails

if TYPE_CHECKING:
    from .searcher import Searcher

__all__ = ["expected_recall"]

F64 = NDArray[np.float64]

_FEWEST, _TIMES = 512, 20  # length of a list, at least, and in multiples of k
_VALUES = 2**20  # entries of lists at a time
_STEPS = 30  # of the bisection for the threshold
_MARGIN, _MARGIN_OF_SHIFT = 0.01, 0.04  # of the model, and for the square of its correction in standard errors
_Z = 1.96  # quantile of 95 %, for the scatter among queries


@ignoring_underflow
def expected_recall(
    searcher: Searcher, queries: Any, k: int, *, filter: Any, threads: int | None
) -> tuple[float, float]:
    """Return the range of the recall of queries; arguments as of `VQIndex.estimate_recall`."""
    k, threads = as_count("k", k, MAX_K), as_threads(threads)
    encoder, contents = searcher.encoder, searcher.contents
    if encoder.centering.spec.codec == "turboquant-mse":
        raise InvalidInputError("the scores of codec 'turboquant-mse' are biased; expected another codec")
    _, prepared, _ = searcher._prepare(queries)
    if not prepared.count:
        raise InvalidInputError("there are no queries; expected at least one")
    segments, total = contents.rows.segments(), max(1, len(contents.ids))
    request = SearchRequest(prepared, min(total, max(_FEWEST, _TIMES * k)), None, DEFAULT_CONFIDENCE, threads)
    shares, shifts = [], []
    step = max(1, _VALUES // request.k)
    for batch in Filter(filter, contents.ids, request.count).requests(request, segments):
        for start in range(0, batch.count, step):
            part = batch.select(slice(start, start + step))
            found = encoder.backend.search(part, segments)
            estimates = estimates_of(encoder, part.queries, found, segments)
            tails = Tails.of(found, ascending=encoder.backend.ascending)
            is_all = (found.rows[:, -1] < 0) | (request.k == total)
            odds = estimates.odds(tails, k, MOST_SHIFT)
            is_sure = np.count_nonzero(found.rows >= 0, axis=1) <= k  # all rows are results
            shares.append(np.where(is_sure, 1.0, _shares(odds, found.rows >= 0, is_all, k)))
            shifts.append(np.where(is_sure, 0.0, odds.shift))
    share, shift = np.concatenate(shares), np.concatenate(shifts)
    mean, scatter = float(share.mean()), _Z * float(share.std()) / np.sqrt(share.size)
    margin = float(np.hypot(_MARGIN + _MARGIN_OF_SHIFT * (np.minimum(shift, MOST_SHIFT) ** 2).mean(), scatter))
    return max(0.0, mean - margin - (1.0 - DEFAULT_CONFIDENCE)), min(1.0, mean + margin)


def _shares(odds: Odds, is_present: NDArray[np.bool_], is_all: NDArray[np.bool_], k: int) -> F64:
    """Return the expected recall of each query."""
    every = np.arange(len(is_present))
    scores, errors = (np.where(is_present, np.nan_to_num(x), 0.0) for x in (odds.estimates.scores, odds.errors))
    wide = 10 * errors.max(axis=1)
    low, high = scores.min(axis=1, initial=0.0) - wide, scores.max(axis=1, initial=0.0) + wide

    def chances(thresholds: F64) -> F64:
        return np.where(is_present, odds.better(every, thresholds), 0.0)

    for _ in range(_STEPS):
        middle = (low + high) / 2
        behind = np.where(is_all, 0.0, odds.behind(every, middle))
        is_high = chances(middle).sum(axis=1) + behind < k
        low, high = np.where(is_high, low, middle), np.where(is_high, middle, high)
    share: F64 = chances((low + high) / 2)[:, :k].mean(axis=1)
    return share
