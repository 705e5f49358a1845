import numpy as np
from numpy.typing import NDArray

def supported_isas() -> list[str]: ...
def trellis_encode(
    values: NDArray[np.int16],
    table: NDArray[np.int16],
    bits: int,
    window: int,
    limit: int,
    gain: int,
    isa: str = "",
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]: ...
def decode_levels(
    codes: NDArray[np.uint8], dim: int, bits: int, window: int, table: NDArray[np.int8]
) -> NDArray[np.int8]: ...
def integer_sums(queries: NDArray[np.int16], levels: NDArray[np.int8], isa: str = "") -> NDArray[np.float32]: ...

class Tables:
    def __init__(
        self,
        signs: NDArray[np.float32],
        source: NDArray[np.uint32],
        bits: int,
        cosine: bool,
        renormalised: bool,
        cell_scale: float,
    ) -> None: ...
    def set_codebook(self, thresholds: NDArray[np.float32], levels: NDArray[np.int16]) -> None: ...
    def set_trellis(
        self, levels: NDArray[np.int8], fraction: int, window: int, limit: int, gain: int, grid: float
    ) -> None: ...

def encode(
    tables: Tables, rows: NDArray[np.float32], threads: int = 1, isa: str = ""
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]: ...
def prepare(
    tables: Tables, queries: NDArray[np.float32], threads: int = 1, isa: str = ""
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]: ...
