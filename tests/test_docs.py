"""Code in the documentation must run and print what the page shows."""

import doctest
import importlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import vqindex
import vqindex.index
from vqindex.file_format import layout

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md")
)
# How many blocks of a page are marked as not run. A new one needs a reason and an entry.
NOT_RUN = {"CONTRIBUTING.md": 1, "README.md": 1, "docs/index.md": 2}


class Block(NamedTuple):
    """A fenced block of code, and the mark before it: "not run", "needs" (other tests run it) or none."""

    language: str
    code: str
    mark: str


def blocks(page):
    fence = r"(?:<!-- (not run|needs): [^\n]* -->\n)?^( *)```(\w*)\n(.*?)^ *```$"
    found = re.findall(fence, (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, textwrap.dedent(code), mark) for mark, _, language, code in found]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_code_block_of_a_page_runs(page, tmp_path, monkeypatch):
    """Run the blocks of a page in order: Python in one namespace, commands in one folder."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, block in enumerate(blocks(page)):
        if block.mark:
            continue
        if block.language == "python":
            exec(compile(block.code, f"{page}, block {number}", "exec"), namespace)
        elif block.language == "sh":
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euxc", block.code], env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{page}, block {number}\n{done.stdout}{done.stderr}"
        else:
            assert block.language in ("", "text"), f"{page}: a block of {block.language!r}; expected python or sh"


def test_the_tables_of_all_pages_are_what_the_measured_lines_give(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    tables = importlib.import_module("tables")
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.filled(text) == text, f"{page.name}: run python docs/tables.py --write"
        assert text.count("<!-- table: ") == text.count("<!-- end table -->"), page.name


def test_the_table_of_the_readme_has_at_most_8_rows():
    (table,) = re.findall(
        r"<!-- table: readme -->\n(.*?)<!-- end table -->", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert len(table.strip().splitlines()) <= 2 + 8


def test_the_readme_has_at_most_180_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_every_table_that_a_page_asks_for_exists(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    tables = importlib.import_module("tables")
    requests = [
        (page, name) for page in PAGES for name in re.findall(r"<!-- table: ([\w-]+) -->", (ROOT / page).read_text())
    ]
    assert len(requests) > 5
    for page, name in requests:
        assert tables.TABLES[name]().startswith(("| ", "`")), f"{page}: {name}"


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    shown = set(re.findall(r"^::: vqindex\.(\w+)$", text, re.MULTILINE))
    assert shown == set(vqindex.__all__) - {"__version__"}


def test_only_the_known_blocks_are_marked_as_not_run():
    marked = {page: sum(block.mark == "not run" for block in blocks(page)) for page in PAGES}
    assert {page: count for page, count in marked.items() if count} == NOT_RUN


def test_how_to_pages_have_python_blocks():
    for page in ("README.md", "docs/index.md", "docs/choosing-bits.md", "docs/from-faiss.md", "docs/from-turbovec.md"):
        assert any(block.language == "python" for block in blocks(page)), page


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        # docs/hooks.py copies some pages into the site; `make docs` checks the links among all of them.
        copied = page.startswith("docs/") and target in ("format.md", "benchmark-protocol.md")
        assert copied or (ROOT / page).parent.joinpath(target).exists(), target


def test_format_md_names_the_version_and_the_blocks_in_file_order():
    text = (ROOT / "FORMAT.md").read_text()
    plain, records = layout.FORMAT_VERSION, layout.RECORDS_VERSION
    assert text.startswith(f"# The `.vqi` file, format versions {plain} and {records}\n")
    assert f"| attribute `format_version` | uint32 | | {plain}, or {records} if rows are records |" in text
    places = [text.index(f"\n| `{name}` | ") for name in layout.BLOCKS]
    assert places == sorted(places), "the table lists blocks in another order than the file"
    for version in range(1, layout.FORMAT_VERSION + 1):
        assert f"\n## Version {version}\n" in text


def test_the_map_names_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = ("codes", "rows", "backends", "search", "directory", "file_format", "store")
    modules = [
        *(ROOT / "vqindex").glob("*.py"),
        *(path for room in rooms for path in (ROOT / "vqindex" / room).glob("*.py")),
    ]
    missing = [path.name for path in modules if path.stem != "__init__" and not re.search(rf"\b{path.stem}\b", text)]
    assert not missing
    for folder in (ROOT / "vqindex").iterdir():
        assert folder.is_file() or folder.name == "__pycache__" or f"{folder.name}/" in text, folder.name


@pytest.mark.parametrize("module", [vqindex, vqindex.index], ids=lambda m: m.__name__)
def test_docstring_examples_print_what_they_show(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
