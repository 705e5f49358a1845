"""What the documentation shows must run and print what it says."""

import doctest
import re
from pathlib import Path

import pytest

import vqindex
import vqindex.index

README = Path(__file__).parent.parent / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_readme_has_examples():
    assert python_blocks()


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_readme_examples_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks()[number], f"README block {number}", "exec"), {})


@pytest.mark.parametrize("module", [vqindex, vqindex.index], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_has_a_docstring():
    for name in vqindex.__all__:
        if name != "__version__":
            assert getattr(vqindex, name).__doc__, name
    for name, member in vars(vqindex.VQIndex).items():
        if not name.startswith("_"):
            assert (member.fget if isinstance(member, property) else getattr(vqindex.VQIndex, name)).__doc__, name
