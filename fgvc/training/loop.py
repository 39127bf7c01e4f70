"""The training loop, whatever it trains: one or many ranks, stoppable and resumable at every step."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fgvc.runtime.distributed import broadcast_object, rank, sum_over_ranks, world_size
from fgvc.runtime.interrupt import Interrupted, Interruption
from fgvc.runtime.progress import Progress
from fgvc.runtime.tracking import Tracker
from fgvc.training.behind import StepFigures
from fgvc.training.checkpoint import Writer
from fgvc.training.config import LoopConfig
from fgvc.training.learner import Learner
from fgvc.training.memory import memory_is_named
from fgvc.training.rewind import Diverged
from fgvc.training.schedule import Schedule
from fgvc.training.state import unchanged_draws
from fgvc.training.utilization import Profiler, Utilization
from shards.errors import UserError

Evaluate = Callable[[], dict[str, float]]
Watch = Callable[[int, dict[str, float]], None]


def fit(
    learner: Learner, batches: Iterator[Any], config: LoopConfig, schedule: Schedule, folder: Path, tracker: Tracker,
    evaluate: Evaluate | None = None, watch: Watch | None = None,
) -> None:  # fmt: skip
    """Train to the schedule's end. `evaluate` runs at every epoch's end; its figures join that step's record. `watch`
    is given every step's figures, and may raise.

    Raises Interrupted after saving when a signal asked to stop, Diverged when a loss is no longer finite, UserError
    when the disk is full or the device has too little memory.
    """
    loop = _Loop(learner, batches, config, schedule, folder, tracker, evaluate, watch)
    with loop.interruption, Profiler(config, folder) as profiler, closing(loop.progress):
        try:
            loop.catch_up()
            while learner.step < schedule.steps:
                loop.step()
                if profiler is not None:
                    profiler.step()
            loop.end()
        except Exception:
            if world_size() == 1:  # several may not all have failed, and this takes all
                loop.writer.finish()
            raise


class _Loop:
    """A step's figures are read while the device is at the next step (`_behind`), except where something hangs on
    them. Saving by the clock is rank 0's decision; a signal counts from any rank. Both travel with the figures, so
    that every rank reads them after the same step."""

    def __init__(
        self, learner: Learner, batches: Iterator[Any], config: LoopConfig, schedule: Schedule, folder: Path,
        tracker: Tracker, evaluate: Evaluate | None, watch: Watch | None,
    ) -> None:  # fmt: skip
        self.learner, self.batches, self.config, self.schedule = learner, batches, config, schedule
        self.folder, self.tracker, self.evaluate, self.watch = folder, tracker, evaluate, watch
        self.progress = Progress(schedule.steps, learner.step, config.batch, "train", show=rank() == 0)
        self.utilization = Utilization(learner, config)
        self.writer = Writer(folder / "checkpoints", config.checkpoint_keep)
        self.interruption = Interruption()
        self._saved = time.monotonic()
        self._behind: StepFigures | None = None  # of the step whose figures are still to be read
        self._stop = self._clock = False

    def catch_up(self) -> None:
        """Measure what a run left out that was stopped at an epoch's end."""
        held = broadcast_object(self.tracker.held)
        if held is not None:
            self._evaluated(self.learner.step, held)

    def step(self) -> None:
        config, learner, schedule = self.config, self.learner, self.schedule
        began = time.perf_counter()
        micro_batches = [next(self.batches) for _ in range(config.accumulation)]
        self.progress.waited(time.perf_counter() - began)
        lr = learner.lr
        with memory_is_named(learner, config, micro_batches):
            means = learner.learn(micro_batches)
        due = rank() == 0 and time.monotonic() - self._saved > config.checkpoint_minutes * 60
        flags = bool(self.interruption.signal_name), due, self.writer.written
        before, self._behind = self._behind, StepFigures(learner.step, lr, means, *flags)
        if before is not None:
            self._log(before.step, self._read(before))
        epoch, into = divmod(learner.step, schedule.per_epoch)
        last = learner.step == schedule.steps
        saves = last or (not into and epoch % config.checkpoint_epochs == 0) or not config.checkpoint_minutes
        if saves or not into or self._stop or self._clock or self.utilization.measures_next:
            self._pause(self._behind, epoch_ends=not into, saves=saves)
            self._behind = None

    def end(self) -> None:
        """Wait for the last checkpoint; answer a signal that came while the last step was measured and saved."""
        self.writer.finish()
        signalled = torch.tensor(float(bool(self.interruption.signal_name)), device=self.learner.device)
        if sum_over_ranks(signalled).item():
            raise Interrupted(self._stopped("after the last step"))

    def _pause(self, made: StepFigures, epoch_ends: bool, saves: bool) -> None:
        """Wait for the step just made; save after it, measure an epoch, leave."""
        values = self._read(made)
        measures = epoch_ends and self.evaluate is not None
        if not measures:
            self._log(made.step, values)
        # After the last step too: what is left, to measure, may take longer than a signal's sender waits.
        if saves or self._stop or self._clock:
            if measures:
                self.tracker.hold(made.step, values)
            self.tracker.sync()
            self.writer.begin(made.step, self.learner.state())
            self._saved, self._clock = time.monotonic(), False
        if self._stop:
            self.writer.finish()
            raise Interrupted(self._stopped(f"at step {made.step}"))
        if measures:
            self._evaluated(made.step, values)
        self.progress.paused(time.perf_counter() - made.finished)

    def _read(self, made: StepFigures) -> dict[str, Any]:
        """What the record says of a step."""
        figures, (signals, clocks, written) = made.read()
        self._stop, self._clock = self._stop or signals > 0, self._clock or clocks > 0
        if written == world_size():
            self.writer.finish()
        try:
            _check_finite(figures, made.step)
            if self.watch is not None:
                self.watch(made.step, figures)
        except UserError:  # on all ranks
            self.writer.finish()
            raise
        speed = self.progress.step({name: f"{value:.3f}" for name, value in figures.items()}, made.finished)
        values: dict[str, Any] = {"epoch": round(made.step / self.schedule.per_epoch, 4), "lr": made.lr}
        return values | figures | speed | self.utilization.figures(speed["images_per_second"])

    def _evaluated(self, step: int, values: dict[str, Any]) -> None:
        assert self.evaluate is not None
        try:
            with unchanged_draws():  # a run that measures again, or not, draws the same afterwards
                values = values | self.evaluate()
        except Diverged:  # what is measured shows that the step just saved is broken, too
            self.writer.drop(step)
            raise
        self._log(step, values)
        self.tracker.release()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        always = step % self.schedule.per_epoch == 0 or step == self.schedule.steps
        self.tracker.log(step, values, always=always)

    def _stopped(self, when: str) -> str:
        name = self.interruption.signal_name or "a signal on another rank"
        return f"{self.folder}: stopped by {name} {when}; the same command resumes"


def _check_finite(figures: dict[str, float], step: int) -> None:
    for name, value in figures.items():
        if name.startswith("loss") and not math.isfinite(value):
            what = "the loss" if name == "loss" else name
            raise Diverged(f"{what} is {value} at step {step}")
