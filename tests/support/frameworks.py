"""Tests of the retrieval frameworks run where these are installed; with VQINDEX_FRAMEWORKS a missing one fails."""

import os

import pytest


def needs(module, package):
    """Skip the calling module, with a reason, unless a package is installed."""
    if os.environ.get("VQINDEX_FRAMEWORKS"):
        __import__(module)
    else:
        pytest.importorskip(module, reason=f"{package} is not installed; make frameworks installs and runs these tests")
