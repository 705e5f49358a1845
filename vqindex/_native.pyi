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
