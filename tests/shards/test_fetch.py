"""Files from a real local web server: whole, resumed, retried, limited, checked; and one line for what goes wrong."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from file_server import FileServer, serve_files

from shards import fetch as fetching
from shards.errors import TransientError, UserError
from shards.fetch import fetch

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(fetching, "BACKOFF", 0.0)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.bin").write_bytes(DATA)
    with serve_files(tmp_path / "there") as server:
        yield server


def test_a_file_comes_whole_and_only_once(server: FileServer, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(f"{server.url}/a.bin", tmp_path / "new" / "a.bin", len(DATA), SHA256)
    assert (tmp_path / "new" / "a.bin").read_bytes() == DATA
    assert server.asked == [("/a.bin", 0)]
    assert not list((tmp_path / "new").glob("*.part"))


def test_several_at_once_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    server.seconds = 0.002
    words = (f"{server.url}/a.bin", tmp_path / "a.bin", len(DATA), SHA256)
    threads = [threading.Thread(target=fetch, args=words) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked == [("/a.bin", 0)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_is_taken_up_where_the_server_lets_it(
    server: FileServer, tmp_path: Path, ranges: bool
) -> None:
    server.ranges, server.break_after, server.statuses = ranges, [100_000, 70_000], [503, 429]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(DATA), SHA256)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    starts = [start for _, start in server.asked]
    assert starts == ([0, 0, 0, 1 << 16, 2 << 16] if ranges else [0] * 5)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_killed_download_resumes(server: FileServer, tmp_path: Path, ranges: bool) -> None:
    server.seconds, server.ranges = 0.05, ranges
    code = "import sys; from pathlib import Path; from shards import fetch; fetch.CHUNK = 4096; "
    code += f"fetch.fetch(sys.argv[1], Path(sys.argv[2]), {len(DATA)}, '{SHA256}')"
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/a.bin", str(tmp_path / "a.bin")])
    part, until = tmp_path / "a.bin.part", time.monotonic() + 20
    while not (part.is_file() and part.stat().st_size > 20_000):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.bin").exists()
    server.seconds, begun = 0.0, part.stat().st_size
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(DATA), SHA256)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.asked[-1] == ("/a.bin", begun if ranges else 0)


def test_a_part_that_is_whole_or_too_long_is_found_out(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(DATA)  # killed before it was renamed
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(DATA), SHA256)
    assert [start for _, start in server.asked] == [len(DATA)]
    (tmp_path / "b.bin.part").write_bytes(DATA + b"more")
    fetch(f"{server.url}/a.bin", tmp_path / "b.bin", len(DATA), SHA256)
    assert (tmp_path / "b.bin").read_bytes() == DATA


def test_a_file_without_a_checksum_is_not_resumed(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"the beginning of another file")
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_what_goes_wrong_is_said_in_one_line(server: FileServer, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
        _fails(tmp_path, nobody, "no connection (Connection refused); check", kind=TransientError)
    _fails(tmp_path, f"{server.url}/b.bin", "not there (404); check the address")
    server.statuses = [403]
    _fails(tmp_path, f"{server.url}/a.bin", "access refused (403)")
    server.statuses = [503] * 10
    _fails(tmp_path, f"{server.url}/a.bin", "the server answers 503 Service Unavailable", kind=TransientError)
    server.statuses = [416] * 10
    _fails(tmp_path, f"{server.url}/a.bin", "the server answers 416")
    server.statuses.clear()
    server.break_after = [0] * 10
    _fails(tmp_path, f"{server.url}/a.bin", "breaks off again and again", kind=TransientError)
    server.break_after.clear()
    _fails(tmp_path, f"{server.url}/a.bin", "wrong checksum", size=len(DATA), sha256="0" * 64)
    assert not list(tmp_path.glob("*.part"))
    _fails(tmp_path, f"{server.url}/a.bin", "300,000 bytes on the server, 7 expected; it is another file", size=7)
    server.lengths = False
    _fails(tmp_path, f"{server.url}/a.bin", "more than the 7 bytes it may have", size=7)


def test_too_little_disk_is_said_beforehand(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"GB needed, .* GB free; free some or choose another"):
        fetching.check_space(tmp_path, 1 << 60)
    monkeypatch.setattr(fetching, "LIMIT", 1000)
    _fails(tmp_path, f"{server.url}/a.bin", "300,000 bytes, more than the 1,000 it may have")


def test_a_folder_that_cannot_be_written_is_said(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    _fails(tmp_path / "file", f"{server.url}/a.bin", "cannot be written (")


def test_a_long_retry_after_is_not_obeyed_and_a_malformed_redirect_is_one_line(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/busy" else 302)
            self.send_header(*(("Retry-After", "3600") if self.path == "/busy" else ("Location", "http://[::1/x")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{web.server_address[1]}"
        began = time.monotonic()
        with pytest.raises(TransientError, match="the server answers 503"):
            fetch(f"{url}/busy", tmp_path / "a.bin", retries=1)
        assert time.monotonic() - began < 30
        _fails(tmp_path, f"{url}/lost", "the server answers with a malformed address")
        web.shutdown()


def test_a_signed_address_that_a_server_sends_us_to_is_not_logged() -> None:
    answer = requests.Response()
    answer.status_code, answer.url = 206, "https://store.example/a.tar?X-Amz-Signature=secret"
    answer.headers["Content-Range"] = "bytes 9-10/11"
    with pytest.raises(UserError, match=r"^https://store.example/a.tar: the server sends bytes from 9 on"):
        fetching._extent(answer, 4)


def _fails(
    folder: Path, url: str, message: str, size: int | None = None, sha256: str = "", kind: type = UserError
) -> None:
    with pytest.raises(UserError) as caught:
        fetch(url, folder / "a.bin", size, sha256)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "a.bin").exists()
