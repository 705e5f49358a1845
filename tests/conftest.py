"""Shared by all tests: golden files, and the path of the helper modules."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "support"), str(HERE / "emulator")]


@pytest.fixture(scope="session")
def golden():
    """Return a function that loads a golden file by name. A missing file is an error; no test writes one."""

    def load(name):
        return json.loads((HERE / "golden" / name).read_text())

    return load
