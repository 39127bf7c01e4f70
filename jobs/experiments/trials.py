"""The trials of a sweep: asked for one by one, run by a runner (processes here, jobs on a cluster), scored from
their run folders.

All that a sweep knows is in its folder: trials.jsonl has every trial that was asked for, written before it starts; each
trial's result is in its own run folder. So a driver that was killed resumes with nothing lost and nothing run twice.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fgvc.runtime.interrupt import Interrupted, Interruption
from fgvc.runtime.run_folder import RESULT
from fgvc.study.search import Trial, ask, grid_size
from jobs.config import held_out_only
from jobs.experiments.sequence import Command
from jobs.experiments.sweep_file import Metric, Sweep, trial_words, unguarded
from jobs.registry import command_module
from shards.errors import UserError
from shards.files import write_bytes
from slurm.errors import SlurmError

TRIALS = "trials.jsonl"
IN_A_ROW = 3  # so many failed trials, one after another, end a sweep: what is wrong is not the values


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep and how much of it: `folder` holds it, `cap` trials in all, `seed` of the search."""

    sweep: Sweep
    folder: Path
    cap: int
    seed: int
    more: tuple[str, ...] = ()  # words of every trial that are no part of the sweep (where a cluster keeps things)

    def command(self, trial: Trial) -> Command:
        """The command of a trial, with a run folder of its own."""
        name = f"trial-{trial.number:03}"
        own = {"name": name, "runs_dir": str(self.folder), "track.group": self.folder.name}
        kind = command_module(self.sweep.job).Config
        own |= held_out_only(kind)
        values = unguarded(kind, self.sweep.words) | trial.values
        words = (*trial_words(self.sweep, values, own), *self.more)
        return Command(
            name, (self.sweep.job, str(self.sweep.config), *words, *self.sweep.options),
            self.folder / self.sweep.job / name, self.folder / "logs" / f"{name}.log",
        )  # fmt: skip


class Runner(Protocol):
    """Runs commands, several at once."""

    pause: float  # seconds between polls

    def start(self, commands: Sequence[Command]) -> None:
        """Start these. Raises SlurmError when the cluster does not take them."""

    def ended(self) -> dict[str, str]:
        """Name -> why it failed, or nothing, of those that have ended since the last call."""

    def stop(self) -> str:
        """The driver has to end: what becomes of the trials that run."""


def run_trials(plan: PlannedSweep, runner: Runner, parallel: int) -> tuple[list[Trial], dict[str, str]]:
    """Run what is missing up to the plan's cap, `parallel` at once; all trials, and name -> reason of failed ones.

    Raises Interrupted after a signal; UserError when IN_A_ROW trials failed one after another.
    """
    trials = read_trials(plan)
    waiting = deque(trial for trial in trials if trial.score is None)
    running: dict[str, Trial] = {}
    failed: dict[str, str] = {}
    bar = _Bar(plan, sum(trial.score is not None for trial in trials))
    row = 0
    with Interruption() as interruption:
        while True:
            for name, reason in _ended(runner).items():
                trial = _scored(plan, running.pop(name))
                if trial.failed:
                    failed[name] = reason or f"{trial.number}: result.json has no finite {plan.sweep.metric.name}"
                row = row + 1 if trial.failed else 0
                trials[trial.number] = trial
                bar.ended(trials, trial, failed.get(name, ""))
            if interruption.signal_name:
                what = runner.stop() if running else "nothing was running"
                raise Interrupted(f"stopped by {interruption.signal_name}; {what}; the same command resumes")
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
        raise UserError(
            f"{row} trials in a row failed, the last one with: {reason}; fix it, and the same command resumes"
        )
    return trials, failed


def read_trials(plan: PlannedSweep) -> list[Trial]:
    """Every trial that was asked for, with its score where its run is done."""
    path = plan.folder / TRIALS
    if not path.is_file():
        return []
    try:
        asked = [Trial(**json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; fix its last line, or move {plan.folder} away and start over") from None
    return [_scored(plan, trial) if plan.command(trial).done else trial for trial in asked]


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
    return any(trial.score is not None and trial.score >= metric.sign * metric.target for trial in trials)


def cap_of(plan: PlannedSweep) -> int:
    """How many trials the sweep has in all."""
    if plan.sweep.method != "grid":
        return plan.cap
    size = grid_size(plan.sweep.parameters)
    return min(plan.cap, size) if plan.cap else size


def _scored(plan: PlannedSweep, trial: Trial) -> Trial:
    score = score_of(plan.command(trial).folder, plan.sweep.metric)
    return replace(trial, score=score, failed=score is None)


def _next(plan: PlannedSweep, trials: list[Trial], waiting: deque[Trial], places: int) -> list[Trial]:
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
        rows = [{"number": trial.number, "units": trial.units, "values": trial.values} for trial in trials]
        write_bytes(plan.folder / TRIALS, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return fresh


def _ended(runner: Runner) -> dict[str, str]:
    try:
        return runner.ended()
    except SlurmError as error:  # the controller may be down for a while; the jobs keep running
        print(f"Slurm is not responding: {error}", file=sys.stderr, flush=True)
        time.sleep(10)
        return {}


def _started(plan: PlannedSweep, runner: Runner, trials: list[Trial], under_way: bool) -> bool:
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


class _Bar:
    """A line for every trial that ends: its score, the best so far, the time left."""

    def __init__(self, plan: PlannedSweep, done: int) -> None:
        self._plan, self._done = plan, done
        self._began, self.here = time.monotonic(), 0

    def ended(self, trials: list[Trial], trial: Trial, reason: str) -> None:
        self.here += 1
        metric, cap = self._plan.sweep.metric, cap_of(self._plan)
        count = self._done + self.here
        name = self._plan.command(trial).name
        left = max(cap - count, 0) * (time.monotonic() - self._began) / self.here
        said = f"FAILED: {reason}" if trial.failed else f"{metric.name} {metric.sign * (trial.score or 0):.4f}"
        best = max(
            (trial for trial in trials if trial.score is not None), key=lambda trial: trial.score or 0, default=None
        )
        if best is not None:
            said += f", best {metric.sign * (best.score or 0):.4f} ({self._plan.command(best).name})"
        print(
            f"sweep {self._plan.folder.name} {count}/{cap} {name} {said}, ETA {left:.0f} s", file=sys.stderr, flush=True
        )
