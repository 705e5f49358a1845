"""Shared by all tests: where golden files lie, and helpers modules are importable from here."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE / "emulator")]


@pytest.fixture(scope="session")
def golden():
    """Load a golden file by name; a missing one fails, it is never re-created here."""

    def load(name):
        return json.loads((HERE / "golden" / name).read_text())

    return load
