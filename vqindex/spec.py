"""IndexSpec: the parameters of an index, and the only module that validates them."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from .codes.trellis import MAX_BITS as TRELLIS_BITS
from .codes.trellis import Trellis
from .errors import InvalidInputError

__all__ = [
    "CODECS",
    "MAX_BITS",
    "MAX_DIM",
    "METRICS",
    "ROTATIONS",
    "SKETCHES",
    "CodecName",
    "IndexSpec",
    "Metric",
    "RotationName",
    "SketchName",
]

# The names that users pass, for type checkers; `IndexSpec` checks them at run time.
Metric = Literal["ip", "cosine", "l2"]
CodecName = Literal["turboquant-prod", "turboquant-mse", "qjl", "trellis"]
SketchName = Literal["shared", "orthogonal", "gaussian"]
RotationName = Literal["hadamard", "haar"]
METRICS: tuple[str, ...] = get_args(Metric)
CODECS: tuple[str, ...] = get_args(CodecName)
SKETCHES: tuple[str, ...] = get_args(SketchName)
ROTATIONS: tuple[str, ...] = get_args(RotationName)
MAX_DIM = 16384
MAX_BITS = 8

# The sketches of each codec, the default first. A codec without sketch signs has "none".
_SKETCHES_OF: dict[str, tuple[str, ...]] = {
    "turboquant-prod": SKETCHES,
    "turboquant-mse": ("none",),
    "qjl": ("gaussian",),
    "trellis": ("none",),
}


def _integer(name: str, value: object, low: int, high: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidInputError(f"{name} is {value!r}; expected an integer from {low} to {high}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidInputError(f"{name} is {value!r}; expected an integer from {low} to {high}")
    return number


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    return value


@dataclass(frozen=True)
class IndexSpec:
    """All parameters that determine codes and scores.

    Two indexes with equal specs give the same bytes for the same vectors.

    Parameters
    ----------
    dim : int
        Number of coordinates, 1 to 16384.
    bits : int
        Bits per coordinate, 1 to 8, the sign bit of the residual included.
    metric : one of {"ip", "cosine", "l2"}
        Inner product, cosine similarity, or squared Euclidean distance.
    codec : one of {"turboquant-prod", "turboquant-mse", "qjl", "trellis"}
        Quantizer of the coordinates (arXiv 2504.19874 and 2406.03482; ``trellis.py``). ``trellis`` has 1 to 4 bits.
    sketch : one of {"shared", "orthogonal", "gaussian"}, optional
        The matrix that projects the residual for the sketch signs of turboquant-prod; ``None`` is the codec's default.
    rotation : one of {"hadamard", "haar"}
        ``haar`` is a dense rotation, for fidelity tests only.
    seed : int
        0 to 2**64 - 1.

    Raises
    ------
    InvalidInputError
        If a value is out of range; the message names the value and the range.
    """

    dim: int
    bits: int = 4
    metric: str = "ip"
    codec: str = "turboquant-prod"
    sketch: str | None = None
    rotation: str = "hadamard"
    seed: int = 0

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("dim", _integer("dim", self.dim, 1, MAX_DIM))
        put("bits", _integer("bits", self.bits, 1, MAX_BITS))
        put("seed", _integer("seed", self.seed, 0, 2**64 - 1))
        _choice("metric", self.metric, METRICS)
        _choice("codec", self.codec, CODECS)
        _choice("rotation", self.rotation, ROTATIONS)
        if self.codec == "trellis" and self.bits > TRELLIS_BITS:
            raise InvalidInputError(f"bits is {self.bits}; codec 'trellis' expects an integer from 1 to {TRELLIS_BITS}")
        allowed = _SKETCHES_OF[self.codec]
        if self.sketch is None:
            put("sketch", allowed[0])
        elif self.sketch not in allowed:
            raise InvalidInputError(
                f"sketch is {self.sketch!r}; codec {self.codec!r} expects one of {', '.join(allowed)}"
            )

    @property
    def warmup_fields(self) -> int:
        """Number of fields in a code row before the first coordinate's field; 0 except for a trellis."""
        return Trellis.of(self.bits).warmup_fields if self.codec == "trellis" else 0

    @property
    def fields(self) -> int:
        """Number of fields of `bits` bits in a code row."""
        return self.warmup_fields + self.dim

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed code row (``packing.py``)."""
        return (self.fields * self.bits + 7) // 8

    @property
    def has_sign_bits(self) -> bool:
        """Whether fields have the signs of the coordinates, which are stored separately (``bitplanes.py``)."""
        if self.codec == "trellis":
            return Trellis.of(self.bits).has_signs
        return self.codec in ("turboquant-prod", "turboquant-mse") and self.sketch in ("shared", "none")

    @property
    def sign_bytes(self) -> int:
        """Bytes of a row's sign bits; 0 for codes without sign bits."""
        return (self.dim + 7) // 8 if self.has_sign_bits else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without its sign bits."""
        return (self.fields * (self.bits - 1) + 7) // 8 if self.has_sign_bits else self.code_bytes

    @property
    def stores_norm(self) -> bool:
        """Whether a norm is stored per vector (cosine needs none)."""
        return self.metric != "cosine"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes stored per vector: its code and its float32 scalars, without explicit ids."""
        return self.sign_bytes + self.row_bytes + (8 if self.stores_norm else 4)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, in order."""
        return asdict(self)
