"""Measure the design choices of the trellis codec and their alternatives.

    python benchmarks/trellis_choices.py EXPERIMENT ... [--data DATA.hdf5 ...] [--queries 1000] [--seeds 3]

Experiments: windows, windows_random, start, tables, scales, sign, mixed, pairs, e8, errors. Each writes its JSON lines
to results/trellis-choices.jsonl and replaces its earlier ones. Everything is seeded. Recall@10 is without re-ranking,
in float32, the median over seeds of the rotation. `loss` is the mean of 1 - cos^2 between a vector and its code. `mse`
is the error on Gaussian sequences of 1024 values over their energy; `mse_inner` excludes 64 values at both ends, where
the free start and the open end reduce the error. Speeds count seconds of processor time of one thread. `table_version`
is the version of the shipped tables at the measurement. docs/trellis.md discusses the results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from paper_recall import load
from trellis_lab import (
    EDGE,
    F64,
    Code,
    angle_losses,
    computed_table,
    decoded,
    e8_ball_error,
    e8_nested_error,
    native_windows,
    read,
    sequences,
    shipped,
    sphere,
    squared_error,
    tail_biting,
    viterbi,
)
from trellis_tables import (
    FINAL_ROUNDS,
    FINAL_ROWS,
    FINALISTS,
    ROUNDS,
    ROWS,
    STARTS,
    best_table,
    quantiles,
    refine,
    structured,
)

from vqindex._native import Scanner, trellis_encode
from vqindex.backends.registry import make_backend
from vqindex.codes.codebook import embedded
from vqindex.codes.codec import Codec
from vqindex.codes.trellis import FRACTION, TABLE_VERSION, WINDOWS, Trellis, cost_limits
from vqindex.spec import IndexSpec
from vqindex_bench.contest import machine

Line = dict[str, Any]
Method = Callable[[Any], Any]  # encodes rows of variance 1 and returns them decoded
HELD_OUT = 10**7  # first seed of sequences that no table was made from


def median_recall(args: argparse.Namespace, encode: Method) -> Line:
    """Return recall@10 and loss on every data set."""
    out: Line = {}
    for path in args.data:
        runs = []
        for seed in range(args.seeds):
            data = read(path, args.queries, seed)
            yhat = encode(data.y)
            runs.append((data.recall(yhat), float(angle_losses(data.y, yhat).mean())))
        recall, loss = (sorted(values) for values in zip(*runs, strict=True))
        middle = len(runs) // 2
        out[path.stem] = {
            "recall_at_10": recall[middle],
            "min": recall[0],
            "max": recall[-1],
            "loss": loss[middle],
            "queries": args.queries,
            "seeds": args.seeds,
        }
    return out


def distortions(code: Code, rows: int = FINAL_ROWS) -> Line:
    """Measure a table on sequences that it was not made from."""
    y = sequences(rows, HELD_OUT)
    yhat = decoded(y, code)
    return {"mse": squared_error(y, yhat), "mse_inner": squared_error(y, yhat, EDGE)}


def processor_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return the least processor time of one thread over several runs."""
    found = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return min(found)


def speeds(code: Code, step: float) -> Line:
    """Time the compiled search alone and the plain decoder, one thread, d = 384."""
    dim, rows = 384, 2048 >> max(0, code.window - 8)
    y = sphere(max(rows, 64), dim, 0)
    table = np.rint(code.table / step).astype(np.int8)
    values = np.clip(np.rint(y * (FRACTION / step)), -127 * FRACTION, 127 * FRACTION).astype(np.int16)
    levels, limits = table.astype(np.int16) * np.int16(FRACTION), cost_limits(code.bits, code.window)
    encode = processor_seconds(lambda: trellis_encode(values, levels, code.bits, code.window, *limits))
    row_bytes = -(-((dim - 1) * code.bits + code.window) // 8)
    codes = np.random.default_rng(0).integers(0, 256, (20_000, row_bytes), np.uint8)
    scanner = Scanner(dim, code.bits, code.window, False, table.astype(np.int16), "ip")
    decode = processor_seconds(lambda: scanner.decode(codes, None))
    return {
        "search_vectors_per_second_d384": len(values) / encode,
        "decode_levels_per_second": codes.shape[0] * dim / decode,
        "table_bytes": table.size,
    }


STARTS_AT = {6: 16, 8: 16, 9: 16, 10: 8, 12: 4}
RANDOM_STARTS = 160  # at the shipped lengths
SWEEP = {1: (6, 8, 9, 10, 12), 2: (6, 8, 10, 12), 3: (6, 9, 12), 4: (8, 12)}
EFFORT = {"rounds": ROUNDS, "rows": ROWS, "final_rounds": FINAL_ROUNDS, "final_rows": FINAL_ROWS}


def windows(args: argparse.Namespace) -> Iterator[Line]:
    """Measure window lengths: distortion, recall, speed; for the shipped tables and tables made like them."""
    for bits in args.bits:
        for window in SWEEP[bits]:
            table, step, _ = best_table(bits, window, STARTS_AT[window], 1)
            yield window_line(args, Code(bits, window, table * step), step, STARTS_AT[window], True)
        yield window_line(args, shipped(bits), Trellis.of(bits).step, STARTS, True) | {"shipped": True}


def windows_random(args: argparse.Namespace) -> Iterator[Line]:
    """Measure window lengths with free tables from random starts; with many starts at the shipped lengths."""
    for bits in args.bits:
        for window in SWEEP[bits]:
            starts, finalists = (RANDOM_STARTS, FINALISTS) if window == WINDOWS[bits] else (STARTS_AT[window], 1)
            table, step, _ = best_table(bits, window, starts, finalists, random_start, symmetric=False)
            yield window_line(args, Code(bits, window, table * step), step, starts, False)


def window_line(args: argparse.Namespace, code: Code, step: float, starts: int, symmetric: bool) -> Line:
    """Measure a table at its window."""
    line = {"bits": code.bits, "window": code.window, "starts": starts, "symmetric": symmetric, **EFFORT}
    line |= {"shipped": False, **distortions(code), **speeds(code, step)}
    return line | median_recall(args, partial(decoded, code=code))


def start(args: argparse.Namespace) -> Iterator[Line]:
    """Compare a stored free start, a fixed start and a closed path, with shipped tables on uniform directions."""
    for dim, rows in ((100, 4000), (384, 1500)):
        for bits in (1, 2, 4):
            code = shipped(bits)
            found: dict[str, list[F64]] = {"free, stored": [], "fixed": [], "tail-biting": []}
            for seed in range(rows // 250):
                y = sphere(250, dim, HELD_OUT + seed)
                for name, at in (
                    ("free, stored", viterbi(y, code)),
                    ("fixed", viterbi(y, code, first=np.zeros(len(y), np.int64))),
                    ("tail-biting", tail_biting(y, code)),
                ):
                    found[name].append(((y - code.table[at]) ** 2).mean(axis=1))
            for name, batches in found.items():
                errors = np.concatenate(batches)
                fields = dim + (code.window // bits - 1 if name == "free, stored" else 0)
                line = {"start": name, "dim": dim, "bits": bits, "window": code.window, "vectors": errors.size}
                line |= {"code_bytes": -(-fields * bits // 8), "searches": 2 if name == "tail-biting" else 1}
                yield line | {"mse": errors.mean(), "stderr": errors.std() / math.sqrt(errors.size)}


def rescaled(code: Code, rows: int = 256) -> Code:
    """Scale a table to the best size for its own codes."""
    y = sequences(rows, HELD_OUT - 1)
    for _ in range(4):
        yhat = decoded(y, code).astype(np.float64)
        code = code._replace(table=code.table * float((y * yhat).sum() / (yhat**2).sum()))
    return code


def random_table(window: int, rng: np.random.Generator, symmetric: bool) -> F64:
    """Return a random permutation of the Gaussian's quantiles, optionally with table[~w] = -table[w]."""
    values = quantiles(2**window)
    if not symmetric:
        return rng.permutation(values)
    half = rng.permutation(values[values.size // 2 :]) * rng.choice([-1.0, 1.0], values.size // 2)
    return np.concatenate([half, -half[::-1]])


def random_start(bits: int, window: int, rng: np.random.Generator) -> F64:
    """Return a random start without symmetry."""
    return random_table(window, rng, symmetric=False)


def alternating(bits: int, window: int, seed: int, ordered: bool, symmetric: bool) -> Code:
    """Return the table that alternation finds from a random or a structured start."""
    rng = np.random.default_rng([seed, 2])
    table = structured(bits, window, rng) if ordered else random_table(window, rng, symmetric)
    table = refine(table, bits, window, rng, ROWS, ROUNDS, symmetric)
    return Code(bits, window, refine(table, bits, window, rng, FINAL_ROWS // 4, FINAL_ROUNDS, symmetric))


def least(codes: list[Code]) -> Code:
    """Return the code of least distortion on sequences for selection."""
    y = sequences(ROWS, HELD_OUT - 2)
    return min(codes, key=lambda code: squared_error(y, decoded(y, code)))


def tables(args: argparse.Namespace) -> Iterator[Line]:
    """Compare tables: alternation from random and structured starts, symmetric or not; quantiles; hashing."""
    for bits, window in WINDOWS.items():
        line = {"bits": bits, "window": window}
        for ordered, symmetric in ((False, False), (False, True), (True, False), (True, True)):
            found = [alternating(bits, window, seed, ordered, symmetric) for seed in range(8)]
            name = f"{'structured' if ordered else 'random'} start, {'symmetric' if symmetric else 'free'}"
            yield {"table": name, **line, "starts": len(found), **distortions(least(found))}
        yield {"table": "shipped", **line, "starts": STARTS, **distortions(shipped(bits))}
    for bits, window, count in ((1, 8, 32), (1, 9, 32), (2, 8, 32), (4, 8, 32), (1, 12, 8), (2, 12, 8), (4, 12, 8)):
        line = {"bits": bits, "window": window, "starts": count}
        methods: dict[str, list[F64]] = {
            "random quantiles": [random_table(window, np.random.default_rng([s, 3]), False) for s in range(count)],
            "structured quantiles": [structured(bits, window, np.random.default_rng([s, 3])) for s in range(count)],
            "computed": [computed_table(window, s) for s in range(count)],
        }
        for name, few in methods.items():
            best = least([rescaled(Code(bits, window, table), 64) for table in few])
            yield {"table": name, **line, **distortions(rescaled(best), FINAL_ROWS // 2)}
    for bits in (1, 2):  # the compiled search has windows up to 12
        code = Code(bits, 16, computed_table(16, 0) * math.sqrt(1 - 4.0**-bits))
        y = sequences(256, HELD_OUT, 512)
        yhat = code.table[np.concatenate([viterbi(batch, code) for batch in np.split(y, 8)])]
        line = {"table": "computed", "bits": bits, "window": 16, "starts": 1, "length": 512}
        yield line | {"mse": squared_error(y, yhat), "mse_inner": squared_error(y, yhat, EDGE)}


SCALES = {
    "1": (1.0,),
    "1, 1.05": (1.0, 1.05),
    "0.95, 1, 1.05": (1.0, 0.95, 1.05),
    "0.9, 0.95, 1, 1.05, 1.1": (1.0, 0.9, 0.95, 1.05, 1.1),
}


def best_cosine(y: Any, code: Code, scales: tuple[float, ...]) -> Any:
    """Encode at several scales; return for every row the decoded code of the best cosine."""
    best = decoded(y, code)
    loss = angle_losses(y, best)
    for scale in scales[1:]:
        other = decoded(y / np.float32(scale), code)
        better = angle_losses(y, other)
        keep = better < loss
        best[keep], loss = other[keep], np.minimum(loss, better)
    return best


def alternated(y: Any, code: Code, rounds: int) -> Any:
    """Encode, rescale the row to the best fit of its code, and encode again."""
    yhat = decoded(y, code)
    for _ in range(rounds):
        scale = np.einsum("ij,ij->i", y, yhat) / np.einsum("ij,ij->i", yhat, yhat)
        yhat = decoded(y / scale[:, None], code)
    return yhat


def scales(args: argparse.Namespace) -> Iterator[Line]:
    """Compare searches over scales for a better cosine, on the data sets and on uniform directions."""
    for bits in (1, 2, 4):
        code = shipped(bits)
        methods: dict[str, tuple[int, Method]] = {
            name: (len(few), partial(best_cosine, code=code, scales=few)) for name, few in SCALES.items()
        }
        methods |= {f"least squares, {n} more": (1 + n, partial(alternated, code=code, rounds=n)) for n in (1, 2)}
        for name, (searches, method) in methods.items():
            spheres = {}
            for dim in (100, 384):
                y = sphere(2_000_000 // dim, dim, HELD_OUT)
                spheres[f"sphere-{dim}"] = {"loss": float(angle_losses(y, method(y)).mean())}
            line = {"scales": name, "bits": bits, "searches": searches, **spheres}
            yield line | median_recall(args, method)


def with_sign(y: Any, code: Code, levels: F64) -> Any:
    """Decode the trellis with an extra sign bit of the residual; levels are indexed by [window, y >= level]."""
    at = native_windows(y, code)
    return levels[at, (y >= code.table[at]).astype(np.int64)].astype(np.float32)


def sign(args: argparse.Namespace) -> Iterator[Line]:
    """Use the trellis for all bits but the last, and the sign of the residual for the last (sketch S = P)."""
    for bits in (2, 3):
        code = shipped(bits - 1)
        y = sequences(FINAL_ROWS, HELD_OUT - 3)
        at = native_windows(y, code)
        cell = (2 * at + (y >= code.table[at])).ravel()
        levels = (np.bincount(cell, y.ravel()) / np.bincount(cell)).reshape(-1, 2)
        methods: dict[str, Method] = {
            "trellis, then sign": partial(with_sign, code=code, levels=levels),
            "trellis": partial(decoded, code=shipped(bits)),
            "scalar, then sign": partial(scalar, book=embedded(10_000, bits)),
        }
        for name, method in methods.items():
            y = sequences(FINAL_ROWS, HELD_OUT)
            line = {"code": name, "bits": bits, "mse": squared_error(y, method(y))}
            yield line | median_recall(args, method)


def scalar(y: Any, book: Any) -> Any:
    """Decode a scalar code."""
    return book.values[np.searchsorted(book.thresholds, y)]


def mix(y: Any, code: str, bits: float) -> Any:
    """Decode rows at a width; at b and a half, the first half of the coordinates has b bits and the other b + 1."""
    low = math.floor(bits)
    if low < bits:
        halves = np.array_split(y, 2, axis=1)
        mixed = [mix(np.ascontiguousarray(half), code, low + i) for i, half in enumerate(halves)]
        return np.concatenate(mixed, axis=1)
    return decoded(y, shipped(low)) if code == "trellis" else scalar(y, embedded(384, low))


def mixed(args: argparse.Namespace) -> Iterator[Line]:
    """Widths of a half by two widths in one row."""
    for code in ("trellis", "scalar"):
        for bits in (1, 1.5, 2, 2.5, 3, 3.5, 4):
            method = partial(mix, code=code, bits=bits)
            y = sphere(20_000, 384, HELD_OUT)
            line = {"code": code, "bits": bits, "bound": 4.0**-bits}
            line["sphere-384"] = {"loss": angle_losses(y, method(y)).mean()}
            yield line | median_recall(args, method)


def pairs(args: argparse.Namespace) -> Iterator[Line]:
    """Widths of a half by one trellis whose windows decide two coordinates: 3 or 5 new bits for both."""
    for bits, window in ((3, 9), (5, 10)):
        found = []
        for seed in range(2):
            rng = np.random.default_rng([seed, 4])
            code = Code(bits, window, rng.standard_normal((2**window, 2)) * math.sqrt(1 - 2.0**-bits))
            for _ in range(25):
                y = rng.standard_normal((256, 512))
                at = viterbi(y, code).ravel()
                count = np.bincount(at, minlength=2**window)[:, None]
                total = np.stack([np.bincount(at, half.ravel(), 2**window) for half in (y[:, ::2], y[:, 1::2])], axis=1)
                code = code._replace(table=np.where(count > 0, total / np.maximum(count, 1), code.table))
            y = sequences(256, HELD_OUT - 2)
            found.append((squared_error(y, paired(y, code)), seed, code))
        code = min(found, key=lambda f: f[:2])[2]
        y = sequences(256, HELD_OUT)
        line = {"code": "trellis of pairs", "bits": bits / 2, "window": window, "bound": 2.0**-bits, "starts": 2}
        line["mse"] = squared_error(y, paired(y, code))
        y = sphere(2000, 384, HELD_OUT)
        line["sphere-384"] = {"loss": angle_losses(y, paired(y, code)).mean()}
        few = argparse.Namespace(**{**vars(args), "seeds": 1})
        yield line | median_recall(few, partial(paired, code=code))


def paired(y: Any, code: Code) -> Any:
    """Decode a trellis of pairs."""
    levels = code.table.astype(np.float32)
    batches = [levels[viterbi(y[i : i + 256], code)].reshape(-1, y.shape[1]) for i in range(0, len(y), 256)]
    return np.concatenate(batches)


def e8(args: argparse.Namespace) -> Iterator[Line]:
    """E8 at a fixed rate: the best of a few scales, for a ball of points and for nested lattices."""
    ball = [(bits, "ball", e8_ball_error, grid) for bits, grid in ((1, (1.0, 2.0)), (2, (0.8, 1.2)))]
    reach = {1: (1.2, 2.0), 2: (0.7, 1.3), 3: (0.4, 0.75), 4: (0.2, 0.45)}
    nested = [(bits, "nested", e8_nested_error, grid) for bits, grid in reach.items()]
    for bits, shape, error, (low, high) in ball + nested:
        found = [(error(bits, float(s), 10_000, HELD_OUT - 4), float(s)) for s in np.linspace(low, high, 21)]
        scale = min(found)[1]
        rows = 100_000 if shape == "nested" else 20_000 if bits == 2 else 100_000
        mse = error(bits, scale, rows, HELD_OUT)
        yield {"shape": shape, "bits": bits, "scale": scale, "vectors_of_8": rows, "mse": mse}


def errors(args: argparse.Namespace) -> Iterator[Line]:
    """Measure the slope of the estimates, and their spread over the predicted standard error, over rotations.

    The standard error is that of a query orthogonal to the vector. The values `_orthogonal` count only the orthogonal
    component of the query, 1 - cos^2.
    """
    seeds, path = max(384, args.seeds), args.data[0]
    train, test, truth, _ = load(path, None, 200)
    rng = np.random.default_rng(HELD_OUT)
    rows = np.unique(np.concatenate([truth[:, :5].ravel(), rng.integers(0, len(train), 3000)]))
    x = (train[rows] / np.linalg.norm(train[rows], axis=1, keepdims=True)).astype(np.float32)
    q = (test / np.linalg.norm(test, axis=1, keepdims=True)).astype(np.float32)
    true = q.astype(np.float64) @ x.T.astype(np.float64)
    near = np.argmax(true, axis=1)
    pair = np.arange(len(q))
    for bits in (1, 2, 3, 4):
        found: dict[str, list[float]] = {"all": [], "z2": [], "part": [], "near": [], "near_z2": [], "near_part": []}
        for seed in range(seeds):
            backend = make_backend(Codec(IndexSpec(x.shape[1], bits, "cosine", "trellis", seed=seed)))
            queries, codes = backend.prepare(q), backend.encode(x)
            estimate = backend.scores(queries, codes).astype(np.float64)
            z = (estimate - true) / backend.stderr(queries, codes)
            for name, at in (("", (slice(None), slice(None))), ("near_", (pair, near))):
                e, t, z2 = estimate[at], true[at], z[at] ** 2
                found[name.rstrip("_") or "all"].append(float((e * t).sum() / (t**2).sum()))
                found[name + "z2"].append(float(z2.mean()))
                found[name + "part"].append(float((z2 / (1 - t**2)).mean()))
        half = {name: 1.96 * float(np.std(found[name], ddof=1)) / math.sqrt(seeds) for name in ("all", "near")}
        mean = {name: float(np.mean(values)) for name, values in found.items()}
        line = {"data": path.stem, "bits": bits, "rotations": seeds, "pairs": true.size}
        for name in ("", "near_"):
            slope = name.rstrip("_") or "all"
            line |= {f"{name}slope": mean[slope], f"{name}slope_ci95": half[slope]}
            line |= {f"{name}stderr_ratio": math.sqrt(mean[name + "z2"])}
            line |= {f"{name}stderr_ratio_orthogonal": math.sqrt(mean[name + "part"])}
        yield line


EXPERIMENTS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    function.__name__: function
    for function in (windows, windows_random, start, tables, scales, sign, mixed, pairs, e8, errors)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", choices=list(EXPERIMENTS))
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="ann-benchmarks files, cosine similarity")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--bits", type=int, nargs="+", default=list(SWEEP), help="of windows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    path = args.out / "trellis-choices.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.experiments:
        head = {"experiment": name, "date": time.strftime("%Y-%m-%d"), **machine(), "table_version": TABLE_VERSION}
        found = []
        for line in EXPERIMENTS[name](args):
            print(json.dumps({"experiment": name, **line}), flush=True)
            found.append(json.dumps({**head, **line}) + "\n")
        new = {(name, line["bits"]) for line in map(json.loads, found)}
        old = path.read_text().splitlines(keepends=True) if path.exists() else []
        others = [text for text in old if (json.loads(text)["experiment"], json.loads(text)["bits"]) not in new]
        path.write_text("".join(others + found))


if __name__ == "__main__":
    main()
