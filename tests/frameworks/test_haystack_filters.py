"""Haystack's filters, translated: what they choose is what Haystack's own function chooses."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from frameworks import needs
from hypothesis import given
from hypothesis import strategies as st

needs("haystack", "haystack-ai")

from haystack import Document
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter

from vqindex.documents.filters import matches
from vqindex.integrations._haystack_filters import to_filter

ZONES = st.sampled_from(
    [None, timezone.utc, timezone(timedelta(hours=14)), timezone(timedelta(hours=-23, minutes=-59))]
)
NEAR = st.integers(-100, 100).map(lambda hours: datetime(2024, 2, 29) + timedelta(hours=hours))
TIMES = st.builds(
    lambda time, zone: time.replace(tzinfo=zone), NEAR | st.sampled_from([datetime.min, datetime.max]), ZONES
)
SPELLINGS = (
    datetime.isoformat,
    lambda time: f"{time:%Y%m%dT%H%M%S}".rjust(15, "0"),
    lambda time: time.isoformat(sep=" "),
    lambda time: f"{time.date().isoformat()}T24:00",
    lambda time: time.date().isoformat(),
    lambda time: f"{time.day} {time:%B} {time.year:04} {time:%H:%M}",
)
DATES = st.builds(lambda time, spelled: spelled(time), TIMES, st.sampled_from(SPELLINGS))
TEXTS = st.sampled_from(["", "x", "xy", "ü", "\0", "\ud800", "1", "2024-02-30", "2024-02-29x", "yesterday"]) | DATES
NUMBERS = st.sampled_from([0, 1, -1, 2, 2**53, 2**53 + 1, 0.0, 1.0, 1.5, float("inf"), float("nan"), -(10**30)])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
META = st.fixed_dictionaries(
    {}, optional={"a": VALUES, "b": VALUES, "c": st.dictionaries(st.sampled_from(["d", "e"]), VALUES)}
)
FIELDS = st.sampled_from(["meta.a", "meta.b", "meta.c", "meta.c.d", "meta.a.b", "a", "id", "content", "x.y", "meta"])
SYMBOLS = st.sampled_from(["==", "!=", ">", ">=", "<", "<=", "in", "not in"])
OPERANDS = VALUES | TIMES
COMPARISONS = st.fixed_dictionaries({"field": FIELDS, "operator": SYMBOLS, "value": OPERANDS})
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.fixed_dictionaries(
        {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(inner, max_size=3)}
    ),
    max_leaves=4,
)


def chosen(filters, meta):
    """Whether the translated filters choose a document of these metadata."""
    return matches(to_filter(filters), SimpleNamespace(id="x", text="xy", metadata=meta, more={}))


def of_haystack(filters, meta):
    """Return Haystack's answer; None where it raises, for a value or an operand that it can't compare."""
    try:
        return document_matches_filter(filters, Document(id="x", content="xy", meta=meta))
    except (FilterError, TypeError, OverflowError):
        return None


@given(COMPARISONS, META)
def test_one_comparison_chooses_what_haystack_does(filters, meta):
    expected = of_haystack(filters, meta)
    try:
        translated = chosen(filters, meta)
    except FilterError:  # an operand that compares with no value, or only with None; or that is no whole date
        assert not expected or filters["value"] == "1"
        return
    if expected is not None:
        assert translated == expected


@given(CONDITIONS, META)
def test_conditions_combine_as_in_haystack(filters, meta):
    expected = of_haystack(filters, meta)
    try:
        translated = chosen(filters, meta)
    except FilterError:
        return
    if expected is not None:
        assert translated == expected or has_incomparable_parts(filters, meta)


def has_incomparable_parts(filters, meta):
    """Whether some comparison raises in Haystack, which the condition around it never came to."""
    if "conditions" in filters:
        return any(has_incomparable_parts(each, meta) for each in filters["conditions"])
    return of_haystack(filters, meta) is None


@given(DATES, DATES, SYMBOLS)
def test_dates_compare_by_time_whatever_their_spelling(stored, value, symbol):
    filters = {"field": "meta.a", "operator": symbol, "value": [value] if "in" in symbol else value}
    expected = of_haystack(filters, {"a": stored})
    if expected is not None:
        assert chosen(filters, {"a": stored}) == expected


@pytest.mark.parametrize(
    "filters",
    [
        {"field": "meta.a"},
        {"field": "meta.a", "operator": "=="},
        {"field": "meta.a", "operator": "=~", "value": 1},
        {"field": "meta.a", "operator": "in", "value": "abc"},
        {"field": "meta.a", "operator": ">", "value": "1"},
        {"field": "meta.a", "operator": ">", "value": [1]},
        {"field": "embedding", "operator": "==", "value": None},
        {"operator": "XOR", "conditions": []},
        {"operator": "AND"},
        {"conditions": []},
        {"operator": "AND", "conditions": [3]},
        {"a": 1},
        ["meta.a"],
    ],
)
def test_malformed_filters_are_refused(filters):
    with pytest.raises(FilterError):
        to_filter(filters)
