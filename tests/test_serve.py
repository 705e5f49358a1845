"""``vqindex serve``: answers equal the library's, limits hold, and no request stops the server."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import vqindex

pytest.importorskip("uvicorn", reason="needs the extra vqindex[serve]")
pytest.importorskip("starlette", reason="needs the extra vqindex[serve]")
pytest.importorskip("httpx2", reason="starlette's test client needs it")

from starlette.testclient import TestClient

from vqindex_serve.app import create_app
from vqindex_serve.batching import Batcher
from vqindex_serve.calls import from_raw
from vqindex_serve.limits import Limits
from vqindex_serve.metrics import Metrics
from vqindex_serve.source import Source

DIM, ROWS = 16, 300
RAW = {"content-type": "application/octet-stream"}
VECTORS = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
QUERIES = np.random.default_rng(1).standard_normal((7, DIM), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "store"
    with vqindex.open(path, "a", dim=DIM, bits=2, metric="cosine", keep_vectors="f16") as store:
        store.add(VECTORS)
    return path


def client_of(path, limits=None, **options):
    return TestClient(create_app(Source(path), limits, **options), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder):
    with client_of(folder) as client:
        yield client


def until(holds):
    """Wait for what a thread will do; a test that waits too long fails."""
    stop = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < stop
        time.sleep(0.01)


def raw_of(response, k):
    """Return the ids and scores of a raw answer."""
    nq = int(response.headers["x-vqindex-queries"])
    assert int(response.headers["x-vqindex-k"]) == k
    ids = np.frombuffer(response.content[: 8 * nq * k], "<i8").reshape(nq, k)
    return ids, np.frombuffer(response.content[8 * nq * k :][: 4 * nq * k], "<f4").reshape(nq, k)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "confidence": 1.0},
        {"k": 3, "confidence": 0.6, "exact": True},
        {"rerank": True, "oversample": 2.5},
        {"allow": [1, 5, 250, 999]},
        {"deny": [3, 4]},
        {"allow": list(range(100)), "deny": [5]},
        {"return_interval": 0.9},
    ],
    ids=str,
)
def test_answers_equal_the_search_of_the_library(client, folder, options):
    filter = options.get("allow")
    if "deny" in options:
        filter = vqindex.exclude(options["deny"]) if filter is None else set(filter) - set(options["deny"])
    how = {name: value for name, value in options.items() if name not in ("allow", "deny")}
    want = vqindex.open(folder).search(QUERIES, **({"k": 10} | how), filter=filter)
    answer = client.post("/search", json={"queries": QUERIES.tolist(), **options})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["commit"] == 1
    mask = np.isfinite(want.scores)
    assert found["ids"] == [ids[at].tolist() for ids, at in zip(want.ids, mask, strict=True)]
    assert [np.float32(line).tolist() for line in found["scores"]] == [
        scores[at].tolist() for scores, at in zip(want.scores, mask, strict=True)
    ]
    if "return_interval" in options:
        assert np.float32(found["low"]).shape == want.low.shape
    text = {n: ",".join(map(str, v)) if isinstance(v, list) else str(v).lower() for n, v in options.items()}
    answer = client.post("/search", params=text, content=QUERIES.tobytes(), headers=RAW)
    ids, scores = raw_of(answer, options.get("k", 10))
    np.testing.assert_array_equal(ids, want.ids)
    np.testing.assert_array_equal(scores, want.scores)
    if "return_interval" in options:
        ends = np.frombuffer(answer.content, "<f4")[-2 * want.low.size :].reshape(2, *want.low.shape)
        np.testing.assert_array_equal(ends, [want.low, want.high])


def test_a_vector_gets_a_list_and_the_form_of_an_answer_can_be_chosen(client, folder):
    want = vqindex.open(folder).search(QUERIES[0], 4)
    assert client.post("/search", json={"queries": QUERIES[0].tolist(), "k": 4}).json()["ids"] == want.ids.tolist()
    answer = client.post(
        "/search", json={"queries": QUERIES[0].tolist(), "k": 4}, headers={"accept": RAW["content-type"]}
    )
    assert raw_of(answer, 4)[0].tolist() == [want.ids.tolist()]
    answer = client.post("/search?k=4", content=QUERIES[0].tobytes(), headers={**RAW, "accept": "application/json"})
    assert answer.json()["ids"] == [want.ids.tolist()]


def test_string_ids_are_found_and_filtered_but_not_sent_raw(tmp_path):
    index = vqindex.VQIndex(DIM)
    index.add(VECTORS[:50], [f"r{i}" for i in range(50)])
    index.save(tmp_path / "names.vqi")
    with client_of(tmp_path / "names.vqi") as client:
        want = index.search(QUERIES[:1], 3, filter=["r3", "r4", "r5"]).ids.tolist()
        content = {"queries": QUERIES[:1].tolist(), "k": 3, "allow": ["r3", "r4", "r5"]}
        assert client.post("/search", json=content).json()["ids"] == want
        address, body = "/search?k=3&allow=r3,r4,r5", QUERIES[:1].tobytes()
        assert client.post(address, content=body, headers={**RAW, "accept": "application/json"}).json()["ids"] == want
        assert client.post(address, content=body, headers=RAW).status_code == 406
        assert client.post("/search", json={"queries": QUERIES[:1].tolist(), "allow": [3]}).status_code == 400
        assert client.get("/info").json()["ids"] == "string"


WRONG_JSON = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"[]", 400, "JSON of type list; expected an object"),
    (b"{}", 400, "no 'queries'"),
    (b'{"queries": 3}', 400, "queries is 3"),
    (b'{"queries": "abc"}', 400, "queries is abc"),
    (b'{"queries": []}', 400, "queries"),
    (b'{"queries": [1, 2]}', 400, "16"),
    (b'{"queries": [[1, 2], [3]]}', 400, "ragged"),
    (b'{"queries": [["1", "2"]]}', 400, "queries"),
    (b'{"queries": [{"a": 1}]}', 400, "queries"),
    (b'{"queries": [NaN]}', 400, "holds NaN"),
    (b'{"queries": [Infinity]}', 400, "holds Infinity"),
    (json.dumps({"queries": [0.0] * 15}).encode().replace(b"[", b"[1e999, "), 400, "inf"),
    (b'{"queries": [' + b"9" * 5000 + b"]}", 400, "not JSON"),
    (b'{"queries": [1], "queries": [1]}', 400, "queries is given twice"),
]


@pytest.mark.parametrize(("body", "status", "text"), WRONG_JSON, ids=[body[:30] for body, _, _ in WRONG_JSON])
def test_wrong_json_is_refused_by_name(client, body, status, text):
    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "k is 0; expected a whole number from 1 to 1000"),
        ({"k": 1001}, "k is 1001"),
        ({"k": True}, "k is true; expected a whole number"),
        ({"k": 1.5}, "k is 1.5"),
        ({"k": "5"}, 'k is "5"'),
        ({"k": 10**300}, "k is 1000"),
        ({"confidence": 0.5}, "confidence is 0.5"),
        ({"rerank": 1}, "rerank is 1; expected true or false"),
        ({"rerank": True, "oversample": 1e9}, "expected a product of at most 20000"),
        ({"oversample": 2}, "there is no rerank="),
        ({"rerank": True, "return_interval": 0.9}, "re-ranked scores are exact"),
        ({"effort": 100}, "has no graph"),
        ({"effort": 10**6}, "expected at most 20000"),
        ({"return_interval": 1}, "return_interval"),
        ({"threads": 5}, "there is no parameter 'threads'"),
        ({"filter": [1]}, "there is no parameter 'filter'"),
        ({"allow": 3}, "allow is 3; expected a list"),
        ({"allow": [1, "a"]}, "allow holds a"),
        ({"allow": [True]}, "allow holds True"),
        ({"deny": [-1]}, "deny holds id -1"),
        ({"deny": [2**63]}, "deny holds id 9223372036854775808"),
        ({"deny": [[1]]}, "deny holds [1]"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_by_name(client, options, text):
    answer = client.post("/search", json={"queries": QUERIES.tolist(), **options})
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("address", "body", "status", "text"),
    [
        ("/search", b"", 400, "0 bytes; expected a multiple of 64"),
        ("/search", b"a" * 65, 400, "65 bytes"),
        ("/search", np.full(DIM, np.nan, "<f4").tobytes(), 400, "nan"),
        ("/search?k=x", QUERIES.tobytes(), 400, "k is 'x'"),
        ("/search?k=1&k=2", QUERIES.tobytes(), 400, "k is given twice"),
        ("/search?rerank=maybe", QUERIES.tobytes(), 400, "rerank is 'maybe'"),
        ("/search?confidence=nan", QUERIES.tobytes(), 400, "confidence"),
        ("/search?allow=1,x", QUERIES.tobytes(), 400, "'x' is not an id"),
        ("/search?allow=-1", QUERIES.tobytes(), 400, "'-1' is not an id"),
        ("/search?rerank=1&oversample=nan", QUERIES.tobytes(), 400, "oversample is nan"),
        ("/search/", QUERIES.tobytes(), 404, "there is no"),
        ("/../../etc/passwd", b"", 404, "there is no"),
        ("/search%00", b"", 404, "there is no"),
        ("/%2e%2e/%2e%2e/etc/passwd", b"", 404, "there is no"),
    ],
)
def test_wrong_raw_requests_are_refused_by_name(client, address, body, status, text):
    answer = client.post(address, content=body, headers=RAW)
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


def test_wrong_methods_and_types_are_refused(client):
    answer = client.get("/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method"
    assert client.post("/health").status_code == 405
    assert client.request("BREW", "/search").status_code == 405
    assert client.post("/search", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/search", content=b"{}").status_code == 415
    accept = {**RAW, "accept": "image/png"}
    assert client.post("/search", content=QUERIES.tobytes(), headers=accept).status_code == 406
    assert client.post("/search?k=1", json={"queries": QUERIES.tolist()}).status_code == 400
    assert client.head("/health").status_code == 200


def test_limits_of_bodies_and_queries_hold_whatever_the_head_says(folder):
    with client_of(folder, Limits(body=1000, queries=3)) as client:
        answer = client.post("/search", content=QUERIES[:4].tobytes(), headers=RAW)
        assert answer.json()["error"] == {
            "code": "limit",
            "message": "4 queries are given; expected at most 3",
            "limit": 3,
        }
        assert client.post("/search", json={"queries": [[0.5] * DIM] * 4}).json()["error"]["limit"] == 3
        answer = client.post("/search", content=b"a" * 1001, headers=RAW)
        assert (answer.status_code, answer.json()["error"]["limit"]) == (413, 1000)
        answer = client.post("/search", content=iter([b"a" * 600] * 9), headers=RAW)  # in chunks, of no stated length
        assert (answer.status_code, answer.json()["error"]["limit"]) == (413, 1000)
        assert client.post("/search", content=QUERIES[:3].tobytes(), headers=RAW).status_code == 200


def test_a_token_is_needed_everywhere_but_for_health(folder):
    with client_of(folder, token=b"0123456789abcdef") as client:
        for given in (
            None,
            "Bearer",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdefg",
            "Basic 0123456789abcdef",
            "Bearer é",
        ):
            headers = {} if given is None else {"authorization": given.encode("latin-1")}
            for path in ("/info", "/metrics", "/", "/openapi.json", "/none"):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.post("/search", content=QUERIES.tobytes(), headers={**RAW, **headers}).status_code == 401
            assert client.get("/health", headers=headers).json() == {"status": "ok"}
        headers = {"authorization": "bearer 0123456789abcdef"}
        assert client.get("/info", headers=headers).status_code == 200
        assert client.post("/search", content=QUERIES.tobytes(), headers={**RAW, **headers}).status_code == 200


def test_a_page_under_another_name_cannot_reach_a_server_on_loopback(folder):
    with client_of(folder, hosts=("localhost", "127.0.0.1", "::1")) as client:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
            assert client.get("/info", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "127.0.0.1@evil.example"):
            assert client.get("/info", headers={"host": host}).status_code == 421, host


def test_the_descriptions_are_whole_and_need_nothing_else(client):
    found = client.get("/openapi.json").json()
    assert set(found["paths"]) == {"/search", "/health", "/info", "/metrics", "/openapi.json", "/"}
    for path in set(found["paths"]) - {"/search"}:
        assert client.get(path).status_code == 200
    page = client.get("/").text
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    names = {each["name"] for each in found["paths"]["/search"]["post"]["parameters"]}
    schema = found["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert names | {"queries"} == set(schema["properties"])
    info = client.get("/info").json()
    assert (info["ntotal"], info["dim"], info["limits"]["k"]) == (ROWS, DIM, 1000)


def test_counters_count(folder):
    with client_of(folder) as client:
        for _ in range(3):
            client.post("/search", content=QUERIES.tobytes(), headers=RAW)
        client.get("/nowhere/1")
        client.get("/nowhere/2")
        lines = client.get("/metrics").text.splitlines()
        for line in (
            'vqindex_requests_total{path="/search",status="200"} 3',
            'vqindex_requests_total{path="other",status="404"} 2',
            "vqindex_queries_total 21",
            "vqindex_searches_running 0",
            f"vqindex_vectors {ROWS}",
            'vqindex_search_seconds_bucket{le="+Inf"} 3',
        ):
            assert line in lines
        kinds = {line.split()[2] for line in lines if line.startswith("# TYPE")}
        assert {line.split()[2] for line in lines if line.startswith("# HELP")} == kinds


# ---- batches and commits


def test_searches_that_wait_share_a_scan_and_get_their_own_results(folder):
    source, limits, metrics = Source(folder), Limits(), Metrics()
    from starlette.datastructures import QueryParams

    def call(query, text=""):
        return from_raw(query.tobytes(), QueryParams(text), source.moment, limits)

    async def work():
        batcher = Batcher(64, 30, None, metrics)
        kinds = ["k=5"] * 20 + ["k=3"] * 5 + ["k=5&allow=1,2,3,4,5,6"] * 2
        calls = [call(QUERIES[i % 7], text) for i, text in enumerate(kinds)]
        found = await asyncio.gather(*map(batcher.search, calls))
        batcher.close()
        return kinds, found

    kinds, found = asyncio.run(work())
    index = vqindex.open(folder)
    for i, (text, result) in enumerate(zip(kinds, found, strict=True)):
        filter = [1, 2, 3, 4, 5, 6] if "allow" in text else None
        want = index.search(QUERIES[i % 7][None], int(text[2]), filter=filter)
        np.testing.assert_array_equal(result.ids, want.ids)
        np.testing.assert_array_equal(result.scores, want.scores)
    # The first alone, then the 19 others of its kind, the 5, and each of the two with a filter.
    assert "vqindex_batches_total 5\n" in metrics.text(source.moment)


def test_a_search_that_waits_too_long_is_told_so(folder, monkeypatch):
    source = Source(folder)
    monkeypatch.setattr("vqindex_serve.batching._search", lambda calls, threads: time.sleep(0.5))
    app = create_app(source, Limits(seconds=0.05))
    with TestClient(app) as client:
        answer = client.post("/search", content=QUERIES.tobytes(), headers=RAW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
        assert answer.headers["retry-after"] == "1"


def test_too_many_searches_are_refused_and_the_others_answered(folder, monkeypatch):
    may_go = threading.Event()
    from vqindex_serve import batching

    whole = batching._search
    monkeypatch.setattr(batching, "_search", lambda *args: (may_go.wait(20), whole(*args))[1])
    with client_of(folder, Limits(requests=3)) as client, ThreadPoolExecutor(3) as pool:

        def post():
            return client.post("/search", content=QUERIES.tobytes(), headers=RAW)

        waiting = [pool.submit(post) for _ in range(3)]
        until(lambda: "vqindex_searches_running 3" in client.get("/metrics").text)
        refused = post()
        assert (refused.status_code, refused.json()["error"]["limit"]) == (503, 3)
        may_go.set()
        assert [future.result().status_code for future in waiting] == [200] * 3


def test_an_error_inside_is_an_answer_and_the_server_goes_on(folder, monkeypatch, caplog):
    with client_of(folder) as client:
        with monkeypatch.context() as patch:
            patch.setattr("vqindex_serve.batching._search", lambda *args: 1 / 0)
            answer = client.post("/search", content=QUERIES.tobytes(), headers=RAW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "division" not in answer.text
        assert "division" in caplog.text
        assert client.post("/search", content=QUERIES.tobytes(), headers=RAW).status_code == 200


def test_each_answer_is_of_one_commit_while_a_writer_commits(tmp_path):
    path = tmp_path / "store"
    with vqindex.open(path, "a", dim=DIM, metric="l2") as store:
        store.add(np.zeros((1, DIM)))
    with (
        client_of(path, reload_seconds=0.01) as client,
        vqindex.open(path, "a") as store,
        ThreadPoolExecutor(2) as pool,
    ):
        done = threading.Event()

        def read():
            seen = []
            while not done.is_set():
                answer = client.post("/search", json={"queries": [0.0] * DIM, "k": 1000})
                assert answer.status_code == 200
                seen.append((answer.json()["commit"], len(answer.json()["ids"])))
            return seen

        readers = [pool.submit(read) for _ in range(2)]
        last = store.stats()["commit"]
        for _ in range(10):
            store.add(np.ones((1, DIM)))
            store.commit()
            last = store.stats()["commit"]
            until(lambda: client.get("/info").json()["commit"] == last)  # noqa: B023
        done.set()
        seen = {pair for reader in readers for pair in reader.result()}
    assert {(commit, rows - commit) for commit, rows in seen} <= {(commit, 0) for commit in range(1, last + 1)}
    assert len(seen) > 1
    assert last == 11


def test_a_damaged_commit_leaves_the_old_one_in_service(tmp_path):
    index = vqindex.VQIndex(DIM)
    index.add(VECTORS[:20])
    index.save(tmp_path / "a.vqi")
    with client_of(tmp_path / "a.vqi", reload_seconds=0.01) as client:
        (tmp_path / "b.vqi").write_bytes(b"nothing")
        os.replace(tmp_path / "b.vqi", tmp_path / "a.vqi")
        until(lambda: "vqindex_failed_reloads_total 1" in client.get("/metrics").text)
        assert client.post("/search", json={"queries": [1.0] * DIM, "k": 1}).status_code == 200
        index.add(VECTORS[20:50])
        index.save(tmp_path / "c.vqi")
        os.replace(tmp_path / "c.vqi", tmp_path / "a.vqi")
        until(lambda: client.get("/info").json()["ntotal"] == 50)


# ---- the server itself


@pytest.fixture
def server(folder, tmp_path):
    """Start the command; give its port and its process."""
    (tmp_path / "serve.log").touch()
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vqindex", "serve", str(folder), "--port", "0"], stderr=log, stdout=log
        )
    try:
        stop = time.monotonic() + 60
        while b" at http://" not in (tmp_path / "serve.log").read_bytes():
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < stop
            time.sleep(0.05)
        yield int((tmp_path / "serve.log").read_text().partition("127.0.0.1:")[2].partition(";")[0]), process
    finally:
        process.kill()
        process.wait()


def talk(port, data, *, seconds=5.0):
    """Send bytes as they are; return what comes back until the server closes, or the time is over."""
    with socket.create_connection(("127.0.0.1", port), seconds) as line:
        try:
            line.sendall(data)
            found = b""
            while True:
                chunk = line.recv(65536)
                if not chunk:
                    return found
                found += chunk
        except (ConnectionError, TimeoutError):
            return b""


def head(length, more=""):
    return (
        f"POST /search?k=3 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n{more}\r\n"
    ).encode()


def is_well(port):
    body = QUERIES[:1].tobytes()
    return b" 200 " in talk(port, head(len(body)) + body)[:20]


def test_the_command_survives_hostile_requests_and_ends_well(server):
    import serve_attacks

    port, process = server
    assert is_well(port)
    refused = talk(port, head(10**12))
    assert b" 413 " in refused[:20]
    assert b'"limit":33554432' in refused
    serve_attacks.attack(port, DIM, 150, seed=0)
    assert is_well(port)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_request_that_runs_is_answered_before_the_end(server):
    port, process = server
    body = QUERIES[:1].tobytes()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(head(len(body)) + body[:10])
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        line.sendall(body[10:])
        assert b" 200 " in line.recv(65536)[:20]
    assert process.wait(30) == 0


def run_cli(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "vqindex", "serve", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{name: value for name, value in os.environ.items() if name != "VQINDEX_TOKEN"}, **env},
    )


def test_the_command_refuses_what_would_let_others_in(folder, tmp_path):
    done = run_cli(folder, "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "others can reach, and there is no token" in done.stderr
    (tmp_path / "token").write_text("short\n")
    done = run_cli(folder, "--token-file", tmp_path / "token")
    assert done.returncode == 1
    assert "has 5 characters; expected at least 16" in done.stderr
    assert "the token in VQINDEX_TOKEN has 0 characters" in run_cli(folder, VQINDEX_TOKEN="").stderr
    assert "holds no index" in run_cli(tmp_path).stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_cli(folder, "--port", taken.getsockname()[1])
    assert done.returncode == 1
    assert "can't listen at 127.0.0.1" in done.stderr


def test_slow_requests_are_ended(folder):
    from vqindex_serve.server import bind, run

    limits = Limits(read_seconds=0.3)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = threading.Thread(
        target=run, args=(create_app(Source(folder), limits), listener, limits), daemon=True
    )  # ends with the process
    server.start()
    assert talk(port, b"POST /search HTTP/1.1\r\nHost: x\r\n") == b""  # a head that never ends
    assert b" 408 " in talk(port, head(64) + b"abc")[:20]
    assert is_well(port)
