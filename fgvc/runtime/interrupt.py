"""Signals that ask a run to stop: noticed between steps, so that a checkpoint is written first."""

import signal
from types import FrameType, TracebackType


class Interrupted(Exception):
    """The run saved its state and stopped because a signal asked for it; the same command goes on."""


class Interruption:
    """While entered, SIGTERM, SIGINT and SIGUSR2 set `signal_name` instead of ending the process."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal_name = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name and number == signal.SIGINT:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
