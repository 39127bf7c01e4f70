"""The training loop, whatever it trains: one or many ranks, stoppable and resumable at every step."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fgvc.runtime.distributed import rank, sum_over_ranks, world_size
from fgvc.runtime.interrupt import Interrupted, Interruption
from fgvc.runtime.progress import Progress
from fgvc.runtime.tracking import Tracker
from fgvc.training.config import LoopConfig
from fgvc.training.learner import Learner
from fgvc.training.rewind import Diverged
from fgvc.training.schedule import Schedule
from fgvc.training.utilization import Profiler, Utilization


def fit(
    learner: Learner, batches: Iterator[Any], config: LoopConfig, schedule: Schedule, folder: Path, tracker: Tracker,
    evaluate: Callable[[], dict[str, float]] | None = None,
    watch: Callable[[int, dict[str, float]], None] | None = None,
) -> None:  # fmt: skip
    """Train to the schedule's end. `evaluate` runs at every epoch's end; its figures join that step's record. `watch`
    is given every step's figures, and may raise.

    Raises Interrupted after saving when a signal asked to stop, Diverged when a loss is no longer finite.
    """
    progress = Progress(schedule.steps, learner.step, config.batch, "train", show=rank() == 0)
    utilization = Utilization(learner, config)
    saved = time.monotonic()
    # Saving by the clock is rank 0's decision; a signal counts from any rank. Both travel with the loss.
    with Interruption() as interruption, Profiler(config, folder) as profiler, closing(progress):
        while learner.step < schedule.steps:
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(config.accumulation)]
            progress.waited(time.perf_counter() - began)
            lr = learner.lr
            means = learner.learn(micro_batches)
            due = rank() == 0 and time.monotonic() - saved > config.checkpoint_minutes * 60
            figures, signals, clocks = _over_ranks(means, bool(interruption.signal_name), due)
            _check_finite(figures, learner.step)
            if watch is not None:
                watch(learner.step, figures)
            speed = progress.step({name: f"{value:.3f}" for name, value in figures.items()})
            epoch_ends, paused = learner.step % schedule.per_epoch == 0, time.perf_counter()
            values: dict[str, Any] = {"epoch": round(learner.step / schedule.per_epoch, 4), "lr": lr}
            values |= figures | speed | utilization.figures(speed["images_per_second"])
            if epoch_ends and evaluate is not None:
                values |= evaluate()
            tracker.log(learner.step, values, always=epoch_ends or learner.step == schedule.steps)
            # After the last step too: what is left, to measure, may take longer than the signal's sender waits.
            stop = signals
            if epoch_ends or stop or clocks or learner.step == schedule.steps:
                tracker.sync()
                learner.save(folder / "checkpoints")
                saved = time.monotonic()
            progress.paused(time.perf_counter() - paused)
            if stop:
                name = interruption.signal_name or "a signal on another rank"
                raise Interrupted(f"{folder}: stopped by {name} at step {learner.step}; the same command resumes")
            if profiler is not None:
                profiler.step()
        # A signal that came while the last step was measured and saved.
        device = learner.device
        if sum_over_ranks(torch.tensor(float(bool(interruption.signal_name)), device=device)).item():
            name = interruption.signal_name or "a signal on another rank"
            raise Interrupted(f"{folder}: stopped by {name} after the last step; the same command resumes")


def _over_ranks(means: dict[str, torch.Tensor], signal: bool, due: bool) -> tuple[dict[str, float], bool, bool]:
    """Every figure's mean over the ranks, and whether any rank had a signal or a checkpoint due."""
    values = torch.stack([value.float() for value in means.values()])
    together = torch.cat([values, torch.tensor([float(signal), float(due)], device=values.device)])
    *sums, signals, clocks = sum_over_ranks(together).tolist()
    return {name: total / world_size() for name, total in zip(means, sums, strict=True)}, signals > 0, clocks > 0


def _check_finite(figures: dict[str, float], step: int) -> None:
    for name, value in figures.items():
        if name.startswith("loss") and not math.isfinite(value):
            what = "the loss" if name == "loss" else name
            raise Diverged(f"{what} is {value} at step {step}")
