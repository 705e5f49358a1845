"""Check the built site: what a reader would see as broken, and MkDocs does not report.

    python docs/check_site.py build/site

No page shows a literal fence or a comment of Markdown, every page of the menu exists, every link to a page or an anchor
of the site leads somewhere, no private name is documented, and every parameter is shown with the default of its
signature.
"""

from __future__ import annotations

import html
import inspect
import pkgutil
import posixpath
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag


class _Page(HTMLParser):
    """Anchors, links and running text of a page; code and scripts are no running text."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := fields.get(name)))
        target = fields.get("href") if tag in ("a", "link") else fields.get("src")
        if target:
            self.links.append(target)
        self._verbatim += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._verbatim -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._verbatim:
            self.text.append(data)


def read(path: Path) -> _Page:
    """Parse a page."""
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> Iterator[str]:
    """Yield what is broken, a line each."""
    pages = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    for name, page in pages.items():
        text = "".join(page.text)
        for found in re.findall(r"```\w*|<!--.*?-->|^:::.*", text, re.MULTILINE):
            yield f"{name} shows {found!r}"
        for fault in api_faults((site / name).read_text(encoding="utf-8")):
            yield f"{name} {fault}"
        if name == "404.html":
            continue  # served for any address: its links are absolute
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:|//", target):
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if target else name
            if path == ".":
                path = "index.html"
            if (site / path).is_dir():
                path = posixpath.join(path, "index.html")
            if not (site / path).is_file():
                yield f"{name} links to {link!r}, which does not exist"
            elif anchor and path in pages and anchor not in pages[path].anchors:
                yield f"{name} links to {link!r}, which has no such anchor"


def shown_defaults(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield object, parameter and shown default of every row in a page's tables of parameters."""
    name = ""
    for found in re.finditer(
        r'<h\d id="([\w.]+)" class="doc |<tr class="doc-section-item">(.*?)</tr>', text, re.DOTALL
    ):
        if found[1]:
            name = found[1]
            continue
        cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", found[2], re.DOTALL)]
        if len(cells) == 4:  # name, type, description, default; tables of results and errors have fewer
            yield name, html.unescape(cells[0]).strip(), html.unescape(cells[3]).strip()


def default_fault(name: str, parameter: str, shown: str) -> str | None:
    """Return what is wrong with the default that a page shows, or None."""
    thing: Any = pkgutil.resolve_name(name)
    try:
        default = inspect.signature(thing).parameters[parameter.lstrip("*")].default
    except KeyError:
        return f"{name} has no parameter {parameter!r}"
    if parameter.startswith("*"):  # shown with an empty dict or tuple
        return None
    if default is inspect.Parameter.empty:
        return None if shown == "required" else f"{parameter!r} of {name} with default {shown}; it has none"
    if isinstance(default, type) and shown == default.__name__:
        return None  # the page leaves out where a class is from
    code = thing.__init__ if inspect.isclass(thing) else thing
    names = {**vars(sys.modules[thing.__module__]), **getattr(code, "__globals__", {})}
    try:
        right = eval(shown, names) == default  # the text is that of our own sources
    except (NameError, SyntaxError):
        right = False
    return None if right else f"{parameter!r} of {name} with default {shown}; it is {default!r}"


def api_faults(text: str) -> Iterator[str]:
    """Yield what is wrong in a page's documentation of Python."""
    for private in re.findall(r'<h\d id="(vqindex[\w.]*\._\w+)" class="doc ', text):
        yield f"documents {private}, which is not public"
    for row in shown_defaults(text):
        if fault := default_fault(*row):
            yield f"shows {fault}"


def main(site: Path) -> int:
    """Print the faults; the exit code says whether there are any."""
    if not (site / "index.html").is_file():
        print(f"{site} has no index.html; expected a built site", file=sys.stderr)
        return 2
    found = list(faults(site))
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
