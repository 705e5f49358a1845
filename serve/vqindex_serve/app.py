"""The ASGI app: the paths, and a task that opens the index again when it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

import vqindex

from .answers import JSON, RAW, as_json, as_raw
from .batching import Batcher
from .body import Reader
from .calls import SearchCall, from_json, from_raw
from .errors import RequestError
from .gate import Gate
from .limits import Limits
from .metrics import Metrics
from .openapi import document, page
from .source import Source

__all__ = ["create_app"]

_MUCH = 2**18  # bytes, or results, that are read or written in a thread, so that other requests go on
log = logging.getLogger("vqindex.serve")


def create_app(
    source: Source,
    limits: Limits | None = None,
    *,
    token: bytes | None = None,
    hosts: Sequence[str] | None = None,
    threads: int | None = None,
    reload_seconds: float = 1.0,
) -> Gate:
    """Return the app that serves an index.

    Parameters
    ----------
    source : Source
        The index.
    limits : Limits, optional
        Limits.
    token : bytes, optional
        What clients must send as ``Authorization: Bearer TOKEN``; without it everybody may search.
    hosts : sequence of str, optional
        Names by which requests may call this server; by default any.
    threads : int, optional
        Most threads of a scan.
    reload_seconds : float, default 1.0
        How often to look for a new commit; 0 never looks.
    """
    limits = limits or Limits()
    metrics = Metrics()
    service = _Service(source, limits, metrics, threads)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        watch = asyncio.create_task(service.watch(reload_seconds)) if reload_seconds else None
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
            await asyncio.to_thread(service.batcher.close)

    routes = [
        Route("/search", service.search, methods=["POST"]),
        Route("/health", service.health, methods=["GET"]),
        Route("/info", service.info, methods=["GET"]),
        Route("/metrics", service.metrics_text, methods=["GET"]),
        Route("/openapi.json", service.openapi, methods=["GET"]),
        Route("/", service.page, methods=["GET"]),
    ]
    # A Router, since Starlette itself would answer errors before the gate sees them.
    app = Router(routes, redirect_slashes=False, lifespan=lifespan)
    paths = [route.path for route in routes]
    return Gate(app, paths, token, hosts, limits, metrics)


class _Service:
    """Answers requests.

    Parameters
    ----------
    source : Source
        The index.
    limits : Limits
        Limits.
    metrics : Metrics
        Counters.
    threads : int or None
        Most threads of a scan.
    """

    def __init__(self, source: Source, limits: Limits, metrics: Metrics, threads: int | None) -> None:
        self.source, self.limits, self.metrics = source, limits, metrics
        self.batcher = Batcher(limits.batch, limits.seconds, threads, metrics)
        self._reader = Reader(limits)

    async def watch(self, seconds: float) -> None:
        """Open the index again whenever it has changed, in a thread; requests go on meanwhile."""
        failed = ""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(self.source.refresh):
                    self.metrics.reloads += 1
                    log.info("opened %s again", self.source.path)
                failed = ""
            except (OSError, vqindex.VQIndexError, MemoryError) as error:  # the old index is as good as it was
                if str(error) != failed:
                    failed = str(error)
                    self.metrics.failed_reloads += 1
                    log.warning("can't open the index again: %s", error)

    async def search(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (JSON, RAW):
            text = f"Content-Type is {kind[:100]!r}; expected {JSON} or {RAW}"
            raise RequestError(415, "media_type", text)
        if kind == JSON and request.url.query:
            raise RequestError(400, "invalid", "parameters stand in the address; expected them in the JSON body")
        wants_raw = _wants_raw(request.headers.get("accept", ""), kind)
        body = await self._reader.read(request)
        try:
            call = await self._call(kind, body, request)
            result = await self.batcher.search(call)
        finally:
            self._reader.release(len(body))
        answer = as_raw if wants_raw else as_json
        if result.ids.size > _MUCH // 16:
            return await asyncio.to_thread(answer, call, result)
        return answer(call, result)

    async def _call(self, kind: str, body: bytes, request: Request) -> SearchCall:
        moment = self.source.moment
        if kind == RAW:
            return from_raw(body, request.query_params, moment, self.limits)
        if len(body) > _MUCH:
            return await asyncio.to_thread(from_json, body, moment, self.limits)
        return from_json(body, moment, self.limits)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(self, request: Request) -> Response:
        moment = self.source.moment
        stats = moment.index.stats()
        names = ("ntotal", "dim", "metric", "bits", "codec", "backend", "keep_vectors", "links", "memory_bytes")
        content: dict[str, Any] = {name: stats[name] for name in names}
        content |= {"commit": moment.commit, "ids": "string" if moment.has_string_ids else "integer"}
        content |= {"version": vqindex.__version__, "limits": vars(self.limits)}
        return JSONResponse(content)

    async def metrics_text(self, request: Request) -> Response:
        text = self.metrics.text(self.source.moment)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.source.moment.index.dim, self.limits))

    async def page(self, request: Request) -> Response:
        headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page(document(self.source.moment.index.dim, self.limits)), headers=headers)


def _wants_raw(accept: str, kind: str) -> bool:
    """Return the form of the answer: what the client accepts, or the form of its request if it does not say."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    found = next((each for each in kinds if each in (JSON, RAW)), kind)
    if accept and not any(each in (JSON, RAW, "*/*", "application/*") for each in kinds):
        raise RequestError(406, "not_acceptable", f"Accept is {accept[:100]!r}; expected {JSON} or {RAW}")
    return found == RAW
