"""``vqindex bench``: measure a sweep of parameters, and other libraries, on any data file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from vqindex.arguments import DEFAULT_CONFIDENCE
from vqindex.spec import CODECS, METRICS, SKETCHES, IndexSpec
from vqindex_bench.contest import MODES, Contender, contenders_of, measure, on_processors
from vqindex_bench.data_files import read_file
from vqindex_bench.peers import DEFAULT, EFS, PEERS, SLOW, Built, Settings, ours
from vqindex_bench.plots import has_matplotlib
from vqindex_bench.report import write_report

from .output import CommaList, json_option, progress_bar, show_table
from .paths import InputPath, OutputPath, check_output

__all__ = ["bench"]

_NAMES = {"turboquant-prod": "prod", "turboquant-mse": "mse"}


def _reads_signs(bits: int, codec: str, sketch: str | None) -> bool:
    """Whether a search with these parameters uses the confidence; False for widths that the codec does not have."""
    try:
        return IndexSpec(1, bits, codec=codec, sketch=sketch).has_sign_bits
    except ValueError:
        return False


def _contender(
    bits: int,
    codec: str,
    sketch: str | None,
    confidence: float | None,
    oversample: float,
    of_all: dict[str, Any],
) -> Contender:
    """Return a contender of vqindex; `of_all` are seed and device."""
    label = f"vqindex {_NAMES.get(codec, codec)}"
    label += "" if sketch in (None, "shared") else f" {sketch}"
    label += "" if confidence in (None, DEFAULT_CONFIDENCE) else f", confidence {confidence:g}"
    label += f", oversample {oversample:g}" if oversample else ""
    plain = ours(codec, sketch=sketch, **of_all)

    def build(rows: Any, bits: int, settings: Settings) -> Built:
        args = {} if confidence is None else {"confidence": confidence}
        rerank = {"rerank": rows, "oversample": oversample} if oversample else {}
        built = plain(rows, bits, replace(settings, search_args={**args, **rerank}))
        if not oversample:
            return built
        size = built.bytes_per_vector + rows.itemsize * rows.shape[1]
        return replace(built, bytes_per_vector=size, counted=f"{built.counted}, and the vectors as float32")

    fields = {"codec": codec, "sketch": sketch, "confidence": confidence, "oversample": oversample, **of_all}
    return Contender(label, bits, build, fields)


def _sweep(
    widths: Sequence[int],
    codecs: Sequence[str],
    sketches: Sequence[str],
    confidences: Sequence[float],
    oversamples: Sequence[float],
    of_all: dict[str, Any],
) -> list[Contender]:
    """Return all distinct combinations of the parameters of vqindex, narrow ones first."""
    return [
        _contender(bits, codec, sketch, confidence, oversample, of_all)
        for bits in widths
        for codec in codecs
        for sketch in (sketches if codec == "turboquant-prod" else (None,))
        for confidence in (confidences if _reads_signs(bits, codec, sketch) else (None,))
        for oversample in oversamples
    ]


def _show(lines: Sequence[dict[str, Any]], k: int) -> None:
    rates = [tuple(line[f"{mode}_qps"]["median"] for mode in MODES) for line in lines]
    show_table(
        ("index", "bits", "bytes", f"recall@{k}", f"recall 1@{k}", "1@1", "build s", "batch q/s", "single q/s"),
        [
            (
                *(line[name] for name in ("index", "bits", "bytes_per_vector", "recall_at_k", "recall_1_at_k")),
                *(line[name] for name in ("recall_1_at_1", "build_seconds")),
                *rate,
            )
            for line, rate in zip(lines, rates, strict=True)
        ],
    )


_ALIASES = {"faiss-hnsw": "hnsw"}  # names that people look for


def _widths(context: click.Context, parameter: click.Parameter, value: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(value)))


def _peers(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    names = [_ALIASES.get(name, name) for each in value for name in (DEFAULT if each == "all" else (each,))]
    return tuple(dict.fromkeys(names))


@click.command()
@click.argument("data", type=InputPath())
@click.option("--queries", type=InputPath(), help="Query vectors. Default: DATA's, or held-out rows.")
@click.option("--dataset", help="Which dataset, key or column of DATA holds the vectors.")
@click.option("--rows", type=click.IntRange(1), help="Only the first rows of DATA.")
@click.option(
    "--num-queries", type=click.IntRange(1), default=1000, show_default=True, help="Use at most so many queries."
)
@click.option(
    "--metric", type=click.Choice(METRICS),
    help="Default: the metric of an ann-benchmarks file; else ip for rows of length 1, and cosine for others.",
)  # fmt: skip
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Results per query.")
@click.option(
    "--bits", type=CommaList(click.IntRange(1, 8)), default="2,4", show_default=True, callback=_widths,
    help="Bits per coordinate, 1 to 8, separated by commas.",
)  # fmt: skip
@click.option(
    "--codecs", type=CommaList(click.Choice(CODECS)), default="turboquant-prod,trellis", show_default=True,
    help=f"Codecs of vqindex: {', '.join(CODECS)}.",
)  # fmt: skip
@click.option(
    "--sketches", type=CommaList(click.Choice(SKETCHES)), default="shared", show_default=True,
    help=f"Sketches of turboquant-prod: {', '.join(SKETCHES)}.",
)  # fmt: skip
@click.option(
    "--confidences", type=CommaList(click.FloatRange(0.5, 1, min_open=True)), default=str(DEFAULT_CONFIDENCE),
    show_default=True, help="Confidences of the sign bound, above 0.5; 1 scores every vector.",
)  # fmt: skip
@click.option(
    "--oversamples", type=CommaList(click.FloatRange(0)), default="0", show_default=True,
    help="Lengths of the re-ranked shortlist in multiples of k, at least 1; 0 for no re-ranking.",
)  # fmt: skip
@click.option(
    "--peers", type=CommaList(click.Choice([*PEERS, *_ALIASES, "all"])), default="", callback=_peers,
    help=f"Other libraries to measure: {', '.join(PEERS)}; all means all but {', '.join(SLOW)}, slow to build.",
)  # fmt: skip
@click.option(
    "--efs", type=CommaList(click.IntRange(1)), default=",".join(map(str, EFS)), show_default=True,
    help="Candidates that a search of hnsw and hnswlib keeps, at least k; a line each.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Processors that each index uses."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns that each index has.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=0.3, show_default=True, help="A turn lasts at least so long."
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of rotations.")
@click.option("--device", default="auto", show_default=True, help="Device of vqindex: auto, cpu, or a backend's name.")
@click.option(
    "-o",
    "--output",
    type=OutputPath("lines are written to a file; --json writes them to stdout"),
    help="Write the JSON lines here.",
)
@click.option(
    "--plot", type=OutputPath("a picture is not written to stdout"), help="Write a picture here (needs matplotlib)."
)
@click.option("--html", type=OutputPath("a page is not written to stdout"), help="Write a report here, one HTML page.")
@json_option
def bench(
    data: Path,
    queries: Path | None,
    dataset: str | None,
    rows: int | None,
    num_queries: int,
    metric: str | None,
    k: int,
    bits: tuple[int, ...],
    codecs: tuple[str, ...],
    sketches: tuple[str, ...],
    confidences: tuple[float, ...],
    oversamples: tuple[float, ...],
    peers: tuple[str, ...],
    efs: tuple[int, ...],
    threads: int,
    rounds: int,
    seconds: float,
    seed: int,
    device: str,
    output: Path | None,
    plot: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Compare recall, bytes and speed of indexes on DATA.

    DATA is an ann-benchmarks file or vectors in any format. The indexes are those of vqindex and, with --peers, of
    other libraries. All are in memory at the same time, run on the same processors, and have their turns one after the
    other. With --json, prints a JSON object per index, each on a line.
    """
    for path in (output, plot, html):
        if path is not None:
            check_output(path, data, queries)
    if plot is not None and not has_matplotlib():
        raise click.ClickException("matplotlib is not installed; --plot needs: pip install 'vqindex[plot]'")
    contenders = _sweep(bits, codecs, sketches, confidences, oversamples, {"seed": seed, "device": device})
    contenders += contenders_of([PEERS[name] for name in peers], bits, efs)
    skipped: list[str] = []
    with on_processors(threads):
        found = read_file(
            data, k, queries_path=queries, dataset=dataset, metric=metric, rows=rows, queries=num_queries,
            phase=progress_bar,
        )  # fmt: skip
        lines = measure(
            contenders, found, Settings(k, threads, found.metric), rounds=rounds, seconds=seconds,
            skip=skipped.append, phase=progress_bar,
        )  # fmt: skip
    for text in skipped:
        click.echo(text, err=True)
    if not lines:
        raise click.ClickException("no index could be built")
    lines = [{"benchmark": "bench", **line} for line in lines]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    if output is not None:
        output.write_text(text)
    if plot is not None:
        from vqindex_bench.peer_plot import plot_peers

        plot_peers(plot, lines)
    if html is not None:
        write_report(html, lines)
    if as_json:
        click.echo(text, nl=False)
        return
    _show(lines, k)
    chosen = "" if metric else ", by default; --metric gives another"
    click.echo(f"metric {found.metric}{chosen}; {found.name}: {len(found.rows):,} rows, {len(found.queries):,} queries")
    for path, what in ((output, "lines"), (plot, "plot"), (html, "report")):
        if path is not None:
            click.echo(f"{what}: {path}")
