"""One file from a server (http, https, s3): resumed, retried, limited in size, its checksum compared; whole or not at
all."""

import errno
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from shards.errors import TransientError, UserError
from shards.files import sha256_of, sync_folder

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are ours to speak of

CHUNK = 1 << 16  # bytes; what was read of one when a connection breaks is lost
S3_CHUNK = 1 << 23  # a request each
LIMIT = 1 << 30  # bytes, of a file whose size nothing tells beforehand
RETRIES = 5  # of a connection; and of a transfer that breaks off without a byte
BACKOFF = 0.5  # seconds, doubled with every retry
TIMEOUT = (10, 60)  # seconds: to connect, to wait for bytes
TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class _Answer:
    """What a server sends: bytes of the file from `first` on; `total` bytes in all, None where it does not say."""

    first: int
    total: int | None
    chunks: Iterator[bytes]


class _BrokenOff(Exception):
    """A transfer that ended early; it is taken up again."""


def fetch(
    url: str, path: Path, size: int | None = None, sha256: str = "", *, show: bool = False, retries: int = RETRIES
) -> None:  # fmt: skip
    """Fetch a file to `path`, unless it is there. Its beginning lies in PATH.part until it is whole; the next call
    resumes from that, in another process too. One process fetches a file at a time; the others wait.

    size: bytes it must have (None: any number up to LIMIT). sha256: what it must be (empty: not known).
    Raises UserError in one line: not there, too large, another checksum (what was fetched is removed), no space; and
    TransientError: no connection, a server in trouble.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.is_file() and size in (None, path.stat().st_size):
                return
            part = path.with_name(f"{path.name}.part")
            if not sha256:  # nothing would tell the beginning of another file
                part.unlink(missing_ok=True)
            _fetch(url, part, size, show, retries)
            _compare(url, part, size, sha256)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())  # whoever finds the file later looks at its size alone
            part.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left on the disk" if full else f"cannot be written ({error.strerror or error})"
        raise UserError(f"{path}: {what}; the same command resumes") from None


def _fetch(url: str, part: Path, size: int | None, show: bool, retries: int) -> None:
    """Append to `part` until it is whole, over broken transfers."""
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            with _answer(url, before, retries) as answer:
                _check_size(url, part, answer, size)
                _write(answer, part, LIMIT if size is None else size, show)
            return
        except _BrokenOff as error:
            gained = part.is_file() and part.stat().st_size > before
            failures = 0 if gained else failures + 1
            if failures > retries:
                raise TransientError(f"{url}: breaks off again and again ({error}); the same command resumes") from None
            if failures:
                time.sleep(BACKOFF * 2**failures)


def _write(answer: _Answer, part: Path, limit: int, show: bool) -> None:
    """Raises _BrokenOff; UserError beyond `limit` bytes."""
    interval = 0.5 if sys.stderr.isatty() else 15
    with (
        part.open("r+b" if part.is_file() else "wb") as stream,
        tqdm(
            total=answer.total, initial=answer.first, desc=part.stem, unit="B", unit_scale=True, delay=1, leave=False,
            disable=not show, mininterval=interval, file=sys.stderr,
        ) as bar,
    ):  # fmt: skip
        stream.truncate(answer.first)
        stream.seek(answer.first)
        for chunk in answer.chunks:
            if stream.tell() + len(chunk) > limit:
                stream.truncate(0)
                raise UserError(f"{part.stem}: more than the {limit:,} bytes it may have; what was fetched is removed")
            stream.write(chunk)
            bar.update(len(chunk))
        if answer.total is not None and stream.tell() < answer.total:
            raise _BrokenOff(f"after {stream.tell():,} of {answer.total:,} bytes")


def _check_size(url: str, part: Path, answer: _Answer, size: int | None) -> None:
    """Raise UserError, before anything is written, for a file of another size than expected, or for lack of space."""
    if answer.total is None:
        return
    if answer.total > LIMIT and size is None:
        raise UserError(f"{url}: {answer.total:,} bytes, more than the {LIMIT:,} it may have")
    if size is not None and answer.total != size:
        raise UserError(f"{url}: {answer.total:,} bytes on the server, {size:,} expected; it is another file")
    check_space(part.parent, answer.total - answer.first)


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError where a folder's disk has not as many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; free some or choose another"
        )


def _compare(url: str, part: Path, size: int | None, sha256: str) -> None:
    found = sha256_of(part) if sha256 else ""
    if found != sha256 or size not in (None, part.stat().st_size):
        part.unlink()
        raise UserError(
            f"{url}: wrong checksum (sha256 {found}, expected {sha256}); what was fetched is removed, start again; if "
            "it stays so, the server has another file"
        )


@contextmanager
def _answer(url: str, start: int, retries: int) -> Iterator[_Answer]:
    """The server's bytes from `start` on, or from an earlier one. Raises UserError, _BrokenOff."""
    opened = _s3_answer(url, start) if urlsplit(url).scheme == "s3" else _http_answer(url, start, retries)
    with opened as answer:
        yield answer


@contextmanager
def _http_answer(url: str, start: int, retries: int) -> Iterator[_Answer]:
    # A Retry-After of hours would be obeyed in silence, while others wait for the lock.
    retry = Retry(
        retries, backoff_factor=BACKOFF, status_forcelist=TRANSIENT, raise_on_status=False,
        respect_retry_after_header=False,
    )  # fmt: skip
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise TransientError(
                f"{url}: no connection ({_reason(error)}); check the address and the network"
            ) from None
        except ValueError as error:  # it sends elsewhere, to something that is no address
            raise UserError(f"{url}: the server answers with a malformed address ({type(error).__name__})") from None
        with response:
            first, total = _extent(response, start)
            if response.status_code == 416 and start and total != start:  # not what was begun: from the start, then
                with _http_answer(url, 0, retries) as answer:
                    yield answer
                return
            if response.status_code not in (200, 206, 416) or (response.status_code == 416 and not start):
                kind = TransientError if response.status_code in TRANSIENT else UserError
                raise kind(f"{url}: {_refusal(response)}")
            yield _Answer(first, total, iter(()) if response.status_code == 416 else _body(response))


def _extent(response: requests.Response, start: int) -> tuple[int, int | None]:
    """(first byte, bytes in all) of an answer; a server that ignores Range sends the file from its beginning."""
    spans = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code in (206, 416) and spans:
        first = start if spans[1] is None else int(spans[1])
        if first > start:
            where = response.url.partition("?")[0]  # one that it sent us to may carry a signature, and this is logged
            raise UserError(f"{where}: the server sends bytes from {first:,} on, asked for {start:,}")
        return first, None if spans[2] == "*" else int(spans[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if response.status_code == 200 and length.isdigit() else None


def _body(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK)
    except requests.RequestException as error:
        raise _BrokenOff(_reason(error)) from None


def _refusal(response: requests.Response) -> str:
    code = response.status_code
    known = {
        401: "a login is needed (401); put it into ~/.netrc", 403: "access refused (403)",
        404: "not there (404); check the address",
    }  # fmt: skip
    return known.get(code, f"the server answers {code} {response.reason}")


def _reason(error: Exception) -> str:
    """The innermost cause of what requests raises, short: 'Connection refused'."""
    cause: Any = getattr(error.args[0], "reason", error) if error.args else error
    text = " ".join(str(cause).split())
    number = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return (number[1] if number else text.rsplit(": ", 1)[-1])[:200] or type(error).__name__


@contextmanager
def _s3_answer(url: str, start: int) -> Iterator[_Answer]:
    """Through fsspec; s3fs repeats requests by itself."""
    import fsspec

    try:
        files = fsspec.filesystem("s3")
        # What earlier processes listed may have changed since.
        files.invalidate_cache()
        total = int(files.info(url)["size"])
        stream = files.open(url, "rb", cache_type="none")
    except ImportError:
        raise UserError(f"{url}: the package s3fs is missing; pip install s3fs") from None
    except FileNotFoundError:
        raise UserError(f"{url}: not there; check the bucket and the path") from None
    except PermissionError as error:
        raise UserError(f"{url}: access refused ({error}); see docs/data.md for logins") from None
    except Exception as error:  # botocore's and aiohttp's, of many kinds
        raise TransientError(f"{url}: cannot be read ({' '.join(str(error).split())[:200]})") from None

    def chunks() -> Iterator[bytes]:
        try:
            while chunk := stream.read(S3_CHUNK):
                yield chunk
        except Exception as error:
            raise _BrokenOff(" ".join(str(error).split())[:200]) from None

    with stream:
        first = min(start, total)
        stream.seek(first)
        yield _Answer(first, total, chunks())
