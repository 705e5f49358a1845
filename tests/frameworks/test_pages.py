"""The blocks of the frameworks' pages and the examples of the stores' docstrings."""

import doctest
import importlib

import pages
import pytest
from frameworks import needs

for module, package in (
    ("langchain_core", "langchain-core"), ("llama_index.core", "llama-index-core"), ("haystack", "haystack-ai"),
):  # fmt: skip
    needs(module, package)


PAGES = {"langchain": "docs/langchain.md", "llama_index": "docs/llama-index.md", "haystack": "docs/haystack.md"}


@pytest.mark.parametrize("name", PAGES)
def test_blocks_of_a_page_run(name, tmp_path, monkeypatch):
    pages.run(PAGES[name], name, tmp_path, monkeypatch)


def test_the_pages_run_one_after_another_in_one_folder(tmp_path, monkeypatch):
    for name, page in PAGES.items():
        pages.run(page, name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["langchain", "llama_index", "haystack"])
def test_examples_in_docstrings_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(f"vqindex.integrations.{name}"))
    assert result.attempted > 2
    assert result.failed == 0
