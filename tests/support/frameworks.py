"""Tests of the retrieval frameworks run where these are installed; where VQINDEX_FRAMEWORKS is set they must be."""

import os

import pytest


def needs(module, package):
    """Skip the module that calls this, with a sentence, unless a package is there."""
    if os.environ.get("VQINDEX_FRAMEWORKS"):
        __import__(module)
    else:
        pytest.importorskip(module, reason=f"{package} is not installed; make frameworks installs and runs these tests")
