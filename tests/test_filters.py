"""Filters as users pass them: every form gives the results of an index of the selected vectors alone."""

import numpy as np
import pytest
from cases import DIM, built, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import vqindex
from vqindex import InvalidInputError, VQIndex
from vqindex.backends.registry import available

N, NQ = 150, 6
Q = vectors(NQ, seed=9)
FORMS = ("mask", "ids", "exclude", "bytes", "words")


def as_filter(form, selected, index):
    """Return a mask over index.ids as a filter of one form."""
    if form == "mask":
        return selected
    if form == "ids":
        return np.random.default_rng(0).permutation(index.ids[selected])
    if form == "exclude":
        return vqindex.exclude(index.ids[~selected])
    packed = np.packbits(selected, bitorder="little")
    if form == "bytes":
        return vqindex.bitmap(packed)
    words = np.zeros(-(-packed.size // 8) * 8, np.uint8)
    words[: packed.size] = packed
    return vqindex.bitmap(words.view("<u8"))


def search_selected_vectors(index, selected, q, k):
    """Search an index of the same spec that holds the selected vectors alone."""
    spec = index.spec
    few = VQIndex(spec.dim, spec.bits, spec.metric)
    ids = index.ids[selected]
    everything = dict(zip(index.ids.tolist(), vectors_of(index), strict=True))
    few.add(np.array([everything[i] for i in ids.tolist()], np.float32).reshape(-1, spec.dim), ids=ids)
    return few.search(q, k)


def vectors_of(index):
    """Return the vectors of `some_index`, in the order of its ids."""
    row_of = {int(i): row for row, i in enumerate(index.first_ids)}
    return vectors(N)[[row_of[int(i)] for i in index.ids]]


def some_index(explicit, removed, metric="ip", **kwargs):
    ids = np.random.default_rng(3).permutation(10 * N)[:N] if explicit else None
    index = built(vectors(N), metric, ids=ids, **kwargs)
    index.first_ids = index.ids
    index.remove(index.ids[:: 7 if removed else N + 1] if removed else [])
    return index


@pytest.mark.parametrize("device", available())
@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_filter_gives_the_results_of_its_rows_alone(form, explicit, removed, device):
    index = some_index(explicit, removed, device=device)
    for share in (0, 0.03, 0.5, 1):
        selected = np.random.default_rng(1).random(len(index)) < share
        for k in (1, 10, 200):
            got = index.search(Q, k, filter=as_filter(form, selected, index))
            for one, other in zip(got, search_selected_vectors(index, selected, Q, k), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("removed", [False, True])
def test_a_filter_for_each_query_gives_the_results_of_single_searches(removed):
    index = some_index(True, removed)
    each = np.random.default_rng(1).random((NQ, len(index))) < np.linspace(0, 1, NQ)[:, None]
    want = [index.search(q, 10, filter=line) for q, line in zip(Q, each, strict=True)]
    packed = np.packbits(each, axis=1, bitorder="little")
    mixed = [as_filter(FORMS[i % 5], line, index) for i, line in enumerate(each)]
    for one_filter in (each, list(each), vqindex.bitmap(packed), mixed, tuple(mixed)):
        got = index.search(Q, 10, filter=one_filter)
        for i, one in enumerate(want):
            np.testing.assert_array_equal(got.ids[i], one.ids)
            np.testing.assert_array_equal(got.scores[i], one.scores)
    lists = index.ids[: 4 * NQ].reshape(NQ, 4)
    got = index.search(Q, 4, filter=lists)
    np.testing.assert_array_equal(np.sort(got.ids, axis=1), np.sort(lists, axis=1))
    none = index.search(Q, 3, filter=[None] * (NQ - 1) + [[]])
    np.testing.assert_array_equal(none.ids[:-1], index.search(Q, 3).ids[:-1])
    assert (none.ids[-1] == -1).all()


def test_filters_converted_query_by_query_give_the_same_results(monkeypatch):
    """The converter then holds the words of one query at a time."""
    index = some_index(False, True)
    each = np.random.default_rng(1).random((NQ, len(index))) < 0.3
    want = index.search(Q, 5, filter=each)
    hits = index.range_search(Q, np.arange(NQ), filter=each)
    monkeypatch.setattr("vqindex.rows.filters._WORDS", 1)
    for one, other in zip(index.search(Q, 5, filter=each), want, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(index.range_search(Q, np.arange(NQ), filter=each), hits, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("form", FORMS)
def test_search_of_an_empty_selection_finds_nothing(form, metric):
    index = some_index(True, False, metric)
    worst = np.inf if metric == "l2" else -np.inf
    scores, ids, stderr = index.search(Q, 3, filter=as_filter(form, np.zeros(N, bool), index), return_stderr=True)
    assert (ids == -1).all()
    assert (scores == worst).all()
    assert np.isnan(stderr).all()
    assert index.search(Q[0], 3, filter=[]).ids.tolist() == [-1] * 3


def test_unknown_ids_neither_select_nor_exclude_rows():
    index = some_index(False, True)
    gone = int(index.first_ids[7])
    assert gone not in index
    assert index.search(Q, 3, filter=[gone, 10**9, 2**62]).ids.tolist() == [[-1] * 3] * NQ
    assert (np.sort(index.search(Q, 3, filter=[gone, 5, 5, 10**9]).ids, axis=1)[:, -1] == 5).all()
    np.testing.assert_array_equal(index.search(Q, 3, filter=vqindex.exclude([gone, 10**9])).ids, index.search(Q, 3).ids)


def test_bits_after_the_last_vector_are_ignored():
    index = some_index(False, False)
    assert N % 8
    np.testing.assert_array_equal(
        index.search(Q, 200, filter=vqindex.bitmap(np.full(-(-N // 8), 255, np.uint8))).ids, index.search(Q, 200).ids
    )
    np.testing.assert_array_equal(
        index.search(Q, 200, filter=vqindex.bitmap(np.full(-(-N // 64), 2**64 - 1, np.uint64))).ids,
        index.search(Q, 200).ids,
    )


@pytest.mark.parametrize("confidence", [0.6, 1.0])
def test_filtered_results_have_standard_errors_at_any_confidence(confidence):
    index = some_index(True, True)
    selected = np.arange(len(index)) % 3 == 1
    scores, ids, stderr = index.search(Q, 9, filter=selected, return_stderr=True, confidence=confidence)
    assert np.isin(ids, index.ids[selected]).all()
    assert (stderr > 0).all()
    np.testing.assert_array_equal(scores[0], index.estimate(Q[0], ids[0]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros(N + 1, bool), r"a mask of shape \(151,\); expected \(150,\)"),
        (np.zeros((NQ, N - 1), bool), r"a mask of shape \(149,\)"),
        (np.zeros((NQ + 1, N), bool), "7 entries for 6 queries"),
        ([[1, 2], [3]], "2 entries for 6 queries"),
        (np.zeros((NQ, N, 1), bool), "mask of shape"),
        ([-3], "id -3 is negative"),
        ([1.5, 2.5, 1.0, 1.0, 1.0, 1.0], "ids have dtype float64"),
        (np.array([0.5]), "ids have dtype float64"),
        ("all", "filter is 'all'; expected a bool mask"),
        (vqindex.exclude([-1]), "id -1 is negative"),
        (vqindex.exclude(["a"]), "ids are strings; those of the index are integers"),
        (vqindex.bitmap(np.zeros(N, bool)), "bitmap has dtype bool"),
        (vqindex.bitmap(np.zeros(18, np.uint8)), r"bitmap of uint8 has shape \(18,\); expected \(19,\)"),
        (vqindex.bitmap(np.zeros((2, 19), np.uint8)), "2 entries for 6 queries"),
        (vqindex.bitmap(np.zeros(19, np.uint64)), r"expected \(3,\)"),
    ],
)
def test_wrong_filters_are_refused(wrong, words):
    index = some_index(False, False)
    for call in (lambda: index.search(Q, 3, filter=wrong), lambda: index.range_search(Q, 0.0, filter=wrong)):
        with pytest.raises(InvalidInputError, match=words):
            call()


def test_filters_of_an_empty_index_find_nothing():
    index = VQIndex(DIM)
    for nothing in ([], np.zeros(0, bool), vqindex.exclude([3]), vqindex.bitmap(np.zeros(0, np.uint8)), [5]):
        assert index.search(Q, 2, filter=nothing).ids.tolist() == [[-1, -1]] * NQ
    assert index.search(np.empty((0, DIM)), 2, filter=np.zeros((0, 0), bool)).ids.shape == (0, 2)


# ---- range searches


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("filtered", [False, True])
def test_range_search_is_the_sorted_estimate(metric, filtered):
    index = some_index(True, True, metric)
    selected = np.random.default_rng(2).random(len(index)) < 0.4
    scores = index.estimate(Q, index.ids)
    thresholds = np.median(scores, axis=1)
    lims, found, ids = index.range_search(Q, thresholds, filter=selected if filtered else None, confidence=1)
    sign = 1 if metric == "l2" else -1
    for i, line in enumerate(scores):
        pairs = [(sign * s, row) for row, s in enumerate(line) if sign * s < sign * thresholds[i]]
        pairs = sorted(pair for pair in pairs if selected[pair[1]] or not filtered)
        assert ids[lims[i] : lims[i + 1]].tolist() == [index.ids[row] for _, row in pairs]
        assert found[lims[i] : lims[i + 1]].tolist() == [sign * signed for signed, _ in pairs]
    one = index.range_search(Q[0], thresholds[0], filter=selected if filtered else None, confidence=1)
    assert one.lims.tolist() == [0, lims[1]]
    np.testing.assert_array_equal(one.ids, ids[: lims[1]])


def test_range_search_takes_infinite_thresholds_and_refuses_wrong_arguments():
    index = some_index(False, False)
    everything = index.range_search(Q, -np.inf)
    assert everything.lims.tolist() == [N * i for i in range(NQ + 1)]
    assert index.range_search(Q, np.inf).ids.size == 0
    assert index.range_search(np.empty((0, DIM)), 1).lims.tolist() == [0]
    assert index.range_search(Q, 1).lims.dtype == np.int64
    for wrong in (np.nan, [1.0, 2.0], "a", None, [[0.0]] * NQ):
        with pytest.raises(InvalidInputError, match="threshold"):
            index.range_search(Q, wrong)
    for wrong in ({"threads": 0}, {"confidence": 0.5}, {"threads": True}):
        with pytest.raises(InvalidInputError, match="expected"):
            index.range_search(Q, 0.0, **wrong)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_filter_gives_the_results_of_its_rows_alone(data):
    index = some_index(data.draw(st.booleans(), "explicit"), data.draw(st.booleans(), "removed"))
    selected = np.array(data.draw(st.lists(st.booleans(), min_size=len(index), max_size=len(index)), "selected"))
    k = data.draw(st.integers(1, 200), "k")
    want = search_selected_vectors(index, selected, Q, k)
    got = index.search(Q, k, filter=as_filter(data.draw(st.sampled_from(FORMS), "form"), selected, index))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
