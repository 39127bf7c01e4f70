"""fgvc classify: fine-tune any timm model on shards of images, and measure it once on the test split.

    fgvc classify configs/classify/field_guide.yaml                     here: one GPU, or the CPU
    fgvc classify configs/classify/field_guide.yaml --processes 4       here: 4 ranks (GPUs, or CPU processes)
    fgvc classify configs/classify/field_guide.yaml --on debug          20 steps on 64 images, nothing tracked
    fgvc classify configs/classify/field_guide.yaml --on h100 nodes=2   on Slurm, 2 nodes (docs/slurm.md)
    fgvc classify CONFIG optim.lr=0.02 train.epochs=20 name=longer      any setting as key=value
    fgvc classify CONFIG data.folds=5 data.fold=0 evaluate_test=false   choose settings by a held-out fold

The run folder is <runs_dir>/classify/<name>/. Started again after a kill, the same command goes on from the last
checkpoint; when the run is done it prints the result. To read: result.json, metrics.jsonl, model.safetensors,
predictions_test.npz and the pictures.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvc.classification.config import TrainConfig
from fgvc.models.config import ModelConfig
from fgvc.runtime.config import TrackConfig
from fgvc.training.config import OptimConfig
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig, ImageConfig

if TYPE_CHECKING:
    import torch

    from fgvc.runtime.run_folder import RunFolder
    from fgvc.runtime.tracking import Tracker
    from fgvc.training.learner import Learner
    from shards.manifest import Manifest
    from shards.reading.splits import Splits

DEBUG = ["data.workers=0", "data.limit=64", "train.max_steps=20", "track.wandb=disabled"]


@dataclass
class Config:
    """Everything a classification run depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of order, transforms, mixing, initial weights")
    evaluate_test: bool = option(True, "measure the test split, once, at the end")
    data: DataConfig = field(default_factory=DataConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def run(config: Config) -> dict[str, Any]:
    """Train, evaluate, export; returns what result.json holds. Raises UserError for a user's mistake."""
    from fgvc.runtime.device import seed_everything
    from fgvc.runtime.distributed import rank
    from fgvc.runtime.run_folder import open_run
    from fgvc.training.strategies.create import create_accelerator
    from jobs.config import hashed, to_dict
    from jobs.tasks.data import boxes_hashes, file_hash, open_shards

    began = time.monotonic()
    loop = config.train
    accelerator = create_accelerator(loop.precision, loop.deterministic, loop.strategy, loop.timeout_minutes)
    manifest = open_shards(config.data)
    inputs = {"shards": manifest.fingerprint, "weights": file_hash(config.model.weights, "model.weights")}
    inputs |= boxes_hashes(config.data)
    identity = hashed(config) | {f"inputs.{key}": value for key, value in inputs.items()}
    main = rank() == 0
    with open_run(config.runs_dir, "classify", config.name, to_dict(config), identity, main=main) as folder:
        if folder.result is not None:
            return folder.result
        seed_everything(config.seed, rank(), config.train.deterministic)
        task = _Task(config, manifest, folder, accelerator)
        figures = task.train_and_measure()
        if not main:
            return figures
        from fgvc.runtime.run_folder import finish

        return finish(folder, figures, inputs, time.monotonic() - began)


class _Task:
    """One run, opened: what its steps share."""

    def __init__(self, config: Config, manifest: "Manifest", folder: "RunFolder", accelerator: Any) -> None:
        from fgvc.classification.evaluation import image_sizes
        from fgvc.models.timm import create_model, input_size, input_statistics
        from jobs.tasks.data import loader_workers
        from shards.reading.splits import open_splits
        from shards.reading.views import open_crops

        self.config, self.manifest, self.folder, self.accelerator = config, manifest, folder, accelerator
        self.splits: Splits = open_splits(manifest, config.data)
        if config.evaluate_test and not self.splits.test:
            raise UserError(f"{manifest.folder}: no split '{config.data.test_split}'; set evaluate_test=false")
        self.crops = open_crops(manifest, self.splits, config.data)
        self.workers = loader_workers(config.data, accelerator.num_processes)
        self.network = create_model(config.model, len(manifest.classes))
        self.size, self.eval_size = image_sizes(config.image, input_size(self.network))
        self.mean, self.std = input_statistics(self.network, config.model)

    def train_and_measure(self) -> dict[str, Any]:
        from fgvc.classification.objective import classification
        from fgvc.runtime.distributed import broadcast_object, rank
        from fgvc.runtime.tracking import Tracker
        from fgvc.training.checkpoint import newest_sound, step_of
        from fgvc.training.learner import Learner
        from fgvc.training.schedule import Schedule
        from jobs.config import to_dict

        config = self.config
        schedule = Schedule.of(config.train, len(self.splits.train))
        found = broadcast_object(newest_sound(self.folder.checkpoints) if rank() == 0 else None)
        tracker = Tracker(
            config.track, self.folder.path, "classify", config.name, to_dict(config),
            step=step_of(found) if found else 0, main=rank() == 0,
        )  # fmt: skip
        exit_code = 1
        try:
            if found is None and (config.train.method == "probe" or config.train.head_start == "probe"):
                self._probe()
            objective = classification(len(self.manifest.classes), config.train, config.seed, self.accelerator.device)
            learner = Learner(
                self.network, self._normalised(self.network), objective, config.optim, config.train, self.accelerator,
                found,
            )  # fmt: skip
            if config.train.method == "finetune":
                self._fit(learner, schedule, tracker)
            figures = self._measure(learner, tracker)
            exit_code = 0
        finally:
            tracker.close(exit_code)
        return figures

    def _fit(self, learner: "Learner", schedule: Any, tracker: "Tracker") -> None:
        from fgvc.runtime.distributed import rank, world_size
        from fgvc.training.loop import fit
        from shards.reading.loader import Place, Samples, train_loader
        from shards.reading.transforms import train_transform

        config = self.config
        transform = train_transform(config.image, self.size)
        samples = Samples(self.manifest, transform, self.crops.train, cache=config.data.cache, seed=config.seed)
        batches = train_loader(
            self.manifest, self.splits.train, samples, seed=config.seed, batch=config.train.batch,
            epochs=config.train.epochs, window=config.data.window, start_step=learner.step,
            place=Place(rank(), world_size(), config.train.accumulation), workers=self.workers,
        )  # fmt: skip

        def held_out() -> dict[str, float]:
            predictions = self._predict(self._normalised(learner.best()), self.splits.held_out, "held out")
            return {"val_top1": float(predictions.correct.mean())}

        fit(learner, batches, schedule, self.folder.path, tracker, held_out if self.splits.held_out else None)

    def _probe(self) -> None:
        """Put a probe's head on the network: features of the training images are computed once, then solved for."""
        import torch

        from fgvc.classification.evaluation import split_loader
        from fgvc.classification.probe import features_of, fit_probe, set_head

        config, device = self.config, self.accelerator.device
        model = self._normalised(self.network)
        found = []
        for view in self.crops.train:
            loader = split_loader(
                self.manifest, self.splits.train, config.data, config.image, self.eval_size, view, 64, self.workers
            )
            found.append(features_of(
                model, self.network, loader, device, precision=config.train.precision, expected=len(self.splits.train)
            ))  # fmt: skip
        features, labels = (torch.cat(column) for column in zip(*found, strict=True))
        set_head(self.network, *fit_probe(features, labels, len(self.manifest.classes), config.train.probe_penalty))

    def _measure(self, learner: "Learner", tracker: "Tracker") -> dict[str, Any]:
        """Evaluate what was asked for, write weights, predictions and pictures; the figures of result.json."""
        from fgvc.classification.evaluation import about
        from fgvc.classification.metrics import summary
        from fgvc.classification.pictures import save_pictures
        from fgvc.models.export import export
        from fgvc.runtime.distributed import rank
        from fgvc.training.curves import Panel, plot_training_curves

        config, pictures = self.config, {}
        figures: dict[str, Any] = {}
        evaluation_rate = 0.0
        wanted = {"val": self.splits.held_out, "test": self.splits.test if config.evaluate_test else []}
        best = learner.best()
        model = self._normalised(best)
        if rank() == 0:
            record = {
                "name": config.model.name,
                "kwargs": config.model.kwargs,
                "caffe_stride": config.model.caffe_stride,
            }
            facts = about(self.manifest, record, config.image, config.data, self.mean, self.std, self.eval_size)
            export(self.folder.weights, best.state_dict(), facts)
        for split, members in wanted.items():
            if not members:
                continue
            began = time.perf_counter()
            predictions = self._predict(model, members, split)
            evaluation_rate = len(members) / (time.perf_counter() - began)
            figures[split] = summary(predictions, self.manifest.classes)
            if rank() == 0:
                predictions.save(self.folder.path / f"predictions_{split}.npz")
                pictures = save_pictures(self.folder.path, self.manifest, predictions)
        if rank() == 0:
            panels = [Panel("loss", ["loss"]), Panel("top-1", ["top1"], ["top1"])]
            if plot_training_curves(self.folder.path / "training.png", self.folder.metrics, panels):
                pictures["training"] = self.folder.path / "training.png"
            tracker.pictures(learner.step, {name: path for name, path in pictures.items() if path.is_file()})
            tracker.summary({f"{split}/top1": one["top1"] for split, one in figures.items()})
        parameters = sum(one.numel() for one in self.network.parameters())
        figures |= {"steps": learner.step, "train_count": len(self.splits.train), "parameters": parameters}
        if self.crops.counts:
            figures["crops"] = self.crops.counts
        return figures | {"evaluation_images_per_second": round(evaluation_rate, 1)}

    def _normalised(self, network: "torch.nn.Module") -> "torch.nn.Module":
        """`network` as a model of uint8 images on this rank's device."""
        from fgvc.models.normalised import Normalised

        return Normalised(network, self.mean, self.std, self.config.train.channels_last).to(self.accelerator.device)

    def _predict(self, model: "torch.nn.Module", members: list[int], title: str) -> Any:
        from fgvc.classification.evaluation import evaluate_split

        return evaluate_split(
            model, self.manifest, members, self.config.data, self.config.image, self.eval_size,
            views=self.crops.test, device=self.accelerator.device, precision=self.config.train.precision,
            workers=self.workers, title=title,
        )  # fmt: skip


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = [
        f"{split}: top-1 {one['top1']:.2%}, top-5 {one['top5']:.2%}, ECE {one['ece']:.3f}, {one['count']} images"
        for split, one in result.items()
        if split in ("val", "test")
    ]
    missing = {split: one["without_box"] for split, one in result.get("crops", {}).items() if one["without_box"]}
    if missing:
        lines.append("kept whole for want of a box: " + ", ".join(f"{split} {n}" for split, n in missing.items()))
    files = "result.json, model.safetensors, metrics.jsonl, training.png, confused_pairs.png, class_accuracy.png"
    return "\n".join([*lines, f"{result['seconds']:.0f} s; look at {folder}: {files}"])
