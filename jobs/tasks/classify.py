"""Train a classifier and measure it: the work of `fgvc classify`."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from fgvc.classification.attention import check_attended
from fgvc.classification.balance import class_weights
from fgvc.classification.calibration import calibration_folds, temperature_from
from fgvc.classification.directions import fit_directions
from fgvc.classification.evaluation import about, evaluate_split, image_sizes, split_loader
from fgvc.classification.listed import read_listed
from fgvc.classification.metrics import NotFinite, Predictions, nll, summary
from fgvc.classification.objective import classification
from fgvc.classification.probe import probe_head
from fgvc.classification.probe_guard import against_probe, keep_probe
from fgvc.classification.results import save_results
from fgvc.classification.seen import training_record
from fgvc.models.attentive import freeze_all_but_pool, with_attention
from fgvc.models.covariance import SecondOrder
from fgvc.models.export import export
from fgvc.models.layers import checkpoint_gradients
from fgvc.models.lora import add_lora, merge_lora
from fgvc.models.normalised import Normalised
from fgvc.models.timm import create_model, input_size, input_statistics, model_record
from fgvc.robustness.watch import Watch, strengthened
from fgvc.runtime.distributed import sync_module
from fgvc.training.best import BestEpoch
from fgvc.training.curves import Panel
from fgvc.training.learner import Objective, SupervisedLearner
from fgvc.training.rewind import Diverged, Rewinds
from fgvc.training.schedule import Schedule
from jobs.classify import Config
from jobs.inputs import check_forward, loader_workers
from jobs.tasks.defence import defence_figures, open_objective
from jobs.tasks.starts import check_enlarged, check_start, input_hashes, records_of_inputs
from jobs.tasks.synthetic import open_synthetic
from jobs.tasks.teacher import resized_teacher
from jobs.tasks.training import Opened, measure_splits
from jobs.tasks.training import run as train
from shards.paths import expand
from shards.reading.loader import Place, Samples, train_loader
from shards.reading.splits import limited
from shards.reading.transforms import train_transforms
from shards.reading.views import View, open_crops


def run(config: Config) -> dict[str, Any]:
    """Train, measure, export; what result.json holds. Raises UserError for a user's mistake."""
    return train("classify", config, input_hashes, Classify)


GROWING = (
    "choose others; a vision transformer takes several with model.kwargs='{img_size: 112, dynamic_img_size: true}'"
)


class Classify:
    """One run, opened (a Task and a SplitTask of jobs/tasks/training.py)."""

    panels: Sequence[Panel] = (
        Panel("loss", ["loss"], ["nll"]),
        Panel("top-1", ["top1", "robust_top1"], ["top1", "robust"]),
    )

    def __init__(self, opened: Opened) -> None:
        self.config, self.manifest, self.splits, self.folder, self.accelerator = opened
        config = self.config
        self.images, self.trains = len(self.splits.train), config.train.method != "probe"
        # What a defence trains on grows harder as it goes, and clean accuracy is its price.
        self.guarded = config.train.guard and config.defence.method == "none"
        self.measured = {"val": self.splits.held_out, "test": self.splits.test if config.evaluate_test else []}
        self.kept_out = sorted({*self.splits.watched, *self.splits.held_out, *self.splits.test})
        check_start(config.model, self.manifest, self.kept_out)
        self.crops = open_crops(self.manifest, self.splits, config.data)
        self.workers = loader_workers(config.data)
        attentive = config.train.method == "attentive"
        self.model = with_attention(config.model) if attentive else config.model
        self.network = create_model(self.model, len(self.manifest.classes))
        if config.train.attention_crops:
            check_attended(self.network)
        if config.train.grad_checkpointing:
            checkpoint_gradients(self.network)
        self.size, self.eval_size = image_sizes(config.image, input_size(self.network))
        check_enlarged(config.model, self.eval_size)
        self.flops = check_forward(self.network, f"model.name={config.model.name}", self.size, self.eval_size)
        if config.image.sizes:
            check_forward(self.network, config.model.name, *config.image.sizes, key="image.sizes", advice=GROWING)
        self.mean, self.std = input_statistics(self.network, config.model)
        self.listed = read_listed(expand(config.exclude, "exclude"), self.manifest) if config.exclude else None
        self.temperature = temperature_from(config.train, self.manifest, config.model.name)
        labels = self.manifest.entries.label[self.splits.train]
        self.weights = class_weights(labels, len(self.manifest.classes), config.train.class_weights)
        self.best: BestEpoch | None = None
        self.watch: Watch | None = None
        self.synthetic = open_synthetic(
            config.synthetic, self.manifest, self.splits.train, self.kept_out, config.seed, config.data.cache
        )

    def learner(self, schedule: Schedule, found: Path | None) -> SupervisedLearner:
        config = self.config
        if found is None and "probe" in (config.train.method, config.train.head_start):
            self._probe()
            if self.trains and self.guarded and self.splits.watched:
                keep_probe(self.folder.path, self.predict(self.network, self.splits.watched, "the probe, held out"))
        if config.train.method == "attentive":
            freeze_all_but_pool(self.network)
        if config.train.method == "lora":
            add_lora(self.network, config.train.lora_rank)
        learner = SupervisedLearner(
            self.network, self._normalised(self.network), self._objective(), config.optim, config.train, schedule,
            self.accelerator, found,
        )  # fmt: skip
        if config.train.keep == "best":
            keep, patience = config.train.checkpoint_keep * config.train.checkpoint_epochs, config.train.patience
            figure = "val_top1" if self.watch is None else "val_robust"
            self.best = BestEpoch(self.folder, schedule, figure, patience=patience, checkpoints=keep)
        return learner

    def batches(self, start_step: int, place: Place) -> Iterator[Any]:
        config = self.config
        transform = train_transforms(config.image, self.size, config.train.epochs)
        samples: Any = Samples(self.manifest, transform, self.crops.train, cache=config.data.cache, seed=config.seed)
        blend = None
        if self.synthetic is not None:
            samples, blend = self.synthetic.samples(samples, transform, config.data.cache), self.synthetic.blend.blend
        return train_loader(
            self.manifest, self.splits.train, samples, seed=config.seed, batch=config.train.batch,
            epochs=config.train.epochs, window=config.data.window, start_step=start_step, place=place,
            workers=self.workers, balance=config.train.balanced_sampling, blend=blend,
        )  # fmt: skip

    def held_out(self, learner: SupervisedLearner, epoch: int) -> dict[str, float]:
        last = epoch == self.config.train.epochs
        figures: dict[str, float] = {} if self.watch is None else self.watch.after_epoch(learner, epoch, last)
        if not self.splits.watched:
            return figures
        network = learner.eval_network()
        try:
            predictions = self.predict(network, self.splits.watched, "held out")
        except NotFinite as error:  # the loss of the step that broke it was still a number
            raise Diverged(f"{error.reason}, held out, after step {learner.step}") from None
        figures |= {"val_top1": float(predictions.correct.mean()), "val_nll": nll(predictions)}
        if self.best is not None and self.best.figure in figures:
            self.best.add(learner.step, figures[self.best.figure], network)
        return figures | against_probe(self.folder.path, predictions)

    def measure(self, learner: SupervisedLearner) -> tuple[dict[str, Any], dict[str, Path]]:
        network = learner.eval_network()
        kept = self.best.restore(network, self.accelerator.device) if self.best is not None else {}
        merge_lora(network)
        figures, pictures = measure_splits(self, network)
        figures["gflops"] = round(self.flops / 1e9, 3)
        figures |= {"ensemble": self._backbones()} if self.config.model.also else {}
        figures |= {"covariance": self.config.model.covariance} if self.config.model.covariance else {}
        views = len(self.crops.test) * self.config.image.eval_crops
        figures |= {"views": views} if views > 1 else {}
        if self.watch is not None:
            figures["defence"] = defence_figures(self.config.defence, self.folder.metrics)
        if kept:
            figures["kept"] = kept | {"chosen_on": "a held-out share" if self.config.data.folds else "val"}
        return figures | ({"crops": self.crops.counts} if self.crops.counts else {}), pictures

    def _backbones(self) -> list[str]:
        """An ensemble's networks, each with its input's side."""
        model = self.config.model
        own = [self.eval_size, *(backbone.size or self.eval_size for backbone in model.also)]
        return [f"{net.name} at {size} px" for net, size in zip((model, *model.also), own, strict=True)]

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
        config = self.config
        trained_on = [training_record(self.manifest, config.data, self.splits.train), *records_of_inputs(config)]
        trained_on += self.synthetic.trained_on if self.synthetic is not None else []
        facts = about(
            self.manifest, model_record(self.model, self.network), config.image, config.data, self.mean, self.std,
            self.eval_size, self.temperature, trained_on,
        )  # fmt: skip
        export(self.folder.weights, network.state_dict(), facts)

    def _objective(self) -> Objective:
        """What is learnt; with a defence, `watch` measures how it does."""
        config, device, classes = self.config, self.accelerator.device, len(self.manifest.classes)
        if config.defence.method == "none":
            teacher = resized_teacher(config, self.manifest, device, self.kept_out)
            return classification(classes, config.train, config.seed, device, self.weights, teacher)
        defence = strengthened(config.defence, Rewinds(self.folder.path).made)
        held_out = self._sample(self.splits.watched, self.crops.test[0]) if self.splits.watched else None
        self.watch = Watch(
            defence, config.seed, self.folder.checkpoints, self._sample(self.splits.train, self.crops.train[0]),
            held_out, self._normalised,
        )  # fmt: skip
        return open_objective(config, defence, self.manifest, self.size, device, self.weights, self.kept_out)

    def _sample(self, indices: list[int], view: View) -> DataLoader:
        """Images on which a defence is measured while it trains."""
        chosen = limited(indices, self.config.defence.check_images)
        return split_loader(
            self.manifest, chosen, self.config.data, self.config.image, self.eval_size, view, 64, self.workers
        )

    def _probe(self) -> None:
        """Put a probe's head on the network: features of the training images are computed once, then solved for."""
        config, train = self.config, self.splits.train
        # Fine-tuning changes what a probe's head says: the temperature of one that it begins with is of no use.
        folds = None if self.trains else calibration_folds(self.manifest, train)

        def loader_of(view: View, crop: int, indices: Sequence[int]) -> DataLoader:
            return split_loader(
                self.manifest, indices, config.data, config.image, self.eval_size, view, 64, self.workers, crop
            )  # fmt: skip

        looks = product(self.crops.train, range(config.image.eval_crops))
        self.network.to(self.accelerator.device)
        sync_module(self.network)  # where weights are drawn at random, every rank has drawn its own
        model, loaders = self._normalised(self.network), [partial(loader_of, *look) for look in looks]
        if isinstance(self.network, SecondOrder):
            fit_directions(
                self.network, model, loaders, train, self.accelerator.device, config.train.precision,
                self.folder.features,
            )  # fmt: skip
        found = probe_head(
            self.network, model, loaders,
            self.accelerator.device, config.train.precision, train, self.folder.features, len(self.manifest.classes),
            config.train.probe_penalty, folds, config.image.eval_flip, self.weights,
        )  # fmt: skip
        if not self.trains:
            self.temperature = found

    def _normalised(self, network: nn.Module) -> Normalised:
        """`network`, which stays where it is, as a model of uint8 images on this rank's device."""
        device = self.accelerator.device
        return Normalised(network, self.mean.to(device), self.std.to(device), self.config.train.channels_last)
