"""The LangChain store: LangChain's own conformance tests, and what they do not test."""

import numpy as np
import pytest
from frameworks import needs

needs("langchain_tests", "langchain-tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from vqindex.integrations.langchain import VQIndexVectorStore


class TestConformance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        store = VQIndexVectorStore(self.get_embeddings())
        yield store
        store.close()


class TestConformanceInAFolder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        store = VQIndexVectorStore(self.get_embeddings(), tmp_path / "store", bits=8, metric="ip")
        yield store
        store.close()


@pytest.fixture
def model():
    return DeterministicFakeEmbedding(size=64)


@pytest.fixture
def store(model):
    store = VQIndexVectorStore.from_texts(
        [f"text {i}" for i in range(40)],
        model,
        [{"number": i, "kind": "even" if i % 2 == 0 else "odd", "half": i / 2} for i in range(40)],
        ids=[str(i) for i in range(40)],
    )
    yield store
    store.close()


def numbers(documents):
    return sorted(document.metadata["number"] for document in documents)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"number": 7}, [7]),
        ({"number": 7.0}, [7]),
        ({"half": 3.5}, [7]),
        ({"kind": "odd", "number": {"$lt": 6}}, [1, 3, 5]),
        ({"number": {"$gte": 3, "$lte": 5}}, [3, 4, 5]),
        ({"number": {"$in": [1, 99, 2]}}, [1, 2]),
        ({"number": {"$nin": list(range(2, 40))}}, [0, 1]),
        ({"kind": {"$ne": "odd"}, "number": {"$gt": 35}}, [36, 38]),
        ({"$or": [{"number": 1}, {"$and": [{"kind": "even"}, {"number": {"$lt": 3}}]}]}, [0, 1, 2]),
        ({"$not": {"number": {"$gte": 2}}}, [0, 1]),
        ({"number": "7"}, []),
        ({"missing": 1}, []),
        ({"missing": None, "number": 3}, [3]),
        ({"kind": {"$gt": 3}}, []),
        ({"number": {"$in": []}}, []),
        (lambda document: document.page_content.endswith("9"), [9, 19, 29, 39]),
    ],
)
def test_filters_choose_the_expected_documents(store, condition, expected):
    assert numbers(store.similarity_search("text 3", k=40, filter=condition)) == expected
    assert numbers(store.max_marginal_relevance_search("x", k=40, fetch_k=40, filter=condition)) == expected


@pytest.mark.parametrize("condition", [{"$nor": []}, {"number": {"$almost": 3}}])
def test_unknown_filters_are_refused(store, condition):
    with pytest.raises(ValueError, match=r"filter has '\$(nor|almost)'"):
        store.similarity_search("x", filter=condition)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_scores_are_those_of_the_index(model, metric):
    texts = [f"text {i}" for i in range(30)]
    store = VQIndexVectorStore.from_texts(texts, model, metric=metric)
    query = model.embed_query("text 4")
    found = store.similarity_search_with_score("text 4", k=30)
    assert found[0][0].page_content == "text 4"
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=metric != "l2")
    rows = np.array(model.embed_documents(texts))
    exact = {"ip": rows @ query, "l2": ((rows - query) ** 2).sum(axis=1)}
    exact["cosine"] = exact["ip"] / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    order = [texts.index(document.page_content) for document, _ in found]
    # Four bits: an error of a few percent of the largest score.
    np.testing.assert_allclose(scores, exact[metric][order], atol=0.1 * np.abs(exact[metric]).max())
    relevance = [score for _, score in store.similarity_search_with_relevance_scores("text 4", k=30)]
    assert all(0 <= score <= 1 for score in relevance)
    assert relevance == sorted(relevance, reverse=True)
    store.close()


def test_k_beyond_the_documents_returns_all_of_them(store):
    assert len(store.similarity_search("x", k=100)) == 40
    assert store.similarity_search("x", k=0) == []


def test_diverse_results_do_not_repeat_themselves(model):
    class Three(DeterministicFakeEmbedding):
        def embed_query(self, text):
            return {"a": [1.0, 0.0, 0.1], "b": [0.9, 0.5, 0.0]}[text[0]]

        def embed_documents(self, texts):
            return [self.embed_query(text) for text in texts]

    store = VQIndexVectorStore.from_texts(["a 1", "a 2", "a 3", "b 1"], Three(size=3), bits=8)
    plain = [document.page_content[0] for document in store.similarity_search("a", k=2)]
    diverse = [d.page_content[0] for d in store.max_marginal_relevance_search("a", k=2, lambda_mult=0.1)]
    assert plain == ["a", "a"]
    assert diverse == ["a", "b"]
    store.close()


async def test_async_methods_give_what_sync_ones_do(store):
    assert await store.asimilarity_search("text 3", k=5) == store.similarity_search("text 3", k=5)
    assert await store.asimilarity_search_with_score("text 3", 5, {"kind": "odd"}) == (
        store.similarity_search_with_score("text 3", 5, {"kind": "odd"})
    )
    assert await store.amax_marginal_relevance_search("text 3", k=5) == (
        store.max_marginal_relevance_search("text 3", k=5)
    )
    await store.adelete(["3"])
    assert await store.aget_by_ids(["3", "4"]) == store.get_by_ids(["4"])


def test_a_store_on_disk_opens_as_it_was_saved(tmp_path, model):
    store = VQIndexVectorStore(model, tmp_path / "s", bits=3)
    store.add_documents([Document(id="a", page_content="first", metadata={"deep": {"list": [1, None, "ü"]}})])
    store.save()
    store.add_texts(["second"], ids=["b"])
    store.delete(["a"])
    store.close()  # without saving
    store = VQIndexVectorStore(model, tmp_path / "s")
    assert store.similarity_search("first", k=5) == [
        Document(id="a", page_content="first", metadata={"deep": {"list": [1, None, "ü"]}})
    ]
    assert store.store.index.spec.bits == 3
    store.delete()
    assert store.similarity_search("first") == []
    store.close()


def test_wrong_lists_change_nothing(store):
    for arguments in ({"metadatas": [{}]}, {"ids": ["x"]}):
        with pytest.raises(ValueError, match="were given for 2 texts"):
            store.add_texts(["a", "b"], **arguments)
    with pytest.raises(ValueError, match="JSON"):
        store.add_texts(["a", "b"], [{}, {"x": float("nan")}], ids=["new", "newer"])
    assert store.get_by_ids(["x", "new", "newer"]) == []
    assert len(store.similarity_search("x", k=100)) == 40


def test_retriever_keeps_its_k_and_filter(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"kind": "odd"}})
    found = retriever.invoke("text 3")
    assert len(found) == 2
    assert found[0].page_content == "text 3"
