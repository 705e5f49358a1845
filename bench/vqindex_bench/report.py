"""The report of `bench`: one HTML page with plots and numbers, which needs no server and no network.

`report.html` is the template. This module fills it in and draws the plots as SVG; the script of the page only sorts,
hides and highlights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .pareto import PANELS, Panel, frontier

__all__ = ["write_report"]

Line = Mapping[str, Any]

_COLORS = 10  # --s0 to --s9 in the page
_WIDTH, _HEIGHT = 480, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 14, 50
_RADIUS = 9.5
_LEAST, _MOST = 0.001, 0.9995  # the logit scale has neither 0 nor 1
_RECALLS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
    *(0.993, 0.995, 0.997, 0.998, 0.999),
)
# Columns of the table: heading, value, digits after the point (None: text).
_COLUMNS: tuple[tuple[str, tuple[str, ...], int | None], ...] = (
    ("index", ("index",), None),
    ("bits", ("bits",), 0),
    ("bytes", ("bytes_per_vector",), 0),
    ("recall@{k}", ("recall_at_k",), 4),
    ("1@{k}", ("recall_1_at_k",), 4),
    ("1@1", ("recall_1_at_1",), 4),
    ("batch q/s", ("batch_qps", "median"), 0),
    ("q1", ("batch_qps", "q1"), 0),
    ("q3", ("batch_qps", "q3"), 0),
    ("single q/s", ("single_qps", "median"), 0),
    ("q1", ("single_qps", "q1"), 0),
    ("q3", ("single_qps", "q3"), 0),
    ("build s", ("build_seconds",), 3),
    ("its bytes", ("counted",), None),
)


def write_report(path: Path, lines: Sequence[Line]) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The HTML file.
    lines : sequence of dict
        Result of `contest.measure`, at least one line; the page contains them unchanged.
    """
    head = lines[0]
    series = list(dict.fromkeys(map(_series, lines)))
    threads = f"{head['threads']} thread{'s' if head['threads'] > 1 else ''}"
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    title = f"{head['data']}: {head['n']:,} x {head['dim']}, {head['metric']}, {threads}"
    filled = {
        "title": escape(title),
        "k": str(head["k"]),
        "machine": escape(f"{head['cpu']}, {head['date']}; {versions}"),
        "queries": f"{head['queries']:,}",
        "rounds": str(head["rounds"]),
        "single_calls": str(head["single_calls"]),
        "charts": "".join(_chart(lines, panel, series) for panel in PANELS),
        "legend": "".join(_legend(i, name) for i, name in enumerate(series)),
        "table": _table(lines, series),
        # "<" could end the script element; JSON has an escape for it.
        "lines": json.dumps(list(lines), allow_nan=False).replace("<", "\\u003c"),
    }
    page = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    for name, text in filled.items():
        page = page.replace("{{" + name + "}}", text)
    path.write_text(page, encoding="utf-8")


def _series(line: Line) -> str:
    """Return what lines of one color have in common: the family of a graph's lines, else the index."""
    return str(line.get("family", line["index"]))


def _legend(number: int, name: str) -> str:
    color = f"var(--s{number % _COLORS})"
    return (
        f'<label><input type="checkbox" checked data-series="{number}">'
        f'<span class="dot" style="background:{color}"></span>{escape(name)}</label>'
    )


def _value(line: Line, path: tuple[str, ...]) -> Any:
    value: Any = line
    for name in path:
        value = value[name]
    return value


def _table(lines: Sequence[Line], series: Sequence[str]) -> str:
    """Return head and body; each cell has the exact value in ``data-value``."""
    head = ""
    for name, _, digits in _COLUMNS:
        kind = "" if digits is None else " class=number"
        head += f"<th{kind}><button>{escape(name.format(k=lines[0]['k']))}</button></th>"
    body = []
    for number, line in enumerate(lines):
        place = series.index(_series(line))
        cells = []
        for _, field, digits in _COLUMNS:
            value = _value(line, field)
            exact = escape(value if isinstance(value, str) else json.dumps(value), quote=True)
            shown = escape(value) if digits is None else _number(float(value), digits)
            if field == ("index",):
                shown = f'<span class="dot" style="background:var(--s{place % _COLORS})"></span>{shown}'
            kind = "" if digits is None else " class=number"
            cells.append(f'<td{kind} data-key="{".".join(field)}" data-value="{exact}">{shown}</td>')
        told = escape(_told(line, PANELS), quote=True)
        body.append(f'<tr data-line="{number}" data-series="{place}" data-told="{told}">{"".join(cells)}</tr>')
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"


def _told(line: Line, panels: Sequence[Panel]) -> str:
    """Return a sentence about one index, with its values in some panels."""
    values = ", ".join(f"{_number(panel.value(line), 0)} {panel.unit}" for panel in panels)
    return f"{line['index']}, {line['bits']} bits: recall@{line['k']} {line['recall_at_k']:.4f}, {values}"


def _number(value: float, digits: int) -> str:
    if digits == 0 and value != int(value) and value < 100:
        digits = 1
    return f"{value:,.{digits}f}"


# ---- drawings


def _logit(recall: float) -> float:
    recall = min(max(recall, _LEAST), _MOST)
    return math.log(recall / (1 - recall))


class _Scale:
    """Maps values to positions between two pixels, with a margin at both ends."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = min(values), max(values)
        margin = max(0.08 * (high - low), 0.1)
        self._low, self._range = low - margin, high - low + 2 * margin
        self._first, self._length = first, last - first

    def __call__(self, value: float) -> float:
        return self._first + (value - self._low) / self._range * self._length

    def inside(self, value: float) -> bool:
        return self._low <= value <= self._low + self._range


def _ticks(scale: _Scale, at: Sequence[tuple[float, str]], apart: float) -> list[tuple[float, str]]:
    """Return position and text of the ticks on the scale that are at least `apart` pixels apart."""
    ticks: list[tuple[float, str]] = []
    for value, text in at:
        if scale.inside(value) and (not ticks or abs(scale(value) - ticks[-1][0]) >= apart):
            ticks.append((scale(value), text))
    return ticks


def _enough_ticks(scale: _Scale, sets: Iterable[Sequence[tuple[float, str]]], apart: float) -> list[tuple[float, str]]:
    """Return the ticks of the first, roundest set that has at least 3 on the scale, or else of the last."""
    ticks: list[tuple[float, str]] = []
    for at in sets:
        ticks = _ticks(scale, at, apart)
        if len(ticks) >= 3:
            break
    return ticks


def _value_ticks(scale: _Scale) -> list[tuple[float, str]]:
    """Return ticks of a logarithmic scale."""
    sets = (
        [
            (math.log10(value), _short(value))
            for exponent in range(-3, 9)
            for value in [step * 10.0**exponent for step in steps]
        ]
        for steps in ((1, 2, 5), range(1, 10), [step / 10 for step in range(10, 100)])
    )
    return _enough_ticks(scale, sets, 42)


def _recall_ticks(scale: _Scale) -> list[tuple[float, str]]:
    """Return ticks of a logit scale."""
    finer = ([step / parts for step in range(1, parts)] for parts in (100, 1000, 10000))
    sets = ([(_logit(recall), f"{recall:g}") for recall in recalls] for recalls in (_RECALLS, *finer))
    return _enough_ticks(scale, sets, 24)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _axes(x: _Scale, y: _Scale, label: str, k: int) -> str:
    bottom = _HEIGHT - _BOTTOM
    elements = []
    for place, text in _value_ticks(x):
        elements.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        elements.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    for place, text in _recall_ticks(y):
        elements.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{place + 4.5:.1f}" text-anchor="end">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    elements.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{label}</text>')
    height = (_TOP + bottom) / 2
    elements.append(
        f'<text class="axis" transform="translate(13 {height}) rotate(-90)" text-anchor="middle">recall@{k}</text>'
    )
    return "".join(elements)


def _chart(lines: Sequence[Line], panel: Panel, series: Sequence[str]) -> str:
    """Return one plot: for each index a dot with its bits and a line for its quartiles, and the frontier."""
    values = [math.log10(panel.value(line)) for line in lines]
    recalls = [_logit(line["recall_at_k"]) for line in lines]
    x = _Scale(values, _LEFT + _RADIUS, _WIDTH - _RIGHT - _RADIUS)
    y = _Scale(recalls, _HEIGHT - _BOTTOM - _RADIUS, _TOP + _RADIUS)
    best = " ".join(f"{x(values[i]):.1f},{y(recalls[i]):.1f}" for i in frontier(lines, panel))
    dots = []
    for number, (line, value, recall) in enumerate(zip(lines, values, recalls, strict=True)):
        place = series.index(_series(line))
        low, high = (x(math.log10(end)) for end in panel.spread(line))
        told = escape(_told(line, [panel]), quote=True)
        dots.append(
            f'<g class="point" data-line="{number}" data-series="{place}" style="--c:var(--s{place % _COLORS})" '
            f'tabindex="0" aria-label="{told}"><title>{told}</title>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y(recall):.1f}" y2="{y(recall):.1f}"/>'
            f'<circle cx="{x(value):.1f}" cy="{y(recall):.1f}" r="{_RADIUS}"/>'
            f'<text x="{x(value):.1f}" y="{y(recall) + 4:.1f}" text-anchor="middle">{line["bits"]}</text></g>'
        )
    better = "up and right" if panel.more_is_better else "up and left"
    return (
        f'<figure data-panel="{panel.name}"><figcaption><b>Recall and {escape(panel.title)}</b>'
        f"<span>{escape(panel.details)}; {better} is better</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="recall over {panel.label}">'
        f"{_axes(x, y, panel.label, lines[0]['k'])}"
        f'<polyline class="frontier" points="{best}"/>{"".join(dots)}</svg></figure>'
    )
