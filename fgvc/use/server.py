"""The page of `fgvc serve`, and its JSON: uploads in memory, checked before they are decoded, answered one by one."""

import asyncio
import base64
import io
import secrets
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from starlette.exceptions import HTTPException as StarletteException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from fgvc.use.guard import POLICY, Door, Guard
from fgvc.use.predictor import Picture, Predictor, Unread
from fgvc.use.why import Why
from shards.errors import UserError
from shards.sample import Box

MAX_BYTES, MAX_PIXELS = 10_000_000, 40_000_000
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF"]  # those that Pillow decodes by itself, without surprises
READ_S = 20  # for an upload to arrive


class Desk:
    """One worker that answers, and a queue of bounded length before it."""

    def __init__(self, predictor: Predictor, why: Why | None, queue: int, timeout_s: float) -> None:
        self.predictor, self.why, self.timeout_s = predictor, why, timeout_s
        self._free = queue + 1
        self._worker = ThreadPoolExecutor(1, "answers")

    async def answer(self, data: bytes, box: Box | None, why: bool) -> dict[str, Any]:
        """A prediction as JSON has it. Raises HTTPException for what is no picture, a full queue, a time-out."""
        if self._free <= 0:
            raise HTTPException(503, "busy; try again in a moment", {"Retry-After": "2"})
        self._free -= 1
        work = asyncio.get_running_loop().run_in_executor(self._worker, self._answer, data, box, why)
        work.add_done_callback(self._done)  # a place is free when the work is done, not when its asker has left
        try:
            return await asyncio.wait_for(asyncio.shield(work), self.timeout_s)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.timeout_s:g} s") from None

    def _done(self, work: "asyncio.Future[Any]") -> None:
        self._free += 1
        if not work.cancelled():
            work.exception()  # looked at, or asyncio complains of one that nobody waited for

    def _answer(self, data: bytes, box: Box | None, why: bool) -> dict[str, Any]:
        _check(data)
        try:
            read = self.predictor.read(data, box)
            if isinstance(read, Unread):
                raise HTTPException(422, f"not a readable picture: {read.error}")
            prediction = self.predictor.answer([read])[0]
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        found = prediction.as_dict()
        assert prediction.logits is not None
        if why and self.why is not None:
            found["why"] = _shown(self.why, read, int(prediction.logits.argmax()))
        return found


def create_app(desk: Desk, door: Door) -> ASGIApp:
    """The page at /, and POST /predict: the bytes of a picture -> JSON. ?why=1 adds a picture of what the answer
    rests on, ?box=x0,y0,x1,y1 says where the object is."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages load scripts from elsewhere
    environment = Environment(loader=PackageLoader("fgvc.use"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("serve.html")

    @app.get("/")
    async def index() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"{POLICY}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; connect-src 'self'"
        )
        text = page.render(nonce=nonce, largest=MAX_BYTES, crops=desk.predictor.crops and desk.predictor.finder is None)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.get("/about")
    async def about() -> JSONResponse:
        return JSONResponse({"classes": list(desk.predictor.classes), "model": desk.predictor.about["model"]["name"]})

    @app.post("/predict")
    async def predict(request: Request, why: bool = False, box: str = "") -> JSONResponse:
        corners = _box(box)
        return JSONResponse(await desk.answer(await _body(request), corners, why))

    @app.exception_handler(StarletteException)
    async def refused(request: Request, error: StarletteException) -> JSONResponse:
        headers = dict(error.headers or {}) | ({"Connection": "close"} if error.status_code in (408, 413) else {})
        return JSONResponse({"error": error.detail}, error.status_code, headers)

    return Guard(app, door)


async def _body(request: Request) -> bytes:
    """The upload, at most `MAX_BYTES` of it. Raises HTTPException for more, before it is read where its length says
    so."""
    too_large = HTTPException(413, f"an upload has at most {MAX_BYTES // 1_000_000} MB")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {READ_S} s") from None
    except ClientDisconnect:  # nobody hears it, but it is no fault of ours, which would be logged with a traceback
        raise HTTPException(400, "the upload broke off") from None
    if not data:
        raise HTTPException(422, "send the bytes of a picture as the request's body")
    return bytes(data)


def _check(data: bytes) -> None:
    """Raise HTTPException by the header alone, before any pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except Exception:  # decoders raise nearly anything on damaged files
        raise HTTPException(415, f"not a picture of a kind that is read here ({', '.join(FORMATS)})") from None
    if pixels > MAX_PIXELS:
        raise HTTPException(413, f"a picture has at most {MAX_PIXELS // 1_000_000} megapixels")


def _box(text: str) -> Box | None:
    if not text:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise HTTPException(422, "box: four numbers, x0,y0,x1,y1, in pixels") from None
    return x0, y0, x1, y1


def _shown(why: Why, picture: Picture, label: int) -> dict[str, str]:
    stream = io.BytesIO()
    Image.fromarray(why.overlay(picture, label)).save(stream, "JPEG", quality=88)
    return {"method": why.method, "picture": "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()}
