"""fgvc gan: train a generator of images like those in shards, on few images, and measure what it makes.

    fgvc gan configs/gan/field_guide.yaml                       here: one GPU, or the CPU
    fgvc gan configs/gan/field_guide.yaml --processes 4         here: 4 ranks (GPUs, or CPU processes)
    fgvc gan configs/gan/field_guide.yaml --on CLUSTER          the same as a Slurm job
    fgvc gan configs/gan/field_guide.yaml --on debug            20 steps on 64 images
    fgvc gan CONFIG data.crop=square model.size=128             objects cut out by their boxes
    fgvc gan CONFIG --estimate                                  the memory it takes, counted; trains nothing
    fgvc gan CONFIG per_class=true --on CLUSTER                 a small generator a class, as an array of jobs
    fgvc gan CONFIG data.folds=5 data.fold=0                    hold a fold out, and measure against it (sweeps do)
    fgvc synthesize CONFIG weights=runs/gan/NAME/model.safetensors       then: images, as shards

The run folder is <runs_dir>/gan/<name>/. Started again after a kill, the same command resumes from the last checkpoint.
To read: result.json (Frechet distance, KID, precision, recall, copies of training images; `floor` is the distance
between two halves of the real images, which `frechet_half` compares with), grid.png, interpolations.png, nearest.png,
training.png, metrics.jsonl, model.safetensors (the generator, and all that fgvc synthesize needs).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvc.generation.config import GanImageConfig, GanModelConfig, GanOptimConfig, GanTrainConfig, MeasureConfig
from fgvc.runtime.config import TrackConfig
from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.reading.config import DataConfig

DEBUG = [
    "data.workers=0", "data.limit=64", "train.max_steps=20", "measure.images=32", "track.wandb=disabled",
    "train.collapse_steps=0",
]  # fmt: skip
HEADLINE = Headline("frechet", "FD", goal="minimize", form="{:.1f}", per_image=False)


@dataclass
class Config:
    """Everything a GAN's run depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of order, transforms, latents, initial weights")
    evaluate_test: bool = option(False, "measure against the test split too, once, at the end")
    per_class: bool = option(False, "a run for every class, each of that class alone", affects_result=False)
    only: str = option("", "train on images of this class alone")
    data: DataConfig = field(default_factory=DataConfig)
    image: GanImageConfig = field(default_factory=GanImageConfig)
    model: GanModelConfig = field(default_factory=GanModelConfig)
    generator: GanOptimConfig = field(default_factory=GanOptimConfig)
    discriminator: GanOptimConfig = field(default_factory=GanOptimConfig)
    train: GanTrainConfig = field(default_factory=GanTrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def check(config: Config) -> None:
    """Raise UserError for settings that no data could make right."""
    if len(config.model.mean) != 3 or len(config.model.std) != 3 or min(config.model.std) <= 0:
        raise UserError("model.mean, model.std: three numbers each, for red, green and blue; std above 0")
    train = config.train
    if train.grad_checkpointing:
        raise UserError("train.grad_checkpointing=true: the networks of GANs have none; set it to false")
    if train.unconditional_epochs + train.ramp_epochs > train.epochs:
        raise UserError(
            f"train.unconditional_epochs={train.unconditional_epochs:g} and train.ramp_epochs={train.ramp_epochs:g} "
            f"are more than train.epochs={train.epochs}: classes would never be known"
        )
    if config.data.crop.startswith("whole+"):
        raise UserError(f"data.crop={config.data.crop}: one view of an image; take whole, box or square")


def parts(config: Config) -> list[list[str]]:
    """With per_class, the words of every class's run. Raises UserError where the shards are not there yet."""
    if not config.per_class or config.only:
        return []
    if not config.data.shards:
        raise UserError("data.shards is not set")
    from shards.remote import open_manifest  # loads what speaks with servers

    classes = open_manifest(config.data.shards, "data.shards", config.data.cache).classes
    names = [re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40] for name in classes]
    return [
        [f"only={name}", f"name={config.name}-{number:03d}-{short}"]
        for number, (name, short) in enumerate(zip(classes, names, strict=True))
    ]


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = [
        f"{split}: {found['title']} {found['frechet']:.1f}"
        + (
            f" (of half as many images {found['frechet_half']:.1f}; between two halves of the real ones "
            f"{found['floor']:.1f})"
            if "floor" in found
            else ""
        )
        + f", KID {found['kid']:.4f}, precision {found['precision']:.2f}, recall {found['recall']:.2f}"
        + (f", copies of training images {found['memorised']:.1%}" if "memorised" in found else "")
        + f"; {found['count']} images"
        for split, found in result.items() if split in ("train", "val", "test")
    ]  # fmt: skip
    files = look_at(folder, "result.json", "grid.png", "interpolations.png", "nearest.png", "training.png")
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {files}"])
