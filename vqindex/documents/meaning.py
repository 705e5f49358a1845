"""What filters mean: `matches` is the slow, plain definition that the columns of documents are tested against."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any, Protocol

from .tree import (
    And,
    Between,
    Compare,
    Contains,
    Custom,
    Empty,
    Exists,
    Field,
    Filter,
    Ids,
    In,
    Like,
    Not,
    Or,
    Path,
    Scalar,
    TextMatch,
)

__all__ = ["MISSING", "equal", "has_substring", "is_ordered", "like", "matches", "test_of", "value_at", "words_of_text"]

_WORD_CATEGORIES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Co", "Mn"))

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


class _Document(Protocol):
    """What a filter reads of a document."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def more(self) -> dict[str, Any]: ...


def matches(filter: Filter, document: _Document) -> bool:
    """Say whether a document satisfies a filter.

    Parameters
    ----------
    filter : Filter
        A filter.
    document : object
        Something with the attributes ``id``, ``text``, ``metadata`` and ``more``.

    Returns
    -------
    bool
        Whether the document satisfies the filter.
    """
    if isinstance(filter, And):
        return all(matches(part, document) for part in filter.parts)
    if isinstance(filter, Or):
        return any(matches(part, document) for part in filter.parts)
    if isinstance(filter, Not):
        return not matches(filter.part, document)
    if isinstance(filter, Ids):
        return document.id in filter.ids
    if isinstance(filter, TextMatch):
        requested = _folded_words(filter.text)
        return bool(requested) and requested <= _folded_words(document.text or "")
    if isinstance(filter, Custom):
        return bool(filter.function(document))
    assert isinstance(filter, Field)
    return test_of(filter)(value_at(getattr(document, getattr(filter, "source")), filter.path))  # noqa: B009


def value_at(metadata: Mapping[str, Any], path: Path) -> Any:
    """Return the value of a field; MISSING if it is not there."""
    value: Any = metadata
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value


def test_of(filter: Field) -> Callable[[Any], bool]:
    """Return the predicate of a field's value (MISSING if it has none) that a condition stands for."""
    if isinstance(filter, Exists):
        return lambda value: value is not MISSING
    if isinstance(filter, Compare):
        operator, operand = filter.operator, filter.value
        if operator == "==":
            return lambda value: equal(value, operand)
        if operator == "!=":
            return lambda value: not equal(value, operand)
        return lambda value: is_ordered(value, operator, operand)
    if isinstance(filter, In):
        values = filter.values
        return lambda value: any(equal(value, each) for each in values)
    if isinstance(filter, Between):
        low, high = filter.low, filter.high
        return lambda value: is_ordered(value, ">=", low) and is_ordered(value, "<=", high)
    if isinstance(filter, Contains):
        return _contains(filter.value, filter.ignore_case)
    if isinstance(filter, Empty):
        return lambda value: isinstance(value, str | list) and not value
    assert isinstance(filter, Like)
    test = like(filter.pattern, filter.ignore_case)
    return lambda value: isinstance(value, str) and bool(test(value))


def equal(value: Any, operand: Scalar) -> bool:
    """Whether a stored value equals the value of a filter."""
    if operand is None or isinstance(operand, bool):
        return value is operand
    if isinstance(operand, str):
        return isinstance(value, str) and value == operand
    return _is_number(value) and bool(value == operand)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_ordered(value: Any, operator: str, operand: Scalar) -> bool:
    """Whether two values have an order, and it is that of <, <=, > or >=."""
    both_strings = isinstance(value, str) and isinstance(operand, str)
    if not both_strings and not (_is_number(value) and _is_number(operand)):
        return False
    if operator == "<":
        return bool(value < operand)
    if operator == "<=":
        return bool(value <= operand)
    return bool(value > operand) if operator == ">" else bool(value >= operand)


def _contains(operand: Scalar, ignore_case: bool) -> Callable[[Any], bool]:
    test = has_substring(operand, ignore_case) if isinstance(operand, str) else None

    def contains(value: Any) -> bool:
        if isinstance(value, str):
            return test is not None and bool(test(value))
        return isinstance(value, list) and any(equal(each, operand) for each in value)

    return contains


def has_substring(substring: str, ignore_case: bool) -> Callable[[str], object]:
    """Return the test whether a string has a substring; without regard to case, both in lower case."""
    if not ignore_case:
        return methodcaller("__contains__", substring)
    lower = substring.lower()
    return lambda text: lower in text.lower()


def like(pattern: str, ignore_case: bool) -> Callable[[str], object]:
    """Return the test of a pattern where % stands for any text and _ for any one character.

    Each text between two % is searched for from the left, behind the one before. This finds a match whenever there is
    one, in time proportional to the length of the text times that of the pattern, whatever the pattern.
    """
    texts = pattern.split("%")
    simple = None if ignore_case or "_" in pattern else _simple_pattern(texts)
    if simple is not None:
        return simple
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    parts = [re.compile("".join("." if c == "_" else re.escape(c) for c in text), flags) for text in texts]
    if len(parts) == 1:
        return parts[0].fullmatch
    first, last = len(texts[0]), len(texts[-1])

    def test(text: str) -> bool:
        at, end = first, len(text) - last
        if end < first or not parts[0].match(text) or not parts[-1].match(text, end):
            return False
        for part in parts[1:-1]:
            found = part.search(text, at, end)
            if found is None:
                return False
            at = found.end()
        return True

    return test


def _simple_pattern(texts: list[str]) -> Callable[[str], object] | None:
    """Return the test of text%, %text or %text%, by a method of strings; None for other patterns."""
    if len(texts) == 2 and not (texts[0] and texts[1]):
        return methodcaller("startswith", texts[0]) if texts[0] else methodcaller("endswith", texts[1])
    if len(texts) == 3 and not texts[0] and not texts[2]:
        return methodcaller("__contains__", texts[1])
    return None


def words_of_text(text: str) -> list[str]:
    """Return the words of a text, as written: runs of letters, digits, and the marks on them."""
    kept = (each if unicodedata.category(each) in _WORD_CATEGORIES else " " for each in text)
    return [word for word in "".join(kept).split(" ") if word]


def _folded_words(text: str) -> set[str]:
    """Return the words of a text without case and accents, about as FTS5's tokenizer ``unicode61`` does."""
    plain = (each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
    return set(words_of_text("".join(plain)))
