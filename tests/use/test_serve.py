"""fgvc serve as a real process: the JSON, the page, who may ask, 50 hostile uploads, a full queue."""

import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from fgvc import load
from fgvc.models.export import export, read_about
from jobs.cli import main

pytestmark = pytest.mark.slow  # a server takes seconds to start
RESET = 413  # what it has then said, if it was heard
HOSTILE = ["</script><script>alert(1)", '"><img src=x onerror=alert(1)>', "=1+1", "\x1b[31mred"]


class Server(NamedTuple):
    """A running server: its port, its folder of temporary files, its token."""

    port: int
    temporary: Path
    token: str
    process: subprocess.Popen


def started(weights: Path, home: Path, *words: str, **environment: str) -> Server:
    temporary = home / "temporary"
    temporary.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", str(weights), "port=0", *words],
        cwd=temporary, env=os.environ | {"TMPDIR": str(temporary)} | environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("http://"), line
    port = int(line.split(":")[2].partition("/")[0])
    return Server(port, temporary, line.strip().partition("#token=")[2], process)


@pytest.fixture(scope="module")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a classifier of hostile class names."""
    home, source = tmp_path_factory.mktemp("serve"), runs / "classify/whole/model.safetensors"
    export(home / "hostile.safetensors", load_file(source), read_about(source) | {"classes": HOSTILE})
    found = started(home / "hostile.safetensors", home, "queue=2", "timeout=60")
    yield found
    found.process.terminate()
    assert found.process.wait(20) in (0, -signal.SIGTERM)


def ask(
    server: Server, method: str, path: str, body: Any = None, timeout: float = 30, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        # A server that refuses a body by its length does not read it, which breaks off the sending.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    except ConnectionResetError:
        return RESET, {}, b'{"error": "reset"}'
    finally:
        connection.close()


def test_the_json_is_that_of_predict(server: Server, runs: Path, photos: Path) -> None:
    file = sorted(photos.iterdir())[0]
    status, headers, body = ask(server, "POST", "/predict?why=1", file.read_bytes())
    found, expected = json.loads(body), load("whole", runs_dir=runs).predict(file)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [answer["probability"] for answer in found["top"]] == pytest.approx(
        [a.probability for a in expected.top], abs=1e-5
    )
    assert {answer["class"] for answer in found["top"]} == {*HOSTILE[:3], "\\x1b[31mred"}
    assert found["why"]["picture"].startswith("data:image/jpeg;base64,")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert json.loads(ask(server, "GET", "/about")[2])["classes"][0] == HOSTILE[0]


def test_usual_kinds_of_pictures_are_answered(server: Server, photos: Path) -> None:
    image = Image.open(sorted(photos.iterdir())[0]).convert("RGB")
    for kind in ("PNG", "GIF", "WEBP", "BMP", "JPEG"):
        image.save(stream := io.BytesIO(), kind)
        assert ask(server, "POST", "/predict", stream.getvalue())[0] == 200, kind


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_names(server: Server) -> None:
    status, headers, body = ask(server, "GET", "/")
    page, policy = body.decode(), headers["content-security-policy"]
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert status == 200
    assert page.count(f'nonce="{nonce}"') == 2 == page.count("nonce=")
    assert nonce not in ask(server, "GET", "/")[2].decode()  # another each time
    assert "http" not in page.replace("http-equiv", "")
    assert not any(name in page for name in HOSTILE)
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_other_hosts_and_origins_are_refused(server: Server, photos: Path) -> None:
    picture, own = next(photos.iterdir()).read_bytes(), f"127.0.0.1:{server.port}"
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{server.port}"}, 421),
        ({"Host": own, "Origin": "http://evil.example"}, 403),
        ({"Host": own, "Origin": "null"}, 403),
        ({"Host": own, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": own, "Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": f"localhost:{server.port}"}, 200),
    ):  # fmt: skip
        assert ask(server, "POST", "/predict", picture, **headers)[0] == status
    for path in ("/docs", "/redoc", "/openapi.json", "/predict", "/../jobs/cli.py"):
        assert ask(server, "GET", path)[0] in (404, 405)


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these claims, whatever its pixels are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    coded = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def hostile_uploads(jpeg: bytes) -> dict[str, bytes]:
    """Fifty uploads that are no pictures, or more than they seem."""
    image, stream = Image.open(io.BytesIO(jpeg)).convert("RGB"), io.BytesIO()
    saved = {}
    for kind in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "PDF", "EPS"):
        image.save(stream := io.BytesIO(), kind)
        saved[kind] = stream.getvalue()
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(5_000_000))
    script = b"<script>alert(1)</script>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
    draw = np.random.default_rng(0)
    damaged = [bytearray(jpeg) for _ in range(8)]
    for number, data in enumerate(damaged):
        for place in draw.integers(2, len(data), 4 * (number + 1)):
            data[place] = int(draw.integers(256))
    black = bytes(3 * 7000 + 1) * 7000
    text = b"Comment\0\0" + zlib.compress(bytes(60_000_000), 9)
    uploads = {
        "one byte": b"\xff", "jpeg start": b"\xff\xd8\xff", "half": jpeg[: len(jpeg) // 2], "no end": jpeg[:-40],
        "header only": jpeg[:20], "html": b"<html>" + script, "svg": svg,
        "svg with a declaration": b"<?xml version='1.0'?>" + svg,
        "entities": b"<!DOCTYPE a [<!ENTITY b 'b'><!ENTITY c '&b;&b;'>]><svg>&c;</svg>", "zip": archive.getvalue(),
        "gzip": zlib.compress(bytes(9_000_000)), "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.", "path": b"/etc/passwd",
        "url": b"http://169.254.169.254/latest/meta-data", "shell": b"#!/bin/sh\ntouch pwned", "zeros": bytes(1000),
        "noise": draw.bytes(100_000), "text": "pícture".encode() * 100, "elf": b"\x7fELF" + bytes(500),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(500), "heic": b"\0\0\0\x18ftypheic" + bytes(500),
        "jpeg with a page": jpeg + script, "jpeg with a zip": jpeg + archive.getvalue(),
        "gif with a page": saved["GIF"] + script,
        "gif header": b"GIF89a" + script, "png cut": saved["PNG"][:60], "png of other claims": png(7000, 7000, b"x"),
        "png bomb": png(7000, 7000, black), "png of 6 megapixels": png(3000, 2000, bytes(9001 * 2000)),
        "png of a line": png(65000, 1, bytes(3 * 65000 + 1)),
        "png endless": png(2**31 - 1, 2**31 - 1, b""), "png of nothing": png(0, 0, b""),
        "png text bomb": png(8, 8, bytes(25 * 8), (b"zTXt", text)),
        "png profile": png(8, 8, bytes(200), (b"iCCP", text)),
        "bmp endless": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "webp cut": saved["WEBP"][:30], "gif endless": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(50),
        "tiff": saved["TIFF"], "ppm": saved["PPM"], "ico": saved["ICO"], "pdf": saved["PDF"], "eps": saved["EPS"],
        "too large": bytes(10_000_001),
    }  # fmt: skip
    return uploads | {f"damaged {number}": bytes(data) for number, data in enumerate(damaged)}


def test_fifty_hostile_uploads_neither_hang_it_nor_stay(server: Server, photos: Path) -> None:
    picture = sorted(photos.iterdir())[0].read_bytes()
    uploads = hostile_uploads(picture)
    assert len(uploads) == 51
    answered = {}
    for name, data in uploads.items():
        began = time.monotonic()
        status, _, body = ask(server, "POST", "/predict?why=1", data)
        answered[name] = status
        assert status in (200, 413, 415, 422), (name, status)
        assert time.monotonic() - began < 20, name
        if status != 200:
            assert json.loads(body)["error"], name
    still_pictures = {name for name, status in answered.items() if status == 200}
    assert "png of 6 megapixels" in still_pictures
    assert still_pictures <= {
        "jpeg with a page", "jpeg with a zip", "gif with a page", "png of 6 megapixels", "png text bomb", "png profile",
        "no end", *(f"damaged {number}" for number in range(8)),
    }  # fmt: skip
    for name in ("png bomb", "png endless", "gif endless", "bmp endless", "too large"):
        assert answered[name] in (413, 415), name
    assert ask(server, "POST", "/predict", picture)[0] == 200
    assert [path for path in server.temporary.rglob("*") if path.is_file()] == []


def test_bodies_and_headers_beyond_the_limits(server: Server, photos: Path) -> None:
    assert ask(server, "POST", "/predict", b"")[0] == 422
    assert ask(server, "POST", "/predict", b"x", Content_Length="10000001")[0] == 413  # refused by its length alone
    assert ask(server, "POST", "/predict", (bytes(1_000_000) for _ in range(12)))[0] == 413  # chunked, of no length
    assert ask(server, "GET", "/", X_Large="x" * 40_000)[0] == 431
    assert ask(server, "GET", "/", X_Large="x" * 400_000)[0] in (RESET, 400, 431)
    assert ask(server, "POST", "/predict?box=1,2,3", next(photos.iterdir()).read_bytes())[0] == 422
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(
            f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 500\r\n\r\nabc".encode()
        )
        assert ask(server, "GET", "/")[0] == 200  # an upload that does not come keeps nobody waiting


def test_a_full_queue_turns_away(server: Server) -> None:
    slow = png(6000, 6000, bytes((3 * 6000 + 1) * 6000))  # 36 megapixels take a moment
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(server, "POST", "/predict", slow, timeout=120)[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
    assert 3 <= statuses.count(200) <= 7  # one is answered, two wait
    assert ask(server, "GET", "/")[0] == 200


def test_other_addresses_ask_for_a_token(runs: Path, photos: Path, tmp_path: Path) -> None:
    words = ["host=0.0.0.0", "names=[127.0.0.1]", "why=false"]
    server = started(runs / "classify/whole/model.safetensors", tmp_path, *words)
    try:
        picture = next(photos.iterdir()).read_bytes()
        assert len(server.token) >= 32
        assert ask(server, "GET", "/")[0] == 200
        assert ask(server, "GET", "/about")[0] == 401
        assert ask(server, "POST", "/predict", picture)[0] == 401
        assert ask(server, "POST", "/predict", picture, Authorization="Bearer wrong")[0] == 401
        assert ask(server, "POST", "/predict", picture, Authorization=f"Bearer {server.token}")[0] == 200
    finally:
        server.process.terminate()
        server.process.wait(20)


def test_mistakes_are_one_line(runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [str(runs / "classify/whole")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("FGVC_SERVE_TOKEN", "")
        for words, message in (
            ([], "which classifier?"),
            (["nobody"], "nobody: no such run"),
            ([*run, "--port", "70000"], "less than or equal to 65535"),
            ([*run, f"port={port}"], f"port={port}: cannot listen there (Address already in use)"),
            ([*run, "--host", "0.0.0.0"], "say which are yours"),
        ):  # fmt: skip
            assert main(["serve", *words]) == 2
            assert message in capsys.readouterr().err
