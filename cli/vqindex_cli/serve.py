"""``vqindex serve``: an index by HTTP."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

import vqindex
from vqindex.backends.registry import Device

from .opening import check_index
from .options import threads_option
from .paths import InputPath

__all__ = ["serve"]

_TOKEN = "VQINDEX_TOKEN"
_LEAST = 16  # characters of a token
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@click.command()
@click.argument("index", type=InputPath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is all of them.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 is a free one.")
@click.option(
    "--token-file",
    type=InputPath(),
    help=f"File with the token that clients must send. Default: the environment variable {_TOKEN}, or none.",
)
@click.option("--insecure", is_flag=True, help="Listen at an address that others can reach without a token.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Another name by which requests may call a server on loopback."
)
@click.option("--mmap/--no-mmap", default=True, show_default=True, help="Map the index instead of reading it.")
@click.option("--reload", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS",
              help="How often to look for a new commit or file; 0 never looks.")  # fmt: skip
@click.option("--max-body", type=click.IntRange(1), default=2**25, show_default=True, help="Bytes of a body.")
@click.option("--max-k", type=click.IntRange(1), default=1000, show_default=True, help="Results of a query.")
@click.option("--max-queries", type=click.IntRange(1), default=1000, show_default=True, help="Queries of a request.")
@click.option("--max-requests", type=click.IntRange(1), default=256, show_default=True, help="Searches at a time.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, metavar="SECONDS",
              help="Time of a search, waiting included.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True,
              help="Queries that one scan answers; 1 searches each request apart.")  # fmt: skip
@threads_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or a backend's name.")
def serve(
    index: Path,
    host: str,
    port: int,
    token_file: Path | None,
    insecure: bool,
    allow_host: tuple[str, ...],
    mmap: bool,
    reload: float,
    max_body: int,
    max_k: int,
    max_queries: int,
    max_requests: int,
    timeout: float,
    batch: int,
    threads: int | None,
    device: Device,
) -> None:
    """Answer searches of an index by HTTP.

    INDEX is a .vqi file, or the folder of a store. Only this machine can reach the server, unless --host says
    otherwise; it then needs a token. A new commit of the store, or a file that replaces INDEX, is served as soon as it
    is noticed. SIGTERM and Ctrl-C end the server after the requests that run. Needs the extra vqindex[serve].
    """
    try:
        from vqindex_serve.app import create_app
        from vqindex_serve.limits import Limits
        from vqindex_serve.server import bind, is_loopback, run
        from vqindex_serve.source import Source
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn", "anyio"):
            raise
        raise ImportError(f"serve needs {missing}: pip install vqindex[serve]") from None
    token = _token(token_file)
    is_local = is_loopback(host)
    if token is None and not is_local and not insecure:
        raise click.UsageError(
            f"--host is {host}, which others can reach, and there is no token; expected --token-file or {_TOKEN}, or "
            "--insecure to let everybody search"
        )
    check_index(index)
    limits = Limits(body=max_body, k=max_k, queries=max_queries, requests=max_requests, seconds=timeout, batch=batch)
    source = Source(index, device, mmap=mmap)
    names = (*_LOOPBACK_NAMES, host, *allow_host) if token is None and is_local else None
    app = create_app(source, limits, token=token, hosts=names, threads=threads, reload_seconds=reload)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about requests of others
    listener = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    text = f"serving {index} ({source.moment.index.ntotal:,} vectors) at {address}; Ctrl-C ends it"
    run(app, listener, limits, started=lambda: click.echo(text, err=True))


def _token(path: Path | None) -> bytes | None:
    """Return the token of a file or of the environment; never of an argument, which other users can see."""
    where = f"the token in {path}" if path is not None else f"the token in {_TOKEN}"
    text = path.read_text(encoding="utf-8") if path is not None else os.environ.get(_TOKEN)
    if text is None:
        return None
    token = text.strip()
    if len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise vqindex.InvalidInputError(
            f"{where} has {len(token)} characters; expected at least {_LEAST}, ASCII and without blanks"
        )
    return token.encode("ascii")
