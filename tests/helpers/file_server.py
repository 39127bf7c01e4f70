"""A real web server on this machine for a folder of files: with Range, or without; slow, failing, breaking off."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 1 << 12


@dataclass
class FileServer:
    """What the server does, which tests change while it runs, and what it was asked for."""

    folder: Path
    url: str = ""
    ranges: bool = True  # whether it heeds Range
    lengths: bool = True  # whether it tells how large a file is
    seconds: float = 0.0  # between two pieces of a file
    statuses: list[int] = field(default_factory=list)  # of the next answers, instead of the files
    break_after: list[int] = field(default_factory=list)  # bytes of the next answers, after which the connection breaks
    asked: list[tuple[str, int]] = field(default_factory=list)  # (path, first byte)

    def count(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(path.endswith(f"/{name}") for path, _ in self.asked)


@contextmanager
def serve_files(folder: Path) -> Iterator[FileServer]:
    """Serve the files of a folder; yields the server, whose `url` has no slash at its end."""
    about = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and about.ranges else 0
            about.asked.append((self.path, start))
            path = about.folder / self.path.lstrip("/")
            if about.statuses:
                return self.send_error(about.statuses.pop(0))
            if not path.is_file():
                return self.send_error(404)
            data = path.read_bytes()
            if start and start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if about.lengths:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + about.break_after.pop(0) if about.break_after else len(data)
            try:
                for at in range(start, min(end, len(data)), PIECE):
                    self.wfile.write(data[at : min(at + PIECE, end)])
                    time.sleep(about.seconds)
            except OSError:
                pass  # the client is gone
            return None

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    about.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield about
    finally:
        server.shutdown()
        server.server_close()
