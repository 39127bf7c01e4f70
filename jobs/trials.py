"""The trials of a sweep: asked for one by one, run by a runner (processes here, jobs on a cluster), told back by their
run folders.

All that a sweep knows is in its folder: trials.jsonl has every trial that was asked for, written before it starts; each
trial's result is in its own run folder. So a driver that was killed goes on with nothing lost and nothing run twice.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fgvc.files import write_bytes
from fgvc.interrupt import Interrupted, Interruption
from fgvc.run_folder import RESULT
from fgvc.search import Trial, ask, grid_size
from jobs.sequence import Command, Process, last_line
from jobs.sweep_file import Metric, Sweep, trial_words
from shards.errors import DataError
from slurm.errors import SlurmError
from slurm.graph import Node, submit_graph
from slurm.profile import Profile
from slurm.queue import live_job, queue, read_record
from slurm.submit import Task

TRIALS = "trials.jsonl"
IN_A_ROW = 3  # so many failed trials, one after another, end a sweep: what is wrong is not the values


@dataclass(frozen=True)
class Plan:
    """A sweep and how much of it: `folder` holds it, `cap` trials in all, `seed` of the search."""

    sweep: Sweep
    folder: Path
    cap: int
    seed: int
    more: tuple[str, ...] = ()  # words of every trial that are no part of the sweep (where a cluster keeps things)

    def command(self, trial: Trial) -> Command:
        """The command of a trial, with a run folder of its own."""
        name = f"trial-{trial.number:03}"
        own = {"name": name, "runs_dir": str(self.folder), "evaluate_test": "false", "track.group": self.folder.name}
        words = (*trial_words(self.sweep, trial.values, own), *self.more)
        return Command(
            name, (self.sweep.job, str(self.sweep.config), *words, *self.sweep.options),
            self.folder / self.sweep.job / name, self.folder / "logs" / f"{name}.log",
        )  # fmt: skip


class Runner(Protocol):
    """Runs commands, several at once."""

    pause: float  # seconds between looks

    def start(self, commands: Sequence[Command]) -> None:
        """Start these. Raises SlurmError when the cluster does not take them."""

    def ended(self) -> dict[str, str]:
        """Name -> why it failed, or nothing, of those that have ended since the last call."""

    def stop(self) -> str:
        """The driver has to end: what becomes of the trials that run."""


def run_trials(plan: Plan, runner: Runner, parallel: int) -> tuple[list[Trial], dict[str, str]]:
    """Run what is missing up to the plan's cap, `parallel` at once; all trials, and name -> reason of failed ones.

    Raises Interrupted after a signal; DataError when IN_A_ROW trials failed one after another.
    """
    trials = read_trials(plan)
    waiting = deque(trial for trial in trials if trial.score is None)
    running: dict[str, Trial] = {}
    failed: dict[str, str] = {}
    bar = _Bar(plan, sum(trial.score is not None for trial in trials))
    row = 0
    with Interruption() as interruption:
        while True:
            for name, reason in _look(runner).items():
                trial = _told(plan, running.pop(name))
                if trial.failed:
                    failed[name] = reason or f"{trial.number}: result.json has no finite {plan.sweep.metric.name}"
                row = row + 1 if trial.failed else 0
                trials[trial.number] = trial
                bar.ended(trials, trial, failed.get(name, ""))
            if interruption.signal_name:
                what = runner.stop() if running else "nothing was running"
                raise Interrupted(f"stopped by {interruption.signal_name}; {what}; the same command goes on")
            fresh = _next(plan, trials, waiting, parallel - len(running)) if row < IN_A_ROW else []
            if fresh and _started(plan, runner, fresh, bool(running) or bool(bar.here)):
                running |= {plan.command(trial).name: trial for trial in fresh}
            else:
                waiting.extendleft(reversed(fresh))
            if not running and not fresh:
                break
            time.sleep(runner.pause)
    if row >= IN_A_ROW:
        reason = list(failed.values())[-1]
        raise DataError(f"{row} trials in a row failed, the last one with: {reason}; mend it, the same command goes on")
    return trials, failed


def read_trials(plan: Plan) -> list[Trial]:
    """Every trial that was asked for, with its score where its run is done."""
    path = plan.folder / TRIALS
    if not path.is_file():
        return []
    try:
        asked = [Trial(**json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError):
        raise DataError(f"{path}: damaged; mend its last line, or move {plan.folder} away and start anew") from None
    return [_told(plan, trial) if plan.command(trial).done else trial for trial in asked]


def score_of(folder: Path, metric: Metric) -> float | None:
    """A run's metric, larger being better; None when its result.json has none that is finite."""
    try:
        value = json.loads((folder / RESULT).read_text())["val"][metric.key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return metric.sign * value if isinstance(value, int | float) and math.isfinite(value) else None


def reached(metric: Metric, trials: Sequence[Trial]) -> bool:
    """Whether a trial has reached the metric's target."""
    if metric.target is None:
        return False
    return any(one.score is not None and one.score >= metric.sign * metric.target for one in trials)


def cap_of(plan: Plan) -> int:
    """How many trials the sweep has in all."""
    if plan.sweep.method != "grid":
        return plan.cap
    size = grid_size(plan.sweep.parameters)
    return min(plan.cap, size) if plan.cap else size


def _told(plan: Plan, trial: Trial) -> Trial:
    score = score_of(plan.command(trial).folder, plan.sweep.metric)
    return replace(trial, score=score, failed=score is None)


def _next(plan: Plan, trials: list[Trial], waiting: deque[Trial], places: int) -> list[Trial]:
    """Up to `places` trials to start: first those begun before, then new ones, which are written down."""
    fresh: list[Trial] = []
    asked = len(trials)
    while len(fresh) < places:
        if waiting:
            fresh.append(waiting.popleft())
            continue
        if len(trials) >= cap_of(plan) or reached(plan.sweep.metric, trials):
            break
        trial = ask(plan.sweep.method, plan.sweep.parameters, plan.seed, trials)
        if trial is None:
            break
        fresh.append(trial)
        trials.append(trial)
    if len(trials) > asked:
        rows = [{"number": one.number, "units": one.units, "values": one.values} for one in trials]
        write_bytes(plan.folder / TRIALS, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return fresh


def _look(runner: Runner) -> dict[str, str]:
    try:
        return runner.ended()
    except SlurmError as error:  # the controller is away for a while; the jobs go on
        print(f"no word from Slurm: {error}", file=sys.stderr, flush=True)
        time.sleep(10)
        return {}


def _started(plan: Plan, runner: Runner, trials: list[Trial], under_way: bool) -> bool:
    """Start trials; False when the cluster does not take them for now. Raises SlurmError when it never took any."""
    try:
        runner.start([plan.command(trial) for trial in trials])
    except SlurmError as error:
        if not under_way:  # the user's mistake is more likely
            raise
        print(f"submission failed, trying again: {error}", file=sys.stderr, flush=True)
        time.sleep(10)
        return False
    return True


class Processes:
    """Trials as processes on this machine. Of several GPUs each gets one, of the cores its share."""

    pause = 0.2

    def __init__(self, parallel: int) -> None:
        self._running: dict[int, Process] = {}  # by place
        self._places = range(parallel)
        self._gpus = gpus() if parallel > 1 else []

    def start(self, commands: Sequence[Command]) -> None:
        for command in commands:
            place = next(one for one in self._places if one not in self._running)
            environment = {}
            if len(self._places) > 1:
                cores = len(os.sched_getaffinity(0)) // len(self._places)
                environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores)))
            if self._gpus:
                environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
            self._running[place] = Process(command, environment)

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
        tasks = tuple(Task(f"sweep/{self._name}", command.words, command.folder) for command in commands)
        submit_graph(self._profile, [Node("trials", tasks, throttle=self._throttle)])
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
        return f"the jobs go on (scancel --name=sweep/{self._name} ends them)"


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
    return (lines[-1] if lines else last_line(log)) or f"job {record['job']} ended and said nothing"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one and one != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


class _Bar:
    """A line for every trial that ends: its score, the best so far, the time left."""

    def __init__(self, plan: Plan, done: int) -> None:
        self._plan, self._done = plan, done
        self._began, self.here = time.monotonic(), 0

    def ended(self, trials: list[Trial], trial: Trial, reason: str) -> None:
        self.here += 1
        metric, cap = self._plan.sweep.metric, cap_of(self._plan)
        count = self._done + self.here
        name = self._plan.command(trial).name
        left = max(cap - count, 0) * (time.monotonic() - self._began) / self.here
        said = f"FAILED: {reason}" if trial.failed else f"{metric.name} {metric.sign * (trial.score or 0):.4f}"
        best = max((one for one in trials if one.score is not None), key=lambda one: one.score or 0, default=None)
        if best is not None:
            said += f", best {metric.sign * (best.score or 0):.4f} ({self._plan.command(best).name})"
        print(
            f"sweep {self._plan.folder.name} {count}/{cap} {name} {said}, ETA {left:.0f} s", file=sys.stderr, flush=True
        )
