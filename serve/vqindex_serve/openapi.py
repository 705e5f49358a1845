"""The description of the paths for programs (OpenAPI 3.1), and a page of it for people."""

from __future__ import annotations

import html
import json
from typing import Any

import vqindex

from .limits import Limits

__all__ = ["document", "page"]

_NUMBER = {"type": "number"}


def _parameters(limits: Limits) -> dict[str, dict[str, Any]]:
    """Return the schema of each parameter of a search."""
    open_ends = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
    confidence = {**_NUMBER, "exclusiveMinimum": 0.5, "maximum": 1}
    ids = {"type": "array", "items": {"type": ["integer", "string"]}}
    return {
        "k": {"type": "integer", "minimum": 1, "maximum": limits.k, "default": 10, "description": "Results per query."},
        "allow": {**ids, "description": "Ids that may be found; in an address separated by commas."},
        "deny": {**ids, "description": "Ids that must not be found."},
        "confidence": {**confidence, "description": "Confidence of the sign bound."},
        "rerank": {"type": "boolean", "description": "Exact scores of a shortlist, by kept vectors."},
        "oversample": {**_NUMBER, "minimum": 1, "description": "Length of the shortlist in multiples of k."},
        "effort": {"type": "integer", "minimum": 1, "maximum": limits.shortlist, "description": "Effort of walks."},
        "recall": {**_NUMBER, **open_ends, "description": "Share of the scan's results that walks should find."},
        "exact": {"type": "boolean", "description": "Scan all vectors, as without a graph."},
        "return_interval": {**_NUMBER, **open_ends, "description": "Also return intervals of this probability."},
    }


def document(dim: int, limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI document of a server.

    Parameters
    ----------
    dim : int
        Dimension of the index.
    limits : Limits
        Limits of the server.
    """
    vector = {"type": "array", "items": _NUMBER, "minItems": dim, "maxItems": dim}
    many = {"type": "array", "items": vector, "maxItems": limits.queries}
    parameters = _parameters(limits)
    query = [
        {"name": name, "in": "query", "schema": schema, "style": "form", "explode": False}
        for name, schema in parameters.items()
    ]
    body = {
        "type": "object",
        "required": ["queries"],
        "additionalProperties": False,
        "properties": {"queries": {"oneOf": [vector, many]}, **parameters},
    }
    lists = {"description": "A list, or a list for each query."}
    found = {
        "type": "object",
        "properties": {
            "ids": lists,
            "scores": lists,
            "low": lists,
            "high": lists,
            "commit": {"type": ["integer", "null"]},
        },
    }
    fields = {"code": {"type": "string"}, "message": {"type": "string"}, "limit": {}}
    errors = {"type": "object", "properties": {"error": {"type": "object", "properties": fields}}}
    refused = {"description": "An error.", "content": {"application/json": {"schema": errors}}}
    raw = {"schema": {"type": "string", "format": "binary"}}
    ok = {
        "description": "Results.",
        "content": {"application/json": {"schema": found}, "application/octet-stream": raw},
    }
    search = {
        "summary": "Search for the nearest neighbors of queries.",
        "description": "JSON holds queries and parameters. Raw bytes are little-endian float32 vectors, with the "
        "parameters in the address. Raw answers are ids (int64), then scores (float32), then with "
        "return_interval the lower and the upper ends (float32), each of shape (queries, k).",
        "parameters": query,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body}, "application/octet-stream": raw},
        },
        "responses": {"200": ok, **{str(code): refused for code in (400, 401, 406, 408, 413, 415, 503)}},
    }
    gets = {
        "/health": "Whether the server runs; needs no token.",
        "/info": "The index and the limits.",
        "/metrics": "Counters in the text format of Prometheus.",
        "/openapi.json": "This document.",
        "/": "This document as a page.",
    }
    answered = {"responses": {"200": {"description": "What it says."}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "vqindex", "version": vqindex.__version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
        "paths": {
            "/search": {"post": search},
            **{path: {"get": {"summary": text, **answered}} for path, text in gets.items()},
        },
    }


_STYLE = "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}td{padding:.2em 1em .2em 0}"


def page(content: dict[str, Any]) -> str:
    """Return a document as HTML that needs nothing else."""
    paths = []
    for path, methods in content["paths"].items():
        for method, what in methods.items():
            paths.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(what['summary'])}</p>")
            if "description" in what:
                paths.append(f"<p>{html.escape(what['description'])}</p>")
            rows = [(each["name"], _kind(each["schema"])) for each in what.get("parameters", ())]
            cells = "".join(f"<tr><td><code>{name}</code></td><td>{html.escape(kind)}</td></tr>" for name, kind in rows)
            paths.append(f"<table>{cells}</table>" if rows else "")
    example = html.escape(json.dumps({"queries": ["... numbers ..."], "k": 10}))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>vqindex</title><style>{_STYLE}</style>"
        f"<h1>vqindex {html.escape(content['info']['version'])}</h1><p>A body of JSON: <code>{example}</code></p>"
        f"{''.join(paths)}</html>"
    )


def _kind(schema: dict[str, Any]) -> str:
    kind = schema["type"]
    limits = [f"{name} {schema[name]}" for name in ("minimum", "maximum", "default") if name in schema]
    return f"{schema['description']} ({', '.join([kind, *limits])})"
