"""fgvc synthesize: images by a trained generator, chosen, as shards that a classifier's run can read beside real ones.

    fgvc synthesize weights=runs/gan/NAME/model.safetensors data.shards=FOLDER per_class=100 out=data/NAME
    fgvc synthesize CONFIG classifier=runs/classify/NAME/model.safetensors min_confidence=0.5
    fgvc synthesize CONFIG truncation=0.7                       less varied, nearer to what is typical
    fgvc synthesize CONFIG --on CLUSTER nodes=2                 images are made in chunks, by any number of ranks
    fgvc synthesize CONFIG weights='runs/gan/NAME-*/model.safetensors'   generators of a class each (per_class=true)
    fgvc classify CONFIG synthetic.shards=data/NAME             then: train with them

data.shards are the real images that the generator was trained on. A candidate is dropped when it is a copy of one of
them, and with `classifier` when that is not sure enough of its class. The shards bear origin gan:<run> and say which
real images the generator and the classifier have seen: runs that hold any of these out refuse them. The same command
resumes after a kill and makes the same bytes. The run folder is <runs_dir>/synthesize/<name>/: result.json, sheet.png.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from fgvc.generation.config import MeasureConfig
from fgvc.runtime.config import TrackConfig
from jobs.headline import Headline, look_at
from shards.errors import UserError
from shards.options import option
from shards.paths import expand
from shards.reading.config import DataConfig

DEBUG = ["data.workers=0", "per_class=2", "track.wandb=disabled"]
HEADLINE = Headline("accepted", "accepted candidates", per_image=False)


@dataclass
class Config:
    """Everything that decides which images are made."""

    name: str = option("", "the run's folder name (empty: the config file's, or out's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of the latents")
    weights: str = option("", "a generator, the model.safetensors of fgvc gan; NAME-* for generators of a class each")
    out: str = option("", "folder for the shards", affects_result=False)
    per_class: Annotated[int, Gt(0)] = option(100, "images of every class")
    candidates: Annotated[float, Ge(1)] = option(
        2.0, "make so many times as many, and keep the first that are accepted"
    )
    truncation: Annotated[float, Ge(0)] = option(
        0.0, "no number of a latent farther from 0 than this (0: no limit); not of projected"
    )
    copies: bool = option(False, "keep copies of training images")
    classifier: str = option("", "weights of fgvc classify; what it does not take for its class is dropped")
    min_confidence: Annotated[float, Ge(0), Le(1)] = option(0.5, "its calibrated probability of the class, at least")
    quality: Annotated[int, Ge(50), Le(100)] = option(95, "of the JPEGs")
    data: DataConfig = field(default_factory=DataConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def check(config: Config) -> None:
    """Raise UserError for what is missing."""
    for key in ("weights", "out"):
        if not getattr(config, key):
            raise UserError(f"{key} is not set; see fgvc synthesize --help")


def default_name(config: Config) -> str:
    """The name of a run that was given none: that of the folder it makes."""
    return expand(config.out, "out").name or "synthesize"


def keep_in(config: Config, folder: Path) -> None:
    """With --on debug: leave nothing beside the run."""
    config.out = str(folder / "shards")


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    found = result["synthetic"]
    lines = [
        f"{found['count']} images in {result['out']}: accepted {found['accepted']:.1%} of the candidates that were "
        f"looked at, dropped {found['unsure']} as unsure and {found['copies']} as copies of training images"
    ]
    if short := found["too_few"]:
        some = ", ".join(f"{name} {count}" for name, count in list(short.items())[:5])
        lines.append(f"fewer than asked for of {len(short)} classes ({some}): raise candidates or lower min_confidence")
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {look_at(folder, 'result.json', 'sheet.png')}"])
