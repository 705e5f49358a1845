"""All integrations: a missing package is named in one sentence, and nothing is loaded before it is needed."""

import subprocess
import sys

import pytest

PACKAGES = {
    "sklearn": ("sklearn", "sklearn", "scikit-learn"),
    "langchain": ("langchain_core", "langchain", "langchain-core"),
    "llama_index": ("llama_index", "llama-index", "llama-index-core"),
    "haystack": ("haystack", "haystack", "haystack-ai"),
}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_reported_with_the_command_that_installs_it(name):
    blocked, extra, package = PACKAGES[name]
    done = python(f"import sys; sys.modules[{blocked!r}] = None; import vqindex.integrations.{name}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {package} can't be imported (")
    assert last.endswith(f"; install it with: pip install 'vqindex[{extra}]'")


def test_the_library_loads_no_optional_package():
    names = [blocked for blocked, _, _ in PACKAGES.values()]
    done = python(
        "import sys, vqindex, vqindex.documents, vqindex.integrations, vqindex_cli.main;"
        f"print([name for name in {[*names, 'matplotlib', 'faiss']} if name in sys.modules])"
    )
    assert done.stdout == "[]\n"
