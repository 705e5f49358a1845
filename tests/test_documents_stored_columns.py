"""Columns in the database: filters of a new process find with them what they find without, after any changes."""

import contextlib
import sqlite3
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from vqindex import documents
from vqindex.documents import stored_columns
from vqindex.documents.filters import matches
from vqindex.errors import FileFormatError

from .support.filter_cases import filters, metadata


@pytest.fixture
def small(monkeypatch):
    """Make columns of few documents."""
    make_small(monkeypatch)


def make_small(patch):
    patch.setattr(stored_columns, "CHUNK", 8)
    patch.setattr(stored_columns, "_FEWEST", 1)
    patch.setattr(stored_columns, "_MOST_STALE", 3)
    patch.setattr(stored_columns, "_MOST_RANGES", 2)
    patch.setattr(stored_columns, "_MOST_BEHIND", 4)
    patch.setattr(stored_columns, "_CHECKED", 2)


def fill(store, count, first=0, **more):
    names = [f"d{number}" for number in range(first, first + count)]
    values = [
        {"y": number % 5, "s": f"s{number}", "tags": ["a", number % 3], "in": {"side": number % 2}}
        for number in range(first, first + count)
    ]
    store.add([None] * count, ids=names, metadata=values, **more)


def asked(folder, where, namespace=None):
    """Return the ids that a new reader finds, and whether it reads metadata of all documents as JSON."""
    seen = []
    with documents.open(folder, "r") as store:
        store._session.database.set_trace_callback(seen.append)
        found = [each.id for each in store.list(where, namespace=namespace)]
    return found, any("json_valid" in each and "BETWEEN" not in each for each in seen)


def edit(folder, *statement):
    """Change the database behind the store's back."""
    with contextlib.closing(sqlite3.connect(folder / "docs.sqlite")) as database, database:
        database.execute(*statement)


def content_of(folder):
    with contextlib.closing(sqlite3.connect(folder / "docs.sqlite")) as database:
        return database.execute("SELECT chunk, name, crc FROM fields ORDER BY chunk, name").fetchall()


WHERES = (
    ({"y": {"$gte": 3}}, lambda number: number % 5 >= 3),
    ({"y": {"$ne": 3}}, lambda number: number % 5 != 3),
    ({"s": "s17"}, lambda number: number == 17),
    ({"tags": {"$contains": 2}}, lambda number: number % 3 == 2),
    ({"in": {"side": {"$in": [1, None]}}}, lambda number: number % 2 == 1),
    ({"none": {"$exists": False}}, lambda number: True),
    ({"$or": [{"y": 1}, {"$and": [{"y": 2}, {"tags": {"$contains": 0}}]}]},
     lambda number: number % 5 == 1 or (number % 5 == 2 and number % 3 == 0)),
)  # fmt: skip


@pytest.mark.parametrize(("where", "test"), WHERES)
def test_a_new_reader_takes_columns_and_reads_no_json(tmp_path, small, where, test):
    with documents.open(tmp_path) as store:
        fill(store, 50)
    assert asked(tmp_path, where) == ([f"d{number}" for number in range(50) if test(number)], False)


def test_rows_that_changed_since_are_read_from_the_documents(tmp_path, small):
    with documents.open(tmp_path) as store:
        fill(store, 50)
    written = content_of(tmp_path)
    with documents.open(tmp_path) as store:
        store.update_metadata({"d3": {"y": 7}})
        store.delete(["d8"])
        fill(store, 1, first=50)
    assert content_of(tmp_path) == written
    assert asked(tmp_path, {"y": {"$gte": 3}}) == (
        ["d3", *(f"d{number}" for number in range(4, 50) if number % 5 >= 3 and number != 8)],
        False,
    )


def test_many_small_commits_write_a_chunk_now_and_then(tmp_path, small):
    with documents.open(tmp_path) as store:
        fill(store, 40)
    contents = [content_of(tmp_path)]
    for number in range(40, 80):
        with documents.open(tmp_path) as store:
            fill(store, 1, first=number)
        found = content_of(tmp_path)
        if found != contents[-1]:
            contents.append(found)
        assert asked(tmp_path, {"y": 2}) == ([f"d{each}" for each in range(number + 1) if each % 5 == 2], False)
    assert 4 < len(contents) < 30
    assert contents[-1][:20] == contents[0][:20]  # of chunks that were full


def test_a_store_without_columns_is_read_as_it_is_and_gets_them_with_the_next_commit(tmp_path, small):
    with documents.open(tmp_path) as store:
        fill(store, 20)
    edit(tmp_path, "DROP TABLE chunks")
    edit(tmp_path, "DROP TABLE fields")
    edit(tmp_path, "DELETE FROM about WHERE name = 'columns'")
    expected = [f"d{number}" for number in range(20) if number % 5 > 2]
    assert asked(tmp_path, {"y": {"$gt": 2}}) == (expected, True)
    with documents.open(tmp_path) as store:
        store.verify()
        store.update_metadata({"d0": {"y": 1}})
    assert asked(tmp_path, {"y": {"$gt": 2}}) == (expected, False)


def test_commits_of_a_process_that_knows_no_columns_are_seen(tmp_path, small, monkeypatch):
    with documents.open(tmp_path) as store:
        fill(store, 20)
    with monkeypatch.context() as patch, documents.open(tmp_path) as store:
        patch.setattr("vqindex.documents.session.write_changed", lambda *args: None)
        store.update_metadata({"d0": {"y": 9}})
        store.delete(["d4"])
        fill(store, 10, first=20)
    expected = ["d0", *(f"d{number}" for number in range(5, 30) if number % 5 > 3)]
    assert asked(tmp_path, {"y": {"$gt": 3}})[0] == expected
    with documents.open(tmp_path) as store:
        fill(store, 10, first=30)
    expected += [f"d{number}" for number in range(30, 40) if number % 5 > 3]
    assert asked(tmp_path, {"y": {"$gt": 3}}) == (expected, False)


def test_fields_that_are_too_long_or_too_many_are_read_from_the_documents(tmp_path, small, monkeypatch):
    monkeypatch.setattr(stored_columns, "_MOST_FIELDS", 3)
    values = [{"y": number, "long": "x" * 1000 + str(number), "a": 1, "b": number % 2} for number in range(20)]
    with documents.open(tmp_path) as store:
        store.add([None] * 20, ids=[str(number) for number in range(20)], metadata=values)
    assert asked(tmp_path, {"y": {"$lt": 2}}) == (["0", "1"], False)
    assert asked(tmp_path, {"long": {"$like": "%x7"}}) == (["7"], True)
    assert asked(tmp_path, {"b": 1, "y": {"$lt": 4}}) == (["1", "3"], True)


def test_a_small_namespace_is_read_from_its_own_documents(tmp_path, small):
    with documents.open(tmp_path) as store:
        fill(store, 100)
        fill(store, 5, namespace="small")
        fill(store, 60, namespace="large")
    assert asked(tmp_path, {"y": 3}, "small") == (["d3"], True)
    assert asked(tmp_path, {"s": "s3"}, "large") == (["d3"], False)
    assert len(asked(tmp_path, {"y": 3})[0]) == 20


def test_a_copy_has_columns_and_those_of_what_it_replaced_are_gone(tmp_path, small):
    with documents.open(tmp_path / "old") as store:
        fill(store, 60)
    with documents.open(tmp_path / "a") as store:
        fill(store, 20)
    for name in ("new", "old"):
        documents.open(tmp_path / "a").copy(tmp_path / name)
        assert content_of(tmp_path / name) == content_of(tmp_path / "a")
    with documents.open(tmp_path / "old") as store:  # the record of a copy names no rows
        fill(store, 5, first=20)
    for name, count in (("new", 20), ("old", 25)):
        expected = [f"d{number}" for number in range(count) if number % 5 == 4]
        assert asked(tmp_path / name, {"y": 4}) == (expected, False)


@pytest.mark.parametrize("damage", ["fields.codes", "fields.vals", "chunks.rows", "chunks.namespaces", "chunks.keys"])
def test_damage_of_columns_is_refused_by_name(tmp_path, small, damage):
    table, column = damage.split(".")
    with documents.open(tmp_path) as store:
        fill(store, 20)
    with contextlib.closing(sqlite3.connect(tmp_path / "docs.sqlite")) as database:
        value = database.execute(f"SELECT {column} FROM {table} WHERE chunk = 1").fetchone()[0]
    changed = bytearray(value if isinstance(value, bytes) else value.encode())
    changed[-2] ^= 1
    new = bytes(changed) if isinstance(value, bytes) else changed.decode()
    edit(tmp_path, f"UPDATE {table} SET {column} = ? WHERE chunk = 1 AND {column} = ?", (new, value))
    with documents.open(tmp_path, "r") as store:
        every = {"$and": [{name: {"$exists": True}} for name in ("y", "s", "tags", "in")]}
        with pytest.raises(FileFormatError, match="chunk 1"):
            store.list(every)
        with pytest.raises(FileFormatError, match="chunk 1"):
            store.verify()


def test_metadata_that_are_no_json_are_reported_by_filters_as_without_columns(tmp_path, small):
    with documents.open(tmp_path) as store:
        fill(store, 20)
    edit(tmp_path, "UPDATE docs SET metadata = '{' WHERE row = 1")
    with documents.open(tmp_path) as store:
        store.update_metadata({f"d{number}": {"y": 0} for number in range(1, 7)})
    with documents.open(tmp_path, "r") as store, pytest.raises(FileFormatError, match="damaged"):
        store.list({"y": 0})


class Changes(RuleBasedStateMachine):
    """Documents change in commits of any size; new readers and the writer find what the definition says."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        make_small(self.patch)
        self.folder = tempfile.TemporaryDirectory()
        self.store = documents.open(self.folder.name, autocommit=False)
        self.expected = {}
        self.saved = {}
        self.following = 0

    def names(self, data):
        return data.draw(st.lists(st.sampled_from(sorted(self.expected)), min_size=1, max_size=9, unique=True))

    @rule(values=st.lists(metadata, min_size=1, max_size=12), namespace=st.sampled_from(["", "", "other"]))
    def add(self, values, namespace):
        names = [f"d{self.following + at}" for at in range(len(values))]
        self.following += len(values)
        self.store.add(names, ids=names, metadata=values, namespace=namespace)
        self.expected.update({(namespace, name): value for name, value in zip(names, values, strict=True)})

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), value=metadata)
    def update(self, data, value):
        for namespace, name in self.names(data):
            self.store.update_metadata({name: value}, namespace=namespace)
            self.expected[namespace, name] = value

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def delete(self, data):
        for namespace, name in self.names(data):
            self.store.delete([name], namespace=namespace)
            del self.expected[namespace, name]

    @rule()
    def drop_a_namespace(self):
        self.store.drop_namespace("other")
        self.expected = {key: value for key, value in self.expected.items() if key[0] != "other"}

    @rule()
    def commit(self):
        self.store.commit()
        self.saved = dict(self.expected)

    @rule()
    def roll_back(self):
        self.store.rollback()
        self.expected = dict(self.saved)

    @rule(filter=filters, namespace=st.sampled_from(["", "other"]))
    def the_writer_finds(self, filter, namespace):
        self.store._session.columns.touch(None)  # as if it had just been opened
        self.check(self.store, filter, namespace, self.expected)

    @rule(filter=filters, namespace=st.sampled_from(["", "other"]), data=st.data())
    def a_new_reader_finds(self, filter, namespace, data):
        with documents.open(self.folder.name, "r") as reader:
            for each in (filter, data.draw(filters)):
                self.check(reader, each, namespace, self.saved)
            reader.verify()

    def check(self, store, filter, namespace, expected):
        everything = {each.id: each for each in store.list(namespace=namespace)}
        assert set(everything) == {name for of, name in expected if of == namespace}
        wanted = [name for name, each in everything.items() if matches(filter, each)]
        assert [each.id for each in store.list(filter, namespace=namespace)] == wanted

    def teardown(self):
        self.store.rollback()
        self.store.close()
        self.folder.cleanup()
        self.patch.undo()


Changes.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestChanges = Changes.TestCase
