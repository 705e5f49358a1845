"""Object stores through the package obstore: S3 and what speaks its protocol, Google Cloud Storage, Azure, and memory.

The messages of obstore may quote requests, and with them signatures. So errors are raised anew, with the URL, the
status and the store's code of the error, and nothing else of the original message.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import InvalidInputError, StorageError
from .object_client import ConditionFailed, ObjectEntry, StoredObject

__all__ = ["ObstoreClient", "is_url"]

Answer = TypeVar("Answer")

SCHEMES = ("s3", "gs", "az", "memory")
_URL = re.compile(r"(s3|gs|az)://([^/]+)(?:/(.*))?|memory:(?://)?/?(.*)", re.DOTALL)
_EXPECTED = "expected s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or memory:name"
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\"(?:code|reason)\": ?\"(\w{1,60})\"")
_STATUS = re.compile(r"status code: (\d{3})")
_REASONS = {
    "NoSuchBucket": "there is no such bucket",
    "ContainerNotFound": "there is no such container",
    "notFound": "there is no such bucket",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the credentials are wrong",
    "AuthenticationFailed": "the credentials are wrong",
    "ExpiredToken": "the credentials have expired",
    "AccessDenied": "these credentials may not do this",
}
_SEPARATOR = "\n"
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_memories: dict[str, Any] = {}  # stores in the memory of this process, by their names
_lock = threading.Lock()


def is_url(path: object) -> bool:
    """Whether this is the URL of a bucket, or at least meant to be one."""
    return isinstance(path, str) and re.match(rf"({'|'.join(SCHEMES)}):", path) is not None


def _parsed(url: str) -> re.Match[str]:
    """Return the parts of a URL; a refusal does not repeat what could be a credential."""
    found = _URL.fullmatch(url)
    if found is None or "\0" in url:
        raise InvalidInputError(f"the URL of the index is not one of a bucket; {_EXPECTED}")
    if re.search(r"[@?#]", url):
        raise InvalidInputError(
            f"the URL of the index has a user, a query or a fragment; {_EXPECTED}, and credentials in storage_options "
            "or in the environment"
        )
    path = (found[3] or "").removesuffix("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidInputError(f"{url} has an empty part, '.' or '..' in its path; {_EXPECTED}")
    return found


def _imported(url: str) -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        need = "" if sys.version_info >= (3, 11) else " (it needs Python 3.11 or newer)"
        raise ImportError(
            f"{url} needs the package obstore, which can't be imported{need}: {error}; "
            "install it with: pip install 'vqindex[s3]'"
        ) from None
    return obstore


def _reason(error: Exception) -> str:
    """Return what went wrong in our own words: no part of the message but a status and a code."""
    text = str(error)
    code = _CODE.search(text)
    status = _STATUS.search(text)
    name = "" if code is None else code[1] or code[2]
    if name in _REASONS:
        return f"{_REASONS[name]} ({name})"
    for sign, reason in (
        ("dns error", "its host name is not known"),
        ("tcp connect error", "nobody answers there; is the network up, and the endpoint right?"),
        ("timed out", "it did not answer in time"),
        ("169.254.169.254", "no credentials were found, in storage_options, the environment or on this machine"),
        ("error sending request", "the network or the server failed"),
    ):
        if sign in text:
            return reason
    shown = [] if status is None else [f"status {status[1]}"]
    return f"the store refused it ({', '.join([*shown, name or type(error).__name__])})"


class ObstoreClient:
    """Requests by obstore.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://account/container/prefix`` or ``memory:name``, which is
        in the memory of this process.
    options : mapping, optional
        Passed on to obstore: the settings of the store, such as ``region`` or ``endpoint``, and ``client_options``,
        ``retry_config`` and ``credential_provider``.

    Raises
    ------
    ImportError
        If obstore is not installed.
    InvalidInputError
        If the URL or the options are not valid.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        found = _parsed(url)
        self._obstore = _imported(url)
        self.is_memory = found[1] is None
        self.url = f"memory:{found[4].strip('/')}" if self.is_memory else url.rstrip("/")
        self._store: Any = self._memory() if self.is_memory else self._connected(dict(options or {}))

    def __repr__(self) -> str:
        return f"<ObstoreClient of {self.url}>"  # and nothing of its options

    def _memory(self) -> Any:
        with _lock:
            if self.url not in _memories:
                _memories[self.url] = self._obstore.store.MemoryStore()
            return _memories[self.url]

    def _connected(self, options: dict[str, Any]) -> Any:
        # A commit that waits for long says so; a lost answer is looked into by the caller.
        options.setdefault("retry_config", {"max_retries": 5, "retry_timeout": timedelta(seconds=60)})
        try:
            return self._obstore.store.from_url(self.url, **options)
        except (self._obstore.exceptions.BaseError, TypeError, ValueError) as error:
            names = ", ".join(sorted(map(repr, options)))
            raise InvalidInputError(
                f"{self.url} can't be used with storage_options {names} ({type(error).__name__}); expected the "
                "settings of obstore"
            ) from None

    def describe(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}" if name else self.url

    def _asked(self, name: str, request: Callable[[], Answer]) -> Answer:
        """Make a request; raise its errors anew."""
        errors = self._obstore.exceptions
        failure: Exception
        try:
            return request()
        except (errors.AlreadyExistsError, errors.PreconditionError):
            failure = ConditionFailed(self.describe(name))
        except FileNotFoundError as error:
            failure = FileNotFoundError(2, "there is no such object", self.describe(name))
            if any(code in str(error) for code in _NO_BUCKET):
                failure = StorageError(f"{self.describe(name)}: {_reason(error)}")
        except (errors.BaseError, OSError, ValueError, RuntimeError) as error:
            failure = StorageError(f"{self.describe(name)}: {_reason(error)}")
        raise failure  # outside of the handler: the original error would be shown with it

    def get(self, name: str) -> StoredObject:
        """Return an object."""

        def request() -> StoredObject:
            got = self._obstore.get(self._store, name)
            return StoredObject(bytes(got.bytes()), _tag(got.meta), got.meta["last_modified"].timestamp())

        return self._asked(name, request)

    def get_ranges(self, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        """Return ranges of an object's bytes."""

        def request() -> list[bytes]:
            return [bytes(part) for part in self._obstore.get_ranges(self._store, name, starts=starts, ends=ends)]

        return self._asked(name, request)

    def entry(self, name: str) -> ObjectEntry:
        """Return the size and the time of an object."""
        return self._asked(name, lambda: _entry(self._obstore.head(self._store, name), name))

    def put_new(self, name: str, data: bytes) -> str:
        """Create an object."""
        return self._put(name, data, "create")

    def put_if(self, name: str, data: bytes, tag: str) -> str:
        """Replace an object."""
        e_tag, _, version = tag.partition(_SEPARATOR)  # Google Cloud Storage compares versions, the others entity tags
        return self._put(name, data, {"e_tag": e_tag, **({"version": version} if version else {})})

    def _put(self, name: str, data: bytes, mode: Any) -> str:
        def request() -> str:
            return _tag(self._obstore.put(self._store, name, data, mode=mode, use_multipart=False))

        return self._asked(name, request)

    def list(self) -> list[ObjectEntry]:
        """Return all objects directly under the prefix."""

        def request() -> list[ObjectEntry]:
            found = self._obstore.list_with_delimiter(self._store)["objects"]
            return sorted(_entry(each, each["path"]) for each in found)

        return self._asked("", request)

    def delete(self, name: str) -> None:
        """Delete an object."""
        try:
            self._asked(name, lambda: self._obstore.delete(self._store, name))
        except FileNotFoundError:
            return


def _tag(meta: Any) -> str:
    if not meta["e_tag"]:
        raise ValueError("the store returns no entity tags")
    return _SEPARATOR.join(filter(None, (meta["e_tag"], meta.get("version"))))


def _entry(meta: Any, name: str) -> ObjectEntry:
    return ObjectEntry(name, meta["size"], meta["last_modified"].timestamp())
