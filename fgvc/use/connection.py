"""A connection of `fgvc serve` that does not wait forever for a request."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = (
    10.0  # for a request's headers to arrive; uvicorn's own limit ends with the first byte, and is for later ones
)


class Connection(H11Protocol):
    """HTTP by h11, closed where a request's headers are not complete `HEADERS_S` after the connection, or the answer
    before."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()  # which may find the next request already there

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request, whose body has a limit of its own
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._patience = self.loop.call_later(HEADERS_S, self.timeout_keep_alive_handler)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
