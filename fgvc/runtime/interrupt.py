"""Signals that ask a run to stop: noticed between steps, so that a checkpoint is written first."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from shards.signals import SIGNALS

SAVED = 3  # exit code of a run that a signal stopped: the same command resumes


class Interrupted(Exception):
    """The run saved its state and stopped because a signal asked for it; the same command resumes."""


class Interruption:
    """While entered, SIGTERM, SIGINT and SIGUSR2 set `signal_name` instead of ending the process."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._handlers: Any = None

    def __enter__(self) -> "Interruption":
        self._handlers = _handled_by(self._notice)
        self._handlers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.__exit__(kind, error, trace)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name and number == signal.SIGINT:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


@contextmanager
def leave_at_once(job: str) -> Iterator[None]:
    """While entered, and while nothing within handles them itself, the signals end the process with exit code 3: there
    is nothing to save beyond what is on the disk."""

    def leave(number: int, frame: FrameType | None) -> None:
        if os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            print(f"fgvc {job}: stopped by {name} while not training; the same command resumes", file=sys.stderr)
        sys.stderr.flush()
        os._exit(SAVED)

    with _handled_by(leave):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
