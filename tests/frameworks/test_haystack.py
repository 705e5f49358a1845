"""The Haystack store: Haystack's own test mix-ins, and what they do not test."""

import numpy as np
import pytest
from frameworks import needs

needs("haystack", "haystack-ai")

from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.testing import document_store as sync_tests
from haystack.testing import document_store_async as async_tests

from vqindex.integrations.haystack import (
    VQIndexBM25Retriever,
    VQIndexDocumentStore,
    VQIndexEmbeddingRetriever,
    VQIndexHybridRetriever,
)


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


def test_embeddings_are_kept_unless_the_store_is_told_otherwise(tmp_path):
    for name, parameters, kept in (
        ("default", {}, True),
        ("asked", {"keep_embeddings": True}, True),
        ("without", {"keep_embeddings": False}, False),
        ("rounded", {"keep_vectors": "f16"}, True),
    ):
        for place in (None, tmp_path / name):
            store = VQIndexDocumentStore(place, **parameters)
            store.write_documents(documents())
            query = documents()[7].embedding
            assert all((document.embedding is not None) == kept for document in store.filter_documents())
            (found,) = store.embedding_retrieval(query, top_k=1, return_embedding=True)
            assert (found.embedding is not None) == kept
            if kept:
                assert found.embedding == pytest.approx(query, abs=1e-2 if name == "rounded" else 0)
            store.close()
        VQIndexDocumentStore(tmp_path / name).close()
    with pytest.raises(ValueError, match="keep_vectors is 'f32'"):
        VQIndexDocumentStore(tmp_path / "without", keep_embeddings=True)
    with pytest.raises(ValueError, match="keep_embeddings is False and keep_vectors 'f16'"):
        VQIndexDocumentStore(keep_embeddings=False, keep_vectors="f16")


async def test_words_are_retrieved_alone_or_with_the_embedding(store):
    found = store.bm25_retrieval("TEXT 12", top_k=3)
    assert found[0].id == "d12"
    assert [document.score for document in found] == sorted((document.score for document in found), reverse=True)
    scaled = store.bm25_retrieval("TEXT 12", top_k=3, scale_score=True)
    assert all(0 < document.score < 1 for document in scaled)
    odd = {"field": "meta.odd", "operator": "==", "value": True}
    assert [document.id for document in store.bm25_retrieval("12 13", odd)] == ["d13"]
    query = documents()[7].embedding
    fused = store.hybrid_retrieval("12", query, top_k=2)
    assert {document.id for document in fused} == {"d7", "d12"}
    assert store.hybrid_retrieval("12", query, top_k=1, weights=(0, 1))[0].id == "d12"
    assert await store.hybrid_retrieval_async("12", query, top_k=2) == fused
    assert await store.bm25_retrieval_async("TEXT 12", top_k=3) == found
    for wrong in ("", None, 3):
        with pytest.raises(ValueError, match="query is"):
            store.bm25_retrieval(wrong)


async def test_all_retrievers_run_in_pipelines_and_meet_in_a_joiner(store):
    pipeline = Pipeline()
    pipeline.add_component("words", VQIndexBM25Retriever(store, top_k=5))
    pipeline.add_component("vectors", VQIndexEmbeddingRetriever(store, top_k=5, search_options={"confidence": 1}))
    pipeline.add_component("both", VQIndexHybridRetriever(store, top_k=5, search_options={"weights": [1, 1]}))
    pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=2))
    pipeline.connect("words", "joiner")
    pipeline.connect("vectors", "joiner")
    query = documents()[7].embedding
    inputs = {
        "words": {"query": "12"},
        "vectors": {"query_embedding": query},
        "both": {"query": "12", "query_embedding": query},
    }
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["vqindex.integrations.haystack", "haystack"])
    for name in ("words", "vectors", "both"):
        assert again.get_component(name).to_dict() == pipeline.get_component(name).to_dict()
    found = pipeline.run(inputs)
    assert {document.id for document in found["joiner"]["documents"]} == {"d7", "d12"}
    assert {document.id for document in found["both"]["documents"][:2]} == {"d7", "d12"}
    both = pipeline.get_component("both")
    assert (await both.run_async("12", query))["documents"] == found["both"]["documents"]
    words = VQIndexBM25Retriever(store)
    assert (await words.run_async("12"))["documents"] == words.run("12")["documents"]


def test_rerank_gives_exact_scores(store):
    query = documents()[7].embedding
    (found,) = store.embedding_retrieval(query, top_k=1, rerank=True)
    assert found.score == pytest.approx(1, abs=1e-6)
    for wrong in ({"reranc": True}, {"mode": "text"}, {"namespace": "x"}):
        with pytest.raises(TypeError, match=r"reranc|mode|namespace"):
            store.embedding_retrieval(query, **wrong)


def test_a_document_that_another_thread_writes_first_is_a_duplicate(store, monkeypatch):
    add = store.store.add

    def late(*args, **kwargs):
        monkeypatch.undo()
        store.write_documents([Document(id="new", content="theirs")])
        return add(*args, **kwargs)

    monkeypatch.setattr(store.store, "add", late)
    with pytest.raises(DuplicateDocumentError):
        store.write_documents([Document(id="new", content="mine")])
    monkeypatch.setattr(store.store, "add", late)
    store.delete_documents(["new"])
    mine = [Document(id="new", content="mine"), Document(id="newer", content="mine")]
    assert store.write_documents(mine, DuplicatePolicy.SKIP) == 1
    assert [document.content for document in store.filter_documents() if "new" in document.id] == ["theirs", "mine"]


def test_an_empty_filter_is_all_documents(store):
    assert store.delete_by_filter({}) == 31
    assert store.count_documents() == 0
