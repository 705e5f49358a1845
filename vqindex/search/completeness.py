"""Complete results: vectors are read until the k best of them are, with a stated probability, the k best of all.

The rows of a query are read in the order of their scores. After m of them let tau be the k-th best exact score. An
unread row is better with a probability that its own estimate tells (``intervals.py``), and the results are complete
with the probability
    product over unread rows of (1 - P(row better than tau)),  less what the sign bound may have missed.
Each query reads until that is as high as asked.

Shortlist. The product runs over a shortlist, which grows until the rows behind it do not matter. With decay lambda
there are lambda S exp(lambda x) rows per unit of score at a distance x below the last of S rows, and their chances fall
with exp(-x gap / e^2 - lambda x). So of all of them
    S lambda P(last) e^2 / gap,   gap = tau - estimate of the last, e its error
are expected to be better.

Strict. The correction for selection lowers the chances of all rows, and is as right as the decay that was learned. It
is limited to one standard error. `strict` takes each chance from the estimate and the error of a random pair instead,
which is too high for rows near the top. So it is where no decay can be learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import MAX_K, as_confidence, as_count, as_level, as_threads
from ..arrays import on_host
from ..codes.top_k import TopK
from ..errors import InvalidInputError
from ..result import SearchResult
from ..rows.filters import Filter
from ..rows.originals import Originals
from ..rows.request import SearchRequest
from ..spec import IndexSpec
from .intervals import Odds, estimates_of
from .rerank import Reader, as_reader, rerank
from .tails import Tails

if TYPE_CHECKING:
    from .searcher import Searcher

__all__ = ["complete_search"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_LEAST = 0.9  # probability that may be asked for; benchmarks/honesty.py checks it and higher ones
_SIGNS = 0.05  # share of the allowed failures that the sign bound takes by default
_BEHIND = 0.1  # share that rows behind the shortlist may take before it grows
_FIRST, _GROWTH = 8, 4  # length of the first shortlist in results, and of each next one in the last
_FEWEST = 128
_PART = 16  # of a shortlist that is too short so much is read before the next one
_VALUES = 2**20  # entries of shortlists at a time


class _Wish(NamedTuple):
    """What the caller asks for.

    Attributes
    ----------
    k : int
        Number of results.
    chance : float
        Probability with which they are complete.
    missed : float
        Probability that the sign bound misses one of them.
    strict : bool
        Whether chances are uncorrected.
    """

    k: int
    chance: float
    missed: float
    strict: bool


def complete_search(
    searcher: Searcher,
    queries: Any,
    k: int,
    complete: object,
    *,
    strict: object,
    filter: Any,
    rerank_from: Any,
    threads: int | None,
    confidence: float | None,
    others: dict[str, Any],
) -> SearchResult:
    """Return the k best results, with the probability that they are complete; arguments as of `VQIndex.search`.

    Parameters
    ----------
    searcher : Searcher
        The index at one moment.
    queries, k, complete, strict, filter, rerank_from, threads, confidence
        As of `VQIndex.search`.
    others : dict
        Other arguments of the search by name, which have no meaning here unless they are None or False.
    """
    k, threads = as_count("k", k, MAX_K), as_threads(threads)
    wish = _as_wish(k, complete, strict, confidence, searcher.encoder.centering.spec)
    given = [name for name, value in others.items() if value is not None and value is not False]
    if given:
        raise InvalidInputError(f"{given[0]} is given with complete=; expected one of the two")
    reader = as_reader(rerank_from, None, searcher.contents)
    if reader is None:
        raise InvalidInputError("complete is given without rerank=; expected the source of the original vectors")
    vectors, prepared, deliver = searcher._prepare(queries)
    sure = 1.0 - _SIGNS * (1.0 - wish.chance) / k if confidence is None else as_confidence(confidence)
    request = SearchRequest(prepared, 0, None, sure, threads)
    segments, total = searcher.contents.rows.segments(), len(searcher.contents.ids)
    state = _State.empty(request.count, k, ascending=searcher.encoder.centering.spec.metric == "l2")
    reading = _Reading(searcher, reader, wish, threads)
    start = 0
    for batch in Filter(filter, searcher.contents.ids, request.count).requests(request, segments):
        at = slice(start, start + batch.count)
        reading.run(batch, on_host(vectors)[at], state.select(at), total)
        start = at.stop
    result = deliver(SearchResult, state.scores, searcher.contents.ids.ids(state.rows))
    result.complete, result.reads = deliver.array(state.reached), deliver.array(state.reads)
    return result


def _as_wish(k: int, complete: object, strict: object, confidence: float | None, spec: IndexSpec) -> _Wish:
    if complete is None:
        raise InvalidInputError(f"strict is {strict!r}, but there is no complete=")
    chance = as_level("complete", complete)
    if chance < _LEAST:
        raise InvalidInputError(f"complete is {complete!r}; expected a probability of at least {_LEAST}")
    if not isinstance(strict, bool | np.bool_):
        raise InvalidInputError(f"strict is {strict!r}; expected True or False")
    if spec.codec == "turboquant-mse":
        raise InvalidInputError("complete is given, but the scores of codec 'turboquant-mse' are biased")
    missed = _SIGNS * (1.0 - chance) if confidence is None else k * (1.0 - as_confidence(confidence))
    if missed >= 1.0 - chance:
        raise InvalidInputError(
            f"confidence is {confidence!r}, so that one of {k} results may be missed with probability {missed:.2g}; "
            f"expected more than {1.0 - (1.0 - chance) / k:g} for complete={complete!r}"
        )
    return _Wish(k, chance, missed, bool(strict))


class _State(NamedTuple):
    """Results so far. The first three have shape (nq, k), the others (nq,).

    Attributes
    ----------
    scores : ndarray of float32
        Best exact scores.
    rows : ndarray of int64
        Their rows.
    reached : ndarray of float64
        Probability that they are complete.
    reads : ndarray of int64
        Number of vectors read.
    """

    scores: F32
    rows: I64
    reached: F64
    reads: I64

    @classmethod
    def empty(cls, nq: int, k: int, *, ascending: bool) -> _State:
        """Return empty results; `ascending` says that lower scores are better."""
        worst = np.float32(np.inf if ascending else -np.inf)
        return cls(np.full((nq, k), worst), np.full((nq, k), -1, np.int64), np.zeros(nq), np.zeros(nq, np.int64))

    def select(self, at: slice) -> _State:
        """Return views of some queries' results."""
        return _State(self.scores[at], self.rows[at], self.reached[at], self.reads[at])


class _Reading(NamedTuple):
    """Reads the vectors of queries until their results are complete.

    Attributes
    ----------
    searcher : Searcher
        The index at one moment.
    reader : Originals or callable
        The vectors.
    wish : _Wish
        What the caller asks for.
    threads : int or None
        Most threads.
    """

    searcher: Searcher
    reader: Originals | Reader
    wish: _Wish
    threads: int | None

    def run(self, request: SearchRequest, vectors: F32, state: _State, total: int) -> None:
        """Fill in the results of some queries, whose shortlists grow as long as some are not complete."""
        length = min(max(_FEWEST, _FIRST * self.wish.k), max(1, total))
        waiting, read = np.arange(request.count), [np.empty(0, np.int64)] * request.count
        while waiting.size:
            again = []
            for at in _runs(waiting, max(1, _VALUES // length)):
                batch = request.select(at)
                batch.k = length
                found = self.searcher.encoder.backend.search(batch, self.searcher.contents.rows.segments())
                shortlists = _Shortlists.of(self.searcher, batch, found, self.wish, is_all=length >= total)
                done = self._read(shortlists, vectors[at], state.select(at), read, at.start)
                again.append(np.arange(at.start, at.stop)[~done])
            waiting, length = np.concatenate(again), min(total, length * _GROWTH)

    def _read(self, lists: _Shortlists, vectors: F32, state: _State, read: list[I64], first: int) -> NDArray[np.bool_]:
        """Read vectors of shortlists in order; return which queries are complete."""
        nq, width = lists.rows.shape
        is_read = np.stack([np.isin(rows, read[first + i]) for i, rows in enumerate(lists.rows)])
        done, active = np.zeros(nq, bool), np.arange(nq)
        while active.size:
            reached, needed = lists.claims(active, self._thresholds(state, active), is_read[active])
            state.reached[active] = reached
            done[active] = reached >= self.wish.chance
            unread = lists.is_present[active] & ~is_read[active]
            left = np.count_nonzero(unread, axis=1)
            # A shortlist that is too short is read in part only, for a threshold that tells how long it must be.
            more = np.where(needed < 0, width // _PART - np.count_nonzero(is_read[active], axis=1), -(-needed // 2))
            more = np.minimum(np.where(state.reads[active] < self.wish.k, self.wish.k, more), left)
            goes_on = ~done[active] & (more > 0)
            active, more, unread = active[goes_on], more[goes_on], unread[goes_on]
            if active.size:
                chosen = unread & (np.cumsum(unread, axis=1) <= more[:, None])
                self._read_some(lists.rows[active], chosen, vectors[active], state, active)
                is_read[active] |= chosen
        for i in np.flatnonzero(~done).tolist():
            read[first + i] = np.union1d(read[first + i], lists.rows[i, is_read[i]])
        return done

    def _read_some(self, rows: I64, chosen: NDArray[np.bool_], vectors: F32, state: _State, active: I64) -> None:
        """Read the chosen rows (nq, width) and merge their exact scores into the results of `active` queries."""
        counts, k = np.count_nonzero(chosen, axis=1), self.wish.k
        asked = np.full((len(rows), int(counts.max())), -1, np.int64)
        asked[np.arange(asked.shape[1]) < counts[:, None]] = rows[chosen]
        metric = self.searcher.encoder.centering.spec.metric
        scores, best = rerank(metric, vectors, asked, self.reader, asked.shape[1], self.threads)
        scores, best = np.concatenate([state.scores[active], scores], 1), np.concatenate([state.rows[active], best], 1)
        place = np.where(best < 0, np.iinfo(np.int64).max, best)
        order = np.lexsort((place, scores if metric == "l2" else -scores))[:, :k]
        state.scores[active] = np.take_along_axis(scores, order, axis=1)
        state.rows[active] = np.take_along_axis(best, order, axis=1)
        state.reads[active] += counts

    def _thresholds(self, state: _State, active: I64) -> F64:
        """Return the k-th best exact scores as engine's scores of which larger is better; -inf with fewer."""
        scores: F64 = state.scores[active, -1].astype(np.float64)
        centering = self.searcher.encoder.centering
        if centering.spec.metric == "l2":
            scores = -scores
        elif centering.engine_spec.metric == "l2":
            scores = 2.0 * scores - 2.0
        return scores


class _Shortlists(NamedTuple):
    """Rows of queries in the order of their scores, and their chances. Arrays have shape (nq, S) unless stated.

    Attributes
    ----------
    rows : ndarray of int64
        The rows; -1 in empty places.
    is_present : ndarray of bool
        Whether a place has a row.
    odds : Odds
        What the estimates tell about exact scores.
    missed : float
        Probability that the sign bound misses a result.
    chance : float
        Probability that is asked for.
    is_all : ndarray of bool, shape (nq,)
        Whether a shortlist has all rows that the query may find.
    """

    rows: I64
    is_present: NDArray[np.bool_]
    odds: Odds
    missed: float
    chance: float
    is_all: NDArray[np.bool_]

    @classmethod
    def of(cls, searcher: Searcher, request: SearchRequest, found: TopK, wish: _Wish, *, is_all: bool) -> _Shortlists:
        """Return the shortlists that a scan found; `is_all` says that they are as long as the index."""
        estimates = estimates_of(searcher.encoder, request.queries, found, searcher.contents.rows.segments())
        tails = None if wish.strict else Tails.of(found, ascending=searcher.encoder.backend.ascending)
        is_present = found.rows >= 0
        ends = is_all | ~is_present[:, -1]
        return cls(found.rows, is_present, estimates.odds(tails, wish.k), wish.missed, wish.chance, ends)

    def claims(self, active: I64, thresholds: F64, is_read: NDArray[np.bool_]) -> tuple[F64, I64]:
        """Return the probability that results are complete, and how many more rows would do; -1 where none would."""
        chances = np.where(is_read | ~self.is_present[active], 0.0, self.odds.better(active, thresholds))
        behind = np.where(self.is_all[active], 0.0, self.odds.behind(active, thresholds))
        logs = np.log1p(-np.minimum(chances, 1.0 - 1e-15))
        with np.errstate(under="ignore"):
            # In place i: the probability once all rows before i are read.
            after = np.cumsum(logs[:, ::-1], axis=1)[:, ::-1]
            certain = np.concatenate([after, np.zeros((len(after), 1))], axis=1) - behind[:, None]
            reached = np.exp(certain) * (1.0 - self.missed)
        enough = reached >= self.chance
        is_possible = enough[:, -1] & (behind <= _BEHIND * (1.0 - self.chance))
        first = np.argmax(enough, axis=1)
        unread = np.cumsum(~is_read & self.is_present[active], axis=1)
        needed = np.where(first > 0, np.take_along_axis(unread, np.maximum(first - 1, 0)[:, None], 1)[:, 0], 0)
        return np.where(behind <= _BEHIND * (1.0 - self.chance), reached[:, 0], 0.0), np.where(is_possible, needed, -1)


def _runs(at: I64, most: int) -> Iterator[slice]:
    """Yield slices of consecutive numbers, at most `most` of them each."""
    for run in np.split(at, np.flatnonzero(np.diff(at) != 1) + 1):
        for start in range(int(run[0]), int(run[-1]) + 1, most):
            yield slice(start, min(start + most, int(run[-1]) + 1))
