"""The parts of graph.py that concern our index alone: growth, filters, changes of the rows, and asked recalls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from graph_engines import Engine, K, Knob, Ours
from graph_measure import MODES, SINGLES, at_recall, points_of
from numpy.typing import NDArray

import vqindex
from vqindex_bench.contest import Data, quartiles, turn
from vqindex_datasets import exact_neighbors, growing_mixture
from vqindex_datasets.recall import recall_at_k

__all__ = ["FILTERS", "changes_of", "filters_of", "growth_of", "tuning_of"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Line = dict[str, Any]
FILTERS = ("random", "near", "far")
_REMOVED = 0.3
_NEW = 0.1  # share of rows of another distribution
_OTHER_SEED = 1_000


def _exact(rows: F32, queries: F32) -> I64:
    return exact_neighbors(rows, queries, min(K, len(rows)), "angular")[0]


def _recall(index: Any, queries: F32, truth: I64, knob: Knob, **more: Any) -> tuple[float, float]:
    """Return recall@10, and the codes that a query scores on average."""
    found = index.search(queries, K, threads=1, explain=True, **knob, **more)
    return recall_at_k(found.ids, truth, min(K, truth.shape[1])), float(np.mean(found.explanation.scored))


# ---- growth


def growth_of(data: Data, engine: Engine, targets: Sequence[float], slowest: float) -> Line:
    """Return how many codes a query scores at each recall."""
    points = points_of(engine, data, slowest)
    curve = [(point.recall, point.scored) for point in points if point.scored is not None]
    found = {f"{target:g}": at_recall(curve, target) for target in targets}
    return {
        "index": engine.label,
        "scored": {key: value if value is None else float(f"{value:.4g}") for key, value in found.items()},
        "points": [{**point.knob, "recall_at_10": point.recall, "scored": point.scored} for point in points],
    }


# ---- filters


def _allowed(rows: F32, share: float, kind: str) -> I64:
    """Return the rows of a filter: random ones, or those nearest to or farthest from ten of the rows."""
    n = len(rows)
    count = max(1, round(share * n))
    rng = np.random.default_rng(1)
    if kind == "random":
        return np.sort(rng.choice(n, count, replace=False))
    near = np.max([np.asarray(rows @ rows[i]) for i in rng.choice(n, 10, replace=False)], axis=0)
    order = np.argsort(-near if kind == "near" else near, kind="stable")
    return np.sort(order[:count])


@contextlib.contextmanager
def _always_walking() -> Iterator[None]:
    """Let filtered searches walk, whatever the share of rows, and never give up."""
    from vqindex.search import walker

    kept = walker.walks, walker.budget_of
    walker.walks = lambda *_: True
    walker.budget_of = lambda selected, rows: 2**62
    try:
        yield
    finally:
        walker.walks, walker.budget_of = kept


def filters_of(
    data: Data, engine: Ours, knob: Knob, shares: Sequence[float], kind: str, rounds: int, seconds: float
) -> Iterator[Line]:
    """Yield a line for each share of rows: times and recall of the walk, of the gather, and of what the index takes."""
    index, queries = engine.index, data.queries
    plain = {name: value for name, value in knob.items() if name != "effort"}
    singles = [queries[i : i + 1] for i in range(min(SINGLES, len(queries)))]
    for share in shares:
        rows = _allowed(data.rows, share, kind)
        truth = rows[_exact(data.rows[rows], queries)]
        mask = np.zeros(len(data.rows), bool)
        mask[rows] = True
        chosen = vqindex.bitmap(np.packbits(mask, bitorder="little"))

        def searched(how: str, block: F32, chosen: Any = chosen) -> NDArray[Any]:
            arguments = {**plain, "exact": True} if how == "gather" else knob
            with _always_walking() if how == "walk" else contextlib.nullcontext():
                return index.search(block, K, filter=chosen, threads=engine.threads, **arguments).ids

        ways = ("walk", "gather", "chosen")
        recalls = {how: recall_at_k(searched(how, queries), truth, truth.shape[1]) for how in ways}
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for mode, blocks in (("batch", [queries]), ("single", singles)):
                for how in ways:
                    rate, busy = turn(lambda block, how=how: searched(how, block), blocks, seconds)
                    times.setdefault((mode, how), []).append(1e6 * busy / rate)
        line: Line = {
            "index": engine.label,
            "knob": dict(knob),
            "filter": kind,
            "share": share,
            "recall_at_10": recalls,
        }
        for mode in MODES:
            mine = {how: np.array(times[mode, how]) for how in ways}
            line[f"{mode}_cpu_microseconds"] = {how: quartiles(mine[how]) for how in ways}
            # A walk that loses results is no rival.
            enough = recalls["walk"] >= 0.99 * recalls["gather"]
            best = np.minimum(mine["walk"], mine["gather"]) if enough else mine["gather"]
            line[f"{mode}_chosen_ratio_to_best"] = quartiles(mine["chosen"] / best)
        yield line


# ---- changes


def _linked(engine: Ours, *parts: F32) -> Any:
    """Return an index with a graph, of rows that are added part by part; the graph exists from the first part on."""
    index = engine.new(parts[0].shape[1])
    index.add(parts[0])
    index.build_graph(32)
    for part in parts[1:]:
        index.add(part)
    return index


def _cells(rows: F32) -> I64:
    """Return the number of the nearest of some sampled rows, for each row."""
    sample = rows[np.random.default_rng(3).choice(len(rows), max(2, int(len(rows) ** 0.5)), replace=False)]
    return np.concatenate([(rows[i : i + 65536] @ sample.T).argmax(axis=1) for i in range(0, len(rows), 65536)])


def _compared(what: str, one: Any, fresh: Any, tests: dict[str, tuple[F32, I64, I64]], knobs: Sequence[Knob]) -> Line:
    """Return recall and scored codes of two indexes of the same rows at equal effort.

    A test is queries, and their true rows in the ids of either index.
    """
    points = []
    for knob in knobs:
        for test, (queries, truth, fresh_truth) in tests.items():
            recall, scored = _recall(one, queries, truth, knob)
            fresh_recall, fresh_scored = _recall(fresh, queries, fresh_truth, knob)
            points.append(
                {
                    **knob,
                    "test": test,
                    "recall_at_10": recall,
                    "scored": scored,
                    "fresh_recall_at_10": fresh_recall,
                    "fresh_scored": fresh_scored,
                }
            )
    return {
        "change": what,
        "points": points,
        "most_lost": max(p["fresh_recall_at_10"] - p["recall_at_10"] for p in points),
    }


def changes_of(data: Data, engine: Ours, efforts: Sequence[int]) -> Iterator[Line]:
    """Yield a line for each change, sorted rows, another distribution, removed rows, each beside a new build."""
    rows, queries, truth = np.asarray(data.rows), data.queries, data.truth
    n, dim = rows.shape
    plain = {"rerank": True, "oversample": 4} if engine.keep else {}
    knobs = [{"effort": effort, **plain} for effort in efforts]
    shuffle = np.random.default_rng(5).permutation(n)
    place = np.argsort(shuffle)  # of each row in the shuffled order
    shuffled = _linked(engine, rows[shuffle])

    by_cell = np.argsort(_cells(rows), kind="stable")
    index = _linked(engine, rows[by_cell])
    test = {"queries": (queries, np.argsort(by_cell)[truth], place[truth])}
    yield _compared("sorted by cell", index, shuffled, test, knobs)
    del index

    many = max(1024, round(_NEW * n))
    new, asked = growing_mixture(many, dim, queries=len(queries), seed=_OTHER_SEED)
    new, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (new, asked))
    both = np.concatenate([rows, new])
    order = np.random.default_rng(6).permutation(len(both))
    back = np.argsort(order)
    old_truth, new_truth = _exact(both, queries), _exact(both, asked)
    index, mixed = _linked(engine, rows, new), _linked(engine, both[order])
    tests = {"old": (queries, old_truth, back[old_truth]), "new": (asked, new_truth, back[new_truth])}
    yield _compared("another distribution added", index, mixed, tests, knobs)
    del index, mixed, both, shuffled

    rng = np.random.default_rng(7)
    cells = _cells(rows)
    of_cells = np.cumsum(np.bincount(cells)[(order := rng.permutation(cells.max() + 1))])
    whole = np.isin(cells, order[: int(np.searchsorted(of_cells, _REMOVED * n))])
    for what, gone in (("30 % removed", rng.random(n) < _REMOVED), ("30 % removed, whole cells", whole)):
        live = np.flatnonzero(~gone)
        again = rng.permutation(live)
        left = live[_exact(rows[live], queries)]
        back = np.full(n, -1)
        back[again] = np.arange(len(again))
        index, fresh = _linked(engine, rows), _linked(engine, rows[again])
        index.remove(np.flatnonzero(gone))
        yield _compared(f"{what}, walked through", index, fresh, {"queries": (queries, left, back[left])}, knobs)
        index.compact()
        yield _compared(f"{what}, repaired", index, fresh, {"queries": (queries, left, back[left])}, knobs)


# ---- asked recall


def tuning_of(data: Data, engine: Ours, asked: Sequence[float], rounds: int, seconds: float) -> Iterator[Line]:
    """Yield a line for each recall that is asked for, on queries that the index was not tuned on.

    The index is tuned on its own rows, or on half of the queries. The other half is searched.
    """
    index = engine.index
    half = len(data.queries) // 2
    queries, truth = data.queries[half:], data.truth[half:]
    plain = {"rerank": True, "oversample": 4} if engine.keep else {}
    everything = index.search(queries, K, exact=True, threads=1, **plain)
    singles = [queries[i : i + 1] for i in range(min(SINGLES, len(queries)))]
    for tuned_on, given in (("rows of the index", None), ("half of the queries", data.queries[:half])):
        index.tune(given, k=K, threads=engine.threads)
        for recall in asked:
            knob = {**plain, "recall": recall}
            found = index.search(queries, K, explain=True, threads=engine.threads, **knob)
            times: dict[str, list[float]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode, blocks in (("batch", [queries]), ("single", singles)):
                    rate, busy = turn(
                        lambda block, knob=knob: index.search(block, K, threads=engine.threads, **knob), blocks, seconds
                    )
                    times[mode].append(1e6 * busy / rate)
            agreement = recall_at_k(found.ids, everything.ids, K)
            reached = recall_at_k(found.ids, truth, K)
            yield {
                "index": engine.label,
                "tuned_on": tuned_on,
                "asked": recall,
                "agreement_with_scan": agreement,
                "recall_at_10": reached,
                "scan_recall_at_10": recall_at_k(everything.ids, truth, K),
                "standard_error": float(
                    np.std([len(set(a) & set(b)) / K for a, b in zip(found.ids.tolist(), truth.tolist(), strict=True)])
                    / len(queries) ** 0.5
                ),
                "effort": found.explanation.effort,
                "scored": float(np.mean(found.explanation.scored)),
                **{f"{mode}_cpu_microseconds": quartiles(np.array(times[mode])) for mode in MODES},
            }
