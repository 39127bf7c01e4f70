"""fgvc crop: find the object in every image of a set of shards, and write a boxes layer to crop by.

    fgvc crop configs/crop/cub200.yaml                               train the detectors, find every object, measure
    fgvc crop configs/crop/cub200.yaml --on CLUSTER gpus_per_node=4  as a Slurm job; every detector trained on four GPUs
    fgvc crop configs/crop/field_guide.yaml --on debug               20 steps a detector, 64 images
    fgvc crop CONFIG set.train.epochs=4 folds=5 name=longer          `set` goes to every detector run
    fgvc crop CONFIG slice=512 name=sliced                           small objects in large images, through SAHI
    fgvc crop CONFIG trained=runs/detect/NAME                        the detector on all of train is there already
    fgvc crop CONFIG evaluate_test=true                              measure the boxes of the test split too
    fgvc crop detector=FILE data.shards=FOLDER                       no true boxes: a detector trained elsewhere
    fgvc crop data.shards=FOLDER detectors='[f0.safetensors, f1.safetensors, f2.safetensors, all.safetensors]'
    fgvc classify CONFIG data.crop=square data.boxes=FILE            then: classify what was found

Training images get out-of-fold boxes: each fold's from a detector trained on the other folds, so that training crops
are as good and as bad as test crops. All other images get theirs from a detector trained on the whole training split.
Each detector is a `fgvc detect` run of its own in <runs_dir>/crop/<name>/detect/: what is done is skipped, so the same
command resumes after a kill. The run folder <runs_dir>/crop/<name>/ holds boxes.jsonl (the layer; a copy lies beside
the shards), result.json (how good the boxes are, where true boxes are known), boxes.png and crops.png.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from fgvc.detection.layer_report import describe_layer, warnings
from fgvc.runtime.config import TrackConfig
from jobs.debug import MARK
from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig, Score

DEBUG = [
    "data.workers=0", "data.limit=64", "folds=2", "set.train.max_steps=20", "set.train.batch=8", "track.wandb=disabled",
]  # fmt: skip
HEADLINE = Headline("right", "top box right", within="boxes")


@dataclass
class Config:
    """Everything a boxes layer depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of the detectors")
    evaluate_test: bool = option(False, "compare the test split's boxes with its true ones too", affects_result=False)
    detect: str = option("", "config of fgvc detect, a YAML file, for the detectors", affects_result=False)
    set: dict = option({}, "settings of every detector run, such as {train.epochs: 8}", affects_result=False)
    trained: str = option(
        "", "folder of a finished fgvc detect run, of the same settings on all of train, not to train it again", False
    )
    folds: Annotated[int, Ge(2)] = option(3, "training images are split into so many folds, a detector for each")
    detector: str = option("", "instead of training: weights of one detector for all images", affects_result=False)
    detectors: list[str] = option(
        [],
        "instead of training: weights of a detector a fold, in order, and of one for all other images",
        False,
    )
    min_score: Score = option(0.05, "keep boxes from this score on")
    slice: Annotated[int, Ge(0)] = option(
        0, "for small objects in large images: look in slices of so many pixels and at the whole (0: only at the whole)"
    )
    slice_overlap: Annotated[float, Ge(0), Lt(1)] = option(0.2, "share of a slice that the next one repeats")
    layer: str = option("", "file to write (empty: boxes-<name>.jsonl beside the shards)", affects_result=False)
    processes: Annotated[int, Gt(0)] = option(1, "ranks of every detector run", affects_result=False)
    data: DataConfig = field(default_factory=DataConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


ONE_TASK = True  # of a Slurm job; its detectors get the ranks


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    if sum(map(bool, (config.detect, config.detector, config.detectors))) != 1:
        raise UserError(
            "give one of detect=CONFIG, to train the detectors, detector=FILE, one for all images, or "
            "detectors=[FILE, ...], one a fold"
        )
    if config.trained and not config.detect:
        raise UserError("trained: goes with detect=CONFIG; with detector= or detectors= nothing is trained")
    if config.detectors and len(config.detectors) != config.folds + 1:
        raise UserError(
            f"detectors: {len(config.detectors)} files for folds={config.folds}; it takes {config.folds + 1}: one a "
            "fold in order, and one that was trained on all of train"
        )
    if config.data.folds:
        raise UserError("data.folds: the folds of fgvc crop are set by folds=")
    for name in ("holdout", "per_class", "imbalance"):
        if getattr(config.data, name) != getattr(DataConfig(), name):
            raise UserError(f"data.{name}: detectors of fgvc crop are trained on whole folds; leave it out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("fgvc crop is one process, which gives ranks to the detectors it trains: processes=N")


def keep_in(config: Config, folder: Path) -> None:
    """With --on debug: leave nothing beside the shards."""
    config.layer = config.layer or str(folder / "boxes.jsonl")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = describe_layer(result["boxes"], result.get("unmeasured", ""))
    if (folder / MARK).is_file():
        lines.append("a debug run: detectors of a few steps find next to nothing, and their boxes are of no use")
    else:
        lines += [f"warning: {line}" for line in warnings(result["boxes"])]
    layer = f"data.boxes={result['layer']}"
    files = look_at(folder, "result.json", "boxes.png", "crops.png")
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {layer}; {files}"])
