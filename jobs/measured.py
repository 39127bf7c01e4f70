"""What commands that measure a trained classifier share: which weights, on which images. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path

from fgvc.use.find import find_weights
from shards.errors import UserError
from shards.options import option
from shards.paths import expand
from shards.reading.config import DataConfig

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # of weights files


@dataclass
class MeasureConfig:
    """A weights file and a split of shards with the same classes."""

    name: str = option("", "the run's folder name (empty: the config file's, or the weights' run and the split)", False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    weights: str = option("", "a run of fgvc classify, its name or folder, or the model.safetensors that it wrote")
    split: str = option("test", "split to measure; held_out: the fold of train that data.folds and data.fold name")
    seen: bool = option(False, "measure images that the weights were trained on too; the result is marked", False)
    data: DataConfig = field(default_factory=DataConfig)


def check_weights(config: MeasureConfig) -> None:
    """Put the weights' file where a run is named. Raises UserError when neither is, and for an unknown run."""
    if not config.weights:
        raise UserError("weights is not set; name a run of fgvc classify, or the model.safetensors that it wrote")
    if Path(config.weights).suffix not in SUFFIXES:  # a file may be still to be made, by a job that comes before
        config.weights = str(find_weights(config.weights, config.runs_dir))


def name_after_weights(config: MeasureConfig, otherwise: str) -> str:
    """The name of a run that was given none, such as cub200_resnet50-test; `otherwise` where no weights are named."""
    weights = expand(config.weights, "weights")
    run = weights.parent.name if weights.stem == "model" else weights.stem
    fold = f"-f{config.data.fold}" if config.split == "held_out" else ""
    return f"{run or otherwise}-{config.split}{fold}"
