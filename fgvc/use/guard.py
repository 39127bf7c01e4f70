"""What stands before the page: who may ask, from where, and what every answer forbids a browser."""

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER_BYTES = 16_384  # of all headers of a request
OPEN = ("/",)  # the page itself, which holds nothing of the classifier
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}  # fmt: skip
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Door:
    """hosts: the Host headers, name:port, that are answered: another name that leads here is someone else's page.
    token: what all but the page asks for; empty: nothing."""

    hosts: frozenset[str]
    token: str = ""

    def refuses(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """A status and why, for a request that is not answered."""
        if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
            return 431, "the headers are too large"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 421, "this server does not answer to that host name"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self.hosts}:
            return 403, "pages of other sites may not ask here"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "pages of other sites may not ask here"
        if self.token and path not in OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


class Guard:
    """An ASGI app behind a door; every answer carries `HEADERS`, and a policy where it has none of its own."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        refused = self.door.refuses(scope["path"], Headers(scope=scope))
        if refused:
            answer = JSONResponse({"error": refused[1]}, refused[0], {"Connection": "close"})
            await answer(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)
