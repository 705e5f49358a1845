"""Measurement of indexes on one data set, turn by turn in one process: recall, bytes and speed, as lines for JSON.

In every round each index has one turn with all queries in a call and one turn with a query per call, so that a
disturbance of the machine affects all indexes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex.backends.cpu import chosen_isa
from vqindex_datasets.recall import recall_1_at_k, recall_at_k

from .peers import EFS, Built, Peer, Settings, UnavailableError

__all__ = [
    "MODES",
    "THREAD_VARIABLES",
    "Contender",
    "Data",
    "contenders_of",
    "machine",
    "measure",
    "on_processors",
    "quartiles",
    "turn",
    "versions",
]

F32 = NDArray[np.float32]
SINGLE_CALLS = 200
MODES = ("batch", "single")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_PACKAGES = (
    *("vqindex", "numpy", "turbovec", "faiss-cpu", "usearch", "numkong", "scann", "hnswlib"),
    *("pyglass-portable", "rabitqlib", "scalable-vs"),
)

Step = Callable[[int, "int | None"], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """Rows (n, d), queries (nq, d), both of unit length for cosine, and the true neighbors' rows (nq, >= k)."""

    name: str
    rows: F32
    queries: F32
    truth: NDArray[np.int64]
    metric: str


@dataclass(frozen=True)
class Contender:
    """One index of a run: its label, bits per coordinate, builder, and more fields for its line.

    Contenders of one ``family`` share a builder, which is reported once if it fails, and a color.
    """

    label: str
    bits: int
    build: Callable[[F32, int, Settings], Built]
    fields: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""


def contenders_of(peers: Sequence[Peer], widths: Sequence[int], efs: Sequence[int] = EFS) -> list[Contender]:
    """Return every peer at every width, narrow ones first; `measure` skips widths that a peer does not have.

    A graph is one contender for each of `efs`; they share one build.
    """

    def checked(peer: Peer) -> Callable[[F32, int, Settings], Built]:
        def build(rows: F32, bits: int, settings: Settings) -> Built:
            if bits not in peer.widths:
                raise UnavailableError(f"no {bits}-bit form")
            return peer.build(rows, bits, settings)

        return build

    contenders: list[Contender] = []
    pairs = sorted({(b, i) for i, peer in enumerate(peers) for b in _widths_of(peer, widths)})
    for bits, i in pairs:
        build = checked(peers[i])
        if peers[i].is_graph:
            contenders += _sweep(peers[i].label, bits, build, efs)
        else:
            contenders.append(Contender(peers[i].label, bits, build))
    return contenders


def _widths_of(peer: Peer, widths: Sequence[int]) -> Sequence[int]:
    return peer.reference if peer.is_graph else (*widths, *peer.reference)


def _sweep(
    label: str, bits: int, build: Callable[[F32, int, Settings], Built], efs: Sequence[int]
) -> Iterator[Contender]:
    """Yield a contender for each ef; the first that is asked builds, for all."""
    shared: list[tuple[F32, Settings, Built]] = []

    def at(ef: int) -> Callable[[F32, int, Settings], Built]:
        def search_at(rows: F32, bits: int, settings: Settings) -> Built:
            if ef < settings.k:
                raise UnavailableError(f"ef {ef} is less than k, {settings.k}")
            if not (shared and shared[0][0] is rows and shared[0][1] == settings):
                shared[:] = [(rows, settings, build(rows, bits, settings))]
            built = shared[0][2]
            if built.at_ef is None:
                raise TypeError(f"{label} has no at_ef; expected a graph")
            return replace(built, search=built.at_ef(ef))

        return search_at

    for ef in sorted(set(efs)):
        yield Contender(f"{label}, ef {ef}", bits, at(ef), {"ef": ef}, family=label)


@contextlib.contextmanager
def on_processors(threads: int) -> Iterator[None]:
    """Run on the last `threads` processors that this process may use, with thread pools of that size.

    Libraries read the size of their pools when they are loaded, so the size affects only libraries loaded later; the
    processors limit the others. On systems that can't restrict processors, only the pools are limited.

    Raises
    ------
    ValueError
        If this process may use fewer processors.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    count = len(allowed) if allowed else os.cpu_count() or 1
    if count < threads:
        raise ValueError(f"{threads} threads asked for; this process may use {count} processors")
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        if allowed:
            os.sched_setaffinity(0, allowed[-threads:])
        yield
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def machine() -> dict[str, Any]:
    """Return the processor, its cores, and the versions of Python and NumPy."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = models[0] if models else model
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__}


def versions() -> dict[str, str]:
    """Return the version of every package, and the instruction sets of vqindex and faiss."""
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in _PACKAGES if name in installed}
    with contextlib.suppress(ImportError):
        import faiss

        found["faiss options"] = faiss.get_compile_options().strip()
    return {**found, "vqindex isa": chosen_isa()}


def _build_all(
    contenders: Sequence[Contender], rows: F32, settings: Settings, note: Note, skip: Note, step: Step
) -> list[tuple[Contender, Built]]:
    """Build all available indexes; report the others to `skip`."""
    built = []
    reported: set[str] = set()
    for number, contender in enumerate(contenders):
        step(number, len(contenders))
        what = f"{contender.family or contender.label} {contender.bits} bits"
        try:
            built.append((contender, contender.build(rows, contender.bits, settings)))
            note(f"built {what}: {built[-1][1].build_seconds:.2f} s")
        except UnavailableError as reason:
            text = f"skipped {what}: {reason}"
            if text not in reported:
                skip(text)
            reported.add(text)
    step(len(contenders), len(contenders))
    return built


def turn(search: Callable[[Any], Any], blocks: Sequence[Any], seconds: float) -> tuple[float, float]:
    """Search all blocks repeatedly for `seconds`; return queries per second, and processor time over wall time."""
    done, start, used = 0, time.perf_counter(), time.process_time()
    while True:
        for block in blocks:
            search(block)
            done += len(block)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return done / elapsed, (time.process_time() - used) / elapsed


def _run_rounds(
    indexes: Sequence[Built], queries: F32, rounds: int, seconds: float, note: Note, step: Step
) -> list[dict[str, NDArray[np.float64]]]:
    """Run `rounds` rounds; return for each index rates and processor shares, shape (rounds,), by mode."""
    blocks: list[dict[str, list[Any]]] = []
    for index in indexes:
        prepared = index.prepare(queries)
        single = [prepared[i % len(queries)][None] for i in range(SINGLE_CALLS)]
        blocks.append({"batch": [prepared], "single": single})
    measured: list[dict[str, list[float]]] = [
        {name: [] for mode in MODES for name in (mode, f"{mode}_busy")} for _ in indexes
    ]
    turns = 0
    for number in range(rounds):
        for mode in MODES:
            for index, block, result in zip(indexes, blocks, measured, strict=True):
                rate, busy = turn(index.search, block[mode], seconds)
                result[mode].append(rate)
                result[f"{mode}_busy"].append(busy)
                turns += 1
                step(turns, rounds * len(MODES) * len(indexes))
        note(f"round {number + 1} of {rounds} done")
    return [{name: np.array(values) for name, values in result.items()} for result in measured]


def quartiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return median and quartiles to four digits."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {name: float(f"{v:.4g}") for name, v in (("median", middle), ("q1", low), ("q3", high))}


def _speed(
    mine: dict[str, NDArray[np.float64]], base: dict[str, NDArray[np.float64]] | None
) -> dict[str, dict[str, float] | None]:
    """Return queries per second, the ratio to turbovec round by round (or None), and the processors used."""
    out: dict[str, dict[str, float] | None] = {}
    for mode in MODES:
        out[f"{mode}_qps"] = quartiles(mine[mode])
        out[f"{mode}_ratio_to_turbovec"] = quartiles(mine[mode] / base[mode]) if base else None
        out[f"{mode}_processors_used"] = quartiles(mine[f"{mode}_busy"])
    return out


def _nothing(done: int, total: int | None) -> None:
    pass


def measure(
    contenders: Sequence[Contender],
    data: Data,
    settings: Settings,
    *,
    rounds: int,
    seconds: float,
    skip: Note,
    note: Note = lambda text: None,
    phase: Callable[[str], contextlib.AbstractContextManager[Step]] = lambda label: contextlib.nullcontext(_nothing),
) -> list[dict[str, Any]]:
    """Build, search and time all contenders.

    Parameters
    ----------
    contenders : sequence of Contender
        The indexes.
    data : Data
        Rows, queries and truth; k of `settings` may not exceed the width of the truth.
    settings : Settings
        Settings of all indexes: k, threads, metric.
    rounds : int
        Turns of each index in each mode.
    seconds : float
        Least length of a turn.
    skip, note : callable
        Functions that take a line of text: about a skipped index, or about progress.
    phase : callable
        Takes a label and returns a context manager of ``step(done, total)``, such as `output.progress_bar`.

    Returns
    -------
    list of dict
        One line, in JSON types, per index that was built: recall, bytes, build seconds, and the median and quartiles
        of its speed over the rounds.
    """
    head = {"data": data.name, "n": len(data.rows), "dim": data.rows.shape[1], "metric": data.metric, "k": settings.k}
    head |= {"queries": len(data.queries), "single_calls": SINGLE_CALLS, "threads": settings.threads, "rounds": rounds}
    with phase("building") as step:
        built = _build_all(contenders, data.rows, settings, note, skip, step)
    run = {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}
    recalls = []
    with phase("recall") as step:  # also the warm-up
        for number, (_, index) in enumerate(built):
            step(number, len(built))
            found = index.search(index.prepare(data.queries))
            recalls.append(
                {
                    "recall_at_k": recall_at_k(found, data.truth, settings.k),
                    "recall_1_at_k": recall_1_at_k(found, data.truth, settings.k),
                    "recall_1_at_1": recall_1_at_k(found, data.truth, 1),
                }
            )
    with phase("timing") as step:
        rates = _run_rounds([index for _, index in built], data.queries, rounds, seconds, note, step)
    turbovec = {c.bits: rate for (c, _), rate in zip(built, rates, strict=True) if c.label == "turbovec"}
    lines = []
    for (contender, index), recall, rate in zip(built, recalls, rates, strict=True):
        mine = {"index": contender.label, "bits": contender.bits, **contender.fields}
        mine |= {"family": contender.family} if contender.family else {}
        mine |= {"bytes_per_vector": index.bytes_per_vector, "counted": index.counted, **recall}
        mine["build_seconds"] = float(f"{index.build_seconds:.4g}")
        lines.append({**head, **mine, **_speed(rate, turbovec.get(contender.bits)), **run})
    return lines
