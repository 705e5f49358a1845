"""The gate: who may come in, how many searches at a time, errors as JSON, and what is counted."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import error_response
from .errors import RequestError
from .limits import Limits
from .metrics import Metrics

__all__ = ["Gate"]

_OPEN = "/health"  # needs no token, and tells nothing but that the server runs
_DRAIN_SECONDS = 2.0
log = logging.getLogger("vqindex.serve")


class Gate:
    """Middleware around the app.

    Parameters
    ----------
    app : ASGI application
        The app.
    paths : sequence of str
        Its paths; others are counted as one.
    token : bytes or None
        What clients must send as ``Authorization: Bearer TOKEN``.
    hosts : sequence of str or None
        Names of this server that requests may use, so that a web page can't reach it under a name of its own; None for
        all.
    limits : Limits
        Limits.
    metrics : Metrics
        Counts requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Sequence[str],
        token: bytes | None,
        hosts: Sequence[str] | None,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._app, self._paths, self._limits, self._metrics = app, frozenset(paths), limits, metrics
        self._token, self._hosts = token, None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path = time.perf_counter(), scope["path"] if scope["path"] in self._paths else "other"
        traffic = _Traffic(receive, send)
        is_search = path == "/search"
        self._metrics.running += is_search
        try:
            self._check(scope, path)
            scope["app"] = self  # tells the router to raise errors of paths and methods
            await self._app(scope, traffic.receive, traffic.send)
        except RequestError as error:
            await self._refuse(scope, traffic, error)
        except HTTPException as error:
            await self._refuse(scope, traffic, _no_route(scope, error))
        except ClientDisconnect:
            traffic.status = 499  # nobody reads an answer
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("error while answering %s", path)
            text = "the server made a mistake, which its log describes"
            await self._refuse(scope, traffic, RequestError(500, "internal", text))
        finally:
            self._metrics.running -= is_search
            self._metrics.count_request(path, traffic.status, time.perf_counter() - begin)

    def _check(self, scope: Scope, path: str) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            host = headers.get("host", "")
            if _name_of(host) not in self._hosts:
                expected = ", ".join(sorted(self._hosts))
                raise RequestError(421, "host", f"the request is for host {host[:100]!r}; expected {expected}")
        if self._token is not None and path != _OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            # Headers are latin-1; a comparison of bytes takes the same time wherever they differ.
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
                text = "the request has no valid token; expected the header Authorization: Bearer TOKEN"
                raise RequestError(401, "unauthorized", text, None, {"www-authenticate": "Bearer"})
        if path == "/search" and self._metrics.running > self._limits.requests:
            most = self._limits.requests
            text = f"{most} searches run or wait already; try again later"
            raise RequestError(503, "busy", text, most, {"retry-after": "1"})

    async def _refuse(self, scope: Scope, traffic: _Traffic, error: RequestError) -> None:
        """Send an error. A client that still sends its body gets to read it, and then the connection ends."""
        if traffic.status:  # a response has begun
            return
        response = error_response(error)
        if scope["method"] == "HEAD":
            response.body = b""
        if traffic.is_whole or not _has_body(scope):
            await response(scope, traffic.receive, traffic.send)
            return
        response.headers["connection"] = "close"
        await traffic.send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
        await traffic.send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(traffic.drain(self._limits.body), _DRAIN_SECONDS)
        await traffic.send({"type": "http.response.body", "body": b""})


class _Traffic:
    """The messages of a request and its response."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status = 0
        self.is_whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.is_whole = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def drain(self, most: int) -> None:
        """Read what is left of a body, and drop it."""
        while not self.is_whole and most > 0:
            most -= len((await self.receive()).get("body", b""))


def _no_route(scope: Scope, error: HTTPException) -> RequestError:
    path = scope["path"][:100]
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        text = f"method {scope['method'][:20]} is not allowed for {path!r}; expected {allowed.get('Allow')}"
        return RequestError(405, "method", text, None, allowed)
    return RequestError(404, "not_found", f"there is no {path!r}; / lists what there is")


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
