"""The blocks of docs/integrations.md and the examples of the stores' docstrings."""

import doctest
import importlib

import pages
import pytest
from frameworks import needs

for module, package in (
    ("langchain_core", "langchain-core"), ("llama_index.core", "llama-index-core"), ("haystack", "haystack-ai"),
):  # fmt: skip
    needs(module, package)


@pytest.mark.parametrize("name", ["langchain", "llama_index", "haystack"])
def test_blocks_of_the_integrations_page_run(name, tmp_path, monkeypatch):
    pages.run("docs/integrations.md", name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["langchain", "llama_index", "haystack"])
def test_examples_in_docstrings_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(f"vqindex.integrations.{name}"))
    assert result.attempted > 2
    assert result.failed == 0
