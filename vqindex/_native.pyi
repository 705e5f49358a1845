from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def supported_isas() -> list[str]: ...
def all_finite(values: NDArray[np.float32]) -> bool: ...
def trellis_encode(
    values: NDArray[np.int16],
    table: NDArray[np.int16],
    bits: int,
    window: int,
    limit: int,
    gain: int,
    start_mask: int = 0,
    isa: str = "",
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]: ...

class Scanner:
    def __init__(
        self, dim: int, step: int, window: int, tops: int, levels: NDArray[np.int16], metric: str, isa: str = ""
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    def search(
        self,
        segments: Sequence[Sequence[NDArray[Any] | None]],
        code_query: NDArray[np.int16],
        code_scale: NDArray[np.float32],
        norm: NDArray[np.float32],
        k: int,
        sign_bound: tuple[float, float, float, float] | None,
        threads: int,
        selection: Sequence[NDArray[np.uint64] | None] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
    def range_search(
        self,
        segments: Sequence[Sequence[NDArray[Any] | None]],
        code_query: NDArray[np.int16],
        code_scale: NDArray[np.float32],
        norm: NDArray[np.float32],
        thresholds: NDArray[np.float32],
        sign_bound: tuple[float, float, float, float] | None,
        threads: int,
        selection: Sequence[NDArray[np.uint64] | None] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
    def walk(
        self,
        records: Sequence[NDArray[np.uint8]],
        layout: tuple[int, int, int, int, int, int],
        links: NDArray[np.uint8],
        slots: int,
        entries: NDArray[np.int64],
        code_query: NDArray[np.int16],
        code_scale: NDArray[np.float32],
        norm: NDArray[np.float32],
        k: int,
        effort: int,
        budget: int,
        need: int,
        threads: int,
        selection: NDArray[np.uint64] | None = None,
        hidden: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]: ...
    def link(
        self,
        records: Sequence[NDArray[np.uint8]],
        layout: tuple[int, int, int, int, int, int],
        links: NDArray[np.uint8],
        first: int,
        last: int,
        rule: tuple[int, int, float, int, int],
        threads: int,
    ) -> None: ...
    def relink(
        self,
        records: Sequence[NDArray[np.uint8]],
        layout: tuple[int, int, int, int, int, int],
        links: NDArray[np.uint8],
        live: NDArray[np.uint64],
        rule: tuple[int, int, float, int, int],
        threads: int,
    ) -> None: ...
    def decode(self, codes: NDArray[np.uint8], sign_rows: NDArray[np.uint8] | None) -> NDArray[np.int8]: ...
    def sums(self, queries: NDArray[np.int16], levels: NDArray[np.int8]) -> NDArray[np.float32]: ...

class Vectors:
    def __init__(
        self,
        kind: str,
        dim: int,
        parts: Sequence[tuple[NDArray[Any], NDArray[np.float32] | None]],
        isa: str = "",
    ) -> None: ...
    def rerank(
        self, metric: str, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int, threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

class QueryRules:
    def __init__(
        self,
        tables: Tables,
        metric: str,
        point: NDArray[np.float32] | None,
        norm_of_zero: float,
        max_norm: float,
        isa: str = "",
    ) -> None: ...

class ScanRows:
    def __init__(
        self,
        scanner: Scanner,
        segments: Sequence[Sequence[NDArray[Any] | None]],
        sign_bound: tuple[float, float, float] | None,
        selection: Sequence[NDArray[np.uint64] | None] | None = None,
    ) -> None: ...
    def find(
        self,
        rules: QueryRules,
        queries: NDArray[Any],
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        quantile: float,
        threads: int,
        vectors: Vectors | None,
        shortlist: int,
    ) -> bool: ...

class WalkRows:
    def __init__(
        self,
        scanner: Scanner,
        records: Sequence[NDArray[np.uint8]],
        layout: tuple[int, int, int, int, int, int],
        links: NDArray[np.uint8],
        slots: int,
        entries: NDArray[np.int64],
        selection: NDArray[np.uint64] | None = None,
    ) -> None: ...
    def find(
        self,
        rules: QueryRules,
        queries: NDArray[Any],
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        effort: int,
        threads: int,
        vectors: Vectors | None,
        shortlist: int,
    ) -> bool: ...

class IdTable:
    def __init__(self) -> None: ...
    def find(
        self,
        ids: NDArray[np.int64] | None,
        count: int,
        lookup: NDArray[np.int64],
        live: NDArray[np.uint64] | None,
    ) -> NDArray[np.int64]: ...
    def mark(
        self,
        ids: NDArray[np.int64] | None,
        count: int,
        lookup: NDArray[np.int64],
        live: NDArray[np.uint64] | None,
    ) -> NDArray[np.uint64]: ...
    @property
    def rows(self) -> int: ...
    @property
    def distinct(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def ids_of_rows(ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64] | None: ...
def clear_rows(live: NDArray[np.uint64], rows: NDArray[np.int64]) -> int: ...
def split_rows(
    codes: NDArray[np.uint8],
    dim: int,
    warmup_fields: int,
    bits: int,
    start: int,
    signs: NDArray[np.uint8],
    rest: NDArray[np.uint8],
    whole_rows: bool = False,
    sign_rows: NDArray[np.uint8] | None = None,
) -> None: ...

class Tables:
    def __init__(
        self,
        signs: NDArray[np.float32],
        source: NDArray[np.uint32],
        bits: int,
        cosine: bool,
        renormalized: bool,
        cell_scale: float,
    ) -> None: ...
    def set_codebook(self, thresholds: NDArray[np.float32], levels: NDArray[np.int16]) -> None: ...
    def set_trellis(
        self, levels: NDArray[np.int8], fraction: int, window: int, limit: int, gain: int, start_mask: int, grid: float
    ) -> None: ...

def encode(
    tables: Tables, rows: NDArray[np.float32], threads: int = 1, isa: str = ""
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]: ...
def prepare(
    tables: Tables, queries: NDArray[np.float32], threads: int = 1, isa: str = ""
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]: ...
def residuals(
    rows: NDArray[np.float32], point: NDArray[np.float32], unit: bool, isa: str = ""
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]: ...
