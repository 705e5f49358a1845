"""Tables of the commands: the same whole lines on a terminal, in a pipe and in a file, at any width."""

import os
import re
import shutil
import subprocess
import sys

import cli_tools
import numpy as np
import pytest
from cli_tools import DIM, vectors
from click.shell_completion import ShellComplete

import vqindex
from vqindex_cli.main import cli
from vqindex_cli.output import show_fields, show_table

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))
ENVIRONMENTS = {
    "plain": {},
    "narrow": {"COLUMNS": "40"},
    "no color": {"NO_COLOR": "1"},
    "forced color": {"FORCE_COLOR": "1", "COLUMNS": "40"},
    "dumb terminal": {"TERM": "dumb"},
}
QUICK = ("--rounds", 1, "--seconds", 0)
# Each with words that its output has in one line.
COMMANDS = {
    "build": (("build", "base.npy", "-o", "b.vqi", "--force"), r"^sketch +shared$"),
    "info": (("info", "a.vqi"), r"^codec +turboquant-prod$"),
    "verify": (("verify", "a.vqi"), r"^codes +\d+  ok$"),
    "search": (("search", "a.vqi", "queries.npy", "-k", 50), r"^ +0(  ?\d+:-?[\d.e-]+){50}$"),
    "eval": (("eval", "a.vqi", "base.npy", "--queries", "queries.npy"), r"^latency_ms_p99 +[\d.]+$"),
    "bench": (
        ("bench", "base.npy", "--queries", "queries.npy", "--bits", 2, "--codecs", "turboquant-prod,turboquant-mse",
         "--sketches", "gaussian", "--oversamples", "3", *QUICK),
        r"^vqindex prod gaussian, oversample 3( +[\d.,]+){8}$",
    ),
    "datasets list": (("datasets", "list"), r"^glove-100-sample( +\S+){5,}$"),
    "doctor": (("doctor",), r"^CPU: \d+ processors, instruction set \w+( \(plain loops, slower\))?$"),
    "add": (("add", "b.vqi", "base.npy"), r"^ntotal +\d+$"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_redirected_output_has_whole_lines_without_padding_in_any_environment(folder, run, monkeypatch, command):
    for name in ("a.vqi", "b.vqi"):
        assert run("build", "base.npy", "-o", name)[0] == 0
    args, line = COMMANDS[command]
    shapes = set()
    for environment in ENVIRONMENTS.values():
        with monkeypatch.context() as patch:
            for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            code, out, _ = run(*args)
        assert code == 0
        assert not re.search(r"[ \t]$|…|\x1b", out, re.MULTILINE)
        assert re.search(line, out, re.MULTILINE), out
        # Times differ from run to run, so numbers do not count, nor does the space that they take.
        shapes.add(re.sub(r"[\d.,e+-]+|(?<= ) +", "", out))
    assert len(shapes) == 1


def test_tables_align_their_columns_and_show_what_does_not_print(capsys):
    show_table(("name", "n", "what"), [("a", 5, "x"), ("名前", 12345, "[bold]y\n\x1b[31mz\udcff"), ("", 0.25, "")])
    assert capsys.readouterr().out.splitlines() == [
        "name       n  what",
        "a          5  x",
        r"名前  12,345  [bold]y\n\x1b[31mz\udcff",
        "        0.25",
    ]
    show_fields("a\nb", {"a": 1, "long name": "", "c": None})
    assert capsys.readouterr().out.splitlines() == [r"a\nb", "a          1", "long name", "c          None"]
    show_table(("block", "bytes"), [])
    assert capsys.readouterr().out == "block  bytes\n"


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "ben", ["bench"]),
        (["bench", "x.npy", "--peers"], "hn", ["hnsw", "hnswlib"]),
        (["bench", "x.npy", "--peers"], "hnsw,faiss-p", ["hnsw,faiss-pq", "hnsw,faiss-pqfs"]),
        (["bench", "x.npy", "--peers"], "hnsw,hn", ["hnsw,hnswlib"]),
        (["bench", "x.npy", "--bits"], "2,", []),
        (["build", "x.npy", "--codec"], "tre", ["trellis"]),
    ],
)
def test_a_shell_completes_commands_and_values_also_in_lists(words, incomplete, found):
    completion = ShellComplete(cli, {}, "vqindex", "_VQINDEX_COMPLETE")
    got = [item.value for item in completion.get_completions(words, incomplete)]
    assert got == found


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("script") is None, reason="needs the command script of Linux"
)
@pytest.mark.parametrize(("term", "bold"), [("xterm", True), ("dumb", False)])
def test_a_narrow_terminal_shows_whole_words(folder, term, bold):
    index = vqindex.VQIndex(DIM, 2)
    index.add(vectors(4), ids=[f"a long name of a vector, number {i}" for i in range(4)])
    index.save("a.vqi")
    np.save("queries.npy", vectors(2))
    command = f"stty cols 40 && '{sys.executable}' -m vqindex_cli search a.vqi queries.npy -k 4"
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], env={**env, "TERM": term}, capture_output=True, text=True, check=True
    )
    assert "…" not in done.stdout
    assert ("\x1b[1m" in done.stdout) == bold
    for i in range(4):
        assert done.stdout.count(f"a long name of a vector, number {i}:") == 2
