"""Indexes in buckets: their URLs and options on the command line, ``vqindex push`` and ``vqindex pull``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import vqindex
from vqindex.directory.obstore_client import is_url
from vqindex.store.buckets import Place, check_absent, open_directory
from vqindex.store.manifest import Manifest, load_manifest
from vqindex.store.transfer import Copied, pull_store, push_store

from .opening import check_index
from .output import json_option, progress_bar, show_fields, show_json
from .paths import InputPath, OutputPath
from .stopping import in_blocks

__all__ = ["IndexPlace", "manifest_at", "open_at", "pull", "push", "storage_option"]

_SECRET = re.compile(r"secret|token|password|sas|(?<!_)access_key$|account_key|private_key|credential", re.IGNORECASE)


class IndexPlace(InputPath):
    """A path to read, or the URL of a bucket, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path or the URL."""
        return value if is_url(value) else super().convert(value, param, ctx)


class _BucketUrl(click.ParamType):  # type: ignore[type-arg]
    """The URL of a bucket."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the URL."""
        if not is_url(value):
            raise click.ClickException(
                f"{value!r} is not the URL of a bucket; expected s3://bucket/prefix, gs://bucket/prefix or "
                "az://account/container/prefix"
            )
        if value.startswith("memory:"):
            raise click.ClickException(f"{value} is in the memory of one process; expected the URL of a bucket")
        return value


def _options(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if _SECRET.search(name):  # other users of the machine see the arguments of a command
            raise click.BadParameter(f"{name!r} may be secret; give it by the environment", context, param)
        if not (name and equals):
            raise click.BadParameter(f"{name!r} has no value; expected NAME=VALUE, such as region=eu-west-1")
        if name == "allow_http":
            found["client_options"] = {"allow_http": value.lower() in ("1", "true", "yes")}
        else:
            found[name] = value
    return found


storage_option = click.option(
    "--storage-option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_options,
    help="A setting of the object store, such as region=eu-west-1 or endpoint=https://...; may be repeated.",
)


def manifest_at(url: str, options: dict[str, Any]) -> Manifest:
    """Return the manifest of an index in a bucket, by one request."""
    directory = open_directory(Place(url, storage_options=options))
    try:
        return load_manifest(directory)
    except FileNotFoundError:
        check_absent(directory, "expected the URL under which an index was made or pushed")
        raise


def open_at(url: str, options: dict[str, Any]) -> vqindex.VQIndex:
    """Open an index in a bucket for reading."""
    return vqindex.open(url, storage_options=options or None)


def _show(title: str, copied: Copied, as_json: bool, **more: Any) -> None:
    fields = {**more, **copied._asdict()}
    if as_json:
        show_json(fields)
    else:
        show_fields(title, fields)


def _stopped(target: object) -> Callable[[], str]:
    return lambda: f"nothing was published in {target}; the same command goes on"


@click.command()
@click.argument("folder", type=InputPath())
@click.argument("url", type=_BucketUrl())
@click.option("--replace", is_flag=True, help="Replace the index that URL holds, whatever it is.")
@storage_option
@json_option
def push(folder: Path, url: str, replace: bool, options: dict[str, Any], as_json: bool) -> None:
    """Copy the index in FOLDER to a bucket.

    URL is s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix, and holds no index, or an earlier
    commit of this one. Readers find the new commit when all of it is there. A push that was stopped goes on.
    Credentials come from the environment.
    """
    check_index(folder)
    if not folder.is_dir():
        raise click.ClickException(f"{folder} is a file; expected the folder of a store, such as build --store makes")
    target = open_directory(Place(url, storage_options=options))
    with in_blocks(_stopped(url)), progress_bar(f"pushing {folder.name}") as report:
        copied = push_store(folder, target, replaces=replace, progress=report)
    _show(url, copied, as_json, url=url)


@click.command()
@click.argument("url", type=_BucketUrl())
@click.argument("folder", type=OutputPath())
@storage_option
@json_option
def pull(url: str, folder: Path, options: dict[str, Any], as_json: bool) -> None:
    """Copy the index under URL in a bucket to FOLDER.

    FOLDER is new or empty. Every file is checked. A pull that was stopped goes on.
    """
    source = open_directory(Place(url, storage_options=options))
    with in_blocks(_stopped(folder)), progress_bar(f"pulling into {folder.name}") as report:
        copied = pull_store(source, folder, progress=report)
    _show(str(folder), copied, as_json, index=str(folder))
