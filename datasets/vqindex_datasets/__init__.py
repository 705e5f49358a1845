"""Data sets for vqindex: readers, the ann-benchmarks layout, exact neighbors, synthetic data, a catalog.

Importing the package reads, downloads and computes nothing.
"""

from __future__ import annotations

from .annbench import DISTANCES, Dataset, is_annbench, load_annbench, write_annbench
from .catalog import CATALOG, Entry, default_directory, fetch, list_datasets, make_synthetic_file, sample_path
from .download import download
from .errors import DatasetError, DownloadError
from .glove import build_glove100, fetch_glove100, make_sample
from .groundtruth import exact_knn, exact_neighbors
from .readers import EXTENSIONS, open_vectors, read_column
from .sources import ArraySource, VectorSource
from .synthetic import SYNTHETIC, Synthetic, growing_mixture, make

__all__ = [
    "CATALOG",
    "DISTANCES",
    "EXTENSIONS",
    "SYNTHETIC",
    "ArraySource",
    "Dataset",
    "DatasetError",
    "DownloadError",
    "Entry",
    "Synthetic",
    "VectorSource",
    "build_glove100",
    "default_directory",
    "download",
    "exact_knn",
    "exact_neighbors",
    "fetch",
    "fetch_glove100",
    "growing_mixture",
    "is_annbench",
    "list_datasets",
    "load_annbench",
    "make",
    "make_sample",
    "make_synthetic_file",
    "open_vectors",
    "read_column",
    "sample_path",
    "write_annbench",
]
