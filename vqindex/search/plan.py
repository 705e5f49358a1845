"""Plan: the checked arguments of a search, and the choice between walk and scan."""

from __future__ import annotations

from typing import NamedTuple

from ..arguments import MAX_K, as_confidence, as_count, as_shortlist, as_threads
from ..rows.graph import Graph
from .router import Effort, as_effort

__all__ = ["Facts", "Plan", "make_plan"]


class Facts(NamedTuple):
    """What a plan depends on besides a search's arguments.

    Attributes
    ----------
    graph : Graph or None
        The index's graph.
    rows : int
        Rows of the index.
    backend_walks : bool
        Whether the backend walks graphs.
    """

    graph: Graph | None
    rows: int
    backend_walks: bool


class Plan(NamedTuple):
    """What a search does, whatever its queries and its filter are.

    Attributes
    ----------
    k : int
        Number of results.
    shortlist : int
        Number of rows to find: k, or those that are re-ranked.
    confidence : float
        Of the sign bound.
    threads : int or None
        Most threads; None: as many as processors.
    walking : Effort or None
        How to walk the graph; None scans.
    """

    k: int
    shortlist: int
    confidence: float
    threads: int | None
    walking: Effort | None


def make_plan(
    facts: Facts,
    queries: int,
    k: object,
    oversample: object,
    threads: object,
    confidence: object,
    effort: object,
    exact: object,
    recall: object,
    is_reranked: bool,
) -> Plan:
    """Return the plan of a search for a number of queries; arguments as of `VQIndex.search`.

    Raises
    ------
    InvalidInputError
        For an argument that is out of range; the message names it.
    """
    count, most_threads = as_count("k", k, MAX_K), as_threads(threads)
    sure = as_confidence(confidence)
    shortlist = as_shortlist(count, oversample, facts.rows) if is_reranked else count
    walking = as_effort(
        effort,
        exact,
        recall,
        facts.graph,
        rows=facts.rows,
        least=count if oversample is None else shortlist,
        k=count,
        queries=queries,
        is_reranked=is_reranked,
    )
    return Plan(count, shortlist, sure, most_threads, walking if facts.backend_walks else None)
