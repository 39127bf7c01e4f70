"""Run fgvc commands one after another, each in a process of its own; what is done is skipped, a failure stops nothing.

A process per run keeps memory, threads and a crash apart. The commands are plain data, so that something else (a
queue on a cluster) can start the same list in another way.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from fgvc.runtime.interrupt import Interrupted, Interruption
from fgvc.runtime.run_folder import IDENTITY, RESULT
from shards.signals import end_with_parent

LOCK_SECONDS = 120  # a run that lost its starter is saving its last checkpoint; longer than that it belongs to someone


@dataclass(frozen=True)
class Failure:
    """Why a command failed: the last line it printed, and its exit code."""

    reason: str
    code: int = 1

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Command:
    """`fgvc WORDS`, whose folder holds the file `mark` once it is done; `log` collects what it prints."""

    name: str
    words: tuple[str, ...]
    folder: Path
    log: Path
    mark: str = RESULT

    @property
    def done(self) -> bool:
        return (self.folder / self.mark).is_file()

    @property
    def begun(self) -> bool:
        return (self.folder / IDENTITY).is_file()

    @property
    def state(self) -> str:
        """done, begun or new."""
        return "done" if self.done else "begun" if self.begun else "new"


def run_all(commands: Sequence[Command], title: str, first_failure_ends: bool = False) -> dict[str, Failure]:
    """Run what is not done yet, in order; returns name -> why, of those that failed.

    first_failure_ends: later commands build on earlier ones.
    Raises Interrupted after a signal, once the command under way has saved its state and ended.
    """
    failed: dict[str, Failure] = {}
    waiting = [command for command in commands if not command.done]
    with Interruption() as interruption, _Bar(title, len(commands), len(commands) - len(waiting)) as bar:
        for command in waiting:
            began = time.monotonic()
            failure = _run(command, bar, interruption)
            if interruption.signal_name and not command.done:
                raise Interrupted(f"stopped by {interruption.signal_name} in {command.name}; the same command resumes")
            if failure:
                failed[command.name] = failure
            bar.ended(command.name, str(failure or ""), time.monotonic() - began)
            if failure and first_failure_ends:
                break
            if interruption.signal_name:
                raise Interrupted(
                    f"stopped by {interruption.signal_name} after {command.name}; the same command resumes"
                )
    return failed


def _run(command: Command, bar: "_Bar", interruption: Interruption) -> Failure | None:
    """Run one command to its end; returns why it failed, or None."""
    process = Process(command)
    try:
        while (ended := process.ended(0.5)) is None:
            if interruption.signal_name:
                process.stop()
            bar.show(command.name, process.last_line)
    finally:
        process.kill()
    return Failure(ended, process.code) if ended else None


class Process:
    """A command that runs in a process of its own, from the moment this is made."""

    def __init__(self, command: Command, environment: dict[str, str] | None = None) -> None:
        self.command = command
        self._asked = False
        command.log.parent.mkdir(parents=True, exist_ok=True)
        _wait_for_lock(command.folder)
        with command.log.open("ab") as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *command.words], env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches this process alone, which then asks the run to stop, once.
                start_new_session=True, preexec_fn=partial(end_with_parent, os.getpid()),
            )  # fmt: skip

    def ended(self, seconds: float = 0) -> str | None:
        """None while it runs (waits so long for its end); then why it failed, or nothing."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        if code == 0 and self.command.done:
            return ""
        return self.last_line or f"exited with code {code} without output"

    @property
    def code(self) -> int:
        """Its exit code; 1 while it runs."""
        return 1 if self._process.returncode is None else self._process.returncode

    @property
    def last_line(self) -> str:
        """The last line it printed."""
        return last_line(self.command.log, self._start)

    def stop(self) -> None:
        """Ask it, once, to save and end."""
        if not self._asked:
            self._process.terminate()
        self._asked = True

    def kill(self) -> None:
        """End it now, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def last_line(log: Path, start: int = 0) -> str:
    """The last line that is not empty in a log from byte `start` on (a carriage return begins a new line)."""
    with log.open("rb") as stream:
        stream.seek(max(start, log.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _wait_for_lock(folder: Path) -> None:
    """Let a run whose starter was killed finish saving. A lock held for longer is left to the run to report."""
    if not folder.is_dir():
        return
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            pass
    except Timeout:
        return


class _Bar:
    """Runs done of all with the time left; in a terminal also the last line of the run under way."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._title, self._total, self._done, self._seconds, self._here = title, total, done, 0.0, 0
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit="run", disable=not self._terminal, dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} runs, ETA {remaining}{postfix}",
        )  # fmt: skip

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *args: object) -> None:
        self._bar.close()

    def show(self, name: str, line: str) -> None:
        self._bar.set_postfix_str(f"{name}: {line[:80]}")

    def ended(self, name: str, reason: str, seconds: float) -> None:
        self._done += 1
        self._here += 1
        self._seconds += seconds
        self._bar.update(1)
        left = (self._total - self._done) * self._seconds / self._here
        line = f"{self._title} {self._done}/{self._total} {name} {'FAILED' if reason else 'done'} in {seconds:.0f} s"
        if reason:
            tqdm.write(f"{line}: {reason}", file=sys.stderr)
        elif not self._terminal:
            print(f"{line}, ETA {left:.0f} s", file=sys.stderr, flush=True)
