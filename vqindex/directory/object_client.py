"""What an index asks of an object store: seven requests. `obstore_client.ObstoreClient` makes them.

All names are relative to one prefix of one bucket, and hold no separators. Times are the store's own, in seconds since
1970: the clocks of the machines that write are never compared.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["ConditionFailed", "ObjectClient", "ObjectEntry", "StoredObject"]


class ConditionFailed(Exception):  # noqa: N818 - never seen by users
    """A conditional put found another object, or none. It wrote nothing; an earlier try may have."""


class StoredObject(NamedTuple):
    """An object that was read whole.

    Attributes
    ----------
    data : bytes
        Its bytes.
    tag : str
        Its entity tag.
    modified : float
        When it was written.
    """

    data: bytes
    tag: str
    modified: float


class ObjectEntry(NamedTuple):
    """A line of a listing.

    Attributes
    ----------
    name : str
        Its name.
    size : int
        Its bytes.
    modified : float
        When it was written.
    """

    name: str
    size: int
    modified: float


class ObjectClient(Protocol):
    """Requests to one prefix of a bucket.

    Every request raises `StorageError` if the store refuses it or does not answer. The outcome of a put or a delete is
    then unknown.
    """

    url: str
    """The bucket and the prefix, for messages; without credentials."""

    def get(self, name: str) -> StoredObject:
        """Return an object; FileNotFoundError if there is none."""

    def get_ranges(self, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        """Return ranges of an object's bytes, shorter ones where it ends; FileNotFoundError if there is none."""

    def entry(self, name: str) -> ObjectEntry:
        """Return the size and the time of an object; FileNotFoundError if there is none."""

    def put_new(self, name: str, data: bytes) -> str:
        """Create an object and return its tag; ConditionFailed if the name is taken."""

    def put_if(self, name: str, data: bytes, tag: str) -> str:
        """Replace the object of an entity tag and return the new tag; ConditionFailed if another one is there."""

    def list(self) -> list[ObjectEntry]:
        """Return all objects directly under the prefix, sorted by name."""

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens if there is none."""
