"""What the three adapters have in common: how they keep changes, and what they refuse."""

import gc
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
from frameworks import needs

for module, package in (
    ("langchain_core", "langchain-core"), ("llama_index.core", "llama-index-core"), ("haystack", "haystack-ai"),
):  # fmt: skip
    needs(module, package)

from haystack import Document
from haystack.document_stores.types import DuplicatePolicy
from langchain_core.embeddings import Embeddings
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery

import vqindex
from vqindex import documents
from vqindex.integrations import haystack, langchain, llama_index

DIM = 8


def vector_of(text):
    return np.random.default_rng(list(text.encode())).standard_normal(DIM).tolist()


class Model(Embeddings):
    def embed_documents(self, texts):
        return [vector_of(text) for text in texts]

    def embed_query(self, text):
        return vector_of(text)


class LangChain:
    name = "langchain"

    def open(self, folder=None, **parameters):
        return langchain.VQIndexVectorStore(Model(), folder, **parameters)

    def documents(self, store):
        return store.store

    def write(self, store, *texts):
        store.add_texts(list(texts), ids=list(texts))

    def nearest(self, store, text, k=1):
        return [document.id for document in store.similarity_search(text, k)]

    def delete(self, store, ids):
        store.delete(ids)

    save = staticmethod(langchain.VQIndexVectorStore.save)


class LlamaIndex:
    name = "llama_index"

    def open(self, folder=None, **parameters):
        return llama_index.VQIndexVectorStore(folder, **parameters)

    def documents(self, store):
        return store.client

    def write(self, store, *texts):
        store.add([TextNode(id_=text, text=text, embedding=vector_of(text)) for text in texts])

    def nearest(self, store, text, k=1):
        return store.query(VectorStoreQuery(query_embedding=vector_of(text), similarity_top_k=k)).ids

    def delete(self, store, ids):
        store.delete_nodes(ids)

    save = staticmethod(llama_index.VQIndexVectorStore.persist)


class Haystack:
    name = "haystack"

    def open(self, folder=None, **parameters):
        return haystack.VQIndexDocumentStore(folder, **parameters)

    def documents(self, store):
        return store.store

    def write(self, store, *texts):
        found = [Document(id=text, content=text, embedding=vector_of(text)) for text in texts]
        store.write_documents(found, DuplicatePolicy.OVERWRITE)

    def nearest(self, store, text, k=1):
        return [document.id for document in store.embedding_retrieval(vector_of(text), top_k=k)]

    def delete(self, store, ids):
        store.delete_documents(ids)

    save = staticmethod(haystack.VQIndexDocumentStore.save)


ADAPTERS = (LangChain(), LlamaIndex(), Haystack())


@pytest.fixture(params=ADAPTERS, ids=lambda each: each.name)
def adapter(request):
    return request.param


def ids_on_disk(folder):
    with documents.open(folder, "r") as store:
        return [document.id for document in store.list()]


def test_each_call_is_on_disk_when_it_returns(adapter, tmp_path):
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a", "b")
    assert ids_on_disk(tmp_path / "s") == ["a", "b"]
    adapter.delete(store, ["a"])
    assert ids_on_disk(tmp_path / "s") == ["b"]
    store.close()


def test_a_with_block_commits_once_at_its_end(adapter, tmp_path):
    with adapter.open(tmp_path / "s") as store:
        before = adapter.documents(store).generation
        adapter.write(store, "a")
        adapter.write(store, "b")
        assert adapter.nearest(store, "a") == ["a"]
        assert ids_on_disk(tmp_path / "s") == []
    assert ids_on_disk(tmp_path / "s") == ["a", "b"]
    with documents.open(tmp_path / "s", "r") as read:
        assert read.generation == before + 1


def test_an_error_in_a_with_block_undoes_its_changes(adapter, tmp_path):
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a")

    def broken():
        with store:
            adapter.write(store, "b")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        broken()
    assert ids_on_disk(tmp_path / "s") == ["a"]


def test_without_autocommit_saving_puts_changes_on_disk(adapter, tmp_path):
    store = adapter.open(tmp_path / "s", autocommit=False)
    adapter.write(store, "a")
    assert ids_on_disk(tmp_path / "s") == []
    adapter.save(store)
    assert ids_on_disk(tmp_path / "s") == ["a"]
    adapter.write(store, "b")
    with pytest.warns(ResourceWarning, match="not committed"):
        store.close()
    assert ids_on_disk(tmp_path / "s") == ["a"]


def test_saving_to_another_folder_writes_a_copy(adapter, tmp_path):
    for place in (None, tmp_path / "s"):
        store = adapter.open(place)
        adapter.write(store, "a", "b")
        copy = tmp_path / f"copy of {place and place.name}"
        adapter.save(store, copy)
        adapter.write(store, "c")
        store.close()
        assert ids_on_disk(copy) == ["a", "b"]
        again = adapter.open(copy)
        assert adapter.nearest(again, "b") == ["b"]
        again.close()


def test_saving_to_its_own_folder_commits(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = adapter.open("s", autocommit=False)
    adapter.write(store, "a")
    adapter.save(store, tmp_path / "s")
    assert ids_on_disk(tmp_path / "s") == ["a"]
    store.close()


def test_saving_a_store_in_memory_needs_a_folder(adapter):
    store = adapter.open()
    with pytest.raises(ValueError, match="folder is None and the store is in memory"):
        adapter.save(store)
    store.close()


def test_a_folder_remembers_which_adapter_wrote_it(adapter, tmp_path):
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a")
    store.close()
    for other in ADAPTERS:
        if other is not adapter:
            with pytest.raises(ValueError, match=f"written by '{adapter.name}'.*'{other.name}'"):
                other.open(tmp_path / "s")
    assert ids_on_disk(tmp_path / "s") == ["a"]


def test_documents_that_no_adapter_wrote_can_be_read_by_all(adapter, tmp_path):
    with documents.open(tmp_path / "s") as plain:
        plain.add(["a", "b"], [vector_of("a"), vector_of("b")], metadata=[{"x": 1}, None], ids=["a", "b"])
    for mode in ("r", "a"):
        store = adapter.open(tmp_path / "s", mode=mode)
        assert adapter.nearest(store, "b") == ["b"]
        store.close()
    assert [node.text for node in llama_index.VQIndexVectorStore(tmp_path / "s").get_nodes()] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("bits", 3), ("metric", "l2"), ("codec", "turboquant-mse"), ("seed", 7), ("keep_vectors", "f16"),
     ("center", [1.0] * DIM), ("rotation", "haar")],
)  # fmt: skip
def test_parameters_reach_the_index_and_others_are_refused_later(adapter, tmp_path, name, value):
    store = adapter.open(tmp_path / "s", **{name: value})
    adapter.write(store, "a")
    index = adapter.documents(store).index
    if name == "keep_vectors":
        assert index.keep_vectors == value
    elif name == "center":
        np.testing.assert_array_equal(index.center, value)
    else:
        assert getattr(index.spec, name) == value
    store.close()
    adapter.open(tmp_path / "s").close()
    adapter.open(tmp_path / "s", **{name: value}).close()
    other = {
        "bits": 5, "metric": "ip", "codec": "trellis", "seed": 8, "keep_vectors": "int8", "center": [2.0] * DIM,
        "rotation": "hadamard",
    }[name]  # fmt: skip
    with pytest.raises(ValueError, match=f"{name} is "):
        adapter.open(tmp_path / "s", **{name: other})


def test_unknown_parameters_are_refused_and_make_no_folder(adapter, tmp_path):
    with pytest.raises(TypeError, match="bitz"):
        adapter.open(tmp_path / "s", bitz=3)
    with pytest.raises(ValueError, match="bits is 99"):
        adapter.open(tmp_path / "s", bits=99)
    assert not (tmp_path / "s").exists()


def test_one_string_is_not_a_list_of_ids(adapter):
    store = adapter.open()
    adapter.write(store, "a", "b", "ab")
    for wrong in ("ab", [1]):
        with pytest.raises(ValueError, match=r"ids (is|has|are)"):
            adapter.delete(store, wrong)
    assert len(adapter.documents(store)) == 3
    store.close()


def test_a_reader_opens_nothing_new_and_changes_nothing(adapter, tmp_path):
    with pytest.raises(FileNotFoundError):
        adapter.open(tmp_path / "s", mode="r")
    assert not (tmp_path / "s").exists()
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a")
    store.close()
    store = adapter.open(tmp_path / "s", mode="r")
    assert adapter.nearest(store, "a") == ["a"]
    with pytest.raises(vqindex.StoreError, match="reading"):
        adapter.write(store, "b")
    store.close()


def test_namespaces_do_not_see_one_another(adapter, tmp_path):
    first, second = (adapter.open(tmp_path / "s", namespace=name) for name in ("one", "two"))
    adapter.write(first, "a", "b")
    adapter.write(second, "a", "c")
    assert sorted(adapter.nearest(first, "c", 5)) == ["a", "b"]
    assert adapter.nearest(second, "c") == ["c"]
    plain = adapter.open(tmp_path / "s")
    assert adapter.nearest(plain, "c", 5) == []
    {"langchain": lambda: first.delete(), "llama_index": lambda: first.clear()}.get(
        adapter.name, lambda: first.delete_all_documents()
    )()
    assert adapter.nearest(first, "c", 5) == []
    assert sorted(adapter.nearest(second, "c", 5)) == ["a", "c"]
    for store in (first, second, plain):
        store.close()


def write_in_another_process(number, folder, text):
    store = ADAPTERS[number].open(folder)
    ADAPTERS[number].write(store, text)
    store.close()


def test_two_processes_write_into_one_folder(adapter, tmp_path):
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a")
    arguments = (ADAPTERS.index(adapter), tmp_path / "s", "b")
    process = multiprocessing.get_context("spawn").Process(target=write_in_another_process, args=arguments)
    process.start()
    process.join(600)
    assert process.exitcode == 0
    assert adapter.nearest(store, "b") == ["b"]  # what is open for writing follows the others
    adapter.write(store, "c")
    assert sorted(ids_on_disk(tmp_path / "s")) == ["a", "b", "c"]
    store.close()


def test_a_store_that_is_dropped_loses_nothing_silently(adapter, tmp_path):
    store = adapter.open(tmp_path / "s")
    adapter.write(store, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del store
        gc.collect()
    assert ids_on_disk(tmp_path / "s") == ["a"]


def test_pickling_a_llama_index_store_keeps_every_node(tmp_path):
    for folder in (None, tmp_path / "s"):
        store = llama_index.VQIndexVectorStore(folder, bits=3, namespace="n")
        LlamaIndex().write(store, "a", "b")
        again = pickle.loads(pickle.dumps(store))
        assert again.get_nodes() == store.get_nodes()
        assert LlamaIndex().nearest(again, "b") == ["b"]
        assert again.to_dict() == store.to_dict()
        store.close()
        again.close()
