"""fgvc evaluate: a trained classifier on a split of any shards with the same classes.

    fgvc evaluate weights=RUN data.shards=FOLDER
    fgvc evaluate weights=RUN data.shards=FOLDER split=train seen=true
    fgvc evaluate weights=... data.shards=FOLDER split=held_out data.folds=5 data.fold=0 size=256 flip=true
    fgvc evaluate weights=... data.shards=FOLDER data.boxes=FILE           weights that were trained on crops
    fgvc evaluate CONFIG --on debug

The weights file says itself which model, image size, crop and statistics it was trained with, and on which images: to
measure these is refused without seen=true, and marked with it. The run folder
<runs_dir>/evaluate/<name>/ holds result.json (top-1, top-5, per class, calibration), predictions.npz and .csv,
confusion.csv, pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from jobs.headline import Headline, calibration, look_at, without_listed
from jobs.measured import MeasureConfig, check_weights, name_after_weights
from shards.options import option

DEBUG = ["data.workers=0", "data.limit=64", "split=train", "seen=true"]  # no test split
HEADLINE = Headline("top1", "top-1")


@dataclass
class Config(MeasureConfig):
    """What is measured, on what."""

    size: Annotated[int, Ge(0)] = option(0, "side of the input in pixels (0: as the weights file says)")
    eval_crop: Annotated[float, Ge(0), Le(1)] = option(0.0, "centre crop by resized short side (0: as the file says)")
    flip: bool | None = option(None, "average with the mirror image (null: as the file says)")
    crops: Literal[1, 5] | None = option(None, "average with the image's four corners (null: as the file says)")
    exclude: str = option(
        "", "file of keys or file names, one a line: figures without these images are given too", False
    )
    batch: Annotated[int, Gt(0)] = option(64, "images at a time on every rank", affects_result=False)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the forward pass")


check = check_weights


def default_name(config: Config) -> str:
    """The name of a run that was given none, such as cub200_resnet50-test."""
    return name_after_weights(config, "evaluate")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, figures = next((key, value) for key, value in result.items() if isinstance(value, dict) and "top1" in value)
    worst = sorted(figures["per_class"].items(), key=lambda pair: pair[1])[:3]
    lines = [
        f"{split}: top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%}, mean over classes "
        f"{figures['class_mean']:.2%}, {calibration(figures)}, {figures['count']} images{without_listed(figures)}; "
        "weakest: " + ", ".join(f"{name} {value:.0%}" for name, value in worst)
    ]
    if result.get("seen"):
        lines.append(
            f"SEEN IN TRAINING: {result['seen_images']} of these {figures['count']} images; the figures above say "
            "nothing about new images"
        )
    elif result.get("seen", False) is None:
        lines.append("whether these images were in the weights' training data is not recorded in the weights file")
    files = ("result.json", "predictions.csv", "confused_pairs.png", "class_accuracy.png")
    return "\n".join([*lines, look_at(folder, *files)])
