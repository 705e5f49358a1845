"""The data sets that can be fetched or made by name.

The sizes of the ann-benchmarks files are those that their authors publish; byte sizes are approximate. The authors
publish no checksums, so ``sha256`` is None for these files. A first download is checked by its length and layout; its
checksum is stored beside the file for later runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .annbench import load_annbench, write_annbench
from .download import download, file_sum, sidecar_sum
from .errors import DatasetError, DownloadError
from .glove import PACKAGE, fetch_glove100
from .groundtruth import exact_neighbors
from .synthetic import SYNTHETIC, make

__all__ = [
    "BASE_URL",
    "CATALOG",
    "Entry",
    "default_directory",
    "fetch",
    "list_datasets",
    "make_synthetic_file",
    "sample_path",
]

BASE_URL = "http://ann-benchmarks.com"
"""Address of the ann-benchmarks files; `fetch` also takes a mirror."""

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Entry:
    """One data set of the catalog.

    Attributes
    ----------
    name : str
        Name for `fetch`.
    kind : str
        "download" (HTTP), "npm", "shipped" (in this package) or "synthetic" (generated).
    n, dim, nq : int
        Train rows, dimension, queries.
    distance : str
        "angular", "euclidean" or "ip".
    size : int
        Bytes, approximately.
    sha256 : str or None
        Checksum of the file, None if it is not known.
    description : str
        One line.
    """

    name: str
    kind: str
    n: int
    dim: int
    nq: int
    distance: str
    size: int
    sha256: str | None
    description: str


# name, n, dim, nq, distance, MiB, as published by their authors
_ANN_BENCHMARKS = (
    ("glove-25-angular", 1_183_514, 25, 10_000, "angular", 121),
    ("glove-50-angular", 1_183_514, 50, 10_000, "angular", 235),
    ("glove-100-angular", 1_183_514, 100, 10_000, "angular", 463),
    ("glove-200-angular", 1_183_514, 200, 10_000, "angular", 918),
    ("fashion-mnist-784-euclidean", 60_000, 784, 10_000, "euclidean", 217),
    ("mnist-784-euclidean", 60_000, 784, 10_000, "euclidean", 217),
    ("sift-128-euclidean", 1_000_000, 128, 10_000, "euclidean", 501),
    ("gist-960-euclidean", 1_000_000, 960, 1_000, "euclidean", 3690),
    ("nytimes-256-angular", 290_000, 256, 10_000, "angular", 301),
    ("deep-image-96-angular", 9_990_000, 96, 10_000, "angular", 3690),
    # Despite its name the set has 65 coordinates; the last one turns inner products into angles.
    ("lastfm-64-dot", 292_385, 65, 50_000, "angular", 135),
    ("coco-i2i-512-angular", 113_287, 512, 10_000, "angular", 136),
    ("coco-t2i-512-angular", 113_287, 512, 10_000, "angular", 136),
)

# Size of the synthetic sets that `fetch` makes: large enough to rank indexes, and made in seconds.
_SYNTHETIC_N, _SYNTHETIC_DIM, _SYNTHETIC_NQ, _SYNTHETIC_SEED = 20_000, 128, 500, 0


def _entries() -> dict[str, Entry]:
    entries = [
        Entry("glove-100-sample", "shipped", 20_000, 100, 1_000, "angular", 5_008_192, None,
              "sample of glove-100 as float16, shipped with the package"),
        Entry("glove-100", "npm", 331_479, 100, 10_000, "angular", 152_600_000, None,
              f"GloVe word vectors from the npm package {PACKAGE}"),
    ]  # fmt: skip
    for name, n, dim, nq, distance, size in _ANN_BENCHMARKS:
        entries.append(Entry(name, "download", n, dim, nq, distance, size << 20, None, f"ann-benchmarks, {BASE_URL}"))
    # float32 vectors, and 100 neighbors per query as int64 with float64 distances.
    size = 4 * (_SYNTHETIC_N + _SYNTHETIC_NQ) * _SYNTHETIC_DIM + 1600 * _SYNTHETIC_NQ
    for name, kind in SYNTHETIC.items():
        entries.append(
            Entry(name, "synthetic", _SYNTHETIC_N, _SYNTHETIC_DIM, _SYNTHETIC_NQ, kind.distance, size, None,
                  kind.description)
        )  # fmt: skip
    return {entry.name: entry for entry in entries}


CATALOG: dict[str, Entry] = _entries()
"""All data sets by name."""


def list_datasets() -> list[Entry]:
    """Return all entries: the shipped sample, the npm set, the ann-benchmarks sets, and the synthetic sets."""
    return list(CATALOG.values())


def default_directory() -> Path:
    """Return the folder that `fetch` uses: the environment variable VQINDEX_DATA, or ``~/.cache/vqindex``."""
    return Path(os.environ.get("VQINDEX_DATA") or Path.home() / ".cache" / "vqindex").expanduser()


def sample_path() -> Path:
    """Return the path of the shipped sample, glove-100-sample."""
    path = Path(__file__).parent / "data" / "glove-100-sample.hdf5"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected the sample that ships with the package")
    return path


def fetch(
    name: str,
    directory: str | Path | None = None,
    *,
    progress: Progress | None = None,
    base_url: str | None = None,
) -> Path:
    """Return the path of a data set; download or make it if the file does not exist.

    Parameters
    ----------
    name : str
        A key of `CATALOG`. A synthetic set gets the size in its entry; `make_synthetic_file` makes other sizes.
    directory : str or Path, optional
        Folder of the files; by default `default_directory`. The shipped sample is not copied.
    progress : callable, optional
        ``progress(done, total or None)``: bytes for downloads, rows while neighbors are computed.
    base_url : str, optional
        A mirror to use instead of `BASE_URL`.

    Returns
    -------
    Path
        An ann-benchmarks HDF5 file that `load_annbench` accepts and that has the dimension in the entry.

    Raises
    ------
    DatasetError
        If the name is unknown, or an existing file is damaged or has other contents.
    DownloadError
        If the download fails.
    """
    entry = CATALOG.get(name)
    if entry is None:
        raise DatasetError(f"data set {name!r}; expected one of {', '.join(CATALOG)}")
    if entry.kind == "shipped":
        return sample_path()
    folder = default_directory() if directory is None else Path(directory)
    path = folder / f"{name}.hdf5"
    if path.exists():
        _check_sum(path, entry)
    elif entry.kind == "download":
        url = f"{(base_url or BASE_URL).rstrip('/')}/{name}.hdf5"
        download(url, path, sha256=entry.sha256, progress=progress)
    elif entry.kind == "npm":
        fetch_glove100(path, progress)
    else:
        make_synthetic_file(name, path, entry.n, entry.dim, entry.nq, _SYNTHETIC_SEED, progress=progress)
    _check_shape(path, entry)
    return path


def _check_sum(path: Path, entry: Entry) -> None:
    """Compare an existing file with its known checksum."""
    expected = entry.sha256 or sidecar_sum(path)
    if expected is not None and (found := file_sum(path)) != expected:
        raise DownloadError(f"{path}: sha256 {found}; expected {expected}: delete the file to fetch it again")


def _check_shape(path: Path, entry: Entry) -> None:
    found = load_annbench(path)
    # Published numbers of rows may be rounded; those of the other sets are exact.
    same = (found.n, found.nq) == (entry.n, entry.nq) or entry.kind == "download"
    if found.dim != entry.dim or not same:
        raise DatasetError(
            f"{path}: {found.n} rows and {found.nq} queries of dimension {found.dim}; "
            f"expected {entry.n}, {entry.nq} and {entry.dim} for {entry.name}"
        )


_METRIC_DISTANCE = {"cosine": "angular", "l2": "euclidean", "ip": "ip"}


def make_synthetic_file(
    name: str,
    out: str | Path,
    n: int,
    dim: int,
    queries: int,
    seed: int,
    k: int = 100,
    metric: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a synthetic data set with its exact neighbors as an ann-benchmarks file.

    Parameters
    ----------
    name : str
        A key of `SYNTHETIC`.
    out : str or Path
        The HDF5 file to write.
    n, dim, queries, seed : int
        As for `make`.
    k : int
        Neighbors per query; fewer if there are fewer rows.
    metric : one of {"cosine", "l2", "ip"}, optional
        By default the metric that suits the data.
    progress : callable, optional
        ``progress(rows_done, n)`` while the neighbors are computed.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DatasetError
        If the name, the metric or a size is not valid.
    """
    if metric is not None and metric not in _METRIC_DISTANCE:
        raise DatasetError(f"metric {metric!r}; expected one of {', '.join(_METRIC_DISTANCE)}")
    train, test, distance = make(name, n, dim, queries=queries, seed=seed)
    if metric is not None:
        distance = _METRIC_DISTANCE[metric]
    ids, distances = exact_neighbors(train, test, min(k, n), distance, progress=progress)
    return write_annbench(out, train, test, ids, distances, distance)
