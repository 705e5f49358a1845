"""Results of searches as responses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response

from vqindex import SearchResult

from .calls import SearchCall
from .errors import RequestError

__all__ = ["JSON", "RAW", "as_json", "as_raw", "error_response"]

JSON, RAW = "application/json", "application/octet-stream"


def as_json(call: SearchCall, result: SearchResult) -> Response:
    """Return ids and scores as lists; empty places are left out."""
    columns: dict[str, Any] = {"ids": result.ids, "scores": result.scores}
    if result.low is not None and result.high is not None:
        columns |= {"low": result.low, "high": result.high}
    counts = np.isfinite(result.scores).sum(axis=1).tolist()
    content: dict[str, Any] = {}
    for name, array in columns.items():
        lines = array.tolist()
        if name in ("low", "high"):  # an interval that can't be promised is NaN, which JSON has not
            lines = [[value if np.isfinite(value) else None for value in line] for line in lines]
        lines = [line[:count] for line, count in zip(lines, counts, strict=True)]
        content[name] = lines[0] if call.is_single else lines
    content["commit"] = call.moment.commit
    return Response(json.dumps(content, allow_nan=False, separators=(",", ":")), media_type=JSON)


def as_raw(call: SearchCall, result: SearchResult) -> Response:
    """Return ids (int64), scores (float32) and the ends of intervals (float32), one array after the other."""
    if result.ids.dtype == object:
        raise RequestError(406, "not_acceptable", f"ids are strings, which {RAW} can't hold; expected Accept: {JSON}")
    arrays = [result.ids.astype("<i8"), result.scores.astype("<f4")]
    if result.low is not None and result.high is not None:
        arrays += [result.low.astype("<f4"), result.high.astype("<f4")]
    nq, k = result.ids.shape
    headers = {"x-vqindex-queries": str(nq), "x-vqindex-k": str(k)}
    if call.moment.commit is not None:
        headers["x-vqindex-commit"] = str(call.moment.commit)
    return Response(b"".join(array.tobytes() for array in arrays), media_type=RAW, headers=headers)


def error_response(error: RequestError) -> Response:
    """Return the response of a request that is refused."""
    return JSONResponse(error.content(), error.status, error.headers)
