"""Compare the kernels of the CPU scan with the peaks of the processor, which are measured beside them.

    python benchmarks/roofline.py [--dims 100 384 768 1536] [--rows 200000]

The script compiles roofline.cpp with the extension's kernels; it needs g++ or the compiler in CXX. It writes one JSON
line for each measurement to results/roofline.jsonl and replaces the lines of the same machine:

* `peak`: the clock (a chain of additions); `vpdpbusd`, `vpermb` and float32 additions a nanosecond from registers;
  bytes a nanosecond from the second-level cache and from memory. Peaks need AVX-512 VBMI, which has these instructions.
* `kernel`: nanoseconds of a call (median, minimum and maximum of 15 runs). Kernels that read every row have the share
  of the peak that bounds them: dot products for `tile_sums`, look-ups for `sign_tile`, and memory bandwidth for
  `sign_plane`, with which a single query reads all rows. `instructions` are counted from the source.
* `search`: a whole search of Gaussian clusters on one thread, in nanoseconds for a query and a row. Beside it stands
  the time of its kernels alone: the kernel that reads every row, and `row_sums` (batch) or `row_dots` (single) for the
  rows whose bound is above the final threshold.
* `encode`: nanoseconds of processor time for a vector, all steps. Beside it stands the time of the additions of the
  Hadamard rounds or of reading the vector, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from paper_recall import spread

import vqindex
from vqindex.backends.registry import make_backend
from vqindex.codes.bitplanes import join_rows
from vqindex.codes.codec import Codec
from vqindex.codes.sign_bound import quantile
from vqindex.spec import IndexSpec
from vqindex_bench.contest import machine
from vqindex_cli.output import show_table

HERE = Path(__file__).parent
NATIVE = HERE.parent / "vqindex" / "native"
# Constants of native/kernels.hpp.
TILE, QUERIES, GROUP, SIGN_QUERIES, UNIT = 128, 2, 256, 8, 24
CANDIDATES, DOTS = 4096, 16  # of roofline.cpp: rows of a call of row_sums and row_dots
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-w"]
CODES = (("turboquant-prod", 2), ("turboquant-prod", 4), ("trellis", 2), ("trellis", 4))

Line = dict[str, Any]


def compiled(folder: Path) -> Path:
    """Build roofline.cpp and return the program."""
    program = folder / "roofline"
    sources = [HERE / "roofline.cpp", NATIVE / "dispatch.cpp", *sorted(NATIVE.glob("kernels_*.cpp"))]
    command = [os.environ.get("CXX", "g++"), *FLAGS, f"-I{NATIVE}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def work_of(kernel: str, dim: int, memory: int) -> Line:
    """Return the work of one call of a kernel, in the units of the peaks, and its instructions."""
    units = (dim + UNIT - 1) // UNIT
    if kernel == "tile_sums":  # eight loads and two broadcasts for 16 dot products
        steps = -(-dim // 4)
        return {"pairs": TILE * QUERIES, "dots": 16 * steps, "instructions": 26 * steps}
    if kernel == "sign_tile":  # for two queries and a unit 24 loads, 8 prefetches, 32 look-ups and 32 additions
        work = units * SIGN_QUERIES
        return {"pairs": GROUP * SIGN_QUERIES, "permutes": 16 * work, "instructions": 48 * work}
    if kernel == "row_sums":
        return {"pairs": CANDIDATES, "dots": CANDIDATES * -(-dim // 64)}
    if kernel == "sign_plane":
        group = -(-dim // 8) * GROUP
        return {"pairs": memory // group * GROUP, "bytes": memory // group * group}
    if kernel == "above":
        return {"pairs": GROUP, "instructions": 16}
    if kernel.startswith("row_dots"):
        return {"pairs": DOTS, "levels": DOTS * dim}
    if kernel.startswith("decode"):
        return {"pairs": 1, "levels": dim}
    return {}


def kernels(program: Path, dims: list[int]) -> Iterator[Line]:
    """Run the compiled program and add the shares of the peaks."""
    peaks: dict[str, float] = {}
    memory = 2**28
    out = subprocess.run([str(program), *map(str, dims)], check=True, capture_output=True, text=True).stdout
    for text in out.splitlines():
        line: Line = json.loads(text)
        if "peak" in line:
            count = line.pop("dim")
            peaks[line["peak"]] = line["per_ns"] = count / line["ns"]
        elif "kernel" in line:
            work = work_of(line["kernel"], line["dim"], memory)
            line |= work
            for unit in ("dots", "permutes", "bytes"):
                if unit in work and unit in peaks:
                    line[f"share_of_{unit}"] = work[unit] / line["ns"] / peaks[unit]
            if "instructions" in work and "cycles" in peaks:
                line["instructions_per_cycle"] = work["instructions"] / (line["ns"] * peaks["cycles"])
        yield line


def processor_seconds(call: Callable[[], Any], repeats: int = 7) -> dict[str, float]:
    """Return the spread of processor seconds over repeats, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return spread(times)


def passing(index: vqindex.VQIndex, queries: np.ndarray, k: int) -> float:
    """Return the share of rows whose bound is above the k-th score. A scan in any order has to score these rows."""
    reference = make_backend(Codec(index.spec), "reference")
    prepared = reference.prepare(queries)
    threshold = index.search(queries, k).scores[:, -1:]
    count = 0
    for block in index._rows.stored():
        for start in range(0, block.rows, 2**14):
            piece = join_rows(index.spec, block, slice(start, start + 2**14))
            bounds = reference._bounds(prepared, piece, quantile(0.995))  # type: ignore[attr-defined]
            count += int((bounds > threshold).sum())
    return count / (len(queries) * len(index))


def one_by_one(index: vqindex.VQIndex, queries: np.ndarray) -> None:
    """Search for each query in a separate call."""
    for query in queries:
        index.search(query, 10, threads=1)


def searches(dim: int, rows: int, times: dict[tuple[str, int], Line]) -> Iterator[Line]:
    """Measure whole searches, and compute the time that their kernels alone would take."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((200, dim), dtype=np.float32)
    x = centers[rng.integers(0, 200, rows)] + rng.standard_normal((rows, dim), dtype=np.float32)
    q = centers[rng.integers(0, 200, 1000)] + rng.standard_normal((1000, dim), dtype=np.float32)

    def pair(kernel: str) -> float:
        line = times[kernel, dim]
        return float(line["ns"] / line["pairs"])

    for codec, bits in CODES:
        index = vqindex.VQIndex(dim, bits, "cosine", codec=codec)
        index.add(x)
        share, row_dots = passing(index, q[:20], 10), pair(f"row_dots {codec} {bits}")
        batch = pair("sign_tile") + share * pair("row_sums")
        single = pair("sign_plane") + share * row_dots
        for name, count, expected, call in (
            ("batch", 1000, batch, partial(index.search, q, 10, threads=1)),
            ("single", 50, single, partial(one_by_one, index, q[:50])),
        ):
            took = {at: 1e9 * s / (count * rows) for at, s in processor_seconds(call).items()}
            yield {
                "search": name,
                "codec": codec,
                "bits": bits,
                "dim": dim,
                "n": rows,
                "rows_passing": share,
                "ns_per_pair": took,
                "kernels_alone": expected,
                "share_of_kernels": expected / took["median"],
            }


def encoding(dim: int, peaks: dict[str, float]) -> Iterator[Line]:
    """Measure encoding on one processor, and the floor of the three Hadamard rounds' additions or the bytes read."""
    x = np.random.default_rng(0).standard_normal((20_000, dim), dtype=np.float32)
    additions = 3 * sum(2**i * i for i in range(dim.bit_length()) if dim >> i & 1)
    floor = max(additions / peaks["additions"], 4 * dim / peaks["bytes"]) if peaks else None
    for codec, bits in CODES:
        backend = make_backend(Codec(IndexSpec(dim, bits, "cosine", codec=codec)), "cpu")
        took = {at: 1e9 * s / len(x) for at, s in processor_seconds(partial(backend.encode, x)).items()}
        line = {"encode": codec, "bits": bits, "dim": dim, "ns_per_vector": took}
        yield line | ({"floor": floor, "share_of_floor": floor / took["median"]} if floor else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[100, 384, 768, 1536])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        lines += kernels(compiled(Path(folder)), args.dims)
    times = {(line["kernel"], line["dim"]): line for line in lines if "kernel" in line}
    peaks = {line["peak"]: line["per_ns"] for line in lines if "peak" in line}
    for dim in args.dims:
        lines += encoding(dim, peaks)
        lines += searches(dim, args.rows, times)
    common = {"benchmark": "roofline", "load": os.getloadavg()[0], "machine": machine()}
    path = args.out / "roofline.jsonl"
    kept = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    kept = [line for line in kept if line["machine"]["cpu"] != common["machine"]["cpu"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *(common | line for line in lines)]))
    report(lines)


def report(lines: list[Line]) -> None:
    """Print the lines as tables."""
    show_table(
        ["kernel", "d", "ns a call", "ns a pair", "share of peak"],
        [
            [
                line["kernel"],
                line["dim"],
                f"{line['ns']:.1f}",
                f"{line['ns'] / line['pairs']:.3f}" if "pairs" in line else "",
                ", ".join(f"{line[key]:.0%} of {key[9:]}" for key in line if key.startswith("share_of_")),
            ]
            for line in lines
            if "kernel" in line
        ],
    )
    show_table(
        ["search", "codec", "bits", "d", "ns a pair", "kernels alone", "rows passing"],
        [
            [
                line["search"],
                line["codec"],
                line["bits"],
                line["dim"],
                f"{line['ns_per_pair']['median']:.3f}",
                f"{line['kernels_alone']:.3f} ({line['share_of_kernels']:.0%})",
                f"{line['rows_passing']:.2%}",
            ]
            for line in lines
            if "search" in line
        ],
    )
    show_table(
        ["encode", "bits", "d", "ns a vector", "floor"],
        [
            [
                line["encode"],
                line["bits"],
                line["dim"],
                f"{line['ns_per_vector']['median']:.0f}",
                f"{line['floor']:.0f} ({line['share_of_floor']:.0%})" if "floor" in line else "",
            ]
            for line in lines
            if "encode" in line
        ],
    )


if __name__ == "__main__":
    main()
