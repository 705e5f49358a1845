"""The Haystack store: Haystack's own test mix-ins, and what they do not test."""

import numpy as np
import pytest
from frameworks import needs

needs("haystack", "haystack-ai")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.testing import document_store as sync_tests
from haystack.testing import document_store_async as async_tests

from vqindex.integrations.haystack import VQIndexDocumentStore, VQIndexEmbeddingRetriever


def as_float32(document):
    """Return a document with its embedding rounded to float32, as the store returns it."""
    if document.embedding is None:
        return document.to_dict()
    return {**document.to_dict(), "embedding": np.asarray(document.embedding, np.float32).tolist()}


class Float32:
    def assert_documents_are_equal(self, received, expected):
        assert [document.to_dict() for document in received] == [as_float32(document) for document in expected]


class Store:
    @pytest.fixture
    def document_store(self):
        store = VQIndexDocumentStore()
        yield store
        store.close()


class TestConformance(
    Float32,
    Store,
    sync_tests.DocumentStoreBaseExtendedTests,
    sync_tests.CountDocumentsByFilterTest,
    sync_tests.CountUniqueMetadataByFilterTest,
    sync_tests.GetMetadataFieldsInfoTest,
    sync_tests.GetMetadataFieldMinMaxTest,
    sync_tests.GetMetadataFieldUniqueValuesTest,
):
    def test_write_documents(self, document_store):
        """The mix-in leaves the default policy to the store, which uses FAIL."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])


class TestConformanceAsync(
    Float32,
    Store,
    async_tests.CountDocumentsAsyncTest,
    async_tests.DeleteAllAsyncTest,
    async_tests.DeleteDocumentsAsyncTest,
    async_tests.DeleteByFilterAsyncTest,
    async_tests.UpdateByFilterAsyncTest,
    async_tests.FilterDocumentsAsyncTest,
    async_tests.CountDocumentsByFilterAsyncTest,
    async_tests.CountUniqueMetadataByFilterAsyncTest,
    async_tests.GetMetadataFieldsInfoAsyncTest,
    async_tests.GetMetadataFieldMinMaxAsyncTest,
    async_tests.GetMetadataFieldUniqueValuesAsyncTest,
    async_tests.WriteDocumentsAsyncTest,
):
    async def test_write_documents_async(self, document_store):
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


def test_every_mix_in_is_used():
    """A new Haystack may add mix-ins, which the classes above must then inherit."""
    for module, ours in ((sync_tests, TestConformance), (async_tests, TestConformanceAsync)):
        for name, value in vars(module).items():
            if name.endswith("Test") and isinstance(value, type):
                assert issubclass(ours, value), name


def documents(n=30, dim=32):
    rows = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    return [
        Document(id=f"d{i}", content=f"text {i}", meta={"number": i, "odd": i % 2 == 1}, embedding=row.tolist())
        for i, row in enumerate(rows)
    ]


@pytest.fixture
def store():
    store = VQIndexDocumentStore(bits=8)
    store.write_documents([*documents(), Document(id="bare", content="no embedding", meta={"number": 3})])
    yield store
    store.close()


def test_retrieval_finds_the_nearest_with_its_exact_score(store):
    query = documents()[7].embedding
    found = store.embedding_retrieval(query, top_k=5)
    assert found[0].id == "d7"
    assert found[0].embedding is None
    scores = [document.score for document in found]
    assert scores == sorted(scores, reverse=True)
    rows = {document.id: np.array(document.embedding) for document in documents()}
    for document in found:
        exact = rows[document.id] @ query / np.linalg.norm(rows[document.id]) / np.linalg.norm(query)
        assert document.score == pytest.approx(exact, abs=0.02)  # eight bits
    scaled = store.embedding_retrieval(query, top_k=5, scale_score=True, return_embedding=True)
    assert [document.score for document in scaled] == pytest.approx([(1 + score) / 2 for score in scores])
    assert scaled[0].embedding == query
    assert len(store.embedding_retrieval(query, top_k=100)) == 30
    assert store.embedding_retrieval(query, top_k=0) == []


def test_retrieval_searches_only_documents_that_match_filters(store):
    query = documents()[7].embedding
    filters = {"operator": "AND", "conditions": [
        {"field": "meta.number", "operator": "in", "value": [3, 4, 9]},
        {"field": "meta.odd", "operator": "==", "value": True},
    ]}  # fmt: skip
    assert {document.id for document in store.embedding_retrieval(query, filters)} == {"d3", "d9"}
    none = {"field": "meta.number", "operator": ">", "value": 1000}
    assert store.embedding_retrieval(query, none) == []
    # A document without an embedding matches the filter and is not found by embedding.
    three = {"field": "meta.number", "operator": "==", "value": 3}
    assert {document.id for document in store.filter_documents(three)} == {"d3", "bare"}
    assert [document.id for document in store.embedding_retrieval(query, three)] == ["d3"]


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_scores_of_other_metrics_fall_and_ip_refuses_scaling(metric):
    store = VQIndexDocumentStore(metric=metric)
    store.write_documents(documents())
    query = documents()[7].embedding
    found = store.embedding_retrieval(query, top_k=30)
    scores = [document.score for document in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].id == "d7"
    if metric == "ip":
        with pytest.raises(ValueError, match="scale_score is True"):
            store.embedding_retrieval(query, scale_score=True)
    else:
        scaled = [document.score for document in store.embedding_retrieval(query, top_k=30, scale_score=True)]
        assert all(0 < score <= 1 for score in scaled)
    store.close()


def test_filters_match_dates_in_other_spellings(store):
    """Haystack's == takes two spellings of one time for equal; SQLite must not decide that beforehand."""
    store.write_documents([Document(id="date", content="x", meta={"when": "2024-01-02T00:00:00"})])
    for value in ("2024-01-02", "2024-01-02T00:00:00"):
        found = store.filter_documents({"field": "meta.when", "operator": "==", "value": value})
        assert [document.id for document in found] == ["date"]


def test_documents_come_back_whole():
    store = VQIndexDocumentStore()
    document = Document(
        content="text", meta={"a": {"b": [1, 2.5, None]}}, blob=ByteStream(b"\x00\xff", meta={"x": 1}, mime_type="a/b")
    )
    store.write_documents([document])
    assert store.filter_documents() == [document]
    found = store.filter_documents({"field": "meta.a.b", "operator": "==", "value": [1, 2.5, None]})
    assert found == [document]
    store.close()


def test_a_store_on_disk_opens_as_it_was_saved(tmp_path):
    store = VQIndexDocumentStore(tmp_path / "s", metric="ip", bits=2)
    store.write_documents(documents())
    store.save()
    store.delete_all_documents()
    assert store.count_documents() == 0
    store.close()
    again = VQIndexDocumentStore.from_dict(store.to_dict())
    assert again.count_documents() == 30
    assert again.filter_documents() == documents()
    assert again.embedding_retrieval(documents()[3].embedding, top_k=30)[0].score > 0
    again.close()


def test_an_overwritten_embedding_is_found(store):
    changed = Document(id="d1", content="other", embedding=documents()[2].embedding)
    store.write_documents([changed], policy=DuplicatePolicy.OVERWRITE)
    query = documents()[2].embedding
    assert {document.id for document in store.embedding_retrieval(query, top_k=2)} == {"d1", "d2"}
    store.write_documents([Document(id="d1", content="bare now")], policy=DuplicatePolicy.OVERWRITE)
    assert "d1" not in {document.id for document in store.embedding_retrieval(query, top_k=100)}
    store.update_by_filter({"field": "meta.number", "operator": "==", "value": 2}, {"new": "value"})
    assert store.embedding_retrieval(query, top_k=1)[0].meta == {"number": 2, "odd": False, "new": "value"}


def test_wrong_input_names_what_is_wrong_and_changes_nothing(store):
    with pytest.raises(ValueError, match="31 columns"):
        store.write_documents([Document(content="x", embedding=[1.0] * 31)])
    with pytest.raises(ValueError, match="31 columns"):
        store.embedding_retrieval([1.0] * 31)
    with pytest.raises(ValueError, match="query_embedding is empty"):
        store.embedding_retrieval([])
    with pytest.raises(DuplicateDocumentError):
        store.write_documents([Document(id="new"), Document(id="new")])
    assert store.count_documents() == 31
    with pytest.raises(ValueError, match="top_k is 0"):
        VQIndexEmbeddingRetriever(store, top_k=0)
    with pytest.raises(ValueError, match="expected a VQIndexDocumentStore"):
        VQIndexEmbeddingRetriever(object())


async def test_retriever_in_a_pipeline_merges_its_filters(store):
    only_odd = {"field": "meta.odd", "operator": "==", "value": True}
    retriever = VQIndexEmbeddingRetriever(store, filters=only_odd, top_k=3, filter_policy=FilterPolicy.MERGE)
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    query = documents()[7].embedding
    found = pipeline.run({"retriever": {"query_embedding": query}})["retriever"]["documents"]
    assert len(found) == 3
    assert all(document.meta["odd"] for document in found)
    few = {"field": "meta.number", "operator": "<", "value": 4}
    assert {document.id for document in retriever.run(query, few)["documents"]} == {"d1", "d3"}
    assert (await retriever.run_async(query))["documents"] == found
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["vqindex.integrations.haystack"])
    assert again.get_component("retriever").to_dict() == retriever.to_dict()
