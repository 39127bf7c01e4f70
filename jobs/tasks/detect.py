"""Train a detector and measure it: the work of `fgvc detect`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fgvc.detection.detector import Detections, Detector, class_names, detect, objective, save_detector
from fgvc.detection.metrics import RIGHT, summary, top_ious
from fgvc.detection.models import create_detector
from fgvc.detection.pictures import save_pictures
from fgvc.training.curves import Panel
from fgvc.training.learner import SupervisedLearner
from fgvc.training.schedule import Schedule
from jobs.detect import Config, check
from jobs.hashes import detector_inputs
from jobs.inputs import loader_workers
from jobs.tasks.training import Opened, measure_splits
from jobs.tasks.training import run as train
from shards.errors import UserError
from shards.files import write_json
from shards.reading.detection import BoxedSamples, collate_boxed
from shards.reading.loader import Place, train_loader


def run(config: Config) -> dict[str, Any]:
    """Train, measure, export; what result.json holds. Raises UserError for a user's mistake."""
    check(config)
    return train("detect", config, lambda config: detector_inputs(config.model), _Detect)


class _Detect:
    """One run, opened (a Task and a SplitTask of jobs/tasks/training.py)."""

    trains = True
    panels: Sequence[Panel] = (Panel("loss", ["loss*"], log=True), Panel("share of 1", held_out=["AP50", "top_right"]))

    def __init__(self, opened: Opened) -> None:
        self.config, self.manifest, splits, self.folder, self.accelerator = opened
        config, manifest = self.config, self.manifest
        # An image without boxes was not annotated; that nothing is in it was not said.
        boxed = manifest.entries.box_counts > 0
        self.train = [index for index in splits.train if boxed[index]]
        if not self.train:
            raise UserError(f"{manifest.folder}: no boxes in split '{config.data.train_split}'; a detector needs some")
        self.images, self.left_out = len(self.train), len(splits.train) - len(self.train)
        self.watched = splits.watched
        self.measured = {"val": splits.held_out, "test": splits.test if config.evaluate_test else []}
        self.workers = loader_workers(config.data)
        self.classes = class_names(config.model, manifest)
        self.network = create_detector(config.model, len(self.classes))
        self.size = config.image.eval_size or config.image.size

    def learner(self, schedule: Schedule, found: Path | None) -> SupervisedLearner:
        config, device = self.config, self.accelerator.device
        return SupervisedLearner(
            self.network, Detector(self.network, config.train.channels_last), objective(device), config.optim,
            config.train, schedule, self.accelerator, found,
        )  # fmt: skip

    def batches(self, start_step: int, place: Place) -> Iterator[Any]:
        config, agnostic = self.config, self.config.model.class_agnostic
        samples = BoxedSamples(self.manifest, config.data, config.image, config.seed, one_class=agnostic)
        return train_loader(
            self.manifest, self.train, samples, seed=config.seed, batch=config.train.batch, epochs=config.train.epochs,
            window=config.data.window, start_step=start_step, place=place, workers=self.workers, collate=collate_boxed,
        )  # fmt: skip

    def held_out(self, learner: SupervisedLearner, epoch: int) -> dict[str, float]:
        every = self.config.held_out_epochs
        if not self.watched or not every or epoch % every:
            return {}
        figures = self.summarize(self.predict(learner.eval_network(), self.watched, "held out"))
        return {f"val_{key}": figures[key] for key in ("AP", "AP50", "top_right") if key in figures}

    def measure(self, learner: SupervisedLearner) -> tuple[dict[str, Any], dict[str, Path]]:
        figures, pictures = measure_splits(self, learner.eval_network())
        return figures | {"train_without_boxes": self.left_out}, pictures

    def predict(self, network: nn.Module, indices: list[int], title: str) -> dict[int, Detections]:
        config, device = self.config, self.accelerator.device
        return detect(
            Detector(network, config.train.channels_last), self.manifest, indices, config.data,
            replace(config.image, size=self.size, eval_size=0), device=device, precision=config.train.precision,
            workers=self.workers, title=title,
        )  # fmt: skip

    def summarize(self, found: dict[int, Detections]) -> dict[str, Any]:
        return summary(self.manifest, found, self.classes, self.config.model.class_agnostic)

    def per_image(self, found: dict[int, Detections]) -> tuple[np.ndarray, np.ndarray]:
        ious = top_ious(self.manifest, {index: detections.boxes for index, detections in found.items()})
        return np.array(list(ious), dtype=np.int64), np.array([iou >= RIGHT for iou in ious.values()], dtype=float)

    def save(self, split: str, found: dict[int, Detections]) -> dict[str, Path]:
        folder = self.folder.path
        rows = {self.manifest.entries[index].key: detections.rows() for index, detections in found.items()}
        write_json(folder / f"boxes_{split}.json", rows)
        return save_pictures(folder, self.manifest, found)

    def export(self, network: nn.Module) -> None:
        save_detector(self.folder.weights, network, self.config.model, self.classes, self.size)
