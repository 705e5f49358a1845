"""The LangChain store: LangChain's own conformance tests, and what they do not test."""

import numpy as np
import pytest
from frameworks import needs

needs("langchain_tests", "langchain-tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from vqindex.documents.filters import And, Compare
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
        ({"missing": None, "number": 3}, []),
        ({"missing": {"$exists": False}, "number": 3}, [3]),
        ({"missing": {"$ne": 1}, "number": 3}, [3]),
        ({"missing": {"$exists": True}}, []),
        ({"number": {"$between": [3, 5]}}, [3, 4, 5]),
        ({"kind": {"$like": "ev%"}, "number": {"$lt": 3}}, [0, 2]),
        ({"kind": {"$ilike": "OD_"}, "number": {"$lt": 4}}, [1, 3]),
        ({"kind": {"$contains": "dd"}, "number": {"$lt": 4}}, [1, 3]),
        ({}, list(range(40))),
        (And((Compare(("number",), ">", 37), Compare(("kind",), "==", "odd"))), [39]),
        ({"kind": {"$gt": 3}}, []),
        ({"number": {"$in": []}}, []),
        (lambda document: document.page_content.endswith("9"), [9, 19, 29, 39]),
    ],
)
def test_filters_choose_the_expected_documents(store, condition, expected):
    assert numbers(store.similarity_search("text 3", k=40, filter=condition)) == expected
    assert numbers(store.max_marginal_relevance_search("x", k=40, fetch_k=40, filter=condition)) == expected


@pytest.mark.parametrize("condition", [{"$nor": []}, {"number": {"$almost": 3}}, {"number": {}}, "number", 3])
def test_unknown_filters_are_refused(store, condition):
    with pytest.raises(ValueError, match=r"filter|operator"):
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
    store.close()
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
    for wrong in ("notes", [{}, "notes"]):
        with pytest.raises(ValueError, match=r"metadatas (is|has) 'notes'"):
            store.add_texts(["a", "b"] if isinstance(wrong, list) else list("abcde"), wrong)
    with pytest.raises(ValueError, match="JSON"):
        store.add_texts(["a", "b"], [{}, {"x": object()}], ids=["new", "newer"])
    with pytest.raises(ValueError, match="texts is 'ab'"):
        store.add_texts("ab")
    assert store.get_by_ids(["x", "new", "newer"]) == []
    assert len(store.similarity_search("x", k=100)) == 40


def test_retriever_keeps_its_k_and_filter(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"kind": "odd"}})
    found = retriever.invoke("text 3")
    assert len(found) == 2
    assert found[0].page_content == "text 3"


WORDS = ["the quick brown fox", "a lazy dog", "the quick hare", "brown bread"]


@pytest.fixture
def words(model):
    store = VQIndexVectorStore.from_texts(
        WORDS, model, [{"number": i} for i in range(4)], ids=WORDS, keep_vectors="f32"
    )
    yield store
    store.close()


async def test_words_and_vectors_are_searched_by_mode(words):
    assert words.similarity_search("quick", k=4, mode="text")[0].page_content in ("the quick brown fox", WORDS[2])
    assert numbers(words.similarity_search("quick hare", k=4, mode="text")) == [0, 2]
    assert numbers(words.similarity_search("quick", k=4, mode="text", filter={"number": {"$gt": 0}})) == [2]
    fused = words.similarity_search("brown bread", k=4, mode="hybrid")
    assert fused[0].page_content == "brown bread"  # first by its vector and by its words
    assert len(fused) == 4
    by_words = words.similarity_search("a lazy dog", k=1, mode="hybrid", weights=(0, 1))
    assert by_words[0].page_content == "a lazy dog"
    retriever = words.as_retriever(search_kwargs={"k": 2, "mode": "text"})
    assert retriever.invoke("lazy") == await retriever.ainvoke("lazy") == words.get_by_ids(["a lazy dog"])


def test_relevance_is_that_of_vectors_only(words):
    with pytest.raises(ValueError, match="mode is 'hybrid'; expected 'vector'"):
        words.similarity_search_with_relevance_scores("x", mode="hybrid")
    retriever = words.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9, "k": 4}
    )
    assert [document.page_content for document in retriever.invoke("a lazy dog")] == ["a lazy dog"]


def test_options_of_the_index_can_be_asked_for(words, model):
    plain = words.similarity_search_with_score("a lazy dog", k=1)
    exact = words.similarity_search_with_score("a lazy dog", k=1, rerank=True, oversample=2, confidence=1, threads=1)
    assert exact[0][1] == pytest.approx(1, abs=1e-6)
    assert plain[0][1] != exact[0][1]
    with pytest.raises(ValueError, match="confidence is 3"):
        words.similarity_search("x", confidence=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.similarity_search("x", filtre={}),
        lambda store: store.similarity_search_with_score_by_vector([0.0] * 64, namespace="other"),
        lambda store: store.max_marginal_relevance_search("x", fetchk=3),
        lambda store: store.add_texts(["x"], id=["x"]),
        lambda store: store.delete(["0"], where={}),
        lambda store: VQIndexVectorStore.from_texts(["x"], store.embeddings, foldr="x"),
    ],
)
def test_unknown_arguments_are_errors(store, call):
    with pytest.raises(TypeError, match=r"filtre|namespace|fetchk|'id'|where|foldr"):
        call(store)
    assert len(store.get_by_ids([str(i) for i in range(40)])) == 40


def test_from_texts_makes_no_folder_if_the_texts_cant_be_embedded(tmp_path):
    class Broken(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        VQIndexVectorStore.from_texts(["x"], Broken(size=3), folder=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_from_texts_adds_to_a_store_that_is_there_and_refuses_other_folders(tmp_path, model):
    for text in ("first", "second"):
        VQIndexVectorStore.from_texts([text], model, folder=tmp_path / "s").close()
    store = VQIndexVectorStore(model, tmp_path / "s", mode="r")
    assert len(store.similarity_search("x", k=9)) == 2
    store.close()
    (tmp_path / "mistyped").mkdir()
    (tmp_path / "mistyped" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"letter\.txt"):
        VQIndexVectorStore.from_texts(["x"], model, folder=tmp_path / "mistyped")
    assert [path.name for path in (tmp_path / "mistyped").iterdir()] == ["letter.txt"]


def test_delete_without_ids_deletes_all_and_an_empty_list_nothing(store):
    store.delete([])
    assert len(store.similarity_search("x", k=100)) == 40
    store.delete(["0", "unknown"])
    assert len(store.similarity_search("x", k=100)) == 39
    store.delete()
    assert store.similarity_search("x", k=100) == []


def test_an_index_of_langchain_keeps_the_store_up_to_date(store):
    records = InMemoryRecordManager("notes")
    records.create_schema()
    documents = [Document(f"note {i}", metadata={"source": "notes"}) for i in range(3)]
    how = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(documents, records, store, **how)["num_added"] == 3
    found = index(documents[:2], records, store, **how)
    assert (found["num_added"], found["num_skipped"], found["num_deleted"]) == (0, 2, 1)
    assert len(store.similarity_search("x", k=100, filter={"source": "notes"})) == 2


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="embedding is a str"):
        VQIndexVectorStore("notes")
