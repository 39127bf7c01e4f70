"""fgvc ensemble: several trained classifiers as one, by the mean of their probabilities on images that all measured.

    fgvc ensemble members='[cub50_lite0_crops, cub50_lite0, cub50_vit_s14]'
    fgvc ensemble members='[runs/fold0/classify/cnn, runs/fold0/classify/vit]' split=val   of a held-out fold

Nothing is computed again: it reads the predictions in the run folders, of `fgvc classify` and `fgvc evaluate`. All
members count alike (deep ensembles, Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474), calibrated where
every one has a temperature, else as they are; the mean itself is not calibrated. Choose the members on runs that held
out a fold, split=val, and measure the same recipes, trained on all of train, once on the test split.
The run folder <runs_dir>/ensemble/<name>/ holds result.json, with the paired difference to every member, predictions,
confusion matrix and pictures.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.headline import Headline, calibration, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig

DEBUG = ["split=val"]  # no test split
ONE_TASK = True  # of a Slurm job
HEADLINE = Headline("top1", "top-1")


@dataclass
class Config:
    """Which runs, on which of the splits that they measured."""

    name: str = option("", "the run's folder name (empty: the config file's, or the members' names)", False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    members: list[str] = option([], "runs of fgvc classify or evaluate: their names or folders")
    split: str = option("test", "split that all of them measured; val: the fold that they held out")
    data: DataConfig = field(default_factory=DataConfig)  # shards; empty: as the first member's config says


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    if len(config.members) < 2:
        raise UserError(
            f"members: {len(config.members)} of them; an ensemble takes two or more: members='[RUN, OTHER]'"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("fgvc ensemble is one process; leave out --processes")
    if twice := [one for one in config.members if config.members.count(one) > 1]:
        raise UserError(f"members: {twice[0]} stands there twice; all members count alike")


def default_name(config: Config) -> str:
    """The name of a run that was given none, such as cnn+vit-test."""
    return f"{'+'.join(Path(member.rstrip('/')).name for member in config.members)}-{config.split}"


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    split, figures = next((key, value) for key, value in result.items() if isinstance(value, dict) and "top1" in value)
    lines = [
        f"{split}: top-1 {figures['top1']:.2%} of {figures['count']} images, top-5 {figures['top5']:.2%}, "
        f"{calibration(figures)}"
    ]
    for one in result["members"]:
        middle, low, high = (100 * one[key] for key in ("difference", "low", "high"))
        lines.append(
            f"  over {one['run']} ({one['top1']:.2%}): {middle:+.1f} [{low:+.1f}, {high:+.1f}] points, "
            f"p = {one['p_holm']:.2g}"
        )
    if not result["calibrated"]:
        lines.append("  of probabilities as they are: not every member has a temperature")
    lines.append(
        "  intervals over images, p corrected for the number of members (Holm); no spread between seeds is in them"
    )
    files = ("result.json", f"predictions_{split}.csv", "confused_pairs.png", "class_accuracy.png")
    return "\n".join([*lines, look_at(folder, *files)])
