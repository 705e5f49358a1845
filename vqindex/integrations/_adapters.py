"""What the adapters of the frameworks share: how they open their documents, and what they refuse."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .. import documents
from ..documents import Documents
from ..errors import InvalidInputError

__all__ = ["as_ids", "no_more", "open_documents", "save", "search_options"]

# The options of `Documents.search` that a caller of an adapter may pass on.
SEARCH_OPTIONS = ("mode", "weights", "rerank", "oversample", "threads", "confidence", "effort", "recall", "exact")


def open_documents(
    folder: str | os.PathLike[str] | None, writer: str, parameters: Mapping[str, Any], **defaults: Any
) -> Documents:
    """Open the documents of an adapter.

    Parameters
    ----------
    folder : path or None
        Folder of the store; None keeps it in memory.
    writer : str
        Name of the adapter. A folder that another adapter wrote is refused.
    parameters : mapping
        Parameters of `vqindex.documents.open`; those that are None were not given.
    **defaults
        Parameters of a new store, where none were given.

    Returns
    -------
    Documents
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    return documents.open(":memory:" if folder is None else folder, writer=writer, defaults=defaults, **given)


def save(store: Documents, folder: str | os.PathLike[str] | None) -> None:
    """Commit the changes of a store, or write a copy of it to another folder."""
    if folder is not None:
        store.copy(folder)
    elif store.path is None:
        raise InvalidInputError("folder is None and the store is in memory; expected a folder to save to")
    else:
        store.commit()


def as_ids(ids: Iterable[str], name: str = "ids") -> list[str]:
    """Return ids as a list; InvalidInputError for one string, which would be an id per character."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidInputError(f"{name} is {ids!r}; expected a list of strings")
    found = list(ids)
    for each in found:
        if not isinstance(each, str):
            raise InvalidInputError(f"{name} has {each!r}; expected strings")
    return found


def no_more(call: str, arguments: Mapping[str, Any]) -> None:
    """Raise TypeError for keyword arguments that a method of a framework may have, and this one has not."""
    for name in arguments:
        raise TypeError(f"{call}() has no argument {name!r}")


def search_options(call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for `Documents.search`; TypeError for others."""
    no_more(call, {name: value for name, value in arguments.items() if name not in SEARCH_OPTIONS})
    return dict(arguments)
