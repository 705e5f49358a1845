"""Downloads from a local server that fails in the ways that servers fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vqindex_datasets import DownloadError, download
from vqindex_datasets.download import sidecar_sum

pytestmark = pytest.mark.filterwarnings("error")

BODY = np.random.default_rng(0).bytes(700_000)
SUM = hashlib.sha256(BODY).hexdigest()


class Site:
    """The behavior of the server, and the requests that it got."""

    def __init__(self) -> None:
        self.body = BODY
        self.etag: str | None = '"one"'
        self.modified: str | None = None
        self.ranges = True
        self.length = True
        self.cuts: list[int] = []  # for each coming request: bytes of the answer before the connection breaks
        self.statuses: list[int] = []  # for each coming request: an error status
        self.content_range: str | None = None  # a wrong one
        self.asked: list[tuple[str | None, str | None]] = []
        self.url = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
            site.asked.append((requested, condition))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start = 0
            if requested and site.ranges and condition in (site.etag, site.modified):
                start = int(requested.removeprefix("bytes=").removesuffix("-"))
                if start >= len(site.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(site.body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                right = f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
                self.send_header("Content-Range", site.content_range or right)
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            if site.modified:
                self.send_header("Last-Modified", site.modified)
            if site.length:
                self.send_header("Content-Length", str(len(site.body) - start))
            self.end_headers()
            end = start + site.cuts.pop(0) if site.cuts else len(site.body)
            self.wfile.write(site.body[start:end])

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing, because some tests break the connection."""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = _Server(("127.0.0.1", 0), _handler(site))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/set.hdf5"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def _get(site: Site, dest: Path, **options: object) -> Path:
    return download(site.url, dest, timeout=10, backoff=0.001, **options)  # type: ignore[arg-type]


def _break_off(site: Site, dest: Path, cut: int) -> None:
    """Leave a partial file of `cut` bytes."""
    site.cuts = [cut]
    with pytest.raises(DownloadError, match=f"{cut} of {len(BODY)} bytes"):
        _get(site, dest, retries=0)
    assert (dest.parent / f"{dest.name}.part").stat().st_size == cut
    assert not dest.exists()


def test_a_download_reports_progress_and_writes_its_sum(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    dest = tmp_path / "new folder" / "set.hdf5"
    assert _get(site, dest, progress=lambda done, total: seen.append((done, total))) == dest
    assert dest.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert (dest.parent / "set.hdf5.sha256").read_text() == f"{SUM}  set.hdf5\n"
    assert sidecar_sum(dest) == SUM
    assert sorted(path.name for path in dest.parent.iterdir()) == ["set.hdf5", "set.hdf5.sha256"]
    assert site.asked == [(None, None)]


def test_known_sum_writes_no_sidecar(site: Site, tmp_path: Path) -> None:
    _get(site, tmp_path / "a", sha256=SUM.upper())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert sidecar_sum(tmp_path / "a") is None


def test_a_cut_transfer_resumes_without_using_up_retries(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 200_000]
    _get(site, tmp_path / "a", sha256=SUM, retries=1)  # an attempt that makes progress does not use up a retry
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.asked == [(None, None), ("bytes=100000-", '"one"'), ("bytes=300000-", '"one"')]


def test_a_later_call_resumes_a_cut_transfer(site: Site, tmp_path: Path) -> None:
    _break_off(site, tmp_path / "a", 123_456)
    seen: list[tuple[int, int | None]] = []
    _get(site, tmp_path / "a", sha256=SUM, progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.asked[1:] == [("bytes=123456-", '"one"')]
    assert seen[0] == (123_456, len(BODY))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_weak_etag_resumes_by_last_modified(site: Site, tmp_path: Path) -> None:
    site.etag, site.modified = 'W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"
    _break_off(site, tmp_path / "a", 5_000)
    _get(site, tmp_path / "a", sha256=SUM)
    assert site.asked[1:] == [("bytes=5000-", site.modified)]


def test_a_server_without_a_validator_starts_the_download_anew(site: Site, tmp_path: Path) -> None:
    site.etag = None
    _break_off(site, tmp_path / "a", 5_000)
    _get(site, tmp_path / "a", sha256=SUM)
    assert site.asked[1:] == [(None, None)]


def test_a_changed_file_starts_anew(site: Site, tmp_path: Path) -> None:
    _break_off(site, tmp_path / "a", 300_000)
    site.body, site.etag = BODY[::-1][:250_000], '"two"'
    _get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == site.body
    assert site.asked[1:] == [("bytes=300000-", '"one"')]


def test_a_server_that_ignores_range_gives_the_whole_file(site: Site, tmp_path: Path) -> None:
    _break_off(site, tmp_path / "a", 300_000)
    site.ranges = False
    _get(site, tmp_path / "a", sha256=SUM)
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_part_of_another_address_is_not_used(site: Site, tmp_path: Path) -> None:
    _break_off(site, tmp_path / "a", 300_000)
    site.url += "?other"
    site.body = BODY[::-1]
    _get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == site.body
    assert site.asked[1:] == [(None, None)]


@pytest.mark.parametrize("notes", ["", "[1]", '{"url": 3}', "\x00"])
def test_a_damaged_state_file_starts_the_download_anew(site: Site, tmp_path: Path, notes: str) -> None:
    _break_off(site, tmp_path / "a", 300_000)
    (tmp_path / "a.part.json").write_text(notes)
    _get(site, tmp_path / "a", sha256=SUM)
    assert site.asked[1:] == [(None, None)]


def test_complete_part_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(BODY)
    (tmp_path / "a.part.json").write_text(json.dumps({"url": site.url, "validator": '"one"'}))
    _get(site, tmp_path / "a", sha256=SUM)
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.asked == [(f"bytes={len(BODY)}-", '"one"')]


def test_a_part_that_is_too_long_starts_anew(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(BODY + b"more")
    (tmp_path / "a.part.json").write_text(json.dumps({"url": site.url, "validator": '"one"'}))
    _get(site, tmp_path / "a", sha256=SUM)
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_range_that_was_not_asked_for_starts_anew(site: Site, tmp_path: Path) -> None:
    _break_off(site, tmp_path / "a", 300_000)
    site.content_range = f"bytes 1-2/{len(BODY)}"
    _get(site, tmp_path / "a", sha256=SUM)
    assert [requested for requested, _ in site.asked] == [None, "bytes=300000-", None]


def test_a_wrong_sum_leaves_no_file(site: Site, tmp_path: Path) -> None:
    expected = "0" * 64
    with pytest.raises(DownloadError, match=f"sha256 {SUM}; expected {expected}"):
        _get(site, tmp_path / "a", sha256=expected)
    assert list(tmp_path.iterdir()) == []


def test_old_file_stays_when_the_new_one_is_bad(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(DownloadError, match="sha256"):
        _get(site, tmp_path / "a", sha256="0" * 64)
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_client_errors_are_not_retried(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    with pytest.raises(DownloadError, match=re.escape(site.url) + f": the server answered {status}"):
        _get(site, tmp_path / "a")
    assert len(site.asked) == 1


def test_temporary_server_errors_are_retried(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 500, 429]
    _get(site, tmp_path / "a", sha256=SUM, retries=3)
    assert len(site.asked) == 4
    site.statuses = [503, 503]
    with pytest.raises(DownloadError, match=r"503.*within 2 attempts"):
        _get(site, tmp_path / "b", retries=1)


def test_a_download_without_content_length_has_no_total(site: Site, tmp_path: Path) -> None:
    site.length = False
    seen: list[int | None] = []
    _get(site, tmp_path / "a", sha256=SUM, progress=lambda done, total: seen.append(total))
    assert (tmp_path / "a").read_bytes() == BODY
    assert set(seen) == {None}


def test_a_refused_connection_is_retried_then_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"refused.*within 2 attempts"):
        download("http://127.0.0.1:9/a", tmp_path / "a", retries=1, backoff=0.001)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/hostname", "/etc/hostname"])
def test_schemes_other_than_http_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="expected http"):
        download(url, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_disk_errors_are_not_retried(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.part").mkdir()
    with pytest.raises(IsADirectoryError):
        _get(site, tmp_path / "a")
    assert len(site.asked) == 1
