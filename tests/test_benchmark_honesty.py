"""benchmarks/honesty.py measures what it says, on a small set."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

ARGS = argparse.Namespace(queries=20, seeds=2, bits=[4])


@pytest.fixture
def honesty(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    module = importlib.import_module("honesty")
    monkeypatch.setattr(module, "BATCH", 20)
    monkeypatch.setattr(module, "TURNS", 1)
    return module


@pytest.fixture
def data(honesty):
    rng = np.random.default_rng(0)
    return honesty.Data("small", *(rng.standard_normal((n, 24)).astype(np.float32) for n in (800, 20)))


def test_coverage_has_a_line_for_each_setting(honesty, data):
    lines = list(honesty.coverage(data, ARGS))
    assert len(lines) == len(honesty.SETTINGS) * len(honesty.CODECS)
    for line in lines:
        assert 0.9 < line["after"]["0.95"] <= 1
        assert line["after"]["0.68"] < line["after"]["0.95"] <= line["after"]["0.99"]
        assert line["known"] > 0.9
        assert line["cost_ratio"] > 0


def test_complete_and_recall_agree_with_the_true_neighbors(honesty, data):
    for line in honesty.complete(data, ARGS):
        assert line["share"] > 0.85
        assert honesty.K <= line["reads"] <= line["reads_95"] * 2
        assert honesty.K <= line["fixed"] <= len(data.rows)
    for line in honesty.recall(data, ARGS):
        assert line["low"] < line["recall"] < line["high"]


def test_the_heavy_tailed_set_is_reproducible(honesty):
    one, two = (honesty.heavy_tailed(50, 5, 8) for _ in range(2))
    np.testing.assert_array_equal(one.rows, two.rows)
    assert one.queries.shape == (5, 8)


def test_plan_compares_choices_with_the_recall(honesty, monkeypatch):
    rng = np.random.default_rng(0)
    data = honesty.Data("small", *(rng.standard_normal((n, 24)).astype(np.float32) for n in (4000, 20)))
    monkeypatch.setattr(honesty, "SAMPLES", (4,))
    lines = list(honesty.plan(data, ARGS))
    assert {line["sample"] for line in lines} == {1000}
    assert {line["real_queries"] for line in lines} == {True, False}
    assert all(
        line["bytes"] >= line["best_bytes"] for line in lines if line["bytes"] and line["recall"] >= line["target"]
    )
