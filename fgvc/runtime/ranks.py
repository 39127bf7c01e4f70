"""Ranks on this machine: started, signalled and ended together.

torchrun is not used: on a signal it gives ranks 30 s before it kills them, where a checkpoint may take longer, and
hides their exit codes, which say whether a run was saved.
"""

import math
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from fgvc.runtime.interrupt import SAVED
from shards.signals import SIGNALS, end_with_parent

LAUNCHER = "FGVC_LAUNCHER"  # the process that started a rank
ORPHAN_S = 120.0  # for a rank whose launcher was killed to save and end by itself
GRACE_S = 10.0  # the others of a rank that failed notice it themselves and say so, or are killed


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run a command as `ranks` processes that find each other (RANK, WORLD_SIZE, ...); their exit code.

    SIGTERM, SIGINT and SIGUSR2 are passed on and waited for: each rank is in a session of its own, so that a Ctrl-C in
    the terminal or a signal to the group does not reach it twice. When this process is killed outright, the ranks get
    SIGTERM from the kernel. A rank that fails ends all. A second Ctrl-C gives ranks that hang GRACE_S, a third none.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)  # an even share of the cores, unless one is asked for
    shared = {"OMP_NUM_THREADS": str(threads)} | os.environ
    port, port_lock = _own_port()
    place = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared[LAUNCHER] = str(os.getpid())
    started: list[subprocess.Popen] = []
    pending: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        for rank in range(ranks):
            own = {key: str(value) for key, value in (place | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            bound = partial(end_with_parent, os.getpid())
            started.append(subprocess.Popen(command, env=shared | own, start_new_session=True, preexec_fn=bound))
        return _wait(started, pending)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        port_lock.release()


def end_after_launcher() -> None:
    """In a rank: when the launcher is gone and the signal that says so did not end this process in time (a rank that
    waits for another in a collective cannot answer it), end it."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(1)
        time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(started: Sequence[subprocess.Popen], pending: list[int]) -> int:
    """The ranks' common exit code, once all have ended."""
    kill_at, failed, sent = math.inf, 0, list[int]()
    bad: list[int]
    while any(process.poll() is None for process in started):
        while pending:
            number = pending.pop(0)
            sent.append(number)
            if sent.count(signal.SIGINT) > 1:
                kill_at = min(kill_at, time.monotonic() + (GRACE_S if sent.count(signal.SIGINT) == 2 else 0))
            _signal(started, number)
        bad = [code for code in (process.poll() for process in started) if code and _is_failure(code, sent)]
        if bad and not failed:
            failed, kill_at = bad[0], min(kill_at, time.monotonic() + GRACE_S)
        if time.monotonic() > kill_at:
            _signal(started, signal.SIGKILL)
        time.sleep(0.05)
    codes = [process.returncode for process in started]
    failed = failed or next((code for code in codes if _is_failure(code, sent)), 0)
    if failed:
        return failed if failed > 0 else 1  # a negative code is a signal's: the rank crashed or was killed
    return SAVED if sent and any(codes) else max(codes)


def _is_failure(code: int | None, sent: Sequence[int]) -> bool:
    """Not so: running, done, saved, or ended by a signal that was passed on before the rank could handle it."""
    return code not in (None, 0, SAVED) and -(code or 0) not in sent


def _signal(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _own_port() -> tuple[int, FileLock]:
    """A free port, and the lock that keeps other launchers of this machine off it until the ranks have met there."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        lock = FileLock(Path(tempfile.gettempdir()) / f"fgvc-port-{port}-{os.getuid()}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        return port, lock
