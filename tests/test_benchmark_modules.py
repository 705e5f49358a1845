"""Our modules for ann-benchmarks and VIBE, run as these suites run them, and graph.py, on small data sets."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vqindex_datasets import make_synthetic_file

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'vqindex[dev]'")
pytest.importorskip("psutil", reason="psutil is not installed: pip install 'vqindex[dev]'")

ROOT = Path(__file__).parent.parent / "benchmarks"
SCRIPT = ROOT / "run_local.py"


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_local", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dict_is_one_argument_of_ann_benchmarks_and_several_of_vibe(runner):
    arguments = {"codec": "c", "bits": [1, 2]}
    assert runner.combinations(arguments, positional=True) == [["c", 1], ["c", 2]]
    assert runner.combinations([[arguments]], positional=False) == [[arguments]]
    assert runner.combinations([[1, 2], 3, ["a", "b"]], positional=False) == [
        [1, 3, "a"],
        [1, 3, "b"],
        [2, 3, "a"],
        [2, 3, "b"],
    ]


@pytest.mark.parametrize("suite", ["ann-benchmarks", "vibe"])
def test_every_definition_builds_and_answers(runner, suite):
    """Every line of config.yml builds and answers, and there are no more lines than VIBE's guide asks for."""
    settings = runner.SUITES[suite]
    module = runner.load_module(settings)
    found = runner.definitions(settings, "euclidean")
    assert 1 < len(found) <= 20
    assert len({str(one["arguments"]) for one in found}) == len(found)
    rows = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    for definition in found:
        algorithm = getattr(module, definition["constructor"])(*definition["arguments"])
        algorithm.fit(rows)
        assert 1 < len(definition["queries"]) <= 60
        names = set()
        for arguments in definition["queries"]:
            algorithm.set_query_arguments(*arguments)
            names.add(str(algorithm))
            answer = {int(row) for row in algorithm.query(rows[3], 5)}
            assert len(answer) == 5
            assert 3 in answer
        assert len(names) == len(definition["queries"])


@pytest.mark.parametrize(
    ("suite", "distance"),
    [("ann-benchmarks", "angular"), ("ann-benchmarks", "euclidean"),
     ("vibe", "cosine"), ("vibe", "euclidean"), ("vibe", "ip"), ("vibe", "normalized")],
)  # fmt: skip
def test_all_candidates_give_exact_results_in_order(runner, suite, distance):
    """When every row is a candidate the order is that of exact distances, and short results contain no -1."""
    settings = runner.SUITES[suite]
    definition = runner.definitions(settings, distance, ["prod"])[1]
    algorithm = getattr(runner.load_module(settings), definition["constructor"])(*definition["arguments"])
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((80, 12)) * (1 if distance != "ip" else 3)).astype(np.float32)
    if distance == "normalized":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    before = rows.copy()
    algorithm.fit(rows)
    algorithm.set_query_arguments(1, 8)
    metric = {"angular": "cosine", "cosine": "cosine", "normalized": "cosine", "euclidean": "l2", "ip": "ip"}[distance]
    for query in rng.standard_normal((5, 12)).astype(np.float32):
        expected = np.argsort(runner.distances(metric, query, rows), kind="stable")
        np.testing.assert_array_equal(algorithm.query(query, 10), expected[:10])
        assert sorted(algorithm.query(query, 100)) == list(range(80))
        algorithm.set_query_arguments(1, 0)
        assert sorted(algorithm.query(query, 100)) == list(range(80))
        algorithm.set_query_arguments(1, 8)
    np.testing.assert_array_equal(rows, before)


def test_a_batch_answers_as_its_single_queries_do(runner):
    settings = runner.SUITES["ann-benchmarks"]
    definition = runner.definitions(settings, "angular")[0]
    algorithm = getattr(runner.load_module(settings), definition["constructor"])(*definition["arguments"])
    algorithm.get_batch_results = lambda: algorithm.res  # the suite's base class has it
    rows = np.random.default_rng(0).standard_normal((80, 12)).astype(np.float32)
    algorithm.fit(rows)
    for oversample in (0, 3):
        algorithm.set_query_arguments(1, oversample)
        algorithm.batch_query(rows[:6], 4)
        for found, query in zip(algorithm.get_batch_results(), rows[:6], strict=True):
            np.testing.assert_array_equal(found, algorithm.query(query, 4))


@pytest.mark.parametrize("suite", ["ann-benchmarks", "vibe"])
def test_runner_appends_points_whose_recall_rises_with_candidates(tmp_path, suite):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vqindex[plot]'")
    data = make_synthetic_file("clustered", tmp_path / "c.hdf5", 400, 16, 20, 0, 20)
    command = [sys.executable, SCRIPT, suite, data, "--runs", "1", "--only", "trellis", "--check", "--out", tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in (tmp_path / f"{suite}.jsonl").read_text().splitlines()]
    asked = [[confidence, oversample] for confidence in (0.9, 0.995) for oversample in (0, 2, 5, 10, 20)]
    assert [point["query_arguments"] for point in points] == [*asked, *asked]
    for same_confidence in (points[5:10], points[15:]):
        recalls = [point["recall"] for point in same_confidence]
        assert recalls == sorted(recalls), "more candidates lose results"
        assert recalls[-1] >= 0.98  # the 200 best of 400 rows by 2 or 4 bits are reranked
    assert points[15]["recall"] > points[5]["recall"]
    assert all(point["qps"] > 0 and point["build_seconds"] > 0 for point in points)
    assert (tmp_path / f"{suite}-c.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*.npz"))


# ---- graph.py


@pytest.fixture(scope="module")
def measure():
    """Return graph_measure.py, which imports its neighbors as scripts do."""
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("graph_measure")
    finally:
        sys.path.remove(str(ROOT))


def test_cost_at_a_recall_lies_on_the_line_of_points_that_none_beats(measure):
    points = [(0.99, 400.0), (0.8, 100.0), (0.9, 900.0), (0.89, 200.0)]  # the third is beaten by the first
    assert measure.at_recall(points, 0.94) == pytest.approx(200 * 2**0.5)
    assert measure.at_recall(points, 0.8) == 100
    assert measure.at_recall(points, 0.5) == 100, "a recall below all points costs what the cheapest costs"
    assert measure.at_recall(points, 0.99) == pytest.approx(400)
    assert measure.at_recall(points, 0.991) is None
    assert measure.at_recall([], 0.5) is None
    assert measure.at_recall([(0.9, 5.0), (0.95, 5.0)], 0.95) == 5, "equal costs: only the better recall counts"


def test_engine_names_of_ours_are_parsed_or_refused(measure):
    engines = importlib.import_module("graph_engines")
    found = engines.ours("ours-trellis2-none")
    assert (found.codec, found.bits, found.keep) == ("trellis", 2, None)
    assert all("rerank" not in knob for sweep in found.sweeps for knob in sweep)
    kept = engines.ours("ours-prod4-int8")
    assert (kept.codec, kept.bits, kept.keep) == (None, 4, "int8")
    assert all(knob["effort"] >= 10 * knob["oversample"] for sweep in kept.sweeps for knob in sweep)
    with pytest.raises(ValueError, match="expected ours-CODEC"):
        engines.ours("hnsw")


def test_graph_script_measures_engines_and_builds_them_once(tmp_path):
    """The scan and faiss' HNSW, on rows of the growing mixture: lines are complete, and a second run builds nothing."""
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'vqindex[faiss]'")
    command = [sys.executable, ROOT / "graph.py", "peers", "--mixture", "1500", "16", "--queries", "40"]
    command += ["--only", "faiss-hnsw", "flat", "--cache", tmp_path / "cache", "--out", tmp_path, "--rounds", "2"]
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [*map(str, command), "--turn-seconds", "0.001"], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert [text.count("built ") for text in outputs] == [2, 0]
    lines = [json.loads(line) for line in (tmp_path / "graph.jsonl").read_text().splitlines()]
    assert [line["engine"] for line in lines] == ["faiss-hnsw", "flat"] * 2
    for line in lines:
        assert line["build"]["1"]["cpu_seconds"] > 0
        assert line["bytes_per_vector"]["all"] > 0
        assert line["most_recall"] >= 0.99
        for target, place in line["at"].items():
            median = place["batch_microseconds"]["median"]
            assert 0 < median <= place["batch_microseconds"]["q3"]
            assert min(p["recall_at_10"] for p in line["points"]) <= max(
                float(target), line["points"][0]["recall_at_10"]
            )
    # 16 float32 values, 64 links on the lowest level and an offset: at least that is in the file.
    assert lines[0]["bytes_per_vector"]["all"] >= 4 * (16 + 64)
