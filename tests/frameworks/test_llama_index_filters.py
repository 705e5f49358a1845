"""LlamaIndex's filters, translated: what they choose is what LlamaIndex's own function chooses."""

from types import SimpleNamespace

import pytest
from frameworks import needs
from hypothesis import given
from hypothesis import strategies as st

needs("llama_index.core", "llama-index-core")

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from vqindex.documents.filters import matches
from vqindex.integrations._llama_index_filters import to_filter

KEYS = ("a", "b", "c.d", "", '"', "$e")
TEXTS = st.sampled_from(["", "x", "xy", "X%", "a_b", "İ", "ß", "\0", "\ud800", "1"])
NUMBERS = st.sampled_from([0, 1, -1, 2, 2**53, 2**53 + 1, 0.0, 1.0, 1.5, float("inf"), float("nan"), -(10**30)])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2)
METADATA = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=len(KEYS))
OPERANDS = st.none() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(-1, 2), max_size=3)
FILTERS = st.builds(
    MetadataFilter, key=st.sampled_from(KEYS), value=OPERANDS, operator=st.sampled_from(list(FilterOperator))
)


def document(metadata, **more):
    return SimpleNamespace(id="n", text=None, metadata=metadata, more=more)


def of_llama_index(filters, metadata):
    """Return LlamaIndex's answer; None where it raises, for a value or an operand that it can't compare."""
    try:
        return build_metadata_filter_fn(lambda _: metadata, filters)("n")
    except TypeError:
        return None


@given(FILTERS, METADATA)
def test_one_filter_chooses_what_llama_index_does(each, metadata):
    filters = MetadataFilters(filters=[each])
    expected = of_llama_index(filters, metadata)
    try:
        translated = to_filter(filters)
    except ValueError:  # an operand that LlamaIndex can compare only with None, or by the order of lists
        assert not expected or metadata.get(each.key) is None or isinstance(each.value, list)
        return
    if expected is not None:
        assert matches(translated, document(metadata)) == expected


@given(st.lists(FILTERS, max_size=3), st.sampled_from([*FilterCondition, None]), METADATA)
def test_conditions_combine_filters_as_llama_index_does(parts, condition, metadata):
    filters = MetadataFilters(filters=parts, condition=condition)
    expected = of_llama_index(filters, metadata)
    if expected is None:
        return
    try:
        translated = to_filter(filters)
    except ValueError:
        return
    assert (translated is None or matches(translated, document(metadata))) == expected


@given(st.lists(FILTERS, min_size=1, max_size=2), st.lists(FILTERS, max_size=2), METADATA)
def test_nested_filters_are_evaluated_one_inside_the_other(outer, inner, metadata):
    nested = MetadataFilters(filters=inner, condition=FilterCondition.OR)
    alone, of_nested = of_llama_index(MetadataFilters(filters=outer), metadata), of_llama_index(nested, metadata)
    if alone is None or of_nested is None:
        return
    try:
        translated = to_filter(MetadataFilters(filters=[*outer, nested]))
    except ValueError:
        return
    assert matches(translated, document(metadata)) == (alone and of_nested)


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_the_three_names_of_the_source_document_are_filters_of_it(key):
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value="source")])
    assert matches(to_filter(filters), document({}, ref_doc_id="source"))
    assert not matches(to_filter(filters), document({key: "source"}, ref_doc_id="other"))


@pytest.mark.parametrize(
    ("symbol", "value"), [("<", None), (">", ["a"]), ("in", 3), ("nin", None), ("any", 3), ("text_match", 1)]
)
def test_an_operand_of_the_wrong_type_is_refused(symbol, value):
    filters = MetadataFilters(filters=[MetadataFilter(key="a", value=value, operator=symbol)])
    with pytest.raises(ValueError, match=f"'{symbol}' on 'a' is .*; expected"):
        to_filter(filters)


def test_filters_of_another_type_are_refused():
    with pytest.raises(ValueError, match="expected MetadataFilters"):
        to_filter({"a": 1})
