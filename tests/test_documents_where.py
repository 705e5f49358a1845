"""`where=` of `Documents`: every method finds the documents that `matches` is true for."""

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqindex import documents
from vqindex.documents.filters import And, Compare, Custom, Exists, Not, TextMatch, matches
from vqindex.errors import InvalidInputError

from .support.filter_cases import filters, items

VECTORS = np.random.default_rng(0).standard_normal((8, 8), dtype=np.float32)


def add(store, given, namespace=None):
    store.add(
        [each.text for each in given],
        VECTORS[: len(given)],
        ids=[each.id for each in given],
        metadata=[copy.deepcopy(each.metadata) for each in given],
        more=[copy.deepcopy(each.more) for each in given],
        namespace=namespace,
    )


several = st.lists(items, max_size=5, unique_by=lambda each: each.id)


@given(several, several, st.lists(filters, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_all_methods_find_the_documents_that_match(given, others, asked):
    with documents.open(":memory:", dim=8) as store:
        add(store, given)
        add(store, others, "other")
        for filter in asked:
            expected = [each.id for each in given if matches(filter, each)]
            assert [found.id for found in store.list(where=filter)] == expected
            assert store.count(where=filter) == len(expected)
            hits = store.search(VECTORS[0], 10, where=filter)
            assert sorted(hit.id for hit in hits) == sorted(expected)
        expected = {each.id for each in given if not matches(asked[0], each)}
        assert store.delete(where=asked[0]) == len(given) - len(expected)
        assert {found.id for found in store.list()} == expected
        assert store.count(namespace="other") == len(others)


@given(several, st.lists(st.tuples(st.integers(0, 5), items), max_size=4), filters)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_filters_follow_changes_and_their_undoing(given, changes, filter):
    with documents.open(":memory:", dim=8) as store:
        add(store, given)
        now = {each.id: each for each in given}
        for kind, item in changes:
            assert [found.id for found in store.list(where=filter)] == [
                id_ for id_, each in now.items() if matches(filter, each)
            ]
            if kind < 2:
                store.upsert([item.text], VECTORS[:1], ids=[item.id], metadata=[item.metadata], more=[item.more])
                now[item.id] = item
            elif kind < 4 and item.id in now:
                store.update_metadata({item.id: item.metadata})
                now[item.id] = dataclasses.replace(now[item.id], metadata=item.metadata)
            else:
                assert store.delete([item.id]) == (now.pop(item.id, None) is not None)
        assert {found.id for found in store.list(where=filter)} == {
            id_ for id_, each in now.items() if matches(filter, each)
        }


def test_a_change_that_is_rolled_back_is_not_found(tmp_path):
    with documents.open(tmp_path / "docs", dim=8, autocommit=False) as store:
        store.add(["one"], VECTORS[:1], ids=["1"], metadata=[{"x": 1}])
        store.commit()
        assert store.count(where={"x": 1}) == 1
        store.add(["two"], VECTORS[:1], ids=["2"], metadata=[{"x": 1}])
        store.update_metadata({"1": {"x": 5}})
        assert [found.id for found in store.list(where={"x": {"$gte": 1}})] == ["1", "2"]
        assert store.count(where={"x": 5}) == 1
        store.rollback()
        assert [found.id for found in store.list(where={"x": 1})] == ["1"]
        assert store.count(where={"x": 5}) == 0


def test_a_reader_finds_what_others_committed_once_it_refreshes(tmp_path):
    writer = documents.open(tmp_path / "docs", dim=8)
    writer.add(["one"] * 3, np.repeat(VECTORS[:1], 3, 0), ids=["1", "2", "3"], metadata=[{"x": 1}] * 3)
    reader = documents.open(tmp_path / "docs", mode="r")
    where = {"x": {"$gte": 1}}
    assert reader.count(where=where) == 3
    writer.add(["four"], VECTORS[:1], ids=["4"], metadata=[{"x": 2}])
    writer.update_metadata({"2": {"x": 0}})
    writer.delete(["1"])
    assert [found.id for found in reader.list(where=where)] == ["1", "2", "3"]
    reader.refresh()
    assert [found.id for found in reader.list(where=where)] == ["3", "4"]
    assert sorted(hit.id for hit in reader.search(VECTORS[0], 9, where=where)) == ["3", "4"]
    reader.close()
    writer.close()


def test_functions_and_words_are_filters():
    with documents.open(":memory:", dim=8) as store:
        store.add(["The red fox", "A blue fox", None], VECTORS[:3], ids=["r", "b", "n"], metadata=[{"x": 1}] * 3)
        assert [found.id for found in store.list(where=TextMatch("FOX"))] == ["r", "b"]
        assert [found.id for found in store.list(where=Not(TextMatch("red")))] == ["b", "n"]
        assert [found.id for found in store.list(where=lambda document: document.text is None)] == ["n"]
        both = And((Custom(lambda document: "red" in document.text), TextMatch("fox")))  # None has no words
        assert [found.id for found in store.list(where=both)] == ["r"]


@pytest.mark.parametrize("where", [{"$regex": "x"}, {"x": {}}, {"x": [1]}, [Exists(("x",))], "x"])
def test_malformed_filters_change_nothing(where):
    with documents.open(":memory:", dim=8) as store:
        store.add(["one"], VECTORS[:1], ids=["1"], metadata=[{"x": 1}])
        for call in (store.delete, store.count, store.list):
            with pytest.raises(InvalidInputError, match="expected"):
                call(where=where)
        with pytest.raises(InvalidInputError, match="expected"):
            store.search(VECTORS[0], 1, where=where)
        assert store.count(where=Compare(("x",), "==", 1)) == 1
