"""The LlamaIndex store: every method of its interface, alone and in a VectorStoreIndex."""

import inspect
from datetime import datetime

import numpy as np
import pytest
from frameworks import needs

needs("llama_index.core", "llama-index-core")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from vqindex.integrations.llama_index import VQIndexVectorStore

DIM = 32
ROWS = np.random.default_rng(0).standard_normal((30, DIM), dtype=np.float32)


def nodes():
    return [
        TextNode(
            id_=f"n{i}",
            text=f"text {i}",
            metadata={"number": i, "kind": "odd" if i % 2 else "even", "tags": [f"t{i % 3}", "all"]},
            embedding=row.tolist(),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i // 10}")},
        )
        for i, row in enumerate(ROWS)
    ]


@pytest.fixture
def store():
    store = VQIndexVectorStore(bits=8)
    assert store.add(nodes()) == [f"n{i}" for i in range(30)]
    yield store
    store.close()


def numbers(result):
    return sorted(node.metadata["number"] for node in result)


def query(i, k=30, **more):
    return VectorStoreQuery(query_embedding=ROWS[i].tolist(), similarity_top_k=k, **more)


def test_every_method_of_the_interface_is_ours():
    assert issubclass(VQIndexVectorStore, BasePydanticVectorStore)
    own = vars(VQIndexVectorStore)
    for name, member in vars(BasePydanticVectorStore).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert name in own, name


def test_query_is_that_of_an_exact_store(store):
    exact = SimpleVectorStore()
    exact.add(nodes())
    for i in (0, 7):
        ours, theirs = store.query(query(i, 30)), exact.query(query(i, 30))
        assert ours.ids[0] == theirs.ids[0] == f"n{i}"
        assert [node.node_id for node in ours.nodes] == ours.ids
        assert ours.similarities == sorted(ours.similarities, reverse=True)
        true = dict(zip(theirs.ids, theirs.similarities, strict=True))
        for id_, similarity in zip(ours.ids, ours.similarities, strict=True):
            assert similarity == pytest.approx(true[id_], abs=0.02)  # eight bits
        assert ours.nodes[0].get_content() == f"text {i}"


FILTERS = [
    MetadataFilter(key="number", value=7),
    MetadataFilter(key="number", value=3, operator=FilterOperator.LT),
    MetadataFilter(key="number", value=27, operator=FilterOperator.GTE),
    MetadataFilter(key="number", value=7, operator=FilterOperator.NE),
    MetadataFilter(key="number", value=[1, 2, 77], operator=FilterOperator.IN),
    MetadataFilter(key="kind", value=["odd"], operator=FilterOperator.NIN),
    MetadataFilter(key="tags", value="t1", operator=FilterOperator.CONTAINS),
    MetadataFilter(key="tags", value=["t1", "t2"], operator=FilterOperator.ANY),
    MetadataFilter(key="tags", value=["t1", "all"], operator=FilterOperator.ALL),
    MetadataFilter(key="kind", value="ev", operator=FilterOperator.TEXT_MATCH),
    MetadataFilter(key="kind", value="EV", operator=FilterOperator.TEXT_MATCH_INSENSITIVE),
    MetadataFilter(key="missing", value=None, operator=FilterOperator.IS_EMPTY),
    MetadataFilter(key="missing", value=3),
]


@pytest.mark.parametrize("condition", list(FilterCondition), ids=lambda c: c.value)
@pytest.mark.parametrize("first", FILTERS, ids=lambda f: f"{f.key} {f.operator.value}")
def test_filters_are_those_of_the_simple_store(store, condition, first):
    exact = SimpleVectorStore()
    exact.add(nodes())
    kind = MetadataFilter(key="kind", value="odd")
    for parts in ([first], [first, kind], [kind, first]):
        filters = MetadataFilters(filters=parts, condition=condition)
        expected = sorted(exact.query(query(0, filters=filters)).ids)
        assert sorted(store.query(query(0, filters=filters)).ids) == expected
        assert sorted(node.node_id for node in store.get_nodes(filters=filters)) == expected


def test_nested_filters_combine_as_they_say(store):
    inner = MetadataFilters(filters=FILTERS[:2], condition=FilterCondition.OR)
    outer = MetadataFilters(filters=[inner, MetadataFilter(key="kind", value="odd")])
    assert numbers(store.query(query(0, filters=outer)).nodes) == [1, 7]
    assert numbers(store.get_nodes(filters=MetadataFilters(filters=[outer]))) == [1, 7]


def test_node_ids_and_document_ids_limit_a_query(store):
    assert sorted(store.query(query(0, node_ids=["n3", "n4", "none"])).ids) == ["n3", "n4"]
    assert numbers(store.query(query(0, doc_ids=["doc1"])).nodes) == list(range(10, 20))
    both = query(0, doc_ids=["doc1"], node_ids=["n3", "n12"], filters=MetadataFilters(filters=[FILTERS[0]]))
    assert store.query(both).ids == []
    assert len(store.query(query(0, node_ids=[], doc_ids=[])).ids) == 30  # what a VectorStoreIndex passes
    assert store.get_nodes([]) == []


def test_mmr_does_not_repeat_the_node_chosen_last(store):
    repeated = [TextNode(id_=f"r{i}", text="r", embedding=ROWS[0].tolist(), metadata={"number": 0}) for i in range(3)]
    store.add(repeated)
    plain = store.query(query(0, 3)).ids
    diverse = store.query(query(0, 3, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.3)).ids
    equal = {"n0", "r0", "r1", "r2"}
    assert set(plain) <= equal
    # LlamaIndex compares a candidate only with the last chosen node, so a third node may repeat the first.
    assert len(set(diverse)) == 3
    assert diverse[0] in equal
    assert diverse[1] not in equal


def test_delete_removes_nodes_by_document_id_and_filter(store):
    store.delete("doc1")
    assert numbers(store.get_nodes()) == [*range(10), *range(20, 30)]
    without_source = TextNode(id_="alone", text="x", metadata={"number": 99}, embedding=ROWS[0].tolist())
    store.add([without_source])
    store.delete(None)
    store.delete("None")
    assert len(store.get_nodes()) == 21
    store.delete_nodes(["alone"])
    store.delete("no such document")
    store.delete_nodes(["n0", "none"])
    store.delete_nodes(["n1", "n2"], MetadataFilters(filters=[MetadataFilter(key="kind", value="even")]))
    assert numbers(store.get_nodes()) == [1, *range(3, 10), *range(20, 30)]
    store.delete_nodes()
    assert len(store.query(query(0, 100)).ids) == 18
    store.clear()
    assert store.get_nodes() == []
    assert store.query(query(0)).ids == []


def test_kinds_of_nodes_come_back_whole(store):
    added = [
        IndexNode(id_="i", text="index", index_id="other", metadata={"a": {"b": [1]}}, embedding=ROWS[0].tolist()),
        ImageNode(id_="m", image="aGk=", metadata={}, embedding=ROWS[1].tolist()),
        TextNode(id_="n5", text="replaced", metadata={"number": 5}, embedding=ROWS[2].tolist()),
    ]
    store.add(added)
    found = {node.node_id: node for node in store.get_nodes(["i", "m", "n5"])}
    for node in added:
        back = found[node.node_id]
        assert type(back) is type(node)
        assert back.embedding is None
        assert back.model_dump(exclude={"embedding"}) == node.model_dump(exclude={"embedding"})
    assert len(store.client) == 32


async def test_async_methods_give_what_sync_ones_do(store):
    await store.async_add([TextNode(id_="late", text="late", embedding=ROWS[3].tolist(), metadata={"number": 99})])
    assert (await store.aquery(query(3, 5))).ids == store.query(query(3, 5)).ids
    assert await store.aget_nodes(["late"]) == store.get_nodes(["late"])
    await store.adelete_nodes(["late"])
    await store.adelete("doc0")
    assert numbers(store.get_nodes()) == list(range(10, 30))
    await store.aclear()
    assert store.get_nodes() == []


def test_store_serves_a_vector_store_index(tmp_path):
    model = MockEmbedding(embed_dim=DIM)
    store = VQIndexVectorStore(tmp_path / "live", metric="l2", bits=4)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(
        [TextNode(id_=f"n{i}", text=f"text {i}", metadata={"number": i}) for i in range(5)],
        storage_context=context,
        embed_model=model,
    )
    assert len(index.as_retriever(similarity_top_k=3).retrieve("text")) == 3
    index.delete_nodes(["n0"])
    context.persist(persist_dir=str(tmp_path / "copy"))
    store.close()
    for place in (tmp_path / "live", tmp_path / "copy" / "default__vector_store.json"):
        again = VQIndexVectorStore.from_persist_path(str(place), metric="l2")
        found = VectorStoreIndex.from_vector_store(again, embed_model=model).as_retriever(similarity_top_k=9)
        assert numbers(hit.node for hit in found.retrieve("text")) == [1, 2, 3, 4]
        again.close()
    with pytest.raises(FileNotFoundError, match="none"):
        VQIndexVectorStore.from_persist_path(str(tmp_path / "none"))


def test_wrong_input_names_what_is_wrong(store):
    with pytest.raises(ValueError, match="node 'x' has no embedding"):
        store.add([nodes()[0], TextNode(id_="x", text="x")])
    with pytest.raises(ValueError, match="31 columns"):
        store.add([TextNode(id_="x", text="x", embedding=[1.0] * 31)])
    with pytest.raises(ValueError, match="query_embedding is None"):
        store.query(VectorStoreQuery(query_str="text"))
    with pytest.raises(ValueError, match="query_str is None; the mode 'hybrid' needs it"):
        store.query(query(0, mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(ValueError, match="mode is 'svm'"):
        store.query(query(0, mode=VectorStoreQueryMode.SVM))
    with pytest.raises(ValueError, match="node_ids is 'n1'"):
        store.get_nodes("n1")
    with pytest.raises(TypeError, match="confidenz"):
        store.query(query(0), confidenz=1)
    with pytest.raises(TypeError, match="where"):
        store.delete("doc1", where={})
    with pytest.raises(ValueError, match="folder is None"):
        store.persist()
    assert len(store.get_nodes()) == 30


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_filters_of_the_source_document_are_those_of_the_simple_store(store, key):
    exact = SimpleVectorStore()
    exact.add(nodes())
    for symbol, value in (("==", "doc1"), ("!=", "doc1"), ("in", ["doc0", "doc2"]), ("nin", ["doc0"])):
        filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=symbol)])
        expected = sorted(exact.query(query(0, filters=filters)).ids)
        assert sorted(store.query(query(0, filters=filters)).ids) == expected
        assert 0 < len(expected) < 30


@pytest.mark.parametrize("condition", list(FilterCondition), ids=lambda c: c.value)
def test_an_empty_list_of_filters_restricts_nothing(store, condition):
    empty = MetadataFilters(filters=[], condition=condition)
    assert len(store.query(query(0, filters=empty)).ids) == 30
    assert len(store.get_nodes(filters=empty)) == 30
    store.delete_nodes(["n0"], empty)
    assert len(store.get_nodes()) == 29


def test_words_are_searched_alone_or_with_the_embedding(store):
    def found(text, mode, **more):
        return store.query(query(7, 3, mode=mode, query_str=text, **more)).ids

    for mode in (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE):
        assert found("TEXT 12", mode)[0] == "n12"
        only_even = MetadataFilters(filters=[MetadataFilter(key="kind", value="even")])
        assert found("13", mode, filters=only_even) == []
        assert store.query(VectorStoreQuery(query_str="12", similarity_top_k=3, mode=mode)).ids == ["n12"]
    hybrid = VectorStoreQueryMode.HYBRID
    assert set(found("12", hybrid)[:2]) == {"n7", "n12"}
    assert found("12", hybrid, alpha=0.0)[0] == "n12"
    assert found("12", hybrid, alpha=1.0)[0] == "n7"
    assert found("12", hybrid, alpha=0.9)[0] == "n7"
    assert len(found("12", hybrid, hybrid_top_k=7)) == 7


def test_options_of_the_index_reach_it_through_a_retriever():
    store = VQIndexVectorStore(bits=2, keep_vectors="f32")
    store.add(nodes())
    exact = store.query(query(3, 1), rerank=True, confidence=1).similarities
    assert exact == pytest.approx([1], abs=1e-6)
    assert store.query(query(3, 1)).similarities != exact
    model = MockEmbedding(embed_dim=DIM)
    index = VectorStoreIndex.from_vector_store(store, embed_model=model)
    retriever = index.as_retriever(vector_store_kwargs={"rerank": True, "oversample": 30}, similarity_top_k=30)
    values = ROWS.sum(axis=1) / np.linalg.norm(ROWS, axis=1) / np.sqrt(DIM)  # the mock's vectors are constant
    assert [hit.score for hit in retriever.retrieve("x")] == pytest.approx(
        sorted(values.tolist(), reverse=True), abs=1e-5
    )
    store.close()


def index_of(store):
    context = StorageContext.from_defaults(vector_store=store)
    made = [TextNode(id_=f"n{i}", text=f"text {i}", metadata={"number": i}) for i in range(5)]
    return VectorStoreIndex(made, storage_context=context, embed_model=MockEmbedding(embed_dim=DIM))


def retrieved(index):
    return numbers(hit.node for hit in index.as_retriever(similarity_top_k=9).retrieve("text"))


def test_an_index_is_loaded_from_a_persist_dir(tmp_path):
    """The index, its context and the store are persisted and loaded in the ways that LlamaIndex's pages show."""
    model = MockEmbedding(embed_dim=DIM)
    storage = str(tmp_path / "storage")
    index_of(VQIndexVectorStore()).storage_context.persist(storage)
    for opened in (
        VQIndexVectorStore.from_persist_dir(storage),
        VQIndexVectorStore.from_persist_path(f"{storage}/default__vector_store.json"),
        VQIndexVectorStore(f"{storage}/default__vector_store"),
    ):
        context = StorageContext.from_defaults(vector_store=opened, persist_dir=storage)
        assert retrieved(load_index_from_storage(context, embed_model=model)) == [0, 1, 2, 3, 4]
        assert retrieved(VectorStoreIndex.from_vector_store(opened, embed_model=model)) == [0, 1, 2, 3, 4]
        opened.close()


def test_a_context_can_be_persisted_into_the_folder_of_its_store(tmp_path):
    folder = str(tmp_path / "notes")
    store = VQIndexVectorStore(folder)
    index = index_of(store)
    index.storage_context.persist(folder)
    index.storage_context.persist(folder)  # again, over the copy
    store.close()
    store = VQIndexVectorStore(folder)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=folder)
    again = load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=DIM))
    assert retrieved(again) == [0, 1, 2, 3, 4]
    again.insert_nodes([TextNode(id_="late", text="late", metadata={"number": 9})])
    store.close()
    store = VQIndexVectorStore.from_persist_dir(folder)  # the copy does not have what came later
    assert retrieved(VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=DIM))) == [
        0,
        1,
        2,
        3,
        4,
    ]
    store.close()


def test_a_store_comes_back_from_its_dict(tmp_path):
    store = VQIndexVectorStore(tmp_path / "s", bits=3, keep_vectors="f16")
    store.add(nodes())
    store.close()
    again = VQIndexVectorStore.from_dict(store.to_dict())
    assert (again.bits, again.keep_vectors, len(again.get_nodes())) == (3, "f16", 30)
    again.close()


def test_metadata_come_back_as_json_and_dates_can_be_filtered(store):
    when = datetime(2024, 5, 6)
    store.add([TextNode(id_="dated", text="x", metadata={"when": when}, embedding=ROWS[0].tolist())])
    later = MetadataFilters(filters=[MetadataFilter(key="when", value="2024-05-01", operator=FilterOperator.GT)])
    assert [node.metadata for node in store.get_nodes(filters=later)] == [{"when": when.isoformat()}]
