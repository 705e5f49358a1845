"""Running the app: the socket, requests that come slowly, and the end.

uvicorn ends a connection that is idle between two requests, but not one that begins a request and never ends its head.
So its protocol gets a timer here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

import vqindex

from .gate import Gate
from .limits import Limits

__all__ = ["bind", "is_loopback", "run"]


class _ImpatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Ends a connection on which no request begins, or whose head does not end, in time."""

    head_seconds = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.head_seconds, self._check)

    def _check(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name must be localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises
    ------
    InvalidInputError
        If there is no such host, or the address is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise vqindex.InvalidInputError(f"can't listen at {host}, port {port}: {error.strerror or error}") from None


def run(app: Gate, listener: socket.socket, limits: Limits, *, started: Callable[[], Any] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Requests that are there then are answered first.

    Parameters
    ----------
    app : Gate
        What `create_app` returned.
    listener : socket
        A listening socket.
    limits : Limits
        The limits of the app.
    started : callable, optional
        Called when requests are answered.
    """
    protocol = type("Protocol", (_ImpatientProtocol,), {"head_seconds": limits.read_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=max(1, round(limits.read_seconds)),
        limit_concurrency=4 * limits.requests + 64,  # connections, most of them idle
        timeout_graceful_shutdown=max(1, round(limits.read_seconds + limits.seconds)),
    )
    server = _Server(config, started)
    # uvicorn sends itself the signal again at the end; SIGTERM is a good end here.
    is_main = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, lambda *_: None) if is_main else None
    try:
        server.run(sockets=[listener])
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, former)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], Any] | None) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._tell is not None:
            self._tell()
