"""Serve a classifier's page: the work of `fgvc serve`."""

import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from fgvc.use.connection import Connection
from fgvc.use.find import find_weights
from fgvc.use.guard import HEADER_BYTES, Door
from fgvc.use.predictor import Predictor
from fgvc.use.server import Desk, create_app
from fgvc.use.why import Why
from jobs.serve import LOOPBACK, Config
from shards.errors import UserError

CONNECTIONS = 64
HTTP = 80


def run(config: Config, weights: Path) -> int:
    """Listen until a signal; 0. Raises UserError for an address that cannot be had, and weights that do not fit."""
    outside = config.host not in LOOPBACK
    token = os.environ.get("FGVC_SERVE_TOKEN") or (secrets.token_urlsafe(24) if outside else "")
    if token and len(token) < 16:
        raise UserError("FGVC_SERVE_TOKEN: a token has 16 characters at least; unset it, and one is made")
    listener = _listen(config.host, config.port)
    try:
        detector = find_weights(config.detector, config.runs_dir, "detect") if config.detector else None
        predictor = Predictor(weights, config.device, detector)
        desk = Desk(predictor, Why(predictor) if config.why else None, config.queue, config.timeout)
        port = listener.getsockname()[1]
        names = config.names or [config.host] if outside else [*LOOPBACK, *config.names]
        app = create_app(desk, Door(hosts_of(names, port), token))
        print(f"http://{_shown(names[0])}:{port}/" + (f"#token={token}" if token else ""), flush=True)
        # h11, whose limit on headers can be set; no websockets, no log of what was asked.
        settings = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", access_log=False, log_level="warning", server_header=False,
            h11_max_incomplete_event_size=HEADER_BYTES, limit_concurrency=CONNECTIONS, timeout_keep_alive=5,
            timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        uvicorn.Server(settings).run(sockets=[listener])
    finally:
        listener.close()
    return 0


def hosts_of(names: Sequence[str], port: int) -> frozenset[str]:
    """The Host headers of requests to these names; of http's own port browsers leave out the number."""
    shown = {_shown(name).lower() for name in names}
    return frozenset(f"{name}:{port}" for name in shown) | (shown if port == HTTP else frozenset())


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)  # from here on who connects waits, and is not refused
        return listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "") or error
        raise UserError(f"host={host} port={port}: cannot listen there ({reason}); set another port=") from None


def _shown(name: str) -> str:
    return f"[{name}]" if ":" in name else name
