"""Find the trellis tables.

    python benchmarks/trellis_tables.py --write

writes vqindex/codes/trellis_tables.py again, byte for byte, in 2 minutes of processor time. Each width has 16 seeded
starts.

A table starts as a permutation of the Gaussian's quantiles with the set partition of trellis codes (Ungerboeck, 1982).
Each round encodes new Gaussian sequences by the Viterbi search of codes/trellis.py, and moves every level to the mean
of the values that it encodes (Lloyd's two steps; arXiv 2406.11235 for the code). Every round preserves the table's
symmetry. The best of several starts is rounded to int8. docs/trellis.md has the results of other starts, from
trellis_choices.py.

``--sweep`` prints the distortion of other window lengths.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex._native import trellis_encode
from vqindex.codes.trellis import FRACTION, PEAK, WINDOWS, cost_limits, mirror, sign_of_window

TARGET = Path(__file__).parent.parent / "vqindex" / "codes" / "trellis_tables.py"
STARTS, FINALISTS = 16, 6
ROWS, ROUNDS = 256, 40
FINAL_ROWS, FINAL_ROUNDS = 2048, 30
LENGTH = 1024
REACH = 3.5

Start = Callable[[int, int, np.random.Generator], NDArray[np.float64]]


def windows_of(y: NDArray[np.float64], table: NDArray[np.float64], bits: int, window: int, grid: float) -> NDArray:
    """Encode sequences with a table in units of the Gaussian; return the window of every value."""
    values = np.clip(np.rint(y * (grid * FRACTION)), -PEAK, PEAK).astype(np.int16)
    levels = np.rint(np.clip(table * grid, -127, 127) * FRACTION).astype(np.int16)
    fields, state = trellis_encode(values, levels, bits, window, *cost_limits(bits, window))
    out = np.empty(y.shape, np.int64)
    state = state.astype(np.int64)
    for t in range(y.shape[1]):
        out[:, t] = state | fields[:, t].astype(np.int64) << (window - bits)
        state = out[:, t] >> bits
    return out


def refine(
    table: NDArray, bits: int, window: int, rng: np.random.Generator, rows: int, rounds: int, symmetric: bool = True
) -> NDArray:
    """Alternate between encoding new sequences and centroids; `symmetric` preserves table[mirror(w)] = -table[w]."""
    other = mirror(np.arange(table.size), bits, window)
    for _ in range(rounds):
        y = rng.standard_normal((rows, LENGTH))
        at = windows_of(y, table, bits, window, 127 / REACH).ravel()
        count = np.bincount(at, minlength=table.size)
        total = np.bincount(at, y.ravel(), table.size)
        if symmetric:
            count, total = count + count[other], total - total[other]
        table = np.where(count > 0, total / np.maximum(count, 1), table)
    return table


def quantiles(size: int) -> NDArray[np.float64]:
    """Return equally probable values of the Gaussian, ascending."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)])


def mirrored(size: int, flip: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random permutation p of range(size) with p[~n] = p[n] ^ flip."""
    p = np.empty(size, np.int64)
    half = rng.permutation([x for x in range(size) if x < x ^ flip]) ^ (flip * rng.integers(0, 2, size // 2))
    p[: size // 2], p[size // 2 :] = half, half[::-1] ^ flip
    return p


def partition(bits: int, window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the cell of every window: a[new field] ^ b[oldest field] ^ c[the others], a and b permutations.

    The windows that leave a state have every cell once, and so have those that enter one; the mirrored window has the
    inverted cell. From two bits on the highest bit of the cell is the sign of ``sign_of_window``: that of a is the
    highest bit of the new field, that of b the lowest bit of the oldest, and that of c is 0.
    """
    branches, others = 1 << bits, 1 << (window - 2 * bits)
    half = branches // 2
    if bits == 1:
        a, b = mirrored(2, 1, rng), mirrored(2, 1, rng)
        c = rng.integers(0, 2, others)
        c[(others + 1) // 2 :] = c[: others // 2][::-1] ^ 1
    else:
        # The changes of a, b and c by the mirror must add up to the inverted cell.
        flip_a = int(rng.integers(1, half))
        flip_b = int(rng.integers(0, half)) if others > 1 else flip_a ^ (half - 1)
        flip_c = flip_a ^ flip_b ^ (half - 1)
        a = np.concatenate([mirrored(half, flip_a, rng), half + mirrored(half, flip_a, rng)])
        b = np.empty(branches, np.int64)
        b[::2] = rng.permutation(half)
        b[np.arange(0, branches, 2) ^ (half - 1)] = b[::2] ^ flip_b ^ half
        c = rng.integers(0, half, others)
        at = np.arange(others)
        there = mirror(at, bits, window - 2 * bits)
        c = np.where(at <= there, c, c[there] ^ flip_c)
    w = np.arange(1 << window)
    cell: NDArray[np.int64] = a[w >> (window - bits)] ^ b[w & (branches - 1)] ^ c[w >> bits & (others - 1)]
    return cell


def structured(bits: int, window: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a table in which the windows that leave a state, and those that enter one, differ as much as possible.

    The quantiles are split into 2^bits cells; `partition` gives the cell of each window. The place inside a cell is
    random; a mirrored window has the mirrored place. `window` is at least 2 bits, and at least 3 for one bit.
    """
    size = 1 << window
    cell = partition(bits, window, rng)
    place = np.empty(size, np.int64)
    for k in range(1 << (bits - 1)):
        at = np.flatnonzero(cell == k)
        place[at] = k * at.size + rng.permutation(at.size)
        place[mirror(at, bits, window)] = size - 1 - place[at]
    return quantiles(size)[place]


def sign_correlation(table: NDArray[np.int8], step: float, bits: int, window: int, rows: int, seed: int) -> float:
    """Return the mean of value times sign, +-1 by the sign bit, over the root mean square of the values."""
    y = np.random.default_rng(seed).standard_normal((rows, LENGTH))
    signs = sign_of_window(windows_of(y, table * step, bits, window, 1 / step), bits, window)
    return float(np.mean(np.where(signs == 1, y, -y)) / np.sqrt(np.mean(y**2)))


def to_int8(table: NDArray[np.float64]) -> tuple[NDArray[np.int8], float]:
    """Round to int8 with a float32 step; the range includes REACH, because values are clipped to it."""
    step = float(np.float32(max(np.abs(table).max(), REACH) / 127))
    return np.rint(table / step).astype(np.int8), step


def distortion(table: NDArray[np.int8], step: float, bits: int, window: int, rows: int, seed: int) -> float:
    """Return the mean squared error on new Gaussian sequences over their energy, which removes most of its noise."""
    y = np.random.default_rng(seed).standard_normal((rows, LENGTH))
    levels = table * step
    at = windows_of(y, levels, bits, window, 1 / step)
    return float(np.mean((y - levels[at]) ** 2) / np.mean(y**2))


def best_table(
    bits: int, window: int, starts: int, finalists: int, first: Start = structured, symmetric: bool = True
) -> tuple[NDArray[np.int8], float, float]:
    """Return the best table, its step, and its distortion on sequences that were not used to select it."""
    found = []
    for seed in range(starts):
        rng = np.random.default_rng(seed)
        table = refine(first(bits, window, rng), bits, window, rng, ROWS, ROUNDS, symmetric)
        found.append((distortion(*to_int8(table), bits, window, ROWS, seed=10**6), seed, table))
    found.sort(key=lambda f: f[:2])
    refined = []
    for _, seed, table in found[:finalists]:
        rng = np.random.default_rng([seed, 1])
        frozen = to_int8(refine(table, bits, window, rng, FINAL_ROWS, FINAL_ROUNDS, symmetric))
        refined.append((distortion(*frozen, bits, window, FINAL_ROWS, seed=10**6 + 1), seed, *frozen))
    _, seed, table8, step = min(refined, key=lambda f: f[:2])
    mse = distortion(table8, step, bits, window, 2 * FINAL_ROWS, seed=10**6 + 2)
    print(f"bits {bits} window {window}: start {seed} of {starts}, mse {mse:.5f}", flush=True)
    return table8, step, mse


class Found(NamedTuple):
    """The entry of a width in trellis_tables.py."""

    table: NDArray[np.int8]
    step: float
    mse: float
    correlation: float


def source(found: dict[int, Found]) -> str:
    """Return the text of trellis_tables.py."""
    lines = [
        '"""FROZEN: tables of the trellis code, made by benchmarks/trellis_tables.py. DO NOT CHANGE."""',
        "",
        "from __future__ import annotations",
        "",
        "import numpy as np",
        "from numpy.typing import NDArray",
        "",
        '__all__ = ["CORRELATIONS", "MSE", "STEPS", "TABLES"]',
        "",
        "# Size of a grid step in standard deviations (float32 values). Distortion, and correlation of a value with",
        "# its sign bit, both measured on Gaussian sequences.",
        f"STEPS = {{{', '.join(f'{bits}: {f.step!r}' for bits, f in found.items())}}}",
        f"MSE = {{{', '.join(f'{bits}: {f.mse:.5f}' for bits, f in found.items())}}}",
        f"CORRELATIONS = {{{', '.join(f'{bits}: {f.correlation:.4f}' for bits, f in found.items() if bits > 1)}}}",
        "",
        "# fmt: off",
        "TABLES: dict[int, NDArray[np.int8]] = {",
    ]
    for bits, f in found.items():
        lines.append(f"    {bits}: np.array([")
        lines += ["        " + " ".join(f"{v:4d}," for v in row) for row in f.table.reshape(-1, 16)]
        lines.append("    ], np.int8),")
    lines += ["}", "# fmt: on", "for _table in TABLES.values():", "    _table.setflags(write=False)", ""]
    return "\n".join(lines)


def find(bits: int, starts: int) -> Found:
    """Find the table of a width of the library."""
    window = WINDOWS[bits]
    table, step, mse = best_table(bits, window, starts, FINALISTS)
    correlation = sign_correlation(table, step, bits, window, 2 * FINAL_ROWS, seed=10**6 + 3) if bits > 1 else 0.0
    return Found(table, step, mse, correlation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("--target", type=Path, default=TARGET, help="file to write")
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument(
        "--sweep", action="store_true", help="measure windows of 6, 8, 10 and 12 bits, four starts each"
    )
    args = parser.parse_args()
    if args.sweep:
        for bits, windows in {1: (6, 8, 10, 12), 2: (6, 8, 10, 12), 3: (9, 12), 4: (8, 12)}.items():
            for window in windows:
                best_table(bits, window, 4, 1)
    if args.write:
        args.target.write_text(source({bits: find(bits, args.starts) for bits in WINDOWS}))
        print("wrote", args.target)


if __name__ == "__main__":
    main()
