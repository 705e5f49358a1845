"""Filters over columns of fields find the documents that `matches` is true for, before and after changes."""

import contextlib
import itertools
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vqindex.documents import changed, reading, values
from vqindex.documents.columns import Columns
from vqindex.documents.filters import And, Between, Compare, Contains, Custom, Exists, Ids, In, Like, Not, Or, parse
from vqindex.documents.found import Alignment
from vqindex.errors import FileFormatError
from vqindex.rows.bitmap import bits_of

from .support.filter_cases import KEYS, NUMBERS, STRINGS, Item, Library, filters, items, scalars


class Recorder:
    """A connection that remembers the texts of statements."""

    def __init__(self, db):
        self.db, self.statements = db, []

    @property
    def in_transaction(self):
        return self.db.in_transaction

    def execute(self, statement, *parameters):
        self.statements.append(statement)
        return self.db.execute(statement, *parameters)


def library_of(*metadata):
    library = Library()
    library.db.execute("BEGIN")
    for each in metadata:
        library.insert(Item(str(len(library.items)), metadata=each))
    return library


def found_in(library, filter, columns=None):
    columns = Columns(library) if columns is None else columns
    return columns.find(library.db, 0, filter).rows.tolist()


@given(st.lists(items, max_size=6), st.lists(filters, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_filters_find_exactly_the_documents_that_match(documents, asked):
    library = library_of()
    for each in documents:
        library.insert(each)
    library.insert(Item("0", "red fox", {"a": 1}), namespace=1)
    columns = Columns(library)
    for filter in asked:
        found = columns.find(library.db, 0, filter)
        assert found.rows.tolist() == library.matching(filter)
        assert found.count == found.rows.size


@given(st.lists(items, max_size=4), filters)
@settings(max_examples=100, deadline=None)
def test_filters_find_the_same_with_an_sqlite_that_has_no_arrow(documents, filter):
    library = library_of()
    for each in documents:
        library.insert(each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_HAS_ARROW", False)
        assert found_in(library, filter) == library.matching(filter)


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
def test_every_number_compares_exactly_with_every_other(operator):
    library = library_of(*({"x": number} for number in NUMBERS))
    columns = Columns(library)
    for number in NUMBERS:
        filter = Compare(("x",), operator, number)
        assert found_in(library, filter, columns) == library.matching(filter), number


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
def test_every_string_compares_with_every_other_by_code_points(operator):
    library = library_of(*({"x": text} for text in STRINGS))
    columns = Columns(library)
    for text in STRINGS:
        filter = Compare(("x",), operator, text)
        assert found_in(library, filter, columns) == library.matching(filter), text
        bounds = Between(("x",), text, "ab")
        assert found_in(library, bounds, columns) == library.matching(bounds), text


@pytest.mark.parametrize("key", KEYS)
def test_fields_of_every_name_are_found_inside_each_other(key):
    library = library_of({key: 1}, {key: {key: 1}}, {key: [1]}, {key: {key: None}}, {}, {key: float("nan")})
    columns = Columns(library)
    assert found_in(library, Compare((key,), "==", 1), columns) == [1]
    assert found_in(library, Compare((key, key), "==", 1), columns) == [2]
    assert found_in(library, Exists((key, key)), columns) == [2, 4]
    assert found_in(library, Exists((key,)), columns) == [1, 2, 3, 4, 6]
    assert found_in(library, Compare((key, key), "==", None), columns) == [4]


def test_equal_filters_of_other_types_are_not_confused():
    library = library_of({"x": 1}, {"x": True}, {"x": "1"}, {"x": 1.0})
    columns = Columns(library)
    for _ in range(2):
        assert found_in(library, Compare(("x",), "==", 1), columns) == [1, 4]
        assert found_in(library, Compare(("x",), "==", True), columns) == [2]
        assert found_in(library, In(("x",), (True, "1")), columns) == [2, 3]
        assert found_in(library, In(("x",), (1, "1")), columns) == [1, 3, 4]


def test_statements_depend_on_no_key_and_no_value():
    def statements(key, value):
        library = library_of({key: value}, {key: [value]})
        library.insert(Item("9"), row=100)
        recorder = Recorder(library.db)
        columns = Columns(library)
        for filter in (Compare((key,), "==", value), Compare((key,), ">", value), Contains((key,), value)):
            columns.find(recorder, 0, filter)
        library.insert(Item("10", metadata={key: value}))
        columns.touch(np.array([101]))
        columns.find(recorder, 0, Compare((key,), "==", value))
        return recorder.statements

    plain = statements("a", 1)
    assert len(plain) == 4
    assert statements("x'; DROP TABLE docs; --", "'; DROP TABLE docs; --") == plain
    assert statements('"', '") OR 1 --') == statements("é", "\0")


def test_a_field_is_read_once_and_an_answer_is_kept_until_documents_change():
    library = library_of({"x": 1, "y": "a"}, {"x": 2, "y": "b"})
    recorder, columns = Recorder(library.db), Columns(library)

    def find(where):
        return columns.find(recorder, 0, parse(where))

    find({"x": {"$gt": 1}, "y": "b"})
    asked = len(recorder.statements)
    assert find({"x": {"$lt": 2}}).rows.tolist() == [1]
    assert find({"$or": [{"y": "a"}, {"x": 2}]}).count == 2
    assert find({"x": {"$lt": 2}}) is find({"x": {"$lt": 2}})
    assert len(recorder.statements) == asked
    library.update(2, Item("1", metadata={"x": 0}))
    columns.touch(np.array([2]))
    assert find({"x": {"$lt": 2}}).rows.tolist() == [1, 2]
    assert find({"y": {"$exists": True}}).rows.tolist() == [1]


def test_many_small_changes_are_followed_and_too_many_read_again():
    library = library_of(*({"x": number % 5} for number in range(200)))
    recorder, columns = Recorder(library.db), Columns(library)
    filter = Compare(("x",), ">", 2)
    assert columns.find(recorder, 0, filter).count == 80
    for number in range(600):  # more than are kept apart, of few rows
        row = 1 + number % 100
        library.update(row, Item(str(row), metadata={"x": number % 7}))
        columns.touch(np.array([row]))
    before = len(recorder.statements)
    assert columns.find(recorder, 0, filter).rows.tolist() == library.matching(filter)
    assert all("BETWEEN" in each for each in recorder.statements[before:])
    for row in range(201, 2001):  # more than there are documents
        library.insert(Item(str(row), metadata={"x": row % 7}))
        columns.touch(np.array([row]))
    before = len(recorder.statements)
    assert columns.find(recorder, 0, filter).rows.tolist() == library.matching(filter)
    assert not any("BETWEEN" in each for each in recorder.statements[before:])


def test_a_deletion_that_is_undone_brings_a_row_back_between_others():
    library = library_of({"x": 1}, {"x": 2}, {"x": 3})
    library.db.execute("COMMIT")
    library.db.execute("BEGIN")
    columns, filter = Columns(library), Compare(("x",), ">", 1)
    item = library.items[0, 2]
    library.delete(2)
    assert found_in(library, filter, columns) == [3]
    library.db.execute("ROLLBACK")
    library.db.execute("BEGIN")
    library.items[0, 2] = item
    columns.touch(np.array([2]))
    assert found_in(library, filter, columns) == [2, 3]


def test_deleted_rows_are_dropped_once_they_are_the_majority():
    library = library_of(*({"x": number} for number in range(20)))
    columns, filter = Columns(library), Compare(("x",), ">", 5)
    for row in range(1, 18):
        assert found_in(library, filter, columns) == library.matching(filter)
        library.delete(row)
        columns.touch(np.array([row]))
        assert found_in(library, filter, columns) == library.matching(filter)
        assert columns._tables[0].rows.size <= 2 * len(library.items)


def test_values_of_the_past_do_not_pile_up():
    library = library_of(*({"x": number, "y": number % 2} for number in range(100)))
    recorder, columns = Recorder(library.db), Columns(library)
    most = 0
    for turn in range(60):
        for row in range(1, 101):
            library.update(row, Item(str(row), metadata={"x": 1000 * turn + row, "y": turn % 2}))
        columns.touch(np.arange(1, 101))
        for filter in (Compare(("x",), "==", 1000 * turn + 7), Compare(("y",), "==", 0)):
            assert columns.find(recorder, 0, filter).rows.tolist() == library.matching(filter)
        table = columns._tables[0]
        most = max(most, table.cells)
    assert table.cells <= most < 100 * 1000  # 6000 values would be 240,000


def test_changes_of_other_namespaces_keep_the_answers():
    library = library_of({"x": 1})
    columns = Columns(library)
    before = columns.find(library.db, 0, Exists(("x",)))
    columns.touch(np.array([library.insert(Item("1", metadata={"x": 1}), namespace=1)]))
    assert columns.find(library.db, 0, Exists(("x",))) is before
    assert columns.find(library.db, 1, Exists(("x",))).rows.tolist() == [2]


def test_functions_see_only_documents_that_the_rest_of_the_filter_leaves():
    library = library_of(*({"x": number} for number in range(10)))
    seen = []

    def is_even(document):
        seen.append(document.metadata["x"])
        return document.metadata["x"] % 2 == 0

    assert found_in(library, And((Custom(is_even), Compare(("x",), ">", 6)))) == [9]
    assert seen == [7, 8, 9]
    seen.clear()
    assert found_in(library, Or((Custom(is_even), Not(Compare(("x",), ">", 6))))) == [1, 2, 3, 4, 5, 6, 7, 9]
    assert seen == [7, 8, 9]


def test_a_function_is_asked_again_each_time():
    library, answers = library_of({"x": 1}), iter([True, False])
    columns, filter = Columns(library), Custom(lambda document: next(answers))
    assert [found_in(library, filter, columns) for _ in range(2)] == [[1], []]


def test_an_error_of_a_function_leaves_filters_right():
    library = library_of({"x": 1}, {"x": 2})
    columns = Columns(library)
    with pytest.raises(ZeroDivisionError):
        found_in(library, And((Exists(("x",)), Custom(lambda document: 1 / 0))), columns)
    assert found_in(library, Compare(("x",), ">", 1), columns) == [2]


def test_a_failed_update_of_columns_leaves_filters_right(monkeypatch):
    library = library_of({"x": 1}, {"x": 2})
    columns = Columns(library)
    assert found_in(library, Compare(("x",), ">", 1), columns) == [2]
    library.update(1, Item("0", metadata={"x": 3}))
    columns.touch(np.array([1]))
    with monkeypatch.context() as patch:
        patch.setattr(values.Values, "codes_of", lambda self, values: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found_in(library, Compare(("x",), ">", 1), columns)
    assert found_in(library, Compare(("x",), ">", 1), columns) == [1, 2]


@pytest.mark.parametrize("text", ["", "{", '{"x": 1', "{'x': 1}"])
def test_filters_refuse_metadata_that_are_no_json(text):
    library = library_of({"x": 1}, {"x": 2})
    library.db.execute("UPDATE docs SET metadata = ? WHERE row = 1", (text,))
    columns = Columns(library)
    for _ in range(2):
        with pytest.raises(FileFormatError, match="damaged"):
            found_in(library, Exists(("x",)), columns)
    assert found_in(library, Exists(("x",), "more"), columns) == []


def test_filters_refuse_a_connection_without_a_transaction():
    library = library_of({"x": 1})
    library.db.execute("COMMIT")
    with pytest.raises(RuntimeError, match="transaction"):
        found_in(library, Exists(("x",)))


def test_no_documents_match_in_an_empty_namespace():
    library = library_of()
    columns = Columns(library)
    assert found_in(library, None, columns) == []
    assert columns.find(library.db, 0, Not(Exists(("x",)))).words(np.array([3, 1], np.int64)).tolist() == [0]
    columns.touch(np.array([library.insert(Item("0"))]))
    assert found_in(library, Not(Exists(("x",))), columns) == [1]


def test_many_values_that_come_one_by_one_compare_rightly():
    library, columns = library_of(), None
    columns = Columns(library)
    above, below = Compare(("x",), ">", "m"), Compare(("x",), "<", 500)
    for number in range(700):
        value = number * 37 % 700
        text = chr(97 + value % 26) + str(value)
        row = library.insert(Item(str(number), metadata={"x": text if number % 2 else value}))
        columns.touch(np.array([row]))
        if number % 50 == 0 or number > 690:
            for filter in (above, below, Like(("x",), "a%")):
                assert found_in(library, filter, columns) == library.matching(filter)


@pytest.mark.parametrize("ignore_case", [False, True])
@pytest.mark.parametrize("letters", ["ab", "aB", "a\u0130", "\u03a3\u03c3"])  # İ and Σ have other lower cases
def test_substrings_are_found_in_strings_and_not_across_them(letters, ignore_case):
    texts = ["".join(each) for length in range(4) for each in itertools.product(letters, repeat=length)]
    for order in (texts, texts[::-1], texts[::2] + texts[1::2]):
        library = library_of(*({"x": text} for text in order))
        columns = Columns(library)
        for substring in texts:
            for filter in (Contains(("x",), substring, ignore_case), Like(("x",), f"%{substring}%", ignore_case)):
                assert found_in(library, filter, columns) == library.matching(filter), substring


def test_substrings_are_found_in_strings_that_came_later():
    library = library_of(*({"x": f"{number:03}"} for number in range(200)))
    columns, filter = Columns(library), Contains(("x",), "77")
    assert found_in(library, filter, columns) == [78, 178]
    for text in ("a77", "7"):
        columns.touch(np.array([library.insert(Item("new", metadata={"x": text}))]))
        assert found_in(library, filter, columns) == library.matching(filter) == [78, 178, 201]


def test_columns_used_longest_ago_are_dropped_when_memory_is_short(monkeypatch):
    monkeypatch.setattr("vqindex.documents.columns._CELLS", 400)
    library = library_of(*({"a": number % 3, "b": number, "c": str(number)} for number in range(30)))
    recorder, columns = Recorder(library.db), Columns(library)
    for name in "abcab":
        filter = Compare((name,), "==", 1)
        assert columns.find(recorder, 0, And((filter,))).rows.tolist() == library.matching(filter)
        columns.touch(np.array([1]))
    assert len([each for each in recorder.statements if "BETWEEN" not in each and "metadata" in each]) > 3


# ---- changes


class Changes(RuleBasedStateMachine):
    """Documents change in any way; a writer's columns and those of a reader that follows commits stay right."""

    def __init__(self):
        super().__init__()
        self.library = Library()
        self.library.db.execute(changed.SCHEMA)
        self.writer, self.reader = Columns(self.library), Columns(self.library)
        self.generation = self.seen = 0
        self.touched = []
        self.committed = {}
        self.begin()

    def begin(self):
        self.library.db.execute("BEGIN")
        self.committed = dict(self.library.items)

    def touch(self, *rows):
        self.touched += rows
        self.writer.touch(np.array(rows, np.int64))

    def pick(self, data):
        return data.draw(st.sampled_from(sorted(self.library.items)))

    @rule(items=st.lists(items, min_size=1, max_size=5), namespace=st.sampled_from([0, 0, 1]))
    def insert(self, items, namespace):
        self.touch(*(self.library.insert(item, namespace) for item in items))

    @rule(data=st.data(), item=items)
    def update(self, data, item):
        if self.library.items:
            namespace, row = self.pick(data)
            self.library.update(row, item, namespace)
            self.touch(row)

    @rule(data=st.data())
    def delete(self, data):
        if self.library.items:
            namespace, row = self.pick(data)
            self.library.delete(row, namespace)
            self.touch(row)

    @rule(everything=st.booleans())
    def commit(self, everything):
        self.generation += 1
        rows = None if everything else np.array(self.touched, np.int64)
        changed.record(self.library.db, self.generation, rows)
        self.library.db.execute("COMMIT")
        self.touched = []
        self.begin()

    @rule()
    def roll_back(self):
        self.library.db.execute("ROLLBACK")
        self.library.items = dict(self.committed)
        self.writer.touch(np.array(self.touched, np.int64))
        self.touched = []
        self.begin()

    @rule(filter=filters, namespace=st.sampled_from([0, 1]))
    def writer_finds(self, filter, namespace):
        found = self.writer.find(self.library.db, namespace, filter)
        assert found.rows.tolist() == self.library.matching(filter, namespace)

    @rule(filter=filters)
    def reader_finds(self, filter):
        if self.touched:
            return
        self.reader.touch(changed.since(self.library.db, self.seen, self.generation))
        self.seen = self.generation
        assert self.reader.find(self.library.db, 0, filter).rows.tolist() == self.library.matching(filter)

    @invariant()
    def fields_that_were_read_stay_right(self):
        for filter in (Compare(("a",), ">=", 1), Exists(("b",))):
            assert self.writer.find(self.library.db, 0, filter).rows.tolist() == self.library.matching(filter)

    def teardown(self):
        self.library.db.close()


Changes.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestChanges = Changes.TestCase


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=4))
def test_ranges_cover_exactly_the_rows_that_changed(commits):
    db = sqlite3.connect(":memory:")
    db.execute(changed.SCHEMA)
    for generation, rows in enumerate(commits, 1):
        changed.record(db, generation, np.array(rows, np.int64))
    expected = {row for rows in commits for row in rows}
    assert set(changed.since(db, 0, len(commits)).tolist()) == expected
    union = changed.union_of([changed.ranges_of(np.array(rows, np.int64)) for rows in commits])
    covered = [row for first, last in union.tolist() for row in range(first, last + 1)]
    assert covered == sorted(expected)
    db.close()


def test_changes_that_were_dropped_or_too_many_are_not_known():
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute(changed.SCHEMA)
        changed.record(db, 1, np.arange(0, 20_000, 2))
        assert changed.since(db, 0, 1) is None
        for generation in range(2, 1200):
            changed.record(db, generation, np.array([generation]))
        assert changed.since(db, 1190, 1199).tolist() == list(range(1191, 1200))
        assert changed.since(db, 2, 1199) is None
        assert db.execute("SELECT count(*) FROM changes").fetchone()[0] < 1100
        assert changed.since(db, 1199, 1199).size == 0


# ---- bitmaps


@given(st.data())
@settings(deadline=None)
def test_bitmaps_stand_for_the_rows_in_the_order_of_the_index(data):
    library = library_of(*({"x": number % 3} for number in range(data.draw(st.integers(0, 80)))))
    columns = Columns(library)
    wanted = Compare(("x",), "==", data.draw(st.integers(0, 3)))
    for row in data.draw(st.sets(st.integers(1, 80))):
        if (0, row) in library.items:
            library.delete(row)
            columns.touch(np.array([row]))
            columns.find(library.db, 0, wanted)
    kinds = [
        library.rows(),
        np.arange(1, 90),
        np.array(data.draw(st.lists(st.integers(1, 100), unique=True)), np.int64),
        np.array(data.draw(st.lists(st.integers(1, 10**12), unique=True)), np.int64),
    ]
    for order in kinds:
        for _ in range(2):
            found = columns.find(library.db, 0, wanted)
            is_found = bits_of(found.words(order), order.size)
            assert is_found.tolist() == np.isin(order, library.matching(wanted)).tolist()


def test_an_order_of_as_many_rows_as_there_are_documents_may_be_of_others():
    library = library_of(*({"x": number} for number in range(4)))
    columns, filter = Columns(library), Compare(("x",), ">", 1)
    columns.find(library.db, 0, filter)
    library.delete(2)
    columns.touch(np.array([2]))
    for order in ([1, 3, 4], [4, 3, 1], [2, 3, 9]):
        words = columns.find(library.db, 0, filter).words(np.array(order, np.int64))
        assert bits_of(words, 3).tolist() == [row in (3, 4) for row in order]


def test_alignments_of_two_namespaces_do_not_mix():
    alignment = Alignment()
    order = np.array([1, 2, 3, 4], np.int64)
    live = np.ones(4, np.bool_)
    mask = np.array([True, False, False, True])
    assert bits_of(alignment.words(order.copy(), live, mask, order), 4).tolist() == mask.tolist()
    others = np.array([2, 3, 4, 5], np.int64)
    assert bits_of(alignment.words(others, live, mask, order), 4).tolist() == [False, True, False, False]


@given(scalars)
def test_a_value_is_found_by_itself_unless_it_is_nan(value):
    library = library_of({"x": value})
    assert found_in(library, Compare(("x",), "==", value)) == ([1] if value == value else [])
    assert found_in(library, Ids(("0",))) == [1]
