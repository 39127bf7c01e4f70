"""Helpers for tests on the test cluster: submit a job, wait for its state, find its processes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.errors import SlurmError
from slurm.queue import Job, states
from slurm.submit import Submitted
from slurm.testbed import daemons
from slurm.testbed.cluster import Testbed, client, missing_packages


def skip_without_cluster(accounting: bool = False) -> None:
    """Skip the test, with the reason, where no test cluster can be brought up."""
    if missing := missing_packages(accounting):
        pytest.skip(f"Debian packages are missing: {' '.join(missing)}")
    try:
        daemons.unshare()
    except SlurmError as error:
        pytest.skip(str(error))


def enter(testbed: Testbed, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, as a user of this cluster."""
    for key, value in testbed.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(folder)


def submit(testbed: Testbed, script: str, *options: str) -> str:
    """Submit a batch script that appends to <folder>/<name>.out; returns the job id."""
    common = ["--parsable", "--open-mode=append", "-o", str(testbed.folder / "%x.out"), "--chdir", str(testbed.folder)]
    return client(testbed, "sbatch", *common, *options, "--wrap", script).strip()


def job(testbed: Testbed, job_id: str) -> dict[str, str]:
    """The fields that scontrol shows."""
    shown = client(testbed, "scontrol", "-o", "show", "job", job_id)
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def reaches(testbed: Testbed, job_id: str, state: str, restarts: int = 0, seconds: float = 40) -> None:
    """Wait until the job is in that state after that many restarts; AssertionError with its fields."""
    deadline = time.monotonic() + seconds
    while (fields := job(testbed, job_id))["JobState"] != state or int(fields["Restarts"]) != restarts:
        assert time.monotonic() < deadline, f"not {state} after {restarts} restarts: {fields}"
        time.sleep(0.05)


def eventually(done: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it becomes true within that time."""
    deadline = time.monotonic() + seconds
    while not (ok := done()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return ok


def says(out: Path, lines: list[str]) -> bool:
    """Whether a job's output has these lines in this order, ignoring those of slurmstepd and srun."""
    return [line for line in out.read_text().splitlines() if line in lines] == lines


def a_sleep(number: int) -> str:
    """A long-running command line that is unique to this test process."""
    return f"sleep 300.{os.getpid()}{number}"


def processes(needle: str) -> list[str]:
    """The command lines of living processes that contain `needle`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if needle in line:
            found.append(line)
    return found


def ended(submitted: list[Submitted], seconds: float = 60) -> list[Job]:
    """The jobs, once all have ended."""
    deadline = time.monotonic() + seconds
    while any(job.live for job in states(entry.job for entry in submitted).values()):
        assert time.monotonic() < deadline, [entry.log.read_text() for entry in submitted if entry.log.exists()]
        time.sleep(0.1)
    return list(states(entry.job for entry in submitted).values())
