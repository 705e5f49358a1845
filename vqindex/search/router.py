"""Router: whether a query walks the graph or scans the rows, and with which effort.

The choice compares estimated costs in units of one row that a walk scores. It depends on the index, the parameters of
the search, and the number of selected rows, and never on a clock. Only with `recall` it also depends on the number of
queries, because a scan of many queries costs less for each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import MAX_K, as_count
from ..errors import InvalidInputError
from ..rows.graph import Curve, Graph

__all__ = ["DEFAULT_RECALL", "Effort", "as_effort", "budget_of", "walks"]

DEFAULT_RECALL = 0.95  # of a search that asks for no effort, on an index that was tuned
_UNTUNED_EFFORT = 128
# Cost of a scan for each row, in rows that a walk scores (benchmarks/graph.py).
_ONE = 0.09  # of a scan for one query
_MANY = 0.025  # for each of many queries
_FILTERED = 0.045  # between the two, because a filter's choice does not depend on the number of queries
_GATHERED = 0.17  # of a selected row that a sparse filter leaves
_SELECTED = 0.8  # selected rows that a filtered walk scores, for each row that a walk without a filter scores
# Rows that a walk scores, where no curve tells: so many, and for each unit of its effort.
_SCORED_LEAST, _SCORED = 400.0, 17.0


class Effort(NamedTuple):
    """How to search a graph.

    Attributes
    ----------
    effort : int
        Effort of walks.
    curve : Curve or None
        What `tune` measured.
    """

    effort: int
    curve: Curve | None = None

    def scored(self) -> float:
        """Return about how many rows a walk without a filter scores."""
        return _SCORED_LEAST + _SCORED * self.effort if self.curve is None else self.curve.scored_of(self.effort)

    def need(self) -> int:
        """Return about how many selected rows a walk with a filter scores beyond the entries."""
        return round(_SELECTED * self.scored())


def as_effort(
    effort: object,
    exact: object,
    recall: object,
    graph: Graph | None,
    *,
    rows: int,
    least: int,
    k: int,
    queries: int,
    is_reranked: bool,
) -> Effort | None:
    """Check the arguments of a search that choose between walk and scan; return None for a scan.

    Parameters
    ----------
    effort, exact, recall : object
        As of `VQIndex.search`.
    graph : Graph or None
        The index's graph.
    rows : int
        Rows of the index.
    least : int
        Number of rows that a walk has to find.
    k : int
        Number of results. A curve for fewer results than these tells the effort for as many times more.
    queries : int
        Number of queries.
    is_reranked : bool
        Whether kept vectors give the results exact scores.

    Raises
    ------
    InvalidInputError
        If a value is out of range, if more than one is given, or for an effort or a recall without a graph.
    """
    if not isinstance(exact, bool | np.bool_):
        raise InvalidInputError(f"exact is {exact!r}; expected True or False")
    given = [name for name, value in (("effort", effort), ("recall", recall)) if value is not None]
    if len(given) + bool(exact) > 1:
        raise InvalidInputError(f"{' and '.join(given + ['exact'] * bool(exact))} are given; expected one of them")
    if given and graph is None:
        raise InvalidInputError(f"{given[0]} is given, but the index has no graph; expected build_graph() before")
    wanted = None if effort is None else as_count("effort", effort, MAX_K)
    target = None if recall is None else _as_recall(recall, graph)
    if graph is None or not graph.linked or exact:
        return None
    curve = graph.curve
    if wanted is None:
        share = DEFAULT_RECALL if target is None else target
        found = None if curve is None else curve.effort_of(share, is_reranked=is_reranked)
        if found is None and target is not None:  # no effort of the curve reaches it
            return None
        if found is not None and curve is not None and k > curve.k:
            found = -(-found * k // curve.k)
        wanted = _UNTUNED_EFFORT if found is None else found
    wanted = min(max(wanted, least), max(least, rows))
    chosen = Effort(wanted, curve)
    if effort is None:  # else the caller asks for a walk
        together = 1 if target is None else max(1, queries)
        if rows * (_MANY + (_ONE - _MANY) / together) < chosen.scored():
            return None
    return chosen


def _as_recall(recall: object, graph: Graph | None) -> float:
    if isinstance(recall, bool) or not isinstance(recall, int | float | np.floating | np.integer):
        raise InvalidInputError(f"recall is {recall!r}; expected a number above 0 and below 1")
    if not 0 < recall < 1:
        raise InvalidInputError(f"recall is {recall!r}; expected a number above 0 and below 1, or exact=True")
    if graph is not None and graph.linked and graph.curve is None:
        raise InvalidInputError(f"recall is {recall!r}, but the graph was not measured; expected tune() before")
    return float(recall)


def walks(effort: Effort, selected: int, rows: int, linked: int) -> bool:
    """Return whether a walk costs less than a scan of selected rows.

    Parameters
    ----------
    effort : Effort
        How walks search.
    selected : int
        Number of rows that the query may find.
    rows : int
        Rows of the index.
    linked : int
        How many of them are linked; a walk scores the others in any case.
    """
    return effort.scored() * rows < (budget_of(selected, rows) - (rows - linked)) * selected


def budget_of(selected: int, rows: int) -> int:
    """Return how many rows a walk may score before a scan of the selected rows would have cost less."""
    return int(max(1.0, min(_FILTERED * rows, _GATHERED * selected)))
