"""Graphs: links depend on the rows alone, walks find what the scan finds, and changes keep every row reachable."""

from collections import deque

import golden_graphs
import numpy as np
import pytest

import vqindex
from vqindex._native import supported_isas
from vqindex.backends.reference_graph import GraphRows
from vqindex.codes.graph import BATCH, NO_ROW, entry_rows
from vqindex.linking import TAIL_ROWS
from vqindex.rows.graph import unpack_links

DIM = 16
CODES = {
    "prod-4-cosine": {"bits": 4, "metric": "cosine"},
    "prod-2-l2": {"bits": 2, "metric": "l2"},
    "trellis-2-cosine": {"bits": 2, "metric": "cosine", "codec": "trellis"},
    "mse-8-ip": {"bits": 8, "metric": "ip", "codec": "turboquant-mse"},
}


def clustered(rows, dim=DIM, seed=0, clusters=30):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((clusters, dim))
    near = centers[rng.integers(0, clusters, rows)] + 0.4 * rng.standard_normal((rows, dim))
    return near.astype(np.float32)


@pytest.fixture(scope="module", params=CODES)
def code(request):
    return CODES[request.param]


def linked_index(code, rows=3 * BATCH, links=12, seed=0, **more):
    index = vqindex.VQIndex(DIM, **code, **more)
    index.add(clustered(rows, seed=seed))
    index.build_graph(links)
    return index


def links_of(index):
    return index._contents.graph.rows()


def overlap(found, expected):
    return np.mean([np.isin(want, have).mean() for want, have in zip(expected.ids, found.ids, strict=True)])


def reachable(links):
    """Return which rows a walk can reach from the entries."""
    seen = np.zeros(len(links), np.bool_)
    waiting = deque(entry_rows(len(links)).tolist())
    seen[entry_rows(len(links))] = True
    while waiting:
        targets = links[waiting.popleft()]
        new = [row for row in targets[targets != NO_ROW].tolist() if not seen[row]]
        seen[new] = True
        waiting.extend(new)
    return seen


def test_walks_find_what_the_scan_finds(code):
    index = linked_index(code)
    queries = clustered(40, seed=1)
    assert overlap(index.search(queries, effort=60), index.search(queries, exact=True)) > 0.97


def test_scores_of_a_walk_are_those_of_the_scan(code):
    index = linked_index(code)
    queries = clustered(5, seed=1)
    found = index.search(queries, effort=40)
    for query, scores, ids in zip(queries, found.scores, found.ids, strict=True):
        assert np.array_equal(scores, index.estimate(query, ids))


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_walks_find_large_inner_products_of_vectors_of_different_norms(spread):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((12 * BATCH, 24))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    index = vqindex.VQIndex(24, metric="ip", graph=32)
    index.add(directions * np.exp(spread * rng.standard_normal((len(directions), 1))))
    queries = rng.standard_normal((50, 24))
    found = index.search(queries, effort=60), index.search(queries, exact=True, confidence=1)
    assert overlap(*found) > 0.9  # 0.75 and 0.84 with links by plain distances


def test_links_do_not_depend_on_the_calls_that_added_the_rows(code):
    vectors = clustered(TAIL_ROWS + 100)
    at_once = vqindex.VQIndex(DIM, **code, graph=8)
    at_once.add(vectors)
    in_parts = vqindex.VQIndex(DIM, **code, graph=8)
    for start in range(0, len(vectors), 1000):
        in_parts.add(vectors[start : start + 1000])
    in_parts.build_graph(8)
    assert np.array_equal(links_of(at_once), links_of(in_parts))


def test_rows_join_the_graph_once_there_are_enough():
    index = vqindex.VQIndex(DIM, graph=8)
    index.add(clustered(TAIL_ROWS - 1))
    assert index.stats()["linked"] == 0
    index.add(clustered(1, seed=5))
    assert index.stats()["linked"] == TAIL_ROWS


def test_rows_that_are_not_linked_yet_are_found(code):
    index = linked_index(code)
    new = clustered(70, seed=7)
    index.add(new)
    assert index.stats()["linked"] == 3 * BATCH
    found = index.search(new, 1, effort=20)
    assert (found.ids >= 3 * BATCH).any()
    assert np.array_equal(found.ids, index.search(new, 1, exact=True).ids)


def test_rows_that_are_not_linked_yet_do_not_end_walks(code):
    index, queries = linked_index(code), clustered(40, seed=1)
    before = index.search(queries, 10, effort=10, explain=True)
    index.add(np.repeat(queries, 12, axis=0))  # found rows that are better than any entry
    after = index.search(queries, 10, effort=10, explain=True)
    assert np.array_equal(after.explanation.scored, before.explanation.scored + 480)


def test_every_row_is_reachable(code):
    assert reachable(links_of(linked_index(code))).all()


@pytest.fixture
def walking(monkeypatch):
    """Walk for every filter, however few rows it leaves."""
    monkeypatch.setattr("vqindex.search.walker.walks", lambda *_: True)
    monkeypatch.setattr("vqindex.search.walker.budget_of", lambda *_: 2**40)


def test_removed_rows_are_not_found_but_walked_through(code):
    index = linked_index(code)
    queries = clustered(30, seed=1)
    gone = np.arange(0, 3 * BATCH, 3)
    index.remove(gone)
    found = index.search(queries, effort=60, explain=True)
    assert (found.explanation.scored > 60).all()
    assert not np.isin(found.ids, gone).any()
    assert overlap(found, index.search(queries, exact=True)) > 0.97


def test_compaction_repairs_the_links(code):
    index = linked_index(code)
    queries = clustered(30, seed=1)
    index.remove(np.arange(0, 3 * BATCH, 3))
    before = index.search(queries, exact=True)
    index.compact()
    assert index.stats()["linked"] == 2 * BATCH
    links = links_of(index)
    assert ((links < 2 * BATCH) | (links == NO_ROW)).all()
    assert reachable(links).all()
    assert overlap(index.search(queries, effort=60), before) > 0.97


def test_filters_are_obeyed_by_scans(code):
    index = linked_index(code)
    queries = clustered(20, seed=1)
    for share in (0.3, 0.02):
        allowed = np.flatnonzero(np.random.default_rng(3).random(3 * BATCH) < share)
        found = index.search(queries, filter=allowed, effort=60, explain=True)
        assert not found.explanation.scored.any()
        assert np.array_equal(found.ids, index.search(queries, filter=allowed, exact=True).ids)


def test_filters_are_obeyed_by_walks(code, walking):
    index = linked_index(code)
    queries = clustered(20, seed=1)
    for share in (0.9, 0.3, 0.02):
        allowed = np.flatnonzero(np.random.default_rng(3).random(3 * BATCH) < share)
        found = index.search(queries, filter=allowed, effort=60, explain=True)
        assert (found.explanation.scored > 60).all()
        assert np.isin(found.ids[found.ids >= 0], allowed).all()
        assert overlap(found, index.search(queries, filter=allowed, exact=True)) > 0.95


def test_a_walk_that_costs_more_than_a_scan_gives_up(code, monkeypatch):
    monkeypatch.setattr("vqindex.search.walker.walks", lambda *_: True)
    index = linked_index(code)
    queries = clustered(20, seed=1)
    allowed = np.arange(0, 3 * BATCH, 40)
    found = index.search(queries, filter=allowed, effort=60, explain=True)
    assert not found.explanation.scored.any()
    assert np.array_equal(found.ids, index.search(queries, filter=allowed, exact=True).ids)


@pytest.mark.parametrize("walks", [True, False])
def test_a_filter_for_each_query_gives_what_single_queries_give(code, walks, request):
    if walks:
        request.getfixturevalue("walking")
    index = linked_index(code)
    queries = clustered(6, seed=1)
    masks = np.random.default_rng(3).random((6, 3 * BATCH)) < np.array([0.01, 0.05, 0.3, 0.6, 0.9, 1])[:, None]
    together = index.search(queries, filter=masks, effort=40, explain=True)
    assert together.explanation.scored.all() == walks
    for i, query in enumerate(queries):
        alone = index.search(query, filter=masks[i], effort=40)
        assert np.array_equal(alone.ids, together.ids[i])
        assert np.array_equal(alone.scores, together.scores[i])


def test_no_queries_with_a_filter_for_each():
    index = linked_index(CODES["prod-4-cosine"])
    found = index.search(np.empty((0, DIM), np.float32), filter=np.zeros((0, 3 * BATCH), bool), effort=40)
    assert found.ids.shape == (0, 10)


def test_one_removed_row_does_not_end_walks():
    index = linked_index(CODES["prod-4-cosine"])
    index.remove([17])
    assert index.search(clustered(1), effort=50, explain=True).explanation.scored > 50
    curve = index.tune()
    assert min(curve.scored) > 10
    assert curve.agreement[-1] > 0.95


def test_a_recall_of_more_results_than_were_compared_takes_more_effort():
    index = vqindex.VQIndex(DIM, metric="cosine", graph=16)
    index.add(clustered(40 * BATCH))
    curve = index.tune(clustered(100, seed=2))
    effort = curve.effort_of(0.9)
    for k, times in ((5, 1), (10, 1), (40, 4)):
        found = index.search(clustered(2, seed=3), k, recall=0.9, explain=True)
        assert found.explanation.effort == max(k, times * effort)


def test_a_short_shortlist_of_a_walk_is_not_that_of_a_scan():
    index = linked_index(CODES["prod-4-cosine"] | {"keep_vectors": "f16"})
    allowed = np.arange(0, 3 * BATCH, 5)
    queries = clustered(20, seed=1)
    found = index.search(queries, filter=allowed, effort=10, rerank=True)
    assert np.array_equal(found.ids, index.search(queries, filter=allowed, exact=True, rerank=True).ids)


def test_tuning_without_queries_is_refused():
    index = linked_index(CODES["prod-4-cosine"])
    with pytest.raises(vqindex.InvalidInputError, match="no queries"):
        index.tune(np.empty((0, DIM), np.float32))
    with pytest.raises(vqindex.InvalidInputError, match="no linked rows"):
        vqindex.VQIndex(DIM, graph=8).tune()


def test_a_curve_is_not_given_to_another_graph(monkeypatch):
    import vqindex.index

    index, measure = linked_index(CODES["prod-4-cosine"]), vqindex.index.measure

    def rebuild(*arguments):
        curve = measure(*arguments)
        index.build_graph(9)
        return curve

    monkeypatch.setattr(vqindex.index, "measure", rebuild)
    with pytest.raises(vqindex.InvalidInputError, match="was replaced"):
        index.tune()
    assert index.curve is None


def test_results_do_not_depend_on_the_batch(code):
    index = linked_index(code)
    queries = clustered(20, seed=1)
    together = index.search(queries, effort=30)
    for i, query in enumerate(queries):
        alone = index.search(query, effort=30)
        assert np.array_equal(alone.ids, together.ids[i])


def test_tuning_says_which_effort_reaches_a_recall(code):
    index = linked_index(code)
    curve = index.tune(clustered(100, seed=2))
    assert curve.agreement[-1] >= 0.999 or curve.scored[-1] > 0.25 * 3 * BATCH
    assert list(curve.efforts) == sorted(set(curve.efforts))
    effort = curve.effort_of(0.9)
    assert (
        overlap(index.search(clustered(100, seed=4), effort=effort), index.search(clustered(100, seed=4), exact=True))
        > 0.85
    )
    assert index.curve == curve


def test_own_rows_stand_for_queries():
    index = linked_index(CODES["prod-4-cosine"])
    curve = index.tune()
    assert curve.queries == 400
    assert curve.agreement[-1] > 0.95


def test_a_small_index_is_scanned_by_default():
    index = linked_index(CODES["prod-4-cosine"])
    assert index.search(clustered(1), explain=True).explanation.effort is None
    assert index.search(clustered(1), effort=50, explain=True).explanation.effort == 50


def test_explanation_counts_scored_rows():
    index = linked_index(CODES["prod-4-cosine"])
    walked = index.search(clustered(3, seed=1), effort=20, explain=True).explanation
    assert ((walked.scored > 20) & (walked.scored < 3 * BATCH)).all()
    assert index.search(clustered(3, seed=1), exact=True, explain=True).explanation.scored.tolist() == [0, 0, 0]


@pytest.mark.parametrize("links", [0, 7, 129, 3.5, True, "32"])
def test_links_out_of_range_are_refused(links):
    index = vqindex.VQIndex(DIM)
    with pytest.raises(vqindex.InvalidInputError, match="expected an integer from 8 to 128"):
        index.build_graph(links)
    with pytest.raises(vqindex.InvalidInputError, match="expected an integer from 8 to 128"):
        vqindex.VQIndex(DIM, graph=links)


@pytest.mark.parametrize("code", [{"codec": "qjl"}, {"sketch": "gaussian"}, {"sketch": "orthogonal"}])
def test_codes_with_a_second_projection_have_no_graph(code):
    with pytest.raises(vqindex.InvalidInputError, match="have no graph"):
        vqindex.VQIndex(DIM, **code, graph=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"effort": 0}, "effort is 0"),
        ({"effort": 2.5}, "effort is 2.5"),
        ({"recall": 1}, "recall is 1"),
        ({"recall": "high"}, "recall is 'high'"),
        ({"recall": 0.9}, "expected tune"),
        ({"effort": 5, "recall": 0.9}, "effort and recall are given"),
        ({"effort": 5, "exact": True}, "effort and exact are given"),
        ({"exact": 1}, "exact is 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    index = linked_index(CODES["prod-4-cosine"])
    with pytest.raises(vqindex.InvalidInputError, match=message):
        index.search(clustered(1), **arguments)


@pytest.mark.parametrize("arguments", [{"effort": 5}, {"recall": 0.9}])
def test_an_index_without_a_graph_refuses_effort_and_recall(arguments):
    index = vqindex.VQIndex(DIM)
    with pytest.raises(vqindex.InvalidInputError, match="has no graph"):
        index.search(clustered(1), **arguments)


def test_dropping_the_graph_scans_again():
    index = linked_index(CODES["prod-4-cosine"])
    queries = clustered(5, seed=1)
    expected = index.search(queries, exact=True)
    index.drop_graph()
    assert index.stats()["links"] is None
    found = index.search(queries)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)


# ---- hard data


def with_copies(rows=4 * BATCH, copies=1500):
    """Return vectors most of which are copies of one."""
    vectors = clustered(rows)
    vectors[np.random.default_rng(2).permutation(rows)[:copies]] = vectors[0]
    return vectors


def far_clusters(rows=4 * BATCH, clusters=64, seed=0):
    """Return clusters that are far from each other and tight, one after the other."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(98).standard_normal((clusters, DIM)) * 20
    return (np.repeat(centers, rows // clusters, axis=0) + 0.1 * rng.standard_normal((rows, DIM))).astype(np.float32)


HARD = {
    "copies": with_copies(),
    "equal": np.ones((3 * BATCH, DIM), np.float32),
    "zeros": np.zeros((2 * BATCH, DIM), np.float32),
    "few values": np.random.default_rng(1).integers(0, 2, (3 * BATCH, DIM)).astype(np.float32),
    "sorted clusters": far_clusters(),
    "outliers": np.concatenate([clustered(2 * BATCH), 1e6 * clustered(BATCH, seed=4)]),
    "a line": np.linspace(-1, 1, 3 * BATCH, dtype=np.float32)[:, None] * np.ones(DIM, np.float32),
}


@pytest.mark.filterwarnings("ignore::vqindex.OffsetWarning")
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("name", HARD)
def test_every_row_of_hard_data_is_reachable(name, metric):
    index = vqindex.VQIndex(DIM, metric=metric)
    index.add(HARD[name])
    index.build_graph(10)
    links = links_of(index)
    assert reachable(links).all()
    index.remove(np.flatnonzero(np.random.default_rng(5).random(len(HARD[name])) < 0.6))
    index.compact()
    assert reachable(links_of(index)).all()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_vectors_of_few_coordinates(dim):
    vectors = np.random.default_rng(1).standard_normal((2 * BATCH, dim)).astype(np.float32)
    index = vqindex.VQIndex(dim, metric="l2", graph=8)
    index.add(vectors)
    assert index.stats()["linked"] == 2 * BATCH
    assert reachable(links_of(index)).all()
    found, expected = index.search(vectors[:20], effort=400), index.search(vectors[:20], exact=True)
    assert (expected.scores[:, 0] >= found.scores[:, 0] - 1e-3).all()


def test_copies_do_not_hide_the_other_rows():
    index = vqindex.VQIndex(DIM, metric="cosine")
    index.add(with_copies())
    index.build_graph(16)
    queries = clustered(40, seed=1)
    assert overlap(index.search(queries, effort=80), index.search(queries, exact=True)) > 0.95


def test_old_rows_are_found_as_before_after_an_addition_of_others():
    """Walks start from all rows; from the last addition alone they lost the old ones."""
    index = vqindex.VQIndex(DIM, metric="l2", graph=16)
    index.add(clustered(4 * BATCH))
    queries = clustered(40, seed=1)
    before = overlap(index.search(queries, effort=30), index.search(queries, exact=True))
    index.add(clustered(4 * BATCH, seed=3) + 30)
    assert overlap(index.search(queries, effort=30), index.search(queries, exact=True)) > before - 0.03
    new = clustered(40, seed=4) + 30
    assert overlap(index.search(new, effort=30), index.search(new, exact=True)) > 0.93


def test_sorted_rows_are_found_as_well_as_shuffled_ones():
    vectors = clustered(6 * BATCH, clusters=60)
    centers = np.random.default_rng(99).standard_normal((60, DIM))
    by_cluster = np.argsort(np.argmin(((vectors[:, None] - centers) ** 2).sum(2), axis=1), kind="stable")
    queries = clustered(100, seed=1, clusters=60)
    recalls = []
    for order in (by_cluster, np.random.default_rng(0).permutation(len(vectors))):
        index = vqindex.VQIndex(DIM, metric="l2", graph=16)
        index.add(vectors[order])
        recalls.append(overlap(index.search(queries, effort=30), index.search(queries, exact=True)))
    assert recalls[0] > recalls[1] - 0.02


def test_sorted_groups_far_from_each_other_are_found():
    """Walks from few entries stay in the groups that they start in."""
    vectors = far_clusters(32 * BATCH, clusters=256)
    queries = far_clusters(512, clusters=256, seed=1)
    index = vqindex.VQIndex(DIM, metric="l2", graph=16)
    index.add(vectors)
    assert index._contents.graph.many_entries
    expected = index.search(queries, exact=True)
    assert overlap(index.search(queries, effort=40), expected) > 0.95
    assert overlap(index.search(queries, effort=40, explain=True), expected) > 0.95
    few = index._contents.graph._replace(many_entries=False)
    index._contents = index._contents._replace(graph=few)
    assert overlap(index.search(queries, effort=40), expected) < 0.8


@pytest.mark.parametrize("vectors", [clustered(8 * BATCH), with_copies(), np.zeros((4 * BATCH, DIM), np.float32)])
def test_walks_of_other_rows_start_from_few_entries(vectors):
    index = vqindex.VQIndex(DIM, metric="l2", graph=16)
    index.add(vectors)
    assert not index._contents.graph.many_entries


def test_walks_start_from_few_entries_again_once_other_rows_outnumber_the_far_groups():
    index = vqindex.VQIndex(DIM, metric="l2", graph=16)
    index.add(far_clusters(8 * BATCH, clusters=256))
    assert index._contents.graph.many_entries
    index.remove(np.arange(8 * BATCH))
    index.compact()
    index.add(clustered(8 * BATCH))
    assert not index._contents.graph.many_entries


def test_a_repaired_graph_is_as_good_as_a_new_one():
    vectors = clustered(6 * BATCH)
    gone = np.random.default_rng(1).random(len(vectors)) < 0.3
    index = vqindex.VQIndex(DIM, metric="l2")
    index.add(vectors)
    index.build_graph(16)
    index.remove(np.flatnonzero(gone))
    index.compact()
    fresh = vqindex.VQIndex(DIM, metric="l2")
    fresh.add(vectors[~gone])
    fresh.build_graph(16)
    queries = clustered(100, seed=1)
    repaired, new = (
        overlap(each.search(queries, effort=30), each.search(queries, exact=True)) for each in (index, fresh)
    )
    assert repaired > new - 0.02


def test_a_merge_adds_the_rows_of_the_other_index():
    first, second = (vqindex.VQIndex(DIM, metric="l2", graph=16) for _ in range(2))
    first.add(clustered(2 * BATCH))
    second.add(clustered(2 * BATCH, seed=8))
    whole = vqindex.VQIndex(DIM, metric="l2", graph=16)
    whole.add(np.concatenate([clustered(2 * BATCH), clustered(2 * BATCH, seed=8)]))
    first.merge(second)
    assert np.array_equal(links_of(first), links_of(whole))


def test_threads_and_instruction_sets_make_the_same_links(monkeypatch):
    made = set()
    for isa in supported_isas():
        monkeypatch.setenv("VQINDEX_ISA", isa)
        made.add(links_of(linked_index({"bits": 4, "metric": "l2"})).tobytes())
    assert len(made) == 1


def test_the_reference_makes_the_same_links():
    index = linked_index({"bits": 3, "metric": "ip"}, rows=2 * BATCH)
    other = linked_index({"bits": 3, "metric": "ip"}, rows=2 * BATCH, device="reference")
    assert np.array_equal(links_of(index), links_of(other))


@pytest.mark.parametrize("seed", range(40))
def test_removals_leave_every_row_a_parent_and_backends_agree(seed):
    """Rows may have no lower row with room for a child left."""
    vectors = np.random.default_rng(7).standard_normal((4 * BATCH, 8)).astype(np.float32)
    gone = np.flatnonzero(np.random.default_rng(seed).random(60) < 0.5)
    index = vqindex.VQIndex(8, metric="l2")
    index.add(vectors)
    index.build_graph(8)
    index.remove(gone)
    index.compact()
    links = links_of(index)
    assert reachable(links).all()
    rows = np.arange(1, len(links))
    assert (links[1:, 0] < rows).all()
    assert (links[links[1:, 0]] == rows[:, None]).any(axis=1).all()


@pytest.mark.parametrize("seed", [21, 33])
def test_the_definition_agrees_where_no_lower_row_has_room(seed):
    vectors = np.random.default_rng(7).standard_normal((4 * BATCH, 8)).astype(np.float32)
    index = vqindex.VQIndex(8, metric="l2")
    index.add(vectors)
    index.build_graph(8)
    index.remove(np.flatnonzero(np.random.default_rng(seed).random(60) < 0.5))
    contents, backend = index._contents, index._backend
    segments, graph, live = contents.rows.segments(), contents.graph, contents.ids.live
    packed, expected = graph.links.copy(), graph.rows()
    backend.relink(segments, packed, live, graph.rule)
    GraphRows(index.spec, backend._levels, segments).relink(expected, live, graph.rule)
    assert np.array_equal(unpack_links(packed, 8), expected)


@pytest.mark.parametrize("name", golden_graphs.CODES)
def test_links_and_walks_have_their_golden_hashes(name, golden):
    assert golden_graphs.hashes(golden_graphs.CODES[name]) == golden("graph.json")[name]


def test_ctrl_c_in_the_middle_of_linking_changes_nothing():
    index = vqindex.VQIndex(DIM)
    index.add(clustered(40 * BATCH))

    def stop(done, total):
        assert done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.build_graph(8, progress=stop)
    assert index.stats()["links"] is None
    assert index.search(clustered(1), exact=True).ids.shape == (1, 10)
