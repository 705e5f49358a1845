"""Searches by a backend alone, of stored rows and words of selected rows."""

from vqindex.rows.request import SearchRequest, Selection
from vqindex.rows.segment import Segment


def top_k(backend, queries, stored, k, confidence=1.0, threads=None, words=None):
    """Search stored rows; return scores, rows and rank scores, which are equal on all backends."""
    found = backend.search(
        SearchRequest(queries, k=k, confidence=confidence, threads=threads, selection=_selection(words)),
        [Segment(rows) for rows in stored],
    )
    return found.scores, found.rows, found.rank_scores


def range_hits(backend, queries, stored, thresholds, confidence=1.0, threads=None, words=None):
    """Search stored rows for all hits; return lims, scores and rows."""
    return backend.range_search(
        SearchRequest(
            queries, thresholds=thresholds, confidence=confidence, threads=threads, selection=_selection(words)
        ),
        [Segment(rows) for rows in stored],
    )


def _selection(words):
    return None if words is None else Selection(tuple(words))
