"""What runs the trials of a sweep: processes on this machine, or jobs on a cluster (the Runner of trials.py)."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jobs.config import load_command
from jobs.experiments.machine import shares_of_machine
from jobs.experiments.sequence import Command, Process, last_line, wait_for_lock
from jobs.launch import fetch_weights
from slurm.graph import Stage, submit_graph
from slurm.profile import Profile
from slurm.queue import live_job, queue, read_record
from slurm.submit import Launch

log = logging.getLogger(__name__)


class Processes:
    """Trials as processes on this machine, each on its share of the cores and GPUs."""

    pause = 0.2

    def __init__(self, parallel: int) -> None:
        self._running: dict[int, Process] = {}  # by place
        self._places = range(parallel)
        self._shares = shares_of_machine(parallel)

    def start(self, commands: Sequence[Command]) -> None:
        for command in commands:
            place = next(number for number in self._places if number not in self._running)
            wait_for_lock(command.folder)
            self._running[place] = Process(command, self._shares[place % len(self._shares)])

    def ended(self) -> dict[str, str]:
        found = {}
        for place, process in list(self._running.items()):
            reason = process.ended()
            if reason is not None:
                found[process.command.name] = reason
                del self._running[place]
        return found

    def stop(self) -> str:
        for process in self._running.values():
            process.stop()
        for process in self._running.values():
            while process.ended(1) is None:
                pass
        names = ", ".join(sorted(process.command.name for process in self._running.values()))
        self._running = {}
        return f"{names} saved and ended"


class Jobs:
    """Trials as Slurm jobs, in throttled arrays. They outlive the driver."""

    pause = 3.0

    def __init__(self, profile: Profile, name: str, throttle: int) -> None:
        self._profile, self._name, self._throttle = profile, name, throttle
        self._running: dict[str, Command] = {}
        self._gone: set[str] = set()

    def start(self, commands: Sequence[Command]) -> None:
        for warning in fetch_weights(load_command(command.words) for command in commands):
            log.warning("sweep %s: %s", self._name, warning)
        tasks = tuple(Launch(f"sweep/{self._name}", command.words, command.folder) for command in commands)
        submit_graph(self._profile, [Stage("trials", tasks, throttle=self._throttle)])
        self._running |= {command.name: command for command in commands}

    def ended(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self._running:
            return found
        queued = queue()
        for name, command in self._running.items():
            if command.done:
                found[name] = ""
            elif live_job(command.folder, queued) is not None:
                self._gone.discard(name)
            elif name in self._gone:  # looked twice: a shared file system may show the result a moment later
                found[name] = job_says(command.folder)
            else:
                self._gone.add(name)
        for name in found:
            del self._running[name]
            self._gone.discard(name)
        return found

    def stop(self) -> str:
        return f"the jobs keep running (scancel --name=sweep/{self._name} cancels them)"


def job_says(folder: Path) -> str:
    """Why a run's job ended without a result: the last line it printed."""
    record = read_record(folder)
    if record is None:
        return "it has no job"
    log = Path(record["log"])
    if not log.is_file():
        return f"job {record['job']} ended without a log; was it cancelled?"
    lines = [
        line for line in log.read_text(errors="replace").replace("\r", "\n").split("\n") if line.startswith("fgvc ")
    ]
    return (lines[-1] if lines else last_line(log)) or f"job {record['job']} exited without output"
