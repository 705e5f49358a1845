"""The other commands: info, verify, datasets, demo; wrong input, exit codes, variables, real processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cli_tools
import h5py
import numpy as np
import pytest
from cli_tools import DIM, no_constant, one_object, vectors, write_annbench

import vqindex
import vqindex_cli.demo
import vqindex_datasets
from vqindex_bench import compare, peers

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))

VQINDEX = shutil.which("vqindex", path=os.path.dirname(sys.executable))
in_a_process = pytest.mark.skipif(VQINDEX is None, reason="the command is not installed beside this Python")


@pytest.fixture
def index_file(folder, ok):
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "ip")
    return folder / "a.vqi"


# ---- info and verify


def test_info_gives_parameters_and_sizes(index_file, ok):
    fields = one_object(ok("info", "a.vqi", "--json"))
    index = vqindex.VQIndex.load("a.vqi")
    assert fields.items() >= {**index.spec.as_dict(), **index.meta}.items()
    assert fields["ntotal"] == 60
    assert fields["format_version"] == 3
    assert fields["file_bytes"] == os.path.getsize("a.vqi")
    assert fields["id_bytes"] == 0
    assert (fields["sign_bytes"], fields["row_bytes"], fields["bytes_per_vector"]) == (2, 4, 2 + 4 + 8)
    table = ok("info", "a.vqi").splitlines()
    assert table[0] == "a.vqi"
    assert dict(line.split(None, 1) for line in table[1:])["codec"].strip() == "turboquant-prod"


@pytest.mark.parametrize("codec", ["turboquant-mse", "trellis", "qjl"])
def test_info_of_every_kind_of_code_adds_up(folder, ok, codec):
    ok("build", "base.npy", "-o", "b.vqi", "--codec", codec, "--bits", 3, "--metric", "cosine")
    fields = one_object(ok("info", "b.vqi", "--json"))
    assert (fields["sign_bytes"] > 0) == (codec != "qjl")
    blocks = one_object(ok("verify", "b.vqi", "--json"))["blocks"]
    assert blocks["codes"] == 60 * fields["row_bytes"]
    assert blocks.get("signs", 0) == 64 * fields["sign_bytes"]
    assert fields["bytes_per_vector"] == fields["sign_bytes"] + fields["row_bytes"] + 4


def test_info_gives_the_version_and_loaded_size_of_a_version_1_file(folder, ok):
    shutil.copy(Path(__file__).parent / "golden" / "format1.vqi", "old.vqi")
    fields = one_object(ok("info", "old.vqi", "--json"))
    assert fields["format_version"] == 1
    assert fields["bytes_per_vector"] == 3 + 5 + 8, "its size once loaded"


def test_file_names_with_brackets_are_printed_unchanged(index_file, ok):
    shutil.copy("a.vqi", "[bold]a.vqi")
    text = ok("info", "[bold]a.vqi")
    assert text.count("[bold]a.vqi") == 2


def test_verify_names_the_damaged_block(index_file, ok, run):
    report = one_object(ok("verify", "a.vqi", "--json"))
    assert report["index"] == "a.vqi"
    assert report["ok"] is True
    spec = vqindex.VQIndex.load("a.vqi").spec
    assert report["blocks"]["codes"] == 60 * spec.row_bytes
    assert report["blocks"]["signs"] == 64 * spec.sign_bytes
    assert ok("verify", "a.vqi").splitlines()[-1] == "a.vqi: ok"
    with h5py.File("a.vqi") as file:
        offset = file["factor"].id.get_offset()
    damaged = bytearray(index_file.read_bytes())
    damaged[offset + 9] ^= 1
    index_file.write_bytes(damaged)
    for extra in ((), ("--json",)):
        code, out, err = run("verify", "a.vqi", *extra)
        assert (code, out) == (1, "")
        assert err.startswith("error: a.vqi: block 'factor' is damaged in bytes 0 to 239")


# ---- datasets and demo


def test_datasets_list_names_the_whole_catalog(folder, ok):
    text = ok("datasets", "list", "--json")
    entries = json.loads(text, parse_constant=no_constant)
    assert [entry["name"] for entry in entries] == list(vqindex_datasets.CATALOG)
    assert entries[0].keys() >= {"name", "kind", "n", "dim", "nq", "distance", "size", "description"}
    lines = ok("datasets", "list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(vqindex_datasets.CATALOG)


def test_datasets_fetch_prints_the_path_of_the_shipped_sample(folder, ok, run):
    path = Path(ok("datasets", "fetch", "glove-100-sample").rstrip("\n"))
    assert path == vqindex_datasets.sample_path()
    code, out, err = run("datasets", "fetch", "no-such-set")
    assert (code, out) == (2, "")
    assert "no-such-set" in err


def test_datasets_make_is_seeded_and_never_replaces_a_file(folder, ok, run):
    args = ("datasets", "make", "clustered", "-o", "c.hdf5", "-n", 50, "--dim", 6, "--queries", 4, "-k", 70)
    assert ok(*args) == "c.hdf5\n"
    dataset = vqindex_datasets.load_annbench("c.hdf5")
    assert (dataset.n, dataset.dim, dataset.nq, dataset.gt_k) == (50, 6, 4, 50)
    before = Path("c.hdf5").read_bytes()
    code, out, err = run(*args, "--seed", 1)
    assert (code, out) == (1, "")
    assert "c.hdf5 exists" in err
    assert Path("c.hdf5").read_bytes() == before
    ok(*args, "--seed", 1, "--force")
    assert Path("c.hdf5").read_bytes() != before
    report = one_object(ok("build", "c.hdf5", "-o", "c.vqi", "--json"))
    assert (report["ntotal"], report["metric"]) == (50, dataset.metric)


def test_demo_compares_every_index_at_each_width(folder, run):
    code, out, err = run("demo", "--quick", "--no-plot", "--json", "--output", "out")
    assert code == 0
    assert "Traceback" not in err
    rows = json.loads(out, parse_constant=no_constant)
    assert [(row["index"], row["bits"]) for row in rows] == [
        (label, bits) for bits in (2, 4) for label in ("vqindex default", "vqindex trellis", "prod as in the paper")
    ]
    for row in rows:
        assert 0 < row["recall_at_10"] <= row["recall_1_at_10"] <= 1
        # Cosine: the codes and one float32, which for the paper's sketch is the length of the residual.
        # One more byte at d = 100: 6 or 4 bits of warm-up fields in a trellis row, or sign bits ending in half a byte.
        rounded = 0 if row["index"] == "prod as in the paper" else 1
        assert row["bytes_per_vector"] == 100 * row["bits"] // 8 + rounded + 4
    ours = {row["bits"]: row["recall_at_10"] for row in rows if row["index"] == "vqindex default"}
    assert ours[4] > ours[2]
    names = ("default", "paper", "trellis")
    assert sorted(os.listdir("out")) == [f"glove-{name}-{bits}.vqi" for name in names for bits in (2, 4)]


def test_demo_shows_a_result_before_faiss_trains(folder, run, monkeypatch, capsys):
    before = {}

    def trains(train, bits, metric):
        before[bits] = capsys.readouterr()
        return compare.build_ours("vqindex default", train, bits, metric)

    monkeypatch.setattr(vqindex_cli.demo, "has_faiss", lambda: True)
    monkeypatch.setattr(vqindex_cli.demo, "build_faiss_pq", trains)
    assert run("demo", "--no-plot", "--output", "out")[0] == 0
    assert list(before) == [2, 4]
    out, err = before[2]
    assert "nearest to query 0, as id:cosine" in out
    assert re.search(r"recall@10 of all queries: 0\.8\d\d, with 55 bytes per vector; float32 takes 400\n$", out)
    assert "trains, for about half a minute" in err.splitlines()[-1]
    assert "warning" not in err


def test_neighbors_of_the_demo_are_what_the_saved_index_finds(folder, run):
    code, out, _ = run("demo", "--quick", "--no-plot", "--output", "out")
    assert code == 0
    data = vqindex_datasets.load_annbench(vqindex_datasets.sample_path())
    result = vqindex.VQIndex.load("out/glove-default-4.vqi").search(data.test[0], 5)
    (found,) = re.findall(r"as id:cosine +(.*)\n", out)
    assert found.split() == [f"{id}:{score:.3f}" for id, score in zip(result.ids, result.scores, strict=True)]
    (true,) = re.findall(r"its true nearest +(.*)\n", out)
    assert [int(id) for id in true.split()] == data.neighbors[0, :5].tolist()


def test_faiss_pq_trains_no_order_of_centroids_that_this_search_does_not_use(monkeypatch):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install 'vqindex[faiss]'")
    made, factory = [], faiss.index_factory
    monkeypatch.setattr(faiss, "index_factory", lambda *args: made.append(factory(*args)) or made[-1])
    rows = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare.build_faiss_pq(rows, 4, "ip")
        peers.PEERS["faiss-pq"].build(rows, 4, peers.Settings(3, 1, "ip"))
        peers.PEERS["faiss-opq"].build(rows, 4, peers.Settings(3, 1, "ip"))
    inner = [index if isinstance(index, faiss.IndexPQ) else faiss.downcast_index(index.index) for index in made]
    assert [(index.ntotal, index.do_polysemous_training) for index in inner] == [(300, False)] * 3


# ---- wrong inputs: exit code 1 for data, 2 for usage


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("build none.npy -o b.vqi", ["none.npy", "no such file"]),
        ("build base.csv -o b.vqi", [".csv", ".npy"]),
        ("build base.npy -o no/b.vqi", ["no is not a folder"]),
        ("build base.npy -o b.vqi --ids none.npy", ["none.npy"]),
        ("build base.npy -o b.vqi --codec qjl --sketch shared", ["qjl", "gaussian"]),
        ("build base.npy -o b.vqi --dataset x", ["dataset='x'"]),
        ("build base.npy -o b.vqi --device abacus", ["abacus", "this build has"]),
        ("build text.npy -o b.vqi", ["text.npy"]),
        ("build bool.npy -o b.vqi", ["bool.npy", "bool"]),
        ("search none.vqi queries.npy", ["none.vqi"]),
        ("search base.npy queries.npy", ["base.npy", "not an HDF5 file"]),
        ("search . queries.npy", ["holds no index"]),
        ("search empty.vqi queries.npy", ["empty.vqi", "empty file"]),
        ("search a.vqi/b.vqi queries.npy", ["a.vqi/b.vqi: no such file"]),
        ("search a.vqi queries.npy -o no/x.npz", ["no is not a folder"]),
        ("search a.vqi queries.npy -o x.npz", ["x.npz is a folder"]),
        ("build x.npz -o b.vqi", ["x.npz: no such file, but a folder"]),
        ("build empty.vqi.npy -o b.vqi", ["empty.vqi.npy: an empty file"]),
        ("build base.npy -o a.vqi/b.vqi", ["a.vqi is not a folder"]),
        ("build base.npy -o b.vqi --center none.npy", ["center is 'none.npy'", "expected 'mean' or a .npy file"]),
        ("build base.npy -o b.vqi --ids-column id", ["base.npy: has no columns"]),
        ("info .", [".: a folder that holds no index; expected an index file (.vqi) or the folder of a store"]),
        ("verify .", [".: a folder that holds no index"]),
        ("compact .", [".: a folder that holds no index"]),
        ("add . base.npy", [".: a folder that holds no index"]),
        ("delete . --ids base.npy", [".: a folder that holds no index"]),
        ("compact none.vqi", ["none.vqi: no such file; expected an index file"]),
        ("add a.vqi none.npy", ["none.npy: no such file"]),
        ("add none.vqi base.npy", ["none.vqi: no such file"]),
        ("delete a.vqi --ids none.npy", ["none.npy: no such file; expected a .npy file of integers or strings"]),
        ("datasets make gaussian -o no/x.h5", ["no is not a folder"]),
        ("datasets fetch glove-100-angular -d a.vqi", ["a.vqi: "]),
        ("search a.vqi none.npy", ["none.npy"]),
        ("search a.vqi wide.npy", ["11 columns", "dim 10"]),
        ("search a.vqi nan.npy", ["queries[3, 2] is nan"]),
        ("search a.vqi queries.npy --device abacus", ["abacus"]),
        ("eval a.vqi base.npy --queries queries.npy -k 61", ["k is 61", "60 vectors"]),
        ("eval a.vqi base.npy --queries wide.npy", ["11", "10"]),
        ("eval a.vqi base.npy --queries empty.npy", ["empty.npy", "no queries"]),
        ("eval a.vqi queries.npy --queries base.npy -k 3", ["holds 7 vectors", "60 of dim 10"]),
        ("eval a.vqi wide.npy --queries queries.npy -k 3", ["of dim 11"]),
        ("eval a.vqi none.npy --queries queries.npy", ["none.npy"]),
        ("eval a.vqi l2.hdf5 -k 3", ["'euclidean'", "'ip'", "--exact"]),
        ("info none.vqi", ["none.vqi"]),
        ("verify none.vqi", ["none.vqi"]),
        ("verify base.npy", ["base.npy"]),
    ],
)
def test_wrong_data_is_named_and_writes_nothing(index_file, run, args, words):
    np.save("wide.npy", vectors(7, dim=11))
    np.save("empty.npy", vectors(0))
    np.save("bool.npy", np.zeros((3, DIM), bool))
    Path("text.npy").write_text("1,2,3\n")
    Path("base.csv").write_text("1,2,3\n")
    Path("empty.vqi").touch()
    Path("empty.vqi.npy").touch()
    Path("x.npz").mkdir()
    x = vectors(7)
    x[3, 2] = np.nan
    np.save("nan.npy", x)
    write_annbench("l2.hdf5", "l2", "new")
    before = sorted(os.listdir())
    code, out, err = run(*args.split())
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("build base.npy", "--output"),
        ("build base.npy -o b.vqi --bits 9", "--bits"),
        ("build base.npy -o b.vqi --bits four", "--bits"),
        ("build base.npy -o b.vqi --metric hamming", "--metric"),
        ("build base.npy -o b.vqi --seed -1", "--seed"),
        ("build -o b.vqi", "DATA"),
        ("build base.npy -o b.vqi --no-such-option", "--no-such-option"),
        ("search a.vqi queries.npy -k 0", "-k"),
        ("search a.vqi queries.npy -o found.txt", ".npz"),
        ("search a.vqi", "QUERIES"),
        ("eval a.vqi base.npy", "--queries"),
        ("datasets make no-such-kind -o x.hdf5", "no-such-kind"),
        ("datasets make gaussian -o x.hdf5 -n 0", "-n"),
        ("datasets make gaussian -o x.npy", ".hdf5"),
        ("delete a.vqi", "--ids"),
        ("no-such-command", "no-such-command"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(index_file, run, args, words):
    before = sorted(os.listdir())
    code, out, err = run(*args.split())
    assert (code, out) == (2, "")
    assert words in err
    assert sorted(os.listdir()) == before


def test_every_command_has_help(ok):
    assert vqindex.__version__ in ok("--version")
    for command in ((), ("build",), ("search",), ("eval",), ("info",), ("verify",), ("datasets",), ("demo",)):
        assert "Usage:" in ok(*command, "--help")
        assert "Usage:" in ok(*command, "-h")


@pytest.mark.parametrize("group", [(), ("datasets",)])
def test_lists_of_commands_cut_no_sentence(ok, group):
    lines = ok(*group, "--help").split("Commands:\n")[1].splitlines()
    assert len(lines) >= 3
    for line in lines:
        assert line.endswith("."), line
        assert not line.endswith("..."), line


def test_an_interrupted_build_leaves_no_file(folder, run, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(vqindex.VQIndex, "add", stop)
    code, out, err = run("build", "base.npy", "-o", "a.vqi")
    assert (code, out) == (130, "")
    assert err == "stopped: a.vqi was not written\n"
    assert not os.path.exists("a.vqi")


# ---- variables


def test_options_come_from_the_environment(folder, ok, run, monkeypatch):
    monkeypatch.setenv("VQINDEX_BUILD_BITS", "6")
    monkeypatch.setenv("VQINDEX_BUILD_METRIC", "l2")
    monkeypatch.setenv("VQINDEX_BUILD_JSON", "1")
    report = one_object(ok("build", "base.npy", "-o", "a.vqi"))
    assert (report["bits"], report["metric"]) == (6, "l2")
    assert one_object(ok("build", "base.npy", "-o", "b.vqi", "--bits", 2))["bits"] == 2
    monkeypatch.setenv("VQINDEX_BUILD_BITS", "many")
    code, _, err = run("build", "base.npy", "-o", "c.vqi")
    assert code == 2
    assert "Invalid value for '--bits': 'many'" in err
    monkeypatch.setenv("VQINDEX_SEARCH_K", "3")
    monkeypatch.setenv("VQINDEX_SEARCH_JSON", "true")
    lines = ok("search", "a.vqi", "queries.npy").splitlines()
    assert [len(json.loads(line)["ids"]) for line in lines] == [3] * 7
    monkeypatch.setenv("VQINDEX_DATASETS_MAKE_N", "12")
    ok("datasets", "make", "sphere", "-o", "s.hdf5", "--dim", 4, "--queries", 2)
    assert vqindex_datasets.load_annbench("s.hdf5").n == 12


def test_backend_comes_from_the_environment(index_file, ok, run, monkeypatch):
    monkeypatch.setenv("VQINDEX_BACKEND", "nonsense")
    for args in (("build", "base.npy", "-o", "b.vqi"), ("search", "a.vqi", "queries.npy")):
        code, out, err = run(*args)
        assert (code, out) == (1, "")
        assert "VQINDEX_BACKEND is 'nonsense'" in err
    assert not os.path.exists("b.vqi")
    monkeypatch.setenv("VQINDEX_BACKEND", "reference")
    ok("search", "a.vqi", "queries.npy")


# ---- real processes


def process(*args, **kwargs):
    return subprocess.run([VQINDEX, *map(str, args)], capture_output=True, text=True, timeout=60, check=False, **kwargs)


@in_a_process
def test_the_installed_command_keeps_errors_off_stdout(folder):
    built = process("build", "base.npy", "-o", "a.vqi", "--json")
    assert (built.returncode, built.stderr) == (0, "")
    assert one_object(built.stdout)["ntotal"] == 60
    table = process("search", "a.vqi", "queries.npy", "-k", 3)
    assert (table.returncode, table.stderr) == (0, "")
    assert "\x1b" not in table.stdout
    failed = process("search", "none.vqi", "queries.npy")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "none.vqi" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert process("search").returncode == 2


@in_a_process
@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
def test_a_reader_that_stops_early_causes_no_error(index_file):
    np.save("many.npy", vectors(5000, seed=2))  # far more lines than a pipe holds
    command = f"'{VQINDEX}' search a.vqi many.npy --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout)["query"] == 0
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="pipes differ")
@pytest.mark.parametrize(
    "args",
    [
        "search a.vqi queries.npy --json",
        "search a.vqi queries.npy",
        "info a.vqi",
        "info a.vqi --json",
        "verify a.vqi",
        "datasets list",
        "doctor",
        "--help",
        "search --help",
        "--version",
    ],
)
def test_a_pipe_without_a_reader_ends_every_command_quietly(index_file, args):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-m", "vqindex", *args.split()]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_and_a_closed_stdout_are_no_tracebacks(index_file):
    command = [sys.executable, "-m", "vqindex", "info", "a.vqi"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        for args in ("info a.vqi", f"build base.npy -o '{closed}.vqi'"):
            shell = f"'{sys.executable}' -m vqindex {args} {closed}"
            done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("-", "output is '-', but an index is not written to stdout; expected the name of a file"),
        ("s3://bucket/a.vqi", "is a URL; expected a path of the local file system"),
        ("pipe", "pipe is no regular file; expected a file or a new name"),
        ("no/a.vqi", "no is not a folder"),
    ],
)
def test_build_refuses_outputs_that_are_no_files_also_with_force(folder, run, output, message):
    np.save(folder / "x.npy", np.eye(8, dtype=np.float32))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
    elif output == "pipe":
        pytest.skip("no pipes with names here")
    before = sorted(os.listdir(folder))
    code, _, err = run("build", "x.npy", "-o", output, "--force")
    assert (code, message in err, err.startswith("error: ")) == (1, True, True), err
    assert sorted(os.listdir(folder)) == before


def test_the_package_runs_as_a_module(folder):
    for module in ("vqindex", "vqindex_cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("vqindex, version ")


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ("build ? -o b.vqi", "data"),
        ("build base.npy -o b.vqi --ids ?", "ids"),
        ("build base.npy -o b.vqi --center ?", "name"),
        ("add ? base.npy", "index"),
        ("add a.vqi ?", "data"),
        ("delete a.vqi --ids ?", "ids"),
        ("compact ?", "index"),
        ("search ? queries.npy", "index"),
        ("search a.vqi ?", "queries"),
        ("search a.vqi queries.npy --rerank-from ?", "rerank-from"),
        ("search a.vqi queries.npy -o ?", "output"),
        ("eval ? base.npy", "index"),
        ("eval a.vqi ? --queries queries.npy", "data"),
        ("eval a.vqi base.npy --queries ?", "queries"),
        ("info ?", "index"),
        ("verify ?", "index"),
        ("bench ?", "data"),
        ("bench base.npy --queries ?", "queries"),
        ("bench base.npy --queries queries.npy -o ?", "output"),
        ("bench base.npy --queries queries.npy --html ?", "html"),
        ("demo --output ?", "output"),
        ("datasets make gaussian -o ?", "output"),
    ],
)
def test_dashes_urls_and_pipes_are_refused_by_every_path(index_file, run, args, name):
    """None of them waits for stdin, for a pipe without a writer, or makes a file of that name."""
    before = sorted(os.listdir())

    def refused(typed):
        code, out, err = run(*args.replace("?", typed).split())
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert sorted(os.listdir()) == before
        return err

    assert f"{name} is '-'" in refused("-")
    if args != "info ?":  # which takes the URL of a bucket
        assert "s3://bucket/x.npz is a URL; expected a path of the local file system" in refused("s3://bucket/x.npz")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.npz")
        before = sorted(os.listdir())
        if "make" not in args:
            assert "pipe.npz" in refused("pipe.npz")


def test_errors_of_the_system_name_the_file_without_a_number(index_file, run, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "a.vqi")

    monkeypatch.setattr(vqindex.VQIndex, "load", refuse)
    assert run("search", "a.vqi", "queries.npy") == (1, "", "error: a.vqi: Permission denied\n")


def complete(**variables):
    """Run the command under its own name, as a shell does for completion, and return its output."""
    code = "import sys; sys.argv[0] = 'vqindex'; from vqindex_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])  # that of bash asks bash for its version
def test_scripts_for_completion_are_made(shell):
    script = complete(_VQINDEX_COMPLETE=f"{shell}_source")
    assert f"_VQINDEX_COMPLETE={shell}_complete" in script
    assert "vqindex" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command(tmp_path):
    script = complete(_VQINDEX_COMPLETE="bash_source")
    name = script[script.index("complete -o") :].split("-F")[1].split()[0]
    command = tmp_path / "vqindex"
    code = "import sys; sys.argv[0] = 'vqindex'; from vqindex_cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}"\n')
    command.chmod(0o755)
    pressed = f'COMP_WORDS=(vqindex sea)\nCOMP_CWORD=1\n{name} vqindex\necho "${{COMPREPLY[@]}}"\n'
    (tmp_path / "session").write_text(script + "\n" + pressed)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(tmp_path / "session")], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("search\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vqindex build --metr", {"--metric"}),
        ("vqindex build --metric ", {"auto", "ip", "cosine", "l2"}),
        ("vqindex datasets f", {"fetch"}),
        ("vqindex datasets fetch glove-100-s", {"glove-100-sample"}),
    ],
)
def test_options_and_values_are_completed(words, expected):
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    lines = complete(_VQINDEX_COMPLETE="bash_complete", **variables).splitlines()
    assert {line.split(",", 1)[1] for line in lines} == expected


@pytest.mark.parametrize(
    "command",
    [
        "build x.npy -o x.npy --force",
        "build x.npy -o other.npy --force",
        "build x.npy --ids ids.npy -o ids.npy --force",
        "build x.npy --metric l2 --center c.npy -o c.npy --force",
        "search a.vqi q.npz -o q.npz",
        "bench x.npy -o x.npy",
        "bench x.npy --html x.npy",
    ],
)
def test_no_command_writes_over_what_it_reads(folder, run, ok, command):
    np.save("x.npy", np.eye(8, dtype=np.float32))
    np.save("ids.npy", np.arange(8))
    np.save("c.npy", np.ones(8, np.float32))
    np.savez("q.npz", np.eye(8, dtype=np.float32))
    os.link("x.npy", "other.npy")
    ok("build", "x.npy", "-o", "a.vqi")
    before = {name: Path(name).read_bytes() for name in os.listdir() if Path(name).is_file()}
    code, _, err = run(*command.split())
    assert code == 1
    assert err.startswith("error: ")
    assert "is read by this command; expected another name to write to" in err
    assert {name: Path(name).read_bytes() for name in os.listdir() if Path(name).is_file()} == before
