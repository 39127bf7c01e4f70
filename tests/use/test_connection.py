"""Before fgvc serve reads a request: connections that never ask are closed, hosts and the token are looked at."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.datastructures import Headers
from uvicorn.server import ServerState

from fgvc.use import connection
from fgvc.use.guard import Door
from fgvc.use.server import Desk, create_app
from jobs.cli import main
from jobs.serve import LOOPBACK
from jobs.tasks.serve import hosts_of

ASK = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.8)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def lasts(port: int, first: bytes, drip: bool) -> tuple[float, bytes]:
    """How long a connection lasts that sends this, and then a header that never ends; what it is answered."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def dripping() -> None:
        while True:
            await asyncio.sleep(0.1)
            writer.write(b"x")

    drops = asyncio.create_task(dripping()) if drip else None
    try:
        answer = await asyncio.wait_for(reader.read(), 8)
    except ConnectionResetError:
        answer = b""
    finally:
        if drops is not None:
            drops.cancel()
        writer.close()
    return time.monotonic() - began, answer


def test_silent_and_slow_connections_are_closed_and_slow_answers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", 0.4)

    async def every() -> list[tuple[float, bytes]]:
        config = uvicorn.Config(slow_app, ws="none", lifespan="off", log_level="critical", timeout_keep_alive=60)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: connection.Connection(config, state, {}), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            whole = ASK + b"\r\n"
            asked = [
                (b"", False),
                (ASK + b"X: ", True),
                (whole, False),
                (whole + ASK + b"X: ", True),
                (whole * 2, False),
            ]
            found = await asyncio.gather(*(lasts(port, first, drip) for first, drip in asked))
            assert not state.connections
            return found

    silent, slow, one, then_slow, two = asyncio.run(every())
    for seconds, answer in (silent, slow):
        assert 0.3 < seconds < 7
        assert answer == b""
    assert [answer.count(b"ok") for _, answer in (one, then_slow, two)] == [1, 1, 2]
    assert all(seconds < 7 for seconds, _ in (one, then_slow, two))


def test_a_token_that_is_set_is_asked_for_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights := tmp_path / "model.safetensors").touch()  # not looked at before
    monkeypatch.setenv("FGVC_SERVE_TOKEN", "short")
    for host in ("127.0.0.1", "10.0.0.7"):
        assert main(["serve", str(weights), "--host", host, "port=0"]) == 2
        assert "a token has 16 characters at least" in capsys.readouterr().err


def test_a_browser_is_answered_at_every_port() -> None:
    for port, host in ((8765, "localhost:8765"), (80, "localhost"), (80, "LOCALHOST:80"), (80, "[::1]")):
        headers = Headers({"host": host, "origin": f"http://{host}"})
        assert Door(hosts_of(LOOPBACK, port)).refuses("/predict", headers) is None, host
    for host in ("localhost", "evil.example", "evil.example:8765"):
        assert Door(hosts_of(LOOPBACK, 8765)).refuses("/", Headers({"host": host})) is not None, host


def test_an_upload_that_breaks_off_is_no_fault_of_the_server() -> None:
    predictor: Any = SimpleNamespace(crops=False, finder=None)
    app = create_app(Desk(predictor, None, 1, 5.0), Door(frozenset({"here"})))
    arriving: list[Any] = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]
    said: list[Any] = []

    async def receive() -> Any:
        return arriving.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": [(b"host", b"here")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # raises what the server would log
    assert said[0]["status"] == 400
