"""The nodes of filters, the dialect of `Documents`, and what conditions mean."""

import contextlib
import dataclasses
import enum
import itertools
import re
import sqlite3
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqindex.documents.dialect import OPERATORS
from vqindex.documents.filters import (
    And,
    Between,
    Compare,
    Contains,
    Custom,
    Empty,
    Exists,
    Ids,
    In,
    Like,
    Not,
    Or,
    TextMatch,
    matches,
    parse,
)
from vqindex.documents.meaning import like, words_of_text
from vqindex.errors import InvalidInputError

from .support.filter_cases import Item, patterns, scalars

NAN = float("nan")


# ---- nodes


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), (1.0, True), (1, "1"), (None, False), (None, "None"), ("", None)]
)
def test_nodes_of_values_that_mean_other_things_differ(one, other):
    assert Compare(("x",), "==", one) != Compare(("x",), "==", other)
    assert In(("x",), (one,)) != In(("x",), (other,))
    assert len({Not(In(("x",), (one,))), Not(In(("x",), (other,)))}) == 2


def test_nodes_of_values_that_mean_the_same_are_equal():
    assert Compare(("x",), "==", 1) == Compare(("x",), "==", 1.0)
    assert hash(And((Compare(("x",), "==", 1),))) == hash(And((Compare(("x",), "==", 1.0),)))
    assert Exists(("x",)) != Exists(("x",), "more")
    assert Exists(("x",)) != Empty(("x",))
    assert And(()) != Or(())


def test_nodes_can_not_be_changed():
    node = Compare(("x",), "==", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.value = 2


class Color(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
    ],
)
def test_values_of_nodes_become_plain(given, plain):
    for value in (Compare(("x",), "==", given).value, In(("x",), (given,)).values[0], Between(("x",), given, 0).low):
        assert value == plain
        assert type(value) is type(plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda: And([Exists(("x",))]),
        lambda: Or((Exists(("x",)), "x")),
        lambda: Not({"x": 1}),
        lambda: Exists("x"),
        lambda: Exists(()),
        lambda: Exists(("x", 1)),
        lambda: Exists(("x",), "text"),
        lambda: Compare(("x",), "=", 1),
        lambda: Compare(("x",), "==", [1]),
        lambda: Compare(("x",), "==", b"a"),
        lambda: Compare(("x",), "==", np.datetime64("2024-01-01")),
        lambda: Compare(("x",), "==", 1j),
        lambda: In(("x",), [1]),
        lambda: In(("x",), ((1,),)),
        lambda: Between(("x",), 1, {}),
        lambda: Contains(("x",), [1]),
        lambda: Contains(("x",), "a", "yes"),
        lambda: Like(("x",), 1),
        lambda: Like(("x",), "a", 1),
        lambda: TextMatch(None),
        lambda: Ids("abc"),
        lambda: Ids((1,)),
        lambda: Custom("x"),
    ],
)
def test_malformed_nodes_are_refused(make):
    with pytest.raises(InvalidInputError, match="expected"):
        make()


# ---- the dialect

X = ("x",)


@pytest.mark.parametrize(
    ("where", "tree"),
    [
        (None, None),
        ({}, None),
        ({"x": 1}, Compare(X, "==", 1)),
        ({"x": None}, Compare(X, "==", None)),
        ({"x.y": 1}, Compare(("x.y",), "==", 1)),
        ({"": "a"}, Compare(("",), "==", "a")),
        ({"x": {"$eq": 1}}, Compare(X, "==", 1)),
        ({"x": {"$ne": 1}}, Compare(X, "!=", 1)),
        ({"x": {"$gt": 1, "$lte": 5}}, And((Compare(X, ">", 1), Compare(X, "<=", 5)))),
        ({"x": {"$gte": 1}, "y": {"$lt": 5}}, And((Compare(X, ">=", 1), Compare(("y",), "<", 5)))),
        ({"x": {"$in": [1, "a", None]}}, In(X, (1, "a", None))),
        ({"x": {"$in": []}}, In(X, ())),
        ({"x": {"$nin": (1,)}}, Not(In(X, (1,)))),
        ({"x": {"$exists": True}}, Exists(X)),
        ({"x": {"$exists": False}}, Not(Exists(X))),
        ({"x": {"$between": [1, 5]}}, Between(X, 1, 5)),
        ({"x": {"$contains": "a"}}, Contains(X, "a")),
        ({"x": {"$like": "a%"}}, Like(X, "a%")),
        ({"x": {"$ilike": "a%"}}, Like(X, "a%", True)),
        ({"x": {"$not": {"$gt": 1}}}, Not(Compare(X, ">", 1))),
        ({"$not": {"x": 1}}, Not(Compare(X, "==", 1))),
        ({"$and": [{"x": 1}, {"x": 2}]}, And((Compare(X, "==", 1), Compare(X, "==", 2)))),
        ({"$or": [{"x": 1}, Exists(("y",))]}, Or((Compare(X, "==", 1), Exists(("y",))))),
        ({"$or": [{"x": 1}], "y": 2}, And((Or((Compare(X, "==", 1),)), Compare(("y",), "==", 2)))),
        ({"x": {"y": {"z": 1}}}, Compare(("x", "y", "z"), "==", 1)),
        ({"x": {"y": {"$gt": 1}, "z": 2}}, And((Compare(("x", "y"), ">", 1), Compare(("x", "z"), "==", 2)))),
        (TextMatch("fox"), TextMatch("fox")),
        (len, Custom(len)),
        ({"$or": [len, {"x": 1}]}, Or((Custom(len), Compare(X, "==", 1)))),
    ],
)
def test_mappings_are_parsed_into_trees(where, tree):
    assert parse(where) == tree


@pytest.mark.parametrize(
    "where",
    [
        {"$foo": 1},
        {"$gt": 1},
        {"x": {"$foo": 1}},
        {"x": {"$gt": 1, "$foo": 1}},
        {"x": {"$and": [{"$gt": 1}]}},
        {"x": {"$gt": 1, "y": 2}},
        {"x": {"y": {"$or": []}}},
        {"x": {}},
        {"x": {"y": {}}},
        {"x": {1: 2}},
        {1: 2},
        {"x": [1, 2]},
        {"x": {"$eq": [1]}},
        {"x": {"$gt": {"$gt": 1}}},
        {"x": {"$in": 1}},
        {"x": {"$in": "abc"}},
        {"x": {"$in": [[1]]}},
        {"x": {"$exists": 1}},
        {"x": {"$between": [1]}},
        {"x": {"$between": 5}},
        {"x": {"$like": None}},
        {"x": {"$not": 1}},
        {"x": {"$not": {}}},
        {"$and": []},
        {"$or": {"x": 1}},
        {"$or": [{}]},
        {"$or": [1]},
        {"$not": {}},
        {"$not": [{"x": 1}]},
        {"x": time.gmtime},
        [],
        "x",
        5,
        True,
    ],
)
def test_malformed_filters_are_refused(where):
    with pytest.raises(InvalidInputError, match="expected"):
        parse(where)


def test_an_unknown_operator_is_named_with_those_that_are_known():
    with pytest.raises(InvalidInputError, match=r"'x' has the operator '\$regex'") as error:
        parse({"x": {"$regex": "a"}})
    assert all(operator in str(error.value) for operator in OPERATORS)


@pytest.mark.parametrize("wrap", [lambda it: {"$not": it}, lambda it: {"$and": [it]}, lambda it: {"x": it}])
def test_filters_that_are_nested_too_deep_are_refused(wrap):
    where = {"x": 1}
    for _ in range(50):
        where = wrap(where)
    assert parse(where) is not None
    for _ in range(5000):
        where = wrap(where)
    with pytest.raises(InvalidInputError, match="deep"):
        parse(where)


# ---- the meaning


@pytest.mark.parametrize(
    ("where", "metadata", "expected"),
    [
        ({"x": None}, {"x": None}, True),
        ({"x": None}, {}, False),
        ({"x": {"$ne": None}}, {}, True),
        ({"x": {"$exists": True}}, {"x": None}, True),
        ({"x": True}, {"x": 1}, False),
        ({"x": 0}, {"x": False}, False),
        ({"x": 1}, {"x": 1.0}, True),
        ({"x": 2**53}, {"x": 2**53 + 1}, False),
        ({"x": {"$gt": 2.0**53}}, {"x": 2**53 + 1}, True),
        ({"x": NAN}, {"x": NAN}, False),
        ({"x": {"$ne": NAN}}, {"x": NAN}, True),
        ({"x": {"$gte": NAN}}, {"x": NAN}, False),
        ({"x": {"$ne": 1}}, {}, True),
        ({"x": {"$nin": [1]}}, {}, True),
        ({"x": {"$gt": 1}}, {}, False),
        ({"x": {"$not": {"$gt": 1}}}, {}, True),
        ({"x": {"$gt": 1}}, {"x": "2"}, False),
        ({"x": {"$gt": False}}, {"x": True}, False),
        ({"x": {"$lt": "b"}}, {"x": "a"}, True),
        ({"x": {"$lt": "\U0001f600"}}, {"x": "\uffff"}, True),
        ({"x": {"$between": [1, 2]}}, {"x": 2}, True),
        ({"x": {"$between": [1, "2"]}}, {"x": 1}, False),
        ({"x": {"$between": ["2024-01-01", "2024-12-31"]}}, {"x": "2024-06-01"}, True),
        ({"x": {"$contains": 1}}, {"x": [True, 1.0]}, True),
        ({"x": {"$contains": 1}}, {"x": [True]}, False),
        ({"x": {"$contains": "b"}}, {"x": "abc"}, True),
        ({"x": {"$contains": "b"}}, {"x": ["abc"]}, False),
        ({"x": {"$contains": None}}, {"x": [None]}, True),
        ({"x": {"$contains": 1}}, {"x": "1"}, False),
        ({"x": {"$like": "a%c"}}, {"x": "abbc"}, True),
        ({"x": {"$like": "a_c"}}, {"x": "abbc"}, False),
        ({"x": {"$like": "A%"}}, {"x": "abc"}, False),
        ({"x": {"$ilike": "ÀB%"}}, {"x": "àbc"}, True),
        ({"x": {"$like": "%"}}, {"x": 1}, False),
        ({"x": {"y": 1}}, {"x": {"y": 1}}, True),
        ({"x": {"y": 1}}, {"x.y": 1}, False),
        ({"x": {"0": 1}}, {"x": [1]}, False),
        (Empty(X), {"x": ""}, True),
        (Empty(X), {"x": []}, True),
        (Empty(X), {"x": None}, False),
        (Empty(X), {"x": {}}, False),
        (Empty(X), {}, False),
        (Contains(X, "AB", True), {"x": "xaby"}, True),
        (Contains(X, "AB", True), {"x": ["ab"]}, False),
        (And(()), {}, True),
        (Or(()), {}, False),
    ],
)
def test_conditions_mean_what_they_say(where, metadata, expected):
    filter = parse(where)
    assert matches(filter, Item("1", metadata=metadata)) is expected
    assert matches(Not(filter), Item("1", metadata=metadata)) is not expected


def test_conditions_of_ids_texts_more_and_functions():
    document = Item("7", "The Quick-Brown fôx", {"x": 1}, {"x": 2})
    assert matches(Ids(("3", "7")), document)
    assert not matches(Ids(()), document)
    assert matches(TextMatch("FOX, quick!"), document)
    assert not matches(TextMatch("fox cub"), document)
    assert not matches(TextMatch("..."), document)
    assert not matches(TextMatch("fox"), Item("1"))
    assert matches(Compare(X, "==", 2, "more"), document)
    assert matches(Custom(lambda each: each.text), document)


@given(scalars, scalars)
def test_one_of_less_equal_and_greater_holds_or_the_values_have_no_order(value, operand):
    holds = [matches(Compare(X, op, operand), Item("1", metadata={"x": value})) for op in ("<", "==", ">")]
    have_order = type(value) is type(operand) is str or all(type(each) in (int, float) for each in (value, operand))
    if have_order and value == value and operand == operand:
        assert sum(holds) == 1
    else:
        assert not holds[0]
        assert not holds[2]
    for operator, both in (("<=", holds[0]), (">=", holds[2])):
        expected = both or (have_order and holds[1])
        assert matches(Compare(X, operator, operand), Item("1", metadata={"x": value})) == expected


@given(patterns, st.text(st.sampled_from("abé.*\\\n\0%"), max_size=8), st.booleans())
@settings(max_examples=500)
def test_patterns_match_as_the_regular_expression_they_stand_for(pattern, text, ignore_case):
    expression = "".join({"%": ".*", "_": "."}.get(each) or re.escape(each) for each in pattern)
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    assert bool(like(pattern, ignore_case)(text)) == (re.fullmatch(expression, text, flags) is not None)


def test_all_short_patterns_match_as_their_regular_expressions():
    texts = ["".join(each) for length in range(5) for each in itertools.product("ab", repeat=length)]
    patterns = ["".join(each) for length in range(6) for each in itertools.product("ab%_", repeat=length)]
    for pattern in patterns:
        expression = re.compile(pattern.replace("%", ".*").replace("_", "."))
        test = like(pattern, False)
        assert [bool(test(text)) for text in texts] == [bool(expression.fullmatch(text)) for text in texts], pattern


def test_a_pattern_of_many_wildcards_takes_little_time():
    start = time.process_time()
    assert not like("%a" * 100 + "%b", False)("a" * 2000)
    assert time.process_time() - start < 2  # a regular expression with .* would not end this year


WORDS = st.text(
    st.sampled_from("abzABZ019éÉôñåΩωЖж日本語_-.,'\"\n\t ")
    | st.characters(codec="latin-1", exclude_categories=["C", "Sk"], exclude_characters="µ")
)


@given(WORDS)
@settings(max_examples=300, deadline=None)
def test_words_are_those_of_the_tokenizer_of_sqlite(text):
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize='unicode61 remove_diacritics 2')")
        db.execute("CREATE VIRTUAL TABLE seen USING fts5vocab (words, instance)")
        db.execute("INSERT INTO words VALUES (?)", (text,))
        found = [term for (term,) in db.execute("SELECT term FROM seen ORDER BY offset")]
        assert len(words_of_text(text)) == len(found)
        words = " AND ".join(f'"{word}"' for word in words_of_text(text))
        assert not words or db.execute("SELECT 1 FROM words WHERE words MATCH ?", (words,)).fetchone()
        for term in found:
            assert matches(TextMatch(term), Item("1", text))


def test_a_text_has_the_words_that_are_written_with_other_marks_and_case():
    assert matches(TextMatch("ECOLE d'été"), Item("1", "d'ete: école"))
    assert words_of_text("L'École, 2 e\u0301te\u0301s_à") == ["L", "École", "2", "e\u0301te\u0301s", "à"]
