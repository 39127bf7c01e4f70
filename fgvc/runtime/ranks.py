"""Ranks on this machine: started, signalled and ended together.

torchrun is not used: on a signal it gives ranks 30 s before it kills them, where a checkpoint may take longer, and
hides their exit codes, which say whether a run was saved.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from fgvc.runtime.interrupt import SAVED
from shards.signals import SIGNALS

GRACE_S = 10.0  # the others of a rank that failed notice it themselves and say so, or are killed
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run a command as `ranks` processes that find each other (RANK, WORLD_SIZE, ...); their exit code.

    SIGTERM, SIGINT and SIGUSR2 are passed on and waited for: each rank is in a session of its own, so that a Ctrl-C in
    the terminal or a signal to the group does not reach it twice. When this process is killed outright, the ranks get
    SIGTERM from the kernel. A rank that fails ends all.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)  # an even share of the cores, unless one is asked for
    shared = {"OMP_NUM_THREADS": str(threads)} | os.environ
    place = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    started: list[subprocess.Popen] = []
    pending: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        for rank in range(ranks):
            own = {key: str(value) for key, value in (place | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            started.append(
                subprocess.Popen(command, env=shared | own, start_new_session=True, preexec_fn=end_with_parent)
            )
        return _wait(started, pending)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """In a child: ask the kernel for SIGTERM when the parent dies, even by SIGKILL, so that no run is orphaned."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(started: Sequence[subprocess.Popen], pending: list[int]) -> int:
    failed_at, first = 0.0, 0
    while True:
        while pending:
            number = pending.pop(0)
            for process in started:
                if process.poll() is None:
                    process.send_signal(number)
        codes = [process.poll() for process in started]
        bad = [code for code in codes if code not in (None, 0, SAVED)]
        if bad and not failed_at:
            failed_at, first = time.monotonic(), bad[0]
        if all(code is not None for code in codes):
            break
        if failed_at and time.monotonic() - failed_at > GRACE_S:
            for process in started:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.05)
    if failed_at:
        return first if first > 0 else 1  # a negative code is a signal's: the rank crashed or was killed
    return max(code or 0 for code in codes)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
