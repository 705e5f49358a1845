"""``vqindex docs``: documents in a folder, with their texts, metadata and vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vqindex import documents
from vqindex.documents import Document, Documents
from vqindex.linking import MAX_LINKS, MIN_LINKS
from vqindex.rows.originals import KINDS
from vqindex.spec import CODECS, METRICS

from .embedders import EMBEDDERS, load_embedder
from .graph import read_queries, show_graph
from .options import confidence_option, graph_options, walking
from .output import CommaList, json_option, progress_bar, show_fields, show_json, show_table
from .paths import InputPath
from .stopping import checkpoint, in_blocks
from .text_rows import Columns, read_rows

__all__ = ["docs"]

_BATCH = 2000  # rows that are embedded and added at once

_folder = click.argument("folder", type=InputPath())
_namespace = click.option("--namespace", help="Name of the part of FOLDER to use. Default: the one without a name.")
_where = click.option("--where", metavar="JSON", help='A filter of metadata: \'{"year": {"$gt": 2020}}\'.')
_embedder = click.option("--embedder", type=click.Choice(tuple(EMBEDDERS)), help="Model that embeds texts.")


@click.group()
def docs() -> None:
    """Keep texts with metadata and vectors, and search them."""


def _json_of(text: str | None, option: str, kind: type) -> Any:
    """Return the JSON value of an option."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON ({error})", param_hint=option) from None
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list of numbers"
        raise click.BadParameter(f"{text!r}; expected {expected} in JSON", param_hint=option)
    return value


def _open(folder: Path, mode: str = "r", **parameters: Any) -> Documents:
    given = {name: value for name, value in parameters.items() if value is not None}
    return documents.open(folder, mode, **given)


@docs.command()
@_folder
@click.argument("data", type=InputPath())
@click.option("--text", default="text", show_default=True, metavar="NAME", help="Column of DATA with the texts.")
@click.option("--vector", default="embedding", show_default=True, metavar="NAME", help="Column with the vectors.")
@click.option("--id", "id_", default="id", show_default=True, metavar="NAME", help="Column with the ids.")
@click.option("--metadata", type=CommaList(click.STRING), help="Columns to keep as metadata. Default: all others.")
@_embedder
@click.option("--upsert", is_flag=True, help="Replace documents whose ids are in FOLDER.")
@_namespace
@click.option("--bits", type=click.IntRange(1, 8), help="Bits per coordinate, of a new store.  [default: 4]")
@click.option("--metric", type=click.Choice(METRICS), help="Of a new store.  [default: cosine]")
@click.option("--codec", type=click.Choice(CODECS), help="Of a new store.  [default: turboquant-prod]")
@click.option("--keep-vectors", type=click.Choice(tuple(KINDS)), help="Keep the vectors too, in a new store.")
@click.option("--center", type=click.Choice(("mean",)), help="Subtract the vectors' mean first, in a new store.")
@click.option("--graph", type=click.IntRange(MIN_LINKS, MAX_LINKS), metavar="LINKS",
    help="Link each vector to so many others, usually 32, in a new store.",
)  # fmt: skip
@json_option
def add(
    folder: Path,
    data: Path,
    text: str,
    vector: str,
    id_: str,
    metadata: tuple[str, ...] | None,
    embedder: str | None,
    upsert: bool,
    namespace: str | None,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Add the rows of DATA (.jsonl, .csv or .parquet) to the documents in FOLDER, which is made if it is not there.

    All rows are added in one commit. Rows without a vector are embedded by --embedder; without it they are found by
    their words and metadata only. Rows without an id get a random one.
    """
    columns = Columns(text, vector, id_, metadata)
    embed = None if embedder is None else load_embedder(embedder)
    batches = read_rows(data, columns, _BATCH)
    first = next(batches, None)  # before a folder is made for it
    done = written = 0
    with in_blocks(lambda: f"{folder} has {written or 'no'} rows of {data.name}"):
        with _open(folder, "a", **parameters) as store, progress_bar(f"adding {data.name}") as report:
            before, write = store.count(namespace=namespace), store.upsert if upsert else store.add
            while first is not None:
                if embed is not None:
                    _embed_missing(first.texts, first.vectors, embed)
                write(first.texts, first.vectors, metadata=first.metadata, ids=first.ids, namespace=namespace)
                done += len(first.texts)
                report(done, None)
                first = next(batches, None)
            checkpoint()
            after = store.count(namespace=namespace)
        written = done
    summary = {"documents": str(folder), "added": after - before, "replaced": done - (after - before), "total": after}
    _report(summary, f"changed {folder}", as_json)


def _embed_missing(texts: list[str | None], vectors: list[Any], embed: Callable[[list[str]], Any]) -> None:
    """Set the vectors of rows that have a text and no vector."""
    missing = [at for at, text in enumerate(texts) if text is not None and vectors[at] is None]
    if missing:
        for at, found in zip(missing, embed([texts[at] or "" for at in missing]), strict=True):
            vectors[at] = found


def _report(summary: dict[str, Any], title: str, as_json: bool) -> None:
    if as_json:
        show_json(summary)
    else:
        show_fields(title, summary)


@docs.command()
@_folder
@click.argument("text", required=False)
@click.option("--vector", metavar="JSON", help="The query's vector, a list of numbers.")
@_embedder
@click.option("--mode", type=click.Choice(("vector", "text", "hybrid")), help="Default: by what is given.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results.")
@_where
@_namespace
@click.option("--rerank", is_flag=True, help="Re-rank with the vectors kept in FOLDER.")
@confidence_option
@graph_options
@json_option
def search(
    folder: Path,
    text: str | None,
    vector: str | None,
    embedder: str | None,
    mode: str | None,
    k: int,
    where: str | None,
    namespace: str | None,
    rerank: bool,
    confidence: float,
    effort: int | None,
    recall: float | None,
    scan: bool,
    as_json: bool,
) -> None:
    """Search the documents in FOLDER for the words of TEXT, for a vector, or for both.

    With --embedder, TEXT is embedded as well. With --json, prints one line per document.
    """
    if text is None and vector is None:
        raise click.UsageError("expected TEXT, --vector, or both")
    if embedder is not None and (text is None or vector is not None):
        raise click.UsageError("--embedder needs TEXT, and no --vector")
    query, condition = _json_of(vector, "--vector", list), _json_of(where, "--where", dict)
    with _open(folder) as store:
        if embedder is not None:
            query = load_embedder(embedder)([text or ""])[0]
        how: dict[str, Any] = {"confidence": confidence, "rerank": rerank or None, **walking(effort, recall, scan)}
        if query is None:
            how = {}
        if mode == "vector":
            text = None
        hits = store.search(query, k, text=text, where=condition, mode=mode, namespace=namespace, **how)
    if as_json:
        for hit in hits:
            _show_line({**_fields(hit), "score": float(f"{hit.score:.9g}")})
    else:
        show_table(("score", "id", "text"), [(f"{hit.score:.4g}", hit.id, hit.text or "") for hit in hits])


def _fields(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def _show_line(value: dict[str, Any]) -> None:
    """Print a line of JSON. Metadata may hold NaN, which JSON has no word for: it becomes null."""
    click.echo(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    is_number = not isinstance(value, float) or value - value == 0
    return value if is_number else None


@docs.command()
@_folder
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_where
@click.option("--limit", type=click.IntRange(0), help="Most documents to print, without IDs.")
@_namespace
@json_option
def get(
    folder: Path, ids: tuple[str, ...], where: str | None, limit: int | None, namespace: str | None, as_json: bool
) -> None:
    """Print the documents in FOLDER with these IDs, or those that match --where, or all.

    With --json, prints one line per document. Unknown ids are an error.
    """
    if ids and (where is not None or limit is not None):
        raise click.UsageError("expected IDs, or --where and --limit")
    condition = _json_of(where, "--where", dict)
    with _open(folder) as store:
        found = store.get(ids, namespace=namespace) if ids else store.list(condition, limit, namespace=namespace)
    known = {document.id for document in found}
    for id_ in ids:
        if id_ not in known:
            raise click.ClickException(f"{folder} has no document {id_!r}")
    if as_json:
        for document in found:
            _show_line(_fields(document))
    else:
        rows = [(each.id, each.text or "", json.dumps(each.metadata, ensure_ascii=False)) for each in found]
        show_table(("id", "text", "metadata"), rows)


@docs.command()
@_folder
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_where
@_namespace
@json_option
def delete(folder: Path, ids: tuple[str, ...], where: str | None, namespace: str | None, as_json: bool) -> None:
    """Delete the documents in FOLDER that have one of these IDs, or match --where; with both, those that do both.

    Unknown ids are ignored.
    """
    if not ids and where is None:
        raise click.UsageError("expected IDs, --where, or both")
    condition = _json_of(where, "--where", dict)
    _check_there(folder)
    with _open(folder, "a") as store:
        removed = store.delete(ids or None, where=condition, namespace=namespace)
        total = store.count(namespace=namespace)
    _report({"documents": str(folder), "removed": removed, "total": total}, f"changed {folder}", as_json)


def _check_there(folder: Path) -> None:
    """Raise for a folder without documents, in which opening for writing would make a store."""
    _open(folder).close()


@docs.command()
@_folder
@click.option("--links", type=click.IntRange(MIN_LINKS, MAX_LINKS), default=32, show_default=True,
    help="Most links of a vector.",
)  # fmt: skip
@click.option("--drop", is_flag=True, help="Remove the graph.")
@click.option("--queries", type=InputPath(), help="Measure agreement with these queries instead of vectors of FOLDER.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results to compare.")
@json_option
def graph(folder: Path, links: int, drop: bool, queries: Path | None, k: int, as_json: bool) -> None:
    """Link the vectors of the documents in FOLDER, so that searches need not scan all of them.

    Prints how much of the scan's results walks find, against their effort. All is one commit.
    """
    given = None if queries is None else read_queries(queries)
    _check_there(folder)
    with _open(folder, "a") as store:
        if drop:
            store.drop_graph()
        else:
            with progress_bar("linking") as report:
                store.build_graph(links, progress=report)
            checkpoint()
            index = store.index
            if index is not None and index.stats()["linked"]:
                store.tune(given, k)
        index, curve = store.index, store.curve
        stats = {"links": None if drop else links, "linked": 0} if index is None else index.stats()
    summary = {"documents": str(folder), "links": stats["links"], "linked": stats["linked"]}
    show_graph(f"changed {folder}", summary, curve, as_json)


@docs.command()
@_folder
@json_option
def info(folder: Path, as_json: bool) -> None:
    """Describe the documents in FOLDER."""
    with _open(folder) as store:
        index, names = store.index, store.namespaces()
        fields: dict[str, Any] = {"documents": len(store), "commits": store.generation, "namespaces": len(names)}
        fields |= {"metric": store.metric, "dim": store.dim, "vectors": 0 if index is None else len(index)}
        if index is not None:
            spec = index.spec
            fields |= {"bits": spec.bits, "codec": spec.codec, "keep_vectors": index.keep_vectors}
            stats, curve = index.stats(), store.curve
            fields |= {name: stats[name] for name in ("center", "links", "linked")}
            fields |= {"tuned": None if curve is None else float(f"{max(curve.agreement):.4f}")}
    fields["file_bytes"] = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    _report(fields, str(folder), as_json)
