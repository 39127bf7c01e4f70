"""fgvc detect: train a detector (Faster R-CNN, RTMDet) on shards with boxes, and measure it once on the test split.

    fgvc detect configs/detect/field_guide.yaml                      here: one GPU, or the CPU
    fgvc detect configs/detect/cub200_r50.yaml --processes 4         here: 4 ranks (GPUs, or CPU processes)
    fgvc detect configs/detect/cub200_r50.yaml --on CLUSTER          the same as a Slurm job
    fgvc detect configs/detect/field_guide.yaml --on debug           20 steps on 64 images, nothing tracked
    fgvc detect CONFIG data.folds=3 data.fold=0 evaluate_test=false  train on two folds, measure the third
    fgvc detect CONFIG model.class_agnostic=true                     one class, 'object', for everything

The run folder is <runs_dir>/detect/<name>/. Started again after a kill, the same command goes on from the last
checkpoint; when the run is done it prints the result. To read: result.json (AP, AP50, AR as COCO defines them;
top_right: the share of images whose best box has IoU >= 0.5 with a true one), metrics.jsonl, best.png, worst.png,
missed.png, boxes_test.json (every box found), model.safetensors (weights, and all that is needed to build the detector
again).
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from fgvc.detection.config import DetectorConfig
from fgvc.runtime.config import TrackConfig
from fgvc.training.config import LoopConfig, OptimConfig
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig
from shards.reading.detection_config import BoxedImageConfig

if TYPE_CHECKING:
    from fgvc.detection.detector import Detections
    from fgvc.runtime.run_folder import RunFolder
    from fgvc.runtime.tracking import Tracker
    from fgvc.training.learner import Learner
    from shards.manifest import Manifest

DEBUG = ["data.workers=0", "data.limit=64", "train.max_steps=20", "track.wandb=disabled"]


@dataclass
class Config:
    """Everything a detection run depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of order, transforms, initial weights, sampled proposals")
    evaluate_test: bool = option(True, "measure the test split, once, at the end")
    held_out_epochs: Annotated[int, Ge(0)] = option(1, "measure the held-out fold this often (0: at the end)", False)
    data: DataConfig = field(default_factory=DataConfig)
    image: BoxedImageConfig = field(default_factory=BoxedImageConfig)
    model: DetectorConfig = field(default_factory=DetectorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def run(config: Config) -> dict[str, Any]:
    """Train, measure, export; returns what result.json holds. Raises UserError for a user's mistake."""
    from fgvc.runtime.device import seed_everything
    from fgvc.runtime.distributed import rank
    from fgvc.runtime.run_folder import finish, open_run
    from fgvc.training.strategies.create import create_accelerator
    from jobs.config import hashed, to_dict
    from jobs.tasks.data import file_hash, open_shards

    began = time.monotonic()
    _check(config)
    loop = config.train
    accelerator = create_accelerator(loop.precision, loop.deterministic, loop.strategy, loop.timeout_minutes)
    manifest = open_shards(config.data)
    inputs = {"shards": manifest.fingerprint, "weights": file_hash(config.model.weights, "model.weights")}
    if config.model.start:
        inputs["start"] = file_hash(config.model.start, "model.start")
    identity = hashed(config) | {f"inputs.{key}": value for key, value in inputs.items()}
    main = rank() == 0
    with open_run(config.runs_dir, "detect", config.name, to_dict(config), identity, main=main) as folder:
        if folder.result is not None:
            return folder.result
        seed_everything(config.seed, rank(), config.train.deterministic)
        figures = _Task(config, manifest, folder, accelerator).train_and_measure()
        return finish(folder, figures, inputs, time.monotonic() - began) if main else figures


def _check(config: Config) -> None:
    """Raise UserError for settings that no data could make right, before the run's folder is there."""
    for key, side in (("size", config.image.size), ("eval_size", config.image.eval_size)):
        if side % 32:
            raise UserError(f"image.{key}={side}: not a multiple of 32, the coarsest stride; try {side // 32 * 32}")
    if config.train.freeze_layers:
        raise UserError("train.freeze_layers: of classifiers only; a detector has model.frozen_stages")
    if config.train.strategy == "zero3":
        # It gathers weights in the order in which modules run, which for a detector depends on the images of a rank.
        raise UserError("train.strategy=zero3: not for detectors; take zero2 or fsdp")


class _Task:
    """One run, opened: what its steps share."""

    def __init__(self, config: Config, manifest: "Manifest", folder: "RunFolder", accelerator: Any) -> None:
        from fgvc.detection.detector import class_names
        from fgvc.detection.models import create_detector
        from jobs.tasks.data import loader_workers
        from shards.reading.splits import open_splits

        self.config, self.manifest, self.folder, self.accelerator = config, manifest, folder, accelerator
        splits = open_splits(manifest, config.data)
        if config.evaluate_test and not splits.test:
            raise UserError(f"{manifest.folder}: no split '{config.data.test_split}'; set evaluate_test=false")
        # An image without boxes was not annotated; that nothing is in it was not said.
        self.train = [member for member in splits.train if manifest.entries[member].boxes]
        if not self.train:
            raise UserError(f"{manifest.folder}: no boxes in split '{config.data.train_split}'; a detector needs some")
        self.left_out = len(splits.train) - len(self.train)
        self.measured = {"val": splits.held_out, "test": splits.test if config.evaluate_test else []}
        self.workers = loader_workers(config.data, accelerator.num_processes)
        self.classes = class_names(config.model, manifest)
        self.network = create_detector(config.model, len(self.classes))
        self.size = config.image.eval_size or config.image.size

    def train_and_measure(self) -> dict[str, Any]:
        from fgvc.detection.detector import Detector, objective
        from fgvc.runtime.distributed import broadcast_object, rank
        from fgvc.runtime.tracking import Tracker
        from fgvc.training.checkpoint import newest_sound, step_of
        from fgvc.training.learner import Learner
        from fgvc.training.schedule import Schedule
        from jobs.config import to_dict

        config = self.config
        schedule = Schedule.of(config.train, len(self.train))
        found = broadcast_object(newest_sound(self.folder.checkpoints) if rank() == 0 else None)
        tracker = Tracker(
            config.track, self.folder.path, "detect", config.name, to_dict(config),
            step=step_of(found) if found else 0, main=rank() == 0,
        )  # fmt: skip
        exit_code = 1
        try:
            learner = Learner(
                self.network, Detector(self.network, config.train.channels_last).to(self.accelerator.device),
                objective(self.accelerator.device), config.optim, config.train, self.accelerator, found,
            )  # fmt: skip
            self._fit(learner, schedule, tracker)
            figures = self._measure(learner, tracker)
            exit_code = 0
        finally:
            tracker.close(exit_code)
        return figures

    def _fit(self, learner: "Learner", schedule: Any, tracker: "Tracker") -> None:
        from fgvc.detection.metrics import summary
        from fgvc.runtime.distributed import rank, world_size
        from fgvc.training.loop import fit
        from shards.reading.detection import BoxedSamples, collate_boxed
        from shards.reading.loader import Place, train_loader

        config = self.config
        samples = BoxedSamples(
            self.manifest, config.data, config.image, config.seed, one_class=config.model.class_agnostic
        )
        batches = train_loader(
            self.manifest, self.train, samples, seed=config.seed, batch=config.train.batch, epochs=config.train.epochs,
            window=config.data.window, start_step=learner.step,
            place=Place(rank(), world_size(), config.train.accumulation), workers=self.workers, collate=collate_boxed,
        )  # fmt: skip

        def held_out() -> dict[str, float]:
            if learner.step // schedule.per_epoch % config.held_out_epochs:
                return {}
            found = self._detect(learner, self.measured["val"], "held out")
            figures = summary(self.manifest, found, self.classes, config.model.class_agnostic)
            return {f"val_{key}": figures[key] for key in ("AP", "AP50", "top_right")}

        watched = bool(self.measured["val"]) and config.held_out_epochs > 0
        fit(learner, batches, schedule, self.folder.path, tracker, held_out if watched else None)

    def _measure(self, learner: "Learner", tracker: "Tracker") -> dict[str, Any]:
        """Measure what was asked for, write weights, boxes and pictures; the figures of result.json."""
        from fgvc.detection.detector import save_detector
        from fgvc.detection.metrics import summary
        from fgvc.detection.pictures import save_pictures
        from fgvc.runtime.distributed import rank
        from fgvc.training.curves import Panel, plot_training_curves
        from shards.files import write_json

        config, folder, pictures = self.config, self.folder.path, {}
        figures: dict[str, Any] = {}
        rate = 0.0
        best = learner.best()
        if rank() == 0:
            save_detector(self.folder.weights, best, config.model, self.classes, self.size)
        for split, members in self.measured.items():
            if not members:
                continue
            began = time.perf_counter()
            found = self._detect(learner, members, split)
            rate = len(members) / (time.perf_counter() - began)
            figures[split] = summary(self.manifest, found, self.classes, config.model.class_agnostic)
            if rank() == 0:
                rows = {self.manifest.entries[index].key: one.rows() for index, one in found.items()}
                write_json(folder / f"boxes_{split}.json", rows)
                pictures = save_pictures(folder, self.manifest, found)
        if rank() == 0:
            panels = [Panel("loss", ["loss*"], log=True), Panel("share of 1", held_out=["AP50", "top_right"])]
            if plot_training_curves(folder / "training.png", self.folder.metrics, panels):
                pictures["training"] = folder / "training.png"
            tracker.pictures(learner.step, pictures)
            tracker.summary(
                {f"{split}/{key}": one[key] for split, one in figures.items() for key in ("AP50", "top_right")}
            )
        figures |= {"steps": learner.step, "train_count": len(self.train), "train_without_boxes": self.left_out}
        parameters = sum(one.numel() for one in self.network.parameters())
        return figures | {"parameters": parameters, "evaluation_images_per_second": round(rate, 1)}

    def _detect(self, learner: "Learner", members: list[int], title: str) -> dict[int, "Detections"]:
        from dataclasses import replace

        from fgvc.detection.detector import Detector, detect

        config, device = self.config, self.accelerator.device
        return detect(
            Detector(learner.best(), config.train.channels_last).to(device), self.manifest, members, config.data,
            replace(config.image, size=self.size, eval_size=0), device=device, precision=config.train.precision,
            workers=self.workers, title=title,
        )  # fmt: skip


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = [
        f"{split}: AP {one['AP']:.1%}, AP50 {one['AP50']:.1%}, AR {one['AR']:.1%}, top box right (IoU >= 0.5) on "
        f"{one['top_right']:.2%} of {one['count']} images, nothing found on {one['nothing']}"
        for split, one in result.items()
        if split in ("val", "test")
    ]
    if result["train_without_boxes"]:
        lines.append(f"{result['train_without_boxes']} training images without boxes were left out")
    files = "result.json, model.safetensors, metrics.jsonl, best.png, worst.png, missed.png, training.png"
    return "\n".join([*lines, f"{result['seconds']:.0f} s; look at {folder}: {files}"])
