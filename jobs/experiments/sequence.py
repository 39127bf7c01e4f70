"""Run fgvc commands, each in a process of its own, one after another or side by side; what is done is skipped.

A process per run keeps memory, threads and a crash apart. The commands are plain data, so that something else (a
queue on a cluster) can start the same list in another way.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from fgvc.runtime.interrupt import Interrupted, Interruption
from fgvc.runtime.run_folder import IDENTITY, RESULT
from jobs.experiments.machine import Share, shares_of_machine
from jobs.states import locked
from shards.signals import end_with_parent

SAVED = (3, -signal.SIGTERM)  # how a command ends that was asked to: it saved, or had not begun to work
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


def run_all(
    commands: Sequence[Command], title: str, first_failure_ends: bool = False, *,
    after: Mapping[str, Sequence[str]] | None = None, at_once: int = 1,
) -> dict[str, Failure]:  # fmt: skip
    """Run what is not done yet, in order; returns name -> why, of those that failed.

    first_failure_ends: later commands build on earlier ones; those that run beside a failed one still end.
    after: the names that each command waits for, beside one another. at_once: so many run side by side, each on its
    share of the cores and GPUs.
    Raises Interrupted after a signal, once the commands under way have saved their state and ended.
    """
    failed: dict[str, Failure] = {}
    waiting = [command for command in commands if not command.done]
    running: list[Process] = []
    ended: dict[Process, str] = {}
    locks = _Locks()
    with Interruption() as interruption, _Bar(title, len(commands), len(commands) - len(waiting)) as bar:
        shares = shares_of_machine(at_once) if waiting else []
        try:
            while not (interruption.signal_name and not running):
                if interruption.signal_name or (failed and first_failure_ends):
                    waiting.clear()
                taken = {one.share for one in running}
                ready = _ready(waiting, running, after or {})
                free = [command for command in ready if locks.free(command.folder)]
                for share, command in zip([one for one in shares if one not in taken], free, strict=False):
                    waiting.remove(command)
                    running.append(Process(command, share))
                if not running and not ready:
                    return failed  # what is left waits for what failed
                ended = _ended(running, bar, interruption)
                running = [one for one in running if one not in ended]
                for one, reason in ended.items():
                    if reason and not (interruption.signal_name and one.code in SAVED):
                        failed[one.command.name] = Failure(reason, one.code)
                    if one.command.done or one.command.name in failed:
                        bar.ended(one.command.name, reason, one.seconds)
        except Exception:  # of this process: the disk is full, no process can be started
            for one in running:
                one.stop()
            while any(one.ended(0.1) is None for one in running):
                pass
            raise
        finally:  # also after a second Ctrl-C
            for one in running:
                one.kill()
        raise Interrupted(_stopped(interruption.signal_name, [one.command for one in ended], failed))


def _ready(
    waiting: Sequence[Command], running: Sequence["Process"], after: Mapping[str, Sequence[str]]
) -> list[Command]:
    """The commands that wait for none of those that have not ended."""
    open_ = {command.name for command in waiting} | {one.command.name for one in running}
    return [command for command in waiting if not open_ & set(after.get(command.name, ()))]


def _ended(running: Sequence["Process"], bar: "_Bar", interruption: Interruption) -> dict["Process", str]:
    """Wait half a second, or after a signal until all commands have ended; of those that have, why they failed, or
    nothing."""
    found: dict[Process, str] = {}
    if not running:
        time.sleep(0.5)
    while left := [one for one in running if one not in found]:
        for one in left:
            if interruption.signal_name:
                one.stop()
            if (reason := one.ended(0.5 / len(left))) is not None:
                found[one] = reason
        bar.show([(one.command.name, one.last_line) for one in left])
        if not interruption.signal_name:
            break
    return found


def _stopped(signal_name: str, ended: Sequence[Command], failed: Mapping[str, Failure]) -> str:
    begun = [command.name for command in ended if not command.done and command.name not in failed]
    done = [command.name for command in ended if command.done]
    where = f" in {', '.join(begun)}" if begun else f" after {', '.join(done)}" if done else ""
    lost = "".join(f"; {name} had failed: {failure}" for name, failure in failed.items())
    return f"stopped by {signal_name}{where}{lost}; the same command resumes"


class Process:
    """A command that runs in a process of its own, from the moment this is made."""

    def __init__(self, command: Command, share: Share) -> None:
        self.command, self.share = command, share
        self._began = time.monotonic()
        environment = {}
        if share.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
        if share.cores:
            given = os.environ.get("OMP_NUM_THREADS", "")
            environment["OMP_NUM_THREADS"] = str(min(int(given) if given.isdecimal() else 999, len(share.cores)))
        self._asked = False
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *command.words], env=os.environ | environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches this process alone, which then asks the run to stop, once.
                start_new_session=True, preexec_fn=partial(_begin, os.getpid(), share.cores),
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
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

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


def _begin(parent: int, cores: Sequence[int]) -> None:
    """In a command's process, before it begins."""
    end_with_parent(parent)
    if cores:  # threads and loader workers are as many as these
        os.sched_setaffinity(0, cores)


def last_line(log: Path, start: int = 0) -> str:
    """The last line that is not empty in a log from byte `start` on (a carriage return begins a new line)."""
    with log.open("rb") as stream:
        stream.seek(max(start, log.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def wait_for_lock(folder: Path) -> None:
    """Wait as long as `_Locks` does."""
    locks = _Locks()
    while not locks.free(folder):
        time.sleep(0.5)


class _Locks:
    """Lets a run whose starter was killed finish saving. A lock held for longer is left to the run to report."""

    def __init__(self) -> None:
        self._until: dict[Path, float] = {}

    def free(self, folder: Path) -> bool:
        """Whether nobody works in this folder, or it was asked for long enough."""
        return time.monotonic() > self._until.setdefault(folder, time.monotonic() + LOCK_SECONDS) or not locked(folder)


class _Bar:
    """Runs done of all with the time left; in a terminal also the last line of the run under way."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._title, self._total, self._done, self._here, self._began = title, total, done, 0, time.monotonic()
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit="run", disable=not self._terminal, dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} runs, ETA {remaining}{postfix}",
        )  # fmt: skip

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *args: object) -> None:
        self._bar.close()

    def show(self, lines: Sequence[tuple[str, str]]) -> None:
        self._bar.set_postfix_str("; ".join(f"{name}: {line[: 80 // len(lines)]}" for name, line in lines))

    def ended(self, name: str, reason: str, seconds: float) -> None:
        self._done += 1
        self._here += 1
        self._bar.update(1)
        left = (self._total - self._done) * (time.monotonic() - self._began) / self._here
        line = f"{self._title} {self._done}/{self._total} {name} {'FAILED' if reason else 'done'} in {seconds:.0f} s"
        if reason:
            tqdm.write(f"{line}: {reason}", file=sys.stderr)
        elif not self._terminal:
            print(f"{line}, ETA {left:.0f} s", file=sys.stderr, flush=True)
