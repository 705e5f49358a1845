"""What filters mean: `matches` is the slow, plain definition that the columns of documents are tested against."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
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

__all__ = ["MISSING", "equal", "like", "matches", "test_of", "value_at", "words_of_text"]

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
        return lambda value: _ordered(value, operator, operand)
    if isinstance(filter, In):
        values = filter.values
        return lambda value: any(equal(value, each) for each in values)
    if isinstance(filter, Between):
        low, high = filter.low, filter.high
        return lambda value: _ordered(value, ">=", low) and _ordered(value, "<=", high)
    if isinstance(filter, Contains):
        return _contains(filter.value, filter.ignore_case)
    if isinstance(filter, Empty):
        return lambda value: isinstance(value, str | list) and not value
    assert isinstance(filter, Like)
    test = like(filter.pattern, filter.ignore_case)
    return lambda value: isinstance(value, str) and test(value)


def equal(value: Any, operand: Scalar) -> bool:
    """Whether a stored value equals the value of a filter."""
    if operand is None or isinstance(operand, bool):
        return value is operand
    if isinstance(operand, str):
        return isinstance(value, str) and value == operand
    return _is_number(value) and bool(value == operand)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(value: Any, operator: str, operand: Scalar) -> bool:
    both_strings = isinstance(value, str) and isinstance(operand, str)
    if not both_strings and not (_is_number(value) and _is_number(operand)):
        return False
    if operator == "<":
        return bool(value < operand)
    if operator == "<=":
        return bool(value <= operand)
    return bool(value > operand) if operator == ">" else bool(value >= operand)


def _contains(operand: Scalar, ignore_case: bool) -> Callable[[Any], bool]:
    substring = operand.lower() if ignore_case and isinstance(operand, str) else operand

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return isinstance(substring, str) and substring in (value.lower() if ignore_case else value)
        return isinstance(value, list) and any(equal(each, operand) for each in value)

    return test


def like(pattern: str, ignore_case: bool) -> Callable[[str], bool]:
    """Return the test of a pattern where % stands for any text and _ for any one character.

    Each text between two % is searched for from the left, behind the one before. This finds a match whenever there is
    one, in time proportional to the length of the text times that of the pattern, whatever the pattern.
    """
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    parts = [
        re.compile("".join("." if character == "_" else re.escape(character) for character in part), flags)
        for part in pattern.split("%")
    ]
    lengths = [len(part) for part in pattern.split("%")]
    if len(parts) == 1:
        return lambda text: parts[0].fullmatch(text) is not None

    def test(text: str) -> bool:
        end = len(text) - lengths[-1]
        if end < lengths[0] or not parts[0].match(text) or not parts[-1].match(text, end):
            return False
        at = lengths[0]
        for part in parts[1:-1]:
            found = part.search(text, at, end)
            if found is None:
                return False
            at = found.end()
        return True

    return test


def words_of_text(text: str) -> list[str]:
    """Return the words of a text, as written: runs of letters, digits, and the marks on them."""
    kept = (each if unicodedata.category(each) in _WORD_CATEGORIES else " " for each in text)
    return [word for word in "".join(kept).split(" ") if word]


def _folded_words(text: str) -> set[str]:
    """Return the words of a text without case and accents, about as FTS5's tokenizer ``unicode61`` does."""
    plain = (each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
    return set(words_of_text("".join(plain)))
