"""Train a GAN and measure what it makes: the work of `fgvc gan`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from fgvc.classification.seen import records_of_start, training_record
from fgvc.generation.collapse import collapsed
from fgvc.generation.features import create_features
from fgvc.generation.game import Game
from fgvc.generation.measure import training_image
from fgvc.generation.metrics import check_count
from fgvc.generation.networks.create import create_networks
from fgvc.generation.pictures import draw_grid, draw_interpolations
from fgvc.generation.record import write_generator
from fgvc.runtime.distributed import broadcast_object, rank
from fgvc.training.adversarial import AdversarialLearner, PlayerSetup
from fgvc.training.curves import Panel
from fgvc.training.schedule import Schedule
from jobs.config import nearest
from jobs.gan import Config, check
from jobs.hashes import file_hash
from jobs.inputs import boxes_hashes, loader_workers
from jobs.tasks.gan_measure import Compared
from jobs.tasks.starts import check_unseen
from jobs.tasks.training import Opened
from jobs.tasks.training import run as train
from shards.errors import UserError
from shards.reading.loader import Place, Samples, train_loader
from shards.reading.transforms import train_transform
from shards.reading.views import TRUTH, open_views, train_policy

TAIL = 1 << 22  # bytes of metrics.jsonl that are looked at for a collapse


def run(config: Config) -> dict[str, Any]:
    """Train, measure, export; what result.json holds. Raises UserError for a user's mistake, and on a collapse."""
    check(config)
    return train("gan", config, _inputs, _Gan, networks=2)


def _inputs(config: Config) -> dict[str, str]:
    inputs = {"features": file_hash(config.measure.weights, "measure.weights")} | boxes_hashes(config.data)
    if config.model.name == "projected":
        inputs["backbone"] = file_hash(config.model.backbone_weights, "model.backbone_weights")
    return inputs


class _Gan:
    """One run, opened (a Task of jobs/tasks/training.py)."""

    trains = True
    panels: Sequence[Panel] = (
        Panel("loss", ["loss*"]), Panel("told rightly", ["real_*", "generated_*"]), Panel("diversity", ["diversity*"]),
        Panel("Frechet distance", ["train_frechet"], ["frechet"]),
    )  # fmt: skip

    def __init__(self, opened: Opened) -> None:
        self.config, self.manifest, splits, self.folder, self.accelerator = opened
        config, self.device = self.config, self.accelerator.device
        sets = {"train": splits.train, "val": splits.held_out, "test": splits.test if config.evaluate_test else []}
        self.sets = {name: self._of_class(indices) for name, indices in sets.items() if indices}
        for name, indices in self.sets.items():
            check_count(min(len(indices), config.measure.images), name)
        self.train, self.all_train = self.sets["train"], splits.train
        self.images, self.classes = len(self.train), 1 if config.only else len(self.manifest.classes)
        self.model = replace(config.model, conditional=config.model.conditional and not config.only)
        # What the discriminator's backbone has seen, the generator learns.
        kept_out = sorted({*splits.watched, *splits.held_out, *splits.test})
        backbone = config.model.backbone_weights if config.model.name == "projected" else "none"
        check_unseen({"model.backbone_weights": backbone}, self.manifest, kept_out)
        self.backbone_records = records_of_start(backbone)
        everything = sorted({index for indices in self.sets.values() for index in indices})
        (self.view,) = open_views(train_policy(config.data), self.manifest, everything)
        self.workers = loader_workers(config.data)
        self.game = Game(self.model, config.train, config.seed, self.device)
        features = create_features(config.measure).to(self.device)
        self.compared = Compared(
            config, self.model, self.manifest, self.sets, features, self.view, self.folder, self.device, self.workers
        )

    def learner(self, schedule: Schedule, found: Path | None) -> AdversarialLearner:
        self.steps = schedule.steps
        config, networks = self.config, create_networks(self.model, self.classes, self.config.seed)
        setups = {
            "generator": PlayerSetup(networks.generator, networks.generator, config.generator, config.train.ema),
            "discriminator": PlayerSetup(networks.discriminator, networks.judge, config.discriminator),
        }
        return AdversarialLearner(setups, self.game.phases(), config.train, schedule, self.accelerator, found)

    def batches(self, start_step: int, place: Place) -> Iterator[Any]:
        config = self.config
        transform = train_transform(training_image(config.image), config.model.size)
        samples = Samples(self.manifest, transform, [self.view], cache=config.data.cache, seed=config.seed)
        return train_loader(
            self.manifest, self.train, samples, seed=config.seed, batch=config.train.batch, epochs=config.train.epochs,
            window=config.data.window, start_step=start_step, place=place, workers=self.workers,
        )  # fmt: skip

    def pictures(self, learner: AdversarialLearner, epoch: int) -> dict[str, Path]:
        if not self.config.measure.pictures or epoch % self.config.measure.pictures:
            return {}
        return self._grids(learner.eval_network("generator"), f"-{epoch:05d}")

    def held_out(self, learner: AdversarialLearner, epoch: int) -> dict[str, float]:
        if problem := broadcast_object(self._collapse() if rank() == 0 else ""):
            raise UserError(
                f"{problem}; see metrics.jsonl and the grids in {self.folder.path}. Try train.augment, train.r1, "
                "another model or learning rates under another name=; train.collapse_steps=0 goes on all the same"
            )
        every = self.config.measure.every
        if not every or epoch % every:
            return {}
        # The test split is looked at once, at the end. What is made here in the last step is measured there too.
        found, _ = self.compared.measure(
            learner.eval_network("generator"), learner.step, ("train", "val"), keep=learner.step == self.steps
        )
        return {f"{split}_{key}": values[key] for split, values in found.items() for key in ("frechet", "recall")}

    def measure(self, learner: AdversarialLearner) -> tuple[dict[str, Any], dict[str, Path]]:
        network = learner.eval_network("generator")
        pictures = self._grids(network, "")
        if rank() == 0:
            record = training_record(self.manifest, self.config.data, self.all_train)
            facts = {
                "classes": [self.config.only] if self.config.only else list(self.manifest.classes),
                "run": self.config.name, "trained_on": [record, *self.backbone_records], "steps": learner.step,
                "crop": self._crop(), "image": asdict(self.config.image),
            }  # fmt: skip
            write_generator(self.folder.weights, network, self.model, facts)
        figures, more = self.compared.measure(network, learner.step, ("train", "val", "test"), whole=True)
        parameters = {name: _parameters(player.network) for name, player in learner.players.items()}
        return figures | {"parameters": parameters["generator"], "parameters_of": parameters}, pictures | more

    def _grids(self, network: nn.Module, mark: str) -> dict[str, Path]:
        paths = {"grid": self.folder.path / f"grid{mark}.png"}
        paths |= {} if mark else {"interpolations": self.folder.path / "interpolations.png"}
        if rank() == 0:
            draw_grid(paths["grid"], network, self.model, self.classes, self.device)
            if not mark:
                draw_interpolations(paths["interpolations"], network, self.model, self.classes, self.device)
        return paths

    def _crop(self) -> dict[str, Any]:
        policy = train_policy(self.config.data)
        boxes = "truth" if policy.boxes == TRUTH else "layer"
        return {"crop": policy.crop, "margin": policy.margin, "min_score": policy.min_score, "boxes": boxes}

    def _of_class(self, indices: list[int]) -> list[int]:
        only, classes = self.config.only, self.manifest.classes
        if not only:
            return indices
        if only not in classes:
            raise UserError(f"only={only}: no such class{nearest(only, list(classes))}")
        found = [index for index in indices if classes[self.manifest.entries[index].label] == only]
        if not found:
            raise UserError(f"only={only}: has no images to train on or to measure against")
        return found

    def _collapse(self) -> str:
        with self.folder.metrics.open("rb") as stream:
            stream.seek(max(0, self.folder.metrics.stat().st_size - TAIL))
            lines = stream.read().splitlines()
        rows = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return collapsed(rows, min(self.config.train.collapse_steps, max(1, self.steps // 3)))


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
