"""What graph.py is made of: data and built indexes in a cache, sweeps of an engine's knob, and times at a recall."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from graph_engines import ENGINES, Engine, K, Knob, ours
from numpy.typing import NDArray

import vqindex
from vqindex_bench.compare import unit
from vqindex_bench.contest import THREAD_VARIABLES, Data, machine, turn, versions
from vqindex_bench.data_files import read_file
from vqindex_bench.peers import UnavailableError
from vqindex_datasets import exact_neighbors, growing_mixture
from vqindex_datasets.recall import recall_at_k

__all__ = [
    "MODES",
    "SINGLES",
    "Point",
    "Points",
    "at_recall",
    "build",
    "build_missing",
    "build_times",
    "built_as",
    "child",
    "folder_of",
    "loaded",
    "mixture_data",
    "points_in",
    "points_of",
    "read_data",
]

F32 = NDArray[np.float32]
MODES = ("batch", "single")
SINGLES = 300
_SEED = 17  # of mixtures
_ANSWER = "graph.py built: "  # before the line by which a build answers
_LEAST, _ENOUGH = 0.85, 0.995  # recall: points below and beyond are not timed
_GAIN = 0.001  # of recall in two steps: with less, a sweep ends


# ---- data


def _kept(folder: Path, name: str, make: Callable[[], Data]) -> Data:
    """Return the data set from a folder, or make it and keep it there; rows are mapped into memory."""
    files = [folder / f"{part}.npy" for part in ("rows", "queries", "truth")]
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        made = make()
        for file, array in zip(files, (made.rows, made.queries, made.truth[:, :K]), strict=True):
            np.save(file.with_suffix(".part.npy"), array)
            file.with_suffix(".part.npy").rename(file)
    rows, queries, truth = np.load(files[0], mmap_mode="r"), np.load(files[1]), np.load(files[2])
    return Data(name, rows, queries, truth, "cosine")


def mixture_data(cache: Path, n: int, dim: int, queries: int) -> Data:
    """Return unit rows and queries of the growing mixture, and the true neighbors."""

    def make() -> Data:
        rows, test = (unit(part) for part in growing_mixture(n, dim, queries=queries, seed=_SEED))
        return Data(name, rows, test, exact_neighbors(rows, test, K, "angular")[0], "cosine")

    name = f"mixture-{n}-{dim}"
    return _kept(cache / f"{name}-{queries}", name, make)


def read_data(cache: Path, file: Path | None, mixture: Sequence[int] | None, rows: int | None, queries: int) -> Data:
    """Return unit rows, unit queries and the true neighbors, of a file or of the growing mixture."""
    if mixture is not None:
        return mixture_data(cache, mixture[0], mixture[1], queries)
    if file is None:
        raise SystemExit("expected --data or --mixture")

    def make() -> Data:
        data = read_file(file, K, rows=rows, queries=queries)
        if data.metric != "cosine":
            raise SystemExit(f"{file.name} has metric {data.metric}; not all peers here have it")
        return data

    part = "" if rows is None else f"-{rows}"
    return _kept(cache / f"{file.stem}{part}-{queries}", f"{file.stem}{part}", make)


def folder_of(cache: Path, data: Data) -> Path:
    """Return the data set's folder in the cache."""
    return cache / f"{data.name}-{len(data.queries)}"


# ---- built indexes


def built_as(name: str) -> str:
    """Return the name of the engine whose saved index `name` uses, mostly its own."""
    return (ENGINES[name].built_as if name in ENGINES else None) or name


def engine_of(name: str, threads: int) -> Engine:
    """Return a new engine of a name on the command line."""
    return (ENGINES[name] if name in ENGINES else ours(name))(threads)


def _package() -> str:
    """Return a digest of vqindex, so that another one builds anew."""
    digest = hashlib.sha256()
    folder = Path(vqindex.__file__).parent
    for file in sorted([*folder.rglob("*.py"), *folder.glob("_native*.so")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def child(task: Mapping[str, Any]) -> None:
    """Build one index from the rows of a folder, and print what it took; save it if the task says so."""
    folder, name, threads = Path(task["folder"]), task["engine"], task["threads"]
    rows = np.load(folder / "rows.npy")
    engine = engine_of(name, threads)
    try:
        wall, used = time.perf_counter(), time.process_time()
        parts = engine.build(rows)
        known: dict[str, Any] = {
            "threads": threads,
            "cpu_seconds": time.process_time() - used,
            "wall_seconds": time.perf_counter() - wall,
            **parts,
        }
    except UnavailableError as reason:
        print(_ANSWER + json.dumps({"unavailable": str(reason)}), flush=True)
        return
    known = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in known.items()}
    if task["save"]:
        place = folder / name
        place.mkdir(exist_ok=True)
        engine.save(place)
    known |= {"package": _package(), "date": time.strftime("%Y-%m-%d"), "versions": versions(), **machine()}
    print(_ANSWER + json.dumps(known), flush=True)


def build(folder: Path, name: str, threads: int, script: Path, *, save: bool) -> dict[str, Any]:
    """Build an index in a process of its own; return what it took.

    Raises
    ------
    UnavailableError
        If the engine is not installed, has no form for these rows, or its process fails.
    """
    task = {"folder": str(folder), "engine": name, "threads": threads, "save": save}
    done = subprocess.run(
        [sys.executable, str(script), "--child", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"its build ended with exit code {done.returncode}")
    # Libraries print too, some when the process ends.
    answers = [line.removeprefix(_ANSWER) for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    answer: dict[str, Any] = json.loads(answers[0])
    if "unavailable" in answer:
        raise UnavailableError(answer["unavailable"])
    return answer


def build_missing(
    folder: Path, names: Sequence[str], threads: Sequence[int], script: Path, say: Callable[[str], None]
) -> list[str]:
    """Build the indexes that the folder lacks; return the names of those that exist.

    The first of `threads` builds the index that is kept. A build by more threads only measures the time.
    """
    there = []
    for asked in names:
        name = built_as(asked)
        try:
            for count in threads:
                if not _is_built(folder, name, count):
                    known = build(folder, name, count, script, save=count == threads[0])
                    (folder / f"{name}.{count}.json").write_text(json.dumps(known))
                    say(f"built {name}: {known['cpu_seconds']:.1f} s of processor time, {count} threads")
        except UnavailableError as reason:
            say(f"skipped {asked}: {reason}")
        if _is_built(folder, name, threads[0]) and (folder / name).is_dir():
            there.append(asked)
    return there


def _is_built(folder: Path, name: str, threads: int) -> bool:
    known = build_times(folder, name).get(threads)
    is_ours = name not in ENGINES or name == "flat"
    return known is not None and (not is_ours or known["package"] == _package())


def build_times(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """Return what is known of the builds of an engine, by number of threads."""
    found = (json.loads(file.read_text()) for file in sorted(folder.glob(f"{built_as(name)}.[0-9]*.json")))
    return {known["threads"]: known for known in found}


def points_in(folder: Path, name: str, data: Data, threads: int, slowest: float) -> Points:
    """Load an engine, and return the points that are worth timing."""
    engine = loaded(folder, name, data.rows, threads)
    size = engine.bytes_of(folder / built_as(name), data.rows)
    return Points(name, engine, points_of(engine, data, slowest), size, engine.instruction_sets())


def loaded(folder: Path, name: str, rows: F32, threads: int) -> Engine:
    """Return an engine with the index that the folder keeps."""
    engine = engine_of(name, threads)
    engine.load(folder / built_as(name), rows)
    return engine


# ---- points


class Point(NamedTuple):
    """An engine at a setting of its knob: recall@10, and if it is ours the number of codes that a query scores."""

    knob: Knob
    recall: float
    scored: float | None


@dataclass
class Points:
    """The measured points of one engine: microseconds a query by wall clock and processor, of each round."""

    name: str
    engine: Engine
    points: list[Point]
    bytes: dict[str, float]
    instructions: str
    wall: dict[str, list[list[float]]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    used: dict[str, list[list[float]]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    def curve(self, mode: str, number: int, clock: str = "wall") -> Iterator[tuple[float, float]]:
        """Yield recall and microseconds of each point in a round."""
        times = (self.wall if clock == "wall" else self.used)[mode][number]
        yield from zip((point.recall for point in self.points), times, strict=True)

    def run_round(self, queries: Any, seconds: float) -> None:
        """Give each point a turn with all queries in a call, and one with a query a call."""
        singles = [queries[i : i + 1] for i in range(min(SINGLES, len(queries)))]
        for mode in MODES:
            wall, used = [], []
            for point in self.points:
                search = self.engine.at(point.knob)
                if mode == "batch":
                    rate, busy = turn(search.batch, [queries], seconds)
                else:
                    rate, busy = turn(search.one, singles, seconds)
                wall.append(1e6 / rate)
                used.append(1e6 * busy / rate)
            self.wall[mode].append(wall)
            self.used[mode].append(used)


def points_of(engine: Engine, data: Data, slowest: float) -> list[Point]:
    """Return the points with a recall that matters, by sweeps of the knob; also the warm-up.

    A sweep ends at the first point with nearly all results, or where recall hardly rises, or whose queries take more
    than `slowest` microseconds of processor time.
    """
    queries = engine.prepare(data.queries)
    points: list[Point] = []
    for sweep in engine.sweeps:
        last: list[float] = []
        for knob in sweep:
            begin = time.process_time()
            recall = recall_at_k(np.asarray(engine.at(knob).batch(queries)).astype(np.int64), data.truth, K)
            took = (time.process_time() - begin) / len(data.queries) * 1e6
            if recall >= _LEAST:
                scored = engine.scored(data.queries, knob)
                points.append(Point(knob, recall, scored))
            last = [*last[-2:], recall]
            is_flat = len(last) == 3 and last[0] >= _LEAST and max(last) - last[0] < _GAIN
            if recall >= _ENOUGH or is_flat or (took > slowest and recall >= _LEAST):
                break
    return points


def at_recall(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the cost at a recall, between the points that no other point beats; None if no point reaches it.

    Costs between two points follow their logarithm, linear in recall. A target below all points has the cost of the
    cheapest point.

    Parameters
    ----------
    curve : sequence of (float, float)
        Recall and cost of each point, in any order.
    target : float
        The recall.
    """
    best: list[tuple[float, float]] = []
    for recall, cost in sorted(curve, key=lambda pair: (pair[1], -pair[0])):
        if not best or recall > best[-1][0]:
            best.append((recall, cost))
    for number, (recall, cost) in enumerate(best):
        if recall >= target:
            if number == 0:
                return cost
            below, cheaper = best[number - 1]
            share = (target - below) / (recall - below)
            return float(cheaper * (cost / cheaper) ** share)
    return None
