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
