"""The tables of the documentation, all made from the code or from the lines in benchmarks/results.

A table stands in its page between ``<!-- table: NAME -->`` and ``<!-- end table -->``, so that the page can be read
without the site. This command makes all tables of all pages anew, and a test compares them:

    python docs/tables.py --write
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vqindex.codes.codec import Codec
from vqindex.spec import IndexSpec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = {"glove-100": "GloVe", "gcide-minilm-384-angular": "MiniLM"}
DIMS = (100, 384, 768, 1024, 1536, 3072)


def lines(name: str) -> list[dict[str, Any]]:
    """Return the measured lines of a benchmark."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; columns of numbers, but not the first, are right-aligned."""
    words = [any(str(row[i])[:1].isalpha() for row in rows) for i in range(len(head))]
    rule = ["---" if i == 0 or words[i] else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows))


def three(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def sizes() -> str:
    """Bytes per vector, by dimension and bits (cosine)."""
    rows = []
    for dim in DIMS:
        sizes = [IndexSpec(dim, bits, "cosine").bytes_per_vector for bits in (1, 2, 3, 4, 8)]
        rows.append([dim, *(f"{size:,}" for size in sizes), f"{4 * dim:,}", f"{4 * dim / sizes[3]:.1f}"])
    head = ["dimension", "1 bit", "2 bits", "3 bits", "4 bits", "8 bits", "float32", "float32 to 4 bits"]
    return markdown(head, rows)


def noise() -> str:
    """Distortion of the codes, and the standard error of a cosine."""
    rows = []
    for bits in range(1, 9):
        row: list[object] = [bits]
        for codec in ("turboquant-prod", "trellis"):
            if codec == "trellis" and bits > 4:
                row += ["", ""]
                continue
            loss = Codec(IndexSpec(384, bits, "cosine", codec)).expected_mse
            row += [three(loss), f"{math.sqrt(loss / (1 - loss) / 383):.4f}"]
        rows.append([*row, three(4.0**-bits)])
    head = [
        "bits",
        "default: distortion",
        "error of a score, d = 384",
        "trellis: distortion",
        "error of a score",
        "bound",
    ]
    return markdown(head, rows)


def recall() -> str:
    """Recall of the two codecs to choose from, on real data."""
    found = {(line["data"], line["codec"], line["bits"]): line for line in lines("codec-recall")}
    rows = []
    for data, label in DATA.items():
        for bits in (1, 2, 3, 4):
            row: list[object] = [label, bits]
            for codec in ("turboquant-prod", "trellis"):
                line = found[data, codec, bits]
                row += [line["bytes_per_vector"]]
                row += [f"{line[key]['median']:.3f}" for key in ("recall_at_10", "recall_1_at_10")]
            rows.append(row)
    each = ["bytes", "recall@10", "1@10"]
    head = ["data", "bits", *(f"{name}: {what}" for name in ("default", "trellis") for what in each)]
    return markdown(head, rows)


def centering() -> str:
    """Recall with and without the mean as center."""
    found = {(line["data"], line["codec"], line["bits"]): line for line in lines("codec-recall")}
    rows = []
    for data, label in DATA.items():
        for bits in (1, 2, 4):
            row: list[object] = [label, bits]
            for codec in ("turboquant-prod", "trellis"):
                for line in (found[data, codec, bits], found[data, f"{codec} centered", bits]):
                    row += [line["bytes_per_vector"], f"{line['recall_at_10']['median']:.3f}"]
            rows.append(row)
    names = ("default", 'with center="mean"', "trellis", 'with center="mean"')
    return markdown(["data", "bits", *(head for name in names for head in (f"{name}: bytes", "recall@10"))], rows)


def _ratio(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f}"


def _recall_at_10(line: dict[str, Any]) -> float:
    """Return a line's recall@10, whose name was another before 2026-11-21."""
    return float(line["recall_at_k"] if "recall_at_k" in line else line["recall_at_10"])


def _peers(data: str) -> str:
    rows = []
    measured = _measured(data, threads=1)
    for (bits, name), line in sorted(measured.items(), key=lambda item: (item[0][0], -_recall_at_10(item[1]))):
        shown = name.replace(" ", "&nbsp;")
        row = [f"**{shown}**" if name.startswith("vqindex") else shown, bits, f"{line['bytes_per_vector']:g}"]
        row += [f"{_recall_at_10(line):.3f}", three(line["build_seconds"])]
        for way in ("batch", "single"):
            row += [three(line[f"{way}_qps"]["median"]), _ratio(line[f"{way}_ratio_to_turbovec"])]
        rows.append(row)
    speeds = ["queries/s, batch", "to turbovec", "one by one", "to turbovec"]
    head = ["index", "bits", "bytes", "recall@10", "build, s", *speeds]
    return markdown(head, rows)


def peers_glove() -> str:
    """All indexes on GloVe."""
    return _peers("glove-100")


def peers_minilm() -> str:
    """All indexes on MiniLM."""
    return _peers("gcide-minilm-384-angular")


def peers_mixture() -> str:
    """Large synthetic sets."""
    names = sorted({line["data"] for line in lines("peers")} - set(DATA))
    return "\n\n".join(f"`{name}`\n\n{_peers(name)}" for name in names)


NAMES = {
    "vqindex prod": "vqindex, default",
    "vqindex trellis": 'vqindex, `codec="trellis"`',
    "vqindex trellis centered": 'vqindex, `codec="trellis"`, `center="mean"`',
}


def _measured(data: str, threads: int) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the last line of every index in `peers.jsonl`, by bits and name."""
    found = [line for line in lines("peers") if line["data"] == data and line["threads"] == threads]
    return {(line["bits"], line["index"]): line for line in found}


def readme() -> str:
    """Recall, bytes and speed beside peers on sentence embeddings: the README's table."""
    found = _measured("gcide-minilm-384-angular", threads=1)
    rows: list[list[object]] = []
    for bits in (2, 4):
        for name in ("vqindex trellis", "vqindex prod", "turbovec", "faiss PQ fast-scan"):
            line = found[bits, name]
            row: list[object] = [
                NAMES.get(name, name),
                bits,
                f"{line['bytes_per_vector']:g}",
                f"{_recall_at_10(line):.3f}",
            ]
            row.append(three(line["build_seconds"]))
            row += [
                f"{three(line[f'{way}_qps']['median'])} ({_ratio(line[f'{way}_ratio_to_turbovec'])})"
                for way in ("batch", "single")
            ]
            rows.append(row)
    head = ["index", "bits", "bytes", "recall@10", "build, s", "queries/s, batch (ratio)", "one by one (ratio)"]
    return markdown(head, rows)


def _speed(threads: int) -> str:
    """Return queries per second beside turbovec, on every set that was measured."""
    sets = sorted(
        {line["data"]: (line["data"] not in DATA, line["dim"], line["n"]) for line in lines("peers")}.items(),
        key=lambda item: item[1],
    )
    rows: list[list[object]] = []
    for data, (_, dim, n) in sets:
        found = _measured(data, threads)
        for bits in (2, 4):
            for name in (*NAMES, "turbovec"):
                if (line := found.get((bits, name))) is None:
                    continue
                row: list[object] = [f"{DATA.get(data, 'mixture')}, {n:,} x {dim}", bits, NAMES.get(name, name)]
                row += [f"{_recall_at_10(line):.3f}", f"{line['bytes_per_vector']:g}"]
                for way in ("batch", "single"):
                    row += [three(line[f"{way}_qps"]["median"]), _ratio(line[f"{way}_ratio_to_turbovec"])]
                rows.append(row)
    speeds = ["queries/s, batch", "to turbovec", "one by one", "to turbovec"]
    return markdown(["data", "bits", "index", "recall@10", "bytes", *speeds], rows)


def speed() -> str:
    """Speed beside turbovec on one thread."""
    return _speed(1)


def speed_amx() -> str:
    """Batches beside turbovec on a processor with AMX."""
    rows: list[list[object]] = []
    for line in lines("peers-amx"):
        if line["index"] == "turbovec":
            continue
        ratio, data = line["batch_ratio_to_turbovec"], f"{line['n']:,} x {line['dim']}"
        confidence = line.get("search_args", {}).get("confidence", "default")
        ends = f"{ratio['q1']:.2f} to {ratio['q3']:.2f}"
        name = NAMES[line["index"]]
        rows.append(
            [f"{DATA.get(line['data'], 'mixture')}, {data}", line["bits"], name, confidence, _ratio(ratio), ends]
        )
    return markdown(["data", "bits", "index", "confidence", "batch, to turbovec", "quartiles"], rows)


def speed_two() -> str:
    """Speed beside turbovec on two threads."""
    return _speed(2)


def equal_bytes() -> str:
    """Recall of our codecs, of product quantization and of the paper's codec at about equal bytes."""
    ours = {(line["data"], line["codec"], line["bits"]): line for line in lines("codec-recall")}
    paper = {
        (line["data"], "PQ" if "PQ" in line["index"] else line["index"], line["bits"]): line
        for line in lines("paper-recall")
    }
    rows: list[list[object]] = []
    for bits in (2, 4):
        for codec, label in (
            ("trellis centered", NAMES["vqindex trellis centered"]),
            ("trellis", NAMES["vqindex trellis"]),
            ("turboquant-prod", NAMES["vqindex prod"]),
        ):
            row: list[object] = [label, bits]
            for data in DATA:
                line = ours[data, codec, bits]
                # The lines with a center were measured on a machine that was not idle, so their seconds are omitted.
                seconds = "-" if "centered" in codec else three(line["n"] / line["vectors_per_second"]["median"])
                row += [line["bytes_per_vector"], f"{line['recall_at_10']['median']:.3f}", seconds]
            rows.append(row)
        for name, label in (
            ("PQ", "faiss PQ, d·b/8 codes of 8 bits"),
            ("prod as in the paper", "TurboQuant-prod as printed in the paper"),
        ):
            row = [label, bits]
            for data in DATA:
                line = paper[data, name, bits]
                row += [line["bytes_per_vector"], f"{line['recall_at_10']['median']:.3f}"]
                row += [three(line["build_seconds"]["median"])]
            rows.append(row)
    each = ("bytes", "recall@10", "build, s")
    return markdown(["index", "bits", *(f"{label}: {what}" for label in DATA.values() for what in each)], rows)


def roofline() -> str:
    """Share of the limiting peak that each kernel reaches, by dimension."""
    found = lines("roofline")
    dims = (100, 384, 768, 1536)
    shares = {
        (line["kernel"], line["dim"]): next(line[key] for key in line if key.startswith("share_of_"))
        for line in found
        if "kernel" in line and any(key.startswith("share_of_") for key in line)
    }
    for line in found:
        if line.get("encode") == "turboquant-prod" and line["bits"] == 4:
            shares["encode", line["dim"]] = line["share_of_floor"]
    rows = [
        [label, limit, *(f"{100 * shares[kernel, dim]:.0f} %" for dim in dims)]
        for kernel, label, limit in (
            ("tile_sums", "int8 sums of a tile, all levels", "dot products"),
            ("sign_tile", "`sign_tile_u8u16`, sign bits for batches", "look-ups"),
            ("sign_plane", "sign bits for one query, from memory", "bandwidth"),
            ("encode", "encoding, all steps, default codec of 4 bits", "additions of the rotation"),
        )
    ]
    return markdown(["kernel", "limited by", *(f"d = {dim}" for dim in dims)], rows)


def encoding() -> str:
    """Speed of encoding."""
    rows = [
        [line["codec"], line["bits"], line["bytes_per_vector"], three(line["seconds"]["median"]), line["cpu"]]
        for line in sorted(lines("encode"), key=lambda line: (line["codec"], line["bits"]))
    ]
    first = lines("encode")[0]
    return markdown(["codec", "bits", "bytes", f"seconds for {first['n']:,} x {first['dim']}", "processor"], rows)


def store() -> str:
    """Duration of changes of an index on disk."""
    found = lines("store")
    rows = [
        [
            line["index"],
            *(three(line[f"{what}_s"] * 1e3) for what in ("commit_added", "commit_removed", "open", "first_query")),
            three(line["remove_s"] * 1e6),
        ]
        for line in found
    ]
    head = [f"{found[0]['rows']:,} x {found[0]['dim']}, {found[0]['bits']} bits"]
    more = f"{found[0]['batch']} more"
    head += [f"durable with {more}, ms", f"without {found[0]['batch']}, ms", "open, ms", "first query, ms"]
    return markdown([*head, "remove one id, us"], rows)


def filters() -> str:
    """Speed of filtered searches, single queries and batches, as a multiple of the same index without a filter."""
    found = [line for line in lines("filters") if "share" in line and not line["clustered"]]
    shares = sorted({line["share"] for line in found}, reverse=True)
    cells = {(line["data"], line["index"], line["share"]): line for line in found}  # the last line of each
    rows = []
    for data, index in dict.fromkeys((line["data"], line["index"]) for line in found):
        for mode in ("single", "batch"):
            measured = [cells.get((data, index, share)) for share in shares]
            ratios = ["" if line is None else three(line[f"{mode}_ratio_to_unfiltered"]["median"]) for line in measured]
            rows.append([f"{index}, {mode}", DATA.get(data, data), *ratios])
    return markdown(["index", "data", *(f"{100 * share:g} %" for share in shares)], rows)


def documents() -> str:
    """Milliseconds of processor time of a search with a new filter, by store and kind of filter."""
    found = {(line["n"], line["store"], line["question"]): line for line in lines("documents") if "question" in line}
    questions = list(dict.fromkeys(question for _, _, question in found))
    rows = []
    for n, store in dict.fromkeys((n, store) for n, store, _ in found):
        measured = [found[n, store, question] for question in questions]
        recall = sum(line["recall_at_10"] for line in measured) / len(measured)
        rows.append([f"{n:,}", store, *(three(line["new_cpu_ms"]["median"]) for line in measured), f"{recall:.3f}"])
    return markdown(["documents", "store", *questions, "recall@10"], rows)


def documents_changes() -> str:
    """Adding all documents, adding one, opening, and the size of a store of documents."""
    found = {(line["n"], line["store"]): line for line in lines("documents") if "add_s" in line}
    rows = [
        [
            f"{n:,}",
            store,
            three(line["add_s"]),
            three(line["add_one_ms"]["median"]),
            three(line["open_and_search_ms"]["median"]),
            three(line["bytes"] / 1e6),
        ]
        for (n, store), line in found.items()
    ]
    return markdown(["documents", "store", "add all, s", "add one, ms", "open and search once, ms", "MB"], rows)


def graph() -> str:
    """Speed of the graph and of other indexes relative to hnswlib at equal recall, and bytes."""
    latest = {(line["data"], line["engine"]): line for line in lines("graph") if line["contest"] == "peers"}
    head = ["data", "index", "bytes"]
    head += [f"{mode}, {recall}" for mode in ("batch", "one by one") for recall in ("0.90", "0.95", "0.99")]
    rows = []
    for (data, _), line in latest.items():
        ratios: list[str] = []
        for mode in ("batch", "single"):
            for recall in ("0.9", "0.95", "0.99"):
                ratio = line["at"].get(recall, {}).get(f"{mode}_cpu_microseconds_ratio_to_hnswlib")
                ratios.append("-" if ratio is None else f"{ratio['median']:.2f}")
        rows.append([DATA.get(data, "mixture"), line["index"], f"{line['bytes_per_vector']['all']:,.0f}", *ratios])
    return markdown(head, rows)


SETS = {"glove-100-sample": "GloVe sample", "gcide-minilm-384-angular": "MiniLM", "heavy-tailed": "heavy-tailed"}
LEVELS = ("0.68", "0.95", "0.99")


def _honesty(experiment: str) -> list[dict[str, Any]]:
    return [line for line in lines("honesty") if line["experiment"] == experiment]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def coverage() -> str:
    """How often intervals hold the exact scores of results, before and after the correction, over all metrics."""
    rows = []
    for data, label in SETS.items():
        for bits in (1, 2, 3, 4):
            for codec in ("turboquant-prod", "trellis"):
                found = [x for x in _honesty("coverage") if (x["data"], x["bits"], x["codec"]) == (data, bits, codec)]
                cells = [_range([x[when][level] for x in found]) for when in ("before", "after") for level in LEVELS]
                rows.append([label, bits, codec, *cells, _range([x["known"] for x in found])])
    head = [f"{when}: {100 * float(level):.0f} %" for when in ("uncorrected", "interval") for level in LEVELS]
    return markdown(["data", "bits", "codec", *head, "known"], rows)


def coverage_short() -> str:
    """Coverage at 95 % in short, for the default codec."""
    rows = []
    for data, label in SETS.items():
        for bits in (1, 2, 4):
            found = [x for x in _honesty("coverage") if (x["data"], x["bits"]) == (data, bits)]
            row = [_range([x[when]["0.95"] for x in found]) for when in ("before", "after")]
            lucky = max(x["luck_in_standard_errors"] for x in found)
            rows.append([label, bits, f"{lucky:.1f}", *row])
    return markdown(["data", "bits", "scores too good by at most, in errors", "score ± 1.96 errors", "interval"], rows)


def complete() -> str:
    """How often results are complete, and the vectors read for it."""
    rows = []
    for line in _honesty("complete"):
        if (line["complete"], line["strict"]) == (0.99, True):
            continue
        rows.append(
            [
                SETS[line["data"]],
                line["bits"],
                line["codec"] + (", center" if line["center"] else ""),
                f"{line['complete']:g}",
                f"{line['share']:.3f} ± {line['error']:.3f}",
                f"{line['reads']:.0f}",
                f"{line['reads_95']:.0f}",
                f"{line['fixed']:,}" if line["fixed"] < 5000 else "5,000 or more",
            ]
        )
    head = ["data", "bits", "codec", "asked", "complete", "reads", "reads, 95 % of queries", "fixed shortlist"]
    return markdown(head, rows)


def expected_recall() -> str:
    """Estimated recall beside the recall."""
    rows: list[list[object]] = []
    for line in _honesty("recall"):
        codec = line["codec"] + (", center" if line["center"] else "")
        ends = f"{line['low']:.3f} to {line['high']:.3f}"
        rows.append([SETS[line["data"]], line["bits"], codec, ends, f"{line['recall']:.3f}"])
    return markdown(["data", "bits", "codec", "estimate", "recall@10"], rows)


def pairs() -> str:
    """Precision and recall of pairs above a threshold."""
    rows: list[list[object]] = []
    for line in _honesty("pairs"):
        how = line["codec"] if line["keep_vectors"] is None else "kept vectors"
        shares = [f"{line[name]:.3f}" for name in ("precision", "recall", "bound_holds")]
        cost = [f"{line['cpu_seconds']:.1f}", f"{line['more_memory_mb']:.0f}"]
        rows.append(
            [SETS[line["data"]], line["threshold"], line["bits"], how, f"{line['true_pairs']:,}", *shares, *cost]
        )
    head = [
        "data",
        "threshold",
        "bits",
        "by",
        "true pairs",
        "precision",
        "recall",
        "bound holds",
        "CPU, s",
        "memory, MB",
    ]
    return markdown(head, rows)


def plan() -> str:
    """Choices of plans beside the smallest ones that reach the targets."""
    rows: list[list[object]] = []
    found = _honesty("plan")
    for data, sample, real in dict.fromkeys((x["data"], x["sample"], x["real_queries"]) for x in found):
        some = [x for x in found if (x["data"], x["sample"], x["real_queries"]) == (data, sample, real)]
        chosen = [x for x in some if x["chosen"] is not None]
        missed = sum(x["recall"] < x["target"] for x in chosen)
        close = sum(x["bytes"] - x["best_bytes"] <= math.ceil(x["dim"] / 8) + 1 for x in chosen)
        extra = sum(x["widths"] for x in chosen) / len(chosen)
        low, high, most = some[0]["low_minus_recall"][1], some[0]["high_minus_recall"][1], "largest_low_minus_recall"
        rows.append(
            [
                SETS[data],
                f"{some[0]['n']:,}",
                f"{sample:,}",
                "real" if real else "sample",
                len(some),
                missed,
                close,
                f"{extra:.2f}",
                f"{low:+.3f}",
                f"{high:+.3f}",
                f"{some[0][most]:+.3f}",
            ]
        )
    head = ["data", "n", "sample", "queries", "targets", "missed", "within a bit", "bits too many", "low", "high"]
    return markdown([*head, "highest low"], rows)


def serve() -> str:
    """Single queries by HTTP, beside the library."""
    rows = []
    for line in lines("serve"):
        what = f"{line['n']:,} x {line['dim']}, {line['bits']} bits"
        row = [what, "on" if line["batch"] > 1 else "off", line["clients"], three(line["qps"]["median"])]
        row += [f"{line[f'share_of_library_{name}']['median']:.2f}" for name in ("batch", "single")]
        row += [three(line[name]["median"]) for name in ("cpu_ms", "library_batch_cpu_ms", "library_single_cpu_ms")]
        rows.append([*row, three(line["p50_ms"]), three(line["p99_ms"])])
    shares = ["of the library's batches", "of its single calls"]
    costs = ["CPU of a query, ms", "library, batches", "library, single calls"]
    return markdown(["vectors", "micro-batches", "clients", "queries/s", *shares, *costs, "p50, ms", "p99, ms"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "graph": graph,
    "pairs": pairs,
    "readme": readme,
    "sizes": sizes,
    "noise": noise,
    "recall": recall,
    "centering": centering,
    "equal-bytes": equal_bytes,
    "speed": speed,
    "speed-two": speed_two,
    "roofline": roofline,
    "peers-glove": peers_glove,
    "peers-minilm": peers_minilm,
    "peers-mixture": peers_mixture,
    "speed-amx": speed_amx,
    "encoding": encoding,
    "filters": filters,
    "documents": documents,
    "documents-changes": documents_changes,
    "store": store,
    "coverage": coverage,
    "coverage-short": coverage_short,
    "complete": complete,
    "expected-recall": expected_recall,
    "plan": plan,
    "serve": serve,
}

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def filled(text: str) -> str:
    """Return the text of a page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end table -->"

    return re.sub(r"<!-- table: ([\w-]+) -->\n.*?<!-- end table -->", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python docs/tables.py --write")
    for page in PAGES:
        page.write_text(filled(page.read_text()))
