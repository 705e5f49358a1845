"""The catalog, fetching by name, and the sample that ships with the package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

import vqindex_datasets
from vqindex_datasets import (
    CATALOG,
    SYNTHETIC,
    DatasetError,
    DownloadError,
    catalog,
    default_directory,
    exact_knn,
    fetch,
    list_datasets,
    load_annbench,
    make_synthetic_file,
    sample_path,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_list_gives_every_entry_of_the_catalog() -> None:
    entries = list_datasets()
    assert [entry.name for entry in entries] == list(CATALOG)
    assert {entry.kind for entry in entries} == {"shipped", "npm", "download", "synthetic"}
    assert set(SYNTHETIC) <= set(CATALOG)
    for name in ("glove-100", "glove-100-sample", "glove-100-angular", "sift-128-euclidean", "lastfm-64-dot"):
        assert name in CATALOG
    for entry in entries:
        assert entry.distance in ("angular", "euclidean", "ip")
        assert min(entry.n, entry.dim, entry.nq) > 0
        # The size of the vectors alone, as float32, or float16 for the sample; sizes are rounded by up to 1 %.
        # The published COCO files are smaller, because they are compressed.
        if not entry.name.startswith("coco"):
            width = 2 if entry.kind == "shipped" else 4
            assert entry.size * 1.01 > entry.n * entry.dim * width, entry.name


def test_every_public_name_exists_once() -> None:
    for name in vqindex_datasets.__all__:
        assert hasattr(vqindex_datasets, name)
    assert len(set(vqindex_datasets.__all__)) == len(vqindex_datasets.__all__)


def test_import_loads_no_optional_library() -> None:
    """Importing loads neither an optional library nor the index."""
    code = "import sys, vqindex_datasets; print([m for m in ('torch', 'pyarrow', 'vqindex') if m in sys.modules])"
    path = str(Path(vqindex_datasets.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_the_shipped_sample_is_what_the_catalog_says() -> None:
    path = sample_path()
    assert fetch("glove-100-sample") == path
    assert path.stat().st_size == CATALOG["glove-100-sample"].size < 5_500_000
    data = load_annbench(path)
    assert (data.n, data.nq, data.dim, data.gt_k) == (20_000, 1_000, 100, 100)
    assert (data.metric, data.distance) == ("cosine", "angular")
    with h5py.File(path) as file:
        for name, dtype in (
            ("train", "float16"),
            ("test", "float16"),
            ("neighbors", "int32"),
            ("distances", "float32"),
        ):
            assert file[name].dtype == dtype
            assert file[name].chunks is None  # contiguous
            assert file[name].compression is None
    with data.train as train:
        rows = train.read()
    assert len(np.unique(rows, axis=0)) == data.n
    pick = np.arange(0, 1_000, 25)
    ids, cosines = exact_knn(rows, data.test[pick], 100, "cosine")
    np.testing.assert_array_equal(data.neighbors[pick], ids)
    # The file rounds 1 - cos to float32; exact_knn rounds the cosine, an error of up to 6e-8.
    np.testing.assert_allclose(data.distances[pick], 1 - cosines.astype(np.float64), rtol=0, atol=1.2e-7)
    assert (np.diff(data.distances, axis=1) >= 0).all()


def test_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VQINDEX_DATA", str(tmp_path))
    assert default_directory() == tmp_path
    for value in ("", None):
        monkeypatch.delenv("VQINDEX_DATA") if value is None else monkeypatch.setenv("VQINDEX_DATA", value)
        assert default_directory() == Path.home() / ".cache" / "vqindex"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="'glove'; expected one of glove-100-sample"):
        fetch("glove")


def test_fetch_makes_a_synthetic_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.Entry("sparse", "synthetic", 300, 8, 5, "ip", 0, None, "")
    monkeypatch.setitem(CATALOG, "sparse", entry)
    monkeypatch.setenv("VQINDEX_DATA", str(tmp_path / "data"))
    path = fetch("sparse")
    assert path == tmp_path / "data" / "sparse.hdf5"
    assert (load_annbench(path).n, load_annbench(path).dim) == (300, 8)
    before = path.stat().st_mtime_ns
    assert fetch("sparse") == path
    assert path.stat().st_mtime_ns == before  # not created again


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a folder that holds a small set under the name of a large one."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "site").mkdir()
    make_synthetic_file("clustered", tmp_path / "site" / "mnist-784-euclidean.hdf5", 200, 6, 4, 0, k=10)
    entry = catalog.Entry("mnist-784-euclidean", "download", 200, 6, 4, "euclidean", 0, None, "")
    monkeypatch.setitem(CATALOG, entry.name, entry)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "site")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_downloads_once_and_checks_the_sum(mirror: str, tmp_path: Path) -> None:
    path = fetch("mnist-784-euclidean", tmp_path, base_url=mirror)
    assert load_annbench(path).metric == "l2"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "mnist-784-euclidean.hdf5.sha256").read_text().split()[0] == found
    # The second time nothing is fetched: this address has no server.
    assert fetch("mnist-784-euclidean", tmp_path, base_url="http://127.0.0.1:9") == path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DownloadError, match=f"expected {found}: delete the file"):
        fetch("mnist-784-euclidean", tmp_path, base_url=mirror)


def test_a_download_of_another_size_is_refused(mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.Entry("mnist-784-euclidean", "download", 60_000, 784, 4, "euclidean", 0, None, "")
    monkeypatch.setitem(CATALOG, entry.name, entry)
    with pytest.raises(DatasetError, match="200 rows and 4 queries of dimension 6; expected 60000"):
        fetch("mnist-784-euclidean", tmp_path, base_url=mirror)


def test_a_missing_download_names_file_and_status(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"sift-128-euclidean\.hdf5: the server answered 404"):
        fetch("sift-128-euclidean", tmp_path, base_url=mirror)
