"""fgvc evaluate: a trained classifier on a split of any shards with the same classes.

    fgvc evaluate weights=runs/classify/NAME/model.safetensors data.shards=FOLDER
    fgvc evaluate weights=runs/classify/NAME/model.safetensors data.shards=FOLDER split=train name=on_train
    fgvc evaluate weights=... data.shards=FOLDER split=held_out data.folds=5 data.fold=0 size=256 flip=true
    fgvc evaluate weights=... data.shards=FOLDER data.boxes=FILE           weights that were trained on crops
    fgvc evaluate CONFIG --on debug

The weights file says itself which model, image size, crop and statistics it was trained with. The run folder
<runs_dir>/evaluate/<name>/ holds result.json (top-1, top-5, per class, ECE, confused pairs), predictions.npz, pictures.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig

DEBUG = ["data.workers=0", "data.limit=64"]
HEADLINE = Headline("top1", "top-1")


@dataclass
class Config:
    """What is measured, on what."""

    name: str = option("", "the run's folder name (empty: the config file's, or 'evaluate')", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    weights: str = option("", "a model.safetensors that fgvc classify wrote")
    split: str = option("test", "split to measure; held_out: the fold of train that data.folds and data.fold name")
    size: Annotated[int, Ge(0)] = option(0, "side of the input in pixels (0: as the weights file says)")
    eval_crop: Annotated[float, Ge(0), Le(1)] = option(0.0, "centre crop by resized short side (0: as the file says)")
    flip: bool | None = option(None, "average with the mirror image (null: as the file says)")
    batch: Annotated[int, Gt(0)] = option(64, "images at a time on every rank", affects_result=False)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the forward pass")
    data: DataConfig = field(default_factory=DataConfig)


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    if not config.weights:
        raise UserError("weights is not set; give a model.safetensors that fgvc classify wrote: weights=FILE")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, one = next((key, value) for key, value in result.items() if isinstance(value, dict) and "top1" in value)
    worst = sorted(one["per_class"].items(), key=lambda pair: pair[1])[:3]
    return (
        f"{split}: top-1 {one['top1']:.2%}, top-5 {one['top5']:.2%}, mean over classes {one['class_mean']:.2%}, "
        f"ECE {one['ece']:.3f}, {one['count']} images; weakest: "
        + ", ".join(f"{name} {value:.0%}" for name, value in worst)
        + "\n"
        + look_at(folder, "result.json", "predictions.npz", "confused_pairs.png", "class_accuracy.png")
    )
