"""fgvc export: a trained classifier for programs that do not know fgvc.

    fgvc export RUN FOLDER                                 a run's name, its folder or a model.safetensors
    fgvc export RUN FOLDER formats='[onnx]' licence=cc-by-nc-4.0

FOLDER then holds model.safetensors and config.json as the Hugging Face hub has them (the network that timm makes of
"local-dir:FOLDER" with pretrained=True gives the same logits, bit by bit), model.onnx (one file, normalisation inside,
checked with onnxruntime) and README.md, a model card with the run's results, data, licence and limits. The folder
appears whole or not at all. Nothing is uploaded: hf upload NAME FOLDER does that.
"""

from dataclasses import dataclass
from typing import Literal

from fgvc.use.find import find_weights
from jobs.config import describe, load
from jobs.hints import next_lines
from jobs.registry import task_module
from jobs.words import Parser
from shards.errors import UserError
from shards.options import option


@dataclass
class Config:
    """What is written."""

    formats: list[Literal["timm", "onnx"]] = option(["timm", "onnx"], "timm: the hub's layout | onnx: one file")
    title: str = option("", "the card's title (empty: the run's name)")
    licence: str = option("", "of these weights, as the hub names it, such as cc-by-nc-4.0 (empty: not stated)")
    shards: str = option("", "folder of the shards it was trained on, for the card (empty: as the run names it)")
    runs_dir: str = option("runs", "folder of all runs")


def main(words: list[str]) -> int:
    """`fgvc export WORDS`. Raises UserError for a user's mistake."""
    if {"-h", "--help"} & set(words):
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    config, run, folder = read(words)
    print(task_module("export").run(config, find_weights(run, config.runs_dir), folder))
    print(next_lines("export", run=run))
    return 0


def read(words: list[str]) -> tuple[Config, str, str]:
    """The settings, the run and the folder that words name; nothing is opened. Raises UserError as `main` does."""
    parser = Parser("fgvc export", add_help=False)
    parser.add_argument("words", nargs="*")
    found = parser.parse_intermixed_args(words)
    config = load(Config, None, [word for word in found.words if "=" in word])
    names = [word for word in found.words if "=" not in word]
    if len(names) != 2 or not config.formats:
        raise UserError("expected fgvc export RUN FOLDER [key=value ...]; see fgvc export --help")
    return config, names[0], names[1]
