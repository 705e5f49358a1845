"""Code blocks of documentation pages: those marked ``python``, or ``python`` and another word."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def blocks(page, word=""):
    """Return the code of the blocks that begin with ```python WORD."""
    head = f"```python {word}".strip()
    return re.findall(rf"^{re.escape(head)}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def run(page, word, folder, monkeypatch):
    """Run a page's blocks of one kind in a folder. The page must have at least one."""
    found = blocks(page, word)
    assert found, f"{page} has no block ```python {word}"
    monkeypatch.chdir(folder)
    for number, code in enumerate(found):
        exec(compile(code, f"{page}, {word} block {number}", "exec"), {})
