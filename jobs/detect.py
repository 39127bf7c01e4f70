"""fgvc detect: train a detector (Faster R-CNN, RTMDet) on shards with boxes, and measure it once on the test split.

    fgvc detect configs/detect/field_guide.yaml                      here: one GPU, or the CPU
    fgvc detect configs/detect/cub200_r50.yaml --processes 4         here: 4 ranks (GPUs, or CPU processes)
    fgvc detect configs/detect/cub200_r50.yaml --on CLUSTER          the same as a Slurm job
    fgvc detect configs/detect/field_guide.yaml --on debug           20 steps on 64 images, a held-out fold, no test
    fgvc detect CONFIG --estimate                                    the memory it takes, counted; trains nothing
    fgvc detect CONFIG data.folds=3 data.fold=0 evaluate_test=false  train on two folds, measure the third
    fgvc detect CONFIG model.class_agnostic=true                     one class, 'object', for everything

The run folder is <runs_dir>/detect/<name>/. Started again after a kill, the same command resumes from the last
checkpoint; when the run is done it prints the result. To read: result.json (AP, AP50, AR as COCO defines them;
top_right: the share of images whose best box has IoU >= 0.5 with a true one), metrics.jsonl, best.png, worst.png,
missed.png, boxes_test.json (every box found), model.safetensors (weights, and all that is needed to build the detector
again).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from fgvc.detection.config import DetectorConfig
from fgvc.runtime.config import TrackConfig
from fgvc.training.config import LoopConfig, OptimConfig
from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig
from shards.reading.detection_config import BoxedImageConfig

DEBUG = [
    "data.workers=0", "data.limit=64", "data.folds=5", "data.fold=0", "evaluate_test=false", "train.max_steps=20",
    "track.wandb=disabled",
]  # fmt: skip
HEADLINE = Headline("top_right", "top box right")


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


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    for key, side in (("size", config.image.size), ("eval_size", config.image.eval_size)):
        if side % 32:
            raise UserError(f"image.{key}={side}: not a multiple of 32, the coarsest stride; try {side // 32 * 32}")
    if config.train.freeze_layers:
        raise UserError("train.freeze_layers: for classifiers only; a detector has model.frozen_stages")
    if config.optim.layer_decay != 1:
        raise UserError("optim.layer_decay: for classifiers only; a detector's layers share one rate, remove it")
    if config.train.strategy == "zero3":
        # It gathers weights in the order in which modules run, which for a detector depends on the images of a rank.
        raise UserError("train.strategy=zero3: not for detectors; take zero2 or fsdp")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = []
    for split, figures in result.items():
        if split not in ("val", "test"):
            continue
        if "AP" not in figures:
            lines.append(f"{split}: no true boxes on {figures['without_truth']} images: quality unknown")
            continue
        lines.append(
            f"{split}: AP {figures['AP']:.1%}, AP50 {figures['AP50']:.1%}, AR {figures['AR']:.1%}, top box right "
            f"(IoU >= 0.5) on {figures['top_right']:.2%} of {figures['count']} images, nothing found on "
            f"{figures['nothing']}"
        )
    if result["train_without_boxes"]:
        lines.append(f"{result['train_without_boxes']} training images without boxes were left out")
    pictures = ("best.png", "worst.png", "missed.png", "training.png")
    files = look_at(folder, "result.json", "model.safetensors", "metrics.jsonl", *pictures)
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {files}"])
