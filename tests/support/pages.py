"""Python blocks of documentation pages: those without a mark, or those marked as needing a package."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def blocks(page, needs=""):
    """Return the code of ``python`` blocks: those after a line <!-- needs: NEEDS -->, or the unmarked ones."""
    found = re.findall(r"^([^\n]*)\n```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    marked = [(re.fullmatch(r"<!-- needs: (\w+) -->", before), code) for before, code in found]
    return [code for mark, code in marked if (mark[1] if mark else "") == needs]


def run(page, needs, folder, monkeypatch):
    """Run a page's blocks of one kind in a folder. The page must have at least one."""
    found = blocks(page, needs)
    assert found, f"{page} has no python block that needs {needs}"
    monkeypatch.chdir(folder)
    for number, code in enumerate(found):
        exec(compile(code, f"{page}, {needs} block {number}", "exec"), {})
