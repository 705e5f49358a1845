"""TopK: ties, and partial lists that give the whole list, merged in any order."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqindex.codes.top_k import RangeHits, TopK, merge_top_k


def by_hand(rank_scores, scores, rows, k, ascending):
    """Return the k best of one query by rank score, then lower row; ordered by score, then lower row."""
    best = sorted(zip(rank_scores, scores, rows, strict=True), key=lambda hit: (-hit[0], hit[2]))[:k]
    return sorted(best, key=lambda hit: (hit[1] if ascending else -hit[1], hit[2]))


def top_k_of(rank_scores, scores, rows, k, ascending):
    """Return the list of some rows for one query."""
    out = TopK.empty(1, k, ascending=ascending)
    for place, (rank_score, score, row) in enumerate(by_hand(rank_scores, scores, rows, k, ascending)):
        out.rank_scores[0, place], out.scores[0, place], out.rows[0, place] = rank_score, score, row
    return out._replace(dropped=np.array([len(rows)]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_partial_lists_merged_in_any_order_give_the_whole(data):
    ascending = data.draw(st.booleans(), "ascending")
    n, k = data.draw(st.integers(0, 12), "rows"), data.draw(st.integers(1, 8), "k")
    few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # so that ties are common
    scores = [data.draw(few) for _ in range(n)]
    better = [-score if ascending else score for score in scores]
    rank_scores = [min(score, data.draw(few)) for score in better]
    edges = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3), "cuts")})
    lists = [
        top_k_of(rank_scores[a:b], scores[a:b], range(a, b), k, ascending) for a, b in itertools.pairwise(edges)
    ] or [TopK.empty(1, k, ascending=ascending)]
    want = top_k_of(rank_scores, scores, range(n), k, ascending)
    for order in itertools.permutations(lists):
        got = merge_top_k(order, k, ascending=ascending)
        for name, one, other in zip(TopK._fields, got, want, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype


@pytest.mark.parametrize("ascending", [False, True])
def test_merging_empty_lists_gives_missing_places(ascending):
    empty = TopK.empty(2, 3, ascending=ascending)
    merged = merge_top_k([empty, empty], 5, ascending=ascending)
    assert merged.rows.tolist() == [[-1] * 5] * 2
    assert (merged.scores == (np.inf if ascending else -np.inf)).all()
    assert (merged.rank_scores == -np.inf).all()


def test_the_threshold_is_the_worst_rank_score_of_a_full_list():
    full = top_k_of([3.0, 1.0, 2.0], [3.0, 1.5, 2.0], [0, 1, 2], 3, False)
    assert full.threshold.tolist() == [1.0]
    assert top_k_of([3.0], [3.0], [0], 3, False).threshold.tolist() == [-np.inf]
    assert TopK.empty(2, 0, ascending=False).threshold.tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("ascending", [False, True])
def test_hits_found_in_any_order_come_best_first_with_ties_by_row(ascending):
    sign = 1 if ascending else -1
    query, scores, rows = (
        np.array([0, 0, 2, 0, 0, 1]),
        np.float32([1, 2, 5, 1, 3, 4]) * sign,
        np.array([3, 7, 1, 2, 9, 8]),
    )
    for order in itertools.permutations(range(6)):
        at = list(order)
        lims, found, of_rows = RangeHits.of_unsorted(query[at], scores[at], rows[at], 4, ascending=ascending)
        assert lims.tolist() == [0, 4, 5, 6, 6]
        assert (found * sign).tolist() == [1, 1, 2, 3, 4, 5]
        assert of_rows.tolist() == [2, 3, 7, 9, 8, 1]


def test_joined_queries_keep_their_order():
    first = RangeHits.of_counts(np.array([1, 0]), np.float32([1]), np.array([4]))
    second = RangeHits.of_counts(np.array([2]), np.float32([3, 2]), np.array([5, 6]))
    lims, scores, rows = RangeHits.of_queries([first, second])
    assert (lims.tolist(), scores.tolist(), rows.tolist()) == ([0, 1, 1, 3], [1, 3, 2], [4, 5, 6])
    lists = [top_k_of([row], [row], [row], 2, False) for row in (1.0, 2.0)]
    assert TopK.of_queries(lists).rows.tolist() == [[1, -1], [2, -1]]


def test_an_unknown_count_of_dropped_rows_stays_unknown():
    known, unknown = (
        TopK.empty(2, 1, ascending=False)._replace(dropped=np.array(counts)) for counts in ([3, 4], [-1, 2])
    )
    assert merge_top_k([known, unknown, known], 1, ascending=False).dropped.tolist() == [-1, 10]
