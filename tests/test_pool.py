"""Persistent threads: what native/pool.hpp promises, in a separate program; with ThreadSanitizer where it runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parent / "vqindex" / "native"
CXX = os.environ.get("CXX", "g++")

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not shutil.which(CXX), reason="needs a compiler, signals and fork"
)


def build(folder, *flags):
    program = folder / "pool"
    sources = [HERE / "support" / "pool.cpp", NATIVE / "pool.cpp"]
    command = [CXX, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", *flags, f"-I{NATIVE}"]
    done = subprocess.run([*command, *sources, "-o", program], capture_output=True, text=True, check=False)
    return program, done


def run(program, name):
    return subprocess.run([program, name], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    program, done = build(tmp_path_factory.mktemp("plain"))
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    program, done = build(tmp_path_factory.mktemp("sanitized"), "-fsanitize=thread")
    if done.returncode or run(program, "signals").returncode == 66:
        pytest.skip("ThreadSanitizer does not run on this machine")
    return program


@pytest.mark.parametrize(
    "name", ["parts", "errors", "callers", "alone", "waiting", "signals", "forks", "fork_within", "no_threads"]
)
def test_the_thread_pool_keeps_each_promise(plain, name):
    done = run(plain, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["parts", "errors", "callers", "alone", "waiting"])
def test_thread_sanitizer_finds_no_data_race(sanitized, name):
    done = run(sanitized, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
