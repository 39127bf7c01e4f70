"""The learning rate range test of a classifier: the work of `fgvc find-lr`."""

import shutil
from pathlib import Path
from typing import Any

from fgvc.runtime.device import seed_everything
from fgvc.runtime.progress import with_progress
from fgvc.runtime.run_folder import RunFolder
from fgvc.training.find_lr import plot_range_test, range_test, rates_between
from fgvc.training.schedule import Schedule
from fgvc.training.strategies.create import create_accelerator
from jobs.find_lr import Range
from jobs.inputs import open_shards
from jobs.tasks.classify import Classify
from jobs.tasks.training import Opened
from shards.files import write_json
from shards.reading.loader import Place
from shards.reading.splits import open_splits


def run(config: Any, tried: Range) -> tuple[str, float]:
    """Make the steps, write picture and rates; what was found, in words, and the suggested rate.

    Raises UserError for a user's mistake.
    """
    train, optim = config.train, config.optim
    optim.schedule, optim.warmup_epochs, train.guard, train.keep = "constant", 0.0, False, "last"
    accelerator = create_accelerator(train.precision, train.deterministic)
    manifest = open_shards(config.data)
    folder = RunFolder(Path(config.runs_dir) / "find-lr" / config.name, None)
    folder.path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder.features, ignore_errors=True)  # of an earlier test, of other weights or images perhaps
    seed_everything(config.seed, 0, train.deterministic)
    task = Classify(Opened(config, manifest, open_splits(manifest, config.data), folder, accelerator))
    schedule = Schedule.of(train, task.images)
    train.epochs = -(-tried.steps // schedule.per_epoch)
    learner = task.learner(schedule, None)
    batches = task.batches(0, Place(accumulation=train.accumulation))
    rates = rates_between(tried.low, tried.high, tried.steps)

    def step(rate: float) -> float:
        schedule.lr_scale = rate / optim.lr  # the rates are optim.lr's, which follows the batch where lr_batch says so
        means = learner.learn([next(batches) for _ in range(train.accumulation)])
        return float(means["loss"])

    found = range_test(with_progress(rates, len(rates), "find-lr", "steps", show=True), step)
    plot_range_test(folder.path / "find_lr.png", found)
    write_json(folder.path / "rates.json", {"suggested": found.suggested, "limit": found.limit} | vars(found))
    rises = (
        f"the loss rises at {found.limit:.2g}" if found.limit else f"the loss never rose up to {found.rates[-1]:.2g}"
    )
    picture = folder.path / "find_lr.png"
    said = f"{rises}; suggested: optim.lr={found.suggested:g} (now {optim.lr:g}); look at {picture}"
    return said, found.suggested
