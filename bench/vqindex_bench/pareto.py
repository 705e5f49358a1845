"""The plots of `bench`: recall over speed and over bytes, with the Pareto frontier of the indexes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PANELS", "Panel", "frontier"]

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One plot: recall@k over ``value(line)``; ``details`` explains the title, ``spread`` returns the quartiles."""

    name: str
    title: str
    details: str
    label: str
    unit: str
    more_is_better: bool
    value: Callable[[Line], float]
    spread: Callable[[Line], tuple[float, float]]


def _speed(mode: str, details: str) -> Panel:
    return Panel(
        mode,
        f"{mode} speed",
        details,
        "queries per second",
        f"{mode} q/s",
        True,
        lambda line: float(line[f"{mode}_qps"]["median"]),
        lambda line: (line[f"{mode}_qps"]["q1"], line[f"{mode}_qps"]["q3"]),
    )


PANELS = (
    _speed("batch", "all queries in one call"),
    _speed("single", "one query per call"),
    Panel(
        "bytes",
        "bytes",
        "all that is stored per vector",
        "bytes per vector",
        "bytes",
        False,
        lambda line: float(line["bytes_per_vector"]),
        lambda line: (line["bytes_per_vector"], line["bytes_per_vector"]),
    ),
)


def frontier(lines: Sequence[Line], panel: Panel) -> list[int]:
    """Return the lines that no other line dominates, by ascending recall.

    A line dominates another if its recall and its panel value are at least as good, and one of them is better.

    Parameters
    ----------
    lines : sequence of dict
        Result of `contest.measure`.
    panel : Panel
        Panel of the value that is plotted with recall.

    Returns
    -------
    list of int
        Numbers of lines.
    """
    sign = 1 if panel.more_is_better else -1
    points = [(float(line["recall_at_k"]), sign * panel.value(line)) for line in lines]

    def is_dominated(i: int) -> bool:
        (recall, value) = points[i]
        return any(r >= recall and v >= value and (r, v) != (recall, value) for r, v in points)

    return sorted((i for i in range(len(points)) if not is_dominated(i)), key=lambda i: points[i])
