"""What all trainers share: accelerator, identity, run folder, seed, resume, tracker, fit, measure, finish."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from accelerate import Accelerator
from torch import nn

from fgvc.runtime.device import seed_everything
from fgvc.runtime.distributed import broadcast_object, rank, world_size
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.runtime.tracking import Tracker
from fgvc.study.headline import write_headline
from fgvc.training.checkpoint import latest_valid, step_of
from fgvc.training.curves import Panel, plot_training_curves
from fgvc.training.guard import Guard
from fgvc.training.learner import Learner, SupervisedLearner
from fgvc.training.loop import fit
from fgvc.training.memory import memory_is_named_outside_steps
from fgvc.training.rewind import Diverged, Rewind, Rewinds, check_weights, drop_broken
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import check_strategy, create_accelerator
from jobs.config import to_dict
from jobs.inputs import open_job, open_shards
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.loader import Place
from shards.reading.splits import Splits, open_splits


class Opened(NamedTuple):
    """What a task is made from: its config, the shards, where it runs and what it writes to."""

    config: Any
    manifest: Manifest
    splits: Splits
    folder: RunFolder
    accelerator: Accelerator


class Task(Protocol):
    """One run of a trainer, opened: what goes in, the learner, the batches, what is held out, what is measured."""

    images: int  # training images
    trains: bool  # False: what `learner` makes is finished already
    panels: Sequence[Panel]  # of the picture of its training curves

    def learner(self, schedule: Schedule, found: Path | None) -> Any:
        """The learner, new or resumed from the checkpoint `found`."""

    def batches(self, start_step: int, place: Place) -> Iterator[Any]:
        """This rank's micro-batches from a step on."""

    def held_out(self, learner: Any, epoch: int) -> dict[str, float]:
        """Figures measured after an epoch, for the record; none where nothing is held out."""

    def measure(self, learner: Any) -> tuple[dict[str, Any], dict[str, Path]]:
        """Write weights and results into the run folder; what result.json holds of them, and pictures by name."""


End = Callable[[dict[str, Any], Tracker], dict[str, Any]]  # writes the figures into result.json; what that holds


@runtime_checkable
class Draws(Protocol):
    """A task that has something to look at while it trains."""

    def pictures(self, learner: Any, epoch: int) -> dict[str, Path]:
        """Pictures by name, drawn after an epoch; none where none are due. All ranks call it."""


def run(
    job: str, config: Any, inputs_of: Callable[[Any], dict[str, str]], make: Callable[[Opened], Task], *,
    networks: int = 1, objective_parameters: bool = False,
) -> Any:  # fmt: skip
    """Train and measure; what result.json holds. `inputs_of`: hashes of all that the run reads beside the shards.
    networks: how many the learner trains side by side; objective_parameters: whether its objective has any of its own.

    Raises UserError for a user's mistake, Interrupted after a signal.
    """
    began, loop = time.monotonic(), config.train
    check_strategy(loop, networks, objective_parameters)
    accelerator = create_accelerator(loop.precision, loop.deterministic, loop.strategy, loop.timeout_minutes)
    manifest = open_shards(config.data)
    inputs = {"shards": manifest.fingerprint} | inputs_of(config)
    main = rank() == 0
    with open_job(job, config, inputs, main) as folder:
        if folder.result is not None:
            return folder.result
        splits = open_splits(manifest, config.data)
        if config.evaluate_test and not splits.test:
            raise UserError(f"{manifest.folder}: no split '{config.data.test_split}'; set evaluate_test=false")

        def end(figures: dict[str, Any], tracker: Tracker) -> dict[str, Any]:
            result = finish(folder, figures, inputs, time.monotonic() - began)
            tracker.lineage(folder, inputs)
            return result

        with memory_is_named_outside_steps():
            return _train(job, make, Opened(config, manifest, splits, folder, accelerator), end)


def _train(job: str, make: Callable[[Opened], Task], opened: Opened, end: End) -> dict[str, Any]:
    """Train until it reaches the end; where it breaks, once more from the last checkpoint at a lower learning rate."""
    config, rewinds = opened.config, Rewinds(opened.folder.path)
    news: Rewind | None = None
    while True:
        seed_everything(config.seed, rank(), config.train.deterministic)
        found = broadcast_object(latest_valid(opened.folder.checkpoints) if rank() == 0 else None)
        try:
            return _attempt(job, make(opened), opened, found, rewinds, news, end)
        except Diverged as error:
            if rank() == 0:
                drop_broken(opened.folder.checkpoints)
            found = broadcast_object(latest_valid(opened.folder.checkpoints) if rank() == 0 else None)
            news = rewinds.add(error, step_of(found) if found else 0, config.train.rewinds)
        opened.accelerator.free_memory()  # it holds what it has prepared: the broken networks and their optimizers
        gc.collect()


def _attempt(
    job: str, task: Task, opened: Opened, found: Path | None, rewinds: Rewinds, news: Rewind | None, end: End
) -> dict[str, Any]:  # fmt: skip
    """Train from a checkpoint (or from the start) to the end, and measure; what result.json holds. news: the rewind
    that led here, to record.

    Raises Diverged where training breaks.
    """
    config, folder = opened.config, opened.folder
    schedule = Schedule.of(config.train, task.images, rewinds.lr_scale)
    tracker = Tracker(
        config.track, folder.path, job, config.name, to_dict(config), step=step_of(found) if found else 0,
        main=rank() == 0,
    )  # fmt: skip
    if news is not None:
        epoch = round(news.step / schedule.per_epoch, 4)
        tracker.log(news.step, {"epoch": epoch, "rewind": news.reason, "lr_scale": news.lr_scale})
    exit_code = 1
    try:
        learner: Learner = task.learner(schedule, found)
        if task.trains:
            batches = task.batches(learner.step, Place(rank(), world_size(), config.train.accumulation))

            guard = None
            if getattr(task, "guarded", config.train.guard) and isinstance(learner, SupervisedLearner):
                guard = Guard(learner, config.train, config.optim, schedule, folder.metrics)

            def evaluate() -> dict[str, float]:
                epoch = learner.step // schedule.per_epoch
                if isinstance(task, Draws):
                    tracker.pictures(learner.step, task.pictures(learner, epoch))
                figures = task.held_out(learner, epoch)
                if guard is not None:
                    guard.evaluated(learner.step, figures)
                return figures

            watch = guard.step if guard is not None else None
            fit(learner, batches, config.train, schedule, folder.path, tracker, evaluate, watch)
            if isinstance(learner, SupervisedLearner):
                check_weights(learner.eval_network(), learner.step)
            if guard is not None and getattr(config.train, "keep", "last") == "last":  # else an earlier epoch is kept
                guard.check_probe()
        figures, pictures = task.measure(learner)
        if rank() == 0:
            if not task.trains:
                measured = {key.replace("/", "_"): value for key, value in _scalars(figures).items()}
                tracker.log(learner.step, {"epoch": 0.0} | measured)
            curves = folder.path / "training.png"
            if task.panels and plot_training_curves(curves, folder.metrics, task.panels):
                pictures["training"] = curves
            tracker.pictures(learner.step, pictures)
            tracker.summary(_scalars(figures))
        figures |= {"steps": learner.step, "train_count": task.images}
        figures |= {"rewinds": rewinds.record} if rewinds.made else {}
        if rank() == 0:
            figures = end(figures, tracker)
        exit_code = 0
    finally:
        tracker.close(exit_code)
    return figures


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """`split/figure` -> value, as W&B lists them (and its sweeps name them)."""
    splits = {split: values for split, values in figures.items() if isinstance(values, dict)}
    return {
        f"{split}/{key}": value
        for split, values in splits.items()
        for key, value in values.items()
        if isinstance(value, int | float)
    }


class SplitTask(Protocol):
    """What `measure_splits` asks of a task that predicts something for every image of a split."""

    folder: RunFolder
    measured: dict[str, list[int]]  # split -> positions in the manifest

    def predict(self, network: nn.Module, indices: list[int], title: str) -> Any:
        """What a network says of these images; all ranks call it and get all of it."""

    def summarize(self, found: Any) -> dict[str, Any]:
        """The figures of a split."""

    def per_image(self, found: Any) -> tuple[np.ndarray, np.ndarray]:
        """(entries, values), (N,) each: the headline figure of every image, whose mean is the split's."""

    def save(self, split: str, found: Any) -> dict[str, Path]:
        """Write what was found; pictures by name. Rank 0 calls it."""

    def export(self, network: nn.Module) -> None:
        """Write the weights file. Rank 0 calls it."""


def measure_splits(task: SplitTask, network: nn.Module) -> tuple[dict[str, Any], dict[str, Path]]:
    """Export the network and measure it on every split that was asked for, as `Task.measure` does."""
    if rank() == 0:
        task.export(network)
    figures: dict[str, Any] = {}
    pictures: dict[str, Path] = {}
    speed = 0.0
    for split, indices in task.measured.items():
        if indices:
            began = time.perf_counter()
            found = task.predict(network, indices, split)
            speed = len(indices) / (time.perf_counter() - began)
            figures[split] = task.summarize(found)
            if rank() == 0:
                write_headline(task.folder.path, split, *task.per_image(found))
                pictures = task.save(split, found)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return figures | {"parameters": parameters, "evaluation_images_per_second": round(speed, 1)}, pictures
