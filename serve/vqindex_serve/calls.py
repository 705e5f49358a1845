"""What a request asks for: a checked call of `VQIndex.search`, from JSON or from raw bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import QueryParams

import vqindex
from vqindex.arrays import as_queries

from .errors import RequestError
from .limits import Limits
from .source import Moment

__all__ = ["SearchCall", "from_json", "from_raw"]

_MOST_ID = 2**63 - 1
_LISTS = ("allow", "deny")
_DEPENDENT = frozenset({"gaussian", "orthogonal"})  # sketches whose scores depend on the batch in the last digits
_DEFAULT_K = 10
_DEFAULT_OVERSAMPLE = 4


class SearchCall(NamedTuple):
    """A call of `VQIndex.search`.

    Attributes
    ----------
    moment : Moment
        The index to search.
    queries : ndarray of float32, shape (nq, dim)
        Finite queries.
    is_single : bool
        Whether results are lists of numbers instead of lists of these.
    options : tuple of (str, value)
        Arguments by name, sorted.
    filter : object
        The argument of the search.
    """

    moment: Moment
    queries: NDArray[np.float32]
    is_single: bool
    options: tuple[tuple[str, Any], ...]
    filter: Any

    @property
    def key(self) -> tuple[Any, ...] | None:
        """What is equal for calls that one scan answers; None for a call that is searched alone."""
        names = [name for name, _ in self.options]
        if self.filter is not None or "recall" in names or self.moment.index.spec.sketch in _DEPENDENT:
            return None
        return (self.moment.number, *((name, type(value), value) for name, value in self.options))


def _flag(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


# Names of `VQIndex.search`, with what they are in a query string and in JSON.
_OPTIONS: dict[str, tuple[Callable[[str], Any], tuple[type, ...], str]] = {
    "k": (int, (int,), "a whole number"),
    "confidence": (float, (int, float), "a number above 0.5 and at most 1"),
    "rerank": (_flag, (bool,), "true or false"),
    "oversample": (float, (int, float), "a number of at least 1"),
    "effort": (int, (int,), "a whole number"),
    "recall": (float, (int, float), "a number above 0 and below 1"),
    "exact": (_flag, (bool,), "true or false"),
    "return_interval": (float, (int, float), "a number above 0 and below 1"),
}


def _refused(message: str, limit: Any = None) -> RequestError:
    return RequestError(400, "invalid" if limit is None else "limit", message, limit)


def from_json(body: bytes, moment: Moment, limits: Limits) -> SearchCall:
    """Read a call from JSON."""
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_number)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "malformed", f"the body is not JSON ({_short(error)}); expected an object") from None
    if not isinstance(found, dict):
        raise RequestError(400, "malformed", f"the body is JSON of type {type(found).__name__}; expected an object")
    if "queries" not in found:
        raise _refused("the body has no 'queries'; expected a vector, or a list of vectors")
    queries = found.pop("queries")
    if not isinstance(queries, list) or not queries:
        raise _refused(f"queries is {_short(queries)}; expected a vector, or a list of vectors")
    options = _options({name: value for name, value in found.items() if name not in _LISTS}, from_text=False)
    lists = {name: found[name] for name in _LISTS if found.get(name) is not None}
    if len(queries) > limits.queries and queries and isinstance(queries[0], list):
        raise _refused(f"{len(queries)} queries are given; expected at most {limits.queries}", limits.queries)
    return _call(queries, options, lists, moment, limits)


def from_raw(body: bytes, params: QueryParams, moment: Moment, limits: Limits) -> SearchCall:
    """Read a call from little-endian float32 numbers, and the parameters in the address."""
    lists: dict[str, list[Any]] = {}
    found: dict[str, str] = {}
    for name, text in params.multi_items():
        if name in _LISTS:
            entries = text.split(",") if text else []
            lists.setdefault(name, []).extend(entries if moment.has_string_ids else map(_id_of, entries))
        elif name in found:
            raise _refused(f"{name} is given twice; expected it once")
        else:
            found[name] = text
    row = 4 * moment.index.dim
    if not body or len(body) % row:
        raise _refused(
            f"the body has {len(body)} bytes; expected a multiple of {row}, float32 vectors of dimension "
            f"{moment.index.dim}"
        )
    queries = np.frombuffer(body, "<f4").reshape(-1, moment.index.dim)
    return _call(queries, _options(found, from_text=True), lists, moment, limits)


def _call(
    queries: Any, options: dict[str, Any], lists: Mapping[str, list[Any]], moment: Moment, limits: Limits
) -> SearchCall:
    try:
        matrix, is_single = as_queries(queries, moment.index.dim)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refused(_short(error)) from None
    assert isinstance(matrix, np.ndarray)
    if len(matrix) > limits.queries:
        raise _refused(f"{len(matrix)} queries are given; expected at most {limits.queries}", limits.queries)
    _check_limits(options, limits)
    return SearchCall(moment, matrix, is_single, tuple(sorted(options.items())), _filter(lists))


def _options(found: Mapping[str, Any], *, from_text: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"k": _DEFAULT_K}
    for name, value in found.items():
        if name not in _OPTIONS:
            known = ", ".join((*_OPTIONS, *_LISTS))
            raise _refused(f"there is no parameter {_short(name)!r}; expected some of {known}")
        parse, kinds, expected = _OPTIONS[name]
        if from_text:
            try:
                value = parse(value)
            except ValueError:
                raise _refused(f"{name} is {_short(value)!r}; expected {expected}") from None
        elif value is None:
            continue
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _refused(f"{name} is {_short(json.dumps(value))}; expected {expected}")
        options[name] = value
    return options


def _check_limits(options: Mapping[str, Any], limits: Limits) -> None:
    """Refuse what would take too long; everything else is for the search to check."""
    k = options["k"]
    if not 1 <= k <= limits.k:
        raise _refused(f"k is {_short(k)}; expected a whole number from 1 to {limits.k}", limits.k)
    if options.get("effort", 1) > limits.shortlist:
        value = _short(options["effort"])
        raise _refused(f"effort is {value}; expected at most {limits.shortlist}", limits.shortlist)
    times = options.get("oversample", _DEFAULT_OVERSAMPLE) if options.get("rerank") else 1
    if not times * k <= limits.shortlist:
        raise _refused(
            f"oversample is {_short(times)}, and k is {k}; expected a product of at most {limits.shortlist}",
            limits.shortlist,
        )


def _filter(lists: Mapping[str, list[Any]]) -> Any:
    """Return the filter of a list of ids that may be found, and of one that may not."""
    found = {}
    for name, ids in lists.items():
        if not isinstance(ids, list):
            raise _refused(f"{name} is {_short(ids)}; expected a list of ids")
        kinds = {type(id) for id in ids}
        if kinds - {int} and kinds - {str}:
            odd = next(id for id in ids if type(id) not in (int, str) or type(id) is not type(ids[0]))
            raise _refused(f"{name} holds {_short(odd)}; expected whole numbers, or strings")
        if kinds == {int} and not (min(ids) >= 0 and max(ids) <= _MOST_ID):
            odd = min(ids) if min(ids) < 0 else max(ids)
            raise _refused(f"{name} holds id {_short(odd)}; expected ids from 0 to 2**63 - 1")
        found[name] = set(ids)
    if "allow" in found:
        return found["allow"] - found.get("deny", set())
    return vqindex.exclude(found["deny"]) if found.get("deny") else None


def _id_of(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise _refused(f"{_short(text)!r} is not an id of this index; expected whole numbers")
    return int(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _refused(f"{_short(twice)} is given twice; expected it once")
    return found


def _no_number(text: str) -> Any:
    raise _refused(f"the body holds {text}; expected finite numbers")


def _short(value: Any) -> str:
    """Return a value as text that is not too long for a message."""
    try:
        text = str(value)
    except ValueError:  # an integer with too many digits to be written
        return "a number with very many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
