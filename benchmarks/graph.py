"""The graph beside other indexes that search a part of the rows: recall against time, build, bytes; and what it bears.

    python benchmarks/graph.py build   --data FILE.hdf5 --cache DIR [--only hnswlib ...] [--build-threads 1 2]
    python benchmarks/graph.py peers   --data FILE.hdf5 --cache DIR [--only ...] [--rounds 5] [--plot]
    python benchmarks/graph.py builds  --data FILE.hdf5 --cache DIR [--only ...] [--build-threads 1 2]
    python benchmarks/graph.py growth  --mixture 1000000 128 --cache DIR [--sizes 100000 300000 1000000]
    python benchmarks/graph.py filters --data FILE.hdf5 --cache DIR [--shares 1 0.1 0.01]
    python benchmarks/graph.py changes --data FILE.hdf5 --cache DIR
    python benchmarks/graph.py tune    --data FILE.hdf5 --cache DIR

Every index is built by a process of its own and kept in the cache, with the time of its build; ours is built anew when
the package has changed. In every round each index has a turn at each setting of its knob. Appends JSON lines to
results/graph.jsonl. benchmarks/README.md defines the values.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from graph_changes import FILTERS, changes_of, filters_of, growth_of, tuning_of
from graph_engines import ENGINES, Ours, ours
from graph_measure import (
    MODES,
    SINGLES,
    Points,
    at_recall,
    build,
    build_missing,
    build_times,
    built_as,
    child,
    folder_of,
    loaded,
    mixture_data,
    points_in,
    points_of,
    read_data,
)
from peers import pin

from vqindex_bench.contest import Data, machine, quartiles, versions
from vqindex_bench.peers import UnavailableError
from vqindex_cli.output import show_table

TARGETS = (0.9, 0.95, 0.99)
SHARES = (1.0, 0.5, 0.2, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
BASE = "hnswlib"  # ratios are to this engine, in the same round
CLOCKS = {"wall": "microseconds", "cpu": "cpu_microseconds"}
DEFAULT = ["ours-prod4-f16", *ENGINES]
Line = dict[str, Any]


def say(text: str) -> None:
    print(text, flush=True)


# ---- the contest with peers


def run_rounds(contest: Sequence[Points], data: Data, folder: Path, args: argparse.Namespace) -> None:
    """Run all rounds; with --reload an index is in memory only in its turn."""
    for number in range(args.rounds):
        for one in contest:
            if args.reload:
                one.engine = loaded(folder, one.name, data.rows, args.threads)
            one.run_round(one.engine.prepare(data.queries), args.turn_seconds)
            if args.reload:
                one.engine.index = None
        say(f"round {number + 1} of {args.rounds} done")


def costs(one: Points, mode: str, clock: str, target: float) -> list[float] | None:
    """Return the microseconds at a recall, round by round; None if no point reaches it."""
    found = [at_recall(list(one.curve(mode, number, clock)), target) for number in range(len(one.wall[mode]))]
    return None if None in found else [cost for cost in found if cost is not None]


def line_of(one: Points, base: Points | None, folder: Path, data: Data) -> Line:
    """Return the result of an engine, in JSON types."""
    places: Line = {}
    for target in TARGETS:
        place = places[f"{target:g}"] = {}
        for mode in MODES:
            for clock, name in CLOCKS.items():
                mine = costs(one, mode, clock, target)
                other = costs(base, mode, clock, target) if base else None
                place[f"{mode}_{name}"] = quartiles(np.array(mine)) if mine else None
                ratio = quartiles(np.array(other) / np.array(mine)) if mine and other else None
                place[f"{mode}_{name}_ratio_to_{BASE}"] = ratio
        place["scored"] = at_recall([(p.recall, p.scored) for p in one.points if p.scored is not None], target)
    points = [
        {
            **point.knob,
            "recall_at_10": point.recall,
            "scored": point.scored,
            **{f"{mode}_microseconds": quartiles(np.array(one.wall[mode])[:, number]) for mode in MODES},
            **{f"{mode}_cpu_microseconds": quartiles(np.array(one.used[mode])[:, number]) for mode in MODES},
        }
        for number, point in enumerate(one.points)
    ]
    times = build_times(folder, one.name)
    builds = {
        str(threads): {key: value for key, value in known.items() if key.endswith("_seconds")}
        for threads, known in sorted(times.items())
    }
    return {
        "engine": one.name,
        "index": one.engine.label,
        "bytes_per_vector": one.bytes,
        "counted": one.engine.counted,
        "build": builds,
        "instruction_sets": one.instructions,
        "at": places,
        "most_recall": max((point.recall for point in one.points), default=0.0),
        "points": points,
    }


def contest_peers(args: argparse.Namespace) -> list[Line]:
    """Compare all engines on one data set."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    folder = folder_of(args.cache, data)
    names = build_missing(folder, args.only or DEFAULT, args.build_threads, Path(__file__), say)
    pin(args.threads)
    contest = []
    for name in names:
        one = points_in(folder, name, data, args.threads, args.slowest)
        best = max((point.recall for point in one.points), default=0)
        say(f"{one.engine.label}: {len(one.points)} points, recall up to {best:.4f}")
        contest.append(one)
        if args.reload:
            one.engine.index = None
    run_rounds(contest, data, folder, args)
    base = next((one for one in contest if one.name == BASE), None)
    head = head_of(args, data) | {"rounds": args.rounds, "single_calls": min(SINGLES, len(data.queries))}
    return [{**head, **line_of(one, base, folder, data), **run_of()} for one in contest]


def head_of(args: argparse.Namespace, data: Data) -> Line:
    return {
        "benchmark": "graph",
        "contest": args.contest,
        "data": data.name,
        "n": len(data.rows),
        "dim": data.rows.shape[1],
        "metric": data.metric,
        "k": 10,
        "queries": len(data.queries),
        "threads": args.threads,
    }


def run_of() -> Line:
    return {"versions": versions(), "date": time.strftime("%Y-%m-%d"), **machine()}


def show_peers(lines: Sequence[Line], clock: str = "wall") -> None:
    """Print times at each recall with ratios to the base, bytes, and builds; then where a peer is ahead of us."""
    unit = CLOCKS[clock]
    for mode in MODES:
        cells = []
        for line in lines:
            row = [line["index"]]
            for target in TARGETS:
                place = line["at"][f"{target:g}"]
                known, ratio = place[f"{mode}_{unit}"], place[f"{mode}_{unit}_ratio_to_{BASE}"]
                most = line["most_recall"]
                text = f"{known['median']:.0f} ({known['q1']:.0f}..{known['q3']:.0f})" if known else f"max {most:.3f}"
                row += [text, f"{ratio['median']:.2f}" if ratio else "-"]
            cells.append(tuple(row))
        columns = [name for target in TARGETS for name in (f"us at {target:g}", f"{BASE} /")]
        show_table((f"{mode}, {clock} clock", *columns), cells)
    show_table(
        ("index", "bytes", "parts", "build cpu s", "1 thread s", "2 threads s", "scored .9/.95/.99"),
        [
            (
                line["index"],
                round(line["bytes_per_vector"]["all"]),
                ", ".join(f"{key} {value:.0f}" for key, value in line["bytes_per_vector"].items() if key != "all"),
                line["build"].get("1", {}).get("cpu_seconds", "-"),
                line["build"].get("1", {}).get("wall_seconds", "-"),
                line["build"].get("2", {}).get("wall_seconds", "-"),
                " / ".join("-" if at["scored"] is None else f"{at['scored']:.0f}" for at in line["at"].values()),
            )
            for line in lines
        ],
    )
    for text in ahead(lines, unit):
        say(text)


def ahead(lines: Sequence[Line], unit: str) -> list[str]:
    """Return a line of text for each recall and mode at which a peer is faster than the best of ours, with bytes."""

    def told(cost: float, line: Line) -> str:
        return f"{line['index']} {cost:.0f} us, {line['bytes_per_vector']['all']:,.0f} bytes"

    found = []
    for target in TARGETS:
        for mode in MODES:
            places = [(line["at"][f"{target:g}"][f"{mode}_{unit}"], line) for line in lines]
            times = sorted(((known["median"], line) for known, line in places if known), key=lambda pair: pair[0])
            mine = next((pair for pair in times if pair[1]["index"].startswith("vqindex")), None)
            text = "none of ours reaches it" if mine is None else f"ours: {told(*mine)}"
            for pair in times:
                if pair is mine:
                    break
                found.append(f"ahead at {target:g}, {mode}: {told(*pair)}; {text}")
    return found


def plot(path: Path, lines: Sequence[Line]) -> None:
    """Draw recall over queries per second, in batches and one a call."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODES), figsize=(15, 6.5), dpi=120, sharey=True)
    head = lines[0]
    for axis, mode in zip(axes, MODES, strict=True):
        for number, line in enumerate(lines):
            known = [(p["recall_at_10"], 1e6 / p[f"{mode}_microseconds"]["median"]) for p in line["points"]]
            best = sorted(
                (r, q) for r, q in known if not any((a >= r and b > q) or (a > r and b >= q) for a, b in known)
            )
            if not best:
                continue
            ours_too = line["index"].startswith("vqindex")
            recalls, rates = zip(*best, strict=True)
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            axis.plot(
                rates, recalls, marker="o", markersize=3, linewidth=2.5 if ours_too else 1, label=line["index"], **style
            )
        axis.set_xscale("log")
        axis.set_xlabel(f"queries per second, {'all in one call' if mode == 'batch' else 'one a call'}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("recall@10")
    axes[1].legend(fontsize=8)
    figure.suptitle(f"{head['data']}: {head['n']:,} x {head['dim']}, {head['threads']} thread(s), {head['cpu']}")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


# ---- builds


def contest_builds(args: argparse.Namespace) -> list[Line]:
    """Build all engines turn by turn, and keep nothing."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    names = list(dict.fromkeys(built_as(name) for name in args.only or DEFAULT))
    took: dict[tuple[str, int], list[Line]] = {}
    for number in range(args.rounds):
        for name in list(names):
            for threads in args.build_threads:
                try:
                    known = build(folder_of(args.cache, data), name, threads, Path(__file__), save=False)
                except UnavailableError as reason:
                    say(f"skipped {name}: {reason}")
                    names.remove(name)
                    break
                took.setdefault((name, threads), []).append(known)
        say(f"round {number + 1} of {args.rounds} done")
    lines = []
    for (name, threads), all_known in took.items():
        line: Line = {"engine": name, "build_threads": threads, "rounds": len(all_known)}
        for key in (key for key in all_known[0] if key.endswith("_seconds")):
            mine = np.array([known[key] for known in all_known])
            line[key] = quartiles(mine)
            for what, other in ((BASE, took.get((BASE, threads))), ("one_thread", took.get((name, 1)))):
                if other is not None and len(other) == len(mine) and key in other[0]:
                    line[f"{key}_ratio_to_{what}"] = quartiles(np.array([known[key] for known in other]) / mine)
        lines.append({**head_of(args, data), **line, **run_of()})
    return lines


def show_builds(lines: Sequence[Line]) -> None:
    def cell(line: Line, name: str) -> str:
        return f"{line[name]['median']:.4g}" if name in line else "-"

    names = ("cpu_seconds", f"cpu_seconds_ratio_to_{BASE}", "wall_seconds", "wall_seconds_ratio_to_one_thread")
    show_table(
        ("engine", "threads", "cpu s", f"{BASE} /", "wall s", "one thread /"),
        [(line["engine"], line["build_threads"], *(cell(line, name) for name in names)) for line in lines],
    )


# ---- contests of our index alone


def own_engine(args: argparse.Namespace, data: Data, name: str) -> Ours:
    """Return our engine with its index, which is built if the cache lacks it."""
    folder = folder_of(args.cache, data)
    if not build_missing(folder, [name], args.build_threads, Path(__file__), say):
        raise SystemExit(f"{name} can't be built")
    engine = loaded(folder, name, data.rows, args.threads)
    if not isinstance(engine, Ours):
        raise SystemExit(f"{name} is not ours; expected a name such as {DEFAULT[0]}")
    return engine


def own_names(args: argparse.Namespace) -> list[str]:
    return [name for name in args.only or DEFAULT[:1] if name not in ENGINES]


def contest_growth(args: argparse.Namespace) -> list[Line]:
    """Count the codes that queries score as the mixture grows."""
    if args.mixture is None:
        raise SystemExit("growth needs --mixture: a part of a file is not what it was when the file was small")
    lines = []
    for n in args.sizes:
        data = mixture_data(args.cache, n, args.mixture[1], args.queries)
        for name in own_names(args):
            line = growth_of(data, own_engine(args, data, name), TARGETS, args.slowest)
            lines.append({**head_of(args, data), "engine": name, **line, **run_of()})
            say(f"{n:,} rows, {name}: scored {line['scored']}")
    return lines


def contest_filters(args: argparse.Namespace) -> list[Line]:
    """Time walks, gathers and the choice between them."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    lines = []
    for name in own_names(args):
        engine = own_engine(args, data, name)
        points = points_of(engine, data, args.slowest)
        knob = next((dict(point.knob) for point in points if point.recall >= args.filter_recall), None)
        if knob is None:
            raise SystemExit(f"{name} does not reach recall {args.filter_recall:g} without a filter")
        for kind in args.filters:
            for line in filters_of(data, engine, knob, args.shares, kind, args.rounds, args.turn_seconds):
                lines.append({**head_of(args, data), "engine": name, "rounds": args.rounds, **line, **run_of()})
                say(f"{kind} {line['share']:g}: chosen / best {line['batch_chosen_ratio_to_best']['median']:.2f}")
    return lines


def contest_changes(args: argparse.Namespace) -> list[Line]:
    """Compare recall after changes with that of new builds."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    lines = []
    for name in own_names(args):
        for line in changes_of(data, ours(name)(args.threads), args.efforts):
            lines.append({**head_of(args, data), "engine": name, **line, **run_of()})
            say(f"{line['change']}: recall lost at equal effort, at most {line['most_lost']:.4f}")
    return lines


def contest_tune(args: argparse.Namespace) -> list[Line]:
    """Compare asked and reached recall."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    lines = []
    for name in own_names(args):
        for line in tuning_of(data, own_engine(args, data, name), args.asked, args.rounds, args.turn_seconds):
            lines.append({**head_of(args, data), "engine": name, "rounds": args.rounds, **line, **run_of()})
            say(f"asked {line['asked']:g}, reached {line['recall_at_10']:.4f}")
    return lines


def show_growth(lines: Sequence[Line]) -> None:
    show_table(
        ("index", "rows", *(f"scored at {target:g}" for target in TARGETS)),
        [(line["index"], line["n"], *(line["scored"][f"{target:g}"] or "-" for target in TARGETS)) for line in lines],
    )


def show_filters(lines: Sequence[Line]) -> None:
    ways = ("walk", "gather", "chosen")
    show_table(
        ("filter", "share", *(f"recall {way}" for way in ways), *(f"{m} {w}" for m in MODES for w in (*ways, "/best"))),
        [
            (
                line["filter"],
                line["share"],
                *(round(line["recall_at_10"][way], 4) for way in ways),
                *(
                    cell
                    for mode in MODES
                    for cell in (
                        *(f"{line[f'{mode}_cpu_microseconds'][way]['median']:.0f}" for way in ways),
                        f"{line[f'{mode}_chosen_ratio_to_best']['median']:.2f}",
                    )
                ),
            )
            for line in lines
        ],
    )


def show_changes(lines: Sequence[Line]) -> None:
    show_table(
        ("change", "test", "effort", "recall", "scored", "new build's recall", "scored"),
        [
            (line["change"], p["test"], p["effort"], *(round(p[name], 4) for name in _COMPARED))
            for line in lines
            for p in line["points"]
        ],
    )


_COMPARED = ("recall_at_10", "scored", "fresh_recall_at_10", "fresh_scored")


def show_tuning(lines: Sequence[Line]) -> None:
    show_table(
        ("tuned on", "asked", "recall", "error", "agreement", "effort", "scored", "batch us", "single us"),
        [
            (
                *(line[name] for name in ("tuned_on", "asked")),
                *(round(line[name], 4) for name in ("recall_at_10", "standard_error", "agreement_with_scan")),
                "scan" if line["effort"] is None else line["effort"],
                round(line["scored"]),
                *(round(line[f"{mode}_cpu_microseconds"]["median"]) for mode in MODES),
            )
            for line in lines
        ],
    )


# ---- command line


def only_build(args: argparse.Namespace) -> list[Line]:
    """Fill the cache."""
    data = read_data(args.cache, args.data, args.mixture, args.rows, args.queries)
    build_missing(folder_of(args.cache, data), args.only or DEFAULT, args.build_threads, Path(__file__), say)
    return []


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contest", choices=list(CONTESTS))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="ann-benchmarks file, angular")
    source.add_argument("--mixture", type=int, nargs=2, metavar=("N", "D"), help="the growing mixture")
    parser.add_argument("--rows", type=int, help="only the first rows of the file; true neighbors are computed")
    parser.add_argument("--queries", type=int, default=1000, help="first queries of the file; the batch")
    parser.add_argument("--cache", type=Path, required=True, help="folder for data and built indexes")
    parser.add_argument("--only", nargs="+", metavar="ENGINE", help=f"of {', '.join(ENGINES)}, ours-prod4-f16 and such")
    parser.add_argument("--build-threads", type=int, nargs="+", default=[1], help="times of builds; the first is kept")
    parser.add_argument("--threads", type=int, default=1, help="of searches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="least length of a turn")
    parser.add_argument("--slowest", type=float, default=5000, help="microseconds a query that end a sweep")
    parser.add_argument("--reload", action="store_true", help="hold one index at a time, for sets that fill the memory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help="of growth")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of rows, for filters")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=FILTERS, help="which rows filters leave")
    parser.add_argument("--filter-recall", type=float, default=0.95, help="filters: the effort is that of this recall")
    parser.add_argument("--efforts", type=int, nargs="+", default=[40, 80, 160, 320], help="of changes")
    parser.add_argument("--asked", type=float, nargs="+", default=[0.9, 0.95, 0.99], help="recalls that tune asks for")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of the table of peers")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    for name in args.only or []:
        if name not in ENGINES:
            try:
                ours(name)
            except ValueError as error:
                parser.error(str(error))
    if min(args.rounds, args.threads, args.queries, *args.build_threads) < 1:
        parser.error("--rounds, --threads, --build-threads and --queries start at 1")
    return args


CONTESTS = {
    "build": (only_build, None),
    "builds": (contest_builds, show_builds),
    "peers": (contest_peers, show_peers),
    "growth": (contest_growth, show_growth),
    "filters": (contest_filters, show_filters),
    "changes": (contest_changes, show_changes),
    "tune": (contest_tune, show_tuning),
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        task = json.loads(sys.argv[2])
        pin(task["threads"])
        child(task)
        return
    args = parse()
    measured, show = CONTESTS[args.contest]
    lines = measured(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if lines:
        with (args.out / "graph.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    if show is not None and lines:
        if args.contest == "peers":
            show_peers(lines, args.clock)
        else:
            show(lines)
        if args.contest == "peers" and args.plot:
            plot(args.out / f"graph-{lines[0]['data']}.png", lines)


if __name__ == "__main__":
    main()
