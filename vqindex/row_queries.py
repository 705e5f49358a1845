"""RowQueries: the calls of an index that compare its rows with each other."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Iterator
from typing import Any

from .result import NeighborsGraph, Pairs
from .search.neighbors import neighbors_graph
from .search.pairs import near_pairs

__all__ = ["RowQueries"]


class RowQueries(metaclass=ABCMeta):
    """The calls of `VQIndex` whose queries are its own rows."""

    _state: Any  # an IndexState

    def near_pairs(
        self,
        threshold: float,
        *,
        confidence: float = 0.95,
        filter: Any = None,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Iterator[Pairs]:
        """Find all pairs of vectors that are surely more similar than a threshold, such as near-duplicates.

        Without kept vectors, codes are compared with codes. A pair is returned if its exact score is better than the
        threshold with the probability `confidence`, corrected for selection (docs/pairs.md). Pairs near the threshold
        may be missing. With kept vectors exact scores decide, and a pair at the threshold is missed with a probability
        below 1 %.

        Parameters
        ----------
        threshold : float
            Scores of pairs are above it (ip, cosine) or below it (l2). Above 0, and below 1 for cosine.
        confidence : float, default 0.95
            Probability of at least 0.5, below 1. With kept vectors it has no effect.
        filter : as for search, optional
            Vectors that pairs may have, for all rows alike.
        threads : int, optional
            As for `search`. Results do not depend on it.
        progress : callable, optional
            Called with the number of vectors that were compared with all others, and of all that will be.

        Yields
        ------
        Pairs
            Blocks of pairs, none of them empty. Memory does not grow with the number of pairs. Of vectors with equal
            codes (with kept vectors: equal vectors) each is paired with the one that was added first, and only that one
            is compared with others. So a thousand equal vectors give 999 pairs.

        Raises
        ------
        InvalidInputError
            If an argument is out of range or the filter does not fit, at the call; or for the codecs "turboquant-mse"
            and "qjl" and the sketch "gaussian".
        """
        how: Any = {"filter": filter, "threads": threads, "progress": progress}
        return near_pairs(self._state.searcher, threshold, confidence, **how)

    def neighbors_graph(
        self,
        k: int = 10,
        *,
        filter: Any = None,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> NeighborsGraph:
        """Find the nearest neighbors of all vectors, themselves left out.

        Scores are exact with kept vectors, and else estimates from the codes of both sides (docs/pairs.md). All rows
        are scanned, and not by a graph.

        Parameters
        ----------
        k : int, default 10
            Number of neighbors; fewer are returned if there are not so many other vectors.
        filter : as for search, optional
            Vectors that take part, for all rows alike.
        threads : int, optional
            As for `search`. Results do not depend on it.
        progress : callable, optional
            Called with the number of vectors whose neighbors were found, and of all of them.

        Returns
        -------
        NeighborsGraph
            A sparse matrix of scores.

        Raises
        ------
        InvalidInputError
            If an argument is out of range, the filter does not fit, or for the codecs "turboquant-mse" and "qjl" and
            the sketch "gaussian".
        """
        how: Any = {"filter": filter, "threads": threads, "progress": progress}
        return neighbors_graph(self._state.searcher, k, **how)
