"""fgvc audit: what is wrong with a data set before anything is trained on it.

    fgvc audit data/cub200                                                  duplicates, labels, imbalance, boxes
    fgvc audit data/cub200 model.name=resnet50 model.weights=FILE size=224  with another network's features
    fgvc audit data/cub200 near=0.85 doubt=10                               more candidates, more of them innocent
    fgvc shards build SOURCE ROOT OUT corrections=runs/audit/cub200/corrections.csv      then, once you have looked
    fgvc audit data.shards=FOLDER --on CLUSTER                              as a Slurm job

The run folder <runs_dir>/audit/<name>/ holds index.html (what was found, with pictures), corrections.csv, findings.json
and result.json. In corrections.csv exact copies are dropped; all that is uncertain stands as `keep` beside what is
suggested: look at it, write drop or relabel where you agree, and build the shards with it. Nothing is trained on the
test split, but its labels are read: correct it before anything is measured on it, never after.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from fgvc.models.config import ModelConfig
from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig

DEBUG = ["data.workers=0", "data.limit=64"]
HEADLINE = Headline("top1", "agreement with the labels", per_image=False)
FOLDER = "data.shards"


@dataclass
class Features(ModelConfig):
    """Which network looks at the pictures."""

    name: str = option("tf_efficientnet_lite0", "timm model name, with one linear layer as its classifier")


@dataclass
class Config:
    """Which shards, and how much doubt is worth a look."""

    name: str = option("", "the run's folder name (empty: the shards' folder)", False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    data: DataConfig = field(default_factory=DataConfig)
    model: Features = field(default_factory=Features)
    size: Annotated[int, Ge(0)] = option(0, "side of the network's input in pixels (0: its own)")
    near: Annotated[float, Gt(0), Le(1)] = option(0.93, "least correlation of near duplicates, of small grey copies")
    doubt: Annotated[float, Ge(1)] = option(
        50.0, "doubtful labels: another class is, out of fold, at least so many times as probable"
    )
    penalty: Annotated[float, Gt(0)] = option(0.2, "L2 penalty of the probe that doubts the labels")
    pictures: Annotated[int, Ge(0)] = option(60, "findings of each kind that index.html shows", False)
    batch: Annotated[int, Gt(0)] = option(64, "images at a time on every rank", affects_result=False)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "of the features")


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    if not config.data.shards:
        raise UserError("which shards? fgvc audit SHARDS")
    if config.model.covariance:
        raise UserError("model.covariance: for a probe of fgvc classify, which fits it to the images; leave it out")


def default_name(config: Config) -> str:
    """The name of a run that was given none: the shards' folder."""
    return Path(config.data.shards.rstrip("/")).resolve().name or "audit"


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    found = result["all"]
    share = f", {found['top1']:.1%} of labels as a probe has them, out of fold" if "top1" in found else ""
    lines = [
        f"{found['images']} images: {found['exact']} exact and {found['near']} near duplicates "
        f"({found['across']} of them across splits), {found['doubtful']} doubtful labels, {found['boxes']} odd boxes"
        f"{share}",
        *found["notes"],
    ]
    return "\n".join([*lines, look_at(folder, "index.html", "corrections.csv", "findings.json")])
