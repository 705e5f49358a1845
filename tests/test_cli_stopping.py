"""Ctrl-C: no press is lost, writes end whole, and every command exits with 130 and the word "stopped"."""

import os
import signal
import subprocess
import sys
import threading
import weakref

import cli_tools
import numpy as np
import pytest
from cli_tools import one_object
from click.testing import CliRunner

import vqindex
import vqindex_cli.main
from vqindex_cli import start, stopping
from vqindex_cli.source_rows import SourceRows
from vqindex_datasets import VectorSource

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))


@pytest.fixture(autouse=True)
def handler(monkeypatch):
    """Give every test Python's own handler, and check that the command line restores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    found = signal.signal(signal.SIGINT, former)
    assert found is signal.default_int_handler


def press(*_):
    signal.raise_signal(signal.SIGINT)


def press_in_callback():
    """Press Ctrl-C where Python drops the exceptions of signal handlers."""

    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing, press)
    del thing
    return reference


@pytest.fixture
def at_read(monkeypatch):
    """Return a function that arranges for something to happen while chunk `number` is read."""
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 200)  # 20 rows

    def arrange(number, act):
        reads, read = [], SourceRows.__getitem__

        def counted(self, at):
            reads.append(at)
            rows = read(self, at)
            if len(reads) == number:
                act()
            return rows

        monkeypatch.setattr(SourceRows, "__getitem__", counted)
        return reads

    return arrange


@pytest.mark.parametrize("act", [press, press_in_callback])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stopped_build_of_a_file_ends_before_the_next_chunk(folder, run, at_read, act):
    reads = at_read(2, act)
    assert run("build", "base.npy", "-o", "a.vqi") == (130, "", "stopped: a.vqi was not written\n")
    assert len(reads) == 3  # the third begins, and ends at once
    assert sorted(os.listdir()) == ["base.npy", "queries.npy"]


def test_a_stopped_build_keeps_the_file_that_it_would_replace(folder, ok, run, at_read):
    ok("build", "base.npy", "-o", "a.vqi")
    before = (folder / "a.vqi").read_bytes()
    at_read(1, press)
    code, _, err = run("build", "base.npy", "-o", "a.vqi", "--force")
    assert (code, err) == (130, "stopped: a.vqi is unchanged\n")
    assert (folder / "a.vqi").read_bytes() == before


def test_ctrl_c_during_the_save_lets_it_end_and_says_so(folder, run, monkeypatch):
    save = vqindex.VQIndex.save

    def pressed(self, path):
        press()
        save(self, path)

    monkeypatch.setattr(vqindex.VQIndex, "save", pressed)
    assert run("build", "base.npy", "-o", "a.vqi") == (130, "", "stopped: a.vqi is complete\n")
    assert len(vqindex.VQIndex.load("a.vqi")) == 60


def test_a_second_ctrl_c_stops_at_once(folder, run, at_read):
    after = []

    def twice():
        press()
        after.append("first")
        press()
        after.append("second")

    at_read(2, twice)
    assert run("build", "base.npy", "-o", "a.vqi")[::2] == (130, "stopped: a.vqi was not written\n")
    assert after == ["first"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_stopped_build_of_a_store_says_how_to_go_on(folder, ok, run, at_read, force):
    at_read(2, press)
    command = ("build", "base.npy", "-o", "s", "--store", "--commit-every", 20, "--metric", "l2")
    code, _, err = run(*command, *force)
    how = "the same command without --force" if force else "the same command"
    # The second chunk is the second commit: it is read, encoded and committed before the stop takes effect.
    assert (code, err) == (130, f"stopped: s holds 40 of 60 vectors; {how} goes on after them\n")


def test_a_store_that_is_stopped_before_or_after_its_rows_says_so(folder, run, at_read, monkeypatch):
    at_read(3, press)
    command = ("build", "base.npy", "-o", "s", "--store", "--commit-every", 20)
    assert run(*command)[::2] == (130, "stopped: s is complete\n")
    monkeypatch.setattr("vqindex_cli.build.read_ids", lambda *_: (press(), press()))
    assert run("build", "base.npy", "-o", "t", "--store")[::2] == (130, "stopped: t was not begun\n")


def test_a_stopped_store_goes_on_where_it_stopped(folder, run, at_read):
    at_read(2, press)
    command = ("build", "base.npy", "-o", "s", "--store", "--commit-every", 20)
    code, _, err = run(*command)
    assert (code, "s holds 40 of 60 vectors" in err) == (130, True)
    code, out, err = run(*command, "--json")
    assert (code, err) == (0, "going on after 40 of 60 vectors\n")
    assert one_object(out)["ntotal"] == 60


@pytest.mark.parametrize("index", ["a.vqi", "s"])
def test_a_stopped_add_changes_nothing(folder, ok, run, at_read, index):
    ok("build", "base.npy", "-o", index, *(("--store",) if index == "s" else ()))
    at_read(2, press)
    assert run("add", index, "base.npy") == (130, "", f"stopped: {index} is unchanged\n")
    assert one_object(ok("info", index, "--json"))["ntotal"] == 60


@pytest.mark.parametrize("index", ["a.vqi", "s"])
def test_ctrl_c_in_delete_and_compact_leaves_them_whole(folder, ok, run, monkeypatch, index):
    ok("build", "base.npy", "-o", index, *(("--store",) if index == "s" else ()))
    np.save("gone.npy", np.arange(5))
    for name, command in (("remove", ("delete", index, "--ids", "gone.npy")), ("compact", ("compact", index))):
        for kind in (vqindex.VQIndex, vqindex.DurableIndex):
            act = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda self, *args, act=act: (press(), act(self, *args))[1])
        assert run(*command)[::2] == (130, f"stopped: {index} is unchanged\n")
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        assert one_object(ok("info", index, "--json"))["ntotal"] == 60


@pytest.mark.parametrize(
    "command",
    [
        "search a.vqi queries.npy",
        "eval a.vqi base.npy --queries queries.npy",
        "info a.vqi",
        "verify a.vqi",
        "bench base.npy --queries queries.npy -k 3 --bits 4 --codecs turboquant-prod --seconds 0 --rounds 1",
        "datasets make gaussian -o g.hdf5 -n 50 --dim 4 --queries 3",
        "datasets list",
        "doctor",
    ],
)
@pytest.mark.parametrize("act", [press, press_in_callback])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_command_that_is_stopped_exits_with_130(folder, ok, run, monkeypatch, command, act):
    ok("build", "base.npy", "-o", "a.vqi")
    name = command.split()[0]
    target = vqindex_cli.main.cli.commands[name]
    target = target.commands[command.split()[1]] if name == "datasets" else target
    callback = target.callback

    def pressed(**kwargs):
        act()
        return callback(**kwargs)

    monkeypatch.setattr(target, "callback", pressed)
    code, _, err = run(*command.split())
    assert (code, err) == (130, "stopped\n")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_found_at_a_report_of_progress(folder, ok, run, monkeypatch):
    """A press that Python dropped ends the search of exact neighbors before its next block."""
    ok("build", "base.npy", "-o", "a.vqi")
    chunks = VectorSource.chunks

    def pressed(self, rows=65536):
        for chunk in chunks(self, rows):
            press_in_callback()
            yield chunk

    monkeypatch.setattr(VectorSource, "chunks", pressed)
    monkeypatch.setattr("vqindex_cli.evaluate.time_search", lambda *_: pytest.fail("the measurement began"))
    assert run("eval", "a.vqi", "base.npy", "--queries", "queries.npy") == (130, "", "stopped\n")


@pytest.mark.parametrize("standalone", [True, False])
def test_click_itself_ends_with_130(folder, monkeypatch, standalone):
    """Where a program calls the group of commands, click's "Aborted!" and exit code 1 do not appear."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(vqindex.VQIndex, "add", stop)
    result = CliRunner().invoke(vqindex_cli.main.cli, ["build", "base.npy", "-o", "a.vqi"], standalone_mode=standalone)
    if standalone:
        assert (result.exit_code, result.output) == (130, "stopped: a.vqi was not written\n")
    else:
        assert isinstance(result.exception, stopping.Stopped)


def test_other_threads_and_ignored_signals_keep_their_handlers(folder, run):
    seen = []

    def look():
        with stopping.interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    look()
    assert seen[1] == signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    look()
    assert seen[2] not in (signal.default_int_handler, signal.SIG_IGN)


IN_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from vqindex_cli.source_rows import SourceRows
from vqindex_cli.main import main
read = SourceRows.__getitem__
def pressed(self, at):
    rows = read(self, at)
    signal.raise_signal(signal.SIGINT)
    return rows
SourceRows.__getitem__ = pressed
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
def test_a_terminal_is_told_that_the_stop_is_near(folder):
    outer, inner = os.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, "build", "base.npy", "-o", "a.vqi"]
    done = subprocess.run(command, stderr=inner, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(inner)
    text = os.read(outer, 100_000).decode()
    os.close(outer)
    assert (done.returncode, done.stdout) == (130, "")
    assert text.count("stopping at the next block; Ctrl-C again stops at once") == 1
    assert text.rstrip().endswith("stopped: a.vqi was not written")
    assert "Traceback" not in text


def test_a_press_of_an_earlier_command_does_not_stop_the_next(folder, run, at_read):
    at_read(1, press)
    assert run("build", "base.npy", "-o", "a.vqi")[0] == 130
    assert run("build", "base.npy", "-o", "a.vqi")[0] == 0


STARTING = """
import os, runpy, signal, sys

class Presser:
    def find_spec(self, name, path=None, target=None):
        if name == "vqindex_cli.evaluate":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presser())
sys.argv = ["vqindex", "--version"]
"""
STARTS = {
    "script": "from vqindex_cli.start import main; main()",
    "module": "runpy.run_module('vqindex', None, '__main__')",
}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("how", STARTS)
def test_ctrl_c_while_modules_are_imported_stops_without_a_traceback(how):
    done = subprocess.run(
        [sys.executable, "-c", STARTING + STARTS[how]], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_the_start_leaves_the_handler_of_ctrl_c_as_it_was(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vqindex", "--version"])
    before = signal.getsignal(signal.SIGINT)
    start.main()
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.startswith("vqindex")
