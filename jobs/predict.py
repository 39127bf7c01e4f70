"""fgvc predict: what a trained classifier says of pictures, in the words of a run's classes.

    fgvc predict bird.jpg --run cub50_lite0                          a run's name, its folder or a model.safetensors
    fgvc predict photos/ more.png --run RUN                          folders with all below them
    fgvc predict - --run RUN < bird.jpg                              one picture from standard input
    fgvc predict photos/ --run RUN format=csv out=answers.csv
    fgvc predict photos/ --run RUN pictures=seen/                    the pictures, and what the answers rest on
    fgvc predict photos/ --run RUN detector=cub50_lite0              a classifier of crops: boxes by fgvc detect
    fgvc predict bird.jpg --run RUN 'box=[12, 8, 190, 177]'          or yours, in pixels of the upright picture

A line a picture, in order: JSON, or CSV. The logits are those of fgvc evaluate, probabilities calibrated where the run
is. A picture that cannot be read has a line that says why, the others follow; the exit code is then 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len

from fgvc.explanation.config import BASELINES, METHODS
from fgvc.use.find import find_weights
from jobs.config import describe, load, nearest
from jobs.registry import task_module
from jobs.words import Parser
from shards.errors import UserError
from shards.options import option


@dataclass
class Config:
    """How pictures are looked at, and what is said of them."""

    top: Annotated[int, Gt(0)] = option(5, "so many of the most probable classes")
    format: Literal["jsonl", "csv"] = option("jsonl", "a JSON object a line | CSV, safe to open in a spreadsheet")
    out: str = option("", "file to write to (empty: standard output)")
    logits: bool = option(False, "jsonl: the logits of all classes too")
    pictures: str = option("", "folder for NAME-seen.jpg of each: its box, what the answer rests on (empty: none)")
    method: str = option("", "of these pictures, as fgvc explain names them (empty: layercam where it applies)")
    box: Annotated[list[float], Len(0, 4)] = option(
        [], "x0, y0, x1, y1 to crop a single picture by, in pixels of it upright, before shrink="
    )
    boxes: str = option("", "a boxes layer of files' names, in pixels of its shards: give shrink= as they were built")
    detector: str = option("", "a run of fgvc detect, or its weights, that finds the boxes to crop by")
    shrink: Annotated[int, Ge(0)] = option(0, "shrink the short side to so many pixels first, as the shards were built")
    batch: Annotated[int, Gt(0)] = option(8, "pictures at a time")
    device: Literal["", "cpu", "cuda"] = option("", "cpu, cuda (empty: a GPU where there is one)")
    runs_dir: str = option("runs", "folder of all runs")


def main(words: list[str]) -> int:
    """`fgvc predict WORDS`; 0, or 1 when a picture could not be read. Raises UserError for a user's mistake."""
    if {"-h", "--help"} & set(words):
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    config, pictures, run = read(words)
    return int(task_module("predict").run(config, pictures, find_weights(run, config.runs_dir)))


def read(words: list[str]) -> tuple[Config, list[str], str]:
    """The settings, the pictures and the classifier that words name; nothing is opened. Raises UserError as `main`."""
    parser = Parser("fgvc predict", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--run", default="")
    found = parser.parse_intermixed_args(words)
    settings = [word for word in found.words if "=" in word and not Path(word).exists()]
    pictures = [word for word in found.words if word not in settings]
    config = load(Config, None, settings)
    if not found.run or not pictures:
        raise UserError("which pictures, which classifier? fgvc predict PICTURE|FOLDER|- --run RUN; see --help")
    check(config, pictures)
    return config, pictures, found.run


def check(config: Config, pictures: list[str]) -> None:
    """Raise UserError for settings that no picture could make right."""
    if config.method and (config.method in BASELINES or config.method not in METHODS):
        raise UserError(f"method={config.method}: no such method{nearest(config.method, list(METHODS))}")
    if bool(config.box) + bool(config.boxes) + bool(config.detector) > 1:
        raise UserError("box, boxes and detector: three ways to say where the object is; give one")
    if config.box and (len(config.box) != 4 or len(pictures) != 1):
        raise UserError(
            "box: four numbers for one picture, such as 'box=[12, 8, 190, 177]'; of several pictures: boxes="
        )
