"""Commands that are waited for, or killed at a moment of one's choice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, (output, errors)
    return output, errors


def kill_when(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    """SIGKILL the whole process group as soon as `ready`."""
    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def steps_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0
