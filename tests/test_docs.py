"""What the documentation shows must run and print what it says."""

import doctest
import re
from pathlib import Path

import pytest

import vqindex
import vqindex.index
from vqindex.storage import layout

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_readme_has_examples():
    assert python_blocks()


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_readme_examples_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks()[number], f"README block {number}", "exec"), {})


PAGES = ["README.md", "FORMAT.md", "CONTRIBUTING.md", "docs/scan.md", "docs/trellis.md", "docs/gpu.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_format_is_described_as_it_is():
    text = (ROOT / "FORMAT.md").read_text()
    assert text.startswith(f"# The `.vqi` file, format version {layout.FORMAT_VERSION}\n")
    assert f"| attribute `format_version` | uint32 | | {layout.FORMAT_VERSION} |" in text
    places = [text.index(f"\n| `{name}` | ") for name in layout.BLOCKS]
    assert places == sorted(places), "blocks in another order than in the file"
    for version in range(1, layout.FORMAT_VERSION):
        assert f"\n## Version {version}\n" in text


def test_the_map_names_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    quiet = {"__init__", "errors", "result", "version", "ids", "trellis_tables"}
    for path in (ROOT / "vqindex").glob("*.py"):
        assert path.stem in quiet or path.name in text, path.name


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
