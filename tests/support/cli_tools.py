"""What the tests of the command line share. Modules turn `run`, `ok` and `folder` into fixtures."""

import json
import os
import sys

import h5py
import numpy as np

from vqindex_cli.main import main

DIM = 10


def run(monkeypatch, capsys):
    """Run the command line in this process; return exit code, stdout, stderr."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["vqindex", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err, "escape codes although stdout is no terminal"
        assert "Traceback" not in err
        return code, out, err

    return call


def ok(run):
    """Run a command that must succeed, silently on stderr; return stdout."""

    def call(*args):
        code, out, err = run(*args)
        assert (code, err) == (0, "")
        return out

    return call


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def one_object(text):
    """Parse one strict JSON object on one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    value = json.loads(text, parse_constant=no_constant)
    assert isinstance(value, dict)
    return value


def vectors(n, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def folder(tmp_path, monkeypatch):
    """Work in a folder with base.npy (60 rows) and queries.npy (7 rows)."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("VQINDEX_"):
            monkeypatch.delenv(name)
    np.save("base.npy", vectors(60))
    np.save("queries.npy", vectors(7, seed=1))
    return tmp_path


def truth(base, queries, metric):
    """Return all rows of each query, the most similar first."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        base = base / np.linalg.norm(base, axis=1, keepdims=True)
    score = queries @ base.T if metric != "l2" else -((queries[:, None] - base[None]) ** 2).sum(axis=2)
    return np.argsort(-score, axis=1, kind="stable")


def write_annbench(path, metric, layout):
    base, queries = vectors(60), vectors(7, seed=1)
    neighbors = truth(base, queries, metric)[:, :20]
    old = layout == "old"
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = {"cosine": "angular", "l2": "euclidean", "ip": "ip"}[metric]
        if not old:
            file.attrs.update(type="dense", dimension=DIM, point_type="float")
        file["train"], file["test"] = base, queries
        file["neighbors"] = neighbors.astype(np.int32 if old else np.int64)
        file["distances"] = np.zeros(neighbors.shape, np.float32 if old else np.float64)


def write_fvecs(path, x):
    np.hstack([np.full((len(x), 1), x.shape[1], "<i4").view("<f4"), x]).astype("<f4").tofile(path)
