"""`vqindex bench`: its lines are true, its frontier is a Pareto frontier, and its report loads nothing else."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import cli_tools
import click
import numpy as np
import pytest
from cli_tools import DIM, no_constant, truth, vectors, write_annbench
from hypothesis import given
from hypothesis import strategies as st

import vqindex
from vqindex_bench import report
from vqindex_bench.contest import on_processors
from vqindex_bench.pareto import PANELS, frontier
from vqindex_bench.peers import DEFAULT, PEERS, SLOW, Settings
from vqindex_cli.bench import bench

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))
QUICK = ("--rounds", 1, "--seconds", 0)


def parsed(text):
    return [json.loads(line, parse_constant=no_constant) for line in text.splitlines()]


def overlap(found, true, k):
    return sum(len(set(f[:k]) & set(t[:k])) for f, t in zip(found.tolist(), true.tolist(), strict=True)) / (
        len(found) * k
    )


# ---- lines


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_benchmark_lines_equal_what_the_library_gives(folder, ok, metric):
    write_annbench("a.hdf5", metric, "new")
    lines = parsed(ok("bench", "a.hdf5", "-k", 5, "--bits", "4,1", "--confidences", "0.9,1", "--json", *QUICK))
    rows, queries = vectors(60), vectors(7, seed=1)
    if metric == "cosine":
        rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    true = truth(rows, queries, metric)
    assert [(line["bits"], line["codec"], line["confidence"]) for line in lines] == [
        (bits, codec, confidence)
        for bits in (1, 4)
        for codec in ("turboquant-prod", "trellis")
        for confidence in ((0.9, 1.0) if vqindex.IndexSpec(DIM, bits, codec=codec).has_sign_bits else (None,))
    ]
    for line in lines:
        index = vqindex.VQIndex(DIM, line["bits"], metric, codec=line["codec"])
        index.add(rows)
        found = index.search(queries, 5, confidence=line["confidence"]).ids
        assert line["recall_at_k"] == pytest.approx(overlap(found, true, 5), abs=1e-12)  # the order of the sum differs
        assert line["recall_1_at_1"] == pytest.approx((found[:, 0] == true[:, 0]).mean(), abs=1e-12)
        assert line["bytes_per_vector"] == index.spec.bytes_per_vector
        assert (line["n"], line["dim"], line["metric"], line["k"], line["queries"]) == (60, DIM, metric, 5, 7)
        for mode in ("batch", "single"):
            assert 0 < line[f"{mode}_qps"]["q1"] <= line[f"{mode}_qps"]["median"] <= line[f"{mode}_qps"]["q3"]
        assert line["build_seconds"] > 0


def test_only_prod_varies_the_sketch_and_only_sign_bits_the_confidence(folder, ok):
    args = ("--bits", 2, "--codecs", "turboquant-prod,turboquant-mse,qjl", "--sketches", "shared,gaussian")
    args = (*args, "--metric", "ip")
    lines = parsed(
        ok("bench", "base.npy", "--queries", "queries.npy", "--confidences", "0.9,1", *args, "--json", *QUICK)
    )
    assert [(line["index"], line["sketch"], line["confidence"]) for line in lines] == [
        ("vqindex prod, confidence 0.9", "shared", 0.9),
        ("vqindex prod, confidence 1", "shared", 1.0),
        ("vqindex prod gaussian", "gaussian", None),
        ("vqindex mse, confidence 0.9", None, 0.9),
        ("vqindex mse, confidence 1", None, 1.0),
        ("vqindex qjl", None, None),
    ]
    assert {line["metric"] for line in lines} == {"ip"}


@pytest.mark.parametrize(("scale", "metric"), [(1.0, "ip"), (1.0005, "ip"), (1.01, "cosine"), (None, "cosine")])
def test_the_default_metric_is_ip_for_rows_of_length_1_and_else_cosine(folder, ok, scale, metric):
    rows = vectors(60)
    rows = rows if scale is None else scale * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.save("rows.npy", rows.astype(np.float32))
    args = ("bench", "rows.npy", "--bits", 2, "--codecs", "trellis", *QUICK)
    (line,) = parsed(ok(*args, "--json"))
    assert line["metric"] == metric
    assert ok(*args).splitlines()[-1] == (
        f"metric {metric}, by default; --metric gives another; rows: 54 rows, 6 queries"
    )
    assert ok(*args, "--metric", "l2").splitlines()[-1] == "metric l2; rows: 54 rows, 6 queries"


def test_reranking_all_rows_is_exact(folder, ok):
    args = ("--bits", 2, "--codecs", "trellis", "--oversamples", "0,1,100", "--json", *QUICK)
    lines = parsed(ok("bench", "base.npy", "--queries", "queries.npy", *args))
    assert [line["oversample"] for line in lines] == [0, 1, 100]
    assert lines[0]["recall_at_k"] == lines[1]["recall_at_k"] < lines[2]["recall_at_k"] == 1
    assert lines[2]["bytes_per_vector"] == lines[0]["bytes_per_vector"] + 4 * DIM
    assert lines[2]["counted"].endswith("and the vectors as float32")


def test_held_out_queries_are_not_among_the_rows(folder, ok):
    rows = vectors(40)
    np.save("rows.npy", rows)
    (line,) = parsed(ok("bench", "rows.npy", "-k", 1, "--bits", 4, "--codecs", "turboquant-prod", "--json", *QUICK))
    assert (line["n"], line["queries"]) == (36, 4)
    (line,) = parsed(
        ok("bench", "rows.npy", "-k", 1, "--num-queries", 2, "--rows", 30, "--bits", 4, "--codecs", "trellis",
           "--metric", "cosine", "--json", *QUICK)
    )  # fmt: skip
    assert (line["n"], line["queries"], line["metric"]) == (28, 2, "cosine")


def test_the_first_rows_of_a_file_get_their_own_true_neighbors(folder, ok):
    write_annbench("a.hdf5", "l2", "new")
    args = ("-k", 3, "--bits", 8, "--codecs", "turboquant-prod", "--confidences", 1, "--json", *QUICK)
    (line,) = parsed(ok("bench", "a.hdf5", "--rows", 20, *args))
    assert line["n"] == 20
    assert line["recall_at_k"] > 0.8  # eight bits; the file's neighbors among 60 rows would allow at most 20 / 60


def test_peers_stand_beside_ours_with_recall_and_bytes(folder, run):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'vqindex[faiss]'")
    rng = np.random.default_rng(0)
    np.save("rows.npy", rng.standard_normal((1500, 16), dtype=np.float32))
    code, out, err = run(
        "bench", "rows.npy", "--metric", "cosine", "--num-queries", 20, "--bits", "2,4", "--codecs", "turboquant-prod",
        "--peers", "faiss-sq,faiss-rabitq,faiss-pqfs", "--json", *QUICK,
    )  # fmt: skip
    assert code == 0
    assert err.splitlines() == ["skipped faiss SQ 2 bits: no 2-bit form"]
    lines = parsed(out)
    assert [(line["index"], line["bits"]) for line in lines] == [
        ("vqindex prod", 2),
        ("vqindex prod", 4),
        ("faiss RaBitQ fast-scan", 2),
        ("faiss PQ fast-scan", 2),
        ("faiss SQ", 4),
        ("faiss RaBitQ fast-scan", 4),
        ("faiss PQ fast-scan", 4),
        ("faiss SQ", 8),
    ]
    recalls = {(line["index"], line["bits"]): line["recall_at_k"] for line in lines}
    assert recalls["faiss SQ", 8] > 0.95
    assert recalls["vqindex prod", 4] > recalls["vqindex prod", 2] > 0.4
    sizes = {(line["index"], line["bits"]): line["bytes_per_vector"] for line in lines}
    assert sizes["faiss PQ fast-scan", 2] == 16 * 2 / 8
    assert sizes["faiss SQ", 8] == 16


def test_skipped_indexes_are_reported_with_the_reason(folder, run):
    code, out, err = run(
        "bench", "base.npy", "--queries", "queries.npy", "--bits", "5", "--codecs", "trellis,turboquant-mse", "--json",
        *QUICK,
    )  # fmt: skip
    assert code == 0
    assert [line["index"] for line in parsed(out)] == ["vqindex mse"]
    assert err.startswith("skipped vqindex trellis 5 bits: bits is 5; codec 'trellis'")
    code, out, err = run("bench", "base.npy", "--queries", "queries.npy", "--bits", "5", "--codecs", "trellis", *QUICK)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: no index could be built"
    code, out, err = run(
        "bench", "base.npy", "--queries", "queries.npy", "--bits", 2, "--metric", "ip", "--peers",
        "turbovec,usearch,scann", *QUICK,
    )  # fmt: skip
    assert code == 0
    assert err.count("no form here for metric ip") == 3


# ---- graphs


@pytest.fixture(params=["hnsw", "hnswlib"])
def graph(request):
    """Give a graph's name among the peers."""
    module = {"hnsw": "faiss", "hnswlib": "hnswlib"}[request.param]
    pytest.importorskip(module, reason=f"{module} is not installed")
    return request.param


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_a_graph_is_built_once_and_searched_at_each_ef(folder, run, monkeypatch, graph, metric):
    rows = np.random.default_rng(0).standard_normal((2000, 16), dtype=np.float32)
    np.save("rows.npy", rows + 0.5 * (metric == "l2"))
    peer, builds = PEERS[graph], []

    def build(rows, bits, settings):
        builds.append(settings.threads)
        return peer.build(rows, bits, settings)

    monkeypatch.setitem(PEERS, graph, replace(peer, build=build))
    code, out, err = run(
        "bench", "rows.npy", "--metric", metric, "--num-queries", 50, "--bits", 2, "--codecs", "turboquant-prod",
        "--peers", graph, "--efs", "200,4,10,200", "--json", "--html", "a.html", *QUICK,
    )  # fmt: skip
    assert code == 0
    assert err.splitlines() == [f"skipped {peer.label} 32 bits: ef 4 is less than k, 10"]
    lines = parsed(out)[1:]
    assert builds == [1]
    assert [(line["index"], line["bits"], line["ef"]) for line in lines] == [
        (f"{peer.label}, ef 10", 32, 10),
        (f"{peer.label}, ef 200", 32, 200),
    ]
    low, high = (line["recall_at_k"] for line in lines)
    assert 0.3 < low < high
    assert high > 0.97
    assert lines[0]["build_seconds"] == lines[1]["build_seconds"] > 0
    # The vectors, and at least the links of the lowest level, of which a row has 32.
    assert 4 * 16 + 4 * 32 < lines[0]["bytes_per_vector"] == lines[1]["bytes_per_vector"] < 4 * 16 + 4 * 32 + 40
    legend = re.findall(r"<label>.*?</span>(.*?)</label>", Path("a.html").read_text())
    assert legend == ["vqindex prod", peer.label]


def test_bytes_of_a_graph_are_those_of_its_file():
    faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install 'vqindex[faiss]'")
    rows = np.random.default_rng(0).standard_normal((3000, 16), dtype=np.float32)
    index = faiss.IndexHNSWFlat(16, 16, faiss.METRIC_L2)
    index.add(rows)
    built = PEERS["hnsw"].build(rows, 32, Settings(5, 1, "l2"))
    assert built.bytes_per_vector == pytest.approx(faiss.serialize_index(index).nbytes / 3000, abs=1)


def test_a_missing_library_is_said_once_with_the_package_to_install(folder, run, monkeypatch):
    for module in ("faiss", "hnswlib", "usearch"):
        monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(
        "bench", "base.npy", "--metric", "cosine", "--bits", 8, "--peers", "hnsw,hnswlib,usearch", "--json", *QUICK
    )
    assert code == 0
    assert err.splitlines() == [
        "skipped vqindex trellis 8 bits: bits is 8; codec 'trellis' expects an integer from 1 to 4",
        "skipped usearch i8 exact 8 bits: usearch is not installed: pip install usearch",
        "skipped faiss HNSW 32 bits: faiss is not installed: pip install 'vqindex[faiss]'",
        "skipped hnswlib 32 bits: hnswlib is not installed: pip install hnswlib",
    ]


def test_all_peers_leave_out_those_that_are_slow_to_build(ok):
    assert set(PEERS) == {*DEFAULT, *SLOW}
    assert set(SLOW) == {"faiss-opq", "hnsw", "hnswlib"}
    help = re.sub(r"\s+", " ", ok("bench", "--help"))
    assert "all means all but faiss-opq, hnsw, hnswlib, slow to build" in help
    parameter = next(each for each in bench.params if each.name == "peers")
    context = click.Context(bench)
    assert parameter.process_value(context, "all,hnsw") == (*DEFAULT, "hnsw")
    assert parameter.process_value(context, "faiss-hnsw,hnswlib,hnsw") == ("hnsw", "hnswlib")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ("bench base.npy --efs 0", 2, "--efs"),
        ("bench base.npy --bits 2,9", 2, "--bits"),
        ("bench base.npy --bits two", 2, "--bits"),
        ("bench base.npy --codecs none", 2, "--codecs"),
        ("bench base.npy --peers faiss-none", 2, "--peers"),
        ("bench base.npy --confidences 0.5", 2, "--confidences"),
        ("bench none.npy", 1, "none.npy"),
        ("bench base.npy -k 55", 1, "k is 55, but base.npy holds 54 rows"),
        ("bench base.npy --rows 5", 1, "base.npy holds no queries"),
        ("bench base.npy --html no/a.html", 1, "no is not a folder"),
        ("bench base.npy --threads 100000", 1, "100000 threads asked for; this process may use"),
    ],
)
def test_wrong_input_is_named_and_writes_nothing(folder, run, args, code, words):
    before = sorted(os.listdir())
    got, out, err = run(*args.split())
    assert (got, out) == (code, "")
    assert words in err
    assert sorted(os.listdir()) == before


def test_options_come_from_the_environment(folder, ok, monkeypatch):
    monkeypatch.setenv("VQINDEX_BENCH_BITS", "3,2")
    monkeypatch.setenv("VQINDEX_BENCH_CODECS", "trellis")
    monkeypatch.setenv("VQINDEX_BENCH_JSON", "1")
    assert [line["bits"] for line in parsed(ok("bench", "base.npy", *QUICK))] == [2, 3]


def test_processors_and_environment_variables_are_restored(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with on_processors(1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
        assert before is None or len(os.sched_getaffinity(0)) == 1
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ
    assert before is None or os.sched_getaffinity(0) == before


# ---- the frontier


def a_line(recall, rate, size):
    rates = {"median": rate, "q1": rate, "q3": rate}
    return {"recall_at_k": recall, "batch_qps": rates, "single_qps": rates, "bytes_per_vector": size}


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=12))
def test_the_frontier_holds_exactly_the_undominated_points(points):
    lines = [a_line(recall / 7, rate, size) for recall, rate, size in points]
    for panel, better in (
        (PANELS[0], lambda p, q: p[0] >= q[0] and p[1] >= q[1] and p[:2] != q[:2]),
        (PANELS[2], lambda p, q: p[0] >= q[0] and p[2] <= q[2] and (p[0], p[2]) != (q[0], q[2])),
    ):
        best = frontier(lines, panel)
        assert set(best) == {i for i, q in enumerate(points) if not any(better(p, q) for p in points)}
        assert [points[i][0] for i in best] == sorted(points[i][0] for i in best)


# ---- the report


class Page(HTMLParser):
    """Collects the resources of a page, the cells of its table, its points and its embedded lines."""

    def __init__(self):
        super().__init__()
        self.loads, self.rows, self.points, self.text = [], [], [], {}
        self._in = ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [(tag, name) for name in ("src", "href", "srcset", "data", "poster", "action") if name in values]
        if tag in ("link", "iframe", "img", "object", "embed", "base"):
            self.loads.append((tag, ""))
        if tag == "tr" and "data-line" in values:
            self.rows.append({})
        if tag == "td":
            self.rows[-1][values["data-key"]] = values["data-value"]
        if "point" in (values.get("class") or "").split():
            self.points.append(int(values["data-line"]))
        self._in = values.get("id") or tag

    def handle_data(self, data):
        self.text[self._in] = self.text.get(self._in, "") + data


def test_the_report_holds_the_lines_and_nothing_from_elsewhere(folder, ok):
    np.save("<!--<script>&quot;.npy", vectors(60))
    out = ok(
        "bench", "<!--<script>&quot;.npy", "--bits", "1,2,4", "-o", "a.jsonl", "--html", "a.html", "--confidences",
        "0.9,1", *QUICK,
    )  # fmt: skip
    assert "report: a.html" in out
    lines = parsed(Path("a.jsonl").read_text())
    text = Path("a.html").read_text()
    page = Page()
    page.feed(text)
    assert page.loads == []
    assert not re.search(r"https?:|url\(|@import|\{\{", text)
    assert json.loads(page.text["lines"]) == lines
    assert page.text["title"].startswith("<!--<script>&quot;: 54 x 10, cosine, 1 thread")
    assert len(page.rows) == len(lines) >= 9
    for row, line in zip(page.rows, lines, strict=True):
        for key, cell in row.items():
            value = line
            for name in key.split("."):
                value = value[name]
            assert cell == (value if isinstance(value, str) else json.dumps(value))
    assert sorted(page.points) == sorted(list(range(len(lines))) * len(PANELS))


def test_points_of_the_report_are_ordered_as_their_values(folder, ok):
    """In every panel the dots are ordered by value from left to right and by recall upward."""
    ok("bench", "base.npy", "--bits", "1,2,4", "-o", "a.jsonl", "--html", "a.html", *QUICK)
    lines = parsed(Path("a.jsonl").read_text())
    text = Path("a.html").read_text()
    for panel in PANELS:
        figure = re.search(rf'<figure data-panel="{panel.name}".*?</figure>', text, re.DOTALL)[0]
        dots = re.findall(r'data-line="(\d+)".*?<circle cx="([\d.]+)" cy="([\d.]+)"', figure)
        assert [int(number) for number, _, _ in dots] == list(range(len(lines)))
        for i, (_, x, y) in enumerate(dots):
            for j, (_, other_x, other_y) in enumerate(dots):
                # Positions are rounded to 0.1 pixel, which may hide a difference but not reverse it.
                if panel.value(lines[i]) < panel.value(lines[j]):
                    assert float(x) <= float(other_x)
                if lines[i]["recall_at_k"] < lines[j]["recall_at_k"]:
                    assert float(y) >= float(other_y)
        assert all(0 < float(x) < 480 and 0 < float(y) < 360 for _, x, y in dots)


@pytest.mark.parametrize("low", [0.02, 1.0, 1.5, 9.9, 123.0, 4.1e4, 5e4, 2.3e7])
@pytest.mark.parametrize("factor", [1.0, 1.04, 3.0, 1e4])
def test_an_axis_has_at_least_three_ticks_that_do_not_overlap(low, factor):
    scale = report._Scale([math.log10(low), math.log10(low * factor)], 0.0, 400.0)
    ticks = report._value_ticks(scale)
    places = [place for place, _ in ticks]
    assert len(places) >= 3
    assert min(b - a for a, b in pairwise(places)) >= 42
    assert len({text for _, text in ticks}) == len(ticks)
    for place, text in ticks:
        value = float(text.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(text[-1], 1)
        assert scale(math.log10(value)) == pytest.approx(place, abs=0.1)


@pytest.mark.parametrize("low", [0.002, 0.1, 0.5, 0.6, 0.84, 0.97, 0.994])
@pytest.mark.parametrize("factor", [1.0, 1.05, 3.0, 1e3])
def test_an_axis_of_recall_has_at_least_three_ticks_that_do_not_overlap(low, factor):
    odds = low / (1 - low) * factor
    scale = report._Scale([report._logit(low), report._logit(odds / (1 + odds))], 300.0, 0.0)
    ticks = report._recall_ticks(scale)
    places = [place for place, _ in ticks]
    assert len(places) >= 3
    assert min(a - b for a, b in pairwise(places)) >= 24
    for place, text in ticks:
        assert scale(report._logit(float(text))) == pytest.approx(place, abs=0.1)


def test_plot_is_written_as_png(folder, ok):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vqindex[plot]'")
    assert "plot: a.png" in ok("bench", "base.npy", "--bits", "2", "--plot", "a.png", *QUICK)
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_the_harness_imports_neither_the_command_line_nor_click():
    code = """
import importlib, pkgutil, sys, vqindex_bench
for module in pkgutil.iter_modules(vqindex_bench.__path__):
    importlib.import_module(f"vqindex_bench.{module.name}")
wrong = {name.split(".")[0] for name in sys.modules} & {"vqindex_cli", "click", "rich", "faiss", "matplotlib"}
assert not wrong, wrong
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
