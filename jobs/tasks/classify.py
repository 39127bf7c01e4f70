"""Train a classifier and measure it: the work of `fgvc classify`."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from fgvc.classification.calibration import calibration_folds, held_out_answers, temperature_from
from fgvc.classification.evaluation import about, evaluate_split, image_sizes, split_loader
from fgvc.classification.listed import read_listed
from fgvc.classification.metrics import Predictions, summary
from fgvc.classification.objective import classification
from fgvc.classification.probe import probe_head
from fgvc.classification.results import save_results
from fgvc.classification.seen import records_of_start, training_record
from fgvc.models.export import export
from fgvc.models.normalised import Normalised
from fgvc.models.timm import create_model, input_size, input_statistics
from fgvc.training.curves import Panel
from fgvc.training.learner import SupervisedLearner
from fgvc.training.schedule import Schedule
from jobs.classify import Config
from jobs.inputs import boxes_hashes, check_forward, file_hash, loader_workers
from jobs.tasks.training import Opened, measure_splits
from jobs.tasks.training import run as train
from shards.paths import expand
from shards.reading.loader import Place, Samples, train_loader
from shards.reading.transforms import train_transform
from shards.reading.views import View, open_crops


def run(config: Config) -> dict[str, Any]:
    """Train, measure, export; what result.json holds. Raises UserError for a user's mistake."""
    return train("classify", config, _inputs, _Classify)


def _inputs(config: Config) -> dict[str, str]:
    inputs = {"weights": file_hash(config.model.weights, "model.weights")} | boxes_hashes(config.data)
    if config.exclude:
        inputs["exclude"] = file_hash(config.exclude, "exclude")
    if run := config.train.temperature_from:
        inputs["temperature_from"] = file_hash(str(held_out_answers(run)), "train.temperature_from")
    return inputs


class _Classify:
    """One run, opened (a Task and a SplitTask of jobs/tasks/training.py)."""

    panels: Sequence[Panel] = (Panel("loss", ["loss"]), Panel("top-1", ["top1"], ["top1"]))

    def __init__(self, opened: Opened) -> None:
        self.config, self.manifest, self.splits, self.folder, self.accelerator = opened
        config = self.config
        self.images, self.trains = len(self.splits.train), config.train.method == "finetune"
        self.measured = {"val": self.splits.held_out, "test": self.splits.test if config.evaluate_test else []}
        self.crops = open_crops(self.manifest, self.splits, config.data)
        self.workers = loader_workers(config.data)
        self.network = create_model(config.model, len(self.manifest.classes))
        self.size, self.eval_size = image_sizes(config.image, input_size(self.network))
        check_forward(self.network, config.model.name, self.size, self.eval_size)
        self.mean, self.std = input_statistics(self.network, config.model)
        self.listed = read_listed(expand(config.exclude, "exclude"), self.manifest) if config.exclude else None
        self.temperature = temperature_from(config.train, self.manifest, config.model.name)

    def learner(self, schedule: Schedule, found: Path | None) -> SupervisedLearner:
        config = self.config
        if found is None and "probe" in (config.train.method, config.train.head_start):
            self._probe()
        objective = classification(len(self.manifest.classes), config.train, config.seed, self.accelerator.device)
        return SupervisedLearner(
            self.network, self._normalised(self.network), objective, config.optim, config.train, schedule,
            self.accelerator, found,
        )  # fmt: skip

    def batches(self, start_step: int, place: Place) -> Iterator[Any]:
        config, transform = self.config, train_transform(self.config.image, self.size)
        samples = Samples(self.manifest, transform, self.crops.train, cache=config.data.cache, seed=config.seed)
        return train_loader(
            self.manifest, self.splits.train, samples, seed=config.seed, batch=config.train.batch,
            epochs=config.train.epochs, window=config.data.window, start_step=start_step, place=place,
            workers=self.workers,
        )  # fmt: skip

    def held_out(self, learner: SupervisedLearner, epoch: int) -> dict[str, float]:
        if not self.splits.held_out:
            return {}
        predictions = self.predict(learner.eval_network(), self.splits.held_out, "held out")
        return {"val_top1": float(predictions.correct.mean())}

    def measure(self, learner: SupervisedLearner) -> tuple[dict[str, Any], dict[str, Path]]:
        figures, pictures = measure_splits(self, learner.eval_network())
        return figures | ({"crops": self.crops.counts} if self.crops.counts else {}), pictures

    def predict(self, network: nn.Module, indices: list[int], title: str) -> Predictions:
        return evaluate_split(
            self._normalised(network), self.manifest, indices, self.config.data, self.config.image, self.eval_size,
            views=self.crops.test, device=self.accelerator.device, precision=self.config.train.precision,
            workers=self.workers, title=title,
        )  # fmt: skip

    def summarize(self, found: Predictions) -> dict[str, Any]:
        return summary(found, self.manifest.classes, self.temperature, self.listed)

    def per_image(self, found: Predictions) -> tuple[np.ndarray, np.ndarray]:
        return found.entries, found.correct.astype(float)

    def save(self, split: str, found: Predictions) -> dict[str, Path]:
        return save_results(self.folder.path, f"_{split}", self.manifest, found, self.temperature)

    def export(self, network: nn.Module) -> None:
        model, image, data = self.config.model, self.config.image, self.config.data
        record = {"name": model.name, "kwargs": model.kwargs, "caffe_stride": model.caffe_stride}
        trained_on = [training_record(self.manifest, data, self.splits.train), *records_of_start(model.weights)]
        facts = about(
            self.manifest, record, image, data, self.mean, self.std, self.eval_size, self.temperature, trained_on
        )
        export(self.folder.weights, network.state_dict(), facts)

    def _probe(self) -> None:
        """Put a probe's head on the network: features of the training images are computed once, then solved for."""
        config, train = self.config, self.splits.train
        # Fine-tuning changes what a probe's head says: the temperature of one that it begins with is of no use.
        folds = None if self.trains else calibration_folds(self.manifest, train)

        def loader_of(view: View, indices: Sequence[int]) -> DataLoader:
            return split_loader(
                self.manifest, indices, config.data, config.image, self.eval_size, view, 64, self.workers
            )  # fmt: skip

        found = probe_head(
            self.network, self._normalised(self.network), [partial(loader_of, view) for view in self.crops.train],
            self.accelerator.device, config.train.precision, train, self.folder.features, len(self.manifest.classes),
            config.train.probe_penalty, folds, config.image.eval_flip,
        )  # fmt: skip
        if not self.trains:
            self.temperature = found

    def _normalised(self, network: nn.Module) -> Normalised:
        """`network` as a model of uint8 images on this rank's device."""
        return Normalised(network, self.mean, self.std, self.config.train.channels_last).to(self.accelerator.device)
