"""Reading the body of a request: within a number of bytes and a time, whatever its head says."""

from __future__ import annotations

import anyio
from starlette.requests import ClientDisconnect, Request

from .errors import RequestError
from .limits import Limits

__all__ = ["Reader"]


class Reader:
    """Reads bodies, and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Return the body of a request; the caller calls `release` with its length.

        Raises
        ------
        RequestError
            If it is too long, comes too slowly, or if all bodies together are too long. Nothing is held then.
        ClientDisconnect
            If the client is gone.
        """
        said = request.headers.get("content-length")
        if said is not None and (not said.isascii() or not said.isdigit() or int(said[:19]) > self._limits.body):
            raise self._too_long(said[:30])
        chunks: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self._limits.read_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._held += len(chunk)
                    if size > self._limits.body:
                        raise self._too_long(f"more than {size - 1}")
                    if self._held > self._limits.bodies * self._limits.body:
                        most = self._limits.bodies * self._limits.body
                        text = f"the bodies of all requests have more than {most} bytes"
                        raise RequestError(503, "busy", text, most, {"retry-after": "1"})
                    if chunk:
                        chunks.append(chunk)
        except TimeoutError:
            self.release(size)
            seconds = self._limits.read_seconds
            text = f"only {size} bytes of the body came within {seconds:g} s; expected all of it"
            raise RequestError(408, "timeout", text, seconds) from None
        except (RequestError, ClientDisconnect):
            self.release(size)
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self, size: int) -> None:
        """Say that a body of so many bytes is no longer held."""
        self._held -= size

    def _too_long(self, said: str) -> RequestError:
        most = self._limits.body
        return RequestError(413, "limit", f"the body has {said} bytes; expected at most {most}", most)
