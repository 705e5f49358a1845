"""The check of the built site finds what a reader would see as broken."""

import importlib
import re

import pytest
from pages import ROOT


@pytest.fixture
def check_site(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("check_site")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text('<p id="top">text</p><a href="other.html#here">other</a><a href="#top">up</a>')
    (tmp_path / "other.html").write_text(
        '<h1 id="here">Here</h1><a href="https://example.org/x">out</a><code>```</code>'
    )
    return tmp_path


def test_a_sound_site_has_no_faults(check_site, site):
    assert list(check_site.faults(site)) == []
    assert check_site.main(site) == 0


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ("<p>```python sklearn x = 1</p>", "shows '```python'"),
        ("<p>::: vqindex.VQIndex</p>", "shows '::: vqindex.VQIndex'"),
        ('<a href="missing.html">x</a>', "'missing.html', which does not exist"),
        ('<a href="other.html#nowhere">x</a>', "'other.html#nowhere', which has no such anchor"),
        ('<img src="figures/none.svg">', "'figures/none.svg', which does not exist"),
        ('<h3 id="vqindex.VQIndex.__copy__" class="doc doc-heading">x</h3>', "documents vqindex.VQIndex.__copy__"),
    ],
)
def test_each_kind_of_fault_is_named(check_site, site, html, fault):
    (site / "index.html").write_text(html)
    found = list(check_site.faults(site))
    assert len(found) == 1
    assert found[0].startswith("index.html ")
    assert fault in found[0]
    assert check_site.main(site) == 1


ROW = (
    '<h2 id="{}" class="doc doc-heading">x</h2><table><tr class="doc-section-item"><td><code>{}</code></td>'
    "<td><code>int</code></td><td>text</td><td> <code>{}</code> </td></tr></table>"
)


@pytest.mark.parametrize(
    ("name", "parameter", "shown", "fault"),
    [
        ("vqindex.VQIndex", "bits", "4", None),
        ("vqindex.VQIndex", "bits", "8", "'bits' of vqindex.VQIndex with default 8; it is 4"),
        ("vqindex.VQIndex", "dim", "required", None),
        ("vqindex.VQIndex", "dim", "8", "'dim' of vqindex.VQIndex with default 8; it has none"),
        ("vqindex.VQIndex", "metric", "&#34;ip&#34;", None),
        ("vqindex.VQIndex", "keep_vectors", "&#34;f32&#34;", 'with default "f32"; it is None'),
        ("vqindex.VQIndex.search", "confidence", "0.995", "with default 0.995; it is None"),
        ("vqindex_datasets.write_annbench", "dtype", "float64", "with default float64; it is <class 'numpy.float32'>"),
        ("vqindex_datasets.write_annbench", "dtype", "float32", None),
        ("vqindex.VQIndex.load", "memory_map", "True", "vqindex.VQIndex.load has no parameter 'memory_map'"),
    ],
)
def test_shown_defaults_are_those_of_the_signature(check_site, site, name, parameter, shown, fault):
    (site / "index.html").write_text(ROW.format(name, parameter, shown))
    found = list(check_site.faults(site))
    if fault is None:
        assert found == []
    else:
        assert len(found) == 1
        assert fault in found[0]


def test_a_folder_without_a_site_is_refused(check_site, tmp_path, capsys):
    assert check_site.main(tmp_path) == 2
    assert "expected a built site" in capsys.readouterr().err


def test_fences_of_pages_have_one_word():
    """Two words after a fence are no fence to the site's Markdown: half a page became one block of gray."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for line in re.findall(r"^ *```.*$", page.read_text(), re.MULTILINE):
            assert re.fullmatch(r" *```\w*", line), f"{page.name}: {line}"


def test_every_entry_of_the_menu_is_a_page():
    text = (ROOT / "mkdocs.yml").read_text()
    menu = re.findall(r": ([\w-]+\.md)$", text[text.index("\nnav:") : text.index("\nvalidation:")], re.MULTILINE)
    brought = re.findall(r'": "([\w-]+\.md)"', (ROOT / "docs" / "hooks.py").read_text())
    assert len(menu) > 15
    for page in menu:
        assert page in brought or (ROOT / "docs" / page).exists(), page
