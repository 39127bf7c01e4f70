"""fgvc classify: fine-tune any timm model on shards of images, and measure it once on the test split.

    fgvc classify configs/classify/field_guide.yaml                     here: one GPU, or the CPU
    fgvc classify configs/classify/field_guide.yaml --processes 4       here: 4 ranks (GPUs, or CPU processes)
    fgvc classify configs/classify/field_guide.yaml --on debug          20 steps on 64 images, a held-out fold, no test
    fgvc classify configs/classify/field_guide.yaml --on h100 nodes=2   on Slurm, 2 nodes (docs/slurm.md)
    fgvc classify CONFIG --estimate                                     the memory it takes, counted; runs nothing
    fgvc classify CONFIG optim.lr=0.02 train.epochs=20 name=longer      any setting as key=value
    fgvc classify CONFIG data.folds=5 data.fold=0 evaluate_test=false   choose settings by a held-out fold
    fgvc classify CONFIG data.holdout=0.1 train.keep=best train.patience=5      stop early, keep the best epoch

The run folder is <runs_dir>/classify/<name>/. Started again after a kill, the same command resumes from the last
checkpoint; when the run is done it prints the result. To read: result.json, metrics.jsonl, model.safetensors,
predictions_test.npz and the pictures.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvc.classification.config import TrainConfig
from fgvc.models.config import ModelConfig
from fgvc.robustness.config import DefenceConfig
from fgvc.runtime.config import TrackConfig
from fgvc.training.config import OptimConfig
from jobs.checks import check_choices, check_defence, check_lessons, check_mixing, check_networks_and_sizes
from jobs.headline import Headline, calibration, look_at, without_listed
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig, ImageConfig, SyntheticConfig

DEBUG = [
    "data.workers=0", "data.limit=64", "data.folds=5", "data.fold=0", "evaluate_test=false", "train.max_steps=20",
    "track.wandb=disabled",
]  # fmt: skip
HEADLINE = Headline("top1", "top-1")


@dataclass
class Config:
    """Everything a classification run depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of order, transforms, mixing, initial weights")
    evaluate_test: bool = option(True, "measure the test split, once, at the end")
    exclude: str = option(
        "", "file of keys or file names, one a line: figures without these images are given too", False
    )
    data: DataConfig = field(default_factory=DataConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    defence: DefenceConfig = field(default_factory=DefenceConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    check_mixing(config.train)
    check_choices(config.train, config.data)
    check_defence(config.defence, config.train)
    check_lessons(config.train, config.defence)
    check_networks_and_sizes(config.model, config.data, config.image, config.train, config.defence)
    if config.synthetic.shards and config.train.method == "probe":
        raise UserError("synthetic.shards: a probe reads every real image once; take another train.method")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = [
        f"{split}: top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%}, {calibration(figures)}, "
        f"{figures['count']} images{without_listed(figures)}"
        for split, figures in result.items()
        if split in ("val", "test")
    ]
    if networks := result.get("ensemble"):
        lines.append(f"an ensemble of {len(networks)} frozen networks under one head: {', '.join(networks)}")
    if (robust := result.get("defence", {}).get("val_robust")) is not None:
        lines.append(f"val: {robust:.2%} under PGD in training's last check; fgvc attack attacks in earnest")
    lines += [f"{back['reason']}: went back to step {back['step']}" for back in result.get("rewinds", [])]
    if kept := result.get("kept"):
        flattered = ", whose figures it flatters" if kept["chosen_on"] == "val" else ""
        lines.append(f"kept epoch {kept['epoch']} of {kept['of']}, the best on {kept['chosen_on']}{flattered}")
    crops = result.get("crops", {}).items()
    missing = {split: counts["without_box"] for split, counts in crops if counts["without_box"]}
    if missing:
        lines.append("kept whole for lack of a box: " + ", ".join(f"{split} {n}" for split, n in missing.items()))
    pictures = ("training.png", "confused_pairs.png", "class_accuracy.png")
    files = look_at(folder, "result.json", "model.safetensors", "metrics.jsonl", *pictures)
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {files}"])
