"""Folders that the stores wrote before they were built on documents: read as they are, and converted by a change.

The three folders `tests/golden/docs1-*` hold five texts each, with vectors of `ROWS`; LangChain's lacks the first, and
the last one of Haystack has no vector.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from frameworks import needs

for module, package in (
    ("langchain_core", "langchain-core"), ("llama_index.core", "llama-index-core"), ("haystack", "haystack-ai"),
):  # fmt: skip
    needs(module, package)

from haystack import Document
from langchain_core.embeddings import Embeddings
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from vqindex.integrations import haystack, langchain, llama_index

GOLDEN = Path(__file__).parent.parent / "golden"
ROWS = np.random.default_rng(0).standard_normal((5, 8), dtype=np.float32)


class Model(Embeddings):
    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return ROWS[int(text.split()[1])].tolist()


@pytest.fixture(params=["a", "r"])
def mode(request):
    return request.param


@pytest.fixture
def copy_of(tmp_path):
    return lambda name: Path(shutil.copytree(GOLDEN / f"docs1-{name}", tmp_path / name))


def test_a_langchain_store_opens_as_it_was(copy_of, mode):
    store = langchain.VQIndexVectorStore(Model(), copy_of("langchain"), mode=mode, metric="ip", bits=3)
    found = store.similarity_search("text 3", k=9)
    assert found[0].page_content == "text 3"
    assert sorted(document.id for document in found) == ["d1", "d2", "d3", "d4"]
    assert [document.id for document in store.similarity_search("text 3", filter={"number": {"$gt": 3}})] == ["d4"]
    assert [document.id for document in store.similarity_search("text 2", k=1, mode="text")] == ["d2"]
    store.close()


def test_a_langchain_store_takes_changes(copy_of):
    folder = copy_of("langchain")
    for text in ("text 0", "text 1"):
        store = langchain.VQIndexVectorStore(Model(), folder)
        store.add_texts([text], [{"number": 9}], ids=[text])
        store.close()
    store = langchain.VQIndexVectorStore(Model(), folder)
    assert len(store.similarity_search("text 1", k=9)) == 6
    assert len(store.similarity_search("text 1", k=9, filter={"number": 9})) == 2
    store.close()
    with pytest.raises(ValueError, match="written by 'langchain'"):
        haystack.VQIndexDocumentStore(folder)


def test_a_llama_index_store_opens_as_it_was(copy_of, mode):
    store = llama_index.VQIndexVectorStore(copy_of("llama_index"), mode=mode)
    nodes = store.get_nodes()
    assert [(node.node_id, node.text, node.metadata) for node in nodes] == [
        (f"d{i}", f"text {i}", {"number": i}) for i in range(5)
    ]
    assert [node.ref_doc_id for node in nodes] == ["doc0", "doc1", "doc0", "doc1", None]
    of_doc1 = MetadataFilters(filters=[MetadataFilter(key="doc_id", value="doc1")])
    assert store.query(VectorStoreQuery(ROWS[3].tolist(), 9, filters=of_doc1)).ids == ["d3", "d1"]
    store.close()


def test_a_llama_index_store_takes_changes(copy_of):
    folder = copy_of("llama_index")
    store = llama_index.VQIndexVectorStore(folder)
    store.delete("doc0")
    store.add([TextNode(id_="d3", text="replaced", embedding=ROWS[3].tolist())])
    store.close()
    store = llama_index.VQIndexVectorStore(folder)
    assert [node.get_content() for node in store.get_nodes()] == ["text 1", "replaced", "text 4"]
    words = VectorStoreQuery(query_str="replaced", mode=VectorStoreQueryMode.TEXT_SEARCH)
    assert store.query(words).ids == ["d3"]
    store.close()


def test_a_haystack_store_opens_as_it_was(copy_of, mode):
    store = haystack.VQIndexDocumentStore(copy_of("haystack"), mode=mode)
    assert store.filter_documents() == [
        Document(id=f"d{i}", content=f"text {i}", meta={"number": i}, embedding=ROWS[i].tolist() if i < 4 else None)
        for i in range(5)
    ]
    assert [document.id for document in store.embedding_retrieval(ROWS[2].tolist(), top_k=1)] == ["d2"]
    store.close()


def test_a_haystack_store_takes_changes(copy_of):
    folder = copy_of("haystack")
    for i in (5, 6):
        store = haystack.VQIndexDocumentStore(folder)
        store.write_documents([Document(id=f"d{i}", content=f"text {i}", embedding=ROWS[i - 5].tolist())])
        store.close()
    store = haystack.VQIndexDocumentStore(folder)
    assert [document.id for document in store.filter_documents()] == [f"d{i}" for i in range(7)]
    assert store.filter_documents()[6].embedding == ROWS[1].tolist()
    assert [document.id for document in store.bm25_retrieval("6")] == ["d6"]
    store.close()
