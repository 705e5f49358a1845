"""Hooks of MkDocs (mkdocs.yml).

They draw figures, fill in tables, add the help of the command line, and add the documentation in the root of the
repository as pages.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures  # noqa: E402
import tables  # noqa: E402

ROOT = HERE.parent
FIGURES = ROOT / "build" / "docs" / "figures"
# Files outside this folder that become pages: path in the repository, and path on the site.
ADDED = {
    "FORMAT.md": "format.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmark-protocol.md",
    **{path.relative_to(ROOT).as_posix(): path.name for path in sorted((ROOT / "benchmarks/results").glob("*.png"))},
}
PAGES = {"README.md": "index.md", **ADDED}


def on_files(files: Files, config: Any) -> Files:
    """Draw the figures; add them and the files outside this folder."""
    figures.draw(FIGURES)
    for path in sorted(FIGURES.glob("*.svg")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for origin, name in ADDED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in tables, figures and help, and change links to files of the repository into links on the site."""
    origin = next((path for path, name in ADDED.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    markdown = tables.filled(markdown)
    markdown = re.sub(r"<!-- figure: (\w+) (.*?) -->", figure, markdown)
    markdown = markdown.replace("<!-- command line -->", command_line())
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)", lambda found: link(origin, found), markdown)


def figure(found: re.Match[str]) -> str:
    """Return both versions of a figure; the page shows the version for its color scheme."""
    name, text = found[1], found[2]
    return "\n".join(f"![{text}](figures/{name}-{shade}.svg#only-{shade})" for shade in figures.LOOKS)


def link(origin: str, found: re.Match[str]) -> str:
    """Return a link on the site; a link to a file that is not on the site becomes plain text."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), found[3]))
    if target in PAGES:
        return f"{found[1]}[{found[2]}]({PAGES[target]}{found[4] or ''})"
    if target.startswith("docs/"):
        return f"{found[1]}[{found[2]}]({target.removeprefix('docs/')}{found[4] or ''})"
    return found[2]


def command_line() -> str:
    """Return the help of every command."""
    from vqindex_cli.main import cli

    sections = []

    def show(command: click.Command, path: str) -> None:
        context = click.Context(command, info_name=path, terminal_width=80, **cli.context_settings)
        sections.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```")
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            show(inner, f"{path} {name}")

    show(cli, "vqindex")
    return "\n\n".join(sections)
